"""
What can be chosen of a synthetic market: its assets, and the options of the plugin.

The assets are a closed list, each with its first price and the steps of its markets;
a symbol is one of them in another that is a dollar, or in USD itself.
"""

from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec

from tickerml.kernel import Options


class Asset(NamedTuple):
    """What an asset is worth at first in USD, how much it moves, and the steps its markets use."""

    price: float
    volatility: float  # a multiple of the volatility option; of PEG_VOLATILITY for a pegged asset
    tick: str
    lot: str
    is_pegged: bool = False


ASSETS = {
    "BTC": Asset(60_000.0, 1.0, "0.01", "0.00001"),
    "ETH": Asset(3_000.0, 1.25, "0.01", "0.0001"),
    "SOL": Asset(150.0, 1.6, "0.01", "0.001"),
    "USDT": Asset(1.0, 1.0, "0.0001", "0.01", is_pegged=True),
    "USDC": Asset(1.0, 0.5, "0.0001", "0.01", is_pegged=True),
}

QUOTES = ("USD", *(name for name, asset in ASSETS.items() if asset.is_pegged))

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9]*$")]
_Names = tuple[_Name, ...]
_Symbols = tuple[str, ...]


class SyntheticOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many exchanges, how lively, how long."""

    seed: Annotated[int, msgspec.Meta(ge=0, description="names the market: equal seeds, equal bytes")] = 7
    venues: Annotated[
        _Names, msgspec.Meta(min_length=1, max_length=8, description="names of the made-up exchanges")
    ] = ("aurora", "borealis", "cascade")
    symbols: Annotated[
        _Symbols, msgspec.Meta(min_length=1, description="symbols that every exchange lists")
    ] = ("BTC/USDT", "ETH/USDT")
    first_venue_symbols: Annotated[
        _Symbols, msgspec.Meta(description="symbols that only the first exchange lists as well")
    ] = ("BTC/USD", "USDT/USD")
    rate: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=2_000,
            description="messages a second for each book, outside of bursts and without quotes",
        ),
    ] = 25.0
    volatility: Annotated[float, msgspec.Meta(gt=0, le=5, description="of BTC, a year; 0.5 is 50 %")] = 0.5
    correlation: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="of the fundamental values of any two unpegged assets")
    ] = 0.8
    burst_probability: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="of a burst of volatility beginning, a second")
    ] = 0.002
    imbalance_tilt: Annotated[
        float,
        msgspec.Meta(
            ge=0, le=5, description="log odds by which a one-sided book leans market orders its way"
        ),
    ] = 1.0
    depth: Annotated[
        int, msgspec.Meta(ge=10, le=200, description="levels a side around which a book stays")
    ] = 30
    latency_ms: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=5_000,
            description="median feed latency of the first exchange; each next one has half as much more",
        ),
    ] = 30.0
    deviation_every_s: Annotated[
        float,
        msgspec.Meta(
            ge=0, le=86_400, description="mean time from one deviation of an exchange to the next; 0 for none"
        ),
    ] = 0.0
    deviation_bps: Annotated[
        float,
        msgspec.Meta(gt=0, le=1_000, description="how far off its traders then hold what a symbol is worth"),
    ] = 60.0
    deviation_s: Annotated[
        float, msgspec.Meta(gt=0, le=3_600, description="mean time that a deviation lasts")
    ] = 2.0
    quotes: Annotated[
        bool, msgspec.Meta(description="publish a Quote whenever a best price or its lots change")
    ] = False
    orders: Annotated[
        bool,
        msgspec.Meta(
            description="publish single orders (BookOrders), by which the queue model l3-exact goes"
        ),
    ] = False
    start: Annotated[
        str,
        msgspec.Meta(
            description='"run" for when the run began, or an ISO time such as "2026-01-01T00:00:00Z"'
        ),
    ] = "run"
    duration_s: Annotated[
        float, msgspec.Meta(ge=0, description="market time after which it ends; 0 for never")
    ] = 0.0

    def __post_init__(self) -> None:
        for symbol in (*self.symbols, *self.first_venue_symbols):
            base, _, quote = symbol.partition("/")
            if base not in ASSETS or quote not in QUOTES or base == quote:
                raise ValueError(
                    f"expected one of {', '.join(ASSETS)} in one of {', '.join(QUOTES)}, was {symbol!r}"
                )
        for names in (self.venues, (*self.symbols, *self.first_venue_symbols)):
            if len(set(names)) < len(names):
                raise ValueError(
                    f"each venue and symbol may be named once, was {list(names)}; drop the repeats"
                )
        if self.start != "run" and datetime.fromisoformat(self.start).tzinfo is None:
            raise ValueError(f"start needs a time zone, was {self.start!r}; add Z for UTC")
