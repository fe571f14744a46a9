"""A plugin that answers the hook of strategies with a risk rule."""

from tickerml.kernel import RiskRuleSpec, hookimpl


@hookimpl
def tickerml_strategies() -> list[RiskRuleSpec]:
    return [RiskRuleSpec(id="odd", factory=object)]
