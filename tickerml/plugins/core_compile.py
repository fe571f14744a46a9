"""
The matching core compiled: the same functions, by numba, over one array of int64.

Nothing of a rule is here. Each function of the core is copied into one namespace, where the names it
calls are the compiled ones; the few primitives that a list and an array do differently have their own.
A core is packed into one array, played there as often as wanted, and unpacked again. Inside, its columns
are bare pointers: numba counts the owners of arrays at every touch of one, which took nine tenths of the
time. numba is imported only when this is asked for.
"""

import hashlib
from bisect import bisect_left
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from . import core_book, core_match, core_orders, core_peers, core_play, core_queue, core_sizes
from . import core_state as cs
from .core_match import on_delta, on_trade, rebuild, submit
from .core_peers import arrive
from .core_play import move_peer, play, refuse
from .core_state import LEVELS, Core

Ints = npt.NDArray[np.int64]

_MODULES = (core_book, core_orders, core_queue, core_sizes, core_match, core_peers, core_play)


def is_available() -> bool:
    """Whether numba can be imported."""
    from importlib.util import find_spec

    return find_spec("numba") is not None


# --- One array ------------------------------------------------------------------------------------
#
# First the room for levels and for orders, then where each column begins, then the columns.

LEVEL_ROOM, SLOTS = 0, 1
_PLACES = 2
_COLUMNS = 26  # head, eight pairs, orders, queue, three pairs, out


def events_room(levels: int, orders: int) -> int:
    """Return how many events one step of a core of so much room can have at most."""
    return 2 * orders + 4 * levels + 8


def pack(core: Core, levels: int, orders: int) -> Ints:
    """Return *core* as one array with room for *levels* a side, which it has, and *orders* more."""
    cs.make_room(core, 0, orders)
    slots = len(core.orders) // cs.ORDER
    lengths = [cs.HEAD, *[levels] * 12, *[slots] * 4, slots * cs.ORDER, slots * cs.QUEUE]
    lengths += [*[2 * levels] * 4, *[levels] * 2, events_room(levels, slots) * cs.OUT]
    places = np.cumsum([_PLACES + _COLUMNS, *lengths])
    state = np.zeros(places[-1], np.int64)
    state[:_PLACES] = levels, slots
    state[_PLACES : _PLACES + _COLUMNS] = places[:-1]
    for to, column in zip(_views(state), _flat(core), strict=True):
        count = min(len(to), len(column))
        to[:count] = column[:count]
    return state


def unpack(state: Ints) -> Core:
    """Return what *state* holds, as the lists that the interpreter runs on."""
    columns = [view.tolist() for view in _views(state)]
    head = columns[0]
    for first, count, kinds in ((1, cs.LEVELS, 2), (5, cs.MARKS, 4), (13, cs.OWN, 2)):
        for i in range(first, first + 2 * kinds):
            del columns[i][head[count + (i - first) % 2] :]
    pairs = [tuple(columns[i : i + 2]) for i in (*range(1, 17, 2), *range(19, 25, 2))]
    keys, sizes = pairs[:2]
    pairs[1] = tuple(dict(zip(keys[i], sizes[i], strict=True)) for i in range(2))
    return Core._make([head, *pairs[:8], columns[17], columns[18], *pairs[8:], columns[25]])


def _views(state: Ints) -> list[Any]:
    places = [*state[_PLACES : _PLACES + _COLUMNS].tolist(), len(state)]
    views: list[Any] = [state[places[i] : places[i + 1]] for i in range(_COLUMNS)]
    views[18] = views[18].view(np.float64)
    return views


def _flat(core: Core) -> list[Any]:
    sizes = tuple([core.sizes[i][key] for key in core.keys[i]] for i in range(2))
    columns = core._replace(sizes=sizes)  # type: ignore[arg-type]
    return [one for column in columns for one in (column if isinstance(column, tuple) else (column,))]


# --- Compiled -------------------------------------------------------------------------------------


@cache
def compiled(is_peer: bool = False) -> Any:
    """
    Return play() of core_play for a packed state: play(state, cursor, messages, rows, commands, told).

    For the profile DEFAULT, or for those of peers: what is not played is not compiled. That happens when
    it is first called, and takes seconds. What is made is kept on the disk beside this file, or where
    NUMBA_CACHE_DIR says, until one of the core's files changes.
    Raises: ImportError: numba is not installed.
    """
    import numba

    inline = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
    version = f"{'peer' if is_peer else 'own'}_{_version()}"
    spaces = {module.__name__: dict(vars(module)) for module in _MODULES}
    made: dict[Any, Any] = {}
    for module in _MODULES:
        for name, function in _functions(module).items():
            made[function] = inline(_copy(function, spaces[module.__name__], f"{name}_{version}"))
    as_core, as_column, part = _pointers()
    absent = (on_delta, on_trade, rebuild, refuse, submit) if is_peer else (move_peer, arrive)
    made |= dict.fromkeys(absent, inline(_nothing))
    own: dict[str, Any] = dict(vars(cs))
    for primitive in (_search, _put_in, _take_out, _empty, _size_of, _set_level):
        name = primitive.__name__
        own[name] = inline(_copy(primitive, own, f"{name}_{version}"))
    made |= {core_book.put_in: own["_put_in"], core_book.take_out: own["_take_out"]}
    made |= {core_book.empty: own["_empty"], bisect_left: own["_search"], cs.part: part}
    made |= {core_book.size_of: own["_size_of"], core_book.set_level: own["_set_level"]}
    for space in spaces.values():
        for name, value in space.items():
            if isinstance(value, FunctionType | type(bisect_left)) and value in made:
                space[name] = made[value]
    space = {"__name__": __name__, "play": made[play], "core_of": as_core, "column_of": as_column}
    entry = _copy(_entry, space, f"play_{version}")
    return numba.njit(error_model="numpy", cache=True, nogil=True)(entry)


def _copy(function: Any, space: dict[str, Any], name: str) -> FunctionType:
    # Under a name that no other has: what is linked, or kept on the disk, is found by it.
    copy = FunctionType(function.__code__, space, name, function.__defaults__)
    copy.__qualname__ = name
    return copy


def _functions(module: ModuleType) -> dict[str, FunctionType]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__
    }


def _version() -> str:
    # Of all that is compiled: for what it keeps, numba looks at the file of the entry alone.
    files = (Path(str(module.__file__)) for module in (*_MODULES, cs))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _pointers() -> tuple[Any, Any, Any]:
    """Return core_of(), column_of() and core_state.part() for what is compiled."""
    import operator

    from numba import types
    from numba.core import cgutils
    from numba.core.typing.templates import AttributeTemplate
    from numba.extending import (
        infer_getattr,
        intrinsic,
        lower_builtin,
        lower_getattr_generic,
        models,
        register_model,
        type_callable,
    )

    integers = types.CPointer(types.int64)

    class CoreType(types.Type):  # type: ignore[misc]
        """A packed state by its address; its attributes are those of Core."""

    class PairType(types.Type):  # type: ignore[misc]
        """Two columns, by the address of the state and that of the first one's place."""

    core, pair = CoreType("Core"), PairType("Pair")
    kinds: dict[str, Any] = dict.fromkeys(Core._fields, pair)
    kinds |= dict.fromkeys(("head", "orders", "out"), integers)
    kinds["queue"] = types.CPointer(types.float64)
    places, at = {}, _PLACES
    for name, kind in kinds.items():
        places[name], at = at, at + (2 if kind is pair else 1)

    @register_model(CoreType)
    class _CoreModel(models.PrimitiveModel):  # type: ignore[misc]
        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, manager[integers].get_value_type())

    @register_model(PairType)
    class _PairModel(models.StructModel):  # type: ignore[misc]
        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, [("state", integers), ("place", integers)])

    @infer_getattr
    class _Attributes(AttributeTemplate):  # type: ignore[misc]
        key = CoreType

        def generic_resolve(self, core: Any, name: str) -> Any:
            return kinds.get(name)

    def column_at(builder: Any, state: Any, place: Any) -> Any:
        offset = builder.load(place)
        offset.set_metadata("invariant.load", builder.module.add_metadata([]))  # no column ever moves
        return builder.gep(state, [offset])

    @lower_getattr_generic(CoreType)  # type: ignore[untyped-decorator]
    def _attribute(context: Any, builder: Any, core: Any, state: Any, name: str) -> Any:
        place = builder.gep(state, [context.get_constant(types.int64, places[name])])
        if kinds[name] is not pair:
            return builder.bitcast(column_at(builder, state, place), context.get_value_type(kinds[name]))
        made = cgutils.create_struct_proxy(pair)(context, builder)
        made.state, made.place = state, place
        return made._getvalue()

    @type_callable(operator.getitem)  # type: ignore[untyped-decorator]
    def _type_of_column(context: Any) -> Any:
        return lambda columns, side: integers if isinstance(columns, PairType) else None

    @lower_builtin(operator.getitem, PairType, types.Integer)  # type: ignore[untyped-decorator]
    def _column(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        columns = cgutils.create_struct_proxy(pair)(context, builder, given[0])
        side = context.cast(builder, given[1], signature.args[1], types.int64)
        return column_at(builder, columns.state, builder.gep(columns.place, [side]))

    def address_of(kind: Any) -> Any:
        @intrinsic  # type: ignore[untyped-decorator]
        def address(context: Any, array: Any) -> Any:
            def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                return context.make_array(signature.args[0])(context, builder, given[0]).data

            return kind(array), build

        return address

    @intrinsic  # type: ignore[untyped-decorator]
    def part(context: Any, column: Any, first: Any, end: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            return builder.gep(given[0], [given[1]])

        return column(column, types.int64, types.int64), build

    return address_of(core), address_of(integers), part


def core_of(state: Any) -> Any:
    """Return the core that *state* is: compiled, by the addresses of its columns."""
    return state


def column_of(array: Any) -> Any:
    """Return the column that *array* is: compiled, by its address."""
    return array


def _nothing(*_: Any) -> int:
    return 0


def _entry(state: Any, cursor: Any, messages: Any, rows: Any, commands: Any, told: Any) -> int:
    columns = (column_of(messages), column_of(rows), column_of(commands), column_of(told))
    return play(core_of(state), column_of(cursor), *columns)


# --- What lists and arrays do differently ---------------------------------------------------------


def _search(column: Any, key: int, low: int, high: int) -> int:
    # bisect_left, which begins at the end: most is done near the best.
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


def _put_in(column: Any, at: int, value: int, n: int) -> None:
    for i in range(n, at, -1):
        column[i] = column[i - 1]
    column[at] = value


def _take_out(column: Any, at: int, n: int) -> None:
    for i in range(at, n - 1):
        column[i] = column[i + 1]


def _empty(column: Any) -> None:
    return None


def _size_of(core: Core, side: int, key: int) -> int:
    keys, n = core.keys[side], core.head[LEVELS + side]
    i = _search(keys, key, 0, n)
    return core.sizes[side][i] if i < n and keys[i] == key else 0


def _set_level(head: Any, count: int, keys: Any, sizes: Any, key: int, size: int) -> int:
    n = head[count]
    i = _search(keys, key, 0, n)
    if i < n and keys[i] == key:
        previous: int = sizes[i]
        if size:
            sizes[i] = size
        else:
            _take_out(keys, i, n)
            _take_out(sizes, i, n)
            head[count] = n - 1
        return previous
    if size:
        _put_in(keys, i, key, n)
        _put_in(sizes, i, size, n)
        head[count] = n + 1
    return 0
