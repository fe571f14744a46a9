"""A live feed changes its process while the exchange goes on: two connections, and one stream of messages."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import pytest

from tickerml.kernel import (
    BookDelta,
    BookSnapshot,
    BookStale,
    BookState,
    FeedConnected,
    FeedLost,
    Instrument,
    OrderBook,
    codec,
    config,
    control,
)
from tickerml.kernel.client import Client
from tickerml.kernel.journal import JournalReader
from tickerml.testing.exchanges import ExchangeServer

from ..exchanges.truth import truth_of

pytestmark = pytest.mark.processes

CONFIG = """
format = 1
[profile.test]
plugins = ["exchange-binanceus", "features-core"]
[plugin.exchange-binanceus]
host = "market"
[plugin.exchange-binanceus.options]
symbols = ["BTC/USD", "ETH/USD"]
ws_url = "ws://{url}/binanceus"
rest_url = "http://{url}/binanceus"
[plugin.features-core]
host = "trade"
"""
SYMBOLS = ("BTC/USD", "ETH/USD")


class Exchange:
    """The local Binance.US in a thread of its own, whose books change a hundred times a second."""

    def __init__(self) -> None:
        self.server = ExchangeServer("binanceus", seed=3, symbols=SYMBOLS)
        #: The number of the last change of each update, which is what its delta is numbered by.
        self.updates: dict[str, list[int]] = {symbol: [0] for symbol in SYMBOLS}
        self.is_up = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        async with self.server.serving():
            self.is_up.set()
            while not self._stop.is_set():
                for symbol in SYMBOLS:
                    self.updates[symbol].append(self.server.update("binanceus", symbol).last)
                await asyncio.sleep(0.01)

    def __enter__(self) -> "Exchange":
        self._thread.start()
        self.is_up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange() as found:
        yield found


def test_every_change_of_the_book_comes_once_and_in_order_across_three_processes(system, exchange):
    system.config.write_text(CONFIG.format(url=exchange.server.address))
    system.start()
    system.wait_until(lambda report: report["summary"]["books_valid"] == 2 or report["seq"] > 200)
    plan = config.plan(config.load(system.config), "test")
    pids = set()
    with closing(Client(system.home)) as client:
        for number in range(1, 9):  # a machine that is too busy rolls one back
            client.request(control.ChangeRequest(plan, "reload", probation_s=0.1, reload=["market"]))
            report = system.wait_until(
                lambda report, number=number: (
                    (report["change"] or {}).get("number") == number and bool(report["change"]["outcome"])
                )
            )
            pids |= {row["pid"] for row in report["hosts"] if row["host"] == "market"}
            if len(pids) == 3:
                break
    seq = report["seq"]
    system.wait_until(lambda report: report["seq"] > seq + 200)
    system.stop()

    assert len(pids) == 3
    reader = JournalReader(system.run_dir / "journal")
    messages = [codec.decode(codec.unpack(raw).body) for raw in reader.frames(0, reader.head())]
    for symbol in SYMBOLS:
        places = {seq: place for place, seq in enumerate(exchange.updates[symbol])}
        found = [m for m in messages if isinstance(m, BookSnapshot | BookDelta) and m.symbol == symbol]
        # A book that is told again stands for what a connection was too late to hear.
        for before, after in pairwise(found):
            assert places[after.seq] == places[before.seq] + 1 or isinstance(after, BookSnapshot)
        book = OrderBook("binanceus", symbol)
        for message in found:
            book.apply_snapshot(message) if isinstance(message, BookSnapshot) else book.apply_delta(message)
        assert book.state is BookState.VALID
        instrument = next(m for m in messages if isinstance(m, Instrument) and m.symbol == symbol)
        truth = truth_of(exchange.server.wires["binanceus"], instrument)
        truth.move_to(book.seq)
        assert truth.differs(book) == ""
    assert sum(isinstance(message, FeedConnected) for message in messages) == 1
    assert not [m for m in messages if isinstance(m, FeedLost)]
    first = next(n for n, m in enumerate(messages) if isinstance(m, BookSnapshot))
    assert not [m for m in messages[first:seq] if isinstance(m, BookStale)]
