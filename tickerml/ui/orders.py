"""
What the console knows of our orders: where each stands in its queue, how it lived, and its fills.

As in state.py everything is bounded, and texts are made here. Where an order stands is the exchange's
secret and the simulator's estimate; what is shown between an acceptance and a fill is a lower bound of
what has gone: the prints at its price, and the size of its level. `tickerml why` replays the simulator.
"""

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookSide,
    MarkoutMeasured,
    Message,
    OrderAccepted,
    OrderBook,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderReplaced,
    OrderSubmitted,
    Side,
    TournamentMeasured,
    Trade,
    format_units,
)

from .rows import Row
from .tournament import TournamentBoard

ORDERS_KEPT = 500
FILLS_KEPT = 300
SHOWN = 200
HORIZONS_S = (1, 10, 60)

OPEN = (
    ("Sent", ""),
    ("Order", ""),
    ("Exchange", ""),
    ("Symbol", ""),
    ("Side", ""),
    ("Price", "r num"),
    ("Open", "r num"),
    ("Ahead", "r num"),
    ("Place in the queue", "bar"),
    ("Age", "r num"),
)
RECENT = (
    ("Sent", ""),
    ("Order", ""),
    ("Exchange", ""),
    ("Symbol", ""),
    ("Side", ""),
    ("Price", "r num"),
    ("Quantity", "r num"),
    ("Filled", "r num"),
    ("Life", "life"),
    ("Why it ended", "wrap"),
)
FILLS = (
    ("Heard", ""),
    ("Order", ""),
    ("Exchange", ""),
    ("Symbol", ""),
    ("Side", ""),
    ("Price", "r num"),
    ("Quantity", "r num"),
    ("As", ""),
    ("Fee", "r num"),
    ("Waited", "r num"),
    ("Behind", "r num"),
    ("Latency", "r num"),
    ("Toxic", ""),
    *((f"{seconds} s", "r num") for seconds in HORIZONS_S),
)

_ENDS: dict[type[Message], str] = {
    OrderDenied: "denied",
    OrderRejected: "rejected",
    OrderCanceled: "canceled",
    OrderExpired: "expired",
}


class Scale(Protocol):
    """How prices and quantities of one symbol are written, and its book."""

    book: OrderBook

    def price(self, ticks: float) -> str: ...
    def quantity(self, lots: int) -> str: ...


Key = tuple[str, str]
Markets = Mapping[Key, Scale]


class Known(msgspec.Struct):
    """One order: lots and ticks; ahead is None until it was accepted."""

    order_id: str
    key: Key
    side: Side | None
    price: int
    quantity: int
    sent_ns: int
    leaves: int
    start: int = 0
    ahead: int | None = None
    orders_ahead: int = 0
    steps: list[tuple[int, str]] = []
    reason: str = ""
    is_open: bool = True


class OrdersBoard:
    """The content of the page Orders & Queue."""

    def __init__(self) -> None:
        self.version = 0  # rises with every change of orders
        self.tournament = TournamentBoard()
        self._orders: OrderedDict[str, Known] = OrderedDict()
        self._fills: deque[OrderFilled] = deque(maxlen=FILLS_KEPT)
        self._markouts: OrderedDict[tuple[str, int, int], float] = OrderedDict()
        self._count = 0

    def take(self, message: Message) -> None:
        """Take one message; those that are of no order are ignored."""
        match message:
            case Trade():
                self._print(message)
                return
            case OrderSubmitted():
                self._submit(message)
            case OrderAccepted():
                self._accept(message)
            case OrderReplaced():
                self._replace(message)
            case OrderFilled():
                self._fill(message)
            case OrderDenied() | OrderRejected() | OrderCanceled() | OrderExpired():
                self._end(message)
            case TournamentMeasured():
                self.tournament.take(message)
            case MarkoutMeasured():
                self._markouts[message.order_id, message.fill, message.horizon_ns] = message.markout_bps
                if len(self._markouts) > 4 * FILLS_KEPT:
                    self._markouts.popitem(last=False)
            case _:
                return
        self.version += 1

    def _submit(self, order: OrderSubmitted) -> None:
        key, count = (order.exchange, order.symbol), order.quantity
        self._add(Known(order.order_id, key, order.side, order.price, count, order.ts_recv, count))
        self._orders[order.order_id].steps.append((order.ts_recv, "sent"))

    def _add(self, order: Known) -> None:
        self._orders[order.order_id] = order
        if len(self._orders) > ORDERS_KEPT:
            closed = next((each for each in self._orders.values() if not each.is_open), None)
            self._orders.pop(closed.order_id if closed else next(iter(self._orders)))

    def _accept(self, event: OrderAccepted) -> None:
        if order := self._orders.get(event.order_id):
            order.start = order.ahead = event.queue_ahead
            order.orders_ahead = event.orders_ahead
            order.steps.append((event.ts_event, "accepted"))

    def _replace(self, event: OrderReplaced) -> None:
        if order := self._orders.get(event.order_id):
            order.price, order.leaves = event.price, event.leaves
            order.start = order.ahead = event.queue_ahead
            order.steps.append((event.ts_event, "replaced"))

    def _fill(self, fill: OrderFilled) -> None:
        self._fills.append(fill)
        if order := self._orders.get(fill.order_id):
            order.leaves, order.ahead = fill.leaves, 0
            order.is_open = fill.leaves > 0
            order.steps.append((fill.ts_event, "filled" if not fill.leaves else "part filled"))

    def _end(self, event: Any) -> None:
        if event.order_id not in self._orders:  # denied: it never left, and only its denial is known
            key = (event.exchange, event.symbol)
            self._add(Known(event.order_id, key, None, 0, 0, event.ts_recv, 0))
        order = self._orders[event.order_id]
        order.is_open = False
        order.reason = f"{event.rule}: {event.reason}" if isinstance(event, OrderDenied) else event.reason
        order.steps.append((getattr(event, "ts_event", event.ts_recv), _ENDS[type(event)]))

    def _print(self, trade: Trade) -> None:
        key = (trade.exchange, trade.symbol)
        for order in self._orders.values():
            if not order.is_open or order.ahead is None or order.side is None or order.key != key:
                continue
            if order.side is trade.aggressor:
                continue
            beyond = order.side * (order.price - trade.price)
            if beyond == 0:
                order.ahead = max(0, order.ahead - trade.quantity)
            elif beyond > 0:
                order.ahead = 0

    # --- Out ------------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return one line: how many are open, and what became of the others that are known."""
        is_open = sum(order.is_open for order in self._orders.values())
        ends = [order.steps[-1][1] for order in self._orders.values() if not order.is_open and order.steps]
        parts = [f"{ends.count(end):,} {end}" for end in ("filled", *_ENDS.values()) if ends.count(end)]
        return " · ".join([f"{is_open:,} open", *parts])

    def open_rows(self, markets: Markets, now_ns: int) -> list[Row]:
        """Return the open orders, oldest first, in the columns of OPEN; the bar is a fraction in [0, 1]."""
        return [
            _open_row(o, markets[o.key], now_ns)
            for o in self._orders.values()
            if o.is_open and o.key in markets
        ]

    def recent_rows(self, markets: Markets) -> list[Row]:
        """Return the orders that have ended, newest first, in the columns of RECENT."""
        found = [o for o in reversed(self._orders.values()) if not o.is_open and o.key in markets]
        return [_recent_row(order, markets[order.key]) for order in found[:SHOWN]]

    def fill_rows(self, markets: Markets) -> list[Row]:
        """Return the fills, newest first, in the columns of FILLS."""
        found = [fill for fill in reversed(self._fills) if (fill.exchange, fill.symbol) in markets]
        return [self._fill_row(fill, markets[fill.exchange, fill.symbol]) for fill in found[:SHOWN]]

    def _fill_row(self, fill: OrderFilled, scale: Scale) -> Row:
        marks = [self._markouts.get((fill.order_id, fill.fill, seconds * NS_PER_S)) for seconds in HORIZONS_S]
        cells = [
            _clock(fill.ts_recv),
            fill.order_id,
            fill.exchange,
            fill.symbol,
            fill.side.name.lower(),
            scale.price(fill.price),
            scale.quantity(fill.quantity),
            str(fill.liquidity),
            f"{format_units(fill.fee, 4)} {fill.fee_asset}",
            _lasted(fill.wait_ns),
            scale.quantity(fill.queue_ahead),
            f"{fill.entry_ns / NS_PER_MS:,.0f} + {(fill.ts_recv - fill.ts_event) / NS_PER_MS:,.0f} ms",
            "predicted" if fill.is_toxic_predicted else "",
            *("" if mark is None else f"{mark:+.2f}" for mark in marks),
        ]
        tones = [""] * 4 + [_side_tone(fill.side)] + [""] * 7 + ["warn"]
        tones += ["" if not mark else "up" if mark > 0 else "down" for mark in marks]
        return Row(f"{fill.order_id}/{fill.fill}", cells, "", tones)


def matching(rows: Iterable[Row], text: str) -> list[Row]:
    """Return those of *rows* in which every word of *text* is found, whatever its case."""
    words = text.lower().split()
    return [row for row in rows if all(any(word in cell.lower() for cell in row.cells) for word in words)]


def _open_row(order: Known, scale: Scale, now_ns: int) -> Row:
    assert order.side is not None
    ahead, done = "on its way", 0.0
    if order.ahead is not None:
        side: BookSide = scale.book.bids if order.side is Side.BUY else scale.book.asks
        # What is ahead of us can be no more than all there is.
        order.ahead = min(order.ahead, side.quantities.get(order.price, order.ahead))
        ahead = scale.quantity(order.ahead)
        done = 1 - order.ahead / order.start if order.start else 1.0
    cells = [
        _clock(order.sent_ns),
        order.order_id,
        *order.key,
        order.side.name.lower(),
        scale.price(order.price) if order.price else "market",
        scale.quantity(order.leaves),
        ahead,
        f"{done:.3f}",
        _lasted(max(0, now_ns - order.sent_ns)),
    ]
    return Row(order.order_id, cells, "", [""] * 4 + [_side_tone(order.side)])


def _recent_row(order: Known, scale: Scale) -> Row:
    end = order.steps[-1][1] if order.steps else ""
    tone = {"filled": "up", "denied": "down", "rejected": "down"}.get(end, "")
    is_known = order.side is not None
    cells = [
        _clock(order.sent_ns),
        order.order_id,
        *order.key,
        order.side.name.lower() if order.side else "",
        scale.price(order.price) if order.price else "market" if is_known else "",
        scale.quantity(order.quantity) if is_known else "",
        scale.quantity(order.quantity - order.leaves) if is_known else "",
        _life(order.steps),
        order.reason,
    ]
    return Row(order.order_id, cells, "", [""] * 4 + [_side_tone(order.side), "", "", "", tone])


def _life(steps: list[tuple[int, str]]) -> str:
    if not steps:
        return ""
    parts = [steps[0][1]]
    parts += [f"{name} {_lasted(ts - before)}" for (before, _), (ts, name) in itertools.pairwise(steps)]
    return " → ".join(parts)


def _lasted(ns: int) -> str:
    if ns < NS_PER_S:
        return f"{ns / NS_PER_MS:,.0f} ms"
    return f"{ns / NS_PER_S:,.1f} s" if ns < 120 * NS_PER_S else f"{ns / NS_PER_S / 60:,.0f} min"


def _side_tone(side: Side | None) -> str:
    return "" if side is None else "up" if side is Side.BUY else "down"


def _clock(ts: int) -> str:
    return datetime.fromtimestamp(ts / NS_PER_S, UTC).strftime("%H:%M:%S")
