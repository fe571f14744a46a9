"""What every exchange's feed shares: counts by symbol, clocks, numbers off the wire, names, and limits."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tickerml.exchanges.binance_sync import DepthSync, DepthUpdate
from tickerml.exchanges.decimals import level, nearest_ticks, pack, pack_json, units
from tickerml.exchanges.feed import Feed, Offset, Tally
from tickerml.exchanges.limits import Bucket, Rate
from tickerml.exchanges.symbols import (
    concatenated,
    dashed,
    kraken,
    to_concatenated,
    to_dashed,
    to_kraken_v1,
)
from tickerml.kernel import (
    BookDelta,
    BookSnapshot,
    BookState,
    Instrument,
    MalformedMessage,
    Message,
    SequenceGap,
    Side,
    StreamCount,
    Trade,
    levels,
    pack_levels,
)
from tickerml.kernel.testing import instrument

BTC = instrument("toy", tick="0.01", lot="0.00001")


class Toy(Feed):
    """An exchange whose frames are lists of [symbol, what, number]."""

    def symbol_of(self, wire: str) -> str:
        return dashed(wire)

    def wire_of(self, symbol: str) -> str:
        return to_dashed(symbol)

    def _sync(self, instrument: Instrument, was_whole: bool) -> DepthSync:
        return DepthSync(instrument.exchange, instrument.symbol, was_whole=was_whole)

    def _reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        raise MalformedMessage("unsupported request: none is known")

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        messages: list[Message] = []
        for wire, what, number in json.loads(raw):
            market = self._market(wire)
            name = market.instrument.symbol
            if what == "bad":
                messages += self._unread(market, ts_recv, MalformedMessage("malformed frame: a toy"))
            elif what == "book":
                whole = BookSnapshot(ts_recv, 0, "toy", name, number, pack_levels([(9, 1)]), b"")
                messages += self._announced(market, ts_recv, market.sync.on_snapshot(whole))
            elif what == "next":
                delta = BookDelta(ts_recv, ts_recv - 5, "toy", name, number, b"", b"")
                messages += market.sync.on_depth(DepthUpdate(number - 1, delta))
            else:
                trade = Trade(ts_recv, number, "toy", name, 1, 1, 1, Side.BUY)
                messages += self._announced(market, ts_recv, [trade])
        return messages


def toy(**settings: Any) -> Toy:
    return Toy("toy", structlog.get_logger(), **settings)


def frame(*events: tuple[str, str, int]) -> bytes:
    return json.dumps(events).encode()


# --- Counts -----------------------------------------------------------------------------------------


def test_frames_are_counted_by_symbol_and_those_of_none_under_no_name() -> None:
    feed = toy()
    feed.on_frame(1, frame(("BTC-USD", "book", 1)))
    feed.on_frame(2, frame(("BTC-USD", "next", 3)))
    feed.on_frame(3, frame(("ETH-USD", "trade", 1)))
    feed.on_frame(4, frame())

    streams = feed.summary(5).streams

    assert streams == {
        "": StreamCount(1, 1, 0, 0, 0, 0, 0),
        "BTC/USD": StreamCount(2, 2, 0, 1, 0, 0, 0),
        "ETH/USD": StreamCount(1, 1, 0, 0, 0, 0, 0),
    }


def test_a_frame_of_several_symbols_is_one_message_whatever_of_it_cannot_be_read() -> None:
    feed = toy()
    feed.on_frame(1, frame(("BTC-USD", "book", 1), ("ETH-USD", "book", 1)))

    messages = feed.on_frame(2, frame(("BTC-USD", "bad", 2), ("ETH-USD", "bad", 2)))

    summary = feed.summary(3)
    assert [type(message) for message in messages] == [SequenceGap, SequenceGap]
    assert (summary.messages, summary.skipped, summary.gaps) == (2, 1, 2)
    assert summary.reasons == {"malformed frame": 1}


def test_a_feed_counts_on_from_the_tally_of_the_one_before() -> None:
    first = toy()
    first.on_frame(1, frame(("BTC-USD", "book", 1)))

    second = toy(tally=first.tally, was_whole=True)
    again = second.on_frame(2, frame(("BTC-USD", "book", 5)))

    assert [type(message).__name__ for message in again] == ["Instrument", "BookSnapshot", "BookResynced"]
    assert (second.tally.messages, second.tally.books, second.tally.valid_books) == (2, 1, 1)


def test_a_book_given_up_is_a_gap_that_is_said_and_counted() -> None:
    feed = toy()
    feed.on_frame(1, frame(("BTC-USD", "book", 7)))

    assert feed.distrust(2, "BTC-USD") == [SequenceGap(2, "toy", "BTC/USD", 8, 0)]
    assert feed.book("BTC-USD").state is BookState.RESYNCING
    assert (feed.summary(3).gaps, feed.summary(3).valid_books) == (1, 0)


def test_when_a_symbol_last_spoke_is_known_and_a_heartbeat_is_no_symbol() -> None:
    feed = toy()
    feed.on_frame(5, frame(("BTC-USD", "trade", 1)))
    feed.on_frame(9, frame())

    assert feed.spoke_at == 5
    assert feed.wires == ["BTC-USD"]


# --- Clocks -----------------------------------------------------------------------------------------


def test_the_offset_of_the_clocks_is_the_least_latency_and_may_be_negative() -> None:
    feed = toy()
    for ts_recv, ts_event in ((100, 1_350), (200, 1_470), (300, 1_560)):
        feed.on_frame(ts_recv, frame(("BTC-USD", "trade", ts_event)))

    assert feed.summary(400).clock_offset_ns == -1_270


def test_the_offset_is_of_the_last_minutes_and_of_one_connection() -> None:
    offset = Offset()
    minute = 60 * 10**9
    offset.see(minute, minute - 3)
    offset.see(2 * minute, 2 * minute - 7)
    assert offset.ns == 3
    offset.see(3 * minute, 3 * minute - 9)
    assert offset.ns == 7

    offset.reset()

    assert offset.ns == 0


# --- Numbers ----------------------------------------------------------------------------------------


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_decimal_text_is_ticks_and_lots_to_the_last_digit(ticks: int, lots: int) -> None:
    price, quantity = f"{ticks // 100}.{ticks % 100:02d}", f"{lots // 10**5}.{lots % 10**5:05d}"

    assert level(BTC, price, quantity) == (ticks, lots)
    assert list(levels(pack([(price, quantity)], BTC))) == [(ticks, lots)]


NUMBER = st.decimals(0, 10**12, allow_nan=False, places=6).map(str) | st.sampled_from(
    ["0", "0.00000000", "61824.00000000", "-1.00", "1e2", "x", "", "00012.50", "85899345.93", "9" * 25]
)


@given(st.lists(st.tuples(NUMBER, NUMBER), max_size=5), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_a_side_read_at_once_is_the_side_read_number_by_number(
    side: list[tuple[str, str]], separators: tuple[str, str]
) -> None:
    def outcome(read: Callable[[], bytes]) -> bytes | str:
        try:
            return read()
        except MalformedMessage as error:
            return str(error)

    raw = json.dumps(side, separators=separators).encode()

    assert outcome(lambda: pack_json(raw, BTC)) == outcome(lambda: pack(side, BTC))


@given(st.lists(st.tuples(st.integers(0, 2**34), st.integers(0, 2**34)), min_size=1))
def test_a_side_on_the_grid_is_its_ticks_and_lots(side: list[tuple[int, int]]) -> None:
    texts = [[f"{p // 100}.{p % 100:02d}000000", f"{q // 10**5}.{q % 10**5:05d}"] for p, q in side]

    assert list(levels(pack_json(json.dumps(texts, separators=(",", ":")).encode(), BTC))) == side


@pytest.mark.parametrize(
    "raw", [b"[[1.5,2.0]]", b'[["1"]]', b'[["1","2","3"]]', b'{"1":"2"}', b"[[", b"null"]
)
def test_what_is_no_side_of_a_book_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedMessage, match="malformed frame"):
        pack_json(raw, BTC)


@pytest.mark.parametrize("text", ["", "x", "nan", "1e400", "0.001", "-0.01", "99999999999999999999"])
def test_what_is_no_price_on_the_grid_is_malformed(text: str) -> None:
    with pytest.raises(MalformedMessage, match="number off the grid"):
        level(BTC, text, "1")


@pytest.mark.parametrize(("text", "ticks"), [("100.004", 10_000), ("100.006", 10_001), ("", 0)])
def test_a_price_that_is_not_traded_at_is_rounded_to_the_nearest_tick(text: str, ticks: int) -> None:
    assert nearest_ticks(BTC, text) == ticks


@pytest.mark.parametrize("text", ["x", "nan", "inf", "-1", "1e30"])
def test_what_is_no_price_at_all_is_malformed(text: str) -> None:
    with pytest.raises(MalformedMessage, match="expected a price"):
        nearest_ticks(BTC, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.0001", 10**8), ("-0.00375", -3_750_000_000), ("1.5e-13", 0), ("0.00000000000051", 1), ("", 0)],
)
def test_a_rate_is_in_units_of_a_millionth_of_a_millionth(text: str, expected: int) -> None:
    assert units(text) == expected


@pytest.mark.parametrize("text", ["x", "nan", "1e999"])
def test_what_is_no_rate_is_malformed(text: str) -> None:
    with pytest.raises(MalformedMessage, match="expected a decimal number"):
        units(text)


# --- Names ------------------------------------------------------------------------------------------

ASSET = st.sampled_from(["BTC", "ETH", "USD", "USDT", "DOGE", "SOL"])


@given(ASSET, st.sampled_from(["USD", "USDT", "BTC", "EUR"]))
def test_a_symbol_is_written_as_each_exchange_does_and_read_back(base: str, quote: str) -> None:
    symbol = f"{base}/{quote}"

    assert dashed(to_dashed(symbol)) == symbol
    assert kraken(to_kraken_v1(symbol)) == symbol
    assert kraken(symbol) == symbol
    assert concatenated(to_concatenated(symbol)) == symbol


def test_kraken_has_its_own_names_for_bitcoin_and_dogecoin() -> None:
    assert (kraken("XBT/USD"), kraken("XDG/XBT")) == ("BTC/USD", "DOGE/BTC")
    assert to_kraken_v1("DOGE/BTC") == "XDG/XBT"


@pytest.mark.parametrize("wire", ["", "BTCUSD", "-USD", "BTC-", "BTC-USD-X", "BTC USD"])
def test_what_is_not_two_names_is_no_symbol(wire: str) -> None:
    for read in (dashed, kraken):
        with pytest.raises(MalformedMessage, match="unknown symbol"):
            read(wire)


# --- Limits -----------------------------------------------------------------------------------------


def test_a_burst_goes_at_once_and_then_one_a_period() -> None:
    bucket = Bucket(Rate(burst=2, period_s=3.0))

    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 3.0, 6.0]
    assert bucket.take(109.0) == 0.0
    assert bucket.take(1_000.0) == bucket.take(1_000.0) == 0.0


@given(
    st.integers(1, 5),
    st.floats(0.1, 10.0),
    st.lists(st.floats(0.0, 5.0), max_size=40),
)
def test_no_span_of_time_ever_sees_more_than_the_rate(burst: int, period_s: float, gaps: list[float]) -> None:
    bucket, now = Bucket(Rate(burst, period_s)), 0.0
    sent = []
    for gap in gaps:
        now += gap
        sent.append(now + bucket.take(now))

    assert sent == sorted(sent)
    for first, last in itertools.combinations(range(len(sent)), 2):
        assert last - first + 1 <= burst + (sent[last] - sent[first]) / period_s + 1e-6


def test_a_tally_starts_with_nothing() -> None:
    assert (Tally().messages, Tally().skipped, Tally().gaps, Tally().crossed_books) == (0, 0, 0, 0)
