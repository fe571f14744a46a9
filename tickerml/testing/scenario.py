"""
What a seed stands for: the plan that runs, how the machine is, and what goes wrong.

Everything is decided here, before the first event. The market and its plugins are few and
the same for many seeds, so that what they say undisturbed need be computed only once.
"""

from random import Random
from typing import Any

import msgspec

from tickerml.kernel.config import KernelSettings, Plan, PluginPlan
from tickerml.kernel.units import NS_PER_MS, NS_PER_S

from .faults import Fault, draw
from .network import NS_PER_US, Conditions

MARKETS = 6  # different ones
VENUE = "aurora"
GUEST = "guest"  # the host of a strategy that comes and goes
USHER = "usher"  # the host of a risk rule that does

_PLUGINS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("features-core", "feature_set", "trade", {}),
    ("strategy-busy", "strategy", "trade", {"every": 2, "open_orders": 4}),
    (
        "strategy-imbalance",
        "strategy",
        "trade",
        {"cooldown_ms": 300, "enter": 0.1, "order_ttl_ms": 500, "max_hold_s": 2.0},
    ),
    ("risk-limits", "risk_rule", "trade", {}),
    ("risk-drawdown", "risk_rule", "trade", {}),
    ("sim-fifo", "simulator", "trade", {"latency_ms": {VENUE: [20, 60]}}),
    ("portfolio", "store", "trade", {"opening": {f"{VENUE}.USDT": "10000"}}),
]
_MODULES = {
    "strategy-busy": "tickerml.testing.busy",
    "exchange-doubtful": "tickerml.testing.doubtful",
    "strategy-guest": "tickerml.testing.guest",
    "risk-usher": "tickerml.testing.usher",
}


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A seed, unfolded."""

    seed: int
    plan: Plan
    faults: list[Fault]
    network: Conditions
    high_water: int  # of a subscription
    outlet_high_water: int  # bursts that a host may push ahead
    commit_delay: tuple[int, int]  # ns
    burst: int  # events that a source plays at once
    service: tuple[int, int]  # ns between two steps of a source
    tick: int  # ns between two ticks of the kernel
    pause_behind: int  # messages the slowest consumer may be behind
    part_bytes: int  # of a state that is handed over
    held: int  # messages that one who stands by holds
    drift_ppm: int
    calm_at: int  # when the last fault is over, ns

    @property
    def is_wall(self) -> bool:
        """Whether the run's time is the wall clock."""
        return self.plan.kernel.clock == "wall"


def guest() -> PluginPlan:
    """Return the strategy that comes and goes."""
    return _planned("strategy-guest", "strategy", GUEST, {"every": 3, "open_orders": 3})


def usher() -> PluginPlan:
    """Return the risk rule that comes and goes."""
    return _planned("risk-usher", "risk_rule", USHER, {})


def _planned(plugin: str, kind: str, host: str, options: dict[str, Any]) -> PluginPlan:
    return PluginPlan(id=plugin, kind=kind, host=host, module=_MODULES.get(plugin, ""), options=options)


def plan(
    *, market: int, duration_s: float, has_rules: bool, is_doubtful: bool, kernel: KernelSettings
) -> Plan:
    """
    Return the plan of a run.

    Args:
        market: which of the markets.
        has_rules: whether one risk rule runs in a process of its own.
        is_doubtful: whether the feed has gaps and outages of its own.
    """
    options: dict[str, Any] = {
        "seed": market,
        "venues": [VENUE],
        "symbols": ["BTC/USDT"],
        "first_venue_symbols": [],
        "rate": 16.0,
        "depth": 10,
        "duration_s": duration_s,
    }
    source = ("exchange-synthetic", "exchange", "market", options)
    if is_doubtful:
        source = ("exchange-doubtful", "exchange", "market", {"market": options})
    entries = [source, *_PLUGINS]
    plugins = [
        _planned(name, kind, "rules" if has_rules and name == "risk-drawdown" else host, chosen)
        for name, kind, host, chosen in entries
    ]
    return Plan(config="the world", profile="world", kernel=kernel, plugins=plugins)


def unfold(seed: int) -> Scenario:
    """Return what *seed* stands for."""
    rng = Random(seed)
    pace = rng.choice(["max"] * 6 + ["played"] * 2 + ["wall"])
    kernel = KernelSettings(
        clock="wall" if pace == "wall" else "data",
        speed={"max": "max", "played": "8", "wall": "1"}[pace],
        seed=7,
        checkpoint_s=rng.choice([0.05, 0.2, 0.6]),
        heartbeat_s=rng.choice([0.2, 0.4]),
        map_mb=8_192,
    )
    has_rules = rng.random() < 0.3
    duration_s = 4.0 if pace == "wall" else rng.choice([4.0, 6.0])
    drawn = plan(
        market=rng.randrange(MARKETS),
        duration_s=duration_s,
        has_rules=has_rules,
        is_doubtful=pace != "wall" and rng.random() < 0.25,
        kernel=kernel,
    )
    burst, service = rng.choice([(2, 10), (4, 25), (8, 40)])
    horizon = int({"max": 1.2, "played": 1.5, "wall": 6.0}[pace] * NS_PER_S)
    faults = draw(rng, list(drawn.hosts()), horizon)
    spike = rng.choice([0.0, 0.0, 0.01])
    return Scenario(
        seed=seed,
        plan=drawn,
        faults=faults,
        network=Conditions(
            delay=rng.choice([(20 * NS_PER_US, 200 * NS_PER_US), (50 * NS_PER_US, 4 * NS_PER_MS)]),
            spike=spike,
        ),
        high_water=rng.choice([15, 1_000, 1_000, 1_000]),
        outlet_high_water=rng.choice([2, 1_000]),
        commit_delay=rng.choice([(NS_PER_MS, 5 * NS_PER_MS), (10 * NS_PER_MS, 60 * NS_PER_MS)]),
        burst=burst,
        service=(service * NS_PER_MS // 2, service * NS_PER_MS),
        tick=rng.choice([10, 20]) * NS_PER_MS,
        pause_behind=rng.choice([20, 100]),
        part_bytes=rng.choice([700, 3_000, 2**20]),
        held=rng.choice([25, 32_768]),
        drift_ppm=rng.choice([0, 0, 500, -500]),
        calm_at=calm_at(faults),
    )


def calm_at(faults: list[Fault]) -> int:
    """Return when the last of *faults* is over, ns."""
    return max((fault.at + fault.span for fault in faults), default=0)


def with_faults(scenario: Scenario, faults: list[Fault]) -> Scenario:
    """Return *scenario* with these faults alone."""
    return msgspec.structs.replace(scenario, faults=faults, calm_at=calm_at(faults))
