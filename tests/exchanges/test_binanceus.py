"""The live feed of Binance.US against the local one: what every connector shares, step by step."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from tickerml.exchanges.binanceus import tickerml_exchanges
from tickerml.exchanges.feed import Tally
from tickerml.exchanges.limits import Pace, Rate
from tickerml.exchanges.live import STATE_VERSION
from tickerml.exchanges.session import Backoff, Closed, Event, Opened, Received, fetch
from tickerml.exchanges.session import Session as SocketSession
from tickerml.exchanges.venue import Request, Socket
from tickerml.kernel import (
    NS_PER_S,
    BookCrossed,
    BookDelta,
    BookResynced,
    BookSnapshot,
    BookStale,
    ChannelLost,
    ChannelResumed,
    ConfigError,
    FeedConnected,
    FeedError,
    FeedLost,
    FeedSummarized,
    Instrument,
    Quote,
    SequenceGap,
    Side,
    Trade,
)
from tickerml.testing.exchanges import ExchangeServer
from tickerml.testing.exchanges.wire import Connection, Frame, Reply

from .connectors import LiveContext, live_feed
from .listening import Scenario, Session
from .listening import play as play_exchange

BTC, ETH = "BTC/USD", "ETH/USD"
DEPTH, LISTING = "/api/v3/depth", "/api/v3/exchangeInfo"
ERROR = '{"error":{"code":2,"msg":"Invalid request"},"id":1}'


def play(scenario: Scenario, *symbols: str, **options: Any) -> Session:
    """Run *scenario* with a feed of *symbols*, which are all that the exchange has."""
    followed = symbols or (BTC,)
    return play_exchange("binanceus", scenario, listed=followed, **{"symbols": followed} | options)


def meet(session: Session, *acts: Callable[[Connection], None]) -> None:
    """Have each of the next connections begin with an act of the exchange's."""
    connect, left = session.wire.connect, deque(acts)

    def met(query: Any) -> Connection:
        connection = connect(query)
        if left:
            left.popleft()(connection)
        return connection

    session.wire.connect = met  # type: ignore[method-assign]


def answer(session: Session, *answers: Callable[[Reply], Reply]) -> None:
    """Have the next requests for a book answered with what each makes of the true reply."""
    rest, left = session.wire.rest, deque(answers)

    def answered(method: str, path: str, query: Any) -> Reply | None:
        reply = rest(method, path, query)
        return left.popleft()(reply) if left and reply and path == DEPTH else reply

    session.wire.rest = answered  # type: ignore[method-assign]


def asked(session: Session) -> list[str]:
    """Return the paths of the REST requests so far."""
    return [request.split()[1] for request in session.server.requests]


class Instead:
    """A tamper that sends something else in the place of the next frame."""

    is_over = False

    def __init__(self, text: str) -> None:
        self._text = text

    def on_frame(self, frame: Frame) -> list[Frame]:
        self.is_over = True
        return [Frame(self._text)]


def test_subscribes_to_depth_trades_and_quotes_and_publishes_them() -> None:
    async def scenario(session: Session) -> None:
        await session.until_true()
        [connection] = session.wire.connections
        assert list(connection.subscribed) == [
            (stream, "BTCUSD") for stream in ("depth", "trade", "bookTicker")
        ]
        prints: list[Any] = []
        while not prints:
            prints += session.server.update("binanceus", BTC).prints
        await session.until(lambda: len(session.of(Trade)) == len(prints))
        await session.until_said(Quote)

        [first, *_], [trade, *_] = prints, session.of(Trade)
        assert (trade.symbol, trade.seq) == (BTC, first.number)
        assert trade.aggressor is (Side.BUY if first.is_buy else Side.SELL)
        assert session.of(Instrument)[0].min_notional == 10 * 10**12

    session = play(scenario, summary_s=60)

    kinds = [type(message) for message in session.messages]
    assert kinds[:3] == [FeedConnected, Instrument, BookSnapshot]
    assert set(kinds[3:]) <= {Trade, BookDelta, Quote}


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
    assert {BookStale, BookResynced, BookCrossed, FeedSummarized, ChannelLost, ChannelResumed} <= declared


def test_a_gap_costs_its_own_book_a_snapshot_and_not_the_connection() -> None:
    async def scenario(session: Session) -> None:
        await session.until_true()
        session.server.strike("gap", "binanceus")
        lost, said = (session.server.update("binanceus", BTC) for _ in range(2))
        await session.until_said(SequenceGap)
        assert session.books.is_valid(ETH)
        await session.until_said(BookResynced)
        await session.until_true()

        [gap] = session.of(SequenceGap)
        assert (gap.symbol, gap.expected, gap.was) == (BTC, lost.first, said.first)
        assert asked(session).count(DEPTH) == 3
        assert len(session.wire.connections) == 1

    session = play(scenario, BTC, ETH)

    assert session.marks() == ["FeedConnected", "SequenceGap", "BookResynced"]


@pytest.mark.parametrize("fault", ["close", "abort"])
def test_a_lost_connection_is_said_once_and_every_book_comes_back(fault: str) -> None:
    async def scenario(session: Session) -> None:
        await session.until_true()
        session.server.strike(fault, "binanceus")
        session.update()  # while nobody listens
        await session.until_said(BookResynced, count=2)
        session.update()
        await session.until_true()

    session = play(scenario, BTC, ETH)

    assert session.marks() == ["FeedConnected", "FeedLost", "FeedConnected", "BookResynced", "BookResynced"]


def test_a_feed_that_stays_down_is_said_to_be_lost_only_once() -> None:
    async def scenario(session: Session) -> None:
        meet(session, *[lambda connection: connection.hang_up("close")] * 3)
        await session.until_true()

    assert play(scenario).marks() == ["FeedLost", "FeedConnected"]


def test_a_silent_book_is_stale_once_while_another_speaks_and_until_it_speaks_again() -> None:
    async def scenario(session: Session) -> None:
        await session.until_true()
        await session.until_said(BookStale, count=2)
        session.server.update("binanceus", BTC)
        await session.until_said(BookStale)

    stale = play(scenario, BTC, ETH, stale_after_s=0.1).of(BookStale)

    assert sorted(each.symbol for each in stale) == [BTC, BTC, ETH]
    assert stale[-1].symbol == BTC
    assert all(each.silent_ms >= 100 for each in stale)


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        ("not json", "malformed frame"),
        (ERROR, "error frame"),
        ('{"stream":"btcusd@trade","data":{"t":1,"p":"1.00"}}', "malformed frame"),
        ('{"stream":"btcusd@kline_1m","data":{}}', "candles are made from trades"),
        ('{"stream":"btcusd@miniTicker","data":{}}', "unsupported stream"),
    ],
)
def test_a_frame_it_cannot_use_is_counted_and_skipped(garbage: str, reason: str) -> None:
    async def scenario(session: Session) -> None:
        await session.until_true()
        session.wire.connections[0].send(garbage)
        session.update()
        await session.until_said(BookDelta)
        await session.until_true()

    summary = play(scenario).feed.summarize()[0]

    assert isinstance(summary, FeedSummarized)
    assert (summary.skipped, summary.reasons) == (1, {reason: 1})


def test_a_refused_subscription_is_not_a_connection() -> None:
    async def scenario(session: Session) -> None:
        meet(session, lambda connection: connection.tampers.append(Instead(ERROR)))
        await session.until_said(FeedLost)
        assert not session.of(FeedConnected)
        await session.until_true()

    session = play(scenario, silent_after_s=0.2)

    assert session.marks()[:2] == ["FeedLost", "FeedConnected"]


@pytest.mark.parametrize("status", [418, 429, 500, 503])
def test_a_busy_exchange_is_asked_again(status: int) -> None:
    async def scenario(session: Session) -> None:
        session.wire.refusals.extend([Reply("busy", status, {"Retry-After": "0"}), Reply("busy", status)])
        await session.until_true()

        assert asked(session) == [LISTING] * 3 + [DEPTH]

    assert play(scenario).of(FeedLost)[0].reason == f"HTTP {status}"


def test_a_refused_snapshot_is_asked_for_again_and_said() -> None:
    async def scenario(session: Session) -> None:
        answer(session, lambda _: Reply('{"code":-1121,"msg":"Invalid symbol."}', 400))
        with capture_logs() as logs:
            await session.until_true()

        said = [entry["event"] for entry in logs if entry["log_level"] == "error"]
        assert said == ["feed.snapshot_refused"]

    play(scenario)


def test_a_request_that_hangs_when_the_connection_is_lost_is_made_again() -> None:
    async def scenario(session: Session) -> None:
        def hang(_: Reply) -> Reply:
            session.wire.connections[0].hang_up("close")
            return Reply("later", 503, {"Retry-After": "3600"})

        answer(session, hang)
        await session.until_true()

    assert play(scenario).marks() == ["FeedConnected", "FeedLost", "FeedConnected"]


def test_a_malformed_snapshot_is_counted_and_asked_for_again() -> None:
    async def scenario(session: Session) -> None:
        answer(session, lambda _: Reply('{"lastUpdateId":"x"}'))
        await session.until_true()

    assert play(scenario).feed.summarize()[0].skipped == 1  # type: ignore[attr-defined]


def test_a_pair_the_exchange_does_not_list_is_left_out_and_said() -> None:
    async def scenario(session: Session) -> None:
        with capture_logs() as logs:
            await session.until_said(BookSnapshot)

        unlisted = [entry["symbols"] for entry in logs if entry["event"] == "feed.symbols_unlisted"]
        assert unlisted == [["XRP/USD"]]

    session = play(scenario, symbols=[BTC, "XRP/USD"])

    assert session.of(FeedConnected)[0].symbols == [BTC]


def test_no_listed_pair_at_all_is_a_configuration_error() -> None:
    async def scenario(session: Session) -> None:
        with pytest.raises(ConfigError, match=r"expected pairs that binanceus lists, was \['XRP/USD'\]"):
            await session.until_said(FeedConnected)

    play(scenario, symbols=["XRP/USD"])


def test_what_was_seen_is_summarized_regularly() -> None:
    async def scenario(session: Session) -> None:
        await session.until_true()
        await session.until_said(FeedSummarized, count=2)

    last = play(scenario, summary_s=0.05).of(FeedSummarized)[-1]

    assert (last.exchange, last.messages, last.skipped) == ("binanceus", 3, 0)  # exchangeInfo, ack, depth


def test_a_restarted_feed_says_that_it_was_lost_and_counts_on() -> None:
    states: list[bytes] = []

    async def first(session: Session) -> None:
        await session.until_true()
        session.wire.connections[0].send("not json")
        await session.until(lambda: session.feed.summarize()[0].skipped == 1)  # type: ignore[attr-defined]
        states.append(session.feed.snapshot())

    async def second(session: Session) -> None:
        await session.until_said(BookResynced)

    play(first, summary_s=0.05)
    session = play(second, state=states[0])

    assert session.marks() == ["FeedLost", "FeedConnected", "BookResynced"]
    summary = session.feed.summarize()[0]
    assert isinstance(summary, FeedSummarized)
    assert (summary.messages, summary.skipped) == (7, 1)


def test_a_channel_that_was_lost_before_a_restart_is_said_to_be_back() -> None:
    async def scenario(session: Session) -> None:
        await session.until_true()
        while not session.server.update("binanceus", BTC).prints:
            pass
        await session.until_said(ChannelResumed)

    lost = ("BTCUSD", "trade", 1_700_000_000 * NS_PER_S)
    session = play(scenario, state=msgspec.msgpack.encode((Tally(), True, [lost])))

    [resumed] = session.of(ChannelResumed)
    assert (resumed.symbol, resumed.channel) == (BTC, "trade")
    assert resumed.silent_ms > 10**9
    assert session.feed.snapshot() == msgspec.msgpack.encode((session.feed._tally, True, []))


def test_the_state_of_the_version_before_is_taken() -> None:
    feed = live_feed("binanceus", "127.0.0.1", [BTC])
    state = msgspec.msgpack.encode((Tally(), True))

    feed.restore(feed.migrate(state, STATE_VERSION - 1))

    assert feed.snapshot() == msgspec.msgpack.encode((Tally(), True, []))


def test_closing_the_stream_closes_its_connections_and_tasks() -> None:
    async def scenario(session: Session) -> None:
        await session.until_true()
        before = asyncio.all_tasks()
        await session.aclose()
        left = asyncio.all_tasks() & before

        assert not [task for task in left if "LiveFeed" in repr(task)]

    play(scenario)


# --- Audits -----------------------------------------------------------------------------------------


def test_a_book_that_is_what_rest_says_passes_its_audit() -> None:
    async def scenario(session: Session) -> None:
        await session.until_true()
        with capture_logs() as logs:
            while not [entry for entry in logs if entry["event"] == "feed.book_audited"]:
                session.update()
                await session.until_said(BookDelta)

    session = play(scenario, audit_s=0.05, summary_s=0.05)

    assert not session.of(SequenceGap)


def test_a_book_that_differs_twice_from_what_rest_says_is_given_up_and_fetched_anew() -> None:
    def with_another_best(reply: Reply) -> Reply:
        book = json.loads(reply.body)
        book["bids"][0][1] = "7.00000"  # by no update that has a number
        return reply._replace(body=json.dumps(book))

    async def scenario(session: Session) -> None:
        await session.until_true()
        answer(session, *[with_another_best] * 3)
        with capture_logs() as logs:
            await session.until_said(BookResynced)

        assert session.books.books[BTC].bids.top(1)[0][1] == 7 * 10**8
        failed = [entry["times"] for entry in logs if entry["event"] == "feed.audit_failed"]
        assert failed == [1, 2]

    session = play(scenario, audit_s=0.05, summary_s=0.05)

    assert [gap.was for gap in session.of(SequenceGap)] == [0]
    assert not session.of(FeedLost)


# --- The session layer ------------------------------------------------------------------------------


class DrawingContext(LiveContext):
    """A context that remembers what its draws were for."""

    def __init__(self) -> None:
        super().__init__("exchange-binanceus", uniform=0.5)
        self.keys: list[tuple[str | int, ...]] = []

    def uniform(self, *key: str | int) -> float:
        self.keys.append(key)
        return super().uniform(*key)


def test_the_wait_doubles_to_a_minute_and_starts_again_after_a_reset() -> None:
    ctx = DrawingContext()
    backoff = Backoff(ctx, "socket")  # type: ignore[arg-type]

    waits = [backoff.next_s() for _ in range(9)]
    backoff.reset()

    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert backoff.next_s() == 0.25
    assert len(set(ctx.keys)) == 10  # a draw of its own for every attempt


AT_ONCE = Rate(1_000, 0.001)
CONTEXT: Any = LiveContext("exchange-binanceus")


def with_exchange(
    scenario: Callable[[ExchangeServer, aiohttp.ClientSession], Coroutine[Any, Any, None]],
) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(20.0),
            ExchangeServer("binanceus").serving() as server,
            aiohttp.ClientSession() as http,
        ):
            await scenario(server, http)

    asyncio.run(run())


def test_a_session_opens_receives_closes_and_opens_again() -> None:
    async def scenario(server: ExchangeServer, http: aiohttp.ClientSession) -> None:
        happened: asyncio.Queue[Event] = asyncio.Queue()

        async def dial() -> Socket:
            return Socket(f"{server.ws_url('binanceus')}/stream", ['{"params":[],"id":1}'], 5.0)

        session = SocketSession(CONTEXT, http, dial, Pace(AT_ONCE), happened.put, silent_s=5.0)
        task = asyncio.create_task(session.run())
        seen: list[Any] = [await happened.get(), await happened.get()]
        server.strike("close", "binanceus")
        seen += [await happened.get(), await happened.get()]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        assert [type(event) for event in seen] == [Opened, Received, Closed, Opened]
        assert seen[1].data == b'{"result":null,"id":1}'
        assert seen[2].reason == "closed by the exchange with code 1000"
        assert [event.ts_recv for event in seen] == sorted(event.ts_recv for event in seen)

    with_exchange(scenario)


def test_a_reply_that_asking_again_would_not_change_is_an_error() -> None:
    async def scenario(server: ExchangeServer, http: aiohttp.ClientSession) -> None:
        server.wires["binanceus"].refusals.append(Reply("forbidden", 403))
        request = Request(server.rest_url("binanceus") + LISTING)
        with pytest.raises(FeedError, match="was refused: 403 b'forbidden'"):
            await fetch(http, request, Pace(AT_ONCE), Backoff(CONTEXT, "get"), lambda reason, wait_s: None)

    with_exchange(scenario)


def test_the_exchange_s_retry_after_is_honoured_where_it_is_longer_than_the_backoff() -> None:
    waits: list[tuple[str, float]] = []

    async def scenario(server: ExchangeServer, http: aiohttp.ClientSession) -> None:
        server.wires["binanceus"].refusals.append(Reply("", 429, {"Retry-After": "3600"}))
        request = Request(server.rest_url("binanceus") + LISTING)
        told = asyncio.Event()

        def on_trouble(reason: str, wait_s: float) -> None:
            waits.append((reason, wait_s))
            told.set()

        task = asyncio.create_task(fetch(http, request, Pace(AT_ONCE), Backoff(CONTEXT, "get"), on_trouble))
        await told.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with_exchange(scenario)

    assert waits == [("HTTP 429", 3600.0)]
