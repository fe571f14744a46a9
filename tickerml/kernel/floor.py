"""What a change of plugins may do with the kernel: the Floor of changes.py. Sans-IO."""

from collections.abc import Iterable
from typing import Any, Protocol

from . import admission, control
from . import messages as m
from .berths import Berths, Process
from .config import Plan
from .edges import Edges
from .journal import Checkpoint, JournalWriter
from .outlet import Outlet
from .sequencer import Sequencer
from .supervisor import Effect, HostPhase, Supervisor


class Kernel(Protocol):
    """What a floor knows of the kernel it is part of."""

    plan: Plan
    edges: Edges
    berths: Berths
    supervisor: Supervisor
    sequencer: Sequencer
    outlet: Outlet
    writer: JournalWriter

    @property
    def is_started(self) -> bool:
        """Whether the sources were let go."""

    def now(self) -> int:
        """Return ns UTC for messages."""

    def act(self, effects: Iterable[Effect]) -> None:
        """Do what the supervisor has decided."""

    def admit(self, process: Process, present: control.Present) -> control.Admitted:
        """Admit *process* as its host at new epochs, and tell everybody."""

    def revive(self, host: str, plugins: Iterable[str]) -> None:
        """Let *plugins* begin anew in the next process of *host*."""

    def stop_host(self, host: str, *, respawn: bool = False, is_wanted: bool = True) -> None:
        """Ask *host* to stop; with *respawn*, in order to start anew; unless it *is_wanted*, for good."""


class Floor:
    """One kernel's."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._refused: dict[str, dict[str, int]] = {}  # host -> what had been refused when it was given

    # --- Processes ----------------------------------------------------------------------------

    def processes(self, host: str) -> tuple[str, str]:
        """Return the active process of *host*, and the name of another."""
        return self._kernel.berths.name_of(host), self._kernel.berths.spare(host)

    def presented(self, process: str) -> control.Present:
        """Return what *process* presented."""
        return self._kernel.berths.processes[process].present

    def phase(self, host: str) -> HostPhase | None:
        """Return the phase of *host*; None when there is no such host."""
        found = self._kernel.supervisor.hosts.get(host)
        return found.phase if found else None

    def launch(self, process: str, plan: Plan) -> None:
        """Start a *process* of the host it is named after, to run what *plan* says."""
        self._kernel.berths.launch(process, plan)

    def is_there(self, process: str) -> bool:
        """Whether *process* exists."""
        return process in self._kernel.berths.processes

    def end(self, process: str, reason: str) -> None:
        """End *process* at once."""
        self._kernel.berths.end(process, reason)

    def tell(self, process: str, message: Any) -> None:
        """Send *message* to *process*."""
        self._kernel.berths.tell(process, message)

    def give(self, host: str, process: str) -> None:
        """From now on *process* is the one that *host* is."""
        kernel = self._kernel
        kernel.berths.give(host, process)
        self._refused[host] = dict(kernel.sequencer.refused)
        if found := kernel.berths.active(host):
            kernel.supervisor.replaced(host, found.pid, kernel.edges.monotonic())

    def problem_of(self, host: str, plan: Plan) -> str:
        """Return why the active process of *host* is not well; "" when it is."""
        kernel = self._kernel
        process = kernel.berths.active(host)
        if process and process.failed:
            first = min(process.failed)
            return f"{first} failed at {process.failed[first]}"
        known = self._refused.get(host, {})
        for plugin in plan.hosts().get(host, ()):
            for what, count in kernel.sequencer.refused.items():
                is_its_own = what.startswith(f"{plugin.id}: ") and not what.endswith("older epoch")
                if is_its_own and count > known.get(what, 0):
                    return f"published what it may not: {what}"
        phase = self.phase(host)
        return f"host {host} is {phase}" if phase is HostPhase.QUARANTINED else ""

    # --- Admission ----------------------------------------------------------------------------

    def check(self, present: control.Present, plan: Plan) -> None:
        """
        Raises: HandshakeRefused: the components may not all do what they say.
        """
        admission.check(present, plan.hosts().get(present.host, []))

    def admit(self, process: str, present: control.Present) -> control.Admitted:
        """Admit *process* as its host, at new epochs: what another still says in its name is refused."""
        return self._kernel.admit(self._kernel.berths.processes[process], present)

    def standing(self, host: str) -> tuple[int, dict[str, int], dict[bytes, int], tuple[int, int]]:
        """Return the last seq, each component's number, each topic's count, and when *host* was away."""
        sequencer = self._kernel.sequencer
        numbers = {name: number for number, name in enumerate(sequencer.names)}
        return sequencer.seq, numbers, sequencer.topic_counts, sequencer.absence(host)

    # --- What it says and keeps ---------------------------------------------------------------

    def now(self) -> int:
        """Return ns UTC for messages."""
        return self._kernel.now()

    def announce(self, message: m.Message) -> int:
        """Say *message* as the kernel."""
        return self._kernel.outlet.announce(message)

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Put *checkpoint* into the journal."""
        self._kernel.outlet.add_checkpoint(checkpoint)

    def head(self) -> int:
        """Return the seq of the last message that was said."""
        return self._kernel.sequencer.seq

    def committed(self) -> int:
        """Return the last seq that is on disk, with the states that were added before it."""
        return self._kernel.writer.committed

    def place(self, files: dict[str, str]) -> str:
        """Put each temporary file in the place of the other; returns what went wrong, or ""."""
        return self._kernel.edges.place(files)

    def drop(self, files: dict[str, str]) -> None:
        """Delete the temporary files."""
        self._kernel.edges.drop(files)

    # --- What shall run -----------------------------------------------------------------------

    @property
    def is_started(self) -> bool:
        """Whether the sources were let go."""
        return self._kernel.is_started

    def use(self, plan: Plan) -> None:
        """From now on *plan* is what shall run."""
        kernel = self._kernel
        # Until it is permanent, what the hosts of the plan before have written must not be pruned.
        kernel.writer.hosts = frozenset({*kernel.plan.hosts(), *plan.hosts()})
        kernel.plan = plan

    def start_host(self, host: str) -> None:
        """Start *host*, or start it anew, as the plan in use says; what it died of is forgotten."""
        kernel = self._kernel
        if process := kernel.berths.active(host):
            kernel.revive(host, process.failed)
            kernel.stop_host(host, respawn=True)
        else:
            kernel.act(kernel.supervisor.add(host, kernel.edges.monotonic()))

    def stop_host(self, host: str) -> None:
        """Ask *host* to stop, and do without it."""
        self._kernel.stop_host(host, is_wanted=False)
