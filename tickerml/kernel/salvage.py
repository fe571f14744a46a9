"""
Copying what can still be read out of a journal whose pages LMDB cannot trust any more.

Every table is read in children, because a damaged page may end or hang the process that
reads it; what proves itself goes into a new journal that takes the old one's place.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import structlog

from .child import run_in_child
from .environment import TABLES, open_environment, open_journal, unreadable
from .errors import StoreCorrupt, StoreError
from .records import FORMAT, KEY, meta_keys, pack_meta, unpack_checkpoint, unpack_meta, unpack_record

MIB = 2**20
ROWS = 500  # in one transaction of the new journal
LIMIT_S = 5.0  # for one row

logger = structlog.get_logger()


def salvage(path: Path, stamp: str) -> str:
    """
    Copy every record that can be read into a new journal that takes the place of the one at *path*.

    Raises: StoreCorrupt: nothing can be read. StoreError: the new one cannot be written.
    """
    new = path.with_name(f"{path.name}.salvaged")
    shutil.rmtree(new, ignore_errors=True)
    room = 2 * (path / "data.mdb").stat().st_size + 64 * MIB
    target = _Target(open_journal(new, open_environment, map_size=room))
    try:
        for table in ("log", "kept"):
            _salvage_records(path, table, target)
        for table in ("meta", "checkpoints"):
            _salvage_rest(path, table, target)
        target.finish()
    finally:
        target.close()
    if not target.copied["log"]:
        shutil.rmtree(new)
        raise StoreCorrupt(f"nothing in the journal {path} can be read: restore a backup, or use --fresh")
    broken = path.with_name(f"{path.name}.broken-{stamp}")
    path.rename(broken)
    new.rename(path)
    logger.error("journal.salvaged", records=target.copied["log"], broken=broken.name)
    return (
        f"{target.copied['log']} records of the log, {target.copied['kept']} of what is kept and "
        f"{target.copied['checkpoints']} checkpoints were copied, {target.damaged} were damaged; "
        f"the old journal is {broken.name}"
    )


class _Target:
    """The new journal; takes what proves itself."""

    def __init__(self, env: Any) -> None:
        self.copied = dict.fromkeys(TABLES, 0)
        self.damaged = 0
        self._env = env
        self._tables = {name: env.open_db(name.encode()) for name in TABLES}
        self._rows: list[tuple[str, bytes, bytes]] = []

    def add(self, table: str, key: bytes, value: bytes) -> None:
        """Take a row, if it is whole."""
        try:
            _CHECKS[table](key, value)
        except StoreCorrupt:
            self.damaged += 1
            return
        self.copied[table] += 1
        self._rows.append((table, key, value))
        if len(self._rows) >= ROWS:
            self._flush()

    def finish(self) -> None:
        """Write the rest, and what format it is."""
        self._rows += [("meta", key, pack_meta(key, b"%d" % FORMAT)) for key in meta_keys("format")]
        self._flush()

    def _flush(self) -> None:
        try:
            with self._env.begin(write=True) as txn:
                for table, key, value in self._rows:
                    txn.put(key, value, db=self._tables[table])
        except lmdb.Error as error:
            raise StoreError(f"cannot write the new journal: {error}") from None
        self._rows.clear()

    def close(self) -> None:
        """Let go of it."""
        self._env.close()


_CHECKS: dict[str, Callable[[bytes, bytes], Any]] = {
    "log": unpack_record,
    "kept": unpack_record,
    "checkpoints": unpack_checkpoint,
    "meta": unpack_meta,
}


def _salvage_records(path: Path, table: str, target: _Target) -> None:
    """Read on behind each place that cannot be read, in growing steps, and then back to it."""
    at, step = 0, 1
    hole: int | None = None  # the first seq of what could not be read yet
    while at < 2**64:
        last: bytes | None = None
        try:
            for key, value in _read_rows(path, table, KEY.pack(at)):
                if hole is not None:
                    _salvage_back(path, table, KEY.pack(hole), key, target)
                    hole = None
                target.add(table, key, value)
                last = key
            return
        except StoreCorrupt:
            if last is not None:
                at, step, hole = KEY.unpack(last)[0] + 1, 1, None
        hole = at if hole is None else hole
        if last is None:
            at, step = at + step, 2 * step


def _salvage_rest(path: Path, table: str, target: _Target) -> None:
    """Read a small table from both its ends."""
    try:
        for key, value in _read_rows(path, table, b""):
            target.add(table, key, value)
    except StoreCorrupt:
        _salvage_back(path, table, b"", b"", target)


def _salvage_back(path: Path, table: str, low: bytes, key: bytes, target: _Target) -> None:
    with contextlib.suppress(StoreCorrupt):
        for found, value in _read_rows(path, table, key, is_back=True):
            if found < low:
                return
            target.add(table, found, value)


def _read_rows(path: Path, table: str, key: bytes, *, is_back: bool = False) -> Iterator[Any]:
    return run_in_child(
        lambda: _rows(path, table, key, is_back), f"reading the journal {path}", limit_s=LIMIT_S
    )


def _rows(path: Path, table: str, key: bytes, is_back: bool) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows from *key* on, or those before it, backwards; b"" is either end."""
    env = open_journal(path, open_environment, readonly=True)
    try:
        handle = env.open_db(table.encode(), create=False)
        with env.begin() as txn, txn.cursor(handle) as cursor:
            alive = cursor.set_range(key) if key else cursor.last() if is_back else cursor.first()
            if is_back and key:
                alive = cursor.prev() if alive else cursor.last()
            before = b""
            while alive:
                found = bytes(cursor.key())
                if before and (found >= before if is_back else found <= before):
                    raise StoreCorrupt("its pages go in circles")
                yield found, bytes(cursor.value())
                before = found
                alive = cursor.prev() if is_back else cursor.next()
    except lmdb.Error as error:
        raise unreadable(path, error) from None
    finally:
        env.close()
