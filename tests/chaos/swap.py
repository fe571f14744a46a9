"""
Replace hosts, again and again, in a market of 5,000 messages a second, and kill -9 whoever takes part.

Every change renews one host, with a shadow or without, with a probation or without. Most are
disturbed at a moment drawn by chance: the kernel, the present process, the candidate or another
host is killed, or a person cancels the change or settles it. Whatever becomes of a change, one
process of each host must be left, and when the data has ended, the run must be equal to
one that nobody disturbed.
"""

import contextlib
import random
import time
from collections import Counter
from pathlib import Path
from signal import SIGKILL
from typing import Any

import evidence
from budget import REFERENCE_HOSTS, Budget, quantiles, undisturbed
from kill import Round
from system import CONSUMERS, Outcome, System, SystemFailed, is_whole

from tickerml.kernel import BusError, KernelUnreachable, config, control

HOSTS = ("market", "trade", "record")
DISTURBED = 0.7  # of the changes
STEPS = ("starting", "standby", "shadow", "barrier", "takeover", "probation")
LATEST_S = (0.001, 0.01, 0.3)  # after it is seen to be at the step that was drawn is a change disturbed
FOREVER = 10**6  # kills that each target is good for


class Swaps(Round):
    """One run and the changes it went through."""

    def __init__(self, system: System, chance: random.Random, frames: int) -> None:
        super().__init__(system, dict.fromkeys(("kernel", *HOSTS), FOREVER), chance, frames=frames)
        self.ends: Counter[str] = Counter()  # of the changes: how they ended, and at which step
        self.kills: Counter[str] = Counter()  # whom, and at which step
        self.gaps_ms: list[float] = []

    def strike_all(self) -> None:
        """Start, and change hosts while the data lasts."""
        self._system.start()
        self._wait(lambda report: report["state"] == "running", "start")
        while self._is_on():
            time.sleep(self._random.uniform(0.1, 1.0))
            with contextlib.suppress(KernelUnreachable):  # the data may have come to its end
                self._change()

    def _change(self) -> None:
        host, session = self._random.choice(HOSTS), self._system.status()["session"]
        try:
            self._system.client.request(self._request(host))
        except BusError as error:
            self.ends[f"refused: {error}"] += 1
            return
        if self._random.random() < DISTURBED:
            self._await(self._random.choice(STEPS))
            time.sleep(self._random.uniform(0.0, self._random.choice(LATEST_S)))
            self._disturb(host)
        self._wait(lambda report: self._is_over(report, session), f"end of a change of {host}")

    def _await(self, step: str) -> None:
        """Wait until the change is at *step*, or past it."""
        at = STEPS.index(step)
        while (change := self._system.status()["change"]) and not change["outcome"]:
            if change["step"] in STEPS[at:]:
                return
            time.sleep(0.001)

    def _request(self, host: str) -> control.ChangeRequest:
        plan = config.plan(config.load(self._system.config), "chaos")
        shadow_s = self._random.choice([0.0, 0.5]) if host in CONSUMERS else 0.0
        probation_s = self._random.choice([0.0, 0.3, 1.0])
        return control.ChangeRequest(plan, f"renew {host}", shadow_s, probation_s, {}, [host])

    def _disturb(self, host: str) -> None:
        report = self._system.status()
        step = report["change"]["step"] if report["change"] else "ended"
        what = self._random.choice(["kernel", "present", "candidate", "other", "cancel", "settle"])
        if what in ("cancel", "settle"):
            request = control.CancelRequest("chance") if what == "cancel" else control.SettleRequest()
            with contextlib.suppress(BusError):
                self._system.client.request(request)
            return
        if what == "candidate":
            self._kill_candidate(report)
        else:
            other = self.choose() if what == "other" else {"kernel": "kernel", "present": host}[what]
            if not other or (other != "kernel" and not self.may_die(other)):
                return
            self._kill(other, report)
        self.kills[f"{what} at {step}"] += 1

    def _kill_candidate(self, report: dict[str, Any]) -> None:
        """Kill whoever is not the one that its host is."""
        known = {row["pid"] for row in report["hosts"]}
        kernel = report["pid"]
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{kernel}/task/{kernel}/children").read_text().split()
            for pid in {int(child) for child in children} - known:
                self._system.signal(pid, SIGKILL)

    def _is_over(self, report: dict[str, Any], session: int) -> bool:
        """Whether the change has ended, or died with its kernel, and all are well; counts how it ended."""
        if report["state"] == "stopping":
            return True
        change = report["change"] or {"outcome": ""}
        is_lost = report["session"] != session
        # One that was replaced has yet to leave until there are no more processes than hosts.
        if not (is_lost or change["outcome"]) or not is_whole(report) or self._count(report) > len(HOSTS):
            return False
        how = (
            f"{change['outcome']} at {change['failed_at'] or 'the end'}"
            if not is_lost
            else "lost with the kernel"
        )
        self.ends[how] += 1
        if change["outcome"] == "permanent":
            self.gaps_ms.append(change["gap_ms"])
        return True

    def _count(self, report: dict[str, Any]) -> int:
        kernel = report["pid"]
        with contextlib.suppress(OSError):
            return len(Path(f"/proc/{kernel}/task/{kernel}/children").read_text().split())
        return 0


def campaign(budget: Budget, *, rounds: int = 0, duration_s: int = 60) -> dict[str, Any]:
    """
    Change hosts in one run after another, while there is time.

    Args:
        rounds: at most this many runs; 0 for as many as there is time for.
        duration_s: market time of one run.
    """
    choices: dict[str, Any] = {"duration_s": duration_s, "more": ""}
    expected = undisturbed(budget, **choices)
    ends: Counter[str] = Counter()
    kills: Counter[str] = Counter()
    gaps: list[float] = []
    told: list[str] = []
    played = 0
    while (not rounds or played < rounds) and budget.left_s > duration_s * 2:
        played += 1
        system = System(**choices)
        run = Swaps(system, budget.random, expected.frames)
        try:
            found = run.play()
            told += [f"round {played}: {text}" for text in _judge(system, expected, found)]
        except Exception as error:
            told.append(f"round {played}: {type(error).__name__}: {error}")
        finally:
            system.close()
        ends += run.ends
        kills += run.kills
        gaps += run.gaps_ms
        budget.tell(f"round {played}: {sum(ends.values())} changes, {sum(kills.values())} kills, {told[-3:]}")
    return {
        "rounds": played,
        "messages_per_round": expected.frames,
        "changes": dict(sorted(ends.items())),
        "kills": dict(sorted(kills.items())),
        "gap_ms": quantiles(gaps),
        "differences": told,
        "is_passed": not told and ends.total() > 0,
    }


def _judge(system: System, expected: evidence.Evidence, outcome: Outcome) -> list[str]:
    """Return in words what is not as it must be at the end of a run."""
    if outcome.code:
        raise SystemFailed(f"exit code {outcome.code}: {outcome.err[-300:]}")
    found = evidence.read(system.run_dir, outcome.summary, REFERENCE_HOSTS)
    return evidence.differences(expected, found)
