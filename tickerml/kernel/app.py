"""
The kernel process: sockets, clock, disk and children around the machines that decide.

    python -m tickerml.kernel.app '{"plan": ..., "home": ...}'

Hosts PUSH frames in; the sequencer stamps them; they go to the journal's thread and
out on XPUB, in one loop that never waits for the disk. ROUTER carries control. No
plugin code runs here.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import structlog
import zmq

from . import admission, codec, config, control, log
from . import messages as m
from .children import Child
from .clock import DATA_CLOCK_START_NS
from .config import Plan
from .errors import BusError, CodecError, ConfigError, HandshakeRefused, TickerMLError
from .flow import Ending, Flow, Pacing, Step
from .journal import Checkpoint, JournalWriter
from .report import host_row, list_problems, plugin_row, rss_mb, show, show_notice, show_progress
from .runs import PLAN_KEY, RUN_KEY, HomeLock, choose, recover
from .sequencer import Run, Sequencer
from .supervisor import Effect, Host, HostPhase, Kill, Report, Spawn, Supervisor

logger = structlog.get_logger()

HIGH_WATER = 100_000  # frames queued for one subscriber before ZeroMQ drops and its journal reading begins
INLET_HIGH_WATER = 10_000  # frames a host may push ahead of the kernel before it waits
BURSTS = 64  # bursts taken between two looks at everything else
BACKLOG_LIMIT = 2_000  # batches waiting for the disk before the inlet is left alone
RUNTIME_PREFIX = "tml-"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for."""

    plan: Plan
    home: str
    duration_s: float = 0.0
    as_json: bool = False
    is_fresh: bool = False


class Kernel:
    """One session of the kernel on one home."""

    def __init__(self, settings: Settings) -> None:
        """
        Raises: StoreError, StoreLocked: the home or its journal cannot be used.
        """
        self._settings = settings
        self._plan = settings.plan
        self._home = Path(settings.home)
        self._lock = HomeLock(self._home)
        self._is_wall = self._plan.kernel.clock == "wall" and self._plan.kernel.speed == "1"
        started_ns = time.time_ns() if self._is_wall else DATA_CLOCK_START_NS
        self._run_dir, self._run = choose(self._home, self._plan, started_ns, is_fresh=settings.is_fresh)
        self._open_journal()
        self._open_sockets()
        self._supervisor = Supervisor(
            list(self._plan.hosts()), int(self._plan.kernel.heartbeat_s * 1_000_000_000)
        )
        self._children: dict[str, Child] = {}
        self._token = control.new_token()
        self._batch: list[bytes] = []
        self._checkpoints: list[Checkpoint] = []
        self._acks: list[tuple[int, bytes]] = []
        self._started_at = 0  # monotonic ns at which the sources were let go
        self._born_at = time.monotonic_ns()
        self._told_at = self._ticked_at = 0
        self._rate_seq, self._rate = self.sequencer.seq, 0.0
        self._revived: set[str] = set()
        self._flow = Flow()
        self._ending = Ending()
        self._is_complete = False
        self._config_error = ""

    # --- Opening and closing ------------------------------------------------------------------

    def _open_journal(self) -> None:
        kernel = self._plan.kernel
        path = self._run_dir / "journal"
        state = recover(path)
        self._writer = JournalWriter(
            path,
            map_mb=kernel.map_mb,
            commit_ms=kernel.commit_ms,
            hot_hours=kernel.hot_hours,
            hosts=self._plan.hosts(),
        )
        self.sequencer = Sequencer(state)
        self._writer.put_meta(RUN_KEY, msgspec.msgpack.encode(self._run))
        self._writer.put_meta(PLAN_KEY, msgspec.json.encode(self._plan))
        self._writer.start()

    def _open_sockets(self) -> None:
        self._clear_remains()
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        # mkdtemp makes it private (0700); a Unix socket path ends at 107 bytes, so it is short.
        self._runtime = tempfile.mkdtemp(prefix=RUNTIME_PREFIX, dir=base)
        self._context = zmq.Context()
        self._inlet = self._context.socket(zmq.PULL)
        self._inlet.rcvhwm = INLET_HIGH_WATER
        self._inlet.bind(control.ingest_address(self._runtime))
        self._bus = self._context.socket(zmq.XPUB)
        self._bus.sndhwm = HIGH_WATER
        self._bus.bind(control.bus_address(self._runtime))
        self._router = self._context.socket(zmq.ROUTER)
        self._router.router_mandatory = True
        self._router.bind(control.control_address(self._runtime))
        self._poller = zmq.Poller()
        for socket in (self._inlet, self._bus, self._router):
            self._poller.register(socket, zmq.POLLIN)
        beacon = control.Beacon(
            os.getpid(), self._runtime, self._plan.profile, str(self._run_dir), self.sequencer.session
        )
        path = control.beacon_path(self._home)
        path.with_suffix(".new").write_bytes(msgspec.json.encode(beacon))
        path.with_suffix(".new").replace(path)

    def _clear_remains(self) -> None:
        """Remove the sockets of a kernel that was killed; we hold its home's lock, so it is gone."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            beacon = msgspec.json.decode(control.beacon_path(self._home).read_bytes(), type=control.Beacon)
            if Path(beacon.runtime).name.startswith(RUNTIME_PREFIX):
                shutil.rmtree(beacon.runtime)

    def _close(self) -> None:
        for child in self._children.values():
            child.end()
        self._announce(m.KernelStopped(self._now(), self.sequencer.session, self._ending.reason))
        self._hand_over()
        error = self._writer.error
        self._writer.stop()
        if error is None and self._is_complete:
            run = msgspec.structs.replace(self._run, is_complete=True)
            self._writer.put_meta(RUN_KEY, msgspec.msgpack.encode(run))
        self._settle_acks()
        self._writer.close()
        control.beacon_path(self._home).unlink(missing_ok=True)
        self._context.destroy(linger=200)
        shutil.rmtree(self._runtime, ignore_errors=True)

    # --- The loop -----------------------------------------------------------------------------

    def run(self) -> int:
        """Run until stopped; returns the exit code."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        (self._home / "logs").mkdir(exist_ok=True)
        self._announce(
            m.KernelStarted(self._now(), self.sequencer.session, version("tickerml"), self._plan.profile)
        )
        self._act(self._supervisor.start(time.monotonic_ns()))
        try:
            while self._ending.step is not Step.OVER:
                ready = dict(self._poller.poll(20))
                if self._inlet in ready:
                    self._ingest()
                if self._router in ready:
                    self._converse()
                if self._bus in ready:
                    self._bus.recv()  # a subscription: ZeroMQ keeps them, we only empty the queue
                now = time.monotonic_ns()
                if now - self._ticked_at >= 10_000_000:
                    self._ticked_at = now
                    self._tick(now)
                self._hand_over()
        finally:
            self._close()
        return self._conclude()

    def _on_signal(self, number: int, frame: object) -> None:
        self._ending.ask(signal.Signals(number).name)

    def _now(self) -> int:
        """Return ts_recv for the kernel's own messages: 0 where time is the data's, so as not to move it."""
        return time.time_ns() if self._is_wall else 0

    def _ingest(self) -> None:
        for _ in range(BURSTS):
            try:
                burst = self._inlet.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                frames = codec.unpack_burst(burst)
            except CodecError as error:
                logger.error("bus.burst_refused", error=str(error))
                continue
            self._publish(*self.sequencer.accept_all([frame for frame in frames if frame[0]]))
            for frame in frames:
                if not frame[0]:
                    self._note(frame)

    def _publish(self, stamped: list[bytes], runs: list[Run]) -> None:
        self._batch += stamped
        for topic, tails in runs:
            self._bus.send(codec.pack_run(topic, tails))

    def _note(self, frame: bytes) -> None:
        now = time.monotonic_ns()
        if frame.startswith(control.PROGRESS):
            progress = msgspec.msgpack.decode(frame[2:], type=control.Progress)
            self._supervisor.heard(progress.host, now, progress.position)
        else:
            checkpoint = msgspec.msgpack.decode(frame[2:], type=control.HostCheckpoint)
            # A source's inputs have numbers of their own: its state stands where the order stands now.
            is_source = checkpoint.host in {host.name for host in self._supervisor.sources()}
            position = self.sequencer.seq if is_source else checkpoint.position
            self._checkpoints.append(Checkpoint(checkpoint.host, position, checkpoint.state))

    def _announce(self, message: m.Message) -> int:
        if self._writer.error is not None:
            return self.sequencer.seq
        frame = self.sequencer.announce(message)
        at = frame.index(0) + 1
        self._publish([frame], [(frame[:at], [frame[at:]])])
        return self.sequencer.seq

    def _hand_over(self) -> None:
        """Give the journal's thread what has been stamped since the last time."""
        if self._batch or self._checkpoints:
            self._writer.append(
                self._batch[:], self.sequencer.take_kept(), self.sequencer.to_bytes(), self._checkpoints
            )
            self._batch.clear()
            self._checkpoints = []
        if self._acks and (self._writer.committed >= self._acks[0][0] or self._writer.error):
            self._settle_acks()

    def _settle_acks(self) -> None:
        error = self._writer.error
        for seq, identity in self._acks:
            if error is not None:
                self._reply(identity, control.Refused(str(error)))
            elif seq <= self._writer.committed:
                self._reply(identity, control.Done(seq))
        self._acks = [ack for ack in self._acks if error is None and ack[0] > self._writer.committed]

    # --- Time passing -------------------------------------------------------------------------

    def _tick(self, now: int) -> None:
        self._reap(now)
        if self._ending.step is Step.RUNNING:
            self._act(self._supervisor.tick(now))
        self._watch_journal()
        self._let_go(now)
        if self._plan.kernel.speed == "max":
            self._pace()
        if now - self._told_at >= 1_000_000_000:
            self._tell(now)
        if self._started_at and not self._ending.reason:
            self._check_end(now)
        if self._ending.reason:
            self._end(now)

    def _reap(self, now: int) -> None:
        for name, child in list(self._children.items()):
            reason = child.exit_reason()  # before its log is read, so that its last words are
            for line in child.read_log():
                self._bus.send(b"~log.%b.\0%b" % (name.encode(), line))
                if b'"notice": true' in line:
                    show_notice(line)
            if reason:
                child.end()
                del self._children[name]
                self._act(self._supervisor.exited(name, child.exit_reason(), now))

    def _act(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Spawn(host):
                    child = Child(host, self._runtime, self._token, self._home / "logs")
                    self._children[host] = child
                    self._supervisor.spawned(host, child.pid)
                case Kill(host, reason):
                    if host in self._children:
                        self._children[host].kill(reason)
                case Report(host, reason, restart_in_ns):
                    delay = restart_in_ns // 1_000_000 if restart_in_ns >= 0 else -1
                    tell = logger.info if reason == "stopped" else logger.error
                    tell("host.stopped", host=host, reason=reason, restart_in_ms=delay)
                    self._announce(m.HostStopped(self._now(), host, reason, delay))

    def _watch_journal(self) -> None:
        error = self._writer.error
        is_watched = bool(self._poller.sockets) and any(s is self._inlet for s, _ in self._poller.sockets)
        if error is not None and is_watched:
            self._poller.unregister(self._inlet)
            logger.error("journal.failed", error=str(error))
            if not self._is_wall:
                self._ending.ask("the journal failed")
        elif error is None and is_watched and self._writer.backlog > BACKLOG_LIMIT:
            self._poller.unregister(self._inlet)
        elif error is None and not is_watched and self._writer.backlog < BACKLOG_LIMIT // 2:
            self._poller.register(self._inlet, zmq.POLLIN)

    def _let_go(self, now: int) -> None:
        """Start the sources once everyone who listens is ready."""
        if self._started_at or not self._supervisor.is_settled or self._ending.step is not Step.RUNNING:
            return
        self._started_at = now
        self._command_sources(control.Start())
        logger.info("kernel.started", profile=self._plan.profile, session=self.sequencer.session)

    def _pace(self) -> None:
        match self._flow.pace(self.sequencer.seq, self._supervisor.consumers()):
            case Pacing.PAUSE:
                # By the marker a host that listens to little learns how far it is.
                self._announce(m.Sync(self._now(), "flow"))
                self._command_sources(control.Pause())
            case Pacing.PROCEED:
                self._command_sources(control.Proceed())

    def _command_sources(self, command: Any) -> None:
        for host in self._supervisor.sources():
            self._command(host.name, command)

    def _command(self, host: str, command: Any) -> None:
        if (child := self._children.get(host)) and child.identity:
            self._reply(child.identity, command)

    def _reply(self, identity: bytes, message: Any) -> None:
        # The peer may be gone; the supervisor will notice a host, and a client has left of itself.
        with contextlib.suppress(zmq.ZMQError):
            self._router.send_multipart([identity, control.encode(message)])

    def _tell(self, now: int) -> None:
        elapsed = (now - self._told_at) / 1e9
        self._rate = (self.sequencer.seq - self._rate_seq) / elapsed if self._told_at else 0.0
        self._rate_seq, self._told_at = self.sequencer.seq, now
        if self._is_wall and self._started_at and self._ending.step is Step.RUNNING:
            self._announce(m.TimeTick(self._now()))
        report = self.report()
        self._bus.send(b"~status.\0" + msgspec.json.encode(report))
        if sys.stderr.isatty() and not self._settings.as_json:
            show_progress(report)

    # --- The end ------------------------------------------------------------------------------

    def _check_end(self, now: int) -> None:
        duration = self._settings.duration_s
        if duration and now - self._started_at >= duration * 1e9:
            self._ending.ask(f"ran for {duration:g} s")
            return
        sources = set(self._plan.ids("exchange"))
        if sources and sources <= self.sequencer.summary.over and self._is_drained():
            self._ending.ask("the data ended")
            self._is_complete = not self.sequencer.summary.failed

    def _is_drained(self) -> bool:
        consumers = self._supervisor.consumers()
        if self._flow.is_drained(self.sequencer.seq, consumers) or self._writer.error:
            return True
        if self._flow.wants_marker(consumers):
            self._flow.marked(self._announce(m.Sync(self._now(), "drain")))
        return False

    def _end(self, now: int) -> None:
        """Take the clean stop one step further, when it is time."""
        stopping = [n for n in self._children if self._supervisor.hosts[n].phase is HostPhase.STOPPING]
        step = self._ending.step
        is_done = self._is_drained() if step is Step.DRAIN else not stopping
        if self._ending.is_late(now) and not is_done:
            logger.error("kernel.stop_forced", step=step.name.lower(), hosts=stopping)
            for name in stopping:
                self._children[name].kill("did not stop in time")
            is_done = step is Step.DRAIN
        if not self._ending.advance(now, is_done=is_done):
            return
        if self._ending.step is Step.SOURCES:
            logger.info("kernel.stopping", reason=self._ending.reason)
            self._stop_hosts(self._supervisor.sources())
        elif self._ending.step is Step.HOSTS:
            self._stop_hosts(list(self._supervisor.hosts.values()))

    def _stop_hosts(self, hosts: list[Host]) -> None:
        for host in hosts:
            child = self._children.get(host.name)
            if child is None or host.phase is HostPhase.STOPPING:
                continue
            self._supervisor.stopping(host.name)
            if child.identity:
                self._command(host.name, control.Stop())
            else:
                child.kill("stopped before it said hello")

    def _conclude(self) -> int:
        if sys.stderr.isatty() and not self._settings.as_json:
            print(file=sys.stderr)
        if self._config_error:
            print(f"tickerml: {self._config_error}", file=sys.stderr)
            return 2
        report = self.sequencer.summary.report()
        report["stopped_because"] = self._ending.reason
        report["run"] = str(self._run_dir)
        show(report, sys.stdout, as_json=self._settings.as_json)
        problems = list_problems(report, self._supervisor.hosts.values(), self._writer.error)
        for problem in problems:
            print(f"tickerml: {problem}", file=sys.stderr)
        return 1 if problems else 0

    # --- Control ------------------------------------------------------------------------------

    def _converse(self) -> None:
        while self._router.poll(0):
            identity, *rest = self._router.recv_multipart()
            try:
                message = control.decode(rest[-1])
                answer = self._answer(identity, message)
            except (BusError, ConfigError, OSError) as error:
                answer = control.Refused(str(error))
            if answer is not None:
                self._reply(identity, answer)

    def _answer(self, identity: bytes, message: Any) -> Any:
        if isinstance(message, control.Hello):
            return self._welcome(identity, message)
        host = next((name for name, child in self._children.items() if child.identity == identity), None)
        return self._answer_client(identity, message) if host is None else self._answer_host(host, message)

    def _answer_host(self, host: str, message: Any) -> Any:
        now = time.monotonic_ns()
        match message:
            case control.Present():
                return self._admit(host, message)
            case control.Ready():
                self._supervisor.ready(host, now, message.position, message.role)
                if message.role is control.Role.SOURCE and self._started_at:
                    self._command(host, control.Start())
            case control.Beat():
                self._supervisor.heard(host, now, message.position)
                known = self._children[host].failed
                for plugin in message.failed:
                    known.setdefault(plugin, self.sequencer.summary.failed.get(plugin, "failed"))
            case control.Unfit():
                self._supervisor.unfit(host, message.error)
                if message.is_config and not self._started_at:
                    self._config_error = message.error
                    self._ending.ask("the configuration was refused")
            case control.SyncRequest():
                self._announce(m.Sync(self._now(), message.purpose))
            case _:
                return control.Refused(f"a kernel does not take {type(message).__name__} from a host")
        return None

    def _answer_client(self, identity: bytes, message: Any) -> Any:
        match message:
            case control.StatusRequest():
                return control.Status(self.report())
            case control.HaltRequest():
                self._promise(identity, m.HaltTrading(self._now(), message.source, message.reason))
            case control.ResumeRequest():
                self._promise(identity, m.ResumeTrading(self._now(), message.source, message.reason))
            case control.PluginRequest():
                return self._set_plugin(identity, message.plugin, message.is_enabled)
            case control.ShutdownRequest():
                self._ending.ask(message.reason)
                return control.Done(self.sequencer.seq)
            case _:
                return control.Refused(f"a kernel does not take {type(message).__name__} from a client")
        return None

    def _promise(self, identity: bytes, message: m.Message) -> None:
        """Publish *message*; the answer goes out when it is on disk."""
        if self._writer.error is not None:
            self._reply(identity, control.Refused(str(self._writer.error)))
            return
        self._acks.append((self._announce(message), identity))

    def _welcome(self, identity: bytes, hello: control.Hello) -> control.Welcome:
        control.check_hello(hello, self._token, codec.schema_hash())
        child = self._children.get(hello.host)
        if child is None or child.pid != hello.pid:
            raise HandshakeRefused(f"host {hello.host} (pid {hello.pid}) is not the one this kernel started")
        child.identity = identity
        place = admission.Place(str(self._home), str(self._run_dir))
        session = self.sequencer.session
        return admission.welcome(hello.host, self._plan, self._run, place, session, self._revived)

    def _admit(self, host: str, present: control.Present) -> control.Admitted:
        child = self._children[host]
        admitted = admission.admit(present, self.sequencer)
        kinds = {plugin.id: plugin.kind for plugin in self._plan.plugins}
        for plugin, (stage, error) in present.failed.items():
            child.failed[plugin] = f"{stage}: {error}"
            self._announce(m.PluginFailed(self._now(), plugin, kinds.get(plugin, ""), stage, error))
        epoch = max(admitted.epochs.values(), default=0)
        self._announce(m.HostStarted(self._now(), host, child.pid, epoch, list(admitted.origins)))
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
        self._writer.hosts = frozenset(self._plan.hosts())
        if is_enabled:
            self._revived.add(plugin)
        host = planned[plugin].host
        is_needed = host in self._plan.hosts()
        if host in self._children:
            self._supervisor.stopping(host, respawn=is_needed)
            self._command(host, control.Stop())
        elif is_needed:
            self._act(self._supervisor.add(host, time.monotonic_ns()))
        self._promise(identity, m.PluginChanged(self._now(), plugin, is_enabled))
        return None

    # --- Report -------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return the state of everything, ready for JSON."""
        summary, hosts = self.sequencer.summary, self._supervisor.hosts
        consumers = self._supervisor.consumers()
        failed = {host: child.failed for host, child in self._children.items()}
        return {
            "state": self._state(),
            "profile": self._plan.profile,
            "session": self.sequencer.session,
            "pid": os.getpid(),
            "uptime_s": round((time.monotonic_ns() - self._born_at) / 1e9, 3),
            "seq": self.sequencer.seq,
            "committed": self._writer.committed,
            "messages_per_s": round(self._rate, 1),
            "duplicates": self.sequencer.duplicates,
            "refused": self.sequencer.refused,
            "halted_by": summary.halted_by or None,
            "journal": {
                "path": str(self._run_dir / "journal"),
                "error": str(self._writer.error) if self._writer.error else None,
            },
            "rss_mb": rss_mb(os.getpid()),
            "hosts": [
                host_row(host, self.sequencer.seq - host.position if host in consumers else 0)
                for host in hosts.values()
            ],
            "plugins": [
                plugin_row(entry, hosts.get(entry.host), failed.get(entry.host, {}))
                for entry in self._plan.plugins
            ],
            "summary": summary.report(),
        }

    def _state(self) -> str:
        if self._ending.step is not Step.RUNNING:
            return "stopping"
        if self._writer.error or self.sequencer.summary.halted_by:
            return "halted"
        if not self._started_at:
            return "starting"
        is_whole = all(
            host.phase in (HostPhase.READY, HostPhase.STOPPED) for host in self._supervisor.hosts.values()
        )
        return "running" if is_whole and not any(c.failed for c in self._children.values()) else "degraded"


def main(arguments: list[str]) -> int:
    """Run a kernel; returns its exit code."""
    settings = msgspec.json.decode(arguments[0], type=Settings)
    # How long the journal's thread may hold the interpreter; 5 ms, the default, would be seen in orders.
    sys.setswitchinterval(0.0005)
    log.configure(as_json=settings.as_json or None)
    try:
        return Kernel(settings).run()
    except TickerMLError as error:
        print(f"tickerml: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
