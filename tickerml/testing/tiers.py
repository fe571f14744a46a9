"""
Every check, in the order of the tiers, and the process that runs them on one plugin.

    loads          its manifest and its import
    conforms       it does what its kind does
    swappable      its state moves to a new build, and survives a kill
    deterministic  the same inputs, the same bytes
    edge           it fits on a Pi

    python -m tickerml.testing.tiers '{"subject": ..., "checks": [...], "answers": FILE}'

A line of JSON goes into the file when a check begins and another when it ends. So whoever
started the process knows which check it was that crashed it, or does not end.
"""

import json
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tickerml.kernel import limits

from . import tiers_conforms, tiers_kinds, tiers_loads, tiers_processes, tiers_swappable
from .contracts_subject import LADDER, Check, Subject
from .tiers_probe import quiet

_ALL = (
    *tiers_loads.CHECKS,
    *tiers_conforms.CHECKS,
    *tiers_kinds.CHECKS,
    *tiers_swappable.CHECKS,
    *tiers_processes.CHECKS,
)
CHECKS: dict[str, Check] = {
    check.id: check for check in sorted(_ALL, key=lambda check: LADDER.index(check.tier))
}

_LOADS, _BUILDS = "loads.", "conforms.builds"


class Outcome(msgspec.Struct, frozen=True):
    """What came of one check; not is_asked where it makes no sense for this plugin."""

    id: str
    ok: bool
    detail: str
    seconds: float
    is_asked: bool = True


class Task(msgspec.Struct, frozen=True):
    """What a process of this module is to do."""

    subject: Subject
    checks: list[str]
    answers: str


def possible(subject: Subject, tier: str) -> list[str]:
    """Return the checks up to *tier* that may be asked of *subject*, whose module need not be imported."""
    kinds = set(subject.manifest.kinds)
    tiers = LADDER[: LADDER.index(tier) + 1]
    shapes = subject.shapes
    return [
        check.id
        for check in CHECKS.values()
        if check.tier in tiers
        and (not check.kinds or kinds & set(check.kinds))
        and any(shape in check.shapes for shape in shapes)
    ]


def may_follow(check: str, done: Iterable[Outcome]) -> bool:
    """Whether *check* makes sense after those *done*: what does not load or build is not tried further."""
    return check.startswith(_LOADS) or all(
        each.ok for each in done if each.id.startswith(_LOADS) or each.id == _BUILDS
    )


def ask(subject: Subject, check: Check) -> Outcome:
    """Run one check here and now."""
    began = time.monotonic()
    ok, is_asked = True, True
    try:
        is_asked = len(subject.shapes) == 1 or check.applies(subject, subject.shape)
        detail = check.run(subject) if is_asked else ""
    except (Exception, SystemExit) as error:
        ok = False
        detail = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    return Outcome(check.id, ok, detail, round(time.monotonic() - began, 3), is_asked)


def main(arguments: list[str]) -> int:
    """Run the checks of one task; returns the exit code."""
    task = msgspec.json.decode(arguments[0], type=Task)
    limits.die_with_parent(signal.SIGKILL)
    sys.dont_write_bytecode = True
    quiet()
    with Path(task.answers).open("a") as answers:
        done: list[Outcome] = []
        for name in task.checks:
            if not may_follow(name, done):
                break
            print(json.dumps({"begin": name}), file=answers, flush=True)
            done.append(ask(task.subject, CHECKS[name]))
            print(json.dumps({"end": msgspec.to_builtins(done[-1])}), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
