"""Many seeds and what they came to together."""

import json

import pytest
from typer.testing import CliRunner

from tickerml.testing import coverage
from tickerml.testing.campaign import ENOUGH_SEEDS, Campaign, Failure
from tickerml.ui import simulation
from tickerml.ui.cli_dev import app


@pytest.fixture
def invoke():
    return lambda *arguments: CliRunner().invoke(app, ["simulate", *arguments])


def test_a_world_that_goes_nowhere_is_noticed():
    seen = {name: 1 for name in coverage.EXPECTED if name != "order filled"}

    quiet = Campaign(seeds=ENOUGH_SEEDS, green=ENOUGH_SEEDS, seen=seen)

    assert quiet.unseen == ["order filled"]
    assert not quiet.is_green
    assert dict(coverage.table(seen))["order filled"] == 0


def test_of_a_few_seeds_not_everything_is_expected():
    assert Campaign(seeds=10, green=10).is_green


def test_a_campaign_with_a_failure_is_not_green():
    failure = Failure(seed=1, violation="lost", shrunk="lost", faults=[], trace=[])

    assert not Campaign(seeds=1, failures=[failure]).is_green


def test_one_seed_can_be_run_and_told_as_json(invoke):
    result = invoke("--seed", "5", "--json")

    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (report["green"], report["end"]) == (True, "complete")
    assert report["messages"] > 100


def test_the_trace_of_one_seed_is_shown_line_by_line(invoke):
    result = invoke("--seed", "5", "--trace")

    assert result.exit_code == 0
    assert "guard      a kernel starts after seq 0" in result.stdout
    assert "seed 5: complete" in result.stdout


def test_a_campaign_ends_with_a_table_and_says_what_failed(invoke, monkeypatch):
    failure = Failure(
        seed=7, violation="a tail was lost", shrunk="it is lost", faults=["kill"], trace=["end"]
    )
    found = Campaign(
        seeds=2, green=1, ends={"complete": 1, "failed": 1}, failures=[failure], seen={}, elapsed_s=1.0
    )
    monkeypatch.setattr(simulation.campaign, "run", lambda *arguments, **options: found)

    result = invoke("--seeds", "2")

    assert result.exit_code == 1
    assert "order filled" in result.stdout
    assert "seed 7 failed: a tail was lost" in result.stdout
    assert "tickerml dev simulate --seed 7 --trace" in result.stdout
