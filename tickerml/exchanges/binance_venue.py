"""Where the Binance family is to be found: one combined stream, exchangeInfo, and depth by REST."""

from typing import Annotated, Any, NamedTuple

import msgspec

from .binance_wire import SpotFeed
from .feed import Feed, Tally
from .limits import Limits, Rate
from .live import LiveOptions
from .venue import Request, Socket

#: 300 connections in 5 minutes; 5 frames a second on spot; 6,000 weights of requests a minute, and a
#: deep snapshot costs 50. Of each a part, as others may share the address.
LIMITS = Limits(connects=Rate(5, 5.0), subscribes=Rate(4, 0.5), requests=Rate(20, 1.0))


class BinanceOptions(LiveOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As every live exchange's, and how deep a snapshot is."""

    depth: Annotated[
        int, msgspec.Meta(ge=5, le=5000, description="Levels of each side in a REST snapshot.")
    ] = 1000


class Streams(NamedTuple):
    """One socket of the exchange: its path, and the streams of a symbol that come on it."""

    path: str
    names: tuple[str, ...]


class BinanceVenue:
    """One exchange of the family; see Venue."""

    limits = LIMITS

    def __init__(
        self,
        exchange: str,
        options: BinanceOptions,
        api: str,
        *,
        streams: tuple[Streams, ...],
        feed: type[SpotFeed] = SpotFeed,
        listing: tuple[str, ...] = ("exchangeInfo",),
    ) -> None:
        """
        Args:
            api: the path of the REST interface, as "/api/v3".
            streams: at least one socket.
            listing: the REST requests that say what the instruments are.
        """
        self.exchange = exchange
        self._options = options
        self._rest_url = options.rest_url + api
        self._streams = streams
        self._feed = feed
        self._listing = listing

    def feed(self, log: Any, tally: Tally | None, was_whole: bool) -> Feed:
        return self._feed(self.exchange, log, tally=tally, was_whole=was_whole)

    def listing(self) -> list[Request]:
        return [Request(f"{self._rest_url}/{name}") for name in self._listing]

    def ticket(self) -> Request | None:
        return None

    def socket(self, wires: list[str], ticket: bytes) -> Socket:
        main, *also = [self._socket(streams, wires) for streams in self._streams]
        return main._replace(also=tuple(also))

    def _socket(self, streams: Streams, wires: list[str]) -> Socket:
        names = [f"{wire.lower()}@{name}" for wire in wires for name in streams.names]
        subscribe = msgspec.json.encode({"method": "SUBSCRIBE", "params": names, "id": 1}).decode()
        return Socket(self._options.ws_url + streams.path, [subscribe], self._options.ping_s)

    def snapshot(self, wire: str) -> Request | None:
        return Request(f"{self._rest_url}/depth?symbol={wire}&limit={self._options.depth}")

    def renew(self, wire: str) -> list[str]:
        return []
