"""The edges of a kernel, ended in lists: its time moves by hand, and its hosts are played by the test."""

from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tickerml.kernel import Message, codec, control, topics
from tickerml.kernel.config import KernelSettings, Plan, PluginPlan
from tickerml.kernel.core import Kernel, Settings
from tickerml.kernel.journal import JournalWriter
from tickerml.kernel.runs import Run
from tickerml.kernel.sequencer import Sequencer
from tickerml.kernel.units import NS_PER_MS, NS_PER_S
from tickerml.testing.disk import Disk

CLIENT = b"client"
TOKEN = "token"
JOURNAL = Path("run/journal")


def planned(plugin: str, kind: str, host: str) -> PluginPlan:
    return PluginPlan(id=plugin, kind=kind, host=host, enabled=True, module="", publishes=None, options={})


PLUGINS = [
    planned("exchange-x", "exchange", "market"),
    planned("strategy-x", "strategy", "trade"),
    planned("sim-x", "simulator", "trade"),
    planned("rule-x", "risk_rule", "rules"),
    planned("news-x", "store", "archive"),
]
PUBLISHES = {
    "market": ("exchange-x", "exchange", ["Trade", "FeedConnected", "FeedEnded"]),
    "rules": ("rule-x", "risk_rule", ["RiskVerdict"]),
}


class World:
    """The edges of a kernel, ended in lists; time moves by hand."""

    pid = 1

    def __init__(
        self, *, clock: str = "wall", speed: str = "1", repaired: str = "", disk: Disk | None = None
    ) -> None:
        self.time = NS_PER_S
        self.set_back_ns = 0
        self.spawned: list[str] = []
        self.killed: list[tuple[str, str]] = []
        self.said: list[tuple[bytes, Any]] = []
        self.published: list[Message] = []
        self.listening: list[bool] = []
        self.overused: dict[str, str] = {}
        self.links: dict[str, int] = {}
        self.bursts: dict[str, int] = {}
        self.pids: dict[str, int] = {}
        self.epochs: dict[str, control.Admitted] = {}
        self.placed: list[dict[str, str]] = []
        self.dropped: list[dict[str, str]] = []
        self.place_error = ""
        self.disk = disk or Disk(Random(1))
        self.writer = JournalWriter(JOURNAL, map_mb=64, commit_ms=1, opener=self.disk.open)
        settings = KernelSettings(clock=clock, speed=speed, checkpoint_s=10.0)
        self.kernel = Kernel(
            Settings(plan=Plan(config="", profile="test", kernel=settings, plugins=PLUGINS), home=""),
            self,
            self.writer,
            Sequencer(),
            run=Run(profile="test", number=1, fingerprint="", started_ns=0),
            run_dir=Path("run"),
            token=TOKEN,
            rng=Random(1),
            repaired=repaired,
        )
        self.kernel.begin()

    def monotonic(self) -> int:
        return self.time

    def wall(self) -> int:
        return 10**18 + self.time

    def ahead_ns(self) -> int:
        return self.set_back_ns

    def publish(self, message: bytes) -> None:
        if not message.startswith(control.TELEMETRY):
            self.published += [codec.decode(codec.unpack(raw).body) for raw in codec.unpack_run(message)]

    def reply(self, identity: bytes, message: Any) -> None:
        self.said.append((identity, message))

    def spawn(self, process: str, token: str, plan: Plan) -> int:
        self.spawned.append(process)
        self.pids[process] = 100 + len(self.spawned)
        return self.pids[process]

    def place(self, files: dict[str, str]) -> str:
        self.placed.append(files)
        return self.place_error

    def drop(self, files: dict[str, str]) -> None:
        self.dropped.append(files)

    def kill(self, host: str, reason: str) -> None:
        self.killed.append((host, reason))

    def listen(self, is_on: bool) -> None:
        self.listening.append(is_on)

    def overuse(self, host: str) -> str:
        return self.overused.get(host, "")

    def rss_mb(self, pid: int) -> float:
        return 1.0

    def cpu_s(self, pid: int) -> float:
        return 0.5

    # --- What happens ---

    def say(self, identity: bytes, message: Any) -> None:
        self.kernel.take_control(identity, control.encode(message))

    def start(self, host: str) -> None:
        """Let the process of *host* greet, present its plugin and be ready."""
        identity = host.encode()
        self.say(identity, control.Hello(host, self.pids[host], TOKEN, control.PROTOCOL, codec.schema_hash()))
        plugin = PUBLISHES.get(host)
        components = [control.Component(*plugin)] if plugin else []
        self.say(identity, control.Present(host, components, {}))
        self.epochs[host] = self.last(identity, control.Admitted)
        self.links[host], self.bursts[host] = self.epochs[host].link, 0
        role = control.Role.SOURCE if host == "market" else control.Role.CONSUMER
        self.say(identity, control.Ready(host, role))

    def start_all(self) -> None:
        for host in ("archive", "rules", "trade", "market"):
            self.start(host)
            self.pass_time(10 * NS_PER_MS)

    def last(self, identity: bytes, type_: type) -> Any:
        return [message for to, message in self.said if to == identity and isinstance(message, type_)][-1]

    def push(self, host: str, *frames: bytes, skipped: int = 0, link: int = 0) -> None:
        self.bursts[host] += 1 + skipped
        self.kernel.take_burst(codec.pack_burst(list(frames), link or self.links[host], self.bursts[host]))

    def tell_position(self, host: str, position: int) -> None:
        """Let *host* say, behind its outputs, how far it is."""
        self.push(
            host,
            control.PROGRESS + msgspec.msgpack.encode(control.Progress(host.removesuffix("~"), position)),
        )

    def output(
        self, host: str, message: Message, cause: int, admitted: control.Admitted | None = None
    ) -> bytes:
        admitted = admitted or self.epochs[host]
        (plugin,) = admitted.origins
        return codec.pack_output(
            topics.topic_of(message),
            admitted.origins[plugin],
            admitted.epochs[plugin],
            0,
            cause,
            codec.encode(message),
        )

    def pass_time(self, ns: int, *, are_beating: bool = True) -> None:
        until = self.time + ns
        while self.time < until:
            self.time = min(until, self.time + 100 * NS_PER_MS)
            for host in self.links if are_beating else ():
                self.say(host.encode(), control.Beat(host.removesuffix("~"), []))
                self.tell_position(host, self.kernel.sequencer.seq)
            self.kernel.tick()
            self.kernel.hand_over()

    def commit(self) -> bool:
        done = self.writer.commit_pending()
        self.kernel.hand_over()
        return done

    def of(self, *types: type[Message]) -> list[Any]:
        return [message for message in self.published if isinstance(message, types)]
