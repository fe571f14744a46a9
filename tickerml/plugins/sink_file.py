"""
Sink: writes alerts into a file, one JSON object a line.

A line is on the disk before the alert counts as sent. The file is opened for each
alert anew, so that two processes of this plugin can follow each other without a gap,
and what a crash left of a line that was being written is cut off: its alert comes again.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from tickerml.kernel import Alert, Context, Options, Severity, SinkSpec, StateRefused, hookimpl

FILE = "alerts.jsonl"


class SinkFileOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written, and how much of it is kept."""

    min_severity: Annotated[
        Severity, msgspec.Meta(description="the least that is written: info, warning, error or critical")
    ] = Severity.INFO
    file_kb: Annotated[
        int, msgspec.Meta(ge=1, le=1_000_000, description="size at which a new file is begun, kB")
    ] = 1000
    kept_files: Annotated[
        int, msgspec.Meta(ge=0, le=100, description="full files that are kept: alerts.jsonl.1 is the newest")
    ] = 5


class SinkFile:
    """Appends to alerts.jsonl in its data_dir."""

    def __init__(self, ctx: Context, options: SinkFileOptions) -> None:
        self.min_severity = options.min_severity
        self._plugin = ctx.plugin
        self._path = ctx.data_dir / FILE
        self._most_bytes = options.file_kb * 1000
        self._kept = options.kept_files

    def emit(self, alert: Alert) -> None:
        """
        Write *alert* down.

        Raises: OSError: the disk is full or read-only.
        """
        line = msgspec.json.encode(alert) + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            self._append(file.fileno(), line)
        if self._path.stat().st_size >= self._most_bytes:
            self._rotate()

    def _append(self, file: int, line: bytes) -> None:
        end = os.fstat(file).st_size
        tail = os.pread(file, 2**20, max(0, end - 2**20))
        if tail and not tail.endswith(b"\n"):
            os.ftruncate(file, end - len(tail) + tail.rfind(b"\n") + 1)
        written = os.write(file, line)
        if written < len(line):
            raise OSError(f"wrote {written} of {len(line)} bytes to {self._path}")
        os.fsync(file)

    def _rotate(self) -> None:
        files = [self._path, *(self._numbered(number) for number in range(1, self._kept + 1))]
        files[-1].unlink(missing_ok=True)
        for older, newer in zip(files[:0:-1], files[-2::-1], strict=True):
            if newer.exists():
                newer.replace(older)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{FILE}.{number}")

    def snapshot(self) -> bytes:
        """Return nothing: what it did is in the file."""
        return b""

    def restore(self, state: bytes) -> None:
        """
        Take nothing back.

        Raises: StateRefused: there is something.
        """
        if state:
            raise StateRefused(self._plugin, f"expected no state, was {len(state)} bytes")


@hookimpl
def tickerml_sinks() -> Iterable[SinkSpec]:
    return [
        SinkSpec(
            id="sink-file",
            factory=SinkFile,
            options=SinkFileOptions,
            min_severity=Severity.INFO,
            summary="writes alerts into a file, one JSON object a line",
        )
    ]
