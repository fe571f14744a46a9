"""
Kill -9 at random moments of a market of 5,000 messages a second: the kernel, each host, the console.

One run takes many kills: it is given time to recover between them, except where a
second one is meant to meet a recovery. After a kill of the kernel the command is given
again at once, as a guard would. When the data has ended, the run must be equal to one
that nobody disturbed.

How long a recovery took:

    trade, record   until it is ready again and has caught up with the head
    market          until its messages come again
    console         until its page can be reached again
    kernel          from the journal: until the first output of the trade host is on disk
                    that followed market data of the new session
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any, NamedTuple

import evidence
from budget import REFERENCE_HOSTS, Budget, quantiles, undisturbed
from system import CONSUMERS, Outcome, System, SystemFailed, is_whole, row_of

from tickerml.kernel import KernelUnreachable, codec
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.topics import parse

TARGETS = ("kernel", "market", "trade", "record", "console")
LIMITS_S = {"kernel": 3.0, "market": 2.0, "trade": 2.0, "record": 2.0}  # what is aimed at, p99
MOST_DEATHS = 4  # of one host within the window; one more and it is quarantined, as it should be
DEATH_WINDOW_S = 61.0
OVERLAP = 0.2  # of the kills, followed by another within a second
GIVE_UP = 3  # rounds in a row in which nobody could be killed
FLOWING = 250  # new messages by which the market is seen to be back
END = 0.96  # of the undisturbed run's messages; from here on it is left in peace to end
_DATA = frozenset({"book", "trade"})
_DECIDED = frozenset({"feature", "order", "verdict", "fill", "portfolio"})


class Strike(NamedTuple):
    """One kill: whom, when (ns UTC), seconds until it was ready and until it was well, whether one of two."""

    target: str
    at_ns: int
    ready_s: float
    recovery_s: float
    is_overlapped: bool


class Round:
    """One run and the kills it took."""

    def __init__(
        self,
        system: System,
        needed: dict[str, int],
        chance: random.Random,
        *,
        frames: int = 0,
        overlap: float = OVERLAP,
    ) -> None:
        """
        Args:
            needed: how many kills each target is still to take; counted down.
            frames: how many messages the undisturbed run has; 0 where there is no end.
            overlap: of the kills are followed by another within a second.
        """
        self.strikes: list[Strike] = []
        self._system = system
        self._needed = needed
        self._random = chance
        self._end = END * frames if frames else float("inf")
        self._overlap = overlap
        self._deaths: dict[str, list[float]] = {}

    def play(self) -> Outcome:
        """Run to the end of the data, killing while it lasts."""
        system = self._system
        self.strike_all()
        # A last kernel kill may lie behind the end of the data; the run is begun until it ends by itself.
        while True:
            outcome = system.finish(timeout_s=900)
            if outcome.code != -SIGKILL:
                return outcome
            system.start()

    def strike_all(self) -> None:
        """Start, and kill as often as needed while the data lasts."""
        self._system.start()
        self._wait(lambda report: report["state"] == "running", "start")
        while self._is_on() and any(self._needed.values()):
            time.sleep(self._random.uniform(0.2, 2.0))
            if (target := self.choose()) and self._is_on():
                self._strike(target)

    def _is_on(self) -> bool:
        try:
            report = self._system.status()
        except KernelUnreachable:
            return False
        return report["seq"] < self._end and report["state"] not in ("stopping", "stopped")

    def choose(self) -> str:
        """Return whom to kill next, by chance; "" while one more death would put everybody in quarantine."""
        open_ = {target: count for target, count in self._needed.items() if count and self.may_die(target)}
        return self._random.choices(list(open_), list(open_.values()))[0] if open_ else ""

    def may_die(self, target: str) -> bool:
        """Whether one more death of *target* would not put it in quarantine."""
        now = time.monotonic()
        return sum(now - at < DEATH_WINDOW_S for at in self._deaths.get(target, [])) < MOST_DEATHS

    def _strike(self, target: str) -> None:
        is_overlapped = self._random.random() < self._overlap
        before = self._system.status()
        began, at_ns = self._kill(target, before)
        second = ""
        if is_overlapped:
            time.sleep(self._random.uniform(0.0, 1.0))
            second = self.choose()
            if second and second != target:
                self._kill(second, None)
        ready_s, recovery_s = self._recover(target, before, began)
        if second:
            self._wait(lambda report: is_whole(report), "recovery of both")
        self.strikes.append(Strike(target, at_ns, ready_s, recovery_s, is_overlapped))

    def _kill(self, target: str, report: dict[str, Any] | None) -> tuple[float, int]:
        system = self._system
        if report is None:
            try:
                report = system.status()
            except KernelUnreachable:
                report = {"hosts": [], "pid": 0}
        pid = report["pid"] if target == "kernel" else row_of(report, target).get("pid", 0)
        began, at_ns = time.monotonic(), time.time_ns()
        if not pid:
            return began, at_ns
        system.signal(pid, SIGKILL)
        self._needed[target] -= 1
        if target == "kernel":
            self._deaths.clear()
            system.finish(timeout_s=30)
            system.start()
        else:
            self.note_death(target)
        return began, at_ns

    def note_death(self, host: str) -> None:
        """*host* was killed just now."""
        self._deaths.setdefault(host, []).append(time.monotonic())

    def _recover(self, target: str, before: dict[str, Any], began: float) -> tuple[float, float]:
        session, restarts = before["session"], row_of(before, target).get("restarts", 0)
        ready_at, ready_seq = 0.0, 0

        def is_back(report: dict[str, Any]) -> bool:
            nonlocal ready_at, ready_seq
            if report["state"] == "stopping":
                return True
            if target == "kernel" or report["session"] != session:
                return report["session"] != session and report["state"] == "running" and is_whole(report)
            row = row_of(report, target)
            if row["state"] == "quarantined":
                ends = self._system.why_stopped(target)
                raise SystemFailed(f"{target} was quarantined, {row['reason']}; its ends: {ends}")
            if row["restarts"] <= restarts or row["state"] != "ready":
                return False
            if not ready_at:
                ready_at, ready_seq = time.monotonic(), report["seq"]
            if target in CONSUMERS:
                return is_whole({"hosts": [row]})
            if target == "market":
                return bool(report["seq"] >= ready_seq + FLOWING)
            return self._system.is_served

        self._wait(is_back, f"recovery of {target}")
        return max(0.0, ready_at - began), time.monotonic() - began

    def _wait(self, condition: Any, what: str) -> None:
        try:
            self._system.wait_until(condition, timeout_s=90, what=what)
        except SystemFailed:
            # The data may have come to its end meanwhile, and the kernel with it: that is no failure.
            if self._system.is_alive or self._system.finish(timeout_s=1).code not in (0, -SIGKILL):
                raise


def kernel_recoveries(run_dir: Path, kills_ns: list[int]) -> Iterator[float]:
    """Yield for each kill of the kernel the seconds until something newly decided was on disk."""
    reader = JournalReader(run_dir / "journal")
    waiting = sorted(kills_ns)
    is_new = has_data = False
    for record in reader.records():
        if not waiting:
            break
        if record.written_ns < waiting[0]:
            continue
        for raw in record.frames:
            kind = parse(raw[: raw.index(b"\0")])[0]
            is_new = is_new or (kind == "system" and b"KernelStarted" in codec.unpack(raw).body)
            has_data = has_data or (is_new and kind in _DATA)
            if has_data and kind in _DECIDED:
                yield (record.written_ns - waiting.pop(0)) / 1e9
                is_new = has_data = False
                break
    reader.close()


def campaign(
    budget: Budget,
    *,
    kills: int = 50,
    rounds: int = 0,
    duration_s: int = 120,
    targets: tuple[str, ...] = TARGETS,
    checkpoint_s: float = 1.0,
    is_patient: bool = False,
) -> dict[str, Any]:
    """
    Kill until each target had its share, the rounds are played or the time is over.

    Args:
        kills: of each target.
        rounds: at most this many runs; 0 for as many as it takes.
        duration_s: market time of one run.
        is_patient: a second strategy takes no order back, so that many rest whenever something is killed.
    """
    choices: dict[str, Any] = {"duration_s": duration_s, "checkpoint_s": checkpoint_s}
    also = ['"console"'] * ("console" in targets) + ['"strategy-patient"'] * is_patient
    more = ", ".join(also)
    expected = undisturbed(budget, **choices, more=more)
    needed = dict.fromkeys(targets, kills)
    recoveries: dict[str, list[float]] = {target: [] for target in targets}
    taken = dict.fromkeys(targets, 0)
    unequal: list[str] = []
    played = in_vain = 0
    while any(needed.values()) and (not rounds or played < rounds) and budget.left_s > duration_s * 1.5:
        if in_vain == GIVE_UP:
            unequal.append(f"given up: no kill in {GIVE_UP} rounds")
            break
        played += 1
        system = System(**choices, more=more)
        run = Round(system, needed, budget.random, frames=expected.frames)
        before = dict(needed)
        try:
            outcome = run.play()
            found = evidence.read(system.run_dir, outcome.summary, REFERENCE_HOSTS)
            told = evidence.differences(expected, found)
            if outcome.code:
                told.append(f"exit code {outcome.code}: {outcome.err[-300:]}")
            lone = [s for s in run.strikes if not s.is_overlapped]
            kernel_kills = [s.at_ns for s in lone if s.target == "kernel"]
            if "kernel" in targets:
                recoveries["kernel"] += kernel_recoveries(system.run_dir, kernel_kills)
            for strike in lone:
                if strike.target != "kernel":
                    recoveries[strike.target].append(strike.recovery_s)
        except Exception as error:
            told = [f"{type(error).__name__}: {error}"]
        finally:
            system.close()
        in_vain = in_vain + 1 if needed == before else 0
        for target in targets:
            taken[target] += before[target] - needed[target]
        unequal += [f"round {played}: {text}" for text in told]
        budget.tell(f"round {played}: {len(told)} differences; kills so far {taken}")
        for text in told[:8]:
            budget.tell(f"    {text}")
    return {
        "rounds": played,
        "messages_per_round": expected.frames,
        "orders_at_rest": expected.resting,
        "checkpoint_s": checkpoint_s,
        "kills": taken,
        "differences": unequal,
        "recovery_s": {target: quantiles(recoveries[target]) for target in targets},
        "aim_s": LIMITS_S,
        "is_passed": not unequal and played > 0 and sum(taken.values()) > 0,
    }
