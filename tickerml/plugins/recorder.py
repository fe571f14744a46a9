"""
Recorder: writes the market data that passes into a tape.

A message costs two appends: its head (times, seq, kind, how many levels) and its levels,
which are already packed as the tape's columns want them. Once a stream has block_rows rows
they are expanded, packed and sealed as one block (see tape). What is not sealed yet is this
plugin's state, so a restart neither loses nor repeats a row, and a block sealed just before
a crash is sealed again into the very same bytes.

The first message of each block of a book is followed by the whole book as we know it, so
that reading can start at any block. Those rows do not count towards block_rows, and a block
goes on until it holds four times as many others, or most of the tape of a deep book would be
repetition.

Where data is missing the tape has a GAP: where a feed was lost or skipped a number, and
where a recorder that remembers nothing begins, since what passed before it is not there.
"""

from array import array
from collections.abc import Iterable
from typing import Annotated

import msgspec
import zstandard

from tickerml.kernel import (
    BookDelta,
    BookSnapshot,
    BookState,
    Context,
    FeedLost,
    Options,
    Quote,
    SequenceGap,
    Side,
    StoreSpec,
    Trade,
    hookimpl,
)

from .tape import Kind, TapeWriter, expand, stream_name

FILE = "tape.mdb"
_LEVEL_BYTES = 16
_ROWS_A_BOOK_ROW = 4  # at most a fifth of a block is the book it starts with


class RecorderOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is recorded, and in what portions."""

    block_rows: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=1_000_000, description="rows of a sealed block, or more where it starts with a deep book"
        ),
    ] = 8192
    map_mb: Annotated[int, msgspec.Meta(ge=1, description="how large the tape may become, MB")] = 16_384
    quotes: Annotated[bool, msgspec.Meta(description="record best bids and asks beside the books")] = False


class _Stream:
    # The rows of one stream that are not sealed yet.

    __slots__ = ("exchange", "free_bytes", "has_book", "heads", "kind", "levels", "number", "symbol")

    def __init__(self, kind: str, exchange: str, symbol: str) -> None:
        self.kind = kind
        self.exchange = exchange
        self.symbol = symbol
        self.number = 0  # blocks sealed
        self.heads = array("q")
        self.levels = bytearray()
        self.has_book = False  # the block holds a whole book
        self.free_bytes = 0  # of levels: that book, when the block starts with it

    @property
    def name(self) -> str:
        return stream_name(self.kind, self.exchange, self.symbol)

    def append(
        self, ts_recv: int, ts_event: int, seq: int, kind: Kind, bids: bytes, asks: bytes, other: bytes = b""
    ) -> None:
        if not (bids or asks or other):
            other = bytes(_LEVEL_BYTES)
        counts = (len(levels) // _LEVEL_BYTES for levels in (bids, asks, other))
        self.heads.extend((ts_recv, ts_event, seq, kind, *counts))
        self.levels += bids
        self.levels += asks
        self.levels += other

    def append_gap(self, ts_recv: int, expected: int = 0, was: int = 0) -> None:
        self.append(ts_recv, 0, 0, Kind.GAP, b"", b"", _level(expected, was))

    def clear(self) -> None:
        self.number += 1
        self.heads = array("q")
        self.levels.clear()
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


class Recorder:
    """Buffers rows and seals them into blocks of the tape in its data_dir."""

    def __init__(self, ctx: Context, options: RecorderOptions) -> None:
        """
        Raises: StoreFull, StoreCorrupt: the tape cannot be opened for writing.
        """
        self._ctx = ctx
        self._has_quotes = options.quotes
        self._block_bytes = options.block_rows * _LEVEL_BYTES
        self._tape = TapeWriter(ctx.data_dir / FILE, options.map_mb)
        self._streams: dict[tuple[str, str, str], _Stream] = {}

    def on_book_snapshot(self, snapshot: BookSnapshot) -> None:
        stream = self._stream("book", snapshot.exchange, snapshot.symbol, snapshot.ts_recv)
        self._append_book(stream, snapshot, Kind.SNAPSHOT)
        self._seal_if_full(stream)

    def on_book_delta(self, delta: BookDelta) -> None:
        stream = self._stream("book", delta.exchange, delta.symbol, delta.ts_recv)
        self._append_book(stream, delta, Kind.DELTA)
        book = self._ctx.book(delta.exchange, delta.symbol)
        # While the book is resyncing it is not known, and the snapshot it waits for will be in the block.
        if not stream.has_book and book.state is not BookState.RESYNCING:
            self._append_book(stream, book.snapshot(), Kind.KEYFRAME)
        self._seal_if_full(stream)

    def on_trade(self, trade: Trade) -> None:
        stream = self._stream("trade", trade.exchange, trade.symbol, trade.ts_recv)
        level = _level(trade.price, trade.quantity)
        bids, asks = (level, b"") if trade.aggressor is Side.BUY else (b"", level)
        stream.append(trade.ts_recv, trade.ts_event, trade.seq, Kind.TRADE, bids, asks)
        self._seal_if_full(stream)

    def on_quote(self, quote: Quote) -> None:
        if not self._has_quotes:
            return
        stream = self._stream("quote", quote.exchange, quote.symbol, quote.ts_recv)
        bid, ask = _level(quote.bid, quote.bid_quantity), _level(quote.ask, quote.ask_quantity)
        stream.append(quote.ts_recv, quote.ts_event, quote.seq, Kind.QUOTE, bid, ask)
        self._seal_if_full(stream)

    def on_sequence_gap(self, gap: SequenceGap) -> None:
        stream = self._stream("book", gap.exchange, gap.symbol, gap.ts_recv)
        stream.append_gap(gap.ts_recv, gap.expected, gap.was)
        self._seal_if_full(stream)

    def on_feed_lost(self, lost: FeedLost) -> None:
        for stream in self._streams.values():
            if stream.exchange == lost.exchange:
                stream.append_gap(lost.ts_recv)
                self._seal_if_full(stream)

    def _stream(self, kind: str, exchange: str, symbol: str, ts_recv: int) -> _Stream:
        stream = self._streams.get((kind, exchange, symbol))
        if stream is None:
            stream = self._streams[kind, exchange, symbol] = _Stream(kind, exchange, symbol)
            stream.append_gap(ts_recv)
        return stream

    def _append_book(self, stream: _Stream, message: BookSnapshot | BookDelta, kind: Kind) -> None:
        before = len(stream.levels)
        stream.append(message.ts_recv, message.ts_event, message.seq, kind, message.bids, message.asks)
        if kind is not Kind.DELTA and not stream.has_book:
            stream.has_book = True
            stream.free_bytes = len(stream.levels) - before

    def _seal_if_full(self, stream: _Stream) -> None:
        least = max(self._block_bytes, _ROWS_A_BOOK_ROW * stream.free_bytes)
        if len(stream.levels) - stream.free_bytes < least:
            return
        rows = expand(stream.heads.tobytes(), bytes(stream.levels))
        stored = self._tape.seal(stream.name, stream.number, rows)
        self._ctx.log.debug("tape.block_sealed", stream=stream.name, rows=len(rows), bytes=stored)
        stream.clear()

    def snapshot(self) -> bytes:
        saved = [
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
        return zstandard.compress(msgspec.msgpack.encode(saved), 1)

    def restore(self, state: bytes) -> None:
        self._streams = {}
        for saved in msgspec.msgpack.decode(zstandard.decompress(state), type=list[_SavedStream]):
            stream = _Stream(saved.kind, saved.exchange, saved.symbol)
            self._streams[saved.kind, saved.exchange, saved.symbol] = stream
            stream.number = saved.number
            stream.heads.frombytes(saved.heads)
            stream.levels += saved.levels
            stream.has_book = saved.has_book
            stream.free_bytes = saved.free_bytes


def _level(price: int, quantity: int) -> bytes:
    return array("q", (price, quantity)).tobytes()


@hookimpl
def tickerml_stores() -> Iterable[StoreSpec]:
    return [
        StoreSpec(
            id="recorder",
            factory=Recorder,
            options=RecorderOptions,
            writes_files=True,
            summary="records market data into a columnar tape, a few bytes a row",
        )
    ]
