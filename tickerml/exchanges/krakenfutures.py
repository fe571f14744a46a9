"""
Kraken Futures, live, as data only: depth, trades, quotes and the funding of perpetuals, without keys.

One socket brings everything, each book whole and then by changes; REST gives the instruments and
the bounds of their funding. A book that broke is sent again when it is subscribed to again.
"""

from typing import Any

import msgspec

from tickerml.kernel import Context, ExchangeSpec, FundingUpdated, hookimpl

from .feed import Feed, Tally
from .krakenfutures_wire import KrakenFuturesFeed
from .limits import Limits, Rate
from .live import PUBLISHES, STATE_VERSION, LiveFeed, LiveOptions, RestUrl, Symbols, WsUrl
from .venue import Request, Socket

EXCHANGE = "krakenfutures"

#: 100 connections and 100 frames a second; REST shares a pool of 500 in 10 s. Of each a part.
LIMITS = Limits(connects=Rate(5, 2.0), subscribes=Rate(20, 0.1), requests=Rate(5, 0.5))

_FEEDS = ("book", "trade", "ticker")


class KrakenFuturesOptions(LiveOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which futures, from where, and when silence is an event."""

    symbols: Symbols = msgspec.field(default_factory=lambda: ["BTC/USD-PERP", "ETH/USD-PERP"])
    ws_url: WsUrl = "wss://futures.kraken.com"
    rest_url: RestUrl = "https://futures.kraken.com"


def _frame(event: str, feed: str, wires: list[str]) -> str:
    products = {"product_ids": wires} if wires else {}
    return msgspec.json.encode({"event": event, "feed": feed, **products}).decode()


class KrakenFuturesVenue:
    """Kraken's futures; see Venue."""

    exchange = EXCHANGE
    limits = LIMITS

    def __init__(self, options: KrakenFuturesOptions) -> None:
        self._options = options

    def feed(self, log: Any, tally: Tally | None, was_whole: bool) -> Feed:
        return KrakenFuturesFeed(EXCHANGE, log, tally=tally, was_whole=was_whole)

    def listing(self) -> list[Request]:
        return [Request(self._options.rest_url + "/derivatives/api/v3/instruments")]

    def ticket(self) -> Request | None:
        return None

    def socket(self, wires: list[str], ticket: bytes) -> Socket:
        greeting = [_frame("subscribe", feed, wires) for feed in _FEEDS]
        greeting.append(_frame("subscribe", "heartbeat", []))
        return Socket(self._options.ws_url + "/ws/v1", greeting, self._options.ping_s)

    def snapshot(self, wire: str) -> Request | None:
        return None

    def renew(self, wire: str) -> list[str]:
        return [_frame("unsubscribe", "book", [wire]), _frame("subscribe", "book", [wire])]


def krakenfutures(ctx: Context, options: KrakenFuturesOptions) -> LiveFeed:
    """Return the live feed of Kraken's futures."""
    return LiveFeed(ctx, options, KrakenFuturesVenue(options))


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-krakenfutures",
            factory=krakenfutures,
            options=KrakenFuturesOptions,
            publishes=(*PUBLISHES, FundingUpdated),
            state_version=STATE_VERSION,
            is_live=True,
            summary="live depth, trades, quotes and funding of Kraken's futures, as data only",
        )
    ]
