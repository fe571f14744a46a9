"""What strategy-crossing does, and everything that the kit asks of a strategy."""

from pathlib import Path

import pytest
from tickerml.kernel import NS_PER_S, Side, SubmitOrder, TradingHalted
from tickerml.kernel.testing import Market, instrument
from tickerml.testing.contracts import StrategyContract

import tickerml_strategy_crossing

PAYLOAD = Path(__file__).parent / "payload.jsonl"
market = Market()


class TestContract(StrategyContract):
    plugin = "strategy-crossing"


def book(second, mid):
    return market.book(second * NS_PER_S, bids=[(mid - 1, 50)], asks=[(mid + 1, 50)])


def test_buys_when_the_fast_average_rises_above_the_slow_one(kernel):
    bus = kernel(tickerml_strategy_crossing, with_gate=False)
    bus.send(instrument(), book(1, 1000))

    (order,) = bus.send(book(2, 1010))

    assert isinstance(order, SubmitOrder)
    assert (order.side, order.price) == (Side.BUY, 1011)


def test_does_nothing_while_the_mid_stands_still(kernel):
    bus = kernel(tickerml_strategy_crossing, with_gate=False)

    assert bus.send(instrument(), *[book(second, 1000) for second in range(1, 20)]) == []


def test_sends_nothing_while_trading_is_halted(kernel):
    bus = kernel(tickerml_strategy_crossing, with_gate=False)

    assert bus.send(instrument(), TradingHalted(1, "a person", "lunch"), book(1, 1000), book(2, 1010)) == []


def test_refuses_averages_that_are_the_wrong_way_round(kernel):
    with pytest.raises(ValueError, match="expected less than slow_s"):
        kernel(tickerml_strategy_crossing, options={"strategy-crossing": {"fast_s": 20.0}})


def test_decides_on_the_payload_as_it_did_before(kernel, tape, golden):
    bus = kernel(tickerml_strategy_crossing, with_gate=False)
    bus.send(*tape(PAYLOAD))

    golden(bus.outputs, "payload")


def test_a_new_build_takes_over_the_state(swap, tape):
    swap(tickerml_strategy_crossing, tickerml_strategy_crossing, tape(PAYLOAD))
