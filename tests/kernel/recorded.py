"""A short run of real plugins over a tiny market, recorded as a kernel does: for whoever reads journals."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tickerml.kernel import Options, codec, config, registry, topics
from tickerml.kernel import messages as m
from tickerml.kernel.clock import DATA_CLOCK_START_NS
from tickerml.kernel.gate import gate_spec
from tickerml.kernel.journal import Checkpoint, JournalWriter, frame_seq
from tickerml.kernel.localbus import LocalBus
from tickerml.kernel.runs import PLAN_KEY, RUN_KEY, Run
from tickerml.kernel.sequencer import KERNEL, Sequencer

ODD_PLUGINS = Path(__file__).resolve().parents[1] / "plugins_for_tests"
KEPT = tuple(map(topics.topic, sorted(topics.KEPT_KINDS)))


class Recorded(NamedTuple):
    """A run as its journal holds it."""

    plan: config.Plan
    frames: list[bytes]
    state: bytes
    decisions: str


class LiveRun:
    """A kernel, a source and the host `trade`, without the processes: everything goes through a sequencer."""

    def __init__(self, plan: config.Plan) -> None:
        self.plan = plan
        self.sequencer = Sequencer()
        self.frames: list[bytes] = []
        self._pushed: list[bytes] = []
        self._trade = LocalBus(self._push, started_ns=DATA_CLOCK_START_NS, seed=plan.kernel.seed)
        self._market = LocalBus(self._push, started_ns=DATA_CLOCK_START_NS, seed=plan.kernel.seed)
        self._origins: dict[str, int] = {}
        self._add(self._trade, gate_spec(plan.ids("risk_rule")), Options())
        for member in plan.hosts()["trade"]:
            self._add(self._trade, *registry.load_planned(member, plan.config))
        self._source: Any = self._add(self._market, *registry.load_planned(plan.plugins[0], plan.config))

    def _add(self, bus: LocalBus, spec: Any, options: Any) -> Any:
        self._origins[spec.id] = self.sequencer.admit(spec.id, [*spec.publishes, m.PluginFailed])
        return bus.add(spec, options)

    def _push(self, plugin: str, n: int, cause: int, message: m.Message) -> None:
        origin = self._origins[plugin]
        body = codec.encode(message)
        epoch = self.sequencer.epoch(origin)
        self._pushed.append(codec.pack_output(topics.topic_of(message), origin, epoch, n, cause, body))

    def _sequence(self) -> list[codec.Frame]:
        stamped = [self.sequencer.accept(frame) for frame in self._pushed]
        self._pushed.clear()
        self.frames += [frame for frame in stamped if frame is not None]
        return [codec.unpack(frame) for frame in stamped if frame is not None]

    def run(self, until_ns: int = 2**63) -> Recorded:
        """Play the source to its end or *until_ns*, with a word from the kernel now and then."""
        for cause, (ts, messages) in enumerate(self._source.events(), 1):
            self._market.emit(self.plan.plugins[0].id, messages, cause)
            for frame in self._sequence():
                self._trade.deliver(codec.decode(frame.body), frame.seq)
            self._sequence()
            if cause % 100 == 0:
                self.frames.append(self.sequencer.announce(m.Sync(0, "drain")))
            if ts >= until_ns:
                break
        report = self.sequencer.summary.report()
        return Recorded(self.plan, self.frames, self.sequencer.to_bytes(), report["decisions_sha256"])


def plan(*overrides: str) -> config.Plan:
    return config.plan(config.load(ODD_PLUGINS / "plugins.toml"), "tiny", list(overrides))


def write(directory: Path, run: Recorded, frames: list[bytes] | None = None) -> Path:
    """Write *run*, or other *frames* in place of its own, as a kernel does; returns the run's directory."""
    journal = JournalWriter(directory / "journal", map_mb=64, commit_ms=1)
    identity = Run(profile="tiny", number=1, fingerprint="", started_ns=DATA_CLOCK_START_NS)
    journal.put_meta(RUN_KEY, msgspec.msgpack.encode(identity))
    journal.put_meta(PLAN_KEY, msgspec.json.encode(run.plan))
    journal.start()
    frames = run.frames if frames is None else frames
    for at in range(0, len(frames), 500):
        batch = frames[at : at + 500]
        kept = [raw for raw in batch if raw.startswith(KEPT)]
        journal.append(batch, kept, [Checkpoint(KERNEL, frame_seq(batch[-1]), run.state)])
    journal.close()
    return directory


def restamped(frames: list[bytes]) -> list[bytes]:
    """Return *frames* numbered anew, as a journal needs them."""
    found = [codec.unpack(raw) for raw in frames]
    return [
        codec.stamp(
            codec.pack_output(one.topic, one.origin, one.epoch, one.n, one.cause, one.body),
            len(one.topic) + 1,
            seq,
            one.tseq,
        )
        for seq, one in enumerate(found, 1)
    ]
