"""A stranger's plugin on a running kernel, from its coming to its going: real processes, real pip."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tickerml.ui import packages

from .strangers import Stranger

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
ID = "strategy-demo"


class Machine:
    """One home with a kernel that runs, and a terminal."""

    def __init__(self, directory):
        self.directory, self.home = directory, directory / "home"
        shutil.copy(ROOT / "plugins.toml", directory)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        self._environment = kept | {"TICKERML_HOME": str(self.home), "PIP_CONFIG_FILE": os.devnull}
        self._program = [sys.executable, "-m", "tickerml.ui.cli"]
        self.kernel = subprocess.Popen(
            [*self._program, "run", "--profile", "demo", "--no-console"],
            cwd=directory,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run(self, *words, code=0):
        """Return the one object that a command prints."""
        done = subprocess.run(
            [*self._program, *words, "--json"],
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def state(self):
        (row,) = [row for row in self.run("plugin", "list")["plugins"] if row["id"] == ID]
        return row["version"], row["state"]

    def close(self):
        self.kernel.terminate()
        self.kernel.wait(60)


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    try:
        machine.run("status", "--wait-for", "running", "--timeout", "60s")
        yield machine
    finally:
        machine.close()


@pytest.mark.timeout(300)
def test_a_plugin_is_taken_in_swapped_taken_back_and_removed_while_the_kernel_runs_on(machine, tmp_path):
    stranger = Stranger(tmp_path / "shelf")
    at_once = ("--offline", "--no-probation")

    first = machine.run("plugin", "install", str(stranger.wheel()), "--yes", "--enable", *at_once)
    assert first["enabled"]["live"]
    assert machine.state() == ("0.1.0", "active")

    stranger.version = "0.2.0"
    assert machine.run("plugin", "upgrade", ID, "--from", str(stranger.wheel()), *at_once)["gap_ms"] > 0
    assert machine.state() == ("0.2.0", "active")

    stranger.version, stranger.code = "0.3.0", "raise SystemExit(9)"
    refused = machine.run("plugin", "upgrade", ID, "--from", str(stranger.wheel()), *at_once, code=4)
    assert "import raised SystemExit: 9; everything is as it was before" in refused["error"]
    assert machine.state() == ("0.2.0", "active")

    assert machine.run("plugin", "rollback", ID, "--no-probation")["version"] == "0.1.0"
    assert machine.state() == ("0.1.0", "active")
    assert ID in [each["host"] for each in machine.run("plugin", "top", "--interval", "0.5")["hosts"]]

    assert machine.run("plugin", "uninstall", ID, "--yes")["live"]
    assert ID not in [row["id"] for row in machine.run("status")["plugins"]]
    assert list(packages.site(machine.home).iterdir()) == []
    assert machine.run("status")["session"] == 1
