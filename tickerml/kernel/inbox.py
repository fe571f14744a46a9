"""
The receiving end of the bus: every message once, in order, or a gap that is named. Sans-IO.

ZeroMQ drops what a slow subscriber cannot take. The inbox sees that in the
per-topic numbers, says which range of seq it is missing, and expects to be given
that range from the journal; so nothing is lost and nothing comes twice.

A drop on a topic that has gone quiet shows in nothing else that arrives on it. To one who
takes whole kinds every run tells how many frames of each kind there were, and open()
compares. For anybody else the kernel tells once a second how far every topic is, and
reconcile() compares.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from . import codec, topics
from .errors import StoreError, SubscriptionLost
from .records import frame_seq

_KINDS = [topics.topic(kind) for kind in topics.KINDS]
_KIND_NUMBER = {kind: number for number, kind in enumerate(_KINDS)}
_WRAPPED = 2**32 - 1  # the counts in a run are modulo 2**32


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
        self.prefixes = tuple(prefixes)  # the subscriptions
        self._own = frozenset(own)
        self._kinds = [number for number, kind in enumerate(_KINDS) if kind.startswith(self.prefixes)]
        self._counts = [0] * len(_KINDS)
        for topic, count in self.tseq.items():
            self._counts[_kind_of(topic)] += count
        self._due_seq = 0  # at this seq refill() must have given
        self._due: dict[bytes, int] = {}  # these counts
        self.gaps = 0

    def own(self, origins: Collection[int]) -> None:
        """From now on the messages of these origins are our own."""
        self._own = frozenset(origins)

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

    def open(self, run: bytes) -> list[bytes] | Missing:
        """
        Look at a run before anything in it is taken, for one who subscribes to whole kinds.

        The frames of one topic follow each other even where those of another were dropped, and who
        takes them has acted without knowing what he lacks. A run tells how many frames of every
        kind there were, so a drop is noticed at the next run on any topic, before it is taken.

        Returns: its frames, to be received one by one; Missing when others were dropped before it.
        Raises: CodecError.
        """
        frames = codec.unpack_run(run)
        if frame_seq(frames[0]) <= self.position:
            frames = [frame for frame in frames if frame_seq(frame) > self.position]
        if not frames:
            return []
        told, counts = codec.unpack_kind_counts(run), self._counts
        own = _kind_of(run)
        for kind in self._kinds:
            if (counts[kind] + (len(frames) if kind == own else 0) - told[kind]) & _WRAPPED:
                self.gaps += 1
                return Missing(self.position, frame_seq(frames[0]))
        return frames

    def reconcile(self, seq: int, counts: Mapping[bytes, int]) -> Missing | None:
        """
        Compare with what the kernel had published when it told of *seq*; for one who has caught up.

        What is told must have come by the socket the frames come by, behind them: what it
        counts and has not arrived was dropped.

        Args:
            counts: the last tseq of every topic at *seq*.
        Returns: None where nothing is missing, and then *seq* is the position; or what is.
        Raises: StoreError: what is missing lies before what has been taken already.
        """
        known, prefixes = self.tseq, self.prefixes
        due = {
            topic: count
            for topic, count in counts.items()
            if count > known.get(topic, 0) and topic.startswith(prefixes)
        }
        if not due:
            self.position = max(self.position, seq)
            return None
        self.gaps += 1
        self._due_seq, self._due = seq, due
        self._check_due()
        return Missing(self.position, seq + 1)

    def refill(self, raw: bytes) -> codec.Frame | None:
        """
        Take one frame from the journal, where all topics are and none is missing.

        Raises: SubscriptionLost: what would have come next has been pruned. StoreError: something was
        lost so long ago that its place in the order is past.
        """
        seq = frame_seq(raw)
        if seq <= self.position:
            return None
        if seq != self.position + 1:
            raise SubscriptionLost(
                f"the journal goes on with seq {seq} after {self.position}: part of it was pruned; "
                "jump to the head, or begin again from a checkpoint"
            )
        taken = None
        if not raw.startswith(self.prefixes):
            self.position = seq
        else:
            frame = codec.unpack(raw)
            if frame.tseq > self.tseq.get(frame.topic, 0) + 1:
                raise _too_late(frame.topic, seq)
            taken = self._take(frame)
        if self._due:
            self._check_due()
        return taken

    def _check_due(self) -> None:
        if self.position < self._due_seq:
            return
        due, self._due = self._due, {}
        for topic, count in due.items():
            if count > self.tseq.get(topic, 0):
                raise _too_late(topic, self._due_seq + 1)

    def _take(self, frame: codec.Frame) -> codec.Frame | None:
        self.position = frame.seq
        # From the journal come frames from before the head whose counts we were told.
        if (ahead := frame.tseq - self.tseq.get(frame.topic, 0)) > 0:
            self.tseq[frame.topic] = frame.tseq
            self._counts[_kind_of(frame.topic)] += ahead
        return None if frame.origin in self._own else frame


def _kind_of(topic: bytes) -> int:
    return _KIND_NUMBER[topic[: topic.index(b".") + 1]]


def _too_late(topic: bytes, seq: int) -> StoreError:
    return StoreError(
        f"a message on {topic.decode()} was lost before seq {seq}, and others taken; "
        "begin again from the checkpoint"
    )
