"""
Many seeds, on every core, and what they came to together.

Each process takes the next few seeds as soon as it is done with the last ones. A seed that
fails is run again with fewer and fewer faults, where it was found, and reported with what is
left of them and the end of its trace.
"""

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from . import coverage, simulate

CHUNK = 8
TRACE_LINES = 60
ENOUGH_SEEDS = 1_000  # of which everything that is expected must have been seen


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A seed that failed, shrunk."""

    seed: int
    violation: str
    shrunk: str  # what is violated with the faults that are left
    faults: list[str]
    trace: list[str]


class Campaign(msgspec.Struct, kw_only=True):
    """What many seeds came to."""

    seeds: int = 0
    green: int = 0
    messages: int = 0
    virtual_s: float = 0.0
    elapsed_s: float = 0.0
    ends: dict[str, int] = {}
    failures: list[Failure] = []
    seen: dict[str, int] = {}

    @property
    def unseen(self) -> list[str]:
        """What was expected of so many seeds and never seen; nothing of a few."""
        return coverage.unseen(self.seen) if self.seeds >= ENOUGH_SEEDS else []

    @property
    def is_green(self) -> bool:
        """Whether every seed was, and the world was not a quiet one."""
        return not self.failures and not self.unseen

    def report(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        return {
            "seeds": self.seeds,
            "green": self.green,
            "failed": len(self.failures),
            "seeds_per_minute": round(60 * self.seeds / self.elapsed_s, 1) if self.elapsed_s else 0.0,
            "messages": self.messages,
            "virtual_hours": round(self.virtual_s / 3600, 2),
            "elapsed_s": round(self.elapsed_s, 1),
            "ends": dict(sorted(self.ends.items())),
            "failures": msgspec.to_builtins(self.failures),
            "unseen": self.unseen,
            "coverage": dict(coverage.table(self.seen)),
        }


def fail(outcome: simulate.Outcome) -> Failure:
    """Return *outcome*, which was not green, with the fewest faults that break it."""
    faults, last, trace = simulate.shrink_seed(outcome.seed)
    return Failure(
        seed=outcome.seed,
        violation=outcome.violation,
        shrunk=last.violation,
        faults=[str(fault) for fault in faults],
        trace=trace.lines(TRACE_LINES),
    )


def _run_chunk(seeds: list[int]) -> list[simulate.Outcome]:
    return [simulate.run_seed(seed) for seed in seeds]


def _chunks(seeds: Iterable[int]) -> Iterator[list[int]]:
    chunk: list[int] = []
    for seed in seeds:
        chunk.append(seed)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def run(
    seeds: Iterable[int],
    *,
    processes: int = 0,
    limit_s: float = 0.0,
    failures: int = 3,
    on_progress: Callable[[Campaign], None] = lambda campaign: None,
) -> Campaign:
    """
    Run *seeds* and return what they came to.

    Args:
        processes: how many run at once; 0 for one a core.
        limit_s: after which no further result is waited for; 0 for never.
        failures: after how many the campaign ends; each is shrunk.
        on_progress: told after every few seeds.
    """
    campaign, began_at = Campaign(), time.monotonic()
    failed: list[simulate.Outcome] = []
    seen: Counter[str] = Counter()
    count = processes or os.cpu_count() or 1
    spawning = multiprocessing.get_context("spawn")
    with spawning.Pool(count) as pool:
        for outcomes in pool.imap_unordered(_run_chunk, _chunks(seeds)):
            for outcome in outcomes:
                _count(campaign, outcome, seen)
                failed += [] if outcome.is_green else [outcome]
            campaign.seen, campaign.elapsed_s = dict(seen), time.monotonic() - began_at
            on_progress(campaign)
            if len(failed) >= failures or (limit_s and campaign.elapsed_s >= limit_s):
                break
    # In a pool of its own: the first may have many seeds left that nobody waits for any more.
    worst = sorted(failed, key=lambda outcome: outcome.seed)[:failures]
    if worst:
        with spawning.Pool(min(count, len(worst))) as pool:
            campaign.failures = pool.map(fail, worst, chunksize=1)
    campaign.elapsed_s = time.monotonic() - began_at
    return campaign


def _count(campaign: Campaign, outcome: simulate.Outcome, seen: Counter[str]) -> None:
    campaign.seeds += 1
    campaign.green += outcome.is_green
    campaign.messages += outcome.messages
    campaign.virtual_s += outcome.virtual_ns / 1e9
    end = outcome.end or "failed"
    campaign.ends[end] = campaign.ends.get(end, 0) + 1
    seen.update(outcome.seen)
