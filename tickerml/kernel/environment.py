"""
The journal's LMDB environment: how it is opened, and the little that reader and writer share.

An opener is called as lmdb.open is and gives what lmdb.open gives. Of an environment the
journal uses begin, open_db, set_mapsize, info, reader_check and close; of a transaction
get, put, delete, cursor, abort and its end as a context; of a cursor first, last, next,
prev, set_range, key, value, delete and iternext.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

from .errors import StoreCorrupt, StoreError
from .records import FORMAT, meta_keys, unpack_meta

TABLES = ("log", "kept", "meta", "checkpoints")

Opener = Callable[..., Any]

_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.BadTxnError,
    lmdb.NotFoundError,
)


def open_environment(path: str, **options: Any) -> Any:
    """
    Open LMDB as lmdb.open does; where one is to be made it appears whole or, on a sudden end, not at all.

    Raises: lmdb.Error, OSError.
    """
    if not options.get("readonly") and not os.path.exists(os.path.join(path, "data.mdb")):
        new = Path(f"{path}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True, mode=0o700)
        env = lmdb.open(str(new), **options)
        for name in TABLES:
            env.open_db(name.encode())
        env.close()
        new.replace(path)
        sync_directory(new.parent)
    return lmdb.open(path, **options)


def sync_directory(path: Path) -> None:
    """Have what was moved into the directory *path* stay there if the power fails."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def open_journal(path: Path, opener: Opener, *, map_size: int = 0, readonly: bool = False) -> Any:
    """
    Return the environment of the journal at *path*.

    Raises: StoreError: there is none, or it cannot be opened or made.
    """
    try:
        return opener(
            str(path),
            map_size=map_size,
            max_dbs=len(TABLES),
            readonly=readonly,
            create=not readonly,
            mode=0o600,
            max_readers=126,
        )
    except lmdb.Error as error:
        if readonly and os.strerror(2) in str(error):
            raise StoreError(f"there is no journal at {path}") from None
        raise StoreError(f"cannot open the journal {path}: {error}") from None
    except OSError as error:
        raise StoreError(f"cannot make the journal {path}: {error.strerror}") from None


def is_there(path: Path, opener: Opener = open_environment) -> bool:
    """
    Return whether there is a journal at *path*.

    Raises: StoreError: something is, and cannot be opened.
    """
    try:
        open_journal(path, opener, readonly=True).close()
    except StoreError as error:
        if "there is no journal" in str(error):
            return False
        raise
    return True


def unreadable(path: Path, error: Exception) -> StoreError:
    """Return what to raise where LMDB refuses to read."""
    kind = StoreCorrupt if isinstance(error, _DAMAGE) else StoreError
    return kind(f"the journal {path} cannot be read: {error}; see `tickerml journal repair`")


def read_meta(txn: Any, table: Any, name: str) -> bytes:
    """
    Return the meta value *name*, b"" where there is none.

    Raises: StoreCorrupt: both of its copies are damaged.
    """
    damage: StoreCorrupt | None = None
    for key in meta_keys(name):
        value = txn.get(key, db=table)
        try:
            if value is not None:
                return unpack_meta(key, bytes(value))
        except StoreCorrupt as error:
            damage = error
    if damage:
        raise StoreCorrupt(f"{damage}; restore a backup, or try `tickerml journal repair`")
    return b""


def check_format(path: Path, written: bytes, first_record: bytes) -> None:
    """
    Make sure that the journal at *path*, whose meta value "format" is *written*, can be understood.

    Args:
        first_record: of the log, b"" without one.
    Raises: StoreCorrupt: it is of another format, or does not say of which.
    """
    if written == b"%d" % FORMAT or not (written or first_record):
        return
    if not written and first_record[0] == FORMAT:
        raise StoreCorrupt(
            f"the journal {path} is damaged: it no longer says of which format it is; "
            "restore a backup, or try `tickerml journal repair`"
        )
    raise StoreCorrupt(
        f"the journal {path} is of format {written.decode(errors='replace') or first_record[0]}, and this "
        f"version of TickerML reads {FORMAT}: use the version that wrote it, or begin a new run with --fresh"
    )
