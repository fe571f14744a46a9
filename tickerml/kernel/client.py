"""
A client of a running kernel: the command line and the console.

It finds the kernel through HOME/kernel.json, asks on the control socket, and listens
on the bus. It imports no plugin.

A Client asks, and listens to what comes. A Subscription follows: it survives slowness of
its own and the death of the kernel, and says what it could not give.
"""

import math
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import zmq

from . import codec, control
from .errors import BusError, KernelUnreachable, SubscriptionLost
from .journal_reader import JournalReader
from .subscription import Latest, Newest, Reader, Rewound
from .units import NS_PER_MS, NS_PER_S

# Messages that wait in the reader's own memory, 13 MB of small ones; what comes beyond is read from the
# journal. It must hold what arrives while a commit is awaited, or one gap would bring the next.
READ_HIGH_WATER = 20_000
TOLD_HIGH_WATER = 1_000  # the same where old messages are of no use
WATCH_NS = 250 * NS_PER_MS  # between two looks at which kernel serves the home
COMMIT_WAIT_MS = 2  # between two looks for what the journal has not committed yet


def read_beacon(home: Path) -> control.Beacon:
    """
    Return how the kernel of *home* is reached.

    Raises: KernelUnreachable: none runs there.
    """
    try:
        beacon = msgspec.json.decode(control.beacon_path(home).read_bytes(), type=control.Beacon)
        os.kill(beacon.pid, 0)
    except (OSError, msgspec.MsgspecError):
        raise KernelUnreachable(f"no kernel runs on {home}; start one with `tickerml run`") from None
    return beacon


class Client:
    """Requests and answers, one at a time, and a subscription."""

    def __init__(self, home: Path) -> None:
        """
        Raises: KernelUnreachable.
        """
        self.home = home
        self.beacon = read_beacon(home)
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.DEALER)
        self._control.linger = 0
        self._control.connect(control.control_address(self.beacon.runtime))
        self._requests = 0
        self._bus: Any = None

    def close(self) -> None:
        """Let go of the sockets."""
        self._context.destroy(linger=0)

    def request(self, message: Any, timeout_s: float = 5.0) -> Any:
        """
        Return the kernel's answer to *message*.

        Raises: KernelUnreachable: none within *timeout_s*. BusError: it said no, and why.
        """
        self._requests += 1
        number = self._requests.to_bytes(8, "big")
        self._control.send_multipart([number, control.encode(message)])
        answer = control.decode(self._await_answer(number, time.monotonic() + timeout_s, timeout_s))
        if isinstance(answer, control.Refused):
            raise BusError(answer.reason)
        return answer

    def _await_answer(self, number: bytes, deadline: float, timeout_s: float) -> bytes:
        while (left := deadline - time.monotonic()) > 0 and self._control.poll(math.ceil(left * 1000)):
            answered, data = self._control.recv_multipart()
            if answered == number:  # and not the late answer to a request that was given up
                return bytes(data)
        raise KernelUnreachable(f"the kernel on {self.home} did not answer within {timeout_s:g} s")

    def status(self) -> dict[str, Any]:
        """Return the state of everything."""
        report: dict[str, Any] = self.request(control.StatusRequest()).report
        return report

    def subscribe(self, *prefixes: bytes) -> None:
        """Begin to listen on the bus; b"~" is telemetry, which is neither ordered nor kept."""
        if self._bus is None:
            self._bus = self._context.socket(zmq.SUB)
            self._bus.rcvhwm = READ_HIGH_WATER
            self._bus.connect(control.bus_address(self.beacon.runtime))
        for prefix in prefixes:
            self._bus.subscribe(prefix)

    def receive(self, timeout_ms: int = 0, limit: int = 1000) -> list[bytes]:
        """Return the frames of up to *limit* runs, waiting at most *timeout_ms* for the first."""
        frames: list[bytes] = []
        if self._bus is None or not self._bus.poll(timeout_ms):
            return frames
        try:
            for _ in range(limit):
                run = self._bus.recv(zmq.NOBLOCK)
                frames += [run] if run.startswith(control.TELEMETRY) else codec.unpack_run(run)
        except zmq.Again:
            pass
        return frames


class Heard(NamedTuple):
    """A telemetry message: neither ordered nor kept, and dropped where it is not read in time."""

    topic: bytes
    body: bytes


Event: TypeAlias = codec.Frame | Rewound | Latest | Heard


class Subscription:
    """
    A place in the order of a home, whichever kernel serves it; for one thread.

    Nothing that it does, and nothing that it leaves undone, slows the kernel or another reader.
    """

    def __init__(
        self,
        home: Path,
        *,
        lossless: Collection[bytes] = (),
        conflated: Collection[bytes] = (),
        heard: Collection[bytes] = (),
        after: int | None = None,
    ) -> None:
        """
        Args:
            lossless: topics of which every message comes once, in order.
            conflated: topics of which only the newest message comes.
            heard: telemetry, b"~status." for one.
            after: begin with the message after this seq; None for what comes from now on.
        Raises: KernelUnreachable: no kernel runs on *home*. ValueError: a topic is asked for twice.
        """
        for one in lossless:
            if other := next(
                (each for each in conflated if one.startswith(each) or each.startswith(one)), None
            ):
                raise ValueError(f"a topic is lossless or conflated, and {one!r} and {other!r} overlap")
        self.home = home
        self._lossless, self._told = tuple(lossless), (*conflated, *heard)
        self._reader = Reader(lossless, self.journal, after)
        self._newest = Newest(conflated, self.journal)
        self._heard: list[Heard] = []
        self._journal: JournalReader | None = None
        self._watched_at = time.monotonic_ns()
        self.is_connected = True  # whether a kernel serves the home
        beacon = read_beacon(home)
        self._context = zmq.Context()
        self._connect(beacon)

    def close(self) -> None:
        """Let go of the sockets and the journal."""
        self._context.destroy(linger=0)
        self._close_journal()

    @property
    def position(self) -> int:
        """Return the seq up to which everything was taken."""
        return self._reader.position

    @property
    def settled(self) -> int:
        """Return the seq up to which everything was given and is on disk: a place to come back to."""
        return self._reader.settled

    @property
    def is_joined(self) -> bool:
        """Whether the place in the order is known: later messages will not be missed."""
        return self._reader.is_joined and self._newest.is_joined

    @property
    def gaps(self) -> int:
        """Return how often the journal had to fill in what the bus had dropped."""
        return self._reader.gaps

    def lag_ns(self) -> int:
        """Return for how long at least the first message not taken yet has been waiting; 0 at the head."""
        self._drain_told()
        return self._reader.lag_ns(time.monotonic_ns())

    def journal(self) -> JournalReader:
        """
        Return the journal that is read from; a process cannot open it twice.

        Raises: StoreError.
        """
        if self._journal is None:
            self._journal = JournalReader(Path(self.beacon.run_dir) / "journal")
        return self._journal

    def jump_to_head(self) -> None:
        """Leave out what was not taken yet, and go on with what comes now."""
        self._drain_told()
        self._reader.jump_to_head()

    def receive(self, timeout_s: float = 0.0, limit: int = 1000) -> list[Event]:
        """
        Return what is next: about *limit* messages at most, and the newest of each conflated topic.

        Waits at most *timeout_s* for the first. While no kernel runs there is what the journal holds.

        Raises: SubscriptionLost: what is next is gone, or the home has begun another run;
            jump_to_head() goes on with what comes now. StoreError: the journal cannot be read. BusError.
        """
        deadline = time.monotonic_ns() + int(timeout_s * NS_PER_S)
        while True:
            self._watch()
            self._drain_told()
            self._drain_bus(limit)
            events: list[Event] = [*self._reader.take(limit), *self._newest.take(), *self._heard]
            self._heard.clear()
            left = deadline - time.monotonic_ns()
            if events or left <= 0:
                return events
            self._wait(left)

    # --- Sockets ------------------------------------------------------------------------------

    def _connect(self, beacon: control.Beacon) -> None:
        self.beacon = beacon
        address = control.bus_address(beacon.runtime)
        self._bus = self._listen(address, self._lossless, READ_HIGH_WATER)
        self._beat = self._listen(address, self._told, TOLD_HIGH_WATER)

    def _listen(self, address: str, prefixes: tuple[bytes, ...], high_water: int) -> Any:
        socket = self._context.socket(zmq.SUB)
        socket.linger = 0
        socket.rcvhwm = high_water
        socket.connect(address)
        # What arrives on the last subscription proves those before it.
        for prefix in (*prefixes, control.HEAD):
            socket.subscribe(prefix)
        return socket

    def _drain_told(self) -> None:
        try:
            while True:
                self._hear(self._beat.recv(zmq.NOBLOCK))
        except zmq.Again:
            pass

    def _hear(self, message: bytes) -> None:
        if message.startswith(control.HEAD):
            self._reader.on_beat(control.unpack_head(message), time.monotonic_ns())
            self._newest.on_bus(message)
        elif message.startswith(control.TELEMETRY):
            topic, _, body = message.partition(b"\0")
            self._heard.append(Heard(topic, body))
        else:
            self._newest.on_bus(message)

    def _drain_bus(self, limit: int) -> None:
        reader, receive, wait = self._reader, self._bus.recv, zmq.NOBLOCK
        try:
            for _ in range(limit):
                if not reader.wants_bus:
                    return
                reader.on_bus(receive(wait))
        except zmq.Again:
            pass

    def _wait(self, left_ns: int) -> None:
        poller = zmq.Poller()
        poller.register(self._beat, zmq.POLLIN)
        wait_ms = min(left_ns, WATCH_NS) // NS_PER_MS + 1
        if self._reader.wants_bus:
            poller.register(self._bus, zmq.POLLIN)
        elif self.is_connected:
            wait_ms = COMMIT_WAIT_MS
        poller.poll(wait_ms)

    # --- Which kernel -------------------------------------------------------------------------

    def _watch(self) -> None:
        now = time.monotonic_ns()
        if now - self._watched_at < WATCH_NS:
            return
        self._watched_at = now
        # Read before the beacon: what is committed then is of the kernel that the beacon still names.
        committed = self.journal().head() if self._reader.is_joined else 0
        try:
            beacon = read_beacon(self.home)
        except KernelUnreachable:
            if self.is_connected:
                self.is_connected = False
                self._reader.ended()
            return
        if beacon.runtime == self.beacon.runtime:
            self._reader.settle(committed)
        else:
            self._follow(beacon)

    def _follow(self, beacon: control.Beacon) -> None:
        """Go over to the kernel that serves the home now."""
        was = self.beacon.run_dir
        self._bus.close()
        self._beat.close()
        self._close_journal()
        self._connect(beacon)
        self.is_connected = True
        self._newest.reconnected()
        if beacon.run_dir == was:
            self._reader.reconnected()
            return
        self._reader = Reader(self._lossless, self.journal)
        raise SubscriptionLost(
            f"the kernel on {self.home} has begun another run, {beacon.run_dir}; "
            "what comes next is of that run, from now on"
        )

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
