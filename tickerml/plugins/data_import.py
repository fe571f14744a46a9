"""
Recorded history into a tape: captures, bars, and hftbacktest's events, told apart by their content.

Captures and funding rates go through their exchange plugins and the recorder, as they would live,
and so does what hftbacktest recorded from its events on. Everything goes into a tape of its own first, and
from there, whole or not at all, into the one that was named. What that tape has already is left
as it is; what reaches into the time of other data of the same stream is refused.
"""

import filecmp
import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from tickerml.kernel import (
    CaptureError,
    ConfigError,
    FeedEnded,
    FeedSummarized,
    Message,
    PluginError,
    StreamCount,
    catalog,
    config,
)
from tickerml.kernel.backtest import Backtest, build, load_plugins

from .data_npz import event_messages, read_events
from .data_ohlcv import PARQUET_MAGIC, header_line, read_history
from .data_show import Update, format_time
from .tape import FILE, Sealing, TapeReader, TapeWriter
from .tape_blocks import COUNTS, pack_note, pack_scale
from .tape_rows import stream_name
from .tape_tables import rows_of_bars

CAPTURE, BARS, EVENTS, FUNDING = "capture", "bars", "hftbacktest", "funding"

_SOURCE, _FUNDING, _STORE = "exchange-capture", "exchange-funding-csv", "recorder"
_FUNDING_HEADER = b"Symbol,Date,Funding Rate"
_STAGING = ".import-"
_HEAD_BYTES = 4096
_BLOCK_BARS = 4096
_EVERY = 500  # inputs between two looks at the progress
_KERNEL = config.KernelSettings(clock="data", speed="max")


class Settings(NamedTuple):
    """How to import."""

    exchange: str = ""  # of what does not say where it is from
    symbol: str = ""
    quotes: bool = True
    block_rows: int = 16_384
    utc_offset_h: float | None = None  # of the clock of funding rates, which do not say it
    map_mb: int = 16_384


class Imported(NamedTuple):
    """What an import has brought."""

    kinds: dict[str, int]  # files of each kind
    streams: int
    blocks: int
    rows: int
    new_blocks: int


def recognise(path: Path) -> str:
    """
    Return what *path* holds: EVENTS, FUNDING, BARS, or else CAPTURE, which its own reader checks.

    Raises: ConfigError: it cannot be read, or is empty.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path) as unpacked:
                head = unpacked.read(_HEAD_BYTES)
    except (OSError, EOFError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', '') or error}") from None
    if not head:
        raise ConfigError(f"{path}: expected recorded data, was an empty file")
    if head.startswith(b"PK"):
        return EVENTS
    if head.startswith(_FUNDING_HEADER):
        return FUNDING
    is_table = (
        head.startswith(PARQUET_MAGIC) or header_line(head.decode(errors="replace").splitlines()) is not None
    )
    return BARS if is_table else CAPTURE


def import_files(files: Sequence[Path], directory: Path, settings: Settings, update: Update) -> Imported:
    """
    Import *files* into the tape in *directory*, which is made where it is missing.

    Raises: ConfigError: a file that cannot be read to its end, or reaches into what is there already.
        StoreError: the tape cannot be written.
    """
    kinds: dict[str, list[Path]] = {}
    for path in files:
        kinds.setdefault(recognise(path), []).append(path)
    _refuse_twice(files)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        staging = _staging(directory)
    except OSError as error:
        raise ConfigError(f"--tape {directory}: cannot make it: {error.strerror}") from None
    try:
        if captures := kinds.get(CAPTURE):
            options: dict[str, Any] = {"files": [str(path) for path in captures]}
            named = {"exchange": settings.exchange} if settings.exchange else {}
            _play(_plan(staging, settings, {_SOURCE: {**options, **named}}), staging, update)
        if histories := kinds.get(FUNDING):
            described = [_funding_file(path, settings) for path in histories]
            _play(_plan(staging, settings, {_FUNDING: {"files": described}}), staging, update)
        for path in kinds.get(EVENTS, ()):
            _import_events(path, staging, settings, update)
        for path in kinds.get(BARS, ()):
            _import_bars(path, staging, settings)
        found = _adopt(staging / FILE, directory / FILE, settings.map_mb, update)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Imported({kind: len(paths) for kind, paths in kinds.items()}, *found)


def _refuse_twice(files: Sequence[Path]) -> None:
    # A recording that is told twice over has each trade twice, and nothing on the tape would show it.
    for first, second in combinations(files, 2):
        if filecmp.cmp(first, second, shallow=False):
            raise ConfigError(f"{second}: expected another file than {first}, was the same; name one of them")


def _staging(directory: Path) -> Path:
    # Named by the process, so that what one that was killed has left is known, and goes.
    for left in directory.glob(f"{_STAGING}*"):
        if not Path("/proc", left.name.removeprefix(_STAGING).split("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_STAGING}{os.getpid()}-", dir=directory))


# --- Into a tape of its own -----------------------------------------------------------------------


def _plan(staging: Path, settings: Settings, sources: dict[str, dict[str, Any]]) -> config.Plan:
    recorder = {
        "path": str(staging / FILE),
        "quotes": settings.quotes,
        "block_rows": settings.block_rows,
        "map_mb": settings.map_mb,
    }
    options = {**sources, _STORE: recorder}
    entries = {plugin: config.PluginEntry(host=plugin) for plugin in options}
    profile = config.Profile(plugins=list(options), kernel=_KERNEL, options=options)
    made = config.Config(path=staging / "plugins.toml", profiles={"import": profile}, plugins=entries)
    plan = config.plan(made, "import", catalog=catalog.find())
    for plugin in plan.plugins:
        if plugin.blocked:
            raise ConfigError(f"cannot import: {plugin.id}: {plugin.blocked}")
    return plan


def _play(plan: config.Plan, staging: Path, update: Update) -> None:
    try:
        test = Backtest(plan, data_dir=staging)
        for count, ts in enumerate(test.run(), 1):
            if count % _EVERY == 0:
                update(f"{count:,} lines, {format_time(ts)}")
    except (CaptureError, PluginError) as error:
        raise ConfigError(f"nothing was imported: {error}") from None
    if failed := [f"{plugin}: {text}" for plugin, text in test.summary.failed.items()]:
        raise ConfigError(f"nothing was imported: {failed[0]}")


def _funding_file(path: Path, settings: Settings) -> dict[str, Any]:
    if not settings.exchange or settings.utc_offset_h is None:
        raise ConfigError(
            f"{path}: funding rates say neither where they are from nor by what clock; "
            "say it with --exchange binanceusdm --utc-offset 3"
        )
    with path.open(encoding="utf-8", errors="replace") as file:
        named = file.read(_HEAD_BYTES).splitlines()[1:2] or [""]
    symbol = settings.symbol or named[0].split(",")[0].replace("-", "/") + "-PERP"
    offset = settings.utc_offset_h
    return {"path": str(path), "exchange": settings.exchange, "symbol": symbol, "utc_offset_h": offset}


def _import_events(path: Path, staging: Path, settings: Settings, update: Update) -> None:
    exchange, symbol = _named(path, settings)
    plan = _plan(staging, settings, {})
    failures: list[str] = []
    bus = build(
        plan, load_plugins(plan), lambda plugin, n, cause, message: failures.append(str(message)), staging
    )
    events = read_events(path)
    count = ts = 0
    for ts, messages in event_messages(events, exchange, symbol):
        count += len(messages)
        for message in messages:
            bus.deliver(message, count)
        if count % _EVERY == 0:
            update(f"{count:,} messages, {format_time(ts)}")
    ended: list[Message] = [_summary(ts, exchange, symbol, count), FeedEnded(ts, _SOURCE, count, 0)]
    for message in ended:
        bus.deliver(message, count + 1)
    if failures:
        raise ConfigError(f"{path}: nothing was imported: {failures[0]}")


def _named(path: Path, settings: Settings) -> tuple[str, str]:
    if not settings.exchange or "/" not in settings.symbol:
        raise ConfigError(
            f"{path}: nothing in it says what it is of; say it with --exchange binance --symbol BTC/USDT"
        )
    return settings.exchange, settings.symbol


def _summary(ts: int, exchange: str, symbol: str, count: int) -> FeedSummarized:
    streams = {symbol: StreamCount(count, count, 0, 0, 0, 0, 0)}
    return FeedSummarized(ts, exchange, count, 0, 0, 0, streams=streams)


def _import_bars(path: Path, staging: Path, settings: Settings) -> None:
    if not settings.exchange:
        raise ConfigError(
            f"{path}: bars do not say which exchange they are of; say it with --exchange coinbase"
        )
    history = read_history(path, settings.exchange, settings.symbol)
    instrument, bars = history.instrument, history.bars
    stream = stream_name(f"bar-{history.seconds}", instrument.exchange, instrument.symbol)
    blocks = [
        Sealing(stream, number, rows_of_bars(bars[start : start + _BLOCK_BARS], history.seconds))
        for number, start in enumerate(range(0, len(bars), _BLOCK_BARS))
    ]
    last = int(bars["ts"][-1])
    summary = _summary(last, instrument.exchange, instrument.symbol, history.lines)
    notes = [
        pack_scale(stream, instrument),
        # Of the bars alone: others of this exchange may begin at the same time.
        pack_note(COUNTS, summary, instrument.ts_recv, zlib.crc32(stream.encode())),
    ]
    TapeWriter(staging / FILE, settings.map_mb).seal_all(blocks, notes)


# --- Into the tape --------------------------------------------------------------------------------


def _adopt(source: Path, target: Path, map_mb: int, update: Update) -> tuple[int, int, int, int]:
    """Copy the tape *source* into *target*; return its streams, blocks and rows, and the new blocks."""
    staged = TapeReader(source)
    there = TapeReader(target) if target.exists() else None
    streams = staged.streams()
    for stream in streams:
        if there:
            _check_free(staged, there, stream)
    writer = TapeWriter(target, map_mb)
    blocks = rows = new = 0
    for number, stream in enumerate(streams):
        update(f"sealing {stream}", (number + 1) / len(streams))
        known = {(block.first_ts, block.number) for block in there.blocks(stream)} if there else set()
        sealings = [Sealing(stream, block.number, part) for block, part in staged.parts(stream)]
        writer.seal_all(sealings)
        blocks += len(sealings)
        rows += sum(len(sealing.rows) for sealing in sealings)
        new += sum((int(each.rows["ts_recv"].min()), each.number) not in known for each in sealings)
    writer.seal_all([], staged.raw_notes())
    return len(streams), blocks, rows, new


def _check_free(staged: TapeReader, there: TapeReader, stream: str) -> None:
    present = there.blocks(stream)
    same = {(block.first_ts, block.last_ts, block.number, block.rows) for block in present}
    for block in staged.blocks(stream):
        if (block.first_ts, block.last_ts, block.number, block.rows) in same:
            continue
        for other in present:
            if block.first_ts <= other.last_ts and other.first_ts <= block.last_ts:
                raise ConfigError(
                    f"nothing was imported: {stream} from {format_time(block.first_ts)} to "
                    f"{format_time(block.last_ts)} reaches into what {there.path} has from "
                    f"{format_time(other.first_ts)} to {format_time(other.last_ts)}; "
                    "import it into another tape"
                )
