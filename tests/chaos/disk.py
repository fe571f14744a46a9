"""
A disk that is full for a while, and then is not.

Two ways to make one: the kernel's RLIMIT_FSIZE is lowered from outside to what its
journal has, and lifted again; and, where root may mount one, the home lies on a small
tmpfs which a ballast file fills. A run over data ends with one clear message and is
continued at the next start, equal to one that nobody disturbed. A run by the wall clock
says so in its status, acknowledges nothing it cannot keep, and goes on by itself when
there is space again; what it had acknowledged is in its journal at the end.
"""

import contextlib
import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import evidence
from budget import REFERENCE_HOSTS, Budget, quantiles, undisturbed
from system import System, SystemFailed

from tickerml.kernel import BusError, KernelUnreachable, ResumeTrading, codec, control
from tickerml.kernel.journal import JournalReader

FULL_S = 4.0  # how long the disk stays full
ROOM = 64 * 1024  # bytes the journal may still grow by when the limit comes down
TMPFS_MB = 96
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


class Limited:
    """The full disk by the kernel's own limit of file sizes."""

    def __init__(self, system: System) -> None:
        self._system = system

    def fill(self) -> None:
        """Let no file of the kernel grow much beyond the journal as it is."""
        size = (self._system.run_dir / "journal" / "data.mdb").stat().st_size
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (size + ROOM, resource.RLIM_INFINITY))

    def free(self) -> None:
        """Lift the limit."""
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, NO_LIMIT)

    def close(self) -> None:
        """Nothing outlives the process."""

    @property
    def _pid(self) -> int:
        pid: int = self._system.status()["pid"]
        return pid


class Mounted:
    """The full disk on a tmpfs, by a ballast file: it is full for every process alike."""

    def __init__(self, system: System) -> None:
        """
        Raises: SystemFailed: nothing can be mounted here.
        """
        self._home = system.home
        self._ballast = self._home / "ballast"
        self._home.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m,mode=700", "tmpfs", str(self._home)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemFailed(f"cannot mount a tmpfs: {done.stderr.strip()}")

    def fill(self) -> None:
        """Leave no byte free."""
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(64 * 1024))

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink()

    def close(self) -> None:
        """Unmount; processes must be gone."""
        subprocess.run(["umount", "-l", str(self._home)], capture_output=True)


def one_message(err: str) -> list[str]:
    """Return what is wrong with how an end was explained on stderr; nothing where it is one clear message."""
    told = [line for line in err.splitlines() if line.startswith("tickerml: ")]
    wrong = [] if len(told) == 1 else [f"expected one message, was {told}"]
    if "Traceback" in err:
        wrong.append(f"a traceback: {err[-400:]}")
    return wrong


def play_data(budget: Budget, duration_s: int) -> dict[str, Any]:
    """Fill the disk under a run over data; when it has ended, start again with room."""
    choices: dict[str, Any] = {"duration_s": duration_s, "more": ""}
    expected = undisturbed(budget, **choices)
    system = System(**choices)
    try:
        system.start()
        system.wait_until(lambda report: report["seq"] > expected.frames // 3, timeout_s=180, what="a third")
        Limited(system).fill()
        outcome = system.finish(timeout_s=120)
        told = one_message(outcome.err)
        if outcome.code == 0:
            told.append("expected a failure, was exit code 0")
        message = next((line for line in outcome.err.splitlines() if line.startswith("tickerml: ")), "")
        done = system.run(timeout_s=duration_s * 3 + 60)
        left = evidence.read(system.run_dir, done.summary, REFERENCE_HOSTS)
        told += evidence.differences(expected, left)
        if done.code:
            told.append(f"exit code {done.code} when continued: {done.err[-300:]}")
    finally:
        system.close()
    budget.tell(f"data: {outcome.code}, {message!r}, {len(told)} complaints")
    return {"message": message, "exit_code": outcome.code, "differences": told}


class Requests:
    """Asks again and again for what is acknowledged once it is on disk, and remembers the answers."""

    def __init__(self, system: System) -> None:
        self.acknowledged: dict[str, int] = {}  # reason -> the seq that was promised
        self.refused = 0
        self.unanswered = 0
        self._system = system
        self._count = 0

    def send(self) -> None:
        """Ask once; a resumption changes nothing where nothing is halted."""
        self._count += 1
        reason = f"request {self._count}"
        try:
            answer = self._system.client.request(control.ResumeRequest("chaos", reason), timeout_s=0.5)
            self.acknowledged[reason] = answer.seq
        except KernelUnreachable:
            self.unanswered += 1
            self._system.hang_up()  # a late answer would be taken for that to the next request
        except BusError:
            self.refused += 1

    def missing(self, run_dir: Path) -> list[str]:
        """Return what was acknowledged and is not in the journal where it was promised."""
        reader = JournalReader(run_dir / "journal")
        found = {}
        for raw in reader.frames(table="kept"):
            frame = codec.unpack(raw)
            if b"ResumeTrading" in frame.body[:20]:
                message = codec.decode(frame.body)
                if isinstance(message, ResumeTrading):
                    found[message.reason] = frame.seq
        reader.close()
        return [
            f"{reason} was acknowledged at seq {seq}, and is at {found.get(reason)}"
            for reason, seq in self.acknowledged.items()
            if found.get(reason) != seq
        ]


def play_wall(budget: Budget, disk_type: type[Limited] | type[Mounted], times: int) -> dict[str, Any]:
    """Fill and free the disk some times under a run by the wall clock."""
    system = System(clock="wall", duration_s=0, more="")
    disk: Limited | Mounted | None = None
    told: list[str] = []
    said: list[str] = []
    recoveries: list[float] = []
    requests = Requests(system)
    try:
        disk = disk_type(system)
        system.start()
        system.wait_until(lambda report: report["state"] == "running", what="start")
        for number in range(times):
            _ask_for(requests, 2.0)
            disk.fill()
            full = system.wait_until(_is_halted_by_disk, 60, "state halted by a full disk")
            said.append(full["journal"]["error"])
            _ask_for(requests, FULL_S)
            disk.free()
            began, behind = time.monotonic(), full["committed"]
            _recover(system, behind)
            recoveries.append(time.monotonic() - began)
            budget.tell(f"{disk_type.__name__}: full and free again {number + 1} of {times}")
        _ask_for(requests, 2.0)
        system.call("stop")
        outcome = system.finish(timeout_s=90)
        if outcome.code:
            told.append(f"exit code {outcome.code}: {outcome.err[-300:]}")
        told += evidence.read(system.run_dir, outcome.summary, REFERENCE_HOSTS).faults
        told += requests.missing(system.run_dir)
    except SystemFailed as error:
        told.append(str(error))
        if not recoveries and isinstance(disk, Mounted | type(None)) and "cannot mount" in str(error):
            return {"left_out": str(error), "differences": []}
    finally:
        system_close(system, disk)
    return {
        "said": said[:1],
        "acknowledged": len(requests.acknowledged),
        "refused": requests.refused,
        "unanswered": requests.unanswered,
        "recovery_s": quantiles(recoveries),
        "differences": told,
    }


def system_close(system: System, disk: Limited | Mounted | None) -> None:
    """End the processes, let go of the disk, and remove what is left of both."""
    system.close()
    if disk is not None:
        disk.close()
    shutil.rmtree(system.directory, ignore_errors=True)


def _ask_for(requests: Requests, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        requests.send()
        time.sleep(0.1)


def _is_halted_by_disk(report: dict[str, Any]) -> bool:
    return bool(report["journal"]["error"]) and report["state"] == "halted"


def _recover(system: System, behind: int) -> None:
    """Wait until the journal grows again and something new has been decided."""
    system.wait_until(lambda report: not report["journal"]["error"], 60, "an end of the journal's error")
    orders = system.status()["summary"]["orders"]
    system.wait_until(
        lambda report: report["committed"] > behind and report["summary"]["orders"] > orders,
        timeout_s=60,
        what="an order after the disk had room again",
    )


def campaign(budget: Budget, *, rounds: int = 3, duration_s: int = 30) -> dict[str, Any]:
    """
    Fill the disk under both kinds of run, in both ways.

    Args:
        rounds: how often the disk is full in a run by the wall clock.
        duration_s: market time of the run over data.
    """
    report: dict[str, Any] = {"data": play_data(budget, duration_s)}
    report["limit"] = play_wall(budget, Limited, rounds or 3)
    report["tmpfs"] = play_wall(budget, Mounted, rounds or 3)
    report["differences"] = [f"{name}: {text}" for name in report for text in report[name]["differences"]]
    report["is_passed"] = not report["differences"]
    return report
