"""
A core to play stretches of a market on: compiled where numba is present and wanted, else interpreted.

It owns the room that core_play asks for, and does nothing else: the same in both ways.
"""

from typing import Any

import numpy as np

from . import core_compile, core_features, core_play
from . import core_state as cs
from .core_compile import Floats, Ints
from .core_state import Column, Core
from .features_core import COLUMNS

#: What the compiled core may be told: a sum of what is below it, times 2**16, stays within 64 bits.
COMPILED_LIMIT = 1 << 40

_TOLD = 1 << 12  # events, before they are handed over
_ROWS = 1 << 12  # of features, before they are


def pack_market(is_print: Any, side: Ints, price: Ints, lots: Ints, at: Ints) -> tuple[Ints, Ints]:
    """
    Return the messages and rows of core_play for a market in columns, of the exchange's time *at*, ns.

    Changes of one time, with no print between them, are one message. A row stands where the exchange put
    it: a print is never held to be in the depth before it.

    Args:
        is_print: whether a row is a print, which hit *side*, or a level of it.  # (N,)
        side: BID or ASK.  # (N,)
    """
    is_print = np.asarray(is_print, np.bool_)
    is_first = np.ones(len(at), np.bool_)
    is_first[1:] = is_print[1:] | is_print[:-1] | (at[1:] != at[:-1])
    first = np.flatnonzero(is_first)
    order = np.lexsort((side, np.cumsum(is_first)))  # bids before asks, else as they came
    messages = np.zeros((len(first) + 1, core_play.MESSAGE), np.int64)
    kinds = np.where(is_print, core_play.HIT_BID + side, core_play.DELTA)
    messages[:-1, core_play.M_KIND] = kinds[first]
    messages[:-1, core_play.M_AT] = at[first]
    messages[:-1, core_play.M_TS_EVENT] = np.where(is_print[first], 0, at[first])
    messages[:, core_play.M_FIRST] = np.append(first, len(at))
    bids = np.add.reduceat(side == cs.BID, first) if len(first) else first
    messages[:-1, core_play.M_MIDDLE] = first + bids
    return messages.ravel(), np.column_stack((price[order], lots[order])).ravel()


class Player:
    """Plays messages and commands on *core*, in the columns of core_play."""

    def __init__(
        self,
        core: Core,
        is_compiled: bool = False,
        levels: int = 1024,
        protection_bps: int = 100,
        sampler: Column | None = None,
    ) -> None:
        """
        Args:
            is_compiled: by numba; prices and lots must then be below COMPILED_LIMIT.
            levels: room a side at first.
            protection_bps: how far from the best price a market order may go.
            sampler: of the features that are wanted; none by default, see core_features.new_sampler.
        Raises: ImportError: numba is asked for and not installed.
        """
        self._levels, self._orders = levels, 64
        self._protection_bps = protection_bps
        self._is_compiled = is_compiled
        is_peer = core.head[cs.PROFILE] != cs.DEFAULT
        self._play: Any = core_compile.compiled(is_peer) if is_compiled else core_play.play
        self._sampler = self._column(sampler or core_features.new_sampler(0))
        self._sampler[core_features.ROW_ROOM] = _ROWS
        self._times = self._column([0] * _ROWS)
        self._values: Any = [0.0] * (_ROWS * len(COLUMNS))
        if is_compiled:
            self._values = np.array(self._values)
        self._sampled: list[tuple[Ints, Floats]] = []
        self._take(core)

    @property
    def core(self) -> Core:
        """The core as it is, in lists; compiled, they are a copy."""
        return core_compile.unpack(self._core) if self._is_compiled else self._core

    def sampled(self) -> tuple[Ints, Floats]:
        """Return the grid point, ns, and the features of each row so far.  # (T,), (T, len(COLUMNS))"""
        none = np.zeros(0, np.int64), np.zeros((0, len(COLUMNS)))
        times, values = zip(none, *self._sampled, strict=True)
        return np.concatenate(times), np.concatenate(values)

    def play(self, messages: Column | Ints, rows: Column | Ints, commands: Column) -> Column:
        """
        Let it all happen; return what core_play tells of it, TOLD numbers an event.

        Args:
            messages: with the one more that ends them.
        """
        cursor = [0] * core_play.CURSOR
        cursor[core_play.MESSAGE_END] = len(messages) // core_play.MESSAGE - 1
        cursor[core_play.COMMAND_END] = len(commands) // core_play.COMMAND
        cursor[core_play.PROTECTION_BPS] = self._protection_bps
        given: list[Any] = [self._column(column) for column in (cursor, messages, rows, commands)]
        told: list[int] = []
        while True:
            at = given[0]
            at[core_play.TOLD_COUNT], at[core_play.TOLD_END] = 0, _TOLD
            at[core_play.LEVEL_ROOM] = self._levels
            why = self._play(self._core, *given, self._told, self._sampler, self._times, self._values)
            told += (int(n) for n in self._told[: at[core_play.TOLD_COUNT] * core_play.TOLD])
            self._keep_rows()
            if why == core_play.DONE:
                return told
            self._grow(why)

    def _keep_rows(self) -> None:
        if count := int(self._sampler[core_features.ROWS]):
            values = np.array(self._values[: count * len(COLUMNS)], np.float64)
            self._sampled.append((np.array(self._times[:count], np.int64), values.reshape(count, -1)))
            self._sampler[core_features.ROWS] = 0

    def _grow(self, why: int) -> None:
        if why == core_play.WANTS_LEVELS:
            self._levels *= 2
        elif why == core_play.WANTS_ORDERS:
            self._orders *= 2
        if why in (core_play.WANTS_LEVELS, core_play.WANTS_ORDERS):
            self._take(self.core)

    def _take(self, core: Core) -> None:
        state = core_compile.pack(core, self._levels, self._orders)
        self._core: Any = state if self._is_compiled else core_compile.unpack(state)
        slots = int(state[core_compile.SLOTS])
        room = _TOLD + core_compile.events_room(self._levels, slots)
        self._told: Any = self._column([0] * (room * core_play.TOLD))

    def _column(self, numbers: Column | Ints) -> Any:
        if self._is_compiled:
            return np.ascontiguousarray(numbers, np.int64)
        return numbers.tolist() if isinstance(numbers, np.ndarray) else numbers
