"""
The kernel's children: one process a host, started clean, its stderr collected.

A child gets a token and nothing of the kernel's environment but what Python needs;
what it writes to stderr, JSON lines, goes to HOME/logs/HOST.log.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from . import control

LOG_BYTES = 8 * 2**20  # then the log is set aside as .log.1, and the one before that forgotten
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "XDG_RUNTIME_DIR")


class Child:
    """One host process and its log."""

    def __init__(self, host: str, runtime: str, token: str, logs: Path) -> None:
        environment = {
            key: value
            for key, value in os.environ.items()
            if key in _INHERITED or key.startswith(("PYTHON", "TICKERML_"))
        }
        environment[control.TOKEN_VARIABLE] = token
        self.host = host
        self.identity = b""  # of its control socket, once it has said hello
        self.failed: dict[str, str] = {}  # plugins it had to set aside, and why
        self.killed_for = ""
        self._last_line = ""
        self._log = logs / f"{host}.log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tickerml.kernel.host", host, runtime],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        assert self._process.stderr is not None
        self._stderr = self._process.stderr
        os.set_blocking(self._stderr.fileno(), False)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def kill(self, reason: str) -> None:
        """End the process at once; *reason* is what its exit is put down to."""
        self.killed_for = self.killed_for or reason
        self._process.kill()

    def end(self) -> None:
        """Kill the process and wait for it."""
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def read_log(self) -> list[bytes]:
        """Move what the host wrote into its log file; returns the lines."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._stderr.fileno(), 65536):
                data += chunk
        if not data:
            return []
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as file:
            file.write(data)
        lines = data.splitlines()
        self._last_line = lines[-1].decode(errors="replace")
        return lines

    def exit_reason(self) -> str:
        """Return why the process is gone; "" while it runs."""
        code = self._process.poll()
        if code is None:
            return ""
        if self.killed_for:
            return self.killed_for
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}" + (f": {self._last_line}" if code else "")
