"""
A small deterministic market: one true book, changed by orders drawn from a seed, remembered change by change.

Every change of one level has a number, and the book can be asked for as it stood after any
of them, so that what a client believes can be compared with what was true when it was said.
An update is what an exchange would put into one message: several changes, and the prints of
the orders that took liquidity. The book is crossed only where cross() asked for it.

Prices and quantities are whole numbers of the listing's tick and lot; text() writes them with
the digits of the listing, as exchanges do, trailing zeros included.
"""

from bisect import bisect_left, insort
from collections import deque
from random import Random
from typing import NamedTuple

from tickerml.kernel import to_units

_NEAR = 1 / 6  # limit orders and cancels are this thick at the best price, thinner with the distance
_FAR = 0.25  # how many of them are anywhere
_REMEMBERED = 200_000  # changes; about an hour of a busy symbol
_KEYFRAME = 500  # changes between two whole books that are kept


class Listing(NamedTuple):
    """One symbol of an exchange: names, digits, and where its market begins."""

    symbol: str  # "BTC/USD"
    wire: str  # the exchange's name for it
    price: int  # the first mid, in ticks
    price_decimals: int
    quantity_decimals: int
    tick: int = 1  # in units of the last decimal of a price
    quantity: int = 100_000  # lots of a typical order
    contract: str = ""  # what a quantity of 1 is of the base asset, where contracts are counted


class Change(NamedTuple):
    """One level: its new quantity, 0 when it is gone."""

    seq: int
    is_bid: bool
    price: int
    quantity: int


class Print(NamedTuple):
    """One trade; number counts the trades of the market from 1."""

    number: int
    price: int
    quantity: int
    is_buy: bool  # whether the buyer came and took


class Update(NamedTuple):
    """What happened between two messages of the exchange: changes *first* to *last*, and prints."""

    first: int
    last: int
    changes: list[Change]
    prints: list[Print]

    def merged(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return the last (price, quantity) of each level that changed: bids, asks."""
        sides: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for change in self.changes:
            sides[0 if change.is_bid else 1][change.price] = change.quantity
        return list(sides[0].items()), list(sides[1].items())


Levels = dict[int, int]  # price -> quantity


class _Side:
    # One side of the true book; keys are prices, negated for asks, so that the best is last.

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.keys: list[int] = []
        self.levels: Levels = {}

    @property
    def best(self) -> int:
        return self.sign * self.keys[-1]

    def put(self, price: int, quantity: int) -> None:
        key = self.sign * price
        if quantity:
            if price not in self.levels:
                insort(self.keys, key)
            self.levels[price] = quantity
        elif self.levels.pop(price, 0):
            del self.keys[bisect_left(self.keys, key)]


class Market:
    """One symbol on one exchange; the seed and the listing decide everything it will ever do."""

    def __init__(self, listing: Listing, seed: str, *, levels: int = 120) -> None:
        """
        Args:
            levels: about how many levels each side has; at least 20.
        Raises: ValueError: fewer levels than that.
        """
        if levels < 20:
            raise ValueError(f"a market needs at least 20 levels a side, was {levels}")
        self.listing = listing
        self.seq = 0
        self.trades = 0
        self.last_price = listing.price
        self._rng = Random(f"{seed}/{listing.wire}")
        self._levels = levels
        self._bids, self._asks = _Side(+1), _Side(-1)
        self._log: deque[Change] = deque(maxlen=_REMEMBERED)
        self._keyframes: dict[int, tuple[Levels, Levels]] = {0: ({}, {})}
        self._made: list[Change] = []
        self._crossing: Change | None = None
        self._is_to_cross = False
        for distance in range(levels):
            self._set(True, listing.price - 1 - distance, self._quantity())
            self._set(False, listing.price + 1 + distance, self._quantity())

    # --- What it shows ------------------------------------------------------------------------

    @property
    def best_bid(self) -> tuple[int, int]:
        """The best bid's (price, quantity)."""
        return self._bids.best, self._bids.levels[self._bids.best]

    @property
    def best_ask(self) -> tuple[int, int]:
        """The best ask's (price, quantity)."""
        return self._asks.best, self._asks.levels[self._asks.best]

    def top(self, depth: int, *, is_bid: bool) -> list[tuple[int, int]]:
        """Return up to *depth* (price, quantity) pairs of one side, best first."""
        side = self._bids if is_bid else self._asks
        return [(side.sign * key, side.levels[side.sign * key]) for key in side.keys[: -depth - 1 : -1]]

    def has(self, price: int, *, is_bid: bool) -> bool:
        """Whether there is a level at *price*."""
        return price in (self._bids if is_bid else self._asks).levels

    def book_at(self, seq: int) -> tuple[Levels, Levels]:
        """
        Return the true bids and asks after change *seq*.

        Raises: ValueError: that is in the future, or longer ago than is remembered.
        """
        if seq == self.seq:
            return dict(self._bids.levels), dict(self._asks.levels)
        start = seq - seq % _KEYFRAME
        if not 0 <= seq < self.seq or start not in self._keyframes:
            first = min(self._keyframes)
            raise ValueError(f"{self.listing.wire}: expected a change of {first} to {self.seq}, was {seq}")
        books = self._keyframes[start]
        bids, asks = dict(books[0]), dict(books[1])
        for change in self.changes(start + 1, seq):
            side = bids if change.is_bid else asks
            side[change.price] = change.quantity
            if not change.quantity:
                del side[change.price]
        return bids, asks

    def changes(self, first: int, last: int) -> list[Change]:
        """Return the changes numbered *first* to *last*, as far as they are remembered."""
        begin = self._log[0].seq
        return [self._log[number - begin] for number in range(max(first, begin), min(last, self.seq) + 1)]

    def price_text(self, ticks: int) -> str:
        """Return a price with all the digits of the listing."""
        return text(ticks * self.listing.tick, self.listing.price_decimals)

    def lot_size(self) -> int:
        """Return what one lot is of the base asset, in units of 1e-12."""
        whole = to_units(self.listing.contract or "1")
        return int(whole // 10**self.listing.quantity_decimals)

    def quantity_text(self, lots: int) -> str:
        """Return a quantity with all the digits of the listing."""
        return text(lots, self.listing.quantity_decimals)

    # --- What happens in it -------------------------------------------------------------------

    def update(self, changes: int = 3) -> Update:
        """Let orders come until at least *changes* levels have changed; return what happened."""
        first, prints = self.seq + 1, list[Print]()
        self._made = []
        if self._crossing is not None:
            self._set(True, self._crossing.price, 0)
            self._crossing = None
        while len(self._made) < changes:
            self._order(prints)
        if self._is_to_cross:
            self._is_to_cross = False
            price = self._asks.best
            self._set(True, price, self._quantity())
            self._crossing = self._made[-1]
        return Update(first, self.seq, self._made, prints)

    def cross(self) -> None:
        """Let the next update end with a bid at the best ask, and the one after it take that back."""
        self._is_to_cross = True

    def _order(self, prints: list[Print]) -> None:
        kind, is_bid = self._rng.random(), self._rng.random() < self._buyers()
        side = self._bids if is_bid else self._asks
        if kind < 0.12:
            self._take(is_bid, prints)
        elif kind < 0.62 or len(side.keys) < self._levels * 9 // 10:
            self._rest(side)
        else:
            distance = min(self._distance(), len(side.keys) - 1)
            self._set(is_bid, side.sign * side.keys[-1 - distance], 0)

    def _buyers(self) -> float:
        # The fraction of buyers: the market comes back when it has gone far from where it began.
        away = (self._bids.best + self._asks.best) / 2 / self.listing.price - 1.0
        return 0.5 - max(-0.2, min(0.2, 40.0 * away))

    def _rest(self, side: _Side) -> None:
        spread = self._asks.best - self._bids.best
        if spread > 1 and self._rng.random() < 0.4:
            price = side.best + side.sign * self._rng.randint(1, min(spread - 1, 3))
        else:
            price = side.best - side.sign * self._distance()
        self._set(side.sign > 0, price, self._quantity())
        if len(side.keys) > self._levels:
            self._set(side.sign > 0, side.sign * side.keys[0], 0)

    def _take(self, is_buy: bool, prints: list[Print]) -> None:
        side = self._asks if is_buy else self._bids
        wanted = self._quantity()
        while wanted and len(side.keys) > self._levels // 4:
            price = side.best
            taken = min(wanted, side.levels[price])
            wanted -= taken
            self.trades += 1
            self.last_price = price
            prints.append(Print(self.trades, price, taken, is_buy))
            self._set(not is_buy, price, side.levels[price] - taken)

    def _distance(self) -> int:
        if self._rng.random() < _FAR:
            return self._rng.randint(0, self._levels)
        return int(self._rng.expovariate(_NEAR))

    def _quantity(self) -> int:
        return 1 + int(self._rng.expovariate(1 / self.listing.quantity))

    def _set(self, is_bid: bool, price: int, quantity: int) -> None:
        (self._bids if is_bid else self._asks).put(price, quantity)
        self.seq += 1
        change = Change(self.seq, is_bid, price, quantity)
        self._made.append(change)
        self._log.append(change)
        if self.seq % _KEYFRAME == 0:
            self._keyframes[self.seq] = dict(self._bids.levels), dict(self._asks.levels)
            forgotten = self.seq - _REMEMBERED + _KEYFRAME
            self._keyframes = {seq: kept for seq, kept in self._keyframes.items() if seq >= forgotten}


def text(number: int, decimals: int) -> str:
    """Return *number* units of the last of *decimals* digits as decimal text: text(1050, 2) is "10.50"."""
    if not decimals:
        return str(number)
    whole, rest = divmod(number, 10**decimals)
    return f"{whole}.{rest:0{decimals}}"
