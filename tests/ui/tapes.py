"""Tapes for the pages to show: what the recorder writes of two exchanges over some days."""

from pathlib import Path

from tickerml.kernel import NS_PER_S, FeedConnected, FeedLost, Side
from tickerml.kernel.testing import Harness, Market
from tickerml.plugins import recorder

DAY = 86_400 * NS_PER_S
FIRST = 1_717_200_000 * NS_PER_S // DAY * DAY  # 2024-06-01


def record(run_dir: Path, days: int = 20) -> None:
    """Write the tape of a run: books of two exchanges every five minutes; one is lost for a time."""
    (run_dir / "recorder").mkdir(parents=True)
    options = {"recorder": {"block_rows": 100, "map_mb": 64}}
    bus = Harness(recorder, options=options, data_dir=run_dir, started_ns=FIRST)
    one, two = Market("one"), Market("two")
    for number in range(days * 288):
        ts = FIRST + number * 300 * NS_PER_S
        day = number // 288
        if number == 5 * 288 + 100:
            bus.send(FeedLost(ts, "two", "closed by the server", 100))
        if number == 5 * 288 + 130:
            bus.send(FeedConnected(ts, "two", ["BTC/USDT"]))
        bus.send(one.book(ts, [(100 + number % 7, 5)], [(110 + number % 5, 5)]))
        if day not in (8, 9) and not 5 * 288 + 100 <= number < 5 * 288 + 130:
            bus.send(two.book(ts, [(100 + number % 5, 5)], [(110 + number % 7, 5)]))
        if number % 288 < 60:
            bus.send(one.trade(ts, 100 + number % 7, 1 + number % 3, Side.BUY))
