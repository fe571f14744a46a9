"""A strategy that raises on its hundredth trade."""

from tickerml.kernel import StrategySpec, Trade, hookimpl


class Raises:
    def __init__(self, ctx: object, options: object) -> None:
        self._seen = 0

    def on_trade(self, trade: Trade) -> None:
        self._seen += 1
        if self._seen == 100:
            raise RuntimeError("the hundredth trade")

    def snapshot(self) -> bytes:
        return self._seen.to_bytes(8)

    def restore(self, state: bytes) -> None:
        self._seen = int.from_bytes(state)


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    return [StrategySpec(id="strategy-broken", factory=Raises)]
