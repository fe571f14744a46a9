"""What there is on a tape, from when to when, and why there is nothing in between."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookResynced,
    BookStale,
    ChecksumFailed,
    FeedConnected,
    FeedLost,
    Message,
    SequenceGap,
)

from .data_show import format_time
from .tape import TapeReader
from .tape_blocks import Block
from .tape_rows import split_stream

_DAY_NS = 86_400 * NS_PER_S
_FULL, _PART, _NONE, _GAP = "█", "▒", "·", "!"


class Gap(NamedTuple):
    """A time in which a stream was not there, or not to be believed."""

    start: int
    end: int
    reason: str


class Span(NamedTuple):
    """A time that was recorded in one piece."""

    start: int
    end: int
    rows: int


def coverage(tape: TapeReader) -> list[dict[str, Any]]:
    """Return for each stream its spans, what of each day is there, and its gaps."""
    doubts = tape.doubts()
    return [_stream(stream, tape.blocks(stream), doubts) for stream in tape.streams()]


def _stream(stream: str, blocks: Sequence[Block], doubts: Iterable[Message]) -> dict[str, Any]:
    kind, exchange, symbol = split_stream(stream)
    spans = spans_of(blocks)
    gaps = [Gap(before.end, after.start, "not recorded") for before, after in pairwise(spans)]
    if spans:
        gaps += doubtful(doubts, exchange, symbol, kind == "book", spans[-1].end)
    return {
        "stream": stream,
        "rows": sum(span.rows for span in spans),
        "first": spans[0].start if spans else 0,
        "last": spans[-1].end if spans else 0,
        "spans": [span._asdict() for span in spans],
        "bytes": sum(block.stored_bytes for block in blocks),
        "days": days_of(spans, blocks),
        "gaps": [gap._asdict() for gap in sorted(gaps)],
    }


def spans_of(blocks: Iterable[Block]) -> list[Span]:
    """Return the times that *blocks* cover; a recorder that began anew counts its blocks from 0 again."""
    spans: list[Span] = []
    number = -1
    for block in blocks:
        if spans and block.number == number + 1:
            start, end, rows = spans[-1]
            spans[-1] = Span(start, max(end, block.last_ts), rows + block.rows)
        else:
            spans.append(Span(block.first_ts, block.last_ts, block.rows))
        number = block.number
    return spans


def days_of(spans: Iterable[Span], blocks: Iterable[Block]) -> dict[str, dict[str, float]]:
    """Return of each day, UTC, the fraction that *spans* cover, and the rows and bytes of its *blocks*."""
    covered: dict[int, int] = {}
    for start, end, _ in spans:
        for day in range(start // _DAY_NS, end // _DAY_NS + 1):
            within = min(end, (day + 1) * _DAY_NS) - max(start, day * _DAY_NS)
            covered[day] = covered.get(day, 0) + within
    rows, stored = Counter[int](), Counter[int]()
    for block in blocks:
        rows[block.first_ts // _DAY_NS] += block.rows
        stored[block.first_ts // _DAY_NS] += block.stored_bytes
    return {
        format_time(day * _DAY_NS)[:10]: {
            "covered": round(min(within / _DAY_NS, 1.0), 6),
            "rows": rows[day],
            "bytes": stored[day],
        }
        for day, within in sorted(covered.items())
    }


def doubtful(doubts: Iterable[Message], exchange: str, symbol: str, is_book: bool, end: int) -> list[Gap]:
    """
    Return the times in which the data of *symbol* was in doubt, until *end* where nothing ended them.

    A lost feed is back with its next connection, and a book with its next whole one. What is no
    book has no gaps of its own.
    """
    gaps: list[Gap] = []
    opened: dict[str, tuple[int, str]] = {}

    def close(what: str, ts: int) -> None:
        if what in opened:
            gaps.append(Gap(opened[what][0], ts, opened.pop(what)[1]))

    for doubt in doubts:
        if getattr(doubt, "exchange", "") != exchange or getattr(doubt, "symbol", symbol) != symbol:
            continue
        match doubt:
            case FeedLost():
                opened.setdefault("feed", (doubt.ts_recv, f"feed lost: {doubt.reason}"))
            case FeedConnected():
                close("feed", doubt.ts_recv)
            case SequenceGap() if is_book:
                reason = f"sequence gap: expected {doubt.expected}, was {doubt.was}"
                opened.setdefault("book", (doubt.ts_recv, reason))
            case ChecksumFailed() if is_book:
                opened.setdefault("book", (doubt.ts_recv, "checksum failed"))
            case BookStale() if is_book:
                silent = doubt.silent_ms * NS_PER_MS
                gaps.append(Gap(doubt.ts_recv - silent, doubt.ts_recv, f"silent for {doubt.silent_ms} ms"))
            case BookResynced():
                close("book", doubt.ts_recv)
            case _:
                pass
    for what in list(opened):
        close(what, end)
    return gaps


# --- For a person ---------------------------------------------------------------------------------


def picture(streams: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Return a line for each of *streams* on one axis of time, *width* characters wide, and what it means."""
    there = [stream for stream in streams if stream["spans"]]
    if not there:
        return ["the tape is empty"]
    label = max(len(stream["stream"]) for stream in there)
    first, last = min(stream["first"] for stream in there), max(stream["last"] for stream in there)
    cells = max(width - label - 2, 10)
    step = max((last - first) / cells, 1)
    lines = [f"{'':{label}}  {format_time(first)[:19]} to {format_time(last)[:19]} UTC"]
    for stream in there:
        drawn = "".join(
            _cell(stream, first + int(at * step), first + int((at + 1) * step)) for at in range(cells)
        )
        lines.append(f"{stream['stream']:{label}}  {drawn}")
    lines.append(f"{'':{label}}  {_FULL} recorded  {_PART} in part  {_NONE} not  {_GAP} in doubt")
    return lines


def _cell(stream: Mapping[str, Any], start: int, end: int) -> str:
    covered = sum(max(min(end, span["end"] + 1) - max(start, span["start"]), 0) for span in stream["spans"])
    is_doubtful = any(
        gap["start"] < end and gap["end"] >= start and gap["reason"] != "not recorded"
        for gap in stream["gaps"]
    )
    if is_doubtful and covered:
        return _GAP
    return _FULL if covered >= 0.9 * (end - start) else _PART if covered else _NONE
