"""The mark-out guard: makers who are always on the wrong side stop."""

import pytest

from tickerml.kernel import Liquidity, MarkoutMeasured, Side, TimeInForce
from tickerml.kernel.testing import instrument
from tickerml.risk import markout as plugin

from .trading import MIN, S, judge, order, rule


def measured(bps, *, ts=5, horizon_s=10, liquidity=Liquidity.MAKER):
    return MarkoutMeasured(ts, "o", 0, "test", "BTC/USDT", liquidity, horizon_s * S, bps)


def maker(**fields):
    return order(7, force=TimeInForce.POST_ONLY, **fields)


def test_a_mean_below_the_limit_stops_makers_for_half_an_hour():
    kept = rule(plugin, warmup_fills=3)
    kept.send(measured(-2.1), measured(-2.1))
    assert judge(kept, maker()).quantity == 7  # two fills say nothing

    kept.send(measured(-2.1))

    denied = judge(kept, maker())
    assert (denied.quantity, denied.inputs["markout_bps"]) == (0, pytest.approx(-2.1))
    assert denied.reason == "makers lost 2.10 bps a fill here, fees included: no resting order for 1800 s"
    assert judge(kept, maker(ts=5 + 30 * MIN)).quantity == 7


def test_twenty_fills_are_enough_where_nobody_says_how_many():
    kept = rule(plugin)
    kept.send(*[measured(-50)] * 19)
    assert judge(kept, maker()).quantity == 7

    kept.send(measured(-50))

    assert judge(kept, maker()).quantity == 0


def test_after_a_stop_the_fills_are_counted_anew_so_two_more_do_not_lengthen_it():
    kept = rule(plugin, warmup_fills=3)
    kept.send(*[measured(-2.1)] * 3, *[measured(-2.1, ts=5 + 10 * MIN)] * 2)

    assert judge(kept, maker(ts=5 + 30 * MIN)).quantity == 7


def test_the_fee_of_a_maker_is_a_loss_and_a_rebate_a_gain():
    for fee_ppm, allowed in ((100, 0), (40, 7), (-100, 7)):
        kept = rule(plugin, warmup_fills=1)
        kept.send(instrument("test", "BTC/USDT", tick="1", lot="0.01", maker_fee_ppm=fee_ppm), measured(-1.5))

        assert judge(kept, maker()).quantity == allowed


def test_exactly_the_limit_goes_on():
    kept = rule(plugin, warmup_fills=1)
    kept.send(measured(-2.0))

    assert judge(kept, maker()).quantity == 7


def test_the_mean_forgets_with_two_over_n_plus_one():
    kept = rule(plugin, fills=3)
    kept.send(measured(-8.0), measured(4.0), measured(0.0))

    assert judge(kept, maker()).inputs["markout_bps"] == -1.0  # -8, then -2, then -1


def test_other_horizons_takers_and_what_is_no_number_do_not_count():
    kept = rule(plugin, warmup_fills=1)
    kept.send(measured(-50, horizon_s=1), measured(-50, liquidity=Liquidity.TAKER), measured(float("nan")))

    assert judge(kept, maker()).quantity == 7


@pytest.mark.parametrize(
    ("wish", "allowed"),
    [
        (order(7, 100), 0),  # rests
        (order(7, 101), 7),  # takes
        (order(7, 100, force=TimeInForce.IOC), 7),
        (order(7, 100, Side.SELL), 7),  # sells what there is
        (maker(symbol="ETH/USDT"), 7),  # another market
    ],
)
def test_only_what_would_rest_there_is_denied(wish, allowed):
    kept = rule(plugin, warmup_fills=1)
    kept.send(measured(-50))

    assert judge(kept, wish).quantity == allowed
