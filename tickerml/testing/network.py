"""
Links between processes, as sockets are: in order, late, and sometimes not at all.

A Pipe is one connection from one process to another: what is sent arrives in its order
after a delay, so connections overtake each other and never themselves. While a link is
parted nothing arrives; what was sent arrives when it is mended. A process that dies
leaves what it had sent under way: some of that may still arrive, however late.

A Subscription is a subscriber's side of the bus. It takes effect a while after it was
asked for, drops what comes while its queue is full, and drops at random while it is
told to.
"""

from collections import deque
from dataclasses import dataclass
from random import Random

from tickerml.kernel.units import NS_PER_MS

NS_PER_US = 1_000


@dataclass
class Conditions:
    """How the network is."""

    delay: tuple[int, int] = (20 * NS_PER_US, 400 * NS_PER_US)  # ns, shortest and longest
    spike: float = 0.0  # how often a message takes spike_delay
    spike_delay: int = 50 * NS_PER_MS

    def draw(self, rng: Random) -> int:
        """Return the ns that a message takes."""
        if self.spike and rng.random() < self.spike:
            return self.spike_delay
        shortest, longest = self.delay
        return shortest + int(rng.random() * (longest - shortest))


class Pipe:
    """One connection: first in, first out."""

    def __init__(self, conditions: Conditions, rng: Random) -> None:
        self._conditions = conditions
        self._rng = rng
        self._queue: deque[tuple[int, bytes]] = deque()
        self._last_arrival = 0
        self._parted_until = 0
        self._slow_until = self._slow_by = 0
        self._sent: bytes | None = None
        self._loses_next = False
        self.last_taken: bytes | None = None

    def send(self, now: int, data: bytes) -> None:
        """Put *data* on its way."""
        self._sent = data
        if self._loses_next:
            self._loses_next = False
            return
        self._enqueue(now, data)

    def _enqueue(self, now: int, data: bytes) -> None:
        delay = self._conditions.draw(self._rng) + (self._slow_by if now < self._slow_until else 0)
        arrival = max(now + delay, self._parted_until)
        self._last_arrival = max(arrival, self._last_arrival)
        self._queue.append((self._last_arrival, data))

    @property
    def next_at(self) -> int | None:
        """When the next message arrives; None when nothing is under way."""
        return self._queue[0][0] if self._queue else None

    def is_ready(self, now: int) -> bool:
        """Whether a message has arrived."""
        return bool(self._queue) and self._queue[0][0] <= now

    def take(self) -> bytes:
        """Return the message that has arrived."""
        return self._queue.popleft()[1]

    def __len__(self) -> int:
        return len(self._queue)

    # --- Faults -------------------------------------------------------------------------------

    def part(self, until: int) -> None:
        """Let nothing arrive before *until*."""
        self._parted_until = max(self._parted_until, until)
        self._queue = deque((max(arrival, until), data) for arrival, data in self._queue)
        if self._queue:
            self._last_arrival = max(self._last_arrival, until)

    def slow(self, by: int, until: int) -> None:
        """Take *by* ns longer for what is sent before *until*."""
        self._slow_by, self._slow_until = by, until

    def repeat(self, now: int) -> bool:
        """Send the last message once more, as after a reconnect; whether there was one."""
        if self._sent is not None:
            self._enqueue(now, self._sent)
        return self._sent is not None

    def lose_next(self) -> None:
        """Lose the next message that is sent."""
        self._loses_next = True

    def orphan(self, kept: float, delay: int) -> None:
        """Keep this fraction of what is under way, and let it arrive *delay* ns later: its sender is dead."""
        whole = list(self._queue)[: round(kept * len(self._queue))]
        self._queue = deque((arrival + delay, data) for arrival, data in whole)


class Subscription:
    """A subscriber's side of the bus."""

    def __init__(self, conditions: Conditions, rng: Random, high_water: int) -> None:
        """
        Args:
            high_water: messages that may wait for it before more are dropped.
        """
        self.dropped = 0
        self.drop_rate = 0.0  # how often a message is dropped although there is room
        self._pipe = Pipe(conditions, rng)
        self._rng = rng
        self._high_water = high_water
        self._prefixes: tuple[bytes, ...] = ()
        self._joins_at = 0

    def join(self, prefixes: list[bytes], at: int) -> None:
        """Subscribe to *prefixes*; what is published before *at* is not heard."""
        self._prefixes = tuple(prefixes)
        self._joins_at = at

    def publish(self, now: int, message: bytes) -> bool:
        """Offer a message of the bus; whether it is on its way."""
        if now < self._joins_at or not message.startswith(self._prefixes):
            return False
        if len(self._pipe) >= self._high_water or (self.drop_rate and self._rng.random() < self.drop_rate):
            self.dropped += 1
            return False
        self._pipe.send(now, message)
        return True

    @property
    def pipe(self) -> Pipe:
        """What is on its way to the subscriber."""
        return self._pipe
