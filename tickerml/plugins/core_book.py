"""
The book in the core's columns, and what is really to be had of a level.

A level is worth what it displays, less what has printed there since it was published, less what we
took ourselves: our consumption halves every five seconds and is forgotten with the level.

Every function may be compiled: see core_state.
"""

from bisect import bisect_left, insort

from tickerml.kernel import PPM

from .core_state import (
    ASK,
    BEST,
    BID,
    LEVELS,
    MARKS,
    NO_KEY,
    SIZE_COUNT,
    SIZE_STEP,
    SIZE_TOTAL,
    STATE,
    VALID,
    Column,
    Core,
    Sizes,
)

PPM_A_BPS = 100
CONSUMPTION_HALF_LIFE_NS = 5_000_000_000
SIZE_DEPTH = 5  # levels a side whose growth shows what size an order has
SIZE_STEPS = 64  # a half-life
SIZE_STEP_NS = 300_000_000_000 // SIZE_STEPS
STEP_FACTOR = 4_248_701_965  # 2**32 * 2**(-1/64)
TOTAL_LIMIT = 1 << 60


def key_of(side: int, price: int) -> int:
    """Return *price* as it is ordered on *side*: more is better."""
    return price if side == BID else -price


def worst_price(side: int, best: int, ppm: int) -> int:
    """Return the last price that an order of *side* takes, *ppm* from the other side's *best*, in ticks."""
    if side == BID:
        return best * (PPM + ppm) // PPM
    return -(-best * (PPM - ppm) // PPM)


def best_key(core: Core, side: int) -> int:
    """Return the best key of *side*, NO_KEY when it is empty."""
    n = core.head[LEVELS + side]
    return core.keys[side][n - 1] if n else NO_KEY


def best_price(core: Core, side: int) -> int:
    """Return the best price of *side* in ticks, 0 when it is empty."""
    n = core.head[LEVELS + side]
    return key_of(side, core.keys[side][n - 1]) if n else 0


def is_trusted(core: Core) -> bool:
    """Whether the book is valid, has two sides, and is not crossed."""
    return core.head[STATE] == VALID and 0 < best_price(core, BID) < best_price(core, ASK)


def set_size(core: Core, side: int, key: int, size: int) -> int:
    """Make *key* a level of *size* lots, or none of 0; return what it was."""
    return set_level(core.head, LEVELS + side, core.keys[side], core.sizes[side], key, size)


# What lists and an array do differently: core_compile has its own. A side in lists has its sizes by key.


def size_of(core: Core, side: int, key: int) -> int:
    """Return the lots at *key*, 0 where there is no level."""
    return core.sizes[side].get(key, 0)


def set_level(head: Column, count: int, keys: Column, sizes: Sizes, key: int, size: int) -> int:
    """Make *key* a level of *size* lots, or none of 0, of the head[*count*] of a side; return what it was."""
    previous = sizes.get(key, 0)
    if size:
        sizes[key] = size
        if not previous:
            insort(keys, key)
            head[count] += 1
    elif previous:
        del sizes[key]
        del keys[bisect_left(keys, key)]
        head[count] -= 1
    return previous


def put_in(column: Column, at: int, value: int, n: int) -> None:
    """Put *value* before the one at *at* of a sorted column of *n*."""
    column.insert(at, value)


def take_out(column: Column, at: int, n: int) -> None:
    """Take the one at *at* out of a sorted column of *n*."""
    del column[at]


def empty(column: Column | Sizes) -> None:
    """Take all out of a sorted column, or of sizes by key."""
    column.clear()


def clear_side(core: Core, side: int) -> None:
    """Forget every level of *side*, and where hftbacktest's best was."""
    empty(core.keys[side])
    empty(core.sizes[side])
    core.head[LEVELS + side] = 0
    core.head[BEST + side] = NO_KEY


# --- Prints, and what we took ---------------------------------------------------------------------


def mark_at(core: Core, side: int, key: int) -> int:
    """Return where the mark of *key* is, -1 where there is none."""
    n = core.head[MARKS + side]
    if n == 0:
        return -1
    keys = core.mark_keys[side]
    i = bisect_left(keys, key, 0, n)
    return i if i < n and keys[i] == key else -1


def add_mark(core: Core, side: int, key: int) -> int:
    """Return where the mark of *key* is; it is made where there was none."""
    n, keys = core.head[MARKS + side], core.mark_keys[side]
    i = bisect_left(keys, key, 0, n)
    if i < n and keys[i] == key:
        return i
    put_in(keys, i, key, n)
    put_in(core.traded[side], i, 0, n)
    put_in(core.taken[side], i, 0, n)
    put_in(core.since[side], i, 0, n)
    core.head[MARKS + side] = n + 1
    return i


def drop_mark(core: Core, side: int, i: int) -> None:
    """Forget the mark at *i*."""
    n = core.head[MARKS + side]
    take_out(core.mark_keys[side], i, n)
    take_out(core.traded[side], i, n)
    take_out(core.taken[side], i, n)
    take_out(core.since[side], i, n)
    core.head[MARKS + side] -= 1


def republish(core: Core, side: int, key: int, size: int) -> None:
    """Take in that *key* was published with *size*: what printed is in it, and what is gone is forgotten."""
    n, keys = core.head[MARKS + side], core.mark_keys[side]
    i = bisect_left(keys, key, 0, n)
    if i == n or keys[i] != key:
        return
    core.traded[side][i] = 0
    if size == 0 or core.taken[side][i] == 0:
        drop_mark(core, side, i)


def add_print(core: Core, side: int, key: int, quantity: int) -> None:
    """Count *quantity* as printed at the level *key* since it was published."""
    if size_of(core, side, key):
        core.traded[side][add_mark(core, side, key)] += quantity


def traded_at(core: Core, side: int, key: int) -> int:
    """Return what printed at *key* since it was published, in lots."""
    i = mark_at(core, side, key)
    return core.traded[side][i] if i >= 0 else 0


def consumed(lots: int, since: int, at: int) -> int:
    """Return what is left at *at* of a consumption of *lots* at *since*, ns."""
    return lots >> min(62, (at - since) // CONSUMPTION_HALF_LIFE_NS)


def consume(core: Core, side: int, key: int, quantity: int, at: int) -> None:
    """Remember that we took *quantity* from *key* at *at*, ns."""
    i = add_mark(core, side, key)
    core.taken[side][i] = quantity + consumed(core.taken[side][i], core.since[side][i], at)
    core.since[side][i] = at


def displayed(core: Core, side: int, key: int) -> int:
    """Return what others have at *key*: its size less what printed since it was published."""
    return max(0, size_of(core, side, key) - traded_at(core, side, key))


def available(core: Core, side: int, key: int, at: int) -> int:
    """Return what a taker finds at *key* at *at*, ns."""
    size, i = size_of(core, side, key), mark_at(core, side, key)
    if i < 0:
        return size
    left = max(0, size - core.traded[side][i])
    return max(0, left - consumed(core.taken[side][i], core.since[side][i], at))


# --- The size of an order -------------------------------------------------------------------------


def learn_size(core: Core, size: int, at: int) -> None:
    """Count a displayed order of *size* lots, seen at *at*, ns: an average with a half-life of 5 minutes."""
    head = core.head
    steps = at // SIZE_STEP_NS - head[SIZE_STEP]
    if steps > 0:
        head[SIZE_TOTAL] = aged(head[SIZE_TOTAL], steps)
        head[SIZE_COUNT] = aged(head[SIZE_COUNT], steps)
        head[SIZE_STEP] += steps
    head[SIZE_TOTAL] += size << 16
    head[SIZE_COUNT] += 1 << 16
    if head[SIZE_TOTAL] > TOTAL_LIMIT:
        head[SIZE_TOTAL] >>= 1
        head[SIZE_COUNT] >>= 1


def aged(total: int, steps: int) -> int:
    """Return *total* after *steps* of 64 a half-life, in whole numbers that never exceed 64 bits."""
    total >>= min(62, steps // SIZE_STEPS)
    for _ in range(steps % SIZE_STEPS):
        high, low = total >> 32, total & 0xFFFFFFFF
        part = (low >> 16) * STEP_FACTOR + ((low & 0xFFFF) * STEP_FACTOR >> 16)
        total = high * STEP_FACTOR + (part >> 16)
    return total


def order_size(core: Core) -> float:
    """Return the lots of an average order, 1 until one has been seen."""
    total, count = core.head[SIZE_TOTAL], core.head[SIZE_COUNT]
    return float(total) / float(count) if total and count else 1.0


def orders_in(core: Core, quantity: int) -> int:
    """Return how many orders *quantity* lots are, rounded up: one a lot until a size is known."""
    total, count = core.head[SIZE_TOTAL], core.head[SIZE_COUNT]
    if total == 0 or count == 0:
        return quantity
    if quantity > (1 << 62) // count:
        return -(-quantity // max(1, total // count))
    return -(-quantity * count // total)
