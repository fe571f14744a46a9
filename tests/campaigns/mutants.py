"""
Mutation testing: whether the tests notice when the code where money hangs on every sign is changed.

    python tests/campaigns/mutants.py [--minutes M] [--seed S] [--only NAME...] [--jobs N] [--json]

A mutant is one change in one place: a comparison, an operator, a constant, a condition, a return
value or a statement that is left out. By chance, and by turns of the modules, mutants are tried until the
time is over, each against the tests of its module alone, in a copy of the tree. One is killed when
these fail or take five times as long. Messages for people, types, options' descriptions and logging are
not changed.

Those in equivalents.txt, which no test can notice, are left out and counted apart. Prints killed and
survived by module and the survivors as diffs; the exit code is 1 where fewer than --least of 100 died.

A tool of our own because mutmut and cosmic-ray choose one test command for all, or install a tree of
their own; 85 % of ours within minutes needs "the tests of its module" and a seed.
"""

import argparse
import difflib
import functools
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from mutations import changes

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENTS = Path(__file__).with_name("equivalents.txt")
NEEDED = ("tickerml", "tests", "examples", "docs", "benchmarks", "pyproject.toml", "plugins.toml")
SLACK = (5.0, 20.0)  # times its undisturbed tests, and seconds, after which a mutant hangs

_CORE = (
    "plugins/test_matching",
    "plugins/test_sim_fifo",
    "plugins/test_core_sizes",
    "plugins/test_core_singles",
)
_MONEY = ("plugins/test_portfolio", "plugins/test_portfolio_money", "plugins/test_portfolio_liquidation")
#: What is mutated, by its path below tickerml/, and the tests below tests/ that are to notice.
MODULES: dict[str, tuple[str, ...]] = {
    "kernel/sequencer": ("kernel/test_sequencer", "kernel/test_admission"),
    "kernel/gate": ("kernel/test_gate",),
    "kernel/positions": ("kernel/test_positions", "kernel/test_gate"),
    "kernel/changes": ("kernel/test_changes",),
    "kernel/book": ("kernel/test_book",),
    "kernel/records": ("kernel/test_journal", "kernel/test_repair"),
    "plugins/core_book": _CORE,
    "plugins/core_match": _CORE,
    "plugins/core_orders": _CORE,
    "plugins/matching": _CORE,
    "plugins/queue_models": _CORE,
    "plugins/ledger": ("plugins/test_ledger", "plugins/test_portfolio_liquidation"),
    "plugins/portfolio_account": _MONEY,
    "plugins/portfolio_funding": _MONEY,
} | {
    f"risk/{path.stem}": (f"risk/test_{path.stem}", "risk/test_family")
    for path in sorted((ROOT / "tickerml" / "risk").glob("*.py"))
    if (ROOT / "tests" / "risk" / f"test_{path.stem}.py").exists()
}


class Mutant(NamedTuple):
    """One change of one module: where it is, of what kind, and the text that comes there."""

    module: str
    operator: str
    start: int  # of the bytes that are replaced
    end: int
    text: str


@functools.cache
def source_of(module: str) -> bytes:
    """Return the source of *module* as it was when first asked for, whoever edits it meanwhile."""
    return (ROOT / "tickerml" / f"{module}.py").read_bytes()


def mutants_of(module: str) -> list[Mutant]:
    """Return every mutant of *module*."""
    return [Mutant(module, *change) for change in changes(source_of(module))]


def applied(mutant: Mutant, source: bytes) -> bytes:
    """Return *source* with the change of *mutant*."""
    return source[: mutant.start] + mutant.text.encode() + source[mutant.end :]


def diff(mutant: Mutant) -> str:
    """Return the change of *mutant* as a person reads it, with the line it is in."""
    source = source_of(mutant.module)
    old, new = (text.decode().splitlines() for text in (source, applied(mutant, source)))
    lines = [
        line.strip()
        for line in difflib.unified_diff(old, new, lineterm="", n=0)
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    line = source[: mutant.start].count(b"\n") + 1
    return f"{mutant.module}:{line}: " + " ".join(f"{each[0]} {each[1:].strip()}" for each in lines)


def name_of(mutant: Mutant) -> str:
    """Return what *mutant* is called in equivalents.txt: its diff, without the line's number."""
    module, _, rest = diff(mutant).split(":", 2)
    return f"{module}:{rest}"


class Bench:
    """One copy of the tree, where one mutant at a time is tried."""

    def __init__(self, directory: Path) -> None:
        self.tree = directory
        for name in NEEDED:
            source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__", ".*")
            if source.is_dir():
                shutil.copytree(source, directory / name, ignore=ignored)
            else:
                shutil.copy(source, directory / name)

    def passes(self, module: str, timeout_s: float) -> bool:
        """Whether the tests of *module* pass, as the tree is now, in time."""
        tests = [f"tests/{name}.py" for name in MODULES[module]]
        if module.startswith("risk/"):  # of the family's tests those of this rule
            rule = Path(module).stem
            tests += ["-k", f"test_{rule} or risk-{rule.replace('_', '-')}"]
        options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        environment = {**os.environ, "PYTHONPATH": str(self.tree)}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options, *tests],
                cwd=self.tree,
                env=environment,
                capture_output=True,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def survives(self, mutant: Mutant, timeout_s: float) -> bool:
        """Whether nobody notices *mutant*."""
        path = self.tree / "tickerml" / f"{mutant.module}.py"
        source = source_of(mutant.module)
        self._write(path, applied(mutant, source))
        try:
            return self.passes(mutant.module, timeout_s)
        finally:
            self._write(path, source)
            shutil.rmtree(self.tree / ".hypothesis", ignore_errors=True)

    def _write(self, path: Path, source: bytes) -> None:
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()  # a change within a second and of equal length would not be seen
        path.write_bytes(source)


class Campaign:
    """Mutants by turns of their modules, tried on as many benches as there are, until the time is over."""

    def __init__(self, modules: list[str], seed: int, benches: list[Bench]) -> None:
        known = set(EQUIVALENTS.read_text().splitlines()) if EQUIVALENTS.exists() else set()
        self.equivalent = dict.fromkeys(modules, 0)
        self.results: dict[str, list[tuple[Mutant, bool]]] = {module: [] for module in modules}
        self._free: queue.SimpleQueue[Bench] = queue.SimpleQueue()
        for bench in benches:
            self._free.put(bench)
        self._limits: dict[str, float] = {}
        self._agenda: dict[str, list[Mutant]] = {}
        for module in modules:
            mutants = mutants_of(module)
            chosen = [mutant for mutant in mutants if name_of(mutant) not in known]
            self.equivalent[module] = len(mutants) - len(chosen)
            random.Random(f"{seed} {module}").shuffle(chosen)
            self._agenda[module] = chosen

    def turns(self) -> Iterator[Mutant]:
        """Yield one mutant of each module, then another of each, until there are no more."""
        longest = max(map(len, self._agenda.values()))
        for turn in range(longest):
            for mutants in self._agenda.values():
                yield from mutants[turn : turn + 1]

    def try_one(self, mutant: Mutant) -> None:
        """
        Try *mutant* on a bench that is free.

        Raises: RuntimeError: the tests of its module fail without it.
        """
        bench = self._free.get()
        try:
            if mutant.module not in self._limits:
                began = time.monotonic()
                if not bench.passes(mutant.module, 600.0):
                    raise RuntimeError(
                        f"the tests of {mutant.module} fail without any mutant; mend them first"
                    )
                self._limits[mutant.module] = SLACK[0] * (time.monotonic() - began) + SLACK[1]
            survived = bench.survives(mutant, self._limits[mutant.module])
            self.results[mutant.module].append((mutant, survived))
            if survived:
                print(f"survived  {diff(mutant)}", file=sys.stderr, flush=True)
        finally:
            self._free.put(bench)

    def report(self) -> dict[str, Any]:
        """Return killed and survived, in all and by module, and the survivors."""
        modules = {
            module: {
                "killed": sum(not survived for _, survived in tried),
                "survived": sum(survived for _, survived in tried),
                "equivalent": self.equivalent[module],
                "left": len(self._agenda[module]) - len(tried),
            }
            for module, tried in self.results.items()
        }
        total = {key: sum(row[key] for row in modules.values()) for key in ("killed", "survived")}
        survivors = [diff(mutant) for tried in self.results.values() for mutant, lived in tried if lived]
        return {"modules": modules, **total, "survivors": survivors}


def play(campaign: Campaign, jobs: int, minutes: float) -> None:
    """Try mutants until *minutes* are over; those that were begun are ended."""
    until = time.monotonic() + minutes * 60
    with ThreadPoolExecutor(jobs) as pool:
        under_way: set[Future[None]] = set()
        for mutant in campaign.turns():
            if time.monotonic() > until:
                break
            under_way.add(pool.submit(campaign.try_one, mutant))
            if len(under_way) >= jobs:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()
        for each in under_way:
            each.result()


def main() -> int:
    """Run what the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="the most that it may take")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of mutants")
    parser.add_argument("--only", nargs="+", default=list(MODULES), metavar="NAME", help="modules or folders")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--least", type=float, default=85.0, help="of 100 that must be killed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    wanted = parser.parse_args()
    modules = [name for name in MODULES if any(name == o or name.startswith(f"{o}/") for o in wanted.only)]
    if not modules or wanted.jobs < 1:
        parser.error(
            f"expected some of {', '.join(MODULES)} and 1 job or more, was {wanted.only}, {wanted.jobs}"
        )
    with tempfile.TemporaryDirectory() as directory:
        benches = [Bench(Path(directory) / f"tree-{number}") for number in range(wanted.jobs)]
        campaign = Campaign(modules, wanted.seed, benches)
        play(campaign, wanted.jobs, wanted.minutes)
    report = campaign.report()
    tried = report["killed"] + report["survived"]
    share = 100 * report["killed"] / tried if tried else 0.0
    if wanted.json:
        print(json.dumps({**report, "seed": wanted.seed, "killed_percent": round(share, 1)}))
    else:
        for module, row in report["modules"].items():
            print(f"{module:<28}" + "".join(f"{count:6} {name}" for name, count in row.items()))
        print(*report["survivors"], sep="\n")
        print(f"{report['killed']} of {tried} killed, {share:.1f} %, seed {wanted.seed}")
    return 0 if share >= wanted.least else 1


if __name__ == "__main__":
    sys.exit(main())
