"""
Carry: earns the funding of a perpetual with no view on its price.

Where longs pay shorts, it buys the spot and sells as much of the perpetual, so that what one gains the
other loses, and is paid for the waiting. It opens where the funding expected over horizon_s beats what
opening and closing cost: the taker fees of four orders and both spreads, twice half each, and
min_profit_bps on top. What is expected is the contract's own: the rate of the payment that is due next,
then the predicted one, each within cap and floor, as many times as its own interval fits.

It opens nothing in the last avoid_s before a payment, when everybody else does; it closes once what is
expected falls below exit_bps, but takes a payment that is due within avoid_s first. Both legs are traded
as an arbitrage's are (arbitrage_legs.py), and the difference between the two prices is its risk: what
opening and closing come to is in their LegsSettled, without the funding, which the portfolio books.

Where the exchange liquidates the perpetual nothing hedges the spot any longer: it is sold at once, and
nothing is opened there for rest_s.
"""

import math
from collections.abc import Iterable
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    PPM,
    UNIT,
    Context,
    FundingUpdated,
    Instrument,
    LegsSettled,
    OrderBook,
    OrderFilled,
    OrderType,
    PositionLiquidated,
    Side,
    StrategySpec,
    SubmitOrder,
    TimeInForce,
    hookimpl,
    to_units,
)

from .arbitrage_legs import Leg, LegHandlers, LegOptions, LegsState, LegTrader

CARRY = "strategy-carry"
BPS = UNIT // 10_000

_Bps = Annotated[float, msgspec.Meta(ge=-1000, le=1000)]


class CarryOptions(LegOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the hedge is bought, and what funding is worth it."""

    spots: Annotated[
        dict[str, str], msgspec.Meta(description="the exchange of the spot for each exchange of perpetuals")
    ] = msgspec.field(default_factory=lambda: {"kucoinfutures": "kucoin", "krakenfutures": "kraken"})
    notional: Annotated[str, msgspec.Meta(description="size of a position, in the quote asset")] = "500"
    horizon_s: Annotated[
        int, msgspec.Meta(ge=3600, le=30 * 86_400, description="time over which funding is expected, s")
    ] = 3 * 86_400
    min_profit_bps: Annotated[_Bps, msgspec.Meta(description="what must be left after all costs, bps")] = 5.0
    exit_bps: Annotated[
        _Bps, msgspec.Meta(description="closed where the funding expected is below this, bps")
    ] = 0.0
    avoid_s: Annotated[
        int, msgspec.Meta(ge=0, le=3600, description="nothing is opened so shortly before a payment, s")
    ] = 600
    rest_s: Annotated[
        int,
        msgspec.Meta(ge=0, le=30 * 86_400, description="rest after a pair that could not be had whole, s"),
    ] = 3600
    slippage_bps: Annotated[
        float, msgspec.Meta(ge=0, le=1000, description="how far beyond the best price an order may take, bps")
    ] = 5.0


class _Hold(msgspec.Struct, array_like=True):
    # A position, in units of 1e-12 of the base: what is held of the spot, and sold of the perpetual.
    spot: int = 0
    short: int = 0
    pair: str = ""  # under way
    rest_until: int = 0  # ns; nothing is opened before


class _State(msgspec.Struct, array_like=True):
    legs: LegsState
    holds: list[tuple[str, str, _Hold]]
    pairs: int


class CarryStrategy(LegHandlers):
    """Holds spot against a short perpetual for as long as that is paid for."""

    def __init__(self, ctx: Context, options: CarryOptions) -> None:
        """
        Raises: ValueError: notional is not a decimal number.
        """
        self._ctx = ctx
        self._options = options
        self._notional = to_units(options.notional)
        self._legs = LegTrader(ctx, options)
        self._holds: dict[tuple[str, str], _Hold] = {}
        self._pairs = 0

    def on_funding_updated(self, funding: FundingUpdated) -> None:
        perpetual = self._ctx.instrument(funding.exchange, funding.symbol)
        where = self._options.spots.get(funding.exchange)
        if perpetual is None or perpetual.contract != "linear" or where is None:
            return
        spot = self._ctx.instrument(where, f"{perpetual.base}/{perpetual.quote}")
        if spot is None or self._legs.is_halted or not funding.interval_s:
            return
        hold = self._holds.setdefault((funding.exchange, funding.symbol), _Hold())
        books = [self._ctx.book(each.exchange, each.symbol) for each in (spot, perpetual)]
        if hold.pair or not all(book.is_trusted for book in books):
            return
        now = self._ctx.clock.now()
        expected = expected_funding(funding, now, self._options.horizon_s)
        is_soon = funding.next_ts - now < self._options.avoid_s * NS_PER_S
        if hold.short >= perpetual.lot_size:
            if expected < round(self._options.exit_bps * BPS) and not (is_soon and funding.rate > 0):
                self._close(hold, spot, perpetual, f"{expected / BPS:.1f} bps expected")
        elif not is_soon and now >= hold.rest_until:
            cost = _cost(spot, books[0]) + _cost(perpetual, books[1])
            if expected - cost >= round(self._options.min_profit_bps * BPS):
                text = f"{expected / BPS:.1f} bps expected, {cost / BPS:.1f} bps of costs"
                self._open(hold, spot, perpetual, expected - cost, text)

    def _open(self, hold: _Hold, spot: Instrument, perpetual: Instrument, net: int, reason: str) -> None:
        buy, sell = self._price(spot, +1), self._price(perpetual, -1)
        quantity = self._notional * UNIT // (buy * spot.tick_size)
        quantity -= quantity % math.lcm(spot.lot_size, perpetual.lot_size)
        legs = [
            Leg(each.exchange, each.symbol, price, quantity // each.lot_size)
            for each, price in ((spot, buy), (perpetual, sell))
        ]
        if all(leg.quantity for leg in legs):
            self._trade(hold, legs[0], legs[1], self._notional * net // UNIT, reason, is_closing=False)

    def _close(self, hold: _Hold, spot: Instrument, perpetual: Instrument, reason: str) -> None:
        buy = Leg(
            perpetual.exchange, perpetual.symbol, self._price(perpetual, +1), hold.short // perpetual.lot_size
        )
        sell = Leg(spot.exchange, spot.symbol, self._price(spot, -1), hold.spot // spot.lot_size)
        self._trade(hold, buy, sell, 0, reason, is_closing=True)

    def _trade(
        self, hold: _Hold, buy: Leg, sell: Leg, expected: int, reason: str, *, is_closing: bool
    ) -> None:
        self._pairs += 1
        hold.pair = f"{buy.symbol}:{buy.exchange}>{sell.exchange}:{self._pairs}"
        self._legs.trade(hold.pair, buy, sell, expected, reason, is_closing=is_closing)

    def _price(self, instrument: Instrument, sign: int) -> int:
        # The worst price that is taken: *sign* is +1 for a purchase.
        book = self._ctx.book(instrument.exchange, instrument.symbol)
        best = book.best_ask if sign > 0 else book.best_bid
        return best + sign * (best * round(self._options.slippage_bps * 100) // PPM)

    # --- What becomes of it ---------------------------------------------------------------------

    def on_legs_settled(self, settled: LegsSettled) -> None:
        for hold in self._holds.values():
            if settled.strategy == self._ctx.plugin and hold.pair == settled.pair:
                hold.pair = ""
                if settled.outcome not in ("both", "repaired"):
                    hold.rest_until = settled.ts_recv + self._options.rest_s * NS_PER_S

    def on_order_filled(self, fill: OrderFilled) -> None:
        name = self._legs.name_of(fill.order_id)
        for key, hold in self._holds.items():
            if name and hold.pair == name:
                changed = self._legs.quantity_of(fill)
                if key == (fill.exchange, fill.symbol):
                    hold.short -= fill.side * changed
                else:
                    hold.spot += fill.side * changed
        super().on_order_filled(fill)

    def on_position_liquidated(self, gone: PositionLiquidated) -> None:
        hold = self._holds.get((gone.exchange, gone.symbol))
        perpetual = self._ctx.instrument(gone.exchange, gone.symbol)
        if gone.account != self._options.account or hold is None or perpetual is None:
            return
        now = self._ctx.clock.now()
        hold.rest_until = now + self._options.rest_s * NS_PER_S
        hold.short = 0
        where = self._options.spots[gone.exchange]
        spot = self._ctx.instrument(where, f"{perpetual.base}/{perpetual.quote}")
        if spot is None or hold.spot < spot.lot_size or not self._ctx.book(where, spot.symbol).is_trusted:
            return
        head = (now, f"{self._ctx.plugin}-unhedged-{now}", self._ctx.plugin, gone.account)
        terms = (Side.SELL, OrderType.LIMIT, TimeInForce.IOC, self._price(spot, -1))
        reason = f"{gone.symbol} on {gone.exchange} was liquidated"
        lots, hold.spot = hold.spot // spot.lot_size, 0
        self._ctx.publish(SubmitOrder(*head, where, spot.symbol, *terms, lots, True, reason))

    # --- State ----------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        holds = [(exchange, symbol, hold) for (exchange, symbol), hold in self._holds.items()]
        return msgspec.msgpack.encode(_State(self._legs.state(), holds, self._pairs))

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=_State)
        self._legs.restore(saved.legs)
        self._holds = {(exchange, symbol): hold for exchange, symbol, hold in saved.holds}
        self._pairs = saved.pairs


def expected_funding(funding: FundingUpdated, now: int, horizon_s: int) -> int:
    """
    Return what a short is expected to be paid from *now* (ns UTC) on, in 1e-12 of the notional.

    The payment that is due next comes at its rate and every later one at the predicted, where one is
    said, each within the contract's cap and floor, one an interval of the contract.
    """
    left = now + horizon_s * NS_PER_S - funding.next_ts
    if left < 0 or funding.next_ts <= now:
        return 0
    later = left // (funding.interval_s * NS_PER_S)
    return _bounded(funding, funding.rate) + later * _bounded(funding, funding.predicted or funding.rate)


def _bounded(funding: FundingUpdated, rate: int) -> int:
    if funding.cap or funding.floor:
        return max(funding.floor, min(funding.cap, rate))
    return rate


def _cost(instrument: Instrument, book: OrderBook) -> int:
    # Of one market in and out: two taker fees, and the spread, in 1e-12 of the notional.
    spread = 2 * (book.best_ask - book.best_bid) * UNIT // book.mid2
    return 2 * instrument.taker_fee_ppm * (UNIT // PPM) + spread


@hookimpl
def tickerml_strategies() -> Iterable[StrategySpec]:
    """Offer the strategy."""
    return [
        StrategySpec(
            id=CARRY,
            factory=CarryStrategy,
            options=CarryOptions,
            publishes=(SubmitOrder, LegsSettled),
            summary="holds spot against a short perpetual while its funding beats the costs of both",
        )
    ]
