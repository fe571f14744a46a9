"""A real kernel in a home of its own, with the plugin under test in a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tickerml.kernel import codec
from tickerml.kernel.client import Client
from tickerml.kernel.core import Settings
from tickerml.kernel.errors import KernelUnreachable
from tickerml.kernel.hookspecs import SHAPES
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.plans import KernelSettings, Plan, PluginPlan
from tickerml.kernel.runs import latest, read_state
from tickerml.kernel.supervisor import HostPhase

from .contracts_rig import COMPANY, CROWD, FRAMES, SEED, Output
from .contracts_subject import Broken, Subject, expect

HOST = "subject"
LIMIT_S = 60.0  # so that a busy machine is not the plugin's fault
SPEED = "40"  # times market time: the made-up tape of 300 frames then lasts a second
_SOURCE_SPEED = "2"


def plan_of(subject: Subject, *, speed: str = "") -> Plan:
    """Return a plan with *subject* in a host of its own, and the company it needs in others."""
    plugins = [subject.planned(HOST)]
    if SHAPES[subject.kind] == "consumer":
        played = {"file": subject.tape} if subject.tape else {"frames": FRAMES}
        plugins.append(_crowd("source", "exchange", "market", played))
        plugins += [_crowd(name, _KINDS[name], "crowd") for name in COMPANY[subject.kind]]
        plugins += [
            other.planned("crowd")
            for other in subject.company
            if other.id != subject.id and SHAPES[other.kind] == "consumer"
        ]
    return Plan(
        config="the kit",
        profile="check",
        kernel=KernelSettings(
            clock="data",
            seed=SEED,
            speed=speed or (SPEED if len(plugins) > 1 else _SOURCE_SPEED),
            checkpoint_s=0.2,
            heartbeat_s=2.0,
            map_mb=256,
        ),
        plugins=plugins,
    )


_KINDS = {"features": "feature_set", "strategy": "strategy", "simulator": "simulator", "ledger": "store"}


def _crowd(name: str, kind: str, host: str, options: dict[str, Any] | None = None) -> PluginPlan:
    return PluginPlan(
        id=f"kit-{name}", kind=kind, host=host, module=f"{CROWD}.{name}", version="0", options=options or {}
    )


def pid_of(report: dict[str, Any], host: str) -> int:
    """Return the pid of the process of *host* in a status report; 0 while there is none that is ready."""
    rows = [row for row in report["hosts"] if row["host"] == host and row["state"] == HostPhase.READY.value]
    return int(rows[0]["pid"]) if rows else 0


class RealKernel:
    """A kernel process on *home*; to be closed, or used in a with statement."""

    def __init__(self, home: Path, plan: Plan, *, duration_s: float = 0.0) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        settings = Settings(plan=plan, home=str(home), as_json=True, duration_s=duration_s)
        self._errors = home / "kernel.err"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tickerml.kernel.app", msgspec.json.encode(settings).decode()],
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def __enter__(self) -> "RealKernel":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, if it still runs; its hosts die with it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def wait_until(
        self, condition: Callable[[dict[str, Any]], object], what: str, *, may_end: bool = False
    ) -> dict[str, Any]:
        """
        Return the first status report for which *condition* holds; {} where it ended before, if it may.

        Raises: Broken: not within a minute, or the kernel ended before; *what* says what was awaited.
        """
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(KernelUnreachable):
                client = Client(self.home)
                try:
                    while time.monotonic() < until:
                        if condition(report := client.status()):
                            return report
                        time.sleep(0.005)
                finally:
                    client.close()
            time.sleep(0.01)
        if may_end and self._process.poll() is not None:
            return {}
        raise Broken(f"waited in vain for {what}; {self.last_words()}")

    def kill(self, host: str) -> int:
        """Kill -9 the process of *host*, once it is there, and return its pid."""
        report = self.wait_until(lambda report: pid_of(report, host) > 0, f"host {host} to be there")
        os.kill(pid_of(report, host), signal.SIGKILL)
        return pid_of(report, host)

    def stop(self) -> None:
        """Ask it to stop, as Ctrl-C does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def finish(self) -> dict[str, Any]:
        """
        Return the report at its end.

        Raises: Broken: it did not end within a minute, or not well.
        """
        try:
            out, _ = self._process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            self.close()
            raise Broken(
                f"the kernel did not come to an end within {LIMIT_S:g} s; {self.last_words()}"
            ) from None
        expect(out, f"the kernel ended with exit code {self._process.returncode}; {self.last_words()}")
        report: dict[str, Any] = json.loads(out)
        return report

    def last_words(self) -> str:
        """Return the last error that the kernel or a host wrote."""
        lines = [
            line
            for path in (*self.home.glob("logs/*.log"), self._errors)
            for line in path.read_text(errors="replace").splitlines()
            if line.strip() and '"level": "info"' not in line
        ]
        return lines[-1][:500] if lines else "it wrote no error"

    @property
    def run_dir(self) -> Path:
        """The newest run in its home."""
        found = latest(self.home)
        assert found is not None
        return found

    def outputs(self, plugin: str) -> list[Output]:
        """Return what *plugin* has said, in the order of the journal."""
        journal = JournalReader(self.run_dir / "journal")
        try:
            names = read_state(journal).origins
            frames = [codec.unpack(raw) for raw in journal.frames()]
            return [
                Output(frame.cause, frame.n, frame.body)
                for frame in frames
                if frame.origin < len(names) and names[frame.origin] == plugin
            ]
        finally:
            journal.close()
