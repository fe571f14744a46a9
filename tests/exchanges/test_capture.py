"""Replaying recorded files: small ones written here, and the real ones where they are at hand."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.exchanges import capture
from tickerml.exchanges.capture import Capture
from tickerml.exchanges.times import seconds_to_ns
from tickerml.kernel import (
    BookDelta,
    BookSnapshot,
    CaptureError,
    ConfigError,
    FeedConnected,
    FeedEnded,
    FeedSummarized,
    Instrument,
    Message,
    Quote,
    SequenceGap,
    Trade,
)
from tickerml.kernel.testing import Harness

S = 1_700_000_000  # seconds
NS = S * 10**9

URL = "https://api.binance.us/api/v3"


def open_capture(*files: Path, exchange: str = "") -> Capture:
    options = {"exchange-capture": {"files": [str(file) for file in files], "exchange": exchange}}
    component = Harness(capture, options=options).bus.component("exchange-capture")
    assert isinstance(component, Capture)
    return component


def replay(*files: Path, exchange: str = "") -> list[tuple[int, list[Message]]]:
    return [(ts, list(messages)) for ts, messages in open_capture(*files, exchange=exchange).events()]


def messages_of(events: list[tuple[int, list[Message]]], *types: type[Message]) -> list[Any]:
    return [message for _, messages in events for message in messages if isinstance(message, types)]


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    text = "\n".join(lines) + end
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def depth(first: int, last: int, bids: Any = (), symbol: str = "BTCUSDT") -> str:
    data = {"e": "depthUpdate", "E": S * 1000, "s": symbol, "U": first, "u": last, "b": list(bids), "a": []}
    return framed(f"{symbol.lower()}@depth@100ms", data)


def trade(number: int, symbol: str = "BTCUSDT") -> str:
    data = {"e": "trade", "E": 1, "s": symbol, "t": number, "p": "100.0", "q": "1.0", "T": 1, "m": False}
    return framed(f"{symbol.lower()}@trade", data)


def ticker(update_id: int, symbol: str = "BTCUSDT") -> str:
    data = {"u": update_id, "s": symbol, "b": "99.0", "B": "1.0", "a": "101.0", "A": "1.0"}
    return framed(f"{symbol.lower()}@bookTicker", data)


def framed(stream: str, data: Any) -> str:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":"))


def snapshot(last_update_id: int) -> str:
    book = {"lastUpdateId": last_update_id, "bids": [["99.0", "1.0"]], "asks": [["101.0", "1.0"]]}
    return json.dumps(book, separators=(",", ":"))


def hft(offset_ns: int, text: str) -> str:
    return f"{NS + offset_ns} {text}"


def types_of(events: list[tuple[int, list[Message]]]) -> list[list[str]]:
    return [[type(message).__name__ for message in messages] for _, messages in events]


# --- Lines to messages ------------------------------------------------------------------------------


def test_every_line_is_yielded_and_the_end_is_said(tmp_path: Path) -> None:
    file = write(
        tmp_path / "btc.gz",
        hft(0, depth(1, 2)),
        hft(1, snapshot(4)),
        hft(2, depth(3, 6, [["99.5", "2.0"]])),
        hft(3, "not json"),
        hft(4, trade(1)),
    )

    events = replay(file)

    assert [ts - NS for ts, _ in events] == [0, 1, 2, 3, 4, 4]
    assert types_of(events) == [
        ["FeedConnected"],
        ["Instrument", "BookSnapshot"],
        ["BookDelta"],
        [],
        ["Trade"],
        ["FeedSummarized", "FeedEnded"],
    ]


def test_the_summary_and_the_end_count_what_was_skipped_and_why(tmp_path: Path) -> None:
    candle = framed("btcusdt@kline_1m", {})
    file = write(tmp_path / "btc.gz", hft(0, trade(1)), hft(1, "{}"), hft(2, candle), "junk", "")

    events = replay(file)

    (summary,), (ended,) = messages_of(events, FeedSummarized), messages_of(events, FeedEnded)
    assert (summary.exchange, summary.messages, summary.skipped) == ("binance", 4, 3)
    assert summary.reasons == {
        "malformed frame": 1,
        "candles are made from trades": 1,
        "not a capture line": 1,
    }
    assert (ended.source, ended.messages, ended.skipped) == ("exchange-capture", 4, 3)
    assert len(events) == 6


def test_a_long_capture_is_summarized_every_ten_thousand_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "btc.gz", *(hft(number, ticker(number)) for number in range(20_001)))

    events = replay(file)

    assert [summary.messages for summary in messages_of(events, FeedSummarized)] == [10_000, 20_000, 20_001]
    assert types_of(events)[9_999] == ["Quote", "FeedSummarized"]


def test_a_summary_is_not_repeated_after_the_end(tmp_path: Path) -> None:
    source = open_capture(write(tmp_path / "btc.gz", hft(0, trade(1)), hft(1, trade(2))))
    events = source.events()
    next(events)

    between = source.summarize()
    list(events)

    assert [type(message) for message in between] == [FeedSummarized]
    assert source.summarize() == ()


def test_a_snapshot_before_any_frame_belongs_to_the_file_s_symbol(tmp_path: Path) -> None:
    file = write(tmp_path / "eth.gz", hft(0, snapshot(4)), hft(1, depth(5, 5, symbol="ETHUSDT")))

    events = replay(file)

    assert messages_of(events, FeedConnected)[0].symbols == ["ETH/USDT"]
    assert [book.symbol for book in messages_of(events, BookSnapshot)] == ["ETH/USDT"]
    assert len(messages_of(events, BookDelta)) == 1


def test_a_snapshot_that_could_be_of_two_symbols_is_skipped(tmp_path: Path) -> None:
    file = write(tmp_path / "two.gz", hft(0, trade(1)), hft(1, trade(1, "ETHUSDT")), hft(2, snapshot(4)))

    assert messages_of(replay(file), FeedSummarized)[0].reasons == {"unknown symbol": 1}


def test_books_are_carried_over_into_the_file_that_goes_on(tmp_path: Path) -> None:
    monday = write(tmp_path / "monday.gz", hft(0, snapshot(4)), hft(1, depth(5, 5)))
    tuesday = write(tmp_path / "tuesday.gz", hft(2, depth(6, 6)), hft(3, depth(8, 8)))

    events = replay(monday, tuesday)

    assert [delta.seq for delta in messages_of(events, BookDelta)] == [5, 6]
    assert [(gap.expected, gap.was) for gap in messages_of(events, SequenceGap)] == [(7, 8)]
    assert len(messages_of(events, Instrument)) == 1


def test_files_are_merged_by_time_and_at_equal_times_in_their_order(tmp_path: Path) -> None:
    one = write(tmp_path / "one.gz", hft(0, trade(1)), hft(5, trade(2)), hft(9, trade(3)))
    two = write(tmp_path / "two.gz", hft(3, trade(11, "ETHUSDT")), hft(5, trade(12, "ETHUSDT")))

    assert [print.seq for print in messages_of(replay(one, two), Trade)] == [1, 11, 2, 12, 3]
    assert [print.seq for print in messages_of(replay(two, one), Trade)] == [1, 11, 12, 2, 3]


def test_time_never_goes_back(tmp_path: Path) -> None:
    file = write(tmp_path / "btc.gz", hft(5, trade(1)), hft(2, trade(2)), hft(7, trade(3)))

    events = replay(file)

    assert [print.ts_recv - NS for print in messages_of(events, Trade)] == [5, 5, 7]
    assert [ts - NS for ts, _ in events] == [5, 5, 7, 7]


def test_the_exchange_can_be_named(tmp_path: Path) -> None:
    file = write(tmp_path / "btc.gz", hft(0, trade(1)))

    assert messages_of(replay(file, exchange="binanceus"), Trade)[0].exchange == "binanceus"


@given(st.integers(0, 10**10 - 1), st.integers(0, 10**9 - 1))
def test_decimal_seconds_are_ns_to_the_last_digit(seconds: int, fraction: int) -> None:
    text = f"{seconds}.{fraction:09d}".rstrip("0").rstrip(".")

    assert seconds_to_ns(text) == seconds * 10**9 + fraction


def test_a_cryptofeed_capture_has_replies_inline_and_marks_that_are_no_messages(tmp_path: Path) -> None:
    file = write(
        tmp_path / "us.txt",
        'configuration: {"l2_book":["BTC-USD"]}',
        "wss://stream.binance.us:9443/stream?streams=btcusd@depth@100ms/ethusd@trade",
        f"{S}.25: {depth(5, 5, symbol='BTCUSD')}",
        f"{URL}/depth?symbol=BTCUSD&limit=1000 -> {S}.5: {snapshot(4)}",
        f"wss://stream.binance.us:9443 <- {S}.6: {{}}",
        f"{URL}/ping -> {S}.7: {{}}",
        f"{S}.75: {trade(3, 'ETHUSD')}",
    )
    source = open_capture(file)

    events = [(ts, list(messages)) for ts, messages in source.events()]

    assert [ts - NS for ts, _ in events] == [250_000_000] * 3 + [
        500_000_000,
        500_000_000,
        700_000_000,
        750_000_000,
        750_000_000,
    ]
    connected = FeedConnected(NS + 250_000_000, "binanceus", ["BTC/USD", "ETH/USD"])
    assert messages_of(events, FeedConnected) == [connected]
    assert len(messages_of(events, BookSnapshot)) == len(messages_of(events, BookDelta)) == 1
    summary = messages_of(events, FeedSummarized)[0]
    assert (summary.messages, summary.skipped, summary.reasons) == (4, 1, {"unsupported request": 1})
    assert source.marks == 3


def test_replies_may_lie_in_files_of_their_own(tmp_path: Path) -> None:
    listing = {"symbol": "BTCUSD", "baseAsset": "BTC", "quoteAsset": "USD"}
    tick = {"filterType": "PRICE_FILTER", "tickSize": "0.5"}
    rules = [tick, {"filterType": "LOT_SIZE", "stepSize": "0.001"}]
    info = json.dumps({"symbols": [listing | {"filters": rules}]})
    late = f"{S}.4: {ticker(6, 'BTCUSD')}"
    frames = write(tmp_path / "ws.txt", f"{S}.2: {depth(5, 5, symbol='BTCUSD')}", late)
    replies = write(tmp_path / "http.txt", f"{URL}/depth?symbol=BTCUSD -> {S}.3: {snapshot(4)}")
    instruments = write(tmp_path / "info.txt", f"{URL}/exchangeInfo -> {S}.1: {info}", end="")

    events = replay(frames, replies, instruments)

    assert types_of(events)[:3] == [["FeedConnected"], [], ["Instrument", "BookSnapshot", "BookDelta"]]
    assert messages_of(events, Instrument)[0].tick_size == 5 * 10**11
    assert messages_of(events, Quote)[0].bid == 198


# --- Whose it is ------------------------------------------------------------------------------------

FRAMES = [
    (
        '{"stream":"btcusdt@depth","data":{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":1,"u":2,"pu":0}}',
        "binanceusdm",
    ),
    (
        '{"type":"l2update","product_id":"BTC-USD","changes":[],"time":"2021-04-17T16:43:37.1Z"}',
        "coinbaseexchange",
    ),
    ('{"channel":"l2_data","client_id":"","timestamp":"2026-01-01T00:00:00Z","sequence_num":0}', "coinbase"),
    ('{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[],"asks":[]}]}', "kraken"),
    ('{"connectionID":1,"event":"systemStatus","status":"online","version":"1.8.3"}', "kraken"),
    ('[560,{"a":[["1.0","1.0","1.0"]],"c":"1"},"book-10","XBT/USD"]', "kraken"),
    ('{"feed":"book","product_id":"PI_XBTUSD","side":"sell","seq":1,"price":1.0,"qty":1.0}', "krakenfutures"),
    ('{"type":"message","topic":"/market/level2:BTC-USDT","subject":"trade.l2update","data":{}}', "kucoin"),
    ('{"type":"message","topic":"/contractMarket/level2:XBTUSDTM","subject":"level2"}', "kucoinfutures"),
    ('{"Channel":"orderbook-eth","Nonce":1,"Data":{},"Time":1,"Event":"NewOrder"}', "independentreserve"),
]


@pytest.mark.parametrize(("text", "exchange"), FRAMES)
def test_frames_tell_whose_they_are(tmp_path: Path, text: str, exchange: str) -> None:
    file = write(tmp_path / "frames.txt", f"{S}.1: {text}")

    assert messages_of(replay(file), FeedConnected)[0].exchange == exchange


@pytest.mark.parametrize(
    ("url", "exchange"),
    [
        ("wss://stream.binance.com:9443/stream", "binance"),
        ("wss://fstream.binance.com/stream", "binanceusdm"),
        ("wss://stream.binance.us:9443/stream", "binanceus"),
    ],
)
def test_whom_the_capture_was_connected_to_goes_before_the_shape_of_its_frames(
    tmp_path: Path, url: str, exchange: str
) -> None:
    file = write(tmp_path / "ws.txt", f"{url} <-> {S}.0", f"{S}.1: {ticker(1)}")

    assert messages_of(replay(file), Quote)[0].exchange == exchange


def test_frames_of_nobody_we_know_are_an_error_that_says_whom_we_know(tmp_path: Path) -> None:
    file = write(tmp_path / "other.txt", f'{S}.1: {{"arg":{{"channel":"books"}},"data":[]}}')

    with pytest.raises(CaptureError, match=r"expected frames of binanceusdm, .*kucoin"):
        open_capture(file)


def test_a_connection_made_again_was_lost_and_its_books_wait_for_their_snapshots(tmp_path: Path) -> None:
    made = f"wss://stream.binance.us:9443/stream <-> {S}"
    file = write(
        tmp_path / "ws.txt",
        made,
        f"{URL}/depth?symbol=BTCUSD -> {S}.1: {snapshot(4)}",
        f"{S}.2: {depth(5, 5, symbol='BTCUSD')}",
        made,
        f"{S}.3: {depth(6, 6, symbol='BTCUSD')}",
        f"{URL}/depth?symbol=BTCUSD -> {S}.4: {snapshot(6)}",
    )

    kinds = [kind for kinds in types_of(replay(file)) for kind in kinds]

    assert kinds == [
        "FeedConnected",
        "Instrument",
        "BookSnapshot",
        "BookDelta",
        "FeedLost",
        "FeedConnected",
        "BookSnapshot",
        "BookResynced",
        "FeedSummarized",
        "FeedEnded",
    ]


# --- Files that are not what they should be ---------------------------------------------------------


def coinbase(number: int, wire: str, kind: str, *changes: tuple[str, str, str]) -> str:
    levels = [
        {"side": side, "event_time": "2023-11-14T22:13:20Z", "price_level": price, "new_quantity": quantity}
        for side, price, quantity in changes
    ]
    event = {"type": kind, "product_id": wire, "updates": levels}
    return json.dumps(
        {
            "channel": "l2_data",
            "client_id": "",
            "timestamp": "2023-11-14T22:13:20Z",
            "sequence_num": number,
            "events": [event],
        },
        separators=(",", ":"),
    )


WHOLE = ("bid", "99.5", "1"), ("offer", "101", "1")


def test_connections_of_one_time_are_numbered_each_for_itself_and_counted_together(tmp_path: Path) -> None:
    btc = write(
        tmp_path / "btc.txt",
        f"{S}.1: {coinbase(0, 'BTC-USD', 'snapshot', *WHOLE)}",
        f"{S}.3: {coinbase(1, 'BTC-USD', 'update', ('bid', '99.5', '2'))}",
    )
    eth = write(
        tmp_path / "eth.txt",
        f"{S}.2: {coinbase(0, 'ETH-USD', 'snapshot', *WHOLE)}",
        f"{S}.4: {coinbase(1, 'ETH-USD', 'update', ('bid', '99.5', '2'))}",
    )

    events = replay(btc, eth)

    [summary] = messages_of(events, FeedSummarized)
    assert (summary.messages, summary.gaps, summary.books, summary.valid_books) == (4, 0, 2, 2)
    assert {symbol: count.parsed for symbol, count in summary.streams.items() if symbol} == {
        "BTC/USD": 2,
        "ETH/USD": 2,
    }


def test_a_connection_is_carried_over_into_the_file_that_goes_on(tmp_path: Path) -> None:
    first = write(tmp_path / "1.txt", f"{S}.1: {coinbase(0, 'BTC-USD', 'snapshot', *WHOLE)}")
    second = write(
        tmp_path / "2.txt",
        f"{S}.2: {coinbase(1, 'BTC-USD', 'update', ('bid', '99.5', '2'))}",
        f"{S}.3: {coinbase(3, 'BTC-USD', 'update', ('bid', '99.5', '3'))}",
    )

    [summary] = messages_of(replay(first, second), FeedSummarized)

    assert (summary.messages, summary.gaps, summary.valid_books) == (3, 1, 0)


def test_no_files_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="exchange-capture files: expected at least one capture"):
        open_capture()


@pytest.mark.parametrize("name", ["missing.gz", "."])
def test_a_file_that_cannot_be_read_is_reported_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(CaptureError, match=r"cannot read .*; check the path"):
        open_capture(tmp_path / name)


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"time,price\n1,2\n", b"1700000000: then", b"\0\xff\0", b"\x1f\x8b\x08\0"]
)
def test_a_file_that_is_no_capture_is_reported_at_once(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)

    with pytest.raises(CaptureError, match="expected an hftbacktest or cryptofeed capture, was"):
        open_capture(tmp_path / "other")


def replay_until_damage(file: Path) -> tuple[list[Any], str]:
    trades: list[Any] = []
    source = open_capture(file)
    with pytest.raises(CaptureError) as error:  # noqa: PT012 - what comes before it is the point
        for _, messages in source.events():
            trades += [message for message in messages if isinstance(message, Trade)]
    return trades, str(error.value)


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_damaged_gzip_file_is_an_error_after_all_that_is_before_the_damage(
    tmp_path: Path, damage: str
) -> None:
    # Numbers that do not compress well, so that the damage is in the middle.
    numbers = [number * 7919 % 100_003 for number in range(20_000)]
    file = write(tmp_path / "btc.gz", *(hft(time, trade(number)) for time, number in enumerate(numbers)))
    content = file.read_bytes()
    half = len(content) // 2
    file.write_bytes(content[:half] + (b"" if damage == "cut off" else b"\xff" * half))

    trades, error = replay_until_damage(file)

    assert len(trades) > 5_000
    assert [trade.seq for trade in trades] == numbers[: len(trades)]
    assert f"cannot read {file} to its end" in error
    assert f"after line {len(trades)} " in error
    assert "fetch it again" in error


def test_a_last_line_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "btc.txt", f"{S}.1: {trade(1)}", f"{S}.2: {trade(2)[:40]}", end="")

    trades, error = replay_until_damage(file)

    assert [trade.seq for trade in trades] == [1]
    assert "after line 1 " in error


def test_a_last_line_that_only_lacks_its_newline_is_whole(tmp_path: Path) -> None:
    file = write(tmp_path / "btc.txt", f"{S}.1: {trade(1)}", f"{S}.2: {trade(2)}", end="")

    assert len(messages_of(replay(file), Trade)) == 2


# --- Restarts ---------------------------------------------------------------------------------------


def script(tmp_path: Path) -> list[Path]:
    one = write(
        tmp_path / "one.gz",
        hft(0, depth(1, 2)),
        hft(1, snapshot(2)),
        hft(3, depth(3, 3)),
        hft(4, "garbage"),
        hft(6, depth(5, 5)),
        hft(7, snapshot(5)),
        hft(8, depth(6, 6, [["99.0", "0.0"]])),
    )
    two = write(tmp_path / "two.gz", hft(2, ticker(1, "ETHUSDT")), hft(5, trade(1, "ETHUSDT")))
    return [one, two]


def test_a_replay_cut_anywhere_goes_on_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    files = script(tmp_path_factory.mktemp("capture"))
    undisturbed = replay(*files)

    for cut in range(len(undisturbed) + 1):
        first = open_capture(*files)
        events = first.events()
        before = [(ts, list(messages)) for ts, messages in (next(events) for _ in range(cut))]
        second = open_capture(*files)
        second.restore(first.snapshot())
        after = [(ts, list(messages)) for ts, messages in second.events()]

        assert before + after == undisturbed


def test_a_replay_can_be_had_again(tmp_path: Path) -> None:
    files = script(tmp_path)

    assert replay(*files) == replay(*files)


# --- The real ones ----------------------------------------------------------------------------------

CAPTURES = Path(
    os.environ.get("TICKERML_CAPTURES", Path(__file__).parents[2].parent / "shared" / "data")
).joinpath("raw_ws")


def recorded(*names: str) -> list[Path]:
    files = [CAPTURES / name for name in names]
    if missing := [str(file) for file in files if not file.exists()]:
        pytest.skip(f"needs recorded captures, absent here: {missing}; set TICKERML_CAPTURES")
    return files


BINANCE_SPOT = {
    "binance/spot_btcusdt_20240808.gz": 41_249,
    "binance/spot_btcusdt_20240809.gz": 58_325,
    "binance/spot_ethusdt_20240808.gz": 33_618,
}


def watch(source: Capture) -> tuple[dict[str, int], Any, FeedEnded]:
    """Replay *source*; return how many of each message there were, the last summary and the end."""
    counts: dict[str, int] = {}
    last: tuple[Message, ...] = ()
    ts_before = 0
    for ts, messages in source.events():
        assert ts >= ts_before
        ts_before = ts
        for message in messages:
            assert message.ts_recv <= ts
            counts[type(message).__name__] = counts.get(type(message).__name__, 0) + 1
        last = tuple(messages)
    summary, ended = last[-2:]
    assert isinstance(ended, FeedEnded)
    return counts, summary, ended


@pytest.mark.captures
def test_the_binance_spot_captures_replay_whole_and_carry_the_book_over_the_day() -> None:
    files = recorded(*BINANCE_SPOT)

    counts, summary, ended = watch(open_capture(*files))

    total = sum(BINANCE_SPOT.values())
    assert (summary.messages, summary.skipped, summary.gaps, summary.crossed_books) == (total, 0, 0, 0)
    assert (ended.messages, ended.skipped) == (total, 0)
    assert counts["BookSnapshot"] == 2
    assert counts["BookDelta"] == 3451 + 3044 + 3434 - 4  # four are older than their snapshot
    assert counts["Quote"] == 28_040 + 45_134 + 24_077
    assert counts["Trade"] == 9_757 + 10_147 + 6_106


@pytest.mark.captures
@pytest.mark.parametrize(("name", "lines"), BINANCE_SPOT.items())
def test_each_binance_spot_capture_is_read_to_its_last_line(name: str, lines: int) -> None:
    _, summary, _ = watch(open_capture(*recorded(name)))

    assert (summary.messages, summary.skipped, summary.gaps, summary.crossed_books) == (lines, 0, 0, 0)


@pytest.mark.captures
def test_a_capture_that_starts_in_mid_stream_alone_has_no_book() -> None:
    counts, summary, _ = watch(open_capture(*recorded("binance/spot_btcusdt_20240809.gz")))

    assert (summary.books, summary.valid_books) == (1, 0)
    assert "BookDelta" not in counts
    assert counts["Quote"] == 45_134


@pytest.mark.captures
def test_all_ten_books_of_the_first_binanceus_capture_sync() -> None:
    counts, summary, _ = watch(open_capture(*recorded("binanceus/20210405_btcusd_ethbtc_8more.txt")))

    assert (counts["BookSnapshot"], counts["Instrument"]) == (10, 10)
    assert (summary.messages, summary.skipped, summary.gaps, summary.crossed_books) == (6_018, 0, 0, 0)
    assert (summary.books, summary.valid_books) == (10, 10)
    assert (counts["Quote"], counts["Trade"]) == (2_624, 188)


@pytest.mark.captures
def test_all_four_books_of_the_second_binanceus_capture_sync_with_the_listed_instruments() -> None:
    names = ("20211012_4syms.ws.txt", "20211012_4syms.snapshots.txt", "20211012_exchangeInfo.txt")
    source = open_capture(*recorded(*(f"binanceus/{name}" for name in names)))

    events = [(ts, list(messages)) for ts, messages in source.events()]

    summary = messages_of(events, FeedSummarized)[-1]
    assert (summary.messages, summary.gaps, summary.crossed_books) == (485, 0, 0)
    assert (summary.books, summary.valid_books) == (4, 4)
    assert summary.reasons == {"candles are made from trades": 5}
    instruments = {found.symbol: found for found in messages_of(events, Instrument)}
    assert sorted(instruments) == ["COMP/USDT", "CRV/USDT", "OMG/BUSD", "ZRX/USDT"]
    assert instruments["CRV/USDT"].tick_size == 10**9
    assert {book.symbol for book in messages_of(events, BookSnapshot)} == set(instruments)


#: files; exchange; frames and replies, those skipped, valid checksums, books, valid ones, snapshots, deltas.
#: What each holds is written down, with the checks it passed, beside the captures.
OTHERS = [
    (["binance/usdm_btcusdt_20240808.gz"], "binanceusdm", (93_954, 0, 0, 1, 1, 1, 6_547)),
    (
        ["binanceusdm/20210722_4syms.ws.txt", "binanceusdm/20210722_4syms.snapshots.txt"],
        "binanceusdm",
        (1_539, 67, 0, 4, 4, 4, 749),
    ),
    (
        ["coinbaseexchange/20210417_5syms.txt", "coinbaseexchange/20210417_products.txt"],
        "coinbaseexchange",
        (6_448, 0, 0, 5, 5, 5, 6_293),
    ),
    (["kraken/20210405_book1000_xbtusd_10syms.txt"], "kraken", (14_636, 0, 14_496, 10, 10, 10, 14_496)),
    (
        ["krakenfutures/20210722_10syms.txt", "krakenfutures/20210722_instruments.txt"],
        "krakenfutures",
        (7_176, 0, 0, 10, 10, 10, 7_014),
    ),
    (
        [
            "kucoin/20210425_5syms.ws.txt",
            "kucoin/20210425_5syms.snapshots.txt",
            "kucoin/20210425_symbols.txt",
        ],
        "kucoin",
        (3_487, 6, 0, 5, 5, 5, 2_874),
    ),
]


@pytest.mark.captures
@pytest.mark.parametrize(("names", "exchange", "figures"), OTHERS, ids=[each[0][0] for each in OTHERS])
def test_a_capture_is_known_by_its_content_and_its_books_hold_to_the_last_line(
    names: list[str], exchange: str, figures: tuple[int, ...]
) -> None:
    counts, summary, _ = watch(open_capture(*recorded(*names)))

    assert (summary.exchange, summary.gaps, summary.crossed_books, summary.checksums_bad) == (
        exchange,
        0,
        0,
        0,
    )
    told = (summary.messages, summary.skipped, summary.checksums_ok, summary.books, summary.valid_books)
    assert (*told, counts["BookSnapshot"], counts["BookDelta"]) == figures
    assert set(summary.reasons) <= {"candles are made from trades"}
    assert sum(stream.parsed for stream in summary.streams.values()) == summary.messages - summary.skipped


@pytest.mark.captures
def test_a_clock_behind_the_exchange_s_is_estimated_and_harms_nothing() -> None:
    _, summary, _ = watch(open_capture(*recorded("binanceus/20210405_btcusd_ethbtc_8more.txt")))

    assert -110_000_000 < summary.clock_offset_ns < -90_000_000
