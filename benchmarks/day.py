"""
A day of four made-up exchanges under every risk rule, and a drawdown stop that stops.

    python benchmarks/day.py [--hours H] [--stop-hours H] [--seed S] [--json]

Two backtests, which are what a live run decides, byte for byte. The first trades H hours (24) of market
time with the whole rule set: arbitrage, carry on perpetuals that pay funding three times, and the
imbalance strategy. The second lets a strategy that cannot but lose trade under the two rules that every
profile has, until the drawdown stop of 25 % ends it, and on after that. Both are the profiles of day.toml.

verdicts        of each rule: how many passed whole, were reduced, and were denied
denied          orders, by the first rule that said no
arbitrage       opportunities: found, those that were capturable, what those were worth, pairs of legs by
                how they ended and what they came to, the unwinding of legs apart
funding         settlements booked and what they came to
ledger          whether opening + realized + unrealized - fees + funding - withdrawal fees is the equity
stop            the halt, and after it: orders that passed and were not the gate's own, and what is left

Exit code 1 where the ledger does not add up, a plugin failed, or something traded after the stop.
"""

import argparse
import json
import logging
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import structlog

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    ArbitrageEnded,
    FundingSettled,
    HaltLevel,
    LegsSettled,
    Message,
    OrderDenied,
    OrderFilled,
    OrderSubmitted,
    PortfolioSnapshot,
    RiskVerdict,
    SubmitOrder,
    TradingHalted,
    TransferEnded,
    config,
)
from tickerml.kernel.backtest import Backtest
from tickerml.kernel.gate import GATE

HERE = Path(__file__).resolve().parent
PAYMENTS = 3  # of funding, in a day
FIGURES = (
    "messages",
    "orders",
    "orders_denied",
    "orders_rejected",
    "orders_canceled",
    "orders_expired",
    "fills_maker",
    "fills_taker",
    "markouts_bps",
    "decisions_sha256",
    "failed_plugins",
)
HOUR_NS = 3600 * NS_PER_S


class Day:
    """Counts what a run decided, as it goes."""

    def __init__(self) -> None:
        self.verdicts: dict[str, Counter[str]] = defaultdict(Counter)
        self.denied: Counter[str] = Counter()
        self.fills: Counter[str] = Counter()
        self.opportunities: Counter[str] = Counter()
        self.legs: Counter[str] = Counter()
        self.money: Counter[str] = Counter()
        self.funding: list[float] = []
        self.transfers: Counter[str] = Counter()
        self.halts: list[dict[str, Any]] = []
        self.traded_since: list[str] = []
        self.accounts: dict[str, PortfolioSnapshot] = {}
        self.false_sums = 0
        self._wished: dict[str, int] = {}

    def take(self, plugin: str, message: Message, body: bytes) -> None:
        """Count one message of *plugin*."""
        match message:
            case SubmitOrder():
                self._wished[message.order_id] = message.quantity
            case RiskVerdict():
                self._count_verdict(message)
            case OrderDenied():
                self.denied[message.rule] += 1
            case OrderSubmitted():
                self._wished.pop(message.order_id, None)
                if self.halts and message.strategy != GATE:
                    self.traded_since.append(message.order_id)
            case OrderFilled():
                self.fills[message.strategy] += 1
            case ArbitrageEnded():
                self._count_opportunity(message)
            case LegsSettled():
                self._count_legs(message)
            case FundingSettled():
                self.funding.append(message.amount / UNIT)
            case TransferEnded():
                self.transfers["refused" if message.reason else "arrived"] += 1
            case TradingHalted():
                self._count_halt(message)
            case PortfolioSnapshot():
                self.accounts[message.account] = message
                self.false_sums += _adds_up(message) is False

    def _count_verdict(self, verdict: RiskVerdict) -> None:
        asked = self._wished.get(verdict.order_id, verdict.quantity)
        word = "denied" if not verdict.quantity else "reduced" if verdict.quantity < asked else "passed"
        self.verdicts[verdict.rule][word] += 1

    def _count_opportunity(self, ended: ArbitrageEnded) -> None:
        self.opportunities["found"] += 1
        if ended.is_capturable:
            self.opportunities["capturable"] += 1
            self.money["capturable"] += ended.captured

    def _count_legs(self, settled: LegsSettled) -> None:
        self.legs[f"{settled.strategy} {settled.outcome}"] += 1
        self.money[f"{settled.strategy} legs"] += settled.legs
        self.money[f"{settled.strategy} unwinding"] += settled.unwinding

    def _count_halt(self, halted: TradingHalted) -> None:
        fallen = {name: account.drawdown for name, account in sorted(self.accounts.items())}
        where = {"ts_s": halted.ts_recv // NS_PER_S, "drawdowns": fallen}
        self.halts.append(
            {"source": halted.source, "reason": halted.reason, "level": int(halted.level), **where}
        )


def _adds_up(account: PortfolioSnapshot) -> bool | None:
    # None where something has no trusted price and the equity is the last that had.
    if not account.is_marked:
        return None
    gains = account.realized + account.unrealized + account.funding
    return account.opening + gains - account.fees - account.withdrawal_fees == account.equity


def play(name: str, profile: str, hours: float, overrides: list[str]) -> tuple[Backtest, Day, float]:
    """Run *hours* of market time of *profile*; returns the run, its counts and the seconds it took."""
    length = f"exchange-day.duration_s={hours * 3600}"
    plan = config.plan(config.load(HERE / "day.toml"), profile, [length, *overrides])
    day, began, told = Day(), time.monotonic(), time.monotonic()
    backtest = Backtest(plan, day.take)
    first = 0
    for ts in backtest.run():
        first = first or ts
        if time.monotonic() - told > 5.0:
            told = time.monotonic()
            past = (ts - first) / HOUR_NS
            print(f"{name}: {past:5.1f} of {hours:g} h, {told - began:4.0f} s", file=sys.stderr, flush=True)
    return backtest, day, time.monotonic() - began


def worth(account: PortfolioSnapshot) -> dict[str, float]:
    """Return what *account* came to, in its currency."""
    parts = ("equity", "opening", "realized", "unrealized", "fees", "funding", "withdrawal_fees")
    return {name: round(getattr(account, name) / UNIT, 4) for name in parts} | {
        "max_drawdown": round(account.max_drawdown, 6)
    }


def report(backtest: Backtest, day: Day, hours: float, seconds: float) -> dict[str, Any]:
    """Return the figures of a run, money in the account's currency."""
    money = {name: round(amount / UNIT, 4) for name, amount in sorted(day.money.items())}
    figures = backtest.summary.report()
    return {
        "hours": hours,
        "seconds": round(seconds, 1),
        **{name: figures[name] for name in FIGURES},
        "accounts": {name: worth(account) for name, account in sorted(day.accounts.items())},
        "verdicts": {rule: dict(sorted(counts.items())) for rule, counts in sorted(day.verdicts.items())},
        "denied": dict(day.denied.most_common()),
        "fills_by_strategy": dict(sorted(day.fills.items())),
        "arbitrage": {**day.opportunities, "legs": dict(sorted(day.legs.items())), "money": money},
        "transfers": dict(sorted(day.transfers.items())),
        "funding": {"settlements": len(day.funding), "booked": round(sum(day.funding), 6)},
        "halts": day.halts,
        "false_sums": day.false_sums,
    }


def stopped(day: Day) -> dict[str, Any]:
    """Return what became of the losing strategy: its halt, and what went on after it."""
    account = day.accounts["paper"]
    base = [each for each in account.balances if each.asset == "BTC"]
    return {
        "level": day.halts[0]["level"] if day.halts else 0,
        "drawdown_at_halt": day.halts[0]["drawdowns"]["paper"] if day.halts else None,
        "max_drawdown": account.max_drawdown,
        "orders_passed_since": len(day.traded_since),
        "denied_since": day.denied[GATE],
        "left": {f"{each.exchange}.{each.asset}": (each.free + each.held) / UNIT for each in base},
    }


def faults(day: dict[str, Any], stop: dict[str, Any]) -> list[str]:
    """Return what is not as it must be."""
    found = []
    for run in (day, stop):
        found += [f"{plugin} failed: {why}" for plugin, why in run["failed_plugins"].items()]
        found += ["the ledger did not add up"] * bool(run["false_sums"])
    if stop["stop"]["level"] != HaltLevel.FLATTEN:
        found.append("the losing strategy was not stopped")
    if stop["stop"]["orders_passed_since"]:
        found.append("orders passed after the stop")
    return found


def show(result: dict[str, Any], indent: int = 0) -> None:
    """Print *result* for a person."""
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{' ' * indent}{name}")
            show(value, indent + 2)
        else:
            print(f"{' ' * indent}{name:<{max(1, 28 - indent)}} {value}")


def main() -> int:
    """Run both, and print what they came to; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=24.0, help="of market time, of the first run")
    parser.add_argument("--stop-hours", type=float, default=3.0, help="of market time, of the second")
    parser.add_argument("--seed", type=int, default=7, help="of the market")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    wanted = parser.parse_args()
    if wanted.hours <= 0 or wanted.stop_hours <= 0:
        parser.error(f"expected hours above 0, was {wanted.hours:g} and {wanted.stop_hours:g}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    seed = f"exchange-day.seed={wanted.seed}"
    interval = f"exchange-day.interval_s={max(60, min(28_800, round(wanted.hours * 3600 / PAYMENTS)))}"
    backtest, day, seconds = play("day", "day", wanted.hours, [seed, interval])
    result: dict[str, Any] = {"day": report(backtest, day, wanted.hours, seconds)}
    backtest, day, seconds = play("stop", "stop", wanted.stop_hours, [seed])
    result["stop"] = {**report(backtest, day, wanted.stop_hours, seconds), "stop": stopped(day)}
    result["faults"] = faults(result["day"], result["stop"])
    if wanted.json:
        print(json.dumps(result))
    else:
        show(result)
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
