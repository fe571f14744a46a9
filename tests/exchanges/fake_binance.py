"""
A small Binance on this machine: REST and the combined stream on one port, faults on demand.

It keeps a true book per symbol and speaks the documented wire format. What it does
next is decided by the test, through its methods and its switches, never by a clock.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSMsgType, web

E_MS = 1_700_000_000_000


class FakeBinance:
    """One exchange; use it through serving()."""

    def __init__(self, *symbols: str) -> None:
        self.symbols = symbols
        self.url = ""
        self.update_ids = dict.fromkeys(symbols, 100)
        self.books: dict[str, tuple[dict[str, str], dict[str, str]]] = {
            symbol: ({"99.00": "1.00000"}, {"101.00": "1.00000"}) for symbol in symbols
        }
        self.subscriptions: list[list[str]] = []
        self.requests: list[str] = []
        #: Replies to give before the true ones: (status, headers, body).
        self.refusals: list[tuple[int, dict[str, str], str]] = []
        #: Depth replies to give before the true ones.
        self.stale_snapshots: list[dict[str, Any]] = []
        #: Frames to send instead of the answer to the next SUBSCRIBE; "close" closes the socket.
        self.instead_of_ack: list[str] = []
        #: Whether pings go unanswered.
        self.is_mute = False
        #: Awaited with the symbol before a depth request is answered.
        self.on_depth_request: Callable[[str], Any] | None = None
        self._sockets: list[web.WebSocketResponse] = []
        self._transports: list[asyncio.Transport] = []
        self._ponged = asyncio.Event()

    # --- The exchange's side --------------------------------------------------------------------

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        self._sockets.append(socket)
        assert isinstance(request.transport, asyncio.Transport)
        self._transports.append(request.transport)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await self._subscribe(socket, json.loads(message.data))
            elif message.type is WSMsgType.PING and not self.is_mute:
                await socket.pong(message.data)
            elif message.type is WSMsgType.PONG:
                self._ponged.set()
        return socket

    async def _subscribe(self, socket: web.WebSocketResponse, command: dict[str, Any]) -> None:
        if self.instead_of_ack:
            answer = self.instead_of_ack.pop(0)
            await (socket.close() if answer == "close" else socket.send_str(answer))
        else:
            await socket.send_str(json.dumps({"result": None, "id": command["id"]}))
        self.subscriptions.append(command["params"])

    def _refused(self, request: web.Request) -> web.Response | None:
        self.requests.append(request.path)
        if not self.refusals:
            return None
        status, headers, body = self.refusals.pop(0)
        return web.Response(status=status, headers=headers, text=body)

    async def _exchange_info(self, request: web.Request) -> web.Response:
        return self._refused(request) or web.json_response(
            {"symbols": [listing(name) for name in self.symbols]}
        )

    async def _depth(self, request: web.Request) -> web.Response:
        symbol = request.query["symbol"]
        if self.on_depth_request:
            await self.on_depth_request(symbol)
        if refused := self._refused(request):
            return refused
        if self.stale_snapshots:
            return web.json_response(self.stale_snapshots.pop(0))
        return web.json_response(self.snapshot(symbol))

    # --- The test's side ------------------------------------------------------------------------

    def snapshot(self, symbol: str) -> dict[str, Any]:
        """Return the true depth reply of this moment."""
        bids, asks = self.books[symbol]
        return {
            "lastUpdateId": self.update_ids[symbol],
            "bids": [list(level) for level in bids.items()],
            "asks": [list(level) for level in asks.items()],
        }

    def change(self, symbol: str, price: str, quantity: str, *, is_bid: bool = True) -> str:
        """Change one level of the true book; return the frame that says so, unsent."""
        side = self.books[symbol][0 if is_bid else 1]
        side[price] = quantity
        if float(quantity) == 0:
            del side[price]
        self.update_ids[symbol] += 1
        update_id, level = self.update_ids[symbol], [[price, quantity]]
        bids, asks = (level, []) if is_bid else ([], level)
        data = {
            "e": "depthUpdate",
            "E": E_MS,
            "s": symbol,
            "U": update_id,
            "u": update_id,
            "b": bids,
            "a": asks,
        }
        return frame(symbol, "depth@100ms", data)

    async def send(self, *frames: str) -> None:
        """Send raw frames on the newest connection."""
        for text in frames:
            await self._sockets[-1].send_str(text)

    async def broadcast(self, *frames: str) -> None:
        """Send raw frames on every connection, as an exchange does."""
        for socket in self._sockets:
            if not socket.closed:
                for text in frames:
                    await socket.send_str(text)

    async def taken(self) -> None:
        """Wait until the client has taken every frame sent so far: it answers a ping in order."""
        self._ponged.clear()
        await self._sockets[-1].ping()
        await self._ponged.wait()

    async def close(self) -> None:
        """Close the newest connection cleanly."""
        await self._sockets[-1].close()

    def abort(self) -> None:
        """Cut the newest connection off without a word."""
        self._transports[-1].abort()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeBinance"]:
        """Serve on a free port for as long as the block runs."""
        app = web.Application()
        app.router.add_get("/stream", self._stream)
        app.router.add_get("/api/v3/exchangeInfo", self._exchange_info)
        app.router.add_get("/api/v3/depth", self._depth)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            for socket in self._sockets:
                await socket.close()
            await runner.cleanup()


def frame(symbol: str, stream: str, data: dict[str, Any]) -> str:
    """Return a combined-stream frame."""
    return json.dumps({"stream": f"{symbol.lower()}@{stream}", "data": data}, separators=(",", ":"))


def listing(symbol: str) -> dict[str, Any]:
    """Return an exchangeInfo entry; the quote asset is everything after the first three letters."""
    return {
        "symbol": symbol,
        "status": "TRADING",
        "baseAsset": symbol[:3],
        "baseAssetPrecision": 8,
        "quoteAsset": symbol[3:],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "100000.00", "tickSize": "0.0100"},
            {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000.0", "stepSize": "0.00001000"},
            {"filterType": "MIN_NOTIONAL", "minNotional": "10.0000", "applyToMarket": True},
        ],
    }
