"""Kraken's spot market: both wire versions, the book held to its checksums, and the recorded sessions."""

import json
from typing import Any
from zlib import crc32

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tickerml.exchanges.kraken import KrakenOptions, KrakenVenue, tickerml_exchanges
from tickerml.exchanges.kraken_wire import KrakenFeed, KrakenV1Feed, parse_asset_pairs
from tickerml.exchanges.times import rfc3339_to_ns, seconds_to_ns
from tickerml.kernel import (
    BookCrossed,
    BookDelta,
    BookSnapshot,
    BookState,
    ChecksumFailed,
    Instrument,
    MalformedMessage,
    Message,
    OrderBook,
    Quote,
    SequenceGap,
    Side,
    Trade,
    levels,
    to_units,
)

from .recordings import recorded, replayed

PAIR = "BTC/USD"
TIME = "2026-04-07T14:30:01.456789Z"
NS = 1_775_572_201_456_789_000

Row = tuple[str, str]


def feed(depth: int = 1000) -> KrakenFeed:
    return KrakenFeed("kraken", structlog.get_logger(), depth=depth)


def checksum(bids: list[Row], asks: list[Row]) -> int:
    """The rule of the documentation, word for word: rows best first."""
    rows = asks[:10] + bids[:10]
    return crc32("".join(text.replace(".", "").lstrip("0") for row in rows for text in row).encode())


def book_frame(kind: str, bids: list[Row], asks: list[Row], crc: int, symbol: str = PAIR) -> bytes:
    def side(rows: list[Row]) -> str:
        return ",".join(f'{{"price":{price},"qty":{quantity}}}' for price, quantity in rows)

    rows = f'"bids":[{side(bids)}],"asks":[{side(asks)}]'
    data = f'{{"symbol":"{symbol}",{rows},"checksum":{crc},"timestamp":"{TIME}"}}'
    return f'{{"channel":"book","type":"{kind}","data":[{data}]}}'.encode()


BIDS = [("60000.0", "1.00000000"), ("59999.9", "0.50000000")]
ASKS = [("60000.1", "0.25000000"), ("60000.2", "2.00000000")]
WHOLE = book_frame("snapshot", BIDS, ASKS, checksum(BIDS, ASKS))


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def kinds(messages: list[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


# --- Times ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (TIME, NS),
        ("2026-04-07T14:30:01Z", NS - 456_789_000),
        ("2026-04-07T14:30:01.456789123Z", NS + 123),
        ("2026-04-07T14:30:01.4Z", NS - 56_789_000),
        ("1970-01-01T00:00:00Z", 0),
        ("", 0),
    ],
)
def test_a_utc_time_is_read_to_the_nanosecond(text: str, ns: int) -> None:
    assert rfc3339_to_ns(text) == ns


@pytest.mark.parametrize(
    "text", ["yesterday", "2026-04-07T14:30:01+02:00", "2026-04-07T14:30:01.45x789Z", "Z"]
)
def test_what_is_no_utc_time_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage, match="malformed time: expected a UTC time"):
        rfc3339_to_ns(text)


def test_unix_seconds_are_read_exactly() -> None:
    assert seconds_to_ns("1617666423.690142") == 1_617_666_423_690_142_000
    with pytest.raises(MalformedMessage, match="expected Unix seconds, was '12a'"):
        seconds_to_ns("12a")


# --- The book and its checksum ----------------------------------------------------------------------


def test_the_documented_example_has_the_documented_checksum() -> None:
    prices = [f"0.0{4950 + 5 * step}" for step in range(21)]
    bids = [(price, "0.00000500") for price in ["0.05000", *reversed(prices[:10])] if price != "0.04985"]
    asks = [(price, "0.00000500") for price in prices[11:]]
    ours = feed()

    messages = ours.on_frame(1, book_frame("snapshot", bids, asks, 974947235, "LTC/BTC"))

    assert kinds(messages) == ["Instrument", "BookSnapshot"]
    assert ours.summary(1).checksums_ok == 1


def test_a_snapshot_and_its_updates_become_the_book() -> None:
    ours = feed()
    first = ours.on_frame(5, WHOLE)
    bids, asks = [BIDS[0], ("59999.8", "3.00000000")], [("60000.1", "0.75000000"), ASKS[1]]
    changed = [("59999.9", "0.00000000"), bids[1]], [asks[0]]

    second = ours.on_frame(6, book_frame("update", *changed, checksum(bids, asks)))

    instrument, snapshot = first
    assert isinstance(instrument, Instrument)
    assert isinstance(snapshot, BookSnapshot)
    assert (snapshot.ts_recv, snapshot.ts_event, snapshot.exchange, snapshot.symbol) == (
        5,
        NS,
        "kraken",
        PAIR,
    )
    assert list(levels(snapshot.bids)) == [(600_000, 100_000_000), (599_999, 50_000_000)]
    (delta,) = second
    assert isinstance(delta, BookDelta)
    assert (list(levels(delta.bids)), list(levels(delta.asks))) == (
        [(599_999, 0), (599_998, 300_000_000)],
        [(600_001, 75_000_000)],
    )
    assert delta.seq == snapshot.seq + 1
    assert ours.book(PAIR).bids.top(5) == [(600_000, 100_000_000), (599_998, 300_000_000)]


def test_the_digits_are_those_of_the_text_whether_quoted_or_not() -> None:
    bids, asks = [("60000.0", "1.0")], [("60000.1", "0.250")]
    quoted = [(f'"{price}"', f'"{quantity}"') for price, quantity in bids]
    ours = feed()

    ours.on_frame(1, book_frame("snapshot", bids, asks, checksum(bids, asks)))
    ours.on_frame(2, book_frame("snapshot", quoted, asks, checksum(bids, asks)))
    ours.on_frame(3, book_frame("snapshot", [("60000.0", "1.00")], asks, checksum(bids, asks)))

    found = ours.summary(4)
    assert (found.checksums_ok, found.checksums_bad) == (2, 1)


def test_a_failed_checksum_is_said_once_and_a_snapshot_mends_it() -> None:
    ours = feed()
    ours.on_frame(1, WHOLE)
    wrong = book_frame("update", [("59999.0", "1.00000000")], [], 7)

    failed = ours.on_frame(2, wrong)
    after = ours.on_frame(3, wrong)
    mended = ours.on_frame(4, WHOLE)

    (said,) = failed
    assert isinstance(said, ChecksumFailed)
    assert (said.symbol, said.expected) == (PAIR, 7)
    assert said.was != 7
    assert after == []
    assert kinds(mended) == ["BookSnapshot", "BookResynced"]
    assert ours.summary(5).streams[PAIR].checksums_bad == 1


def test_a_snapshot_whose_checksum_fails_is_not_believed() -> None:
    ours = feed()

    messages = ours.on_frame(1, book_frame("snapshot", BIDS, ASKS, 7))

    assert kinds(messages) == ["Instrument", "ChecksumFailed"]
    assert ours.needs_snapshot(PAIR)


def test_a_number_that_cannot_be_read_costs_its_book_and_no_other() -> None:
    ours = feed()
    ours.on_frame(1, WHOLE)
    eth = [("3000.00", "1.00000000")], [("3000.01", "1.00000000")]
    ours.on_frame(1, book_frame("snapshot", *eth, checksum(*eth), "ETH/USD"))

    messages = ours.on_frame(2, book_frame("update", [("59999.55", "1.0")], [], 1))

    assert [(type(each), each.symbol) for each in messages] == [(SequenceGap, PAIR)]  # type: ignore[attr-defined]
    assert (ours.needs_snapshot(PAIR), ours.needs_snapshot("ETH/USD")) == (True, False)
    assert ours.summary(3).reasons == {"number off the grid": 1}


@pytest.mark.parametrize("number", ["-1", "1e5", "[]", '""', '"nan"', "99999999999999999999", "null"])
def test_no_number_that_is_not_plain_decimal_reaches_a_book(number: str) -> None:
    ours = feed()
    ours.on_frame(1, WHOLE)

    assert kinds(ours.on_frame(2, book_frame("update", [(number, "1.0")], [], 1))) == ["SequenceGap"]
    assert ours.summary(3).skipped == 1


def test_garbage_may_have_been_a_change_of_any_book() -> None:
    ours = feed()
    ours.on_frame(1, WHOLE)

    assert kinds(ours.on_frame(2, b'{"channel":"book","type":"upd')) == ["SequenceGap"]
    assert kinds(ours.on_frame(3, WHOLE)) == ["BookSnapshot", "BookResynced"]
    assert kinds(ours.on_frame(4, b'{"channel":"book","type":"update","data":7}')) == ["SequenceGap"]


def test_a_crossing_is_said_once() -> None:
    ours = feed()
    ours.on_frame(1, WHOLE)
    bids = [("60000.1", "1.00000000"), *BIDS]
    frame = book_frame("update", bids[:1], [], checksum(bids, ASKS))

    assert kinds(ours.on_frame(2, frame)) == ["BookDelta", "BookCrossed"]
    assert kinds(ours.on_frame(3, frame)) == ["BookDelta"]
    assert isinstance(ours.on_frame(2, WHOLE)[0], BookSnapshot)
    assert BookCrossed in map(type, ours.on_frame(4, frame))


def test_a_lost_connection_makes_the_next_snapshot_a_resync() -> None:
    ours = feed()
    ours.on_frame(1, WHOLE)

    ours.on_lost()

    assert ours.book(PAIR).state is BookState.RESYNCING
    assert kinds(ours.on_frame(2, WHOLE)) == ["BookSnapshot", "BookResynced"]


numbers = st.integers(1, 40)


@given(
    st.lists(st.tuples(st.booleans(), numbers, st.integers(0, 3), st.integers(1, 2)), max_size=80),
    st.sampled_from([10, 25]),
)
def test_any_updates_leave_the_book_and_its_copy_as_a_plain_model_has_them(
    changes: list[tuple[bool, int, int, int]], depth: int
) -> None:
    # Texts with one or two decimals, so that equal numbers have different digits.
    model: dict[bool, dict[int, Row]] = {True: {}, False: {}}
    ours, copy = feed(depth), OrderBook("kraken", PAIR)

    def best(is_bid: bool) -> list[Row]:
        rows = model[is_bid]
        return [rows[price] for price in sorted(rows, reverse=is_bid)]

    def take(frame: bytes) -> None:
        for message in ours.on_frame(1, frame):
            if isinstance(message, BookSnapshot):
                copy.apply_snapshot(message)
            elif isinstance(message, BookDelta):
                copy.apply_delta(message)

    take(book_frame("snapshot", [], [], checksum([], [])))
    for is_bid, price, quantity, decimals in changes:
        row = f"{price}.0", f"{quantity}.{'0' * decimals}"
        model[is_bid].pop(price, None)
        if quantity:
            model[is_bid][price] = row
        for worst in sorted(model[is_bid], reverse=is_bid)[depth:]:
            del model[is_bid][worst]
        sides = ([row], []) if is_bid else ([], [row])
        take(book_frame("update", *sides, checksum(best(True), best(False))))

    assert ours.summary(1).checksums_ok == len(changes) + 1
    for is_bid, side, copied in (
        (True, ours.book(PAIR).bids, copy.bids),
        (False, ours.book(PAIR).asks, copy.asks),
    ):
        expected = [(int(float(p) * 10), int(float(q) * 10**8)) for p, q in best(is_bid)]
        assert side.top(99) == copied.top(99) == expected


# --- Trades, quotes and the rest of v2 --------------------------------------------------------------


def print_of(number: int, side: str = "buy", price: float = 60000.1) -> dict[str, Any]:
    return {
        "symbol": PAIR,
        "side": side,
        "price": price,
        "qty": 0.00027625,
        "ord_type": "limit",
        "trade_id": number,
        "timestamp": TIME,
    }


def trade_frame(kind: str, *prints: dict[str, Any]) -> bytes:
    return raw({"channel": "trade", "type": kind, "data": prints})


def test_a_trade_s_side_is_the_taker_s() -> None:
    messages = feed().on_frame(9, trade_frame("update", print_of(2, "sell"), print_of(1)))

    assert messages[1:] == [
        Trade(9, NS, "kraken", PAIR, 1, 600_001, 27_625, Side.BUY),
        Trade(9, NS, "kraken", PAIR, 2, 600_001, 27_625, Side.SELL),
    ]


def test_trades_before_the_subscription_and_trades_told_already_are_not_told() -> None:
    ours = feed()

    assert ours.on_frame(1, trade_frame("snapshot", print_of(7), print_of(8))) == []
    assert ours.on_frame(2, trade_frame("update", print_of(8))) == []
    assert kinds(ours.on_frame(3, trade_frame("update", print_of(9)))) == ["Instrument", "Trade"]
    assert ours.summary(4).skipped == 0


def test_a_trade_of_neither_side_is_skipped() -> None:
    ours = feed()

    assert ours.on_frame(1, trade_frame("update", print_of(1, "both"))) == []
    assert ours.summary(2).reasons == {"malformed frame": 1}


def test_a_ticker_is_a_quote() -> None:
    ticker = {"symbol": PAIR, "bid": 60000.0, "bid_qty": 2.5, "ask": 60000.1, "ask_qty": 3.2, "last": 60000.1}

    messages = feed().on_frame(4, raw({"channel": "ticker", "type": "update", "data": [ticker]}))

    assert messages[1:] == [Quote(4, 0, "kraken", PAIR, 0, 600_000, 250_000_000, 600_001, 320_000_000)]


def test_what_says_nothing_of_a_market_is_known_and_counted_apart() -> None:
    ours = feed()
    subscribed = {"channel": "book", "depth": 10, "snapshot": True, "symbol": PAIR}
    for frame in (
        {"channel": "status", "type": "update", "data": [{"system": "online"}]},
        {"channel": "heartbeat"},
        {"method": "subscribe", "result": subscribed, "success": True, "time_in": TIME},
        {"method": "pong", "req_id": 1, "time_in": TIME},
    ):
        assert ours.on_frame(1, raw(frame)) == []

    found = ours.summary(2)
    assert (found.messages, found.skipped) == (4, 0)
    assert found.streams[""].messages == 4


def test_the_acknowledged_depth_is_the_one_the_book_is_cut_to() -> None:
    ours = feed(1000)
    subscribed = {"channel": "book", "depth": 10, "symbol": PAIR}
    ours.on_frame(1, raw({"method": "subscribe", "result": subscribed, "success": True}))
    rows = [(f"{60000 - step}.0", "1.0") for step in range(11)]

    ours.on_frame(2, book_frame("snapshot", rows, [], checksum(rows, [])))

    assert len(ours.book(PAIR).bids.keys) == 10


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (
            {"error": "Currency pair not supported BTC/XYZ", "method": "subscribe", "success": False},
            "error frame",
        ),
        ({"channel": "ohlc", "type": "update", "data": []}, "unsupported channel"),
        ({"channel": "trade", "type": "update", "data": [{}]}, "malformed frame"),
    ],
)
def test_what_cannot_be_used_is_skipped_with_its_reason(frame: Any, reason: str) -> None:
    ours = feed()

    assert ours.on_frame(1, raw(frame)) == []
    assert ours.summary(2).reasons == {reason: 1}


# --- Instruments ------------------------------------------------------------------------------------

LISTED = {
    "wsname": "XBT/USD",
    "pair_decimals": 1,
    "lot_decimals": 8,
    "ordermin": "0.00005",
    "costmin": "0.5",
    "tick_size": "0.1",
    "fees": [[0, 0.4], [10000, 0.35]],
    "fees_maker": [[0, 0.25], [10000, 0.2]],
}
URL = "https://api.kraken.com/0/public/AssetPairs"


def test_asset_pairs_give_steps_limits_and_the_entry_tier_s_fees() -> None:
    found = parse_asset_pairs(raw({"error": [], "result": {"XXBTZUSD": LISTED}}), "kraken", NS)["XBT/USD"]

    assert (found.symbol, found.base, found.quote) == (PAIR, "BTC", "USD")
    assert (found.tick_size, found.lot_size) == (to_units("0.1"), to_units("0.00000001"))
    assert (found.min_quantity, found.min_notional) == (5_000, to_units("0.5"))
    assert (found.maker_fee_ppm, found.taker_fee_ppm, found.fees_as_of) == (2500, 4000, "2026-04-07")


def test_older_asset_pairs_have_decimals_in_place_of_a_tick_size() -> None:
    older = {"wsname": "XDG/EUR", "pair_decimals": 7, "lot_decimals": 8, "ordermin": "50"}

    found = parse_asset_pairs(raw({"error": [], "result": {"XDGEUR": older}}), "kraken", NS)["XDG/EUR"]

    assert (found.symbol, found.tick_size, found.min_quantity) == ("DOGE/EUR", 10**5, 50 * 10**8)


def test_a_listing_names_the_pairs_by_the_version_s_names() -> None:
    reply = raw({"error": [], "result": {"XXBTZUSD": LISTED, "ETH2.SETH": {"wsname": "ETH2.S/ETH"}}})
    v1 = KrakenV1Feed("kraken", structlog.get_logger())
    v2 = feed()

    v1.on_reply(1, URL, reply)
    v2.on_reply(1, URL, reply)

    assert (v1.lists("XBT/USD"), v2.lists("BTC/USD"), v2.lists("ETH2.S/ETH")) == (True, True, False)


def test_an_error_in_place_of_a_listing_and_an_unknown_request_are_skipped() -> None:
    ours = feed()

    ours.on_reply(1, URL, raw({"error": ["EGeneral:Too many requests"]}))
    ours.on_reply(1, "https://api.kraken.com/0/public/Time", b"{}")

    assert ours.summary(2).reasons == {"error reply": 1, "unsupported request": 1}


# --- v1 ---------------------------------------------------------------------------------------------


def v1() -> KrakenV1Feed:
    return KrakenV1Feed("kraken", structlog.get_logger())


def timed(rows: list[Row], at: str = "1617666423.690142") -> list[list[str]]:
    return [[*row, at] for row in rows]


V1_BIDS = [("60000.00000", "1.00000000")]
V1_ASKS = [("60000.10000", "0.25000000")]
V1_WHOLE = raw([320, {"as": timed(V1_ASKS), "bs": timed(V1_BIDS)}, "book-10", "XBT/USD"])


def test_an_update_of_both_sides_has_two_objects_and_one_checksum() -> None:
    ours = v1()
    snapshot = ours.on_frame(1, V1_WHOLE)
    bids, asks = [("60000.00000", "2.00000000")], [("60000.10000", "3.00000000")]
    crc = str(checksum(bids, asks))

    messages = ours.on_frame(
        2, raw([320, {"a": timed(asks)}, {"b": timed(bids, "1617666424.5"), "c": crc}, "book-10", "XBT/USD"])
    )

    assert kinds(snapshot) == ["Instrument", "BookSnapshot"]
    (delta,) = messages
    assert isinstance(delta, BookDelta)
    assert delta.ts_event == 1_617_666_424_500_000_000
    assert (list(levels(delta.bids)), list(levels(delta.asks))) == (
        [(600_000, 200_000_000)],
        [(600_001, 300_000_000)],
    )
    assert ours.summary(3).checksums_ok == 1


def test_an_update_without_a_checksum_is_not_believed() -> None:
    ours = v1()
    ours.on_frame(1, V1_WHOLE)

    assert kinds(ours.on_frame(2, raw([320, {"b": timed(V1_BIDS)}, "book-10", "XBT/USD"]))) == ["SequenceGap"]


def test_trades_and_tickers_of_v1_have_no_number() -> None:
    ours = v1()
    prints = [["60000.10000", "0.10000000", "1617666461.5", side, "m", ""] for side in "bs"]

    trades = ours.on_frame(3, raw([321, prints, "trade", "XBT/USD"]))
    best = {
        "a": ["60000.10000", 7, "7.25000000"],
        "b": ["60000.00000", 1, "1.50000000"],
        "c": ["60000.1", "1"],
    }
    quote = ours.on_frame(4, raw([324, best, "ticker", "XBT/USD"]))

    assert trades[1:] == [
        Trade(3, 1_617_666_461_500_000_000, "kraken", PAIR, 0, 600_001, 10_000_000, Side.BUY),
        Trade(3, 1_617_666_461_500_000_000, "kraken", PAIR, 0, 600_001, 10_000_000, Side.SELL),
    ]
    assert quote == [Quote(4, 0, "kraken", PAIR, 0, 600_000, 150_000_000, 600_001, 725_000_000)]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (raw({"event": "heartbeat"}), None),
        (raw({"event": "systemStatus", "status": "online"}), None),
        (raw({"event": "subscriptionStatus", "status": "error", "errorMessage": "no"}), "error frame"),
        (raw([320, {}, "spread", "XBT/USD"]), "unsupported channel"),
        (raw([320, 5, "book-10", "XBT/USD"]), "malformed frame"),
        (raw([320, [["1", "1", "1", "x", "", ""]], "trade", "XBT/USD"]), "malformed frame"),
        (b"[1,2", "malformed frame"),
    ],
)
def test_frames_of_v1_are_known_or_skipped_with_a_reason(frame: bytes, reason: str | None) -> None:
    ours = v1()

    assert ours.on_frame(1, frame) == []
    assert ours.summary(2).reasons == ({reason: 1} if reason else {})


# --- The plugin -------------------------------------------------------------------------------------


def test_the_venue_asks_for_books_trades_and_quotes_and_for_one_book_anew() -> None:
    venue = KrakenVenue(KrakenOptions(depth=100))

    socket = venue.socket([PAIR], b"")
    asked = [json.loads(text)["params"] for text in socket.greeting]

    assert socket.url == "wss://ws.kraken.com/v2"
    assert [(params["channel"], params["symbol"]) for params in asked] == [
        ("book", [PAIR]),
        ("trade", [PAIR]),
        ("ticker", [PAIR]),
    ]
    assert asked[0]["depth"] == 100
    assert json.loads(socket.ping_text) == {"method": "ping"}
    assert [json.loads(text)["method"] for text in venue.renew(PAIR)] == ["unsubscribe", "subscribe"]
    assert venue.snapshot(PAIR) is None
    assert [spec.id for spec in tickerml_exchanges()] == ["exchange-kraken"]


# --- The recorded sessions --------------------------------------------------------------------------


def test_every_checksum_of_the_recorded_session_holds() -> None:
    files = recorded("kraken/20210405_book1000_xbtusd_10syms.txt")

    ours, messages = replayed(v1(), *files)

    found = ours.summary(1)
    assert (found.messages, found.skipped, found.reasons) == (14_636, 0, {})
    assert (found.checksums_ok, found.checksums_bad) == (14_496, 0)
    assert (found.gaps, found.crossed_books, found.valid_books) == (0, 0, 10)
    assert sum(isinstance(message, BookSnapshot) for message in messages) == 10
    assert sum(isinstance(message, BookDelta) for message in messages) == 14_496


def test_the_recorded_trades_and_tickers_are_read_to_the_last() -> None:
    files = recorded(
        "kraken/20210405_trade.txt", "kraken/20210405_ticker.txt", "kraken/20210417_AssetPairs.txt"
    )

    ours, messages = replayed(v1(), *files)

    found = ours.summary(1)
    assert (found.messages, found.skipped) == (142 + 152 + 1, 0)
    assert sum(isinstance(message, Trade) for message in messages) == 28
    assert sum(isinstance(message, Quote) for message in messages) == 22
    assert ours.lists("XBT/USD")
