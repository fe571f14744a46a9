"""The command line from outside: its exit codes, one clear line for an error, one object for --json."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ODD_PLUGINS = Path(__file__).resolve().parents[1] / "plugins_for_tests"
TINY = ("--config", str(ODD_PLUGINS / "plugins.toml"), "--profile", "tiny")


class Terminal:
    """Runs commands with a home of their own, in an empty directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ODD_PLUGINS)}
        return subprocess.run(
            [sys.executable, "-m", "tickerml.ui.cli", *arguments],
            cwd=self.directory,
            env=environment | {"HOME": str(self.directory), "TICKERML_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Return the one object that a command with --json prints."""
        done = self.run(*arguments, "--json")
        assert done.returncode == code, done.stderr
        (line,) = done.stdout.splitlines()
        answer: dict[str, Any] = json.loads(line)
        return answer


@pytest.fixture
def terminal(tmp_path):
    return Terminal(tmp_path)


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status"], 3, "no kernel runs on .*home; start one with `tickerml run`"),
        (["stop"], 3, "no kernel runs on"),
        (["restart"], 3, "no kernel runs on"),
        (["halt", "--reason", "lunch"], 3, "no kernel runs on"),
        (["backtest"], 2, "there is no plugins.toml here or in .*home; name one with --config"),
        (["backtest", "--config", "nowhere.toml"], 2, "cannot read the configuration .*nowhere.toml"),
        (["run", *TINY[:2], "--profile", "tin"], 2, "there is no profile 'tin'; did you mean 'tiny'"),
        (
            ["backtest", *TINY, "--set", "tiny-source.frames=x"],
            2,
            "options.frames: expected `int`, got `str`",
        ),
        (["backtest", *TINY, "--set", "tiny-sauce.frames=1"], 2, "has no plugin 'tiny-sauce'; did you mean"),
        (["backtest", *TINY, "--for", "3x"], 2, "--for 3x: expected a duration like 20s, 10m or 1h30m"),
        (["replay", "--run", "nowhere"], 1, "there is no journal at nowhere"),
        (["journal", "tail"], 1, "there is no run in .*home; start one with `tickerml run`"),
        (
            ["plugin", "info", "nosuch", *TINY[:2]],
            2,
            "there is no plugin 'nosuch'; see `tickerml plugin list`",
        ),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_refused_in_one_line(terminal, arguments, code, said):
    done = terminal.run(*arguments)

    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("tickerml: ")
    assert re.search(said, line), line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nosuch"], "No such command 'nosuch'"), (["status", "--nope"], "No such option: --nope")],
)
def test_wrong_usage_is_exit_code_two(terminal, arguments, said):
    done = terminal.run(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [(["status"], 3, "KernelUnreachable"), (["backtest", "--config", "x.toml"], 2, "ConfigError")],
)
def test_with_json_an_error_is_an_object_too(terminal, arguments, code, kind):
    answer = terminal.json(*arguments, code=code)

    assert answer["type"] == kind
    assert answer["error"]


# --- Deeds ----------------------------------------------------------------------------------------


def test_a_plugin_is_disabled_in_the_file_while_no_kernel_runs(terminal):
    path = terminal.directory / "plugins.toml"
    shutil.copy(ODD_PLUGINS / "plugins.toml", path)

    answer = terminal.json("plugin", "disable", "recorder")

    assert answer == {"plugin": "recorder", "enabled": False, "live": False}
    rows = {row["id"]: row for row in terminal.json("plugin", "list")["plugins"]}
    assert (rows["recorder"]["state"], rows["recorder"]["reason"]) == ("blocked", "disabled")
    assert rows["portfolio"]["state"] == "stopped"
    assert path.read_text().startswith("# What the tests")


DOUBTFUL = """
format = 1
[plugin.odd]
module = "odd_exits_in_silence"
[plugin.stranger]
module = "stranger"
"""


def test_the_doctor_names_a_plugin_that_dies_without_a_word_and_a_damaged_journal(terminal):
    (terminal.directory / "plugins.toml").write_text(DOUBTFUL)
    for number, content in ((1, "no journal at all"), (2, None)):
        journal = terminal.home / "runs" / "demo" / f"000{number}" / "journal"
        journal.mkdir(parents=True)
        if content:
            (journal / "data.mdb").write_text(content)

    checks = {row["check"]: row for row in terminal.json("doctor", code=1)["checks"]}

    assert (checks["plugin odd"]["ok"], checks["plugin odd"]["detail"]) == (
        False,
        "ends its process with code 9",
    )
    assert checks["plugin stranger"]["ok"]
    assert "cannot open the journal" in checks["journal demo/0001"]["detail"]
    assert "there is no journal" in checks["journal demo/0002"]["detail"]
    assert checks["configuration"]["ok"]


@pytest.mark.processes
def test_a_run_its_backtest_and_its_replay_agree_byte_for_byte(terminal):
    ran = terminal.json("run", *TINY)
    backtest = terminal.json("backtest", *TINY)
    verified = terminal.json("replay", "--verify")
    shown = terminal.json("journal", "show", "1")
    examined = terminal.run("doctor", *TINY[:2])

    assert ran["stopped_because"] == "the data ended"
    assert ran["fills"] >= 4
    for figure in ("decisions_sha256", "orders", "fills", "equity", "messages"):
        assert ran[figure] == backtest[figure]
    assert (verified["verified"], verified["unpublished"]) == (True, 0)
    assert verified["outputs"] > 300
    assert shown["messages"][0]["type"] == "KernelStarted"
    assert "messages, complete" in examined.stdout
    assert "WRONG" not in examined.stdout.replace("WRONG  disk", "")
