"""A real kernel with real hosts, started as a user would, on a home and a configuration of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tickerml.kernel import KernelUnreachable, control
from tickerml.kernel.client import Client
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.localbus import BusState
from tickerml.kernel.runs import latest

CONFIG = """
format = 1
[profile.test]
plugins = [{plugins}]
[profile.test.kernel]
clock = "{clock}"
speed = "{speed}"
checkpoint_s = {checkpoint}
[plugin.exchange-synthetic]
host = "market"
options = {{ duration_s = {duration} }}
[plugin.features-core]
host = "trade"
[plugin.strategy-imbalance]
host = "trade"
[plugin.risk-limits]
host = "trade"
[plugin.risk-drawdown]
host = "trade"
[plugin.sim-fifo]
host = "trade"
[plugin.portfolio]
host = "trade"
[plugin.recorder]
host = "record"
{extra}
"""
PLUGINS = (
    "exchange-synthetic",
    "features-core",
    "strategy-imbalance",
    "risk-limits",
    "risk-drawdown",
    "sim-fifo",
    "portfolio",
    "recorder",
)
BROKEN = Path(__file__).parent / "broken"


class System:
    """One home; runs come and go on it."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.config = directory / "plugins.toml"
        self.process: subprocess.Popen[str] | None = None
        self.configure()

    def configure(
        self,
        *,
        extra: str = "",
        plugins: tuple[str, ...] = (),
        clock: str = "data",
        speed: str = "max",
        duration: int = 60,
        checkpoint: float = 0.3,
    ) -> None:
        """Write plugins.toml: the usual set with *plugins* added, described by *extra* tables."""
        names = ", ".join(f'"{name}"' for name in PLUGINS + plugins)
        self.config.write_text(
            CONFIG.format(
                plugins=names,
                extra=extra,
                clock=clock,
                speed=speed,
                duration=duration,
                checkpoint=checkpoint,
            )
        )

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `tickerml ARGUMENTS` on this home."""
        return [sys.executable, "-m", "tickerml.ui.cli", *arguments, "--home", str(self.home), "--json"]

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which the broken plugins can be found."""
        return {**os.environ, "PYTHONPATH": str(BROKEN)}

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `tickerml ARGUMENTS` to its end."""
        return subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=120
        )

    def run_arguments(self, *arguments: str) -> list[str]:
        """Return the arguments of `tickerml run` on this configuration."""
        return ["run", "--config", str(self.config), "--profile", "test", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the profile to its end."""
        return self.call(*self.run_arguments(*arguments))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the profile and return at once."""
        self.process = subprocess.Popen(
            self.command(*self.run_arguments(*arguments)),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end of start(); returns its exit code and what it wrote."""
        assert self.process is not None
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err

    def wait_until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first status for which *condition* holds."""
        assert self.process is not None
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            try:
                client = Client(self.home)
                try:
                    while not condition(report := client.status()):
                        time.sleep(0.01)
                    return report
                finally:
                    client.close()
            except KernelUnreachable:
                time.sleep(0.02)
        raise TimeoutError(f"the condition was not met; the process has ended with {self.process.poll()}")

    def kill(self, host: str, after_seq: int) -> None:
        """Kill -9 *host*, or the "kernel", once the order has passed *after_seq*."""
        report = self.wait_until(lambda report: report["seq"] >= after_seq)
        pids = {row["host"]: row["pid"] for row in report["hosts"]} | {"kernel": report["pid"]}
        os.kill(pids[host], 9)

    def stop(self) -> None:
        """End what start() began, if it is still there."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=60)

    @property
    def run_dir(self) -> Path:
        """The newest run."""
        found = latest(self.home)
        assert found is not None
        return found

    def final_state(self, host: str = "trade") -> BusState:
        """Return what *host* wrote down at its end: ledger, open orders, queues, books, timers."""
        checkpoint = JournalReader(self.run_dir / "journal").checkpoint(host)
        assert checkpoint is not None
        state = msgspec.msgpack.decode(checkpoint.state, type=control.HostState)
        return msgspec.msgpack.decode(state.bus, type=BusState)


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A home that nothing has run on yet."""
    built = System(tmp_path)
    yield built
    built.stop()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the usual configuration does when nobody disturbs it: its summary and its final state."""
    built = System(tmp_path_factory.mktemp("undisturbed"))
    done = built.run()
    assert done.returncode == 0, done.stderr
    return {"summary": json.loads(done.stdout), "state": built.final_state(), "system": built}
