"""The fat-finger rule: prices nobody means, ids used twice, and too many orders."""

import pytest

from tickerml.kernel import CancelOrder, OrderCanceled, OrderExpired, OrderRejected, OrderType, Side
from tickerml.risk import fat_finger as plugin

from .trading import S, filled, judge, order, rule, submitted, touch


def wide(**options):
    """A market at 999|1001: the mid is 1,000, and 2 % of it are 20."""
    kept = rule(plugin, **options)
    kept.send(touch(999, 1001))
    return kept


@pytest.mark.parametrize(("price", "allowed"), [(1020, 7), (1021, 0), (980, 7), (979, 0)])
def test_a_price_may_be_exactly_two_percent_from_the_mid(price, allowed):
    verdict = judge(wide(), order(7, price))

    assert (verdict.quantity, verdict.inputs["mid"]) == (allowed, 1000.0)


def test_a_market_order_has_no_price_and_still_needs_a_book():
    kept = wide()
    assert judge(kept, order(7, kind=OrderType.MARKET)).quantity == 7

    kept.send(touch(1002, 1001))

    assert judge(kept, order(7, kind=OrderType.MARKET, order_id="b")).reason.endswith("or crossed")


def test_an_id_is_used_once_and_for_all():
    kept = wide()
    judge(kept, order(7, 1000))
    kept.send(submitted(order(7, 1000)), filled(7, 1000))

    assert judge(kept, order(7, 1000)).reason == "an order had the id o before"


def test_so_many_orders_within_a_second_and_no_more():
    kept = wide(orders_per_s=3)
    asked = [judge(kept, order(7, 1000, ts=10 + n, order_id=str(n))).quantity for n in range(4)]
    later = judge(kept, order(7, 1000, ts=10 + S, order_id="later"))

    assert (asked, later.quantity) == ([7, 7, 7, 0], 7)
    assert judge(kept, order(7, 1000, ts=10 + S, order_id="other", strategy="t")).quantity == 7


def test_whoever_cancels_too_often_gets_no_new_orders():
    kept = wide(cancels_per_s=2)
    kept.send(*(submitted(order(order_id=str(n))) for n in range(3)))
    kept.send(*(CancelOrder(5, str(n), "test", "BTC/USDT") for n in range(2)))

    assert judge(kept, order(7, 1000, ts=6, order_id="x")).reason == (
        "s canceled 2 times within a second, as often as it may"
    )
    assert judge(kept, order(7, 1000, ts=6, order_id="y", reduce_only=True)).quantity == 7


def test_open_orders_are_counted_until_their_end():
    kept = wide(open_orders=2)
    kept.send(*(submitted(order(order_id=str(n))) for n in range(2)))
    assert judge(kept, order(7, 1000, order_id="x")).quantity == 0

    kept.send(OrderCanceled(5, 5, "0", "test", "BTC/USDT", 1, ""))

    assert judge(kept, order(7, 1000, Side.SELL, order_id="y")).quantity == 7


@pytest.mark.parametrize(
    "end",
    [
        OrderRejected(5, 5, "0", "test", "BTC/USDT", "no"),
        OrderCanceled(5, 5, "0", "test", "BTC/USDT", 1, ""),
        OrderExpired(5, 5, "0", "test", "BTC/USDT", 1, "ioc"),
        filled(100, 100, order_id="0"),
    ],
    ids=lambda end: type(end).__name__,
)
def test_whatever_ends_an_order_makes_room_for_another(end):
    kept = wide(open_orders=1)
    kept.send(submitted(order(order_id="0")), filled(1, 100, leaves=99, order_id="0"))
    assert judge(kept, order(7, 1000, order_id="x")).quantity == 0

    kept.send(end)

    assert judge(kept, order(7, 1000, order_id="y")).quantity == 7


def test_by_default_ten_orders_and_twenty_cancels_a_second_and_fifty_open_are_no_mistake():
    defaults = plugin.FatFingerOptions()

    assert (defaults.orders_per_s, defaults.cancels_per_s, defaults.open_orders) == (10, 20, 50)


def test_so_many_ids_are_remembered_and_the_oldest_is_forgotten_first(monkeypatch):
    monkeypatch.setattr(plugin, "REMEMBERED", 3)
    kept = wide()
    for each in "abc":
        judge(kept, order(7, 1000, order_id=each))
    assert judge(kept, order(7, 1000, order_id="a")).quantity == 0

    judge(kept, order(7, 1000, order_id="d"))

    assert judge(kept, order(7, 1000, order_id="b")).quantity == 0
    assert judge(kept, order(7, 1000, order_id="a")).quantity == 7
