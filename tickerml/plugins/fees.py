"""
What trading costs by exchange and tier: data with a date and a source, in fees.toml.

An Instrument says what its exchange charges whoever comes in; nobody's tier is in it. So the tier
comes from an option, and its fees from the table. The fresher of the two is believed about the
entry tier, and a pair that costs twice that costs twice as much in every tier.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from tickerml.kernel import Instrument

_TABLE = Path(__file__).with_name("fees.toml")


class FeeSchedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One exchange's fees by tier: (maker, taker) in millionths, the entry tier first; as_of an ISO date."""

    as_of: str
    source: str
    tiers: dict[str, tuple[int, int]]

    @property
    def entry(self) -> tuple[int, int]:
        """What the entry tier pays."""
        return next(iter(self.tiers.values()))


@cache
def fee_table() -> Mapping[str, FeeSchedule]:
    """Return the schedules by exchange, as fees.toml has them."""
    return msgspec.convert(tomllib.loads(_TABLE.read_text()), dict[str, FeeSchedule])


def check_tiers(tiers: Mapping[str, str]) -> None:
    """
    Raises: ValueError: of *tiers*, by exchange, one is not in the table.
    """
    for exchange, tier in tiers.items():
        schedule = fee_table().get(exchange)
        if schedule is None:
            known = ", ".join(sorted(fee_table()))
            raise ValueError(f"fee_tier.{exchange} must be of an exchange with tiers: {known}")
        if tier not in schedule.tiers:
            raise ValueError(f"fee_tier.{exchange} must be one of {', '.join(schedule.tiers)}, was {tier!r}")


def charged(instrument: Instrument, tier: str = "") -> Instrument:
    """
    Return *instrument* with the fees of *tier*, of the entry tier by default.

    Its own stand for those of the entry tier where it is as fresh as the table, and where the table
    does not have its exchange.
    """
    schedule = fee_table().get(instrument.exchange)
    if schedule is None:
        return instrument
    entry = schedule.entry
    is_fresh = instrument.fees_as_of >= schedule.as_of
    base = (instrument.maker_fee_ppm, instrument.taker_fee_ppm) if is_fresh else entry
    fees = schedule.tiers[tier] if tier else entry
    maker, taker = (_scaled(*each) for each in zip(fees, base, entry, strict=True))
    as_of = instrument.fees_as_of if is_fresh else schedule.as_of
    return msgspec.structs.replace(instrument, maker_fee_ppm=maker, taker_fee_ppm=taker, fees_as_of=as_of)


def _scaled(fee: int, base: int, entry: int) -> int:
    # Rounded up; a rebate is the same in every class of pairs.
    return fee if fee <= 0 or entry <= 0 else -(-fee * base // entry)
