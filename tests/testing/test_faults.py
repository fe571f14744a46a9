"""Faults are drawn from a seed, up front."""

from random import Random

import pytest

from tickerml.kernel.units import NS_PER_S
from tickerml.testing.faults import CHANGES, SOURCE, Fault, Flaw, Kind, draw

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


def test_every_flaw_is_drawn_and_only_of_changes(drawn):
    assert {fault.flaw for fault in drawn} - {""} == set(Flaw)
    assert {fault.kind for fault in drawn if fault.flaw} <= CHANGES


def test_most_runs_have_changes_and_many_of_them_something_that_breaks_just_then():
    runs = [draw(Random(seed), HOSTS, NS_PER_S) for seed in range(200)]
    changed = [run for run in runs if any(fault.kind in CHANGES for fault in run)]

    assert 0.5 < len(changed) / len(runs) < 0.9


def test_other_rules_are_never_tried_on_a_journal_that_will_be_damaged():
    for seed in range(400):
        kinds = {fault.kind for fault in draw(Random(seed), HOSTS, NS_PER_S)}
        assert Kind.RULE not in kinds or not kinds & {Kind.FLIP_BIT, Kind.TEAR_VALUE, Kind.LYING_DISK}


def test_nobody_asks_for_a_shadow_of_what_has_none(drawn):
    assert SOURCE not in {fault.host for fault in drawn if fault.kind is Kind.SHADOW}


def test_a_flaw_is_shown_with_its_change():
    shown = str(Fault(0, Kind.RELOAD, "trade", flaw=Flaw.IMPORT))

    assert shown.endswith("reload trade (0.00): dies at import")
