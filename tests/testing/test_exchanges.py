"""What the local exchanges say, read by clients that know nothing but the documentation."""

import json
from collections.abc import Callable
from decimal import Decimal
from random import Random
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.testing.exchanges import EXCHANGES, Connection, Market, Wire
from tickerml.testing.exchanges.market import Listing, text
from tickerml.testing.exchanges.wire import OUTBOX, iso

NOW = 1_790_000_000_123_456_789
LISTING = Listing("BTC/USD", "BTCUSD", 6_000_000, 2, 5)

Side = dict[Decimal, Decimal]


def wire_of(exchange: str, **options: Any) -> Wire:
    return EXCHANGES[exchange](7, lambda: NOW, **options)


def said(connection: Connection) -> list[Any]:
    """Return what a connection has to send, as JSON, with numbers as they are written."""
    frames = [json.loads(frame.text, parse_float=Decimal) for frame in connection.outbox]
    connection.outbox.clear()
    return frames


# --- The market -------------------------------------------------------------------------------------


@given(seed=st.integers(), levels=st.integers(20, 60), changes=st.integers(1, 20))
def test_a_book_is_never_crossed_and_is_remembered_change_by_change(seed, levels, changes):
    market = Market(LISTING, str(seed), levels=levels)
    replayed: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for number, change in enumerate(market.changes(1, market.seq), 1):
        assert change.seq == number
    for _ in range(60):
        market.update(changes)
    for change in market.changes(1, market.seq):
        side = replayed[0 if change.is_bid else 1]
        side[change.price] = change.quantity
        if not change.quantity:
            del side[change.price]
        assert not (replayed[0] and replayed[1]) or max(replayed[0]) < min(replayed[1])
        if change.seq % 37 == 0:
            assert market.book_at(change.seq) == replayed

    assert market.book_at(market.seq) == replayed
    assert market.best_bid[0] < market.best_ask[0]


def test_the_same_seed_is_the_same_market_and_another_is_not():
    def play(seed: str) -> list[Any]:
        market = Market(LISTING, seed)
        return [market.update() for _ in range(50)]

    assert play("1") == play("1")
    assert play("1") != play("2")


def test_a_book_is_crossed_by_one_update_where_that_was_asked_for():
    market = Market(LISTING, "1")
    market.cross()

    market.update()
    crossed = market.best_bid[0] >= market.best_ask[0]
    market.update()

    assert crossed
    assert market.best_bid[0] < market.best_ask[0]


def test_a_book_of_the_future_cannot_be_asked_for():
    market = Market(LISTING, "1")

    with pytest.raises(ValueError, match=r"expected a change of 0 to \d+, was 999999"):
        market.book_at(999_999)


def test_a_market_of_fewer_than_20_levels_is_refused():
    with pytest.raises(ValueError, match="at least 20 levels a side, was 5"):
        Market(LISTING, "1", levels=5)


@pytest.mark.parametrize(
    ("number", "decimals", "written"), [(1050, 2, "10.50"), (5, 3, "0.005"), (7, 0, "7")]
)
def test_a_number_is_written_with_all_its_digits(number, decimals, written):
    assert text(number, decimals) == written


def test_a_time_is_written_with_the_digits_that_were_asked_for():
    assert iso(NOW, 9) == "2026-09-21T14:13:20.123456789Z"
    assert iso(NOW, 3) == "2026-09-21T14:13:20.123Z"


# --- Each exchange, read by the documentation --------------------------------------------------------


class Reader:
    """A client of one exchange: it subscribes, folds the frames of one book, and checks their order."""

    exchange = ""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire, self.name = wire, name
        self.bids: Side = {}
        self.asks: Side = {}
        self.connection = wire.connect(self.dial())
        for command in self.commands():
            self.connection.received(json.dumps(command))

    def dial(self) -> dict[str, str]:
        return {}

    def commands(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def read(self, frame: Any) -> None:
        raise NotImplementedError

    def begin(self) -> None:
        """Fetch what the socket does not bring."""

    def rest(self, path: str, method: str = "GET", **query: str) -> Any:
        reply = self.wire.request(method, path, query)
        assert reply.status == 200
        return json.loads(reply.body, parse_float=Decimal)

    def put(self, side: Side, price: Any, quantity: Any) -> None:
        side[Decimal(price)] = Decimal(quantity)
        if not Decimal(quantity):
            del side[Decimal(price)]

    def put_all(self, bids: Any, asks: Any) -> None:
        for side, levels in ((self.bids, bids), (self.asks, asks)):
            for price, quantity, *_ in levels:
                side.setdefault(Decimal(price), Decimal(0))
                self.put(side, price, quantity)

    def catch_up(self) -> None:
        for frame in said(self.connection):
            self.read(frame)


class BinanceReader(Reader):
    exchange = "binanceus"
    base = "/api/v3"
    last = 0
    after = 1  # an update that ends where the snapshot does is in it

    def commands(self):
        streams = [f"{self.name.lower()}@{stream}" for stream in ("depth@100ms", "trade", "bookTicker")]
        return [{"method": "SUBSCRIBE", "params": streams, "id": 1}]

    def begin(self):
        depth = self.rest(self.base + "/depth", symbol=self.name, limit="5000")
        self.put_all(depth["bids"], depth["asks"])
        self.last = depth["lastUpdateId"]
        self.is_first = True

    def read(self, frame):
        if frame.get("stream", "").partition("@")[2] != "depth@100ms":
            return
        depth = frame["data"]
        if depth["u"] < self.last + self.after:
            return
        assert self.follows(depth)
        self.is_first, self.last = False, depth["u"]
        self.put_all(depth["b"], depth["a"])

    def follows(self, depth):
        return depth["U"] == self.last + 1


class FuturesReader(BinanceReader):
    exchange = "binanceusdm"
    base = "/fapi/v1"
    after = 0

    def follows(self, depth):
        assert depth["U"] != depth["pu"] + 1  # the numbers of the futures have holes
        if self.is_first:
            return depth["U"] <= self.last <= depth["u"]
        return depth["pu"] == self.last


class CoinbaseReader(Reader):
    exchange = "coinbase"
    sequence_num = -1

    def commands(self):
        channels = ("heartbeats", "market_trades", "ticker", "level2")
        return [{"type": "subscribe", "product_ids": [self.name], "channel": channel} for channel in channels]

    def read(self, frame):
        assert frame["sequence_num"] == self.sequence_num + 1
        self.sequence_num = frame["sequence_num"]
        if frame["channel"] != "l2_data":
            return
        for change in frame["events"][0]["updates"]:
            side = self.bids if change["side"] == "bid" else self.asks
            side.setdefault(Decimal(change["price_level"]), Decimal(0))
            self.put(side, change["price_level"], change["new_quantity"])


class KrakenReader(Reader):
    exchange = "kraken"
    depth = 1000

    def commands(self):
        params = {"channel": "book", "symbol": [self.name], "depth": self.depth}
        trades = {"channel": "trade", "symbol": [self.name]}
        return [{"method": "subscribe", "params": each, "req_id": 1} for each in (params, trades)]

    def read(self, frame):
        if frame.get("channel") != "book":
            return
        book = frame["data"][0]
        for side, levels in ((self.bids, book["bids"]), (self.asks, book["asks"])):
            for level in levels:
                side.setdefault(Decimal(level["price"]), Decimal(0))
                self.put(side, level["price"], level["qty"])
        for price in sorted(self.bids, reverse=True)[self.depth :]:
            del self.bids[price]
        for price in sorted(self.asks)[self.depth :]:
            del self.asks[price]
        assert book["checksum"] == self.checksum()

    def checksum(self):
        asks = sorted(self.asks.items())[:10]
        bids = sorted(self.bids.items(), reverse=True)[:10]
        numbers = [str(number) for level in asks + bids for number in level]
        return crc32("".join(number.replace(".", "").lstrip("0") for number in numbers).encode())


class ShallowKrakenReader(KrakenReader):
    depth = 10


class KucoinReader(Reader):
    exchange = "kucoin"

    def dial(self):
        bullet = self.rest("/api/v1/bullet-public", "POST")["data"]
        assert bullet["instanceServers"][0]["pingInterval"] > 0
        return {"token": bullet["token"], "connectId": "c1"}

    def commands(self):
        topics = (f"/market/level2:{self.name}", f"/market/match:{self.name}")
        return [{"id": 1, "type": "subscribe", "topic": topic, "response": True} for topic in topics]

    def begin(self):
        book = self.rest("/api/v1/market/orderbook/level2_100", symbol=self.name)["data"]
        assert len(book["bids"]) <= 100
        self.last = int(book["sequence"])
        self.put_all(book["bids"], book["asks"])

    def read(self, frame):
        if frame.get("subject") != "trade.l2update" or frame["data"]["sequenceEnd"] <= self.last:
            return
        assert frame["data"]["sequenceStart"] == self.last + 1
        self.last = frame["data"]["sequenceEnd"]
        changes = frame["data"]["changes"]
        real = {side: [each for each in changes[side] if each[0] != "0"] for side in changes}
        self.put_all(*(sorted(real[side], key=lambda each: int(each[2])) for side in ("bids", "asks")))


class KucoinFuturesReader(KucoinReader):
    exchange = "kucoinfutures"

    def commands(self):
        topics = (f"/contractMarket/level2:{self.name}", f"/contract/instrument:{self.name}")
        return [{"id": 1, "type": "subscribe", "topic": topic, "response": True} for topic in topics]

    def begin(self):
        book = self.rest("/api/v1/level2/snapshot", symbol=self.name)["data"]
        self.last = book["sequence"]
        self.put_all(book["bids"], book["asks"])

    def read(self, frame):
        if frame.get("subject") != "level2" or frame["data"]["sequence"] <= self.last:
            return
        self.last += 1
        price, side, quantity = frame["data"]["change"].split(",")
        levels = [(price, quantity)]
        self.put_all(*((levels, []) if side == "buy" else ([], levels)))

        assert frame["data"]["sequence"] == self.last


class KrakenFuturesReader(Reader):
    exchange = "krakenfutures"
    last = 0

    def commands(self):
        feeds = ("book", "trade", "ticker", "heartbeat")
        return [{"event": "subscribe", "feed": feed, "product_ids": [self.name]} for feed in feeds]

    def read(self, frame):
        if frame.get("feed") == "book_snapshot":
            self.last = frame["seq"]
            self.put_all(*([level.values() for level in frame[side]] for side in ("bids", "asks")))
        elif frame.get("feed") == "book" and "event" not in frame:
            assert frame["seq"] == self.last + 1
            self.last = frame["seq"]
            levels = [(frame["price"], frame["qty"])]
            self.put_all(*((levels, []) if frame["side"] == "buy" else ([], levels)))


READERS = [
    BinanceReader,
    FuturesReader,
    CoinbaseReader,
    KrakenReader,
    ShallowKrakenReader,
    KucoinReader,
    KucoinFuturesReader,
    KrakenFuturesReader,
]


def true_sides(market: Market) -> tuple[Side, Side]:
    bids, asks = market.book_at(market.seq)
    written = [
        {Decimal(market.price_text(p)): Decimal(market.quantity_text(q)) for p, q in side.items()}
        for side in (bids, asks)
    ]
    return written[0], written[1]


def best_of(side: Side, depth: int, *, is_bid: bool) -> list[tuple[Decimal, Decimal]]:
    return sorted(side.items(), reverse=is_bid)[:depth]


@pytest.mark.parametrize("reader", READERS)
def test_a_client_that_follows_the_documentation_has_the_true_book(reader: type[Reader]):
    wire = wire_of(reader.exchange)
    name, market = next(iter(wire.markets.items()))
    client = reader(wire, name)
    rng, depth = Random(3), getattr(reader, "depth", 60)
    for _ in range(20):
        wire.update(name)
    client.begin()
    for _ in range(400):
        wire.update(rng.choice(list(wire.markets)))
        if rng.random() < 0.1:
            wire.beat()
        client.catch_up()
        for ours, true, is_bid in zip(
            (client.bids, client.asks), true_sides(market), (True, False), strict=True
        ):
            assert best_of(ours, depth, is_bid=is_bid) == best_of(true, depth, is_bid=is_bid)


@pytest.mark.parametrize("reader", READERS)
def test_every_market_that_is_listed_can_be_asked_for_by_its_symbol(reader: type[Reader]):
    wire = wire_of(reader.exchange, symbols=["BTC/USD", "BTC/USDT-PERP", "BTC/USD-PERP"])

    assert [wire.market(each.listing.symbol) for each in wire.markets.values()] == [*wire.markets.values()]
    with pytest.raises(KeyError, match="was 'DOGE/USD'"):
        wire.market("DOGE/USD")


LISTINGS: dict[str, tuple[str, Callable[[Any], list[str]]]] = {
    "binanceus": ("/api/v3/exchangeInfo", lambda it: [each["symbol"] for each in it["symbols"]]),
    "binanceusdm": ("/fapi/v1/exchangeInfo", lambda it: [each["symbol"] for each in it["symbols"]]),
    "coinbase": (
        "/api/v3/brokerage/market/products",
        lambda it: [each["product_id"] for each in it["products"]],
    ),
    "kraken": (
        "/0/public/AssetPairs",
        lambda it: [each["wsname"].replace("XBT", "BTC") for each in it["result"].values()],
    ),
    "kucoin": ("/api/v2/symbols", lambda it: [each["symbol"] for each in it["data"]]),
    "kucoinfutures": ("/api/v1/contracts/active", lambda it: [each["symbol"] for each in it["data"]]),
    "krakenfutures": (
        "/derivatives/api/v3/instruments",
        lambda it: [each["symbol"] for each in it["instruments"]],
    ),
}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_listing_names_every_market(exchange: str):
    wire = wire_of(exchange)
    path, names = LISTINGS[exchange]

    assert names(json.loads(wire.request("GET", path, {}).body)) == list(wire.markets)
    assert wire.request("GET", "/no/such/path", {}).status == 404


def test_binance_tells_of_its_past_trades_and_of_klines_that_add_up_to_them():
    minute, now = 60 * 10**9, [NOW // (60 * 10**9) * 60 * 10**9]
    wire = EXCHANGES["binanceus"](7, lambda: now[0])
    for after in (0, 1, 30, 60, 240, 241):  # seconds: two minutes have no trade
        now[0] = NOW // minute * minute + after * 10**9
        for _ in range(20):
            wire.update("BTCUSD")

    def asked(path: str, **query: str) -> Any:
        return json.loads(wire.request("GET", f"/api/v3/{path}", {"symbol": "BTCUSD", **query}).body)

    trades, klines = asked("aggTrades"), asked("klines", interval="1m")
    assert [trade["a"] for trade in trades] == list(range(1, len(trades) + 1))
    assert [kline[0] for kline in klines] == [NOW // minute * 60_000 + n * 60_000 for n in range(5)]
    assert [kline[8] > 0 for kline in klines] == [True, True, False, False, True]
    for start, *prices, volume, end, turnover, count, _, _, _ in klines:
        within = [trade for trade in trades if start <= trade["T"] <= end]
        said = [Decimal(trade["p"]) for trade in within] or [Decimal(klines[1][4])]
        assert [*map(Decimal, prices)] == [said[0], max(said), min(said), said[-1]]
        assert Decimal(volume) == sum(Decimal(trade["q"]) for trade in within)
        assert Decimal(turnover) == sum(Decimal(trade["p"]) * Decimal(trade["q"]) for trade in within)
        assert count == len(within)


def test_binance_gives_of_the_past_what_was_asked_for():
    wire = wire_of("binanceusdm")
    for _ in range(200):
        wire.update("BTCUSDT")

    def asked(path: str, **query: str) -> Any:
        return json.loads(wire.request("GET", f"/fapi/v1/{path}", {"symbol": "BTCUSDT", **query}).body)

    newest = asked("aggTrades", limit="3")
    assert newest == asked("aggTrades")[-3:]
    assert asked("aggTrades", startTime="0", limit="2") == asked("aggTrades")[:2]
    assert asked("aggTrades", startTime=str(NOW)) == asked("klines", interval="1m", endTime="0") == []
    assert asked("klines", interval="7m")["code"] == -1120
    assert asked("klines", interval="1m", symbol="XYZ")["code"] == -1121


def test_a_token_of_kucoin_is_good_for_one_connection():
    wire = wire_of("kucoin")
    token = json.loads(wire.request("POST", "/api/v1/bullet-public", {}).body)["data"]["token"]

    first, second = (wire.connect({"token": token}) for _ in range(2))

    assert said(first)[0]["type"] == "welcome"
    assert said(second)[0]["data"] == "token is expired"
    assert (first.closing, second.closing) == ("", "close")


@pytest.mark.parametrize(
    ("exchange", "name", "topic", "subject"),
    [
        ("krakenfutures", "PF_XBTUSD", "ticker", "ticker"),
        ("kucoinfutures", "XBTUSDTM", "/contract/instrument:XBTUSDTM", "funding.rate"),
        ("binanceusdm", "BTCUSDT", "btcusdt@markPrice@1s", "markPriceUpdate"),
    ],
)
def test_funding_is_told_once_a_second(exchange: str, name: str, topic: str, subject: str):
    wire = wire_of(exchange)
    token = KucoinFuturesReader.dial if exchange == "kucoinfutures" else Reader.dial
    reader = Reader.__new__(Reader)
    reader.wire, reader.name = wire, name
    connection = wire.connect(token(reader))  # type: ignore[arg-type]
    for command in (
        {"event": "subscribe", "feed": topic, "product_ids": [name]},
        {"type": "subscribe", "topic": topic},
        {"method": "SUBSCRIBE", "params": [topic], "id": 1},
    ):
        keys = {"krakenfutures": "event", "kucoinfutures": "topic", "binanceusdm": "method"}
        if keys[exchange] in command:
            connection.received(json.dumps(command))
    said(connection)

    wire.beat()

    assert subject in json.dumps(said(connection), default=str)


def test_a_client_that_does_not_read_is_cut_off():
    wire = wire_of("kraken")
    connection = KrakenReader(wire, "BTC/USD").connection
    for _ in range(OUTBOX + 1):
        wire.update("BTC/USD")

    assert connection.closing == "abort"
