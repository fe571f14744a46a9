"""The funding guard: what a day would cost on the side that pays."""

import pytest

from tickerml.kernel import UNIT, ConfigError, FundingUpdated, Side
from tickerml.risk import funding as plugin

from .trading import S, judge, order, rule

HOUR = 3600


def funding(rate, *, predicted=None, interval_h=8, next_ts=0):
    """*rate* is in 1e-6 of the notional for one interval."""
    head = (1, 1, "perp", "BTC/USDT:USDT", 100, 100, rate * UNIT // 10**6)
    return FundingUpdated(
        *head, (rate if predicted is None else predicted) * UNIT // 10**6, next_ts, interval_h * HOUR
    )


def perp(side=Side.BUY, **fields):
    return order(7, side=side, symbol="BTC/USDT:USDT", exchange="perp", **fields)


@pytest.mark.parametrize(
    ("rate", "interval_h", "allowed"),
    [
        (3333, 8, 7),
        (3334, 8, 0),
        (1666, 4, 7),
        (1667, 4, 0),
        (416, 1, 7),
        (417, 1, 0),
        (9_999, 24, 7),
        (10_000, 24, 0),
    ],
)
def test_one_percent_a_day_is_denied_whatever_the_interval(rate, interval_h, allowed):
    kept = rule(plugin)
    kept.send(funding(rate, interval_h=interval_h))

    assert judge(kept, perp()).quantity == allowed


def test_a_rate_without_its_interval_says_nothing():
    kept = rule(plugin)
    kept.send(funding(1, interval_h=0))

    assert judge(kept, perp()).reason == "nothing is known of the funding of BTC/USDT:USDT on perp"


def test_only_the_side_that_pays_is_denied():
    kept = rule(plugin)
    kept.send(funding(5000))
    assert (judge(kept, perp(Side.BUY)).quantity, judge(kept, perp(Side.SELL)).quantity) == (0, 7)

    kept.send(funding(-5000))
    assert (judge(kept, perp(Side.BUY)).quantity, judge(kept, perp(Side.SELL)).quantity) == (7, 0)


def test_what_is_dear_is_said_and_allowed():
    kept = rule(plugin)
    kept.send(funding(1100))

    verdict = judge(kept, perp())

    assert (verdict.quantity, verdict.reason) == (7, "funding costs 0.33% a day")
    assert verdict.inputs["cost_per_day"] == pytest.approx(0.0033)

    kept.send(funding(1000))
    assert judge(kept, perp()).reason == ""  # 0.30 % is not more than that


def test_the_worse_of_the_last_rate_and_the_predicted_counts():
    kept = rule(plugin)
    kept.send(funding(0, predicted=4000))

    assert judge(kept, perp()).quantity == 0


def test_nothing_is_opened_just_before_a_payment():
    kept = rule(plugin)
    kept.send(funding(10, next_ts=1000 * S))

    assert judge(kept, perp(ts=400 * S)).quantity == 7
    assert judge(kept, perp(ts=401 * S)).reason == "funding is due in 599 s, within 600 s"
    assert judge(kept, perp(ts=401 * S, reduce_only=True)).quantity == 7
    assert judge(kept, perp(ts=1000 * S)).reason == "funding is due in 0 s, within 600 s"
    assert judge(kept, perp(ts=1001 * S)).quantity == 7


def test_a_contract_without_a_rate_is_denied_and_spot_needs_none():
    kept = rule(plugin)

    assert judge(kept, perp()).reason.startswith("nothing is known of the funding")
    assert judge(kept, order(7)).quantity == 7


def test_the_warning_must_be_below_the_limit():
    for warn in (0.01, 0.02):
        with pytest.raises(ConfigError, match=rf"warn must be less than limit 0.01, was {warn}"):
            rule(plugin, warn=warn)
