"""What is watched of a live exchange's books at every beat: silence, and a crossing that stays."""

from collections.abc import Iterable

from tickerml.kernel import NS_PER_S, OrderBook

_CROSSED_NS = 5 * NS_PER_S  # a book that stays crossed for so long is not the exchange's


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

    def is_wrong(self, wire: str, book: OrderBook, now: int) -> bool:
        """Whether a book has stayed crossed for too long; once a crossing."""
        since = self._crossed.get(wire)
        if since is None or (book.is_crossed and now - since < _CROSSED_NS):
            return False
        del self._crossed[wire]
        return book.is_crossed
