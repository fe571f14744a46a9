"""
What should have happened: the market undisturbed, and a shadow of each host that never falls.

A Shadow runs the components of one host on a LocalBus of its own, from the beginning, on what
the journal holds. So whatever the real host went through, its outputs and its checkpoints must be
the shadow's, byte for byte. What a market says is a function of its seed alone.
"""

from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tickerml.kernel import codec, registry, topics
from tickerml.kernel import messages as m
from tickerml.kernel.backtest import Backtest
from tickerml.kernel.clock import DATA_CLOCK_START_NS
from tickerml.kernel.config import Plan, PluginPlan
from tickerml.kernel.gate import GATE, gate_spec
from tickerml.kernel.hookspecs import Options
from tickerml.kernel.localbus import BusState, LocalBus

Output = tuple[str, int, int, bytes]  # component, n, cause, body

_DOUBTFUL = (m.FeedLost, m.SequenceGap, m.ChecksumFailed, m.BookStale)


class Violation(Exception):
    """Something that must never happen has happened."""


def market_outputs(plan: Plan) -> list[tuple[int, bytes]]:
    """Return (cause, body) of everything that the market of *plan* says, its summaries left out."""
    source = next(plugin for plugin in plan.plugins if plugin.kind == "exchange")
    return _market_outputs(source.id, msgspec.json.encode(source), plan.kernel.seed)


@cache
def _market_outputs(plugin: str, planned: bytes, seed: int) -> list[tuple[int, bytes]]:
    spec, options = registry.load_planned(msgspec.json.decode(planned, type=PluginPlan), "")
    said: list[tuple[int, bytes]] = []

    def record(name: str, n: int, cause: int, message: m.Message) -> None:
        if not isinstance(message, m.FeedSummarized):
            said.append((cause, codec.encode(message)))

    bus = LocalBus(record, started_ns=DATA_CLOCK_START_NS, seed=seed)
    component: Any = bus.add(spec, options)
    for cause, (_, messages) in enumerate(component.events(), 1):
        bus.emit(plugin, messages, cause)
    return said


def decisions(plan: Plan) -> str:
    """Return the digest of all decisions of an undisturbed run of *plan*, in one process."""
    content = [(plugin.id, plugin.options) for plugin in plan.plugins]
    return _decisions(msgspec.json.encode([content, plan.kernel.seed], order="sorted"), _Unhashed(plan))


class _Unhashed:
    """Carries a plan past a cache whose key says all that matters of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unhashed)

    def __hash__(self) -> int:
        return 0


@cache
def _decisions(key: bytes, carried: _Unhashed) -> str:
    backtest = Backtest(carried.plan)
    for _ in backtest.run():
        pass
    digest: str = backtest.summary.report()["decisions_sha256"]
    return digest


def what_runs(plan: Plan, host: str) -> tuple[list[str], list[str], list[str]]:
    """Return what decides what *host* says under *plan*, as far as changes of this world touch it."""
    members = plan.hosts()[host]
    has_gate = any(member.kind == "simulator" for member in members)
    rules, vital = (plan.ids("risk_rule"), plan.vital()) if has_gate else ([], [])
    return [member.id for member in members], rules, vital


class Shadow:
    """One consumer host as it would be if nothing had ever happened to it."""

    def __init__(self, plan: Plan, host: str, started_ns: int, away: tuple[int, int] = (0, 0)) -> None:
        """
        Args:
            away: what lies behind the first seq, up to the second, is not for the components of this host.
        """
        members = plan.hosts()[host]
        self.host = host
        self.runs = what_runs(plan, host)
        self.away = away
        self._said: dict[str, tuple[int, int]] = {}  # what need not be said any more, by component
        self.position = 0  # seq of the last frame of the journal that it has seen
        self.heard = 0  # up to where it has heard what its host has published; ahead of position
        self._bus = LocalBus(
            self._record, started_ns=started_ns, seed=plan.kernel.seed, data_dir=Path("/nowhere")
        )
        self.names = {member.id for member in members}
        if any(member.kind == "simulator" for member in members):
            self._bus.add(gate_spec(plan.ids("risk_rule"), plan.vital()), Options())
            self.names.add(GATE)
        for member in members:
            self._bus.add(*registry.load_planned(member, plan.config))
        self.prefixes = tuple(topics.prefixes([*self._bus.wanted_types, m.Sync]))
        self._expected: deque[Output] = deque()
        self._published: deque[Output] = deque()
        self._doubtful_since = 0
        self.outputs = 0

    def go_on(self, position: int, heard: int, bus: bytes, said: dict[str, tuple[int, int]]) -> None:
        """
        Go on from a state, instead of from the beginning.

        Args:
            position: the last input that it has seen.
            heard: up to where others have published in the name of these components.
            bus: the state; b"" for none.
            said: the last output of each component, up to which it repeats what it says in silence.
        """
        self.position, self.heard, self._said = position, heard, said
        if bus:
            self._bus.restore(bus)
        self._doubtful_since = self._bus.clock.now()  # what was decided before that is not ours to judge

    def hear(self, frame: codec.Frame, name: str) -> None:
        """Hear a *frame* of the journal that *name*, maybe one of these components, has published."""
        self.heard = frame.seq
        if name in self.names:
            self._published.append((name, frame.n, frame.cause, frame.body))

    def take(self, frame: codec.Frame, name: str) -> None:
        """
        See the next *frame* of the journal, which *name* published.

        Raises: Violation: an order was filled on a doubtful book.
        """
        self.position = frame.seq
        if name not in self.names and frame.topic.startswith(self.prefixes):
            if frame.topic.startswith(b"feed."):
                self._look(codec.decode(frame.body))
            if self.away[0] < frame.seq <= self.away[1]:
                self._bus.keep_encoded(frame.body, frame.seq)
            else:
                self._bus.deliver_encoded(frame.body, frame.seq)

    def _look(self, message: m.Message) -> None:
        if isinstance(message, _DOUBTFUL):
            # Up to its own time it has decided already, where the data is ahead of whoever doubts it.
            self._doubtful_since = max(message.ts_recv, self._bus.clock.now())

    def _record(self, plugin: str, n: int, cause: int, message: m.Message) -> None:
        self.outputs += 1
        if (cause, n) > self._said.get(plugin, (-1, -1)):
            self._expected.append((plugin, n, cause, codec.encode(message)))
        if isinstance(message, m.OrderFilled):
            book = self._bus.book(message.exchange, message.symbol)
            if book.state is not m.BookState.VALID and message.ts_event >= self._doubtful_since:
                raise Violation(f"order {message.order_id} filled on a book that was {book.state.value}")

    def compare(self) -> None:
        """
        Compare what was heard with what had to be said, as far as both are known.

        Raises: Violation: the host has published something else than this shadow.
        """
        expected, published = self._expected, self._published
        while expected and published:
            if expected[0] != published[0]:
                raise Violation(
                    f"host {self.host} published {_show(published[0])}, where a host that never fell "
                    f"publishes {_show(expected[0])}"
                )
            expected.popleft()
            published.popleft()
        if published and published[0][2] <= self.position:
            raise Violation(
                f"host {self.host} published {_show(published[0])}, "
                "and a host that never fell says nothing more"
            )

    def missing_until(self, position: int) -> str:
        """Return the first output because of inputs up to *position* that the journal lacks; "" for none."""
        if self._expected and self._expected[0][2] <= position:
            return _show(self._expected[0])
        return ""

    def snapshot(self) -> bytes:
        """Return the state."""
        return self._bus.snapshot()

    def component(self, plugin: str) -> Any:
        """Return one component, to look at."""
        return self._bus.component(plugin)

    @property
    def plugins(self) -> list[str]:
        """The components it runs."""
        return self._bus.plugins


def _show(output: Output) -> str:
    name, n, cause, body = output
    return f"{name} ({cause}, {n}) {codec.decode(body)}"


def unversioned(bus: bytes) -> bytes:
    """Return the state *bus* as if every component of it had written its first version."""
    state = msgspec.msgpack.decode(bus, type=BusState)
    components = [msgspec.structs.replace(each, version=1) for each in state.components]
    return msgspec.msgpack.encode(msgspec.structs.replace(state, components=components))


def explain_difference(ours: bytes, theirs: bytes) -> str:
    """Return in which part two states of a bus differ, in a few words."""
    mine, other = msgspec.msgpack.decode(ours), msgspec.msgpack.decode(theirs)
    for number, (a, b) in enumerate(zip(mine, other, strict=False)):
        if a == b:
            continue
        if isinstance(a, list) and isinstance(b, list):
            pairs = [pair for pair in zip(a, b, strict=False) if pair[0] != pair[1]]
            first = pairs[0] if pairs else (a[len(b) :], b[len(a) :])
            return f"part {number}: {str(first[0])[:300]} is not {str(first[1])[:300]}"
        return f"part {number}: {a!r} is not {b!r}"
    return "in length alone"
