"""The drawdown rule: when it shrinks, when it halts, and who may lift that."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    ConfigError,
    HaltTrading,
    Message,
    OrderType,
    PortfolioSnapshot,
    Position,
    ResumeTrading,
    RiskVerdict,
    Side,
    SubmitOrder,
    TimeInForce,
    TradingHalted,
    to_units,
)
from tickerml.kernel.testing import Harness, instrument, run_with_restarts
from tickerml.risk import drawdown

S = NS_PER_S


def harness(**options: Any) -> Harness:
    return Harness(drawdown, options={"risk-drawdown": options})


def money(
    ts: int, equity: str | int, *, is_marked: bool = True, fraction: float = 0.0, account: str = "paper"
) -> PortfolioSnapshot:
    # The rule keeps its own peak, so the snapshot's is of no use to it.
    value = to_units(equity)
    return PortfolioSnapshot(
        ts, account, "USD", value, value, value, 0, 0, 0, fraction, fraction, is_marked, [], []
    )


def order(ts: int, quantity: int = 1000, side: Side = Side.BUY, order_id: str = "o") -> SubmitOrder:
    head = (ts, order_id, "s", "paper", "test", "BTC/USDT", side, OrderType.LIMIT, TimeInForce.GTC)
    return SubmitOrder(*head, 100, quantity)


def verdict(kept: Harness, ts: int, **fields: Any) -> RiskVerdict:
    (answer,) = kept.send(order(ts, **fields))
    return answer


def test_halts_at_exactly_the_limit_on_the_second_mark():
    kept = harness()

    kept.send(money(1 * S, 12_000), money(2 * S, 9_000))
    outputs = kept.send(money(3 * S, 9_000))

    assert outputs == [HaltTrading(3 * S, "risk-drawdown", "drawdown 25.00% >= 25.00% of the peak", level=3)]


def test_does_not_halt_a_unit_above_the_limit():
    kept = harness()

    kept.send(money(1 * S, 12_000), *(money(ts * S, "9000.000000000001") for ts in range(2, 9)))

    assert kept.outputs == []


@pytest.mark.parametrize("limit", [0.1, 0.15, 0.3, 0.7, 1.0])
def test_the_limit_is_the_decimal_a_person_wrote(limit):
    kept = harness(limit=limit, soft=0.0)
    equity = str(round(10_000 * (1 - limit)))  # 1 - 9000/10000 is below 0.1 in floats

    kept.send(money(1 * S, 10_000), money(2 * S, equity), money(3 * S, equity))

    assert len(kept.of(HaltTrading)) == 1


def test_a_single_bad_print_does_not_halt():
    kept = harness()

    kept.send(money(1 * S, 10_000), money(2 * S, 5_000), money(3 * S, 9_900))
    kept.send(money(4 * S, 5_000), money(5 * S, 9_900))

    assert kept.outputs == []


def test_two_marks_closer_than_confirm_ms_do_not_halt_and_a_third_does():
    kept = harness(confirm_ms=1000)
    kept.send(money(1 * S, 10_000), money(2 * S, 7_000))

    early = kept.send(money(2 * S + 999 * NS_PER_MS, 7_000))
    late = kept.send(money(3 * S, 7_000))

    assert (early, len(late)) == ([], 1)


def test_a_short_of_a_contract_is_made_as_small_as_a_purchase():
    kept = harness()
    kept.send(
        msgspec.structs.replace(instrument(), contract="linear"), money(1 * S, 10_000), money(2 * S, 8_000)
    )

    bought, sold = (verdict(kept, 2 * S + 1, side=side) for side in (Side.BUY, Side.SELL))

    assert 0 < sold.quantity == bought.quantity < 1000
    assert sold.reason == bought.reason


def test_an_unconfirmed_breach_buys_nothing_and_may_sell():
    kept = harness()
    kept.send(money(1 * S, 10_000), money(2 * S, 7_000))

    assert verdict(kept, 2 * S + 1).quantity == 0
    assert verdict(kept, 2 * S + 1, side=Side.SELL).quantity == 1000


def test_a_halt_is_published_once_and_denies_every_order_after_it():
    kept = harness()
    kept.send(money(1 * S, 10_000), *(money(ts * S, 7_000) for ts in range(2, 6)), money(6 * S, 10_000))

    answer = verdict(kept, 7 * S, side=Side.SELL)

    assert len(kept.of(HaltTrading)) == 1
    assert answer.quantity == 0
    assert answer.reason == "halted at a drawdown of 25.00%; a person must resume trading"


def test_after_a_resume_the_peak_starts_from_the_equity_of_that_time():
    kept = harness()
    kept.send(money(1 * S, 12_000), money(2 * S, 9_000), money(3 * S, 9_000))

    kept.send(ResumeTrading(4 * S, "person", "go on"), money(5 * S, 9_000))
    resumed = verdict(kept, 5 * S)
    kept.send(money(6 * S, 6_750), money(7 * S, 6_750))

    assert (resumed.quantity, resumed.inputs["peak"]) == (1000, 9000.0)
    assert [halt.ts_recv for halt in kept.of(HaltTrading)] == [3 * S, 7 * S]


def test_after_a_resume_a_halt_takes_two_marks_again():
    kept = harness()
    kept.send(money(1 * S, 12_000), money(2 * S, 9_000), money(3 * S, 9_000))

    kept.send(ResumeTrading(4 * S, "person", "go on"), money(5 * S, 5_000))

    assert len(kept.of(HaltTrading)) == 1


def test_resuming_after_somebody_elses_halt_keeps_the_peak():
    kept = harness()
    kept.send(money(1 * S, 12_000), money(2 * S, 11_000))

    kept.send(ResumeTrading(3 * S, "person", "go on"))

    assert verdict(kept, 4 * S).inputs["peak"] == 12_000.0


def test_shrinks_buys_in_a_straight_line_from_the_soft_drawdown_on():
    kept = harness()
    kept.send(money(1 * S, 10_000))

    quantities = []
    for ts, equity in enumerate([9_500, 9_050, 9_000, 8_500, 8_000, 7_650, 7_649], start=2):
        kept.send(money(ts * S, equity))
        quantities.append(verdict(kept, ts * S).quantity)

    assert quantities == [1000, 1000, 1000, 666, 333, 100, 0]


def test_a_shrunk_order_of_one_lot_is_denied_with_its_reason():
    kept = harness()
    kept.send(money(1 * S, 10_000), money(2 * S, 8_500))

    answer = verdict(kept, 2 * S, quantity=1)

    assert answer.quantity == 0
    assert answer.reason == "drawdown 15.00% leaves 67% of an order, which is less than the smallest step"


def test_sells_are_not_shrunk():
    kept = harness()
    kept.send(money(1 * S, 10_000), money(2 * S, 8_000))

    assert verdict(kept, 2 * S, side=Side.SELL).quantity == 1000


def test_buys_nothing_before_any_equity_is_known():
    kept = harness()

    assert verdict(kept, 1).reason == "the equity is not known"
    assert verdict(kept, 1).quantity == 0


@pytest.mark.parametrize(
    "bad", [{"is_marked": False}, {"fraction": float("nan")}], ids=["not marked", "not a number"]
)
def test_what_is_not_marked_neither_halts_nor_lets_buy(bad):
    kept = harness()
    kept.send(money(1 * S, 10_000))

    kept.send(money(2 * S, 1, **bad), money(9 * S, 1, **bad))

    assert kept.outputs == []
    assert verdict(kept, 9 * S).quantity == 0
    assert verdict(kept, 9 * S).inputs["equity"] == 10_000.0


def test_an_empty_account_has_lost_nothing_and_a_debt_everything():
    kept = harness()

    empty = kept.send(money(1 * S, 0), money(3 * S, 0))
    debt = kept.send(money(4 * S, -1), money(5 * S, -1))

    assert (empty, [type(message) for message in debt]) == ([], [HaltTrading])


def test_accounts_have_peaks_of_their_own():
    kept = harness()

    kept.send(money(1 * S, 10_000), *(money(ts * S, 100, account="other") for ts in range(2, 6)))

    assert kept.outputs == []


def test_logs_the_halt_once_with_its_numbers():
    kept = harness()

    with capture_logs() as logs:
        kept.send(money(1 * S, 10_000), *(money(ts * S, 7_000) for ts in range(2, 6)))

    assert [(log["event"], log["drawdown"], log["limit"]) for log in logs] == [("risk.halted", 0.3, 0.25)]


def test_the_gate_takes_the_halt():
    kept = Harness(drawdown, with_gate=True)

    kept.send(money(1 * S, 10_000), money(2 * S, 7_000), money(3 * S, 7_000))

    assert [message.source for message in kept.of(TradingHalted)] == ["risk-drawdown"]


def test_refuses_a_soft_drawdown_that_is_not_below_the_limit():
    with pytest.raises(ConfigError, match=r"soft must be less than limit 0.2, was 0.2"):
        harness(limit=0.2, soft=0.2)


@pytest.mark.parametrize("options", [{"limit": 0.0}, {"limit": 1.5}, {"soft": -0.1}, {"confirm_ms": -1}])
def test_refuses_options_out_of_their_bounds(options):
    with pytest.raises(msgspec.ValidationError):
        harness(**options)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("money"), st.integers(5_000, 15_000), st.booleans()),
        st.tuples(st.just("fall"), st.integers(3_000, 8_000), st.just(True)),
        st.tuples(st.just("order"), st.integers(1, 10**9), st.booleans()),
        st.tuples(st.just("resume"), st.just(0), st.just(True)),
    ),
    max_size=30,
)


def tape(steps: list[tuple[str, int, bool]]) -> list[Message]:
    messages: list[Message] = []
    for n, (kind, number, flag) in enumerate(steps):
        ts = n * S * 3 // 5
        if kind == "resume":
            messages.append(ResumeTrading(ts, "person", "go on"))
        elif kind == "order":
            messages.append(order(ts, number, Side.BUY if flag else Side.SELL, f"o{n}"))
        else:
            messages.append(money(ts, number, is_marked=flag))
    return messages


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_answers_every_order_once_and_never_enlarges_it(steps):
    kept = harness()

    for message in tape(steps):
        answers = kept.send(message)
        if isinstance(message, SubmitOrder):
            (answer,) = answers
            assert (answer.order_id, answer.rule) == (message.order_id, "risk-drawdown")
            assert 0 <= answer.quantity <= message.quantity
            assert answer.quantity == message.quantity or answer.reason


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sets(st.integers(0, 30), max_size=4))
def test_continues_exactly_after_a_restart_at_any_message(steps, cuts):
    messages = tape(steps)

    restarted = run_with_restarts(harness, messages, cuts)

    assert restarted == run_with_restarts(harness, messages, [])


def test_every_option_has_a_description():
    fields = msgspec.json.schema(drawdown.DrawdownOptions)["$defs"]["DrawdownOptions"]["properties"]

    assert all(field.get("description") for field in fields.values())


# --- What happens after a halt ----------------------------------------------------------------------


def halted(**options: Any) -> Harness:
    kept = harness(**options)
    kept.send(money(1 * S, 10_000), money(2 * S, 7_000), money(3 * S, 7_000))
    kept.send(ResumeTrading(4 * S, "person", ""), money(5 * S, 7_000))
    return kept


def test_by_default_a_resume_restarts_the_peak_and_orders_are_whole_again():
    answer = verdict(halted(), 6 * S)

    assert (answer.quantity, answer.inputs["peak"]) == (1000, 7_000.0)


@pytest.mark.parametrize(("hours", "allowed"), [(0, 250), (12, 625), (24, 1000), (99, 1000)])
def test_a_gradual_restart_grows_from_a_quarter_to_all(hours, allowed):
    kept = halted(restart="gradual", reentry_h=24)

    assert verdict(kept, 5 * S if not hours else (4 + hours * 3600) * S).quantity == allowed


def test_a_restart_that_is_never_goes_on_denying():
    answer = verdict(halted(restart="never"), 6 * S)

    assert (answer.quantity, answer.reason) == (0, "halted at a drawdown of 25.00%; restart is never")


def test_what_says_reduce_only_is_not_shrunk():
    kept = harness()
    kept.send(money(1 * S, 10_000), money(2 * S, 8_000))
    wish = msgspec.structs.replace(order(3 * S), reduce_only=True)

    assert kept.send(wish)[0].quantity == 1000


# --- What equity is ---------------------------------------------------------------------------------


def with_position(ts: int, equity: int, lots: int, mark: int) -> PortfolioSnapshot:
    held = Position("test", "BTC/USDT", lots, 0, mark, 0, 0, 0)
    return msgspec.structs.replace(money(ts, equity), positions=[held])


@pytest.mark.parametrize("lots", [5000, -5000])
def test_equity_is_what_would_be_left_after_the_taker_fees_of_closing_everything(lots):
    listed = msgspec.structs.replace(
        instrument(tick="1", lot="0.01", taker_fee_ppm=10_000, maker_fee_ppm=0), contract="linear"
    )
    kept = harness(limit=0.25, soft=0.2, confirm_ms=0)
    kept.send(listed, money(1 * S, 10_000))  # a peak of 10,000, and nothing to close

    # 50 BTC at 100 USDT are 5,000 for a fee of 1 %: 7,551 are worth 7,501, and a dollar less halts.
    kept.send(with_position(2 * S, 7_551, lots, 100))
    assert kept.of(HaltTrading) == []
    assert verdict(kept, 2 * S).inputs["equity"] == 7_501.0
    kept.send(with_position(3 * S, 7_550, lots, 100))
    assert len(kept.of(HaltTrading)) == 1


def test_where_nothing_says_what_a_fee_is_worth_nothing_is_bought():
    kept = harness(pegs={})
    kept.send(instrument(), money(1 * S, 10_000), with_position(2 * S, 10_000, 5, 100))

    assert verdict(kept, 3 * S).reason == "the equity is not known"
    with pytest.raises(ConfigError, match=r"pegs\.USDT"):
        harness(pegs={"USDT": "much"})
