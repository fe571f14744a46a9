"""
Admission: what a host is told, and what its components may say. Sans-IO.

A component publishes only message types that its kind may, that its manifest names, and
that plugins.toml leaves it. What these are the plan says, not the host that presents the
component; the sequencer holds it to that at every message, and to its epoch. This stops
mistakes, not malice: a plugin in a host can do what its process can.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from . import control
from . import messages as m
from .errors import HandshakeRefused
from .gate import GATE, GateSpec
from .hookspecs import HOOKS, PluginSpec
from .plans import Plan, PluginPlan
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


def check(present: control.Present, members: Sequence[PluginPlan]) -> None:
    """
    Hold what a host has built against the plan of its plugins.

    Raises: HandshakeRefused: a component that is not planned there, or that says more than it may.
    """
    planned = {member.id: member for member in members}
    for component in present.components:
        if component.plugin == GATE and any(member.kind == "simulator" for member in members):
            continue
        member = planned.get(component.plugin)
        if member is None or member.kind != component.kind:
            raise HandshakeRefused(
                f"{component.plugin}: the plan has no {component.kind} of this id in host {present.host}"
            )
        may = {cls.__name__ for cls in MAY_PUBLISH[member.kind]}
        if extra := [name for name in component.publishes if name not in may]:
            raise HandshakeRefused(
                f"{component.plugin}: a {component.kind} may not publish {', '.join(extra)}"
            )
        if member.publishes is None:
            continue
        if extra := [name for name in component.publishes if name not in member.publishes]:
            raise HandshakeRefused(
                f"{component.plugin}: its manifest and plugins.toml do not let it publish {', '.join(extra)}"
            )


def admit(
    present: control.Present, members: Sequence[PluginPlan], sequencer: Sequencer, link: int
) -> control.Admitted:
    """
    Admit what a host has built, each component at a new epoch.

    Args:
        members: the host's plugins, as they are planned.
        link: the number of this incarnation of the host.
    Raises: HandshakeRefused: a component that is not planned there, or that says more than it may.
    """
    check(present, members)
    declared = {
        component.plugin: [_TYPES[name] for name in component.publishes] for component in present.components
    }
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
        sequencer.absence(present.host),
    )
