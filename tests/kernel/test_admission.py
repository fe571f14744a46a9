"""A component is admitted to say what its kind, its manifest and plugins.toml let it, and nothing else."""

import pytest

from tickerml.kernel import (
    CancelOrder,
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
from tickerml.kernel.gate import GATE
from tickerml.kernel.plans import PluginPlan
from tickerml.kernel.sequencer import Sequencer


def present(kind: str, *types: type, plugin: str = "strategy-x") -> Present:
    return Present("trade", [Component(plugin, kind, [cls.__name__ for cls in types])], {})


def member(kind: str, plugin: str = "strategy-x", publishes: list[str] | None = None) -> PluginPlan:
    return PluginPlan(id=plugin, kind=kind, host="trade", publishes=publishes)


def test_a_strategy_that_declares_fills_is_refused() -> None:
    asking = present("strategy", SubmitOrder, OrderFilled)

    with pytest.raises(HandshakeRefused, match="a strategy may not publish OrderFilled"):
        admit(asking, [member("strategy")], Sequencer(), 1)


def test_what_the_plan_took_away_is_refused_whatever_the_host_says() -> None:
    asking = present("strategy", SubmitOrder, CancelOrder)

    with pytest.raises(HandshakeRefused, match=r"plugins\.toml do not let it publish SubmitOrder"):
        admit(asking, [member("strategy", publishes=["CancelOrder"])], Sequencer(), 1)


@pytest.mark.parametrize(
    ("kind", "plugin"), [("simulator", "strategy-x"), ("strategy", "strategy-y"), ("kernel", GATE)]
)
def test_a_component_that_is_not_planned_in_this_host_is_refused(kind: str, plugin: str) -> None:
    with pytest.raises(HandshakeRefused, match=f"{plugin}: the plan has no {kind} of this id in host trade"):
        admit(present(kind, plugin=plugin), [member("strategy")], Sequencer(), 1)


def test_the_gate_is_admitted_where_there_is_a_simulator() -> None:
    admitted = admit(present("kernel", plugin=GATE), [member("simulator", "sim")], Sequencer(), 1)

    assert list(admitted.origins) == [GATE]


def test_nobody_is_admitted_when_one_component_is_refused() -> None:
    sequencer = Sequencer()
    components = [Component("strategy-x", "strategy", []), Component("strategy-z", "strategy", [])]

    with pytest.raises(HandshakeRefused):
        admit(Present("trade", components, {}), [member("strategy")], sequencer, 1)

    assert admit(present("strategy"), [member("strategy")], sequencer, 1).epochs == {"strategy-x": 1}


def test_each_admission_is_a_new_epoch_and_tells_the_last_output() -> None:
    sequencer = Sequencer()
    members = [member("exchange")]
    first = admit(present("exchange", Trade), members, sequencer, 1)
    origin = first.origins["strategy-x"]
    trade = Trade(1, 1, "kraken", "BTC/USD", 1, 1, 1, Side.BUY)
    sequencer.accept(codec.pack_output(topics.topic_of(trade), origin, 1, 2, 7, codec.encode(trade)))

    second = admit(present("exchange", Trade), members, sequencer, 1)

    assert (first.epochs["strategy-x"], second.epochs["strategy-x"]) == (1, 2)
    assert second.outputs["strategy-x"] == (7, 2)
    assert second.head == 1


def test_every_component_may_say_that_it_failed() -> None:
    sequencer = Sequencer()
    admitted = admit(present("strategy", SubmitOrder), [member("strategy")], sequencer, 1)
    failure = PluginFailed(1, "strategy-x", "strategy", "Trade", "oh")
    frame = codec.pack_output(
        topics.topic_of(failure), admitted.origins["strategy-x"], 1, 0, 0, codec.encode(failure)
    )

    assert sequencer.accept(frame) is not None
