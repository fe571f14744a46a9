"""
What goes wrong in a run: drawn from its seed before it begins, so that each can be left out again.

A seed does not have every fault at once: it first draws which kinds it will have, so that
some runs are one long power failure and others a slow network with a person at the
controls. A fault that finds nothing to break (the host is down already) passes unnoticed.
"""

import enum
from random import Random

import msgspec

from tickerml.kernel.units import NS_PER_MS, NS_PER_S


class Kind(enum.StrEnum):
    """One thing that can go wrong, or that a person can do."""

    KILL_HOST = "kill-host"
    CRASH_HOST = "crash-host"  # between two effects of one step
    DOOM_HOST = "doom-host"  # killed again and again, as soon as it is back
    STALL_HOST = "stall-host"
    PART_HOST = "part-host"
    ZOMBIE_HOST = "zombie-host"  # the kernel believes it dead, and it goes on
    KILL_KERNEL = "kill-kernel"
    CRASH_KERNEL = "crash-kernel"
    STALL_KERNEL = "stall-kernel"
    LOSE_POWER = "lose-power"
    SLOW_NETWORK = "slow-network"
    DROP_BUS = "drop-bus"
    REPEAT_BURST = "repeat-burst"
    LOSE_BURST = "lose-burst"
    SLOW_DISK = "slow-disk"
    FULL_DISK = "full-disk"
    READ_ONLY_DISK = "read-only-disk"
    FAILING_DISK = "failing-disk"
    AMBIGUOUS_DISK = "ambiguous-disk"
    PANICKING_DISK = "panicking-disk"
    LYING_DISK = "lying-disk"
    FLIP_BIT = "flip-bit"
    TEAR_VALUE = "tear-value"
    SET_CLOCK = "set-clock"
    HALT = "halt"
    RESUME = "resume"
    STATUS = "status"
    RESTART = "restart"
    RELOAD = "reload"  # a host's process is replaced by another of the same plan
    SHADOW = "shadow"  # the same, after a while in which the other one is compared
    RECONFIGURE = "reconfigure"  # the same, with options that make no difference
    NEW_STATE = "new-state"  # the same, by one whose states the one before cannot read
    GUEST = "guest"  # a strategy comes in a host of its own, or goes
    RULE = "rule"  # a risk rule comes in a host of its own, or goes: the gate with it
    CANCEL = "cancel"
    SETTLE = "settle"


class Flaw(enum.StrEnum):
    """What is wrong with a process that is to take over, or with the one that is to let go."""

    IMPORT = "dies at import"
    BUILD = "builds a plugin less"
    OVERREACH = "presents what it may not"
    DEAF = "hangs in standby"
    REFUSAL = "refuses the state"
    STUCK = "hangs at the takeover"
    FLEETING = "dies in the takeover"
    FRAIL = "dies in probation"
    RAISING = "raises in probation"
    TRESPASS = "publishes what it may not"
    HOLDING = "the present one hangs at the barrier"
    FALLING = "the present one dies at the barrier"
    KERNEL = "the kernel dies in the middle"


#: What a person asks for that a process be replaced, and how often of each hundred changes.
_CHANGES = {
    Kind.RELOAD: 37,
    Kind.SHADOW: 26,
    Kind.RECONFIGURE: 10,
    Kind.NEW_STATE: 11,
    Kind.GUEST: 8,
    Kind.RULE: 8,
}
CHANGES = frozenset(_CHANGES)
PLUGGING = frozenset({Kind.GUEST, Kind.RULE})  # changes of no host that there is from the beginning
_DAMAGE = frozenset({Kind.FLIP_BIT, Kind.TEAR_VALUE, Kind.LYING_DISK})
STEERING = frozenset({Kind.CANCEL, Kind.SETTLE})
_BREAKING = [
    Kind.KILL_HOST,
    Kind.CRASH_HOST,
    Kind.STALL_HOST,
    Kind.KILL_KERNEL,
    Kind.CRASH_KERNEL,
    Kind.RESTART,
    Kind.FAILING_DISK,
]
_STEERING = [Kind.CANCEL, Kind.SETTLE, Kind.SETTLE, Kind.RELOAD]
#: Those that are about one host.
HOST_KINDS = frozenset(
    {
        *(CHANGES - PLUGGING),
        Kind.KILL_HOST,
        Kind.CRASH_HOST,
        Kind.DOOM_HOST,
        Kind.STALL_HOST,
        Kind.PART_HOST,
        Kind.ZOMBIE_HOST,
        Kind.DROP_BUS,
        Kind.REPEAT_BURST,
        Kind.LOSE_BURST,
    }
)
AT_END = 0.15  # how many of the faults fall into the end of the run, which is short and delicate
END_NS = 200 * NS_PER_MS
SOURCE = "market"  # the host whose answers no bus can bring about, and that has no shadow
NEAR_NS = 600 * NS_PER_MS  # from a change to what breaks in it

#: How long the lasting ones last, ns.
_SPANS: dict[Kind, tuple[int, int]] = {
    Kind.STALL_HOST: (20 * NS_PER_MS, 3 * NS_PER_S),
    Kind.STALL_KERNEL: (20 * NS_PER_MS, 60 * NS_PER_S),
    Kind.PART_HOST: (20 * NS_PER_MS, 2 * NS_PER_S),
    Kind.ZOMBIE_HOST: (20 * NS_PER_MS, 2 * NS_PER_S),
    Kind.SLOW_NETWORK: (50 * NS_PER_MS, NS_PER_S),
    Kind.DROP_BUS: (20 * NS_PER_MS, NS_PER_S),
    Kind.SLOW_DISK: (50 * NS_PER_MS, 2 * NS_PER_S),
    Kind.FULL_DISK: (20 * NS_PER_MS, 3 * NS_PER_S),
    Kind.READ_ONLY_DISK: (20 * NS_PER_MS, 3 * NS_PER_S),
    Kind.FAILING_DISK: (20 * NS_PER_MS, 2 * NS_PER_S),
    Kind.AMBIGUOUS_DISK: (5 * NS_PER_MS, 200 * NS_PER_MS),
    Kind.PANICKING_DISK: (5 * NS_PER_MS, 200 * NS_PER_MS),
    Kind.LYING_DISK: (20 * NS_PER_MS, NS_PER_S),
    Kind.SHADOW: (20 * NS_PER_MS, NS_PER_S),
}


class Fault(msgspec.Struct, frozen=True):
    """One of them: when, what, to whom, for how long, and how much of it (a fraction)."""

    at: int  # ns since the world began
    kind: Kind
    host: str = ""
    span: int = 0  # ns
    amount: float = 0.0
    is_at_end: bool = False  # at counts from when the run first begins to end, not from its beginning
    flaw: str = ""  # of a change: what is wrong with the process that comes, or the one that goes

    def __str__(self) -> str:
        text = f"{self.at / NS_PER_S:9.4f} s{' into the end' * self.is_at_end}  {self.kind.value}"
        if self.host:
            text += f" {self.host}"
        if self.span:
            text += f" for {self.span / NS_PER_S:.3f} s"
        return f"{text} ({self.amount:.2f})" + f": {self.flaw}" * bool(self.flaw)


def draw(rng: Random, hosts: list[str], horizon: int) -> list[Fault]:
    """
    Return the faults of a run, in the order of their times.

    Args:
        hosts: the names of its hosts.
        horizon: the time within which they fall, ns.
    """
    kinds = [kind for kind in Kind if kind not in CHANGES | STEERING]
    chosen = rng.sample(kinds, rng.randint(1, 7))
    if rng.random() < 0.5:
        chosen.append(Kind.KILL_HOST)
    if rng.random() < 0.4:
        chosen.append(Kind.KILL_KERNEL)
    is_storm = rng.random() < 0.08
    count = rng.randint(15, 40) if is_storm else rng.randint(1, 9)
    horizon *= 3 if is_storm else 1
    faults = [_draw_one(rng, rng.choice(chosen), hosts, horizon) for _ in range(count)]
    for halt in [fault for fault in faults if fault.kind is Kind.HALT]:
        if rng.random() < 0.6:
            at = halt.at + int(rng.random() * horizon / 3)
            faults.append(Fault(at, Kind.RESUME, amount=round(rng.random(), 3)))
    if rng.random() < 0.7:
        changes = draw_changes(rng, hosts, horizon)
        # What was decided by other rules than the present ones cannot be told from what is left of a journal.
        is_whole = not any(fault.kind in _DAMAGE for fault in faults)
        faults += [fault for fault in changes if is_whole or fault.kind is not Kind.RULE]
    return sorted(faults, key=lambda fault: fault.at)


def draw_changes(rng: Random, hosts: list[str], horizon: int) -> list[Fault]:
    """
    Return what a person changes while it runs, and what breaks just then.

    Args:
        hosts: the names of its hosts.
        horizon: the time within which it falls, ns.
    """
    found = []
    for _ in range(rng.choice([1, 1, 2, 3, 5])):
        (kind,) = rng.choices(list(_CHANGES), list(_CHANGES.values()))
        flaw = rng.choice(list(Flaw)) if rng.random() < 0.4 else ""
        of = [host for host in hosts if host != SOURCE] if kind is Kind.SHADOW else hosts
        change = msgspec.structs.replace(_draw_one(rng, kind, of, horizon), flaw=flaw, is_at_end=False)
        found.append(change)
        if rng.random() < 0.4:
            found.append(_draw_near(rng, rng.choice(_BREAKING), change, hosts))
        while rng.random() < 0.35:
            found.append(_draw_near(rng, rng.choice(_STEERING), change, hosts))
    return found


def _draw_near(rng: Random, kind: Kind, change: Fault, hosts: list[str]) -> Fault:
    """Return a fault of *kind* while *change* is under way."""
    at = change.at + int(rng.random() ** 2 * NEAR_NS)
    host = change.host if kind in HOST_KINDS and change.host else ""
    fault = _draw_one(rng, kind, [host] if host else hosts, at)
    return msgspec.structs.replace(fault, at=at, is_at_end=False)


def _draw_one(rng: Random, kind: Kind, hosts: list[str], horizon: int) -> Fault:
    span = 0
    if kind in _SPANS:
        shortest, longest = _SPANS[kind]
        span = int(shortest * (longest / shortest) ** rng.random())  # short ones as often as long ones
    host = rng.choice(hosts) if kind in HOST_KINDS else ""
    is_at_end = rng.random() < AT_END
    at = int(rng.random() * (END_NS if is_at_end else horizon))
    return Fault(at, kind, host, span, round(rng.random(), 3), is_at_end)
