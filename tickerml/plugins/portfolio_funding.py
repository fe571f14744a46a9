"""
When perpetuals pay, and what: the settlements that FundingUpdated announces.

A settlement at T pays by the rate that was announced for it, the last one heard before T, and by the
mark at T: the last one before, or the first after it where the feed was silent. Both come from the
exchange. Where one is missing the settlement stays pending until it is told (a history gives rates
after the fact), and nothing is ever guessed. Intervals are whatever the contract says: only next_ts
counts, which may move as long as it lies ahead.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from tickerml.kernel import NS_PER_S, FundingUpdated

SAME_NS = 60 * NS_PER_S  # two announced times so close are one settlement, told with a rounding of its own


class Due(msgspec.Struct, array_like=True):
    """What is known of one settlement: rate in 1e-12 of the notional, mark in ticks as of mark_ts."""

    rate: int | None = None
    mark: int = 0
    mark_ts: int = 0
    is_told: bool = False  # that something is missing


class Schedule(msgspec.Struct, array_like=True):
    """One symbol: its settlements to come or pending by time, and what it says now."""

    due: dict[int, Due] = {}
    last_ts: int = 0  # the latest that is settled
    rate: int = 0
    mark: int = 0
    next_ts: int = 0
    interval_s: int = 0


class Accrual(NamedTuple):
    """How far into its interval a symbol is, and what the whole of it would pay by now."""

    mark: int
    rate: int
    elapsed_ns: int
    interval_ns: int


class FundingSchedule:
    """Keeps the settlements of all symbols; times are ns UTC."""

    def __init__(self, mark_age_ns: int) -> None:
        """
        Args:
            mark_age_ns: how far from a settlement its mark may be.
        """
        self._mark_age_ns = mark_age_ns
        self.state: dict[tuple[str, str], Schedule] = {}

    def update(self, update: FundingUpdated) -> int | None:
        """Take what *update* says; returns the time of a settlement that was not known of."""
        known = self.state.setdefault((update.exchange, update.symbol), Schedule())
        ts = update.ts_event or update.ts_recv
        if not update.next_ts and not update.interval_s:  # a row of a history: what was paid at ts
            if (paid := _near(known.due, ts)) is not None:
                known.due[paid].rate = update.rate
            return None
        known.rate, known.next_ts, known.interval_s = update.rate, update.next_ts, update.interval_s
        known.mark = update.mark or known.mark
        added = self._plan(known, ts)
        for at, due in known.due.items():
            if update.mark and (ts <= at or (not self._has_mark(at, due) and ts - at <= self._mark_age_ns)):
                due.mark, due.mark_ts = update.mark, ts
            if ts <= at and update.rate and _is_same(at, update.next_ts):
                due.rate = update.rate
        return added

    def reached(self, until: int) -> Iterator[tuple[tuple[str, str], int, Due]]:
        """Yield (symbol, time, what is known) of the settlements up to *until*, also of those pending."""
        for key, known in sorted(self.state.items()):
            for at, due in sorted(known.due.items()):
                if at <= until:
                    yield key, at, due

    def is_whole(self, at: int, due: Due) -> bool:
        """Whether all is known that the settlement at *at* needs."""
        return due.rate is not None and self._has_mark(at, due)

    def done(self, key: tuple[str, str], at: int) -> int:
        """Forget the settlement at *at*; returns the time of the oldest that is left, or its own."""
        known = self.state[key]
        del known.due[at]
        known.last_ts = max(known.last_ts, at)
        return min(known.due, default=at)

    def is_planned(self, key: tuple[str, str]) -> bool:
        """Whether a settlement of *key* is to come or pending."""
        return key in self.state and bool(self.state[key].due)

    def accrual(self, key: tuple[str, str], now: int) -> Accrual | None:
        """Return how far the interval of *key* has come; None while its terms are not known."""
        known = self.state.get(key)
        if known is None or not (known.mark and known.next_ts and known.interval_s):
            return None
        interval_ns = known.interval_s * NS_PER_S
        elapsed = min(max(now - known.next_ts + interval_ns, 0), interval_ns)
        return Accrual(known.mark, known.rate, elapsed, interval_ns)

    def _plan(self, known: Schedule, ts: int) -> int | None:
        # Only one settlement lies ahead: where its time has moved it goes with it.
        at = known.next_ts
        if at <= ts or _is_same(at, known.last_ts) or _near(known.due, at) is not None:
            return None
        ahead = next((known_at for known_at in known.due if known_at > ts), None)
        known.due[at] = Due() if ahead is None else known.due.pop(ahead)
        return at

    def _has_mark(self, at: int, due: Due) -> bool:
        return due.mark > 0 and abs(at - due.mark_ts) <= self._mark_age_ns


def _is_same(one: int, other: int) -> bool:
    return abs(one - other) < SAME_NS


def _near(due: dict[int, Due], ts: int) -> int | None:
    return next((at for at in due if _is_same(at, ts)), None)
