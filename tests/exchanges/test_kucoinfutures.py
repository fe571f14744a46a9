"""KuCoin Futures: its frames, its books, what its perpetuals pay, and where it is to be found."""

import json
from typing import Any

import pytest
import structlog

from tickerml.exchanges.kucoin_venue import KucoinVenue
from tickerml.exchanges.kucoinfutures import PATHS, KucoinFuturesOptions
from tickerml.exchanges.kucoinfutures_wire import (
    KucoinFuturesFeed,
    parse_contracts,
    to_symbol,
    to_wire,
)
from tickerml.kernel import (
    FundingUpdated,
    MalformedMessage,
    Message,
    Quote,
    SequenceGap,
    Side,
    Trade,
    levels,
    to_units,
)

MS = 1_700_000_000_000
HOUR_MS = 3_600_000
CONTRACT = {
    "symbol": "XBTUSDTM",
    "baseCurrency": "XBT",
    "quoteCurrency": "USDT",
    "tickSize": 0.1,
    "lotSize": 1,
    "multiplier": 0.001,
    "isInverse": False,
    "maxOrderQty": 1000000,
    "makerFeeRate": 2.0e-4,
    "takerFeeRate": 6.0e-4,
    "expireDate": None,
    "markPrice": 100.04,
    "indexPrice": 100.06,
    "fundingFeeRate": 5.2e-5,
    "predictedFundingFeeRate": 8e-06,
    "fundingRateGranularity": 8 * HOUR_MS,
    "nextFundingRateTime": 60_000,
    "nextFundingRateDateTime": MS + HOUR_MS,
    "fundingRateCap": 0.003,
    "fundingRateFloor": -0.003,
}
INVERSE = {
    "symbol": "XBTUSDM",
    "baseCurrency": "XBT",
    "quoteCurrency": "USD",
    "tickSize": 0.1,
    "multiplier": -1.0,
    "isInverse": True,
    "nextFundingRateTime": 60_000,
    "fundingRateGranularity": None,
}
DATED = CONTRACT | {"symbol": "XBTMZ26", "expireDate": MS}


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def frame(topic: str, subject: str, data: Any) -> bytes:
    return raw({"type": "message", "topic": f"{topic}:XBTUSDTM", "subject": subject, "data": data})


def change(sequence: int, text: str) -> bytes:
    data = {"sequence": sequence, "change": text, "timestamp": MS}
    return frame("/contractMarket/level2", "level2", data)


def depth(sequence: int) -> bytes:
    data = {"sequence": sequence, "bids": [["100.0", 5]], "asks": [[100.1, 7]], "ts": MS * 10**6}
    return raw({"code": "200000", "data": data})


def contracts(*each: dict[str, Any]) -> bytes:
    return raw({"code": "200000", "data": list(each)})


def feed() -> KucoinFuturesFeed:
    feed = KucoinFuturesFeed("kucoinfutures", structlog.get_logger())
    feed.on_reply(MS * 10**6, "https://x/api/v1/contracts/active", contracts(CONTRACT, INVERSE, DATED))
    return feed


def kinds(messages: list[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


DEPTH_URL = "https://x/api/v1/level2/snapshot?symbol=XBTUSDTM"


@pytest.mark.parametrize(
    ("wire", "symbol"),
    [
        ("XBTUSDTM", "BTC/USDT-PERP"),
        ("ETHUSDTM", "ETH/USDT-PERP"),
        ("XBTUSDCM", "BTC/USDC-PERP"),
        ("XBTUSDM", "BTC/USD-PERP-INVERSE"),
    ],
)
def test_a_perpetual_is_named_there_and_back(wire: str, symbol: str) -> None:
    assert to_symbol(wire) == symbol
    assert to_wire(symbol) == wire


@pytest.mark.parametrize("wire", ["", "USDTM", "XBTUSDT", "XBTMZ26"])
def test_what_is_no_perpetual_is_refused(wire: str) -> None:
    with pytest.raises(MalformedMessage, match="unknown symbol: expected a perpetual"):
        to_symbol(wire)


def test_the_listing_says_what_a_contract_is_and_what_it_pays() -> None:
    listed = parse_contracts(contracts(CONTRACT, INVERSE, DATED), "kucoinfutures", 9)

    linear, inverse = listed["XBTUSDTM"], listed["XBTUSDM"]
    assert sorted(listed) == ["XBTUSDM", "XBTUSDTM"]
    assert (linear.instrument.lot_size, linear.instrument.contract) == (to_units("0.001"), "linear")
    assert (linear.instrument.maker_fee_ppm, linear.instrument.taker_fee_ppm) == (200, 600)
    assert linear.instrument.max_orders == 100
    assert (inverse.instrument.lot_size, inverse.instrument.contract) == (to_units(1), "inverse")
    assert linear.funding == FundingUpdated(
        9,
        0,
        "kucoinfutures",
        "BTC/USDT-PERP",
        1000,
        1001,
        52_000_000,
        8_000_000,
        (MS + HOUR_MS) * 10**6,
        8 * 3600,
        to_units("0.003"),
        -to_units("0.003"),
    )
    assert inverse.funding.next_ts == 9 + 60_000 * 10**6  # only what is left was said


def test_changes_wait_for_the_snapshot_and_follow_one_by_one() -> None:
    futures = feed()
    futures.on_frame(1, change(10, "100.0,buy,9"))
    futures.on_frame(2, change(11, "99.9,buy,3"))

    messages = futures.on_reply(3, DEPTH_URL, depth(10))
    gap = futures.on_frame(4, change(13, "100.1,sell,0"))

    assert kinds(messages) == ["Instrument", "BookSnapshot", "BookDelta"]
    assert futures.book("XBTUSDTM").bids.top(2) == [(1000, 5), (999, 3)]
    assert gap == [SequenceGap(4, "kucoinfutures", "BTC/USDT-PERP", 12, 13)]


def test_a_part_of_a_book_ends_where_it_does() -> None:
    futures = feed()
    bids = [[f"{100 - step / 10:.1f}", 1] for step in range(20)]
    data = {"sequence": 10, "bids": bids, "asks": [["100.1", 7]], "ts": 0}

    futures.on_reply(
        3, "https://x/api/v1/level2/depth20?symbol=XBTUSDTM", raw({"code": "200000", "data": data})
    )
    (delta,) = futures.on_frame(4, change(11, "98.0,buy,1"))

    assert list(levels(delta.bids)) == []  # type: ignore[attr-defined]
    assert futures.needs_snapshot("XBTUSDTM")  # twenty are too few


def test_an_execution_is_a_trade_of_the_takers_side() -> None:
    data = {
        "symbol": "XBTUSDTM",
        "sequence": 36,
        "side": "buy",
        "size": 2,
        "price": "100.1",
        "ts": MS * 10**6,
    }

    messages = feed().on_frame(1, frame("/contractMarket/execution", "match", data))

    assert messages[1:] == [Trade(1, MS * 10**6, "kucoinfutures", "BTC/USDT-PERP", 36, 1001, 2, Side.BUY)]


def test_a_ticker_is_a_quote() -> None:
    data = {
        "sequence": 36,
        "bestBidPrice": "100.0",
        "bestBidSize": 5,
        "bestAskPrice": 100.1,
        "bestAskSize": 7,
        "ts": MS * 10**6,
    }

    messages = feed().on_frame(1, frame("/contractMarket/tickerV2", "tickerV2", data))

    assert messages[1:] == [Quote(1, MS * 10**6, "kucoinfutures", "BTC/USDT-PERP", 36, 1000, 5, 1001, 7)]


def test_what_a_perpetual_pays_is_put_together_from_its_pieces() -> None:
    futures = feed()
    values = {"markPrice": 101.0, "indexPrice": 102.0, "granularity": 1000, "timestamp": MS}
    predicted = {"granularity": 60_000, "fundingRate": -0.002966, "timestamp": MS}
    settled = {"granularity": 8 * HOUR_MS, "fundingRate": 0.0001, "timestamp": MS + HOUR_MS}

    futures.on_frame(1, frame("/contract/instrument", "mark.index.price", values))
    futures.on_frame(2, frame("/contract/instrument", "funding.rate", predicted))
    (last,) = futures.on_frame(3, frame("/contract/instrument", "funding.rate", settled))

    assert isinstance(last, FundingUpdated)
    assert (last.mark, last.index) == (1010, 1020)
    assert (last.rate, last.predicted) == (to_units("0.0001"), -to_units("0.002966"))
    assert last.next_ts == (MS + 9 * HOUR_MS) * 10**6  # the one before has passed


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (change(1, "100.0,up,3"), "malformed frame"),
        (change(1, "100.0"), "number off the grid"),
        (frame("/contract/instrument", "premium.index", {}), "unsupported stream"),
        (raw({"type": "error", "code": 404, "data": "topic not found"}), "error frame"),
    ],
)
def test_a_bad_frame_is_skipped_with_its_reason(bad: bytes, reason: str) -> None:
    futures = feed()

    assert futures.on_frame(1, bad) == []
    assert futures.tally.reasons == {reason: 1}


def test_each_connection_gets_a_new_token_and_the_pings_it_asks_for() -> None:
    options = KucoinFuturesOptions(rest_url="http://here")
    venue = KucoinVenue("kucoinfutures", options, KucoinFuturesFeed, PATHS)
    server = {"endpoint": "ws://there/endpoint", "pingInterval": 5000, "pingTimeout": 10000}
    ticket = {"code": "200000", "data": {"token": "T1", "instanceServers": [server]}}

    request = venue.ticket()
    socket = venue.socket([f"A{n}USDTM" for n in range(150)], raw(ticket))

    assert request == ("http://here/api/v1/bullet-public", "POST")
    assert (socket.url, socket.ping_s) == ("ws://there/endpoint?token=T1", 5.0)
    assert json.loads(socket.ping_text)["type"] == "ping"
    assert len(socket.greeting) == 8  # four topics in two batches
    with pytest.raises(MalformedMessage, match="expected a server"):
        venue.socket([], raw({"code": "200000", "data": {"token": "T1", "instanceServers": []}}))
