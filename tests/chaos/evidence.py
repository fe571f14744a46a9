"""
What a run left behind, and how two runs differ.

Two runs of the same input must agree on every figure, on the bytes of everything that
was published, and on the states in which their hosts ended: balances, open orders,
queue positions, books, timers. What they may differ in is when processes came and
went. A journal must be whole by itself: each seq once, each output once, what is kept
for good the same as what was logged.

    python evidence.py RUN_DIR HOST...      the same for a journal that may crash its reader: JSON on stdout
"""

import hashlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from tickerml.kernel import (
    Message,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    StoreError,
    codec,
    control,
)
from tickerml.kernel.gate import HOST_TIMER
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.localbus import BusState
from tickerml.kernel.topics import DECISION_KINDS, KEPT_KINDS, parse

FIGURES = ("messages", "gaps", "orders", "fills", "fees", "equity", "max_drawdown", "decisions_sha256")
#: Kinds that tell of processes, sessions and the wall clock, not of the market and what was decided.
_OF_THE_SESSION = frozenset({"canary", "system", "sync", "time"})


class Evidence(msgspec.Struct, frozen=True):
    """What can be compared of one run; what is large, by its length and a digest."""

    figures: dict[str, Any]
    states: dict[str, dict[str, str]]  # by host: what it wrote down at its end, in parts
    streams: dict[str, str]  # by topic: how many messages, and a digest of their bytes in order
    decisions: list[str]  # every order, fill and verdict, in order
    faults: list[str]  # what is wrong with the journal by itself
    frames: int
    resting: int = 0  # orders that were open at its end


def read(run_dir: Path, summary: dict[str, Any], hosts: tuple[str, ...]) -> Evidence:
    """
    Return what the finished run in *run_dir* left behind.

    Raises: StoreError: its journal cannot be read.
    """
    reader = JournalReader(run_dir / "journal")
    try:
        log = _Log()
        for raw in reader.frames():
            log.add(raw)
        kept = hashlib.sha256()
        for raw in reader.frames(table="kept"):
            kept.update(raw)
        states = {host: _read_state(reader, host) for host in hosts}
    finally:
        reader.close()
    if kept.digest() != log.kept.digest():
        log.faults.append("what is kept for good is not what was logged")
    figures = {name: summary.get(name) for name in FIGURES}
    return Evidence(figures, states, log.streams(), log.decisions, log.faults, log.seq, len(log.resting))


def read_apart(run_dir: Path, summary: dict[str, Any], hosts: tuple[str, ...]) -> Evidence:
    """
    Do what read() does in a process of its own, because LMDB may crash over a damaged file.

    Raises: StoreError: its journal cannot be read.
    """
    command = [sys.executable, __file__, str(run_dir), *hosts]
    done = subprocess.run(command, capture_output=True, timeout=120)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it wrote nothing"]
        raise StoreError(f"the reader of {run_dir} ended with {done.returncode}: {last[0]}")
    found = msgspec.json.decode(done.stdout.splitlines()[-1], type=Evidence)  # before it, what was logged
    return msgspec.structs.replace(found, figures={name: summary.get(name) for name in FIGURES})


class _Log:
    """Goes through the frames of a log and keeps what there is to compare."""

    def __init__(self) -> None:
        self.seq = 0
        self.kept = hashlib.sha256()
        self.decisions: list[str] = []
        self.faults: list[str] = []
        self.resting: set[str] = set()  # orders that were accepted and have not ended
        self._digests: dict[bytes, Any] = defaultdict(hashlib.sha256)
        self._counts: dict[bytes, int] = defaultdict(int)
        self._last: dict[int, tuple[int, int, int]] = {}  # origin -> cause, n of its last output; its epoch
        self._kinds: dict[bytes, str] = {}

    def add(self, raw: bytes) -> None:
        """Take the next frame."""
        frame = codec.unpack(raw)
        if frame.seq != self.seq + 1:
            self.faults.append(f"seq {frame.seq} comes after {self.seq}")
        self.seq = frame.seq
        cause, n, epoch = self._last.get(frame.origin, (-1, -1, 0))
        if (frame.cause, frame.n) <= (cause, n):
            self.faults.append(
                f"output {(frame.origin, frame.cause, frame.n)} is there twice, at {frame.seq}"
            )
        if frame.epoch < epoch:
            self.faults.append(
                f"origin {frame.origin} spoke at epoch {frame.epoch} after {epoch}, {frame.seq}"
            )
        self._last[frame.origin] = (frame.cause, frame.n, frame.epoch)
        kind = self._kinds.get(frame.topic)
        if kind is None:
            kind = self._kinds[frame.topic] = parse(frame.topic)[0]
        if kind in KEPT_KINDS:
            self.kept.update(raw)
        if kind in DECISION_KINDS:
            self.decisions.append(hashlib.sha256(frame.body).hexdigest()[:16])
            self._follow(codec.decode(frame.body))
        self._digests[frame.topic].update(len(frame.body).to_bytes(4, "big") + frame.body)
        self._counts[frame.topic] += 1

    def _follow(self, decision: Message) -> None:
        match decision:
            case OrderAccepted():
                self.resting.add(decision.order_id)
            case OrderCanceled() | OrderExpired() | OrderFilled(leaves=0):
                self.resting.discard(decision.order_id)

    def streams(self) -> dict[str, str]:
        """Return for each topic how many messages it had, and a digest of them."""
        return {
            topic.decode(): f"{self._counts[topic]} messages {digest.hexdigest()[:16]}"
            for topic, digest in self._digests.items()
            if self._kinds[topic] not in _OF_THE_SESSION
        }


def _read_state(reader: JournalReader, host: str) -> dict[str, str]:
    checkpoint = reader.checkpoint(host)
    if checkpoint is None:
        return {}
    state = msgspec.msgpack.decode(checkpoint.state, type=control.HostState)
    bus = msgspec.msgpack.decode(state.bus, type=BusState)
    parts = {component.plugin: component.state for component in bus.components}
    # The gate's timers for hosts that died tell of processes; and whoever counts timers counts those.
    timers = [
        (ts, order, who, key) for ts, order, _, who, key in bus.timers if not key.startswith(HOST_TIMER)
    ]
    rest = {"books": bus.books, "timers": timers, "clock": bus.now, "failed": bus.failed}
    return {name: _digest(msgspec.msgpack.encode(part)) for name, part in {**parts, **rest}.items()}


def _digest(data: bytes) -> str:
    return f"{len(data)} bytes {hashlib.sha256(data).hexdigest()[:16]}"


def differences(expected: Evidence, found: Evidence) -> list[str]:
    """Return in words where *found* is not *expected*, and what is wrong with its journal; none is equal."""
    told = [f"journal: {fault}" for fault in found.faults[:5]]
    told += _compare("figure", expected.figures, found.figures)
    for host, parts in expected.states.items():
        told += _compare(f"state of {host}:", parts, found.states.get(host, {}))
    return told + _compare("stream", expected.streams, found.streams)


def _compare(what: str, expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        f"{what} {name}: expected {expected.get(name)}, was {found.get(name)}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


if __name__ == "__main__":
    run_dir, *hosts = sys.argv[1:]
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(read(Path(run_dir), {}, tuple(hosts))))
