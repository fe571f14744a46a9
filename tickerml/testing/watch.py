"""
The invariants, checked after every step by somebody who sees everything and decides nothing.

The watch hears each message that the kernel publishes, each input that reaches a host's
components, each state that is written or restored, and looks at what the disk holds. It keeps
its own account of the one order, and never asks the code it watches what should be so:

- What is published continues the order, topic by topic, at the one epoch its component has.
- The journal is a prefix of it. What is durable is never gone again, unless the world broke it.
- A host's inputs are exactly the frames it asked for, once, in order, from its checkpoint on.
- A checkpoint is the state that a host which never fell has there, and lies within the log.
- What a component publishes is what it publishes undisturbed, once.
- Who was told that something is done finds it in the journal, for good.
"""

import hashlib
from collections.abc import Collection
from typing import Any

import msgspec

from tickerml.kernel import codec, control, topics
from tickerml.kernel import messages as m
from tickerml.kernel.config import Plan
from tickerml.kernel.errors import StoreCorrupt
from tickerml.kernel.records import KEY, split_checkpoint_key, unpack_checkpoint, unpack_record
from tickerml.kernel.sequencer import KERNEL, SequencerState

from .disk import StoredFile
from .oracle import Shadow, Violation, decisions, explain_difference, market_outputs, unversioned, what_runs
from .scenario import Scenario

_SYNC = topics.topic("sync")
_KEPT = tuple(topics.topic(kind) for kind in topics.KEPT_KINDS)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


class HostView:
    """What one process of a host has been given so far."""

    def __init__(self, host: str, pid: int) -> None:
        self.host = host
        self.pid = pid
        #: The seqs of which one is the last that its components were given; several where it has restored
        #: a state that was the same after each of them.
        self.taken = {0}


class Watch:
    """Sees everything."""

    def __init__(self, scenario: Scenario, started_ns: int) -> None:
        self._scenario = scenario
        self._started_ns = started_ns
        self.frames: list[codec.Frame] = []  # of this timeline, by seq - 1
        self._raw: list[bytes] = []
        self._tseq: dict[bytes, int] = {}
        self._named: dict[tuple[int, int, int], int] = {}  # (origin, cause, n) -> seq
        self.names: dict[int, str] = {0: KERNEL}
        self._epochs: dict[int, int] = {}
        self._states: dict[tuple[str, bytes], set[int]] = {}  # (host, digest of its bus) -> positions
        self._source = scenario.plan.ids("exchange")[0]
        self._market = [] if scenario.is_wall else market_outputs(scenario.plan)
        self._market_said: list[int] = []  # seqs of what the market said
        self.durable = 0  # the last seq that the disk holds
        self._log_key = self._kept_key = b""
        self._kept_due: list[bytes] = []
        self._checkpoint_keys: dict[bytes, bytes] = {}
        self._handed: dict[tuple[str, int], int] = {}  # (host, position) of a state -> seq behind it
        self.acknowledged: list[tuple[int, str]] = []
        self.is_broken = False  # whether the world has destroyed something that was durable
        self._plans = {host: scenario.plan for host in scenario.plan.consumers()}  # what each host runs
        self.shadows: dict[str, Shadow] = {}
        #: Of hosts whose plan has changed: processes that have yet to begin, what each gave away, and the
        #: shadows that still have to see a state that the next one began with, and what was said by then.
        self._forking: dict[int, tuple[Plan, control.Admitted]] = {}
        self._given: dict[int, tuple[int, bytes]] = {}
        self._past: list[tuple[Shadow, int, int, bytes]] = []
        self._forked: set[str] = set()
        self._raise_shadows()
        self.own: dict[str, frozenset[int]] = {}

    def _raise_shadows(self) -> None:
        away = {host: shadow.away for host, shadow in self.shadows.items()}
        self.shadows = {
            host: Shadow(plan, host, self._started_ns, away.get(host, (0, 0)))
            for host, plan in self._plans.items()
        }

    # --- What the kernel publishes ------------------------------------------------------------

    def published(self, run: bytes) -> None:
        """
        The kernel has sent *run* out on the bus.

        Raises: Violation.
        """
        for raw in codec.unpack_run(run):
            frame = codec.unpack(raw)
            if frame.seq != len(self.frames) + 1:
                raise Violation(f"seq {frame.seq} was published after {len(self.frames)}")
            if frame.tseq != self._tseq.get(frame.topic, 0) + 1:
                raise Violation(
                    f"{frame.topic.decode()} has tseq {frame.tseq} after {self._tseq.get(frame.topic, 0)} "
                    f"at seq {frame.seq}"
                )
            self._tseq[frame.topic] = frame.tseq
            self._check_name(frame)
            self.frames.append(frame)
            self._raw.append(raw)
            if self.names[frame.origin] == self._source and self._market:
                self._check_market(frame)

    def _check_name(self, frame: codec.Frame) -> None:
        name = (frame.origin, frame.cause, frame.n)
        if frame.origin not in self.names:
            raise Violation(f"seq {frame.seq} is of origin {frame.origin}, which was never admitted")
        component = self.names[frame.origin]
        if component != KERNEL and frame.epoch != self._epochs.get(frame.origin):
            raise Violation(
                f"seq {frame.seq} of {component} has epoch {frame.epoch}, and the active one is "
                f"{self._epochs.get(frame.origin)}"
            )
        if name in self._named:
            raise Violation(
                f"seq {frame.seq} repeats the output ({component}, {frame.cause}, {frame.n}) of seq "
                f"{self._named[name]}"
            )
        self._named[name] = frame.seq

    def _check_market(self, frame: codec.Frame) -> None:
        if frame.topic.startswith(b"feed.") and isinstance(codec.decode(frame.body), m.FeedSummarized):
            return
        at = len(self._market_said)
        expected = self._market[at] if at < len(self._market) else None
        if expected != (frame.cause, frame.body):
            shown = codec.decode(expected[1]) if expected else "nothing more"
            raise Violation(
                f"the market's message {at} is {codec.decode(frame.body)} (input {frame.cause}), and "
                f"undisturbed it is {shown} (input {expected[0] if expected else '-'})"
            )
        self._market_said.append(frame.seq)

    def admitted(self, view: HostView, plan: Plan, admitted: control.Admitted) -> None:
        """
        The kernel has admitted a new process of a host, which runs what *plan* says.

        Raises: Violation: it may publish at an epoch that is not new.
        """
        for name, number in admitted.origins.items():
            epoch = admitted.epochs[name]
            if epoch <= self._epochs.get(number, 0):
                raise Violation(f"{name} was admitted at epoch {epoch} after {self._epochs[number]}")
            self._epochs[number] = epoch
            self.names[number] = name
        host = view.host
        self.own[host] = frozenset(admitted.origins.values())
        if host in plan.consumers():
            if host not in self._plans:
                self.shadows[host] = Shadow(plan, host, self._started_ns, (0, admitted.away[1]))
            elif self._is_another(host, plan, admitted):
                self._forking[view.pid] = plan, admitted
            self._plans[host] = plan

    def _is_another(self, host: str, plan: Plan, admitted: control.Admitted) -> bool:
        """Whether what *host* does from here on is not what its shadow would do."""
        shadow = self.shadows[host]
        is_back = admitted.away[1] != shadow.away[1]
        return host in self._forked or is_back or shadow.runs != what_runs(plan, host)

    def gave(self, view: HostView, position: int, bus: bytes) -> None:
        """A process has handed over its state; it keeps it, and may go on from it."""
        self._given[view.pid] = position, bus

    def _fork(self, view: HostView, position: int, bus: bytes) -> None:
        """A host runs something else from a state on: judge it by another shadow."""
        plan, admitted = self._forking.pop(view.pid)
        before = self.shadows[view.host]
        if before.position < position:
            self._past.append((before, position, len(self.frames), bus))
        left, back = admitted.away
        away = (left if bus else 0), back  # without a state it has never been there
        new = self.shadows[view.host] = Shadow(plan, view.host, self._started_ns, away)
        new.go_on(position, len(self.frames), bus, admitted.outputs)
        self._forked.add(view.host)

    def handed_over(self, host: str, position: int) -> None:
        """The state of *host* at *position* was given to a process; it, or a later one, must be stored."""
        self._handed[host, position] = len(self.frames)

    def made_permanent(self) -> None:
        """
        From now on the next kernel runs another plan.

        Raises: Violation: a state from which a host goes on under that plan is not on the disk.
        """
        for (host, position), seq in self._handed.items():
            if seq > self.durable:
                raise Violation(f"a change is permanent, and the state of {host} at {position} may be lost")

    def promised(self, seq: int, reason: str) -> None:
        """
        Somebody was told that the command with this *reason* is done, at *seq*.

        Raises: Violation: it is not on the disk.
        """
        if seq > self.durable:
            raise Violation(f"seq {seq} ({reason}) was acknowledged, and the disk ends at {self.durable}")
        self.acknowledged.append((seq, reason))

    # --- What hosts take and write ------------------------------------------------------------

    def delivered(self, view: HostView, cause: int, body: bytes) -> None:
        """
        The components of a host are given the input *cause*.

        Raises: Violation: it is not the next that they should be given.
        """
        if view.pid in self._forking:
            self._fork(view, *self._given.get(view.pid, (0, b"")))
        if cause > len(self.frames) or (frame := self.frames[cause - 1]).body != body:
            raise Violation(f"host {view.host} was given something at seq {cause} that is not what is there")
        if frame.origin in self.own[view.host]:
            raise Violation(f"host {view.host} was given its own output at seq {cause} as an input")
        if all(taken >= cause or self._between(view, taken, cause - 1) for taken in view.taken):
            raise Violation(self._explain_input(view, cause))
        view.taken = {cause}

    def _between(self, view: HostView, after: int, until: int) -> codec.Frame | None:
        """Return the first frame with after < seq <= until that the host of *view* must be given."""
        prefixes, own = self.shadows[view.host].prefixes, self.own[view.host]
        for frame in self.frames[after:until]:
            if frame.origin not in own and frame.topic.startswith(prefixes):
                return frame
        return None

    def _explain_input(self, view: HostView, cause: int) -> str:
        taken = max(view.taken)
        told = f"host {view.host} was given seq {cause} after {taken}"
        if left_out := self._between(view, taken, cause - 1):
            told += f", and seq {left_out.seq} on {left_out.topic.decode()} was left out"
        return told

    def borrowed(self, view: HostView, bus: bytes) -> None:
        """
        A host that was away takes the books of another one.

        Raises: Violation: nobody wrote that state in this timeline.
        """
        digest = _digest(bus)
        if not (found := [self._states[key] for key in self._states if key[1] == digest]):
            raise Violation(f"host {view.host} took books from a state that no host of this timeline wrote")
        view.taken = set().union(*found)

    def checkpointed(self, view: HostView, position: int, bus: bytes) -> None:
        """
        A host has written down its state.

        Raises: Violation: its position is not where it is.
        """
        if all(taken > position or self._between(view, taken, position) for taken in view.taken):
            raise Violation(
                f"a checkpoint of {view.host} says {position}, and its components have taken "
                f"{max(view.taken)}: what is between is left out, or would come twice"
            )
        self._states.setdefault((view.host, _digest(bus)), set()).add(position)

    def restored(self, view: HostView, bus: bytes) -> None:
        """
        A host goes on from a state.

        Raises: Violation: nobody wrote that state in this timeline.
        """
        if view.host not in self.shadows:
            return
        positions = self._states.get((view.host, _digest(bus)))
        if not positions:
            raise Violation(f"host {view.host} restored a state that no host of this timeline wrote")
        view.taken = set(positions)
        if view.pid in self._forking:
            self._fork(view, max(positions), bus)

    # --- What the disk holds ------------------------------------------------------------------

    def stored(self, file: StoredFile, committed: int) -> None:
        """
        A commit was tried on *file*; the writer says that it holds everything up to *committed*.

        Raises: Violation.
        """
        try:
            fresh = self._read_log(file)
        except StoreCorrupt as error:
            raise Violation(f"the journal holds what it never was given: {error}") from None
        self._check_kept(file, fresh)
        if committed > self.durable:
            raise Violation(f"the writer says {committed} is safe, and the disk ends at {self.durable}")
        self._check_checkpoints(file)
        for entry in [entry for entry in self._past if entry[2] <= self.durable]:
            self._past.remove(entry)
            shadow, position, _, bus = entry
            if shadow.position < position:
                self._check_state(shadow, position, bus)

    def _read_log(self, file: StoredFile) -> list[bytes]:
        table = file.tables.get(b"log")
        fresh: list[bytes] = []
        if table is None:
            return fresh
        for key in _after(table.keys, self._log_key):
            record = unpack_record(key, table.values[key])
            if KEY.unpack(key)[0] != self.durable + 1:
                raise Violation(f"the journal goes on with seq {KEY.unpack(key)[0]} after {self.durable}")
            for raw in record.frames:
                self.durable += 1
                if self.durable > len(self._raw) or raw != self._raw[self.durable - 1]:
                    raise Violation(f"the journal holds something at seq {self.durable} that never happened")
            fresh += record.frames
            self._log_key = key
        return fresh

    def _check_kept(self, file: StoredFile, fresh: list[bytes]) -> None:
        self._kept_due += [raw for raw in fresh if raw.startswith(_KEPT)]
        table = file.tables.get(b"kept")
        for key in _after(table.keys, self._kept_key) if table else ():
            frames = unpack_record(key, table.values[key]).frames if table else []
            if frames != self._kept_due[: len(frames)]:
                raise Violation(
                    f"what is kept for good at seq {KEY.unpack(key)[0]} is not what was to be kept"
                )
            del self._kept_due[: len(frames)]
            self._kept_key = key
        if self._kept_due:
            seq = codec.unpack(self._kept_due[0]).seq
            raise Violation(f"seq {seq} is in the log and not among what is kept for good")

    def _check_checkpoints(self, file: StoredFile) -> None:
        table = file.tables.get(b"checkpoints")
        fresh = []
        for key in table.keys if table else ():
            value = table.values[key] if table else b""
            if self._checkpoint_keys.get(key) is not value:
                fresh.append((split_checkpoint_key(key), key, value))
        self._checkpoint_keys = dict(table.values) if table else {}
        self._check_handed(
            {split_checkpoint_key(key) for key in table.keys} if table and self._handed else ()
        )
        for place, key, value in sorted(fresh, key=lambda found: found[0][1] if found[0] else 0):
            if place is None or place[1] > self.durable:
                raise Violation(f"a checkpoint {place} is stored, and the log ends at {self.durable}")
            if place[0] in self.shadows:
                state = msgspec.msgpack.decode(unpack_checkpoint(key, value).state, type=control.HostState)
                self._check_state(self.shadows[place[0]], place[1], state.bus)

    def _check_handed(self, stored: Collection[tuple[str, int] | None]) -> None:
        for place, seq in list(self._handed.items()):
            if seq <= self.durable:
                del self._handed[place]
                if not any(key and key[0] == place[0] and key[1] >= place[1] for key in stored):
                    raise Violation(f"what {place[0]} goes on from, its state at {place[1]}, is not stored")

    def _check_state(self, shadow: Shadow, position: int, bus: bytes) -> None:
        if position < shadow.position:
            return  # written again by a host that went back to an earlier one
        self.advance(shadow, position)
        if missing := shadow.missing_until(position):
            raise Violation(
                f"a checkpoint of {shadow.host} at {position} is stored without its output {missing}"
            )
        ours = shadow.snapshot()
        if bus != ours and unversioned(bus) != unversioned(ours):
            raise Violation(
                f"the checkpoint of {shadow.host} at {position} is not the state of a host that never fell: "
                + explain_difference(bus, ours)
            )

    def advance(self, shadow: Shadow, position: int) -> None:
        """
        Let *shadow* see the journal up to *position*, and compare what its host has said.

        Raises: Violation.
        """
        for frame in self.frames[shadow.heard : self.durable]:
            shadow.hear(frame, self.names[frame.origin])
        for frame in self.frames[shadow.position : position]:
            shadow.take(frame, self.names[frame.origin])
        shadow.compare()

    # --- Kernels come and go ------------------------------------------------------------------

    def reopened(self, file: StoredFile, head: int, state: SequencerState) -> None:
        """
        A kernel has recovered: the order goes on after *head*, and everything later never was.

        Raises: Violation: something that was durable is gone, or the state is not that of the order there.
        """
        if not self.is_broken:
            self.stored(file, 0)
        if head < self.durable and not self.is_broken:
            raise Violation(f"the journal held {self.durable} and was recovered to {head}")
        if head > len(self.frames):
            raise Violation(f"the journal was recovered to {head}, and only {len(self.frames)} ever happened")
        if lost := [promise for promise in self.acknowledged if promise[0] > head]:
            if not self.is_broken:
                raise Violation(f"seq {lost[0][0]} ({lost[0][1]}) was acknowledged and is gone")
            self.acknowledged = [promise for promise in self.acknowledged if promise[0] <= head]
        self._rewind(head)
        if self.is_broken:
            self._begin_again(file, head)
        self._check_recovered(state)

    def _rewind(self, head: int) -> None:
        for frame in reversed(self.frames[head:]):
            self._tseq[frame.topic] = frame.tseq - 1
            del self._named[frame.origin, frame.cause, frame.n]
        del self.frames[head:], self._raw[head:]
        self._market_said = [seq for seq in self._market_said if seq <= head]
        self._states = {
            key: {position for position in positions if position <= head}
            for key, positions in self._states.items()
        }
        self._epochs.clear()
        self._past = [entry for entry in self._past if entry[2] <= head]
        self._forking.clear()
        self._given.clear()
        for shadow in self.shadows.values():
            shadow.heard = min(shadow.heard, head)
        self._handed.clear()

    def _begin_again(self, file: StoredFile, head: int) -> None:
        """Something durable was destroyed: judge what is left from its beginning."""
        self.is_broken = False
        self.durable = head
        self._log_key = _last(file, b"log")
        self._kept_key = _last(file, b"kept")
        self._kept_due.clear()
        self._checkpoint_keys = dict(file.tables[b"checkpoints"].values) if file.tables else {}
        self._raise_shadows()

    def _check_recovered(self, state: SequencerState) -> None:
        if state.seq != len(self.frames):
            raise Violation(
                f"the kernel goes on after seq {state.seq}, and the journal ends at {len(self.frames)}"
            )
        counts = {topic: count for topic, count in self._tseq.items() if count}
        if {topic: count for topic, count in state.tseq.items() if count} != counts:
            raise Violation(
                f"the kernel recovered other topic counts than the journal has, at seq {state.seq}"
            )
        for frame in reversed(self.frames):
            if frame.origin >= len(state.origins) or state.origins[frame.origin] != self.names[frame.origin]:
                raise Violation(
                    f"the kernel has forgotten that origin {frame.origin} is {self.names[frame.origin]}"
                )
            if len(self.frames) - frame.seq > 50:
                break

    # --- The end ------------------------------------------------------------------------------

    def message(self, seq: int) -> m.Message:
        """Return what was published at *seq*."""
        return codec.decode(self.frames[seq - 1].body)

    def reason_at(self, seq: int) -> str:
        """Return the reason of the command at *seq*; "" where there is none."""
        if not 0 < seq <= len(self.frames):
            return ""
        message: Any = self.message(seq)
        return message.reason if isinstance(message, m.HaltTrading | m.ResumeTrading) else ""

    def compared(self, view: HostView, plan: Plan, told: control.Shadowed) -> None:
        """
        A candidate tells how what it would have published under *plan* compares with what was published.

        Raises: Violation: it differs, and both run the same code.
        """
        if view.host in self._forked or self.shadows[view.host].runs != what_runs(plan, view.host):
            return
        if told.different or told.only_old or told.only_new:
            raise Violation(f"host {view.host} was compared with itself, and differs: {told.examples[:3]}")

    def ended(self, summary: dict[str, Any], plan: Plan) -> None:
        """
        The run, of *plan* in the end, is complete.

        Raises: Violation: it is not what an undisturbed run comes to.
        """
        if self.durable != len(self.frames):
            raise Violation(f"the run ended at seq {len(self.frames)}, and the disk ends at {self.durable}")
        if self._market and len(self._market_said) != len(self._market):
            raise Violation(f"the market said {len(self._market_said)} of its {len(self._market)} messages")
        # What a person asks for while the hosts already stop is in the journal, and acted upon by nobody.
        drained = max((frame.seq for frame in self.frames if self._is_drain(frame)), default=0)
        for shadow in self.shadows.values():
            self.advance(shadow, self.durable)
            if shadow.host in plan.hosts() and (missing := shadow.missing_until(drained)):
                raise Violation(f"host {shadow.host} never published {missing}")
            _check_orders(shadow)
        is_alone = len(self.shadows) == 1 and not self._scenario.is_wall
        is_steered = any(
            isinstance(codec.decode(frame.body), m.TradingHalted) for frame in self.control_frames()
        )
        if is_alone and not is_steered and summary["decisions_sha256"] != decisions(self._scenario.plan):
            raise Violation("the decisions are not those of an undisturbed backtest")

    def _is_drain(self, frame: codec.Frame) -> bool:
        return frame.topic == _SYNC and self.message(frame.seq).purpose == "drain"  # type: ignore[attr-defined]

    def control_frames(self) -> list[codec.Frame]:
        """Return what was published on the trading state."""
        return [frame for frame in self.frames if frame.topic.startswith(b"control.")]


def _last(file: StoredFile, table: bytes) -> bytes:
    keys = file.tables[table].keys if table in file.tables else []
    return keys[-1] if keys else b""


def _after(keys: list[bytes], last: bytes) -> list[bytes]:
    # Only the end of a table is new; most of the time that is nothing.
    at = len(keys)
    while at and keys[at - 1] > last:
        at -= 1
    return keys[at:]


def _check_orders(shadow: Shadow) -> None:
    """
    Raises: Violation: the gate and the simulator do not know of the same open orders.
    """
    if "gate" not in shadow.plugins or "sim-fifo" not in shadow.plugins:
        return
    simulator = shadow.component("sim-fifo")
    known = simulator.snapshot()
    at_gate = set(shadow.component("gate").open_orders)
    resting = {order["order_id"] for order in simulator.open_orders()}
    if forgotten := [order for order in at_gate if order.encode() not in known]:
        raise Violation(f"the gate waits for orders that the simulator has never heard of: {forgotten}")
    if resting - at_gate:
        raise Violation(f"orders rest at the exchange that the gate has forgotten: {resting - at_gate}")
