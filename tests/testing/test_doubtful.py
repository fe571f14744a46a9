"""A market over a feed that is not to be relied on."""

import pytest

from tickerml.kernel import BookSnapshot, BookStale, FeedEnded, FeedLost, SequenceGap, codec
from tickerml.kernel.localbus import LocalBus
from tickerml.kernel.testing import spec_of
from tickerml.testing import doubtful

TROUBLES = (FeedLost, SequenceGap, BookStale)
OPTIONS = doubtful.DoubtfulOptions(
    market={
        "venues": ["aurora"],
        "symbols": ["BTC/USDT"],
        "first_venue_symbols": [],
        "rate": 20.0,
        "duration_s": 12.0,
    },
    every=7,
    lasts=3,
)


def build():
    bus = LocalBus(lambda plugin, n, cause, message: None, started_ns=1_767_225_600_000_000_000, seed=1)
    return bus.add(spec_of(doubtful), OPTIONS)


def play(market):
    return [(ts, [codec.encode(message) for message in messages]) for ts, messages in market.events()]


@pytest.fixture(scope="module")
def whole():
    return play(build())


def test_it_has_every_kind_of_trouble_and_is_made_whole_by_a_book_after_each(whole):
    messages = [codec.decode(body) for _, bodies in whole for body in bodies]
    troubles = [at for at, message in enumerate(messages) if isinstance(message, TROUBLES)]

    assert {type(messages[at]) for at in troubles} == set(TROUBLES)
    assert all(any(isinstance(each, BookSnapshot) for each in messages[at:]) for at in troubles[:-1])


def test_nothing_comes_after_its_end(whole):
    assert isinstance(codec.decode(whole[-1][1][-1]), FeedEnded)


@pytest.mark.parametrize("cut", [1, 8, 9, 30, 60])
def test_a_restored_market_goes_on_where_the_other_stopped(whole, cut):
    first = build()
    events = first.events()
    for _ in range(cut):
        next(events)
    second = build()

    second.restore(first.snapshot())

    assert play(second) == whole[cut:]
