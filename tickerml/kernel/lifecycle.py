"""
The life of a plugin: which state it is in, and why.

    state        meaning                                           left for, when
    discovered   installed, and in no profile that runs            resolved: a profile names it
    resolved     its manifest holds, its process is not there yet  loaded: its host has greeted the kernel
    loaded       its host imports and builds it                    configured: presented; failed: it raised
    configured   built; takes its state and catches up             active; standby: as a candidate in a swap
    standby      hears everything and publishes nothing            active: it takes over; stopped: it does not
    active       publishes                                         standby: another takes over, on probation
    draining     asked to stop, finishes what it has               stopped: its process has ended
    stopped      its process has ended, and was to                 resolved: enabled or started again
    blocked      disabled, or something stands in its way          resolved: enabled, or the cause is gone
    retry        its process died, and is started again soon       loaded; quarantined: five times in a minute
    failed       it raised and was set aside; the others go on     resolved: enabled, reloaded or upgraded
    quarantined  its process keeps dying, and stays down           resolved: enabled, reloaded or upgraded

Up it goes in the order of need, down in one batch. From every state but blocked, failed
and quarantined the death of its process leads to retry. Whatever it is in, a change of it
is one transition: a second that is asked for meanwhile is refused.
"""

import enum
from collections.abc import Collection, Mapping
from typing import NamedTuple

from .plans import PluginPlan
from .supervisor import Host, HostPhase
from .units import NS_PER_S


class Lifecycle(enum.StrEnum):
    """Where a plugin is in its life."""

    DISCOVERED = "discovered"
    RESOLVED = "resolved"
    LOADED = "loaded"
    CONFIGURED = "configured"
    STANDBY = "standby"
    ACTIVE = "active"
    DRAINING = "draining"
    STOPPED = "stopped"
    BLOCKED = "blocked"
    RETRY = "retry"
    FAILED = "failed"
    QUARANTINED = "quarantined"


class Sighting(NamedTuple):
    """What the kernel has seen of the process that a plugin runs in."""

    has_greeted: bool = False
    presented: Collection[str] = ()  # ids of the plugins it has built
    failed: Mapping[str, str] = {}  # those it had to set aside, and why
    is_standby: bool = False  # whether another process of this host is the one that publishes


DISABLED = "disabled"
NOTHING_SEEN = Sighting()


def state_of(
    planned: PluginPlan,
    host: Host | None,
    seen: Sighting = NOTHING_SEEN,
    *,
    now: int = 0,
    waits_for: Collection[str] = (),
) -> tuple[Lifecycle, str]:
    """
    Return the state of a plugin and the reason for it, "" where it needs none.

    Args:
        host: what the supervisor knows of its host; None where it knows nothing.
        now: monotonic ns, as the supervisor counts.
        waits_for: the hosts that must be there before its own is started.
    """
    if not planned.enabled:
        return Lifecycle.BLOCKED, DISABLED
    if planned.blocked:
        return Lifecycle.BLOCKED, planned.blocked
    if planned.id in seen.failed:
        return Lifecycle.FAILED, seen.failed[planned.id]
    if host is None:
        return Lifecycle.STOPPED, ""
    match host.phase:
        case HostPhase.WAITING:
            return Lifecycle.RESOLVED, f"waits for {', '.join(waits_for)}" if waits_for else ""
        case HostPhase.STARTING if planned.id in seen.presented:
            return Lifecycle.CONFIGURED, host.reason
        case HostPhase.STARTING:
            return Lifecycle.LOADED if seen.has_greeted else Lifecycle.RESOLVED, host.reason
        case HostPhase.READY:
            return Lifecycle.STANDBY if seen.is_standby else Lifecycle.ACTIVE, host.reason
        case HostPhase.DOWN:
            wait_s = max(0, host.restart_at - now) / NS_PER_S
            return Lifecycle.RETRY, f"{host.reason}; again in {wait_s:.1f} s"
        case HostPhase.STOPPING:
            return Lifecycle.DRAINING, host.reason
        case HostPhase.QUARANTINED:
            return Lifecycle.QUARANTINED, host.reason
        case HostPhase.STOPPED:
            return Lifecycle.STOPPED, host.reason
