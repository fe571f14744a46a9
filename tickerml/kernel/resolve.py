"""
Resolving: whether a plugin of the plan can run, and what it may do. Pure.

What it may publish is what its kind may, its manifest names and plugins.toml leaves it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from .catalog import Found
from .hookspecs import HOOKS
from .manifest import COMMAND
from .plans import PluginEntry, PluginPlan
from .requirements import normalized, satisfies

_MAY_PUBLISH = {spec.KIND: [cls.__name__ for cls in spec.MAY_PUBLISH] for spec in HOOKS.values()}
_PLACES = ("pi", "pc")  # the profiles that a manifest may name


def resolve(found: Found, entry: PluginEntry, options: dict[str, Any], profile: str) -> PluginPlan:
    """Return the plan of one plugin, blocked where it cannot run."""
    planned = PluginPlan(
        id=found.id,
        kind=found.kind,
        host=found.id if entry.host == "own" else entry.host,
        enabled=entry.enabled,
        module=found.module,
        paths=found.paths,
        version=found.version,
        options=options,
        blocked=found.problem,
        warnings=found.warnings,
    )
    said = found.manifest
    if said is None:
        return planned
    kind = _MAY_PUBLISH.get(said.kind, [])
    wanted = said.publishes if entry.publishes is None else entry.publishes
    warnings = list(found.warnings)
    if profile in _PLACES and profile not in said.profiles:
        warnings.append(f"it is not made for the profile {profile!r}, only for {', '.join(said.profiles)}")
    return msgspec.structs.replace(
        planned,
        state_version=said.state_version,
        declares=said.publishes,
        publishes=[name for name in said.publishes if name in kind and name in wanted],
        subscribes=entry.subscribes,
        secrets=entry.secrets,
        reload=said.reload,
        requires=said.requires,
        blocked=found.problem or _obstacle(found, entry),
        warnings=warnings,
    )


def _obstacle(found: Found, entry: PluginEntry) -> str:
    """Return why a plugin that is well in itself cannot run as plugins.toml has it; "" when it can."""
    said = found.manifest
    assert said is not None
    if said.kind == COMMAND:
        return "a command runs in no host; take it out of the profile"
    if not satisfies(found.version, entry.version):
        return f"plugins.toml wants version {entry.version}, installed is {found.version}"
    for key, asked, declared in (
        ("publishes", entry.publishes, said.publishes),
        ("subscribes", entry.subscribes, said.subscribes),
        ("secrets", entry.secrets, said.secrets),
    ):
        if extra := [name for name in asked or () if name not in declared]:
            return (
                f"plugins.toml: {key}: expected some of what its manifest names "
                f"({', '.join(declared) or 'nothing'}), was {extra[0]!r}"
            )
    if extra := [name for name in said.publishes if name not in _MAY_PUBLISH[said.kind]]:
        return f"its manifest: a {said.kind} may not publish {', '.join(extra)}"
    return ""


def block_mixed(plugins: Iterable[PluginPlan], brought: Mapping[str, Sequence[str]]) -> list[PluginPlan]:
    """
    Return *plugins* with those blocked that bring another version of something than one before in their host.

    Args:
        brought: for each plugin, what it brings, as "name==version"; a process can import one version only.
    """
    first: dict[tuple[str, str], tuple[str, str]] = {}  # (host, name) -> (version, plugin)
    made = []
    for plugin in plugins:
        reason = ""
        for each in brought.get(plugin.id, ()) if plugin.will_run else ():
            name, _, version = each.partition("==")
            was, other = first.setdefault((plugin.host, normalized(name)), (version, plugin.id))
            if was != version:
                reason = f"brings {each}, and {other} in the same host {was}; give it a host of its own"
        made.append(msgspec.structs.replace(plugin, blocked=reason) if reason else plugin)
    return made


def block_unmet(plugins: Iterable[PluginPlan]) -> list[PluginPlan]:
    """Return *plugins* with those blocked that require one which does not run, or each other in a circle."""
    found = {plugin.id: plugin for plugin in plugins}
    for plugin in list(found.values()):
        if plugin.will_run and (circle := _circle(plugin.id, found)):
            reason = f"requires itself in a circle: {' -> '.join(circle)}"
            found[plugin.id] = msgspec.structs.replace(plugin, blocked=reason)
    while unmet := {
        id: why for id, plugin in found.items() if plugin.will_run and (why := _unmet(plugin, found))
    }:
        for id, why in unmet.items():
            found[id] = msgspec.structs.replace(found[id], blocked=why)
    return list(found.values())


def _unmet(plugin: PluginPlan, found: dict[str, PluginPlan]) -> str:
    for needed in plugin.requires:
        other = found.get(needed)
        if other is None:
            return f"needs {needed}, which the profile does not name"
        if not other.will_run:
            return f"needs {needed}, which is {'blocked' if other.enabled else 'disabled'}"
    return ""


def _circle(plugin: str, found: dict[str, PluginPlan], path: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the way by which *plugin* requires the first of *path*, if there is one."""
    if path and plugin == path[0]:
        return (*path, plugin)
    if plugin in path or plugin not in found:
        return ()
    ways = (_circle(needed, found, (*path, plugin)) for needed in found[plugin].requires)
    return next((way for way in ways if way), ())
