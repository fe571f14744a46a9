"""
Coinbase Advanced Trade, as its public market data is documented today.

Every frame of a connection carries sequence_num, one more than the frame before it, whatever
channel either belongs to. A subscription to level2 brings the whole book and then absolute
quantities. The side of a trade is that of the maker's order, as everywhere at Coinbase.
Source: Coinbase Developer Platform, "Advanced Trade WebSocket channels".
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from .market import Listing, Market, Print, Update
from .wire import Connection, Reply, Wire, dumps, iso

_PRODUCTS = "/api/v3/brokerage/market/products"
_BOOK = "/api/v3/brokerage/market/product_book"
_CHANNELS = {"level2": "l2_data", "market_trades": "market_trades", "ticker": "ticker"}


class Coinbase(Wire):
    """Coinbase Advanced: products and product_book by REST, one socket for all channels."""

    exchange = "coinbase"
    listings: ClassVar[tuple[Listing, ...]] = (
        Listing("BTC/USD", "BTC-USD", 6_000_000, 2, 8, quantity=10_000_000),
        Listing("ETH/USD", "ETH-USD", 300_000, 2, 8, quantity=100_000_000),
        Listing("BTC/USDT", "BTC-USDT", 6_000_000, 2, 8, quantity=10_000_000),
        Listing("ETH/USDT", "ETH-USDT", 300_000, 2, 8, quantity=100_000_000),
    )

    def connection(self) -> "CoinbaseConnection":
        return CoinbaseConnection(self)

    def rest(self, method: str, path: str, query: Mapping[str, str]) -> Reply | None:
        if path == _PRODUCTS:
            products = [self._product(market) for market in self.markets.values()]
            return Reply(dumps({"products": products, "num_products": len(products)}))
        if path.startswith(_PRODUCTS + "/"):
            found = self.markets.get(path.rpartition("/")[2])
            return Reply(dumps(self._product(found))) if found else None
        market = self.markets.get(query.get("product_id", ""))
        if path != _BOOK or market is None:
            return None
        limit = int(query.get("limit", "1000"))
        book: dict[str, Any] = {"product_id": market.listing.wire, "time": iso(self.now())}
        for name, is_bid in (("bids", True), ("asks", False)):
            book[name] = [
                {"price": market.price_text(price), "size": market.quantity_text(quantity)}
                for price, quantity in market.top(limit, is_bid=is_bid)
            ]
        return Reply(dumps({"pricebook": book}), seq=market.seq)

    def _product(self, market: Market) -> dict[str, Any]:
        listing = market.listing
        base, quote = listing.symbol.split("/")
        return {
            "product_id": listing.wire,
            "price": market.price_text(market.last_price),
            "base_increment": market.quantity_text(1),
            "quote_increment": market.price_text(1),
            "price_increment": market.price_text(1),
            "quote_min_size": "1",
            "quote_max_size": "150000000",
            "base_min_size": market.quantity_text(1),
            "base_max_size": "3400",
            "status": "online",
            "is_disabled": False,
            "trading_disabled": False,
            "cancel_only": False,
            "limit_only": False,
            "post_only": False,
            "auction_mode": False,
            "product_type": "SPOT",
            "base_currency_id": base,
            "quote_currency_id": quote,
            "base_display_symbol": base,
            "quote_display_symbol": quote,
            "product_venue": "CBE",
        }

    def error_frame(self) -> str:
        return '{"type":"error","message":"rate limit exceeded"}'


class CoinbaseConnection(Connection):
    """One socket; it counts the frames."""

    wire: Coinbase

    def __init__(self, wire: Coinbase) -> None:
        super().__init__(wire)
        self._sequence_num = 0
        self._heartbeats = 0

    def received(self, text: str) -> None:
        command = json.loads(text)
        channel, products = command["channel"], command.get("product_ids", [])
        unknown = [product for product in products if product not in self.wire.markets]
        if command["type"] == "unsubscribe":
            for product in products or [""]:
                self.subscribed.pop((channel, product), None)
            self._acknowledge()
            return
        if unknown or channel not in (*_CHANNELS, "heartbeats"):
            self.send(
                dumps({"type": "error", "message": f"{unknown or channel} is not a valid subscription"})
            )
            return
        for product in products or [""]:
            self.subscribed[channel, product] = None
            if channel != "heartbeats":
                self._snapshot(channel, self.wire.markets[product])
        self._acknowledge()

    def updated(self, market: Market, update: Update) -> None:
        wire = market.listing.wire
        if ("market_trades", wire) in self.subscribed and update.prints:
            newest_first = [self._trade(market, trade) for trade in reversed(update.prints)]
            self._say("market_trades", {"type": "update", "trades": newest_first}, "trade", wire)
        if ("level2", wire) in self.subscribed:
            bids, asks = update.merged()
            changes = self._changes(market, "bid", bids) + self._changes(market, "offer", asks)
            self._say("l2_data", _book("update", wire, changes), "book", wire, update.last)
        if ("ticker", wire) in self.subscribed and update.prints:
            self._say("ticker", self._ticker(market, "update"), "quote", wire)

    def beat(self) -> None:
        if ("heartbeats", "") in self.subscribed:
            self._heartbeats += 1
            at = iso(self.wire.now(), 9).replace("T", " ").replace("Z", " +0000 UTC m=+1.0")
            self._say("heartbeats", {"current_time": at, "heartbeat_counter": self._heartbeats})

    def _snapshot(self, channel: str, market: Market) -> None:
        wire = market.listing.wire
        if channel == "market_trades":
            self._say(channel, {"type": "snapshot", "trades": []}, "trade", wire)
        elif channel == "ticker":
            self._say(channel, self._ticker(market, "snapshot"), "quote", wire)
        else:
            changes = self._changes(market, "bid", market.top(10**6, is_bid=True))
            changes += self._changes(market, "offer", market.top(10**6, is_bid=False))
            self._say("l2_data", _book("snapshot", wire, changes), "book", wire, market.seq)

    def _acknowledge(self) -> None:
        subscriptions: dict[str, list[str]] = {}
        for channel, product in self.subscribed:
            subscriptions.setdefault(channel, []).append(product or "heartbeats")
        self._say("subscriptions", {"subscriptions": subscriptions})

    def _say(self, channel: str, event: dict[str, Any], kind: str = "", wire: str = "", seq: int = 0) -> None:
        envelope = {
            "channel": channel,
            "client_id": "",
            "timestamp": iso(self.wire.now(), 9),
            "sequence_num": self._sequence_num,
            "events": [event],
        }
        self._sequence_num += 1
        self.send(dumps(envelope), kind, wire, seq)

    def _changes(self, market: Market, side: str, levels: list[tuple[int, int]]) -> list[dict[str, str]]:
        at = iso(self.wire.now())
        return [
            {
                "side": side,
                "event_time": at,
                "price_level": market.price_text(price),
                "new_quantity": market.quantity_text(quantity) if quantity else "0",
            }
            for price, quantity in levels
        ]

    def _trade(self, market: Market, trade: Print) -> dict[str, str]:
        return {
            "trade_id": str(trade.number),
            "product_id": market.listing.wire,
            "price": market.price_text(trade.price),
            "size": market.quantity_text(trade.quantity),
            "side": "SELL" if trade.is_buy else "BUY",
            "time": iso(self.wire.now()),
        }

    def _ticker(self, market: Market, type_: str) -> dict[str, Any]:
        (bid, bid_quantity), (ask, ask_quantity) = market.best_bid, market.best_ask
        last = market.price_text(market.last_price)
        ticker = {
            "type": "ticker",
            "product_id": market.listing.wire,
            "price": last,
            "volume_24_h": "15328.12345678",
            "low_24_h": last,
            "high_24_h": last,
            "low_52_w": last,
            "high_52_w": last,
            "price_percent_chg_24_h": "0.5",
            "best_bid": market.price_text(bid),
            "best_bid_quantity": market.quantity_text(bid_quantity),
            "best_ask": market.price_text(ask),
            "best_ask_quantity": market.quantity_text(ask_quantity),
        }
        return {"type": type_, "tickers": [ticker]}


def _book(type_: str, product: str, changes: list[dict[str, str]]) -> dict[str, Any]:
    return {"type": type_, "product_id": product, "updates": changes}
