"""
The matching core compiled: the same functions, by numba, over NumPy arrays.

Nothing of a rule is here. Each function of the core is copied into one namespace, where the names it
calls are the compiled ones; the four primitives that lists and arrays do differently (a search, an
insertion, a removal, an emptying) have their own. numba is imported only when this is asked for.
"""

from bisect import bisect_left
from collections.abc import Callable
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from . import core_book, core_match, core_orders, core_peers, core_queue, core_replay
from .core_state import OUT, Column, Core

_MODULES = (core_book, core_orders, core_queue, core_match, core_peers, core_replay)


def is_available() -> bool:
    """Whether numba can be imported."""
    from importlib.util import find_spec

    return find_spec("numba") is not None


def compiled() -> SimpleNamespace:
    """
    Return every function of the core, by its name, compiled when it is first called.

    Raises: ImportError: numba is not installed.
    """
    import numba

    # Put into their callers: a call would hand over the columns one by one, and count their owners.
    compile_: Callable[[Any], Any] = numba.njit(error_model="numpy", forceinline=True)
    spaces = {module.__name__: dict(vars(module)) for module in _MODULES}
    made: dict[Any, Any] = {}
    for module in _MODULES:
        for name, function in _functions(module).items():
            copy = FunctionType(function.__code__, spaces[module.__name__], name, function.__defaults__)
            made[function] = compile_(copy)
    made |= {
        core_book.put_in: compile_(_put_in),
        core_book.take_out: compile_(_take_out),
        core_book.empty: compile_(_empty),
        bisect_left: compile_(_bisect_left),
    }
    for space in spaces.values():
        for name, value in space.items():
            if isinstance(value, FunctionType | type(bisect_left)) and value in made:
                space[name] = made[value]
    return SimpleNamespace(**{function.__name__: made[function] for function in made})


def _functions(module: ModuleType) -> dict[str, FunctionType]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__
    }


def as_arrays(core: Core, levels: int, orders: int) -> Core:
    """Return *core*, with room for *orders* made, as arrays with room for *levels* a side."""

    def array(column: Column, room: int) -> Any:
        made = np.zeros(max(room, len(column)), np.int64)
        made[: len(column)] = column
        return made

    def pair(columns: tuple[Column, Column], room: int) -> Any:
        return (array(columns[0], room), array(columns[1], room))

    sorted_pairs = [pair(columns, levels) for columns in core[1:7]]
    own_pairs = [pair(columns, orders) for columns in core[7:9]]
    standing_pairs = [pair(columns, 2 * levels) for columns in core[11:14]]
    queue: Any = np.array(core.queue, np.float64)
    out = array(core.out, OUT * (2 * levels + 2 * orders + 8))
    table = [array(core.orders, 0), queue]
    return Core._make([array(core.head, 0), *sorted_pairs, *own_pairs, *table, *standing_pairs, out])


# --- What lists and arrays do differently ---------------------------------------------------------


def _bisect_left(column: Any, key: int, low: int, high: int) -> int:
    while low < high:
        middle = (low + high) >> 1
        if column[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


def _put_in(column: Any, at: int, value: int, n: int) -> None:
    for i in range(n, at, -1):
        column[i] = column[i - 1]
    column[at] = value


def _take_out(column: Any, at: int, n: int) -> None:
    for i in range(at, n - 1):
        column[i] = column[i + 1]


def _empty(column: Any) -> None:
    return None
