# /// tickerml-plugin
# format = 1
# [plugin.sim-touch]
# kinds = ["simulator"]
# api = ">=1.0,<2"
# summary = "fills what can trade at the best price at once, and lets nothing wait"
# publishes = ["OrderAccepted", "OrderRejected", "OrderFilled", "OrderExpired"]
# subscribes = ["OrderSubmitted"]
# tier = "edge"
# ///
"""
Touch: a simulator that fills at the best price at once, whole, or not at all.

It has no queue and no latency, so no order is ever open, and it remembers nothing.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    PPM,
    Context,
    Liquidity,
    Options,
    OrderAccepted,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    Side,
    SimulatorSpec,
    StateRefused,
    TimeInForce,
    hookimpl,
)


class TouchOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a fill costs."""

    fee_ppm: Annotated[
        int, msgspec.Meta(ge=0, le=100_000, description="fee of a fill, in millionths of its notional")
    ] = 1000


class TouchSimulator:
    """Answers each order when it comes."""

    def __init__(self, ctx: Context, options: TouchOptions) -> None:
        self._ctx = ctx
        self._fee_ppm = options.fee_ppm

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        now, where = self._ctx.clock.now(), (order.order_id, order.exchange, order.symbol)
        book = self._ctx.book(order.exchange, order.symbol)
        if not book.is_trusted or order.time_in_force is TimeInForce.POST_ONLY:
            self._ctx.publish(OrderRejected(now, now, *where, "nothing may wait here, and nothing can trade"))
            return
        self._ctx.publish(OrderAccepted(now, now, *where, 0, 0))
        best = book.best_ask if order.side is Side.BUY else book.best_bid
        if order.order_type is OrderType.MARKET or order.side * (order.price - best) >= 0:
            self._fill(order, best)
        else:
            self._ctx.publish(OrderExpired(now, now, *where, order.quantity, "nothing to take at its price"))

    def _fill(self, order: OrderSubmitted, price: int) -> None:
        now = self._ctx.clock.now()
        instrument = self._ctx.instrument(order.exchange, order.symbol)
        notional = instrument.notional(price, order.quantity) if instrument else 0
        self._ctx.publish(
            OrderFilled(
                ts_recv=now,
                ts_event=now,
                order_id=order.order_id,
                fill=0,
                strategy=order.strategy,
                account=order.account,
                exchange=order.exchange,
                symbol=order.symbol,
                side=order.side,
                price=price,
                quantity=order.quantity,
                leaves=0,
                liquidity=Liquidity.TAKER,
                fee=notional * self._fee_ppm // PPM,
                fee_asset=order.symbol.split("/")[1],
                queue_ahead=0,
                orders_ahead=0,
                wait_ns=0,
                is_toxic_predicted=False,
                arrival_mid=order.arrival_mid,
            )
        )

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        if state:
            raise StateRefused(self._ctx.plugin, f"expected no state, was {len(state)} bytes")


@hookimpl
def tickerml_simulators() -> list[SimulatorSpec]:
    return [
        SimulatorSpec(
            id="sim-touch",
            factory=TouchSimulator,
            options=TouchOptions,
            publishes=(OrderAccepted, OrderRejected, OrderFilled, OrderExpired),
            summary="fills what can trade at the best price at once, and lets nothing wait",
        )
    ]
