"""Rows of the console's tables, and money as their text."""

import msgspec

from tickerml.kernel import UNIT


class Row(msgspec.Struct, frozen=True):
    """One line of a table: a number of its own, its texts, and how it looks."""

    id: int | str
    cells: list[str]
    tone: str = ""
    tones: list[str] = []


def signed(units: int) -> str:
    """Return money in *units* as text with its sign."""
    return f"{units / UNIT:+,.2f}"


def tone_of(units: int) -> str:
    """Return the tone of a gain or a loss."""
    return "up" if units > 0 else "down" if units < 0 else ""
