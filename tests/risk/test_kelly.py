"""Kelly: the formulas with numbers worked by hand, and what they leave of an order."""

import pytest

from tickerml.kernel import Side
from tickerml.risk import kelly as plugin

from .trading import filled, judge, money, order, rule, submitted

SELL = Side.SELL


def test_a_quarter_of_kelly_keeps_44_percent_of_growth_and_meets_the_stop_in_13_percent_of_runs():
    assert plugin.growth_share(0.25) == 0.4375
    assert [round(plugin.stop_probability(c), 3) for c in (0.25, 0.5, 0.75, 1.0)] == [
        0.133,
        0.422,
        0.619,
        0.75,
    ]


@pytest.mark.parametrize(("c", "share"), [(0.0, 0.75), (2.0, 0.75), (0.5, 0.0), (0.5, 1.1)])
def test_refuses_what_has_no_probability(c, share):
    with pytest.raises(ValueError, match="must be in"):
        plugin.stop_probability(c, share)


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        # mean 0.1, variance 1.04, se sqrt(1.04 / 2) = 0.7211: below nothing
        ([0.8211, -0.6211], 0.0),
        # mean 0.5, variance 1/3 * 4 * 0.25 = 1/3, se 0.288675: 0.211325 / 0.333333
        ([0.0, 1.0, 0.0, 1.0], 0.633975),
        ([0.02, 0.02], 1.0),  # nothing varies, and it wins
        ([-0.02, -0.02], 0.0),
    ],
)
def test_the_continuous_form(returns, expected):
    assert plugin.continuous(returns) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([2.0, 2.0, -1.0, -1.0], 0.25),  # 0.5 / 1 - 0.5 / 2
        ([1.0, -1.0], 0.0),
        ([0.0, 2.0, -0.9], 0.203704),  # a third wins: 1 / 3 / 0.9 - 1 / 3 / 2
        ([0.5, -0.5, 0.5, 0.5], 1.0),  # 0.75 / 0.5 - 0.25 / 0.5 = 1
        ([0.1], 1.0),
        ([-0.1], 0.0),
    ],
)
def test_the_discrete_form(returns, expected):
    assert plugin.discrete(returns) == pytest.approx(expected, abs=1e-6)


def traded(prices, **options):
    """An account of 10,000 and one round trip for each price that what was bought at 100 was sold at."""
    kept = rule(plugin, warmup_trades=4, **options)
    kept.send(money(1))
    for price in prices:
        kept.send(filled(10, 100), filled(10, price, SELL))
    kept.send(money(4))
    return kept


def test_without_a_record_the_stake_is_small():
    verdict = judge(traded([]), order(1000))

    assert (verdict.quantity, verdict.inputs["stake"]) == (200, 0.02)
    assert verdict.reason == "a record of 0 trades justifies 2.00% of equity: 2 of 10 BTC"


def test_a_good_record_earns_a_quarter_of_it():
    # Returns 0, 1, 0, 1: a quarter of 0.633975 is 0.15849375 of 10,000.
    assert judge(traded([100, 200, 100, 200]), order(9000)).quantity == 1584


def test_the_stake_has_a_largest_and_the_edge_a_least():
    assert judge(traded([100, 200] * 2, max_fraction=0.1), order(9000)).quantity == 1000
    assert judge(traded([100, 200] * 2, min_edge=0.5), order(9000)).quantity == 1584
    assert judge(traded([100, 200] * 2, min_edge=0.51), order(9000)).quantity == 0


def test_a_bad_record_earns_nothing_and_may_still_sell():
    kept = traded([99, 98, 99, 98])

    assert judge(kept, order(1000)).quantity == 0
    assert judge(kept, order(1000, side=SELL)).quantity == 1000


def test_what_the_strategy_has_already_counts():
    kept = traded([])
    kept.send(filled(150, 100, order_id="x"), submitted(order(30, order_id="y")))

    assert judge(kept, order(1000)).quantity == 20
