"""
The edge to the network that every live exchange shares: one socket kept open, and REST that retries.

Session.events() dials, hands over what arrives with the time it arrived, and dials
again for as long as it is iterated over. Three things end a connection: the other
side closes it, a ping goes unanswered, or no data comes for too long although pings
are answered, which is how a feed dies most quietly.

Between attempts it waits with full jitter: anywhere between nothing and a bound that
doubles from 0.5 s to 60 s, so that a thousand clients of one exchange do not return
in step. A connection that held for a minute starts from 0.5 s again.
Source of the jitter: M. Brooker, "Exponential Backoff And Jitter", AWS, 2015.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing

import aiohttp
import msgspec

from tickerml.kernel import NS_PER_S, Context, FeedDisconnected, FeedError

_FIRST_S = 0.5
_LONGEST_S = 60.0
_HEALTHY_NS = 60 * NS_PER_S
_DIAL_S = 10.0
_CLOSING = aiohttp.ClientWSTimeout(ws_close=2.0)  # for the other side's part of a clean close
_REPLY_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_MAX_FRAME = 16 * 1024 * 1024
_BUSY = (418, 429)  # slow down; and Binance's "you were told to"


class Opened(msgspec.Struct, frozen=True, gc=False):
    """The socket is open and the greeting sent."""

    ts_recv: int


class Received(msgspec.Struct, frozen=True, gc=False):
    """One data frame, as it came, and when, ns UTC."""

    ts_recv: int
    data: bytes


class Closed(msgspec.Struct, frozen=True, gc=False):
    """The socket closed, or could not be opened; the next attempt is in retry_in_ms."""

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
    """One WebSocket, opened again whenever it is lost."""

    def __init__(
        self,
        ctx: Context,
        http: aiohttp.ClientSession,
        url: str,
        greeting: Sequence[str],
        *,
        ping_s: float,
        silent_s: float,
    ) -> None:
        """
        Args:
            greeting: text frames to send on every new connection: the subscriptions.
            ping_s: seconds between our pings; half of that may pass before the pong.
            silent_s: seconds without a data frame after which the connection is given up.
        """
        self._ctx = ctx
        self._http = http
        self._url = url
        self._greeting = greeting
        self._ping_s = ping_s
        self._silent_s = silent_s
        self._backoff = Backoff(ctx, "socket")

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield Opened, Received ... and Closed, over and over; close it to end the connection."""
        while True:
            opened_at, reason = 0, ""
            try:
                async with aclosing(self._connection()) as connection:
                    async for event in connection:
                        opened_at = opened_at or event.ts_recv
                        yield event
            except FeedDisconnected as error:
                reason = str(error)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
            now = self._ctx.clock.now()
            if opened_at and now - opened_at >= _HEALTHY_NS:
                self._backoff.reset()
            wait_s = self._backoff.next_s()
            yield Closed(now, reason, round(wait_s * 1000))
            await asyncio.sleep(wait_s)

    async def _connection(self) -> AsyncGenerator[Opened | Received, None]:
        async with asyncio.timeout(_DIAL_S):
            socket = await self._http.ws_connect(
                self._url, heartbeat=self._ping_s, max_msg_size=_MAX_FRAME, timeout=_CLOSING
            )
        async with socket:
            for text in self._greeting:
                await socket.send_str(text)
            yield Opened(self._ctx.clock.now())
            while True:
                data = await self._receive(socket)
                yield Received(self._ctx.clock.now(), data)

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> bytes:
        try:
            # Around the whole wait: aiohttp's own timeout begins anew with every ping it answers.
            async with asyncio.timeout(self._silent_s):
                message = await socket.receive()
        except TimeoutError:
            raise FeedDisconnected(f"no data for {self._silent_s:g} s") from None
        if message.type is aiohttp.WSMsgType.TEXT:
            return str(message.data).encode()
        if message.type is aiohttp.WSMsgType.BINARY:
            return bytes(message.data)
        if message.type is aiohttp.WSMsgType.ERROR:
            raise FeedDisconnected(f"{type(message.data).__name__}: {message.data}")
        raise FeedDisconnected(f"closed by the exchange with code {socket.close_code}")


async def fetch(
    http: aiohttp.ClientSession,
    url: str,
    params: Mapping[str, str],
    backoff: Backoff,
    on_trouble: Callable[[str, float], None],
) -> bytes:
    """
    Return the body of a GET, trying until it succeeds.

    Busy (429, 418), 5xx and broken connections are retried after the longer of the
    backoff and the exchange's Retry-After; on_trouble is told the reason and the wait in s.

    Raises: FeedError: any other status; asking again would not help.
    """
    while True:
        retry_after_s = 0.0
        try:
            async with http.get(url, params=params, timeout=_REPLY_TIMEOUT) as reply:
                body = await reply.read()
                if reply.status == 200:
                    backoff.reset()
                    return body
                if reply.status not in _BUSY and reply.status < 500:
                    raise FeedError(f"GET {reply.url} was refused: {reply.status} {body[:200]!r}")
                reason = f"HTTP {reply.status}"
                retry_after_s = _retry_after_s(reply)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}"
        wait_s = max(backoff.next_s(), retry_after_s)
        on_trouble(reason, wait_s)
        await asyncio.sleep(wait_s)


def _retry_after_s(reply: aiohttp.ClientResponse) -> float:
    text = reply.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0
