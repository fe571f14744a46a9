"""
Finding plugins and loading them: one door, for ours and for strangers'.

Finding reads the installed distributions' entry points and imports nothing, so it
works with every plugin broken. Loading imports one module, hands it to pluggy and
asks it for its one spec; whatever goes wrong is a PluginError that names it.
"""

import importlib
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec
import pluggy

from .config import PluginPlan, convert
from .errors import ConfigError, PluginContractError, PluginLoadError, PluginNotFound
from .hookspecs import ENTRY_POINTS, HOOKS, PROJECT, Options, PluginSpec, TickerMLSpecs


def installed() -> dict[str, EntryPoint]:
    """Return every installed plugin's entry point by id; imports none of them."""
    return {entry.name: entry for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda e: e.name)}


def load(plugin: str, module: str = "") -> PluginSpec:
    """
    Import *plugin* and return its spec.

    Args:
        module: a dotted module path to load instead of the installed entry point.
    Raises: PluginNotFound, PluginLoadError, PluginContractError.
    """
    found = _load_module(plugin, module)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(TickerMLSpecs)
    try:
        manager.register(found, name=plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginContractError(plugin, str(error)) from error
    specs: list[PluginSpec] = []
    for name, expected in HOOKS.items():
        hook: Callable[[], Iterable[Iterable[PluginSpec]]] = getattr(manager.hook, name)
        try:
            offered = [spec for result in hook() for spec in result]
        except (Exception, SystemExit) as error:
            raise PluginLoadError(plugin, f"{name} raised {type(error).__name__}: {error}") from error
        for spec in offered:
            if not isinstance(spec, expected):
                raise PluginContractError(
                    plugin, f"{name} must return {expected.__name__}, was {type(spec).__name__}"
                )
        specs += offered
    if [spec.id for spec in specs] != [plugin]:
        ids = ", ".join(spec.id for spec in specs) or "none"
        raise PluginContractError(plugin, f"expected exactly one spec with the plugin's own id, was {ids}")
    return specs[0]


def _load_module(plugin: str, module: str) -> Any:
    if not module and plugin not in installed():
        raise PluginNotFound(
            plugin, "no installed package offers this plugin; install it, or take it out of plugins.toml"
        )
    try:
        return importlib.import_module(module) if module else installed()[plugin].load()
    except (Exception, SystemExit) as error:
        raise PluginLoadError(plugin, f"import raised {type(error).__name__}: {error}") from error


def load_planned(planned: PluginPlan, config: str) -> tuple[PluginSpec, Options]:
    """
    Return the spec and the checked options of a plugin in a plan.

    The spec's publishes are cut to what plugins.toml allows.

    Raises: PluginError; ConfigError: an option the plugin does not take, or a type it does not publish.
    """
    spec = load(planned.id, planned.module)
    if planned.kind != spec.KIND:
        raise PluginContractError(
            planned.id,
            f"plugins.toml says its kind is {planned.kind!r}, the plugin says {spec.KIND!r}; "
            "change the former",
        )
    options = convert(planned.options, spec.options, f"{config}: plugin.{planned.id}.options")
    if planned.publishes is not None:
        declared = [cls.__name__ for cls in spec.publishes]
        if unknown := [name for name in planned.publishes if name not in declared]:
            raise ConfigError(
                f"{config}: plugin.{planned.id}.publishes: expected some of what the plugin declares "
                f"({', '.join(declared) or 'nothing'}), was {unknown[0]!r}"
            )
        allowed = tuple(cls for cls in spec.publishes if cls.__name__ in planned.publishes)
        spec = msgspec.structs.replace(spec, publishes=allowed)
    return spec, options
