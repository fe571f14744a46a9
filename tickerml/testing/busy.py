"""
A strategy that trades for the sake of it: many orders of every kind, canceled and timed.

The world needs orders in every state whenever something breaks, and a sensible strategy
waits too long for a reason. What this one does is a function of the run's seed and of
what it has seen, so it is as reproducible as the others.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    CancelOrder,
    Context,
    FeatureVector,
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
    hookimpl,
)

PLUGIN = "strategy-busy"


class BusyOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How busy."""

    every: Annotated[int, msgspec.Meta(ge=1, description="rows between two orders")] = 3
    lots: Annotated[int, msgspec.Meta(ge=1, description="of an order, at most")] = 300
    open_orders: Annotated[int, msgspec.Meta(ge=1, description="open at once, at most")] = 6
    patience_ms: Annotated[int, msgspec.Meta(ge=1, description="before an order is canceled, at most")] = 900
    remark: Annotated[str, msgspec.Meta(description="of no consequence")] = ""


class _State(msgspec.Struct, array_like=True):
    rows: int = 0
    orders: int = 0
    held: int = 0
    open: dict[str, tuple[str, str]] = {}
    timers: int = 0


class BusyStrategy:
    """Submits, cancels and remembers."""

    def __init__(self, ctx: Context, options: BusyOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._state = _State()

    def on_feature_vector(self, row: FeatureVector) -> None:
        state, options = self._state, self._options
        state.rows += 1
        book = self._ctx.book(row.exchange, row.symbol)
        if state.rows % options.every or len(state.open) >= options.open_orders or not book.is_trusted:
            return
        chance = self._ctx.uniform("order", state.orders)
        side = Side.SELL if state.held > 0 and chance < 0.5 else Side.BUY
        lots = 1 + int(self._ctx.uniform("lots", state.orders) * options.lots)
        quantity = min(lots, state.held) if side is Side.SELL else lots
        takes = self._ctx.uniform("takes", state.orders) < 0.5
        best = book.best_ask if (side is Side.BUY) == takes else book.best_bid
        in_force = TimeInForce.IOC if takes else TimeInForce.GTC if chance < 0.7 else TimeInForce.POST_ONLY
        self._submit(row, side, best, quantity, in_force)

    def _submit(
        self, row: FeatureVector, side: Side, price: int, quantity: int, in_force: TimeInForce
    ) -> None:
        state, now = self._state, self._ctx.clock.now()
        order_id = f"{self._ctx.plugin}-{state.orders}"
        state.orders += 1
        state.open[order_id] = (row.exchange, row.symbol)
        self._ctx.publish(
            SubmitOrder(
                now,
                order_id,
                self._ctx.plugin,
                "paper",
                row.exchange,
                row.symbol,
                side,
                OrderType.LIMIT,
                in_force,
                price,
                quantity,
                reason=f"row {state.rows}, {state.timers} timers so far",
            )
        )
        patience = self._ctx.uniform("patience", state.orders) * self._options.patience_ms
        self._ctx.set_timer(now + int(patience * NS_PER_MS), order_id)

    def on_timer(self, timer: Timer) -> None:
        # Counted, and the count is in the next order: a timer that fired twice is seen by everybody.
        self._state.timers += 1
        if where := self._state.open.get(timer.key):
            now = self._ctx.clock.now()
            self._ctx.publish(CancelOrder(now, timer.key, *where, f"timer {self._state.timers}"))

    def on_order_filled(self, fill: OrderFilled) -> None:
        if fill.order_id in self._state.open:
            self._state.held += fill.side * fill.quantity
            if fill.leaves == 0:
                del self._state.open[fill.order_id]

    def on_order_denied(self, event: OrderDenied) -> None:
        self._state.open.pop(event.order_id, None)

    def on_order_rejected(self, event: OrderRejected) -> None:
        self._state.open.pop(event.order_id, None)

    def on_order_canceled(self, event: OrderCanceled) -> None:
        self._state.open.pop(event.order_id, None)

    def on_order_expired(self, event: OrderExpired) -> None:
        self._state.open.pop(event.order_id, None)

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=_State)


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    """Offer the strategy."""
    return [
        StrategySpec(
            id=PLUGIN,
            factory=BusyStrategy,
            options=BusyOptions,
            publishes=(SubmitOrder, CancelOrder),
            summary="trades for the sake of it: for simulations, not for money",
        )
    ]
