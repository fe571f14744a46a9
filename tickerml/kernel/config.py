"""
plugins.toml: which plugins run, in which process, with which options.

    format = 1

    [profile.demo]                      # what `tickerml run --profile demo` starts
    plugins = ["exchange-synthetic", "features-core", ...]
    [profile.demo.kernel]               # KernelSettings
    [profile.demo.options.portfolio]    # options of one plugin in this profile alone

    [plugin.exchange-synthetic]         # PluginEntry
    host = "market"
    [plugin.exchange-synthetic.options]

    [host.market]                       # HostEntry: what this process may take
    max_rss_mb = 300

Whatever is wrong in it is refused with the file, the key, the rule and the value.
An option is checked by its plugin's own type, in the host that loads it.

A plan says what a profile of it means on this machine: what each plugin is and may do is
its manifest's to say, and plugins.toml can only take from that. A plugin that cannot run
is in the plan, blocked, with the reason; the others run without it.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from . import lock_file, resolve
from .catalog import Catalog, find
from .convert import convert as convert
from .convert import read_toml, suggest
from .errors import ConfigError
from .hookspecs import SHAPES
from .plans import HostEntry as HostEntry
from .plans import KernelSettings as KernelSettings
from .plans import Plan as Plan
from .plans import PluginEntry as PluginEntry
from .plans import PluginPlan as PluginPlan
from .requirements import is_range

STRICT_VARIABLE = "TICKERML_STRICT"
_TABLES = ["format", "index", "profile", "plugin", "host"]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A set of plugins that run together: [profile.NAME]."""

    plugins: Annotated[list[str], msgspec.Meta(description="ids of the plugins that run")]
    kernel: KernelSettings = KernelSettings()
    options: Annotated[
        dict[str, dict[str, Any]], msgspec.Meta(description="per plugin, options for this profile alone")
    ] = {}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole plugins.toml."""

    path: Path
    profiles: dict[str, Profile]
    plugins: dict[str, PluginEntry]
    hosts: dict[str, dict[str, Any]] = {}  # as written: what a table leaves out is not said
    index: list[str] = []  # files and URLs that `tickerml plugin search` looks in


def load(path: Path) -> Config:
    """
    Read plugins.toml.

    Raises: ConfigError: unreadable, not TOML, or against the rules above.
    """
    data = read_toml(path, "configuration", "; name one with --config")
    for key in data:
        if key not in _TABLES:
            raise ConfigError(f"{path}: {key}: unknown key{suggest(key, _TABLES)}")
    if data.get("format") != 1:
        raise ConfigError(f"{path}: format: expected 1, was {data.get('format')!r}")
    profiles = {
        name: convert(table, Profile, f"{path}: profile.{name}")
        for name, table in _tables(data, "profile", path)
    }
    plugins = {name: _entry(name, table, path) for name, table in _tables(data, "plugin", path)}
    hosts = dict(_tables(data, "host", path))
    for name, table in hosts.items():
        convert(table, HostEntry, f"{path}: host.{name}")
    index = convert(data.get("index", []), list[str], f"{path}: index")
    known = {name if entry.host == "own" else entry.host for name, entry in plugins.items()}
    if unknown := [name for name in hosts if name not in known]:
        raise ConfigError(
            f"{path}: host.{unknown[0]}: no plugin runs in a host of this name"
            f"{suggest(unknown[0], sorted(known))}"
        )
    for name, profile in profiles.items():
        if twice := [plugin for plugin in profile.plugins if profile.plugins.count(plugin) > 1]:
            raise ConfigError(f"{path}: profile.{name}.plugins: {twice[0]!r} is named more than once")
        for plugin in (*profile.plugins, *profile.options):
            if plugin not in plugins:
                raise ConfigError(
                    f"{path}: profile.{name}: plugin {plugin!r} has no [plugin.{plugin}] table"
                    f"{suggest(plugin, list(plugins))}"
                )
    return Config(path=path, profiles=profiles, plugins=plugins, hosts=hosts, index=index)


def _entry(name: str, table: Any, path: Path) -> PluginEntry:
    where = f"{path}: plugin.{name}"
    if isinstance(table, dict) and "kind" in table:
        raise ConfigError(f"{where}.kind: the plugin's manifest says what it is; take this key out")
    entry = convert(table, PluginEntry, where)
    if not is_range(entry.version):
        raise ConfigError(f"{where}.version: expected a range such as '>=0.3,<0.4', was {entry.version!r}")
    return entry


def _tables(data: dict[str, Any], key: str, path: Path) -> list[tuple[str, Any]]:
    table = data.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {key}: expected a table, was {table!r}")
    return list(table.items())


def catalog_of(config: Config, home: Path) -> Catalog:
    """Return the plugins there are for *home*, with the plugins.lock beside plugins.toml."""
    return find(home, config.path.with_name(lock_file.FILE_NAME))


def plan(
    config: Config,
    profile: str,
    overrides: list[str] | None = None,
    *,
    with_pages: bool = True,
    catalog: Catalog | None = None,
) -> Plan:
    """
    Return what running *profile* means, with *overrides* ("plugin.option=value") applied.

    Args:
        with_pages: false leaves out the plugins that are there for people to look at.
        catalog: the plugins there are; by default those of the environment alone.

    Raises: ConfigError: no such profile, or an override that names nothing; with TICKERML_STRICT=1 in the
        environment also a plugin that is blocked.
    """
    if profile not in config.profiles:
        known = ", ".join(config.profiles) or "none"
        raise ConfigError(
            f"{config.path}: there is no profile {profile!r}{suggest(profile, config.profiles)}; "
            f"it has {known}"
        )
    chosen = config.profiles[profile]
    said = _Overrides(config, profile, overrides or [])
    found = catalog or find()
    plugins = []
    own: dict[str, float] = {}
    brought: dict[str, list[str]] = {}
    left_out: list[str] = []
    for name in chosen.plugins:
        written = {**msgspec.to_builtins(config.plugins[name]), **said.entries[name]}
        entry = convert(written, PluginEntry, f"--set {name}")
        each = found.choose(name, entry.module)
        brought[name] = each.brings
        planned = resolve.resolve(each, entry, said.options[name], profile)
        if not with_pages and planned.kind == "page":
            planned = msgspec.structs.replace(planned, enabled=False)
            left_out.append(f"{name}.enabled=false")  # so that whoever plans anew leaves it out, too
        if entry.host == "own" and each.manifest:
            own[name] = each.manifest.resources.ram_mb
        plugins.append(planned)
    made = Plan(
        config=str(config.path.resolve()),
        profile=profile,
        kernel=convert(
            {**msgspec.to_builtins(chosen.kernel), **said.kernel},
            KernelSettings,
            f"{config.path}: profile.{profile}.kernel",
        ),
        plugins=resolve.block_unmet(resolve.block_mixed(plugins, brought)),
        overrides=[*(overrides or []), *left_out],
    )
    _check(made, config)
    return msgspec.structs.replace(made, limits=_limits(made, config, said.hosts, own))


class _Overrides:
    """What a profile and --set say over the entries of plugins.toml."""

    def __init__(self, config: Config, profile: str, texts: list[str]) -> None:
        chosen = config.profiles[profile]
        self.options = {
            name: {**config.plugins[name].options, **chosen.options.get(name, {})} for name in chosen.plugins
        }
        self.entries: dict[str, dict[str, Any]] = {name: {} for name in chosen.plugins}
        self.kernel: dict[str, Any] = {}
        self.hosts: dict[str, dict[str, Any]] = {}
        for text in texts:
            target, key, value = parse_override(text)
            if target == "kernel":
                self.kernel[key] = str(value) if key == "speed" else value  # a factor or `max`, kept as text
            elif target.startswith("host."):
                self.hosts.setdefault(target.removeprefix("host."), {})[key] = value
            elif target not in self.options:
                raise ConfigError(
                    f"--set {text}: profile {profile!r} has no plugin {target!r}"
                    f"{suggest(target, self.options)}"
                )
            elif key in ("enabled", "host"):
                self.entries[target][key] = value
            else:
                self.options[target][key] = value


def _limits(
    made: Plan, config: Config, overrides: dict[str, dict[str, Any]], own: dict[str, float]
) -> dict[str, HostEntry]:
    """Return what each host may take: what its plugin's manifest, its table and --set say, the last first."""
    known = {plugin.host for plugin in made.plugins}
    if unknown := [name for name in overrides if name not in known]:
        raise ConfigError(
            f"--set host.{unknown[0]}: no plugin of profile {made.profile!r} runs in a host of this name"
            f"{suggest(unknown[0], known)}"
        )
    tables: dict[str, dict[str, Any]] = {
        name: {"max_rss_mb": ram_mb} for name, ram_mb in own.items() if ram_mb
    }
    for layer in (config.hosts, overrides):
        for name, table in layer.items():
            tables[name] = {**tables.get(name, {}), **table}
    return {name: convert(table, HostEntry, f"--set host.{name}") for name, table in tables.items()}


def _check(made: Plan, config: Config) -> None:
    for host, members in made.hosts().items():
        kinds = {member.kind for member in members}
        alone = [kind for kind in kinds if SHAPES[kind] != "consumer"]
        if alone and len(kinds) > 1:
            ids = ", ".join(member.id for member in members)
            raise ConfigError(
                f"{config.path}: host {host!r} of profile {made.profile!r} mixes {alone[0]} plugins with "
                f"others ({ids}); give them hosts of their own"
            )
    blocked = [plugin for plugin in made.plugins if plugin.enabled and plugin.blocked]
    if blocked and os.environ.get(STRICT_VARIABLE) == "1":
        raise ConfigError(
            f"{config.path}: plugin.{blocked[0].id}: {blocked[0].blocked} ({STRICT_VARIABLE} is 1)"
        )


def parse_override(text: str) -> tuple[str, str, Any]:
    """
    Return (plugin, option, value) of "plugin.option=value"; the value is TOML, or else plain text.

    Raises: ConfigError: not of that form.
    """
    match = re.fullmatch(r"((?:host\.)?[a-z][a-z0-9-]*)\.([a-z_][a-z0-9_]*)=(.*)", text, re.DOTALL)
    if not match:
        raise ConfigError(f"--set {text}: expected plugin.option=value")
    target, key, raw = match.groups()
    try:
        return target, key, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return target, key, raw
