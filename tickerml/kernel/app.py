"""
The kernel process: real sockets, clock, disk and children at the edges of the kernel.

    python -m tickerml.kernel.app '{"plan": ..., "home": ...}'

One loop: it takes bursts, control messages and subscriptions from ZeroMQ, lets time
pass every 10 ms, and hands over to the journal's thread. It never waits for the disk.
"""

import contextlib
import faulthandler
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog
import zmq

from . import control, killfile, limits, log, status
from . import messages as m
from .berths import host_of
from .children import Child
from .clock import DATA_CLOCK_START_NS, WallClock
from .config import HostEntry, Plan
from .core import RESTART, Kernel, Settings
from .environment import sync_directory
from .errors import ConfigError, StoreCorrupt, TickerMLError
from .guard import CONFIG_REFUSED, JOURNAL_DAMAGED
from .journal import JournalWriter
from .notify import Notifier
from .report import list_problems, rss_mb, show, show_notice, show_progress
from .runs import PLAN_KEY, RUN_KEY, HomeLock, choose, recover
from .sequencer import Sequencer
from .supervisor import HostPhase
from .units import NS_PER_S

logger = structlog.get_logger()

HIGH_WATER = 10_000  # runs queued for one subscriber before ZeroMQ drops, and it reads the journal: 2.7 MB
INLET_HIGH_WATER = 10_000  # frames a host may push ahead of the kernel before it waits
BURSTS = 64  # bursts taken between two looks at everything else
TICK_NS = NS_PER_S // 100
PEER_BYTES = 5  # of the identity that ZeroMQ gives a peer
RUNTIME_PREFIX = "tml-"


def _limits(entry: HostEntry) -> limits.Limits:
    return limits.Limits(entry.max_rss_mb, entry.max_cpu)


class App:
    """One session of the kernel on one home; the Edges of its Kernel."""

    def __init__(self, settings: Settings, notifier: Notifier) -> None:
        """
        Raises: StoreError, StoreLocked: the home or its journal cannot be used.
        """
        self.pid = os.getpid()
        self._settings = settings
        self._notifier = notifier
        self._home = Path(settings.home)
        self._kill_file = killfile.KillFile(self._home)
        self._lock = HomeLock(self._home)
        plan = settings.plan
        is_wall = plan.kernel.clock == "wall" and plan.kernel.speed == "1"
        started_ns = time.time_ns() if is_wall else DATA_CLOCK_START_NS
        run_dir, self._run = choose(self._home, plan, started_ns, is_fresh=settings.is_fresh)
        self._children: dict[str, Child] = {}
        self._watches: dict[str, limits.Watch] = {}
        self._shown_at = 0
        self._is_ready = self._is_ending = False
        self.kernel = self._open(run_dir)

    # --- Opening and closing ------------------------------------------------------------------

    def _open(self, run_dir: Path) -> Kernel:
        plan = self._settings.plan
        path = run_dir / "journal"
        recovered = recover(path, plan.consumers())
        self._clock = WallClock(not_before=recovered.written_ns)
        self._writer = JournalWriter(
            path,
            map_mb=plan.kernel.map_mb,
            commit_ms=plan.kernel.commit_ms,
            hot_hours=plan.kernel.hot_hours,
            hosts=plan.hosts(),
            clock=self._clock.now,
        )
        sequencer = Sequencer(recovered.state)
        self._writer.put_meta(RUN_KEY, msgspec.msgpack.encode(self._run))
        self._writer.put_meta(PLAN_KEY, msgspec.json.encode(plan))
        self._writer.start()
        self._open_sockets(plan.profile, run_dir, sequencer.session)
        return Kernel(
            self._settings,
            self,
            self._writer,
            sequencer,
            run=self._run,
            run_dir=run_dir,
            token=control.new_token(),
            rng=random.Random(secrets.randbits(64)),
            repaired=recovered.repaired,
        )

    def _open_sockets(self, profile: str, run_dir: Path, session: int) -> None:
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
        self._router.sndhwm = HIGH_WATER  # a large state that is given back goes out at once
        self._router.bind(control.control_address(self._runtime))
        self._poller = zmq.Poller()
        for socket in (self._inlet, self._bus, self._router):
            self._poller.register(socket, zmq.POLLIN)
        beacon = control.Beacon(os.getpid(), self._runtime, profile, str(run_dir), session)
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
        self.kernel.close()
        self._writer.stop()
        if self._writer.error is None and self.kernel.is_complete:
            run = msgspec.structs.replace(self._run, is_complete=True)
            self._writer.put_meta(RUN_KEY, msgspec.msgpack.encode(run))
        self.kernel.settle_acks()
        self._writer.close()
        control.beacon_path(self._home).unlink(missing_ok=True)
        self._context.destroy(linger=200)
        shutil.rmtree(self._runtime, ignore_errors=True)

    # --- The loop -----------------------------------------------------------------------------

    def run(self) -> int:
        """Run until stopped; returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which is how nohup asks to be left alone
            signal.signal(signal.SIGHUP, self._on_hangup)
        (self._home / "logs").mkdir(exist_ok=True)
        try:
            self._loop()
        finally:
            self._close()
        return self._conclude()

    def _loop(self) -> None:
        kernel, ticked_at, heeded_at = self.kernel, 0, 0
        kernel.begin()
        while not kernel.is_over:
            ready = dict(self._poller.poll(20))
            if self._inlet in ready:
                self._ingest()
            if self._router in ready:
                self._converse()
            if self._bus in ready:
                self._bus.recv()  # a subscription: ZeroMQ keeps them, we only empty the queue
            if (now := time.monotonic_ns()) - ticked_at >= TICK_NS:
                ticked_at = now
                self._reap()
                kernel.tick()
                self._tell(now)
                if now - heeded_at >= NS_PER_S:
                    heeded_at = now
                    self._heed()
            kernel.hand_over()

    def _heed(self) -> None:
        if level := self._kill_file.take():
            reason = f"a file {killfile.NAME} in the home"
            self.kernel.outlet.announce(m.HaltTrading(self.kernel.now(), "file", reason, int(level)))

    def _on_signal(self, number: int, frame: object) -> None:
        self.kernel.ending.ask(signal.Signals(number).name)

    def _on_hangup(self, number: int, frame: object) -> None:
        # A service manager means: begin anew. A terminal that was closed means: end.
        if sys.stdin.isatty() or sys.stderr.isatty():
            self._on_signal(number, frame)
        else:
            self.kernel.restart()

    def _ingest(self) -> None:
        receive, take = self._inlet.recv, self.kernel.take_burst
        with contextlib.suppress(zmq.Again):
            for _ in range(BURSTS):
                take(receive(zmq.NOBLOCK))

    def _converse(self) -> None:
        while self._router.poll(0):
            peer, *number, data = self._router.recv_multipart()
            # A client numbers its requests and finds the number on the answer; a host does not.
            self.kernel.take_control(b"".join([peer, *number]), data)

    def _reap(self) -> None:
        for name, child in list(self._children.items()):
            reason = child.exit_reason()  # before its log is read, so that its last words are
            for line in child.read_log():
                self.publish(b"~log.%b.\0%b" % (child.host.encode(), line))
                if b'"notice": true' in line:
                    show_notice(line)
            if reason:
                reason = child.exit_reason()  # with its last words
                child.end()
                del self._children[name]
                self.kernel.exited(name, reason)

    def _tell(self, now: int) -> None:
        """Tell whoever watches over this process, and a person at the terminal, how it is."""
        kernel, notifier = self.kernel, self._notifier
        notifier.alive(now)
        if kernel.ending.reason and not self._is_ending:
            self._is_ending = True
            if kernel.ending.reason == RESTART:
                notifier.reloading(now, "restarting")
            else:
                notifier.stopping(f"stopping: {kernel.ending.reason}")
        elif kernel.is_started and not self._is_ready:
            self._is_ready = True
            notifier.ready("trading on paper")
        if now - self._shown_at >= NS_PER_S and sys.stderr.isatty() and not self._settings.as_json:
            self._shown_at = now
            show_progress(status.report(kernel))

    # --- Edges of the kernel ------------------------------------------------------------------

    def monotonic(self) -> int:
        return time.monotonic_ns()

    def wall(self) -> int:
        return self._clock.now()

    def ahead_ns(self) -> int:
        return self._clock.ahead_ns

    def publish(self, message: bytes) -> None:
        self._bus.send(message)

    def reply(self, identity: bytes, message: Any) -> None:
        # The peer may be gone or not read: the supervisor notices a host, and a client has left of itself.
        with contextlib.suppress(zmq.ZMQError):
            peer, number = identity[:PEER_BYTES], identity[PEER_BYTES:]
            parts = [peer, *([number] if number else []), control.encode(message)]
            self._router.send_multipart(parts, zmq.NOBLOCK)

    def spawn(self, process: str, token: str, plan: Plan) -> int:
        host = host_of(process)
        limited = _limits(plan.limits_of(host))
        child = self._children[process] = Child(
            host, self._runtime, token, self._home / "logs", limited=limited, secrets=plan.secrets_of(host)
        )
        self._watches[process] = limits.Watch(limited)
        return child.pid

    def kill(self, process: str, reason: str) -> None:
        if child := self._children.get(process):
            child.kill(reason)

    def listen(self, is_on: bool) -> None:
        if is_on:
            self._poller.register(self._inlet, zmq.POLLIN)
        else:
            self._poller.unregister(self._inlet)

    def overuse(self, process: str) -> str:
        watch, child = self._watches.get(process), self._children.get(process)
        if not watch or not child:
            return ""
        is_ready = self.kernel.supervisor.hosts[child.host].phase is HostPhase.READY
        return watch.sample(child.pid, time.monotonic_ns(), is_ready=is_ready)

    def place(self, files: dict[str, str]) -> str:
        try:
            for prepared, target in files.items():
                os.replace(prepared, target)
            for directory in {Path(target).parent for target in files.values()}:
                sync_directory(directory)
        except OSError as error:
            return f"cannot put {error.filename} in its place: {error.strerror}"
        return ""

    def drop(self, files: dict[str, str]) -> None:
        for prepared in files:
            Path(prepared).unlink(missing_ok=True)

    def rss_mb(self, pid: int) -> float:
        return rss_mb(pid)

    def cpu_s(self, pid: int) -> float:
        found = limits.usage(pid)
        return found.cpu_ns / NS_PER_S if found else 0.0

    # --- The last word ------------------------------------------------------------------------

    def _conclude(self) -> int:
        kernel = self.kernel
        if sys.stderr.isatty() and not self._settings.as_json:
            print(file=sys.stderr)
        if kernel.config_error:
            print(f"tickerml: {kernel.config_error}", file=sys.stderr)
            return 2
        if kernel.ending.reason == RESTART:
            return 0
        report = kernel.sequencer.summary.report()
        report["stopped_because"] = kernel.ending.reason
        report["run"] = str(kernel.run_dir)
        show(report, sys.stdout, as_json=self._settings.as_json)
        failure = kernel.journal_failure or str(self._writer.error or "")
        problems = list_problems(report, kernel.supervisor.hosts.values(), failure)
        for problem in problems:
            print(f"tickerml: {problem}", file=sys.stderr)
        return 1 if problems else 0


def main(arguments: list[str]) -> int:
    """Run a kernel; returns its exit code."""
    settings = msgspec.json.decode(arguments[0], type=Settings)
    # How long the journal's thread may hold the interpreter; 5 ms, the default, would be seen in orders.
    sys.setswitchinterval(0.0005)
    faulthandler.enable()  # a watchdog's SIGABRT then shows where it hangs
    log.configure(as_json=settings.as_json or None)
    notifier = Notifier(os.environ)
    try:
        app = App(settings, notifier)
        code = app.run()
    except TickerMLError as error:
        print(f"tickerml: {error}", file=sys.stderr)
        if isinstance(error, ConfigError):
            return CONFIG_REFUSED
        return JOURNAL_DAMAGED if isinstance(error, StoreCorrupt) else 1
    if app.kernel.ending.reason == RESTART:
        notifier.hand_on(os.environ)
        same = msgspec.structs.replace(settings, plan=app.kernel.plan, is_fresh=False)
        itself = [sys.executable, "-m", "tickerml.kernel.app", msgspec.json.encode(same).decode()]
        again = settings.again or itself
        os.execv(again[0], again)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
