"""
One KuCoin book kept in step with the exchange, no deeper than it can be vouched for.

An update carries sequenceStart and sequenceEnd, the first and last change it covers; a REST
snapshot carries one sequence:

    updates      [start..end][start..end][start..end][start..end]
    snapshot                 |sequence
                 drop        [joins    ]  then each start is the last end + 1

Updates wait until a snapshot comes. Those it holds (end <= sequence) are dropped, the first
that remains must join it (start <= sequence + 1), and from then on each start must be at most
the last end + 1; one that lies further on is a gap. A change of a number the book already has
is passed over, so that an update which overlaps is read only from where it is new.
Source: KuCoin API, "Level 2 market data", calibration procedure.

The public snapshot holds the best 100 levels of a side, the updates every level. What lies
beyond those 100 is known only where it has changed since, so it is not published at all: the
book ends at the worst price of its snapshot, on each side. The best price moves towards that
end, and when half of the levels are gone a new snapshot is wanted, while the book stays VALID
and its updates are kept to be joined to it.
"""

from collections import deque
from typing import NamedTuple

from tickerml.kernel import BookSnapshot, BookState, Message, levels

from .keeper import Keeper, Pairs

_BUFFERED = 6_000  # updates; a snapshot that comes later than that is asked for again
_ENOUGH = 50  # levels of a side that ends at its snapshot; with fewer a new one is wanted
_NO_CEILING = 2**63


#: One level: ticks, its total lots now, and the number of the change.
Change = tuple[int, int, int]


class LevelUpdate(NamedTuple):
    """One update of the book: the numbers it covers, the exchange's time in ns (0: unknown), the levels."""

    first: int
    last: int
    ts_event: int
    bids: list[Change]
    asks: list[Change]


class KucoinSync(Keeper):
    """One symbol's book in step with the exchange, by the rules at the top; it does no I/O."""

    __slots__ = ("_buffer", "_ceiling", "_floor", "_is_bounded", "_wants_more")

    def __init__(self, exchange: str, symbol: str, *, was_whole: bool = False) -> None:
        """
        Args:
            was_whole: an earlier feed had this book, so its first snapshot is a resync.
        """
        super().__init__(exchange, symbol, was_whole=was_whole)
        self._buffer: deque[LevelUpdate] = deque(maxlen=_BUFFERED)
        self._floor, self._ceiling = 0, _NO_CEILING  # ticks; bids below and asks above are not known
        self._is_bounded = False
        self._wants_more = False

    @property
    def needs_snapshot(self) -> bool:
        """Whether the book waits for a snapshot, or runs out of levels it can vouch for."""
        return self._wants_more or self.book.state is BookState.RESYNCING

    def on_update(self, update: LevelUpdate, ts_recv: int) -> list[Message]:
        """Take one update; return it as a BookDelta when it is next, a gap, or nothing."""
        book = self.book
        if book.state is BookState.RESYNCING:
            self._buffer.append(update)
            return []
        if update.last <= book.seq:
            return []
        if update.first > book.seq + 1:
            messages = self.on_missing(ts_recv, update.first)
            self._buffer.append(update)
            return messages
        if self._wants_more:
            self._buffer.append(update)
        known = book.seq
        bids = [(price, lots) for price, lots, number in update.bids if number > known]
        asks = [(price, lots) for price, lots, number in update.asks if number > known]
        return self.on_next(ts_recv, update.ts_event, update.last, bids, asks)

    def follows(self, first: int) -> bool:
        """Whether an update that begins with *first* may be given to on_next(): nothing is amiss."""
        return first == self.book.seq + 1 and not self._wants_more and self.book.state is BookState.VALID

    def on_next(self, ts_recv: int, ts_event: int, seq: int, bids: Pairs, asks: Pairs) -> list[Message]:
        """As a Keeper's, without the levels that the book cannot vouch for."""
        if not self._is_bounded:
            return Keeper.on_next(self, ts_recv, ts_event, seq, bids, asks)
        floor, ceiling = self._floor, self._ceiling
        if bids:
            bids = [pair for pair in bids if pair[0] >= floor]
        if asks:
            asks = [pair for pair in asks if pair[0] <= ceiling]
        messages = Keeper.on_next(self, ts_recv, ts_event, seq, bids, asks)
        if not self._wants_more:
            self._wants_more = self._is_thin()
        return messages

    def on_rest(self, snapshot: BookSnapshot, depth: int) -> list[Message]:
        """
        Take a REST snapshot of at most *depth* levels a side (0: all there are).

        Return it and the updates that waited for it, BookResynced after a loss. One that cannot
        be joined to the updates that wait is dropped, and another is needed; one that nobody
        waits for is dropped too. Updates that waited get the snapshot's ts_recv: that is when
        they became known.
        """
        if not self.needs_snapshot:
            return []
        waiting = [update for update in self._buffer if update.last > snapshot.seq]
        follows = waiting[0].first <= snapshot.seq + 1 if waiting else self._is_current(snapshot)
        if not follows:
            return []
        self._buffer.clear()
        self._wants_more = False
        self._floor = _worst(snapshot.bids, depth, 0)
        self._ceiling = _worst(snapshot.asks, depth, _NO_CEILING)
        self._is_bounded = self._floor > 0 or self._ceiling < _NO_CEILING
        messages = self._replaced(snapshot)
        for update in waiting:
            messages += self.on_update(update, snapshot.ts_recv)
        return messages + self._resynced(snapshot.ts_recv)

    def on_lost(self) -> None:
        """Forget what waits and wait for a snapshot: the connection is gone, and updates with it."""
        super().on_lost()
        self._buffer.clear()
        self._wants_more = False

    def _is_current(self, snapshot: BookSnapshot) -> bool:
        return self.book.state is BookState.RESYNCING or snapshot.seq >= self.book.seq

    def _is_thin(self) -> bool:
        book = self.book
        return (self._floor > 0 and len(book.bids.keys) < _ENOUGH) or (
            self._ceiling < _NO_CEILING and len(book.asks.keys) < _ENOUGH
        )


def _worst(packed: bytes, depth: int, unbounded: int) -> int:
    # The price at which a side of a snapshot ends, levels from the best outwards; unbounded if it is whole.
    prices = [price for price, _ in levels(packed)]
    return prices[-1] if depth and len(prices) >= depth else unbounded
