"""
What a column in an array does differently from a list or a dict, for the compiled core.

Most is done near the best, which is last. Where a key is and how many are behind it nobody can foresee, and
a branch that is guessed wrong costs more than many comparisons; so near the end NEAR are compared or moved
at once, without a branch, some of them for nothing. After a column there is room to SPARE for them.

All of it runs in Python as well, which shows that it does what the lists of core_book do; compiled,
count_below() and shift() are a few instructions of the processor (core_compile).
"""

from typing import Any

from .core_state import LEVELS, Core

NEAR = 16
WINDOWS = 4  # of NEAR, before a search takes larger steps
SPARE = NEAR + 1


def count_below(column: Any, first: int, key: int) -> int:
    """Return how many of the NEAR from *first* on are below *key*."""
    return sum(column[first + i] < key for i in range(NEAR))


def shift(column: Any, first: int, by: int) -> None:
    """Move the NEAR from *first* on by *by* places."""
    column[first + by : first + by + NEAR] = column[first : first + NEAR]


def search(column: Any, key: int, low: int, high: int) -> int:
    """As bisect_left."""
    for _ in range(WINDOWS):
        near = high - NEAR
        if near < low:
            break
        if column[near] < key:
            return near + count_below(column, near, key)
        high = near
    step, at = 1, high - 1
    while at >= low and column[at] >= key:
        high = at
        at -= step
        step += step
    low = max(low, at + 1)
    while low < high:
        middle = (low + high) >> 1
        if column[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


def put_in(column: Any, at: int, value: int, n: int) -> None:
    """As in core_book."""
    if n - at <= NEAR:
        shift(column, at, 1)
    else:
        for i in range(n, at, -1):
            column[i] = column[i - 1]
    column[at] = value


def take_out(column: Any, at: int, n: int) -> None:
    """As in core_book."""
    if n - at <= NEAR:
        shift(column, at + 1, -1)
    else:
        for i in range(at, n - 1):
            column[i] = column[i + 1]


def empty(column: Any) -> None:
    """As in core_book: how many there are is in the head."""


def size_of(core: Core, side: int, key: int) -> int:
    """As in core_book."""
    keys, n = core.keys[side], core.head[LEVELS + side]
    i = search(keys, key, 0, n)
    return core.sizes[side][i] if i < n and keys[i] == key else 0


def size_at(core: Core, side: int, i: int) -> int:
    """As in core_features."""
    sizes: Any = core.sizes[side]  # a column here
    size: int = sizes[i]
    return size


def set_level(head: Any, count: int, keys: Any, sizes: Any, key: int, size: int) -> int:
    """As in core_book."""
    n = head[count]
    i = search(keys, key, 0, n)
    if i < n and keys[i] == key:
        previous: int = sizes[i]
        if size:
            sizes[i] = size
        else:
            take_out(keys, i, n)
            take_out(sizes, i, n)
            head[count] = n - 1
        return previous
    if size:
        put_in(keys, i, key, n)
        put_in(sizes, i, size, n)
        head[count] = n + 1
    return 0
