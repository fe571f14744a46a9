"""
Doctor: look at everything a run leans on, and name what is wrong.

Each plugin is imported in a throwaway process, so a broken one is found and hurts nobody.
"""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import children, config, runs
from .catalog import Found
from .client import read_beacon
from .errors import ConfigError, KernelUnreachable, StoreError
from .verify import verify

FREE_BYTES_WANTED = 2**30
LOAD_LIMIT_S = 60


def examine(home: Path, config_path: Path | None) -> dict[str, Any]:
    """Return {"ok", "checks": [{"check", "ok", "detail"}]}."""
    checks = [
        {"check": name, "ok": is_ok, "detail": detail} for name, is_ok, detail in _checks(home, config_path)
    ]
    return {"ok": all(check["ok"] for check in checks), "checks": checks}


def _checks(home: Path, config_path: Path | None) -> Iterator[tuple[str, bool, str]]:
    yield "python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.machine()}"
    yield _disk(home)
    path = config_path or next(
        (p for p in (Path("plugins.toml"), home / "plugins.toml") if p.exists()), Path("plugins.toml")
    )
    try:
        found = config.load(path)
        yield "configuration", True, f"{path}: {len(found.profiles)} profiles, {len(found.plugins)} plugins"
    except ConfigError as error:
        yield "configuration", False, str(error)
        return
    there = config.catalog_of(found, home)
    for problem in there.problems:
        yield "packages", False, problem
    for name, entry in found.plugins.items():
        if entry.enabled:
            yield f"plugin {name}", *try_out(there.choose(name, entry.module))
    yield _kernel(home)
    for directory in sorted(home.glob("runs/*/[0-9]*")):
        yield _journal(directory)


def _disk(home: Path) -> tuple[str, bool, str]:
    parent = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(parent).free
    return "disk", free >= FREE_BYTES_WANTED, f"{free / 2**30:.1f} GiB free at {parent}"


def try_out(found: Found, *, limit_s: float = LOAD_LIMIT_S) -> tuple[bool, str]:
    """Return whether a plugin loads and is what its manifest says, and what is to say of it."""
    if found.problem or found.manifest is None:
        return False, found.problem
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "tickerml.kernel.describe", found.id, found.module, *found.paths],
            capture_output=True,
            text=True,
            timeout=limit_s,
            env=children.environment(""),
        )
    except subprocess.TimeoutExpired:
        return False, f"has not loaded within {limit_s:g} s"
    if answer.returncode:
        said = answer.stderr.strip().splitlines() or [f"ends its process with code {answer.returncode}"]
        return False, said[-1]
    try:
        told = json.loads(answer.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return False, "ends its process before it has said what it is"
    if differing := _differing(found, told):
        return False, f"its manifest and its spec differ in {', '.join(differing)}"
    return True, "loads"


def _differing(found: Found, told: dict[str, Any]) -> list[str]:
    """Return the keys of the manifest that the plugin itself has otherwise."""
    assert found.manifest is not None
    facts = {
        "kind": found.manifest.kind,
        "publishes": sorted(found.manifest.publishes),
        "state_version": found.manifest.state_version,
    }
    said = told | {"publishes": sorted(told.get("publishes", []))}
    return [key for key, value in facts.items() if said.get(key, value) != value]


def _kernel(home: Path) -> tuple[str, bool, str]:
    try:
        beacon = read_beacon(home)
    except KernelUnreachable:
        return "kernel", True, "not running"
    return "kernel", True, f"running (pid {beacon.pid}, profile {beacon.profile})"


def _journal(directory: Path) -> tuple[str, bool, str]:
    name = f"journal {directory.parent.name}/{directory.name}"
    try:
        *_, report = verify(directory / "journal")
        run = runs.read(directory) if report["ok"] else None
    except StoreError as error:
        return name, False, str(error)
    if not report["ok"]:
        return name, False, "damaged; `tickerml journal verify` says where"
    return name, True, f"{report['messages']:,} messages, {'complete' if run and run.is_complete else 'open'}"
