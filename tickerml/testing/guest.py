"""A strategy that comes and goes while others trade: as busy as the busy one, under a name of its own."""

from tickerml.kernel import CancelOrder, StrategySpec, SubmitOrder, hookimpl

from .busy import BusyOptions, BusyStrategy

PLUGIN = "strategy-guest"


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    """Offer the strategy."""
    return [
        StrategySpec(
            id=PLUGIN,
            factory=BusyStrategy,
            options=BusyOptions,
            publishes=(SubmitOrder, CancelOrder),
            summary="trades for the sake of it, for a while: for simulations, not for money",
        )
    ]
