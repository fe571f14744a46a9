"""
Where a run keeps its state, and whether a start continues one.

    HOME/kernel.lock                held by the one kernel of this home
    HOME/kernel.json                how it is reached while it runs
    HOME/logs/HOST.log              what each host wrote
    HOME/runs/PROFILE/0001/journal  one run: its journal and its plugins' files

A run whose time is the wall clock goes on for as long as its home does. A run over
recorded or generated data ends when the data does; starting it again, or changing
what it is made of, begins a new one beside it.
"""

import fcntl
import hashlib
import os
from pathlib import Path

import msgspec

from .config import Plan
from .errors import StoreError, StoreLocked
from .journal import JournalReader
from .sequencer import SequencerState, roll_forward

RUN_KEY = "run"
PLAN_KEY = "plan"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is; kept in its journal."""

    profile: str
    number: int
    fingerprint: str
    started_ns: int
    is_complete: bool = False


class HomeLock:
    """One kernel per home: an advisory lock that the system drops when the process ends."""

    def __init__(self, home: Path) -> None:
        """
        Raises: StoreLocked: another kernel holds it. StoreError: the home cannot be written.
        """
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(home / "kernel.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"cannot use the home {home}: {error.strerror}; choose another with --home"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._file, 20, 0).decode() or "unknown"
            os.close(self._file)
            raise StoreLocked(
                f"another kernel (pid {holder}) runs on {home}; stop it with `tickerml stop`, "
                "or use another --home"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)


def fingerprint(plan: Plan) -> str:
    """Return a digest of what decides a run over data: its plugins, their options and the seed."""
    if plan.kernel.clock == "wall" and plan.kernel.speed == "1":
        return ""
    content = [(plugin.id, plugin.module, plugin.options) for plugin in plan.plugins if plugin.enabled]
    return hashlib.sha256(msgspec.json.encode([content, plan.kernel.seed], order="sorted")).hexdigest()[:16]


def latest(home: Path, profile: str = "") -> Path | None:
    """Return the directory of the newest run, of *profile* or of any; None without one."""
    found = sorted(
        home.glob(f"runs/{profile or '*'}/[0-9]*/journal/data.mdb"), key=lambda p: p.stat().st_mtime
    )
    return found[-1].parent.parent if found else None


def read(run_dir: Path) -> Run | None:
    """Return what the run in *run_dir* is; None when it never got to say so."""
    reader = JournalReader(run_dir / "journal")
    try:
        data = reader.meta(RUN_KEY)
        return msgspec.msgpack.decode(data, type=Run) if data else None
    finally:
        reader.close()


def choose(home: Path, plan: Plan, started_ns: int, *, is_fresh: bool = False) -> tuple[Path, Run]:
    """
    Return the directory and the identity of the run to start: the one to continue, or a new one.

    Args:
        started_ns: when a new run begins, ns UTC.
        is_fresh: begin a new one in any case.
    """
    base = home / "runs" / plan.profile
    numbers = sorted(int(path.name) for path in base.glob("[0-9]*") if path.name.isdigit())
    identity = fingerprint(plan)
    if numbers and not is_fresh and (base / f"{numbers[-1]:04}" / "journal" / "data.mdb").exists():
        directory = base / f"{numbers[-1]:04}"
        run = read(directory)
        if run and run.fingerprint == identity and not run.is_complete:
            return directory, run
    number = (numbers[-1] if numbers else 0) + 1
    run = Run(profile=plan.profile, number=number, fingerprint=identity, started_ns=started_ns)
    return base / f"{number:04}", run


def recover(journal: Path) -> SequencerState:
    """
    Return where the order stood when the journal at *journal* was last written; the beginning without one.

    Raises: StoreCorrupt: its last record is damaged, so what we would continue is not whole.
    """
    if not (journal / "data.mdb").exists():
        return SequencerState()
    reader = JournalReader(journal)
    try:
        written = reader.meta("state")
        seq = msgspec.msgpack.decode(written, type=SequencerState).seq if written else 0
        for _ in reader.records(max(0, reader.head() - 1)):
            pass
        return roll_forward(written, reader.frames(seq))
    finally:
        reader.close()
