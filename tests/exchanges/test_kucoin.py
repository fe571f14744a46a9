"""KuCoin's spot market: its frames, the book kept in step, and the recorded session."""

import json
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tickerml.exchanges.kucoin_sync import KucoinSync, LevelUpdate
from tickerml.exchanges.kucoin_wire import KucoinFeed, parse_depth, parse_symbols
from tickerml.kernel import (
    BookCrossed,
    BookDelta,
    BookResynced,
    BookSnapshot,
    BookState,
    Instrument,
    MalformedMessage,
    Message,
    Quote,
    SequenceGap,
    Side,
    Trade,
    levels,
    pack_levels,
    to_units,
)
from tickerml.kernel.testing import instrument

from .recordings import recorded, replayed

BTC = instrument("kucoin", tick="0.1", lot="0.00000001")
DEPTH_URL = "https://api.kucoin.com/api/v1/market/orderbook/level2_100?symbol=BTC-USDT"

MATCH = {
    "sequence": "1545896669145",
    "type": "match",
    "symbol": "BTC-USDT",
    "side": "sell",
    "price": "100.1",
    "size": "0.5",
    "time": "1700000000123456789",
}
TICKER = {
    "sequence": "1545896668986",
    "price": "100.0",
    "size": "0.011",
    "bestAsk": "100.2",
    "bestAskSize": "0.18",
    "bestBid": "100.1",
    "bestBidSize": "0.036",
    "time": 1700000000123,
}
LISTING = {
    "symbol": "BTC-USDT",
    "name": "BTC-USDT",
    "baseCurrency": "BTC",
    "quoteCurrency": "USDT",
    "baseMinSize": "0.00001",
    "baseMaxSize": "10000000000",
    "baseIncrement": "0.00000001",
    "priceIncrement": "0.1",
    "minFunds": "0.1",
    "quoteMinSize": "0.2",
    "quoteMaxSize": "99999999",
    "priceLimitRate": "0.1",
    "makerFeeCoefficient": "1.00",
    "takerFeeCoefficient": "2.00",
}


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def frame(subject: str, topic: str, data: Any) -> bytes:
    return raw({"type": "message", "topic": f"{topic}:BTC-USDT", "subject": subject, "data": data})


def l2(first: int, last: int, bids: Any = (), asks: Any = (), **more: Any) -> bytes:
    changes = {"asks": list(asks), "bids": list(bids)}
    data = {"changes": changes, "sequenceStart": first, "sequenceEnd": last, "symbol": "BTC-USDT", **more}
    return frame("trade.l2update", "/market/level2", data)


def depth(sequence: int, bids: Any = (("100.0", "1"),), asks: Any = (("100.1", "2"),)) -> bytes:
    data = {"time": 1700000000123, "sequence": str(sequence), "bids": list(bids), "asks": list(asks)}
    return raw({"code": "200000", "data": data})


def feed() -> KucoinFeed:
    feed = KucoinFeed("kucoin", structlog.get_logger())
    feed.on_reply(1, "https://api.kucoin.com/api/v2/symbols", raw({"code": "200000", "data": [LISTING]}))
    return feed


def kinds(messages: list[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


# --- Frames and replies -----------------------------------------------------------------------------


def test_a_match_is_a_trade_of_the_takers_side_with_the_exchanges_nanoseconds() -> None:
    _, trade = feed().on_frame(9, frame("trade.l3match", "/market/match", MATCH))

    assert trade == Trade(
        9, 1700000000123456789, "kucoin", "BTC/USDT", 1545896669145, 1001, 5 * 10**10, Side.SELL
    )


def test_a_ticker_is_a_quote_and_nothing_while_a_side_is_empty() -> None:
    kucoin = feed()

    _, quote = kucoin.on_frame(9, frame("trade.ticker", "/market/ticker", TICKER))

    assert quote == Quote(
        9, 1700000000123 * 10**6, "kucoin", "BTC/USDT", 1545896668986, 1001, 36 * 10**8, 1002, 18 * 10**9
    )
    assert kucoin.on_frame(9, frame("trade.ticker", "/market/ticker", TICKER | {"bestBid": None})) == []


def test_a_listing_gives_steps_limits_dated_fees_and_room_for_what_is_left_of_old_orders() -> None:
    listed = parse_symbols(raw({"code": "200000", "data": [LISTING]}), "kucoin", 5)["BTC-USDT"]

    assert (listed.symbol, listed.base, listed.quote) == ("BTC/USDT", "BTC", "USDT")
    assert (listed.tick_size, listed.lot_size) == (to_units("0.1"), to_units("0.00000000001"))
    assert listed.min_quantity * listed.lot_size == to_units("0.00001")
    assert (listed.min_notional, listed.maker_fee_ppm, listed.taker_fee_ppm) == (to_units("0.1"), 1000, 2000)
    assert (listed.max_notional, listed.price_limit_ppm) == (2**63 - 1, 100_000)  # of 99,999,999
    assert listed.max_orders == 200
    assert listed.fees_as_of


def test_an_error_reply_is_skipped_with_what_the_exchange_said() -> None:
    with pytest.raises(MalformedMessage, match="error reply: 429000 'Too Many Requests'"):
        parse_depth(raw({"code": "429000", "msg": "Too Many Requests"}), BTC, 1)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{", "malformed frame"),
        (b"\xff", "malformed frame"),
        (raw({"type": "error", "code": 401, "data": "token is expired"}), "error frame"),
        (frame("trade.candles.add", "/market/candles", {}), "candles are made from trades"),
        (frame("trade.l3match", "/market/match", MATCH | {"side": "both"}), "malformed frame"),
        (frame("trade.l3match", "/market/match", MATCH | {"price": "-100.1"}), "number off the grid"),
        (frame("trade.l3match", "/market/match", MATCH | {"price": "1e999"}), "number off the grid"),
        (frame("trade.ticker", "/market/ticker", TICKER | {"bestAsk": "x"}), "number off the grid"),
        (
            raw({"type": "message", "topic": "x:", "subject": "trade.ticker", "data": TICKER}),
            "unknown symbol",
        ),
    ],
)
def test_a_bad_frame_is_skipped_with_its_reason_and_the_feed_goes_on(bad: bytes, reason: str) -> None:
    kucoin = feed()

    with capture_logs() as logs:
        assert kucoin.on_frame(1, bad) == []

    assert (kucoin.tally.skipped, kucoin.tally.reasons) == (1, {reason: 1})
    assert [entry["event"] for entry in logs] == ["feed.frame_skipped"]
    assert kinds(kucoin.on_frame(2, frame("trade.ticker", "/market/ticker", TICKER))) == [
        "Instrument",
        "Quote",
    ]


@pytest.mark.parametrize("kind", ["welcome", "ack", "pong"])
def test_answers_are_known_frames_that_say_nothing(kind: str) -> None:
    kucoin = feed()

    assert kucoin.on_frame(1, raw({"id": "1", "type": kind})) == []
    assert kucoin.tally.skipped == 0


# --- The book in step -------------------------------------------------------------------------------


def test_updates_wait_for_the_snapshot_and_only_newer_changes_of_an_overlap_count() -> None:
    kucoin = feed()
    waiting = kucoin.on_frame(1, l2(10, 11, bids=[["100.0", "7", "10"], ["99.9", "3", "11"]]))

    messages = kucoin.on_reply(2, DEPTH_URL, depth(10))

    assert waiting == []
    assert kinds(messages) == ["Instrument", "BookSnapshot", "BookDelta"]
    assert isinstance(messages[2], BookDelta)
    assert (messages[2].ts_recv, messages[2].seq) == (2, 11)
    assert kucoin.book("BTC-USDT").bids.top(5) == [(1000, 10**11), (999, 3 * 10**11)]


def test_a_jump_is_a_gap_and_the_book_is_whole_again_after_a_snapshot() -> None:
    kucoin = feed()
    kucoin.on_reply(1, DEPTH_URL, depth(10))

    gap = kucoin.on_frame(2, l2(13, 13, bids=[["99.9", "1", "13"]]))
    silent = kucoin.on_frame(3, l2(14, 14, bids=[["99.8", "1", "14"]]))
    old = kucoin.on_reply(4, DEPTH_URL, depth(11))
    back = kucoin.on_reply(5, DEPTH_URL, depth(12))

    assert gap == [SequenceGap(2, "kucoin", "BTC/USDT", 11, 13)]
    assert (silent, old) == ([], [])
    assert kinds(back) == ["BookSnapshot", "BookDelta", "BookDelta", "BookResynced"]
    assert isinstance(back[3], BookResynced)
    assert back[3].seq == 14
    assert (kucoin.tally.gaps, kucoin.tally.valid_books) == (1, 1)


def test_a_filler_moves_the_sequence_and_no_level() -> None:
    kucoin = feed()
    kucoin.on_reply(1, DEPTH_URL, depth(10))

    (filler,) = kucoin.on_frame(2, l2(11, 12, asks=[["0", "0", "12"]]))

    assert isinstance(filler, BookDelta)
    assert (filler.seq, filler.bids, filler.asks) == (12, b"", b"")
    assert kinds(kucoin.on_frame(3, l2(13, 13, asks=[["100.1", "0", "13"]]))) == ["BookDelta"]


def test_a_duplicate_is_nothing() -> None:
    kucoin = feed()
    kucoin.on_reply(1, DEPTH_URL, depth(10))
    update = l2(11, 11, bids=[["99.9", "1", "11"]])
    kucoin.on_frame(2, update)

    assert kucoin.on_frame(3, update) == []


@pytest.mark.parametrize("level", [["99.95", "1", "11"], ["99.9", "1"], ["99.9", "1", "-4"]])
def test_an_update_that_cannot_be_read_is_a_gap(level: list[str]) -> None:
    kucoin = feed()
    kucoin.on_reply(1, DEPTH_URL, depth(10))

    messages = kucoin.on_frame(2, l2(11, 11, bids=[level]))

    assert messages == [SequenceGap(2, "kucoin", "BTC/USDT", 11, 0)]
    assert kucoin.needs_snapshot("BTC-USDT")


def test_a_crossed_book_is_said_once() -> None:
    kucoin = feed()
    kucoin.on_reply(1, DEPTH_URL, depth(10))

    crossed = kucoin.on_frame(2, l2(11, 11, bids=[["100.2", "1", "11"]]))
    still = kucoin.on_frame(3, l2(12, 12, bids=[["100.3", "1", "12"]]))

    assert kinds(crossed) == ["BookDelta", "BookCrossed"]
    assert isinstance(crossed[1], BookCrossed)
    assert kinds(still) == ["BookDelta"]


def test_a_lost_connection_makes_the_next_snapshot_a_resync() -> None:
    kucoin = feed()
    kucoin.on_reply(1, DEPTH_URL, depth(10))
    kucoin.on_lost()

    assert kucoin.tally.valid_books == 0
    assert kinds(kucoin.on_reply(2, DEPTH_URL, depth(10))) == ["BookSnapshot", "BookResynced"]


# --- No deeper than it can be vouched for -----------------------------------------------------------


def hundred(side: int, best: int, sequence: int) -> list[list[str]]:
    return [[f"{(best + side * step) / 10:.1f}", "1"] for step in range(100)]


def test_a_book_of_a_bounded_snapshot_ends_where_the_snapshot_does() -> None:
    kucoin = feed()
    kucoin.on_reply(1, DEPTH_URL, depth(10, hundred(-1, 10_000, 10), hundred(+1, 10_001, 10)))

    beyond = kucoin.on_frame(2, l2(11, 12, bids=[["990.0", "1", "11"]], asks=[["1010.1", "1", "12"]]))
    within = kucoin.on_frame(3, l2(13, 13, bids=[["990.1", "2", "13"]]))

    assert [(each.bids, each.asks) for each in beyond if isinstance(each, BookDelta)] == [(b"", b"")]
    assert [list(levels(each.bids)) for each in within if isinstance(each, BookDelta)] == [
        [(9901, 2 * 10**11)]
    ]


def test_a_whole_snapshot_has_no_end() -> None:
    kucoin = feed()
    kucoin.on_reply(1, DEPTH_URL, depth(10))

    (delta,) = kucoin.on_frame(2, l2(11, 11, bids=[["1.0", "1", "11"]]))

    assert isinstance(delta, BookDelta)
    assert list(levels(delta.bids)) == [(10, 10**11)]


def test_a_book_that_runs_out_of_levels_stays_valid_and_is_deepened_by_a_snapshot() -> None:
    kucoin = feed()
    kucoin.on_reply(1, DEPTH_URL, depth(10, hundred(-1, 10_000, 10), hundred(+1, 10_001, 10)))
    gone = [[f"{(10_000 - step) / 10:.1f}", "0", str(11 + step)] for step in range(51)]
    kucoin.on_frame(2, l2(11, 61, bids=gone))

    assert kucoin.needs_snapshot("BTC-USDT")
    assert kucoin.book("BTC-USDT").state is BookState.VALID
    kucoin.on_frame(3, l2(62, 62, bids=[["980.0", "5", "62"]]))
    assert kucoin.on_reply(4, DEPTH_URL, depth(60)) == []  # older than what was kept

    deeper = kucoin.on_reply(5, DEPTH_URL, depth(61, hundred(-1, 9_949, 61), hundred(+1, 10_001, 61)))

    assert kinds(deeper) == ["BookSnapshot", "BookDelta"]
    assert not kucoin.needs_snapshot("BTC-USDT")
    assert len(kucoin.book("BTC-USDT").bids.keys) == 100
    assert kucoin.on_reply(6, DEPTH_URL, depth(99)) == []  # nobody waits for it


# --- Against a model --------------------------------------------------------------------------------

Levels = dict[int, int]


def told(book: Levels, sign: int, depth: int) -> bytes:
    best_first = sorted(book.items(), key=lambda level: -sign * level[0])
    return pack_levels(best_first[:depth] if depth else best_first)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["change", "change", "change", "lose", "repeat", "snapshot", "late snapshot"]),
        st.booleans(),
        st.integers(1, 12),
        st.integers(0, 3),
    ),
    max_size=80,
)


@given(STEPS, st.sampled_from([0, 3]))
def test_whatever_is_lost_or_repeated_a_valid_book_is_the_true_one_as_far_as_it_goes(
    steps: list[tuple[str, bool, int, int]], depth: int
) -> None:
    bids: Levels = {}
    asks: Levels = {}
    sync, sequence = KucoinSync("kucoin", "BTC/USDT"), 0
    last = LevelUpdate(0, 0, 0, [], [])
    old = BookSnapshot(0, 0, "kucoin", "BTC/USDT", 0, b"", b"")
    for what, is_bid, offset, lots in steps:
        true, price = (bids, 100 - offset) if is_bid else (asks, 120 + offset)
        if what in ("change", "lose"):
            sequence += 1
            true.pop(price, None) if lots == 0 else true.update({price: lots})
            change = [(price, lots, sequence)]
            last = LevelUpdate(sequence, sequence, 0, change if is_bid else [], [] if is_bid else change)
        if what in ("change", "repeat"):
            sync.on_update(last, 1)
        elif what == "late snapshot":
            sync.on_rest(old, depth)
        elif what == "snapshot":
            whole = told(bids, +1, depth), told(asks, -1, depth)
            old = BookSnapshot(0, 0, "kucoin", "BTC/USDT", sequence, *whole)
            sync.on_rest(old, depth)

        if sync.book.state is BookState.VALID and sync.book.seq == sequence:
            floor, ceiling = sync._floor, sync._ceiling
            assert sync.book.bids.quantities == {p: q for p, q in bids.items() if p >= floor}
            assert sync.book.asks.quantities == {p: q for p, q in asks.items() if p <= ceiling}


# --- The real one -----------------------------------------------------------------------------------


@pytest.mark.captures
def test_the_recorded_session_has_no_gap_and_every_book_syncs() -> None:
    files = recorded(*(f"kucoin/20210425_{name}.txt" for name in ("5syms.ws", "5syms.snapshots", "symbols")))

    kucoin, messages = replayed(KucoinFeed("kucoin", structlog.get_logger()), *files)

    summary = kucoin.summary(1)
    assert (summary.messages, summary.gaps, summary.crossed_books) == (3487, 0, 0)
    assert summary.reasons == {"candles are made from trades": 6}
    assert (summary.books, summary.valid_books) == (5, 5)
    assert sum(isinstance(message, BookDelta) for message in messages) == 2874
    assert sum(isinstance(message, Quote) for message in messages) == 533
    assert sum(isinstance(message, Trade) for message in messages) == 18
    instruments = {each.symbol: each for each in messages if isinstance(each, Instrument)}
    assert sorted(instruments) == ["BCHSV/USDT", "CAPP/BTC", "DAPPT/BTC", "FET/BTC", "NRG/BTC"]
