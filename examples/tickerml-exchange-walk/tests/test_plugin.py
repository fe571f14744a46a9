"""How exchange-walk makes its market up, and everything that the kit asks of an exchange."""

from itertools import islice

import pytest
from tickerml.kernel import BookDelta, FeedEnded, Trade
from tickerml.kernel.testing import Harness
from tickerml.testing.contracts import ExchangeContract

import tickerml_exchange_walk


class TestContract(ExchangeContract):
    plugin = "exchange-walk"


def built(seed=0, **options):
    harness = Harness(tickerml_exchange_walk, options={"exchange-walk": options}, seed=seed)
    return harness.bus.component("exchange-walk")


def said(walk, frames=100):
    return [message for _, messages in islice(walk.events(), frames) for message in messages]


def test_a_seed_is_a_market():
    assert said(built(seed=1)) == said(built(seed=1))
    assert said(built(seed=1)) != said(built(seed=2))


def test_ends_after_as_many_frames_as_it_is_told():
    *_, last = said(built(frames=10))

    assert isinstance(last, FeedEnded)
    assert last.messages == 10


def test_prints_as_often_as_it_is_told():
    messages = said(built(trade_share=1.0), 50)

    kinds = [type(message) for message in messages if isinstance(message, Trade | BookDelta)]
    assert kinds.count(Trade) == kinds.count(BookDelta) == 48


def test_goes_on_at_the_time_it_is_told_after_an_outage():
    walk = built()
    walk.skip_to(10**12)

    ts, _ = next(walk.events())

    assert ts == 10**12 + 50_000_000


def test_refuses_what_is_no_symbol():
    with pytest.raises(ValueError, match="expected BASE/QUOTE, was 'BTC'"):
        built(symbols=["BTC"])
