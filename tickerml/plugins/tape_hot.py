"""
What a tape does not hold yet: rows made of the journal that a run writes.

A recorder keeps rows until a block is full, and the journal keeps every message for hours. So
what was received after a stream's last block is found by looking for the last message of that
block in the journal.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from tickerml.kernel import NS_PER_S, FeedLost, Message, codec, topics
from tickerml.kernel.journal_reader import JournalReader

from .tape_rows import MIN_TS, STREAM_OF, Draft, Kind, Rows, split_stream, stream_name

_KINDS = ("book", "trade", "quote", "funding")
_NEAR = 10_000  # messages within which it is not worth while to search for a place
_SLACK_NS = 60 * NS_PER_S  # how far apart the times of two sources may be


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
    draft, first = Draft(), MIN_TS if tail is None else int(tail["ts_recv"].max()) - _SLACK_NS
    with closing(JournalReader(journal)) as reader:
        for message in _messages(reader, stream, first):
            if not isinstance(message, FeedLost):
                draft.append_message(message)
            elif draft.levels or tail is not None:  # there is no stream before its first message
                draft.append_gap(message.ts_recv)
    rows = draft.rows()
    at = None if tail is None else _behind(rows, tail)
    if at is not None:
        return rows[at:]
    if tail is not None:
        rows = rows[rows["ts_recv"] > tail["ts_recv"].max()]
    if not len(rows):
        return rows
    gap = Draft()
    gap.append_gap(int(rows["ts_recv"][0]))
    return np.concatenate([gap.rows(), rows])


def _messages(reader: JournalReader, stream: str, first_ts: int) -> Iterator[Message]:
    kind, exchange, symbol = split_stream(stream)
    wanted = {topics.topic(kind, exchange, symbol), topics.topic("feed", exchange)}
    if kind == "book":
        wanted.add(topics.topic("feed", exchange, symbol))
    for raw in reader.frames(_seq_before(reader, first_ts)):
        frame = codec.unpack(raw)
        if frame.topic not in wanted:
            continue
        message = codec.decode(frame.body)
        if type(message) in STREAM_OF or isinstance(message, FeedLost):
            yield message


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
