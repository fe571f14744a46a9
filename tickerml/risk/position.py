"""
Position: how much of the equity one base asset may be, over all exchanges together.

What counts is the sum of the positions with their signs, so that a short perpetual hedges spot,
and every open order on the order's own side at its worst price. An order that reduces a position
is none of this rule's business.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import UNIT, RiskRuleSpec, RiskVerdict, SubmitOrder, hookimpl

from .accounts import AccountOptions, AccountRule


class PositionOptions(AccountOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits, as fractions of the account's equity."""

    max_position: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="one base asset over all exchanges, of equity")
    ] = 0.25
    max_order: Annotated[float, msgspec.Meta(gt=0, le=1, description="one order, of equity")] = 0.10


class PositionRule(AccountRule[PositionOptions]):
    """Reduces an order to what its asset has room for."""

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if self.reduces(order):
            return order.quantity, ""
        case = self.case(order)
        own = [stake for stake in self.stakes(case) if stake.base == case.instrument.base]
        held = sum(stake.value for stake in own if not stake.is_open_order)
        coming = sum(s.value for s in own if s.is_open_order and s.value * order.side > 0)
        exposure = order.side * (held + coming)
        room = case.share(self._options.max_position) - exposure
        inputs |= {"equity": case.snapshot.equity / UNIT, "held": held / UNIT, "open": coming / UNIT}
        allowed = {
            "max_position": case.lots(max(0, room)),
            "max_order": case.lots(case.share(self._options.max_order)),
        }
        inputs |= {f"{name}_lots": float(lots) for name, lots in allowed.items()}
        limit = min(allowed, key=lambda name: allowed[name])
        quantity = min(order.quantity, allowed[limit])
        self.reserve(case, quantity)
        reason = f"{limit} allows {case.left(allowed[limit])}"
        return quantity, "" if quantity == order.quantity else reason


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-position",
            factory=PositionRule,
            options=PositionOptions,
            publishes=(RiskVerdict,),
            summary="caps one asset over all exchanges, and one order, by the equity",
        )
    ]
