"""
How often an exchange may be asked: token buckets, in one place for every connector.

A bucket holds up to *burst* tokens and gains one every period; what is asked takes one
and waits where there is none. Waiting is granted in the order it was asked for.
"""

import asyncio
from typing import NamedTuple


class Rate(NamedTuple):
    """*burst* at once, then one every *period_s* seconds."""

    burst: int
    period_s: float


class Limits(NamedTuple):
    """What an exchange allows: connections, frames sent on a socket, REST requests."""

    connects: Rate
    subscribes: Rate
    requests: Rate


class Bucket:
    """Tokens that come back with time; it does no I/O and reads no clock."""

    def __init__(self, rate: Rate) -> None:
        """
        Args:
            rate: at least one at once.
        """
        self._rate = rate
        self._full_at = 0.0  # when every token would be back, s

    def take(self, now: float) -> float:
        """Take a token at *now*, seconds of a clock that never goes back; return how long to wait for it."""
        rate = self._rate
        self._full_at = max(self._full_at, now) + rate.period_s
        return max(0.0, self._full_at - now - rate.burst * rate.period_s)


class Pace:
    """A bucket in real time: what awaits its turn is let through at the bucket's rate."""

    def __init__(self, rate: Rate) -> None:
        self._bucket = Bucket(rate)

    async def turn(self) -> None:
        """Wait until one more may go."""
        if wait_s := self._bucket.take(asyncio.get_running_loop().time()):
            await asyncio.sleep(wait_s)
