"""The contract: eleven kinds, one hook and one sentence each, and what a source is asked for."""

import inspect
import subprocess
import sys

import pytest

from tickerml.kernel import (
    API_VERSION,
    ExchangeSpec,
    NewsSourceSpec,
    TrainerSpec,
    hookspecs,
    topics,
)
from tickerml.kernel import messages as m
from tickerml.kernel.gate import GateSpec
from tickerml.kernel.hookspecs import HOOKS, SHAPES, TickerMLSpecs, events_of, is_live, summary_of

OBSERVERS = {"tickerml_component_state", "tickerml_diagnostics"}


def test_there_are_eleven_kinds():
    assert len(SHAPES) == 11


def test_every_kind_but_the_command_has_a_spec_and_every_hook_is_of_a_kind_or_observes():
    hooks = {name for name in vars(TickerMLSpecs) if name.startswith("tickerml_")}

    assert hooks == set(HOOKS) | {"tickerml_commands"} | OBSERVERS
    assert {spec.KIND for spec in HOOKS.values()} == set(SHAPES) - {"command"}


def test_each_hook_is_said_in_one_sentence():
    for name in vars(TickerMLSpecs):
        if name.startswith("tickerml_"):
            said = inspect.getdoc(getattr(TickerMLSpecs, name))
            assert "\n" not in said, name
            assert said.endswith("."), name


def test_the_hooks_fit_on_one_screen():
    assert len(inspect.getsource(TickerMLSpecs).splitlines()) <= 70


@pytest.mark.parametrize("spec", HOOKS.values(), ids=lambda spec: spec.KIND)
def test_every_kind_has_a_shape_and_a_stage(spec):
    assert SHAPES[spec.KIND] == spec.SHAPE
    assert spec.SHAPE in ("source", "consumer", "page")
    assert spec.STAGE >= 0
    assert (spec.SHAPE == "source") is (spec.STAGE == 0)


def test_no_two_kinds_may_publish_the_same_but_for_health_of_feeds_fees_and_what_takes_risk_away():
    owners = {}
    for spec in (*HOOKS.values(), GateSpec):
        for cls in spec.MAY_PUBLISH:
            owners.setdefault(cls, []).append(spec.KIND)
    shared = {cls for cls, kinds in owners.items() if len(kinds) > 1}

    assert shared == {
        m.FeedConnected,
        m.FeedLost,
        m.FeedSummarized,
        m.FeedEnded,
        m.SubmitOrder,
        m.CancelOrder,
        m.TransferEnded,  # a denied one ends too
        m.Instrument,  # the simulator's says what it charges
    }


def test_the_version_of_the_api_is_a_major_and_a_minor_number_and_how_it_grows_is_written_down():
    assert API_VERSION == "1.0"
    assert "major" in hookspecs.__doc__
    assert "minor" in hookspecs.__doc__


def test_the_hall_loads_neither_a_command_line_nor_a_database():
    code = "import sys, tickerml.kernel; print(*({'typer', 'lmdb', 'zmq', 'tomlkit'} & set(sys.modules)))"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == ""


# --- Sources --------------------------------------------------------------------------------------


class Source:
    def events(self):
        yield 5, ["event"]

    def summarize(self):
        return ["summary"]


class Trainer:
    def fit(self, dataset):
        yield [f"step over {dataset}"]


def test_a_source_is_asked_for_events_and_a_trainer_for_steps_that_are_due_at_once():
    exchange, trainer = ExchangeSpec(id="it", factory=Source), TrainerSpec(id="it", factory=Trainer)

    assert list(events_of(exchange, Source(), None)) == [(5, ["event"])]
    assert list(events_of(trainer, Trainer(), "the past")) == [(0, ["step over the past"])]
    assert summary_of(exchange, Source()) == ["summary"]
    assert summary_of(trainer, Trainer()) == ()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ExchangeSpec(id="it", factory=Source), False),
        (ExchangeSpec(id="it", factory=Source, is_live=True), True),
        (NewsSourceSpec(id="it", factory=Source), True),
        (TrainerSpec(id="it", factory=Trainer), False),
    ],
    ids=["exchange", "live exchange", "news", "trainer"],
)
def test_news_and_live_exchanges_push(spec, expected):
    assert is_live(spec) is expected


def test_what_a_swap_says_is_kept_for_good():
    kinds = {topics.KIND_OF[cls] for cls in (m.SwapStarted, m.SwapEnded, m.ModelTrained, m.AlertSent)}
    assert kinds <= topics.KEPT_KINDS
