"""
Blocks and notes: what lies in a tape's file, byte by byte.

A sealed block is never written again. Its header carries a CRC of what is stored, and a hash
over its rows chained to the block before, so that a changed byte and a missing block are found
alike:

    key    the stream's name | 0x00 | first ts_recv u64 with its sign bit flipped | number u32,
           big-endian, so that LMDB's order is time's order
    value  magic "TML1" | version u16 | 0 u16 | rows u32 | first, last ts_recv i64 | hash of the
           block before, 16 bytes | own hash, 16 bytes | CRC32 of all this and the body u32 |
           body, zstd

Beside the blocks stand notes, whose keys begin with a zero byte, as no stream's name does. A
note is a message in the kernel's own encoding, or the mark that pruning leaves:

    key    0x00 | table | 0x00 | exchange | 0x00 | symbol | 0x00 | ts_recv as above | number u32
    value  CRC32 u32 | body
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from tickerml.kernel import CodecError, Instrument, Message, StoreCorrupt, codec

from .tape_codec import pack_rows, unpack_rows
from .tape_rows import MIN_TS, Rows

VERSION = 1
ZSTD_LEVEL = 3
NO_HASH = bytes(16)
DIGEST = slice(44, 60)  # of a header

#: The tables of notes: what each stream's data counted up to, what put them in doubt, what a symbol
#: is, and the hash of the last block that was pruned from a stream.
COUNTS, DOUBTS, INSTRUMENTS, PRUNED = "count", "doubt", "instrument", "pruned"

_MAGIC = b"TML1"
_HEADER = struct.Struct("<4sHHIqq16s16sI")
_PLACE = struct.Struct(">QI")
_CRC = struct.Struct("<I")
_NOTE = b"\0"


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


class Note(NamedTuple):
    """One thing that was written beside the blocks."""

    key: bytes
    value: bytes


# --- Blocks ---------------------------------------------------------------------------------------


def block_key(stream: str, first_ts: int, number: int = 0) -> bytes:
    """Return the key of a block, which is also where to look for those that begin at *first_ts* or later."""
    return stream.encode() + b"\0" + _PLACE.pack(first_ts - MIN_TS, number)


def pack_block(rows: Rows, previous: bytes) -> tuple[bytes, bytes]:
    """Return (digest, value): a block's own hash, and all that is stored of it."""
    payload = pack_rows(rows)
    digest = _digest(previous, payload)
    body = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(payload)
    first, last = int(rows["ts_recv"].min()), int(rows["ts_recv"].max())
    header = _HEADER.pack(_MAGIC, VERSION, 0, len(rows), first, last, previous, digest, 0)[:-4]
    return digest, b"%b%b%b" % (header, zlib.crc32(body, zlib.crc32(header)).to_bytes(4, "little"), body)


def _digest(previous: bytes, payload: bytes) -> bytes:
    return hashlib.sha256(previous + payload).digest()[:16]


def holds(path: Path, key: bytes, value: bytes, rows: Rows) -> Block | None:
    """
    Return the block in *value* when it was made of *rows*, None when of others.

    Raises: StoreCorrupt: the header is not one.
    """
    block = parse_block(path, key, value)
    return block if block.digest == _digest(block.previous, pack_rows(rows)) else None


def parse_block(path: Path, key: bytes, value: bytes, *, is_checked: bool = True) -> Block:
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
    if (magic, version) != (_MAGIC, VERSION):
        raise StoreCorrupt(f"{where}: expected version {VERSION} of a block, was {magic!r} {version}")
    if is_checked and zlib.crc32(value[_HEADER.size :], zlib.crc32(value[: _HEADER.size - 4])) != crc:
        raise StoreCorrupt(f"{where} does not match its checksum; restore it from a copy of the tape")
    return Block(name.decode(), number, rows, first, last, previous, digest, len(value))


def rows_of(path: Path, block: Block, value: bytes, rows: Rows | None = None) -> Rows:
    """
    Return the rows of *block*, in *rows* where that is given.

    Raises: StoreCorrupt: they cannot be what was sealed.
    """
    try:
        return unpack_rows(_payload(value), block.rows, rows)
    except (zstandard.ZstdError, ValueError) as error:
        raise StoreCorrupt(f"{path}: {block.name} cannot be unpacked: {error}") from None


def check_hash(path: Path, block: Block, value: bytes) -> None:
    """
    Compare the hash of *block* with its rows, which its CRC alone would let somebody change.

    Raises: StoreCorrupt: they are not what was sealed.
    """
    try:
        payload = _payload(value)
    except (zstandard.ZstdError, ValueError) as error:
        raise StoreCorrupt(f"{path}: {block.name} cannot be unpacked: {error}") from None
    if _digest(block.previous, payload) != block.digest:
        raise StoreCorrupt(f"{path}: {block.name} does not match its hash; restore it from a copy")


def _payload(value: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(value[_HEADER.size :])


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
