"""
`tickerml plugin check`: how good a plugin is, said by the kit.

The plugin is run in processes of their own, never in this one: one that ends the
interpreter, crashes or never comes back fails one check and hurts nobody.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tickerml.kernel import catalog, limits
from tickerml.kernel.catalog import Found
from tickerml.kernel.errors import ConfigError

from . import tiers
from .contracts_subject import LADDER, Subject
from .tiers import Outcome, Task

LOOK_S = 0.05
_MARKS = {"passed": "✓", "failed": "✗", "exempt": "–"}


def run(
    target: str,
    tier: str = "edge",
    *,
    plugin: str = "",
    options: dict[str, Any] | None = None,
    tape: str = "",
    home: Path | None = None,
    lock: Path | None = None,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """
    Check every plugin of *target* up to *tier*; return the report.

    A check that the manifest exempts, with a reason, is not run and counts as passed. What does not load,
    or cannot be built, is not tried further. A tier of which nothing is asked is not reached.

    Args:
        target: the path of a project folder, a single file or a wheel; or the id of an installed plugin.
        plugin: of several plugins, the one that is meant.
        options: what it is tried with, over its defaults.
        tape: a file with a tape (tape.save) instead of the made-up one.
        home, lock: where installed plugins are looked for, beside this environment.
        only: ids of checks; by default all.
    Returns: {target, tier, ok, plugins: [{id, kind, claimed, reached, ok, problem, checks: [{id, tier, ok,
        status, detail, asks, seconds}]}]}; status is passed, failed or exempt.
    Raises: ConfigError: there is no such target, tier or check.
    """
    if tier not in LADDER:
        raise ConfigError(f"tier: expected one of {', '.join(LADDER)}, was {tier!r}")
    if unknown := [name for name in only if name not in tiers.CHECKS]:
        raise ConfigError(f"there is no check {unknown[0]!r}; there are {', '.join(tiers.CHECKS)}")
    with tempfile.TemporaryDirectory(prefix="tickerml-check-") as directory:
        everything = catalog.find(home, lock).plugins
        rows = [
            _check(found, tier, everything, options or {}, str(Path(tape).resolve()) if tape else "", only)
            for found in _find(target, everything, Path(directory))
            if plugin in ("", found.id)
        ]
    if not rows:
        raise ConfigError(f"{target} has no plugin {plugin!r}" if plugin else f"{target} offers no plugin")
    return {"target": target, "tier": tier, "ok": all(row["ok"] for row in rows), "plugins": rows}


# --- The target ---------------------------------------------------------------------------------------


def _find(target: str, everything: dict[str, Found], directory: Path) -> list[Found]:
    """Return what *target* offers, none of it imported."""
    path = Path(target)
    if path.suffix == ".whl" and path.is_file():
        return catalog.in_folder(_unpack(path, directory))
    if path.suffix == ".py" and path.is_file():
        return catalog.in_file(path.resolve())
    if path.is_dir():
        return catalog.in_project(path.resolve())
    if target in everything:
        return [everything[target]]
    raise ConfigError(
        f"{target} is neither a folder, a file or a wheel, nor the id of an installed plugin; "
        f"installed are {', '.join(sorted(everything)) or 'none'}"
    )


def _unpack(wheel: Path, directory: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory)
    except (zipfile.BadZipFile, OSError) as error:
        raise ConfigError(f"{wheel}: not a wheel: {error}") from None
    return directory


def subject_of(
    found: Found, everything: dict[str, Found], options: dict[str, Any] | None = None, tape: str = ""
) -> Subject:
    """Return what is under test when *found* is, in the company of those that it needs."""
    assert found.manifest is not None
    needed = [everything[name] for name in found.manifest.requires if name in everything]
    if "FeatureVector" in found.manifest.subscribes:
        needed += [each for each in everything.values() if each.is_ours and each.kind == "feature_set"]
    return Subject(
        id=found.id,
        manifest=found.manifest,
        module=found.module,
        paths=[str(Path(path).resolve()) for path in found.paths],
        version=found.version or "0",
        options=options or {},
        tape=tape,
        unknown=found.warnings,
        company=[subject_of(other, {}) for other in needed if other.manifest],
    )


# --- The checks ---------------------------------------------------------------------------------------


def _check(
    found: Found,
    tier: str,
    everything: dict[str, Found],
    options: dict[str, Any],
    tape: str,
    only: Sequence[str],
) -> dict[str, Any]:
    row: dict[str, Any] = {"id": found.id, "kind": found.kind, "claimed": "", "reached": "", "ok": False}
    if found.manifest is None or found.problem:
        return {**row, "problem": found.problem, "checks": []}
    subject = subject_of(found, everything, options, tape)
    checks = [name for name in tiers.possible(subject, tier) if not only or name in only]
    outcomes = list(_outcomes(subject, checks))
    rows = [_row(outcome, subject) for outcome in outcomes]
    failed = {each["tier"] for each in rows if not each["ok"]}
    reached = ""
    for name in LADDER[: LADDER.index(tier) + 1]:
        if name in failed:
            break
        reached = name if name in {each["tier"] for each in rows} else reached
    ok = not failed
    return {
        **row,
        "claimed": found.manifest.tier,
        "reached": reached,
        "ok": ok,
        "problem": "",
        "checks": rows,
    }


def _row(outcome: Outcome, subject: Subject) -> dict[str, Any]:
    check = tiers.CHECKS[outcome.id]
    reason = subject.manifest.exempt.get(outcome.id)
    return {
        "id": outcome.id,
        "tier": check.tier,
        "ok": outcome.ok,
        "status": "exempt" if reason else "passed" if outcome.ok else "failed",
        "detail": outcome.detail,
        "asks": check.sentence,
        "seconds": outcome.seconds,
    }


def _outcomes(subject: Subject, checks: list[str]) -> Iterator[Outcome]:
    """Yield what came of the checks that make sense for *subject*, in their order."""
    exempt = subject.manifest.exempt
    answers = _run_all(subject, [name for name in checks if name not in exempt])
    for name in checks:
        if name in exempt:
            yield Outcome(name, True, exempt[name], 0.0)
        elif name in answers and answers[name].is_asked:
            yield answers[name]


def _run_all(subject: Subject, checks: list[str]) -> dict[str, Outcome]:
    """Run *checks* in a process of their own; where one kills it, the rest in the next."""
    done: dict[str, Outcome] = {}
    while left := [name for name in checks if name not in done and tiers.may_follow(name, done.values())]:
        with tempfile.TemporaryDirectory(prefix="tickerml-check-") as directory:
            done |= {outcome.id: outcome for outcome in _run_some(subject, left, Path(directory))}
    return done


def _run_some(subject: Subject, checks: list[str], directory: Path) -> list[Outcome]:
    """Return what came of the first of *checks* at least."""
    answers, errors = directory / "answers", directory / "errors"
    answers.touch()
    task = msgspec.json.encode(Task(subject, checks, str(answers))).decode()
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tickerml.testing.tiers", task],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=directory,
            env={**os.environ, "TMPDIR": str(directory)},
            start_new_session=True,
        )
        was_late = _watch(process, answers, checks)
    done, under_way = _read(answers)
    began = under_way or next((name for name in checks if name not in {each.id for each in done}), "")
    if began and (under_way or not done):
        words = was_late or _end_of(process.returncode, errors)
        done.append(Outcome(began, False, words, 0.0))
    return done


def _watch(process: "subprocess.Popen[bytes]", answers: Path, checks: list[str]) -> str:
    """Wait for the end of *process*; end it when a check takes too long, and say so."""
    size, since, late = -1, time.monotonic(), ""
    while process.poll() is None:
        if (now_size := answers.stat().st_size) != size:
            size, since = now_size, time.monotonic()
        _, under_way = _read(answers)
        limit = tiers.CHECKS[under_way or checks[0]].limit_s
        if time.monotonic() - since > limit:
            late = f"it did not come to an end within {limit:g} s"
            break
        time.sleep(LOOK_S)
    _kill_all(process)
    return late


def _kill_all(process: "subprocess.Popen[bytes]") -> None:
    if process.returncode is None:
        os.killpg(process.pid, 9)
        process.wait()


def _read(answers: Path) -> tuple[list[Outcome], str]:
    """Return what has ended, and the check that is under way."""
    done, under_way = [], ""
    for line in answers.read_text().splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            break  # it is being written
        under_way = said.get("begin", "")
        if "end" in said:
            done.append(msgspec.convert(said["end"], Outcome))
    return done, under_way


def _end_of(code: int, errors: Path) -> str:
    lines = errors.read_text(errors="replace").strip().splitlines()
    ended = f"was killed by {limits.signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    return f"the process {ended}" + (f": {lines[-1]}" if lines else "")


# --- For people ---------------------------------------------------------------------------------------


def show(report: dict[str, Any]) -> str:
    """Return the report as text for a terminal."""
    return "\n".join(line for row in report["plugins"] for line in _lines(row, report["tier"]))


def _lines(row: dict[str, Any], tier: str) -> Iterator[str]:
    yield f"{row['id']}  {row['kind']}"
    if row["problem"]:
        yield f"  ✗ cannot be checked: {row['problem']}"
        return
    for name in LADDER:
        checks = [each for each in row["checks"] if each["tier"] == name]
        if not checks:
            continue
        yield f"  {name}"
        for each in checks:
            detail = f"  {each['detail']}" if each["detail"] else ""
            yield f"    {_MARKS[each['status']]} {each['id'].partition('.')[2]:<12}{detail}"
            if each["status"] == "failed":
                yield f"      asked was: {each['asks']}"
    reached, claimed = row["reached"] or "no tier", row["claimed"]
    verdict = f"  reaches {reached}" + ("" if row["ok"] else f", asked was {tier}")
    if claimed:
        kept = LADDER.index(claimed) <= LADDER.index(row["reached"]) if row["reached"] else False
        kept = kept or LADDER.index(claimed) > LADDER.index(tier)
        verdict += f"; its manifest claims {claimed}" + ("" if kept else ", which is more")
    yield verdict
