"""
Break real processes and see that nothing is lost.

    python tests/chaos/campaign.py [CAMPAIGN...] [--minutes M] [--rounds N] [--json]

Campaigns are kill, swap, stall, disk, sync and damage; without a name all of them run.

Each campaign says at its start what it does, tells how far it is, keeps to its share
of the time, and cleans up behind itself. The exit code is 0 where all that was named
has passed. docs/campaigns.md describes them.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from budget import Budget

NAMES = ("kill", "swap", "stall", "disk", "sync", "damage")
WEIGHTS = {"kill": 5.0, "swap": 4.0, "stall": 1.5, "disk": 1.0, "sync": 1.0, "damage": 2.0}


def run(
    names: list[str],
    budget: Budget,
    options: dict[str, dict[str, Any]],
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Return the report of each campaign in *names*; *keep* is given what is known after each."""
    report: dict[str, Any] = {}
    for position, name in enumerate(names):
        left = sum(WEIGHTS[other] for other in names[position:])
        budget.tell(f"--- {name}")
        module, load = import_module(name), os.getloadavg()[0]
        try:
            report[name] = module.campaign(budget.part(WEIGHTS[name] / left), **options.get(name, {}))
        except Exception as error:
            report[name] = {"is_passed": False, "error": f"{type(error).__name__}: {error}"}
            budget.tell(report[name]["error"])
        # Times mean little without it: what else the machine had to do, 1 a core being all it can.
        report[name]["load_before_and_after"] = [round(load, 1), round(os.getloadavg()[0], 1)]
        keep(report)
    return report


def main() -> int:
    """Run what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="CAMPAIGN", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--minutes", type=float, default=60.0, help="time budget of all together")
    parser.add_argument("--rounds", type=int, default=0, help="at most so many runs in each; 0: as they need")
    parser.add_argument("--kills", type=int, default=50, help="of each process in the kill campaign")
    parser.add_argument("--patient", action="store_true", help="let orders rest in the kill campaign")
    parser.add_argument("--cases", type=int, default=200, help="damaged homes in the damage campaign")
    parser.add_argument("--seconds", type=int, default=0, help="market time of one run; 0: as each likes")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the damage")
    parser.add_argument("--out", default="", help="write the report there after each campaign")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument("--quiet", action="store_true", help="tell nothing on the way")
    arguments = parser.parse_args()
    names = arguments.names or list(NAMES)
    if unknown := set(names) - set(NAMES):
        parser.error(f"expected campaigns of {', '.join(NAMES)}, was {', '.join(sorted(unknown))}")
    common: dict[str, dict[str, Any]] = {name: {"rounds": arguments.rounds} for name in NAMES}
    common["kill"] |= {"kills": arguments.kills, "is_patient": arguments.patient}
    common["damage"] = {"cases": arguments.cases}
    if arguments.seconds:
        for name in ("kill", "swap", "stall", "disk", "sync"):
            common[name]["duration_s"] = arguments.seconds

    def keep(report: dict[str, Any]) -> None:
        if arguments.out:
            with open(arguments.out, "w") as file:
                json.dump(report, file, indent=1)

    # So that SIGTERM cleans up as Ctrl-C does: through the finally of every system.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    report = run(names, Budget(arguments.minutes, arguments.seed, is_quiet=arguments.quiet), common, keep)
    print(json.dumps(report, indent=None if arguments.json else 1))
    return 0 if all(part["is_passed"] for part in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
