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

from . import (
    core_book,
    core_columns,
    core_features,
    core_match,
    core_orders,
    core_peers,
    core_play,
    core_queue,
    core_singles,
    core_sizes,
    features_core,
)
from . import core_state as cs
from .core_columns import NEAR, SPARE
from .core_match import on_delta, on_trade, rebuild, submit
from .core_peers import arrive
from .core_play import move_peer, play, refuse
from .core_singles import on_orders
from .core_state import Core

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_MODULES = (
    *(core_book, core_orders, core_queue, core_sizes, core_singles, core_match, core_peers),
    *(core_features, core_play),
)


#: What every level passes through, of which no call is left: a call costs as much as what it does.
_HOT = ("move", "on_delta", "change", "learn_size", "set_level", "search", "listen", "hear")


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
    lengths = [cs.HEAD, *[levels + SPARE] * 12, *[slots + SPARE] * 4]
    lengths += [slots * cs.ORDER, slots * cs.QUEUE]
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
    Return play() of core_play for a packed state, all that it is given in arrays.

    For the profile DEFAULT, or for those of peers: what is not played is not compiled. That happens when
    it is first called, and takes seconds. What is made is kept on the disk beside this file, or where
    NUMBA_CACHE_DIR says, until one of the core's files changes.
    Raises: ImportError: numba is not installed.
    """
    import numba

    def inline(function: Any, is_hot: bool = False) -> Any:
        bare = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        return numba.njit(error_model="numpy", forceinline=is_hot, **bare)(function)

    version = f"{'peer' if is_peer else 'own'}_{_version()}"
    spaces = {module.__name__: dict(vars(module)) for module in _MODULES}
    made: dict[Any, Any] = {}
    for module in _MODULES:
        for name, function in _functions(module).items():
            copy = _copy(function, spaces[module.__name__], f"{name}_{version}")
            made[function] = inline(copy, name in _HOT)
    as_core, as_column, as_floats, part = _pointers()
    absent = (on_delta, on_orders, on_trade, rebuild, refuse, submit) if is_peer else (move_peer, arrive)
    made |= dict.fromkeys(absent, inline(_nothing))
    own: dict[str, Any] = dict(vars(core_columns)) | _vectors()
    for name, function in _functions(core_columns).items():
        if name in own and own[name] is function:
            own[name] = inline(_copy(function, own, f"{name}_{version}"), name in _HOT)
    made |= {function: own[name] for name, function in _functions(core_book).items() if name in own}
    made |= {core_features.size_at: own["size_at"], bisect_left: own["search"], cs.part: part}
    for space in spaces.values():
        for name, value in space.items():
            if isinstance(value, FunctionType | type(bisect_left)) and value in made:
                space[name] = made[value]
    space = {"__name__": __name__, "play": made[play], "core_of": as_core}
    space |= {"column_of": as_column, "floats_of": as_floats}
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
    files = (Path(str(module.__file__)) for module in (*_MODULES, cs, core_columns, features_core))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _pointers() -> tuple[Any, Any, Any, Any]:
    """Return core_of(), column_of(), floats_of() and core_state.part() for what is compiled."""
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

    integers, floats = types.CPointer(types.int64), types.CPointer(types.float64)

    class CoreType(types.Type):  # type: ignore[misc]
        """A packed state by its address; its attributes are those of Core."""

    class PairType(types.Type):  # type: ignore[misc]
        """Two columns, by the address of the state and that of the first one's place."""

    core, pair = CoreType("Core"), PairType("Pair")
    kinds: dict[str, Any] = dict.fromkeys(Core._fields, pair)
    kinds |= dict.fromkeys(("head", "orders", "out"), integers)
    kinds["queue"] = floats
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

    return address_of(core), address_of(integers), address_of(floats), part


def _vectors() -> dict[str, Any]:
    """Return what of core_columns is done at once."""
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    number, vector = ir.IntType(64), ir.VectorType(ir.IntType(64), NEAR)

    def place(builder: Any, column: Any, at: Any) -> Any:
        return builder.bitcast(builder.gep(column, [at]), vector.as_pointer())

    @intrinsic  # type: ignore[untyped-decorator]
    def count_below(context: Any, column: Any, first: Any, key: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), NEAR), [0] * NEAR)
            unset = ir.Constant(vector, ir.Undefined)
            keys = builder.insert_element(unset, given[2], ir.Constant(ir.IntType(32), 0))
            keys = builder.shuffle_vector(keys, unset, zeros)
            found = builder.load(place(builder, given[0], given[1]), align=8)
            below = builder.bitcast(builder.icmp_signed("<", found, keys), ir.IntType(NEAR))
            return builder.zext(builder.ctpop(below), number)

        return types.int64(column, types.int64, types.int64), build

    @intrinsic  # type: ignore[untyped-decorator]
    def shift(context: Any, column: Any, first: Any, by: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            moved = builder.load(place(builder, given[0], given[1]), align=8)
            to = place(builder, given[0], builder.add(given[1], given[2]))
            builder.store(moved, to, align=8)
            return context.get_dummy_value()

        return types.void(column, types.int64, types.int64), build

    return {"count_below": count_below, "shift": shift}


def core_of(state: Any) -> Any:
    """Return the core that *state* is: compiled, by the addresses of its columns."""
    return state


def column_of(array: Any) -> Any:
    """Return the column that *array* is: compiled, by its address."""
    return array


def floats_of(array: Any) -> Any:
    """Return the floats that *array* is: compiled, by its address."""
    return array


def _nothing(*_: Any) -> int:
    return 0


def _entry(
    state: Any,
    cursor: Any,
    messages: Any,
    rows: Any,
    commands: Any,
    told: Any,
    sampler: Any,
    times: Any,
    values: Any,
) -> int:
    given = (column_of(messages), column_of(rows), column_of(commands))
    made = (column_of(told), column_of(sampler), column_of(times), floats_of(values))
    return play(core_of(state), column_of(cursor), *given, *made)
