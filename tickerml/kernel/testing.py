"""
For tests of plugins, ours and strangers': a bus in one thread and a market by hand.

The same LocalBus that runs live runs here; nothing is mocked.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from . import messages as m
from .gate import gate_spec
from .hookspecs import HOOKS, PluginSpec
from .localbus import LocalBus
from .units import to_units


def spec_of(module: ModuleType) -> PluginSpec:
    """
    Return the one spec that a plugin *module* offers.

    Raises: ValueError: it offers none, or more than one.
    """
    specs: list[PluginSpec] = [
        spec for hook in HOOKS if hasattr(module, hook) for spec in getattr(module, hook)()
    ]
    if len(specs) != 1:
        raise ValueError(f"expected one spec in {module.__name__}, was {len(specs)}")
    return specs[0]


class Harness:
    """
    Components on a LocalBus, with everything they publish collected in outputs.

    Plugins are given as specs or as modules, with their options as keyword dicts
    by plugin id, and secrets by name for all of them. with_gate adds the kernel's gate,
    waiting for the risk rules given.
    """

    def __init__(
        self,
        *plugins: PluginSpec | ModuleType,
        options: dict[str, dict[str, Any]] | None = None,
        with_gate: bool = False,
        seed: int = 0,
        started_ns: int = 0,
        data_dir: Path = Path(),
        secrets: dict[str, str] | None = None,
    ) -> None:
        self.outputs: list[m.Message] = []
        self._inputs = 0
        self.bus = LocalBus(
            lambda plugin, n, cause, message: self.outputs.append(message),
            seed=seed,
            started_ns=started_ns,
            data_dir=data_dir,
        )
        specs = [plugin if isinstance(plugin, PluginSpec) else spec_of(plugin) for plugin in plugins]
        if with_gate:
            rules = [spec.id for spec in specs if spec.KIND == "risk_rule"]
            vital = [spec.id for spec in specs if spec.KIND in ("simulator", "store")]
            specs.append(gate_spec(rules, vital))
        for spec in specs:
            settings = msgspec.convert((options or {}).get(spec.id, {}), spec.options)
            self.bus.add(spec, settings, secrets)

    def send(self, *messages: m.Message) -> list[m.Message]:
        """Deliver *messages* in order; return what was published because of them."""
        before = len(self.outputs)
        for message in messages:
            self._inputs += 1
            self.bus.deliver(message, self._inputs)
        return self.outputs[before:]

    def of(self, *types: type[m.Message]) -> list[Any]:
        """Return the outputs of *types* so far."""
        return [message for message in self.outputs if isinstance(message, types)]


def run_with_restarts(
    build: Callable[[], Harness], tape: Sequence[m.Message], cuts: Iterable[int]
) -> list[m.Message]:
    """
    Run *tape*, moving the state to a newly built harness before each position in *cuts*.

    A component whose snapshot is whole publishes exactly what it does with no cuts at all.
    """
    harness, outputs, stops = build(), [], set(cuts)
    for position, message in enumerate(tape):
        if position in stops:
            state = harness.bus.snapshot()
            harness = build()
            harness.bus.restore(state)
            harness._inputs = position
        outputs += harness.send(message)
    return outputs


def instrument(
    exchange: str = "test",
    symbol: str = "BTC/USDT",
    *,
    tick: str = "0.01",
    lot: str = "0.00001",
    min_notional: str = "0",
    maker_fee_ppm: int = 1000,
    taker_fee_ppm: int = 1000,
) -> m.Instrument:
    """Return an Instrument with the given steps; fees default to 0.10 % either way."""
    base, quote = symbol.split("/")
    return m.Instrument(
        0,
        exchange,
        symbol,
        base,
        quote,
        to_units(tick),
        to_units(lot),
        min_notional=to_units(min_notional),
        maker_fee_ppm=maker_fee_ppm,
        taker_fee_ppm=taker_fee_ppm,
        fees_as_of="2026-01-01",
    )


class Market:
    """Writes one symbol's messages by hand: market.book(1_000, bids=[(99, 5)], asks=[(101, 5)])."""

    def __init__(self, exchange: str = "test", symbol: str = "BTC/USDT", latency_ns: int = 0) -> None:
        self.exchange = exchange
        self.symbol = symbol
        self.latency_ns = latency_ns
        self._seq = 0

    def _times(self, ts_event: int) -> tuple[int, int]:
        self._seq += 1
        return ts_event + self.latency_ns, ts_event

    def book(
        self, ts_event: int, bids: Iterable[tuple[int, int]] = (), asks: Iterable[tuple[int, int]] = ()
    ) -> m.BookSnapshot:
        """Return a whole book of (price ticks, quantity lots)."""
        ts_recv, ts_event = self._times(ts_event)
        return m.BookSnapshot(
            ts_recv, ts_event, self.exchange, self.symbol, self._seq, m.pack_levels(bids), m.pack_levels(asks)
        )

    def delta(
        self, ts_event: int, bids: Iterable[tuple[int, int]] = (), asks: Iterable[tuple[int, int]] = ()
    ) -> m.BookDelta:
        """Return changed levels; a quantity of 0 deletes."""
        ts_recv, ts_event = self._times(ts_event)
        return m.BookDelta(
            ts_recv, ts_event, self.exchange, self.symbol, self._seq, m.pack_levels(bids), m.pack_levels(asks)
        )

    def trade(self, ts_event: int, price: int, quantity: int, aggressor: m.Side) -> m.Trade:
        """Return a public print."""
        ts_recv, ts_event = self._times(ts_event)
        return m.Trade(ts_recv, ts_event, self.exchange, self.symbol, self._seq, price, quantity, aggressor)
