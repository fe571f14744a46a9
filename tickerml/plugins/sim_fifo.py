"""
The execution simulator: plays every exchange to our orders.

The rules of matching are in matching.py; this is about time. An order reaches its
exchange after an entry latency and the answer reaches us after a response latency,
both drawn per order from the exchange's distribution, and neither overtakes: each
exchange is one session, first in, first out.

    us         send                        learn
                 \\ entry            response /
    exchange      arrive ... match ... fill

What an exchange did at a time we know only when its messages are here, so an order
that arrives at *a* waits until the first message of its symbol from after *a*: it is
applied to the book just before that one. In a silent market a timer applies it. At
equal times the market comes first, then our commands as they were sent: a fill at the
moment of a cancel's arrival stands.

Exchange time is put on our axis by exchange_time() and never falls within a symbol.
Where an answer would have been due before we could know it, it comes as soon as we do.

A mark-out says what a fill was worth soon after: the mid of the book as we know it at
the fill's time plus the horizon. Where that book is in doubt there is none.
"""

from collections import deque
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookDelta,
    BookSnapshot,
    BookStale,
    BookState,
    CancelOrder,
    ChecksumFailed,
    Context,
    FeedLost,
    Instrument,
    MarkoutMeasured,
    Options,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderReplaced,
    OrderSubmitted,
    ReplaceOrder,
    SequenceGap,
    SimulatorSpec,
    Timer,
    Trade,
    hookimpl,
)

from .matching import (
    EngineState,
    MatchingEngine,
    OrderEvent,
    SelfTrade,
    exchange_time,
)
from .queue_models import NAMES, queue_model

#: One way, in ms: the seed's ranges, read as pessimistically as they can be.
LATENCY_MS = {
    "binanceus": (50, 100),
    "coinbase": (100, 200),
    "kraken": (150, 300),
    "kucoin": (80, 180),
}
OTHER_LATENCY_MS = (50, 150)

_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2500)]


class SimFifoOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How slow the exchanges are, and how they treat a queue."""

    latency_ms: Annotated[
        dict[str, tuple[_Milliseconds, _Milliseconds]],
        msgspec.Meta(
            description="lowest and highest one-way latency by exchange, in ms, where it is not to be "
            "binanceus 50-100, coinbase 100-200, kraken 150-300, kucoin 80-180, others 50-150"
        ),
    ] = msgspec.field(default_factory=dict)
    spike_probability: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="how often a latency is twice what was drawn")
    ] = 0.05
    quiet_ms: Annotated[
        int,
        msgspec.Meta(
            ge=0, description="how long an order waits for its market to speak before it is applied"
        ),
    ] = 1000
    queue_model: Annotated[
        str,
        msgspec.Meta(
            pattern=NAMES,
            description="who leaves when a level shrinks: risk-averse (those behind us), log, power:n or "
            "uniform (anybody)",
        ),
    ] = "risk-averse"
    self_trade: Annotated[
        SelfTrade,
        msgspec.Meta(
            description="what happens when a taker would meet an order of its own account: one goes, both "
            "do, both shrink by the smaller (decrement), or they trade (none)"
        ),
    ] = "cancel_newest"
    reprice_post_only: Annotated[
        bool,
        msgspec.Meta(
            description="whether a post-only order that would take is put one tick behind the other side's "
            "best, instead of refused"
        ),
    ] = False
    toxic_position: Annotated[
        int,
        msgspec.Meta(ge=0, description="a fill that started behind more orders than this is predicted toxic"),
    ] = 10
    protection_bps: Annotated[
        int,
        msgspec.Meta(ge=0, le=5000, description="how far from the best price a market order may go, in bps"),
    ] = 100
    markout_s: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1)], ...],
        msgspec.Meta(description="when after a fill the mid is looked at, in seconds"),
    ] = (1, 10, 60)

    def __post_init__(self) -> None:
        for exchange, (low, high) in self.latency_ms.items():
            if low > high:
                raise ValueError(f"latency_ms.{exchange} must be [lowest, highest], was [{low}, {high}]")


class _Arrival(msgspec.Struct, frozen=True, array_like=True):
    at: int
    command: OrderSubmitted | CancelOrder | ReplaceOrder
    entry_ns: int


class _LaneState(msgspec.Struct, frozen=True, array_like=True):
    exchange: str
    symbol: str
    clock: int
    arrivals: list[_Arrival]
    engine: EngineState


class _SessionState(msgspec.Struct, frozen=True, array_like=True):
    exchange: str
    last_arrival: int
    last_response: int
    responses: list[OrderEvent]


class _Markout(msgspec.Struct, frozen=True, array_like=True):
    fill: OrderFilled
    horizon_ns: int


class _State(msgspec.Struct, frozen=True, array_like=True):
    lanes: list[_LaneState]
    sessions: list[_SessionState]
    markouts: dict[str, _Markout]
    markout_count: int


class _Lane:
    # One symbol of one exchange: its engine, its time, and the commands on their way to it.
    __slots__ = ("arrivals", "clock", "engine")

    def __init__(self, engine: MatchingEngine) -> None:
        self.engine = engine
        self.clock = 0
        self.arrivals: deque[_Arrival] = deque()


class _Session:
    # Our connection to one exchange: what went in and what comes out, in order.
    __slots__ = ("last_arrival", "last_response", "responses")

    def __init__(self) -> None:
        self.last_arrival = 0
        self.last_response = 0
        self.responses: deque[OrderEvent] = deque()


class FifoSimulator:
    """Takes OrderSubmitted and CancelOrder, and answers with the events of an order's life."""

    def __init__(self, ctx: Context, options: SimFifoOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._queue = queue_model(options.queue_model)
        self._quiet_ns = options.quiet_ms * NS_PER_MS
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._sessions: dict[str, _Session] = {}
        self._markouts: dict[str, _Markout] = {}
        self._markout_count = 0

    def open_orders(self) -> list[dict[str, Any]]:
        """Return the orders that rest at the exchanges now: prices in ticks, quantities in lots."""
        return [
            {
                "order_id": order_id,
                "exchange": exchange,
                "symbol": symbol,
                "side": order.submitted.side,
                "price": order.submitted.price,
                "leaves": order.leaves,
                "queue_ahead": order.queue_ahead,
            }
            for (exchange, symbol), lane in self._lanes.items()
            for order_id, order in lane.engine.orders.items()
        ]

    # --- The market -------------------------------------------------------------------------------

    def on_instrument(self, instrument: Instrument) -> None:
        self._lane(instrument.exchange, instrument.symbol).engine.instrument = instrument

    def on_book_snapshot(self, snapshot: BookSnapshot) -> None:
        lane = self._lane(snapshot.exchange, snapshot.symbol)
        at = self._advance(lane, snapshot)
        if events := lane.engine.on_book_snapshot(snapshot, at):
            self._respond(events)

    def on_book_delta(self, delta: BookDelta) -> None:
        lane = self._lane(delta.exchange, delta.symbol)
        at = self._advance(lane, delta)
        if events := lane.engine.on_book_delta(delta, at):
            self._respond(events)

    def on_trade(self, trade: Trade) -> None:
        lane = self._lane(trade.exchange, trade.symbol)
        at = self._advance(lane, trade)
        if events := lane.engine.on_trade(trade, at):
            self._respond(events)

    def on_feed_lost(self, lost: FeedLost) -> None:
        for (exchange, _), lane in self._lanes.items():
            if exchange == lost.exchange:
                lane.engine.distrust(BookState.RESYNCING)

    def on_sequence_gap(self, gap: SequenceGap) -> None:
        self._lane(gap.exchange, gap.symbol).engine.distrust(BookState.RESYNCING)

    def on_checksum_failed(self, failed: ChecksumFailed) -> None:
        self._lane(failed.exchange, failed.symbol).engine.distrust(BookState.RESYNCING)

    def on_book_stale(self, stale: BookStale) -> None:
        self._lane(stale.exchange, stale.symbol).engine.distrust(BookState.STALE)

    def _lane(self, exchange: str, symbol: str) -> _Lane:
        lane = self._lanes.get((exchange, symbol))
        return lane if lane is not None else self._open_lane(exchange, symbol)

    def _open_lane(self, exchange: str, symbol: str) -> _Lane:
        engine = self._engine(exchange, symbol)
        engine.instrument = self._ctx.instrument(exchange, symbol)
        # A simulator that joins a running host finds the book already built.
        known = self._ctx.book(exchange, symbol)
        if known.state is BookState.VALID:
            engine.on_book_snapshot(known.snapshot(), 0)
        lane = self._lanes[exchange, symbol] = _Lane(engine)
        return lane

    def _engine(self, exchange: str, symbol: str) -> MatchingEngine:
        return MatchingEngine(
            exchange,
            symbol,
            queue=self._queue,
            self_trade=self._options.self_trade,
            toxic_position=self._options.toxic_position,
            protection_bps=self._options.protection_bps,
            reprice=self._options.reprice_post_only,
        )

    def _advance(self, lane: _Lane, message: BookSnapshot | BookDelta | Trade) -> int:
        # The exchange's time of *message*, with every command that arrived before it applied.
        at = max(lane.clock, exchange_time(message))
        if lane.arrivals:
            self._apply_arrivals(lane, at - 1)
        lane.clock = at
        return at

    # --- Commands on their way --------------------------------------------------------------------

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        lane = self._lane(order.exchange, order.symbol)
        if lane.engine.holds(order.order_id) or self._is_on_its_way(lane, order.order_id):
            self._ctx.log.warning("order.repeated", order_id=order.order_id, exchange=order.exchange)
            return
        self._send(lane, order, "entry")

    def on_cancel_order(self, command: CancelOrder) -> None:
        self._send(self._lane(command.exchange, command.symbol), command, "cancel")

    def on_replace_order(self, command: ReplaceOrder) -> None:
        self._send(self._lane(command.exchange, command.symbol), command, "replace")

    def _is_on_its_way(self, lane: _Lane, order_id: str) -> bool:
        return any(
            arrival.command.order_id == order_id
            for arrival in lane.arrivals
            if isinstance(arrival.command, OrderSubmitted)
        )

    def _send(self, lane: _Lane, command: OrderSubmitted | CancelOrder | ReplaceOrder, leg: str) -> None:
        session, now = self._session(command.exchange), self._ctx.clock.now()
        at = now + self._latency_ns(command.exchange, command.order_id, leg)
        at = session.last_arrival = max(at, session.last_arrival)
        lane.arrivals.append(_Arrival(at, command, at - now))
        self._ctx.set_timer(at + self._quiet_ns, f"arrival {command.exchange} {command.symbol}")

    def _session(self, exchange: str) -> _Session:
        if (session := self._sessions.get(exchange)) is None:
            session = self._sessions[exchange] = _Session()
        return session

    def _latency_ns(self, exchange: str, order_id: str, leg: str) -> int:
        default = LATENCY_MS.get(exchange, OTHER_LATENCY_MS)
        low, high = self._options.latency_ms.get(exchange, default)
        drawn = low + (high - low) * self._ctx.uniform(order_id, leg)
        is_spike = self._ctx.uniform(order_id, leg, "spike") < self._options.spike_probability
        return int(drawn * NS_PER_MS) * (2 if is_spike else 1)

    def _apply_arrivals(self, lane: _Lane, until: int) -> None:
        arrivals, engine = lane.arrivals, lane.engine
        while arrivals and arrivals[0].at <= until:
            arrival = arrivals.popleft()
            at = lane.clock = arrival.at  # whatever was later has applied it already
            command = arrival.command
            if isinstance(command, OrderSubmitted):
                self._respond(engine.submit(command, at, arrival.entry_ns))
            elif isinstance(command, ReplaceOrder):
                self._respond(self._replace(engine, command, at))
            else:
                self._respond(engine.cancel(command.order_id, command.reason, at))

    def _replace(self, engine: MatchingEngine, command: ReplaceOrder, at: int) -> list[OrderEvent]:
        agreed = engine.submitted(command.order_id)
        if agreed is None:
            return []
        if command.quantity > agreed.quantity or agreed.side * (command.price - agreed.price) > 0:
            reason = "no rule has agreed to more, or to a less safe price"
            return [engine.refuse(command.order_id, reason, at)]
        return engine.replace(command.order_id, command.price, command.quantity, at)

    # --- Answers on their way ---------------------------------------------------------------------

    def _respond(self, events: Iterable[OrderEvent]) -> None:
        now = self._ctx.clock.now()
        for event in events:
            session = self._session(event.exchange)
            due = event.ts_event + self._latency_ns(event.exchange, event.order_id, "response")
            due = session.last_response = max(now, due, session.last_response)
            session.responses.append(msgspec.structs.replace(event, ts_recv=due))
            self._ctx.set_timer(due, f"response {event.exchange}", priority=2)

    def on_timer(self, timer: Timer) -> None:
        kind, _, rest = timer.key.partition(" ")
        if kind == "response":
            self._publish_due(rest, timer.ts)
        elif kind == "arrival":
            exchange, _, symbol = rest.partition(" ")
            self._apply_arrivals(self._lane(exchange, symbol), timer.ts - self._quiet_ns)
        else:
            self._measure(self._markouts.pop(timer.key))

    def _publish_due(self, exchange: str, now: int) -> None:
        responses = self._session(exchange).responses
        while responses and responses[0].ts_recv <= now:
            event = responses.popleft()
            self._ctx.publish(event)
            if isinstance(event, OrderFilled):
                self._log(event)
                self._plan_markouts(event)

    def _log(self, fill: OrderFilled) -> None:
        mid = fill.arrival_mid / 2
        self._ctx.log.info(
            "order.filled",
            order_id=fill.order_id,
            price=fill.price,
            quantity=fill.quantity,
            slippage_bps=fill.side * (fill.price - mid) / mid * 1e4 if mid else None,
            queue_ahead=fill.queue_ahead,
        )

    # --- Mark-outs --------------------------------------------------------------------------------

    def _plan_markouts(self, fill: OrderFilled) -> None:
        for seconds in self._options.markout_s:
            horizon_ns = seconds * NS_PER_S
            self._markout_count += 1
            key = f"markout {self._markout_count}"
            self._markouts[key] = _Markout(fill, horizon_ns)
            self._ctx.set_timer(max(fill.ts_recv, fill.ts_event + horizon_ns), key)

    def _measure(self, markout: _Markout) -> None:
        fill = markout.fill
        book = self._ctx.book(fill.exchange, fill.symbol)
        if not book.is_trusted:
            return
        bps = fill.side * (book.mid2 / 2 - fill.price) / fill.price * 1e4
        self._ctx.publish(
            MarkoutMeasured(
                self._ctx.clock.now(),
                fill.order_id,
                fill.fill,
                fill.exchange,
                fill.symbol,
                fill.liquidity,
                markout.horizon_ns,
                bps,
            )
        )

    # --- State ------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        lanes = [
            _LaneState(exchange, symbol, lane.clock, list(lane.arrivals), lane.engine.state())
            for (exchange, symbol), lane in self._lanes.items()
        ]
        sessions = [
            _SessionState(exchange, session.last_arrival, session.last_response, list(session.responses))
            for exchange, session in self._sessions.items()
        ]
        return msgspec.msgpack.encode(_State(lanes, sessions, self._markouts, self._markout_count))

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=_State)
        for record in saved.lanes:
            engine = self._engine(record.exchange, record.symbol)
            engine.restore(record.engine)
            lane = self._lanes[record.exchange, record.symbol] = _Lane(engine)
            lane.clock = record.clock
            lane.arrivals.extend(record.arrivals)
        for connection in saved.sessions:
            session = self._session(connection.exchange)
            session.last_arrival = connection.last_arrival
            session.last_response = connection.last_response
            session.responses.extend(connection.responses)
        self._markouts = saved.markouts
        self._markout_count = saved.markout_count


@hookimpl
def tickerml_simulators() -> list[SimulatorSpec]:
    """Offer the simulator."""
    return [
        SimulatorSpec(
            id="sim-fifo",
            factory=FifoSimulator,
            options=SimFifoOptions,
            state_version=2,
            publishes=(
                OrderAccepted,
                OrderRejected,
                OrderReplaced,
                OrderFilled,
                OrderCanceled,
                OrderExpired,
                MarkoutMeasured,
            ),
            summary="plays every exchange: price-time priority, queue position, latency both ways, mark-outs",
        )
    ]
