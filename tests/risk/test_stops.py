"""Stops: fixed, trailing, take, time; and how a position is left."""

import pytest

from tickerml.kernel import (
    NS_PER_S,
    CancelOrder,
    ConfigError,
    HaltTrading,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderSubmitted,
    RiskVerdict,
    Side,
    SubmitOrder,
    TimeInForce,
    TimeTick,
)
from tickerml.kernel.testing import Harness
from tickerml.risk import limits
from tickerml.risk import stops as plugin

from .trading import BTC, MIN, S, filled, judge, money, order, position, rule, submitted, touch

HOUR = 60 * MIN


def holding(lots=100, entry=1000, **options):
    """A position of *lots* bought at *entry*, in a market that is there."""
    kept = rule(plugin, **{"volatility_multiple": 0, **options})
    kept.send(touch(entry, entry + 1), money(1, 10_000, position(lots, abs(lots) * entry // 100)))
    return kept


def exits(kept):
    return [(each.side, each.price, each.quantity, each.reason) for each in kept.of(SubmitOrder)]


@pytest.mark.parametrize(("bid", "leaves"), [(981, False), (980, True)])
def test_two_percent_below_the_entry_everything_is_sold(bid, leaves):
    kept = holding()

    kept.send(touch(bid, bid + 1, ts=5))

    assert bool(exits(kept)) is leaves
    if leaves:
        (exit_,) = kept.of(SubmitOrder)
        assert (exit_.side, exit_.quantity, exit_.price) == (Side.SELL, 100, 971)  # 980 less 1 %, rounded up
        assert (exit_.reduce_only, exit_.time_in_force) == (True, TimeInForce.IOC)
        assert (exit_.strategy, exit_.reason) == ("risk-stops", "fixed: lost 2.00%, the stop is 2.00%")


def test_a_trailing_stop_begins_once_it_has_gained_as_much():
    kept = holding(take_profit=0)
    kept.send(touch(1014, 1015, ts=5), touch(998, 999, ts=6))
    assert exits(kept) == []  # never gained 1.5 %

    kept.send(touch(1020, 1021, ts=7), touch(1005, 1006, ts=8))
    assert exits(kept) == []  # 15 of 1,020 are 1.47 %
    kept.send(touch(1004, 1005, ts=9))
    assert exits(kept)[0][3] == "trailing: gave back 1.57% of the best price"


def test_half_of_a_gain_is_taken_and_then_the_rest():
    kept = holding(trailing=0)
    kept.send(touch(1030, 1031, ts=5))
    assert exits(kept) == [(Side.SELL, 1020, 50, "take: gained 3.00%")]

    first = kept.of(SubmitOrder)[0]
    kept.send(
        submitted(first), filled(50, 1030, Side.SELL, ts=6, order_id=first.order_id, strategy="risk-stops")
    )
    kept.send(money(6, 10_000, position(50, 500)), touch(1040, 1041, ts=7 + 2 * S))
    assert len(exits(kept)) == 1

    kept.send(touch(1060, 1061, ts=8 + 2 * S))
    assert exits(kept)[1] == (Side.SELL, 1050, 50, "take: gained 6.00%")


def test_a_position_may_last_a_day():
    kept = holding()
    kept.send(touch(1000, 1001, ts=24 * HOUR))
    assert exits(kept) == []

    kept.send(touch(1000, 1001, ts=24 * HOUR + 1))
    assert exits(kept)[0][3] == "time: held for 24 h"


def test_a_short_is_bought_back_at_the_ask():
    kept = rule(plugin, volatility_multiple=0)
    short = position(-100, 1000, symbol="BTC/USDT:USDT", exchange="perp")
    market = {"symbol": "BTC/USDT:USDT", "exchange": "perp"}
    kept.send(touch(999, 1000, **market), money(1, 10_000, short))

    kept.send(touch(1019, 1020, ts=5, **market))

    assert exits(kept) == [(Side.BUY, 1030, 100, "fixed: lost 2.00%, the stop is 2.00%")]


def test_volatility_widens_the_stop_up_to_the_largest():
    kept = holding(volatility_multiple=1.5)
    stops = kept.bus.component("risk-stops")
    for sigma, expected in ((0.001, 0.02), (0.003, 0.03485685), (0.01, 0.05)):
        stops._state.variances["BTC"] = plugin.Variance(sigma**2, 1)
        assert stops._distance("BTC/USDT") == pytest.approx(expected)  # 1.5 * sigma * sqrt(60)


def test_what_rests_is_canceled_first_and_the_exit_follows_its_end():
    kept = holding()
    kept.send(submitted(order(50, 1100, Side.SELL, order_id="offer")))

    kept.send(touch(980, 981, ts=5))
    assert [each.order_id for each in kept.of(CancelOrder)] == ["offer"]
    assert exits(kept) == []

    kept.send(OrderCanceled(6, 6, "offer", "test", "BTC/USDT", 50, ""), TimeTick(2 * S), TimeTick(2 * S + 1))
    assert len(exits(kept)) == 1


@pytest.mark.parametrize(("end", "wait_s"), [(OrderExpired, 1), (OrderDenied, 5)])
def test_an_exit_that_left_something_is_tried_again(end, wait_s):
    kept = holding()
    kept.send(touch(980, 981, ts=5))
    (first,) = kept.of(SubmitOrder)
    if end is OrderExpired:
        kept.send(OrderExpired(5, 5, first.order_id, "test", "BTC/USDT", 100, "ioc"))
    else:
        kept.send(OrderDenied(5, first.order_id, "risk-stops", "paper", "test", "BTC/USDT", "x", "no"))

    kept.send(touch(980, 981, ts=wait_s * S))
    assert len(exits(kept)) == 1
    kept.send(touch(980, 981, ts=wait_s * S + 6))
    assert [each.order_id for each in kept.of(SubmitOrder)] == ["risk-stops-0", "risk-stops-1"]


def test_a_book_that_cannot_be_trusted_stops_nothing():
    kept = holding()

    kept.send(touch(981, 980, ts=5))

    assert exits(kept) == []


def test_through_the_gate_an_exit_passes_a_halt_of_level_one_and_no_other():
    for level, count in ((1, 1), (2, 0)):
        kept = Harness(plugin, limits, with_gate=True, options={"risk-stops": {"volatility_multiple": 0}})
        kept.send(BTC, touch(1000, 1001), money(1, 10_000, position(100, 1000)))
        kept.send(HaltTrading(2, "person", "", level), order(10, 1000, order_id="mine"))
        kept.send(touch(980, 981, ts=5))

        assert [each.strategy for each in kept.of(OrderSubmitted)] == ["risk-stops"] * count
        assert kept.of(OrderDenied)[0].order_id == "mine"


def test_it_allows_the_orders_of_others():
    assert judge(rule(plugin), order(7)) == RiskVerdict(2, "o", "risk-stops", 7)


def test_the_fixed_stop_must_not_be_further_than_the_largest():
    with pytest.raises(ConfigError, match="fixed must be at most max_fixed"):
        rule(plugin, fixed=0.1)
    rule(plugin, fixed=0.05, max_fixed=0.05)
    assert NS_PER_S == S
