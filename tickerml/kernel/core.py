"""
The kernel: what one session does with what it is told. Sans-IO.

Hosts push bursts in; the sequencer stamps their frames; they go to the journal and
out on the bus, and nothing here waits for the disk. No plugin code runs here.

It is told of bursts, control messages, processes that ended and time that passed,
and acts through its Edges and the journal's writer alone. So the very same code runs
behind real sockets (app.py) and in a simulated world, where anything may fail at
any step.
"""

import random
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import structlog

from . import admission, codec, control, outlet, status
from . import messages as m
from .berths import Berths, Process, host_of
from .changes import Changes
from .config import Plan
from .edges import Edges
from .errors import BusError, CodecError, ConfigError
from .floor import Floor
from .flow import Ending, Flow, Pacing, Step
from .gate import GATE
from .health import Canary, Health
from .inlet import Inlet, Taken
from .journal import Checkpoint, JournalWriter
from .lag import LagWatch
from .runs import Run
from .sequencer import Sequencer
from .supervisor import Effect, Host, HostPhase, Kill, Report, Spawn, Supervisor
from .units import NS_PER_MS, NS_PER_S

logger = structlog.get_logger()

BACKLOG_LIMIT = 2_000  # batches waiting for the disk before the inlet is left alone
RESTART = "restart"  # why a session ends that is followed by another in the same process


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for."""

    plan: Plan
    home: str
    duration_s: float = 0.0
    as_json: bool = False
    is_fresh: bool = False
    again: list[str] = []  # the command that goes on with the run, with the configuration of then


class Kernel:
    """One session of the kernel on one run."""

    def __init__(
        self,
        settings: Settings,
        edges: Edges,
        writer: JournalWriter,
        sequencer: Sequencer,
        *,
        run: Run,
        run_dir: Path,
        token: str,
        rng: random.Random,
        repaired: str = "",
    ) -> None:
        """
        Args:
            token: the secret that only this kernel's own hosts learn.
            rng: of the restart delays.
            repaired: what the journal lost and had to drop before this session; trading is halted for it.
        """
        self.settings = settings
        self.sequencer = sequencer
        self.is_complete = False
        self.config_error = ""
        self.journal_failure = ""  # why a run over data could not go on
        self.ending = Ending()
        self.run, self.run_dir = run, run_dir
        self.writer = writer
        self.plan = settings.plan
        self.edges = edges
        self._repaired = repaired
        heartbeat_ns = int(self.plan.kernel.heartbeat_s * NS_PER_S)
        self.supervisor = Supervisor(list(self.plan.hosts()), heartbeat_ns, rng, self.plan.needs())
        self.berths = Berths(edges, token)
        self.inlet = Inlet()
        self.open_link = self.inlet.open
        self.outlet = outlet.Outlet(sequencer, writer, edges)
        self.hand_over, self.settle_acks = self.outlet.hand_over, self.outlet.settle
        self.health = Health()
        self.canary = Canary()
        self.lag_watch = LagWatch()
        self.rate = 0.0  # messages per second
        self.changes = Changes(Floor(self))
        self._flow = Flow()
        self._is_listening = True
        self._started_at = 0  # monotonic ns at which the sources were let go
        self.born_at = self._told_at = self._checkpoint_at = edges.monotonic()
        self._rate_seq = self.sequencer.seq
        self._canaries = 0
        self._asked: dict[str, list[bytes]] = {}  # plugin -> who waits for its diagnosis
        self._revived: dict[str, set[str]] = {}  # host -> plugins that begin anew, also if they had failed

    @property
    def is_wall(self) -> bool:
        """Whether time is now, and not the data's."""
        return self.plan.kernel.clock == "wall" and self.plan.kernel.speed == "1"

    @property
    def is_started(self) -> bool:
        """Whether the sources were let go."""
        return bool(self._started_at)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do but close()."""
        return self.ending.step is Step.OVER

    def now(self) -> int:
        """Return ts_recv for the kernel's own messages: 0 where time is the data's, so as not to move it."""
        return self.edges.wall() if self.is_wall else 0

    # --- Beginning and end --------------------------------------------------------------------

    def begin(self) -> None:
        """Say that this session is there, and start the hosts."""
        self.outlet.announce(
            m.KernelStarted(
                self.now(),
                self.sequencer.session,
                version("tickerml"),
                self.plan.profile,
                list(self.plan.hosts()),
            )
        )
        self._doubt_books(self.sequencer.books)
        if self._repaired:
            self.outlet.announce(m.HaltTrading(self.now(), "journal", self._repaired))
        for entry in self.plan.plugins:
            if entry.id in self.plan.missing_vital():
                why = f"{entry.id} is blocked: {entry.blocked}"
                self.outlet.announce(m.HaltTrading(self.now(), "plugins", why))
        self.outlet.add_own_checkpoint()
        self.act(self.supervisor.start(self.edges.monotonic()))
        self.hand_over()

    def close(self) -> None:
        """Say that this session ends; the hosts are gone, and the writer commits what it is given."""
        self.outlet.announce(m.KernelStopped(self.now(), self.sequencer.session, self.ending.reason))
        self.outlet.add_own_checkpoint()
        self.hand_over()

    # --- The order ----------------------------------------------------------------------------

    def take_burst(self, burst: bytes) -> None:
        """Give the frames of a host's *burst* their place, and hear its notes."""
        try:
            taken = self.inlet.take(burst)
        except CodecError as error:
            logger.error("bus.burst_refused", error=str(error))
            return
        if taken is None:
            return
        if taken.lost:
            self.act(self.supervisor.overuse(host_of(taken.process), taken.lost))
            return
        self.outlet.publish(*self.sequencer.accept_all(taken.frames))
        if taken.notes:
            self._take_notes(taken)

    def _take_notes(self, taken: Taken) -> None:
        now, process = self.edges.monotonic(), taken.process
        host = host_of(process)
        for note in taken.notes:
            kind, body = note[:2], note[2:]
            if kind == control.PROGRESS:
                progress = msgspec.msgpack.decode(body, type=control.Progress)
                self.supervisor.heard(host, now, progress.position)
            elif kind == control.CANARY:
                self._take_canary(msgspec.msgpack.decode(body, type=control.CanaryNote), now)
            elif kind == control.STATE:
                part = msgspec.msgpack.decode(body, type=control.StatePart)
                # A source's inputs have numbers of their own: its state stands where the order stands now.
                position = self.sequencer.seq if self._is_source(host) else part.position
                self.changes.take_part(process, msgspec.structs.replace(part, position=position), now)
            else:
                found = msgspec.msgpack.decode(body, type=control.HostCheckpoint)
                position = self.sequencer.seq if self._is_source(host) else found.position
                if not self.changes.withholds(host, self.berths.plan_of(process), self.plan):
                    self.outlet.add_checkpoint(Checkpoint(host, position, found.state))

    def _is_source(self, host: str) -> bool:
        return host in {source.name for source in self.supervisor.sources()}

    def _take_canary(self, note: control.CanaryNote, now: int) -> None:
        if self._is_source(note.host):
            self.outlet.announce(m.Canary(self.now(), note.number, note.host))
        self.canary.returned(note.host, note.number, now)

    # --- Time passing -------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due; called every 10 ms."""
        now = self.edges.monotonic()
        if self.ending.step < Step.HOSTS:
            # Until the last step: who falls in the drain has yet to say what follows from the data.
            self.act(self.supervisor.tick(now))
            self.changes.tick(now)
        self._watch_journal()
        self._let_go(now)
        if self.plan.kernel.speed == "max":
            self._pace()
        if now - self._checkpoint_at >= self.plan.kernel.checkpoint_s * NS_PER_S:
            self._checkpoint_at = now
            self.outlet.add_own_checkpoint()
        if now - self._told_at >= NS_PER_S:
            self._tell(now)
        if self._started_at and not self.ending.reason:
            self._check_end(now)
        if self.ending.reason:
            self._end(now)

    def exited(self, process: str, reason: str) -> None:
        """*process* is gone: its host with it, unless that is another process by now."""
        host, now = host_of(process), self.edges.monotonic()
        self.berths.gone(process)
        if self.changes.exited(process, reason, now) or not self.berths.is_active(process):
            return
        self._doubt_books(plugin.id for plugin in self.plan.hosts().get(host, ()))
        self.act(self.supervisor.exited(host, reason, now))

    def _doubt_books(self, plugins: Iterable[str]) -> None:
        """Say that the books of these sources are stale: time has passed, and nobody was looking."""
        for plugin in plugins if self.is_wall else ():
            for exchange, symbols in self.sequencer.books.get(plugin, {}).items():
                for symbol in symbols:
                    self.outlet.announce(m.BookStale(self.now(), exchange, symbol, 0))

    def act(self, effects: Iterable[Effect]) -> None:
        """Do what the supervisor has decided."""
        for effect in effects:
            match effect:
                case Spawn(host):
                    process = self.berths.name_of(host)
                    self.supervisor.spawned(host, self.berths.launch(process, self.plan))
                case Kill(host, reason):
                    self.berths.end(self.berths.name_of(host), reason)
                case Report(host, reason, restart_in_ns):
                    delay = restart_in_ns // NS_PER_MS if restart_in_ns >= 0 else -1
                    tell = logger.info if reason in (m.STOPPED, m.REMOVED) else logger.error
                    tell("host.stopped", host=host, reason=reason, restart_in_ms=delay)
                    self.outlet.announce(m.HostStopped(self.now(), host, reason, delay))
                    if self.supervisor.hosts[host].phase is HostPhase.QUARANTINED:
                        self._halt_without(host, reason)

    def _halt_without(self, host: str, reason: str) -> None:
        """Halt trading when *host*, which will not come back, is one that it must not go on without."""
        if missing := self.plan.vital_hosts().get(host):
            text = f"host {host} is quarantined ({reason}), and with it {', '.join(missing)}"
            self.outlet.announce(m.HaltTrading(self.now(), "supervisor", text))

    def _watch_journal(self) -> None:
        error = self.writer.error
        if error is not None and not self.is_wall and not self.journal_failure:
            self.journal_failure = str(error)
            self.ending.ask("the journal failed")
        is_wanted = error is None and self.writer.backlog < (
            BACKLOG_LIMIT if self._is_listening else BACKLOG_LIMIT // 2
        )
        if is_wanted != self._is_listening:
            self._is_listening = is_wanted
            self.edges.listen(is_wanted)

    def _let_go(self, now: int) -> None:
        """Start the sources once everyone who listens is ready."""
        if self._started_at or self.ending.reason or not self.supervisor.is_settled:
            return
        self._started_at = now
        self._command_sources(control.Start())
        logger.info("kernel.started", profile=self.plan.profile, session=self.sequencer.session)

    def _pace(self) -> None:
        match self._flow.pace(self.sequencer.seq, self.supervisor.consumers()):
            case Pacing.PAUSE:
                # By the marker a host that listens to little learns how far it is.
                self.outlet.announce(m.Sync(self.now(), "flow"))
                self._command_sources(control.Pause())
            case Pacing.PROCEED:
                self._command_sources(control.Proceed())

    def _command_sources(self, command: Any) -> None:
        for host in self.supervisor.sources():
            self.berths.tell_host(host.name, command)

    def _tell(self, now: int) -> None:
        """Once a second: let the time and the canary pass, look at everybody, and say how it is."""
        elapsed = (now - self._told_at) / NS_PER_S
        self.rate = (self.sequencer.seq - self._rate_seq) / elapsed
        self._rate_seq, self._told_at = self.sequencer.seq, now
        if self._started_at and self.ending.step is Step.RUNNING and self.writer.error is None:
            if self.is_wall:
                self.outlet.announce(m.TimeTick(self.now()))
            self._watch_hosts(now)
        head = control.Head(self.sequencer.seq, self.sequencer.topic_counts)
        self.edges.publish(control.pack_head(head))
        self.edges.publish(b"~status.\0" + msgspec.json.encode(status.report(self)))

    def _watch_hosts(self, now: int) -> None:
        self._canaries += 1
        self.canary.sent(self._canaries, now)
        self._command_sources(control.Canary(self._canaries))
        for name in self.supervisor.hosts:
            if reason := self.edges.overuse(self.berths.name_of(name)):
                self.act(self.supervisor.overuse(name, reason))
        # At full speed it is the sources that wait.
        for host in self.supervisor.consumers() if self.plan.kernel.speed != "max" else ():
            self._watch_lag(host, now)

    def _watch_lag(self, host: Host, now: int) -> None:
        if host.phase is not HostPhase.READY:
            self.lag_watch.forget(host.name)
            return
        limit = int(self.plan.limits_of(host.name).max_lag_s * NS_PER_S)
        behind = self.outlet.lag.behind_ns(host.position, now)
        backlog = self.sequencer.seq - host.position
        if reason := self.lag_watch.look(host.name, behind, limit, now, backlog=backlog):
            self.act(self.supervisor.late(host.name, reason))

    # --- The end ------------------------------------------------------------------------------

    def _check_end(self, now: int) -> None:
        duration = self.settings.duration_s
        if duration and now - self._started_at >= duration * NS_PER_S:
            self.ending.ask(f"ran for {duration:g} s")
            return
        sources = set(self.plan.ids("exchange")) - self.sequencer.summary.over
        if not self.plan.ids("exchange") or sources - self._given_up() or not self._is_drained():
            return
        self.ending.ask("a source of the data is quarantined" if sources else "the data ended")
        self.is_complete = not sources

    def _given_up(self) -> set[str]:
        """Return the plugins that are quarantined, in a run that waits for nobody to see to them."""
        hosts = self.plan.hosts()
        return {
            plugin.id
            for host in self.supervisor.hosts.values()
            if host.phase is HostPhase.QUARANTINED and not self.is_wall
            for plugin in hosts.get(host.name, ())
        }

    def _is_drained(self) -> bool:
        consumers = self.supervisor.consumers()
        if self._flow.is_drained(self.sequencer.seq, consumers):
            return True
        if self._flow.wants_marker(consumers):
            self._flow.marked(self.outlet.announce(m.Sync(self.now(), "drain")))
        return False

    def _end(self, now: int) -> None:
        """Take the clean stop one step further, when it is time."""
        hosts = self.supervisor.hosts
        self.changes.abandon("the run ends", now)
        stopping = [name for name, host in hosts.items() if self._is_stopping(host)]
        step = self.ending.step
        is_done = self._is_drained() if step is Step.DRAIN else not stopping
        if step is Step.DRAIN and not is_done and self.writer.error is not None:
            # Nothing is taken from the hosts now, nor waited for: the next start goes on with this run.
            is_done, self.is_complete = True, False
        if self.ending.is_late(now) and not is_done:
            logger.error("kernel.stop_forced", step=step.name.lower(), hosts=stopping)
            for name in stopping:
                self.berths.end(self.berths.name_of(name), "did not stop in time")
            is_done = step is Step.DRAIN
            self.is_complete = False
        if not self.ending.advance(now, is_done=is_done):
            return
        if self.ending.step is Step.SOURCES:
            logger.info("kernel.stopping", reason=self.ending.reason)
            self._stop_hosts(self.supervisor.sources())
        elif self.ending.step is Step.HOSTS:
            # Who is quarantined has not taken all of it: the next start goes on with this run.
            lacks = any(host.phase is HostPhase.QUARANTINED for host in hosts.values())
            self.is_complete = self.is_complete and not lacks and not self.sequencer.summary.failed
            self._stop_hosts(list(hosts.values()))

    def _is_stopping(self, host: Host) -> bool:
        return host.phase is HostPhase.STOPPING and self.berths.active(host.name) is not None

    def _stop_hosts(self, hosts: list[Host]) -> None:
        for host in hosts:
            if host.phase is not HostPhase.STOPPING:
                self.stop_host(host.name)

    def stop_host(self, host: str, *, respawn: bool = False, is_wanted: bool = True) -> None:
        """Ask *host* to stop; with *respawn*, in order to start anew; unless it *is_wanted*, for good."""
        self.act(self.supervisor.stopping(host, respawn=respawn, is_wanted=is_wanted))
        process = self.berths.active(host)
        if process and process.identity:
            self.berths.tell(process.name, control.Stop())
        elif process:
            self.berths.end(process.name, "stopped before it said hello")

    # --- Control ------------------------------------------------------------------------------

    def take_control(self, identity: bytes, data: bytes) -> None:
        """Hear one control message, and answer it."""
        try:
            answer = self._answer(identity, control.decode(data))
        except (BusError, ConfigError, OSError) as error:
            answer = control.Refused(str(error))
        if answer is not None:
            self.edges.reply(identity, answer)

    def _answer(self, identity: bytes, message: Any) -> Any:
        if isinstance(message, control.Hello):
            return self._welcome(identity, message)
        process = self.berths.find(identity)
        return (
            self._answer_client(identity, message) if process is None else self._answer_host(process, message)
        )

    def _answer_host(self, process: Process, message: Any) -> Any:
        now, is_active = self.edges.monotonic(), self.berths.is_active(process.name)
        match message:
            case control.Present():
                process.present = message
                return self._present(process, message) if is_active else self._try(process, message, now)
            case control.Ready() if is_active:
                # How far a host is, it tells behind its outputs: said here, it would overtake them.
                self.supervisor.ready(process.host, now, message.role)
                if message.role is control.Role.SOURCE and self.is_started:
                    self.berths.tell(process.name, control.Start())
            case control.Beat():
                self._take_beat(process, message, now)
            case control.Unfit() if is_active:
                self.supervisor.unfit(process.host, message.error)
                if message.is_config and not self.is_started:
                    self.config_error = message.error
                    self.ending.ask("the configuration was refused")
            case control.SyncRequest():
                self.outlet.announce(m.Sync(self.now(), message.purpose))
            case control.Diagnosis():
                self._diagnosed(message)
            case control.Ready() | control.Unfit() | control.StandingBy() | control.PartTaken():
                self.changes.take(process.name, message, now)
            case control.Took() | control.NotTaken() | control.Shadowed():
                self.changes.take(process.name, message, now)
            case _:
                return control.Refused(f"a kernel does not take {type(message).__name__} from a host")
        return None

    def _take_beat(self, process: Process, beat: control.Beat, now: int) -> None:
        if self.berths.is_active(process.name):
            self.supervisor.heard(process.host, now)
        for plugin in beat.failed:
            process.failed.setdefault(plugin, self.sequencer.summary.failed.get(plugin, "failed"))

    def _try(self, process: Process, present: control.Present, now: int) -> Any:
        """A candidate has built its plugins."""
        for plugin, (stage, error) in present.failed.items():
            process.failed[plugin] = f"{stage}: {error}"
        return self.changes.take_present(process.name, present, now)

    def _answer_client(self, identity: bytes, message: Any) -> Any:
        match message:
            case control.StatusRequest():
                return control.Status(status.report(self))
            case control.HaltRequest():
                halt = m.HaltTrading(self.now(), message.source, message.reason, message.level)
                self.outlet.promise(identity, halt)
            case control.ResumeRequest():
                self.outlet.promise(identity, m.ResumeTrading(self.now(), message.source, message.reason))
            case control.ChangeRequest():
                return self._change(message)
            case control.CancelRequest():
                return self._told(self.changes.cancel(message.reason, self.edges.monotonic()))
            case control.SettleRequest():
                return self._told(self.changes.settle(self.edges.monotonic()))
            case control.DiagnosticsRequest():
                return self._diagnose(identity, message)
            case control.ShutdownRequest():
                self.ending.ask(message.reason)
                return control.Done(self.writer.committed)
            case control.RestartRequest():
                self.restart()
                return control.Done(self.writer.committed)
            case _:
                return control.Refused(f"a kernel does not take {type(message).__name__} from a client")
        return None

    def restart(self) -> None:
        """Stop cleanly, for another session to follow."""
        self.ending.ask(RESTART)

    def _change(self, request: control.ChangeRequest) -> Any:
        if not self.is_started or self.ending.reason:
            return control.Refused("plugins can be changed once every host is ready, and until the run ends")
        return self.changes.request(request, self.plan, self.edges.monotonic())

    def _told(self, problem: str) -> Any:
        return control.Refused(problem) if problem else control.Done(self.writer.committed)

    def _diagnose(self, identity: bytes, request: control.DiagnosticsRequest) -> Any:
        host = next((plugin.host for plugin in self.plan.plugins if plugin.id == request.plugin), "")
        if self.berths.active(host) is None:
            return control.Refused(f"{request.plugin!r} runs in no process now")
        self._asked.setdefault(request.plugin, []).append(identity)
        self.berths.tell_host(host, request)
        return None

    def _diagnosed(self, answer: control.Diagnosis) -> None:
        for identity in self._asked.pop(answer.plugin, ()):
            self.edges.reply(identity, answer)

    def _welcome(self, identity: bytes, hello: control.Hello) -> control.Welcome:
        process = self.berths.greet(hello, identity, codec.schema_hash())
        place = admission.Place(self.settings.home, str(self.run_dir))
        before = self.berths.active(process.host)
        if before and before is not process:
            self.revive(process.host, before.failed)
        revived = self._revived.get(process.host, ())
        return admission.welcome(process.host, process.plan, self.run, place, self.sequencer.session, revived)

    def revive(self, host: str, plugins: Iterable[str]) -> None:
        """Let *plugins* begin anew in the next process of *host*, whatever had become of them."""
        self._revived.setdefault(host, set()).update(plugins)

    def _present(self, process: Process, present: control.Present) -> control.Admitted:
        """The process of a host has built its plugins: say which failed, and admit the others."""
        kinds = {plugin.id: plugin.kind for plugin in self.plan.plugins}
        for plugin, (stage, error) in present.failed.items():
            process.failed[plugin] = f"{stage}: {error}"
            self.outlet.announce(m.PluginFailed(self.now(), plugin, kinds.get(plugin, ""), stage, error))
        admitted = self.admit(process, present)
        self._doubt_books(admitted.origins)  # what was under way from the last incarnation is in
        return admitted

    def admit(self, process: Process, present: control.Present) -> control.Admitted:
        """Admit *process* as its host at new epochs, and tell everybody."""
        members = process.plan.hosts().get(process.host, [])
        admitted = admission.admit(present, members, self.sequencer, self.open_link(process.name))
        epoch = max(admitted.epochs.values(), default=0)
        started = m.HostStarted(self.now(), process.host, process.pid, epoch, list(admitted.origins))
        self.outlet.announce(started)
        summary = self.sequencer.summary
        if GATE in admitted.origins and summary.level:
            # A gate that has come into another host begins with nothing, and a halt is for good.
            source, _, reason = summary.halted_by.partition(": ")
            self.outlet.announce(m.HaltTrading(self.now(), source, reason, int(summary.level)))
        return admitted
