"""The system breaker: feeds that fail, orders that are rejected, plugins and hosts that die."""

import pytest

from tickerml.kernel import (
    FeedSummarized,
    HaltLevel,
    HaltTrading,
    HostStopped,
    OrderAccepted,
    OrderRejected,
    PluginFailed,
    ResumeTrading,
    Side,
)
from tickerml.risk import breaker_system as plugin

from .trading import MIN, S, judge, order, rule


def summary(messages, skipped, ts=5):
    return FeedSummarized(ts, "test", messages, skipped, 0, 0)


def answers(accepted, rejected):
    yes = OrderAccepted(5, 5, "o", "test", "BTC/USDT", 0, 0)
    return [yes] * accepted + [OrderRejected(5, 5, "o", "test", "BTC/USDT", "no")] * rejected


@pytest.mark.parametrize(("skipped", "allowed"), [(10, 7), (11, 0)])
def test_more_than_a_tenth_of_frames_that_fail_leave_the_exchange_alone_for_a_minute(skipped, allowed):
    kept = rule(plugin)
    kept.send(summary(1000, 0), summary(1100, skipped))

    assert judge(kept, order(7, ts=6)).quantity == allowed
    assert judge(kept, order(7, ts=6, exchange="away")).quantity == 7
    assert judge(kept, order(7, Side.SELL, ts=6, reduce_only=True)).quantity == 7
    assert judge(kept, order(7, ts=4 + MIN)).quantity == allowed
    assert judge(kept, order(7, ts=5 + MIN)).quantity == 7


def test_a_feed_that_began_anew_counts_from_zero():
    kept = rule(plugin)
    kept.send(summary(1000, 100), summary(50, 20))

    assert (
        judge(kept, order(7, ts=6)).reason == "test is left alone for 60 s: 20 of 50 frames could not be used"
    )


@pytest.mark.parametrize(("accepted", "rejected", "allowed"), [(18, 2, 7), (17, 3, 0), (0, 9, 7), (0, 10, 0)])
def test_more_than_a_tenth_of_orders_that_are_rejected_do_too(accepted, rejected, allowed):
    kept = rule(plugin)
    kept.send(*answers(accepted, rejected))

    verdict = judge(kept, order(7, ts=6))

    assert verdict.quantity == allowed
    if allowed:
        expected = {"rejected": rejected, "answered": accepted + rejected, "failures": 0}
        assert verdict.inputs == expected


def test_a_failure_five_minutes_ago_counts_no_more():
    kept = rule(plugin)
    kept.send(*(HostStopped(ts, "market", "killed", 500) for ts in (1 * S, 2 * S, 5 * MIN + 1 * S)))

    assert kept.of(HaltTrading) == []


def test_the_third_failure_within_five_minutes_halts_at_level_one():
    kept = rule(plugin)
    failed = [PluginFailed(ts, "x", "strategy", "Trade", "no") for ts in (1 * S, 2 * S, 6 * MIN + 3 * S)]
    died = HostStopped(6 * MIN + 4 * S, "market", "killed", 500)
    kept.send(*failed, HostStopped(6 * MIN + 3 * S, "record", "stopped", -1), died)
    assert kept.of(HaltTrading) == []

    kept.send(HostStopped(6 * MIN + 5 * S, "market", "killed", 500))
    (halt,) = kept.of(HaltTrading)
    assert (halt.level, halt.reason) == (HaltLevel.NO_NEW, "3 plugins or hosts failed within 5 min")
    assert judge(kept, order(7, ts=7 * MIN)).quantity == 0

    kept.send(ResumeTrading(8 * MIN, "person", ""))
    assert judge(kept, order(7, ts=9 * MIN)).quantity == 7

    kept.send(HostStopped(9 * MIN, "market", "killed", 500))
    assert kept.of(HaltTrading) == [halt]
