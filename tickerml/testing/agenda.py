"""
Virtual time: what happens next, and when.

Nothing here waits: the agenda goes from one event to the next, so a minute of the world
takes as long as its events do. Events of the same time happen in the order in which they
were planned, and so a run is a function of what is planned and of nothing else.
"""

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Agenda:
    """The events to come, and the time, ns since the world began."""

    def __init__(self) -> None:
        self.now = 0
        self.steps = 0
        self._count = 0
        self._events: list[tuple[int, int, Action]] = []

    def at(self, time: int, action: Action) -> None:
        """Plan *action* for *time*, or for now where that is past."""
        self._count += 1
        heapq.heappush(self._events, (max(time, self.now), self._count, action))

    def after(self, delay: int, action: Action) -> None:
        """Plan *action* for *delay* ns from now."""
        self.at(self.now + delay, action)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is planned."""
        return not self._events

    def step(self) -> None:
        """
        Go to the next event and let it happen.

        Raises: IndexError: nothing is planned.
        """
        self.now, _, action = heapq.heappop(self._events)
        self.steps += 1
        action()


class Clock:
    """One process' own idea of time: it drifts from the world's, and its wall clock may be set."""

    def __init__(self, agenda: Agenda, *, offset: int = 0, drift_ppm: int = 0, wall: int = 0) -> None:
        """
        Args:
            offset: what monotonic() says when the world begins, ns.
            drift_ppm: how much faster than the world's time it goes.
            wall: what wall() says when the world begins, ns UTC.
        """
        self._agenda = agenda
        self._offset = offset
        self._drift_ppm = drift_ppm
        self._wall = wall

    def monotonic(self) -> int:
        """Return ns that never go back."""
        return self._offset + self._passed()

    def wall(self) -> int:
        """Return ns UTC, which a person or a time server may set."""
        return self._wall + self._passed()

    def set_wall(self, by: int) -> None:
        """Set the wall clock by *by* ns forth, or back where that is negative."""
        self._wall += by

    def _passed(self) -> int:
        now = self._agenda.now
        return now + now * self._drift_ppm // 1_000_000
