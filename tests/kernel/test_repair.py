"""Damage: what recovery does about it, and what a person can."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from typer.testing import CliRunner

from tickerml.kernel import StoreCorrupt, StoreError, StoreLocked, log, repair, runs
from tickerml.kernel import messages as m
from tickerml.kernel.child import run_in_child
from tickerml.kernel.journal import Checkpoint, JournalReader, JournalWriter, Record, frame_seq
from tickerml.kernel.sequencer import Sequencer, SequencerState
from tickerml.kernel.verify import verify
from tickerml.ui.cli_journal import app

BATCH = 10
BATCHES = 8


class Written:
    """A journal of BATCHES records of BATCH messages, and what it was when each was committed."""

    def __init__(self, path: Path, checkpoints: dict[int, dict[str, int]], *, first: int = 1) -> None:
        """
        Args:
            checkpoints: by number of the record that they are committed with, from 1: positions by host.
            first: the first record that the log still has.
        """
        self.path = path
        self.states: dict[int, bytes] = {}
        self.frames: list[bytes] = []
        sequencer = Sequencer()
        with closing(JournalWriter(path, map_mb=16, commit_ms=1)) as writer:
            writer.put_meta("run", b"what it is")
            for number in range(1, BATCHES + 1):
                frames = (
                    [sequencer.announce(m.KernelStarted(0, 1, "0", "demo", ["trade"]))] if number == 1 else []
                )
                while len(frames) < BATCH:
                    seed = random.Random(sequencer.seq).randbytes(8).hex()
                    frames.append(sequencer.announce(m.HaltTrading(sequencer.seq, "operator", seed)))
                self.states[sequencer.seq] = sequencer.to_bytes()
                self.frames += frames
                found = [
                    Checkpoint(host, position, self.states.get(position, b"") if host == "kernel" else b"it")
                    for host, position in checkpoints.get(number, {}).items()
                ]
                writer.append(frames, sequencer.take_kept()[:], found)
                assert writer.commit_pending()
        for number in range(1, first):
            self.change("log", (number - 1) * BATCH + 1, lambda value: None)

    def change(self, table: str, key: int | bytes, how: Callable[[bytes], bytes | None]) -> None:
        """Store *how* of a value in its place; None takes it away."""
        key = key.to_bytes(8, "big") if isinstance(key, int) else key
        with lmdb.open(str(self.path), max_dbs=4) as env:
            handle = env.open_db(table.encode())
            with env.begin(write=True) as txn:
                value = how(bytes(txn.get(key, db=handle)))
                txn.delete(key, db=handle) if value is None else txn.put(key, value, db=handle)

    def rows(self) -> list[tuple[str, bytes]]:
        """Return every (table, key) that is stored."""
        found = []
        with lmdb.open(str(self.path), max_dbs=4) as env:
            for table in ("log", "kept", "meta", "checkpoints"):
                handle = env.open_db(table.encode())
                with env.begin() as txn:
                    found += [(table, bytes(key)) for key, _ in txn.cursor(handle)]
        return found

    def recover(self, hosts: list[str] | None = None) -> runs.Recovered:
        return runs.recover(self.path, hosts)

    def log(self) -> list[bytes]:
        with closing(JournalReader(self.path)) as reader:
            return list(reader.frames())


def torn(value: bytes) -> bytes:
    return value[: len(value) // 2]


def flipped(value: bytes) -> bytes:
    return value[:-3] + bytes([value[-3] ^ 4]) + value[-2:]


@pytest.fixture
def journal(tmp_path) -> Written:
    return Written(
        tmp_path / "journal",
        {2: {"kernel": 20, "trade": 15}, 4: {"kernel": 40, "trade": 38}, 6: {"kernel": 60, "trade": 58}},
    )


# --- A damaged end --------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [torn, flipped], ids=["torn", "flipped"])
def test_a_damaged_end_is_cut_off_set_aside_and_told(journal, damage):
    journal.change("log", 71, damage)

    recovered = journal.recover()

    assert recovered.state.seq == 70
    assert recovered.repaired.startswith("the journal was damaged from seq 71 on")
    assert "10 kept messages" in recovered.repaired
    assert journal.log() == journal.frames[:70]
    (aside,) = journal.path.parent.glob("journal.damaged-71-*")
    unpacked = read_aside(aside.read_bytes())
    assert [(table, int.from_bytes(key, "big")) for table, key, _ in unpacked] == [("log", 71), ("kept", 71)]


def read_aside(data: bytes) -> list[list[Any]]:
    """Return the rows of a file of msgpack arrays, one behind the other."""
    rows = []
    while data:
        for size in range(1, len(data) + 1):
            try:
                rows.append(msgspec.msgpack.decode(data[:size]))
                data = data[size:]
                break
            except msgspec.DecodeError:
                continue
    return rows


def test_what_was_cut_is_told_until_something_is_written_behind_it(journal):
    journal.change("log", 71, torn)
    told = journal.recover().repaired

    assert journal.recover().repaired == told
    with closing(JournalWriter(journal.path, map_mb=16, commit_ms=1)) as writer:
        writer.append(journal.frames[70:71], [], [])
        assert writer.commit_pending()

    assert journal.recover().repaired == ""
    assert journal.log() == journal.frames[:71]


def test_checkpoints_that_know_more_than_what_is_left_go_with_the_cut(journal):
    for seq in (51, 61, 71):
        journal.change("log", seq, flipped)

    recovered = journal.recover()

    assert recovered.state.seq == 50
    with closing(JournalReader(journal.path)) as reader:
        assert [found.position for found in reader.checkpoints("trade")] == [38]
        assert [found.position for found in reader.checkpoints("kernel")] == [40]
        assert list(reader.frames(table="kept"))[-1] == journal.frames[49]


def test_a_checkpoint_written_after_the_cut_goes_although_it_stands_before_it(tmp_path):
    # What its host published until then is cut off, and it would not say that again.
    journal = Written(tmp_path / "journal", {4: {"kernel": 40, "trade": 38}, 6: {"kernel": 60, "trade": 45}})
    for seq in (51, 61, 71):
        journal.change("log", seq, flipped)

    assert journal.recover().state.seq == 50
    with closing(JournalReader(journal.path)) as reader:
        whole, damaged = reader.stored_checkpoints("trade")
    assert ([found.position for found in whole], damaged) == ([38], [])


def test_a_damaged_end_that_everybody_has_passed_is_left_alone(tmp_path):
    journal = Written(tmp_path / "journal", {8: {"kernel": 80, "trade": 80}})
    journal.change("log", 71, flipped)

    with capture_logs() as logs:
        recovered = journal.recover()

    assert (recovered.state.seq, recovered.repaired) == (80, "")
    assert [log["event"] for log in logs] == ["journal.damage_found"]
    with closing(JournalWriter(journal.path, map_mb=16, commit_ms=1)) as writer:
        assert writer.committed == 80


def test_where_a_cut_would_leave_a_host_with_nothing_it_is_not_made(tmp_path):
    journal = Written(tmp_path / "journal", {7: {"kernel": 70}, 8: {"kernel": 80, "trade": 75}}, first=7)
    journal.change("log", 71, torn)

    with pytest.raises(StoreCorrupt, match=r"host trade needs that .* though trade would begin anew"):
        journal.recover()
    assert journal.recover(["another"]).state.seq == 80


def test_a_journal_of_which_nothing_is_whole_begins_anew_and_says_so(tmp_path):
    journal = Written(tmp_path / "journal", {})
    for seq in range(1, 80, BATCH):
        journal.change("log", seq, torn)

    recovered = journal.recover()

    assert recovered.state.seq == 0
    assert "from seq 1 on" in recovered.repaired or "seq 1 to" in recovered.repaired


def test_what_is_cut_off_can_be_kept_elsewhere(journal):
    kept = BytesIO()
    journal.change("log", 71, torn)

    runs.recover(journal.path, aside=lambda path, rows: kept.writelines(rows), is_probed=False)

    assert [row[0] for row in read_aside(kept.getvalue())] == ["log", "kept"]
    assert list(journal.path.parent.glob("*.damaged*")) == []


# --- Damage in the middle -------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [torn, flipped, lambda value: None], ids=["torn", "flipped", "gone"])
def test_damage_that_a_host_needs_stops_the_start_and_names_it(journal, damage):
    journal.change("log", 61, damage)
    before = journal.rows()

    with pytest.raises(
        StoreCorrupt,
        match=r"seq 61 to 70: .* host (kernel|trade).*`tickerml journal repair` can end it at seq 60",
    ):
        journal.recover()
    assert journal.rows() == before


def test_damage_that_nobody_needs_is_logged_and_passed(journal):
    journal.change("log", 51, flipped)

    with capture_logs() as logs:
        recovered = journal.recover([])

    assert recovered.state.seq == 80
    assert [log["event"] for log in logs] == ["journal.damage_found"]
    with pytest.raises(StoreCorrupt, match=r"seq 51 to 60.*host trade"):
        journal.recover(["trade"])


def test_a_damaged_checkpoint_of_the_kernel_gives_way_to_the_one_before(journal):
    journal.change("checkpoints", b"kernel\0" + (60).to_bytes(8, "big"), torn)

    assert journal.recover().state == msgspec.msgpack.decode(journal.states[80], type=SequencerState)


def test_without_a_checkpoint_of_the_kernel_the_whole_log_is_enough(journal):
    for position in (40, 60):
        journal.change("checkpoints", b"kernel\0" + position.to_bytes(8, "big"), torn)

    assert journal.recover().state.seq == 80


def test_without_a_checkpoint_and_without_the_beginning_there_is_no_going_on(tmp_path):
    journal = Written(tmp_path / "journal", {4: {"kernel": 40}, 5: {"kernel": 50}}, first=4)
    for position in (40, 50):
        journal.change("checkpoints", b"kernel\0" + position.to_bytes(8, "big"), torn)

    with pytest.raises(StoreCorrupt, match=r"no checkpoint of kernel is whole.*--fresh"):
        journal.recover()


def test_a_checkpoint_of_another_past_is_refused(tmp_path):
    journal = Written(tmp_path / "journal", {4: {"kernel": 40, "trade": 35}, 6: {"kernel": 60, "trade": 55}})
    other = Written(tmp_path / "other", {3: {"trade": 22}, 6: {"kernel": 60, "trade": 56}})
    with lmdb.open(str(other.path), max_dbs=4) as env, env.begin() as txn:
        key = b"trade\0" + (56).to_bytes(8, "big")
        stranger = bytes(txn.get(key, db=env.open_db(b"checkpoints", txn)))
    with lmdb.open(str(journal.path), max_dbs=4) as env:
        table = env.open_db(b"checkpoints")
        with env.begin(write=True) as txn:
            txn.put(key, stranger, db=table)

    with closing(JournalReader(journal.path)) as reader, capture_logs() as logs:
        positions = [found.position for found in reader.checkpoints("trade")]

    assert 56 not in positions
    assert "of another past" in logs[0]["error"]


def test_a_journal_of_another_format_is_named_and_not_cut(journal):
    for key in (b"format", b"format+"):
        journal.change("meta", key, lambda value: None)
    journal.change("log", 1, lambda value: b"\x01" + value[1:])

    with pytest.raises(StoreCorrupt, match="is of format 1, and this version of TickerML reads 2"):
        journal.recover()
    with pytest.raises(StoreCorrupt, match="format 1"):
        JournalWriter(journal.path, map_mb=16, commit_ms=1)


def test_a_journal_that_has_lost_its_format_is_damaged_and_can_be_repaired(journal):
    for key in (b"format", b"format+"):
        journal.change("meta", key, torn)

    with pytest.raises(StoreCorrupt, match="entry format is damaged"):
        journal.recover()
    assert len(mend(journal.path)) == 1
    assert journal.recover().state.seq == 80
    assert report_of(journal.path)["ok"]


# --- Children -------------------------------------------------------------------------------------


def test_what_a_child_yields_arrives():
    assert list(run_in_child(lambda: iter([1, b"two", ["three"]]), "counting")) == [1, b"two", ["three"]]


def test_the_error_of_a_child_is_raised_as_it_was():
    def fail() -> Iterator[int]:
        yield 1
        raise StoreError("no room")

    with pytest.raises(StoreError, match="no room"):
        list(run_in_child(fail, "counting"))


def test_a_child_that_crashes_is_a_finding_with_its_last_words():
    def crash() -> Iterator[int]:
        yield 1
        os.write(2, b"assertion failed")
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(StoreCorrupt, match="counting ended its process with SIGSEGV: assertion failed"):
        list(run_in_child(crash, "counting"))


def test_a_child_that_hangs_is_ended():
    def hang() -> Iterator[int]:
        yield 1
        time.sleep(60)

    with pytest.raises(StoreCorrupt, match=r"counting did not come to an end within 0\.2 s"):
        list(run_in_child(hang, "counting", limit_s=0.2))


# --- Verifying ------------------------------------------------------------------------------------


def report_of(path: Path) -> dict[str, Any]:
    *_, report = verify(path)
    return report


def test_a_whole_journal_is_found_whole(journal):
    report = report_of(journal.path)

    assert report["ok"]
    assert (report["records"], report["messages"], report["kept"]) == (8, 80, 80)
    assert (report["first_seq"], report["last_seq"]) == (1, 80)
    assert report["checkpoints"]["trade"] == {"whole": [58, 38], "damaged": []}


def test_each_damage_is_found_in_its_place(journal):
    journal.change("log", 21, torn)
    journal.change("log", 41, lambda value: None)
    journal.change("kept", 31, lambda value: None)
    journal.change("kept", 61, flipped)
    journal.change("kept", 71, lambda value: None)
    journal.change("checkpoints", b"trade\0" + (38).to_bytes(8, "big"), flipped)

    report = report_of(journal.path)

    assert not report["ok"]
    found = {(one["table"], one["first_seq"], one["last_seq"]) for one in report["damaged"]}
    assert found == {("log", 21, 30), ("log", 41, 50), ("kept", 31, 40), ("kept", 61, None)}
    assert "at 38 is damaged" in report["checkpoints"]["trade"]["damaged"][0]


def test_a_file_that_is_no_journal_is_a_finding(tmp_path):
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "data.mdb").write_bytes(random.Random(1).randbytes(100_000))

    with pytest.raises(StoreError, match="cannot open the journal"):
        report_of(tmp_path / "journal")


# --- Repairing by hand ----------------------------------------------------------------------------


def mend(path: Path) -> list[str]:
    """Do all that is needed; returns what was done."""
    done = []
    while (needed := repair.diagnose(path, lambda reader: None)).words:
        assert needed.remedy != repair.Remedy.NOTHING.value
        done.append(repair.apply(path, needed, "now"))
    return done


def test_a_whole_journal_needs_nothing(journal):
    assert repair.diagnose(journal.path, lambda reader: None) == repair.Diagnosis("")


def test_a_journal_damaged_where_a_host_needs_it_is_cut_there(journal):
    journal.change("log", 61, flipped)

    (done,) = mend(journal.path)

    assert "it now ends at seq 60" in done
    assert journal.log() == journal.frames[:60]
    recovered = journal.recover()
    assert (recovered.state.seq, recovered.repaired) == (60, done)


def test_what_is_kept_is_mended_from_the_log(journal):
    journal.change("kept", 21, flipped)
    journal.change("kept", 51, lambda value: None)
    journal.change("kept", 71, torn)

    (done,) = mend(journal.path)

    assert "3 damaged places" in done
    assert "3 of them written again from the log" in done
    assert report_of(journal.path)["ok"]
    with closing(JournalReader(journal.path)) as reader:
        assert list(reader.frames(table="kept")) == journal.frames
    (aside,) = journal.path.parent.glob("journal.damaged-kept-21-*")
    assert [int.from_bytes(key, "big") for _, key, _ in read_aside(aside.read_bytes())] == [21, 71]


def test_what_is_kept_and_nowhere_else_is_left_out_where_it_is_damaged(tmp_path):
    journal = Written(tmp_path / "journal", {6: {"kernel": 60}}, first=5)
    journal.change("kept", 21, flipped)

    (done,) = mend(journal.path)

    assert "0 of them written again" in done
    assert report_of(journal.path)["ok"]
    with closing(JournalReader(journal.path)) as reader:
        assert list(reader.frames(table="kept")) == journal.frames[:20] + journal.frames[30:]
        assert list(reader.frames(after=75, table="kept")) == journal.frames[75:]


def fill_pages(path: Path, numbers: list[int]) -> None:
    """Write rubbish over pages of the file, as a broken disk does."""
    with (path / "data.mdb").open("r+b") as file:
        for number in numbers:
            file.seek(4096 * number)
            file.write(random.Random(number).randbytes(4096))


@pytest.mark.parametrize("seed", range(12))
def test_a_file_with_broken_pages_ends_no_kernel_and_gives_what_can_be_read(tmp_path, seed):
    journal = Written(tmp_path / "journal", {4: {"kernel": 40, "trade": 38}, 6: {"kernel": 60, "trade": 58}})
    dice = random.Random(seed)
    pages = (journal.path / "data.mdb").stat().st_size // 4096
    fill_pages(journal.path, dice.sample(range(2, pages), 1 + seed % 3))

    with suppress(StoreError):
        recovered = runs.recover(journal.path)
        assert recovered.state.seq == 80 or recovered.repaired
    try:
        mend(journal.path)
    except StoreCorrupt:
        return
    assert runs.recover(journal.path).state.seq <= 80
    got: list[bytes] = []
    with suppress(StoreCorrupt):  # damage that nobody needs stays where it is
        got.extend(frame for record in records_of(journal.path) for frame in record.frames)
    assert got == journal.frames[(frame_seq(got[0]) if got else 1) - 1 :][: len(got)]


def records_of(path: Path) -> Iterator[Record]:
    with closing(JournalReader(path)) as reader:
        yield from reader.records()


def test_what_cannot_be_read_at_all_is_left_as_it_is(journal):
    pages = (journal.path / "data.mdb").stat().st_size // 4096
    fill_pages(journal.path, list(range(2, pages)))
    before = (journal.path / "data.mdb").read_bytes()

    with pytest.raises(StoreCorrupt, match=r"nothing in the journal .* can be read: restore a backup"):
        mend(journal.path)

    assert (journal.path / "data.mdb").read_bytes() == before
    assert sorted(entry.name for entry in journal.path.parent.iterdir()) == ["journal"]


def test_a_journal_cut_short_ends_no_kernel_and_says_what_to_do(journal):
    os.truncate(journal.path / "data.mdb", 10_000)

    for ask in (lambda: runs.read(journal.path.parent), journal.recover):
        with pytest.raises(StoreCorrupt, match=r"is damaged: reading it ended .*`tickerml journal repair`"):
            ask()


def test_a_host_without_a_checkpoint_needs_the_journal_from_its_beginning(tmp_path):
    journal = Written(tmp_path / "journal", {6: {"kernel": 60}})
    journal.change("log", 11, flipped)

    with pytest.raises(StoreCorrupt, match=r"seq 11 to 20: .* host trade needs that"):
        journal.recover(["trade"])
    assert journal.recover([]).state.seq == 80


# --- Any byte -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Written:
    path = tmp_path_factory.mktemp("pristine") / "journal"
    return Written(path, {3: {"kernel": 30, "trade": 25}, 5: {"kernel": 50, "trade": 48}})


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whatever_byte_of_whatever_row_is_lost_nothing_wrong_comes_out(pristine, data):
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(pristine.path, Path(directory) / "journal")
        journal = Written.__new__(Written)
        journal.path = Path(directory) / "journal"
        for _ in range(data.draw(st.integers(1, 3))):
            table, key = data.draw(st.sampled_from(journal.rows()))
            journal.change(table, key, data.draw(st.sampled_from([shorten, flip]))(data))
        check_reading(journal, pristine)
        try:
            recovered = runs.recover(journal.path, is_probed=False)
        except StoreError:
            return
        seq = recovered.state.seq
        if seq == 0 or seq % BATCH:
            assert seq == 0
        else:
            assert recovered.state == msgspec.msgpack.decode(pristine.states[seq], type=SequencerState)
        assert seq == 80 or recovered.repaired
        check_reading(journal, pristine)


def shorten(data: st.DataObject) -> Callable[[bytes], bytes]:
    part = data.draw(st.floats(0, 1, exclude_max=True))
    return lambda value: value[: int(len(value) * part)]


def flip(data: st.DataObject) -> Callable[[bytes], bytes]:
    at, bits = data.draw(st.integers(0, 2**32)), data.draw(st.integers(1, 255))
    return lambda value: (
        bytes([byte ^ bits if index == at % len(value) else byte for index, byte in enumerate(value)])
        if value
        else value
    )


def check_reading(journal: Written, pristine: Written) -> None:
    """Make sure that each table gives nothing but what was written, in order."""
    try:
        reader = JournalReader(journal.path)
    except StoreCorrupt:
        return
    with closing(reader):
        for table in ("log", "kept"):
            for after in (0, 17, 50, 75):
                got: list[bytes] = []
                try:
                    got.extend(reader.frames(after, table=table))
                except StoreCorrupt:
                    assert got == pristine.frames[after : after + len(got)]
                else:
                    ends = frame_seq(got[-1]) if got else after
                    assert got == pristine.frames[after:ends]
        for host in ("kernel", "trade"):
            try:
                found = reader.checkpoints(host)
            except StoreCorrupt:
                continue
            for one in found:
                wanted = pristine.states[one.position] if host == "kernel" else b"it"
                assert one.state == wanted
        with suppress(StoreCorrupt):
            assert reader.meta("run") == b"what it is"


# --- The commands ---------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(log, "configure", lambda **options: None)  # for good, and for every later test
    directory = tmp_path / "home" / "runs" / "demo" / "0001"
    directory.mkdir(parents=True)
    Written(directory / "journal", {6: {"kernel": 60, "trade": 58}})
    return directory


def damage(run_dir: Path, seq: int) -> None:
    journal = Written.__new__(Written)
    journal.path = run_dir / "journal"
    journal.change("log", seq, flipped)


def command(run_dir: Path, *arguments: str, typed: str = "", code: int = 0) -> Result:
    """Run `tickerml journal` on *run_dir*."""
    done = CliRunner().invoke(app, [arguments[0], "--run", str(run_dir), *arguments[1:]], input=typed)
    assert done.exit_code == code, done.output
    return done


def test_verify_says_whole_or_damaged_with_its_exit_code(run_dir):
    assert command(run_dir, "verify").stdout.startswith("whole")
    damage(run_dir, 61)

    assert "log  seq 61 to 70: " in command(run_dir, "verify", code=1).stdout
    report = json.loads(command(run_dir, "verify", "--json", code=1).stdout)
    assert (report["ok"], report["damaged"][0]["first_seq"]) == (False, 61)


def test_repair_tells_and_asks_before_it_drops_anything(run_dir):
    damage(run_dir, 61)

    refused = command(run_dir, "repair", typed="n\n", code=1)
    assert "It will end at seq 60; what is behind that, to about seq 80, is set aside" in refused.stderr
    assert not json.loads(command(run_dir, "verify", "--json", code=1).stdout)["ok"]

    done = json.loads(command(run_dir, "repair", "--yes", "--json").stdout.splitlines()[-1])
    assert "it now ends at seq 60" in done["done"][0]
    assert json.loads(command(run_dir, "verify", "--json").stdout)["last_seq"] == 60
    assert json.loads(command(run_dir, "repair", "--yes", "--json").stdout) == {"repaired": False, "done": []}


def test_repair_wants_the_home_for_itself(run_dir):
    home = run_dir.parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()

        done = CliRunner().invoke(app, ["repair", "--run", str(run_dir), "--yes"])

        holder.kill()
    assert isinstance(done.exception, StoreLocked)


HOLD = """
import sys
from pathlib import Path
from tickerml.kernel.runs import HomeLock
lock = HomeLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_export_writes_what_was_asked_for_with_its_origin(run_dir, tmp_path):
    out = tmp_path / "part.jsonl"
    command(run_dir, "export", "--after", "5", "--until", "25", "--topic", "control.", "--out", str(out))

    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["seq"] for row in rows] == list(range(6, 26))
    assert {(row["type"], row["topic"], row["origin"]) for row in rows} == {
        ("HaltTrading", "control.", "kernel")
    }


def test_export_names_what_is_damaged_and_skips_it_only_when_told(run_dir):
    damage(run_dir, 61)

    assert isinstance(CliRunner().invoke(app, ["export", "--run", str(run_dir)]).exception, StoreCorrupt)
    done = command(run_dir, "export", "--skip-damaged")

    seqs = [json.loads(line)["seq"] for line in done.stdout.splitlines()]
    assert seqs == [*range(1, 61), *range(71, 81)]
    assert "skipped seq 61 to 70" in done.stderr
