"""What a process of the world may know of it and ask of it; the world itself stands a floor above."""

from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any, Protocol

from tickerml.kernel.config import Plan

from .agenda import Agenda, Clock
from .disk import Disk, StoredFile
from .network import Pipe
from .scenario import Scenario
from .watch import Watch


class Surroundings(Protocol):
    """The world, as its processes see it."""

    scenario: Scenario
    agenda: Agenda
    rng: Random
    disk: Disk
    wall: Clock
    watch: Watch
    client: Any
    person: Any
    reader: Any
    kernel: Any
    active: Any  # the host whose step it is
    disk_delay: int
    is_over: bool
    is_damaged: bool

    @property
    def file(self) -> StoredFile:
        """The journal as it lies on the disk."""

    def saw(self, name: str, count: int = 1) -> None:
        """Count something for the coverage."""

    def note(self, who: str, what: str) -> None:
        """Write down what happens, where somebody wants to read it."""

    def clock(self) -> Clock:
        """Return the clock of a new process."""

    def next_pid(self) -> int:
        """Return the number of a new process."""

    def service_ns(self, machine: object) -> int:
        """Return how long a host works until it is stepped again, at least."""

    def joining_ns(self) -> int:
        """Return how long a subscription takes to work."""

    def to_kernel(self, pipe: Pipe, data: bytes) -> None:
        """Put *data* on its way to the kernel."""

    def spawn(self, process: str, token: str, plan: Plan) -> Any:
        """Start *process*, with what *plan* grants its host."""

    def kill_host(self, process: Any, reason: str) -> None:
        """End a process; what it has sent may still arrive, late, or in part."""

    def host_ended(self, process: Any, reason: str, *, kept: float, delay: int) -> None:
        """A process is gone: the kernel will notice, and what it has sent is on its way."""

    def kernel_gone(
        self, reason: str, *, is_committing: bool = False, is_clean: bool = False, restarts: bool = True
    ) -> None:
        """The kernel has ended, and its hosts with it; the guard will start another."""

    def ending(self) -> None:
        """The run begins to end, maybe for the first time."""

    def completed(self, summary: dict[str, Any]) -> None:
        """The run has come to its end by itself."""

    def answered(self, message: Any) -> None:
        """The client hears *message*."""

    def set_aside(self, path: Path, rows: Iterable[bytes]) -> None:
        """Keep what a repair cuts off: count it."""
