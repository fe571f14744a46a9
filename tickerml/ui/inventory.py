"""
What there is to say of plugins, without importing one: rows of a list, what a search finds, logs, live cost.

Where a kernel runs, its word on a plugin's state counts; elsewhere the manifests and plugins.toml
say what it would be. To know more than a manifest says, a plugin is loaded in a process of its own.
"""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tickerml.kernel import ConfigError
from tickerml.kernel.catalog import Catalog, Found
from tickerml.kernel.config import Config, PluginEntry
from tickerml.kernel.convert import convert
from tickerml.kernel.lifecycle import Lifecycle, state_of
from tickerml.kernel.lock_file import LockEntry
from tickerml.kernel.resolve import resolve

from .costs import Costs

LOAD_LIMIT_S = 60.0
INDEX_LIMIT_S = 10.0
_SHOWN_BY_ITSELF = ("timestamp", "level", "event", "plugin")

Row = dict[str, Any]


# --- List and info ----------------------------------------------------------------------------------


def rows(config: Config, there: Catalog, locked: dict[str, LockEntry], report: Row | None) -> list[Row]:
    """
    Return a row for each plugin that is installed, locked, or named in plugins.toml; broken ones too.

    Args:
        report: the status of the kernel that runs, None without one.
    """
    live = {row["id"]: row for row in report["plugins"]} if report else {}
    hosts = {row["host"]: row for row in report["hosts"]} if report else {}
    return [
        _row(name, config, there, locked.get(name), live.get(name, {}), hosts)
        for name in sorted({*config.plugins, *there.plugins, *locked})
    ]


def _row(
    name: str, config: Config, there: Catalog, lock: LockEntry | None, live: Row, hosts: dict[str, Row]
) -> Row:
    entry = config.plugins.get(name)
    found = there.choose(name, entry.module if entry else "")
    state, reason = _at_rest(found, entry)
    host = live.get("host") or (_host(name, entry) if entry else "")
    process = hosts.get(host, {}) if live else {}
    return {
        "id": name,
        "kind": " ".join(found.manifest.kinds) if found.manifest else "",
        "version": live.get("version") or found.version,
        "locked": lock.version if lock else "",
        "host": host,
        "enabled": bool(entry and entry.enabled),
        "profiles": [key for key, profile in config.profiles.items() if name in profile.plugins],
        "state": live.get("state", state),
        "lag_s": process.get("lag_s"),
        "restarts": process.get("restarts"),
        "reason": live.get("reason", reason) or "; ".join(found.warnings),
    }


def _host(name: str, entry: PluginEntry) -> str:
    return name if entry.host == "own" else entry.host


def _at_rest(found: Found, entry: PluginEntry | None) -> tuple[str, str]:
    """Return the state of a plugin that no kernel runs, and the reason for it."""
    if entry is not None:
        state, reason = state_of(resolve(found, entry, entry.options, ""), None)
        return state.value, found.problem or reason
    return (Lifecycle.BLOCKED if found.problem else Lifecycle.DISCOVERED).value, found.problem


def info(name: str, config: Config, there: Catalog, locked: dict[str, LockEntry], report: Row | None) -> Row:
    """
    Return everything there is to say of one plugin; it is loaded in a process of its own for its options.

    Raises: ConfigError: there is none of this name.
    """
    if name not in {*config.plugins, *there.plugins, *locked}:
        raise ConfigError(f"there is no plugin {name!r}; see `tickerml plugin list`")
    entry = config.plugins.get(name)
    found = there.choose(name, entry.module if entry else "")
    row = next(each for each in rows(config, there, locked, report) if each["id"] == name)
    is_loading, said = load_apart(found)
    return {
        **row,
        "origin": found.origin,
        "distribution": found.distribution,
        "manifest": msgspec.to_builtins(found.manifest),
        "configured": msgspec.to_builtins(entry),
        "history": [record.version for record in locked[name].history] if name in locked else [],
        "tier": found.manifest.tier if found.manifest else "",
        "files": {"manifest": found.file, "module": found.module, "paths": found.paths},
        "options": said["options"] if is_loading and "options" in said else {},
        "hook": said.get("kind", ""),
        "error": "" if is_loading else said["error"],
    }


def load_apart(found: Found) -> tuple[bool, Row]:
    """Load a plugin in a throwaway process; returns whether it loads, and what it says or why it does not."""
    if found.problem:
        return False, {"error": found.problem}
    if found.manifest and found.manifest.kind == "command":
        return True, {}
    command = [sys.executable, "-m", "tickerml.kernel.describe", found.id, found.module, *found.paths]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_LIMIT_S)
    except subprocess.TimeoutExpired:
        return False, {"error": f"has not loaded within {LOAD_LIMIT_S:g} s"}
    lines = answer.stdout.strip().splitlines()
    if answer.returncode == 0 and lines:
        said: Row = json.loads(lines[-1])  # what a plugin prints while it loads stands before that
        return True, said
    words = answer.stderr.strip().splitlines() or [f"ends its process with code {answer.returncode}"]
    return False, {"error": words[-1]}


# --- Search -----------------------------------------------------------------------------------------


class Listed(msgspec.Struct, frozen=True):
    """One plugin in an index: a JSON list of these."""

    id: str
    spec: Annotated[str, msgspec.Meta(description="what to give to `tickerml plugin install`")]
    kinds: list[str] = []
    summary: str = ""


def search(text: str, config: Config, there: Catalog) -> tuple[list[Row], list[str]]:
    """Return what matches in the manifests that are here and in every index, and what failed."""
    found = [
        {
            "id": each.id,
            "kinds": each.manifest.kinds if each.manifest else [],
            "summary": each.manifest.summary if each.manifest else each.problem,
            "spec": each.distribution or each.module,
            "source": "installed" if each.origin != "folder" else "folder",
        }
        for each in there.plugins.values()
    ]
    problems = []
    for place in config.index:
        try:
            found += [
                {**msgspec.to_builtins(each), "source": place} for each in _read_index(place, config.path)
            ]
        except (OSError, ValueError, ConfigError) as error:
            problems.append(f"{place}: {error}")
    words = text.lower().split()
    return [row for row in found if all(word in _searched(row) for word in words)], problems


def _searched(row: Row) -> str:
    return " ".join([row["id"], *row["kinds"], row["summary"]]).lower()


def _read_index(place: str, config: Path) -> list[Listed]:
    if "://" in place:
        with urllib.request.urlopen(place, timeout=INDEX_LIMIT_S) as answer:
            data = answer.read()
    else:
        data = (config.parent / Path(place).expanduser()).read_bytes()
    return convert(msgspec.json.decode(data), list[Listed], f"index {place}")


# --- Logs -------------------------------------------------------------------------------------------


def log_lines(home: Path, plugin: str, host: str, *, is_alone: bool) -> list[str]:
    """
    Return the lines that a plugin's host wrote about it, oldest first.

    Args:
        is_alone: whether nothing else runs in its host; then every line of it is the plugin's.
    """
    lines: list[str] = []
    for path in (home / "logs" / f"{host}.log.1", home / "logs" / f"{host}.log"):
        if path.exists():
            lines += path.read_text(errors="replace").splitlines()
    return [line for line in lines if _is_about(line, plugin, is_alone)]


class Tail:
    """The end of a log, and what is written to it from then on, also when it is set aside and begun anew."""

    def __init__(self, home: Path, plugin: str, host: str, *, is_alone: bool, back: int = 0) -> None:
        """
        Args:
            back: bytes before its end to begin with.
        """
        self._path = home / "logs" / f"{host}.log"
        self._plugin, self._is_alone = plugin, is_alone
        self._number, size = _file_of(self._path)
        self._at = max(0, size - back)
        self._rest = ""
        self._is_cut = 0 < self._at < size  # what comes first is the end of a line

    def read(self) -> list[str]:
        """Return the lines about the plugin that were completed since the last time."""
        number, size = _file_of(self._path)
        if number != self._number or size < self._at:
            self._number, self._at, self._rest = number, 0, ""
        if size <= self._at:
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *lines, self._rest = (self._rest + data.decode(errors="replace")).split("\n")
        lines, self._is_cut = lines[self._is_cut :], False
        return [line for line in lines if _is_about(line, self._plugin, self._is_alone)]


def follow_log(home: Path, plugin: str, host: str, *, is_alone: bool, look_s: float = 0.2) -> Iterator[str]:
    """Yield the lines of a Tail as they are written, from now on."""
    tail = Tail(home, plugin, host, is_alone=is_alone)
    while True:
        yield from tail.read()
        time.sleep(look_s)


def _file_of(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_size


def _is_about(line: str, plugin: str, is_alone: bool) -> bool:
    facts = _facts(line)
    return is_alone if facts is None else facts.get("plugin", plugin if is_alone else None) == plugin


def _facts(line: str) -> Row | None:
    try:
        facts = json.loads(line)
    except ValueError:  # stderr is open to everything that a plugin may print
        return None
    return facts if isinstance(facts, dict) else None


def log_cells(line: str) -> list[str]:
    """Return a line of a log as time of day, level and text; the first two are "" where it has none."""
    facts = _facts(line)
    if facts is None:
        return ["", "", line]
    level = str(facts.get("level", "")).upper()
    words = [f"{key}={value}" for key, value in facts.items() if key not in (*_SHOWN_BY_ITSELF, "host")]
    text = " ".join([str(facts.get("event", "")), *words])
    return [str(facts.get("timestamp", ""))[11:19], level, text]


def show_line(line: str) -> str:
    """Return a line of a log for a person."""
    facts = _facts(line)
    if facts is None:
        return line
    words = [f"{key}={value}" for key, value in facts.items() if key not in _SHOWN_BY_ITSELF]
    head = [str(facts[key]) for key in ("timestamp", "level", "event") if key in facts]
    return "  ".join([*head, *words])


# --- Live cost --------------------------------------------------------------------------------------


def cost_rows(report: Row, costs: Costs) -> list[Row]:
    """
    Return a row for each host, with the plugins in it.

    What is a second's is None at the first look, messages_per_s also where a host takes no messages.
    """
    members: dict[str, list[Row]] = {}
    for plugin in report["plugins"]:
        members.setdefault(plugin["host"], []).append(plugin)
    return [
        {
            "host": host["host"],
            "plugins": [f"{row['id']} {row['state']}" for row in members.get(host["host"], [])],
            "state": host["state"],
            "pid": host["pid"],
            "cpu": _rounded(costs.cpu.get(host["host"]), 3),
            "rss_mb": host["rss_mb"],
            "messages_per_s": _rounded(costs.taken.get(host["host"]), 1),
            "lag_s": host["lag_s"],
            "restarts": host["restarts"],
        }
        for host in report["hosts"]
    ]


def _rounded(rate: float | None, digits: int) -> float | None:
    return None if rate is None else round(rate, digits)


def host_of(plugin: str, config: Config, report: Row | None) -> tuple[str, bool]:
    """
    Return the host that a plugin runs in, and whether it is alone there.

    Raises: ConfigError: there is no such plugin in plugins.toml.
    """
    if report and (row := next((row for row in report["plugins"] if row["id"] == plugin), None)):
        members = [each for each in report["plugins"] if each["host"] == row["host"]]
        return row["host"], len(members) == 1
    if plugin not in config.plugins:
        raise ConfigError(f"{config.path}: there is no plugin {plugin!r}; see `tickerml plugin list`")
    host = _host(plugin, config.plugins[plugin])
    return host, sum(_host(name, entry) == host for name, entry in config.plugins.items()) == 1
