"""A person at the command line can look at a running system and steer it."""

import json
from typing import Any

import pytest

from tickerml.kernel import TradingHalted, codec
from tickerml.kernel.journal import JournalReader

pytestmark = pytest.mark.processes


def states(report: dict[str, Any]) -> dict[str, str]:
    return {row["id"]: row["state"] for row in report["plugins"]}


@pytest.fixture
def running(system: Any) -> Any:
    system.configure(clock="wall", speed="1", duration=0)
    system.start()
    system.wait_until(lambda report: report["state"] == "running")
    return system


def test_status_shows_every_host_and_plugin(running: Any) -> None:
    report = json.loads(running.call("status").stdout)

    assert {row["host"] for row in report["hosts"]} == {"market", "trade", "record"}
    assert {row["state"] for row in report["plugins"]} == {"active"}


def test_a_halt_is_on_disk_when_it_is_answered_and_lasts_until_resume(running: Any) -> None:
    halted = json.loads(running.call("halt", "--reason", "lunch").stdout)
    frames = JournalReader(running.run_dir / "journal").frames(halted["seq"] - 1, halted["seq"])
    assert codec.unpack(next(frames)).topic == b"control."
    report = running.wait_until(lambda report: report["halted_by"])
    assert report["halted_by"] == "operator: lunch"
    assert report["state"] == "halted"

    running.call("resume")

    assert running.wait_until(lambda report: not report["halted_by"])["state"] == "running"


def test_a_halt_survives_a_restart(running: Any) -> None:
    running.call("halt", "--reason", "night")
    running.wait_until(lambda report: report["halted_by"])
    running.stop()

    running.start()
    report = running.wait_until(lambda report: report["uptime_s"] > 0 and report["state"] != "starting")

    assert report["halted_by"] == "operator: night"


def test_a_plugin_can_be_disabled_and_enabled_while_the_rest_runs(running: Any) -> None:
    running.call("plugin", "disable", "strategy-imbalance")
    running.wait_until(
        lambda report: (
            report["state"] == "running"
            and states(report)["strategy-imbalance"] == "blocked"
            and all(row["state"] == "ready" for row in report["hosts"])
        )
    )
    assert "enabled = false" in running.config.read_text()

    running.call("plugin", "enable", "strategy-imbalance", "--probation", "1s")

    running.wait_until(lambda report: states(report)["strategy-imbalance"] == "active")


def test_stop_ends_it_cleanly(running: Any) -> None:
    answer = running.call("stop")

    code, out, _ = running.finish()
    assert json.loads(answer.stdout)["stopped"]
    assert code == 0
    assert json.loads(out)["stopped_because"] == "tickerml stop"


def test_without_a_kernel_the_answer_is_exit_3(system: Any) -> None:
    answer = system.call("status")

    assert answer.returncode == 3
    assert "no kernel runs on" in answer.stderr
    assert json.loads(answer.stdout)["type"] == "KernelUnreachable"


def test_a_dead_host_comes_back(running: Any) -> None:
    running.kill("trade", 0)

    report = running.wait_until(
        lambda report: (
            all(row["state"] == "ready" for row in report["hosts"])
            and any(row["restarts"] for row in report["hosts"])
        )
    )

    assert report["state"] == "running"
    assert TradingHalted.__name__ not in str(report["halted_by"])
