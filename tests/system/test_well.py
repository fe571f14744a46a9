"""A real system says by itself whether it is well: which part is not, since when, and when it is again."""

import json
import os
import signal
from typing import Any

import pytest

pytestmark = pytest.mark.processes


@pytest.fixture
def running(system: Any) -> Any:
    """A system on the wall clock that trades."""
    system.configure(clock="wall", speed="1", duration=0)
    system.start()
    assert system.call("status", "--wait-for", "running").returncode == 0
    return system


def pid_of(running: Any, host: str) -> int:
    report = json.loads(running.call("status").stdout)
    return next(int(row["pid"]) for row in report["hosts"] if row["host"] == host)


def test_a_canary_crosses_every_host_that_takes_part(running: Any) -> None:
    report = running.wait_until(lambda report: len(report["canary"]) == 3)

    assert report["canary"].keys() == {"market", "trade", "record"}
    assert report["degraded"] == []
    assert running.call("status").returncode == 0


def test_a_host_that_is_killed_is_named_until_it_is_back(running: Any) -> None:
    killed = pid_of(running, "trade")

    os.kill(killed, signal.SIGKILL)
    report = running.wait_until(lambda report: report["degraded"])
    assert (report["state"], report["degraded"][0]["part"]) == ("degraded", "trade")
    assert "killed by SIGKILL" in report["degraded"][0]["reason"]

    assert running.call("status", "--wait-for", "running").returncode == 0
    assert pid_of(running, "trade") != killed


def test_a_host_that_hangs_is_found_ended_and_replaced(running: Any) -> None:
    hung = pid_of(running, "trade")

    os.kill(hung, signal.SIGSTOP)
    report = running.wait_until(lambda report: any(row["restarts"] for row in report["hosts"]))
    row = next(row for row in report["hosts"] if row["host"] == "trade")
    assert row["reason"] == "no sign of life for 3 heartbeats"

    assert running.call("status", "--wait-for", "running").returncode == 0


def test_a_halt_is_an_exit_code_of_its_own(running: Any) -> None:
    running.call("halt", "--reason", "lunch")

    assert running.call("status", "--wait-for", "halted").returncode == 0
    assert running.call("status").returncode == 5
    running.call("resume")
    assert running.call("status", "--wait-for", "running").returncode == 0


def test_a_kernel_that_stood_still_blames_no_host_for_it(running: Any) -> None:
    report = running.wait_until(lambda report: report["seq"] > 100)
    before = {row["host"]: row["pid"] for row in report["hosts"]}

    os.kill(report["pid"], signal.SIGSTOP)
    try:
        assert running.call("status", "--wait-for", "running", "--timeout", "1s").returncode == 3
    finally:
        os.kill(report["pid"], signal.SIGCONT)

    assert running.call("status", "--wait-for", "running").returncode == 0
    after = running.wait_until(lambda later: later["seq"] > report["seq"] + 500)
    assert {row["host"]: row["pid"] for row in after["hosts"]} == before
