"""
The supervisor: which host processes should be running, and what to do when they are not. Sans-IO.

It is told what happened (a process started, spoke, exited; time passed) and answers
with what to do. The worker is not asked to defend itself: it fails fast and is
restarted from its checkpoint.

Up in the order of need: a host is started when every host it needs is ready, or never
will be. A host that dies later is started again alone, after a delay that doubles from
100 ms to 30 s, each time by half more or less at random, so that hosts felled together
do not come back together. The delay begins anew once a host has been ready for 10 s.
One that dies five times within a minute is quarantined, with the reason kept, until a
person acts. Down in one batch.

A host that hangs is ended: ready and silent for three heartbeats, starting without
getting on, asked to stop and silent. A process that does not go away is ended again and
again, and its successor waits. Silence is measured in the supervisor's own time, in
which two ticks are never further apart than half a heartbeat: a kernel that stood still
(SIGSTOP, a suspended laptop, a stalled clock) blames nobody for its own absence.
"""

import enum
import random
from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter
from typing import NamedTuple

import structlog

from . import messages as m
from .control import Role
from .units import NS_PER_MS, NS_PER_S

LIVENESS = 3  # silent heartbeats before a host is dead
MAX_RESTARTS = 5
RESTART_WINDOW_NS = 60 * NS_PER_S
FIRST_DELAY_NS = 100 * NS_PER_MS
LAST_DELAY_NS = 30 * NS_PER_S
JITTER = (0.5, 1.5)  # a delay is multiplied with a number from this range
STEADY_NS = 10 * NS_PER_S  # ready for so long, a host has recovered, and its delay begins anew
STOP_LIMIT_NS = 20 * NS_PER_S  # of silence after a host was asked to stop
START_LIMIT_NS = 60 * NS_PER_S  # without getting on: a model to load, a checkpoint to restore

logger = structlog.get_logger()


class HostPhase(enum.StrEnum):
    """Where a host process is in its life."""

    WAITING = "waiting"
    DOWN = "down"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    QUARANTINED = "quarantined"


_SETTLED = (HostPhase.READY, HostPhase.STOPPED, HostPhase.QUARANTINED)


class Spawn(NamedTuple):
    """Start this host's process; told of by spawned(), or by exited() where that cannot be done."""

    host: str


class Kill(NamedTuple):
    """End this host's process at once."""

    host: str
    reason: str


class Report(NamedTuple):
    """Tell the world that a host is gone; restart_in_ns is -1 when it stays so."""

    host: str
    reason: str
    restart_in_ns: int


Effect = Spawn | Kill | Report


class Host:
    """What the supervisor knows of one host."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.phase = HostPhase.WAITING
        self.is_up = False  # whether it has a process
        self.pid = 0
        self.role = Role.CONSUMER
        self.position = 0
        self.reason = ""  # why it is not ready; of the last death while it comes back
        self.restarts = 0
        self.last_heard = 0
        self.progressed_at = 0
        self.ready_at = 0
        self.restart_at = 0
        self.doomed = ""  # why its process has been told to end
        self.doomed_at = 0
        self.deaths: list[int] = []  # within the last minute
        self.failures = 0  # since it was last steady
        self.respawn = False  # start anew when the process is gone, which is no death
        self.is_wanted = True  # for good, whatever becomes of its process
        self._told = -1

    @property
    def is_settled(self) -> bool:
        """Whether it is ready, or stays down."""
        return self.phase in _SETTLED

    def heard(self, now: int, position: int | None) -> None:
        """It gave a sign of life, and maybe got on."""
        self.last_heard = now
        if position is not None and position != self._told:
            # Catching up after a crash it passes again what it had taken before.
            self._told = position
            self.progressed_at = now
            self.position = max(self.position, position)

    def excuse(self, absence_ns: int, now: int) -> None:
        """The kernel was away for so long: nobody can be blamed for having said nothing then."""
        self.last_heard = min(now, self.last_heard + absence_ns)
        self.progressed_at = min(now, self.progressed_at + absence_ns)
        self.doomed_at = min(now, self.doomed_at + absence_ns)

    def forgive(self) -> None:
        """Forget what it died of."""
        self.deaths.clear()
        self.failures = 0
        self.reason = ""


class Supervisor:
    """Decides; the kernel acts. Times are monotonic, ns."""

    def __init__(
        self,
        hosts: Collection[str],
        heartbeat_ns: int,
        rng: random.Random | None = None,
        needs: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """
        Args:
            rng: makes the jitter of the delays; without one there is none.
            needs: the hosts that each one waits for when all are started; others are not waited for.
        Raises: graphlib.CycleError: the needs form a circle.
        """
        self.hosts = {name: Host(name) for name in hosts}
        self._heartbeat_ns = heartbeat_ns
        self._rng = rng
        self._needs = {name: set(needed) & self.hosts.keys() for name, needed in (needs or {}).items()}
        TopologicalSorter(self._needs).prepare()
        self._ticked_at = 0

    # --- What happened ------------------------------------------------------------------------

    def start(self, now: int) -> list[Effect]:
        """Start the hosts that need no other; the others follow when those are settled."""
        self._ticked_at = now
        return self._start_waiting(now)

    def add(self, name: str, now: int) -> list[Effect]:
        """
        Start a host that is new, was stopped or is quarantined, because a person wants it.

        What it died of before is forgotten. Where its last process has not gone yet, it is
        started when that has; where it runs, nothing is done.
        """
        host = self.hosts.setdefault(name, Host(name))
        if host.is_up and host.phase in (HostPhase.STARTING, HostPhase.READY):
            return []
        host.forgive()
        if not host.is_up:
            return self._spawn(host, now)
        host.respawn = True
        return []

    def spawned(self, name: str, pid: int) -> None:
        """The process of *name* exists."""
        self.hosts[name].pid = pid

    def heard(self, name: str, now: int, position: int | None = None) -> None:
        """*name* gave a sign of life; *position* is the last message it has taken."""
        self.hosts[name].heard(now, position)

    def ready(self, name: str, now: int, role: Role) -> None:
        """*name* has restored its state and caught up."""
        host = self.hosts[name]
        if host.phase is HostPhase.STARTING:
            host.phase, host.role, host.reason = HostPhase.READY, role, ""
            host.ready_at = now
        host.heard(now, None)

    def replaced(self, name: str, pid: int, now: int) -> None:
        """Another process is *name* now, as ready as the one before it."""
        host = self.hosts[name]
        host.pid, host.is_up, host.phase, host.reason = pid, True, HostPhase.READY, ""
        host.doomed, host.ready_at = "", now
        host.last_heard = host.progressed_at = now

    def remove(self, name: str) -> None:
        """*name* is not wanted any longer, and its process is gone or being ended."""
        self.hosts.pop(name, None)

    def unfit(self, name: str, reason: str) -> None:
        """*name* says it can never run as it is configured."""
        host = self.hosts[name]
        host.phase, host.reason = HostPhase.QUARANTINED, reason

    def stopping(self, name: str, *, respawn: bool = False, is_wanted: bool = True) -> list[Effect]:
        """
        *name* has been asked to stop; with *respawn*, in order to start anew.

        One that has no process stays down, or is started when it is due.

        Args:
            is_wanted: whether it belongs to the system all the same.
        """
        host = self.hosts[name]
        host.is_wanted = is_wanted
        if host.is_up:
            host.phase, host.respawn = HostPhase.STOPPING, respawn
        elif not respawn:
            host.phase, host.reason = HostPhase.STOPPED, m.STOPPED if is_wanted else m.REMOVED
        return [] if host.is_up or is_wanted else [Report(name, host.reason, -1)]

    def overuse(self, name: str, reason: str) -> list[Effect]:
        """*name* uses or did what it must not: end it, which counts as a death."""
        host = self.hosts[name]
        return self._doom(host, reason, self._ticked_at) if host.is_up and not host.doomed else []

    def late(self, name: str, reason: str) -> list[Effect]:
        """*name* is hopelessly late: end it, which counts as a death; one that catches up is let be."""
        return self.overuse(name, reason) if self.hosts[name].phase is HostPhase.READY else []

    def exited(self, name: str, reason: str, now: int) -> list[Effect]:
        """The process of *name* is gone, or could not be started."""
        host = self.hosts[name]
        if not host.is_up:
            return []
        host.is_up, host.pid, host.doomed = False, 0, ""
        if host.phase is HostPhase.STOPPING or host.respawn:
            return self._stopped(host, now)
        if host.phase is HostPhase.QUARANTINED:
            return [Report(name, host.reason, -1)]
        return [self._died(host, reason, now)]

    def _stopped(self, host: Host, now: int) -> list[Effect]:
        host.phase, host.reason = HostPhase.STOPPED, m.STOPPED if host.is_wanted else m.REMOVED
        if not host.respawn:
            return [Report(host.name, host.reason, -1)]
        told = Report(host.name, host.reason, 0)
        host.forgive()
        return [told, *self._spawn(host, now)]

    def _died(self, host: Host, reason: str, now: int) -> Report:
        if host.ready_at and now - host.ready_at >= STEADY_NS:
            host.failures = 0
        host.failures += 1
        host.reason = reason
        host.deaths = [death for death in host.deaths if now - death < RESTART_WINDOW_NS] + [now]
        if len(host.deaths) >= MAX_RESTARTS:
            host.phase = HostPhase.QUARANTINED
            host.reason = f"{MAX_RESTARTS} failures in {RESTART_WINDOW_NS // NS_PER_S} s, the last: {reason}"
            return Report(host.name, host.reason, -1)
        delay = self._delay_ns(host.failures)
        host.phase, host.restart_at = HostPhase.DOWN, now + delay
        return Report(host.name, reason, delay)

    def _delay_ns(self, failures: int) -> int:
        delay = min(LAST_DELAY_NS, FIRST_DELAY_NS << min(failures - 1, 20))
        return int(delay * self._rng.uniform(*JITTER)) if self._rng else delay

    # --- Time passing -------------------------------------------------------------------------

    def tick(self, now: int) -> list[Effect]:
        """Time has passed: start what is due, end what is silent."""
        absence = now - self._ticked_at - self._heartbeat_ns // 2
        self._ticked_at = now
        if absence > 0:
            for host in self.hosts.values():
                host.excuse(absence, now)
        if absence > self._heartbeat_ns:
            logger.warning("kernel.stood_still", for_s=round(absence / NS_PER_S, 1))
        effects = self._start_waiting(now)
        for host in self.hosts.values():
            effects += self._look_after(host, now)
        return effects

    def _start_waiting(self, now: int) -> list[Effect]:
        effects: list[Effect] = []
        for host in self.hosts.values():
            if host.phase is HostPhase.WAITING and not self.waits_for(host.name):
                effects += self._spawn(host, now)
        return effects

    def _look_after(self, host: Host, now: int) -> list[Effect]:
        if not host.is_up:
            if host.phase is not HostPhase.DOWN or now < host.restart_at:
                return []
            host.restarts += 1
            return self._spawn(host, now)
        if host.doomed:
            is_again = now - host.doomed_at > LIVENESS * self._heartbeat_ns
            return self._doom(host, host.doomed, now) if is_again else []
        reason = self._hangs(host, now)
        return self._doom(host, reason, now) if reason else []

    def _hangs(self, host: Host, now: int) -> str:
        """Return why *host* cannot be waited for any longer; "" while it can."""
        match host.phase:
            case HostPhase.READY if now - host.last_heard > LIVENESS * self._heartbeat_ns:
                return f"no sign of life for {LIVENESS} heartbeats"
            case HostPhase.STARTING if now - host.progressed_at > START_LIMIT_NS:
                return f"not ready, and no progress for {START_LIMIT_NS // NS_PER_S} s"
            case HostPhase.STOPPING | HostPhase.QUARANTINED if now - host.last_heard > STOP_LIMIT_NS:
                return f"silent for {STOP_LIMIT_NS // NS_PER_S} s after it was to stop"
        return ""

    def _spawn(self, host: Host, now: int) -> list[Effect]:
        host.phase, host.is_up, host.respawn = HostPhase.STARTING, True, False
        host.last_heard = host.progressed_at = now
        host.ready_at = 0
        return [Spawn(host.name)]

    def _doom(self, host: Host, reason: str, now: int) -> list[Effect]:
        host.doomed, host.doomed_at = reason, now
        return [Kill(host.name, reason)]

    # --- What the kernel asks -----------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether every host is ready, or stays down."""
        return all(host.is_settled for host in self.hosts.values())

    def waits_for(self, name: str) -> list[str]:
        """Return the hosts that *name* needs and that are not settled yet, sorted."""
        return sorted(needed for needed in self._needs.get(name, ()) if not self.hosts[needed].is_settled)

    def sources(self) -> list[Host]:
        """Return the hosts that feed the flow."""
        return [host for host in self.hosts.values() if host.role is Role.SOURCE]

    def consumers(self) -> list[Host]:
        """Return the hosts that take every message, and are up or coming back."""
        return [
            host
            for host in self.hosts.values()
            if host.role is Role.CONSUMER
            and host.phase in (HostPhase.READY, HostPhase.DOWN, HostPhase.STARTING)
        ]
