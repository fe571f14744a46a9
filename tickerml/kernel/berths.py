"""
Which processes there are, and which one each host is. Sans-IO.

A host has two berths, so that a second process of it can be made ready while the first
is at work. They are named after it: `trade` and `trade~`. One of them is active: what it
publishes is the host's. The name says nothing about which.
"""

from typing import Any, Protocol

from . import control
from .config import Plan
from .errors import HandshakeRefused

_SECOND = "~"


class Edges(Protocol):
    """What the berths need of the world."""

    def spawn(self, process: str, token: str, plan: Plan) -> int:
        """Start *process*, with what *plan* grants its host; returns its pid."""

    def kill(self, process: str, reason: str) -> None:
        """End *process* at once; exited() follows."""

    def reply(self, identity: bytes, message: Any) -> None:
        """Send a control message to a peer, which may be gone."""


class Process:
    """What the kernel knows of a host's process."""

    def __init__(self, name: str, pid: int, plan: Plan) -> None:
        self.name = name
        self.host = host_of(name)
        self.pid = pid
        self.plan = plan  # what it was started for
        self.identity = b""  # of its control socket, once it has said hello
        self.present = control.Present(self.host, [], {})  # what it has built
        self.failed: dict[str, str] = {}  # plugins it had to set aside, and why


def host_of(process: str) -> str:
    """Return the host that *process* is one of."""
    return process.removesuffix(_SECOND)


class Berths:
    """The processes, by name."""

    def __init__(self, edges: Edges, token: str) -> None:
        self.processes: dict[str, Process] = {}
        self._edges = edges
        self._token = token
        self._active: dict[str, str] = {}
        self._plans: dict[str, Plan] = {}

    def name_of(self, host: str) -> str:
        """Return the name of the process that *host* is, whether it exists or not."""
        return self._active.get(host, host)

    def spare(self, host: str) -> str:
        """Return the name of the other one."""
        return host if self.name_of(host) != host else host + _SECOND

    def active(self, host: str) -> Process | None:
        """Return the process that *host* is; None when there is none."""
        return self.processes.get(self.name_of(host))

    def is_active(self, process: str) -> bool:
        """Whether *process* is the one that its host is."""
        return self.name_of(host_of(process)) == process

    def give(self, host: str, process: str) -> None:
        """From now on *host* is *process*."""
        self._active[host] = process

    def launch(self, process: str, plan: Plan) -> int:
        """Start *process*; returns its pid."""
        pid = self._edges.spawn(process, self._token, plan)
        self.processes[process] = Process(process, pid, plan)
        self._plans[process] = plan
        return pid

    def plan_of(self, process: str) -> Plan:
        """Return what the last *process* of this name was started for; it may be gone."""
        return self._plans[process]

    def end(self, process: str, reason: str) -> None:
        """End *process* at once, if it is there."""
        if process in self.processes:
            self._edges.kill(process, reason)

    def gone(self, process: str) -> Process | None:
        """*process* has ended; returns what was known of it."""
        return self.processes.pop(process, None)

    def tell(self, process: str, message: Any) -> None:
        """Send *message* to *process*, if it is there and has said hello."""
        if (found := self.processes.get(process)) and found.identity:
            self._edges.reply(found.identity, message)

    def tell_host(self, host: str, message: Any) -> None:
        """Send *message* to the process that *host* is."""
        self.tell(self.name_of(host), message)

    def find(self, identity: bytes) -> Process | None:
        """Return the process that speaks as *identity*; None for a client."""
        return next((p for p in self.processes.values() if p.identity == identity), None)

    def greet(self, hello: control.Hello, identity: bytes, schema: str) -> Process:
        """
        Return the process that says *hello*, which is known by its *identity* from now on.

        Raises: HandshakeRefused: it is none of ours, or speaks another language.
        """
        control.check_hello(hello, self._token, schema)
        for process in self.processes.values():
            if process.host == hello.host and process.pid == hello.pid:
                process.identity = identity
                return process
        raise HandshakeRefused(f"host {hello.host} (pid {hello.pid}) is not the one this kernel started")

    def failures(self) -> dict[str, dict[str, str]]:
        """Return, by host, the plugins that its active process had to set aside, and why."""
        return {p.host: p.failed for p in self.processes.values() if self.is_active(p.name)}
