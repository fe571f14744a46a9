"""Orders that rest when a process is killed rest on where they were, and so does the money held for them."""

from typing import Any

import pytest

from tickerml.kernel.localbus import BusState
from tickerml.kernel.testing import Harness
from tickerml.plugins import portfolio, sim_fifo

pytestmark = pytest.mark.processes

#: A strategy that orders often and takes nothing back.
PATIENT = """
[profile.test.options.strategy-imbalance]
enter = 0.02
exit = 0.01
order_notional = "60"
order_ttl_ms = 3600000
max_hold_s = 3600
cooldown_ms = 200
"""


def at_rest(state: BusState) -> list[dict[str, Any]]:
    """Return the orders that rest in *state*, with their place in the queue and what is held for them."""
    saved = {component.plugin: component.state for component in state.components}
    built = Harness(sim_fifo, portfolio).bus
    simulator, money = built.component("sim-fifo"), built.component("portfolio")
    simulator.restore(saved["sim-fifo"])
    money.restore(saved["portfolio"])
    return [
        {**order, "held": money.ledger.reservation(order["order_id"])} for order in simulator.open_orders()
    ]


def test_kill_9_moves_no_order_in_its_queue_and_lets_go_of_no_money(system: Any) -> None:
    system.configure(extra=PATIENT, duration=14)
    assert system.run().returncode == 0
    expected = at_rest(system.final_state())
    assert len(expected) >= 3
    assert all(order["held"] for order in expected)
    assert any(order["queue_ahead"] for order in expected)

    for host in ("trade", "kernel"):
        system.start()
        system.kill(host, after_seq=1500)
        code, _, _ = system.finish()
        if host == "kernel":
            assert code == -9
            system.run()

        assert at_rest(system.final_state()) == expected
