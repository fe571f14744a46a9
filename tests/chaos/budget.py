"""How long a campaign may take, what it tells while it runs, and how it sums up what it measured."""

import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import evidence
from system import System

REFERENCE_HOSTS = ("trade", "record")


class Budget:
    """The time that is left, the chance that is drawn from, and the line that says how far things are."""

    def __init__(self, minutes: float, seed: int, *, is_quiet: bool = False) -> None:
        self.random = random.Random(seed)
        self._born = time.monotonic()
        self._until = self._born + minutes * 60
        self._is_quiet = is_quiet

    @property
    def left_s(self) -> float:
        """Seconds that are left; never less than 0."""
        return max(0.0, self._until - time.monotonic())

    def part(self, share: float) -> "Budget":
        """Return a budget of this share of what is left, with chance and voice of this one."""
        part = Budget(self.left_s * share / 60, 0, is_quiet=self._is_quiet)
        part.random, part._born = self.random, self._born
        return part

    def tell(self, text: str) -> None:
        """Say on stderr how far things are."""
        if not self._is_quiet:
            print(f"{time.monotonic() - self._born:7.1f} s  {text}", file=sys.stderr, flush=True)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return how many there are, and their p50, p99 and largest; in the unit of *values*."""
    if not values:
        return {"count": 0}
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "count": len(ordered),
        "p50": round(ordered[round(last * 0.50)], 3),
        "p99": round(ordered[round(last * 0.99)], 3),
        "max": round(ordered[-1], 3),
    }


def undisturbed(budget: Budget, **choices: Any) -> evidence.Evidence:
    """Return what the run that *choices* describe leaves behind undisturbed, played at full speed."""
    began = time.monotonic()
    budget.tell("the undisturbed run")
    system = System(**{**choices, "speed": "max"})
    try:
        done = system.run("--no-console")
        if done.code:
            raise RuntimeError(f"the undisturbed run ended with {done.code}: {done.err[-500:]}")
        found = evidence.read(system.run_dir, done.summary, REFERENCE_HOSTS)
    finally:
        system.close()
    if found.faults:
        raise RuntimeError(f"the journal of the undisturbed run is not whole: {found.faults[:3]}")
    took = time.monotonic() - began
    budget.tell(f"  {found.frames:,} messages, {found.figures['orders']:,} orders, took {took:.0f} s")
    return found
