"""
The flow of a run: how far the slowest consumer is, when everything has been taken, how it ends. Sans-IO.

A source at full speed is paused while somebody is far behind. A run is drained when
every consumer has taken a marker and published nothing because of what came before
it. A clean stop goes step by step: the sources first, then the drain, then everyone
else in one batch; a step that takes too long is forced.
"""

import enum
from collections.abc import Sequence

from .supervisor import Host, HostPhase
from .units import NS_PER_S

PAUSE_BEHIND = 20_000  # messages the slowest consumer may be behind a source at full speed
PROCEED_BEHIND = 5_000
STEP_LIMIT_NS = 20 * NS_PER_S


class Pacing(enum.Enum):
    """What to tell the sources."""

    PAUSE = "pause"
    PROCEED = "proceed"


class Flow:
    """Watches the consumers' positions."""

    def __init__(self) -> None:
        self.is_paused = False  # whether sources at full speed wait
        self._marker = 0

    def pace(self, seq: int, consumers: Sequence[Host]) -> Pacing | None:
        """Return what to tell sources at full speed, when *seq* is the head."""
        behind = seq - min((host.position for host in consumers), default=seq)
        if not self.is_paused and behind > PAUSE_BEHIND:
            self.is_paused = True
            return Pacing.PAUSE
        if self.is_paused and behind < PROCEED_BEHIND:
            self.is_paused = False
            return Pacing.PROCEED
        return None

    def is_drained(self, seq: int, consumers: Sequence[Host]) -> bool:
        """Whether every consumer has taken the marker, and it is still the last thing there is."""
        return bool(self._marker) and seq == self._marker and self._is_passed(consumers)

    def wants_marker(self, consumers: Sequence[Host]) -> bool:
        """Whether to publish a marker: there is none yet, or all have passed it and there was more."""
        return not self._marker or self._is_passed(consumers)

    def marked(self, seq: int) -> None:
        """A marker was published at *seq*."""
        self._marker = seq

    def _is_passed(self, consumers: Sequence[Host]) -> bool:
        return all(host.phase is HostPhase.READY and host.position >= self._marker for host in consumers)


class Step(enum.IntEnum):
    """How far a clean stop has come."""

    RUNNING = 0
    SOURCES = 1
    DRAIN = 2
    HOSTS = 3
    OVER = 4


class Ending:
    """A clean stop, one step after another."""

    def __init__(self) -> None:
        self.reason = ""
        self.step = Step.RUNNING
        self._deadline = 0

    def ask(self, reason: str) -> None:
        """Begin to stop, for the first reason given."""
        self.reason = self.reason or reason

    def advance(self, now: int, *, is_done: bool) -> bool:
        """
        Go to the next step when this one is done; returns whether that happened.

        Args:
            now: monotonic, ns.
            is_done: whether what the present step waits for has come.
        """
        if not self.reason or self.step is Step.OVER or (self.step is not Step.RUNNING and not is_done):
            return False
        self.step = Step(self.step + 1)
        self._deadline = now + STEP_LIMIT_NS
        return True

    def is_late(self, now: int) -> bool:
        """Whether the present step has taken too long; asked again, it has as long once more."""
        if self.step in (Step.RUNNING, Step.OVER) or now <= self._deadline:
            return False
        self._deadline = now + STEP_LIMIT_NS
        return True
