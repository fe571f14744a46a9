"""
Topics: the only place that spells or parses one.

A topic is `kind.exchange.SYMBOL.` with **every segment closed by a dot**. ZeroMQ
matches by prefix, so without the last dot a subscriber to BTC-USD would also get
BTC-USDT. The slash of a symbol becomes a dash. A message type belongs to one kind,
and a kind says how long the journal keeps it.
"""

from collections.abc import Iterable

from . import messages as m

#: kind -> the message types it carries.
KINDS: dict[str, tuple[type[m.Message], ...]] = {
    "instrument": (m.Instrument,),
    "book": (m.BookSnapshot, m.BookDelta),
    "l3": (m.BookOrders,),
    "trade": (m.Trade,),
    "quote": (m.Quote,),
    "funding": (m.FundingUpdated,),
    "feed": (
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
    ),
    "anomaly": (m.DataAnomaly,),
    "time": (m.TimeTick,),
    "bar": (m.Bar,),
    "feature": (m.FeatureVector,),
    "target": (m.TargetPosition,),
    "order": (
        m.SubmitOrder,
        m.CancelOrder,
        m.ReplaceOrder,
        m.OrderDenied,
        m.OrderSubmitted,
        m.OrderAccepted,
        m.OrderRejected,
        m.OrderReplaced,
        m.OrderCanceled,
        m.OrderExpired,
    ),
    "fill": (m.OrderFilled,),
    "verdict": (m.RiskVerdict,),
    "markout": (m.MarkoutMeasured,),
    "tournament": (m.TournamentMeasured,),
    "arbitrage": (m.ArbitrageSeen, m.ArbitrageEnded, m.LegsSettled),
    "portfolio": (m.PortfolioSnapshot,),
    "ledger": (m.LedgerPosted, m.PositionLiquidated, m.FundingSettled),
    "transfer": (m.RequestTransfer, m.TransferSubmitted, m.TransferStarted, m.TransferEnded),
    "control": (m.HaltTrading, m.ResumeTrading, m.TradingHalted, m.TradingResumed),
    "system": (
        m.KernelStarted,
        m.KernelStopped,
        m.HostStarted,
        m.HostStopped,
        m.PluginFailed,
        m.PluginChanged,
        m.SwapStarted,
        m.SwapEnded,
    ),
    "sync": (m.Sync,),
    "canary": (m.Canary,),
    "news": (m.NewsItem,),
    "training": (m.TrainingReported,),
    "model": (m.ModelTrained,),
    "alert": (m.AlertSent,),
}

KIND_OF: dict[type[m.Message], str] = {cls: kind for kind, classes in KINDS.items() for cls in classes}

#: Kinds whose bytes are the behaviour of a run: two runs that agree on them did the same.
DECISION_KINDS = frozenset({"order", "fill", "verdict"})

#: Kinds the journal keeps for good; the others are kept hot for hours and then live on in the tape.
KEPT_KINDS = DECISION_KINDS | {
    "markout",
    "tournament",
    "arbitrage",
    "portfolio",
    "ledger",
    "transfer",
    "control",
    "system",
    "instrument",
    "news",
    "model",
    "alert",
}

_cache: dict[tuple[str, str, str], bytes] = {}


def topic(kind: str, exchange: str = "", symbol: str = "") -> bytes:
    """Return the topic of *kind*, narrowed by *exchange* and *symbol* ("BTC/USDT") where given."""
    key = (kind, exchange, symbol)
    if (known := _cache.get(key)) is None:
        parts = [kind, exchange, symbol.replace("/", "-")]
        known = _cache[key] = "".join(f"{part}." for part in parts if part).encode()
    return known


def topic_of(message: m.Message) -> bytes:
    """Return the topic that *message* is published on."""
    return topic(KIND_OF[type(message)], getattr(message, "exchange", ""), getattr(message, "symbol", ""))


def parse(text: bytes) -> tuple[str, str, str]:
    """
    Return (kind, exchange, symbol) of a topic, "" for what it does not name.

    Raises: ValueError: a segment is not closed, or the kind is unknown.
    """
    parts = text.decode().split(".")
    if parts[-1] or not 2 <= len(parts) <= 4 or parts[0] not in KINDS:
        raise ValueError(f"expected kind.exchange.SYMBOL. with every segment closed, was {text!r}")
    kind, exchange, symbol = (*parts[:-1], "", "")[:3]
    return kind, exchange, symbol.replace("-", "/", 1)  # the quote of a future has a dash of its own


def prefixes(types: Iterable[type[m.Message]]) -> list[bytes]:
    """Return the subscriptions that cover *types*, sorted."""
    return sorted({topic(KIND_OF[cls]) for cls in types})
