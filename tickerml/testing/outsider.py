"""
Somebody outside who follows the order: the production Reader, over subscriptions that drop.

What it has been given and was told is settled must be exactly the frames of its topics, in
order, and is never unsaid. When the run is over, that must be all of them.
"""

from tickerml.kernel import codec, control
from tickerml.kernel.errors import StoreError
from tickerml.kernel.journal_reader import JournalReader
from tickerml.kernel.subscription import Reader, Rewound
from tickerml.kernel.units import NS_PER_MS

from .agenda import Clock
from .network import Subscription
from .oracle import Violation
from .processes import JOURNAL, Process
from .surroundings import Surroundings

LOOK_NS = 100 * NS_PER_MS  # between two looks at whether the kernel is the same, and the journal longer
LIMIT = 50  # messages taken in one step
_WHOLE = [b"order.", b"fill.", b"control."]
_NARROW = [b"book.aurora.BTC-USDT.", b"fill."]


class ReaderProcess(Process):
    """A process that only listens."""

    def __init__(self, world: Surroundings, clock: Clock) -> None:
        super().__init__(world, "reader", clock)
        self.prefixes = world.rng.choice([_WHOLE, _NARROW])
        self.bus: Subscription
        self.beat: Subscription
        self.reader: Reader
        self.given: list[tuple[int, bytes]] = []
        self.checked = 0  # how many of them are settled and right
        self._session: object = None
        self._is_connected = False
        self._journal: JournalReader | None = None
        self.begin_again()

    def begin_again(self) -> None:
        """Know nothing and read from the beginning."""
        self.reader = Reader(self.prefixes, self._open, after=0)
        self.given, self.checked = [], 0
        self._session = None

    def _open(self) -> JournalReader:
        if self._journal is None:
            self._journal = JournalReader(JOURNAL, opener=self.world.disk.open)
        return self._journal

    def connect(self) -> None:
        """Subscribe to the kernel that there is now."""
        world = self.world
        self._close()
        network, high_water = world.scenario.network, world.scenario.high_water
        self.bus = Subscription(network, world.rng, high_water)
        self.beat = Subscription(network, world.rng, high_water)
        at = world.agenda.now + world.joining_ns()
        self.bus.join([*self.prefixes, control.HEAD], at)
        self.beat.join([control.HEAD], at)
        if self._session is not None:
            self.reader.reconnected()
        self._session, self._is_connected = world.kernel, True

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def published(self, message: bytes) -> None:
        """The kernel sends *message* out on the bus."""
        if self._is_connected and self._session is self.world.kernel:
            now = self.world.agenda.now
            for subscription in (self.bus, self.beat):
                if subscription.publish(now, message) and subscription.pipe.next_at is not None:
                    self.wake(subscription.pipe.next_at)

    def step(self) -> None:
        world, now = self.world, self.world.agenda.now
        try:
            self._follow()
            while self._is_connected and self.beat.pipe.is_ready(now):
                head = control.unpack_head(self.beat.pipe.take())
                self.reader.on_beat(head, self.clock.monotonic())
            for _ in range(LIMIT):
                if not (self._is_connected and self.reader.wants_bus and self.bus.pipe.is_ready(now)):
                    break
                self.reader.on_bus(self.bus.pipe.take())
            self._take()
        except StoreError as error:
            if not world.is_damaged:
                raise Violation(f"a reader of a whole journal was told: {error}") from None
            self.begin_again()
        if not world.is_over:
            self.wake(now + (LOOK_NS if self.reader.wants_bus else 5 * NS_PER_MS))

    def _follow(self) -> None:
        kernel = self.world.kernel
        if kernel is None:
            if self._is_connected:
                self._is_connected = False
                self._close()
                self.reader.ended()
        elif kernel is not self._session:
            self.connect()
        else:
            # As the production client does: before it has joined, nobody knows what of the old one holds.
            self.reader.settle(self._open().head() if self.reader.is_joined else 0)

    def _take(self) -> None:
        for event in self.reader.take(LIMIT):
            if isinstance(event, Rewound):
                self._unsay(event.to_seq)
            else:
                self.given.append((event.seq, event.body))
        settled = self.reader.settled
        while self.checked < len(self.given) and self.given[self.checked][0] <= settled:
            self._check(*self.given[self.checked])
            self.checked += 1

    def _unsay(self, seq: int) -> None:
        self.world.saw("reader rewound")
        while self.given and self.given[-1][0] > seq:
            self.given.pop()
        if len(self.given) < self.checked:
            raise Violation(f"a reader was told that all after {seq} does not hold, and some was settled")

    def _check(self, seq: int, body: bytes) -> None:
        frames = self.world.watch.frames
        last = self.given[self.checked - 1][0] if self.checked else 0
        if seq <= last or seq > len(frames) or frames[seq - 1].body != body:
            raise Violation(f"a reader was given something at seq {seq} that is not there, after {last}")
        for frame in frames[last : seq - 1]:
            if frame.topic.startswith(tuple(self.prefixes)):
                raise Violation(f"a reader was given seq {seq} after {last}, and seq {frame.seq} left out")

    def finish(self, frames: list[codec.Frame]) -> None:
        """
        The kernel is gone for good: read what is left.

        Raises: Violation: the reader lacks some of what happened.
        """
        self._is_connected = False
        self._close()
        self.reader.ended()
        for _ in range(1_000):
            before = self.reader.position
            self._take()
            if self.reader.position == before and self.reader.wants_bus:
                break
        self._close()
        if not self.reader.is_joined:
            return
        prefixes = tuple(self.prefixes)
        expected = [(frame.seq, frame.body) for frame in frames if frame.topic.startswith(prefixes)]
        if self.given != expected:
            raise Violation(
                f"a reader has been given {len(self.given)} messages in the end, "
                f"of {len(expected)} that there are"
            )

    def crashed(self) -> None:
        """It has no fuse, and does not crash."""
