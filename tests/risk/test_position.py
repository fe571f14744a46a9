"""The position rule: one asset, over all exchanges, hedges counted."""

from tickerml.kernel import Side
from tickerml.risk import position as plugin

from .trading import BTC, filled, judge, money, order, position, rule, submitted, touch


def test_leaves_an_order_that_has_room_as_it_is():
    kept = rule(plugin)
    kept.send(money(1))

    verdict = judge(kept, order(500))

    assert (verdict.quantity, verdict.reason) == (500, "")
    assert verdict.inputs["max_position_lots"] == 2500.0
    assert verdict.inputs["max_order_lots"] == 1000.0


def test_what_is_held_on_every_exchange_counts():
    kept = rule(plugin, max_order=1.0)
    kept.send(money(1, 10_000, position(1200, 1200), position(800, 800, exchange="away")))

    verdict = judge(kept, order(900))

    assert verdict.quantity == 500  # 25 % of 10,000 less 2,000
    assert (verdict.inputs["equity"], verdict.inputs["held"]) == (10_000.0, 2_000.0)


def test_a_short_perpetual_hedges_what_is_held():
    kept = rule(plugin, max_order=1.0)
    kept.send(
        money(1, 10_000, position(2000, 2000), position(-1500, 1500, symbol="BTC/USDT:USDT", exchange="perp"))
    )

    assert judge(kept, order(9000)).quantity == 2000  # 2,500 - (2,000 - 1,500)


def test_an_open_buy_counts_as_bought_and_a_fill_only_once():
    kept = rule(plugin, max_order=1.0)
    kept.send(money(1))
    first = order(2000, order_id="a")
    judge(kept, first)
    kept.send(submitted(first))

    assert judge(kept, order(900, order_id="b")).quantity == 500

    kept.send(filled(2000, 100, order_id="a"))
    assert judge(kept, order(900, order_id="c")).quantity == 0  # b's 500 are still open


def test_one_order_has_a_limit_of_its_own():
    kept = rule(plugin)
    kept.send(money(1))

    verdict = judge(kept, order(5000))

    assert (verdict.quantity, verdict.reason) == (1000, "max_order allows 10 of 50 BTC")


def test_an_order_that_reduces_is_none_of_its_business():
    kept = rule(plugin)

    assert judge(kept, order(5000, side=Side.SELL)).quantity == 5000
    assert judge(kept, order(5000, reduce_only=True)).quantity == 5000


def test_an_account_that_nobody_knows_and_a_book_that_nobody_trusts_deny():
    kept = rule(plugin)
    assert judge(kept, order()).quantity == 0

    kept.send(money(1), touch(102, 101))

    assert judge(kept, order()).reason.endswith("or crossed")
    assert BTC.lot_size == 10**10


def test_a_position_without_any_price_is_not_worth_nothing():
    kept = rule(plugin)
    kept.send(money(1), filled(100, 100, symbol="ETH/USDT"))
    kept.send(touch(101, 100, symbol="ETH/USDT", ts=4))  # crossed, and no snapshot has a mark of it

    verdict = judge(kept, order(100))

    assert (verdict.quantity, verdict.reason) == (
        0,
        "the position in ETH/USDT on test has no trusted price yet",
    )
