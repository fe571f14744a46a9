"""
Deviations: for a while the traders of one exchange hold a symbol for worth more, or less, than it is.

They quote their whole book anew when it begins and when it ends, so it stands apart from the same
symbol's elsewhere: what an arbitrage lives on. One comes at a time, its market, its direction and its
length drawn from a stream of their own, so that a market without any is the market it always was; the
truth is known to whoever asks.
"""

import msgspec

from tickerml.kernel import NS_PER_S

from .synthetic_draws import Draws, DrawsState
from .synthetic_options import SyntheticOptions


class Deviation(msgspec.Struct, frozen=True, array_like=True):
    """Which market, by its place in their list, how far off as a logarithm, and from when to when, ns UTC."""

    market: int
    shift: float
    begin: int
    end: int


class DeviationsState(msgspec.Struct, frozen=True, array_like=True):
    """The one under way or to come, and the draws of those after it."""

    draws: DrawsState
    current: Deviation | None
    is_under_way: bool


class Deviations:
    """One deviation after another, where the options ask for any."""

    def __init__(self, options: SyntheticOptions, markets: list[int]) -> None:
        """
        Args:
            markets: the places of those that may deviate.
        """
        self._every = options.deviation_every_s
        self._lasting = options.deviation_s
        self._shift = options.deviation_bps * 1e-4
        self._markets = markets
        self._draws = Draws(options.seed, 2)
        self._is_under_way = False
        self.current: Deviation | None = None  # under way or to come

    def step(self, now: int) -> list[tuple[int, float]]:
        """Return (market, by how much its traders change their mind) for what begins or ends by *now*, ns."""
        changes: list[tuple[int, float]] = []
        if not self._every:
            return changes
        if self.current is None:
            self.current = self._next(now)
        if self._is_under_way and self.current.end <= now:
            changes.append((self.current.market, -self.current.shift))
            self.current, self._is_under_way = self._next(now), False
        if not self._is_under_way and self.current.begin <= now:
            changes.append((self.current.market, self.current.shift))
            self._is_under_way = True
        return changes

    def shift_of(self, market: int) -> float:
        """Return how far off the traders of *market* are now, as a logarithm."""
        now = self.current
        return now.shift if now and self._is_under_way and now.market == market else 0.0

    def _next(self, after: int) -> Deviation:
        draws = self._draws
        begin = after + int(self._every * draws.exponential() * NS_PER_S)
        market = self._markets[int(draws.uniform() * len(self._markets))]
        shift = self._shift if draws.uniform() < 0.5 else -self._shift
        return Deviation(market, shift, begin, begin + int(self._lasting * draws.exponential() * NS_PER_S))

    def postpone(self, time: int) -> None:
        """Move what is under way or to come by *time*, ns, as the market's own time was."""
        if (now := self.current) is not None:
            self.current = Deviation(now.market, now.shift, now.begin + time, now.end + time)

    def state(self) -> DeviationsState:
        """Return the one under way or to come, and how far the draws have been used."""
        return DeviationsState(self._draws.state(), self.current, self._is_under_way)

    def restore(self, state: DeviationsState) -> None:
        """Take what state() returned."""
        self._draws.restore(state.draws)
        self.current, self._is_under_way = state.current, state.is_under_way
