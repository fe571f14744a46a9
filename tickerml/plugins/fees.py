"""
What trading costs by exchange and tier: data with a date and a source, in fees.toml.

An exchange's Instrument says what it charges whoever comes in; nobody's tier is in it. So the tier
comes from an option, and its fees from the table. The fresher of the two is believed about the
entry tier, and a pair that costs twice that costs twice as much in every tier. What the simulator
charges it says in an Instrument of its own, with the tier's name and the entry fees beside it, so
that everybody who counts with an Instrument counts with what is charged.

A tier "by-volume" is the one that an account's own trading has earned: what it traded on the exchange
in the 30 whole UTC days before the day its order was accepted, so it changes at UTC midnight. Volume is
counted in units of US dollars, and a dollar that a coin stands for at par; what is paid for in anything
else does not count. Only tiers that are named by a volume can be earned so.
"""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from tickerml.kernel import NS_PER_S, UNIT, Instrument, OrderFilled

BY_VOLUME = "by-volume"

_DAY_NS = 86_400 * NS_PER_S
_DAYS = 30
_DAYS_KEPT = 60  # an order that has rested for longer counts as if less had been traded before it
_DOLLARS = frozenset({"USD", "USDT", "USDC"})
_SCALE = {"": 1, "k": 1_000, "M": 1_000_000}
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

    @property
    def thresholds(self) -> list[tuple[int, str]]:
        """The tiers by the volume they begin at, in units of USD, the least first; [] where they are not."""
        named = [(re.fullmatch(r"(\d+)([kM]?)", name), name) for name in self.tiers]
        found = [(int(m[1]) * _SCALE[m[2]] * UNIT, name) for m, name in named if m]
        return sorted(found) if len(found) == len(self.tiers) > 1 else []


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
        names = [*schedule.tiers, *([BY_VOLUME] if schedule.thresholds else [])]
        if tier not in names:
            raise ValueError(f"fee_tier.{exchange} must be one of {', '.join(names)}, was {tier!r}")


def charged(instrument: Instrument, tier: str | None = None) -> Instrument:
    """
    Return *instrument* with the fees of *tier*; "" is the entry tier, None the one that it is of already.

    Its own stand for those of the entry tier where it is as fresh as the table, and where the table
    does not have its exchange.
    """
    schedule = fee_table().get(instrument.exchange)
    if schedule is None or (tier is None and instrument.fee_tier):
        return instrument
    own = instrument.maker_fee_ppm, instrument.taker_fee_ppm
    is_fresh = instrument.fees_as_of >= schedule.as_of
    base = schedule.entry if not is_fresh else instrument.entry_fees_ppm if instrument.fee_tier else own
    maker, taker = base
    if tier:
        by_tier = zip(schedule.tiers[tier], base, schedule.entry, strict=True)
        maker, taker = (_scaled(*each) for each in by_tier)
    return msgspec.structs.replace(
        instrument,
        maker_fee_ppm=maker,
        taker_fee_ppm=taker,
        fees_as_of=instrument.fees_as_of if is_fresh else schedule.as_of,
        fee_tier=tier or "",
        entry_fees_ppm=base if tier else (0, 0),
    )


class Volumes(msgspec.Struct, array_like=True):
    """What accounts have traded where tiers are earned: (exchange, account) -> UTC day -> units of USD."""

    days: dict[tuple[str, str], dict[int, int]] = {}
    changes_at: int = 0  # the midnight, ns, at which tiers are next to be looked at


class Tiers:
    """Which tier each account pays on each exchange, and what of it everybody is to count with."""

    def __init__(self, tiers: Mapping[str, str]) -> None:
        """
        Args:
            tiers: by exchange, as check_tiers() has passed them.
        """
        self._tiers = tiers
        self.volumes = Volumes()

    def is_earned(self, exchange: str) -> bool:
        """Whether the tier of *exchange* is earned by volume."""
        return self._tiers.get(exchange) == BY_VOLUME

    def announced(self, instrument: Instrument, at: int) -> Instrument:
        """
        Return *instrument* with the fees to count with at *at*, ns.

        Where accounts have earned different tiers these are the dearest: nobody pays more.
        """
        exchange = instrument.exchange
        if not self.is_earned(exchange):
            return charged(instrument, self._tiers.get(exchange, ""))
        names = [name for _, name in fee_table()[exchange].thresholds]
        accounts = [account for name, account in self.volumes.days if name == exchange]
        earned = [names.index(self._earned(exchange, account, at)) for account in accounts]
        return charged(instrument, names[min(earned, default=0)])

    def paid(self, instrument: Instrument, account: str, at: int) -> tuple[int, int]:
        """Return the (maker, taker) fees, in millionths, of an order that was accepted at *at*, ns."""
        told = charged(instrument, self._earned(instrument.exchange, account, at))
        return told.maker_fee_ppm, told.taker_fee_ppm

    def know(self, exchange: str, account: str) -> bool:
        """Count *account* among those that trade on *exchange*; return whether it is new there."""
        if (exchange, account) in self.volumes.days:
            return False
        self.volumes.days[exchange, account] = {}
        return True

    def take(self, fill: OrderFilled, instrument: Instrument) -> int:
        """
        Count what *fill* has traded, where that earns a tier.

        Return the midnight, ns, at which tiers are to be looked at again, 0 where it is planned already.
        """
        if not self.is_earned(fill.exchange):
            return 0
        days = self.volumes.days.setdefault((fill.exchange, fill.account), {})
        today = fill.ts_event // _DAY_NS
        if instrument.quote in _DOLLARS:
            days[today] = days.get(today, 0) + instrument.notional(fill.price, fill.quantity)
        for day in [day for day in days if day < today - _DAYS_KEPT]:
            del days[day]
        return self.look_again(fill.ts_recv)

    def look_again(self, now: int) -> int:
        """Return the midnight, ns, at which tiers may change next, 0 where it is planned already."""
        midnight = (now // _DAY_NS + 1) * _DAY_NS
        if midnight <= self.volumes.changes_at:
            return 0
        self.volumes.changes_at = midnight
        return midnight

    def _earned(self, exchange: str, account: str, at: int) -> str:
        today, days = at // _DAY_NS, self.volumes.days.get((exchange, account), {})
        volume = sum(units for day, units in days.items() if today - _DAYS <= day < today)
        return [name for least, name in fee_table()[exchange].thresholds if least <= volume][-1]


def _scaled(fee: int, base: int, entry: int) -> int:
    # Rounded up; a rebate is the same in every class of pairs.
    return fee if fee <= 0 or entry <= 0 else -(-fee * base // entry)
