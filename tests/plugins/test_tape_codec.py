"""The tape's codec: two forms that give the same bytes, a column without the others, older blocks."""

import hashlib
import importlib.util
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tickerml.kernel import StoreError
from tickerml.plugins import tape_loops
from tickerml.plugins.data import commands
from tickerml.plugins.tape import ROW, Kind, TapeReader, TapeWriter, pack_rows, unpack_rows
from tickerml.plugins.tape_codec import cut
from tickerml.plugins.tape_numpy import NUMPY, Kernels

from .made_rows import BOOK, INT64, SMALL, any_rows, rows

MEDIUM = st.integers(-(10**12), 10**12)

# --- Two forms of the codec -----------------------------------------------------------------------


def forms() -> list[Any]:
    """The loops as they stand, and compiled where numba is installed."""
    found = [Kernels("loops", *(getattr(tape_loops, name) for name in Kernels._fields[1:]))]
    return [*found, tape_loops.compiled()] if importlib.util.find_spec("numba") else found


@pytest.mark.parametrize("kernels", forms(), ids=lambda kernels: kernels.name)
@given(written=any_rows())
@settings(max_examples=60)
def test_both_forms_of_the_codec_give_the_same_bytes_and_the_same_rows(kernels, written):
    sections = pack_rows(written)
    with np.errstate(over="ignore"):  # int64 wraps around, which is meant
        assert pack_rows(written, kernels) == sections
        assert unpack_rows(sections, len(written), kernels).tobytes() == written.tobytes()


@example(numbers=[*[2**40] * 20, -(2**63)], factor=1)
@given(st.lists(st.one_of(SMALL, MEDIUM, INT64), max_size=200), st.integers(1, 10**7))
@settings(max_examples=60)
def test_both_forms_find_the_same_divisor_and_the_same_list(numbers, factor):
    values = np.array(numbers, np.int64) // factor * factor
    loops = forms()[0]
    with np.errstate(over="ignore"):
        for first, second in ((NUMPY.split, loops.split), (NUMPY.rank, loops.rank)):
            assert [np.asarray(part).tolist() for part in first(values)] == [
                np.asarray(part).tolist() for part in second(values)
            ]


def test_quantities_that_come_again_are_kept_as_places_in_a_list():
    again = rows(3000)
    again["quantity"] = np.random.default_rng(1).choice([10**12 + 1, 10**13 + 7, 3, 10**15], 3000)
    every = again.copy()
    every["quantity"] = np.arange(3000) * 10**12 + 1

    assert len(pack_rows(again)[-1]) < 5_000
    assert len(pack_rows(every)[-1]) > 15_000
    assert unpack_rows(pack_rows(again), 3000).tobytes() == again.tobytes()


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("by", [-1, 1])
def test_a_section_of_another_length_is_refused(index, by):
    sections = pack_rows(rows(300))
    sections[index] = sections[index][:-1] if by < 0 else sections[index] + b"\0"

    with pytest.raises(ValueError, match="expected"):
        unpack_rows(sections, 300)


def test_a_place_outside_of_the_list_is_refused():
    again = rows(300)
    again["quantity"] = 5
    sections = pack_rows(again)
    found = cut(b"".join(sections), 300)[-1].tobytes()
    head = found[: -(17 + 0)]  # the places, all of them 0, take nothing but their own head
    sections[-1] = head + struct.pack("<qqB", 0, 1, 1) + bytes([4] * 300)

    with pytest.raises(ValueError, match="places in a list of 1"):
        unpack_rows(sections, 300)


# --- The two clocks of a message ------------------------------------------------------------------


def clocked(count: int) -> np.ndarray:
    """*count* trades that come some ms late by another clock, four at a time of the exchange's."""
    random = np.random.default_rng(3)
    made = np.zeros(count, ROW)
    made["ts_event"] = (
        10**18 + np.cumsum(random.integers(0, 2000, count) * (np.arange(count) % 4 == 0)) * 10**6
    )
    made["ts_recv"] = made["ts_event"] + 8 * 10**6 + np.cumsum(random.integers(-900, 1000, count))
    made["is_last"] = True
    return made


def squeezed_times(made: np.ndarray) -> int:
    """The bytes that ts_recv takes."""
    return len(zstandard.compress(pack_rows(made)[1]))


def test_a_time_of_receipt_takes_no_more_than_its_lateness():
    made = clocked(4000)
    alone = made.copy()
    alone["ts_event"] = 0

    assert squeezed_times(made) < 0.7 * squeezed_times(alone)
    assert unpack_rows(pack_rows(made), 4000).tobytes() == made.tobytes()


@given(st.lists(st.tuples(SMALL, st.sampled_from([0, 0, 5, 10**18])), min_size=1, max_size=60))
def test_messages_without_a_time_of_the_exchange_stand_among_others(times):
    made = np.zeros(len(times), ROW)
    made["ts_recv"], made["ts_event"] = np.array(times, np.int64).T
    made["is_last"] = True
    sections = pack_rows(made)

    assert unpack_rows(sections, len(made)).tobytes() == made.tobytes()
    assert [part.tobytes() for part in cut(b"".join(sections), len(made))] == sections


def test_a_gap_costs_the_lateness_of_the_others_nothing():
    made = clocked(4000)
    before = squeezed_times(made)
    made["ts_event"][[0, 2000]] = 0

    assert squeezed_times(made) < before + 100


def test_a_column_that_is_later_than_itself_is_refused():
    sections = pack_rows(rows(300))
    head = sections[2]
    sections[2] = head[:16] + bytes([head[16] | 32]) + head[17:]

    with pytest.raises(ValueError, match="numbers of 0 to 8 bytes, was 3"):
        unpack_rows(sections, 300)


# --- Which form -----------------------------------------------------------------------------------


def test_a_reader_that_is_to_be_compiled_says_that_numba_is_missing(tmp_path, monkeypatch):
    TapeWriter(tmp_path / "tape.mdb", map_mb=16).seal(BOOK, 0, rows(30))
    monkeypatch.setitem(sys.modules, "numba", None)
    tape_loops.compiled.cache_clear()

    with pytest.raises(StoreError, match=r"was not installed: pip install 'tickerml\[pc\]'"):
        TapeReader(tmp_path / "tape.mdb", is_compiled=True)
    assert TapeReader(tmp_path / "tape.mdb").codec == "numpy"


def test_a_reader_that_may_choose_is_compiled_where_the_tape_is_large_and_numba_there(tmp_path, monkeypatch):
    path = tmp_path / "tape.mdb"
    TapeWriter(path, map_mb=16).seal(BOOK, 0, rows(3000))
    size = path.stat().st_size
    loops, installed = forms()[0], [True]
    monkeypatch.setattr(tape_loops, "compiled", lambda: loops)
    monkeypatch.setattr(tape_loops, "find_spec", lambda name: installed[0] or None)

    for worth, expected in ((size, "loops"), (size + 1, "numpy")):
        monkeypatch.setattr(tape_loops, "WORTH_BYTES", worth)
        reader = TapeReader(path, is_compiled=None)
        assert reader.codec == expected
        assert reader.read(BOOK).tobytes() == TapeReader(path).read(BOOK).tobytes()
    installed[0] = False
    monkeypatch.setattr(tape_loops, "WORTH_BYTES", 0)
    assert TapeReader(path, is_compiled=None).codec == "numpy"
    assert TapeReader(path).codec == "numpy"


def test_the_commands_that_read_everything_choose(tmp_path, monkeypatch):
    TapeWriter(tmp_path / "tape.mdb", map_mb=16).seal(BOOK, 0, rows(300))
    loops = forms()[0]
    monkeypatch.setattr(tape_loops, "compiled", lambda: loops)
    monkeypatch.setattr(tape_loops, "find_spec", lambda name: name)
    monkeypatch.setattr(tape_loops, "WORTH_BYTES", 0)

    words = ["export", "csv", "--tape", str(tmp_path), "--out", str(tmp_path / "out"), "--json"]
    said = json.loads(CliRunner().invoke(commands, words, catch_exceptions=False).output.splitlines()[-1])

    assert said["codec"] == "loops"
    assert list(said["files"].values()) == [300]


def test_a_compiled_writer_and_reader_make_the_same_tape(tmp_path):
    pytest.importorskip("numba")
    plain, compiled = tmp_path / "plain.mdb", tmp_path / "compiled.mdb"
    for number in range(3):
        TapeWriter(plain, 16).seal(BOOK, number, rows(3000, number * 10**10))
        TapeWriter(compiled, 16, is_compiled=True).seal(BOOK, number, rows(3000, number * 10**10))

    reader = TapeReader(plain, is_compiled=True)

    assert reader.codec == "compiled"
    assert [block.digest for block in reader.blocks(BOOK)] == [
        block.digest for block in TapeReader(compiled).blocks(BOOK)
    ]
    assert reader.read(BOOK).tobytes() == TapeReader(compiled).read(BOOK).tobytes()


# --- Columns --------------------------------------------------------------------------------------


def columned(path: Path) -> tuple[TapeReader, np.ndarray]:
    """A tape of 20 blocks with keyframes, some in one frame and some in a frame a column, and its rows."""
    writer, parts = TapeWriter(path / "tape.mdb", map_mb=64), []
    for number in range(20):
        part = rows(30 if number % 3 else 3000, number * 10**10, seed=number)
        part["kind"][3:9] = Kind.KEYFRAME
        writer.seal(BOOK, number, part)
        parts.append(part)
    return TapeReader(path / "tape.mdb"), np.concatenate(parts)


@pytest.mark.parametrize("has_keyframes", [False, True])
def test_columns_are_those_of_the_rows(tmp_path, has_keyframes):
    reader, written = columned(tmp_path)
    start, end = int(written["ts_recv"][1500]), int(written["ts_recv"][-20])

    found = reader.read(BOOK, start, end, has_keyframes=has_keyframes)
    columns = reader.columns(BOOK, ("price", "kind"), start, end, has_keyframes=has_keyframes)

    is_wanted = (written["ts_recv"] >= start) & (written["ts_recv"] < end)
    is_wanted &= has_keyframes | (written["kind"] != Kind.KEYFRAME)
    assert found.tobytes() == written[is_wanted].tobytes()
    assert list(columns) == ["price", "kind"]
    assert columns["price"].tolist() == found["price"].tolist()
    assert columns["kind"].dtype == np.uint8
    assert columns["price"].flags["C_CONTIGUOUS"]


def test_a_column_that_is_none_is_refused(tmp_path):
    reader, _ = columned(tmp_path)

    with pytest.raises(ValueError, match=r"columns among ts_recv, .*, was \['prize'\]"):
        reader.columns(BOOK, ("prize",))


def test_the_memory_of_what_was_read_before_is_used_again(tmp_path):
    reader, _ = columned(tmp_path)
    rows_before, columns_before = reader.read(BOOK), reader.columns(BOOK)
    expected, start = reader.read(BOOK, 5 * 10**10), 5 * 10**10

    again = reader.read(BOOK, start, into=rows_before)
    column = reader.columns(BOOK, ("seq",), start, into=columns_before)["seq"]
    longer = reader.read(BOOK, into=expected)

    assert np.shares_memory(again, rows_before)
    assert np.shares_memory(column, columns_before["seq"])
    assert again.tobytes() == expected.tobytes()
    assert column.tolist() == expected["seq"].tolist()
    assert not np.shares_memory(longer, expected)


def plain_differences(numbers: np.ndarray) -> bytes:
    """A column as versions 1 and 2 have it: the first number, and differences."""
    divisor, width, planes = NUMPY.split(np.diff(numbers))
    return struct.pack("<qqB", int(numbers[0]), divisor, width) + planes.tobytes()


@pytest.mark.parametrize("version", [1, 2])
def test_a_block_of_an_older_version_is_read(tmp_path, version):
    written = rows(3000)
    sections = pack_rows(written)
    assert sections[1][16] & 32  # as version 3 alone has it: later than ts_event
    sections[1] = plain_differences(np.unique(written["ts_recv"]))
    assert sections[-1][-(-3000 // 8) + 16] <= 8  # no list, which version 1 has not
    squeeze = zstandard.ZstdCompressor().compress
    payload, frames = b"".join(sections), [squeeze(section) for section in sections]
    body = squeeze(payload) if version == 1 else struct.pack("<6I", *map(len, frames)) + b"".join(frames)
    digest = hashlib.sha256(bytes(16) + payload).digest()[:16]
    first, last = int(written["ts_recv"][0]), int(written["ts_recv"][-1])
    of_all = b"TML1", version, 6 * (version - 1), 3000
    head = struct.pack("<4sHHIqq16s16s", *of_all, first, last, bytes(16), digest)
    value = head + struct.pack("<I", zlib.crc32(head + body)) + body
    TapeWriter(tmp_path / "tape.mdb", 16)
    with (
        lmdb.open(str(tmp_path / "tape.mdb"), subdir=False, map_size=2**24) as file,
        file.begin(write=True) as txn,
    ):
        txn.put(BOOK.encode() + b"\0" + struct.pack(">QI", first + 2**63, 0), value)

    TapeWriter(tmp_path / "tape.mdb", 16).seal(BOOK, 0, written)  # what is there already is left as it is
    reader = TapeReader(tmp_path / "tape.mdb")

    assert reader.read(BOOK).tobytes() == written.tobytes()
    assert reader.columns(BOOK, ("price",))["price"].tolist() == written["price"].tolist()
    assert reader.verify() == []
    assert reader.blocks(BOOK)[0].stored_bytes == len(value)
