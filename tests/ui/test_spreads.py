"""Prices side by side: what an edge is, and which are not to be believed."""

import pytest

from tickerml.kernel import BookStale, FeedConnected, FeedLost, SequenceGap
from tickerml.kernel.testing import Market, instrument
from tickerml.ui.spreads import tables
from tickerml.ui.state import ConsoleState

AT = 100.0


def state_of(**quotes):
    """Return a console that has just heard each exchange's best bid and ask, in ticks of 0.01."""
    state = ConsoleState()
    for exchange, (bid, ask) in quotes.items():
        state.apply(instrument(exchange), AT)
        state.apply(Market(exchange).book(0, [(bid, 5)] if bid else [], [(ask, 5)] if ask else []), AT)
    return state


def matrix(state, at=AT):
    (table,) = tables(state, at)
    return {row["exchange"]: [cell[:2] for cell in row["cells"]] for row in table["rows"]}


def test_an_edge_is_what_a_purchase_here_and_a_sale_there_brings():
    state = state_of(a=(9_999, 10_001), b=(10_021, 10_023))

    assert matrix(state) == {
        "a": [["2.00", "own"], ["+19.98", "up"]],
        "b": [["-23.97", ""], ["2.00", "own"]],
    }


def test_prices_of_different_ticks_are_compared_in_money():
    state = state_of(a=(9_999, 10_001))
    state.apply(instrument("b", tick="0.1"), AT)
    state.apply(Market("b").book(0, [(1_000, 5)], [(1_001, 5)]), AT)

    assert matrix(state)["a"][1] == ["-1.00", ""]


@pytest.mark.parametrize(
    ("doubt", "note"),
    [
        (SequenceGap(1, "b", "BTC/USDT", 5, 7), "waiting for a snapshot"),
        (BookStale(1, "b", "BTC/USDT", 5000), "silent"),
        (FeedLost(1, "b", "closed", 100), "feed lost"),
        (Market("b").delta(1, bids=[(10_050, 1)]), "crossed"),
        (Market("b").delta(1, bids=[(10_021, 0)]), "one side is empty"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_a_book_in_doubt_marks_its_row_and_its_column(doubt, note):
    state = state_of(a=(9_999, 10_001), b=(10_021, 10_023))
    state.apply(doubt, AT)

    (table,) = tables(state, AT)
    assert [row["note"] for row in table["rows"]] == ["", note]
    tones = [[tone for _, tone, _ in row["cells"]] for row in table["rows"]]
    assert tones == [["own", "bad"], ["bad", "bad"]]


def test_an_exchange_that_has_gone_silent_is_not_believed():
    state = state_of(a=(9_999, 10_001), b=(10_021, 10_023))
    state.apply(Market("a").book(0, [(9_999, 5)], [(10_001, 5)]), AT + 10)

    (table,) = tables(state, AT + 10)
    assert [row["note"] for row in table["rows"]] == ["", "feed silent for 10 s"]


def test_a_side_without_a_price_has_no_edge():
    state = state_of(a=(9_999, 10_001), b=(0, 10_023))

    assert matrix(state)["a"][1] == ["–", "bad"]


def test_a_symbol_on_one_exchange_shows_its_spread_alone_and_those_on_more_come_first():
    state = state_of(a=(9_999, 10_001), b=(10_021, 10_023))
    state.apply(instrument("a", "AAA/USD"), AT)
    state.apply(FeedConnected(1, "a", []), AT)

    assert [(table["symbol"], len(table["rows"])) for table in tables(state, AT)] == [
        ("BTC/USDT", 2),
        ("AAA/USD", 1),
    ]
