"""
Telling whoever started the kernel that it is alive: the client side of systemd's sd_notify protocol.

    NOTIFY_SOCKET  where to: the path of a Unix datagram socket, or "@name" in the abstract namespace
    WATCHDOG_USEC  how long the kernel may be silent before it is taken for hung and killed, us
    WATCHDOG_PID   whom that concerns; another process's number means: not us

A message is one datagram of NAME=value lines. systemd reads them, and so does
`tickerml run --guard` where there is no systemd. Without the variables nothing is
sent. Sending never waits and never raises: a kernel must not stop trading because
nobody listens.
"""

import contextlib
import os
import socket
from collections.abc import MutableMapping

import structlog

from .units import NS_PER_S

logger = structlog.get_logger()

SOCKET_VARIABLE = "NOTIFY_SOCKET"
INTERVAL_VARIABLE = "WATCHDOG_USEC"
PID_VARIABLE = "WATCHDOG_PID"
EXTENSION_US = 60_000_000  # asked for with each sign of life while starting and stopping
UNWATCHED_INTERVAL_NS = 20 * NS_PER_S  # between signs of life where only the start and the stop have limits


class Notifier:
    """Says how the kernel is; silent where nobody asked to be told."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """
        Take the protocol's variables out of *environ*, so that no child of ours speaks in our name.
        """
        names = (SOCKET_VARIABLE, INTERVAL_VARIABLE, PID_VARIABLE)
        self._taken = {name: environ.pop(name) for name in names if name in environ}
        self._address = _address(self._taken.get(SOCKET_VARIABLE, ""))
        self._interval_ns = _interval_ns(self._taken)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._address else None
        if self._socket:
            self._socket.setblocking(False)
        self._told_at: int | None = None
        self._has_limit = True  # starting and stopping are limited in time, running is not
        self._is_unheard = False

    def ready(self, status: str = "") -> None:
        """Say that the start is over, or the restart in place."""
        self._has_limit = False
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """Give the one line that `systemctl status` shows."""
        self._send(f"STATUS={text}")

    def alive(self, now: int) -> None:
        """
        Give a sign of life when half the time allowed between two has passed; cheap to call often.

        Args:
            now: monotonic, ns.
        """
        if self._socket is None or (
            self._told_at is not None and now - self._told_at < self._interval_ns // 2
        ):
            return
        self._told_at = now
        # Catching up with a journal, or flushing to a slow disk, may take its time while it moves.
        extension = [f"EXTEND_TIMEOUT_USEC={EXTENSION_US}"] if self._has_limit else []
        self._send("WATCHDOG=1", *extension)

    def reloading(self, now: int, status: str = "") -> None:
        """
        Say that a restart in place has begun; ready() ends it, called by the process that follows.

        Args:
            now: monotonic, ns.
        """
        self._has_limit = True
        self._send("RELOADING=1", f"MONOTONIC_USEC={now // 1000}", f"STATUS={status}")

    def stopping(self, status: str = "") -> None:
        """Say that the end was asked for: what follows is no death, whatever the exit code."""
        self._has_limit = True
        self._send("STOPPING=1", f"STATUS={status}")

    def hand_on(self, environ: MutableMapping[str, str]) -> None:
        """Put the variables back, for a process that takes this one over by exec."""
        environ.update(self._taken)

    def close(self) -> None:
        """Let go of the socket; what is said from now on is not sent."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        said = "\n".join(" ".join(line.split("\n")) for line in lines if line != "STATUS=")
        try:
            self._socket.sendto(said.encode(errors="replace"), self._address)
            self._is_unheard = False
        except OSError as error:
            # The next sign of life comes soon; whoever listens may have been restarted in between.
            if not self._is_unheard:
                logger.warning("watchdog.not_told", reason=error.strerror or str(error), message=said)
            self._is_unheard = True


def _address(name: str) -> str:
    return "\0" + name[1:] if name.startswith("@") else name


def _interval_ns(variables: MutableMapping[str, str]) -> int:
    """Return how long we may be silent, ns; a value that is no number is as good as none."""
    interval_us = 0
    if variables.get(PID_VARIABLE, str(os.getpid())) == str(os.getpid()):
        with contextlib.suppress(ValueError):
            interval_us = int(variables.get(INTERVAL_VARIABLE, "0"))
    return interval_us * 1000 if interval_us > 0 else UNWATCHED_INTERVAL_NS
