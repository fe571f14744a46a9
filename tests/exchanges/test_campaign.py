"""An hour of random faults in the suite; and that a book which is wrong unmarked would be seen."""

from bisect import bisect_right
from itertools import count
from operator import itemgetter

import pytest

from tests.exchanges.campaign import BEGAN, Campaign
from tests.exchanges.connectors import CONNECTORS
from tickerml.kernel import (
    NS_PER_S,
    BookCrossed,
    FeedLost,
    Message,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    SequenceGap,
    Side,
    TimeInForce,
)
from tickerml.kernel.testing import Harness
from tickerml.plugins import sim_fifo
from tickerml.testing.exchanges import FAULTS, Fault, Frame


def test_an_hour_of_faults_leaves_no_wrong_book_unmarked_and_every_book_comes_back() -> None:
    campaign = Campaign([*CONNECTORS], seed=2026, rate=0.2, faults_per_hour=90.0)
    report = campaign.run(1.0)

    assert (report["wrong_unmarked"], report["not_back"]) == ([], [])
    possible = [
        name
        for name, fault in FAULTS.items()
        if any(fault.can_strike(client.wire) for client in campaign.clients)
    ]
    assert [name for name in possible if not report["faults"][name]] == []
    for exchange, row in report["exchanges"].items():
        assert row["checks"] > 1000, exchange
        assert row["gaps"] + row["checksums"] > 0, exchange
        assert row["losses"] > 0, exchange


def test_the_same_seed_is_the_same_hour() -> None:
    def run(seed: int) -> dict[str, object]:
        report = Campaign(["binanceus"], seed, rate=0.5, faults_per_hour=240.0).run(0.1)
        return report | {"wall_s": 0}

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_nothing_is_filled_on_a_book_in_doubt() -> None:
    """Orders are sent to the simulator all the time, most of all where a book has just been given up."""
    campaign = Campaign(["binanceus"], seed=7, rate=0.5, faults_per_hour=240.0)
    client = campaign.clients[0]
    simulator = {"latency_ms": {"binanceus": (0, 0)}, "spike_probability": 0.0}
    harness = Harness(sim_fifo, options={"sim-fifo": simulator})
    orders, seen = count(), count()
    states: dict[str, list[tuple[int, bool]]] = {"BTC/USD": [], "ETH/USDT": []}  # (since ns, is it valid)

    def submit(message: Message, symbol: str, price: int) -> None:
        kind = OrderType.LIMIT if price else OrderType.MARKET
        harness.send(
            OrderSubmitted(
                *(message.ts_recv, f"o{next(orders)}", "s", "paper", "binanceus", symbol, Side.BUY),
                *(kind, TimeInForce.GTC, price, 20_000, 10_000_000),
            )
        )

    def on_message(message: Message) -> None:
        for each, kept in states.items():
            kept.append((message.ts_recv, client.books.is_valid(each)))
        harness.send(message)
        symbol = getattr(message, "symbol", "ETH/USDT")
        is_doubt = isinstance(message, SequenceGap | FeedLost | BookCrossed)
        if is_doubt or next(seen) % 20 == 0:
            submit(message, symbol, 0)
            submit(message, symbol, client.books.books[symbol].best_bid)

    client.on_message = on_message
    report = campaign.run(0.5)

    assert report["exchanges"]["binanceus"]["marked"] > 50
    fills = harness.of(OrderFilled)
    assert len(fills) > 100
    assert len(harness.of(OrderRejected)) > 50
    for fill in fills:
        kept = states[fill.symbol]
        assert kept[bisect_right(kept, fill.ts_event, key=itemgetter(0)) - 1][1], fill


@pytest.mark.parametrize("exchange", CONNECTORS)
def test_where_trades_die_every_subscriber_still_has_the_book(exchange: str) -> None:
    campaign = Campaign([exchange], seed=1, rate=0.5, faults_per_hour=0.001)
    campaign.timeline.run(BEGAN + 10 * NS_PER_S)
    wire = campaign.clients[0].wire
    assert FAULTS["trades"].strike(wire)
    for _ in range(30):
        for name in wire.markets:
            wire.update(name)

    kinds = {frame.kind for connection in wire.connections for frame in connection.outbox}
    assert "book" in kinds
    assert "trade" not in kinds


class Lie(Fault):
    """A quantity is written wrong, which no number and no checksum of the exchange's shows."""

    name = "lie"

    def on_frame(self, frame: Frame) -> list[Frame]:
        if frame.kind != "book":
            return [frame]
        self.is_over = True
        return [frame._replace(text=frame.text.replace('"b":[["', '"b":[["1.00","5.00000"],["', 1))]


def test_a_book_that_is_wrong_unmarked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAULTS, "lie", Lie)
    campaign = Campaign(["binanceus"], seed=3, rate=0.5, faults_per_hour=900.0)

    report = campaign.run(0.1)

    assert report["faults"]["lie"] > 0
    assert "bids at" in report["wrong_unmarked"][0]
    assert report["exchanges"]["binanceus"]["wrong"] > 0
