"""
A fill-model tournament in one symbol: engines beside the one whose fills are real, in the same market.

Each is given the same market and the same orders at the same instants, and its fills go nowhere but
into a tally:

    market ──▶ the engine whose fills are real ──▶ order events, and the first tally
       ├─────▶ log   ──▶ tally
       └─────▶ touch ──▶ tally             P&L of each: cash, and its position at the mid

The orders are those that the exchange accepted for real. What would have been sent later, had the
fills differed, is not modelled. A replacement or a cancellation reaches all. Where an order ends
for real in another way, a model that still has it keeps it for a minute: how long its owner would
have waited nobody knows.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    BookDelta,
    BookOrders,
    BookSnapshot,
    BookState,
    Instrument,
    ModelResult,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderReplaced,
    OrderSubmitted,
    TournamentMeasured,
    Trade,
)

from .matching import EngineState, MatchingEngine, OrderEvent
from .queue_models import queue_model
from .tournament_naive import MARGINS, NaiveEngine

LINGER_NS = 60 * NS_PER_S
_NO_BOOK = BookSnapshot(0, 0, "", "", 0, b"", b"")


def check_model(name: str) -> None:
    """
    Raises: ValueError: no fill model is called *name*.
    """
    try:
        if name not in MARGINS:
            queue_model(name)
    except ValueError:
        raise ValueError(
            "tournament must name fill models: risk-averse, log, uniform, by-size, l3-exact, power:n with n "
            f"from 1, touch or cross; was {name!r}"
        ) from None


class Shadow(Protocol):
    """One model in one market; the methods are MatchingEngine's."""

    instrument: Instrument | None

    def on_book_snapshot(self, snapshot: BookSnapshot, at: int) -> Sequence[OrderEvent]: ...

    def on_book_delta(self, delta: BookDelta, at: int) -> Sequence[OrderEvent]: ...

    def on_book_orders(self, told: BookOrders) -> None: ...

    def on_trade(self, trade: Trade, at: int) -> Sequence[OrderEvent]: ...

    def distrust(self, state: BookState) -> None: ...

    def submit(self, order: OrderSubmitted, at: int, entry_ns: int = 0) -> Sequence[OrderEvent]: ...

    def replace(self, order_id: str, price: int, quantity: int, at: int) -> Sequence[OrderEvent]: ...

    def cancel(self, order_id: str, reason: str, at: int) -> Sequence[OrderEvent]: ...

    def holds(self, order_id: str) -> bool: ...

    def state(self) -> EngineState: ...

    def restore(self, state: EngineState) -> None: ...


class Tally(msgspec.Struct, array_like=True):
    """What one model has made of the orders so far: lots, and money in units of the quote asset."""

    orders: int = 0
    fills: int = 0
    quantity: int = 0
    notional: int = 0
    fees: int = 0
    position: int = 0
    cash: int = 0

    def add(self, fill: OrderFilled, rules: Instrument) -> None:
        """Count one fill."""
        notional = rules.notional(fill.price, fill.quantity)
        self.orders += fill.fill == 1
        self.fills += 1
        self.quantity += fill.quantity
        self.notional += notional
        self.fees += fill.fee
        self.position += fill.side * fill.quantity
        self.cash -= fill.side * notional + fill.fee

    def gained(self, rules: Instrument, mid2: int) -> int:
        """Return what it has gained after fees, with the position at *mid2*, twice the mid in ticks."""
        return self.cash + self.position * mid2 * rules.tick_size * rules.lot_size // (2 * UNIT)


class ContestState(msgspec.Struct, frozen=True, array_like=True):
    """Everything a Contest remembers beyond the engine whose fills are real."""

    models: list[str]
    accepted: int
    tallies: list[Tally]
    shadows: list[EngineState]  # without their books, which are all the same
    leaving: list[tuple[int, str]]
    told: list[ModelResult]
    mid2: int


class Contest(MatchingEngine):
    """The engine whose fills are real, with others in its shadow; it answers as if it were alone."""

    def __init__(
        self, exchange: str, symbol: str, *, own: str, models: Sequence[str], **settings: Any
    ) -> None:
        """
        Args:
            own: the name of the model whose fills are real.
            models: the others, each by the name of a queue model, or touch, or cross.
            settings: what MatchingEngine takes besides the queue.
        Raises: ValueError: there is no such model.
        """
        super().__init__(exchange, symbol, queue=queue_model(own), **settings)
        self.models = (own, *models)
        self._settings = settings
        self._shadows: list[Shadow] = [self._shadow(name) for name in models]
        self._forget_all()

    def _shadow(self, model: str) -> Shadow:
        if model in MARGINS:
            return NaiveEngine(self.exchange, self.symbol, MARGINS[model])
        return MatchingEngine(self.exchange, self.symbol, queue=queue_model(model), **self._settings)

    def _forget_all(self) -> None:
        self.tallies = [Tally() for _ in self.models]
        self._accepted = self._mid2 = 0
        self._leaving: deque[tuple[int, str]] = deque()
        self._told: list[ModelResult] = []

    # --- The market moves -------------------------------------------------------------------------

    def on_book_snapshot(self, snapshot: BookSnapshot, at: int) -> Sequence[OrderEvent]:
        """As MatchingEngine."""
        self._let_go(at)
        events = super().on_book_snapshot(snapshot, at)
        return self._compare(events, lambda shadow: shadow.on_book_snapshot(snapshot, at), at)

    def on_book_delta(self, delta: BookDelta, at: int) -> Sequence[OrderEvent]:
        """As MatchingEngine."""
        self._let_go(at)
        events = super().on_book_delta(delta, at)
        return self._compare(events, lambda shadow: shadow.on_book_delta(delta, at), at)

    def on_book_orders(self, told: BookOrders) -> None:
        """As MatchingEngine."""
        super().on_book_orders(told)
        for shadow in self._shadows:
            shadow.on_book_orders(told)

    def on_trade(self, trade: Trade, at: int) -> Sequence[OrderEvent]:
        """As MatchingEngine."""
        self._let_go(at)
        events = super().on_trade(trade, at)
        return self._compare(events, lambda shadow: shadow.on_trade(trade, at), at)

    def distrust(self, state: BookState) -> None:
        """As MatchingEngine."""
        super().distrust(state)
        for shadow in self._shadows:
            shadow.distrust(state)

    # --- Our commands arrive ----------------------------------------------------------------------

    def submit(self, order: OrderSubmitted, at: int, entry_ns: int = 0) -> list[OrderEvent]:
        """As MatchingEngine; who is refused for real is not asked of the others."""
        self._let_go(at)
        order = self._repriced(order)
        events = super().submit(order, at, entry_ns)
        if isinstance(events[0], OrderRejected):
            return events
        self._accepted += 1
        self._compare(events, lambda shadow: shadow.submit(order, at, entry_ns), at)
        return events

    def replace(self, order_id: str, price: int, quantity: int, at: int) -> list[OrderEvent]:
        """As MatchingEngine; what is refused for real is not asked of the others."""
        self._let_go(at)
        events = super().replace(order_id, price, quantity, at)
        if not any(isinstance(event, OrderReplaced) and event.reason for event in events):
            self._compare(events, lambda shadow: shadow.replace(order_id, price, quantity, at), at)
        return events

    def cancel(self, order_id: str, reason: str, at: int) -> list[OrderEvent]:
        """As MatchingEngine."""
        self._let_go(at)
        events = super().cancel(order_id, reason, at)
        self._compare(events, lambda shadow: shadow.cancel(order_id, reason, at), at)
        return events

    # --- What each makes of it --------------------------------------------------------------------

    def _compare(
        self, events: Sequence[OrderEvent], follow: Callable[[Shadow], Sequence[OrderEvent]], at: int
    ) -> Sequence[OrderEvent]:
        """Let the others *follow*, count what each has filled, and return *events*, the real ones."""
        self._count(0, events)
        for index, shadow in enumerate(self._shadows, 1):
            shadow.instrument = self.instrument
            self._count(index, follow(shadow))
        for event in events:
            if _is_end(event) and any(shadow.holds(event.order_id) for shadow in self._shadows):
                self._leaving.append((at + LINGER_NS, event.order_id))
        return events

    def _count(self, index: int, events: Iterable[OrderEvent]) -> None:
        for event in events:
            if isinstance(event, OrderFilled):
                assert self.instrument is not None  # no order is admitted without
                self.tallies[index].add(event, self.instrument)

    def _let_go(self, at: int) -> None:
        while self._leaving and self._leaving[0][0] <= at:
            _, order_id = self._leaving.popleft()
            for shadow in self._shadows:
                shadow.cancel(order_id, "", at)

    def measure(self, now: int, mid2: int) -> TournamentMeasured | None:
        """
        Return what each model has made so far; None where nothing has changed since it was last told.

        Args:
            mid2: twice the mid in ticks, 0 where there is none to trust: then the last one counts.
        """
        self._mid2 = mid2 or self._mid2
        if self.instrument is None or not self._mid2:
            return None
        results = self._results(self.instrument)
        if results == self._told or not any(result.fills for result in results):
            return None
        self._told = results
        return TournamentMeasured(
            now, self.exchange, self.symbol, self.instrument.quote, self._mid2, self._accepted, results
        )

    def _results(self, rules: Instrument) -> list[ModelResult]:
        gained = [tally.gained(rules, self._mid2) for tally in self.tallies]
        return [
            ModelResult(
                model,
                tally.orders,
                tally.fills,
                tally.quantity,
                tally.notional,
                tally.fees,
                tally.position,
                pnl,
                pnl - gained[0],
            )
            for model, tally, pnl in zip(self.models, self.tallies, gained, strict=True)
        ]

    # --- State ------------------------------------------------------------------------------------

    def restore(self, state: EngineState) -> None:
        """As MatchingEngine; the others begin as it stands, with nothing in their tallies."""
        self._shadows = []
        super().restore(state)
        self._forget_all()
        self._shadows = [self._shadow(model) for model in self.models[1:]]
        for shadow in self._shadows:
            shadow.restore(_copy(state))

    def contest_state(self) -> ContestState:
        """Return what each model has made, and where our orders stand in it."""
        bare = [msgspec.structs.replace(shadow.state(), book=_NO_BOOK) for shadow in self._shadows]
        leaving, models = list(self._leaving), list(self.models)
        return ContestState(models, self._accepted, self.tallies, bare, leaving, self._told, self._mid2)

    def restore_contest(self, state: ContestState | None) -> None:
        """Go on with *state*, after restore(); a tournament of other models begins anew."""
        if state is None or state.models != list(self.models):
            return
        book = self.state().book
        self._accepted, self.tallies, self._mid2 = state.accepted, state.tallies, state.mid2
        self._leaving, self._told = deque(state.leaving), state.told
        self._shadows = [self._shadow(model) for model in self.models[1:]]
        for shadow, saved in zip(self._shadows, state.shadows, strict=True):
            shadow.restore(msgspec.structs.replace(saved, book=book))


def _is_end(event: OrderEvent) -> bool:
    if isinstance(event, OrderFilled):
        return event.leaves == 0
    return isinstance(event, OrderCanceled | OrderExpired)


def _copy(state: EngineState) -> EngineState:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=EngineState)
