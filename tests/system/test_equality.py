"""A run, a backtest and a replay of the same input are the same run, and no crash changes it."""

import json
from typing import Any

import psutil
import pytest

from tickerml.kernel import codec
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.topics import DECISION_KINDS, parse

pytestmark = pytest.mark.processes

FIGURES = ("messages", "gaps", "orders", "fills", "fees", "equity", "max_drawdown", "decisions_sha256")


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: summary[name] for name in FIGURES}


def bodies_of_decisions(run_dir: Any) -> list[bytes]:
    frames = map(codec.unpack, JournalReader(run_dir / "journal").frames(table="kept"))
    return [frame.body for frame in frames if parse(frame.topic)[0] in DECISION_KINDS]


def test_the_input_makes_orders_and_fills(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["summary"]["orders"] > 20
    assert undisturbed["summary"]["fills"] > 5


def test_a_backtest_decides_what_the_live_run_decided(undisturbed: dict[str, Any]) -> None:
    system = undisturbed["system"]

    done = system.call("backtest", "--config", str(system.config), "--profile", "test")

    assert figures(json.loads(done.stdout)) == figures(undisturbed["summary"])


def test_a_replay_of_the_journal_gives_the_same_bytes(undisturbed: dict[str, Any]) -> None:
    done = undisturbed["system"].call("replay", "--verify")

    report = json.loads(done.stdout)
    assert report["verified"]
    assert report["outputs"] > 1000


@pytest.mark.parametrize("host", ["kernel", "trade", "market", "record"])
def test_kill_9_in_the_middle_changes_nothing(system: Any, undisturbed: dict[str, Any], host: str) -> None:
    system.start()
    system.kill(host, after_seq=4000)
    code, out, _ = system.finish()
    if host == "kernel":
        assert code == -9
        out = system.run().stdout

    assert figures(json.loads(out)) == figures(undisturbed["summary"])
    assert system.final_state() == undisturbed["state"]
    assert bodies_of_decisions(system.run_dir) == bodies_of_decisions(undisturbed["system"].run_dir)


def test_stopping_and_starting_again_changes_nothing(system: Any, undisturbed: dict[str, Any]) -> None:
    process = system.start()
    system.wait_until(lambda report: report["seq"] >= 4000)
    process.terminate()
    code, out, _ = system.finish()
    assert code == 0
    assert json.loads(out)["stopped_because"] == "SIGTERM"

    done = system.run()

    assert figures(json.loads(done.stdout)) == figures(undisturbed["summary"])
    assert system.final_state() == undisturbed["state"]


def test_the_tape_after_a_crash_is_that_of_an_undisturbed_run(
    system: Any, undisturbed: dict[str, Any]
) -> None:
    system.start()
    system.kill("record", after_seq=4000)
    system.finish()

    assert system.final_state("record") == undisturbed["system"].final_state("record")


def test_hosts_die_with_their_kernel(system: Any) -> None:
    process = system.start()
    report = system.wait_until(lambda report: report["seq"] >= 1000)
    process.kill()
    process.communicate(timeout=30)

    processes = [psutil.Process(row["pid"]) for row in report["hosts"] if psutil.pid_exists(row["pid"])]
    _, alive = psutil.wait_procs(processes, timeout=10)
    # What nobody has collected yet is dead all the same.
    assert [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


def test_a_finished_run_begins_anew_beside_the_old_one(system: Any) -> None:
    system.configure(duration=10)
    first = json.loads(system.run().stdout)
    second = json.loads(system.run().stdout)

    assert figures(first) == figures(second)
    assert first["run"] != second["run"]
