"""A kernel that does nothing but take changes of plugins, as a test wishes them to go."""

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import zmq

from tickerml.kernel import control
from tickerml.kernel.plans import Plan

STEPS = ["starting", "standby", "barrier", "takeover", "probation"]


class ChangingKernel:
    """Real sockets; each status shows the change one step further."""

    def __init__(
        self, home: Path, config: Path, profile: str = "demo", running: tuple[str, ...] = ()
    ) -> None:
        self.requests: list[control.ChangeRequest] = []
        self.refusal = ""
        self.error = ""  # why the next change is rolled back
        self.shadow: dict[str, Any] | None = None
        self.overrides: list[str] = []
        self.change: dict[str, Any] | None = None
        self.plan: Plan | None = None
        self.is_canceled = False
        self.states: dict[str, str | None] = {}  # of plugins, where not active; None for one it does not know
        self._config, self._profile, self._running = config, profile, running
        self._steps: list[str] = []
        self._runtime = tempfile.mkdtemp(prefix="ck-")
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(control.control_address(self._runtime))
        beacon = control.Beacon(os.getpid(), self._runtime, profile, str(home / "run"), 1)
        home.mkdir(parents=True, exist_ok=True)
        control.beacon_path(home).write_bytes(msgspec.json.encode(beacon))
        self._beacon = control.beacon_path(home)
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Be gone."""
        self._is_stopped.set()
        self._thread.join()
        self._context.destroy(linger=0)
        self._beacon.unlink(missing_ok=True)
        for name in os.listdir(self._runtime):
            os.unlink(os.path.join(self._runtime, name))
        os.rmdir(self._runtime)

    def _serve(self) -> None:
        while not self._is_stopped.is_set():
            if self._router.poll(10):
                identity, *number, data = self._router.recv_multipart()
                answer = self._answer(control.decode(data))
                self._router.send_multipart([identity, *number, control.encode(answer)])

    def _answer(self, message: Any) -> Any:
        match message:
            case control.StatusRequest():
                self._advance()
                return control.Status(self._report())
            case control.ChangeRequest():
                if self.refusal:
                    return control.Refused(self.refusal)
                self.requests.append(message)
                self._steps = [*STEPS, "ended"]
                self.change = {
                    "number": len(self.requests),
                    "reason": message.reason,
                    "host": "trade",
                    "step": "starting",
                    "outcome": "",
                    "error": "",
                    "failed_at": "",
                    "since_ns": 0,
                    "left_s": 0.0,
                    "gap_ms": 1.5,
                    "shadow": self.shadow,
                }
                return control.Accepted(len(self.requests))
            case control.CancelRequest():
                self.is_canceled = True
                self.error = message.reason
                return control.Done(1)
        return control.Refused("not here")

    def _advance(self) -> None:
        if not self._steps or self.change is None:
            return
        step = self._steps.pop(0)
        self.change = {**self.change, "step": step}
        if step == "ended":
            self._end()

    def _end(self) -> None:
        request = self.requests[-1]
        for staged, target in request.files.items():
            if self.error:
                os.unlink(staged)
            else:
                os.replace(staged, target)
        if not self.error:
            self.plan = request.plan
        outcome = "rolled back" if self.error else "permanent"
        self.change = {
            **(self.change or {}),
            "outcome": outcome,
            "error": self.error,
            "failed_at": self.error and "starting",
        }

    def _report(self) -> dict[str, Any]:
        plugins = [
            {
                "id": name,
                "kind": "strategy",
                "host": name,
                "state": self.states.get(name, "active"),
                "reason": "",
                "published": 5,
            }
            for name in self._running
            if self.states.get(name, "active")
        ]
        hosts = [
            {
                "host": name,
                "state": "ready",
                "pid": os.getpid(),
                "restarts": 0,
                "lag": 0,
                "lag_s": 0.0,
                "cpu_s": 0.5,
                "rss_mb": 9.5,
            }
            for name in self._running
        ]
        return {
            "state": "running",
            "profile": self._profile,
            "config": str(self._config),
            "overrides": self.overrides,
            "seq": 100,
            "uptime_s": time.monotonic(),
            "plugins": plugins,
            "hosts": hosts,
            "change": self.change,
        }
