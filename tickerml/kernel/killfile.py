"""
The kill file: a way to stop trading that needs no working command line, no console and no network.

Whoever can write a file named KILL into the home halts trading: `touch ~/.tickerml/KILL`. It may hold
a level, 1 to 3; empty, or with anything else in it, it means CANCEL. The kernel looks once a second
and when it starts, and renames what it has heeded to KILL.taken, so that it is heeded once. What
cannot be renamed is heeded once by each process.
"""

from pathlib import Path

from .enums import HaltLevel

NAME = "KILL"
TAKEN = "KILL.taken"


class KillFile:
    """Watches one home for a kill file."""

    def __init__(self, home: Path) -> None:
        self._path = home / NAME
        self._is_stuck = False

    def take(self) -> HaltLevel:
        """Return the level that a kill file asks for, which is then heeded; RUN where there is none."""
        if not self._path.exists():
            self._is_stuck = False
            return HaltLevel.RUN
        if self._is_stuck:
            return HaltLevel.RUN
        level = self._read()
        try:
            self._path.replace(self._path.with_name(TAKEN))
        except OSError:
            self._is_stuck = True
        return level

    def _read(self) -> HaltLevel:
        try:
            text = self._path.read_bytes()[:16].decode(errors="replace").strip()
        except OSError:
            text = ""
        return HaltLevel(int(text)) if text in ("1", "2", "3") else HaltLevel.CANCEL
