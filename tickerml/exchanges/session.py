"""
The edge to the network that every live exchange shares: a connection kept up, and REST that retries.

Session.run() dials, hands over what arrives with the time it arrived, and dials again for
as long as it runs. Three things end a connection: the other side closes it, a ping goes
unanswered, or nothing comes for too long. An exchange that wants several sockets has them
opened together and loses them together.

Between attempts it waits with full jitter: anywhere between nothing and a bound that
doubles from 0.5 s to 60 s, so that a thousand clients of one exchange do not return
in step. A connection that held for a minute starts from 0.5 s again.
Source of the jitter: M. Brooker, "Exponential Backoff And Jitter", AWS, 2015.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NoReturn

import aiohttp
import msgspec

from tickerml.kernel import NS_PER_S, Context, FeedDisconnected, FeedError

from .limits import Pace
from .venue import Request, Socket

_FIRST_S = 0.5
_LONGEST_S = 60.0
_HEALTHY_NS = 60 * NS_PER_S
_DIAL_S = 10.0
_CLOSING = aiohttp.ClientWSTimeout(ws_close=2.0)  # for the other side's part of a clean close
_REPLY_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_MAX_FRAME = 16 * 1024 * 1024
_BUSY = (418, 429)  # slow down; and Binance's "you were told to"
_BROKEN = (aiohttp.ClientError, OSError, TimeoutError)


class Opened(msgspec.Struct, frozen=True, gc=False):
    """The connection is open and the greeting under way."""

    ts_recv: int


class Received(msgspec.Struct, frozen=True, gc=False):
    """One data frame, as it came, and when, ns UTC."""

    ts_recv: int
    data: bytes


class Closed(msgspec.Struct, frozen=True, gc=False):
    """The connection is gone, or could not be opened; the next attempt is in retry_in_ms."""

    ts_recv: int
    reason: str
    retry_in_ms: int


Event = Opened | Received | Closed


class Backoff:
    """How long to wait before the next attempt; the draws come from the run's seed."""

    def __init__(self, ctx: Context, name: str) -> None:
        """
        Args:
            name: of what is attempted: each name draws numbers of its own.
        """
        self._ctx = ctx
        self._name = name
        self._failures = 0
        self._draws = 0

    def next_s(self) -> float:
        """Return the seconds to wait after one more failure."""
        bound = min(_LONGEST_S, _FIRST_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._draws += 1
        return bound * self._ctx.uniform("backoff", self._name, self._draws)

    def reset(self) -> None:
        """Start from the shortest wait again."""
        self._failures = 0


class Session:
    """One connection to an exchange, made again whenever it is lost."""

    def __init__(
        self,
        ctx: Context,
        http: aiohttp.ClientSession,
        dial: Callable[[], Awaitable[Socket]],
        pace: Pace,
        put: Callable[[Event], Awaitable[None]],
        *,
        silent_s: float,
    ) -> None:
        """
        Args:
            dial: returns what to open, asked anew for each connection; a FeedError is a failed attempt.
            pace: of the frames that we send.
            put: takes what happens, in order: Opened, Received ... and Closed, over and over.
            silent_s: seconds without a data frame after which the connection is given up.
        """
        self._ctx = ctx
        self._http = http
        self._dial = dial
        self._pace = pace
        self._put = put
        self._silent_s = silent_s
        self._backoff = Backoff(ctx, "socket")
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._given_up = ""
        self._opened_at = 0

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        while True:
            self._given_up, self._opened_at, reason = "", 0, ""
            try:
                await self._connect()
            except* FeedError as errors:
                reason = str(_first(errors))
            except* _BROKEN as errors:
                reason = f"{type(_first(errors)).__name__}: {_first(errors)}"
            now = self._ctx.clock.now()
            if self._opened_at and now - self._opened_at >= _HEALTHY_NS:
                self._backoff.reset()
            wait_s = self._backoff.next_s()
            await self._put(Closed(now, self._given_up or reason, round(wait_s * 1000)))
            await asyncio.sleep(wait_s)

    async def send(self, text: str) -> None:
        """Send *text* at the exchange's pace; what cannot be sent because the connection is gone is not."""
        await self._pace.turn()
        await _say(self._socket, text)

    async def give_up(self, reason: str) -> None:
        """End this connection, which will not do; another is made as after any loss."""
        if self._socket and not self._given_up:
            self._given_up = reason
            await self._socket.close()

    async def _connect(self) -> None:
        main = await self._dial()
        plans = [main, *main.also]
        opened: list[aiohttp.ClientWebSocketResponse] = []
        try:
            for plan in plans:
                opened.append(await self._open(plan))
            self._socket = opened[0]
            self._opened_at = self._ctx.clock.now()
            await self._put(Opened(self._opened_at))
            async with asyncio.TaskGroup() as group:
                for socket, plan in zip(opened, plans, strict=True):
                    greeted = asyncio.Event()
                    group.create_task(self._listen(socket, plan, greeted))
                    group.create_task(self._greet(socket, plan, greeted))
                    if plan.ping_text:
                        group.create_task(self._ping(socket, plan))
        finally:
            self._socket = None
            for socket in opened:
                await socket.close()

    async def _open(self, plan: Socket) -> aiohttp.ClientWebSocketResponse:
        async with asyncio.timeout(_DIAL_S):
            return await self._http.ws_connect(
                plan.url,
                heartbeat=None if plan.ping_text else plan.ping_s,
                max_msg_size=_MAX_FRAME,
                timeout=_CLOSING,
            )

    async def _greet(
        self, socket: aiohttp.ClientWebSocketResponse, plan: Socket, greeted: asyncio.Event
    ) -> None:
        if plan.speaks_first:
            await greeted.wait()
        for text in plan.greeting:
            await self._pace.turn()
            await _say(socket, text)

    async def _ping(self, socket: aiohttp.ClientWebSocketResponse, plan: Socket) -> None:
        while True:
            await asyncio.sleep(plan.ping_s)
            await _say(socket, plan.ping_text)

    async def _listen(
        self, socket: aiohttp.ClientWebSocketResponse, plan: Socket, greeted: asyncio.Event
    ) -> NoReturn:
        # Where pings are data frames, their answers are too: one and a half periods bring at least one.
        silent_s = min(self._silent_s, 1.5 * plan.ping_s) if plan.ping_text else self._silent_s
        now, put = self._ctx.clock.now, self._put
        while True:
            data = await _receive(socket, silent_s)
            await put(Received(now(), data))
            greeted.set()


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


async def _say(socket: aiohttp.ClientWebSocketResponse | None, text: str) -> None:
    # That a connection is gone is for who listens to it to find.
    if socket and not socket.closed:
        with suppress(*_BROKEN):
            await socket.send_str(text)


async def _receive(socket: aiohttp.ClientWebSocketResponse, silent_s: float) -> bytes:
    try:
        # Around the whole wait: aiohttp's own timeout begins anew with every ping it answers.
        async with asyncio.timeout(silent_s):
            message = await socket.receive()
    except TimeoutError:
        raise FeedDisconnected(f"no data for {silent_s:g} s") from None
    if message.type is aiohttp.WSMsgType.TEXT:
        return str(message.data).encode()
    if message.type is aiohttp.WSMsgType.BINARY:
        return bytes(message.data)
    if message.type is aiohttp.WSMsgType.ERROR:
        raise FeedDisconnected(f"{type(message.data).__name__}: {message.data}")
    raise FeedDisconnected(f"closed by the exchange with code {socket.close_code}")


async def fetch(
    http: aiohttp.ClientSession,
    request: Request,
    pace: Pace,
    backoff: Backoff,
    on_trouble: Callable[[str, float], None],
) -> bytes:
    """
    Return the body of the reply to *request*, trying until it succeeds, at the exchange's pace.

    Busy (429, 418), 5xx and broken connections are retried after the longer of the
    backoff and the exchange's Retry-After; on_trouble is told the reason and the wait in s.

    Raises: FeedError: any other status; asking again would not help.
    """
    while True:
        retry_after_s = 0.0
        await pace.turn()
        try:
            async with http.request(request.method, request.url, timeout=_REPLY_TIMEOUT) as reply:
                body = await reply.read()
                if reply.status == 200:
                    backoff.reset()
                    return body
                if reply.status not in _BUSY and reply.status < 500:
                    raise FeedError(
                        f"{request.method} {reply.url} was refused: {reply.status} {body[:200]!r}"
                    )
                reason = f"HTTP {reply.status}"
                retry_after_s = _retry_after_s(reply)
        except _BROKEN as error:
            reason = f"{type(error).__name__}: {error}"
        wait_s = max(backoff.next_s(), retry_after_s)
        on_trouble(reason, wait_s)
        await asyncio.sleep(wait_s)


def _retry_after_s(reply: aiohttp.ClientResponse) -> float:
    text = reply.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0
