"""
KuCoin, live: depth, trades and quotes of its spot pairs, without keys.

The public snapshot of a book holds 100 levels of a side, and no more than those are published
(kucoin_sync.py); a new one is asked for when they run out.
"""

import msgspec

from tickerml.kernel import Context, ExchangeSpec, hookimpl

from .kucoin_venue import KucoinOptions, KucoinVenue, Paths
from .kucoin_wire import KucoinFeed
from .live import PUBLISHES, STATE_VERSION, LiveFeed, RestUrl, Symbols

PATHS = Paths(
    "/api/v2/symbols",
    "/api/v1/market/orderbook/level2_100",
    ("/market/level2", "/market/match", "/market/ticker"),
)


class KucoinSpotOptions(KucoinOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pairs, from where, and when silence is an event."""

    symbols: Symbols = msgspec.field(default_factory=lambda: ["BTC/USDT", "ETH/USDT"])
    rest_url: RestUrl = "https://api.kucoin.com"


def kucoin(ctx: Context, options: KucoinSpotOptions) -> LiveFeed:
    """Return the live feed of KuCoin's spot market."""
    return LiveFeed(ctx, options, KucoinVenue("kucoin", options, KucoinFeed, PATHS))


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-kucoin",
            factory=kucoin,
            options=KucoinSpotOptions,
            publishes=PUBLISHES,
            state_version=STATE_VERSION,
            is_live=True,
            summary="live depth, trades and quotes of KuCoin spot pairs",
        )
    ]
