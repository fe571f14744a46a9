"""
The bus inside a process: one input message runs to completion through every component.

A message goes to each component that handles its type, in the order of their
stages (features, strategies, risk, gate, simulator, stores). What they publish is
then dispatched the same way, each output with all its consequences before the next
one, so a second order is judged with the first one's reservation already made.
Nobody is called while in a handler of his own.

Timers due before a message fire before it; those due at its very time come after.
So the result is a function of the inputs alone, and a live host, a backtest and a
replay, which all run this class, agree byte for byte.

A component that raises is set aside: what that handler published is dropped, a
PluginFailed goes out in its name, and the others go on.

A sink is given its alerts here: behind each that it has taken the bus publishes
AlertSent in its name. After a crash, when what came since the checkpoint is handled
again, an alert whose AlertSent is in the order already is not sent again. One that was
sent just before the crash, and whose AlertSent was not heard of, is: at least once.
"""

import hashlib
import heapq
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from . import codec, secret
from . import messages as m
from .alerts import ALERTING, alert_of
from .book import OrderBook
from .clock import Clock, EventClock, WallClock
from .enums import Severity
from .errors import CodecError, PluginContractError, StateRefused
from .hookspecs import PluginSpec, SinkSpec, Timer

#: Called with (plugin, n, cause, message) for every output, in order.
OutputSink = Callable[[str, int, int, m.Message], None]

#: Called with (plugin, n, cause): whether that output is in the order already.
IsSaid = Callable[[str, int, int], bool]

logger = structlog.get_logger()

_STATE_FORMAT = 1


def handler_name(cls: type[m.Message]) -> str:
    """Return the method that handles *cls*: BookDelta is on_book_delta."""
    return "on_" + re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


class _ComponentState(msgspec.Struct, frozen=True, array_like=True):
    plugin: str
    version: int
    state: bytes


class _BookRecord(msgspec.Struct, frozen=True, array_like=True):
    state: m.BookState
    book: m.BookSnapshot
    ts_gap: int = 0


class BusState(msgspec.Struct, frozen=True, array_like=True):
    """Everything a LocalBus remembers: the content of a checkpoint."""

    format: int
    now: int
    timer_count: int
    timers: list[tuple[int, int, int, str, str]]
    instruments: list[m.Instrument]
    books: list[_BookRecord]
    failed: list[str]
    components: list[_ComponentState]


_decode_state = msgspec.msgpack.Decoder(BusState).decode


class _Slot:
    """One component's place on the bus; it is also the Context its component was built with."""

    __slots__ = (
        "_bus",
        "_cause",
        "_n",
        "_secrets",
        "allowed",
        "component",
        "data_dir",
        "log",
        "outbox",
        "plugin",
        "spec",
    )

    def __init__(self, bus: "LocalBus", spec: PluginSpec, data_dir: Path, secrets: Mapping[str, str]) -> None:
        self._bus = bus
        self._secrets = secrets
        self._cause = -1
        self._n = 0
        self.spec = spec
        self.plugin = spec.id
        self.data_dir = data_dir
        # What a sink publishes the bus says in its name.
        self.allowed = frozenset(() if isinstance(spec, SinkSpec) else spec.publishes)
        self.log = structlog.get_logger().bind(plugin=spec.id)
        self.outbox: list[tuple[_Slot, m.Message]] = []
        self.component: Any = None

    @property
    def clock(self) -> Clock:
        return self._bus.clock

    @property
    def started_ns(self) -> int:
        return self._bus.started_ns

    def secret(self, name: str) -> str:
        return secret.value_of(name, self._secrets, self.plugin)

    def wants(self, cls: type[m.Message]) -> bool:
        return self.spec.subscribes is None or cls.__name__ in self.spec.subscribes

    def publish(self, message: m.Message) -> None:
        if type(message) not in self.allowed:
            raise PluginContractError(
                self.plugin, f"published {type(message).__name__}, which its spec does not declare"
            )
        self.outbox.append((self, message))

    def set_timer(self, ts: int, key: str, priority: int = 3) -> None:
        self._bus.set_timer(self, ts, key, priority)

    def book(self, exchange: str, symbol: str) -> OrderBook:
        return self._bus.book(exchange, symbol)

    def instrument(self, exchange: str, symbol: str) -> m.Instrument | None:
        return self._bus.instruments.get((exchange, symbol))

    def uniform(self, *key: str | int) -> float:
        text = repr((self._bus.seed, self.plugin, key)).encode()
        number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
        return (number >> 11) / 2**53  # as many bits as a float holds, so that none rounds up to 1

    def on_timer(self, timer: Timer) -> None:
        """Tell the component; one that set a timer and has no on_timer fails here, like any other handler."""
        self.component.on_timer(timer)

    def number(self, cause: int) -> int:
        """Return how many outputs this component had for *cause*, and count one more."""
        self._n = self.count(cause) + 1
        self._cause = cause
        return self._n - 1

    def count(self, cause: int) -> int:
        """Return how many outputs this component had for *cause*."""
        return self._n if cause == self._cause else 0


class LocalBus:
    """Runs components in one thread by direct calls."""

    def __init__(
        self,
        on_output: OutputSink,
        *,
        clock: EventClock | WallClock | None = None,
        started_ns: int = 0,
        seed: int = 0,
        data_dir: Path = Path(),
        is_said: IsSaid | None = None,
    ) -> None:
        """
        Args:
            on_output: told of every output, in the order in which it happens.
            clock: by default one that the inputs move; a live feed's host gives the wall clock.
            started_ns: when the run began, ns UTC.
            seed: of the run; every random number is a function of it.
            data_dir: where each plugin gets a directory of its own.
            is_said: whether an output is in the order already, or need not reach the world: no alert
                is sent for it then. By default none is.
        """
        self.clock = clock or EventClock()
        self.started_ns = started_ns
        self.seed = seed
        self.instruments: dict[tuple[str, str], m.Instrument] = {}
        self.failed: set[str] = set()
        self.failures: dict[str, str] = {}  # "stage: error" of those that failed here, not before a restore
        self._on_output = on_output
        self._is_said = is_said or (lambda plugin, n, cause: False)
        self._cause = 0  # the number of the input being handled
        self._data_dir = data_dir
        self._strays = False  # whether a failure outside of a dispatch waits to be published
        self._slots: dict[str, _Slot] = {}
        self._handlers: dict[type[m.Message], list[tuple[_Slot, Callable[[Any], None]]]] = {}
        self._wanted: frozenset[type[m.Message]] = frozenset()
        self._books: dict[tuple[str, str], OrderBook] = {}
        self._timers: list[tuple[int, int, int, str, str]] = []  # (ts, priority, count, plugin, key)
        self._timer_count = 0
        self._bind()

    # --- Building -----------------------------------------------------------------------------

    def add(self, spec: PluginSpec, options: Any, secrets: Mapping[str, str] | None = None) -> Any:
        """
        Build *spec*'s component and give it its place.

        Args:
            secrets: the values of those that it is granted, by name.
        Raises: PluginContractError: it publishes what its kind may not. Whatever its constructor raises.
        """
        if extra := set(spec.publishes) - set(spec.MAY_PUBLISH):
            names = ", ".join(sorted(cls.__name__ for cls in extra))
            raise PluginContractError(spec.id, f"a {spec.KIND} may not publish {names}")
        slot = _Slot(self, spec, self._data_dir / spec.id, secrets or {})
        slot.component = spec.factory(slot, options)
        self._slots[spec.id] = slot
        self._bind()
        return slot.component

    def _bind(self) -> None:
        order = sorted(
            (slot for slot in self._slots.values() if slot.plugin not in self.failed),
            key=lambda slot: (slot.spec.STAGE, slot.plugin),
        )
        self._handlers = {}
        for cls in m.message_types():
            name = handler_name(cls)
            bound: list[tuple[_Slot, Callable[[Any], None]]] = []
            for slot in [each for each in order if each.wants(cls)]:
                if hasattr(slot.component, name):
                    bound.append((slot, getattr(slot.component, name)))
                if isinstance(slot.spec, SinkSpec) and cls in ALERTING:
                    bound.append((slot, partial(self._alert, slot, slot.spec)))
            if bound:
                self._handlers[cls] = bound
        self._wanted = frozenset(self._handlers) | frozenset(_KEEPERS) | {m.TimeTick}

    @property
    def wanted_types(self) -> frozenset[type[m.Message]]:
        """The message types that make a difference here: handled, or keeping the books or the time."""
        return self._wanted

    @property
    def plugins(self) -> list[str]:
        """The ids of the components, in the order they were added."""
        return list(self._slots)

    def component(self, plugin: str) -> Any:
        """Return the component of *plugin*; for tests and reports."""
        return self._slots[plugin].component

    # --- Running ------------------------------------------------------------------------------

    def deliver(self, message: m.Message, cause: int) -> None:
        """
        Run the input *message*, number *cause*, and all its consequences to completion.

        A type that nobody here handles does not even move the clock, so it makes no
        difference whether a host subscribes to it.
        """
        if type(message) not in self._wanted:
            return
        self.begin(cause)
        ts = message.ts_recv
        timers = self._timers
        while timers and timers[0][0] < ts:
            self.fire()
        self.clock.advance(ts)
        self._dispatch(message, cause)

    def begin(self, cause: int) -> None:
        """Let what follows be of the input number *cause*; deliver() does so itself."""
        self._cause = cause
        if self._strays:
            self._strays = False
            self._run(self._take(list(self._slots.values())), cause)

    def is_due(self, ts: int) -> bool:
        """Return whether a timer is due before *ts*, ns UTC."""
        return bool(self._timers) and self._timers[0][0] < ts

    def fire(self) -> None:
        """Run the first timer and all its consequences; deliver() does so with all that are due."""
        due, _, _, plugin, key = heapq.heappop(self._timers)
        self.clock.advance(due)
        if (slot := self._slots.get(plugin)) and plugin not in self.failed:
            self._call(slot, slot.on_timer, Timer(due, key), "timer")
            self._run(self._take([slot]), self._cause)

    def say(self, plugin: str, messages: Iterable[m.Message]) -> None:
        """
        Publish *messages* in the name of *plugin*, between two handlers, with all their consequences.

        Raises: PluginContractError: of a type that its spec does not declare; none is published then.
        """
        slot = self._slots[plugin]
        try:
            for message in messages:
                slot.publish(message)
        except PluginContractError:
            slot.outbox.clear()
            raise
        self._run(self._take([slot]), self._cause)

    def deliver_encoded(self, body: bytes, cause: int) -> None:
        """Run the encoded input *body*; what cannot be read is skipped and logged, live as in a replay."""
        if message := _read(body, cause):
            self.deliver(message, cause)

    def keep_encoded(self, body: bytes, cause: int) -> None:
        """Take the encoded *body* of a time without these components: it keeps the books, and no more."""
        if message := _read(body, cause):
            self.keep(message)

    def keep(self, message: m.Message) -> None:
        """Take *message* of a time without these components: it keeps the books, and no more."""
        if keeper := _KEEPERS.get(type(message)):
            keeper(self, message)

    def emit(self, plugin: str, messages: Iterable[m.Message], cause: int) -> None:
        """Publish what the source *plugin* yielded as its input number *cause*."""
        slot = self._slots[plugin]
        for message in messages:
            slot.publish(message)
        for _, message in self._take([slot]):
            self.clock.advance(message.ts_recv)
            self._on_output(plugin, slot.number(cause), cause, message)

    def _dispatch(self, message: m.Message, cause: int) -> None:
        keeper = _KEEPERS.get(type(message))
        if keeper is not None:
            keeper(self, message)
        handlers = self._handlers.get(type(message))
        if handlers is None:
            return
        for slot, handle in handlers:
            self._call(slot, handle, message, type(message).__name__)
        outputs = self._take([slot for slot, _ in handlers])
        if outputs:
            self._run(outputs, cause)

    def _run(self, outputs: list[tuple[_Slot, m.Message]], cause: int) -> None:
        # A stack, not recursion: the first output and all that follows from it come before the second.
        stack = outputs[::-1]
        while stack:
            slot, message = stack.pop()
            self._on_output(slot.plugin, slot.number(cause), cause, message)
            if (keeper := _KEEPERS.get(type(message))) is not None:
                keeper(self, message)
            handlers = self._handlers.get(type(message), ())
            for receiver, handle in handlers:
                self._call(receiver, handle, message, type(message).__name__)
            stack.extend(reversed(self._take([receiver for receiver, _ in handlers])))

    def _call(self, slot: _Slot, handle: Callable[[Any], None], argument: object, stage: str) -> None:
        try:
            handle(argument)
        except Exception as error:
            self.fail(slot.plugin, stage, error)

    def _take(self, slots: Iterable[_Slot]) -> list[tuple[_Slot, m.Message]]:
        taken: list[tuple[_Slot, m.Message]] = []
        for slot in slots:
            if slot.outbox:
                taken += slot.outbox
                slot.outbox.clear()
        return taken

    def _alert(self, slot: _Slot, spec: SinkSpec, message: m.Message) -> None:
        """Have the sink of *slot* send what *message* is worth to it, and say so, once."""
        alert = alert_of(message, self.instruments)
        least: Severity = getattr(slot.component, "min_severity", spec.min_severity)
        if alert is None or alert.severity.rank < least.rank:
            return
        if not self._is_said(slot.plugin, slot.count(self._cause) + len(slot.outbox), self._cause):
            slot.component.emit(alert)
        slot.outbox.append((slot, m.AlertSent(self.clock.now(), slot.plugin, alert.severity, alert.key)))

    def fail(self, plugin: str, stage: str, error: Exception) -> None:
        """Set *plugin* aside: what it was publishing is dropped, and PluginFailed says why."""
        slot = self._slots[plugin]
        slot.outbox.clear()
        slot.log.error("plugin.failed", stage=stage, exc_info=error)
        self.failed.add(plugin)
        self._bind()
        self._strays = True
        text = f"{type(error).__name__}: {error}"
        self.failures[plugin] = f"{stage}: {text}"
        slot.outbox.append((slot, m.PluginFailed(self.clock.now(), plugin, slot.spec.KIND, stage, text)))

    # --- What components ask for --------------------------------------------------------------

    def set_timer(self, slot: _Slot, ts: int, key: str, priority: int) -> None:
        """Have *slot*'s component told at *ts*."""
        self._timer_count += 1
        heapq.heappush(self._timers, (ts, priority, self._timer_count, slot.plugin, key))

    def book(self, exchange: str, symbol: str) -> OrderBook:
        """Return the shared book of *symbol*, RESYNCING while nothing is known."""
        book = self._books.get((exchange, symbol))
        if book is None:
            book = self._books[exchange, symbol] = OrderBook(exchange, symbol)
        return book

    # --- Books and instruments ----------------------------------------------------------------

    def _keep_instrument(self, message: m.Instrument) -> None:
        self.instruments[message.exchange, message.symbol] = message

    def _keep_snapshot(self, message: m.BookSnapshot) -> None:
        self.book(message.exchange, message.symbol).apply_snapshot(message)

    def _keep_delta(self, message: m.BookDelta) -> None:
        self.book(message.exchange, message.symbol).apply_delta(message)

    def _keep_lost(self, message: m.FeedLost) -> None:
        for (exchange, _), book in self._books.items():
            if exchange == message.exchange and book.is_heard_of:
                book.distrust(message.ts_recv)

    def _keep_gap(self, message: m.SequenceGap | m.ChecksumFailed) -> None:
        self.book(message.exchange, message.symbol).distrust(message.ts_recv)

    def _keep_stale(self, message: m.BookStale) -> None:
        book = self.book(message.exchange, message.symbol)
        if book.state is m.BookState.VALID:
            book.state = m.BookState.STALE

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """
        Return the state of the bus and of every component.

        A component that raises is set aside and the others are still written down.
        """
        components = []
        for slot in self._slots.values():
            if slot.plugin in self.failed:
                continue
            try:
                components.append(
                    _ComponentState(slot.plugin, slot.spec.state_version, slot.component.snapshot())
                )
            except Exception as error:
                self.fail(slot.plugin, "snapshot", error)
        state = BusState(
            _STATE_FORMAT,
            self.clock.now(),
            self._timer_count,
            sorted(self._timers),
            [self.instruments[key] for key in sorted(self.instruments)],
            [
                _BookRecord(book.state, book.snapshot(), book.ts_gap)
                for _, book in sorted(self._books.items())
                if book.is_heard_of
            ],
            sorted(self.failed),
            components,
        )
        return msgspec.msgpack.encode(state)

    def borrow(self, data: bytes) -> None:
        """
        Take the books and instruments from the bytes of another bus's snapshot(), and nothing else.

        Raises: StateRefused: not such bytes.
        """
        self._keep_shared(_open_state(data))

    def _keep_shared(self, state: BusState) -> None:
        for instrument in state.instruments:
            self._keep_instrument(instrument)
        for record in state.books:
            self._keep_snapshot(record.book)
            book = self.book(record.book.exchange, record.book.symbol)
            book.state, book.ts_gap = record.state, record.ts_gap

    def restore(self, data: bytes, revived: Iterable[str] = ()) -> None:
        """
        Continue from the bytes of snapshot(). Components that are new since then start empty; one
        that had failed stays set aside. One that cannot take its state is set aside now: see failures.

        Args:
            revived: plugins that begin anew whatever had become of them.

        Raises: StateRefused: not such bytes.
        """
        state = _open_state(data)
        self.clock.advance(state.now)
        self._timer_count = state.timer_count
        self._timers = [timer for timer in state.timers if timer[3] in self._slots]
        self._keep_shared(state)
        self.failed = {plugin for plugin in state.failed if plugin in self._slots} - set(revived)
        self._bind()
        for saved in state.components:
            if (slot := self._slots.get(saved.plugin)) is None:
                continue
            try:
                slot.component.restore(_state_for(slot, saved))
            except Exception as error:
                self.fail(saved.plugin, "restore", error)


def _read(body: bytes, cause: int) -> m.Message | None:
    try:
        return codec.decode(body)
    except CodecError as error:
        logger.error("bus.message_skipped", cause=cause, error=str(error))
        return None


def _open_state(data: bytes) -> BusState:
    """
    Raises: StateRefused: not the bytes of a snapshot().
    """
    try:
        state = _decode_state(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StateRefused(
            "kernel", f"expected a host's state, was {len(data)} bytes of something else: {error}"
        ) from None
    if state.format != _STATE_FORMAT:
        raise StateRefused("kernel", f"expected state format {_STATE_FORMAT}, was {state.format}")
    return state


def _state_for(slot: _Slot, saved: _ComponentState) -> bytes:
    """
    Return *saved* as this version of its component takes it.

    Raises: StateRefused: it does not. Whatever its migrate() raises.
    """
    wanted = slot.spec.state_version
    if saved.version == wanted:
        return saved.state
    if saved.version == wanted - 1 and hasattr(slot.component, "migrate"):
        migrated: bytes = slot.component.migrate(saved.state, saved.version)
        return migrated
    raise StateRefused(
        saved.plugin,
        f"cannot take state version {saved.version}, only {wanted}"
        + (", and has no migrate() for the one before" if saved.version == wanted - 1 else ""),
    )


_KEEPERS: dict[type[m.Message], Callable[[LocalBus, Any], None]] = {
    m.Instrument: LocalBus._keep_instrument,
    m.BookSnapshot: LocalBus._keep_snapshot,
    m.BookDelta: LocalBus._keep_delta,
    m.FeedLost: LocalBus._keep_lost,
    m.SequenceGap: LocalBus._keep_gap,
    m.ChecksumFailed: LocalBus._keep_gap,
    m.BookStale: LocalBus._keep_stale,
}
