"""
Which books an arbitrage monitor holds against one another, and its first look at each pair.

A pair is a purchase on one exchange and a sale on another, with the book between their quotes where
they differ: of several, the one where the money is, on the exchange of the sale, else of the purchase.
"""

from collections.abc import Iterable

import msgspec

from tickerml.kernel import NS_PER_S, PPM, UNIT, Instrument, OrderBook

from .arbitrage_walk import PPB, Match

DEPTH = 50  # levels walked, and remembered of a book while orders would be on their way to it
FORGETTING = 64  # seconds over which squared returns are averaged

Name = tuple[str, str, str, str]  # exchange and symbol of the purchase and of the sale


class Copy(msgspec.Struct, array_like=True):
    """Both sides of a book as they were, best first; empty where it was not to be trusted."""

    bids: list[tuple[int, int]] = []
    asks: list[tuple[int, int]] = []


class Arrival(msgspec.Struct, array_like=True):
    """An order that could have been: when it reaches its market, ns, and which leg of what it is."""

    at: int
    opportunity: str
    leg: int


class Market(msgspec.Struct):
    """
    A book, its best prices when last looked at, and what is on its way to it.

    near counts the pairs that the first look lets through; variance is of the returns of a second, in
    1e-18; clock is the exchange's, ns, kept while there are arrivals.
    """

    instrument: Instrument
    book: OrderBook
    bid: int = 0
    ask: int = 0
    near: int = 0
    mid2: int = 0
    sample_ts: int = 0
    variance: int = 0
    clock: int = 0
    copy: Copy = msgspec.field(default_factory=Copy)
    arrivals: list[Arrival] = []
    pairs: list["Pair"] = []

    @property
    def title(self) -> str:
        """How people are told of it."""
        return f"{self.instrument.symbol} on {self.instrument.exchange}"

    def sample(self, now: int) -> None:
        """Take in the return of the last second; of a longer one, the mean of its seconds."""
        mid2 = self.book.mid2
        if mid2 and self.mid2:
            seconds = max(1, (now - self.sample_ts) // NS_PER_S + 1)
            move = (mid2 - self.mid2) * PPB // self.mid2
            self.variance += (move * move // seconds - self.variance) // FORGETTING
        self.mid2, self.sample_ts = mid2, now + NS_PER_S


class Pair(msgspec.Struct):
    """
    A purchase here, a sale there, and the book between their quotes where they differ.

    The factors turn a best price into what a unit costs and brings, theta included; haircut_ms is
    the sum of both latencies.
    """

    buy: Market
    sell: Market
    fx: Market | None
    is_fx_bought: bool  # the purchase's quote is the base of fx
    ask_factor: int
    bid_factor: int
    haircut_ms: int
    is_near: bool = False

    @property
    def name(self) -> Name:
        """What tells it from the others."""
        bought, sold = self.buy.instrument, self.sell.instrument
        return bought.exchange, bought.symbol, sold.exchange, sold.symbol

    @property
    def markets(self) -> list[Market]:
        """Of the purchase, of the sale, and between the quotes where there is one."""
        return [self.buy, self.sell] if self.fx is None else [self.buy, self.sell, self.fx]

    def is_promising(self) -> bool:
        """Whether the best prices leave anything: both fees and the least theta, and nothing else."""
        fx = self.fx
        cost, value = self.buy.ask * self.ask_factor, self.sell.bid * self.bid_factor
        if fx is not None:
            if self.is_fx_bought:
                cost, value = cost * fx.ask * fx.instrument.tick_size, value * UNIT
            else:
                cost, value = cost * UNIT, value * fx.bid * fx.instrument.tick_size
        return value > cost > 0

    def allows(self, match: Match, quantity: int) -> bool:
        """Whether both exchanges take orders as small as *quantity*, in units of 1e-12 of the base."""
        legs = ((self.buy.instrument, match.buy_price), (self.sell.instrument, match.sell_price))
        for instrument, price in legs:
            lots = quantity // instrument.lot_size
            if lots < max(instrument.min_quantity, 1):
                return False
            if instrument.notional(price, lots) < instrument.min_notional:
                return False
        return True


def make_pair(buy: Market, sell: Market, spots: Iterable[Market], theta: int, haircut_ms: int) -> Pair | None:
    """
    Return the pair of a purchase and a sale; None where they are not of one asset on two exchanges.

    Args:
        theta: the least that a unit must leave, in 1e-9 of its price.
    """
    bought, sold = buy.instrument, sell.instrument
    if bought.base != sold.base or bought.exchange == sold.exchange:
        return None
    fx = _between(bought, sold, spots) if bought.quote != sold.quote else None
    if fx is None and bought.quote != sold.quote:
        return None
    return Pair(
        buy,
        sell,
        fx,
        fx is not None and fx.instrument.base == bought.quote,
        # A unit that leaves theta of the mid leaves theta of the ask, so no good one is refused.
        bought.tick_size * ((PPM + bought.taker_fee_ppm) * PPB + theta * PPM),
        sold.tick_size * (PPM - sold.taker_fee_ppm) * PPB,
        haircut_ms,
    )


def _between(bought: Instrument, sold: Instrument, spots: Iterable[Market]) -> Market | None:
    quotes, near = {bought.quote, sold.quote}, (sold.exchange, bought.exchange)
    named = [each for each in spots if {each.instrument.base, each.instrument.quote} == quotes]
    here = {each.instrument.exchange: each for each in reversed(named)}
    return next((here[exchange] for exchange in near if exchange in here), named[0] if named else None)


def copy_of(book: OrderBook) -> Copy:
    """Return both sides of *book* as they are."""
    return Copy(book.bids.top(DEPTH), book.asks.top(DEPTH)) if book.is_trusted else Copy()
