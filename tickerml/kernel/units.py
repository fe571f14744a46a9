"""
Exact numbers: decimal text on the wire, integers inside.

Prices and quantities travel as int64 multiples of an instrument's tick and lot.
Money is counted in UNITS, 1e-12 of an asset, as Python integers, so a fee of a
fraction of a cent is exact and nothing overflows. A float appears only where a
feature is computed.
"""

from decimal import Context, Decimal, Inexact, InvalidOperation

UNIT = 10**12  # units in one whole asset
NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
PPM = 1_000_000

# The default context rounds to 28 digits, which a quantity with 12 decimals outgrows; here nothing rounds.
_EXACT = Context(prec=100, traps=[Inexact, InvalidOperation])


def to_units(text: str | int | Decimal) -> int:
    """
    Return the decimal *text* ("61837.63") in units of 1e-12, exactly.

    Raises: ValueError: not a finite decimal, of more than 100 digits, or finer than 1e-12.
    """
    try:
        value = _EXACT.multiply(Decimal(text), UNIT)
        units = int(value)
    except (InvalidOperation, Inexact, ValueError, OverflowError):
        raise ValueError(f"expected a decimal number, was {text!r}") from None
    if units != value:
        raise ValueError(f"expected at most 12 decimals, was {text!r}")
    return units


def format_units(units: int, decimals: int | None = None) -> str:
    """
    Return *units* as decimal text.

    Without *decimals* the text is exact and trailing zeros are dropped; with it,
    rounded half to even.
    """
    value = _EXACT.divide(Decimal(units), Decimal(UNIT))
    if decimals is not None:
        return f"{value:.{decimals}f}"
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Grid:
    """The multiples of one step: an instrument's ticks or lots, as integers."""

    __slots__ = ("_decimals", "_per_whole", "step")

    def __init__(self, step: int) -> None:
        """
        Args:
            step: size of one tick or lot, in units of 1e-12.
        Raises: ValueError: the step is not positive.
        """
        if step <= 0:
            raise ValueError(f"a grid step must be positive, was {step}")
        self.step = step
        # Steps that divide one (1e-k, as all four exchanges', or 0.05) take the float path below.
        self._per_whole = UNIT // step if UNIT % step == 0 else 0
        # Steps of 1e-k are moves of the decimal point, for numbers too large for a float.
        self._decimals = next((k for k in range(13) if step * 10**k == UNIT), -1)

    def parse(self, text: str) -> int:
        """
        Return how many steps the decimal *text* is.

        The fast path is exact: below 2**30 steps the float product is within 4e-7 of a step
        of the truth, so it rounds to the one integer the text can mean, and text that is off
        the grid by more than that is seen. Above, plain digits on a grid of 1e-k are shifted.
        Everything else goes through Decimal.

        Raises: ValueError: not a number, or not a multiple of the step.
        """
        try:
            value = float(text) * self._per_whole
            steps = round(value)
        except (ValueError, OverflowError):  # text of no number, nan or inf
            raise ValueError(f"expected a decimal number, was {text!r}") from None
        if self._per_whole and -(2**30) < steps < 2**30 and -4e-7 < value - steps < 4e-7:
            return steps
        whole, _, fraction = text.partition(".")
        digits = whole + fraction
        if len(fraction) <= self._decimals and digits.isascii() and digits.isdigit() and len(digits) < 100:
            shift: int = 10 ** (self._decimals - len(fraction))
            return int(digits) * shift
        steps, rest = divmod(to_units(text), self.step)
        if rest:
            raise ValueError(f"{text} is not a multiple of {format_units(self.step)}")
        return steps

    def text(self, steps: int) -> str:
        """Return *steps* as exact decimal text."""
        return format_units(steps * self.step)

    def value(self, steps: float) -> float:
        """Return *steps* as a float, for features and screens; never for money."""
        return steps * (self.step / UNIT)
