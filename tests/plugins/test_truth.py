"""What the models of fills say of a market whose truth is known: benchmarks/truth.py, in small."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import truth

ORDERS = 60


class Told:
    """One generated market, and what each model says became of our orders in it."""

    def __init__(self, settings: truth.market.Settings) -> None:
        self.played = truth.market.play(5, 6_000, ORDERS, settings)
        self.settings = settings
        self.true = truth.truth_of(self.played.shadows)
        self.wishes = truth.wishes_of(self.played.shadows)

    def says(self, profile: str, queue: str = "risk-averse") -> dict[str, truth.Fills]:
        """Return what *profile* with the queue model *queue* says was filled, told event by event."""
        venue = truth.venue_of(profile, queue, self.settings, queue == truth.L3)
        rows = truth.singles_of(self.played) if queue == truth.L3 else truth.rows_of(self.played.rows)
        return truth.simulate(venue, rows, self.wishes)

    def agreeing(self, said: dict[str, truth.Fills]) -> int:
        """Return of how many orders what was *said* is true."""
        return truth.score((5, "event", ""), ORDERS, self.true, said).agree


@pytest.fixture(scope="module", params=truth.market.PROFILES)
def told(request: pytest.FixtureRequest) -> Told:
    return Told(truth.market.Settings(cancels=request.param))


@pytest.mark.parametrize("queue", ["risk-averse", "by-size", truth.L3])
def test_no_order_is_filled_before_it_truly_is_nor_with_more(told: Told, queue: str) -> None:
    said = told.says("default", queue)

    assert len(said) > ORDERS / 3, "a third of these orders are filled"
    assert all(fills.lots <= told.true[name].lots for name, fills in said.items())
    assert all(fills.first >= told.true[name].first for name, fills in said.items())


def test_the_default_says_more_of_the_truth_than_the_naive_and_by_size_the_most(told: Told) -> None:
    by_size, default, touch, cross = (
        told.agreeing(told.says(profile, queue))
        for profile, queue in (
            ("default", "by-size"),
            ("default", "risk-averse"),
            ("touch", "risk-averse"),
            ("cross", "risk-averse"),
        )
    )

    assert by_size > default > max(touch, cross)


def test_single_orders_tell_all_but_what_our_own_consumption_withholds(told: Told) -> None:
    assert told.agreeing(told.says("default", truth.L3)) >= ORDERS - 2
