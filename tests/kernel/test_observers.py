"""Observers: told of state, asked for diagnostics, and never a reason for anything to fail."""

import types

import pytest
import structlog

from tickerml.kernel import StateChange, hookimpl
from tickerml.kernel.observers import Observers

CHANGE = StateChange(1, "mine", "loaded", "active")


def module(**hooks):
    made = types.SimpleNamespace()
    for name, hook in hooks.items():
        setattr(made, f"tickerml_{name}", hookimpl(hook))
    return made


def test_every_plugin_of_the_host_is_told_of_a_change_of_state():
    told = []
    observers = Observers(
        {"a": module(component_state=lambda change: told.append(change)), "b": module(), "mine": module()}
    )

    observers.component_changed(CHANGE)

    assert told == [CHANGE]


def test_an_observer_that_asks_for_fewer_arguments_is_called_with_those():
    told = []

    Observers({"a": module(component_state=lambda: told.append("something"))}).component_changed(CHANGE)

    assert told == ["something"]


def test_diagnostics_are_those_of_the_plugin_that_is_asked_for_ready_for_json():
    observers = Observers(
        {"a": module(diagnostics=lambda: {"change": CHANGE, "sizes": (1, 2)}), "b": module()}
    )

    told = observers.diagnostics("a")

    assert told["sizes"] == [1, 2]
    assert told["change"]["after"] == "active"
    assert observers.diagnostics("b") == observers.diagnostics("nobody") == {}


@pytest.mark.parametrize(
    "broken",
    [lambda: 1 / 0, lambda: {"it": object()}, lambda: "text", lambda: exit(3)],
    ids=["raises", "no-json", "no-mapping", "exits"],
)
def test_one_that_raises_is_logged_and_nothing_more(broken):
    with structlog.testing.capture_logs() as logs:
        assert Observers({"a": module(diagnostics=broken)}).diagnostics("a") == {}

    assert [(each["event"], each["plugin"], each["hook"]) for each in logs] == [
        ("plugin.observer_failed", "a", "tickerml_diagnostics")
    ]


def test_one_that_raises_does_not_keep_the_others_from_being_told():
    told = []

    def raises(change):
        raise ValueError("no")

    observers = Observers(
        {"a": module(component_state=raises), "b": module(component_state=lambda change: told.append(change))}
    )

    observers.component_changed(CHANGE)

    assert told == [CHANGE]
