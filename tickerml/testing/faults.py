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


_HOST_KINDS = frozenset(
    {
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
}


class Fault(msgspec.Struct, frozen=True):
    """One of them: when, what, to whom, for how long, and how much of it (a fraction)."""

    at: int  # ns since the world began
    kind: Kind
    host: str = ""
    span: int = 0  # ns
    amount: float = 0.0
    is_at_end: bool = False  # at counts from when the run first begins to end, not from its beginning

    def __str__(self) -> str:
        text = f"{self.at / NS_PER_S:9.4f} s{' into the end' * self.is_at_end}  {self.kind.value}"
        if self.host:
            text += f" {self.host}"
        if self.span:
            text += f" for {self.span / NS_PER_S:.3f} s"
        return f"{text} ({self.amount:.2f})"


def draw(rng: Random, hosts: list[str], horizon: int) -> list[Fault]:
    """
    Return the faults of a run, in the order of their times.

    Args:
        hosts: the names of its hosts.
        horizon: the time within which they fall, ns.
    """
    kinds = list(Kind)
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
    return sorted(faults, key=lambda fault: fault.at)


def _draw_one(rng: Random, kind: Kind, hosts: list[str], horizon: int) -> Fault:
    span = 0
    if kind in _SPANS:
        shortest, longest = _SPANS[kind]
        span = int(shortest * (longest / shortest) ** rng.random())  # short ones as often as long ones
    host = rng.choice(hosts) if kind in _HOST_KINDS else ""
    is_at_end = rng.random() < AT_END
    at = int(rng.random() * (END_NS if is_at_end else horizon))
    return Fault(at, kind, host, span, round(rng.random(), 3), is_at_end)
