"""A consumer takes every message once, in order, wherever it has to get it from."""

from collections import deque

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import (
    BookSnapshot,
    Canary,
    Side,
    StoreError,
    Sync,
    Trade,
    codec,
    consumer,
    control,
    topics,
)
from tickerml.kernel import machine as machine_module
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

    def consumer(self, away=(0, 0), **settings):
        machine = Consumer("trade", self.wires, welcome(planned(FEATURES, "feature_set"), **settings))
        machine.begin()
        counts = dict(self.sequencer.topic_counts)
        own = self.sequencer.admit(FEATURES, [])
        machine.on_control(
            control.Admitted({FEATURES: own}, {FEATURES: 1}, {}, self.sequencer.seq, counts, 1, away)
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


def test_what_is_committed_while_the_journal_is_read_is_not_taken_for_pruned(monkeypatch):
    kernel = Kernel()
    machine = kernel.consumer()
    kernel.book()
    machine.on_bus(kernel.say(Sync(0, "trade")))
    journal, late = kernel.journal, list(kernel.journal.committed)
    journal.committed.clear()

    def commit_meanwhile(after, until):
        journal.committed[:] = late
        return []

    with monkeypatch.context() as patch:
        patch.setattr(journal, "frames", commit_meanwhile)
        machine.advance()
    machine.advance()

    assert machine.phase is Phase.RUNNING
    assert bids(machine) == 1


# --- A time without this host ---------------------------------------------------------------------


def joined(kernel, away):
    """Return a consumer that has joined, and the seqs that its components were given."""
    machine = kernel.consumer(away)
    given = []
    deliver = machine._bus.deliver_encoded
    machine._bus.deliver_encoded = lambda body, cause: (given.append(cause), deliver(body, cause))
    machine.on_bus(kernel.say(Sync(0, "trade")))
    machine.advance()
    assert machine.phase is Phase.RUNNING
    return machine, given


def test_who_is_new_to_a_run_gets_the_books_of_the_past_and_no_calls():
    kernel = Kernel()
    for _ in range(3):
        kernel.book()
    kernel.trade()

    machine, given = joined(kernel, away=(0, 4))
    before = list(kernel.wires.pushed)
    machine.on_bus(kernel.book())

    assert given == [5, 6]  # the marker, and what came then
    assert bids(machine) == 5
    assert not [raw for raw in before if not raw.startswith(b"\0")]


def test_who_is_new_to_an_old_run_takes_the_books_of_another_host_and_goes_on_from_there():
    kernel = Kernel()
    another = kernel.running()
    for _ in range(3):
        another.on_bus(kernel.book())
    state = control.HostState(another.position, {}, another._bus.snapshot())
    of_another = Checkpoint("other", another.position, msgspec.msgpack.encode(state))
    of_a_source = Checkpoint("market", 5, msgspec.msgpack.encode(control.HostState(0, {"market": 1}, b"")))
    kernel.journal.others = {"other": [of_another], "market": [of_a_source], "kernel": []}
    kernel.book()
    too_new = Checkpoint("other", 6, msgspec.msgpack.encode(state))
    kernel.journal.others["other"].insert(0, too_new)
    del kernel.journal.committed[:4]  # pruned

    machine, given = joined(kernel, away=(0, 5))

    assert bids(machine) == 4
    assert given == [6]


def test_who_comes_back_goes_on_from_its_own_state_and_is_not_told_what_it_missed():
    kernel = Kernel()
    machine = kernel.running()
    machine.on_bus(kernel.trade())
    left = machine.position
    state = control.HostState(left, {}, machine._bus.snapshot())
    machine.on_bus(kernel.trade())  # its process fell before it was written down
    kernel.journal.written = [Checkpoint("trade", left, msgspec.msgpack.encode(state))]
    kernel.book()
    kernel.trade()

    back, given = joined(kernel, away=(left + 1, left + 3))

    assert given == [left + 1, left + 4]
    assert bids(back) == 3


def test_who_was_never_away_looks_at_no_other_host_s_state(monkeypatch):
    kernel = Kernel()
    kernel.book()
    monkeypatch.setattr(kernel.journal, "hosts", lambda: pytest.fail("it reads what it has no use for"))

    machine, given = joined(kernel, away=(0, 0))

    assert given == [1, 2]
    assert bids(machine) == 1


def test_a_second_process_of_who_was_away_does_not_hear_of_it_either():
    kernel = Kernel()
    kernel.trade()
    machine = Consumer("trade", kernel.wires, welcome(planned(FEATURES, "feature_set")))
    machine.begin()
    machine.on_control(control.StandBy({}, 1, {}, True, (0, 1)))

    assert machine._away == (0, 1)


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


@pytest.mark.parametrize(("size", "waits_s"), [(100, 1), (3 * 2**17, 3), (100 * 2**17, 8)])
def test_the_larger_a_state_the_longer_until_the_next_checkpoint(monkeypatch, size, waits_s):
    kernel = Kernel()
    machine = kernel.running(checkpoint_s=1)
    monkeypatch.setattr(machine._bus, "snapshot", lambda: bytes(size))
    kernel.wires.now += NS_PER_S
    machine.advance()

    for waited_s in range(1, waits_s + 1):
        assert len(checkpoints(kernel)) == 1, waited_s
        kernel.wires.now += NS_PER_S + NS_PER_S // 1000  # a state is a little more than what is in it
        machine.advance()

    assert len(checkpoints(kernel)) == 2


def checkpoints(kernel):
    return kernel.wires.notes(control.CHECKPOINT, control.HostCheckpoint)


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


# --- Changing places ------------------------------------------------------------------------------


def candidate(kernel, wires=None, *, with_shadow=False):
    """Return a second process of the host, which stands by, and its wires."""
    wires = wires or ListWires(kernel.journal)
    machine = Consumer("trade", wires, welcome(planned(FEATURES, "feature_set")))
    machine.begin()
    sequencer = kernel.sequencer
    own = sequencer.names.index(FEATURES)
    machine.on_control(
        control.StandBy({FEATURES: own}, sequencer.seq, dict(sequencer.topic_counts), with_shadow)
    )
    return machine, wires


def admit(kernel, link=2):
    number = kernel.sequencer.admit(FEATURES, [])
    epochs = {FEATURES: kernel.sequencer.epoch(number)}
    return control.Admitted({FEATURES: number}, epochs, {}, kernel.sequencer.seq, {}, link)


def hand_over(kernel, old, new, wires, *, admitted=None):
    """Do what the kernel does between two processes; returns the parts of the state."""
    parts = []
    old.on_control(control.Barrier(1))
    while True:
        sent = kernel.wires.notes(control.STATE, control.StatePart)
        kernel.wires.take()
        for part in sent:
            parts.append(part)
            is_last = part.part + 1 == part.parts
            new.on_control(
                control.TakeOver(
                    part.position,
                    part.part,
                    part.parts,
                    part.data,
                    (admitted or admit(kernel)) if is_last else None,
                    True,
                )
            )
            if is_last:
                return parts
            old.on_control(control.MoreState(1))


def both(run, *machines):
    """Let every machine that listens have the *run*."""
    for machine in machines:
        machine.on_bus(run)
        machine.advance()


def standing_by(kernel, **options):
    old = kernel.running()
    new, wires = candidate(kernel, **options)
    both(kernel.say(Sync(0, "trade")), old, new)
    new.advance()
    assert wires.said[-1] == control.StandingBy("trade")
    return old, new, wires


def test_one_who_stands_by_holds_what_it_hears_and_goes_on_from_any_state_in_it():
    kernel = Kernel()
    old, new, wires = standing_by(kernel)
    both(kernel.book(), old, new)
    held = kernel.book()  # the new one hears it before the barrier, the old one never takes it
    new.on_bus(held)
    before = bids(new)

    hand_over(kernel, old, new, wires)
    after = bids(new)
    both(kernel.book(), new)

    assert before == 0
    assert after == 2
    assert bids(new) == 3
    assert new.position == kernel.sequencer.seq


def test_what_the_new_one_has_not_heard_yet_is_in_the_state_and_is_not_handled_twice():
    kernel = Kernel()
    old, new, wires = standing_by(kernel)
    late = [kernel.book(), kernel.book()]
    for run in late:
        old.on_bus(run)

    hand_over(kernel, old, new, wires)
    position = new.position
    for run in late:
        new.on_bus(run)
        new.advance()
    both(kernel.book(), new)

    assert position == kernel.sequencer.seq - 1
    assert bids(new) == 3


def test_what_is_no_longer_held_is_taken_from_the_journal(monkeypatch):
    monkeypatch.setattr(consumer, "HELD", 4)
    kernel = Kernel()
    old = kernel.running()
    new, wires = candidate(kernel)
    new._held_frames = deque(maxlen=4)
    both(kernel.say(Sync(0, "trade")), old, new)
    new.advance()
    for _ in range(10):
        new.on_bus(kernel.book())

    hand_over(kernel, old, new, wires)
    for _ in range(3):
        new.advance()

    assert bids(new) == 10


def test_the_one_that_stepped_aside_publishes_nothing_and_writes_no_checkpoint():
    kernel = Kernel()
    old, new, wires = standing_by(kernel)
    hand_over(kernel, old, new, wires)
    kernel.wires.take()

    old.on_bus(kernel.book())
    kernel.wires.now += 60 * NS_PER_S
    old.advance()

    assert kernel.wires.pushed == []
    assert bids(old) == 0


def test_when_nobody_takes_over_the_old_one_goes_on_where_it_stopped():
    kernel = Kernel()
    old, new, _ = standing_by(kernel)
    both(kernel.book(), old, new)
    old.on_control(control.Barrier(1))
    old.on_bus(kernel.book())

    old.on_control(control.Resume(1))
    old.advance()
    both(kernel.book(), old)

    assert bids(old) == 3


def test_given_back_its_own_state_it_says_again_only_what_nobody_has_said():
    kernel = Kernel()
    old, new, wires = standing_by(kernel)
    hand_over(kernel, old, new, wires)
    both(kernel.book(), old, new)

    old.on_control(control.TakeOver(0, 0, 0, b"", admit(kernel, link=3), True))
    both(kernel.book(), old)

    assert bids(old) == 2
    assert kernel.wires.said[-1] == control.Took("trade", [])


def test_given_back_the_state_of_the_other_it_forgets_its_own():
    kernel = Kernel()
    old, new, wires = standing_by(kernel)
    hand_over(kernel, old, new, wires)
    wires.take()
    both(kernel.book(), old, new)
    new.on_control(control.Barrier(2))
    (part,) = wires.notes(control.STATE, control.StatePart)

    old.on_control(control.TakeOver(part.position, 0, 1, part.data, admit(kernel, link=3), True))
    old.advance()

    assert bids(old) == 1
    assert old.position == kernel.sequencer.seq


def test_of_a_large_state_a_few_parts_are_under_way_at_once(monkeypatch):
    monkeypatch.setattr(machine_module, "PART_BYTES", 2)
    kernel = Kernel()
    old, _, _ = standing_by(kernel)

    old.on_control(control.Barrier(1))
    sent = len(kernel.wires.notes(control.STATE, control.StatePart))
    old.on_control(control.MoreState(1))

    assert sent == machine_module.PARTS_AHEAD
    assert len(kernel.wires.notes(control.STATE, control.StatePart)) == sent + 1


@pytest.mark.parametrize("part_bytes", [10, 100])
def test_a_large_state_goes_in_parts(monkeypatch, part_bytes):
    monkeypatch.setattr(machine_module, "PART_BYTES", part_bytes)
    kernel = Kernel()
    old, new, wires = standing_by(kernel)
    both(kernel.book(), old, new)

    parts = hand_over(kernel, old, new, wires)

    assert len(parts) > 1
    assert [said.part for said in wires.said if isinstance(said, control.PartTaken)] == list(
        range(len(parts))
    )
    assert bids(new) == 1


def test_a_state_that_cannot_be_taken_is_refused_with_the_reason():
    kernel = Kernel()
    _, new, wires = standing_by(kernel)

    new.on_control(control.TakeOver(5, 0, 1, b"noise", admit(kernel), True))

    assert isinstance(wires.said[-1], control.NotTaken)
    assert new.position < kernel.sequencer.seq + 1


@given(st.lists(st.sampled_from(["book", "swap", "back", "resume"]), max_size=24), st.integers(0, 3))
def test_however_often_places_are_changed_every_message_is_handled_once(steps, lag):
    kernel = Kernel()
    active, other, wires = standing_by(kernel)
    of = {id(active): kernel.wires, id(other): wires}
    waiting, books = [], 0
    for number, step in enumerate(steps, 1):
        if step == "book":
            books += 1
            run = kernel.book()
            active.on_bus(run)
            waiting.append(run)
        while len(waiting) > (lag if step == "book" else 0):
            other.on_bus(waiting.pop(0))
        if step in ("swap", "back"):
            active.on_control(control.Barrier(number))
            (part,) = of[id(active)].notes(control.STATE, control.StatePart)
            of[id(active)].take()
            giver = active if step == "back" else other
            data = b"" if step == "back" else part.data
            giver.on_control(control.TakeOver(part.position, 0, int(bool(data)), data, admit(kernel), True))
            active, other = giver, (other if giver is active else active)
        elif step == "resume":
            active.on_control(control.Barrier(number))
            of[id(active)].take()
            active.on_control(control.Resume(number))
        active.advance()
    for _ in range(3):
        active.advance()

    assert bids(active) == books


# --- As a shadow ----------------------------------------------------------------------------------


def test_a_shadow_handles_everything_in_silence_and_is_new_again_afterwards():
    kernel = Kernel()
    old, new, wires = standing_by(kernel, with_shadow=True)

    new.on_control(control.Shadow())
    new.advance()
    both(kernel.book(), old, new)
    as_shadow, pushed = bids(new), list(wires.pushed)
    new.on_control(control.ShadowOver())

    assert (as_shadow, pushed) == (1, [])
    assert bids(new) == 0
    assert wires.said[-1] == control.StandingBy("trade")
    hand_over(kernel, old, new, wires)
    assert bids(new) == 1


def test_without_a_checkpoint_a_shadow_begins_where_its_host_began():
    kernel = Kernel()
    kernel.book()
    _, new, _ = standing_by(kernel, with_shadow=True)

    new.on_control(control.Shadow())
    new.advance()

    assert bids(new) == 1


def test_a_shadow_that_cannot_take_the_state_says_so_and_follows_nobody():
    kernel = Kernel()
    old, new, wires = standing_by(kernel, with_shadow=True)
    kernel.journal.written = [Checkpoint("trade", 1, b"noise")]

    new.on_control(control.Shadow())
    both(kernel.book(), old, new)

    assert wires.said[-1] == control.NotTaken(
        "trade", "cannot follow the present process: the host: refused the state"
    )
    assert bids(new) == 0
