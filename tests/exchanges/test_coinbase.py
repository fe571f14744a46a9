"""Coinbase: the Advanced Trade socket, the older Exchange feed, and the recorded session."""

import json
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tickerml.exchanges.coinbase import CoinbaseOptions, CoinbaseVenue, tickerml_exchanges
from tickerml.exchanges.coinbase_wire import CoinbaseFeed, ExchangeFeed, parse_products
from tickerml.kernel import (
    BookDelta,
    BookSnapshot,
    Instrument,
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

PRODUCT, SYMBOL = "BTC-USD", "BTC/USD"
TIME = "2026-04-07T14:30:01.456789Z"
NS = 1_775_572_201_456_789_000


def feed() -> CoinbaseFeed:
    return CoinbaseFeed("coinbase", structlog.get_logger())


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def kinds(messages: list[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


def frame(number: int, channel: str, *events: dict[str, Any]) -> bytes:
    envelope = {"channel": channel, "client_id": "", "timestamp": TIME, "sequence_num": number}
    return raw(envelope | {"events": events})


def book_event(kind: str, *rows: tuple[str, str, str], product: str = PRODUCT) -> dict[str, Any]:
    names = ("side", "price_level", "new_quantity")
    updates = [dict(zip(names, row, strict=True)) | {"event_time": TIME} for row in rows]
    return {"type": kind, "product_id": product, "updates": updates}


WHOLE = book_event("snapshot", ("bid", "60000.00", "1.5"), ("offer", "60000.01", "0.00000008"))
CHANGE = book_event("update", ("bid", "60000.00", "0"), ("bid", "59999.99", "2.00000000"))


def whole(number: int) -> bytes:
    return frame(number, "l2_data", WHOLE)


def change(number: int) -> bytes:
    return frame(number, "l2_data", CHANGE)


def print_of(number: int, side: str = "BUY") -> dict[str, Any]:
    return {
        "trade_id": str(number),
        "product_id": PRODUCT,
        "price": "60000.01",
        "size": "0.00150000",
        "side": side,
        "time": TIME,
    }


def trade_frame(number: int, kind: str, *prints: dict[str, Any]) -> bytes:
    return frame(number, "market_trades", {"type": kind, "trades": prints})


# --- Advanced Trade: books --------------------------------------------------------------------------


def test_a_snapshot_and_its_updates_become_the_book() -> None:
    ours = feed()

    instrument, snapshot = ours.on_frame(5, whole(0))
    (delta,) = ours.on_frame(6, change(1))

    assert isinstance(instrument, Instrument)
    assert snapshot == BookSnapshot(
        5,
        NS,
        "coinbase",
        SYMBOL,
        0,
        snapshot.bids,
        snapshot.asks,  # type: ignore[attr-defined]
    )
    assert isinstance(delta, BookDelta)
    assert (delta.ts_recv, delta.ts_event, delta.seq, delta.asks) == (6, NS, 1, b"")
    assert list(levels(delta.bids)) == [(6_000_000, 0), (5_999_999, 200_000_000)]
    assert ours.book(PRODUCT).asks.top(5) == [(6_000_001, 8)]


def test_a_missing_number_may_have_been_of_any_book() -> None:
    ours = feed()
    ours.on_frame(1, whole(0))
    ours.on_frame(1, frame(1, "l2_data", WHOLE | {"product_id": "ETH-USD"}))
    ours.on_frame(1, frame(2, "heartbeats", {"current_time": "", "heartbeat_counter": 1}))

    messages = ours.on_frame(2, trade_frame(5, "update", print_of(1)))

    assert messages[:2] == [
        SequenceGap(2, "coinbase", SYMBOL, 3, 5),
        SequenceGap(2, "coinbase", "ETH/USD", 3, 5),
    ]
    assert kinds(messages[2:]) == ["Trade"]
    assert ours.on_frame(3, change(6)) == []
    assert kinds(ours.on_frame(4, whole(7))) == ["BookSnapshot", "BookResynced"]
    assert ours.needs_snapshot("ETH-USD")
    assert ours.summary(5).gaps == 2


def test_a_frame_that_comes_twice_or_late_is_left_out() -> None:
    ours = feed()
    ours.on_frame(1, whole(0))
    ours.on_frame(2, change(1))

    assert ours.on_frame(3, change(1)) == []
    assert ours.on_frame(4, whole(0)) == []
    found = ours.summary(5)
    assert (found.gaps, found.skipped) == (0, 0)


def test_a_new_connection_counts_anew() -> None:
    ours = feed()
    ours.on_frame(1, whole(41))

    ours.on_lost()

    assert kinds(ours.on_frame(2, whole(0))) == ["BookSnapshot", "BookResynced"]
    assert kinds(ours.on_frame(3, change(1))) == ["BookDelta"]


def test_a_change_that_cannot_be_read_costs_its_book() -> None:
    ours = feed()
    ours.on_frame(1, whole(0))

    for number, price in enumerate(("60000.001", "-1", "soon"), 1):
        messages = ours.on_frame(2, frame(number, "l2_data", book_event("update", ("bid", price, "1"))))
        assert kinds(messages) == (["SequenceGap"] if number == 1 else [])
    assert ours.summary(3).skipped == 3


@pytest.mark.parametrize(
    "broken",
    [
        b'{"channel":"l2_data","timestamp":"","sequence_num":1,"events":[{"ty',
        frame(1, "l2_data", book_event("update", ("ask", "60000.01", "1"))),
        frame(1, "l2_data", {"type": "update"}),
    ],
)
def test_a_frame_that_cannot_be_read_is_a_number_that_is_missing(broken: bytes) -> None:
    ours = feed()
    ours.on_frame(1, whole(0))

    assert ours.on_frame(2, broken) == []
    assert kinds(ours.on_frame(3, change(2))) == ["SequenceGap"]
    assert ours.summary(4).reasons == {"malformed frame": 1}


def test_channels_that_are_not_asked_for_and_errors_are_skipped_with_a_reason() -> None:
    ours = feed()
    ours.on_frame(1, whole(0))

    assert ours.on_frame(2, frame(1, "candles", {"type": "update", "candles": []})) == []
    assert ours.on_frame(3, raw({"type": "error", "message": "rate limit exceeded"})) == []
    assert kinds(ours.on_frame(4, change(2))) == ["BookDelta"]
    assert ours.summary(5).reasons == {"unsupported channel": 1, "error frame": 1}


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.booleans()), max_size=40), st.data())
def test_with_any_frames_lost_the_book_is_the_exchange_s_or_not_believed(
    changes: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    model: dict[str, dict[int, int]] = {"bid": {}, "offer": {}}
    ours = feed()
    ours.on_frame(1, frame(0, "l2_data", book_event("snapshot")))
    for number, (price, quantity, is_bid) in enumerate(changes, 1):
        side, at = ("bid", price) if is_bid else ("offer", price + 10)
        model[side][at] = quantity
        row = side, f"{at}.00", f"{quantity}.0"
        if data.draw(st.sampled_from([True, True, True, False])):
            ours.on_frame(1, frame(number, "l2_data", book_event("update", row)))

            book = ours.book(PRODUCT)
            found = {"bid": dict(book.bids.top(99)), "offer": dict(book.asks.top(99))}
            expected = {
                name: {at * 100: quantity * 10**8 for at, quantity in rows.items() if quantity}
                for name, rows in model.items()
            }
            assert ours.needs_snapshot(PRODUCT) or found == expected


# --- Advanced Trade: trades, quotes, instruments ----------------------------------------------------


def test_trades_are_told_oldest_first_and_the_aggressor_is_not_the_maker() -> None:
    messages = feed().on_frame(9, trade_frame(0, "update", print_of(8, "SELL"), print_of(7, "BUY")))

    assert messages[1:] == [
        Trade(9, NS, "coinbase", SYMBOL, 7, 6_000_001, 150_000, Side.SELL),
        Trade(9, NS, "coinbase", SYMBOL, 8, 6_000_001, 150_000, Side.BUY),
    ]


def test_trades_before_the_subscription_and_trades_told_already_are_not_told() -> None:
    ours = feed()

    assert ours.on_frame(1, trade_frame(0, "snapshot", print_of(8), print_of(7))) == []
    assert kinds(ours.on_frame(2, trade_frame(1, "update", print_of(9), print_of(8)))) == [
        "Instrument",
        "Trade",
    ]


def test_a_trade_that_cannot_be_read_is_skipped_and_the_gap_before_it_is_not() -> None:
    ours = feed()
    ours.on_frame(1, whole(0))

    messages = ours.on_frame(2, trade_frame(2, "update", print_of(1) | {"trade_id": "x"}))

    assert kinds(messages) == ["SequenceGap"]
    assert ours.on_frame(3, trade_frame(3, "update", print_of(1, "BOTH"))) == []
    assert ours.summary(4).skipped == 2


def test_a_ticker_with_quantities_is_a_quote() -> None:
    best = {
        "best_bid": "60000.00",
        "best_bid_quantity": "1.5",
        "best_ask": "60000.01",
        "best_ask_quantity": "2",
    }
    ours = feed()

    told = ours.on_frame(
        4, frame(0, "ticker", {"type": "update", "tickers": [best | {"product_id": PRODUCT}]})
    )
    batch = ours.on_frame(5, frame(1, "ticker_batch", {"tickers": [{"product_id": PRODUCT, "price": "1"}]}))
    bare = ours.on_frame(6, frame(2, "ticker", {"tickers": [{"product_id": PRODUCT}]}))

    assert told[1:] == [Quote(4, NS, "coinbase", SYMBOL, 0, 6_000_000, 150_000_000, 6_000_001, 200_000_000)]
    assert (batch, bare, ours.summary(7).skipped) == ([], [], 0)


def test_products_give_steps_limits_and_dated_fees() -> None:
    product = {
        "product_id": PRODUCT,
        "base_increment": "0.00000001",
        "quote_increment": "0.01",
        "price_increment": "0.05",
        "base_min_size": "0.0001",
        "base_max_size": "3400",
        "quote_min_size": "1",
        "product_type": "SPOT",
    }
    future = product | {"product_id": "BIP-20DEC30-CDE", "product_type": "FUTURE"}

    found = parse_products(raw({"products": [product, future]}), "coinbase", 7)

    assert list(found) == [PRODUCT]
    btc = found[PRODUCT]
    assert (btc.ts_recv, btc.symbol, btc.tick_size, btc.lot_size) == (7, SYMBOL, to_units("0.05"), 10_000)
    assert (btc.min_quantity, btc.max_quantity, btc.min_notional) == (10_000, 3_400 * 10**8, to_units(1))
    assert (btc.maker_fee_ppm, btc.taker_fee_ppm) == (6000, 12000)
    assert btc.fees_as_of


def test_a_product_that_no_listing_names_has_a_scale_that_holds_any_text() -> None:
    ours = feed()
    row = ("bid", "0.0000000001", "0.00000001")

    instrument, _ = ours.on_frame(1, frame(0, "l2_data", book_event("snapshot", row, product="MOG-USD")))

    assert (instrument.tick_size, instrument.lot_size) == (100, 10_000)  # type: ignore[attr-defined]


def test_an_unknown_request_is_skipped() -> None:
    ours = feed()

    ours.on_reply(1, "https://api.coinbase.com/api/v3/brokerage/time", b"{}")

    assert ours.summary(2).reasons == {"unsupported request": 1}


# --- The Exchange feed ------------------------------------------------------------------------------


def exchange() -> ExchangeFeed:
    return ExchangeFeed("coinbaseexchange", structlog.get_logger())


SNAPSHOT = {
    "type": "snapshot",
    "product_id": PRODUCT,
    "bids": [["60000.00", "1"]],
    "asks": [["60000.01", "2"]],
}


def match(number: int, kind: str = "match", side: str = "sell") -> bytes:
    rest = {"product_id": PRODUCT, "side": side, "size": "0.5", "price": "60000.01", "time": TIME}
    return raw({"type": kind, "trade_id": number, "sequence": 1} | rest)


def test_the_exchange_feed_s_changes_have_the_side_of_the_book() -> None:
    ours = exchange()
    ours.on_frame(1, raw(SNAPSHOT))
    changes = [["buy", "59999.00", "3"], ["sell", "60000.01", "0"]]

    (delta,) = ours.on_frame(
        2, raw({"type": "l2update", "product_id": PRODUCT, "changes": changes, "time": TIME})
    )

    assert isinstance(delta, BookDelta)
    assert (delta.seq, delta.ts_event) == (2, NS)
    assert list(levels(delta.bids)) == [(5_999_900, 300_000_000)]
    assert list(levels(delta.asks)) == [(6_000_001, 0)]


def test_a_missing_trade_says_that_the_connection_lost_something() -> None:
    ours = exchange()
    ours.on_frame(1, raw(SNAPSHOT))

    assert ours.on_frame(2, match(7, "last_match")) == []
    assert ours.on_frame(3, match(8)) == [
        Trade(3, NS, "coinbaseexchange", SYMBOL, 8, 6_000_001, 50_000_000, Side.BUY)
    ]
    assert ours.on_frame(4, match(8)) == []
    messages = ours.on_frame(5, match(11))

    assert messages[0] == SequenceGap(5, "coinbaseexchange", SYMBOL, 9, 11)
    assert kinds(messages) == ["SequenceGap", "Trade"]
    assert ours.needs_snapshot(PRODUCT)


def test_a_ticker_is_a_quote_where_it_has_sizes() -> None:
    bare = {
        "type": "ticker",
        "sequence": 5,
        "product_id": PRODUCT,
        "best_bid": "1.00",
        "best_ask": "1.01",
        "time": TIME,
    }
    ours = exchange()

    assert ours.on_frame(1, raw(bare)) == []
    messages = ours.on_frame(2, raw(bare | {"best_bid_size": "1", "best_ask_size": "2"}))

    assert messages[1:] == [Quote(2, NS, "coinbaseexchange", SYMBOL, 5, 100, 100_000_000, 101, 200_000_000)]


def test_what_cannot_be_read_may_have_been_a_change_of_any_book() -> None:
    ours = exchange()
    ours.on_frame(1, raw(SNAPSHOT))

    assert kinds(ours.on_frame(2, b'{"type":"l2update","product_id":"BTC-USD","changes":[["bu')) == [
        "SequenceGap"
    ]
    ours.on_frame(3, raw({"type": "error", "message": "no", "reason": "busy"}))
    ours.on_frame(4, raw({"type": "subscriptions", "channels": []}))
    ours.on_frame(5, raw({"type": "heartbeat", "sequence": 1, "product_id": PRODUCT}))

    assert ours.summary(6).reasons == {"malformed frame": 1, "error frame": 1}


def test_the_older_products_have_their_own_names() -> None:
    older = {"id": "SKL-EUR", "base_increment": "0.1", "quote_increment": "0.0001", "base_min_size": "5"}
    ours = exchange()

    ours.on_reply(1, "https://api.pro.coinbase.com/products", raw([older | {"min_market_funds": "5.0"}]))

    found = parse_products(raw([older | {"min_market_funds": "5.0"}]), "coinbaseexchange", 1)["SKL-EUR"]
    assert ours.lists("SKL-EUR")
    assert (found.tick_size, found.min_quantity, found.min_notional) == (10**8, 50, to_units(5))


# --- The plugin and the recorded session ------------------------------------------------------------


def test_the_venue_asks_for_one_channel_a_frame_and_for_one_book_anew() -> None:
    venue = CoinbaseVenue(CoinbaseOptions())

    socket = venue.socket([PRODUCT], b"")
    asked = [json.loads(text) for text in socket.greeting]

    assert [each["channel"] for each in asked] == ["heartbeats", "level2", "market_trades", "ticker"]
    assert all(each.get("product_ids", [PRODUCT]) == [PRODUCT] for each in asked)
    assert [json.loads(text)["type"] for text in venue.renew(PRODUCT)] == ["unsubscribe", "subscribe"]
    assert venue.snapshot(PRODUCT) is None
    assert [spec.id for spec in tickerml_exchanges()] == ["exchange-coinbase"]


def test_the_recorded_session_is_whole() -> None:
    files = recorded(*(f"coinbaseexchange/20210417_{name}.txt" for name in ("5syms", "products")))

    ours, messages = replayed(exchange(), *files)

    found = ours.summary(1)
    assert (found.messages, found.skipped, found.gaps, found.crossed_books) == (6_447 + 1, 0, 0, 0)
    assert (found.books, found.valid_books) == (5, 5)
    assert sum(isinstance(message, BookDelta) for message in messages) == 6_293
    assert sum(isinstance(message, Trade) for message in messages) == 68
    assert ours.lists("SKL-USD")


def test_the_recorded_aggressors_took_what_rested_on_the_other_side() -> None:
    files = recorded(*(f"coinbaseexchange/20210417_{name}.txt" for name in ("5syms", "products")))
    _, messages = replayed(ExchangeFeed("coinbaseexchange", structlog.get_logger()), *files)
    books: dict[str, OrderBook] = {}
    took = []

    for message in messages:
        if isinstance(message, BookSnapshot | BookDelta):
            book = books.setdefault(message.symbol, OrderBook(message.exchange, message.symbol))
            book.apply_snapshot(message) if isinstance(message, BookSnapshot) else book.apply_delta(message)
        elif isinstance(message, Trade) and message.symbol in books:
            book = books[message.symbol]
            is_ask = abs(message.price - book.best_ask) < abs(message.price - book.best_bid)
            took.append(is_ask == (message.aggressor is Side.BUY))

    assert len(took) == 68
    assert sum(took) >= 67  # one print came behind the change of the book that it made
