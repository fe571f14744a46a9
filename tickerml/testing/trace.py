"""
What happened, one line an event, for a person who looks for the reason.

A run keeps no trace unless it is asked to: it is made when a seed has failed, with the fewest
faults that still break it.
"""

from tickerml.kernel.units import NS_PER_S


class Trace:
    """Lines with their virtual time; the last of them, when there are very many."""

    def __init__(self, *, is_on: bool, limit: int = 20_000) -> None:
        self.is_on = is_on
        self._limit = limit
        self._lines: list[str] = []
        self.dropped = 0

    def note(self, now: int, who: str, what: str) -> None:
        """Write down that *who* did *what*."""
        if not self.is_on:
            return
        self._lines.append(f"{now / NS_PER_S:12.6f}  {who:<10} {what}")
        if len(self._lines) > 2 * self._limit:
            self.dropped += self._limit
            del self._lines[: self._limit]

    def lines(self, last: int = 0) -> list[str]:
        """Return the lines, the *last* ones of them where that is not 0."""
        return self._lines[-last:] if last else self._lines
