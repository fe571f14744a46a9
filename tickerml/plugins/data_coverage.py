"""What there is on a tape, from when to when, and why there is nothing in between."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookResynced,
    BookStale,
    ChannelLost,
    ChannelResumed,
    ChecksumFailed,
    FeedConnected,
    FeedLost,
    Message,
    SequenceGap,
    codec,
)

from .data_show import format_time
from .tape import TapeReader
from .tape_blocks import Block
from .tape_hot import Tail
from .tape_rows import ROW, Kind, Rows, split_stream

SILENCE_S = 600.0  # the shortest that is told of where no feed has told of it
NOT_RECORDED = "not recorded"
NOTHING_CAME = "silence: nothing came"  # and nobody had a doubt, so it may be so
_SILENT, _ENDED = "silent", "its source had ended"

_DAY_NS = 86_400 * NS_PER_S
_FEW_DAYS = 4
_NOTHING = Tail(np.empty(0, ROW), True)
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


def coverage(tape: TapeReader, silence_s: float = SILENCE_S) -> list[dict[str, Any]]:
    """
    Return for each stream its spans, what of each day is there, and its gaps.

    Args:
        silence_s: how long a stream says nothing, though nothing is known to be wrong, to be told of.
    """
    unsealed = tape.unsealed()
    doubts = joined(tape.doubts(), unsealed.doubts)
    silence_ns, names = int(silence_s * NS_PER_S), sorted({*tape.sealed(), *unsealed.tails})
    return [
        _Stream(tape, name, unsealed.tails.get(name, _NOTHING), silence_ns).report(doubts) for name in names
    ]


def joined(noted: Iterable[Message], passed: Iterable[Message]) -> list[Message]:
    """Return the doubts of a tape's notes and those of a journal, which holds some of them too, by time."""
    found = {codec.encode(doubt): doubt for doubt in (*noted, *passed)}
    return sorted(found.values(), key=lambda doubt: doubt.ts_recv)


class _Stream:
    # One stream of a tape and what is in no block yet; of its rows no more is read than the gaps ask for.

    def __init__(self, tape: TapeReader, stream: str, tail: Tail, silence_ns: int) -> None:
        self._tape = tape
        self._tail = tail
        self._name = stream
        self._silence_ns = silence_ns
        self._kind, self._exchange, self._symbol = split_stream(stream)
        self._blocks = tape.blocks(stream)
        is_bars = self._kind.startswith("bar-")
        self._spans = spans_of_bars(tape.read(stream)) if is_bars else spans_of(self._blocks, tail)

    def report(self, doubts: Iterable[Message]) -> dict[str, Any]:
        spans = self._spans
        return {
            "stream": self._name,
            "rows": sum(block.rows for block in self._blocks) + len(self._tail.rows),
            "unsealed": len(self._tail.rows),
            "first": spans[0].start if spans else 0,
            "last": spans[-1].end if spans else 0,
            "spans": [span._asdict() for span in spans],
            "bytes": sum(block.stored_bytes for block in self._blocks),
            "days": days_of(spans, self._blocks, self._tail.rows),
            "gaps": [gap._asdict() for gap in sorted(self._gaps(doubts))],
        }

    def _gaps(self, doubts: Iterable[Message]) -> list[Gap]:
        spans = self._spans
        gaps = [Gap(before.end, after.start, NOT_RECORDED) for before, after in pairwise(spans)]
        if not spans or self._kind.startswith("bar-"):
            return gaps
        doubtful_ones = doubtful(doubts, self._exchange, self._symbol, self._kind, spans[-1].end)
        gaps += [whole for gap in doubtful_ones if (whole := self._whole(gap))]
        return gaps + [
            each
            for each in self._silences()
            if not any(gap.start < each.end and gap.end > each.start for gap in gaps)
        ]

    def _whole(self, gap: Gap) -> Gap | None:
        # A feed says that a book is silent long before it speaks again, if it does.
        if gap.reason not in (_SILENT, _ENDED):
            return gap
        block = next((block for block in self._blocks if block.last_ts > gap.end), None)
        if block is None:
            rows = self._tail.rows[self._tail.rows["ts_recv"] > gap.end]
        else:
            rows = self._tape.read(self._name, gap.end + 1, block.last_ts + 1)
        heard = rows["ts_recv"][rows["kind"] != Kind.GAP]
        end = int(heard.min()) if len(heard) else gap.end
        if end == gap.start:
            return None  # its source has ended, and the tape with it
        return Gap(gap.start, end, f"{gap.reason} for {(end - gap.start) / NS_PER_S:,.1f} s")

    def _silences(self) -> Iterable[Gap]:
        # Only a block that takes that long can hold one: of those of a busy stream none is read.
        if self._kind == "funding":
            # Every few seconds from a feed, every few hours from a history: what is usual is no silence.
            times = np.unique(self._tape.read(self._name)["ts_recv"])
            usual = np.median(np.diff(times)) if len(times) > 1 else 0
            yield from self._long(times, max(self._silence_ns, int(1.5 * usual)))
            return
        last: Block | None = None
        for block in self._blocks:
            times = np.array([block.first_ts, block.last_ts])
            if block.last_ts - block.first_ts >= self._silence_ns:
                times = self._tape.read(self._name, block.first_ts, block.last_ts + 1)["ts_recv"]
            if last is not None and block.number == last.number + 1:
                times = np.concatenate([[last.last_ts], times])
            yield from self._long(np.sort(times), self._silence_ns)
            last = block
        times = self._tail.rows["ts_recv"]
        if last is not None and self._tail.is_next:
            times = np.concatenate([[last.last_ts], times])
        yield from self._long(np.sort(times), self._silence_ns)

    @staticmethod
    def _long(times: npt.NDArray[np.int64], least_ns: int) -> Iterable[Gap]:
        for at in np.flatnonzero(np.diff(times) >= least_ns).tolist():
            start, end = int(times[at]), int(times[at + 1])
            yield Gap(start, end, NOTHING_CAME)


def spans_of_bars(rows: Rows) -> list[Span]:
    """Return the times that bars follow one another, each from its begin to its end."""
    made = rows[rows["kind"] == Kind.BAR]
    bars = np.unique(np.stack([made["ts_event"], made["ts_recv"]], axis=1), axis=0)
    cuts = np.flatnonzero(bars[1:, 0] > bars[:-1, 1]) + 1
    pieces = np.split(bars, cuts) if len(bars) else []
    return [Span(int(piece[0, 0]), int(piece[-1, 1]), len(piece)) for piece in pieces]


def spans_of(blocks: Iterable[Block], tail: Tail) -> list[Span]:
    """
    Return the times that *blocks* and what is in none yet cover.

    A recorder that began anew counts its blocks from 0 again.
    """
    spans: list[Span] = []
    number = -1
    for block in blocks:
        if spans and block.number == number + 1:
            start, end, rows = spans[-1]
            spans[-1] = Span(start, max(end, block.last_ts), rows + block.rows)
        else:
            spans.append(Span(block.first_ts, block.last_ts, block.rows))
        number = block.number
    if len(tail.rows):
        first, last = int(tail.rows["ts_recv"].min()), int(tail.rows["ts_recv"].max())
        if spans and tail.is_next:
            start, end, rows = spans.pop()
            spans.append(Span(start, max(end, last), rows + len(tail.rows)))
        else:
            spans.append(Span(first, last, len(tail.rows)))
    return spans


def days_of(
    spans: Iterable[Span], blocks: Iterable[Block], unsealed: Rows = _NOTHING.rows
) -> dict[str, dict[str, float]]:
    """
    Return of each day, UTC, the fraction that *spans* cover, its rows and its bytes.

    A block counts where it begins, a row that is in none yet where it is.
    """
    covered: dict[int, int] = {}
    for start, end, _ in spans:
        for day in range(start // _DAY_NS, end // _DAY_NS + 1):
            within = min(end, (day + 1) * _DAY_NS) - max(start, day * _DAY_NS)
            covered[day] = covered.get(day, 0) + within
    rows, stored = Counter[int](), Counter[int]()
    for block in blocks:
        rows[block.first_ts // _DAY_NS] += block.rows
        stored[block.first_ts // _DAY_NS] += block.stored_bytes
    days, counts = np.unique(unsealed["ts_recv"] // _DAY_NS, return_counts=True)
    rows.update(dict(zip(days.tolist(), counts.tolist(), strict=True)))
    return {
        format_time(day * _DAY_NS)[:10]: {
            "covered": round(min(within / _DAY_NS, 1.0), 6),
            "rows": rows[day],
            "bytes": stored[day],
        }
        for day, within in sorted(covered.items())
        if within or rows[day]
    }


def doubtful(doubts: Iterable[Message], exchange: str, symbol: str, kind: str, end: int) -> list[Gap]:
    """
    Return the times in which data of *kind* of *symbol* was in doubt, until *end* where nothing ended them.

    A lost feed is back with its next connection, a book with its next whole one, and a channel that
    was lost alone when it speaks. What is no book has no other gaps of its own.
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
            case ChannelLost() if doubt.channel == kind:
                since = doubt.ts_recv - doubt.silent_ms * NS_PER_MS
                opened.setdefault("channel", (since, f"channel lost: {doubt.reason}"))
            case ChannelResumed() if doubt.channel == kind:
                close("channel", doubt.ts_recv)
            case SequenceGap() if kind == "book":
                reason = f"sequence gap: expected {doubt.expected}, was {doubt.was}"
                opened.setdefault("book", (doubt.ts_recv, reason))
            case ChecksumFailed() if kind == "book":
                opened.setdefault("book", (doubt.ts_recv, "checksum failed"))
            case BookStale() if kind == "book":
                silent, reason = doubt.silent_ms * NS_PER_MS, _SILENT if doubt.silent_ms else _ENDED
                gaps.append(Gap(doubt.ts_recv - silent, doubt.ts_recv, reason))
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


def days_text(days: Mapping[str, Mapping[str, float]]) -> str:
    """Return what days_of() says: each day, or of many how much of them is there."""
    if len(days) <= _FEW_DAYS:
        return ", ".join(f"{day} {part['covered']:.1%}" for day, part in days.items())
    covered = [part["covered"] for part in days.values()]
    whole = sum(part == 1.0 for part in covered)
    return f"{min(days)} to {max(days)}: {len(days):,} days, {whole:,} of them whole"


def _cell(stream: Mapping[str, Any], start: int, end: int) -> str:
    covered = sum(max(min(end, span["end"] + 1) - max(start, span["start"]), 0) for span in stream["spans"])
    is_doubtful = any(
        gap["start"] < end and gap["end"] >= start and gap["reason"] not in (NOT_RECORDED, NOTHING_CAME)
        for gap in stream["gaps"]
    )
    if is_doubtful and covered:
        return _GAP
    return _FULL if covered >= 0.9 * (end - start) else _PART if covered else _NONE
