"""
plugins.lock: which version of every installed package is current, and which were before it.

    format = 1
    [plugin.strategy-demo]
    distribution = "tickerml-strategy-demo"
    version = "0.2.0"
    spec = "tickerml-strategy-demo"          # what was asked for
    requirements = ["tickerml-strategy-demo==0.2.0"]
    sha256 = "…"                             # of the RECORD of its folder
    manifest_sha256 = "…"                    # of its tickerml-plugin.toml
    [[plugin.strategy-demo.history]]         # those before, the newest first: the same keys
    version = "0.1.0"

A package is not put among those of the kernel but, each version by itself, into
HOME/plugins/site/DISTRIBUTION/VERSION. So two versions are there at once, and to upgrade
or to roll back is to name another here. It is written by `tickerml plugin` alone.
"""

from pathlib import Path
from typing import Any

import msgspec

from .convert import convert, read_toml
from .errors import ConfigError
from .requirements import normalized

FILE_NAME = "plugins.lock"
FORMAT = 1


class LockRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of the package that brings a plugin."""

    distribution: str
    version: str
    spec: str = ""
    requirements: list[str] = []
    sha256: str = ""
    manifest_sha256: str = ""
    path: str = ""  # of a project that is run where it lies (`install -e`); then there is no folder in HOME


class LockEntry(LockRecord, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The current version of a plugin, and those before it, newest first."""

    history: list[LockRecord] = []


class _Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    plugin: dict[str, Any] = {}


def read(path: Path) -> dict[str, LockEntry]:
    """
    Return what is locked, by plugin id; nothing where there is no such file.

    Raises: ConfigError: unreadable, not TOML, or not of this form.
    """
    if not path.exists():
        return {}
    found = convert(read_toml(path, "lock"), _Lock, str(path))
    if found.format != FORMAT:
        raise ConfigError(f"{path}: format: expected {FORMAT}, was {found.format}")
    return {name: convert(table, LockEntry, f"{path}: plugin.{name}") for name, table in found.plugin.items()}


def folder(home: Path, record: LockRecord) -> Path:
    """Return the folder that the version in *record* is installed in."""
    return home / "plugins" / "site" / normalized(record.distribution) / record.version
