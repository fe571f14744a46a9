"""
What plugins observe and can tell of themselves: the two hooks off the path of messages.

They are called in the plugin's own host process. One that raises is logged and has no
other consequence: nobody's trading depends on an observer.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import structlog

from . import registry
from .hookspecs import StateChange
from .plans import PluginPlan

logger = structlog.get_logger()


class Observers:
    """The observing hooks of the plugins of one host."""

    def __init__(self, modules: Mapping[str, object]) -> None:
        """
        Args:
            modules: what was loaded for each plugin, by its id.
        """
        # A manager each, so that one that raises does not keep the others from being called.
        self._managers = {plugin: registry.register(plugin, module) for plugin, module in modules.items()}

    def component_changed(self, change: StateChange) -> None:
        """Tell every plugin of this host that a component of it has changed its state."""
        for plugin in self._managers:
            self._call(plugin, "tickerml_component_state", change=change)

    def diagnostics(self, plugin: str) -> dict[str, Any]:
        """Return what *plugin* says helps to find a fault in it, ready for JSON; {} where it says nothing."""
        told = self._call(plugin, "tickerml_diagnostics") if plugin in self._managers else []
        return told[0] if told else {}

    def _call(self, plugin: str, hook: str, **arguments: object) -> list[dict[str, Any]]:
        try:
            told = getattr(self._managers[plugin].hook, hook)(**arguments)
            return msgspec.json.decode(msgspec.json.encode(told), type=list[dict[str, Any]])
        except (Exception, SystemExit) as error:
            logger.error("plugin.observer_failed", plugin=plugin, hook=hook, exc_info=error)
            return []


def observers_of(plugins: Iterable[PluginPlan]) -> Observers:
    """Return the observers among *plugins*, which have been loaded already."""
    return Observers(
        {each.id: registry.import_plugin(each.id, each.module, tuple(each.paths)) for each in plugins}
    )
