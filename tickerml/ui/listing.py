"""
Every plugin with its state and its cost, as texts, by the process it runs in.

A process is what costs something, and what is swapped: so plugins that share one stand
together below it, and what is beside a plugin is its own.
"""

from typing import Any

from .costs import Costs
from .inventory import Row

APART = "not running"
_TONES = {"active": "good", "failed": "bad", "quarantined": "bad", "discovered": "off", "stopped": "off"}


def tone(state: str, reason: str) -> str:
    """Return how a state looks: good, bad, off, or busy for what is on its way."""
    if state == "blocked":
        return "off" if reason == "disabled" else "bad"
    return _TONES.get(state, "busy")


def groups(
    rows: list[Row], summaries: dict[str, str], report: dict[str, Any], costs: Costs
) -> list[dict[str, Any]]:
    """
    Return the processes with their plugins, and last the plugins that run in none.

    Args:
        rows: of inventory.rows().
        summaries: one line for each plugin.
    """
    live = {row["id"]: row for row in report.get("plugins", [])}
    hosts = {row["host"]: row for row in report.get("hosts", [])}
    members: dict[str, list[Row]] = {host: [] for host in (*hosts, APART)}
    for row in rows:
        host = hosts.get(row["host"]) if row["id"] in live else None
        shown = _row(row, live.get(row["id"]), host, summaries.get(row["id"], ""), costs)
        members[host["host"] if host else APART].append(shown)
    found = [
        {**_host(host, costs), "rows": members[host["host"]]}
        for host in hosts.values()
        if members[host["host"]]
    ]
    apart = dict.fromkeys(("detail", "state", "reason", "cpu", "memory", "messages", "lag"), "")
    apart |= {"name": APART}
    return [*found, *([{**apart, "rows": members[APART]}] if members[APART] else [])]


def _host(host: Row, costs: Costs) -> dict[str, Any]:
    count = host["restarts"]
    restarts = f" · {count} restart{'s' if count > 1 else ''}" if count else ""
    return {
        "name": host["host"],
        "detail": f"pid {host['pid']}{restarts}" if host["pid"] else "",
        "state": "" if host["state"] == "ready" else host["state"],
        "reason": host["reason"] if host["state"] != "ready" else "",
        **cells(host, costs),
    }


def cells(host: Row, costs: Costs) -> dict[str, str]:
    """Return what a process costs, as texts."""
    taken = costs.taken.get(host["host"])
    return {
        "cpu": percent(costs.cpu.get(host["host"])),
        "memory": f"{host['rss_mb']:,.0f} MB",
        "messages": "" if taken is None else f"{taken:,.0f} in",
        "lag": f"{host['lag_s']:.1f} s",
    }


def _row(row: Row, live: Row | None, host: Row | None, summary: str, costs: Costs) -> dict[str, Any]:
    speaks = live and live["publishes"] and live["state"] == "active"
    published = costs.published.get(row["id"]) if speaks else None
    is_off = row["state"] == "blocked" and row["reason"] == "disabled"
    is_told = is_off or (host and host["reason"] and row["reason"].startswith(host["reason"]))
    return {
        "id": row["id"],
        "summary": summary,
        "state": "disabled" if is_off else row["state"],
        "reason": "" if is_told else row["reason"],
        "tone": tone(row["state"], row["reason"]),
        "kind": row["kind"].replace("_", " "),
        "version": row["version"],
        "messages": "" if published is None else f"{published:,.0f} out",
        "is_on": bool(live["enabled"]) if live else row["kind"] == "command" and row["enabled"],
    }


def percent(cores: float | None) -> str:
    """Return processor time as text: 100 % is one core."""
    return "" if cores is None else f"{cores:.1%}".replace("%", " %")
