"""No order passes without a yes from every rule, and a halt holds until a person lifts it."""

import itertools

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    Balance,
    BookStale,
    BookState,
    CancelOrder,
    HaltLevel,
    HaltTrading,
    HostStarted,
    HostStopped,
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
    PortfolioSnapshot,
    Position,
    PositionLiquidated,
    RequestTransfer,
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
    TransferEnded,
    TransferSubmitted,
)
from tickerml.kernel.gate import DEADLINE_NS, GATE, gate_spec
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts

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


# --- Levels -----------------------------------------------------------------------------------------

RULE_NAME = RULES[0]


def exit_of(rule, order_id="exit", quantity=10, side=Side.SELL, reduce_only=True):
    plain = order(order_id, quantity)
    return msgspec.structs.replace(plain, strategy=rule, reduce_only=reduce_only, side=side)


def holding(*positions, account="main"):
    head = (START, account, "USDT", 0, 0, 0, 0, 0, 0, 0.0, 0.0, True, [])
    return PortfolioSnapshot(
        *head, [Position("test", symbol, lots, 0, 1, 0, 0, 0) for symbol, lots in positions]
    )


def market(bid=1000, ask=1010, symbol="BTC/USDT"):
    return Market(symbol=symbol).book(START, bids=[(bid, 99)], asks=[(ask, 99)])


def trading(*rules, **instrument_fields):
    harness = gate_with(*rules)
    harness.send(instrument(tick="1", lot="0.01", **instrument_fields), market())
    return harness


def test_level_one_takes_no_new_orders_and_leaves_the_open_ones():
    harness = gate_with()
    harness.send(order("open"))

    answered = harness.send(HaltTrading(START, "risk-losses", "5 %", HaltLevel.NO_NEW), order("later"))

    assert [type(answer) for answer in answered] == [TradingHalted, OrderDenied]
    assert (answered[0].level, harness.bus.component(GATE).level) == (1, HaltLevel.NO_NEW)
    assert open_ids(harness) == ["open"]


def test_a_higher_level_goes_over_a_lower_one_and_a_lower_one_says_nothing():
    harness = gate_with()
    harness.send(order("open"), HaltTrading(START, "a", "", 1))

    raised = harness.send(HaltTrading(START, "b", "worse", 2))
    lower = harness.send(HaltTrading(START, "c", "", 1), HaltTrading(START, "c", "", 2))

    assert [type(answer) for answer in raised] == [TradingHalted, CancelOrder]
    assert (raised[0].source, raised[0].level, lower) == ("b", 2, [])
    assert harness.send(RESUME)[0].source == "person"
    assert harness.bus.component(GATE).level is HaltLevel.RUN


@pytest.mark.parametrize(("asked", "level"), [(-1, 1), (0, 1), (4, 3), (99, 3)])
def test_a_level_that_there_is_not_counts_as_the_nearest_halt(asked, level):
    (halted, *_) = gate_with().send(HaltTrading(START, "x", "", asked))

    assert halted.level == level


def test_at_level_one_only_an_exit_of_a_rule_passes_and_at_two_nothing():
    harness = trading(RULE_NAME)
    harness.send(holding(("BTC/USDT", 20)), HaltTrading(START, "x", "", 1))

    harness.send(msgspec.structs.replace(order("mine"), reduce_only=True))
    harness.send(exit_of(RULE_NAME), verdict(RULE_NAME, 10, "exit"))
    harness.send(HaltTrading(START, "x", "", 2), exit_of(RULE_NAME, "late"))

    assert [each.order_id for each in harness.of(OrderDenied)] == ["mine", "late"]
    assert [each.order_id for each in harness.of(OrderSubmitted)] == ["exit"]


def test_a_rule_may_only_order_what_reduces():
    (denied,) = trading(RULE_NAME).send(exit_of(RULE_NAME, reduce_only=False))

    assert (denied.rule, denied.reason) == (GATE, "a risk rule may only order what is reduce_only")


def test_flattening_sells_all_there_is_at_most_a_hundredth_behind_the_best_price():
    harness = trading()
    harness.send(holding(("BTC/USDT", 20)))

    halted, sold = harness.send(HaltTrading(START, "drawdown", "25 %", 3))

    assert halted.level == 3
    assert (sold.strategy, sold.side, sold.quantity, sold.price) == (GATE, Side.SELL, 20, 990)
    assert sold.time_in_force is TimeInForce.IOC


def test_flattening_waits_for_the_end_of_what_is_open_and_tries_again_until_all_is_sold():
    harness = trading()
    harness.send(holding(("BTC/USDT", 20)), order("offer", 5), HaltTrading(START, "x", "", 3))
    assert [each.order_id for each in harness.of(CancelOrder)] == ["offer"]

    ended = OrderCanceled(START, 0, "offer", "test", "BTC/USDT", 5, "halt")
    (first,) = harness.send(ended, TimeTick(START + NS_PER_S + 1))
    assert (first.order_id, first.quantity) == ("gate-0", 20)
    fill = msgspec.structs.replace(filled("gate-0", 13, START + NS_PER_S + 2), quantity=7)
    expired = OrderExpired(START + NS_PER_S + 2, 0, "gate-0", "test", "BTC/USDT", 13, "ioc")
    (second,) = harness.send(fill, expired, TimeTick(START + 2 * NS_PER_S + 1))
    assert (second.order_id, second.quantity) == ("gate-1", 13)
    last = msgspec.structs.replace(filled("gate-1", 0, START + 2 * NS_PER_S + 2), quantity=13)
    assert harness.send(last, TimeTick(START + 9 * NS_PER_S)) == []


def test_an_open_order_keeps_everything_back_that_it_may_take_from():
    harness = trading()
    harness.send(instrument(symbol="BTC/USD", tick="1", lot="0.01"), market(symbol="BTC/USD"))
    harness.send(holding(("BTC/USDT", 20), ("BTC/USD", 7)), order("offer", 5))

    assert [type(each) for each in harness.send(HaltTrading(START, "x", "", 3))] == [
        TradingHalted,
        CancelOrder,
    ]
    sold = harness.send(
        OrderCanceled(START, 0, "offer", "test", "BTC/USDT", 5, "halt"), TimeTick(START + NS_PER_S + 1)
    )

    assert [(each.symbol, each.quantity) for each in sold] == [("BTC/USD", 7), ("BTC/USDT", 20)]


def test_a_short_contract_is_bought_back():
    harness = gate_with()
    perp = msgspec.structs.replace(instrument(tick="1", lot="0.01"), contract="linear")
    harness.send(perp, market(), holding(("BTC/USDT", -20)))

    _, bought = harness.send(HaltTrading(START, "x", "", 3))

    assert (bought.side, bought.quantity, bought.price) == (Side.BUY, 20, 1020)  # 1010 and 1 %, rounded down


def test_what_is_too_little_or_was_refused_is_left_where_it_is():
    little = trading(min_notional="100")
    little.send(holding(("BTC/USDT", 9)))  # 89.10 at the worst price
    assert [type(answer) for answer in little.send(HaltTrading(START, "x", "", 3))] == [TradingHalted]

    refused = trading()
    refused.send(holding(("BTC/USDT", 9)), HaltTrading(START, "x", "", 3))
    refused.send(OrderRejected(START, 0, "gate-0", "test", "BTC/USDT", "no"))
    assert refused.send(TimeTick(START + 9 * NS_PER_S)) == []


def test_a_resume_ends_the_flattening():
    harness = trading()
    harness.send(BookStale(START, "test", "BTC/USDT", 900), holding(("BTC/USDT", 20)))
    harness.send(HaltTrading(START, "x", "", 3), RESUME)

    assert harness.send(market(), TimeTick(START + 9 * NS_PER_S)) == []


def test_a_host_with_a_rule_that_stays_dead_halts_trading_after_five_seconds():
    harness = gate_with("rule-a")
    harness.send(HostStarted(START, "rules", 1, 2, ["rule-a"]), HostStopped(START, "rules", "killed", 500))
    harness.send(TimeTick(START + 5 * NS_PER_S))
    assert state_of(harness) is TradingState.ACTIVE

    (halted,) = harness.send(TimeTick(START + 5 * NS_PER_S + 1))
    assert (halted.source, halted.level) == ("heartbeat", 2)
    assert halted.reason == "host rules with risk rules has been dead for 5 s"


@pytest.mark.parametrize(
    ("host", "after"),
    [
        ("rules", HostStarted(START + NS_PER_S, "rules", 3, 3, ["rule-a"])),  # it is there again
        ("record", TimeTick(START + NS_PER_S)),  # it has no rule
    ],
)
def test_a_host_that_comes_back_or_has_no_rule_does_not(host, after):
    harness = gate_with("rule-a")
    harness.send(
        HostStarted(START, "rules", 1, 2, ["rule-a"]), HostStarted(START, "record", 2, 2, ["recorder"])
    )

    harness.send(HostStopped(START, host, "killed", 500), after, TimeTick(START + 9 * NS_PER_S))

    assert state_of(harness) is TradingState.ACTIVE


def test_where_time_is_the_datas_it_is_no_measure_of_how_long_a_host_was_dead():
    harness = gate_with("rule-a")
    harness.send(HostStarted(0, "rules", 1, 2, ["rule-a"]), TimeTick(START))

    harness.send(HostStopped(0, "rules", "killed", 500), TimeTick(START + 9 * NS_PER_S))

    assert state_of(harness) is TradingState.ACTIVE


def test_a_gate_that_knew_no_balances_hands_on_its_halt_and_its_orders():
    harness = gate_with()
    (submitted,) = harness.send(order())
    old = {"level": 3, "halted_by": "person", "halt_reason": "lunch", "open": {"o-1": submitted}}

    gate = harness.bus.component(GATE)
    gate.restore(gate.migrate(msgspec.msgpack.encode(old), 2))

    assert gate.level is HaltLevel.FLATTEN
    assert open_ids(harness) == ["o-1"]


# --- reduce_only ------------------------------------------------------------------------------------


def reducing(order_id, quantity, side=Side.SELL, symbol="BTC/USDT"):
    plain = order(order_id, quantity)
    return msgspec.structs.replace(plain, reduce_only=True, side=side, symbol=symbol)


def test_reduce_only_is_held_to_the_position_and_to_what_is_open_on_its_side():
    harness = trading()
    harness.send(holding(("BTC/USDT", 20)))

    harness.send(reducing("a", 15), reducing("b", 15), reducing("c", 1))

    assert [(each.order_id, each.quantity) for each in harness.of(OrderSubmitted)] == [("a", 15), ("b", 5)]
    (denied,) = harness.of(OrderDenied)
    assert denied.reason == "reduce_only: no position is left for it to SELL"


def test_what_an_open_order_has_filled_is_no_longer_kept_back_for_it():
    harness = trading()
    harness.send(holding(("BTC/USDT", 20)), reducing("a", 15))
    harness.send(msgspec.structs.replace(filled("a", 10), quantity=5))

    harness.send(reducing("b", 15))

    assert [(each.order_id, each.quantity) for each in harness.of(OrderSubmitted)] == [("a", 15), ("b", 5)]


def test_spot_of_one_base_asset_is_one_position_whatever_it_was_bought_with():
    harness = trading()
    harness.send(
        instrument(symbol="BTC/USD", tick="1", lot="0.001"), holding(("BTC/USD", 100), ("BTC/USDT", 5))
    )

    harness.send(reducing("a", 99), reducing("b", 99, symbol="BTC/USD"))

    # 100 lots of a thousandth and 5 of a hundredth are 15 of a hundredth, and then nothing is left.
    assert [each.quantity for each in harness.of(OrderSubmitted)] == [15]


def test_a_reduce_only_buy_of_spot_has_nothing_to_reduce():
    harness = trading()
    harness.send(holding(("BTC/USDT", 20)))

    assert [type(answer) for answer in harness.send(reducing("a", 1, Side.BUY))] == [OrderDenied]


STEPS = st.lists(
    st.tuples(st.sampled_from(["sell", "buy", "fill", "cancel", "snapshot"]), st.integers(1, 9)), max_size=40
)


@given(STEPS, st.integers(-20, 20))
def test_no_sequence_of_reduce_only_orders_and_fills_ever_flips_or_grows_a_position(steps, start):
    harness = gate_with()
    perp = msgspec.structs.replace(instrument(tick="1", lot="0.01"), contract="linear")
    harness.send(perp, market(), holding(("BTC/USDT", start)))
    held, live, number = start, {}, 0
    for kind, quantity in steps:
        if kind in ("sell", "buy"):
            number += 1
            side = Side.SELL if kind == "sell" else Side.BUY
            for each in harness.send(reducing(f"o-{number}", quantity, side)):
                if isinstance(each, OrderSubmitted):
                    live[each.order_id] = [side, each.quantity]
        elif kind == "snapshot":
            harness.send(holding(("BTC/USDT", held)))
        elif live:
            order_id = sorted(live)[quantity % len(live)]
            side, left = live[order_id]
            if kind == "cancel":
                harness.send(OrderCanceled(START, 0, order_id, "test", "BTC/USDT", left, ""))
                del live[order_id]
                continue
            traded = min(left, quantity)
            held += side * traded
            live[order_id][1] = left - traded
            event = msgspec.structs.replace(filled(order_id, left - traded), quantity=traded, side=side)
            harness.send(event)
            if left == traded:
                del live[order_id]
        assert abs(held) <= abs(start)
        assert held * start >= 0


# --- What is left of an order -----------------------------------------------------------------------


def small(rules, **exchange):
    """A gate whose exchange takes no fewer than 5 lots, or what *exchange* says, at a price of 101."""
    harness = gate_with(*rules)
    least = msgspec.structs.replace(instrument(tick="1", lot="0.01"), **(exchange or {"min_quantity": 5}))
    harness.send(least, market())
    return harness


def test_what_a_rule_leaves_too_little_of_is_denied_by_that_rule_and_says_what_the_exchange_takes():
    harness = small(("rule-a", "rule-b"))

    (denied,) = harness.send(order(), verdict("rule-a", 4), verdict("rule-b", 8))

    assert (denied.rule, denied.reason) == (
        "rule-a",
        "0.04 of 0.1 BTC is left, and test takes no less than 0.05",
    )
    assert open_ids(harness) == []


def test_too_little_money_is_too_little_as_well():
    harness = small(("rule-a",), min_notional=5 * UNIT)

    (denied,) = harness.send(order(), verdict("rule-a", 4))

    assert denied.reason == "0.04 of 0.1 BTC is left, and test takes no less than 5 USDT, was 4.04 USDT"
    (passed,) = harness.send(order("o-2"), verdict("rule-a", 5, "o-2"))
    assert passed.quantity == 5


def test_a_market_order_is_worth_what_the_other_side_asks():
    harness = small(("rule-a",), min_notional=40 * UNIT)
    wish = msgspec.structs.replace(order(), order_type=OrderType.MARKET, price=0)  # sold at a bid of 1000

    (denied,) = harness.send(wish, verdict("rule-a", 3))
    assert denied.reason.endswith("was 30 USDT")
    (passed,) = harness.send(wish, verdict("rule-a", 4))
    assert passed.quantity == 4


def test_what_a_strategy_wished_for_itself_the_exchange_may_refuse():
    (passed,) = small(("rule-a",)).send(order(quantity=3), verdict("rule-a", 3))

    assert passed.quantity == 3


def test_what_reduce_only_leaves_too_little_of_is_denied_by_the_gate():
    harness = small(("rule-a",))
    harness.send(holding(("BTC/USDT", 4)))

    (denied,) = harness.send(msgspec.structs.replace(order(), reduce_only=True), verdict("rule-a", 10))

    assert (denied.rule, denied.reason) == (GATE, "0.04 of 0.1 BTC is left, and test takes no less than 0.05")


def test_the_end_of_a_position_that_is_too_little_is_the_exchanges_to_refuse():
    harness = small(("rule-a",))
    harness.send(holding(("BTC/USDT", 4)))

    (passed,) = harness.send(
        msgspec.structs.replace(order(quantity=4), reduce_only=True), verdict("rule-a", 4)
    )

    assert passed.quantity == 4


@given(st.permutations([("rule-a", 4), ("rule-b", 4), ("rule-c", 7)]))
def test_who_is_named_for_too_little_does_not_depend_on_who_answers_first(verdicts):
    harness = small(RULES)

    (denied,) = harness.send(order(), *[verdict(rule, quantity) for rule, quantity in verdicts])

    assert denied.rule == "rule-a"


# --- Transfers --------------------------------------------------------------------------------------


def transfer(amount=3, account="main", source="test", destination="away"):
    return RequestTransfer(
        START, "t-1", account, "USDT", source, destination, amount * UNIT, "too little there"
    )


def funded():
    """A gate that knows of 3 USDT free, and 9 held, on one exchange."""
    harness = gate_with()
    snapshot = msgspec.structs.replace(holding(), balances=[Balance("test", "USDT", 3 * UNIT, 9 * UNIT)])
    harness.send(snapshot)
    return harness


def test_a_transfer_within_what_is_free_is_handed_on_as_it_was_asked_for():
    (passed,) = funded().send(transfer())

    assert passed == TransferSubmitted(
        START, "t-1", "main", "USDT", "test", "away", 3 * UNIT, "too little there"
    )


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (transfer(4), "at most what is free, 3 USDT on test, was 4 USDT"),
        (transfer(0), "must be more than 0"),
        (transfer(-1), "must be more than 0"),
        (transfer(source="away", destination="test"), "what is free, 0 USDT on away"),
        (transfer(account="other"), "nothing is known of account other"),
        (transfer(destination="test"), "must go to another exchange, was from test to test"),
    ],
)
def test_a_transfer_that_may_not_be_ends_at_once_with_the_reason(wish, reason):
    (ended,) = funded().send(wish)

    assert isinstance(ended, TransferEnded)
    assert (ended.transfer_id, ended.received) == ("t-1", 0)
    assert reason in ended.reason


@pytest.mark.parametrize("level", [1, 2, 3])
def test_nothing_is_transferred_while_trading_is_halted(level):
    harness = funded()
    harness.send(HaltTrading(START, "person", "lunch", level))

    (ended,) = harness.send(transfer())
    assert (ended.received, ended.reason) == (0, "trading is halted by person: lunch")

    harness.send(RESUME)
    assert [type(each) for each in harness.send(transfer())] == [TransferSubmitted]


# --- Liquidation ------------------------------------------------------------------------------------


def test_orders_in_a_contract_that_its_exchange_has_closed_are_canceled_and_no_others():
    harness = trading()
    harness.send(order("here"), msgspec.structs.replace(order("there"), symbol="ETH/USDT"))
    gone = PositionLiquidated(START, "main", "test", "BTC/USDT", 9, 99, "USDT", 0, 0, 0, 0)

    assert harness.send(msgspec.structs.replace(gone, account="other")) == []
    (canceled,) = harness.send(gone)
    assert (canceled.order_id, canceled.reason) == ("here", "liquidation")


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
            lambda ts: HaltTrading(ts, "risk-drawdown", "25 %", 3),
            lambda ts: HaltTrading(ts, "risk-x", "", 2),
            lambda ts: HaltTrading(ts, "risk-y", "", 1),
            lambda ts: HostStarted(ts, "rules", 1, 1, ["rule-a"]),
            lambda ts: HostStopped(ts, "rules", "killed", 500),
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
        was_open, level = open_ids(harness), harness.bus.component(GATE).level
        for answer in harness.send(message):
            if isinstance(answer, TradingHalted):
                halted = True
            if isinstance(answer, TradingHalted) and level < HaltLevel.CANCEL <= answer.level:
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
