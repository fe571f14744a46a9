"""
How an outside reader follows the order: nothing lost, nothing twice, or only the newest. Sans-IO.

The bus drops what a slow reader cannot take, so that it never slows anybody; the journal
has everything. A Reader is told what the bus brings and takes from the journal what did
not come. What it may be told late it unsays: Rewound names the last seq that still
holds, and what follows that seq comes next. There are two reasons for it:

    a kernel died     the journal is a prefix of what happened, and the next kernel goes on
                      from its end. What was heard live beyond that end never was.
    a late discovery  to one who follows some topics of a kind and not the whole kind, a drop on a
                      quiet topic shows only when the kernel tells how far every topic is, once
                      a second; others may have been given by then.

A Reader remembers a checksum of what it gave until that is settled: known to be whole, and
to be on disk. When a kernel has died it compares the rest with the journal. A place to come
back to after a restart of the reader's own is a settled one, for that is never unsaid.

Newest is the other way to follow: of each topic the last message only, however many came.
This is done here and not by the socket, whose conflation keeps one message of everything.

client.py has the sockets to both.
"""

import enum
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from . import codec, control
from .errors import StoreError, SubscriptionLost
from .inbox import Inbox, Missing
from .units import NS_PER_S

HEAD_EVERY_NS = NS_PER_S  # the kernel tells how far it is at most this often
HEADS_KEPT = 1000  # told and not reached yet; one who is further behind is shown as so far behind
LOOKED_AT = 20  # frames read from the journal for each that a call may return
_HEAD = control.HEAD + b"\0"


class Journal(Protocol):
    """What is asked of a JournalReader."""

    def head(self) -> int:
        """Return the last committed seq."""

    def first(self) -> int:
        """Return the first seq that is still held."""

    def frames(self, after: int, until: int) -> Iterator[bytes]:
        """Yield the frames with after < seq <= until, in order."""


class Rewound(NamedTuple):
    """What was given beyond *to_seq* does not hold; what follows *to_seq* comes next."""

    to_seq: int


class Latest(NamedTuple):
    """The newest message of a topic; *skipped* came on it since the one given before, and were left out."""

    frame: codec.Frame
    skipped: int


class _Phase(enum.Enum):
    JOINING = "joining"  # waits to be told how far the order is
    FILLING = "filling"  # takes from the journal
    LIVE = "live"


class Reader:
    """A place in the order; gives every message of its topics once, in order, or says Rewound."""

    def __init__(
        self, prefixes: Iterable[bytes], journal: Callable[[], Journal], after: int | None = None
    ) -> None:
        """
        Args:
            prefixes: the topics.
            journal: returns the journal of the kernel that is followed now.
            after: begin with the message after this seq; None for what comes from now on.
        """
        self._prefixes = tuple(prefixes)
        self._journal = journal
        self._start = after
        self._phase = _Phase.JOINING
        self._inbox = Inbox(self._prefixes, position=after or 0)
        self._sure = control.Head(after or 0, {})  # nothing is missing up to here
        self._target = 0  # everything up to here comes from the journal
        self._makes_sure = False  # whether nothing is missing before what comes from the journal now
        self._filling: Iterator[bytes] | None = None
        self._held: deque[bytes] = deque()  # what came while the journal was read
        self._events: list[codec.Frame | Rewound] = []
        self._given: deque[tuple[int, int]] = deque()  # (seq, checksum); the first may be settled
        self._on_disk = after or 0
        self._heads: deque[tuple[int, int]] = deque(maxlen=HEADS_KEPT)  # (seq, when it was told)
        self._newest_head: control.Head | None = None
        self._is_reunion = False
        self.gaps = 0  # how often something had to be read from the journal that should have come

    @property
    def position(self) -> int:
        """Return the seq up to which everything was taken."""
        return self._inbox.position

    @property
    def settled(self) -> int:
        """Return the seq up to which everything was given and is on disk, to come back to with *after*."""
        is_whole = self._phase is _Phase.FILLING and self._makes_sure
        whole = self.position if is_whole else self._sure.seq
        waiting = (event.seq - 1 for event in self._events if isinstance(event, codec.Frame))
        return min(self._on_disk, whole, next(waiting, whole))

    @property
    def is_joined(self) -> bool:
        """Whether the place in the order is known: later messages will not be missed."""
        return self._phase is not _Phase.JOINING

    @property
    def wants_bus(self) -> bool:
        """Whether to be given what the bus brings; while the journal is read it may wait in the socket."""
        return self._phase is not _Phase.FILLING

    # --- What happens -------------------------------------------------------------------------

    def on_bus(self, run: bytes) -> None:
        """
        Take one ZeroMQ message: frames, or how far the order is.

        Raises: BusError: it is neither. SubscriptionLost.
        """
        if run.startswith(control.TELEMETRY) and not run.startswith(_HEAD):
            return  # who subscribes to everything gets it too
        if self._phase is _Phase.FILLING or not self._accept(run):
            self._held.append(run)

    def on_beat(self, head: control.Head, now: int) -> None:
        """Be told how far the order is, by a socket that nothing waits in; *now* in monotonic ns."""
        self._newest_head = head
        # Of several that were read together only the last was told just now.
        for at in range(len(self._heads) - 1, -1, -1):
            latest = now - (len(self._heads) - at) * HEAD_EVERY_NS
            if self._heads[at][1] <= latest:
                break
            self._heads[at] = (self._heads[at][0], latest)
        self._heads.append((head.seq, now))

    def settle(self, seq: int) -> None:
        """Be told that the journal of the kernel that is followed now holds everything up to *seq*."""
        self._on_disk = max(self._on_disk, seq)
        settled, given = self.settled, self._given
        while len(given) > 1 and given[1][0] <= settled:
            given.popleft()

    def reconnected(self) -> None:
        """Another kernel serves this order now: find out what of the old one's really happened."""
        self._is_reunion = self._is_reunion or self.is_joined
        self._leave()
        self._phase = _Phase.JOINING
        self._heads.clear()
        self._newest_head = None

    def ended(self) -> None:
        """
        The kernel is gone, and nothing of it waits in the socket: what happened is what the journal has.

        Raises: SubscriptionLost: the journal no longer has what was taken from it. StoreError.
        """
        if self.is_joined:
            self._leave()
            place = self._reunite()
            self._inbox = Inbox(self._prefixes, position=place, tseq=self._inbox.tseq)
            self._fill(max(place, self._journal().head()))

    def jump_to_head(self) -> None:
        """Leave out what was not taken yet, and go on with what comes now."""
        head, was_joined = self._newest_head, self.is_joined
        self._leave()
        self._phase, self._start, self._is_reunion = _Phase.JOINING, None, False
        self._events.clear()
        if head is not None and was_joined:  # else it is not proven that the subscription works
            self._join(head)

    def take(self, limit: int) -> list[codec.Frame | Rewound]:
        """
        Return what is next, about *limit* of it at most.

        Raises: SubscriptionLost: what is next is gone from the journal. StoreError: it cannot be read.
        """
        if self._phase is _Phase.FILLING:
            self._read(limit)
        events, self._events = self._events, []
        return events

    def lag_ns(self, now: int) -> int:
        """Return how long ago at least, in ns, the first message not taken yet was told of; 0 at the head."""
        heads, position = self._heads, self.position
        while heads and heads[0][0] <= position:
            heads.popleft()
        return now - heads[0][1] if heads else 0

    # --- From the bus -------------------------------------------------------------------------

    def _accept(self, run: bytes) -> bool:
        """Take *run*; False where something is missing before it, so that it must wait."""
        if run.startswith(_HEAD):
            return self._hear(control.unpack_head(run))
        if self._phase is _Phase.JOINING:
            return True
        frames = self._inbox.open(run)
        if isinstance(frames, Missing):
            self._go_back(frames.before - 1)
            return False
        receive = self._inbox.receive
        for raw in frames:
            answer = receive(raw)
            if isinstance(answer, Missing):
                self._go_back(answer.before - 1)
                return False
            if answer is not None:
                self._give(answer, raw)
        return True

    def _hear(self, head: control.Head) -> bool:
        if self._phase is _Phase.JOINING:
            self._join(head)
            return True
        try:
            missing = self._inbox.reconcile(head.seq, head.counts)
        except StoreError:
            self._rewind(head.seq)
            return False
        if missing:
            self._go_back(head.seq)
            return False
        if head.seq > self._sure.seq:
            self._sure = head
        return True

    def _give(self, frame: codec.Frame, raw: bytes) -> None:
        self._given.append((frame.seq, zlib.crc32(raw)))
        self._events.append(frame)

    def _join(self, head: control.Head) -> None:
        if self._is_reunion:
            start = self._reunite()
        elif self._start is not None:
            start = self._start
        else:
            start = head.seq
            self._on_disk = self._on_disk or min(start, self._journal().head())
        if start > head.seq:
            raise SubscriptionLost(
                f"asked to go on after seq {start}, but the order ends at {head.seq}: what was beyond never "
                "happened; begin again from a settled place"
            )
        self._sure = control.Head(start, head.counts)
        self._inbox = Inbox(self._prefixes, position=start, tseq=head.counts)
        self._phase = _Phase.LIVE
        if start < head.seq:
            self._fill(head.seq)

    def _leave(self) -> None:
        if self._phase is _Phase.FILLING and self._makes_sure:
            self._sure = control.Head(self.position, self._inbox.tseq)
        self._filling = None
        self._held.clear()

    # --- After a kernel's death ---------------------------------------------------------------

    def _reunite(self) -> int:
        """Unsay what the journal does not have; return the seq up to which everything holds and was given."""
        self._is_reunion = False
        place = self._find_place()
        if self._given and self._given[-1][0] > place:
            self._unsay(place)
        return place

    def _find_place(self) -> int:
        """Return the seq up to which what was given is what the journal has."""
        journal, place = self._journal(), self.settled
        last = self._given[-1][0] if self._given else place
        if self._given and journal.first() <= self._given[0][0] <= place:
            self._check_anchor(journal, *self._given[0])
        given = iter([each for each in self._given if each[0] > place])
        for raw in journal.frames(place, last):
            if raw.startswith(self._prefixes):
                if next(given, None) != (seq := codec.unpack(raw).seq, zlib.crc32(raw)):
                    break
                place = seq
        return place

    def _check_anchor(self, journal: Journal, seq: int, checksum: int) -> None:
        if [zlib.crc32(raw) for raw in journal.frames(seq - 1, seq)] != [checksum]:
            raise SubscriptionLost(
                f"the journal no longer holds seq {seq} as it was taken: it was repaired or replaced; "
                "begin again"
            )

    def _unsay(self, place: int) -> None:
        while self._given and self._given[-1][0] > place:
            self._given.pop()
        self._events.append(Rewound(place))

    # --- From the journal ---------------------------------------------------------------------

    def _go_back(self, target: int) -> None:
        """Take what was dropped up to *target*; where it lies before what was given, unsay that first."""
        self.gaps += 1
        if target > self.position:
            self._fill(target)
        else:
            self._rewind(target)

    def _rewind(self, target: int) -> None:
        sure, target = self._sure, max(target, self.position)
        self._unsay(sure.seq)
        self._inbox = Inbox(self._prefixes, position=sure.seq, tseq=sure.counts)
        self._fill(target)

    def _fill(self, target: int) -> None:
        self._target, self._filling, self._phase = target, None, _Phase.FILLING
        self._makes_sure = self.position <= self._sure.seq

    def _read(self, limit: int) -> None:
        """Take up to *limit* of our frames from the journal, as far as it is written."""
        journal = self._journal()
        looked_at = 0
        while self._phase is _Phase.FILLING and looked_at < limit * LOOKED_AT and len(self._events) < limit:
            looked_at += 1
            if self.position >= self._target:
                self._resume()
                continue
            if self._filling is None:
                self._filling = journal.frames(self.position, self._target)
            raw = next(self._filling, None)
            if raw is None:
                self._filling = None
                return
            self._refill(raw)

    def _refill(self, raw: bytes) -> None:
        try:
            frame = self._inbox.refill(raw)
        except SubscriptionLost:
            raise
        except StoreError:
            self._rewind(self._target)
            return
        if frame is not None:
            self._give(frame, raw)

    def _resume(self) -> None:
        self._phase, self._filling = _Phase.LIVE, None
        if self._makes_sure:
            self._sure = control.Head(self.position, dict(self._inbox.tseq))
        while self._held and self._phase is _Phase.LIVE:
            run = self._held.popleft()
            if not self._accept(run):
                self._held.appendleft(run)


class Newest:
    """Of each topic the newest message, and how many were left out before it."""

    def __init__(self, prefixes: Iterable[bytes], journal: Callable[[], Journal]) -> None:
        """
        Args:
            prefixes: the topics.
            journal: returns the journal of the kernel that is followed now.
        """
        self._prefixes = tuple(prefixes)
        self._journal = journal
        self.is_joined = False  # whether it is known how far every topic is
        self._known: dict[bytes, int] = {}  # tseq of the newest that came
        self._given: dict[bytes, int] = {}  # and of the newest that was given
        self._pending: dict[bytes, codec.Frame] = {}
        self._sure = 0  # up to here the newest of every topic is known
        self._told: control.Head | None = None  # up to here it is not

    def on_bus(self, run: bytes) -> None:
        """
        Take one ZeroMQ message: frames, or how far the order is.

        Raises: BusError: it is neither.
        """
        if run.startswith(_HEAD):
            self._hear(control.unpack_head(run))
        elif self.is_joined:
            self._keep(codec.unpack(codec.unpack_run(run)[-1]))

    def reconnected(self) -> None:
        """Another kernel serves this order now; what was given may not have happened."""
        self.is_joined, self._told = False, None
        self._pending.clear()

    def take(self) -> list[Latest]:
        """
        Return what is new, in order.

        Raises: StoreError: what the bus dropped cannot be read from the journal.
        """
        if self._told is not None:
            self._fill(self._told)
        latest = [
            Latest(frame, frame.tseq - self._given.get(topic, 0) - 1)
            for topic, frame in self._pending.items()
        ]
        self._given.update((frame.topic, frame.tseq) for frame, _ in latest)
        self._pending.clear()
        return sorted(latest, key=lambda item: item.frame.seq)

    def _keep(self, frame: codec.Frame) -> None:
        if frame.tseq > self._known.get(frame.topic, 0):
            self._known[frame.topic] = frame.tseq
            self._pending[frame.topic] = frame

    def _hear(self, head: control.Head) -> None:
        if not self.is_joined:
            self.is_joined, self._sure = True, head.seq
            self._known, self._given = dict(head.counts), dict(head.counts)
            return
        self._told = head if self._stale(head) else None
        if self._told is None:
            self._sure = head.seq

    def _stale(self, head: control.Head) -> set[bytes]:
        known, prefixes = self._known, self._prefixes
        return {t for t, count in head.counts.items() if count > known.get(t, 0) and t.startswith(prefixes)}

    def _fill(self, head: control.Head) -> None:
        """Read what the bus dropped last on a topic that has been quiet since, once it is committed."""
        journal = self._journal()
        if journal.head() < head.seq:
            return
        stale = self._stale(head)
        for raw in journal.frames(self._sure, head.seq) if stale else ():
            if raw[: raw.index(0)] in stale:
                self._keep(codec.unpack(raw))
        self._sure, self._told = head.seq, None
