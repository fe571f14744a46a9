"""A rate that is out of the ordinary is told once, until it has been ordinary again."""

import msgspec
import pytest

from tickerml.kernel import UNIT, Anomaly, FundingUpdated, Severity, alerts
from tickerml.kernel.testing import Harness, run_with_restarts
from tickerml.plugins import funding_watch
from tickerml.plugins.funding_watch import FundingWatchOptions


def said(ts, percent):
    return FundingUpdated(
        ts, ts, "futures", "BTC/USD-PERP", 0, 0, round(percent * UNIT) // 100, 0, 0, 4 * 3600
    )


def told(*percents):
    harness = Harness(funding_watch)
    harness.send(*[said(ts, percent) for ts, percent in enumerate(percents)])
    return [(each.ts_recv, each.severity, each.count) for each in harness.outputs]


def test_tells_of_a_tenth_and_of_half_a_percent_once_each():
    assert told(0.09, 0.1, 0.2, 0.49, 0.5, 0.9) == [(1, Severity.WARNING, 1), (4, Severity.ERROR, 2)]


def test_half_a_percent_at_once_is_told_as_such():
    assert told(0.01, -0.6) == [(1, Severity.ERROR, 1)]


def test_tells_again_after_it_has_been_well_below():
    assert told(0.1, 0.085, 0.1) == [(0, Severity.WARNING, 1)]
    assert told(0.1, 0.079, 0.1) == [(0, Severity.WARNING, 1), (2, Severity.WARNING, 2)]


def test_people_are_told_who_pays_how_much_and_how_often():
    [anomaly] = Harness(funding_watch).send(said(1, -0.25))

    assert (anomaly.kind, anomaly.value, anomaly.limit) == (Anomaly.FUNDING, 25.0, 10.0)
    alert = alerts.alert_of(anomaly, {})
    assert alert.title == "BTC/USD-PERP on futures: shorts pay 0.250% every 4 h"


def test_the_higher_limit_must_be_above_the_other():
    with pytest.raises(msgspec.ValidationError, match=r"above high_percent, 0\.6, was 0\.5"):
        msgspec.convert({"high_percent": 0.6}, FundingWatchOptions)


@pytest.mark.parametrize("cut", range(5))
def test_a_restart_changes_nothing(cut):
    tape = [said(ts, percent) for ts, percent in enumerate([0.1, 0.6, 0.45, 0.6, 0.01])]

    whole = Harness(funding_watch).send(*tape)
    assert run_with_restarts(lambda: Harness(funding_watch), tape, [cut]) == whole
