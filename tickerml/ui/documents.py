"""
plugins.toml and plugins.lock as they are edited: comments stay, and both change together or not at all.

An edit is made in memory and written into files beside the two (`stage`), so that it can be looked
at, planned from and sent to a kernel before it counts. It counts when those files take the place of
the old ones (`put`). What is about to be replaced is written down first: where the power fails
between the two, `recover` does the rest.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import tomlkit
from tomlkit.exceptions import TOMLKitError

from tickerml.kernel import ConfigError, lock_file
from tickerml.kernel.lock_file import LockEntry, LockRecord

HISTORY_KEPT = 5  # versions to go back to
_STAGED = ".staged"
_INTENT = "unfinished.json"
_LOCK_HEAD = """\
# Written by `tickerml plugin`: which version of each plugin runs. Keep it beside plugins.toml.
"""

Table = dict[str, Any]


def lock_beside(config: Path) -> Path:
    """Return the plugins.lock that belongs to a plugins.toml."""
    return config.with_name(lock_file.FILE_NAME)


class Documents:
    """One plugins.toml and its plugins.lock, being edited."""

    def __init__(self, config: Path) -> None:
        """
        Raises: ConfigError: one of them cannot be read.
        """
        self.config, self.lock = config, lock_beside(config)
        self.text = self._was = _read(config)
        self._locked_was = lock_file.read(self.lock)
        self._locked = dict(self._locked_was)

    # --- plugins.toml ---------------------------------------------------------------------------

    @property
    def data(self) -> Table:
        """What plugins.toml says now."""
        return _parse(self.text, self.config)

    def names(self, plugin: str) -> bool:
        """Whether there is a [plugin.ID]."""
        return plugin in self.data.get("plugin", {})

    def set_enabled(self, plugin: str, is_enabled: bool) -> None:
        """Write `enabled` of [plugin.ID]; without one the table is added."""
        if not self.names(plugin):
            self.append(f"[plugin.{plugin}]\n")
        with self._edited() as document:
            document["plugin"][plugin]["enabled"] = is_enabled

    def set_options(self, plugin: str, options: Table) -> None:
        """Lay *options* over those of [plugin.ID]; None takes one out, so that its default holds."""
        if not self.names(plugin):
            self.append(f"[plugin.{plugin}]\n")
        with self._edited() as document:
            table = document["plugin"][plugin].setdefault("options", {})
            for name, value in options.items():
                if value is None:
                    table.pop(name, None)
                else:
                    table[name] = value

    def join(self, profile: str, plugin: str) -> None:
        """
        Add a plugin to a profile, at its end; one that is there stays where it is.

        Raises: ConfigError: there is no such profile.
        """
        if plugin in self._members(profile):
            return
        with self._edited() as document:
            document["profile"][profile]["plugins"].append(plugin)

    def leave(self, profile: str, plugin: str) -> None:
        """
        Take a plugin out of a profile.

        Raises: ConfigError: there is no such profile.
        """
        if plugin in self._members(profile):
            with self._edited() as document:
                document["profile"][profile]["plugins"].remove(plugin)

    def _members(self, profile: str) -> list[str]:
        profiles = self.data.get("profile", {})
        if profile not in profiles:
            known = ", ".join(profiles) or "none"
            raise ConfigError(f"{self.config}: there is no profile {profile!r}; it has {known}")
        return list(profiles[profile].get("plugins", []))

    def profiles_of(self, plugin: str) -> list[str]:
        """Return the profiles that name a plugin."""
        profiles = self.data.get("profile", {})
        return [name for name, table in profiles.items() if plugin in table.get("plugins", [])]

    def append(self, block: str) -> None:
        """Write *block*, whole tables, at the end."""
        self.text = f"{self.text.rstrip()}\n\n{block.strip()}\n"
        _parse(self.text, self.config)

    def comment_out(self, plugin: str) -> None:
        """
        Take a plugin out of every profile, and make comments of its tables: its options can be had again.

        Raises: ConfigError: they are written in a way that must be changed by hand.
        """
        for profile in self.profiles_of(plugin):
            self.leave(profile, plugin)
        wanted = _without(self.data, plugin)
        self.text = _comment_tables(self.text, plugin)
        if _filled(self.data) != _filled(wanted):
            raise ConfigError(
                f"{self.config}: cannot find where all of plugin {plugin!r} is written; take it out by hand"
            )

    @contextlib.contextmanager
    def _edited(self) -> Iterator[Any]:
        try:
            document = tomlkit.parse(self.text)
            yield document
        except (TOMLKitError, AttributeError, TypeError) as error:
            raise ConfigError(f"{self.config}: cannot be edited: {error}; change it by hand") from None
        self.text = tomlkit.dumps(document)

    # --- plugins.lock ---------------------------------------------------------------------------

    def locked(self) -> dict[str, LockEntry]:
        """Return what is installed, by plugin id."""
        return dict(self._locked)

    def records(self) -> list[LockRecord]:
        """Return every version of anything that plugins.lock knows."""
        return [record for entry in self._locked.values() for record in (entry, *entry.history)]

    def together(self, plugin: str) -> list[str]:
        """Return the ids of the plugins that come with a plugin, itself among them."""
        mine = self._locked[plugin].distribution
        return [each for each, entry in self._locked.items() if entry.distribution == mine]

    def set_current(self, plugin: str, record: LockRecord) -> None:
        """Make *record* the version that runs; what ran before is the first to go back to."""
        was = self._locked.get(plugin)
        before = [_record(was), *was.history] if was else []
        history = [each for each in before if each.version != record.version][:HISTORY_KEPT]
        self._locked[plugin] = LockEntry(**msgspec.structs.asdict(record), history=history)

    def step_back(self, plugin: str) -> None:
        """Make what ran before the version that runs; the one that it takes the place of is forgotten."""
        first, *rest = self._locked[plugin].history
        self._locked[plugin] = LockEntry(**msgspec.structs.asdict(first), history=rest)

    def forget(self, plugin: str) -> None:
        """Take a plugin out of plugins.lock."""
        self._locked.pop(plugin, None)

    def _lock_text(self) -> str:
        tables = {
            plugin: _filled(msgspec.to_builtins(self._locked[plugin])) for plugin in sorted(self._locked)
        }
        return _LOCK_HEAD + tomlkit.dumps({"format": lock_file.FORMAT, "plugin": tables})

    # --- Files ----------------------------------------------------------------------------------

    def stage(self) -> dict[str, str]:
        """
        Write what has changed into files beside the two; returns which file each is to replace.

        Raises: ConfigError: they cannot be written.
        """
        changed = {self.config: self.text} if self.text != self._was else {}
        if self._locked != self._locked_was:
            changed[self.lock] = self._lock_text()
        files: dict[str, str] = {}
        try:
            for target, text in changed.items():
                files[_write_beside(target, text)] = str(target)
        except OSError as error:
            discard(files)
            raise ConfigError(f"cannot write beside {self.config}: {error.strerror}") from None
        return files


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}; name a configuration with --config") from None


def _parse(text: str, path: Path) -> Table:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def _record(entry: LockEntry) -> LockRecord:
    return LockRecord(**{name: getattr(entry, name) for name in LockRecord.__struct_fields__})


# --- Tables as text ---------------------------------------------------------------------------------


def _comment_tables(text: str, plugin: str) -> str:
    """Make comments of every table that is a plugin's own."""
    name = rf"[\"']?{re.escape(plugin)}[\"']?"
    own = re.compile(rf"\s*\[+\s*(plugin|host|profile\.[^.\]]+\.options)\s*\.\s*{name}\s*[.\]]")
    is_own, lines = False, []
    for line in text.splitlines():
        if re.match(r"\s*\[", line):
            is_own = own.match(line) is not None
        is_said = bool(line.strip()) and not line.lstrip().startswith("#")
        lines.append(f"# {line}" if is_own and is_said else line)
    return "\n".join(lines) + "\n"


def _without(data: Table, plugin: str) -> Table:
    def drop(table: Table) -> Table:
        return {key: value for key, value in table.items() if key != plugin}

    profiles = {
        name: {**table, "options": drop(table.get("options", {}))}
        for name, table in data.get("profile", {}).items()
    }
    tables = {key: drop(data.get(key, {})) for key in ("plugin", "host")}
    return {**data, **tables, "profile": profiles}


def _filled(data: Any) -> Any:
    """Return *data* without what is empty, which means the same as what is not there."""
    if isinstance(data, list):
        return [_filled(value) for value in data]
    if not isinstance(data, dict):
        return data
    return {key: found for key, value in data.items() if (found := _filled(value)) not in ({}, [], "")}


# --- All or nothing ---------------------------------------------------------------------------------


def _write_beside(target: Path, text: str) -> str:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=_STAGED, dir=target.parent)
    with open(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    if target.exists():
        shutil.copymode(target, name)
    else:
        os.chmod(name, 0o644)
    return name


def discard(files: dict[str, str]) -> None:
    """Delete staged files; the ones that they would have replaced stay."""
    for name in files:
        Path(name).unlink(missing_ok=True)


def put(files: dict[str, str], home: Path) -> None:
    """
    Let staged files take the place of those they replace: all of them, whatever happens in between.

    Raises: ConfigError: the disk refuses.
    """
    intent = home / "plugins" / _INTENT
    try:
        intent.parent.mkdir(parents=True, exist_ok=True)
        os.replace(_write_beside(intent, json.dumps(files)), intent)
        _finish(intent)
    except OSError as error:
        raise ConfigError(f"cannot write {', '.join(files.values())}: {error.strerror}") from None


def recover(home: Path, config: Path) -> None:
    """Do what was left of a `put` that did not come to its end, and delete what nobody will put any more."""
    intent = home / "plugins" / _INTENT
    if intent.exists():
        _finish(intent)
    for directory in {config.parent, intent.parent}:
        for left in directory.glob(f".*{_STAGED}"):
            left.unlink(missing_ok=True)


def _finish(intent: Path) -> None:
    for staged, target in json.loads(intent.read_text()).items():
        if os.path.exists(staged):
            os.replace(staged, target)
    intent.unlink()
