"""The validator: what it doubts, what it lets pass, how often it says so, and restarts."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    Anomaly,
    BookStale,
    ChannelLost,
    DataAnomaly,
    FeedConnected,
    FeedLost,
    SequenceGap,
    Severity,
    Side,
    TimeTick,
    Trade,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts
from tickerml.plugins import validator

START = 1_700_000_000 * NS_PER_S
BOOK = {"bids": [(9_990, 1)], "asks": [(10_010, 1)]}


def harness(**options):
    return Harness(validator, options={"validator": {"quiet_s": 0, **options}})


def at(seconds):
    """Return START plus *seconds*, ns."""
    return START + int(seconds * NS_PER_S)


def trade(seconds, price=10_000, seq=0, ts_event=None, exchange="test"):
    ts = at(seconds)
    return Trade(ts, ts if ts_event is None else ts_event, exchange, "BTC/USDT", seq, price, 1, Side.BUY)


def found(bus):
    return [(each.kind, each.symbol, each.count) for each in bus.of(DataAnomaly)]


# --- Books ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bid", "kind", "severity", "ticks"),
    [(10_013, Anomaly.CROSSED, Severity.ERROR, 3.0), (10_010, Anomaly.LOCKED, Severity.WARNING, 0.0)],
)
def test_a_book_whose_sides_meet_is_found_once_until_they_part(bid, kind, severity, ticks):
    market, bus = Market(), harness()
    bus.send(market.book(at(0), **BOOK))

    bus.send(market.delta(at(1), bids=[(bid, 1)]), market.delta(at(2), bids=[(9_000, 1)]))
    (first,) = bus.of(DataAnomaly)
    bus.send(market.delta(at(3), bids=[(bid, 0)]), market.delta(at(4), bids=[(bid, 1)]))

    assert (first.ts_recv, first.exchange, first.severity, first.value) == (at(1), "test", severity, ticks)
    assert found(bus) == [(kind, "BTC/USDT", 1), (kind, "BTC/USDT", 2)]


def test_a_book_that_waits_for_a_snapshot_is_not_looked_at():
    market, bus = Market(), harness()

    bus.send(market.book(at(0), **BOOK), SequenceGap(at(1), "test", "BTC/USDT", 5, 7))
    bus.send(market.delta(at(2), bids=[(10_013, 1)]))

    assert found(bus) == []


# --- Silence ----------------------------------------------------------------------------------------


def test_an_exchange_that_says_nothing_is_found_once_until_it_speaks():
    market, bus = Market(), harness(stale_s=10)
    bus.send(market.book(at(0.5), **BOOK), TimeTick(at(9)), TimeTick(at(10)))
    assert found(bus) == []

    bus.send(TimeTick(at(60)))
    assert [(each.ts_recv, each.symbol, each.value, each.limit) for each in bus.of(DataAnomaly)] == [
        (at(11), "", 10.5, 10.0)
    ]

    bus.send(trade(61), TimeTick(at(100)))
    assert found(bus) == [(Anomaly.STALE, "", 1), (Anomaly.STALE, "", 2)]


def test_an_exchange_whose_feed_is_lost_is_known_to_be_silent():
    bus = harness(stale_s=10)

    bus.send(FeedConnected(at(0), "test", []), FeedLost(at(1), "test", "closed", 100), TimeTick(at(60)))
    assert found(bus) == []

    bus.send(FeedConnected(at(61), "test", []), TimeTick(at(80)))
    assert found(bus) == [(Anomaly.STALE, "", 1)]


def test_channels_that_died_alone_are_found_and_counted_for_their_symbol():
    bus = harness()
    for symbol, channel in (("BTC/USDT", "trade"), ("BTC/USDT", "quote"), ("ETH/USDT", "trade")):
        bus.send(ChannelLost(at(1), "test", symbol, channel, 120_500, f"no {channel} for 120.5 s"))

    assert found(bus) == [
        (Anomaly.CHANNEL, "BTC/USDT", 1),
        (Anomaly.CHANNEL, "BTC/USDT", 2),
        (Anomaly.CHANNEL, "ETH/USDT", 1),
    ]
    first = bus.of(DataAnomaly)[0]
    assert (first.severity, first.value, first.text) == (Severity.WARNING, 120.5, "no trade for 120.5 s")


def test_a_jump_of_days_in_the_input_is_not_looked_through_second_by_second():
    bus = harness(stale_s=10)
    bus.send(trade(0))

    bus.send(trade(7 * 86_400))

    assert found(bus) == [(Anomaly.STALE, "", 1)]
    assert bus.bus._timer_count < 20


# --- Prints -----------------------------------------------------------------------------------------


def quiet_market(count=60, step=0.1):
    """Prints that move by a tick to and fro, a return of 1 bp."""
    return [trade(step * n, 10_000 + n % 2, seq=n + 1) for n in range(count)]


def test_a_print_far_off_is_found_and_the_next_one_at_the_old_price_is_not():
    bus = harness()

    bus.send(*quiet_market(), trade(7, 10_200, seq=90), trade(8, 10_001, seq=91))

    (anomaly,) = bus.of(DataAnomaly)
    assert (anomaly.kind, anomaly.severity, anomaly.limit) == (Anomaly.OUTLIER, Severity.WARNING, 50.0)
    assert anomaly.value == pytest.approx(math.log(10_200 / 10_001) * 1e4)
    assert anomaly.text == "a print at 10200 ticks, +197.0 bps from the one before"


def test_a_price_is_told_as_one_where_the_instrument_is_known():
    bus = harness()
    bus.send(instrument("test"))

    bus.send(*quiet_market(), trade(7, 10_200, seq=90))

    (anomaly,) = bus.of(DataAnomaly)
    assert anomaly.text.startswith("a print at 102, ")


def test_a_level_that_stays_is_believed_after_some_prints():
    bus = harness()

    bus.send(*quiet_market(), *[trade(7 + n, 10_200 + n % 2, seq=90 + n) for n in range(20)])

    assert found(bus) == [(Anomaly.OUTLIER, "BTC/USDT", n + 1) for n in range(validator.LEVEL - 1)]


def test_a_wild_market_has_wilder_outliers():
    bus = harness()
    calm = [trade(0.1 * n, 10_000 + 30 * (n % 2), seq=n + 1) for n in range(60)]  # 30 bps to and fro

    bus.send(*calm, trade(7, 10_400, seq=90))

    assert found(bus) == []


def test_before_enough_is_known_nothing_is_an_outlier_but_a_price_that_is_none():
    bus = harness()

    bus.send(trade(0, 10_000), trade(1, 20_000), trade(2, 0))

    assert found(bus) == [(Anomaly.OUTLIER, "BTC/USDT", 1)]


@given(
    st.lists(st.integers(-200, 200), min_size=validator.FEWEST_RETURNS, max_size=80), st.integers(-2000, 2000)
)
def test_an_outlier_is_beyond_both_limits_of_the_returns_before_it(steps, last):
    prices = [100_000]
    for step in [*steps, last]:
        prices.append(prices[-1] + step)
    bus = harness()
    bus.send(*[trade(0.1 * n, price) for n, price in enumerate(prices)])

    believed, returns, is_found = prices[0], [], []
    for price in prices[1 : validator.FEWEST_RETURNS + 1]:
        returns.append(math.log(price / believed))
        believed = price
    outliers = []
    for price in prices[validator.FEWEST_RETURNS + 1 :]:
        move = math.log(price / believed)
        mad = statistics.median([abs(each) for each in returns])
        is_odd = abs(move) * 1e4 > max(50.0, 20.0 * 1.4826 * mad * 1e4)
        if is_odd:
            outliers = [*outliers, price][-validator.LEVEL :]
            is_odd = len(outliers) < 5 or math.log(max(outliers) / min(outliers)) * 1e4 > 50.0
        if not is_odd:
            outliers, believed = [], price
            returns = [*returns, move][-validator.RETURNS :]
        is_found.append(is_odd)

    assert len(found(bus)) == sum(is_found)


def test_a_trade_number_that_comes_again_is_found():
    bus = harness()

    bus.send(trade(0, seq=5), trade(1, seq=6), trade(2, seq=5), trade(3, seq=0), trade(4, seq=0))

    (anomaly,) = bus.of(DataAnomaly)
    assert (anomaly.kind, anomaly.value, anomaly.text) == (Anomaly.DUPLICATE, 5.0, "trade 5 came again")


def test_trade_numbers_are_forgotten_in_time():
    bus = harness()

    bus.send(*[trade(0.01 * n, seq=n + 1) for n in range(validator.NUMBERS + 1)], trade(5, seq=1))

    assert found(bus) == []


# --- Time -------------------------------------------------------------------------------------------


def test_an_exchanges_time_that_goes_back_is_found_within_each_sort():
    bus, market = harness(backwards_ms=100), Market()
    bus.send(market.book(at(0), **BOOK))

    bus.send(trade(1), trade(2, ts_event=at(0.9)), trade(3, ts_event=at(0.7)), trade(4, ts_event=0))
    bus.send(market.delta(at(5)), trade(6, ts_event=at(0.7)))

    (anomaly,) = bus.of(DataAnomaly)
    assert (anomaly.kind, anomaly.value, anomaly.limit) == (Anomaly.BACKWARDS, 200.0, 100.0)
    assert anomaly.text == "the exchange's time of a trade went back by 200.0 ms"


# --- Across exchanges -------------------------------------------------------------------------------


def markets(bus, *mids, tick="0.01"):
    """Give *bus* a book for each of *mids*, each on an exchange of its own."""
    for number, mid in enumerate(mids):
        market = Market(f"exchange{number}")
        bus.send(instrument(market.exchange, tick=tick))
        bus.send(market.book(at(0.5), bids=[(mid - 1, 1)], asks=[(mid + 1, 1)]))


def test_a_mid_far_from_the_median_of_the_others_is_found_once():
    bus = harness()

    markets(bus, 10_000, 10_010, 10_180)
    bus.send(TimeTick(at(5)))

    (anomaly,) = bus.of(DataAnomaly)
    assert (anomaly.kind, anomaly.exchange, anomaly.ts_recv) == (Anomaly.DEVIATION, "exchange2", at(1))
    assert anomaly.value == pytest.approx((10_180 / 10_005 - 1) * 1e4)


def test_of_two_that_are_apart_neither_is_known_to_be_right():
    bus = harness()

    markets(bus, 10_000, 10_201)
    bus.send(TimeTick(at(5)))

    assert {each.exchange for each in bus.of(DataAnomaly)} == {"exchange0", "exchange1"}


def test_prices_are_compared_in_money_and_not_in_ticks():
    bus = harness()
    bus.send(instrument("a", tick="0.01"), Market("a").book(at(0.5), bids=[(10_000, 1)], asks=[(10_002, 1)]))
    bus.send(instrument("b", tick="0.1"), Market("b").book(at(0.5), bids=[(1_000, 1)], asks=[(1_001, 1)]))

    assert bus.send(TimeTick(at(5))) == []


@pytest.mark.parametrize(
    "doubt",
    [
        FeedLost(at(0.6), "exchange1", "closed", 100),
        BookStale(at(0.6), "exchange1", "BTC/USDT", 100),
        SequenceGap(at(0.6), "exchange1", "BTC/USDT", 5, 7),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_book_in_doubt_is_not_compared(doubt):
    bus = harness()

    markets(bus, 10_000, 10_201)
    bus.send(doubt, TimeTick(at(5)))

    assert found(bus) == []


# --- What is said -----------------------------------------------------------------------------------


def test_what_repeats_is_counted_and_told_of_now_and_then():
    bus = harness(quiet_s=10)

    bus.send(*[trade(n, seq=7) for n in range(25)])

    assert found(bus) == [(Anomaly.DUPLICATE, "BTC/USDT", count) for count in (1, 11, 21)]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["book", "delta", "trade", "lost", "gap"]),
        st.sampled_from(["one", "two"]),
        st.integers(0, 4 * NS_PER_S),
        st.integers(9_900, 10_100),
        st.integers(-500 * NS_PER_MS, 500 * NS_PER_MS),
    ),
    max_size=60,
)


def tape_of(events):
    now, tape = START, [instrument("one"), instrument("two", tick="0.1")]
    for seq, (sort, exchange, later, price, difference) in enumerate(events):
        now += later
        market = Market(exchange, latency_ns=-difference)
        match sort:
            case "book":
                tape.append(market.book(now + difference, [(price, 1)], [(price + 3, 1)]))
            case "delta":
                tape.append(market.delta(now + difference, [(price, 1)]))
            case "trade":
                tape.append(Trade(now, now + difference, exchange, "BTC/USDT", seq // 3, price, 1, Side.BUY))
            case "lost":
                tape.append(FeedLost(now, exchange, "closed", 100))
            case "gap":
                tape.append(SequenceGap(now, exchange, "BTC/USDT", 1, 3))
    return [*tape, TimeTick(now + 60 * NS_PER_S)]


@given(EVENTS, st.lists(st.integers(0, 60), max_size=4))
def test_a_restart_anywhere_changes_nothing(events, cuts):
    tape = tape_of(events)
    options = {"stale_s": 3, "backwards_ms": 10, "outlier_bps": 10, "quiet_s": 2}

    assert run_with_restarts(lambda: harness(**options), tape, cuts) == run_with_restarts(
        lambda: harness(**options), tape, []
    )


@given(EVENTS)
def test_counts_only_rise_and_what_is_found_is_beyond_its_limit(events):
    bus = harness(stale_s=3, backwards_ms=10, outlier_bps=10)
    bus.send(*tape_of(events))

    counts = {}
    for each in bus.of(DataAnomaly):
        key = each.exchange, each.symbol, each.kind
        assert each.count == counts.get(key, 0) + 1
        counts[key] = each.count
        assert each.kind is Anomaly.LOCKED or each.value >= each.limit
