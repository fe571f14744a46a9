"""
Recorded WebSocket captures as a source: what arrived then, again, through the live parser.

Two archive formats are read, plain or gzipped, told apart by their first lines:

    hftbacktest   1723161254087891268 {"stream":"btcusdt@bookTicker","data":{...}}   receive time in ns
                  1723161254206652067 {"lastUpdateId":...}                           a REST depth reply
    cryptofeed    1617643092.058265: {"stream":"btcusd@bookTicker","data":{...}}     receive time in s
                  https://.../depth?symbol=BTCUSD&limit=1000 -> 1617643092.29: {...} a REST reply
                  wss://... <-> 1617643091.9                                         a connection was made
                  configuration: {...}, wss://... with or without <-                 a mark

Whose frames they are is told by their content too (capture_formats.py). The bare depth reply
of the first names no symbol: it belongs to the one symbol of its file. All files are merged
by receive time, so REST replies may lie in a file of their own, and books are carried over
from a file to the one that continues it. Where frames are numbered by connection, a file that
begins while another goes on is another connection. One made again is one that was lost before.

Nothing is skipped in silence. Each line is one input: it is yielded, messages or none,
and counted as a message, a skipped message with its reason, or a mark. A file that
ends in the middle is an error, after everything before the damage has been published.
"""

import gzip
import heapq
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import msgspec

from tickerml.kernel import (
    BookCrossed,
    BookDelta,
    BookOrders,
    BookResynced,
    BookSnapshot,
    CaptureError,
    ChecksumFailed,
    ConfigError,
    Context,
    ExchangeSpec,
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
    Side,
    Trade,
    hookimpl,
)

from .binance_wire import SpotFeed
from .capture_formats import FORMATS, recognise
from .feed import Feed, Tally
from .l3 import IndependentReserveFeed, KrakenL3Feed
from .times import seconds_to_ns

_SUMMARY_LINES = 10_000
_HEAD_LINES = 200  # looked at to tell the format and the symbols
_GZIP_MAGIC = b"\x1f\x8b"
_NEWLINE = ord("\n")
_DAMAGE = (EOFError, OSError, zlib.error)

_HFTBACKTEST = re.compile(rb"(\d{18,19}) ")
_CRYPTOFEED = re.compile(rb"(\d{9,10}(?:\.\d+)?): ")
_REPLY = re.compile(rb"(https?://\S+) -> (\d{9,10}(?:\.\d+)?): ")
_MARK = re.compile(rb"\s*$|configuration: |wss?://")
_CONNECTED = re.compile(rb"(wss?://\S+) <-> ")
_JSON = (b"{", b"[")

# Receive time and number of its file, by which lines are merged; the URL of a REST reply, "" for a
# frame, None for what has no time of its own; the JSON, or the whole line where there is none.
_Line = tuple[int, int, str | None, bytes]


class CaptureOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to replay."""

    files: Annotated[
        list[str],
        msgspec.Meta(description="Captures to replay, merged by receive time; REST replies may have a file."),
    ] = msgspec.field(default_factory=list)
    exchange: Annotated[
        str,
        msgspec.Meta(
            description="Name to publish as; empty: whom the capture names. Spot frames that name nobody are "
            "binance's in an hftbacktest file and binanceus's in a cryptofeed one."
        ),
    ] = ""


def _split(line: bytes) -> tuple[int | None, str | None, bytes]:
    # -> receive time, URL, JSON: as in _Line.
    if found := _HFTBACKTEST.match(line):
        return int(found[1]), "", line[found.end() :]
    if found := _CRYPTOFEED.match(line):
        return seconds_to_ns(found[1].decode()), "", line[found.end() :]
    if found := _REPLY.match(line):
        return seconds_to_ns(found[2].decode()), found[1].decode(errors="replace"), line[found.end() :]
    return None, None, line


def _is_whole(line: bytes) -> bool:
    # The last line of a file may lack its newline, if its JSON is all there.
    ts, _, text = _split(line)
    if ts is None and not text.startswith(b"configuration: "):
        return _MARK.match(text) is not None
    try:
        msgspec.json.decode(text.removeprefix(b"configuration: "))
    except msgspec.DecodeError:
        return False
    return True


class _Unheard:
    # The log of a feed that only looks.
    def warning(self, event: str, **facts: object) -> None:
        pass


class _File:
    # One capture file: whose it is, the symbols its head names, and its lines.

    def __init__(self, path: Path) -> None:
        self.path = path
        head = self._head()
        lines = [(line, *_split(line)) for line in head]
        times = [ts for _, ts, _, text in lines if ts is not None and text.startswith(_JSON)]
        if not times:
            raise CaptureError(
                f"cannot replay {path}: expected an hftbacktest or cryptofeed capture, "
                f"was {head[0][:60] if head else b''!r} at line 1; check the path"
            )
        self.first_ts = times[0]
        unsaid = "binance" if any(_HFTBACKTEST.match(line) for line in head) else "binanceus"
        found = recognise([text if url == "" else line for line, _, url, text in lines], unsaid)
        if not found:
            exchanges = ", ".join(dict.fromkeys(known.exchange for known in FORMATS))
            raise CaptureError(
                f"cannot replay {path}: expected frames of {exchanges}, was {lines[0][3][:60]!r} at line 1; "
                "an exchange not named here cannot be read"
            )
        self.exchange, self.feed = found.exchange, found.feed
        self.is_numbered = found.is_numbered_by_connection
        self.is_read = False  # to its end
        self.symbols, self.wires = self._symbols(lines)

    def _symbols(
        self, lines: list[tuple[bytes, int | None, str | None, bytes]]
    ) -> tuple[list[str], list[str]]:
        # A feed that is shown the head and thrown away knows them.
        feed = self.feed(self.exchange, _Unheard())
        for _, ts, url, text in lines:
            if ts is not None and url:
                feed.on_reply(ts, url, text)
            elif ts is not None:
                feed.on_frame(ts, text)
        return [feed.symbol_of(wire) for wire in feed.wires], feed.wires

    def _open(self) -> BinaryIO:
        try:
            with self.path.open("rb") as stream:
                is_gzipped = stream.read(2) == _GZIP_MAGIC
            if not is_gzipped:
                return self.path.open("rb")
            # A second buffer, because GzipFile itself reads lines in Python: a tenth of the whole replay.
            return io.BufferedReader(cast(io.RawIOBase, gzip.open(self.path)), 1 << 16)
        except OSError as error:
            raise CaptureError(
                f"cannot read {self.path}: {error.strerror}; check the path and its permissions"
            ) from None

    def _head(self) -> list[bytes]:
        head: list[bytes] = []
        with self._open() as stream, suppress(*_DAMAGE):  # lines() says where, after what is before it
            head.extend(islice(stream, _HEAD_LINES))
        return head

    def lines(self, index: int) -> Iterator[_Line]:
        """Yield every line, as file number *index*, at a time that never goes back."""
        ts, whole, self.is_read = self.first_ts, 0, False
        with self._open() as stream:
            try:
                for line in stream:
                    known, url, text = _split(line)
                    if known is not None and known > ts:
                        ts = known
                    if line[-1] != _NEWLINE and not _is_whole(line):
                        raise EOFError
                    whole += 1
                    yield ts, index, url, text
                self.is_read = True
            except _DAMAGE as error:
                raise CaptureError(
                    f"cannot read {self.path} to its end: expected a whole file, was damaged after line "
                    f"{whole} ({type(error).__name__}); fetch it again, or keep only the lines before"
                ) from None


class _State(msgspec.Struct, frozen=True, array_like=True):
    position: int


class Capture:
    """Replays recorded files, merged by receive time; see the top of this file."""

    def __init__(self, ctx: Context, options: CaptureOptions) -> None:
        """
        Raises: CaptureError: a file is missing, unreadable or not a capture. ConfigError: no files.
        """
        if not options.files:
            raise ConfigError("exchange-capture files: expected at least one capture, was []; name its path")
        self._ctx = ctx
        self._files = [_File(Path(name).expanduser()) for name in options.files]
        self._names = [options.exchange or file.exchange for file in self._files]
        self._position = 0
        self.marks = 0
        self._open_feeds()

    def _open_feeds(self) -> None:
        self.marks = 0
        self._summarized = -1
        self._connections: set[tuple[int, bytes]] = set()  # number of the file, URL
        self._feeds: list[Feed] = []
        self._feed_of: dict[int, Feed] = {}  # by number of the file

    def _feed(self, index: int) -> Feed:
        if index not in self._feed_of:
            self._feed_of[index] = self._free_feed(self._names[index], self._files[index])
        return self._feed_of[index]

    def _free_feed(self, name: str, file: _File) -> Feed:
        # The feed of the files that *file* belongs with, or one of its own.
        for feed in self._feeds:
            if feed.exchange == name and type(feed) is file.feed:
                others = [self._files[index] for index, its in self._feed_of.items() if its is feed]
                if not file.is_numbered or all(other.is_read for other in others):
                    return feed
        self._feeds.append(file.feed(name, self._ctx.log))
        return self._feeds[-1]

    def events(self) -> Iterator[tuple[int, Sequence[Message]]]:
        """
        Yield (ts_recv, messages) line by line, then once more at the end.

        After restore() the lines before are read again, to have the books, but not yielded.

        Raises: CaptureError: a file is cut off; everything before that has been yielded.
        """
        self._open_feeds()
        start = self._position
        for number, event in enumerate(self._replay(), 1):
            if number > start:
                self._position = number
                yield event

    def _replay(self) -> Iterator[tuple[int, Sequence[Message]]]:
        ts, is_first = 0, True
        merged = heapq.merge(*(file.lines(index) for index, file in enumerate(self._files)))
        for number, (ts, index, url, text) in enumerate(merged, 1):
            messages = self._read(ts, index, url, text)
            if is_first:
                is_first, messages = False, [*self._connected(ts), *messages]
            if number % _SUMMARY_LINES == 0:
                messages = [*messages, *self._summaries(ts)]
            yield ts, messages
        yield ts, [*self._summaries(ts), FeedEnded(ts, self._ctx.plugin, self._count, self._skipped)]

    def _read(self, ts: int, index: int, url: str | None, text: bytes) -> list[Message]:
        feed = self._feed(index)
        if url is None:
            return self._read_mark(feed, ts, index, text)
        if url:
            return feed.on_reply(ts, url, text)
        if text.startswith(b'{"lastUpdateId"') and isinstance(feed, SpotFeed):
            wires = self._files[index].wires
            if len(wires) == 1:
                return feed.on_reply(ts, f"/depth?symbol={wires[0]}", text)
            feed.on_unknown("unknown symbol: a bare depth reply in a file of several symbols", text)
            return []
        return feed.on_frame(ts, text)

    def _read_mark(self, feed: Feed, ts: int, index: int, text: bytes) -> list[Message]:
        if not _MARK.match(text):
            feed.on_unknown("not a capture line", text)
            return []
        self.marks += 1
        made = _CONNECTED.match(text)
        if not made:
            return []
        connection = index, made[1]
        if connection not in self._connections:
            self._connections.add(connection)
            return []
        feed.on_lost()
        return [FeedLost(ts, feed.exchange, "connected again", 0), self._connected_one(ts, feed.exchange)]

    def _connected(self, ts: int) -> list[Message]:
        return [self._connected_one(ts, name) for name in dict.fromkeys(self._names)]

    def _connected_one(self, ts: int, exchange: str) -> FeedConnected:
        symbols: dict[str, None] = {}
        for name, file in zip(self._names, self._files, strict=True):
            if name == exchange:
                symbols |= dict.fromkeys(file.symbols)
        return FeedConnected(ts, exchange, list(symbols))

    @property
    def _count(self) -> int:
        return sum(feed.tally.messages for feed in self._feeds)

    @property
    def _skipped(self) -> int:
        return sum(feed.tally.skipped for feed in self._feeds)

    def _summaries(self, ts: int) -> list[Message]:
        self._summarized = self._count
        totals: dict[str, Tally] = {}
        for feed in self._feeds:
            total = totals.setdefault(feed.exchange, Tally())
            total.clock_offset_ns = feed.summary(ts).clock_offset_ns
            _add(total, feed.tally)
        return [total.summary(ts, exchange) for exchange, total in totals.items()]

    def summarize(self) -> Sequence[Message]:
        """Return what has been seen so far, unless it has just been said."""
        return self._summaries(self._ctx.clock.now()) if self._count != self._summarized else ()

    def orders_at(self, exchange: str, symbol: str, side: Side, price: int) -> Mapping[str, int]:
        """
        Return the lots of the orders that rest at *price* ticks by id, the first in line first.

        Raises: ValueError: none of the files tells the single orders of that market.
        """
        for feed in self._feeds:
            is_its = feed.exchange == exchange and feed.wire_of(symbol) in feed.wires
            if is_its and isinstance(feed, IndependentReserveFeed | KrakenL3Feed):
                return feed.orders(feed.wire_of(symbol)).orders_at(side, price)
        raise ValueError(f"the files tell no single orders of {exchange} {symbol}, only levels")

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(_State(self._position))

    def restore(self, state: bytes) -> None:
        self._position = msgspec.msgpack.decode(state, type=_State).position


def _add(total: Tally, tally: Tally) -> None:
    for symbol, count in tally.streams.items():
        into = total.count(symbol)
        for name in count.__struct_fields__:
            setattr(into, name, getattr(into, name) + getattr(count, name))
    for reason, times in tally.reasons.items():
        total.reasons[reason] = total.reasons.get(reason, 0) + times
    total.books += tally.books
    total.valid_books += tally.valid_books


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-capture",
            factory=Capture,
            options=CaptureOptions,
            publishes=(
                Instrument,
                BookSnapshot,
                BookDelta,
                BookOrders,
                Trade,
                Quote,
                FundingUpdated,
                FeedConnected,
                FeedLost,
                SequenceGap,
                ChecksumFailed,
                BookResynced,
                BookCrossed,
                FeedSummarized,
                FeedEnded,
            ),
            summary="replays recorded WebSocket captures of every exchange we know",
        )
    ]
