"""What is watched of a live exchange at every beat: silence, crossings that stay, channels that die alone."""

from collections.abc import Iterable
from typing import NamedTuple

from tickerml.kernel import NS_PER_S, OrderBook

_CROSSED_NS = 5 * NS_PER_S  # a book that stays crossed for so long is not the exchange's
_TIMES_LONGER = 5  # than a channel's longest pause of late is no pause any more
_KNOWN = 10  # pauses, of which a rhythm is known
_PAUSE = 60  # parts of the shortest silence that counts as a loss: what is less is one burst
_FORGET = 6  # binary digits: a longest pause that is not met again is a 64th shorter with each


class Watch:
    """When each book last spoke, and since when it is crossed; times are ns UTC, books go by their wire."""

    def __init__(self, wires: Iterable[str], stale_s: float, now: int) -> None:
        """
        Args:
            stale_s: seconds of silence after which a book is stale.
        """
        self._stale_ns = stale_s * NS_PER_S
        self._spoke_at = dict.fromkeys(wires, now)
        self._stale: set[str] = set()
        self._crossed: dict[str, int] = {}  # since when

    def speak(self, wire: str, ts: int) -> None:
        """A book has spoken at *ts*."""
        self._spoke_at[wire] = ts
        self._stale.discard(wire)

    def cross(self, wire: str, ts: int) -> None:
        """A book has become crossed at *ts*."""
        self._crossed.setdefault(wire, ts)

    def lose(self) -> None:
        """The connection is gone: what was said of the books no longer holds."""
        self._stale.clear()
        self._crossed.clear()

    def silence(self, wire: str, now: int) -> int:
        """Return for how long a book is silent, in ns, once it is too long and once a silence; else 0."""
        silent_ns = now - self._spoke_at[wire]
        if silent_ns < self._stale_ns or wire in self._stale:
            return 0
        self._stale.add(wire)
        return silent_ns

    def is_heard(self, wire: str, now: int) -> bool:
        """Whether a book has spoken of late."""
        return now - self._spoke_at[wire] < self._stale_ns

    def is_wrong(self, wire: str, book: OrderBook, now: int) -> bool:
        """Whether a book has stayed crossed for too long; once a crossing."""
        since = self._crossed.get(wire)
        if since is None or (book.is_crossed and now - since < _CROSSED_NS):
            return False
        del self._crossed[wire]
        return book.is_crossed


class _Rhythm:
    __slots__ = ("longest", "lost_since", "pauses", "spoke_at")

    def __init__(self, now: int) -> None:
        self.spoke_at = now
        self.pauses = self.longest = 0
        self.lost_since = 0  # when it last spoke before it was lost; 0 while it is not


class Missed(NamedTuple):
    """A channel that is lost: of which book, its name, for how long it is silent and ever was, ns."""

    wire: str
    channel: str
    silent_ns: int
    longest_ns: int


class Channels:
    """
    Which channels beside the books (trades, quotes) have gone silent alone, each by its own rhythm.

    How far prints lie apart is up to the market and the hour, so a channel is missed when it is
    silent for five times its longest pause of late, and no sooner than after_s. A loss is a pause
    too once it is over: a market that has only become quieter is not missed over and over.
    """

    def __init__(self, after_s: float, lost: Iterable[tuple[str, str, int]] = ()) -> None:
        """
        Args:
            after_s: seconds of silence that are never a loss; 0 for no loss at all.
            lost: what lost() of one before this said: these still have to come back.
        """
        self._after_ns = int(after_s * NS_PER_S)
        self._rhythms: dict[tuple[str, str], _Rhythm] = {}
        for wire, channel, since in lost:
            rhythm = self._rhythms[wire, channel] = _Rhythm(since)
            rhythm.lost_since = since

    def lost(self) -> list[tuple[str, str, int]]:
        """Return the channels that are lost: of which book, their name, and when they last spoke, ns UTC."""
        return [(*key, rhythm.lost_since) for key, rhythm in self._rhythms.items() if rhythm.lost_since]

    def speak(self, wire: str, channel: str, ts: int) -> int:
        """Take in that a channel speaks at *ts*; return for how long it was lost, in ns, 0 if it was not."""
        if (rhythm := self._rhythms.get((wire, channel))) is None:
            self._rhythms[wire, channel] = _Rhythm(ts)
            return 0
        pause, was_lost = ts - (rhythm.lost_since or rhythm.spoke_at), rhythm.lost_since > 0
        rhythm.spoke_at, rhythm.lost_since = ts, 0
        if pause * _PAUSE >= self._after_ns:
            rhythm.pauses += 1
            rhythm.longest = max(pause, rhythm.longest - (rhythm.longest >> _FORGET))
        return pause if was_lost else 0

    def begin(self, now: int) -> None:
        """A connection is up: nobody was silent before."""
        for rhythm in self._rhythms.values():
            rhythm.spoke_at = now

    def missed(self, books: Watch, now: int) -> list[Missed]:
        """Return the channels that are lost while their book goes on, each once a loss."""
        found = []
        for (wire, channel), rhythm in self._rhythms.items():
            silent_ns = now - rhythm.spoke_at
            if not self._after_ns or rhythm.lost_since or rhythm.pauses < _KNOWN:
                continue
            if silent_ns >= max(self._after_ns, _TIMES_LONGER * rhythm.longest) and books.is_heard(wire, now):
                rhythm.lost_since = rhythm.spoke_at
                found.append(Missed(wire, channel, silent_ns, rhythm.longest))
        return found
