"""
One Binance spot book kept in step with the exchange.

A depth update carries U and u, the first and last
update it covers, and absolute quantities; a REST snapshot carries lastUpdateId:

    updates      [U..u][U..u][U..u][U..u][U..u]
    snapshot               |lastUpdateId
                 drop  drop [straddles ]  then each U is the last u + 1

Updates wait until a snapshot comes. Those it already holds (u <= lastUpdateId) are
dropped, the first that remains must straddle it (U <= lastUpdateId + 1 <= u), and
from then on each U must be the last u plus 1. Anything else is a gap: it is said,
the book is no longer believed, and a new snapshot is wanted.
Source: Binance spot API, "How to manage a local order book correctly".
"""

from collections import deque
from typing import NamedTuple

import msgspec

from tickerml.kernel import (
    BookCrossed,
    BookDelta,
    BookResynced,
    BookSnapshot,
    BookState,
    Message,
    OrderBook,
    SequenceGap,
)

# Ten minutes of 100 ms updates. What is older than that would need a snapshot older still.
_BUFFERED = 6_000


class DepthUpdate(NamedTuple):
    """A BookDelta and the first update number (U) it covers; its seq is the last (u)."""

    first: int
    delta: BookDelta


class DepthSync:
    """
    One symbol's book in step with the exchange, by the rules at the top; it does no I/O.

    It takes what arrived and returns what to publish. Whoever drives it asks for a
    REST snapshot while needs_snapshot is true.
    """

    __slots__ = ("_buffer", "_is_resync", "_snapshot_seq", "_was_crossed", "book")

    def __init__(self, exchange: str, symbol: str, *, was_whole: bool = False) -> None:
        """
        Args:
            was_whole: an earlier feed had this book, so its first snapshot is a resync.
        """
        self.book = OrderBook(exchange, symbol)
        self._buffer: deque[DepthUpdate] = deque(maxlen=_BUFFERED)
        self._snapshot_seq = -1  # of the snapshot the book stands on
        self._is_resync = was_whole
        self._was_crossed = False

    @property
    def needs_snapshot(self) -> bool:
        """Whether the book waits for a snapshot."""
        return self.book.state is BookState.RESYNCING

    def on_depth(self, update: DepthUpdate) -> list[Message]:
        """Take one update; return it when it is next, nothing when it waits or is known already, or a gap."""
        book, (first, delta) = self.book, update
        if self.needs_snapshot:
            self._buffer.append(update)
            return []
        is_first = book.seq == self._snapshot_seq
        if first == book.seq + 1 or (is_first and first <= book.seq < delta.seq):
            book.apply_delta(delta)
            return [delta, *self._crossed(delta.ts_recv)]
        if delta.seq <= book.seq and (is_first or delta.seq > self._snapshot_seq):
            return []  # the book holds it already: older than the snapshot, or a duplicate
        messages = self.on_missing(delta.ts_recv, first)
        self._buffer.append(update)
        return messages

    def on_missing(self, ts_recv: int, was: int) -> list[Message]:
        """Say that an update did not come, or is unreadable; *was* is the U that came, 0 if unknown."""
        if self.needs_snapshot:
            return []
        self._is_resync = True
        self.book.state = BookState.RESYNCING
        return [SequenceGap(ts_recv, self.book.exchange, self.book.symbol, self.book.seq + 1, was)]

    def on_snapshot(self, snapshot: BookSnapshot) -> list[Message]:
        """
        Take a REST snapshot; return it and the updates that waited for it, BookResynced after a loss.

        One that cannot be joined to the updates that wait is dropped, and another is
        needed; one that is no newer than a book in step is not needed and dropped too.
        Updates that waited get the snapshot's ts_recv: that is when they became known.
        """
        if not self.needs_snapshot and snapshot.seq <= self.book.seq:
            return []
        waiting = [update for update in self._buffer if update.delta.seq > snapshot.seq]
        if waiting and waiting[0].first > snapshot.seq + 1:
            return []
        self._buffer.clear()
        self.book.apply_snapshot(snapshot)
        self._snapshot_seq = snapshot.seq
        messages: list[Message] = [snapshot, *self._crossed(snapshot.ts_recv)]
        for first, delta in waiting:
            known = msgspec.structs.replace(delta, ts_recv=snapshot.ts_recv)
            messages += self.on_depth(DepthUpdate(first, known))
        if self._is_resync and not self.needs_snapshot:
            self._is_resync = False
            messages.append(BookResynced(snapshot.ts_recv, snapshot.exchange, snapshot.symbol, self.book.seq))
        return messages

    def on_lost(self) -> None:
        """Forget what waits and wait for a snapshot: the connection is gone, and updates with it."""
        self._is_resync = self._is_resync or not self.needs_snapshot
        self._buffer.clear()
        self.book.state = BookState.RESYNCING

    def _crossed(self, ts_recv: int) -> list[Message]:
        book, was_crossed = self.book, self._was_crossed
        self._was_crossed = book.is_crossed
        if was_crossed or not self._was_crossed:
            return []
        return [BookCrossed(ts_recv, book.exchange, book.symbol, book.seq, book.best_bid, book.best_ask)]
