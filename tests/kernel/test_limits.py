"""What a host may take: the watch with figures given to it, and the system's limits on real processes."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from tickerml.kernel import limits
from tickerml.kernel.limits import Limits, Usage, Watch

SECOND = 1_000_000_000


def judge_seconds(watch, cpu, seconds, start=0, pid=7, is_ready=True):
    """Let a process use *cpu* of a core for *seconds*; returns the reasons that were given."""
    reasons = []
    for second in range(seconds + 1):
        now = (start + second) * SECOND
        reasons.append(watch.judge(pid, Usage(10.0, int(now * cpu)), now, is_ready=is_ready))
    return reasons


# --- The watch ------------------------------------------------------------------------------------


def test_memory_at_the_limit_passes_and_above_it_is_named_with_both_figures():
    watch = Watch(Limits(rss_mb=300))

    assert watch.judge(7, Usage(300.0, 0), 0) == ""
    assert watch.judge(7, Usage(312.4, 0), SECOND) == "uses 312 MB of memory, its limit is 300 MB"


def test_memory_counts_also_before_a_host_is_ready():
    assert Watch(Limits(rss_mb=1)).judge(7, Usage(2.0, 0), 0, is_ready=False) != ""


def test_processor_time_above_the_limit_for_the_whole_window_is_named_with_both_figures():
    reasons = judge_seconds(Watch(Limits(cpu=0.5)), 0.97, 10)

    assert reasons[:10] == [""] * 10
    assert reasons[10] == "used 0.97 of a core for 10 s, its limit is 0.50"


def test_processor_time_at_the_limit_passes_however_long_it_lasts():
    assert set(judge_seconds(Watch(Limits(cpu=0.5)), 0.5, 100)) == {""}


def test_a_burst_that_the_window_evens_out_passes():
    watch = Watch(Limits(cpu=0.5))
    used = 0
    reasons = []
    for second in range(60):
        reasons.append(watch.judge(7, Usage(1.0, used), second * SECOND))
        used += SECOND if second % 10 < 4 else 0

    assert set(reasons) == {""}


def test_what_a_host_used_while_it_caught_up_is_not_held_against_it():
    watch = Watch(Limits(cpu=0.5))

    assert set(judge_seconds(watch, 1.0, 30, is_ready=False)) == {""}
    assert set(judge_seconds(watch, 0.4, 30, start=31)) == {""}


def test_a_new_process_starts_with_a_clean_record():
    watch = Watch(Limits(cpu=0.5))
    judge_seconds(watch, 0.9, 9, pid=7)

    assert set(judge_seconds(watch, 0.4, 20, start=10, pid=8)) == {""}


def test_two_looks_far_apart_judge_the_time_between_them():
    watch = Watch(Limits(cpu=0.5))
    watch.judge(7, Usage(1.0, 0), 0)

    reason = watch.judge(7, Usage(1.0, 54 * SECOND), 60 * SECOND)

    assert reason == "used 0.90 of a core for 60 s, its limit is 0.50"


def test_without_limits_nothing_is_looked_at():
    assert Watch(Limits()).judge(7, Usage(10**6, 10**18), 0) == ""
    assert Watch(Limits()).sample(-1, 0) == ""


def test_a_process_that_is_gone_breaks_no_limit():
    process = subprocess.Popen(["/bin/true"])
    process.wait()

    assert limits.usage(process.pid) is None
    assert Watch(Limits(rss_mb=1)).sample(process.pid, 0) == ""


def test_memory_of_its_own_is_read_and_mapped_files_are_not_counted(tmp_path):
    import mmap

    before = limits.usage(os.getpid())
    path = tmp_path / "map"
    path.write_bytes(bytes(64 * 2**20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert not any(view[at] for at in range(0, len(view), 4096))
        mapped = limits.usage(os.getpid())
    own = bytearray(os.urandom(1) * (64 * 2**20))
    taken = limits.usage(os.getpid())

    assert own
    assert mapped.memory_mb - before.memory_mb < 16
    assert 48 < taken.memory_mb - before.memory_mb < 96
    assert taken.cpu_ns > 0


def test_the_processor_time_of_a_busy_process_with_an_odd_name_is_read(tmp_path):
    odd = tmp_path / "odd) 1 2"
    odd.symlink_to("/bin/sh")
    process = subprocess.Popen([odd, "-c", "while :; do :; done"])
    try:
        until = time.monotonic() + 30
        while limits.usage(process.pid).cpu_ns < SECOND // 10:
            assert time.monotonic() < until
    finally:
        process.kill()
        process.wait()


# --- The system's limits --------------------------------------------------------------------------

GREEDY = """
import sys
from tickerml.kernel import limits
limits.apply(limits.Limits(rss_mb=float(sys.argv[1])))
try:
    size = len(bytearray(int(sys.argv[2]) * 2**20))
except MemoryError:
    print("refused")
else:
    print("given")
"""


@pytest.mark.parametrize(
    ("limit_mb", "take_mb", "answer"),
    [("100", "250", "given"), ("100", "400", "refused"), ("0", "400", "given")],
)
def test_a_host_that_takes_half_as_much_again_at_once_is_refused_by_the_system(limit_mb, take_mb, answer):
    done = subprocess.run(
        [sys.executable, "-c", GREEDY, limit_mb, take_mb], capture_output=True, text=True, timeout=60
    )

    assert done.stdout.strip() == answer, done.stderr


def test_limits_are_set_from_outside_and_a_lower_one_stays():
    process = subprocess.Popen(
        ["/bin/sh", "-c", "ulimit -n 50; echo ready; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        limits.apply(Limits(rss_mb=100), process.pid)

        assert resource.prlimit(process.pid, resource.RLIMIT_DATA)[0] == (150 + limits.HEADROOM_MB) * 2**20
        assert resource.prlimit(process.pid, resource.RLIMIT_CORE)[0] == 0
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (50, 50)


def test_limits_of_a_process_that_is_gone_are_no_error():
    process = subprocess.Popen(["/bin/true"])
    process.wait()

    limits.apply(Limits(rss_mb=100), process.pid)


PARENT = """
import os, signal, sys, time
from tickerml.kernel import limits
reading, writing = os.pipe()
pid = os.fork()
if not pid:
    limits.die_with_parent(signal.SIGKILL)
    os.write(writing, b"set")
    time.sleep(60)
os.read(reading, 3)
print(pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_that_asked_for_it_dies_with_its_parent():
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, timeout=60)
    child = int(done.stdout)

    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 20
    while is_running(child):
        assert time.monotonic() < until


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie; whoever adopted it reaps it in its own time."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
