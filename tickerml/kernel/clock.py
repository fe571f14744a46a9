"""
Time comes through one seam: nobody calls the wall clock directly.

Components see an EventClock, moved only by the messages they are given, so a
replay sees the times the live run saw. WallClock is for the edges: kernel,
exchange sessions, pages.
"""

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Anything that tells the time."""

    def now(self) -> int:
        """Return ns since the epoch, UTC."""


class EventClock:
    """A clock that stands still until a message moves it, and never goes back."""

    __slots__ = ("_now",)

    def __init__(self, now: int = 0) -> None:
        self._now = now

    def now(self) -> int:
        """Return the time of the message being handled, ns UTC."""
        return self._now

    def advance(self, ts: int) -> None:
        """Move to *ts*, unless that is in the past."""
        if ts > self._now:
            self._now = ts


class WallClock:
    """
    The machine's own clock, made monotonic.

    It follows a step forwards. After a step backwards it goes on at half its speed until
    the machine's clock has come up with it: time neither goes back nor stands still.
    """

    __slots__ = ("_last", "_monotonic", "_seen", "_wall")

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
        not_before: int = 0,
    ) -> None:
        """
        Args:
            wall, monotonic: the machine's clocks, ns.
            not_before: the last time that an earlier session gave, ns UTC.
        """
        self._wall, self._monotonic = wall, monotonic
        self._last, self._seen = max(not_before, wall()), monotonic()

    def now(self) -> int:
        """Return ns UTC, never less than the last answer."""
        seen = self._monotonic()
        elapsed, self._seen = seen - self._seen, seen
        self._last = max(self._wall(), self._last + elapsed // 2)
        return self._last

    @property
    def ahead_ns(self) -> int:
        """How far this clock is ahead of the machine's, which was set back."""
        return max(0, self._last - self._wall())

    def advance(self, ts: int) -> None:
        """Do nothing: this clock moves by itself."""


#: When a run whose time is the data's begins, 2026-01-01 UTC: the same every time.
DATA_CLOCK_START_NS = 1_767_225_600_000_000_000
