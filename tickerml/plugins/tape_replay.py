"""Rows in time: the book that they leave behind, and several streams as one."""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from tickerml.kernel import BookSnapshot, BookState, Message, OrderBook

from .tape_rows import Ints, Kind, Rows, messages

_WHOLE = (Kind.SNAPSHOT, Kind.KEYFRAME)
_DOUBT = (Kind.GAP, Kind.CHECKSUM)


def book_of(exchange: str, symbol: str, rows: Rows) -> OrderBook:
    """
    Return the book that *rows*, keyframes included, leave behind.

    It is RESYNCING, with the levels it had, where a gap has come after the last whole book, and
    empty where there was none.
    """
    book = OrderBook(exchange, symbol)
    whole = np.flatnonzero(np.isin(rows["kind"], _WHOLE))
    if not len(whole):
        return book
    # The last message that is a whole book begins behind the last row that ends another message.
    ends = np.flatnonzero(rows["is_last"][: whole[-1]])
    rows = rows[ends[-1] + 1 if len(ends) else 0 :]
    doubts = np.flatnonzero(np.isin(rows["kind"], _DOUBT))
    known = rows[: doubts[0]] if len(doubts) else rows
    last = known[-1]
    bids, asks = (_side(known, side) for side in (1, -1))
    book.apply_snapshot(
        BookSnapshot(
            int(last["ts_recv"]), int(last["ts_event"]), exchange, symbol, int(last["seq"]), bids, asks
        )
    )
    if len(doubts):
        book.state = BookState.RESYNCING
    return book


def _side(rows: Rows, side: int) -> bytes:
    # The last quantity of each price, packed, without the levels that are gone.
    chosen = rows[rows["side"] == side][::-1]
    prices, at = np.unique(chosen["price"], return_index=True)
    quantities = chosen["quantity"][at]
    is_there = quantities != 0
    return np.stack([prices[is_there], quantities[is_there]], axis=1).astype(np.int64).tobytes()


def crossings(exchange: str, symbol: str, rows: Rows) -> int:
    """Return how often the best bid met or passed the best ask, message by message, in whole books."""
    book, count, was_crossed = OrderBook(exchange, symbol), 0, False
    for message in messages(f"book|{exchange}|{symbol}", rows):
        if isinstance(message, BookSnapshot):
            book.apply_snapshot(message)
        elif hasattr(message, "bids"):
            book.apply_delta(message)  # type: ignore[arg-type]
        else:
            book.state, was_crossed = BookState.RESYNCING, False
            continue
        is_crossed = book.state is BookState.VALID and book.is_crossed
        count += is_crossed and not was_crossed
        was_crossed = is_crossed
    return count


def regressions(rows: Rows) -> Ints:
    """
    Return where the seq of a book's change is lower than that of the message before it, as indices of *rows*.

    What follows a gap or begins with a whole book may be anywhere; a seq of 0 is none.
    """
    heads = np.concatenate([[0], np.flatnonzero(rows["is_last"])[:-1] + 1]) if len(rows) else np.empty(0, int)
    seq, kind = rows["seq"][heads], rows["kind"][heads]
    is_low = (seq[1:] < seq[:-1]) & (seq[1:] != 0) & (kind[1:] == Kind.DELTA) & (kind[:-1] == Kind.DELTA)
    found: Ints = heads[1:][is_low]
    return found


# --- Several streams as one -----------------------------------------------------------------------


class Event(NamedTuple):
    """One message of one stream in a replay of several; is_late when others of later times came before it."""

    ts_recv: int
    stream: str
    message: Message
    is_late: bool


def merged(pages: Mapping[str, Iterable[Rows]], lateness_ns: int) -> Iterator[Event]:
    """Yield the messages of each stream's *pages* in the order of their ts_recv; see TapeReader.merged()."""
    streams = [
        _in_order(stream, number, rows, lateness_ns) for number, (stream, rows) in enumerate(pages.items())
    ]
    for _, _, _, event in heapq.merge(*streams, key=lambda each: each[:3]):
        yield event


_Placed = tuple[int, int, int, Event]  # due, number of its stream, number within it


def _in_order(stream: str, number: int, pages: Iterable[Rows], lateness_ns: int) -> Iterator[_Placed]:
    # Holds messages back until the newest time seen, less the lateness, has passed them: the watermark.
    waiting: list[tuple[int, int, Message]] = []
    newest = watermark = -(2**63)
    count = 0
    for rows in pages:
        for message in messages(stream, rows):
            count += 1
            ts = message.ts_recv
            if ts < watermark:
                yield watermark, number, count, Event(ts, stream, message, True)
                continue
            heapq.heappush(waiting, (ts, count, message))
            newest = max(newest, ts)
            while waiting and waiting[0][0] <= newest - lateness_ns:
                watermark, place, due = heapq.heappop(waiting)
                yield watermark, number, place, Event(watermark, stream, due, False)
    for ts, place, due in sorted(waiting, key=lambda each: each[:2]):
        yield ts, number, place, Event(ts, stream, due, False)
