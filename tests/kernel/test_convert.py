"""What is wrong with what a person wrote: where it is, the rule, and what was there."""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
import pytest

from tickerml.kernel.convert import convert
from tickerml.kernel.errors import ConfigError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Paint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    colour: Colour
    coats: Annotated[int, msgspec.Meta(ge=1)] = 1

    def __post_init__(self) -> None:
        if (self.colour, self.coats) == (Colour.RED, 9):
            raise ValueError("coats must be at most 8 of red, was 9")


class House(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    style: Literal["low", "high"] | None = None
    rooms: dict[str, tuple[Annotated[int, msgspec.Meta(ge=0)], int]] = {}
    paints: dict[str, Paint] = {}
    tower: Annotated[Paint | None, msgspec.Meta(description="its paint")] = None
    doors: list[Paint] = []
    storeys: Annotated[str, msgspec.Meta(pattern="^(one|two|n:[3-9])$")] = "one"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"style": "wide"}, ".style: must be one of low, high, was 'wide'"),
        ({"tower": {"colour": "pink"}}, ".tower.colour: must be one of red, blue, was 'pink'"),
        ({"storeys": "six"}, ".storeys: must be one of one, two, n:[3-9], was 'six'"),
        (
            {"rooms": {"hall": [1, 2], "attic": [1, "x"]}},
            ".rooms.attic[1]: expected `int`, got `str`, was 'x'",
        ),
        ({"rooms": {"hall": [-1, 2]}}, ".rooms.hall[0]: expected `int` >= 0, was -1"),
        ({"rooms": {"hall": [1]}}, ".rooms.hall: expected `array` of length 2, got 1, was [1]"),
        ({"rooms": 3}, ".rooms: expected `table` { key = value }, got `int`, was 3"),
        (
            {"paints": {"a": {"colour": "red", "cotas": 2}}},
            ".paints.a.cotas: unknown key; did you mean 'coats'?",
        ),
        ({"tower": {"colour": "red", "cotas": 2}}, ".tower.cotas: unknown key; did you mean 'coats'?"),
        (
            {"doors": [{"colour": "red"}, {"colour": "r"}]},
            ".doors[1].colour: must be one of red, blue, was 'r'",
        ),
        (
            {"paints": {"a": {"colour": "red"}, "b": {"colour": "red", "coats": 9}}},
            ".paints.b: coats must be at most 8 of red, was 9",
        ),
        ({"paints": {"a": {}}}, ".paints.a: object missing required field `colour`"),
    ],
)
def test_an_error_names_the_place_the_rule_and_what_was_there(data, said):
    with pytest.raises(ConfigError) as raised:
        convert(data, House, "house")

    assert str(raised.value) == f"house{said}"


def test_what_nobody_can_place_is_told_as_it_was_found():
    with pytest.raises(ConfigError) as raised:
        convert({"a": {1: "x"}}, dict[str, dict[str, str]], "house")

    assert str(raised.value).startswith("house")
    assert "`str`" in str(raised.value)
