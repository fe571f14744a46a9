"""
Our profile `hftbacktest` against hftbacktest 2.4.4 itself, on the same events and orders.

    python tests/oracles/hftbacktest_parity.py [--peer PYTHON] [--seeds 1,2,3] [--events 60000] [--orders 300]

PYTHON is that of an environment with hftbacktest==2.4.4 (default: this one); without it, this says so
and ends with 0. Every order must agree in quantity, maker or taker, first and last fill time, and in
price where the peer can tell it: a taker that walks several levels is answered with the last. The peer
gets every quantity a quarter of a lot short: one of exactly what is open ends its run (issue #312).
Exit code 1 where an order differs.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

MODELS = ("risk-averse", "log", "power:3")
TICK, LOT = 0.01, 0.001
LATENCY = 50_000_000
Fills = dict[str, list[object]]


def peer(
    files: list[Path], orders: Path, models: list[str], tick: float, lot: float
) -> list[dict[str, Fills]]:
    """
    Run hftbacktest with each of *models* on each of *files* of events.

    Args:
        models: risk-averse, log, log2, power:N, power2:N or power3:N, which are its own.
    Returns: for each file and model, lots, liquidity, first and last time and last price in ticks by order.
    """
    import numpy as np
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
    from hftbacktest.order import FOK, GTC, GTX, IOC, LIMIT
    from hftbacktest.types import event_dtype
    from numba import njit

    def read(events: Path):  # type: ignore[no-untyped-def]
        rows = list(csv.DictReader(events.open()))
        data = np.zeros(len(rows), event_dtype)
        for i, row in enumerate(rows):
            is_buy = row["side"] in ("bid", "buy")
            kind = DEPTH_EVENT if row["kind"] == "depth" else TRADE_EVENT
            data[i]["ev"] = kind | EXCH_EVENT | LOCAL_EVENT | (BUY_EVENT if is_buy else SELL_EVENT)
            data[i]["exch_ts"], data[i]["local_ts"] = int(row["ts_exchange"]), int(row["ts_local"])
            data[i]["px"], data[i]["qty"] = float(row["price"]), float(row["qty"])
        return data

    wishes = list(csv.DictReader(orders.open()))
    acts = sorted(
        [(int(wish["ts"]), 0, i) for i, wish in enumerate(wishes)]
        + [(int(wish["cancel_ts"]), 1, i) for i, wish in enumerate(wishes) if wish["cancel_ts"]]
    )
    terms = {"GTC": GTC, "GTX": GTX, "IOC": IOC, "FOK": FOK}
    table = np.array(
        [
            (wish["side"] == "buy", float(wish["price"]), float(wish["qty"]) - lot / 4, terms[wish["tif"]])
            for wish in wishes
        ]
    )

    @njit
    def look(bt, live, left, found):  # type: ignore[no-untyped-def]
        orders = bt.orders(0)
        for i in range(len(live)):
            if not live[i]:
                continue
            order = orders.get(i + 1)
            if order is None:
                continue
            if order.leaves_qty < left[i]:
                if found[i, 0] == 0:
                    found[i, 2] = order.exch_timestamp
                found[i, 0] += np.int64(np.round((left[i] - order.leaves_qty) / lot))
                found[i, 1], found[i, 3] = order.arr[0].maker, order.exch_timestamp
                found[i, 4] = order.arr[0].exec_price_tick
                left[i] = order.leaves_qty
            if order.status == 2 or order.status == 3 or order.status == 4:  # expired, filled, canceled
                live[i] = False

    @njit
    def play(bt, acts, table, live, left, found):  # type: ignore[no-untyped-def]
        at = 0
        bt.elapse(1)  # before it there is no time
        while True:
            timeout = 10**18
            if at < len(acts):
                timeout = acts[at, 0] - bt.current_timestamp
            result = bt.wait_next_feed(True, timeout) if timeout > 0 else 0
            if result == 1:
                return bt.current_timestamp
            if result == 3 or result == 2 or result == 0:
                look(bt, live, left, found)
            while at < len(acts) and acts[at, 0] <= bt.current_timestamp:
                i = acts[at, 2]
                if acts[at, 1] == 1:
                    if live[i]:
                        bt.cancel(0, i + 1, False)
                elif table[i, 0]:
                    bt.submit_buy_order(
                        0, i + 1, table[i, 1], table[i, 2], np.uint8(table[i, 3]), LIMIT, False
                    )
                    live[i] = True
                else:
                    bt.submit_sell_order(
                        0, i + 1, table[i, 1], table[i, 2], np.uint8(table[i, 3]), LIMIT, False
                    )
                    live[i] = True
                at += 1

    def run(data, model: str) -> Fills:  # type: ignore[no-untyped-def]
        asset = BacktestAsset().data(data).linear_asset(1.0).constant_order_latency(LATENCY, LATENCY)
        kind, _, n = model.partition(":")
        asset = {
            "risk-averse": asset.risk_adverse_queue_model,
            "log": asset.log_prob_queue_model,
            "log2": asset.log_prob_queue_model2,
            "power": asset.power_prob_queue_model,
            "power2": asset.power_prob_queue_model2,
            "power3": asset.power_prob_queue_model3,
        }[kind](*([float(n)] if n else []))
        asset = asset.partial_fill_exchange().trading_value_fee_model(0.0, 0.0)
        bt = HashMapMarketDepthBacktest([asset.tick_size(tick).lot_size(lot)])
        live, left = np.zeros(len(wishes), np.bool_), table[:, 2].copy()
        found = np.zeros((len(wishes), 5), np.int64)
        play(bt, np.array(acts, np.int64), table, live, left, found)
        return {
            wishes[i]["order_id"]: [
                q,
                "maker" if maker else "taker",
                int(a),
                int(b),
                int(p),
            ]
            for i, (q, maker, a, b, p) in enumerate(found.tolist())
            if q
        }

    return [{model: run(data, model) for model in models} for data in map(read, files)]


def ask(
    python: str, files: list[Path], orders: Path, models: list[str], tick: float = TICK, lot: float = LOT
) -> list[dict[str, Fills]]:
    """Return what peer() says in the environment of *python*."""
    told = {
        "files": list(map(str, files)),
        "orders": str(orders),
        "models": models,
        "tick": tick,
        "lot": lot,
    }
    command = [python, __file__, "--inside", json.dumps(told)]
    answer: list[dict[str, Fills]] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    return answer


def why_not(python: str) -> str:
    """Return why *python* cannot be asked, nothing where it can."""
    check = "from importlib.metadata import version; print(version('hftbacktest'))"
    found = subprocess.run([python, "-c", check], capture_output=True, text=True).stdout.strip()
    if found == "2.4.4":
        return ""
    return f"{python} has hftbacktest {found or 'not at all'}, and 2.4.4 is compared with"


def ours(events: Path, orders: Path, model: str) -> Fills:
    """Run `tickerml simulate`; return the same, with the first price too."""
    folder = events.parent
    fills = folder / "fills.csv"
    command = [sys.executable, "-m", "tickerml.ui.cli", "simulate", "--events", events, "--orders", orders]
    command += ["--out", fills, "--status", folder / "status.csv", "--profile", "hftbacktest"]
    command += ["--queue", model, "--tick", str(TICK), "--lot", str(LOT)]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    found: Fills = {}
    for row in csv.DictReader(fills.open()):
        lots, ts = round(float(row["qty"]) / LOT), int(row["ts_exchange"])
        price = round(float(row["price"]) / TICK)
        one = found.setdefault(row["order_id"], [0, row["liquidity"], ts, ts, price])
        one[0] = int(str(one[0])) + lots
        one[3], one[4] = ts, price
    return found


def compare(folder: Path, seed: int, python: str) -> int:
    """Compare every model on both kinds of depth; return how many orders differ."""
    wrong = 0
    files, orders = [folder / "events.csv", folder / "events_100ms.csv"], folder / "orders.csv"
    ids = [row["order_id"] for row in csv.DictReader(orders.open())]
    for events, answer in zip(files, ask(python, files, orders, list(MODELS)), strict=True):
        for model, theirs in answer.items():
            mine = ours(events, orders, model)
            differ = [one for one in ids if mine.get(one) != theirs.get(one)]
            wrong += len(differ)
            equal = f"{len(ids) - len(differ)} of {len(ids)} equal, {len(mine)} filled"
            print(f"seed {seed}  {events.stem:13} {model:12} {equal}", flush=True)
            for one in differ[:3]:
                print(f"  {one}: ours {mine.get(one)}, theirs {theirs.get(one)}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--orders", type=int, default=300)
    parser.add_argument("--inside", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if asked := given.inside:
        files, orders = list(map(Path, asked["files"])), Path(asked["orders"])
        print(json.dumps(peer(files, orders, asked["models"], asked["tick"], asked["lot"])))
        return 0
    if reason := why_not(given.peer):
        print(f"skipped: {reason}")
        return 0
    import market

    wrong = 0
    for seed in map(int, given.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            market.write(Path(folder), *market.generate(seed, given.events, given.orders))
            wrong += compare(Path(folder), seed, given.peer)
    print("parity" if not wrong else f"{wrong} orders differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
