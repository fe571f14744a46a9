"""A plugin whose hook wants to be told something that the hook does not tell."""

from tickerml.kernel import StrategySpec, hookimpl


@hookimpl
def tickerml_strategies(market: object) -> list[StrategySpec]:
    return [StrategySpec(id="odd", factory=object)]
