"""
Whether it is well: what is wrong with which part, since when, and what that makes of the whole. Sans-IO.

    running    every part does what it should
    degraded   a part does not; the report names it, the reason and since when
    starting   not every host is ready yet, and the sources wait
    halted     nothing is traded until a person acts; one rule or part did that
    stopping   a clean stop is on its way

A process that is alive is not a system that trades. So once a second a canary, a number,
sets out from each source host, gets its place in the order like any price, and is handed
back by each consumer when it has come past everything before it. One that does not come
back within three seconds is a condition like any other.
"""

import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import structlog

from .control import Role
from .supervisor import Host, HostPhase
from .units import NS_PER_MS, NS_PER_S

CANARY_LIMIT_NS = 3 * NS_PER_S
CANARIES_KEPT = 120

logger = structlog.get_logger()


class State(enum.StrEnum):
    """What a condition makes of the whole; of several the last in this order counts."""

    RUNNING = "running"
    DEGRADED = "degraded"
    STARTING = "starting"
    HALTED = "halted"
    STOPPING = "stopping"


_RANK = {state: rank for rank, state in enumerate(State)}


class Condition(NamedTuple):
    """Something that is not as it should be."""

    part: str  # a host, a plugin, an exchange or a channel of its, the journal, the kernel
    reason: str
    state: State = State.DEGRADED
    about: str = ""  # what stays the same where the reason counts seconds: it is the same condition still


class Health:
    """Keeps since when each condition holds."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self.since_ns = 0  # the state, in the time update() is given
        self._conditions: dict[tuple[str, str, State], tuple[int, Condition]] = {}

    def update(self, now_ns: int, conditions: Iterable[Condition]) -> State:
        """
        Take all *conditions* that hold at *now_ns*, and return what they come to.

        Args:
            now_ns: ns UTC, since a person will read it.
        """
        found: dict[tuple[str, str, State], tuple[int, Condition]] = {}
        for condition in conditions:
            key = (condition.part, condition.about or condition.reason, condition.state)
            since, _ = self._conditions.get(key, (now_ns, condition))
            found[key] = (since, condition)
        self._conditions = found
        state = max((condition.state for _, condition in found.values()), key=_RANK.__getitem__, default=None)
        self._turn(state or State.RUNNING, now_ns)
        return self.state

    def _turn(self, state: State, now_ns: int) -> None:
        self.since_ns = self.since_ns or now_ns
        if state is self.state:
            return
        because = next(
            (f"{c.part}: {c.reason}" for _, c in self._conditions.values() if c.state is state), ""
        )
        is_worse = state in (State.DEGRADED, State.HALTED)
        tell = logger.warning if is_worse else logger.info
        tell("kernel.state_changed", state=state.value, was=self.state.value, because=because)
        self.state, self.since_ns = state, now_ns

    @property
    def halted_by(self) -> str:
        """What halted trading, and why; "" while nothing has."""
        halting = (c for _, c in self._conditions.values() if c.state is State.HALTED)
        return next((f"{c.part}: {c.reason}" for c in halting), "")

    def report(self) -> list[dict[str, Any]]:
        """Return every part that does not do what it should, the longest first, ready for JSON."""
        degraded = [each for each in self._conditions.values() if each[1].state is State.DEGRADED]
        return [
            {"part": condition.part, "reason": condition.reason, "since_ns": since}
            for since, condition in sorted(degraded, key=lambda each: each[0])
        ]


def of_hosts(hosts: Iterable[Host], vital: Collection[str] = ()) -> list[Condition]:
    """
    Return what is wrong with *hosts*; one that a person stopped is as it should be.

    Args:
        vital: those without which nothing may trade; quarantined, they halt it.
    """
    return [
        Condition(
            host.name,
            _SAID[host.phase] + (f": {host.reason}" if host.reason else ""),
            State.HALTED if host.phase is HostPhase.QUARANTINED and host.name in vital else State.DEGRADED,
            "host",
        )
        for host in hosts
        if host.phase in _SAID
    ]


_SAID = {
    HostPhase.WAITING: "waits for the hosts that it needs",
    HostPhase.DOWN: "down, and will be started again",
    HostPhase.STARTING: "starting",
    HostPhase.STOPPING: "stopping",
    HostPhase.QUARANTINED: "quarantined",
}


def of_plugins(failed: Mapping[str, str]) -> list[Condition]:
    """Return the plugins that were set aside, with the reason."""
    return [Condition(plugin, f"failed at {reason}", about="failed") for plugin, reason in failed.items()]


def of_feeds(lost: Mapping[str, str]) -> list[Condition]:
    """Return the exchanges whose feed is lost, with the reason."""
    return [Condition(name, f"feed lost: {reason}", about="feed") for name, reason in lost.items()]


def of_channels(lost: Mapping[str, str]) -> list[Condition]:
    """Return the channels that are lost while their feed is not, with the reason."""
    return [Condition(name, f"channel lost: {reason}", about="channel") for name, reason in lost.items()]


def of_journal(error: Exception | None) -> list[Condition]:
    """Return the halt that a journal which cannot be written is."""
    return [Condition("journal", str(error), State.HALTED, "error")] if error else []


def of_halt(halted_by: str) -> list[Condition]:
    """Return the halt that *halted_by*, "source: reason" or "", tells of."""
    source, _, reason = halted_by.partition(": ")
    return [Condition(source, reason, State.HALTED)] if halted_by else []


class _Bird:
    """Where the canaries are with one host."""

    def __init__(self) -> None:
        self.returned = 0
        self.round_trip_ns = 0
        self.lost_since = 0  # monotonic; 0 while they come back
        self.lost_after = 0  # what had been returned by then


class Canary:
    """Follows the canaries; times are monotonic, ns."""

    def __init__(self) -> None:
        self._sent: dict[int, int] = {}
        self._ordered: dict[int, int] = {}  # when the first source had pushed it
        self._birds: dict[str, _Bird] = {}

    def sent(self, number: int, now: int) -> None:
        """The sources have been told to let this one out; numbers rise by one."""
        self._sent[number] = now
        if len(self._sent) > CANARIES_KEPT:
            oldest = next(iter(self._sent))
            del self._sent[oldest]
            self._ordered.pop(oldest, None)

    def returned(self, host: str, number: int, now: int) -> None:
        """
        This one has come as far as *host*, a source that lets it out or a consumer.

        What was not sent lately is of an earlier session, and says nothing about now.
        """
        if number not in self._sent:
            return
        self._ordered.setdefault(number, now)
        bird = self._birds.setdefault(host, _Bird())
        if number > bird.returned:
            bird.returned, bird.round_trip_ns = number, now - self._sent[number]

    def conditions(self, now: int, hosts: Collection[Host]) -> list[Condition]:
        """Return the *hosts* that are ready and do not hand back what they should."""
        found = []
        for host in hosts:
            if host.phase is not HostPhase.READY or host.role is Role.PAGE:
                self._birds.pop(host.name, None)
            elif age := self._lost_for(host, now):
                reason = f"no canary for {age / NS_PER_S:.1f} s"
                found.append(Condition(host.name, reason, about="canary"))
        return found

    def _lost_for(self, host: Host, now: int) -> int:
        """Return how long the canary that *host* should hand back next has been out; 0 while it may be."""
        bird = self._birds.setdefault(host.name, _Bird())
        # A consumer cannot hand back what no source has let out: that is the source's condition.
        out = self._sent if host.role is Role.SOURCE else self._ordered
        first = min((number for number in out if number > bird.returned), default=0)
        age = now - max(out[first], host.ready_at) if first else 0
        if bird.lost_since:
            if bird.returned == bird.lost_after:
                return now - bird.lost_since
            if age < CANARY_LIMIT_NS:
                trip_ms = round(bird.round_trip_ns / NS_PER_MS, 1)
                logger.info("canary.returned", host=host.name, round_trip_ms=trip_ms)
                bird.lost_since = 0
                return 0
            return age
        # Two must have followed: a kernel that stood still has not waited, it was away.
        if age < CANARY_LIMIT_NS or max(out) < first + 2:
            return 0
        logger.warning("canary.lost", host=host.name, for_s=round(age / NS_PER_S, 1))
        bird.lost_since, bird.lost_after = now - age, bird.returned
        return age

    def report(self) -> dict[str, float]:
        """Return how long the last canary took to each host and back, ms, ready for JSON."""
        return {
            name: round(bird.round_trip_ns / NS_PER_MS, 3)
            for name, bird in sorted(self._birds.items())
            if bird.returned
        }
