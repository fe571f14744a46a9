"""What every keeper of a book does alike: say a gap once, a crossing once, and that a book is whole again."""

from collections.abc import Sequence
from struct import Struct

from tickerml.kernel import (
    BookCrossed,
    BookDelta,
    BookResynced,
    BookSnapshot,
    BookState,
    Message,
    OrderBook,
    SequenceGap,
    pack_levels,
)

Pairs = Sequence[tuple[int, int]]  # (price, quantity) in ticks and lots

_VALID = BookState.VALID
_pack = Struct("<qq").pack


class Keeper:
    """
    One book and whether to believe it; the rule of what comes next is the exchange's own.

    A BookSync for exchanges that send the snapshot over the socket; others build on it.
    """

    __slots__ = ("_is_resync", "_was_crossed", "book")

    def __init__(self, exchange: str, symbol: str, *, was_whole: bool = False) -> None:
        """
        Args:
            was_whole: an earlier feed had this book, so its first snapshot is a resync.
        """
        self.book = OrderBook(exchange, symbol)
        self._is_resync = was_whole
        self._was_crossed = False

    @property
    def needs_snapshot(self) -> bool:
        """Whether the book waits for a snapshot."""
        return self.book.state is BookState.RESYNCING

    def on_snapshot(self, snapshot: BookSnapshot) -> list[Message]:
        """Replace the book; return the snapshot, and BookResynced after a loss."""
        return self._replaced(snapshot) + self._resynced(snapshot.ts_recv)

    def on_delta(self, delta: BookDelta) -> list[Message]:
        """Take one update: the next is applied, one the book holds is nothing, any other a gap."""
        book = self.book
        if delta.seq == book.seq + 1 and book.state is not BookState.RESYNCING:
            return self._changed(delta)
        if delta.seq <= book.seq or book.state is BookState.RESYNCING:
            return []
        return self.on_missing(delta.ts_recv, delta.seq)

    def on_next(self, ts_recv: int, ts_event: int, seq: int, bids: Pairs, asks: Pairs) -> list[Message]:
        """
        Take the levels of the update that comes next; return it as a BookDelta.

        Only for a book that waits for no snapshot. It saves a delta that is at hand as numbers from
        being packed and unpacked again; each quantity is below 2**63.
        """
        book, packed_bids, packed_asks = self.book, b"", b""
        if bids:
            packed_bids = _pack(*bids[0]) if len(bids) == 1 else pack_levels(bids)
            book.bids.change(bids)
        if asks:
            packed_asks = _pack(*asks[0]) if len(asks) == 1 else pack_levels(asks)
            book.asks.change(asks)
        book.state = _VALID  # a silent book speaks again
        book.seq, book.ts_event, book.ts_recv = seq, ts_event, ts_recv
        delta = BookDelta(ts_recv, ts_event, book.exchange, book.symbol, seq, packed_bids, packed_asks)
        bid, ask = book.bids.keys, book.asks.keys
        if self._was_crossed or (bid and ask and bid[-1] + ask[-1] >= 0):
            return [delta, *self._crossed(ts_recv)]
        return [delta]

    def on_missing(self, ts_recv: int, was: int) -> list[Message]:
        """Say that an update did not come, or is unreadable; *was* is the number that came, 0 if unknown."""
        book = self.book
        if book.state is BookState.RESYNCING:
            return []
        self.on_lost()
        return [SequenceGap(ts_recv, book.exchange, book.symbol, book.seq + 1, was)]

    def on_lost(self) -> None:
        """Wait for a snapshot: the connection is gone, and updates with it."""
        self._is_resync = self._is_resync or not self.needs_snapshot
        self.book.state = BookState.RESYNCING

    def _changed(self, delta: BookDelta) -> list[Message]:
        # *delta*, which comes next, is applied.
        self.book.apply_delta(delta)
        if self._was_crossed or self.book.is_crossed:
            return [delta, *self._crossed(delta.ts_recv)]
        return [delta]

    def _replaced(self, snapshot: BookSnapshot) -> list[Message]:
        self.book.apply_snapshot(snapshot)
        return [snapshot, *self._crossed(snapshot.ts_recv)]

    def _resynced(self, ts_recv: int) -> list[Message]:
        # Said once, when a book that was lost is whole.
        book = self.book
        if not self._is_resync or book.state is BookState.RESYNCING:
            return []
        self._is_resync = False
        return [BookResynced(ts_recv, book.exchange, book.symbol, book.seq)]

    def _crossed(self, ts_recv: int) -> list[Message]:
        book, was_crossed = self.book, self._was_crossed
        self._was_crossed = book.is_crossed
        if was_crossed or not self._was_crossed:
            return []
        return [BookCrossed(ts_recv, book.exchange, book.symbol, book.seq, book.best_bid, book.best_ask)]
