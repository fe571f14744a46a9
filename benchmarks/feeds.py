"""
Four exchanges with four pairs each, from their sockets into the journal and the tape.

    python benchmarks/feeds.py [--rate R] [--minutes N] [--json]

A server on this machine plays Binance.US, Coinbase, Kraken and KuCoin in today's formats, about R
updates a second in all; an update is one to four frames. The headless set records them: exchanges
in one process, the recorder in another. Measured are

    frames sent, frames read, and what was skipped, missed (sequence) or doubted (checksum);
    from the exchange's own time stamp to the bus, and to the disk, p50, p99 and max, ms: both
    clocks are this machine's, so the way through the server's socket is in it;
    memory of each process, PSS at the end and how it grew since a tenth of the time, MB of 2**20;
    commits a second, and bytes a second that the processes have written;
    processor time of each process, of one core.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tickerml.kernel import FeedSummarized, codec, topics
from tickerml.kernel.client import Client
from tickerml.kernel.journal import JournalReader
from tickerml.testing.exchanges import ExchangeServer

EXCHANGES = ("binanceus", "coinbase", "kraken", "kucoin")
SYMBOLS = ("BTC/USD", "ETH/USD", "BTC/USDT", "ETH/USDT")
MB = 2**20
_WATCHED = tuple(topics.topic(kind) for kind in ("book", "trade"))
_PATHS = {"kraken": "/v2"}


def play(rate: float, pipe: Connection) -> None:
    """Serve the exchanges until told to end; *rate* in updates a second of all of them."""

    async def main() -> None:
        async with ExchangeServer(*EXCHANGES, seed=1, symbols=SYMBOLS).serving() as server:
            pipe.send(server.address)
            markets = sum(len(wire.markets) for wire in server.wires.values())
            running = asyncio.create_task(server.run(rate / markets))
            while not running.done():
                await asyncio.sleep(0.05)
                if pipe.poll():
                    if pipe.recv() == "end":
                        running.cancel()
                        await asyncio.gather(running, return_exceptions=True)
                    await server.sent()
                    pipe.send(server.frames)

    asyncio.run(main())


def configuration(address: str) -> str:
    """Return a plugins.toml that points the connectors at *address*."""
    plugins = [f"exchange-{name}" for name in EXCHANGES]
    text = f"format = 1\n[profile.feeds]\nplugins = {json.dumps([*plugins, 'recorder'])}\n"
    for name in EXCHANGES:
        text += (
            f'[plugin.exchange-{name}]\nhost = "market"\n[plugin.exchange-{name}.options]\n'
            f"symbols = {json.dumps(SYMBOLS)}\nsummary_s = 1.0\n"
            f'ws_url = "ws://{address}/{name}{_PATHS.get(name, "")}"\nrest_url = "http://{address}/{name}"\n'
        )
    return text + '[plugin.recorder]\nhost = "record"\n'


class Latencies:
    """From the exchange's time stamp to the bus and to the disk, of every 50th message."""

    def __init__(self, client: Client, journal: Path) -> None:
        self._client = client
        self._journal = JournalReader(journal)
        self._waiting: deque[tuple[int, int]] = deque()  # (seq, ts_event) of those not on the disk
        self._seen = 0
        self.bus: list[float] = []
        self.disk: list[float] = []
        for topic in _WATCHED:
            client.subscribe(topic)

    def listen(self, seconds: float) -> None:
        """Collect for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for raw in self._client.receive(2):
                self._seen += 1
                if self._seen % 50:
                    continue
                frame = codec.unpack(raw)
                message: Any = codec.decode(frame.body)
                if message.ts_event:
                    self.bus.append((time.time_ns() - message.ts_event) / 1e6)
                    self._waiting.append((frame.seq, message.ts_event))
            head = self._journal.head() if self._waiting else 0
            now = time.time_ns()
            while self._waiting and self._waiting[0][0] <= head:
                self.disk.append((now - self._waiting.popleft()[1]) / 1e6)

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def reset(self) -> None:
        """Forget what was measured: the start is not what counts."""
        self.bus.clear()
        self.disk.clear()


def quantiles(values: list[float]) -> dict[str, float]:
    """Return p50, p99 and max, in the unit of *values*."""
    ordered = sorted(values) or [0.0]
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


def of_process(pid: int) -> dict[str, float]:
    """Return memory (PSS, MB), processor time (s) and bytes written of a process so far."""
    base = Path(f"/proc/{pid}")
    rollup = dict(line.split(":", 1) for line in (base / "smaps_rollup").read_text().splitlines()[1:])
    io = dict(line.split(": ") for line in (base / "io").read_text().splitlines())
    ticks = (base / "stat").read_text().rpartition(")")[2].split()[11:13]
    return {
        "pss_mb": round(int(rollup["Pss"].split()[0]) / 1024, 1),
        "cpu_s": sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
        "written": float(io["write_bytes"]),
    }


@contextlib.contextmanager
def system(directory: Path, address: str) -> Iterator[Client]:
    """Run the headless set against *address*, and wait until it runs."""
    (directory / "plugins.toml").write_text(configuration(address))
    command = [str(Path(sys.executable).with_name("tickerml")), "run", "--profile", "feeds"]
    command += ["--home", str(directory / "home"), "--config", str(directory / "plugins.toml")]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            client = wait_for_kernel(directory, process)
            yield client
            client.close()
        finally:
            process.terminate()
            process.wait(60)


def wait_for_kernel(directory: Path, process: subprocess.Popen[bytes]) -> Client:
    """Return a client of the kernel once every host is ready."""
    for _ in range(600):
        time.sleep(0.1)
        with contextlib.suppress(Exception):
            client = Client(directory / "home")
            if client.status()["state"] == "running":
                return client
            client.close()
        if process.poll() is not None:
            break
    raise SystemExit((directory / "log").read_text())


def measure(rate: float, minutes: float, directory: Path) -> dict[str, Any]:
    """Return everything, ready for JSON."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=play, args=(rate, theirs), daemon=True)
    server.start()
    address = ours.recv()
    seconds = minutes * 60
    with system(directory, address) as client:
        run_dir = next((directory / "home" / "runs").glob("**/journal")).parent
        latencies = Latencies(client, run_dir / "journal")
        latencies.listen(seconds / 10)
        latencies.reset()
        pids = {"kernel": client.status()["pid"]}
        pids |= {host["host"]: host["pid"] for host in client.status()["hosts"]}
        before, began, seq = (
            {n: of_process(p) for n, p in pids.items()},
            time.monotonic(),
            client.status()["seq"],
        )
        latencies.listen(seconds * 0.9)
        after, elapsed = {n: of_process(p) for n, p in pids.items()}, time.monotonic() - began
        messages = client.status()["seq"] - seq
        ours.send("end")
        sent = ours.recv()
        latencies.listen(3)  # for what is on its way, and a last summary of each feed
        latencies.close()
    with contextlib.closing(JournalReader(run_dir / "journal")) as journal:
        commits = sum(1 for record in journal.records() if record.first_seq > seq)
        told = last_summaries(journal)
    return {
        "frames_sent": sent,
        "frames_read": sum(each["messages"] for each in told.values()),
        "feeds": told,
        "messages_per_s": round(messages / elapsed),
        "to_bus_ms": quantiles(latencies.bus),
        "to_disk_ms": quantiles(latencies.disk),
        "pss_mb": {name: each["pss_mb"] for name, each in after.items()},
        "pss_growth_mb": {n: round(after[n]["pss_mb"] - before[n]["pss_mb"], 1) for n in pids},
        "cpu_share": {n: round((after[n]["cpu_s"] - before[n]["cpu_s"]) / elapsed, 3) for n in pids},
        "commits_per_s": round(commits / elapsed, 2),
        "written_bytes_per_s": round(sum(after[n]["written"] - before[n]["written"] for n in pids) / elapsed),
        "seconds": round(elapsed, 1),
        "load": os.getloadavg()[:2],
    }


def last_summaries(journal: JournalReader) -> dict[str, dict[str, int]]:
    """Return what each feed has said last of what it saw."""
    told = {}
    for raw in journal.frames():
        if raw.startswith(b"feed."):
            message = codec.decode(codec.unpack(raw).body)
            if isinstance(message, FeedSummarized):
                fields = ("messages", "skipped", "gaps", "crossed_books", "checksums_ok", "checksums_bad")
                told[message.exchange] = {name: getattr(message, name) for name in fields}
    return told


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rate", type=float, default=2_000, help="updates a second of all exchanges")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = measure(options.rate, options.minutes, Path(directory))
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()
