"""
What tape_numpy does to whole columns, as loops: slow as they stand, and fast once numba has compiled them.

numba is no dependency of the slim set: it is imported when compiled() is called, and what it makes
is kept on the disk beside this file, or where NUMBA_CACHE_DIR says. The loops let go of the interpreter
while they run, and trust their arguments: whoever calls them has compared the lengths.
"""

import math
from functools import cache
from importlib.util import find_spec

import numpy as np

from tickerml.kernel import StoreError

from .tape_numpy import FEW, NUMPY, Bools, Bytes, Column, Kernels, Sides
from .tape_rows import MIN_TS, Ints, Rows

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
    for part in (starts_of, is_divided, divisor_of):
        numba.extending.register_jitable(error_model="numpy")(part)
    loops = (join, accumulate, repeat, received, scatter, fill, pick, apart, changes, gather, split, rank)
    compile_one = numba.njit(cache=True, nogil=True, error_model="numpy")  # which does not look for zeros
    return Kernels("compiled", *map(compile_one, loops))


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


def received(first: int, steps: Ints, ts_event: Ints) -> Ints:
    """Return the times that are later than *ts_event*; see tape_numpy."""
    count, moves = len(ts_event), 0
    clock = np.empty(count, np.int64)
    known = 0
    while known < count - 1 and ts_event[known] == 0:
        known += 1
    for row in range(count):
        known = row if ts_event[row] else known
        clock[row] = ts_event[known]
        moves += row > 0 and clock[row] != clock[row - 1]
    moved, unmoved, later = 0, moves, first
    found = np.empty(count, np.int64)
    found[0] = clock[0] + later
    for row in range(1, count):
        is_moved = clock[row] != clock[row - 1]
        later += steps[moved if is_moved else unmoved]
        moved += is_moved
        unmoved += not is_moved
        found[row] = clock[row] + later
    return found


def starts_of(side: Sides) -> Ints:
    """Return where those of side -128, -127 and so on begin when all are in the order of *side*."""
    asks, bids = np.int64(0), np.int64(0)
    for row in range(len(side)):  # which a compiler makes eight of at a time, and of what comes next one
        asks += side[row] == -1
        bids += side[row] == 1
    starts = np.zeros(257, np.int64)
    starts[128], starts[130] = asks, bids
    if asks + bids != len(side):
        for row in range(len(side)):
            starts[int(side[row]) + 129] += side[row] != -1 and side[row] != 1
    for group in range(256):
        starts[group + 1] += starts[group]
    return starts


def gather(values: Ints, side: Sides) -> Ints:
    """Return *values* in the order of *side*; see tape_numpy."""
    starts = starts_of(side)
    ask, bid = starts[127], starts[129]
    found = np.empty(len(side), np.int64)
    if starts[128] - ask + starts[130] - bid == len(side):  # two sides, and no branch to guess
        for row in range(len(side)):
            is_bid = side[row] == 1
            found[bid if is_bid else ask] = values[row]
            bid += is_bid
            ask += not is_bid
        return found
    for row in range(len(side)):
        group = int(side[row]) + 128
        found[starts[group]] = values[row]
        starts[group] += 1
    return found


def scatter(values: Ints, side: Sides, out: Ints) -> None:
    """Put *values* back in the order of the rows; see tape_numpy."""
    starts = starts_of(side)
    ask, bid = starts[127], starts[129]
    if starts[128] - ask + starts[130] - bid == len(side):
        for row in range(len(side)):
            is_bid = side[row] == 1
            out[row] = values[bid if is_bid else ask]
            bid += is_bid
            ask += not is_bid
        return
    for row in range(len(side)):
        group = int(side[row]) + 128
        out[row] = values[starts[group]]
        starts[group] += 1


def fill(values: Ints, is_zero: Bools, out: Ints) -> None:
    """Put *values* between the zeros; see tape_numpy."""
    at, last = 0, len(values) - 1
    if last < 0:
        out[:] = 0
        return
    for row in range(len(out)):  # zeros come as they like: no branch to guess
        is_there = not is_zero[row]
        out[row] = values[min(at, last)] * is_there
        at += is_there


def pick(values: Ints, index: Ints, is_zero: Bools, out: Ints) -> None:
    """Put those of *values* between the zeros; see tape_numpy."""
    at, last = 0, len(index) - 1
    if last < 0:
        out[:] = 0
        return
    for row in range(len(out)):
        is_there = not is_zero[row]
        out[row] = values[index[min(at, last)]] * is_there
        at += is_there


def apart(rows: Rows) -> tuple[Column, ...]:
    """Return the columns of *rows*; see tape_numpy."""
    count = len(rows)
    ts_recv, ts_event, seq = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    price, quantity = np.empty(count, np.int64), np.empty(count, np.int64)
    side, kind, is_last = np.empty(count, np.int8), np.empty(count, np.uint8), np.empty(count, np.bool_)
    for at in range(count):
        row = rows[at]
        ts_recv[at], ts_event[at], seq[at] = row["ts_recv"], row["ts_event"], row["seq"]
        price[at], quantity[at] = row["price"], row["quantity"]
        side[at], kind[at], is_last[at] = row["side"], row["kind"], row["is_last"]
    return ts_recv, ts_event, seq, price, quantity, side, kind, is_last


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


def is_divided(values: Ints, divisor: int) -> bool:
    """Return whether floats divide all of *values* by *divisor*, and nothing is left."""
    rest = 0
    for row in range(len(values)):
        rest |= values[row] - np.int64(values[row] / divisor) * divisor
        rest |= values[row] == MIN_TS
    return rest == 0


def divisor_of(values: Ints) -> tuple[int, bool]:
    """Return (the common divisor of *values*, whether floats divide them by it)."""
    divisor = 0
    for row in range(len(values)):
        if row == FEW and divisor > 1 and is_divided(values, divisor):
            return divisor, True
        if values[row] == MIN_TS:
            return 1, False
        divisor = math.gcd(divisor, values[row])
        if divisor == 1:
            break
    return max(divisor, 1), False


def split(values: Ints) -> tuple[int, int, Bytes]:
    """Return the planes of *values*; see tape_numpy."""
    divisor, is_float = divisor_of(values)
    zigzag = values.copy()
    if is_float:  # of which a processor divides eight in the time of one integer
        for row in range(len(values)):
            zigzag[row] = np.int64(values[row] / divisor)
    elif divisor > 1:
        for row in range(len(values)):
            zigzag[row] //= divisor
    used = np.int64(0)
    for row in range(len(values)):
        zigzag[row] = (zigzag[row] << 1) ^ (zigzag[row] >> 63)
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
