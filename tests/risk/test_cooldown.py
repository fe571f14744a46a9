"""The cool-down: pauses after losses, and what a trade is."""

import pytest

from tickerml.kernel import UNIT, PositionLiquidated, Side
from tickerml.risk import cooldown as plugin

from .trading import MIN, filled, judge, order, rule

SELL = Side.SELL


def trade(kept, ts, won, **fields):
    kept.send(filled(10, 100, ts=ts, **fields), filled(10, 101 if won else 99, SELL, ts=ts, **fields))


def test_a_loss_pauses_its_symbol_for_five_minutes():
    kept = rule(plugin)
    trade(kept, 10, won=False)

    assert judge(kept, order(7, ts=10)).reason == "the last trade in BTC/USDT lost: none for 300 s"
    assert judge(kept, order(7, ts=10, symbol="ETH/USDT")).quantity == 7
    assert judge(kept, order(7, ts=10, strategy="t")).quantity == 7
    assert judge(kept, order(7, SELL, ts=10, reduce_only=True)).quantity == 7
    assert judge(kept, order(7, ts=10 + 5 * MIN)).quantity == 7


@pytest.mark.parametrize(
    ("outcomes", "allowed"), [("LLLL", 7), ("LLLLL", 0), ("LLWLLL", 7), ("WLLLL", 7), ("WLLLLL", 0)]
)
def test_five_losses_in_a_row_pause_the_strategy_for_an_hour(outcomes, allowed):
    kept = rule(plugin, after_loss_min=0)
    for outcome in outcomes:
        trade(kept, 10, outcome == "W")

    assert judge(kept, order(7, ts=10, symbol="ETH/USDT")).quantity == allowed
    assert judge(kept, order(7, ts=10 + 60 * MIN)).quantity == 7


def test_a_trade_that_only_broke_even_is_no_loss():
    kept = rule(plugin, after_loss_min=0)
    for _ in range(4):
        trade(kept, 10, won=False)
    assert judge(kept, order(7, ts=10, order_id="before")).inputs == {"streak": 4.0}
    kept.send(filled(10, 100, ts=10), filled(10, 100, SELL, ts=10))

    assert judge(kept, order(7, ts=10)).quantity == 7


def test_a_trade_is_over_when_the_position_is_flat_and_its_fees_count():
    kept = rule(plugin)
    kept.send(filled(10, 100, ts=5, fee=UNIT // 100), filled(4, 90, SELL, ts=5))
    assert judge(kept, order(7, ts=5)).quantity == 7  # not over yet

    kept.send(filled(6, 107, SELL, ts=6, fee=UNIT // 50))  # 3.60 + 6.42 - 10 = 0.02, and fees are 0.03
    assert judge(kept, order(7, ts=6)).quantity == 0


def test_a_fee_in_the_base_asset_makes_the_position_smaller():
    kept = rule(plugin)
    kept.send(filled(10, 100, ts=5, fee=UNIT // 100, fee_asset="BTC"), filled(9, 100, SELL, ts=6))

    assert judge(kept, order(7, ts=6)).quantity == 0  # nine lots sold for what ten had cost


def test_a_short_that_flips_ends_one_trade_and_begins_another():
    kept = rule(plugin)
    perp = {"symbol": "BTC/USDT:USDT", "exchange": "perp"}
    kept.send(filled(10, 100, SELL, ts=5, **perp), filled(15, 102, ts=6, **perp))
    assert judge(kept, order(7, ts=6, **perp)).quantity == 0

    kept.send(filled(5, 103, SELL, ts=7, **perp))  # the other five, bought at 102, won
    assert judge(kept, order(7, ts=7 + 5 * MIN, **perp)).quantity == 7


def test_a_trade_that_ends_where_it_began_lost_nothing():
    kept = rule(plugin)
    kept.send(filled(10, 100, ts=5), filled(10, 100, SELL, ts=5))

    assert judge(kept, order(7, ts=6)).quantity == 7


def test_a_position_that_its_exchange_has_closed_by_force_is_a_trade_that_lost():
    kept = rule(plugin)
    perp = {"symbol": "BTC/USDT:USDT", "exchange": "perp"}
    kept.send(filled(10, 100, ts=5, **perp), filled(5, 100, ts=5, strategy="t", **perp))
    kept.send(PositionLiquidated(6, "paper", "perp", "BTC/USDT:USDT", 15, 101, "USDT", 0, 30 * UNIT, 0, 0))

    # It was sold for more than it had cost, and 20 and 10 of the fee of 30 are theirs.
    for strategy in ("s", "t"):
        assert judge(kept, order(7, ts=6, strategy=strategy, **perp)).quantity == 0
    assert judge(kept, order(7, ts=6, strategy="u", **perp)).quantity == 7
