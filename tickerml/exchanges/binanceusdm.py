"""
Binance USD-M futures, live, as data only: depth, trades, quotes and the funding of perpetuals.

Since 2026 the exchange has two entrances: /public brings depth and quotes, /market trades and
mark prices with the funding rate, once a second. REST gives the instruments, the terms of those
whose funding is not every 8 hours, and a depth snapshot for each book that needs one.
"""

import msgspec

from tickerml.kernel import Context, ExchangeSpec, FundingUpdated, hookimpl

from .binance_venue import BinanceOptions, BinanceVenue, Streams
from .binance_wire import UsdmFeed
from .live import PUBLISHES, STATE_VERSION, LiveFeed, RestUrl, Symbols, WsUrl

STREAMS = (
    Streams("/public/stream", ("depth@100ms", "bookTicker")),
    Streams("/market/stream", ("aggTrade", "markPrice@1s")),
)


class BinanceUSDMOptions(BinanceOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which futures, from where, and when silence is an event."""

    symbols: Symbols = msgspec.field(default_factory=lambda: ["BTC/USDT-PERP", "ETH/USDT-PERP"])
    ws_url: WsUrl = "wss://fstream.binance.com"
    rest_url: RestUrl = "https://fapi.binance.com"


def binanceusdm(ctx: Context, options: BinanceUSDMOptions) -> LiveFeed:
    """Return the live feed of Binance's USD-M futures."""
    venue = BinanceVenue(
        "binanceusdm",
        options,
        "/fapi/v1",
        streams=STREAMS,
        feed=UsdmFeed,
        listing=("exchangeInfo", "fundingInfo"),
    )
    return LiveFeed(ctx, options, venue)


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-binanceusdm",
            factory=binanceusdm,
            options=BinanceUSDMOptions,
            publishes=(*PUBLISHES, FundingUpdated),
            state_version=STATE_VERSION,
            is_live=True,
            summary="live depth, trades, quotes and funding of Binance USD-M futures, as data only",
        )
    ]
