"""The tape: every int64 survives, damage is found and named, and readers do not wait for writers."""

import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import StoreCorrupt, StoreError, StoreFull
from tickerml.plugins.tape import (
    ROW,
    Kind,
    TapeReader,
    TapeWriter,
    expand,
    messages,
    pack_rows,
    stream_name,
    unpack_rows,
)

from .made_rows import BOOK, INT64, any_rows, rows


@given(any_rows())
@settings(max_examples=200)
def test_rows_come_back_as_they_were(written):
    assert unpack_rows(pack_rows(written), len(written)).tobytes() == written.tobytes()


def test_no_rows_come_back_as_none():
    assert len(unpack_rows(pack_rows(np.empty(0, ROW)), 0)) == 0


@given(blocks=st.lists(any_rows(), min_size=1, max_size=3), limits=st.tuples(INT64, INT64))
@settings(max_examples=25)
def test_a_file_gives_back_the_rows_of_a_range_of_time(tmp_path_factory, blocks, limits):
    path = tmp_path_factory.mktemp("tape") / "tape.mdb"
    written = np.sort(np.concatenate(blocks), order="ts_recv", kind="stable")
    written["kind"] = Kind.TRADE
    for number, part in enumerate(np.array_split(written, len(blocks))):
        TapeWriter(path, map_mb=16).seal(BOOK, number, part)

    reader = TapeReader(path)
    start, end = min(limits), max(limits)
    chosen = written[(written["ts_recv"] >= start) & (written["ts_recv"] < end)]

    assert reader.read(BOOK, start, end).tobytes() == chosen.tobytes()
    assert reader.verify() == []


def test_a_range_begins_and_ends_within_blocks(tmp_path):
    writer = TapeWriter(tmp_path / "tape.mdb", map_mb=16)
    written = rows(300)
    for number in range(10):
        writer.seal(BOOK, number, written[number * 30 : number * 30 + 30])
    reader = TapeReader(tmp_path / "tape.mdb")

    start, end = int(written["ts_recv"][45]), int(written["ts_recv"][240])

    assert reader.read(BOOK, start, end).tobytes() == written[45:240].tobytes()
    assert reader.read(BOOK).tobytes() == written.tobytes()
    assert len(reader.read(BOOK, end_ns=0)) == 0


def test_streams_are_kept_apart_although_one_name_begins_with_another(tmp_path):
    writer = TapeWriter(tmp_path / "tape.mdb", map_mb=16)
    names = [stream_name("trade", "test", symbol) for symbol in ("BTC/USD", "BTC/USDT", "ETH/USD")]
    for seed, name in enumerate(names):
        writer.seal(name, 0, rows(30, seed=seed))
    reader = TapeReader(tmp_path / "tape.mdb")

    assert reader.streams() == names
    assert all(
        reader.read(name).tobytes() == rows(30, seed=seed).tobytes() for seed, name in enumerate(names)
    )
    assert len(reader.read("trade|test|LTC/USD")) == 0


def test_says_what_its_blocks_hold(tmp_path):
    writer = TapeWriter(tmp_path / "tape.mdb", map_mb=16)
    stored = writer.seal(BOOK, 0, rows(30, start=1000))

    [block] = TapeReader(tmp_path / "tape.mdb").blocks(BOOK)

    assert (block.stream, block.number, block.rows, block.stored_bytes) == (BOOK, 0, 30, stored)
    assert (block.first_ts, block.last_ts) == (1007, 9_001_007)


def test_keyframes_are_read_only_when_asked_for(tmp_path):
    written = rows(30)
    written["kind"][3:6] = Kind.KEYFRAME
    TapeWriter(tmp_path / "tape.mdb", map_mb=16).seal(BOOK, 0, written)
    reader = TapeReader(tmp_path / "tape.mdb")

    assert len(reader.read(BOOK)) == 27
    assert reader.read(BOOK, has_keyframes=True).tobytes() == written.tobytes()


def test_messages_without_levels_are_rows_of_neither_side():
    heads = np.array([[5, 4, 3, Kind.DELTA, 0, 0, 1], [6, 5, 4, Kind.DELTA, 1, 1, 0]], np.int64)
    levels = np.array([[0, 0], [99, 1], [101, 2]], np.int64)

    expanded = expand(heads.tobytes(), levels.tobytes())
    empty, full = messages(BOOK, expanded)

    assert expanded["side"].tolist() == [0, 1, -1]
    assert expanded["is_last"].tolist() == [True, False, True]
    assert (empty.bids, empty.asks, empty.seq) == (b"", b"", 3)
    assert (full.bids, full.asks) == (levels[1].tobytes(), levels[2].tobytes())


def test_a_row_of_no_known_kind_is_refused():
    strange = rows(3)
    strange["kind"] = 77

    with pytest.raises(StoreCorrupt, match="was 77 at 7 of test BTC/USDT"):
        list(messages(BOOK, strange))


# --- Sealed blocks --------------------------------------------------------------------------------


def test_sealing_the_same_block_again_changes_nothing(tmp_path):
    path = tmp_path / "tape.mdb"
    for start in (0, 10**9):
        TapeWriter(path, map_mb=16).seal(BOOK, start // 10**9, rows(30, start))
    before = [bytes(block.digest) for block in TapeReader(path).blocks(BOOK)]

    TapeWriter(path, map_mb=16).seal(BOOK, 0, rows(30))
    TapeWriter(path, map_mb=16).seal(BOOK, 1, rows(30, 10**9))

    assert [block.digest for block in TapeReader(path).blocks(BOOK)] == before
    assert TapeReader(path).verify() == []


def test_another_block_in_the_same_place_is_refused(tmp_path):
    writer = TapeWriter(tmp_path / "tape.mdb", map_mb=16)
    writer.seal(BOOK, 0, rows(30))

    with pytest.raises(StoreCorrupt, match=r"block 0 of book\|test\|BTC/USDT at 7 holds 30 other rows"):
        writer.seal(BOOK, 0, rows(30, seed=1))
    assert TapeReader(tmp_path / "tape.mdb").read(BOOK).tobytes() == rows(30).tobytes()


def test_blocks_of_equal_time_do_not_collide(tmp_path):
    writer = TapeWriter(tmp_path / "tape.mdb", map_mb=16)
    writer.seal(BOOK, 0, rows(3, seed=1))
    writer.seal(BOOK, 1, rows(3, seed=2))

    both = np.concatenate([rows(3, seed=1), rows(3, seed=2)])
    assert TapeReader(tmp_path / "tape.mdb").read(BOOK, 7).tobytes() == both.tobytes()


def test_a_full_map_is_store_full_and_what_was_sealed_stays(tmp_path):
    writer = TapeWriter(tmp_path / "tape.mdb", map_mb=1)

    def fill() -> None:
        for number in range(10_000):
            writer.seal(BOOK, number, rows(8192, start=number * 10**10, seed=number))

    with pytest.raises(StoreFull, match=r"no room for another block in 1 MB.*raise map_mb"):
        fill()
    reader = TapeReader(tmp_path / "tape.mdb")
    assert len(reader.blocks(BOOK)) > 5
    assert reader.verify() == []


# --- Damage ---------------------------------------------------------------------------------------


def tamper(path: Path, key_index: int, change: bytes | None, at: int = -1) -> None:
    """Overwrite a byte of the value of a block, or delete the block."""
    with (
        lmdb.open(str(path), subdir=False, map_size=2**24) as environment,
        environment.begin(write=True) as txn,
    ):
        key, value = list(txn.cursor())[key_index]
        if change is None:
            txn.delete(key)
        else:
            value = bytearray(value)
            value[at : at + 1 or None] = change
            txn.put(key, bytes(value))


@pytest.fixture
def tape(tmp_path):
    writer = TapeWriter(tmp_path / "tape.mdb", map_mb=16)
    for number in range(3):
        writer.seal(BOOK, number, rows(30, start=number * 10**9))
    return tmp_path / "tape.mdb"


@pytest.mark.parametrize("at", [8, 20, 50, -1, -40])
def test_a_changed_byte_is_found_and_its_block_named(tape, at):
    with (
        lmdb.open(str(tape), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as txn,
    ):
        byte = list(txn.cursor())[1][1][at]
    tamper(tape, 1, bytes([byte ^ 1]), at)
    reader = TapeReader(tape)

    problems = reader.verify()

    assert "block 1 of book|test|BTC/USDT at 1000000007 does not match its checksum" in problems[0]
    with pytest.raises(StoreCorrupt, match="block 1 of"):
        reader.read(BOOK)
    assert len(reader.read(BOOK, end_ns=10**9)) == 30


def test_a_block_that_was_taken_out_is_missed(tape):
    tamper(tape, 1, None)

    assert [problem.split(": ", 1)[1] for problem in TapeReader(tape).verify()] == [
        "block 2 of book|test|BTC/USDT at 2000000007 follows a block that is not there"
    ]


def test_a_block_of_another_version_is_refused(tape):
    tamper(tape, 0, b"\x63", 4)

    with pytest.raises(
        StoreCorrupt, match="expected version 1 to 3 of a block, was b'TML1' 99; read it with"
    ):
        TapeReader(tape).read(BOOK)


def test_a_block_that_is_cut_short_is_refused(tape):
    with (
        lmdb.open(str(tape), subdir=False, map_size=2**24) as environment,
        environment.begin(write=True) as txn,
    ):
        key, value = next(iter(txn.cursor()))
        txn.put(key, value[:20])

    with pytest.raises(StoreCorrupt, match="is 20 bytes long, too short for a header"):
        TapeReader(tape).blocks(BOOK)


def test_a_file_that_is_not_a_tape_is_refused(tmp_path):
    path = tmp_path / "tape.mdb"
    path.write_bytes(b"not a tape " * 10_000)

    with pytest.raises(StoreCorrupt, match="cannot be used as a tape"):
        TapeReader(path)
    with pytest.raises(StoreCorrupt, match="cannot be used as a tape"):
        TapeWriter(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(StoreError, match="was nothing; record one with the recorder"):
        TapeReader(tmp_path / "tape.mdb")


# --- Two processes --------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
import numpy as np
from tickerml.plugins.tape import ROW, TapeWriter

writer = TapeWriter(Path(sys.argv[1]), map_mb=64)
for number, _ in enumerate(sys.stdin):
    rows = np.zeros(100, ROW)
    rows["ts_recv"] = number * 1000
    rows["is_last"] = True
    writer.seal("trade|test|BTC/USDT", number, rows)
    print(number, flush=True)
"""


def test_a_reader_sees_what_a_writer_in_another_process_has_sealed(tmp_path):
    path = tmp_path / "tape.mdb"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        seen = []
        for _ in range(5):
            process.stdin.write("next\n")
            process.stdin.flush()
            process.stdout.readline()
            seen.append(len(TapeReader(path).read("trade|test|BTC/USDT")))
        process.stdin.close()

    assert seen == [100, 200, 300, 400, 500]
    assert TapeReader(path).verify() == []


def test_a_reader_may_stay_in_its_transaction_while_a_writer_goes_on(tmp_path):
    path = tmp_path / "tape.mdb"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdin.write("next\n")
        process.stdin.flush()
        process.stdout.readline()
        with lmdb.open(str(path), subdir=False, readonly=True) as environment, environment.begin() as before:
            process.stdin.write("next\n" * 3)
            process.stdin.flush()
            written = [process.stdout.readline() for _ in range(3)]
            held = len(list(before.cursor()))
        process.stdin.close()

    assert written == ["1\n", "2\n", "3\n"]
    assert held == 1
    assert len(TapeReader(path).blocks("trade|test|BTC/USDT")) == 4
