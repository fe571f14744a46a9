"""Sinks in their host: what the world is told after a crash, in a shadow, in a backtest and late in a run."""

import importlib

import pytest

from tickerml.kernel import AlertSent, FeedConnected, FeedLost, Severity, Sync, codec, control, topics
from tickerml.kernel.backtest import build
from tickerml.kernel.consumer import Consumer, Phase
from tickerml.kernel.hookspecs import Options
from tickerml.kernel.plans import KernelSettings, Plan
from tickerml.kernel.sequencer import Sequencer
from tickerml.kernel.testing import spec_of

from .wires import PLUGINS, ListJournal, ListWires, planned, welcome

SINK = "listening-sink"
START = 1_000


@pytest.fixture
def sent(monkeypatch):
    """What the world has been told: (ts, key)."""
    monkeypatch.syspath_prepend(PLUGINS)
    module = importlib.import_module("listening_sink")
    module.WORLD.clear()
    return module.WORLD


class Kernel:
    """One order and its journal; its hosts crash and come back."""

    def __init__(self):
        self.sequencer = Sequencer()
        self.market = self.sequencer.admit("market", [FeedLost, FeedConnected])
        self.sink = self.sequencer.admit(SINK, [AlertSent])
        self.journal = ListJournal()
        self.wires = ListWires(self.journal)

    def say(self, message):
        """Order *message* and return the run that brings it."""
        return self._run(self.sequencer.announce(message))

    def _run(self, stamped):
        self.journal.committed.append(stamped)
        at = stamped.index(0) + 1
        return codec.pack_run(stamped[:at], self.sequencer.kind_counts, [stamped[at:]])

    def host(self, outputs=None, *, is_new=False):
        """Return a host that has caught up with everything so far."""
        self.wires.take()
        machine = Consumer("alerts", self.wires, welcome(planned(SINK, "sink", "listening_sink")))
        machine.begin()
        counts = dict(self.sequencer.topic_counts)
        seq = self.sequencer.seq
        away = (0, seq if is_new else 0)
        machine.on_control(
            control.Admitted({SINK: self.sink}, {SINK: 1}, outputs or {}, seq, counts, 1, away)
        )
        machine.on_bus(self.say(Sync(START, "alerts")))
        machine.advance()
        assert machine.phase is Phase.RUNNING
        return machine


def lost(ts):
    return FeedLost(ts, "test", "cut", 0)


def told(wires):
    """Return the AlertSent that were pushed, by the time of their input."""
    frames = [raw for raw in wires.take() if not raw.startswith(b"\0")]
    return [codec.decode(raw[codec.split_output(raw)[1] + codec.NAME.size :]).ts_recv for raw in frames]


def test_each_alert_is_sent_once_and_said_behind_it(sent):
    kernel = Kernel()
    host = kernel.host()

    host.on_bus(kernel.say(lost(START + 1)))
    host.on_bus(kernel.say(FeedConnected(START + 2, "test", [])))
    host.advance()

    assert sent == [(START + 1, "feed/test"), (START + 2, "feed/test")]
    assert told(kernel.wires) == [START + 1, START + 2]


@pytest.mark.parametrize("heard", [0, 1, 2, 3])
def test_after_a_crash_only_those_are_sent_again_that_nobody_heard_of(sent, heard):
    kernel = Kernel()
    host = kernel.host()
    first = kernel.sequencer.seq
    for number in (1, 2, 3):
        host.on_bus(kernel.say(lost(START + number)))
    host.advance()
    sent.clear()

    outputs = {SINK: (first + heard, 0)} if heard else {}
    kernel.host(outputs)

    assert [ts - START for ts, _ in sent] == [1, 2, 3][heard:]
    assert [ts - START for ts in told(kernel.wires)] == [1, 2, 3][heard:]


def test_a_sink_that_is_new_to_an_old_run_does_not_send_its_history(sent):
    kernel = Kernel()
    kernel.say(lost(START))

    host = kernel.host(is_new=True)
    host.on_bus(kernel.say(lost(START + 1)))
    host.advance()

    assert [ts for ts, _ in sent] == [START + 1]
    assert told(kernel.wires) == [START + 1]


def test_one_that_was_there_before_sends_what_it_missed_however_old(sent):
    kernel = Kernel()
    kernel.say(lost(1))
    kernel.say(lost(2))

    kernel.host({SINK: (1, 0)})

    assert [ts for ts, _ in sent] == [2]


def test_a_backtest_sends_nothing(sent):
    plugin = planned(SINK, "sink", "listening_sink")
    plan = Plan(config="", profile="", kernel=KernelSettings(), plugins=[plugin])
    outputs = []

    bus = build(
        plan, [(plugin, spec_of(importlib.import_module("listening_sink")), Options())], outputs.append
    )
    bus.deliver(lost(1), 1)

    assert SINK not in bus.plugins
    assert (sent, outputs) == ([], [])


def test_the_topic_of_what_was_sent_is_kept_for_good():
    assert topics.topic_of(AlertSent(1, SINK, Severity.INFO, "trading")) == b"alert."
