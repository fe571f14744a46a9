"""
Kraken, live: depth, trades and quotes of its spot pairs, without keys.

One socket brings everything, each book whole and then by changes, with a checksum each time; REST
gives the instruments. A book whose checksum fails is subscribed to again and comes whole.
"""

from typing import Annotated, Any, Literal

import msgspec

from tickerml.kernel import Context, ExchangeSpec, hookimpl

from .feed import Feed, Tally
from .kraken_wire import KrakenFeed
from .limits import Limits, Rate
from .live import PUBLISHES, STATE_VERSION, LiveFeed, LiveOptions, RestUrl, WsUrl
from .venue import Request, Socket

EXCHANGE = "kraken"

#: About 150 connections in 10 minutes; how many frames are too many depends on Kraken's load; public
#: requests at about one a second.
LIMITS = Limits(connects=Rate(5, 6.0), subscribes=Rate(5, 0.25), requests=Rate(2, 1.0))

_PING = '{"method":"ping"}'


class KrakenOptions(LiveOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pairs, how deep, from where, and when silence is an event."""

    ws_url: WsUrl = "wss://ws.kraken.com"
    rest_url: RestUrl = "https://api.kraken.com"
    depth: Annotated[
        Literal[10, 25, 100, 500, 1000], msgspec.Meta(description="Levels of each side to subscribe to.")
    ] = 1000


def _frame(method: str, **params: Any) -> str:
    return msgspec.json.encode({"method": method, "params": params}).decode()


class KrakenVenue:
    """Kraken's spot market; see Venue."""

    exchange = EXCHANGE
    limits = LIMITS

    def __init__(self, options: KrakenOptions) -> None:
        self._options = options

    def feed(self, log: Any, tally: Tally | None, was_whole: bool) -> Feed:
        return KrakenFeed(EXCHANGE, log, tally=tally, was_whole=was_whole, depth=self._options.depth)

    def listing(self) -> list[Request]:
        return [Request(self._options.rest_url + "/0/public/AssetPairs")]

    def ticket(self) -> Request | None:
        return None

    def socket(self, wires: list[str], ticket: bytes) -> Socket:
        greeting = [
            _frame("subscribe", channel="book", symbol=wires, depth=self._options.depth, snapshot=True),
            _frame("subscribe", channel="trade", symbol=wires, snapshot=False),
            # A quote for each change of the best bid or ask, not only for each trade.
            _frame("subscribe", channel="ticker", symbol=wires, event_trigger="bbo", snapshot=True),
        ]
        return Socket(self._options.ws_url + "/v2", greeting, self._options.ping_s, _PING)

    def snapshot(self, wire: str) -> Request | None:
        return None

    def renew(self, wire: str) -> list[str]:
        book = {"channel": "book", "symbol": [wire], "depth": self._options.depth}
        return [_frame("unsubscribe", **book), _frame("subscribe", **book, snapshot=True)]


def kraken(ctx: Context, options: KrakenOptions) -> LiveFeed:
    """Return the live feed of Kraken."""
    return LiveFeed(ctx, options, KrakenVenue(options))


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-kraken",
            factory=kraken,
            options=KrakenOptions,
            publishes=PUBLISHES,
            state_version=STATE_VERSION,
            is_live=True,
            summary="live depth, trades and quotes of Kraken spot pairs",
        )
    ]
