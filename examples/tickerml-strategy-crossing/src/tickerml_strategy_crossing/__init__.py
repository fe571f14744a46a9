"""
Crossing: a strategy that follows two moving averages of the mid.

It buys when the fast average rises above the slow one by more than a band, and sells what it bought
when it falls below. Both are exponential in time, not in messages: an average of 10 s forgets at the
same pace in a silent market and in a busy one. It trades with orders that never wait, one at a time
in each market.

Crossings are the oldest rule there is, and with real fees this one loses. What it is for: to show a
whole plugin that is small enough to read.
"""

import math
from typing import Annotated

import msgspec
from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    BookDelta,
    BookSnapshot,
    Context,
    Options,
    OrderBook,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderType,
    Side,
    StrategySpec,
    SubmitOrder,
    TimeInForce,
    TradingHalted,
    TradingResumed,
    hookimpl,
    to_units,
)


class CrossingOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast the averages are, and how much is bought."""

    symbols: Annotated[tuple[str, ...], msgspec.Meta(description="symbols to trade; empty for all")] = ()
    fast_s: Annotated[float, msgspec.Meta(gt=0, le=86_400, description="time of the fast average, s")] = 2.0
    slow_s: Annotated[float, msgspec.Meta(gt=0, le=86_400, description="time of the slow average, s")] = 10.0
    band_bps: Annotated[
        float,
        msgspec.Meta(ge=0, description="how far apart they must be to count as crossed, bps of the mid"),
    ] = 0.002
    notional: Annotated[str, msgspec.Meta(description="size of a purchase, in the quote asset")] = "100"


class _Market(msgspec.Struct):
    exchange: str
    symbol: str
    ts: int = 0  # of the last update, ns UTC
    fast: float = 0.0  # ticks
    slow: float = 0.0
    held: int = 0  # lots
    order: str = ""  # the id of the open order


class _State(msgspec.Struct):
    orders: int = 0  # sent so far: the number in the next order's id
    is_halted: bool = False
    markets: dict[str, _Market] = {}


class Crossing:
    """Updates the averages with every change of a book, and decides."""

    def __init__(self, ctx: Context, options: CrossingOptions) -> None:
        """
        Raises: ValueError: notional is not a decimal number, or the fast average is not the faster.
        """
        if options.fast_s >= options.slow_s:
            raise ValueError(
                f"fast_s: expected less than slow_s ({options.slow_s:g}), was {options.fast_s:g}"
            )
        self._ctx = ctx
        self._options = options
        self._notional = to_units(options.notional)
        self._state = _State()

    # --- The averages -------------------------------------------------------------------------

    def on_book_snapshot(self, snapshot: BookSnapshot) -> None:
        self._look(snapshot.exchange, snapshot.symbol)

    def on_book_delta(self, delta: BookDelta) -> None:
        self._look(delta.exchange, delta.symbol)

    def _look(self, exchange: str, symbol: str) -> None:
        book = self._ctx.book(exchange, symbol)
        if (self._options.symbols and symbol not in self._options.symbols) or not book.is_trusted:
            return
        market = self._state.markets.setdefault(f"{exchange}|{symbol}", _Market(exchange, symbol))
        self._average(market, book.mid2 / 2)
        if not market.order and not self._state.is_halted:
            self._decide(market, book)

    def _average(self, market: _Market, mid: float) -> None:
        now = self._ctx.clock.now()
        if not market.ts:
            market.fast = market.slow = mid
        else:
            elapsed_s = (now - market.ts) / NS_PER_S
            market.fast += (mid - market.fast) * -math.expm1(-elapsed_s / self._options.fast_s)
            market.slow += (mid - market.slow) * -math.expm1(-elapsed_s / self._options.slow_s)
        market.ts = now

    # --- Deciding -----------------------------------------------------------------------------

    def _decide(self, market: _Market, book: OrderBook) -> None:
        apart_bps = (market.fast - market.slow) / market.slow * 1e4
        reason = f"fast {market.fast:.1f}, slow {market.slow:.1f} ticks"
        if not market.held and apart_bps > self._options.band_bps:
            self._buy(market, book.best_ask, reason)
        elif market.held and apart_bps < -self._options.band_bps:
            self._submit(market, Side.SELL, book.best_bid, market.held, reason)

    def _buy(self, market: _Market, price: int, reason: str) -> None:
        instrument = self._ctx.instrument(market.exchange, market.symbol)
        if instrument is None:
            return
        lots = self._notional * UNIT // (price * instrument.tick_size * instrument.lot_size)
        is_enough = lots >= max(1, instrument.min_quantity)
        if is_enough and instrument.notional(price, lots) >= instrument.min_notional:
            self._submit(market, Side.BUY, price, lots, reason)

    def _submit(self, market: _Market, side: Side, price: int, quantity: int, reason: str) -> None:
        market.order = f"{self._ctx.plugin}-{self._state.orders}"
        self._state.orders += 1
        self._ctx.publish(
            SubmitOrder(
                self._ctx.clock.now(),
                market.order,
                self._ctx.plugin,
                "paper",
                market.exchange,
                market.symbol,
                side,
                OrderType.LIMIT,
                TimeInForce.IOC,
                price,
                quantity,
                reduce_only=side is Side.SELL,
                reason=reason,
            )
        )

    # --- What became of our orders ------------------------------------------------------------

    def on_order_filled(self, fill: OrderFilled) -> None:
        market = self._state.markets.get(f"{fill.exchange}|{fill.symbol}")
        if market is not None and market.order == fill.order_id:
            market.held += fill.side * fill.quantity
            if not fill.leaves:
                market.order = ""

    def on_order_denied(self, event: OrderDenied) -> None:
        self._end(event)

    def on_order_rejected(self, event: OrderRejected) -> None:
        self._end(event)

    def on_order_canceled(self, event: OrderCanceled) -> None:
        self._end(event)

    def on_order_expired(self, event: OrderExpired) -> None:
        self._end(event)

    def _end(self, event: OrderDenied | OrderRejected | OrderCanceled | OrderExpired) -> None:
        market = self._state.markets.get(f"{event.exchange}|{event.symbol}")
        if market is not None and market.order == event.order_id:
            market.order = ""

    def on_trading_halted(self, halted: TradingHalted) -> None:
        self._state.is_halted = True

    def on_trading_resumed(self, resumed: TradingResumed) -> None:
        self._state.is_halted = False

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=_State)


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    return [
        StrategySpec(
            id="strategy-crossing",
            factory=Crossing,
            options=CrossingOptions,
            publishes=(SubmitOrder,),
            summary="follows two moving averages of the mid",
        )
    ]
