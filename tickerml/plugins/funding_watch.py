"""
Funding watch: tells of perpetuals whose funding is out of the ordinary.

A rate of high_percent of the notional for one interval, whoever pays it, is a DataAnomaly of kind
funding and a warning, one of higher_percent an error; both reach people as alerts do. It is told when
the rate first gets there, and again only after it has been below four fifths of that.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from tickerml.kernel import (
    UNIT,
    Anomaly,
    Context,
    DataAnomaly,
    FeatureSetSpec,
    FundingUpdated,
    Options,
    Severity,
    hookimpl,
)

WATCH = "funding-watch"
_BPS = UNIT // 10_000

_Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]


class FundingWatchOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rates are told of."""

    high_percent: Annotated[
        _Percent, msgspec.Meta(description="rate for an interval that is a warning, % of the notional")
    ] = 0.1
    higher_percent: Annotated[
        _Percent, msgspec.Meta(description="and one that is an error, % of the notional")
    ] = 0.5

    def __post_init__(self) -> None:
        if self.higher_percent <= self.high_percent:
            raise ValueError(
                f"higher_percent must be above high_percent, {self.high_percent:g}, "
                f"was {self.higher_percent:g}"
            )


class _Told(msgspec.Struct, array_like=True):
    rank: int = 0  # 0 for none, 1 for high, 2 for higher
    count: int = 0


class _State(msgspec.Struct, array_like=True):
    told: list[tuple[str, str, _Told]]


class FundingWatch:
    """Publishes a DataAnomaly for a rate that is high."""

    def __init__(self, ctx: Context, options: FundingWatchOptions) -> None:
        self._ctx = ctx
        self._limits = [round(each * 100 * _BPS) for each in (options.high_percent, options.higher_percent)]
        self._told: dict[tuple[str, str], _Told] = {}

    def on_funding_updated(self, funding: FundingUpdated) -> None:
        told = self._told.setdefault((funding.exchange, funding.symbol), _Told())
        size = abs(funding.rate)
        rank = sum(size >= limit for limit in self._limits)
        if rank > told.rank:
            told.rank = rank
            told.count += 1
            self._tell(funding, rank, told.count)
        while told.rank and 5 * size < 4 * self._limits[told.rank - 1]:
            told.rank -= 1

    def _tell(self, funding: FundingUpdated, rank: int, count: int) -> None:
        who = "longs pay" if funding.rate > 0 else "shorts pay"
        every = f" every {funding.interval_s / 3600:g} h" if funding.interval_s else ""
        self._ctx.publish(
            DataAnomaly(
                self._ctx.clock.now(),
                funding.exchange,
                funding.symbol,
                Anomaly.FUNDING,
                Severity.WARNING if rank == 1 else Severity.ERROR,
                abs(funding.rate) / _BPS,
                self._limits[rank - 1] / _BPS,
                f"{who} {abs(funding.rate) / UNIT:.3%}{every}",
                count,
            )
        )

    # --- State ----------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        told = [(exchange, symbol, each) for (exchange, symbol), each in self._told.items()]
        return msgspec.msgpack.encode(_State(told))

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=_State)
        self._told = {(exchange, symbol): each for exchange, symbol, each in saved.told}


@hookimpl
def tickerml_feature_sets() -> Iterable[FeatureSetSpec]:
    """Offer the watch."""
    return [
        FeatureSetSpec(
            id=WATCH,
            factory=FundingWatch,
            options=FundingWatchOptions,
            publishes=(DataAnomaly,),
            summary="tells of perpetuals whose funding is out of the ordinary",
        )
    ]
