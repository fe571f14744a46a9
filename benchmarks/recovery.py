"""
How long a system of real processes takes to be well again after kill -9 of one of them.

    python benchmarks/recovery.py [--kills N] [--checkpoint-s S] [--json]

recovery_s   by process, p50, p99 and largest: a consumer until it is ready and has caught up with
             the head; the market until its messages come again; the kernel, started again at
             once, until something decided on market data of its new session is on disk
ready_s      of those, how long the process alone took until it was ready (hosts)
start_s      the floor, in the same run: a bare interpreter, and one that imports a host and its plugins
load         of the machine before and after, 1 a core being all it can

The market makes 5,000 messages a second meanwhile. A host that dies again within a
minute is started later each time (100 ms, 200 ms, ...), and that is in the figures; so
are the messages since its last checkpoint, which is S seconds old at most.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "chaos"))

from budget import quantiles
from kill import Round, kernel_recoveries
from system import System

TARGETS = ("kernel", "market", "trade", "record")
PLUGINS = "tickerml.plugins.features_core, tickerml.plugins.sim_fifo, tickerml.plugins.portfolio"


def starts(times: int = 5) -> dict[str, float]:
    """Return the median seconds that processes take which do nothing once they have started."""

    def median_of(code: str) -> float:
        took = []
        for _ in range(times):
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", code], check=True)
            took.append(time.monotonic() - began)
        return round(statistics.median(took), 3)

    return {
        "interpreter": median_of("pass"),
        "imports": median_of(f"import tickerml.kernel.host, {PLUGINS}"),
    }


def measure(kills: int, checkpoint_s: float, seed: int) -> dict[str, Any]:
    """Kill each process *kills* times in one run, one at a time, and return the figures."""
    load = os.getloadavg()[0]
    floor = starts()
    needed = dict.fromkeys(TARGETS, kills)
    system = System(duration_s=0, more="", checkpoint_s=checkpoint_s)
    try:
        run = Round(system, needed, random.Random(seed), overlap=0.0)
        run.strike_all()
        system.call("stop")
        system.finish(60)
        moments = [strike.at_ns for strike in run.strikes if strike.target == "kernel"]
        found = {"kernel": list(kernel_recoveries(system.run_dir, moments))}
    finally:
        system.close()
    for target in TARGETS[1:]:
        found[target] = [strike.recovery_s for strike in run.strikes if strike.target == target]
    ready = {
        target: quantiles([strike.ready_s for strike in run.strikes if strike.target == target])
        for target in TARGETS[1:]
    }
    return {
        "recovery_s": {target: quantiles(found[target]) for target in TARGETS},
        "ready_s": ready,
        "start_s": floor,
        "checkpoint_s": checkpoint_s,
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="of each process")
    parser.add_argument("--checkpoint-s", type=float, default=1.0, help="time between two checkpoints")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    report = measure(arguments.kills, arguments.checkpoint_s, arguments.seed)
    print(json.dumps(report, indent=None if arguments.json else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
