"""
The console's line to its kernel: one thread that reads, whatever the number of pages.

A console may start late, so it first reads what it missed from the journal: books from
the newest checkpoint that has them, and every message since; equity as samples over the
whole run; orders and fills further back than the rest. Then it follows the bus by a
Subscription, which fills in from the journal what the bus drops. So a ladder never shows
a level that is gone. What has been unsaid, or is too far behind to be worth reading, is
forgotten as a whole, and it begins again as if it had just started.
"""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from tickerml.kernel import NS_PER_S, CodecError, StoreError, SubscriptionLost, TickerMLError, codec, control
from tickerml.kernel.client import Client, Event, Heard, Subscription
from tickerml.kernel.journal_reader import JournalReader
from tickerml.kernel.localbus import BusState
from tickerml.kernel.records import Checkpoint
from tickerml.kernel.subscription import Rewound

from .state import ConsoleState

TOPICS = (
    b"instrument.",
    b"book.",
    b"trade.",
    b"feed.",
    b"funding.",
    b"arbitrage.",
    b"anomaly.",
    b"order.",
    b"fill.",
    b"verdict.",
    b"markout.",
    b"portfolio.",
    b"tournament.",
    b"control.",
    b"system.",
)
TAIL = 40_000  # messages read back for candles, prints and log lines: some minutes of a busy run
KEPT_TAIL = 400_000  # seqs over which orders, fills and session starts are read back
SAMPLES = 300  # of the equity curve before the tail
SAMPLE_RECORDS = 20  # journal records looked through for one sample
COMMIT_S = 65.0  # longer than the longest commit interval
FRESH_S = 1.0  # a message that is later than this proves nothing about now
LATE_S = 30.0  # further behind than this, beginning again is quicker than catching up


class Follower:
    """Keeps a ConsoleState up to date; take `lock` to read it."""

    def __init__(self, home: Path, state: ConsoleState, log: Any) -> None:
        """
        Raises: KernelUnreachable: no kernel runs on *home*.
        """
        self.state = state
        self.lock = threading.Lock()
        self._log = log
        self._client = Client(home)
        self._asking = threading.Lock()
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)
        self._seq = 0
        self._gaps = 0

    def start(self) -> None:
        """Begin to read."""
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
                with closing(self._subscribe()) as subscription:
                    self._follow(subscription)
            except SubscriptionLost as error:
                self._log.warning("console.began_again", reason=str(error))
                self._forget()
            except TickerMLError as error:
                self._log.error("console.reading_failed", error=str(error))
                self._is_stopped.wait(1.0)

    def _subscribe(self) -> Subscription:
        self._gaps = 0
        return Subscription(
            self._client.home, lossless=TOPICS, heard=(b"~status.", b"~log."), after=self._seq or None
        )

    def _forget(self) -> None:
        with self.lock:
            self.state = type(self.state)()
        self._seq = 0

    def _follow(self, subscription: Subscription) -> None:
        events = self._await_place(subscription)
        if not self._seq and not self._is_stopped.is_set():
            first = next((event.seq for event in events if isinstance(event, codec.Frame)), 0)
            self._begin(subscription.journal(), first - 1 if first else subscription.position)
        while not self._is_stopped.is_set():
            self._take(events, self._look_at_lag(subscription))
            events = subscription.receive(0.1)

    def _await_place(self, subscription: Subscription) -> list[Event]:
        """Return what comes until the place in the order is known and a report is there."""
        events: list[Event] = []
        while not (subscription.is_joined and self.state.report) and not self._is_stopped.is_set():
            for event in subscription.receive(0.1):
                if isinstance(event, Heard):
                    self._take_telemetry(event)
                else:
                    events.append(event)
        return events

    # --- Live ---------------------------------------------------------------------------------

    def _look_at_lag(self, subscription: Subscription) -> float | None:
        """Return the time on the monotonic clock; None where what comes proves nothing about it."""
        lag_s = subscription.lag_ns() / NS_PER_S
        if subscription.gaps > self._gaps:
            self._gaps = subscription.gaps
            self._log.warning("console.fell_behind", position=subscription.position, lag_s=round(lag_s, 1))
        if lag_s > LATE_S:
            raise SubscriptionLost(f"the console was {lag_s:.0f} s behind")
        return time.monotonic() if lag_s < FRESH_S else None

    def _take(self, events: list[Event], at: float | None) -> None:
        for event in events:
            match event:
                case codec.Frame():
                    self._apply(event, at)
                case Heard():
                    self._take_telemetry(event)
                case Rewound():
                    raise SubscriptionLost(f"what was shown beyond seq {event.to_seq} does not hold")

    def _take_telemetry(self, heard: Heard) -> None:
        with self.lock:
            if heard.topic == b"~status.":
                self.state.apply_status(json.loads(heard.body), time.monotonic())
            else:
                self.state.apply_log(heard.body)

    def _apply(self, frame: codec.Frame, at: float | None) -> None:
        self._seq = frame.seq
        try:
            message = codec.decode(frame.body)
        except CodecError as error:  # of a version with other messages; the rest is still worth seeing
            self._log.warning("console.message_skipped", seq=frame.seq, error=str(error))
            return
        with self.lock:
            self.state.apply(message, at)

    # --- Past ---------------------------------------------------------------------------------

    def _begin(self, reader: JournalReader, head: int) -> None:
        """Take what is worth it of the past, up to seq *head*."""
        checkpoint, bus = self._find_books(reader, head)
        start = min(max(0, head - TAIL), checkpoint.position if checkpoint else head)
        with self.lock:
            for instrument in bus.instruments if bus else ():
                self.state.apply(instrument)
        self._sample_equity(reader, start)
        for raw in reader.frames(max(0, start - KEPT_TAIL), start, "kept"):
            if raw.startswith(
                (b"order.", b"fill.", b"verdict.", b"markout.", b"arbitrage.", b"control.", b"system.")
            ):
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
