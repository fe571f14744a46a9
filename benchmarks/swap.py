"""
What it costs to replace a component while it works, and whether anything is lost.

    python benchmarks/swap.py --kind KIND [--swaps N] [--rate R] [--state-bytes B] [--json]

A real kernel, a market of *rate* messages a second and a component of KIND that answers every one
of them. Its process is replaced N times in a row, without probation, while a subscriber outside
records everything there is. Then the same market is played again at full speed to a component that
nobody replaces, and the two are compared topic by topic and byte by byte. What a component
says depends on all of its state, so that a state which was lost or not of that moment shows.

swaps, rolled_back how many took over, and why others did not
lost, duplicated   messages that only the undisturbed run has; those that were published again
unknown            messages that only the run with swaps has
order_kept         whether those of each topic came in their order
equal_to_run_without  whether all of it is equal, byte for byte
gap_ms             longest pause of the component's outputs within 100 ms of a takeover, less the usual
                   pause between two of them: p50, p99 and max over the swaps
kernel_gap_ms      the kernel's own: from the barrier until the new process said that it goes on
usual_pause_ms     between two outputs, away from takeovers: p50, p99 and max. A feed that is played wakes
                   up every half millisecond; the rest is the machine
swap_s             from the request until the change is permanent
state_bytes        of the state that crosses
rss_growth_mb      memory of the kernel's own after the last swap, less that after the first
subject_mb, market_mb  the same of the component's process and the market's, after the first and the last
load               what the machine had to do beside: the load average before and after

KIND is exchange, exchange-live (two connections at once), news_source, trainer, feature_set,
strategy, risk_rule, simulator, store, sink or page. A command runs in no process, so there is
nothing to replace. A live source's run without swaps is the function that makes up its messages. A
page has no outputs on the bus: what counts is whether it can be reached, tried every 2 ms.
"""

import argparse
import gc
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from bench_swap import SYMBOL, live_message, news_item
from subscribers import own_mb, quantile, wait_for

from tickerml.kernel import (
    KernelUnreachable,
    Message,
    NewsItem,
    SequenceGap,
    Trade,
    TrainingReported,
    codec,
    config,
    control,
    topics,
)
from tickerml.kernel.client import Client, Subscription
from tickerml.kernel.journal_reader import JournalReader

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])]
PROFILE = "bench"
SETTLE_S = 0.3  # between two swaps, and before the first
NEAR_NS = 100_000_000  # of a takeover, within which a pause is put down to it
PROBE_S = 0.002
NEWS_RATE = 100  # headlines a second
CONFIG = """
format = 1
[profile.bench]
plugins = [{plugins}]
[profile.bench.kernel]
clock = "{clock}"
speed = "{speed}"
[plugin.swap-exchange]
host = "market"
module = "bench_swap:exchange"
options = {{ rate = {rate}, last = {last}, state_bytes = {market_bytes}, has_gaps = {has_gaps} }}
[plugin.{subject}]
host = "{host}"
module = "bench_swap:{module}"
options = {{ rate = {subject_rate}, last = {subject_last}, state_bytes = {state_bytes}, port = {port} }}
"""


class Kind(NamedTuple):
    """One kind of component: its plugin, the topics it publishes on, and whether it makes them up itself."""

    plugin: str
    outputs: tuple[str, ...]
    is_live: bool = False


KINDS = {
    "exchange": Kind("swap-exchange", ("trade",)),
    "exchange-live": Kind("swap-exchange-live", ("trade", "book"), is_live=True),
    "news_source": Kind("swap-news", ("news",), is_live=True),
    "trainer": Kind("swap-trainer", ("training",)),
    "feature_set": Kind("swap-features", ("feature",)),
    "strategy": Kind("swap-strategy", ("order",)),
    "risk_rule": Kind("swap-rule", ("verdict",)),
    "simulator": Kind("swap-simulator", ("markout",)),
    "store": Kind("swap-store", ("portfolio",)),
    "sink": Kind("swap-sink", ("alert",)),
    "page": Kind("swap-page", ()),
}
#: Kinds of messages that are a function of the market; the others tell of the system.
COMPARED = {"instrument", "book", "trade", "feature", "order", "verdict", "markout", "portfolio"} | {
    "news",
    "training",
    "alert",
}


# --- The subscriber outside -----------------------------------------------------------------------


class Record:
    """Everything that was heard: per message its topic, its seq, when it came, and its bytes."""

    def __init__(self) -> None:
        self.names: list[str] = []  # of the topics
        self.of: array[int] = array("H")
        self.seqs: array[int] = array("Q")
        self.times: array[int] = array("Q")
        self.lengths: array[int] = array("I")
        self.bodies: list[bytes] = []

    def add(self, frame: codec.Frame, now: int) -> None:
        """Take *frame*, which came at *now*."""
        name = frame.topic.decode()
        if name not in self.names:
            self.names.append(name)
        self.of.append(self.names.index(name))
        self.seqs.append(frame.seq)
        self.times.append(now)
        self.lengths.append(len(frame.body))
        self.bodies.append(frame.body)

    def save(self, path: Path) -> None:
        """Write it down."""
        with path.open("wb") as file:
            facts = {"names": self.names, "count": len(self.seqs)}
            file.write(json.dumps(facts).encode() + b"\n")
            for column in (self.of, self.seqs, self.times, self.lengths):
                column.tofile(file)
            file.writelines(self.bodies)

    @staticmethod
    def load(path: Path) -> "Record":
        """Return what was saved."""
        record = Record()
        with path.open("rb") as file:
            facts = json.loads(file.readline())
            record.names = facts["names"]
            for column in (record.of, record.seqs, record.times, record.lengths):
                column.fromfile(file, facts["count"])
            record.bodies = [file.read(length) for length in record.lengths]
        return record

    def by_topic(self) -> dict[str, list[bytes]]:
        """Return the bytes of what is compared, topic by topic."""
        found: dict[str, list[bytes]] = {}
        for number, body in zip(self.of, self.bodies, strict=True):
            name = self.names[number]
            if name.partition(".")[0] in COMPARED:
                found.setdefault(name, []).append(body)
        return found

    def times_of(self, kinds: tuple[str, ...]) -> list[int]:
        """Return when messages of *kinds* came, each time once."""
        wanted = {n for n, name in enumerate(self.names) if name.partition(".")[0] in kinds}
        times = (time for number, time in zip(self.of, self.times, strict=True) if number in wanted)
        return sorted(set(times))

    def takeovers(self, host: str) -> list[int]:
        """Return when processes of *host* took over from the one before."""
        system = {n for n, name in enumerate(self.names) if name == "system."}
        found = [
            time
            for number, time, body in zip(self.of, self.times, self.bodies, strict=True)
            if number in system and _is_start(codec.decode(body), host)
        ]
        return found[1:]  # the first was no swap


def _is_start(message: Any, host: str) -> bool:
    return type(message).__name__ == "HostStarted" and message.host == host


def listen(home: str, path: str, joined: Any, stop: Any) -> None:
    """Record everything from the beginning, and what the journal has behind the end."""
    gc.disable()  # a pause of ours would be taken for one of theirs
    everything = [topics.topic(kind) for kind in topics.KINDS]
    subscription, record = Subscription(Path(home), lossless=everything, after=0), Record()
    while not (stop.is_set() and subscription.position >= subscription.journal().head()):
        events = subscription.receive(0.05)
        now = time.monotonic_ns()
        for event in events:
            if not isinstance(event, codec.Frame):
                raise RuntimeError(f"expected messages alone, was {event}")
            record.add(event, now)
        if subscription.is_joined:
            joined.set()
    record.save(Path(path))
    subscription.close()


class Prober:
    """Tries every 2 ms to reach a page, from a thread."""

    def __init__(self, port: int) -> None:
        self.times: list[int] = []
        self.failures = 0
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._probe)
        self._thread.start()

    def _probe(self) -> None:
        while not self._stop.wait(PROBE_S):
            try:
                with socket.create_connection(("127.0.0.1", self._port), 1.0) as connection:
                    if not connection.recv(16):
                        raise ConnectionResetError
                self.times.append(time.monotonic_ns())
            except OSError:
                self.failures += bool(self.times)

    def close(self) -> None:
        """Try no longer."""
        self._stop.set()
        self._thread.join()


# --- The system -----------------------------------------------------------------------------------


class Trial:
    """One kind of component, on a home of its own."""

    def __init__(self, kind: str, rate: int, state_bytes: int, directory: Path) -> None:
        self.kind, self.about = kind, KINDS[kind]
        self.rate, self.state_bytes = rate, state_bytes
        self.directory = directory
        self.host = "market" if kind == "exchange" else "subject"
        self.is_alone = kind in ("exchange", "exchange-live")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    def configure(self, home: Path, *, speed: str, last: int, steps: int) -> Path:
        """Write the plugins.toml of a run; *last* and *steps* end the market and the trainer, 0: never."""
        about, is_market = self.about, self.kind == "exchange"
        text = CONFIG.format(
            plugins=", ".join(
                f'"{plugin}"' for plugin in dict.fromkeys([about.plugin, *self._market()]) if plugin
            ),
            clock="wall" if about.is_live else "data",
            speed=speed,
            rate=self.rate,
            last=last,
            market_bytes=self.state_bytes if is_market else 0,
            has_gaps=str(self.kind == "sink").lower(),
            subject="swap-unused" if is_market else about.plugin,
            host=self.host,
            module=self.kind.replace("-", "_"),
            subject_rate=NEWS_RATE if self.kind == "news_source" else self.rate,
            subject_last=steps,
            state_bytes=self.state_bytes,
            port=self.port,
        )
        home.mkdir()
        path = home / "bench.toml"
        path.write_text(text)
        return path

    def _market(self) -> list[str]:
        return [] if self.is_alone else ["swap-exchange"]

    @contextmanager
    def running(self, home: Path, path: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run a kernel on *home* with the configuration at *path*."""
        command = [sys.executable, "-m", "tickerml.ui.cli", "run", "--home", str(home), "--json"]
        with (home / "err").open("wb") as err:
            process = subprocess.Popen(
                [*command, "--config", str(path), "--profile", PROFILE],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=err,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def swap_often(client: Client, path: Path, host: str, swaps: int) -> Iterator[dict[str, Any]]:
    """Replace the process of *host*, again and again; gives what the kernel says of each."""
    plan = config.plan(config.load(path), PROFILE)
    for number in range(swaps):
        began = time.monotonic()
        request = control.ChangeRequest(plan, f"swap {number + 1}", 0.0, 0.0, {}, [host])
        client.request(request)
        while not (change := client.status()["change"])["outcome"]:
            time.sleep(0.05)
        yield {**change, "took_s": time.monotonic() - began}
        time.sleep(SETTLE_S)


def memory(client: Client) -> dict[str, float]:
    """Return what each process has of its own, in MiB."""
    report = client.status()
    pids = {row["host"]: row["pid"] for row in report["hosts"]} | {"kernel": report["pid"]}
    return {name: own_mb(pid) for name, pid in pids.items()}


def play(trial: Trial, swaps: int) -> dict[str, Any]:
    """Swap under load; the record is in the trial's directory then."""
    home = trial.directory / "home"
    path = trial.configure(home, speed="1", last=0, steps=0)
    context = multiprocessing.get_context("spawn")
    joined, stop = context.Event(), context.Event()
    with trial.running(home, path) as process:
        wait_for(str(home), process)
        arguments = (str(home), str(trial.directory / "record"), joined, stop)
        listener = context.Process(target=listen, args=arguments)
        listener.start()
        prober = Prober(trial.port) if trial.kind == "page" else None
        try:
            joined.wait(30)
            client = Client(home)
            time.sleep(SETTLE_S * 3)
            changes, sizes = [], []
            for change in swap_often(client, path, trial.host, swaps):
                changes.append(change)
                sizes.append(memory(client))
            report = client.status()
            client.close()
            if prober:
                prober.close()
            process.terminate()
            process.wait(60)
        finally:
            if prober:
                prober.close()
            stop.set()
            listener.join(120)
            if listener.is_alive():
                listener.kill()
    return {"changes": changes, "sizes": sizes, "report": report, "prober": prober}


def undisturbed(trial: Trial, heard: Record) -> dict[str, list[bytes]]:
    """Return what a run without swaps publishes, topic by topic, to the end of what was *heard*."""
    last, steps = _last(heard, Trade, SequenceGap), _last(heard, TrainingReported)
    home = trial.directory / "undisturbed"
    path = trial.configure(home, speed="max", last=last, steps=steps)
    with trial.running(home, path) as process:
        if process.wait(900):
            raise RuntimeError(f"the undisturbed run has failed: {(home / 'err').read_text()[-500:]}")
    (journal,) = home.glob("runs/bench/*/journal")
    reader, record = JournalReader(journal), Record()
    for raw in reader.frames():
        record.add(codec.unpack(raw), 0)
    reader.close()
    return record.by_topic()


def _last(heard: Record, *types: type[Message]) -> int:
    """Return the number of the last message of *types*; 0 when there was none."""
    messages = (codec.decode(body) for body in reversed(heard.bodies))
    return next((_number(message) for message in messages if isinstance(message, types)), 0)


def _number(message: Any) -> int:
    """Return the number that *message* has from its source."""
    match message:
        case NewsItem():
            return int(message.id)
        case SequenceGap():
            return message.expected
        case TrainingReported():
            return message.step
    return int(message.seq)


def made_up(trial: Trial, heard: Record) -> dict[str, list[bytes]]:
    """Return what the source of *trial*, which is live, says from its first to its last message."""
    found = heard.by_topic()
    if trial.kind == "news_source":
        first, last = (_number(codec.decode(found["news."][place])) for place in (0, -1))
        return {"news.": [codec.encode(news_item(number, NEWS_RATE)) for number in range(first, last + 1)]}
    trade, book = (topics.topic(kind, "bench", SYMBOL).decode() for kind in ("trade", "book"))
    first = _number(codec.decode(found[book][0]))
    last = max(_number(codec.decode(found[topic][-1])) for topic in (trade, book))
    expected: dict[str, list[bytes]] = {trade: [], book: found[book][:1]}
    for number in range(first + 1, last + 1):
        expected[trade if number % 2 else book].append(codec.encode(live_message(number, trial.rate)))
    return expected


# --- The figures ----------------------------------------------------------------------------------


def compare(expected: dict[str, list[bytes]], heard: dict[str, list[bytes]]) -> dict[str, Any]:
    """Return what was lost or came twice, and whether the order was kept."""
    lost = duplicated = 0
    unknown: list[str] = []
    is_ordered = True
    for topic in expected.keys() | heard.keys():
        places = {body: place for place, body in enumerate(expected.get(topic, []))}
        known = [places[body] for body in heard.get(topic, []) if body in places]
        unknown += [str(codec.decode(body)) for body in heard.get(topic, []) if body not in places]
        lost += len(places) - len(set(known))
        duplicated += len(known) - len(set(known))
        is_ordered = is_ordered and all(a <= b for a, b in pairwise(known))
    return {
        "lost": lost,
        "duplicated": duplicated,
        "unknown": len(unknown),
        **({"first_unknown": unknown[:3]} if unknown else {}),
        "order_kept": is_ordered,
        "equal_to_run_without": expected == heard,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return p50, p99 and the largest of *values*."""
    if not values:
        return {}
    return {
        "p50": round(quantile(values, 0.5), 3),
        "p99": round(quantile(values, 0.99), 3),
        "max": round(max(values), 3),
    }


def pauses(times: list[int], takeovers: list[int]) -> tuple[list[float], list[float]]:
    """Return the longest pause near each of *takeovers*, and all the pauses away from them, ms."""
    near: list[float] = []
    usual: list[float] = []
    waiting, longest = list(takeovers), 0.0
    for before, after in pairwise(times):
        pause = (after - before) / 1e6
        while waiting and before > waiting[0] + NEAR_NS:
            near.append(longest)
            waiting.pop(0)
            longest = 0.0
        if waiting and after >= waiting[0] - NEAR_NS:
            longest = max(longest, pause)
        else:
            usual.append(pause)
    return near + [longest] * bool(waiting), usual


def figures(trial: Trial, played: dict[str, Any]) -> dict[str, Any]:
    """Return what came out."""
    heard = Record.load(trial.directory / "record")
    prober: Prober | None = played["prober"]
    times = prober.times if prober else heard.times_of(trial.about.outputs)
    near, usual = pauses(times, heard.takeovers(trial.host))
    middle = quantile(usual, 0.5)
    expected = made_up(trial, heard) if trial.about.is_live else undisturbed(trial, heard)
    mine = heard.by_topic()
    if trial.about.is_live:
        mine = {topic: bodies for topic, bodies in mine.items() if topic in expected}
    found = compare(expected, mine)
    first, last = played["sizes"][0], played["sizes"][-1]
    done = [change for change in played["changes"] if change["outcome"] == "permanent"]
    return {
        "kind": trial.kind,
        "swaps": len(done),
        "rolled_back": [change["error"] for change in played["changes"] if change not in done],
        "messages": len(heard.seqs),
        **found,
        **({"refused": prober.failures, "answered": len(prober.times)} if prober else {}),
        **sent_twice(trial),
        "gap_ms": spread([pause - middle for pause in near]),
        "kernel_gap_ms": spread([change["gap_ms"] for change in done]),
        "usual_pause_ms": spread(usual),
        "swap_s": spread([change["took_s"] for change in done]),
        "state_bytes": trial.state_bytes,
        "rss_growth_mb": round(last["kernel"] - first["kernel"], 2),
        "subject_mb": [round(each[trial.host], 1) for each in (first, last)],
        "market_mb": [round(each.get("market", 0.0), 1) for each in (first, last)],
        "kernel_mb": [round(each["kernel"], 1) for each in (first, last)],
        "messages_per_s": played["report"]["messages_per_s"],
    }


def sent_twice(trial: Trial) -> dict[str, Any]:
    """Return how many alerts a sink has sent twice, and whether they are those of the undisturbed run."""
    files = [trial.directory.glob(f"{home}/runs/*/*/swap-sink/sent") for home in ("home", "undisturbed")]
    sent, expected = ([line for path in found for line in path.read_text().splitlines()] for found in files)
    if not sent:
        return {}
    return {"sent_twice": len(sent) - len(set(sent)), "sent_equal": sent == expected}


def measure(kind: str, swaps: int, rate: int, state_bytes: int) -> dict[str, Any]:
    """Return the figures of one kind."""
    directory = Path(tempfile.mkdtemp(prefix="tml-swap-"))
    load = os.getloadavg()[0]
    try:
        trial = Trial(kind, rate, state_bytes, directory)
        found = figures(trial, play(trial, swaps))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return {**found, "load": [round(load, 1), round(os.getloadavg()[0], 1)]}


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", required=True, choices=[*KINDS, "command", "all"])
    parser.add_argument("--swaps", type=int, default=50, help="in a row")
    parser.add_argument("--rate", type=int, default=10_000, help="messages of the market a second")
    parser.add_argument("--state-bytes", type=int, default=100_000, help="of the component")
    parser.add_argument("--json", action="store_true", help="print one JSON object a kind")
    arguments = parser.parse_args()
    if arguments.kind == "command":
        print("a command runs in no process: there is nothing to replace", file=sys.stderr)
        return 0
    is_good = True
    for kind in KINDS if arguments.kind == "all" else [arguments.kind]:
        found = measure(kind, arguments.swaps, arguments.rate, arguments.state_bytes)
        is_good = is_good and not found["lost"] and not found["duplicated"] and found["equal_to_run_without"]
        if arguments.json:
            print(json.dumps(found), flush=True)
        else:
            for name, value in found.items():
                print(f"{name:<21} {json.dumps(value)}")
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KernelUnreachable as error:
        sys.exit(f"the kernel is gone: {error}")
