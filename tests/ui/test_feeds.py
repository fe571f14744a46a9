"""What is known of a feed: its state, its counts, and the reasons behind them."""

import pytest

from tickerml.kernel import (
    Anomaly,
    BookCrossed,
    ChannelLost,
    ChannelResumed,
    ChecksumFailed,
    DataAnomaly,
    FeedConnected,
    FeedLost,
    FeedSummarized,
    SequenceGap,
    Severity,
)
from tickerml.ui.feeds import RATE_S, Feed

NS = 1_000_000_000


def summary(**fields):
    counts = {"messages": 100, "skipped": 0, "gaps": 0, "crossed_books": 0, **fields}
    return FeedSummarized(0, "kraken", **counts)


def figure(feed, name, at=100.0):
    return next(text for each, text, _ in feed.figures(at, 4, 4) if each == name)


def tone(feed, name, valid=4):
    return next(tone for each, _, tone in feed.figures(100.0, 4, valid) if each == name)


def test_a_feed_that_has_said_nothing_is_not_believed_and_claims_no_counts():
    feed = Feed("kraken")

    assert feed.doubt(100.0) == "nothing yet"
    assert {figure(feed, name) for name in ("Silent for", "Gaps", "Skipped", "Checksums ok")} == {"–"}


def test_a_feed_is_believed_while_it_speaks_and_is_not_lost():
    feed = Feed("kraken")
    feed.hear(99.5)
    assert (feed.doubt(100.0), figure(feed, "Silent for")) == ("", "0.5 s")

    assert feed.doubt(107.5) == "silent for 8 s"
    feed.take(FeedLost(36_000 * NS, "kraken", "closed by the server", 100))
    assert feed.doubt(100.0) == "lost"
    feed.take(FeedConnected(36_001 * NS, "kraken", []))
    assert feed.doubt(100.0) == ""
    assert feed.notes() == ["Last lost at 10:00:00 UTC: closed by the server"]


def test_the_rate_is_that_of_the_last_full_seconds():
    feed = Feed("kraken")
    for number in range(1_000):
        feed.hear(90 + number / 100)

    assert feed.rate(100.0) == 100.0
    assert feed.rate(100.0 + RATE_S) == 0.0
    assert len(feed._seconds) <= RATE_S + 1


def test_counts_are_those_of_the_last_summary_and_of_what_came_after_it():
    feed = Feed("kraken")
    feed.take(SequenceGap(0, "kraken", "BTC/USD", 1, 3))
    assert figure(feed, "Gaps") == "1"

    feed.take(summary(gaps=5, checksums_ok=14_496, clock_offset_ns=-1_500_000))
    assert (figure(feed, "Gaps"), figure(feed, "Checksums ok")) == ("5", "14,496")
    assert figure(feed, "Clock offset") == "-1.5 ms"
    assert tone(feed, "Checksums bad") == ""

    feed.take(SequenceGap(0, "kraken", "BTC/USD", 5, 9))
    feed.take(ChecksumFailed(0, "kraken", "BTC/USD", 5, 9))
    feed.take(BookCrossed(0, "kraken", "BTC/USD", 5, 9, 8))
    assert [figure(feed, name) for name in ("Gaps", "Checksums bad", "Crossed")] == ["6", "1", "1"]
    assert (tone(feed, "Gaps"), tone(feed, "Checksums bad")) == ("odd", "bad")


def test_a_channel_that_died_alone_is_named_until_it_is_back():
    feed = Feed("kraken")
    assert (figure(feed, "Channels lost"), tone(feed, "Channels lost")) == ("0", "")

    feed.take(ChannelLost(36_120 * NS, "kraken", "BTC/USD", "trade", 120_000, "no trade"))
    assert feed.lost_channels() == ["trade of BTC/USD since 10:00:00 UTC"]
    assert feed.notes()[1] == "Lost alone: trade of BTC/USD since 10:00:00 UTC"
    assert (figure(feed, "Channels lost"), tone(feed, "Channels lost")) == ("1", "bad")

    feed.take(ChannelResumed(36_130 * NS, "kraken", "BTC/USD", "trade", 130_000))
    assert (feed.lost_channels(), figure(feed, "Channels lost")) == ([], "0")


def test_what_is_skipped_and_doubted_is_told_with_its_reasons():
    feed = Feed("kraken")
    feed.take(summary(skipped=3, reasons={"unsupported stream": 2, "malformed frame": 1}))
    for count, symbol in ((4, "BTC/USD"), (6, "BTC/USD"), (1, "")):
        anomaly = DataAnomaly(0, "kraken", symbol, Anomaly.STALE, Severity.INFO, 1.0, 1.0, "", count)
        feed.take(anomaly)

    assert (figure(feed, "Skipped"), figure(feed, "Doubted")) == ("3", "7")
    assert feed.notes() == [
        "Not lost in what the console has seen",
        "Skipped: 1 malformed frame, 2 unsupported stream",
        "Doubted: 1 stale, 6 stale BTC/USD",
    ]


@pytest.mark.parametrize(("valid", "expected"), [(4, ""), (3, "bad")])
def test_books_that_are_not_valid_stand_out(valid, expected):
    assert tone(Feed("kraken"), "Books valid", valid) == expected
