"""
The execution simulator: plays every exchange to our orders.

The rules of matching are in matching.py; this is about time. An order reaches its
exchange after an entry latency and the answer reaches us after a response latency,
both drawn per order from the exchange's distribution (latency.py), and neither overtakes:
each exchange is one session, first in, first out. An order that would be too long on its way
is given up: the exchange never sees it, and it is rejected when that time is over.

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
    BookOrders,
    BookSnapshot,
    BookStale,
    BookState,
    CancelOrder,
    ChecksumFailed,
    Context,
    FeedEnded,
    FeedLost,
    Instrument,
    MarkoutMeasured,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    ReplaceOrder,
    SequenceGap,
    SimulatorSpec,
    Timer,
    Trade,
    hookimpl,
)

from . import core_book
from . import core_state as cs
from .calibrate_option import CalibratedQueue
from .fees import Tiers, Volumes, check_tiers
from .latency import FEED, RESPONSE, Latencies, LatencyOptions
from .matching import (
    EngineState,
    MatchingEngine,
    OrderEvent,
    SelfTrade,
    exchange_time,
)
from .queue_models import NAMES, queue_model
from .tournament_contest import Contest, ContestState, check_model

MEASURE_NS = 60 * NS_PER_S  # from one word on the tournament to the next
_TOURNAMENT = "tournament"  # the key of its timer
_TIERS = "tiers"  # that of the midnight at which earned ones change


class SimFifoOptions(LatencyOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How slow and how dear the exchanges are, and how they treat a queue."""

    fee_tier: Annotated[
        dict[str, str],
        msgspec.Meta(
            description='the fee tier by exchange, such as kraken = "50k", where it is not the one that '
            'everybody enters by; "by-volume" is the one that an account has earned in 30 days'
        ),
    ] = msgspec.field(default_factory=dict)
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
            description="who leaves when a level shrinks: risk-averse (those behind us), by-size (whoever "
            "had the size that left), log, power:n or uniform (anybody), l3-exact (whoever did, where the "
            "feed tells of single orders, else as risk-averse)",
        ),
    ] = "risk-averse"
    queue_models: Annotated[
        dict[str, CalibratedQueue],
        msgspec.Meta(
            description="the queue model by exchange, where it is not to be queue_model, such as "
            'kraken.model = "log"; `tickerml calibrate` measures and writes them'
        ),
    ] = msgspec.field(default_factory=dict)
    tournament: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="fill models to simulate beside the real one, for comparison: queue models, touch, "
            "cross; each costs more than the real one does"
        ),
    ] = ()
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
        super().__post_init__()
        check_tiers(self.fee_tier)
        for model in self.tournament:
            check_model(model)


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
    contest: ContestState | None = None


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
    is_measuring: bool = False
    timeouts: dict[str, OrderSubmitted] = {}
    volumes: Volumes = msgspec.field(default_factory=Volumes)


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
        self._latencies = Latencies(options, ctx.uniform)
        self._tiers = Tiers(options.fee_tier)
        self._timeout_ns = options.timeout_ms * NS_PER_MS
        self._quiet_ns = options.quiet_ms * NS_PER_MS
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._sessions: dict[str, _Session] = {}
        self._markouts: dict[str, _Markout] = {}
        self._markout_count = 0
        self._is_measuring = False
        self._timeouts: dict[str, OrderSubmitted] = {}  # given up, by the key of their timer

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
        self._list(self._lane(instrument.exchange, instrument.symbol).engine, instrument)

    def _list(self, engine: MatchingEngine, instrument: Instrument) -> None:
        # Whatever it is that is charged, all that count with an Instrument are to count with it.
        now, known = self._ctx.clock.now(), engine.instrument
        engine.instrument = told = self._tiers.announced(instrument, now)
        if told not in (instrument, known):
            self._ctx.publish(msgspec.structs.replace(told, ts_recv=now))

    def _list_again(self) -> None:
        for lane in self._lanes.values():
            if lane.engine.instrument:
                self._list(lane.engine, lane.engine.instrument)

    def _change_tiers(self, now: int) -> None:
        self._list_again()
        if midnight := self._tiers.look_again(now):
            self._ctx.set_timer(midnight, _TIERS)

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

    def on_book_orders(self, told: BookOrders) -> None:
        lane = self._lane(told.exchange, told.symbol)
        self._advance(lane, told)
        lane.engine.on_book_orders(told)

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
        if listed := self._ctx.instrument(exchange, symbol):
            self._list(engine, listed)
        # A simulator that joins a running host finds the book already built.
        known = self._ctx.book(exchange, symbol)
        if known.state is BookState.VALID:
            engine.on_book_snapshot(known.snapshot(), 0)
        lane = self._lanes[exchange, symbol] = _Lane(engine)
        return lane

    def _engine(self, exchange: str, symbol: str) -> MatchingEngine:
        options = self._options
        calibrated = options.queue_models.get(exchange)
        model = calibrated.model if calibrated else options.queue_model
        settings: dict[str, Any] = {
            "self_trade": options.self_trade,
            "toxic_position": options.toxic_position,
            "protection_bps": options.protection_bps,
            "reprice": options.reprice_post_only,
        }
        engine = MatchingEngine(exchange, symbol, queue=queue_model(model), **settings)
        if options.tournament:
            engine = Contest(exchange, symbol, own=model, models=options.tournament, **settings)
        if self._tiers.is_earned(exchange):
            engine.fees = lambda account, at: self._tiers.paid(engine.listed, account, at)
        return engine

    def _advance(self, lane: _Lane, message: BookSnapshot | BookDelta | BookOrders | Trade) -> int:
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
        if self._tiers.is_earned(order.exchange) and self._tiers.know(order.exchange, order.account):
            self._list_again()
        self._send(lane, order, "entry")

    def on_cancel_order(self, command: CancelOrder) -> None:
        self._send(self._lane(command.exchange, command.symbol), command, "cancel")

    def on_replace_order(self, command: ReplaceOrder) -> None:
        self._send(self._lane(command.exchange, command.symbol), command, "replace")

    def _is_on_its_way(self, lane: _Lane, order_id: str) -> bool:
        return _timeout(order_id) in self._timeouts or any(
            arrival.command.order_id == order_id
            for arrival in lane.arrivals
            if isinstance(arrival.command, OrderSubmitted)
        )

    def _send(self, lane: _Lane, command: OrderSubmitted | CancelOrder | ReplaceOrder, leg: str) -> None:
        session, now = self._session(command.exchange), self._ctx.clock.now()
        at = max(now + self._drawn_ns(command, leg, now), session.last_arrival)
        if isinstance(command, OrderSubmitted) and at - now > self._timeout_ns:
            return self._give_up(command, now + self._timeout_ns)
        session.last_arrival = at
        lane.arrivals.append(_Arrival(at, command, at - now))
        self._ctx.set_timer(at + self._quiet_ns, f"arrival {command.exchange} {command.symbol}")
        if self._options.tournament and not self._is_measuring:
            self._plan_measure(now)

    def _session(self, exchange: str) -> _Session:
        if (session := self._sessions.get(exchange)) is None:
            session = self._sessions[exchange] = _Session()
        return session

    def _drawn_ns(self, command: OrderSubmitted | CancelOrder | ReplaceOrder, leg: str, now: int) -> int:
        exchange, order_id = command.exchange, command.order_id
        drawn = self._latencies.drawn_ns(exchange, order_id, leg, now)
        book = self._ctx.book(exchange, command.symbol)
        if book.ts_event in (0, book.ts_recv):  # nobody says when the data came that this was decided on
            drawn += self._latencies.drawn_ns(exchange, order_id, FEED, now)
        return drawn

    def _give_up(self, order: OrderSubmitted, at: int) -> None:
        key = _timeout(order.order_id)
        self._timeouts[key] = order
        self._ctx.set_timer(at, key)

    def _time_out(self, order: OrderSubmitted, at: int) -> None:
        reason = f"timed out: not at the exchange within {self._options.timeout_ms} ms"
        self._ctx.publish(OrderRejected(at, at, order.order_id, order.exchange, order.symbol, reason))

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
            back = self._latencies.drawn_ns(event.exchange, event.order_id, RESPONSE, event.ts_event)
            due = session.last_response = max(now, event.ts_event + back, session.last_response)
            market = self._market_of(event) if isinstance(event, OrderFilled) else {}
            session.responses.append(msgspec.structs.replace(event, ts_recv=due, **market))
            self._ctx.set_timer(due, f"response {event.exchange}", priority=2)

    def _market_of(self, fill: OrderFilled) -> dict[str, int]:
        core = self._lane(fill.exchange, fill.symbol).engine.core
        bid, ask = core_book.best_price(core, cs.BID), core_book.best_price(core, cs.ASK)
        return {"fill_mid": bid + ask, "fill_spread": ask - bid} if 0 < bid < ask else {}

    def on_timer(self, timer: Timer) -> None:
        kind, _, rest = timer.key.partition(" ")
        if kind == "response":
            self._publish_due(rest, timer.ts)
        elif kind == "arrival":
            exchange, _, symbol = rest.partition(" ")
            self._apply_arrivals(self._lane(exchange, symbol), timer.ts - self._quiet_ns)
        elif kind == "timeout":
            self._time_out(self._timeouts.pop(timer.key), timer.ts)
        elif kind == _TIERS:
            self._change_tiers(timer.ts)
        elif kind == _TOURNAMENT:
            self._is_measuring = False
            self._measure_tournament()
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
                if midnight := self._tiers.take(
                    event, self._lane(event.exchange, event.symbol).engine.listed
                ):
                    self._ctx.set_timer(midnight, _TIERS)

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

    # --- The tournament ---------------------------------------------------------------------------

    def on_feed_ended(self, ended: FeedEnded) -> None:
        self._measure_tournament()

    def _plan_measure(self, now: int) -> None:
        self._is_measuring = True
        self._ctx.set_timer((now // MEASURE_NS + 1) * MEASURE_NS, _TOURNAMENT)

    def _measure_tournament(self) -> None:
        if not self._options.tournament:
            return
        now = self._ctx.clock.now()
        for (exchange, symbol), lane in self._lanes.items():
            if isinstance(lane.engine, Contest):
                book = self._ctx.book(exchange, symbol)
                if measured := lane.engine.measure(now, book.mid2 if book.is_trusted else 0):
                    self._ctx.publish(measured)
        if not self._is_measuring:
            self._plan_measure(now)

    # --- State ------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        lanes = [
            _LaneState(
                exchange,
                symbol,
                lane.clock,
                list(lane.arrivals),
                lane.engine.state(),
                lane.engine.contest_state() if isinstance(lane.engine, Contest) else None,
            )
            for (exchange, symbol), lane in self._lanes.items()
        ]
        sessions = [
            _SessionState(exchange, session.last_arrival, session.last_response, list(session.responses))
            for exchange, session in self._sessions.items()
        ]
        return msgspec.msgpack.encode(
            _State(
                lanes,
                sessions,
                self._markouts,
                self._markout_count,
                self._is_measuring,
                self._timeouts,
                self._tiers.volumes,
            )
        )

    def migrate(self, state: bytes, version: int) -> bytes:
        """Take the state of version 2 or 3: it is this one without its last fields, which have defaults."""
        return state

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=_State)
        self._tiers.volumes = saved.volumes
        for record in saved.lanes:
            engine = self._engine(record.exchange, record.symbol)
            engine.restore(record.engine)
            if isinstance(engine, Contest):
                engine.restore_contest(record.contest)
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
        self._is_measuring = saved.is_measuring
        self._timeouts = saved.timeouts


def _timeout(order_id: str) -> str:
    return f"timeout {order_id}"


@hookimpl
def tickerml_simulators() -> list[SimulatorSpec]:
    """Offer the simulator."""
    return [
        SimulatorSpec(
            id="sim-fifo",
            factory=FifoSimulator,
            options=SimFifoOptions,
            state_version=4,
            publishes=SimulatorSpec.MAY_PUBLISH,
            summary="plays every exchange: price-time priority, queue position, latency both ways, mark-outs",
        )
    ]
