"""
What the assets of a synthetic market are worth, whatever its books make of it.

Every asset has a fundamental value, a random walk of its logarithm in steps of 100 ms
with one common factor, on a weak spring (30 days) so that months stay plausible. A
dollar coin hangs on a strong spring around 1. BTC/USDT is worth BTC less USDT, so
BTC/USD = BTC/USDT x USDT/USD holds up to what the books make of it. Now and then a
burst multiplies volatility and order flow, and cools down with a half-life of 20 s.
"""

import math

import msgspec

from tickerml.kernel import NS_PER_S

from .synthetic_draws import Draws
from .synthetic_options import ASSETS, SyntheticOptions

SECONDS_A_YEAR = 365 * 86_400.0


class FundamentalState(msgspec.Struct, frozen=True, array_like=True):
    """The values' logarithms, in the order of the assets, and what is left of bursts."""

    logs: list[float]
    heat: float


class Fundamentals:
    """What each asset is worth in USD, as a logarithm, moved in steps of STEP_NS."""

    STEP_NS = 100_000_000
    SPRING = 1.0 / (30 * 86_400.0)  # a second; back to the first price with an e-fold of 30 days
    PEG_VOLATILITY = 0.05  # a year; with the spring below about 1.5 bps around 1
    PEG_SPRING = 1.0 / 600.0  # a second
    COOLING = 0.5 ** (0.1 / 20.0)  # of a burst's heat, a step: half-life 20 s

    def __init__(self, options: SyntheticOptions) -> None:
        self._options = options
        named = [part for s in (*options.symbols, *options.first_venue_symbols) for part in s.split("/")]
        self.assets = [name for name in ASSETS if name in named]
        self.logs = {"USD": 0.0} | {name: math.log(ASSETS[name].price) for name in self.assets}
        self.heat = 0.0

    @property
    def activity(self) -> float:
        """By how much order flow is livelier than usual; 1 outside of a burst."""
        return 1.0 + 0.5 * self.heat

    def step(self, draws: Draws) -> None:
        """Move every value by one step, and let bursts begin and cool."""
        options = self._options
        dt = self.STEP_NS / NS_PER_S
        self.heat *= self.COOLING
        if draws.uniform() < options.burst_probability * dt:
            self.heat += 1.0 + 2.0 * draws.uniform()
        common = math.sqrt(options.correlation) * draws.normal()
        own = math.sqrt(1.0 - options.correlation)
        scale = math.sqrt(dt / SECONDS_A_YEAR)
        for name in self.assets:
            asset = ASSETS[name]
            away = self.logs[name] - math.log(asset.price)
            if asset.is_pegged:
                move = (
                    self.PEG_VOLATILITY * asset.volatility * draws.normal()
                    - self.PEG_SPRING * dt * away / scale
                )
            else:
                shock = common + own * draws.normal()
                move = options.volatility * asset.volatility * (1.0 + self.heat) * shock
                move -= self.SPRING * dt * away / scale
            self.logs[name] += scale * move

    def log_price(self, symbol: str) -> float:
        """Return the logarithm of what *symbol* is worth in its quote asset."""
        base, quote = symbol.split("/")
        return self.logs[base] - self.logs[quote]

    def state(self) -> FundamentalState:
        """Return the values."""
        return FundamentalState([self.logs[name] for name in self.assets], self.heat)

    def restore(self, state: FundamentalState) -> None:
        """Take the values that state() returned."""
        self.logs |= dict(zip(self.assets, state.logs, strict=True))
        self.heat = state.heat
