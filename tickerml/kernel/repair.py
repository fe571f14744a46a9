"""
What a damaged journal still can give, and making it whole again.

What must be readable is what recovery reads: for each host, and for the kernel itself,
the newest whole checkpoint and the log behind it. Damage elsewhere costs nobody
anything. Damage at the end is cut off; damage in the middle that somebody needs can only
be cut off together with everything after it, and that is for a person to decide.
Nothing is ever deleted: what is cut lies beside the journal, as a file of msgpack arrays
[table, key, value], and a journal that LMDB cannot read stays there under another name.
"""

import contextlib
import enum
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import msgspec
import structlog

from . import topics
from .child import run_in_child
from .environment import TABLES, Opener, open_environment, open_journal, unreadable
from .errors import StoreCorrupt, StoreError
from .journal_reader import Damage, JournalReader
from .records import (
    KEY,
    NO_DIGEST,
    StoredCheckpoint,
    frame_seq,
    meta_keys,
    pack_meta,
    pack_record,
    peek_header,
    unpack_checkpoint,
    unpack_record,
)
from .salvage import salvage
from .sequencer import KERNEL

MIB = 2**20

SetAside = Callable[[Path, Iterable[bytes]], None]

logger = structlog.get_logger()


# --- What recovery needs --------------------------------------------------------------------------


class Cut(NamedTuple):
    """The end that a journal can be given."""

    seq: int  # what remains ends here
    is_tail: bool  # nothing whole is lost
    reason: str
    needed_by: list[str]


class Examination:
    """The part of a journal that recovery reads."""

    def __init__(self, reader: JournalReader, hosts: Iterable[str] | None = None) -> None:
        """
        Args:
            hosts: those that will be rebuilt from it; of others nothing is needed. None: all that have
                checkpoints.
        Raises: StoreCorrupt: LMDB cannot read it.
        """
        self.first = reader.first()
        named = set(reader.hosts())
        wanted = {*(named if hosts is None else hosts), KERNEL}
        # Without a checkpoint a host begins at the beginning, or where that is gone with what comes now.
        self.checkpoints = {
            name: reader.stored_checkpoints(name)[0]
            for name in sorted(wanted)
            if name in named or name == KERNEL or self.first <= 1
        }
        self.damages: list[Damage] = []
        self.tail: int | None = None  # the first seq behind which nothing is whole
        self.end = self.written_ns = 0  # of the last record that is whole
        self._reader = reader
        self._scan(min(self._positions(None).values()))

    def _scan(self, after: int) -> None:
        self._after, self.damages, self.tail = after, [], None
        # From within the record that `after` is in, which vouches for what comes behind it.
        for found in self._reader.scan(max(0, after - 1), with_frames=False):
            if isinstance(found, Damage):
                self.damages.append(found)
                if self.tail is None:
                    self.tail = found.first_seq
            else:
                self.end, self.written_ns, self.tail = found.last_seq, found.written_ns, None

    def usable(self, host: str, seq: int | None) -> list[StoredCheckpoint]:
        """Return the whole checkpoints of *host* that are left where the journal ends at *seq*."""
        return [
            found
            for found in self.checkpoints[host]
            if seq is None or (found.log_seq <= seq and found.position <= seq)
        ]

    def _positions(self, seq: int | None) -> dict[str, int]:
        return {
            host: min((found.position for found in self.usable(host, seq)[:1]), default=0)
            for host in self.checkpoints
        }

    def find_cut(self) -> Cut | None:
        """Return where the journal must end for recovery to need nothing that is damaged; None: as it is."""
        cut: Cut | None = None
        while True:
            positions = self._positions(cut.seq if cut else None)
            if min(positions.values()) < self._after:
                self._scan(min(positions.values()))
            vouched = max((found.log_seq for found in self.usable(KERNEL, None)[:1]), default=0)
            for damage in self.damages:
                if cut and damage.first_seq > cut.seq:
                    continue
                last = damage.last_seq
                if last is None and vouched >= damage.first_seq:
                    last = vouched  # the kernel's checkpoint was written with the last record: it ends there
                needed_by = [host for host, position in positions.items() if last is None or position < last]
                if needed_by:
                    break
            else:
                return cut
            seq = damage.first_seq - 1
            is_tail = self.tail is not None and damage.first_seq >= self.tail
            cut = Cut(seq, is_tail, str(damage), needed_by)

    def lost(self, seq: int | None) -> list[str]:
        """Return whose state cannot be rebuilt where the journal ends at *seq*; None: as it is."""
        positions = self._positions(seq)
        # The log goes on where the checkpoint stands, or else has the whole past.
        return [host for host, position in positions.items() if self.first > position + 1]

    @property
    def vouched_end(self) -> int | None:
        """Where the log ends, by the kernel's checkpoint, if its last record cannot say so itself."""
        found = self.usable(KERNEL, None)
        return found[0].log_seq if self.tail is not None and found else None


def check_cut(path: Path, cut: Cut, found: Examination) -> None:
    """
    Make sure that *cut* drops nothing but what is damaged.

    Raises: StoreCorrupt: something whole would go with it, or a host would have to begin anew.
    """
    lost = found.lost(cut.seq)
    if cut.is_tail and not lost:
        return
    whom = ", ".join(f"host {name}" for name in cut.needed_by)
    cost = f", though {', '.join(lost)} would begin anew" if lost else ""
    raise StoreCorrupt(
        f"the journal {path} is damaged {cut.reason}, and {whom} needs that to go on; "
        f"`tickerml journal repair` can end it at seq {cut.seq}{cost}, and --fresh begins a new run"
    )


# --- Cutting --------------------------------------------------------------------------------------


def set_aside(path: Path, rows: Iterable[bytes]) -> None:
    """
    Write *rows* to a new file at *path*, safe on disk when this returns.

    Raises: StoreError: they cannot be written.
    """
    try:
        with path.open("xb") as file:
            for row in rows:
                file.write(row)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"cannot set aside what is damaged in {path}: {error.strerror}") from None


def free_name(path: Path) -> Path:
    """Return *path* with the first number behind it that is free."""
    return next(name for number in range(1, 10**6) if not (name := Path(f"{path}-{number}")).exists())


def cut(
    path: Path,
    seq: int,
    why: str,
    *,
    opener: Opener = open_environment,
    aside: SetAside = set_aside,
) -> str:
    """
    End the journal at *path* with *seq*; no kernel may run on it. What is behind goes to a file beside it.

    Args:
        why: what is wrong with it, for the sentence that is returned and left in the journal.
    Returns: what was dropped, in one sentence.
    Raises: StoreError: it cannot be written.
    """
    file = free_name(path.with_name(f"{path.name}.damaged-{seq + 1}"))
    env = open_journal(path, opener)
    try:
        env.set_mapsize(env.info()["map_size"] + 16 * MIB)  # deleting takes pages too
        tables = {name: env.open_db(name.encode()) for name in TABLES}
        with env.begin() as txn:
            rows = list(_rows_beyond(txn, tables, seq))
            kept = sum(_count(txn.get(key, db=tables["kept"])) for table, key in rows if table == "kept")
            aside(file, (_pack(table, key, txn.get(key, db=tables[table])) for table, key in rows))
        told = (
            f"the journal was damaged {why}; it now ends at seq {seq}, and what was behind that, "
            f"{kept} kept messages among it, lies in {file.name}"
        )
        with env.begin(write=True) as txn:
            for table, key in rows:
                txn.delete(key, db=tables[table])
            for key in meta_keys("repaired"):
                txn.put(key, pack_meta(key, msgspec.msgpack.encode([seq, told])), db=tables["meta"])
    except lmdb.Error as error:
        raise unreadable(path, error) from None
    finally:
        env.close()
    logger.error("journal.cut", seq=seq, kept=kept, file=file.name)
    return told


def _rows_beyond(txn: Any, tables: dict[str, Any], seq: int) -> Iterator[tuple[str, bytes]]:
    for table in ("log", "kept"):
        with txn.cursor(tables[table]) as cursor:
            alive = cursor.set_range(KEY.pack(seq + 1))
            while alive:
                yield table, bytes(cursor.key())
                alive = cursor.next()
    with txn.cursor(tables["checkpoints"]) as cursor:
        alive = cursor.first()
        while alive:
            if _is_beyond(bytes(cursor.key()), bytes(cursor.value()), seq):
                yield "checkpoints", bytes(cursor.key())
            alive = cursor.next()


def _is_beyond(key: bytes, value: bytes, seq: int) -> bool:
    """Whether a checkpoint knows more than a journal that ends at *seq*; also one that cannot be read."""
    try:
        found = unpack_checkpoint(key, value)
    except StoreCorrupt:
        return True
    return found.position > seq or found.log_seq > seq


def _count(value: bytes) -> int:
    header = peek_header(bytes(value))
    return header.frame_count if header else 0


def _pack(table: str, key: bytes, value: bytes) -> bytes:
    return msgspec.msgpack.encode([table, key, bytes(value)])


def repaired(reader: JournalReader, seq: int) -> str:
    """Return what the last cut dropped, while nothing has been written behind it; else ""."""
    marker = reader.meta("repaired")
    if not marker:
        return ""
    at, told = msgspec.msgpack.decode(marker, type=tuple[int, str])
    return told if at == seq else ""


# --- Looking first --------------------------------------------------------------------------------


def in_child(path: Path, work: Callable[[], Iterable[Any]]) -> list[Any]:
    """
    Return what *work*, which reads the journal at *path*, yields in a forked child.

    Raises: StoreCorrupt: the child crashed or hung. StoreError: what the work raised.
    """
    what = f"the journal {path} is damaged: reading it"
    return list(run_in_child(work, what, "; restore a backup, or try `tickerml journal repair`"))


def probe(path: Path, hosts: Iterable[str] | None = None) -> None:
    """
    Read in a child what recovery will read, and begin to write.

    Raises: StoreCorrupt: the file would end or hang the process that reads it. StoreError.
    """
    in_child(path, lambda: _probe(path, hosts))


def _probe(path: Path, hosts: Iterable[str] | None) -> Iterator[None]:
    with contextlib.closing(JournalReader(path)) as reader:
        Examination(reader, hosts).find_cut()
    yield None
    _try_to_write(path)


def _try_to_write(path: Path) -> None:
    env = open_journal(path, open_environment)
    try:
        tables = [env.open_db(name.encode()) for name in TABLES]
        with env.begin(write=True) as txn:
            for table in tables:
                txn.put(b"\xff" * 9, bytes(100_000), db=table)
            txn.abort()
    except lmdb.MapFullError:
        pass  # the writer will grow the map, or say so
    except lmdb.Error as error:
        raise unreadable(path, error) from None
    finally:
        env.close()


# --- By a person's hand ---------------------------------------------------------------------------


class Remedy(enum.Enum):
    """What can be done about a journal."""

    NOTHING = "nothing"  # either it needs nothing, or nothing helps
    CUT = "cut"
    MEND_KEPT = "mend kept"
    SALVAGE = "salvage"


class Diagnosis(NamedTuple):
    """What a journal needs, in words, and how it is done."""

    words: str  # "" where it needs nothing
    remedy: str = Remedy.NOTHING.value
    seq: int = 0  # where it is cut
    reason: str = ""


def diagnose(path: Path, hosts: Callable[[JournalReader], list[str] | None]) -> Diagnosis:
    """
    Return what must be done for a kernel to go on from the journal at *path*.

    Args:
        hosts: tells which hosts are rebuilt from it; None: all that have checkpoints.
    Raises: StoreError: there is no journal.
    """
    try:
        found = list(run_in_child(lambda: _diagnose(path, hosts), f"reading the journal {path}"))
    except StoreCorrupt as error:
        return Diagnosis(
            f"{error}. Every record that can still be read will be copied into a new journal; "
            "the old one is left beside it under another name",
            Remedy.SALVAGE.value,
        )
    return Diagnosis(*found[0])


def _diagnose(path: Path, hosts: Callable[[JournalReader], list[str] | None]) -> Iterator[Diagnosis]:
    with contextlib.closing(JournalReader(path)) as reader:
        found = Examination(reader, hosts(reader))
        answer = _needed(reader, found, found.find_cut())
    _try_to_write(path)
    yield answer


def _needed(reader: JournalReader, found: Examination, needed: Cut | None) -> Diagnosis:
    lost = _lost_words(found.lost(needed.seq if needed else None))
    if needed:
        words = (
            f"the journal {reader.path} is damaged {needed.reason}, and {', '.join(needed.needed_by)} needs "
            f"that to go on. It will end at seq {needed.seq}; what is behind that, to about seq "
            f"{reader.claimed_head()}, is set aside in a file"
        )
        return Diagnosis(f"{words}. {lost}" if lost else words, Remedy.CUT.value, needed.seq, needed.reason)
    if lost:
        return Diagnosis(lost)
    damages = [each for each in reader.scan(table="kept", with_frames=False) if isinstance(each, Damage)]
    if not damages:
        return Diagnosis("")
    return Diagnosis(
        f"what the journal {reader.path} keeps for good is damaged {'; '.join(map(str, damages))}. It is "
        "written again from the log where that still has it; what is damaged is set aside in a file",
        Remedy.MEND_KEPT.value,
    )


def _lost_words(lost: list[str]) -> str:
    if not lost:
        return ""
    return (
        f"{', '.join(lost)} then has neither a whole checkpoint nor the journal from its beginning, and "
        "begins anew: better restore a backup, or begin a new run with --fresh"
    )


def apply(path: Path, diagnosis: Diagnosis, stamp: str) -> str:
    """
    Do what *diagnosis* says, and return what was done; no kernel may run on the journal.

    Args:
        stamp: goes into the name that a journal which cannot be read is kept under.
    Raises: StoreError: it cannot be done; what there is is left as it was.
    """
    match Remedy(diagnosis.remedy):
        case Remedy.CUT:
            return cut(path, diagnosis.seq, diagnosis.reason)
        case Remedy.MEND_KEPT:
            return mend_kept(path)
        case Remedy.SALVAGE:
            return salvage(path, stamp)
        case Remedy.NOTHING:
            raise StoreError(f"nothing helps the journal {path}: restore a backup, or use --fresh")


# --- What is kept ---------------------------------------------------------------------------------

_KEPT = tuple(topics.topic(kind) for kind in topics.KEPT_KINDS)


def mend_kept(path: Path) -> str:
    """
    Write again what is damaged of what is kept for good, where the log has it, and leave out the rest.

    Returns: what was done, in one sentence.
    Raises: StoreError: it cannot be written.
    """
    prev, damages = NO_DIGEST, list[Damage]()
    with contextlib.closing(JournalReader(path)) as reader:
        for found in reader.scan(table="kept", with_frames=False):
            if isinstance(found, Damage):
                damages.append(found)
            elif not damages:
                prev = found.digest
        logged = [_kept_in_log(reader, damage) for damage in damages]
    mended = {frame_seq(found[0][0]): found for found in logged if found and found[0]}
    file = free_name(path.with_name(f"{path.name}.damaged-kept-{damages[0].first_seq}"))
    env = open_journal(path, open_environment)
    try:
        env.set_mapsize(2 * env.info()["map_size"])  # what is behind is written anew, to name its new past
        _rewrite_kept(env, {damage.first_seq for damage in damages}, mended, prev, file)
    except lmdb.Error as error:
        raise unreadable(path, error) from None
    finally:
        env.close()
    known = sum(found is not None for found in logged)
    logger.error("journal.kept_mended", places=len(damages), from_log=known, file=file.name)
    return (
        f"{len(damages)} damaged places of what is kept for good were set aside in {file.name}, and "
        f"{known} of them written again from the log"
    )


def _kept_in_log(reader: JournalReader, damage: Damage) -> tuple[list[bytes], int] | None:
    """Return what the log has of a damaged stretch, and when it was written; None: not all of it."""
    if not 0 < reader.first() <= damage.first_seq:
        return None
    frames, written_ns, last = list[bytes](), 0, damage.last_seq or 2**63
    for found in reader.scan(damage.first_seq - 1):
        if found.first_seq > last:
            break
        if isinstance(found, Damage):
            return None
        within = (frame for frame in found.frames if damage.first_seq <= frame_seq(frame) <= last)
        frames += (frame for frame in within if frame.startswith(_KEPT))
        written_ns = found.written_ns
    return frames, written_ns


def _rewrite_kept(
    env: Any, damaged: set[int], mended: dict[int, tuple[list[bytes], int]], prev: bytes, file: Path
) -> None:
    tables = {name: env.open_db(name.encode()) for name in TABLES}
    kept = tables["kept"]
    with env.begin(write=True) as txn:
        keys = [key for table, key in _rows_beyond(txn, tables, min(damaged) - 1) if table == "kept"]
        broken = [key for key in keys if KEY.unpack(key)[0] in damaged]
        set_aside(file, (_pack("kept", key, txn.get(key, db=kept)) for key in broken))
        for key in broken:
            txn.delete(key, db=kept)
        for key in sorted({*keys}.difference(broken).union(map(KEY.pack, mended))):
            if (seq := KEY.unpack(key)[0]) in mended:
                frames, written_ns = mended[seq]
            else:
                record = unpack_record(key, bytes(txn.get(key, db=kept)))
                frames, written_ns = record.frames, record.written_ns
            value, prev = pack_record(frames, prev, written_ns)
            txn.put(key, value, db=kept)
