"""
Time comes through one seam: nobody calls the wall clock directly.

Components see an EventClock, moved only by the messages they are given, so a
replay sees the times the live run saw. WallClock is for the edges: kernel,
exchange sessions, pages.
"""

import time
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
    """The machine's own clock, made monotonic: a step backwards is held, not followed."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def now(self) -> int:
        """Return ns UTC, never less than the last answer."""
        self._last = max(self._last, time.time_ns())
        return self._last

    def advance(self, ts: int) -> None:
        """Do nothing: this clock moves by itself."""


#: When a run whose time is the data's begins, 2026-01-01 UTC: the same every time.
DATA_CLOCK_START_NS = 1_767_225_600_000_000_000
