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

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from . import repair
from .config import Plan
from .environment import Opener, is_there, open_environment
from .errors import CodecError, StoreCorrupt, StoreError, StoreLocked
from .journal import Checkpoint, JournalReader
from .lock import Held, hold
from .sequencer import KERNEL, SequencerState, roll_forward

logger = structlog.get_logger()

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
            self._file = hold(home, "kernel.lock")
        except Held as holder:
            raise StoreLocked(
                f"another kernel (pid {holder}) runs on {home}; stop it with `tickerml stop`, "
                "or use another --home"
            ) from None

    def close(self) -> None:
        """Give the home back before this process ends."""
        os.close(self._file)


def fingerprint(plan: Plan) -> str:
    """Return a digest of what decides a run over data: its plugins, their options and the seed."""
    if plan.kernel.clock == "wall" and plan.kernel.speed == "1":
        return ""
    content = [(plugin.id, plugin.module, plugin.options) for plugin in plan.plugins if plugin.enabled]
    return hashlib.sha256(msgspec.json.encode([content, plan.kernel.seed], order="sorted")).hexdigest()[:16]


def rebuilt_hosts(reader: JournalReader) -> list[str] | None:
    """Return the hosts that are rebuilt from a journal, as its own plan has it; None: it does not say."""
    with contextlib.suppress(StoreError, msgspec.MsgspecError):
        if data := reader.meta(PLAN_KEY):
            return list(msgspec.json.decode(data, type=Plan).consumers())
    return None


def origins(reader: JournalReader) -> list[str]:
    """Return the names of the components, by their numbers, as far as they can be known."""
    with contextlib.suppress(StoreError, msgspec.MsgspecError):
        if checkpoint := reader.checkpoint(KERNEL):
            return msgspec.msgpack.decode(checkpoint.state, type=SequencerState).origins
    return []


def latest(home: Path, profile: str = "") -> Path | None:
    """Return the directory of the newest run, of *profile* or of any; None without one."""
    found = sorted(
        home.glob(f"runs/{profile or '*'}/[0-9]*/journal/data.mdb"), key=lambda p: p.stat().st_mtime
    )
    return found[-1].parent.parent if found else None


def read(run_dir: Path) -> Run | None:
    """
    Return what the run in *run_dir* is; None when it never got to say so.

    Raises: StoreError: there is no journal. StoreCorrupt: it cannot be read.
    """
    path = run_dir / "journal"
    # In a child, because nobody has yet seen whether LMDB survives this file.
    (data,) = repair.in_child(path, lambda: _read_run(path))
    try:
        return msgspec.msgpack.decode(data, type=Run) if data else None
    except msgspec.MsgspecError as error:
        raise StoreCorrupt(
            f"the journal {path} is not understood: {error}; use the version of TickerML that wrote it, "
            "or begin a new run with --fresh"
        ) from None


def _read_run(path: Path) -> Iterator[bytes]:
    with contextlib.closing(JournalReader(path)) as reader:
        yield reader.meta(RUN_KEY)


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


class Recovered(NamedTuple):
    """Where a run stands."""

    state: SequencerState
    repaired: str = ""  # what the journal has lost since it was last written; trading must halt for it
    written_ns: int = 0  # when that was, in the journal's time; 0 where nothing was


def recover(
    journal: Path,
    hosts: Iterable[str] | None = None,
    *,
    opener: Opener = open_environment,
    aside: repair.SetAside = repair.set_aside,
    is_probed: bool = True,
) -> Recovered:
    """
    Return where the order stood when the journal at *journal* was last written; the beginning without one.

    A damaged end is cut off here, and told in `repaired` until something is written behind it:
    whoever goes on must write the halt together with the first thing it writes.

    Args:
        hosts: those that are rebuilt from it, see Plan.consumers(); None: all that have checkpoints.
        aside: writes down what is cut off.
        is_probed: whether a child reads it first, in case LMDB does not survive that; it must be
            LMDB's, and this process have one thread.
    Raises: StoreCorrupt: something is damaged without which it cannot go on. StoreError.
    """
    if not is_there(journal, opener):
        return Recovered(SequencerState())
    names = None if hosts is None else list(hosts)
    if is_probed:
        repair.probe(journal, names)
    with contextlib.closing(JournalReader(journal, opener=opener)) as reader:
        found = repair.Examination(reader, names)
        needed = found.find_cut()
        for damage in found.damages:
            logger.error("journal.damage_found", seq=damage.first_seq, error=str(damage))
        if needed is None:
            return _stand(reader, found)
    repair.check_cut(journal, needed, found)
    repair.cut(journal, needed.seq, needed.reason, opener=opener, aside=aside)
    with contextlib.closing(JournalReader(journal, opener=opener)) as reader:
        return _stand(reader, repair.Examination(reader, names))


def _stand(reader: JournalReader, found: repair.Examination) -> Recovered:
    if lost := found.lost(None):
        raise StoreCorrupt(
            f"in the journal {reader.path} no checkpoint of {', '.join(lost)} is whole, and it no longer has "
            "its beginning, from which they could be rebuilt: begin a new run with --fresh"
        )
    state = read_state(reader, found.vouched_end)
    return Recovered(state, repair.repaired(reader, state.seq), found.written_ns)


def read_state(reader: JournalReader, until: int | None = None) -> SequencerState:
    """
    Return the sequencer's state at the end of the journal: the newest checkpoint and the log behind it.

    Args:
        until: the last seq to read; None: to the end.
    Raises: StoreCorrupt: what is needed is damaged, or of a version with other messages.
    """
    checkpoint = reader.checkpoint(KERNEL) or Checkpoint(KERNEL, 0, b"")
    try:
        return roll_forward(
            checkpoint.state, reader.frames(checkpoint.position, 2**63 if until is None else until)
        )
    except (CodecError, msgspec.MsgspecError, ValueError, IndexError) as error:
        raise StoreCorrupt(
            f"cannot go on from the journal {reader.path}: {error}; use the version of TickerML that "
            "wrote it, or begin a new run with --fresh"
        ) from None
