"""
What a league costs: fifty accounts on one feed against one account on it, in one run.

    python benchmarks/accounts.py [--accounts N] [--seconds S] [--rate R] [--json]

Both ledgers are played the same market (4 exchanges, 4 symbols each, R book changes a second of market
time) and the same fills, which the league's accounts share out; all of them are valued once a second.

us_per_event    processor time of the bus per input message, µs: the best of 3 rounds
state_kb        the checkpoint of the portfolio
peak_mb         what Python had allocated at most while it played, by tracemalloc, in a run of its own
"""

import argparse
import json
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

from tickerml.kernel import NS_PER_S, Liquidity, Message, OrderFilled, Side
from tickerml.kernel.testing import Harness, Market, instrument
from tickerml.plugins import portfolio

EXCHANGES, BASES = ("a", "b", "c", "d"), ("BTC", "ETH", "SOL", "XRP")
FILLS_PER_S = 5
ROUNDS = 3


def tape(accounts: list[str], seconds: int, rate: int) -> Iterator[Message]:
    """Yield the market and, in turn for each of *accounts*, a fill that buys or sells."""
    markets = [Market(exchange, f"{base}/USDT") for exchange in EXCHANGES for base in BASES]
    for market in markets:
        yield instrument(market.exchange, market.symbol)
        yield market.book(NS_PER_S, [(9_999, 1000)], [(10_001, 1000)])
    for number in range(seconds * rate):
        ts = NS_PER_S + number * NS_PER_S // rate
        market = markets[number % len(markets)]
        yield market.delta(ts, [(9_990, number % 50)], [(10_010, number % 50)])
        turn, rest = divmod(number, rate // FILLS_PER_S)
        if not rest:
            account, side = accounts[turn % len(accounts)], Side.SELL if turn % 3 else Side.BUY
            head = (ts, ts, f"o{number}", 1, "s", account, market.exchange, market.symbol)
            yield OrderFilled(
                *head, side, 10_000, 10, 0, Liquidity.TAKER, 10**6, "USDT", 0, 0, 0, False, 20_000
            )


def league(count: int) -> list[str]:
    """Return the names of *count* accounts."""
    return ["paper", *(f"league-{number:02}" for number in range(1, count))]


def measure(count: int, seconds: int, rate: int) -> dict[str, float]:
    """Return what *count* accounts cost."""
    names = league(count)
    options: dict[str, Any] = {
        "currency": "USDT",
        "opening": {f"{exchange}.USDT": "100000" for exchange in EXCHANGES},
        "accounts": {name: {} for name in names[1:]},
    }
    messages = list(tape(names, seconds, rate))

    def play() -> Harness:
        kept = Harness(portfolio, options={"portfolio": options})
        for message in messages:
            kept.send(message)
            kept.outputs.clear()
        return kept

    spent = []
    for _ in range(ROUNDS):
        began = time.process_time()
        kept = play()
        spent.append(time.process_time() - began)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    play()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return {
        "us_per_event": min(spent) / len(messages) * 1e6,
        "state_kb": len(kept.bus.component("portfolio").snapshot()) / 1000,
        "peak_mb": peak / 1e6,
    }


def main() -> None:
    """Measure one account and a league of them, and print both and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=50, help="in the league")
    parser.add_argument("--seconds", type=int, default=60, help="of market time")
    parser.add_argument("--rate", type=int, default=500, help="book changes a second of market time")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    wanted = parser.parse_args()
    one = measure(1, wanted.seconds, wanted.rate)
    many = measure(wanted.accounts, wanted.seconds, wanted.rate)
    ratios = {name: many[name] / one[name] for name in one}
    if wanted.json:
        print(json.dumps({"one": one, "league": many, "ratio": ratios}))
        return
    for name in one:
        print(
            f"{name:<14} one {one[name]:10.2f}   {wanted.accounts} {many[name]:10.2f}   "
            f"ratio {ratios[name]:6.2f}"
        )


if __name__ == "__main__":
    main()
