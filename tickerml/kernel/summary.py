"""
What a run did, in one object: the figures that `run` and `backtest` print at their end.

A Summary is fed the messages it asks for (topics of WANTED kinds) and holds a state
that can be written down, so a restarted run counts on. Money is that of all accounts together,
and of each by name; max_drawdown is the worst of theirs. decisions_sha256 is a chain,
h' = sha256(h + body), over the bytes of orders, fills and verdicts in their order: two
runs that agree on it decided, ordered and filled the same.
"""

import hashlib
from typing import Any

import msgspec

from . import messages as m
from .enums import HaltLevel
from .topics import DECISION_KINDS, KIND_OF
from .units import format_units

#: Kinds of topic a summary needs to see.
WANTED = DECISION_KINDS | {"feed", "portfolio", "markout", "control", "system"}


class _Feed(msgspec.Struct):
    before: list[int] = []  # of earlier sessions: a restarted feed counts from zero
    latest: list[int] = []
    books: int = 0  # those it keeps now, whatever it kept before
    valid_books: int = 0


class _State(msgspec.Struct):
    chain: bytes = b""
    feeds: dict[str, _Feed] = {}
    gaps: int = 0
    counts: dict[str, int] = {}
    portfolios: dict[str, m.PortfolioSnapshot] = {}  # the last of each account
    markouts: dict[str, tuple[int, float]] = {}
    halted_by: str = ""
    level: int = HaltLevel.CANCEL  # of what halted_by says
    failed: dict[str, str] = {}
    ended: list[str] = []
    lost: dict[str, str] = {}
    channels: dict[str, str] = {}  # that are lost while their feed is not


class Summary:
    """Counts a run as it goes."""

    def __init__(self, state: bytes = b"") -> None:
        self._state = msgspec.msgpack.decode(state, type=_State) if state else _State()

    def add(self, message: m.Message, body: bytes) -> None:
        """Count *message*, whose encoding is *body*."""
        state = self._state
        if KIND_OF[type(message)] in DECISION_KINDS:
            state.chain = hashlib.sha256(state.chain + body).digest()
        if counter := _COUNTED.get(type(message)):
            state.counts[counter] = state.counts.get(counter, 0) + 1
        match message:
            case m.OrderFilled():
                key = f"fills_{message.liquidity.value}"
                state.counts[key] = state.counts.get(key, 0) + 1
            case m.PortfolioSnapshot():
                state.portfolios[message.account] = message
            case m.MarkoutMeasured():
                key = f"{message.horizon_ns // 10**9}s"
                count, total = state.markouts.get(key, (0, 0.0))
                state.markouts[key] = (count + 1, total + message.markout_bps)
            case m.FeedSummarized():
                self._count_feed(message)
            case m.FeedLost():
                state.lost[message.exchange] = message.reason
            case m.FeedConnected():
                state.lost.pop(message.exchange, None)
            case m.ChannelLost():
                state.channels[_channel(message)] = message.reason
            case m.ChannelResumed():
                state.channels.pop(_channel(message), None)
            case m.TradingHalted():
                state.halted_by, state.level = f"{message.source}: {message.reason}", message.level
            case m.TradingResumed():
                state.halted_by = ""
            case m.KernelStarted():
                state.failed = {}  # what failed before may have been mended since
            case m.PluginFailed():
                state.failed[message.plugin] = f"{message.stage}: {message.error}"
            case m.FeedEnded():
                state.ended.append(message.source)

    def _count_feed(self, message: m.FeedSummarized) -> None:
        feed = self._state.feeds.setdefault(message.exchange, _Feed([0, 0, 0], [0, 0, 0]))
        latest = [message.messages, message.skipped, message.crossed_books]
        if latest[0] < feed.latest[0]:
            feed.before = [a + b for a, b in zip(feed.before, feed.latest, strict=True)]
        feed.latest = latest
        feed.books, feed.valid_books = message.books, message.valid_books

    @property
    def over(self) -> set[str]:
        """The sources that will send no more, because they ended or because they failed."""
        return {*self._state.ended, *self._state.failed}

    @property
    def halted_by(self) -> str:
        """Who halted trading and why; "" while it is active."""
        return self._state.halted_by

    @property
    def level(self) -> HaltLevel:
        """The level of the kill switch."""
        return HaltLevel(self._state.level) if self._state.halted_by else HaltLevel.RUN

    @property
    def lost(self) -> dict[str, str]:
        """The exchanges whose feed is lost, and why."""
        return self._state.lost

    @property
    def channels(self) -> dict[str, str]:
        """The channels that are lost, "kraken BTC/USD trade", and why."""
        return self._state.channels

    @property
    def failed(self) -> dict[str, str]:
        """The plugins that were set aside, and why."""
        return self._state.failed

    def to_bytes(self) -> bytes:
        """Return the state, for Summary(state)."""
        return msgspec.msgpack.encode(self._state)

    def report(self) -> dict[str, Any]:
        """Return the figures, ready for JSON; money is decimal text in the account's currency."""
        state = self._state
        feeds = [
            [a + b for a, b in zip(feed.before, feed.latest, strict=True)] for feed in state.feeds.values()
        ]
        messages, skipped, crossed = (
            (sum(column) for column in zip(*feeds, strict=True)) if feeds else (0, 0, 0)
        )
        counts = {name: state.counts.get(name, 0) for name in _REPORTED}
        return {
            "messages": messages,
            "skipped": skipped,
            "crossed_books": crossed,
            "books": sum(feed.books for feed in state.feeds.values()),
            "books_valid": sum(feed.valid_books for feed in state.feeds.values()),
            **counts,
            **_money(list(state.portfolios.values())),
            "accounts": {name: _money([own]) for name, own in sorted(state.portfolios.items())},
            "markouts_bps": {
                horizon: {"count": count, "mean": total / count}
                for horizon, (count, total) in sorted(state.markouts.items())
            },
            "decisions_sha256": (state.chain or hashlib.sha256().digest()).hex(),
            "halted_by": self.halted_by or None,
            "halt_level": int(self.level),
            "failed_plugins": dict(state.failed),
        }


def _channel(message: m.ChannelLost | m.ChannelResumed) -> str:
    return f"{message.exchange} {message.symbol} {message.channel}"


def _money(portfolios: list[m.PortfolioSnapshot]) -> dict[str, Any]:
    """Return what *portfolios*, whose currency is one, come to together."""
    if not portfolios:
        return dict.fromkeys(("equity", "opening", "fees", "max_drawdown", "currency"))
    return {
        "equity": format_units(sum(each.equity for each in portfolios), 8),
        "opening": format_units(sum(each.opening for each in portfolios), 8),
        "fees": format_units(sum(each.fees for each in portfolios), 8),
        "max_drawdown": max(each.max_drawdown for each in portfolios),
        "currency": portfolios[0].currency,
    }


_COUNTED = {
    m.SequenceGap: "gaps",
    m.ChecksumFailed: "checksums_bad",
    m.SubmitOrder: "orders",
    m.OrderDenied: "orders_denied",
    m.OrderRejected: "orders_rejected",
    m.OrderCanceled: "orders_canceled",
    m.OrderExpired: "orders_expired",
    m.OrderFilled: "fills",
}
_REPORTED = (
    "gaps",
    "checksums_bad",
    "orders",
    "orders_denied",
    "orders_rejected",
    "orders_canceled",
    "orders_expired",
    "fills",
    "fills_maker",
    "fills_taker",
)
