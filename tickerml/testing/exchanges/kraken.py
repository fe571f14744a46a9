"""
Kraken spot, WebSocket v2, as documented today.

A book channel has a depth. The exchange sends what changes among the best levels of that
depth, including the levels that move into it; those that are pushed out it does not mention,
so a client drops them itself. Every frame carries a CRC32 of the ten best levels, taken from
the digits as they are written: numbers, with all the decimals of the pair.
Source: Kraken API documentation, "Book (Level 2)" and "Book checksum guide (v2)".
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar
from zlib import crc32

from .market import Levels, Listing, Market, Update
from .wire import Connection, Reply, Wire, dumps, iso

_REST_NAMES = {"BTC/USD": "XXBTZUSD", "ETH/USD": "XETHZUSD", "BTC/USDT": "XBTUSDT", "ETH/USDT": "ETHUSDT"}
_BASES = {"BTC": "XXBT", "ETH": "XETH"}
_QUOTES = {"USD": "ZUSD", "USDT": "USDT"}
_CHANNELS = ("book", "trade", "ticker")
_DEPTHS = (10, 25, 100, 500, 1000)


class Kraken(Wire):
    """Kraken spot: AssetPairs and Depth by REST, WebSocket v2."""

    exchange = "kraken"
    listings: ClassVar[tuple[Listing, ...]] = (
        Listing("BTC/USD", "BTC/USD", 600_000, 1, 8, quantity=10_000_000),
        Listing("ETH/USD", "ETH/USD", 300_000, 2, 8, quantity=100_000_000),
        Listing("BTC/USDT", "BTC/USDT", 600_000, 1, 8, quantity=10_000_000),
        Listing("ETH/USDT", "ETH/USDT", 300_000, 2, 8, quantity=100_000_000),
    )
    update_changes = 2

    def connection(self) -> "KrakenConnection":
        return KrakenConnection(self)

    def rest(self, method: str, path: str, query: Mapping[str, str]) -> Reply | None:
        if path == "/0/public/AssetPairs":
            pairs = {_REST_NAMES[wire]: self._pair(market) for wire, market in self.markets.items()}
            return Reply(dumps({"error": [], "result": pairs}))
        if path == "/0/public/Depth":
            return self._depth(query)
        return None

    def _depth(self, query: Mapping[str, str]) -> Reply:
        for wire, market in self.markets.items():
            name, base, quote = _REST_NAMES[wire], *wire.replace("BTC", "XBT").split("/")
            if query.get("pair") in (
                name,
                base + quote,
                wire.replace("BTC", "XBT"),
                wire,
                wire.replace("/", ""),
            ):
                count, at = int(query.get("count", "100")), self.now() // 10**9
                sides = {
                    side: [
                        [market.price_text(price), market.quantity_text(quantity)[:-5], at]
                        for price, quantity in market.top(count, is_bid=side == "bids")
                    ]
                    for side in ("asks", "bids")
                }
                return Reply(dumps({"error": [], "result": {name: sides}}), seq=market.seq)
        return Reply('{"error":["EQuery:Unknown asset pair"]}')

    @staticmethod
    def _pair(market: Market) -> dict[str, Any]:
        listing = market.listing
        base, quote = listing.symbol.split("/")
        rest_base = "XBT" if base == "BTC" else base
        return {
            "altname": rest_base + quote,
            "wsname": f"{rest_base}/{quote}",
            "aclass_base": "currency",
            "base": _BASES[base],
            "aclass_quote": "currency",
            "quote": _QUOTES[quote],
            "lot": "unit",
            "cost_decimals": 5,
            "pair_decimals": listing.price_decimals,
            "lot_decimals": listing.quantity_decimals,
            "lot_multiplier": 1,
            "leverage_buy": [],
            "leverage_sell": [],
            "fees": [[0, 0.4], [10000, 0.35]],
            "fees_maker": [[0, 0.25], [10000, 0.2]],
            "fee_volume_currency": "ZUSD",
            "margin_call": 80,
            "margin_stop": 40,
            "ordermin": "0.00005",
            "costmin": "0.5",
            "tick_size": market.price_text(1),
            "status": "online",
        }

    def error_frame(self) -> str:
        return '{"error":"EGeneral:Internal error","method":"subscribe","success":false,"req_id":1}'


class KrakenConnection(Connection):
    """One socket; of each book it knows the levels that the client was told of."""

    wire: Kraken

    def __init__(self, wire: Kraken) -> None:
        super().__init__(wire)
        self._depths: dict[str, int] = {}
        self._views: dict[str, tuple[Levels, Levels]] = {}  # bids and asks within the depth
        self._is_quiet = True  # whether nothing was said since the last beat

    def opened(self, query: Mapping[str, str]) -> None:
        status = {"version": "2.0.10", "system": "online", "api_version": "v2", "connection_id": 1}
        self.send(dumps({"channel": "status", "type": "update", "data": [status]}))

    def received(self, text: str) -> None:
        command = json.loads(text)
        answer = {
            "method": command["method"],
            "time_in": iso(self.wire.now()),
            "time_out": iso(self.wire.now()),
        }
        if "req_id" in command:
            answer["req_id"] = command["req_id"]
        if command["method"] == "ping":
            self.pong(dumps(answer | {"method": "pong"}))
            return
        params = command["params"]
        if params["channel"] == "instrument":
            self.send(
                dumps(answer | {"success": True, "result": {"channel": "instrument", "snapshot": True}})
            )
            self._say("instrument", "snapshot", dumps({"assets": [], "pairs": self._pairs()}))
            return
        for wire in params["symbol"]:
            self._subscribe(wire, params, answer)

    def updated(self, market: Market, update: Update) -> None:
        wire = market.listing.wire
        if ("trade", wire) in self.subscribed and update.prints:
            self._say("trade", "update", f"[{','.join(self._trades(market, update))}]", "trade", wire)
        if ("book", wire) in self.subscribed:
            self._update(market, update.last)
        if ("ticker", wire) in self.subscribed:
            self._say("ticker", "update", f"[{self._ticker(market)}]", "quote", wire)

    def beat(self) -> None:
        if self.subscribed and self._is_quiet:
            self.send('{"channel":"heartbeat"}')
        self._is_quiet = True

    # --- Subscriptions --------------------------------------------------------------------------

    def _subscribe(self, wire: str, params: dict[str, Any], answer: dict[str, Any]) -> None:
        channel, depth = params["channel"], params.get("depth", 10)
        trouble = self._trouble(wire, channel, depth, answer["method"])
        if trouble:
            self.send(dumps(answer | {"success": False, "symbol": wire, "error": trouble}))
            return
        result = {"channel": channel, "symbol": wire} | ({"depth": depth} if channel == "book" else {})
        self.send(dumps(answer | {"success": True, "result": result}))
        if answer["method"] == "unsubscribe":
            del self.subscribed[channel, wire]
            return
        self.subscribed[channel, wire] = None
        market = self.wire.markets[wire]
        if channel == "book":
            self._depths[wire] = depth
            self._snapshot(market)
        elif channel == "ticker":
            self._say("ticker", "snapshot", f"[{self._ticker(market)}]", "quote", wire)

    def _trouble(self, wire: str, channel: str, depth: int, method: str) -> str:
        is_subscribed = (channel, wire) in self.subscribed
        if wire not in self.wire.markets:
            return f"Currency pair not supported {wire}"
        if channel not in _CHANNELS or depth not in _DEPTHS:
            return "Subscription depth not supported" if channel == "book" else "Subscription name invalid"
        if method == "unsubscribe":
            return "" if is_subscribed else "Subscription Not Found"
        return "Already subscribed" if is_subscribed else ""

    def _pairs(self) -> list[dict[str, Any]]:
        return [
            {
                "symbol": market.listing.wire,
                "base": market.listing.symbol.split("/")[0],
                "quote": market.listing.symbol.split("/")[1],
                "status": "online",
                "qty_precision": market.listing.quantity_decimals,
                "qty_increment": 10.0**-market.listing.quantity_decimals,
                "price_precision": market.listing.price_decimals,
                "price_increment": 10.0**-market.listing.price_decimals,
                "cost_precision": 5,
                "cost_min": "0.5",
                "qty_min": 0.00005,
                "marginable": False,
                "has_index": True,
            }
            for market in self.wire.markets.values()
        ]

    # --- Frames ---------------------------------------------------------------------------------

    def _say(self, channel: str, type_: str, data: str, kind: str = "", wire: str = "", seq: int = 0) -> None:
        # The data come as text: a JSON library would drop the zeros that the checksum counts.
        self._is_quiet = False
        self.send(f'{{"channel":"{channel}","type":"{type_}","data":{data}}}', kind, wire, seq)

    def _within(self, market: Market) -> tuple[Levels, Levels]:
        depth = self._depths[market.listing.wire]
        return dict(market.top(depth, is_bid=True)), dict(market.top(depth, is_bid=False))

    def _snapshot(self, market: Market) -> None:
        wire = market.listing.wire
        self._views[wire] = bids, asks = self._within(market)
        self._book(market, "snapshot", list(bids.items()), list(asks.items()), market.seq)

    def _update(self, market: Market, seq: int) -> None:
        before, after = self._views[market.listing.wire], self._within(market)
        changes = []
        for old, new, is_bid in zip(before, after, (True, False), strict=True):
            gone = [price for price in old if price not in new and not market.has(price, is_bid=is_bid)]
            changed = [(price, quantity) for price, quantity in new.items() if old.get(price) != quantity]
            changes.append([(price, 0) for price in gone] + changed)
        self._views[market.listing.wire] = after
        if changes[0] or changes[1]:
            self._book(market, "update", changes[0], changes[1], seq)

    def _book(
        self, market: Market, type_: str, bids: list[tuple[int, int]], asks: list[tuple[int, int]], seq: int
    ) -> None:
        wire = market.listing.wire
        data = (
            f'[{{"symbol":"{wire}","bids":[{_levels(market, bids)}],"asks":[{_levels(market, asks)}],'
            f'"checksum":{checksum(market)},"timestamp":"{iso(self.wire.now())}"}}]'
        )
        self._say("book", type_, data, "book", wire, seq)

    def _trades(self, market: Market, update: Update) -> list[str]:
        return [
            f'{{"symbol":"{market.listing.wire}","side":"{"buy" if trade.is_buy else "sell"}",'
            f'"price":{market.price_text(trade.price)},"qty":{market.quantity_text(trade.quantity)},'
            f'"ord_type":"market","trade_id":{trade.number},"timestamp":"{iso(self.wire.now())}"}}'
            for trade in update.prints
        ]

    def _ticker(self, market: Market) -> str:
        (bid, bid_quantity), (ask, ask_quantity) = market.best_bid, market.best_ask
        last = market.price_text(market.last_price)
        return (
            f'{{"symbol":"{market.listing.wire}","bid":{market.price_text(bid)},'
            f'"bid_qty":{market.quantity_text(bid_quantity)},"ask":{market.price_text(ask)},'
            f'"ask_qty":{market.quantity_text(ask_quantity)},"last":{last},"volume":163.28908096,'
            f'"vwap":{last},"low":{last},"high":{last},"change":0.0,"change_pct":0.00,'
            f'"timestamp":"{iso(self.wire.now())}"}}'
        )


def _levels(market: Market, levels: list[tuple[int, int]]) -> str:
    return ",".join(
        f'{{"price":{market.price_text(price)},"qty":{market.quantity_text(quantity)}}}'
        for price, quantity in levels
    )


def checksum(market: Market) -> int:
    """Return the CRC32 of the ten best asks, then bids: digits of price and quantity, no leading zeros."""
    digits = [
        number.replace(".", "").lstrip("0")
        for is_bid in (False, True)
        for price, quantity in market.top(10, is_bid=is_bid)
        for number in (market.price_text(price), market.quantity_text(quantity))
    ]
    return crc32("".join(digits).encode())
