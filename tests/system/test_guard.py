"""The real kernel under its guard: killed, stopped in its tracks, restarted in place, and its disk spoilt."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tickerml.kernel import guard

pytestmark = pytest.mark.processes


def start(system: Any, watchdog_s: float = 10.0) -> dict[str, Any]:
    """Start a kernel on the wall clock under a guard; returns its status once it trades."""
    system.configure(clock="wall", speed="1", duration=0)
    system.start("--guard", "--watchdog", str(watchdog_s))
    report: dict[str, Any] = system.wait_until(is_trading)
    return report


def is_trading(report: dict[str, Any]) -> bool:
    return report["state"] == "running" and report["seq"] > 100


def wait_for_guard(system: Any, condition: Callable[[guard.Report], bool]) -> guard.Report:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (report := guard.read_report(system.home)) and condition(report):
            return report
        time.sleep(0.02)
    raise TimeoutError(f"it did not come to that: {guard.read_report(system.home)}")


def pids_of(report: dict[str, Any]) -> set[int]:
    return {report["pid"], *(row["pid"] for row in report["hosts"])}


def test_a_killed_kernel_trades_again_and_its_hosts_are_gone_with_it(system):
    first = start(system)
    os.kill(first["pid"], signal.SIGKILL)

    second = system.wait_until(lambda report: report["session"] > first["session"] and is_trading(report))

    assert second["seq"] > first["seq"]
    assert pids_of(first) & pids_of(second) == set()
    assert [pid for pid in pids_of(first) if Path(f"/proc/{pid}").exists()] == []
    report = wait_for_guard(system, lambda report: report.phase is guard.Phase.RUNNING)
    assert (report.restarts, report.reason) == (1, "killed by SIGKILL")
    assert json.loads(system.call("stop").stdout)["stopped"]
    code, _, err = system.finish()
    assert code == 0, err
    assert guard.read_report(system.home) is None


def test_a_kernel_that_hangs_is_found_by_its_silence_and_replaced(system):
    first = start(system, watchdog_s=3)
    os.kill(first["pid"], signal.SIGSTOP)

    second = system.wait_until(lambda report: report["session"] > first["session"] and is_trading(report))

    assert second["pid"] != first["pid"]
    report = wait_for_guard(system, lambda report: report.phase is guard.Phase.RUNNING)
    assert report.reason == "no sign of life for 3 s"


def test_a_restart_in_place_is_a_new_session_of_the_same_process(system):
    first = start(system)

    answer = json.loads(system.call("restart").stdout)

    assert answer["session"] == first["session"] + 1
    assert answer["pid"] == first["pid"]
    system.wait_until(is_trading)
    report = wait_for_guard(system, lambda report: report.phase is guard.Phase.RUNNING)
    assert (report.restarts, report.deaths) == (0, [])
    # The watchdog of before is told of the new session as well.
    assert report.kernel_pid == first["pid"]


def test_a_hangup_of_the_guard_restarts_the_kernel_in_place(system):
    first = start(system)
    system.process.send_signal(signal.SIGHUP)

    second = system.wait_until(lambda report: report["session"] > first["session"])

    assert second["pid"] == first["pid"]


def test_a_guard_that_is_told_to_end_stops_its_kernel_cleanly(system):
    first = start(system)
    system.process.terminate()
    code, out, err = system.finish()

    assert code == 0, err
    assert json.loads(out)["stopped_because"] == "SIGTERM"
    assert [pid for pid in pids_of(first) if Path(f"/proc/{pid}").exists()] == []


def test_a_kernel_whose_guard_is_killed_stops_cleanly(system):
    first = start(system)
    system.process.kill()
    system.process.communicate(timeout=60)

    until = time.monotonic() + 60
    while Path(f"/proc/{first['pid']}").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    assert not (system.home / "kernel.json").exists()


def test_a_configuration_that_is_refused_is_tried_once(system):
    system.configure()

    done = system.run("--guard", "--set", "exchange-synthetic.seed=-1")

    assert done.returncode == 2
    assert len(re.findall(r"^tickerml: .*exchange-synthetic\.options\.seed", done.stderr, re.M)) == 1
    assert "kernel.started" not in done.stderr
    assert guard.read_report(system.home) is None
