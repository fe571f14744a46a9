"""
Coinbase (Advanced Trade), live: depth, trades and quotes of its spot pairs, without keys.

One socket brings everything, each book whole and then by changes; REST gives the instruments. The
frames of the socket are numbered across all channels, so what is missing may have been of any book:
each is subscribed to again and comes whole. The heartbeats channel keeps quiet subscriptions open.
"""

from typing import Any

import msgspec

from tickerml.kernel import Context, ExchangeSpec, hookimpl

from .coinbase_wire import CoinbaseFeed
from .feed import Feed, Tally
from .limits import Limits, Rate
from .live import PUBLISHES, STATE_VERSION, LiveFeed, LiveOptions, RestUrl, WsUrl
from .venue import Request, Socket

EXCHANGE = "coinbase"

#: 8 connections and 8 frames a second, 10 public requests a second. Of each a part, as others may
#: share the address.
LIMITS = Limits(connects=Rate(4, 1.0), subscribes=Rate(6, 0.2), requests=Rate(5, 0.2))

_CHANNELS = ("level2", "market_trades", "ticker")


class CoinbaseOptions(LiveOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pairs, from where, and when silence is an event."""

    ws_url: WsUrl = "wss://advanced-trade-ws.coinbase.com"
    rest_url: RestUrl = "https://api.coinbase.com"


def _frame(kind: str, channel: str, wires: list[str]) -> str:
    products = {"product_ids": wires} if wires else {}
    return msgspec.json.encode({"type": kind, "channel": channel, **products}).decode()


class CoinbaseVenue:
    """Coinbase's spot market; see Venue."""

    exchange = EXCHANGE
    limits = LIMITS

    def __init__(self, options: CoinbaseOptions) -> None:
        self._options = options

    def feed(self, log: Any, tally: Tally | None, was_whole: bool) -> Feed:
        return CoinbaseFeed(EXCHANGE, log, tally=tally, was_whole=was_whole)

    def listing(self) -> list[Request]:
        return [Request(self._options.rest_url + "/api/v3/brokerage/market/products?product_type=SPOT")]

    def ticket(self) -> Request | None:
        return None

    def socket(self, wires: list[str], ticket: bytes) -> Socket:
        greeting = [_frame("subscribe", "heartbeats", [])]
        greeting += [_frame("subscribe", channel, wires) for channel in _CHANNELS]
        return Socket(self._options.ws_url, greeting, self._options.ping_s)

    def snapshot(self, wire: str) -> Request | None:
        return None

    def renew(self, wire: str) -> list[str]:
        return [_frame("unsubscribe", "level2", [wire]), _frame("subscribe", "level2", [wire])]


def coinbase(ctx: Context, options: CoinbaseOptions) -> LiveFeed:
    """Return the live feed of Coinbase."""
    return LiveFeed(ctx, options, CoinbaseVenue(options))


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-coinbase",
            factory=coinbase,
            options=CoinbaseOptions,
            publishes=PUBLISHES,
            state_version=STATE_VERSION,
            is_live=True,
            summary="live depth, trades and quotes of Coinbase spot pairs",
        )
    ]
