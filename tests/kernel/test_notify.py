"""What the kernel tells its watchdog, over a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tickerml.kernel.notify import Notifier

SECOND = 1_000_000_000


class Listener:
    """What systemd is to us: a datagram socket that is read."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[list[str]]:
        """Return the lines of each datagram that has come."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 bytes, and tmp_path more
    return "notify"


@pytest.fixture
def listener(path: str) -> Iterator[Listener]:
    built = Listener(path)
    yield built
    built.socket.close()


@pytest.fixture
def notifier(path: str, listener: Listener) -> Iterator[Notifier]:
    built = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "10000000"})
    yield built
    built.close()


def test_says_when_it_is_ready_restarts_and_stops(notifier, listener):
    notifier.ready("trading")
    notifier.status("halted by operator")
    notifier.reloading(5 * SECOND, "restart")
    notifier.ready()
    notifier.stopping("SIGTERM")

    assert listener.heard() == [
        ["READY=1", "STATUS=trading"],
        ["STATUS=halted by operator"],
        ["RELOADING=1", "MONOTONIC_USEC=5000000", "STATUS=restart"],
        ["READY=1"],
        ["STOPPING=1", "STATUS=SIGTERM"],
    ]


def test_gives_a_sign_of_life_each_time_half_the_interval_has_passed(notifier, listener):
    notifier.ready()
    listener.heard()

    told = []
    for tick in range(1501):
        notifier.alive(7 * SECOND + tick * SECOND // 100)
        told += [tick for _ in listener.heard()]

    assert told == [0, 500, 1000, 1500]


def test_asks_for_more_time_while_starting_and_stopping_and_not_while_running(notifier, listener):
    notifier.alive(0)
    notifier.ready()
    notifier.alive(6 * SECOND)
    notifier.stopping()
    notifier.alive(12 * SECOND)

    signs = [lines for lines in listener.heard() if "WATCHDOG=1" in lines]
    assert signs == [
        ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=60000000"],
        ["WATCHDOG=1"],
        ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=60000000"],
    ]


def test_a_status_is_one_line_whatever_is_in_it(notifier, listener):
    notifier.status("degraded\nREADY=1\nMAINPID=1")

    assert listener.heard() == [["STATUS=degraded READY=1 MAINPID=1"]]


def test_takes_its_variables_out_of_the_environment_and_can_put_them_back(path, listener):
    given = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1", "WATCHDOG_PID": str(os.getpid())}
    environ = {"PATH": "/bin", **given}

    notifier = Notifier(environ)
    notifier.close()
    assert environ == {"PATH": "/bin"}

    notifier.hand_on(environ)
    assert environ == {"PATH": "/bin", **given}


def test_without_the_variable_it_says_nothing_and_needs_nothing():
    environ = {"PATH": "/bin"}
    notifier = Notifier(environ)

    notifier.ready("trading")
    notifier.alive(0)
    notifier.stopping()

    assert environ == {"PATH": "/bin"}


def test_an_address_in_the_abstract_namespace_is_found(tmp_path):
    name = f"tickerml-test-{os.getpid()}-{tmp_path.name}"
    listener = Listener("\0" + name)
    notifier = Notifier({"NOTIFY_SOCKET": "@" + name})

    notifier.ready()

    assert listener.heard() == [["READY=1"]]
    notifier.close()
    listener.socket.close()


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "-5"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}],
    ids=["none", "no number", "negative", "another process's"],
)
def test_without_an_interval_of_its_own_it_speaks_seldom(path, listener, variables):
    notifier = Notifier({"NOTIFY_SOCKET": path, **variables})

    for second in range(31):
        notifier.alive(second * SECOND)

    assert len(listener.heard()) == 4
    notifier.close()


def test_a_listener_that_does_not_read_costs_one_line_of_log_and_no_wait(notifier):
    with capture_logs() as logs:
        for second in range(0, 5000, 5):
            notifier.alive(second * SECOND)

    assert [each["event"] for each in logs] == ["watchdog.not_told"]


def test_a_listener_that_is_gone_is_told_of_once_and_found_again_when_it_is_back(notifier, listener, path):
    listener.socket.close()
    Path(path).unlink()
    with capture_logs() as logs:
        notifier.status("alone")
        notifier.status("still alone")
    Path(path).unlink(missing_ok=True)
    back = Listener(path)
    notifier.status("not alone")

    assert [each["event"] for each in logs] == ["watchdog.not_told"]
    assert back.heard() == [["STATUS=not alone"]]
    back.socket.close()


@pytest.mark.parametrize("address", ["x" * 200, "vsock:2:1234", "nowhere/at/all", "@", "a\0b"])
def test_an_address_that_cannot_be_reached_is_no_error(address):
    notifier = Notifier({"NOTIFY_SOCKET": address})
    with capture_logs() as logs:
        notifier.ready()
        notifier.alive(0)

    assert len(logs) == 1
    notifier.close()
