"""What holds for every risk rule: one verdict, never more, deaf to the others, whole in its state."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tickerml.kernel import (
    BookCrossed,
    FeedSummarized,
    FundingUpdated,
    HaltTrading,
    Liquidity,
    MarkoutMeasured,
    Message,
    OrderAccepted,
    OrderCanceled,
    OrderDenied,
    OrderRejected,
    OrderSubmitted,
    PluginFailed,
    ResumeTrading,
    RiskVerdict,
    SequenceGap,
    Side,
    SubmitOrder,
    TimeInForce,
    TimeTick,
    TradingHalted,
    catalog,
    registry,
)
from tickerml.kernel.gate import gate_spec
from tickerml.kernel.testing import Harness, Market, run_with_restarts

from .trading import BTC, ETH, MIN, PERP, S, filled, money, order, submitted, touch
from .trading import position as held

SPECS = {
    plugin: registry.load(plugin)
    for plugin, found in sorted(catalog.find().plugins.items())
    if found.is_ours and found.manifest and found.manifest.kinds == ["risk_rule"]
}
#: Small enough that a short tape comes past the warm-up.
OPTIONS: dict[str, dict[str, Any]] = {
    "risk-kelly": {"warmup_trades": 2},
    "risk-markout": {"warmup_fills": 2},
    "risk-volatility": {"warmup_min": 2},
    "risk-correlation": {"warmup_min": 2},
    "risk-breaker-system": {"min_count": 2},
    "risk-drawdown": {"restart": "gradual"},
}
PLACES = [("test", "BTC/USDT"), ("test", "ETH/USDT"), ("perp", "BTC/USDT:USDT")]


def built(*ids: str, with_gate: bool = False) -> Harness:
    return Harness(*(SPECS[name] for name in ids), options=OPTIONS, with_gate=with_gate)


def beginning() -> list[Message]:
    return [
        BTC,
        ETH,
        PERP,
        *(touch(10_000, 10_002, symbol=s, exchange=e, deep=2000) for e, s in PLACES),
        money(1),
    ]


def happening(rng: random.Random, ts: int, number: int) -> Message:
    """Anything that may happen at *ts*."""
    exchange, symbol = rng.choice(PLACES)
    place: dict[str, Any] = {"exchange": exchange, "symbol": symbol, "ts": ts}
    side, lots = rng.choice(list(Side)), rng.randint(1, 60)
    price, old = 10_000 + rng.randint(-300, 300), f"o-{rng.randint(0, number)}"
    wish = order(
        lots,
        price,
        side,
        order_id=f"o-{number}",
        force=rng.choice(list(TimeInForce)),
        reduce_only=rng.random() < 0.2,
        **place,
    )
    equity, stock = rng.randint(7_000, 10_500), held(rng.randint(1, 60), rng.randint(1, 6000))
    makers: list[Any] = [
        lambda: wish,
        lambda: wish,
        lambda: submitted(wish),
        lambda: touch(price - 1, price + 1, deep=2000, **place),
        lambda: touch(price - 1, price + 1, deep=2000, **place),
        lambda: Market(exchange, symbol).trade(ts, price, lots, side),
        lambda: filled(lots, price, side, order_id=old, leaves=rng.randint(0, 3), **place),
        lambda: money(ts, equity, stock, is_marked=rng.random() < 0.9),
        lambda: MarkoutMeasured(ts, old, 0, exchange, symbol, Liquidity.MAKER, 10 * S, rng.uniform(-9, 3)),
        lambda: FundingUpdated(ts, ts, exchange, symbol, 1, 1, rng.randint(-(10**10), 10**10), 0, 0, 28_800),
        lambda: FeedSummarized(ts, exchange, number, number // 3, 0, 0, clock_offset_ns=rng.randint(0, S)),
        lambda: OrderAccepted(ts, ts, old, exchange, symbol, 1, 1),
        lambda: OrderRejected(ts, ts, old, exchange, symbol, "no"),
        lambda: OrderCanceled(ts, ts, old, exchange, symbol, 1, "asked"),
        lambda: SequenceGap(ts, exchange, symbol, 1, 2),
        lambda: BookCrossed(ts, exchange, symbol, 1, 2, 2),
        lambda: TradingHalted(ts, "x", "", rng.randint(1, 3)),
        lambda: ResumeTrading(ts, "person", ""),
        lambda: PluginFailed(ts, "x", "page", "Trade", "no"),
        lambda: TimeTick(ts),
    ]
    message: Message = rng.choice(makers)()
    return message


def tape_of(seed: int, length: int = 120) -> list[Message]:
    rng, ts, tape = random.Random(seed), S, beginning()
    for number in range(length):
        ts += rng.choice((1, S // 10, S, 20 * S, MIN))
        tape.append(happening(rng, ts, number))
    return tape


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.sets(st.integers(0, 120), max_size=8))
def test_moving_its_state_to_a_new_component_anywhere_changes_nothing(name, seed, cuts):
    tape = tape_of(seed)

    assert run_with_restarts(lambda: built(name), tape, cuts) == run_with_restarts(
        lambda: built(name), tape, ()
    )


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_it_answers_each_order_once_with_its_name_and_its_numbers_and_never_enlarges_it(name, seed):
    kept = built(name)
    for message in tape_of(seed):
        answers = [each for each in kept.send(message) if isinstance(each, RiskVerdict)]
        asked = [message] if isinstance(message, SubmitOrder) else []
        own = [each for each in kept.outputs if isinstance(each, SubmitOrder)]
        assert all(each.reduce_only and each.strategy == name for each in own)
        assert [a.order_id for a in answers if a.order_id not in {o.order_id for o in own}] == [
            wish.order_id for wish in asked
        ]
        wishes = {wish.order_id: wish for wish in (*own, *asked)}
        for verdict in answers:
            wish = wishes[verdict.order_id]
            assert 0 <= verdict.quantity <= wish.quantity
            assert (verdict.rule, bool(verdict.reason) or verdict.quantity == wish.quantity) == (name, True)
    assert kept.bus.failed == set()


@pytest.mark.parametrize("name", SPECS)
def test_a_rule_that_raises_is_a_deny_of_that_order_and_of_what_comes(name, monkeypatch):
    def broken(self: Any, wish: SubmitOrder) -> None:
        raise RuntimeError("out of luck")

    spec = SPECS[name]
    monkeypatch.setattr(spec.factory, "on_submit_order", broken)
    kept = built(name, with_gate=True)
    kept.send(*beginning(), order(7, order_id="a"), order(7, Side.SELL, order_id="b"))

    assert [(each.order_id, each.rule) for each in kept.of(OrderDenied)] == [("a", name), ("b", name)]
    assert kept.of(OrderSubmitted) == []
    assert [each.plugin for each in kept.of(PluginFailed)] == [name]


def decided(names: list[str], order_of: list[int], tape: list[Message]) -> list[tuple[str, str, int]]:
    """What a gate decides about *tape* when the rules *names* answer in *order_of*."""
    specs = []
    for rank, name in zip(order_of, names, strict=True):
        # Rules of one stage answer in the order of their ids.
        specs.append(msgspec.structs.replace(SPECS[name], id=f"{rank:02}-{name}"))
    options = {spec.id: OPTIONS.get(spec.id[3:], {}) for spec in specs}
    kept = Harness(*specs, gate_spec([spec.id for spec in specs]), options=options)
    kept.send(*tape)
    return [
        (type(each).__name__, each.order_id.rpartition("-")[2], getattr(each, "quantity", 0))
        for each in kept.outputs
        if isinstance(each, OrderSubmitted | OrderDenied)
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    names=st.lists(
        st.sampled_from([name for name in SPECS if name != "risk-stops"]), min_size=2, unique=True
    ),
    data=st.data(),
    seed=st.integers(0, 10**6),
)
def test_the_order_in_which_any_set_of_rules_is_asked_cannot_change_a_decision(names, data, seed):
    tape = [m for m in tape_of(seed, 80) if not isinstance(m, OrderSubmitted | TradingHalted | PluginFailed)]
    shuffled = data.draw(st.permutations(range(len(names))))

    assert decided(names, list(shuffled), tape) == decided(names, list(range(len(names))), tape)


def test_the_tape_reaches_denials_reductions_and_halts_of_most_rules():
    denying, reducing, halting = set(), set(), set()
    for name in SPECS:
        kept = built(name)
        for seed in range(4):
            kept.send(*[m for m in tape_of(seed, 200) if not isinstance(m, TradingHalted)])
        for verdict in kept.of(RiskVerdict):
            (denying if not verdict.quantity else reducing).add(name if verdict.reason else "")
        if kept.of(HaltTrading):
            halting.add(name)

    assert len(denying - {""}) >= 12
    assert reducing >= {"risk-position", "risk-volatility"}
    assert halting >= {"risk-losses", "risk-breaker-system"}
