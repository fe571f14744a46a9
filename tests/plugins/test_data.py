"""`tickerml data`: files of every kind come in, what is on a tape is shown, checked, and goes out again."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from typer.testing import CliRunner

from tickerml.kernel import (
    BookOrders,
    BookResynced,
    BookStale,
    ChannelLost,
    ChannelResumed,
    ChecksumFailed,
    ConfigError,
    FeedConnected,
    FeedEnded,
    FeedLost,
    FundingUpdated,
    Grid,
    Message,
    Quote,
    SequenceGap,
    Side,
    pack_orders,
)
from tickerml.kernel.testing import Harness, Market, instrument
from tickerml.plugins import data_coverage, recorder
from tickerml.plugins.data import commands
from tickerml.plugins.data_ohlcv import read_history
from tickerml.plugins.data_show import epoch_ns, parse_time
from tickerml.plugins.tape import TapeReader, TapeWriter
from tickerml.plugins.tape_rows import Draft

S = 1_700_000_000  # seconds
NS = S * 10**9
CLI = [sys.executable, "-m", "tickerml.ui.cli", "data"]


def run(*words: str | Path, code: int = 0) -> str:
    """Run a command in this process and return what it printed."""
    result = CliRunner().invoke(commands, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def report(*words: str | Path, code: int = 0) -> Any:
    return json.loads(run(*words, "--json", code=code).splitlines()[-1])


def line(offset: float, stream: str, data: Any) -> str:
    return f"{S + offset:.6f}: {json.dumps({'stream': stream, 'data': data})}"


def depth(first: int, last: int, bid: str, quantity: str) -> Any:
    return {
        "e": "depthUpdate",
        "E": S * 1000,
        "s": "BTCUSD",
        "U": first,
        "u": last,
        "b": [[bid, quantity]],
        "a": [],
    }


def write_capture(path: Path, count: int = 20, *more: str) -> Path:
    """Frames of Binance.US as documented: a snapshot over REST, updates that follow it, and trades."""
    book = {"lastUpdateId": 10, "bids": [["99.5", "1.0"]], "asks": [["101.0", "2.0"]]}
    lines = [
        f"https://api.binance.us/api/v3/depth?symbol=BTCUSD&limit=1000 -> {S}.000001: {json.dumps(book)}"
    ]
    for number in range(1, count + 1):
        lines.append(
            line(
                number,
                "btcusd@depth@100ms",
                depth(10 + number, 10 + number, f"{90 + number % 5}.5", f"{number}.0"),
            )
        )
        trade = {
            "e": "trade",
            "E": S * 1000,
            "s": "BTCUSD",
            "t": number,
            "p": "100.0",
            "q": "0.5",
            "T": S * 1000,
        }
        lines.append(line(number + 0.5, "btcusd@trade", {**trade, "m": False}))
    path.write_text("\n".join([*lines, *more]) + "\n")
    return path


@pytest.fixture
def tape(tmp_path) -> Path:
    """A tape with one capture on it."""
    run("import", write_capture(tmp_path / "capture.txt"), "--tape", tmp_path / "tape")
    return tmp_path / "tape"


def record(path: Path, *said: Message, **options: Any) -> Path:
    bus = Harness(recorder, options={"recorder": {"map_mb": 64, **options}}, data_dir=path)
    bus.send(*said, FeedEnded(said[-1].ts_recv, "here", 0, 0))
    assert bus.outputs == []
    return path


# --- Captures ---------------------------------------------------------------------------------------


def test_a_capture_goes_through_the_parsers_and_the_recorder(tape):
    found = report("verify", "--tape", tape)

    [stream] = found["streams"]
    assert (found["ok"], found["problems"]) == (True, [])
    assert (stream["exchange"], stream["symbol"]) == ("binanceus", "BTC/USD")
    assert (stream["messages"], stream["parsed"], stream["skipped"]) == (41, 41, 0)
    assert (stream["gaps"], stream["crossed"]) == (0, 0)
    assert stream["kinds"]["book"]["rows"] == 1 + 2 + 20  # where it begins, the snapshot, the updates
    assert stream["kinds"]["trade"]["rows"] == 1 + 20
    book = TapeReader(tape).book_at("binanceus", "BTC/USD", NS + 10**12)
    assert (book.best_bid, book.best_ask) != (0, 0)


def test_importing_the_same_file_again_changes_nothing(tape, tmp_path):
    before = [
        block.digest for stream in TapeReader(tape).streams() for block in TapeReader(tape).blocks(stream)
    ]

    again = report("import", tmp_path / "capture.txt", "--tape", tape)

    assert (again["new_blocks"], again["blocks"]) == (0, 2)
    assert [
        block.digest for stream in TapeReader(tape).streams() for block in TapeReader(tape).blocks(stream)
    ] == before
    assert len(report("verify", "--tape", tape)["streams"]) == 1
    assert report("verify", "--tape", tape)["streams"][0]["messages"] == 41


def test_a_recording_that_is_named_twice_is_refused(tmp_path):
    one = write_capture(tmp_path / "one.txt")
    other = write_capture(tmp_path / "other.txt")

    with pytest.raises(ConfigError, match=r"other.txt: expected another file than .*one.txt, was the same"):
        run("import", one, other, "--tape", tmp_path / "tape")
    assert not (tmp_path / "tape").exists()


def test_what_reaches_into_other_data_is_refused_and_nothing_is_imported(tape, tmp_path):
    longer = write_capture(tmp_path / "longer.txt", count=30)

    with pytest.raises(
        ConfigError, match=r"nothing was imported: .* reaches into what .* import it into another"
    ):
        run("import", longer, "--tape", tape)
    assert report("verify", "--tape", tape)["streams"][0]["messages"] == 41
    assert [path.name for path in tape.iterdir() if path.is_dir()] == []


def test_what_a_killed_import_has_left_goes_with_the_next(tape, tmp_path):
    (tape / ".import-4194305-left").mkdir()  # more than any process has for its number

    run("import", tmp_path / "capture.txt", "--tape", tape)

    assert [path.name for path in tape.iterdir() if path.is_dir()] == []


def test_a_frame_that_cannot_be_read_is_counted_with_its_reason(tmp_path):
    file = write_capture(tmp_path / "capture.txt", 3, line(9, "btcusd@depth@100ms", {"e": "depthUpdate"}))

    run("import", file, "--tape", tmp_path / "tape")
    found = report("verify", "--tape", tmp_path / "tape")

    assert sum(stream["skipped"] for stream in found["streams"]) == 1
    assert sum(found["skipped"].values()) == 1


@pytest.mark.parametrize(("content", "words"), [("", "was an empty file"), ("hello\n", "capture")])
def test_what_is_no_recording_is_refused(tmp_path, content, words):
    (tmp_path / "file").write_text(content)

    with pytest.raises(ConfigError, match=words):
        run("import", tmp_path / "file", "--tape", tmp_path / "tape")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nothing: No such file"):
        run("import", tmp_path / "nothing", "--tape", tmp_path / "tape")


# --- Bars and hftbacktest ---------------------------------------------------------------------------


VENDOR = """Timestamps are UTC timezone,https://www.example.org
Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USD
2017-11-12 01-AM,BTCUSD,6100.5,6200,6000,6150.25,12.5,1000000
2017-11-12 12-AM,BTCUSD,6000,6100,5900,6050,1.25,2000000
2017-11-11 11-PM,BTCUSD,5900,6000,5800,5950,3,3000000
"""


def test_a_vendors_hourly_bars_come_in_oldest_first_in_ticks_and_lots(tmp_path):
    (tmp_path / "bars.csv").write_text(VENDOR)

    history = read_history(tmp_path / "bars.csv", "coinbase")

    assert history.seconds == 3600
    assert (history.instrument.symbol, history.lines) == ("BTC/USD", 3)
    assert (history.instrument.tick_size, history.instrument.lot_size) == (10**10, 10**10)
    assert [str(np.datetime64(ts, "ns"))[:16] for ts in history.bars["ts"].tolist()] == [
        "2017-11-11T23:00",
        "2017-11-12T00:00",
        "2017-11-12T01:00",
    ]
    assert history.bars[-1].tolist()[1:6] == (610050, 620000, 600000, 615025, 1250)


def test_bars_are_imported_and_exported_again(tmp_path):
    (tmp_path / "bars.csv").write_text(
        "timestamp,open,high,low,close,volume\n"
        + "".join(f"{(S + 60 * n) * 1000},1{n}.5,2{n}.5,1.25,1{n}.0,0.00{n + 1}\n" for n in range(5))
    )

    run("import", tmp_path / "bars.csv", "--tape", tmp_path / "t", "--exchange", "x", "--symbol", "A/B")
    run("export", "csv", "--tape", tmp_path / "t", "--out", tmp_path / "out")
    lines = (tmp_path / "out" / "x-A-B-bar-60.csv").read_text().splitlines()

    assert lines[0] == "ts,open,high,low,close,volume,count,vwap"
    assert lines[1].startswith(f"{NS},10.5,20.5,1.25,10,0.001,0,")
    assert report("verify", "--tape", tmp_path / "t")["streams"][0]["messages"] == 5


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_bars_that_went_out_come_in_again_as_they_were(tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "bars.csv").write_text(VENDOR)
    run("import", tmp_path / "bars.csv", "--tape", tmp_path / "a", "--exchange", "coinbase")

    run("export", form, "--tape", tmp_path / "a", "--out", tmp_path)
    file = tmp_path / f"coinbase-BTC-USD-bar-3600.{form}"
    run("import", file, "--tape", tmp_path / "b", "--exchange", "coinbase", "--symbol", "BTC/USD")

    assert report("diff", tmp_path / "a", tmp_path / "b")["equal"]
    assert TapeReader(tmp_path / "b").scale("bar-3600|coinbase|BTC/USD").tick_size == 10**10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("date,open,high,low,close\n2020-01-01,1,2,0,1\n", "at least two bars, was 1"),
        (
            "date,open,high,low,close\n2020-01-01,1,2,0,1\n2020-01-01,1,2,0,2\n",
            "two different ones at 2020-01-01",
        ),
        ("date,open,high,low,close\n2020-01-01,1,2,0,x\n", "was 'x'"),
        ("date,open,high,low,close\n2020-01-01,1,2,0\n", "expected 5 columns in every line"),
        ("nodate,open,high,low,close\n2020-01-01,1,2,0,1\n", "one of ts, timestamp, date"),
    ],
)
def test_bars_that_are_none_are_refused(tmp_path, text, words):
    (tmp_path / "bars.csv").write_text(text)

    with pytest.raises(ConfigError, match=words):
        read_history(tmp_path / "bars.csv", "x", "A/B")


def test_bars_of_two_intervals_are_counted_each(tmp_path):
    first = S - S % 3600
    for name, step in ("minutes", 60), ("hours", 3600):
        rows = "".join(f"{first + step * n},1,2,0.5,1\n" for n in range(4))
        (tmp_path / name).write_text(f"time,open,high,low,close\n{rows}")
        run("import", tmp_path / name, "--tape", tmp_path / "t", "--exchange", "x", "--symbol", "A/B")

    [stream] = report("verify", "--tape", tmp_path / "t")["streams"]

    assert (stream["messages"], sorted(stream["kinds"])) == (8, ["bar-3600", "bar-60"])


FUNDING = """Symbol,Date,Funding Rate
BTC-USDT,2020-01-01 03:00:00.000,-0.00012359
BTC-USDT,2020-01-01 11:00:00.000,-0.00012383
BTC-USDT,2020-01-01 11:00:00.000,-0.00012383
"""


def test_funding_rates_come_in_by_the_clock_that_is_said(tmp_path):
    for symbol in "BTC", "ETH":
        (tmp_path / f"{symbol}.csv").write_text(FUNDING.replace("BTC", symbol))
    files = tmp_path / "BTC.csv", tmp_path / "ETH.csv"

    run("import", *files, "--tape", tmp_path / "t", "--exchange", "binanceusdm", "--utc-offset", "3")

    streams = report("verify", "--tape", tmp_path / "t")["streams"]
    assert [(each["symbol"], each["parsed"], each["skipped"]) for each in streams if each["symbol"]] == [
        ("BTC/USDT-PERP", 2, 1),
        ("ETH/USDT-PERP", 2, 1),
    ]
    first = TapeReader(tmp_path / "t").read("funding|binanceusdm|BTC/USDT-PERP")["ts_recv"].min()
    assert str(np.datetime64(int(first), "ns"))[:19] == "2020-01-01T00:00:00"
    with pytest.raises(ConfigError, match=r"nor by what clock; say it with .* --utc-offset"):
        run("import", *files, "--tape", tmp_path / "t", "--exchange", "binanceusdm")


def test_a_hole_in_funding_rates_is_a_gap(tmp_path):
    hours = [hour for hour in range(0, 20 * 24, 8) if not 100 < hour < 300]
    dates = [np.datetime64("2020-01-01T00:00:00") + np.timedelta64(hour, "h") for hour in hours]
    rows = "".join(f"BTC-USDT,{date},0.0001\n" for date in dates)
    (tmp_path / "rates.csv").write_text(f"Symbol,Date,Funding Rate\n{rows}")
    where = ["--exchange", "gate", "--utc-offset", "0", "--symbol", "BTC/USDT-PERP"]
    run("import", tmp_path / "rates.csv", "--tape", tmp_path / "t", *where)

    [stream] = report("coverage", "--tape", tmp_path / "t")["streams"]

    assert [round((gap["end"] - gap["start"]) / 3.6e12) for gap in stream["gaps"]] == [208]


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "day.zip", "w") as archive:
        archive.writestr("day.csv", "0,1,2\n")

    with pytest.raises(ConfigError, match="an npz with an array of hftbacktest's events, was an archive"):
        run("import", tmp_path / "day.zip", "--tape", tmp_path / "t", "--exchange", "x", "--symbol", "A/B")


def test_bars_need_to_be_told_whose_they_are(tmp_path):
    (tmp_path / "bars.csv").write_text(VENDOR)

    with pytest.raises(ConfigError, match="say it with --exchange"):
        run("import", tmp_path / "bars.csv", "--tape", tmp_path / "tape")


def test_hftbacktests_events_become_books_and_trades(tmp_path):
    fields = [
        ("ev", "u8"),
        ("exch_ts", "i8"),
        ("local_ts", "i8"),
        ("px", "f8"),
        ("qty", "f8"),
        ("order_id", "u8"),
    ]
    local, buy, sell = 1 << 30, 1 << 29, 1 << 28
    events = [
        (3 | local | buy, NS, NS + 5, 0.0, 0.0, 0),
        (4 | local | buy, NS, NS + 5, 99.5, 1.5, 0),
        (4 | local | sell, NS, NS + 5, 100.1, 2.0, 0),
        (1 | local | buy, NS + 10, NS + 20, 99.5, 0.0, 0),
        (1 | local | buy, NS + 10, NS + 20, 99.4, 0.25, 0),
        (1 | (1 << 31) | buy, NS + 11, NS + 20, 50.0, 9.0, 0),  # the exchange's own, not seen here
        (2 | local | sell, NS + 30, NS + 40, 99.4, 0.05, 0),
    ]
    np.savez_compressed(tmp_path / "day.npz", data=np.array(events, fields))

    run("import", tmp_path / "day.npz", "--tape", tmp_path / "t", "--exchange", "x", "--symbol", "A/B")
    reader = TapeReader(tmp_path / "t")
    book = reader.book_at("x", "A/B", NS + 100)

    assert (book.bids.top(5), book.asks.top(5)) == ([(994, 25)], [(1001, 200)])
    assert reader.read("trade|x|A/B")[["price", "quantity", "side"]].tolist()[1:] == [(994, 5, -1)]
    assert reader.instruments()["x", "A/B"].tick_size == 10**11
    assert report("verify", "--tape", tmp_path / "t")["ok"]


# --- Verify -----------------------------------------------------------------------------------------


def test_a_damaged_block_is_named_and_the_exit_code_says_so(tape):
    with (
        lmdb.open(str(tape / "tape.mdb"), subdir=False, map_size=2**26) as environment,
        environment.begin(write=True) as txn,
    ):
        key, value = next((key, value) for key, value in txn.cursor() if key.startswith(b"book"))
        txn.put(key, value[:-1] + bytes([value[-1] ^ 1]))

    found = report("verify", "--tape", tape, code=1)

    assert not found["ok"]
    assert "does not match its checksum" in found["problems"][0]


def seal_book(path: Path, *seqs: int, bid: int = 99) -> Path:
    draft = Draft()
    draft.append_message(Market().book(1, bids=[(98, 1)], asks=[(100, 1)]))
    for ts, seq in enumerate(seqs, 2):
        delta = Market().delta(ts, bids=[(bid, ts)])
        draft.append(delta.ts_recv, delta.ts_event, seq, 0, delta.bids, delta.asks)
    TapeWriter(path / "tape.mdb", 16).seal("book|test|BTC/USDT", 0, draft.rows())
    return path


def test_a_sequence_that_goes_back_without_a_gap_is_wrong(tmp_path):
    found = report("verify", "--tape", seal_book(tmp_path, 5, 6, 4, 7), code=1)

    assert "seq 4 at 1970-01-01 00:00:00.000 follows a higher one without a gap" in found["problems"][0]


def test_one_that_goes_back_behind_a_gap_is_not(tmp_path):
    market = Market()
    said = [market.book(n, bids=[(99, 1)], asks=[(101, 1)]) for n in range(3)]
    gap = SequenceGap(4, "test", "BTC/USDT", 3, 9)

    record(tmp_path, *said, gap, Market().book(5, bids=[(99, 1)], asks=[(101, 1)]), Market().delta(6))

    assert report("verify", "--tape", tmp_path)["ok"]


def test_a_book_that_crosses_without_a_word_is_seen(tmp_path):
    found = report("verify", "--tape", seal_book(tmp_path, 1, 2, bid=101))

    assert found["streams"][0]["crossed_in_rows"] == 1


def test_a_tape_that_is_not_there_is_wrong_usage(tmp_path):
    with pytest.raises(ConfigError, match="expected a tape at"):
        run("verify", "--tape", tmp_path)


# --- Coverage, inspect, diff ------------------------------------------------------------------------


def test_coverage_names_every_gap_with_its_reason(tmp_path):
    s, market = 10**9, Market()
    said = [market.book(0, bids=[(99, 1)], asks=[(101, 1)])]
    said += [market.delta(ts * s, bids=[(98, ts)]) for ts in range(1, 10)]
    said += [
        FeedLost(10 * s, "test", "closed", 5),
        FeedConnected(12 * s, "test", ["BTC/USDT"]),
        BookResynced(13 * s, "test", "BTC/USDT", 3),
        SequenceGap(14 * s, "test", "BTC/USDT", 5, 8),
        BookResynced(15 * s, "test", "BTC/USDT", 9),
        BookStale(20 * s, "test", "BTC/USDT", 4000),
        market.delta(21 * s, bids=[(97, 1)]),
    ]
    record(tmp_path / "a", *said)
    record(tmp_path / "b", *(market.delta(100 * s + n, bids=[(97, 1)]) for n in range(3)))
    source = TapeReader(tmp_path / "b")
    stream = "book|test|BTC/USDT"
    TapeWriter(tmp_path / "a" / "recorder" / "tape.mdb", 64).seal(stream, 0, source.read(stream))

    [found] = report("coverage", "--tape", tmp_path / "a")["streams"]
    text = run("coverage", "--tape", tmp_path / "a")

    assert [(gap["start"] // s, gap["end"] // s, gap["reason"]) for gap in found["gaps"]] == [
        (10, 12, "feed lost: closed"),
        (14, 15, "sequence gap: expected 5, was 8"),
        (16, 21, "silent for 5.0 s"),
        (21, 100, "not recorded"),
    ]
    assert found["days"]["1970-01-01"]["covered"] == round(21 / 86_400, 6)
    assert "█" in text
    assert "!" in text
    assert "feed lost: closed" in text


def test_a_channel_that_died_alone_is_a_gap_of_its_own_stream(tmp_path):
    s, market = 10**9, Market()
    said = [market.book(0, bids=[(99, 1)], asks=[(101, 1)])]
    said += [market.trade(ts * s, 100, ts, Side.BUY) for ts in range(1, 5)]
    said += [market.delta(ts * s, bids=[(98, ts)]) for ts in range(1, 25)]
    said += [
        ChannelLost(24 * s, "test", "BTC/USDT", "trade", 20_000, "no trade for 20.0 s"),
        FeedLost(24 * s, "test", "no trade for 20.0 s", 5),
        FeedConnected(25 * s, "test", ["BTC/USDT"]),
        market.book(25 * s, bids=[(99, 1)], asks=[(101, 1)]),
        market.trade(30 * s, 100, 1, Side.BUY),
        ChannelResumed(30 * s, "test", "BTC/USDT", "trade", 26_000),
        market.trade(40 * s, 100, 1, Side.BUY),
        ChannelLost(60 * s, "test", "BTC/USDT", "quote", 20_000, "no quote for 20.0 s"),
    ]
    record(tmp_path, *said)

    book, trade = report("coverage", "--tape", tmp_path)["streams"]

    feed = (24, 25, "feed lost: no trade for 20.0 s")
    assert gaps_of(book) == [feed]
    assert gaps_of(trade) == [(4, 30, "channel lost: no trade for 20.0 s"), feed]


def gaps_of(stream):
    return [(gap["start"] // 10**9, gap["end"] // 10**9, gap["reason"]) for gap in stream["gaps"]]


def test_a_silence_that_nobody_has_told_of_is_a_gap(tmp_path):
    s, market = 10**9, Market()
    times = [1, 2, 3, 700, 701, 5000, 5001]
    record(
        tmp_path, instrument(), *(market.trade(at * s, n + 1, n + 1, Side.BUY) for n, at in enumerate(times))
    )

    gaps = {
        seconds: [
            (gap["start"] // s, gap["end"] // s, gap["reason"])
            for gap in report("coverage", "--tape", tmp_path, "--silence", seconds)["streams"][0]["gaps"]
        ]
        for seconds in ("600", "1000")
    }

    assert gaps["1000"] == [(701, 5000, "silence: nothing came")]
    assert gaps["600"] == [(3, 700, "silence: nothing came"), *gaps["1000"]]


def test_a_silence_between_two_blocks_is_a_gap_too(tmp_path):
    s, market = 10**9, Market()
    said = [market.trade((at + 1000 * (at > 3)) * s, at, at, Side.BUY) for at in range(1, 7)]
    record(tmp_path, instrument(), *said, block_rows=1)

    [stream] = report("coverage", "--tape", tmp_path)["streams"]

    assert [(gap["start"] // s, gap["end"] // s) for gap in stream["gaps"]] == [(3, 1004)]


def test_bars_that_are_missing_are_a_gap(tmp_path):
    day, first = 86_400, S - S % 86_400
    rows = "".join(f"{first + day * n},1,2,0.5,1\n" for n in (0, 1, 2, 5, 6))
    (tmp_path / "bars").write_text(f"time,open,high,low,close\n{rows}")
    run("import", tmp_path / "bars", "--tape", tmp_path / "t", "--exchange", "x", "--symbol", "A/B")

    [stream] = report("coverage", "--tape", tmp_path / "t")["streams"]

    [gap] = stream["gaps"]
    begin, end = ((gap[what] // 10**9 - first) // day for what in ("start", "end"))
    assert (begin, end, gap["reason"]) == (3, 5, "not recorded")
    assert [there["covered"] for there in stream["days"].values() if there["covered"]] == [1.0] * 5
    assert "days, 5 of them whole" in run("coverage", "--tape", tmp_path / "t")


def test_the_days_of_a_span_are_covered_as_far_as_it_goes():
    day = 86_400 * 10**9
    span = data_coverage.Span(day // 2, 2 * day + day // 4, 10)

    days = data_coverage.days_of([span], [])

    assert [day["covered"] for day in days.values()] == [0.5, 1.0, 0.25]
    assert list(days) == ["1970-01-01", "1970-01-02", "1970-01-03"]


def test_a_book_is_shown_as_it_was(tape):
    text = run("inspect", "--tape", tape, "--at", "2023-11-14T22:13:25", "--depth", "2")

    assert text.startswith("binanceus BTC/USD  VALID  seq 1")
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["1", "99.5", "|", "101", "2"],
        ["4", "94.5", "|"],
    ]
    assert report("inspect", "--tape", tape, "--at", f"{S + 5}")["books"][0]["tick"] == 0.01
    assert report("inspect", "--tape", tape)["streams"][0]["blocks"] == 1
    assert len(report("inspect", "--tape", tape, "-n", "3")["rows"]["trade|binanceus|BTC/USD"]) == 3


def test_what_came_is_shown_message_by_message_in_the_order_of_receipt(tmp_path):
    s, market = 10**9, Market()
    record(
        tmp_path,
        instrument(),
        market.book(0, bids=[(price, 5) for price in range(96, 100)], asks=[(101, 7)]),
        market.trade(3 * s, 100, 2, Side.SELL),
        market.trade(2 * s, 101, 4, Side.BUY),
        market.delta(3 * s, bids=[(99, 0)]),
        SequenceGap(4 * s, "test", "BTC/USDT", 5, 8),
        ChecksumFailed(5 * s, "test", "BTC/USDT", 3, 9),
    )

    def shown(*words: str) -> list[str]:
        lines = run("show", "--tape", tmp_path, *words).splitlines()
        return [" ".join(line.split()[1:]) for line in lines]

    book, trade = "book|test|BTC/USDT", "trade|test|BTC/USDT"
    scale = TapeReader(tmp_path).scale(book)
    price, size = Grid(scale.tick_size).text, Grid(scale.lot_size).text
    whole = ", ".join(f"{size(5)} at {price(each)}" for each in (96, 97, 98))
    sold, bought = (f"{side} {size(n)} at {price(p)}, " for side, n, p in (("sell", 2, 100), ("buy", 4, 101)))
    lines = shown("-n", "30")
    assert lines[:2] == [
        f"00:00:00.000 {book} GAP",
        f"00:00:00.000 {book} whole book 1: {whole}, 1 more | {size(7)} at {price(101)}",
    ]
    assert lines[2].startswith(f"00:00:03.000 {book} change 4: 0 at {price(99)} | -")
    assert [line for line in lines if trade in line and "GAP" not in line] == [
        f"00:00:03.000 {trade} {sold}2",
        f"00:00:02.000 {trade} {bought}3 LATE",
    ]
    assert lines[-2:] == [
        f"00:00:04.000 {book} GAP: expected 5, was 8",
        f"00:00:05.000 {book} CHECKSUM: expected 3, was 9",
    ]
    waited = shown("--late-ms", "1000", "--stream", trade, "-n", "30")
    assert waited == [
        f"00:00:02.000 {trade} {bought}3",
        f"00:00:03.000 {trade} GAP",
        f"00:00:03.000 {trade} {sold}2",
    ]
    assert shown("--from", "1970-01-01T00:00:06") == ["came in that time"]
    events = report("show", "--tape", tmp_path, "--from", "1970-01-01T00:00:03", "--stream", book)["events"]
    assert [(each["type"], each.get("bids")) for each in events[:2]] == [
        ("BookDelta", [[99, 0]]),
        ("SequenceGap", None),
    ]


def test_quotes_funding_and_bars_are_shown_too(tmp_path):
    quote = Quote(1, 1, "test", "BTC/USDT", 7, 99, 1, 101, 2)
    funding = FundingUpdated(2, 2, "test", "BTC/USDT", 100, 99, 10**8, 2 * 10**8, 3, 28_800)
    orders = pack_orders([(1, 5, 99, 3), (-1, 4, 101, -2)])
    singles = BookOrders(3, 3, "test", "BTC/USDT", 8, orders)
    record(tmp_path, instrument(), quote, funding, singles, quotes=True)

    text = run("show", "--tape", tmp_path)

    assert "rate 0.010000%, predicted 0.020000%, mark" in text
    assert " at 0.99 | " in text
    assert "orders 8: bid 5 +0.00003 at 0.99, ask 4 -0.00002 at 1.01" in text
    events = report("show", "--tape", tmp_path, "--stream", "l3|test|BTC/USDT")["events"]
    assert events[-1]["orders"] == [[1, 5, 99, 3], [-1, 4, 101, -2]]


def test_a_book_whose_source_has_ended_is_a_gap_only_where_more_came(tmp_path):
    s, market = 10**9, Market()
    said = [market.book(0, bids=[(99, 1)], asks=[(101, 1)]), market.delta(5 * s, bids=[(98, 1)])]
    ended = BookStale(5 * s, "test", "BTC/USDT", 0)
    record(tmp_path / "a", *said, ended)
    record(tmp_path / "b", *said, ended, market.delta(9 * s, bids=[(97, 1)]))

    found = [report("coverage", "--tape", tmp_path / name)["streams"][0] for name in "ab"]

    assert [gaps_of(stream) for stream in found] == [[], [(5, 9, "its source had ended for 4.0 s")]]


def test_a_stream_of_one_instant_has_its_day(tmp_path):
    record(tmp_path, Market().trade(5, 100, 1, Side.BUY))

    [stream] = report("coverage", "--tape", tmp_path)["streams"]

    assert stream["days"]["1970-01-01"]["rows"] == 2


def test_tapes_are_compared_row_by_row(tape, tmp_path):
    write_capture(tmp_path / "other.txt", 19)
    run("import", tmp_path / "other.txt", "--tape", tmp_path / "other")

    assert report("diff", tape, tape) == {"equal": True, "differences": []}
    assert "rows and" in run("diff", tape, tmp_path / "other", code=1)


# --- Out, pruning, compacting -----------------------------------------------------------------------


def test_trades_go_out_as_bars(tape, tmp_path):
    run("export", "csv", "--tape", tape, "--out", tmp_path / "out", "--bars", "3600")

    lines = (tmp_path / "out" / "binanceus-BTC-USD-bar-3600.csv").read_text().splitlines()
    assert lines[1].split(",")[1:7] == ["100", "100", "100", "100", "10", "20"]


def test_a_range_goes_out_of_one_stream(tape, tmp_path):
    words = ["--stream", "trade|binanceus|BTC/USD", "--from", f"{S + 5}", "--to", f"{S + 8}"]

    found = report("export", "csv", "--tape", tape, "--out", tmp_path / "out", *words)

    assert list(found["files"].values()) == [3]


def test_what_would_be_nothing_is_wrong_usage(tape, tmp_path):
    to_csv = ["export", "csv", "--tape", tape, "--out", tmp_path]

    with pytest.raises(ConfigError, match="expected the first to be before the second"):
        run(*to_csv, "--from", "2024", "--to", "2023")
    with pytest.raises(ConfigError, match=r"expected trades to make bars of on .*, was none"):
        run(*to_csv, "--bars", "60", "--stream", "book|binanceus|BTC/USD")


def test_an_unknown_form_or_stream_is_wrong_usage(tape, tmp_path):
    with pytest.raises(ConfigError, match="export xls: expected one of parquet, csv, arrow"):
        run("export", "xls", "--tape", tape, "--out", tmp_path)
    with pytest.raises(ConfigError, match=r"--stream trade: .* has book\|binanceus"):
        run("export", "csv", "--tape", tape, "--out", tmp_path, "--stream", "trade")


def test_old_blocks_are_pruned_and_the_room_is_given_back(tmp_path):
    day = 86_400 * 10**9
    said = [Market().trade(n * day // 100, n + 1, n + 1, Side.BUY) for n in range(1000)]
    record(tmp_path, instrument(), *said, block_rows=50)

    pruned = report("prune", "--tape", tmp_path, "--keep-days", "2")
    sizes = report("compact", "--tape", tmp_path)

    assert pruned["rows"] > 700
    assert sizes["after_bytes"] < sizes["before_bytes"]
    assert report("verify", "--tape", tmp_path)["ok"]
    with pytest.raises(ConfigError, match="say what to keep"):
        run("prune", "--tape", tmp_path)


# --- Times, and the command line as a whole ---------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["2023-11-14T22:13:20", "2023-11-14 22:13:20", "2023-11-14T22:13:20Z", f"{S}", f"{S}000", f"{NS}"]
)
def test_times_may_be_written_in_many_ways(text):
    assert parse_time(text, "--at") == NS


def test_a_number_is_taken_by_its_size():
    assert [epoch_ns(S * 10**power) for power in (0, 3, 6, 9)] == [NS] * 4


def test_what_is_no_time_is_refused():
    with pytest.raises(ConfigError, match="--at noon: expected a time in UTC"):
        parse_time("noon", "--at")


def test_the_command_line_ends_as_it_should(tmp_path):
    def end(*words: str | Path) -> tuple[int, str]:
        told = subprocess.run([*CLI, *map(str, words)], capture_output=True, text=True, cwd=tmp_path)
        assert "Traceback" not in told.stderr
        return told.returncode, told.stdout

    good = seal_book(tmp_path / "good", 1, 2)
    bad = seal_book(tmp_path / "bad", 2, 1)

    assert end("verify", "--tape", good)[0] == 0
    assert end("verify", "--tape", bad)[0] == 1
    code, said = end("verify", "--tape", tmp_path / "none", "--json")
    assert (code, json.loads(said)["type"]) == (2, "ConfigError")
    assert end("nonsense")[0] == 2
