"""
Four exchanges with four pairs each, from their sockets into the journal and the tape.

    python benchmarks/feeds.py [--times X | --rate R] [--minutes N] [--profile P] [--home DIR] [--json]

A server on this machine plays Binance.US, Coinbase, Kraken and KuCoin in today's formats, evenly
spread over time, and the set of a profile of plugins.toml (pi) takes it. As recorded (--times 1)
are 330 frames a second: what the mean symbol of each capture of 2021 sends, four times over, of
four exchanges. Each minute, and over all but the first tenth, are printed

    frames sent less frames read (lost), and what was skipped, missed (sequence) or doubted (checksum);
    a host that was started again counts from there on, so with a restart lost says nothing;
    from the exchange's own time stamp to the bus, and to the disk, p50, p99 and max, ms: both
    clocks are this machine's, so the way through the server's socket is in it;
    memory of each process: PSS, and that of its own (anonymous), MB of 2**20;
    processor time of each process, of one core;
    commits a second, and bytes a second given to the disk, of all processes; a day of that against
    --limit-gb: over it, the exit code is 1. Beside it what the whole device took, others' included:
    with --home on a filesystem of its own that is the true figure, the filesystem's journal included.

Bytes given are of each thread the lesser of wchar and write_bytes in /proc/PID/task/TID/io: the
first counts what goes into no file, the second whole folios of the page cache, ten times too much.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from tickerml.kernel import BusError, FeedSummarized, codec, topics
from tickerml.kernel.client import Client
from tickerml.kernel.environment import open_environment
from tickerml.kernel.journal import JournalReader
from tickerml.testing.exchanges import ExchangeServer

EXCHANGES = ("binanceus", "coinbase", "kraken", "kucoin")
SYMBOLS = ("BTC/USD", "ETH/USD", "BTC/USDT", "ETH/USDT")
PLUGINS = Path(__file__).parents[1] / "plugins.toml"
MB, GB, DAY_S = 2**20, 10**9, 86_400
RECORDED = 120.0  # updates a second that make 330 frames
LIMIT_GB = 3.5  # a day, of the profile pi as recorded: docs/operators.md says what that means for a card
_PATHS = {"kraken": "/v2"}
_TOKEN = "/api/v1/bullet-public"  # the one reply that a feed does not count among its messages
_QUIET_MS = 5_000
_TAIL = 50_000  # messages among which each feed's last summary is


def play(rate: float, pipe: Connection) -> None:
    """Serve the exchanges until told "end", go on at *rate* updates a second until told "hush"."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> None:
        async with ExchangeServer(*EXCHANGES, seed=1, symbols=SYMBOLS).serving() as server:
            pipe.send(server.address)
            markets = sum(len(wire.markets) for wire in server.wires.values())
            running = asyncio.create_task(server.run(rate / markets))
            while (told := await asyncio.to_thread(pipe.recv)) != "end":
                if told == "hush":
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
                    await server.sent()
                pipe.send(server.frames + sum(path.split()[-1] != _TOKEN for path in server.requests))

    asyncio.run(main())


# --- The system under it --------------------------------------------------------------------------


@contextlib.contextmanager
def system(home: Path, profile: str, address: str) -> Iterator[Client]:
    """Run *profile* against *address*, and wait until it runs."""
    command = [str(Path(sys.executable).with_name("tickerml")), "run", "--no-console", "--profile", profile]
    command += ["--home", str(home), "--config", str(PLUGINS)]
    for name in EXCHANGES:
        command += ["--set", f'exchange-{name}.ws_url="ws://{address}/{name}{_PATHS.get(name, "")}"']
        command += ["--set", f'exchange-{name}.rest_url="http://{address}/{name}"']
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            with contextlib.closing(wait_for_kernel(home, process)) as client:
                yield client
        finally:
            process.terminate()
            process.wait(120)


def wait_for_kernel(home: Path, process: subprocess.Popen[bytes]) -> Client:
    """Return a client of the kernel once every host is ready."""
    for _ in range(600):
        time.sleep(0.1)
        with contextlib.suppress(BusError):
            client = Client(home)
            if client.status()["state"] == "running":
                return client
            client.close()
        if process.poll() is not None:
            break
    raise SystemExit((home / "log").read_text())


class Journal:
    """The journal as another process sees it."""

    def __init__(self, path: Path) -> None:
        self._env: Any = None
        self._reader = JournalReader(path, opener=self._open)

    def _open(self, path: str, **options: Any) -> Any:
        self._env = open_environment(path, **options)
        return self._env

    def head(self) -> int:
        """Return the last seq that is on the disk."""
        return self._reader.head()

    def commits(self) -> int:
        """Return how many transactions there have been."""
        return int(self._env.info()["last_txnid"])

    def last_summaries(self) -> dict[str, dict[str, int]]:
        """Return what each feed has said last of what it saw."""
        told = {}
        fields = ("messages", "skipped", "gaps", "crossed_books", "checksums_ok", "checksums_bad")
        for raw in self._reader.frames(max(0, self.head() - _TAIL)):
            if raw.startswith(b"feed."):
                message = codec.decode(codec.unpack(raw).body)
                if isinstance(message, FeedSummarized):
                    told[message.exchange] = {name: getattr(message, name) for name in fields}
        return told

    def close(self) -> None:
        """Let go of it."""
        self._reader.close()


class Latencies:
    """From the exchange's time stamp to the bus and to the disk, of every 20th message of one pair each."""

    def __init__(self, client: Client, journal: Journal) -> None:
        self._client = client
        self._journal = journal
        self._waiting: deque[tuple[int, int]] = deque()  # (seq, ts_event) of those not on the disk
        self._seen = 0
        self.bus: list[float] = []
        self.disk: list[float] = []
        for exchange in EXCHANGES:
            client.subscribe(*(topics.topic(kind, exchange, "BTC/USDT") for kind in ("book", "trade")))

    def listen(self, until: float) -> None:
        """Collect until then, by the monotonic clock."""
        while time.monotonic() < until:
            for raw in self._client.receive(2):
                self._seen += 1
                if self._seen % 20 == 0:
                    self._note(raw)
            head = self._journal.head() if self._waiting else 0
            now = time.time_ns()
            while self._waiting and self._waiting[0][0] <= head:
                self.disk.append((now - self._waiting.popleft()[1]) / 1e6)

    def _note(self, raw: bytes) -> None:
        frame = codec.unpack(raw)
        message: Any = codec.decode(frame.body)
        if message.ts_event:
            self.bus.append((time.time_ns() - message.ts_event) / 1e6)
            self._waiting.append((frame.seq, message.ts_event))

    def reset(self) -> None:
        """Forget what was measured: the start is not what counts."""
        self.bus.clear()
        self.disk.clear()


# --- What is measured -----------------------------------------------------------------------------


class Process(NamedTuple):
    """What a process takes, and has used so far."""

    pss_mb: float = 0.0
    own_mb: float = 0.0
    cpu_s: float = 0.0
    given: int = 0  # bytes to files


class Sample(NamedTuple):
    """Everything at one moment."""

    at: float
    seq: int
    commits: int
    device: int  # bytes that the device has taken
    lag: int  # messages, of the host that is furthest behind
    restarts: int
    processes: dict[str, Process]


def look(client: Client, journal: Journal, home: Path) -> Sample:
    """Return how everything is."""
    status = client.status()
    hosts = status["hosts"]
    pids = {"kernel": status["pid"]} | {host["host"]: host["pid"] for host in hosts}
    return Sample(
        time.monotonic(),
        status["seq"],
        journal.commits(),
        device_bytes(home),
        max(host["lag"] for host in hosts),
        sum(host["restarts"] for host in hosts),
        {name: of_process(pid) for name, pid in pids.items()},
    )


def of_process(pid: int) -> Process:
    """Return what a process takes; nothing of one that is gone."""
    base = Path(f"/proc/{pid}")
    try:
        rollup = pairs((base / "smaps_rollup").read_text().split("\n", 1)[1])
        ticks = (base / "stat").read_text().rpartition(")")[2].split()[11:13]
        threads = [pairs((task / "io").read_text()) for task in (base / "task").iterdir()]
    except OSError:
        return Process()
    return Process(
        rollup["Pss"] / 1024,
        rollup["Pss_Anon"] / 1024,
        sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
        sum(min(io["wchar"], io["write_bytes"]) for io in threads),
    )


def pairs(text: str) -> dict[str, int]:
    """Return the numbers of lines "name: number"."""
    found = (line.split(":") for line in text.splitlines())
    return {name: int(value.split()[0]) for name, value in found}


def device_bytes(path: Path) -> int:
    """Return how many bytes the device that *path* lies on has been given; 0 where it has no count."""
    number = path.stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
    return int(stat.read_text().split()[6]) * 512 if stat.exists() else 0


def between(old: Sample, new: Sample) -> dict[str, Any]:
    """Return the rates between two samples, and what is taken at the second."""
    seconds = new.at - old.at
    given = {n: p.given - old.processes.get(n, Process()).given for n, p in new.processes.items()}
    used = {n: p.cpu_s - old.processes.get(n, Process()).cpu_s for n, p in new.processes.items()}
    return {
        "seconds": round(seconds, 1),
        "messages_per_s": round((new.seq - old.seq) / seconds),
        "commits_per_s": round((new.commits - old.commits) / seconds, 2),
        "given_bytes_per_s": round(sum(given.values()) / seconds),
        "given_by": {name: round(count / seconds) for name, count in given.items()},
        "device_bytes_per_s": round((new.device - old.device) / seconds),
        "cpu": {name: round(share / seconds, 3) for name, share in used.items()},
        "pss_mb": {name: round(p.pss_mb, 1) for name, p in new.processes.items()},
        "own_mb": {name: round(p.own_mb, 1) for name, p in new.processes.items()},
        "pss_total_mb": round(sum(p.pss_mb for p in new.processes.values()), 1),
        "own_total_mb": round(sum(p.own_mb for p in new.processes.values()), 1),
        "lag": new.lag,
        "restarts": new.restarts,
        "load": round(os.getloadavg()[0], 1),
    }


def trouble(log: Path) -> list[str]:
    """Return the first of what the system has complained of."""
    lines = log.read_text().splitlines()
    return [line for line in lines if '"level": "warning"' in line or '"level": "error"' in line][:8]


def quantiles(values: list[float]) -> dict[str, float]:
    """Return p50, p99 and max, in the unit of *values*."""
    ordered = sorted(values) or [0.0]
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


def measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Return everything, ready for JSON."""
    ours, theirs = multiprocessing.Pipe()
    rate = options.rate or RECORDED * options.times
    server = multiprocessing.get_context("spawn").Process(target=play, args=(rate, theirs), daemon=True)
    server.start()
    with system(home, options.profile, ours.recv()) as client:
        run_dir = next((home / "runs").glob("**/journal")).parent
        with contextlib.closing(Journal(run_dir / "journal")) as journal:
            found = watch(options, client, journal, home)
            ours.send("hush")
            ours.recv()
            while client.receive(_QUIET_MS):  # what is on its way, however late it is
                pass
    with contextlib.closing(Journal(run_dir / "journal")) as journal:  # each feed has said its last
        told = journal.last_summaries()
    ours.send("count")
    sent, read = ours.recv(), sum(each["messages"] for each in told.values())
    ours.send("end")
    counts = {"frames_sent": sent, "frames_read": read, "lost": sent - read, "feeds": told}
    return counts | found | {"trouble": trouble(home / "log")}


def watch(options: argparse.Namespace, client: Client, journal: Journal, home: Path) -> dict[str, Any]:
    """Look once a minute for as long as was asked; returns what there was after the first tenth."""
    latencies, seconds = Latencies(client, journal), options.minutes * 60
    began = time.monotonic() + seconds / 10
    latencies.listen(began)
    latencies.reset()
    first = last = look(client, journal, home)
    until = began + seconds * 0.9
    while (left := until - time.monotonic()) > 0:
        latencies.listen(time.monotonic() + min(60, left))
        before, last = last, look(client, journal, home)
        print(minute(first, before, last), file=sys.stderr, flush=True)
    found = between(first, last)
    growth = {n: round(p.pss_mb - first.processes[n].pss_mb, 1) for n, p in last.processes.items()}
    own = {n: round(p.own_mb - first.processes[n].own_mb, 1) for n, p in last.processes.items()}
    latency = {"to_bus_ms": quantiles(latencies.bus), "to_disk_ms": quantiles(latencies.disk)}
    return latency | found | {"pss_growth_mb": growth, "own_growth_mb": own}


def minute(first: Sample, before: Sample, now: Sample) -> str:
    """Return the line that says what there was since *before*."""
    found = between(before, now)
    memory = " ".join(f"{name} {found['pss_mb'][name]}/{found['own_mb'][name]}" for name in found["pss_mb"])
    return (
        f"{(now.at - first.at) / 60:5.1f} min  {found['messages_per_s']} msg/s  "
        f"{found['commits_per_s']} commits/s  {found['given_bytes_per_s'] / 1000:.0f} kB/s  "
        f"PSS/own MB {memory}, total {found['pss_total_mb']}/{found['own_total_mb']}  "
        f"lag {found['lag']}  restarts {found['restarts']}  load {found['load']}"
    )


def main() -> int:
    """Measure, and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--times", type=float, default=1.0, help="how many times what was recorded")
    parser.add_argument("--rate", type=float, default=0.0, help="instead: updates a second of all exchanges")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long")
    parser.add_argument("--profile", default="pi", help="of plugins.toml, with all four exchanges")
    parser.add_argument("--home", type=Path, help="an empty directory to run in, on the disk to be measured")
    parser.add_argument("--limit-gb", type=float, default=LIMIT_GB, help="most GB a day given to the disk")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.home) as directory:
        found = measure(options, Path(directory))
    day = found["given_bytes_per_s"] * DAY_S / GB
    found["given_gb_per_day"], found["limit_gb_per_day"] = round(day, 2), options.limit_gb
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<20} {value}")
    return int(day > options.limit_gb)


if __name__ == "__main__":
    sys.exit(main())
