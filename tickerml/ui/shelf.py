"""
What stands on the shelf: plugins.toml, plugins.lock and the catalog as the console last read them.

To find every plugin takes a tenth of a second, so it is done only when something has
changed, in whatever thread has the time, and every page shows what was found.
"""

import threading
from pathlib import Path
from typing import Any

from tickerml.kernel import ConfigError, lock_file
from tickerml.kernel.catalog import Catalog, Found
from tickerml.kernel.config import Config, load
from tickerml.kernel.lock_file import LockEntry
from tickerml.kernel.plans import PluginEntry, PluginPlan
from tickerml.kernel.resolve import resolve

from . import changes, documents, inventory

Report = dict[str, Any]


class Shelf:
    """The plugins of one home, running or not."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.problem = ""  # why plugins.toml or plugins.lock cannot be read
        self.config: Config | None = None
        self.locked: dict[str, LockEntry] = {}
        self.there = Catalog({}, [])
        self._seen: tuple[object, ...] = ()
        self._lock = threading.Lock()

    def is_stale(self, report: Report) -> bool:
        """Whether something may have changed since it was last read."""
        return self._seen != self._sight(report)

    def refresh(self, report: Report) -> None:
        """Read it again; what cannot be read stays as it was, and the problem says why."""
        with self._lock:
            if not self.is_stale(report):
                return
            self._seen, path = self._sight(report), Path(report["config"])
            try:
                config, locked = load(path), lock_file.read(documents.lock_beside(path))
            except ConfigError as error:
                self.problem = str(error)
                return
            self.there = changes.catalog_of(self.home, path)
            self.config, self.locked = config, locked
            self.problem = "; ".join(self.there.problems)

    def _sight(self, report: Report) -> tuple[object, ...]:
        config, folder = Path(report["config"]), self.home / "plugins"
        change = report.get("change") or {}
        paths = (config, documents.lock_beside(config), folder, *sorted(folder.glob("*.py")))
        return (*map(_stamp, paths), change.get("number"), change.get("step") == "ended")

    # --- What there is ------------------------------------------------------------------------

    def rows(self, report: Report) -> list[inventory.Row]:
        """Return a row for each plugin, as `tickerml plugin list` has them."""
        if self.config is None:
            return []
        return inventory.rows(self.config, self.there, self.locked, report)

    def entry(self, plugin: str) -> PluginEntry | None:
        """Return what plugins.toml says of a plugin; None where it says nothing."""
        return self.config.plugins.get(plugin) if self.config else None

    def found(self, plugin: str) -> Found:
        """Return what a plugin is; one that is nowhere has a problem that says so."""
        entry = self.entry(plugin)
        return self.there.choose(plugin, entry.module if entry else "")

    def planned(self, plugin: str) -> PluginPlan:
        """Return a plugin as it would run, with what it may do."""
        return resolve(self.found(plugin), self.entry(plugin) or PluginEntry(), {}, "")

    def facts(self, plugin: str) -> tuple[object, ...]:
        """Return everything that is known of a plugin which does not run."""
        return self.found(plugin), self.entry(plugin), self.locked.get(plugin)

    def history(self, plugin: str) -> list[str]:
        """Return the versions to go back to, the newest first."""
        entry = self.locked.get(plugin)
        return [record.version for record in entry.history] if entry else []


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
