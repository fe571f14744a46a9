"""Whether it is well: which state, what is wrong since when, and canaries that come back or do not."""

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import NS_PER_MS, NS_PER_S, StoreFull, health
from tickerml.kernel.control import Role
from tickerml.kernel.health import Canary, Condition, Health, State
from tickerml.kernel.supervisor import Host, HostPhase

SICK = Condition("trade", "is down")
STARTING = Condition("kernel", "waits for its hosts", State.STARTING)
HALTED = Condition("drawdown", "26 % >= 25 %", State.HALTED)
STOPPING = Condition("kernel", "SIGTERM", State.STOPPING)


@pytest.fixture(autouse=True)
def logged():
    with structlog.testing.capture_logs() as events:
        yield events


def host(name: str, role: Role = Role.CONSUMER, phase: HostPhase = HostPhase.READY, reason: str = "") -> Host:
    made = Host(name)
    made.role, made.phase, made.reason = role, phase, reason
    return made


# --- The state --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ([], State.RUNNING),
        ([SICK], State.DEGRADED),
        ([STARTING, SICK], State.STARTING),
        ([SICK, HALTED, STARTING], State.HALTED),
        ([STOPPING, HALTED, SICK], State.STOPPING),
    ],
)
def test_the_gravest_condition_is_the_state(conditions, state):
    well = Health()

    assert well.update(1, conditions) is state
    assert well.state is state


def test_it_is_starting_until_it_has_been_told_anything():
    assert Health().state is State.STARTING
    assert Health().report() == []
    assert Health().halted_by == ""


def test_a_condition_is_kept_with_since_when_it_holds_although_its_reason_counts_on():
    well = Health()
    well.update(10, [Condition("trade", "no canary for 3.1 s", about="canary")])
    well.update(
        11, [Condition("trade", "no canary for 4.1 s", about="canary"), Condition("trade", "is late")]
    )

    assert well.report() == [
        {"part": "trade", "reason": "no canary for 4.1 s", "since_ns": 10},
        {"part": "trade", "reason": "is late", "since_ns": 11},
    ]


def test_a_condition_that_comes_back_begins_anew():
    well = Health()
    well.update(10, [SICK])
    well.update(11, [])
    well.update(12, [SICK])

    assert well.report() == [{"part": "trade", "reason": "is down", "since_ns": 12}]


def test_what_halts_is_named_apart_from_what_is_degraded():
    well = Health()
    well.update(10, [HALTED, SICK])

    assert well.halted_by == "drawdown: 26 % >= 25 %"
    assert [row["part"] for row in well.report()] == ["trade"]
    well.update(11, [SICK])
    assert well.halted_by == ""


def test_a_change_of_the_state_is_logged_once_with_what_made_it(logged):
    well = Health()
    for now, conditions in enumerate([[STARTING], [], [], [SICK], [SICK], [HALTED, SICK], []], 1):
        well.update(now, conditions)

    assert [(each["state"], each["was"], each["because"], each["log_level"]) for each in logged] == [
        ("running", "starting", "", "info"),
        ("degraded", "running", "trade: is down", "warning"),
        ("halted", "degraded", "drawdown: 26 % >= 25 %", "warning"),
        ("running", "halted", "", "info"),
    ]
    assert well.since_ns == 7


def test_the_state_stands_since_it_changed_and_not_since_another_condition_came():
    well = Health()
    well.update(1, [])
    well.update(5, [SICK])
    well.update(9, [SICK, Condition("record", "is down")])

    assert well.since_ns == 5


# --- Where conditions come from -----------------------------------------------------------------------


def test_a_host_that_is_not_ready_is_a_condition_unless_a_person_stopped_it():
    hosts = [host(phase.value, phase=phase) for phase in HostPhase]

    assert {condition.part for condition in health.of_hosts(hosts)} == {
        "waiting",
        "down",
        "starting",
        "stopping",
        "quarantined",
    }


def test_a_quarantine_is_told_with_the_reason_that_was_kept():
    (condition,) = health.of_hosts([host("trade", phase=HostPhase.QUARANTINED, reason="5 failures in 60 s")])

    assert condition == Condition("trade", "quarantined: 5 failures in 60 s", about="host")


def test_a_quarantined_host_without_which_nothing_may_trade_is_a_halt():
    hosts = [host("trade", phase=HostPhase.QUARANTINED), host("rules", phase=HostPhase.DOWN)]

    states = [condition.state for condition in health.of_hosts(hosts, {"trade", "rules"})]

    assert states == [State.HALTED, State.DEGRADED]


def test_a_host_that_goes_down_and_up_again_is_not_well_since_it_went_down():
    well, trade = Health(), host("trade", phase=HostPhase.DOWN, reason="killed by SIGKILL")
    well.update(1, health.of_hosts([trade]))
    trade.phase = HostPhase.STARTING
    well.update(2, health.of_hosts([trade]))

    assert well.report() == [{"part": "trade", "reason": "starting: killed by SIGKILL", "since_ns": 1}]


def test_failed_plugins_lost_feeds_and_a_failed_journal_are_conditions():
    assert health.of_plugins({"risk-x": "on_trade: ValueError"}) == [
        Condition("risk-x", "failed at on_trade: ValueError", about="failed")
    ]
    assert health.of_feeds({"binanceus": "silent"}) == [
        Condition("binanceus", "feed lost: silent", about="feed")
    ]
    assert health.of_channels({"binanceus BTC/USD trade": "none"}) == [
        Condition("binanceus BTC/USD trade", "channel lost: none", about="channel")
    ]
    assert health.of_journal(None) == []
    well = Health()
    assert well.update(1, health.of_journal(StoreFull("the journal is full"))) is State.HALTED
    assert well.halted_by == "journal: the journal is full"


def test_a_halt_is_a_condition_with_its_source_and_its_reason():
    assert health.of_halt("") == []
    well = Health()
    well.update(1, health.of_halt("risk-drawdown: drawdown: 26 %"))
    assert well.halted_by == "risk-drawdown: drawdown: 26 %"


# --- Canaries -----------------------------------------------------------------------------------------

MARKET = host("market", Role.SOURCE)
TRADE = host("trade")
CONSOLE = host("console", Role.PAGE)
HOSTS = [MARKET, TRADE, CONSOLE]


class Flight:
    """One canary a second; who is named hands each of them back, a consumer 5 ms later."""

    def __init__(self) -> None:
        self.hosts = HOSTS
        self.canary = Canary()
        self.number = 0
        self.now = 0

    def fly(self, seconds: int, *homing: str) -> list[Condition]:
        for _ in range(seconds):
            self.now += NS_PER_S
            self.number += 1
            self.canary.sent(self.number, self.now)
            for name in homing:
                later = 5 * NS_PER_MS if name == "trade" else 0
                self.canary.returned(name, self.number, self.now + later)
        return self.look()

    def look(self) -> list[Condition]:
        return self.canary.conditions(self.now, self.hosts)


@pytest.fixture
def flight():
    return Flight()


def test_canaries_that_come_back_are_no_condition_and_their_time_is_told(flight):
    assert flight.fly(10, "market", "trade") == []
    assert flight.canary.report() == {"market": 0.0, "trade": 5.0}


def test_a_consumer_that_does_not_hand_the_canary_back_for_three_seconds_is_named(flight):
    flight.fly(10, "market", "trade")

    assert flight.fly(3, "market") == []
    assert flight.fly(1, "market") == [Condition("trade", "no canary for 3.0 s", about="canary")]
    assert flight.fly(60, "market") == [Condition("trade", "no canary for 63.0 s", about="canary")]


def test_a_source_that_lets_no_canary_out_is_named_alone(flight):
    flight.fly(10, "market", "trade")

    assert flight.fly(4) == [Condition("market", "no canary for 3.0 s", about="canary")]
    assert [condition.part for condition in flight.fly(600)] == ["market"]


def test_of_two_sources_the_dead_one_is_named(flight):
    flight.hosts = [*HOSTS, host("market-2", Role.SOURCE)]

    flight.fly(10, "market", "market-2", "trade")

    assert [condition.part for condition in flight.fly(4, "market", "trade")] == ["market-2"]


def test_a_loss_and_a_return_are_logged_once_each(flight, logged):
    flight.fly(2, "market", "trade")
    for _ in range(200):
        flight.fly(1, "market")
    for _ in range(10):
        flight.fly(1, "market", "trade")

    assert logged == [
        {"event": "canary.lost", "log_level": "warning", "host": "trade", "for_s": 3.0},
        {"event": "canary.returned", "log_level": "info", "host": "trade", "round_trip_ms": 5.0},
    ]


def test_a_consumer_that_is_always_late_is_lost_once_and_stays_so(flight, logged):
    for _ in range(60):
        flight.fly(1, "market")
        flight.canary.returned("trade", flight.number - 6, flight.now)
        flight.look()

    assert [event["event"] for event in logged] == ["canary.lost"]
    assert flight.look() == [Condition("trade", "no canary for 5.0 s", about="canary")]
    assert flight.canary.report()["trade"] == 6000.0


def test_a_loss_stays_one_when_the_source_is_lost_too(flight, logged):
    flight.fly(4, "market", "trade")
    flight.fly(10, "market")
    for _ in range(300):
        flight.fly(1)

    assert {condition.part for condition in flight.look()} == {"market", "trade"}
    assert [event["event"] for event in logged] == ["canary.lost", "canary.lost"]


@pytest.mark.parametrize("absence_s", [4, 60, 3600])
def test_a_kernel_that_stood_still_misses_no_canary(flight, logged, absence_s):
    flight.fly(10, "market", "trade")
    flight.fly(1)
    flight.now += absence_s * NS_PER_S

    assert flight.look() == []
    flight.number += 1
    flight.canary.sent(flight.number, flight.now)
    assert flight.look() == []
    flight.canary.returned("market", flight.number, flight.now)
    flight.canary.returned("trade", flight.number, flight.now)
    assert flight.fly(5, "market", "trade") == []
    assert logged == []


def test_a_host_that_has_come_back_has_three_seconds_from_when_it_was_ready(flight):
    flight.fly(30, "market", "trade")
    assert flight.fly(30, "market") != []
    trade = host("trade", phase=HostPhase.STARTING)
    flight.hosts = [MARKET, trade]
    assert flight.fly(5, "market") == []

    trade.phase, trade.ready_at = HostPhase.READY, flight.now

    assert flight.fly(2, "market") == []
    assert flight.fly(1, "market") == [Condition("trade", "no canary for 3.0 s", about="canary")]


def test_a_canary_of_an_earlier_session_says_nothing_about_now(flight):
    flight.fly(10, "market")

    flight.canary.returned("trade", 5_000, flight.now)

    assert [condition.part for condition in flight.look()] == ["trade"]
    assert "trade" not in flight.canary.report()


def test_a_canary_that_comes_late_does_not_take_back_the_one_before(flight):
    flight.fly(5, "market", "trade")

    flight.canary.returned("trade", 2, flight.now + 5 * NS_PER_S)

    assert flight.canary.report()["trade"] == 5.0
    assert flight.fly(3, "market") == []


@given(st.lists(st.sets(st.sampled_from(["market", "trade"])), max_size=200))
def test_who_has_handed_back_one_of_the_last_three_is_never_named(homings):
    flight = Flight()
    for homing in homings:
        if "market" not in homing:
            homing = homing - {"trade"}  # nobody can hand back what is not out
        flight.fly(1, *homing)
        lost = {condition.part for condition in flight.look()}
        recent = homings[max(0, flight.number - 3) : flight.number]
        assert not {name for name in lost for each in recent if {name, "market"} <= each}
