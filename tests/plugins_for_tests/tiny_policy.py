"""A policy of three lines, as a strategy: what an environment's agent does from outside."""

from collections.abc import Iterable

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    BookSnapshot,
    Context,
    FeatureVector,
    Liquidity,
    Options,
    StrategySpec,
    TargetPosition,
    Timer,
    hookimpl,
)
from tickerml.kernel.rollout import PRIORITY

EVERY_NS = 500 * NS_PER_MS


def decide(now: int, row: FeatureVector | None) -> list[TargetPosition]:
    """Return what is wanted: all as a maker where the bid is heavy, nothing, at once, where the ask is."""
    imbalance = row.unpack()[1] if row else 0.0
    if not abs(imbalance) > 0.2:
        return []
    fraction, liquidity = (1.0, Liquidity.MAKER) if imbalance > 0 else (0.0, Liquidity.TAKER)
    return [TargetPosition(now, "paper", "tiny", "BTC/USDT", fraction, liquidity)]


class TinyPolicy:
    """Asks decide() at each multiple of EVERY_NS."""

    def __init__(self, ctx: Context, options: Options) -> None:
        self._ctx = ctx
        self._row: FeatureVector | None = None
        self._is_timing = False

    def on_book_snapshot(self, book: BookSnapshot) -> None:
        if not self._is_timing:
            self._is_timing = True
            self._arm(self._ctx.clock.now())

    def on_feature_vector(self, row: FeatureVector) -> None:
        self._row = row

    def on_timer(self, timer: Timer) -> None:
        self._arm(timer.ts)
        for wish in decide(timer.ts, self._row):
            self._ctx.publish(wish)

    def _arm(self, after: int) -> None:
        self._ctx.set_timer((after // EVERY_NS + 1) * EVERY_NS, "decide", PRIORITY)

    def snapshot(self) -> bytes:
        """Return the last row, and whether the clock runs."""
        return msgspec.msgpack.encode((self._row, self._is_timing))

    def restore(self, state: bytes) -> None:
        """Take them back."""
        self._row, self._is_timing = msgspec.msgpack.decode(state, type=tuple[FeatureVector | None, bool])


@hookimpl
def tickerml_strategies() -> Iterable[StrategySpec]:
    """Offer the policy."""
    return [StrategySpec(id="tiny-policy", factory=TinyPolicy, publishes=(TargetPosition,))]
