"""
One run of the whole system in one thread: processes, links, disk and time, and what goes wrong.

The production code runs here unchanged; only its edges are the world's. One seeded stream of
random numbers decides everything that is left open, and events happen in the order of their
virtual times, so a seed and a commit give the same run every time.

The world plays everybody around the system as well: the guard that starts a kernel again, the
person who sends commands, repairs a damaged journal and restarts what was quarantined. When the
last fault is over, the run has a limited time in which to finish by itself.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from tickerml.kernel import codec, control, repair, runs
from tickerml.kernel.berths import host_of
from tickerml.kernel.clock import DATA_CLOCK_START_NS
from tickerml.kernel.config import Plan
from tickerml.kernel.errors import StoreCorrupt, StoreError
from tickerml.kernel.journal_reader import JournalReader
from tickerml.kernel.supervisor import HostPhase
from tickerml.kernel.units import NS_PER_MS, NS_PER_S

from .agenda import Agenda, Clock
from .disk import Disk, StoredFile, Trouble
from .faults import CHANGES, Fault, Flaw, Kind
from .kernel_process import KernelProcess
from .network import Pipe
from .oracle import Violation
from .outsider import ReaderProcess
from .person import Person
from .processes import FUSES, JOURNAL, Client, HostProcess, between
from .scenario import Scenario
from .trace import Trace
from .watch import Watch

PATIENCE_NS = 200 * NS_PER_S  # from the last fault to the end of the run
MAX_STEPS = 400_000
MOST_REPAIRS = 4
GUARD_NS = (50 * NS_PER_MS, 400 * NS_PER_MS)  # from a kernel's end to its next start
WALL_START_NS = DATA_CLOCK_START_NS + 86_400 * NS_PER_S

_TROUBLES = {
    Kind.FULL_DISK: Trouble.FULL,
    Kind.READ_ONLY_DISK: Trouble.READ_ONLY,
    Kind.FAILING_DISK: Trouble.ERROR,
    Kind.AMBIGUOUS_DISK: Trouble.AMBIGUOUS,
    Kind.PANICKING_DISK: Trouble.PANIC,
}
_TOLD = (b"order.", b"fill.", b"control.")  # topics of which each type is counted at the end
_TABLES = ((0.5, b"log"), (0.75, b"checkpoints"), (0.9, b"kept"), (1.0, b"meta"))


class World:
    """Everything there is in one run."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        self.scenario = scenario
        self.trace = trace
        self.agenda = Agenda()
        self.rng = Random(scenario.seed * 2 + 1)
        self.disk = Disk(Random(scenario.seed * 2 + 2))
        self.wall = Clock(self.agenda, wall=WALL_START_NS)
        self.seen: Counter[str] = Counter()
        self.active: HostProcess | None = None  # whose step it is, among the hosts
        self.disk_delay = 0
        self.is_over = False
        self.is_damaged = False
        self.outcome = ""
        started_ns = WALL_START_NS if scenario.is_wall else DATA_CLOCK_START_NS
        self.watch = Watch(scenario, started_ns)
        self.client = Client(self)
        self.person = Person(self)
        self.kernel: KernelProcess | None = None
        self.reader = ReaderProcess(self, self.clock())
        self._run = runs.Run(profile="world", number=1, fingerprint="", started_ns=started_ns)
        self._pids = self._repairs = 0
        self._has_ended = False
        self._deadline = 0
        self._doomed: dict[str, int] = {}  # how often each host will be killed soon after its start

    @property
    def file(self) -> StoredFile:
        """The journal as it lies on the disk."""
        return self.disk.files.get(str(JOURNAL)) or StoredFile()

    # --- Running ------------------------------------------------------------------------------

    def run(self) -> None:
        """
        Run to the end.

        Raises: Violation.
        """
        scenario = self.scenario
        self.saw(f"paced {_pace(scenario)}")
        if len(scenario.plan.consumers()) > 1:
            self.saw("rules in a host of their own")
        if "exchange-doubtful" in scenario.plan.ids("exchange"):
            self.saw("feed in doubt")
        self._plan([fault for fault in scenario.faults if not fault.is_at_end], 0)
        self._start_kernel()
        self.agenda.at(scenario.calm_at + 2 * NS_PER_S, self._look_after)
        self._deadline = scenario.calm_at + PATIENCE_NS
        while not self.is_over:
            if self.agenda.is_empty:
                raise Violation("nothing will ever happen again, and the run is not over")
            self.agenda.step()
            if self.agenda.now > self._deadline or self.agenda.steps > MAX_STEPS:
                raise Violation(f"the run did not finish after its faults had ended: {self._standing()}")

    def _plan(self, faults: list[Fault], since: int) -> None:
        for fault in faults:
            self.agenda.at(since + fault.at, lambda fault=fault: self._break(fault))  # type: ignore[misc]

    def ending(self) -> None:
        """The run begins to end, maybe for the first time."""
        if not self._has_ended:
            self._has_ended = True
            now = self.agenda.now
            self._plan([fault for fault in self.scenario.faults if fault.is_at_end], now)
            self._deadline = max(self._deadline, now + self.scenario.calm_at + PATIENCE_NS)

    def _standing(self) -> str:
        if self.kernel is None:
            return "there is no kernel"
        kernel = self.kernel.kernel
        hosts = ", ".join(
            f"{host.name} {host.phase.value} at {host.position}" for host in kernel.supervisor.hosts.values()
        )
        return f"seq {kernel.sequencer.seq}, {hosts}, journal {self.kernel.writer.error or 'well'}"

    def saw(self, name: str, count: int = 1) -> None:
        """Count something for the coverage."""
        self.seen[name] += count

    def note(self, who: str, what: str) -> None:
        """Write down what happens, where somebody wants to read it."""
        self.trace.note(self.agenda.now, who, what)

    def next_pid(self) -> int:
        """Return the number of a new process."""
        self._pids += 1
        return self._pids

    def clock(self) -> Clock:
        """Return the clock of a new process."""
        drift = int(self.scenario.drift_ppm * (2 * self.rng.random() - 1))
        return Clock(self.agenda, offset=self.rng.randrange(NS_PER_S), drift_ppm=drift)

    def service_ns(self, machine: object) -> int:
        """Return how long a host works until it is stepped again, at least."""
        if type(machine).__name__ == "Source":
            return between(self.rng, self.scenario.service)
        return 100_000

    def joining_ns(self) -> int:
        """Return how long a subscription takes to work."""
        return between(self.rng, (0, 3 * NS_PER_MS)) if self.rng.random() < 0.8 else 300 * NS_PER_MS

    def to_kernel(self, pipe: Pipe, data: bytes) -> None:
        """Put *data* on its way to the kernel."""
        pipe.send(self.agenda.now, data)
        if self.kernel is not None and pipe.next_at is not None:
            self.kernel.wake(pipe.next_at)

    # --- Processes ----------------------------------------------------------------------------

    def _start_kernel(self) -> None:
        if self.kernel is not None or self.is_over:
            return
        self.client.reconnect()
        try:
            kernel = KernelProcess(self, self.clock(), self._run)
        except StoreCorrupt as error:
            self._meet_damage(error)
            return
        except StoreError as error:
            self.note("guard", f"no kernel: {error}")
            if self.disk.trouble is Trouble.NONE:
                raise Violation(f"a kernel refused a disk with nothing the matter: {error}") from None
            self.agenda.after(500 * NS_PER_MS, self._start_kernel)
            return
        self.saw("kernel session")
        self.saw("kernel recovered", int(kernel.kernel.sequencer.seq > 0))
        self.saw("journal cut and trading halted", int(bool(kernel.repaired)))
        self.reader.wake(self.agenda.now + between(self.rng, GUARD_NS))
        self.note("guard", f"a kernel starts after seq {kernel.kernel.sequencer.seq} {kernel.repaired}")
        self.kernel = kernel
        kernel.wake(self.agenda.now)

    def _meet_damage(self, error: StoreCorrupt) -> None:
        self.note("guard", f"no kernel: {error}")
        if not self.is_damaged:
            raise Violation(f"a journal that nobody damaged was refused: {error}")
        self.saw("kernel refused a damaged journal")
        self._repair("refused")

    def _repair(self, otherwise: str) -> None:
        """Do what `tickerml journal repair` does; end the run as *otherwise* where that is no help."""
        consumers = self.person.plan.consumers()
        self._repairs += 1
        try:
            with contextlib.closing(JournalReader(JOURNAL, opener=self.disk.open)) as reader:
                needed = repair.Examination(reader, consumers).find_cut()
            if needed is None or self._repairs > MOST_REPAIRS:
                self.finish(otherwise)
                return
            told = repair.cut(JOURNAL, needed.seq, needed.reason, opener=self.disk.open, aside=self.set_aside)
        except StoreCorrupt as error:
            self.note("person", f"cannot repair it: {error}")
            self.finish(otherwise)
            return
        except StoreError as error:
            told = str(error)
        self.saw("journal repaired by a person")
        self.note("person", told)
        self.watch.is_broken = True
        self.reader.begin_again()
        self.agenda.after(500 * NS_PER_MS, self._start_kernel)

    def finish(self, outcome: str) -> None:
        """End the run."""
        self.outcome = outcome
        self.is_over = True
        for frame in self.watch.frames:
            if frame.topic.startswith(_TOLD):
                self.saw(_words(type(codec.decode(frame.body)).__name__))

    def kernel_gone(
        self, reason: str, *, is_committing: bool = False, is_clean: bool = False, restarts: bool = True
    ) -> None:
        """The kernel has ended, and its hosts with it; the guard will start another."""
        kernel = self.kernel
        if kernel is None:
            return
        self.note("kernel", reason)
        if not is_clean:
            kernel.die(is_committing=is_committing)
        for process in kernel.speakers.values():
            process.is_alive = False
        self.kernel = None
        if restarts:
            self.agenda.after(between(self.rng, GUARD_NS), self._start_kernel)

    def completed(self, summary: dict[str, Any]) -> None:
        """The run has come to its end by itself."""
        self.note("kernel", "the run is complete")
        assert self.kernel is not None
        for host in self.kernel.kernel.supervisor.hosts.values():
            if host.phase is HostPhase.QUARANTINED and host.name in self.person.plan.consumers():
                raise Violation(f"the run was called complete while host {host.name} was quarantined")
        if self.kernel.kernel.plan != self.person.plan:
            raise Violation("the run was called complete, and what ran is not what the file says")
        self.watch.ended(summary, self.person.plan)
        self.reader.finish(self.watch.frames)
        self.saw("run complete")
        self.finish("complete")

    def spawn(self, name: str, token: str, plan: Plan) -> HostProcess:
        """
        Start the process *name*, with what *plan* grants its host.

        Raises: Violation: there is one of this name.
        """
        assert self.kernel is not None
        if (before := self.kernel.hosts.get(name)) and before.is_alive and not before.is_zombie:
            raise Violation(f"a process {name} was started beside process {before.pid} of that name")
        host = host_of(name)
        flaw = self.person.flaws.pop(host, None)
        if self.kernel.kernel.berths.is_active(name) and flaw not in (Flaw.IMPORT, Flaw.OVERREACH):
            flaw = None  # the others are those of a candidate
        process = HostProcess(self, name, self.next_pid(), token, plan, flaw)
        self.note(name, f"starts as {process.pid} {flaw or ''}")
        self.kernel.spawned(process)
        self.kernel.speakers[process.identity] = process
        process.wake(self.agenda.now + between(self.rng, (NS_PER_MS, 30 * NS_PER_MS)))
        if self._doomed.get(host):
            self._doomed[host] -= 1
            delay = between(self.rng, (10 * NS_PER_MS, 500 * NS_PER_MS))
            self.agenda.after(delay, lambda: self.kill_host(process, "doomed"))
        return process

    def kill_host(self, process: HostProcess, reason: str) -> None:
        """End a process; what it has sent may still arrive, late, or in part."""
        if process.is_alive:
            process.is_alive = False
            fate = self.rng.random()
            kept = 1.0 if fate < 0.4 else 0.0 if fate < 0.6 else self.rng.random()
            delay = between(self.rng, (0, 500 * NS_PER_MS)) if self.rng.random() < 0.3 else 0
            self.host_ended(process, f"killed: {reason}", kept=kept, delay=delay)

    def host_ended(self, process: HostProcess, reason: str, *, kept: float, delay: int) -> None:
        """A process is gone: the kernel will notice, and what it has sent is on its way."""
        for pipe in (process.outlet, process.said):
            pipe.orphan(kept, delay)
        if self.kernel is not None and not process.is_zombie:
            self.kernel.lost(process)
            self.kernel.exits.append((process, reason))
            for pipe in (process.outlet, process.said):
                if pipe.next_at is not None:
                    self.kernel.wake(pipe.next_at)

    # --- People -------------------------------------------------------------------------------

    def answered(self, message: Any) -> None:
        """
        The client hears *message*.

        Raises: Violation: it is told that something is so which is not.
        """
        match message:
            case control.Done(seq=seq):
                reason = self.watch.reason_at(seq)
                # A restart is answered at once, with the head: it promises nothing of what stands there.
                is_promise = seq <= self.watch.durable or not self.client.restarts
                if reason in self.client.reasons and is_promise:
                    self.client.reasons.discard(reason)
                    self.watch.promised(seq, reason)
                    self.saw("acknowledged")
            case control.Accepted():
                self.saw("change accepted")
            case control.Refused(reason=reason):
                self.saw("refused")
                self.note("person", f"is refused: {reason}")
                self.saw("change refused", int("is under way:" in reason))

    def _look_after(self) -> None:
        """A person restarts what was quarantined, once the trouble is over."""
        if self.is_over:
            return
        hosts = self.kernel.kernel.supervisor.hosts.values() if self.kernel else ()
        if any(host.phase is HostPhase.QUARANTINED for host in hosts):
            if self.is_damaged:
                self.kernel_gone("killed by a person, to repair its journal", restarts=False)
                self._repair("abandoned")
            else:
                self.client.ask_to_restart()
        if not self.is_over:
            self.agenda.after(2 * NS_PER_S, self._look_after)

    def set_aside(self, path: Path, rows: Iterable[bytes]) -> None:
        """Keep what a repair cuts off: count it."""
        self.note("repair", f"set {sum(1 for _ in rows)} rows aside as {path}")

    # --- Faults -------------------------------------------------------------------------------

    def _break(self, fault: Fault) -> None:
        if self.is_over:
            return
        self.note("fault", f"{fault.kind.value} {fault.host} {fault.span / NS_PER_S:.3f} s {fault.amount}")
        if self._apply(fault):
            self.saw(f"fault {fault.kind.value}")

    def _apply(self, fault: Fault) -> bool:
        """Let it happen; returns whether there was anything to break."""
        kernel, kind = self.kernel, fault.kind
        if kind in _TROUBLES:
            self._trouble_disk(_TROUBLES[kind], fault.span)
            return True
        match kind:
            case Kind.SLOW_DISK:
                self.disk_delay = int(fault.amount * 200 * NS_PER_MS)
                self.agenda.after(fault.span, self._speed_up)
            case Kind.LYING_DISK:
                self.disk.set_lying(True)
                self.agenda.after(fault.span, lambda: self._stop_lying(fault))
            case Kind.FLIP_BIT | Kind.TEAR_VALUE:
                return self._damage(fault)
            case Kind.SET_CLOCK:
                self.wall.set_wall(int((fault.amount - 0.5) * 7_200 * NS_PER_S))
            case _ if kind in CHANGES:
                return self.person.ask(fault)
            case _ if kernel is None:
                return False
            case _ if fault.host:
                processes = kernel.alive(fault.host)
                return bool(processes) and self._apply_to_host(fault, self.rng.choice(processes))
            case _:
                self._apply_to_kernel(fault, kernel)
        return True

    def _trouble_disk(self, trouble: Trouble, span: int) -> None:
        self.disk.trouble = trouble

        def mend() -> None:
            if self.disk.trouble is trouble:
                self.disk.trouble = Trouble.NONE

        self.agenda.after(span, mend)

    def _speed_up(self) -> None:
        self.disk_delay = 0

    def _stop_lying(self, fault: Fault) -> None:
        if self.disk.is_lying and fault.amount < 0.8 and not self.is_over:
            self._lose_power(fault)
        self.disk.set_lying(False)

    def _lose_power(self, fault: Fault) -> None:
        self.kernel_gone("the power failed", is_committing=fault.amount < 0.4)
        if lost := self.disk.lose_power():
            self.saw("commits lost with the power", lost)
            self.note("disk", f"lost {lost} commits that it had said were safe")
            self.watch.is_broken = True
            self.reader.begin_again()

    def _damage(self, fault: Fault) -> bool:
        table = next(name for limit, name in _TABLES if fault.amount <= limit)
        self.kernel_gone("killed, and the disk damaged")
        if not (keys := self.file.tables[table].keys if table in self.file.tables else []):
            return False
        key = self.rng.choice(keys[-8:])
        self.is_damaged = self.watch.is_broken = True
        self.reader.begin_again()
        change = self.disk.flip_bit if fault.kind is Kind.FLIP_BIT else self.disk.tear
        change(str(JOURNAL), table, key)
        self.note("disk", f"damages {table.decode()} {key!r}")
        return True

    def _apply_to_kernel(self, fault: Fault, kernel: KernelProcess) -> None:
        match fault.kind:
            case Kind.KILL_KERNEL:
                self.kernel_gone("killed", is_committing=fault.amount < 0.5)
            case Kind.LOSE_POWER:
                self._lose_power(fault)
            case Kind.CRASH_KERNEL:
                kernel.light_fuse(1 + int(fault.amount * FUSES))
            case Kind.STALL_KERNEL:
                kernel.stall(self.agenda.now + fault.span)
            case Kind.SLOW_NETWORK:
                for process in kernel.speakers.values():
                    for pipe in process.pipes:
                        pipe.slow(int(fault.amount * 50 * NS_PER_MS), self.agenda.now + fault.span)
            case Kind.HALT:
                self.client.ask(lambda reason: control.HaltRequest("person", reason))
            case Kind.RESUME:
                self.client.ask(lambda reason: control.ResumeRequest("person", reason))
            case Kind.CANCEL:
                self.client.ask(control.CancelRequest)
            case Kind.SETTLE:
                self.client.ask(lambda reason: control.SettleRequest())
            case Kind.STATUS:
                self.client.ask(lambda reason: control.StatusRequest())
            case Kind.RESTART:
                self.client.ask_to_restart()

    def _apply_to_host(self, fault: Fault, process: HostProcess) -> bool:
        now = self.agenda.now
        match fault.kind:
            case Kind.KILL_HOST:
                self.kill_host(process, "by the world")
            case Kind.DOOM_HOST:
                self._doomed[process.host] = 2 + int(fault.amount * 4)
                self.kill_host(process, "doomed")
            case Kind.CRASH_HOST:
                process.light_fuse(1 + int(fault.amount * FUSES))
            case Kind.STALL_HOST:
                process.stall(now + fault.span)
            case Kind.PART_HOST:
                for pipe in process.pipes:
                    pipe.part(now + fault.span)
            case Kind.ZOMBIE_HOST:
                self._make_zombie(process, fault.span)
            case Kind.DROP_BUS:
                process.subscription.drop_rate = 0.05 + 0.9 * fault.amount
                self.agenda.after(fault.span, process.stop_dropping)
            case Kind.REPEAT_BURST:
                return process.outlet.repeat(now)
            case Kind.LOSE_BURST:
                process.outlet.lose_next()
        return True

    def _make_zombie(self, process: HostProcess, span: int) -> None:
        """Let the kernel believe that *process* is gone, while it goes on for a while."""
        assert self.kernel is not None
        self.kernel.exits.append((process, "lost from sight"))
        process.is_zombie = True
        for pipe in (process.outlet, process.heard):
            pipe.part(self.agenda.now + span)

        def die() -> None:
            if process.is_alive:
                self.kill_host(process, "a zombie no more")

        self.agenda.after(span, die)


def _words(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()


def _pace(scenario: Scenario) -> str:
    return {"max": "max", "1": "wall"}.get(scenario.plan.kernel.speed, "played")
