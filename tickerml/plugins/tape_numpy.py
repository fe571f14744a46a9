"""
What is done to whole columns when blocks are packed and unpacked, with NumPy alone.

tape_loops has the same functions as loops for a compiler, and they give the same bytes. A column
of numbers is packed as planes: zigzagged, divided by the common divisor, cut to the bytes that
the largest needs, and laid out as all the low bytes, then all the next ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .tape_rows import MIN_TS, ROW, Ints, Rows

Column = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Sides = npt.NDArray[np.int8]

FEW = 16  # numbers that have no common divisor, mostly, when all have none


class Kernels(NamedTuple):
    """One form of the functions; *name* says which."""

    name: str
    join: Callable[[Bytes, int, int, int], Ints]
    accumulate: Callable[[Bytes, int, int, int, int], Ints]
    repeat: Callable[[Ints, Bools, Ints], None]
    received: Callable[[int, Ints, Ints], Ints]
    scatter: Callable[[Ints, Sides, Ints], None]
    fill: Callable[[Ints, Bools, Ints], None]
    pick: Callable[[Ints, Ints, Bools, Ints], None]
    apart: Callable[[Rows], tuple[Column, ...]]
    changes: Callable[[Ints, Ints, Ints], Bools]
    gather: Callable[[Ints, Sides], Ints]
    split: Callable[[Ints], tuple[int, int, Bytes]]
    rank: Callable[[Ints], tuple[Ints, Ints]]


# --- Unpacking ------------------------------------------------------------------------------------


def join(planes: Bytes, count: int, width: int, divisor: int) -> Ints:
    """Return the *count* numbers that split() made *width* planes of."""
    size = 1 << max(width - 1, 0).bit_length()
    word = np.dtype(f"<u{size}").type
    number = np.zeros(count, word)
    for place in range(width):
        octets = planes[place * count : (place + 1) * count]
        number |= octets.astype(word) << word(8 * place)
    sign = number & word(1)
    number >>= word(1)
    number ^= np.negative(sign, out=sign)
    values: Ints = number.view(f"<i{size}").astype(np.int64)
    if divisor != 1:
        values *= np.int64(divisor)
    return values


def accumulate(planes: Bytes, count: int, width: int, divisor: int, first: int) -> Ints:
    """Return *first* and the *count* sums that follow when what join() returns is added to it, one by one."""
    values = np.empty(count + 1, np.int64)
    values[0] = first
    values[1:] = join(planes, count, width, divisor)
    return np.cumsum(values, out=values)


def repeat(values: Ints, is_changed: Bools, out: Ints) -> None:
    """Put into *out* the next of *values* from each row on that is_changed; the first row is."""
    at = np.flatnonzero(is_changed)
    out[:] = np.repeat(values, np.diff(at, append=len(out)))


def clock_of(ts_event: Ints) -> Ints:
    """Return *ts_event*, and where it is 0 the one before that is not, or else the first that is not."""
    is_known = ts_event != 0
    if is_known.all():
        return ts_event
    at = np.where(is_known, np.arange(len(ts_event)), is_known.argmax())
    return ts_event[np.maximum.accumulate(at)]


def received(first: int, steps: Ints, ts_event: Ints) -> Ints:
    """
    Return the times that are later than clock_of() *ts_event*.

    Args:
        first: by how much the first one is, ns.
        steps: by how much more each of the others than the one before it is; those at which the clock
            moves come first.
    """
    clock = clock_of(ts_event)
    is_moved = clock[1:] != clock[:-1]
    moves = np.count_nonzero(is_moved)
    later = np.full(len(clock), first)
    later[1:][is_moved], later[1:][~is_moved] = steps[:moves], steps[moves:]
    return np.cumsum(later, out=later) + clock


def scatter(values: Ints, side: Sides, out: Ints) -> None:
    """Put *values*, which gather() has brought in the order of *side*, back in that of the rows."""
    out[_by_side(side)] = values


def fill(values: Ints, is_zero: Bools, out: Ints) -> None:
    """Put 0 into *out* where it is_zero, and *values*, in their order, elsewhere."""
    out[:] = 0
    out[~is_zero] = values


def pick(values: Ints, index: Ints, is_zero: Bools, out: Ints) -> None:
    """As fill(), with those of *values* that *index* says."""
    fill(values.take(index), is_zero, out)


# --- Packing --------------------------------------------------------------------------------------


def apart(rows: Rows) -> tuple[Column, ...]:
    """Return the columns of *rows*, contiguous, in the order of ROW."""
    return tuple(np.ascontiguousarray(rows[name]) for name in ROW.names or ())


def changes(ts_recv: Ints, ts_event: Ints, seq: Ints) -> Bools:
    """Return where a row differs from the one before it in any of these; the first one does."""
    found = np.ones(len(seq), bool)
    found[1:] = ts_recv[1:] != ts_recv[:-1]
    for column in (ts_event, seq):
        found[1:] |= column[1:] != column[:-1]
    return found


def gather(values: Ints, side: Sides) -> Ints:
    """Return *values* in the order of *side*, those of equal side as they are."""
    return values[_by_side(side)]


def _by_side(side: Sides) -> npt.NDArray[np.intp]:
    found = [np.flatnonzero(side == value) for value in (-1, 0, 1)]  # there are three in all data
    if sum(map(len, found)) != len(side):
        return np.argsort(side, kind="stable")
    return np.concatenate(found)


def split(values: Ints) -> tuple[int, int, Bytes]:
    """Return (common divisor, bytes a number, planes) of *values*."""
    divisor = _common_divisor(values)
    if divisor != 1:
        values = values // divisor
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    width = (int(zigzag.max()).bit_length() + 7) // 8 if len(zigzag) else 0
    size = 1 << max(width - 1, 0).bit_length()
    octets = zigzag.astype(f"<u{size}").view(np.uint8).reshape(-1, size)
    return divisor, width, np.ascontiguousarray(octets[:, :width].T).ravel()


def _common_divisor(values: Ints) -> int:
    # int64's least number has no positive counterpart, and a gcd of it no sign to rely on.
    if not len(values) or int(np.gcd.reduce(values[:FEW])) == 1 or values.min() == MIN_TS:
        return 1
    return int(np.gcd.reduce(values)) or 1


def rank(values: Ints) -> tuple[Ints, Ints]:
    """Return (all that occur, ascending; for each of *values*, where it stands there)."""
    bits = len(values).bit_length()
    if not len(values) or values.min() < 0 or int(values.max()) >> (62 - bits):
        return np.unique(values, return_inverse=True)
    # One sort of numbers that carry their place takes a third of the time of sorting the places.
    both = np.sort((values << bits) | np.arange(len(values)))
    place, ordered = both & ((1 << bits) - 1), both >> bits
    is_new = np.ones(len(values), bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    index = np.empty(len(values), np.int64)
    index[place] = np.cumsum(is_new) - 1
    return ordered[is_new], index


_ALL = (join, accumulate, repeat, received, scatter, fill, pick, apart, changes, gather, split, rank)
NUMPY = Kernels("numpy", *_ALL)
