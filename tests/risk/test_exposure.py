"""The exposure rule: in all, on one exchange, in one stablecoin, with contracts."""

import pytest

from tickerml.kernel import UNIT, Balance, Side
from tickerml.kernel.testing import instrument
from tickerml.risk import exposure as plugin

from .trading import judge, money, order, position, rule, submitted, touch


def test_one_exchange_may_have_forty_percent_at_stake():
    kept = rule(plugin)
    kept.send(money(1, 10_000, position(3000, 3000)))

    verdict = judge(kept, order(2000))

    assert (verdict.quantity, verdict.reason) == (1000, "max_exchange allows 10 of 20 BTC")
    assert verdict.inputs["max_exchange"] == 3000.0


def test_what_was_allowed_to_one_order_is_not_there_for_the_next():
    kept = rule(plugin)
    kept.send(money(1, 10_000, position(3000, 3000)))

    assert [judge(kept, order(600, order_id=each)).quantity for each in "ab"] == [600, 400]


def test_its_cash_counts_where_that_is_asked_for():
    kept = rule(plugin, counts_cash=True, max_exchange=0.9)
    kept.send(money(1, 10_000, position(3000, 3000), cash=5000))

    assert judge(kept, order(2000)).quantity == 1000  # 9,000 less 3,000 at stake and 5,000 in cash


def test_spot_of_all_exchanges_together_has_a_limit():
    kept = rule(plugin, max_gross=0.5, max_asset=1.0)
    kept.send(money(1, 10_000, position(2000, 2000), position(2500, 2500, exchange="away")))

    verdict = judge(kept, order(2000))

    assert (verdict.quantity, verdict.reason) == (500, "max_gross allows 5 of 20 BTC")


@pytest.mark.parametrize("side", Side)
def test_contracts_count_apart_long_and_short_alike(side):
    kept = rule(plugin, max_exchange=1.0, max_contracts=1.0, max_asset=10.0)
    short = position(-4000, 4000, symbol="BTC/USDT:USDT", exchange="perp")
    kept.send(money(1, 10_000, short, position(3000, 3000)))

    wish = order(9000, side=side, symbol="BTC/USDT:USDT", exchange="perp")

    assert judge(kept, wish).quantity == 6000


def test_one_asset_may_have_forty_percent_at_stake_and_a_hedge_is_at_stake_as_well():
    kept = rule(plugin, max_exchange=1.0)
    short = position(-1500, 1500, symbol="BTC/USDT:USDT", exchange="perp")
    kept.send(money(1, 10_000, short, position(1000, 1000), position(700, 700, exchange="away")))

    verdict = judge(kept, order(2000))

    assert (verdict.quantity, verdict.reason) == (800, "max_asset allows 8 of 20 BTC")
    assert verdict.inputs["max_asset"] == 3200.0
    assert judge(kept, order(2000, symbol="ETH/USDT", order_id="b")).quantity == 2000


def test_buying_a_stablecoin_stops_at_its_limit():
    kept = rule(plugin, max_exchange=1.0)
    usdc = instrument("test", "USDC/USDT", tick="1", lot="1", maker_fee_ppm=0, taker_fee_ppm=0)
    held = money(1, 10_000, cash=5000)
    held.balances.append(Balance("away", "USDC", 5000 * UNIT, 0))
    kept.send(usdc, touch(1, 2, symbol="USDC/USDT"), held)

    verdict = judge(kept, order(2000, 1, symbol="USDC/USDT"))

    # At the mid of its book, 1.5, the 5,000 are worth 7,500: beyond 60 % already.
    assert (verdict.quantity, verdict.inputs["max_stablecoin"]) == (0, 7500.0)
    assert judge(kept, order(2000, 1, Side.SELL, symbol="USDC/USDT", order_id="b")).quantity == 2000


def test_a_stablecoin_that_is_not_held_has_all_its_room_less_what_is_being_bought():
    kept = rule(plugin, max_exchange=1.0)
    usdc = instrument("test", "USDC/USDT", tick="1", lot="1", maker_fee_ppm=0, taker_fee_ppm=0)
    short = money(1, 10_000)
    short.balances.append(Balance("test", "USDC", -5 * UNIT, 0))
    kept.send(usdc, touch(1, 2, symbol="USDC/USDT"), short)
    judge(kept, order(7, order_id="of another asset"))

    first = judge(kept, order(5000, 1, symbol="USDC/USDT", order_id="a"))
    second = judge(kept, order(5000, 1, symbol="USDC/USDT", order_id="b"))

    assert (first.quantity, first.inputs["max_stablecoin"]) == (5000, 0.0)
    assert (second.quantity, second.inputs["max_stablecoin"]) == (1000, 5000.0)


def test_open_buys_count_and_what_reduces_passes():
    kept = rule(plugin)
    kept.send(money(1))
    first = order(3500, order_id="a")
    judge(kept, first)
    kept.send(submitted(first))

    assert judge(kept, order(900, order_id="b")).quantity == 500
    assert judge(kept, order(900, side=Side.SELL, order_id="c")).quantity == 900


def test_cash_that_is_held_for_an_order_is_at_stake_like_what_is_free():
    kept = rule(plugin, counts_cash=True, max_exchange=0.9, max_asset=1.0)
    snapshot = money(1, 10_000, cash=0)
    snapshot.balances[0] = Balance("test", "USDT", 5000 * UNIT, 2000 * UNIT)
    snapshot.balances.append(Balance("away", "USDT", 1000 * UNIT, 0))
    kept.send(snapshot)

    assert judge(kept, order(3000)).quantity == 2000  # 9,000 less 7,000


def test_a_stablecoin_that_is_cash_counts_at_what_it_trades_for():
    kept = rule(plugin, counts_cash=True, max_exchange=0.9, max_asset=1.0)
    usdc = instrument("test", "USDC/USDT", tick="0.25", lot="1", maker_fee_ppm=0, taker_fee_ppm=0)
    held = money(1, 10_000, cash=0)
    held.balances.append(Balance("test", "USDC", 4000 * UNIT, 0))
    kept.send(usdc, touch(5, 7, symbol="USDC/USDT"), held)

    assert judge(kept, order(4000)).quantity == 3000  # 9,000 less 4,000 of 1.5
