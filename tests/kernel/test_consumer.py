"""A consumer takes every message once, in order, wherever it has to get it from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import BookSnapshot, Canary, Side, StoreError, Sync, Trade, codec, control, topics
from tickerml.kernel.consumer import SYNC_RETRY_NS, Consumer, Phase
from tickerml.kernel.journal import Checkpoint
from tickerml.kernel.sequencer import Sequencer
from tickerml.kernel.testing import Market
from tickerml.kernel.units import NS_PER_S

from .wires import ListJournal, ListWires, planned, welcome

FEATURES = "features-core"


class Kernel:
    """The kernel's side: one order, a journal, and the runs that a bus would bring."""

    def __init__(self):
        self.sequencer = Sequencer()
        self.origin = self.sequencer.admit("market", [BookSnapshot, Trade])
        self.journal = ListJournal()
        self.wires = ListWires(self.journal)
        self.market = Market()
        self.count = 0

    def consumer(self, **settings):
        machine = Consumer("trade", self.wires, welcome(planned(FEATURES, "feature_set"), **settings))
        machine.begin()
        counts = dict(self.sequencer.topic_counts)
        own = self.sequencer.admit(FEATURES, [])
        machine.on_control(
            control.Admitted({FEATURES: own}, {FEATURES: 1}, {}, self.sequencer.seq, counts, 1)
        )
        return machine

    def say(self, message):
        """Return the run that brings *message*, which is committed."""
        return self._run(self.sequencer.announce(message))

    def book(self):
        self.count += 1
        return self._push(self.market.book(self.count * NS_PER_S, [(99, self.count)], [(101, 5)]))

    def trade(self):
        self.count += 1
        return self._push(self.market.trade(self.count * NS_PER_S, 100, 1, Side.BUY))

    def _push(self, message):
        frame = codec.pack_output(
            topics.topic_of(message), self.origin, 1, 0, self.count, codec.encode(message)
        )
        return self._run(self.sequencer.accept(frame))

    def _run(self, stamped):
        self.journal.committed.append(stamped)
        at = stamped.index(0) + 1
        return codec.pack_run(stamped[:at], self.sequencer.kind_counts, [stamped[at:]])

    def running(self, **settings):
        """Return a consumer that is ready, with what it said and pushed so far forgotten."""
        machine = self.consumer(**settings)
        machine.on_bus(self.say(Sync(0, "trade")))
        machine.advance()
        assert machine.phase is Phase.RUNNING
        self.wires.said.clear()
        self.wires.take()
        return machine


def bids(machine):
    """Return the quantity at the best bid, which counts the books that were taken."""
    return machine._bus.book("test", "BTC/USDT").bids.quantities.get(99, 0)


def test_it_subscribes_first_and_takes_what_was_before_from_the_journal():
    kernel = Kernel()
    for _ in range(3):
        kernel.book()
    machine = kernel.consumer()
    subscribed = list(kernel.wires.subscribed)

    machine.on_bus(kernel.say(Sync(0, "trade")))
    wanted = machine.wants_bus
    machine.advance()

    assert topics.topic("book") in subscribed
    assert not wanted
    assert bids(machine) == 3
    assert kernel.wires.said[-1] == control.Ready("trade", control.Role.CONSUMER)


def test_a_marker_asked_for_too_early_is_asked_for_again():
    kernel = Kernel()
    machine = kernel.consumer()
    kernel.wires.said.clear()

    machine.advance()
    kernel.wires.now += SYNC_RETRY_NS
    machine.advance()

    assert kernel.wires.said == [control.SyncRequest("trade")]


def test_what_comes_before_the_marker_is_left_to_the_journal():
    kernel = Kernel()
    machine = kernel.consumer()

    machine.on_bus(kernel.book())

    assert bids(machine) == 0
    assert machine.phase is Phase.SYNCING


def test_it_is_not_ready_before_the_journal_has_what_it_missed():
    kernel = Kernel()
    kernel.book()
    held, kernel.journal.committed = kernel.journal.committed, []
    machine = kernel.consumer()
    machine.on_bus(kernel.say(Sync(0, "trade")))

    kernel.journal.committed, committed = [], kernel.journal.committed
    machine.advance()
    early = list(kernel.wires.said)
    kernel.journal.committed = held + committed
    machine.advance()

    assert not any(isinstance(message, control.Ready) for message in early)
    assert isinstance(kernel.wires.said[-1], control.Ready)


def test_what_was_dropped_is_read_from_the_journal_before_what_follows():
    kernel = Kernel()
    machine = kernel.running()
    kernel.book()
    kernel.book()

    machine.on_bus(kernel.book())
    wanted, seen = machine.wants_bus, bids(machine)
    machine.advance()

    assert (wanted, seen) == (False, 0)
    assert bids(machine) == 3
    assert machine.wants_bus


def test_a_drop_on_a_topic_that_went_quiet_is_seen_by_the_next_canary_before_it_is_taken():
    kernel = Kernel()
    machine = kernel.running()
    kernel.book()

    machine.on_bus(kernel.say(Canary(0, 1, "market")))
    seen = list(kernel.wires.pushed)
    machine.advance()

    assert seen == []
    assert bids(machine) == 1


def test_where_the_journal_does_not_continue_it_gives_up():
    kernel = Kernel()
    machine = kernel.running()
    kernel.book()
    lost = kernel.journal.committed.pop()
    machine.on_bus(kernel.book())

    with pytest.raises(StoreError, match="pruned"):
        machine.advance()
    assert lost


@given(st.lists(st.sampled_from(["book", "drop book", "trade", "drop trade"]), max_size=40), st.booleans())
def test_whatever_is_dropped_every_book_is_taken_once_and_in_order(events, is_late):
    kernel = Kernel()
    machine = kernel.running()
    taken = []
    deliver = machine._bus.deliver_encoded
    machine._bus.deliver_encoded = lambda body, cause: (taken.append(cause), deliver(body, cause))
    arrived = []
    for event in events:
        run = kernel.book() if "book" in event else kernel.trade()
        if "drop" not in event:
            arrived.append(run)
    arrived.append(kernel.say(Canary(0, 1, "market")))

    for run in arrived:
        while not machine.wants_bus:
            machine.advance()
        machine.on_bus(run)
        if not is_late:
            machine.advance()
    while not machine.wants_bus:
        machine.advance()

    expected = [
        frame.seq
        for frame in map(codec.unpack, kernel.journal.committed)
        if frame.topic.startswith((b"book.", b"trade."))
    ]
    assert taken == expected


def test_the_canary_is_handed_back_behind_everything_before_it():
    kernel = Kernel()
    machine = kernel.running()
    machine.on_bus(kernel.book())

    machine.on_bus(kernel.say(Canary(0, 12, "market")))
    machine.advance()

    assert kernel.wires.notes(control.CANARY, control.CanaryNote) == [control.CanaryNote("trade", 12)]


def test_a_checkpoint_is_where_it_stands_and_the_next_one_goes_on_from_it():
    kernel = Kernel()
    machine = kernel.running(checkpoint_s=1)
    for _ in range(3):
        machine.on_bus(kernel.book())
    kernel.wires.now += NS_PER_S
    machine.advance()
    (note,) = kernel.wires.notes(control.CHECKPOINT, control.HostCheckpoint)

    kernel.journal.written = [Checkpoint("trade", note.position, note.state)]
    kernel.journal.committed = kernel.journal.committed[note.position :]
    again = kernel.consumer()
    again.on_bus(kernel.say(Sync(0, "trade")))
    again.advance()

    assert note.position == 4
    assert bids(again) == 3
    assert again.phase is Phase.RUNNING


def test_a_stop_is_obeyed_when_everything_that_arrived_was_taken():
    kernel = Kernel()
    machine = kernel.running()
    machine.on_control(control.Stop())

    machine.advance(is_idle=False)
    early = machine.is_over
    machine.on_bus(kernel.book())
    machine.advance(is_idle=True)

    assert (early, machine.is_over) == (False, True)
    assert kernel.wires.notes(control.CHECKPOINT, control.HostCheckpoint)[-1].position == machine.position
    assert kernel.wires.notes(control.PROGRESS, control.Progress)[-1].position == machine.position


def test_a_stop_before_it_is_ready_leaves_nothing():
    kernel = Kernel()
    machine = kernel.consumer()

    machine.on_control(control.Stop())

    assert machine.is_over
    assert kernel.wires.pushed == []
