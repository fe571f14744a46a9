"""
Recorder: writes the market data that passes into a tape.

A message costs two appends: its head (times, seq, kind, how many levels) and its levels,
which are already packed as the tape's columns want them. Once a stream has block_rows rows
they are expanded, packed and sealed as one block (see tape). What is not sealed yet is this
plugin's state, so a restart neither loses nor repeats a row, and a block sealed just before
a crash is sealed again into the very same bytes. Where a source ends, all is sealed.

The first message of each block of a book is followed by the whole book as we know it, so
that reading can start at any block. Those rows do not count towards block_rows, and a block
goes on until it holds four times as many others, or most of the tape of a deep book would be
repetition.

Where data is missing the tape has a GAP: where a feed, or the channel of a stream alone, was lost,
where a number was skipped, and where a recorder that remembers nothing begins, since what
passed before it is not there.

What a feed says of itself goes into the tape's notes, with the next block or every ten
minutes: what it counted, and each event that put data in doubt or took a doubt away.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import zstandard

from tickerml.kernel import (
    NS_PER_S,
    BookCrossed,
    BookDelta,
    BookOrders,
    BookResynced,
    BookSnapshot,
    BookStale,
    BookState,
    ChannelLost,
    ChannelResumed,
    ChecksumFailed,
    Context,
    FeedConnected,
    FeedEnded,
    FeedLost,
    FeedSummarized,
    FundingUpdated,
    Instrument,
    Message,
    Options,
    Quote,
    SequenceGap,
    StoreSpec,
    Trade,
    hookimpl,
)

from .tape import FILE, Sealing, TapeWriter
from .tape_blocks import COUNTS, DOUBTS, INSTRUMENTS, Note, pack_note
from .tape_rows import LEVEL_BYTES, MIN_TS, STREAM_OF, Draft, Kind, stream_name

_ROWS_A_BOOK_ROW = 4  # at most a fifth of a block is the book it starts with
_NOTES_NS = 600 * NS_PER_S  # how long notes wait for a block
_MANY_NOTES = 256
_DAY_NS = 86_400 * NS_PER_S


class RecorderOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is recorded, in what portions, and for how long."""

    block_rows: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=1_000_000, description="rows of a sealed block, or more where it starts with a deep book"
        ),
    ] = 8192
    map_mb: Annotated[int, msgspec.Meta(ge=1, description="how large the tape may become, MB")] = 16_384
    quotes: Annotated[bool, msgspec.Meta(description="record best bids and asks beside the books")] = False
    path: Annotated[
        str,
        msgspec.Meta(description="the tape's file; by default one of this run, in the recorder's directory"),
    ] = ""
    keep_days: Annotated[
        float,
        msgspec.Meta(ge=0, description="how many days of data are kept, by whole blocks; 0 is all of them"),
    ] = 0
    max_mb: Annotated[
        int,
        msgspec.Meta(ge=0, description="the oldest blocks go when the tape takes more than this; 0 is never"),
    ] = 0


class _Stream(Draft):
    # The rows of one stream that are not sealed yet.

    __slots__ = ("exchange", "free_bytes", "has_book", "kind", "number", "symbol")

    def __init__(self, place: tuple[str, str, str], heads: bytes = b"", levels: bytes = b"") -> None:
        super().__init__(heads, levels)
        self.kind, self.exchange, self.symbol = place
        self.number = 0  # blocks sealed
        self.has_book = False  # the block holds a whole book
        self.free_bytes = 0  # of levels: that book, when the block starts with it

    @property
    def name(self) -> str:
        return stream_name(self.kind, self.exchange, self.symbol)

    def append_book(self, book: BookSnapshot | BookDelta, kind: Kind) -> None:
        before = len(self.levels)
        super().append_book(book, kind)
        if kind is not Kind.DELTA and not self.has_book:
            self.has_book = True
            self.free_bytes = len(self.levels) - before

    def clear(self) -> None:
        super().clear()
        self.number += 1
        self.has_book = False
        self.free_bytes = 0


class _SavedStream(msgspec.Struct, array_like=True):
    kind: str
    exchange: str
    symbol: str
    number: int
    heads: bytes
    levels: bytes
    has_book: bool
    free_bytes: int


class _Counting(msgspec.Struct, array_like=True):
    # Since when an exchange's feed has counted, and how far it had come.
    since: int
    messages: int = 0


class _Saved(msgspec.Struct, array_like=True):
    streams: list[_SavedStream]
    counting: dict[str, _Counting] = {}
    notes: dict[bytes, bytes] = {}
    noted: int = 0
    written_ts: int = MIN_TS


class Recorder:
    """Buffers rows and notes, and seals them into the tape."""

    def __init__(self, ctx: Context, options: RecorderOptions) -> None:
        """
        Raises: StoreFull, StoreCorrupt: the tape cannot be opened for writing.
        """
        self._ctx = ctx
        self._options = options
        self._block_bytes = options.block_rows * LEVEL_BYTES
        path = Path(options.path).expanduser() if options.path else ctx.data_dir / FILE
        self._tape = TapeWriter(path, options.map_mb)
        self._streams: dict[tuple[str, str, str], _Stream] = {}
        self._counting: dict[str, _Counting] = {}
        self._notes: dict[bytes, bytes] = {}  # that are not on the tape yet
        self._noted = 0  # tells notes of one time apart
        self._written_ts = MIN_TS  # when notes went onto the tape

    # --- Rows -------------------------------------------------------------------------------------

    def on_book_snapshot(self, snapshot: BookSnapshot) -> None:
        self._append(snapshot)

    def on_book_delta(self, delta: BookDelta) -> None:
        stream = self._stream("book", delta.exchange, delta.symbol, delta.ts_recv)
        stream.append_book(delta, Kind.DELTA)
        book = self._ctx.book(delta.exchange, delta.symbol)
        # While the book is resyncing it is not known, and the snapshot it waits for will be in the block.
        if not stream.has_book and book.state is not BookState.RESYNCING:
            stream.append_book(book.snapshot(), Kind.KEYFRAME)
        self._seal_if_full(stream)

    def on_book_orders(self, told: BookOrders) -> None:
        self._append(told)

    def on_trade(self, trade: Trade) -> None:
        self._append(trade)

    def on_quote(self, quote: Quote) -> None:
        if self._options.quotes:
            self._append(quote)

    def on_funding_updated(self, funding: FundingUpdated) -> None:
        self._append(funding)

    def _append(
        self,
        message: BookSnapshot | BookOrders | Trade | Quote | FundingUpdated | SequenceGap | ChecksumFailed,
    ) -> None:
        stream = self._stream(STREAM_OF[type(message)], message.exchange, message.symbol, message.ts_recv)
        stream.append_message(message)
        self._seal_if_full(stream)

    def _stream(self, kind: str, exchange: str, symbol: str, ts_recv: int) -> _Stream:
        place = kind, exchange, symbol
        stream = self._streams.get(place)
        if stream is None:
            stream = self._streams[place] = _Stream(place)
            stream.append_gap(ts_recv)
        return stream

    # --- Doubts and counts ------------------------------------------------------------------------

    def on_sequence_gap(self, gap: SequenceGap) -> None:
        self._append(gap)
        self._doubt(gap)

    def on_checksum_failed(self, failed: ChecksumFailed) -> None:
        self._append(failed)
        self._doubt(failed)

    def on_feed_lost(self, lost: FeedLost) -> None:
        self._doubt(lost)
        for stream in self._streams.values():
            if stream.exchange == lost.exchange:
                stream.append_gap(lost.ts_recv)
                self._seal_if_full(stream)

    def on_channel_lost(self, lost: ChannelLost) -> None:
        self._doubt(lost)
        if stream := self._streams.get((lost.channel, lost.exchange, lost.symbol)):
            stream.append_gap(lost.ts_recv)
            self._seal_if_full(stream)

    def on_channel_resumed(self, resumed: ChannelResumed) -> None:
        self._doubt(resumed)

    def on_feed_connected(self, connected: FeedConnected) -> None:
        self._doubt(connected)

    def on_book_stale(self, stale: BookStale) -> None:
        self._doubt(stale)

    def on_book_crossed(self, crossed: BookCrossed) -> None:
        self._doubt(crossed)

    def on_book_resynced(self, resynced: BookResynced) -> None:
        self._doubt(resynced)

    def on_instrument(self, instrument: Instrument) -> None:
        self._note(pack_note(INSTRUMENTS, instrument, instrument.ts_recv))

    def on_feed_summarized(self, summary: FeedSummarized) -> None:
        counting = self._counting.get(summary.exchange)
        if counting is None or summary.messages < counting.messages:  # it has begun anew
            counting = self._counting[summary.exchange] = _Counting(summary.ts_recv)
        counting.messages = summary.messages
        self._note(pack_note(COUNTS, summary, counting.since))
        if summary.ts_recv - self._written_ts > _NOTES_NS:
            self._write_notes(summary.ts_recv)

    def on_feed_ended(self, ended: FeedEnded) -> None:
        self.seal_all(ended.ts_recv)

    def _doubt(self, message: Message) -> None:
        self._noted += 1
        self._note(pack_note(DOUBTS, message, message.ts_recv, self._noted))

    def _note(self, note: Note) -> None:
        self._notes[note.key] = note.value
        if len(self._notes) >= _MANY_NOTES:
            self._write_notes(self._written_ts)

    # --- The tape ---------------------------------------------------------------------------------

    def seal_all(self, ts: int) -> None:
        """
        Put everything onto the tape that is not there yet, at *ts*, ns UTC.

        Raises: StoreFull, StoreCorrupt: as TapeWriter.seal().
        """
        for stream in self._streams.values():
            if stream.levels:
                self._seal(stream)
        self._write_notes(ts)

    def _seal_if_full(self, stream: _Stream) -> None:
        least = max(self._block_bytes, _ROWS_A_BOOK_ROW * stream.free_bytes)
        if len(stream.levels) - stream.free_bytes >= least:
            self._seal(stream)

    def _seal(self, stream: _Stream) -> None:
        rows = stream.rows()
        [stored] = self._tape.seal_all([Sealing(stream.name, stream.number, rows)], self._taken_notes())
        self._ctx.log.debug("tape.block_sealed", stream=stream.name, rows=len(rows), bytes=stored)
        stream.clear()
        if self._options.keep_days or self._options.max_mb:
            self._prune(int(rows["ts_recv"].max()))

    def _prune(self, now: int) -> None:
        before = now - int(self._options.keep_days * _DAY_NS) if self._options.keep_days else MIN_TS
        pruned = self._tape.prune(before, self._options.max_mb * 2**20)
        if pruned.blocks:
            self._ctx.log.debug("tape.pruned", blocks=pruned.blocks, bytes=pruned.stored_bytes)

    def _write_notes(self, ts: int) -> None:
        self._written_ts = ts
        self._tape.seal_all([], self._taken_notes())

    def _taken_notes(self) -> list[Note]:
        notes, self._notes = [Note(*each) for each in self._notes.items()], {}
        return notes

    # --- State ------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        streams = [
            _SavedStream(
                stream.kind,
                stream.exchange,
                stream.symbol,
                stream.number,
                stream.heads.tobytes(),
                bytes(stream.levels),
                stream.has_book,
                stream.free_bytes,
            )
            for stream in self._streams.values()
        ]
        saved = _Saved(streams, self._counting, self._notes, self._noted, self._written_ts)
        return zstandard.compress(msgspec.msgpack.encode(saved), 1)

    def migrate(self, state: bytes, version: int) -> bytes:
        """Return what restore() takes of the state of version 1, which was the streams alone."""
        streams = msgspec.msgpack.decode(zstandard.decompress(state), type=list[_SavedStream])
        return zstandard.compress(msgspec.msgpack.encode(_Saved(streams)), 1)

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(zstandard.decompress(state), type=_Saved)
        self._counting, self._notes = saved.counting, saved.notes
        self._noted, self._written_ts = saved.noted, saved.written_ts
        self._streams = {}
        for each in saved.streams:
            place = each.kind, each.exchange, each.symbol
            stream = self._streams[place] = _Stream(place, each.heads, each.levels)
            stream.number = each.number
            stream.has_book = each.has_book
            stream.free_bytes = each.free_bytes


@hookimpl
def tickerml_stores() -> Iterable[StoreSpec]:
    return [
        StoreSpec(
            id="recorder",
            factory=Recorder,
            options=RecorderOptions,
            state_version=2,
            writes_files=True,
            summary="records market data into a columnar tape, a few bytes a row",
        )
    ]
