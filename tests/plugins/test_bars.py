"""Bars: what a list of prints says of each interval, the exchanges' own candles, and restarts."""

import json
import os
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tickerml.exchanges import capture
from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    UNIT,
    Bar,
    ChannelLost,
    ChannelResumed,
    ConfigError,
    FeedLost,
    Instrument,
    SequenceGap,
    Side,
    TimeTick,
    Trade,
)
from tickerml.kernel.testing import Harness, run_with_restarts
from tickerml.plugins import bars

START = 1_700_000_040 * NS_PER_S  # a whole minute
MINUTE = 60 * NS_PER_S
GRACE = 2 * NS_PER_S


def harness(**options):
    return Harness(bars, options={"bars": options})


def at(seconds):
    """Return START plus *seconds*, ns."""
    return START + int(seconds * NS_PER_S)


def trade(ts, price, quantity=1, symbol="BTC/USDT", ts_event=None, exchange="test"):
    return Trade(ts, ts if ts_event is None else ts_event, exchange, symbol, 0, price, quantity, Side.BUY)


def test_a_bar_is_published_when_its_interval_and_the_grace_are_over():
    bus = harness()

    assert bus.send(trade(at(-1), 90), TimeTick(at(2) + 1)) == [
        Bar(at(2), at(-60), "test", "BTC/USDT", 60, 90, 90, 90, 90, 1, 90_000_000, 1, is_whole=False)
    ]
    assert bus.send(trade(at(3), 100, 2), trade(at(5), 104), trade(at(9), 99, 3)) == []
    assert bus.send(trade(at(59.9), 101, 4), TimeTick(at(62))) == []
    assert bus.send(TimeTick(at(62) + 1)) == [
        Bar(at(62), START, "test", "BTC/USDT", 60, 100, 104, 99, 101, 10, 100_500_000, 4),
    ]


def test_vwap_is_rounded_to_the_nearest_millionth_of_a_tick():
    bus = harness()

    bus.send(trade(START, 100, 2), trade(START, 101, 1), TimeTick(at(63)))

    assert [bar.vwap for bar in bus.of(Bar)] == [100_333_333]


def test_an_interval_in_which_nothing_traded_has_no_bar():
    bus = harness()

    bus.send(trade(START, 100), trade(at(185), 101), TimeTick(at(300)))

    assert [(bar.ts_event - START) // MINUTE for bar in bus.of(Bar)] == [0, 3]


def test_a_print_belongs_to_the_interval_of_the_exchanges_clock():
    bus = harness()

    bus.send(trade(at(60.5), 100, ts_event=at(59.9)), trade(at(59.5), 200, ts_event=at(60.1)))
    bus.send(TimeTick(at(200)))

    assert [(bar.ts_event, bar.close) for bar in bus.of(Bar)] == [(START, 100), (at(60), 200)]


def test_the_first_and_the_last_price_are_those_of_the_earliest_and_latest_print():
    bus = harness()

    for second, price in ((5, 100), (2, 90), (8, 110), (7, 120)):
        bus.send(trade(at(9), price, ts_event=at(second)))
    bus.send(TimeTick(at(63)))

    (bar,) = bus.of(Bar)
    assert (bar.open, bar.close, bar.high, bar.low) == (90, 110, 120, 90)


def test_what_comes_after_the_grace_is_left_out_and_logged_once_an_interval():
    bus = harness()
    with capture_logs() as logs:
        bus.send(trade(START, 100), TimeTick(at(63)))
        bus.send(trade(at(63), 500, ts_event=at(59)), trade(at(64), 500, ts_event=at(59)))
        bus.send(TimeTick(at(200)))

    assert [bar.high for bar in bus.of(Bar)] == [100]
    assert [(line["event"], line["late_ms"]) for line in logs] == [("bar.print_late", 3000)]


def test_a_print_of_nothing_makes_no_bar():
    assert harness().send(trade(START, 100, 0), TimeTick(at(63))) == []


@pytest.mark.parametrize(
    "doubt",
    [
        FeedLost(at(70), "test", "closed", 100),
        SequenceGap(at(70), "test", "BTC/USDT", 5, 7),
        ChannelLost(at(70), "test", "BTC/USDT", "trade", 5_000, "no trade"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_bar_in_which_something_may_be_missing_says_so(doubt):
    bus = harness()
    bus.send(trade(at(-5), 100), trade(at(5), 100), trade(at(65), 100), doubt, trade(at(75), 100))
    bus.send(trade(at(125), 100), trade(at(185), 100), TimeTick(at(300)))

    said = {(bar.ts_event - START) // MINUTE: bar.is_whole for bar in bus.of(Bar)}
    assert said == {-1: False, 0: True, 1: False, 2: True, 3: True}


def test_while_a_feed_is_lost_no_bar_is_whole():
    bus = harness()
    bus.send(trade(at(-5), 100), FeedLost(at(1), "test", "closed", 100), trade(at(100), 100))
    bus.send(trade(at(119), 100, exchange="other"), trade(at(125), 100), TimeTick(at(300)))

    said = {((bar.ts_event - START) // MINUTE): bar.is_whole for bar in bus.of(Bar) if bar.exchange == "test"}
    assert said == {-1: False, 1: False, 2: True}


def whole(bus, symbol="BTC/USDT"):
    return {(bar.ts_event - START) // MINUTE: bar.is_whole for bar in bus.of(Bar) if bar.symbol == symbol}


def test_while_the_prints_of_a_symbol_alone_are_lost_its_bars_are_not_whole():
    bus = harness()
    bus.send(trade(at(-5), 100), trade(at(5), 100), trade(at(6), 7, symbol="ETH/USDT"))
    bus.send(ChannelLost(at(50), "test", "BTC/USDT", "trade", 45_000, "no trade"))
    bus.send(FeedLost(at(50), "test", "no trade", 100), trade(at(65), 7, symbol="ETH/USDT"))
    bus.send(trade(at(125), 7, symbol="ETH/USDT"), trade(at(130), 100))
    bus.send(ChannelResumed(at(130), "test", "BTC/USDT", "trade", 125_000))
    bus.send(trade(at(170), 100), trade(at(185), 100), trade(at(186), 7, symbol="ETH/USDT"))
    bus.send(TimeTick(at(300)))

    assert whole(bus) == {-1: False, 0: False, 2: False, 3: True}
    assert whole(bus, "ETH/USDT") == {0: False, 1: False, 2: True, 3: True}


def test_a_lost_channel_of_quotes_takes_no_print_away():
    bus = harness()
    bus.send(trade(at(-5), 100), trade(at(5), 100))
    bus.send(ChannelLost(at(50), "test", "BTC/USDT", "quote", 45_000, "no quote"), trade(at(65), 100))
    bus.send(TimeTick(at(300)))

    assert whole(bus) == {-1: False, 0: True, 1: True}


def test_a_restart_while_prints_are_lost_does_not_forget_it():
    tape = [
        trade(at(-5), 100),
        ChannelLost(at(50), "test", "BTC/USDT", "trade", 45_000, "no trade"),
        trade(at(65), 100),
        trade(at(125), 100),
        TimeTick(at(300)),
    ]

    for cut in range(len(tape)):
        assert run_with_restarts(harness, tape, [cut]) == run_with_restarts(harness, tape, [])


def test_refuses_intervals_that_do_not_divide_a_day():
    with pytest.raises(ConfigError, match="seconds must divide 86400, a day, was 7; take 60"):
        harness(seconds=7)


PRINTS = st.lists(
    st.tuples(
        st.integers(0, 40 * NS_PER_S),  # how much later than the last
        st.integers(-3 * NS_PER_S, NS_PER_S),  # by how much the exchange's clock differs
        st.integers(1, 2**40),
        st.integers(1, 2**40),
        st.sampled_from(["BTC/USDT", "ETH/USDT"]),
    ),
    max_size=40,
)


def tape_of(prints):
    now, tape = START, []
    for later, difference, price, quantity, symbol in prints:
        now += later
        tape.append(trade(now, price, quantity, symbol, now + difference))
    return [*tape, TimeTick(now + 2 * MINUTE)]


def naive(tape, interval_ns):
    """Return what a list of all prints in time says, by (symbol, start)."""
    kept = defaultdict(list)
    for each in tape[:-1]:
        start = each.ts_event // interval_ns * interval_ns
        if each.ts_recv <= start + interval_ns + GRACE:
            kept[each.symbol, start].append(each)
    said = {}
    for key, prints in kept.items():
        by_time = sorted(enumerate(prints), key=lambda item: (item[1].ts_event, item[0]))
        last = max(each.ts_event for each in prints)
        prices = [each.price for each in prints]
        volume = sum(each.quantity for each in prints)
        vwap = Fraction(sum(each.price * each.quantity for each in prints), volume)
        said[key] = (
            next(each.price for each in prints if each.ts_event == by_time[0][1].ts_event),
            max(prices),
            min(prices),
            next(each.price for each in reversed(prints) if each.ts_event == last),
            volume,
            int(vwap * bars.VWAP_PER_TICK + Fraction(1, 2)),
            len(prints),
        )
    return said


@given(PRINTS)
def test_bars_are_what_a_list_of_all_prints_says(prints):
    tape = tape_of(prints)
    bus = harness(seconds=10)
    bus.send(*tape)

    said = {
        (b.symbol, b.ts_event): (b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trades)
        for b in bus.of(Bar)
    }
    assert said == naive(tape, 10 * NS_PER_S)


@given(PRINTS, st.lists(st.integers(0, 40), max_size=4))
def test_a_restart_anywhere_changes_nothing(prints, cuts):
    tape = tape_of(prints)

    assert run_with_restarts(lambda: harness(seconds=10), tape, cuts) == run_with_restarts(
        lambda: harness(seconds=10), tape, []
    )


# --- On real data -----------------------------------------------------------------------------------

CAPTURES = Path(os.environ.get("TICKERML_CAPTURES", Path(__file__).parents[3] / "shared" / "data")) / "raw_ws"


def recorded(*names):
    """Return the instruments by their symbol without its slash or dash, and the trades, of recorded files."""
    files = [str(CAPTURES / name) for name in names]
    source = Harness(capture, options={"exchange-capture": {"files": files}})
    messages = [each for _, batch in source.bus.component("exchange-capture").events() for each in batch]
    instruments = {m.symbol.replace("/", "").split("-")[0]: m for m in messages if isinstance(m, Instrument)}
    return instruments, [each for each in messages if isinstance(each, Trade)]


def frames(name):
    """Yield what came over the socket in a recorded file, as JSON."""
    for line in (CAPTURES / name).read_text().splitlines():
        time, _, frame = line.partition(": ")
        if frame.startswith("{") and time.replace(".", "").isdigit():
            yield json.loads(frame)


def bar_of(trades, start):
    """Return the bar that the plugin makes of *trades*, all of one minute."""
    bus = harness()
    bus.send(*trades, TimeTick(max([start + MINUTE + GRACE, *(each.ts_recv for each in trades)]) + 1))
    (bar,) = bus.of(Bar)
    return bar.open, bar.high, bar.low, bar.close, bar.volume, bar.vwap


def candle_of(instrument, prices, volume, turnover):
    """Return what an exchange says of an interval in ticks and lots, as bar_of does."""
    tick, lot = Decimal(instrument.tick_size) / UNIT, Decimal(instrument.lot_size) / UNIT
    vwap = Fraction(Decimal(turnover)) / Fraction(Decimal(volume)) / Fraction(tick) * bars.VWAP_PER_TICK
    return *(Decimal(price) / tick for price in prices), Decimal(volume) / lot, int(vwap + Fraction(1, 2))


@pytest.mark.parametrize(
    ("files", "candles"),
    [
        (
            (
                "binanceus/20211012_exchangeInfo.txt",
                "binanceus/20211012_4syms.snapshots.txt",
                "binanceus/20211012_4syms.ws.txt",
            ),
            1,
        ),
        (("binanceusdm/20210722_4syms.snapshots.txt", "binanceusdm/20210722_4syms.ws.txt"), 15),
    ],
    ids=["binanceus", "binanceusdm"],
)
@pytest.mark.captures
@pytest.mark.skipif(not CAPTURES.exists(), reason="needs the captures: set TICKERML_CAPTURES")
def test_bars_are_the_klines_of_binance_while_they_grow(files, candles):
    instruments, trades = recorded(*files)
    said = [frame["data"] for frame in frames(files[-1]) if "e" in frame.get("data", {})]
    prints = [each for each in said if each["e"] == "aggTrade"]  # of several trades each, from f to l
    last_ids = {(each["s"], each["a"]): each["l"] for each in prints}
    first_ids = {each["s"]: each["f"] for each in reversed(prints)}
    ends = {(each["s"], each["l"]) for each in prints}

    compared = 0
    for kline in (each["k"] for each in said if each["e"] == "kline"):
        symbol, start = kline["s"], kline["t"] * NS_PER_MS
        if kline["f"] < first_ids[symbol] or (symbol, kline["L"]) not in ends:
            continue  # it began before the recording, or ends within a print
        within = [
            each
            for each in trades
            if each.symbol == instruments[symbol].symbol
            and start <= each.ts_event < start + MINUTE
            and last_ids[symbol, each.seq] <= kline["L"]
        ]
        prices = kline["o"], kline["h"], kline["l"], kline["c"]
        assert bar_of(within, start) == candle_of(instruments[symbol], prices, kline["v"], kline["q"])
        compared += 1
    assert compared == candles


@pytest.mark.captures
@pytest.mark.skipif(not CAPTURES.exists(), reason="needs the captures: set TICKERML_CAPTURES")
def test_bars_are_the_candles_of_kucoin_while_they_grow():
    files = ("20210425_symbols.txt", "20210425_5syms.snapshots.txt", "20210425_5syms.ws.txt")
    instruments, trades = recorded(*(f"kucoin/{name}" for name in files))

    compared = 0
    for frame in frames(f"kucoin/{files[-1]}"):
        if "candles" not in frame.get("topic", "") or not float(frame["data"]["candles"][5]):
            continue
        start, opened, close, high, low, volume, turnover = frame["data"]["candles"]
        instrument = instruments[frame["data"]["symbol"].replace("-", "")]
        start = int(start) * NS_PER_S
        within = [
            each
            for each in trades
            if each.symbol == instrument.symbol
            and start <= each.ts_event < min(start + MINUTE, frame["data"]["time"])
        ]
        said = candle_of(instrument, (opened, high, low, close), volume, turnover)
        assert bar_of(within, start) == said
        compared += 1
    assert compared == 5
