"""
Equity over time: what an account was worth at the start of the day, of the week, and an hour ago.

It is written down once a minute, from snapshots in which everything had a price; the days are
those of UTC and weeks begin on Mondays.
"""

import msgspec

from tickerml.kernel import NS_PER_S, PortfolioSnapshot

MINUTE_NS = 60 * NS_PER_S
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
MONDAY_NS = 4 * DAY_NS  # 1970-01-05
WEEK_NS = 7 * DAY_NS


class Track(msgspec.Struct, array_like=True):
    """One account's equity, in units of its currency."""

    equity: int = 0
    is_marked: bool = False
    day: int = -1
    day_start: int = 0
    week: int = -1
    week_start: int = 0
    peak: int = 0
    minutes: list[tuple[int, int]] = []  # (ns UTC, equity), the last hour and the one before it began

    def take(self, snapshot: PortfolioSnapshot) -> None:
        """Add a *snapshot* of the account."""
        # A NaN drawdown is nobody's mark: it compares unequal to itself.
        self.is_marked = snapshot.is_marked and snapshot.drawdown == snapshot.drawdown
        if not self.is_marked:
            return
        now, equity = snapshot.ts_recv, snapshot.equity
        day, week = now // DAY_NS, (now - MONDAY_NS) // WEEK_NS
        if day != self.day:
            self.day, self.day_start = day, equity
        if week != self.week:
            self.week, self.week_start = week, equity
        self.equity, self.peak = equity, max(self.peak, equity)
        if not self.minutes or now // MINUTE_NS > self.minutes[-1][0] // MINUTE_NS:
            self.minutes = [*self.minutes, (now, equity)]
        while len(self.minutes) > 1 and self.minutes[1][0] <= now - HOUR_NS:
            self.minutes = self.minutes[1:]

    @property
    def hour_start(self) -> int:
        """The equity an hour ago, or the first that is known within the hour."""
        return self.minutes[0][1] if self.minutes else self.equity

    def begin_anew(self) -> None:
        """Forget the past: a day, a week, an hour and a peak start from the equity of now."""
        self.day_start = self.week_start = self.peak = self.equity
        self.minutes = self.minutes[-1:] and [(self.minutes[-1][0], self.equity)]


def fallen(start: int, equity: int, parts: int, whole: int) -> bool:
    """Whether *equity* is *parts* / *whole* or more below *start*; never where there is no start."""
    return start > 0 and (start - equity) * whole >= parts * start


def fall(start: int, equity: int) -> float:
    """Return how far *equity* is below *start*, a fraction, negative where it is above."""
    return 1 - equity / start if start > 0 else 0.0
