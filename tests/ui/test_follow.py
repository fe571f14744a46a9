import json
import subprocess
import sys
import threading
from typing import ClassVar

import pytest
import structlog

from tickerml.kernel import NS_PER_S, Side, codec, topics
from tickerml.kernel.client import Heard
from tickerml.kernel.subscription import Rewound
from tickerml.kernel.testing import Harness, Market, instrument
from tickerml.ui import follow
from tickerml.ui.state import ConsoleState

from .fake_kernel import FakeKernel

pytestmark = pytest.mark.processes

# In a process of its own, since a journal cannot be open twice in one: says what it knows after each message.
WATCHER = """
import json, sys
from pathlib import Path
import structlog
from tickerml.ui.follow import Follower
from tickerml.ui.state import ConsoleState

class Watched(ConsoleState):
    def apply(self, message, at=None):
        super().apply(message, at)
        key = ("test", "BTC/USDT")
        prices = [row.cells[1] for row in self.print_rows(key)]
        print(json.dumps([prices, [row[0] for row in self.ladder(key, 9)["bids"]]]), flush=True)

home = Path(sys.argv[1])
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
follower = Follower(home, Watched(), structlog.get_logger())
follower.start()
sys.stdin.readline()
follower.stop()
"""


@pytest.fixture
def kernel(tmp_path):
    kernel = FakeKernel(tmp_path, 1)
    yield kernel
    kernel.close()


@pytest.fixture
def watch(kernel):
    """Start following; gives a function that waits until prints and bids are these."""
    started = []

    def start():
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", WATCHER, str(kernel.home)]
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        started.append(process)

        def wait_until(prices, bids):
            assert any(json.loads(line) == [prices, bids] for line in process.stdout)

        return wait_until

    yield start
    for process in started:
        process.communicate("\n", timeout=20)
        assert process.returncode == 0


@pytest.fixture
def market():
    return Market()


def test_what_was_before_it_started_comes_from_the_journal_and_the_rest_from_the_bus(kernel, watch, market):
    book = market.book(0, [(6_000_000, 1)], [(6_000_100, 1)])
    kernel.publish(instrument(), book, market.trade(NS_PER_S, 6_000_000, 1, Side.BUY))
    wait_until = watch()
    wait_until(["60,000.00"], ["60,000.00"])

    kernel.publish(market.delta(0, [(6_000_050, 1)]), market.trade(NS_PER_S, 6_000_050, 1, Side.SELL))
    wait_until(["60,000.00", "60,000.50"], ["60,000.50", "60,000.00"])


def test_what_the_bus_drops_is_filled_in_from_the_journal(kernel, watch, market):
    kernel.publish(instrument(), market.book(0, [(6_000_000, 1)], [(6_000_100, 1)]))
    wait_until = watch()
    wait_until([], ["60,000.00"])

    kernel.publish(market.delta(0, [(6_000_000, 0), (5_999_000, 1)]), is_lost=True)
    kernel.publish(market.delta(0, [(5_998_000, 1)]))
    wait_until([], ["59,990.00", "59,980.00"])


def test_books_come_from_a_checkpoint_when_their_snapshots_are_gone(kernel, watch, market):
    harness = Harness()
    harness.send(instrument(), market.book(0, [(6_000_000, 1)], [(6_000_100, 1)]))
    kernel.publish(market.delta(0, [(6_000_010, 1)]))
    kernel.checkpoint(harness.bus.snapshot())
    kernel.publish(market.delta(0, [(6_000_020, 1)]), market.trade(NS_PER_S, 6_000_020, 1, Side.BUY))

    watch()(["60,000.20"], ["60,000.20", "60,000.00"])


def test_a_message_of_another_version_is_skipped_and_the_rest_is_shown(kernel, watch, market):
    kernel.publish(instrument(), market.book(0, [(6_000_000, 1)], [(6_000_100, 1)]))
    kernel.publish_unreadable(market.trade(NS_PER_S, 6_000_000, 1, Side.BUY))
    kernel.publish(market.trade(NS_PER_S, 6_000_000, 1, Side.BUY))

    watch()(["60,000.00"], ["60,000.00"])


class Scripted:
    """A subscription that gives what the test wrote down for it, then a quiet bus; its journal is empty."""

    scripts: ClassVar[list[list[object]]] = []
    is_joined, position, gaps = True, 0, 0

    def __init__(self, home, **asked):
        self.asked = asked
        self.events = [Heard(b"~status.", b'{"hosts": []}'), *self.scripts.pop(0)]

    def receive(self, timeout_s):
        return [self.events.pop(0)] if self.events else []

    def lag_ns(self):
        return self.events.pop(0) if self.events and isinstance(self.events[0], int) else 0

    def journal(self):
        return self

    def frames(self, after, until, table=""):
        return iter(())

    def close(self):
        pass


def frame_of(seq, message):
    return codec.Frame(topics.topic_of(message), seq, seq, 1, 1, 0, seq, codec.encode(message))


@pytest.mark.parametrize(
    "reason", [Rewound(0), int(follow.LATE_S + 1) * NS_PER_S], ids=["unsaid", "too late"]
)
def test_what_does_not_hold_or_is_too_old_is_forgotten_and_it_begins_again(
    reason, kernel, market, monkeypatch
):
    wrong = market.trade(NS_PER_S, 6_000_000, 1, Side.BUY)
    right = market.trade(NS_PER_S, 5_000_000, 1, Side.BUY)
    scripts = [[frame_of(1, instrument()), frame_of(2, wrong), reason]]
    scripts += [[frame_of(1, instrument()), frame_of(2, right)]]
    monkeypatch.setattr(follow, "Subscription", type("Scripted", (Scripted,), {"scripts": scripts}))
    is_right = threading.Event()

    class Watched(ConsoleState):
        def apply(self, message, at=None):
            super().apply(message, at)
            if message == right:
                is_right.set()

    follower = follow.Follower(kernel.home, Watched(), structlog.get_logger())
    follower.start()
    assert is_right.wait(20)
    follower.stop()

    assert [row.cells[1] for row in follower.state.print_rows(("test", "BTC/USDT"))] == ["50,000.00"]
