"""
How the rows of a block are packed into bytes, before zstd has them.

A block has six sections, and whoever wants one column unpacks the shape and its own section alone:

    shape       side and kind, a byte a row; is_last, a bit a row; and a bit a row that says where
                one of the next three columns changes, written as "not what the end of the last
                message led one to expect", so that it is nearly always zero
    ts_recv, ts_event, seq   where they change, as differences; ts_recv, where there is a ts_event,
                as differences of what it is later than the last one, first those at which that moves
    price       differences, bids apart from asks
    quantity    the zeros (deleted levels) as a bit a row, the others as they are, or as places in
                an ascending list of those that occur

Differences wrap around modulo 2**64, so every int64 survives. The functions that go through whole
columns are in two forms, tape_numpy and tape_loops, of which the second wants numba.
"""

import struct
from collections.abc import Callable, Iterator

import numpy as np

from .tape_numpy import NUMPY, Bools, Bytes, Kernels, clock_of
from .tape_numpy import Column as Column
from .tape_rows import ROW, Ints, Rows

SECTIONS = ("shape", "ts_recv", "ts_event", "seq", "price", "quantity")
TIMES = SECTIONS[1:4]

_COLUMN = struct.Struct("<qqB")  # first, divisor, bytes a number
_LIST = 16  # in the place of the bytes a number: a list of *first* numbers, and places in it, follow
_LATER = 32  # added to the bytes a number: those of ts_recv are what it is later than clock_of()


def pack_rows(rows: Rows, kernels: Kernels = NUMPY) -> list[bytes]:
    """Return the sections of *rows*, not yet compressed; the number of rows is not in them."""
    columns = dict(zip(ROW.names or (), kernels.apart(rows), strict=True))
    side, is_last, quantity = columns["side"], columns["is_last"], columns["quantity"]
    is_changed = kernels.changes(*(columns[name] for name in TIMES))
    is_zero = quantity == 0
    return [
        b"".join(
            [
                side.tobytes(),
                columns["kind"].tobytes(),
                np.packbits(is_last).tobytes(),
                np.packbits(is_changed ^ _is_first(is_last)).tobytes(),
            ]
        ),
        *_pack_times([columns[name][is_changed] for name in TIMES], kernels),
        _pack_differences(kernels.gather(columns["price"], side), kernels),
        np.packbits(is_zero).tobytes() + _pack_listed(quantity[~is_zero], kernels),
    ]


def cut(payload: bytes | memoryview, count: int) -> list[memoryview]:
    """
    Return the sections of *count* rows that lie one behind the other in *payload*.

    Raises: ValueError: it is shorter than they are.
    """
    view, at, found = memoryview(payload), 0, []
    lengths = [2 * count + 2 * -(-count // 8)]
    is_last, flips = np.split(_Reader(view[2 * count : lengths[0]]).bits(16 * -(-count // 8)), 2)
    changes = int(np.count_nonzero(flips[:count] ^ _is_first(is_last[:count])))
    for numbers in (changes, changes, changes, count):
        at += lengths[-1]
        width = view[at + _COLUMN.size - 1] & ~_LATER if at + _COLUMN.size <= len(view) else 0
        lengths.append(_COLUMN.size + width * max(numbers - 1, 0))
    at = 0
    for length in lengths:
        found.append(view[at : at + length])
        at += length
    return [*found, view[at:]]


class Columns:
    """The columns of *count* rows, each of which is unpacked when it is asked for."""

    def __init__(
        self, count: int, section: Callable[[int], bytes | memoryview], kernels: Kernels = NUMPY
    ) -> None:
        """
        Args:
            section: gives the section of an index into SECTIONS.
        Raises: ValueError: the first section is not as long as that many rows take, or begins no message.
        """
        self._count, self._section, self._kernels = count, section, kernels
        with _Reader(section(0)) as reader:
            self.side = reader.take(count).view(np.int8)
            self.kind = reader.take(count)
            self.is_last = reader.bits(count)
            self._is_changed = reader.bits(count) ^ _is_first(self.is_last)
        if count and not self._is_changed[0]:
            raise ValueError("expected the first row to begin a message, was none")

    def put(self, name: str, out: Column) -> None:
        """
        Unpack the column *name* into *out*, which has as many elements as there are rows.

        Raises: ValueError: its section is not as long as that takes.
        """
        if name in ("side", "kind", "is_last"):
            out[:] = getattr(self, name)
        elif name in TIMES:
            self._kernels.repeat(self._times(name), self._is_changed, out)
        else:
            with _Reader(self._section(SECTIONS.index(name))) as reader:
                if name == "price":
                    prices = reader.differences(self._count, self._kernels)
                    self._kernels.scatter(prices, self.side, out)
                else:
                    reader.listed(reader.bits(self._count), self._kernels, out)

    def _times(self, name: str) -> Ints:
        count = int(np.count_nonzero(self._is_changed))
        with _Reader(self._section(SECTIONS.index(name))) as reader:
            if name != "ts_recv" or not reader.is_later:
                return reader.differences(count, self._kernels)
            first, steps = reader.later(count - 1, self._kernels)
        return self._kernels.received(first, steps, self._times("ts_event"))


def unpack_rows(sections: list[bytes], count: int, kernels: Kernels = NUMPY) -> Rows:
    """
    Return the *count* rows that pack_rows() made *sections* of.

    Raises: ValueError: they are not as long as that takes.
    """
    rows, columns = np.empty(count, ROW), Columns(count, sections.__getitem__, kernels)
    for name in ROW.names or ():
        columns.put(name, rows[name])
    return rows


def _is_first(is_last: Bools) -> Bools:
    # Where a message begins, if each one ends where it says.
    found = np.ones(len(is_last), bool)
    found[1:] = is_last[:-1]
    return found


# --- Columns of numbers ---------------------------------------------------------------------------


def _pack_times(times: list[Ints], kernels: Kernels) -> Iterator[bytes]:
    # Of two clocks that run on alike, the one says most of what the other one does.
    ts_recv, ts_event, seq = times
    if ts_event.any():
        clock = clock_of(ts_event)
        later, is_moved = ts_recv - clock, clock[1:] != clock[:-1]
        steps = later[1:] - later[:-1]
        ordered = np.concatenate([steps[is_moved], steps[~is_moved]])
        yield _pack_numbers(int(later[0]), ordered, kernels, _LATER)
    else:
        yield _pack_differences(ts_recv, kernels)
    yield _pack_differences(ts_event, kernels)
    yield _pack_differences(seq, kernels)


def _pack_differences(numbers: Ints, kernels: Kernels) -> bytes:
    if not len(numbers):
        return _pack_numbers(0, numbers, kernels)
    return _pack_numbers(int(numbers[0]), numbers[1:] - numbers[:-1], kernels)


def _pack_numbers(first: int, values: Ints, kernels: Kernels, mark: int = 0) -> bytes:
    divisor, width, planes = kernels.split(values)
    return _COLUMN.pack(first, divisor, width + mark) + planes.tobytes()


def _pack_listed(values: Ints, kernels: Kernels) -> bytes:
    # Of what occurs again and again, as orders of a round size do, a place takes fewer bytes.
    found, index = kernels.rank(values)
    if 4 * len(found) > 3 * len(values):
        return _pack_numbers(0, values, kernels)
    head = _COLUMN.pack(len(found), 1, _LIST)
    return head + _pack_differences(found, kernels) + _pack_numbers(0, index, kernels)


class _Reader:
    # Takes columns off the front of a section, and makes sure that nothing is left of it.

    def __init__(self, section: bytes | memoryview) -> None:
        self._bytes: Bytes = np.frombuffer(section, np.uint8)
        self._at = 0

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None and self._at != len(self._bytes):
            raise ValueError(f"expected a section of {self._at} bytes, was {len(self._bytes)}")

    def take(self, count: int) -> Bytes:
        part = self._bytes[self._at : self._at + count]
        if len(part) != count:
            raise ValueError(f"expected {count} bytes at {self._at}, was {len(part)}")
        self._at += count
        return part

    def bits(self, count: int) -> Bools:
        return np.unpackbits(self.take(-(-count // 8)), count=count).view(bool)

    @property
    def is_later(self) -> bool:
        """Whether its numbers are what ts_recv is later than ts_event."""
        return len(self._bytes) >= _COLUMN.size and bool(self._bytes[_COLUMN.size - 1] & _LATER)

    def _head(self) -> tuple[int, int, int]:
        first, divisor, width = _COLUMN.unpack(self.take(_COLUMN.size).tobytes())
        return first, divisor, width

    def numbers(self, count: int, kernels: Kernels) -> Ints:
        _, divisor, width = self._head()
        return kernels.join(*self._planes(count, width), divisor)

    def later(self, count: int, kernels: Kernels) -> tuple[int, Ints]:
        first, divisor, width = self._head()
        return first, kernels.join(*self._planes(count, width & ~_LATER), divisor)

    def _planes(self, count: int, width: int) -> tuple[Bytes, int, int]:
        if width > 8:
            raise ValueError(f"expected numbers of 0 to 8 bytes, was {width}")
        return self.take(count * width), count, width

    def differences(self, count: int, kernels: Kernels) -> Ints:
        first, divisor, width = self._head()
        found = kernels.accumulate(*self._planes(max(count - 1, 0), width), divisor, first)
        return found[:count]

    def listed(self, is_zero: Bools, kernels: Kernels, out: Ints) -> None:
        count, before = len(is_zero) - int(np.count_nonzero(is_zero)), self._at
        entries, _, width = self._head()
        if width != _LIST:
            self._at = before
            kernels.fill(self.numbers(count, kernels), is_zero, out)
            return
        if not 0 <= entries <= count:
            raise ValueError(f"expected a list of at most {count} numbers, was {entries}")
        found = self.differences(entries, kernels)
        index = self.numbers(count, kernels)
        if count and not 0 <= index.min() <= index.max() < entries:
            raise ValueError(f"expected places in a list of {entries}, was {index.min()} to {index.max()}")
        kernels.pick(found, index, is_zero, out)
