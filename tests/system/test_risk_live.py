"""The risk of real processes: no rule, no order; a kill switch that sells, and no death undoes a halt."""

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from tickerml.kernel import (
    PPM,
    CancelOrder,
    Instrument,
    Message,
    OrderAccepted,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    PortfolioSnapshot,
    RiskVerdict,
    Side,
    TimeInForce,
    TradingHalted,
    TradingResumed,
    codec,
)
from tickerml.kernel.journal import JournalReader

from .conftest import System

pytestmark = pytest.mark.processes

STUBBORN = """
[plugin.strategy-broken]
host = "trade"
module = "orders_on"
"""
HELD = """
[plugin.risk-broken]
host = "rules"
module = "rule_held"
options = {{ held_by = "{path}" }}
"""
ENDS = (OrderCanceled, OrderExpired, OrderRejected)


def start(system: System, *, extra: str = "", plugins: tuple[str, ...] = ()) -> dict[str, Any]:
    """Start a kernel on the wall clock, with a strategy that orders whatever happens."""
    system.configure(
        plugins=("strategy-broken", *plugins), extra=STUBBORN + extra, clock="wall", speed="1", duration=0
    )
    return begin(system)


def begin(system: System) -> dict[str, Any]:
    system.start()
    return system.wait_until(lambda report: report["state"] in ("running", "halted") and report["seq"] > 100)


def told(system: System, after: int = 0) -> list[tuple[int, Message]]:
    """Return what the journal holds behind seq *after* of orders, money and the kill switch."""
    wanted = (b"order.", b"fill.", b"verdict.", b"portfolio.", b"control.", b"instrument.")
    with contextlib.closing(JournalReader(system.run_dir / "journal")) as reader:
        frames = [codec.unpack(raw) for raw in reader.frames(after) if raw.startswith(wanted)]
    return [(frame.seq, codec.decode(frame.body)) for frame in frames]


def wait_for(
    system: System, condition: Callable[[list[tuple[int, Message]]], bool], after: int = 0
) -> list[tuple[int, Message]]:
    """Return what the journal holds once *condition* is true of it."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if condition(found := told(system, after)):
            return found
        time.sleep(0.05)
    raise TimeoutError(f"it did not come to that: {[type(each).__name__ for _, each in found[-20:]]}")


def of(found: list[tuple[int, Message]], *types: type[Message]) -> list[Any]:
    return [message for _, message in found if isinstance(message, types)]


def head(system: System) -> int:
    return int(system.wait_until(lambda report: True)["seq"])


def has(count: int, *types: type[Message]) -> Callable[[list[tuple[int, Message]]], bool]:
    return lambda found: len(of(found, *types)) >= count


def test_while_the_host_of_a_rule_is_dead_nothing_passes_and_its_return_lifts_no_halt(system, tmp_path):
    held = tmp_path / "held"
    report = start(system, extra=HELD.format(path=held), plugins=("risk-broken",))
    wait_for(system, has(1, OrderSubmitted))
    held.touch()
    rules = next(row["pid"] for row in report["hosts"] if row["host"] == "rules")
    os.kill(rules, 9)

    dead = system.wait_until(lambda report: report["halted_by"])
    assert (dead["halt_level"], dead["halted_by"]) == (
        2,
        "heartbeat: host rules with risk rules has been dead for 5 s",
    )
    found = told(system)
    agreed = {each.order_id for each in of(found, RiskVerdict) if each.rule == "risk-broken"}
    assert {each.order_id for each in of(found, OrderSubmitted)} <= agreed
    silent = [each for each in of(found, OrderDenied) if each.rule == "risk-broken"]
    assert {each.reason for each in silent} == {"no verdict before the deadline"}
    assert len(silent) >= 2

    held.unlink()
    back = system.wait_until(lambda report: all(row["state"] == "ready" for row in report["hosts"]))
    assert back["halt_level"] == 2
    halted = back["seq"]
    assert not of(wait_for(system, has(2, OrderDenied), halted), OrderSubmitted)
    system.call("resume")
    wait_for(system, has(1, OrderSubmitted), halted)


def is_here(order: OrderSubmitted) -> bool:
    """Whether *order* may take from what the stubborn strategy has bought."""
    return order.exchange == "aurora" and order.symbol.startswith("BTC/")


def over_in(found: list[tuple[int, Message]]) -> set[str]:
    """Return the orders that have ended."""
    filled = {each.order_id for each in of(found, OrderFilled) if not each.leaves}
    return filled | {each.order_id for each in of(found, *ENDS)}


def is_flat(found: list[tuple[int, Message]]) -> bool:
    """Whether nothing that could be sold is left, and every order has ended."""
    listed = {(each.exchange, each.symbol): each for each in of(found, Instrument)}
    last = of(found, PortfolioSnapshot)[-1]
    return {each.order_id for each in of(found, OrderSubmitted)} <= over_in(found) and all(
        listed[each.exchange, each.symbol].notional(each.mark, each.quantity)
        < listed[each.exchange, each.symbol].min_notional
        for each in last.positions
    )


def test_a_kill_sells_everything_behind_the_last_cancel_and_holds_until_a_person_lifts_it(system):
    start(system)
    before = wait_for(
        system,
        lambda found: (
            has(2, OrderFilled)(found)
            and any(o.order_id.startswith("rest") for o in of(found, OrderAccepted))
        ),
    )
    assert not is_flat(before)

    system.call("kill", "--reason", "enough")
    found = wait_for(system, lambda found: bool(of(found, TradingHalted)) and is_flat(found))

    at = next(seq for seq, each in found if isinstance(each, TradingHalted))
    later = [(seq, each) for seq, each in found if seq > at]
    sold = of(later, OrderSubmitted)
    assert sold
    assert {(each.strategy, each.side, each.time_in_force) for each in sold} == {
        ("gate", Side.SELL, TimeInForce.IOC)
    }
    assert all(each.price >= each.arrival_mid // 2 * (PPM - 20_000) // PPM for each in sold)
    assert any(each.order_id.startswith("rest") for each in of(later, CancelOrder))
    first_sale = next(seq for seq, each in later if isinstance(each, OrderSubmitted) and is_here(each))
    sent = {each.order_id for _, each in found if isinstance(each, OrderSubmitted) and is_here(each)}
    assert {order_id for order_id in sent if not order_id.startswith("gate")} <= over_in(
        [(seq, each) for seq, each in found if seq < first_sale]
    )

    system.kill("kernel", 0)
    system.finish()
    again = begin(system)
    assert (again["halt_level"], again["halted_by"]) == (3, "operator: enough")
    system.call("restart")
    third = system.wait_until(lambda report: report["session"] == 3 and report["state"] == "halted")
    assert (third["halt_level"], third["halted_by"]) == (3, "operator: enough")
    denied = wait_for(system, has(2, OrderDenied), third["seq"])
    assert {each.reason for each in of(denied, OrderDenied)} == {"trading is halted by operator: enough"}
    assert not of(told(system, at), OrderSubmitted)[len(sold) :]
    assert not of(told(system), TradingResumed)

    system.call("resume", "--reason", "again")
    wait_for(system, has(1, OrderSubmitted), third["seq"])
