"""
Round trips: what a strategy made of a symbol, from flat to flat.

The net result of a trip is what its sells brought less what its buys and all fees cost, in the
quote asset; its return is that over what getting in cost. A fee that is taken out of what was
bought makes the position smaller, as it does in the account.
"""

import msgspec

from tickerml.kernel import Instrument, OrderFilled, PositionLiquidated, Side

Key = tuple[str, str, str, str]  # account, strategy, exchange, symbol


class Trip(msgspec.Struct, array_like=True):
    """A position that is not yet flat again."""

    lots: int = 0  # negative where short
    net: int = 0  # units of quote, so far
    cost: int = 0  # notional of what opened it, units of quote


class Ended(msgspec.Struct, frozen=True):
    """A trip that is over: its net result and what getting in cost, units of quote."""

    key: Key
    net: int
    cost: int

    @property
    def result(self) -> float:
        """The net return, a fraction of the cost."""
        return self.net / self.cost if self.cost else 0.0


class Trips(msgspec.Struct, array_like=True):
    """The trips of every strategy: a part of its owner's state."""

    open: dict[Key, Trip] = {}

    def fill(self, fill: OrderFilled, instrument: Instrument) -> Ended | None:
        """Add *fill*; returns the trip that it ends."""
        key = (fill.account, fill.strategy, fill.exchange, fill.symbol)
        trip = self.open.setdefault(key, Trip())
        closing = min(fill.quantity, max(0, -fill.side * trip.lots))
        fee = fill.fee if fill.fee_asset == instrument.quote else 0
        share = fee * closing // fill.quantity
        self._trade(trip, fill.side, instrument, fill.price, closing, share)
        ended = Ended(key, trip.net, trip.cost) if closing and not trip.lots else None
        if ended:
            trip = self.open[key] = Trip()
        opening = fill.quantity - closing
        if opening:
            trip.cost += instrument.notional(fill.price, opening)
            self._trade(trip, fill.side, instrument, fill.price, opening, fee - share)
            if fill.fee_asset == instrument.base and not instrument.contract:
                trip.lots -= -(-fill.fee // instrument.lot_size)
        if not trip.lots:
            del self.open[key]
        return ended

    def liquidate(self, gone: PositionLiquidated, instrument: Instrument) -> list[Ended]:
        """Return the trips that the exchange has ended, each with its share of the fee."""
        place = (gone.account, gone.exchange, gone.symbol)
        keys = sorted(key for key in self.open if (key[0], key[2], key[3]) == place)
        ended = []
        for key in keys:
            trip = self.open.pop(key)
            lots, side = abs(trip.lots), Side.SELL if trip.lots > 0 else Side.BUY
            fee = gone.fee * lots // max(lots, abs(gone.quantity))
            self._trade(trip, side, instrument, gone.price, lots, fee)
            ended.append(Ended(key, trip.net, trip.cost))
        return ended

    @staticmethod
    def _trade(trip: Trip, side: Side, instrument: Instrument, price: int, lots: int, fee: int) -> None:
        trip.lots += side * lots
        trip.net -= side * instrument.notional(price, lots) + fee
