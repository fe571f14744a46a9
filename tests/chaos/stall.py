"""
SIGSTOP of each process, for moments, for seconds and for a minute, then SIGCONT.

A process that stands still for less than a host may be silent goes on as if nothing had
been. A host that stands still for longer is found, killed and replaced. When it is the
kernel that stood still, nobody may be killed for its absence. The run must be equal to
one that nobody disturbed.
"""

import time
from signal import SIGCONT, SIGSTOP
from typing import Any, NamedTuple

import evidence
from budget import REFERENCE_HOSTS, Budget, quantiles, undisturbed
from system import System, is_whole, row_of

from tickerml.kernel import KernelUnreachable

TARGETS = ("market", "trade", "record", "kernel")
HANG_S = 3.0  # heartbeats a host may be silent, in seconds
SHORT_S, LONG_S, MINUTE_S = 1.5, 5.0, 60.0


class Stall(NamedTuple):
    """One stop: whom, how long (s), whether it was replaced, and how long until all was well (s)."""

    target: str
    stopped_s: float
    is_replaced: bool
    bystanders: list[str]  # hosts that were replaced though they were well
    recovery_s: float


def stall(system: System, target: str, seconds: float) -> Stall:
    """Stop *target* for *seconds*, or until it has been replaced, and wait until all is well."""
    before = system.wait_until(is_whole, what="a whole system before a stall")
    pids = {row["host"]: row["pid"] for row in before["hosts"]}
    pid = before["pid"] if target == "kernel" else pids[target]
    system.signal(pid, SIGSTOP)
    until = time.monotonic() + seconds
    while time.monotonic() < until and not (target != "kernel" and _is_replaced(system, target, pid)):
        time.sleep(0.05)
    system.signal(pid, SIGCONT)
    began = time.monotonic()
    time.sleep(0.3)  # what would be killed for the stop is killed now
    after = system.wait_until(is_whole, timeout_s=120, what=f"recovery from a stop of {target}")
    changed = [host for host, was in pids.items() if row_of(after, host)["pid"] != was]
    others = [f"{host} ({system.why_stopped(host)[-1]})" for host in changed if host != target]
    return Stall(target, seconds, target in changed, others, time.monotonic() - began)


def _is_replaced(system: System, target: str, pid: int) -> bool:
    try:
        return bool(row_of(system.status(), target)["pid"] not in (0, pid))
    except KernelUnreachable:
        return False


def judge(found: Stall) -> list[str]:
    """Return in words what should not have happened."""
    told = [f"{host} was replaced because {found.target} stood still" for host in found.bystanders]
    is_due = found.target != "kernel" and found.stopped_s > HANG_S
    if found.is_replaced != is_due:
        what = "was not replaced" if is_due else "was replaced"
        told.append(f"{found.target} {what} after it stood still for {found.stopped_s:g} s")
    return told


def plan(budget: Budget, rounds: int) -> list[tuple[str, float]]:
    """Return whom to stop for how long (s): each target for each length, as often as there is time."""
    lengths = [SHORT_S, LONG_S, MINUTE_S]
    once = [(target, length) for length in lengths for target in TARGETS]
    cost_s = sum((min(length, 4.0) if target != "kernel" else length) + 5.0 for target, length in once)
    times = max(1, min(rounds or 10, int((budget.left_s - 60.0) / cost_s / 1.5)))
    return once * times


def campaign(budget: Budget, *, rounds: int = 1, duration_s: int = 150) -> dict[str, Any]:
    """
    Stop each process for each length, in one run after another, while there is time.

    Args:
        rounds: how often each is stopped for each length; 0 for as often as there is time.
        duration_s: market time of one run.
    """
    expected = undisturbed(budget, duration_s=duration_s, more="")
    todo = plan(budget, rounds)
    stalls: list[Stall] = []
    told: list[str] = []
    while todo and budget.left_s > duration_s:
        system = System(duration_s=duration_s, more="")
        try:
            system.start()
            report = system.wait_until(lambda report: report["state"] == "running", what="start")
            # A stop of a minute leaves the market a minute behind; the rest of the run is to have its time.
            while todo and report["seq"] < 0.8 * expected.frames and budget.left_s > 60:
                target, seconds = todo.pop(0)
                time.sleep(budget.random.uniform(0.5, 1.5))
                stalls.append(found := stall(system, target, seconds))
                told += judge(found)
                budget.tell(f"{found}")
                report = system.status()
            outcome = system.finish(timeout_s=duration_s * 3)
            left = evidence.read(system.run_dir, outcome.summary, REFERENCE_HOSTS)
            told += evidence.differences(expected, left)
            if outcome.code:
                told.append(f"exit code {outcome.code}: {outcome.err[-300:]}")
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
        finally:
            system.close()
        budget.tell(f"{len(stalls)} stops, {len(told)} complaints")
    return {
        "stops": [found._asdict() for found in stalls],
        "left_out": [f"{target} for {length:g} s" for target, length in todo],
        "recovery_s": quantiles([found.recovery_s for found in stalls]),
        "differences": told,
        "is_passed": not told and bool(stalls),
    }
