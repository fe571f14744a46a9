"""Tiers `swappable`, `deterministic` and `edge`: its state moves, its outputs repeat, and it fits on a Pi."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from tickerml.kernel.errors import StateRefused

from .contracts_rig import build, digest, run, same, scratch
from .contracts_subject import Broken, Check, Subject, expect
from .tiers_conforms import DRIVEN, undisturbed
from .tiers_probe import RELOADS, ask

CUTS = 20
GROWTH_LIMIT_MB = 10.0
MEMORY_LIMIT_MB = (
    64.0  # beyond the kit, where the manifest names no ram_mb: a Pi of 1 GB runs a dozen plugins
)
PI_FACTOR = 4  # a Raspberry Pi 4 takes about four times as long as the machine this is tried on
EVENT_LIMIT_US = 1_000 / PI_FACTOR  # so that on a Pi 99 of 100 events take less than a millisecond
STEP_FACTOR = 1_000  # a trainer's step may take a second on a Pi
WRITER_FACTOR = 20  # a sink or a store that writes files waits for a disk, and no order waits for it
ROUNDS = 3  # of timing, of which the best counts: a busy machine is not the plugin's fault
HASH_SEEDS = ("0", "1", "4242")


# --- Swappable ----------------------------------------------------------------------------------------


def cuts(subject: Subject) -> str:
    """Moved to a new build at 20 random places, it says exactly what it says undisturbed."""
    base = undisturbed(subject)
    places = random.Random(subject.id).sample(range(base.position), min(CUTS, base.position))
    moved = run(subject, places)
    same(base.outputs, moved.outputs, f"with its state moved at inputs {sorted(places)}")
    return f"{len(places)} cuts, {len(base.outputs)} outputs"


def repeats(subject: Subject) -> str:
    """What it has restored it writes down again as the same bytes, and writing down changes nothing."""
    with scratch() as directory:
        rig, number = build(subject, directory), 0
        while rig.step():
            number += 1
            if number % 97 == 0:
                saved = rig.component.snapshot()
                expect(isinstance(saved, bytes), f"snapshot() returns bytes, was {type(saved).__name__}")
                expect(rig.component.snapshot() == saved, "two snapshots in a row are not the same")
                fresh = build(subject, directory)
                rig.move_to(fresh)
                expect(
                    fresh.component.snapshot() == saved,
                    f"restored from {len(saved)} bytes at input {number}, it writes down other bytes",
                )
    return "the same bytes"


def damaged(subject: Subject) -> str:
    """A state that is cut short or no state at all is refused, and the plugin is not left half restored."""
    with scratch() as directory:
        rig = build(subject, directory)
        for _ in range(100):
            rig.step()
        saved = rig.component.snapshot()
        if not saved:
            return "it remembers nothing"
        for bad in (saved[: len(saved) // 2], b"\xc1" + saved, b""):
            try:
                build(subject, directory).component.restore(bad)
            except Exception:
                continue
            raise Broken(f"restore() took {len(bad)} damaged bytes, {bad[:12]!r}…, without a word")
    return "refused"


def versions(subject: Subject) -> str:
    """A state of the version before is taken through migrate(), or refused with StateRefused."""
    with scratch() as directory:
        old = build(subject, directory)
        for _ in range(50):
            old.step()
        now, component = subject.manifest.state_version, build(subject, directory).component
        migrate = getattr(component, "migrate", None)
        if migrate is None:
            return "the first version" if now == 1 else "refused by the kernel: it has no migrate()"
        try:
            component.restore(migrate(old.component.snapshot(), now - 1))
        except (StateRefused, msgspec.MsgspecError) as error:
            return f"{type(error).__name__}: {error}"
        except Exception as error:
            raise Broken(f"migrate() raised {type(error).__name__}: {error}; raise StateRefused") from error
    return "taken"


def reloads(subject: Subject) -> str:
    """Fifty reloads in one process make it grow by less than 10 MiB."""
    grown = float(ask("reloads", subject)["mb"])
    expect(grown < GROWTH_LIMIT_MB, f"{RELOADS} reloads grew the process by {grown:.1f} MiB")
    return f"{grown:+.1f} MiB after {RELOADS}"


# --- Deterministic ------------------------------------------------------------------------------------


def twice(subject: Subject) -> str:
    """Two runs over the same inputs say the same, byte for byte."""
    base = undisturbed(subject)
    same(base.outputs, run(subject).outputs, "in a second run")
    return f"{len(base.outputs)} outputs"


def hash_seed(subject: Subject) -> str:
    """The order of sets and the hashes of text, which vary from process to process, make no difference."""
    found = {seed: ask("digest", subject, PYTHONHASHSEED=seed)["digest"] for seed in HASH_SEEDS}
    expected = digest(undisturbed(subject).outputs)
    other = [seed for seed, was in found.items() if was != expected]
    expect(not other, f"it says something else with PYTHONHASHSEED={other[:1]}; does it iterate over a set?")
    return f"{len(found)} seeds"


def clock(subject: Subject) -> str:
    """No handler asks the machine for the time or for chance: those come from ctx."""
    tripped = ask("clock", subject)["tripped"]
    expect(not tripped, f"a handler called {'; '.join(tripped[:3])}; use ctx.clock.now() and ctx.uniform()")
    return "neither time nor chance"


# --- Edge ---------------------------------------------------------------------------------------------


def memory(subject: Subject) -> str:
    """It takes no more memory than its manifest says, or 64 MiB where that says nothing."""
    limit = subject.manifest.resources.ram_mb or MEMORY_LIMIT_MB
    taken = float(ask("memory", subject)["mb"])
    expect(taken < limit, f"it takes {taken:.0f} MiB, the most is {limit:.0f}; see resources.ram_mb")
    return f"{taken:.1f} MiB of {limit:.0f}"


def p99(subject: Subject) -> str:
    """99 of 100 events take less than 250 µs of processor time here, a millisecond on a Pi; writers more."""
    writes = subject.kind == "sink" or getattr(subject.load()[0], "writes_files", False)
    limit = EVENT_LIMIT_US * (STEP_FACTOR if subject.kind == "trainer" else WRITER_FACTOR if writes else 1)
    best = min(_p99_us(subject) for _ in range(ROUNDS))
    expect(best < limit, f"p99 {best:.0f} µs an event, the most is {limit:.0f}")
    return f"p99 {best:.0f} µs of {limit:.0f}"


def _p99_us(subject: Subject) -> float:
    taken: list[int] = []

    @contextmanager
    def timed() -> Iterator[None]:
        began = time.thread_time_ns()
        yield
        taken.append(time.thread_time_ns() - began)

    run(subject, around=timed)
    taken.sort()
    return taken[len(taken) * 99 // 100] / 1_000 if taken else 0.0


CHECKS = (
    Check("swappable.cuts", cuts, DRIVEN),
    Check("swappable.repeats", repeats, DRIVEN),
    Check("swappable.damaged", damaged, DRIVEN),
    Check("swappable.versions", versions, DRIVEN),
    Check("swappable.reloads", reloads, DRIVEN, limit_s=90.0),
    Check("deterministic.twice", twice, DRIVEN),
    Check("deterministic.hashseed", hash_seed, DRIVEN, limit_s=90.0),
    Check("deterministic.clock", clock, DRIVEN),
    Check("edge.memory", memory, DRIVEN),
    Check("edge.p99", p99, DRIVEN),
)
