"""Whether a book is what REST says it is: a reply is always of another moment than ours."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.exchanges.audit import Audit, Audits, Finding
from tickerml.exchanges.watch import Channels, Watch
from tickerml.kernel import (
    NS_PER_S,
    BookDelta,
    BookSnapshot,
    ChecksumFailed,
    OrderBook,
    SequenceGap,
    pack_levels,
)

NAME = ("toy", "BTC/USD")


def snapshot(book: OrderBook) -> BookSnapshot:
    return book.snapshot()


def delta(seq: int, bids: Any = (), asks: Any = ()) -> BookDelta:
    return BookDelta(seq, seq, *NAME, seq, pack_levels(bids), pack_levels(asks))


def book(seq: int) -> OrderBook:
    made = OrderBook(*NAME)
    made.apply_snapshot(
        BookSnapshot(seq, seq, *NAME, seq, pack_levels([(99, 1), (98, 2)]), pack_levels([(101, 1), (102, 2)]))
    )
    return made


LEVEL = st.tuples(st.integers(90, 99), st.integers(0, 3))
MOVES = st.lists(st.lists(LEVEL, min_size=1, max_size=3), max_size=12)


@given(MOVES, st.integers(0, 12), st.integers(0, 12), st.booleans())
def test_an_equal_book_is_found_equal_whenever_the_reply_was_made_and_came(
    moves: list[list[tuple[int, int]]], made_at: int, came_at: int, is_wrong: bool
) -> None:
    ours, theirs = book(100), book(100)
    made_at = min(made_at, len(moves))
    came_at = min(max(came_at, made_at), len(moves))
    audit, reply, verdict = Audit(ours), snapshot(theirs), None
    for number in range(len(moves) + 1):
        if number == made_at:
            reply = snapshot(theirs)
            if is_wrong:
                reply = msgspec.structs.replace(reply, asks=pack_levels([(101, 7)]))
        if number == came_at:
            audit.take(reply)
            verdict = audit.verdict()
        if number < len(moves):
            update = delta(101 + number, bids=moves[number])
            theirs.apply_delta(update)
            ours.apply_delta(update)
            audit.hear(update)

    assert verdict is not is_wrong
    assert audit.verdict() is not is_wrong


def test_a_reply_that_is_ahead_of_our_book_waits_for_it() -> None:
    ours, theirs = book(100), book(100)
    update = delta(102, bids=[(99, 5)])
    theirs.apply_delta(update)
    audit = Audit(ours)
    audit.take(snapshot(theirs))

    assert audit.verdict() is None
    ours.apply_delta(update)
    audit.hear(update)
    assert audit.verdict() is True


def test_nothing_is_said_of_a_book_that_did_not_stay_in_step_or_of_an_old_reply() -> None:
    for doubt in (SequenceGap(1, *NAME, 1, 2), ChecksumFailed(1, *NAME, 1, 2), snapshot(book(105))):
        audit = Audit(book(100))
        audit.hear(doubt)
        audit.take(snapshot(book(100)))
        assert (audit.verdict(), audit.is_void) == (None, True)

    late = Audit(book(100))
    late.take(snapshot(book(99)))
    assert (late.verdict(), late.is_void) == (None, True)


def test_what_is_said_of_another_symbol_is_nothing_to_it() -> None:
    audit = Audit(book(100))
    audit.hear(SequenceGap(1, "toy", "ETH/USD", 1, 2))
    audit.take(snapshot(book(100)))

    assert audit.verdict() is True


def test_each_book_has_its_turn_and_differences_are_counted_in_a_row() -> None:
    audits = Audits(["A", "B"], every_s=10.0, now=0)
    wrong = msgspec.structs.replace(snapshot(book(100)), bids=b"")

    assert audits.turn(4 * NS_PER_S) == ""
    assert audits.turn(5 * NS_PER_S) == "A"
    audits.begin("A", book(100))
    assert audits.turn(20 * NS_PER_S) == ""  # one at a time
    assert audits.find([]) is None
    audits.take(wrong)
    assert audits.find([]) == Finding("A", 1)
    audits.begin("A", book(100))
    audits.take(wrong)
    assert audits.find([]) == Finding("A", 2)
    assert audits.turn(20 * NS_PER_S) == "B"
    audits.begin("A", book(100))
    audits.take(snapshot(book(100)))
    assert audits.find([]) == Finding("A", 0)


def test_an_audit_ends_with_the_connection_and_where_there_is_no_reply() -> None:
    audits = Audits(["A"], every_s=1.0, now=0)
    audits.begin("A", book(100))
    audits.take(None)
    assert not audits.is_open
    audits.begin("A", book(100))
    audits.end()
    assert not audits.is_open
    assert Audits(["A"], every_s=0.0, now=0).turn(10**18) == ""


# --- What is watched at every beat ------------------------------------------------------------------


def test_a_silent_book_is_told_once_until_it_speaks_again() -> None:
    watch = Watch(["A"], stale_s=2.0, now=0)

    assert watch.silence("A", NS_PER_S) == 0
    assert watch.silence("A", 2 * NS_PER_S) == 2 * NS_PER_S
    assert watch.silence("A", 3 * NS_PER_S) == 0
    watch.speak("A", 3 * NS_PER_S)
    assert watch.silence("A", 6 * NS_PER_S) == 3 * NS_PER_S


def missed(channels: Channels, watch: Watch, now_s: float) -> list[tuple[str, str, float]]:
    """Return what is missed at *now_s*, while every book speaks."""
    now = int(now_s * NS_PER_S)
    watch.speak("A", now)
    return [(each.wire, each.channel, each.silent_ns / NS_PER_S) for each in channels.missed(watch, now)]


def spoken(pause_s: float, times: int, after_s: float = 60.0) -> Channels:
    """Return the channels of one book whose trades came *times* times, *pause_s* apart, from 0 s on."""
    channels = Channels(after_s)
    for number in range(times):
        assert not channels.speak("A", "trade", int(number * pause_s * NS_PER_S))
    return channels


def test_trades_that_stop_while_the_book_goes_on_are_missed_once_until_they_come_again() -> None:
    watch, channels = Watch(["A"], stale_s=30.0, now=0), spoken(2.0, 11)  # the last at 20 s

    assert missed(channels, watch, 79.9) == []
    assert missed(channels, watch, 80.0) == [("A", "trade", 60.0)]
    assert missed(channels, watch, 90.0) == []
    assert channels.speak("A", "trade", 95 * NS_PER_S) == 75 * NS_PER_S
    assert channels.speak("A", "trade", 96 * NS_PER_S) == 0


def test_a_channel_is_missed_by_its_own_rhythm() -> None:
    watch, channels = Watch(["A"], stale_s=30.0, now=0), spoken(40.0, 11)  # the last at 400 s

    assert missed(channels, watch, 599.0) == []
    assert missed(channels, watch, 600.0) == [("A", "trade", 200.0)]


def test_a_market_that_has_become_quieter_is_not_missed_over_and_over() -> None:
    watch, channels = Watch(["A"], stale_s=30.0, now=0), spoken(2.0, 11)

    assert missed(channels, watch, 100.0)
    channels.speak("A", "trade", 120 * NS_PER_S)

    assert missed(channels, watch, 120 + 300.0) == []


@pytest.mark.parametrize(("pause_s", "times"), [(2.0, 10), (0.5, 1000)])
def test_what_has_no_rhythm_yet_is_not_missed(pause_s: float, times: int) -> None:
    watch, channels = Watch(["A"], stale_s=30.0, now=0), spoken(pause_s, times)

    assert missed(channels, watch, 10_000.0) == []


def test_nothing_is_missed_where_the_book_is_silent_too_or_the_connection_is_new() -> None:
    watch, channels = Watch(["A"], stale_s=30.0, now=0), spoken(2.0, 11)

    assert channels.missed(watch, 100 * NS_PER_S) == []
    channels.begin(100 * NS_PER_S)
    assert missed(channels, watch, 159.0) == []
    assert missed(channels, watch, 160.0) == [("A", "trade", 60.0)]


def test_a_channel_that_was_lost_when_its_feed_was_started_again_still_comes_back() -> None:
    watch, channels = Watch(["A"], stale_s=30.0, now=0), spoken(2.0, 11)
    assert missed(channels, watch, 90.0)

    again = Channels(60.0, channels.lost())
    again.begin(100 * NS_PER_S)

    assert missed(again, watch, 9_000.0) == []
    assert again.speak("A", "trade", 120 * NS_PER_S) == 100 * NS_PER_S
    assert again.lost() == []


def test_no_channel_is_missed_where_none_shall_be() -> None:
    watch = Watch(["A"], stale_s=30.0, now=0)

    assert missed(spoken(2.0, 100, after_s=0.0), watch, 10_000.0) == []


def test_a_book_that_stays_crossed_is_wrong_and_one_that_uncrosses_is_not() -> None:
    watch, crossed, good = Watch(["A"], stale_s=2.0, now=0), book(1), book(1)
    crossed.apply_delta(delta(2, bids=[(101, 1)]))

    watch.cross("A", 0)
    assert not watch.is_wrong("A", crossed, 4 * NS_PER_S)
    assert watch.is_wrong("A", crossed, 5 * NS_PER_S)
    assert not watch.is_wrong("A", crossed, 6 * NS_PER_S)  # said once a crossing
    watch.cross("A", 6 * NS_PER_S)
    assert not watch.is_wrong("A", good, 20 * NS_PER_S)
