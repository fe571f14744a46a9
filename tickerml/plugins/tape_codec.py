"""
How the rows of a block are packed into bytes, before zstd has them.

Columns are packed for what they are:

    ts_recv, ts_event, seq   only where they change, as differences; a bit a row says where, and
                             that bit is written as "not what the end of the last message led
                             one to expect", so that it is nearly always zero
    price                    differences, bids apart from asks
    quantity                 the zeros (deleted levels) as a bit a row, the others as they are
    side, kind, is_last      a byte or a bit a row

Differences wrap around modulo 2**64, so every int64 survives. Numbers are zigzagged, divided
by their common divisor (an exchange's milliseconds), cut to the bytes they need, and laid out
byte plane by byte plane: all the low bytes, then all the next ones.
"""

import struct

import numpy as np
import numpy.typing as npt

from .tape_rows import MIN_TS, ROW, Ints, Rows

_COLUMN = struct.Struct("<qqB")  # first, divisor, bytes a number
_TIMES = ("ts_recv", "ts_event", "seq")
_FEW = 16  # numbers that have no common divisor, mostly, when all have none


def pack_rows(rows: Rows) -> bytes:
    """Return *rows* as packed columns, not yet compressed; the number of rows is not in it."""
    times = [np.ascontiguousarray(rows[name]) for name in _TIMES]
    is_last = np.ascontiguousarray(rows["is_last"])
    is_changed = np.zeros(len(rows), bool)
    is_changed[:1] = True
    for column in times:
        is_changed[1:] |= column[1:] != column[:-1]
    side, quantity = np.ascontiguousarray(rows["side"]), np.ascontiguousarray(rows["quantity"])
    is_zero = quantity == 0
    return b"".join(
        [
            side.tobytes(),
            rows["kind"].tobytes(),
            np.packbits(is_last).tobytes(),
            np.packbits(is_changed ^ _is_first(is_last)).tobytes(),
            *(_pack_differences(column[is_changed]) for column in times),
            _pack_differences(rows["price"][_by_side(side)]),
            np.packbits(is_zero).tobytes(),
            _pack_numbers(0, quantity[~is_zero]),
        ]
    )


def unpack_rows(payload: bytes, count: int, rows: Rows | None = None) -> Rows:
    """
    Return the *count* rows that pack_rows() made *payload* of, in *rows* where that is given.

    Raises: ValueError: *payload* is not as long as that takes.
    """
    rows = np.empty(count, ROW) if rows is None else rows
    reader = _Reader(payload)
    side = reader.take(count).view(np.int8)
    rows["side"], rows["kind"] = side, reader.take(count)
    is_last = reader.bits(count)
    rows["is_last"] = is_last
    changes = np.flatnonzero(reader.bits(count) ^ _is_first(is_last))
    times = np.diff(changes, append=count)  # (changes,): how many rows each of them is for
    for name in _TIMES:
        rows[name] = np.repeat(reader.differences(len(changes)), times)
    price = np.empty(count, np.int64)
    price[_by_side(side)] = reader.differences(count)
    rows["price"] = price
    is_there = ~reader.bits(count)
    quantity = np.zeros(count, np.int64)
    quantity[is_there] = reader.numbers(int(np.count_nonzero(is_there)))[1]
    rows["quantity"] = quantity
    reader.finish()
    return rows


def _is_first(is_last: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    # Where a message begins, if each one ends where it says.
    return np.concatenate([np.ones(min(1, len(is_last)), bool), is_last[:-1]])


def _by_side(side: npt.NDArray[np.int8]) -> npt.NDArray[np.intp]:
    # The order that brings equal sides together, as a stable sort does; there are three in all data.
    found = [np.flatnonzero(side == value) for value in (-1, 0, 1)]
    if sum(map(len, found)) != len(side):
        return np.argsort(side, kind="stable")
    return np.concatenate(found)


# --- Columns of numbers ---------------------------------------------------------------------------


def _pack_differences(numbers: Ints) -> bytes:
    return _pack_numbers(int(numbers[0]), np.diff(numbers)) if len(numbers) else _pack_numbers(0, numbers)


def _pack_numbers(first: int, values: Ints) -> bytes:
    divisor = _common_divisor(values)
    if divisor != 1:
        values = values // divisor
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    width = (int(zigzag.max()).bit_length() + 7) // 8 if len(zigzag) else 0
    size = _size_of(width)
    octets = zigzag.astype(f"<u{size}").view(np.uint8)
    planes = [octets[place::size].tobytes() for place in range(width)]
    return b"".join([_COLUMN.pack(first, divisor, width), *planes])


def _common_divisor(values: Ints) -> int:
    # int64's least number has no positive counterpart, and a gcd of it no sign to rely on.
    few = values[:_FEW]
    if not len(values) or int(np.gcd.reduce(few)) == 1 or values.min() == MIN_TS:
        return 1
    return int(np.gcd.reduce(values)) or 1


def _size_of(width: int) -> int:
    # Of the least machine word that holds *width* bytes.
    return 1 << max(width - 1, 0).bit_length()


class _Reader:
    # Takes columns off the front of a payload.

    def __init__(self, payload: bytes) -> None:
        self._bytes = np.frombuffer(payload, np.uint8)
        self._at = 0

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        part = self._bytes[self._at : self._at + count]
        if len(part) != count:
            raise ValueError(f"expected {count} bytes at {self._at}, was {len(part)}")
        self._at += count
        return part

    def bits(self, count: int) -> npt.NDArray[np.bool_]:
        return np.unpackbits(self.take(-(-count // 8)), count=count).view(bool)

    def numbers(self, count: int) -> tuple[int, Ints]:
        # The first, which only differences have, and the values.
        first, divisor, width = _COLUMN.unpack(self.take(_COLUMN.size).tobytes())
        if not 0 <= width <= 8:
            raise ValueError(f"expected numbers of 0 to 8 bytes, was {width}")
        size = _size_of(width)
        number = np.zeros(count, f"<u{size}")
        for place in range(width):
            octets = self.take(count)
            number |= octets if not place else octets.astype(number.dtype) << number.dtype.type(8 * place)
        sign = number & number.dtype.type(1)
        number >>= number.dtype.type(1)
        number ^= np.negative(sign, out=sign)
        values: Ints = number.view(f"<i{size}").astype(np.int64)
        if divisor != 1:
            values *= np.int64(divisor)
        return first, values

    def differences(self, count: int) -> Ints:
        values = np.empty(count, np.int64)
        first, values[1:] = self.numbers(max(count - 1, 0))
        values[:1] = first
        return np.cumsum(values, out=values)

    def finish(self) -> None:
        if self._at != len(self._bytes):
            raise ValueError(f"expected {self._at} bytes of columns, was {len(self._bytes)}")
