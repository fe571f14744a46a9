"""
Where KuCoin's two markets are to be found: a token by REST before each connection, then one socket.

POST bullet-public gives a token and the endpoint it is good for, and how often the exchange
wants a ping of its own kind; both are asked for anew each time, for a used token may have
expired. The instruments and each book's snapshot come by REST.
"""

from typing import Annotated, Any, NamedTuple

import msgspec

from tickerml.kernel import MalformedMessage

from .feed import Feed, Tally, decoded
from .kucoin_wire import data_of
from .limits import Limits, Rate
from .live import LiveOptions
from .venue import Request, Socket

#: 30 connections a minute and 100 frames in 10 s; 2,000 weights of public requests in 30 s, of which
#: a snapshot costs up to 5. Of each a part, as others may share the address.
LIMITS = Limits(connects=Rate(3, 3.0), subscribes=Rate(50, 0.15), requests=Rate(10, 0.2))

_SYMBOLS_A_TOPIC = 100
_PING = '{"id":"1","type":"ping"}'

TicketUrl = Annotated[
    str,
    msgspec.Meta(
        pattern="^(wss?://.*)?$",
        description="URL of the WebSocket, without the token; empty: the one that comes with the token.",
    ),
]


class KucoinOptions(LiveOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As every live exchange's; where the socket is comes with the token."""

    ws_url: TicketUrl = ""


class Paths(NamedTuple):
    """What one of the markets calls its things: REST paths, and the topics to subscribe to."""

    listing: str
    depth: str
    topics: tuple[str, ...]


class _Server(msgspec.Struct):
    endpoint: str
    ping_ms: int = msgspec.field(name="pingInterval", default=18_000)


class _Ticket(msgspec.Struct):
    token: str
    servers: list[_Server] = msgspec.field(name="instanceServers")


_tickets = msgspec.json.Decoder(_Ticket)


class KucoinVenue:
    """One of KuCoin's markets; see Venue."""

    limits = LIMITS

    def __init__(self, exchange: str, options: KucoinOptions, feed: type[Feed], paths: Paths) -> None:
        self.exchange = exchange
        self._options = options
        self._feed = feed
        self._paths = paths

    def feed(self, log: Any, tally: Tally | None, was_whole: bool) -> Feed:
        return self._feed(self.exchange, log, tally=tally, was_whole=was_whole)

    def listing(self) -> list[Request]:
        return [Request(self._options.rest_url + self._paths.listing)]

    def ticket(self) -> Request | None:
        return Request(self._options.rest_url + "/api/v1/bullet-public", "POST")

    def socket(self, wires: list[str], ticket: bytes) -> Socket:
        issued = decoded(_tickets, data_of(ticket))
        if not issued.servers:
            raise MalformedMessage("malformed ticket: expected a server to connect to, was none")
        server = issued.servers[0]
        url = f"{self._options.ws_url or server.endpoint}?token={issued.token}"
        ping_s = min(self._options.ping_s, server.ping_ms / 1000)
        return Socket(url, self._greeting(wires), ping_s, _PING, speaks_first=True)

    def _greeting(self, wires: list[str]) -> list[str]:
        batches = [wires[at : at + _SYMBOLS_A_TOPIC] for at in range(0, len(wires), _SYMBOLS_A_TOPIC)]
        topics = [f"{topic}:{','.join(batch)}" for topic in self._paths.topics for batch in batches]
        return [
            msgspec.json.encode(
                {"id": number, "type": "subscribe", "topic": topic, "response": True}
            ).decode()
            for number, topic in enumerate(topics, 1)
        ]

    def snapshot(self, wire: str) -> Request | None:
        return Request(f"{self._options.rest_url}{self._paths.depth}?symbol={wire}")

    def renew(self, wire: str) -> list[str]:
        return []
