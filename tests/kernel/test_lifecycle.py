"""The state of a plugin is told from its plan, its host and what was seen of the host's process."""

import pytest

from tickerml.kernel.lifecycle import Lifecycle, Sighting, state_of
from tickerml.kernel.plans import PluginPlan
from tickerml.kernel.report import plugin_row
from tickerml.kernel.supervisor import Host, HostPhase, Supervisor
from tickerml.kernel.units import NS_PER_S

ACTIVE_HOST = {"has_greeted": True, "presented": ["x"]}


def plugin(**changes: object) -> PluginPlan:
    return PluginPlan(**{"id": "x", "kind": "store", "host": "h"} | changes)


def host(phase: HostPhase, reason: str = "") -> Host:
    made = Host("h")
    made.phase, made.reason = phase, reason
    return made


@pytest.mark.parametrize(
    ("phase", "seen", "state"),
    [
        (HostPhase.WAITING, {}, "resolved"),
        (HostPhase.STARTING, {}, "resolved"),
        (HostPhase.STARTING, {"has_greeted": True}, "loaded"),
        (HostPhase.STARTING, ACTIVE_HOST, "configured"),
        (HostPhase.READY, ACTIVE_HOST, "active"),
        (HostPhase.READY, ACTIVE_HOST | {"is_standby": True}, "standby"),
        (HostPhase.STOPPING, ACTIVE_HOST, "draining"),
        (HostPhase.STOPPED, {}, "stopped"),
        (HostPhase.DOWN, {}, "retry"),
        (HostPhase.QUARANTINED, {}, "quarantined"),
    ],
)
def test_a_plugin_is_as_far_as_its_host(phase, seen, state):
    assert state_of(plugin(), host(phase), Sighting(**seen))[0] == state


def test_every_phase_of_a_host_has_a_state():
    for phase in HostPhase:
        assert isinstance(state_of(plugin(), host(phase))[0], Lifecycle)


def test_what_was_set_aside_has_failed_whatever_its_host_does():
    seen = Sighting(**ACTIVE_HOST, failed={"x": "Trade: RuntimeError: oh"})

    assert state_of(plugin(), host(HostPhase.READY), seen) == ("failed", "Trade: RuntimeError: oh")


def test_a_plugin_is_blocked_because_somebody_wanted_it_or_something_is_in_the_way():
    running = host(HostPhase.READY)

    assert state_of(plugin(enabled=False), running) == ("blocked", "disabled")
    assert state_of(plugin(blocked="needs y"), running) == ("blocked", "needs y")
    assert state_of(plugin(), None) == ("stopped", "")


def test_who_waits_says_for_whom():
    waiting = host(HostPhase.WAITING)

    assert state_of(plugin(), waiting, waits_for=["a", "b"]) == ("resolved", "waits for a, b")


def test_a_retry_says_why_and_when():
    supervisor = Supervisor(["h"], NS_PER_S)
    supervisor.start(0)
    supervisor.exited("h", "killed by SIGKILL", 0)

    state, reason = state_of(plugin(), supervisor.hosts["h"], now=0)

    assert (state, reason) == ("retry", "killed by SIGKILL; again in 0.1 s")
    assert state_of(plugin(), supervisor.hosts["h"], now=NS_PER_S)[1].endswith("again in 0.0 s")


def test_a_row_has_what_a_person_asks_for():
    entry = plugin(version="1.2", publishes=["Trade"], secrets=["key"], warnings=["colour: unknown key"])

    row = plugin_row(entry, host(HostPhase.READY), Sighting(**ACTIVE_HOST))

    assert row["state"] == "active"
    assert (row["version"], row["publishes"], row["secrets"]) == ("1.2", ["Trade"], ["key"])
    assert (row["enabled"], row["warnings"]) == (True, ["colour: unknown key"])
