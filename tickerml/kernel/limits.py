"""
What the system holds a process to: its memory, its processor time, its parent's end.

A host's memory is limited twice. The kernel looks once a second and ends a host that is
over its limit, with the figures as the reason; a process that takes more than half as
much again before the next look meets the system's own limit, and gets a MemoryError.
What counts is memory of its own: pages of mapped files (LMDB, shared libraries) are the
system's to drop.

Processor time is watched only: a limit by the system would kill for the sum of months.
"""

import ctypes
import os
import resource
import signal
import sys
from collections import deque
from typing import NamedTuple

from .units import NS_PER_S

WINDOW_NS = 10 * NS_PER_S  # over which the use of the processor is averaged
HARD_RATIO = 1.5  # of the watched limit of memory to the system's
# Address space that is counted by the system and never touched: thread stacks, arenas, NumPy's buffers.
# Measured: 17 to 94 MB between VmData and RssAnon in the hosts of the demo profile.
HEADROOM_MB = 192
OPEN_FILES = 4096  # a leak is found long before the machine runs out
MB = 2**20
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Limits(NamedTuple):
    """What a host may take; 0 is no limit."""

    rss_mb: float = 0.0  # memory of its own, MB of 2**20 bytes
    cpu: float = 0.0  # of one core; above 1 for a host with threads


class Usage(NamedTuple):
    """What a process takes."""

    memory_mb: float
    cpu_ns: int  # used since its start, by all its threads


def apply(limits: Limits, pid: int = 0) -> None:
    """
    Set the system's limits for the process *pid*; 0 is this one. A process that is gone is left alone.

    A limit that stands already and is lower stays.
    """
    wanted = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: OPEN_FILES}
    if limits.rss_mb:
        wanted[resource.RLIMIT_DATA] = int((limits.rss_mb * HARD_RATIO + HEADROOM_MB) * MB)
    try:
        for name, value in wanted.items():
            soft, hard = resource.prlimit(pid, name)
            standing = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
            resource.prlimit(pid, name, (min([value, *standing]), hard))
    except ProcessLookupError:
        return


def die_with_parent(number: signal.Signals) -> None:
    """Ask Linux to send this process *number* when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def signal_name(number: int) -> str:
    """Return what the signal *number* is called; not every one of them has a name of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def usage(pid: int) -> Usage | None:
    """Return what the process *pid* takes; None when it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            resident, shared = map(int, file.read().split()[1:3])
        with open(f"/proc/{pid}/stat") as file:
            # The name in brackets may hold anything; utime and stime are the 14th and 15th field.
            ticks = sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
    except (OSError, ValueError):
        return None
    return Usage((resident - shared) * _PAGE / MB, ticks * NS_PER_S // _TICKS_PER_S)


class Watch:
    """Looks once a second whether a host keeps to its limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pid = 0
        self._samples: deque[tuple[int, int]] = deque()  # (when, processor time used until then)

    def sample(self, pid: int, now: int, *, is_ready: bool = True) -> str:
        """
        Look at the process *pid*; returns why it must go, or "".

        Args:
            now: monotonic, ns.
            is_ready: whether it is at work. One that starts and catches up may use all it gets.
        """
        if not any(self._limits):
            return ""
        found = usage(pid)
        return self.judge(pid, found, now, is_ready=is_ready) if found else ""

    def judge(self, pid: int, found: Usage, now: int, *, is_ready: bool = True) -> str:
        """Return why a process that takes *found* must go, or ""."""
        if pid != self._pid:
            self._pid = pid
            self._samples.clear()
        if is_ready:
            self._samples.append((now, found.cpu_ns))
        limit = self._limits.rss_mb
        if limit and found.memory_mb > limit:
            return f"uses {found.memory_mb:.0f} MB of memory, its limit is {limit:g} MB"
        return self._judge_cpu()

    def _judge_cpu(self) -> str:
        while len(self._samples) > 1 and self._samples[-1][0] - self._samples[1][0] >= WINDOW_NS:
            self._samples.popleft()
        if not self._limits.cpu or len(self._samples) < 2:
            return ""
        (began, used_before), (ended, used) = self._samples[0], self._samples[-1]
        share = (used - used_before) / (ended - began) if ended > began else 0.0
        if ended - began < WINDOW_NS or share <= self._limits.cpu:
            return ""
        seconds = (ended - began) / NS_PER_S
        return f"used {share:.2f} of a core for {seconds:.0f} s, its limit is {self._limits.cpu:.2f}"
