"""
Audits: whether a book is what the exchange's REST interface says it is.

A reply is the book of some moment between the question and now, so our book of that very
moment is not at hand. Theirs is brought to ours instead: the changes heard since the
question was asked that are newer than the reply are made to it as well.

    asked      reply's seq            now
    |--- deltas ---|--- deltas -------|
                   theirs + these  =  ours?
"""

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import NamedTuple

from tickerml.kernel import (
    NS_PER_S,
    BookDelta,
    BookSnapshot,
    BookState,
    ChecksumFailed,
    Message,
    OrderBook,
    SequenceGap,
)

_DEPTH = 20  # levels of each side that are compared


class Audit:
    """One comparison of our book of a symbol with a REST reply; it does no I/O."""

    def __init__(self, book: OrderBook) -> None:
        """
        Args:
            book: ours, live, in step when the question is asked.
        """
        self._book = book
        self._asked_seq = book.seq
        self._deltas: list[BookDelta] = []
        self._theirs: BookSnapshot | None = None
        self.is_void = False  # nothing can be said: our book did not stay in step, or the reply is too old

    def hear(self, message: Message) -> None:
        """Take what our feed said."""
        match message:
            case BookDelta() if message.symbol == self._book.symbol:
                self._deltas.append(message)
            case BookSnapshot() | SequenceGap() | ChecksumFailed() if message.symbol == self._book.symbol:
                self.is_void = True

    def take(self, snapshot: BookSnapshot) -> None:
        """Take the reply."""
        self._theirs = snapshot
        self.is_void = self.is_void or snapshot.seq < self._asked_seq

    def verdict(self) -> bool | None:
        """Return whether the two agree; None while the reply, or our book's way to it, is wanting."""
        ours, theirs = self._book, self._theirs
        if self.is_void or theirs is None or ours.seq < theirs.seq or ours.state is BookState.RESYNCING:
            return None
        book = OrderBook(ours.exchange, ours.symbol)
        book.apply_snapshot(theirs)
        for delta in self._deltas:
            if delta.seq > theirs.seq:
                book.apply_delta(delta)
        return (book.bids.top(_DEPTH), book.asks.top(_DEPTH)) == (
            ours.bids.top(_DEPTH),
            ours.asks.top(_DEPTH),
        )


class Finding(NamedTuple):
    """What an audit of *wire* found: how many times in a row it has differed now; 0 is agreement."""

    wire: str
    times: int


class Audits:
    """The audits of an exchange's books: one at a time, each book in its turn; it does no I/O."""

    def __init__(self, wires: Iterable[str], every_s: float, now: int) -> None:
        """
        Args:
            every_s: between two audits of one book, s; 0 for none at all.
            now: ns UTC.
        """
        self._failed = dict.fromkeys(wires, 0)
        self._turns = cycle(self._failed)
        self._every_ns = every_s * NS_PER_S / max(1, len(self._failed))
        self._last = now
        self._wire = ""
        self._audit: Audit | None = None

    @property
    def is_open(self) -> bool:
        """Whether an audit is going on."""
        return self._audit is not None

    def turn(self, now: int) -> str:
        """Return the book whose turn it is; "" while none is due, or one is going on."""
        if not self._every_ns or self._audit or now - self._last < self._every_ns:
            return ""
        self._last = now
        return next(self._turns)

    def begin(self, wire: str, book: OrderBook) -> None:
        """REST is asked for the book of *wire*; ours is *book*, live and in step."""
        self._wire, self._audit = wire, Audit(book)

    def take(self, snapshot: BookSnapshot | None) -> None:
        """Take the reply; None when there is none to compare with."""
        if snapshot is None:
            self._audit = None
        elif self._audit:
            self._audit.take(snapshot)

    def end(self) -> None:
        """The connection is gone, and what was under way with it."""
        self._audit = None

    def find(self, messages: Sequence[Message]) -> Finding | None:
        """Take what our feed said; return what has been found, once it can be told."""
        audit = self._audit
        if audit is None:
            return None
        for message in messages:
            audit.hear(message)
        is_equal = audit.verdict()
        if audit.is_void or is_equal is not None:
            self._audit = None
        if is_equal is None:
            return None
        self._failed[self._wire] = 0 if is_equal else self._failed[self._wire] + 1
        return Finding(self._wire, self._failed[self._wire])
