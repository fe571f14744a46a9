"""
A disk that takes 200 ms to confirm: fsync, fdatasync and msync of the kernel's process are delayed.

The order may not wait for it. Two runs show that. The first is played over data and must
be equal to one that nobody disturbed, with a backlog that stays bounded. In the second
the delay is switched on and off in turn, and the time from tick to order is compared
between the two, in one run.
"""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import evidence
from budget import REFERENCE_HOSTS, Budget, quantiles, undisturbed
from system import RATE, STAMPED, System

from tickerml.kernel import SubmitOrder, codec

SOURCE = Path(__file__).with_name("slow_sync.c")
DELAY_MS = 200
MOST_BEHIND = 2 * RATE  # messages not yet on disk: some delays' worth, and the room for a slow machine
WINDOW_S = 4.0
SETTLING_S = 0.5  # at the start of a window, not counted
MOST_WORSE = 2.0  # p99 with the delay over p99 without


class SlowSync:
    """The shim, compiled into a directory of its own, and its switch."""

    def __init__(self, compiler: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="tmlx-"))
        self._switch = self._directory / "delay_us"
        library = self._directory / "slow_sync.so"
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        self.environment = {"LD_PRELOAD": str(library), "SLOW_SYNC": str(self._switch)}
        self.set(0)

    def set(self, milliseconds: int) -> None:
        """Delay each call by this much from now on."""
        new = self._switch.with_suffix(".new")
        new.write_text(str(milliseconds * 1000))
        new.replace(self._switch)

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._directory, ignore_errors=True)


def find_compiler() -> str:
    """Return a C compiler, or "" where there is none."""
    return next(
        (path for name in (os.environ.get("CC", ""), "cc", "gcc") if (path := shutil.which(name))), ""
    )


def compare_equal(budget: Budget, slow: SlowSync, duration_s: int) -> dict[str, Any]:
    """Return how a run over data fares on the slow disk: what differs, and how far the disk was behind."""
    choices: dict[str, Any] = {"duration_s": duration_s, "more": ""}
    expected = undisturbed(budget, **choices)
    slow.set(DELAY_MS)
    system = System(environment=slow.environment, **choices)
    behind: list[float] = []
    try:
        system.start()
        system.wait_until(lambda report: report["state"] == "running", what="start")
        began = time.monotonic()
        while system.is_alive and time.monotonic() - began < duration_s:
            report = system.status()
            behind.append(report["seq"] - report["committed"])
            time.sleep(0.1)
        took_s = time.monotonic() - began
        outcome = system.finish(timeout_s=duration_s * 2 + 60)
        left = evidence.read(system.run_dir, outcome.summary, REFERENCE_HOSTS)
        told = evidence.differences(expected, left)
    finally:
        system.close()
    if outcome.code:
        told.append(f"exit code {outcome.code}: {outcome.err[-300:]}")
    if max(behind) > MOST_BEHIND:
        told.append(f"the disk was {max(behind):,.0f} messages behind, at most {MOST_BEHIND:,} are meant")
    return {
        "differences": told,
        "behind": quantiles(behind),
        "market_s": duration_s,
        "took_s": round(took_s, 1),
    }


def compare_latency(budget: Budget, slow: SlowSync, windows: int) -> dict[str, Any]:
    """Return tick to order, ms, with the delay and without, in windows by turns of one run."""
    slow.set(0)
    system = System(
        environment=slow.environment, clock="wall", duration_s=0, rate=500.0, stamped_rate=1000, **STAMPED
    )
    latencies: dict[int, list[float]] = {0: [], DELAY_MS: []}
    try:
        system.start()
        system.wait_until(lambda report: report["state"] == "running", what="start")
        client = system.client
        client.subscribe(b"order.bench.")
        time.sleep(2.0)
        for number in range(2 * windows):
            delay_ms = (0, DELAY_MS)[number % 2]
            slow.set(delay_ms)
            began = time.monotonic()
            while (since := time.monotonic() - began) < WINDOW_S:
                for raw in client.receive(100):
                    message = codec.decode(codec.unpack(raw).body)
                    if since > SETTLING_S and isinstance(message, SubmitOrder) and message.reason:
                        latencies[delay_ms].append(int(message.reason) / 1e6)
            budget.tell(f"window {number + 1} of {2 * windows}, delay {delay_ms} ms")
    finally:
        system.close()
    return {"without": quantiles(latencies[0]), "with": quantiles(latencies[DELAY_MS])}


def campaign(budget: Budget, *, rounds: int = 0, duration_s: int = 60) -> dict[str, Any]:
    """Run both; needs a C compiler."""
    if not (compiler := find_compiler()):
        return {"is_passed": True, "left_out": "no C compiler (cc, gcc or $CC), and the delay is made in C"}
    slow = SlowSync(compiler)
    try:
        equal = compare_equal(budget, slow, duration_s)
        windows = max(2, min(rounds or 8, int(budget.left_s / WINDOW_S / 2) - 2))
        latency = compare_latency(budget, slow, windows)
    finally:
        slow.close()
    ratio = latency["with"]["p99"] / latency["without"]["p99"]
    told = list(equal["differences"])
    if ratio > MOST_WORSE:
        told.append(
            f"tick to order p99 was {ratio:.1f} times that without the delay, meant is {MOST_WORSE:g}"
        )
    budget.tell(f"{equal['behind']} behind; tick to order {latency}")
    return {
        "delay_ms": DELAY_MS,
        "run": equal,
        "tick_to_order_ms": {**latency, "ratio_p99": round(ratio, 2)},
        "differences": told,
        "is_passed": not told,
    }
