"""The loss rule: an hour, a day, a week; a halt that a person lifts."""

import pytest

from tickerml.kernel import HaltLevel, HaltTrading, ResumeTrading, Side
from tickerml.risk import losses as plugin

from .trading import MIN, S, judge, money, order, rule

HOUR, DAY = 60 * MIN, 24 * 60 * MIN


@pytest.mark.parametrize(("equity", "halts"), [(9801, 0), (9800, 1)])
def test_two_percent_within_an_hour_halt_at_level_one(equity, halts):
    kept = rule(plugin)

    kept.send(money(1 * S), money(2 * S, equity))

    found = kept.of(HaltTrading)
    assert len(found) == halts
    if halts:
        assert found[0].reason == "lost 2.00% within the hour, the limit is 2.00%"
        assert found[0].level == HaltLevel.NO_NEW


def test_the_hour_rolls_and_the_day_does_not():
    kept = rule(plugin, weekly=1.0, hourly=0.03)
    slide = [money(1 * S + n * 20 * MIN, 10_000 - 60 * n) for n in range(9)]  # 1.8 % an hour

    kept.send(*slide[:8])
    assert kept.of(HaltTrading) == []  # 9,580 of 10,000: 4.2 % since midnight

    kept.send(money(1 * S + 160 * MIN, 9500))
    assert kept.of(HaltTrading)[0].reason == "lost 5.00% within the day, the limit is 5.00%"


def test_a_new_day_starts_from_its_first_equity():
    kept = rule(plugin, hourly=1.0)

    kept.send(money(DAY - S, 10_000), money(DAY, 9600), money(DAY + S, 9121))
    assert kept.of(HaltTrading) == []
    kept.send(money(DAY + 2 * S, 9120))
    assert len(kept.of(HaltTrading)) == 1


def test_a_week_begins_on_monday():
    kept = rule(plugin, hourly=1.0, daily=1.0, weekly=0.15)
    monday = 4 * DAY  # 1970-01-05

    kept.send(money(monday - S, 10_000), money(monday, 9000), money(monday + DAY, 7651))
    assert kept.of(HaltTrading) == []
    kept.send(money(monday + 2 * DAY, 7650))
    assert len(kept.of(HaltTrading)) == 1


def test_after_a_halt_nothing_new_until_a_person_resumes_and_then_all_starts_anew():
    kept = rule(plugin)
    kept.send(money(1 * S), money(2 * S, 9700), money(3 * S, 9600))
    assert len(kept.of(HaltTrading)) == 1
    assert judge(kept, order(7, ts=4 * S)).reason == "halted after a loss; a person must resume trading"
    assert judge(kept, order(7, side=Side.SELL, ts=4 * S)).quantity == 7

    kept.send(ResumeTrading(5 * S, "person", ""), money(6 * S, 9590))

    verdict = judge(kept, order(7, ts=7 * S))
    assert (verdict.quantity, len(kept.of(HaltTrading))) == (7, 1)
    assert verdict.inputs["day"] == pytest.approx(1 - 9590 / 9600)


def test_without_a_halt_it_denies_until_the_loss_is_past():
    kept = rule(plugin, halts=False)
    kept.send(money(1 * S), money(2 * S, 9700))
    assert judge(kept, order(7, ts=3 * S)).quantity == 0

    kept.send(*(money(2 * S + n * MIN, 9700) for n in range(1, 62)))

    assert (judge(kept, order(7, ts=3 * HOUR)).quantity, kept.of(HaltTrading)) == (7, [])


def test_a_verdict_carries_the_equity_that_it_went_by():
    kept = rule(plugin)
    kept.send(money(1 * S), money(2 * S, 9_950))

    assert judge(kept, order(7, ts=3 * S)).inputs["equity"] == 9_950.0


def test_an_account_without_a_price_is_denied():
    kept = rule(plugin)
    assert judge(kept, order(7)).reason == "the equity is not known"

    kept.send(money(1 * S), money(2 * S, 10, is_marked=False))

    assert judge(kept, order(7, ts=3 * S)).quantity == 0
    assert kept.of(HaltTrading) == []
