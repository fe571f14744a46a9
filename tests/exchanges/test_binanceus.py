"""The live feed against a small Binance on this machine, with the faults that real ones have."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from tickerml.exchanges.binanceus import BinanceUSOptions, binanceus, tickerml_exchanges
from tickerml.exchanges.limits import Pace, Rate
from tickerml.exchanges.session import Backoff, Closed, Event, Opened, Received, Session, fetch
from tickerml.exchanges.venue import Request, Socket
from tickerml.kernel import (
    BookCrossed,
    BookDelta,
    BookResynced,
    BookSnapshot,
    BookStale,
    BookState,
    ConfigError,
    FeedConnected,
    FeedError,
    FeedLost,
    FeedSummarized,
    Instrument,
    Message,
    OrderBook,
    Quote,
    SequenceGap,
    Side,
    Trade,
    WallClock,
)

from .fake_binance import FakeBinance, frame

WITHIN_S = 20.0  # far beyond what any of these takes: a hang fails, a slow machine does not


class LiveContext:
    """What a live feed uses of a Context; draws are the lowest, so that retries come at once."""

    def __init__(self, uniform: float = 0.0) -> None:
        self.plugin = "exchange-binanceus"
        self.clock = WallClock()
        self.log = structlog.get_logger()
        self._uniform = uniform
        self.keys: list[tuple[str | int, ...]] = []

    def uniform(self, *key: str | int) -> float:
        self.keys.append(key)
        return self._uniform


class Listener:
    """Collects what a feed yields and keeps the books as the bus does."""

    def __init__(self, server: FakeBinance, state: bytes = b"", **options: Any) -> None:
        symbols = [f"{name[:3]}/{name[3:]}" for name in server.symbols]
        options = {
            "symbols": symbols,
            "ws_url": f"ws://{server.url}",
            "rest_url": f"http://{server.url}",
        } | options
        self.feed = binanceus(LiveContext(), msgspec.convert(options, BinanceUSOptions))  # type: ignore[arg-type]
        if state:
            self.feed.restore(state)
        self.messages: list[Message] = []
        self.books: dict[str, OrderBook] = {}
        self._stream = self.feed.stream()

    async def until(self, *types: type[Message], count: int = 1) -> Message:
        """Listen until *count* messages of *types* have come since the last call; return the last."""
        async for messages in self._stream:
            self.messages += messages
            for message in messages:
                self._keep(message)
            count -= sum(isinstance(message, types) for message in messages)
            if count <= 0:
                return next(message for message in reversed(messages) if isinstance(message, types))
        raise AssertionError(f"the feed ended before {types}")

    def _keep(self, message: Message) -> None:
        if isinstance(message, BookSnapshot | BookDelta | SequenceGap):
            book = self.books.setdefault(message.symbol, OrderBook(message.exchange, message.symbol))
            if isinstance(message, BookSnapshot):
                book.apply_snapshot(message)
            elif isinstance(message, BookDelta):
                book.apply_delta(message)
            else:
                book.state = BookState.RESYNCING

    def of(self, *types: type[Message]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, types)]

    async def aclose(self) -> None:
        await self._stream.aclose()


def play(
    scenario: Callable[[FakeBinance, Listener], Awaitable[None]], *symbols: str, **options: Any
) -> Listener:
    """Run *scenario* against a server and a feed that listens to it; return the listener."""

    async def run() -> Listener:
        async with asyncio.timeout(WITHIN_S), FakeBinance(*(symbols or ("BTCUSD",))).serving() as server:
            listener = Listener(server, **options)
            async with aclosing(listener):
                await scenario(server, listener)
            return listener

    return asyncio.run(run())


async def synced(server: FakeBinance, listener: Listener) -> None:
    """Wait until every book has its snapshot."""
    await listener.until(BookSnapshot, count=len(server.symbols))


def assert_book_is_true(server: FakeBinance, listener: Listener, wire: str = "BTCUSD") -> None:
    book = listener.books[f"{wire[:3]}/{wire[3:]}"]
    bids, asks = server.books[wire]

    assert book.state is BookState.VALID
    assert book.bids.quantities == {round(float(p) * 100): round(float(q) * 1e8) for p, q in bids.items()}
    assert book.asks.quantities == {round(float(p) * 100): round(float(q) * 1e8) for p, q in asks.items()}


def test_subscribes_to_depth_trades_and_quotes_and_publishes_them() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        trade = {"e": "trade", "E": 1, "s": "BTCUSD", "t": 7, "p": "100.00", "q": "0.5", "T": 5, "m": True}
        quote = {"u": 8, "s": "BTCUSD", "b": "99.00", "B": "1.0", "a": "101.00", "A": "2.0"}
        await server.send(
            server.change("BTCUSD", "99.50", "2.00000"),
            frame("BTCUSD", "trade", trade),
            frame("BTCUSD", "bookTicker", quote),
        )
        await listener.until(Quote)

        assert server.subscriptions == [["btcusd@depth@100ms", "btcusd@trade", "btcusd@bookTicker"]]
        assert_book_is_true(server, listener)

    listener = play(scenario)

    kinds = [type(message) for message in listener.messages]
    assert kinds == [FeedConnected, Instrument, BookSnapshot, BookDelta, Trade, Quote]
    trade = listener.of(Trade)[0]
    assert (trade.symbol, trade.seq, trade.ts_event, trade.aggressor) == ("BTC/USD", 7, 5_000_000, Side.SELL)
    assert listener.of(Instrument)[0].min_notional == 10 * 10**12


def test_every_type_it_publishes_is_declared() -> None:
    declared = set(tickerml_exchanges()[0].publishes)

    assert {
        Instrument,
        BookSnapshot,
        BookDelta,
        Trade,
        Quote,
        FeedConnected,
        FeedLost,
        SequenceGap,
    } <= declared
    assert {BookStale, BookResynced, BookCrossed, FeedSummarized} <= declared


def test_a_gap_costs_its_own_book_a_snapshot_and_not_the_connection() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        server.change("BTCUSD", "98.00", "3.00000")  # never sent
        await server.send(server.change("BTCUSD", "97.00", "4.00000"))
        await listener.until(BookResynced)

        assert_book_is_true(server, listener)
        assert listener.books["ETH/USD"].state is BookState.VALID
        assert len(server.subscriptions) == 1

    listener = play(scenario, "BTCUSD", "ETHUSD")

    assert [(gap.expected, gap.was) for gap in listener.of(SequenceGap)] == [(101, 102)]
    assert len(listener.of(FeedConnected)) == 1
    assert not listener.of(FeedLost)


@pytest.mark.parametrize("fault", ["close", "abort"])
def test_a_lost_connection_is_said_once_and_every_book_comes_back(fault: str) -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        server.change("BTCUSD", "98.00", "3.00000")  # while nobody listens
        if fault == "close":
            await server.close()
        else:
            server.abort()
        await listener.until(BookResynced, count=2)
        await server.send(server.change("BTCUSD", "97.00", "4.00000"))
        await listener.until(BookDelta)

        assert_book_is_true(server, listener)
        assert len(server.subscriptions) == 2

    listener = play(scenario, "BTCUSD", "ETHUSD")

    health = [type(message) for message in listener.of(FeedConnected, FeedLost)]
    assert health == [FeedConnected, FeedLost, FeedConnected]


def test_a_feed_that_stays_down_is_said_to_be_lost_only_once() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        server.instead_of_ack = ["close", "close", "close"]
        await synced(server, listener)

    listener = play(scenario)

    assert [type(message) for message in listener.of(FeedConnected, FeedLost)] == [FeedLost, FeedConnected]


def test_a_socket_that_answers_pings_but_sends_nothing_is_given_up() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        await listener.until(BookResynced)

    listener = play(scenario, silent_after_s=0.2, ping_s=0.05)

    assert listener.of(FeedLost)[0].reason in ("no data for 0.2 s", "no market data for 0.2 s")


def test_a_connection_whose_pings_go_unanswered_is_given_up() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        server.is_mute = True
        await listener.until(FeedLost)
        server.is_mute = False
        await listener.until(BookResynced)

    play(scenario, ping_s=0.2)


def test_a_silent_book_is_stale_once_while_another_speaks_and_until_it_speaks_again() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        await listener.until(BookStale, count=2)
        await server.send(server.change("BTCUSD", "98.00", "3.00000"))
        stale = await listener.until(BookStale)

        assert isinstance(stale, BookStale)
        assert stale.symbol == "BTC/USD"

    listener = play(scenario, "BTCUSD", "ETHUSD", stale_after_s=0.1)

    assert sorted(stale.symbol for stale in listener.of(BookStale)) == ["BTC/USD", "BTC/USD", "ETH/USD"]
    assert all(stale.silent_ms >= 100 for stale in listener.of(BookStale))


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        ("not json", "malformed frame"),
        ('{"error":{"code":2,"msg":"Invalid request"},"id":1}', "error frame"),
        ('{"stream":"btcusd@trade","data":{"t":1,"p":"1.00"}}', "malformed frame"),
        ('{"stream":"btcusd@kline_1m","data":{}}', "unsupported stream"),
    ],
)
def test_a_frame_it_cannot_use_is_counted_and_skipped(garbage: str, reason: str) -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        await server.send(garbage, server.change("BTCUSD", "98.00", "3.00000"))
        await listener.until(BookDelta)

        assert_book_is_true(server, listener)

    listener = play(scenario)

    summary = listener.feed.summarize()[0]
    assert isinstance(summary, FeedSummarized)
    assert (summary.skipped, summary.reasons) == (1, {reason: 1})


def test_a_refused_subscription_is_not_a_connection() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        server.instead_of_ack = ['{"error":{"code":2,"msg":"Invalid request"},"id":1}']
        await synced(server, listener)

    listener = play(scenario, silent_after_s=0.2)

    assert [type(message) for message in listener.messages[:2]] == [FeedLost, FeedConnected]


@pytest.mark.parametrize("status", [418, 429, 500, 503])
def test_a_busy_exchange_is_asked_again(status: int) -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        server.refusals = [(status, {"Retry-After": "0"}, "busy"), (status, {}, "busy")]
        await synced(server, listener)

        assert server.requests == ["/api/v3/exchangeInfo"] * 3 + ["/api/v3/depth"]

    listener = play(scenario)

    assert listener.of(FeedLost)[0].reason == f"HTTP {status}"


def test_a_refused_snapshot_is_asked_for_again_and_said() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        async def refuse(symbol: str) -> None:
            server.on_depth_request = None
            server.refusals = [(400, {}, '{"code":-1121,"msg":"Invalid symbol."}')]

        server.on_depth_request = refuse
        with capture_logs() as logs:
            await synced(server, listener)

        assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
            "feed.snapshot_refused"
        ]

    play(scenario)


def test_a_snapshot_older_than_the_waiting_updates_is_not_used() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        old = server.snapshot("BTCUSD")
        server.change("BTCUSD", "98.00", "3.00000")  # never sent

        async def send_first(symbol: str) -> None:
            server.on_depth_request = None
            server.stale_snapshots = [old]
            await server.send(server.change("BTCUSD", "97.00", "4.00000"))
            await server.taken()

        server.on_depth_request = send_first
        await synced(server, listener)

        assert_book_is_true(server, listener)
        assert server.requests.count("/api/v3/depth") == 2

    listener = play(scenario)

    assert not listener.of(SequenceGap)
    assert len(listener.of(BookSnapshot)) == 1


def test_a_request_that_hangs_when_the_connection_is_lost_is_made_again() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        async def hang(symbol: str) -> None:
            server.on_depth_request = None
            await server.close()
            await asyncio.Event().wait()

        server.on_depth_request = hang
        await synced(server, listener)

        assert_book_is_true(server, listener)

    play(scenario)


def test_a_malformed_snapshot_is_counted_and_asked_for_again() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        server.stale_snapshots = [{"lastUpdateId": "x"}]
        await synced(server, listener)

        assert_book_is_true(server, listener)

    listener = play(scenario)

    assert listener.feed.summarize()[0].skipped == 1  # type: ignore[attr-defined]


def test_a_pair_the_exchange_does_not_list_is_left_out_and_said() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        with capture_logs() as logs:
            await synced(server, listener)

        unlisted = [entry["symbols"] for entry in logs if entry["event"] == "feed.symbols_unlisted"]
        assert unlisted == [["XRP/USD"]]

    listener = play(scenario, symbols=["BTC/USD", "XRP/USD"])

    assert listener.of(FeedConnected)[0].symbols == ["BTC/USD"]


def test_no_listed_pair_at_all_is_a_configuration_error() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        with pytest.raises(ConfigError, match=r"expected pairs that binanceus lists, was \['XRP/USD'\]"):
            await listener.until(FeedConnected)

    play(scenario, symbols=["XRP/USD"])


def test_what_was_seen_is_summarized_regularly() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        await listener.until(FeedSummarized, count=2)

    listener = play(scenario, summary_s=0.05)

    last = listener.of(FeedSummarized)[-1]
    assert (last.exchange, last.messages, last.skipped) == ("binanceus", 3, 0)  # exchangeInfo, ack, depth


def test_a_restarted_feed_says_that_it_was_lost_and_counts_on() -> None:
    states: list[bytes] = []

    async def first(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        await server.send("not json", server.change("BTCUSD", "98.00", "3.00000"))
        await listener.until(BookDelta)
        states.append(listener.feed.snapshot())

    async def second(server: FakeBinance, listener: Listener) -> None:
        await listener.until(BookResynced)

    play(first)
    listener = play(second, state=states[0])

    health = [type(message) for message in listener.of(FeedConnected, FeedLost)]
    assert health == [FeedLost, FeedConnected]
    summary = listener.feed.summarize()[0]
    assert isinstance(summary, FeedSummarized)
    assert (summary.messages, summary.skipped) == (8, 1)


def test_closing_the_stream_closes_its_connections_and_tasks() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        before = asyncio.all_tasks()
        await listener.aclose()
        left = asyncio.all_tasks() & before

        assert not [task for task in left if "LiveFeed" in repr(task)]

    play(scenario)


# --- Audits -----------------------------------------------------------------------------------------


def test_a_book_that_is_what_rest_says_passes_its_audit() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        with capture_logs() as logs:
            while not [entry for entry in logs if entry["event"] == "feed.book_audited"]:
                await server.send(server.change("BTCUSD", "98.00", "3.00000"))
                await listener.until(BookDelta)

    listener = play(scenario, audit_s=0.05, summary_s=0.05)

    assert not listener.of(SequenceGap)


def test_a_book_that_differs_twice_from_what_rest_says_is_given_up_and_fetched_anew() -> None:
    async def scenario(server: FakeBinance, listener: Listener) -> None:
        await synced(server, listener)
        server.books["BTCUSD"][0]["99.90"] = "7.00000"  # by no update that has a number
        with capture_logs() as logs:
            await listener.until(BookResynced)

        assert_book_is_true(server, listener)
        failed = [entry["times"] for entry in logs if entry["event"] == "feed.audit_failed"]
        assert failed == [1, 2]

    listener = play(scenario, audit_s=0.05, summary_s=0.05)

    assert [(gap.expected, gap.was) for gap in listener.of(SequenceGap)] == [(101, 0)]
    assert not listener.of(FeedLost)


# --- The session layer ------------------------------------------------------------------------------


def test_the_wait_doubles_to_a_minute_and_starts_again_after_a_reset() -> None:
    ctx = LiveContext(uniform=0.5)
    backoff = Backoff(ctx, "socket")  # type: ignore[arg-type]

    waits = [backoff.next_s() for _ in range(9)]
    backoff.reset()

    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert backoff.next_s() == 0.25
    assert len(set(ctx.keys)) == 10  # a draw of its own for every attempt


AT_ONCE = Rate(1_000, 0.001)


def run_session(scenario: Callable[[FakeBinance, asyncio.Queue[Event]], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(WITHIN_S),
            FakeBinance("BTCUSD").serving() as server,
            aiohttp.ClientSession() as http,
        ):
            happened: asyncio.Queue[Event] = asyncio.Queue()

            async def dial() -> Socket:
                return Socket(f"ws://{server.url}/stream", ['{"params":[],"id":1}'], 5.0)

            session = Session(LiveContext(), http, dial, Pace(AT_ONCE), happened.put, silent_s=5.0)  # type: ignore[arg-type]
            task = asyncio.create_task(session.run())
            await scenario(server, happened)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_a_session_opens_receives_closes_and_opens_again() -> None:
    async def scenario(server: FakeBinance, happened: asyncio.Queue[Event]) -> None:
        seen: list[Any] = [await happened.get(), await happened.get()]
        await server.close()
        seen += [await happened.get(), await happened.get()]

        assert [type(event) for event in seen] == [Opened, Received, Closed, Opened]
        assert seen[1].data == b'{"result": null, "id": 1}'
        assert seen[2].reason == "closed by the exchange with code 1000"
        assert [event.ts_recv for event in seen] == sorted(event.ts_recv for event in seen)

    run_session(scenario)


def test_a_reply_that_asking_again_would_not_change_is_an_error() -> None:
    async def run() -> None:
        async with FakeBinance("BTCUSD").serving() as server, aiohttp.ClientSession() as http:
            server.refusals = [(403, {}, "forbidden")]
            backoff = Backoff(LiveContext(), "get")  # type: ignore[arg-type]
            request = Request(f"http://{server.url}/api/v3/exchangeInfo")
            with pytest.raises(FeedError, match="was refused: 403 b'forbidden'"):
                await fetch(http, request, Pace(AT_ONCE), backoff, lambda reason, wait_s: None)

    asyncio.run(run())


def test_the_exchange_s_retry_after_is_honoured_where_it_is_longer_than_the_backoff() -> None:
    waits: list[tuple[str, float]] = []

    async def run() -> None:
        async with FakeBinance("BTCUSD").serving() as server, aiohttp.ClientSession() as http:
            server.refusals = [(429, {"Retry-After": "3600"}, "")]
            backoff = Backoff(LiveContext(), "get")  # type: ignore[arg-type]
            request = Request(f"http://{server.url}/api/v3/exchangeInfo")
            told = asyncio.Event()

            def on_trouble(reason: str, wait_s: float) -> None:
                waits.append((reason, wait_s))
                told.set()

            task = asyncio.create_task(fetch(http, request, Pace(AT_ONCE), backoff, on_trouble))
            await told.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())

    assert waits == [("HTTP 429", 3600.0)]
