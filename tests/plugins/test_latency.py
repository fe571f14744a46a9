"""Latencies: how they are drawn, what a file of measurements makes of them, and who times out."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    CancelOrder,
    Message,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    TimeTick,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts
from tickerml.plugins import sim_fifo
from tickerml.plugins.latency import FEED, RESPONSE, Latencies, LatencyOptions, quantile, read_latencies

PLUGIN = "sim-fifo"
START = 1_700_000_000 * NS_PER_S
MODELS = ["constant", "uniform", "lognormal"]

ranges = st.tuples(st.integers(1, 2500), st.integers(1, 2500)).map(sorted)
shares = st.floats(0, 1, exclude_max=True)


def ms(number: float) -> int:
    return START + int(number * NS_PER_MS)


def order(at: int, order_id: str = "a", exchange: str = "test") -> OrderSubmitted:
    kinds = (Side.BUY, OrderType.LIMIT, TimeInForce.GTC)
    return OrderSubmitted(at, order_id, "s", "paper", exchange, "BTC/USDT", *kinds, 9_990, 5, 20_000)


def desk(lag_ms: float = 1, **options: Any) -> tuple[Harness, Market]:
    """One exchange whose book is known, 50 ms away unless the options say otherwise."""
    harness = Harness(
        sim_fifo,
        options={PLUGIN: {"latency_ms": {"test": (50, 50)}, "spike_probability": 0.0, **options}},
    )
    market = Market(latency_ns=int(lag_ms * NS_PER_MS))
    harness.send(instrument(), market.book(START - NS_PER_S, [(9_990, 10)], [(10_010, 10)]))
    return harness, market


def measured(path: Path, *rows: tuple[int, int, int]) -> str:
    lines = ["req,exch,resp", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


# --- Drawing --------------------------------------------------------------------------------------


@given(ranges, st.sampled_from(MODELS), shares, shares)
def test_a_larger_share_is_never_a_shorter_latency(between, model, one, other):
    low, high = sorted((one, other))
    assert quantile(model, *between, low) <= quantile(model, *between, high)


@given(ranges, shares)
def test_a_uniform_latency_stays_in_its_range_and_a_constant_one_is_its_middle(between, share):
    low, high = between
    assert low <= quantile("uniform", low, high, share) <= high
    assert quantile("uniform", low, high, 0.25) == pytest.approx(0.75 * low + 0.25 * high)
    assert quantile("constant", low, high, share) == (low + high) / 2


@given(ranges)
def test_a_twentieth_of_lognormal_latencies_lies_below_and_a_twentieth_above(between):
    low, high = between
    assert quantile("lognormal", low, high, 0.05) == pytest.approx(low)
    assert quantile("lognormal", low, high, 0.95) == pytest.approx(high)
    assert quantile("lognormal", low, high, 0.5) == pytest.approx(math.sqrt(low * high))
    assert quantile("lognormal", low, high, 0.0) > 0


def drawn(model: str, order_ids: list[str], **options: Any) -> dict[str, float]:
    settings = {"latency_model": {"kraken": model}, "spike_probability": 0.0, "quiet_ms": 0, **options}
    harness = Harness(sim_fifo, options={PLUGIN: settings})
    for number, order_id in enumerate(order_ids):
        harness.send(order(ms(20_000 * number), order_id, "kraken"), TimeTick(ms(20_000 * number + 19_000)))
    return {
        event.order_id: (event.ts_event - ms(20_000 * number)) / NS_PER_MS
        for number, event in enumerate(harness.of(OrderRejected))
    }


def test_what_is_drawn_follows_the_model():
    names = [f"o{number}" for number in range(400)]
    constant, lognormal = drawn("constant", names), drawn("lognormal", names)

    assert set(constant.values()) == {225.0}
    assert 8 <= sum(latency < 150 for latency in lognormal.values()) <= 35
    assert 8 <= sum(latency > 300 for latency in lognormal.values()) <= 35
    assert max(lognormal.values()) > 330


@given(st.sampled_from(MODELS), st.lists(st.sampled_from("bcdefgh"), unique=True))
def test_the_latency_of_an_order_does_not_depend_on_others(model, others):
    assert drawn(model, [*others, "a"])["a"] == pytest.approx(drawn(model, ["a"])["a"], abs=1e-6)


def test_a_latency_depends_on_seed_exchange_order_and_leg():
    def latency(exchange: str = "one", order_id: str = "a", leg: str = "entry", seed: int = 0) -> int:
        harness = Harness(sim_fifo, seed=seed)
        return int(harness.bus.component(PLUGIN)._latencies.drawn_ns(exchange, order_id, leg, START))

    others = [latency("two"), latency(order_id="b"), latency(leg="response"), latency(seed=1)]
    assert latency() == latency()
    assert len({latency(), *others}) == 5


def of(uniform: float = 0.5, **options: Any) -> Latencies:
    return Latencies(msgspec.convert(options, LatencyOptions), lambda *key: uniform)


def test_a_spike_is_as_many_times_longer_as_asked_for():
    calm = of(latency_ms={"x": [100, 100]}, spike_probability=0.5)
    spiked = of(latency_ms={"x": [100, 100]}, spike_probability=0.6, spike_factor=7.5)

    assert calm.drawn_ns("x", "a", "entry", 0) == 100 * NS_PER_MS
    assert spiked.drawn_ns("x", "a", "entry", 0) == 750 * NS_PER_MS


def test_the_way_back_may_have_its_own_range_and_a_range_of_both_ways_is_halved():
    apart = of(latency_ms={"x": [100, 100]}, response_ms={"x": [30, 30]})
    split = of(latency_ms={"x": [100, 100]}, feed_ms={"x": [40, 40]}, split_latency=True)

    assert [apart.drawn_ns("x", "a", leg, 0) // NS_PER_MS for leg in ("entry", RESPONSE)] == [100, 30]
    assert [split.drawn_ns("x", "a", leg, 0) // NS_PER_MS for leg in ("entry", RESPONSE, FEED)] == [
        50,
        50,
        40,
    ]


def test_an_order_decided_on_data_of_unknown_age_is_later_by_what_the_feed_takes():
    def accepted(lag_ms: float, **options: Any) -> float:
        harness, _ = desk(lag_ms, **options)
        harness.send(order(ms(0)), TimeTick(ms(5_000)))
        (event,) = harness.of(OrderAccepted)
        return (event.ts_event - START) / NS_PER_MS

    assert accepted(0) == 50
    assert accepted(0, feed_ms={"test": [20, 20]}) == 70
    assert accepted(1, feed_ms={"test": [20, 20]}) == 50  # the tape says when the data came
    assert of().drawn_ns("x", "a", FEED, 0) == 0


# --- Measured -------------------------------------------------------------------------------------


def test_measured_latencies_are_interpolated_in_time(tmp_path):
    path = measured(tmp_path / "l.csv", (1_000, 1_100, 1_150), (2_000, 2_400, 2_500), (2_000, 2_300, 2_310))
    recorded = of(latency_file={"x": path})

    there = {at: recorded.drawn_ns("x", "a", "entry", at) for at in (0, 1_000, 1_500, 1_999, 2_000, 9_000)}
    back = {at: recorded.drawn_ns("x", "a", RESPONSE, at) for at in (0, 1_100, 1_700, 2_350, 9_000)}

    assert there == {0: 100, 1_000: 100, 1_500: 250, 1_999: 399, 2_000: 300, 9_000: 300}
    assert back == {0: 50, 1_100: 50, 1_700: 30, 2_350: 55, 9_000: 100}
    assert recorded.drawn_ns("y", "a", "entry", 0) >= 50 * NS_PER_MS


rows = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5), st.integers(0, 10**5)), min_size=1)


@given(rows, st.integers(-10, 2 * 10**6))
def test_an_interpolated_latency_lies_between_those_that_were_measured(tmp_path_factory, steps, at):
    now, file = 0, tmp_path_factory.mktemp("measured") / "l.csv"
    taken = []
    for step, there, back in steps:
        now += step
        taken.append((now, now + there, now + there + back))
    recorded = read_latencies(Path(measured(file, *taken)))

    assert min(there for _, there, _ in steps) <= recorded.there.at(at) <= max(t for _, t, _ in steps)
    assert min(back for _, _, back in steps) <= recorded.back.at(at) <= max(b for _, _, b in steps)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected the columns req,exch,resp, was ''"),
        ("a,b\n1,2\n", "expected the columns req,exch,resp, was 'a,b'"),
        ("req,exch,resp\n", "expected at least one row"),
        ("req,exch,resp\n1,2,x\n", "expected three integers at line 2, was '1,2,x'"),
        ("req,exch,resp\n1,2\n", "expected three integers at line 2"),
        ("req,exch,resp\n3,2,4\n", "expected req <= exch <= resp at line 2, was 3,2,4"),
        ("req,exch,resp\n3,4,5\n2,4,5\n", "req must not fall, was 2 at line 3"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_line(tmp_path, text, complaint):
    path = tmp_path / "l.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(msgspec.ValidationError, match="cannot read") as refused:
        msgspec.convert({"latency_file": {"kraken": str(path)}}, LatencyOptions)

    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"response_ms": {"x": [3, 2]}}, r"response_ms.x must be \[lowest, highest\], was \[3, 2\]"),
        ({"latency_ms": {"x": [0, 2]}, "latency_model": {"x": "lognormal"}}, "must be above 0"),
        ({"latency_model": {"x": "gamma"}}, "gamma"),
        ({"spike_factor": 0.5}, ">= 1"),
        ({"timeout_ms": 0}, ">= 1"),
    ],
)
def test_refuses_what_makes_no_sense(options, complaint):
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert(options, LatencyOptions)


# --- Timing out -----------------------------------------------------------------------------------


def seen(harness: Harness) -> list[tuple[str, str, float]]:
    assert not harness.bus.failed
    kinds = (OrderAccepted, OrderRejected, OrderFilled, OrderCanceled)
    return [
        (type(event).__name__, event.order_id, (event.ts_recv - START) / NS_PER_MS)
        for event in harness.of(*kinds)
    ]


@pytest.fixture
def slow(tmp_path: Path) -> dict[str, Any]:
    """Options by which what is sent in the first second is 6 s on its way, and what is sent later 10 ms."""
    first, later = ms(0), ms(1_000)
    rows = [
        (first, ms(6_000), ms(6_010)),
        (later - 1, ms(7_000) - 1, ms(7_010)),
        (later, ms(1_010), ms(1_020)),
    ]
    rows = sorted(rows)
    return {"latency_file": {"test": measured(tmp_path / "slow.csv", *rows)}}


def test_an_order_too_long_on_its_way_is_rejected_after_five_seconds_and_never_trades(slow):
    harness, market = desk(**slow)
    harness.send(order(ms(0)), market.trade(ms(6_500), 9_990, 50, Side.SELL), TimeTick(ms(20_000)))

    assert seen(harness) == [("OrderRejected", "a", 5_000)]
    assert "not at the exchange within 5000 ms" in harness.of(OrderRejected)[0].reason


def test_an_order_that_timed_out_holds_up_nobody(slow):
    harness, market = desk(**slow)
    harness.send(order(ms(0)), order(ms(1_000), "b"), market.delta(ms(1_500), [(9_980, 1)]))
    harness.send(TimeTick(ms(20_000)))

    assert seen(harness) == [("OrderAccepted", "b", 1_501), ("OrderRejected", "a", 5_000)]


def test_what_takes_it_back_finds_nothing_and_a_second_telling_changes_nothing(slow):
    harness, _ = desk(**slow)
    harness.send(order(ms(0)), order(ms(1)), CancelOrder(ms(1_100), "a", "test", "BTC/USDT", "asked"))
    harness.send(TimeTick(ms(20_000)))

    assert seen(harness) == [("OrderRejected", "a", 5_000)]


def test_the_time_that_is_allowed_is_an_option(slow):
    harness, _ = desk(**slow, timeout_ms=6_500)
    harness.send(order(ms(0)), TimeTick(ms(20_000)))

    assert [what for what, _, _ in seen(harness)] == ["OrderAccepted"]


def test_an_answer_that_takes_longer_than_that_still_comes(tmp_path):
    file = measured(tmp_path / "late.csv", (ms(0), ms(10), ms(9_010)))
    harness, market = desk(latency_file={"test": file})
    harness.send(order(ms(0)), market.trade(ms(20), 9_990, 12, Side.SELL), TimeTick(ms(20_000)))

    assert seen(harness) == [("OrderAccepted", "a", 9_010), ("OrderFilled", "a", 9_020)]


@given(st.lists(st.integers(0, 12), unique=True, max_size=4))
def test_a_restart_changes_nothing(tmp_path_factory, cuts):
    file = tmp_path_factory.mktemp("restart") / "slow.csv"
    options = {"latency_file": {"test": measured(file, (ms(0), ms(6_000), ms(6_100)))}}
    options |= {"latency_model": {"other": "lognormal"}, "feed_ms": {"other": (10, 20)}}
    market = Market("other")
    tape: list[Message] = [
        instrument(),
        instrument("other"),
        market.book(ms(-1), [(9_990, 10)], [(10_010, 9)]),
    ]
    for number in range(4):
        exchange = ("test", "other")[number % 2]
        tape += [order(ms(900 * number), str(number), exchange), TimeTick(ms(900 * number + 100))]
    tape += [market.trade(ms(5_500), 9_990, 50, Side.SELL), TimeTick(ms(30_000))]

    def build() -> Harness:
        return Harness(sim_fifo, options={PLUGIN: options})

    whole = run_with_restarts(build, tape, [])
    assert {type(event) for event in whole} >= {OrderRejected, OrderAccepted, OrderFilled}
    assert run_with_restarts(build, tape, cuts) == whole
