"""
An environment to learn in: the paper-trading engine behind the interface of Gymnasium.

An agent says how much it wants to hold and how (TargetPosition), and strategy-target trades that through
the rules, the gate and the simulator of the plan: the code that trades on paper, message for message. An
episode is a stretch of the plan's source; what was not there before a decision is in no observation.
"""

from collections.abc import Iterator
from typing import Any

import gymnasium
import msgspec
import numpy as np
from numpy.typing import NDArray

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    ConfigError,
    FeatureSetSpec,
    Liquidity,
    PluginError,
    PortfolioSnapshot,
    TargetPosition,
)
from tickerml.kernel.backtest import load_plugins
from tickerml.kernel.config import Plan
from tickerml.kernel.rollout import Rollout

AGENT = "agent"
OWN_COLUMNS = ("is_known", "position", "unrealized", "drawdown")
LEAVE, WAIT, TAKE = range(3)
_LIQUIDITY = {WAIT: Liquidity.MAKER, TAKE: Liquidity.TAKER}
_BPS = 1e4

Observation = NDArray[np.float32]


class TradingEnv(gymnasium.Env[Observation, NDArray[np.int64]]):
    """
    One market of a plan.

    An action is (bin, how). bin chooses a target on an even grid of *bins* fractions of the most that
    strategy-target may hold, from 0 to 1, or from -1 where the market is a perpetual. how is 0 to leave what
    is, 1 to wait in the book for the target and 2 to take it.

    An observation is float32 of shape (len(columns),): the last row of the feature set, NaN as 0, then
    is_known (1 where the row is not older than a decision and none of it is NaN), and of our own what the
    position would bring and its unrealized profit, as shares of the equity, and the drawdown.

    The reward is the change of the equity in bps of it, all costs included, less *risk_aversion* times
    the bps by which the largest drawdown has grown. The equity is the portfolio's, which marks what is
    held at what it could be closed at: a position pays its half spread when it is opened.

    terminated is when trading is halted, truncated when the episode or its data end.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - the name and the type are Gymnasium's

    def __init__(
        self,
        plan: Plan,
        exchange: str,
        symbol: str,
        *,
        account: str = "paper",
        feature_set: str = "features-core",
        every_ms: int = 1000,
        episode_s: float = 6 * 3600.0,
        bins: int = 5,
        risk_aversion: float = 0.0,
        is_short_allowed: bool = False,
    ) -> None:
        """
        Args:
            plan: of a profile with a recorded or synthetic source, *feature_set* and strategy-target; other
                strategies in it trade beside the agent.
            every_ms: from decision to decision, of event time.
            episode_s: how long an episode lasts, of event time; 0 for all the data.
            is_short_allowed: whether the grid begins at -1: for a perpetual.

        Raises: ConfigError, PluginError: as of a backtest of *plan*; something that it needs is not in it.
        """
        columns = _columns(plan, feature_set)
        self.plan = plan
        self.columns: tuple[str, ...] = (*columns, *OWN_COLUMNS)
        self.rollout: Rollout | None = None
        self.fractions = np.linspace(-1.0 if is_short_allowed else 0.0, 1.0, bins)
        self.action_space = gymnasium.spaces.MultiDiscrete([bins, 3])
        widest = float(np.finfo(np.float32).max)
        self.observation_space = gymnasium.spaces.Box(-widest, widest, (len(self.columns),), np.float32)
        self._key = (exchange, symbol, feature_set)
        self._account = account
        self._every_ns = every_ms * NS_PER_MS
        self._episode_ns = round(episode_s * NS_PER_S)
        self._risk_aversion = risk_aversion
        self._decisions: Iterator[int] = iter(())
        self._now = 0
        self._before: PortfolioSnapshot | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """
        Begin the plan's source again, and run to the first decision at which there is money to decide about.

        Args:
            seed: of the run in place of the plan's; all that is random in it is a function of it.

        Raises: ConfigError: the data hold no decision. PluginError: a plugin has failed.
        """
        super().reset(seed=seed)
        plan = self.plan
        if seed is not None:
            plan = msgspec.structs.replace(plan, kernel=msgspec.structs.replace(plan.kernel, seed=seed))
        self.rollout = Rollout(plan, AGENT, self._every_ns)
        self._decisions = self.rollout.decisions(self._episode_ns)
        while self._step_on():
            if portfolio := self.rollout.agent.portfolios.get(self._account):
                self._before = portfolio
                return self._observe(portfolio), self._info(portfolio)
        raise ConfigError(
            f"profile {plan.profile!r} ended before account {self._account!r} had money and a market: "
            "give it more data, a portfolio with that account, or a shorter every_ms"
        )

    def step(self, action: NDArray[np.int64]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """
        Act, and run to the next decision.

        Raises: gymnasium.error.ResetNeeded: before reset(). PluginError: a plugin has failed.
        """
        if self.rollout is None or self._before is None:
            raise gymnasium.error.ResetNeeded("call reset() before the first step()")
        fraction, how = float(self.fractions[int(action[0])]), int(action[1])
        if how != LEAVE:
            exchange, symbol, _ = self._key
            wish = TargetPosition(self._now, self._account, exchange, symbol, fraction, _LIQUIDITY[how])
            self.rollout.act([wish])
        is_over = not self._step_on()
        before, portfolio = self._before, self.rollout.agent.portfolios[self._account]
        self._before = portfolio
        grown = max(0.0, portfolio.max_drawdown - before.max_drawdown)
        reward = _BPS * ((portfolio.equity - before.equity) / before.equity - self._risk_aversion * grown)
        is_halted = self.rollout.agent.is_halted
        return self._observe(portfolio), reward, is_halted, is_over and not is_halted, self._info(portfolio)

    def _step_on(self) -> bool:
        """Run to the next decision; returns whether there is one."""
        assert self.rollout is not None
        now = next(self._decisions, None)
        for plugin, error in self.rollout.failures().items():
            raise PluginError(plugin, error)
        if now is not None:
            self._now = now
        return now is not None

    def _observe(self, portfolio: PortfolioSnapshot) -> Observation:
        assert self.rollout is not None
        row = self.rollout.agent.features.get(self._key)
        values = row.unpack() if row else [np.nan] * (len(self.columns) - len(OWN_COLUMNS))
        is_known = (
            row is not None and row.ts_event > self._now - self._every_ns and not np.isnan(values).any()
        )
        held = [each for each in portfolio.positions if (each.exchange, each.symbol) == self._key[:2]]
        unrealized = sum(each.unrealized_value for each in held)
        value = sum((each.cost if each.quantity > 0 else -each.cost) + each.unrealized for each in held)
        own = [is_known, value / portfolio.equity, unrealized / portfolio.equity, portfolio.drawdown]
        return np.nan_to_num(np.array([*values, *own], np.float32))

    def _info(self, portfolio: PortfolioSnapshot) -> dict[str, Any]:
        return {"ts": self._now, "equity": portfolio.equity, "fees": portfolio.fees}


def _columns(plan: Plan, feature_set: str) -> tuple[str, ...]:
    """
    Raises: ConfigError: the plan lacks the feature set or strategy-target. PluginError: one does not load.
    """
    specs = {spec.id: spec for _, spec, _ in load_plugins(plan)}
    if "strategy-target" not in specs:
        raise ConfigError(
            f"profile {plan.profile!r} needs strategy-target, which trades what the agent wants"
        )
    spec = specs.get(feature_set)
    if not isinstance(spec, FeatureSetSpec) or not spec.columns:
        raise ConfigError(f"profile {plan.profile!r} has no feature set {feature_set!r} that publishes rows")
    return spec.columns
