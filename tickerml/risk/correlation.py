"""
Correlation: what moves together is one position.

Products of one-minute log returns are averaged with a half-life of half_life_h; their correlations
are shrunk towards their own mean, 0.8 rho + 0.2 mean(rho), which a few noisy pairs cannot tear
apart (Ledoit and Wolf, 2004, "Honey, I shrunk the sample covariance matrix", whose intensity is
estimated; here it is an option). Every five minutes assets whose correlation is above the
threshold are joined into clusters, and whoever is joined with one is joined with all of it.

What a cluster has at stake in the direction of an order, open orders at their worst, may be
max_cluster of the equity. With fewer than warmup_min returns of a pair nothing is known of it, and
then it is one cluster: until the rule knows better everything moves together.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    UNIT,
    BookSnapshot,
    Context,
    RiskRuleSpec,
    RiskVerdict,
    SubmitOrder,
    Timer,
    hookimpl,
)

from .accounts import AccountOptions, AccountRule, AccountsState
from .sampling import MINUTE_NS, Mids, Watching

REFRESH_NS = 5 * MINUTE_NS


class CorrelationOptions(AccountOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What counts as one, and how much of it there may be."""

    threshold: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="the correlation above which two assets are one")
    ] = 0.7
    max_cluster: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="what assets that are one may have at stake, of equity")
    ] = 0.40
    half_life_h: Annotated[
        float, msgspec.Meta(gt=0, le=8760, description="after which a return counts half, h")
    ] = 24.0
    shrink: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="the weight of the mean correlation in each")
    ] = 0.2
    warmup_min: Annotated[
        int, msgspec.Meta(ge=2, le=10_080, description="common returns before a pair may be apart")
    ] = 60


class _Pair(msgspec.Struct, array_like=True):
    # Averages over the minutes in which both moved: of each square and of the product.
    first: float = 0.0
    second: float = 0.0
    product: float = 0.0
    count: int = 0


class _State(AccountsState, array_like=True):
    watch: Watching = msgspec.field(default_factory=Watching)
    mids: Mids = msgspec.field(default_factory=Mids)
    pairs: dict[tuple[str, str], _Pair] = msgspec.field(default_factory=dict)
    clusters: dict[str, str] = msgspec.field(default_factory=dict)  # asset -> the first name of its cluster


class Correlation(AccountRule[CorrelationOptions]):
    """Reduces an order to what its cluster has room for."""

    STATE = _State
    _state: _State

    def __init__(self, ctx: Context, options: CorrelationOptions) -> None:
        super().__init__(ctx, options)
        self._decay = 2 ** (-1 / (60 * options.half_life_h))

    # --- What moves together ------------------------------------------------------------------

    def on_book_snapshot(self, book: BookSnapshot) -> None:
        self._state.watch.learn(self._ctx, book, MINUTE_NS)

    def on_timer(self, timer: Timer) -> None:
        state = self._state
        state.watch.arm(self._ctx, timer.ts, MINUTE_NS)
        returns = sorted(state.mids.returns(self._ctx, state.watch.books, timer.ts).items())
        for index, (one, first) in enumerate(returns):
            for other, second in returns[index + 1 :]:
                self._learn(state.pairs.setdefault((one, other), _Pair()), first, second)
        if timer.ts % REFRESH_NS == 0:
            state.clusters = self._join()

    def _learn(self, pair: _Pair, first: float, second: float) -> None:
        # Every average forgets alike, so that their ratio needs no correction for how long they run.
        decay = self._decay
        pair.first = decay * pair.first + (1 - decay) * first * first
        pair.second = decay * pair.second + (1 - decay) * second * second
        pair.product = decay * pair.product + (1 - decay) * first * second
        pair.count += 1

    def _join(self) -> dict[str, str]:
        """Return the cluster of each asset: what a chain of close pairs connects."""
        close = [
            names for names, rho in sorted(self._correlations().items()) if rho > self._options.threshold
        ]
        clusters = {name: name for names in sorted(self._state.pairs) for name in names}
        for one, other in close:
            first, second = sorted((clusters[one], clusters[other]))
            clusters = {name: first if root == second else root for name, root in clusters.items()}
        return clusters

    def _correlations(self) -> dict[tuple[str, str], float]:
        """Return the shrunk correlation of each pair that is known well enough; 1 for the others."""
        known = {
            names: _correlation(pair)
            for names, pair in self._state.pairs.items()
            if pair.count >= self._options.warmup_min
        }
        mean = sum(known[names] for names in sorted(known)) / len(known) if known else 0.0
        shrink = self._options.shrink
        shrunk = {names: (1 - shrink) * rho + shrink * mean for names, rho in known.items()}
        return {names: shrunk.get(names, 1.0) for names in self._state.pairs}

    # --- The verdict --------------------------------------------------------------------------

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if self.reduces(order):
            return order.quantity, ""
        case = self.case(order)
        own = [stake for stake in self.stakes(case) if self._is_one(stake.base, case.instrument.base)]
        used = sum(max(0, order.side * stake.value) for stake in own)
        allowed = case.lots(max(0, case.share(self._options.max_cluster) - used))
        inputs |= {"equity": case.snapshot.equity / UNIT, "cluster": used / UNIT}
        inputs["assets"] = float(len({stake.base for stake in own} | {case.instrument.base}))
        quantity = min(order.quantity, allowed)
        self.reserve(case, quantity)
        if quantity == order.quantity:
            return quantity, ""
        return quantity, f"what moves with {case.instrument.base} leaves {case.left(allowed)}"

    def _is_one(self, asset: str, other: str) -> bool:
        clusters = self._state.clusters
        # An asset that no pair has told anything of may move with any other.
        return (
            asset == other
            or clusters.get(asset, "") == clusters.get(other, "")
            or not (asset in clusters and other in clusters)
        )


def _correlation(pair: _Pair) -> float:
    """Return the correlation of two assets about a mean of zero; 1 where one has not moved at all."""
    scale = (pair.first * pair.second) ** 0.5
    return min(1.0, max(-1.0, pair.product / scale)) if scale > 0 else 1.0


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-correlation",
            factory=Correlation,
            options=CorrelationOptions,
            publishes=(RiskVerdict,),
            summary="caps what assets that move together have at stake",
        )
    ]
