"""
The plan: everything a run needs to know, decided before anything starts.

It is made from plugins.toml and the manifests of what is installed (config.plan), is kept
in the run's journal, and is what the kernel goes by. A change of the running system is a
new plan.
"""

from typing import Annotated, Any

import msgspec

from .hookspecs import SHAPES


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
    version: Annotated[
        str, msgspec.Meta(description="the versions that may run: `>=0.3,<0.4`; by default any")
    ] = ""
    publishes: Annotated[
        list[str] | None,
        msgspec.Meta(description="the message types it may publish; by default all that its manifest names"),
    ] = None
    subscribes: Annotated[
        list[str] | None,
        msgspec.Meta(description="the message types it is given; by default all that it handles"),
    ] = None
    secrets: Annotated[
        list[str], msgspec.Meta(description="the secrets of its manifest that it is given")
    ] = []
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


class PluginPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin as it will run: its manifest, its entry, the profile's options and --set laid over it."""

    id: str
    kind: str  # "" when its manifest cannot be read
    host: str
    enabled: bool = True
    module: str = ""  # a dotted name or the path of a single file; "" is the installed entry point of this id
    paths: list[str] = []  # what its host puts in front of sys.path
    version: str = ""
    state_version: int = 0  # 0 when nothing says it
    declares: list[str] | None = None  # the message types its manifest names; None when nothing says it
    publishes: list[str] | None = None  # those it may really publish; None is all that its kind may
    subscribes: list[str] | None = None  # the only ones it is given; None is all that it handles
    secrets: list[str] = []
    options: dict[str, Any] = {}
    reload: str = "process"
    requires: list[str] = []
    blocked: str = ""  # why it does not run although it is enabled
    warnings: list[str] = []

    @property
    def will_run(self) -> bool:
        """Whether it is enabled, and nothing stands in its way."""
        return self.enabled and not self.blocked


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a run needs to know, decided before anything starts."""

    config: str
    profile: str
    kernel: KernelSettings
    plugins: list[PluginPlan]
    limits: dict[str, HostEntry] = {}
    overrides: list[str] = []  # what --set said

    def ids(self, kind: str) -> list[str]:
        """Return the plugins of *kind* that will run."""
        return [plugin.id for plugin in self.plugins if plugin.will_run and plugin.kind == kind]

    def vital(self) -> list[str]:
        """Return the simulators and the stores that share a host with one: without them nothing may trade."""
        hosts = {plugin.host for plugin in self.plugins if plugin.will_run and plugin.kind == "simulator"}
        return [
            plugin.id
            for plugin in self.plugins
            if plugin.will_run and plugin.host in hosts and plugin.kind in ("simulator", "store")
        ]

    def missing_vital(self) -> list[str]:
        """
        Return the blocked plugins without which nothing may trade.

        A blocked one whose kind is not known may be a risk rule, and counts as one.
        """
        hosts = {plugin.host for plugin in self.plugins if plugin.enabled and plugin.kind == "simulator"}
        return [
            plugin.id
            for plugin in self.plugins
            if plugin.enabled
            and plugin.blocked
            and (
                plugin.kind in ("", "risk_rule", "simulator")
                or (plugin.kind == "store" and plugin.host in hosts)
            )
        ]

    def secrets_of(self, host: str) -> list[str]:
        """Return the names of the secrets that the process of *host* is given."""
        return sorted({secret for plugin in self.hosts().get(host, []) for secret in plugin.secrets})

    def vital_hosts(self) -> dict[str, list[str]]:
        """Return the hosts that trading must not go on without, and the plugins that make them so."""
        needed = {*self.vital(), *self.ids("risk_rule")}
        found = {
            host: [plugin.id for plugin in plugins if plugin.id in needed]
            for host, plugins in self.hosts().items()
        }
        return {host: plugins for host, plugins in found.items() if plugins}

    def hosts(self) -> dict[str, list[PluginPlan]]:
        """Return the plugins that will run by host, in the order of the profile."""
        found: dict[str, list[PluginPlan]] = {}
        for plugin in self.plugins:
            if plugin.will_run:
                found.setdefault(plugin.host, []).append(plugin)
        return found

    def consumers(self) -> list[str]:
        """Return the hosts that take their inputs from the bus."""
        return [
            name
            for name, members in self.hosts().items()
            if {SHAPES[plugin.kind] for plugin in members} == {"consumer"}
        ]

    def limits_of(self, host: str) -> HostEntry:
        """Return what the process of *host* may take."""
        return self.limits.get(host, HostEntry())

    def needs(self) -> dict[str, set[str]]:
        """
        Return the hosts that each host waits for when all are started.

        Data is let in last: sources wait for every host that takes it. Strategies wait for
        the rules, simulators and features in other hosts. Where such hosts have strategies too,
        and would wait for each other, the one whose name comes first does not wait. Who requires
        a plugin waits for its host, unless that waits back. Nobody waits for a page, and a page
        for nobody.
        """
        kinds = {name: {plugin.kind for plugin in members} for name, members in self.hosts().items()}
        takers = set(self.consumers())
        deciding = {name for name in takers if "strategy" in kinds[name]}
        needed = {name for name in takers if kinds[name] & {"risk_rule", "simulator", "feature_set"}}
        found: dict[str, set[str]] = {}
        for name in kinds:
            if "source" in {SHAPES[kind] for kind in kinds[name]}:
                found[name] = set(takers)
            elif name in deciding:
                waits_back = deciding if name in needed else set()
                found[name] = {other for other in needed if other not in waits_back or other < name} - {name}
            else:
                found[name] = set()
        for name, other in self._required(takers):
            if not _waits(found, other, name):
                found[name].add(other)
        return found

    def _required(self, takers: set[str]) -> list[tuple[str, str]]:
        """Return (host, other) for each plugin in *takers* that requires one in another of them."""
        hosts = {plugin.id: plugin.host for plugin in self.plugins if plugin.will_run}
        pairs = [
            (plugin.host, hosts[other])
            for plugin in self.plugins
            if plugin.will_run
            for other in plugin.requires
            if other in hosts
        ]
        return [pair for pair in pairs if {*pair} <= takers]


def _waits(needs: dict[str, set[str]], host: str, other: str) -> bool:
    """Return whether *host* waits for *other*, be it through further hosts."""
    return host == other or any(_waits(needs, each, other) for each in needs[host])
