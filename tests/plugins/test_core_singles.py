"""The queue model l3-exact: who left a queue, told order by order."""

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.exchanges import synthetic
from tickerml.kernel import (
    BookDelta,
    BookOrders,
    BookSnapshot,
    Instrument,
    Message,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    Trade,
    pack_levels,
    pack_orders,
)
from tickerml.kernel.testing import Harness, instrument
from tickerml.plugins.matching import EngineState, MatchingEngine, OrderEvent
from tickerml.plugins.queue_models import queue_model

PLACE = ("test", "BTC/USDT")
OTHERS = ((98, 50), (101, 50))  # so that the book has two sides
OURS = OrderSubmitted(1, "ours", "", "", *PLACE, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 99, 10**6, 0)


class Queue:
    """The queue at 99, others' orders by number; ours comes behind those it begins with."""

    def __init__(self, *lots: int, model: str = "l3-exact") -> None:
        self.model = queue_model(model)
        self.engine = MatchingEngine(*PLACE, queue=self.model)
        self.engine.instrument = instrument()
        self.now, self.lots = 1, dict(enumerate(lots, 1))
        self.last = len(lots)
        self.singles([(number, each) for number, each in self.lots.items()], is_whole=True)
        self.book()
        self.engine.submit(OURS, 1)
        self.now = 2

    @property
    def ahead(self) -> int:
        return self.engine.orders["ours"].queue_ahead

    def restart(self) -> None:
        state = msgspec.msgpack.encode(self.engine.state())
        self.engine = MatchingEngine(*PLACE, queue=self.model)
        self.engine.restore(msgspec.msgpack.decode(state, type=EngineState))
        assert msgspec.msgpack.encode(self.engine.state()) == state

    def singles(self, changes: list[tuple[int, int]], is_whole: bool = False, ts: int = 0) -> None:
        ts = ts or self.now
        orders = pack_orders((1, number, 99, lots) for number, lots in changes)
        self.engine.on_book_orders(BookOrders(ts, ts, *PLACE, 1, orders, is_whole))

    def book(self) -> None:
        levels = pack_levels([(99, sum(self.lots.values())), OTHERS[0]]), pack_levels([OTHERS[1]])
        self.engine.on_book_snapshot(BookSnapshot(self.now, self.now, *PLACE, 1, *levels), self.now)

    def level(self) -> None:
        packed = pack_levels([(99, sum(self.lots.values()))])
        self.engine.on_book_delta(BookDelta(self.now, self.now, *PLACE, 1, packed, b""), self.now)

    def changed(self, *changes: tuple[int, int]) -> int:
        """Tell of single orders (number, lots that came or left) and the level; return what is ahead then."""
        self.now += 1
        for number, lots in changes:
            self.lots[number] = self.lots.get(number, 0) + lots
        self.singles(list(changes))
        self.level()
        return self.ahead

    def printed(self, lots: int, ts_event: int = 0) -> int:
        """Tell a print of *lots*; return what of it was ours."""
        trade = Trade(self.now, ts_event, *PLACE, 1, 99, lots, Side.SELL)
        fills = self.engine.on_trade(trade, self.now)
        return sum(fill.quantity for fill in fills if isinstance(fill, OrderFilled))


def test_whoever_came_before_us_leaves_from_ahead_and_nobody_else() -> None:
    queue = Queue(5, 2)

    assert queue.changed((3, 9)) == 7
    assert queue.changed((3, -4)) == 7
    assert queue.changed((1, -1), (2, -2)) == 4
    assert queue.changed((1, -4), (3, -5)) == 0


def test_who_loses_its_place_is_behind_us_under_another_number() -> None:
    assert Queue(5, 2).changed((1, -5), (3, 8)) == 2


def test_a_level_alone_moves_nobody_where_single_orders_are_told() -> None:
    queue = Queue(5, 2)
    queue.lots[1] = 1
    queue.level()

    assert queue.ahead == 7


def test_without_single_orders_it_is_risk_averse() -> None:
    queue = Queue()
    queue.lots = {1: 7}
    queue.book()
    queue.engine.cancel("ours", "", 1)
    queue.engine.submit(OURS, 1)
    queue.lots = {1: 3}
    queue.level()

    assert queue.ahead == 3


def test_a_print_told_before_its_orders_is_counted_once() -> None:
    queue = Queue(5, 2, 6)

    assert queue.printed(7) == 0
    assert queue.ahead == 6
    assert queue.changed((1, -5), (2, -2)) == 6
    assert queue.printed(8) == 2


def test_a_print_told_after_its_orders_order_by_order_is_counted_once() -> None:
    queue = Queue(5, 2, 6)
    queue.now = 7
    queue.singles([(1, -5)])
    queue.singles([(2, -2)])
    queue.lots = {3: 6}
    queue.level()

    assert queue.printed(7, ts_event=7) == 0
    assert queue.ahead == 6
    assert queue.printed(8) == 2


def test_a_print_told_among_its_orders_is_counted_once() -> None:
    queue = Queue(5, 2, 6)
    queue.now = 7
    queue.singles([(1, -5)])
    queue.lots = {2: 2, 3: 6}
    queue.level()

    assert queue.printed(7, ts_event=7) == 0
    queue.singles([(2, -2)])
    assert queue.ahead == 6


def test_what_a_print_took_from_nobody_known_is_ahead_again() -> None:
    queue = Queue(5, 2)
    queue.printed(3)
    queue.now += 1

    assert queue.changed((2, -2)) == 5


def test_a_print_told_before_its_orders_one_by_one_is_counted_once() -> None:
    queue = Queue(5, 2, 6)
    queue.printed(7)

    queue.singles([(1, -5)])
    assert queue.ahead == 6
    queue.singles([(2, -2)])
    assert queue.ahead == 6


def test_a_new_book_has_every_print_in_it() -> None:
    queue = Queue(5, 2)
    queue.printed(3)
    queue.now += 1
    queue.lots = {1: 2, 2: 2}
    queue.book()

    assert queue.ahead == 4
    assert queue.changed((1, -2)) == 2


def test_who_leaves_the_other_side_at_our_price_was_not_ahead_of_us() -> None:
    queue = Queue(5, 2)
    queue.engine.on_book_orders(BookOrders(2, 2, *PLACE, 1, pack_orders([(-1, 1, 99, -5)])))

    assert queue.ahead == 7


def test_orders_told_late_of_before_a_print_leave_the_print_counted() -> None:
    queue = Queue(5, 2)
    queue.now = 9
    queue.printed(3)
    queue.singles([(2, -1)], ts=8)

    assert queue.ahead == 4
    queue.singles([(1, -2)], ts=9)
    assert queue.ahead == 4


def test_after_a_new_book_prints_and_what_is_left_move_us() -> None:
    queue = Queue(5, 2)
    queue.now = 5
    queue.lots = {11: 3, 12: 1}
    queue.singles(list(queue.lots.items()), is_whole=True)
    queue.book()

    assert queue.ahead == 4
    assert queue.changed((11, -3)) == 4
    assert queue.printed(5) == 1


EVENTS = st.lists(
    st.tuples(st.sampled_from(["come", "leave", "print", "restart"]), st.integers(0, 9), st.integers(1, 9)),
    max_size=40,
)


class Truth:
    """The same queue as it is: numbers and lots, the first in line first, ours where it stands."""

    def __init__(self, *lots: int) -> None:
        self.others = dict(enumerate(lots, 1))
        self.before = set(self.others)
        self.filled = 0

    @property
    def ahead(self) -> int:
        return sum(lots for number, lots in self.others.items() if number in self.before)

    def trade(self, lots: int) -> Iterator[tuple[int, int]]:
        """Let *lots* print, as if ours were not there; yield what leaves others."""
        self.filled += max(0, lots - self.ahead)
        for number in sorted(self.others):
            taken = min(lots, self.others[number])
            if taken:
                lots -= taken
                yield number, -taken


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), EVENTS, st.booleans())
def test_it_is_the_true_queue_whatever_happens(
    start: list[int], events: list[tuple[str, int, int]], is_print_first: bool
) -> None:
    queue, truth = Queue(*start), Truth(*start)
    queue.lots[0] = 10**6  # so that no print takes all there is
    truth.others[10**6] = 10**6
    filled, last = 0, len(start)
    for what, which, lots in events:
        open_ones = sorted(number for number, left in truth.others.items() if left)
        if what == "come":
            last += 1
            changes = [(last, lots)]
        elif what == "leave":
            number = open_ones[which % len(open_ones)]
            changes = [(number, -min(lots, truth.others[number]))]
        elif what == "print":
            changes = list(truth.trade(lots))
            if is_print_first:
                filled += queue.printed(lots)
        else:
            queue.restart()
            continue
        for number, change in changes:
            truth.others[number] = truth.others.get(number, 0) + change
        assert queue.changed(*changes) == truth.ahead or (what == "print" and not is_print_first)
        if what == "print" and not is_print_first:
            filled += queue.printed(lots, ts_event=queue.now)
        assert (queue.ahead, filled) == (truth.ahead, truth.filled)


@pytest.mark.parametrize("model", ["risk-averse", "by-size", "log"])
def test_other_models_do_not_heed_single_orders(model: str) -> None:
    queue = Queue(5, 2, model=model)
    queue.singles([(1, -5)])

    assert queue.ahead == 7


# --- Against the synthetic exchange, which knows ----------------------------------------------------


def ghosts_and_ours(model: str, count: int) -> list[tuple[list[tuple[int, int]], list[tuple[int, int]]]]:
    """Return (time, lots) of the fills of each of our orders in *count* frames, in truth and by *model*."""
    options = {"venues": ["aurora"], "symbols": ["BTC/USDT"], "first_venue_symbols": [], "latency_ms": 0}
    harness = Harness(synthetic, options={"exchange-synthetic": {**options, "orders": True}}, started_ns=1)
    source, draw = harness.bus.component("exchange-synthetic"), Random(5)
    engine, ours = MatchingEngine("aurora", "BTC/USDT", queue=queue_model(model)), dict[str, list[Any]]()
    for number, (ts, batch) in enumerate(islice(source.events(), count)):
        for message in batch:
            for event in tell(engine, message):
                if isinstance(event, OrderFilled):
                    ours[event.order_id][1].append((event.ts_event, event.quantity))
        if number % 50 == 49:
            side, lots, order_id = draw.choice([Side.BUY, Side.SELL]), draw.randint(1, 200), str(number)
            price = source.fifo_book("aurora", "BTC/USDT").side(side).price_at(draw.randint(0, 2))
            ghost = source.insert_ghost("aurora", "BTC/USDT", side, price, lots)
            ours[order_id] = [ghost.fills, []]
            terms = (OrderType.LIMIT, TimeInForce.GTC, price, lots, 0)
            engine.submit(OrderSubmitted(ts, order_id, "", "", "aurora", "BTC/USDT", side, *terms), ts)
    return [tuple(fills) for fills in ours.values()]


def tell(engine: MatchingEngine, message: Message) -> Sequence[OrderEvent]:
    match message:
        case Instrument():
            engine.instrument = message
        case BookSnapshot():
            return engine.on_book_snapshot(message, message.ts_event)
        case BookDelta():
            return engine.on_book_delta(message, message.ts_event)
        case BookOrders():
            engine.on_book_orders(message)
        case Trade():
            return engine.on_trade(message, message.ts_event)
    return ()


def test_it_fills_what_the_synthetic_exchange_would_truly_have_filled_and_when() -> None:
    compared = ghosts_and_ours("l3-exact", 5_000)

    lots = [[sum(quantity for _, quantity in fills) for fills in each] for each in compared]
    times = [[fills and (fills[0][0], fills[-1][0]) for fills in each] for each in compared]
    assert len(compared) == 100
    assert sum(true > 0 for true, _ in lots) > 50
    assert all(said <= true for true, said in lots)
    assert sum(true == said for true, said in times) >= 98
