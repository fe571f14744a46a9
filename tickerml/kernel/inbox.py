"""
The receiving end of the bus: every message once, in order, or a gap that is named. Sans-IO.

ZeroMQ drops what a slow subscriber cannot take. The inbox sees that in the
per-topic numbers, says which range of seq it is missing, and expects to be given
that range from the journal; so nothing is lost and nothing comes twice.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from . import codec
from .errors import StoreError


class Missing(NamedTuple):
    """Frames with after < seq < before were dropped on the way; read them from the journal."""

    after: int
    before: int


class Inbox:
    """One subscriber's place in the order."""

    def __init__(
        self,
        prefixes: Iterable[bytes],
        own: Collection[int] = (),
        position: int = 0,
        tseq: dict[bytes, int] | None = None,
    ) -> None:
        """
        Args:
            prefixes: the subscriptions.
            own: origins of this process, whose messages it has already handled itself.
            position: seq of the last message taken.
            tseq: per topic, the count at a head that refill() will reach; 0 for topics not in it.
        """
        self.position = position
        self.tseq: dict[bytes, int] = dict(tseq or {})
        self._prefixes = tuple(prefixes)
        self._own = frozenset(own)
        self.gaps = 0

    def receive(self, raw: bytes) -> codec.Frame | Missing | None:
        """
        Take one frame from the socket.

        Returns: the frame; None for one that was taken before, or is our own; Missing when
        others were dropped before it, and then this frame has not been taken either.
        Raises: CodecError.
        """
        frame = codec.unpack(raw)
        if frame.seq <= self.position:
            return None
        if frame.tseq != self.tseq.get(frame.topic, 0) + 1:
            self.gaps += 1
            return Missing(self.position, frame.seq)
        return self._take(frame)

    def refill(self, raw: bytes) -> codec.Frame | None:
        """
        Take one frame from the journal, where all topics are and none is missing.

        Raises: StoreError: what would have come next has been pruned, or something on this topic was
        lost so long ago that its place in the order is past. CodecError.
        """
        frame = codec.unpack(raw)
        if frame.seq <= self.position:
            return None
        if frame.seq != self.position + 1:
            raise StoreError(
                f"the journal goes on with seq {frame.seq} after {self.position}: part of it was pruned"
            )
        if not frame.topic.startswith(self._prefixes):
            self.position = frame.seq
            return None
        if frame.tseq > self.tseq.get(frame.topic, 0) + 1:
            raise StoreError(
                f"a message on {frame.topic.decode()} was lost before seq {frame.seq}, and others taken; "
                "begin again from the checkpoint"
            )
        return self._take(frame)

    def _take(self, frame: codec.Frame) -> codec.Frame | None:
        self.position = frame.seq
        # From the journal come frames from before the head whose counts we were told.
        self.tseq[frame.topic] = max(frame.tseq, self.tseq.get(frame.topic, 0))
        return None if frame.origin in self._own else frame
