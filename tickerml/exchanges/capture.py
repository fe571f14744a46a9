"""
Recorded WebSocket captures as a source: what arrived then, again, through the live parser.

Two archive formats are read, plain or gzipped, told apart by their first lines:

    hftbacktest   1723161254087891268 {"stream":"btcusdt@bookTicker","data":{...}}   receive time in ns
                  1723161254206652067 {"lastUpdateId":...}                           a REST depth reply
    cryptofeed    1617643092.058265: {"stream":"btcusd@bookTicker","data":{...}}     receive time in s
                  https://.../depth?symbol=BTCUSD&limit=1000 -> 1617643092.29: {...} a REST reply
                  configuration: {...}, wss://... with or without <-> or <-          a mark

The bare depth reply of the first names no symbol: it belongs to the one symbol of its
file. All files are merged by receive time, so REST replies may lie in a file of their
own, and books are carried over from a file to the one that continues it.

Nothing is skipped in silence. Each line is one input: it is yielded, messages or none,
and counted as a message, a skipped message with its reason, or a mark. A file that
ends in the middle is an error, after everything before the damage has been published.
"""

import gzip
import heapq
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO, cast
from urllib.parse import parse_qs, urlsplit

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    BookCrossed,
    BookDelta,
    BookResynced,
    BookSnapshot,
    CaptureError,
    ConfigError,
    Context,
    ExchangeSpec,
    FeedConnected,
    FeedEnded,
    FeedSummarized,
    Instrument,
    MalformedMessage,
    Message,
    Options,
    Quote,
    SequenceGap,
    Trade,
    hookimpl,
)

from .binance import SpotFeed, to_symbol

_SUMMARY_LINES = 10_000
_HEAD_LINES = 200  # looked at to tell the format and the symbols
_GZIP_MAGIC = b"\x1f\x8b"
_NEWLINE = ord("\n")
_DAMAGE = (EOFError, OSError, zlib.error)

_HFTBACKTEST = re.compile(rb"(\d{18,19}) ")
_CRYPTOFEED = re.compile(rb"(\d{9,11}(?:\.\d+)?): ")
_REPLY = re.compile(rb"(https?://\S+) -> (\d{9,11}(?:\.\d+)?): ")
_MARK = re.compile(rb"\s*$|configuration: |wss?://")
_STREAM = re.compile(rb"[\"=/]([a-z0-9]+)@")  # in a frame or in the URL of a subscription

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
            description="Name to publish as; empty: binance for hftbacktest, binanceus for cryptofeed files."
        ),
    ] = ""


def seconds_to_ns(text: bytes) -> int:
    """Return decimal seconds ("1617643092.13643") as ns, exactly: a float holds only 238 ns steps there."""
    whole, _, fraction = text.partition(b".")
    return int(whole) * NS_PER_S + int(fraction[:9].ljust(9, b"0"))


def _split(line: bytes) -> tuple[int | None, str | None, bytes]:
    # -> receive time, URL, JSON: as in _Line.
    if found := _HFTBACKTEST.match(line):
        return int(found[1]), "", line[found.end() :]
    if found := _CRYPTOFEED.match(line):
        return seconds_to_ns(found[1]), "", line[found.end() :]
    if found := _REPLY.match(line):
        return seconds_to_ns(found[2]), found[1].decode(errors="replace"), line[found.end() :]
    return None, None, line


def _query(url: str, name: str) -> str:
    return (parse_qs(urlsplit(url).query).get(name) or [""])[0]


def _wires_in(line: bytes) -> list[str]:
    _, url, _ = _split(line)
    if url:
        return [wire] if (wire := _query(url, "symbol")) else []
    return [found.decode().upper() for found in _STREAM.findall(line)]


def _is_whole(line: bytes) -> bool:
    # The last line of a file may lack its newline, if its JSON is all there.
    _, brace, rest = line.partition(b"{")
    if not brace:
        return _MARK.match(line) is not None
    try:
        msgspec.json.decode(brace + rest)
    except msgspec.DecodeError:
        return False
    return True


class _File:
    # One capture file: its format, the symbols its head names, and its lines.

    def __init__(self, path: Path) -> None:
        self.path = path
        head = self._head()
        times = [ts for ts, _, text in map(_split, head) if ts is not None and text.startswith(b"{")]
        if not times:
            raise CaptureError(
                f"cannot replay {path}: expected an hftbacktest or cryptofeed capture, "
                f"was {head[0][:60] if head else b''!r} at line 1; check the path"
            )
        self.first_ts = times[0]
        self.is_hftbacktest = any(_HFTBACKTEST.match(line) for line in head)
        self.wires = list(dict.fromkeys(wire for line in head for wire in _wires_in(line)))

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
        ts, whole = self.first_ts, 0
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
        self._names = [
            options.exchange or ("binance" if file.is_hftbacktest else "binanceus") for file in self._files
        ]
        self._position = 0
        self.marks = 0
        self._open_feeds()

    def _open_feeds(self) -> None:
        self.marks = 0
        self._summarized = -1
        self._feeds = {name: SpotFeed(name, self._ctx.log) for name in self._names}
        self._feed_of = [self._feeds[name] for name in self._names]

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
        feed = self._feed_of[index]
        if url is None:
            if _MARK.match(text):
                self.marks += 1
            else:
                feed.on_unknown("not a capture line", text)
            return []
        if url:
            return self._read_reply(feed, ts, url, text)
        if text.startswith(b'{"lastUpdateId"'):
            wires = self._files[index].wires
            if len(wires) == 1:
                return feed.on_snapshot(ts, wires[0], text)
            feed.on_unknown("unknown symbol: a bare depth reply in a file of several symbols", text)
            return []
        return feed.on_frame(ts, text)

    @staticmethod
    def _read_reply(feed: SpotFeed, ts: int, url: str, text: bytes) -> list[Message]:
        path, wire = urlsplit(url).path, _query(url, "symbol")
        if path.endswith("/depth") and wire:
            return feed.on_snapshot(ts, wire, text)
        if path.endswith("/exchangeInfo"):
            feed.on_exchange_info(ts, text)
        else:
            feed.on_unknown("unsupported request", text)
        return []

    def _connected(self, ts: int) -> list[Message]:
        symbols: dict[str, dict[str, None]] = {name: {} for name in self._feeds}
        for name, file in zip(self._names, self._files, strict=True):
            for wire in file.wires:
                with suppress(MalformedMessage):
                    symbols[name][to_symbol(wire)] = None
        return [FeedConnected(ts, name, list(known)) for name, known in symbols.items()]

    @property
    def _count(self) -> int:
        return sum(feed.tally.messages for feed in self._feeds.values())

    @property
    def _skipped(self) -> int:
        return sum(feed.tally.skipped for feed in self._feeds.values())

    def _summaries(self, ts: int) -> list[Message]:
        self._summarized = self._count
        return [feed.summary(ts) for feed in self._feeds.values()]

    def summarize(self) -> Sequence[Message]:
        """Return what has been seen so far, unless it has just been said."""
        return self._summaries(self._ctx.clock.now()) if self._count != self._summarized else ()

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(_State(self._position))

    def restore(self, state: bytes) -> None:
        self._position = msgspec.msgpack.decode(state, type=_State).position


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
                Trade,
                Quote,
                FeedConnected,
                SequenceGap,
                BookResynced,
                BookCrossed,
                FeedSummarized,
                FeedEnded,
            ),
            summary="replays recorded WebSocket captures of the Binance family",
        )
    ]
