"""The core features: rows on a grid, exact windows, and silence where nothing is known."""

import math
import struct
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookDelta,
    BookSnapshot,
    BookStale,
    ConfigError,
    FeatureVector,
    FeedLost,
    Message,
    OrderBook,
    SequenceGap,
    Side,
    TimeTick,
    Trade,
)
from tickerml.kernel.localbus import BusState
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts
from tickerml.plugins import features_batch, features_core

GRID = 100 * NS_PER_MS
START = 1_700_000_000 * NS_PER_S
COLUMN = {name: index for index, name in enumerate(features_core.COLUMNS)}


def harness(**options: object) -> Harness:
    return Harness(features_core, options={"features-core": options} if options else None)


def rows_of(outputs: list[Message]) -> list[FeatureVector]:
    assert all(isinstance(output, FeatureVector) for output in outputs), outputs
    return outputs


def value(row: FeatureVector, column: str) -> float:
    return row.unpack()[COLUMN[column]]


def tick(ts: int) -> TimeTick:
    return TimeTick(ts)


def test_a_row_comes_at_the_grid_point_after_a_message_and_carries_its_time():
    market, bus = Market(), harness()

    bus.send(market.book(START + 1, bids=[(99, 3)], asks=[(101, 1)]))
    rows = rows_of(bus.send(tick(START + GRID + 1)))

    assert [(row.ts_event, row.ts_recv) for row in rows] == [(START + GRID, START + GRID)]
    assert (rows[0].exchange, rows[0].symbol, rows[0].feature_set) == ("test", "BTC/USDT", "features-core")


def test_a_message_at_the_grid_point_itself_is_in_its_row_and_a_later_one_is_not():
    market, bus = Market(), harness()

    bus.send(market.book(START, bids=[(99, 1)], asks=[(101, 1)]))
    bus.send(market.delta(START, bids=[(99, 3)]))
    rows = rows_of(bus.send(market.delta(START + 1, bids=[(99, 1000)])))

    assert [value(row, "book_imbalance_1") for row in rows] == [0.5]


def test_book_columns_follow_their_formulas():
    market, bus = Market(), harness()
    bids = [(1000 - level, 10 + level) for level in range(12)]
    asks = [(1002 + level, 20) for level in range(12)]

    bus.send(instrument(tick="0.5"), market.book(START, bids=bids, asks=asks))
    [row] = rows_of(bus.send(tick(START + 1)))

    assert value(row, "book_imbalance_1") == (10 - 20) / 30
    assert value(row, "book_imbalance_5") == (60 - 100) / 160
    assert value(row, "book_imbalance_10") == (145 - 200) / 345
    assert value(row, "spread_bps") == pytest.approx(2 / 1001 * 1e4)
    microprice = (1002 * 10 + 1000 * 20) / 30
    assert value(row, "microprice_offset_bps") == pytest.approx((microprice - 1001) / 1001 * 1e4)
    assert value(row, "mid") == 500.5


def test_mid_is_nan_while_the_instrument_is_not_known():
    market, bus = Market(), harness()

    bus.send(market.book(START, bids=[(99, 3)], asks=[(101, 1)]))
    [row] = rows_of(bus.send(tick(START + 1)))

    assert math.isnan(value(row, "mid"))
    assert value(row, "spread_bps") == 200.0


def test_a_trade_window_is_nan_until_it_is_whole_and_then_forgets():
    market, bus = Market(), harness()

    bus.send(market.book(START + 1, bids=[(99, 3)], asks=[(101, 1)]))
    bus.send(market.trade(START + 2, 101, 3, Side.BUY), market.trade(START + GRID + 1, 99, 1, Side.SELL))
    bus.send(tick(START + 12 * GRID + 1))
    seen = {(row.ts_event - START) // GRID: value(row, "trade_imbalance_1s") for row in bus.of(FeatureVector)}

    assert all(math.isnan(seen[point]) for point in range(1, 11))
    assert seen[11] == -1.0  # only the sale is in points 2 to 11
    assert seen[12] == 0.0


def test_a_lost_feed_makes_trade_windows_unknown_again():
    market, bus = Market(), harness()
    book = {"bids": [(99, 3)], "asks": [(101, 1)]}

    bus.send(market.book(START + 1, **book), tick(START + 20 * GRID))
    assert value(bus.of(FeatureVector)[-1], "trade_imbalance_1s") == 0.0
    bus.send(FeedLost(START + 20 * GRID, "test", "closed", 100))
    bus.send(market.book(START + 25 * GRID + 1, **book), tick(START + 40 * GRID))
    back = [row for row in bus.of(FeatureVector) if row.ts_event > START + 25 * GRID]

    whole = [not math.isnan(value(row, "trade_imbalance_1s")) for row in back]
    assert whole == [False] * 10 + [True] * (len(back) - 10)
    assert len(back) == 14


@pytest.mark.parametrize(
    "doubt",
    [
        SequenceGap(START + GRID // 2, "test", "BTC/USDT", 5, 7),
        BookStale(START + GRID // 2, "test", "BTC/USDT", 1000),
        FeedLost(START + GRID // 2, "test", "closed", 100),
        Market().delta(START + GRID // 2, bids=[(102, 1)]),  # crosses
        Market().delta(START + GRID // 2, bids=[(99, 0)]),  # empties a side
    ],
    ids=lambda message: type(message).__name__,
)
def test_an_untrusted_book_gets_one_nan_row_and_then_silence_until_it_is_trusted(doubt):
    market, bus = Market(), harness()
    book = {"bids": [(99, 3)], "asks": [(101, 1)]}

    bus.send(market.book(START, **book))
    doubtful = rows_of(bus.send(doubt, tick(START + 10 * GRID)))
    trusted = rows_of(bus.send(market.book(START + 10 * GRID, **book), tick(START + 10 * GRID + 1)))

    assert [row.ts_event for row in doubtful] == [START, START + GRID]
    assert all(math.isnan(number) for number in doubtful[1].unpack())
    assert [row.ts_event for row in trusted] == [START + 10 * GRID]
    assert value(trusted[0], "book_imbalance_1") == 0.5


def test_a_book_that_was_never_trusted_gets_no_row():
    market, bus = Market(), harness()

    assert bus.send(market.trade(START, 99, 1, Side.SELL), tick(START + NS_PER_S)) == []


def test_a_jump_of_hours_makes_rows_for_the_first_minute_only():
    market, bus = Market(), harness()
    book = {"bids": [(99, 3)], "asks": [(101, 1)]}
    later = START + 5 * 3600 * NS_PER_S + 1

    bus.send(market.book(START, **book))
    silent = rows_of(bus.send(market.book(later, **book)))
    awake = rows_of(bus.send(tick(later + 2 * GRID)))

    assert len(silent) == 601
    assert silent[-1].ts_event == START + 60 * NS_PER_S
    assert [row.ts_event for row in awake] == [later - 1 + GRID, later - 1 + 2 * GRID]


def test_a_timer_left_by_a_predecessor_without_its_state_makes_no_second_row():
    market, old, new = Market(), harness(), harness()
    old.send(market.book(START + 1, bids=[(99, 3)], asks=[(101, 1)]))
    state = msgspec.msgpack.decode(old.bus.snapshot(), type=BusState)

    new.bus.restore(msgspec.msgpack.encode(msgspec.structs.replace(state, components=[])))
    rows = rows_of(new.send(market.delta(START + 2, bids=[(99, 4)]), tick(START + 3 * GRID + 1)))

    assert [row.ts_event for row in rows] == [START + GRID, START + 2 * GRID, START + 3 * GRID]


def test_symbols_and_exchanges_keep_their_own_rows():
    here, there = Market("a", "BTC/USDT"), Market("b", "ETH/USDT")
    bus = harness()

    bus.send(here.book(START, bids=[(99, 3)], asks=[(101, 1)]))
    bus.send(there.book(START, bids=[(9, 1)], asks=[(11, 3)]))
    rows = rows_of(bus.send(FeedLost(START + 1, "b", "closed", 1), tick(START + GRID + 1)))

    assert [(row.exchange, value(row, "book_imbalance_1")) for row in rows[:3]] == [
        ("a", 0.5),
        ("b", -0.5),
        ("a", 0.5),
    ]
    assert math.isnan(value(rows[3], "book_imbalance_1"))


def test_refuses_a_grid_that_does_not_divide_a_second():
    with pytest.raises(ConfigError, match="grid_ms must divide 1000, was 300"):
        harness(grid_ms=300)


def test_the_streaming_module_does_not_import_numpy():
    code = "import sys, tickerml.plugins.features_core; sys.exit('numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Streaming and batch --------------------------------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> list[Message]:
    """A trusted book and trades, at most a second apart, over more than the longest window."""
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    market = Market()
    bids = [(10_000 - level, int(generator.integers(1, 10**6))) for level in range(30)]
    asks = [(10_001 + level, int(generator.integers(1, 10**6))) for level in range(30)]
    ts = START + int(generator.integers(0, 10**9))
    tape: list[Message] = [instrument(tick="0.05"), market.book(ts, bids=bids, asks=asks)]
    for _ in range(draw(st.integers(1, 300))):
        # Steps of whole grid points now and then, so that messages fall on them.
        ts += (
            int(generator.integers(0, 8)) * GRID
            if generator.random() < 0.5
            else int(generator.integers(0, 10**9))
        )
        side = int(generator.integers(0, 2))
        quantity = int(generator.integers(0, 10**6))
        if generator.random() < 0.5:
            tape.append(market.trade(ts, 10_000, quantity, Side.BUY if side else Side.SELL))
        elif side:
            tape.append(market.delta(ts, bids=[(9_999 - int(generator.integers(0, 25)), quantity)]))
        else:
            tape.append(market.delta(ts, asks=[(10_002 + int(generator.integers(0, 25)), quantity)]))
    return [*tape, tick(ts + NS_PER_S)]


def batch_rows(tape: list[Message]) -> dict[int, bytes]:
    """What features_batch makes of *tape*, by grid point."""
    grid = features_batch.grid_points(tape[1].ts_recv, tape[-1].ts_recv - 1, GRID)
    trades = [message for message in tape if isinstance(message, Trade)]
    updates = [message for message in tape if isinstance(message, BookSnapshot | BookDelta)]
    book, at, tops = OrderBook("test", "BTC/USDT"), 0, []
    for point in grid.tolist():
        while at < len(updates) and updates[at].ts_recv <= point:
            message = updates[at]
            book.apply_snapshot(message) if isinstance(message, BookSnapshot) else book.apply_delta(message)
            at += 1
        tops.append([side.top(10) for side in (book.bids, book.asks)])

    def columns(side: int, field: int) -> np.ndarray:
        padded = [top[side] + [(0, 0)] * (10 - len(top[side])) for top in tops]
        return np.array([[level[field] for level in top] for top in padded], np.int64)

    features = features_batch.batch_features(
        grid,
        columns(0, 0)[:, 0],
        columns(1, 0)[:, 0],
        columns(0, 1),
        columns(1, 1),
        (
            np.array([trade.ts_recv for trade in trades], np.int64),
            np.array([trade.quantity for trade in trades], np.int64),
            np.array([trade.aggressor for trade in trades], np.int64),
        ),
        0.05,
    )
    return {point: row.tobytes() for point, row in zip(grid.tolist(), features, strict=True)}


def canonical(values: bytes) -> bytes:
    """*values* with every NaN the same, as its sign is not part of the promise."""
    numbers = memoryview(values).cast("d").tolist()
    return struct.pack(
        f"{len(numbers)}d", *(math.nan if math.isnan(number) else number for number in numbers)
    )


@given(streams())
@settings(max_examples=15, deadline=None)
def test_streaming_and_batch_agree_bit_for_bit(tape):
    bus = harness()

    streamed = {row.ts_event: canonical(row.values) for row in bus.send(*tape)}
    batched = {ts: canonical(values) for ts, values in batch_rows(tape).items()}

    assert streamed == batched


@given(streams(), st.lists(st.integers(0, 300), max_size=4))
@settings(max_examples=15, deadline=None)
def test_a_restart_at_any_message_changes_nothing(tape, cuts):
    whole = harness().send(*tape)

    assert run_with_restarts(harness, tape, cuts) == whole


def test_a_window_sum_stays_exact_beyond_the_precision_of_floats():
    """A running float sum would keep a rest of the huge trade after it has left the window."""
    market, bus = Market(), harness()
    huge = 2**60 + 1

    bus.send(market.book(START + 1, bids=[(99, 3)], asks=[(101, 1)]))
    bus.send(market.trade(START + 2, 101, huge, Side.BUY), market.trade(START + 3 * GRID, 99, 3, Side.SELL))
    bus.send(tick(START + 12 * GRID + 1))

    assert value(bus.of(FeatureVector)[-1], "trade_imbalance_1s") == -1.0
