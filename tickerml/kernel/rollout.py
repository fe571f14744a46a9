"""
A rollout: a backtest whose agent sits outside, and is asked at every decision.

It is what an environment for reinforcement learning stands on. At each multiple of every_ns of event
time, behind the other timers of that instant, the world stands still; whoever drives the rollout looks at
it, and what he sends goes out in the agent's name, among the strategies. A strategy that sets these
timers and publishes the same messages from on_timer gets the same bytes, live and in a backtest: only
the place where it is decided differs.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from . import messages as m
from .backtest import Backtest
from .config import Plan
from .errors import ConfigError
from .hookspecs import Context, Options, StrategySpec, Timer

PRIORITY = 9  # of the agent's timers: behind those of features and of answers of the same instant


def mute(spec: StrategySpec) -> StrategySpec:
    """Return *spec* with a component that does nothing, so that another can say() what it would have."""
    return StrategySpec(
        id=spec.id, factory=_Mute, publishes=spec.publishes, subscribes=(), state_version=spec.state_version
    )


class _Mute:
    def __init__(self, ctx: Context, options: Any) -> None:
        pass

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


class Agent(_Mute):
    """What the agent has heard of, as a strategy would: the last rows of features, and the money."""

    def __init__(self, ctx: Context, options: Any, every_ns: int) -> None:
        self._ctx = ctx
        self._every_ns = every_ns
        self._is_timing = False
        self.is_due = False
        self.is_halted = False
        self.features: dict[tuple[str, str, str], m.FeatureVector] = {}  # (exchange, symbol, feature set)
        self.portfolios: dict[str, m.PortfolioSnapshot] = {}  # by account

    def on_book_snapshot(self, book: m.BookSnapshot) -> None:
        if not self._is_timing:  # time begins with the market
            self._is_timing = True
            self._arm(self._ctx.clock.now())

    def on_timer(self, timer: Timer) -> None:
        self.is_due = True
        self._arm(timer.ts)

    def _arm(self, after: int) -> None:
        self._ctx.set_timer((after // self._every_ns + 1) * self._every_ns, "decide", PRIORITY)

    def on_feature_vector(self, row: m.FeatureVector) -> None:
        self.features[row.exchange, row.symbol, row.feature_set] = row

    def on_portfolio_snapshot(self, portfolio: m.PortfolioSnapshot) -> None:
        self.portfolios[portfolio.account] = portfolio

    def on_trading_halted(self, halted: m.TradingHalted) -> None:
        self.is_halted = True

    def on_trading_resumed(self, resumed: m.TradingResumed) -> None:
        self.is_halted = False


class Rollout(Backtest):
    """One run of a plan over its source, with an agent beside the plan's own strategies."""

    def __init__(
        self,
        plan: Plan,
        agent: str,
        every_ns: int,
        on_output: Callable[[str, m.Message, bytes], None] | None = None,
    ) -> None:
        """
        Args:
            agent: the id in whose name it publishes, as a strategy.
            every_ns: from decision to decision, ns of event time.
            on_output: told of (plugin, message, encoding) for every message.
        Raises: PluginError, ConfigError: as of a Backtest; *agent* is an id of the plan.
        """
        super().__init__(plan, on_output)
        if agent in self.bus.plugins:
            raise ConfigError(
                f"the agent needs an id of its own, was {agent!r}, a plugin of {plan.profile!r}"
            )
        spec = StrategySpec(
            id=agent, factory=partial(Agent, every_ns=every_ns), publishes=StrategySpec.MAY_PUBLISH
        )
        self.agent: Agent = self.bus.add(spec, Options())
        self._agent_id = agent

    def decisions(self, until_ns: int = 0) -> Iterator[int]:
        """
        Run from decision to decision to the end of the source, or until *until_ns* after its first message.

        Yields the time of each, ns UTC; what act() is given before the next is of that time.
        """
        for _, messages in self._frames(until_ns):
            for message in messages:
                if type(message) not in self.bus.wanted_types:
                    continue
                self.bus.begin(self._inputs)
                while self.bus.is_due(message.ts_recv):
                    self.bus.fire()
                    if self.agent.is_due:
                        self.agent.is_due = False
                        yield self.bus.clock.now()
                self.bus.deliver(message, self._inputs)

    def act(self, messages: Iterable[m.Message]) -> None:
        """
        Publish *messages* as the agent's, with all that follows from them at once.

        Raises: PluginContractError: of a type that no strategy may publish.
        """
        self.bus.say(self._agent_id, messages)
