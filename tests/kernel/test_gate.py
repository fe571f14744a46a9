"""No order passes without a yes from every rule, and a halt holds until a person lifts it."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_S,
    BookStale,
    BookState,
    CancelOrder,
    HaltTrading,
    HostStarted,
    Liquidity,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    Passport,
    PluginFailed,
    ResumeTrading,
    RiskRuleSpec,
    RiskVerdict,
    SequenceGap,
    Side,
    StrategySpec,
    SubmitOrder,
    TimeInForce,
    TimeTick,
    TradingHalted,
    TradingResumed,
    TradingState,
)
from tickerml.kernel.gate import DEADLINE_NS, GATE, gate_spec
from tickerml.kernel.testing import Harness, Market, run_with_restarts

RULES = ("rule-a", "rule-b", "rule-c")
START = 5 * NS_PER_S
HALT = HaltTrading(START, "person", "lunch")
RESUME = ResumeTrading(START, "person", "back")


def order(order_id="o-1", quantity=10, ts_recv=START):
    return SubmitOrder(
        ts_recv,
        order_id,
        "strategy",
        "main",
        "test",
        "BTC/USDT",
        Side.SELL,
        OrderType.LIMIT,
        TimeInForce.IOC,
        101,
        quantity,
    )


def verdict(rule, quantity, order_id="o-1", reason="", ts_recv=START):
    return RiskVerdict(ts_recv, order_id, rule, quantity, reason)


def failure(plugin, kind, ts_recv=START):
    return PluginFailed(ts_recv, plugin, kind, "Trade", "RuntimeError: out of luck")


def filled(order_id, leaves, ts_recv=START):
    return OrderFilled(
        ts_recv,
        0,
        order_id,
        0,
        "strategy",
        "main",
        "test",
        "BTC/USDT",
        Side.SELL,
        101,
        1,
        leaves,
        Liquidity.TAKER,
        0,
        "USDT",
        0,
        0,
        0,
        False,
        0,
    )


def gate_with(*rules):
    return Harness(gate_spec(rules))


def state_of(harness):
    return harness.bus.component(GATE).trading_state


def open_ids(harness):
    return sorted(harness.bus.component(GATE).open_orders)


# --- Verdicts ---------------------------------------------------------------------------------------


def test_an_order_that_every_rule_allows_leaves_as_it_was_asked_for():
    harness = gate_with("rule-a")
    harness.send(Market().book(START, bids=[(99, 1)], asks=[(102, 1)]))
    asked = order(quantity=10)

    answered = harness.send(asked, verdict("rule-a", 10))

    assert answered == [
        OrderSubmitted(
            START,
            "o-1",
            "strategy",
            "main",
            "test",
            "BTC/USDT",
            Side.SELL,
            OrderType.LIMIT,
            TimeInForce.IOC,
            101,
            10,
            arrival_mid=99 + 102,
            passport=Passport(BookState.VALID, age_ns=0, gap_ns=-1, latency_ns=0),
        )
    ]
    assert open_ids(harness) == ["o-1"]


def test_an_order_leaves_with_what_was_known_of_its_book():
    harness, market = gate_with(), Market(latency_ns=30_000_000)
    harness.send(
        SequenceGap(START - 4 * NS_PER_S, "test", "BTC/USDT", 5, 7),
        market.book(START - 2 * NS_PER_S, bids=[(99, 1)], asks=[(102, 1)]),
        BookStale(START - NS_PER_S, "test", "BTC/USDT", 900),
    )

    (submitted,) = harness.send(order())

    assert submitted.passport == Passport(
        BookState.STALE, age_ns=1_970_000_000, gap_ns=4 * NS_PER_S, latency_ns=30_000_000
    )


def test_an_order_waits_until_the_last_rule_has_answered():
    harness = gate_with(*RULES)

    assert harness.send(order(), verdict("rule-c", 10), verdict("rule-a", 10)) == []
    assert open_ids(harness) == []
    assert harness.send(verdict("rule-b", 10)) == harness.of(OrderSubmitted)


def test_one_rule_cannot_answer_for_another_by_answering_twice():
    harness = gate_with("rule-a", "rule-b")

    answered = harness.send(order(), verdict("rule-a", 5), verdict("rule-a", 10), verdict("stranger", 10))

    assert answered == []


def test_without_rules_every_order_passes_at_once():
    (submitted,) = gate_with().send(order(quantity=7))

    assert (type(submitted), submitted.quantity) == (OrderSubmitted, 7)


QUANTITIES = st.lists(st.integers(0, 12), min_size=1, max_size=4)


@given(QUANTITIES, st.integers(1, 10))
def test_the_smallest_quantity_that_any_rule_allows_is_what_passes(quantities, asked):
    rules = [f"rule-{index}" for index in range(len(quantities))]
    harness = gate_with(*rules)

    harness.send(order(quantity=asked), *map(verdict, rules, quantities))

    (answer,) = harness.outputs
    allowed = min(asked, *quantities)
    if allowed:
        assert (type(answer), answer.quantity) == (OrderSubmitted, allowed)
    else:
        assert type(answer) is OrderDenied


@given(QUANTITIES.flatmap(lambda quantities: st.permutations(list(enumerate(quantities)))))
def test_the_order_in_which_verdicts_arrive_cannot_matter(shuffled):
    def decide(quantities):
        harness = gate_with(*[f"rule-{index}" for index, _ in shuffled])
        harness.send(order(), *[verdict(f"rule-{index}", quantity) for index, quantity in quantities])
        return [(type(answer), getattr(answer, "quantity", 0)) for answer in harness.outputs]

    assert decide(shuffled) == decide(sorted(shuffled))


def test_a_zero_denies_at_once_and_says_which_rule_and_why():
    harness = gate_with(*RULES)

    answered = harness.send(order(), verdict("rule-b", 0, reason="position 26 % of 25 %"))

    assert answered == [
        OrderDenied(START, "o-1", "strategy", "main", "test", "BTC/USDT", "rule-b", "position 26 % of 25 %")
    ]
    assert harness.send(verdict("rule-a", 10), verdict("rule-c", 10)) == []


@pytest.mark.parametrize("quantity", [0, -1])
def test_an_order_for_nothing_is_denied_before_any_rule_is_waited_for(quantity):
    (denied,) = gate_with("rule-a").send(order(quantity=quantity))

    assert (denied.rule, denied.reason) == (GATE, f"quantity must be positive, was {quantity} lots")


# --- Silence and failure ----------------------------------------------------------------------------


def test_silence_past_the_deadline_is_a_denial_by_the_rule_that_was_silent():
    harness = gate_with(*RULES)
    harness.send(order(), verdict("rule-a", 10), verdict("rule-c", 10))

    (denied,) = harness.send(TimeTick(START + DEADLINE_NS + 1))

    assert (type(denied), denied.rule) == (OrderDenied, "rule-b")
    assert denied.reason == "no verdict before the deadline"
    assert denied.ts_recv == START + DEADLINE_NS


@pytest.mark.parametrize(
    ("late_ns", "expected"), [(-1, OrderSubmitted), (0, OrderSubmitted), (1, OrderDenied)]
)
def test_a_verdict_counts_up_to_the_deadline_and_not_after_it(late_ns, expected):
    harness = gate_with("rule-a")

    harness.send(order(), verdict("rule-a", 10, ts_recv=START + DEADLINE_NS + late_ns))

    assert [type(answer) for answer in harness.outputs] == [expected]


def test_the_deadline_of_an_order_that_was_decided_says_nothing_more():
    harness = gate_with("rule-a")
    harness.send(order(), verdict("rule-a", 10))

    assert harness.send(TimeTick(START + 2 * DEADLINE_NS)) == []


def test_a_failed_rule_denies_what_waits_and_whatever_comes():
    harness = gate_with("rule-a", "rule-b")
    harness.send(order("waiting"))

    harness.send(failure("rule-b", "risk_rule"), order("later"), verdict("rule-a", 10, "later"))

    assert [(answer.order_id, answer.rule) for answer in harness.outputs] == [
        ("waiting", "rule-b"),
        ("later", "rule-b"),
    ]
    assert {type(answer) for answer in harness.outputs} == {OrderDenied}
    assert state_of(harness) is TradingState.ACTIVE


def test_a_failed_rule_whose_host_was_started_again_is_waited_for_again():
    harness = gate_with("rule-a")
    harness.send(failure("rule-a", "risk_rule"))

    answered = harness.send(HostStarted(START, "rules", 1, 2, ["rule-a"]), order(), verdict("rule-a", 10))

    assert [type(answer) for answer in answered] == [OrderSubmitted]


def test_a_rule_that_is_not_waited_for_may_fail():
    harness = gate_with("rule-a")

    answered = harness.send(failure("disabled", "risk_rule"), order(), verdict("rule-a", 10))

    assert [type(answer) for answer in answered] == [OrderSubmitted]


def test_a_rule_that_failed_may_be_taken_out_and_trading_goes_on():
    before, after = gate_with("rule-a", "rule-b"), gate_with("rule-a")
    before.send(failure("rule-b", "risk_rule"))

    after.bus.restore(before.bus.snapshot())

    assert [type(answer) for answer in after.send(order(), verdict("rule-a", 10))] == [OrderSubmitted]


@pytest.mark.parametrize("kind", ["simulator", "store"])
def test_the_failure_of_a_plugin_that_is_vital_halts_trading(kind):
    harness = Harness(gate_spec([], vital=["another", "it"]))

    (halted,) = harness.send(failure("it", kind))

    assert halted == TradingHalted(START, "it", f"the {kind} failed: RuntimeError: out of luck")
    assert state_of(harness) is TradingState.HALTED


@pytest.mark.parametrize("kind", ["strategy", "feature_set", "store", "page"])
def test_the_failure_of_a_plugin_that_is_not_vital_does_not_stop_trading(kind):
    harness = Harness(gate_spec([], vital=["another"]))

    assert harness.send(failure("it", kind)) == []
    assert state_of(harness) is TradingState.ACTIVE


# --- Ids --------------------------------------------------------------------------------------------


def test_an_id_that_is_already_open_is_denied():
    harness = gate_with()
    harness.send(order(quantity=1))

    (denied,) = harness.send(order(quantity=2))

    assert (type(denied), denied.rule) == (OrderDenied, GATE)
    assert harness.bus.component(GATE).open_orders["o-1"].quantity == 1


@pytest.mark.parametrize("again", [1, 2])
def test_a_second_order_with_the_id_of_one_that_waits_is_denied_and_the_first_goes_on(again):
    harness = gate_with("rule-a")

    harness.send(order(quantity=1), order(quantity=again), verdict("rule-a", 10))

    assert [type(answer) for answer in harness.outputs] == [OrderDenied, OrderSubmitted]
    assert harness.outputs[1].quantity == 1


@pytest.mark.parametrize(
    "end",
    [
        filled("o-1", leaves=0),
        OrderRejected(START, 0, "o-1", "test", "BTC/USDT", "no"),
        OrderCanceled(START, 0, "o-1", "test", "BTC/USDT", 3, "asked"),
        OrderExpired(START, 0, "o-1", "test", "BTC/USDT", 3, "ioc"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_order_is_open_until_its_end(end):
    harness = gate_with()
    harness.send(order("o-1"), order("o-2"), filled("o-1", leaves=3))
    assert open_ids(harness) == ["o-1", "o-2"]

    harness.send(end)

    assert open_ids(harness) == ["o-2"]


# --- Halts ------------------------------------------------------------------------------------------


def test_a_halt_cancels_what_is_open_and_denies_what_waits_and_what_comes():
    harness = gate_with("rule-a")
    harness.send(order("open"), verdict("rule-a", 10, "open"), order("waiting"))

    answered = harness.send(HALT, order("later"), verdict("rule-a", 10, "waiting"))

    assert [type(answer) for answer in answered] == [TradingHalted, OrderDenied, CancelOrder, OrderDenied]
    halted, waiting, cancel, later = answered
    assert (halted.source, halted.reason) == ("person", "lunch")
    assert (waiting.order_id, waiting.reason) == ("waiting", "trading was halted by person: lunch")
    assert cancel == CancelOrder(START, "open", "test", "BTC/USDT", "halt")
    assert (later.order_id, later.reason) == ("later", "trading is halted by person: lunch")
    assert state_of(harness) is TradingState.HALTED


def test_a_halt_stays_until_a_person_resumes_it():
    harness = gate_with()
    harness.send(HALT)
    harness.send(TimeTick(START + 10**18), Market().book(START + 10**18, bids=[(1, 1)], asks=[(2, 1)]))
    assert state_of(harness) is TradingState.HALTED

    (resumed,) = harness.send(RESUME)

    assert resumed == TradingResumed(START + 10**18, "person", "back")
    assert state_of(harness) is TradingState.ACTIVE
    assert [type(answer) for answer in harness.send(order())] == [OrderSubmitted]


def test_a_second_halt_and_a_resume_without_one_say_nothing():
    harness = gate_with()

    assert harness.send(RESUME) == []
    assert len(harness.send(HALT, HaltTrading(START, "risk-drawdown", "25 %"))) == 1
    assert harness.of(TradingHalted)[0].source == "person"


def test_a_halt_from_nobody_is_still_a_halt():
    harness = gate_with()

    harness.send(HaltTrading(START, "", ""))

    assert state_of(harness) is TradingState.HALTED
    assert [type(answer) for answer in harness.send(order())] == [OrderDenied]


# --- Together ---------------------------------------------------------------------------------------


def test_with_rules_and_a_strategy_on_the_same_bus_each_order_is_judged_with_the_one_before_it_decided():
    class Rule:
        """Allows 10 lots in all, counting what has been submitted."""

        def __init__(self, ctx, options):
            self.ctx, self.left = ctx, 10

        def on_submit_order(self, asked):
            self.ctx.publish(verdict("rule", min(self.left, asked.quantity), asked.order_id))

        def on_order_submitted(self, submitted):
            self.left -= submitted.quantity

    class Eager:
        def __init__(self, ctx, options):
            self.ctx = ctx

        def on_time_tick(self, tick):
            for number in range(3):
                self.ctx.publish(order(f"o-{number}", 6))

    harness = Harness(
        StrategySpec(id="eager", factory=Eager, publishes=(SubmitOrder,)),
        RiskRuleSpec(id="rule", factory=Rule, publishes=(RiskVerdict,)),
        with_gate=True,
    )

    harness.send(TimeTick(START))

    assert [(type(answer), answer.order_id) for answer in harness.of(OrderSubmitted, OrderDenied)] == [
        (OrderSubmitted, "o-0"),
        (OrderSubmitted, "o-1"),
        (OrderDenied, "o-2"),
    ]
    assert [submitted.quantity for submitted in harness.of(OrderSubmitted)] == [6, 4]


IDS = st.sampled_from(["o-1", "o-2", "o-3"])
EVENT = st.one_of(
    st.builds(lambda i, q: lambda ts: order(i, q, ts), IDS, st.integers(0, 9)),
    st.builds(
        lambda r, q, i: lambda ts: verdict(r, q, i, ts_recv=ts),
        st.sampled_from(RULES[:2]),
        st.integers(0, 9),
        IDS,
    ),
    st.builds(lambda i, left: lambda ts: filled(i, left, ts), IDS, st.integers(0, 2)),
    st.builds(lambda i: lambda ts: OrderCanceled(ts, 0, i, "test", "BTC/USDT", 1, ""), IDS),
    st.sampled_from(
        [
            TimeTick,
            lambda ts: HaltTrading(ts, "risk-drawdown", "25 %"),
            lambda ts: ResumeTrading(ts, "person", "back"),
            lambda ts: failure("rule-a", "risk_rule", ts),
            lambda ts: failure("sim-fifo", "simulator", ts),
        ]
    ),
)


def timed(steps):
    times = itertools.accumulate((delay for delay, _ in steps), initial=START)
    return [make(ts) for ts, (_, make) in zip(times, steps, strict=False)]


TAPES = st.lists(st.tuples(st.integers(0, DEADLINE_NS), EVENT), max_size=40).map(timed)


def guarded():
    return Harness(gate_spec(RULES[:2], vital=["sim-fifo"]))


@given(TAPES, st.sets(st.integers(0, 40)))
def test_moving_its_state_to_a_new_gate_anywhere_changes_nothing(tape, cuts):
    assert run_with_restarts(guarded, tape, cuts) == run_with_restarts(guarded, tape, ())


@given(TAPES)
def test_nothing_is_submitted_while_halted_and_nothing_open_is_left_uncanceled(tape):
    harness, halted = guarded(), False
    for message in tape:
        was_open = open_ids(harness)
        for answer in harness.send(message):
            if isinstance(answer, TradingHalted):
                halted = True
                canceled = [each.order_id for each in harness.of(CancelOrder)[-len(was_open) :]]
                assert not was_open or sorted(canceled) == was_open
            halted = halted and not isinstance(answer, TradingResumed)
            assert not (halted and isinstance(answer, OrderSubmitted))
        assert (state_of(harness) is TradingState.HALTED) == halted


@given(TAPES)
def test_every_order_is_answered_exactly_once_by_its_deadline(tape):
    asked = [message for message in tape if isinstance(message, SubmitOrder)]
    assume(asked)
    harness = guarded()

    harness.send(*tape, TimeTick(tape[-1].ts_recv + DEADLINE_NS + 1))

    answered = harness.of(OrderSubmitted, OrderDenied)
    assert sorted(answer.order_id for answer in answered) == sorted(each.order_id for each in asked)
