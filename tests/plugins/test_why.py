"""`tickerml why ORDER`: the story of an order as a person and as a program are told it."""

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.kernel.recorded import ODD_PLUGINS, LiveRun, plan, write
from tickerml.kernel import ConfigError
from tickerml.plugins import why


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    sys.path.insert(0, str(ODD_PLUGINS))
    home = tmp_path_factory.mktemp("home")
    write(home / "runs" / "tiny" / "0001", LiveRun(plan()).run())
    sys.path.remove(str(ODD_PLUGINS))
    return home


def run(*words: str | Path) -> str:
    app = typer.Typer()
    why.tickerml_commands(app)
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_person_reads_the_chain_line_by_line(home):
    text = run("strategy-imbalance-1", "--home", home)

    assert text.startswith("strategy-imbalance-1: filled")
    for word in ("market", "features", "wish", "risk-limits allows", "lets through", "fill 1:", "ledger"):
        assert word in text
    assert f"to be there again: tickerml replay --run {home}/runs/tiny/0001 --host trade --to " in text


def test_a_program_gets_one_object(home):
    story = json.loads(run("strategy-imbalance-1", "--home", home, "--json"))

    assert story["order_id"] == "strategy-imbalance-1"
    assert {"seq", "ts", "stage", "who", "text", "cause", "type", "facts"} == set(story["steps"][0])
    assert story["queue"]["replayed"] > 0


def test_the_queue_can_be_left_out(home):
    run_dir = home / "runs" / "tiny" / "0001"

    assert json.loads(run("strategy-imbalance-1", "--run", run_dir, "--no-queue", "--json"))["queue"] == {
        "moves": [],
        "replayed": 0,
        "note": "",
    }


def test_a_long_queue_is_shortened_for_a_person():
    moves = [{"seq": seq, "stage": "queue", "text": str(seq)} for seq in range(50)]
    shown = why._shortened([*moves, {"seq": 60, "stage": "fill", "text": "fill"}])

    assert len(shown) == why.MOVES_SHOWN + 2
    assert [step["text"] for step in shown][10] == "30 more moves, which --json has"
    assert shown[-1]["text"] == "fill"


def test_says_what_is_wrong_with_what_was_named(home, tmp_path):
    with pytest.raises(ConfigError, match="no order 'x-1' among"):
        run("x-1", "--home", home)
    with pytest.raises(ConfigError, match="there is no run in"):
        run("x-1", "--home", tmp_path)
    with pytest.raises(ConfigError, match="there is no journal at"):
        run("x-1", "--run", tmp_path)
