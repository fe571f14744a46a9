"""A component is admitted to say what its kind may say, and nothing else."""

import pytest

from tickerml.kernel import (
    HandshakeRefused,
    OrderFilled,
    PluginFailed,
    Side,
    SubmitOrder,
    Trade,
    codec,
    topics,
)
from tickerml.kernel.admission import admit
from tickerml.kernel.control import Component, Present
from tickerml.kernel.sequencer import Sequencer


def present(kind: str, *types: type) -> Present:
    return Present("trade", [Component("strategy-x", kind, [cls.__name__ for cls in types])], {})


def test_a_strategy_that_declares_fills_is_refused() -> None:
    with pytest.raises(HandshakeRefused, match="a strategy may not publish OrderFilled"):
        admit(present("strategy", SubmitOrder, OrderFilled), Sequencer(), 1)


def test_each_admission_is_a_new_epoch_and_tells_the_last_output() -> None:
    sequencer = Sequencer()
    first = admit(present("exchange", Trade), sequencer, 1)
    origin = first.origins["strategy-x"]
    trade = Trade(1, 1, "kraken", "BTC/USD", 1, 1, 1, Side.BUY)
    sequencer.accept(codec.pack_output(topics.topic_of(trade), origin, 1, 2, 7, codec.encode(trade)))

    second = admit(present("exchange", Trade), sequencer, 1)

    assert (first.epochs["strategy-x"], second.epochs["strategy-x"]) == (1, 2)
    assert second.outputs["strategy-x"] == (7, 2)
    assert second.head == 1


def test_every_component_may_say_that_it_failed() -> None:
    sequencer = Sequencer()
    admitted = admit(present("strategy", SubmitOrder), sequencer, 1)
    failure = PluginFailed(1, "strategy-x", "strategy", "Trade", "oh")
    frame = codec.pack_output(
        topics.topic_of(failure), admitted.origins["strategy-x"], 1, 0, 0, codec.encode(failure)
    )

    assert sequencer.accept(frame) is not None
