"""
One system of real processes, to be broken from outside: a home, a configuration, and what runs on it.

It is started as a person would, by the command line, and seen as a person would, by
its status; what is done to it goes through signals, limits and files. Whatever
happens, close() leaves no process and no file behind.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tickerml.kernel import BusError, KernelUnreachable, control
from tickerml.kernel.client import Client
from tickerml.kernel.runs import latest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CONSUMERS = ("trade", "record")
RATE = 5_000  # messages a second that the market of CONFIG makes
RATE_PER_BOOK = 635.0  # of its eight books; bursts add the rest

#: The whole set of a person at a PC, on a market that is a function of its seed.
CONFIG = """
format = 1
[profile.chaos]
plugins = [
    "exchange-synthetic", "features-core", "strategy-imbalance", "risk-limits", "risk-drawdown",
    "sim-fifo", "portfolio", "recorder", {more}
]
[profile.chaos.kernel]
clock = "{clock}"
speed = "{speed}"
checkpoint_s = {checkpoint_s}
hot_hours = {hot_hours}
[plugin.exchange-synthetic]
host = "market"
options = {{ duration_s = {duration_s}, rate = {rate} }}
[plugin.features-core]
host = "trade"
[plugin.strategy-imbalance]
host = "trade"
[plugin.strategy-imbalance.options]
{trading}
[plugin.risk-limits]
host = "trade"
[plugin.risk-drawdown]
host = "trade"
[plugin.sim-fifo]
host = "trade"
[plugin.portfolio]
host = "trade"
options = {{ opening = {{ {opening} }} }}
[plugin.recorder]
host = "record"
[plugin.console]
host = "own"
options = {{ port = {port} }}
[plugin.strategy-patient]
host = "trade"
module = "patient"
[plugin.exchange-bench]
host = "stamp"
module = "bench_feed"
options = {{ rate = {stamped_rate} }}
[plugin.strategy-bench]
host = "trade"
module = "bench_strategy"
options = {{ every = {every} }}
"""
#: Options by which the strategy orders several times a second.
EAGER = """
order_notional = "20"
cooldown_ms = 200
order_ttl_ms = 1500
enter = 0.15
exit = 0.05
take = 0.6
"""
OPENING = ", ".join(
    f'"{name}" = "4000"' for name in ("aurora.USDT", "aurora.USD", "borealis.USDT", "cascade.USDT")
)
_DEFAULTS: dict[str, Any] = {
    "more": '"console"',
    "clock": "data",
    "speed": "1",
    "checkpoint_s": 1.0,
    "hot_hours": 24.0,
    "duration_s": 60,
    "rate": RATE_PER_BOOK,
    "stamped_rate": 100,
    "every": 10,
    "trading": EAGER,
    "opening": OPENING,
}
#: More for CONFIG: a feed that stamps its trades and a strategy that answers them, to measure by.
STAMPED: dict[str, Any] = {
    "more": '"exchange-bench", "strategy-bench"',
    "opening": OPENING + ', "bench.USD" = "10000"',
}


class Outcome(NamedTuple):
    """How a kernel ended: its exit code (negative for a signal), and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The figures it printed; empty where it printed none."""
        lines = [line for line in self.out.splitlines() if line.startswith("{")]
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return found


class SystemFailed(Exception):
    """The system is not what it has to be for the campaign to go on."""


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class System:
    """One home; kernels come and go on it."""

    def __init__(self, *, environment: dict[str, str] | None = None, **choices: Any) -> None:
        """
        Args:
            environment: variables of the kernel alone; its hosts do not inherit them.
            choices: values for CONFIG in place of the usual ones.
        """
        # A Unix socket path ends at 107 bytes, so the directory is short.
        self.directory = Path(tempfile.mkdtemp(prefix="tmlx-"))
        self.home = self.directory / "home"
        self.config = self.directory / "plugins.toml"
        self.port = free_port()
        self.config.write_text(CONFIG.format(**{**_DEFAULTS, "port": self.port, **choices}))
        (self.directory / "run").mkdir(mode=0o700)
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None
        self._seen: dict[int, psutil.Process] = {}
        self._starts = 0

    # --- Starting and ending ------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `tickerml ARGUMENTS` on this home."""
        return [sys.executable, "-m", "tickerml.ui.cli", *arguments, "--home", str(self.home), "--json"]

    @property
    def environment(self) -> dict[str, str]:
        """The environment commands run in."""
        paths = [str(BENCHMARKS), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"PYTHONPATH": os.pathsep.join(paths), "XDG_RUNTIME_DIR": str(self.directory / "run")}
        return {**os.environ, **own}

    def start(self, *arguments: str) -> None:
        """Start `tickerml run ARGUMENTS`; returns at once."""
        self.hang_up()
        self._starts += 1
        command = self.command("run", "--config", str(self.config), "--profile", "chaos", *arguments)
        with self._log("out").open("wb") as out, self._log("err").open("wb") as err:
            self._process = subprocess.Popen(
                command,
                env={**self.environment, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._remember(self._process.pid)

    def _log(self, name: str) -> Path:
        return self.directory / f"{self._starts}.{name}"

    @property
    def is_alive(self) -> bool:
        """Whether the kernel's process is there."""
        return self._process is not None and self._process.poll() is None

    def finish(self, timeout_s: float) -> Outcome:
        """
        Wait for the end of the kernel.

        Raises: SystemFailed: it does not come.
        """
        assert self._process is not None
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise SystemFailed(f"the kernel did not end within {timeout_s:g} s{self.last_words()}") from None
        self.hang_up()
        return Outcome(
            code, self._log("out").read_text(errors="replace"), self._log("err").read_text(errors="replace")
        )

    def run(self, *arguments: str, timeout_s: float = 600.0) -> Outcome:
        """Run the profile to its end."""
        self.start(*arguments)
        return self.finish(timeout_s)

    def call(self, *arguments: str, timeout_s: float = 120.0) -> Outcome:
        """Run another command, `tickerml ARGUMENTS`, to its end."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def last_words(self) -> str:
        """Return the end of what the kernel has written to stderr, for a message."""
        path = self._log("err")
        lines = path.read_text(errors="replace").splitlines()[-4:] if path.exists() else []
        return "".join(f"\n    {line}" for line in lines)

    def why_stopped(self, host: str) -> list[str]:
        """Return the reasons this kernel gave for each end of *host*, in order."""
        lines = self._log("err").read_text(errors="replace").splitlines()
        ends = [json.loads(line) for line in lines if '"event": "host.stopped"' in line]
        return [end["reason"] for end in ends if end["host"] == host]

    def close(self) -> None:
        """End every process of this system and remove its files."""
        self.hang_up()
        for process in list(self._seen.values()):
            with contextlib.suppress(psutil.Error):
                for child in process.children(recursive=True):
                    self._remember(child.pid)
        for process in list(self._seen.values()):
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil knows a process by its start too: never a stranger with its number
        psutil.wait_procs(list(self._seen.values()), timeout=10)
        if self._process:
            self._process.wait(10)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _remember(self, pid: int) -> None:
        if pid and pid not in self._seen:
            with contextlib.suppress(psutil.Error):
                self._seen[pid] = psutil.Process(pid)

    # --- Seeing -------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """Drop the connection to the kernel; the next look makes a new one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def status(self, timeout_s: float = 2.0) -> dict[str, Any]:
        """
        Return what the kernel says of itself.

        Raises: KernelUnreachable: it says nothing.
        """
        if self._client is None:
            self._client = Client(self.home)
        try:
            report: dict[str, Any] = self._client.request(control.StatusRequest(), timeout_s).report
        except KernelUnreachable:
            self.hang_up()
            raise
        for pid in (report["pid"], *(row["pid"] for row in report["hosts"])):
            self._remember(pid)
        return report

    @property
    def client(self) -> Client:
        """The connection that status() uses; for subscriptions and requests."""
        if self._client is None:
            self._client = Client(self.home)
        return self._client

    def wait_until(
        self, condition: Callable[[dict[str, Any]], bool], timeout_s: float = 60.0, what: str = ""
    ) -> dict[str, Any]:
        """
        Return the first status for which *condition* holds.

        Raises: SystemFailed: the kernel ended, or the time is over.
        """
        until = time.monotonic() + timeout_s
        report: dict[str, Any] = {}
        while time.monotonic() < until:
            if not self.is_alive:
                raise SystemFailed(f"the kernel ended while waiting for {what}{self.last_words()}")
            with contextlib.suppress(KernelUnreachable, BusError):
                report = self.status()
                if condition(report):
                    return report
            time.sleep(0.02)
        hosts = {row["host"]: (row["state"], row["lag"]) for row in report.get("hosts", ())}
        raise SystemFailed(f"no {what} within {timeout_s:g} s: {hosts}{self.last_words()}")

    def pids(self) -> dict[str, int]:
        """Return the process ids by host; the kernel is "kernel"."""
        report = self.status()
        return {row["host"]: row["pid"] for row in report["hosts"]} | {"kernel": report["pid"]}

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal; to a process that is gone, none."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    @property
    def is_served(self) -> bool:
        """Whether the console takes connections."""
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def run_dir(self) -> Path:
        """The newest run."""
        found = latest(self.home)
        if found is None:
            raise SystemFailed(f"there is no run in {self.home}{self.last_words()}")
        return found


def row_of(report: dict[str, Any], host: str) -> dict[str, Any]:
    """Return what *report* says of *host*; empty where it says nothing."""
    return next((row for row in report["hosts"] if row["host"] == host), {})


def is_whole(report: dict[str, Any], lag: int = RATE // 4) -> bool:
    """Whether every host is up and nobody is more than *lag* messages behind."""
    return bool(report["hosts"]) and all(
        row["state"] == "ready" and row["lag"] <= lag for row in report["hosts"]
    )
