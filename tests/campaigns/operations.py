"""What campaigns of generated operations share: their command line, batch after batch, and how they end."""

import argparse
import sys
import time
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings


def drawing(streams: int) -> settings:
    """Return the settings of a batch of *streams*: no deadline, nothing remembered from run to run."""
    return settings(
        max_examples=streams,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def run(doc: str | None, batch: Callable[[int], int], held_to: str, more: Callable[[], str] = str) -> int:
    """
    Run batches until the command line's operations or minutes are over; returns the exit code.

    Args:
        batch: runs the streams of a seed and returns how many operations they had.
        held_to: what they were held to, for the last line.
        more: what else is to be said before it.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=1_000_000, help="how many to check")
    parser.add_argument("--minutes", type=float, default=30.0, help="the most that it may take")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch; each further one adds 1")
    wanted = parser.parse_args()
    began, count, number = time.monotonic(), 0, wanted.seed
    while count < wanted.operations and time.monotonic() - began < wanted.minutes * 60:
        try:
            count += batch(number)
        except Exception:
            print(f"FAILED with --seed {number} after {count:,} operations", file=sys.stderr)
            raise
        number += 1
        print(f"{count:>12,} operations, seed {number - 1}, {time.monotonic() - began:6.0f} s", flush=True)
    if text := more():
        print(text)
    is_whole = count >= wanted.operations
    print(
        f"{count:,} operations of {wanted.operations:,} {held_to}, "
        f"seeds {wanted.seed} to {number - 1}: {'passed' if is_whole else 'OUT OF TIME'}"
    )
    return 0 if is_whole else 1
