"""
The guard: the kernel's watchdog where there is no systemd.

    python -m tickerml.kernel.guard '{"home": ..., "first": [...], "again": [...]}'

A small parent process. It starts the kernel, listens to what the kernel's notifier says
(the sd_notify protocol, see notify), and starts it again when it has died or is silent.
A silent kernel gets SIGABRT, so that it can say where it hangs, and SIGKILL 5 s later.

What is not started again: a kernel that ended of itself with 0, or after it had said
that it is stopping; one that a person told the guard to stop; one whose configuration
is refused or whose journal is damaged, since the next would say the same; and one that
died five times within a minute. What happened stands in HOME/guard.json.
"""

import contextlib
import enum
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from .errors import StoreLocked, TickerMLError
from .limits import die_with_parent, signal_name
from .lock import Held, hold
from .units import NS_PER_MS, NS_PER_S

CONFIG_REFUSED = 2  # the kernel's exit codes after which starting it again would change nothing
JOURNAL_DAMAGED = 5
NOT_STARTED = 127  # ours, as a shell's
MAX_DEATHS = 5
DEATH_WINDOW_NS = 60 * NS_PER_S
FIRST_DELAY_NS = 100 * NS_PER_MS
LONGEST_DELAY_NS = 30 * NS_PER_S
SETTLED_NS = 60 * NS_PER_S  # a kernel that has lived so long starts the delays anew
START_LIMIT_NS = 90 * NS_PER_S  # without a word; it may ask for more. systemd allows as much
STOP_LIMIT_NS = 90 * NS_PER_S
ABORT_LIMIT_NS = 5 * NS_PER_S  # from SIGABRT to SIGKILL
STOOD_STILL_NS = NS_PER_S  # a guard that looks so late was itself stopped, and what it expected may have come
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred of <sys/socket.h>


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for."""

    home: str
    first: list[str]  # the kernel's command line
    again: list[str]  # the same once it has been up: no new run is begun a second time
    watchdog_s: float = 10.0
    as_json: bool = False


class Phase(enum.StrEnum):
    """What the guard is doing."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"  # in place, of itself
    STOPPING = "stopping"
    WAITING = "waiting"  # for the next start
    OVER = "over"


class Death(msgspec.Struct, frozen=True):
    """One end of the kernel that was not asked for."""

    at_ns: int  # UTC
    reason: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The content of HOME/guard.json."""

    pid: int
    kernel_pid: int
    phase: Phase
    since_ns: int  # UTC
    restarts: int
    reason: str  # of the last death, or why the guard gave up; "" when there was none
    gave_up: bool
    status: str  # what the kernel last said of itself
    deaths: list[Death]


class Start(NamedTuple):
    """Start the kernel."""

    is_first: bool


class Signal(NamedTuple):
    """Send the kernel a signal; why is "" when it is only passed on."""

    number: signal.Signals
    why: str = ""


class Died(NamedTuple):
    """Tell the world that the kernel is gone; restart_in_ns is -1 when it stays so."""

    reason: str
    restart_in_ns: int


class Over(NamedTuple):
    """End, with this exit code; error is "" when it was meant to be."""

    code: int
    error: str


Effect = Start | Signal | Died | Over


class Guard:
    """Decides when the kernel is started, killed and given up. Sans-IO; times are monotonic, ns."""

    def __init__(self, watchdog_ns: int, rng: random.Random) -> None:
        """
        Args:
            watchdog_ns: how long a running kernel may be silent.
            rng: spreads the delays, so that machines that lost the same thing do not return at once.
        """
        self.phase = Phase.WAITING
        self.pid = 0
        self.restarts = 0
        self.reason = ""
        self.status = ""
        self.has_given_up = False
        self._watchdog_ns = watchdog_ns
        self._rng = rng
        self._deaths: list[int] = []
        self._delays = 0  # how many in a row
        self._was_up = False
        self._is_stopped = False  # a person wants the end
        self._killed_for = ""
        self._started_at = 0
        self._deadline = 0

    @property
    def deadline(self) -> int | None:
        """When tick() has something to do, unless something else happens first."""
        return None if self.phase is Phase.OVER else self._deadline

    def start(self, now: int) -> list[Effect]:
        """Start the kernel for the first time, or again."""
        self._enter(Phase.STARTING, now)
        self._started_at = now
        self._killed_for = self.status = ""
        return [Start(not self._was_up)]

    def _enter(self, phase: Phase, now: int) -> None:
        limits = {Phase.RUNNING: self._watchdog_ns, Phase.STOPPING: STOP_LIMIT_NS}
        self.phase = phase
        self._deadline = now + limits.get(phase, START_LIMIT_NS)

    def started(self, pid: int) -> None:
        """The kernel's process exists."""
        self.pid = pid

    def notified(self, data: bytes, now: int) -> None:
        """The kernel said *data*: lines of NAME=value. What is not understood is left alone."""
        said = dict(line.partition("=")[::2] for line in data.decode(errors="replace").split("\n"))
        self.status = said.get("STATUS", self.status)
        if self._killed_for or not self.pid:
            return
        if said.get("STOPPING") == "1":
            self._enter(Phase.STOPPING, now)
        elif said.get("RELOADING") == "1":
            self._enter(Phase.RESTARTING, now)
        elif said.get("READY") == "1":
            self._was_up = True
            self._enter(Phase.RUNNING, now)
        elif said.get("WATCHDOG") == "1" and self.phase is Phase.RUNNING:
            self._deadline = now + self._watchdog_ns
        if (more := said.get("EXTEND_TIMEOUT_USEC", "")).isdecimal():
            self._deadline = max(self._deadline, now + int(more) * 1000)

    def asked(self, number: signal.Signals, now: int) -> list[Effect]:
        """The guard was sent a signal; the kernel gets it, and knows what it means."""
        is_end = number is not signal.SIGHUP
        self._is_stopped = self._is_stopped or is_end
        if self.pid:
            if is_end and self.phase is not Phase.STOPPING:
                self._enter(Phase.STOPPING, now)
            return [Signal(number)]
        return self._end(0, "") if is_end else []

    def exited(self, code: int, now: int) -> list[Effect]:
        """
        The kernel is gone.

        Args:
            code: its exit code, or the negative number of the signal that ended it.
        """
        self.pid = 0
        if code in (0, CONFIG_REFUSED) or self._is_stopped or self.phase is Phase.STOPPING:
            # What the kernel had to say about its end, it has said.
            return self._end(code if code >= 0 else 128 - code, "")
        how = f"exit code {code}" if code >= 0 else f"killed by {signal_name(-code)}"
        self.reason = self._killed_for or how
        if code == JOURNAL_DAMAGED:
            return self._give_up(code, "its journal is damaged; see `tickerml journal verify`")
        self._deaths = [death for death in self._deaths if now - death < DEATH_WINDOW_NS] + [now]
        if len(self._deaths) >= MAX_DEATHS:
            window = DEATH_WINDOW_NS // NS_PER_S
            return self._give_up(1, f"it died {MAX_DEATHS} times within {window} s, the last: {self.reason}")
        return self._wait(now)

    def _wait(self, now: int) -> list[Effect]:
        if now - self._started_at >= SETTLED_NS:
            self._delays = 0
        delay = min(FIRST_DELAY_NS << self._delays, LONGEST_DELAY_NS)
        delay = min(int(delay * self._rng.uniform(0.5, 1.5)), LONGEST_DELAY_NS)
        self._delays += 1
        self.phase, self._deadline = Phase.WAITING, now + delay
        return [Died(self.reason, delay)]

    def _give_up(self, code: int, why: str) -> list[Effect]:
        died = Died(self.reason, -1)
        self.reason = why
        self.has_given_up = True
        return [died, *self._end(code, f"the kernel is not started again: {why}")]

    def _end(self, code: int, error: str) -> list[Effect]:
        self.phase = Phase.OVER
        return [Over(code, error)]

    def tick(self, now: int) -> list[Effect]:
        """Time has passed: start what is due, end what is silent."""
        late = now - self._deadline
        if self.phase is Phase.OVER or late < 0:
            return []
        if self.phase is Phase.WAITING:
            self.restarts += 1
            return self.start(now)
        if self._killed_for:
            self._deadline = now + ABORT_LIMIT_NS
            return [Signal(signal.SIGKILL)]
        if late > STOOD_STILL_NS:
            self._enter(self.phase, now)
            return []
        return self._abort(now)

    def _abort(self, now: int) -> list[Effect]:
        silences = {
            Phase.RUNNING: f"no sign of life for {self._watchdog_ns / NS_PER_S:g} s",
            Phase.STOPPING: "it did not stop in time",
        }
        self._killed_for = silences.get(self.phase, "it did not start in time")
        self._deadline = now + ABORT_LIMIT_NS
        return [Signal(signal.SIGABRT, self._killed_for)]


# --- What stands in the home ----------------------------------------------------------------------


def report_path(home: Path) -> Path:
    """Return where the guard of *home* says how it is."""
    return home / "guard.json"


def read_report(home: Path) -> Report | None:
    """Return how the guard of *home* is: one that is there, or one that gave up; None without."""
    try:
        report = msgspec.json.decode(report_path(home).read_bytes(), type=Report)
        if not report.gave_up:
            os.kill(report.pid, 0)
    except (OSError, msgspec.MsgspecError):
        return None
    return report


class GuardLock:
    """One guard per home: an advisory lock that the system drops when the process ends."""

    def __init__(self, home: Path) -> None:
        """
        Raises: StoreLocked: another guard holds it. StoreError: the home cannot be written.
        """
        try:
            self._file = hold(home, "guard.lock")
        except Held:
            raise StoreLocked(
                f"another guard watches over {home}; stop it with `tickerml stop`, or use another --home"
            ) from None


# --- The process ----------------------------------------------------------------------------------


class Watchman:
    """The guard's process: the socket, the signals and the child around the guard that decides."""

    def __init__(self, settings: Settings) -> None:
        """
        Raises: StoreError, StoreLocked: the home cannot be used.
        """
        self._settings = settings
        self._home = Path(settings.home)
        self._lock = GuardLock(self._home)
        self._guard = Guard(int(settings.watchdog_s * NS_PER_S), random.Random())
        self._deaths: list[Death] = []
        self._phase, self._since_ns = Phase.OVER, 0
        self._process: subprocess.Popen[bytes] | None = None
        self._over: Over | None = None
        self._written = b""
        # In the abstract namespace there is no file that a killed guard could leave behind.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")
        self._socket.setblocking(False)
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._asked: list[signal.Signals] = []

    def run(self) -> int:
        """Guard the kernel to its end; returns the exit code."""
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in _PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                signal.signal(number, self._on_signal)
        self._act(self._guard.start(time.monotonic_ns()))
        while self._over is None:
            self._sleep()
            self._look()
        return self._conclude(self._over)

    def _on_signal(self, number: int, frame: object) -> None:
        self._asked.append(signal.Signals(number))

    def _sleep(self) -> None:
        deadline = self._guard.deadline or 0
        pause_s = max(0.0, (deadline - time.monotonic_ns()) / NS_PER_S)
        select.select([self._socket.fileno(), self._woken], [], [], pause_s)
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _look(self) -> None:
        now = time.monotonic_ns()
        code = self._reap()
        self._listen(now)  # also to a kernel's last words, before its end is judged
        while self._asked:
            self._act(self._guard.asked(self._asked.pop(0), now))
        if code is not None:
            self._act(self._guard.exited(code, now))
        self._act(self._guard.tick(now))

    def _reap(self) -> int | None:
        """Return how the kernel ended, if it did. Orphans come to a container's first process; reap them."""
        code = None
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG):
                if self._process and ended.si_pid == self._process.pid:
                    is_exit = ended.si_code == os.CLD_EXITED
                    code = self._process.returncode = ended.si_status if is_exit else -ended.si_status
        return code

    def _listen(self, now: int) -> None:
        size = socket.CMSG_SPACE(_CREDENTIALS.size)
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._socket.recvmsg(4096, size)
                senders = [
                    _CREDENTIALS.unpack(item)[0]
                    for _, kind, item in ancillary
                    if kind == socket.SCM_CREDENTIALS
                ]
                if self._guard.pid in senders:  # anybody may send here; the kernel alone is believed
                    self._guard.notified(data, now)
                    self._write_report()

    def _act(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(is_first):
                    self._start(self._settings.first if is_first else self._settings.again)
                case Signal(number, why):
                    if why:
                        _tell(f"the kernel (pid {self._guard.pid}) is ended: {why}")
                    if self._process:
                        self._process.send_signal(number)
                case Died(reason, restart_in_ns):
                    self._deaths = [*self._deaths, Death(time.time_ns(), reason)][-MAX_DEATHS:]
                    if restart_in_ns >= 0:
                        _tell(f"the kernel is gone: {reason}; again in {restart_in_ns / NS_PER_S:.1f} s")
                case Over():
                    self._over = effect
        self._write_report()

    def _start(self, command: list[str]) -> None:
        told = {
            "NOTIFY_SOCKET": "@" + os.fsdecode(self._socket.getsockname()[1:]),
            "WATCHDOG_USEC": str(int(self._settings.watchdog_s * 1_000_000)),
        }
        environment = {key: value for key, value in os.environ.items() if key != "WATCHDOG_PID"}
        try:
            # The guard has no threads, so code of ours may run between fork and exec.
            self._process = subprocess.Popen(command, env=environment | told, preexec_fn=_follow(os.getpid()))
        except OSError as error:  # no memory for a process, or a Python that was removed meanwhile
            _tell(f"the kernel cannot be started: {error}")
            self._act(self._guard.exited(NOT_STARTED, time.monotonic_ns()))
        else:
            self._guard.started(self._process.pid)

    def _write_report(self) -> None:
        guard = self._guard
        if guard.phase is not self._phase:
            self._phase, self._since_ns = guard.phase, time.time_ns()
        report = Report(
            pid=os.getpid(),
            kernel_pid=guard.pid,
            phase=guard.phase,
            since_ns=self._since_ns,
            restarts=guard.restarts,
            reason=guard.reason,
            gave_up=guard.has_given_up,
            status=guard.status,
            deaths=self._deaths,
        )
        data = msgspec.json.encode(report)
        path = report_path(self._home)
        if data == self._written:
            return
        with contextlib.suppress(OSError):  # on a full disk the kernel is guarded all the same
            path.with_suffix(".new").write_bytes(data)
            path.with_suffix(".new").replace(path)
            self._written = data

    def _conclude(self, over: Over) -> int:
        self._socket.close()
        if not over.error:
            report_path(self._home).unlink(missing_ok=True)
            return over.code
        if self._settings.as_json:
            print(json.dumps({"error": over.error, "type": "GuardGaveUp"}), flush=True)
        _tell(over.error)
        return over.code


def _tell(text: str) -> None:
    # Plain lines, since structlog would double the memory of a process that has next to nothing to say.
    print(f"tickerml: {text}", file=sys.stderr, flush=True)


def _follow(guard: int) -> Callable[[], None]:
    """Return what a kernel does before it is one: it asks to be stopped cleanly when its *guard* ends."""

    def follow() -> None:
        die_with_parent(signal.SIGTERM)
        if os.getppid() != guard:
            os._exit(1)

    return follow


def main(arguments: list[str]) -> int:
    """Run a guard; returns its exit code, which is the kernel's unless the guard gave up."""
    settings = msgspec.json.decode(arguments[0], type=Settings)
    try:
        return Watchman(settings).run()
    except TickerMLError as error:
        _tell(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
