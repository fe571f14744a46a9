"""
Hold the ledger to all its laws over a million generated operations.

    python tests/campaigns/ledger.py [--operations N] [--minutes M] [--seed S]

Hypothesis draws streams of orders, fills, replacements, ends, funding and transfers on spot and on
a perpetual; after every single one all laws are checked, and after every stream it is replayed, once
as it was and once with everything told twice, and continued from a restored state. Laws 9, 11 and 12
ask for streams of their own and are in tests/plugins. Prints how many operations the ledger took and
the seed; a failure is shrunk and printed, and the exit code is 1. The time is a limit: 1 too where it ends
before the operations do.
"""

import sys
from pathlib import Path

import msgspec
from hypothesis import given, seed
from hypothesis import strategies as st

from tickerml.kernel import UNIT, Side

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "plugins"))

import ledger_stream as laws
import operations

BATCH = 200  # streams of one seed
LENGTH = 100  # operations of a stream, on average
STEP = 16  # bytes that one operation is made of: drawing its parts one by one takes ten times as long


def step_of(drawn: bytes) -> laws.Step:
    """Return the operation that STEP bytes stand for."""
    kind, which, side, scale = drawn[0] % 10, drawn[1], drawn[2], drawn[3]
    price = 1 + int.from_bytes(drawn[4:8]) % 6_100_000
    if scale & 1:  # near a price of every day, so that orders are worth something
        price = 5_900_000 + price % 200_000
    lots = 1 + int.from_bytes(drawn[8:16]) % (40, 20_000_000, 30_000)[scale % 3]
    places = (laws.EXCHANGES[which % 3], laws.EXCHANGES[side % 3])
    if kind < 2:
        return "order", sorted(laws.INSTRUMENTS)[which % 3], (Side.BUY, Side.SELL)[side % 2], price, lots
    if kind < 5:
        return "trade", which, lots, price % 2000 if scale & 2 else 0, bool(side & 1)
    rest: dict[int, laws.Step] = {
        5: ("cancel", which),
        6: ("replace", which, price, lots),
        7: ("fund", price, (lots % 20_000 - 10_000) * 10**6 + 1),
        8: ("send", *places, lots * 10**8, which * UNIT // 50),
        9: ("arrive", which),
    }
    return rest[kind]


def steps_of(drawn: bytes) -> list[laws.Step]:
    """Return the operations that *drawn* stands for."""
    return [step_of(drawn[at : at + STEP]) for at in range(0, len(drawn) - STEP + 1, STEP)]


def check_step(stream: laws.Stream) -> None:
    """Hold one state of *stream* to every law."""
    for law in laws.LAWS.values():
        law(stream)


def check_stream(steps: list[laws.Step], cut: int) -> int:
    """Play *steps*, checking every state; returns how many operations that were."""
    stream = laws.Stream(check_step).play(steps)
    digest = stream.ledger.digest()
    doubled = [event for event in stream.events for _ in range(2)]
    first = laws.replay(stream.events[:cut])
    restored = laws.restored(first, msgspec.msgpack.encode, msgspec.msgpack.decode)
    assert laws.replay(stream.events).digest() == digest, "law 7: a replay differs"
    assert laws.replay(stream.events[cut:], restored).digest() == digest, "law 7: a restart differs"
    assert laws.replay(doubled).digest() == digest, "law 8: something counted twice"
    return len(stream.events)


def batch(number: int) -> int:
    """Run the streams of seed *number*; returns how many operations they had."""
    count = 0

    @seed(number)
    @operations.drawing(BATCH)
    @given(st.binary(min_size=STEP * LENGTH // 2, max_size=STEP * LENGTH * 3 // 2), st.integers(0, LENGTH))
    def run(drawn: bytes, cut: int) -> None:
        nonlocal count
        count += check_stream(steps_of(drawn), cut)

    run()
    return count


def main() -> int:
    """Run what the command line asks for; returns the exit code."""
    return operations.run(__doc__, batch, f"held to {len(laws.LAWS) + 2} laws")


if __name__ == "__main__":
    sys.exit(main())
