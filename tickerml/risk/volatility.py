"""
Volatility: smaller orders where prices move more.

The variance of the one-minute log returns of a base asset (variance.py) is taken to a year:
sigma = sqrt(525,600 v). Four regimes follow: low below the first bound, normal, high, and extreme from the
last on. A regime is left upwards when sigma is a tenth above its upper bound, and downwards when
it is a tenth below its lower one and has been in it for dwell_min. Orders are scaled by regime.
With fewer than warmup_min returns nothing is known, and that counts as high.

A rule can only reduce: the usual larger size in calm markets would be a cap that is not one."""

from typing import Annotated

import msgspec

from tickerml.kernel import ConfigError, Context, Options, RiskRuleSpec, RiskVerdict, SubmitOrder, hookimpl

from .rule import exact, scaled
from .sampling import MINUTE_NS, Mids, Watch, WatchState
from .variance import Variance

MINUTES_A_YEAR = 525_600
HYSTERESIS = 0.1
REGIMES = ("low", "normal", "high", "extreme")
HIGH = 2
Scale = Annotated[float, msgspec.Meta(ge=0, le=1)]


class VolatilityOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The regimes, by annualised volatility, and what each leaves of an order."""

    bounds: Annotated[
        tuple[float, float, float],
        msgspec.Meta(description="where normal, high and extreme begin, a year's volatility as a fraction"),
    ] = (0.3, 0.6, 1.0)
    scales: Annotated[
        tuple[Scale, Scale, Scale, Scale],
        msgspec.Meta(description="what low, normal, high and extreme leave of an order"),
    ] = (1.0, 1.0, 0.7, 0.3)
    dwell_min: Annotated[
        int, msgspec.Meta(ge=0, le=1440, description="how long before a regime is left downwards, min")
    ] = 15
    warmup_min: Annotated[
        int, msgspec.Meta(ge=1, le=1440, description="returns before the figure is believed")
    ] = 15


class _Asset(msgspec.Struct, array_like=True):
    variance: Variance = msgspec.field(default_factory=Variance)
    regime: int = HIGH
    since: int = 0


class _State(WatchState, array_like=True):
    mids: Mids = msgspec.field(default_factory=Mids)
    assets: dict[str, _Asset] = msgspec.field(default_factory=dict)


class Volatility(Watch[VolatilityOptions, _State]):
    """Scales orders by the regime of their base asset."""

    STATE = _State
    EVERY_NS = MINUTE_NS

    def __init__(self, ctx: Context, options: VolatilityOptions) -> None:
        """Raises: ConfigError: the bounds do not rise from above nothing."""
        super().__init__(ctx, options)
        low, normal, high = options.bounds
        if not 0 < low < normal < high:
            raise ConfigError(f"risk-volatility: bounds must rise from above 0, was {list(options.bounds)}")

    def sample(self, ts: int) -> None:
        for base, change in self._state.mids.returns(self._ctx, self._state.watch.books, ts).items():
            asset = self._state.assets.setdefault(base, _Asset())
            asset.variance.add(change)
            if asset.variance.count >= self._options.warmup_min:
                self._classify(asset, ts)

    def _classify(self, asset: _Asset, ts: int) -> None:
        sigma, bounds, before = asset.variance.sigma(MINUTES_A_YEAR), self._options.bounds, asset.regime
        if asset.variance.count == self._options.warmup_min:
            asset.regime = sum(sigma >= bound for bound in bounds)
        while asset.regime < len(bounds) and sigma > bounds[asset.regime] * (1 + HYSTERESIS):
            asset.regime += 1
        has_dwelt = ts - asset.since >= self._options.dwell_min * MINUTE_NS
        while has_dwelt and asset.regime and sigma < bounds[asset.regime - 1] * (1 - HYSTERESIS):
            asset.regime -= 1
        if asset.regime != before or asset.variance.count == self._options.warmup_min:
            asset.since = ts

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if self.reduces(order):
            return order.quantity, ""
        asset = self._state.assets.get(order.symbol.partition("/")[0], _Asset())
        scale = exact(self._options.scales[asset.regime])
        inputs |= {
            "volatility": asset.variance.sigma(MINUTES_A_YEAR),
            "returns": float(asset.variance.count),
            "scale": float(scale),
        }
        if asset.variance.count < self._options.warmup_min:
            known = f"{asset.variance.count} of {self._options.warmup_min} returns are known"
            return scaled(order, scale, f"{known}: as {REGIMES[HIGH]}, {float(scale):.0%} of an order")
        regime = f"volatility {asset.variance.sigma(MINUTES_A_YEAR):.0%} a year is {REGIMES[asset.regime]}"
        return scaled(order, scale, f"{regime}: {float(scale):.0%} of an order")


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-volatility",
            factory=Volatility,
            options=VolatilityOptions,
            publishes=(RiskVerdict,),
            summary="shrinks orders in assets whose volatility is high",
        )
    ]
