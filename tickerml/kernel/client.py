"""
A client of a running kernel: the command line and the console.

It finds the kernel through HOME/kernel.json, asks on the control socket, and listens
on the bus. It imports no plugin.
"""

import os
from pathlib import Path
from typing import Any

import msgspec
import zmq

from . import codec, control
from .errors import BusError, KernelUnreachable


def read_beacon(home: Path) -> control.Beacon:
    """
    Return how the kernel of *home* is reached.

    Raises: KernelUnreachable: none runs there.
    """
    try:
        beacon = msgspec.json.decode(control.beacon_path(home).read_bytes(), type=control.Beacon)
        os.kill(beacon.pid, 0)
    except (OSError, msgspec.MsgspecError):
        raise KernelUnreachable(f"no kernel runs on {home}; start one with `tickerml run`") from None
    return beacon


class Client:
    """Requests and answers, one at a time, and a subscription."""

    def __init__(self, home: Path) -> None:
        """
        Raises: KernelUnreachable.
        """
        self.home = home
        self.beacon = read_beacon(home)
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.DEALER)
        self._control.linger = 0
        self._control.connect(control.control_address(self.beacon.runtime))
        self._bus: Any = None

    def close(self) -> None:
        """Let go of the sockets."""
        self._context.destroy(linger=0)

    def request(self, message: Any, timeout_s: float = 5.0) -> Any:
        """
        Return the kernel's answer to *message*.

        Raises: KernelUnreachable: none within *timeout_s*. BusError: it said no, and why.
        """
        while self._control.poll(0):
            self._control.recv()  # a late answer to a request that was given up
        self._control.send(control.encode(message))
        if not self._control.poll(int(timeout_s * 1000)):
            raise KernelUnreachable(f"the kernel on {self.home} did not answer within {timeout_s:g} s")
        answer = control.decode(self._control.recv())
        if isinstance(answer, control.Refused):
            raise BusError(answer.reason)
        return answer

    def status(self) -> dict[str, Any]:
        """Return the state of everything."""
        report: dict[str, Any] = self.request(control.StatusRequest()).report
        return report

    def subscribe(self, *prefixes: bytes) -> None:
        """Begin to listen on the bus; b"~" is telemetry, which is neither ordered nor kept."""
        if self._bus is None:
            self._bus = self._context.socket(zmq.SUB)
            self._bus.rcvhwm = 100_000
            self._bus.connect(control.bus_address(self.beacon.runtime))
        for prefix in prefixes:
            self._bus.subscribe(prefix)

    def receive(self, timeout_ms: int = 0, limit: int = 1000) -> list[bytes]:
        """Return the frames of up to *limit* runs, waiting at most *timeout_ms* for the first."""
        frames: list[bytes] = []
        if self._bus is None or not self._bus.poll(timeout_ms):
            return frames
        try:
            for _ in range(limit):
                run = self._bus.recv(zmq.NOBLOCK)
                frames += [run] if run.startswith(control.TELEMETRY) else codec.unpack_run(run)
        except zmq.Again:
            pass
        return frames
