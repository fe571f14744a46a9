"""
One Binance book kept in step with the exchange.

A depth update carries absolute quantities, u, the last update it covers, and the one
it follows: U - 1 on spot, where U is the first it covers, and pu on futures, where the
numbers are those of all symbols together. A REST snapshot carries lastUpdateId:

    updates      (prior..u](prior..u](prior..u](prior..u]
    snapshot                     |lastUpdateId
                 drop      [straddles]  then each prior is the last u

Updates wait until a snapshot comes. Those it already holds (u <= lastUpdateId) are
dropped, the first that remains must straddle it (prior <= lastUpdateId < u), and
from then on each must follow the one before. Anything else is a gap: it is said,
the book is no longer believed, and a new snapshot is wanted.
Source: Binance spot API and USD-M futures API, "How to manage a local order book
correctly". Of a snapshot that lies between two updates of a futures symbol, where the
latter asks for U <= lastUpdateId, this asks for pu, which is as good: between the two
nothing happened to the symbol.
"""

from collections import deque
from typing import NamedTuple

import msgspec

from tickerml.kernel import BookDelta, BookSnapshot, Message

from .keeper import Keeper

# Ten minutes of 100 ms updates. What is older than that would need a snapshot older still.
_BUFFERED = 6_000


class DepthUpdate(NamedTuple):
    """A BookDelta and the number of the update it follows; its seq is the last it covers (u)."""

    prior: int
    delta: BookDelta


class DepthSync(Keeper):
    """
    One symbol's book in step with the exchange, by the rules at the top; it does no I/O.

    It takes what arrived and returns what to publish. Whoever drives it asks for a
    REST snapshot while needs_snapshot is true.
    """

    __slots__ = ("_buffer", "_snapshot_seq")

    def __init__(self, exchange: str, symbol: str, *, was_whole: bool = False) -> None:
        """
        Args:
            was_whole: an earlier feed had this book, so its first snapshot is a resync.
        """
        super().__init__(exchange, symbol, was_whole=was_whole)
        self._buffer: deque[DepthUpdate] = deque(maxlen=_BUFFERED)
        self._snapshot_seq = -1  # of the snapshot the book stands on

    def on_depth(self, update: DepthUpdate) -> list[Message]:
        """Take one update; return it when it is next, nothing when it waits or is known already, or a gap."""
        book, (prior, delta) = self.book, update
        if self.needs_snapshot:
            self._buffer.append(update)
            return []
        is_first = book.seq == self._snapshot_seq
        if prior == book.seq or (is_first and prior <= book.seq < delta.seq):
            return self._changed(delta)
        if delta.seq <= book.seq and (is_first or delta.seq > self._snapshot_seq):
            return []  # the book holds it already: older than the snapshot, or a duplicate
        messages = self.on_missing(delta.ts_recv, prior + 1)
        self._buffer.append(update)
        return messages

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
        if waiting and waiting[0].prior > snapshot.seq:
            return []
        self._buffer.clear()
        self._snapshot_seq = snapshot.seq
        messages = self._replaced(snapshot)
        for prior, delta in waiting:
            known = msgspec.structs.replace(delta, ts_recv=snapshot.ts_recv)
            messages += self.on_depth(DepthUpdate(prior, known))
        return messages + self._resynced(snapshot.ts_recv)

    def on_lost(self) -> None:
        """Forget what waits and wait for a snapshot: the connection is gone, and updates with it."""
        self._buffer.clear()
        super().on_lost()
