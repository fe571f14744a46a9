# /// tickerml-plugin
# format = 1
# [plugin.strategy-hello]
# kinds = ["strategy"]
# api = ">=1.0,<2"
# summary = "buys after a streak of buyers"
# publishes = ["SubmitOrder"]
# subscribes = ["Trade", "OrderDenied", "OrderRejected", "OrderFilled", "OrderCanceled", "OrderExpired"]
# tier = "edge"
# ///
"""Hello: buy after a streak of buyers, and sell what was bought some seconds later."""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    Context,
    Options,
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
    Timer,
    Trade,
    hookimpl,
    to_units,
)


class HelloOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to trade, when, and how much."""

    symbol: Annotated[
        str, msgspec.Meta(description="the symbol to trade, on the first exchange that does")
    ] = "BTC/USDT"
    streak: Annotated[int, msgspec.Meta(ge=1, description="prints by buyers in a row that make it buy")] = 5
    hold_s: Annotated[int, msgspec.Meta(ge=1, description="how long it holds what it bought, s")] = 10
    notional: Annotated[str, msgspec.Meta(description="size of a purchase, in the quote asset")] = "100"


class _State(msgspec.Struct):
    exchange: str = ""
    streak: int = 0
    orders: int = 0  # sent so far: the number in the next order's id
    open_order: str = ""
    held: int = 0  # lots


class HelloStrategy:
    """One order at a time: crosses the spread to get in, and again to get out."""

    def __init__(self, ctx: Context, options: HelloOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._notional = to_units(options.notional)
        self._state = _State()

    def on_trade(self, trade: Trade) -> None:
        state = self._state
        state.exchange = state.exchange or trade.exchange
        if (trade.exchange, trade.symbol) != (state.exchange, self._options.symbol):
            return
        state.streak = state.streak + 1 if trade.aggressor is Side.BUY else 0
        if state.streak >= self._options.streak and not state.held:
            self._order(Side.BUY)

    def on_timer(self, timer: Timer) -> None:
        self._order(Side.SELL)
        if not self._state.open_order:
            self._ctx.set_timer(timer.ts + NS_PER_S, "sell")  # the book is in doubt: look again in a second

    def _order(self, side: Side) -> None:
        state, symbol = self._state, self._options.symbol
        exchange = state.exchange
        book, instrument = self._ctx.book(exchange, symbol), self._ctx.instrument(exchange, symbol)
        if state.open_order or not book.is_trusted or instrument is None:
            return
        price = book.best_ask if side is Side.BUY else book.best_bid
        lots = self._notional * UNIT // (price * instrument.tick_size * instrument.lot_size)
        state.open_order = f"{self._ctx.plugin}-{state.orders}"
        state.orders += 1
        self._ctx.publish(
            SubmitOrder(
                self._ctx.clock.now(),
                state.open_order,
                self._ctx.plugin,
                "paper",
                exchange,
                symbol,
                side,
                OrderType.LIMIT,
                TimeInForce.IOC,
                price,
                lots if side is Side.BUY else state.held,
                reduce_only=side is Side.SELL,
                reason=f"{state.streak} buyers in a row" if side is Side.BUY else "held long enough",
            )
        )

    def on_order_filled(self, fill: OrderFilled) -> None:
        if fill.order_id == self._state.open_order:
            self._state.held += fill.side * fill.quantity
            if not fill.leaves:
                self._end(fill.order_id)

    def on_order_denied(self, event: OrderDenied) -> None:
        self._end(event.order_id)

    def on_order_rejected(self, event: OrderRejected) -> None:
        self._end(event.order_id)

    def on_order_canceled(self, event: OrderCanceled) -> None:
        self._end(event.order_id)

    def on_order_expired(self, event: OrderExpired) -> None:
        self._end(event.order_id)

    def _end(self, order_id: str) -> None:
        if order_id == self._state.open_order:
            self._state.open_order = ""
            if self._state.held:
                self._ctx.set_timer(self._ctx.clock.now() + self._options.hold_s * NS_PER_S, "sell")

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=_State)


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    return [
        StrategySpec(
            id="strategy-hello",
            factory=HelloStrategy,
            options=HelloOptions,
            publishes=(SubmitOrder,),
            summary="buys after a streak of buyers",
        )
    ]
