"""
`tickerml data`: look at a tape, check it, fill it, and take things out of it.

A tape is named with --tape: its file, the directory it lies in, or the directory of a run. In a
run's directory what is not on the tape yet is taken from the journal.

Exit codes: 0 done; 1 something is wrong with the tape, or two differ; 2 wrong usage or input.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tickerml.kernel import (
    NS_PER_MS,
    UNIT,
    ConfigError,
    Grid,
    StoreCorrupt,
    StoreError,
    WallClock,
    hookimpl,
    log,
    runs,
)

from . import data_coverage, data_download, data_events, data_import, data_verify
from .data_show import format_time, parse_time, plural, print_table, progress
from .tape import TapeReader, TapeWriter
from .tape_rows import MAX_TS, MIN_TS, ROW, Kind, Rows, split_stream, stream_name
from .tape_tables import FORMATS, bars_of, write

commands = typer.Typer(
    help="Look at recorded market data, check it, bring it in and take it out.", no_args_is_help=True
)

Tape = Annotated[
    Path | None,
    typer.Option("--tape", help="A tape, its directory, or that of a run.", show_default="the newest run"),
]
Changed = Annotated[Path, typer.Option("--tape", help="A tape, its directory, or that of a run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Stream = Annotated[
    list[str] | None,
    typer.Option("--stream", help="Such as 'book|kraken|BTC/USD'; may be repeated.", show_default="all"),
]
Start = Annotated[str, typer.Option("--from", help="The first time of receipt, UTC.")]
End = Annotated[str, typer.Option("--to", help="The time of receipt to end before, UTC.")]
Exchange = Annotated[str, typer.Option("--exchange", help="Where it is from.")]
Symbol = Annotated[str, typer.Option("--symbol", help="Of what it is: BTC/USDT.")]

_SCALES = ("tick", "lot")
_NO_ROWS = np.empty(0, ROW)
_DAY_NS = 86_400 * 10**9


@contextmanager
def _quiet(as_json: bool) -> Iterator[None]:
    """Keep the log out of the way, and let whatever is wrong with what was named be wrong usage."""
    log.configure(as_json=as_json or None, level=50)
    try:
        yield
    except StoreCorrupt:
        raise
    except (StoreError, ValueError) as error:
        raise ConfigError(str(error)) from None


def _place(given: Path | None) -> Path:
    """Return the tape that was *given*, or the newest run's."""
    home = Path(os.environ.get("TICKERML_HOME", "~/.tickerml")).expanduser()
    found = given or runs.latest(home)
    if found is None:
        raise ConfigError(f"there is no run in {home}; name a tape with --tape")
    return found


def _reader(given: Path | None, *, has_hot: bool = True, reads_all: bool = False) -> TapeReader:
    path = _place(given)
    journal = path / "journal"
    # Whoever reads a few blocks is done before the compiled loops are loaded.
    is_compiled = None if reads_all else False
    return TapeReader(path, journal if has_hot and journal.exists() else None, is_compiled=is_compiled)


def _range(start: str, end: str) -> tuple[int, int]:
    first = parse_time(start, "--from") if start else MIN_TS
    last = parse_time(end, "--to") if end else MAX_TS
    if first >= last:
        raise ConfigError(f"--from {start} --to {end}: expected the first to be before the second, was not")
    return first, last


def _chosen(tape: TapeReader, wanted: list[str] | None) -> list[str]:
    streams = tape.streams()
    if unknown := [name for name in wanted or () if name not in streams]:
        raise ConfigError(f"--stream {unknown[0]}: {tape.path} has {', '.join(streams) or 'no stream'}")
    return wanted or streams


def _print_json(report: Any) -> None:
    print(json.dumps(report))


# --- In -------------------------------------------------------------------------------------------


@commands.command("import")
def import_command(
    files: Annotated[
        list[Path],
        typer.Argument(help="Captures, OHLCV as CSV or Parquet, hftbacktest's npz, funding rates as CSV."),
    ],
    tape: Annotated[Path, typer.Option("--tape", help="The directory of the tape; it is made.")],
    exchange: Exchange = "",
    symbol: Symbol = "",
    quotes: Annotated[bool, typer.Option(help="Also best bids and asks.")] = True,
    block_rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows of a block.")] = 16_384,
    utc_offset: Annotated[
        float | None,
        typer.Option(min=-14, max=14, help="How many hours the clock of funding rates is ahead of UTC."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Bring recorded files onto a tape; what each of them is, its content says.

    Captures go through the same parsers and the same recorder as live data. Nothing is imported
    when anything is wrong. What is there already is left as it is.
    """
    settings = data_import.Settings(exchange, symbol, quotes, block_rows, utc_offset)
    with _quiet(as_json), progress("import", as_json) as update:
        found = data_import.import_files(files, tape, settings, update)
    if as_json:
        return _print_json({"tape": str(tape), **found._asdict()})
    kinds = ", ".join(plural(count, f"{kind} file") for kind, count in found.kinds.items())
    print(
        f"{kinds}: {plural(found.rows, 'row')} of {plural(found.streams, 'stream')} "
        f"in {plural(found.blocks, 'block')}, {found.new_blocks:,} of them new"
    )


@commands.command("download")
def download_command(
    tape: Annotated[Path, typer.Option("--tape", help="The directory of the tape; it is made.")],
    exchange: Annotated[str, typer.Option("--exchange", help="As ccxt names it: kraken.")],
    symbol: Annotated[str, typer.Option("--symbol", help="As ccxt names it: BTC/USD, BTC/USDT:USDT.")],
    what: Annotated[str, typer.Option(help="ohlcv, trades or funding.")] = "ohlcv",
    start: Annotated[str, typer.Option("--from", help="From when on, UTC.")] = "",
    end: Annotated[str, typer.Option("--to", help="Until when, UTC.", show_default="now")] = "",
    timeframe: Annotated[str, typer.Option(help="Of the bars: 1m, 1h, 1d.")] = "1m",
    settings: Annotated[
        str, typer.Option("--config", help="What ccxt's constructor takes besides, as JSON: urls, proxies.")
    ] = "{}",
    as_json: AsJson = False,
) -> None:
    """Fetch an exchange's history through ccxt; goes on where the tape ends, also after an interruption."""
    with _quiet(as_json), progress("download", as_json) as update:
        wanted = data_download.Wanted(
            what,
            symbol,
            timeframe,
            parse_time(start, "--from") if start else 0,
            parse_time(end, "--to") if end else WallClock().now(),
        )
        client = data_download.connect(exchange, settings)
        done = data_download.download(client, exchange, wanted, tape, update)
    if as_json:
        return _print_json({"tape": str(tape), **done._asdict()})
    if not done.records:
        hint = "" if done.since else "; say with --from when to begin"
        return print(f"nothing new from {format_time(done.since)} on{hint}")
    print(f"{plural(done.records, 'record')} from {format_time(done.first)} to {format_time(done.last)}")
    if start and done.first - done.since > _DAY_NS:
        print(f"{exchange} gave nothing between {format_time(done.since)} and the first of them")


# --- Looking --------------------------------------------------------------------------------------


@commands.command("verify")
def verify_command(tape: Tape = None, as_json: AsJson = False) -> None:
    """
    Check every block, hash, sequence and book of a tape; exit 1 when something is wrong.

    Messages, parsed, skipped, gaps, crossed and checksums are what the feeds counted; rows and bytes
    are those on the tape, the recorder's own copies of books not counted as rows.
    """
    with _quiet(as_json), progress("verify", as_json) as update:
        report = data_verify.verify(_reader(tape, has_hot=False, reads_all=True), update)
        report["unsealed"] = sum(len(tail.rows) for tail in _reader(tape).unsealed().tails.values())
    if as_json:
        _print_json(report)
    else:
        print_table(report["streams"], data_verify.COLUMNS)
        for reason, count in sorted(report["skipped"].items()):
            print(f"skipped {count:,}: {reason}")
        if report["unsealed"]:
            print(f"not looked at: {plural(report['unsealed'], 'row')} in no block yet")
        for problem in report["problems"]:
            print(f"WRONG  {problem}")
        print("whole" if report["ok"] else "DAMAGED")
    if not report["ok"]:
        raise typer.Exit(1)


@commands.command("coverage")
def coverage_command(
    tape: Tape = None,
    silence: Annotated[
        float, typer.Option(min=0.001, help="The shortest silence that counts as a gap, s.")
    ] = data_coverage.SILENCE_S,
    as_json: AsJson = False,
) -> None:
    """Show what is there and when, day by day, and every gap with its reason."""
    with _quiet(as_json):
        streams = data_coverage.coverage(_reader(tape), silence)
    if as_json:
        return _print_json({"tape": str(tape), "streams": streams})
    for line in data_coverage.picture(streams, shutil.get_terminal_size((100, 24)).columns):
        print(line)
    for stream in streams:
        rows = plural(stream["rows"], "row")
        unsealed = f", {stream['unsealed']:,} of them in no block yet" if stream["unsealed"] else ""
        print(f"{stream['stream']}: {rows}{unsealed}; {data_coverage.days_text(stream['days'])}")
        for gap in stream["gaps"]:
            seconds = (gap["end"] - gap["start"]) / 1e9
            print(f"  {format_time(gap['start'])} +{seconds:,.3f} s  {gap['reason']}")


@commands.command("inspect")
def inspect_command(
    tape: Tape = None,
    stream: Stream = None,
    at: Annotated[str, typer.Option("--at", help="Show the books as they were then, UTC.")] = "",
    depth: Annotated[int, typer.Option(min=1, help="Levels of a side to show.")] = 10,
    count: Annotated[int, typer.Option("-n", min=0, help="Rows of each stream to show.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what a tape consists of: streams, scales, rows; or a book as it was at an instant."""
    with _quiet(as_json):
        reader = _reader(tape)
        names = _chosen(reader, stream)
        if at:
            return _print_books(reader, names, parse_time(at, "--at"), depth, as_json)
        tails = reader.unsealed().tails
        rows = [_about(reader, name, tails[name].rows if name in tails else _NO_ROWS) for name in names]
        heads = {name: reader.read(name)[:count].tolist() for name in names} if count else {}
    if as_json:
        size = reader.path.stat().st_size
        return _print_json({"tape": str(reader.path), "file_bytes": size, "streams": rows, "rows": heads})
    shown = [row | {scale: f"{row[scale]:.12f}".rstrip("0").rstrip(".") for scale in _SCALES} for row in rows]
    columns = ["stream", "blocks", "rows", "unsealed", "bytes", "bytes_per_row", "first", "last", *_SCALES]
    print_table(shown, [each for each in columns if each != "unsealed" or any(row[each] for row in rows)])
    for name, head in heads.items():
        print(name)
        for row in head:
            print("  ", *row[:-2], Kind(row[-2]).name, row[-1])


def _about(reader: TapeReader, stream: str, unsealed: Rows) -> dict[str, Any]:
    blocks = reader.blocks(stream)
    rows, stored = sum(block.rows for block in blocks), sum(block.stored_bytes for block in blocks)
    times = [block.first_ts for block in blocks] + [block.last_ts for block in blocks]
    times += unsealed["ts_recv"].tolist()
    return {
        "stream": stream,
        "blocks": len(blocks),
        "rows": rows + len(unsealed),
        "unsealed": len(unsealed),
        "bytes": stored,
        "bytes_per_row": round(stored / rows, 2) if rows else 0.0,
        "first": format_time(min(times)) if times else "",
        "last": format_time(max(times)) if times else "",
        **_scale(reader, stream),
    }


def _scale(reader: TapeReader, stream: str) -> dict[str, float]:
    # What a tick and a lot are; 0 where the tape does not say it.
    known = reader.scale(stream)
    return {"tick": known.tick_size / UNIT if known else 0.0, "lot": known.lot_size / UNIT if known else 0.0}


def _print_books(reader: TapeReader, names: list[str], ts: int, depth: int, as_json: bool) -> None:
    places = [(exchange, symbol) for kind, exchange, symbol in map(split_stream, names) if kind == "book"]
    books = [reader.book_at(*place, ts) for place in places]
    if as_json:
        found = [
            {
                "exchange": book.exchange,
                "symbol": book.symbol,
                "state": book.state.name,
                "seq": book.seq,
                **_scale(reader, stream_name("book", book.exchange, book.symbol)),
                "bids": book.bids.top(depth),
                "asks": book.asks.top(depth),
            }
            for book in books
        ]
        return _print_json({"at": ts, "books": found})
    for book in books:
        scale = reader.scale(stream_name("book", book.exchange, book.symbol))
        steps = (scale.tick_size, scale.lot_size) if scale else (UNIT, UNIT)
        prices, sizes = map(Grid, steps)
        print(f"{book.exchange} {book.symbol}  {book.state.name}  seq {book.seq}")
        for bid, ask in zip_longest(book.bids.top(depth), book.asks.top(depth), fillvalue=()):
            left = f"{sizes.text(bid[1])}   {prices.text(bid[0])}" if bid else ""
            right = f"{prices.text(ask[0])}   {sizes.text(ask[1])}" if ask else ""
            print(f"  {left:>32} | {right}")


@commands.command("show")
def show_command(
    tape: Tape = None,
    stream: Stream = None,
    start: Start = "",
    end: End = "",
    count: Annotated[int, typer.Option("-n", min=1, help="Messages to show at most.")] = 20,
    late_ms: Annotated[
        int, typer.Option(min=0, help="How long one that came out of order is waited for, ms.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what came, message by message, all streams as one in the order of receipt."""
    with _quiet(as_json):
        reader = _reader(tape)
        names = _chosen(reader, stream)
        found = list(islice(reader.merged(names, *_range(start, end), late_ms * NS_PER_MS), count))
    if as_json:
        return _print_json({"events": [data_events.plain(event) for event in found]})
    scales = {name: reader.scale(name) for name in names}
    for event in found:
        print(data_events.line_of(event, scales[event.stream]))
    if not found:
        print("nothing came in that time")


@commands.command("diff")
def diff_command(
    first: Annotated[Path, typer.Argument(help="A tape.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
    as_json: AsJson = False,
) -> None:
    """Compare two tapes row by row; exit 1 when they differ."""
    with _quiet(as_json):
        one, other = (_reader(path, reads_all=True) for path in (first, second))
        differences = [
            found
            for name in sorted({*one.streams(), *other.streams()})
            if (found := _difference(one, other, name))
        ]
    if as_json:
        _print_json({"equal": not differences, "differences": differences})
    else:
        for found in differences:
            print(f"{found['stream']}: {found['difference']}")
        print("different" if differences else "equal")
    if differences:
        raise typer.Exit(1)


def _difference(one: TapeReader, other: TapeReader, stream: str) -> dict[str, str] | None:
    left, right = one.read(stream), other.read(stream)
    shared = min(len(left), len(right))
    at = int(np.argmax(left[:shared] != right[:shared])) if shared else 0
    if shared and left[at] != right[at]:
        text = f"row {at} was {left[at].item()} and {right[at].item()}"
    elif len(left) != len(right):
        text = f"{len(left):,} rows and {len(right):,}"
    else:
        return None
    return {"stream": stream, "difference": text}


# --- Out ------------------------------------------------------------------------------------------


@commands.command("export")
def export_command(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="parquet, csv or arrow.")],
    out: Annotated[Path, typer.Option("--out", help="The directory of the files, one a stream.")],
    tape: Tape = None,
    stream: Stream = None,
    start: Start = "",
    end: End = "",
    bars: Annotated[int, typer.Option(min=0, help="Bars of so many seconds instead of trades.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write streams into files of their own: numbers are ticks and lots, in a CSV decimals."""
    if form not in FORMATS:
        raise ConfigError(f"export {form}: expected one of {', '.join(FORMATS)}")
    with _quiet(as_json), progress("export", as_json) as update:
        reader = _reader(tape, reads_all=True)
        names = [name for name in _chosen(reader, stream) if not bars or name.startswith("trade|")]
        limits = _range(start, end)
        if not names:
            what = "trades to make bars of" if bars else "a stream"
            raise ConfigError(f"export: expected {what} on {reader.path}, was none")
        written = {}
        for number, name in enumerate(names):
            update(name, number / len(names))
            path, count = _export(reader, name, form, out, limits, bars)
            written[str(path)] = count
    if as_json:
        return _print_json({"files": written, "codec": reader.codec})
    for file, count in written.items():
        print(f"{file}  {plural(count, 'row')}")


def _export(
    reader: TapeReader, stream: str, form: str, out: Path, limits: tuple[int, int], bars: int
) -> tuple[Path, int]:
    kind, exchange, symbol = split_stream(stream)
    scale = reader.scale(stream)
    name = f"{exchange}-{symbol.replace('/', '-')}-{f'bar-{bars}' if bars else kind}.{form}"
    if bars:
        table = bars_of(reader.read(stream, *limits), bars)
        return out / name, write(form, out / name, f"bar-{bars}|{exchange}|{symbol}", [table], scale)
    return out / name, write(form, out / name, stream, reader.pages(stream, *limits), scale)


@commands.command("prune")
def prune_command(
    tape: Changed,
    keep_days: Annotated[float, typer.Option(min=0, help="Days to keep, back from the newest data.")] = 0,
    max_mb: Annotated[int, typer.Option(min=0, help="The most that the tape may take.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Take the oldest blocks off a tape, as the recorder does with these options."""
    if not keep_days and not max_mb:
        raise ConfigError("prune: say what to keep with --keep-days or --max-mb")
    with _quiet(as_json):
        reader = TapeReader(tape)
        newest = max(
            (block.last_ts for name in reader.streams() for block in reader.blocks(name)[-1:]), default=0
        )
        before = newest - int(keep_days * _DAY_NS) if keep_days else MIN_TS
        pruned = _writer(reader.path).prune(before, max_mb * 2**20)
    report = pruned._asdict()
    if as_json:
        return _print_json(report)
    rows = plural(pruned.rows, "row")
    print(f"pruned {plural(pruned.blocks, 'block')} with {rows}, {pruned.stored_bytes:,} bytes")


def _writer(path: Path) -> TapeWriter:
    # A map that is no smaller than the file, and leaves room for what pruning writes.
    return TapeWriter(path, (path.stat().st_size >> 20) + 64)


@commands.command("compact")
def compact_command(tape: Changed, as_json: AsJson = False) -> None:
    """Write a tape anew without the room that pruning left; it may be in use."""
    with _quiet(as_json):
        path = TapeReader(tape).path
        before = path.stat().st_size
        after = _writer(path).compact()
    if as_json:
        return _print_json({"tape": str(path), "before_bytes": before, "after_bytes": after})
    print(f"{path}: {before:,} bytes before, {after:,} now")


@hookimpl
def tickerml_commands(app: typer.Typer) -> None:
    """Add `tickerml data`."""
    app.add_typer(commands, name="data")
