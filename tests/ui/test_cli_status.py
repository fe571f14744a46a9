"""What `tickerml status` says: in words, as an exit code, and how scripts wait for a state."""

import json
import sys

import pytest

from tickerml.kernel import NS_PER_S, KernelUnreachable
from tickerml.kernel.guard import Phase
from tickerml.kernel.guard import Report as GuardReport
from tickerml.ui import cli, cli_status

NOON = 43_200 * NS_PER_S


def report_of(state: str = "running", **changes: object) -> dict[str, object]:
    host = {"state": "ready", "pid": 7, "restarts": 0, "lag": 3, "rss_mb": 40.0, "reason": ""}
    return {
        "state": state,
        "since_ns": NOON,
        "degraded": [],
        "halted_by": None,
        "halt_level": 0,
        "profile": "demo",
        "session": 3,
        "uptime_s": 7_265.2,
        "seq": 12_345,
        "messages_per_s": 250.4,
        "canary": {"trade": 1.5},
        "hosts": [{"host": "trade", "lag_s": 0.04, **host}, {"host": "console", "lag_s": 0.0, **host}],
        "plugins": [],
        "summary": {"orders": 3},
        **changes,
    }


def guard_of(**changes: object) -> GuardReport:
    facts = {
        "pid": 99,
        "kernel_pid": 100,
        "phase": next(iter(Phase)),
        "since_ns": 0,
        "restarts": 2,
        "reason": "killed by SIGKILL",
        "gave_up": False,
        "status": "",
        "deaths": [],
    }
    return GuardReport(**{**facts, **changes})


# --- Words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.9, "0 s"),
        (-3, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (3_600, "1 h"),
        (3_605, "1 h"),
        (7_265, "2 h 1 min"),
        (86_400 * 40 + 3_700, "40 d 1 h"),
    ],
)
def test_a_duration_is_said_in_its_two_largest_units(seconds, said):
    assert cli_status.duration(seconds) == said


def test_the_first_word_is_the_state_and_it_says_since_when():
    (line,) = cli_status.headline(report_of(), None, NOON + 65 * NS_PER_S)

    assert line == (
        "running since 1970-01-01 12:00:00 UTC (1 min 5 s)  profile demo  session 3  up 2 h 1 min  "
        "12,345 messages, 250/s"
    )


def test_what_halted_it_and_what_is_degraded_are_lines_of_their_own():
    report = report_of(
        "halted",
        halted_by="risk-drawdown: 26 % >= 25 %",
        halt_level=3,
        degraded=[{"part": "trade", "reason": "no canary for 3.2 s", "since_ns": NOON + 61 * NS_PER_S}],
    )

    _, *lines = cli_status.headline(report, None, NOON + 65 * NS_PER_S)

    assert lines == [
        "halted at level 3 (flatten) by risk-drawdown: 26 % >= 25 %",
        "degraded by trade: no canary for 3.2 s, since 1970-01-01 12:01:01 UTC (4 s)",
    ]


def test_who_watches_over_it_is_told_with_the_last_death():
    lines = cli_status.headline(report_of(), guard_of(), NOON)

    assert lines[-1] == "guard (pid 99): started it again 2 times, the last time because: killed by SIGKILL"
    assert cli_status.guarded(guard_of(restarts=0, reason="")) == "guard (pid 99): started it again 0 times"


def test_a_host_has_its_canarys_time_where_it_takes_part():
    rows = cli_status.host_rows(report_of())

    assert [(row["host"], row["lag_s"], row["canary_ms"]) for row in rows] == [
        ("trade", "0.0", 1.5),
        ("console", "0.0", "-"),
    ]


# --- The command --------------------------------------------------------------------------------------


class Kernel:
    """Answers with one state after another, the last for good; "dead" is none."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.asked = 0

    def __call__(self, home: object) -> "Kernel":
        return self

    def status(self) -> dict[str, object]:
        self.asked += 1
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state == "dead":
            raise KernelUnreachable("no kernel runs on HOME")
        return report_of(state)

    def close(self) -> None:
        pass


@pytest.fixture
def status(monkeypatch, tmp_path):
    """Run `tickerml status ...` on a kernel in these states; returns its exit code."""
    kernel = Kernel()
    monkeypatch.setattr(cli, "Client", kernel)
    monkeypatch.setattr(cli.time, "sleep", lambda _: None)

    def status(states: list[str], *arguments: str) -> int:
        kernel.states = states
        monkeypatch.setattr(sys, "argv", ["tickerml", "status", "--home", str(tmp_path), *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return status


@pytest.mark.parametrize(
    ("state", "code"),
    [("running", 0), ("starting", 0), ("dead", 3), ("degraded", 4), ("stopping", 4), ("halted", 5)],
)
def test_each_state_has_its_exit_code_also_as_json(status, state, code):
    assert status([state]) == code
    assert status([state], "--json") == code


def test_as_json_it_is_the_whole_report_and_the_guard(status, capsys):
    status(["degraded"], "--json")

    assert json.loads(capsys.readouterr().out) == {**report_of("degraded"), "guard": None}


def test_it_waits_for_a_state_and_ends_with_0_when_it_is_there(status, capsys):
    assert status(["dead", "starting", "degraded", "running", "running"], "--wait-for", "running") == 0
    assert capsys.readouterr().out.startswith("running since ")
    assert status(["running", "halted", "halted"], "--wait-for", "halted") == 0
    assert status(["running", "stopping", "dead"], "--wait-for", "dead", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"state": "dead"}


@pytest.mark.parametrize(
    ("states", "wanted", "code"),
    [(["degraded"], "running", 4), (["running"], "halted", 1), (["dead"], "running", 3)],
)
def test_a_state_that_does_not_come_in_time_is_a_failure_and_what_is_instead_is_shown(
    status, capsys, states, wanted, code
):
    assert status(states, "--wait-for", wanted, "--timeout", "0s") == code

    said = capsys.readouterr()
    assert f"tickerml: waited 0s for {wanted}, which did not come" in said.err
    assert said.out.startswith(states[0]) or states == ["dead"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wait-for", "runing"], "--wait-for runing: expected one of running, starting"),
        (["--wait-for", "running", "--timeout", "soon"], "--timeout soon: expected a duration like 20s"),
    ],
)
def test_what_cannot_be_waited_for_is_refused(status, capsys, arguments, said):
    assert status(["running"], *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_dead_kernel_whose_guard_gave_up_is_told_of_with_the_reason(status, capsys, monkeypatch):
    gone = guard_of(gave_up=True, restarts=4, reason="5 deaths in 60 s, the last: exit code 1")
    monkeypatch.setattr(cli.guard, "read_report", lambda home: gone)

    assert status(["dead"]) == 3
    assert "; the guard gave up after 4 restarts: 5 deaths in 60 s" in capsys.readouterr().err
