"""
Fat finger: an order at a price nobody means, twice, or one of too many.

A limit price may be at most max_deviation from the mid; a book that cannot be trusted has no mid,
and then nothing passes. Orders and cancels are counted over the last second per strategy. Cancels
cannot be denied and should not be: whoever cancels too often is denied new orders instead. An id
is denied when one of the last REMEMBERED orders had it, also when that has ended long ago.
An order that says reduce_only is held to its price and its id, and to no rate.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    CancelOrder,
    Options,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    RiskRuleSpec,
    RiskVerdict,
    SubmitOrder,
    hookimpl,
)

from .rule import Denied, Rule, exact

REMEMBERED = 10_000  # ids, about 300 kB


class FatFingerOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is taken for a mistake."""

    max_deviation: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="how far a limit price may be from the mid, a fraction")
    ] = 0.02
    orders_per_s: Annotated[
        int, msgspec.Meta(ge=1, le=1000, description="orders of one strategy within a second")
    ] = 10
    cancels_per_s: Annotated[
        int, msgspec.Meta(ge=1, le=1000, description="cancels of one strategy within a second")
    ] = 20
    open_orders: Annotated[
        int, msgspec.Meta(ge=1, le=10_000, description="open orders of one strategy at a time")
    ] = 50


class _State(msgspec.Struct, array_like=True):
    ids: dict[str, None] = {}  # in the order in which they came
    open: dict[str, str] = {}  # order -> strategy
    orders: dict[str, list[int]] = {}  # strategy -> ns UTC, of the last second
    cancels: dict[str, list[int]] = {}


class FatFinger(Rule[FatFingerOptions, _State]):
    """Denies what looks like a mistake."""

    STATE = _State

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        state, now = self._state, self._ctx.clock.now()
        if order.order_id in state.ids:
            raise Denied(f"an order had the id {order.order_id} before")
        state.ids[order.order_id] = None
        if len(state.ids) > REMEMBERED:
            del state.ids[next(iter(state.ids))]
        recent = state.orders[order.strategy] = _within_a_second(state.orders.get(order.strategy), now)
        self._check_price(order, inputs)
        if not order.reduce_only:
            self._check_rates(order.strategy, len(recent), now, inputs)
        recent.append(now)
        return order.quantity, ""

    def _check_price(self, order: SubmitOrder, inputs: dict[str, float]) -> None:
        book = self._ctx.book(order.exchange, order.symbol)
        if not book.is_trusted:
            raise Denied(f"the book of {order.symbol} on {order.exchange} is {book.state} or crossed")
        if order.order_type is not OrderType.LIMIT:
            return
        limit, off = exact(self._options.max_deviation), abs(2 * order.price - book.mid2)
        inputs |= {"mid": book.mid2 / 2, "deviation": off / book.mid2}
        if off * limit.denominator > limit.numerator * book.mid2:
            raise Denied(f"the price is {off / book.mid2:.2%} from the mid, more than {float(limit):.2%}")

    def _check_rates(self, strategy: str, orders: int, now: int, inputs: dict[str, float]) -> None:
        options, state = self._options, self._state
        cancels = len(_within_a_second(state.cancels.get(strategy), now))
        is_open = sum(1 for owner in state.open.values() if owner == strategy)
        inputs |= {"orders": float(orders), "cancels": float(cancels), "open": float(is_open)}
        if orders >= options.orders_per_s:
            raise Denied(f"{strategy} sent {orders} orders within a second, as many as it may")
        if cancels >= options.cancels_per_s:
            raise Denied(f"{strategy} canceled {cancels} times within a second, as often as it may")
        if is_open >= options.open_orders:
            raise Denied(f"{strategy} has {is_open} orders open, as many as it may")

    # --- What happens to orders ---------------------------------------------------------------

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        self._state.open[order.order_id] = order.strategy

    def on_cancel_order(self, order: CancelOrder) -> None:
        if strategy := self._state.open.get(order.order_id):
            now, cancels = self._ctx.clock.now(), self._state.cancels
            cancels[strategy] = [*_within_a_second(cancels.get(strategy), now), now]

    def on_order_filled(self, fill: OrderFilled) -> None:
        if fill.leaves == 0:
            self._state.open.pop(fill.order_id, None)

    def on_order_rejected(self, event: OrderRejected) -> None:
        self._state.open.pop(event.order_id, None)

    def on_order_canceled(self, event: OrderCanceled) -> None:
        self._state.open.pop(event.order_id, None)

    def on_order_expired(self, event: OrderExpired) -> None:
        self._state.open.pop(event.order_id, None)


def _within_a_second(times: list[int] | None, now: int) -> list[int]:
    return [ts for ts in times or () if ts > now - NS_PER_S]


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-fat-finger",
            factory=FatFinger,
            options=FatFingerOptions,
            publishes=(RiskVerdict,),
            summary="denies prices far from the mid, ids used before, and too many orders",
        )
    ]
