"""A subscription over real sockets; the kernel is a socket here, and its journal is in memory."""

import os
import threading
import time
from pathlib import Path

import msgspec
import pytest
import zmq

from tickerml.kernel import KernelUnreachable, SubscriptionLost, client, codec, control
from tickerml.kernel.client import Heard, Subscription
from tickerml.kernel.subscription import Latest, Rewound

from .past import Past


class Bus:
    """What a kernel is to its readers: a beacon, a socket, a journal."""

    def __init__(self, home: Path, runtime: Path, past: Past) -> None:
        self.home = home
        self.past = past
        self._context = zmq.Context()
        self.start(runtime, home / "run")

    def start(self, runtime: Path, run_dir: Path) -> None:
        """Serve the home from now on, as another kernel would."""
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.linger = 0
        runtime.mkdir()
        self._socket.bind(control.bus_address(str(runtime)))
        beacon = control.Beacon(os.getpid(), str(runtime), "test", str(run_dir), self.past.session)
        control.beacon_path(self.home).write_bytes(msgspec.json.encode(beacon))

    def stop(self) -> None:
        """Be gone."""
        control.beacon_path(self.home).unlink()
        self._socket.close()

    def say(self, *topics: bytes, is_lost: bool = False) -> None:
        """Publish a message on each of *topics*, and write it down."""
        for run in self.past.say(*topics):
            if not is_lost:
                self._socket.send(run)
        self.past.committed = len(self.past.frames_by_seq)

    def tell(self) -> None:
        """Tell how far the order is."""
        self._socket.send(control.pack_head(self.past.now))

    def send(self, message: bytes) -> None:
        """Publish telemetry."""
        self._socket.send(message)

    def close(self) -> None:
        """Let go of the sockets."""
        self._context.destroy(linger=0)


@pytest.fixture
def bus(tmp_path, monkeypatch):
    past = Past()
    monkeypatch.setattr(client, "JournalReader", lambda path: past)
    monkeypatch.setattr(client, "WATCH_NS", 1_000_000)
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    bus = Bus(tmp_path, Path("a"), past)
    yield bus
    bus.close()


@pytest.fixture
def subscription(bus):
    """Follows trades, and the newest quotes, and the status; it is joined."""
    subscription = Subscription(bus.home, lossless=[b"trade."], conflated=[b"quote."], heard=[b"~status."])
    join(subscription, bus)
    yield subscription
    subscription.close()


def join(subscription: Subscription, bus: Bus) -> list[object]:
    """Tell how far the order is until the subscription has heard it; return what else comes."""
    events: list[object] = []
    deadline = time.monotonic() + 20
    while not subscription.is_joined:
        assert time.monotonic() < deadline
        bus.tell()
        events += subscription.receive(0.01)
    return events


def take(subscription: Subscription, count: int) -> list[object]:
    """Return the next *count* events."""
    events: list[object] = []
    deadline = time.monotonic() + 20
    while len(events) < count and time.monotonic() < deadline:
        events += subscription.receive(0.1)
    return events


def seqs(events: list[object]) -> list[int]:
    return [event.seq for event in events if isinstance(event, codec.Frame)]


def test_every_message_comes_from_the_bus_or_where_it_was_dropped_from_the_journal(bus, subscription):
    bus.say(b"trade.a.", b"book.a.", b"trade.a.")
    bus.say(b"trade.a.", is_lost=True)
    bus.say(b"trade.b.")

    assert seqs(take(subscription, 4)) == [1, 3, 4, 5]
    assert subscription.gaps == 1
    assert subscription.position == 5


def test_of_conflated_topics_the_newest_comes_and_telemetry_as_it_is(bus, subscription):
    bus.say(b"quote.a.", b"quote.a.", b"quote.a.")
    bus.send(b"~status.\0all is well")
    events: list[object] = []
    while not any(isinstance(event, Heard) for event in events):
        events += take(subscription, 1)

    latest = [event for event in events if isinstance(event, Latest)]
    assert latest[-1].frame.seq == 3
    assert sum(event.skipped + 1 for event in latest) == 3
    assert Heard(b"~status.", b"all is well") in events


def test_it_goes_over_to_the_next_kernel_and_unsays_what_the_last_one_did_not_write_down(bus, subscription):
    bus.say(b"trade.a.", b"trade.a.", b"trade.b.")
    assert seqs(take(subscription, 3)) == [1, 2, 3]

    bus.stop()
    bus.past.crash(2)
    bus.start(Path("b"), bus.home / "run")
    events = [*subscription.receive(0.05), *join(subscription, bus)]
    bus.say(b"trade.c.")
    events += take(subscription, 1)

    assert [event for event in events if isinstance(event, Rewound)] == [Rewound(2)]
    assert seqs(events) == [3]
    assert subscription.is_connected


def test_when_the_kernel_is_gone_the_rest_comes_from_the_journal(bus, subscription):
    bus.say(b"trade.a.", b"trade.b.", is_lost=True)
    bus.stop()

    assert seqs(take(subscription, 2)) == [1, 2]
    assert not subscription.is_connected


def test_another_run_on_the_home_is_another_order_and_is_said_to_be(bus, subscription):
    bus.stop()
    bus.start(Path("b"), bus.home / "another")

    with pytest.raises(SubscriptionLost, match=r"has begun another run, .*another; what comes next"):
        subscription.receive(1.0)

    join(subscription, bus)
    bus.say(b"trade.a.")
    assert seqs(take(subscription, 1)) == [1]


def test_a_reader_may_jump_to_the_head(bus, subscription):
    bus.say(b"trade.a.", b"trade.a.")
    bus.tell()
    while not subscription.lag_ns():
        pass

    subscription.jump_to_head()
    bus.say(b"trade.b.")

    assert seqs(take(subscription, 1)) == [3]


def test_a_topic_cannot_be_followed_in_both_ways(bus):
    with pytest.raises(ValueError, match=r"b'trade\.a\.' and b'trade\.' overlap"):
        Subscription(bus.home, lossless=[b"trade.a."], conflated=[b"trade."])


def test_without_a_kernel_there_is_nothing_to_follow(tmp_path):
    with pytest.raises(KernelUnreachable, match="no kernel runs on"):
        Subscription(tmp_path, lossless=[b"trade."])


def test_a_late_answer_is_not_taken_for_the_answer_to_another_request(tmp_path):
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    (runtime := tmp_path / "run").mkdir()
    router.bind(control.control_address(str(runtime)))
    beacon = control.Beacon(os.getpid(), str(runtime), "test", "", 1)
    control.beacon_path(tmp_path).write_bytes(msgspec.json.encode(beacon))
    asker = client.Client(tmp_path)
    answers = iter([1, 2])

    def answer_both() -> None:
        requests = [router.recv_multipart() for _ in answers]
        for seq, (peer, number, _) in enumerate(requests, 1):
            router.send_multipart([peer, number, control.encode(control.Done(seq))])

    try:
        with pytest.raises(KernelUnreachable):
            asker.request(control.HaltRequest("test", "first"), timeout_s=0.05)
        kernel = threading.Thread(target=answer_both)
        kernel.start()
        answer = asker.request(control.HaltRequest("test", "second"))
        kernel.join()
    finally:
        asker.close()
        context.destroy(linger=0)

    assert answer == control.Done(2)
