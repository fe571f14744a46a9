"""
Hold all rules of risk, behind the gate, to their properties over a million generated operations.

    python tests/campaigns/risk.py [--operations N] [--minutes M] [--seed S]

Hypothesis draws streams of orders, market moves, fills, ends, snapshots, time, troubles, halts and
resumes; a small account of our own says what there is. After every operation: each rule has answered
once and allowed no more than was asked, what passed is what all of them allow, no limit is broken by
what passed, cash and inventories are not promised twice, and a halt holds until a person resumes.
Every fourth stream is told again to rules that answer in another order and lose their process in the
middle, and must decide the same. Prints how many operations there were, what became of the
orders, and the seed; a failure is shrunk and printed, and the exit code is 1. The time is a limit: 1 too
where it ends before the operations do.
"""

import logging
import random
import sys
from collections import Counter
from pathlib import Path

import structlog
from hypothesis import given, seed
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))

import operations
import risk_stream as laws

BATCH = 25  # streams of one seed
LENGTH = 400  # operations of a stream, on average
STEP = 6  # bytes that one operation is made of: drawing its parts one by one takes ten times as long
RETOLD = 4  # one stream in so many is told again


def steps_of(drawn: bytes) -> list[bytes]:
    """Return the operations that *drawn* stands for."""
    return [drawn[at : at + STEP] for at in range(0, len(drawn) - STEP + 1, STEP)]


def check_stream(steps: list[bytes], kind: int, cut: int, totals: Counter[str]) -> int:
    """Play *steps*, checking every state; returns how many operations that were."""
    is_tight = bool(kind & 1)
    stream = laws.Stream(is_tight)
    for step in steps:
        stream.play(step)
    if kind // 2 % RETOLD == 0:
        permuted = random.Random(kind).sample(laws.PERMUTED, len(laws.PERMUTED))
        again = laws.decided(stream.tape, permuted, cut % len(stream.tape), is_tight)
        assert again == stream.decisions, "another order of the rules, or a restart, decides otherwise"
        totals["told again"] += len(steps)
    totals.update(stream.counts)
    return len(steps)


def batch(number: int, totals: Counter[str]) -> int:
    """Run the streams of seed *number*; returns how many operations they had."""
    count = 0

    @seed(number)
    @operations.drawing(BATCH)
    @given(
        st.binary(min_size=STEP * LENGTH // 2, max_size=STEP * LENGTH * 3 // 2),
        st.integers(0, 2**16),
        st.integers(0, 2**16),
    )
    def run(drawn: bytes, kind: int, cut: int) -> None:
        nonlocal count
        count += check_stream(steps_of(drawn), kind, cut, totals)

    run()
    return count


def main() -> int:
    """Run what the command line asks for; returns the exit code."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    totals = Counter[str]()
    return operations.run(
        __doc__,
        lambda number: batch(number, totals),
        f"with {len(laws.SPECS)} rules",
        lambda: ", ".join(f"{total:,} {name}" for name, total in sorted(totals.items())),
    )


if __name__ == "__main__":
    sys.exit(main())
