"""The queue model by-size: who left a queue, told by how much left."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import (
    BookDelta,
    BookSnapshot,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    Trade,
    pack_levels,
)
from tickerml.kernel.testing import instrument
from tickerml.plugins import core_state as cs
from tickerml.plugins.matching import EngineState, MatchingEngine
from tickerml.plugins.queue_models import queue_model

NOBODY = b""


class Queue:
    """The queue at 99 in which ours came behind *ahead* lots, and what a model knows of it."""

    def __init__(self, ahead: int, model: str = "by-size") -> None:
        self.engine = MatchingEngine("test", "BTC/USDT", queue=queue_model(model))
        self.engine.instrument = instrument()
        self.now, self.size = 1, ahead
        book = (pack_levels([(99, ahead), (98, 50)]), pack_levels([(101, 50)]))
        self.engine.on_book_snapshot(BookSnapshot(1, 1, "test", "BTC/USDT", 1, *book), 1)
        terms = (Side.BUY, OrderType.LIMIT, TimeInForce.GTC)
        self.engine.submit(OrderSubmitted(1, "ours", "", "", "test", "BTC/USDT", *terms, 99, 10**6, 0), 1)

    @property
    def ahead(self) -> int:
        return self.engine.orders["ours"].queue_ahead

    def told(self, *sizes: int) -> int:
        """Tell the new *sizes* of the level one by one; return what is ahead then."""
        for size in sizes:
            self.now, self.size = self.now + 1, size
            packed = pack_levels([(99, size)])
            delta = BookDelta(self.now, self.now, "test", "BTC/USDT", 1, packed, NOBODY)
            self.engine.on_book_delta(delta, self.now)
        return self.ahead

    def grown(self, *lots: int) -> int:
        """Tell that the level grew, or shrank, by so many *lots* one by one; return what is ahead then."""
        for each in lots:
            self.told(self.size + each)
        return self.ahead

    def printed(self, lots: int) -> int:
        """Tell a print of *lots*, and the level without them; return what is ahead then."""
        trade = Trade(self.now + 1, 0, "test", "BTC/USDT", 1, 99, lots, Side.SELL)
        self.now += 1
        self.engine.on_trade(trade, self.now)
        return self.told(self.size - lots)


def test_a_size_that_nobody_behind_has_left_from_ahead() -> None:
    queue = Queue(20)

    assert queue.grown(5, 8) == 20
    assert queue.grown(-3) == 17
    assert queue.grown(-8) == 17
    assert queue.grown(-8) == 9
    assert queue.grown(-5) == 9


def test_a_print_that_passed_us_took_the_first_behind() -> None:
    queue = Queue(3)
    queue.grown(5, 8)

    assert queue.printed(5) == 0
    assert queue.engine.orders["ours"].behind == [3, 8]
    assert queue.printed(4) == 0
    assert queue.engine.orders["ours"].behind == [7]


def test_many_leaving_at_once_left_from_ahead_as_far_as_too_few_were_behind() -> None:
    queue = Queue(20)
    queue.grown(5, 8)

    assert queue.grown(-25) == 8


def test_those_behind_whom_nobody_knows_are_held_to_have_every_size() -> None:
    queue = Queue(500)
    queue.grown(*[2] * cs.BEHIND_MOST, 9)

    assert queue.grown(-7) == 500
    assert queue.grown(-10) == 490


def test_a_snapshot_forgets_who_is_behind_and_a_checkpoint_does_not() -> None:
    queue, other = Queue(20), Queue(20)
    queue.grown(5, 8)
    state = msgspec.msgpack.encode(queue.engine.state())
    other.engine.restore(msgspec.msgpack.decode(state, type=EngineState))
    other.now, other.size = queue.now, queue.size

    assert queue.grown(-3) == other.grown(-3) == 17
    assert other.engine.orders["ours"].behind == [5, 8]

    book = (pack_levels([(99, 30), (98, 50)]), pack_levels([(101, 50)]))
    queue.engine.on_book_snapshot(BookSnapshot(9, 9, "test", "BTC/USDT", 1, *book), 9)
    assert queue.engine.orders["ours"].behind == []
    assert queue.grown(-3) == 17


def test_a_state_from_before_there_were_single_orders_knows_of_none() -> None:
    queue, other = Queue(20), Queue(20)
    *before, _ = msgspec.msgpack.decode(msgspec.msgpack.encode(queue.engine.state()))

    other.engine.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=EngineState))

    assert other.engine.state().last_number == 0
    assert other.ahead == queue.ahead


def test_other_models_keep_no_list() -> None:
    queue = Queue(20, "log")
    queue.grown(5, 8)

    assert queue.engine.orders["ours"].behind == []


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.lists(
        st.tuples(st.sampled_from(["come", "leave", "print"]), st.integers(0, 99), st.integers(1, 9)),
        max_size=60,
    ),
)
def test_where_whole_orders_leave_one_by_one_it_is_never_less_than_the_truth_nor_more_than_risk_averse(
    ahead: list[int], happens: list[tuple[str, int, int]]
) -> None:
    behind: list[int] = []
    by_size, averse = Queue(sum(ahead)), Queue(sum(ahead), "risk-averse")
    for what, which, lots in happens:
        everybody = ahead + behind
        if what == "come":
            behind.append(lots)
            for queue in (by_size, averse):
                queue.grown(lots)
        elif what == "leave" and len(everybody) > 1:
            i = which % len(everybody)
            gone = (ahead if i < len(ahead) else behind).pop(i if i < len(ahead) else i - len(ahead))
            for queue in (by_size, averse):
                queue.grown(-gone)
        elif what == "print" and sum(everybody) > lots:
            for queue in (by_size, averse):
                queue.printed(lots)
            take(ahead, lots, behind)

        assert sum(ahead) <= by_size.ahead <= averse.ahead


def take(first: list[int], lots: int, then: list[int] | None = None) -> int:
    """Take *lots* off those who are *first* in line, and what is left off those who come *then*."""
    while lots and first:
        done = min(lots, first[0])
        lots, first[0] = lots - done, first[0] - done
        if not first[0]:
            first.pop(0)
    return take(then, lots) if then is not None else lots
