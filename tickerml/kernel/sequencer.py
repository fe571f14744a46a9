"""
The sequencer: gives every message its place in the one order. Sans-IO.

It is told of frames and answers with stamped frames; sockets and disk are the
app's. Its rules: an origin publishes only what it was admitted to publish, only at
its current epoch, and each output (origin, cause, n) once. What breaks a rule is
counted and named, never published.

The whole state can be written down (the kernel's checkpoint), read back, and rolled
forward over the frames that were journaled after it.
"""

import struct
from collections.abc import Iterable
from typing import Any

import msgspec

from . import codec, topics
from . import messages as m
from .errors import CodecError
from .summary import WANTED, Summary

KERNEL = "kernel"

#: Consecutive stamped frames of one topic: the topic with its closing 0x00, the packed counts of all
#: kinds after it, and what follows the topic in each frame.
Run = tuple[bytes, bytes, list[bytes]]

_NAME = codec.NAME
_STILL = -1  # the end of an absence that has none yet
_COUNTS = struct.Struct("<IQ")  # its last two fields: n, cause
_KEEP = frozenset(topics.topic(kind) for kind in topics.KEPT_KINDS)
_SUMMARIZE = frozenset(topics.topic(kind) for kind in WANTED)


class SequencerState(msgspec.Struct, array_like=True):
    """What the sequencer remembers."""

    session: int = 0
    seq: int = 0
    tseq: dict[bytes, int] = {}
    origins: list[str] = []
    epochs: dict[int, int] = {}
    outputs: dict[int, tuple[int, int]] = {}  # origin -> (cause, n) of its last output
    summary: bytes = b""
    books: dict[str, dict[str, list[str]]] = {}  # component -> exchange -> symbols, as it said of its feeds
    away: dict[str, tuple[int, int]] = {}  # host -> (left, back), as absence() says


class _Origin:
    """One component's place: its epoch, what it may say, and what it said last."""

    __slots__ = ("allowed", "cause", "epoch", "n", "number", "published")

    def __init__(self, number: int, epoch: int, last: tuple[int, int]) -> None:
        self.number = number
        self.epoch = epoch
        self.cause, self.n = last
        self.published = 0
        self.allowed: dict[bytes, bytes] = {}  # tag of a message type -> the first segment of its topic


_KIND_NUMBER = {topics.topic(kind): number for number, kind in enumerate(topics.KINDS)}
_WRAP = 2**32


class _Topic:
    __slots__ = ("count", "kind")

    def __init__(self, topic: bytes, count: int) -> None:
        self.count = count
        self.kind = _KIND_NUMBER[topic[: topic.index(b".") + 1]]


class _Route:
    """What is decided once for all frames of one origin, epoch, topic and type."""

    __slots__ = ("is_kept", "is_opened", "is_summarized", "origin", "topic")

    def __init__(self, origin: _Origin, topic: _Topic, kind: bytes) -> None:
        self.origin = origin
        self.topic = topic
        self.is_kept = kind in _KEEP
        self.is_summarized = kind in _SUMMARIZE
        self.is_opened = self.is_kept or self.is_summarized


def _tag_at(data: bytes, body_at: int) -> int:
    # A body is a msgpack array, of more than 15 elements behind 3 bytes, else behind 1; its first is the tag.
    return body_at + (4 if data[body_at] == 0xDC else 2)


def _tag_end(data: bytes, body_at: int) -> int:
    start = _tag_at(data, body_at)
    return start + (data[start - 1] & 0x1F)


class Sequencer:
    """Stamps, admits, fences and deduplicates."""

    def __init__(self, state: SequencerState | None = None) -> None:
        state = state or SequencerState()
        self.session = state.session + 1  # how many kernels have run on this journal, this one included
        self.seq = state.seq  # the last number given
        self.names = list(state.origins)  # the components, by number
        self.summary = Summary(state.summary)
        self.books = state.books
        self.away = state.away
        self.duplicates = 0
        self.refused: dict[str, int] = {}
        self.kept: list[bytes] = []  # frames of kinds that are kept for good, until take_kept()
        self._topics = {topic: _Topic(topic, count) for topic, count in state.tseq.items()}
        self._kind_counts = [0] * len(_KIND_NUMBER)
        for topic in self._topics.values():
            self._kind_counts[topic.kind] = (self._kind_counts[topic.kind] + topic.count) % _WRAP
        self._origins = [
            _Origin(number, state.epochs.get(number, 0), state.outputs.get(number, (-1, -1)))
            for number in range(len(self.names))
        ]
        self._routes: dict[bytes, _Route] = {}
        self._kernel = self._origins[self.admit(KERNEL, ())]  # it announces; nobody pushes in its name

    # --- Hosts --------------------------------------------------------------------------------

    def admit(self, component: str, publishes: Iterable[type[m.Message]]) -> int:
        """Return the number of *component*, which may publish these types from now on, at a new epoch."""
        if component not in self.names:
            self.names.append(component)
            self._origins.append(_Origin(len(self._origins), 0, (-1, -1)))
        origin = self._origins[self.names.index(component)]
        origin.epoch += 1
        origin.allowed = {cls.__name__.encode(): topics.topic(topics.KIND_OF[cls]) for cls in publishes}
        self._routes.clear()
        return origin.number

    def absence(self, host: str) -> tuple[int, int]:
        """
        Return (left, back): what lies behind seq *left*, up to *back*, happened without *host*.

        One that was there before any feed was has missed nothing: (0, 0).
        """
        return _absence(self.away, self.books, host, self.seq)

    def epoch(self, origin: int) -> int:
        """Return the epoch at which *origin* may publish."""
        return self._origins[origin].epoch

    def last_output(self, origin: int) -> tuple[int, int]:
        """Return (cause, n) of the last output of *origin*; (-1, -1) when it has had none."""
        return self._origins[origin].cause, self._origins[origin].n

    def published(self) -> dict[str, int]:
        """Return how many messages of each component have got their place in this session."""
        return {self.names[origin.number]: origin.published for origin in self._origins}

    # --- The order ----------------------------------------------------------------------------

    @property
    def topic_counts(self) -> dict[bytes, int]:
        """The last tseq of every topic."""
        return {name: topic.count for name, topic in self._topics.items()}

    def accept(self, frame: bytes) -> bytes | None:
        """Return *frame* with its place in the order, or None where it is refused or a repeat."""
        stamped, _ = self.accept_all([frame])
        return stamped[0] if stamped else None

    def accept_all(self, frames: Iterable[bytes]) -> tuple[list[bytes], list[Run]]:
        """
        Give *frames*, in their order, their place in the one order.

        What breaks a rule or is a repeat is left out and counted.

        Returns: the stamped frames, and the same as runs, to be published each as one.
        """
        # Every message of the system passes here: names are local, and what can be decided once is.
        stamped: list[bytes] = []
        runs: list[tuple[_Topic, bytes, list[bytes]]] = []
        pack = codec.pack_stamp
        last: _Topic | None = None
        route: _Route | None = None
        head = lead = b""  # of the frame before: its topic, origin and epoch; the start of its body
        at = body_at = 0
        for frame in frames:
            # Most frames are like the one before, and then there is nothing to look up.
            if not (route and frame.startswith(head) and frame.startswith(lead, body_at)):
                at = frame.find(b"\0") + 1
                body_at = at + _NAME.size
                route = self._route(frame, at, body_at)
                if route is None:
                    continue
                head, lead = frame[: at + 6], frame[body_at : _tag_end(frame, body_at)]
            n, cause = _COUNTS.unpack_from(frame, at + 6)
            origin, topic = route.origin, route.topic
            if cause <= origin.cause and (cause < origin.cause or n <= origin.n):
                self.duplicates += 1
                continue
            # A decision that cannot be read must leave no hole in the numbers. Market data is not
            # opened here; who cannot read a message of it skips it and says so.
            if route.is_opened and not self._open(frame[body_at:], route):
                continue
            origin.cause, origin.n = cause, n
            origin.published += 1
            self.seq = seq = self.seq + 1
            topic.count = tseq = topic.count + 1
            tail = pack(seq, tseq) + frame[at:]
            whole = frame[:at] + tail
            stamped.append(whole)
            if route.is_kept:
                self.kept.append(whole)
            if topic is not last:
                last = topic
                runs.append((topic, frame[:at], [tail]))
            else:
                runs[-1][2].append(tail)
        return stamped, [(head, self._count_run(topic, len(tails)), tails) for topic, head, tails in runs]

    def _count_run(self, topic: _Topic, frames: int) -> bytes:
        """Count a run of *topic*; returns the counts of all kinds after it, packed."""
        self._kind_counts[topic.kind] = (self._kind_counts[topic.kind] + frames) % _WRAP
        return self.kind_counts

    def _route(self, frame: bytes, at: int, body_at: int) -> _Route | None:
        """Return what is decided for frames like this one; None, and counted, where it is refused."""
        try:
            tag = frame[_tag_at(frame, body_at) : _tag_end(frame, body_at)]
        except IndexError:
            self._count(f"unreadable: {frame[:40]!r}")
            return None
        # Topic, origin and epoch stand together at the front: with the type they decide all else.
        key = frame[: at + 6] + tag
        route = self._routes.get(key)
        if route is None and (route := self._find_route(frame, tag)):
            self._routes[key] = route
        return route

    def _open(self, body: bytes, route: _Route) -> bool:
        try:
            message = codec.decode(body)
        except CodecError:
            self._refuse(
                route.origin.number, f"a malformed {body[_tag_at(body, 0) : _tag_end(body, 0)].decode()}"
            )
            return False
        if route.is_summarized:
            self.summary.add(message, body)
            if isinstance(message, m.FeedConnected):
                _add_books(self.books, self.names[route.origin.number], message)
        return True

    @property
    def kind_counts(self) -> bytes:
        """How many frames of each kind there have been, packed as a run carries it."""
        return codec.pack_kind_counts(*self._kind_counts)

    def announce(self, message: m.Message) -> bytes:
        """
        Return the kernel's own *message* with its place in the order.

        This is the only way to speak as the kernel: its origin is admitted to push nothing.
        """
        kernel, topic, body = self._kernel, topics.topic_of(message), codec.encode(message)
        route = _Route(kernel, self._topic(topic), topics.topic(topics.KIND_OF[type(message)]))
        kernel.cause, kernel.n = 0, kernel.n + 1
        self.seq += 1
        route.topic.count += 1
        frame = codec.pack_output(topic, kernel.number, kernel.epoch, kernel.n, 0, body)
        stamped = codec.stamp(frame, len(topic) + 1, self.seq, route.topic.count)
        if route.is_kept:
            self.kept.append(stamped)
        if route.is_summarized:
            self.summary.add(message, body)
        _note_absence(self.away, self.books, message, self.seq)
        self._count_run(route.topic, 1)
        return stamped

    def _topic(self, topic: bytes) -> _Topic:
        return self._topics.setdefault(topic, _Topic(topic, 0))

    def _find_route(self, frame: bytes, tag: bytes) -> _Route | None:
        try:
            topic, _, number, epoch, _, _ = codec.split_output(frame)
        except CodecError:
            self._count(f"unreadable: {frame[:40]!r}")
            return None
        origin = self._origins[number] if number < len(self._origins) else None
        if origin is None or epoch != origin.epoch:
            self._refuse(number, "an older epoch")
            return None
        kind = origin.allowed.get(tag)
        if kind is None or not topic.startswith(kind):
            what = f"{tag.decode(errors='replace')} on {topic.decode(errors='replace')}"
            self._refuse(number, what)
            return None
        return _Route(origin, self._topic(topic), kind)

    def _refuse(self, number: int, why: str) -> None:
        self._count(f"{self.names[number] if number < len(self.names) else number}: {why}")

    def _count(self, refusal: str) -> None:
        self.refused[refusal] = self.refused.get(refusal, 0) + 1

    def take_kept(self) -> list[bytes]:
        """Return the frames to keep for good that were stamped since the last time."""
        kept, self.kept = self.kept, []
        return kept

    # --- State --------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Return the state as it is now."""
        state = SequencerState(
            self.session,
            self.seq,
            self.topic_counts,
            self.names,
            {origin.number: origin.epoch for origin in self._origins},
            {origin.number: (origin.cause, origin.n) for origin in self._origins if origin.cause >= 0},
            self.summary.to_bytes(),
            self.books,
            self.away,
        )
        return msgspec.msgpack.encode(state)


def _add_books(books: dict[str, dict[str, list[str]]], component: str, feed: m.FeedConnected) -> None:
    books.setdefault(component, {})[feed.exchange] = list(feed.symbols)


def _absence(away: dict[str, tuple[int, int]], books: dict[str, Any], host: str, seq: int) -> tuple[int, int]:
    """Return where the last absence of *host* began and ended, where it is back behind *seq*."""
    left, back = away.get(host, (0, _STILL))
    if back != _STILL:
        return left, back
    return left, seq if left or books else 0


def _note_absence(
    away: dict[str, tuple[int, int]], books: dict[str, Any], message: m.Message, seq: int
) -> None:
    """Note who is there or not any longer by *message*, of *seq*."""
    match message:
        case m.HostStarted():
            away[message.host] = _absence(away, books, message.host, seq - 1)
        case m.HostStopped() if message.reason == m.REMOVED:
            away[message.host] = seq, _STILL
        case m.KernelStarted():
            gone = [host for host, (_, back) in away.items() if back != _STILL and host not in message.hosts]
            away.update((host, (seq, _STILL)) for host in gone)


def _roll_admissions(state: SequencerState, message: m.Message) -> None:
    """Admit again, in the same order, whom the frames say were admitted."""
    match message:
        case m.KernelStarted():
            state.session = message.session
            admitted = [KERNEL]
        case m.HostStarted():
            admitted = message.components
        case _:
            return
    state.origins += [name for name in admitted if name not in state.origins]
    for name in admitted:
        number = state.origins.index(name)
        state.epochs[number] = state.epochs.get(number, 0) + 1


def roll_forward(state: bytes, frames: Iterable[bytes]) -> SequencerState:
    """
    Return the state after the journaled *frames* that follow the written *state* (b"" for none).

    Raises: CodecError: the frames do not continue it.
    """
    rolled = msgspec.msgpack.decode(state, type=SequencerState) if state else SequencerState()
    summary = Summary(rolled.summary)
    for raw in frames:
        frame = codec.unpack(raw)
        if frame.seq != rolled.seq + 1:
            raise CodecError(f"the journal continues with seq {frame.seq} after {rolled.seq}")
        rolled.seq = frame.seq
        rolled.tseq[frame.topic] = frame.tseq
        rolled.outputs[frame.origin] = (frame.cause, frame.n)
        if topics.parse(frame.topic)[0] in WANTED:
            message = codec.decode(frame.body)
            summary.add(message, frame.body)
            _roll_admissions(rolled, message)
            _note_absence(rolled.away, rolled.books, message, rolled.seq)
            if isinstance(message, m.FeedConnected):
                _add_books(rolled.books, rolled.origins[frame.origin], message)
    rolled.summary = summary.to_bytes()
    return rolled
