"""
Funding histories from CSV files, whose clock the caller has to state.

    Symbol,Date,Funding Rate
    BTC-USDT,2020-01-01 03:00:00.000,-0.00012359

The files say no time zone, and differ: of the known ones those of gate are in UTC and all others
three hours ahead of it, which a look at the hours of a day shows (00, 08 and 16 in UTC). So there
is no default: a file without its offset is refused. Milliseconds may be given or not; rows that
repeat a time or go back in it are counted and left out, and what is missing stays missing.
"""

import csv
import heapq
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    CaptureError,
    ConfigError,
    Context,
    ExchangeSpec,
    FeedEnded,
    FeedSummarized,
    FundingUpdated,
    Message,
    Options,
    hookimpl,
    to_units,
)

from .feed import Tally

_BACK = "time went back"
_HEADER = ["Symbol", "Date", "Funding Rate"]


class FundingFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: its path, whose rates it holds and of what, and how far its clock is ahead of UTC."""

    path: str
    exchange: str
    symbol: str
    utc_offset_h: Annotated[float, msgspec.Meta(ge=-14, le=14)]


class FundingCsvOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to read."""

    files: Annotated[
        list[FundingFile],
        msgspec.Meta(
            description="Files, each {path, exchange, symbol, utc_offset_h}, merged by time; the offset "
            "says how many hours the clock of a file is ahead of UTC."
        ),
    ] = msgspec.field(default_factory=list)


class CsvRow(NamedTuple):
    """One row: when, ns UTC, and the rate in units of 1e-12; the number of its line."""

    ts_event: int
    rate: int
    line: int


def read_rows(path: Path, utc_offset_h: float) -> Iterator[CsvRow]:
    """
    Yield the rows of a file as they stand in it.

    Raises: CaptureError: the file cannot be read, or is no such file.
    """
    zone = timezone(timedelta(hours=utc_offset_h))
    try:
        with path.open(newline="") as stream:
            lines = csv.reader(stream)
            if (header := next(lines, [])) != _HEADER:
                expected, was = ",".join(_HEADER), ",".join(header)[:80]
                raise CaptureError(f"cannot read {path}: expected the columns {expected}, was {was}")
            for number, fields in enumerate(lines, 2):
                yield _row(path, number, fields, zone)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CaptureError(f"cannot read {path}: {error}; check the path and what it is") from None


def _row(path: Path, number: int, fields: list[str], zone: timezone) -> CsvRow:
    try:
        _, date, rate = fields
        moment = datetime.fromisoformat(date).replace(tzinfo=zone)
        ts_event = round(moment.timestamp() * 1000) * NS_PER_MS
        return CsvRow(ts_event, to_units(rate), number)
    except ValueError as error:
        raise CaptureError(
            f"cannot read {path}: expected a date and a rate at line {number}: {error}"
        ) from None


class _State(msgspec.Struct, frozen=True, array_like=True):
    position: int


class FundingCsv:
    """Plays funding histories, merged by time; see the top of this file."""

    def __init__(self, ctx: Context, options: FundingCsvOptions) -> None:
        """
        Raises: ConfigError: no files.
        """
        if not options.files:
            raise ConfigError("exchange-funding-csv files: expected at least one file, was []; name its path")
        self._ctx = ctx
        self._files = options.files
        self._position = 0
        self._tallies: dict[str, Tally] = {}  # by exchange

    def events(self) -> Iterator[tuple[int, Sequence[Message]]]:
        """
        Yield (ts, [FundingUpdated]) row by row, then once more at the end with what was counted.

        Raises: CaptureError: a file cannot be read; everything before that has been yielded.
        """
        ts, start = 0, self._position
        self._tallies = {}
        for number, funding in enumerate(heapq.merge(*map(self._rows, self._files), key=_due), 1):
            ts = funding.ts_recv
            if number > start:
                self._position = number
                yield ts, [funding]
        tallies = self._tallies.items()
        read, left_out = (sum(getattr(each, what) for _, each in tallies) for what in ("messages", "skipped"))
        ended = FeedEnded(ts, self._ctx.plugin, read, left_out)
        yield ts, [*(tally.summary(ts, exchange) for exchange, tally in tallies), ended]

    def _rows(self, file: FundingFile) -> Iterator[FundingUpdated]:
        last = 0
        tally = self._tallies.setdefault(file.exchange, Tally())
        count = tally.count(file.symbol)
        for ts, rate, line in read_rows(Path(file.path).expanduser(), file.utc_offset_h):
            count.messages += 1
            if ts <= last:
                count.skipped += 1
                tally.reasons[_BACK] = tally.reasons.get(_BACK, 0) + 1
                error = f"{_BACK}: {file.path} at line {line}"
                self._ctx.log.warning("feed.frame_skipped", exchange=file.exchange, error=error)
                continue
            last = ts
            yield FundingUpdated(ts, ts, file.exchange, file.symbol, 0, 0, rate, 0, 0, 0)

    def summarize(self) -> Sequence[Message]:
        """Return nothing: what was read is said at the end."""
        return ()

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(_State(self._position))

    def restore(self, state: bytes) -> None:
        self._position = msgspec.msgpack.decode(state, type=_State).position


def _due(funding: FundingUpdated) -> int:
    return funding.ts_recv


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-funding-csv",
            factory=FundingCsv,
            options=FundingCsvOptions,
            publishes=(FundingUpdated, FeedSummarized, FeedEnded),
            summary="plays funding histories from CSV files whose clock is stated",
        )
    ]
