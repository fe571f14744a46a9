"""The journal: always a prefix of what happened, and never a wrong byte out of it."""

import inspect
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import StoreCorrupt, StoreError, StoreFull, codec
from tickerml.kernel.journal import (
    Checkpoint,
    JournalReader,
    JournalWriter,
    frame_seq,
    pack_record,
    unpack_record,
)

EVERYTHING = 2**62


def frame(seq: int, size: int = 20, topic: bytes = b"trade.test.BTC-USDT.") -> bytes:
    """Return a stamped frame whose body no compressor can shorten."""
    body = random.Random(seq).randbytes(size)
    pushed = codec.pack_output(topic, 1, 1, 0, seq, body)
    return codec.stamp(pushed, len(topic) + 1, seq, seq)


def frames_of(first: int, last: int, size: int = 20) -> list[bytes]:
    return [frame(seq, size) for seq in range(first, last + 1)]


def write(
    path: Path,
    *batches: list[bytes],
    kept: Callable[[bytes], bool] = lambda raw: False,
    checkpoints: tuple[Checkpoint, ...] = (),
    map_mb: int = 16,
    hot_hours: float = 24.0,
) -> None:
    """Commit each of *batches* as one record, the last with *checkpoints*."""
    for batch in batches:
        writer = JournalWriter(path, map_mb=map_mb, commit_ms=1, hot_hours=hot_hours)
        writer.start()
        last = checkpoints if batch is batches[-1] else ()
        writer.append(batch, [raw for raw in batch if kept(raw)], b"state %d" % frame_seq(batch[-1]), [*last])
        writer.close()
        assert writer.error is None


@contextmanager
def reading(path: Path) -> Iterator[JournalReader]:
    with closing(JournalReader(path)) as reader:
        yield reader


# --- What goes in comes out -----------------------------------------------------------------------


@settings(max_examples=15)
@given(data=st.data(), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_any_range_of_seq_comes_back_exactly(data, sizes):
    everything = [frame(seq, seq * 37 % 300) for seq in range(1, sum(sizes) + 1)]
    is_kept = data.draw(st.lists(st.booleans(), min_size=len(everything), max_size=len(everything)))
    kept = [raw for raw, flag in zip(everything, is_kept, strict=True) if flag]
    batches, at = [], 0
    for size in sizes:
        batches.append(everything[at : at + size])
        at += size
    bound = st.integers(0, len(everything) + 3)
    queries = data.draw(st.lists(st.tuples(bound, bound), min_size=20, max_size=60))

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal"
        write(path, *batches, kept=set(kept).__contains__)
        with reading(path) as reader:
            answers = [list(reader.frames(after, until)) for after, until in queries]
            answers_kept = [list(reader.frames(after, until, "kept")) for after, until in queries]
            bounds = reader.first(), reader.head()

    assert bounds == (1, len(everything))
    for (after, until), answer, answer_kept in zip(queries, answers, answers_kept, strict=True):
        assert answer == everything[after:until]
        assert answer_kept == [raw for raw in kept if after < frame_seq(raw) <= until]


def test_an_empty_journal_has_neither_head_nor_first_nor_frames(tmp_path):
    JournalWriter(tmp_path / "journal", map_mb=1, commit_ms=1).close()

    with reading(tmp_path / "journal") as reader:
        assert (reader.head(), reader.first(), list(reader.frames())) == (0, 0, [])
        assert reader.meta("run") == b""
        assert reader.checkpoint("trade") is None


def test_there_is_no_reading_a_journal_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match="there is no journal"):
        JournalReader(tmp_path)


def test_a_file_that_is_no_journal_is_refused_as_one(tmp_path):
    (tmp_path / "data.mdb").write_bytes(random.Random(1).randbytes(100_000))

    with pytest.raises(StoreError, match="cannot open the journal"):
        JournalReader(tmp_path)


def test_batches_that_wait_together_are_committed_together_and_in_order(tmp_path):
    writer = JournalWriter(tmp_path / "journal", map_mb=16, commit_ms=1)
    everything = frames_of(1, 90)
    for at in range(0, 90, 10):
        writer.append(everything[at : at + 10], [], b"state %d" % (at + 10), [])
    assert writer.backlog == 9

    writer.start()
    writer.close()

    assert (writer.committed, writer.backlog) == (90, 0)
    with reading(tmp_path / "journal") as reader:
        assert list(reader.frames()) == everything
        assert len(list(reader.records())) < 9
        assert reader.meta("state") == b"state 90"


def test_everyone_who_waits_is_told_of_each_commit(tmp_path):
    told = threading.Event()
    writer = JournalWriter(tmp_path / "journal", map_mb=16, commit_ms=1, on_commit=told.set)
    writer.start()

    writer.append(frames_of(1, 3), [], b"", [])

    assert told.wait(30)
    assert writer.committed == 3
    writer.close()


def test_a_reopened_journal_goes_on_where_it_ended(tmp_path):
    write(tmp_path / "journal", frames_of(1, 5))
    writer = JournalWriter(tmp_path / "journal", map_mb=16, commit_ms=1)
    assert writer.committed == 5
    writer.close()

    write(tmp_path / "journal", frames_of(6, 9))

    with reading(tmp_path / "journal") as reader:
        assert list(reader.frames()) == frames_of(1, 9)


READ_ALONG = """
import sys
from pathlib import Path
from tickerml.kernel.journal import JournalReader, frame_seq

reader = JournalReader(Path(sys.argv[1]))
print(*(frame_seq(raw) for raw in reader.frames()), flush=True)
for _ in sys.stdin:
    print(*(frame_seq(raw) for raw in reader.frames(after=3)), flush=True)
"""


def test_another_process_reads_what_is_committed_while_we_write(tmp_path):
    committed = threading.Semaphore(0)
    writer = JournalWriter(tmp_path / "journal", map_mb=16, commit_ms=1, on_commit=committed.release)
    writer.start()
    writer.append(frames_of(1, 3), [], b"", [])
    assert committed.acquire(timeout=30)
    command = [sys.executable, "-c", READ_ALONG, str(tmp_path / "journal")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline().split() == ["1", "2", "3"]

        writer.append(frames_of(4, 5), [], b"", [])
        assert committed.acquire(timeout=30)
        reader.stdin.write("again\n")
        reader.stdin.flush()

        assert reader.stdout.readline().split() == ["4", "5"]
        reader.stdin.close()
    writer.close()


# --- Sudden death ---------------------------------------------------------------------------------

WRITE_UNTIL_KILLED = f"""
import random, sys
from pathlib import Path
from tickerml.kernel import codec
from tickerml.kernel.journal import Checkpoint, JournalWriter

{inspect.getsource(frame)}

def report():
    print(writer.committed, flush=True)

print("begun", flush=True)
writer = JournalWriter(Path(sys.argv[1]), map_mb=64, commit_ms=1, on_commit=report)
writer.start()
seq = writer.committed
while True:
    batch = [frame(seq + i, 200) for i in range(1, 6)]
    seq += 5
    checkpoints = [Checkpoint("trade", seq, b"after %d" % seq)] if seq % 50 == 0 else []
    writer.append(batch, batch[:1], b"state %d" % seq, checkpoints)
    while writer.backlog > 20:
        pass
"""


@pytest.mark.parametrize("moment", [0, 1, 25])
def test_killed_at_any_moment_it_has_all_that_it_reported_and_is_a_prefix(tmp_path, moment):
    path, reported = tmp_path / "journal", 0
    for _ in range(2):  # the second process goes on from what the first left
        command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            for _ in range(moment):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split("\n")
        reported = max([reported, *(int(line) for line in rest[:-1])])

        if not path.exists():
            assert reported == 0
            continue
        with reading(path) as reader:
            head = reader.head()
            assert head >= reported
            assert list(reader.frames()) == frames_of(1, head, 200)
            assert reader.meta("state") == (b"state %d" % head if head else b"")
            if checkpoint := reader.checkpoint("trade"):
                assert checkpoint.position == head // 50 * 50
                assert checkpoint.state == b"after %d" % checkpoint.position
            else:
                assert head < 50


def test_a_journal_appears_whole_or_not_at_all(tmp_path):
    half_made = tmp_path / "journal.new"
    half_made.mkdir()
    (half_made / "data.mdb").write_bytes(b"what a kernel that was killed at its first breath left behind")

    write(tmp_path / "journal", frames_of(1, 3))

    assert [entry.name for entry in tmp_path.iterdir()] == ["journal"]


# --- Damage ---------------------------------------------------------------------------------------


@given(data=st.data())
def test_a_record_with_any_byte_changed_is_refused_or_breaks_the_chain(data):
    before, chain = pack_record(frames_of(1, 10), 0, 1)
    value, _ = pack_record(frames_of(11, 20), chain, 2)
    previous = unpack_record((1).to_bytes(8, "big"), before)
    stored = bytearray((11).to_bytes(8, "big") + value)
    at = data.draw(st.integers(0, len(stored) - 1))

    stored[at] ^= data.draw(st.integers(1, 255))

    try:
        record = unpack_record(bytes(stored[:8]), bytes(stored[8:]))
    except StoreCorrupt:
        return
    assert record.frames == frames_of(11, 20)  # it was the chain that changed
    assert not record.follows(previous)


def damage(path: Path, value: bytes, at: int, flip: int) -> None:
    """Flip bits of the byte *at* of *value*, where it lies on disk."""
    file = path / "data.mdb"
    content = file.read_bytes()
    hurt = bytearray(content)
    found = content.find(value)
    assert found >= 0
    while found >= 0:  # LMDB may have left older copies of the page behind
        hurt[found + at] ^= flip
        found = content.find(value, found + 1)
    file.write_bytes(hurt)


def read_until_damage(reader: JournalReader, after: int = 0) -> tuple[list[bytes], str]:
    """Return the frames that can be read, and what is said of the one that cannot."""
    read: list[bytes] = []
    try:
        read.extend(reader.frames(after))  # extend takes what comes until it ends or raises
    except StoreCorrupt as error:
        return read, str(error)
    raise AssertionError("no damage was found")


@pytest.mark.parametrize("seed", range(6))
def test_damage_on_disk_is_named_and_what_is_before_it_can_be_read(tmp_path, seed):
    dice, path, chain, values = random.Random(seed), tmp_path / "journal", 0, []
    batches = [frames_of(at + 1, at + 20) for at in range(0, 100, 20)]
    write(path, *batches)
    with reading(path) as reader:
        for record, batch in zip(reader.records(), batches, strict=True):
            value, chain = pack_record(batch, chain, record.written_ns)
            values.append(value)
    hurt = dice.randrange(5)
    # Every third time the header is hit, which is a thirtieth of the record.
    at = dice.randrange(29) if seed % 3 == 0 else dice.randrange(len(values[hurt]))

    damage(path, values[hurt], at, dice.randrange(1, 256))

    with reading(path) as reader:
        for after in (0, 7, hurt * 20):
            read, error = read_until_damage(reader, after)
            assert read == frames_of(after + 1, hurt * 20)
            assert re.search(rf"seq {hurt * 20 + 1}\b", error)


def test_a_record_that_is_gone_is_missed(tmp_path):
    import lmdb

    write(tmp_path / "journal", *(frames_of(at, at + 9) for at in (1, 11, 21)))
    with lmdb.open(str(tmp_path / "journal"), max_dbs=4) as env:
        log = env.open_db(b"log")
        with env.begin(write=True) as txn:
            assert txn.delete((11).to_bytes(8, "big"), db=log)

    with reading(tmp_path / "journal") as reader:
        read, error = read_until_damage(reader)
    assert read == frames_of(1, 10)
    assert "goes on with seq 21 after 10" in error


# --- A full disk ----------------------------------------------------------------------------------


def test_a_full_map_stops_it_and_what_was_committed_stays(tmp_path):
    path = tmp_path / "journal"
    writer = JournalWriter(path, map_mb=1, commit_ms=1)
    writer.start()
    seq = 0
    while writer.error is None:
        writer.append(frames_of(seq + 1, seq + 40, 1000), [], b"state %d" % (seq + 40), [])
        seq += 40
        while writer.backlog and writer.error is None:
            pass
    writer.append(frames_of(seq + 1, seq + 1), [], b"too late", [])
    writer.close()

    assert isinstance(writer.error, StoreFull)
    assert "kernel.map_mb" in str(writer.error)
    committed = writer.committed
    assert 0 < committed < seq
    with reading(path) as reader:
        assert list(reader.frames()) == frames_of(1, committed, 1000)
        assert reader.meta("state") == b"state %d" % committed
    write(path, frames_of(committed + 1, committed + 400, 1000), map_mb=8)
    with reading(path) as reader:
        assert list(reader.frames()) == frames_of(1, committed + 400, 1000)


def test_starting_again_with_a_map_still_full_is_refused_in_the_same_words(tmp_path):
    writer = JournalWriter(tmp_path / "journal", map_mb=1, commit_ms=1)

    with pytest.raises(StoreFull, match="is full"):
        writer.put_meta("run", bytes(2 * 2**20))

    writer.put_meta("run", b"small")
    writer.close()


# --- Checkpoints and pruning ----------------------------------------------------------------------


def test_the_last_two_checkpoints_of_each_host_are_kept(tmp_path):
    path = tmp_path / "journal"
    for position in (3, 6, 9, 300):
        pair = (Checkpoint("trade", position, b"t%d" % position), Checkpoint("tradex", position + 1, b"x"))
        write(path, frames_of(position, position), checkpoints=pair)

    with reading(path) as reader:
        assert reader.checkpoints("trade") == [
            Checkpoint("trade", 300, b"t300"),
            Checkpoint("trade", 9, b"t9"),
        ]
        assert reader.checkpoint("trade") == Checkpoint("trade", 300, b"t300")
        assert [found.position for found in reader.checkpoints("tradex")] == [301, 10]
        assert reader.checkpoints("trad") == []


def damage_checkpoints(path: Path, *states: bytes) -> None:
    import lmdb

    with lmdb.open(str(path), max_dbs=4) as env:
        table = env.open_db(b"checkpoints")
        with env.begin(write=True) as txn:
            for key, value in list(txn.cursor(db=table)):
                if any(state in value for state in states):
                    txn.put(bytes(key), bytes(value[:-1]) + bytes([value[-1] ^ 1]), db=table)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path):
    path = tmp_path / "journal"
    for position, state in ((5, b"older"), (10, b"newer")):
        found = Checkpoint("trade", position, state)
        write(path, frames_of(position - 4, position), checkpoints=(found,))

    damage_checkpoints(path, b"newer")

    with reading(path) as reader:
        assert reader.checkpoints("trade") == [Checkpoint("trade", 5, b"older")]


def test_checkpoints_that_are_all_damaged_are_an_error_and_not_a_beginning(tmp_path):
    path = tmp_path / "journal"
    write(path, frames_of(1, 5), checkpoints=(Checkpoint("trade", 5, b"only"),))

    damage_checkpoints(path, b"only")

    with reading(path) as reader, pytest.raises(StoreCorrupt, match="checkpoint of host trade at 5"):
        reader.checkpoints("trade")


@pytest.mark.parametrize(
    ("checkpoints", "first"),
    [
        ((), 1),
        ((Checkpoint("trade", 25, b""),), 21),
        ((Checkpoint("trade", 30, b""), Checkpoint("record", 9, b"")), 1),
        ((Checkpoint("trade", 30, b""), Checkpoint("gone", 9, b"")), 21),
    ],
    ids=[
        "no checkpoint",
        "one in the third record",
        "a slow host's in the first",
        "one of a host that is no more",
    ],
)
def test_pruning_keeps_what_a_checkpoint_needs_and_what_is_kept_for_good(tmp_path, checkpoints, first):
    path = tmp_path / "journal"
    batches = [frames_of(at, at + 9) for at in (1, 11, 21)]
    write(path, *batches, kept=lambda raw: frame_seq(raw) % 7 == 0, checkpoints=checkpoints)
    writer = JournalWriter(path, map_mb=16, commit_ms=1, hot_hours=1e-12, hosts=("trade", "record"))
    writer._pruned_at = float("-inf")  # pruning is due, as it is once a minute
    writer.start()

    writer.append(frames_of(31, 31), [], b"", [])
    writer.close()

    with reading(path) as reader:
        assert reader.first() == first
        assert list(reader.frames()) == frames_of(first, 31)
        assert [frame_seq(raw) for raw in reader.frames(table="kept")] == [7, 14, 21, 28]


def test_pruning_leaves_what_is_still_hot(tmp_path):
    path = tmp_path / "journal"
    write(path, frames_of(1, 10), frames_of(11, 20), checkpoints=(Checkpoint("trade", 20, b""),))
    writer = JournalWriter(path, map_mb=16, commit_ms=1, hot_hours=24)
    writer._pruned_at = float("-inf")
    writer.start()

    writer.append(frames_of(21, 21), [], b"", [])
    writer.close()

    with reading(path) as reader:
        assert list(reader.frames(after=0, until=EVERYTHING)) == frames_of(1, 21)
