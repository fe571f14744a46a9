"""
Doctor: look at everything a run leans on, and name what is wrong.

Each plugin is imported in a throwaway process, so a broken one is found and hurts nobody.
"""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import config, runs
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
    for name, entry in found.plugins.items():
        if entry.enabled:
            yield _plugin(name, entry.module)
    yield _kernel(home)
    for directory in sorted(home.glob("runs/*/[0-9]*")):
        yield _journal(directory)


def _disk(home: Path) -> tuple[str, bool, str]:
    parent = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(parent).free
    return "disk", free >= FREE_BYTES_WANTED, f"{free / 2**30:.1f} GiB free at {parent}"


def _plugin(name: str, module: str) -> tuple[str, bool, str]:
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "tickerml.kernel.describe", name, module],
            capture_output=True,
            text=True,
            timeout=LOAD_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return f"plugin {name}", False, f"has not loaded within {LOAD_LIMIT_S} s"
    said = answer.stderr.strip().splitlines() or [f"ends its process with code {answer.returncode}"]
    detail = "loads" if answer.returncode == 0 else said[-1]
    return f"plugin {name}", answer.returncode == 0, detail


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
