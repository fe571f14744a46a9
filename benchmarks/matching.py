"""
The matching core against hftbacktest, compiled and interpreted, in one run.

    python benchmarks/matching.py [--events 1000000] [--interpreted 100000] [--rounds 5]

Needs numba, and hftbacktest 2.4.4 for the comparison; without one of them its lines are left out.
One generated symbol, nine level changes to each print, 200 levels a side, with 0 and 20 of our orders
deep in the book, which nothing fills. hftbacktest has a copy of the book for the strategy as well and
wakes it at every event. Each round runs all in turn; CPU time, medians, and ratios of the medians. What is
compiled is compiled before the clock starts.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from tickerml.plugins import core_compile, core_match, core_replay
from tickerml.plugins import core_state as cs

START = 1_700_000_000_000_000_000
MID, LEVELS = 10_000, 200


def market(events: int) -> np.ndarray[Any, Any]:
    """Return kinds, sides, prices, lots and times of *events*, the first of them the book."""
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
            rows.append((0, side, MID + (distance if side else -distance), lots, ts))
    return np.array(rows, np.int64).T.copy()


def ours(columns: np.ndarray[Any, Any], orders: int, functions: Any) -> float:
    """Return the seconds that the core takes: compiled with *functions*, interpreted with None."""
    core = cs.new_core(0, 1, cs.CANCEL_NEWEST, cs.DEFAULT)
    cs.make_room(core, 2 * LEVELS, orders)
    submit, replay = core_match.submit, core_replay.replay
    kinds, sides, times = (columns[i].tolist() for i in (0, 1, 4))
    rows = columns[2:4].T.ravel().tolist()
    if functions:
        core = core_compile.as_arrays(core, 2 * LEVELS, orders)
        submit, replay = functions.submit, functions.replay
        kinds, sides, times = (columns[i].copy() for i in (0, 1, 4))
        rows = np.ascontiguousarray(columns[2:4].T).ravel()
    core.head[cs.STATE] = cs.VALID
    for i in range(orders):
        side = i % 2
        price = MID + (150 + i if side else -150 - i)
        submit(core, i, side, price, price, 10**6, 0, True, False, 0, START - 1)
    begun = time.process_time()
    end = replay(core, kinds, sides, rows, times, 0)
    taken = time.process_time() - begun
    assert end == columns.shape[1], "an order was filled"
    return taken


def peer(columns: np.ndarray[Any, Any]) -> Callable[[int], float]:
    """Return what runs hftbacktest over *columns* with so many orders and says how many seconds it took."""
    from hftbacktest import (
        BUY_EVENT,
        DEPTH_EVENT,
        EXCH_EVENT,
        LOCAL_EVENT,
        SELL_EVENT,
        TRADE_EVENT,
        BacktestAsset,
        HashMapMarketDepthBacktest,
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

    @njit
    def play(bt: Any, orders: int) -> int:
        bt.elapse(1)
        for i in range(orders):
            if i % 2:
                bt.submit_sell_order(0, i + 1, MID + 150 + i, 10.0**6, 0, 0, False)
            else:
                bt.submit_buy_order(0, i + 1, MID - 150 - i, 10.0**6, 0, 0, False)
        count = 0
        while bt.wait_next_feed(False, 10**18) != 1:
            count += 1
        return count

    def run(orders: int) -> float:
        asset = BacktestAsset().data(data).linear_asset(1.0).constant_order_latency(0, 0)
        asset = asset.risk_adverse_queue_model().partial_fill_exchange().trading_value_fee_model(0.0, 0.0)
        bt = HashMapMarketDepthBacktest([asset.tick_size(1.0).lot_size(1.0)])
        begun = time.process_time()
        play(bt, orders)
        return time.process_time() - begun

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--interpreted", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    columns, few = market(given.events), market(given.interpreted)
    for orders in (0, 20):
        runs: dict[str, tuple[int, Callable[[], float]]] = {}
        runs["interpreted"] = (given.interpreted, lambda n=orders: ours(few, n, None))
        if core_compile.is_available():
            functions = core_compile.compiled()
            ours(few, orders, functions)
            runs["compiled"] = (given.events, lambda n=orders, f=functions: ours(columns, n, f))
        try:
            play = peer(columns)
        except ImportError:
            print("hftbacktest is not installed: not compared")
        else:
            play(0)
            runs["hftbacktest"] = (given.events, lambda n=orders, p=play: p(n))
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(given.rounds):
            for name, (_, run) in runs.items():
                taken[name].append(run())
        rates = {name: runs[name][0] / statistics.median(times) for name, times in taken.items()}
        for name, rate in rates.items():
            ratio = f"  {rate / rates['hftbacktest']:.2f} x hftbacktest" if "hftbacktest" in rates else ""
            print(f"{orders:2} orders  {name:12} {rate / 1e6:8.2f} M events/s{ratio}")


if __name__ == "__main__":
    main()
