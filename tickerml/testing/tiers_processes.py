"""What only real processes show: a plugin killed in the middle goes on, and says there what it says here."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tickerml.kernel.hookspecs import SHAPES
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.replay import Verification

from .contracts_host import HOST, RealKernel, pid_of, plan_of
from .contracts_rig import COMPANY, Output, SourceRig, build, same, scratch
from .contracts_subject import Check, Subject, expect
from .tiers_conforms import DRIVEN

KILL_AT_SEQ = 250  # by then every host has taken part
KILL_SOURCE_AT = 40  # a recorded sample may be short
STAYS_S = 1.0  # what a page must last
STOP_AFTER = 60  # messages of a source that has no end, after it came back
_runs: dict[bytes, "_Run"] = {}
_PLAYED = (*COMPANY, "exchange")  # a trainer reads the past of a home, and here there is none


class _Run(NamedTuple):
    """A run in which the plugin's process was killed."""

    failed: dict[str, str]
    outputs: list[Output]
    verdict: dict[str, Any]  # of a replay of its host; {} for a source


def _killed(subject: Subject) -> _Run:
    """Return the one run that every check of this tier looks at."""
    key = msgspec.json.encode(subject)
    if key not in _runs:
        with scratch() as directory:
            _runs[key] = _run(subject, directory)
    return _runs[key]


def _run(subject: Subject, directory: Path) -> _Run:
    plan, is_source = plan_of(subject), SHAPES[subject.kind] == "source"
    at = KILL_SOURCE_AT if is_source else KILL_AT_SEQ
    with RealKernel(directory / "home", plan) as kernel:
        kernel.wait_until(
            lambda report: report["seq"] >= at or bool(_failed(report, subject.id)), "its first messages"
        )
        pid = kernel.kill(HOST)
        back = kernel.wait_until(
            lambda report: pid_of(report, HOST) not in (0, pid), "its host to come back after kill -9"
        )
        if is_source:
            enough = back["seq"] + STOP_AFTER
            kernel.wait_until(
                lambda report: report["seq"] >= enough, "it to go on after kill -9", may_end=True
            )
            kernel.stop()
        report = kernel.finish()
        outputs = kernel.outputs(subject.id)
        verdict = {} if is_source else _verify(kernel.run_dir)
        return _Run(report["failed_plugins"], outputs, verdict)


def _failed(report: dict[str, Any], subject_id: str) -> list[str]:
    return [
        row["reason"] for row in report["plugins"] if row["id"] == subject_id and row["state"] == "failed"
    ]


def _verify(run_dir: Path) -> dict[str, Any]:
    """Return what a replay of its host finds, and the last input that this had taken at its end."""
    journal = JournalReader(run_dir / "journal")
    ended = journal.checkpoint(HOST)
    journal.close()  # one process opens it once at a time
    verification = Verification(run_dir, HOST)
    for _ in verification.run():
        pass
    return {**verification.report(), "ended": ended.position if ended else 0}


def stays(subject: Subject) -> str:
    """A page starts in a process of its own, stays for as long as it is let, and ends when told to."""
    with scratch() as directory, RealKernel(directory / "home", plan_of(subject)) as kernel:
        kernel.wait_until(lambda report: pid_of(report, HOST) > 0, "its host to be ready")
        time.sleep(STAYS_S)
        report = kernel.wait_until(bool, "a report")
        (row,) = [row for row in report["hosts"] if row["host"] == HOST]
        expect(not row["restarts"] and pid_of(report, HOST), f"it ended of itself: {row['reason']}")
        began = time.monotonic()
        kernel.stop()
        kernel.finish()
    return f"ended within {time.monotonic() - began:.1f} s"


def kill(subject: Subject) -> str:
    """Killed with kill -9 in the middle of a run, it goes on: nothing is lost, nothing said twice."""
    run = _killed(subject)
    expect(not run.failed, f"it was set aside: {run.failed}")
    places = [(output.cause, output.n) for output in run.outputs]
    expect(len(set(places)) == len(places), "after kill -9 it said something twice")
    expect(places == sorted(places), "after kill -9 its outputs are out of order")
    lost = run.verdict.get("unpublished_from")
    # What the kernel says behind the end of its host, that has never heard.
    is_whole = lost is None or lost > run.verdict["ended"]
    expect(is_whole, f"after kill -9 {run.verdict.get('unpublished')} outputs are missing, from input {lost}")
    return f"{len(places)} outputs, each once"


def process(subject: Subject) -> str:
    """In a process of its own it says the same bytes as on a bus in one thread over the same inputs."""
    run = _killed(subject)
    if run.verdict:
        expect(run.verdict["verified"], f"own process and in-process differ: {run.verdict['difference']}")
        return f"{run.verdict['outputs']} outputs of {run.verdict['inputs']} inputs"
    last = max(output.cause for output in run.outputs)
    with scratch() as directory:
        rig = build(subject, directory)
        assert isinstance(rig, SourceRig)
        rig.pulls = last
        rig.finish()
    said = [output for output in run.outputs if output.cause < last]  # behind the last comes its summary
    same([output for output in rig.outputs if output.cause < last], said, "in a process of its own")
    return f"{len(said)} outputs"


CHECKS = (
    Check("conforms.stays", stays, ("page",), limit_s=60.0),
    Check("swappable.kill", kill, DRIVEN, _PLAYED, limit_s=180.0),
    Check("deterministic.process", process, DRIVEN, _PLAYED, limit_s=180.0),
)
