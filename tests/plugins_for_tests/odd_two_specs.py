"""A plugin that offers two of itself."""

from tickerml.kernel import StrategySpec, hookimpl


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    return [StrategySpec(id="odd", factory=object), StrategySpec(id="odd-too", factory=object)]
