"""
`tickerml calibrate`: which queue model errs least on an exchange, by orders whose place is known.

    tickerml calibrate CAPTURE... --out calibration.toml     captures that tell single orders (L3)
    tickerml calibrate --out calibration.toml                the synthetic exchanges

What --out is given is TOML for the end of a plugins.toml: the option queue_models of sim-fifo, with the
data and the errors that each model was chosen by. See calibrate_ghosts.py for how.

Exit codes: 0 done; 1 a capture is damaged; 2 wrong usage or input, or too few orders to choose by.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tomlkit
import typer

from tickerml.kernel import (
    NS_PER_S,
    BookDelta,
    BookSnapshot,
    CaptureError,
    ChecksumFailed,
    ConfigError,
    FeedLost,
    Message,
    SequenceGap,
    Side,
    Trade,
    codec,
    convert,
    hookimpl,
    log,
    registry,
)
from tickerml.kernel.clock import DATA_CLOCK_START_NS
from tickerml.kernel.config import parse_override
from tickerml.kernel.localbus import LocalBus

from .calibrate_ghosts import MODELS, GhostMarket, Score
from .calibrate_option import CalibratedQueue
from .data_show import print_table, progress

FEWEST_GHOSTS = 20
FEWEST_FILLED = 20  # for the time of a fill to say anything
CAPTURE, SYNTHETIC = "exchange-capture", "exchange-synthetic"
_DOUBTS = (FeedLost, SequenceGap, ChecksumFailed)


def calibrate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Captures that tell single orders; none is for the synthetic exchanges."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the options go, as TOML.")] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="Stop after so much market time.")] = 10.0,
    every: Annotated[float, typer.Option(min=0.001, help="Seconds from one ghost to the next.")] = 1.0,
    hold: Annotated[float, typer.Option(min=0.001, help="Seconds that a ghost is watched.")] = 60.0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="plugin.option=value of the source, repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure each queue model against where orders truly stood, and choose the best for each exchange."""
    log.configure(level=50)
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no directory {out.parent}; make it first")
    source = open_source(files or [], overrides or [])
    work = Calibration(source, int(every * NS_PER_S), int(hold * NS_PER_S))
    with progress("calibrate", as_json) as update:
        for done in work.run(int(minutes * 60 * NS_PER_S)):
            update(f"{work.messages:,} messages", done)
    chosen = work.choices(", ".join(map(str, files or ())) or SYNTHETIC)
    if out is not None:
        _write(out, as_toml(chosen))
    if as_json:
        return print(json.dumps({"exchanges": chosen_rows(work, chosen), "out": str(out) if out else None}))
    _print(work, chosen)
    if out is not None:
        print(f"{out} written: put it at the end of your plugins.toml")


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}; name another file") from None


def open_source(files: list[Path], overrides: list[str]) -> Any:
    """
    Return the source of a market whose single orders are known.

    Raises: ConfigError: a file that is no capture, or an option that the source does not take.
    """
    plugin = CAPTURE if files else SYNTHETIC
    # Frames without a latency, so that what is told is what the book is.
    said: dict[str, Any] = {"files": [str(path) for path in files]} if files else {"latency_ms": 0.0}
    for text in overrides:
        target, option, value = parse_override(text)
        if target != plugin:
            raise ConfigError(f"--set {text}: the source is {plugin}, so it must be {plugin}.{option}=...")
        if option in said:
            raise ConfigError(
                f"--set {text}: calibrate sets {option} itself, to {said[option]}; leave it out"
            )
        said[option] = value
    spec = registry.load(plugin)
    bus = LocalBus(lambda plugin, n, cause, message: None, started_ns=DATA_CLOCK_START_NS)
    try:
        return bus.add(spec, convert.convert(said, spec.options, f"--set {plugin}"))
    except CaptureError as error:
        raise ConfigError(str(error)) from None


class Calibration:
    """One pass over a source with ghosts in all of its markets."""

    def __init__(self, source: Any, every_ns: int, hold_ns: int) -> None:
        """
        Args:
            source: a Source with orders_at().
            every_ns, hold_ns: as GhostMarket.
        """
        self._source, self._every_ns, self._hold_ns = source, every_ns, hold_ns
        self._markets: dict[tuple[str, str], GhostMarket] = {}
        self._digest = hashlib.sha256()
        self._first = self._last = 0
        self.messages = 0
        self.scores: dict[str, list[Score]] = {}  # by exchange, in the order of MODELS

    def run(self, until_ns: int) -> Iterator[float]:
        """
        Run to the end of the source or for *until_ns* of market time; yield what fraction of it is done.

        Raises: ConfigError: the source does not tell single orders. CaptureError: a file is damaged.
        """
        for number, (ts, messages) in enumerate(self._source.events(), 1):
            self._first = self._first or ts
            if ts - self._first >= until_ns:
                break
            self._last = ts
            self._take(messages)
            if number % 500 == 0:
                yield (ts - self._first) / until_ns
        for market in self._markets.values():
            market.finish()

    def _take(self, messages: list[Message]) -> None:
        touched: dict[tuple[str, str], GhostMarket] = {}
        for message in messages:
            if isinstance(message, BookSnapshot | BookDelta | Trade):
                self.messages += 1
                self._digest.update(codec.encode(message))
                market = touched[message.exchange, message.symbol] = self._market(message)
                if isinstance(message, Trade):
                    market.on_trade(message)
                else:
                    market.on_book(message)
            elif isinstance(message, _DOUBTS):
                self._doubt(message)
        for market in touched.values():
            market.settle(self._source.orders_at)

    def _market(self, message: BookSnapshot | BookDelta | Trade) -> GhostMarket:
        key = message.exchange, message.symbol
        if (market := self._markets.get(key)) is None:
            try:
                self._source.orders_at(*key, Side.BUY, 1)
            except ValueError as error:
                raise ConfigError(f"cannot calibrate: {error}") from None
            scores = self.scores.setdefault(message.exchange, [Score() for _ in MODELS])
            market = self._markets[key] = GhostMarket(*key, scores, self._every_ns, self._hold_ns)
        return market

    def _doubt(self, message: FeedLost | SequenceGap | ChecksumFailed) -> None:
        symbol = getattr(message, "symbol", None)
        for market in self._markets.values():
            if market.exchange == message.exchange and symbol in (None, market.symbol):
                market.on_doubt()

    def choices(self, source: str) -> dict[str, CalibratedQueue]:
        """
        Return the best model of each exchange, and what it was chosen by.

        Args:
            source: where the data is from, in words.
        Raises: ConfigError: too few ghosts to choose by.
        """
        found = {}
        for exchange, scores in sorted(self.scores.items()):
            if (ghosts := scores[0].ghosts) < FEWEST_GHOSTS:
                raise ConfigError(
                    f"cannot choose for {exchange}: at least {FEWEST_GHOSTS} ghost orders are needed, there "
                    f"{'was' if ghosts == 1 else 'were'} {ghosts}; take more data, or a smaller --every"
                )
            best, reason = choose(scores)
            found[exchange] = self._calibrated(MODELS[best], scores[best], reason, source)
        if not found:
            raise ConfigError("cannot calibrate: there was no order book in the data")
        return found

    def _calibrated(self, model: str, score: Score, reason: str, source: str) -> CalibratedQueue:
        digest, day = self._digest.hexdigest(), _moment(self._first)[:10]
        return CalibratedQueue(
            model=model,
            version=f"{day}-{digest[:8]}",
            source=source,
            data_from=_moment(self._first),
            data_until=_moment(self._last),
            data_sha256=digest,
            chosen_by=reason,
            **figures(score),
        )


def choose(scores: list[Score]) -> tuple[int, str]:
    """Return which of MODELS errs least, the stricter of two as good, and in what."""
    by_time = scores[0].filled >= FEWEST_FILLED
    errors: list[float] = [score.off if by_time else score.astray for score in scores]
    if max(errors) == min(errors):
        return 0, "nothing: the strictest, since no model erred less than another"
    return errors.index(min(errors)), "fill time" if by_time else "position"


def figures(score: Score) -> dict[str, Any]:
    """Return what *score* comes to, by the names of CalibratedQueue, rounded to what can be meant."""
    ghosts, places = max(1, score.ghosts) * NS_PER_S, max(1, score.places)
    return {
        "ghosts": score.ghosts,
        "filled": score.filled,
        "filled_by_model": score.filled_by_model,
        "fill_time_error_s": round(score.off / ghosts, 3),
        "fill_time_bias_s": round(score.late / ghosts, 3),
        "position_error": round(score.astray / places, 4),
        "position_bias": round(score.farther / places, 4),
    }


def as_toml(chosen: dict[str, CalibratedQueue]) -> str:
    """Return *chosen* as the option queue_models of sim-fifo, for the end of a plugins.toml."""
    lines = ["# Queue models by exchange, as `tickerml calibrate` measured them. See docs/execution.md."]
    for exchange, queue in chosen.items():
        document = tomlkit.document()
        document.update(msgspec.structs.asdict(queue))
        lines.append(f"[plugin.sim-fifo.options.queue_models.{exchange}]\n{tomlkit.dumps(document)}")
    return "\n".join(lines)


def chosen_rows(work: Calibration, chosen: dict[str, CalibratedQueue]) -> dict[str, Any]:
    """Return for each exchange what was chosen, and the figures of every model."""
    return {
        exchange: {
            "chosen": msgspec.structs.asdict(queue),
            "models": {
                model: figures(score) for model, score in zip(MODELS, work.scores[exchange], strict=True)
            },
        }
        for exchange, queue in chosen.items()
    }


def _print(work: Calibration, chosen: dict[str, CalibratedQueue]) -> None:
    rows = []
    for exchange, queue in chosen.items():
        for model, score in zip(MODELS, work.scores[exchange], strict=True):
            said = figures(score)
            rows.append(
                {
                    "exchange": exchange,
                    "model": model + (" *" if model == queue.model else ""),
                    "ghosts": said["ghosts"],
                    "filled": said["filled"],
                    "by model": said["filled_by_model"],
                    "time error s": said["fill_time_error_s"],
                    "bias s": said["fill_time_bias_s"],
                    "place error %": said["position_error"] * 100,
                    "bias %": said["position_bias"] * 100,
                }
            )
    print_table(rows, list(rows[0]))
    print("a bias below 0 is too early a fill, or a queue thought too short")
    for exchange, queue in chosen.items():
        print(f"{exchange}: {queue.model}, by {queue.chosen_by}")
    one = next(iter(chosen.values()))
    print(f"{one.data_from} to {one.data_until}, {work.messages:,} messages, version {one.version}")


def _moment(ts: int) -> str:
    return datetime.fromtimestamp(ts // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@hookimpl
def tickerml_commands(app: typer.Typer) -> None:
    """Add `tickerml calibrate`."""
    app.command("calibrate")(calibrate)
