"""The wire format, symbol by symbol and frame by frame, and the book kept in step."""

import json
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tickerml.exchanges import binanceusdm
from tickerml.exchanges.binance_sync import DepthSync, DepthUpdate
from tickerml.exchanges.binance_wire import (
    DEFAULT_RULES,
    SpotFeed,
    UsdmFeed,
    default_instrument,
    parse_agg_trade,
    parse_book_ticker,
    parse_depth,
    parse_exchange_info,
    parse_mark_price,
    parse_snapshot,
    parse_trade,
    split_frame,
    usdm_symbol,
    usdm_wire,
)
from tickerml.exchanges.feed import Tally
from tickerml.exchanges.symbols import concatenated as to_symbol
from tickerml.exchanges.symbols import to_concatenated as to_wire
from tickerml.kernel import (
    BookCrossed,
    BookDelta,
    BookResynced,
    BookSnapshot,
    BookState,
    FundingUpdated,
    Instrument,
    MalformedMessage,
    Message,
    OrderBook,
    Quote,
    SequenceGap,
    Side,
    Trade,
    levels,
    pack_levels,
    to_units,
)
from tickerml.kernel.testing import instrument

from .connectors import LiveContext

BTC = instrument("binance", tick="0.01", lot="0.00001")

DEPTH = {
    "e": "depthUpdate",
    "E": 1700000000123,
    "s": "BTCUSDT",
    "U": 157,
    "u": 160,
    "b": [["100.00000000", "1.50000000"], ["99.99000000", "0.00000000"]],
    "a": [["100.01000000", "0.00001000"]],
}
TRADE = {
    "e": "trade",
    "E": 1700000000124,
    "s": "BTCUSDT",
    "t": 12345,
    "p": "100.01000000",
    "q": "0.10000000",
    "T": 1700000000122,
    "m": True,
    "M": True,
}
AGG_TRADE = {
    "e": "aggTrade",
    "E": 1700000000124,
    "s": "BTCUSDT",
    "a": 26129,
    "p": "100.00000000",
    "q": "2.00000000",
    "f": 100,
    "l": 105,
    "T": 1700000000120,
    "m": False,
    "M": True,
}
TICKER = {"u": 400, "s": "BTCUSDT", "b": "100.00", "B": "31.21", "a": "100.01", "A": "40.66"}
REST_DEPTH = {"lastUpdateId": 158, "bids": [["100.00", "1"]], "asks": [["100.01", "2"], ["100.02", "3.0"]]}


DEPTH_URL = "https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=1000"
INFO_URL = "https://api.binance.com/api/v3/exchangeInfo"


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def framed(stream: str, data: Any) -> bytes:
    return raw({"stream": stream, "data": data})


# --- Symbols and instruments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "symbol"),
    [
        ("BTCUSDT", "BTC/USDT"),
        ("BTCUSD", "BTC/USD"),
        ("ETHBTC", "ETH/BTC"),
        ("OMGBUSD", "OMG/BUSD"),
        ("BNBUSD", "BNB/USD"),
        ("SHIBUSD", "SHIB/USD"),
        ("BNBBUSD", "BNB/BUSD"),
        ("USDTUSD", "USDT/USD"),
        ("DOTUSD", "DOT/USD"),
        ("BTCFDUSD", "BTC/FDUSD"),
        ("ETHEUR", "ETH/EUR"),
    ],
)
def test_a_symbol_is_split_at_its_quote_asset_and_joined_again(wire: str, symbol: str) -> None:
    assert to_symbol(wire) == symbol
    assert to_wire(symbol) == wire


@pytest.mark.parametrize("wire", ["", "USDT", "BTCXYZ"])
def test_a_symbol_without_a_known_quote_asset_is_refused(wire: str) -> None:
    with pytest.raises(MalformedMessage, match="unknown symbol: expected a known quote asset"):
        to_symbol(wire)


def test_the_known_pairs_have_their_steps_limits_and_dated_fees() -> None:
    btc = default_instrument("binance", "BTCUSDT")
    eth = default_instrument("binanceus", "ETHUSD")

    assert (btc.base, btc.quote, btc.tick_size, btc.lot_size) == ("BTC", "USDT", to_units("0.01"), 10**6)
    assert btc.min_quantity * btc.lot_size == to_units("0.00001")
    assert (btc.min_notional, eth.min_notional) == (to_units(5), to_units(10))
    assert (eth.tick_size, eth.lot_size) == (to_units("0.01"), to_units("0.00001"))
    assert (btc.maker_fee_ppm, btc.taker_fee_ppm) == (1000, 1000)
    assert btc.fees_as_of
    assert {exchange for exchange, _ in DEFAULT_RULES} == {"binance", "binanceus"}


def test_an_unknown_pair_gets_a_scale_that_holds_any_text() -> None:
    unknown = default_instrument("binance", "DOGEUSDT")

    trade = parse_trade(raw(TRADE | {"p": "0.05790001", "q": "0.00000001"}), unknown, 1)

    assert (unknown.symbol, trade.price, trade.quantity) == ("DOGE/USDT", 5_790_001, 1)


LISTING = {
    "symbol": "BNBUSD",
    "baseAsset": "BNB",
    "baseAssetPrecision": 8,
    "quoteAsset": "USD",
    "filters": [
        {"filterType": "PRICE_FILTER", "minPrice": "0.0001", "maxPrice": "100000", "tickSize": "0.00010000"},
        {"filterType": "LOT_SIZE", "minQty": "0.01", "maxQty": "9000.0", "stepSize": "0.01000000"},
        {"filterType": "MIN_NOTIONAL", "minNotional": "10.0"},
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
    ],
}


def test_exchange_info_gives_instruments_whose_lots_are_finer_than_the_order_step() -> None:
    found = parse_exchange_info(raw({"symbols": [LISTING]}), "binanceus", 7)["BNBUSD"]

    assert (found.ts_recv, found.exchange, found.symbol) == (7, "binanceus", "BNB/USD")
    assert (found.tick_size, found.lot_size) == (to_units("0.0001"), to_units("0.00001"))
    assert (found.min_quantity, found.max_quantity) == (1_000, 900_000_000)
    assert found.min_notional == to_units(10)
    assert (found.max_orders, found.buy_band_ppm, found.sell_band_ppm) == (200, (0, 0), (0, 0))


def test_how_far_from_the_average_a_price_may_be_is_said_by_side_or_for_both() -> None:
    by_side = {
        "filterType": "PERCENT_PRICE_BY_SIDE",
        "bidMultiplierUp": "5",
        "bidMultiplierDown": "0.2",
        "askMultiplierUp": "4.5",
        "askMultiplierDown": "0.3",
        "avgPriceMins": 1,
    }
    either = {"filterType": "PERCENT_PRICE", "multiplierUp": "1.1", "multiplierDown": "0.9"}
    crowd = {"filterType": "MAX_NUM_ORDERS", "limit": 150}

    def listed(*filters: object) -> Instrument:
        listing = LISTING | {"filters": list(filters)}
        return parse_exchange_info(raw({"symbols": [listing]}), "binanceus", 7)["BNBUSD"]

    spot, futures = listed(by_side), listed(either, crowd)
    assert (spot.buy_band_ppm, spot.sell_band_ppm, spot.average_minutes) == (
        (200_000, 5_000_000),
        (300_000, 4_500_000),
        1,
    )
    assert futures.buy_band_ppm == futures.sell_band_ppm == (900_000, 1_100_000)
    assert (futures.average_minutes, futures.max_orders) == (0, 150)


def test_lots_are_never_finer_than_the_asset_itself() -> None:
    found = parse_exchange_info(raw({"symbols": [LISTING | {"baseAssetPrecision": 3}]}), "binanceus", 7)

    assert found["BNBUSD"].lot_size == to_units("0.001")


def test_an_instrument_without_filters_gets_the_finest_scale_and_no_limits() -> None:
    found = parse_exchange_info(raw({"symbols": [LISTING | {"filters": []}]}), "binanceus", 7)["BNBUSD"]

    assert (found.tick_size, found.lot_size) == (10**4, 10**4)
    assert (found.min_quantity, found.max_quantity, found.min_notional) == (1, 0, 0)


def test_exchange_info_that_is_something_else_is_malformed() -> None:
    for text in (b"", b"[]", b"{}", raw({"symbols": [{"symbol": "X"}]})):
        with pytest.raises(MalformedMessage, match="malformed exchangeInfo"):
            parse_exchange_info(text, "binanceus", 7)


# --- Frames -----------------------------------------------------------------------------------------


def test_a_combined_frame_is_split_into_stream_and_data() -> None:
    stream, data = split_frame(framed("btcusdt@trade", TRADE))

    assert stream == "btcusdt@trade"
    assert json.loads(data) == TRADE


def test_the_answer_to_a_request_is_an_empty_frame() -> None:
    assert split_frame(b'{"result":null,"id":1}') == ("", b"")


def test_a_depth_update_becomes_a_delta_and_its_first_number() -> None:
    prior, delta = parse_depth(raw(DEPTH), BTC, 5)

    assert prior == 156
    assert (delta.ts_recv, delta.ts_event, delta.seq) == (5, 1_700_000_000_123_000_000, 160)
    assert (delta.exchange, delta.symbol) == ("binance", "BTC/USDT")
    assert list(levels(delta.bids)) == [(10_000, 150_000), (9_999, 0)]
    assert list(levels(delta.asks)) == [(10_001, 1)]


def test_a_trade_whose_buyer_is_the_maker_was_made_by_a_seller() -> None:
    assert parse_trade(raw(TRADE), BTC, 5) == Trade(
        5, 1_700_000_000_122_000_000, "binance", "BTC/USDT", 12345, 10_001, 10_000, Side.SELL
    )
    assert parse_trade(raw(TRADE | {"m": False}), BTC, 5).aggressor is Side.BUY


def test_an_aggregate_trade_becomes_a_trade_with_its_own_number() -> None:
    assert parse_agg_trade(raw(AGG_TRADE), BTC, 5) == Trade(
        5, 1_700_000_000_120_000_000, "binance", "BTC/USDT", 26129, 10_000, 200_000, Side.BUY
    )


def test_a_book_ticker_becomes_a_quote_without_a_time_of_the_exchange() -> None:
    expected = Quote(5, 0, "binance", "BTC/USDT", 400, 10_000, 3_121_000, 10_001, 4_066_000)

    assert parse_book_ticker(raw(TICKER), BTC, 5) == expected
    assert parse_book_ticker(raw(TICKER | {"E": 3}), BTC, 5).ts_event == 3_000_000


def test_a_rest_depth_reply_becomes_a_snapshot() -> None:
    snapshot = parse_snapshot(raw(REST_DEPTH), BTC, 5)

    assert (snapshot.ts_recv, snapshot.ts_event, snapshot.seq) == (5, 0, 158)
    assert list(levels(snapshot.bids)) == [(10_000, 100_000)]
    assert list(levels(snapshot.asks)) == [(10_001, 200_000), (10_002, 300_000)]


@pytest.mark.parametrize(
    ("parse", "good", "change"),
    [
        (parse_depth, DEPTH, {"b": [["100.00"]]}),
        (parse_depth, DEPTH, {"b": [["100.00", 1.5]]}),
        (parse_depth, DEPTH, {"b": [["-100.00", "1.0"]]}),
        (parse_depth, DEPTH, {"b": [["100.001", "1.0"]]}),
        (parse_depth, DEPTH, {"a": [["100.00", "0.000001"]]}),
        (parse_depth, DEPTH, {"a": [["nan", "1"]]}),
        (parse_depth, DEPTH, {"a": [["inf", "1"]]}),
        (parse_depth, DEPTH, {"a": [["1e30", "1"]]}),
        (parse_depth, DEPTH, {"u": 156}),
        (parse_depth, DEPTH, {"u": "160"}),
        (parse_depth, DEPTH, {"E": -1}),
        (parse_depth, DEPTH, {"E": 10**30}),
        (parse_depth, DEPTH, {"pu": 160}),
        (parse_depth, DEPTH, {"pu": "156"}),
        (parse_trade, TRADE, {"p": "x"}),
        (parse_trade, TRADE, {"p": "1e300"}),
        (parse_trade, TRADE, {"q": "-1.0"}),
        (parse_trade, TRADE, {"m": 1}),
        (parse_agg_trade, AGG_TRADE, {"a": None}),
        (parse_book_ticker, TICKER, {"B": "abc"}),
        (parse_book_ticker, TICKER, {"u": -1}),
        (parse_snapshot, REST_DEPTH, {"lastUpdateId": None}),
        (parse_snapshot, REST_DEPTH, {"asks": "none"}),
    ],
)
def test_a_frame_off_the_documented_format_is_malformed(parse: Any, good: Any, change: Any) -> None:
    parse(raw(good), BTC, 5)

    with pytest.raises(MalformedMessage):
        parse(raw(good | change), BTC, 5)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_at_all_do_more_than_be_skipped(data: bytes) -> None:
    feed = SpotFeed("binance", structlog.get_logger())

    messages = feed.on_frame(1, data) + feed.on_reply(1, DEPTH_URL, data)
    feed.on_reply(1, INFO_URL, data)

    assert messages == []
    assert feed.tally.messages == feed.tally.skipped == 3


# --- USD-M futures ----------------------------------------------------------------------------------

PERP = instrument("binanceusdm", "BTC/USDT-PERP", tick="0.1", lot="0.001")
MARK = {
    "e": "markPriceUpdate",
    "E": 1700000000500,
    "s": "BTCUSDT",
    "p": "61800.27419",
    "i": "61823.6",
    "P": "61801.1",
    "r": "-0.00012345",
    "T": 1700006400000,
}


@pytest.mark.parametrize(
    ("wire", "symbol"),
    [("BTCUSDT", "BTC/USDT-PERP"), ("ETHUSDC", "ETH/USDC-PERP"), ("BTCUSDT_260925", "BTC/USDT-20260925")],
)
def test_a_future_has_its_end_in_its_name_or_that_it_has_none(wire: str, symbol: str) -> None:
    assert usdm_symbol(wire) == symbol
    assert usdm_wire(symbol) == wire


def test_a_future_s_update_follows_the_one_it_names() -> None:
    prior, delta = parse_depth(raw(DEPTH | {"U": 300, "u": 310, "pu": 250}), BTC, 5)

    assert (prior, delta.seq) == (250, 310)


def test_a_mark_price_is_funding_in_ticks_and_millionths_of_a_millionth() -> None:
    found = parse_mark_price(raw(MARK), PERP, 7)

    assert (found.ts_recv, found.ts_event, found.symbol) == (7, 1_700_000_000_500_000_000, "BTC/USDT-PERP")
    assert (found.mark, found.index) == (618_003, 618_236)  # to the nearest tick
    assert (found.rate, found.predicted) == (-123_450_000, 0)
    assert (found.next_ts, found.interval_s) == (1_700_006_400_000_000_000, 8 * 3600)


def test_the_terms_of_a_perpetual_that_deviates_come_from_rest() -> None:
    feed = UsdmFeed("binanceusdm", structlog.get_logger())
    terms = [
        {
            "symbol": "BTCUSDT",
            "adjustedFundingRateCap": "0.02",
            "adjustedFundingRateFloor": "-0.02",
            "fundingIntervalHours": 4,
        }
    ]
    feed.on_reply(1, "https://fapi.binance.com/fapi/v1/fundingInfo", raw(terms))

    said, funding = feed.on_frame(2, framed("btcusdt@markPrice@1s", MARK))

    assert isinstance(said, Instrument)
    assert isinstance(funding, FundingUpdated)
    assert (funding.interval_s, funding.cap, funding.floor) == (4 * 3600, 2 * 10**10, -2 * 10**10)


def test_a_future_is_listed_with_its_own_filters_and_fees() -> None:
    listing = LISTING | {
        "symbol": "BNBUSDT_260925",
        "quoteAsset": "USDT",
        "filters": [
            {"filterType": "PRICE_FILTER", "tickSize": "0.010"},
            {"filterType": "LOT_SIZE", "stepSize": "0.01", "minQty": "0.01"},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
        ],
    }

    (found,) = parse_exchange_info(raw({"symbols": [listing]}), "binanceusdm", 7, is_usdm=True).values()

    assert (found.symbol, found.base, found.quote) == ("BNB/USDT-20260925", "BNB", "USDT")
    assert (found.min_notional, found.maker_fee_ppm, found.taker_fee_ppm) == (to_units(5), 200, 500)


def test_a_future_s_book_is_in_step_from_the_update_that_straddles_its_snapshot() -> None:
    feed = UsdmFeed("binanceusdm", structlog.get_logger())

    def depth(prior: int, first: int, last: int) -> list[Message]:
        change = DEPTH | {"pu": prior, "U": first, "u": last}
        return feed.on_frame(last, framed("btcusdt@depth@100ms", change))

    assert depth(100, 140, 150) == depth(150, 155, 170) == []
    url = "https://fapi.binance.com/fapi/v1/depth?symbol=BTCUSDT&limit=1000"
    messages = feed.on_reply(200, url, raw(REST_DEPTH | {"lastUpdateId": 160, "E": 9}))
    assert [type(message) for message in messages] == [Instrument, BookSnapshot, BookDelta]
    assert [type(message) for message in depth(170, 300, 310)] == [BookDelta]

    assert depth(400, 410, 420) == [SequenceGap(420, "binanceusdm", "BTC/USDT-PERP", 311, 401)]


def test_the_futures_are_asked_for_at_both_of_their_entrances() -> None:
    spec = binanceusdm.tickerml_exchanges()[0]
    options = msgspec.convert({"symbols": ["BTC/USDT-PERP"]}, spec.options)
    venue = spec.factory(LiveContext(spec.id), options)._venue  # type: ignore[arg-type]

    main = venue.socket(["BTCUSDT"], b"")

    assert (main.url, main.also[0].url) == (
        "wss://fstream.binance.com/public/stream",
        "wss://fstream.binance.com/market/stream",
    )
    assert json.loads(main.greeting[0])["params"] == ["btcusdt@depth@100ms", "btcusdt@bookTicker"]
    assert json.loads(main.also[0].greeting[0])["params"] == ["btcusdt@aggTrade", "btcusdt@markPrice@1s"]
    assert [request.url for request in venue.listing()] == [
        "https://fapi.binance.com/fapi/v1/exchangeInfo",
        "https://fapi.binance.com/fapi/v1/fundingInfo",
    ]
    assert FundingUpdated in spec.publishes


# --- A book kept in step ----------------------------------------------------------------------------


def update(first: int, last: int, bids: Any = (), asks: Any = (), ts: int = 1) -> DepthUpdate:
    delta = BookDelta(ts, ts, "binance", "BTC/USDT", last, pack_levels(bids), pack_levels(asks))
    return DepthUpdate(first - 1, delta)


def whole(seq: int, bids: Any = ((90, 1),), asks: Any = ((110, 1),), ts: int = 1) -> BookSnapshot:
    return BookSnapshot(ts, 0, "binance", "BTC/USDT", seq, pack_levels(bids), pack_levels(asks))


def in_step(seq: int) -> DepthSync:
    sync = DepthSync("binance", "BTC/USDT")
    sync.on_snapshot(whole(seq))
    return sync


def test_updates_wait_for_the_snapshot_and_those_it_holds_are_dropped() -> None:
    sync = DepthSync("binance", "BTC/USDT")
    for first, last in ((1, 3), (4, 6), (7, 9)):
        assert sync.on_depth(update(first, last, bids=[(80, last)], ts=last)) == []

    messages = sync.on_snapshot(whole(5, ts=20))

    assert [(type(message), getattr(message, "seq", 0)) for message in messages] == [
        (BookSnapshot, 5),
        (BookDelta, 6),
        (BookDelta, 9),
    ]
    assert [message.ts_recv for message in messages] == [20, 20, 20]
    assert not sync.needs_snapshot
    assert sync.book.bids.quantities == {90: 1, 80: 9}


def test_a_snapshot_that_comes_first_waits_for_the_update_that_straddles_it() -> None:
    sync = in_step(5)

    assert sync.on_depth(update(1, 3)) == []
    assert sync.on_depth(update(4, 5)) == []
    assert len(sync.on_depth(update(5, 7))) == 1
    assert sync.book.seq == 7


def test_the_update_right_after_the_snapshot_is_next() -> None:
    assert len(in_step(5).on_depth(update(6, 6))) == 1


def test_a_snapshot_too_old_for_the_waiting_updates_is_dropped_and_another_needed() -> None:
    sync = DepthSync("binance", "BTC/USDT")
    sync.on_depth(update(7, 9))

    assert sync.on_snapshot(whole(5)) == []
    assert sync.needs_snapshot
    assert len(sync.on_snapshot(whole(6))) == 2


def test_a_missing_update_is_a_gap_and_a_new_snapshot_ends_it() -> None:
    sync = in_step(5)
    sync.on_depth(update(6, 7))

    gap = sync.on_depth(update(9, 9, ts=3))

    assert gap == [SequenceGap(3, "binance", "BTC/USDT", 8, 9)]
    assert sync.needs_snapshot
    assert sync.on_depth(update(10, 10)) == []
    assert [type(message) for message in sync.on_snapshot(whole(8))] == [
        BookSnapshot,
        BookDelta,
        BookDelta,
        BookResynced,
    ]
    assert sync.book.seq == 10


def test_an_update_that_overlaps_the_one_before_is_a_gap() -> None:
    sync = in_step(5)
    sync.on_depth(update(6, 8))

    assert [type(message) for message in sync.on_depth(update(8, 9))] == [SequenceGap]


def test_a_duplicate_changes_nothing() -> None:
    sync = in_step(5)
    sync.on_depth(update(4, 6))
    sync.on_depth(update(7, 8))

    assert sync.on_depth(update(7, 8)) == []
    assert sync.on_depth(update(4, 6)) == []
    assert not sync.needs_snapshot


def test_numbers_that_start_again_from_below_are_a_gap_not_duplicates_for_ever() -> None:
    sync = in_step(1000)
    sync.on_depth(update(1001, 1001))

    assert [type(message) for message in sync.on_depth(update(1, 1))] == [SequenceGap]


def test_a_gap_among_the_waiting_updates_is_said_when_the_snapshot_comes() -> None:
    sync = DepthSync("binance", "BTC/USDT")
    sync.on_depth(update(6, 6))
    sync.on_depth(update(8, 8))

    messages = sync.on_snapshot(whole(5))

    assert [type(message) for message in messages] == [BookSnapshot, BookDelta, SequenceGap]
    assert sync.needs_snapshot
    assert [type(message) for message in sync.on_snapshot(whole(7))] == [
        BookSnapshot,
        BookDelta,
        BookResynced,
    ]


def test_a_book_in_step_ignores_an_older_snapshot_and_takes_a_newer_one() -> None:
    sync = in_step(5)
    sync.on_depth(update(6, 7))

    assert sync.on_snapshot(whole(7)) == []
    assert [type(message) for message in sync.on_snapshot(whole(9))] == [BookSnapshot]
    assert sync.on_depth(update(8, 9)) == []
    assert len(sync.on_depth(update(10, 10))) == 1


def test_a_lost_connection_forgets_what_waits_and_the_next_snapshot_is_a_resync() -> None:
    sync = in_step(5)
    sync.on_lost()
    sync.on_depth(update(20, 20))
    sync.on_lost()

    assert [type(message) for message in sync.on_snapshot(whole(10))] == [BookSnapshot, BookResynced]
    assert [type(message) for message in sync.on_snapshot(whole(11))] == [BookSnapshot]


def test_a_book_lost_before_it_was_ever_whole_is_not_resynced() -> None:
    sync = DepthSync("binance", "BTC/USDT")
    sync.on_lost()

    assert [type(message) for message in sync.on_snapshot(whole(10))] == [BookSnapshot]


def test_a_book_that_becomes_crossed_is_said_once_until_it_is_crossed_anew() -> None:
    sync = in_step(5)

    crossed = sync.on_depth(update(6, 6, bids=[(110, 2)]))
    still = sync.on_depth(update(7, 7, bids=[(111, 2)]))
    sync.on_depth(update(8, 8, bids=[(110, 0), (111, 0)]))
    anew = sync.on_depth(update(9, 9, asks=[(90, 1)]))

    assert crossed[1:] == [BookCrossed(1, "binance", "BTC/USDT", 6, 110, 110)]
    assert len(still) == 1
    assert [type(message) for message in anew] == [BookDelta, BookCrossed]


class Exchange:
    """A naive exchange: every change has a number, and the whole book is kept for each number."""

    def __init__(self) -> None:
        self.seq = 100
        self.books: dict[int, tuple[dict[int, int], dict[int, int]]] = {100: ({90: 1}, {110: 1})}

    def update(self, changes: list[tuple[int, int]], ts: int) -> DepthUpdate:
        first, latest = self.seq + 1, dict(changes)
        for price, quantity in changes:
            bids, asks = (dict(side) for side in self.books[self.seq])
            (bids if price < 100 else asks)[price] = quantity
            self.seq += 1
            self.books[self.seq] = (
                {price: quantity for price, quantity in bids.items() if quantity},
                {price: quantity for price, quantity in asks.items() if quantity},
            )
        bids_now = [(price, quantity) for price, quantity in latest.items() if price < 100]
        asks_now = [(price, quantity) for price, quantity in latest.items() if price >= 100]
        return update(first, self.seq, bids_now, asks_now, ts)

    def snapshot(self, age: int, ts: int) -> BookSnapshot:
        seq = max(100, self.seq - age)
        bids, asks = self.books[seq]
        return whole(seq, bids.items(), asks.items(), ts)


class Subscriber:
    """Keeps a book from what is published, as the bus does, and checks it against the exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.book = OrderBook("binance", "BTC/USDT")
        self.ts_recv = 0
        self.gaps = 0

    def hear(self, messages: list[Message]) -> None:
        for message in messages:
            assert message.ts_recv >= self.ts_recv
            self.ts_recv = message.ts_recv
            if isinstance(message, BookSnapshot):
                self.book.apply_snapshot(message)
            elif isinstance(message, BookDelta):
                self.book.apply_delta(message)
            elif isinstance(message, SequenceGap):
                self.gaps += 1
                self.book.state = BookState.RESYNCING
        if self.book.state is BookState.VALID:
            truth = self.exchange.books[self.book.seq]
            assert (self.book.bids.quantities, self.book.asks.quantities) == truth


CHANGES = st.lists(
    st.tuples(st.sampled_from([80, 85, 90, 110, 115, 120]), st.integers(0, 3)), min_size=1, max_size=4
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["deliver", "deliver", "drop", "twice", "repeat"]), CHANGES),
        st.tuples(st.just("ask"), st.integers(0, 5)),
        st.tuples(st.just("reply"), st.none()),
        st.tuples(st.just("lose"), st.none()),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_is_lost_late_or_doubled_a_book_is_true_or_says_that_it_is_not(
    steps: list[tuple[str, Any]],
) -> None:
    exchange, sync = Exchange(), DepthSync("binance", "BTC/USDT")
    subscriber, replies, sent = Subscriber(exchange), list[BookSnapshot](), list[DepthUpdate]()
    for ts, (step, argument) in enumerate(steps):
        if step == "ask":
            replies.append(exchange.snapshot(argument, ts))
        elif step == "reply" and replies:
            subscriber.hear(sync.on_snapshot(msgspec.structs.replace(replies.pop(0), ts_recv=ts)))
        elif step == "lose":
            sync.on_lost()
            subscriber.book.state = BookState.RESYNCING
        elif step in ("deliver", "drop", "twice", "repeat"):
            sent.append(exchange.update(argument, ts))
            delivered = {"drop": [], "twice": [sent[-1]] * 2, "repeat": [sent[-1], sent[len(sent) // 2]]}
            for prior, delta in delivered.get(step, [sent[-1]]):
                now = msgspec.structs.replace(delta, ts_recv=ts)
                subscriber.hear(sync.on_depth(DepthUpdate(prior, now)))

    assert sync.needs_snapshot == (subscriber.book.state is BookState.RESYNCING)
    subscriber.hear(sync.on_snapshot(exchange.snapshot(0, len(steps))))
    subscriber.hear(sync.on_depth(exchange.update([(80, 2)], len(steps))))
    assert (subscriber.book.state, subscriber.book.seq) == (BookState.VALID, exchange.seq)


@given(st.lists(CHANGES, max_size=30), st.integers(0, 30), st.integers(0, 10))
def test_an_undisturbed_stream_has_no_gap_wherever_its_snapshot_comes(
    stream: list[list[tuple[int, int]]], at: int, age: int
) -> None:
    exchange, sync = Exchange(), DepthSync("binance", "BTC/USDT")
    subscriber = Subscriber(exchange)
    for ts, changes in enumerate(stream):
        if ts == at:
            subscriber.hear(sync.on_snapshot(exchange.snapshot(age, ts)))
        subscriber.hear(sync.on_depth(exchange.update(changes, ts)))

    assert subscriber.gaps == 0
    assert sync.needs_snapshot == (at >= len(stream))
    assert sync.needs_snapshot or subscriber.book.seq == exchange.seq


# --- One exchange -----------------------------------------------------------------------------------


def test_a_symbol_s_instrument_comes_before_its_first_message_and_once() -> None:
    feed = SpotFeed("binance", structlog.get_logger())

    first = feed.on_frame(5, framed("btcusdt@trade", TRADE))
    second = feed.on_frame(6, framed("btcusdt@aggTrade", AGG_TRADE))
    other = feed.on_frame(7, framed("ethusdt@bookTicker", TICKER))

    kinds = [type(message) for message in first + second + other]
    assert kinds == [Instrument, Trade, Trade, Instrument, Quote]
    assert (first[0].ts_recv, other[0].ts_recv) == (5, 7)


def test_exchange_info_decides_the_scale_unless_the_symbol_is_in_use() -> None:
    info = raw({"symbols": [LISTING | {"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT"}]})
    early, late = SpotFeed("binance", structlog.get_logger()), SpotFeed("binance", structlog.get_logger())

    early.on_reply(1, INFO_URL, info)
    late.on_frame(1, framed("btcusdt@trade", TRADE))
    late.on_reply(1, INFO_URL, info)

    (trade,) = late.on_frame(2, framed("btcusdt@trade", TRADE))
    announced = early.on_frame(2, framed("btcusdt@trade", TRADE))[0]
    assert isinstance(announced, Instrument)
    assert announced.tick_size == to_units("0.0001")
    assert isinstance(trade, Trade)
    assert trade.price == 10_001
    assert early.lists("BTCUSDT")
    assert not early.lists("ETHUSDT")


def test_a_depth_frame_that_cannot_be_read_is_a_gap_at_once() -> None:
    feed = SpotFeed("binance", structlog.get_logger())
    feed.on_reply(1, DEPTH_URL, raw(REST_DEPTH))

    broken = feed.on_frame(2, framed("btcusdt@depth@100ms", DEPTH | {"b": [["1", "x"]]}))

    assert broken == [SequenceGap(2, "binance", "BTC/USDT", 159, 0)]
    assert feed.needs_snapshot("BTCUSDT")
    assert (feed.tally.gaps, feed.tally.skipped) == (1, 1)


def test_everything_is_counted_by_reason_and_each_reason_is_logged_once() -> None:
    feed = SpotFeed("binance", structlog.get_logger())

    with capture_logs() as logs:
        for data in (b"x", b"y", framed("btcusdt@miniTicker", {}), framed("btcxyz@trade", TRADE)):
            assert feed.on_frame(1, data) == []
        feed.on_frame(1, raw({"error": {"code": 2, "msg": "Invalid request"}, "id": 1}))
        feed.on_frame(1, framed("btcusdt@trade", TRADE | {"p": "0.001"}))

    summary = feed.summary(9)
    assert (summary.ts_recv, summary.exchange, summary.messages, summary.skipped) == (9, "binance", 6, 6)
    assert summary.reasons == {
        "malformed frame": 2,
        "unsupported stream": 1,
        "unknown symbol": 1,
        "error frame": 1,
        "number off the grid": 1,
    }
    assert [entry["event"] for entry in logs] == ["feed.frame_skipped"] * 5


def test_crossed_books_are_counted() -> None:
    feed = SpotFeed("binance", structlog.get_logger())

    feed.on_reply(1, DEPTH_URL, raw(REST_DEPTH | {"bids": [["200.00", "1.0"]]}))

    assert feed.summary(1).crossed_books == 1


def test_books_are_counted_and_those_that_are_valid_now() -> None:
    tally = Tally()
    feed = SpotFeed("binance", structlog.get_logger(), tally=tally)

    def told() -> tuple[int, int]:
        summary = feed.summary(1)
        return summary.books, summary.valid_books

    assert told() == (0, 0)
    feed.on_frame(1, framed("ethusdt@trade", TRADE))
    feed.on_reply(1, DEPTH_URL, raw(REST_DEPTH))
    assert told() == (2, 1)
    feed.on_frame(2, framed("btcusdt@depth@100ms", DEPTH | {"U": 500, "u": 501}))
    assert told() == (2, 0)
    feed.on_reply(3, DEPTH_URL, raw(REST_DEPTH | {"lastUpdateId": 500}))
    feed.on_reply(3, DEPTH_URL.replace("BTC", "ETH"), raw(REST_DEPTH))
    assert told() == (2, 2)
    feed.on_lost()
    assert told() == (2, 0)
    SpotFeed("binance", structlog.get_logger(), tally=tally)
    assert (tally.books, tally.valid_books) == (0, 0)
