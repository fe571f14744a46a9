"""
The contract with plugin authors.

A plugin is a module with one hook implementation that returns specs; the kernel
builds the components. pluggy registers and never carries ticks: a hook call costs
twelve direct calls. An author need not import us to mark a hook:
`pluggy.HookimplMarker("tickerml")` suffices.

A component is a synchronous state machine: messages in, messages out. It is built
with (ctx, options), handles what it has an `on_<message>` method for
(`on_trade(self, trade)`), publishes through ctx.publish, and can write down its
whole state and take it back. It has no wall clock, no sockets, no asyncio; a timer
is a message (`on_timer`). Only an exchange with a live feed has an async method.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec
import pluggy

from . import messages as m
from .book import OrderBook
from .clock import Clock

PROJECT = "tickerml"
ENTRY_POINTS = "tickerml.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a plugin's options: typed, bounded through msgspec.Meta, unknown keys refused."""


class Timer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A time a component asked to be told of: when it was due, ns UTC, and what it was for."""

    ts: int
    key: str


class Context(Protocol):
    """What a component may know and do."""

    @property
    def plugin(self) -> str:
        """The plugin's id."""

    @property
    def clock(self) -> Clock:
        """The time of the message being handled; the wall clock for a live feed."""

    @property
    def started_ns(self) -> int:
        """When this run began, ns UTC: the same on every restart and in every replay of it."""

    @property
    def log(self) -> Any:
        """A structlog logger bound to the plugin."""

    @property
    def data_dir(self) -> Path:
        """A directory of this plugin's own, for what is too large for its state."""

    def publish(self, message: m.Message) -> None:
        """Send *message* on, once the handler returns; a type not declared in the spec is refused."""

    def set_timer(self, ts: int, key: str, priority: int = 3) -> None:
        """Ask for on_timer(Timer(ts, key)) at *ts*; at equal times the lower *priority* comes first."""

    def book(self, exchange: str, symbol: str) -> OrderBook:
        """Return the book as we know it now, shared by the host: look, do not touch."""

    def instrument(self, exchange: str, symbol: str) -> m.Instrument | None:
        """Return what is known of the symbol; None until its exchange has said it."""

    def uniform(self, *key: str | int) -> float:
        """Return the one number in [0, 1) that the run's seed, this plugin and *key* stand for."""


class Component(Protocol):
    """What every plugin builds; handlers are methods named on_<message>, found at load."""

    def snapshot(self) -> bytes:
        """Return the whole state; restoring it into a new component continues as if nothing had been."""

    def restore(self, state: bytes) -> None:
        """Take the state that snapshot() of this or the previous state_version wrote."""


class Source(Component, Protocol):
    """
    An exchange whose data has an order of its own: a capture, a synthetic market.

    One that makes its data up may have skip_to(ts): in a run whose time is now it is told, after an
    outage, where market time is to go on.
    """

    def events(self) -> Iterator[tuple[int, Sequence[m.Message]]]:
        """Yield (ts_recv, messages) for each input frame, from where the restored state left off."""

    def summarize(self) -> Sequence[m.Message]:
        """Return FeedSummarized messages with what has been seen so far; asked for at a clean stop."""


class LiveFeed(Component, Protocol):
    """An exchange on the network."""

    def stream(self) -> AsyncIterator[Sequence[m.Message]]:
        """Yield messages for as long as it is iterated over, reconnecting by itself."""

    def summarize(self) -> Sequence[m.Message]:
        """Return FeedSummarized messages with what has been seen so far; asked for at a clean stop."""


class PluginSpec(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a plugin offers: how to build it, its options, and what it may say.

    factory is called as factory(ctx, options). publishes must lie within MAY_PUBLISH of the kind.
    """

    id: str
    factory: Callable[[Any, Any], Any]
    options: type[Options] = Options
    publishes: tuple[type[m.Message], ...] = ()
    state_version: int = 1
    summary: str = ""

    KIND: ClassVar[str]
    STAGE: ClassVar[int]  # the order of direct calls within a host: lower first
    MAY_PUBLISH: ClassVar[tuple[type[m.Message], ...]] = ()


_MARKET_DATA = (m.Instrument, m.BookSnapshot, m.BookDelta, m.Trade, m.Quote)
_FEED_HEALTH = (
    m.FeedConnected,
    m.FeedLost,
    m.SequenceGap,
    m.BookStale,
    m.BookResynced,
    m.BookCrossed,
    m.FeedSummarized,
    m.FeedEnded,
)


class ExchangeSpec(PluginSpec, frozen=True, kw_only=True):
    """Market data, in. is_live tells a LiveFeed from a Source."""

    is_live: bool = False

    KIND = "exchange"
    STAGE = 0
    MAY_PUBLISH = _MARKET_DATA + _FEED_HEALTH


class FeatureSetSpec(PluginSpec, frozen=True, kw_only=True):
    """Numbers computed from market data; columns name them, in the order of FeatureVector.values."""

    columns: tuple[str, ...]

    KIND = "feature_set"
    STAGE = 1
    MAY_PUBLISH = (m.FeatureVector,)


class StrategySpec(PluginSpec, frozen=True, kw_only=True):
    """Decides what to order."""

    KIND = "strategy"
    STAGE = 2
    MAY_PUBLISH = (m.SubmitOrder, m.CancelOrder)


class RiskRuleSpec(PluginSpec, frozen=True, kw_only=True):
    """One rule: answers every SubmitOrder with one RiskVerdict, at once."""

    KIND = "risk_rule"
    STAGE = 3
    MAY_PUBLISH = (m.RiskVerdict, m.HaltTrading)


class SimulatorSpec(PluginSpec, frozen=True, kw_only=True):
    """Plays the exchanges: takes OrderSubmitted and CancelOrder, answers with an order's events."""

    KIND = "simulator"
    STAGE = 5
    MAY_PUBLISH = (
        m.OrderAccepted,
        m.OrderRejected,
        m.OrderFilled,
        m.OrderCanceled,
        m.OrderExpired,
        m.MarkoutMeasured,
    )


class StoreSpec(PluginSpec, frozen=True, kw_only=True):
    """Keeps what passed: a ledger, a tape. One that writes files is left out of backtests and replays."""

    writes_files: bool = False

    KIND = "store"
    STAGE = 6
    MAY_PUBLISH = (m.PortfolioSnapshot,)


class PageSpec(PluginSpec, frozen=True, kw_only=True):
    """A program of its own for people to look at: factory(ctx, options) runs until it is stopped."""

    KIND = "page"
    STAGE = 7


class TickerMLSpecs:
    """The hooks, one a kind; each returns specs, never live objects."""

    @hookspec
    def tickerml_exchanges(self) -> Iterable[ExchangeSpec]:
        """Return exchanges: sources of market data."""
        raise NotImplementedError

    @hookspec
    def tickerml_feature_sets(self) -> Iterable[FeatureSetSpec]:
        """Return feature sets: numbers computed from market data."""
        raise NotImplementedError

    @hookspec
    def tickerml_strategies(self) -> Iterable[StrategySpec]:
        """Return strategies: features in, orders out."""
        raise NotImplementedError

    @hookspec
    def tickerml_risk_rules(self) -> Iterable[RiskRuleSpec]:
        """Return risk rules: each may reduce or deny an order, or halt trading."""
        raise NotImplementedError

    @hookspec
    def tickerml_simulators(self) -> Iterable[SimulatorSpec]:
        """Return simulators: they play the exchanges to our orders."""
        raise NotImplementedError

    @hookspec
    def tickerml_stores(self) -> Iterable[StoreSpec]:
        """Return stores: ledgers and tapes."""
        raise NotImplementedError

    @hookspec
    def tickerml_pages(self) -> Iterable[PageSpec]:
        """Return pages: programs for people to look at."""
        raise NotImplementedError


#: The hook a plugin of each kind answers.
HOOKS: dict[str, type[PluginSpec]] = {
    "tickerml_exchanges": ExchangeSpec,
    "tickerml_feature_sets": FeatureSetSpec,
    "tickerml_strategies": StrategySpec,
    "tickerml_risk_rules": RiskRuleSpec,
    "tickerml_simulators": SimulatorSpec,
    "tickerml_stores": StoreSpec,
    "tickerml_pages": PageSpec,
}
