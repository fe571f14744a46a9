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
"""

import difflib
import re
import shutil
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec

from .errors import ConfigError

_T = TypeVar("_T")
_TABLES = ["format", "profile", "plugin", "host"]


class KernelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the kernel runs, per profile: [profile.NAME.kernel], or --set kernel.KEY=VALUE."""

    clock: Annotated[
        str,
        msgspec.Meta(pattern="^(wall|data)$", description="`wall`: time is now; `data`: time is the data's"),
    ] = "wall"
    speed: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^(max|(?=.*[1-9])\d+(\.\d+)?)$",
            description="how fast sources with an end of their own play: a factor, or `max`",
        ),
    ] = "1"
    seed: Annotated[int, msgspec.Meta(ge=0, description="of every random number in the run")] = 7
    commit_ms: Annotated[
        int, msgspec.Meta(ge=1, le=60_000, description="longest time between two commits of the journal")
    ] = 5
    map_mb: Annotated[
        int, msgspec.Meta(ge=1, description="largest size of the journal, MiB; it starts small and grows")
    ] = 16_384
    hot_hours: Annotated[
        float,
        msgspec.Meta(gt=0, description="how long the journal keeps market data; the rest it keeps for good"),
    ] = 24.0
    checkpoint_s: Annotated[
        float, msgspec.Meta(gt=0, description="time between two checkpoints of a host")
    ] = 10.0
    heartbeat_s: Annotated[
        float, msgspec.Meta(gt=0, description="a host is dead after three of these in silence")
    ] = 1.0


class PluginEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One plugin: [plugin.ID]."""

    kind: Annotated[
        str,
        msgspec.Meta(
            pattern="^(exchange|feature_set|strategy|risk_rule|simulator|store|page)$",
            description="what it is; checked against what it says itself",
        ),
    ]
    enabled: Annotated[bool, msgspec.Meta(description="whether profiles that name it start it")] = True
    host: Annotated[
        str,
        msgspec.Meta(
            pattern="^[a-z][a-z0-9-]{0,30}$", description="the process it runs in; `own` is one of its own"
        ),
    ] = "own"
    module: Annotated[
        str, msgspec.Meta(description="a module to load instead of the installed entry point of this id")
    ] = ""
    publishes: Annotated[
        list[str] | None,
        msgspec.Meta(description="the message types it may publish; by default all that its spec declares"),
    ] = None
    options: Annotated[dict[str, Any], msgspec.Meta(description="the plugin's own options")] = {}


class HostEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one process may take before it is ended and started again: [host.NAME]."""

    max_rss_mb: Annotated[float, msgspec.Meta(ge=0, description="memory of its own, MiB; 0 is no limit")] = (
        0.0
    )
    max_cpu: Annotated[
        float, msgspec.Meta(ge=0, description="processor time, cores in the mean over 10 s; 0 is no limit")
    ] = 0.0
    max_lag_s: Annotated[
        float,
        msgspec.Meta(
            ge=0, le=600, description="how late it may be, s, without gaining for as long; 0 is no limit"
        ),
    ] = 5.0


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
    hosts: dict[str, HostEntry] = {}


class PluginPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin as it will run: its entry, with the profile's options and --set laid over it."""

    id: str
    kind: str
    host: str
    enabled: bool
    module: str
    publishes: list[str] | None
    options: dict[str, Any]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a run needs to know, decided before anything starts."""

    config: str
    profile: str
    kernel: KernelSettings
    plugins: list[PluginPlan]
    limits: dict[str, HostEntry] = {}

    def ids(self, kind: str) -> list[str]:
        """Return the enabled plugins of *kind*."""
        return [plugin.id for plugin in self.plugins if plugin.enabled and plugin.kind == kind]

    def vital(self) -> list[str]:
        """Return the simulators and the stores that share a host with one: without them nothing may trade."""
        hosts = {plugin.host for plugin in self.plugins if plugin.enabled and plugin.kind == "simulator"}
        return [
            plugin.id
            for plugin in self.plugins
            if plugin.enabled and plugin.host in hosts and plugin.kind in ("simulator", "store")
        ]

    def vital_hosts(self) -> dict[str, list[str]]:
        """Return the hosts that trading must not go on without, and the plugins that make them so."""
        needed = {*self.vital(), *self.ids("risk_rule")}
        found = {
            host: [plugin.id for plugin in plugins if plugin.id in needed]
            for host, plugins in self.hosts().items()
        }
        return {host: plugins for host, plugins in found.items() if plugins}

    def hosts(self) -> dict[str, list[PluginPlan]]:
        """Return the enabled plugins by host, in the order of the profile."""
        found: dict[str, list[PluginPlan]] = {}
        for plugin in self.plugins:
            if plugin.enabled:
                found.setdefault(plugin.host, []).append(plugin)
        return found

    def consumers(self) -> list[str]:
        """Return the hosts that take their inputs from the bus."""
        return [
            name
            for name, members in self.hosts().items()
            if not {plugin.kind for plugin in members} & {"exchange", "page"}
        ]

    def limits_of(self, host: str) -> HostEntry:
        """Return what the process of *host* may take."""
        return self.limits.get(host, HostEntry())

    def needs(self) -> dict[str, set[str]]:
        """
        Return the hosts that each host waits for when all are started.

        Data is let in last: exchanges wait for every host that takes it. Strategies wait for
        the rules, simulators and features in other hosts. Where such hosts have strategies too,
        and would wait for each other, the one whose name comes first does not wait. Nobody waits
        for a page, and a page for nobody.
        """
        kinds = {name: {plugin.kind for plugin in members} for name, members in self.hosts().items()}
        takers = {name for name, found in kinds.items() if not found & {"exchange", "page"}}
        deciding = {name for name in takers if "strategy" in kinds[name]}
        needed = {name for name in takers if kinds[name] & {"risk_rule", "simulator", "feature_set"}}
        found: dict[str, set[str]] = {}
        for name in kinds:
            if "exchange" in kinds[name]:
                found[name] = set(takers)
            elif name in deciding:
                waits_back = deciding if name in needed else set()
                found[name] = {other for other in needed if other not in waits_back or other < name} - {name}
            else:
                found[name] = set()
        return found


def load(path: Path) -> Config:
    """
    Read plugins.toml.

    Raises: ConfigError: unreadable, not TOML, or against the rules above.
    """
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}; name one with --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    for key in data:
        if key not in _TABLES:
            raise ConfigError(f"{path}: {key}: unknown key{_suggest(key, _TABLES)}")
    if data.get("format") != 1:
        raise ConfigError(f"{path}: format: expected 1, was {data.get('format')!r}")
    profiles = {
        name: convert(table, Profile, f"{path}: profile.{name}")
        for name, table in _tables(data, "profile", path)
    }
    plugins = {
        name: convert(table, PluginEntry, f"{path}: plugin.{name}")
        for name, table in _tables(data, "plugin", path)
    }
    hosts = {
        name: convert(table, HostEntry, f"{path}: host.{name}") for name, table in _tables(data, "host", path)
    }
    known = {name if entry.host == "own" else entry.host for name, entry in plugins.items()}
    if unknown := [name for name in hosts if name not in known]:
        raise ConfigError(
            f"{path}: host.{unknown[0]}: no plugin runs in a host of this name"
            f"{_suggest(unknown[0], sorted(known))}"
        )
    for name, profile in profiles.items():
        if twice := [plugin for plugin in profile.plugins if profile.plugins.count(plugin) > 1]:
            raise ConfigError(f"{path}: profile.{name}.plugins: {twice[0]!r} is named more than once")
        for plugin in (*profile.plugins, *profile.options):
            if plugin not in plugins:
                raise ConfigError(
                    f"{path}: profile.{name}: plugin {plugin!r} has no [plugin.{plugin}] table"
                    f"{_suggest(plugin, list(plugins))}"
                )
    return Config(path=path, profiles=profiles, plugins=plugins, hosts=hosts)


def _tables(data: dict[str, Any], key: str, path: Path) -> list[tuple[str, Any]]:
    table = data.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {key}: expected a table, was {table!r}")
    return list(table.items())


def plan(
    config: Config, profile: str, overrides: list[str] | None = None, *, with_pages: bool = True
) -> Plan:
    """
    Return what running *profile* means, with *overrides* ("plugin.option=value") applied.

    Args:
        with_pages: false leaves out the plugins that are there for people to look at.

    Raises: ConfigError: no such profile, or an override that names nothing.
    """
    if profile not in config.profiles:
        known = ", ".join(config.profiles) or "none"
        raise ConfigError(
            f"{config.path}: there is no profile {profile!r}{_suggest(profile, list(config.profiles))}; "
            f"it has {known}"
        )
    chosen = config.profiles[profile]
    options = {
        name: {**config.plugins[name].options, **chosen.options.get(name, {})} for name in chosen.plugins
    }
    entries: dict[str, dict[str, Any]] = {name: {} for name in chosen.plugins}
    kernel: dict[str, Any] = {}
    for text in overrides or ():
        target, key, value = parse_override(text)
        if target == "kernel":
            kernel[key] = str(value) if key == "speed" else value  # a factor or `max`, kept as text
        elif target not in options:
            raise ConfigError(
                f"--set {text}: profile {profile!r} has no plugin {target!r}{_suggest(target, list(options))}"
            )
        elif key in ("enabled", "host"):
            entries[target][key] = value
        else:
            options[target][key] = value
    settings = convert(
        {**msgspec.to_builtins(chosen.kernel), **kernel},
        KernelSettings,
        f"{config.path}: profile.{profile}.kernel",
    )
    plugins = []
    for name in chosen.plugins:
        entry = convert(
            {**msgspec.to_builtins(config.plugins[name]), **entries[name]}, PluginEntry, f"--set {name}"
        )
        plugins.append(
            PluginPlan(
                id=name,
                kind=entry.kind,
                host=name if entry.host == "own" else entry.host,
                enabled=entry.enabled and (with_pages or entry.kind != "page"),
                module=entry.module,
                publishes=entry.publishes,
                options=options[name],
            )
        )
    found = Plan(
        config=str(config.path.resolve()),
        profile=profile,
        kernel=settings,
        plugins=plugins,
        limits=config.hosts,
    )
    for host, members in found.hosts().items():
        alone = {member.kind for member in members} & {"exchange", "page"}
        if alone and len({member.kind for member in members}) > 1:
            ids = ", ".join(member.id for member in members)
            raise ConfigError(
                f"{config.path}: host {host!r} of profile {profile!r} mixes {alone.pop()} plugins with "
                f"others ({ids}); give them hosts of their own"
            )
    return found


def parse_override(text: str) -> tuple[str, str, Any]:
    """
    Return (plugin, option, value) of "plugin.option=value"; the value is TOML, or else plain text.

    Raises: ConfigError: not of that form.
    """
    match = re.fullmatch(r"([a-z][a-z0-9-]*)\.([a-z_][a-z0-9_]*)=(.*)", text, re.DOTALL)
    if not match:
        raise ConfigError(f"--set {text}: expected plugin.option=value")
    target, key, raw = match.groups()
    try:
        return target, key, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return target, key, raw


def convert(data: Any, type_: type[_T], where: str) -> _T:
    """
    Return *data* as *type_*.

    Raises: ConfigError: "<where>.<key>: <rule>, was <value>".
    """
    try:
        return msgspec.convert(data, type_)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}{_explain(str(error), data, type_)}") from None


def _explain(text: str, data: Any, type_: Any) -> str:
    rule, _, location = text.partition(" - at ")
    path = re.findall(r"[a-z_]\w*|\[\d+\]|\[\.\.\.\]", location.strip("`$"))
    value: Any = data
    for step in path:
        try:
            value = value[int(step[1:-1])] if step.startswith("[") else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return f": {text}"
    dotted = "".join(step if step.startswith("[") else f".{step}" for step in path)
    if unknown := re.fullmatch(r"Object contains unknown field `(.+)`", rule):
        for step in path:
            type_ = get_type_hints(type_).get(step) if hasattr(type_, "__struct_fields__") else None
        fields = list(getattr(type_, "__struct_fields__", ()))
        return f"{dotted}.{unknown[1]}: unknown key{_suggest(unknown[1], fields)}"
    return f"{dotted}: {rule[0].lower()}{rule[1:]}, was {value!r}"


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def set_enabled(path: Path, plugin: str, is_enabled: bool) -> None:
    """
    Write `enabled` of [plugin.ID] into plugins.toml, keeping its comments; all or nothing.

    Raises: ConfigError: the file does not name the plugin, or cannot be written.
    """
    import tomlkit  # only this needs it, and a running kernel should not carry it

    if plugin not in (known := load(path).plugins):
        raise ConfigError(f"{path}: there is no plugin {plugin!r}{_suggest(plugin, list(known))}")
    document = tomlkit.parse(path.read_text())
    document["plugin"][plugin]["enabled"] = is_enabled
    temporary = path.with_suffix(".toml.new")
    try:
        temporary.write_text(tomlkit.dumps(document))
        shutil.copymode(path, temporary)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write the configuration {path}: {error.strerror}") from None
