"""Following the order from outside: nothing lost and nothing twice, or only the newest."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import NS_PER_S, StoreError, SubscriptionLost, codec, control
from tickerml.kernel.subscription import Latest, Newest, Reader, Rewound

from .past import Past

TRADES = (b"trade.a.", b"trade.b.", b"trade.c.")  # those that are followed
OTHERS = (b"book.a.", b"book.b.")
PREFIXES = (b"trade.",)
SAID = st.lists(st.sampled_from(TRADES + OTHERS), max_size=40)


def wanted(past: Past, prefixes: tuple[bytes, ...] = PREFIXES) -> list[codec.Frame]:
    """Return what a follower should have in the end."""
    return [codec.unpack(raw) for raw in past.frames_by_seq if raw.startswith(prefixes)]


class Follower:
    """An application: keeps what it was given, and forgets what was unsaid."""

    def __init__(self, past: Past, after: int | None = 0, prefixes: tuple[bytes, ...] = PREFIXES) -> None:
        self.past = past
        self.prefixes = prefixes
        self.reader = Reader(prefixes, lambda: past, after)
        self.kept: list[codec.Frame] = []
        self.rewinds: list[int] = []

    def hear(self, *runs: bytes) -> None:
        """Get *runs* from the bus, those that are followed."""
        for run in runs:
            if run.startswith(self.prefixes):
                self.reader.on_bus(run)

    def be_told(self, head: control.Head | None = None) -> None:
        """Be told how far the order is, in the same socket."""
        self.reader.on_bus(control.pack_head(head or self.past.now))

    def take(self, limit: int = 100) -> None:
        """Take what is next."""
        for event in self.reader.take(limit):
            if isinstance(event, Rewound):
                self.rewinds.append(event.to_seq)
                self.kept = [frame for frame in self.kept if frame.seq <= event.to_seq]
            else:
                self.kept.append(event)

    def finish(self) -> None:
        """Take everything there is, with nothing dropped any more."""
        self.past.committed = len(self.past.frames_by_seq)
        self.be_told()
        for _ in range(1000):
            self.take()
            if self.reader.wants_bus and self.reader.position == self.past.committed:
                return
        raise AssertionError(f"stuck at {self.reader.position} of {self.past.committed}")

    @property
    def is_right(self) -> bool:
        """Whether what is kept is what happened."""
        return self.kept == wanted(self.past, self.prefixes)


def live_for_a_while(follower: Follower, said: list[bytes], data: st.DataObject) -> None:
    """Say and hear, drop, commit, tell and take, as it is drawn."""
    past, reader = follower.past, follower.reader
    for topic in said:
        runs = past.say(topic)
        what = data.draw(st.sets(st.sampled_from(("drop", "commit", "tell", "settle", "take"))))
        if "drop" not in what:
            follower.hear(*runs)
        if "commit" in what:
            past.committed = data.draw(st.integers(past.committed, len(past.frames_by_seq)))
        if "tell" in what:
            follower.be_told()
        if "settle" in what:
            reader.settle(past.committed)
        if "take" in what:
            follower.take(data.draw(st.integers(1, 5)))
        assert reader.settled <= min(reader.position, past.committed)


# --- Nothing lost, nothing twice ------------------------------------------------------------------


@settings(max_examples=150)
@given(said=SAID, data=st.data())
def test_of_whole_kinds_every_message_is_given_once_and_in_order_whatever_is_dropped(said, data):
    follower = Follower(Past())

    live_for_a_while(follower, said, data)
    follower.finish()

    assert follower.is_right
    assert follower.rewinds == []


@settings(max_examples=150)
@given(said=SAID, data=st.data())
def test_of_some_topics_every_message_is_there_in_the_end_whatever_is_dropped(said, data):
    follower = Follower(Past(), prefixes=TRADES[:2])

    live_for_a_while(follower, said, data)
    follower.finish()

    assert follower.is_right


@settings(max_examples=150)
@given(prefixes=st.sampled_from((PREFIXES, TRADES[:2])), said=SAID, after=SAID, data=st.data())
def test_what_a_dead_kernel_did_not_write_down_is_unsaid_and_the_next_ones_order_is_followed(
    prefixes, said, after, data
):
    past = Past()
    follower = Follower(past, prefixes=prefixes)
    follower.be_told()
    live_for_a_while(follower, said, data)

    past.crash(data.draw(st.integers(past.committed, len(said))))
    if data.draw(st.booleans(), label="is noticed before the next one starts"):
        follower.reader.ended()
        while follower.reader.position < past.committed:
            follower.take()
        follower.take()
        assert follower.is_right
    past.say(*data.draw(SAID, label="not heard"))
    follower.reader.reconnected()
    follower.be_told()
    live_for_a_while(follower, after, data)
    follower.finish()

    assert follower.is_right


@settings(max_examples=100)
@given(said=SAID, data=st.data())
def test_a_settled_place_is_taken_up_again_by_another_reader(said, data):
    past = Past()
    first = Follower(past)
    first.be_told()
    live_for_a_while(first, said, data)
    place = first.reader.settled
    past.crash(data.draw(st.integers(past.committed, len(said))))
    past.say(*data.draw(SAID, label="not heard"))

    second = Follower(past, place)
    second.finish()

    assert [frame for frame in first.kept if frame.seq <= place] + second.kept == wanted(past)


def test_one_who_comes_late_gets_everything_after_its_place_and_then_goes_on():
    past = Past()
    past.say(*TRADES, *OTHERS, *TRADES)
    past.committed = 8
    follower = Follower(past, after=2)

    follower.be_told()
    follower.take()
    follower.hear(*past.say(*TRADES))
    follower.take()

    assert [frame.seq for frame in follower.kept] == [3, 6, 7, 8, 9, 10, 11]
    assert follower.reader.gaps == 0


def test_without_a_place_it_begins_with_what_comes_after_it_was_told_how_far_the_order_is():
    past = Past()
    follower = Follower(past, after=None)
    follower.hear(*past.say(*TRADES))
    assert not follower.reader.is_joined

    follower.be_told()
    follower.hear(*past.say(*TRADES))
    follower.take()

    assert follower.reader.is_joined
    assert [frame.seq for frame in follower.kept] == [4, 5, 6]


def test_what_is_missing_is_awaited_until_the_journal_has_it_and_the_rest_stays_in_the_socket():
    past = Past()
    follower = Follower(past)
    follower.be_told()
    past.say(b"trade.a.")
    follower.hear(*past.say(b"trade.a."))

    follower.take()
    assert follower.kept == []
    assert not follower.reader.wants_bus

    past.committed = 1
    follower.take()
    assert [frame.seq for frame in follower.kept] == [1, 2]
    assert follower.reader.wants_bus
    assert follower.rewinds == []


def test_a_drop_on_a_topic_that_has_gone_quiet_is_found_when_the_kernel_tells_how_far_it_is():
    past = Past()
    follower = Follower(past)
    follower.be_told()
    past.say(b"trade.a.")
    past.committed = 1

    follower.be_told()
    follower.take()

    assert [frame.seq for frame in follower.kept] == [1]


def test_a_drop_that_is_found_after_others_were_given_goes_back_to_where_nothing_was_missing():
    past = Past()
    follower = Follower(past, prefixes=TRADES[:2])
    follower.hear(*past.say(b"trade.a."))
    past.committed = 1
    follower.be_told()
    past.say(b"trade.a.")  # is dropped
    follower.hear(*past.say(b"trade.b."))
    follower.take()
    past.committed = 3

    follower.be_told()
    follower.take()

    assert follower.rewinds == [1]
    assert [frame.seq for frame in follower.kept] == [1, 2, 3]


def test_a_drop_that_a_later_message_of_its_topic_shows_too_late_goes_back_as_well():
    past = Past()
    follower = Follower(past, prefixes=TRADES[:2])
    follower.be_told()
    past.say(b"trade.a.")  # is dropped
    follower.hear(*past.say(b"trade.b.", b"trade.a."))
    past.committed = 3
    follower.take()

    assert follower.rewinds == [0]
    assert [frame.seq for frame in follower.kept] == [1, 2, 3]


def test_a_long_past_is_given_in_portions():
    past = Past()
    past.say(*[b"trade.a."] * 50)
    past.committed = 50
    reader = Reader(PREFIXES, lambda: past, 0)
    reader.on_bus(control.pack_head(past.now))

    portions = [len(reader.take(20)) for _ in range(4)]

    assert portions == [20, 20, 10, 0]


def test_who_wants_everything_is_not_disturbed_by_what_has_no_place_in_the_order():
    past = Past()
    follower = Follower(past, prefixes=(b"",))
    follower.be_told()

    follower.hear(*past.say(b"trade.a."), b"~status.\0{}", *past.say(b"book.a."))
    follower.finish()

    assert follower.is_right
    assert len(follower.kept) == 2


def test_what_is_no_message_of_the_bus_is_refused():
    follower = Follower(Past())
    follower.be_told()

    with pytest.raises(control.BusError):
        follower.reader.on_bus(b"trade.a.\0what")
    with pytest.raises(control.BusError):
        follower.reader.on_bus(control.HEAD + b"\0what")


# --- Lost -----------------------------------------------------------------------------------------


def test_a_place_whose_next_message_has_been_pruned_is_lost_and_the_reader_can_go_on_at_the_head():
    past = Past()
    past.say(*TRADES, *TRADES)
    past.committed, past.oldest = 6, 4
    follower = Follower(past, after=1)
    follower.be_told()

    with pytest.raises(
        SubscriptionLost, match=r"with seq 4 after 1: part of it was pruned; jump to the head"
    ):
        follower.take()

    follower.reader.on_beat(past.now, 0)
    follower.reader.jump_to_head()
    follower.hear(*past.say(b"trade.a."))
    follower.take()
    assert [frame.seq for frame in follower.kept] == [7]


def test_jumping_to_the_head_leaves_out_what_still_waits_in_the_socket():
    past = Past()
    follower = Follower(past)
    follower.be_told()
    waiting = past.say(*TRADES)
    follower.reader.on_beat(past.now, 0)

    follower.reader.jump_to_head()
    follower.hear(*waiting, *past.say(b"trade.b."))
    follower.take()

    assert [frame.seq for frame in follower.kept] == [4]
    assert follower.reader.position == 4


def test_a_jump_before_the_subscription_is_proven_waits_for_the_proof():
    past = Past()
    past.say(*TRADES)
    follower = Follower(past)
    follower.reader.on_beat(past.now, 0)

    follower.reader.jump_to_head()
    assert not follower.reader.is_joined
    past.say(b"trade.a.")
    follower.be_told()
    follower.take()

    assert follower.kept == []
    assert follower.reader.position == 4


def test_a_place_beyond_the_end_of_the_order_is_refused():
    follower = Follower(Past(), after=5)

    with pytest.raises(SubscriptionLost, match=r"after seq 5, but the order ends at 0.* settled place"):
        follower.be_told()


def test_a_journal_that_was_cut_below_what_was_settled_is_noticed():
    past = Past()
    follower = Follower(past)
    follower.be_told()
    follower.hear(*past.say(*TRADES))
    follower.be_told()
    follower.take()
    past.committed = 3
    follower.reader.settle(3)

    past.crash(2)
    past.say(b"trade.c.")
    past.committed = 3
    follower.reader.reconnected()

    with pytest.raises(SubscriptionLost, match=r"no longer holds seq 3 as it was taken.*; begin again"):
        follower.be_told()


def test_a_journal_that_cannot_be_read_is_not_taken_for_a_late_discovery():
    past = Past()
    past.say(*TRADES)
    past.committed = 3

    def torn(after: int, until: int) -> Iterator[bytes]:
        raise StoreError("torn")
        yield

    past.frames = torn  # type: ignore[method-assign]
    follower = Follower(past)
    follower.be_told()

    with pytest.raises(StoreError, match="torn"):
        follower.take()
    assert follower.rewinds == []


# --- How late -------------------------------------------------------------------------------------


def test_lag_is_the_time_since_the_first_message_not_taken_was_told_of():
    past = Past()
    follower = Follower(past)
    follower.be_told()
    runs = past.say(b"trade.a.")
    follower.reader.on_beat(past.now, 10 * NS_PER_S)
    later = past.say(b"trade.a.")
    follower.reader.on_beat(past.now, 11 * NS_PER_S)

    assert follower.reader.lag_ns(12 * NS_PER_S) == 2 * NS_PER_S
    follower.hear(*runs)
    assert follower.reader.lag_ns(12 * NS_PER_S) == NS_PER_S
    follower.hear(*later)
    assert follower.reader.lag_ns(12 * NS_PER_S) == 0


def test_of_what_was_told_while_the_reader_slept_only_the_last_is_new():
    past = Past()
    follower = Follower(past)
    follower.be_told()

    for _ in range(5):  # all read at once when it wakes up
        past.say(b"trade.a.")
        follower.reader.on_beat(past.now, 60 * NS_PER_S)

    assert follower.reader.lag_ns(60 * NS_PER_S) == 4 * NS_PER_S


# --- Only the newest ------------------------------------------------------------------------------


class Shown(NamedTuple):
    """What a Newest gave, without the bodies."""

    topic: bytes
    seq: int
    skipped: int


def shown(latest: list[Latest]) -> list[Shown]:
    return [Shown(item.frame.topic, item.frame.seq, item.skipped) for item in latest]


@pytest.fixture
def past():
    return Past()


@pytest.fixture
def newest(past):
    newest = Newest(PREFIXES, lambda: past)
    newest.on_bus(control.pack_head(past.now))
    return newest


def test_of_each_topic_the_newest_is_given_and_how_many_were_left_out(past, newest):
    for run in past.say(b"trade.a.", b"trade.b.", b"trade.a.", b"trade.a."):
        newest.on_bus(run)

    assert shown(newest.take()) == [Shown(b"trade.b.", 2, 0), Shown(b"trade.a.", 4, 2)]
    assert newest.take() == []

    newest.on_bus(past.say(b"trade.a.")[0])
    assert shown(newest.take()) == [Shown(b"trade.a.", 5, 0)]


def test_what_the_bus_dropped_counts_as_left_out(past, newest):
    *_, last = past.say(b"trade.a.", b"trade.a.", b"trade.a.")
    newest.on_bus(last)

    assert shown(newest.take()) == [Shown(b"trade.a.", 3, 2)]


def test_the_newest_of_a_topic_that_was_dropped_and_has_gone_quiet_comes_from_the_journal(past, newest):
    past.say(b"trade.a.", b"book.a.", b"trade.a.")
    newest.on_bus(control.pack_head(past.now))

    assert newest.take() == []  # it is not committed yet
    past.committed = 3
    assert shown(newest.take()) == [Shown(b"trade.a.", 3, 1)]
    assert newest.take() == []


def test_the_newest_is_never_older_than_what_was_given_before(past, newest):
    runs = past.say(b"trade.a.", b"trade.a.")
    newest.on_bus(runs[1])
    newest.take()

    newest.on_bus(runs[0])
    past.committed = 2
    newest.on_bus(control.pack_head(past.heads[0]))

    assert newest.take() == []


def test_after_another_kernel_took_over_counting_begins_again(past, newest):
    for run in past.say(b"trade.a.", b"trade.a."):
        newest.on_bus(run)
    newest.take()

    past.crash(0)
    newest.reconnected()
    newest.on_bus(control.pack_head(past.now))
    newest.on_bus(past.say(b"trade.a.")[0])

    assert shown(newest.take()) == [Shown(b"trade.a.", 1, 0)]


@settings(max_examples=100)
@given(said=SAID, data=st.data())
def test_whatever_is_dropped_the_last_that_is_shown_of_each_topic_is_its_newest(said, data):
    past = Past()
    newest = Newest(PREFIXES, lambda: past)
    newest.on_bus(control.pack_head(past.now))
    given: list[Latest] = []

    for topic in said:
        (run,) = past.say(topic)
        what = data.draw(st.sets(st.sampled_from(("drop", "commit", "tell", "take"))))
        if "drop" not in what and run.startswith(PREFIXES):
            newest.on_bus(run)
        if "commit" in what:
            past.committed = len(past.frames_by_seq)
        if "tell" in what:
            newest.on_bus(control.pack_head(past.now))
        if "take" in what:
            given += newest.take()
    past.committed = len(said)
    newest.on_bus(control.pack_head(past.now))
    given += newest.take()

    for topic in TRADES:
        mine = [item for item in given if item.frame.topic == topic]
        assert [item.frame.seq for item in mine] == sorted({item.frame.seq for item in mine})
        assert sum(item.skipped + 1 for item in mine) == past.counts.get(topic, 0)
