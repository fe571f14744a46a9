"""
Decimal text, as exchanges write prices and quantities, as whole ticks and lots: no digit is lost.

An Instrument's tick_size and lot_size are its grids. What is not on them is malformed, because a
book that holds a number of which a digit was dropped is not the exchange's book.
"""

from array import array
from contextlib import suppress
from functools import lru_cache

import msgspec

from tickerml.kernel import UNIT, Grid, Instrument, MalformedMessage, pack_levels, to_units

_INT64 = 2**63
_EXACT = 2**33  # steps
_REMEMBERED = 1 << 12  # texts of one grid
_TENS = tuple(10**places for places in range(13))

_pairs = msgspec.json.Decoder(list[tuple[str, str]])
_steps = msgspec.json.Decoder(list[int], strict=False)  # not strict: "4.20e2" is 420


def text_of(raw: msgspec.Raw) -> str:
    """Return a JSON number, or a string of one, as the text that was sent: no digit is lost."""
    return bytes(raw).decode(errors="replace").strip('"')


def decimals_of(step: int) -> int:
    """Return how many decimals a step of 1e-12 units each has where it is a power of ten; else -1."""
    return next((places for places in range(13) if step * 10**places == UNIT), -1)


class Steps(dict[str, int]):
    """
    What decimal text is in whole steps of a grid; it remembers what it has read.

    Asked for by steps[text], because a lookup is most of what a level costs: most prices, and the
    quantity 0, come again and again. That raises ValueError or OverflowError for what is off the
    grid, negative or too large for 64 bits.
    """

    __slots__ = ("_decimals", "_parse")

    def __init__(self, step: int) -> None:
        """
        Args:
            step: of the grid, in units of 1e-12.
        """
        self._parse = Grid(step).parse
        self._decimals = decimals_of(step)

    def __missing__(self, text: str) -> int:
        whole, _, fraction = text.partition(".")
        digits, places = whole + fraction, self._decimals - len(fraction)
        # On a grid of 1e-k plain digits are steps once the decimal point is moved.
        steps = int(digits) * _TENS[places] if places >= 0 and digits.isdecimal() else self._parse(text)
        if not 0 <= steps < _INT64:
            raise ValueError(f"expected 0 to 2**63 steps, was {text[:40]}")
        if len(self) >= _REMEMBERED:
            self.clear()
        self[text] = steps
        return steps


@lru_cache(maxsize=1024)
def steps_of(step: int) -> Steps:
    """Return what reads decimal text as whole steps, 1e-12 units each: one for all who ask for the same."""
    return Steps(step)


def level(instrument: Instrument, price: str, quantity: str) -> tuple[int, int]:
    """Return decimal text as (ticks, lots). Raises: MalformedMessage: off the grid, negative or too large."""
    try:
        return steps_of(instrument.tick_size)[price], steps_of(instrument.lot_size)[quantity]
    except (ValueError, OverflowError) as error:
        raise off_grid(instrument, error) from None


def pack(levels: list[tuple[str, str]], instrument: Instrument) -> bytes:
    """
    Return (price, quantity) pairs of decimal text as the packed levels of a book message.

    Raises: MalformedMessage: one is off the grid, negative or too large.
    """
    price, quantity = steps_of(instrument.tick_size), steps_of(instrument.lot_size)
    try:
        return pack_levels([(price[p], quantity[q]) for p, q in levels])
    except (ValueError, OverflowError) as error:
        raise off_grid(instrument, error) from None


def pack_json(raw: bytes, instrument: Instrument) -> bytes:
    """
    Return one side of a book as most exchanges write it, [["61824.00","0.040430"],...], packed.

    With the grid's power of ten behind each number, "0.040430e6", the JSON decoder makes whole steps of
    it, all levels at once, and refuses what is off the grid; a level costs a fifth of what it does one
    by one. It is only used where it is exact: below 2**33 steps a double is within 5e-7 of a step of the
    truth. All else is read as pack() does.

    Raises: MalformedMessage: no such side; or a number is off the grid, negative or too large.
    """
    if raw == b"[]":
        return b""
    price, quantity = _exponent(instrument.tick_size), _exponent(instrument.lot_size)
    if raw.startswith(b'[["') and raw.endswith(b'"]]') and price and quantity and b"-" not in raw:
        text = raw[1:-3].replace(b'","', price).replace(b'"],["', quantity)
        with suppress(msgspec.MsgspecError):
            flat = _steps.decode(text + quantity[:-2] + b"]")
            # Each separator was where it belongs: in every pair, and between every two of them.
            pairs = raw.count(b'","')
            is_whole = raw.count(b'"],["') == pairs - 1 and len(flat) == 2 * pairs
            if is_whole and max(flat) < _EXACT:
                return array("q", flat).tobytes()
    return pack(_decoded(raw), instrument)


@lru_cache(maxsize=1024)
def _exponent(step: int) -> bytes:
    # What goes between two numbers of which the first is on the grid of *step*; b"" for no power of ten.
    places = decimals_of(step)
    return b'e%d","' % places if places >= 0 else b""


def _decoded(raw: bytes) -> list[tuple[str, str]]:
    try:
        return _pairs.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"malformed frame: {error}") from None


def off_grid(instrument: Instrument, error: Exception) -> MalformedMessage:
    """Return what to raise where a number of *instrument* is none, or is not on its grid."""
    return MalformedMessage(f"number off the grid: {instrument.symbol}: {error}")


def nearest_ticks(instrument: Instrument, price: str) -> int:
    """
    Return *price*, which need not be on the grid (a mark, an index), in whole ticks; "" is 0.

    Raises: MalformedMessage: no decimal number, or too large.
    """
    try:
        ticks = round(float(price or "0") * UNIT / instrument.tick_size)
    except (ValueError, OverflowError):
        ticks = -1
    if not 0 <= ticks < _INT64:
        raise MalformedMessage(
            f"number off the grid: {instrument.symbol}: expected a price, was {price[:40]!r}"
        )
    return ticks


def units(text: str, bits: int = 63) -> int:
    """
    Return decimal *text* of any length (a rate) in units of 1e-12, rounded; "" is 0.

    Args:
        bits: that it may have; more than 63 do not travel, and are for what is divided first.
    Raises: MalformedMessage: no decimal number, or too large.
    """
    try:
        found = to_units(text or "0")
    except ValueError:
        try:
            found = round(float(text) * UNIT)  # more than 12 decimals
        except (ValueError, OverflowError):
            found = 1 << bits
    if abs(found) >= 1 << bits:
        raise MalformedMessage(f"malformed frame: expected a decimal number, was {text[:40]!r}")
    return found
