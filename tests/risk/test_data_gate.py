"""The data gate: doubtful data trades nothing, and nothing stays resting on it."""

import pytest

from tickerml.kernel import (
    BookCrossed,
    BookStale,
    CancelOrder,
    FeedSummarized,
    SequenceGap,
    Side,
    TimeTick,
)
from tickerml.kernel.testing import Market
from tickerml.risk import data_gate as plugin

from .trading import S, judge, order, rule, submitted, touch


def reason(kept, **fields):
    return judge(kept, order(7, **fields)).reason


@pytest.mark.parametrize(
    "event", [SequenceGap(5, "test", "BTC/USDT", 1, 3), BookStale(5, "test", "BTC/USDT", 900)]
)
def test_a_gap_or_silence_denies_also_what_reduces(event):
    kept = rule(plugin)
    assert reason(kept) == ""

    kept.send(event)

    assert judge(kept, order(7, side=Side.SELL, reduce_only=True, ts=6)).quantity == 0


def test_a_book_is_old_only_while_others_go_on():
    kept = rule(plugin)
    assert reason(kept, ts=4 * S) == ""  # everything is silent

    kept.send(touch(exchange="away", ts=4 * S))

    assert reason(kept, ts=4 * S, order_id="b") == "the book is 4.0 s old while others go on"
    assert reason(kept, ts=4 * S, order_id="c", exchange="away") == ""


def test_a_book_that_was_crossed_is_left_alone_for_a_second():
    kept = rule(plugin)
    kept.send(BookCrossed(1 * S, "test", "BTC/USDT", 1, 101, 101), touch(ts=1 * S))

    assert reason(kept, ts=2 * S - 1).endswith("was crossed within 1000 ms")
    assert reason(kept, ts=2 * S, order_id="b") == ""


@pytest.mark.parametrize(("offset_ms", "denied"), [(500, False), (501, True), (-501, True)])
def test_the_clock_of_the_exchange_may_be_half_a_second_off(offset_ms, denied):
    kept = rule(plugin)
    kept.send(FeedSummarized(2, "test", 1, 0, 0, 0, clock_offset_ns=offset_ms * 1_000_000))

    assert bool(reason(kept)) is denied


def test_a_message_that_was_too_long_on_its_way_denies():
    kept = rule(plugin)
    kept.send(Market("test", "BTC/USDT", latency_ns=5 * S + 1).book(1, bids=[(100, 9)], asks=[(101, 9)]))

    assert reason(kept, ts=6 * S) == "its last message was 5.0 s on its way"


def test_what_rests_in_a_doubtful_book_is_canceled_once_after_five_seconds():
    kept = rule(plugin)
    kept.send(submitted(order(order_id="a")), submitted(order(order_id="b", symbol="ETH/USDT")))
    kept.send(SequenceGap(1 * S, "test", "BTC/USDT", 1, 3))

    kept.send(TimeTick(6 * S))
    assert kept.of(CancelOrder) == []
    kept.send(TimeTick(7 * S), TimeTick(9 * S))

    assert kept.of(CancelOrder) == [CancelOrder(6 * S, "a", "test", "BTC/USDT", "the data is doubtful")]
