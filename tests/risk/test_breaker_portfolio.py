"""The portfolio breaker: pauses at the steps of a drawdown, a halt for the loss of an hour."""

from tickerml.kernel import HaltLevel, HaltTrading, ResumeTrading, Side
from tickerml.risk import breaker_portfolio as plugin

from .trading import MIN, S, judge, money, order, rule

HOUR = 60 * MIN


def test_each_step_pauses_for_an_hour_and_again_only_after_it_was_left():
    kept = rule(plugin)
    kept.send(money(1 * S), *(money(n * MIN, 9_000) for n in range(1, 70)), money(70 * MIN, 8_500))
    assert judge(kept, order(7, ts=70 * MIN)).reason == "paused after a drawdown for 3600 s"
    assert judge(kept, order(7, side=Side.SELL, ts=70 * MIN)).quantity == 7

    kept.send(money(100 * MIN, 8_400))  # no new step
    assert judge(kept, order(7, ts=130 * MIN)).quantity == 7

    kept.send(money(131 * MIN, 8_000))  # the next
    assert judge(kept, order(7, ts=132 * MIN)).quantity == 0
    assert kept.of(HaltTrading) == []


def test_a_fifth_within_an_hour_halts_at_level_two_until_a_person_resumes():
    kept = rule(plugin)
    kept.send(money(1 * S), money(2 * S, 8_001))
    assert kept.of(HaltTrading) == []

    kept.send(money(3 * S, 8_000), money(4 * S, 7_000))
    (halt,) = kept.of(HaltTrading)
    assert halt.level == HaltLevel.CANCEL
    assert halt.reason == "lost 20.00% within an hour, the limit is 20.00%"
    assert "a person must resume" in judge(kept, order(7, ts=5 * S)).reason

    kept.send(ResumeTrading(6 * S, "person", ""), money(7 * S, 6_990))
    verdict = judge(kept, order(7, ts=8 * S))
    assert (verdict.quantity, len(kept.of(HaltTrading))) == (7, 1)


def test_an_account_whose_equity_is_not_known_opens_nothing():
    assert judge(rule(plugin), order(7)).reason == "the equity is not known"
