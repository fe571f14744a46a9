"""Kraken Futures: its frames, its books, what its perpetuals pay, and the recorded session."""

import json
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tickerml.exchanges.krakenfutures import KrakenFuturesOptions, KrakenFuturesVenue
from tickerml.exchanges.krakenfutures_wire import KrakenFuturesFeed, parse_instruments, to_symbol, to_wire
from tickerml.kernel import (
    BookDelta,
    BookState,
    FundingUpdated,
    Instrument,
    MalformedMessage,
    Message,
    Quote,
    SequenceGap,
    Side,
    Trade,
    to_units,
)

from .recordings import recorded, replayed

MS = 1_700_000_000_000
LISTING = {
    "result": "success",
    "instruments": [
        {
            "symbol": "PF_XBTUSD",
            "type": "flexible_futures",
            "tickSize": 0.5,
            "contractSize": 1,
            "contractValueTradePrecision": 4,
            "maxRelativeFundingRate": 0.005,
        },
        {"symbol": "pi_xbtusd", "type": "futures_inverse", "tickSize": 0.5, "contractSize": 1},
        {"symbol": "in_xbtusd", "type": "spot index"},
    ],
}


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def book(seq: int, product: str = "PF_XBTUSD") -> bytes:
    bids, asks = [{"price": 99.5, "qty": 1.5}], [{"price": 100.5, "qty": 2}]
    sides = {"bids": bids, "asks": asks}
    return raw(
        {
            "feed": "book_snapshot",
            "product_id": product,
            "timestamp": MS,
            "seq": seq,
            "tickSize": None,
            **sides,
        }
    )


def change(seq: int, side: str, price: float, qty: float) -> bytes:
    what = {"side": side, "seq": seq, "price": price, "qty": qty, "timestamp": MS}
    return raw({"feed": "book", "product_id": "PF_XBTUSD", **what})


def trade(seq: int, **more: Any) -> dict[str, Any]:
    what = {"uid": "u", "side": "sell", "type": "fill", "seq": seq, "time": MS, "qty": 0.25, "price": 100}
    return {"feed": "trade", "product_id": "PF_XBTUSD", **what, **more}


def trades(*each: dict[str, Any]) -> bytes:
    return raw({"feed": "trade_snapshot", "product_id": "PF_XBTUSD", "trades": list(each)})


def ticker(**more: Any) -> bytes:
    what = {
        "time": MS,
        "feed": "ticker",
        "product_id": "PF_XBTUSD",
        "tag": "perpetual",
        "bid": 99.5,
        "bid_size": 1.5,
        "ask": 100.5,
        "ask_size": 2,
        "index": 100.1,
        "markPrice": 100.30000000014,
        "relative_funding_rate": -1.380384722222e-6,
        "relative_funding_rate_prediction": 0.00001,
        "next_funding_rate_time": MS + 1_234_000,
    }
    return raw(what | more)


def feed() -> KrakenFuturesFeed:
    feed = KrakenFuturesFeed("krakenfutures", structlog.get_logger())
    feed.on_reply(1, "https://futures.kraken.com/derivatives/api/v3/instruments", raw(LISTING))
    return feed


def kinds(messages: list[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


# --- Names and instruments --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "symbol"),
    [
        ("PF_XBTUSD", "BTC/USD-PERP"),
        ("PI_XBTUSD", "BTC/USD-PERP-INVERSE"),
        ("PF_ETHUSD", "ETH/USD-PERP"),
        ("FI_XBTUSD_210924", "BTC/USD-20210924-INVERSE"),
        ("FF_ETHUSD_261225", "ETH/USD-20261225"),
    ],
)
def test_a_product_is_named_there_and_back(wire: str, symbol: str) -> None:
    assert to_symbol(wire) == symbol
    assert to_wire(symbol) == wire


@pytest.mark.parametrize("wire", ["", "XBTUSD", "PF_XBTUSD_210924", "FI_XBTUSD", "PF_USD"])
def test_what_is_no_product_is_refused(wire: str) -> None:
    with pytest.raises(MalformedMessage, match="unknown symbol: expected a product"):
        to_symbol(wire)


def test_the_listing_says_what_a_contract_is_and_bounds_its_funding() -> None:
    listed = parse_instruments(raw(LISTING), "krakenfutures", 5)

    linear, inverse = listed["PF_XBTUSD"], listed["PI_XBTUSD"]
    assert sorted(listed) == ["PF_XBTUSD", "PI_XBTUSD"]
    assert (linear.instrument.lot_size, linear.instrument.contract) == (to_units("0.0001"), "linear")
    assert (inverse.instrument.lot_size, inverse.instrument.contract) == (to_units(1), "inverse")
    assert linear.cap == to_units("0.005")
    assert inverse.instrument.notional(100, 7) == to_units(7)  # of quote, at whatever price


# --- Frames -----------------------------------------------------------------------------------------


def test_a_book_comes_whole_and_then_level_by_level() -> None:
    futures = feed()

    whole = futures.on_frame(1, book(7))
    (delta,) = futures.on_frame(2, change(8, "buy", 99.5, 0))

    assert kinds(whole) == ["Instrument", "BookSnapshot"]
    assert isinstance(delta, BookDelta)
    assert (delta.seq, delta.ts_event) == (8, MS * 10**6)
    assert futures.book("PF_XBTUSD").best_bid == 0
    assert futures.book("PF_XBTUSD").asks.top(1) == [(201, 20_000)]


def test_a_jump_is_a_gap_until_the_book_is_sent_again() -> None:
    futures = feed()
    futures.on_frame(1, book(7))

    gap = futures.on_frame(2, change(9, "buy", 99, 1))
    silent = futures.on_frame(3, change(10, "buy", 98.5, 1))
    back = futures.on_frame(4, book(10))

    assert gap == [SequenceGap(2, "krakenfutures", "BTC/USD-PERP", 8, 9)]
    assert silent == []
    assert kinds(back) == ["BookSnapshot", "BookResynced"]


def test_a_repeated_change_and_an_older_snapshot_are_nothing() -> None:
    futures = feed()
    futures.on_frame(1, book(7))
    futures.on_frame(2, change(8, "buy", 99, 1))

    assert futures.on_frame(3, change(8, "buy", 99, 1)) == []
    assert futures.on_frame(4, book(7)) == []
    assert futures.book("PF_XBTUSD").seq == 8


def test_a_change_that_cannot_be_read_is_a_gap() -> None:
    futures = feed()
    futures.on_frame(1, book(7))

    assert futures.on_frame(2, change(8, "buy", 99.3, 1)) == [
        SequenceGap(2, "krakenfutures", "BTC/USD-PERP", 8, 0)
    ]
    assert futures.tally.reasons == {"number off the grid": 1}


def test_trades_before_us_are_not_ours_but_those_missed_in_between_are() -> None:
    futures = feed()

    before = futures.on_frame(1, trades(trade(3), trade(2)))
    first = futures.on_frame(2, raw(trade(4)))
    repeated = futures.on_frame(3, raw(trade(4)))
    missed = futures.on_frame(4, trades(trade(6), trade(5), trade(4)))

    assert (before, repeated) == ([], [])
    assert first[1:] == [
        Trade(2, MS * 10**6, "krakenfutures", "BTC/USD-PERP", 4, 200, 2500, Side.SELL),
    ]
    assert [message.seq for message in missed if isinstance(message, Trade)] == [5, 6]


def test_a_block_trade_met_no_book() -> None:
    assert feed().on_frame(1, raw(trade(4, type="block"))) == []


def test_a_ticker_is_a_quote_and_what_the_perpetual_pays() -> None:
    messages = feed().on_frame(1, ticker())

    assert messages[1:] == [
        Quote(1, MS * 10**6, "krakenfutures", "BTC/USD-PERP", 0, 199, 15_000, 201, 20_000),
        FundingUpdated(
            1,
            MS * 10**6,
            "krakenfutures",
            "BTC/USD-PERP",
            201,
            200,
            -1_380_385,
            10_000_000,
            (MS + 1_234_000) * 10**6,
            3600,
            to_units("0.005"),
            -to_units("0.005"),
        ),
    ]


def test_the_next_payment_is_understood_as_what_is_left_too() -> None:
    (*_, funding) = feed().on_frame(1, ticker(next_funding_rate_time=90_000))

    assert isinstance(funding, FundingUpdated)
    assert funding.next_ts == (MS + 90_000) * 10**6


def test_a_dated_future_pays_nothing() -> None:
    assert kinds(feed().on_frame(1, ticker(tag="month"))) == ["Instrument", "Quote"]


def test_rest_gives_absolute_rates_which_the_index_makes_relative() -> None:
    futures = feed()
    futures.on_frame(1, book(7))
    one = {"symbol": "PF_XBTUSD", "tag": "perpetual", "markPrice": 100.5, "indexPrice": 200}
    reply = {"result": "success", "tickers": [one | {"fundingRate": 0.02, "fundingRatePrediction": -0.04}]}

    (funding,) = futures.on_reply(2, "https://x/derivatives/api/v3/tickers", raw(reply))

    assert isinstance(funding, FundingUpdated)
    assert (funding.rate, funding.predicted) == (to_units("0.0001"), -to_units("0.0002"))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ({"event": "error", "message": "Invalid product id"}, "error frame"),
        ({"event": "alert", "message": "Failed to subscribe"}, "error frame"),
        ({"feed": "fills", "product_id": "PF_XBTUSD"}, "unsupported stream"),
        ({"feed": "trade", "product_id": "nonsense"}, "unknown symbol"),
        (trade(4, side="none"), "malformed frame"),
        (trade(4, price=None), "number off the grid"),
    ],
)
def test_a_bad_frame_is_skipped_with_its_reason(frame: dict[str, Any], reason: str) -> None:
    futures = feed()

    assert futures.on_frame(1, raw(frame)) == []
    assert futures.tally.reasons == {reason: 1}


def test_answers_heartbeats_and_tickers_without_quantities_say_nothing() -> None:
    futures = feed()
    known = [
        {"event": "info", "version": 1},
        {"event": "subscribed", "feed": "book", "product_ids": ["PF_XBTUSD"]},
        {"feed": "heartbeat", "time": MS},
        {"feed": "ticker_lite", "product_id": "PF_XBTUSD", "bid": 99.5, "ask": 100.5},
    ]

    assert [futures.on_frame(1, raw(frame)) for frame in known] == [[], [], [], []]
    assert futures.tally.skipped == 0


@given(st.lists(st.sampled_from(["next", "next", "next", "lose", "repeat", "snapshot"]), max_size=60))
def test_whatever_is_lost_or_repeated_a_valid_book_is_never_behind(steps: list[str]) -> None:
    futures, seq, last = feed(), 7, book(7)
    futures.on_frame(1, last)
    for step in steps:
        seq += step in ("next", "lose")
        if step == "next":
            last = change(seq, "buy", 50 + seq % 40 / 2, seq % 3)
        if step == "snapshot":
            last = book(seq)
        if step != "lose":
            futures.on_frame(1, last)

        kept = futures.book("PF_XBTUSD")
        if step != "lose" and kept.state is BookState.VALID and step != "repeat":
            assert kept.seq == seq


def test_a_broken_book_is_subscribed_to_again() -> None:
    venue = KrakenFuturesVenue(KrakenFuturesOptions())

    assert venue.snapshot("PF_XBTUSD") is None
    assert [json.loads(frame)["event"] for frame in venue.renew("PF_XBTUSD")] == ["unsubscribe", "subscribe"]
    greeting = [json.loads(frame)["feed"] for frame in venue.socket(["PF_XBTUSD"], b"").greeting]
    assert greeting == ["book", "trade", "ticker", "heartbeat"]


@pytest.mark.captures
def test_the_recorded_session_has_no_gap_and_nothing_is_skipped() -> None:
    files = recorded(*(f"krakenfutures/20210722_{name}.txt" for name in ("10syms", "instruments")))

    futures, messages = replayed(KrakenFuturesFeed("krakenfutures", structlog.get_logger()), *files)

    summary = futures.summary(1)
    assert (summary.messages, summary.skipped, summary.gaps, summary.crossed_books) == (7176, 0, 0, 0)
    assert (summary.books, summary.valid_books) == (10, 10)
    assert sum(isinstance(message, BookDelta) for message in messages) == 7014
    assert sum(isinstance(message, Trade) for message in messages) == 3
    assert all(each.contract == "inverse" for each in messages if isinstance(each, Instrument))
