"""
All the exchanges on one port of this machine: REST and WebSocket, with their faults on demand.

    http://HOST:PORT/kraken/...   ws://HOST:PORT/kraken/...      what the exchange has
    GET  /_faults                                                what can go wrong
    POST /_faults/NAME?exchange=kraken                           let it go wrong (all, where none is named)
    GET  /_books/kraken/BTC-USD?seq=N                            the true book, after change N

Nothing happens in a market until somebody says so: a test through update(), a person through
run(), which lets every market go on at a given rate. What the exchanges say is decided in the
modules beside this one; here it is carried.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from random import Random
from time import time_ns

from aiohttp import WSMsgType, web

from tickerml.kernel import NS_PER_S

from .binance import BinanceUS, BinanceUSDM
from .capture import Playback
from .coinbase import Coinbase
from .faults import FAULTS, described
from .kraken import Kraken
from .krakenfutures import KrakenFutures
from .kucoin import Kucoin, KucoinFutures
from .market import Update
from .wire import Clock, Connection, Wire, dumps

#: By the name in the path.
EXCHANGES: dict[str, type[Wire]] = {
    wire.exchange: wire
    for wire in (BinanceUS, Coinbase, Kraken, Kucoin, KrakenFutures, KucoinFutures, BinanceUSDM)
}

_TICK_S = 0.01  # how long run() rests at most
_CLOSE_S = 2.0


class ExchangeServer:
    """The exchanges of one port; use it through serving()."""

    def __init__(
        self,
        *exchanges: str,
        seed: int = 0,
        symbols: Iterable[str] = (),
        levels: int = 120,
        clock: Clock = time_ns,
        captures: Mapping[str, Playback] | None = None,
    ) -> None:
        """
        Args:
            exchanges: names of EXCHANGES; all where none is given.
            symbols: those that exist, as "BTC/USD", where an exchange lists them; all where none is named.
            levels: of each side of a book, about.
            clock: ns UTC.
            captures: recordings to play, by the name of the exchange that each takes the place of.
        Raises: ValueError: an exchange that there is not, or no market at all.
        """
        if unknown := [name for name in exchanges if name not in EXCHANGES]:
            raise ValueError(f"expected exchanges of {', '.join(EXCHANGES)}, was {', '.join(unknown)}")
        names = exchanges or tuple(() if captures else EXCHANGES)
        self.wires: dict[str, Wire] = {
            name: EXCHANGES[name](seed, clock, symbols=symbols, levels=levels) for name in names
        } | dict(captures or {})
        if not captures and not any(wire.markets for wire in self.wires.values()):
            raise ValueError(f"expected symbols that an exchange lists, was {', '.join(symbols)}")
        self.address = ""  # host:port, once it serves
        self.requests: list[str] = []  # "exchange path" of each REST request, the newest 10,000
        self.frames = 0  # sent so far, by all of them
        self._rng = Random(seed)
        self._ponged = asyncio.Event()
        self._sockets: dict[Connection, web.WebSocketResponse] = {}

    # --- Whoever drives it --------------------------------------------------------------------

    def rest_url(self, exchange: str) -> str:
        """Return what a connector takes for the exchange's REST base URL."""
        return f"http://{self.address}/{exchange}"

    def ws_url(self, exchange: str) -> str:
        """Return what a connector takes for the exchange's WebSocket URL."""
        return f"ws://{self.address}/{exchange}"

    def update(self, exchange: str, symbol: str, changes: int = 0) -> Update:
        """Let something happen in one market; everybody who subscribed is told."""
        wire = self.wires[exchange]
        return wire.update(wire.market(symbol).listing.wire, changes)

    def strike(self, fault: str, exchange: str = "") -> list[str]:
        """
        Let a fault strike one exchange, or all; return those where there was something to break.

        Raises: KeyError: there is no such fault or exchange.
        """
        struck = FAULTS[fault]
        wires = [self.wires[exchange]] if exchange else self.wires.values()
        return [wire.exchange for wire in wires if struck.strike(wire)]

    async def sent(self) -> None:
        """Wait until the sockets have taken everything that was said."""
        while any(connection.outbox for connection in self._sockets):
            await asyncio.sleep(0)

    async def run(self, rate: float, speed: float = 1.0) -> None:
        """
        Let every market go on, and play the recordings, until cancelled.

        Args:
            rate: updates a second of each market, at random moments.
            speed: of the recordings and the rate: 10 is ten times as fast.
        """
        loop = asyncio.get_running_loop()
        began, due, beaten = loop.time(), 0.0, 0
        while True:
            elapsed = loop.time() - began
            markets = [(wire, name) for wire in self.wires.values() for name in wire.markets]
            while markets and due < elapsed:
                due += self._rng.expovariate(rate * speed * len(markets))
                wire, name = self._rng.choice(markets)
                wire.update(name)
            for each in self.wires.values():
                while isinstance(each, Playback) and each.is_due(int(elapsed * speed * NS_PER_S)):
                    each.play()
                if elapsed >= beaten + 1:
                    each.beat()
            beaten = int(elapsed)
            rest = due - (loop.time() - began) if markets else _TICK_S
            await asyncio.sleep(max(0.0, min(_TICK_S, rest)))

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator["ExchangeServer"]:
        """
        Serve for as long as the block runs; port 0 takes a free one, which address then names.

        Raises: OSError: the port is taken.
        """
        app = web.Application()
        app.router.add_get("/_faults", self._list_faults)
        app.router.add_post("/_faults/{fault}", self._strike)
        app.router.add_get("/_books/{exchange}/{symbol}", self._book)
        app.router.add_route("*", "/{exchange}{path:(/.*)?}", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            self.address = f"{host}:{runner.addresses[0][1]}"
            for name, wire in self.wires.items():
                wire.ws_url = self.ws_url(name)
            yield self
        finally:
            for connection in list(self._sockets):
                connection.hang_up("abort")
            await runner.cleanup()

    # --- HTTP -----------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        wire = self.wires.get(request.match_info["exchange"])
        if wire is None:
            return web.Response(status=404, text=f"expected one of {', '.join(self.wires)}\n")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._converse(request, wire)
        path = request.match_info["path"]
        self.requests = [*self.requests[-9_999:], f"{wire.exchange} {path}"]
        reply = wire.request(request.method, path, request.query)
        return web.Response(
            status=reply.status, headers=reply.headers, text=reply.body, content_type="application/json"
        )

    async def _list_faults(self, request: web.Request) -> web.Response:
        return web.Response(text="".join(f"{name:<10} {text}\n" for name, text in described()))

    async def _strike(self, request: web.Request) -> web.Response:
        fault, exchange = request.match_info["fault"], request.query.get("exchange", "")
        if fault not in FAULTS or (exchange and exchange not in self.wires):
            known = f"faults: {', '.join(FAULTS)}; exchanges: {', '.join(self.wires)}\n"
            return web.Response(status=404, text=f"expected one of these {known}")
        struck = self.strike(fault, exchange)
        if not struck:
            return web.Response(status=409, text=f"{fault}: nothing there that it breaks\n")
        return web.Response(text=f"{fault}: {', '.join(struck)}\n")

    async def _book(self, request: web.Request) -> web.Response:
        try:
            market = self.wires[request.match_info["exchange"]].market(
                request.match_info["symbol"].replace("-", "/", 1)
            )
            seq = int(request.query.get("seq", str(market.seq)))
            bids, asks = market.book_at(seq)
        except (KeyError, ValueError) as error:
            return web.Response(status=404, text=f"{error.args[0]}\n")
        sides = {"bids": sorted(bids.items(), reverse=True), "asks": sorted(asks.items())}
        book = {
            name: [[market.price_text(price), market.quantity_text(lots)] for price, lots in side]
            for name, side in sides.items()
        }
        return web.Response(text=dumps({"seq": seq, **book}), content_type="application/json")

    # --- Sockets --------------------------------------------------------------------------------

    async def _converse(self, request: web.Request, wire: Wire) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False, timeout=_CLOSE_S, compress=False)
        await socket.prepare(request)
        ready = asyncio.Event()
        connection = wire.connect(request.query)
        connection.on_ready = ready.set
        ready.set()
        self._sockets[connection] = socket
        writer = asyncio.create_task(self._carry(request, socket, connection, ready))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._receive(connection, message.data)
                elif message.type is WSMsgType.PING and not connection.is_mute:
                    await socket.pong(message.data)
        finally:
            connection.gone()
            self._sockets.pop(connection, None)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return socket

    @staticmethod
    def _receive(connection: Connection, text: str) -> None:
        try:
            connection.received(text)
        except (ValueError, KeyError, TypeError, AttributeError):  # a frame that is none of this exchange's
            connection.send(connection.wire.error_frame())

    async def _carry(
        self,
        request: web.Request,
        socket: web.WebSocketResponse,
        connection: Connection,
        ready: asyncio.Event,
    ) -> None:
        # What the exchange says, in its order, for as long as the socket takes it.
        while True:
            await ready.wait()
            ready.clear()
            while connection.outbox and connection.closing != "abort":
                await socket.send_str(connection.outbox.popleft().text)
                self.frames += 1
            if connection.closing == "abort" and isinstance(request.transport, asyncio.Transport):
                request.transport.abort()
            elif connection.closing:
                await socket.close()
            if connection.closing:
                return
