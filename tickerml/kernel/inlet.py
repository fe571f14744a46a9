"""
The kernel's end of the hosts' data pipes: whether anything was lost on the way in. Sans-IO.

Each incarnation of a host is a link of its own, and counts its bursts. A repeated
burst is dropped. One that does not follow means that outputs were lost for good in
this incarnation: the host must be ended, and says them again from its checkpoint.

Bursts of an earlier incarnation, or of the other process of its host, may still
arrive when its successor has been admitted. Their frames go on, for the sequencer to
refuse by their epoch; their notes do not, or a checkpoint could claim outputs that
were refused.
"""

from typing import NamedTuple

from . import codec
from .berths import host_of


class Taken(NamedTuple):
    """What one burst brought."""

    process: str
    frames: list[bytes]
    notes: list[bytes]
    lost: str = ""  # why the host cannot go on; "" while nothing is missing


class _Link:
    def __init__(self, process: str) -> None:
        self.process = process
        self.number = 0


class Inlet:
    """Counts bursts, link by link."""

    KEPT = 1000  # links remembered; a burst of an older one has been under way too long to exist

    def __init__(self) -> None:
        self.repeated = 0
        self._links: dict[int, _Link] = {}
        self._current: dict[str, int] = {}  # by host
        self._last = 0

    def open(self, process: str) -> int:
        """Return the link of *process*, a new incarnation of its host; the one before it is past."""
        self._last += 1
        self._links[self._last] = _Link(process)
        self._current[host_of(process)] = self._last
        self._links.pop(self._last - self.KEPT, None)
        return self._last

    def take(self, burst: bytes) -> Taken | None:
        """
        Return what *burst* brings; None for a repeat, and for one whose link is not known.

        Raises: CodecError.
        """
        number_of_link, number, frames = codec.unpack_burst(burst)
        link = self._links.get(number_of_link)
        if link is None or number <= link.number:
            self.repeated += 1
            return None
        is_current = self._current[host_of(link.process)] == number_of_link
        if number != link.number + 1:
            lost = f"its burst {number} came after {link.number}: what was between them is lost"
            return Taken(link.process, [], [], lost if is_current else "")
        link.number = number
        outputs = [frame for frame in frames if not frame.startswith(b"\0")]
        if len(outputs) == len(frames):
            return Taken(link.process, frames, [])
        notes = [frame for frame in frames if frame.startswith(b"\0")]
        return Taken(link.process, outputs, notes if is_current else [])
