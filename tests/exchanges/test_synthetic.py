"""The synthetic market: what it publishes, that its truth is true, and that a seed is a market."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from statistics import correlation, fmean, median, pstdev
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.exchanges import synthetic
from tickerml.exchanges.synthetic_book import FifoBook, OrderEvent
from tickerml.exchanges.synthetic_draws import Draws
from tickerml.exchanges.synthetic_options import SyntheticOptions
from tickerml.exchanges.synthetic_value import Fundamentals
from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookDelta,
    BookOrders,
    BookSnapshot,
    FeedConnected,
    FeedEnded,
    FeedLost,
    FeedSummarized,
    Instrument,
    Message,
    OrderBook,
    Quote,
    Side,
    StateRefused,
    Trade,
    levels,
    single_orders,
    to_units,
)
from tickerml.kernel.testing import Harness

PLUGIN = "exchange-synthetic"
STARTED = 1_750_000_000 * NS_PER_S
ONE_BOOK = {"venues": ["aurora"], "symbols": ["BTC/USDT"], "first_venue_symbols": []}
TWO_BOOKS = {"venues": ["aurora"], "symbols": ["BTC/USDT", "ETH/USDT"], "first_venue_symbols": []}

Frame = tuple[int, list[Message]]


def market(**options: Any) -> Any:
    harness = Harness(synthetic, options={PLUGIN: options}, started_ns=STARTED)
    return harness.bus.component(PLUGIN)


def frames(source: Any, count: int | None = None) -> list[Frame]:
    return list(itertools.islice(source.events(), count))


def messages(source: Any, count: int | None = None) -> list[Message]:
    return [message for _, batch in frames(source, count) for message in batch]


def wire(batch: list[Frame]) -> list[bytes]:
    return [msgspec.msgpack.encode(frame) for frame in batch]


def apply(book: OrderBook, message: Message) -> None:
    if isinstance(message, BookSnapshot):
        book.apply_snapshot(message)
    elif isinstance(message, BookDelta):
        book.apply_delta(message)


class Published:
    """The kernel's books, kept from what a source yields."""

    def __init__(self) -> None:
        self.books: dict[tuple[str, str], OrderBook] = {}

    def follow(self, source: Any, count: int | None = None) -> Iterator[tuple[Message, OrderBook]]:
        """Yield each book message, the book already changed by it."""
        for message in (m for _, batch in itertools.islice(source.events(), count) for m in batch):
            if isinstance(message, BookSnapshot | BookDelta):
                key = message.exchange, message.symbol
                book = self.books.setdefault(key, OrderBook(*key))
                apply(book, message)
                yield message, book


# --- What it publishes ----------------------------------------------------------------------------


def test_opens_each_venue_with_its_instruments_then_the_connection_then_a_snapshot_a_symbol():
    opening = messages(market(latency_ms=0), 3)

    aurora = [message for message in opening if message.exchange == "aurora"]
    assert [type(message) for message in aurora] == [Instrument] * 4 + [FeedConnected] + [BookSnapshot] * 4
    assert aurora[4].symbols == ["BTC/USDT", "ETH/USDT", "BTC/USD", "USDT/USD"]
    assert {message.exchange for message in opening} == {"aurora", "borealis", "cascade"}
    assert {message.ts_recv for message in opening} == {STARTED}


def test_instruments_say_the_fees_and_the_least_notional():
    btc = messages(market(), 1)[0]

    assert (btc.base, btc.quote, btc.maker_fee_ppm, btc.taker_fee_ppm) == ("BTC", "USDT", 1_000, 1_000)
    assert (btc.tick_size, btc.min_notional) == (to_units("0.01"), to_units(5))
    assert btc.fees_as_of


def test_the_bus_takes_every_message_it_publishes():
    harness = Harness(synthetic, options={PLUGIN: {"duration_s": 61, "quotes": True}}, started_ns=STARTED)
    for number, (_, batch) in enumerate(harness.bus.component(PLUGIN).events()):
        harness.bus.emit(PLUGIN, batch, number)

    assert harness.of(Quote)
    assert harness.of(FeedSummarized)
    assert harness.of(FeedEnded)


def test_books_are_never_crossed_nor_thin_and_deltas_rebuild_the_truth_over_100_000_messages():
    source = market(latency_ms=0, rate=100)
    published = Published()
    seen = 0
    for message, book in published.follow(source, 90_000):
        seen += 1
        truth = source.fifo_book(message.exchange, message.symbol)
        assert book.is_trusted
        assert len(book.bids.keys) >= 5
        assert len(book.asks.keys) >= 5
        assert book.bids.quantities == truth.bids.totals
        assert book.asks.quantities == truth.asks.totals
    trades = sum(listed.trade_seq for listed in source._markets)

    assert seen + trades > 100_000
    assert len(published.books) == 8
    for (exchange, symbol), book in published.books.items():
        assert book.asks.top(200) == source.fifo_book(exchange, symbol).asks.levels()


def test_sequence_numbers_have_no_gap():
    numbers = defaultdict(list)
    for message in messages(market(quotes=True), 8_000):
        if isinstance(message, BookSnapshot | BookDelta | Trade):
            kind = "trade" if isinstance(message, Trade) else "book"
            numbers[kind, message.exchange, message.symbol].append(message.seq)

    assert len(numbers) == 16
    for (kind, _, _), run in numbers.items():
        first = 1 if kind == "trade" else 0
        assert run == list(range(first, first + len(run)))


def test_a_trade_happens_at_a_resting_price_and_takes_exactly_its_lots_from_the_level():
    source = market(latency_ms=0)
    book: dict[tuple[str, str], OrderBook] = {}
    checked = 0
    for _, batch in frames(source, 12_000):
        taken: dict[int, int] = defaultdict(int)
        for message in batch:
            if isinstance(message, Trade):
                known = book[message.exchange, message.symbol]
                resting = known.asks if message.aggressor is Side.BUY else known.bids
                best_left = next(p for p, lots in resting.top(99) if lots > taken[p])
                assert message.price == best_left
                taken[message.price] += message.quantity
            elif isinstance(message, BookSnapshot | BookDelta):
                known = book.setdefault(
                    (message.exchange, message.symbol), OrderBook(message.exchange, message.symbol)
                )
                before = known.bids.quantities | known.asks.quantities
                apply(known, message)
                after = known.bids.quantities | known.asks.quantities
                for price, lots in taken.items():
                    checked += 1
                    assert before[price] - after.get(price, 0) == lots

    assert checked > 500


def test_quotes_are_optional_and_come_whenever_the_best_changes():
    options = {**ONE_BOOK, "latency_ms": 0, "duration_s": 60}
    quoted = messages(market(quotes=True, **options))
    book = OrderBook("aurora", "BTC/USDT")
    expected = []
    for message in quoted:
        if isinstance(message, BookSnapshot | BookDelta):
            apply(book, message)
            best = (*book.bids.top(1)[0], *book.asks.top(1)[0])
            if not expected or best != expected[-1]:
                expected.append(best)
    quotes = [m for m in quoted if isinstance(m, Quote)]

    assert [(q.bid, q.bid_quantity, q.ask, q.ask_quantity) for q in quotes] == expected
    plain = messages(market(**options))
    assert [m for m in quoted if isinstance(m, Trade)] == [m for m in plain if isinstance(m, Trade)]
    assert not [m for m in plain if isinstance(m, Quote)]


def test_single_orders_are_optional_and_make_every_queue_of_the_true_book():
    options = {**ONE_BOOK, "latency_ms": 0, "duration_s": 60}
    source = market(orders=True, **options)
    told = messages(source)
    lots: dict[tuple[int, int], dict[int, int]] = {}  # by side and price, by number
    sums: dict[tuple[int, int], int] = {}
    for message in told:
        if isinstance(message, BookOrders):
            for side, number, price, change in single_orders(message.orders):
                queue = lots.setdefault((side, price), {})
                queue[number] = queue.get(number, 0) + change
        elif isinstance(message, BookSnapshot | BookDelta):
            for side, packed in ((1, message.bids), (-1, message.asks)):
                sums |= {(side, price): size for price, size in levels(packed)}
            assert {at: sum(queue.values()) for at, queue in lots.items() if any(queue.values())} == {
                at: size for at, size in sums.items() if size
            }

    assert sum(isinstance(message, BookOrders) for message in told) > 500
    for side in Side:
        for price, queue in source.fifo_book("aurora", "BTC/USDT").side(side).orders():
            assert [(number, left) for number, left in sorted(lots[side, price].items()) if left] == queue
    plain = messages(market(**options))
    assert [m for m in told if isinstance(m, BookDelta)] == [m for m in plain if isinstance(m, BookDelta)]
    assert not [m for m in plain if isinstance(m, BookOrders)]


def test_after_an_outage_single_orders_are_told_whole():
    source = market(orders=True, **ONE_BOOK)
    list(itertools.islice(source.events(), 200))
    source.skip_to(STARTED + 60 * NS_PER_S)

    _, batch = next(source.events())

    whole = next(m for m in batch if isinstance(m, BookOrders))
    book = source.fifo_book("aurora", "BTC/USDT")
    assert whole.is_whole
    assert len(list(single_orders(whole.orders))) == book.bids.count + book.asks.count


def test_the_rate_is_what_was_asked_for():
    for rate in (10.0, 60.0):
        count = len(messages(market(rate=rate, duration_s=75, burst_probability=0)))

        assert 0.75 < count / 75 / 8 / rate < 1.25


def test_frames_come_in_the_order_they_are_received_and_none_overtakes_in_its_venue():
    last, last_event = 0, defaultdict(int)
    delays = defaultdict(list)
    for ts, batch in frames(market(latency_ms=30), 6_000):
        assert ts >= last
        last = ts
        for message in batch:
            if isinstance(message, BookDelta):
                assert message.ts_recv == ts
                assert message.ts_event >= last_event[message.exchange]
                last_event[message.exchange] = message.ts_event
                delays[message.exchange].append(ts - message.ts_event)

    in_ms = {exchange: median(run) / NS_PER_MS for exchange, run in delays.items()}
    assert 25 < in_ms["aurora"] < in_ms["borealis"] < in_ms["cascade"] < 90
    assert min(min(run) for run in delays.values()) > 0


def test_latency_does_not_change_what_happens():
    def history(latency_ms: float) -> dict[str, list[tuple[int, bytes, bytes]]]:
        told = defaultdict(list)
        for message in messages(market(latency_ms=latency_ms, duration_s=20)):
            if isinstance(message, BookDelta):
                key = f"{message.exchange} {message.symbol}"
                told[key].append((message.ts_event, message.bids, message.asks))
        return told

    assert history(0) == history(80)


def test_summarizes_each_venue_once_a_minute_with_what_was_received():
    counts: dict[str, int] = defaultdict(int)
    summaries = []
    for ts, batch in market(duration_s=130).events():
        for message in batch:
            if isinstance(message, FeedSummarized):
                assert message.messages == counts[message.exchange]
                assert message.ts_recv == ts
                summaries.append((ts - STARTED) // NS_PER_S)
            elif not isinstance(message, FeedEnded):
                counts[message.exchange] += 1

    assert summaries == [60, 60, 60, 120, 120, 120]


def test_summarizes_whenever_it_is_asked():
    source = market(**ONE_BOOK)
    received = messages(source, 50)

    expected = FeedSummarized(received[-1].ts_recv, "aurora", len(received), 0, 0, 0, books=1, valid_books=1)
    assert source.summarize() == [expected]


def test_says_that_every_book_of_a_venue_is_valid():
    source = market()
    frames(source, 50)

    summaries = source.summarize()

    assert [(told.exchange, told.books, told.valid_books) for told in summaries] == [
        ("aurora", 4, 4),
        ("borealis", 2, 2),
        ("cascade", 2, 2),
    ]


def test_ends_after_its_duration_and_then_says_nothing_more():
    source = market(duration_s=5)
    received = messages(source)
    again = market(duration_s=5)
    again.restore(source.snapshot())

    assert [type(message) for message in received].count(FeedEnded) == 1
    assert received[-1] == FeedEnded(received[-1].ts_recv, PLUGIN, len(received) - 1, 0)
    assert max(m.ts_event for m in received if isinstance(m, BookDelta)) <= STARTED + 5 * NS_PER_S
    assert frames(source) == frames(again) == []


def test_begins_at_a_given_time():
    ts, _ = frames(market(start="2026-01-01T00:00:00Z", latency_ms=0), 1)[0]

    assert ts == 1_767_225_600 * NS_PER_S


# --- A seed is a market ---------------------------------------------------------------------------


def test_the_same_seed_is_the_same_bytes_and_another_is_not():
    first, second, other = (wire(frames(market(seed=seed), 4_000)) for seed in (3, 3, 4))

    assert first == second
    assert first[3:] != other[3:]


RESTARTED = {"quotes": True, "orders": True, "duration_s": 8, "burst_probability": 0.5}


@pytest.fixture(scope="module")
def undisturbed() -> list[bytes]:
    return wire(frames(market(**RESTARTED)))


@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(0, 1_200), max_size=5))
def test_a_restored_market_continues_byte_for_byte(undisturbed: list[bytes], cuts: set[int]):
    source, received = market(**RESTARTED), []
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(undisturbed) + 1]):
        received += wire(frames(source, end - begin))
        state = source.snapshot()
        source = market(**RESTARTED | {"seed": 99})
        source.restore(state)
        assert source.snapshot() == state

    assert received == undisturbed


def test_refuses_the_state_of_other_symbols():
    state = market(**ONE_BOOK).snapshot()

    with pytest.raises(StateRefused, match="set venues and symbols back"):
        market(**TWO_BOOKS).restore(state)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": -1}, "seed"),
        ({"rate": 0}, "rate"),
        ({"depth": 9}, "depth"),
        ({"volatility": 6}, "volatility"),
        ({"correlation": 1.1}, "correlation"),
        ({"burst_probability": -0.1}, "burst_probability"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"duration_s": -1}, "duration_s"),
        ({"venues": []}, "venues"),
        ({"venues": ["Big Exchange"]}, "venues"),
        ({"venues": ["aurora", "aurora"]}, "named once"),
        ({"symbols": ["BTC/USD"]}, "named once"),
        ({"symbols": ["DOGE/USDT"]}, "expected one of BTC"),
        ({"symbols": ["ETH/BTC"]}, "in one of USD, USDT"),
        ({"start": "2026-01-01"}, "time zone"),
        ({"start": "soon"}, "isoformat"),
        ({"tilt": 1}, "unknown field"),
    ],
)
def test_refuses_options_that_make_no_market(options: dict[str, Any], said: str):
    with pytest.raises(msgspec.ValidationError, match=said):
        market(**options)


# --- The truth ------------------------------------------------------------------------------------


class Record:
    """The order-by-order record of one book, kept by hand: a list of [order id, lots] a price."""

    def __init__(self, book: FifoBook) -> None:
        self.queues: dict[tuple[Side, int], list[list[int]]] = defaultdict(list)
        for side in Side:
            for price, queue in book.side(side).orders():
                self.queues[side, price] = [list(order) for order in queue]
        self.canceled_at: list[tuple[int, int]] = []  # (index, length) of each cancel
        self.executed_at: list[int] = []
        book.tap = self.note

    def note(self, event: OrderEvent) -> None:
        queue = self.queues[event.side, event.price]
        if event.kind == "added":
            queue.append([event.order_id, event.quantity])
            return
        at = next(i for i, order in enumerate(queue) if order[0] == event.order_id)
        (self.canceled_at if event.kind == "canceled" else self.executed_at).append(
            (at, len(queue)) if event.kind == "canceled" else at
        )
        queue[at][1] -= event.quantity
        if not queue[at][1]:
            del queue[at]


def test_the_order_by_order_record_rebuilds_every_queue_and_executes_only_its_front():
    source = market(**ONE_BOOK, latency_ms=0, rate=200)
    frames(source, 1)
    book = source.fifo_book("aurora", "BTC/USDT")
    record = Record(book)
    frames(source, 5_000)

    for side in Side:
        rebuilt = {price: queue for (of, price), queue in record.queues.items() if of is side and queue}
        assert rebuilt == {price: [list(o) for o in queue] for price, queue in book.side(side).orders()}
    assert set(record.executed_at) == {0}


def test_cancels_come_mostly_from_the_back_of_the_queue():
    source = market(**ONE_BOOK, rate=200)
    frames(source, 1)
    record = Record(source.fifo_book("aurora", "BTC/USDT"))
    frames(source, 5_000)
    in_back_half = [at >= length / 2 for at, length in record.canceled_at if length >= 4]

    assert len(in_back_half) > 300
    assert fmean(in_back_half) > 0.65


def test_the_true_queue_counts_the_orders_and_lots_before_an_order():
    source = market(latency_ms=0)
    frames(source, 2_000)
    for price, queue in source.fifo_book("cascade", "ETH/USDT").bids.orders():
        for at, (order_id, lots) in enumerate(queue):
            place = source.true_queue("cascade", "ETH/USDT", price, order_id)
            assert place == (at, sum(ahead for _, ahead in queue[:at]), lots)


def test_a_listener_goes_on_listening_after_a_restore():
    source = market(**ONE_BOOK)
    frames(source, 10)
    record = Record(source.fifo_book("aurora", "BTC/USDT"))
    source.restore(source.snapshot())
    frames(source, 100)
    book = source.fifo_book("aurora", "BTC/USDT")

    assert {p: sum(lots for _, lots in queue) for (_, p), queue in record.queues.items() if queue} == (
        book.bids.totals | book.asks.totals
    )


class Shadow:
    """What the record implies for one order: those ahead stay so, those who come later never are."""

    def __init__(self, book: FifoBook, side: Side, price: int, quantity: int) -> None:
        self.side, self.price, self.leaves = side, price, quantity
        self.ahead = {
            order_id for p, queue in book.side(side).orders() if p == price for order_id, _ in queue
        }
        self.fills: dict[int, int] = defaultdict(int)

    def note(self, event: OrderEvent) -> None:
        worse = self.side * (event.price - self.price) < 0
        if event.kind == "executed" and event.side is self.side:
            reaches = worse or (event.price == self.price and event.order_id not in self.ahead)
        else:
            rests_on_us = self.side * (event.price - self.price) <= 0
            reaches = event.kind == "added" and event.side is not self.side and rests_on_us
        if reaches and self.leaves:
            lots = min(self.leaves, event.quantity)
            self.leaves -= lots
            self.fills[event.ts_event] += lots


def test_a_ghost_fills_when_and_as_much_as_the_record_implies():
    source = market(**ONE_BOOK, latency_ms=0, rate=200, seed=11)
    frames(source, 1)
    book = source.fifo_book("aurora", "BTC/USDT")
    pairs: list[tuple[Any, Shadow]] = []
    book.tap = lambda event: [shadow.note(event) for _, shadow in pairs]
    for turn in range(60):
        for side in Side:
            own, other = book.side(side), book.side(side.opposite)
            inside = [own.best + side] if side * (other.best - own.best) > 1 else []
            for price in [own.best, own.price_at(2), own.price_at(6), *inside]:
                quantity = 1_000 + 777 * turn
                ghost = source.insert_ghost("aurora", "BTC/USDT", side, price, quantity)
                assert book.ghost_place(ghost).queue_ahead == own.totals.get(price, 0)
                pairs.append((ghost, Shadow(book, side, price, quantity)))
        frames(source, 100)

    assert [ghost.fills for ghost, _ in pairs] == [list(shadow.fills.items()) for _, shadow in pairs]
    assert [ghost.leaves for ghost, _ in pairs] == [shadow.leaves for _, shadow in pairs]
    whole = [ghost for ghost, _ in pairs if not ghost.leaves]
    assert 0.3 * len(pairs) < len(whole) < len(pairs)
    assert any(len(ghost.fills) > 1 for ghost in whole)


def test_a_ghost_waits_for_exactly_what_is_before_it():
    book = FifoBook()
    first = book.add(1, Side.BUY, 100, 5)
    second = book.add(2, Side.BUY, 100, 7)
    book.add(3, Side.SELL, 110, 1)
    ghost = book.insert_ghost(4, Side.BUY, 100, 4)
    book.add(5, Side.BUY, 100, 50)

    book.execute(6, Side.SELL, 5, 100)
    assert book.ghost_place(ghost) == (1, 7, 4)
    book.cancel(7, Side.BUY, 100, second)
    assert book.ghost_place(ghost) == (0, 0, 4)
    assert ghost.fills == []
    book.execute(8, Side.SELL, 3, 100)
    book.execute(9, Side.SELL, 3, 100)

    assert ghost.fills == [(8, 3), (9, 1)]
    assert first != second


def test_ghosts_change_nothing_and_survive_a_restart():
    source, plain = market(latency_ms=0), market(latency_ms=0)
    frames(source, 3)
    book = source.fifo_book("aurora", "ETH/USDT")
    ghosts = [source.insert_ghost("aurora", "ETH/USDT", side, book.side(side).best, 10) for side in Side]
    frames(source, 10)
    restored = market(latency_ms=0)
    restored.restore(source.snapshot())
    received = wire(frames(source, 2_000))
    assert wire(frames(restored, 2_000)) == received
    frames(plain, 13)

    assert wire(frames(plain, 2_000)) == received
    assert any(ghost.fills for ghost in ghosts)
    assert list(restored.fifo_book("aurora", "ETH/USDT").ghosts.values()) == ghosts


def test_refuses_orders_and_ghosts_that_would_trade_at_once_and_names_the_markets_it_has():
    source = market(latency_ms=0)
    frames(source, 3)
    book = source.fifo_book("aurora", "ETH/USDT")

    with pytest.raises(ValueError, match="rest short of"):
        source.insert_ghost("aurora", "ETH/USDT", Side.BUY, book.asks.best, 1)
    with pytest.raises(ValueError, match="a price short of"):
        book.add(0, Side.SELL, book.bids.best, 1)
    with pytest.raises(ValueError, match=r"aurora BTC/USDT, .*; was aurora BTC/EUR"):
        source.fifo_book("aurora", "BTC/EUR")
    with pytest.raises(ValueError, match="expected an order that rests at"):
        source.true_queue("aurora", "ETH/USDT", book.bids.best, 0)


# --- An outage ------------------------------------------------------------------------------------


def test_skipping_forward_reconnects_every_feed_with_fresh_snapshots_and_goes_on_from_there():
    source = market()
    before = frames(source, 3_000)
    later = before[-1][0] + 600 * NS_PER_S
    restored = market()
    restored.restore(source.snapshot())
    restored.skip_to(later)
    books = {(b.exchange, b.symbol): restored.fifo_book(b.exchange, b.symbol) for b in restored._markets}
    truth = {key: (book.bids.levels(), book.asks.levels()) for key, book in books.items()}
    after = frames(restored, 3_000)

    opening = [message for _, batch in after[:3] for message in batch]
    aurora = [type(message) for message in opening if message.exchange == "aurora"]
    assert aurora == [FeedLost, FeedConnected, *[BookSnapshot] * 4]
    assert {message.ts_recv for message in opening} == {later}
    snapshots = {(m.exchange, m.symbol): m for m in opening if isinstance(m, BookSnapshot)}
    assert {k: (list(levels(m.bids)), list(levels(m.asks))) for k, m in snapshots.items()} == truth
    times = [ts for ts, _ in after]
    assert times == sorted(times)
    assert after[10][0] - later < NS_PER_S
    seq = {key: message.seq for key, message in snapshots.items()}
    for message in (m for _, batch in after[3:] for m in batch):
        if isinstance(message, BookDelta):
            assert message.seq == seq[message.exchange, message.symbol] + 1
            assert message.ts_event > later
            seq[message.exchange, message.symbol] = message.seq


def test_a_skip_moves_the_end_and_the_next_summary_too():
    source = market(duration_s=70)
    frames(source, 100)
    source.skip_to(STARTED + 300 * NS_PER_S)
    ended = messages(source)

    assert 365 * NS_PER_S < ended[-1].ts_recv - STARTED < 371 * NS_PER_S
    assert {m.ts_recv - STARTED for m in ended if isinstance(m, FeedSummarized)} == {360 * NS_PER_S}


def test_a_skip_into_the_past_changes_nothing_and_before_the_start_it_only_moves_the_start():
    skipped, plain, late = market(), market(), market(latency_ms=0)
    frames(plain, 500)
    frames(skipped, 500)
    skipped.skip_to(STARTED)
    late.skip_to(STARTED + NS_PER_S)

    assert wire(frames(skipped, 500)) == wire(frames(plain, 500))
    opening = frames(late, 4)
    assert [ts - STARTED for ts, _ in opening[:3]] == [NS_PER_S] * 3
    assert not [m for _, batch in opening for m in batch if isinstance(m, FeedLost)]


# --- Stylised facts -------------------------------------------------------------------------------


class Sampled:
    """Mids, spreads and imbalances of each book once a second, and what each trade met."""

    def __init__(self, **options: Any) -> None:
        self.mids: dict[str, list[float]] = defaultdict(list)
        self.spreads: dict[str, list[float]] = defaultdict(list)
        self.moves_after: list[bool] = []  # whether the mid next moved towards the heavier side
        self.aggressors: dict[str, list[tuple[int, int, float]]] = defaultdict(list)  # (ts, sign, imbalance)
        self._seen: dict[str, tuple[int, float]] = {}
        source = market(latency_ms=0, **options)
        next_s = STARTED + NS_PER_S
        for ts, batch in source.events():
            while ts >= next_s:
                next_s += NS_PER_S
                for listed in source._markets:
                    bid, _, ask, _ = listed.best()
                    name = f"{listed.exchange} {listed.symbol}"
                    self.mids[name].append((bid + ask) / 2 * listed.instrument.tick_size / to_units(1))
                    self.spreads[name].append(float(ask - bid))
            for message in batch:
                self._note(source, message)

    def _note(self, source: Any, message: Message) -> None:
        name = f"{getattr(message, 'exchange', '')} {getattr(message, 'symbol', '')}"
        mid, imbalance = self._seen.get(name, (0, 0.0))
        if isinstance(message, Trade):
            run = self.aggressors[name]
            if not run or run[-1][0] != message.ts_event:
                run.append((message.ts_event, int(message.aggressor), imbalance))
        elif isinstance(message, BookDelta):
            book = source.fifo_book(message.exchange, message.symbol)
            now = book.bids.best + book.asks.best
            if now != mid and mid and imbalance:
                self.moves_after.append((now - mid) * imbalance > 0)
            bids, asks = book.bids.quantity_within(1), book.asks.quantity_within(1)
            self._seen[name] = now, (bids - asks) / (bids + asks)

    def returns(self, name: str, step: int) -> list[float]:
        mids = self.mids[name][::step]
        return [math.log(b / a) for a, b in itertools.pairwise(mids)]


@pytest.fixture(scope="module")
def sampled() -> Sampled:
    return Sampled(duration_s=400, rate=20)


def test_btc_and_eth_move_together(sampled: Sampled):
    btc, eth = (sampled.returns(f"aurora {symbol}/USDT", 10) for symbol in ("BTC", "ETH"))

    assert correlation(btc, eth) > 0.4


def test_uncorrelated_fundamentals_do_not():
    apart = Sampled(duration_s=400, correlation=0, **TWO_BOOKS)
    btc, eth = (apart.returns(f"aurora {symbol}/USDT", 10) for symbol in ("BTC", "ETH"))

    assert abs(correlation(btc, eth)) < 0.4


def test_exchanges_agree_on_the_price_within_a_few_bps(sampled: Sampled):
    here, there = sampled.mids["aurora BTC/USDT"], sampled.mids["cascade BTC/USDT"]
    apart = [abs(math.log(a / b)) * 1e4 for a, b in zip(here, there, strict=True)]

    assert 0 < fmean(apart) < 5


def test_fundamentals_leave_no_triangle_to_profit_from():
    fundamentals = Fundamentals(SyntheticOptions())
    draws = Draws(7, 0)
    for _ in range(1_000):
        fundamentals.step(draws)
    direct, tether, peg = map(fundamentals.log_price, ("BTC/USD", "BTC/USDT", "USDT/USD"))

    assert abs(peg) > 1e-7
    assert abs(direct - tether - peg) < 1e-12


def test_btc_in_dollars_is_btc_in_tether_times_tether_in_dollars(sampled: Sampled):
    names = ("aurora BTC/USD", "aurora BTC/USDT", "aurora USDT/USD")
    triples = zip(*(sampled.mids[name] for name in names), strict=True)
    apart = [abs(math.log(usd / (usdt * peg))) * 1e4 for usd, usdt, peg in triples]

    assert 0 < fmean(apart) < 5
    assert abs(fmean(sampled.mids["aurora USDT/USD"]) - 1) < 0.002


def test_prices_begin_where_people_expect_them(sampled: Sampled):
    assert abs(sampled.mids["aurora BTC/USDT"][0] / 60_000 - 1) < 0.01
    assert abs(sampled.mids["aurora ETH/USDT"][0] / 3_000 - 1) < 0.01


def test_spreads_are_a_few_ticks_to_a_few_bps_and_return_to_their_mean(sampled: Sampled):
    for name in ("aurora BTC/USDT", "borealis ETH/USDT"):
        spreads = sampled.spreads[name]
        mean = fmean(spreads)
        changes = [after - before for before, after in itertools.pairwise(spreads)]
        away = [spread - mean for spread in spreads[:-1]]

        assert correlation(away, changes) < -0.2
        assert 1 <= median(spreads) * 0.01 / sampled.mids[name][0] * 1e4 + 1 < 4


def test_trade_signs_are_persistent(sampled: Sampled):
    for name in ("aurora BTC/USDT", "borealis ETH/USDT", "aurora USDT/USD"):
        signs = [float(sign) for _, sign, _ in sampled.aggressors[name]]

        assert correlation(signs[:-1], signs[1:]) > 0.05


def test_market_orders_come_in_clusters(sampled: Sampled):
    run = sampled.aggressors["aurora BTC/USDT"]
    counts = [0] * 401
    for ts, _, _ in run:
        counts[(ts - STARTED) // NS_PER_S] += 1

    assert pstdev(counts) ** 2 / fmean(counts) > 1.3  # 1 for a Poisson process


def test_imbalance_foretells_the_next_move_of_the_mid(sampled: Sampled):
    assert len(sampled.moves_after) > 5_000
    assert 0.53 < fmean(sampled.moves_after) < 0.9


def test_imbalance_tilt_leans_market_orders_to_the_heavier_side():
    def lean(tilt: float) -> float:
        run = Sampled(duration_s=200, rate=50, imbalance_tilt=tilt, **ONE_BOOK).aggressors["aurora BTC/USDT"]
        return fmean(sign * imbalance for _, sign, imbalance in run)

    assert lean(4.0) > lean(0.0) + 0.1


def test_bursts_and_volatility_move_prices_more():
    def moved(**options: float) -> float:
        return pstdev(Sampled(duration_s=120, **ONE_BOOK, **options).returns("aurora BTC/USDT", 1))

    calm = moved(burst_probability=0)
    assert moved(burst_probability=0.3) > 1.5 * calm
    assert moved(burst_probability=0, volatility=2.0) > 1.5 * calm
