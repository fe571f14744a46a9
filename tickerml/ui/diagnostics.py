"""What helps to find a fault in a plugin, in one file that can be sent to its author."""

import platform
import re
import sys
from importlib.metadata import version
from typing import Any

import msgspec

from tickerml.kernel import TickerMLError, control
from tickerml.kernel.hookspecs import API_VERSION

from . import inventory
from .follow import Follower
from .shelf import Shelf

LINES = 500  # of the log
_LOOKS_SECRET = re.compile("secret|token|password|passphrase|credential|api_?key|private_?key", re.IGNORECASE)
_HIDDEN = "(left out)"


def diagnose(plugin: str, follower: Follower, shelf: Shelf) -> dict[str, Any]:
    """
    Return everything that is known of a plugin, ready for JSON; waits for its process to answer.

    An option whose name looks like a secret's is in it without its value.
    """
    with follower.lock:
        report = follower.state.report
    rows = [row for row in report["plugins"] if row["id"] == plugin]
    host = rows[0]["host"] if rows else ""
    found, entry = shelf.found(plugin), shelf.entry(plugin)
    return {
        "plugin": plugin,
        "versions": {
            "tickerml": version("tickerml"),
            "api": API_VERSION,
            "python": sys.version,
            "platform": platform.platform(),
        },
        "status": rows[0] if rows else None,
        "host": next((row for row in report["hosts"] if row["host"] == host), None),
        "kernel": {key: report.get(key) for key in ("state", "profile", "session", "uptime_s", "degraded")},
        "change": report.get("change"),
        "found": without_secrets(msgspec.to_builtins(found)),
        "entry": without_secrets(msgspec.to_builtins(entry)),
        "locked": msgspec.to_builtins(shelf.locked.get(plugin)),
        "told": _told(plugin, follower),
        "log": _last_lines(plugin, host, report, shelf),
    }


def _told(plugin: str, follower: Follower) -> dict[str, Any]:
    """Return what the plugin itself says."""
    try:
        answer = follower.request(control.DiagnosticsRequest(plugin))
    except TickerMLError as error:
        return {"error": str(error)}
    told: dict[str, Any] = without_secrets(answer.facts)
    return told


def _last_lines(plugin: str, host: str, report: dict[str, Any], shelf: Shelf) -> list[str]:
    if not host:
        return []
    is_alone = sum(row["host"] == host for row in report["plugins"]) == 1
    return inventory.log_lines(shelf.home, plugin, host, is_alone=is_alone)[-LINES:]


def without_secrets(data: Any) -> Any:
    """Return *data* without the values of what looks like a secret."""
    if isinstance(data, list):
        return [without_secrets(each) for each in data]
    if not isinstance(data, dict):
        return data
    return {
        key: _HIDDEN if _LOOKS_SECRET.search(str(key)) and isinstance(value, str) else without_secrets(value)
        for key, value in data.items()
    }
