"""
The blocks of a range of time as one array for each column, unpacked into its place by several threads.

How many rows of a block are wanted is known from its header and its shape, mostly; only where it
reaches over an end of the range has its ts_recv to be unpacked first.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .tape_blocks import Buffer, Unpacked, Unsqueeze, parse_block, unsqueezer
from .tape_codec import Column
from .tape_numpy import Bools, Kernels
from .tape_rows import Kind, Rows

_THREADS = min(os.cpu_count() or 1, 4)
_MANY = 8  # blocks that one thread takes at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return what *function* makes of each, by several threads: zstd, NumPy and the loops leave them free."""
    if len(items) < _THREADS:
        return list(map(function, items))
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def room(count: int, dtype: np.dtype[Any], before: Column | None) -> Column:
    """Return room for *count* elements: that of *before* where it is large enough."""
    return np.empty(count, dtype) if before is None or len(before) < count else before[:count]


class Wanted(NamedTuple):
    """Which rows: those of start_ns <= ts_recv < end_ns, keyframes only where they are asked for."""

    start_ns: int
    end_ns: int
    has_keyframes: bool

    def of(self, rows: Rows) -> Rows:
        """Return those among *rows*."""
        is_wanted = (rows["ts_recv"] >= self.start_ns) & (rows["ts_recv"] < self.end_ns)
        if not self.has_keyframes:
            is_wanted &= rows["kind"] != Kind.KEYFRAME
        return rows[is_wanted]


class _Part(NamedTuple):
    unpacked: Unpacked
    is_wanted: Bools | None  # None: every row
    length: int


class Selection:
    """What is wanted of blocks whose values stay where they are until it is filled in."""

    def __init__(
        self, path: Path, blocks: Sequence[tuple[bytes, Buffer]], wanted: Wanted, kernels: Kernels
    ) -> None:
        """Raises: StoreCorrupt: a block is not what was sealed."""

        def opened(run: Sequence[tuple[bytes, Buffer]]) -> list[_Part]:
            unsqueeze = unsqueezer()
            return [_part(path, *block, wanted, kernels, unsqueeze) for block in run]

        runs = [blocks[start : start + _MANY] for start in range(0, len(blocks), _MANY)]
        self._runs = each(opened, runs)
        self.length = sum(part.length for run in self._runs for part in run)

    def fill(self, columns: Mapping[str, Column]) -> None:
        """
        Unpack the columns that are asked for into those of *columns*, each as long as this is.

        Raises: StoreCorrupt: a block is not what was sealed.
        """
        lengths = [sum(part.length for part in run) for run in self._runs]
        starts = np.cumsum([0, *lengths], dtype=int).tolist()

        def fill(place: tuple[int, list[_Part]]) -> None:
            start, run = place
            for part in run:
                for name, column in columns.items():
                    _put(part, name, column[start : start + part.length])
                start += part.length

        each(fill, list(zip(starts, self._runs, strict=False)))


def _part(
    path: Path, key: bytes, value: Buffer, wanted: Wanted, kernels: Kernels, unsqueeze: Unsqueeze
) -> _Part:
    block = parse_block(path, key, value)
    unpacked = Unpacked(path, block, value, kernels, unsqueeze)
    is_wanted = np.ones(block.rows, bool)
    if not wanted.has_keyframes:
        is_wanted = unpacked.kind != Kind.KEYFRAME
    if block.first_ts < wanted.start_ns or block.last_ts >= wanted.end_ns:
        ts_recv = np.empty(block.rows, np.int64)
        unpacked.put("ts_recv", ts_recv)
        is_wanted &= (ts_recv >= wanted.start_ns) & (ts_recv < wanted.end_ns)
    length = int(np.count_nonzero(is_wanted))
    return _Part(unpacked, None if length == block.rows else is_wanted, length)


def _put(part: _Part, name: str, out: Column) -> None:
    if part.is_wanted is None:
        part.unpacked.put(name, out)
        return
    whole = np.empty(len(part.is_wanted), out.dtype)
    part.unpacked.put(name, whole)
    out[:] = whole[part.is_wanted]
