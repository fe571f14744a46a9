"""
Blocks and notes: what lies in a tape's file, byte by byte.

A sealed block is never written again. Its header carries a CRC of what is stored, and a hash
over its rows chained to the block before, so that a changed byte and a missing block are found
alike:

    key    the stream's name | 0x00 | first ts_recv u64 with its sign bit flipped | number u32,
           big-endian, so that LMDB's order is time's order
    value  magic "TML1" | version u16 | frames u16 | rows u32 | first, last ts_recv i64 | hash of
           the block before, 16 bytes | own hash, 16 bytes | CRC32 of all this and the body u32 |
           body

The body is the length of each frame, u32, and the zstd frames, one for each section of the rows
(see tape_codec), so that a column is unpacked without the others. Of few rows it is a single
frame of all sections, and frames is 0. So was each body of version 1, and version 2 packed ts_recv
without ts_event; both are read as well.

Beside the blocks stand notes, whose keys begin with a zero byte, as no stream's name does. A
note is a message in the kernel's own encoding, or the mark that pruning leaves:

    key    0x00 | table | 0x00 | exchange | 0x00 | symbol | 0x00 | ts_recv as above | number u32
    value  CRC32 u32 | body
"""

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import zstandard

from tickerml.kernel import CodecError, Instrument, Message, StoreCorrupt, codec

from .tape_codec import SECTIONS, Column, Columns, cut, pack_rows
from .tape_numpy import NUMPY, Kernels
from .tape_rows import MIN_TS, ROW, Rows

Buffer: TypeAlias = bytes | memoryview  # of LMDB's own memory, as long as the transaction
Unsqueeze: TypeAlias = Callable[[Buffer], bytes]

VERSION = 3
_READABLE = range(1, VERSION + 1)
_FEW_BYTES = 16_384  # of columns: for fewer, a frame each takes more than it is worth
ZSTD_LEVEL = 2  # 3 makes nothing smaller, and takes a third more
NO_HASH = bytes(16)
DIGEST = slice(44, 60)  # of a header

#: The tables of notes: what each stream's data counted up to, what put them in doubt, what a symbol
#: is, and the hash of the last block that was pruned from a stream.
COUNTS, DOUBTS, INSTRUMENTS, PRUNED = "count", "doubt", "instrument", "pruned"

_MAGIC = b"TML1"
_HEADER = struct.Struct("<4sHHIqq16s16sI")
_LENGTHS = struct.Struct(f"<{len(SECTIONS)}I")
_PLACE = struct.Struct(">QI")
_CRC = struct.Struct("<I")
_NOTE = b"\0"
_BROKEN = (zstandard.ZstdError, ValueError, struct.error)  # what comes of bytes that are no block's


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

    @property
    def paged_bytes(self) -> int:
        """How many bytes it takes in the file, which has pages."""
        return -(-(self.stored_bytes + 16) // 4096) * 4096


class Note(NamedTuple):
    """One thing that was written beside the blocks."""

    key: bytes
    value: bytes


# --- Blocks ---------------------------------------------------------------------------------------


def block_key(stream: str, first_ts: int, number: int = 0) -> bytes:
    """Return the key of a block, which is also where to look for those that begin at *first_ts* or later."""
    return stream.encode() + b"\0" + _PLACE.pack(first_ts - MIN_TS, number)


class Packed(NamedTuple):
    """What is stored of a block but for its hashes, and what its hash is over."""

    first_ts: int
    last_ts: int
    frames: int
    body: bytes
    payload: bytes


def pack_body(rows: Rows, kernels: Kernels = NUMPY) -> Packed:
    """Return *rows* packed and compressed."""
    ts_recv = rows["ts_recv"]
    first, last = int(ts_recv.min()), int(ts_recv.max())
    sections = pack_rows(rows, kernels)
    payload = b"".join(sections)
    squeeze = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
    if len(payload) < _FEW_BYTES:
        return Packed(first, last, 0, squeeze(payload), payload)
    frames = [squeeze(section) for section in sections]
    body = b"".join([_LENGTHS.pack(*map(len, frames)), *frames])
    return Packed(first, last, len(frames), body, payload)


def pack_block(rows: int, packed: Packed, previous: bytes) -> bytes:
    """Return the value of the block of that many *rows* behind the one whose hash is *previous*."""
    digest = _digest(previous, packed.payload)
    times = packed.first_ts, packed.last_ts
    fields = _MAGIC, VERSION, packed.frames, rows, *times, previous, digest, 0
    header = _HEADER.pack(*fields)[:-4]
    crc = zlib.crc32(packed.body, zlib.crc32(header))
    return b"%b%b%b" % (header, crc.to_bytes(4, "little"), packed.body)


def _digest(previous: bytes, payload: bytes) -> bytes:
    digest = hashlib.sha256(previous)
    digest.update(payload)
    return digest.digest()[:16]


def parse_block(path: Path, key: bytes, value: Buffer, *, is_checked: bool = True) -> Block:
    """
    Return the header of a block of the tape at *path*.

    Args:
        is_checked: false to take it as it stands there, without reading the whole block.
    Raises: StoreCorrupt: it is damaged, or of another version.
    """
    name, _, place = key.partition(b"\0")
    first_ts, number = _PLACE.unpack(place)
    where = f"{path}: block {number} of {name.decode()} at {first_ts + MIN_TS}"
    if len(value) < _HEADER.size:
        raise StoreCorrupt(f"{where} is {len(value)} bytes long, too short for a header; restore it")
    magic, version, _, rows, first, last, previous, digest, crc = _HEADER.unpack_from(value)
    if magic != _MAGIC or version not in _READABLE:
        raise StoreCorrupt(
            f"{where}: expected version {_READABLE[0]} to {VERSION} of a block, was {magic!r} {version}; "
            "read it with the tickerml that wrote it"
        )
    if is_checked and zlib.crc32(value[_HEADER.size :], zlib.crc32(value[: _HEADER.size - 4])) != crc:
        raise StoreCorrupt(f"{where} does not match its checksum; restore it from a copy of the tape")
    return Block(name.decode(), number, rows, first, last, previous, digest, len(value))


def _not_unpacked(path: Path, block: Block, error: Exception) -> StoreCorrupt:
    return StoreCorrupt(f"{path}: {block.name} cannot be unpacked: {error}")


def unsqueezer() -> Unsqueeze:
    """Return what undoes zstd. It takes as long to make as a block to unpack; no two threads may share it."""
    return zstandard.ZstdDecompressor().decompress


class Unpacked:
    """The columns of one block of the tape at *path*, each unpacked when it is asked for."""

    def __init__(
        self,
        path: Path,
        block: Block,
        value: Buffer,
        kernels: Kernels = NUMPY,
        unsqueeze: Unsqueeze | None = None,
    ) -> None:
        """
        Args:
            unsqueeze: of unsqueezer(), where several blocks share one.
        Raises: StoreCorrupt: they cannot be what was sealed.
        """
        self.rows = block.rows
        self._path, self._block = path, block
        try:
            section = _sections(value, block.rows, unsqueeze or unsqueezer())
            self._columns = Columns(block.rows, section, kernels)
        except _BROKEN as error:
            raise _not_unpacked(path, block, error) from None
        self.kind, self.is_last = self._columns.kind, self._columns.is_last

    def put(self, name: str, out: Column) -> None:
        """
        Unpack the column *name* into *out*, of as many elements as the block has rows.

        Raises: StoreCorrupt: it cannot be what was sealed.
        """
        try:
            self._columns.put(name, out)
        except _BROKEN as error:
            raise _not_unpacked(self._path, self._block, error) from None


def rows_of(path: Path, block: Block, value: Buffer, kernels: Kernels = NUMPY) -> Rows:
    """
    Return the rows of *block*.

    Raises: StoreCorrupt: they cannot be what was sealed.
    """
    rows, unpacked = np.empty(block.rows, ROW), Unpacked(path, block, value, kernels)
    for name in ROW.names or ():
        unpacked.put(name, rows[name])
    return rows


def check_hash(path: Path, block: Block, value: Buffer) -> None:
    """
    Compare the hash of *block* with its rows, which its CRC alone would let somebody change.

    Raises: StoreCorrupt: they are not what was sealed.
    """
    try:
        section = _sections(value, block.rows, unsqueezer())
        payload = b"".join(section(index) for index in range(len(SECTIONS)))
    except _BROKEN as error:
        raise _not_unpacked(path, block, error) from None
    if _digest(block.previous, payload) != block.digest:
        raise StoreCorrupt(f"{path}: {block.name} does not match its hash; restore it from a copy")


def _sections(value: Buffer, rows: int, unsqueeze: Unsqueeze) -> Callable[[int], Buffer]:
    # What gives a section: those of a frame each are decompressed when they are asked for.
    body, frames = memoryview(value)[_HEADER.size :], _HEADER.unpack_from(value)[2]
    if not frames:
        return cut(unsqueeze(body), rows).__getitem__
    if frames != len(SECTIONS):
        raise ValueError(f"expected {len(SECTIONS)} frames, was {frames}")
    ends = [_LENGTHS.size, *_LENGTHS.unpack_from(body)]
    ends = list(accumulate(ends))

    def section(index: int) -> bytes:
        return unsqueeze(body[ends[index] : ends[index + 1]])

    return section


def stream_keys(cursor: Any) -> Iterator[bytes]:
    """Yield the name of every stream, in order; the cursor stands at its first block then."""
    has_more = cursor.set_range(b"\1")
    while has_more:
        name = cursor.key().split(b"\0", 1)[0]
        yield name
        has_more = cursor.set_range(name + b"\1")


def block_items(
    cursor: Any, stream: str, start_ns: int = MIN_TS, end_ns: int | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the blocks of *stream* that begin before *end_ns*, from the last one before *start_ns* on."""
    prefix = stream.encode() + b"\0"
    start = block_key(stream, start_ns)
    end = prefix + b"\xff" * (_PLACE.size + 1) if end_ns is None else block_key(stream, end_ns)
    has_before = cursor.prev() if cursor.set_range(start) else cursor.last()
    if not (has_before and bytes(cursor.key()).startswith(prefix)) and not cursor.set_range(start):
        return
    for found, value in cursor:
        key = bytes(found)  # of a cursor that gives views
        if key >= end:
            return
        yield key, value


def digest_before(cursor: Any, stream: str, key: bytes) -> bytes:
    """Return the hash of the block of *stream* before *key*: the pruned one where there is no other."""
    has_before = cursor.prev() if cursor.set_range(key) else cursor.last()
    if not has_before or not cursor.key().startswith(stream.encode() + b"\0"):
        return NO_HASH
    digest: bytes = cursor.value()[DIGEST]
    return digest


# --- Notes ----------------------------------------------------------------------------------------


def note_key(table: str, exchange: str, symbol: str, ts: int, number: int = 0) -> bytes:
    """Return the key of a note."""
    head = "\0".join(["", table, exchange, symbol, ""]).encode()
    return head + _PLACE.pack(ts - MIN_TS, number)


def pack_note(table: str, message: Message, ts: int, number: int = 0) -> Note:
    """Return *message* as a note of *table*, dated *ts*; *number* tells notes of equal time apart."""
    exchange, symbol = getattr(message, "exchange", ""), getattr(message, "symbol", "")
    return Note(note_key(table, exchange, symbol, ts, number), pack_value(codec.encode(message)))


def pack_scale(stream: str, instrument: Instrument) -> Note:
    """Return the note that *stream* alone is in the ticks and lots of *instrument*."""
    return Note(note_key(INSTRUMENTS, stream, "", MIN_TS), pack_value(codec.encode(instrument)))


def pack_value(body: bytes) -> bytes:
    """Return *body* as the value of a note."""
    return _CRC.pack(zlib.crc32(body)) + body


def note_body(path: Path, key: bytes, value: bytes) -> bytes:
    """
    Return what a note says.

    Raises: StoreCorrupt: it is damaged.
    """
    if len(value) < _CRC.size or zlib.crc32(value[_CRC.size :]) != _CRC.unpack_from(value)[0]:
        raise StoreCorrupt(f"{path}: the note {key!r} does not match its checksum; restore it from a copy")
    return value[_CRC.size :]


def note_message(path: Path, key: bytes, value: bytes) -> Message:
    """
    Return the message in a note.

    Raises: StoreCorrupt: it is damaged.
    """
    try:
        return codec.decode(note_body(path, key, value))
    except CodecError as error:
        raise StoreCorrupt(f"{path}: the note {key!r} cannot be read: {error}") from None


def note_place(key: bytes) -> tuple[str, str, int]:
    """Return (exchange, symbol, ts) of a note's key."""
    _, _, exchange, symbol, _ = key.split(b"\0", 4)
    return exchange.decode(), symbol.decode(), _PLACE.unpack(key[-_PLACE.size :])[0] + MIN_TS


def note_items(cursor: Any, table: str = "") -> Iterator[tuple[bytes, bytes]]:
    """Yield the notes of *table*, or all of them, in order."""
    prefix = _NOTE + table.encode() + (b"\0" if table else b"")
    if not cursor.set_range(prefix):
        return
    for key, value in cursor:
        if not key.startswith(prefix):
            return
        yield key, value
