"""The volatility rule: by regime, with hysteresis and a dwell."""

import math

import pytest

from tickerml.kernel import ConfigError, Side
from tickerml.risk import volatility as plugin

from .trading import MIN, judge, order, rule, touch, until

MID = 1_000_000
#: What a minute has to move so that the year's volatility is as given.
STEP = math.sqrt(1 / 525_600)


def zigzag(minutes, sigma, *, start=1):
    """Books a second before each minute whose log returns are all +-sigma * STEP."""
    high = round(MID * math.exp(sigma * STEP))
    for minute in range(start, start + minutes):
        mid = high if minute % 2 else MID
        yield touch(mid - 1, mid + 1, ts=minute * MIN - 1)


def shaken(sigma, minutes=16, **options):
    kept = rule(plugin, warmup_min=15, **options)
    kept.send(*zigzag(minutes + 1, sigma), *until((minutes + 1) * MIN + 1, MIN, (minutes + 1) * MIN + 1))
    return kept


@pytest.mark.parametrize(
    ("sigma", "allowed"), [(0.2, 1000), (0.5, 1000), (0.8, 700), (1.2, 300)], ids=plugin.REGIMES
)
def test_each_regime_leaves_its_share(sigma, allowed):
    verdict = judge(shaken(sigma), order(1000, ts=500 * MIN))

    assert verdict.quantity == allowed
    assert verdict.inputs["volatility"] == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize(("sigma", "allowed"), [(0.57, 1000), (0.63, 700), (0.95, 700), (1.05, 300)])
def test_the_first_regime_is_by_the_bounds_themselves(sigma, allowed):
    assert judge(shaken(sigma), order(1000, ts=500 * MIN)).quantity == allowed


def test_until_it_knows_better_a_market_counts_as_high():
    verdict = judge(shaken(0.1, minutes=10), order(1000, ts=500 * MIN))

    assert verdict.quantity == 700
    assert verdict.reason == "10 of 15 returns are known: as high, 70% of an order"


def test_what_reduces_passes_in_any_market():
    assert judge(shaken(2.0), order(1000, side=Side.SELL, ts=500 * MIN)).quantity == 1000


def test_a_regime_is_left_upwards_a_tenth_above_its_bound_and_at_once():
    within, beyond = shaken(0.5, minutes=16), shaken(0.5, minutes=16)
    within.send(*zigzag(400, 0.65, start=18), *until(418 * MIN, MIN, 418 * MIN))
    beyond.send(*zigzag(400, 0.67, start=18), *until(418 * MIN, MIN, 418 * MIN))

    assert judge(within, order(1000, ts=500 * MIN)).quantity == 1000
    assert judge(beyond, order(1000, ts=500 * MIN)).quantity == 700


def test_a_regime_is_left_downwards_only_after_its_dwell():
    kept = shaken(1.5, minutes=16, dwell_min=200)
    kept.send(*zigzag(150, 0.1, start=18), *until(168 * MIN, MIN, 168 * MIN))
    assert judge(kept, order(1000, ts=169 * MIN)).quantity == 300

    kept.send(*zigzag(60, 0.1, start=170), *until(231 * MIN, MIN, 231 * MIN))
    assert judge(kept, order(1000, ts=232 * MIN, order_id="b")).quantity == 1000


@pytest.mark.parametrize("bounds", [(0.6, 0.3, 1.0), (0.0, 0.3, 1.0), (0.3, 0.6, 0.6), (0.3, 0.3, 1.0)])
def test_the_bounds_must_rise_from_above_nothing(bounds):
    with pytest.raises(ConfigError, match="bounds must rise from above 0"):
        rule(plugin, bounds=bounds)


def test_the_dwell_begins_anew_with_each_regime():
    kept = shaken(0.5, minutes=16, dwell_min=200)
    kept.send(*zigzag(100, 0.5, start=18), *until(118 * MIN, MIN, 118 * MIN))
    kept.send(*zigzag(60, 3.0, start=118), *until(178 * MIN, MIN, 178 * MIN))
    assert judge(kept, order(1000, ts=179 * MIN, order_id="stormy")).quantity == 300

    kept.send(*zigzag(100, 0.01, start=180), *until(281 * MIN, MIN, 281 * MIN))
    calm = judge(kept, order(1000, ts=282 * MIN, order_id="calm"))
    kept.send(*zigzag(160, 0.01, start=282), *until(443 * MIN, MIN, 443 * MIN))
    assert (calm.quantity, judge(kept, order(1000, ts=444 * MIN, order_id="later")).quantity) == (300, 1000)
    assert calm.inputs["volatility"] < 0.3


@pytest.mark.parametrize(("sigma", "allowed"), [(0.57, 700), (0.52, 1000)])
def test_a_regime_is_left_downwards_a_tenth_below_its_bound(sigma, allowed):
    kept = shaken(0.8, minutes=16)
    kept.send(*zigzag(400, sigma, start=18), *until(418 * MIN, MIN, 418 * MIN))

    assert judge(kept, order(1000, ts=500 * MIN)).quantity == allowed
