"""
A disk in memory that goes wrong on demand: LMDB's part of it, as far as the journal uses it.

Disk.open stands in for lmdb.open and answers as LMDB does, with LMDB's own exceptions:
tables of sorted keys, atomic transactions, readers on the snapshot they began with. A
transaction copies a table before its first change to it, so a snapshot costs nothing and
an abort leaves nothing behind.

What goes wrong is decided by whoever holds the Disk. A commit can fail for want of space,
by an error before or after it went in, or because the disk is read-only; a disk that lies
says that a commit is safe and loses it with the power; and while nothing has the file open
a value can lose its end or turn one of its bits.
"""

import enum
from bisect import bisect_left, insort
from collections.abc import Iterator
from random import Random
from typing import Any

import lmdb

MAX_KEY_SIZE = 511
DEFAULT_MAP_SIZE = 10_485_760
_PAGE = 4096
_ENTRY = 16  # bytes that an entry costs beside its key and value, about
_RESERVED = 8 * _PAGE  # what an empty environment with a few tables takes


class Trouble(enum.Enum):
    """What is the matter with a disk's commits."""

    NONE = "none"
    FULL = "full"
    READ_ONLY = "read-only"
    ERROR = "error"  # an I/O error before anything was written
    AMBIGUOUS = "ambiguous"  # an I/O error after all was written: the commit is in, and says it is not
    PANIC = "panic"  # an I/O error while the meta page was written: in or not, and the environment is lost


class Table:
    """Keys in order with their values."""

    __slots__ = ("keys", "size", "values")

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.values: dict[bytes, bytes] = {}
        self.size = 0

    def copy(self) -> "Table":
        """Return a table that changes by itself."""
        other = Table()
        other.keys, other.values, other.size = self.keys.copy(), self.values.copy(), self.size
        return other

    def put(self, key: bytes, value: bytes) -> None:
        """Set *key* to *value*."""
        if (before := self.values.get(key)) is None:
            if not self.keys or key > self.keys[-1]:
                self.keys.append(key)
            else:
                insort(self.keys, key)
            self.size += len(key) + len(value) + _ENTRY
        else:
            self.size += len(value) - len(before)
        self.values[key] = value

    def remove(self, key: bytes) -> None:
        """Drop *key*, which is there."""
        del self.keys[bisect_left(self.keys, key)]
        self.size -= len(key) + len(self.values.pop(key)) + _ENTRY


Tables = dict[bytes, Table]


class StoredFile:
    """One environment as it lies on the disk: what the last commit left, and what a power loss would."""

    def __init__(self) -> None:
        self.tables: Tables = {}
        self.synced: Tables | None = None  # what is truly on the disk, while the disk lies
        self.commits_unsynced = 0
        self.commits = 0
        self.map_size = 0

    @property
    def used(self) -> int:
        """Bytes taken."""
        return size_of(self.tables)


def size_of(tables: Tables) -> int:
    """Return the bytes that *tables* take, in whole pages."""
    taken = _RESERVED + sum(table.size for table in tables.values())
    return -(-taken // _PAGE) * _PAGE


class Disk:
    """The files of one machine, by path, and what is the matter with them."""

    def __init__(self, rng: Random) -> None:
        """
        Args:
            rng: decides what the faults leave open: whether a commit that failed is in, which bit turns.
        """
        self.files: dict[str, StoredFile] = {}
        self.trouble = Trouble.NONE
        self.is_lying = False
        self._rng = rng

    def open(
        self,
        path: str,
        map_size: int = DEFAULT_MAP_SIZE,
        *,
        readonly: bool = False,
        create: bool = True,
        **ignored: Any,
    ) -> "Environment":
        """
        Open the environment at *path*, as lmdb.open does; what is not told apart here is *ignored*.

        Raises: lmdb.Error: there is none, and none is to be made.
        """
        if (file := self.files.get(path)) is None:
            if readonly or not create:
                raise lmdb.Error(f"{path}: No such file or directory")
            file = self.files[path] = StoredFile()
        return Environment(self, path, file, map_size, readonly=readonly)

    # --- Faults -------------------------------------------------------------------------------

    def lose_power(self) -> int:
        """Lose what a lying disk said was safe; returns how many commits that were."""
        lost = 0
        for file in self.files.values():
            if file.synced is not None:
                lost += file.commits_unsynced
                file.tables = file.synced
            file.synced, file.commits_unsynced = None, 0
        return lost

    def set_lying(self, is_lying: bool) -> None:
        """Begin or cease to lie; who ceases brings what it owes to the disk."""
        self.is_lying = is_lying
        if not is_lying:
            for file in self.files.values():
                file.synced, file.commits_unsynced = None, 0

    def flip_bit(self, path: str, table: bytes, key: bytes) -> None:
        """Turn one bit of the value of *key*."""
        target = self.files[path].tables[table]
        value = bytearray(target.values[key])
        at = self._rng.randrange(8 * len(value))
        value[at // 8] ^= 1 << at % 8
        self._damage(target, key, bytes(value))

    def tear(self, path: str, table: bytes, key: bytes) -> None:
        """Take away the end of the value of *key*, from anywhere in it."""
        target = self.files[path].tables[table]
        value = target.values[key]
        self._damage(target, key, value[: self._rng.randrange(len(value) or 1)])

    def _damage(self, table: Table, key: bytes, value: bytes) -> None:
        table.size += len(value) - len(table.values[key])
        table.values[key] = value

    # --- Commits ------------------------------------------------------------------------------

    def commit(self, file: StoredFile, tables: Tables) -> None:
        """
        Make *tables* what is stored in *file*, or fail as the disk's trouble has it.

        Raises: lmdb.Error, lmdb.DiskError.
        """
        match self.trouble:
            case Trouble.FULL:
                raise lmdb.DiskError("mdb_txn_commit: No space left on device")
            case Trouble.READ_ONLY:
                raise lmdb.Error("mdb_txn_commit: Read-only file system")
            case Trouble.ERROR:
                raise lmdb.Error("mdb_txn_commit: Input/output error")
            case Trouble.AMBIGUOUS:
                self._store(file, tables)
                raise lmdb.Error("mdb_txn_commit: Input/output error")
            case Trouble.PANIC:
                if self._rng.random() < 0.5:
                    self._store(file, tables)
                raise lmdb.Error("mdb_txn_commit: Input/output error")
            case _:
                self._store(file, tables)

    def _store(self, file: StoredFile, tables: Tables) -> None:
        if self.is_lying:
            if file.synced is None:
                file.synced = file.tables
            file.commits_unsynced += 1
        file.tables = tables
        file.commits += 1


class Environment:
    """An open environment: what lmdb.Environment is to the journal."""

    def __init__(self, disk: Disk, path: str, file: StoredFile, map_size: int, *, readonly: bool) -> None:
        self.disk = disk
        self.file = file
        self.is_broken = False
        self._path = path
        self._readonly = readonly
        self._is_open = True
        self._map_size = max(map_size, file.map_size)
        if not readonly:
            file.map_size = self._map_size

    @property
    def map_size(self) -> int:
        """How many bytes a transaction may take."""
        return self._map_size

    def begin(
        self, db: bytes | None = None, parent: None = None, write: bool = False, buffers: bool = False
    ) -> "Transaction":
        """Return a transaction on what is stored now."""
        self._check_open()
        if self.is_broken:
            raise lmdb.PanicError(
                "mdb_txn_begin: MDB_PANIC: Update of meta page failed or environment had fatal error"
            )
        if write and self._readonly:
            raise lmdb.ReadonlyError(
                "Cannot start write transaction with read-only environment.: Permission denied"
            )
        if self.file.used > self._map_size:
            raise lmdb.MapResizedError(
                "mdb_txn_begin: MDB_MAP_RESIZED: Database contents grew beyond environment mapsize"
            )
        return Transaction(self, is_writing=write)

    def open_db(self, key: bytes, txn: None = None, create: bool = True, **ignored: Any) -> bytes:
        """
        Return the handle of a table, its name; makes it unless *create* is false.

        Raises: lmdb.NotFoundError, lmdb.ReadonlyError.
        """
        self._check_open()
        if key not in self.file.tables:
            if not create:
                raise lmdb.NotFoundError("mdb_dbi_open: MDB_NOTFOUND: No matching key/data pair found")
            if self._readonly:
                raise lmdb.ReadonlyError("mdb_dbi_open: Permission denied")
            self.disk.commit(self.file, {**self.file.tables, key: Table()})
        return key

    def set_mapsize(self, map_size: int) -> None:
        """Change the size of the map; 0 takes on the size that another process gave it."""
        self._check_open()
        self._map_size = max(map_size or self.file.map_size, self.file.used)
        if not self._readonly:
            self.file.map_size = max(self.file.map_size, self._map_size)

    def info(self) -> dict[str, int]:
        """Return what lmdb's info does, as far as it means anything here."""
        self._check_open()
        return {
            "map_addr": 0,
            "map_size": self._map_size,
            "last_pgno": self.file.used // _PAGE - 1,
            "last_txnid": self.file.commits,
            "max_readers": 126,
            "num_readers": 1,
        }

    def stat(self) -> dict[str, int]:
        """Return what lmdb's stat does, as far as it means anything here."""
        self._check_open()
        return {"psize": _PAGE, "entries": len(self.file.tables)}

    def path(self) -> str:
        """Return where it is."""
        return self._path

    def reader_check(self) -> int:
        """Return how many readers died with their slots taken: none ever do here."""
        return 0

    def sync(self, force: bool = False) -> None:
        """Bring everything to the disk, or say so."""

    def close(self) -> None:
        """Let go of it."""
        self._is_open = False

    def _check_open(self) -> None:
        if not self._is_open:
            raise lmdb.Error("Attempt to operate on closed/deleted/dropped object.")

    def __enter__(self) -> "Environment":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Transaction:
    """What lmdb.Transaction is to the journal."""

    def __init__(self, env: Environment, *, is_writing: bool) -> None:
        self._env = env
        self._is_writing = is_writing
        self._is_over = self._has_failed = False
        self.tables: Tables = dict(env.file.tables) if is_writing else env.file.tables
        self._mine: set[bytes] = set()

    def get(self, key: bytes, default: Any = None, db: bytes = b"") -> Any:
        """Return the value of *key*, or *default*."""
        return self._table(db).values.get(key, default)

    def put(
        self,
        key: bytes,
        value: bytes,
        dupdata: bool = True,
        overwrite: bool = True,
        append: bool = False,
        db: bytes = b"",
    ) -> bool:
        """Set *key*; false where it may not be overwritten, or with *append* is not beyond the last."""
        table = self._changing(db, "mdb_put")
        if not 0 < len(key) <= MAX_KEY_SIZE:
            raise lmdb.BadValsizeError("mdb_put: MDB_BAD_VALSIZE: Unsupported size of key/DB name/data")
        if (not overwrite and key in table.values) or (append and table.keys and key <= table.keys[-1]):
            return False
        table.put(key, bytes(value))
        if size_of(self.tables) > self._env.map_size:
            self._has_failed = True
            raise lmdb.MapFullError("mdb_put: MDB_MAP_FULL: Environment mapsize limit reached")
        return True

    def delete(self, key: bytes, value: bytes = b"", db: bytes = b"") -> bool:
        """Drop *key*; whether it was there."""
        table = self._changing(db, "mdb_del")
        if key not in table.values:
            return False
        table.remove(key)
        return True

    def cursor(self, db: bytes = b"") -> "Cursor":
        """Return a cursor on a table."""
        self._table(db)
        return Cursor(self, db)

    def stat(self, db: bytes) -> dict[str, int]:
        """Return what lmdb's stat does, as far as it means anything here."""
        return {"psize": _PAGE, "entries": len(self._table(db).keys)}

    def commit(self) -> None:
        """
        Make the changes what everybody sees.

        Raises: lmdb.Error: whatever is the matter with the disk.
        """
        self._check()
        self._is_over = True
        if self._mine:
            try:
                self._env.disk.commit(self._env.file, self.tables)
            except lmdb.Error:
                self._env.is_broken = self._env.disk.trouble is Trouble.PANIC
                raise

    def abort(self) -> None:
        """Forget the changes."""
        self._is_over = True

    def _check(self) -> None:
        if self._is_over:
            raise lmdb.Error("Attempt to operate on closed/deleted/dropped object.")
        if self._has_failed:
            raise lmdb.BadTxnError("MDB_BAD_TXN: Transaction must abort, has a child, or is invalid")

    def _table(self, db: bytes) -> Table:
        self._check()
        return self.tables[db]

    def _changing(self, db: bytes, call: str) -> Table:
        table = self._table(db)
        if not self._is_writing:
            raise lmdb.ReadonlyError(f"{call}: Permission denied")
        if db not in self._mine:
            self._mine.add(db)
            table = self.tables[db] = table.copy()
        return table

    def table_of(self, db: bytes) -> Table:
        """Return the table that a cursor walks over, as it is now."""
        return self._table(db)

    def __enter__(self) -> "Transaction":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if not self._is_over:
            if kind is None:
                self.commit()
            else:
                self.abort()


class Cursor:
    """
    What lmdb.Cursor is to the journal; it stands on a key, which b"" is where it stands on none.

    Where a move has failed, only first, last, set_key and set_range go where LMDB would.
    """

    def __init__(self, txn: Transaction, db: bytes) -> None:
        self._txn = txn
        self._db = db
        self._key = b""

    def _stand(self, at: int) -> bool:
        keys = self._txn.table_of(self._db).keys
        self._key = keys[at] if 0 <= at < len(keys) else b""
        return bool(self._key)

    def first(self) -> bool:
        """Go to the first key; whether there is one."""
        return self._stand(0)

    def last(self) -> bool:
        """Go to the last key; whether there is one."""
        return self._stand(len(self._txn.table_of(self._db).keys) - 1)

    def next(self) -> bool:
        """Go to the key after this one, to the first from nowhere; whether there is one."""
        keys = self._txn.table_of(self._db).keys
        at = bisect_left(keys, self._key) if self._key else -1
        return self._stand(at + (at < len(keys) and (at < 0 or keys[at] == self._key)))

    def prev(self) -> bool:
        """Go to the key before this one, to the last from nowhere; whether there is one."""
        keys = self._txn.table_of(self._db).keys
        return self._stand((bisect_left(keys, self._key) if self._key else len(keys)) - 1)

    def set_range(self, key: bytes) -> bool:
        """Go to the first key that is not before *key*; whether there is one."""
        return self._stand(bisect_left(self._txn.table_of(self._db).keys, key))

    def set_key(self, key: bytes) -> bool:
        """Go to *key*; whether it is there."""
        return self._stand(self._index(key))

    def _index(self, key: bytes) -> int:
        keys = self._txn.table_of(self._db).keys
        at = bisect_left(keys, key)
        return at if at < len(keys) and keys[at] == key else -1

    def key(self) -> bytes:
        """Return the key it stands on."""
        return self._key

    def value(self) -> bytes:
        """Return the value it stands on."""
        return self._txn.table_of(self._db).values.get(self._key, b"")

    def item(self) -> tuple[bytes, bytes]:
        """Return the key and the value it stands on."""
        return self.key(), self.value()

    def delete(self) -> bool:
        """Drop the key it stands on and stand on the next; whether it stood on one."""
        if not self._key:
            return False
        following = bisect_left(self._txn.table_of(self._db).keys, self._key)
        self._txn.delete(self._key, db=self._db)
        self._stand(following)
        return True

    def iternext(self, keys: bool = True, values: bool = True) -> Iterator[Any]:
        """Yield keys, values or both from where it stands, or from the first."""
        alive = bool(self._key) or self.first()
        while alive:
            yield self.item() if keys and values else self.key() if keys else self.value()
            alive = self.next()

    def __iter__(self) -> Iterator[Any]:
        return self.iternext()

    def close(self) -> None:
        """Let go of the transaction."""

    def __enter__(self) -> "Cursor":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
