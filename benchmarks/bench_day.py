"""
A day's market: the made-up exchanges, and perpetuals beside one of them, which pay funding.

The last of the venues is where perpetuals of the same symbols are: its books are as made-up as the
others', its Instruments say "linear", and once a minute it tells of its funding. Settlements fall on
whole multiples of interval_s since 1970, as they do on real exchanges.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from tickerml.exchanges import synthetic
from tickerml.exchanges.synthetic import SyntheticMarket
from tickerml.exchanges.synthetic_options import SyntheticOptions
from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    BookDelta,
    BookSnapshot,
    ExchangeSpec,
    FeedConnected,
    FundingUpdated,
    Instrument,
    Message,
    Quote,
    Trade,
    hookimpl,
)
from tickerml.kernel.testing import spec_of

TOLD_NS = 60 * NS_PER_S  # between two words on funding
BPS = UNIT // 10_000
CAP = 200 * BPS  # of a rate, either way


class DayOptions(SyntheticOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The market, and what its perpetuals pay."""

    interval_s: Annotated[int, msgspec.Meta(ge=60, le=86_400, description="between two payments, s")] = 28_800
    funding_bps: Annotated[
        float, msgspec.Meta(ge=-200, le=200, description="what longs pay shorts each time, bps of notional")
    ] = 8.0


class DayMarket(SyntheticMarket):
    """A SyntheticMarket whose last venue lists perpetuals."""

    def __init__(self, ctx, options: DayOptions) -> None:
        super().__init__(ctx, options)
        self._rate = round(options.funding_bps * BPS)
        self._interval_ns = options.interval_s * NS_PER_S
        self._perpetuals = options.venues[-1]
        self._told = 0

    def events(self) -> Iterator[tuple[int, Sequence[Message]]]:
        """Yield (ts_recv, messages) as the market below does, and what is to be told of funding."""
        for ts, messages in super().events():
            told: list[Message] = []
            if ts // TOLD_NS > self._told:
                self._told = ts // TOLD_NS
                told = [self._funding(ts, market) for market in self._markets if self._is_perpetual(market)]
            yield ts, [*map(self._as_listed, messages), *told]

    def _is_perpetual(self, market) -> bool:
        return market.exchange == self._perpetuals and market.seq > 0

    def _as_listed(self, message: Message) -> Message:
        if getattr(message, "exchange", "") != self._perpetuals:
            return message
        if isinstance(message, FeedConnected):
            return msgspec.structs.replace(message, symbols=[_listed(each) for each in message.symbols])
        if isinstance(message, Instrument):
            message = msgspec.structs.replace(message, contract="linear")
        if isinstance(message, Instrument | BookSnapshot | BookDelta | Trade | Quote):
            return msgspec.structs.replace(message, symbol=_listed(message.symbol))
        return message

    def _funding(self, ts: int, market) -> FundingUpdated:
        bid, _, ask, _ = market.best()
        mark = (bid + ask) // 2
        next_ts = (ts // self._interval_ns + 1) * self._interval_ns
        names, rates = (market.exchange, _listed(market.symbol)), (self._rate, self._rate)
        return FundingUpdated(
            ts, ts, *names, mark, mark, *rates, next_ts, self._interval_ns // NS_PER_S, CAP, -CAP
        )


def _listed(symbol: str) -> str:
    return f"{symbol}:{symbol.partition('/')[2]}"


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    below = spec_of(synthetic)
    return [
        msgspec.structs.replace(
            below,
            id="exchange-day",
            factory=DayMarket,
            options=DayOptions,
            publishes=(*below.publishes, FundingUpdated),
            state_version=1,
        )
    ]
