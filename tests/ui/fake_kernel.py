"""A kernel without plugins: it starts the real console host, publishes what a test says, and answers."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from tickerml.kernel import catalog, codec, control
from tickerml.kernel import messages as m
from tickerml.kernel.config import KernelSettings, Plan, PluginPlan, load, plan
from tickerml.kernel.journal import Checkpoint, JournalWriter
from tickerml.kernel.sequencer import Sequencer, SequencerState

TOKEN = "0" * 32
TOML = """\
format = 1
[profile.demo]
plugins = ["exchange-synthetic", "strategy-imbalance", "risk-limits", "console"]
[profile.demo.options.strategy-imbalance]
exit = -0.2
[plugin.exchange-synthetic] # the market
[plugin.strategy-imbalance]
host = "trade"
options = { enter = 0.4 }
[plugin.risk-limits]
host = "trade"
[plugin.console]
"""
CHANGE = {
    "host": "trade",
    "hosts": ["trade"],
    "failed_at": "",
    "outcome": "",
    "error": "",
    "since_ns": 0,
    "left_s": 0.0,
    "gap_ms": 0.0,
    "shadow": None,
}


class FakeKernel:
    """Real sockets, real journal, real frames; the state is the test's."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self._port = home, port
        self.process: subprocess.Popen[bytes] | None = None
        self.requests: list[Any] = []
        self.unfit: list[str] = []
        self.halted_by = ""
        self.halt_level = 0
        self.degraded: list[dict[str, Any]] = []
        self.pulse: Callable[[], list[m.Message]] = list  # published five times a second
        self.change: dict[str, Any] | None = None
        self.is_quick = True  # whether a change is permanent at once, and does not wait for go()
        self.config = home / "plugins.toml"
        if not self.config.exists():
            self.config.write_text(TOML)
        self._wanted: control.ChangeRequest | None = None
        self.plan = self.before = self._plan()  # before: what ran when the last change was asked for
        self._began = time.monotonic()
        self._runtime = tempfile.mkdtemp(prefix="fk-")
        run_dir = home / "run"
        self._writer = JournalWriter(run_dir / "journal", map_mb=64, commit_ms=2)
        self._writer.start()
        self._sequencer = Sequencer(SequencerState())
        self._context = zmq.Context()
        self._bus = self._context.socket(zmq.PUB)
        self._bus.bind(control.bus_address(self._runtime))
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(control.control_address(self._runtime))
        console = PluginPlan(
            id="console",
            kind="page",
            host="console",
            enabled=True,
            module="",
            publishes=None,
            options={"port": port},
        )
        self._welcome = control.Welcome(
            session=1,
            plugins=[console],
            config="plugins.toml",
            settings=KernelSettings(),
            started_ns=0,
            rules=[],
            vital=[],
            revived=[],
            has_gate=False,
            home=str(home),
            run_dir=str(run_dir),
            profile="demo",
        )
        beacon = control.Beacon(os.getpid(), self._runtime, "demo", str(run_dir), 1)
        control.beacon_path(home).write_bytes(msgspec.json.encode(beacon))
        self._lock = threading.Lock()
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _plan(self) -> Plan:
        found = catalog.find(self.home, self.config.with_name("plugins.lock"))
        return plan(load(self.config), "demo", ["strategy-imbalance.take=0.9"], catalog=found)

    def go(self, step: str, **facts: Any) -> None:
        """Let the change under way come to *step*; the files of one that is permanent are put in place."""
        assert self._wanted is not None
        if facts.get("outcome") == "permanent":
            for prepared, target in self._wanted.files.items():
                os.replace(prepared, target)
            self.plan = self._wanted.plan
        with self._lock:
            self.change = {**(self.change or {}), "step": step, **facts}

    def start_console(self) -> subprocess.Popen[bytes]:
        """Start the host process, by a thread that outlives it; returns once it has started or has failed."""
        command = [sys.executable, "-m", "tickerml.kernel.host", "console", self._runtime]
        environment = {**os.environ, control.TOKEN_VARIABLE: TOKEN}
        process = self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        assert process.stderr is not None
        for line in process.stderr:
            if b"console.started" in line:
                break
        while process.poll() is None and not self._is_listening():
            time.sleep(0.02)
        return process

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def put_meta(self, name: str, value: bytes) -> None:
        """Write what a kernel says of its run beside the journal's messages."""
        self._writer.put_meta(name, value)

    def publish(self, *messages: m.Message, is_lost: bool = False) -> None:
        """Order, keep and send *messages*; what is lost is kept, but no subscriber gets it."""
        with self._lock:
            for message in messages:
                self._send(self._sequencer.announce(message), is_lost)

    def publish_unreadable(self, message: m.Message) -> None:
        """Order, keep and send *message* as a version with other fields would write it."""
        with self._lock:
            frame = self._sequencer.announce(message)
            self._send(frame[: -len(codec.encode(message))] + msgspec.msgpack.encode(["Trade", "no"]), False)

    def _send(self, frame: bytes, is_lost: bool) -> None:
        self._writer.append([frame], self._sequencer.take_kept(), [])
        if not is_lost:
            at = frame.index(0) + 1
            self._bus.send(codec.pack_run(frame[:at], self._sequencer.kind_counts, [frame[at:]]))

    def checkpoint(self, bus: bytes) -> None:
        """Keep *bus* as the state of a host named trade that has seen everything so far."""
        with self._lock:
            position = self._sequencer.seq
            state = msgspec.msgpack.encode(control.HostState(position, {}, bus))
            self._writer.append([], [], [Checkpoint("trade", position, state)])

    def close(self) -> None:
        """Stop everything."""
        if self.process is not None:
            self.process.terminate()
            self.process.communicate(timeout=20)
        self._is_stopped.set()
        self._thread.join()
        self._writer.close()
        self._context.destroy(linger=0)
        shutil.rmtree(self._runtime)

    def _serve(self) -> None:
        told_at = 0.0
        while not self._is_stopped.is_set():
            if self._router.poll(20):
                identity, *number, data = self._router.recv_multipart()
                if (answer := self._answer(control.decode(data))) is not None:
                    self._router.send_multipart([identity, *number, control.encode(answer)])
            if time.monotonic() - told_at > 0.2:
                told_at = time.monotonic()
                self.publish(*self.pulse())
                with self._lock:
                    head = control.Head(self._sequencer.seq, self._sequencer.topic_counts)
                    self._bus.send(control.pack_head(head))
                    self._bus.send(b"~status.\0" + msgspec.json.encode(self._report()))

    def _answer(self, message: Any) -> Any:
        match message:
            case control.Hello():
                return self._welcome
            case control.Present():
                return control.Admitted({}, {}, {}, 0, {}, 1)
            case control.Unfit():
                self.unfit.append(message.error)
            case control.HaltRequest():
                self.halted_by = f"{message.source}: {message.reason}"
                self.halt_level = message.level
                self.publish(m.TradingHalted(time.time_ns(), message.source, message.reason, message.level))
            case control.ResumeRequest():
                self.halted_by, self.halt_level = "", 0
                self.publish(m.TradingResumed(time.time_ns(), message.source, message.reason))
            case control.StatusRequest():
                return control.Status(self._report())
            case control.ChangeRequest():
                self._wanted, self.before = message, self.plan
                number = self.change["number"] + 1 if self.change else 1
                self.change = {**CHANGE, "number": number, "reason": message.reason, "step": "starting"}
                if self.is_quick:
                    self.go("ended", outcome="permanent")
                self.requests.append(message)
                return control.Accepted(number)
            case control.CancelRequest():
                self.go("ended", outcome="rolled back", failed_at=self.change["step"], error=message.reason)
            case control.SettleRequest():
                self.go("probation", left_s=20.0)
            case control.DiagnosticsRequest():
                return control.Diagnosis(message.plugin, {"orders": 3, "api_key": "hidden"})
            case _:
                return None
        self.requests.append(message)
        return control.Done(self._sequencer.seq)

    def _report(self) -> dict[str, Any]:
        uptime = time.monotonic() - self._began
        members = self.plan.hosts()
        hosts = [
            {
                "host": name,
                "state": "ready",
                "pid": 1,
                "restarts": 0,
                "lag": 3,
                "lag_s": 0.2,
                "rss_mb": 41.5,
                "cpu_s": 0.1 * uptime,
                "reason": "",
            }
            for name in members
        ]
        return {
            "state": "degraded" if self.degraded else "running",
            "since_ns": 0,
            "degraded": self.degraded,
            "profile": "demo",
            "config": str(self.config),
            "overrides": self.plan.overrides,
            "session": 1,
            "uptime_s": uptime,
            "canary": {"trade": 1.5},
            "seq": self._sequencer.seq,
            "messages_per_s": 250.0,
            "halted_by": self.halted_by or None,
            "halt_level": self.halt_level,
            "hosts": hosts,
            "plugins": [self._row(each, uptime) for each in self.plan.plugins],
            "change": self.change,
            "summary": {"orders": 3, "fills": 1, "orders_denied": 0},
        }

    def _row(self, planned: PluginPlan, uptime: float) -> dict[str, Any]:
        state, reason = ("active", "") if planned.enabled else ("blocked", "disabled")
        return {
            "id": planned.id,
            "kind": planned.kind,
            "version": planned.version,
            "host": planned.host,
            "state": state,
            "reason": reason,
            "enabled": planned.enabled,
            "published": int(50 * uptime),
            "publishes": planned.publishes,
            "secrets": planned.secrets,
            "warnings": planned.warnings,
        }
