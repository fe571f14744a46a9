"""
The words that travel: every message on the bus, in the order of an order's life.

Data are nouns, commands imperative, events past tense. A message is made once and
never changed. Prices are int64 ticks and quantities int64 lots of the Instrument
of the same exchange and symbol; money is in units of 1e-12; times are ns UTC,
ts_event by the exchange's clock (0 where it gives none) and ts_recv by ours.
Book levels travel as one bytes field of little-endian int64 pairs, read through
levels() and written through pack_levels(): fifteen times faster to decode than a
list of tuples.

Fields are only ever appended, with a default, so an old reader understands a new
writer and the other way round.
"""

import msgspec

from .arbitrage_messages import ArbitrageEnded as ArbitrageEnded
from .arbitrage_messages import ArbitrageSeen as ArbitrageSeen
from .arbitrage_messages import LegsSettled as LegsSettled
from .enums import Anomaly as Anomaly
from .enums import BookState as BookState
from .enums import HaltLevel as HaltLevel
from .enums import Liquidity as Liquidity
from .enums import OrderType as OrderType
from .enums import Severity as Severity
from .enums import Side as Side
from .enums import TimeInForce as TimeInForce
from .enums import TradingState as TradingState
from .market_messages import Bar as Bar
from .market_messages import BookCrossed as BookCrossed
from .market_messages import BookDelta as BookDelta
from .market_messages import BookOrders as BookOrders
from .market_messages import BookResynced as BookResynced
from .market_messages import BookSnapshot as BookSnapshot
from .market_messages import BookStale as BookStale
from .market_messages import ChannelLost as ChannelLost
from .market_messages import ChannelResumed as ChannelResumed
from .market_messages import ChecksumFailed as ChecksumFailed
from .market_messages import DataAnomaly as DataAnomaly
from .market_messages import FeatureVector as FeatureVector
from .market_messages import FeedConnected as FeedConnected
from .market_messages import FeedEnded as FeedEnded
from .market_messages import FeedLost as FeedLost
from .market_messages import FeedSummarized as FeedSummarized
from .market_messages import FundingUpdated as FundingUpdated
from .market_messages import Instrument as Instrument
from .market_messages import Message as Message
from .market_messages import Quote as Quote
from .market_messages import SequenceGap as SequenceGap
from .market_messages import StreamCount as StreamCount
from .market_messages import TimeTick as TimeTick
from .market_messages import Trade as Trade
from .market_messages import levels as levels
from .market_messages import pack_levels as pack_levels
from .market_messages import pack_orders as pack_orders
from .market_messages import single_orders as single_orders
from .money_messages import Balance as Balance
from .money_messages import FundingSettled as FundingSettled
from .money_messages import LedgerLeg as LedgerLeg
from .money_messages import LedgerPosted as LedgerPosted
from .money_messages import PortfolioSnapshot as PortfolioSnapshot
from .money_messages import Position as Position
from .money_messages import PositionLiquidated as PositionLiquidated
from .money_messages import RequestTransfer as RequestTransfer
from .money_messages import TransferEnded as TransferEnded
from .money_messages import TransferStarted as TransferStarted
from .money_messages import TransferSubmitted as TransferSubmitted
from .tournament_messages import ModelResult as ModelResult
from .tournament_messages import TournamentMeasured as TournamentMeasured

# --- News, and what is learned ---------------------------------------------------------------------


class NewsItem(Message, frozen=True):
    """Something a news source says; ts_event is when it was published, id the source's own."""

    ts_event: int
    source: str
    id: str
    title: str
    url: str = ""
    text: str = ""


class TrainingReported(Message, frozen=True):
    """A trainer's step, counted from 1, and its figures by name."""

    trainer: str
    step: int
    metrics: dict[str, float]


class ModelTrained(Message, frozen=True):
    """A training has ended with the file *path*, whose bytes have this sha256."""

    trainer: str
    path: str
    sha256: str
    metrics: dict[str, float]


# --- An order's life: initialized, denied | submitted, accepted | rejected, filled | canceled | expired


class Passport(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    What was known of a book at the moment a decision used it.

    age_ns is since its last message came, and gap_ns since it last missed one (a gap, a failed checksum,
    a lost feed): -1 where there was none. latency_ns is ts_recv - ts_event of its last message: negative
    where the exchange's clock is ahead of ours, 0 where it is unknown.
    """

    state: BookState
    age_ns: int
    gap_ns: int
    latency_ns: int


class TargetPosition(Message, frozen=True):
    """
    A policy's wish, which a strategy that executes turns into orders: how much to hold of one symbol.

    fraction in [-1, 1] is of the most that the executing strategy may hold, below zero short; liquidity
    says whether to wait in the book for it or to take it; reason is for the person who asks why.
    """

    account: str
    exchange: str
    symbol: str
    fraction: float
    liquidity: Liquidity
    reason: str = ""


class SubmitOrder(Message, frozen=True):
    """
    A strategy's wish. price is 0 for MARKET; reason is for the person who asks why.

    confidence, from 0 to 1, is how sure the strategy is, None where it does not weigh that.
    """

    order_id: str
    strategy: str
    account: str
    exchange: str
    symbol: str
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    price: int
    quantity: int
    reduce_only: bool = False
    reason: str = ""
    confidence: float | None = None


class CancelOrder(Message, frozen=True):
    """Take an order back, if it is still open when this reaches the exchange."""

    order_id: str
    exchange: str
    symbol: str
    reason: str = ""


class ReplaceOrder(Message, frozen=True):
    """
    Change an order, if it is still open when this reaches the exchange, to *price* and *quantity* in all.

    It keeps its place in the queue only at the same price for less. quantity counts what has been
    filled: what is then open is quantity less that.
    """

    order_id: str
    exchange: str
    symbol: str
    price: int
    quantity: int
    reason: str = ""


class RiskVerdict(Message, frozen=True):
    """
    One rule's answer to one SubmitOrder: the quantity it allows, 0 for a denial.

    A rule can only reduce: quantity is at most the order's. inputs are the numbers it used.
    """

    order_id: str
    rule: str
    quantity: int
    reason: str = ""
    inputs: dict[str, float] = msgspec.field(default_factory=dict)


class OrderDenied(Message, frozen=True):
    """Our own risk said no; the order never left."""

    order_id: str
    strategy: str
    account: str
    exchange: str
    symbol: str
    rule: str
    reason: str


class OrderSubmitted(Message, frozen=True):
    """Every rule agreed: on its way to the exchange with the quantity they left of it."""

    order_id: str
    strategy: str
    account: str
    exchange: str
    symbol: str
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    price: int
    quantity: int
    arrival_mid: int  # twice the mid at submission, in ticks: bid + ask
    passport: Passport | None = None  # of the book that arrival_mid is from


class OrderAccepted(Message, frozen=True):
    """
    The exchange took it. queue_ahead: lots before us at our price, in about orders_ahead orders.

    passport is that of its OrderSubmitted.
    """

    ts_event: int
    order_id: str
    exchange: str
    symbol: str
    queue_ahead: int
    orders_ahead: int
    passport: Passport | None = None


class OrderRejected(Message, frozen=True):
    """The exchange said no."""

    ts_event: int
    order_id: str
    exchange: str
    symbol: str
    reason: str


class OrderReplaced(Message, frozen=True):
    """
    An open order has this price now and this quantity open, behind queue_ahead lots.

    reason says why it stays as it was, where the exchange refused the change; or who met it, where
    self-trade prevention made it smaller.
    """

    ts_event: int
    order_id: str
    exchange: str
    symbol: str
    price: int
    leaves: int
    queue_ahead: int = 0
    reason: str = ""


class OrderFilled(Message, frozen=True):
    """
    Part or all of an order traded, at ts_event on the exchange; we learn of it at ts_recv.

    fee is in units of fee_asset; leaves is what is still open; queue_ahead and
    orders_ahead are those at acceptance (0 for a taker), wait_ns since then. passport is that
    of its OrderSubmitted: what the decision knew, not what held when it traded.

    entry_ns is how long the order was on its way. depth_left is what its level displays afterwards, in
    lots, and is_swept says of a maker that this is nothing: the trade emptied the level. fill_mid is twice
    the mid and fill_spread the spread, in ticks, of the exchange's book when it traded: 0 where that had
    no two sides.
    """

    ts_event: int
    order_id: str
    fill: int
    strategy: str
    account: str
    exchange: str
    symbol: str
    side: Side
    price: int
    quantity: int
    leaves: int
    liquidity: Liquidity
    fee: int
    fee_asset: str
    queue_ahead: int
    orders_ahead: int
    wait_ns: int
    is_toxic_predicted: bool
    arrival_mid: int
    passport: Passport | None = None
    entry_ns: int = 0
    is_swept: bool = False
    depth_left: int = 0
    fill_mid: int = 0
    fill_spread: int = 0


class OrderCanceled(Message, frozen=True):
    """Taken back with quantity still open."""

    ts_event: int
    order_id: str
    exchange: str
    symbol: str
    leaves: int
    reason: str


class OrderExpired(Message, frozen=True):
    """Ended by its own terms: what an IOC, FOK or MARKET order could not take."""

    ts_event: int
    order_id: str
    exchange: str
    symbol: str
    leaves: int
    reason: str


class MarkoutMeasured(Message, frozen=True):
    """side x (mid at fill + horizon - fill) / fill x 1e4: negative when we were adversely selected."""

    order_id: str
    fill: int
    exchange: str
    symbol: str
    liquidity: Liquidity
    horizon_ns: int
    markout_bps: float


# --- Trading state --------------------------------------------------------------------------------


class HaltTrading(Message, frozen=True):
    """
    Stop, from a rule or a person: *level* is a HaltLevel, and a lower one than holds changes nothing.

    1 takes no new orders, 2 cancels the open ones too, 3 sells everything as well. What is outside of
    1 to 3 counts as the nearest of them.
    """

    source: str
    reason: str
    level: int = HaltLevel.CANCEL


class ResumeTrading(Message, frozen=True):
    """Lift a halt. Only ever from a person."""

    source: str
    reason: str


class TradingHalted(Message, frozen=True):
    """Trading is halted at *level*, a HaltLevel, and stays so until a person resumes it."""

    source: str
    reason: str
    level: int = HaltLevel.CANCEL


class TradingResumed(Message, frozen=True):
    """Trading is active again."""

    source: str
    reason: str


# --- The life of the system -----------------------------------------------------------------------

STOPPED, REMOVED = "stopped", "removed"  # the reasons of a host's end that are no failure


class KernelStarted(Message, frozen=True):
    """A kernel took over this journal; session counts the starts, and *hosts* are what it runs."""

    session: int
    version: str
    profile: str
    hosts: list[str]


class KernelStopped(Message, frozen=True):
    """A clean end of a session."""

    session: int
    reason: str


class HostStarted(Message, frozen=True):
    """A host process is active with these components, at this epoch."""

    host: str
    pid: int
    epoch: int
    components: list[str]


class HostStopped(Message, frozen=True):
    """
    A host process is gone; restart_in_ms is -1 when it will not be restarted.

    The reason is STOPPED when it was asked to, REMOVED when the system goes on without it.
    """

    host: str
    reason: str
    restart_in_ms: int


class PluginFailed(Message, frozen=True):
    """A plugin raised and was set aside; kind says what is missing now."""

    plugin: str
    kind: str
    stage: str
    error: str


class PluginChanged(Message, frozen=True):
    """A person enabled or disabled a plugin."""

    plugin: str
    is_enabled: bool


class SwapStarted(Message, frozen=True):
    """A new process of *host* is being prepared with these versions by plugin; the old one goes on."""

    host: str
    plugins: dict[str, str]
    reason: str


class SwapEnded(Message, frozen=True):
    """A swap of *host* is over: outcome is "permanent" or "rolled back", step how far it had come."""

    host: str
    outcome: str
    step: str
    reason: str


class AlertSent(Message, frozen=True):
    """A sink took the alert *key*; the bus says so in the sink's name, and it is not sent again."""

    sink: str
    severity: Severity
    key: str


class Sync(Message, frozen=True):
    """A marker in the stream: whoever has seen it has seen everything before it."""

    purpose: str


class Canary(Message, frozen=True):
    """
    Sent through the whole pipeline once a second: alive means trading.

    It set out from the source host named; each consumer says when it has come past everything before it.
    """

    number: int
    host: str


def message_types() -> tuple[type[Message], ...]:
    """Return every message type, in the order they are written above."""
    return tuple(Message.__subclasses__())
