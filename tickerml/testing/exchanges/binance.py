"""
Binance.US spot and Binance USD-M futures, as their public interfaces are documented today.

Both number the changes of a book: an update names the first and the last it covers, U and u.
Spot numbers have no holes. Those of the futures do, so there each update also names the last
number of the update before it (pu), and a snapshot's number lies between two updates.
Source: Binance.US "WebSocket market data streams"; Binance USD-M "Diff. book depth streams".
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

from tickerml.kernel import NS_PER_MS

from .binance_history import History
from .market import Listing, Market, Print, Update
from .wire import Clock, Connection, Reply, Wire, dumps

_FUNDING_MS = 8 * 3600 * 1000


class Numbers(NamedTuple):
    """How the changes first to last of a market are numbered on the wire."""

    first: int
    last: int
    previous: int
    snapshot: int  # what a snapshot taken after *last* is numbered


def _spot_numbers(first: int, last: int) -> Numbers:
    return Numbers(first, last, first - 1, last)


def _futures_numbers(first: int, last: int) -> Numbers:
    # Seven to a change, and the updates leave the first of each range out.
    return Numbers(7 * first - 5, 7 * last, 7 * first - 7, 7 * last + 3)


class BinanceUS(Wire):
    """Binance.US: /api/v3 with exchangeInfo, depth, aggTrades and klines, and the combined stream."""

    exchange = "binanceus"
    listings: ClassVar[tuple[Listing, ...]] = (
        Listing("BTC/USD", "BTCUSD", 6_000_000, 2, 5),
        Listing("ETH/USD", "ETHUSD", 300_000, 2, 5),
        Listing("BTC/USDT", "BTCUSDT", 6_000_000, 2, 5),
        Listing("ETH/USDT", "ETHUSDT", 300_000, 2, 5),
    )
    update_changes = 8
    base_path = "/api/v3"
    numbers = staticmethod(_spot_numbers)

    def __init__(self, seed: int, clock: Clock, *, symbols: Iterable[str] = (), levels: int = 120) -> None:
        super().__init__(seed, clock, symbols=symbols, levels=levels)
        self._history = History()

    def connection(self) -> "BinanceConnection":
        return BinanceConnection(self)

    def update(self, wire: str, changes: int = 0) -> Update:
        update = super().update(wire, changes)
        self._history.remember(wire, self.now() // NS_PER_MS, update.prints)
        return update

    def rest(self, method: str, path: str, query: Mapping[str, str]) -> Reply | None:
        market = self.markets.get(query.get("symbol", ""))
        if path == self.base_path + "/exchangeInfo":
            return Reply(
                dumps({"timezone": "UTC", "symbols": [*map(self.symbol_info, self.markets.values())]})
            )
        if path not in [f"{self.base_path}/{name}" for name in ("depth", "aggTrades", "klines")]:
            return None
        if market is None:
            return Reply('{"code":-1121,"msg":"Invalid symbol."}', 400)
        if path.endswith("/depth"):
            return Reply(dumps(self.depth(market, int(query.get("limit", "100")))), seq=market.seq)
        if path.endswith("/aggTrades"):
            return Reply(dumps(self._history.trades(market, query)))
        if (klines := self._history.klines(market, query, self.now() // NS_PER_MS)) is None:
            return Reply('{"code":-1120,"msg":"Invalid interval."}', 400)
        return Reply(dumps(klines))

    def depth(self, market: Market, limit: int) -> dict[str, Any]:
        """Return a depth reply."""
        return {
            "lastUpdateId": self.numbers(market.seq, market.seq).snapshot,
            "bids": _levels(market, market.top(limit, is_bid=True)),
            "asks": _levels(market, market.top(limit, is_bid=False)),
        }

    def symbol_info(self, market: Market) -> dict[str, Any]:
        """Return the symbol's entry of exchangeInfo."""
        listing = market.listing
        base, quote = listing.symbol.split("-")[0].split("/")
        step = market.quantity_text(1)
        return {
            "symbol": listing.wire,
            "status": "TRADING",
            "baseAsset": base,
            "baseAssetPrecision": 8,
            "quoteAsset": quote,
            "quotePrecision": 8,
            "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
            "filters": [
                {
                    "filterType": "PRICE_FILTER",
                    "minPrice": market.price_text(1),
                    "maxPrice": market.price_text(10 * listing.price),
                    "tickSize": market.price_text(1),
                },
                {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000.00000000", "stepSize": step},
                {"filterType": "MIN_NOTIONAL", "minNotional": "10.00000000", "applyToMarket": True},
            ],
        }

    def error_frame(self) -> str:
        return '{"error":{"code":2,"msg":"Invalid request: unknown variant"},"id":1}'


class BinanceUSDM(BinanceUS):
    """Binance USD-M perpetuals: pu in depth updates, mark price and funding, /fapi/v1."""

    exchange = "binanceusdm"
    listings: ClassVar[tuple[Listing, ...]] = (
        Listing("BTC/USDT-PERP", "BTCUSDT", 600_000, 2, 3, tick=10, quantity=1_000),
        Listing("ETH/USDT-PERP", "ETHUSDT", 300_000, 2, 3, quantity=10_000),
    )
    base_path = "/fapi/v1"
    numbers = staticmethod(_futures_numbers)

    def connection(self) -> "BinanceConnection":
        return FuturesConnection(self)

    def rest(self, method: str, path: str, query: Mapping[str, str]) -> Reply | None:
        if path == "/fapi/v1/premiumIndex":
            return Reply(dumps([self.mark(market) for market in self.markets.values()]))
        if path == "/fapi/v1/fundingInfo":
            return Reply(dumps([self._terms(wire) for wire in self.markets]))
        if path == "/fapi/v1/fundingRate":
            return Reply(dumps(self._rates(query)))
        return super().rest(method, path, query)

    def depth(self, market: Market, limit: int) -> dict[str, Any]:
        ms = self.now() // NS_PER_MS
        return super().depth(market, limit) | {"E": ms, "T": ms}

    def symbol_info(self, market: Market) -> dict[str, Any]:
        base, quote = market.listing.symbol.removesuffix("-PERP").split("/")
        contract = {"pair": market.listing.wire, "contractType": "PERPETUAL", "marginAsset": quote}
        info = super().symbol_info(market) | contract | {"baseAsset": base, "quoteAsset": quote}
        info["filters"][2] = {"filterType": "MIN_NOTIONAL", "notional": "100"}
        return info

    def mark(self, market: Market) -> dict[str, Any]:
        """Return the mark price as REST gives it."""
        ms = self.now() // NS_PER_MS
        price = market.price_text(market.last_price)
        return {
            "symbol": market.listing.wire,
            "markPrice": price,
            "indexPrice": price,
            "lastFundingRate": "0.00010000",
            "interestRate": "0.00010000",
            "nextFundingTime": ms - ms % _FUNDING_MS + _FUNDING_MS,
            "time": ms,
        }

    @staticmethod
    def _terms(wire: str) -> dict[str, Any]:
        caps = {"adjustedFundingRateCap": "0.00300000", "adjustedFundingRateFloor": "-0.00300000"}
        return {"symbol": wire, **caps, "fundingIntervalHours": 8, "disclaimer": False}

    def _rates(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        # Every eight hours since 2024, the same rate but for its last digits.
        start = int(query.get("startTime", "1704067200000"))
        end = int(query.get("endTime", str(self.now() // NS_PER_MS)))
        times = range(-(-start // _FUNDING_MS) * _FUNDING_MS, end + 1, _FUNDING_MS)
        return [
            {
                "symbol": query.get("symbol", ""),
                "fundingTime": ms,
                "fundingRate": f"0.0001{ms // _FUNDING_MS % 10_000:04}",
                "markPrice": "60000.00000000",
            }
            for ms in times[: int(query.get("limit", "100"))]
        ]


class BinanceConnection(Connection):
    """A combined stream."""

    wire: BinanceUS

    def received(self, text: str) -> None:
        command = json.loads(text)
        names = [tuple(name.split("@")[:2]) for name in command.get("params", [])]
        for wire, stream in [(name[0].upper(), name[1]) for name in names]:
            if command["method"] == "SUBSCRIBE" and wire in self.wire.markets:
                self.subscribed[stream, wire] = None
            elif command["method"] == "UNSUBSCRIBE":
                self.subscribed.pop((stream, wire), None)
        self.send(dumps({"result": None, "id": command.get("id")}))

    def updated(self, market: Market, update: Update) -> None:
        wire = market.listing.wire
        for trade in update.prints:
            for stream in ("trade", "aggTrade"):
                if (stream, wire) in self.subscribed:
                    self._stream(wire, stream, "trade", self.trade(market, trade, stream))
        if ("depth", wire) in self.subscribed:
            self._stream(wire, "depth@100ms", "book", self.depth(market, update), update.last)
        if ("bookTicker", wire) in self.subscribed:
            self._stream(wire, "bookTicker", "quote", self.quote(market))

    def _stream(self, wire: str, name: str, kind: str, data: dict[str, Any], seq: int = 0) -> None:
        self.send(dumps({"stream": f"{wire.lower()}@{name}", "data": data}), kind, wire, seq)

    def depth(self, market: Market, update: Update) -> dict[str, Any]:
        """Return a depthUpdate."""
        numbers = self.wire.numbers(update.first, update.last)
        bids, asks = update.merged()
        return {
            "e": "depthUpdate",
            "E": self.wire.now() // NS_PER_MS,
            "s": market.listing.wire,
            "U": numbers.first,
            "u": numbers.last,
            "b": _levels(market, bids),
            "a": _levels(market, asks),
        }

    def trade(self, market: Market, trade: Print, stream: str) -> dict[str, Any]:
        """Return a trade, or an aggTrade of one trade."""
        ms = self.wire.now() // NS_PER_MS
        number: dict[str, Any] = {"t": trade.number}
        if stream == "aggTrade":
            number = {"a": trade.number, "f": trade.number, "l": trade.number}
        return {
            "e": stream,
            "E": ms,
            "s": market.listing.wire,
            **number,
            "p": market.price_text(trade.price),
            "q": market.quantity_text(trade.quantity),
            "T": ms,
            "m": not trade.is_buy,
            "M": True,
        }

    def quote(self, market: Market) -> dict[str, Any]:
        """Return a bookTicker."""
        (bid, bid_quantity), (ask, ask_quantity) = market.best_bid, market.best_ask
        return {
            "u": self.wire.numbers(market.seq, market.seq).last,
            "s": market.listing.wire,
            "b": market.price_text(bid),
            "B": market.quantity_text(bid_quantity),
            "a": market.price_text(ask),
            "A": market.quantity_text(ask_quantity),
        }


class FuturesConnection(BinanceConnection):
    """A combined stream of the futures."""

    def depth(self, market: Market, update: Update) -> dict[str, Any]:
        depth = super().depth(market, update)
        return depth | {"T": depth["E"], "pu": self.wire.numbers(update.first, update.last).previous}

    def trade(self, market: Market, trade: Print, stream: str) -> dict[str, Any]:
        print_ = super().trade(market, trade, stream)
        del print_["M"]
        return print_ | ({"X": "MARKET"} if stream == "trade" else {})

    def quote(self, market: Market) -> dict[str, Any]:
        ms = self.wire.now() // NS_PER_MS
        return {"e": "bookTicker", "E": ms, "T": ms} | super().quote(market)

    def beat(self) -> None:
        for stream, wire in self.subscribed:
            if stream == "markPrice" and isinstance(self.wire, BinanceUSDM):
                mark = self.wire.mark(self.wire.markets[wire])
                data = {
                    "e": "markPriceUpdate",
                    "E": mark["time"],
                    "s": wire,
                    "p": mark["markPrice"],
                    "i": mark["indexPrice"],
                    "P": mark["markPrice"],
                    "r": mark["lastFundingRate"],
                    "T": mark["nextFundingTime"],
                }
                self._stream(wire, "markPrice@1s", "funding", data)


def _levels(market: Market, levels: list[tuple[int, int]]) -> list[list[str]]:
    return [[market.price_text(price), market.quantity_text(quantity)] for price, quantity in levels]
