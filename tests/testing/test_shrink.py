"""The fewest items that still fail."""

from hypothesis import given
from hypothesis import strategies as st

from tickerml.testing.shrink import shrink


@given(st.sets(st.integers(0, 60), max_size=4), st.integers(1, 60))
def test_finds_exactly_the_items_that_matter(culprits, length):
    items = list(range(length))
    needed = culprits & set(items)

    found = shrink(items, lambda part: needed <= set(part), attempts=10_000)

    assert found == sorted(needed)


def test_what_is_left_fails_and_keeps_its_order():
    found = shrink([5, 3, 8, 1], lambda part: sum(part) >= 8 and len(part) > 0)

    assert sum(found) >= 8
    assert found == [8] or found == [5, 3]


def test_nothing_is_left_where_the_faults_are_not_to_blame():
    assert shrink([1, 2, 3], lambda part: True) == []


def test_stops_when_its_attempts_are_used_up():
    asked = []

    def fails(part):
        asked.append(part)
        return set(part) >= {0, 99}

    left = shrink(range(100), fails, attempts=10)

    assert len(asked) <= 11
    assert {0, 99} <= set(left)
