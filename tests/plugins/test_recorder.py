"""The recorder: what passed is on the tape, once, in order, whatever happens in between."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.exchanges import capture
from tickerml.kernel import (
    BookDelta,
    BookSnapshot,
    ChannelLost,
    ChannelResumed,
    FeedEnded,
    FeedLost,
    Message,
    OrderBook,
    PluginFailed,
    Quote,
    SequenceGap,
    Side,
    Trade,
)
from tickerml.kernel.testing import Harness, Market
from tickerml.plugins import recorder
from tickerml.plugins.tape import Kind, TapeReader, messages

BOOK, TRADE, QUOTE = (f"{kind}|test|BTC/USDT" for kind in ("book", "trade", "quote"))


def build(path: Path, **options: Any) -> Harness:
    return Harness(recorder, options={"recorder": {"map_mb": 64, **options}}, data_dir=path)


def tape_of(path: Path) -> TapeReader:
    return TapeReader(path / "recorder" / "tape.mdb")


def recorded(path: Path, stream: str = BOOK, has_keyframes: bool = False) -> list[Message]:
    return list(messages(stream, tape_of(path).read(stream, has_keyframes=has_keyframes)))


def replayed(recording: list[Message]) -> OrderBook:
    """The book that *recording* leaves behind, as the kernel would keep it."""
    book = OrderBook("test", "BTC/USDT")
    for message in recording:
        if isinstance(message, BookSnapshot):
            book.apply_snapshot(message)
        elif isinstance(message, BookDelta):
            book.apply_delta(message)
    return book


def random_tape(seed: int, count: int) -> list[Message]:
    """Books, deltas with and without levels, trades, quotes, gaps and losses of two symbols."""
    random = np.random.default_rng(seed)
    markets = [Market(), Market(symbol="ETH/USDT")]
    tape: list[Message] = []
    for step in range(count):
        market = markets[int(random.integers(0, 2))]
        ts = int(step + random.integers(0, 2)) if not tape else max(tape[-1].ts_recv, step)
        bids, asks = (
            [
                (int(price), int(random.integers(0, 9)))
                for price in random.integers(low, low + 20, random.integers(0, 4))
            ]
            for low in (90, 120)
        )
        name, symbol, seq = "test", market.symbol, step
        kind = random.random()
        if kind < 0.05 or step < 2:
            tape.append(market.book(ts, bids=[(80, 1), *((price, 1) for price, _ in bids)], asks=[(200, 1)]))
        elif kind < 0.08:
            tape.append(SequenceGap(ts, name, symbol, seq, seq + 3))
        elif kind < 0.1:
            tape.append(FeedLost(ts, name, "closed", 10))
        elif kind < 0.4:
            side = Side.BUY if random.random() < 0.5 else Side.SELL
            tape.append(market.trade(ts, int(random.integers(90, 130)), int(random.integers(1, 9)), side))
        elif kind < 0.5:
            tape.append(Quote(ts, ts, name, symbol, seq, 90, 1, 120, 0))
        else:
            tape.append(market.delta(ts, bids=bids, asks=asks))
    return tape


def passed(tape: list[Message], kinds: tuple[type[Message], ...]) -> list[Message]:
    return [message for message in tape if isinstance(message, kinds) and message.symbol == "BTC/USDT"]


def test_messages_come_back_as_they_passed(tmp_path):
    market = Market(latency_ns=7)
    tape = [
        market.book(1, bids=[(99, 5), (98, 2)], asks=[(101, 1)]),
        market.delta(2, bids=[(99, 0)], asks=[(102, 4), (101, 0)]),
        market.delta(3),
        SequenceGap(20, "test", "BTC/USDT", 5, 9),
        market.book(30, asks=[(104, 1)]),
    ]

    build(tmp_path, block_rows=1).send(*tape, *(market.delta(ts, bids=[(98, ts)]) for ts in range(40, 80)))

    assert recorded(tmp_path)[1 : len(tape) + 1] == tape


def test_a_recording_says_where_it_begins(tmp_path):
    build(tmp_path, block_rows=1).send(Market().trade(5, 100, 3, Side.SELL))

    assert recorded(tmp_path, TRADE)[0] == SequenceGap(5, "test", "BTC/USDT", 0, 0)


def test_trades_and_quotes_have_streams_of_their_own(tmp_path):
    sale, purchase = Market().trade(5, 100, 3, Side.SELL), Market().trade(6, 101, 4, Side.BUY)
    quote = Quote(7, 6, "test", "BTC/USDT", 3, 99, 1, 101, 2)

    build(tmp_path, block_rows=1, quotes=True).send(sale, purchase, quote)

    assert tape_of(tmp_path).streams() == [QUOTE, TRADE]
    assert recorded(tmp_path, TRADE)[1:] == [sale, purchase]
    assert recorded(tmp_path, QUOTE)[1:] == [quote]


def test_quotes_are_left_out_unless_asked_for(tmp_path):
    build(tmp_path, block_rows=1).send(Quote(7, 6, "test", "BTC/USDT", 3, 99, 1, 101, 2))

    assert tape_of(tmp_path).streams() == []


def test_a_block_is_sealed_when_it_is_full_and_not_before(tmp_path):
    market, bus = Market(), build(tmp_path, block_rows=10)

    bus.send(*(market.trade(ts, 100, 1, Side.BUY) for ts in range(8)))
    assert tape_of(tmp_path).blocks(TRADE) == []
    bus.send(market.trade(8, 100, 1, Side.BUY))

    assert [block.rows for block in tape_of(tmp_path).blocks(TRADE)] == [10]


def test_one_instant_may_fill_several_blocks(tmp_path):
    market = Market()
    trades = [market.trade(5, price, 1, Side.BUY) for price in range(1, 40)]

    outputs = build(tmp_path, block_rows=10).send(*trades)

    assert outputs == []
    assert recorded(tmp_path, TRADE)[1:] == trades


def test_a_message_is_never_cut_in_two(tmp_path):
    market, bus = Market(), build(tmp_path, block_rows=10)
    wide = market.delta(2, bids=[(price, 1) for price in range(50, 90)])

    bus.send(market.delta(1, bids=[(99, 1)]), wide, market.delta(3, bids=[(99, 1)]))

    [block] = tape_of(tmp_path).blocks(BOOK)
    assert block.rows == 42
    assert recorded(tmp_path)[-1] == wide


def test_a_deep_book_is_at_most_a_fifth_of_a_block(tmp_path):
    market, bus = Market(), build(tmp_path, block_rows=10)
    deep = [(price, 1) for price in range(1, 101)]

    bus.send(market.book(0, bids=deep, asks=[(price + 200, 1) for price, _ in deep]))
    bus.send(*(market.delta(ts, bids=[(50, ts)]) for ts in range(1, 2000)))
    blocks = tape_of(tmp_path).blocks(BOOK)

    assert [block.rows for block in blocks] == [1000, 1000]


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
@settings(max_examples=20)
def test_reading_can_start_at_any_block(tmp_path_factory, seed, block_rows):
    path = tmp_path_factory.mktemp("tape")
    bus = build(path, block_rows=block_rows)
    tape = random_tape(seed, 150)
    bus.send(*tape)
    reader = tape_of(path)
    rows = reader.read(BOOK, has_keyframes=True)
    left = replayed(list(messages(BOOK, rows))).snapshot()

    at = 0
    for block in reader.blocks(BOOK):
        rest = rows[at:]
        assert replayed(list(messages(BOOK, rest))).snapshot() == left or not _has_book(rest)
        at += block.rows


def _has_book(rows: np.ndarray) -> bool:
    # A stretch of nothing but deltas that wait for a snapshot.
    return bool(np.isin(rows["kind"], (Kind.SNAPSHOT, Kind.KEYFRAME)).any())


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.lists(st.integers(0, 150), max_size=4))
@settings(max_examples=10)
def test_a_restart_loses_nothing_and_repeats_nothing(tmp_path_factory, seed, block_rows, cuts):
    tape = random_tape(seed, 150)
    path = tmp_path_factory.mktemp("tape")
    harness = build(path, block_rows=block_rows, quotes=True)
    for position, message in enumerate(tape):
        if position in cuts:
            state = harness.bus.snapshot()
            harness = build(path, block_rows=block_rows, quotes=True)
            harness.bus.restore(state)
        harness.send(message)
    straight = tmp_path_factory.mktemp("straight")
    build(straight, block_rows=block_rows, quotes=True).send(*tape)

    for stream, kinds in ((BOOK, (BookSnapshot, BookDelta)), (TRADE, (Trade,)), (QUOTE, (Quote,))):
        assert recorded(path, stream, True) == recorded(straight, stream, True)
        kept = [message for message in recorded(path, stream) if isinstance(message, kinds)]
        assert kept == passed(tape, kinds)[: len(kept)]
    assert [block.digest for block in tape_of(path).blocks(BOOK)] == [
        block.digest for block in tape_of(straight).blocks(BOOK)
    ]
    assert tape_of(path).verify() == []


@given(st.integers(0, 2**32 - 1), st.integers(0, 149), st.integers(0, 149))
@settings(max_examples=10)
def test_a_replay_after_a_crash_changes_no_sealed_block(tmp_path_factory, seed, checkpoint, crash):
    """The state is older than the tape: what came in between is handled again."""
    checkpoint, crash = min(checkpoint, crash), max(checkpoint, crash)
    tape = random_tape(seed, 150)
    path = tmp_path_factory.mktemp("tape")
    harness = build(path, block_rows=5)
    harness.send(*tape[:checkpoint])
    state = harness.bus.snapshot()
    harness.send(*tape[checkpoint:crash])
    before = [block.digest for stream in (BOOK, TRADE) for block in tape_of(path).blocks(stream)]

    again = build(path, block_rows=5)
    again.bus.restore(state)
    again.send(*tape[checkpoint:crash])
    after = [block.digest for stream in (BOOK, TRADE) for block in tape_of(path).blocks(stream)]
    again.send(*tape[crash:])

    assert after == before
    assert again.of(PluginFailed) == []
    assert tape_of(path).verify() == []


def test_a_lost_feed_leaves_a_gap_in_every_stream_of_its_exchange(tmp_path):
    here, there = Market(), Market("other")
    bus = build(tmp_path, block_rows=2)

    bus.send(here.trade(1, 100, 1, Side.BUY), there.trade(1, 100, 1, Side.BUY))
    bus.send(FeedLost(5, "test", "closed", 10))
    bus.send(*(market.trade(6, 100, 1, Side.BUY) for market in (here, here, there, there)))
    gaps = {
        stream: [
            message.ts_recv for message in recorded(tmp_path, stream) if isinstance(message, SequenceGap)
        ]
        for stream in tape_of(tmp_path).streams()
    }

    assert gaps == {"trade|other|BTC/USDT": [1], TRADE: [1, 5]}


def test_a_lost_channel_leaves_a_gap_in_its_own_stream_and_says_so_in_the_notes(tmp_path):
    market, other = Market(), Market(symbol="ETH/USDT")
    lost = ChannelLost(5, "test", "BTC/USDT", "trade", 4, "no trade")
    resumed = ChannelResumed(6, "test", "BTC/USDT", "trade", 5)
    bus = build(tmp_path, block_rows=2)

    bus.send(market.book(1, bids=[(99, 1)], asks=[(101, 1)]))
    bus.send(market.trade(1, 100, 1, Side.BUY), other.trade(1, 100, 1, Side.BUY), lost)
    bus.send(market.trade(6, 100, 1, Side.BUY), resumed, FeedEnded(9, "test", 1, 0))
    tape = tape_of(tmp_path)
    gaps = {
        stream: [m.ts_recv for m in recorded(tmp_path, stream) if isinstance(m, SequenceGap)]
        for stream in tape.streams()
    }

    assert gaps == {TRADE: [1, 5], TRADE.replace("BTC", "ETH"): [1], BOOK: [1]}
    assert tape.doubts() == [lost, resumed]


def test_a_full_tape_sets_the_recorder_aside_and_says_so(tmp_path):
    random = np.random.default_rng(1)
    market, bus = Market(), build(tmp_path, map_mb=1, block_rows=5000)
    numbers = random.integers(1, 2**40, (150_000, 2)).tolist()

    for ts, (price, quantity) in enumerate(numbers):
        bus.send(market.trade(ts, price, quantity, Side.BUY))
        if bus.outputs:
            break

    [failure] = bus.outputs
    assert isinstance(failure, PluginFailed)
    assert (failure.plugin, failure.kind) == ("recorder", "store")
    assert failure.error.startswith("StoreFull: ")
    assert tape_of(tmp_path).verify() == []


# --- On real data ---------------------------------------------------------------------------------

CAPTURES = Path(os.environ.get("TICKERML_CAPTURES", Path(__file__).parents[3] / "shared" / "data"))
SPOT = CAPTURES / "raw_ws" / "binance" / "spot_btcusdt_20240808.gz"


@pytest.mark.captures
@pytest.mark.skipif(not SPOT.exists(), reason="needs the captures: set TICKERML_CAPTURES")
def test_a_real_book_takes_at_most_four_and_a_half_bytes_a_row(tmp_path):
    inputs: list[Message] = []
    source = Harness(capture, options={"exchange-capture": {"files": [str(SPOT)]}})
    for _, batch in source.bus.component("exchange-capture").events():
        inputs += batch
    bus = build(tmp_path)

    bus.send(*inputs)
    reader = tape_of(tmp_path)
    book = next(name for name in reader.streams() if name.startswith("book|"))
    rows = len(reader.read(book))
    stored = sum(block.stored_bytes for block in reader.blocks(book))

    assert bus.of(PluginFailed) == []
    assert rows > 80_000
    assert stored / rows <= 4.5  # the recorder's own books, which are not counted as rows, included
    kept = [message for message in messages(book, reader.read(book)) if not isinstance(message, SequenceGap)]
    assert kept == [m for m in inputs if isinstance(m, BookSnapshot | BookDelta)][: len(kept)]
