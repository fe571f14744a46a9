"""
One exchange's side of a conversation, without sockets: requests and frames in, replies and frames out.

A Wire is an exchange: its markets, its clock, and what it answers to a request. A
Connection is one client's socket as the exchange sees it: what it subscribed to, and an
outbox of frames. Whoever carries the frames (server.py over a real socket, a campaign
through a heap of events) takes them from the outbox. Between what an exchange says and its
outbox stand the faults of the moment (faults.py), so they are the same for every exchange
and every carrier.

A Frame knows which market it speaks of and the last change it tells of. That is for whoever
compares; it is not sent.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple, Protocol

from tickerml.kernel import NS_PER_S

from .market import Listing, Market, Update

#: Frames that may wait for a client that does not read, before it is cut off.
OUTBOX = 20_000

Clock = Callable[[], int]


class Frame(NamedTuple):
    """One text frame; kind is "book", "trade", "quote", "funding" or "" for everything else."""

    text: str
    kind: str = ""
    wire: str = ""
    seq: int = 0  # of the market, after this frame
    is_pong: bool = False


class Reply(NamedTuple):
    """What a request is answered with; seq is of the market where the reply is a book."""

    body: str
    status: int = 200
    headers: Mapping[str, str] = {}
    seq: int = 0


class Tamper(Protocol):
    """Something between an exchange and the outbox of one connection."""

    is_over: bool

    def on_frame(self, frame: Frame) -> list[Frame]:
        """Return what is sent instead of *frame*."""


def dumps(value: Any) -> str:
    """Return *value* as JSON, without spaces."""
    return json.dumps(value, separators=(",", ":"))


def iso(ns: int, digits: int = 6) -> str:
    """Return a time as RFC 3339 text with that many digits of a second, 1 to 9."""
    seconds, rest = divmod(ns, NS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{f'{rest:09}'[:digits]}Z"


class Wire:
    """One exchange; derive from it and write the methods at its end."""

    exchange: str
    listings: ClassVar[tuple[Listing, ...]]
    update_changes: ClassVar[int] = 3  # levels that change from one message to the next, at least

    def __init__(self, seed: int, clock: Clock, *, symbols: Iterable[str] = (), levels: int = 120) -> None:
        """
        Args:
            clock: ns UTC; skew_ns is added to it.
            symbols: those of the listings that exist, as "BTC/USD"; all where none are named.
            levels: of each side of a book, about.
        """
        wanted = set(symbols)
        self.markets = {
            listing.wire: Market(listing, f"{seed}/{self.exchange}", levels=levels)
            for listing in self.listings
            if not wanted or listing.symbol in wanted
        }
        self.connections: list[Connection] = []
        self.skew_ns = 0
        self.refusals: deque[Reply] = deque()  # answers to give before the true ones
        self.ws_url = "ws://127.0.0.1"  # where it can be reached, for those who ask it
        self._clock = clock

    def now(self) -> int:
        """Return the time by the exchange's clock, ns UTC."""
        return self._clock() + self.skew_ns

    def market(self, symbol: str) -> Market:
        """Return the market of "BTC/USD". Raises: KeyError: the exchange does not list it."""
        for market in self.markets.values():
            if market.listing.symbol == symbol:
                return market
        listed = [market.listing.symbol for market in self.markets.values()]
        raise KeyError(f"{self.exchange}: expected one of {listed}, was {symbol!r}")

    def request(self, method: str, path: str, query: Mapping[str, str]) -> Reply:
        """Return the answer to a REST request; path begins with a slash."""
        if self.refusals:
            return self.refusals.popleft()
        return self.rest(method, path, query) or Reply('{"error":"not found"}', 404)

    def connect(self, query: Mapping[str, str]) -> "Connection":
        """Return a new client's socket, greeted."""
        connection = self.connection()
        self.connections.append(connection)
        connection.opened(query)
        return connection

    def update(self, wire: str, changes: int = 0) -> Update:
        """Let something happen in one market, and tell everybody who subscribed to it."""
        market = self.markets[wire]
        update = market.update(changes or self.update_changes)
        for connection in self.connections:
            connection.updated(market, update)
        return update

    def beat(self) -> None:
        """Say what is said once a second: heartbeats, funding."""
        for connection in self.connections:
            connection.beat()

    # --- What an exchange writes ----------------------------------------------------------------

    def connection(self) -> "Connection":
        """Return the exchange's side of a new socket."""
        raise NotImplementedError

    def rest(self, method: str, path: str, query: Mapping[str, str]) -> Reply | None:
        """Return the answer to a request; None where there is no such path or symbol."""
        raise NotImplementedError

    def error_frame(self) -> str:
        """Return the exchange's way of saying that something of ours was wrong."""
        raise NotImplementedError


class Connection:
    """One client's socket as the exchange sees it; derive from it and write the methods at its end."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.outbox: deque[Frame] = deque()
        self.tampers: list[Tamper] = []
        self.subscribed: dict[tuple[str, str], None] = {}  # (channel, wire name), in their order
        self.is_mute = False  # whether pings go unanswered
        self.is_silent = False  # whether nothing but answers to pings is sent
        self.closing = ""  # "close" or "abort" once the exchange has had enough
        self.on_ready: Callable[[], None] = lambda: None  # there is something to carry

    def send(self, text: str, kind: str = "", wire: str = "", seq: int = 0) -> None:
        """Send one frame, through the faults of the moment."""
        self._send(Frame(text, kind, wire, seq))

    def pong(self, text: str) -> None:
        """Answer a ping that came as a frame."""
        if not self.is_mute:
            self._send(Frame(text, is_pong=True))

    def hang_up(self, how: str) -> None:
        """End the connection: "close" after what is in the outbox, or "abort" at once."""
        self.closing = how
        self.on_ready()

    def gone(self) -> None:
        """Forget the connection: the socket is closed."""
        if self in self.wire.connections:
            self.wire.connections.remove(self)

    def _send(self, frame: Frame) -> None:
        if self.closing or (self.is_silent and not frame.is_pong):
            return
        frames = [frame]
        for tamper in self.tampers:
            frames = [out for into in frames for out in tamper.on_frame(into)]
        if self.tampers:
            self.tampers = [tamper for tamper in self.tampers if not tamper.is_over]
        self.outbox.extend(frames)
        if len(self.outbox) > OUTBOX:
            self.hang_up("abort")
        self.on_ready()

    # --- What an exchange writes ----------------------------------------------------------------

    def opened(self, query: Mapping[str, str]) -> None:
        """Greet; *query* is of the URL that was dialled."""

    def received(self, text: str) -> None:
        """Take a frame of the client's."""
        raise NotImplementedError

    def updated(self, market: Market, update: Update) -> None:
        """Tell what happened in *market*, as far as it was subscribed to."""
        raise NotImplementedError

    def beat(self) -> None:
        """Say what is said once a second."""
