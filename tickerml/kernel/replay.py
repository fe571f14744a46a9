"""
Replay a recorded run and compare: the proof that live behaviour is a function of the journal.

The inputs of one host are taken from the journal in their order and run through the
same components on a LocalBus; each output is compared with what the live host
published, byte for byte, by (component, cause, n).
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from . import codec, registry, topics
from . import messages as m
from .config import Plan
from .errors import StoreError
from .gate import GATE, gate_spec
from .hookspecs import SHAPES, Options
from .journal import JournalReader
from .localbus import LocalBus
from .runs import PLAN_KEY, RUN_KEY, Run, read_state

_SYSTEM = topics.topic("system")


class Difference(msgspec.Struct, frozen=True):
    """The first output that is not what the live run published."""

    seq: int
    component: str
    live: str
    replayed: str


class Verification:
    """Replays one host of a run."""

    def __init__(self, run_dir: Path, host: str = "trade") -> None:
        """
        Raises: StoreError: no such run, or it cannot be replayed from its beginning.
        """
        self._host = host
        self._journal = JournalReader(run_dir / "journal")
        plan = self._journal.meta(PLAN_KEY)
        if not plan:
            raise StoreError(f"the run in {run_dir} does not say what it ran")
        self.plan = msgspec.json.decode(plan, type=Plan)
        members = self.plan.hosts().get(host)
        if not members:
            raise StoreError(
                f"the run in {run_dir} has no host {host!r}; it has {', '.join(self.plan.hosts())}"
            )
        if kinds := {member.kind for member in members if SHAPES[member.kind] != "consumer"}:
            raise StoreError(
                f"cannot replay host {host!r} of kind {kinds.pop()!r}: "
                "only what consumes the bus can be replayed"
            )
        if self._journal.first() != 1:
            raise StoreError(f"the beginning of the run in {run_dir} has been pruned (kernel.hot_hours)")
        run = msgspec.msgpack.decode(self._journal.meta(RUN_KEY), type=Run)
        state = read_state(self._journal)
        self._names = state.origins
        self._left, self._back = state.away.get(host, (0, 0))
        self._replayed: deque[tuple[str, int, int, bytes]] = deque()
        self._bus = LocalBus(
            self._record,
            started_ns=run.started_ns,
            seed=self.plan.kernel.seed,
            data_dir=run_dir / "replay",
            is_said=lambda plugin, n, cause: True,  # a sink sends nothing a second time
        )
        has_gate = any(member.kind == "simulator" for member in members)
        if has_gate:
            self._bus.add(gate_spec(self.plan.ids("risk_rule"), self.plan.vital()), Options())
        for member in members:
            self._bus.add(*registry.load_planned(member, self.plan.config))
        own = {GATE, *(member.id for member in members)} if has_gate else {member.id for member in members}
        self._own = {number for number, name in enumerate(self._names) if name in own}
        self.inputs = self.outputs = self.position = 0
        self.head = self._journal.head()
        self.difference: Difference | None = None
        self.stopped_at = 0  # seq of a change of plugins, beyond which the plan no longer holds

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def _record(self, plugin: str, n: int, cause: int, message: m.Message) -> None:
        self._replayed.append((plugin, n, cause, codec.encode(message)))

    def run(self, until: int = 2**63) -> Iterator[int]:
        """Replay to seq *until*, the end or the first difference; yields seq, for progress."""
        prefixes = tuple(topics.prefixes([*self._bus.wanted_types, m.Sync]))
        for raw in self._journal.frames(until=until):
            frame = codec.unpack(raw)
            self.position = frame.seq
            if frame.origin in self._own:
                if not self._compare(frame):
                    return
            elif frame.topic.startswith(prefixes):
                if frame.topic == _SYSTEM and self._is_changed(codec.decode(frame.body)):
                    self.stopped_at = frame.seq
                    return
                if self._left < frame.seq <= self._back:
                    self._bus.keep_encoded(frame.body, frame.seq)
                else:
                    self.inputs += 1
                    self._bus.deliver_encoded(frame.body, frame.seq)
            yield frame.seq

    def _is_changed(self, message: m.Message) -> bool:
        """Whether what follows may have been done by other plugins or with other options."""
        is_swap = isinstance(message, m.SwapStarted) and message.host == self._host
        return is_swap or isinstance(message, m.PluginChanged)

    def _compare(self, frame: codec.Frame) -> bool:
        self.outputs += 1
        live = (self._names[frame.origin], frame.n, frame.cause, frame.body)
        replayed = self._replayed.popleft() if self._replayed else None
        if replayed != live:
            shown = str(codec.decode(replayed[3])) if replayed else "nothing"
            self.difference = Difference(frame.seq, live[0], str(codec.decode(frame.body)), shown)
        return self.difference is None

    def standing(self) -> dict[str, Any]:
        """
        Return how the host stands where the replay has come to, ready for JSON.

        Returns: seq; now, ns UTC; per book its state, best bid and best ask in ticks; the open orders of a
            simulator that tells them, prices in ticks and quantities in lots.
        """
        books = [
            {
                "exchange": exchange,
                "symbol": symbol,
                "state": str(book.state),
                "best_bid": book.best_bid,
                "best_ask": book.best_ask,
            }
            for exchange, symbol in sorted(self._bus.instruments)
            if (book := self._bus.book(exchange, symbol)).is_heard_of
        ]
        simulators = [
            self._bus.component(each) for each in self.plan.ids("simulator") if each in self._bus.plugins
        ]
        orders = [
            msgspec.to_builtins(order)
            for each in simulators
            if hasattr(each, "open_orders")
            for order in each.open_orders()
        ]
        return {"seq": self.position, "now": self._bus.clock.now(), "books": books, "open_orders": orders}

    def report(self) -> dict[str, Any]:
        """Return the verdict, ready for JSON."""
        return {
            "verified": self.difference is None,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "head": self.head,
            "unpublished": len(self._replayed),
            "unpublished_from": self._replayed[0][2] if self._replayed else None,  # the seq of its input
            "stopped_at": self.stopped_at or None,
            "difference": msgspec.to_builtins(self.difference) if self.difference else None,
        }
