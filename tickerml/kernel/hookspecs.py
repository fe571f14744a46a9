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
is a message (`on_timer`). Only what has a live feed has an async method, and only a
sink and a page reach the world.

What is written here is API_VERSION, and this is how it may grow:

- A minor version adds: hooks, kinds, message types, Context methods, optional methods of a
  component, arguments at the end of a hook (an implementation names those it wants), and
  fields with a default at the end of a spec or a message.
- A major version may do anything else: take away, rename, require, or give a word another meaning.
- So a manifest's `api = ">=1.0,<2"` is a promise from both sides. A plugin that needs what is
  newer says so there (`>=1.3,<2`), and an older kernel blocks it with that reason.
- What is to go away in a major version is named in the changelog one minor version before.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec
import pluggy

from . import messages as m
from .alerts import Alert
from .book import OrderBook
from .clock import Clock
from .enums import Severity

if TYPE_CHECKING:
    import typer

API_VERSION = "1.0"
PROJECT = "tickerml"
ENTRY_POINTS = "tickerml.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# --- What every component knows -------------------------------------------------------------------


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
        """The time of the message being handled; for a live feed and a live trainer, the wall clock."""

    @property
    def started_ns(self) -> int:
        """When this run began, ns UTC: the same on every restart and in every replay of it."""

    @property
    def log(self) -> Any:
        """A structlog logger bound to the plugin."""

    @property
    def data_dir(self) -> Path:
        """A directory of this plugin's own, for what is too large for its state."""

    def secret(self, name: str) -> str:
        """
        Return the value of the secret *name*: a key, a password. Do not log or publish it.

        Raises: PluginContractError: plugins.toml does not grant it, or it has no value.
        """

    def publish(self, message: m.Message) -> None:
        """
        Send *message* on, once the handler returns.

        Raises: PluginContractError: of a type that the spec does not declare.
        """

    def set_timer(self, ts: int, key: str, priority: int = 3) -> None:
        """Ask for on_timer(Timer(ts, key)) at *ts*, ns UTC; at one time the lower *priority* comes first."""

    def book(self, exchange: str, symbol: str) -> OrderBook:
        """Return the book as we know it now, shared by the host: look, do not touch."""

    def instrument(self, exchange: str, symbol: str) -> m.Instrument | None:
        """Return what is known of the symbol; None until its exchange has said it."""

    def uniform(self, *key: str | int) -> float:
        """Return the one number in [0, 1) that the run's seed, this plugin and *key* stand for."""


# --- Components: one protocol an idea -------------------------------------------------------------


class Component(Protocol):
    """
    What every plugin builds; handlers are methods named on_<message>, found at load.

    A new state_version may bring migrate(state, version) -> bytes, which turns what the version
    before wrote into what restore() takes; without it such a state is refused.
    """

    def snapshot(self) -> bytes:
        """Return the whole state; restoring it into a new component continues as if nothing had been."""

    def restore(self, state: bytes) -> None:
        """
        Take the state that snapshot() of this state_version wrote.

        Raises: StateRefused: it cannot be taken; the component is set aside, or the swap rolled back.
        """


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
    """An exchange or a news source on the network."""

    def stream(self) -> AsyncIterator[Sequence[m.Message]]:
        """Yield messages for as long as it is iterated over, reconnecting by itself."""

    def summarize(self) -> Sequence[m.Message]:
        """Return FeedSummarized messages with what has been seen so far; asked for at a clean stop."""


class Sink(Component, Protocol):
    """
    Carries alerts out into the world; it may have on_<message> methods as well.

    After a crash, an alert that was taken just before it may come a second time: at least once.
    """

    def emit(self, alert: Alert) -> None:
        """
        Send *alert*, in the order of what happened; the host waits until it returns.

        Raises: anything: the sink is set aside, as any component that raises.
        """


class Dataset(Protocol):
    """The past that a trainer may see: market data, and nothing of the last 30 days before the run began."""

    @property
    def until_ns(self) -> int:
        """Nothing received or dated at this time or later is in it, ns UTC."""

    def messages(self, *types: type[m.Message]) -> Iterator[m.Message]:
        """
        Yield the messages of *types*, all when none are named, run by run, each in its order.

        Raises: StoreCorrupt: a journal is damaged; what came before is whole.
        """


class Trainer(Component, Protocol):
    """Learns from the past in steps of at most a second; between two it can be stopped, moved and resumed."""

    def fit(self, dataset: Dataset) -> Iterator[Sequence[m.Message]]:
        """
        Yield the messages of each step, from where the restored state left off.

        That is one TrainingReported a step and one ModelTrained at the end.
        """


# --- Specs: one a kind ----------------------------------------------------------------------------


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
    subscribes: tuple[str, ...] | None = None  # names of the only messages it is given; None: all it handles

    KIND: ClassVar[str]
    STAGE: ClassVar[int]  # the order of direct calls within a host: lower first
    SHAPE: ClassVar[str] = "consumer"  # of its host: takes the bus, plays into it ("source"), or is a "page"
    MAY_PUBLISH: ClassVar[tuple[type[m.Message], ...]] = ()


_MARKET_DATA = (
    m.Instrument,
    m.BookSnapshot,
    m.BookDelta,
    m.BookOrders,
    m.Trade,
    m.Quote,
    m.FundingUpdated,
)
_FEED_HEALTH = (
    m.FeedConnected,
    m.FeedLost,
    m.SequenceGap,
    m.ChecksumFailed,
    m.BookStale,
    m.BookResynced,
    m.BookCrossed,
    m.FeedSummarized,
    m.FeedEnded,
    m.ChannelLost,
    m.ChannelResumed,
)


class ExchangeSpec(PluginSpec, frozen=True, kw_only=True):
    """Market data, in. is_live tells a LiveFeed from a Source."""

    is_live: bool = False

    KIND = "exchange"
    STAGE = 0
    SHAPE = "source"
    MAY_PUBLISH = _MARKET_DATA + _FEED_HEALTH


class NewsSourceSpec(PluginSpec, frozen=True, kw_only=True):
    """News, in: a LiveFeed of NewsItem. In the messages on its health, exchange is the source's name."""

    KIND = "news_source"
    STAGE = 0
    SHAPE = "source"
    MAY_PUBLISH = (m.NewsItem, m.FeedConnected, m.FeedLost, m.FeedSummarized, m.FeedEnded)


class TrainerSpec(PluginSpec, frozen=True, kw_only=True):
    """Fits a model to the past. Its host runs nothing else."""

    KIND = "trainer"
    STAGE = 0
    SHAPE = "source"
    MAY_PUBLISH = (m.TrainingReported, m.ModelTrained)


class FeatureSetSpec(PluginSpec, frozen=True, kw_only=True):
    """
    Numbers computed from market data, and what is odd about it.

    columns name the numbers of a row, in the order of FeatureVector.values; () where it publishes none.
    """

    columns: tuple[str, ...] = ()

    KIND = "feature_set"
    STAGE = 1
    MAY_PUBLISH = (m.FeatureVector, m.Bar, m.DataAnomaly, m.ArbitrageSeen, m.ArbitrageEnded)


class StrategySpec(PluginSpec, frozen=True, kw_only=True):
    """Decides what to order."""

    KIND = "strategy"
    STAGE = 2
    MAY_PUBLISH = (
        m.TargetPosition,
        m.SubmitOrder,
        m.CancelOrder,
        m.ReplaceOrder,
        m.RequestTransfer,
        m.LegsSettled,
    )


class RiskRuleSpec(PluginSpec, frozen=True, kw_only=True):
    """
    One rule: answers every SubmitOrder with one RiskVerdict, at once.

    It may order as well, in its own name and reduce_only: a stop. The gate denies it anything else.
    """

    KIND = "risk_rule"
    STAGE = 3
    MAY_PUBLISH = (m.RiskVerdict, m.HaltTrading, m.SubmitOrder, m.CancelOrder)


class SimulatorSpec(PluginSpec, frozen=True, kw_only=True):
    """Plays the exchanges: takes OrderSubmitted and CancelOrder, answers with an order's events."""

    KIND = "simulator"
    STAGE = 5
    MAY_PUBLISH = (
        m.OrderAccepted,
        m.OrderRejected,
        m.OrderReplaced,
        m.OrderFilled,
        m.OrderCanceled,
        m.OrderExpired,
        m.MarkoutMeasured,
        m.TournamentMeasured,
        m.Instrument,  # whose fees are those that it charges
    )


class StoreSpec(PluginSpec, frozen=True, kw_only=True):
    """Keeps what passed: a ledger, a tape. One that writes files is left out of backtests and replays."""

    writes_files: bool = False

    KIND = "store"
    STAGE = 6
    MAY_PUBLISH = (
        m.PortfolioSnapshot,
        m.LedgerPosted,
        m.PositionLiquidated,
        m.FundingSettled,
        m.TransferStarted,
        m.TransferEnded,
    )


class SinkSpec(PluginSpec, frozen=True, kw_only=True):
    """
    Alerts, out. Left out of backtests, and in a replay emit() is not called.

    min_severity is the least it is told of; an attribute of that name on the component goes before it.
    publishes is AlertSent, also in the manifest: the bus says it in its name behind each emit() that
    returned.
    """

    publishes: tuple[type[m.Message], ...] = (m.AlertSent,)
    min_severity: Severity = Severity.WARNING

    KIND = "sink"
    STAGE = 7
    MAY_PUBLISH = (m.AlertSent,)


class PageSpec(PluginSpec, frozen=True, kw_only=True):
    """A program of its own for people to look at: factory(ctx, options) runs until it is stopped."""

    KIND = "page"
    STAGE = 8
    SHAPE = "page"


class StateChange(msgspec.Struct, frozen=True):
    """A component has passed from one state of its life to another; ts is ns UTC."""

    ts: int
    plugin: str
    before: str
    after: str
    reason: str = ""


# --- Hooks ----------------------------------------------------------------------------------------


class TickerMLSpecs:
    """The hooks, one a kind, which return specs and never live objects; and two that observe."""

    @hookspec
    def tickerml_exchanges(self) -> Iterable[ExchangeSpec]:
        """Return exchanges: sources of market data."""
        raise NotImplementedError

    @hookspec
    def tickerml_news_sources(self) -> Iterable[NewsSourceSpec]:
        """Return news sources: what is said about the markets."""
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
    def tickerml_trainers(self) -> Iterable[TrainerSpec]:
        """Return trainers: the past in, models out."""
        raise NotImplementedError

    @hookspec
    def tickerml_stores(self) -> Iterable[StoreSpec]:
        """Return stores: ledgers and tapes."""
        raise NotImplementedError

    @hookspec
    def tickerml_sinks(self) -> Iterable[SinkSpec]:
        """Return sinks: they carry alerts to people."""
        raise NotImplementedError

    @hookspec
    def tickerml_pages(self) -> Iterable[PageSpec]:
        """Return pages: programs for people to look at."""
        raise NotImplementedError

    @hookspec
    def tickerml_commands(self, app: "typer.Typer") -> None:
        """Add commands to *app*, under the words that the manifest lists."""
        raise NotImplementedError

    @hookspec
    def tickerml_component_state(self, change: StateChange) -> None:
        """Observe that a component of this plugin's host has changed its state; off the path of messages."""
        raise NotImplementedError

    @hookspec
    def tickerml_diagnostics(self) -> Mapping[str, object]:
        """Return what helps to find a fault in this plugin, as JSON knows it; asked for by a person."""
        raise NotImplementedError


#: The hook a plugin of each kind answers with specs.
HOOKS: dict[str, type[PluginSpec]] = {
    "tickerml_exchanges": ExchangeSpec,
    "tickerml_news_sources": NewsSourceSpec,
    "tickerml_feature_sets": FeatureSetSpec,
    "tickerml_strategies": StrategySpec,
    "tickerml_risk_rules": RiskRuleSpec,
    "tickerml_simulators": SimulatorSpec,
    "tickerml_trainers": TrainerSpec,
    "tickerml_stores": StoreSpec,
    "tickerml_sinks": SinkSpec,
    "tickerml_pages": PageSpec,
}

#: kind -> the shape of the host it runs in; a command runs in none.
SHAPES: dict[str, str] = {spec.KIND: spec.SHAPE for spec in HOOKS.values()} | {"command": "command"}


# --- How a source's component is asked ------------------------------------------------------------


def is_live(spec: PluginSpec) -> bool:
    """Whether the component pushes (a LiveFeed): its inputs cannot be repeated."""
    return isinstance(spec, NewsSourceSpec) or (isinstance(spec, ExchangeSpec) and spec.is_live)


def events_of(
    spec: PluginSpec, component: Any, dataset: Dataset
) -> Iterator[tuple[int, Sequence[m.Message]]]:
    """Return (ts, messages) for each input of what is pulled; a trainer's are due at once: their ts is 0."""
    if isinstance(spec, TrainerSpec):
        return ((0, messages) for messages in component.fit(dataset))
    events: Iterator[tuple[int, Sequence[m.Message]]] = iter(component.events())
    return events


def summary_of(spec: PluginSpec, component: Any) -> Sequence[m.Message]:
    """Return what the component of a source has to say at its end; a trainer says nothing."""
    summary: Sequence[m.Message] = () if isinstance(spec, TrainerSpec) else component.summarize()
    return summary
