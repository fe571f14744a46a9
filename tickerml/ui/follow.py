"""
The console's line to its kernel: one thread that reads, whatever the number of pages.

A console may start late, so it first reads what it missed from the journal: books from
the newest checkpoint that has them, and every message since; equity as samples over the
whole run; orders and fills further back than the rest. Then it follows the bus. A frame
of the kernel's report proves that the subscriptions made before it are in place, and says
up to which seq the journal must be read; a jump in a topic's own count says that something
was dropped, and the journal fills that in too. So a ladder never shows a level that is gone.
"""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tickerml.kernel import CodecError, StoreError, TickerMLError, codec, control
from tickerml.kernel.client import Client
from tickerml.kernel.journal import Checkpoint, JournalReader
from tickerml.kernel.localbus import BusState

from .state import ConsoleState

TOPICS = (
    b"instrument.",
    b"book.",
    b"trade.",
    b"feed.",
    b"order.",
    b"fill.",
    b"portfolio.",
    b"control.",
    b"system.",
)
TAIL = 40_000  # messages read back for candles, prints and log lines: some minutes of a busy run
KEPT_TAIL = 400_000  # seqs over which orders, fills and session starts are read back
SAMPLES = 300  # of the equity curve before the tail
SAMPLE_RECORDS = 20  # journal records looked through for one sample
COMMIT_S = 65.0  # longer than the longest commit interval


class Follower:
    """Keeps a ConsoleState up to date; take `lock` to read it."""

    def __init__(self, home: Path, run_dir: Path, state: ConsoleState, log: Any) -> None:
        """
        Raises: KernelUnreachable: no kernel runs on *home*.
        """
        self.state = state
        self.lock = threading.Lock()
        self._log = log
        self._client = Client(home)
        self._journal = run_dir / "journal"
        self._asking = threading.Lock()
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)
        self._seq = 0
        self._tseq: dict[bytes, int] = {}

    def start(self) -> None:
        """Begin to read."""
        self._client.subscribe(*TOPICS, control.TELEMETRY)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading and let go of the sockets."""
        self._is_stopped.set()
        self._thread.join()
        self._client.close()

    def request(self, message: Any) -> Any:
        """
        Return the kernel's answer; waits for it, so not for the thread of the pages.

        Raises: KernelUnreachable, BusError.
        """
        with self._asking:
            return self._client.request(message)

    def _run(self) -> None:
        while not self._is_stopped.is_set():
            try:
                self._follow()
            except TickerMLError as error:
                self._log.error("console.reading_failed", error=str(error))
                self._is_stopped.wait(1.0)

    def _follow(self) -> None:
        held: list[bytes] = []
        while (head := self._await_report(held)) is None:
            if self._is_stopped.is_set():
                return
        self._catch_up(head)
        for raw in held:
            self._take(raw)
        while not self._is_stopped.is_set():
            for raw in self._client.receive(100):
                self._take(raw)

    def _await_report(self, held: list[bytes]) -> int | None:
        """Return the seq of the first report to arrive; data frames go to *held*."""
        head = None
        for raw in self._client.receive(100):
            if raw.startswith(control.TELEMETRY):
                self._take_telemetry(raw)
                head = head or self.state.report.get("seq")
            else:
                held.append(raw)
        return head

    # --- Live ---------------------------------------------------------------------------------

    def _take(self, raw: bytes) -> None:
        if raw.startswith(control.TELEMETRY):
            self._take_telemetry(raw)
            return
        frame = codec.unpack(raw)
        if frame.seq <= self._seq:
            return
        if frame.tseq > self._tseq.get(frame.topic, frame.tseq) + 1:
            self._log.warning("console.fell_behind", after=self._seq, before=frame.seq)
            self._catch_up(frame.seq - 1)
        self._apply(frame, time.monotonic())

    def _take_telemetry(self, raw: bytes) -> None:
        topic, _, body = raw.partition(b"\0")
        with self.lock:
            if topic == b"~status.":
                self.state.apply_status(json.loads(body), time.monotonic())
            else:
                self.state.apply_log(body)

    def _apply(self, frame: codec.Frame, at: float | None) -> None:
        self._seq = frame.seq
        self._tseq[frame.topic] = frame.tseq
        try:
            message = codec.decode(frame.body)
        except CodecError as error:  # of a version with other messages; the rest is still worth seeing
            self._log.warning("console.message_skipped", seq=frame.seq, error=str(error))
            return
        with self.lock:
            self.state.apply(message, at)

    # --- Past ---------------------------------------------------------------------------------

    def _catch_up(self, head: int) -> None:
        """Take everything up to seq *head* from the journal; the first time, as much as is worth it."""
        reader = JournalReader(self._journal)
        try:
            if self._seq:
                self._replay(reader, self._seq, head)
            else:
                self._begin(reader, head)
        finally:
            reader.close()

    def _begin(self, reader: JournalReader, head: int) -> None:
        checkpoint, bus = self._find_books(reader, head)
        start = min(max(0, head - TAIL), checkpoint.position if checkpoint else head)
        with self.lock:
            for instrument in bus.instruments if bus else ():
                self.state.apply(instrument)
        self._sample_equity(reader, start)
        for raw in reader.frames(max(0, start - KEPT_TAIL), start, "kept"):
            if raw.startswith((b"order.", b"fill.", b"system.")):
                self._apply(codec.unpack(raw), None)
        self._seq = start
        if checkpoint and bus:
            self._replay(reader, start, checkpoint.position)
            with self.lock:
                for record in bus.books:
                    self.state.restore_book(record.book, record.state)
        self._replay(reader, self._seq, head)

    def _find_books(self, reader: JournalReader, head: int) -> tuple[Checkpoint | None, BusState | None]:
        """Return the newest checkpoint with books in it, of a host that is not too far behind."""
        found: list[tuple[Checkpoint, BusState]] = []
        for host in self.state.report.get("hosts", []):
            checkpoint = reader.checkpoint(host["host"])
            if checkpoint is None or checkpoint.position > head:
                continue
            written = msgspec.msgpack.decode(checkpoint.state, type=control.HostState)
            bus = msgspec.msgpack.decode(written.bus, type=BusState)
            # A source has no place in the bus's order and says 0.
            if bus.books and max(0, head - 10 * TAIL) < written.position <= head:
                found.append((checkpoint._replace(position=written.position), bus))
        return max(found, key=lambda item: item[0].position, default=(None, None))

    def _sample_equity(self, reader: JournalReader, until: int) -> None:
        for number in range(SAMPLES if until else 0):
            after = until * number // SAMPLES
            for raw in _first_frames(reader, after, b"portfolio."):
                frame = codec.unpack(raw)
                with self.lock:
                    self.state.apply(codec.decode(frame.body))
                break

    def _replay(self, reader: JournalReader, after: int, until: int) -> None:
        """Take after < seq <= until, waiting for the journal to be written that far."""
        deadline = time.monotonic() + COMMIT_S
        while self._seq < until and not self._is_stopped.is_set():
            for raw in reader.frames(after, until):
                frame = codec.unpack(raw)
                after = frame.seq
                if raw.startswith(TOPICS):
                    self._apply(frame, None)
            self._seq = after
            if after < until:
                if time.monotonic() > deadline:
                    raise StoreError(f"the journal was not written up to seq {until} within {COMMIT_S:g} s")
                self._is_stopped.wait(0.02)


def _first_frames(reader: JournalReader, after: int, prefix: bytes) -> Iterator[bytes]:
    records = itertools.islice(reader.records(after, "kept"), SAMPLE_RECORDS)
    return (raw for record in records for raw in record.frames if raw.startswith(prefix))
