"""Any other exchange through ccxt: its floats as ticks, and a session with the local exchange."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from tickerml.exchanges.ccxt_any import (
    CcxtFeed,
    CcxtOptions,
    book_of,
    quote_of,
    scale_of,
    tickerml_exchanges,
    trade_of,
)
from tickerml.kernel import (
    BookResynced,
    BookSnapshot,
    ConfigError,
    FeedConnected,
    FeedLost,
    Instrument,
    Message,
    Side,
    Trade,
    levels,
    to_units,
)
from tickerml.testing.exchanges.server import ExchangeServer

from .connectors import LiveContext

TICK_SIZE, DECIMALS = 4, 2
SPOT = {
    "symbol": "BTC/USD",
    "base": "BTC",
    "quote": "USD",
    "spot": True,
    "precision": {"price": 0.1, "amount": 0.0001},
    "limits": {"amount": {"min": 0.001}, "cost": {"min": 5.0}},
    "maker": 0.0016,
    "taker": 0.0026,
}
SWAP = SPOT | {
    "symbol": "BTC/USDT:USDT",
    "quote": "USDT",
    "spot": False,
    "swap": True,
    "linear": True,
    "contractSize": 0.001,
    "precision": {"price": 1, "amount": 0},
}


# --- What ccxt says ---------------------------------------------------------------------------------


def test_a_market_is_an_instrument_that_says_its_book_is_sampled() -> None:
    instrument = scale_of(SPOT, "bitstamp", 3, TICK_SIZE).instrument

    assert (instrument.exchange, instrument.symbol, instrument.contract) == ("bitstamp", "BTC/USD", "")
    assert instrument.is_sampled
    assert (instrument.tick_size, instrument.lot_size) == (to_units("0.1"), to_units("0.00000001"))
    assert instrument.min_quantity * instrument.lot_size == to_units("0.001")
    assert instrument.min_notional == to_units(5)
    assert (instrument.maker_fee_ppm, instrument.taker_fee_ppm) == (1600, 2600)


def test_a_perpetual_counts_contracts() -> None:
    scale = scale_of(SWAP, "other", 3, DECIMALS)

    assert (scale.instrument.symbol, scale.instrument.contract) == ("BTC/USDT-PERP", "linear")
    assert (scale.instrument.tick_size, scale.instrument.lot_size) == (to_units("0.1"), to_units("0.001"))
    assert scale.lots(7.0) == 7


def test_an_inverse_perpetual_has_another_name_than_the_linear_one_of_its_pair() -> None:
    inverse = SWAP | {"symbol": "BTC/USD:BTC", "quote": "USD", "linear": False, "inverse": True}

    instrument = scale_of(inverse, "other", 3, DECIMALS).instrument

    assert (instrument.symbol, instrument.contract) == ("BTC/USD-PERP-INVERSE", "inverse")


def test_a_market_that_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected spot or a perpetual"):
        scale_of(SPOT | {"spot": False, "future": True}, "other", 3, TICK_SIZE)


def test_floats_come_back_to_their_ticks() -> None:
    scale = scale_of(SPOT, "bitstamp", 3, TICK_SIZE)
    book = {"bids": [[61837.3, 0.1], [61837.2, 1e-08, 5]], "asks": [[61837.4, 0.0], [61837.5, 2.0]]}

    snapshot = book_of(book, scale, 9, 4, depth=2)

    assert (snapshot.ts_recv, snapshot.ts_event, snapshot.seq) == (9, 0, 4)
    assert list(levels(snapshot.bids)) == [(618373, 10_000_000), (618372, 1)]
    assert list(levels(snapshot.asks)) == [(618375, 200_000_000)]


def test_a_trade_needs_a_side_and_may_need_a_number() -> None:
    scale = scale_of(SPOT, "bitstamp", 3, TICK_SIZE)
    trade = {"id": "77", "timestamp": 5, "side": "sell", "price": 100.1, "amount": 0.5}

    assert trade_of(trade, scale, 9, 1) == Trade(
        9, 5_000_000, "bitstamp", "BTC/USD", 77, 1001, 50_000_000, Side.SELL
    )
    unnumbered = trade_of(trade | {"id": "a-b"}, scale, 9, 1)
    assert unnumbered is not None
    assert unnumbered.seq == 1
    assert trade_of(trade | {"side": None}, scale, 9, 1) is None


def test_a_ticker_needs_prices_and_quantities() -> None:
    scale = scale_of(SPOT, "bitstamp", 3, TICK_SIZE)
    ticker = {"bid": 100.1, "bidVolume": 1.0, "ask": 100.2, "askVolume": 2.0, "timestamp": None}

    quote = quote_of(ticker, scale, 9)

    assert quote is not None
    assert (quote.bid, quote.ask, quote.ask_quantity) == (1001, 1002, 200_000_000)
    assert quote_of(ticker | {"askVolume": None}, scale, 9) is None


def test_it_says_what_to_install_where_ccxt_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("tickerml.exchanges.ccxt_any.import_module", absent)

    with pytest.raises(ConfigError, match=r"pip install 'tickerml\[ccxt\]'"):
        CcxtFeed(LiveContext("exchange-ccxt"), CcxtOptions())  # type: ignore[arg-type]


# --- The real one, against the local exchange -------------------------------------------------------


def feed(server: ExchangeServer, **options: Any) -> CcxtFeed:
    pytest.importorskip("ccxt.pro", reason="needs ccxt: pip install 'tickerml[ccxt]'")
    http, ws = server.rest_url("binanceus"), server.ws_url("binanceus")
    urls = {"api": {"public": f"{http}/api/v3", "ws": {"spot": f"{ws}/ws"}}}
    settings = {
        "exchange": "binanceus",
        "symbols": ["BTC/USD"],
        "sample_ms": 10,
        "config": {"urls": urls, "enableRateLimit": False, "options": {"fetchCurrencies": False}},
    }
    (spec,) = tickerml_exchanges()
    made = spec.factory(LiveContext(spec.id), msgspec.convert(settings | options, spec.options))
    assert isinstance(made, CcxtFeed)
    return made


async def until(messages: Any, *kinds: type[Message]) -> list[Message]:
    """Take messages until there was one of each of *kinds*."""
    seen: list[Message] = []
    async with asyncio.timeout(20):
        while not all(any(isinstance(each, kind) for each in seen) for kind in kinds):
            said: Sequence[Message] = await anext(messages)
            seen += said
    return seen


def test_a_session_gives_sampled_books_and_comes_back_after_a_loss() -> None:
    async def session() -> None:
        server = ExchangeServer("binanceus", symbols=["BTC/USD"])
        async with server.serving(), aclosing(feed(server).stream()) as stream:
            market = asyncio.create_task(server.run(200.0))
            first = await until(stream, BookSnapshot, Trade)
            server.strike("abort", "binanceus")
            lost = await until(stream, FeedLost, FeedConnected, BookResynced)
            market.cancel()

        assert [type(message) for message in first[:2]] == [FeedConnected, Instrument]
        assert isinstance(first[1], Instrument)
        assert first[1].is_sampled
        books = [each for each in first + lost if isinstance(each, BookSnapshot)]
        assert all(each.bids and each.asks for each in books)
        assert sum(isinstance(each, FeedLost) for each in lost) == 1

    asyncio.run(session())


def test_an_exchange_that_nobody_knows_is_refused() -> None:
    pytest.importorskip("ccxt.pro", reason="needs ccxt: pip install 'tickerml[ccxt]'")

    with pytest.raises(ConfigError, match=r"expected one that ccxt\.pro knows, was 'mtgox'"):
        CcxtFeed(LiveContext("exchange-ccxt"), CcxtOptions(exchange="mtgox"))  # type: ignore[arg-type]
