"""KuCoin Futures, live, as data only: depth, trades, quotes and the funding of perpetuals, without keys."""

import msgspec

from tickerml.kernel import Context, ExchangeSpec, FundingUpdated, hookimpl

from .kucoin_venue import KucoinOptions, KucoinVenue, Paths
from .kucoinfutures_wire import KucoinFuturesFeed
from .live import PUBLISHES, STATE_VERSION, LiveFeed, RestUrl, Symbols

PATHS = Paths(
    "/api/v1/contracts/active",
    "/api/v1/level2/snapshot",
    (
        "/contractMarket/level2",
        "/contractMarket/execution",
        "/contractMarket/tickerV2",
        "/contract/instrument",
    ),
)


class KucoinFuturesOptions(KucoinOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which perpetuals, from where, and when silence is an event."""

    symbols: Symbols = msgspec.field(default_factory=lambda: ["BTC/USDT-PERP", "ETH/USDT-PERP"])
    rest_url: RestUrl = "https://api-futures.kucoin.com"


def kucoinfutures(ctx: Context, options: KucoinFuturesOptions) -> LiveFeed:
    """Return the live feed of KuCoin's futures."""
    return LiveFeed(ctx, options, KucoinVenue("kucoinfutures", options, KucoinFuturesFeed, PATHS))


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-kucoinfutures",
            factory=kucoinfutures,
            options=KucoinFuturesOptions,
            publishes=(*PUBLISHES, FundingUpdated),
            state_version=STATE_VERSION,
            is_live=True,
            summary="live depth, trades, quotes and funding of KuCoin's perpetuals, as data only",
        )
    ]
