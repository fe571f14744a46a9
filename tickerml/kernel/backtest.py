"""
A backtest: the live components on a LocalBus, fed by a source at full speed, no process but this.

It builds what a run of the same plan would build in its hosts, except the sinks, the pages and,
unless it is given a directory for them, the plugins that write files, and gives it the same
messages in the same order. So its orders and fills are those of the live run, byte for byte.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import codec, registry
from . import messages as m
from .clock import DATA_CLOCK_START_NS
from .config import Plan, PluginPlan
from .errors import ConfigError
from .gate import gate_spec
from .hookspecs import ExchangeSpec, Options, PluginSpec, SinkSpec, StoreSpec
from .localbus import LocalBus, OutputSink
from .summary import WANTED, Summary
from .topics import KIND_OF

Loaded = tuple[PluginPlan, PluginSpec, Options]


def load_plugins(plan: Plan) -> list[Loaded]:
    """
    Load every enabled plugin of *plan*.

    Raises: PluginError, ConfigError.
    """
    return [
        (planned, *registry.load_planned(planned, plan.config)) for planned in plan.plugins if planned.enabled
    ]


def build(
    plan: Plan,
    loaded: list[Loaded],
    on_output: OutputSink,
    data_dir: Path | None = None,
    started_ns: int = DATA_CLOCK_START_NS,
) -> LocalBus:
    """Return a LocalBus with the deterministic components among *loaded*, and the gate."""
    bus = LocalBus(on_output, started_ns=started_ns, seed=plan.kernel.seed, data_dir=data_dir or Path())
    for _, spec, options in loaded:
        writes_files = isinstance(spec, StoreSpec) and spec.writes_files and data_dir is None
        is_outward = isinstance(spec, SinkSpec) or writes_files
        if spec.SHAPE != "consumer" or is_outward:
            continue
        bus.add(spec, options)
    bus.add(gate_spec(plan.ids("risk_rule"), plan.vital()), Options())
    return bus


class Backtest:
    """One run of a plan over its sources."""

    def __init__(
        self,
        plan: Plan,
        on_output: Callable[[str, m.Message, bytes], None] | None = None,
        data_dir: Path | None = None,
    ) -> None:
        """
        Args:
            on_output: told of (plugin, message, encoding) for every message, the sources' too.
            data_dir: where the plugins that write files have theirs; without it they are left out.
        Raises: PluginError, ConfigError: a plugin or its options; a live exchange; no source.
        """
        self.summary = Summary()
        self._on_output = on_output
        loaded = load_plugins(plan)
        self.bus = build(plan, loaded, self._record, data_dir)
        self._feed = LocalBus(self._record, started_ns=DATA_CLOCK_START_NS, seed=plan.kernel.seed)
        sources = [(spec, options) for _, spec, options in loaded if isinstance(spec, ExchangeSpec)]
        for spec, _ in sources:
            if spec.is_live:
                raise ConfigError(
                    f"cannot backtest {spec.id}: it is a live feed; use a profile with recorded data"
                )
        if len(sources) != 1:
            raise ConfigError(
                f"a backtest needs exactly one exchange plugin, profile {plan.profile!r} has {len(sources)}"
            )
        self._source_id = sources[0][0].id
        self._source: Any = self._feed.add(*sources[0])
        self._inputs = 0

    def _record(self, plugin: str, n: int, cause: int, message: m.Message) -> None:
        kind = KIND_OF[type(message)]
        if kind in WANTED or self._on_output:
            body = codec.encode(message)
            if kind in WANTED:
                self.summary.add(message, body)
            if self._on_output:
                self._on_output(plugin, message, body)

    def run(self, until_ns: int = 0) -> Iterator[int]:
        """
        Run to the end of the source, or until *until_ns* of market time after its first message.

        Yields ts_recv after each input frame, for progress.
        """
        for ts, messages in self._frames(until_ns):
            for message in messages:
                self.bus.deliver(message, self._inputs)
            yield ts

    def _frames(self, until_ns: int) -> Iterator[tuple[int, Sequence[m.Message]]]:
        first = 0
        try:
            for ts, messages in self._source.events():
                first = first or ts
                self._inputs += 1
                self._feed.emit(self._source_id, messages, self._inputs)
                yield ts, messages
                if until_ns and ts - first >= until_ns:
                    break
        except Exception as error:
            self._feed.fail(self._source_id, "events", error)
        self._feed.emit(self._source_id, self._source.summarize(), self._inputs)

    def failures(self) -> dict[str, str]:
        """Return what was set aside so far: plugin -> "stage: error"."""
        return self._feed.failures | self.bus.failures
