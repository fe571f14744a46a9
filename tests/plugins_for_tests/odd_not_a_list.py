"""A plugin that returns its spec outside of a list."""

from tickerml.kernel import StrategySpec, hookimpl


@hookimpl
def tickerml_strategies() -> StrategySpec:
    return StrategySpec(id="odd", factory=object)
