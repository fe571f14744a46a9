"""
KuCoin spot and KuCoin Futures, as their public interfaces are documented today.

A socket needs a token, which a POST to bullet-public gives out for one connection. Every change
of a book has a sequence. Spot sends several in a frame (sequenceStart to sequenceEnd), with now
and then a filler of price 0 that only counts; the futures send one in a frame. Of a spot book
the public snapshot has the best hundred levels of each side, while the updates cover all.
Source: KuCoin API documentation, "Orderbook - Increment", "Part OrderBook", "Get Public Token";
KuCoin Futures "Orderbook - Increment", "Instrument", "Get All Symbols".
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from tickerml.kernel import NS_PER_MS

from .market import Change, Listing, Market, Print, Update
from .wire import Connection, Reply, Wire, dumps

_OK = "200000"
_FUNDING_MS = 8 * 3600 * 1000
_FILLER_EVERY = 50  # updates


def _success(data: Any, seq: int = 0) -> Reply:
    return Reply(dumps({"code": _OK, "data": data}), seq=seq)


class Kucoin(Wire):
    """KuCoin spot: bullet-public, symbols and level2_100 by REST; level2, match and ticker topics."""

    exchange = "kucoin"
    listings: ClassVar[tuple[Listing, ...]] = (
        Listing("BTC/USDT", "BTC-USDT", 600_000, 1, 8, quantity=10_000_000),
        Listing("ETH/USDT", "ETH-USDT", 300_000, 2, 7, quantity=10_000_000),
        Listing("BTC/USD", "BTC-USD", 600_000, 1, 8, quantity=10_000_000),
        Listing("ETH/USD", "ETH-USD", 300_000, 2, 7, quantity=10_000_000),
    )
    ping_ms = 18_000

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokens: dict[str, None] = {}  # given out and not used
        self._given = 0

    def connection(self) -> "KucoinConnection":
        return KucoinConnection(self)

    def rest(self, method: str, path: str, query: Mapping[str, str]) -> Reply | None:
        if path == "/api/v1/bullet-public":
            return _success(self._bullet()) if method == "POST" else Reply('{"code":"405000"}', 405)
        if path in ("/api/v2/symbols", "/api/v1/symbols"):
            return _success([self._symbol(market) for market in self.markets.values()])
        market = self.markets.get(query.get("symbol", ""))
        if path in ("/api/v1/market/orderbook/level2_100", "/api/v1/market/orderbook/level2_20"):
            if market is None:
                return Reply('{"code":"400100","msg":"symbol not exists"}')
            depth = int(path.rpartition("_")[2])
            book = {"time": self.now() // NS_PER_MS, "sequence": str(market.seq), **_sides(market, depth)}
            return _success(book, market.seq)
        return None

    def expire_tokens(self) -> None:
        """Take back every token that has not been used."""
        self.tokens.clear()

    def _bullet(self) -> dict[str, Any]:
        self._given += 1
        token = f"2neAiuYvAU61ZDXANAGAsiL4-iAExhsB{self._given}"
        self.tokens[token] = None
        server = {
            "endpoint": self.ws_url,
            "encrypt": True,
            "protocol": "websocket",
            "pingInterval": self.ping_ms,
            "pingTimeout": 10_000,
        }
        return {"token": token, "instanceServers": [server]}

    @staticmethod
    def _symbol(market: Market) -> dict[str, Any]:
        base, quote = market.listing.symbol.split("/")
        return {
            "symbol": market.listing.wire,
            "name": market.listing.wire,
            "baseCurrency": base,
            "quoteCurrency": quote,
            "feeCurrency": quote,
            "market": "USDS",
            "baseMinSize": "0.00001",
            "quoteMinSize": "0.1",
            "baseMaxSize": "10000000000",
            "quoteMaxSize": "99999999",
            "baseIncrement": market.quantity_text(1),
            "quoteIncrement": "0.000001",
            "priceIncrement": market.price_text(1),
            "priceLimitRate": "0.1",
            "minFunds": "0.1",
            "isMarginEnabled": True,
            "enableTrading": True,
            "feeCategory": 1,
            "makerFeeCoefficient": "1.00",
            "takerFeeCoefficient": "1.00",
            "st": False,
        }

    def error_frame(self) -> str:
        return '{"id":"1","type":"error","code":404,"data":"topic /market/level2: is not found"}'


class KucoinConnection(Connection):
    """One socket, subscribed to topics; a topic may name several symbols."""

    wire: Kucoin

    def opened(self, query: Mapping[str, str]) -> None:
        token = query.get("token", "")
        if token not in self.wire.tokens:
            self.send(dumps({"id": "", "type": "error", "code": 401, "data": "token is expired"}))
            self.hang_up("close")
            return
        del self.wire.tokens[token]
        self.send(dumps({"id": query.get("connectId", ""), "type": "welcome"}))

    def received(self, text: str) -> None:
        command = json.loads(text)
        if command["type"] == "ping":
            at = self.wire.now() // 1000
            self.pong(dumps({"id": command.get("id", ""), "type": "pong", "timestamp": at}))
            return
        topic, _, names = command["topic"].partition(":")
        wires = names.split(",")
        if unknown := [wire for wire in wires if wire not in self.wire.markets]:
            text = f"topic {topic}:{unknown[0]} is not found"
            self.send(dumps({"id": command.get("id", ""), "type": "error", "code": 404, "data": text}))
            return
        for wire in wires:
            if command["type"] == "subscribe":
                self.subscribed[topic, wire] = None
            else:
                self.subscribed.pop((topic, wire), None)
        if command.get("response"):
            self.send(dumps({"id": command.get("id", ""), "type": "ack"}))

    def updated(self, market: Market, update: Update) -> None:
        wire = market.listing.wire
        if ("/market/match", wire) in self.subscribed:
            for seq, trade in enumerate(update.prints, update.first):  # each has a number of its own
                self._say("/market/match", wire, "trade.l3match", self._match(market, trade, seq), "trade")
        if ("/market/level2", wire) in self.subscribed:
            data = self._level2(market, update)
            self._say("/market/level2", wire, "trade.l2update", data, "book", update.last)
        if ("/market/ticker", wire) in self.subscribed:
            self._say("/market/ticker", wire, "trade.ticker", self._ticker(market), "quote")

    def _say(
        self, topic: str, wire: str, subject: str, data: dict[str, Any], kind: str, seq: int = 0
    ) -> None:
        frame = {"topic": f"{topic}:{wire}", "type": "message", "subject": subject, "data": data}
        self.send(dumps(frame), kind, wire, seq)

    def _level2(self, market: Market, update: Update) -> dict[str, Any]:
        changes: dict[str, list[list[str]]] = {"asks": [], "bids": []}
        for change in update.changes:
            level = [*_level(market, change.price, change.quantity), str(change.seq)]
            changes["bids" if change.is_bid else "asks"].append(level)
        if update.last % _FILLER_EVERY == 0:
            changes["asks"].append(["0", "0", str(update.last)])
        return {
            "changes": changes,
            "sequenceEnd": update.last,
            "sequenceStart": update.first,
            "symbol": market.listing.wire,
            "time": self.wire.now() // NS_PER_MS,
        }

    def _match(self, market: Market, trade: Print, seq: int) -> dict[str, str]:
        price, quantity = _level(market, trade.price, trade.quantity)
        return {
            "symbol": market.listing.wire,
            "side": "buy" if trade.is_buy else "sell",
            "type": "match",
            "price": price,
            "size": quantity,
            "sequence": str(seq),
            "tradeId": str(trade.number),
            "makerOrderId": f"m{trade.number}",
            "takerOrderId": f"t{trade.number}",
            "time": str(self.wire.now()),
        }

    def _ticker(self, market: Market) -> dict[str, Any]:
        (bid, bid_quantity), (ask, ask_quantity) = market.best_bid, market.best_ask
        return {
            "bestAsk": market.price_text(ask),
            "bestAskSize": market.quantity_text(ask_quantity),
            "bestBid": market.price_text(bid),
            "bestBidSize": market.quantity_text(bid_quantity),
            "price": market.price_text(market.last_price),
            "sequence": str(market.seq),
            "size": market.quantity_text(1),
            "time": self.wire.now() // NS_PER_MS,
        }


class KucoinFutures(Kucoin):
    """KuCoin Futures: contracts and whole books by REST; level2, execution, tickerV2, instrument topics."""

    exchange = "kucoinfutures"
    listings: ClassVar[tuple[Listing, ...]] = (
        Listing("BTC/USDT-PERP", "XBTUSDTM", 600_000, 1, 0, quantity=500, contract="0.001"),
        Listing("ETH/USDT-PERP", "ETHUSDTM", 300_000, 2, 0, quantity=5_000, contract="0.01"),
    )

    def connection(self) -> "KucoinConnection":
        return FuturesConnection(self)

    def rest(self, method: str, path: str, query: Mapping[str, str]) -> Reply | None:
        if path == "/api/v1/contracts/active":
            return _success([self._contract(market) for market in self.markets.values()])
        if path == "/api/v1/contract/funding-rates":
            return _success(self._rates(query))
        market = self.markets.get(query.get("symbol", ""))
        if path not in ("/api/v1/level2/snapshot", "/api/v1/level2/depth100", "/api/v1/level2/depth20"):
            return super().rest(method, path, query) if path == "/api/v1/bullet-public" else None
        if market is None:
            return Reply('{"code":"400100","msg":"symbol not exists"}')
        depth = int(path.partition("depth")[2] or 10**6)
        sides = {
            name: [
                [float(market.price_text(price)), lots]
                for price, lots in market.top(depth, is_bid=name == "bids")
            ]
            for name in ("bids", "asks")
        }
        book = {"symbol": market.listing.wire, "sequence": market.seq, **sides, "ts": self.now()}
        return _success(book, market.seq)

    def _contract(self, market: Market) -> dict[str, Any]:
        listing, ms = market.listing, self.now() // NS_PER_MS
        left = _FUNDING_MS - ms % _FUNDING_MS
        price = float(market.price_text(market.last_price))
        return {
            "symbol": listing.wire,
            "rootSymbol": "USDT",
            "type": "FFWCSX",
            "baseCurrency": listing.wire[:3],
            "quoteCurrency": "USDT",
            "settleCurrency": "USDT",
            "maxOrderQty": 1_000_000,
            "maxPrice": 1_000_000.0,
            "lotSize": 1,
            "tickSize": float(market.price_text(1)),
            "indexPriceTickSize": 0.01,
            "multiplier": float(listing.contract),
            "makerFeeRate": 0.0002,
            "takerFeeRate": 0.0006,
            "isInverse": False,
            "fundingFeeRate": 0.0001,
            "predictedFundingFeeRate": 0.00012,
            "fundingRateGranularity": _FUNDING_MS,
            "fundingRateCap": 0.003,
            "fundingRateFloor": -0.003,
            "nextFundingRateTime": left,
            "nextFundingRateDateTime": ms + left,
            "markPrice": price,
            "indexPrice": price,
            "lastTradePrice": price,
            "status": "Open",
        }

    @staticmethod
    def _rates(query: Mapping[str, str]) -> list[dict[str, Any]]:
        start, end = int(query.get("from", "0")), int(query.get("to", "0"))
        times = range(-(-start // _FUNDING_MS) * _FUNDING_MS, end + 1, _FUNDING_MS)
        symbol = query.get("symbol", "")
        return [
            {"symbol": symbol, "timepoint": ms, "fundingRate": 0.0001 + ms // _FUNDING_MS % 100 / 10**8}
            for ms in reversed(times[-100:])
        ]


class FuturesConnection(KucoinConnection):
    """One socket of the futures."""

    def updated(self, market: Market, update: Update) -> None:
        wire = market.listing.wire
        if ("/contractMarket/execution", wire) in self.subscribed:
            for trade in update.prints:
                data = self._execution(market, trade, update.last)
                self._say("/contractMarket/execution", wire, "match", data, "trade")
        if ("/contractMarket/level2", wire) in self.subscribed:
            for change in update.changes:
                self._say(
                    "/contractMarket/level2", wire, "level2", self._change(market, change), "book", change.seq
                )
        for topic, subject in (("ticker", "ticker"), ("tickerV2", "tickerV2")):
            if (f"/contractMarket/{topic}", wire) in self.subscribed:
                self._say(f"/contractMarket/{topic}", wire, subject, self._best(market), "quote")

    def beat(self) -> None:
        for topic, wire in self.subscribed:
            if topic == "/contract/instrument":
                market, ms = self.wire.markets[wire], self.wire.now() // NS_PER_MS
                price = float(market.price_text(market.last_price))
                mark = {"markPrice": price, "indexPrice": price, "granularity": 1000, "timestamp": ms}
                rate = {"granularity": 60_000, "fundingRate": 0.0001, "timestamp": ms}
                self._say(topic, wire, "mark.index.price", mark, "funding")
                self._say(topic, wire, "funding.rate", rate, "funding")

    def _change(self, market: Market, change: Change) -> dict[str, Any]:
        side = "buy" if change.is_bid else "sell"
        return {
            "sequence": change.seq,
            "change": f"{market.price_text(change.price)},{side},{change.quantity}",
            "timestamp": self.wire.now() // NS_PER_MS,
        }

    def _execution(self, market: Market, trade: Print, seq: int) -> dict[str, Any]:
        return {
            "symbol": market.listing.wire,
            "sequence": seq,
            "side": "buy" if trade.is_buy else "sell",
            "size": trade.quantity,
            "price": market.price_text(trade.price),
            "takerOrderId": f"t{trade.number}",
            "makerOrderId": f"m{trade.number}",
            "tradeId": str(trade.number),
            "ts": self.wire.now(),
        }

    def _best(self, market: Market) -> dict[str, Any]:
        (bid, bid_quantity), (ask, ask_quantity) = market.best_bid, market.best_ask
        return {
            "symbol": market.listing.wire,
            "sequence": market.seq,
            "bestBidSize": bid_quantity,
            "bestBidPrice": market.price_text(bid),
            "bestAskPrice": market.price_text(ask),
            "bestAskSize": ask_quantity,
            "ts": self.wire.now(),
        }


def _level(market: Market, price: int, quantity: int) -> list[str]:
    return [market.price_text(price), market.quantity_text(quantity) if quantity else "0"]


def _sides(market: Market, depth: int) -> dict[str, list[list[str]]]:
    return {
        name: [_level(market, *level) for level in market.top(depth, is_bid=name == "bids")]
        for name in ("bids", "asks")
    }
