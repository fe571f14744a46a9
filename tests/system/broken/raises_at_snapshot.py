"""A strategy whose state cannot be written down."""

from tickerml.kernel import StrategySpec, Trade, hookimpl


class Raises:
    def __init__(self, ctx: object, options: object) -> None:
        pass

    def on_trade(self, trade: Trade) -> None:
        pass

    def snapshot(self) -> bytes:
        raise RuntimeError("no state today")

    def restore(self, state: bytes) -> None:
        pass


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    return [StrategySpec(id="strategy-broken", factory=Raises)]
