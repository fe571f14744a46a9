"""
What the journal's tables hold, byte by byte. Everything stored proves itself.

    log, kept    key    first seq, u64 big-endian
                 value  version u8 | count u32 | last seq u64 | written at, ns u64
                        | digest of the record before, 16 B | digest, 16 B | zstd(frames)
    checkpoints  key    host 0x00 position, u64 big-endian
                 value  version u8 | last log record: its last seq u64, its digest 16 B
                        | digest of the host's checkpoint before, 16 B | digest, 16 B | zstd(state)
    meta         key    name, and once more name+
                 value  version u8 | digest, 16 B | content

where the frames follow their count lengths, u32 each. A digest is BLAKE2b over the key
and the whole value but itself, so a record verifies alone; that each names the digest of
the one before it shows what is missing or out of place. A checkpoint names the log record
it was committed with, so that one of another past is seen. Numbers are little-endian
where nothing else is said.
"""

import hashlib
import struct
from typing import NamedTuple

import zstandard

from .errors import StoreCorrupt

FORMAT = 2
DIGEST_SIZE = 16
NO_DIGEST = bytes(DIGEST_SIZE)
KEY = struct.Struct(">Q")

_HEADER = struct.Struct("<BIQQ16s16s")
_CHECKPOINT = struct.Struct("<BQ16s16s16s")
_META = struct.Struct("<B16s")

_compressor = zstandard.ZstdCompressor(level=3)  # not thread-safe: used by the one that writes


class Header(NamedTuple):
    """What stands before a record's frames."""

    version: int
    frame_count: int
    last_seq: int
    written_ns: int
    prev: bytes
    digest: bytes


class Record(NamedTuple):
    """One unpacked record of the log or of what is kept."""

    first_seq: int
    last_seq: int
    written_ns: int
    prev: bytes
    digest: bytes
    frames: list[bytes]

    def follows(self, previous: "Record") -> bool:
        """Whether this was written next after *previous*."""
        return self.prev == previous.digest


class Checkpoint(NamedTuple):
    """A host's state after the input number position."""

    host: str
    position: int
    state: bytes


class StoredCheckpoint(NamedTuple):
    """A checkpoint with its place in the past of its journal."""

    host: str
    position: int
    log_seq: int
    log_digest: bytes
    prev: bytes
    digest: bytes
    state: bytes


def frame_seq(frame: bytes) -> int:
    """Return the seq of a stamped *frame*."""
    return int.from_bytes(frame[(at := frame.index(b"\0") + 1) : at + 8], "little")


def key_seq(key: bytes) -> int:
    """
    Return the seq that a record's *key* is.

    Raises: StoreCorrupt: it is no such key.
    """
    if len(key) != KEY.size:
        raise StoreCorrupt(f"the journal is damaged: {key[:40]!r} is no key of a record")
    return int(KEY.unpack(key)[0])


def _digest(key: bytes, head: bytes, payload: bytes) -> bytes:
    digest = hashlib.blake2b(key, digest_size=DIGEST_SIZE)
    digest.update(head)
    digest.update(payload)
    return digest.digest()


def _check(key: bytes, value: bytes, head: struct.Struct) -> None:
    # The digest is the last field of every head.
    at = head.size - DIGEST_SIZE
    if len(value) < head.size:
        raise ValueError(f"it is cut off after {len(value)} bytes")
    if value[0] != FORMAT:
        raise ValueError(f"it is of format {value[0]}, and this version of TickerML reads {FORMAT}")
    if _digest(key, value[:at], value[head.size :]) != value[at : head.size]:
        raise ValueError("it does not match its checksum")


# --- Records --------------------------------------------------------------------------------------


def pack_record(frames: list[bytes], prev: bytes, written_ns: int) -> tuple[bytes, bytes]:
    """
    Return (value, digest) of one record.

    Args:
        frames: stamped, in order, at least one.
        prev: the digest of the record before, NO_DIGEST for none.
    """
    lengths = struct.pack(f"<{len(frames)}I", *map(len, frames))
    payload = _compressor.compress(lengths + b"".join(frames))
    key, last = KEY.pack(frame_seq(frames[0])), frame_seq(frames[-1])
    head = _HEADER.pack(FORMAT, len(frames), last, written_ns, prev, NO_DIGEST)[:-DIGEST_SIZE]
    digest = _digest(key, head, payload)
    return head + digest + payload, digest


def peek_header(value: bytes) -> Header | None:
    """Return the header of a record as it stands there, verified or not; None where it is cut off."""
    return Header._make(_HEADER.unpack_from(value)) if len(value) >= _HEADER.size else None


def read_header(key: bytes, value: bytes) -> Header:
    """
    Return the header of a record, without its frames.

    Raises: StoreCorrupt: bytes that are not what was written.
    """
    try:
        _check(key, value, _HEADER)
    except ValueError as error:
        raise StoreCorrupt(f"the journal record at seq {_first_seq(key)} is damaged: {error}") from None
    return Header._make(_HEADER.unpack_from(value))


def _first_seq(key: bytes) -> str:
    return str(KEY.unpack(key)[0]) if len(key) == KEY.size else f"{key!r}"


def unpack_record(key: bytes, value: bytes) -> Record:
    """
    Return the record.

    Raises: StoreCorrupt: bytes that are not what was written.
    """
    header = read_header(key, value)
    try:
        data = zstandard.decompress(value[_HEADER.size :])
        lengths, at, frames = struct.unpack_from(f"<{header.frame_count}I", data), 4 * header.frame_count, []
        for length in lengths:
            frames.append(data[at : at + length])
            at += length
        if at != len(data):
            raise ValueError(f"it holds {len(data)} bytes, not {at}")
        (first,) = KEY.unpack(key)
    except (struct.error, ValueError, zstandard.ZstdError) as error:
        raise StoreCorrupt(f"the journal record at seq {_first_seq(key)} is damaged: {error}") from None
    return Record(first, header.last_seq, header.written_ns, header.prev, header.digest, frames)


# --- Checkpoints ----------------------------------------------------------------------------------


def checkpoint_key(host: str, position: int) -> bytes:
    """Return the key of a checkpoint; those of one host sort by position."""
    return host.encode() + b"\0" + KEY.pack(position)


def split_checkpoint_key(key: bytes) -> tuple[str, int] | None:
    """Return (host, position); None for bytes that are not such a key."""
    if key[-9:-8] != b"\0":
        return None
    try:
        return key[:-9].decode(), int.from_bytes(key[-8:], "big")
    except UnicodeDecodeError:
        return None


def pack_checkpoint(
    checkpoint: Checkpoint, log_seq: int, log_digest: bytes, prev: bytes
) -> tuple[bytes, bytes]:
    """
    Return (key, value) of a stored checkpoint.

    Args:
        log_seq, log_digest: the last seq and the digest of the log record that it is committed with or after.
        prev: the digest of the host's checkpoint before, NO_DIGEST for none.
    """
    key = checkpoint_key(checkpoint.host, checkpoint.position)
    payload = zstandard.compress(checkpoint.state, 1)
    head = _CHECKPOINT.pack(FORMAT, log_seq, log_digest, prev, NO_DIGEST)[:-DIGEST_SIZE]
    return key, head + _digest(key, head, payload) + payload


def unpack_checkpoint(key: bytes, value: bytes) -> StoredCheckpoint:
    """
    Return the checkpoint.

    Raises: StoreCorrupt: bytes that are not what was written.
    """
    host, position = split_checkpoint_key(key) or (repr(key), 0)
    try:
        _check(key, value, _CHECKPOINT)
        state = zstandard.decompress(value[_CHECKPOINT.size :])
    except (ValueError, zstandard.ZstdError) as error:
        raise StoreCorrupt(f"the checkpoint of host {host} at {position} is damaged: {error}") from None
    _, log_seq, log_digest, prev, digest = _CHECKPOINT.unpack_from(value)
    return StoredCheckpoint(host, position, log_seq, log_digest, prev, digest, state)


def checkpoint_digest(key: bytes, value: bytes) -> bytes:
    """Return the digest of a stored checkpoint, NO_DIGEST where it is damaged."""
    try:
        _check(key, value, _CHECKPOINT)
    except ValueError:
        return NO_DIGEST
    return bytes(_CHECKPOINT.unpack_from(value)[-1])


# --- Meta -----------------------------------------------------------------------------------------


def meta_keys(name: str) -> tuple[bytes, bytes]:
    """Return the keys of both copies of the meta value *name*."""
    return name.encode(), name.encode() + b"+"


def pack_meta(key: bytes, content: bytes) -> bytes:
    """Return the value that is stored for *content*."""
    head = _META.pack(FORMAT, NO_DIGEST)[:-DIGEST_SIZE]
    return head + _digest(key, head, content) + content


def unpack_meta(key: bytes, value: bytes) -> bytes:
    """
    Return the content.

    Raises: StoreCorrupt: bytes that are not what was written.
    """
    try:
        _check(key, value, _META)
    except ValueError as error:
        name = key.decode(errors="replace").rstrip("+")
        raise StoreCorrupt(f"the journal's entry {name} is damaged: {error}") from None
    return value[_META.size :]
