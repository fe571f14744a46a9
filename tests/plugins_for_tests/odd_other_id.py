"""A plugin that calls itself something else than plugins.toml does."""

from tickerml.kernel import StrategySpec, hookimpl


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    return [StrategySpec(id="somebody-else", factory=object)]
