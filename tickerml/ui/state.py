"""
What the console knows: one model for every open page.

Messages, reports and log lines go in; frames for a page come out, built only when one
is asked for and only of what it shows. Everything is bounded, so a week's run costs what
a minute's does: candles, prints and log lines are the last so many, and the equity curve
thins itself.

Nothing here knows a socket, a browser or the time of day: *at* is the caller's monotonic
clock in seconds, None for what is read from the journal and therefore proves nothing about
now. Texts are made here, so that a page only has to show them.
"""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    ArbitrageEnded,
    ArbitrageSeen,
    BookCrossed,
    BookDelta,
    BookResynced,
    BookSnapshot,
    BookStale,
    BookState,
    ChannelLost,
    ChannelResumed,
    ChecksumFailed,
    DataAnomaly,
    FeedConnected,
    FeedEnded,
    FeedLost,
    FeedSummarized,
    FundingUpdated,
    HostStarted,
    HostStopped,
    Instrument,
    KernelStarted,
    LegsSettled,
    Message,
    OrderAccepted,
    OrderBook,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    PluginChanged,
    PluginFailed,
    PortfolioSnapshot,
    Position,
    SequenceGap,
    Side,
    SwapEnded,
    SwapStarted,
    Trade,
    TradingHalted,
    TradingResumed,
    format_units,
)

from .arbitrage import ArbitrageBoard
from .feeds import SILENCE_S, Feed
from .orders import OrdersBoard
from .risk import RiskBoard
from .rows import Row as Row
from .rows import signed as signed
from .rows import tone_of

CANDLE_S = 5
CANDLES_KEPT = 360
PRINTS_KEPT = 120
LOG_LINES_KEPT = 300
ORDERS_KEPT = 2_000
POINTS_KEPT = 1_200
LINE_LENGTH = 400

_WARNINGS = (
    OrderDenied,
    OrderRejected,
    FeedLost,
    SequenceGap,
    ChecksumFailed,
    BookStale,
    BookCrossed,
    ChannelLost,
    DataAnomaly,
    HostStopped,
)
_ERRORS = (TradingHalted, PluginFailed)
_EVENTS: dict[type[Message], str] = {
    OrderDenied: "order.denied",
    OrderRejected: "order.rejected",
    FeedConnected: "feed.connected",
    FeedLost: "feed.lost",
    FeedEnded: "feed.ended",
    SequenceGap: "book.gap_found",
    ChecksumFailed: "book.checksum_failed",
    BookStale: "book.went_stale",
    BookCrossed: "book.crossed",
    BookResynced: "book.resynced",
    ChannelLost: "feed.channel_lost",
    ChannelResumed: "feed.channel_resumed",
    DataAnomaly: "data.doubted",
    TradingHalted: "trading.halted",
    TradingResumed: "trading.resumed",
    KernelStarted: "kernel.session_started",
    HostStarted: "host.joined",
    HostStopped: "host.left",
    PluginFailed: "plugin.failed",
    PluginChanged: "plugin.changed",
    SwapStarted: "swap.started",
    SwapEnded: "swap.ended",
}
_TOLD_BY_MESSAGE = frozenset({"order.filled", *_EVENTS.values()})  # plugins log these too, in ticks
_UNTOLD = frozenset({"ts_recv", "ts_event", "order_id", "account", "pid", "epoch"})

Key = tuple[str, str]  # exchange, symbol
Level = tuple[int, int]  # price in ticks, lots


class Candle(msgspec.Struct):
    """Trades of CANDLE_S seconds from *start*, s since the epoch; fills are our own last prices in it."""

    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float = 0.0
    bought: float | None = None
    sold: float | None = None

    def row(self) -> list[float | None]:
        """Return [start, open, close, low, high, volume, bought, sold], as the chart wants it."""
        prices = [self.open, self.close, self.low, self.high]
        return [self.start, *prices, self.volume, self.bought, self.sold]


class OpenOrder(msgspec.Struct):
    """One of our orders that may still trade: lots left, and lots ahead of it when it was accepted."""

    side: Side
    price: int
    leaves: int
    queue_ahead: int = 0


class Curve:
    """A series over time that never grows: when full, every second point goes and the step doubles."""

    def __init__(self, capacity: int = POINTS_KEPT) -> None:
        self._capacity = capacity
        self.step = 1.0
        self.points: list[tuple[float, float]] = []

    def add(self, ts: float, value: float) -> None:
        """Add *value* at *ts* seconds; within one step of the point before the last it replaces the last."""
        points = self.points
        if points and ts < points[-1][0]:
            return
        if len(points) > 1 and ts - points[-2][0] < self.step:
            points[-1] = (ts, value)
            return
        points.append((ts, value))
        if len(points) > self._capacity:
            self.points = points[:-1:2] + points[-1:]
            self.step *= 2


class Market:
    """One symbol on one exchange."""

    def __init__(self, exchange: str, symbol: str) -> None:
        self.exchange = exchange
        self.symbol = symbol
        self.instrument: Instrument | None = None
        self.book = OrderBook(exchange, symbol)
        self.candles: deque[Candle] = deque(maxlen=CANDLES_KEPT)
        self.prints: deque[Row] = deque(maxlen=PRINTS_KEPT)
        self.orders: dict[str, OpenOrder] = {}
        self.tick = self.lot = 1.0
        self.price_digits = self.quantity_digits = 0

    def describe(self, instrument: Instrument) -> None:
        """Take the scale of prices and quantities."""
        self.instrument = instrument
        self.tick, self.lot = instrument.tick_size / UNIT, instrument.lot_size / UNIT
        self.price_digits, self.quantity_digits = _digits(instrument.tick_size), _digits(instrument.lot_size)

    def price(self, ticks: float) -> str:
        """Return *ticks* as text; half a tick, as of a mid, shows one digit more."""
        digits = self.price_digits + (0 if float(ticks).is_integer() else 1)
        return f"{ticks * self.tick:,.{digits}f}"

    def quantity(self, lots: int) -> str:
        """Return *lots* as text."""
        return f"{lots * self.lot:,.{self.quantity_digits}f}"

    def candle(self, ts: int, price: float) -> Candle:
        """Return the candle of *ts*, ns UTC, with *price* in it; a late one belongs to the last."""
        start = ts // NS_PER_S // CANDLE_S * CANDLE_S
        if not self.candles or start > self.candles[-1].start:
            self.candles.append(Candle(start, price, price, price, price))
        candle = self.candles[-1]
        candle.high, candle.low = max(candle.high, price), min(candle.low, price)
        return candle


def _digits(step: int) -> int:
    return len(format_units(step).partition(".")[2])


def _clock(ts: int) -> str:
    return datetime.fromtimestamp(ts / NS_PER_S, UTC).strftime("%H:%M:%S")


class ConsoleState:
    """Everything the pages show."""

    def __init__(self) -> None:
        self.markets: dict[Key, Market] = {}
        self.feeds: dict[str, Feed] = {}
        self.portfolios: dict[str, PortfolioSnapshot] = {}
        self.equity = Curve()
        self.arbitrage = ArbitrageBoard()
        self.orders = OrdersBoard()
        self.risk = RiskBoard()
        self.market_ns = 0  # the time of what came last, ns UTC
        self.sessions: deque[float] = deque(maxlen=50)
        self.log: deque[Row] = deque(maxlen=LOG_LINES_KEPT)
        self.report: dict[str, Any] = {}
        self.halted_by = ""
        self.halt_level = 0
        self._owners: dict[str, Key] = {}  # order id -> its market, oldest first
        self._count = 0
        self._market_at: float | None = None
        self._report_at: float | None = None

    # --- In -----------------------------------------------------------------------------------

    def apply(self, message: Message, at: float | None = None) -> None:
        """Take one message of the bus; *at* is when it came, None when it is history."""
        self.market_ns = message.ts_recv
        self.orders.take(message)
        self.risk.take(message)
        match message:
            case BookSnapshot():
                self._heard(message.exchange, at)
                self._market(message).book.apply_snapshot(message)
            case BookDelta():
                self._heard(message.exchange, at)
                self._market(message).book.apply_delta(message)
            case Trade():
                self._heard(message.exchange, at)
                self._add_trade(message)
            case Instrument():
                self._feed(message.exchange)
                self._market(message).describe(message)
            case PortfolioSnapshot():
                self.portfolios[message.account] = message
                self.equity.add(message.ts_recv / NS_PER_S, message.equity / UNIT)
            case ArbitrageSeen() | ArbitrageEnded() | LegsSettled() | FundingUpdated():
                self.arbitrage.take(message)
            case OrderFilled():
                self._add_fill(message)
            case OrderSubmitted() | OrderAccepted() | OrderRejected() | OrderCanceled() | OrderExpired():
                self._follow_order(message)
            case TradingHalted():
                self.halted_by, self.halt_level = f"{message.source}: {message.reason}", message.level
            case TradingResumed():
                self.halted_by, self.halt_level = "", 0
            case KernelStarted() if message.ts_recv:
                self.sessions.append(message.ts_recv / NS_PER_S)
            case SequenceGap() | ChecksumFailed() | BookStale() | FeedLost():
                self._feed(message.exchange).take(message)
                self._distrust(message)
            case FeedConnected() | FeedSummarized() | BookCrossed() | DataAnomaly():
                self._feed(message.exchange).take(message)
            case ChannelLost() | ChannelResumed():
                self._feed(message.exchange).take(message)
        if event := _EVENTS.get(type(message)):
            self._tell(message, event)

    def apply_status(self, report: dict[str, Any], at: float | None) -> None:
        """Take the kernel's report on itself."""
        self.report = report
        self.halted_by = report.get("halted_by") or ""
        self.halt_level = report.get("halt_level", 0)
        self._report_at = at

    def apply_log(self, line: bytes) -> None:
        """Take one line a host wrote: a JSON object of structlog's, or whatever a library printed."""
        try:
            facts = json.loads(line)
            event, level = str(facts.pop("event")), str(facts.pop("level", "info"))
        except (ValueError, KeyError, AttributeError, TypeError):  # not JSON, or not such an object
            self._log("", "info", line.decode(errors="replace"))
            return
        if event in _TOLD_BY_MESSAGE:
            return
        time = str(facts.pop("timestamp", ""))[11:19]
        facts.pop("host", None) if "plugin" in facts else None
        if error := str(facts.pop("exception", "")).strip():
            facts["error"] = error.splitlines()[-1]
        self._log(time, level, _sentence(event, facts.items()))

    def restore_book(self, snapshot: BookSnapshot, state: BookState) -> None:
        """Take a whole book, and how far it was trusted, from a checkpoint."""
        book = self._market(snapshot).book
        book.apply_snapshot(snapshot)
        book.state = state

    def _market(self, message: Any) -> Market:
        key = (message.exchange, message.symbol)
        if (market := self.markets.get(key)) is None:
            market = self.markets[key] = Market(*key)
        return market

    def _feed(self, exchange: str) -> Feed:
        if (feed := self.feeds.get(exchange)) is None:
            feed = self.feeds[exchange] = Feed(exchange)
        return feed

    def _heard(self, exchange: str, at: float | None) -> None:
        if at is not None:
            self._market_at = at
            self._feed(exchange).hear(at)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _add_trade(self, trade: Trade) -> None:
        market = self._market(trade)
        price = trade.price * market.tick
        candle = market.candle(trade.ts_event or trade.ts_recv, price)
        candle.close = price
        candle.volume += trade.quantity * market.lot
        tone = "buy" if trade.aggressor is Side.BUY else "sell"
        clock = _clock(trade.ts_event or trade.ts_recv)
        cells = [clock, market.price(trade.price), market.quantity(trade.quantity), ""]
        market.prints.append(Row(self._next(), cells, tone))

    def _add_fill(self, fill: OrderFilled) -> None:
        market = self._market(fill)
        price = fill.price * market.tick
        candle = market.candle(fill.ts_event or fill.ts_recv, price)
        if fill.side is Side.BUY:
            candle.bought = price
        else:
            candle.sold = price
        if order := market.orders.get(fill.order_id):
            order.leaves = fill.leaves
        if not fill.leaves:
            self._forget_order(fill.order_id)
        price_text, quantity_text = market.price(fill.price), market.quantity(fill.quantity)
        side = fill.side.name.lower()
        cells = [_clock(fill.ts_recv), price_text, quantity_text, f"our {side} · {fill.liquidity}"]
        market.prints.append(Row(self._next(), cells, f"own {side}"))
        what = f"order.filled {fill.side.name} {quantity_text} {fill.symbol} @ {price_text}"
        self._log(_clock(fill.ts_recv), "info", f"{what} {fill.exchange} {fill.liquidity}")

    def _follow_order(self, message: Any) -> None:
        orders = self._market(message).orders
        match message:
            case OrderSubmitted() if message.order_type is OrderType.LIMIT:
                orders[message.order_id] = OpenOrder(message.side, message.price, message.quantity)
                self._owners[message.order_id] = (message.exchange, message.symbol)
                if len(self._owners) > ORDERS_KEPT:
                    self._forget_order(next(iter(self._owners)))
            case OrderAccepted():
                if order := orders.get(message.order_id):
                    order.queue_ahead = message.queue_ahead
            case OrderRejected() | OrderCanceled() | OrderExpired():
                self._forget_order(message.order_id)

    def _forget_order(self, order_id: str) -> None:
        if key := self._owners.pop(order_id, None):
            self.markets[key].orders.pop(order_id, None)

    def _distrust(self, message: SequenceGap | ChecksumFailed | BookStale | FeedLost) -> None:
        state = BookState.STALE if isinstance(message, BookStale) else BookState.RESYNCING
        for market in self.markets.values():
            if market.exchange == message.exchange and market.symbol == getattr(
                message, "symbol", market.symbol
            ):
                market.book.state = state

    def _tell(self, message: Message, event: str) -> None:
        level = "error" if isinstance(message, _ERRORS) else "info"
        level = "warning" if isinstance(message, _WARNINGS) else level
        facts = [
            (name, value)
            for name in message.__struct_fields__
            if name not in _UNTOLD and (value := getattr(message, name)) not in ("", [])
        ]
        self._log(_clock(message.ts_recv), level, _sentence(event, facts))

    def _log(self, time: str, level: str, text: str) -> None:
        short = {"warning": "WARN", "critical": "ERROR"}.get(level, level.upper())
        self.log.append(Row(self._next(), [time, short, text[:LINE_LENGTH]], level))

    # --- Out ----------------------------------------------------------------------------------

    def doubt(self, at: float) -> str:
        """Return why what is shown may not be believed at *at*, "" when it may."""
        if self._report_at is None:
            return "Waiting for the kernel's first report."
        if (silence := at - self._report_at) > SILENCE_S:
            return f"The kernel has not reported for {silence:.0f} s: everything below is old."
        if self._market_at is None:
            return "Waiting for market data."
        if (silence := at - self._market_at) > SILENCE_S:
            return f"No market data for {silence:.0f} s: prices below are old."
        return ""

    def sickness(self) -> str:
        """Return which parts the kernel calls degraded, since when and why; "" when there is none."""
        return " · ".join(
            f"{row['part']} since {_clock(row['since_ns'])} UTC: {row['reason']}"
            for row in self.report.get("degraded", [])
        )

    def price_digits(self, key: Key) -> int:
        """Return how many decimals a price of *key* has."""
        return self.markets[key].price_digits if key in self.markets else 2

    def market_keys(self) -> list[Key]:
        """Return the markets there are, sorted."""
        return sorted(self.markets)

    def main_market(self) -> Key:
        """Return the market to show first: where most is held, else the first there is."""
        portfolio = self.portfolio()
        positions = portfolio.positions if portfolio else []
        held = [(p.cost, (p.exchange, p.symbol)) for p in positions if p.quantity]
        return max((item for item in held if item[1] in self.markets), default=(0, min(self.markets)))[1]

    def portfolio(self) -> PortfolioSnapshot | None:
        """Return the first account's money, None until it is known."""
        return self.portfolios[min(self.portfolios)] if self.portfolios else None

    def ladder(self, key: Key, depth: int) -> dict[str, Any]:
        """
        Return the book of *key* as texts.

        Returns: bids and asks, best first: [price, quantity, cumulative quantity, its
            fraction of the longer side, our own quantity or ""]; mid, spread, imbalance in
            [-1, 1]; note says what is wrong with the book.
        """
        market = self.markets.get(key)
        if market is None or market.instrument is None:
            return {"bids": [], "asks": [], "note": "no such market yet"}
        book = market.book
        bids, asks = book.bids.top(depth), book.asks.top(depth)
        bid_total, ask_total = (sum(quantity for _, quantity in side) for side in (bids, asks))
        own = _own_lots(market.orders.values())
        longest = max(bid_total, ask_total, 1)
        is_whole = bool(bids and asks)
        return {
            "bids": _ladder_side(market, bids, own, Side.BUY, longest),
            "asks": _ladder_side(market, asks, own, Side.SELL, longest),
            "mid": market.price((bids[0][0] + asks[0][0]) / 2) if is_whole else "",
            "spread": market.price(asks[0][0] - bids[0][0]) if is_whole else "",
            "imbalance": f"{(bid_total - ask_total) / (bid_total + ask_total):+.2f}" if is_whole else "",
            "note": BOOK_NOTES[book.state] if not book.is_crossed else "crossed",
        }

    def candle_rows(self, key: Key, since: float = 0) -> list[list[float | None]]:
        """Return the candles of *key* that start at *since* or later."""
        market = self.markets.get(key)
        return [candle.row() for candle in market.candles if candle.start >= since] if market else []

    def print_rows(self, key: Key, after: int = 0) -> list[Row]:
        """Return the prints and our fills of *key* numbered beyond *after*, oldest first."""
        market = self.markets.get(key)
        return _beyond(market.prints, after) if market else []

    def log_rows(self, after: int = 0) -> list[Row]:
        """Return the log lines numbered beyond *after*, oldest first."""
        return _beyond(self.log, after)

    def position_rows(self) -> list[Row]:
        """Return what is held: symbol, exchange, quantity, entry, mark, value, unrealized, realized."""
        portfolio = self.portfolio()
        return [self._position_row(p) for p in portfolio.positions if p.quantity] if portfolio else []

    def _position_row(self, position: Position) -> Row:
        market = self._market(position)
        entry = position.cost / UNIT / (position.quantity * market.lot)
        cells = [
            position.symbol,
            position.exchange,
            market.quantity(position.quantity),
            f"{entry:,.{market.price_digits}f}",
            market.price(position.mark) if position.mark else "–",
            f"{position.quantity * market.lot * position.mark * market.tick:,.2f}",
            signed(position.unrealized),
            signed(position.realized),
        ]
        tones = ["", "", "", "", "", "", tone_of(position.unrealized), tone_of(position.realized)]
        return Row(f"{position.exchange} {position.symbol}", cells, "", tones)

    def exposures(self) -> list[tuple[str, float]]:
        """Return (symbol, value held as a fraction of equity) over all exchanges, largest first."""
        portfolio = self.portfolio()
        if portfolio is None or portfolio.equity <= 0:
            return []
        held: dict[str, float] = {}
        for position in portfolio.positions:
            market = self._market(position)
            value = position.quantity * market.lot * position.mark * market.tick
            if value:
                held[position.symbol] = held.get(position.symbol, 0.0) + value * UNIT / portfolio.equity
        return sorted(held.items(), key=lambda item: (-abs(item[1]), item[0]))

    def plugin_rows(self) -> list[dict[str, Any]]:
        """Return the plugins of the report, each with is_on and one line of detail."""
        hosts = {host["host"]: host for host in self.report.get("hosts", [])}
        return [self._plugin_row(entry, hosts) for entry in self.report.get("plugins", [])]

    def _plugin_row(self, entry: dict[str, Any], hosts: dict[str, dict[str, Any]]) -> dict[str, Any]:
        host = hosts.get(entry["host"], {})
        facts = [entry["kind"].replace("_", " ")]
        is_on = entry.get("enabled", True)
        if host and is_on:
            facts += [f"lag {host['lag']:,}", f"{host['rss_mb']:,.0f} MB"]
            facts += [f"restarts {host['restarts']}"] if host["restarts"] else []
        is_well = entry["state"] == "active" or not (is_on and entry["reason"])
        detail = " · ".join(facts) if is_well else entry["reason"]
        return {**entry, "is_on": is_on, "detail": detail}


#: What is wrong with a book.
BOOK_NOTES = {
    BookState.VALID: "",
    BookState.STALE: "silent",
    BookState.RESYNCING: "waiting for a snapshot",
}


def _beyond(rows: Iterable[Row], after: int) -> list[Row]:
    return [row for row in rows if int(row.id) > after]


def _own_lots(orders: Iterable[OpenOrder]) -> dict[tuple[Side, int], int]:
    own: dict[tuple[Side, int], int] = {}
    for order in orders:
        own[order.side, order.price] = own.get((order.side, order.price), 0) + order.leaves
    return own


def _ladder_side(
    market: Market, side: Sequence[Level], own: dict[tuple[Side, int], int], which: Side, longest: int
) -> list[list[Any]]:
    rows, total = [], 0
    for price, lots in side:
        total += lots
        texts = [market.price(price), market.quantity(lots), market.quantity(total)]
        ours = own.get((which, price), 0)
        rows.append([*texts, round(total / longest, 3), market.quantity(ours) if ours else ""])
    return rows


def _sentence(event: str, facts: Iterable[tuple[str, Any]]) -> str:
    return " ".join([event, *(f"{name}={value}" for name, value in facts)])
