"""A plugin whose hook raises."""

from tickerml.kernel import StrategySpec, hookimpl


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    raise LookupError("where is my model?")
