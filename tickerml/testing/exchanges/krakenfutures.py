"""
Kraken Futures, WebSocket v1, as documented today.

A subscription to book brings a book_snapshot with its seq and then one frame for every level
that changes, each seq one more than the last of the same product. Tickers carry mark, index
and funding, absolute and relative to the price.
Source: Kraken Futures API documentation, "Book", "Trade", "Ticker", "Heartbeat".
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from tickerml.kernel import NS_PER_MS

from .market import Change, Listing, Market, Print, Update
from .wire import Connection, Reply, Wire, dumps, iso

_FUNDING_MS = 3600 * 1000
_CAP = 0.0025
_FEEDS = ("book", "trade", "ticker", "ticker_lite")


class KrakenFutures(Wire):
    """Kraken Futures: instruments, tickers and historical funding rates by REST, WebSocket v1."""

    exchange = "krakenfutures"
    listings: ClassVar[tuple[Listing, ...]] = (
        Listing("BTC/USD-PERP", "PF_XBTUSD", 60_000, 0, 4, quantity=2_000),
        Listing("ETH/USD-PERP", "PF_ETHUSD", 30_000, 1, 3, quantity=5_000),
    )

    def connection(self) -> "KrakenFuturesConnection":
        return KrakenFuturesConnection(self)

    def rest(self, method: str, path: str, query: Mapping[str, str]) -> Reply | None:
        at = iso(self.now(), 3)
        if path == "/derivatives/api/v3/instruments":
            found = [self._instrument(market) for market in self.markets.values()]
            return Reply(dumps({"result": "success", "instruments": found, "serverTime": at}))
        if path == "/derivatives/api/v3/tickers":
            found = [self.ticker(market) for market in self.markets.values()]
            return Reply(dumps({"result": "success", "tickers": found, "serverTime": at}))
        if path in (
            "/derivatives/api/v3/historical-funding-rates",
            "/derivatives/api/v4/historicalfundingrates",
        ):
            return Reply(dumps({"result": "success", "rates": self._rates(), "serverTime": at}))
        market = self.markets.get(query.get("symbol", ""))
        if path != "/derivatives/api/v3/orderbook" or market is None:
            return None
        book = {
            side: [_numbers(market, *level) for level in market.top(10**6, is_bid=side == "bids")]
            for side in ("bids", "asks")
        }
        return Reply(dumps({"result": "success", "orderBook": book, "serverTime": at}), seq=market.seq)

    def ticker(self, market: Market) -> dict[str, Any]:
        """Return a ticker as the socket sends it."""
        (bid, bid_quantity), (ask, ask_quantity) = market.best_bid, market.best_ask
        ms = self.now() // NS_PER_MS
        last = float(market.price_text(market.last_price))
        return {
            "time": ms,
            "product_id": market.listing.wire,
            "funding_rate": 0.00001 * last,
            "funding_rate_prediction": 0.000012 * last,
            "relative_funding_rate": 0.00001,
            "relative_funding_rate_prediction": 0.000012,
            "next_funding_rate_time": ms - ms % _FUNDING_MS + _FUNDING_MS,
            "feed": "ticker",
            "bid": float(market.price_text(bid)),
            "ask": float(market.price_text(ask)),
            "bid_size": float(market.quantity_text(bid_quantity)),
            "ask_size": float(market.quantity_text(ask_quantity)),
            "volume": 31_403.9,
            "dtm": 0,
            "leverage": "50x",
            "index": last,
            "premium": 0.0,
            "last": last,
            "change": 0.5,
            "suspended": False,
            "tag": "perpetual",
            "pair": market.listing.symbol.removesuffix("-PERP").replace("BTC", "XBT").replace("/", ":"),
            "openInterest": 3_007.2,
            "markPrice": last,
            "maturityTime": 0,
            "post_only": False,
            "volumeQuote": 31_403.9 * last,
        }

    @staticmethod
    def _instrument(market: Market) -> dict[str, Any]:
        base, quote = market.listing.symbol.removesuffix("-PERP").split("/")
        return {
            "symbol": market.listing.wire,
            "type": "flexible_futures",
            "tradeable": True,
            "base": base,
            "quote": quote,
            "pair": f"{base}:{quote}",
            "tickSize": float(market.price_text(1)),
            "contractSize": 1,
            "contractValueTradePrecision": market.listing.quantity_decimals,
            "impactMidSize": 1.0,
            "maxPositionSize": 1_000_000.0,
            "openingDate": "2022-03-22T15:17:41.000Z",
            "fundingRateCoefficient": 24,
            "maxRelativeFundingRate": _CAP,
            "marginLevels": [],
            "postOnly": False,
            "category": "Layer 1",
            "tags": [],
        }

    def _rates(self) -> list[dict[str, Any]]:
        last = self.now() // NS_PER_MS // _FUNDING_MS * _FUNDING_MS
        return [
            {
                "timestamp": iso(ms * NS_PER_MS, 3),
                "fundingRate": 0.6 + ms // _FUNDING_MS % 100 / 1000,
                "relativeFundingRate": 0.00001,
            }
            for ms in range(last - 99 * _FUNDING_MS, last + 1, _FUNDING_MS)
        ]

    def error_frame(self) -> str:
        return '{"event":"error","message":"Invalid product id"}'


class KrakenFuturesConnection(Connection):
    """One socket, subscribed to feeds of products."""

    wire: KrakenFutures

    def opened(self, query: Mapping[str, str]) -> None:
        self.send(dumps({"event": "info", "version": 1}))

    def received(self, text: str) -> None:
        command = json.loads(text)
        feed, products = command["feed"], command.get("product_ids", [])
        if feed not in (*_FEEDS, "heartbeat"):
            self.send('{"event":"error","message":"Invalid feed"}')
            return
        if any(product not in self.wire.markets for product in products):
            self.send(self.wire.error_frame())
            return
        is_new = command["event"] == "subscribe"
        answer = {"event": "subscribed" if is_new else "unsubscribed", "feed": feed}
        self.send(dumps(answer | ({"product_ids": products} if products else {})))
        for product in products or [""]:
            if not is_new:
                self.subscribed.pop((feed, product), None)
                continue
            self.subscribed[feed, product] = None
            self._begin(feed, product)

    def updated(self, market: Market, update: Update) -> None:
        wire = market.listing.wire
        if ("trade", wire) in self.subscribed:
            for trade in update.prints:
                self.send(dumps(self._trade(market, trade)), "trade", wire)
        if ("book", wire) in self.subscribed:
            for change in update.changes:
                self.send(dumps(self._change(market, change)), "book", wire, change.seq)

    def beat(self) -> None:
        for feed, wire in self.subscribed:
            if feed == "heartbeat":
                self.send(dumps({"feed": "heartbeat", "time": self.wire.now() // NS_PER_MS}))
            elif feed.startswith("ticker"):
                ticker = self.wire.ticker(self.wire.markets[wire]) | {"feed": feed}
                self.send(dumps(ticker), "funding", wire)

    def _begin(self, feed: str, wire: str) -> None:
        if feed == "trade":
            self.send(dumps({"feed": "trade_snapshot", "product_id": wire, "trades": []}))
        elif feed == "book":
            market = self.wire.markets[wire]
            snapshot = {
                "feed": "book_snapshot",
                "product_id": wire,
                "timestamp": self.wire.now() // NS_PER_MS,
                "seq": market.seq,
                "tickSize": None,
                "bids": [_level(market, *level) for level in market.top(10**6, is_bid=True)],
                "asks": [_level(market, *level) for level in market.top(10**6, is_bid=False)],
            }
            self.send(dumps(snapshot), "book", wire, market.seq)

    def _change(self, market: Market, change: Change) -> dict[str, Any]:
        return {
            "feed": "book",
            "product_id": market.listing.wire,
            "side": "buy" if change.is_bid else "sell",
            "seq": change.seq,
            **_level(market, change.price, change.quantity),
            "timestamp": self.wire.now() // NS_PER_MS,
        }

    def _trade(self, market: Market, trade: Print) -> dict[str, Any]:
        return {
            "feed": "trade",
            "product_id": market.listing.wire,
            "uid": f"00000000-0000-4000-8000-{trade.number:012}",
            "side": "buy" if trade.is_buy else "sell",
            "type": "fill",
            "seq": trade.number,
            "time": self.wire.now() // NS_PER_MS,
            "qty": _number(market.quantity_text(trade.quantity)),
            "price": _number(market.price_text(trade.price)),
        }


def _number(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() else value


def _numbers(market: Market, price: int, quantity: int) -> list[float | int]:
    return [_number(market.price_text(price)), _number(market.quantity_text(quantity))]


def _level(market: Market, price: int, quantity: int) -> dict[str, float | int]:
    level = _numbers(market, price, quantity)
    return {"price": level[0], "qty": level[1]}
