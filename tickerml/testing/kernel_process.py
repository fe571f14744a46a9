"""
The kernel's process: one session, its edges, its journal's writer, and the loop around them.

The order of things is app.py's; what is a thread or a socket there is an event here. The
journal's writer commits when the disk gets to it, between two steps.
"""

from random import Random
from typing import Any

import msgspec

from tickerml.kernel import control, runs, topics
from tickerml.kernel.clock import WallClock
from tickerml.kernel.config import Plan
from tickerml.kernel.core import RESTART, Kernel, Settings
from tickerml.kernel.flow import Step
from tickerml.kernel.journal import JournalWriter
from tickerml.kernel.sequencer import Sequencer
from tickerml.kernel.units import NS_PER_S

from .agenda import Clock
from .change_watch import ChangeWatch
from .disk import Trouble
from .network import Pipe
from .processes import HOME, JOURNAL, RUN_DIR, Client, HostProcess, Process, between
from .surroundings import Surroundings

BURSTS = 64  # bursts taken in one step
RETRY_NS = NS_PER_S
_CANARY = topics.topic("canary")
_PACING = {control.Pause: "flow paused", control.Proceed: "flow proceeded"}


class KernelProcess(Process):
    """One session of the kernel: the Edges of its machine."""

    def __init__(self, world: Surroundings, clock: Clock, run: runs.Run) -> None:
        """
        Raises: StoreError: the journal cannot be opened or continued.
        """
        super().__init__(world, "kernel", clock)
        plan = world.person.plan
        recovered = runs.recover(
            JOURNAL, plan.consumers(), opener=world.disk.open, aside=world.set_aside, is_probed=False
        )
        self._wall = WallClock(world.wall.wall, clock.monotonic, not_before=recovered.written_ns)
        self.writer = JournalWriter(
            JOURNAL,
            map_mb=plan.kernel.map_mb,
            commit_ms=plan.kernel.commit_ms,
            hot_hours=plan.kernel.hot_hours,
            hosts=plan.hosts(),
            opener=world.disk.open,
            clock=self._wall.now,
            monotonic=clock.monotonic,
        )
        self.repaired = recovered.repaired
        world.watch.reopened(world.file, self.writer.committed, recovered.state)
        self.writer.put_meta(runs.RUN_KEY, msgspec.msgpack.encode(run))
        self._run = run
        self.kernel = Kernel(
            Settings(plan=plan, home=str(HOME)),
            self,
            self.writer,
            Sequencer(recovered.state),
            run=run,
            run_dir=RUN_DIR,
            token="token",
            rng=Random(world.rng.random()),
            repaired=recovered.repaired,
        )
        self.hosts: dict[str, HostProcess] = {}  # the processes by name, the last of each
        self.speakers: dict[bytes, HostProcess] = {}  # everybody who may still be heard, by identity
        self.exits: list[tuple[HostProcess, str]] = []
        self.client: Client = world.client
        self.pid = world.next_pid()
        self._is_listening = True
        self._ticks_at = 0
        self._commits_at = -1
        self._has_begun = False
        self._phases: dict[str, str] = {}
        self._change = ChangeWatch(self)
        self._had_error = False

    # --- The loop -----------------------------------------------------------------------------

    def step(self) -> None:
        now = self.world.agenda.now
        if not self._has_begun:
            self._has_begun = True
            self.kernel.begin()
        if self._is_listening:
            self._ingest(now)
        self._converse(now)
        if now >= self._ticks_at:
            self._ticks_at = now + self.world.scenario.tick
            self._reap()
            self.kernel.tick()
            self._change.tick()
            if self.kernel.ending.step is not Step.RUNNING:
                self.world.ending()
            self._note_phases()
        self._change.look()
        self.kernel.hand_over()
        self._plan_commit(now)
        if self.kernel.is_over:
            self._close()
        else:
            self._sleep(now)

    def _ingest(self, now: int) -> None:
        for _ in range(BURSTS):
            ready = [host.outlet for host in self.speakers.values() if host.outlet.is_ready(now)]
            if not ready:
                return
            pipe = ready[0] if len(ready) == 1 else self.world.rng.choice(ready)
            burst = pipe.take()
            if burst is pipe.last_taken:
                self.world.saw("inlet repeated")
            pipe.last_taken = burst
            self.kernel.take_burst(burst)

    def _converse(self, now: int) -> None:
        peers: list[tuple[bytes, Pipe]] = [(peer.identity, peer.said) for peer in self.speakers.values()]
        for identity, pipe in [*peers, (self.client.identity, self.client.said)]:
            while pipe.is_ready(now):
                self.kernel.take_control(identity, pipe.take())

    def _reap(self) -> None:
        exits, self.exits = self.exits, []
        for process, reason in exits:
            self.world.note(process.name, f"is gone: {reason}")
            self.kernel.exited(process.name, reason)
        for identity, process in list(self.speakers.items()):
            if not process.is_alive and not process.outlet and not process.said:
                self.world.saw("bus dropped", process.subscription.dropped)
                del self.speakers[identity]

    def _sleep(self, now: int) -> None:
        times = [self._ticks_at]
        for process in self.speakers.values():
            pipes = (process.outlet, process.said) if self._is_listening else (process.said,)
            times += [pipe.next_at for pipe in pipes if pipe.next_at is not None]
        if self.client.said.next_at is not None:
            times.append(self.client.said.next_at)
        self.wake(max(min(times), now + 1))

    def _note_phases(self) -> None:
        for name, host in self.kernel.supervisor.hosts.items():
            before, phase = self._phases.get(name, ""), host.phase.value
            if phase != before:
                self._phases[name] = phase
                self.world.saw(f"host {phase}")
                if before:
                    self.world.saw(f"host {before} > {phase}")
                self.world.note("kernel", f"host {name} is {phase} {host.reason}")
        if (has_error := self.writer.error is not None) != self._had_error:
            self._had_error = has_error
            self.world.saw(f"journal error {'on' if has_error else 'off'}")
            self.world.note("journal", str(self.writer.error or "works again"))

    # --- The journal --------------------------------------------------------------------------

    def _plan_commit(self, now: int) -> None:
        if self._commits_at < 0 and self.writer.backlog:
            delay = between(self.world.rng, self.world.scenario.commit_delay) + self.world.disk_delay
            self._plan_commit_at(now + delay)

    def _plan_commit_at(self, at: int) -> None:
        self._commits_at = at
        self.world.agenda.at(at, self._commit)

    def _commit(self) -> None:
        if not self.is_alive:
            return
        self._commits_at = -1
        now = self.world.agenda.now
        is_in = self._try_commit()
        if not is_in:
            self._plan_commit_at(now + RETRY_NS)
        self.wake(now)

    def _try_commit(self) -> bool:
        is_in = self.writer.commit_pending()
        self.world.watch.stored(self.world.file, self.writer.committed)
        return is_in

    def die(self, *, is_committing: bool) -> None:
        """End without a word; what was being committed may be in."""
        self._account()
        self._change.lost("kernel")
        self.is_alive = False
        if is_committing and self.writer.backlog and self.world.disk.trouble is Trouble.NONE:
            self._try_commit()
        self.writer.close()

    def _account(self) -> None:
        """Count what this session had to drop and refuse."""
        sequencer, world = self.kernel.sequencer, self.world
        world.saw("output repeated", sequencer.duplicates)
        world.saw(
            "epoch refused", sum(n for why, n in sequencer.refused.items() if why.endswith("older epoch"))
        )
        for process in self.speakers.values():
            world.saw("bus dropped", process.subscription.dropped)

    def spawned(self, process: HostProcess) -> None:
        """Know of a new process."""
        self.hosts[process.name] = process
        if not self.kernel.berths.is_active(process.name):
            self._change.candidates.append(process)

    def doom_in(self, step: str) -> None:
        """Die in the middle of *step* of the next change, between two effects."""
        self._change.doom = step

    def lost(self, process: HostProcess) -> None:
        """A process has died."""
        is_active = self.kernel.berths.is_active(process.name)
        self._change.lost("active" if is_active else "other")

    def crashed(self) -> None:
        """It has died in the middle of a step."""
        self.world.kernel_gone("crashed between two effects")

    def _close(self) -> None:
        world, kernel = self.world, self.kernel
        kernel.close()
        while self.writer.backlog and self._try_commit():
            pass
        self._account()
        is_complete = kernel.is_complete and self.writer.error is None
        kernel.settle_acks()
        reason = kernel.ending.reason
        if reason == RESTART:
            world.saw("kernel restarted in place")
        if reason == "the journal failed":
            world.saw("kernel stopped by its journal")
        self.is_alive = False
        self.writer.close()
        if is_complete:
            world.completed(kernel.sequencer.summary.report())
        else:
            world.kernel_gone(f"stopped: {reason}", is_clean=True)

    # --- Edges --------------------------------------------------------------------------------

    def monotonic(self) -> int:
        """Return ns that never go back."""
        return self.clock.monotonic()

    def wall(self) -> int:
        """Return ns UTC."""
        return self._wall.now()

    def ahead_ns(self) -> int:
        """Return how far that is ahead of the world's clock."""
        return self._wall.ahead_ns

    def publish(self, message: bytes) -> None:
        """Send one message out on the bus."""
        self.act()
        world, now = self.world, self.world.agenda.now
        if not message.startswith(control.TELEMETRY):
            world.watch.published(message)
            if message.startswith(_CANARY):
                world.saw("canary published")
        for process in self.speakers.values():
            if process.is_alive and process.subscription.publish(now, message):
                at = process.subscription.pipe.next_at
                if at is not None and process.wants_bus:
                    process.wake(at)
        world.reader.published(message)

    def reply(self, identity: bytes, message: Any) -> None:
        """Send a control message to a peer, which may be gone."""
        self.act()
        world, now = self.world, self.world.agenda.now
        if identity == self.client.identity:
            world.answered(message)
            return
        process = self.speakers.get(identity)
        if process is None:
            return
        admitted = message if isinstance(message, control.Admitted) else getattr(message, "admitted", None)
        if admitted is not None:
            world.watch.admitted(process.view, process.plan, admitted)
            if isinstance(message, control.TakeOver) and message.is_trial:
                world.watch.handed_over(process.host, message.position)
        if not process.is_alive:
            return
        if told := _PACING.get(type(message)):
            world.saw(told)
        process.heard.send(now, control.encode(message))
        if process.heard.next_at is not None:
            process.wake(process.heard.next_at)

    def spawn(self, process: str, token: str, plan: Plan) -> int:
        """Start *process*."""
        self.act()
        pid: int = self.world.spawn(process, token, plan).pid
        return pid

    def kill(self, process: str, reason: str) -> None:
        """End *process* at once."""
        self.act()
        self.world.saw("inlet lost", int("is lost" in reason))
        if found := self.hosts.get(process):
            self.world.kill_host(found, reason)

    def listen(self, is_on: bool) -> None:
        """Take bursts from the inlet, or leave them there."""
        self.act()
        self._is_listening = is_on
        self.world.saw("inlet left alone", int(not is_on))

    def overuse(self, process: str) -> str:
        """Return what limit a process exceeds: none ever does here."""
        return ""

    def place(self, files: dict[str, str]) -> str:
        """Put the prepared plan in the place of the one there is, where the disk takes it."""
        self.act()
        if self.world.disk.trouble is not Trouble.NONE:
            self.world.saw("plan not placed")
            return f"cannot put plan in its place: {self.world.disk.trouble.value}"
        self.world.watch.made_permanent()
        self.world.person.place(files)
        return ""

    def drop(self, files: dict[str, str]) -> None:
        """Forget the prepared plan."""
        self.act()
        self.world.person.drop(files)

    def active(self, host: str) -> HostProcess | None:
        """Return the process that *host* is, while it lives."""
        found = self.hosts.get(self.kernel.berths.name_of(host))
        return found if found and found.is_alive else None

    def alive(self, host: str) -> list[HostProcess]:
        """Return the processes of *host* that live, and that the kernel knows of."""
        return [
            process
            for process in self.hosts.values()
            if process.host == host and process.is_alive and not process.is_zombie
        ]

    def rss_mb(self, pid: int) -> float:
        """Return the resident memory of a process: unknown here."""
        return 0.0

    def cpu_s(self, pid: int) -> float:
        """Return the processor time of a process: unknown here."""
        return 0.0
