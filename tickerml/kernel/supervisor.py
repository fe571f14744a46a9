"""
The supervisor: which host processes should be running, and what to do when they are not. Sans-IO.

It is told what happened (a process started, spoke, exited; time passed) and answers
with what to do. A host that dies is started again after a growing delay; one that
dies five times within a minute is quarantined and stays down until a person acts.
The worker is not asked to defend itself: it fails fast and is restarted from its
checkpoint.
"""

import enum
from typing import NamedTuple

from .control import Role
from .units import NS_PER_MS, NS_PER_S

LIVENESS = 3  # silent heartbeats before a host is dead
MAX_RESTARTS = 5
RESTART_WINDOW_NS = 60 * NS_PER_S
FIRST_DELAY_NS = 100 * NS_PER_MS
STOP_LIMIT_NS = 20 * NS_PER_S  # of silence after a host was asked to stop
START_LIMIT_NS = 60 * NS_PER_S  # from spawn to ready: a checkpoint to restore, a journal to catch up with


class HostPhase(enum.StrEnum):
    """Where a host process is in its life."""

    DOWN = "down"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    QUARANTINED = "quarantined"


class Spawn(NamedTuple):
    """Start this host's process."""

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
        self.phase = HostPhase.DOWN
        self.pid = 0
        self.role = Role.CONSUMER
        self.position = 0
        self.reason = ""
        self.restarts = 0
        self.last_heard = 0
        self.started_at = 0
        self.restart_at = 0
        self.deaths: list[int] = []
        self.respawn = False  # a stop that was asked for in order to start anew


class Supervisor:
    """Decides; the app acts."""

    def __init__(self, hosts: list[str], heartbeat_ns: int) -> None:
        self.hosts = {name: Host(name) for name in hosts}
        self._heartbeat_ns = heartbeat_ns

    def start(self, now: int) -> list[Effect]:
        """Start every host."""
        return [effect for host in self.hosts.values() for effect in self._spawn(host, now)]

    def add(self, name: str, now: int) -> list[Effect]:
        """Start one host more."""
        self.hosts.setdefault(name, Host(name))
        return self._spawn(self.hosts[name], now)

    def _spawn(self, host: Host, now: int) -> list[Effect]:
        host.phase = HostPhase.STARTING
        host.started_at = host.last_heard = now
        return [Spawn(host.name)]

    def spawned(self, name: str, pid: int) -> None:
        """The process of *name* exists."""
        self.hosts[name].pid = pid

    def heard(self, name: str, now: int, position: int | None = None) -> None:
        """*name* gave a sign of life."""
        host = self.hosts[name]
        host.last_heard = now
        if position is not None:
            host.position = max(host.position, position)

    def ready(self, name: str, now: int, position: int, role: Role) -> None:
        """*name* has restored its state and caught up."""
        host = self.hosts[name]
        if host.phase is HostPhase.STARTING:
            host.phase, host.role, host.reason = HostPhase.READY, role, ""
        self.heard(name, now, position)

    def unfit(self, name: str, reason: str) -> None:
        """*name* says it can never run as it is configured."""
        host = self.hosts[name]
        host.phase, host.reason = HostPhase.QUARANTINED, reason

    def stopping(self, name: str, *, respawn: bool = False) -> None:
        """*name* has been asked to stop; with *respawn*, in order to start anew."""
        host = self.hosts[name]
        host.respawn = respawn
        host.phase = HostPhase.STOPPING

    def exited(self, name: str, reason: str, now: int) -> list[Effect]:
        """The process of *name* is gone."""
        host = self.hosts[name]
        host.pid = 0
        if host.phase is HostPhase.QUARANTINED:
            return [Report(name, host.reason, -1)]
        if host.phase is HostPhase.STOPPING:
            host.phase, host.reason = HostPhase.STOPPED, "stopped"
            effects: list[Effect] = [Report(name, "stopped", 0 if host.respawn else -1)]
            return effects + (self._spawn(host, now) if host.respawn else [])
        host.reason = reason
        host.deaths = [death for death in host.deaths if now - death < RESTART_WINDOW_NS] + [now]
        if len(host.deaths) >= MAX_RESTARTS:
            host.phase = HostPhase.QUARANTINED
            host.reason = f"{MAX_RESTARTS} failures in {RESTART_WINDOW_NS // NS_PER_S} s, the last: {reason}"
            return [Report(name, host.reason, -1)]
        delay = FIRST_DELAY_NS << (len(host.deaths) - 1)
        host.phase, host.restart_at = HostPhase.DOWN, now + delay
        return [Report(name, reason, delay)]

    def tick(self, now: int) -> list[Effect]:
        """Time has passed: restart what is due, end what is silent."""
        effects: list[Effect] = []
        for host in self.hosts.values():
            if host.phase is HostPhase.DOWN and now >= host.restart_at:
                host.restarts += 1
                effects += self._spawn(host, now)
            elif host.phase is HostPhase.READY and now - host.last_heard > LIVENESS * self._heartbeat_ns:
                effects.append(Kill(host.name, f"no sign of life for {LIVENESS} heartbeats"))
                host.last_heard = now
            elif host.phase is HostPhase.STARTING and now - host.started_at > START_LIMIT_NS:
                effects.append(Kill(host.name, f"not ready {START_LIMIT_NS // NS_PER_S} s after its start"))
                host.started_at = now
            elif host.phase is HostPhase.STOPPING and now - host.last_heard > STOP_LIMIT_NS:
                effects.append(
                    Kill(host.name, f"silent for {STOP_LIMIT_NS // NS_PER_S} s after it was to stop")
                )
                host.last_heard = now
        return effects

    # --- What the app asks --------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether every host is ready or will not be."""
        return all(host.phase not in (HostPhase.DOWN, HostPhase.STARTING) for host in self.hosts.values())

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
