"""
The order book: what a feed has told us of one symbol on one exchange (L2).

Each side keeps its prices in one ascending list of ints, asks negated, so the best
price is always the last element: nearly all changes are near the best, where an
insertion moves almost nothing, and the top k are one slice. The quantities are in
a dict. On the real captures this beats a sorted container several times over.

A book carries a BookState. Whoever acts on one asks is_trusted first: a book that
is stale, resyncing or crossed is evidence of nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

from .messages import BookDelta, BookSnapshot, BookState, Passport, levels, pack_levels


class BookSide:
    """One side of a book; keys are prices, negated for asks, so that the largest is the best."""

    __slots__ = ("_sign", "keys", "quantities")

    def __init__(self, sign: int) -> None:
        """
        Args:
            sign: +1 for bids, -1 for asks.
        """
        self._sign = sign
        self.keys: list[int] = []  # ascending: the best is last
        self.quantities: dict[int, int] = {}  # price -> lots

    def apply(self, packed: bytes) -> None:
        """Set each (price, quantity) of *packed*; a quantity of 0 deletes the level."""
        self.change(levels(packed))

    def change(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Set each (price, quantity) of *pairs*, in ticks and lots; a quantity of 0 deletes the level."""
        sign, keys, quantities = self._sign, self.keys, self.quantities
        for price, quantity in pairs:
            if quantity:
                if price not in quantities:
                    insort(keys, sign * price)
                quantities[price] = quantity
            elif quantities.pop(price, None) is not None:
                key = sign * price
                if keys[-1] == key:
                    keys.pop()
                else:
                    del keys[bisect_left(keys, key)]

    def clear(self) -> None:
        """Forget every level."""
        self.keys.clear()
        self.quantities.clear()

    @property
    def best(self) -> int:
        """The best price in ticks; 0 when the side is empty."""
        return self._sign * self.keys[-1] if self.keys else 0

    def top(self, depth: int) -> list[tuple[int, int]]:
        """Return up to *depth* (price, quantity) pairs, best first."""
        sign, quantities = self._sign, self.quantities
        return [(sign * key, quantities[sign * key]) for key in self.keys[: -depth - 1 : -1]]

    def quantity_within(self, depth: int) -> int:
        """Return the total lots of the best *depth* levels."""
        sign, quantities = self._sign, self.quantities
        return sum(quantities[sign * key] for key in self.keys[: -depth - 1 : -1])


class OrderBook:
    """Both sides of one symbol on one exchange, and whether to believe them."""

    __slots__ = ("asks", "bids", "exchange", "seq", "state", "symbol", "ts_event", "ts_gap", "ts_recv")

    def __init__(self, exchange: str, symbol: str) -> None:
        self.exchange = exchange
        self.symbol = symbol
        self.bids = BookSide(+1)
        self.asks = BookSide(-1)
        self.state = BookState.RESYNCING
        self.seq = 0
        self.ts_event = 0
        self.ts_recv = 0
        self.ts_gap = 0  # when it last missed an update, 0 for never

    def apply_snapshot(self, snapshot: BookSnapshot) -> None:
        """Replace everything; the book becomes VALID."""
        self.bids.clear()
        self.asks.clear()
        self.state = BookState.VALID
        self._apply(snapshot)

    def apply_delta(self, delta: BookDelta) -> None:
        """Change the levels named; a book that waits for a snapshot ignores it."""
        if self.state is BookState.RESYNCING:
            return
        self.state = BookState.VALID  # a silent book speaks again
        self._apply(delta)

    def _apply(self, message: BookSnapshot | BookDelta) -> None:
        if message.bids:
            self.bids.apply(message.bids)
        if message.asks:
            self.asks.apply(message.asks)
        self.seq, self.ts_event, self.ts_recv = message.seq, message.ts_event, message.ts_recv

    @property
    def is_heard_of(self) -> bool:
        """Whether a feed has said anything of it; a book that was only asked for says nothing."""
        return self.state is not BookState.RESYNCING or bool(self.ts_recv or self.ts_gap)

    def distrust(self, ts_recv: int) -> None:
        """Take in that an update is missing: RESYNCING until the next snapshot."""
        self.state = BookState.RESYNCING
        self.ts_gap = ts_recv

    def passport(self, now: int) -> Passport:
        """Return what is known of this book at *now*, ns UTC, for whoever decides by it."""
        return Passport(
            self.state,
            now - self.ts_recv if self.ts_recv else -1,
            now - self.ts_gap if self.ts_gap else -1,
            self.ts_recv - self.ts_event if self.ts_event else 0,
        )

    @property
    def best_bid(self) -> int:
        """Best bid in ticks, 0 when there is none."""
        return self.bids.best

    @property
    def best_ask(self) -> int:
        """Best ask in ticks, 0 when there is none."""
        return self.asks.best

    @property
    def mid2(self) -> int:
        """Twice the mid in ticks (bid + ask, exact in integers); 0 while a side is empty."""
        bid, ask = self.bids.best, self.asks.best
        return bid + ask if bid and ask else 0

    @property
    def is_crossed(self) -> bool:
        """Whether the best bid has met or passed the best ask."""
        bids, asks = self.bids.keys, self.asks.keys  # asks are negated
        return bool(bids and asks) and bids[-1] + asks[-1] >= 0

    @property
    def is_trusted(self) -> bool:
        """Whether one may trade on it: VALID, both sides present, not crossed."""
        return self.state is BookState.VALID and 0 < self.bids.best < self.asks.best

    def snapshot(self, ts_recv: int | None = None) -> BookSnapshot:
        """Return the whole book as a message, levels from the best outwards."""
        return BookSnapshot(
            self.ts_recv if ts_recv is None else ts_recv,
            self.ts_event,
            self.exchange,
            self.symbol,
            self.seq,
            pack_levels(self.bids.top(len(self.bids.keys))),
            pack_levels(self.asks.top(len(self.asks.keys))),
        )
