"""Why an order came to be: the chain from the market to the ledger, as the journal tells it."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.recorded import ODD_PLUGINS, LiveRun, Recorded, plan, write
from tickerml.kernel import NS_PER_S, ConfigError, StoreError, codec, config, why
from tickerml.kernel import messages as m
from tickerml.kernel.clock import DATA_CLOCK_START_NS
from tickerml.kernel.replay import Verification
from tickerml.kernel.why import Story, tell

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _tiny_source_can_be_imported():
    sys.path.insert(0, str(ODD_PLUGINS))
    yield
    sys.path.remove(str(ODD_PLUGINS))


@pytest.fixture(scope="module")
def recorded(_tiny_source_can_be_imported) -> Recorded:
    return LiveRun(plan()).run()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, recorded) -> Path:
    return write(tmp_path_factory.mktemp("run"), recorded)


def messages(recorded: Recorded) -> list[m.Message]:
    return [codec.decode(codec.unpack(raw).body) for raw in recorded.frames]


def filled(recorded: Recorded) -> str:
    """Return the id of an order that waited for its fill."""
    makers = (each for each in messages(recorded) if isinstance(each, m.OrderFilled) and each.queue_ahead > 0)
    return next(makers).order_id


def replayed(run_dir: Path, until: int) -> tuple[dict[str, Any], dict[str, Any]]:
    with contextlib.closing(Verification(run_dir)) as verification:
        for _ in verification.run(until):
            pass
        return verification.report(), verification.standing()


def stages(story: Story) -> list[str]:
    return list(dict.fromkeys(step["stage"] for step in story.steps))


def test_follows_an_order_from_the_market_to_the_ledger(run_dir, recorded):
    story = tell(run_dir, filled(recorded))

    assert stages(story)[:5] == ["market", "features", "wish", "verdict", "gate"]
    assert {"exchange", "fill", "ledger"} <= {*stages(story)}
    assert [step["seq"] for step in story.steps] == sorted(step["seq"] for step in story.steps)
    assert "filled" in story.outcome
    assert story.notes == []


def test_names_the_rules_their_numbers_and_what_each_feature_was(run_dir, recorded):
    steps = tell(run_dir, filled(recorded)).steps
    (features,) = (step for step in steps if step["stage"] == "features")
    verdicts = [step for step in steps if step["stage"] == "verdict"]

    assert "book_imbalance_5" in features["facts"]
    assert {step["who"] for step in verdicts} == {"risk-limits", "risk-drawdown"}
    assert all(step["facts"]["inputs"] for step in verdicts)


def test_the_queue_goes_from_where_it_was_accepted_to_what_the_fill_needed(tmp_path):
    demo = config.plan(config.load(REPOSITORY / "plugins.toml"), "demo", [])
    busy = LiveRun(demo).run(DATA_CLOCK_START_NS + 25 * NS_PER_S)
    run = write(tmp_path, busy)
    accepted = [each for each in messages(busy) if isinstance(each, m.OrderAccepted)]
    told = [(each, tell(run, each.order_id)) for each in accepted]
    moved = [(each, story) for each, story in told if story.queue.moves]

    assert [story.notes for _, story in told] == [[]] * len(told)
    assert len(moved) >= 3
    for each, story in moved:
        moves = story.queue.moves
        assert moves[0].before == each.queue_ahead
        assert [move.after for move in moves[:-1]] == [move.before for move in moves[1:]]
        shown = [step["seq"] for step in story.steps if step["stage"] == "queue"]
        assert shown == [move.seq for move in moves]
    _, standing = replayed(run, moved[0][1].queue.moves[0].seq)
    ahead = {each["order_id"]: each["queue_ahead"] for each in standing["open_orders"]}
    assert ahead[moved[0][0].order_id] == moved[0][1].queue.moves[0].after


def test_the_queue_is_only_replayed_when_it_is_asked_for(run_dir, recorded):
    assert tell(run_dir, filled(recorded), with_queue=False).queue.replayed == 0


def test_every_order_of_the_run_can_be_told_and_replayed_as_it_was(run_dir, recorded):
    ids = {each.order_id for each in messages(recorded) if isinstance(each, m.SubmitOrder)}

    assert len(ids) > 3
    for order_id in sorted(ids):
        assert tell(run_dir, order_id).notes == []


def test_the_command_it_names_comes_to_that_instant(run_dir, recorded):
    story = tell(run_dir, filled(recorded))
    seq = int(story.replay.rpartition(" ")[2])
    report, standing = replayed(run_dir, seq)

    assert seq == next(step["cause"] for step in story.steps if step["stage"] == "wish")
    assert report["verified"]
    assert standing["seq"] == seq
    assert standing["books"][0]["best_bid"] < standing["books"][0]["best_ask"]


def test_an_order_may_be_open_still(tmp_path, recorded):
    accepted = next(each for each in messages(recorded) if isinstance(each, m.OrderAccepted))
    at = messages(recorded).index(accepted)
    run = write(tmp_path, recorded, recorded.frames[: at + 1])

    story = tell(run, accepted.order_id)

    assert story.outcome == "open"
    assert story.notes == []


def test_another_simulator_than_the_one_that_ran_is_not_believed(tmp_path, recorded):
    other = plan("sim-fifo.queue_model=uniform", "sim-fifo.latency_ms={tiny=[1, 1]}")
    story = tell(write(tmp_path, recorded._replace(plan=other)), filled(recorded))

    assert story.queue.moves == []
    assert "its simulator was changed since" in story.notes[0]


def test_an_unknown_order_is_answered_with_the_nearest(run_dir):
    with pytest.raises(ConfigError, match=r"among the \d+ of .* nearest are strategy-imbalance-\d"):
        tell(run_dir, "strategy-imbalance-00")


def test_a_run_without_orders_says_so(tmp_path, recorded):
    with pytest.raises(ConfigError, match="has had none yet"):
        tell(write(tmp_path, recorded, recorded.frames[:5]), "any")
    with pytest.raises(StoreError, match="no journal"):
        tell(tmp_path / "nowhere", "any")


def test_what_the_journal_no_longer_has_is_said_and_the_rest_is_told(tmp_path, recorded, monkeypatch):
    monkeypatch.setattr(why.JournalReader, "first", lambda self: len(recorded.frames))
    story = tell(write(tmp_path, recorded), filled(recorded))

    assert [note.partition(":")[0] for note in story.notes] == ["market", "queue", "replay"]
    assert stages(story)[:3] == ["wish", "verdict", "gate"]
    assert story.replay == ""
