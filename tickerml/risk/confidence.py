"""
Confidence: nothing new is opened by a strategy that does not believe in it itself.

A strategy that weighs its signals says in SubmitOrder.confidence how sure it is, from 0 to 1. Below
*least* the order is denied. One that says nothing is not asked, and an order that reduces a position
passes however unsure it is.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import Options, RiskRuleSpec, RiskVerdict, SubmitOrder, hookimpl

from .rule import Denied, Rule


class ConfidenceOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How sure a strategy has to be."""

    least: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="the confidence below which an order is denied")
    ] = 0.30


class _State(msgspec.Struct, array_like=True):
    pass


class Confidence(Rule[ConfidenceOptions, _State]):
    """Denies what its own strategy doubts."""

    STATE = _State

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if order.confidence is None or self.reduces(order):
            return order.quantity, ""
        inputs["confidence"] = order.confidence
        # Asked this way round so that a NaN is denied: NaN >= least is false.
        if order.confidence >= self._options.least:
            return order.quantity, ""
        least = f"less than {self._options.least:.0%}"
        raise Denied(f"{order.strategy} is {order.confidence:.0%} sure of it, {least}")


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-confidence",
            factory=Confidence,
            options=ConfidenceOptions,
            publishes=(RiskVerdict,),
            summary="denies what its own strategy doubts",
        )
    ]
