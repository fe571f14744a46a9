"""
The kernel's children: one process a host, started clean, its stderr collected.

A child gets a token, the secrets that its plugins are granted, and nothing else of the
kernel's environment but what Python needs. It leads a session of its own: what a terminal
sends to a group of processes reaches the kernel alone, and when a host ends, what its
plugins have started ends with it.

What it writes to stderr, JSON lines, goes to HOME/logs/HOST.log. However much that is,
a look at it takes bounded time, memory and disk: what is beyond the allowance is read,
so that the host is not held up, counted and dropped.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from . import control, limits, secret

LOG_BYTES = 8 * 2**20  # then the log is set aside as .log.1, and the one before that forgotten
READ_BYTES = 4 * 2**16  # taken from the pipe in one look; it holds 2**16
LINE_BYTES = 2**15  # a longer line is cut into several
ALLOWANCE = 2**20  # bytes that a host may write at once after it was quiet
REFILL = 2**12  # bytes it may write for each look, of which there are about 100 a second
REAP_LIMIT_S = 5.0  # a killed process that a broken disk holds on to is left to the system
HOST_PROGRAM = (sys.executable, "-m", "tickerml.kernel.host")
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "XDG_RUNTIME_DIR")

# glibc learns to keep what it was given back of large blocks, such as the 256 kB that a socket is read into:
# between what stays they become holes, and a host that reads many grows for an hour. A fixed threshold
# gives each such block back to the system at once. See mallopt(3), M_MMAP_THRESHOLD.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def environment(token: str, secrets: Iterable[str] = ()) -> dict[str, str]:
    """
    Return what a host may see of the kernel's environment, its granted *secrets* and its *token*.

    Whoever sets a MALLOC_ variable knows better than we do.
    """
    granted = {secret.variable(name) for name in secrets}
    inherited = {
        key: value
        for key, value in os.environ.items()
        if key in _INHERITED
        or key in granted
        or (key.startswith(("MALLOC_", "PYTHON", "TICKERML_")) and not key.startswith(secret.PREFIX))
    }
    return _ALLOCATOR | inherited | {control.TOKEN_VARIABLE: token}


class Child:
    """One host process and its log."""

    def __init__(
        self,
        host: str,
        runtime: str,
        token: str,
        logs: Path,
        *,
        limited: limits.Limits | None = None,
        secrets: Iterable[str] = (),
        program: tuple[str, ...] = HOST_PROGRAM,
    ) -> None:
        """
        Args:
            limited: what the process may take.
            secrets: the names of those it is given.
            program: what is run, with the host and the runtime directory as arguments.
        """
        self.host = host
        self.killed_for = ""
        self._last_line = b""
        self._unfinished = b""
        self._allowance = ALLOWANCE
        self._dropped = 0
        self._log = logs / f"{host}.log"
        self._process = subprocess.Popen(
            [*program, host, runtime],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(token, secrets),
            start_new_session=True,
        )
        assert self._process.stderr is not None
        self._stderr = self._process.stderr
        os.set_blocking(self._stderr.fileno(), False)
        limits.apply(limited or limits.Limits(), self.pid)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def kill(self, reason: str) -> None:
        """End the process at once; *reason* is what its exit is put down to."""
        self.killed_for = self.killed_for or reason
        self._kill_all()

    def end(self) -> None:
        """Kill the process, and what it has started, and wait for it."""
        self._kill_all()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(REAP_LIMIT_S)
        self._stderr.close()

    def _kill_all(self) -> None:
        # Until it is waited for its number is not given to another, and neither is its group's.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.kill()

    def exit_reason(self) -> str:
        """Return why the process is gone; "" while it runs."""
        if self._process.returncode is None:
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    return ""
            self._kill_all()
        code = self._process.wait()
        if self.killed_for:
            return self.killed_for
        if code < 0:
            return f"killed by {limits.signal_name(-code)}"
        last = self._last_line.decode(errors="replace")
        return f"exit code {code}" + (f": {last}" if code and last else "")

    # --- Its log --------------------------------------------------------------------------------

    def read_log(self) -> list[bytes]:
        """Move what the host wrote into its log file; returns the lines that are whole."""
        self._allowance = min(ALLOWANCE, self._allowance + REFILL)
        lines = self._split(self._read())
        if not lines:
            return []
        self._last_line = lines[-1]
        kept = []
        for line in lines:
            if len(line) < self._allowance:
                self._allowance -= len(line) + 1
                kept.append(line)
            else:
                self._dropped += 1
        if self._dropped and kept:
            kept.insert(0, b'{"event": "host.log_dropped", "level": "warning", "lines": %d}' % self._dropped)
            self._dropped = 0
        self._write(kept)
        return kept

    def _read(self) -> bytes:
        data = bytearray()
        with contextlib.suppress(BlockingIOError):
            while len(data) < READ_BYTES and (chunk := os.read(self._stderr.fileno(), 2**16)):
                data += chunk
        return bytes(data)

    def _split(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes; a last one without its end only when nothing can follow."""
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        is_last = self._process.returncode is not None
        while len(self._unfinished) > LINE_BYTES or (is_last and self._unfinished):
            lines.append(self._unfinished[:LINE_BYTES])
            self._unfinished = self._unfinished[LINE_BYTES:]
        return [line.rstrip(b"\r") for line in lines if line.strip()]

    def _write(self, lines: list[bytes]) -> None:
        # A full or read-only disk is the journal's to complain of; trading goes on without a host's log.
        with contextlib.suppress(OSError):
            if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
                self._log.replace(self._log.with_suffix(".log.1"))
            with self._log.open("ab") as file:
                file.write(b"".join(line + b"\n" for line in lines))
