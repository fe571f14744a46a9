"""Faults are drawn from a seed, up front."""

from random import Random

import pytest

from tickerml.kernel.units import NS_PER_S
from tickerml.testing.faults import Fault, Kind, draw

HOSTS = ["market", "trade"]


@pytest.fixture(scope="module")
def drawn():
    return [fault for seed in range(400) for fault in draw(Random(seed), HOSTS, NS_PER_S)]


def test_the_same_seed_draws_the_same():
    assert draw(Random(5), HOSTS, NS_PER_S) == draw(Random(5), HOSTS, NS_PER_S)


def test_every_kind_is_drawn_by_some_seed(drawn):
    assert {fault.kind for fault in drawn} == set(Kind)


def test_a_fault_has_a_host_exactly_where_it_is_about_one(drawn):
    about_a_host = {fault.kind for fault in drawn if fault.host}

    assert {fault.kind for fault in drawn if not fault.host} & about_a_host == set()
    assert {Kind.KILL_HOST, Kind.DROP_BUS} <= about_a_host
    assert {fault.host for fault in drawn if fault.host} == set(HOSTS)


def test_they_come_in_the_order_of_their_times():
    for seed in range(50):
        times = [fault.at for fault in draw(Random(seed), HOSTS, NS_PER_S)]
        assert times == sorted(times)


def test_some_fall_into_the_end_of_the_run_and_say_so(drawn):
    late = [fault for fault in drawn if fault.is_at_end]

    assert 0.05 < len(late) / len(drawn) < 0.3
    assert all("into the end" in str(fault) for fault in late)


def test_a_fault_is_shown_with_its_time_and_whom_it_hits():
    shown = str(Fault(1_500_000_000, Kind.STALL_HOST, "trade", NS_PER_S // 2, 0.25))

    assert shown.split() == ["1.5000", "s", "stall-host", "trade", "for", "0.500", "s", "(0.25)"]
