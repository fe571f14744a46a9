"""
The matching core against hftbacktest, compiled and interpreted, in one run, and what an event costs live.

    python benchmarks/matching.py [--events 1000000] [--interpreted 100000] [--live 2000] [--rounds 5]

Needs numba, and hftbacktest 2.4.4 for the comparison; without one of them its lines are left out.
One generated symbol, nine level changes to each print, 200 levels a side, with 0 and 20 of our orders
deep in the book, which nothing fills; event by event, and with the depth of each 100 ms in one message
(100 rows). hftbacktest, which has a copy of the book for the strategy as well, runs to the end without
waking one, in its default book, a hash map, and its fastest (ROI). With features: the nine columns of
features_core, every 100 ms, which for hftbacktest are a compiled strategy over its book and its prints that
wakes only then; all rows of both are compared. Each round runs all in turn; CPU time, medians, and ratios of
the medians. What is compiled is compiled before the clock starts; how long that took is printed.
The live path is the engine's messages one at a time, interpreted, by levels in a message.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from tickerml.kernel import UNIT, BookDelta, Instrument, OrderSubmitted, OrderType, Side, TimeInForce, Trade
from tickerml.kernel.testing import Market
from tickerml.plugins import core_compile, core_features, core_play
from tickerml.plugins import core_state as cs
from tickerml.plugins.core_player import pack_market
from tickerml.plugins.features_core import COLUMNS
from tickerml.plugins.matching import MatchingEngine

START = 1_700_000_000_000_000_000
MID, LEVELS = 10_000, 200
WIDTHS = (2, 10, 40, 300)
GRID_MS = 100
FEATURES = ", features"

Columns = np.ndarray[Any, Any]


def market(events: int, is_grouped: bool) -> Columns:
    """Return kinds, sides, prices, lots and times of *events*, 1 ms apart, the first of them the book."""
    draw, rows = Random(1), []
    for distance in range(1, LEVELS + 1):
        rows += [(0, 0, MID - distance, 50, START), (0, 1, MID + distance, 50, START)]
    for i in range(events - len(rows)):
        side, ts = draw.randint(0, 1), START + (i + 1) * 1_000_000
        distance = 1 + min(int(draw.expovariate(0.1)), LEVELS - 1)
        if draw.random() < 0.1:
            rows.append((1, side, MID + (1 if side else -1), draw.randint(1, 9), ts))
        else:
            lots = 0 if distance > 1 and draw.random() < 0.3 else draw.randint(1, 99)
            ts = -(-ts // 100_000_000) * 100_000_000 if is_grouped else ts
            rows.append((0, side, MID + (distance if side else -distance), lots, ts))
    if is_grouped:
        rows.sort(key=lambda row: row[4])
    return np.array(rows, np.int64).T.copy()


def ours(
    columns: Columns, orders: int, is_compiled: bool, rows: Columns | None = None
) -> Callable[[], float]:
    """
    Return what plays *columns* on the core with so many orders, and says how many seconds it took.

    Args:
        rows: where features go, if they are wanted.  # (T, len(COLUMNS))
    """
    packed: list[Any] = [*pack_market(columns[0] == 1, *columns[1:])]
    sent = [(START, i, i % 2, deep(i), 10**6, 0, 0) for i in range(orders)]
    packed.append(np.array(sent, np.int64).ravel())
    cursor = np.zeros(core_play.CURSOR, np.int64)
    cursor[core_play.MESSAGE_END] = len(packed[0]) // core_play.MESSAGE - 1
    cursor[core_play.COMMAND_END] = orders
    cursor[core_play.TOLD_END], cursor[core_play.LEVEL_ROOM] = orders, 4 * LEVELS
    if not is_compiled:
        packed = [column.tolist() for column in packed]
    play = core_compile.compiled() if is_compiled else core_play.play

    def run() -> float:
        core = cs.new_core(0, 1, cs.CANCEL_NEWEST, cs.DEFAULT)
        core.head[cs.STATE] = cs.VALID
        state: Any = core_compile.pack(core, 4 * LEVELS, 64)
        at, told = cursor.copy(), np.zeros(core_play.TOLD * 10_000, np.int64)
        sampler = np.array(core_features.new_sampler(0 if rows is None else GRID_MS, tick_size=UNIT))
        sampler[core_features.ROW_ROOM] = room = 0 if rows is None else len(rows)
        values = np.zeros(0) if rows is None else rows.ravel()
        given: list[Any] = [state, at, *packed, told, sampler, np.zeros(room, np.int64), values]
        if not is_compiled:
            given = [core_compile.unpack(state), at.tolist(), *packed, *(made.tolist() for made in given[5:])]
        begun = time.process_time()
        why = play(*given)
        taken = time.process_time() - begun
        assert why == core_play.DONE
        assert given[1][core_play.TOLD_COUNT] == orders, "an order was filled"
        return taken

    return run


def deep(number: int) -> int:
    """Return the price of our order *number*."""
    return MID + (150 + number if number % 2 else -150 - number)


def peer(columns: Columns, orders: int, is_roi: bool, rows: Columns | None = None) -> Callable[[], float]:
    """Return what ours() does, on hftbacktest."""
    from hftbacktest import (
        BUY_EVENT,
        DEPTH_EVENT,
        EXCH_EVENT,
        LOCAL_EVENT,
        SELL_EVENT,
        TRADE_EVENT,
        BacktestAsset,
        HashMapMarketDepthBacktest,
        ROIVectorMarketDepthBacktest,
    )
    from hftbacktest.types import event_dtype
    from numba import njit

    data = np.zeros(columns.shape[1], event_dtype)
    is_print = columns[0] == 1
    is_buy = (columns[1] == 0) != is_print
    kind = np.where(is_print, TRADE_EVENT, DEPTH_EVENT) | EXCH_EVENT | LOCAL_EVENT
    data["ev"] = kind | np.where(is_buy, BUY_EVENT, SELL_EVENT)
    data["exch_ts"] = data["local_ts"] = columns[4]
    data["px"], data["qty"] = columns[2], columns[3]

    @njit  # type: ignore[untyped-decorator]
    def send(bt: Any, orders: int) -> None:
        bt.elapse(1)
        for i in range(orders):
            if i % 2:
                bt.submit_sell_order(0, i + 1, MID + 150 + i, 10.0**6, 0, 0, False)
            else:
                bt.submit_buy_order(0, i + 1, MID - 150 - i, 10.0**6, 0, 0, False)

    @njit  # type: ignore[untyped-decorator]
    def watch(bt: Any, orders: int, rows: Any) -> int:
        send(bt, orders)
        bought, sold, sums = np.zeros(600), np.zeros(600), np.zeros((2, 3))
        count = 0
        while count < len(rows):
            row, new, depth = rows[count], count % 600, bt.depth(0)
            buy = sell = 0.0
            for trade in bt.last_trades(0):
                if trade.ev & BUY_EVENT == BUY_EVENT:
                    buy += trade.qty
                else:
                    sell += trade.qty
            bt.clear_last_trades(0)
            for i, window in enumerate((10, 100, 600)):
                old = (count - window) % 600
                sums[0, i] += buy - bought[old]
                sums[1, i] += sell - sold[old]
                total = sums[0, i] + sums[1, i]
                row[6 + i] = (sums[0, i] - sums[1, i]) / total if total else 0.0
                if count < window:
                    row[6 + i] = np.nan
            bought[new], sold[new] = buy, sell
            bid, ask = depth.best_bid_tick, depth.best_ask_tick
            bids = asks = 0.0
            at_bid, at_ask, first = bid, ask, 0
            for i, end in enumerate((1, 5, 10)):
                for _ in range(first, end):
                    while depth.bid_qty_at_tick(at_bid) == 0.0 and at_bid > MID - 2 * LEVELS:
                        at_bid -= 1
                    while depth.ask_qty_at_tick(at_ask) == 0.0 and at_ask < MID + 2 * LEVELS:
                        at_ask += 1
                    bids += depth.bid_qty_at_tick(at_bid)
                    asks += depth.ask_qty_at_tick(at_ask)
                    at_bid -= 1
                    at_ask += 1
                row[i], first = (bids - asks) / (bids + asks), end
            row[4] = 20_000 * (ask - bid) / (bid + ask)
            row[3], row[5] = 0.5 * row[0] * row[4], 0.5 * (bid + ask) * depth.tick_size
            count += 1
            if bt.elapse(GRID_MS * 1_000_000) != 0:
                break
        return count

    @njit  # type: ignore[untyped-decorator]
    def play(bt: Any, orders: int) -> None:
        send(bt, orders)
        bt.elapse(10**18)

    def run() -> float:
        asset = BacktestAsset().data(data).linear_asset(1.0).constant_order_latency(0, 0)
        asset = asset.risk_adverse_queue_model().partial_fill_exchange().trading_value_fee_model(0.0, 0.0)
        asset = asset.tick_size(1.0).lot_size(1.0)
        if is_roi:
            asset = asset.roi_lb(MID - 2.0 * LEVELS).roi_ub(MID + 2.0 * LEVELS)
        if rows is not None:
            asset = asset.last_trades_capacity(10_000)
        bt = (ROIVectorMarketDepthBacktest if is_roi else HashMapMarketDepthBacktest)([asset])
        begun = time.process_time()
        play(bt, orders) if rows is None else watch(bt, orders, rows)
        return time.process_time() - begun

    return run


def live(messages: int, width: int, orders: int) -> Callable[[], float]:
    """Return what gives the engine *messages* of *width* levels, and says how many seconds it took."""
    draw, source = Random(2), Market()
    given: list[BookDelta | Trade] = []
    book = [[(MID + sign * i, 50) for i in range(1, 1001)] for sign in (-1, 1)]
    first = source.book(START, *book)
    for i in range(messages):
        at = START + (i + 1) * 1_000_000
        if draw.random() < 0.1:
            side = draw.choice((Side.BUY, Side.SELL))
            given.append(source.trade(at, MID + side, draw.randint(1, 9), side))
            continue
        levels = [
            sorted({1 + min(int(draw.expovariate(0.01)), 998) for _ in range(width // 2)}) for _ in "ba"
        ]
        size = [
            [(d, 0 if d > 1 and draw.random() < 0.2 else draw.randint(9, 99)) for d in one] for one in levels
        ]
        bids, asks = (
            [(MID + sign * d, lots) for d, lots in one] for sign, one in zip((-1, 1), size, strict=True)
        )
        given.append(source.delta(at, bids, asks))

    def run() -> float:
        engine = MatchingEngine("test", "BTC/USDT")
        engine.instrument = Instrument(0, "test", "BTC/USDT", "BTC", "USDT", 10**10, 10**6)
        engine.on_book_snapshot(first, START)
        for i in range(orders):
            side = Side.SELL if i % 2 else Side.BUY
            terms = (side, OrderType.LIMIT, TimeInForce.GTC, deep(i), 10**6, 0)
            engine.submit(OrderSubmitted(START, str(i), "s", "p", "test", "BTC/USDT", *terms), START)
        begun = time.process_time()
        for message in given:
            if isinstance(message, BookDelta):
                engine.on_book_delta(message, message.ts_event)
            else:
                engine.on_trade(message, message.ts_event)
        return time.process_time() - begun

    return run


def contest(
    given: argparse.Namespace, is_grouped: bool, orders: int
) -> dict[str, tuple[int, Callable[[], float]]]:
    """Return who plays how many events of one kind of market."""
    columns, few = market(given.events, is_grouped), market(given.interpreted, is_grouped)
    features = [rows_of(few), rows_of(columns), rows_of(columns), rows_of(columns)]
    runs = {"interpreted": (given.interpreted, ours(few, orders, False))}
    runs["interpreted" + FEATURES] = (given.interpreted, ours(few, orders, False, features[0]))
    if core_compile.is_available():
        runs["compiled"] = (given.events, ours(columns, orders, True))
        runs["compiled" + FEATURES] = (given.events, ours(columns, orders, True, features[1]))
        begun = time.process_time()
        runs["compiled" + FEATURES][1]()
        if (taken := time.process_time() - begun) > 1:
            print(f"compiled first, or fetched from the disk, in {taken:.1f} s of CPU")
    try:
        for name, is_roi in (("hftbacktest", False), ("hftbacktest ROI", True)):
            runs[name] = (given.events, peer(columns, orders, is_roi))
            rows = features[2 + is_roi]
            runs[name + FEATURES] = (given.events, peer(columns, orders, is_roi, rows))
            runs[name][1]()
            runs[name + FEATURES][1]()
            if "compiled" in runs:
                np.testing.assert_allclose(features[1][:-1], rows[:-1], rtol=1e-12)
    except ImportError:
        print("hftbacktest is not installed: not compared")
    return runs


def rows_of(columns: Columns) -> Columns:
    """Return room for the features of *columns*, which end before their last event."""
    return np.zeros((-((START - int(columns[4, -1])) // (GRID_MS * 1_000_000)), len(COLUMNS)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--interpreted", type=int, default=100_000)
    parser.add_argument("--live", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for is_grouped in (False, True):
        for orders in (0, 20):
            runs = contest(given, is_grouped, orders)
            taken = in_turn({name: run for name, (_, run) in runs.items()}, given.rounds)
            rates = {name: runs[name][0] / taken[name] for name in runs}
            for name, rate in rates.items():
                peers = [
                    f"{rate / rates[one]:.2f} x {one}"
                    for one in rates
                    if one.startswith("hft") and (FEATURES in one) == (FEATURES in name)
                ]
                kind = "100 ms depth" if is_grouped else "event by event"
                print(
                    f"{kind:14} {orders:2} orders  {name:25} {rate / 1e6:8.2f} M events/s  {', '.join(peers)}"
                )
    for width in WIDTHS:
        count = max(50, given.live * 4 // (width + 2))
        taken = in_turn({f"{n} orders": live(count, width, n) for n in (0, 4)}, given.rounds)
        shown = ", ".join(f"{seconds / count * 1e6:.2f} us with {name}" for name, seconds in taken.items())
        print(f"live, {width:3} levels a message: {shown}")


def in_turn(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each of *runs*, which are run in turn."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(run())
    return {name: statistics.median(times) for name, times in taken.items()}


if __name__ == "__main__":
    main()
