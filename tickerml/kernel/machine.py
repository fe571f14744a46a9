"""
What every host does, whatever its shape: build its plugins, present them, stay in touch. Sans-IO.

A host process is a machine and its wires. The machine is told of control messages,
of the bus and that time has passed, and acts on its wires alone; so the same code
runs in a process of its own and in a simulated world. A host greets the kernel
before there is a machine: which shape it has is in the Welcome.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from . import codec, control, registry, secret, topics
from . import messages as m
from .clock import WallClock
from .errors import ConfigError, HandshakeRefused, PluginError, StateRefused
from .gate import GATE, gate_spec
from .hookspecs import Options, PluginSpec, StateChange
from .journal import JournalReader
from .lifecycle import Lifecycle
from .localbus import IsSaid, LocalBus
from .observers import Observers, observers_of
from .units import NS_PER_S

BURST = 256  # messages taken between two looks at the control socket
PART_BYTES = 2**17  # of a state that is handed over
PARTS_AHEAD = 8  # that may be under way at once
PROGRESS_NS = NS_PER_S // 50
CHECKPOINT_BYTES = 2**17  # a state that is larger waits longer for its next checkpoint, in proportion
CHECKPOINT_STRETCH = 8  # and this many times checkpoint_s at most

logger = structlog.get_logger()


class Wires(Protocol):
    """What a host reaches the kernel and the journal through."""

    def send(self, message: Any) -> None:
        """Tell the kernel, on the control socket."""

    def push(self, burst: bytes) -> None:
        """Send a burst to the kernel's inlet; waits while it takes nothing."""

    def subscribe(self, prefixes: list[bytes]) -> None:
        """Begin to listen on the bus."""

    def open_journal(self, path: Path) -> JournalReader:
        """Return a reader of the run's journal."""

    def monotonic(self) -> int:
        """Return ns that never go back."""

    def wall(self) -> int:
        """Return ns UTC."""


class Builder:
    """Loads and builds a host's plugins, and remembers which could not be."""

    def __init__(self, welcome: control.Welcome) -> None:
        self.welcome = welcome
        self.loaded: list[tuple[PluginSpec, Options]] = []
        self.failed: dict[str, tuple[str, str]] = {}
        for planned in welcome.plugins:
            try:
                self.loaded.append(registry.load_planned(planned, welcome.config))
            except PluginError as error:
                logger.error("plugin.failed", plugin=planned.id, stage="load", exc_info=error)
                self.failed[planned.id] = ("load", str(error))

    def build(
        self,
        on_output: Callable[[str, int, int, m.Message], None],
        is_said: IsSaid,
        clock: WallClock | None,
    ) -> LocalBus:
        """Return a bus with everything that could be built."""
        welcome = self.welcome
        bus = LocalBus(
            on_output,
            clock=clock,
            started_ns=welcome.started_ns,
            seed=welcome.settings.seed,
            data_dir=Path(welcome.run_dir),
            is_said=is_said,
        )
        if welcome.has_gate:
            bus.add(gate_spec(welcome.rules, welcome.vital), Options())
        granted = {planned.id: planned.secrets for planned in welcome.plugins}
        for spec, options in self.loaded:
            try:
                bus.add(spec, options, secret.read(granted[spec.id]))
            except ConfigError:
                raise
            except Exception as error:
                logger.error("plugin.failed", plugin=spec.id, stage="build", exc_info=error)
                self.failed[spec.id] = ("build", f"{type(error).__name__}: {error}")
        return bus

    @cached_property
    def observers(self) -> Observers:
        """The observers among the plugins that were loaded."""
        ids = {spec.id for spec, _ in self.loaded}
        return observers_of(planned for planned in self.welcome.plugins if planned.id in ids)

    def publishes(self) -> list[type[m.Message]]:
        """Return what the plugins that were built may publish, and what is said when one fails."""
        found = {cls for spec, _ in self.loaded if spec.id not in self.failed for cls in spec.publishes}
        return [*found, *gate_spec([]).publishes, m.PluginFailed]

    def presentation(self, host: str) -> control.Present:
        """Return what to tell the kernel."""
        components = [
            control.Component(spec.id, spec.KIND, [cls.__name__ for cls in spec.publishes])
            for spec, _ in self.loaded
            if spec.id not in self.failed
        ]
        if self.welcome.has_gate:
            spec = gate_spec([])
            components.append(control.Component(GATE, spec.KIND, [cls.__name__ for cls in spec.publishes]))
        return control.Present(host, components, self.failed)


class Machine:
    """The part of a host that consumers and sources share."""

    def __init__(self, host: str, wires: Wires, welcome: control.Welcome) -> None:
        self.host = host
        self.is_over = False
        self.wait_ns = 0  # how long nothing need be done, unless something arrives
        self._wires = wires
        self._welcome = welcome
        self._builder = Builder(welcome)
        self._admitted: control.Admitted
        self._journal_path = Path(welcome.run_dir) / "journal"
        self._is_stopping = False
        self._frames: list[bytes] = []
        self._bursts = 0
        self._heartbeat_ns = int(welcome.settings.heartbeat_s * NS_PER_S)
        self._checkpoint_ns = int(welcome.settings.checkpoint_s * NS_PER_S)
        self._checkpoint_size = 0  # of the last, bytes
        self._spoke_at = self._checkpoint_at = wires.monotonic()
        self._is_aside = False  # whether another process of this host is the one that publishes
        self._handover = 0  # the number of the handover in which the state goes out
        self._parts: Iterator[control.StatePart] = iter(())  # of it, which have not gone out yet
        self._taken: list[bytes] = []  # the parts of a state that is coming in
        self._is_used = False  # whether the components have a state already
        self._is_on_trial = False  # whether the process before this one waits to go on
        self._state_of_life = Lifecycle.CONFIGURED

    def _build(self, clock: WallClock | None = None) -> None:
        self._clock = clock
        self._bus = self._builder.build(self._record, self._is_said, clock)

    def _renew(self) -> None:
        """Build the components anew: they have a state already."""
        self._build(self._clock)

    def begin(self) -> None:
        """Present what was built."""
        self.send(self._builder.presentation(self.host))

    def send(self, message: Any) -> None:
        """Tell the kernel; any traffic counts as a sign of life."""
        self._spoke_at = self._wires.monotonic()
        self._wires.send(message)

    def hear(self, message: Any) -> None:
        """
        Hear what is said to hosts of every shape.

        Raises: HandshakeRefused: the kernel has said no.
        """
        if isinstance(message, control.Refused):
            raise HandshakeRefused(message.reason)
        if isinstance(message, control.Permanent):
            self._is_on_trial = False
        if isinstance(message, control.DiagnosticsRequest):
            facts = self._builder.observers.diagnostics(message.plugin)
            self.send(control.Diagnosis(message.plugin, facts))

    def became(self, state: Lifecycle) -> None:
        """Tell the plugins that observe it that the components of this host are in another state now."""
        before, self._state_of_life = self._state_of_life, state
        for plugin in self._bus.plugins:
            if plugin not in self._bus.failed:
                change = StateChange(self._wires.wall(), plugin, str(before), str(state))
                self._builder.observers.component_changed(change)

    def beat(self) -> None:
        """Give a sign of life when one is due."""
        if self._wires.monotonic() - self._spoke_at >= self._heartbeat_ns // 2:
            self.send(control.Beat(self.host, sorted(self._bus.failed)))

    # --- Changing places ----------------------------------------------------------------------

    def _hand_over(self, number: int, position: int, state: control.HostState) -> None:
        """Send the state, behind the outputs it has already had; what is not yet under way, when asked."""
        data = msgspec.msgpack.encode(state)
        starts = range(0, len(data), PART_BYTES)
        self._is_aside, self._handover = True, number
        self._parts = (
            control.StatePart(self.host, number, position, part, len(starts), data[at : at + PART_BYTES])
            for part, at in enumerate(starts)
        )
        for _ in range(PARTS_AHEAD):
            self._send_part(number)

    def _send_part(self, number: int) -> None:
        if number == self._handover and (part := next(self._parts, None)):
            self._note(control.STATE, part)
            self._push()

    def _collect(self, message: control.TakeOver) -> bool:
        """Take a part of a state; returns whether it is whole."""
        if message.part == 0:
            self._taken = []
        if message.parts:
            self._taken.append(message.data)
            self.send(control.PartTaken(self.host, message.part))
        return message.admitted is not None

    def _adopt(self, message: control.TakeOver) -> control.HostState | None:
        """
        Go on from the state that has been collected; None where it is our own.

        Raises: StateRefused: a component cannot.
        """
        assert message.admitted is not None
        data, self._taken = b"".join(self._taken), []
        state = None
        if data:
            state = control.decode_state(data)
            if self._is_used:
                self._renew()
            self._bus.restore(state.bus, self._welcome.revived)
            new = [plugin for plugin in self._bus.failed if plugin in self._bus.failures]
            if new:
                raise StateRefused(new[0], f"has failed at {self._bus.failures[new[0]]}")
        self._admitted = message.admitted
        self._is_used, self._is_aside, self._is_on_trial = True, False, message.is_trial
        self._handover, self._parts = 0, iter(())
        self._bursts = 0
        self._checkpoint_at = self._wires.monotonic()
        self.send(control.Took(self.host, sorted(self._bus.failed)))
        return state

    def _fail_on_trial(self, why: str) -> None:
        """
        Say nothing from here on: the process before this one goes on.

        It repeats in silence what was said until now, and that is what it would have said itself.
        """
        self._is_aside, self._is_on_trial = True, False
        self.send(control.NotTaken(self.host, why))

    # --- Outputs ------------------------------------------------------------------------------

    def _record(self, plugin: str, n: int, cause: int, message: m.Message) -> None:
        """Queue one output, unless the kernel has it already; the OutputSink of a LocalBus."""
        if self._is_on_trial and isinstance(message, m.PluginFailed):
            self._fail_on_trial(f"{plugin} failed at {message.stage}: {message.error}")
        if self._is_said(plugin, n, cause):
            return
        admitted = self._admitted
        topic = topics.topic_of(message)
        origin = admitted.origins[plugin]
        self._frames.append(
            codec.pack_output(topic, origin, admitted.epochs[plugin], n, cause, codec.encode(message))
        )
        if type(message) is m.SubmitOrder:
            # A rule in another process answers the sooner, and a person sees it, while ours still judge.
            self._push()

    def _is_said(self, plugin: str, n: int, cause: int) -> bool:
        """Whether the kernel has this output already, or another process is the one that publishes."""
        return self._is_aside or (cause, n) <= self._admitted.outputs.get(plugin, (-1, -1))

    def _push(self) -> None:
        """Send what is queued, in order, in a burst with the next number."""
        if self._frames:
            self._bursts += 1
            self._wires.push(codec.pack_burst(self._frames, self._admitted.link, self._bursts))
            self._frames = []

    def _note(self, kind: bytes, note: msgspec.Struct) -> None:
        """Queue a word to the kernel that stays in order with the outputs."""
        self._frames.append(kind + msgspec.msgpack.encode(note))

    # --- Checkpoints --------------------------------------------------------------------------

    def _restore_newest(self, journal: JournalReader) -> control.HostState | None:
        """Take the newest checkpoint that can be taken; None without one."""
        for checkpoint in journal.checkpoints(self.host):
            try:
                state = control.decode_state(checkpoint.state)
                self._bus.restore(state.bus, self._welcome.revived)
                self._is_used = True
            except (msgspec.MsgspecError, StateRefused) as error:
                logger.error("host.checkpoint_refused", position=checkpoint.position, reason=str(error))
                continue
            return state
        return None

    def _is_checkpoint_due(self) -> bool:
        # A large state is written less often: the disk is to last.
        stretch = min(max(1.0, self._checkpoint_size / CHECKPOINT_BYTES), CHECKPOINT_STRETCH)
        return self._wires.monotonic() - self._checkpoint_at >= stretch * self._checkpoint_ns

    def _write_checkpoint(self, at: int, state: control.HostState) -> None:
        """Push *state* as the checkpoint at *at*, behind the outputs it has already had."""
        self._checkpoint_at = self._wires.monotonic()
        packed = msgspec.msgpack.encode(state)
        self._checkpoint_size = len(packed)
        self._note(control.CHECKPOINT, control.HostCheckpoint(self.host, at, packed))
        self._push()
