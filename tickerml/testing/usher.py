"""A risk rule that comes and goes while others trade: it says yes, and to every few orders a little less."""

from typing import Annotated

import msgspec

from tickerml.kernel import Context, Options, RiskRuleSpec, RiskVerdict, SubmitOrder, hookimpl

PLUGIN = "risk-usher"


class UsherOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How strict."""

    every: Annotated[int, msgspec.Meta(ge=1, description="orders between two that are cut by half")] = 4


class Usher:
    """Judges."""

    def __init__(self, ctx: Context, options: UsherOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._orders = 0

    def on_submit_order(self, order: SubmitOrder) -> None:
        self._orders += 1
        is_cut = self._orders % self._options.every == 0
        quantity = order.quantity // 2 if is_cut else order.quantity
        reason = "the usher is strict with this one" if is_cut else ""
        self._ctx.publish(
            RiskVerdict(self._ctx.clock.now(), order.order_id, self._ctx.plugin, quantity, reason, {})
        )

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._orders)

    def restore(self, state: bytes) -> None:
        self._orders = msgspec.msgpack.decode(state, type=int)


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    """Offer the rule."""
    return [
        RiskRuleSpec(
            id=PLUGIN,
            factory=Usher,
            options=UsherOptions,
            publishes=(RiskVerdict,),
            summary="says yes to most, for a while: for simulations, not for money",
        )
    ]
