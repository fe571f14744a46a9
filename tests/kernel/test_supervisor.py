"""The supervisor: what dies comes back a little later, what keeps dying stays down, what hangs is ended."""

import random
from graphlib import CycleError

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tickerml.kernel import NS_PER_MS, NS_PER_S
from tickerml.kernel.control import Role
from tickerml.kernel.supervisor import (
    FIRST_DELAY_NS,
    JITTER,
    LAST_DELAY_NS,
    LIVENESS,
    MAX_RESTARTS,
    RESTART_WINDOW_NS,
    START_LIMIT_NS,
    STEADY_NS,
    STOP_LIMIT_NS,
    Effect,
    HostPhase,
    Kill,
    Report,
    Spawn,
    Supervisor,
)

HEARTBEAT = NS_PER_S
STEP = HEARTBEAT // 2  # the longest that two ticks may be apart without being an absence
NAMES = ["market", "trade", "record"]
ROLES = {"market": Role.SOURCE, "console": Role.PAGE}


@pytest.fixture(autouse=True)
def logged():
    """The events that were logged, and nothing of them in the output."""
    with structlog.testing.capture_logs() as events:
        yield events


def started(*names: str, now: int = 0) -> Supervisor:
    """Return a supervisor whose hosts are all up."""
    supervisor = Supervisor(names, HEARTBEAT)
    supervisor.start(now)
    for pid, name in enumerate(names, 100):
        supervisor.spawned(name, pid)
        supervisor.ready(name, now, ROLES.get(name, Role.CONSUMER))
    return supervisor


def die(supervisor: Supervisor, name: str, now: int, reason: str = "exit code 1") -> list[Effect]:
    effects = supervisor.exited(name, reason, now)
    assert supervisor.hosts[name].pid == 0
    return effects


def wait(supervisor: Supervisor, since: int, until: int) -> list[Effect]:
    """Let the time pass as a kernel does that runs; returns all that the ticks asked for."""
    effects: list[Effect] = []
    for now in range(since + STEP, until, STEP):
        effects += supervisor.tick(now)
    return effects + supervisor.tick(until)


def test_starting_starts_every_host_in_its_order():
    supervisor = Supervisor(NAMES, HEARTBEAT)

    effects = supervisor.start(0)

    assert effects == [Spawn(name) for name in NAMES]
    assert not supervisor.is_settled


def test_it_is_settled_once_every_host_is_ready_or_never_will_be():
    supervisor = Supervisor(NAMES, HEARTBEAT)
    supervisor.start(0)
    supervisor.ready("market", 1, Role.SOURCE)
    supervisor.ready("trade", 1, Role.CONSUMER)
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
        supervisor.ready("trade", now, Role.CONSUMER)

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


@pytest.mark.parametrize(
    ("span", "phase"), [(RESTART_WINDOW_NS, HostPhase.DOWN), (RESTART_WINDOW_NS - 1, HostPhase.QUARANTINED)]
)
def test_a_minute_ends_with_its_last_nanosecond(span, phase):
    supervisor = started("trade")
    for now in (0, 10 * NS_PER_S, 20 * NS_PER_S, 30 * NS_PER_S, span):
        supervisor.tick(now)
        die(supervisor, "trade", now)

    assert supervisor.hosts["trade"].phase is phase


def test_deaths_that_are_far_apart_never_add_up():
    supervisor, now = started("trade"), 0
    for _ in range(20):
        now += 16 * NS_PER_S
        (report,) = die(supervisor, "trade", now)
        assert report == Report("trade", "exit code 1", FIRST_DELAY_NS)
        now += FIRST_DELAY_NS
        assert supervisor.tick(now) == [Spawn("trade")]
        supervisor.ready("trade", now, Role.CONSUMER)


def test_a_host_that_never_recovers_is_waited_for_longer_and_longer_up_to_half_a_minute():
    supervisor, now, delays = started("trade"), 0, []
    for _ in range(12):
        now += 20 * NS_PER_S
        (report,) = die(supervisor, "trade", now)
        assert isinstance(report, Report)
        delays.append(report.restart_in_ns)
        now += report.restart_in_ns
        assert supervisor.tick(now) == [Spawn("trade")]

    # The first came after it had been ready for long, all others while it was starting.
    assert delays == [min(FIRST_DELAY_NS * 2**n, LAST_DELAY_NS) for n in range(12)]


@pytest.mark.parametrize(
    ("ready_for", "delay"), [(STEADY_NS, FIRST_DELAY_NS), (STEADY_NS - 1, 400 * NS_PER_MS)]
)
def test_the_delay_begins_anew_once_a_host_has_been_ready_for_ten_seconds(ready_for, delay):
    supervisor, now = started("trade"), 0
    for _ in range(2):
        now += NS_PER_S
        die(supervisor, "trade", now)
        now += NS_PER_S
        supervisor.tick(now)
    supervisor.ready("trade", now, Role.CONSUMER)

    (report,) = die(supervisor, "trade", now + ready_for)

    assert report == Report("trade", "exit code 1", delay)


def test_hosts_that_are_felled_together_come_back_apart_from_each_other():
    names = [f"host-{n}" for n in range(40)]
    supervisor = Supervisor(names, HEARTBEAT, random.Random(7))
    supervisor.start(0)

    delays = [report.restart_in_ns for name in names for report in die(supervisor, name, 1)]  # type: ignore[union-attr]

    low, high = (int(FIRST_DELAY_NS * factor) for factor in JITTER)
    assert all(low <= delay <= high for delay in delays)
    assert len(set(delays)) == len(names)
    assert max(delays) - min(delays) > 0.8 * FIRST_DELAY_NS


@given(st.lists(st.integers(0, 40), max_size=30))
def test_it_is_quarantined_exactly_when_five_deaths_fall_within_a_minute(pauses):
    supervisor, now, deaths = started("trade"), 0, []
    for pause in pauses:
        if supervisor.hosts["trade"].phase is HostPhase.QUARANTINED:
            break
        now = max(now, supervisor.hosts["trade"].restart_at) + pause * NS_PER_S
        supervisor.tick(now)
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


def test_a_host_is_ended_after_three_silent_heartbeats():
    supervisor = started("trade", "record")
    silent = LIVENESS * HEARTBEAT
    assert wait(supervisor, 0, silent - 1) == []
    supervisor.heard("record", silent)
    assert supervisor.tick(silent) == []

    effects = supervisor.tick(silent + 1)

    assert effects == [Kill("trade", "no sign of life for 3 heartbeats")]
    assert supervisor.tick(silent + 2) == []


def test_a_process_that_does_not_go_away_is_ended_again_and_its_successor_waits():
    supervisor = started("trade")
    kill = Kill("trade", "no sign of life for 3 heartbeats")

    effects = wait(supervisor, 0, 20 * HEARTBEAT)

    assert set(effects) == {kill}
    assert len(effects) == 5
    assert die(supervisor, "trade", 20 * HEARTBEAT)[0].host == "trade"
    assert wait(supervisor, 20 * HEARTBEAT, 21 * HEARTBEAT) == [Spawn("trade")]


def test_a_late_word_of_a_host_that_is_being_ended_does_not_save_it():
    supervisor = started("trade")
    assert len(wait(supervisor, 0, 4 * HEARTBEAT)) == 1

    supervisor.heard("trade", 4 * HEARTBEAT)

    assert len(wait(supervisor, 4 * HEARTBEAT, 9 * HEARTBEAT)) == 1


def test_any_sign_of_life_counts():
    supervisor, now = started("trade"), 0
    for at in range(10):
        assert wait(supervisor, now, now + 2 * HEARTBEAT) == []
        now += 2 * HEARTBEAT
        supervisor.heard("trade", now, position=at)

    assert supervisor.hosts["trade"].position == 9


def test_a_host_that_does_not_get_on_while_it_starts_is_ended():
    supervisor = Supervisor(["trade"], HEARTBEAT)
    supervisor.start(0)
    supervisor.heard("trade", NS_PER_S, position=0)
    supervisor.heard("trade", START_LIMIT_NS, position=0)

    assert wait(supervisor, 0, NS_PER_S + START_LIMIT_NS) == []
    assert supervisor.tick(NS_PER_S + START_LIMIT_NS + 1) == [
        Kill("trade", "not ready, and no progress for 60 s")
    ]


def test_a_host_that_has_much_to_catch_up_with_is_waited_for_as_long_as_it_gets_on():
    supervisor = started("trade")
    supervisor.heard("trade", 0, position=1_000_000)
    die(supervisor, "trade", 1)
    now = NS_PER_S
    assert supervisor.tick(now) == [Spawn("trade")]

    # It passes again what it had taken before its last checkpoint: 30 s each, ten minutes in all.
    for position in range(20):
        assert wait(supervisor, now, now + 30 * NS_PER_S) == []
        now += 30 * NS_PER_S
        supervisor.heard("trade", now, position)

    assert supervisor.hosts["trade"].position == 1_000_000


# --- A kernel that stood still ------------------------------------------------------------------------


@pytest.mark.parametrize("absence_s", [2, 5, 60, 3600 * 8])
def test_nobody_is_ended_for_an_absence_of_the_kernel(absence_s, logged):
    supervisor = started(*NAMES)
    assert wait(supervisor, 0, HEARTBEAT) == []
    now = HEARTBEAT + absence_s * NS_PER_S

    assert supervisor.tick(now) == []  # nothing that came meanwhile has been read yet
    assert wait(supervisor, now, now + HEARTBEAT) == []
    for name in NAMES:
        supervisor.heard(name, now + HEARTBEAT)
    assert wait(supervisor, now + HEARTBEAT, now + 3 * HEARTBEAT) == []
    assert logged == [{"event": "kernel.stood_still", "log_level": "warning", "for_s": absence_s - 0.5}]


def test_a_host_that_hung_is_found_soon_after_an_absence_of_the_kernel():
    supervisor = started("trade", "record")
    now = 60 * NS_PER_S
    effects: list[Effect] = []
    for at in range(now, now + 4 * HEARTBEAT, STEP):
        supervisor.heard("record", at)
        effects += supervisor.tick(at)

    assert effects == [Kill("trade", "no sign of life for 3 heartbeats")]


def test_a_kernel_that_is_always_slow_still_finds_who_hangs():
    supervisor = started("trade")

    effects = [effect for n in range(1, 8) for effect in supervisor.tick(n * 2 * HEARTBEAT)]

    assert effects[0] == Kill("trade", "no sign of life for 3 heartbeats")


def test_a_host_that_was_to_start_or_to_stop_is_not_blamed_for_an_absence_either():
    supervisor = started("trade")
    supervisor.add("record", 0)
    supervisor.stopping("trade")

    assert supervisor.tick(3600 * NS_PER_S) == []
    assert supervisor.tick(3600 * NS_PER_S + STEP) == []


# --- What is ended for other reasons ------------------------------------------------------------------


def test_a_host_that_uses_too_much_is_ended_once_and_has_died_of_it():
    supervisor = started("trade", "record")

    effects = supervisor.overuse("trade", "uses 312 MB, its limit is 300 MB")

    assert effects == [Kill("trade", "uses 312 MB, its limit is 300 MB")]
    assert supervisor.overuse("trade", "uses 313 MB, its limit is 300 MB") == []
    assert supervisor.late("trade", "9 s behind") == []
    (report,) = die(supervisor, "trade", 1, "uses 312 MB, its limit is 300 MB")
    assert report == Report("trade", "uses 312 MB, its limit is 300 MB", FIRST_DELAY_NS)
    assert supervisor.overuse("trade", "it is not even there") == []


def test_a_host_that_is_hopelessly_late_five_times_is_quarantined_with_the_reason():
    supervisor, now = started("trade"), 0
    for _ in range(MAX_RESTARTS):
        assert supervisor.late("trade", "9 s behind") == [Kill("trade", "9 s behind")]
        die(supervisor, "trade", now, "9 s behind")
        now += 2 * NS_PER_S
        supervisor.tick(now)
        supervisor.ready("trade", now, Role.CONSUMER)

    assert supervisor.hosts["trade"].phase is HostPhase.QUARANTINED
    assert supervisor.hosts["trade"].reason == "5 failures in 60 s, the last: 9 s behind"


def test_a_host_that_catches_up_is_never_too_late_but_may_use_too_much():
    supervisor = Supervisor(["trade"], HEARTBEAT)
    supervisor.start(0)

    assert supervisor.late("trade", "90 s behind") == []
    assert supervisor.overuse("trade", "uses 312 MB") == [Kill("trade", "uses 312 MB")]


# --- The order of need --------------------------------------------------------------------------------

NEEDS = {"market": {"trade", "record"}, "trade": {"rules"}}


def needy() -> Supervisor:
    return Supervisor(["market", "trade", "record", "rules", "console"], HEARTBEAT, needs=NEEDS)


def test_a_host_is_started_when_all_that_it_needs_are_ready():
    supervisor = needy()
    assert supervisor.start(0) == [Spawn("record"), Spawn("rules"), Spawn("console")]
    assert supervisor.waits_for("market") == ["record", "trade"]

    supervisor.ready("rules", 1, Role.CONSUMER)
    assert supervisor.tick(2) == [Spawn("trade")]
    supervisor.ready("trade", 3, Role.CONSUMER)
    assert supervisor.tick(4) == []
    supervisor.ready("record", 5, Role.CONSUMER)
    assert supervisor.tick(6) == [Spawn("market")]
    assert not supervisor.is_settled


def test_a_host_that_will_never_be_ready_holds_up_nobody():
    supervisor = needy()
    supervisor.start(0)

    supervisor.unfit("rules", "its option is wrong")
    assert supervisor.tick(1) == [Spawn("trade")]
    supervisor.ready("trade", 2, Role.CONSUMER)
    supervisor.stopping("record")
    die(supervisor, "record", 3)

    assert supervisor.tick(4) == [Spawn("market")]


def test_one_that_dies_while_others_wait_for_it_holds_them_up_until_it_is_ready():
    supervisor = needy()
    supervisor.start(0)
    die(supervisor, "rules", 1)

    assert supervisor.tick(STEP) == [Spawn("rules")]
    assert supervisor.tick(STEP + 1) == []
    supervisor.ready("rules", STEP + 2, Role.CONSUMER)
    assert supervisor.tick(STEP + 3) == [Spawn("trade")]


def test_a_later_crash_starts_the_crashed_host_alone():
    supervisor, now = needy(), 0
    supervisor.start(now)
    for name in ("rules", "console", "record", "trade", "market"):
        supervisor.ready(name, now, ROLES.get(name, Role.CONSUMER))
        supervisor.tick(now)

    die(supervisor, "rules", 1)

    assert wait(supervisor, 1, HEARTBEAT) == [Spawn("rules")]


def test_a_host_that_has_not_been_started_takes_no_messages_and_is_not_waited_for():
    supervisor = needy()
    supervisor.start(0)

    assert [host.name for host in supervisor.consumers()] == ["record", "rules", "console"]


def test_needs_that_go_in_a_circle_are_refused():
    with pytest.raises(CycleError):
        Supervisor(["a", "b"], HEARTBEAT, needs={"a": {"b"}, "b": {"a"}})


def test_needs_of_hosts_that_are_not_there_are_no_needs():
    assert Supervisor(["a"], HEARTBEAT, needs={"a": {"b"}, "c": {"a"}}).start(0) == [Spawn("a")]


# --- What a person does -------------------------------------------------------------------------------


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
    supervisor.ready("trade", 6, Role.CONSUMER)
    supervisor.stopping("trade")
    assert die(supervisor, "trade", 7) == [Report("trade", "stopped", -1)]


def test_a_host_that_hangs_while_it_stops_is_ended():
    supervisor = started("trade")
    supervisor.stopping("trade", respawn=True)
    supervisor.heard("trade", NS_PER_S)  # it still had messages to take

    assert wait(supervisor, 0, NS_PER_S + STOP_LIMIT_NS) == []
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


def test_an_unfit_host_that_does_not_end_by_itself_is_ended():
    supervisor = started("trade")
    supervisor.unfit("trade", "its option is wrong")

    assert wait(supervisor, 0, STOP_LIMIT_NS) == []
    assert supervisor.tick(STOP_LIMIT_NS + 1) == [Kill("trade", "silent for 20 s after it was to stop")]
    assert die(supervisor, "trade", STOP_LIMIT_NS + 2) == [Report("trade", "its option is wrong", -1)]


def test_a_host_can_be_added_and_brought_back_later():
    supervisor = started("trade")

    assert supervisor.add("record", 5) == [Spawn("record")]
    assert not supervisor.is_settled
    supervisor.ready("record", 6, Role.CONSUMER)
    supervisor.stopping("record")
    die(supervisor, "record", 7)
    assert supervisor.add("record", 8) == [Spawn("record")]


def test_a_quarantine_is_lifted_by_a_person_and_what_was_before_is_forgotten():
    supervisor, now = started("trade"), 0
    for _ in range(MAX_RESTARTS):
        now += NS_PER_S
        die(supervisor, "trade", now)
        supervisor.tick(now + NS_PER_S - 1)
    assert supervisor.hosts["trade"].phase is HostPhase.QUARANTINED
    assert supervisor.hosts["trade"].restarts == MAX_RESTARTS - 1

    assert supervisor.add("trade", now) == [Spawn("trade")]

    assert supervisor.hosts["trade"].reason == ""
    assert die(supervisor, "trade", now + 1) == [Report("trade", "exit code 1", FIRST_DELAY_NS)]


def test_a_host_that_is_wanted_again_before_it_is_gone_is_started_when_it_is():
    supervisor = started("trade", "record")
    supervisor.stopping("trade")
    supervisor.unfit("record", "its option is wrong")

    assert supervisor.add("trade", 1) == []
    assert supervisor.add("record", 1) == []

    assert die(supervisor, "trade", 2) == [Report("trade", "stopped", 0), Spawn("trade")]
    assert die(supervisor, "record", 2) == [Report("record", "stopped", 0), Spawn("record")]


def test_a_host_that_runs_is_not_started_again():
    supervisor = started("trade")

    assert supervisor.add("trade", 1) == []
    assert supervisor.exited("trade", "exit code 1", 2) != []
    assert supervisor.exited("trade", "exit code 1", 2) == []


def test_a_host_that_is_down_stays_down_when_it_is_to_stop():
    supervisor = started("trade", "record")
    die(supervisor, "trade", 1)
    die(supervisor, "record", 1)

    supervisor.stopping("trade")
    supervisor.stopping("record", respawn=True)

    assert wait(supervisor, 1, HEARTBEAT) == [Spawn("record")]
    assert supervisor.hosts["trade"].phase is HostPhase.STOPPED


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


# --- Whatever happens ---------------------------------------------------------------------------------


class World(RuleBasedStateMachine):
    """Processes that do as they please, and the supervisor's word carried out; some do not go when killed."""

    def __init__(self) -> None:
        super().__init__()
        self.supervisor = Supervisor(NAMES, HEARTBEAT, random.Random(7), {"market": {"trade", "record"}})
        self.now = 0
        self.running: set[str] = set()
        self.hanging: set[str] = set()  # they say nothing
        self.unkillable: set[str] = set()
        self.deaths: dict[str, list[int]] = {name: [] for name in NAMES}
        self.carry_out(self.supervisor.start(self.now))

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Spawn(name):
                    assert name not in self.running, f"{name} was started twice"
                    self.running.add(name)
                    self.hanging.discard(name)
                    self.supervisor.spawned(name, 1)
                case Kill(name):
                    assert name in self.running, f"{name} was ended without a process"
                    if name not in self.unkillable:
                        self.end(name)

    def end(self, name: str) -> None:
        self.running.discard(name)
        is_death = self.phase(name) in (HostPhase.STARTING, HostPhase.READY)
        if is_death:
            self.deaths[name].append(self.now)
        self.carry_out(self.supervisor.exited(name, "died", self.now))
        if is_death:
            recent = [at for at in self.deaths[name] if self.now - at < RESTART_WINDOW_NS]
            assert (self.phase(name) is HostPhase.QUARANTINED) == (len(recent) >= MAX_RESTARTS)

    def phase(self, name: str) -> HostPhase:
        return self.supervisor.hosts[name].phase

    def pass_time(self, duration: int) -> None:
        self.now += duration
        for name in self.running - self.hanging:
            self.supervisor.heard(name, self.now)
        self.carry_out(self.supervisor.tick(self.now))

    names = st.sampled_from(NAMES)

    @rule(name=names)
    def dies(self, name: str) -> None:
        if name in self.running and name not in self.unkillable:
            self.end(name)

    @rule(name=names)
    def gets_ready(self, name: str) -> None:
        if name in self.running - self.hanging:
            self.supervisor.ready(name, self.now, ROLES.get(name, Role.CONSUMER))

    @rule(name=names)
    def hangs(self, name: str) -> None:
        self.hanging.add(name)

    @rule(name=names)
    def cannot_be_killed(self, name: str) -> None:
        self.unkillable.add(name)
        self.hanging.add(name)

    @precondition(lambda self: self.unkillable)
    @rule()
    def can_be_killed_again(self) -> None:
        self.unkillable.clear()

    @rule(name=names)
    def uses_too_much(self, name: str) -> None:
        self.carry_out(self.supervisor.overuse(name, "uses too much"))

    @rule(name=names)
    def is_too_late(self, name: str) -> None:
        self.carry_out(self.supervisor.late(name, "is late"))

    @rule(name=names)
    def is_unfit(self, name: str) -> None:
        if name in self.running and self.phase(name) is HostPhase.STARTING:
            self.supervisor.unfit(name, "its option is wrong")

    @rule(name=names, respawn=st.booleans())
    def is_stopped(self, name: str, respawn: bool) -> None:
        self.supervisor.stopping(name, respawn=respawn)
        self.deaths[name] = self.deaths[name] if name in self.running and not respawn else []

    @rule(name=names)
    def is_wanted(self, name: str) -> None:
        if self.phase(name) not in (HostPhase.STARTING, HostPhase.READY):
            self.deaths[name] = []
        self.carry_out(self.supervisor.add(name, self.now))

    @rule(duration=st.sampled_from((1, NS_PER_MS, NS_PER_S // 10, NS_PER_S, 20 * NS_PER_S, 90 * NS_PER_S)))
    def time_passes(self, duration: int) -> None:
        self.pass_time(duration)

    @invariant()
    def who_is_up_has_a_process_and_who_is_down_has_none(self) -> None:
        for host in self.supervisor.hosts.values():
            assert host.is_up == (host.name in self.running)
            if host.phase in (HostPhase.STARTING, HostPhase.READY, HostPhase.STOPPING):
                assert host.is_up

    def teardown(self) -> None:
        """The faults end: within a bound everyone is ready whom nobody has stopped or quarantined."""
        self.unkillable.clear()
        staying = (HostPhase.QUARANTINED, HostPhase.STOPPED)
        longest = START_LIMIT_NS + STOP_LIMIT_NS + int(LAST_DELAY_NS * JITTER[1])
        for _ in range(0, 2 * longest, STEP):  # one for those that are needed, one for who needs them
            for name in self.running - self.hanging:
                if self.phase(name) is HostPhase.STARTING:
                    self.supervisor.ready(name, self.now, ROLES.get(name, Role.CONSUMER))
                elif self.phase(name) is not HostPhase.READY:
                    self.end(name)
            self.pass_time(STEP)
        for name in NAMES:
            assert self.phase(name) in (HostPhase.READY, *staying)
        assert self.supervisor.is_settled


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
