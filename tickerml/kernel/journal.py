"""
The journal: everything the sequencer stamped, in its order, in LMDB.

One record is the compressed batch of one commit, because a key a message would
write gigabytes a day:

    key    first seq, u64 big-endian
    value  version u8 | count u32 | last seq u64 | written at, ns u64 | crc32 u32 | chain u32 | zstd(frames)

where the frames follow their count lengths, u32 each; the crc is over the key, what
stands before it and the compressed payload, and the chain over the previous record's
chain and this crc, so a record that is damaged, missing or out of place is seen. Tables:

    log          every message; market data is pruned from it after some hours
    kept         the messages of topics.KEPT_KINDS once more, for good
    meta         the sequencer's state as of the last commit, and what the run is
    checkpoints  a host's state, by host and position

A batch, its checkpoints and the sequencer's state are committed in one
transaction with full sync, in a thread of its own: the journal is always a prefix
of what happened, and a checkpoint never lies beyond it. The sequencer never waits
for the disk.
"""

import os
import queue
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import structlog
import zstandard

from .errors import StoreCorrupt, StoreError, StoreFull

_HEADER = struct.Struct("<BIQQII")
_LENGTH = struct.Struct("<I")
_KEY = struct.Struct(">Q")
_VERSION = 1
_CHECKED = _HEADER.size - 8  # bytes of the header that the checksum covers: all before crc and chain
_TABLES = ("log", "kept", "meta", "checkpoints")


logger = structlog.get_logger()

_compressor = zstandard.ZstdCompressor(level=1)  # used by the writer's thread alone


class Checkpoint(NamedTuple):
    """A host's state after the input number position."""

    host: str
    position: int
    state: bytes


def _open(path: Path, *, map_mb: int = 0, readonly: bool = False) -> tuple[Any, dict[str, Any]]:
    try:
        env = lmdb.open(
            str(path),
            map_size=map_mb * 2**20,
            max_dbs=len(_TABLES),
            readonly=readonly,
            create=not readonly,
            subdir=True,
            mode=0o600,
            max_readers=126,
        )
        return env, {name: env.open_db(name.encode(), create=not readonly) for name in _TABLES}
    except lmdb.Error as error:
        raise StoreError(f"cannot open the journal {path}: {error}") from None


def _create(path: Path, map_mb: int) -> None:
    """Make an empty journal that appears at *path* whole or, where this process is killed, not at all."""
    new = path.with_name(f"{path.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True, mode=0o700)
        _open(new, map_mb=map_mb)[0].close()
        new.replace(path)
        parent = os.open(path.parent, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)
    except OSError as error:
        raise StoreError(f"cannot make the journal {path}: {error.strerror}") from None


def pack_record(frames: list[bytes], chain: int, written_ns: int) -> tuple[bytes, int]:
    """Return (value, new chain) of one record; *frames* are stamped and in order."""
    lengths = struct.pack(f"<{len(frames)}I", *map(len, frames))
    payload = _compressor.compress(lengths + b"".join(frames))
    head = _HEADER.pack(_VERSION, len(frames), frame_seq(frames[-1]), written_ns, 0, 0)[:_CHECKED]
    crc = _checksum(_KEY.pack(frame_seq(frames[0])), head, payload)
    chain = _chained(crc, chain)
    return head + _LENGTH.pack(crc) + _LENGTH.pack(chain) + payload, chain


def _checksum(key: bytes, head: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(key + head))


def _chained(crc: int, chain: int) -> int:
    return zlib.crc32(_LENGTH.pack(crc), chain)


def frame_seq(frame: bytes) -> int:
    """Return the seq of a stamped *frame*."""
    return int.from_bytes(frame[(at := frame.index(b"\0") + 1) : at + 8], "little")


class Record(NamedTuple):
    """One unpacked record."""

    first_seq: int
    last_seq: int
    written_ns: int
    crc: int
    chain: int
    frames: list[bytes]

    def follows(self, previous: "Record") -> bool:
        """Whether this was written next after *previous*."""
        return self.first_seq == previous.last_seq + 1 and self.chain == _chained(self.crc, previous.chain)


def unpack_record(key: bytes, value: bytes) -> Record:
    """
    Return the record.

    Raises: StoreCorrupt: bytes that are not what was written.
    """
    (first,) = _KEY.unpack(key)
    try:
        version, count, last, written_ns, crc, chain = _HEADER.unpack_from(value)
        payload = value[_HEADER.size :]
        if version != _VERSION or _checksum(key, value[:_CHECKED], payload) != crc:
            raise ValueError("its checksum does not match")
        data = zstandard.decompress(payload)
        lengths, at, frames = struct.unpack_from(f"<{count}I", data), 4 * count, []
        for length in lengths:
            frames.append(data[at : at + length])
            at += length
        if at != len(data):
            raise ValueError(f"it holds {len(data)} bytes, not {at}")
    except (struct.error, ValueError, zstandard.ZstdError) as error:
        raise StoreCorrupt(
            f"the journal record at seq {first} is damaged: {error}; what is before it is whole"
        ) from None
    return Record(first, last, written_ns, crc, chain, frames)


class JournalReader:
    """Reads a journal, also while a kernel writes it."""

    def __init__(self, path: Path) -> None:
        """
        Raises: StoreError: there is no journal at *path*.
        """
        if not (path / "data.mdb").exists():
            raise StoreError(f"there is no journal at {path}")
        self.path = path
        self._env, self._tables = _open(path, readonly=True)

    def close(self) -> None:
        """Let go of the file."""
        self._env.close()

    def meta(self, name: str) -> bytes:
        """Return the meta value *name*, b"" where there is none."""
        with self._env.begin() as txn:
            return bytes(txn.get(name.encode(), b"", db=self._tables["meta"]))

    def head(self) -> int:
        """Return the last committed seq, 0 for an empty journal."""
        with self._env.begin() as txn, txn.cursor(self._tables["log"]) as cursor:
            if not cursor.last():
                return 0
            return int(_HEADER.unpack_from(cursor.value())[2])

    def first(self) -> int:
        """Return the first seq still in the log, 0 for an empty journal."""
        with self._env.begin() as txn, txn.cursor(self._tables["log"]) as cursor:
            return int(_KEY.unpack(cursor.key())[0]) if cursor.first() else 0

    def records(self, after: int = 0, table: str = "log") -> Iterator[Record]:
        """
        Yield the records that hold anything beyond seq *after*, in order, each from a fresh snapshot.

        Raises: StoreCorrupt: a record is damaged, or one is missing between two.
        """
        # The record that contains `after + 1` may start before it.
        previous = self._record(table, before=after + 1)
        if previous and previous.last_seq > after:
            yield previous
            after = previous.last_seq
        while record := self._record(table, at_least=after + 1):
            if previous and table == "log" and not record.follows(previous):
                raise StoreCorrupt(
                    f"the journal goes on with seq {record.first_seq} after {previous.last_seq}, which is "
                    "not what was written next; what is before it is whole"
                )
            yield record
            previous, after = record, record.last_seq

    def _record(self, table: str, *, at_least: int = 0, before: int = 0) -> Record | None:
        # The first record with first seq >= at_least, or the last with first seq < before.
        with self._env.begin() as txn, txn.cursor(self._tables[table]) as cursor:
            found = cursor.set_range(_KEY.pack(at_least or before))
            if before:
                found = cursor.prev() if found else cursor.last()
            return unpack_record(bytes(cursor.key()), bytes(cursor.value())) if found else None

    def frames(self, after: int = 0, until: int = 2**63, table: str = "log") -> Iterator[bytes]:
        """Yield the frames with after < seq <= until, in order."""
        for record in self.records(after, table):
            for frame in record.frames:
                seq = frame_seq(frame)
                if seq > until:
                    return
                if seq > after:
                    yield frame

    def checkpoint(self, host: str) -> Checkpoint | None:
        """Return the last checkpoint of *host*."""
        return next(iter(self.checkpoints(host)), None)

    def checkpoints(self, host: str) -> list[Checkpoint]:
        """
        Return the checkpoints of *host* that are whole, newest first.

        Raises: StoreCorrupt: there are some, and none is whole.
        """
        prefix = host.encode() + b"\0"
        found: list[Checkpoint] = []
        damage: StoreCorrupt | None = None
        with self._env.begin() as txn, txn.cursor(self._tables["checkpoints"]) as cursor:
            if cursor.set_range(prefix):
                for key, value in cursor:
                    if not key.startswith(prefix):
                        break
                    try:
                        found.append(_unpack_checkpoint(host, bytes(key), bytes(value)))
                    except StoreCorrupt as error:
                        damage = error
                        logger.error("journal.checkpoint_damaged", host=host, error=str(error))
        if damage and not found:
            raise damage
        return found[::-1]


def _unpack_checkpoint(host: str, key: bytes, value: bytes) -> Checkpoint:
    position = int.from_bytes(key[-8:], "big")
    (crc,) = _LENGTH.unpack_from(value)
    if zlib.crc32(key + value[4:]) != crc:
        raise StoreCorrupt(f"the checkpoint of host {host} at {position} does not match its checksum")
    return Checkpoint(host, position, zstandard.decompress(value[4:]))


class _Batch(NamedTuple):
    frames: list[bytes]
    kept: list[bytes]
    state: bytes
    checkpoints: list[Checkpoint]


class JournalWriter:
    """The one writer: queues batches and commits them in a thread of its own."""

    CHECKPOINTS_KEPT = 2

    def __init__(
        self,
        path: Path,
        *,
        map_mb: int,
        commit_ms: int,
        hot_hours: float = 24.0,
        hosts: Iterable[str] = (),
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            hosts: whose checkpoints must stay usable when old market data is dropped.
            on_commit: called from the writer's thread after each commit and on failure; must be quick.
        Raises: StoreError: the file cannot be opened.
        """
        if not (path / "data.mdb").exists():
            _create(path, map_mb)
        self.path = path
        self.committed = 0
        self.error: StoreError | None = None
        self._env, self._tables = _open(path, map_mb=map_mb)
        self._commit_s = commit_ms / 1000
        self._hot_ns = int(hot_hours * 3_600_000_000_000)
        self.hosts = frozenset(hosts)
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._pruned_at = time.monotonic()
        self._chain = self._last_chain()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def _last_chain(self) -> int:
        with self._env.begin() as txn, txn.cursor(self._tables["log"]) as cursor:
            if not cursor.last():
                return 0
            header = _HEADER.unpack_from(cursor.value())
            self.committed = int(header[2])
            return int(header[5])

    def put_meta(self, name: str, value: bytes) -> None:
        """
        Write a meta value at once; only before start() or after stop().

        Raises: StoreFull.
        """
        try:
            with self._env.begin(write=True) as txn:
                txn.put(name.encode(), value, db=self._tables["meta"])
        except lmdb.Error as error:
            raise self._refusal(error) from None

    def start(self) -> None:
        """Begin to commit."""
        self._thread.start()

    def append(
        self, frames: list[bytes], kept: list[bytes], state: bytes, checkpoints: list[Checkpoint]
    ) -> None:
        """Queue *frames*, those of them to keep for good, and the sequencer's *state* after them."""
        self._queue.put(_Batch(frames, kept, state, checkpoints))

    @property
    def backlog(self) -> int:
        """How many batches wait; beyond a bound the app stops reading its inlet."""
        return self._queue.qsize()

    def stop(self) -> None:
        """Commit what is queued and end the thread; meta may be written again."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def close(self) -> None:
        """Stop, and let go of the file."""
        self.stop()
        self._env.close()

    def _run(self) -> None:
        while True:
            batches = [self._queue.get()]
            if batches[0] is not None:
                # Group commit: everything that arrives while waiting shares one sync.
                deadline = time.monotonic() + self._commit_s
                while (left := deadline - time.monotonic()) > 0 and batches[-1] is not None:
                    try:
                        batches.append(self._queue.get(timeout=left))
                    except queue.Empty:
                        break
            while batches[-1] is not None and not self._queue.empty():
                batches.append(self._queue.get())
            work = [batch for batch in batches if batch is not None]
            if work and self.error is None:
                self._try_commit(work)
            if batches[-1] is None:
                return

    def _try_commit(self, batches: list[_Batch]) -> None:
        try:
            self._commit(batches)
        except lmdb.Error as error:
            self.error = self._refusal(error)
        self._on_commit()

    def _refusal(self, error: Exception) -> StoreFull:
        if isinstance(error, lmdb.MapFullError):
            return StoreFull(
                f"the journal {self.path} is full; nothing more is accepted: "
                "raise kernel.map_mb or free space, and start again"
            )
        return StoreFull(f"the journal {self.path} cannot be written: {error}")

    def _commit(self, batches: list[_Batch]) -> None:
        frames = [frame for batch in batches for frame in batch.frames]
        chain = self._chain
        with self._env.begin(write=True) as txn:
            if frames:
                now = time.time_ns()
                key = _KEY.pack(frame_seq(frames[0]))
                value, chain = pack_record(frames, chain, now)
                txn.put(key, value, db=self._tables["log"], append=True)
                if kept := [frame for batch in batches for frame in batch.kept]:
                    txn.put(
                        _KEY.pack(frame_seq(kept[0])), pack_record(kept, 0, now)[0], db=self._tables["kept"]
                    )
            txn.put(b"state", batches[-1].state, db=self._tables["meta"])
            for batch in batches:
                for checkpoint in batch.checkpoints:
                    self._put_checkpoint(txn, checkpoint)
            if time.monotonic() - self._pruned_at > 60:
                self._prune(txn)
        self._chain = chain
        if frames:
            self.committed = frame_seq(frames[-1])

    def _put_checkpoint(self, txn: Any, checkpoint: Checkpoint) -> None:
        payload = zstandard.compress(checkpoint.state, 1)
        prefix = checkpoint.host.encode() + b"\0"
        key = prefix + checkpoint.position.to_bytes(8, "big")
        txn.put(key, _LENGTH.pack(zlib.crc32(key + payload)) + payload, db=self._tables["checkpoints"])
        with txn.cursor(self._tables["checkpoints"]) as cursor:
            keys = []
            if cursor.set_range(prefix):
                for key in cursor.iternext(keys=True, values=False):
                    if not key.startswith(prefix):
                        break
                    keys.append(bytes(key))
        for key in keys[: -self.CHECKPOINTS_KEPT]:
            txn.delete(key, db=self._tables["checkpoints"])

    def _prune(self, txn: Any) -> None:
        """Drop market data older than hot_hours; what is kept for good is in `kept`."""
        self._pruned_at = time.monotonic()
        horizon = time.time_ns() - self._hot_ns
        needed = [position for host, position in self._checkpoint_positions(txn) if host in self.hosts]
        oldest_needed = min(needed, default=0)
        with txn.cursor(self._tables["log"]) as cursor:
            alive = cursor.first()
            while alive:
                _, _, last, written_ns, _, _ = _HEADER.unpack_from(cursor.value())
                if written_ns > horizon or last >= oldest_needed:
                    break
                alive = cursor.delete()
        self._env.reader_check()

    def _checkpoint_positions(self, txn: Any) -> Iterator[tuple[str, int]]:
        with txn.cursor(self._tables["checkpoints"]) as cursor:
            for key in cursor.iternext(keys=True, values=False):
                yield bytes(key[:-9]).decode(), int.from_bytes(key[-8:], "big")
