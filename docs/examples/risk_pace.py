# /// tickerml-plugin
# format = 1
# [plugin.risk-pace]
# kinds = ["risk_rule"]
# api = ">=1.0,<2"
# summary = "denies a strategy that orders too often"
# publishes = ["RiskVerdict"]
# subscribes = ["SubmitOrder"]
# tier = "edge"
# ///
"""
Pace: a risk rule that denies a strategy that orders too often.

A rule answers each SubmitOrder with one RiskVerdict, at once. It can only reduce: 0 is a denial.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import NS_PER_S, Context, Options, RiskRuleSpec, RiskVerdict, SubmitOrder, hookimpl


class PaceOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limit."""

    orders: Annotated[
        int, msgspec.Meta(ge=1, description="orders that a strategy may send in the window")
    ] = 60
    window_s: Annotated[float, msgspec.Meta(gt=0, le=3600, description="width of the window, s")] = 60.0


class PaceRule:
    """Remembers when each strategy's orders of the window came."""

    def __init__(self, ctx: Context, options: PaceOptions) -> None:
        self._ctx = ctx
        self._orders = options.orders
        self._window_ns = round(options.window_s * NS_PER_S)
        self._times: dict[str, list[int]] = {}  # strategy -> ns UTC, of what was allowed

    def on_submit_order(self, order: SubmitOrder) -> None:
        now = self._ctx.clock.now()
        times = [ts for ts in self._times.get(order.strategy, ()) if ts > now - self._window_ns]
        is_allowed = len(times) < self._orders
        self._times[order.strategy] = [*times, now] if is_allowed else times
        quantity = order.quantity if is_allowed else 0
        reason = "" if is_allowed else f"{len(times)} orders within {self._window_ns / NS_PER_S:g} s"
        inputs = {"orders": float(len(times)), "limit": float(self._orders)}
        self._ctx.publish(RiskVerdict(now, order.order_id, self._ctx.plugin, quantity, reason, inputs))

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._times)

    def restore(self, state: bytes) -> None:
        self._times = msgspec.msgpack.decode(state, type=dict[str, list[int]])


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-pace",
            factory=PaceRule,
            options=PaceOptions,
            publishes=(RiskVerdict,),
            summary="denies a strategy that orders too often",
        )
    ]
