"""The book agrees with the simplest thing that could be one: a dict a side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import (
    BookDelta,
    BookSide,
    BookSnapshot,
    BookState,
    OrderBook,
    Passport,
    pack_levels,
)

PRICE = st.integers(1, 30)
CHANGES = st.lists(st.tuples(PRICE, st.integers(0, 5)), max_size=12)
UPDATE = st.tuples(st.sampled_from([BookSnapshot, BookDelta, BookDelta, BookDelta]), CHANGES, CHANGES)


class NaiveSide:
    """A dict of price -> quantity, sorted whenever it is asked."""

    def __init__(self, best):
        self._best = best  # max for bids, min for asks
        self.quantities = {}

    def apply(self, changes):
        for price, quantity in changes:
            self.quantities[price] = quantity
        self.quantities = {price: quantity for price, quantity in self.quantities.items() if quantity}

    def top(self, depth):
        return sorted(self.quantities.items(), reverse=self._best is max)[:depth]

    @property
    def best(self):
        return self._best(self.quantities, default=0)


def message(cls, bids=(), asks=(), seq=1):
    return cls(20 + seq, 10 + seq, "test", "BTC/USDT", seq, pack_levels(bids), pack_levels(asks))


def book_of(bids=(), asks=()):
    book = OrderBook("test", "BTC/USDT")
    book.apply_snapshot(message(BookSnapshot, bids, asks))
    return book


def assert_same(side, naive):
    assert side.best == naive.best
    for depth in (0, 1, 3, 100):
        assert side.top(depth) == naive.top(depth)
        assert side.quantity_within(depth) == sum(quantity for _, quantity in naive.top(depth))


@given(st.lists(UPDATE, max_size=20))
def test_after_any_updates_a_book_is_what_a_dict_a_side_would_be(updates):
    book, bids, asks = OrderBook("test", "BTC/USDT"), NaiveSide(max), NaiveSide(min)
    book.apply_snapshot(message(BookSnapshot))
    for seq, (cls, bid_changes, ask_changes) in enumerate(updates, 2):
        if cls is BookSnapshot:
            book.apply_snapshot(message(cls, bid_changes, ask_changes, seq))
            bids, asks = NaiveSide(max), NaiveSide(min)
        else:
            book.apply_delta(message(cls, bid_changes, ask_changes, seq))
        bids.apply(bid_changes)
        asks.apply(ask_changes)

        assert_same(book.bids, bids)
        assert_same(book.asks, asks)
        assert (book.best_bid, book.best_ask) == (bids.best, asks.best)
        assert book.mid2 == (bids.best + asks.best if bids.best and asks.best else 0)
        assert book.is_crossed == bool(bids.best and asks.best and bids.best >= asks.best)
        assert book.is_trusted == bool(bids.best and bids.best < asks.best)
        assert (book.seq, book.ts_event, book.ts_recv) == (seq, 10 + seq, 20 + seq)


@given(CHANGES, CHANGES)
def test_a_book_written_as_a_snapshot_and_read_back_is_the_same_book(bids, asks):
    book = book_of(bids, asks)
    copy = OrderBook("test", "BTC/USDT")

    copy.apply_snapshot(book.snapshot())

    assert copy.snapshot() == book.snapshot()
    assert copy.bids.top(99) == book.bids.top(99)
    assert copy.asks.top(99) == book.asks.top(99)


def test_a_snapshot_runs_from_the_best_level_outwards():
    snapshot = book_of([(8, 1), (9, 2)], [(12, 3), (11, 4)]).snapshot(ts_recv=99)

    assert snapshot.ts_recv == 99
    assert snapshot.bids == pack_levels([(9, 2), (8, 1)])
    assert snapshot.asks == pack_levels([(11, 4), (12, 3)])


def test_an_empty_side_has_no_best_no_mid_and_no_trust():
    book = book_of(bids=[(9, 1)])

    assert (book.best_bid, book.best_ask, book.mid2) == (9, 0, 0)
    assert not book.is_crossed
    assert not book.is_trusted


@pytest.mark.parametrize(("ask", "is_crossed"), [(9, True), (10, True), (11, False)])
def test_a_book_is_crossed_when_its_bid_meets_or_passes_its_ask(ask, is_crossed):
    book = book_of([(10, 1)], [(ask, 1)])

    assert book.is_crossed is is_crossed
    assert book.is_trusted is not is_crossed


# --- States ---------------------------------------------------------------------------------------


def test_a_new_book_waits_for_a_snapshot_and_ignores_changes_until_then():
    book = OrderBook("test", "BTC/USDT")

    book.apply_delta(message(BookDelta, [(9, 1)], [(11, 1)]))

    assert book.state is BookState.RESYNCING
    assert (book.best_bid, book.seq) == (0, 0)


@given(st.sampled_from(BookState), CHANGES, CHANGES)
def test_a_snapshot_makes_a_book_valid_whatever_it_was(state, bids, asks):
    book = book_of([(99, 1)], [(100, 1)])
    book.state = state

    book.apply_snapshot(message(BookSnapshot, bids, asks))

    assert book.state is BookState.VALID
    assert book.snapshot() == book_of(bids, asks).snapshot()


def test_a_stale_book_that_speaks_again_is_valid():
    book = book_of([(9, 1)], [(11, 1)])
    book.state = BookState.STALE
    assert not book.is_trusted

    book.apply_delta(message(BookDelta, [(9, 2)]))

    assert book.state is BookState.VALID
    assert book.bids.top(1) == [(9, 2)]
    assert book.is_trusted


def test_a_book_that_missed_an_update_keeps_its_levels_but_takes_no_changes():
    book = book_of([(9, 1)], [(11, 1)])
    book.state = BookState.RESYNCING

    book.apply_delta(message(BookDelta, [(10, 5)]))

    assert not book.is_trusted
    assert book.best_bid == 9


def test_a_cleared_side_is_empty():
    side = BookSide(+1)
    side.apply(pack_levels([(5, 1), (6, 2)]))

    side.clear()

    assert (side.best, side.top(5), side.quantity_within(5)) == (0, [], 0)


# --- Its passport -----------------------------------------------------------------------------------


def test_the_passport_of_a_book_nobody_has_heard_of_says_so():
    book = OrderBook("test", "BTC/USDT")

    assert book.passport(100) == Passport(BookState.RESYNCING, age_ns=-1, gap_ns=-1, latency_ns=0)


def test_a_passport_says_how_old_the_book_is_and_how_long_ago_it_missed_something():
    book = book_of([(99, 1)], [(101, 1)])  # at 21, from 11

    book.distrust(25)
    assert book.passport(30) == Passport(BookState.RESYNCING, age_ns=9, gap_ns=5, latency_ns=10)

    book.apply_snapshot(message(BookSnapshot, [(99, 1)], [(101, 1)], seq=12))  # at 32, from 22
    assert book.passport(40) == Passport(BookState.VALID, age_ns=8, gap_ns=15, latency_ns=10)


def test_a_book_is_heard_of_once_anything_was_said_of_it_its_gap_too():
    unheard, gone, known = (OrderBook("test", "BTC/USDT") for _ in range(3))
    gone.distrust(5)
    known.apply_snapshot(BookSnapshot(1, 1, "test", "BTC/USDT", 1, b"", b""))

    assert [book.is_heard_of for book in (unheard, gone, known)] == [False, True, True]
