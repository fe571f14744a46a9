"""What a kernel reaches the world through: sockets, clocks, processes, files. app.py has the real ones."""

from typing import Protocol

from . import berths, outlet


class Edges(outlet.Edges, berths.Edges, Protocol):
    """What the kernel reaches the world through."""

    pid: int  # of the kernel's own process

    def wall(self) -> int:
        """Return ns UTC; never goes back."""

    def ahead_ns(self) -> int:
        """Return how far wall() is ahead of the machine's clock, which was set back."""

    def listen(self, is_on: bool) -> None:
        """Take bursts from the inlet, or leave them there."""

    def overuse(self, process: str) -> str:
        """Return what limit *process* exceeds; "" when none."""

    def place(self, files: dict[str, str]) -> str:
        """Put each file in the place of the one it stands for; returns what went wrong, or ""."""

    def drop(self, files: dict[str, str]) -> None:
        """Delete the files that were to be put in place."""

    def rss_mb(self, pid: int) -> float:
        """Return the resident memory of a process in MiB; 0.0 when it is gone."""

    def cpu_s(self, pid: int) -> float:
        """Return the processor time that a process has used, s; 0.0 when it is gone."""
