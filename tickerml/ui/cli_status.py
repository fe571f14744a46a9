"""What `tickerml status` says: the kernel's report in words, and as an exit code."""

import time
from typing import Any

from tickerml.kernel import NS_PER_S
from tickerml.kernel.guard import Report as GuardReport

#: By state; 3 is a kernel that does not answer.
EXIT_CODES = {"running": 0, "starting": 0, "degraded": 4, "stopping": 4, "halted": 5}
DEAD = "dead"
#: What each level of the kill switch does.
LEVEL_NAMES = ("run", "no new orders", "cancel", "flatten")
HOST_COLUMNS = ["host", "state", "pid", "restarts", "lag", "lag_s", "canary_ms", "rss_mb", "reason"]


def duration(seconds: float) -> str:
    """Return *seconds* in the two largest units there are: "42 s", "3 min 5 s", "2 d 4 h"."""
    whole = max(0, int(seconds))
    units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)]
    at = next((n for n, (_, size) in enumerate(units) if whole >= size), len(units) - 1)
    parts: list[str] = []
    for name, size in units[at : at + 2]:
        count, whole = divmod(whole, size)
        parts += [f"{count} {name}"] if count or not parts else []
    return " ".join(parts)


def since(then_ns: int, now_ns: int) -> str:
    """Return *then_ns*, ns UTC, as a time of day and as how long ago it is."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(then_ns // NS_PER_S))
    return f"since {moment} UTC ({duration((now_ns - then_ns) / NS_PER_S)})"


def headline(report: dict[str, Any], guard: GuardReport | None, now_ns: int) -> list[str]:
    """Return the lines above the tables: the state, what is wrong since when, who watches over it."""
    lines = [
        f"{report['state']} {since(report['since_ns'], now_ns)}  profile {report['profile']}  "
        f"session {report['session']}  up {duration(report['uptime_s'])}  "
        f"{report['seq']:,} messages, {report['messages_per_s']:,.0f}/s"
    ]
    if report["halted_by"]:
        lines.append(f"halted{at_level(report['halt_level'])} by {report['halted_by']}")
    lines += [
        f"degraded by {row['part']}: {row['reason']}, {since(row['since_ns'], now_ns)}"
        for row in report["degraded"]
    ]
    if (change := report.get("change")) and not change["outcome"]:
        lines.append(f"change {change['number']} ({change['reason']}): {change['step']} of {change['host']}")
    return lines + ([guarded(guard)] if guard else [])


def at_level(level: int) -> str:
    """Return how far a halt goes, in words: " at level 3 (flatten)"; "" where the gate has not halted."""
    return f" at level {level} ({LEVEL_NAMES[level]})" if level else ""


def guarded(guard: GuardReport) -> str:
    """Return what there is to say of the guard of a home."""
    if guard.gave_up:
        return f"the guard gave up after {guard.restarts} restarts: {guard.reason}"
    last = f", the last time because: {guard.reason}" if guard.reason else ""
    return f"guard (pid {guard.pid}): started it again {guard.restarts} times{last}"


def host_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each host, with how long its canary took there and back."""
    return [
        {**row, "lag_s": f"{row['lag_s']:.1f}", "canary_ms": report["canary"].get(row["host"], "-")}
        for row in report["hosts"]
    ]
