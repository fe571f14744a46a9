"""
Break a tape while it is written, and look at what is left: for the suite, and as a campaign.

    python tests/plugins/tape_faults.py [--points 200] [--seed 1]

kill   a process that seals blocks is killed with SIGKILL at a random moment; what it had said was
       sealed has to be there, row by row, and the next writer goes on as if nothing had been
tear   the power fails in the middle of a commit: of the pages that the commit writes, an arbitrary
       part reached the disk, and the last of them in part. LMDB writes the page that makes a commit
       valid last, so the tape has to be what it was before it. (That one page, of which LMDB writes
       some hundred bytes within a sector, is taken not to tear.)
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tickerml.plugins.tape import ROW, TapeReader, TapeWriter

PAGE = 4096
STREAM = "trade|test|BTC/USDT"

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tape_faults import STREAM, rows_of
from tickerml.plugins.tape import TapeWriter

writer = TapeWriter(Path(sys.argv[1]), map_mb=64)
for number in range(100_000):
    writer.seal(STREAM, number, rows_of(number))
    print(number, flush=True)
"""


def rows_of(number: int) -> np.ndarray:
    """The rows of block *number*, the same whenever they are asked for; of 1 to 40 kB when packed."""
    chance = np.random.default_rng(number)
    rows = np.zeros(int(chance.integers(50, 3000)), ROW)
    rows["ts_recv"] = number * 10**9 + np.sort(chance.integers(0, 10**9, len(rows)))
    rows["price"] = chance.integers(1, 2**40, len(rows))
    rows["quantity"] = chance.integers(1, 2**30, len(rows))
    rows["kind"], rows["is_last"] = 3, True
    return rows


def check(path: Path, acknowledged: int) -> int:
    """Verify that all of *acknowledged* blocks and at most one more are there; return how many there are."""
    reader = TapeReader(path)
    problems = reader.verify()
    assert problems == [], problems
    blocks = reader.blocks(STREAM)
    assert acknowledged <= len(blocks) <= acknowledged + 1, (acknowledged, len(blocks))
    found = reader.read(STREAM)
    expected = np.concatenate([np.empty(0, ROW), *(rows_of(number) for number in range(len(blocks)))])
    assert found.tobytes() == expected.tobytes()
    return len(blocks)


def kill(path: Path, chance: random.Random) -> int:
    """Kill a writer after a random time, check what it left, and go on behind it; return its blocks."""
    home = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), home], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        said = [process.stdout.readline()]
        time.sleep(chance.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    acknowledged = sum(line.endswith("\n") for line in said)
    count = check(path, acknowledged)
    writer = TapeWriter(path, map_mb=64)
    for number in range(count + 1):  # what is there already is left as it is
        writer.seal(STREAM, number, rows_of(number))
    assert check(path, count + 1) == count + 1
    return count


def tear(path: Path, chance: random.Random) -> int:
    """Leave a random part of a commit's pages on the disk and check; return how many pages it had written."""
    writer = TapeWriter(path, map_mb=64)
    count = chance.randrange(1, 8)
    for number in range(count):
        writer.seal(STREAM, number, rows_of(number))
    before = path.read_bytes()
    writer.seal(STREAM, count, rows_of(count))
    after = path.read_bytes()

    torn = bytearray(before.ljust(len(after), b"\0"))
    starts = range(2 * PAGE, len(after), PAGE)  # the first two pages say which commit is valid
    written = [start for start in starts if after[start : start + PAGE] != torn[start : start + PAGE]]
    reached = chance.sample(written, chance.randrange(len(written) + 1))
    for start in reached:
        torn[start : start + PAGE] = after[start : start + PAGE]
    if reached:
        cut = reached[-1] + chance.randrange(PAGE)
        torn[cut : reached[-1] + PAGE] = bytes(reached[-1] + PAGE - cut)
    length = chance.randrange(len(before), len(after) + 1)
    path.write_bytes(torn[:length])

    assert check(path, count) == count
    TapeWriter(path, map_mb=64).seal(STREAM, count, rows_of(count))
    assert check(path, count + 1) == count + 1
    return len(written)


def main() -> None:
    """Break tapes at many points and print what came of it as JSON; a failure ends it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    report = {"kill": 0, "tear": 0, "blocks_before_kill": 0, "pages_torn_of": 0}
    for point in range(arguments.points):
        for name, fault, figure in (("kill", kill, "blocks_before_kill"), ("tear", tear, "pages_torn_of")):
            folder = Path(tempfile.mkdtemp())
            try:
                report[figure] += fault(folder / "tape.mdb", chance)
                report[name] += 1
            finally:
                shutil.rmtree(folder)
        print(f"\r{point + 1} of {arguments.points}", end="", file=sys.stderr, flush=True)
    print(json.dumps({**report, "lost": 0, "verify": "clean"}))


if __name__ == "__main__":
    main()
