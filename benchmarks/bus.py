"""
What the bus costs: throughput against raw ZeroMQ in the same run, latency, memory, start-up.

    python benchmarks/bus.py [--json] [--messages N] [--seconds S] [--rounds R]

journal_ratio      sequenced + journalled messages/s over raw PUB to SUB messages/s, same bytes,
                   one subscriber each, over ipc; the median of R rounds taken in turn
tick_to_order_us   by rate: from the making of a tick in the feed's process until the simulator has its
                   order: feed, kernel, trade host (strategy, both rules, the gate)
tick_to_subscriber_us  until another process sees that order on the bus: two hops more
floor_two_hops_us, floor_four_hops_us
                   the same hops over bare sockets and processes that do nothing else
pss_mb, rss_mb     per process of the headless set (profile pi), after some seconds
start_to_order_s   from the command to the first order in the journal, profile demo
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zmq

from tickerml.kernel import Side, SubmitOrder, Trade, codec, topics
from tickerml.kernel.app import App
from tickerml.kernel.client import Client
from tickerml.kernel.config import KernelSettings, Plan
from tickerml.kernel.core import Settings
from tickerml.kernel.errors import KernelUnreachable
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.notify import Notifier
from tickerml.kernel.runs import latest

ROOT = Path(__file__).resolve().parent.parent
ORDERS_PER_S = 100  # answered while latency is measured, whatever the rate of ticks
BURST = 64  # messages a host pushes at once


def make_frames(count: int, origin: int, epoch: int) -> list[bytes]:
    """Return the frames of *count* trades, as a host would push them."""
    topic = topics.topic("trade", "bench", "BTC/USD")
    return [
        codec.pack_output(
            topic,
            origin,
            epoch,
            0,
            n + 1,
            codec.encode(Trade(n, n, "bench", "BTC/USD", n, 6_000_000 + n % 100, 1000, Side.BUY)),
        )
        for n in range(count)
    ]


# --- Throughput -----------------------------------------------------------------------------------


def count_messages(address: str, count: int, is_raw: bool, ready: Any, rates: Any) -> None:
    """Receive *count* messages and report how many a second, from the first frame to the last."""
    socket = zmq.Context().socket(zmq.SUB)
    socket.rcvhwm = 0
    socket.connect(address)
    socket.subscribe(b"trade.")
    ready.set()
    socket.poll(60_000)
    began, left = time.perf_counter(), count
    receive, wait = socket.recv, zmq.NOBLOCK
    while left > 0:
        socket.poll(10_000)
        try:
            while left > 0:
                frame = receive(wait)
                left -= 1 if is_raw else len(codec.unpack_run(frame))
        except zmq.Again:
            pass
    rates.put(count / (time.perf_counter() - began))


def raw_throughput(count: int) -> float:
    """Return messages/s of PUB to SUB, nothing between."""
    directory = tempfile.mkdtemp(prefix="tml-")
    address = f"ipc://{directory}/raw"
    socket = zmq.Context.instance().socket(zmq.PUB)
    socket.sndhwm = 0
    socket.bind(address)
    frames = [codec.stamp(frame, frame.index(b"\0") + 1, 1, 1) for frame in make_frames(count, 1, 1)]
    with subscriber(address, count, is_raw=True) as rates:
        send = socket.send
        for frame in frames:
            send(frame)
        rate: float = rates.get(timeout=60)
    socket.close()
    shutil.rmtree(directory)
    return rate


class subscriber:
    """A process that counts messages; gives the queue its answer comes on."""

    def __init__(self, address: str, count: int, *, is_raw: bool) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._arguments = (address, count, is_raw)

    def __enter__(self) -> Any:
        ready, rates = self._context.Event(), self._context.Queue()
        self._process = self._context.Process(target=count_messages, args=(*self._arguments, ready, rates))
        self._process.start()
        ready.wait(30)
        time.sleep(0.3)  # the subscription has to reach the publisher before the first message
        return rates

    def __exit__(self, *error: object) -> None:
        self._process.join(10)


def serve(home: str, frames_of: Any, address: Any) -> None:
    """Run a kernel without hosts, with one origin admitted by hand."""
    plan = Plan(config="", profile="bench", kernel=KernelSettings(), plugins=[])
    app = App(Settings(plan=plan, home=home, as_json=True), Notifier({}))
    sequencer = app.kernel.sequencer
    origin = sequencer.admit("exchange-bench", [Trade])
    frames_of.put((origin, sequencer.epoch(origin), app.kernel.open_link("bench")))
    address.put(json.loads((Path(home) / "kernel.json").read_text())["runtime"])
    with open(os.devnull, "w") as silence:
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
    app.run()


def bus_throughput(count: int) -> float:
    """Return messages/s through the kernel: sequenced, journalled, published."""
    from tickerml.kernel import control

    home = tempfile.mkdtemp(prefix="tml-home-")
    context = multiprocessing.get_context("spawn")
    admitted, address = context.Queue(), context.Queue()
    process = context.Process(target=serve, args=(home, admitted, address))
    process.start()
    origin, epoch, link = admitted.get(timeout=30)
    runtime = address.get(timeout=30)
    frames = make_frames(count, origin, epoch)
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(control.ingest_address(runtime))
    client = Client(Path(home))
    with subscriber(control.bus_address(runtime), count, is_raw=False) as rates:
        began_seq = client.status()["committed"]
        for number, at in enumerate(range(0, count, BURST), 1):
            socket.send(codec.pack_burst(frames[at : at + BURST], link, number))
        rate: float = rates.get(timeout=120)
    while client.status()["committed"] < began_seq + count:
        time.sleep(0.01)
    client.request(control.ShutdownRequest("done"))
    process.join(30)
    socket.close()
    shutil.rmtree(home)
    return rate


# --- Latency --------------------------------------------------------------------------------------

LATENCY_CONFIG = """
format = 1
[profile.bench]
plugins = ["exchange-bench", "strategy-bench", "risk-limits", "risk-drawdown", "sim-fifo", "portfolio"]
[plugin.exchange-bench]
host = "market"
module = "bench_feed"
options = {{ rate = {rate} }}
[plugin.strategy-bench]
host = "trade"
module = "bench_strategy"
options = {{ every = {every} }}
[plugin.risk-limits]
host = "trade"
[plugin.risk-drawdown]
host = "trade"
[plugin.sim-fifo]
host = "trade"
[plugin.portfolio]
host = "trade"
options = {{ opening = {{ "bench.USD" = "10000" }} }}
"""


def start(home: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start `tickerml run` on *home*."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    command = [sys.executable, "-m", "tickerml.ui.cli", "run", "--home", home, "--no-console", "--json"]
    return subprocess.Popen(
        [*command, *arguments],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def connect(home: str) -> Client:
    """Return a client once the kernel on *home* has let its sources go."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            client = Client(Path(home))
            if client.status()["state"] in ("running", "degraded", "halted"):
                return client
            client.close()
        except KernelUnreachable:
            pass
        time.sleep(0.05)
    raise TimeoutError("the kernel did not start")


def tick_to_order(rate: int, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return p50 and p99 in microseconds at *rate* ticks a second, to the simulator and to a subscriber."""
    home = tempfile.mkdtemp(prefix="tml-home-")
    path = Path(home) / "bench.toml"
    path.write_text(LATENCY_CONFIG.format(rate=rate, every=rate // ORDERS_PER_S))
    process = start(home, "--config", str(path), "--profile", "bench")
    client = connect(home)
    client.subscribe(b"order.")
    time.sleep(1.0)
    client.receive(0, 1_000_000)  # what came while everything was warming up
    to_simulator, to_subscriber = [], []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for raw in client.receive(200):
            now = time.monotonic_ns()
            message = codec.decode(codec.unpack(raw).body)
            if isinstance(message, SubmitOrder):
                to_subscriber.append((now - int(message.order_id.partition("-")[2])) / 1000)
                if message.reason:
                    to_simulator.append(int(message.reason) / 1000)
    process.terminate()
    process.wait(60)
    shutil.rmtree(home)
    return quantiles(to_simulator), quantiles(to_subscriber)


def forward(directory: str) -> None:
    """Pass on what is pushed: the kernel's place in the path, and none of its work."""
    context = zmq.Context()
    inlet, outlet = context.socket(zmq.PULL), context.socket(zmq.PUB)
    inlet.bind(f"ipc://{directory}/in")
    outlet.bind(f"ipc://{directory}/bus")
    while True:
        outlet.send(inlet.recv())


def answer(directory: str, every: int) -> None:
    """Push back every so-manieth tick as an order: the trade host's place."""
    context = zmq.Context()
    inlet, outlet = context.socket(zmq.SUB), context.socket(zmq.PUSH)
    inlet.connect(f"ipc://{directory}/bus")
    inlet.subscribe(b"tick")
    outlet.connect(f"ipc://{directory}/in")
    count = 0
    while True:
        tick = inlet.recv()
        count += 1
        if count % every == 0:
            outlet.send(b"order%b %d" % (tick[4:].strip(), time.monotonic_ns()))


def feed(directory: str, rate: int) -> None:
    """Push stamped ticks at *rate* a second: the market host's place."""
    outlet = zmq.Context().socket(zmq.PUSH)
    outlet.connect(f"ipc://{directory}/in")
    began, sent = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) * rate)
        for _ in range(due - sent):
            outlet.send(b"tick%d" % time.monotonic_ns() + b" " * 60)
        sent = due
        time.sleep(0.0005)


def raw_chain(rate: int, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return what tick_to_order() does for bare sockets whose processes do nothing else."""
    directory = tempfile.mkdtemp(prefix="tml-")
    context = multiprocessing.get_context("spawn")
    targets = (
        (forward, (directory,)),
        (answer, (directory, rate // ORDERS_PER_S)),
        (feed, (directory, rate)),
    )
    processes = [context.Process(target=target, args=args, daemon=True) for target, args in targets]
    for process in processes:
        process.start()
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.connect(f"ipc://{directory}/bus")
    socket.subscribe(b"order")
    to_answerer, to_subscriber = [], []
    began = time.monotonic()
    while time.monotonic() < began + 2.0 + seconds:
        if socket.poll(200):
            made, answered = map(int, socket.recv()[5:].split())
            if time.monotonic() > began + 2.0:  # after everything has warmed up
                to_answerer.append((answered - made) / 1000)
                to_subscriber.append((time.monotonic_ns() - made) / 1000)
    for process in processes:
        process.terminate()
        process.join()
    socket.close()
    shutil.rmtree(directory)
    return quantiles(to_answerer), quantiles(to_subscriber)


def quantiles(latencies: list[float]) -> dict[str, float]:
    """Return p50, p99, the largest and how many there were."""
    latencies.sort()
    return {
        "p50": round(statistics.median(latencies), 1),
        "p99": round(latencies[int(len(latencies) * 0.99)], 1),
        "max": round(latencies[-1], 1),
        "orders": len(latencies),
    }


# --- Memory and start-up --------------------------------------------------------------------------


def memory_of(pid: int) -> tuple[float, float]:
    """Return (PSS, RSS) of a process in MB of 2**20 bytes."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name] = int(value) / 1024
    return round(fields["Pss:"], 1), round(fields["Rss:"], 1)


def memory(seconds: float) -> dict[str, dict[str, float]]:
    """Return PSS and RSS by process of the headless Pi set; its feed finds no exchange and keeps trying."""
    home = tempfile.mkdtemp(prefix="tml-home-")
    nowhere = "127.0.0.1:9"
    process = start(
        home,
        "--profile",
        "pi",
        "--set",
        f'exchange-binanceus.ws_url="ws://{nowhere}"',
        "--set",
        f'exchange-binanceus.rest_url="http://{nowhere}"',
    )
    client = connect(home)
    time.sleep(seconds)
    report = client.status()
    found = {"kernel": memory_of(report["pid"])}
    found |= {host["host"]: memory_of(host["pid"]) for host in report["hosts"]}
    process.terminate()
    process.wait(60)
    shutil.rmtree(home)
    return {
        "pss_mb": {
            **{name: pss for name, (pss, _) in found.items()},
            "total": round(sum(p for p, _ in found.values()), 1),
        },
        "rss_mb": {name: rss for name, (_, rss) in found.items()},
    }


def start_to_order() -> float:
    """Return seconds from the command to the commit of the first order."""
    home = tempfile.mkdtemp(prefix="tml-home-")
    began = time.time_ns()
    process = start(home, "--profile", "demo", "--for", "30s")
    connect(home)
    run_dir = latest(Path(home))
    assert run_dir is not None
    reader = JournalReader(run_dir / "journal")
    found = 0.0
    while not found and process.poll() is None:
        time.sleep(0.1)
        for record in reader.records():
            if any(b"\xabSubmitOrder" in frame for frame in record.frames):
                found = (record.written_ns - began) / 1e9
                break
    process.terminate()
    process.wait(60)
    shutil.rmtree(home)
    return round(found, 2)


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--messages", type=int, default=200_000, help="per throughput round")
    parser.add_argument("--rounds", type=int, default=3, help="of throughput, raw and bus in turn")
    parser.add_argument("--seconds", type=float, default=5.0, help="per latency rate")
    arguments = parser.parse_args()
    rounds = [
        (raw_throughput(arguments.messages), bus_throughput(arguments.messages))
        for _ in range(arguments.rounds)
    ]
    rates = (1_000, 10_000)
    orders = {str(rate): tick_to_order(rate, arguments.seconds) for rate in rates}
    floor = {str(rate): raw_chain(rate, arguments.seconds) for rate in rates}
    report: dict[str, Any] = {
        "journal_ratio": round(statistics.median(bus / raw for raw, bus in rounds), 3),
        "raw_per_s": round(statistics.median(raw for raw, _ in rounds)),
        "bus_per_s": round(statistics.median(bus for _, bus in rounds)),
        "tick_to_order_us": {rate: simulator for rate, (simulator, _) in orders.items()},
        "tick_to_subscriber_us": {rate: subscriber for rate, (_, subscriber) in orders.items()},
        "floor_two_hops_us": {rate: two for rate, (two, _) in floor.items()},
        "floor_four_hops_us": {rate: four for rate, (_, four) in floor.items()},
        **memory(3.0),
        "start_to_order_s": start_to_order(),
    }
    if arguments.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:<20} {json.dumps(value)}")


if __name__ == "__main__":
    main()
