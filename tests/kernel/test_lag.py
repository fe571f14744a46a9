"""How late a consumer is: by time, not by messages; and when there is no hope for it."""

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import NS_PER_MS, NS_PER_S
from tickerml.kernel.health import Condition
from tickerml.kernel.lag import CAPACITY, STEP_NS, Lag, LagWatch

LIMIT = 5 * NS_PER_S


@pytest.fixture(autouse=True)
def logged():
    with structlog.testing.capture_logs() as events:
        yield events


# --- How late ---------------------------------------------------------------------------------------


def test_who_has_taken_everything_is_not_late_however_long_nothing_comes():
    lag = Lag()
    lag.note(10, NS_PER_S)

    assert lag.behind_ns(10, 3600 * NS_PER_S) == 0
    assert Lag().behind_ns(0, 3600 * NS_PER_S) == 0


def test_who_has_not_taken_a_message_is_as_late_as_it_is_old():
    lag = Lag()
    for second in range(1, 6):
        lag.note(second * 100, second * NS_PER_S)

    assert lag.behind_ns(0, 6 * NS_PER_S) == 5 * NS_PER_S
    assert lag.behind_ns(299, 6 * NS_PER_S) == 3 * NS_PER_S
    assert lag.behind_ns(300, 6 * NS_PER_S) == 2 * NS_PER_S
    assert lag.behind_ns(500, 6 * NS_PER_S) == 0


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 40)), min_size=1, max_size=300),
    st.integers(0, 20_000),
)
def test_it_is_right_to_within_one_step(steps, position):
    lag, stamped = Lag(), []
    seq, now = 0, NS_PER_S
    for more, pause in steps:
        seq, now = seq + more, now + pause * NS_PER_MS
        stamped.append((seq, now))
        lag.note(seq, now)
    now += NS_PER_S

    true = next((now - at for marker, at in stamped if marker > position), 0)

    found = lag.behind_ns(position, now)
    assert true <= found < true + STEP_NS if true else found == 0


def test_months_of_notes_take_no_more_room_than_an_hour_and_half_an_hour_is_always_known():
    lag, count = Lag(), 10 * CAPACITY
    for seq in range(1, count + 1):
        lag.note(seq, seq * NS_PER_S)
        assert len(lag._seqs) == len(lag._times) <= CAPACITY

    for behind in (1, 60, 1800, 100_000):
        found = lag.behind_ns(count - behind, count * NS_PER_S)
        assert min(behind - 1, 1800) * NS_PER_S <= found <= (behind - 1) * NS_PER_S


def test_many_markers_at_once_take_the_room_of_a_few():
    lag = Lag()
    for seq in range(1, 10_001):
        lag.note(seq, seq * NS_PER_MS // 10)

    assert len(lag._seqs) <= NS_PER_S // STEP_NS + 1


# --- When to say so, and when there is no hope --------------------------------------------------------


def look(watch: LagWatch, lags_s: list[float], limit: int = LIMIT, since: int = 0) -> list[str]:
    """Look at a host once a second; returns the reasons that were given."""
    seconds = enumerate(lags_s, since)
    return [watch.look("trade", int(lag * NS_PER_S), limit, second * NS_PER_S) for second, lag in seconds]


def test_it_says_once_that_a_host_is_late_and_once_that_it_has_caught_up(logged):
    look(LagWatch(), [0, 0.9, 1.2, 2.5, 0.8, 1.4, 0.6, 0.4, 0, 0])

    assert logged == [
        {"event": "host.fell_late", "log_level": "warning", "host": "trade", "behind_s": 1.2},
        {"event": "host.caught_up", "log_level": "info", "host": "trade"},
    ]


def test_a_late_host_is_a_condition_until_it_has_caught_up():
    watch = LagWatch()

    look(watch, [0, 3.25])
    assert watch.conditions() == [Condition("trade", "3.2 s behind", about="lag")]
    look(watch, [0.1], since=2)
    assert watch.conditions() == []


def test_a_host_that_does_not_gain_for_as_long_as_it_may_be_late_is_hopeless():
    reasons = look(LagWatch(), [4, 5.1, 6, 7, 8, 9, 10.2])

    assert reasons == [*[""] * 6, "10.2 s behind and not gaining, its limit is 5 s"]


def test_a_host_that_gains_is_never_hopeless_however_late_it_is():
    gaining = [100 - 0.15 * second for second in range(600)]

    assert set(look(LagWatch(), gaining)) == {""}


def test_a_host_that_gains_less_than_a_tenth_of_its_limit_in_that_time_is_hopeless():
    crawling = [100 - 0.05 * second for second in range(20)]

    assert any(look(LagWatch(), crawling))


def test_a_host_that_works_off_a_burst_is_never_hopeless_though_it_grows_later():
    watch = LagWatch()

    reasons = [
        watch.look(
            "trade", (6 + second) * NS_PER_S, LIMIT, second * NS_PER_S, backlog=300_000 - 10_000 * second
        )
        for second in range(25)
    ]

    assert set(reasons) == {""}


def test_a_host_whose_backlog_grows_is_hopeless():
    watch = LagWatch()

    reasons = [
        watch.look("trade", (6 + second) * NS_PER_S, LIMIT, second * NS_PER_S, backlog=50_000 + second)
        for second in range(9)
    ]

    assert any(reasons)


def test_a_host_that_was_under_its_limit_in_between_begins_anew():
    assert set(look(LagWatch(), [6, 6, 6, 6, 4, 6, 6, 6, 6, 0.7, 6, 6, 6, 6])) == {""}


def test_without_a_limit_no_host_is_hopeless():
    assert set(look(LagWatch(), [1000.0 + second for second in range(100)], limit=0)) == {""}


def test_a_kernel_that_stood_still_does_not_take_its_absence_for_the_hosts():
    watch = LagWatch()
    look(watch, [5.5, 6])

    assert watch.look("trade", 70 * NS_PER_S, LIMIT, 3600 * NS_PER_S) == ""


def test_a_host_that_comes_back_from_its_checkpoint_is_not_judged_by_what_was_before():
    watch = LagWatch()
    look(watch, [6, 6, 6, 6, 6])

    watch.forget("trade")

    assert watch.conditions() == []
    assert set(look(watch, [6, 6, 6, 6, 6], since=60)) == {""}


def test_one_late_host_says_nothing_of_another():
    watch = LagWatch()
    for second in range(20):
        watch.look("trade", 9 * NS_PER_S, LIMIT, second * NS_PER_S)
        assert watch.look("record", 0, LIMIT, second * NS_PER_S) == ""

    assert [condition.part for condition in watch.conditions()] == ["trade"]
