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
from typing import Any, Protocol

import msgspec
import structlog

from . import admission, codec, config, control, outlet
from . import health as h
from . import messages as m
from .config import Plan
from .errors import BusError, CodecError, ConfigError, HandshakeRefused
from .flow import Ending, Flow, Pacing, Step
from .health import Canary, Condition, Health
from .inlet import Inlet, Taken
from .journal import Checkpoint, JournalWriter
from .lag import LagWatch
from .report import host_row, plugin_row
from .runs import Run
from .sequencer import Sequencer
from .supervisor import Effect, Host, HostPhase, Kill, Report, Spawn, Supervisor
from .units import NS_PER_MS, NS_PER_S

logger = structlog.get_logger()

BACKLOG_LIMIT = 2_000  # batches waiting for the disk before the inlet is left alone
_FOR_ALL = (m.Sync, m.Canary)  # what every consumer takes, whatever else it listens to
RESTART = "restart"  # why a session ends that is followed by another in the same process


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for."""

    plan: Plan
    home: str
    duration_s: float = 0.0
    as_json: bool = False
    is_fresh: bool = False


class Edges(outlet.Edges, Protocol):
    """What the kernel reaches the world through."""

    pid: int  # of the kernel's own process

    def wall(self) -> int:
        """Return ns UTC; never goes back."""

    def ahead_ns(self) -> int:
        """Return how far wall() is ahead of the machine's clock, which was set back."""

    def spawn(self, host: str, token: str) -> int:
        """Start the process of *host*; returns its pid."""

    def kill(self, host: str, reason: str) -> None:
        """End the process of *host* at once; exited() follows."""

    def listen(self, is_on: bool) -> None:
        """Take bursts from the inlet, or leave them there."""

    def overuse(self, host: str) -> str:
        """Return what limit the process of *host* exceeds; "" when none."""

    def rss_mb(self, pid: int) -> float:
        """Return the resident memory of a process in MiB; 0.0 when it is gone."""


class _Child:
    """What the kernel knows of a host's process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.identity = b""  # of its control socket, once it has said hello
        self.failed: dict[str, str] = {}  # plugins it had to set aside, and why


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
        self._plan = settings.plan
        self._edges = edges
        self._token = token
        self._repaired = repaired
        heartbeat_ns = int(self._plan.kernel.heartbeat_s * NS_PER_S)
        self.supervisor = Supervisor(list(self._plan.hosts()), heartbeat_ns, rng, self._plan.needs())
        self._inlet = Inlet()
        self.open_link = self._inlet.open
        self._outlet = outlet.Outlet(sequencer, writer, edges)
        self.hand_over, self.settle_acks = self._outlet.hand_over, self._outlet.settle
        self._flow = Flow()
        self._health = Health()
        self._canary = Canary()
        self._lag_watch = LagWatch()
        self._children: dict[str, _Child] = {}
        self._is_listening = True
        self._started_at = 0  # monotonic ns at which the sources were let go
        self._born_at = self._told_at = self._checkpoint_at = edges.monotonic()
        self._rate_seq, self._rate = self.sequencer.seq, 0.0
        self._canaries = 0
        self._revived: set[str] = set()

    @property
    def is_wall(self) -> bool:
        """Whether time is now, and not the data's."""
        return self._plan.kernel.clock == "wall" and self._plan.kernel.speed == "1"

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
        return self._edges.wall() if self.is_wall else 0

    # --- Beginning and end --------------------------------------------------------------------

    def begin(self) -> None:
        """Say that this session is there, and start the hosts."""
        self._outlet.announce(
            m.KernelStarted(self.now(), self.sequencer.session, version("tickerml"), self._plan.profile)
        )
        self._doubt_books(self.sequencer.books)
        if self._repaired:
            self._outlet.announce(m.HaltTrading(self.now(), "journal", self._repaired))
        self._outlet.add_own_checkpoint()
        self._act(self.supervisor.start(self._edges.monotonic()))
        self.hand_over()

    def close(self) -> None:
        """Say that this session ends; the hosts are gone, and the writer commits what it is given."""
        self._outlet.announce(m.KernelStopped(self.now(), self.sequencer.session, self.ending.reason))
        self._outlet.add_own_checkpoint()
        self.hand_over()

    # --- The order ----------------------------------------------------------------------------

    def take_burst(self, burst: bytes) -> None:
        """Give the frames of a host's *burst* their place, and hear its notes."""
        try:
            taken = self._inlet.take(burst)
        except CodecError as error:
            logger.error("bus.burst_refused", error=str(error))
            return
        if taken is None:
            return
        if taken.lost:
            self._act(self.supervisor.overuse(taken.host, taken.lost))
            return
        self._outlet.publish(*self.sequencer.accept_all(taken.frames))
        if taken.notes:
            self._take_notes(taken)

    def _take_notes(self, taken: Taken) -> None:
        now = self._edges.monotonic()
        for note in taken.notes:
            kind, body = note[:2], note[2:]
            if kind == control.PROGRESS:
                progress = msgspec.msgpack.decode(body, type=control.Progress)
                self.supervisor.heard(taken.host, now, progress.position)
            elif kind == control.CANARY:
                self._take_canary(msgspec.msgpack.decode(body, type=control.CanaryNote), now)
            else:
                checkpoint = msgspec.msgpack.decode(body, type=control.HostCheckpoint)
                # A source's inputs have numbers of their own: its state stands where the order stands now.
                is_source = taken.host in {host.name for host in self.supervisor.sources()}
                position = self.sequencer.seq if is_source else checkpoint.position
                self._outlet.add_checkpoint(Checkpoint(taken.host, position, checkpoint.state))

    def _take_canary(self, note: control.CanaryNote, now: int) -> None:
        if note.host in {host.name for host in self.supervisor.sources()}:
            self._outlet.announce(m.Canary(self.now(), note.number, note.host))
        self._canary.returned(note.host, note.number, now)

    # --- Time passing -------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due; called every 10 ms."""
        now = self._edges.monotonic()
        if self.ending.step < Step.HOSTS:
            # Until the last step: who falls in the drain has yet to say what follows from the data.
            self._act(self.supervisor.tick(now))
        self._watch_journal()
        self._let_go(now)
        if self._plan.kernel.speed == "max":
            self._pace()
        if now - self._checkpoint_at >= self._plan.kernel.checkpoint_s * NS_PER_S:
            self._checkpoint_at = now
            self._outlet.add_own_checkpoint()
        if now - self._told_at >= NS_PER_S:
            self._tell(now)
        if self._started_at and not self.ending.reason:
            self._check_end(now)
        if self.ending.reason:
            self._end(now)

    def exited(self, host: str, reason: str) -> None:
        """The process of *host* is gone."""
        self._children.pop(host, None)
        self._doubt_books(plugin.id for plugin in self._plan.hosts().get(host, ()))
        self._act(self.supervisor.exited(host, reason, self._edges.monotonic()))

    def _doubt_books(self, plugins: Iterable[str]) -> None:
        """Say that the books of these sources are stale: time has passed, and nobody was looking."""
        for plugin in plugins if self.is_wall else ():
            for exchange, symbols in self.sequencer.books.get(plugin, {}).items():
                for symbol in symbols:
                    self._outlet.announce(m.BookStale(self.now(), exchange, symbol, 0))

    def _act(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Spawn(host):
                    child = self._children[host] = _Child(self._edges.spawn(host, self._token))
                    self.supervisor.spawned(host, child.pid)
                case Kill(host, reason):
                    self._edges.kill(host, reason)
                case Report(host, reason, restart_in_ns):
                    delay = restart_in_ns // NS_PER_MS if restart_in_ns >= 0 else -1
                    tell = logger.info if reason == "stopped" else logger.error
                    tell("host.stopped", host=host, reason=reason, restart_in_ms=delay)
                    self._outlet.announce(m.HostStopped(self.now(), host, reason, delay))
                    if self.supervisor.hosts[host].phase is HostPhase.QUARANTINED:
                        self._halt_without(host, reason)

    def _halt_without(self, host: str, reason: str) -> None:
        """Halt trading when *host*, which will not come back, is one that it must not go on without."""
        if missing := self._plan.vital_hosts().get(host):
            text = f"host {host} is quarantined ({reason}), and with it {', '.join(missing)}"
            self._outlet.announce(m.HaltTrading(self.now(), "supervisor", text))

    def _watch_journal(self) -> None:
        error = self.writer.error
        if error is not None and self._is_listening and not self.is_wall:
            self.journal_failure = str(error)
            self.ending.ask("the journal failed")
        is_wanted = error is None and self.writer.backlog < (
            BACKLOG_LIMIT if self._is_listening else BACKLOG_LIMIT // 2
        )
        if is_wanted != self._is_listening:
            self._is_listening = is_wanted
            self._edges.listen(is_wanted)

    def _let_go(self, now: int) -> None:
        """Start the sources once everyone who listens is ready."""
        if self._started_at or not self.supervisor.is_settled or self.ending.step is not Step.RUNNING:
            return
        self._started_at = now
        self._command_sources(control.Start())
        logger.info("kernel.started", profile=self._plan.profile, session=self.sequencer.session)

    def _pace(self) -> None:
        match self._flow.pace(self.sequencer.seq, self.supervisor.consumers()):
            case Pacing.PAUSE:
                # By the marker a host that listens to little learns how far it is.
                self._outlet.announce(m.Sync(self.now(), "flow"))
                self._command_sources(control.Pause())
            case Pacing.PROCEED:
                self._command_sources(control.Proceed())

    def _command_sources(self, command: Any) -> None:
        for host in self.supervisor.sources():
            self.command(host.name, command)

    def command(self, host: str, command: Any) -> None:
        """Tell *host*, if it is there."""
        if (child := self._children.get(host)) and child.identity:
            self._edges.reply(child.identity, command)

    def _tell(self, now: int) -> None:
        """Once a second: let the time and the canary pass, look at everybody, and say how it is."""
        elapsed = (now - self._told_at) / NS_PER_S
        self._rate = (self.sequencer.seq - self._rate_seq) / elapsed
        self._rate_seq, self._told_at = self.sequencer.seq, now
        if self._started_at and self.ending.step is Step.RUNNING and self.writer.error is None:
            if self.is_wall:
                self._outlet.announce(m.TimeTick(self.now()))
            self._watch_hosts(now)
        head = control.Head(self.sequencer.seq, self.sequencer.topic_counts)
        self._edges.publish(control.pack_head(head))
        self._edges.publish(b"~status.\0" + msgspec.json.encode(self.report()))

    def _watch_hosts(self, now: int) -> None:
        self._canaries += 1
        self._canary.sent(self._canaries, now)
        self._command_sources(control.Canary(self._canaries))
        for name in self.supervisor.hosts:
            if reason := self._edges.overuse(name):
                self._act(self.supervisor.overuse(name, reason))
        # At full speed it is the sources that wait.
        for host in self.supervisor.consumers() if self._plan.kernel.speed != "max" else ():
            self._watch_lag(host, now)

    def _watch_lag(self, host: Host, now: int) -> None:
        if host.phase is not HostPhase.READY:
            self._lag_watch.forget(host.name)
            return
        limit = int(self._plan.limits_of(host.name).max_lag_s * NS_PER_S)
        behind = self._outlet.lag.behind_ns(host.position, now)
        backlog = self.sequencer.seq - host.position
        if reason := self._lag_watch.look(host.name, behind, limit, now, backlog=backlog):
            self._act(self.supervisor.late(host.name, reason))

    def _conditions(self, now: int) -> list[Condition]:
        """Return everything that is not as it should be."""
        supervisor, summary = self.supervisor, self.sequencer.summary
        hosts = supervisor.hosts.values()
        failed = {plugin: why for child in self._children.values() for plugin, why in child.failed.items()}
        found = [
            *h.of_journal(self.writer.error),
            *h.of_halt(summary.halted_by),
            *h.of_hosts(hosts, self._plan.vital_hosts()),
            *h.of_plugins(failed),
            *h.of_feeds(summary.lost),
            *self._lag_watch.conditions(),
        ]
        if self._plan.kernel.speed != "max":
            found += self._canary.conditions(now, hosts)
        if (ahead := self._edges.ahead_ns()) > NS_PER_S:
            words = f"the machine's was set back, and this one waits for it: {ahead / NS_PER_S:.0f} s"
            found.append(Condition("clock", words, about="set back"))
        if self.ending.step is not Step.RUNNING:
            found.append(Condition("kernel", self.ending.reason, h.State.STOPPING))
        elif not self._started_at:
            found.append(Condition("kernel", "waits for its hosts", h.State.STARTING))
        return found

    # --- The end ------------------------------------------------------------------------------

    def _check_end(self, now: int) -> None:
        duration = self.settings.duration_s
        if duration and now - self._started_at >= duration * NS_PER_S:
            self.ending.ask(f"ran for {duration:g} s")
            return
        sources = set(self._plan.ids("exchange")) - self.sequencer.summary.over
        if not self._plan.ids("exchange") or sources - self._given_up() or not self._is_drained():
            return
        self.ending.ask("a source of the data is quarantined" if sources else "the data ended")
        self.is_complete = not sources

    def _given_up(self) -> set[str]:
        """Return the plugins that are quarantined, in a run that waits for nobody to see to them."""
        hosts = self._plan.hosts()
        return {
            plugin.id
            for host in self.supervisor.hosts.values()
            if host.phase is HostPhase.QUARANTINED and not self.is_wall
            for plugin in hosts.get(host.name, ())
        }

    def _is_drained(self) -> bool:
        consumers = self.supervisor.consumers()
        if self._flow.is_drained(self.sequencer.seq, consumers) or self.writer.error:
            return True
        if self._flow.wants_marker(consumers):
            self._flow.marked(self._outlet.announce(m.Sync(self.now(), "drain")))
        return False

    def _end(self, now: int) -> None:
        """Take the clean stop one step further, when it is time."""
        hosts = self.supervisor.hosts
        stopping = [name for name in self._children if hosts[name].phase is HostPhase.STOPPING]
        step = self.ending.step
        is_done = self._is_drained() if step is Step.DRAIN else not stopping
        if self.ending.is_late(now) and not is_done:
            logger.error("kernel.stop_forced", step=step.name.lower(), hosts=stopping)
            for name in stopping:
                self._edges.kill(name, "did not stop in time")
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

    def _stop_hosts(self, hosts: list[Host]) -> None:
        for host in hosts:
            child = self._children.get(host.name)
            if host.phase is HostPhase.STOPPING:
                continue
            self.supervisor.stopping(host.name)
            if child is None:
                continue
            if child.identity:
                self.command(host.name, control.Stop())
            else:
                self._edges.kill(host.name, "stopped before it said hello")

    # --- Control ------------------------------------------------------------------------------

    def take_control(self, identity: bytes, data: bytes) -> None:
        """Hear one control message, and answer it."""
        try:
            answer = self._answer(identity, control.decode(data))
        except (BusError, ConfigError, OSError) as error:
            answer = control.Refused(str(error))
        if answer is not None:
            self._edges.reply(identity, answer)

    def _answer(self, identity: bytes, message: Any) -> Any:
        if isinstance(message, control.Hello):
            return self._welcome(identity, message)
        host = next((name for name, child in self._children.items() if child.identity == identity), None)
        return self._answer_client(identity, message) if host is None else self._answer_host(host, message)

    def _answer_host(self, host: str, message: Any) -> Any:
        now = self._edges.monotonic()
        match message:
            case control.Present():
                return self._admit(host, message)
            case control.Ready():
                # How far a host is, it tells behind its outputs: said here, it would overtake them.
                self.supervisor.ready(host, now, message.role)
                if message.role is control.Role.SOURCE and self._started_at:
                    self.command(host, control.Start())
            case control.Beat():
                self.supervisor.heard(host, now)
                known = self._children[host].failed
                for plugin in message.failed:
                    known.setdefault(plugin, self.sequencer.summary.failed.get(plugin, "failed"))
            case control.Unfit():
                self.supervisor.unfit(host, message.error)
                if message.is_config and not self._started_at:
                    self.config_error = message.error
                    self.ending.ask("the configuration was refused")
            case control.SyncRequest():
                self._outlet.announce(m.Sync(self.now(), message.purpose))
            case _:
                return control.Refused(f"a kernel does not take {type(message).__name__} from a host")
        return None

    def _answer_client(self, identity: bytes, message: Any) -> Any:
        match message:
            case control.StatusRequest():
                return control.Status(self.report())
            case control.HaltRequest():
                self._outlet.promise(identity, m.HaltTrading(self.now(), message.source, message.reason))
            case control.ResumeRequest():
                self._outlet.promise(identity, m.ResumeTrading(self.now(), message.source, message.reason))
            case control.PluginRequest():
                return self._set_plugin(identity, message.plugin, message.is_enabled)
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

    def _welcome(self, identity: bytes, hello: control.Hello) -> control.Welcome:
        control.check_hello(hello, self._token, codec.schema_hash())
        child = self._children.get(hello.host)
        if child is None or child.pid != hello.pid:
            raise HandshakeRefused(f"host {hello.host} (pid {hello.pid}) is not the one this kernel started")
        child.identity = identity
        place = admission.Place(self.settings.home, str(self.run_dir))
        session = self.sequencer.session
        return admission.welcome(hello.host, self._plan, self.run, place, session, self._revived)

    def _admit(self, host: str, present: control.Present) -> control.Admitted:
        child = self._children[host]
        admitted = admission.admit(present, self.sequencer, self.open_link(host))
        kinds = {plugin.id: plugin.kind for plugin in self._plan.plugins}
        for plugin, (stage, error) in present.failed.items():
            child.failed[plugin] = f"{stage}: {error}"
            self._outlet.announce(m.PluginFailed(self.now(), plugin, kinds.get(plugin, ""), stage, error))
        self._doubt_books(admitted.origins)  # what was under way from the last incarnation is in
        epoch = max(admitted.epochs.values(), default=0)
        self._outlet.announce(m.HostStarted(self.now(), host, child.pid, epoch, list(admitted.origins)))
        return admitted

    def _set_plugin(self, identity: bytes, plugin: str, is_enabled: bool) -> control.Refused | None:
        planned = {entry.id: entry for entry in self._plan.plugins}
        if plugin not in planned:
            return control.Refused(f"profile {self._plan.profile!r} has no plugin {plugin!r}")
        config.set_enabled(Path(self._plan.config), plugin, is_enabled)
        self._plan = msgspec.structs.replace(
            self._plan,
            plugins=[
                msgspec.structs.replace(entry, enabled=is_enabled) if entry.id == plugin else entry
                for entry in self._plan.plugins
            ],
        )
        self.writer.hosts = frozenset(self._plan.hosts())
        if is_enabled:
            self._revived.add(plugin)
        host = planned[plugin].host
        is_needed = host in self._plan.hosts()
        if host in self._children:
            self.supervisor.stopping(host, respawn=is_needed)
            self.command(host, control.Stop())
        elif is_needed:
            self._act(self.supervisor.add(host, self._edges.monotonic()))
        self._outlet.promise(identity, m.PluginChanged(self.now(), plugin, is_enabled))
        return None

    # --- Report -------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return the state of everything, ready for JSON."""
        summary, hosts = self.sequencer.summary, self.supervisor.hosts
        now = self._edges.monotonic()
        self._health.update(self._edges.wall(), self._conditions(now))
        consumers = self.supervisor.consumers()
        failed = {host: child.failed for host, child in self._children.items()}
        return {
            "state": self._health.state.value,
            "since_ns": self._health.since_ns,
            "degraded": self._health.report(),
            "halted_by": self._health.halted_by or None,
            "profile": self._plan.profile,
            "session": self.sequencer.session,
            "pid": self._edges.pid,
            "uptime_s": round((now - self._born_at) / NS_PER_S, 3),
            "seq": self.sequencer.seq,
            "committed": self.writer.committed,
            "messages_per_s": round(self._rate, 1),
            "duplicates": self.sequencer.duplicates,
            "bursts_repeated": self._inlet.repeated,
            "refused": self.sequencer.refused,
            "canary": self._canary.report(),
            "journal": {
                "path": str(self.run_dir / "journal"),
                "error": str(self.writer.error) if self.writer.error else None,
            },
            "rss_mb": self._edges.rss_mb(self._edges.pid),
            "hosts": [
                host_row(
                    host,
                    self.sequencer.seq - host.position if host in consumers else 0,
                    self._outlet.lag.behind_ns(host.position, now) if host in consumers else 0,
                    self._edges.rss_mb(host.pid),
                )
                for host in hosts.values()
            ],
            "plugins": [
                plugin_row(entry, hosts.get(entry.host), failed.get(entry.host, {}))
                for entry in self._plan.plugins
            ],
            "summary": summary.report(),
        }
