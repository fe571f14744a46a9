"""A plugin that misspells its hook."""

from tickerml.kernel import StrategySpec, hookimpl


@hookimpl
def tickerml_strategy() -> list[StrategySpec]:
    return [StrategySpec(id="odd", factory=object)]
