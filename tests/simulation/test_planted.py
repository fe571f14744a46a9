"""
Bugs planted by hand are found.

Those that take the world many seeds are left to `python tests/simulation/planted.py`.
"""

import importlib.util
from pathlib import Path

import pytest

from tickerml.kernel.gate import Gate

spec = importlib.util.spec_from_file_location("planted", Path(__file__).with_name("planted.py"))
planted = importlib.util.module_from_spec(spec)
spec.loader.exec_module(planted)

RARE = {
    "stale-epoch",
    "lost-burst",
    "unchecked-checkpoint",
    "plan-kept-after-all",
    "one-too-many",
    "state-before-the-last-input",
    "place-not-free",
    "eaten-by-the-shadow",
    "failure-on-trial-published",
    "forgotten-on-resuming",
    "states-of-two-versions",
}


@pytest.mark.parametrize("name", sorted(planted.PLANTS.keys() - RARE))
def test_a_planted_bug_is_found_within_forty_seeds(name):
    seeds, violation = planted.seeds_until_found(name, bound=40)

    assert 0 < seeds <= 40
    assert violation


def test_a_bug_is_there_only_while_it_is_planted():
    before = Gate.restore
    with planted.planted("order-forgotten-by-gate"):
        assert Gate.restore is not before

    assert Gate.restore is before


def test_every_bug_says_what_it_is():
    assert all(plant.__doc__ for plant in planted.PLANTS.values())
    assert len(planted.PLANTS) >= 10
