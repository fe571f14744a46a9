"""Host processes as the kernel keeps them: real ones, though they run a shell script instead of a host."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tickerml.kernel import children
from tickerml.kernel.children import Child
from tickerml.kernel.limits import Limits


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start a child that runs a line of shell."""
    (tmp_path / "logs").mkdir()
    started: list[Child] = []

    def start(script: str, limited: Limits | None = None) -> Child:
        program = ("/bin/sh", "-c", script)
        child = Child("trade", "run", "token", tmp_path / "logs", limited=limited, program=program)
        started.append(child)
        return child

    yield start
    for child in started:
        child.end()


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.002)


def read_until(child: Child, enough: Callable[[list[bytes]], bool]) -> list[bytes]:
    lines: list[bytes] = []

    def is_enough() -> bool:
        lines.extend(child.read_log())
        return enough(lines)

    wait_for(is_enough)
    return lines


def log_of(tmp_path: Path) -> bytes:
    return (tmp_path / "logs" / "trade.log").read_bytes()


# --- Ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 0", "exit code 0"),
        ("exit 3", "exit code 3"),
        ("echo one >&2; echo 'ValueError: two' >&2; exit 1", "exit code 1: ValueError: two"),
        ("printf 'no end of line' >&2; exit 1", "exit code 1: no end of line"),
        ("kill -SEGV $$", "killed by SIGSEGV"),
        ("kill -40 $$", "killed by signal 40"),
    ],
)
def test_says_why_a_host_is_gone(spawn, script, reason):
    child = spawn(script)
    wait_for(child.exit_reason)
    child.read_log()

    assert child.exit_reason() == reason


def test_a_host_that_was_killed_is_gone_for_the_reason_it_was_killed_for(spawn):
    child = spawn("sleep 60")
    assert child.exit_reason() == ""

    child.kill("no sign of life")
    child.kill("another reason")
    wait_for(child.exit_reason)

    assert child.exit_reason() == "no sign of life"


def test_a_host_that_ended_is_no_zombie_and_one_that_runs_is_left_alone(spawn):
    gone, there = spawn("exit 1"), spawn("sleep 60")

    wait_for(gone.exit_reason)

    assert not Path(f"/proc/{gone.pid}").exists()
    assert there.exit_reason() == ""
    assert Path(f"/proc/{there.pid}").exists()


@pytest.mark.parametrize("how", ["killed", "ended by itself"])
def test_what_a_host_has_started_ends_with_it(spawn, how):
    child = spawn("sleep 60 & echo $! >&2; wait" if how == "killed" else "sleep 60 & echo $! >&2; exit 1")
    grandchild = int(read_until(child, bool)[0])

    if how == "killed":
        child.kill("for the test")
    wait_for(child.exit_reason)

    wait_for(lambda: not is_running(grandchild))


def test_a_signal_to_the_kernels_process_group_does_not_reach_a_host(spawn):
    child = spawn("sleep 60")

    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    assert os.getsid(child.pid) == child.pid


def test_a_host_that_was_stopped_in_its_tracks_can_be_killed(spawn):
    child = spawn("sleep 60")
    os.kill(child.pid, signal.SIGSTOP)

    child.kill("hung")

    wait_for(child.exit_reason)


def test_handles_stay_flat_over_two_hundred_spawns(spawn):
    before = len(os.listdir("/proc/self/fd"))
    pids = set()
    for number in range(200):
        child = spawn("echo gone >&2; exit 1")
        pids.add(child.pid)
        wait_for(child.exit_reason)
        assert child.read_log() == [b"gone"], number
        child.end()

    assert len(os.listdir("/proc/self/fd")) == before
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie; whoever adopted it reaps it in its own time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# --- What it is given -----------------------------------------------------------------------------


def test_a_host_sees_its_token_and_nothing_secret_of_the_kernels_environment(spawn, monkeypatch):
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "x",
        "NOTIFY_SOCKET": "@n",
        "WATCHDOG_USEC": "1",
        "SSH_AUTH_SOCK": "s",
    }
    for name, value in {**secrets, "PYTHONPATH": "somewhere", "TZ": "UTC"}.items():
        monkeypatch.setenv(name, value)

    child = spawn("env >&2; echo END >&2; sleep 60")
    lines = read_until(child, lambda lines: b"END" in lines)

    seen = dict(line.decode().partition("=")[::2] for line in lines)
    assert seen["TICKERML_TOKEN"] == "token"
    assert (seen["PYTHONPATH"], seen["TZ"]) == ("somewhere", "UTC")
    assert secrets.keys() & seen.keys() == set()


def test_a_host_is_given_the_secrets_that_its_plugins_are_granted_and_no_other(monkeypatch):
    monkeypatch.setenv("TICKERML_SECRET_API_KEY", "one")
    monkeypatch.setenv("TICKERML_SECRET_OTHER", "two")
    monkeypatch.setenv("TICKERML_PLUGINS", "a")

    seen = children.environment("token", ["api-key", "not-set"])

    assert {key: value for key, value in seen.items() if key.startswith("TICKERML_SECRET_")} == {
        "TICKERML_SECRET_API_KEY": "one"
    }
    assert seen["TICKERML_PLUGINS"] == "a"


HOLES = """
import re
def taken():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
del [bytearray(300_000)][0]  # which teaches glibc to keep the next
before, kept = taken(), []
large = []
for i in range(100):
    large.append(bytearray(250_000))
    kept.append(bytes(5_000))
print(taken() - before, end=" ")
large.clear()
print(taken() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="says how glibc is told")
def test_a_host_gives_large_blocks_back_though_small_ones_stay_between_them():
    environment = {**children.environment("token"), "PYTHONMALLOC": "pymalloc"}

    told = subprocess.run([sys.executable, "-c", HOLES], env=environment, capture_output=True, check=True)

    most, left = map(int, told.stdout.split())
    assert most > 20
    assert left < 5, f"{left} of {most} MB were kept"


def test_whoever_sets_how_memory_is_taken_knows_better(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")

    assert children.environment("token")["MALLOC_MMAP_THRESHOLD_"] == "65536"


def test_a_host_inherits_no_file_handle_of_the_kernel(spawn, tmp_path):
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        child = spawn("sleep 60")
        held = [os.readlink(path) for path in Path(f"/proc/{child.pid}/fd").iterdir()]

    assert [path for path in held if "secret" in path] == []
    assert len(held) == 3


def test_a_host_is_limited_as_it_is_told(spawn):
    child = spawn("sleep 60", Limits(rss_mb=100))

    limits = Path(f"/proc/{child.pid}/limits").read_text()

    assert int(limits.split("Max data size")[1].split()[0]) > 150 * 2**20
    assert limits.split("Max core file size")[1].split()[0] == "0"


# --- Its log --------------------------------------------------------------------------------------


def test_half_a_line_waits_for_its_other_half(spawn, tmp_path):
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    child = spawn(f"printf 'first\\nsec' >&2; read go <{fifo}; printf 'ond\\n' >&2; sleep 60")

    before = read_until(child, bool)
    fifo.write_text("go\n")
    after = read_until(child, bool)

    assert (before, after) == ([b"first"], [b"second"])
    assert log_of(tmp_path) == b"first\nsecond\n"


def test_a_line_without_an_end_is_cut_and_does_not_grow_the_kernel(spawn):
    child = spawn("head -c 1000000 /dev/zero | tr '\\0' x >&2; sleep 60")

    lines = read_until(child, lambda lines: sum(map(len, lines)) > 900_000)

    assert max(map(len, lines)) <= children.LINE_BYTES


def test_a_flood_neither_holds_up_the_host_nor_fills_the_disk_and_is_counted(spawn, tmp_path):
    line = json.dumps({"event": "plugin.chattered", "text": "x" * 70})
    flood = f"yes '{line}' | head -n 300000 >&2"
    child = spawn(f"{flood}; while :; do echo DONE >&2; sleep 0.01; done")
    looks: list[int] = []
    kept: list[bytes] = []

    def is_done() -> bool:
        lines = child.read_log()
        looks.append(sum(map(len, lines)))
        kept.extend(lines)
        return b"DONE" in lines

    wait_for(is_done)
    allowed = children.ALLOWANCE + len(looks) * (children.REFILL + 100)
    assert max(looks) <= children.READ_BYTES + children.LINE_BYTES
    assert len(log_of(tmp_path)) == sum(len(line) + 1 for line in kept) <= allowed < 300_000 * len(line)
    dropped = sum(json.loads(line)["lines"] for line in kept if b"host.log_dropped" in line)
    written = sum(b"plugin.chattered" in line for line in kept)
    assert written + dropped >= 300_000


def test_a_log_is_set_aside_when_it_is_long_and_the_one_before_forgotten(spawn, tmp_path):
    logs = tmp_path / "logs"
    (logs / "trade.log").write_bytes(bytes(children.LOG_BYTES + 1))
    (logs / "trade.log.1").write_text("the one before")

    read_until(spawn("echo new >&2; sleep 60"), bool)

    assert log_of(tmp_path) == b"new\n"
    assert (logs / "trade.log.1").stat().st_size == children.LOG_BYTES + 1


def test_a_log_that_cannot_be_written_is_no_reason_to_stop(spawn, tmp_path):
    child = spawn("echo one >&2; sleep 60")
    (tmp_path / "logs").rmdir()

    assert read_until(child, bool) == [b"one"]
