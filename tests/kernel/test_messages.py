"""The vocabulary: every message is documented, immutable, and starts with ts_recv."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import (
    FeatureVector,
    Instrument,
    Side,
    TimeTick,
    levels,
    pack_levels,
)
from tickerml.kernel import messages as m

INT64 = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize("cls", m.message_types(), ids=lambda cls: cls.__name__)
def test_each_message_is_documented_and_begins_with_the_time_it_was_received(cls):
    assert cls.__doc__
    assert cls.__struct_fields__[0] == "ts_recv"
    assert cls.__struct_config__.tag == cls.__name__


def test_the_list_of_message_types_names_each_once():
    names = [cls.__name__ for cls in m.message_types()]

    assert len(names) == len(set(names)) > 30


def test_a_message_is_never_changed():
    tick = TimeTick(1)

    with pytest.raises(AttributeError, match="immutable"):
        tick.ts_recv = 2


@given(st.lists(st.tuples(INT64, INT64)))
def test_levels_come_back_as_they_were_packed(pairs):
    assert list(levels(pack_levels(pairs))) == pairs


def test_levels_travel_as_little_endian_pairs_of_price_and_quantity():
    assert pack_levels([(1, 2), (-3, 4)]) == struct.pack("<4q", 1, 2, -3, 4)


def test_half_a_level_is_refused():
    with pytest.raises(ValueError, match="whole pairs of 16 bytes, was 24"):
        list(levels(struct.pack("<3q", 1, 2, 3)))


def test_features_unpack_in_column_order_and_unknown_is_nan():
    vector = FeatureVector(1, 1, "test", "BTC/USDT", "core", struct.pack("<3d", 0.5, -2.0, math.nan))

    assert vector.unpack()[:2] == [0.5, -2.0]
    assert math.isnan(vector.unpack()[2])


def test_the_value_of_a_side_is_the_sign_of_its_quantity():
    assert (Side.BUY, Side.SELL) == (1, -1)
    assert Side.BUY.opposite is Side.SELL
    assert Side.SELL.opposite is Side.BUY


@given(*[st.integers(1, 10**9)] * 4)
def test_a_notional_is_exact_and_rounds_up_where_a_unit_is_too_coarse(price, quantity, tick, lot):
    instrument = Instrument(0, "test", "BTC/USDT", "BTC", "USDT", tick, lot)

    notional = instrument.notional(price, quantity)

    exact = price * tick * quantity * lot  # in units of 1e-24
    assert (notional - 1) * 10**12 < exact <= notional * 10**12
