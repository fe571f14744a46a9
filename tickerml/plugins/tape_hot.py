"""
What a tape does not hold yet: rows made of the journal that a run writes.

A recorder keeps rows until a block is full, and the journal keeps every message for hours. So
what was received after a stream's last block is found by looking for the last message of that
block in the journal.
"""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tickerml.kernel import (
    NS_PER_S,
    BookCrossed,
    BookResynced,
    BookStale,
    ChannelLost,
    ChannelResumed,
    ChecksumFailed,
    FeedConnected,
    FeedLost,
    Message,
    SequenceGap,
    codec,
    topics,
)
from tickerml.kernel.journal_reader import JournalReader
from tickerml.kernel.records import frame_seq

from .tape_rows import MIN_TS, STREAM_OF, Draft, Kind, Rows, split_stream, stream_name

_KINDS = ("book", "trade", "quote", "funding")
_NEAR = 10_000  # messages within which it is not worth while to search for a place
_SLACK_NS = 60 * NS_PER_S  # how far apart the times of two sources may be
_FEED = topics.topic("feed")
_DOUBTS = (
    FeedConnected,
    FeedLost,
    SequenceGap,
    ChecksumFailed,
    BookStale,
    BookCrossed,
    BookResynced,
    ChannelLost,
    ChannelResumed,
)


class Tail(NamedTuple):
    """Rows of one stream that are in no block yet; is_next says that none is missing before them."""

    rows: Rows
    is_next: bool


class Unsealed(NamedTuple):
    """What of a tape is in its journal alone: rows by stream, and doubts, some of which it may hold."""

    tails: dict[str, Tail]
    doubts: list[Message]


def streams(journal: Path) -> set[str]:
    """
    Return the streams that the *journal* holds anything of.

    Raises: StoreError: there is no journal. StoreCorrupt: it is damaged.
    """
    found = set()
    with closing(JournalReader(journal)) as reader:
        for frame in reader.frames():
            kind, exchange, symbol = topics.parse(frame[: frame.index(b"\0")])
            if kind in _KINDS:
                found.add(stream_name(kind, exchange, symbol))
    return found


def rows_after(journal: Path, stream: str, tail: Rows | None) -> Rows:
    """
    Return the rows of *stream* that the *journal* holds behind *tail*, those of its last block.

    Where that block's end is no longer in the journal, or there is none, they begin with a GAP.

    Raises: StoreError: there is no journal. StoreCorrupt: it is damaged.
    """
    draft = _Draft(stream, tail is not None)
    wanted = {topics.topic(draft.kind, draft.exchange, draft.symbol), *draft.feed_topics()}
    with closing(JournalReader(journal)) as reader:
        for raw in reader.frames(_seq_before(reader, _first_ts(tail))):
            frame = codec.unpack(raw)
            if frame.topic in wanted:
                draft.take(codec.decode(frame.body))
    return _joined(draft.rows(), tail)[0]


def unsealed(journal: Path, tails: Mapping[str, Rows | None]) -> Unsealed:
    """
    Return what rows_after() does of every stream that the *journal* holds, and its doubts, in one pass.

    Args:
        tails: the rows of the last block of each stream that has one.
    Raises: as rows_after().
    """
    drafts: dict[str, _Draft] = {}
    takers: dict[bytes, list[_Draft]] = {}  # by topic
    doubts: list[Message] = []
    with closing(JournalReader(journal)) as reader:
        firsts = {stream: _seq_before(reader, _first_ts(tail)) for stream, tail in tails.items()}
        for raw in reader.frames():
            topic = raw[: raw.index(b"\0")]
            if topic not in takers:
                takers[topic] = []
                if draft := _draft_of(topic, tails, firsts):
                    drafts[draft.stream] = draft
                    for each in (topic, *draft.feed_topics()):
                        takers.setdefault(each, []).append(draft)
            heedful = [draft for draft in takers[topic] if draft.first < frame_seq(raw)]
            is_feed = topic.startswith(_FEED)
            if heedful or is_feed:
                message = codec.decode(codec.unpack(raw).body)
                if is_feed and isinstance(message, _DOUBTS):
                    doubts.append(message)
                for draft in heedful:
                    draft.take(message)
    rows = {stream: _joined(draft.rows(), tails.get(stream)) for stream, draft in drafts.items()}
    return Unsealed({stream: Tail(*found) for stream, found in rows.items()}, doubts)


def _draft_of(topic: bytes, tails: Mapping[str, Rows | None], firsts: Mapping[str, int]) -> "_Draft | None":
    kind, exchange, symbol = topics.parse(topic)
    if kind not in _KINDS:
        return None
    stream = stream_name(kind, exchange, symbol)
    return _Draft(stream, tails.get(stream) is not None, firsts.get(stream, 0))


class _Draft(Draft):
    # The rows of one stream, made of the messages behind seq *first* as the recorder makes them.

    __slots__ = ("exchange", "first", "has_tail", "kind", "stream", "symbol")

    def __init__(self, stream: str, has_tail: bool, first: int = 0) -> None:
        super().__init__()
        self.stream = stream
        self.kind, self.exchange, self.symbol = split_stream(stream)
        self.has_tail = has_tail
        self.first = first

    def feed_topics(self) -> tuple[bytes, bytes]:
        return topics.topic("feed", self.exchange), topics.topic("feed", self.exchange, self.symbol)

    def take(self, message: Message) -> None:
        is_lost = isinstance(message, FeedLost) or (
            isinstance(message, ChannelLost) and message.channel == self.kind
        )
        if is_lost and (self.levels or self.has_tail):  # there is no stream before its first message
            self.append_gap(message.ts_recv)
        elif STREAM_OF.get(type(message)) == self.kind:
            self.append_message(message)


def _first_ts(tail: Rows | None) -> int:
    return MIN_TS if tail is None else int(tail["ts_recv"].max()) - _SLACK_NS


def _joined(rows: Rows, tail: Rows | None) -> tuple[Rows, bool]:
    # What of *rows* is behind *tail*, and whether nothing is missing in between.
    at = None if tail is None else _behind(rows, tail)
    if at is not None:
        return rows[at:], True
    if tail is not None:
        rows = rows[rows["ts_recv"] > tail["ts_recv"].max()]
    if not len(rows):
        return rows, tail is not None
    gap = Draft()
    gap.append_gap(int(rows["ts_recv"][0]))
    return np.concatenate([gap.rows(), rows]), False


def _seq_before(reader: JournalReader, ts: int) -> int:
    """Return a seq before which everything was received before *ts*, as far as times can be relied on."""
    low, high = max(reader.first() - 1, 0), reader.head()
    while high - low > _NEAR:
        middle = (low + high) // 2
        found = _ts_after(reader, middle)
        if found is None or found >= ts:
            high = middle
        else:
            low = middle
    return low


def _ts_after(reader: JournalReader, seq: int) -> int | None:
    for raw in reader.frames(seq, seq + _NEAR):
        frame = codec.unpack(raw)
        if topics.parse(frame.topic)[0] in _KINDS:
            return codec.decode(frame.body).ts_recv
    return None


def _behind(rows: Rows, tail: Rows) -> int | None:
    """Return where in *rows* the one behind the last of *tail* is; None where that is not among them."""
    own = tail[tail["kind"] != Kind.KEYFRAME]
    if not len(own):
        return None
    same = np.flatnonzero(rows == own[-1])
    times = int(np.count_nonzero(own == own[-1]))
    return int(same[min(times, len(same)) - 1]) + 1 if len(same) else None
