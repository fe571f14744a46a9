"""A subscriber gets what he asked for and nothing whose name merely begins alike."""

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import messages as m
from tickerml.kernel import topics

KIND = st.sampled_from(sorted(topics.KINDS))
NAME = st.text("abc1_-", min_size=1, max_size=4)
ASSET = st.text("ABT1", min_size=1, max_size=4)
SYMBOL = st.builds("{}/{}{}".format, ASSET, ASSET, st.sampled_from(["", "-PERP", "-20210924"]))
SCOPE = st.one_of(
    st.tuples(KIND),
    st.tuples(KIND, NAME),
    st.tuples(KIND, NAME, SYMBOL),
)


def trade(exchange, symbol):
    return m.Trade(1, 1, exchange, symbol, 1, 100, 5, m.Side.BUY)


@given(SCOPE, SCOPE)
def test_a_topic_is_a_prefix_of_another_only_when_that_is_the_same_or_narrower(wide, narrow):
    is_prefix = topics.topic(*narrow).startswith(topics.topic(*wide))

    assert is_prefix == (narrow[: len(wide)] == wide)


@given(KIND, NAME, ASSET, ASSET, ASSET)
def test_a_longer_quote_asset_is_another_market(kind, exchange, base, quote, more):
    short = topics.topic(kind, exchange, f"{base}/{quote}")
    long = topics.topic(kind, exchange, f"{base}/{quote}{more}")

    assert not long.startswith(short)


@given(SCOPE)
def test_a_topic_parses_back_to_what_it_was_made_of(scope):
    assert topics.parse(topics.topic(*scope)) == (*scope, "", "")[:3]


@pytest.mark.parametrize(
    "text",
    [b"", b"book", b"book.kraken", b"book.kraken.BTC-USD", b"weather.", b".", b"book.a.B-C.d.", b"Book."],
)
def test_refuses_a_topic_with_an_open_segment_or_an_unknown_kind(text):
    with pytest.raises(ValueError, match="every segment closed"):
        topics.parse(text)


def test_a_message_goes_out_on_the_topic_of_its_kind_exchange_and_symbol():
    assert topics.topic_of(trade("kraken", "BTC/USD")) == b"trade.kraken.BTC-USD."
    assert topics.topic_of(m.FeedConnected(1, "kraken", ["BTC/USD"])) == b"feed.kraken."
    assert topics.topic_of(m.TimeTick(1)) == b"time."


def test_every_message_type_belongs_to_exactly_one_kind():
    listed = [cls for classes in topics.KINDS.values() for cls in classes]

    assert sorted(cls.__name__ for cls in listed) == sorted(cls.__name__ for cls in m.message_types())


def test_the_kinds_that_a_run_is_judged_by_are_kept_for_good():
    assert topics.DECISION_KINDS <= topics.KEPT_KINDS <= set(topics.KINDS)


def test_subscriptions_to_types_of_one_kind_are_one_subscription():
    assert topics.prefixes([m.BookDelta, m.Trade, m.BookSnapshot]) == [b"book.", b"trade."]


def test_over_a_socket_a_subscriber_to_btc_usd_never_receives_btc_usdt():
    sent = [
        ("kraken", "BTC/USDT"),
        ("kraken", "BTC/USD"),
        ("krakenfutures", "BTC/USD"),
        ("kraken", "BTC/USDC"),
    ]
    with (
        zmq.Context() as context,
        context.socket(zmq.PUB) as publisher,
        context.socket(zmq.SUB) as subscriber,
    ):
        publisher.bind("inproc://topics")
        subscriber.connect("inproc://topics")
        subscriber.setsockopt(zmq.RCVTIMEO, 10_000)
        subscriber.subscribe(topics.topic("trade", "kraken", "BTC/USD"))
        subscriber.subscribe(topics.topic("sync"))
        while not subscriber.poll(1):  # until the subscription has arrived
            publisher.send(topics.topic("sync"))

        for exchange, symbol in sent:
            publisher.send(topics.topic_of(trade(exchange, symbol)))
        publisher.send(topics.topic("sync") + b"end")
        received = list(iter(subscriber.recv, b"sync.end"))

    assert [text for text in received if text != b"sync."] == [b"trade.kraken.BTC-USD."]
