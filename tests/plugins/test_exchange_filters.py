"""The filters of an exchange: how far from the average price an order may be, and how many there may be."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_S,
    OrderAccepted,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
)
from tickerml.kernel.testing import Market, instrument
from tickerml.plugins.exchange_filters import AveragePrice
from tickerml.plugins.matching import EngineState, MatchingEngine

BUY, SELL = Side.BUY, Side.SELL
MINUTE = 60 * NS_PER_S
MARKET = Market()
#: Buys from half to twice the average of five minutes, sells from four fifths of it on.
BANDED = msgspec.structs.replace(
    instrument(), buy_band_ppm=(500_000, 2_000_000), sell_band_ppm=(800_000, 0), average_minutes=5
)


def engine(rules=BANDED):
    built = MatchingEngine("test", "BTC/USDT")
    built.instrument = rules
    built.on_book_snapshot(MARKET.book(NS_PER_S, [(99, 10)], [(101, 10)]), NS_PER_S)
    return built


def trade(exchange, price, quantity, at):
    exchange.on_trade(MARKET.trade(at, price, quantity, SELL), at)


def submit(
    exchange, price, side=BUY, at=2 * NS_PER_S, order_id="o", account="paper", kind=OrderType.LIMIT
) -> Any:
    head = (at, order_id, "s", account, "test", "BTC/USDT", side, kind, TimeInForce.GTC)
    return exchange.submit(OrderSubmitted(*head, price, 1, 200), at)[0]


def takes(exchange, price, side=BUY, at=2 * NS_PER_S):
    return isinstance(submit(exchange, price, side, at, f"{side}-{price}-{at}"), OrderAccepted)


# --- Prices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "low", "high"), [(BUY, 100, 400), (SELL, 160, 10**9)])
def test_a_price_may_be_as_far_from_the_average_as_its_side_says_and_no_further(side, low, high):
    exchange = engine()
    trade(exchange, 100, 1, NS_PER_S)
    trade(exchange, 233, 3, NS_PER_S)  # weighted: (100 + 3 * 233) / 4 = 199.75

    assert takes(exchange, low, side)
    assert not takes(exchange, low - 1, side)
    if side is BUY:
        assert not takes(exchange, high, side)
        assert takes(exchange, high - 1, side)


def test_the_reason_says_the_limits_the_average_and_the_price():
    exchange = engine()
    trade(exchange, 200, 1, NS_PER_S)

    refused = submit(exchange, 99)

    assert isinstance(refused, OrderRejected)
    assert refused.reason == "a BUY must be at 0.5 to 2 times the average price 2, was at 0.99"
    assert submit(exchange, 100, SELL).reason == (
        "a SELL must be at no less than 0.8 times the average price 2, was at 1"
    )


def test_what_was_traded_longer_ago_does_not_count_and_then_the_last_trade_does():
    exchange = engine()
    trade(exchange, 1000, 50, MINUTE)
    trade(exchange, 200, 1, 3 * MINUTE)

    assert not takes(exchange, 399, at=5 * MINUTE)  # the average is 984: half of it is 492
    assert takes(exchange, 399, at=6 * MINUTE)
    assert not takes(exchange, 401, at=6 * MINUTE)
    assert takes(exchange, 399, at=99 * MINUTE)
    assert not takes(exchange, 401, at=99 * MINUTE)


def test_before_any_trade_the_mid_of_the_book_is_the_average():
    assert takes(engine(), 200)
    assert not takes(engine(), 201)
    assert not takes(engine(), 49)


def test_no_minutes_are_the_price_of_the_last_trade():
    exchange = engine(msgspec.structs.replace(BANDED, average_minutes=0))
    trade(exchange, 1000, 50, NS_PER_S)
    trade(exchange, 100, 1, NS_PER_S)

    assert takes(exchange, 200)
    assert not takes(exchange, 201)


def test_a_market_order_has_no_price_that_could_be_too_far():
    exchange = engine()
    trade(exchange, 10_000, 1, NS_PER_S)

    assert isinstance(submit(exchange, 0, kind=OrderType.MARKET), OrderAccepted)
    assert isinstance(submit(exchange, 100), OrderRejected)


def test_an_order_cannot_be_moved_to_where_it_could_not_have_been_placed():
    exchange = engine()
    assert takes(exchange, 60)

    (same,) = exchange.replace(f"{BUY}-60-{2 * NS_PER_S}", 40, 2, 3 * NS_PER_S)

    assert (same.price, same.leaves) == (60, 1)
    assert "times the average price" in same.reason


TRADES = st.lists(st.tuples(st.integers(1, 500), st.integers(1, 50), st.integers(0, 3 * MINUTE)), min_size=1)


@given(TRADES, st.integers(0, 6), st.integers(0, 3 * MINUTE))
def test_the_average_is_that_of_all_trades_of_the_minutes_it_is_of(trades, span, later):
    kept, at, seen = AveragePrice(), 0, []
    rules = msgspec.structs.replace(BANDED, average_minutes=span)
    for price, quantity, wait in trades:
        at += wait
        seen.append((at // MINUTE, price, quantity))
        kept.take(rules, MARKET.trade(at, price, quantity, BUY), at)
    at += later

    recent = [each for each in seen if each[0] > at // MINUTE - span] or [(0, seen[-1][1], 1)]
    traded, lots = kept.average(at, span, 0)

    assert traded * sum(q for _, _, q in recent) == lots * sum(p * q for _, p, q in recent)
    assert len(kept.minutes) <= max(span, 1)


def test_an_engine_that_goes_on_elsewhere_has_the_same_average():
    exchange, other = engine(), engine()
    trade(exchange, 200, 7, NS_PER_S)

    state = msgspec.msgpack.decode(msgspec.msgpack.encode(exchange.state()), type=EngineState)
    other.restore(state)
    trade(other, 100, 7, NS_PER_S)

    assert submit(other, 301).reason.startswith("a BUY must be at 0.5 to 2 times the average price 1.5, ")


def test_without_a_rule_nothing_is_kept_and_nothing_refused():
    exchange = engine(instrument())
    trade(exchange, 1000, 1, NS_PER_S)

    assert takes(exchange, 1)
    assert exchange.state().average == AveragePrice()


# --- How far an order trades ------------------------------------------------------------------------

#: No order may trade further than 10 % from the best price of the other side.
LIMITED = msgspec.structs.replace(instrument(), price_limit_ppm=100_000)
LADDER = ([(1000, 5), (950, 5), (899, 9)], [(1200, 5), (1300, 5), (1320, 5), (1400, 9)])


def ladder(rules=LIMITED, **how):
    built = MatchingEngine("test", "BTC/USDT", **how)
    built.instrument = rules
    built.on_book_snapshot(MARKET.book(NS_PER_S, *LADDER), NS_PER_S)
    return built


def reason_of(exchange, side, price, quantity, kind=OrderType.LIMIT, tif=TimeInForce.GTC):
    head = (2 * NS_PER_S, "o", "s", "paper", "test", "BTC/USDT", side, kind, tif)
    events = exchange.submit(OrderSubmitted(*head, price, quantity, 2200), 2 * NS_PER_S)
    return events[0].reason if isinstance(events[0], OrderRejected) else ""


@pytest.mark.parametrize(
    ("side", "price", "quantity", "is_taken"),
    [
        (BUY, 1400, 15, True),  # what it needs is displayed up to 13.2, which is 10 % from 12
        (BUY, 1400, 16, False),
        (BUY, 1399, 16, True),  # nothing is displayed between 13.2 and its limit: the rest waits
        (BUY, 5000, 1, True),
        (BUY, 100, 999, True),
        (SELL, 899, 10, True),
        (SELL, 899, 11, False),
        (SELL, 900, 11, True),
        (SELL, 9000, 999, True),
    ],
)
def test_a_limit_order_may_not_trade_further_from_the_best_price_than_the_exchange_says(
    side, price, quantity, is_taken
):
    assert (reason_of(ladder(), side, price, quantity) == "") is is_taken
    assert reason_of(ladder(instrument()), side, price, quantity) == ""


def test_the_reason_says_how_far_that_is_and_from_what():
    assert reason_of(ladder(), BUY, 1400, 16) == (
        "an order may not trade further than 10.00% from the other side's best price 12, which is 13.2; "
        "at 14 this one would"
    )


def test_a_market_order_stops_at_the_nearer_of_the_exchanges_limit_and_ours():
    for protection_bps, last in ((5000, "13.2"), (500, "12.6")):
        exchange = ladder(protection_bps=protection_bps)
        order = OrderSubmitted(
            1, "o", "s", "a", "test", "BTC/USDT", BUY, OrderType.MARKET, TimeInForce.IOC, 0, 99, 1
        )

        events = exchange.submit(order, 2 * NS_PER_S)

        assert events[-1].reason == f"market: no more was displayed within {last}"


def test_an_order_may_be_worth_as_much_as_the_exchange_takes_and_no_more():
    rules = msgspec.structs.replace(instrument(), max_notional=instrument().notional(100, 7))

    assert reason_of(engine(rules), BUY, 100, 7) == ""
    assert reason_of(engine(rules), BUY, 100, 8) == "notional must be at most 0.00007 USDT, was 0.00008"


# --- A crowd ----------------------------------------------------------------------------------------


def test_one_order_more_than_an_account_may_have_open_is_refused_until_one_ends():
    exchange = engine(msgspec.structs.replace(instrument(), max_orders=2))
    for number in (1, 2):
        assert isinstance(submit(exchange, 90, order_id=str(number)), OrderAccepted)

    refused = submit(exchange, 90, order_id="3")
    assert refused.reason == "an account may have 2 orders open in BTC/USDT, and 2 are"
    assert isinstance(submit(exchange, 90, order_id="4", account="other"), OrderAccepted)
    (moved,) = exchange.replace("1", 91, 1, 3 * NS_PER_S)
    assert (moved.price, moved.reason) == (91, "")

    exchange.cancel("2", "enough", 3 * NS_PER_S)
    assert isinstance(submit(exchange, 90, at=3 * NS_PER_S, order_id="5"), OrderAccepted)
