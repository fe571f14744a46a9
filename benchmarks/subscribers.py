"""
What slow subscribers cost the others, and whether they lose anything.

    python benchmarks/subscribers.py [--json] [--rate N] [--seconds S] [--rounds R]

A real kernel and a feed of stamped trades at *rate* a second. One normal subscriber measures how
long a trade takes to reach it. Then, phase by phase in turn, it is alone, and with three others:
one that sleeps 5 s and wakes up, again and again, one that reads at a tenth of the rate, and one
that never reads. The slow ones run at the lowest priority: what is measured is what it costs the others
that they do not take their messages, not that they compute.

latency_us         of the normal subscriber, from the making of a trade in the feed's process:
                   p50 and p99 of all phases alone, and of all with the slow ones
p99_ratio          with the slow ones, divided by alone: of each pair of phases, and their median
lost, repeated     messages of lossless topics by subscriber, against the journal, message by message
taken, gaps        what each took, and how often the journal had to fill in what the bus had dropped
sleeper_lag_s      how far behind the sleeper was when it woke up, and how long it took to catch up
tenth_lag_s        how far behind the reader at a tenth of the rate was in the end
kernel_own_mb      memory of the kernel's own, without the pages of its journal, which grow with it and
                   can be taken back: largest of each phase alone, and with the slow ones
cores              how much of a core each used; where they and the system need more than there are,
                   the normal subscriber waits for a core and not for its messages
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tickerml.kernel import codec
from tickerml.kernel.client import Client, Subscription
from tickerml.kernel.errors import KernelUnreachable
from tickerml.kernel.journal_reader import JournalReader
from tickerml.kernel.subscription import Rewound

ROOT = Path(__file__).resolve().parent.parent
TOPIC = b"trade."
SLEEP_S = 5.0
GIVE_UP_S = 40.0  # a sleeper that has not caught up by then says so by this number
SETTLE_S = 2.0  # after the start of anything, before anything is measured
CONFIG = """
format = 1
[profile.bench]
plugins = ["exchange-bench"]
[plugin.exchange-bench]
host = "market"
module = "bench_feed"
options = {{ rate = {rate} }}
"""


# --- Subscribers, each a process ------------------------------------------------------------------


class Diary:
    """What a subscriber was given: seq and a checksum of each message, for the comparison."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.seqs = array("Q")
        self.sums = array("L")

    def add(self, events: list[Any]) -> None:
        """Take what receive() returned."""
        for event in events:
            if isinstance(event, Rewound):
                while self.seqs and self.seqs[-1] > event.to_seq:
                    self.seqs.pop()
                    self.sums.pop()
            else:
                self.seqs.append(event.seq)
                self.sums.append(zlib.crc32(event.body))

    def save(self, path: Path, **facts: Any) -> None:
        """Write it down, with *facts* beside it."""
        with path.with_suffix(".new").open("wb") as file:
            cores = round(time.process_time() / (time.monotonic() - self._began), 2)
            facts |= {"taken": len(self.seqs), "cores": cores}
            file.write(json.dumps(facts).encode() + b"\n")
            self.seqs.tofile(file)
            self.sums.tofile(file)
        path.with_suffix(".new").replace(path)

    @staticmethod
    def load(path: Path) -> tuple["Diary", dict[str, Any]]:
        """Return what was saved."""
        diary = Diary()
        with path.open("rb") as file:
            facts = json.loads(file.readline())
            diary.seqs.fromfile(file, facts["taken"])
            diary.sums.fromfile(file, facts["taken"])
        return diary, facts


def read_normally(home: str, path: str, stop: Any) -> None:
    """Take everything as it comes, and note how long each took."""
    subscription, diary = Subscription(Path(home), lossless=[TOPIC]), Diary()
    taken_at, took_ns = array("Q"), array("Q")
    while not stop.is_set():
        events = subscription.receive(0.1)
        now = time.monotonic_ns()
        diary.add(events)
        for event in events:
            if isinstance(event, codec.Frame):
                taken_at.append(now)
                took_ns.append(now - codec.decode(event.body).ts_event)  # type: ignore[attr-defined]
    facts = {"gaps": subscription.gaps, "taken_at": list(taken_at), "took_ns": list(took_ns)}
    diary.save(Path(path), **facts)
    subscription.close()


def sleep_and_wake(home: str, path: str, stop: Any) -> None:
    """Sleep, take everything there is, and sleep again."""
    os.nice(19)
    subscription, diary = Subscription(Path(home), lossless=[TOPIC]), Diary()
    while not subscription.is_joined:
        diary.add(subscription.receive(0.1))
    lags, caught_up = [], []
    while not stop.wait(SLEEP_S):
        woke_at = time.monotonic()
        diary.add(subscription.receive(0.0))
        lags.append(subscription.lag_ns() / 1e9)
        while not _is_near(subscription) and time.monotonic() - woke_at < GIVE_UP_S:
            diary.add(subscription.receive(0.1))
        caught_up.append(time.monotonic() - woke_at)
    diary.save(Path(path), gaps=subscription.gaps, lag_s=lags, caught_up_s=caught_up)
    subscription.close()


def _is_near(subscription: Subscription) -> bool:
    """Whether it has caught up: what it has not taken is younger than the last that was told."""
    return subscription.lag_ns() == 0 and subscription.position >= subscription.journal().head()


def read_slowly(home: str, path: str, stop: Any, rate: int) -> None:
    """Take *rate* messages a second at most."""
    os.nice(19)
    subscription, diary = Subscription(Path(home), lossless=[TOPIC]), Diary()
    began = time.monotonic()
    while not stop.wait(0.05):
        while len(diary.seqs) < (time.monotonic() - began) * rate and not stop.is_set():
            diary.add(subscription.receive(0.05, limit=rate // 20))
    diary.save(Path(path), gaps=subscription.gaps, lag_s=subscription.lag_ns() / 1e9)
    subscription.close()


def never_read(home: str, path: str, stop: Any) -> None:
    """Subscribe to everything, and leave it there."""
    os.nice(19)
    subscription, diary = Subscription(Path(home), lossless=[b""]), Diary()
    stop.wait()
    diary.save(Path(path), gaps=0)
    subscription.close()


# --- The system -----------------------------------------------------------------------------------


@contextmanager
def kernel(home: str, rate: int) -> Iterator[int]:
    """Run a kernel and the feed; gives the kernel's pid."""
    config = Path(home) / "bench.toml"
    config.write_text(CONFIG.format(rate=rate))
    command = [sys.executable, "-m", "tickerml.ui.cli", "run", "--home", home, "--no-console", "--json"]
    process = subprocess.Popen(
        [*command, "--config", str(config), "--profile", "bench"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield wait_for(home, process)
        process.terminate()
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(home: str, process: subprocess.Popen[bytes]) -> int:
    """Return the pid of the kernel once it has let its sources go."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client = Client(Path(home))
            report = client.status()
            client.close()
            if report["state"] in ("running", "degraded"):
                return int(report["pid"])
        except KernelUnreachable:
            pass
        time.sleep(0.05)
    raise TimeoutError("the kernel did not start")


@contextmanager
def subscribers(targets: dict[str, tuple[Any, ...]], home: str, directory: Path) -> Iterator[None]:
    """Run each of *targets*, (function, arguments...), in a process, and let them end and save."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    processes = [
        context.Process(target=target, args=(home, str(directory / name), stop, *rest), name=name)
        for name, (target, *rest) in targets.items()
    ]
    try:
        for process in processes:
            process.start()
        yield
        stop.set()
        for process in processes:
            process.join(60)
            if process.exitcode != 0:
                raise RuntimeError(f"the {process.name} subscriber ended with {process.exitcode}")
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()


def own_mb(pid: int) -> float:
    """Return the resident memory of *pid* that is not a file's, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def cpu_s(pid: int) -> float:
    """Return how long *pid* and the children that it still has have computed, in seconds."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    clock = os.sysconf("SC_CLK_TCK")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / clock + sum(cpu_s(int(child)) for child in children)


def watch(pid: int, seconds: float) -> tuple[int, int, float, float]:
    """
    Let *seconds* pass.

    Returns: when they began and ended, monotonic ns; the largest memory of *pid* in MiB; and how much
    of a core it and its children used.
    """
    began, largest, computed = time.monotonic_ns(), 0.0, cpu_s(pid)
    while time.monotonic_ns() < began + seconds * 1e9:
        largest = max(largest, own_mb(pid))
        time.sleep(0.1)
    return began, time.monotonic_ns(), largest, (cpu_s(pid) - computed) / seconds


# --- The figures ----------------------------------------------------------------------------------


class Phase:
    """What one phase was."""

    def __init__(self, is_alone: bool, began: int, ended: int, own: float, cores: float) -> None:
        self.is_alone, self.began, self.ended = is_alone, began, ended
        self.own, self.cores = own, cores
        self.took_us: list[float] = []


def measure(home: str, directory: Path, rate: int, seconds: float, rounds: int) -> list[Phase]:
    """Run everything; the diaries are in *directory* then."""
    phases = []
    with kernel(home, rate) as pid, subscribers({"normal": (read_normally,)}, home, directory):
        time.sleep(SETTLE_S)
        for number in range(rounds):
            phases.append(Phase(True, *watch(pid, seconds)))
            slow: dict[str, tuple[Any, ...]] = {
                f"sleeper-{number}": (sleep_and_wake,),
                f"tenth-{number}": (read_slowly, rate // 10),
                f"never-{number}": (never_read,),
            }
            with subscribers(slow, home, directory):
                time.sleep(SETTLE_S)
                phases.append(Phase(False, *watch(pid, seconds)))
            time.sleep(SETTLE_S)
    return phases


def compare(home: str, directory: Path) -> dict[str, dict[str, int]]:
    """Return by subscriber how many messages it lost and how many it had twice or wrongly."""
    (path,) = Path(home).glob("runs/bench/*/journal")
    reader = JournalReader(path)
    frames = (codec.unpack(raw) for raw in reader.frames() if raw.startswith(TOPIC))
    journal = {frame.seq: zlib.crc32(frame.body) for frame in frames}
    reader.close()
    found = {}
    for file in sorted(directory.iterdir()):
        diary, _ = Diary.load(file)
        if not diary.seqs:
            continue
        first, last = diary.seqs[0], diary.seqs[-1]
        expected = {seq: crc for seq, crc in journal.items() if first <= seq <= last}
        given = dict(zip(diary.seqs, diary.sums, strict=True))
        is_ordered = all(a < b for a, b in zip(diary.seqs, diary.seqs[1:], strict=False))
        found[file.name] = {
            "lost": len(expected.keys() - given.keys()),
            "repeated": len(diary.seqs) - len(given) + (0 if is_ordered else 1),
            "wrong": sum(expected.get(seq) != crc for seq, crc in given.items()),
            "taken": len(diary.seqs),
        }
    return found


def quantile(values: list[float], share: float) -> float:
    """Return the value below which *share* of *values* lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def report(phases: list[Phase], directory: Path, home: str) -> dict[str, Any]:
    """Return the figures."""
    _, normal = Diary.load(directory / "normal")
    for taken_at, took in zip(normal["taken_at"], normal["took_ns"], strict=True):
        for phase in phases:
            if phase.began <= taken_at < phase.ended:
                phase.took_us.append(took / 1000)
    alone = [phase for phase in phases if phase.is_alone]
    beset = [phase for phase in phases if not phase.is_alone]
    ratios = [
        quantile(b.took_us, 0.99) / quantile(a.took_us, 0.99) for a, b in zip(alone, beset, strict=True)
    ]
    facts = {file.name: Diary.load(file)[1] for file in directory.iterdir()}
    found = compare(home, directory)
    sleepers = [each for name, each in facts.items() if name.startswith("sleeper")]
    return {
        "latency_us": {"alone": latency(alone), "with_slow": latency(beset)},
        "p99_ratio": {
            "pairs": [round(ratio, 2) for ratio in ratios],
            "median": round(statistics.median(ratios), 2),
        },
        "lost": {name: each["lost"] + each["wrong"] for name, each in found.items()},
        "repeated": {name: each["repeated"] for name, each in found.items()},
        "taken": {name: each["taken"] for name, each in found.items()},
        "gaps": {name: each["gaps"] for name, each in facts.items()},
        "sleeper_lag_s": {
            "woke_up": [round(lag, 2) for each in sleepers for lag in each["lag_s"]],
            "caught_up_in": [round(took, 2) for each in sleepers for took in each["caught_up_s"]],
        },
        "tenth_lag_s": [round(each["lag_s"], 1) for n, each in facts.items() if n.startswith("tenth")],
        "kernel_own_mb": {
            "alone": [round(phase.own, 1) for phase in alone],
            "with_slow": [round(phase.own, 1) for phase in beset],
        },
        "cores": {
            "kernel_and_feed": [round(phase.cores, 2) for phase in phases],
            **{name: each["cores"] for name, each in sorted(facts.items())},
            "there_are": os.cpu_count(),
        },
    }


def latency(phases: list[Phase]) -> dict[str, float]:
    """Return the quantiles over *phases*, in microseconds."""
    values = [took for phase in phases for took in phase.took_us]
    p50, p99 = quantile(values, 0.5), quantile(values, 0.99)
    return {"p50": round(p50, 1), "p99": round(p99, 1), "count": len(values)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rate", type=int, default=10_000, help="trades a second")
    parser.add_argument("--seconds", type=float, default=15.0, help="of one phase")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of phases: alone, with the slow ones")
    arguments = parser.parse_args()
    home = tempfile.mkdtemp(prefix="tml-home-")
    directory = Path(home) / "diaries"
    directory.mkdir()
    try:
        phases = measure(home, directory, arguments.rate, arguments.seconds, arguments.rounds)
        figures = report(phases, directory, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<15} {json.dumps(value)}")


if __name__ == "__main__":
    main()
