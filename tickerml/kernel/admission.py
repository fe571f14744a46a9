"""
Admission: what a host is told, and what its components may say. Sans-IO.

A component publishes only message types that its kind may, that it declares itself,
and that plugins.toml leaves it; the sequencer holds it to that at every message.
This stops mistakes, not malice: a plugin in a host can do what its process can.
"""

from collections.abc import Collection
from typing import NamedTuple

from . import control
from . import messages as m
from .config import Plan
from .errors import HandshakeRefused
from .gate import GateSpec
from .hookspecs import HOOKS, PluginSpec
from .runs import Run
from .sequencer import Sequencer

_TYPES: dict[str, type[m.Message]] = {cls.__name__: cls for cls in m.message_types()}
_SPECS: tuple[type[PluginSpec], ...] = (*HOOKS.values(), GateSpec)
MAY_PUBLISH: dict[str, frozenset[type[m.Message]]] = {
    spec.KIND: frozenset(spec.MAY_PUBLISH) for spec in _SPECS
}


class Place(NamedTuple):
    """Where a run lives."""

    home: str
    run_dir: str


def welcome(
    host: str, plan: Plan, run: Run, place: Place, session: int, revived: Collection[str] = ()
) -> control.Welcome:
    """
    Return what *host* needs to build its plugins.

    Args:
        revived: plugins that a person has enabled in this session: they begin anew, also if they had failed.
    """
    plugins = plan.hosts().get(host, [])
    return control.Welcome(
        session,
        plugins,
        plan.config,
        plan.kernel,
        run.started_ns,
        plan.ids("risk_rule"),
        plan.vital(),
        sorted(revived),
        any(plugin.kind == "simulator" for plugin in plugins),
        place.home,
        place.run_dir,
        plan.profile,
    )


def admit(present: control.Present, sequencer: Sequencer, link: int) -> control.Admitted:
    """
    Admit what a host has built, each component at a new epoch.

    Args:
        link: the number of this incarnation of the host.
    Raises: HandshakeRefused: a component declares what its kind may not publish.
    """
    declared: dict[str, list[type[m.Message]]] = {}
    for component in present.components:
        types = [_TYPES[name] for name in component.publishes if name in _TYPES]
        if extra := [cls.__name__ for cls in types if cls not in MAY_PUBLISH[component.kind]]:
            raise HandshakeRefused(
                f"{component.plugin}: a {component.kind} may not publish {', '.join(extra)}"
            )
        declared[component.plugin] = types
    # A component that fails says so in its own name.
    origins = {
        plugin: sequencer.admit(plugin, [*types, m.PluginFailed]) for plugin, types in declared.items()
    }
    return control.Admitted(
        origins,
        {plugin: sequencer.epoch(origin) for plugin, origin in origins.items()},
        {plugin: sequencer.last_output(origin) for plugin, origin in origins.items()},
        sequencer.seq,
        sequencer.topic_counts,
        link,
    )
