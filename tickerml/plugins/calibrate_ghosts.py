"""
Ghost orders in a feed of single orders: where each truly stands, and where every queue model thinks it does.

A ghost joins the back of a queue and moves nobody. The feed says whose orders are before it, so its
true place is known, and so is when it would have been reached:

    a print at its price     first eats the orders before it, the rest would have been its own
    a print through it       everybody at its price was gone
    the other side's best    at its price or beyond: nobody was left to meet it before the ghost

Each model is the engine that trades, given the same market as levels and prints, with an order of
one lot where the ghost is. A print that comes after the depth which already contains it is held
against what was before the ghost until then.

A time is that of the exchange. A ghost that nobody reached within its time counts as reached at the
end of it, in truth and in a model alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from tickerml.kernel import (
    BookDelta,
    BookSnapshot,
    Instrument,
    OrderAccepted,
    OrderBook,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    Trade,
    levels,
)

from .matching import MatchingEngine, OrderEvent, exchange_time
from .queue_models import queue_model

#: From the strictest on, so that of two as good the stricter is chosen.
MODELS = ("risk-averse", "power:3", "power:2", "log", "uniform", "by-size")
DEPTH = 3  # the best prices at which ghosts are placed


class OrdersAt(Protocol):
    """Whoever knows single orders: the lots of those that rest at a price by id, the first in line first."""

    def __call__(self, exchange: str, symbol: str, side: Side, price: int) -> Mapping[object, int]: ...


class Ghost:
    """An order that is not there, and what is truly before it, in lots."""

    def __init__(self, order_id: str, side: Side, price: int, ahead: Mapping[object, int], at: int) -> None:
        self.order_id, self.side, self.price, self.placed = order_id, side, price, at
        self._ahead = dict(ahead)
        self.start = self.lots = self._before = sum(ahead.values())
        self._passed = self._late = 0  # printed since the level changed; before it, but told after it
        self._changed = at
        self.reached = 0  # when, ns; 0 for not yet
        self.met = [0] * len(MODELS)  # as the models have it

    def on_trade(self, trade: Trade, at: int) -> None:
        """Let a print eat what is before it."""
        if self.reached or trade.aggressor is self.side:
            return
        through = self.side * (self.price - trade.price)
        if through == 0 and 0 < trade.ts_event <= self._changed:
            self._late += trade.quantity
            through = self._late - self._before
        elif through == 0:
            self._passed += trade.quantity
            through = self._passed - self.lots
        if through > 0:
            self.reached = at

    def on_level(self, orders: Mapping[object, int], at: int) -> None:
        """Take in the *orders* at its price: one that grew has lost its place."""
        self._ahead = {
            name: orders[name]
            for name, lots in self._ahead.items()
            if name in orders and orders[name] <= lots
        }
        self._before, self.lots = self.lots, sum(self._ahead.values())
        self._passed, self._late, self._changed = 0, 0, at

    def on_best(self, opposite: int, at: int) -> None:
        """Know the other side's best price, 0 for none."""
        if not self.reached and opposite and self.side * (self.price - opposite) >= 0:
            self.reached = at

    @property
    def left(self) -> int:
        """What is before it now: 0 once it has been reached."""
        return 0 if self.reached else max(0, self.lots - self._passed)


class Score(msgspec.Struct):
    """How one model does on one exchange; sums over ghosts, times in ns, places as fractions of the first."""

    ghosts: int = 0
    filled: int = 0
    filled_by_model: int = 0
    late: int = 0
    off: int = 0
    places: int = 0
    farther: float = 0.0
    astray: float = 0.0

    def add_time(self, truth: int, model: int, end: int) -> None:
        """Count one ghost: when it was reached in truth and by the model, 0 for never, and its *end*."""
        self.ghosts += 1
        self.filled += truth > 0
        self.filled_by_model += model > 0
        error = (model or end) - (truth or end)
        self.late += error
        self.off += abs(error)

    def add_place(self, error: float) -> None:
        """Count what the model thinks is before a ghost, less what truly is, as a fraction of the first."""
        self.places += 1
        self.farther += error
        self.astray += abs(error)


class GhostMarket:
    """One symbol of one exchange: its ghosts, and an engine for each model."""

    def __init__(
        self, exchange: str, symbol: str, scores: Sequence[Score], every_ns: int, hold_ns: int
    ) -> None:
        """
        Args:
            scores: of the exchange, one for each of MODELS.
            every_ns: from one ghost to the next, and from one look at all places to the next.
            hold_ns: how long a ghost is watched.
        """
        self.exchange, self.symbol = exchange, symbol
        self._scores, self._every_ns, self._hold_ns = scores, every_ns, hold_ns
        self._book = OrderBook(exchange, symbol)
        self._engines = [MatchingEngine(exchange, symbol, queue=queue_model(name)) for name in MODELS]
        self.ghosts: dict[str, Ghost] = {}
        self._count = self._clock = self._due = 0
        self._touched: set[tuple[Side, int]] | None = set()  # None for every price
        base, _, quote = symbol.partition("/")
        for engine in self._engines:  # the exchange's limits are for orders that are there
            engine.instrument = Instrument(0, exchange, symbol, base, quote, 1, 1)

    def on_trade(self, trade: Trade) -> None:
        """Let a print happen."""
        at = self._advance(trade)
        for ghost in self.ghosts.values():
            ghost.on_trade(trade, at)
        for index, engine in enumerate(self._engines):
            self._meet(index, engine.on_trade(trade, at))

    def on_book(self, message: BookSnapshot | BookDelta) -> None:
        """Let the book change; settle() is to follow once the orders are as this says."""
        at = self._advance(message)
        if isinstance(message, BookSnapshot):
            self._book.apply_snapshot(message)
            self._touched = None
            for index, engine in enumerate(self._engines):
                self._meet(index, engine.on_book_snapshot(message, at))
            return
        self._book.apply_delta(message)
        if self._touched is not None:
            self._touched.update((Side.BUY, price) for price, _ in levels(message.bids))
            self._touched.update((Side.SELL, price) for price, _ in levels(message.asks))
        for index, engine in enumerate(self._engines):
            self._meet(index, engine.on_book_delta(message, at))

    def on_doubt(self) -> None:
        """Give up every ghost, and place none before the next snapshot: nobody knows what has become."""
        self._book.distrust(0)
        self._due = 0
        for ghost in list(self.ghosts.values()):
            self._forget(ghost)

    def _advance(self, message: BookSnapshot | BookDelta | Trade) -> int:
        self._clock = max(self._clock, exchange_time(message))
        return self._clock

    def _meet(self, index: int, events: Iterable[OrderEvent]) -> None:
        for event in events:
            if isinstance(event, OrderFilled):
                self.ghosts[event.order_id].met[index] = event.ts_event

    # --- Ghosts -----------------------------------------------------------------------------------

    def settle(self, orders_at: OrdersAt) -> None:
        """Take in where the orders are after a frame, and look, place and retire ghosts when it is time."""
        at, touched, self._touched = self._clock, self._touched, set()
        best = {Side.BUY: self._book.best_ask, Side.SELL: self._book.best_bid}
        for ghost in self.ghosts.values():
            if touched is None or (ghost.side, ghost.price) in touched:
                ghost.on_level(orders_at(self.exchange, self.symbol, ghost.side, ghost.price), at)
            ghost.on_best(best[ghost.side], at)
        if at >= self._due and self._book.is_trusted:
            self._due = at + self._every_ns
            self._look()
            self._retire()
            self._place(orders_at)

    def _look(self) -> None:
        believed = [engine.orders for engine in self._engines]
        for ghost in self.ghosts.values():
            if ghost.reached or not ghost.start:
                continue
            for score, orders in zip(self._scores, believed, strict=True):
                order = orders.get(ghost.order_id)
                ahead = order.queue_ahead if order else 0
                score.add_place((ahead - ghost.left) / ghost.start)

    def _retire(self) -> None:
        for ghost in list(self.ghosts.values()):
            if self._clock - ghost.placed >= self._hold_ns or (ghost.reached and all(ghost.met)):
                self._score(ghost)

    def finish(self) -> None:
        """Count the ghosts that are still there: their time ends with the data."""
        for ghost in list(self.ghosts.values()):
            self._score(ghost)

    def _score(self, ghost: Ghost) -> None:
        end = min(ghost.placed + self._hold_ns, self._clock)
        times = [at if at <= end else 0 for at in (ghost.reached, *ghost.met)]
        for score, met in zip(self._scores, times[1:], strict=True):
            score.add_time(times[0], met, end)
        self._forget(ghost)

    def _forget(self, ghost: Ghost) -> None:
        del self.ghosts[ghost.order_id]
        for engine in self._engines:
            engine.cancel(ghost.order_id, "", self._clock)

    def _place(self, orders_at: OrdersAt) -> None:
        side = Side.BUY if self._count % 2 else Side.SELL
        known = (self._book.bids if side is Side.BUY else self._book.asks).top(DEPTH)
        price = known[self._count // 2 % len(known)][0]
        self._count += 1
        if any(ghost.side is side and ghost.price == price for ghost in self.ghosts.values()):
            return
        orders = orders_at(self.exchange, self.symbol, side, price)
        ghost = Ghost(f"ghost {self._count}", side, price, orders, self._clock)
        answers = [engine.submit(self._order(ghost), self._clock) for engine in self._engines]
        self.ghosts[ghost.order_id] = ghost
        if any(not isinstance(events[0], OrderAccepted) for events in answers):
            self._forget(ghost)

    def _order(self, ghost: Ghost) -> OrderSubmitted:
        return OrderSubmitted(
            self._clock,
            ghost.order_id,
            "",
            ghost.side.name,  # the ghosts of both sides are nothing to each other
            self.exchange,
            self.symbol,
            ghost.side,
            OrderType.LIMIT,
            TimeInForce.GTC,
            ghost.price,
            1,
            0,
        )
