"""
What tape_numpy does to whole columns, as loops: slow as they stand, and fast once numba has compiled them.

numba is no dependency of the slim set: it is imported when compiled() is called, and what it makes
is kept on the disk beside this file, or where NUMBA_CACHE_DIR says. The loops let go of the interpreter
while they run, and trust their arguments: whoever calls them has compared the lengths.
"""

from functools import cache
from importlib.util import find_spec

import numpy as np

from tickerml.kernel import StoreError

from .tape_numpy import NUMPY, Bools, Bytes, Kernels, Sides
from .tape_rows import MIN_TS, Ints

CHUNK = 512  # rows that stay in a processor's nearest memory while plane after plane is added to them
REST = 2**63 - 1  # all bits of a number but its sign
WORTH_BYTES = 256 * 2**20  # of a tape, from which on the compiled loops save more than loading them takes
GOLDEN = -7046029254386353131  # 2**64 over the golden ratio, as an int64: spreads a hash's high bits


def chosen(is_compiled: bool | None, tape_bytes: int) -> Kernels:
    """
    Return the loops, compiled, or what NumPy does; None asks for the faster of them.

    Args:
        tape_bytes: how large the tape is that they are for.
    Raises: StoreError: as compiled(), where it is asked for.
    """
    if is_compiled is None:
        is_compiled = tape_bytes >= WORTH_BYTES and find_spec("numba") is not None
    return compiled() if is_compiled else NUMPY


@cache
def compiled() -> Kernels:
    """
    Return the loops, compiled.

    Raises: StoreError: numba is not installed.
    """
    try:
        import numba
    except ImportError:
        raise StoreError(
            "expected numba for the compiled codec of a tape, was not installed: "
            "pip install 'tickerml[pc]', or read without is_compiled"
        ) from None
    loops = (join, accumulate, repeat, scatter, fill, changes, gather, split, rank)
    return Kernels("compiled", *(numba.njit(cache=True, nogil=True)(loop) for loop in loops))


def join(planes: Bytes, count: int, width: int, divisor: int) -> Ints:
    """Return the numbers of *planes*; see tape_numpy."""
    values = np.zeros(count, np.int64)
    for start in range(0, count, CHUNK):
        part = values[start : start + CHUNK]
        for place in range(width):
            octets = planes[place * count + start : place * count + start + len(part)]
            for row in range(len(part)):
                part[row] |= np.int64(octets[row]) << (8 * place)
        for row in range(len(part)):
            # The sign bit of a zigzagged number is one of its digits.
            part[row] = (((part[row] >> 1) & REST) ^ -(part[row] & 1)) * divisor
    return values


def accumulate(planes: Bytes, count: int, width: int, divisor: int, first: int) -> Ints:
    """Return the sums of *planes*; see tape_numpy."""
    values = np.zeros(count + 1, np.int64)
    values[0] = first
    total = values[0]
    for start in range(0, count, CHUNK):
        part = values[start + 1 : start + 1 + CHUNK]
        for place in range(width):
            octets = planes[place * count + start : place * count + start + len(part)]
            for row in range(len(part)):
                part[row] |= np.int64(octets[row]) << (8 * place)
        for row in range(len(part)):
            part[row] = (((part[row] >> 1) & REST) ^ -(part[row] & 1)) * divisor
        for row in range(len(part)):
            total += part[row]
            part[row] = total
    return values


def repeat(values: Ints, is_changed: Bools, out: Ints) -> None:
    """Spread *values* over the rows; see tape_numpy."""
    at = -1
    for row in range(len(out)):
        at += is_changed[row]
        out[row] = values[at]


def gather(values: Ints, side: Sides) -> Ints:
    """Return *values* in the order of *side*; see tape_numpy."""
    starts = np.zeros(257, np.intp)
    for row in range(len(side)):
        starts[int(side[row]) + 129] += 1
    for group in range(256):
        starts[group + 1] += starts[group]
    found = np.empty(len(side), np.int64)
    for row in range(len(side)):
        group = int(side[row]) + 128
        found[starts[group]] = values[row]
        starts[group] += 1
    return found


def scatter(values: Ints, side: Sides, out: Ints) -> None:
    """Put *values* back in the order of the rows; see tape_numpy."""
    starts = np.zeros(257, np.intp)
    for row in range(len(side)):
        starts[int(side[row]) + 129] += 1
    for group in range(256):
        starts[group + 1] += starts[group]
    ask, bid = starts[127], starts[129]  # in registers: what is of neither side is rare
    for row in range(len(side)):
        if side[row] == 1:
            out[row] = values[bid]
            bid += 1
        elif side[row] == -1:
            out[row] = values[ask]
            ask += 1
        else:
            group = int(side[row]) + 128
            out[row] = values[starts[group]]
            starts[group] += 1


def fill(values: Ints, is_zero: Bools, out: Ints) -> None:
    """Put *values* between the zeros; see tape_numpy."""
    at = 0
    for row in range(len(out)):
        is_there = at < len(values) and not is_zero[row]
        out[row] = values[at] if is_there else 0
        at += is_there


def changes(ts_recv: Ints, ts_event: Ints, seq: Ints) -> Bools:
    """Return where one of these changes; see tape_numpy."""
    found = np.ones(len(seq), np.bool_)
    for row in range(1, len(seq)):
        before = row - 1
        found[row] = (
            (ts_recv[row] != ts_recv[before])
            | (ts_event[row] != ts_event[before])
            | (seq[row] != seq[before])
        )
    return found


def split(values: Ints) -> tuple[int, int, Bytes]:
    """Return the planes of *values*; see tape_numpy."""
    divisor = 0
    for row in range(len(values)):
        if values[row] == MIN_TS:
            divisor = 1
        other = abs(values[row])
        if divisor > 1:
            other %= divisor
        while other and divisor != 1:
            divisor, other = other, divisor % other
        if divisor == 1:
            break
    divisor = max(divisor, 1)
    used = np.int64(0)
    zigzag = np.empty(len(values), np.int64)
    for row in range(len(values)):
        value = values[row] if divisor == 1 else values[row] // divisor
        zigzag[row] = (value << 1) ^ (value >> 63)
        used |= zigzag[row]
    width = 8 if used < 0 else 0
    while width < 8 and used >> (8 * width):
        width += 1
    planes = np.empty(width * len(values), np.uint8)
    for place in range(width):
        shift, start = 8 * place, place * len(values)
        for row in range(len(values)):
            planes[start + row] = (zigzag[row] >> shift) & 255
    return divisor, width, planes


def rank(values: Ints) -> tuple[Ints, Ints]:
    """Return what occurs, and where each stands among it; see tape_numpy."""
    size = 16
    while size < 2 * len(values):
        size *= 2
    number_in = np.full(size, -1, np.int64)  # of the value that has the slot, by the order they came in
    found = np.empty(len(values), np.int64)
    index = np.empty(len(values), np.int64)
    count = 0
    for row in range(len(values)):
        value = values[row]
        slot = ((value * GOLDEN) >> 32) & (size - 1)
        while number_in[slot] >= 0 and found[number_in[slot]] != value:
            slot = (slot + 1) & (size - 1)
        if number_in[slot] < 0:
            number_in[slot], found[count] = count, value
            count += 1
        index[row] = number_in[slot]
    ascending = np.argsort(found[:count])
    rank_of = np.empty(count, np.int64)
    for at in range(count):
        rank_of[ascending[at]] = at
    for row in range(len(values)):
        index[row] = rank_of[index[row]]
    return found[ascending], index
