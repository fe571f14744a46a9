"""The journal: always a prefix of what happened, and never a wrong byte out of it."""

import hashlib
import inspect
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tickerml.kernel import StoreCorrupt, StoreError, StoreFull, codec, records
from tickerml.kernel.core import BACKLOG_LIMIT
from tickerml.kernel.journal import (
    EARLY_BATCHES,
    Checkpoint,
    JournalReader,
    JournalWriter,
    frame_seq,
    pack_record,
    unpack_record,
)
from tickerml.kernel.records import (
    DIGEST_SIZE,
    KEY,
    NO_DIGEST,
    checkpoint_digest,
    checkpoint_key,
    split_checkpoint_key,
)
from tickerml.testing.disk import Disk, Trouble

EVERYTHING = 2**62
S = 1_000_000_000


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
        writer.append(batch, [raw for raw in batch if kept(raw)], [*last])
        writer.close()
        assert writer.error is None


class Clock:
    """A wall clock and a monotonic one that go as a test says."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000 * S
        self.mono = S

    def pass_(self, seconds: float) -> None:
        self.wall += int(seconds * S)
        self.mono += int(seconds * S)

    def writer(self, path: Path, **options: Any) -> JournalWriter:
        """Return a writer that lives by this clock."""
        options = {"map_mb": 64, "commit_ms": 1, "hosts": ("trade", "record"), **options}
        return JournalWriter(path, clock=lambda: self.wall, monotonic=lambda: self.mono, **options)


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


def test_a_record_with_more_in_it_than_its_frames_is_damaged():
    key, (value, _) = KEY.pack(1), pack_record(frames_of(1, 2), NO_DIGEST, 0)
    header = records.read_header(key, value)
    payload = value[records._HEADER.size :]
    head = records._HEADER.pack(*header._replace(frame_count=1))[:-DIGEST_SIZE]
    digest = hashlib.blake2b(key + head + payload, digest_size=DIGEST_SIZE).digest()

    with pytest.raises(StoreCorrupt, match=r"at seq 1 is damaged: it holds \d+ bytes, not \d+"):
        unpack_record(key, head + digest + payload)


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
        writer.append(everything[at : at + 10], [], [])
    assert writer.backlog == 9

    writer.start()
    writer.close()

    assert (writer.committed, writer.backlog) == (90, 0)
    with reading(tmp_path / "journal") as reader:
        assert list(reader.frames()) == everything
        assert len(list(reader.records())) < 9


def test_everyone_who_waits_is_told_of_each_commit(tmp_path):
    told = threading.Event()
    writer = JournalWriter(tmp_path / "journal", map_mb=16, commit_ms=1, on_commit=told.set)
    writer.start()

    writer.append(frames_of(1, 3), [], [])

    assert told.wait(30)
    assert writer.committed == 3
    writer.close()


def test_whoever_waits_need_not_wait_for_company(tmp_path):
    committed = threading.Semaphore(0)
    writer = JournalWriter(tmp_path / "journal", map_mb=16, commit_ms=60_000, on_commit=committed.release)
    writer.start()

    for seq in (1, 2):
        writer.append(frames_of(seq, seq), [], [])
        writer.hurry()
        assert committed.acquire(timeout=30)

    assert writer.committed == 2
    writer.close()


def test_many_batches_do_not_wait_until_they_hold_up_the_inlet(tmp_path):
    committed = threading.Event()
    writer = JournalWriter(tmp_path / "journal", map_mb=16, commit_ms=60_000, on_commit=committed.set)
    writer.start()

    for seq in range(1, EARLY_BATCHES + 2):
        writer.append(frames_of(seq, seq), [], [])

    assert committed.wait(30)
    assert EARLY_BATCHES <= BACKLOG_LIMIT // 2
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
    writer.append(frames_of(1, 3), [], [])
    assert committed.acquire(timeout=30)
    command = [sys.executable, "-c", READ_ALONG, str(tmp_path / "journal")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline().split() == ["1", "2", "3"]

        writer.append(frames_of(4, 5), [], [])
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
    writer.append(batch, batch[:1], checkpoints)
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
def test_a_record_with_any_byte_changed_is_refused(data):
    value, _ = pack_record(frames_of(11, 20), bytes(16), 2)
    stored = bytearray((11).to_bytes(8, "big") + value)
    at = data.draw(st.integers(0, len(stored) - 1))

    stored[at] ^= data.draw(st.integers(1, 255))

    with pytest.raises(StoreCorrupt, match="is damaged"):
        unpack_record(bytes(stored[:8]), bytes(stored[8:]))


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
    dice, path, chain, values = random.Random(seed), tmp_path / "journal", bytes(16), []
    batches = [frames_of(at + 1, at + 20) for at in range(0, 100, 20)]
    write(path, *batches)
    with reading(path) as reader:
        for record, batch in zip(reader.records(), batches, strict=True):
            value, chain = pack_record(batch, chain, record.written_ns)
            values.append(value)
    hurt = dice.randrange(5)
    # Every third time the header is hit, which is a thirtieth of the record.
    at = dice.randrange(53) if seed % 3 == 0 else dice.randrange(len(values[hurt]))

    damage(path, values[hurt], at, dice.randrange(1, 256))

    with reading(path) as reader:
        for after in (0, 7, hurt * 20):
            read, error = read_until_damage(reader, after)
            assert read == frames_of(after + 1, hurt * 20)
            assert re.search(rf"seq {hurt * 20 + 1}\b", error)


def test_a_record_that_is_gone_is_missed(tmp_path):
    write(tmp_path / "journal", *(frames_of(at, at + 9) for at in (1, 11, 21)))
    change(tmp_path / "journal", "log", 11, lambda value: None)

    with reading(tmp_path / "journal") as reader:
        read, error = read_until_damage(reader)
    assert read == frames_of(1, 10)
    assert "seq 11 to 20: it is missing" in error


# --- A disk that fails ----------------------------------------------------------------------------


def test_a_full_map_stops_it_and_what_was_committed_stays(tmp_path):
    path = tmp_path / "journal"
    writer = JournalWriter(path, map_mb=1, commit_ms=1)
    seq = 0
    while writer.error is None:
        writer.append(frames_of(seq + 1, seq + 40, 1000), [], [])
        seq += 40
        writer.commit_pending()
    writer.append(frames_of(seq + 1, seq + 1), [], [])
    assert not writer.commit_pending()
    assert writer.backlog == 2
    writer.close()

    assert isinstance(writer.error, StoreFull)
    assert "kernel.map_mb = 1" in str(writer.error)
    committed = writer.committed
    assert committed == seq - 40
    with reading(path) as reader:
        assert list(reader.frames()) == frames_of(1, committed, 1000)
    write(path, frames_of(committed + 1, committed + 400, 1000), map_mb=8)
    with reading(path) as reader:
        assert list(reader.frames()) == frames_of(1, committed + 400, 1000)


def test_starting_again_with_a_map_still_full_is_refused_in_the_same_words(tmp_path):
    writer = JournalWriter(tmp_path / "journal", map_mb=1, commit_ms=1)

    with pytest.raises(StoreFull, match="is full"):
        writer.put_meta("run", bytes(2 * 2**20))

    writer.put_meta("run", b"small")
    writer.close()


def test_the_map_grows_as_it_fills_while_another_process_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("tickerml.kernel.journal.FIRST_MAP_MB", 1)
    path = tmp_path / "journal"
    writer = JournalWriter(path, map_mb=64, commit_ms=1)
    writer.append(frames_of(1, 3), [], [])
    assert writer.commit_pending()
    command = [sys.executable, "-c", READ_ALONG, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline().split() == ["1", "2", "3"]

        with capture_logs() as logs:
            for first in range(4, 3004, 500):
                writer.append(frames_of(first, first + 499, 1000), [], [])
                assert writer.commit_pending()
        reader.stdin.write("again\n")
        reader.stdin.flush()

        assert reader.stdout.readline().split() == [str(seq) for seq in range(4, 3004)]
        reader.stdin.close()
    writer.close()
    assert [log["map_mb"] for log in logs if log["event"] == "journal.grown"] == [2, 4]


def test_a_journal_that_was_grown_is_opened_with_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr("tickerml.kernel.journal.FIRST_MAP_MB", 1)
    write(tmp_path / "journal", *(frames_of(at, at + 399, 1000) for at in range(1, 4000, 400)))

    write(tmp_path / "journal", frames_of(4001, 4400, 1000))

    with reading(tmp_path / "journal") as reader:
        assert reader.head() == 4400


@pytest.mark.parametrize("trouble", [each for each in Trouble if each is not Trouble.NONE])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_disk_does_each_batch_goes_in_once(trouble, seed):
    disk, told = Disk(random.Random(seed)), []
    writer = JournalWriter(
        Path("j"), map_mb=16, commit_ms=1, opener=disk.open, on_commit=lambda: told.append(writer.committed)
    )
    writer.append(frames_of(1, 3), frames_of(2, 2), [Checkpoint("trade", 2, b"two")])
    assert writer.commit_pending()

    disk.trouble = trouble
    with capture_logs() as logs:
        writer.append(frames_of(4, 6), frames_of(5, 5), [Checkpoint("trade", 5, b"five")])
        for _ in range(3):
            assert not writer.commit_pending()
            assert isinstance(writer.error, StoreFull)
            assert writer.committed == 3
        writer.append(frames_of(7, 9), [], [])
        disk.trouble = Trouble.NONE
        assert writer.commit_pending()

    assert writer.error is None
    assert (writer.committed, writer.backlog, told[-1]) == (9, 0, 9)
    assert [log["event"] for log in logs] == ["journal.failed", "journal.recovered"]
    with closing(JournalReader(Path("j"), opener=disk.open)) as reader:
        assert list(reader.frames()) == frames_of(1, 9)
        assert [frame_seq(raw) for raw in reader.frames(table="kept")] == [2, 5]
        assert [found.position for found in reader.checkpoints("trade")] == [5, 2]


def test_the_thread_tries_again_until_the_disk_is_well(monkeypatch):
    monkeypatch.setattr("tickerml.kernel.journal.RETRY_S", 0.01)
    disk, told = Disk(random.Random(1)), threading.Semaphore(0)
    writer = JournalWriter(Path("j"), map_mb=16, commit_ms=1, opener=disk.open, on_commit=told.release)
    disk.trouble = Trouble.FULL
    writer.start()
    writer.append(frames_of(1, 3), [], [])
    for _ in range(3):
        assert told.acquire(timeout=30)
    assert isinstance(writer.error, StoreFull)

    disk.trouble = Trouble.NONE
    while writer.error is not None:
        assert told.acquire(timeout=30)

    assert writer.committed == 3
    writer.close()


def test_a_stop_does_not_wait_for_a_disk_that_is_full():
    disk = Disk(random.Random(1))
    writer = JournalWriter(Path("j"), map_mb=16, commit_ms=1, opener=disk.open)
    disk.trouble = Trouble.FULL
    writer.start()
    writer.append(frames_of(1, 3), [], [])

    writer.close()

    assert "No space left" in str(writer.error)
    assert writer.committed == 0


WRITE_TO_THE_LIMIT = f"""
import random, resource, signal, sys
from pathlib import Path
from tickerml.kernel import codec, log
from tickerml.kernel.journal import JournalWriter

{inspect.getsource(frame)}

log.configure(level=50)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = JournalWriter(Path(sys.argv[1]), map_mb=64, commit_ms=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
seq = 0
while writer.error is None:
    writer.append([frame(seq + i, 900) for i in range(1, 51)], [], [])
    seq += 50
    writer.commit_pending()
print(writer.committed, seq, type(writer.error).__name__, flush=True)
sys.stdin.readline()
assert writer.commit_pending(), writer.error
print(writer.committed, writer.error, flush=True)
sys.stdin.readline()
"""


def test_a_disk_that_is_truly_full_is_waited_for(tmp_path):
    path = tmp_path / "journal"
    command = [sys.executable, "-c", WRITE_TO_THE_LIMIT, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        committed, given, error = process.stdout.readline().split()
        assert (int(given) - int(committed), error) == (50, "StoreFull")

        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        process.stdin.write("there is room\n")
        process.stdin.flush()

        assert process.stdout.readline().split() == [given, "None"]
        process.stdin.close()
    with reading(path) as reader:
        assert list(reader.frames()) == frames_of(1, int(given), 900)


# --- Months ---------------------------------------------------------------------------------------


def test_old_data_makes_room_for_new_and_the_file_does_not_grow(tmp_path):
    path, clock, dice = tmp_path / "journal", Clock(), random.Random(1)
    sizes, seq = [], 0
    with closing(clock.writer(path, hot_hours=1, hosts=())) as writer:
        for _ in range(12):
            for _ in range(60):
                clock.pass_(60)
                frames = frames_of(seq + 1, seq + dice.randrange(5, 200), 20)
                seq = frame_seq(frames[-1])
                writer.append(frames, [], [Checkpoint("kernel", seq, bytes(2000))])
                assert writer.commit_pending()
            sizes.append((path / "data.mdb").stat().st_size)

    assert max(sizes[6:]) <= 1.1 * max(sizes[:6])
    with reading(path) as reader:
        assert reader.first() > seq * 0.8


def test_opening_and_closing_leaves_no_file_open(tmp_path):
    write(tmp_path / "journal", frames_of(1, 10))
    before = os.listdir("/proc/self/fd")

    for _ in range(50):
        with reading(tmp_path / "journal") as reader:
            assert reader.head() == 10
        JournalWriter(tmp_path / "journal", map_mb=16, commit_ms=1).close()

    assert os.listdir("/proc/self/fd") == before


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


def change(path: Path, table: str, seq: int, how: Callable[[bytes], bytes | None]) -> None:
    """Store *how* of the record at *seq* in its place; None takes it away."""
    with lmdb.open(str(path), max_dbs=4) as env:
        handle, key = env.open_db(table.encode()), seq.to_bytes(8, "big")
        with env.begin(write=True) as txn:
            value = how(bytes(txn.get(key, db=handle)))
            txn.delete(key, db=handle) if value is None else txn.put(key, value, db=handle)


def damage_checkpoints(path: Path, *states: bytes) -> None:
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


def test_what_is_told_of_a_damaged_checkpoint_is_not_what_it_says_of_itself(tmp_path):
    path, key = tmp_path / "journal", checkpoint_key("trade", 5)
    write(path, frames_of(1, 5), checkpoints=(Checkpoint("trade", 5, b"state"),))
    with lmdb.open(str(path), max_dbs=4) as env, env.begin() as txn:
        value = bytes(txn.get(key, db=env.open_db(b"checkpoints", txn)))

    assert checkpoint_digest(key, value) != NO_DIGEST
    assert checkpoint_digest(key, value[:-1] + bytes([value[-1] ^ 1])) == NO_DIGEST


@pytest.mark.parametrize(
    ("late", "positions"),
    [(5, [30, 20]), (20, [20]), (25, [25, 20]), (30, [30, 20]), (35, [35, 30])],
    ids=["behind all", "again the older", "between", "again the newest", "beyond"],
)
def test_a_checkpoint_that_comes_late_takes_the_place_of_those_it_does_not_know(tmp_path, late, positions):
    path = tmp_path / "journal"
    for position in (20, 30):
        found = Checkpoint("trade", position, b"")
        write(path, frames_of(position, position), checkpoints=(found,))

    write(path, frames_of(40, 40), checkpoints=(Checkpoint("trade", late, b"late"),))

    with reading(path) as reader:
        whole, damaged = reader.stored_checkpoints("trade")
    assert ([found.position for found in whole], damaged) == (positions, [])


def test_a_checkpoint_that_is_not_the_one_before_is_refused(tmp_path):
    clock, states = Clock(), {"journal": b"older", "other": b"another"}
    for name, state in states.items():  # the logs are equal to the byte
        with closing(clock.writer(tmp_path / name)) as writer:
            commit(writer, frames_of(1, 5), Checkpoint("trade", 5, state))
            commit(writer, frames_of(6, 9), Checkpoint("trade", 9, b"newer"))
    key = b"trade\0" + (5).to_bytes(8, "big")
    with lmdb.open(str(tmp_path / "other"), max_dbs=4) as env, env.begin() as txn:
        stranger = bytes(txn.get(key, db=env.open_db(b"checkpoints", txn)))
    with lmdb.open(str(tmp_path / "journal"), max_dbs=4) as env:
        table = env.open_db(b"checkpoints")
        with env.begin(write=True) as txn:
            txn.put(key, stranger, db=table)

    with reading(tmp_path / "journal") as reader:
        whole, damaged = reader.stored_checkpoints("trade")
    assert [found.state for found in whole] == [b"newer"]
    assert "is not the one that the one at 9 followed" in damaged[0]


@pytest.mark.parametrize("first", [1, 2])
def test_damaged_checkpoints_are_no_beginning_unless_the_log_still_has_it(tmp_path, first):
    path = tmp_path / "journal"
    write(path, frames_of(first, 5), checkpoints=(Checkpoint("trade", 5, b"only"),))

    damage_checkpoints(path, b"only")

    with reading(path) as reader:
        if first == 1:
            with capture_logs() as logs:
                assert reader.checkpoints("trade") == []
            assert [log["event"] for log in logs] == [
                "journal.checkpoint_damaged",
                "journal.checkpoints_lost",
            ]
        else:
            with pytest.raises(StoreCorrupt, match=r"checkpoint of host trade at 5 .*--fresh"):
                reader.checkpoints("trade")


KERNELS = Checkpoint("kernel", 30, b"")


def commit(writer: JournalWriter, frames: list[bytes], *checkpoints: Checkpoint) -> None:
    writer.append(frames, [raw for raw in frames if frame_seq(raw) % 7 == 0], [*checkpoints])
    assert writer.commit_pending()


@pytest.mark.parametrize(
    ("checkpoints", "first"),
    [
        ((), 1),
        ((Checkpoint("trade", 25, b""),), 1),
        ((Checkpoint("trade", 25, b""), KERNELS), 21),
        ((Checkpoint("trade", 30, b""), Checkpoint("record", 9, b""), KERNELS), 1),
        ((Checkpoint("trade", 30, b""), Checkpoint("gone", 9, b""), KERNELS), 21),
    ],
    ids=[
        "no checkpoint",
        "none of the kernel",
        "one in the third record",
        "a slow host's in the first",
        "one of a host that is no more",
    ],
)
def test_pruning_keeps_what_a_checkpoint_needs_and_what_is_kept_for_good(tmp_path, checkpoints, first):
    path, clock = tmp_path / "journal", Clock()
    with closing(clock.writer(path, hot_hours=1)) as writer:
        for at in (1, 11, 21):
            commit(writer, frames_of(at, at + 9), *(checkpoints if at == 21 else ()))
        clock.pass_(3601)
        commit(writer, frames_of(31, 31))

    with reading(path) as reader:
        assert reader.first() == first
        assert list(reader.frames()) == frames_of(first, 31)
        assert [frame_seq(raw) for raw in reader.frames(table="kept")] == [7, 14, 21, 28]


def test_pruning_leaves_what_is_still_hot(tmp_path):
    path, clock = tmp_path / "journal", Clock()
    with closing(clock.writer(path, hot_hours=1)) as writer:
        commit(writer, frames_of(1, 10))
        clock.pass_(1800)
        commit(writer, frames_of(11, 30), KERNELS)
        clock.pass_(1801)
        commit(writer, frames_of(31, 31))

    with reading(path) as reader:
        assert list(reader.frames(after=0, until=EVERYTHING)) == frames_of(11, 31)


def test_a_damaged_record_is_pruned_with_its_age(tmp_path):
    path, clock = tmp_path / "journal", Clock()
    with closing(clock.writer(path, hot_hours=1)) as writer:
        for at in (1, 11, 21):
            commit(writer, frames_of(at, at + 9), *((KERNELS,) if at == 21 else ()))
    change(path, "log", 11, lambda value: value[:20])
    with closing(clock.writer(path, hot_hours=1)) as writer:
        clock.pass_(3700)
        commit(writer, frames_of(31, 31))

    with reading(path) as reader:
        assert reader.first() == 21


# --- Time -----------------------------------------------------------------------------------------


def test_the_time_of_the_journal_never_goes_back_and_goes_on_where_the_clock_did(tmp_path):
    path, clock = tmp_path / "journal", Clock()
    start = clock.wall
    with closing(clock.writer(path)) as writer:
        commit(writer, frames_of(1, 1))
        clock.pass_(10)
        clock.wall -= 3600 * S
        commit(writer, frames_of(2, 2))
    with closing(clock.writer(path)) as writer:  # and not between two processes
        commit(writer, frames_of(3, 3))
        clock.wall += 3660 * S
        clock.mono += 3660 * S
        commit(writer, frames_of(4, 4))

    with reading(path) as reader:
        written = [(record.written_ns - start) // S for record in reader.records()]
    assert written == [0, 10, 10, 3670]


def test_a_clock_that_jumps_ahead_drops_nothing_that_is_still_hot(tmp_path):
    path, clock = tmp_path / "journal", Clock()
    with closing(clock.writer(path, hot_hours=24)) as writer, capture_logs() as logs:
        for at in (1, 11, 21):
            commit(writer, frames_of(at, at + 9), *((KERNELS,) if at == 21 else ()))
        clock.pass_(61)
        clock.wall += 10 * 365 * 86_400 * S
        commit(writer, frames_of(31, 31))
        clock.pass_(23 * 3600)
        commit(writer, frames_of(32, 32))
    jumps = [log["seconds"] for log in logs if log["event"] == "journal.clock_jumped"]
    with closing(clock.writer(path, hot_hours=24)) as writer:  # a restart does not forget it
        clock.pass_(120)
        commit(writer, frames_of(33, 33))
    with reading(path) as reader:
        assert reader.first() == 1
    with closing(clock.writer(path, hot_hours=24)) as writer:
        clock.pass_(3600)
        commit(writer, frames_of(34, 34))

    assert jumps == [10 * 365 * 86_400]
    with reading(path) as reader:
        assert reader.first() == 21


def test_a_damaged_checkpoint_has_the_digest_of_none() -> None:
    assert checkpoint_digest(b"trade", bytes(200)) == NO_DIGEST


@given(st.text(max_size=20).filter(lambda host: "\0" not in host), st.integers(0, 2**64 - 1))
def test_a_checkpoint_is_found_by_its_host_and_its_position(host, position):
    assert split_checkpoint_key(checkpoint_key(host, position)) == (host, position)


@pytest.mark.parametrize("key", [b"", b"market", b"market" + bytes(7), b"\xff" + bytes(9), b"\1" * 12])
def test_bytes_that_are_no_key_of_a_checkpoint_are_none(key):
    assert split_checkpoint_key(key) is None
