"""
What every host does, whatever its shape: build its plugins, present them, stay in touch. Sans-IO.

A host process is a machine and its wires. The machine is told of control messages,
of the bus and that time has passed, and acts on its wires alone; so the same code
runs in a process of its own and in a simulated world. A host greets the kernel
before there is a machine: which shape it has is in the Welcome.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from . import codec, control, registry, topics
from . import messages as m
from .clock import WallClock
from .errors import ConfigError, HandshakeRefused, PluginError, StateRefused
from .gate import GATE, gate_spec
from .hookspecs import Options, PluginSpec
from .journal import JournalReader
from .localbus import LocalBus
from .units import NS_PER_S

BURST = 256  # messages taken between two looks at the control socket
PROGRESS_NS = NS_PER_S // 50

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
        self, on_output: Callable[[str, int, int, m.Message], None], clock: WallClock | None
    ) -> LocalBus:
        """Return a bus with everything that could be built."""
        welcome = self.welcome
        bus = LocalBus(
            on_output,
            clock=clock,
            started_ns=welcome.started_ns,
            seed=welcome.settings.seed,
            data_dir=Path(welcome.run_dir),
        )
        if welcome.has_gate:
            bus.add(gate_spec(welcome.rules, welcome.vital), Options())
        for spec, options in self.loaded:
            try:
                bus.add(spec, options)
            except ConfigError:
                raise
            except Exception as error:
                logger.error("plugin.failed", plugin=spec.id, stage="build", exc_info=error)
                self.failed[spec.id] = ("build", f"{type(error).__name__}: {error}")
        return bus

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
        self._spoke_at = self._checkpoint_at = wires.monotonic()

    def _build(self, clock: WallClock | None = None) -> None:
        self._bus = self._builder.build(self._record, clock)

    def begin(self) -> None:
        """Present what was built."""
        self.send(self._builder.presentation(self.host))

    def send(self, message: Any) -> None:
        """Tell the kernel; any traffic counts as a sign of life."""
        self._spoke_at = self._wires.monotonic()
        self._wires.send(message)

    def check(self, message: Any) -> None:
        """
        Raises: HandshakeRefused: the kernel has said no.
        """
        if isinstance(message, control.Refused):
            raise HandshakeRefused(message.reason)

    def beat(self) -> None:
        """Give a sign of life when one is due."""
        if self._wires.monotonic() - self._spoke_at >= self._heartbeat_ns // 2:
            self.send(control.Beat(self.host, sorted(self._bus.failed)))

    # --- Outputs ------------------------------------------------------------------------------

    def _record(self, plugin: str, n: int, cause: int, message: m.Message) -> None:
        """Queue one output, unless the kernel has it already; the OutputSink of a LocalBus."""
        admitted = self._admitted
        if (cause, n) <= admitted.outputs.get(plugin, (-1, -1)):
            return
        topic = topics.topic_of(message)
        origin = admitted.origins[plugin]
        self._frames.append(
            codec.pack_output(topic, origin, admitted.epochs[plugin], n, cause, codec.encode(message))
        )
        if type(message) is m.SubmitOrder:
            # A rule in another process answers the sooner, and a person sees it, while ours still judge.
            self._push()

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
                state = msgspec.msgpack.decode(checkpoint.state, type=control.HostState)
                self._bus.restore(state.bus, self._welcome.revived)
            except (msgspec.MsgspecError, StateRefused) as error:
                logger.error("host.checkpoint_refused", position=checkpoint.position, reason=str(error))
                continue
            return state
        return None

    def _is_checkpoint_due(self) -> bool:
        return self._wires.monotonic() - self._checkpoint_at >= self._checkpoint_ns

    def _write_checkpoint(self, at: int, state: control.HostState) -> None:
        """Push *state* as the checkpoint at *at*, behind the outputs it has already had."""
        self._checkpoint_at = self._wires.monotonic()
        packed = msgspec.msgpack.encode(state)
        self._note(control.CHECKPOINT, control.HostCheckpoint(self.host, at, packed))
        self._push()
