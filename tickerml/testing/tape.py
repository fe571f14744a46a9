"""
Tapes: streams of messages to run a plugin on, made up from a seed or taken from a run.

A made-up tape is a random walk of two symbols on the exchange `kit`, with everything in it
that a real feed does to a plugin: whole books and changes, prints, quotes, gaps, losses,
stale books, silence. A seed is a tape, the same on every machine.
"""

import functools
import operator
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from tickerml.kernel import NS_PER_MS, NS_PER_S, codec, topics
from tickerml.kernel import messages as m
from tickerml.kernel.clock import DATA_CLOCK_START_NS
from tickerml.kernel.hookspecs import ExchangeSpec
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.units import to_units

EXCHANGE = "kit"
SYMBOLS = ("BTC/USDT", "ETH/USDT")
DEPTH = 10  # levels a side
_decoder: msgspec.json.Decoder[m.Message] = msgspec.json.Decoder(
    functools.reduce(operator.or_, m.message_types())
)
FRAME_NS = 50 * NS_PER_MS
_MARKET: tuple[type[m.Message], ...] = ExchangeSpec.MAY_PUBLISH


def generate(seed: int = 0, frames: int = 400) -> list[m.Message]:
    """
    Return the tape of *seed*: about two messages a frame, a frame every 50 ms of market time.

    Every third second it has a TimeTick, as a live run has every second, and from time to time what the
    kernel and people say: a failed plugin, a halt and its end.
    """
    rng = random.Random(seed)
    walks = [_Walk(rng, symbol, 5_000_000 // (number + 1)) for number, symbol in enumerate(SYMBOLS)]
    tape: list[m.Message] = []
    ts = DATA_CLOCK_START_NS
    for number in range(frames):
        ts += FRAME_NS if rng.random() < 0.97 else 3 * NS_PER_S
        if number == 0:
            tape.append(m.FeedConnected(ts, EXCHANGE, list(SYMBOLS)))
        for walk in walks:
            tape += walk.frame(ts)
        if number % 60 == 59:
            tape.append(m.TimeTick(ts))
        tape += _happening(rng, ts, walks)
    tape.append(m.FeedEnded(ts, EXCHANGE, len(tape), 0))
    return tape


def _happening(rng: random.Random, ts: int, walks: "list[_Walk]") -> list[m.Message]:
    """Return what now and then goes wrong, with its end."""
    chance = rng.random()
    if chance < 0.005:
        lost = m.FeedLost(ts, EXCHANGE, "the connection was closed", 100)
        return [
            lost,
            m.FeedConnected(ts + NS_PER_MS, EXCHANGE, list(SYMBOLS)),
            *[walk.whole(ts + NS_PER_MS) for walk in walks],
        ]
    if chance < 0.010:
        walk = rng.choice(walks)
        gap = m.SequenceGap(ts, EXCHANGE, walk.symbol, walk.seq + 1, walk.seq + 3)
        return [
            gap,
            walk.whole(ts + NS_PER_MS),
            m.BookResynced(ts + NS_PER_MS, EXCHANGE, walk.symbol, walk.seq),
        ]
    if chance < 0.015:
        return [m.BookStale(ts, EXCHANGE, rng.choice(walks).symbol, 5_000)]
    if chance < 0.018:
        return [m.HaltTrading(ts, "kit", "a trial"), m.ResumeTrading(ts + NS_PER_MS, "kit", "it is over")]
    if chance < 0.021:
        return [m.PluginFailed(ts, "kit-bystander", "store", "Trade", "OSError: a trial")]
    return []


class _Walk:
    """One symbol: a mid that wanders, and the levels around it."""

    def __init__(self, rng: random.Random, symbol: str, mid: int) -> None:
        self.symbol = symbol
        self.seq = 0
        self._rng = rng
        self._mid = mid
        self._heavy = 0  # the side that weighs more: -1 the bids, 1 the asks
        self._bids: dict[int, int] = {}
        self._asks: dict[int, int] = {}

    def frame(self, ts: int) -> list[m.Message]:
        """Return the messages of one frame, received at *ts*."""
        if not self.seq:
            return [self._instrument(ts), self.whole(ts)]
        if self._rng.random() < 0.05:
            self._heavy = self._rng.choice((-1, 0, 1))
        self._mid += self._rng.choice((-2, -1, -1, 0, 0, 0, 1, 1, 2))
        found: list[m.Message] = [self._trade(ts)] if self._rng.random() < 0.4 else []
        found.append(self.whole(ts) if self._rng.random() < 0.01 else self._changes(ts))
        if self._rng.random() < 0.2:
            found.append(self._quote(ts))
        return found

    def _instrument(self, ts: int) -> m.Instrument:
        base, quote = self.symbol.split("/")
        return m.Instrument(
            ts,
            EXCHANGE,
            self.symbol,
            base,
            quote,
            to_units("0.01"),
            to_units("0.00001"),
            min_notional=to_units("5"),
            maker_fee_ppm=1000,
            taker_fee_ppm=1000,
            fees_as_of="2026-01-01",
        )

    def whole(self, ts: int) -> m.BookSnapshot:
        """Return the whole book, received at *ts*."""
        self._bids, self._asks = self._levels(-1), self._levels(1)
        return m.BookSnapshot(
            *self._head(ts), m.pack_levels(self._bids.items()), m.pack_levels(self._asks.items())
        )

    def _changes(self, ts: int) -> m.BookDelta:
        bids, asks = self._levels(-1), self._levels(1)
        delta = m.BookDelta(
            *self._head(ts),
            m.pack_levels(_difference(self._bids, bids)),
            m.pack_levels(_difference(self._asks, asks)),
        )
        self._bids, self._asks = bids, asks
        return delta

    def _levels(self, side: int) -> dict[int, int]:
        known = self._bids if side < 0 else self._asks
        found = {}
        for level in range(1, DEPTH + 1):
            price = self._mid + side * level
            is_new = price not in known or self._rng.random() < 0.2
            most = 800_000 if side == self._heavy else 200_000
            found[price] = self._rng.randrange(1_000, most) if is_new else known[price]
        return found

    def _trade(self, ts: int) -> m.Trade:
        is_buy = self._rng.random() < 0.5 - 0.3 * self._heavy
        side = m.Side.BUY if is_buy else m.Side.SELL
        return m.Trade(*self._head(ts), self._mid + side, self._rng.randrange(100, 200_000), side)

    def _quote(self, ts: int) -> m.Quote:
        bid, ask = max(self._bids), min(self._asks)
        return m.Quote(*self._head(ts), bid, self._bids[bid], ask, self._asks[ask])

    def _head(self, ts: int) -> tuple[int, int, str, str, int]:
        self.seq += 1
        return ts, ts - 2 * NS_PER_MS, EXCHANGE, self.symbol, self.seq


def _difference(before: dict[int, int], after: dict[int, int]) -> Iterator[tuple[int, int]]:
    yield from ((price, 0) for price in before if price not in after)
    yield from ((price, quantity) for price, quantity in after.items() if before.get(price) != quantity)


def market_only(tape: Iterable[m.Message]) -> list[m.Message]:
    """Return the messages of *tape* that an exchange may publish."""
    return [message for message in tape if type(message) in _MARKET]


def recorded(run_dir: Path, limit: int = 100_000) -> list[m.Message]:
    """
    Return the market messages of a recorded run, oldest first, at most *limit*.

    Raises: StoreError: there is no journal in *run_dir*, or it cannot be read.
    """
    journal = JournalReader(run_dir / "journal")
    prefixes, found = tuple(topics.prefixes(_MARKET)), []
    for raw in journal.frames():
        frame = codec.unpack(raw)
        if frame.topic.startswith(prefixes):
            found.append(codec.decode(frame.body))
            if len(found) == limit:
                break
    journal.close()
    return found


def save(path: Path, tape: Iterable[m.Message]) -> None:
    """Write *tape* into a file: a line of JSON for each message, so that people can read and cut it."""
    path.write_bytes(b"".join(msgspec.json.encode(message) + b"\n" for message in tape))


def load(path: Path) -> list[m.Message]:
    """
    Return the tape in a file that save() wrote.

    Raises: OSError. msgspec.MsgspecError: it is not a tape.
    """
    return [_decoder.decode(line) for line in path.read_bytes().splitlines()]
