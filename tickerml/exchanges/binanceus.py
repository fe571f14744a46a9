"""
Binance.US, live: depth, trades and quotes of its spot pairs, without keys.

One combined stream carries every symbol's depth@100ms, trade and bookTicker; REST gives
the instruments once and a depth snapshot for each book that needs one.
"""

from tickerml.kernel import Context, ExchangeSpec, hookimpl

from .binance_venue import BinanceOptions, BinanceVenue, Streams
from .live import PUBLISHES, STATE_VERSION, LiveFeed, RestUrl, WsUrl

STREAMS = (Streams("/stream", ("depth@100ms", "trade", "bookTicker")),)


class BinanceUSOptions(BinanceOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pairs, from where, and when silence is an event."""

    ws_url: WsUrl = "wss://stream.binance.us:9443"
    rest_url: RestUrl = "https://api.binance.us"


def binanceus(ctx: Context, options: BinanceUSOptions) -> LiveFeed:
    """Return the live feed of Binance.US."""
    return LiveFeed(ctx, options, BinanceVenue("binanceus", options, "/api/v3", streams=STREAMS))


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-binanceus",
            factory=binanceus,
            options=BinanceUSOptions,
            publishes=PUBLISHES,
            state_version=STATE_VERSION,
            is_live=True,
            summary="live depth, trades and quotes of Binance.US spot pairs",
        )
    ]
