"""Readers outside the hosts, on a real kernel: whatever they or it do, they end with what happened."""

import time
from collections.abc import Callable

import pytest

from tickerml.kernel import KernelUnreachable, codec
from tickerml.kernel.client import Heard, Subscription
from tickerml.kernel.subscription import Latest, Rewound

from .conftest import System

pytestmark = pytest.mark.processes

LOSSLESS = (b"trade.", b"order.", b"fill.", b"system.")


class Reader:
    """Keeps what a subscription gives, and forgets what it unsays."""

    def __init__(self, system: System) -> None:
        self.subscription = self._subscribe(system)
        self.kept: list[codec.Frame] = []
        self.latest: list[Latest] = []
        self.heard: list[Heard] = []

    @staticmethod
    def _subscribe(system: System) -> Subscription:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                return Subscription(
                    system.home,
                    lossless=LOSSLESS,
                    conflated=[b"portfolio."],
                    heard=[b"~status."],
                    after=0,
                )
            except KernelUnreachable:
                time.sleep(0.02)
        raise TimeoutError("no kernel")

    def take_until(self, condition: Callable[[Subscription], bool]) -> None:
        """Take what comes until *condition* holds of the subscription."""
        until = time.monotonic() + 100
        while not condition(self.subscription):
            assert time.monotonic() < until
            for event in self.subscription.receive(0.1):
                match event:
                    case Rewound():
                        self.kept = [frame for frame in self.kept if frame.seq <= event.to_seq]
                    case Latest():
                        self.latest.append(event)
                    case Heard():
                        self.heard.append(event)
                    case _:
                        self.kept.append(event)


@pytest.fixture
def reader(system):
    """Follows from the beginning a run that the test has not disturbed yet."""
    system.start()
    reader = Reader(system)
    yield reader
    reader.subscription.close()


def is_over(subscription: Subscription) -> bool:
    """Whether the kernel is gone and everything it wrote down has been taken."""
    return not subscription.is_connected and subscription.position == subscription.journal().head()


def what_happened(reader: Reader) -> list[codec.Frame]:
    """Return what the journal holds of the lossless topics."""
    frames = reader.subscription.journal().frames()
    return [codec.unpack(raw) for raw in frames if raw.startswith(LOSSLESS)]


def test_a_reader_who_sleeps_through_most_of_a_run_has_all_of_it_in_the_end(system, reader):
    reader.take_until(lambda subscription: subscription.position > 0)

    assert system.finish()[0] == 0
    reader.take_until(is_over)

    assert reader.kept == what_happened(reader)
    assert len(reader.kept) > 1000


def test_a_reader_follows_from_a_kernel_that_was_killed_to_the_next_one(system, reader):
    reader.take_until(lambda subscription: subscription.position > 5_000)
    system.kill("kernel", 5_000)
    system.finish()
    system.start()

    reader.take_until(lambda subscription: subscription.is_connected and 2 in sessions(reader))
    assert system.finish()[0] == 0
    reader.take_until(is_over)

    assert reader.kept == what_happened(reader)
    assert reader.latest


def sessions(reader: Reader) -> set[int]:
    """Return the numbers of the sessions that began, as far as the reader has heard."""
    started = (frame for frame in reader.kept if b"KernelStarted" in frame.body)
    return {codec.decode(frame.body).session for frame in started}
