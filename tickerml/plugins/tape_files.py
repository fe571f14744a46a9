"""The file of a tape: where it lies, opening it to read, and how much of it is in use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from tickerml.kernel import StoreCorrupt, StoreError

FILE = "tape.mdb"
_PLACES = (FILE, f"recorder/{FILE}")  # where the tape of a directory may lie


def find_tape(path: Path) -> Path:
    """
    Return the tape that *path* is, or that lies in it: in a directory, or in that of a run.

    Raises: StoreError: there is none.
    """
    for candidate in (path, *(path / place for place in _PLACES)):
        if candidate.is_file():
            return candidate
    raise StoreError(f"expected a tape at {path}, was nothing; record one with the recorder plugin")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Give the environment of the tape at *path*, to read; its errors are ours."""
    # Where the lock file cannot be written, as on a mounted copy, nobody is writing the tape either.
    has_lock = os.access(path.parent, os.W_OK)
    try:
        # Without a size of our own we take the writer's, however large it has made the map.
        with lmdb.open(str(path), subdir=False, readonly=True, map_size=0, lock=has_lock) as environment:
            yield environment
    except lmdb.Error as error:
        raise broken(path, error) from None


def broken(path: Path, error: lmdb.Error) -> StoreError:
    """Return *error* as the error that says what is wrong with the tape."""
    kind = (
        StoreCorrupt
        if isinstance(error, lmdb.CorruptedError | lmdb.InvalidError | lmdb.PageNotFoundError)
        else StoreError
    )
    return kind(f"{path}: cannot be used as a tape: {error}")


def live_bytes(path: Path) -> int:
    """Return how many bytes of a tape's pages are in use; the others wait to be written again."""
    with opened(path) as environment:
        stat = environment.stat()
    pages: int = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    return pages * int(stat["psize"])


def inode(path: Path) -> int | None:
    """Return which file *path* is now, None where there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
