"""The guard: what it decides, told of events, and what it does to a small program that plays the kernel."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import guard as g
from tickerml.kernel.guard import Died, Guard, Over, Phase, Signal, Start

SECOND = 1_000_000_000
WATCHDOG = 10 * SECOND


class Steady(random.Random):
    """A chance that always takes the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def up(now: int = 0) -> Guard:
    """Return a guard whose kernel is ready."""
    guard = Guard(WATCHDOG, Steady())
    assert guard.start(now) == [Start(True)]
    guard.started(100)
    guard.notified(b"READY=1\nSTATUS=trading", now)
    return guard


def kill_again(guard: Guard, now: int) -> int:
    """Let the kernel die and come back at once; returns the time of its return."""
    (died,) = guard.exited(-9, now)
    assert isinstance(died, Died)
    again = now + died.restart_in_ns
    assert guard.tick(again - 1) == []
    assert guard.tick(again) == [Start(False)]
    guard.started(100)
    guard.notified(b"READY=1", again)
    return again


# --- What it decides ------------------------------------------------------------------------------


def test_a_kernel_that_speaks_in_time_is_left_alone():
    guard = up()
    for second in range(9, 3600, 9):
        assert guard.tick(second * SECOND) == []
        guard.notified(b"WATCHDOG=1", second * SECOND)

    assert (guard.phase, guard.status) == (Phase.RUNNING, "trading")


def test_a_silent_kernel_is_asked_to_say_where_it_hangs_and_killed_five_seconds_later():
    guard = up()

    assert guard.tick(WATCHDOG - 1) == []
    assert guard.tick(WATCHDOG) == [Signal(signal.SIGABRT, "no sign of life for 10 s")]
    guard.notified(b"WATCHDOG=1", WATCHDOG + SECOND)  # too late: it is on its way out
    assert guard.tick(WATCHDOG + 4 * SECOND) == []
    assert guard.tick(WATCHDOG + 5 * SECOND) == [Signal(signal.SIGKILL)]
    assert guard.tick(WATCHDOG + 10 * SECOND) == [Signal(signal.SIGKILL)]
    assert guard.exited(-9, WATCHDOG + 11 * SECOND) == [Died("no sign of life for 10 s", SECOND // 10)]


def test_a_status_is_no_sign_of_life():
    guard = up()
    guard.notified(b"STATUS=busy", WATCHDOG - 1)

    assert guard.tick(WATCHDOG) != []


def test_a_guard_that_stood_still_itself_does_not_blame_the_kernel():
    guard = up()

    assert guard.tick(60 * SECOND) == []
    assert guard.tick(60 * SECOND + WATCHDOG - 1) == []
    assert guard.tick(60 * SECOND + WATCHDOG) == [Signal(signal.SIGABRT, "no sign of life for 10 s")]


def test_delays_grow_and_a_minute_of_life_starts_them_anew():
    guard = up()
    now, delays = 0, []
    for _ in range(12):
        died_at = now + 20 * SECOND
        now = kill_again(guard, died_at)
        delays.append((now - died_at) / SECOND)
    died_at = now + 60 * SECOND
    anew = (kill_again(guard, died_at) - died_at) / SECOND

    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30]
    assert anew == 0.1
    assert guard.restarts == 13


def test_delays_are_spread_by_half_and_never_above_the_longest():
    delays = set()
    for seed in range(50):
        guard = Guard(WATCHDOG, random.Random(seed))
        guard.start(0)
        guard.started(1)
        (died,) = guard.exited(1, 0)
        delays.add(died.restart_in_ns / SECOND)

    assert min(delays) >= 0.05
    assert max(delays) <= 0.15
    assert len(delays) > 40


def test_five_deaths_within_a_minute_are_the_end_and_the_last_is_the_reason():
    guard = up()
    now = 0
    for _ in range(4):
        now = kill_again(guard, now + SECOND)
    died, over = guard.exited(1, now + SECOND)

    assert died == Died("exit code 1", -1)
    assert isinstance(over, Over)
    assert over.code == 1
    assert "it died 5 times within 60 s, the last: exit code 1" in over.error
    assert guard.has_given_up
    assert guard.deadline is None


def test_five_deaths_within_more_than_a_minute_are_not_the_end():
    guard = up()
    now = 0
    for _ in range(20):
        now = kill_again(guard, now + 15 * SECOND)

    assert guard.phase is Phase.RUNNING


@pytest.mark.parametrize("code", [0, 2])
def test_a_clean_end_and_a_refused_configuration_are_final(code):
    assert up().exited(code, SECOND) == [Over(code, "")]


def test_a_damaged_journal_is_final_and_says_what_to_do():
    died, over = up().exited(5, SECOND)

    assert died == Died("exit code 5", -1)
    assert over.code == 5
    assert "its journal is damaged; see `tickerml journal verify`" in over.error


@pytest.mark.parametrize("code", [0, 1, -9])
def test_an_end_after_the_kernel_said_that_it_is_stopping_is_final_however_it_ends(code):
    guard = up()
    guard.notified(b"STOPPING=1", SECOND)

    assert guard.exited(code, 2 * SECOND) == [Over(137 if code == -9 else code, "")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_end_is_passed_on_and_the_end_is_final(number):
    guard = up()

    assert guard.asked(number, SECOND) == [Signal(number)]
    assert guard.tick(SECOND + g.STOP_LIMIT_NS - 1) == []
    assert guard.exited(1, 3 * SECOND) == [Over(1, "")]


def test_a_kernel_that_does_not_stop_in_time_is_ended():
    guard = up()
    guard.asked(signal.SIGTERM, 0)

    assert guard.tick(g.STOP_LIMIT_NS) == [Signal(signal.SIGABRT, "it did not stop in time")]
    assert guard.exited(-6, g.STOP_LIMIT_NS + 1) == [Over(134, "")]


def test_a_hangup_is_passed_on_and_a_restart_in_place_has_its_time():
    guard = up()

    assert guard.asked(signal.SIGHUP, SECOND) == [Signal(signal.SIGHUP)]
    guard.notified(b"RELOADING=1\nMONOTONIC_USEC=1", SECOND)
    assert guard.tick(30 * SECOND) == []
    guard.notified(b"READY=1", 31 * SECOND)
    assert guard.tick(31 * SECOND + WATCHDOG) == [Signal(signal.SIGABRT, "no sign of life for 10 s")]
    assert guard.restarts == 0


def test_a_signal_to_end_while_no_kernel_runs_ends_the_guard():
    guard = up()
    guard.exited(-9, SECOND)

    assert guard.asked(signal.SIGHUP, SECOND) == []
    assert guard.asked(signal.SIGTERM, SECOND) == [Over(0, "")]
    assert guard.tick(100 * SECOND) == []


def test_a_start_has_a_limit_and_may_ask_for_more_time():
    guard = Guard(WATCHDOG, Steady())
    guard.start(0)
    guard.started(1)
    guard.notified(b"WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000", 80 * SECOND)

    assert guard.tick(140 * SECOND - 1) == []
    assert guard.tick(140 * SECOND) == [Signal(signal.SIGABRT, "it did not start in time")]


def test_a_new_run_is_begun_once_only():
    guard = Guard(WATCHDOG, Steady())
    guard.start(0)
    guard.started(1)
    guard.exited(1, 0)
    assert guard.tick(SECOND // 5) == [Start(True)]  # it had not been up
    guard.started(2)
    guard.notified(b"READY=1", SECOND)
    guard.exited(1, 2 * SECOND)

    assert guard.tick(3 * SECOND) == [Start(False)]


@given(st.binary(max_size=200))
def test_whatever_is_said_breaks_nothing(data):
    guard = up()
    guard.notified(data, SECOND)

    assert guard.pid == 100


EVENTS = st.one_of(
    st.tuples(st.just("exited"), st.sampled_from([0, 1, 2, 5, -6, -9, -40])),
    st.tuples(st.just("said"), st.sampled_from([b"READY=1", b"WATCHDOG=1", b"RELOADING=1", b"STATUS=x"])),
    st.tuples(st.just("asked"), st.sampled_from([signal.SIGHUP, signal.SIGTERM])),
    st.tuples(st.just("ticked"), st.just(0)),
)


@given(st.lists(st.tuples(st.integers(0, 40 * SECOND), EVENTS), max_size=60), st.integers())
def test_there_is_one_kernel_at_most_and_after_the_end_nothing_happens(history, seed):
    guard = Guard(WATCHDOG, random.Random(seed))
    now, running, over = 0, False, False

    def act(effects):
        nonlocal running, over
        for effect in effects:
            assert not over
            match effect:
                case Start():
                    assert not running
                    running = True
                    guard.started(7)
                case Signal():
                    assert running
                case Over():
                    assert not running
                    over = True

    act(guard.start(0))
    for pause, (event, fact) in history:
        now += pause
        if over:
            break
        match event:
            case "exited" if running:
                running = False
                act(guard.exited(fact, now))
            case "said":
                guard.notified(fact, now)
            case "asked":
                act(guard.asked(fact, now))
            case "ticked":
                act(guard.tick(now))
        assert over or guard.deadline is not None


# --- What it does to a process --------------------------------------------------------------------

FAKE = """
import contextlib, os, signal, socket, sys, time
behaviour = sys.argv[1]
starts = int(open("starts").read()) + 1 if os.path.exists("starts") else 1
open("starts", "w").write(str(starts))
address = "\\0" + os.environ["NOTIFY_SOCKET"][1:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def say(text):
    with contextlib.suppress(OSError):
        notify.sendto(text.encode(), address)
open("pid", "w").write(str(os.getpid()))
if behaviour == "exits":
    sys.exit(1)
if behaviour == "damaged":
    sys.exit(5)
def stop(number, frame):
    say("STOPPING=1")
    open("stopped_by", "w").write(signal.Signals(number).name)
    sys.exit(1)
def restart(number, frame):
    say("RELOADING=1")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGHUP, restart)
say("READY=1\\nSTATUS=start %d" % starts)
if behaviour == "ends":
    sys.exit(0)
if behaviour == "deaf":
    signal.signal(signal.SIGABRT, signal.SIG_IGN)
if behaviour in ("silent", "deaf") and starts == 1:
    time.sleep(60)
for _ in range(1200):
    say("WATCHDOG=1")
    time.sleep(0.05)
"""


class Guarded:
    """A guard in a process of its own, over the program above."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.process: subprocess.Popen[str] | None = None

    def start(self, behaviour: str, *, watchdog_s: float = 10.0, as_json: bool = False) -> None:
        (self.directory / "fake.py").write_text(FAKE)
        command = [sys.executable, "fake.py", behaviour]
        settings = g.Settings(
            home=str(self.home), first=command, again=command, watchdog_s=watchdog_s, as_json=as_json
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tickerml.kernel.guard", msgspec.json.encode(settings).decode()],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> tuple[int, str, str]:
        assert self.process is not None
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    @property
    def report(self) -> g.Report | None:
        return g.read_report(self.home)

    def wait_for(self, condition: Callable[[g.Report], bool]) -> g.Report:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if (report := self.report) and condition(report):
                return report
            time.sleep(0.005)
        raise TimeoutError(f"it did not come to that: {self.report}")

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    built = Guarded(tmp_path)
    yield built
    if built.process:
        built.process.terminate()
        built.process.communicate(timeout=60)


def test_a_killed_kernel_is_started_again_and_said_so(guarded):
    guarded.start("lives")
    first = guarded.wait_for(lambda report: report.phase is Phase.RUNNING)
    os.kill(first.kernel_pid, signal.SIGKILL)

    second = guarded.wait_for(lambda report: report.status == "start 2")

    assert second.restarts == 1
    assert second.kernel_pid != first.kernel_pid
    assert (second.reason, second.deaths[0].reason) == ("killed by SIGKILL", "killed by SIGKILL")
    assert abs(second.deaths[0].at_ns - time.time_ns()) < 60 * SECOND
    guarded.process.terminate()
    code, _, err = guarded.finish()
    assert code == 1  # the kernel's own, which was told to stop
    assert "tickerml: the kernel is gone: killed by SIGKILL; again in 0." in err


def test_a_kernel_that_says_nothing_any_more_is_replaced(guarded):
    guarded.start("silent", watchdog_s=0.3)

    report = guarded.wait_for(lambda report: report.status == "start 2")

    assert report.reason == "no sign of life for 0.3 s"


def test_a_silent_kernel_that_ignores_sigabrt_is_killed(guarded):
    guarded.start("deaf", watchdog_s=0.3)
    first = guarded.wait_for(lambda report: report.phase is Phase.RUNNING)

    report = guarded.wait_for(lambda report: report.status == "start 2")

    assert report.restarts == 1
    assert not Path(f"/proc/{first.kernel_pid}").exists()


def test_a_kernel_that_always_dies_is_given_up_with_the_reason_kept(guarded):
    guarded.start("exits", as_json=True)
    code, out, err = guarded.finish()

    assert code == 1
    assert guarded.read("starts") == "5"
    assert "tickerml: the kernel is not started again: it died 5 times within 60 s" in err
    assert json.loads(out)["type"] == "GuardGaveUp"
    assert guarded.report.gave_up
    assert guarded.report.reason == "it died 5 times within 60 s, the last: exit code 1"
    assert len(guarded.report.deaths) == 5


def test_a_damaged_journal_ends_the_guard_at_once(guarded):
    guarded.start("damaged")
    code, _, err = guarded.finish()

    assert (code, guarded.read("starts")) == (5, "1")
    assert "its journal is damaged" in err
    assert guarded.report.gave_up


def test_a_clean_end_is_the_end_and_leaves_no_report(guarded):
    guarded.start("ends")

    assert guarded.finish() == (0, "", "")
    assert guarded.read("starts") == "1"
    assert list(guarded.home.iterdir()) == [guarded.home / "guard.lock"]


def test_a_hangup_reaches_the_kernel_which_goes_on_in_place(guarded):
    guarded.start("lives")
    first = guarded.wait_for(lambda report: report.phase is Phase.RUNNING)
    guarded.process.send_signal(signal.SIGHUP)

    second = guarded.wait_for(lambda report: report.status == "start 2")

    assert (second.kernel_pid, second.restarts) == (first.kernel_pid, 0)


def test_a_kernel_is_stopped_cleanly_when_its_guard_is_killed(guarded):
    guarded.start("lives")
    guarded.wait_for(lambda report: report.phase is Phase.RUNNING)
    guarded.process.kill()
    guarded.finish()

    until = time.monotonic() + 30
    while not (guarded.directory / "stopped_by").exists():
        assert time.monotonic() < until
    assert guarded.report is None  # it names a guard that is gone


def test_nobody_else_can_speak_for_the_kernel(guarded, tmp_path):
    guarded.start("lives", watchdog_s=0.5)
    report = guarded.wait_for(lambda report: report.phase is Phase.RUNNING)
    environment = Path(f"/proc/{report.kernel_pid}/environ").read_bytes().split(b"\0")
    address = next(each for each in environment if each.startswith(b"NOTIFY_SOCKET=@"))[15:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"STOPPING=1\nSTATUS=stranger", b"\0" + address)
    os.kill(report.kernel_pid, signal.SIGKILL)

    assert guarded.wait_for(lambda report: report.status == "start 2").restarts == 1


def test_a_second_guard_on_one_home_is_refused(guarded, tmp_path):
    guarded.start("lives")
    guarded.wait_for(lambda report: report.phase is Phase.RUNNING)
    (tmp_path / "second").mkdir()
    second = Guarded(tmp_path / "second")
    second.home = guarded.home
    second.start("lives")

    code, _, err = second.finish()

    assert code == 1
    assert "another guard watches over" in err
    assert guarded.report.phase is Phase.RUNNING


def test_a_kernel_that_cannot_be_run_is_a_death_like_another(tmp_path):
    settings = g.Settings(home=str(tmp_path), first=["/nowhere/python"], again=[])

    done = subprocess.run(
        [sys.executable, "-m", "tickerml.kernel.guard", msgspec.json.encode(settings).decode()],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert done.stderr.count("the kernel cannot be started: [Errno 2]") == 5
    assert "Traceback" not in done.stderr


def test_a_home_that_cannot_be_used_is_said_in_one_line(guarded):
    guarded.home.write_text("a file")
    guarded.start("lives")
    code, _, err = guarded.finish()

    assert code == 1
    assert err.count("\n") == 1
    assert "cannot use the home" in err


def test_a_guard_needs_little():
    modules = subprocess.run(
        [sys.executable, "-c", "import sys, tickerml.kernel.guard; print(*sys.modules)"],
        capture_output=True,
        text=True,
    ).stdout.split()

    assert {"typer", "structlog", "zmq", "lmdb", "numpy", "zstandard", "asyncio"} & set(modules) == set()
