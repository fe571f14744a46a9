"""A risk rule that raises at every order."""

from tickerml.kernel import RiskRuleSpec, RiskVerdict, SubmitOrder, hookimpl


class Raises:
    def __init__(self, ctx: object, options: object) -> None:
        pass

    def on_submit_order(self, order: SubmitOrder) -> None:
        raise RuntimeError("cannot judge")

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [RiskRuleSpec(id="risk-broken", factory=Raises, publishes=(RiskVerdict,))]
