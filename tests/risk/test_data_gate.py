"""The data gate: doubtful data trades nothing, and nothing stays resting on it."""

import pytest

from tickerml.kernel import (
    BookCrossed,
    BookStale,
    CancelOrder,
    FeedSummarized,
    OrderCanceled,
    OrderExpired,
    OrderRejected,
    SequenceGap,
    Side,
    TimeTick,
)
from tickerml.kernel.testing import Market
from tickerml.risk import data_gate as plugin

from .trading import S, filled, judge, order, rule, submitted, touch


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


def test_a_clock_of_which_nothing_was_said_is_not_off():
    assert judge(rule(plugin), order(7)).inputs["offset_ms"] == 0.0


def test_a_message_that_was_too_long_on_its_way_denies():
    kept = rule(plugin)
    kept.send(Market("test", "BTC/USDT", latency_ns=5 * S + 1).book(1, bids=[(100, 9)], asks=[(101, 9)]))

    assert reason(kept, ts=6 * S) == "its last message was 5.0 s on its way"

    kept = rule(plugin)
    kept.send(Market("test", "BTC/USDT", latency_ns=5 * S).book(1, bids=[(100, 9)], asks=[(101, 9)]))
    assert reason(kept, ts=6 * S) == ""


def test_what_rests_in_a_doubtful_book_is_canceled_once_after_five_seconds():
    kept = rule(plugin)
    kept.send(submitted(order(order_id="a")), submitted(order(order_id="b", symbol="ETH/USDT")))
    kept.send(SequenceGap(1 * S, "test", "BTC/USDT", 1, 3))

    kept.send(TimeTick(6 * S))
    assert kept.of(CancelOrder) == []
    kept.send(TimeTick(7 * S), TimeTick(9 * S))

    assert kept.of(CancelOrder) == [CancelOrder(6 * S, "a", "test", "BTC/USDT", "the data is doubtful")]


@pytest.mark.parametrize(
    "end",
    [
        OrderRejected(2, 2, "a", "test", "BTC/USDT", "no"),
        OrderCanceled(2, 2, "a", "test", "BTC/USDT", 1, ""),
        OrderExpired(2, 2, "a", "test", "BTC/USDT", 1, "ioc"),
        filled(100, 100, order_id="a"),
    ],
    ids=lambda end: type(end).__name__,
)
def test_an_order_that_has_ended_is_not_canceled(end):
    kept = rule(plugin)
    kept.send(submitted(order(order_id="a")), end, SequenceGap(1 * S, "test", "BTC/USDT", 1, 3))

    kept.send(TimeTick(2 * S), TimeTick(9 * S))

    assert kept.of(CancelOrder) == []


def test_a_part_of_an_order_that_still_rests_is_canceled():
    kept = rule(plugin)
    kept.send(submitted(order(order_id="a")), filled(99, 100, leaves=1, order_id="a"))
    kept.send(SequenceGap(1 * S, "test", "BTC/USDT", 1, 3), TimeTick(2 * S), TimeTick(9 * S))

    assert [each.order_id for each in kept.of(CancelOrder)] == ["a"]


def test_a_book_that_was_well_in_between_is_doubted_anew():
    kept = rule(plugin)
    kept.send(submitted(order(order_id="a")), SequenceGap(1 * S, "test", "BTC/USDT", 1, 3), TimeTick(2 * S))
    kept.send(touch(ts=3 * S), TimeTick(3 * S), SequenceGap(4 * S, "test", "BTC/USDT", 1, 3), TimeTick(5 * S))

    kept.send(TimeTick(8 * S))
    assert kept.of(CancelOrder) == []
    kept.send(TimeTick(10 * S))
    assert len(kept.of(CancelOrder)) == 1
