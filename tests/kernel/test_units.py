"""Decimal text and integers agree exactly, at any size and on any grid."""

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import UNIT, Grid, format_units, to_units

ANY_UNITS = st.integers(-(10**45), 10**45)
STEPS = st.one_of(
    st.integers(0, 12).map(lambda k: 10**k),  # 1e-12 to 1
    st.sampled_from([5 * 10**10, 25 * 10**9, 5 * 10**11]),  # 0.05, 0.025, 0.5: they divide one
    st.sampled_from([3 * 10**10, 7, 10**13, 25 * 10**11]),  # 0.03, 7e-12, 10, 2.5: they do not
)


def exact_text(scaled: int, decimals: int = 12) -> str:
    """Return scaled / 10**decimals as decimal text with all its zeros, without going through Decimal."""
    digits = str(abs(scaled)).zfill(decimals + 1)
    return f"{'-' * (scaled < 0)}{digits[:-decimals]}.{digits[-decimals:]}"


@given(ANY_UNITS)
def test_units_survive_the_way_to_text_and_back_exactly(units):
    assert to_units(format_units(units)) == units


@given(ANY_UNITS)
def test_formats_units_as_the_shortest_exact_decimal(units):
    assert format_units(units) == exact_text(units).rstrip("0").rstrip(".")


@given(ANY_UNITS, st.integers(0, 15))
def test_rounds_to_the_nearest_when_given_a_number_of_decimals(units, decimals):
    text = format_units(units, decimals)

    assert len(text.partition(".")[2]) == decimals
    with localcontext() as context:
        context.prec = 100
        assert abs(Decimal(text) * UNIT - units) * 2 <= Decimal(UNIT).scaleb(-decimals)


@given(st.integers(-(10**45), 10**45))
def test_refuses_what_is_finer_than_a_unit_and_takes_everything_else(tenths):
    text = exact_text(tenths, decimals=13)

    if tenths % 10:
        with pytest.raises(ValueError, match="at most 12 decimals"):
            to_units(text)
    else:
        assert to_units(text) == to_units(Decimal(text)) == tenths // 10


@pytest.mark.parametrize("text", ["", "abc", "nan", "inf", "-Infinity", "1.2.3", "sNaN"])
def test_refuses_text_that_is_no_finite_number(text):
    with pytest.raises(ValueError, match="expected a decimal number"):
        to_units(text)
    with pytest.raises(ValueError, match="expected a decimal number"):
        Grid(10**10).parse(text)
    with pytest.raises(ValueError, match="expected a decimal number"):
        Grid(3 * 10**10).parse(text)


@given(STEPS, st.one_of(st.integers(-(2**62), 2**62), st.integers(2**30 - 9, 2**30 + 9)), st.booleans())
def test_a_grid_reads_the_exact_text_of_each_of_its_points(step, steps, with_zeros):
    text = exact_text(steps * step)

    assert Grid(step).parse(text if with_zeros else text.rstrip("0")) == steps


@given(STEPS, st.integers(-(2**62), 2**62))
def test_a_grid_reads_what_it_writes(step, steps):
    grid = Grid(step)

    assert grid.parse(grid.text(steps)) == steps


@given(STEPS.filter(lambda step: step > 1), st.integers(-(2**40), 2**40), st.data())
def test_a_grid_refuses_text_a_millionth_of_a_step_or_more_beside_its_points(step, steps, data):
    margin = -(-step // 10**6)
    beside = steps * step + data.draw(st.integers(margin, step - margin))

    with pytest.raises(ValueError, match="not a multiple of"):
        Grid(step).parse(exact_text(beside))


@pytest.mark.parametrize("step", [0, -1])
def test_a_grid_step_must_be_positive(step):
    with pytest.raises(ValueError, match=f"must be positive, was {step}"):
        Grid(step)


def test_a_grid_gives_floats_for_features():
    assert Grid(10**10).value(6183763) == pytest.approx(61837.63)
