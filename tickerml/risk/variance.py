"""
The variance of one-minute log returns, as an average that forgets: v = DECAY v + (1 - DECAY) r^2.

Source: J. P. Morgan, RiskMetrics (1996), for the recursion and its 0.94; here it is by the minute,
so that its memory is about a quarter of an hour.
"""

import math

import msgspec

DECAY = 0.94


class Variance(msgspec.Struct, array_like=True):
    """Of one asset; a part of its owner's state."""

    value: float = 0.0
    count: int = 0

    def add(self, change: float) -> None:
        """Take in the log return of a minute."""
        weight = 1 - DECAY if self.count else 1.0
        self.value += weight * (change * change - self.value)
        self.count += 1

    def sigma(self, minutes: int) -> float:
        """Return the volatility of so many *minutes*, a fraction."""
        return math.sqrt(self.value * minutes)
