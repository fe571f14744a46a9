"""
The journal: everything the sequencer stamped, in its order, in LMDB.

One record is the compressed batch of one commit, or a part of a large one, because a
key a message would write gigabytes a day. What it is byte by byte is in records.py. Tables:

    log          every message; market data is pruned from it after some hours
    kept         the messages of topics.KEPT_KINDS once more, for good
    checkpoints  a host's state, by host and position, the last two; the host "kernel" is the sequencer
    meta         what the run is, and the format of all this

A batch and its checkpoints are committed in one transaction with full sync, in a
thread of its own: the journal is always a prefix of what happened, and a checkpoint
never lies beyond it. The sequencer never waits for the disk. A commit that fails stays
queued and is tried again: all of that is in JournalWriter.commit_pending, which is also
what a simulation calls, without a thread.

The journal has a time of its own, written_ns: the wall clock, except that it never goes
back, and goes on at the pace of the monotonic clock where the wall clock stands behind.
"""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import structlog

from .environment import TABLES, Opener, check_format, open_environment, open_journal, read_meta
from .errors import StoreCorrupt, StoreError, StoreFull
from .journal_reader import Damage, JournalReader
from .records import (
    FORMAT,
    KEY,
    NO_DIGEST,
    Checkpoint,
    Record,
    checkpoint_digest,
    checkpoint_key,
    frame_seq,
    key_seq,
    meta_keys,
    pack_checkpoint,
    pack_meta,
    pack_record,
    peek_header,
    read_header,
    split_checkpoint_key,
    unpack_checkpoint,
    unpack_record,
)
from .sequencer import KERNEL

__all__ = [
    "Checkpoint",
    "Damage",
    "JournalReader",
    "JournalWriter",
    "Record",
    "frame_seq",
    "open_environment",
    "pack_record",
    "unpack_record",
]

MIB = 2**20
FIRST_MAP_MB = 64
EARLY_BATCHES = 1_000  # so many are committed before commit_ms is over: more would hold up the inlet
GROUP_FRAMES = 20_000  # frames in one transaction; more than that wait for the next
RECORD_BYTES = 131_072  # of one record's frames; longer ones need runs of pages that are seldom free again
RETRY_S = 1.0
PRUNE_EVERY_NS = 60_000_000_000
PRUNE_BITE = 64  # records dropped in one transaction
CLOCK_JUMP_NS = 3_600_000_000_000
LATEST_NS = 2**63 - 1

logger = structlog.get_logger()


class _Batch(NamedTuple):
    frames: list[bytes]
    kept: list[bytes]
    checkpoints: list[Checkpoint]


class _End(NamedTuple):
    """Where the tables end, as far as what is written next must know."""

    seq: int
    digest: bytes
    written_ns: int
    kept_digest: bytes


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
        opener: Opener = open_environment,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """
        Args:
            map_mb: the largest size of the file; it starts small and is doubled as it fills.
            hosts: whose checkpoints, beside the kernel's, must stay usable when old market data is dropped.
            on_commit: called from the writer's thread after each commit and on failure; must be quick.
            clock, monotonic: the wall clock, ns UTC, and one that only goes forward, ns.
        Raises: StoreError: the file cannot be opened. StoreCorrupt: it is of another format.
        """
        self.path = path
        self.error: StoreError | None = None
        self.hosts = frozenset(hosts)
        self._map_limit = map_mb * MIB
        self._commit_s = commit_ms / 1000
        self._hot_ns = int(hot_hours * 3_600_000_000_000)
        self._on_commit = on_commit
        self._opener = opener
        self._clock = clock
        self._monotonic = monotonic
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._taken: deque[_Batch] = deque()  # out of the queue, not yet in a transaction
        self._held: list[_Batch] = []  # in the transaction that is tried, until it is in
        self._is_doubtful = False  # whether a commit failed, and what it left is not yet known
        self._prune_due = monotonic() + PRUNE_EVERY_NS
        self._timed_at = 0  # on the monotonic clock, when the journal's time was last told
        self._prune_from = 0  # in the journal's time, when old data may be dropped again
        self._is_stopping = threading.Event()
        self._is_hurried = threading.Event()  # ends the wait for company
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._open()
        self.committed = self._end.seq  # the last seq that is safe on disk

    # --- The file -----------------------------------------------------------------------------

    def _open(self) -> None:
        small = min(FIRST_MAP_MB * MIB, self._map_limit)
        self._env = open_journal(self.path, self._opener, map_size=small)
        try:
            self._tables = {name: self._env.open_db(name.encode()) for name in TABLES}
            with self._env.begin() as txn:
                written = read_meta(txn, self._tables["meta"], "format")
                with txn.cursor(self._tables["log"]) as cursor:
                    check_format(self.path, written, bytes(cursor.value()) if cursor.first() else b"")
                self._end = self._find_end(txn)
                self._prune_from = self._find_prune_from(txn)
            if not written:
                self.put_meta("format", b"%d" % FORMAT)
        except lmdb.Error as error:
            self._env.close()
            raise StoreError(f"cannot open the journal {self.path}: {error}") from None
        except StoreError:
            self._env.close()
            raise

    def _find_prune_from(self, txn: Any) -> int:
        try:
            return int(read_meta(txn, self._tables["meta"], "prune_from") or b"0")
        except StoreCorrupt as error:
            logger.error("journal.damage_found", seq=0, error=str(error))
            return self._end.written_ns + self._hot_ns

    def _find_end(self, txn: Any) -> _End:
        """Return where the log ends; a damaged last record is vouched for by a checkpoint of the kernel."""
        kept_digest, written_ns = NO_DIGEST, 0
        with txn.cursor(self._tables["kept"]) as cursor:
            if cursor.last() and (header := peek_header(bytes(cursor.value()))):
                kept_digest = header.digest
        with txn.cursor(self._tables["log"]) as cursor:
            if not cursor.last():
                return self._vouched(txn) or _End(0, NO_DIGEST, written_ns, kept_digest)
            key, value = bytes(cursor.key()), bytes(cursor.value())
        try:
            header = read_header(key, value)
        except StoreCorrupt:
            if (end := self._vouched(txn)) and end.seq >= key_seq(key):
                return end._replace(kept_digest=kept_digest)
            raise
        return _End(header.last_seq, header.digest, header.written_ns, kept_digest)

    def _vouched(self, txn: Any) -> _End | None:
        """Return the end of the log as the newest whole checkpoint of the kernel knows it."""
        found: _End | None = None
        for key in self._checkpoint_keys(txn, KERNEL):
            with contextlib.suppress(StoreCorrupt):
                stored = unpack_checkpoint(key, bytes(txn.get(key, db=self._tables["checkpoints"])))
                found = _End(stored.log_seq, stored.log_digest, 0, NO_DIGEST)
        return found

    def put_meta(self, name: str, value: bytes) -> None:
        """
        Write a meta value at once; only before start() or after stop().

        Raises: StoreFull.
        """
        try:
            self._transact(lambda txn: self._put_meta(txn, name, value))
        except (lmdb.Error, OSError) as error:
            raise self._refusal(error) from None

    def _put_meta(self, txn: Any, name: str, value: bytes) -> None:
        for key in meta_keys(name):
            txn.put(key, pack_meta(key, value), db=self._tables["meta"])

    def _transact(self, change: Callable[[Any], Any]) -> Any:
        """Apply *change* in one transaction and return its answer; where the map is full, grow it."""
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    answer = change(txn)
                return answer
            except lmdb.MapFullError:
                if not self._grow():
                    raise

    def _grow(self) -> bool:
        size = self._env.info()["map_size"]
        if size >= self._map_limit:
            return False
        grown = min(2 * size, self._map_limit)
        self._env.set_mapsize(grown)
        logger.info("journal.grown", map_mb=grown // MIB)
        return True

    # --- The queue ----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to commit in a thread."""
        self._thread.start()

    def append(self, frames: list[bytes], kept: list[bytes], checkpoints: list[Checkpoint]) -> None:
        """Queue *frames*, those of them to keep for good, and checkpoints of states after them."""
        self._queue.put(_Batch(frames, kept, checkpoints))
        if self.backlog >= EARLY_BATCHES:
            self.hurry()

    def hurry(self) -> None:
        """Commit what is queued now: somebody waits for it."""
        self._is_hurried.set()

    @property
    def backlog(self) -> int:
        """How many batches wait; beyond a bound the app stops reading its inlet."""
        return self._queue.qsize() + len(self._taken) + len(self._held)

    def stop(self) -> None:
        """Commit what is queued, or try once, and end the thread; meta may be written again."""
        if self._thread.is_alive():
            self._is_stopping.set()
            self.hurry()
            self._queue.put(None)
            self._thread.join()

    def close(self) -> None:
        """Stop, and let go of the file."""
        self.stop()
        self._env.close()

    def _run(self) -> None:
        try:
            self._commit_until_stopped()
        except Exception as error:
            logger.error("journal.failed", error=repr(error), exc_info=True)
            self.error = StoreError(f"the journal {self.path} cannot be written any more: {error!r}")
            self._on_commit()

    def _commit_until_stopped(self) -> None:
        while True:
            if not self._held:
                self._take(self._queue.get())
                # Group commit: everything that arrives while waiting shares one sync.
                self._is_hurried.wait(self._commit_s)
                self._is_hurried.clear()
            is_last = self._is_stopping.is_set()
            is_done = self.commit_pending()
            if is_last:
                return
            if not is_done:
                self._is_stopping.wait(RETRY_S)

    def _take(self, batch: _Batch | None) -> None:
        if batch is not None:
            self._taken.append(batch)

    # --- Commits ------------------------------------------------------------------------------

    def commit_pending(self) -> bool:
        """
        Commit everything queued, in one transaction unless it is a great deal.

        A transaction that fails stays first in the queue, and `error` says why until a later call
        has it in. A call after a failure looks first what is on disk, so that a commit which went
        in although it failed is not repeated.

        Returns: whether nothing waits any more.
        """
        while not self._queue.empty():
            self._take(self._queue.get())
        try:
            if self._is_doubtful:
                self._look()
            while self._hold():
                self._commit()
        except (lmdb.Error, OSError, StoreError) as error:
            self._fail(error)
            return False
        return True

    def _hold(self) -> bool:
        """Have something to commit; returns whether there is."""
        count = sum(len(batch.frames) for batch in self._held)
        while self._taken and not (self._held and count + len(self._taken[0].frames) > GROUP_FRAMES):
            self._held.append(self._taken.popleft())
            count += len(self._held[-1].frames)
        return bool(self._held)

    def _commit(self) -> None:
        timed_at = self._monotonic()
        expected_ns = self._end.written_ns + (timed_at - self._timed_at if self._timed_at else 0)
        clock_ns = min(self._clock(), LATEST_NS)
        is_jump = self._timed_at > 0 and clock_ns > expected_ns + CLOCK_JUMP_NS
        now_ns = max(clock_ns, expected_ns)
        end = self._transact(lambda txn: self._write(txn, now_ns, is_jump=is_jump))
        if is_jump:
            logger.warning("journal.clock_jumped", seconds=(clock_ns - expected_ns) // 1_000_000_000)
        if end.written_ns == now_ns:
            self._timed_at = timed_at
        self._arrive(end)

    def _arrive(self, end: _End) -> None:
        self._end, self._held = end, []
        self.committed = end.seq
        if self.error is not None:
            self.error = None
            logger.info("journal.recovered", committed=end.seq)
        self._on_commit()

    def _fail(self, error: Exception) -> None:
        self._is_doubtful = True
        if self.error is None:
            self.error = self._refusal(error)
            logger.error("journal.failed", error=str(self.error))
        self._on_commit()

    def _refusal(self, error: Exception) -> StoreError:
        if isinstance(error, StoreCorrupt):
            return error
        if isinstance(error, lmdb.MapFullError):
            return StoreFull(
                f"the journal {self.path} is full: it has reached kernel.map_mb = "
                f"{self._map_limit // MIB}; nothing more is accepted: raise that, and start again"
            )
        return StoreFull(
            f"the journal {self.path} cannot be written: {error}; nothing more is accepted until it can: "
            "free space or see to the disk"
        )

    def _look(self) -> None:
        """After a failure: see what it left on disk, in an environment that works."""
        try:
            with self._env.begin() as txn:
                end = self._find_end(txn)
        except lmdb.Error:
            self._env.close()
            self._open()
            end = self._end
        frames = [frame for batch in self._held for frame in batch.frames]
        if frames and end.seq >= frame_seq(frames[-1]):
            # It is in, but the page that says so may not be safe yet: it is when the next commit is.
            self._transact(lambda txn: self._put_meta(txn, "confirmed", b"%d" % end.seq))
            self._timed_at = self._monotonic()
            self._arrive(end)
        self._end, self._is_doubtful = end, False

    # --- What a transaction writes ------------------------------------------------------------

    def _write(self, txn: Any, now_ns: int, *, is_jump: bool) -> _End:
        """Write what is held; returns where the tables end after it."""
        frames = [frame for batch in self._held for frame in batch.frames]
        kept = [frame for batch in self._held for frame in batch.kept]
        seq, digest, written_ns, kept_digest = self._end
        if is_jump:
            # Nobody knows which time was wrong; what is hot by either is kept.
            self._prune_from = now_ns + self._hot_ns
            self._put_meta(txn, "prune_from", b"%d" % self._prune_from)
        if frames:
            seq, written_ns = frame_seq(frames[-1]), now_ns
            digest = self._put_records(txn, "log", frames, digest, now_ns)
        if kept:
            kept_digest = self._put_records(txn, "kept", kept, kept_digest, now_ns)
        for batch in self._held:
            for checkpoint in batch.checkpoints:
                self._put_checkpoint(txn, checkpoint, seq, digest)
        if self._monotonic() >= self._prune_due and now_ns >= self._prune_from:
            self._prune(txn, now_ns - self._hot_ns)
        return _End(seq, digest, written_ns, kept_digest)

    def _put_records(self, txn: Any, table: str, frames: list[bytes], prev: bytes, now_ns: int) -> bytes:
        """Write *frames* behind the record whose digest is *prev*; returns the last one's digest."""
        start = size = 0
        for at, frame in enumerate(frames):
            size += len(frame)
            if size >= RECORD_BYTES or at == len(frames) - 1:
                value, prev = pack_record(frames[start : at + 1], prev, now_ns)
                txn.put(KEY.pack(frame_seq(frames[start])), value, db=self._tables[table], append=True)
                start, size = at + 1, 0
        return prev

    def _put_checkpoint(self, txn: Any, checkpoint: Checkpoint, seq: int, digest: bytes) -> None:
        table = self._tables["checkpoints"]
        place = checkpoint_key(checkpoint.host, checkpoint.position)
        stored = list(self._checkpoint_keys(txn, checkpoint.host))
        below = [key for key in stored if key < place]
        if len(stored) >= self.CHECKPOINTS_KEPT and not below and place not in stored:
            return  # the late word of a host that has been replaced
        before = below[-1] if below else b""
        prev = checkpoint_digest(before, bytes(txn.get(before, db=table))) if below else NO_DIGEST
        txn.put(*pack_checkpoint(checkpoint, seq, digest, prev), db=table)
        # A host that goes on from further back does not come by what it left behind as it was.
        for key in [*below[: 1 - self.CHECKPOINTS_KEPT], *(key for key in stored if key > place)]:
            txn.delete(key, db=table)

    def _checkpoint_keys(self, txn: Any, host: str) -> Iterator[bytes]:
        prefix = host.encode() + b"\0"
        with txn.cursor(self._tables["checkpoints"]) as cursor:
            if cursor.set_range(prefix):
                for key in cursor.iternext(keys=True, values=False):
                    if not key.startswith(prefix):
                        return
                    yield bytes(key)

    def _prune(self, txn: Any, horizon_ns: int) -> None:
        """Drop a bite of what was written before *horizon_ns*; what is kept for good is in `kept`."""
        oldest_needed = self._oldest_needed(txn)
        with txn.cursor(self._tables["log"]) as cursor:
            for _ in range(PRUNE_BITE):
                if not _drop_first(cursor, oldest_needed, horizon_ns):
                    self._prune_due = self._monotonic() + PRUNE_EVERY_NS
                    self._env.reader_check()
                    return

    def _oldest_needed(self, txn: Any) -> int:
        """Return the oldest position that recovery may begin at; 0 where it may need everything."""
        wanted = self.hosts | {KERNEL}
        found: dict[str, int] = {}
        with txn.cursor(self._tables["checkpoints"]) as cursor:
            for key in cursor.iternext(keys=True, values=False):
                if (place := split_checkpoint_key(bytes(key))) and place[0] in wanted:
                    found[place[0]] = min(place[1], found.get(place[0], place[1]))
        return min(found.values()) if KERNEL in found else 0


def _drop_first(cursor: Any, oldest_needed: int, horizon_ns: int) -> bool:
    """Drop the first record of the log where nobody needs it; returns whether that was so."""
    if not cursor.first():
        return False
    key, value = bytes(cursor.key()), bytes(cursor.value())
    # Where it ends the next one tells, also when it is damaged itself.
    if not cursor.next() or key_seq(bytes(cursor.key())) > oldest_needed:
        return False
    try:
        written_ns = read_header(key, value).written_ns
    except StoreCorrupt:
        written_ns = 0
    if written_ns > horizon_ns:
        return False
    cursor.first()
    return bool(cursor.delete())
