"""
Reading the journal, also while a kernel writes it.

Nothing comes out that was not put in: what is damaged, missing or out of place is
raised, or with scan() given as a Damage in its place.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import structlog

from .environment import TABLES, Opener, check_format, open_environment, open_journal, read_meta, unreadable
from .errors import StoreCorrupt, StoreError
from .records import (
    KEY,
    Checkpoint,
    Record,
    StoredCheckpoint,
    frame_seq,
    key_seq,
    peek_header,
    read_header,
    split_checkpoint_key,
    unpack_checkpoint,
    unpack_record,
)

logger = structlog.get_logger()


class Damage(NamedTuple):
    """A stretch of the order that a table does not give back."""

    first_seq: int
    last_seq: int | None  # None: to the end of the table
    reason: str

    def __str__(self) -> str:
        if self.last_seq is None:
            return f"from seq {self.first_seq} on: {self.reason}"
        return f"seq {self.first_seq} to {self.last_seq}: {self.reason}"


class JournalReader:
    """Reads a journal, also while a kernel writes it."""

    def __init__(self, path: Path, *, opener: Opener = open_environment) -> None:
        """
        Raises: StoreError: there is no journal at *path*. StoreCorrupt: one of another format.
        """
        self.path = path
        self._env = open_journal(path, opener, readonly=True)
        try:
            self._tables = {name: self._env.open_db(name.encode(), create=False) for name in TABLES}
            first = self._row("log")
            check_format(path, self.meta("format"), first.value if first else b"")
        except lmdb.Error as error:
            self._env.close()
            raise unreadable(path, error) from None
        except StoreError:
            self._env.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._env.close()

    @contextlib.contextmanager
    def _begin(self) -> Iterator[Any]:
        try:
            try:
                txn = self._env.begin()
            except lmdb.MapResizedError:  # the writer has grown the map since we opened it
                self._env.set_mapsize(0)
                txn = self._env.begin()
            with txn:
                yield txn
        except lmdb.Error as error:
            raise unreadable(self.path, error) from None

    @contextlib.contextmanager
    def _walk(self, table: str) -> Iterator[Any]:
        with self._begin() as txn, txn.cursor(self._tables[table]) as cursor:
            yield cursor

    def meta(self, name: str) -> bytes:
        """
        Return the meta value *name*, b"" where there is none.

        Raises: StoreCorrupt: both of its copies are damaged.
        """
        with self._begin() as txn:
            return read_meta(txn, self._tables["meta"], name)

    def head(self) -> int:
        """
        Return the last committed seq, 0 for an empty journal.

        Raises: StoreCorrupt: the last record is damaged.
        """
        with self._walk("log") as cursor:
            return read_header(bytes(cursor.key()), bytes(cursor.value())).last_seq if cursor.last() else 0

    def claimed_head(self) -> int:
        """Return the last seq as the log's last record states it, damaged or not; for progress alone."""
        with self._walk("log") as cursor:
            header = peek_header(bytes(cursor.value())) if cursor.last() else None
            return header.last_seq if header else 0

    def first(self) -> int:
        """Return the first seq still in the log, 0 for an empty journal."""
        with self._walk("log") as cursor:
            return key_seq(bytes(cursor.key())) if cursor.first() else 0

    # --- Records ------------------------------------------------------------------------------

    def records(self, after: int = 0, table: str = "log") -> Iterator[Record]:
        """
        Yield the records that hold anything beyond seq *after*, in order, each from a fresh snapshot.

        Raises: StoreCorrupt: a record is damaged, missing or out of place; what came before is whole.
        """
        for found in self.scan(after, table):
            if isinstance(found, Damage):
                raise StoreCorrupt(
                    f"the journal is damaged {'in what is kept ' * (table == 'kept')}{found}; "
                    "what is before it is whole; see `tickerml journal verify`"
                )
            yield found

    def scan(
        self, after: int = 0, table: str = "log", *, with_frames: bool = True
    ) -> Iterator[Record | Damage]:
        """
        Yield as records() does, and a Damage in the place of what cannot be given.

        Args:
            with_frames: False where it is enough to know that they are whole.
        Raises: StoreCorrupt: LMDB itself cannot read on.
        """
        previous: Record | None = None
        # The record that contains `after + 1` may start before it.
        row = self._row(table, before=after + 1) or self._row(table, at_least=after + 1)
        while row:
            damage = _gap(previous, row, table)
            if damage:
                yield damage
                previous = None
            found = _read(row, previous, with_frames=with_frames)
            following = self._row(table, at_least=row.first_seq + 1)
            if isinstance(found, Record):
                if found.last_seq > after:
                    yield found
                previous = found
            else:
                if not following and _claims_to_end_by(after, row):
                    return
                last = following.first_seq - 1 if following else None
                if last is None or last > after:
                    yield Damage(row.first_seq, last, found)
                previous = None
            # A reader that took its time finds what has been written meanwhile.
            row = following or self._row(table, at_least=row.first_seq + 1)

    def _row(self, table: str, *, at_least: int = 0, before: int = 0) -> "_Row | None":
        # The first record with first seq >= at_least, or the last with first seq < before.
        with self._walk(table) as cursor:
            found = cursor.set_range(KEY.pack(at_least or before))
            if before:
                found = cursor.prev() if found else cursor.last()
            if not found:
                return None
            key = bytes(cursor.key())
            return _Row(key_seq(key), key, bytes(cursor.value()))

    def frames(self, after: int = 0, until: int = 2**63, table: str = "log") -> Iterator[bytes]:
        """
        Yield the frames with after < seq <= until, in order.

        Raises: StoreCorrupt: as records().
        """
        if after >= until:
            return
        for record in self.records(after, table):
            for frame in record.frames:
                seq = frame_seq(frame)
                if seq > until:
                    return
                if seq > after:
                    yield frame
            if record.last_seq >= until:
                return

    # --- Checkpoints --------------------------------------------------------------------------

    def hosts(self) -> list[str]:
        """Return the hosts of which there are checkpoints, whole or not."""
        with self._walk("checkpoints") as cursor:
            places = [split_checkpoint_key(bytes(key)) for key in cursor.iternext(keys=True, values=False)]
        return sorted({place[0] for place in places if place})

    def checkpoint(self, host: str) -> Checkpoint | None:
        """
        Return the last checkpoint of *host* that is whole.

        Raises: StoreCorrupt: as checkpoints().
        """
        return next(iter(self.checkpoints(host)), None)

    def checkpoints(self, host: str) -> list[Checkpoint]:
        """
        Return the checkpoints of *host* that are whole and of this journal's past, newest first.

        Raises: StoreCorrupt: there are some, none is whole, and the log no longer has its beginning.
        """
        whole, damaged = self.stored_checkpoints(host)
        for reason in damaged:
            logger.error("journal.checkpoint_damaged", host=host, error=reason)
        if damaged and not whole:
            if self.first() != 1:
                raise StoreCorrupt(
                    f"{damaged[0]}; none of host {host} is whole, and the journal {self.path} no longer has "
                    "its beginning, from which the host could be rebuilt: begin a new run with --fresh"
                )
            logger.error("journal.checkpoints_lost", host=host)
        return [Checkpoint(found.host, found.position, found.state) for found in whole]

    def stored_checkpoints(self, host: str) -> tuple[list[StoredCheckpoint], list[str]]:
        """Return those of *host* that are whole, newest first, and what is wrong with the others."""
        whole: list[StoredCheckpoint] = []
        damaged: list[str] = []
        for key, value in reversed(self._checkpoint_rows(host)):
            try:
                found = unpack_checkpoint(key, value)
                self._check_past(found)
                if whole and whole[-1].prev != found.digest:
                    raise StoreCorrupt(
                        f"the checkpoint of host {host} at {found.position} is not the one that the one "
                        f"at {whole[-1].position} followed"
                    )
                whole.append(found)
            except StoreCorrupt as error:
                damaged.append(str(error))
        return whole, damaged

    def _checkpoint_rows(self, host: str) -> list[tuple[bytes, bytes]]:
        prefix, rows = host.encode() + b"\0", []
        with self._walk("checkpoints") as cursor:
            if cursor.set_range(prefix):
                for key, value in cursor.iternext():
                    if not key.startswith(prefix):
                        break
                    rows.append((bytes(key), bytes(value)))
        return rows

    def _check_past(self, found: StoredCheckpoint) -> None:
        """
        Compare *found* with the log record it was committed with, where the log still holds that.

        Raises: StoreCorrupt: it was committed with another.
        """
        row = self._row("log", before=found.log_seq + 1) if found.log_seq else None
        if row is None:
            return
        header = peek_header(row.value)
        if header and (header.last_seq, header.digest) == (found.log_seq, found.log_digest):
            return
        try:
            header = read_header(row.key, row.value)
        except StoreCorrupt:
            return  # what it was committed with is damaged, and says nothing
        following = self._row("log", at_least=row.first_seq + 1)
        if header.last_seq >= found.log_seq or following is None:
            raise StoreCorrupt(
                f"the checkpoint of host {found.host} at {found.position} is of another past: it was written "
                f"with the journal at seq {found.log_seq}, where this journal holds something else"
            )


class _Row(NamedTuple):
    first_seq: int
    key: bytes
    value: bytes


def _gap(previous: Record | None, row: _Row, table: str) -> Damage | None:
    """Return what is missing between *previous* and *row*."""
    if previous is None or row.first_seq <= previous.last_seq + 1:
        return None
    if table == "kept":
        # What is kept has holes by nature: only the chain tells.
        header = peek_header(row.value)
        if header is None or header.prev == previous.digest:
            return None
    return Damage(previous.last_seq + 1, row.first_seq - 1, "it is missing")


def _read(row: _Row, previous: Record | None, *, with_frames: bool) -> Record | str:
    """Return the record of *row*, or what is wrong with it."""
    try:
        if with_frames:
            record = unpack_record(row.key, row.value)
        else:
            header = read_header(row.key, row.value)
            record = Record(row.first_seq, header.last_seq, header.written_ns, header.prev, header.digest, [])
    except StoreCorrupt as error:
        return str(error)
    if previous and not (record.first_seq > previous.last_seq and record.follows(previous)):
        return f"what is at seq {record.first_seq} is not what was written after seq {previous.last_seq}"
    return record


def _claims_to_end_by(after: int, row: _Row) -> bool:
    # If it does not, what is written next shows the gap.
    header = peek_header(row.value)
    return header is not None and header.last_seq <= after
