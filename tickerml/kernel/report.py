"""What a kernel says of itself: to `status`, to the console, and at the end of a run."""

import json
import os
import shutil
import sys
from collections.abc import Collection, Iterable
from typing import Any, TextIO

from .lifecycle import NOTHING_SEEN, Sighting, state_of
from .plans import PluginPlan
from .supervisor import Host, HostPhase
from .units import NS_PER_S

_NOT_SHOWN = ("notice", "plugin", "level", "timestamp")


def host_row(
    host: Host, lag: int, behind_ns: int = 0, memory_mb: float = 0.0, cpu_s: float = 0.0
) -> dict[str, Any]:
    """
    Return what there is to say of one host.

    Args:
        lag: how many messages it is behind.
        behind_ns: how long ago the first that it has not taken was stamped.
        cpu_s: processor time that its process has used.
    """
    return {
        "host": host.name,
        "state": host.phase.value,
        "pid": host.pid,
        "restarts": host.restarts,
        "lag": lag,
        "lag_s": round(behind_ns / NS_PER_S, 3),
        "rss_mb": memory_mb,
        "cpu_s": round(cpu_s, 3),
        "reason": host.reason,
    }


def plugin_row(
    entry: PluginPlan,
    host: Host | None,
    seen: Sighting = NOTHING_SEEN,
    *,
    now: int = 0,
    waits_for: Collection[str] = (),
    published: int = 0,
) -> dict[str, Any]:
    """
    Return what there is to say of one plugin.

    Args:
        published: how many of its messages got their place in this session; the others are those of
            lifecycle.state_of().
    """
    state, reason = state_of(entry, host, seen, now=now, waits_for=waits_for)
    return {
        "id": entry.id,
        "kind": entry.kind,
        "version": entry.version,
        "host": entry.host,
        "pid": host.pid if host and entry.will_run else 0,
        "state": state.value,
        "reason": reason,
        "enabled": entry.enabled,
        "published": published,
        "publishes": entry.publishes or [],
        "secrets": entry.secrets,
        "warnings": entry.warnings,
    }


def list_problems(summary: dict[str, Any], hosts: Iterable[Host], failure: str) -> list[str]:
    """Return what a person should know went wrong in a run, *failure* last; empty when nothing did."""
    problems = [f"plugin {plugin} failed at {why}" for plugin, why in summary["failed_plugins"].items()]
    problems += [
        f"host {host.name} is quarantined: {host.reason}"
        for host in hosts
        if host.phase is HostPhase.QUARANTINED
    ]
    return [*problems, failure] if failure else problems


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process in MB of 2**20 bytes, 0.0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return round(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
    except (OSError, IndexError):
        return 0.0


def show(report: dict[str, Any], out: TextIO, *, as_json: bool) -> None:
    """Print a report: one JSON object, or a line a figure."""
    if as_json:
        print(json.dumps(report), file=out, flush=True)
        return
    for name, value in report.items():
        if value in (None, {}, ""):
            continue
        text = json.dumps(value) if isinstance(value, dict) else f"{value:,}" if type(value) is int else value
        print(f"{name.replace('_', ' '):<20} {text}", file=out)


def show_progress(report: dict[str, Any]) -> None:
    """Rewrite the one line that tells a person at a terminal how the run is doing."""
    figures = report["summary"]
    line = (
        f"{report['state']:<9} {report['seq']:>10,} messages  {report['messages_per_s']:>8,.0f}/s  "
        f"orders {figures['orders']:,}  fills {figures['fills']:,}  equity {figures['equity'] or '-'}"
    )
    width = shutil.get_terminal_size().columns - 1
    print(f"\r{line[:width]}\x1b[K", end="", file=sys.stderr, flush=True)


def show_notice(line: bytes) -> None:
    """Show a person at the terminal one host's log *line* if it asks for that with notice=True."""
    try:
        facts = json.loads(line)
    except ValueError:  # stderr is open to everything a plugin may print
        return
    if not isinstance(facts, dict) or facts.get("notice") is not True:
        return
    event = facts.pop("event", "")
    words = [f"{key}={value}" for key, value in facts.items() if key not in _NOT_SHOWN]
    shown = f"\r\x1b[K{event}  {'  '.join(words)}" if sys.stderr.isatty() else line.decode(errors="replace")
    print(shown, file=sys.stderr)
