"""
Hours of random faults between the local exchanges and the feeds that read them, without a socket.

    python tests/exchanges/campaign.py --hours 24 --seed 1 --json

Time is a heap of events, so a day takes minutes and a seed decides everything. Each client is
a Feed and a Venue, the ones that run live, driven as live.py drives them: it dials, greets,
asks for snapshots, and gives a connection up. After every frame and every reply each book that
says VALID is compared with the true one, level by level. Exit code 1: one was wrong unmarked,
or did not come back.
"""

import argparse
import heapq
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import structlog

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.exchanges.connectors import CONNECTORS, venue_of
from tests.exchanges.truth import Books, Truth, truth_of
from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookCrossed,
    BookSnapshot,
    ChecksumFailed,
    FeedLost,
    Instrument,
    Message,
    SequenceGap,
)
from tickerml.testing.exchanges import EXCHANGES, FAULTS, Connection, Frame, Reply, Wire

BEGAN = 1_790_000_000 * NS_PER_S
_WAY = (5 * NS_PER_MS, 60 * NS_PER_MS)  # from the exchange to us, shortest and longest
_SILENT_NS = 30 * NS_PER_S  # without a frame, after which a connection is given up
_PONG_NS = 15 * NS_PER_S  # after which a muted connection is
_PATIENCE_NS = 5 * NS_PER_S  # for a snapshot that was asked for
_STUCK_NS = 300 * NS_PER_S  # for a book that does not come back
_CALM_NS = 90 * NS_PER_S  # without faults, at the end

#: Of each client; below is how often a book that was right as far as the exchange's rule can show
#: it (VOUCHED) was not below that.
COUNTS = ("frames", "checks", "gaps", "checksums", "crossed", "losses", "below")

#: What a connector says when it doubts; said in the report under the last fault before it.
DOUBTS = (SequenceGap, ChecksumFailed, BookCrossed, FeedLost)


class Timeline:
    """What happens when: callables in the order of their times."""

    def __init__(self) -> None:
        self.now = BEGAN
        self._count = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []

    def at(self, ns: int, what: Callable[[], None]) -> None:
        """Do *what* at time *ns*, or now if that is over."""
        self._count += 1
        heapq.heappush(self._heap, (max(ns, self.now), self._count, what))

    def run(self, until: int) -> None:
        """Let everything happen that happens before *until*."""
        while self._heap and self._heap[0][0] < until:
            self.now, _, what = heapq.heappop(self._heap)
            what()
        self.now = until


class Client:
    """One feed, its connection, its books as subscribers have them, and the truth beside them."""

    def __init__(self, timeline: Timeline, wire: Wire, rng: Random) -> None:
        self.wire = wire
        self.on_message: Callable[[Message], None] = lambda message: None  # told of all that is published
        self.venue = venue_of(wire.exchange, [market.listing.symbol for market in wire.markets.values()])
        self.feed = self.venue.feed(structlog.get_logger(), None, False)
        self.books = Books()
        self.truths: dict[str, Truth] = {}
        self.wrong: list[str] = []
        self.counts = dict.fromkeys(
            ("frames", "checks", "gaps", "checksums", "crossed", "losses", "below"), 0
        )
        self.fault = "start"  # the last that struck
        self.struck: Counter[str] = Counter()
        self.said: defaultdict[str, Counter[str]] = defaultdict(Counter)  # after each fault
        self.marked: defaultdict[str, list[int]] = defaultdict(list)  # after each fault: for how long, ns
        self._timeline, self._rng = timeline, rng
        self._connections: list[Connection] = []
        self._era = 0  # of the connection: what is under way belongs to one
        self._arrives_at = self._heard_at = self._answered_at = 0
        self._asked_at: dict[str, int] = {}
        self._marks: dict[str, tuple[int, str]] = {}  # symbol -> since when, after which fault
        self._seen: dict[str, int] = {}  # the last change that a frame told of, by wire name
        self._failures = 0
        timeline.at(timeline.now, self._list)

    # --- Connecting -----------------------------------------------------------------------------

    def _list(self) -> None:
        for request in self.venue.listing():
            reply = self._request(request.method, request.url)
            if reply.status != 200:
                self._timeline.at(self._timeline.now + NS_PER_S, self._list)
                return
            self._publish(self.feed.on_reply(self._timeline.now, request.url, reply.body.encode()))
        self._dial()

    def _request(self, method: str, url: str) -> Reply:
        parts = urlsplit(url)
        path = parts.path.removeprefix(f"/{self.wire.exchange}")
        return self.wire.request(method, path, dict(parse_qsl(parts.query)))

    def _dial(self) -> None:
        ticket = self.venue.ticket()
        answer = self._request(ticket.method, ticket.url) if ticket else Reply("")
        if answer.status != 200:
            self._timeline.at(self._timeline.now + NS_PER_S, self._dial)
            return
        self._era += 1
        self._arrives_at = self._heard_at = self._answered_at = self._timeline.now
        # What the socket brings is waited for; what REST brings is asked for with the first frame.
        asked_at = {
            wire: 0 if self.venue.snapshot(wire) else self._timeline.now for wire in self.wire.markets
        }
        self._asked_at = asked_at
        main = self.venue.socket(list(self.wire.markets), answer.body.encode())
        for socket in (main, *main.also):
            connection = self.wire.connect(dict(parse_qsl(urlsplit(socket.url).query)))
            self._connections.append(connection)
            for text in socket.greeting:
                connection.received(text)
        self.carry()
        self._timeline.at(self._timeline.now + NS_PER_S, partial(self._watch, self._era))

    def _lose(self, reason: str) -> None:
        if not self._connections:
            return
        for connection in self._connections:
            connection.gone()
        self._connections = []
        self._era += 1
        self.counts["losses"] += 1
        self.feed.on_lost()
        self._publish([FeedLost(self._timeline.now, self.wire.exchange, reason, 0)])
        self._failures += 1
        wait_ns = int(self._rng.uniform(0, min(30, 2.0 ** min(self._failures, 5))) * NS_PER_S)
        self._timeline.at(self._timeline.now + wait_ns, self._dial)

    def _watch(self, era: int) -> None:
        # Once a second: what a session and a driver look after.
        if era != self._era or not self._connections:
            return
        now = self._timeline.now
        if now - self._heard_at > _SILENT_NS or now - self._answered_at > _PONG_NS:
            self._lose("silent")
            return
        if not any(connection.is_mute for connection in self._connections):
            self._answered_at = now
        for wire in self.wire.markets:
            self._ask(wire)
        self._timeline.at(now + NS_PER_S, partial(self._watch, era))

    # --- What arrives ---------------------------------------------------------------------------

    def carry(self) -> None:
        """Put what the exchange has said on its way."""
        for connection in self._connections:
            if connection.closing == "abort":
                connection.outbox.clear()
            while connection.outbox:
                frame = connection.outbox.popleft()
                delay = self._rng.randint(*_WAY)
                self._arrives_at = max(self._arrives_at, self._timeline.now + delay)
                self._timeline.at(self._arrives_at, partial(self._on_frame, frame, self._era))
            if connection.closing:
                self._timeline.at(self._arrives_at, partial(self._on_closed, self._era))

    def _on_closed(self, era: int) -> None:
        if era == self._era:
            self._lose("closed")

    def _on_frame(self, frame: Frame, era: int) -> None:
        if era != self._era:
            return
        self.counts["frames"] += 1
        self._heard_at = self._timeline.now
        messages = self.feed.on_frame(self._timeline.now, frame.text.encode())
        if frame.kind == "book":
            self._seen[frame.wire] = max(self._seen.get(frame.wire, 0), frame.seq)
        self._publish(messages)
        self._check(frame.wire)
        for wire in self.wire.markets:
            self._ask(wire)

    def _ask(self, wire: str) -> None:
        now = self._timeline.now
        if not self.feed.needs_snapshot(wire) or now - self._asked_at.get(wire, 0) < _PATIENCE_NS:
            return
        self._asked_at[wire] = now
        if request := self.venue.snapshot(wire):
            era, reply = self._era, self._request(request.method, request.url)
            arrives_at = now + self._rng.randint(*_WAY) * 2
            self._timeline.at(arrives_at, partial(self._on_reply, wire, request.url, reply, era))
        elif frames := self.venue.renew(wire):
            for text in frames:
                self._connections[0].received(text)
            self.carry()
        else:
            self._lose("a book must be sent anew")

    def _on_reply(self, wire: str, url: str, reply: Reply, era: int) -> None:
        if era != self._era or reply.status != 200:
            return
        messages = self.feed.on_reply(self._timeline.now, url, reply.body.encode())
        if any(isinstance(message, BookSnapshot) for message in messages):
            self._seen[wire] = max(self._seen.get(wire, 0), reply.seq)
        self._publish(messages)
        self._check(wire)

    def _publish(self, messages: list[Message]) -> None:
        for message in messages:
            self.books.take(message)
            self.on_message(message)
            if isinstance(message, DOUBTS):
                self.said[self.fault][type(message).__name__] += 1
            match message:
                case SequenceGap():
                    self.counts["gaps"] += 1
                case ChecksumFailed():
                    self.counts["checksums"] += 1
                case BookCrossed():
                    self.counts["crossed"] += 1
                case Instrument():
                    self.truths[message.symbol] = truth_of(self.wire, message)
                case BookSnapshot():
                    self._failures = 0
        self._time_marks()

    def _time_marks(self) -> None:
        for symbol in self.books.books:
            if not self.books.is_valid(symbol):
                self._marks.setdefault(symbol, (self._timeline.now, self.fault))
            elif symbol in self._marks:
                since, fault = self._marks.pop(symbol)
                self.marked[fault].append(self._timeline.now - since)

    def _check(self, wire: str) -> None:
        if not wire:
            return
        symbol = self.wire.markets[wire].listing.symbol
        if not self.books.is_valid(symbol) or symbol not in self.truths:
            return
        truth = self.truths[symbol]
        truth.move_to(self._seen.get(wire, 0))
        self.counts["checks"] += 1
        book = self.books.books[symbol]
        self.counts["below"] += truth.differs_below(book)
        if difference := truth.differs(book):
            self.wrong.append(f"{(self._timeline.now - BEGAN) / NS_PER_S:.3f} s: {difference}")

    def stuck(self) -> list[str]:
        """Return the books that are not VALID now."""
        symbols = [market.listing.symbol for market in self.wire.markets.values()]
        return [f"{self.wire.exchange} {it}" for it in symbols if not self.books.is_valid(it)]


class Campaign:
    """Every exchange with a client, and chance."""

    def __init__(self, exchanges: list[str], seed: int, *, rate: float, faults_per_hour: float) -> None:
        """
        Args:
            rate: updates a second of each market.
            faults_per_hour: of each exchange.
        """
        self.timeline = Timeline()
        self._rng = Random(seed)
        self._rate, self._faults_per_hour = rate, faults_per_hour
        self._has_faults = True
        self.clients = [self._client(name, seed) for name in exchanges]

    def _client(self, exchange: str, seed: int) -> Client:
        quotes = ("BTC/USD", "ETH/USDT", "BTC/USD-PERP", "BTC/USDT-PERP")
        wire = EXCHANGES[exchange](seed, lambda: self.timeline.now, symbols=quotes)
        client = Client(self.timeline, wire, Random(f"{seed}/{exchange}"))
        self._happen(client)
        self._fail(client)
        self._beat(client)
        return client

    def _happen(self, client: Client) -> None:
        def happen() -> None:
            client.wire.update(self._rng.choice(list(client.wire.markets)))
            client.carry()
            self._happen(client)

        mean_s = 1 / (self._rate * len(client.wire.markets))
        self.timeline.at(self.timeline.now + int(self._rng.expovariate(1 / mean_s) * NS_PER_S), happen)

    def _fail(self, client: Client) -> None:
        def fail() -> None:
            name = self._rng.choice(list(FAULTS))
            if self._has_faults and FAULTS[name].strike(client.wire):
                client.struck[name] += 1
                client.fault = name
                client.carry()
            self._fail(client)

        mean_s = 3600 / self._faults_per_hour
        self.timeline.at(self.timeline.now + int(self._rng.expovariate(1 / mean_s) * NS_PER_S), fail)

    def _beat(self, client: Client) -> None:
        def beat() -> None:
            client.wire.beat()
            client.carry()
            self._beat(client)

        self.timeline.at(self.timeline.now + NS_PER_S, beat)

    def run(self, hours: float) -> dict[str, Any]:
        """Run for so many hours of its own time, the last minutes of them without faults; return a report."""
        began = time.perf_counter()
        end = BEGAN + int(hours * 3600 * NS_PER_S)
        self.timeline.run(end)
        self._has_faults = False
        self.timeline.run(end + _STUCK_NS + _CALM_NS)
        return {
            "hours": hours,
            "wall_s": round(time.perf_counter() - began, 1),
            "faults": {name: sum(client.struck[name] for client in self.clients) for name in FAULTS},
            "wrong_unmarked": [wrong for client in self.clients for wrong in client.wrong][:20],
            "not_back": [stuck for client in self.clients for stuck in client.stuck()],
            "exchanges": {client.wire.exchange: _row(client) for client in self.clients},
        }


def _row(client: Client) -> dict[str, Any]:
    spans = [span for marked in client.marked.values() for span in marked]
    by_fault = {
        name: {"struck": client.struck[name], "said": client.said[name], **_spans(client.marked[name])}
        for name in client.struck
    }
    found = {"wrong": len(client.wrong), "skipped": client.feed.tally.skipped, **_spans(spans)}
    return client.counts | found | {"reasons": client.feed.tally.reasons, "by_fault": by_fault}


def _spans(spans: list[int]) -> dict[str, Any]:
    ordered = sorted(spans) or [0]
    p50_s, max_s = ordered[len(ordered) // 2] / NS_PER_S, ordered[-1] / NS_PER_S
    return {"marked": len(spans), "marked_p50_s": round(p50_s, 3), "marked_max_s": round(max_s, 3)}


def main() -> None:
    """Run a campaign as the arguments say; exit 1 when a book was wrong unmarked or did not come back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.5, help="updates a second of each market")
    parser.add_argument("--faults-per-hour", type=float, default=60.0, help="of each exchange")
    parser.add_argument("--exchange", action="append", choices=[*CONNECTORS])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    campaign = Campaign(
        given.exchange or [*CONNECTORS],
        given.seed,
        rate=given.rate,
        faults_per_hour=given.faults_per_hour,
    )
    report = campaign.run(given.hours)
    print(json.dumps(report) if given.json else json.dumps(report, indent=2))
    sys.exit(1 if report["wrong_unmarked"] or report["not_back"] else 0)


if __name__ == "__main__":
    main()
