"""A tape for a researcher: books at any instant, streams in step, bars, tables, what is not sealed yet."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tickerml.kernel import (
    NS_PER_S,
    Bar,
    BookDelta,
    BookOrders,
    BookSnapshot,
    BookState,
    ChannelLost,
    ChecksumFailed,
    FeedEnded,
    FeedLost,
    FundingUpdated,
    Message,
    OrderBook,
    SequenceGap,
    Side,
    StoreError,
    Trade,
    codec,
    pack_orders,
    topics,
)
from tickerml.kernel.journal import JournalWriter
from tickerml.kernel.testing import Harness, Market, instrument
from tickerml.plugins import recorder
from tickerml.plugins.data import commands
from tickerml.plugins.data_coverage import coverage, joined
from tickerml.plugins.tape import TapeReader, TapeWriter, stream_name
from tickerml.plugins.tape_rows import MIN_TS, Draft, Kind, messages
from tickerml.plugins.tape_tables import BAR, bars_of, rows_of_bars

BOOK, TRADE, FUNDING = (f"{kind}|test|BTC/USDT" for kind in ("book", "trade", "funding"))


def record(path: Path, *said: Message, ends: bool = True, **options: Any) -> TapeReader:
    bus = Harness(recorder, options={"recorder": {"map_mb": 64, **options}}, data_dir=path)
    bus.send(*said)
    if ends:
        bus.send(FeedEnded(said[-1].ts_recv, "here", 0, 0))
    assert bus.outputs == []
    return TapeReader(path)


def random_books(seed: int, count: int) -> list[Message]:
    """Snapshots, deltas, gaps and bad checksums of one book, a few of them at one time."""
    random = np.random.default_rng(seed)
    market, said = Market(), []
    for step in range(count):
        ts, what = step // 2 * 10, random.random()
        bids = [(int(price), int(random.integers(0, 4))) for price in random.integers(80, 100, 3)]
        if step == 0 or what < 0.06:
            said.append(market.book(ts, bids=[(70, 1), *((price, 1) for price, _ in bids)], asks=[(110, 2)]))
        elif what < 0.1:
            said.append(SequenceGap(ts, "test", "BTC/USDT", step, step + 2))
        elif what < 0.13:
            said.append(ChecksumFailed(ts, "test", "BTC/USDT", 2**32 - 1, step))
        else:
            said.append(market.delta(ts, bids=bids, asks=[(int(random.integers(110, 120)), step)]))
    return said


def after(said: list[Message], ts: int) -> OrderBook:
    """The book as the kernel would keep it, message by message."""
    book = OrderBook("test", "BTC/USDT")
    for message in said:
        if message.ts_recv > ts:
            break
        if isinstance(message, BookSnapshot):
            book.apply_snapshot(message)
        elif isinstance(message, BookDelta):
            book.apply_delta(message)
        else:
            book.state = BookState.RESYNCING
    return book


# --- Books at an instant ----------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.lists(st.integers(-5, 1100), min_size=3, max_size=3))
@settings(max_examples=30)
def test_a_book_at_any_instant_is_the_one_that_was_kept_then(tmp_path_factory, seed, block_rows, instants):
    said = random_books(seed, 200)
    reader = record(tmp_path_factory.mktemp("tape"), *said, block_rows=block_rows)

    for ts in instants:
        kept, found = after(said, ts), reader.book_at("test", "BTC/USDT", ts)
        assert found.state == kept.state
        if kept.state is BookState.VALID:
            assert found.bids.top(1000) == kept.bids.top(1000)
            assert found.asks.top(1000) == kept.asks.top(1000)
            assert (found.seq, found.ts_recv) == (kept.seq, kept.ts_recv)


def test_a_book_is_not_known_before_it_was_recorded(tmp_path):
    reader = record(tmp_path, Market().book(100, bids=[(99, 1)], asks=[(101, 1)]))

    assert reader.book_at("test", "BTC/USDT", 99).state is BookState.RESYNCING
    assert reader.book_at("test", "BTC/USDT", 100).best_bid == 99
    assert reader.book_at("test", "ETH/USDT", 100).state is BookState.RESYNCING


# --- What messages become ---------------------------------------------------------------------------


def test_funding_and_bad_checksums_come_back_as_they_passed(tmp_path):
    market = Market()
    funding = FundingUpdated(
        5, 4, "test", "BTC/USDT", 6_000_000, 6_000_100, -(10**8), 7, 2**60, 28_800, 9, -9
    )
    failed = ChecksumFailed(7, "test", "BTC/USDT", 2**32 - 1, 5)

    reader = record(tmp_path, market.book(1, bids=[(99, 1)], asks=[(101, 1)]), funding, failed)

    assert list(messages(FUNDING, reader.read(FUNDING)))[1:] == [funding]
    assert list(messages(BOOK, reader.read(BOOK)))[-1] == failed


SINGLES = st.lists(
    st.tuples(st.sampled_from([1, -1]), *[st.integers(1, 2**60)] * 2, st.integers(-(2**60), 2**60)),
    max_size=8,
)


@given(st.lists(st.tuples(SINGLES, st.booleans()), min_size=1, max_size=5))
def test_single_orders_come_back_as_they_passed(tmp_path_factory, messages_of):
    said = [
        BookOrders(5, 4, "test", "BTC/USDT", 7, pack_orders(sorted(singles, key=lambda s: -s[0])), is_whole)
        for singles, is_whole in messages_of
    ]

    reader = record(tmp_path_factory.mktemp("tape"), *said)

    assert list(messages("l3|test|BTC/USDT", reader.read("l3|test|BTC/USDT")))[1:] == said


def test_what_has_no_rows_is_refused():
    with pytest.raises(TypeError, match="no rows for FeedLost"):
        Draft().append_message(FeedLost(1, "test", "closed", 10))


# --- Several streams --------------------------------------------------------------------------------


def test_streams_are_merged_by_the_time_of_receipt(tmp_path):
    market, other = Market(), Market("other")
    said = [
        other.trade(ts, 1, 1, Side.BUY) if ts % 3 else market.trade(ts, 1, 1, Side.BUY) for ts in range(50)
    ]
    reader = record(tmp_path, *said, block_rows=4)

    merged = [event.message for event in reader.merged()]
    part = [event.message for event in reader.merged([TRADE, "trade|other|BTC/USDT"], 10, 20)]

    assert [message for message in merged if isinstance(message, Trade)] == said
    assert part == said[10:20]


def out_of_order(path: Path, *times: int) -> TapeReader:
    draft = Draft()
    for ts in times:
        draft.append_message(Trade(ts, ts, "test", "BTC/USDT", ts, 1, 1, Side.BUY))
    TapeWriter(path / "tape.mdb", 16).seal(TRADE, 0, draft.rows())
    return TapeReader(path)


def test_a_message_that_is_a_little_late_is_put_in_its_place(tmp_path):
    reader = out_of_order(tmp_path, 10, 30, 20, 40)

    events = list(reader.merged([TRADE], lateness_ns=10))

    assert [event.ts_recv for event in events] == [10, 20, 30, 40]
    assert not any(event.is_late for event in events)


def test_one_that_is_later_than_the_watermark_is_said_to_be_late(tmp_path):
    reader = out_of_order(tmp_path, 10, 30, 20, 40)

    assert [(event.ts_recv, event.is_late) for event in reader.merged([TRADE])] == [
        (10, False),
        (30, False),
        (20, True),
        (40, False),
    ]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(0, 60))
@settings(max_examples=25)
def test_merging_loses_nothing_and_is_in_order_but_for_what_is_late(tmp_path_factory, times, lateness):
    reader = out_of_order(tmp_path_factory.mktemp("tape"), *times)

    events = list(reader.merged([TRADE], lateness_ns=lateness))

    assert sorted(event.ts_recv for event in events) == sorted(times)
    on_time = [event.ts_recv for event in events if not event.is_late]
    assert on_time == sorted(on_time)


# --- Bars -------------------------------------------------------------------------------------------


def traded(*trades: tuple[int, int, int]) -> np.ndarray:
    draft = Draft()
    for ts, price, quantity in trades:
        draft.append_message(Trade(ts, ts, "test", "BTC/USDT", 0, price, quantity, Side.BUY))
    return draft.rows()


def test_trades_make_bars_and_a_silence_makes_none():
    s = NS_PER_S
    rows = traded((s, 100, 1), (s + 1, 103, 2), (2 * s - 1, 99, 3), (2 * s, 101, 4), (7 * s, 90, 1))

    bars = bars_of(rows, 1)

    assert bars[["ts", "open", "high", "low", "close", "volume", "count"]].tolist() == [
        (s, 100, 103, 99, 99, 6, 3),
        (2 * s, 101, 101, 101, 101, 4, 1),
        (7 * s, 90, 90, 90, 90, 1, 1),
    ]
    assert bars["vwap"].tolist() == [(100 + 206 + 297) / 6, 101.0, 90.0]


def test_no_trades_make_no_bars():
    assert len(bars_of(traded(), 60)) == 0


def test_bars_shorter_than_a_second_are_refused():
    with pytest.raises(ValueError, match="at least 1 second, was 0"):
        bars_of(traded(), 0)


def test_imported_bars_come_back_as_they_were():
    bars = np.zeros(3, BAR)
    bars["ts"] = np.array([60, 120, 240]) * NS_PER_S
    bars["open"], bars["high"], bars["low"], bars["close"], bars["volume"] = 5, 9, 1, 7, 100
    bars["vwap"] = [6.25, np.nan, 7.0]

    rows = rows_of_bars(bars, 60)

    assert bars_of(rows, 60).tobytes() == bars.tobytes()
    assert next(messages("bar-60|test|BTC/USDT", rows)) == Bar(
        120 * NS_PER_S, 60 * NS_PER_S, "test", "BTC/USDT", 60, 5, 9, 1, 7, 100, 6_250_000, 0
    )
    assert rows["ts_recv"].reshape(-1, 4)[:, 0].tolist() == (bars["ts"] + 60 * NS_PER_S).tolist()
    assert len(bars_of(rows, 3600)) == 0


# --- Tables -----------------------------------------------------------------------------------------


def test_a_csv_has_decimals(tmp_path):
    reader = record(tmp_path, instrument(), Market().trade(5, 6_183_763, 2_000, Side.SELL))

    from tickerml.plugins.tape_tables import write

    count = write("csv", tmp_path / "out.csv", TRADE, reader.pages(TRADE, MIN_TS, 2**62), reader.scale(TRADE))

    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert count == 2
    assert lines[0] == "ts_recv,ts_event,seq,price,quantity,side,kind,is_last"
    assert lines[2] == "5,5,1,61837.63,0.02,-1,trade,1"


def test_a_table_in_an_unknown_form_is_refused(tmp_path):
    from tickerml.plugins.tape_tables import write

    with pytest.raises(ValueError, match="was 'xls'"):
        write("xls", tmp_path / "out", TRADE, [], None)


def test_without_pyarrow_a_table_says_what_it_needs(tmp_path, monkeypatch):
    for name in "pyarrow", "pyarrow.parquet":
        monkeypatch.setitem(sys.modules, name, None)
    reader = record(tmp_path, Market().trade(5, 1, 1, Side.BUY))

    with pytest.raises(StoreError, match="needs pyarrow, which is not installed: pip install pyarrow"):
        reader.to_arrow(TRADE)
    with pytest.raises(StoreError, match="needs pyarrow"):
        reader.to_parquet(tmp_path / "out.parquet", TRADE)
    assert not (tmp_path / "out.parquet").exists()


def test_arrow_and_parquet_hold_the_rows_and_their_scale(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")

    trades = [Market().trade(ts, 6_000_000 + ts, 5, Side.BUY) for ts in range(1, 40)]
    reader = record(tmp_path, instrument(), *trades, block_rows=7)

    written = reader.to_parquet(tmp_path / "out.parquet", TRADE)
    table = reader.to_arrow(TRADE)

    assert parquet.read_table(tmp_path / "out.parquet").equals(table)
    assert written == table.num_rows == 40
    assert table["price"].to_pylist()[1:] == [trade.price for trade in trades]
    assert table["kind"].to_pylist()[:2] == ["gap", "trade"]
    assert table.schema.metadata[b"tick_size"] == b"0.01"


def test_polars_holds_the_rows(tmp_path):
    pytest.importorskip("polars")
    reader = record(tmp_path, *(Market().trade(ts, ts, 5, Side.BUY) for ts in range(1, 5)))

    frame = reader.to_polars(TRADE)

    assert frame["price"].to_list() == [0, 1, 2, 3, 4]
    assert frame["kind"].to_list()[1] == "trade"


# --- Hot and cold -----------------------------------------------------------------------------------


def journal_of(path: Path, said: list[Message]) -> Path:
    """A journal as a kernel would write it of *said*."""
    frames = []
    for seq, message in enumerate(said, 1):
        topic = topics.topic_of(message)
        output = codec.pack_output(topic, 1, 1, 0, seq, codec.encode(message))
        frames.append(codec.stamp(output, len(topic) + 1, seq, seq))
    writer = JournalWriter(path, map_mb=64, commit_ms=1)
    writer.start()
    for start in range(0, len(frames), 50):
        writer.append(frames[start : start + 50], [], [])
    writer.close()
    assert writer.error is None
    return path


def market_day(seed: int, count: int) -> list[Message]:
    """Books and trades of two symbols, gaps, lost feeds and channels; times go on."""
    random = np.random.default_rng(seed)
    markets = [Market(), Market(symbol="ETH/USDT")]
    said: list[Message] = [market.book(0, bids=[(90, 1)], asks=[(110, 1)]) for market in markets]
    for ts in range(1, count):
        market = markets[int(random.integers(0, 2))]
        what = random.random()
        if what < 0.03:
            said.append(FeedLost(ts, "test", "closed", 5))
        elif what < 0.06:
            said.append(SequenceGap(ts, "test", market.symbol, ts, ts + 2))
        elif what < 0.08:
            channel = ("trade", "quote")[ts % 2]
            said.append(ChannelLost(ts, "test", market.symbol, channel, 1, "it stopped"))
        elif what < 0.12:
            said.append(market.book(ts, bids=[(90, ts)], asks=[(110, ts)]))
        elif what < 0.5:
            said.append(market.trade(ts, int(random.integers(90, 110)), ts, Side.SELL))
        else:
            said.append(market.delta(ts, bids=[(int(random.integers(80, 100)), ts)]))
    return said


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(50, 200))
@settings(max_examples=10)
def test_what_is_not_sealed_yet_is_read_from_the_journal(tmp_path_factory, seed, block_rows, count):
    path, said = tmp_path_factory.mktemp("run"), market_day(seed, count)
    record(path, *said, block_rows=block_rows, ends=False)
    journal = journal_of(path / "journal", said)
    whole = record(tmp_path_factory.mktemp("whole"), *said)

    reader = TapeReader(path, journal)

    for stream in whole.streams():
        assert reader.read(stream).tobytes() == whole.read(stream).tobytes()
    assert reader.streams() == whole.streams()
    for stream, tail in reader.unsealed().tails.items():
        sealed = TapeReader(path).read(stream) if stream in reader.sealed() else whole.read(stream)[:0]
        assert np.concatenate([sealed, tail.rows]).tobytes() == whole.read(stream).tobytes()
        assert tail.is_next == (stream in reader.sealed())
    assert joined(TapeReader(path).doubts(), reader.unsealed().doubts) == whole.doubts()
    assert [event.message for event in reader.merged()] == [event.message for event in whole.merged()]
    half = count // 2
    assert reader.read(TRADE, half).tobytes() == whole.read(TRADE, half).tobytes()
    assert reader.read(TRADE, 0, half).tobytes() == whole.read(TRADE, 0, half).tobytes()


def test_coverage_counts_what_is_in_no_block_yet(tmp_path):
    said = market_day(7, 300)
    record(tmp_path / "run", *said, block_rows=40, ends=False)
    whole = {each["stream"]: each for each in coverage(record(tmp_path / "whole", *said), 2e-8)}
    cold = {each["stream"]: each for each in coverage(TapeReader(tmp_path / "run"), 2e-8)}

    found = coverage(TapeReader(tmp_path / "run", journal_of(tmp_path / "journal", said)), 2e-8)

    assert [each["stream"] for each in found] == list(whole)
    for each in found:
        other, sealed = whole[each["stream"]], cold[each["stream"]]
        assert [(span["start"], span["end"]) for span in each["spans"]] == [(other["first"], other["last"])]
        assert each["gaps"] == other["gaps"]
        assert each["unsealed"] == each["rows"] - sealed["rows"] > 0
        assert sum(day["rows"] for day in each["days"].values()) == each["rows"]


def test_the_commands_count_what_is_in_no_block_yet(tmp_path):
    said = market_day(7, 300)
    record(tmp_path, *said, block_rows=40, ends=False)
    journal_of(tmp_path / "journal", said)

    words = ["inspect", "--tape", str(tmp_path)]
    text = CliRunner().invoke(commands, words, catch_exceptions=False).output
    rows = json.loads(CliRunner().invoke(commands, [*words, "--json"]).output.splitlines()[-1])["streams"]

    reader = TapeReader(tmp_path, tmp_path / "journal")
    assert "unsealed" in text
    verified = CliRunner().invoke(commands, ["verify", *words[1:]], catch_exceptions=False).output
    assert f"not looked at: {sum(row['unsealed'] for row in rows):,} rows in no block yet" in verified
    for row in rows:
        rows_of_stream = reader.read(row["stream"], has_keyframes=True)
        assert row["rows"] == len(rows_of_stream)
        assert row["unsealed"] == len(reader.unsealed().tails[row["stream"]].rows) > 0


def test_a_journal_that_no_longer_reaches_back_is_a_span_of_its_own(tmp_path):
    said = [Market().trade(ts, 100, ts + 1, Side.BUY) for ts in range(20)]
    record(tmp_path, *said[:10], block_rows=1)

    [found] = coverage(TapeReader(tmp_path, journal_of(tmp_path / "journal", said[15:])))

    assert [(span["start"], span["end"]) for span in found["spans"]] == [(0, 9), (15, 19)]
    assert [(gap["start"], gap["end"], gap["reason"]) for gap in found["gaps"]] == [(9, 15, "not recorded")]


def test_where_the_journal_no_longer_reaches_back_to_the_tape_there_is_a_gap(tmp_path):
    said = [Market().trade(ts, 100, ts + 1, Side.BUY) for ts in range(20)]
    record(tmp_path, *said[:10], block_rows=1)
    journal = journal_of(tmp_path / "journal", said[15:])

    rows = TapeReader(tmp_path, journal).read(TRADE, 8)

    assert rows["ts_recv"].tolist() == [8, 9, 15, 15, 16, 17, 18, 19]
    assert rows["kind"].tolist()[2] == Kind.GAP


def test_a_directory_without_a_tape_says_so(tmp_path):
    with pytest.raises(StoreError, match="was nothing; record one"):
        TapeReader(tmp_path)


# --- Notes and pruning ------------------------------------------------------------------------------


def test_the_tape_says_what_its_symbols_are_and_what_put_them_in_doubt(tmp_path):
    known, gap = instrument(), SequenceGap(5, "test", "BTC/USDT", 7, 9)
    lost = FeedLost(8, "test", "closed", 10)

    reader = record(tmp_path, known, Market().trade(1, 100, 1, Side.BUY), gap, lost)

    assert reader.instruments() == {("test", "BTC/USDT"): known}
    assert reader.scale(TRADE) == known
    assert reader.scale("trade|test|ETH/USDT") is None
    assert reader.doubts() == [gap, lost]
    assert reader.verify() == []


def blocks_of(reader: TapeReader, stream: str = TRADE) -> list[int]:
    return [block.first_ts for block in reader.blocks(stream)]


def test_pruning_takes_whole_blocks_oldest_first_and_leaves_a_tape_that_verifies(tmp_path):
    said = [Market().trade(ts, 100, 1, Side.BUY) for ts in range(100)]
    reader = record(tmp_path, *said, block_rows=10)
    before = len(reader.blocks(TRADE))

    pruned = TapeWriter(reader.path, 64).prune(before_ns=50)

    assert pruned.blocks == before - len(reader.blocks(TRADE)) > 0
    assert pruned.rows + len(reader.read(TRADE)) == 101
    assert reader.blocks(TRADE)[0].last_ts >= 50
    assert reader.verify() == []


def test_a_long_block_of_a_quiet_stream_keeps_no_old_block_of_a_busy_one(tmp_path):
    busy, quiet = Market(), Market(symbol="ETH/USDT")
    said = [busy.trade(ts, 100, 1, Side.BUY) for ts in range(100)]
    reader = record(
        tmp_path, quiet.trade(0, 9, 1, Side.BUY), *said, quiet.trade(99, 9, 1, Side.BUY), block_rows=10
    )

    TapeWriter(reader.path, 64).prune(before_ns=50)

    assert min(block.last_ts for block in reader.blocks(TRADE)) >= 50
    assert len(reader.blocks(TRADE.replace("BTC", "ETH"))) == 1
    assert reader.verify() == []


def test_a_pruned_tape_that_lost_a_block_is_still_found_out(tmp_path):
    import lmdb

    said = [Market().trade(ts, 100, 1, Side.BUY) for ts in range(100)]
    reader = record(tmp_path, *said, block_rows=10)
    TapeWriter(reader.path, 64).prune(before_ns=50)
    with (
        lmdb.open(str(reader.path), subdir=False, map_size=2**26) as environment,
        environment.begin(write=True) as txn,
    ):
        txn.delete(next(key for key, _ in txn.cursor() if key.startswith(TRADE.encode())))

    assert "follows a block that is not there" in reader.verify()[0]


def test_a_recorder_keeps_to_its_days_and_its_budget(tmp_path):
    day = 86_400 * NS_PER_S
    said = [Market().trade(n * day // 20, 100, n + 1, Side.BUY) for n in range(200)]

    days = record(tmp_path / "days", *said, block_rows=10, keep_days=3)
    budget = record(tmp_path / "budget", *said, block_rows=1, max_mb=1)

    last = said[-1].ts_recv
    assert min(blocks_of(days)) >= last - 3 * day - day
    assert blocks_of(days)[0] > 0
    assert blocks_of(budget)[0] == 0  # it never came near to a megabyte
    assert days.verify() == budget.verify() == []


def test_a_budget_holds_the_file_down(tmp_path):
    random = np.random.default_rng(1)
    draft, market = random.integers(1, 2**40, (110_000, 2)).tolist(), Market()
    said = [market.trade(ts, price, quantity, Side.BUY) for ts, (price, quantity) in enumerate(draft)]

    reader = record(tmp_path, *said, block_rows=1000, max_mb=1, map_mb=4)

    assert reader.blocks(TRADE)[0].first_ts > 0
    assert reader.path.stat().st_size < 2 * 2**20
    assert reader.verify() == []


def test_compacting_gives_the_room_back_and_changes_nothing(tmp_path):
    random = np.random.default_rng(1)
    said = [
        Market().trade(ts, price, 1, Side.BUY)
        for ts, price in enumerate(random.integers(1, 2**40, 30_000).tolist())
    ]
    reader = record(tmp_path, *said, block_rows=1000)
    writer = TapeWriter(reader.path, 64)
    writer.prune(before_ns=25_000)
    rows, size = reader.read(TRADE).tobytes(), reader.path.stat().st_size

    after = writer.compact()
    writer.seal(stream_name("trade", "test", "ETH/USDT"), 0, traded((1, 1, 1)))

    assert after < size / 2
    assert reader.read(TRADE).tobytes() == rows
    assert len(reader.streams()) == 2
    assert reader.verify() == []


# --- State of an earlier version --------------------------------------------------------------------


def test_a_state_of_the_first_version_is_taken(tmp_path):
    import msgspec
    import zstandard

    bus = Harness(recorder, options={"recorder": {"map_mb": 64}}, data_dir=tmp_path)
    bus.send(Market().trade(5, 100, 1, Side.BUY))
    component: Any = bus.bus.component("recorder")
    streams = msgspec.msgpack.decode(zstandard.decompress(component.snapshot()))[0]
    old = zstandard.compress(msgspec.msgpack.encode(streams))

    again = Harness(recorder, options={"recorder": {"map_mb": 64}}, data_dir=tmp_path)
    restored: Any = again.bus.component("recorder")
    restored.restore(restored.migrate(old, 1))

    assert restored.snapshot() == component.snapshot()
