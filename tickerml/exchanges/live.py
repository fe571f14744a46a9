"""
A live exchange: one connection kept up, REST where books come from there, and a clock.

What the frames mean is decided by the exchange's Feed, and where it is to be found by its
Venue; here is only who is asked for what, and when. A gap in one book costs that book a
new snapshot and nothing else: the connection stays up and the other books stay valid.

    sockets ──▶ inbox ◀── REST replies, the beat of a second
                  │
                stream() ──▶ Feed ──▶ messages
                  └─ for each book that needs a snapshot, at most one request at a time

A snapshot comes from REST, or is sent on the socket when asked, or comes with a new
connection: the exchange's Venue says which. Five things are watched at every beat: books
that have gone silent, trades and quotes that have while their book goes on, a connection on
which only heartbeats come, books that stay crossed, and, where REST numbers its books as the
socket does, whether a book is still the exchange's (audit.py).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
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
    ChannelLost,
    ChannelResumed,
    ChecksumFailed,
    ConfigError,
    Context,
    FeedConnected,
    FeedError,
    FeedLost,
    FeedSummarized,
    FundingUpdated,
    Instrument,
    MalformedMessage,
    Message,
    Options,
    Quote,
    SequenceGap,
    Trade,
)

from .audit import Audits
from .feed import Tally
from .limits import Pace
from .session import Backoff, Closed, Received, Session, fetch
from .venue import Request, Socket, Venue
from .watch import Channels, Watch

#: What every live exchange may publish.
PUBLISHES: tuple[type[Message], ...] = (
    Instrument,
    BookSnapshot,
    BookDelta,
    Trade,
    Quote,
    FeedConnected,
    FeedLost,
    SequenceGap,
    ChecksumFailed,
    BookStale,
    ChannelLost,
    ChannelResumed,
    BookResynced,
    BookCrossed,
    FeedSummarized,
)
STATE_VERSION = 3

_REQUESTS_AT_ONCE = 4
_SETTLED_NS = 60 * NS_PER_S
_ANSWER_S = 10.0  # may pass before a book that the socket brings is there
_UNANSWERED = 3  # renewals of one book after which the connection is given up
_CHANNELS: dict[type[Message], str] = {Trade: "trade", Quote: "quote", FundingUpdated: "funding"}
_INBOX = 10_000  # frames; when we are slower than the exchange, the socket waits, not the memory

Symbols = Annotated[
    list[str],
    msgspec.Meta(min_length=1, max_length=300, description="Pairs to follow, as BASE/QUOTE."),
]
WsUrl = Annotated[str, msgspec.Meta(pattern="^wss?://", description="Base URL of the WebSocket streams.")]
RestUrl = Annotated[str, msgspec.Meta(pattern="^https?://", description="Base URL of the REST interface.")]


class LiveOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pairs, from where, and when silence is an event; an exchange adds the defaults of its URLs."""

    symbols: Symbols = msgspec.field(default_factory=lambda: ["BTC/USD", "ETH/USD", "BTC/USDT", "ETH/USDT"])
    ws_url: WsUrl
    rest_url: RestUrl
    stale_after_s: Annotated[
        float,
        msgspec.Meta(gt=0, description="Seconds without a depth update after which a book is called stale."),
    ] = 30.0
    channel_after_s: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            description="Seconds without a trade, or a quote, of a pair whose book goes on, after which that"
            " channel is called lost and the connection made anew; longer where they are always far apart."
            " 0 for never.",
        ),
    ] = 120.0
    silent_after_s: Annotated[
        float,
        msgspec.Meta(
            gt=0, description="Seconds without any market data after which the connection is given up."
        ),
    ] = 60.0
    ping_s: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds between pings; half of it may pass before the pong.")
    ] = 20.0
    summary_s: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds between two summaries of what was seen.")
    ] = 60.0
    audit_s: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            description="Seconds between two comparisons of a book with that of REST; 0 for none.",
        ),
    ] = 3600.0


class _Listed(msgspec.Struct, frozen=True):
    # The replies that name the instruments, by URL.
    ts_recv: int
    replies: list[tuple[str, bytes]]


class _Replied(msgspec.Struct, frozen=True):
    # The reply to a request for a book; no body when it was refused for good.
    ts_recv: int
    wire: str
    url: str
    body: bytes
    connection: int


class _Audited(_Replied, frozen=True):
    # The same, asked for to be compared.
    pass


class _Overdue(msgspec.Struct, frozen=True):
    # Time enough has passed for a book that the socket was to bring.
    ts_recv: int
    wire: str
    connection: int


class _Beat(msgspec.Struct, frozen=True):
    ts_recv: int


class _Troubled(msgspec.Struct, frozen=True):
    # REST does not answer.
    ts_recv: int
    reason: str
    retry_in_ms: int


_Work = Callable[..., Coroutine[Any, Any, None]]


class _State(msgspec.Struct, array_like=True):
    tally: Tally
    was_up: bool
    lost: list[tuple[str, str, int]] = []  # channels, as Channels.lost() says them


class LiveFeed:
    """The live feed of one exchange: sockets, REST replies and a clock, taken one input at a time."""

    def __init__(self, ctx: Context, options: LiveOptions, venue: Venue) -> None:
        self._ctx = ctx
        self._options = options
        self._venue = venue
        self._exchange = venue.exchange
        self._tally = Tally()
        self._was_up = False  # whether a feed before this one left books behind
        self._is_up = False
        self._channels = Channels(options.channel_after_s)

    async def stream(self) -> AsyncGenerator[Sequence[Message], None]:
        """
        Yield messages until closed, reconnecting by itself; close it to end its connections.

        Raises: ConfigError: the exchange lists none of the symbols. FeedError: it refuses to serve us.
        """
        self._start()
        async with aiohttp.ClientSession() as self._http:
            try:
                self._session = self._new_session()
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
        self._feed = self._venue.feed(self._ctx.log, self._tally, self._was_up)
        self._follow({self._feed.wire_of(symbol): symbol for symbol in self._options.symbols}, now)
        self._inbox: asyncio.Queue[Any] = asyncio.Queue(_INBOX)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._requests: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        limits = self._venue.limits
        self._connects, self._asks = Pace(limits.connects), Pace(limits.requests)
        self._connection = 0
        self._greeting_s = 0.0
        self._is_lost = False
        self._up_at = self._summarized_at = now
        self._whole_at = dict.fromkeys(self._wires, 0)
        self._unanswered = dict.fromkeys(self._wires, 0)
        self._busy = Backoff(self._ctx, "depth")
        self._listing = Backoff(self._ctx, "exchangeInfo")
        self._resyncs = {wire: Backoff(self._ctx, f"resync {wire}") for wire in self._wires}

    def _follow(self, wires: dict[str, str], now: int) -> None:
        self._wires = wires
        self._wire_of = {symbol: wire for wire, symbol in wires.items()}
        self._watch = Watch(wires, self._options.stale_after_s, now)
        self._channels = Channels(self._options.channel_after_s, self._channels.lost())
        self._audits = Audits(wires, self._options.audit_s, now)

    def _new_session(self) -> Session:
        return Session(
            self._ctx,
            self._http,
            self._dial,
            Pace(self._venue.limits.subscribes),
            self._inbox.put,
            silent_s=self._options.silent_after_s,
        )

    # --- What comes in ------------------------------------------------------------------------

    def _take(self, item: Any) -> Sequence[Message]:
        match item:
            case Received():
                return self._on_frame(item)
            case _Beat():
                return self._on_beat(item.ts_recv)
            case _Audited():
                return self._on_audited(item)
            case _Replied():
                return self._on_reply(item)
            case _Overdue():
                self._on_overdue(item)
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
        if self._is_up:
            return self._heed(self._feed.on_frame(frame.ts_recv, frame.data))
        skipped = self._tally.skipped
        messages = self._heed(self._feed.on_frame(frame.ts_recv, frame.data))
        if self._tally.skipped > skipped:
            return messages
        return [*self._up(frame.ts_recv), *messages]

    def _heed(self, messages: list[Message]) -> list[Message]:
        resumed: list[Message] = []
        for message in messages:
            if (wire := self._wire_of.get(getattr(message, "symbol", ""))) is None:
                continue
            match message:
                case BookDelta():
                    self._watch.speak(wire, message.ts_recv)
                case BookSnapshot():
                    self._watch.speak(wire, message.ts_recv)
                    self._settle(wire, message.ts_recv)
                case Trade() | Quote() | FundingUpdated():
                    resumed += self._hear(wire, message)
                case SequenceGap(symbol=symbol, expected=expected, was=was):
                    self._ctx.log.warning("feed.gap_seen", symbol=symbol, expected=expected, was=was)
                    self._ask_again(wire, message.ts_recv)
                case ChecksumFailed(symbol=symbol, expected=expected, was=was):
                    self._ctx.log.warning("feed.checksum_failed", symbol=symbol, expected=expected, was=was)
                    self._ask_again(wire, message.ts_recv)
                case BookCrossed():
                    self._watch.cross(wire, message.ts_recv)
                case BookResynced():
                    self._ctx.log.info("feed.resynced", symbol=message.symbol, seq=message.seq)
        if self._audits.is_open:
            return [*messages, *resumed, *self._judge(messages)]
        return messages + resumed if resumed else messages

    def _hear(self, wire: str, message: Trade | Quote | FundingUpdated) -> list[Message]:
        channel = _CHANNELS[type(message)]
        if not (silent_ns := self._channels.speak(wire, channel, message.ts_recv)):
            return []
        symbol, silent_ms = message.symbol, silent_ns // NS_PER_MS
        self._ctx.log.info("feed.channel_resumed", symbol=symbol, channel=channel, silent_ms=silent_ms)
        return [ChannelResumed(message.ts_recv, self._exchange, symbol, channel, silent_ms)]

    def _settle(self, wire: str, now: int) -> None:
        # The socket has brought a book; one that REST brings is settled by its reply.
        if wire in self._requests and not self._venue.snapshot(wire):
            self._requests.pop(wire).cancel()
            self._whole_at[wire], self._unanswered[wire] = now, 0

    def _up(self, ts_recv: int) -> Sequence[Message]:
        # The first good frame, mostly the answer to our subscription: the feed is there.
        symbols = list(self._wires.values())
        self._is_up, self._is_lost, self._up_at = True, False, ts_recv
        self._channels.begin(ts_recv)
        for wire in self._wires:
            if self._venue.snapshot(wire):
                self._ask(wire, 0.0)
            elif self._feed.needs_snapshot(wire):
                wait_s = _ANSWER_S + self._greeting_s
                self._requests[wire] = self._spawn(self._await_book, wire, wait_s, self._connection)
        self._ctx.log.info("feed.connected", exchange=self._exchange, symbols=symbols)
        return [FeedConnected(ts_recv, self._exchange, symbols)]

    def _on_closed(self, closed: Closed) -> Sequence[Message]:
        self._connection += 1
        for task in self._requests.values():
            task.cancel()
        self._requests.clear()
        self._watch.lose()
        self._audits.end()
        self._feed.on_lost()
        return self._lost(closed.ts_recv, closed.reason, closed.retry_in_ms)

    def _lost(self, ts_recv: int, reason: str, retry_in_ms: int) -> Sequence[Message]:
        self._is_up = False
        if self._is_lost:
            return ()
        self._is_lost = True
        self._ctx.log.warning("feed.lost", exchange=self._exchange, reason=reason, retry_in_ms=retry_in_ms)
        return [FeedLost(ts_recv, self._exchange, reason, retry_in_ms)]

    def _on_listed(self, listed: _Listed) -> None:
        skipped = self._tally.skipped
        for url, body in listed.replies:
            self._feed.on_reply(listed.ts_recv, url, body)
        if self._tally.skipped > skipped:
            self._spawn(self._list, self._listing.next_s())
            return
        if listed.replies:
            self._leave_out_the_unlisted(listed.ts_recv)
        self._spawn(self._session.run)

    def _leave_out_the_unlisted(self, now: int) -> None:
        unlisted = [symbol for wire, symbol in self._wires.items() if not self._feed.lists(wire)]
        if len(unlisted) == len(self._wires):
            raise ConfigError(
                f"{self._ctx.plugin} symbols: expected pairs that {self._exchange} lists, was {unlisted}; "
                "name others, as BASE/QUOTE"
            )
        if unlisted:
            self._ctx.log.error("feed.symbols_unlisted", exchange=self._exchange, symbols=unlisted)
        self._follow({wire: symbol for wire, symbol in self._wires.items() if self._feed.lists(wire)}, now)

    def _on_reply(self, reply: _Replied) -> Sequence[Message]:
        if reply.connection != self._connection:
            return ()  # asked for before the connection was lost: updates since then are missing
        del self._requests[reply.wire]
        messages = self._feed.on_reply(reply.ts_recv, reply.url, reply.body) if reply.body else []
        messages = self._heed(messages)
        if self._feed.needs_snapshot(reply.wire):
            self._ask_again(reply.wire, reply.ts_recv)
        else:
            self._whole_at[reply.wire] = reply.ts_recv
        return messages

    def _on_overdue(self, overdue: _Overdue) -> None:
        wire = overdue.wire
        if overdue.connection != self._connection:
            return
        del self._requests[wire]
        if not self._feed.needs_snapshot(wire):
            return
        self._unanswered[wire] += 1
        if self._unanswered[wire] < _UNANSWERED:
            self._ask_again(wire, overdue.ts_recv)
        else:
            self._unanswered[wire] = 0
            self._spawn(self._session.give_up, f"the book of {self._wires[wire]} does not come")

    # --- What is watched ----------------------------------------------------------------------

    def _on_beat(self, now: int) -> Sequence[Message]:
        messages = self._look(now) if self._is_up else []
        if now - self._summarized_at >= self._options.summary_s * NS_PER_S:
            self._summarized_at = now
            messages.append(summary := self._feed.summary(now))
            self._ctx.log.info(
                "feed.summarized",
                exchange=self._exchange,
                messages=summary.messages,
                skipped=summary.skipped,
                gaps=summary.gaps,
                checksums_bad=summary.checksums_bad,
                clock_offset_ms=summary.clock_offset_ns / NS_PER_MS,
            )
        return messages

    def _look(self, now: int) -> list[Message]:
        messages: list[Message] = []
        for wire, symbol in self._wires.items():
            if self._feed.needs_snapshot(wire):
                continue
            if silent_ns := self._watch.silence(wire, now):
                messages.append(BookStale(now, self._exchange, symbol, silent_ns // NS_PER_MS))
            if self._watch.is_wrong(wire, self._feed.book(wire), now):
                messages += self._heed(self._feed.distrust(now, wire))
        messages += self._miss(now)
        # Heartbeats and pongs keep the session content; a feed that sends nothing else is dead.
        if now - max(self._feed.spoke_at, self._up_at) >= self._options.silent_after_s * NS_PER_S:
            self._spawn(self._session.give_up, f"no market data for {self._options.silent_after_s:g} s")
        elif wire := self._audits.turn(now):
            self._begin_audit(wire)
        return messages

    def _miss(self, now: int) -> list[Message]:
        # Channels that died alone; nothing but a new connection brings them back on every exchange.
        messages: list[Message] = []
        for wire, channel, silent_ns, longest_ns in self._channels.missed(self._watch, now):
            symbol, silent_ms = self._wires[wire], silent_ns // NS_PER_MS
            reason = (
                f"no {channel} of {symbol} for {silent_ns / NS_PER_S:.1f} s, of late for at most"
                f" {longest_ns / NS_PER_S:.1f} s, while its book goes on"
            )
            self._ctx.log.warning("feed.channel_lost", symbol=symbol, channel=channel, reason=reason)
            messages.append(ChannelLost(now, self._exchange, symbol, channel, silent_ms, reason))
            self._spawn(self._session.give_up, reason)
        return messages

    def _begin_audit(self, wire: str) -> None:
        request = self._venue.snapshot(wire)
        if request and not self._feed.needs_snapshot(wire):
            self._audits.begin(wire, self._feed.book(wire))
            self._spawn(self._fetch_book, wire, request, self._connection, _Audited)

    def _on_audited(self, reply: _Audited) -> Sequence[Message]:
        if reply.connection != self._connection:
            return ()
        try:
            found = self._feed.rest_book(reply.ts_recv, reply.url, reply.body) if reply.body else None
        except MalformedMessage:
            found = None
        self._audits.take(found)
        return self._judge([])

    def _judge(self, messages: list[Message]) -> list[Message]:
        finding = self._audits.find(messages)
        if finding is None:
            return []
        wire, times = finding
        if not times:
            self._ctx.log.info("feed.book_audited", symbol=self._wires[wire])
            return []
        self._ctx.log.warning("feed.audit_failed", symbol=self._wires[wire], times=times)
        if times % 2:
            self._begin_audit(wire)  # once may be the reply; twice is the book
            return []
        return self._heed(self._feed.distrust(self._ctx.clock.now(), wire))

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
            self._requests[wire] = self._spawn(self._bring, wire, wait_s, self._connection)

    async def _bring(self, wire: str, wait_s: float, connection: int) -> None:
        await asyncio.sleep(wait_s)
        if request := self._venue.snapshot(wire):
            await self._fetch_book(wire, request, connection, _Replied)
        elif frames := self._venue.renew(wire):
            for text in frames:
                await self._session.send(text)
            await self._await_book(wire, _ANSWER_S, connection)
        else:
            await self._session.give_up(f"the book of {self._wires[wire]} has to come anew")

    async def _await_book(self, wire: str, wait_s: float, connection: int) -> None:
        await asyncio.sleep(wait_s)
        await self._inbox.put(_Overdue(self._ctx.clock.now(), wire, connection))

    async def _fetch_book(
        self, wire: str, request: Request, connection: int, as_what: type[_Replied]
    ) -> None:
        try:
            async with self._turns:
                body = await fetch(self._http, request, self._asks, self._busy, self._log_trouble)
        except FeedError as error:
            self._ctx.log.error("feed.snapshot_refused", symbol=self._wires[wire], error=str(error))
            body = b""
        await self._inbox.put(as_what(self._ctx.clock.now(), wire, request.url, body, connection))

    async def _list(self, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        replies = [
            (request.url, await fetch(self._http, request, self._asks, self._listing, self._say_trouble))
            for request in self._venue.listing()
        ]
        await self._inbox.put(_Listed(self._ctx.clock.now(), replies))

    async def _dial(self) -> Socket:
        await self._connects.turn()
        ticket = b""
        if request := self._venue.ticket():
            ticket = await fetch(self._http, request, self._asks, self._listing, self._say_trouble)
        plan = self._venue.socket(list(self._wires), ticket)
        frames = sum(len(each.greeting) for each in (plan, *plan.also))
        self._greeting_s = frames * self._venue.limits.subscribes.period_s
        return plan

    def _log_trouble(self, reason: str, wait_s: float) -> None:
        self._ctx.log.warning("feed.request_failed", reason=reason, retry_in_ms=round(wait_s * 1000))

    def _say_trouble(self, reason: str, wait_s: float) -> None:
        # Without a connection nothing else would tell that the feed is down.
        self._log_trouble(reason, wait_s)
        self._inbox.put_nowait(_Troubled(self._ctx.clock.now(), reason, round(wait_s * 1000)))

    async def _beat(self) -> None:
        options = self._options
        period_s = min(1.0, options.stale_after_s / 4, options.silent_after_s / 4, options.summary_s)
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
        return [self._tally.summary(self._ctx.clock.now(), self._exchange)]

    def snapshot(self) -> bytes:
        lost = self._channels.lost()
        return msgspec.msgpack.encode(_State(self._tally, self._is_up or self._was_up, lost))

    def migrate(self, state: bytes, version: int) -> bytes:
        """Return what restore() takes of the state of version 2: itself, in which no channel is lost."""
        return state

    def restore(self, state: bytes) -> None:
        restored = msgspec.msgpack.decode(state, type=_State)
        self._tally, self._was_up = restored.tally, restored.was_up
        self._channels = Channels(self._options.channel_after_s, restored.lost)
