"""
Who leaves a queue: how much of a smaller level was ahead of us, and how many orders that is.

L2 says how much is ahead at acceptance, not who leaves later. *risk-averse* lets only
prints move us, and the level's size bound us (ahead = min(ahead, new)): it never fills
before the truth does. *log* and *power:n* spread a cancellation over both sides of us;
they are hftbacktest's models (nkaz001/hftbacktest, models/queue.rs), save that we count
in average orders, so that the answer does not depend on the lot size. What an average
order is, OrderSize learns from how levels grow.
"""

import math
from collections.abc import Callable
from typing import Protocol

import msgspec

from tickerml.kernel import NS_PER_S

SIZE_HALF_LIFE_NS = 300 * NS_PER_S


class QueueModel(Protocol):
    """Says how much of a change of a level's size happened ahead of us."""

    def on_depth(self, ahead: int, behind: int, previous: int, new: int, traded: int, unit: float) -> int:
        """
        Return the new quantity ahead, at most min(ahead, new), in lots.

        Args:
            ahead: lots before us.
            behind: lots of the previous size that were not.
            previous: the level's size before; *new*: now.
            traded: lots printed there since *previous* was published, which have moved us already.
            unit: lots in an average order.
        """


class RiskAverse:
    """Whoever leaves was behind us, until the level is too small for that."""

    def on_depth(self, ahead: int, behind: int, previous: int, new: int, traded: int, unit: float) -> int:
        """Return min(ahead, new)."""
        return min(ahead, new)


class Probabilistic:
    """Those who leave are behind us with probability f(behind) / (f(behind) + f(ahead))."""

    def __init__(self, weigh: Callable[[float], float]) -> None:
        """
        Args:
            weigh: f, of a quantity in average orders; 0 at 0 and growing.
        """
        self._weigh = weigh

    def on_depth(self, ahead: int, behind: int, previous: int, new: int, traded: int, unit: float) -> int:
        """Return the expectation, rounded up."""
        left = previous - new - traded
        if left <= 0 or ahead == 0:
            return min(ahead, new)
        weight_behind, weight_ahead = self._weigh(behind / unit), self._weigh(ahead / unit)
        p = weight_behind / (weight_behind + weight_ahead)
        # Those of p x left beyond *behind* must have been ahead too; *new* bounds exactly that.
        return max(0, min(math.ceil(ahead - (1 - p) * left), ahead, new))


def queue_model(name: str) -> QueueModel:
    """
    Return the model *name*: "risk-averse", "log" or "power:n".

    Raises: ValueError: there is no such model.
    """
    if name == "risk-averse":
        return RiskAverse()
    if name == "log":
        return Probabilistic(math.log1p)
    kind, _, exponent = name.partition(":")
    if kind == "power" and exponent.isdigit() and exponent != "0":
        n = int(exponent)
        return Probabilistic(lambda x: x**n)
    raise ValueError(f"queue model must be risk-averse, log or power:n with n from 1, was {name!r}")


class OrderSize(msgspec.Struct):
    """
    The average size of a displayed order, as the growth of levels near the touch shows it.

    An exponential average with a half-life of 5 minutes. It is kept in integers, and
    aged in 64 steps a half-life, so that every machine counts the same orders ahead.
    """

    total: int = 0  # lots, times 2**16
    count: int = 0  # orders, times 2**16
    step: int = 0

    def add(self, size: int, at: int) -> None:
        """Count an order of *size* lots, seen at *at*, ns UTC."""
        if (step := at // _SIZE_STEP_NS) > self.step:
            self._age(step - self.step)
            self.step = step
        self.total += size << 16
        self.count += 1 << 16

    def _age(self, steps: int) -> None:
        halvings, rest = divmod(steps, _SIZE_STEPS)
        self.total >>= halvings
        self.count >>= halvings
        for _ in range(rest):
            self.total = self.total * _STEP_FACTOR >> 32
            self.count = self.count * _STEP_FACTOR >> 32

    @property
    def average(self) -> float:
        """Lots in an average order; 1 until one has been seen."""
        return self.total / self.count if self.total and self.count else 1.0

    def orders_in(self, quantity: int) -> int:
        """Return how many orders *quantity* lots are, rounded up: one a lot until a size is known."""
        return -(-quantity * self.count // self.total) if self.total and self.count else quantity


_SIZE_STEPS = 64
_SIZE_STEP_NS = SIZE_HALF_LIFE_NS // _SIZE_STEPS
_STEP_FACTOR = 4_248_701_965  # 2**32 * 2**(-1/64)
