"""The second connection goes on exactly where the first one stopped, by the exchange's own numbers."""

from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import FeedConnected, FeedLost, NewsItem, Side, overlap
from tickerml.kernel.book import OrderBook
from tickerml.kernel.overlap import Marks, Overlap
from tickerml.kernel.testing import Market, instrument

FEED = "exchange-x"
SYMBOL = "BTC/USDT"


def stream(count, symbol=SYMBOL):
    """Return what an exchange says after it is connected: a whole book, then changes and trades."""
    market = Market(symbol=symbol)
    yield market.book(1, [(99, 1)], [(101, 1)])
    for number in range(count):
        if number % 3 == 2:
            yield market.trade(number, 100, 1, Side.BUY)
        else:
            yield market.delta(number, [(99, number + 2)])


def connected(*symbols):
    return [instrument(), FeedConnected(0, "test", list(symbols or (SYMBOL,)))]


def said(found):
    return [message for _, message in found]


def numbers(messages):
    return [(type(message).__name__, message.seq) for message in messages]


def test_what_the_first_connection_published_is_left_out_and_nothing_else():
    whole = list(stream(10))
    marks = Marks()
    marks.note([*connected(), *whole[:6]])
    second = Overlap()
    second.hear(FEED, [*connected(), *whole])

    released = said(second.release(marks))

    assert numbers(released) == numbers(whole[6:])


@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 30))
def test_whenever_the_second_connects_and_the_first_stops_the_book_comes_out_the_same(joins, stops, held):
    old_held, overlap.HELD = overlap.HELD, held
    try:
        whole = list(stream(20))
        marks, second, expected = Marks(), Overlap(), OrderBook("test", SYMBOL)
        marks.note(whole[:stops])
        # A connection begins with the whole book as it is when it is made.
        before = OrderBook("test", SYMBOL)
        for message in whole[: joins + 1]:
            _apply(before, message)
        later = [before.snapshot(), *whole[joins + 1 :]]
        second.hear(FEED, [*connected(), *later])
        books = OrderBook("test", SYMBOL)
        for message in whole[:stops]:
            _apply(books, message)

        for message in said(second.release(marks)):
            _apply(books, message)

        for message in whole:
            _apply(expected, message)
        assert books.snapshot() == expected.snapshot()
    finally:
        overlap.HELD = old_held


def _apply(book, message):
    match type(message).__name__:
        case "BookSnapshot":
            book.apply_snapshot(message)
        case "BookDelta":
            book.apply_delta(message)


def test_a_connection_that_came_too_late_begins_with_its_own_book():
    whole = list(stream(4))
    marks = Marks()
    marks.note(whole[:2])
    late = Market()
    late._seq = 50
    second = Overlap()
    second.hear(FEED, [*connected(), late.book(9, [(90, 1)], [(110, 1)])])

    released = said(second.release(marks))

    assert numbers(released) == [("BookSnapshot", 51)]


def test_a_symbol_that_is_new_is_introduced():
    marks = Marks()
    marks.note(stream(2))
    second = Overlap()
    news = [FeedConnected(0, "test", [SYMBOL, "ETH/USDT"]), instrument(symbol="ETH/USDT")]
    second.hear(FEED, [*news, *stream(1), *stream(1, "ETH/USDT")])

    kinds = [type(message).__name__ for message in said(second.release(marks))]

    assert kinds == ["FeedConnected", "Instrument", "BookSnapshot", "BookDelta"]


def test_it_says_what_it_still_waits_for():
    second = Overlap()
    second.hear(FEED, connected(SYMBOL, "ETH/USDT"))
    waits = second.wants
    second.hear(FEED, [*stream(1), *stream(1, "ETH/USDT")])
    is_whole = second.wants == ""
    second.hear(FEED, [FeedLost(0, "test", "reset by peer", 100)])

    assert waits == "no book yet of test BTC/USDT, test ETH/USDT"
    assert is_whole
    assert second.wants == "test is not connected: reset by peer"


def test_a_news_item_comes_once():
    items = [NewsItem(0, 0, "wire", str(number), "t", "u", "x") for number in range(4)]
    marks = Marks()
    marks.note(items[:3])
    second = Overlap()
    second.hear("news-x", items[1:])

    assert [message.id for message in said(second.release(marks))] == ["3"]
