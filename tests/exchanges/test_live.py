"""The driver that every live exchange shares, with an exchange made up to need all of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from structlog.testing import capture_logs

from tickerml.exchanges import live
from tickerml.exchanges.binance_sync import DepthSync
from tickerml.exchanges.feed import Feed, Tally
from tickerml.exchanges.limits import Limits, Rate
from tickerml.exchanges.live import LiveFeed, LiveOptions
from tickerml.exchanges.symbols import dashed, to_dashed
from tickerml.exchanges.venue import Request, Socket
from tickerml.kernel import (
    BookDelta,
    BookResynced,
    BookSnapshot,
    FeedConnected,
    FeedLost,
    Instrument,
    MalformedMessage,
    Message,
    SequenceGap,
    pack_levels,
)

from .connectors import LiveContext

WITHIN_S = 20.0
SYMBOL, WIRE = "BTC/USD", "BTC-USD"
PING = '{"ping":1}'


class ToyFeed(Feed):
    """Frames are {"seq": n} for a change and {"whole": n} for a book; {} says nothing."""

    def symbol_of(self, wire: str) -> str:
        return dashed(wire)

    def wire_of(self, symbol: str) -> str:
        return to_dashed(symbol)

    def _sync(self, instrument: Instrument, was_whole: bool) -> DepthSync:
        return DepthSync(instrument.exchange, instrument.symbol, was_whole=was_whole)

    def _reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        raise MalformedMessage("unsupported request: there is none")

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        facts = json.loads(raw)
        if not facts:
            return []
        market = self._market(WIRE)
        if "whole" in facts:
            bids = pack_levels([(9, 1)])
            whole = BookSnapshot(ts_recv, 0, "toy", SYMBOL, facts["whole"], bids, b"")
            return self._announced(market, ts_recv, market.sync.on_snapshot(whole))
        if facts["seq"] != market.sync.book.seq + 1:
            return market.sync.on_missing(ts_recv, facts["seq"])  # type: ignore[no-any-return]
        delta = BookDelta(ts_recv, 0, "toy", SYMBOL, facts["seq"], b"", b"")
        market.sync.book.apply_delta(delta)
        return [delta]


class ToyVenue:
    """Everything that a venue may want: a ticket, a greeting held back, pings of its own, two sockets."""

    exchange = "toy"
    limits = Limits(*([Rate(100, 0.001)] * 3))

    def __init__(self, host: str, **plan: Any) -> None:
        self.host = host
        self.plan = plan
        self.renewal = ["again"]
        self.tickets: list[bytes] = []

    def feed(self, log: Any, tally: Tally | None, was_whole: bool) -> Feed:
        return ToyFeed("toy", log, tally=tally, was_whole=was_whole)

    def listing(self) -> list[Request]:
        return []

    def ticket(self) -> Request | None:
        return Request(f"http://{self.host}/ticket", "POST")

    def socket(self, wires: list[str], ticket: bytes) -> Socket:
        self.tickets.append(ticket)
        beside = Socket(f"ws://{self.host}/beside", ["also"], 5.0)
        main = Socket(f"ws://{self.host}/main", ["one", "two"], 5.0, also=(beside,))
        return main._replace(**self.plan)

    def snapshot(self, wire: str) -> Request | None:
        return None

    def renew(self, wire: str) -> list[str]:
        return self.renewal


class ToyServer:
    """The other side: it answers a greeting with a book, and what a test says."""

    def __init__(self) -> None:
        self.host = ""
        self.tickets = 0
        self.said: list[tuple[str, str]] = []
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.changed = asyncio.Event()
        self.speaks = False
        self.answers_pings = True
        self.books = True

    async def _ticket(self, request: web.Request) -> web.Response:
        self.tickets += 1
        return web.Response(text=f"ticket {self.tickets}")

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[request.path] = socket
        if self.speaks and request.path == "/main":
            await asyncio.sleep(0.05)
            self.said.append(("server", "welcome"))
            await socket.send_str("{}")
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await self._hear(socket, request.path, message.data)
        return socket

    async def _hear(self, socket: web.WebSocketResponse, path: str, text: str) -> None:
        self.said.append((path, text))
        self.changed.set()
        if text == PING and self.answers_pings:
            await socket.send_str("{}")
        if text in ("two", "again"):
            await socket.send_str('{"whole":10}' if self.books else "{}")

    async def heard(self, text: str, count: int = 1) -> None:
        """Wait until the client has said *text* so often."""
        while sum(said == text for _, said in self.said) < count:
            self.changed.clear()
            await self.changed.wait()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["ToyServer"]:
        app = web.Application()
        app.router.add_post("/ticket", self._ticket)
        app.router.add_get("/main", self._socket)
        app.router.add_get("/beside", self._socket)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.host = f"127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            for socket in self.sockets.values():
                await socket.close()
            await runner.cleanup()


class Listener:
    """Takes what the feed says, all the while, and wakes who waits for some of it."""

    def __init__(self, feed: LiveFeed) -> None:
        self.messages: list[Message] = []
        self._feed = feed
        self._more = asyncio.Condition()

    async def run(self) -> None:
        async with aclosing(self._feed.stream()) as stream:
            async for messages in stream:
                async with self._more:
                    self.messages += messages
                    self._more.notify_all()

    async def until(self, kind: type[Message], count: int = 1) -> None:
        async with self._more:
            await self._more.wait_for(lambda: len(self.of(kind)) >= count)

    def of(self, *kinds: type[Message]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kinds)]


Scenario = Callable[[ToyServer, ToyVenue, Listener], Awaitable[None]]


def play(
    scenario: Scenario,
    *,
    kind: type[ToyVenue] = ToyVenue,
    plan: dict[str, Any] | None = None,
    **options: Any,
) -> Listener:
    async def run() -> Listener:
        server = ToyServer()
        server.speaks = bool(plan and plan.get("speaks_first"))
        async with asyncio.timeout(WITHIN_S), server.serving():
            venue = kind(server.host, **(plan or {}))
            settings = LiveOptions(symbols=[SYMBOL], ws_url="ws://x", rest_url="http://x", **options)
            listener = Listener(LiveFeed(LiveContext("exchange-toy"), settings, venue))  # type: ignore[arg-type]
            task = asyncio.create_task(listener.run())
            try:
                await scenario(server, venue, listener)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            return listener

    return asyncio.run(run())


def health(listener: Listener) -> list[str]:
    return [type(message).__name__ for message in listener.of(FeedConnected, FeedLost)]


# --- A connection -----------------------------------------------------------------------------------


def test_a_ticket_is_asked_anew_and_every_socket_greeted_in_order_on_each_connection() -> None:
    async def scenario(server: ToyServer, venue: ToyVenue, listener: Listener) -> None:
        await listener.until(BookSnapshot)
        await server.heard("also")
        await server.sockets["/main"].close()
        await listener.until(BookResynced)
        await server.heard("also", 2)

        assert venue.tickets == [b"ticket 1", b"ticket 2"]
        assert [text for path, text in server.said if path == "/main"] == ["one", "two"] * 2

    assert health(play(scenario)) == ["FeedConnected", "FeedLost", "FeedConnected"]


def test_sockets_that_belong_together_are_lost_together() -> None:
    async def scenario(server: ToyServer, venue: ToyVenue, listener: Listener) -> None:
        await listener.until(BookSnapshot)
        await server.heard("also")
        main = server.sockets["/main"]
        await server.sockets["/beside"].close()
        await listener.until(BookResynced)

        assert main.closed

    assert health(play(scenario)) == ["FeedConnected", "FeedLost", "FeedConnected"]


def test_an_exchange_that_speaks_first_is_not_interrupted() -> None:
    async def scenario(server: ToyServer, venue: ToyVenue, listener: Listener) -> None:
        await listener.until(BookSnapshot)

        assert [said for said in server.said if said[0] != "/beside"] == [
            ("server", "welcome"),
            ("/main", "one"),
            ("/main", "two"),
        ]

    play(scenario, plan={"speaks_first": True})


def test_pings_of_the_exchange_s_own_are_sent_and_one_without_an_answer_ends_the_connection() -> None:
    async def scenario(server: ToyServer, venue: ToyVenue, listener: Listener) -> None:
        await server.heard(PING, 2)
        assert not listener.of(FeedLost)
        server.answers_pings = False
        await listener.until(FeedLost)
        server.answers_pings = True
        await listener.until(BookResynced)

    listener = play(scenario, plan={"ping_s": 0.2, "ping_text": PING, "also": ()})

    assert listener.of(FeedLost)[0].reason == "no data for 0.3 s"


def test_a_connection_on_which_only_heartbeats_come_is_given_up() -> None:
    async def scenario(server: ToyServer, venue: ToyVenue, listener: Listener) -> None:
        await listener.until(FeedLost)

    listener = play(
        scenario, plan={"ping_s": 0.05, "ping_text": PING, "also": ()}, silent_after_s=0.3, stale_after_s=0.2
    )

    assert listener.of(FeedLost)[0].reason == "no market data for 0.3 s"


def test_a_ticket_that_cannot_be_read_is_asked_for_again() -> None:
    async def scenario(server: ToyServer, venue: ToyVenue, listener: Listener) -> None:
        await listener.until(BookSnapshot)

        assert venue.tickets == [b"ticket 1", b"ticket 2"]

    class Unreadable(ToyVenue):
        def socket(self, wires: list[str], ticket: bytes) -> Socket:
            found = super().socket(wires, ticket)
            if ticket == b"ticket 1":
                raise MalformedMessage("malformed ticket: no token in it")
            return found

    listener = play(scenario, kind=Unreadable)

    assert listener.of(FeedLost)[0].reason == "malformed ticket: no token in it"


# --- A book that comes on the socket ----------------------------------------------------------------


def test_a_gap_has_the_exchange_send_the_book_anew_on_the_same_connection() -> None:
    async def scenario(server: ToyServer, venue: ToyVenue, listener: Listener) -> None:
        await listener.until(BookSnapshot)
        await server.sockets["/main"].send_str('{"seq":12}')
        await listener.until(BookResynced)

    listener = play(scenario)

    assert [(gap.expected, gap.was) for gap in listener.of(SequenceGap)] == [(11, 12)]
    assert health(listener) == ["FeedConnected"]


def test_where_a_book_cannot_be_asked_for_the_connection_is_made_anew() -> None:
    async def scenario(server: ToyServer, venue: ToyVenue, listener: Listener) -> None:
        venue.renewal = []
        await listener.until(BookSnapshot)
        await server.sockets["/main"].send_str('{"seq":12}')
        await listener.until(BookResynced)

    listener = play(scenario)

    assert listener.of(FeedLost)[0].reason == "the book of BTC/USD has to come anew"


def test_a_book_that_never_comes_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_ANSWER_S", 0.05)

    async def scenario(server: ToyServer, venue: ToyVenue, listener: Listener) -> None:
        server.books = False
        await listener.until(FeedLost)
        assert sum(text == "again" for _, text in server.said) == 2
        server.books = True
        await listener.until(BookSnapshot)

    listener = play(scenario)

    assert listener.of(FeedLost)[0].reason == "the book of BTC/USD does not come"


def test_what_is_lost_and_back_is_logged_once_each() -> None:
    async def scenario(server: ToyServer, venue: ToyVenue, listener: Listener) -> None:
        await listener.until(BookSnapshot)
        await server.sockets["/main"].close()
        await listener.until(FeedConnected, 2)

    with capture_logs() as logs:
        play(scenario)

    events = [entry["event"] for entry in logs if entry["event"] in ("feed.lost", "feed.connected")]
    assert events == ["feed.connected", "feed.lost", "feed.connected"]
