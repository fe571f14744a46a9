"""
Journals and checkpoints with bits flipped, pages lost or swapped, and tails torn off: two hundred real files.

One run is killed in the middle and another is stopped there; each case takes a copy of
one of the two homes, damages its journal and starts a kernel on it. What may come of it:

    equal            it ran on and ended as if nothing had been
    equal, said      the same, and it named the damage it had found
    refused          it did not start, and said why in one message; `journal repair` is then
                     tried, and what came of the run after it is told
    not equal, said  it ran on without what was damaged, and told what that is
    beyond reach     it ran on and ended equal, over damage in what it had no need to read;
                     `journal verify` names it

What may not: another result without a word, a traceback, a crash, a message that does
not speak of damage, or no end at all.
"""

import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGKILL, SIGTERM
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import evidence
import lmdb
from budget import REFERENCE_HOSTS, Budget, undisturbed
from system import Outcome, System

from tickerml.kernel import StoreError

PAGE = 4096
WORKERS = 2
HANG_S = 90.0
FINE = ("equal", "equal, said", "refused", "not equal, said", "beyond reach")
CHOICES: dict[str, Any] = {
    "duration_s": 20,
    "rate": 60.0,
    "checkpoint_s": 0.2,
    "speed": "max",
    "more": "",
}
_SPEAKS_OF_DAMAGE = re.compile(
    r"damag|corrupt|dropped|torn|cut off|does not match|cannot open the journal|repair|truncat|not whole"
)


class Case(NamedTuple):
    """One damaged home: which base, what was done to it, what came of it, and in which words."""

    base: str
    damage: str
    where: str
    outcome: str
    message: str
    lost: int  # decisions of the base that did not come again
    after_repair: str = ""


# --- Damage ---------------------------------------------------------------------------------------


def flip_bits(data: bytearray, chance: random.Random) -> str:
    """Flip one to eight bits anywhere."""
    return _flip(data, chance, [0], len(data))


def _flip(data: bytearray, chance: random.Random, starts: list[int], length: int) -> str:
    """Flip the same one to eight bits of *length* bytes at each of *starts*."""
    places = [chance.randrange(length) for _ in range(chance.randint(1, 8))]
    for place in places:
        bit = 1 << chance.randrange(8)
        for start in starts:
            data[start + place] ^= bit
    return f"bytes {sorted(places)}"


def _page(data: bytearray, chance: random.Random) -> int:
    return chance.randrange(len(data) // PAGE) * PAGE


def zero_page(data: bytearray, chance: random.Random) -> str:
    """Lose a page."""
    at = _page(data, chance)
    data[at : at + PAGE] = bytes(PAGE)
    return f"page {at // PAGE}"


def zero_meta_page(data: bytearray, chance: random.Random) -> str:
    """Lose one of the two pages by which LMDB finds everything."""
    at = chance.randrange(2) * PAGE
    data[at : at + PAGE] = bytes(PAGE)
    return f"page {at // PAGE}"


def swap_page(data: bytearray, chance: random.Random) -> str:
    """Write a page where another belongs, as a misdirected write does."""
    from_, to = _page(data, chance), _page(data, chance)
    data[to : to + PAGE] = data[from_ : from_ + PAGE]
    return f"page {from_ // PAGE} over page {to // PAGE}"


def truncate(data: bytearray, chance: random.Random) -> str:
    """Cut the file to a random length."""
    del data[chance.randrange(len(data)) :]
    return f"to {len(data)} bytes"


def tear_tail(data: bytearray, chance: random.Random) -> str:
    """Cut up to sixteen pages from the end, as a file that did not get all its bytes."""
    del data[-chance.randrange(1, 16 * PAGE) :]
    return f"to {len(data)} bytes"


def in_value(table: str) -> Callable[[bytearray, random.Random], str]:
    """Return a damage that flips bits inside one stored value of *table*, most often a recent one."""

    def flip(data: bytearray, chance: random.Random) -> str:
        content = bytes(data)
        values = _values_of(content, table)
        key, value = chance.choice(values[-6:] if chance.random() < 0.7 else values)
        # LMDB copies a page to change it, so an old copy of the value may lie about: none is left whole.
        starts = [found.start() for found in re.finditer(re.escape(value), content)]
        return f"{table} {key!r} {_flip(data, chance, starts, len(value))}"

    return flip


def _values_of(content: bytes, table: str) -> list[tuple[bytes, bytes]]:
    """Return the keys and values of *table* in a journal's bytes, in order."""
    with TemporaryDirectory(prefix="tmlx-") as directory:
        (Path(directory) / "data.mdb").write_bytes(content)
        with lmdb.open(directory, max_dbs=8, readonly=True, lock=False) as env:
            database = env.open_db(table.encode(), create=False)
            with env.begin() as txn, txn.cursor(database) as cursor:
                return [(bytes(key), bytes(value)) for key, value in cursor if value]


DAMAGES: dict[str, tuple[int, Callable[[bytearray, random.Random], str]]] = {
    "bits anywhere": (6, flip_bits),
    "bits in a record": (5, in_value("log")),
    "bits in a checkpoint": (5, in_value("checkpoints")),
    "bits in a kept record": (3, in_value("kept")),
    "bits in a meta value": (2, in_value("meta")),
    "a page of zeros": (4, zero_page),
    "a header page of zeros": (1, zero_meta_page),
    "a page over another": (4, swap_page),
    "cut to a random length": (3, truncate),
    "a torn tail": (3, tear_tail),
}


# --- One case -------------------------------------------------------------------------------------


class Bench:
    """The two homes, and what the run should come to from each."""

    def __init__(self, budget: Budget) -> None:
        self._undisturbed = undisturbed(budget, **CHOICES)
        self.bases = {name: self._make(name) for name in ("killed", "stopped")}
        self.before = {
            name: evidence.read(system.run_dir, {}, REFERENCE_HOSTS) for name, system in self.bases.items()
        }
        # A stop is one message more of each feed, so each base is compared with itself, continued whole.
        self.expected = {name: self._continue(name) for name in self.bases}
        for name, system in self.bases.items():
            size = (system.run_dir / "journal" / "data.mdb").stat().st_size
            budget.tell(f"base {name!r}: {size:,} bytes, {len(self.before[name].decisions)} decisions")

    def _continue(self, name: str) -> evidence.Evidence:
        system = self._copy(name)
        try:
            done = system.run("--no-console", timeout_s=HANG_S)
            found = evidence.read(system.run_dir, done.summary, REFERENCE_HOSTS)
        finally:
            system.close()
        told = evidence.differences(self._undisturbed, found)
        if any(not text.startswith("stream feed.") for text in told):
            raise RuntimeError(f"base {name!r} continued undamaged is not equal: {told[:3]}")
        return found

    def _copy(self, name: str) -> System:
        system = System(**CHOICES)
        shutil.copytree(self.bases[name].home, system.home)
        return system

    def _make(self, name: str) -> System:
        system = System(**CHOICES)
        system.start("--no-console")
        report = system.wait_until(
            lambda report: report["seq"] > 0.55 * self._undisturbed.frames, what="the middle of the run"
        )
        system.signal(report["pid"], SIGKILL if name == "killed" else SIGTERM)
        system.finish(60)
        return system

    def close(self) -> None:
        """Remove the homes."""
        for system in self.bases.values():
            system.close()

    def try_case(self, base: str, damage: str, seed: int) -> Case:
        """Damage a copy of *base* and start a kernel on it."""
        system = self._copy(base)
        try:
            path = system.run_dir / "journal" / "data.mdb"
            data = bytearray(path.read_bytes())
            where = DAMAGES[damage][1](data, random.Random(seed))
            path.write_bytes(data)
            outcome, message, lost = self._start(system, base)
            case = Case(base, damage, where, outcome, message, lost)
            return case._replace(after_repair=self._repair(system, base)) if outcome == "refused" else case
        finally:
            system.close()

    def _start(self, system: System, base: str) -> tuple[str, str, int]:
        try:
            done = system.run("--no-console", timeout_s=HANG_S)
        except Exception as error:
            return "hang", str(error), 0
        logs = "".join(path.read_text(errors="replace") for path in system.home.glob("logs/*.log"))
        message = next((line for line in done.err.splitlines() if line.startswith("tickerml: ")), "")
        if done.code < 0:
            return f"crash: signal {-done.code}", done.err[-300:], 0
        if "Traceback" in done.err:
            return "traceback", done.err[-600:], 0
        if done.code and not done.summary:
            return self._refusal(done, message)
        return self._result(system, base, done, logs, message)

    def _refusal(self, done: Outcome, message: str) -> tuple[str, str, int]:
        told = done.err.count("tickerml: ")
        if told != 1 or not _SPEAKS_OF_DAMAGE.search(message):
            return "unclear message", done.err[-400:] or "nothing was said", 0
        return "refused", message, 0

    def _result(
        self, system: System, base: str, done: Outcome, logs: str, message: str
    ) -> tuple[str, str, int]:
        said = [line for line in (done.err + logs).splitlines() if _SPEAKS_OF_DAMAGE.search(line)]
        words = message or (said[-1] if said else "")
        try:
            found = evidence.read_apart(system.run_dir, done.summary, REFERENCE_HOSTS)
            told = evidence.differences(self.expected[base], found)
            lost = lost_decisions(self.before[base].decisions, found.decisions)
        except StoreError as error:
            told, lost = [f"journal: {error}"], 0
        if not str(done.summary.get("run", "")).endswith("0001"):
            told.append(f"it began anew in {done.summary.get('run')}")
        if not told:
            return ("equal, said" if said else "equal"), words, 0
        if said:
            return "not equal, said", words, lost
        is_equal_but_for_the_file = all(text.startswith("journal: ") for text in told)
        if is_equal_but_for_the_file and self._figures_equal(base, done) and self._is_found(system):
            return "beyond reach", told[0], lost
        return "silent", f"{told[0]} (and {len(told) - 1} more)", lost

    def _figures_equal(self, base: str, done: Outcome) -> bool:
        figures = self.expected[base].figures
        return all(done.summary.get(name) == value for name, value in figures.items())

    def _is_found(self, system: System) -> bool:
        return system.call("journal", "verify").code != 0

    def _repair(self, system: System, base: str) -> str:
        try:
            repaired = system.call("journal", "repair", "--yes")
        except subprocess.TimeoutExpired:
            return "repair: hang"
        if "Traceback" in repaired.err or repaired.code < 0:
            return f"repair: crash {repaired.code}"
        if repaired.code:
            return "not repaired"
        outcome, _, lost = self._start(system, base)
        return f"{outcome}, {lost} lost"


def lost_decisions(before: list[str], after: list[str]) -> int:
    """Return how many of *before* did not come again, from the first that is not in *after* as it was."""
    for count, (old, new) in enumerate(zip(before, after, strict=False)):
        if old != new:
            return len(before) - count
    return max(0, len(before) - len(after))


def campaign(budget: Budget, *, cases: int = 200) -> dict[str, Any]:
    """Try *cases* damaged homes, or as many as there is time for."""
    bench = Bench(budget)
    kinds = [name for name, (weight, _) in DAMAGES.items() for _ in range(weight)]
    chosen = [
        (
            budget.random.choice(("killed", "stopped")),
            kinds[number % len(kinds)],
            budget.random.randrange(2**32),
        )
        for number in range(cases)
    ]
    done: list[Case] = []

    def work(choice: tuple[str, str, int]) -> None:
        if budget.left_s > 30:
            try:
                case = bench.try_case(*choice)
            except Exception as error:
                case = Case(*choice[:2], f"seed {choice[2]}", "untold", f"{type(error).__name__}: {error}", 0)
            done.append(case)
            if case.outcome not in FINE:
                budget.tell(f"{case}")
            elif len(done) % 10 == 0:
                budget.tell(f"{len(done)} of {cases}: {dict(Counter(c.outcome for c in done))}")

    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, chosen))
    finally:
        bench.close()
    wrong = [case for case in done if case.outcome not in FINE]
    return {
        "cases": len(done),
        "outcomes": dict(Counter(case.outcome for case in done)),
        "by_damage": {
            kind: dict(Counter(case.outcome for case in done if case.damage == kind)) for kind in DAMAGES
        },
        "after_repair": dict(Counter(case.after_repair for case in done if case.after_repair)),
        "lost_decisions": sum(case.lost for case in done),
        "messages": dict(Counter(_shape(case.message) for case in done if case.message).most_common(20)),
        "wrong": [case._asdict() for case in wrong],
        "is_passed": not wrong and bool(done),
    }


def _shape(message: str) -> str:
    """Return *message* without its numbers and paths, so that equal ones can be counted."""
    return re.sub(r"\d+", "N", re.sub(r"/\S+", "PATH", message))[:160]
