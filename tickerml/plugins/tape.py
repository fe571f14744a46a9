"""
The tape: recorded market data in columns, a few bytes a row.

A stream is one kind of data of one symbol on one exchange, "book|binanceus|BTC/USDT". Its
rows are cut into blocks, and a block is one value in an LMDB file. A row is one level of a
book, one trade, or one side of a quote; the rows of one message stand together and the last
of them says so. A message without levels is one row of side 0.

Columns are packed for what they are, and zstd squeezes out the rest:

    ts_recv, ts_event, seq   only where they change, as differences; a bit a row says where, and
                             that bit is written as "not what the end of the last message led
                             one to expect", so that it is nearly always zero
    price                    differences, bids apart from asks
    quantity                 the zeros (deleted levels) as a bit a row, the others as they are
    side, kind, is_last      a byte or a bit a row

Differences wrap around modulo 2**64, so every int64 survives. Numbers are zigzagged, divided
by their common divisor (an exchange's milliseconds), cut to the bytes they need, and laid out
byte plane by byte plane: all the low bytes, then all the next ones. Eleven minutes of
Binance's BTC/USDT take 3.2 bytes a row of the book, 4.0 a row when its keyframes are not counted
as rows, and 5.2 a trade, half of that for the ns of its receipt.

A block starts with, or soon after its first message has, the whole book (kind KEYFRAME when
the recorder wrote it, SNAPSHOT when the exchange sent it), so reading can start at any block.
A sealed block is never written again. Its header carries a CRC of what is stored, and a hash
over its rows chained to the block before, so that verify() finds a changed byte and a missing
block alike:

    magic "TML1" | version u16 | 0 u16 | rows u32 | first, last ts_recv i64 | hash of the block
    before, 16 bytes | own hash, 16 bytes | CRC32 of all this and the body u32 | body, zstd

The key is the stream's name, a zero byte, first ts_recv u64 with its sign bit flipped and the
block's number u32, big-endian, so that LMDB's order is time's order.

LMDB allows a file to be open once in a process. So neither writer nor reader here keeps it
open: a millisecond for each block, and a component may be built, dropped and built again.
"""

import enum
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import numpy as np
import numpy.typing as npt
import zstandard

from tickerml.kernel import (
    BookDelta,
    BookSnapshot,
    Message,
    Quote,
    SequenceGap,
    Side,
    StoreCorrupt,
    StoreError,
    StoreFull,
    Trade,
)

VERSION = 1
ZSTD_LEVEL = 3

Rows = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]

ROW = np.dtype(
    [
        ("ts_recv", "<i8"),
        ("ts_event", "<i8"),
        ("seq", "<i8"),
        ("price", "<i8"),  # ticks
        ("quantity", "<i8"),  # lots
        ("side", "i1"),  # +1 bid or buyer, -1 ask or seller, 0 neither
        ("kind", "u1"),
        ("is_last", "?"),  # of its message
    ]
)

#: What a recorder keeps of each message beside its levels; see expand().
HEAD_FIELDS = ("ts_recv", "ts_event", "seq", "kind", "bids", "asks", "others")

_MAGIC = b"TML1"
_HEADER = struct.Struct("<4sHHIqq16s16sI")
_DIGEST = slice(44, 60)  # of a header
_KEY = struct.Struct(">QI")
_COLUMN = struct.Struct("<qqB")  # first, divisor, bytes a number
_NO_HASH = bytes(16)
_MIN_TS, _MAX_TS = -(2**63), 2**63 - 1


class Kind(enum.IntEnum):
    """What a row is part of."""

    DELTA = 0
    SNAPSHOT = 1
    KEYFRAME = 2  # the whole book as the recorder knew it, after the rows before it
    TRADE = 3
    QUOTE = 4
    GAP = 5  # something is missing here; price: the seq expected, quantity: the seq that came


class Block(NamedTuple):
    """What the header of one sealed block says."""

    stream: str
    number: int
    rows: int
    first_ts: int
    last_ts: int
    previous: bytes
    digest: bytes
    stored_bytes: int

    @property
    def name(self) -> str:
        """How errors name it."""
        return f"block {self.number} of {self.stream} at {self.first_ts}"


def stream_name(kind: str, exchange: str, symbol: str) -> str:
    """Return the name of the stream of *kind* ("book", "trade", "quote") of *symbol* on *exchange*."""
    return f"{kind}|{exchange}|{symbol}"


# --- Rows and messages ----------------------------------------------------------------------------


def expand(heads: bytes, levels: bytes) -> Rows:
    """
    Return the rows of messages that were kept as heads and levels.

    Args:
        heads: HEAD_FIELDS of each message as int64; bids, asks and others count its levels, in this order.
        levels: (price, quantity) of all levels as int64.
    """
    head = np.frombuffer(heads, np.int64).reshape(-1, len(HEAD_FIELDS))
    level = np.frombuffer(levels, np.int64).reshape(-1, 2)
    counts = head[:, 4:]  # (messages, 3)
    per_message = counts.sum(axis=1)
    rows = np.zeros(len(level), ROW)
    for index, field in enumerate(HEAD_FIELDS[:4]):
        rows[field] = np.repeat(head[:, index], per_message)
    rows["price"], rows["quantity"] = level[:, 0], level[:, 1]
    rows["side"] = np.repeat(np.tile([1, -1, 0], len(head)), counts.ravel())
    rows["is_last"][np.cumsum(per_message) - 1] = True
    return rows


def messages(stream: str, rows: Rows) -> Iterator[Message]:
    """
    Yield the messages that *rows* of *stream* were made of; a keyframe becomes a BookSnapshot.

    Raises: StoreCorrupt: a row of no known kind.
    """
    _, exchange, symbol = stream.split("|")
    ends = np.flatnonzero(rows["is_last"]) + 1
    for start, end in pairwise([0, *ends.tolist()]):
        yield _message(exchange, symbol, rows[start:end])


def _message(exchange: str, symbol: str, rows: Rows) -> Message:
    ts_recv, ts_event, seq, price, quantity, side, kind, _ = rows[0].item()
    match kind:
        case Kind.TRADE:
            return Trade(ts_recv, ts_event, exchange, symbol, seq, price, quantity, Side(side))
        case Kind.QUOTE:
            ask = rows[1]
            ask_price, ask_quantity = int(ask["price"]), int(ask["quantity"])
            return Quote(ts_recv, ts_event, exchange, symbol, seq, price, quantity, ask_price, ask_quantity)
        case Kind.GAP:
            return SequenceGap(ts_recv, exchange, symbol, price, quantity)
        case Kind.DELTA:
            return BookDelta(ts_recv, ts_event, exchange, symbol, seq, _levels(rows, 1), _levels(rows, -1))
        case Kind.SNAPSHOT | Kind.KEYFRAME:
            return BookSnapshot(ts_recv, ts_event, exchange, symbol, seq, _levels(rows, 1), _levels(rows, -1))
    raise StoreCorrupt(f"expected a row of a known kind, was {kind} at {ts_recv} of {exchange} {symbol}")


def _levels(rows: Rows, side: int) -> bytes:
    chosen = rows[rows["side"] == side]
    return np.stack([chosen["price"], chosen["quantity"]], axis=1).tobytes()


# --- Packing --------------------------------------------------------------------------------------


def pack_rows(rows: Rows) -> bytes:
    """Return *rows* as packed columns, not yet compressed; the number of rows is not in it."""
    times = np.stack([rows["ts_recv"], rows["ts_event"], rows["seq"]])  # (3, rows)
    is_changed = np.ones(len(rows), bool)
    is_changed[1:] = (times[:, 1:] != times[:, :-1]).any(axis=0)
    order = np.argsort(rows["side"], kind="stable")
    quantity = rows["quantity"]
    return b"".join(
        [
            rows["side"].tobytes(),
            rows["kind"].tobytes(),
            np.packbits(rows["is_last"]).tobytes(),
            np.packbits(is_changed ^ _is_first(rows["is_last"])).tobytes(),
            *(_pack_numbers(column[is_changed], is_difference=True) for column in times),
            _pack_numbers(rows["price"][order], is_difference=True),
            np.packbits(quantity == 0).tobytes(),
            _pack_numbers(quantity[quantity != 0], is_difference=False),
        ]
    )


def unpack_rows(payload: bytes, count: int) -> Rows:
    """
    Return the *count* rows that pack_rows() made *payload* of.

    Raises: ValueError: *payload* is not as long as that takes.
    """
    rows = np.empty(count, ROW)
    reader = _Reader(payload)
    rows["side"] = reader.take(count).view(np.int8)
    rows["kind"] = reader.take(count)
    rows["is_last"] = reader.bits(count)
    is_changed = reader.bits(count) ^ _is_first(rows["is_last"])
    changes = np.cumsum(is_changed) - 1  # (rows,): which change each row follows
    for field in ("ts_recv", "ts_event", "seq"):
        rows[field] = reader.numbers(int(is_changed.sum()), is_difference=True)[changes]
    order = np.argsort(rows["side"], kind="stable")
    price = np.empty(count, np.int64)
    price[order] = reader.numbers(count, is_difference=True)
    rows["price"] = price
    is_zero = reader.bits(count)
    quantity = np.zeros(count, np.int64)
    quantity[~is_zero] = reader.numbers(int(count - is_zero.sum()), is_difference=False)
    rows["quantity"] = quantity
    reader.finish()
    return rows


def _is_first(is_last: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    # Where a message begins, if each one ends where it says.
    return np.concatenate([np.ones(min(1, len(is_last)), bool), is_last[:-1]])


def _pack_numbers(numbers: Ints, is_difference: bool) -> bytes:
    first = int(numbers[0]) if is_difference and len(numbers) else 0
    values = np.diff(numbers) if is_difference else numbers
    divisor = _common_divisor(values)
    values = values // divisor
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    width = (int(zigzag.max()).bit_length() + 7) // 8 if len(zigzag) else 0
    planes = zigzag.view(np.uint8).reshape(-1, 8)[:, :width].T
    return _COLUMN.pack(first, divisor, width) + planes.tobytes()


def _common_divisor(values: Ints) -> int:
    # int64's least number has no positive counterpart, and a gcd of it no sign to rely on.
    if not len(values) or values.min() == _MIN_TS:
        return 1
    return int(np.gcd.reduce(values)) or 1


class _Reader:
    # Takes columns off the front of a payload.

    def __init__(self, payload: bytes) -> None:
        self._bytes = np.frombuffer(payload, np.uint8)
        self._at = 0

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        part = self._bytes[self._at : self._at + count]
        if len(part) != count:
            raise ValueError(f"expected {count} bytes at {self._at}, was {len(part)}")
        self._at += count
        return part

    def bits(self, count: int) -> npt.NDArray[np.bool_]:
        return np.unpackbits(self.take(-(-count // 8)), count=count).astype(bool)

    def numbers(self, count: int, is_difference: bool) -> Ints:
        first, divisor, width = _COLUMN.unpack(self.take(_COLUMN.size).tobytes())
        stored = max(count - 1, 0) if is_difference else count
        padded = np.zeros((stored, 8), np.uint8)
        padded[:, :width] = self.take(stored * width).reshape(width, stored).T
        zigzag = padded.view(np.uint64).ravel()
        values = ((zigzag >> np.uint64(1)) ^ (np.uint64(0) - (zigzag & np.uint64(1)))).view(np.int64)
        values = values * np.int64(divisor)
        if not is_difference or not count:
            return values
        return np.cumsum(np.concatenate([np.array([first], np.int64), values]))

    def finish(self) -> None:
        if self._at != len(self._bytes):
            raise ValueError(f"expected {self._at} bytes of columns, was {len(self._bytes)}")


def _seal(rows: Rows, previous: bytes) -> tuple[bytes, bytes]:
    # (digest, value): a block's own hash, and all that is stored of it.
    payload = pack_rows(rows)
    digest = hashlib.sha256(previous + payload).digest()[:16]
    body = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(payload)
    first, last = int(rows["ts_recv"].min()), int(rows["ts_recv"].max())
    header = _HEADER.pack(_MAGIC, VERSION, 0, len(rows), first, last, previous, digest, 0)[:-4]
    return digest, b"%b%b%b" % (header, zlib.crc32(body, zlib.crc32(header)).to_bytes(4, "little"), body)


# --- The file -------------------------------------------------------------------------------------


class TapeWriter:
    """Adds blocks to a tape; it never changes one that is there."""

    def __init__(self, path: Path, map_mb: int = 16_384) -> None:
        """
        Make the file, or make sure that it can be opened.

        Args:
            path: of the LMDB file.
            map_mb: how large it may become, MB.
        Raises: StoreFull: no room to make it. StoreCorrupt: it is not an LMDB file.
        """
        self._path = path
        self._map_size = map_mb * 2**20
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._begin():
            pass

    @contextmanager
    def _begin(self) -> Iterator[Any]:
        try:
            with (
                lmdb.open(str(self._path), subdir=False, map_size=self._map_size) as environment,
                environment.begin(write=True) as transaction,
            ):
                yield transaction
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise StoreFull(
                f"{self._path}: no room for another block in {self._map_size >> 20} MB: {error}; "
                "free the disk, raise map_mb, or move the tape away"
            ) from None
        except lmdb.Error as error:
            raise _broken(self._path, error) from None

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
        key = _key(stream, int(rows["ts_recv"].min()), number)
        with self._begin() as transaction:
            cursor = transaction.cursor()
            previous = _digest_before(cursor, stream, key)
            digest, value = _seal(rows, previous)
            if cursor.put(key, value, overwrite=False):
                return len(value)
            present = _parse(self._path, key, cursor.get(key))
            if present.digest != digest:
                raise StoreCorrupt(
                    f"{self._path}: {present.name} holds {present.rows} other rows; "
                    "a sealed block is never rewritten, so move the tape away to record anew"
                )
            return present.stored_bytes


class TapeReader:
    """Reads a tape, also while a writer in another process adds to it."""

    def __init__(self, path: Path) -> None:
        """
        Raises: StoreError: there is no such file. StoreCorrupt: it is not an LMDB file.
        """
        if not path.is_file():
            raise StoreError(f"expected a tape at {path}, was nothing; record one with the recorder plugin")
        self._path = path
        with self._begin():
            pass

    @contextmanager
    def _begin(self) -> Iterator[Any]:
        # Where the lock file cannot be written, as on a mounted copy, nobody is writing the tape either.
        has_lock = os.access(self._path.parent, os.W_OK)
        try:
            # Without a size of our own we take the writer's, however large it has made the map.
            with (
                lmdb.open(
                    str(self._path), subdir=False, readonly=True, map_size=0, lock=has_lock
                ) as environment,
                environment.begin() as transaction,
            ):
                yield transaction
        except lmdb.Error as error:
            raise _broken(self._path, error) from None

    def streams(self) -> list[str]:
        """Return the names of all streams, sorted."""
        names = []
        with self._begin() as transaction:
            cursor = transaction.cursor()
            has_more = cursor.first()
            while has_more:
                name = cursor.key().split(b"\0", 1)[0]
                names.append(name.decode())
                has_more = cursor.set_range(name + b"\1")
        return names

    def blocks(self, stream: str) -> list[Block]:
        """
        Return the headers of all blocks of *stream*, in time order.

        Raises: StoreCorrupt: a header is not one.
        """
        with self._begin() as transaction:
            return [_parse(self._path, key, value) for key, value in _items(transaction.cursor(), stream)]

    def read(
        self, stream: str, start_ns: int = _MIN_TS, end_ns: int = _MAX_TS, has_keyframes: bool = False
    ) -> Rows:
        """
        Return the rows of *stream* with start_ns <= ts_recv < end_ns, as an array of ROW.

        Args:
            has_keyframes: also the books that the recorder wrote where its blocks begin. Read from
                a block's first_ts with them to know the book from its first message on.
        Raises: StoreCorrupt: a block is not what was sealed.
        """
        parts = [np.empty(0, ROW)]
        with self._begin() as transaction:
            for key, value in _items(transaction.cursor(), stream, start_ns, end_ns):
                block = _parse(self._path, key, value)
                if block.last_ts >= start_ns:
                    parts.append(_rows_of(self._path, block, value))
        rows = np.concatenate(parts)
        is_chosen = (rows["ts_recv"] >= start_ns) & (rows["ts_recv"] < end_ns)
        if not has_keyframes:
            is_chosen &= rows["kind"] != Kind.KEYFRAME
        return rows[is_chosen]

    def verify(self) -> list[str]:
        """Return what is wrong with the tape, a sentence for each problem; nothing when all is well."""
        problems = []
        for stream in self.streams():
            known = {_NO_HASH}
            with self._begin() as transaction:
                for key, value in _items(transaction.cursor(), stream):
                    known.add(value[_DIGEST])  # a damaged block is there all the same
                    try:
                        block = _parse(self._path, key, value)
                        _rows_of(self._path, block, value)
                    except StoreCorrupt as error:
                        problems.append(str(error))
                        continue
                    if block.previous not in known:
                        problems.append(f"{self._path}: {block.name} follows a block that is not there")
        return problems


def _broken(path: Path, error: lmdb.Error) -> StoreError:
    kind = (
        StoreCorrupt
        if isinstance(error, lmdb.CorruptedError | lmdb.InvalidError | lmdb.PageNotFoundError)
        else StoreError
    )
    return kind(f"{path}: cannot be used as a tape: {error}")


def _key(stream: str, first_ts: int, number: int) -> bytes:
    return stream.encode() + b"\0" + _KEY.pack(first_ts - _MIN_TS, number)


def _items(
    cursor: Any, stream: str, start_ns: int = _MIN_TS, end_ns: int | None = None
) -> Iterator[tuple[bytes, bytes]]:
    # The blocks of *stream* that begin before *end_ns*, from the last one that begins before *start_ns*.
    prefix = stream.encode() + b"\0"
    start = _key(stream, start_ns, 0)
    end = prefix + b"\xff" * (_KEY.size + 1) if end_ns is None else _key(stream, end_ns, 0)
    has_before = cursor.prev() if cursor.set_range(start) else cursor.last()
    if not (has_before and cursor.key().startswith(prefix)) and not cursor.set_range(start):
        return
    for key, value in cursor:
        if key >= end:
            return
        yield key, value


def _digest_before(cursor: Any, stream: str, key: bytes) -> bytes:
    has_before = cursor.prev() if cursor.set_range(key) else cursor.last()
    if not has_before or not cursor.key().startswith(stream.encode() + b"\0"):
        return _NO_HASH
    digest: bytes = cursor.value()[_DIGEST]
    return digest


def _parse(path: Path, key: bytes, value: bytes) -> Block:
    name, _, place = key.partition(b"\0")
    first_ts, number = _KEY.unpack(place)
    where = f"{path}: block {number} of {name.decode()} at {first_ts + _MIN_TS}"
    if len(value) < _HEADER.size:
        raise StoreCorrupt(f"{where} is {len(value)} bytes long, too short for a header; restore it")
    magic, version, _, rows, first, last, previous, digest, crc = _HEADER.unpack_from(value)
    if (magic, version) != (_MAGIC, VERSION):
        raise StoreCorrupt(f"{where}: expected version {VERSION} of a block, was {magic!r} {version}")
    if zlib.crc32(value[_HEADER.size :], zlib.crc32(value[: _HEADER.size - 4])) != crc:
        raise StoreCorrupt(f"{where} does not match its checksum; restore it from a copy of the tape")
    return Block(name.decode(), number, rows, first, last, previous, digest, len(value))


def _rows_of(path: Path, block: Block, value: bytes) -> Rows:
    try:
        payload = zstandard.ZstdDecompressor().decompress(value[_HEADER.size :])
        rows = unpack_rows(payload, block.rows)
    except (zstandard.ZstdError, ValueError) as error:
        raise StoreCorrupt(f"{path}: {block.name} cannot be unpacked: {error}") from None
    if hashlib.sha256(block.previous + payload).digest()[:16] != block.digest:
        raise StoreCorrupt(f"{path}: {block.name} does not match its hash; restore it from a copy")
    return rows
