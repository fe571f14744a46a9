import json
import subprocess
import sys

import pytest

from tickerml.kernel import NS_PER_S, Side
from tickerml.kernel.testing import Harness, Market, instrument

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
follower = Follower(home, home / "run", Watched(), structlog.get_logger())
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
