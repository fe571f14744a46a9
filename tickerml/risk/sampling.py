"""
Sampling: rules that look at the market by the clock, and what they see.

The clock is that of the events, so a replay looks at the same instants. A book is known from its
first snapshot on, and books are looked at in the order of their names.
"""

import math
from typing import ClassVar, Generic, TypeVar

import msgspec

from tickerml.kernel import NS_PER_S, BookSnapshot, Context, Options, Timer

from .rule import Rule

MINUTE_NS = 60 * NS_PER_S


class Watching(msgspec.Struct, array_like=True):
    """Which books there are, and whether their sampling has begun: a part of its owner's state."""

    books: dict[tuple[str, str], None] = {}  # (exchange, symbol), sorted
    is_timing: bool = False

    def learn(self, ctx: Context, book: BookSnapshot, every_ns: int) -> None:
        """Take in that there is *book*; the first one starts the clock."""
        # Not at the Instrument: a recorded one may be far older than the market that follows it.
        key = (book.exchange, book.symbol)
        if key not in self.books:
            self.books = dict.fromkeys(sorted([*self.books, key]))
        if not self.is_timing:
            self.is_timing = True
            self.arm(ctx, ctx.clock.now(), every_ns)

    def arm(self, ctx: Context, after: int, every_ns: int) -> None:
        """Have on_timer called at the next multiple of *every_ns*."""
        ctx.set_timer((after // every_ns + 1) * every_ns, "sample")


class WatchState(msgspec.Struct, array_like=True):
    """The first field of the state of whoever samples."""

    watch: Watching = msgspec.field(default_factory=Watching)


O = TypeVar("O", bound=Options)  # noqa: E741 - a rule's options
W = TypeVar("W", bound=WatchState)


class Watch(Rule[O, W], Generic[O, W]):
    """A rule that is given sample(ts) every EVERY_NS once there is a market."""

    EVERY_NS: ClassVar[int] = NS_PER_S

    def on_book_snapshot(self, book: BookSnapshot) -> None:
        self._state.watch.learn(self._ctx, book, self.EVERY_NS)

    def on_timer(self, timer: Timer) -> None:
        self._state.watch.arm(self._ctx, timer.ts, self.EVERY_NS)
        self.sample(timer.ts)

    def sample(self, ts: int) -> None:
        """Look at the market at *ts*, ns UTC, a multiple of EVERY_NS."""
        raise NotImplementedError


class Mids(msgspec.Struct, array_like=True):
    """The mids of the last sample."""

    last: dict[tuple[str, str], int] = {}  # twice the mid in ticks, of books that could be trusted
    ts: int = 0  # of the sample, ns UTC

    def returns(self, ctx: Context, books: dict[tuple[str, str], None], ts: int) -> dict[str, float]:
        """
        Return the log return of each base asset since the last sample, and take the next at *ts*.

        It is that of the first book of the asset that could be trusted both times and said something
        in between: one that stands still would make a market look calm.
        """
        found: dict[str, float] = {}
        mids: dict[tuple[str, str], int] = {}
        for key in books:
            book = ctx.book(*key)
            if not book.is_trusted:
                continue
            mids[key] = book.mid2
            base = key[1].partition("/")[0]
            is_alive = book.ts_recv >= self.ts
            if is_alive and base not in found and (before := self.last.get(key)):
                found[base] = math.log(book.mid2 / before)
        self.last, self.ts = mids, ts
        return found
