"""
The tape: recorded market data in columns, a few bytes a row.

A stream is one kind of data of one symbol on one exchange, "book|binanceus|BTC/USDT". Its
rows (see tape_rows) are cut into blocks, and a block is one value in an LMDB file (see
tape_blocks), its columns packed (see tape_codec) and squeezed by zstd. Eleven minutes of
Binance's BTC/USDT take 3.3 bytes a row of the book, 4.0 a row when its keyframes are not counted
as rows, and 4.3 a trade, half of that for the ns of its receipt.

A block starts with, or soon after its first message has, the whole book (kind KEYFRAME when
the recorder wrote it, SNAPSHOT when the exchange sent it), so reading can start at any block.
A sealed block is never written again, only pruned as a whole. Beside the blocks stand notes:
what each symbol is, what its feed counted, and each event that put its data in doubt. So what
there is to know of a tape is in the tape.

What is not in a block yet is in the journal of the run that records it. A reader that is given
that journal reads both as one range.

LMDB allows a file to be open once in a process. So neither writer nor reader here keeps it
open: a millisecond for each block, and a component may be built, dropped and built again.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import numpy as np

from tickerml.kernel import (
    FeedSummarized,
    Instrument,
    Message,
    OrderBook,
    StoreCorrupt,
    StoreError,
    StoreFull,
)

from . import tape_hot, tape_loops, tape_replay, tape_tables
from .tape_blocks import (
    COUNTS,
    DIGEST,
    DOUBTS,
    INSTRUMENTS,
    NO_HASH,
    PRUNED,
    Block,
    Note,
    Packed,
    block_items,
    block_key,
    check_hash,
    digest_before,
    note_body,
    note_items,
    note_key,
    note_message,
    note_place,
    pack_block,
    pack_body,
    pack_value,
    parse_block,
    rows_of,
    stream_keys,
)
from .tape_codec import Column
from .tape_codec import pack_rows as pack_rows
from .tape_codec import unpack_rows as unpack_rows
from .tape_files import FILE as FILE
from .tape_files import broken, find_tape, inode, live_bytes, opened
from .tape_numpy import NUMPY
from .tape_rows import HEAD_FIELDS as HEAD_FIELDS
from .tape_rows import MAX_TS, MIN_TS, ROW, Rows, split_stream, stream_name
from .tape_rows import Kind as Kind
from .tape_rows import expand as expand
from .tape_rows import messages as messages
from .tape_select import Selection, Wanted, each, room

_PAGE_BLOCKS = 4


class Sealing(NamedTuple):
    """Rows to be stored as one block: *number* counts the blocks of the stream before it."""

    stream: str
    number: int
    rows: Rows


class Pruned(NamedTuple):
    """What pruning took away."""

    blocks: int = 0
    rows: int = 0
    stored_bytes: int = 0


class TapeWriter:
    """Adds blocks to a tape; it never changes one that is there."""

    def __init__(self, path: Path, map_mb: int = 16_384, *, is_compiled: bool = False) -> None:
        """
        Make the file, or make sure that it can be opened.

        Args:
            path: of the LMDB file.
            map_mb: how large it may become, MB.
            is_compiled: pack with numba's code, to the same bytes.
        Raises: StoreFull: no room to make it. StoreCorrupt: it is not an LMDB file. StoreError: numba is
            asked for and not installed.
        """
        self._kernels = tape_loops.compiled() if is_compiled else NUMPY
        self._path = path
        self._map_size = map_mb * 2**20
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {path.parent} for a tape: {error.strerror}") from None
        with self._begin():
            pass

    @contextmanager
    def _begin(self) -> Iterator[Any]:
        with self._open() as (_, transaction):
            yield transaction

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        try:
            is_current = False
            while not is_current:
                before = inode(self._path)
                with (
                    lmdb.open(str(self._path), subdir=False, map_size=self._map_size) as environment,
                    environment.begin(write=True) as transaction,
                ):
                    # While we waited for our turn, compact() may have put another file in its place.
                    is_current = before in (None, inode(self._path))
                    if is_current:
                        yield environment, transaction
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise StoreFull(
                f"{self._path}: no room for another block in {self._map_size >> 20} MB: {error}; "
                "free the disk, raise map_mb, or move the tape away"
            ) from None
        except lmdb.Error as error:
            raise broken(self._path, error) from None

    def seal(self, stream: str, number: int, rows: Rows) -> int:
        """
        Store *rows* as a block of *stream* for good, and return how many bytes it takes.

        A block that is there already, as when a crash has taken back what the recorder knew
        but not what it had written, is left as it is.

        Args:
            stream: of stream_name().
            number: of blocks sealed in the stream before it; tells blocks of equal time apart.
            rows: ROW, at least one, in the order they came.
        Raises: StoreFull. StoreCorrupt: another block has its place.
        """
        return self.seal_all([Sealing(stream, number, rows)])[0]

    def seal_all(self, blocks: Sequence[Sealing], notes: Iterable[Note] = ()) -> list[int]:
        """
        Store *blocks* as seal() does, and *notes* in the place of those of the same key, all or nothing.

        Raises: as seal().
        """
        packed = each(lambda block: pack_body(block.rows, self._kernels), blocks)
        with self._begin() as transaction:
            for note in notes:
                transaction.put(note.key, note.value)
            return [
                self._put(transaction.cursor(), block, body)
                for block, body in zip(blocks, packed, strict=True)
            ]

    def _put(self, cursor: Any, block: Sealing, packed: Packed) -> int:
        key = block_key(block.stream, packed.first_ts, block.number)
        if cursor.set_key(key):
            present = parse_block(self._path, key, cursor.value())
            if rows_of(self._path, present, cursor.value()).tobytes() == block.rows.tobytes():
                return present.stored_bytes
            raise StoreCorrupt(
                f"{self._path}: {present.name} holds {present.rows} other rows; "
                "a sealed block is never rewritten, so move the tape away to record anew"
            )
        value = pack_block(len(block.rows), packed, digest_before(cursor, block.stream, key))
        cursor.put(key, value)
        return len(value)

    def prune(self, before_ns: int = MIN_TS, max_bytes: int = 0) -> Pruned:
        """
        Take away whole blocks, oldest first, and the doubts of their time; their hash is kept for verify().

        The file does not shrink: what is freed is written again. compact() makes a smaller one.

        Args:
            before_ns: blocks whose last ts_recv is before this go.
            max_bytes: then the oldest go until the tape takes no more than this; 0 is no limit.
        """
        done, excess = Pruned(), live_bytes(self._path) - (max_bytes or MAX_TS)
        with self._begin() as transaction:
            while block := self._oldest(transaction, MAX_TS if excess > 0 else before_ns):
                excess -= block.paged_bytes
                transaction.put(note_key(PRUNED, block.stream, "", MIN_TS), pack_value(block.digest))
                transaction.delete(block_key(block.stream, block.first_ts, block.number))
                done = Pruned(done.blocks + 1, done.rows + block.rows, done.stored_bytes + block.stored_bytes)
            if done.blocks:
                doubts = [key for key, _ in note_items(transaction.cursor(), DOUBTS)]
                for key in doubts:
                    if note_place(key)[2] < before_ns:
                        transaction.delete(key)
        return done

    def compact(self) -> int:
        """
        Write the tape anew without the room that pruning left, and return how many bytes it takes.

        Writers wait meanwhile and go on with the new file; readers keep what they have open.

        Raises: StoreFull: no room for a second copy.
        """
        part = self._path.with_name(self._path.name + ".part")
        try:
            with self._open() as (environment, _), part.open("wb") as file:
                environment.copyfd(file.fileno(), compact=True)
                os.fsync(file.fileno())
                part.replace(self._path)
        finally:
            part.unlink(missing_ok=True)
        return self._path.stat().st_size

    def _oldest(self, transaction: Any, before_ns: int) -> Block | None:
        # Of the first block of each stream: a long one of a quiet stream keeps none of the others.
        cursor = transaction.cursor()
        first = [cursor.item() for _ in stream_keys(cursor)]
        blocks = [parse_block(self._path, *item, is_checked=False) for item in first]
        past = [block for block in blocks if block.last_ts < before_ns]
        return min(past, key=lambda block: block.first_ts, default=None)


class TapeReader:
    """Reads a tape, also while a writer in another process adds to it."""

    def __init__(self, path: Path, journal: Path | None = None, *, is_compiled: bool | None = False) -> None:
        """
        Args:
            path: of the tape, or of a directory in which one lies: HOME/runs/PROFILE/NUMBER is such.
            journal: of the run that records it: then what is not in a block yet is read from there.
            is_compiled: unpack with numba's code, to the same rows; it takes seconds to compile once. None
                for where numba is installed and the tape is large enough to gain by it.
        Raises: StoreError: there is no such file, or numba is asked for and not installed. StoreCorrupt:
            it is not an LMDB file.
        """
        self._path = find_tape(path)
        self._kernels = tape_loops.chosen(is_compiled, self._path.stat().st_size)
        self._journal = journal
        with self._begin():
            pass

    @property
    def path(self) -> Path:
        """Where the tape lies."""
        return self._path

    @property
    def codec(self) -> str:
        """Which code unpacks its blocks: numpy or compiled."""
        return self._kernels.name

    @contextmanager
    def _begin(self, buffers: bool = False) -> Iterator[Any]:
        with opened(self._path) as environment, environment.begin(buffers=buffers) as transaction:
            yield transaction

    # --- What is there ----------------------------------------------------------------------------

    def streams(self) -> list[str]:
        """Return the names of all streams, sorted."""
        sealed = set(self.sealed())
        return sorted(sealed | (tape_hot.streams(self._journal) if self._journal else set()))

    def sealed(self) -> list[str]:
        """Return the names of the streams that have a block, sorted."""
        with self._begin() as transaction:
            return sorted(name.decode() for name in stream_keys(transaction.cursor()))

    def unsealed(self) -> tape_hot.Unsealed:
        """Return what is in no block yet, in one pass through the journal; nothing where none is given."""
        if not self._journal:
            return tape_hot.Unsealed({}, [])
        names = self.sealed()
        with self._begin() as transaction:
            tails = {name: self._tail(transaction.cursor(), name) for name in names}
        return tape_hot.unsealed(self._journal, tails)

    def blocks(self, stream: str) -> list[Block]:
        """
        Return the headers of all blocks of *stream*, in time order.

        Raises: StoreCorrupt: a header is not one.
        """
        with self._begin(buffers=True) as transaction:
            return [
                parse_block(self._path, key, value, is_checked=False)
                for key, value in block_items(transaction.cursor(), stream)
            ]

    def counts(self) -> list[FeedSummarized]:
        """Return what each feed counted last, once for each time it began to count, by exchange and time."""
        return [message for message in self._notes(COUNTS) if isinstance(message, FeedSummarized)]

    def doubts(self) -> list[Message]:
        """Return every event that put data in doubt or took a doubt away, in the order they came."""
        return sorted(self._notes(DOUBTS), key=lambda message: message.ts_recv)

    def instruments(self) -> dict[tuple[str, str], Instrument]:
        """Return what is known of each (exchange, symbol), as it was said last."""
        return {
            (message.exchange, message.symbol): message
            for message in self._notes(INSTRUMENTS)
            if isinstance(message, Instrument)
        }

    def scale(self, stream: str) -> Instrument | None:
        """Return the instrument whose ticks and lots *stream* is in; None where the tape does not say it."""
        _, exchange, symbol = split_stream(stream)
        found = None
        with self._begin() as transaction:
            for place in ((exchange, symbol), (stream, "")):  # imported bars have a scale of their own
                for key, value in note_items(transaction.cursor(), INSTRUMENTS):
                    if note_place(key)[:2] == place:
                        found = note_message(self._path, key, value)
        return found if isinstance(found, Instrument) else None

    def _notes(self, table: str) -> list[Message]:
        with self._begin() as transaction:
            return [note_message(self._path, *item) for item in note_items(transaction.cursor(), table)]

    def raw_notes(self) -> list[Note]:
        """Return all notes as they are stored."""
        with self._begin() as transaction:
            return [Note(*item) for item in note_items(transaction.cursor())]

    # --- Rows -------------------------------------------------------------------------------------

    def parts(self, stream: str) -> Iterator[tuple[Block, Rows]]:
        """
        Yield each block of *stream* and all its rows, in time order.

        Raises: StoreCorrupt: a block is not what was sealed.
        """
        for block in self.blocks(stream):
            with self._begin() as transaction:
                value = transaction.get(block_key(stream, block.first_ts, block.number))
            if value is not None:  # it was not pruned meanwhile
                yield block, rows_of(self._path, block, value, self._kernels)

    def read(
        self,
        stream: str,
        start_ns: int = MIN_TS,
        end_ns: int = MAX_TS,
        has_keyframes: bool = False,
        into: Rows | None = None,
    ) -> Rows:
        """
        Return the rows of *stream* with start_ns <= ts_recv < end_ns, as an array of ROW.

        Args:
            has_keyframes: also the books that the recorder wrote where its blocks begin. Read from
                a block's first_ts with them to know the book from its first message on.
            into: rows read before and no longer needed, whose memory is used again where there is enough of
                it: what the system has to hand out anew takes longer to get than to fill.
        Raises: StoreCorrupt: a block is not what was sealed.
        """
        rows = np.empty(0, ROW)

        def allocate(count: int) -> Mapping[str, Column]:
            nonlocal rows
            rows = room(count, ROW, into)
            return {name: rows[name] for name in ROW.names or ()}

        hot = self._select(stream, Wanted(start_ns, end_ns, has_keyframes), allocate)
        return np.concatenate([rows, hot]) if len(hot) else rows

    def columns(
        self,
        stream: str,
        names: Sequence[str] = ROW.names or (),
        start_ns: int = MIN_TS,
        end_ns: int = MAX_TS,
        has_keyframes: bool = False,
        into: Mapping[str, Column] | None = None,
    ) -> dict[str, Column]:
        """
        Return columns of what read() returns by name, each an array of its own; the others are not unpacked.

        Args:
            into: columns of before, as read() has it.
        Raises: ValueError: there is no such column. StoreCorrupt: a block is not what was sealed.
        """
        unknown = set(names) - set(ROW.names or ())
        if unknown:
            raise ValueError(f"expected columns among {', '.join(ROW.names or ())}, was {sorted(unknown)}")
        found: dict[str, Column] = {}

        def allocate(count: int) -> Mapping[str, Column]:
            found.update((name, room(count, ROW[name], (into or {}).get(name))) for name in names)
            return found

        hot = self._select(stream, Wanted(start_ns, end_ns, has_keyframes), allocate)
        if not len(hot):
            return found
        return {name: np.concatenate([column, hot[name]]) for name, column in found.items()}

    def _select(self, stream: str, wanted: Wanted, allocate: Callable[[int], Mapping[str, Column]]) -> Rows:
        # Unpacks what the blocks have of it, straight from LMDB's memory, and returns what the journal has.
        with self._begin(buffers=True) as transaction:
            cursor = transaction.cursor()
            blocks = [
                (key, value)
                for key, value in block_items(cursor, stream, wanted.start_ns, wanted.end_ns)
                if parse_block(self._path, key, value, is_checked=False).last_ts >= wanted.start_ns
            ]
            selection = Selection(self._path, blocks, wanted, self._kernels)
            selection.fill(allocate(selection.length))
            tail = self._tail(cursor, stream) if self._journal else None
        if self._journal and (tail is None or tail["ts_recv"].max() < wanted.end_ns):
            return wanted.of(tape_hot.rows_after(self._journal, stream, tail))
        return np.empty(0, ROW)

    def _tail(self, cursor: Any, stream: str) -> Rows | None:
        # The rows of the last block.
        for key, value in block_items(cursor, stream, MAX_TS):
            return rows_of(self._path, parse_block(self._path, key, value), value, self._kernels)
        return None

    def book_at(self, exchange: str, symbol: str, ts: int) -> OrderBook:
        """
        Return the book as it was known right after everything received until *ts*, ns UTC.

        It is RESYNCING where it was not known then: before the first snapshot, and after a gap.
        """
        stream = stream_name("book", exchange, symbol)
        with self._begin() as transaction:
            blocks = [
                parse_block(self._path, key, value, is_checked=False)
                for key, value in block_items(transaction.cursor(), stream, ts + 1, ts + 1)
            ]
        start = blocks[-1].first_ts if blocks else MIN_TS
        return tape_replay.book_of(exchange, symbol, self.read(stream, start, ts + 1, has_keyframes=True))

    def merged(
        self,
        streams: Iterable[str] = (),
        start_ns: int = MIN_TS,
        end_ns: int = MAX_TS,
        lateness_ns: int = 0,
    ) -> Iterator[tape_replay.Event]:
        """
        Yield the messages of *streams*, all when none are named, in the order of their ts_recv.

        At equal times the streams come in the order named, and within one in that of the tape. This
        is the only way in which streams are joined: nobody sees a message before its time.

        Args:
            lateness_ns: how long a message that came out of order is waited for. One that is later
                comes as soon as it is met, marked is_late.
        Raises: StoreCorrupt: a block is not what was sealed.
        """
        tails, cold = self.unsealed().tails, copy(self)  # one pass through the journal for all streams
        cold._journal = None
        names = list(streams) or sorted({*self.sealed(), *tails})
        wanted = Wanted(start_ns, end_ns, has_keyframes=False)
        pages = {
            name: chain(
                cold.pages(name, start_ns, end_ns), [wanted.of(tails[name].rows)] if name in tails else []
            )
            for name in names
        }
        return tape_replay.merged(pages, lateness_ns)

    def pages(self, stream: str, start_ns: int = MIN_TS, end_ns: int = MAX_TS) -> Iterator[Rows]:
        """Yield what read() returns, a few blocks at a time."""
        bounds = [block.first_ts for block in self.blocks(stream) if start_ns < block.first_ts < end_ns]
        for start, end in pairwise(dict.fromkeys([start_ns, *bounds[::_PAGE_BLOCKS], end_ns])):
            yield self.read(stream, start, end)

    # --- For other tools --------------------------------------------------------------------------

    def to_arrow(self, stream: str, start_ns: int = MIN_TS, end_ns: int = MAX_TS) -> Any:
        """
        Return the rows of read() as a pyarrow.Table, with the scale of the symbol in its metadata.

        Raises: StoreError: pyarrow is not installed. StoreCorrupt: as read().
        """
        return tape_tables.to_arrow(stream, self._table(stream, start_ns, end_ns), self.scale(stream))

    def to_polars(self, stream: str, start_ns: int = MIN_TS, end_ns: int = MAX_TS) -> Any:
        """
        Return the rows of read() as a polars.DataFrame.

        Raises: StoreError: polars is not installed. StoreCorrupt: as read().
        """
        return tape_tables.to_polars(stream, self._table(stream, start_ns, end_ns))

    def _table(self, stream: str, start_ns: int, end_ns: int) -> tape_tables.Table:
        # Columns that are not rows first need no copy on their way into another tool.
        read = self.read if tape_tables.is_derived(stream) else self.columns
        return read(stream, start_ns=start_ns, end_ns=end_ns)

    def to_parquet(self, path: Path, stream: str, start_ns: int = MIN_TS, end_ns: int = MAX_TS) -> int:
        """
        Write the rows of read() into a Parquet file, a block at a time, and return how many.

        Raises: StoreError: pyarrow is not installed, or the file cannot be written. StoreCorrupt: as read().
        """
        pages = self.pages(stream, start_ns, end_ns)
        return tape_tables.write("parquet", path, stream, pages, self.scale(stream))

    def bars(
        self, stream: str, seconds: int, start_ns: int = MIN_TS, end_ns: int = MAX_TS
    ) -> tape_tables.Bars:
        """
        Return the bars of *seconds* that the trades of *stream* make, by ts_event; none for a silence.

        A stream of bars is given as it was imported, if it is of *seconds*.
        """
        return tape_tables.bars_of(self.read(stream, start_ns, end_ns), seconds)

    # --- Whether it is whole ----------------------------------------------------------------------

    def verify(self) -> list[str]:
        """Return what is wrong with the tape, a sentence for each problem; nothing when all is well."""
        problems = []
        with self._begin() as transaction:
            names = [name.decode() for name in stream_keys(transaction.cursor())]
            for key, value in note_items(transaction.cursor()):
                try:
                    note_body(self._path, key, value)
                except StoreCorrupt as error:
                    problems.append(str(error))
        for stream in names:
            problems += self.verify_stream(stream)
        return problems

    def verify_stream(self, stream: str) -> list[str]:
        """Return what is wrong with the blocks of *stream*, as verify()."""
        problems, last_ts = [], MIN_TS
        with self._begin() as transaction:
            pruned = transaction.get(note_key(PRUNED, stream, "", MIN_TS))
            known = {NO_HASH, *([note_body(self._path, b"pruned", pruned)] if pruned else [])}
            for key, value in block_items(transaction.cursor(), stream):
                known.add(value[DIGEST])  # a damaged block is there all the same
                try:
                    block = parse_block(self._path, key, value)
                    check_hash(self._path, block, value)
                    rows_of(self._path, block, value, self._kernels)
                except StoreCorrupt as error:
                    problems.append(str(error))
                    continue
                if block.previous not in known:
                    problems.append(f"{self._path}: {block.name} follows a block that is not there")
                if block.first_ts < last_ts:
                    problems.append(f"{self._path}: {block.name} begins before the one before it ends")
                last_ts = max(last_ts, block.last_ts)
        return problems
