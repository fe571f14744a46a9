"""
Binance.US, live: depth, trades and quotes of its spot pairs, without keys.

One combined stream carries every symbol's depth@100ms, trade and bookTicker; REST
gives the instruments once and a depth snapshot for each book that needs one. A gap
in one book costs that book a new snapshot and nothing else: the socket stays up and
the other books stay valid. What the frames mean is decided in binance.py; here is
only who is asked for what, and when.

    socket ──▶ inbox ◀── REST replies, the beat of a second
                 │
               stream() ──▶ SpotFeed ──▶ messages
                 └─ for each book that needs a snapshot, at most one request at a time
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import aiohttp
import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookCrossed,
    BookDelta,
    BookResynced,
    BookSnapshot,
    BookStale,
    ConfigError,
    Context,
    ExchangeSpec,
    FeedConnected,
    FeedError,
    FeedLost,
    FeedSummarized,
    Instrument,
    Message,
    Options,
    Quote,
    SequenceGap,
    Trade,
    hookimpl,
)

from .binance import SpotFeed, Tally, to_wire
from .session import Backoff, Closed, Event, Received, Session, fetch

EXCHANGE = "binanceus"

_STREAMS = ("depth@100ms", "trade", "bookTicker")
_REQUESTS_AT_ONCE = 4
_SETTLED_NS = 60 * NS_PER_S
_INBOX = 10_000  # frames; when we are slower than the exchange, the socket waits, not the memory


class BinanceUSOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pairs, from where, and when silence is an event."""

    symbols: Annotated[
        list[str],
        msgspec.Meta(min_length=1, max_length=300, description="Pairs to follow, as BASE/QUOTE."),
    ] = msgspec.field(default_factory=lambda: ["BTC/USD", "ETH/USD", "BTC/USDT", "ETH/USDT"])
    ws_url: Annotated[
        str, msgspec.Meta(pattern="^wss?://", description="Base URL of the WebSocket streams.")
    ] = "wss://stream.binance.us:9443"
    rest_url: Annotated[
        str, msgspec.Meta(pattern="^https?://", description="Base URL of the REST interface.")
    ] = "https://api.binance.us"
    depth: Annotated[
        int, msgspec.Meta(ge=5, le=5000, description="Levels of each side in a REST snapshot.")
    ] = 1000
    stale_after_s: Annotated[
        float,
        msgspec.Meta(gt=0, description="Seconds without a depth update after which a book is called stale."),
    ] = 30.0
    silent_after_s: Annotated[
        float,
        msgspec.Meta(gt=0, description="Seconds without any frame after which the connection is given up."),
    ] = 60.0
    ping_s: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds between pings; half of it may pass before the pong.")
    ] = 20.0
    summary_s: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds between two summaries of what was seen.")
    ] = 60.0


class _Listed(msgspec.Struct, frozen=True):
    # The reply to exchangeInfo.
    ts_recv: int
    body: bytes


class _Replied(msgspec.Struct, frozen=True):
    # The reply to a depth request; no body when it was refused for good.
    ts_recv: int
    wire: str
    body: bytes
    connection: int


class _Beat(msgspec.Struct, frozen=True):
    ts_recv: int


class _Troubled(msgspec.Struct, frozen=True):
    # REST does not answer.
    ts_recv: int
    reason: str
    retry_in_ms: int


_Work = Callable[..., Coroutine[Any, Any, None]]
_Input = Event | _Listed | _Replied | _Beat | _Troubled | Exception


class _State(msgspec.Struct, array_like=True):
    tally: Tally
    was_up: bool


class BinanceUS:
    """The live feed of one process: a socket, REST replies and a clock, taken one input at a time."""

    def __init__(self, ctx: Context, options: BinanceUSOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._tally = Tally()
        self._was_up = False  # whether a feed before this one left books behind
        self._is_up = False

    async def stream(self) -> AsyncGenerator[Sequence[Message], None]:
        """
        Yield messages until closed, reconnecting by itself; close it to end its connections.

        Raises: ConfigError: the exchange lists none of the symbols. FeedError: it refuses to serve us.
        """
        self._start()
        async with aiohttp.ClientSession() as self._http:
            try:
                self._spawn(self._list, 0.0)
                self._spawn(self._beat)
                if self._was_up:
                    yield self._lost(self._ctx.clock.now(), "the feed was started again", 0)
                while True:
                    if messages := self._take(await self._inbox.get()):
                        yield messages
            finally:
                self._is_up = False
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self) -> None:
        now = self._ctx.clock.now()
        self._wires = {to_wire(symbol): symbol for symbol in self._options.symbols}
        self._feed = SpotFeed(EXCHANGE, self._ctx.log, tally=self._tally, was_whole=self._was_up)
        self._inbox: asyncio.Queue[_Input] = asyncio.Queue(_INBOX)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._requests: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        self._connection = 0
        self._is_lost = False
        self._summarized_at = now
        self._spoke_at = dict.fromkeys(self._wires, now)
        self._whole_at = dict.fromkeys(self._wires, 0)
        self._stale: dict[str, None] = {}
        self._busy = Backoff(self._ctx, "depth")
        self._listing = Backoff(self._ctx, "exchangeInfo")
        self._resyncs = {wire: Backoff(self._ctx, f"resync {wire}") for wire in self._wires}

    # --- What comes in ------------------------------------------------------------------------

    def _take(self, item: _Input) -> Sequence[Message]:
        match item:
            case Received():
                return self._on_frame(item)
            case _Beat():
                return self._on_beat(item.ts_recv)
            case _Replied():
                return self._on_reply(item)
            case Closed():
                return self._on_closed(item)
            case _Listed():
                self._on_listed(item)
            case _Troubled():
                return self._lost(item.ts_recv, item.reason, item.retry_in_ms)
            case Exception():
                raise item
        return ()

    def _on_frame(self, frame: Received) -> Sequence[Message]:
        skipped = self._tally.skipped
        messages = self._feed.on_frame(frame.ts_recv, frame.data)
        self._heed(messages)
        if self._is_up or self._tally.skipped > skipped:
            return messages
        return [*self._up(frame.ts_recv), *messages]

    def _heed(self, messages: Sequence[Message]) -> None:
        for message in messages:
            match message:
                case BookDelta() | BookSnapshot():
                    wire = to_wire(message.symbol)
                    self._spoke_at[wire] = message.ts_recv
                    self._stale.pop(wire, None)
                case SequenceGap():
                    self._ctx.log.warning(
                        "feed.gap_seen", symbol=message.symbol, expected=message.expected, was=message.was
                    )
                    self._ask_again(to_wire(message.symbol), message.ts_recv)
                case BookResynced():
                    self._ctx.log.info("feed.resynced", symbol=message.symbol, seq=message.seq)

    def _up(self, ts_recv: int) -> Sequence[Message]:
        # The first good frame, mostly the answer to our SUBSCRIBE: the feed is there.
        symbols = list(self._wires.values())
        self._is_up, self._is_lost = True, False
        for wire in self._wires:
            self._ask(wire, 0.0)
        self._ctx.log.info("feed.connected", exchange=EXCHANGE, symbols=symbols)
        return [FeedConnected(ts_recv, EXCHANGE, symbols)]

    def _on_closed(self, closed: Closed) -> Sequence[Message]:
        self._connection += 1
        for task in self._requests.values():
            task.cancel()
        self._requests.clear()
        self._stale.clear()
        self._feed.on_lost()
        return self._lost(closed.ts_recv, closed.reason, closed.retry_in_ms)

    def _lost(self, ts_recv: int, reason: str, retry_in_ms: int) -> Sequence[Message]:
        self._is_up = False
        if self._is_lost:
            return ()
        self._is_lost = True
        self._ctx.log.warning("feed.lost", exchange=EXCHANGE, reason=reason, retry_in_ms=retry_in_ms)
        return [FeedLost(ts_recv, EXCHANGE, reason, retry_in_ms)]

    def _on_listed(self, reply: _Listed) -> None:
        skipped = self._tally.skipped
        self._feed.on_exchange_info(reply.ts_recv, reply.body)
        if self._tally.skipped > skipped:
            self._spawn(self._list, self._listing.next_s())
            return
        unlisted = [symbol for wire, symbol in self._wires.items() if not self._feed.lists(wire)]
        if len(unlisted) == len(self._wires):
            raise ConfigError(
                f"exchange-binanceus symbols: expected pairs that {EXCHANGE} lists, was {unlisted}; "
                "name others, as BASE/QUOTE"
            )
        if unlisted:
            self._ctx.log.error("feed.symbols_unlisted", exchange=EXCHANGE, symbols=unlisted)
        self._wires = {wire: symbol for wire, symbol in self._wires.items() if self._feed.lists(wire)}
        self._spawn(self._listen)

    def _on_reply(self, reply: _Replied) -> Sequence[Message]:
        if reply.connection != self._connection:
            return ()  # asked for before the connection was lost: updates since then are missing
        del self._requests[reply.wire]
        messages = self._feed.on_snapshot(reply.ts_recv, reply.wire, reply.body) if reply.body else ()
        self._heed(messages)
        if self._feed.needs_snapshot(reply.wire):
            self._ask_again(reply.wire, reply.ts_recv)
        else:
            self._whole_at[reply.wire] = reply.ts_recv
        return messages

    def _on_beat(self, now: int) -> Sequence[Message]:
        messages: list[Message] = self._stale_books(now) if self._is_up else []
        if now - self._summarized_at >= self._options.summary_s * NS_PER_S:
            self._summarized_at = now
            messages.append(summary := self._feed.summary(now))
            self._ctx.log.info(
                "feed.summarized",
                exchange=EXCHANGE,
                messages=summary.messages,
                skipped=summary.skipped,
                gaps=summary.gaps,
            )
        return messages

    def _stale_books(self, now: int) -> list[Message]:
        messages: list[Message] = []
        for wire, symbol in self._wires.items():
            silent_ns = now - self._spoke_at[wire]
            is_due = silent_ns >= self._options.stale_after_s * NS_PER_S and wire not in self._stale
            if is_due and not self._feed.needs_snapshot(wire):
                self._stale[wire] = None
                messages.append(BookStale(now, EXCHANGE, symbol, silent_ns // NS_PER_MS))
        return messages

    # --- What is asked for --------------------------------------------------------------------

    def _ask_again(self, wire: str, now: int) -> None:
        # At once for a book that was whole for long; one that keeps breaking waits longer each time.
        backoff, whole_at = self._resyncs[wire], self._whole_at[wire]
        if whole_at and now - whole_at >= _SETTLED_NS:
            backoff.reset()
            self._ask(wire, 0.0)
        else:
            self._ask(wire, backoff.next_s())

    def _ask(self, wire: str, wait_s: float) -> None:
        if wire not in self._requests:
            self._requests[wire] = self._spawn(self._fetch_depth, wire, wait_s, self._connection)

    async def _fetch_depth(self, wire: str, wait_s: float, connection: int) -> None:
        await asyncio.sleep(wait_s)
        url = self._options.rest_url + "/api/v3/depth"
        params = {"symbol": wire, "limit": str(self._options.depth)}
        try:
            async with self._turns:
                body = await fetch(self._http, url, params, self._busy, self._log_trouble)
        except FeedError as error:
            self._ctx.log.error("feed.snapshot_refused", symbol=self._wires[wire], error=str(error))
            body = b""
        await self._inbox.put(_Replied(self._ctx.clock.now(), wire, body, connection))

    async def _list(self, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        url = self._options.rest_url + "/api/v3/exchangeInfo"
        body = await fetch(self._http, url, {}, self._listing, self._say_trouble)
        await self._inbox.put(_Listed(self._ctx.clock.now(), body))

    def _log_trouble(self, reason: str, wait_s: float) -> None:
        self._ctx.log.warning("feed.request_failed", reason=reason, retry_in_ms=round(wait_s * 1000))

    def _say_trouble(self, reason: str, wait_s: float) -> None:
        # Before the first connection nothing else would tell that the feed is down.
        self._log_trouble(reason, wait_s)
        self._inbox.put_nowait(_Troubled(self._ctx.clock.now(), reason, round(wait_s * 1000)))

    async def _listen(self) -> None:
        streams = [f"{wire.lower()}@{stream}" for wire in self._wires for stream in _STREAMS]
        subscribe = msgspec.json.encode({"method": "SUBSCRIBE", "params": streams, "id": 1}).decode()
        session = Session(
            self._ctx,
            self._http,
            self._options.ws_url + "/stream",
            [subscribe],
            ping_s=self._options.ping_s,
            silent_s=self._options.silent_after_s,
        )
        async with aclosing(session.events()) as events:
            async for event in events:
                await self._inbox.put(event)

    async def _beat(self) -> None:
        period_s = min(1.0, self._options.stale_after_s / 4, self._options.summary_s)
        while True:
            await asyncio.sleep(period_s)
            await self._inbox.put(_Beat(self._ctx.clock.now()))

    def _spawn(self, work: _Work, *arguments: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guard(work, arguments))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    async def _guard(self, work: _Work, arguments: tuple[Any, ...]) -> None:
        # A task that dies must not die alone: stream() raises what it raised.
        try:
            await work(*arguments)
        except Exception as error:
            await self._inbox.put(error)

    # --- State --------------------------------------------------------------------------------

    def summarize(self) -> Sequence[Message]:
        """Return what has been seen so far."""
        return [self._tally.summary(self._ctx.clock.now(), EXCHANGE)]

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(_State(self._tally, self._is_up or self._was_up))

    def restore(self, state: bytes) -> None:
        restored = msgspec.msgpack.decode(state, type=_State)
        self._tally, self._was_up = restored.tally, restored.was_up


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-binanceus",
            factory=BinanceUS,
            options=BinanceUSOptions,
            publishes=(
                Instrument,
                BookSnapshot,
                BookDelta,
                Trade,
                Quote,
                FeedConnected,
                FeedLost,
                SequenceGap,
                BookStale,
                BookResynced,
                BookCrossed,
                FeedSummarized,
            ),
            is_live=True,
            summary="live depth, trades and quotes of Binance.US spot pairs",
        )
    ]
