"""An exchange without a queue: what can trade does so at once, what waits is filled by a print."""

import msgspec

from tickerml.kernel import (
    CancelOrder,
    Context,
    Liquidity,
    Options,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    Side,
    SimulatorSpec,
    TimeInForce,
    Trade,
    hookimpl,
)


class _Open(msgspec.Struct):
    order: OrderSubmitted
    leaves: int
    fills: int = 0


class Counter:
    """Answers orders; half of what is left is filled at a time, so that fills are partial."""

    def __init__(self, ctx: Context, options: Options) -> None:
        self._ctx = ctx
        self._open: dict[str, _Open] = {}

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        """Accept it, and fill what can trade."""
        now = self._ctx.clock.now()
        self._ctx.publish(OrderAccepted(now, now, order.order_id, order.exchange, order.symbol, 0, 0))
        book = self._ctx.book(order.exchange, order.symbol)
        best = book.best_ask if order.side is Side.BUY else book.best_bid
        entry = _Open(order, order.quantity)
        can_trade = book.is_trusted and (
            order.order_type is OrderType.MARKET or order.side * (order.price - best) >= 0
        )
        if can_trade and order.time_in_force is not TimeInForce.POST_ONLY:
            self._fill(entry, best, entry.leaves // 2, Liquidity.TAKER)
            self._fill(entry, best, entry.leaves, Liquidity.TAKER)
        elif order.time_in_force in (TimeInForce.GTC, TimeInForce.POST_ONLY):
            self._open[order.order_id] = entry
        else:
            self._ctx.publish(
                OrderExpired(
                    now, now, order.order_id, order.exchange, order.symbol, entry.leaves, "nothing to take"
                )
            )

    def on_trade(self, trade: Trade) -> None:
        """Fill half of what waits at the price of the print, or all that is little."""
        for order_id, entry in list(self._open.items()):
            order = entry.order
            if (order.exchange, order.symbol) == (trade.exchange, trade.symbol) and (
                order.side * (order.price - trade.price) >= 0
            ):
                quantity = entry.leaves // 2 if entry.leaves > 100 else entry.leaves
                self._fill(entry, order.price, quantity, Liquidity.MAKER)
                if not entry.leaves:
                    del self._open[order_id]

    def on_cancel_order(self, command: CancelOrder) -> None:
        """Take it back, where it still waits."""
        if entry := self._open.pop(command.order_id, None):
            now = self._ctx.clock.now()
            self._ctx.publish(
                OrderCanceled(
                    now, now, command.order_id, command.exchange, command.symbol, entry.leaves, command.reason
                )
            )

    def _fill(self, entry: _Open, price: int, quantity: int, liquidity: Liquidity) -> None:
        if not quantity:
            return
        order, now = entry.order, self._ctx.clock.now()
        entry.leaves -= quantity
        entry.fills += 1
        self._ctx.publish(
            OrderFilled(
                now,
                now,
                order.order_id,
                entry.fills - 1,
                order.strategy,
                order.account,
                order.exchange,
                order.symbol,
                order.side,
                price,
                quantity,
                entry.leaves,
                liquidity,
                0,
                order.symbol.split("/")[1],
                0,
                0,
                0,
                False,
                order.arrival_mid,
            )
        )

    def snapshot(self) -> bytes:
        """Return what is open."""
        return msgspec.msgpack.encode(self._open)

    def restore(self, state: bytes) -> None:
        """Take it back."""
        self._open = msgspec.msgpack.decode(state, type=dict[str, _Open])


@hookimpl
def tickerml_simulators() -> list[SimulatorSpec]:
    """Offer the exchange."""
    return [
        SimulatorSpec(
            id="kit-simulator",
            factory=Counter,
            publishes=(OrderAccepted, OrderFilled, OrderCanceled, OrderExpired),
            summary="fills at once, or at a print",
        )
    ]
