"""What a campaign concludes from what it saw; the campaigns themselves are no part of the test run."""

import random
from typing import Any

import msgspec
import pytest
from damage import DAMAGES, lost_decisions
from disk import one_message
from evidence import Evidence, differences
from kill import MOST_DEATHS, Round
from soak import draw, judge, slope_per_hour
from stall import Stall
from stall import judge as judge_stall

EXPECTED = Evidence(
    figures={"orders": 3},
    states={"trade": {"portfolio": "10 bytes aa", "books": "20 bytes bb"}},
    streams={"order.aurora.": "3 messages cc"},
    decisions=["1", "2", "3"],
    faults=[],
    frames=9,
)


def test_equal_evidence_has_no_differences() -> None:
    assert differences(EXPECTED, msgspec.structs.replace(EXPECTED, frames=12)) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"figures": {"orders": 4}}, "figure orders: expected 3, was 4"),
        (
            {"states": {"trade": {"portfolio": "10 bytes ab", "books": "20 bytes bb"}}},
            "state of trade: portfolio: expected 10 bytes aa, was 10 bytes ab",
        ),
        ({"streams": {}}, "stream order.aurora.: expected 3 messages cc, was None"),
        ({"faults": ["seq 5 comes after 3"]}, "journal: seq 5 comes after 3"),
    ],
)
def test_each_kind_of_difference_is_named(changed: dict[str, Any], told: str) -> None:
    assert differences(EXPECTED, msgspec.structs.replace(EXPECTED, **changed)) == [told]


@pytest.mark.parametrize(
    ("after", "lost"), [("123", 0), ("1234", 0), ("12", 1), ("1x3", 2), ("", 3), ("x123", 3)]
)
def test_what_did_not_come_again_counts_from_the_first_that_differs(after: str, lost: int) -> None:
    assert lost_decisions(list("123"), list(after)) == lost


@pytest.mark.parametrize("name", [name for name in DAMAGES if not name.startswith("bits in")])
def test_damage_is_the_same_for_the_same_seed(name: str) -> None:
    first, second = bytearray(bytes(range(256)) * 160), bytearray(bytes(range(256)) * 160)
    where = DAMAGES[name][1](first, random.Random(3))

    assert DAMAGES[name][1](second, random.Random(3)) == where
    assert first == second


def test_nobody_is_killed_into_quarantine() -> None:
    needed = {"trade": 9}
    run = Round(None, needed, random.Random(1))  # type: ignore[arg-type]
    for _ in range(MOST_DEATHS):
        assert run.choose() == "trade"
        run.note_death("trade")

    assert run.choose() == ""


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Stall("trade", 1.5, False, [], 0.1), []),
        (Stall("trade", 5.0, True, [], 0.1), []),
        (Stall("kernel", 60.0, False, [], 0.1), []),
        (Stall("trade", 5.0, False, [], 0.1), ["trade was not replaced after it stood still for 5 s"]),
        (Stall("trade", 1.5, True, [], 0.1), ["trade was replaced after it stood still for 1.5 s"]),
        (Stall("kernel", 5.0, False, ["record"], 0.1), ["record was replaced because kernel stood still"]),
    ],
)
def test_a_stall_is_judged_by_who_was_replaced(found: Stall, told: list[str]) -> None:
    assert judge_stall(found) == told


def test_an_end_without_a_message_or_with_two_is_a_complaint() -> None:
    assert one_message('{"event": "journal.failed"}\ntickerml: the journal is full\n') == []
    assert one_message("") == ["expected one message, was []"]
    assert len(one_message("tickerml: a\ntickerml: b\nTraceback (most recent call last)")) == 2


def rows(growth_per_hour: float) -> list[dict[str, float]]:
    return [{"t_s": 10.0 * n, "own_kernel": 30.0 + n / 360 * growth_per_hour + n % 2} for n in range(60)]


def test_what_grows_is_told_from_what_only_wavers() -> None:
    assert judge(rows(0.0), 60.0)["own_kernel"]["is_flat"]
    assert not judge(rows(6.0), 60.0)["own_kernel"]["is_flat"]
    assert slope_per_hour([0.0, 1800.0, 3600.0], [1.0, 2.0, 3.0]) == pytest.approx(2.0)


def test_curves_are_drawn_of_any_rows() -> None:
    assert draw([]).startswith("<svg")
    assert draw(rows(1.0)).count("<polyline") >= 1
