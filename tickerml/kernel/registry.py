"""
Loading plugins: one door, for ours and for strangers'.

Loading imports one module, hands it to pluggy and asks it for its one spec; whatever goes
wrong is a PluginError that names it. What there is to load, the catalog knows.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import msgspec
import pluggy
import structlog

from .convert import convert
from .errors import PluginContractError, PluginLoadError, PluginNotFound
from .hookspecs import API_VERSION, ENTRY_POINTS, HOOKS, PROJECT, Options, PluginSpec, TickerMLSpecs
from .plans import PluginPlan

logger = structlog.get_logger()

_SINGLE_FILE = "tickerml_plugin_"  # before the name that a single file's module is known by


def installed() -> dict[str, EntryPoint]:
    """Return every installed plugin's entry point by id; imports none of them."""
    return {entry.name: entry for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda e: e.name)}


def load(plugin: str, module: str = "", paths: Sequence[str] = ()) -> PluginSpec:
    """
    Import *plugin* and return its spec.

    Args:
        module: a dotted path, or the path of a single file, to load instead of the installed entry point.
        paths: folders that are put in front of sys.path.
    Raises: PluginNotFound, PluginLoadError, PluginContractError.
    """
    manager = register(plugin, import_plugin(plugin, module, paths))
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


def register(plugin: str, module: Any) -> pluggy.PluginManager:
    """
    Return a manager that calls the hooks of *plugin*.

    Raises: PluginContractError: it implements a hook that there is not, or not as it is.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(TickerMLSpecs)
    try:
        manager.register(module, name=plugin)
    except pluggy.PluginValidationError as error:
        raise PluginContractError(plugin, str(error)) from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginContractError(
            plugin,
            f"{error}: API {API_VERSION} does not have it; it is misspelt, or of a newer API: "
            "then say so in the manifest's `api`, and upgrade tickerml",
        ) from error
    return manager


def import_plugin(plugin: str, module: str = "", paths: Sequence[str] = ()) -> Any:
    """
    Import what *plugin* names and return it; the arguments are those of load().

    Raises: PluginNotFound, PluginLoadError.
    """
    entry = EntryPoint(plugin, module, ENTRY_POINTS) if module else installed().get(plugin)
    if entry is None:
        raise PluginNotFound(
            plugin, "no installed package offers this plugin; install it, or take it out of plugins.toml"
        )
    sys.path[:0] = [path for path in paths if path not in sys.path]
    try:
        if module.endswith(".py"):
            return _import_file(Path(module))
        return entry.load()
    except (Exception, SystemExit) as error:
        raise PluginLoadError(plugin, f"import raised {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> Any:
    """Import a single file under a name of its own, so that it hides no other module."""
    name = _SINGLE_FILE + path.stem
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_planned(planned: PluginPlan, config: str) -> tuple[PluginSpec, Options]:
    """
    Return the spec and the checked options of a plugin in a plan.

    What it publishes and is given is cut to what the plan leaves it.

    Raises: PluginError: it is blocked, does not load, or is not what its manifest says. ConfigError: an
        option that the plugin does not take.
    """
    if planned.blocked:
        raise PluginLoadError(planned.id, planned.blocked)
    spec = load(planned.id, planned.module, tuple(planned.paths))
    _check_manifest(planned, spec)
    for warning in planned.warnings:
        logger.warning("plugin.warned", plugin=planned.id, warning=warning)
    options = convert(planned.options, spec.options, f"{config}: plugin.{planned.id}.options")
    if planned.publishes is not None:
        allowed = tuple(cls for cls in spec.publishes if cls.__name__ in planned.publishes)
        spec = msgspec.structs.replace(spec, publishes=allowed)
    if planned.subscribes is not None:
        spec = msgspec.structs.replace(spec, subscribes=tuple(planned.subscribes))
    return spec, options


def _check_manifest(planned: PluginPlan, spec: PluginSpec) -> None:
    """
    Raises: PluginContractError: *spec* is not what the manifest of the plugin says.
    """
    if planned.kind != spec.KIND:
        raise PluginContractError(
            planned.id, f"its manifest says its kind is {planned.kind!r}, its spec says {spec.KIND!r}"
        )
    if planned.state_version not in (0, spec.state_version):
        raise PluginContractError(
            planned.id,
            f"its manifest says its state_version is {planned.state_version}, its spec says "
            f"{spec.state_version}",
        )
    names = [cls.__name__ for cls in spec.publishes]
    if extra := [
        name for name in names if name not in (names if planned.declares is None else planned.declares)
    ]:
        raise PluginContractError(
            planned.id, f"its spec publishes {', '.join(extra)}, which its manifest does not name"
        )
