"""The correlation rule: what moves together is one position."""

import random

import pytest

from tickerml.kernel import Side
from tickerml.risk import correlation as plugin

from .trading import MIN, judge, money, order, position, rule, submitted, touch, until

MID = 1_000_000


def walk(minutes, load, seed=1):
    """BTC and ETH whose returns share *load* of their variance, in thousandths of the mid at the utmost."""
    rng, btc, eth = random.Random(seed), MID, MID
    for minute in range(1, minutes + 1):
        common, own, other = (rng.choice((-1, 1)) * rng.random() for _ in range(3))
        btc += round(1000 * (common * load**0.5 + own * (1 - load) ** 0.5))
        eth += round(1000 * (common * load**0.5 + other * (1 - load) ** 0.5))
        yield touch(btc - 1, btc + 1, ts=minute * MIN - 2)
        yield touch(eth - 1, eth + 1, symbol="ETH/USDT", ts=minute * MIN - 1)


def known(load, minutes=300, **options):
    kept = rule(plugin, **options)
    kept.send(*walk(minutes, load), *until((minutes + 5) * MIN, MIN, (minutes + 5) * MIN))
    kept.send(touch(ts=400 * MIN), touch(symbol="ETH/USDT", ts=400 * MIN))
    kept.send(money(400 * MIN, 10_000, position(3500, 3500)))
    return kept


def eth(**fields):
    return order(1000, symbol="ETH/USDT", ts=400 * MIN, **fields)


def test_assets_that_move_together_share_one_limit():
    verdict = judge(known(0.95), eth())

    assert (verdict.quantity, verdict.reason) == (500, "what moves with ETH leaves 5 of 10 ETH")
    assert (verdict.inputs["cluster"], verdict.inputs["assets"]) == (3500.0, 2.0)


def test_assets_that_do_not_have_a_limit_each():
    assert judge(known(0.05), eth()).quantity == 1000


def test_until_it_knows_better_everything_moves_together():
    assert judge(known(0.05, minutes=40), eth()).quantity == 500


@pytest.mark.parametrize(("minutes", "allowed"), [(64, 500), (65, 1000)])
def test_what_is_known_counts_from_the_next_full_five_minutes(minutes, allowed):
    kept = rule(plugin, warmup_min=64)  # as many returns as 65 minutes have
    kept.send(*walk(minutes, 0.05), *until(minutes * MIN, MIN, minutes * MIN))
    now = minutes * MIN + 1
    kept.send(touch(ts=now), touch(symbol="ETH/USDT", ts=now), money(now, 10_000, position(3500, 3500)))

    assert judge(kept, order(1000, symbol="ETH/USDT", ts=now)).quantity == allowed


def test_an_own_open_order_counts_and_the_other_direction_does_not():
    kept = known(0.95)
    kept.send(submitted(eth(order_id="a")))
    assert judge(kept, eth(order_id="b")).quantity == 0
    assert judge(kept, eth(order_id="c", side=Side.SELL)).quantity == 1000


def test_the_figures_are_those_of_the_formula():
    kept = rule(plugin, half_life_h=1 / 60, shrink=0.2)  # every return counts half of the one after it
    pair = plugin._Pair()
    rule_ = kept.bus.component("risk-correlation")
    for first, second in ((0.01, 0.02), (0.02, -0.02)):
        rule_._learn(pair, first, second)

    # first: 0.25e-4 + 0.5 * 4e-4; product: 0.25 * 2e-4 - 0.5 * 4e-4
    assert pair.first == pytest.approx(0.5 * 0.5e-4 + 2e-4)
    assert pair.product == pytest.approx(0.5 * 1e-4 - 2e-4)
    assert plugin._correlation(pair) == pytest.approx(-1.5e-4 / (2.25e-4 * 3e-4) ** 0.5)
