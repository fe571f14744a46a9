"""
How an order's place in the queue moved: the simulator alone, run again over what the journal holds.

An OrderAccepted says where an order began and an OrderFilled what it got; what happened between is
in nobody's message, so the host's simulator is fed the market of that one symbol, every command of
its exchange, and asked after each message where the order stands. What it publishes on the way is
held against what was published then: a place is only told when both agree.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from . import codec, control, registry, topics
from . import messages as m
from .errors import CodecError
from .gate import GATE
from .journal_reader import JournalReader
from .localbus import LocalBus
from .plans import Plan
from .runs import Run

_COMMANDS = (m.OrderSubmitted, m.CancelOrder, m.ReplaceOrder)
_FATES = (m.OrderAccepted, m.OrderFilled)


class Move(msgspec.Struct, frozen=True):
    """One change of the lots ahead of an order, and what made it; prices in ticks, quantities in lots."""

    seq: int
    ts: int
    event: str  # "trade", "level" or "book"
    quantity: int  # what was traded, or what the level is now
    before: int
    after: int


class Progress(msgspec.Struct, frozen=True):
    """Every move of one order's place; *note* says why there is none, or why it is not to be believed."""

    moves: list[Move] = []
    replayed: int = 0  # messages
    note: str = ""


def queue_progress(
    reader: JournalReader,
    run: Run,
    plan: Plan,
    names: list[str],
    order: m.OrderSubmitted,
    *,
    seq: int,
    until: int,
    fates: list[m.Message],
) -> Progress:
    """
    Return how the queue ahead of *order* went down between its acceptance and its end.

    Args:
        names: of the components, by their numbers.
        seq: that of *order* itself.
        until: the last seq that matters.
        fates: what was published of it.
    Raises: PluginError, ConfigError: the simulator cannot be loaded. StoreCorrupt.
    """
    simulators = [member for member in plan.plugins if member.will_run and member.kind == "simulator"]
    if len(simulators) != 1:
        return Progress(note=f"the plan has {len(simulators)} simulators, and one is needed to ask it")
    (member,) = simulators
    told: list[m.Message] = []
    bus = LocalBus(
        lambda plugin, n, cause, message: told.append(message),
        started_ns=run.started_ns,
        seed=plan.kernel.seed,
        data_dir=Path(),
    )
    component = bus.add(*registry.load_planned(member, plan.config))
    if not hasattr(component, "open_orders"):
        return Progress(note=f"{member.id} does not say where its open orders stand")
    start = _begin(reader, bus, member.host, seq)
    if start is None:
        return Progress(note="the market data of that time is no longer in the journal (kernel.hot_hours)")
    queue = _Watch(
        component, order, next((each for each in fates if isinstance(each, m.OrderAccepted)), None)
    )
    own = {
        n for n, name in enumerate(names) if name in {GATE, *(each.id for each in plan.hosts()[member.host])}
    }
    for at, message in _inputs(reader, bus, order, own, start, until):
        queue.deliver(bus, at, message)
    # What the exchange did is told by timers, which another symbol's message may have set off.
    bus.deliver(m.TimeTick(max(each.ts_recv for each in fates) + 1), until)
    was = [_essence(each) for each in fates if isinstance(each, _FATES)]
    now = [_essence(each) for each in told if isinstance(each, _FATES) and each.order_id == order.order_id]
    if was != now[: len(was)]:
        return Progress(
            note="replayed, the order fares otherwise than was published: its simulator was changed since",
            replayed=queue.replayed,
        )
    return Progress(queue.moves, queue.replayed)


def _begin(reader: JournalReader, bus: LocalBus, host: str, seq: int) -> int | None:
    """Make *bus* what it was at a checkpoint before *seq*, or at the beginning; return where that is."""
    for checkpoint in reader.checkpoints(host):
        state = msgspec.msgpack.decode(checkpoint.state, type=control.HostState)
        if max(1, reader.first()) - 1 <= state.position < seq:
            bus.restore(state.bus)
            return state.position
    return 0 if reader.first() == 1 else None


def _inputs(
    reader: JournalReader, bus: LocalBus, order: m.OrderSubmitted, own: set[int], start: int, until: int
) -> Iterator[tuple[int, m.Message]]:
    """
    Yield (seq, message) of what the simulator was given, as it was given.

    A host publishes later than it decides: what its own components told the simulator came with the
    input that they answered, and before it where a timer due earlier had them speak.
    """
    commands = deque(_commands(reader, order, own, start, until))
    for frame in _market(reader, bus, order, own, start, until):
        if (message := _read(frame)) is None:
            continue
        while commands and (commands[0].cause, commands[0].message.ts_recv) < (frame.seq, message.ts_recv):
            yield commands[0].seq, commands.popleft().message
        yield frame.seq, message
    yield from ((command.seq, command.message) for command in commands)


class _Command(NamedTuple):
    cause: int
    seq: int
    message: m.Message


def _commands(
    reader: JournalReader, order: m.OrderSubmitted, own: set[int], start: int, until: int
) -> list[_Command]:
    found = []
    for raw in reader.frames(start, until, "kept"):
        if raw.startswith(topics.topic("order", order.exchange)):
            frame = codec.unpack(raw)
            if frame.origin in own and frame.cause > start and isinstance(message := _read(frame), _COMMANDS):
                found.append(_Command(frame.cause, frame.seq, message))
    return found


def _market(
    reader: JournalReader, bus: LocalBus, order: m.OrderSubmitted, own: set[int], start: int, until: int
) -> Iterator[codec.Frame]:
    # Other symbols change when answers reach us, and nothing of what happens in this one's queue.
    wanted = tuple(topics.prefixes(bus.wanted_types))
    ours = tuple(topics.topic(kind, order.exchange, order.symbol) for kind in ("book", "trade"))
    for raw in reader.frames(start, until):
        if raw.startswith(ours) or (raw.startswith(wanted) and not raw.startswith((b"book.", b"trade."))):
            frame = codec.unpack(raw)
            if frame.origin not in own:
                yield frame


def _read(frame: codec.Frame) -> m.Message | None:
    try:
        return codec.decode(frame.body)
    except CodecError:  # of another version: live it was skipped too
        return None


class _Watch:
    def __init__(self, component: Any, order: m.OrderSubmitted, accepted: m.OrderAccepted | None) -> None:
        self._component = component
        self._order = order
        # The message that made the exchange's time reach the order may have moved it already.
        self._ahead = accepted.queue_ahead if accepted else None
        self.moves: list[Move] = []
        self.replayed = 0

    def deliver(self, bus: LocalBus, seq: int, message: m.Message) -> None:
        self.replayed += 1
        bus.deliver(message, seq)
        ahead = self._standing()
        if ahead is not None and self._ahead is not None and ahead != self._ahead:
            self.moves.append(_move(bus, self._order, seq, message, self._ahead, ahead))
            self._ahead = ahead

    def _standing(self) -> int | None:
        name = self._order.order_id
        return next(
            (each["queue_ahead"] for each in self._component.open_orders() if each["order_id"] == name), None
        )


def _move(
    bus: LocalBus, order: m.OrderSubmitted, seq: int, message: m.Message, before: int, after: int
) -> Move:
    if isinstance(message, m.Trade):
        return Move(seq, message.ts_recv, "trade", message.quantity, before, after)
    book = bus.book(order.exchange, order.symbol)
    side = book.bids if order.side is m.Side.BUY else book.asks
    event = "book" if isinstance(message, m.BookSnapshot) else "level"
    return Move(seq, message.ts_recv, event, side.quantities.get(order.price, 0), before, after)


def _essence(event: m.Message) -> tuple[int, ...]:
    # When an answer reaches us depends on other symbols too, which are not replayed.
    if isinstance(event, m.OrderFilled):
        return event.ts_event, event.fill, event.price, event.quantity, event.queue_ahead
    assert isinstance(event, m.OrderAccepted)
    return event.ts_event, event.queue_ahead, event.orders_ahead
