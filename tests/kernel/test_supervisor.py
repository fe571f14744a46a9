"""The supervisor: what dies comes back a little later, what keeps dying stays down, what hangs is ended."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import NS_PER_MS, NS_PER_S
from tickerml.kernel.control import Role
from tickerml.kernel.supervisor import (
    LIVENESS,
    MAX_RESTARTS,
    START_LIMIT_NS,
    STOP_LIMIT_NS,
    Effect,
    HostPhase,
    Kill,
    Report,
    Spawn,
    Supervisor,
)

HEARTBEAT = NS_PER_S
NAMES = ["market", "trade", "record"]
ROLES = {"market": Role.SOURCE, "console": Role.PAGE}


def started(*names: str, now: int = 0) -> Supervisor:
    """Return a supervisor whose hosts are all up."""
    supervisor = Supervisor(list(names), HEARTBEAT)
    supervisor.start(now)
    for pid, name in enumerate(names, 100):
        supervisor.spawned(name, pid)
        supervisor.ready(name, now, 0, ROLES.get(name, Role.CONSUMER))
    return supervisor


def die(supervisor: Supervisor, name: str, now: int, reason: str = "exit code 1") -> list[Effect]:
    effects = supervisor.exited(name, reason, now)
    assert supervisor.hosts[name].pid == 0
    return effects


def test_starting_starts_every_host_in_its_order():
    supervisor = Supervisor(NAMES, HEARTBEAT)

    effects = supervisor.start(0)

    assert effects == [Spawn(name) for name in NAMES]
    assert not supervisor.is_settled


def test_it_is_settled_once_every_host_is_ready_or_never_will_be():
    supervisor = Supervisor(NAMES, HEARTBEAT)
    supervisor.start(0)
    supervisor.ready("market", 1, 0, Role.SOURCE)
    supervisor.ready("trade", 1, 0, Role.CONSUMER)
    assert not supervisor.is_settled

    supervisor.unfit("record", "its option is wrong")

    assert supervisor.is_settled


def test_a_host_that_dies_is_restarted_after_a_delay_that_doubles():
    supervisor, now, delays = started("trade"), 0, []
    for _ in range(MAX_RESTARTS - 1):
        (report,) = die(supervisor, "trade", now)
        assert isinstance(report, Report)
        assert (report.host, report.reason) == ("trade", "exit code 1")
        delays.append(report.restart_in_ns)
        assert supervisor.tick(now + report.restart_in_ns - 1) == []
        now += report.restart_in_ns
        assert supervisor.tick(now) == [Spawn("trade")]
        assert supervisor.tick(now) == []
        supervisor.ready("trade", now, 0, Role.CONSUMER)

    assert delays == [100 * NS_PER_MS * 2**n for n in range(MAX_RESTARTS - 1)]
    assert supervisor.hosts["trade"].restarts == MAX_RESTARTS - 1


def test_the_fifth_death_within_a_minute_is_the_last():
    supervisor, now = started("trade"), 0
    for _ in range(4):
        die(supervisor, "trade", now)
        now += 10 * NS_PER_S
        assert supervisor.tick(now) == [Spawn("trade")]

    (report,) = die(supervisor, "trade", now, "killed by SIGSEGV")

    assert report == Report("trade", "5 failures in 60 s, the last: killed by SIGSEGV", -1)
    assert supervisor.hosts["trade"].phase is HostPhase.QUARANTINED
    assert supervisor.tick(now + 1000 * NS_PER_S) == []
    assert supervisor.is_settled


def test_deaths_that_are_far_apart_never_add_up():
    supervisor, now = started("trade"), 0
    for _ in range(20):
        (report,) = die(supervisor, "trade", now)
        assert isinstance(report, Report)
        assert report.restart_in_ns <= 800 * NS_PER_MS
        now += 16 * NS_PER_S
        assert supervisor.tick(now) == [Spawn("trade")]


@given(st.lists(st.integers(0, 40), max_size=30))
def test_it_is_quarantined_exactly_when_five_deaths_fall_within_a_minute(pauses):
    supervisor, now, deaths = started("trade"), 0, []
    for pause in pauses:
        now += NS_PER_S + pause * NS_PER_S
        supervisor.tick(now)
        if supervisor.hosts["trade"].phase is HostPhase.QUARANTINED:
            break
        deaths.append(now)
        die(supervisor, "trade", now)
        recent = [death for death in deaths if now - death < 60 * NS_PER_S]
        assert (supervisor.hosts["trade"].phase is HostPhase.QUARANTINED) == (len(recent) >= 5)


def test_one_host_dying_leaves_the_others_alone():
    supervisor = started(*NAMES)

    die(supervisor, "trade", 1)

    assert [supervisor.hosts[name].phase for name in NAMES] == [
        HostPhase.READY,
        HostPhase.DOWN,
        HostPhase.READY,
    ]


def test_a_host_is_ended_after_three_silent_heartbeats_and_only_once():
    supervisor = started("trade", "record")
    silent = LIVENESS * HEARTBEAT
    supervisor.heard("record", silent)
    assert supervisor.tick(silent) == []

    effects = supervisor.tick(silent + 1)

    assert effects == [Kill("trade", "no sign of life for 3 heartbeats")]
    assert supervisor.tick(silent + 2) == []


def test_any_sign_of_life_counts():
    supervisor, now = started("trade"), 0
    for at in range(10):
        now += 2 * HEARTBEAT
        supervisor.heard("trade", now, position=at)
        assert supervisor.tick(now + HEARTBEAT) == []

    assert supervisor.hosts["trade"].position == 9


def test_a_host_that_never_gets_ready_is_ended():
    supervisor = Supervisor(["trade"], HEARTBEAT)
    supervisor.start(0)
    supervisor.heard("trade", START_LIMIT_NS)

    assert supervisor.tick(START_LIMIT_NS) == []
    assert supervisor.tick(START_LIMIT_NS + 1) == [Kill("trade", "not ready 60 s after its start")]


def test_a_stop_that_was_asked_for_is_no_death():
    supervisor = started("trade")
    supervisor.stopping("trade")

    effects = die(supervisor, "trade", 5)

    assert effects == [Report("trade", "stopped", -1)]
    assert supervisor.hosts["trade"].phase is HostPhase.STOPPED
    assert supervisor.hosts["trade"].deaths == []
    assert supervisor.tick(1000 * NS_PER_S) == []


def test_a_host_that_was_stopped_to_start_anew_starts_at_once():
    supervisor = started("trade")
    supervisor.stopping("trade", respawn=True)

    effects = die(supervisor, "trade", 5)

    assert effects == [Report("trade", "stopped", 0), Spawn("trade")]
    assert supervisor.hosts["trade"].phase is HostPhase.STARTING
    supervisor.ready("trade", 6, 0, Role.CONSUMER)
    supervisor.stopping("trade")
    assert die(supervisor, "trade", 7) == [Report("trade", "stopped", -1)]


def test_a_host_that_hangs_while_it_stops_is_ended():
    supervisor = started("trade")
    supervisor.stopping("trade", respawn=True)
    supervisor.heard("trade", NS_PER_S)  # it still had messages to take

    assert supervisor.tick(NS_PER_S + STOP_LIMIT_NS) == []
    assert supervisor.tick(NS_PER_S + STOP_LIMIT_NS + 1) == [
        Kill("trade", "silent for 20 s after it was to stop")
    ]
    assert die(supervisor, "trade", 30 * NS_PER_S)[-1] == Spawn("trade")


def test_an_unfit_host_stays_down_and_says_why():
    supervisor = Supervisor(["trade"], HEARTBEAT)
    supervisor.start(0)

    supervisor.unfit("trade", "sim-fifo: no such option")

    assert die(supervisor, "trade", 1, "exit code 2") == [Report("trade", "sim-fifo: no such option", -1)]
    assert supervisor.hosts["trade"].phase is HostPhase.QUARANTINED
    assert supervisor.tick(1000 * NS_PER_S) == []


def test_a_host_can_be_added_and_brought_back_later():
    supervisor = started("trade")

    assert supervisor.add("record", 5) == [Spawn("record")]
    assert not supervisor.is_settled
    supervisor.ready("record", 6, 0, Role.CONSUMER)
    supervisor.stopping("record")
    die(supervisor, "record", 7)
    assert supervisor.add("record", 8) == [Spawn("record")]


def test_only_those_who_take_every_message_are_waited_for():
    supervisor = started(*NAMES, "console")
    supervisor.heard("trade", 1, 900)
    supervisor.heard("record", 1, 500)

    supervisor.heard("record", 2, 400)  # a late report does not take it back

    assert [(host.name, host.position) for host in supervisor.consumers()] == [
        ("trade", 900),
        ("record", 500),
    ]
    assert [host.name for host in supervisor.sources()] == ["market"]


@pytest.mark.parametrize(("how", "counts"), [("died", True), ("quarantined", False), ("stopping", False)])
def test_a_host_that_comes_back_is_waited_for_and_one_that_does_not_is_not(how, counts):
    supervisor = started("trade", "record")
    if how == "died":
        die(supervisor, "record", 2)
    elif how == "quarantined":
        supervisor.unfit("record", "broken")
    else:
        supervisor.stopping("record")

    assert [host.name for host in supervisor.consumers()] == (["trade", "record"] if counts else ["trade"])


@dataclass
class World:
    """Processes that do as they please, and the supervisor's word carried out."""

    supervisor: Supervisor = field(default_factory=lambda: Supervisor(NAMES, HEARTBEAT))
    running: set[str] = field(default_factory=set)

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Spawn):
                assert effect.host not in self.running, "started twice"
                self.running.add(effect.host)
                self.supervisor.spawned(effect.host, 1)


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(("ready", "die", "stop", "wait")))))
def test_a_host_never_runs_twice_and_never_stays_down_unless_it_was_told_to(events):
    world, now = World(), 0
    world.carry_out(world.supervisor.start(now))
    for name, event in events:
        now += NS_PER_S // 10
        host = world.supervisor.hosts[name]
        if event == "ready" and name in world.running:
            world.supervisor.ready(name, now, 0, Role.CONSUMER)
        elif event == "die" and name in world.running:
            world.running.remove(name)
            world.carry_out(world.supervisor.exited(name, "died", now))
        elif event == "stop" and host.phase is HostPhase.READY:
            world.supervisor.stopping(name)
        for alive in world.running:
            world.supervisor.heard(alive, now)
        world.carry_out(world.supervisor.tick(now))

    for host in world.supervisor.hosts.values():
        is_up = host.phase in (HostPhase.STARTING, HostPhase.READY, HostPhase.STOPPING)
        assert is_up == (host.name in world.running)
