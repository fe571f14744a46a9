"""Runs: one kernel per home, and a start that knows what it continues."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tickerml.kernel import StoreCorrupt, StoreError, StoreLocked, codec, runs
from tickerml.kernel import messages as m
from tickerml.kernel.config import KernelSettings, Plan, PluginPlan
from tickerml.kernel.journal import Checkpoint, JournalWriter
from tickerml.kernel.runs import HomeLock, Run
from tickerml.kernel.sequencer import Sequencer, SequencerState


def plan(
    *, clock: str = "data", speed: str = "max", seed: int = 7, enabled: bool = True, **options: object
) -> Plan:
    plugin = PluginPlan(
        id="p", kind="store", host="h", enabled=enabled, module="", publishes=None, options=options
    )
    settings = KernelSettings(clock=clock, speed=speed, seed=seed)
    return Plan(config="plugins.toml", profile="demo", kernel=settings, plugins=[plugin])


def start(home: Path, of: Plan, started_ns: int = 5, *, is_fresh: bool = False) -> tuple[Path, Run]:
    """Choose a run and say in its journal what it is, as a kernel does."""
    directory, run = runs.choose(home, of, started_ns, is_fresh=is_fresh)
    write(directory, run)
    return directory, run


def write(directory: Path, run: Run) -> None:
    with closing(JournalWriter(directory / "journal", map_mb=1, commit_ms=1)) as journal:
        journal.put_meta(runs.RUN_KEY, msgspec.msgpack.encode(run))


# --- One kernel per home --------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from tickerml.kernel.runs import HomeLock
lock = HomeLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_home_belongs_to_one_kernel_until_its_process_ends(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "home")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        with pytest.raises(
            StoreLocked, match=rf"pid {holder.pid}\) runs on .*`tickerml stop`, or use another"
        ):
            HomeLock(tmp_path / "home")

        holder.kill()
        holder.wait()
        HomeLock(tmp_path / "home")


def test_a_home_that_cannot_be_made_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreError, match=r"cannot use the home .*--home"):
        HomeLock(tmp_path / "file" / "home")


def test_a_new_home_is_for_its_owner_alone(tmp_path):
    HomeLock(tmp_path / "home")

    assert (tmp_path / "home").stat().st_mode & 0o077 == 0


# --- Which run ------------------------------------------------------------------------------------


def test_the_first_run_is_number_one(tmp_path):
    directory, run = runs.choose(tmp_path, plan(), 42)

    assert directory == tmp_path / "runs" / "demo" / "0001"
    assert (run.profile, run.number, run.started_ns, run.is_complete) == ("demo", 1, 42, False)


def test_a_run_that_is_not_finished_is_continued_with_its_own_beginning(tmp_path):
    directory, run = start(tmp_path, plan(), started_ns=5)

    assert runs.choose(tmp_path, plan(), started_ns=99) == (directory, run)


def test_a_finished_run_is_followed_by_a_new_one(tmp_path):
    directory, run = start(tmp_path, plan())
    write(directory, msgspec.structs.replace(run, is_complete=True))

    following, new = runs.choose(tmp_path, plan(), 99)

    assert (following.name, new.number, new.started_ns) == ("0002", 2, 99)


def test_a_fresh_run_is_begun_where_it_is_asked_for(tmp_path):
    start(tmp_path, plan())

    assert runs.choose(tmp_path, plan(), 99, is_fresh=True)[0].name == "0002"


@pytest.mark.parametrize(
    "changed", [plan(seed=8), plan(files=["other"]), plan(enabled=False)], ids=["seed", "option", "plugin"]
)
def test_a_run_over_data_that_is_made_of_something_else_is_another_run(tmp_path, changed):
    start(tmp_path, plan())

    assert runs.choose(tmp_path, changed, 99)[0].name == "0002"


def test_the_speed_of_a_run_over_data_makes_no_difference(tmp_path):
    start(tmp_path, plan(speed="max"))

    assert runs.choose(tmp_path, plan(speed="2"), 99)[0].name == "0001"


def test_a_run_on_the_wall_clock_goes_on_whatever_is_changed(tmp_path):
    start(tmp_path, plan(clock="wall", speed="1"))

    assert runs.choose(tmp_path, plan(clock="wall", speed="1", seed=9, x=1), 99)[0].name == "0001"


def test_a_run_that_never_got_to_say_what_it_is_is_left_alone(tmp_path):
    JournalWriter(tmp_path / "runs" / "demo" / "0001" / "journal", map_mb=1, commit_ms=1).close()
    (tmp_path / "runs" / "demo" / "0002").mkdir()

    assert runs.read(tmp_path / "runs" / "demo" / "0001") is None
    assert runs.choose(tmp_path, plan(), 99)[0].name == "0003"


def test_the_tenthousandth_run_still_has_a_place(tmp_path):
    directory = tmp_path / "runs" / "demo" / "9999"
    write(directory, Run(profile="demo", number=9999, fingerprint="other", started_ns=1))

    directory, run = start(tmp_path, plan())

    assert (directory.name, run.number) == ("10000", 10_000)
    assert runs.choose(tmp_path, plan(), 99)[0] == directory


# --- Where it stood -------------------------------------------------------------------------------


def test_without_a_journal_a_run_stands_at_its_beginning(tmp_path):
    assert runs.recover(tmp_path / "journal") == runs.Recovered(SequencerState())


def test_a_run_stands_where_its_journal_ends(tmp_path):
    sequencer = Sequencer()
    frames = [sequencer.announce(m.KernelStarted(0, sequencer.session, "0", "demo", []))]
    checkpoint = Checkpoint("kernel", sequencer.seq, sequencer.to_bytes())
    frames += [sequencer.announce(m.TimeTick(ts)) for ts in range(10)]
    with closing(JournalWriter(tmp_path / "journal", map_mb=1, commit_ms=1)) as journal:
        journal.append(frames, [], [checkpoint])
        journal.commit_pending()

    recovered = runs.recover(tmp_path / "journal")

    assert recovered.state == msgspec.msgpack.decode(sequencer.to_bytes(), type=SequencerState)
    assert recovered.state.seq == 11
    assert recovered.repaired == ""
    assert recovered.written_ns > 0


def test_a_journal_with_messages_of_another_version_is_not_continued(tmp_path):
    frame = codec.stamp(codec.pack_output(b"system.", 0, 1, 1, 0, b"\x91\xa7Unheard"), 8, 1, 1)
    with closing(JournalWriter(tmp_path / "journal", map_mb=1, commit_ms=1)) as journal:
        journal.append([frame], [], [])
        journal.commit_pending()

    with pytest.raises(StoreCorrupt, match=r"cannot go on from the journal .* use the version"):
        runs.recover(tmp_path / "journal")


def test_the_newest_run_is_the_one_written_last(tmp_path):
    assert runs.latest(tmp_path) is None
    older, _ = start(tmp_path, plan())
    newer, _ = start(tmp_path, plan(), is_fresh=True)
    os.utime(newer / "journal" / "data.mdb", (1, 1))

    assert runs.latest(tmp_path) == older
    assert runs.latest(tmp_path, "demo") == older
    assert runs.latest(tmp_path, "pi") is None
