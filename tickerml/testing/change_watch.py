"""
The invariants of changes, and how far each has come when something breaks.

- One process of each host, as soon as nothing is changed any longer and the other had its time to leave.
- Each change ends, within a bound.
- What runs is what the file says: the new plan when it was made permanent, the one before otherwise.
- A candidate that cannot be good is never made permanent.
"""

from typing import Any, Protocol

from tickerml.kernel import swap
from tickerml.kernel.core import Kernel

from .faults import Flaw
from .oracle import Violation
from .processes import HostProcess
from .surroundings import Surroundings

LONGEST = 3_000  # ticks that a change may take, however much goes wrong
FUSES = 8  # effects within which a kernel dies that is to die in a step
LEAVING = 10  # ticks for the other process, once its time to leave is over
_FATAL = frozenset({Flaw.IMPORT, Flaw.BUILD, Flaw.OVERREACH, Flaw.DEAF, Flaw.REFUSAL, Flaw.STUCK})


class Session(Protocol):
    """A kernel's process, as its watch sees it."""

    world: Surroundings
    kernel: Kernel
    hosts: dict[str, HostProcess]

    def light_fuse(self, effects: int) -> None:
        """Die before the *effects*-th effect from now."""

    def monotonic(self) -> int:
        """Return ns that never go back."""

    def alive(self, host: str) -> list[HostProcess]:
        """Return the processes of *host* that live, and that the kernel knows of."""


class ChangeWatch:
    """Looks at the changes of one kernel."""

    def __init__(self, process: Session) -> None:
        self._process = process
        self._world = process.world
        self._step = ""
        self._number = 0  # of the change that is under way, or was the last
        self._ticks = 0  # of the kernel, since it began
        self._since: dict[str, int] = {}  # host -> how many ticks it has had two processes
        self.doom = ""  # the step in which the kernel is to die
        self.candidates: list[HostProcess] = []  # of the change

    @property
    def is_busy(self) -> bool:
        """Whether a change is under way."""
        return self._process.kernel.changes.is_busy

    def look(self) -> None:
        """
        See how far a change has come.

        Raises: Violation.
        """
        if not self.is_busy and not self._step:
            return
        report = self._process.kernel.changes.report(self._process.monotonic())
        assert report is not None
        if report["number"] != self._number:
            self._number, self._ticks, self._step = report["number"], 0, ""
            self._world.saw("change began")
        if report["outcome"]:
            self._step = ""
            self._ended(report)
        elif report["step"] != self._step:
            self._step = report["step"]
            self._world.saw(f"swap {self._step}")
            if self._step == self.doom:
                self.doom = ""
                self._process.light_fuse(self._world.rng.randint(1, FUSES))
            self._world.note("kernel", f"change {self._number} of {report['host']} is {self._step}")

    def _ended(self, report: dict[str, Any]) -> None:
        world, outcome = self._world, report["outcome"]
        world.saw(f"change {outcome}")
        world.saw(f"change {outcome} at {report['failed_at']}", int(bool(report["failed_at"])))
        world.note(
            "kernel", f"change {self._number} ended: {outcome} {report['failed_at']} {report['error']}"
        )
        for process in (*self._process.hosts.values(), *self.candidates):
            if (flaw := process.spoiler.told()) is None:
                continue
            world.saw(f"{outcome}: {flaw}")
            if outcome == "permanent" and flaw in _FATAL and process in self.candidates:
                raise Violation(f"a change was made permanent, and its process {flaw}")
        self.candidates = []
        if self._process.kernel.plan != world.person.plan:
            raise Violation(f"the change was {outcome}, and what runs is not what the file says")

    def tick(self) -> None:
        """
        A tick of the kernel has passed.

        Raises: Violation.
        """
        kernel = self._process.kernel
        self._ticks += 1
        if self.is_busy:
            if self._ticks > LONGEST:
                raise Violation(f"change {self._number} has not ended within {LONGEST} ticks: {self._step}")
            self._since.clear()
            return
        limit = swap.LEAVE_LIMIT_NS // self._world.scenario.tick + LEAVING
        for host in kernel.supervisor.hosts:
            is_two = len(self._process.alive(host)) > 1
            self._since[host] = self._since.get(host, 0) + 1 if is_two else 0
            if self._since[host] > limit:
                raise Violation(f"host {host} has two processes, and no change is under way")

    def lost(self, who: str) -> None:
        """Count that *who* is gone in the middle of a change."""
        if self._step:
            self._world.saw(f"{who} lost in {self._step}")
