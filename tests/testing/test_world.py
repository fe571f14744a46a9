"""The whole system in its simulated world: green seeds, the same every time; and what a red one becomes."""

import contextlib

import pytest

from tickerml.kernel import flow, machine, registry, sequencer
from tickerml.kernel.localbus import LocalBus
from tickerml.kernel.units import NS_PER_S
from tickerml.testing import campaign, simulate
from tickerml.testing.faults import CHANGES, HOST_KINDS, Fault, Flaw, Kind
from tickerml.testing.oracle import decisions
from tickerml.testing.scenario import unfold, with_faults
from tickerml.testing.trace import Trace

SEEDS = 40
#: Flaws that a process may have and be well in time all the same.
LATE = {Flaw.FRAIL, Flaw.RAISING, Flaw.HOLDING, Flaw.BUILD}


@contextlib.contextmanager
def a_bug(monkeypatch):
    """Have the last decision of every batch left out of what is kept for good."""
    take = sequencer.Sequencer.take_kept
    with monkeypatch.context() as patches:
        patches.setattr(sequencer.Sequencer, "take_kept", lambda self: take(self)[:-1])
        yield


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_nothing_is_lost_whatever_breaks(first):
    outcomes = [simulate.run_seed(seed) for seed in range(first, first + 10)]

    assert {outcome.seed: outcome.violation for outcome in outcomes if not outcome.is_green} == {}


@pytest.mark.parametrize("seed", [1, 4])
def test_a_run_in_which_nothing_breaks_completes_and_decides_what_a_backtest_decides(seed):
    scenario = with_faults(unfold(seed), [])

    outcome = simulate.run(scenario)

    assert (outcome.violation, outcome.end) == ("", "complete")
    assert outcome.seen["order filled"] > 3
    assert len(decisions(scenario.plan)) == 64


@pytest.mark.parametrize("kind", Kind)
def test_each_fault_alone_is_survived(kind):
    scenario = unfold(1)
    host = "trade" if kind in HOST_KINDS else ""
    faults = [Fault(NS_PER_S * 6 // 10, kind, host, span=NS_PER_S // 5, amount=0.3)]

    outcome = simulate.run(with_faults(scenario, faults))

    assert outcome.violation == ""
    assert outcome.seen.get(f"fault {kind.value}") == 1


@pytest.mark.parametrize(
    ("kind", "host"),
    [
        *((kind, "trade") for kind in sorted(CHANGES & HOST_KINDS)),
        *((kind, "market") for kind in (Kind.RELOAD, Kind.RECONFIGURE, Kind.NEW_STATE)),
        *((kind, "") for kind in sorted(CHANGES - HOST_KINDS)),
    ],
)
def test_a_change_becomes_permanent_while_it_runs(kind, host):
    fault = Fault(NS_PER_S * 6 // 10, kind, host, span=NS_PER_S // 20)

    outcome = simulate.run(with_faults(unfold(1), [fault]))

    assert (outcome.violation, outcome.end) == ("", "complete")
    assert outcome.seen["change permanent"] == 1


@pytest.mark.parametrize("flaw", Flaw)
@pytest.mark.parametrize("host", ["trade", "market"])
def test_whatever_is_wrong_with_a_candidate_the_one_before_goes_on(flaw, host):
    reload = Fault(NS_PER_S * 6 // 10, Kind.RELOAD, host, amount=0.99, flaw=flaw)

    outcome = simulate.run(with_faults(unfold(1), [reload]))

    assert (outcome.violation, outcome.end) == ("", "complete")
    assert outcome.seen["change began"] == 1
    assert "change permanent" not in outcome.seen or flaw in LATE
    assert "kernel lost in probation" in outcome.seen or flaw is not Flaw.KERNEL


def test_a_seed_gives_the_same_run_every_time():
    traces = [Trace(is_on=True), Trace(is_on=True)]

    outcomes = [simulate.run(unfold(3), trace) for trace in traces]

    assert outcomes[0] == outcomes[1]
    assert traces[0].lines() == traces[1].lines()
    assert len(traces[0].lines()) > 10


def test_seeds_differ():
    scenarios = [unfold(seed) for seed in range(20)]

    assert len({str(scenario.faults) for scenario in scenarios}) == 20
    assert len({scenario.plan.kernel.speed for scenario in scenarios}) > 1


def test_a_red_seed_is_shrunk_to_the_faults_that_matter_and_told(monkeypatch):
    with a_bug(monkeypatch):
        outcome = simulate.run_seed(5)
        failure = campaign.fail(outcome)

    assert not outcome.is_green
    assert "not among what is kept for good" in failure.violation
    assert failure.faults == []  # it takes no fault to see this one
    assert failure.trace[-1].endswith(failure.shrunk)


def test_the_production_code_is_left_as_it_was():
    before = (flow.PAUSE_BEHIND, machine.LocalBus, registry.load)
    simulate.run_seed(0)

    assert (flow.PAUSE_BEHIND, machine.LocalBus, registry.load) == before
    assert machine.LocalBus is LocalBus
