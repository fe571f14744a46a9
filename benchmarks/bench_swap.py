"""
One plugin of each kind for benchmarks/swap.py, each a function of its inputs and of its state.

What a plugin says depends on every byte of its state: one that was lost, or was of another
moment, shows in the bytes of every later output. A feed that is live makes up its data from
the monotonic clock, which all processes share: two connections to it hear the same.
"""

import asyncio
import os
import signal
import socket
import time
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from types import FrameType, SimpleNamespace
from typing import Annotated, Any

import msgspec

from tickerml.kernel import (
    UNIT,
    Alert,
    BookDelta,
    BookSnapshot,
    Context,
    ExchangeSpec,
    FeatureSetSpec,
    FeatureVector,
    FeedConnected,
    FeedEnded,
    FeedLost,
    Instrument,
    Message,
    NewsItem,
    NewsSourceSpec,
    Options,
    PageSpec,
    PluginSpec,
    RiskRuleSpec,
    SequenceGap,
    Severity,
    Side,
    SimulatorSpec,
    SinkSpec,
    StoreSpec,
    StrategySpec,
    Trade,
    TrainerSpec,
    hookimpl,
    pack_levels,
)
from tickerml.kernel import messages as m
from tickerml.kernel.hookspecs import Dataset

EXCHANGE, SYMBOL = "bench", "BTC/USD"
BEGAN_NS = 1_700_000_000 * 10**9  # of the data
PRIME = 7919  # by which the place in the state moves on, so that all of it is touched
GAP_EVERY = 10  # of the trades that are for a sink, the exchange says of one that something is missing
STEP_S = 0.001  # of the trainer


class SwapOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of all of them."""

    rate: Annotated[int, msgspec.Meta(ge=1, description="messages per second")] = 10_000
    last: Annotated[int, msgspec.Meta(ge=0, description="number of the last message; 0 for no end")] = 0
    state_bytes: Annotated[int, msgspec.Meta(ge=0, description="size of the state")] = 0
    has_gaps: Annotated[bool, msgspec.Meta(description="whether to yield what a sink is told of")] = False
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535, description="where the page answers")] = 0


class Memory:
    """A state of some size in which every input leaves its mark."""

    def __init__(self, size: int) -> None:
        self.count = self.mixed = 0
        self._bytes = bytearray(size)

    def take(self, number: int) -> int:
        """Take *number* in; returns what all that was taken so far comes to."""
        self.count += 1
        if self._bytes:
            place = self.count * PRIME % len(self._bytes)
            self._bytes[place] = (self._bytes[place] * 31 + number) & 0xFF
            number += self._bytes[place]
        self.mixed = (self.mixed * 31 + number) & 0xFFFF_FFFF
        return self.mixed

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode((self.count, self.mixed, bytes(self._bytes)))

    def restore(self, state: bytes) -> None:
        self.count, self.mixed, held = msgspec.msgpack.decode(state, type=tuple[int, int, bytes])
        self._bytes = bytearray(held)


class Component:
    """What all of them share."""

    def __init__(self, ctx: Context, options: SwapOptions) -> None:
        self.ctx, self.options = ctx, options
        self.memory = Memory(options.state_bytes)

    def snapshot(self) -> bytes:
        return self.memory.snapshot()

    def restore(self, state: bytes) -> None:
        self.memory.restore(state)

    def summarize(self) -> Sequence[Message]:
        return ()


# --- What plays into the bus ----------------------------------------------------------------------


def opening(ts: int, number: int) -> list[Message]:
    """Return what an exchange says at first: its instrument and its book."""
    bids, asks = pack_levels([(6_000_000, 10**8)]), pack_levels([(6_000_100, 10**8)])
    return [
        Instrument(ts, EXCHANGE, SYMBOL, "BTC", "USD", UNIT // 100, UNIT // 10**8),
        BookSnapshot(ts, ts, EXCHANGE, SYMBOL, number, bids, asks),
    ]


class Market(Component):
    """Trades at an even pace, as recorded ones would be played."""

    def events(self) -> Iterator[tuple[int, Sequence[Message]]]:
        if not self.memory.count:
            yield BEGAN_NS, opening(BEGAN_NS, 0)
        step, last = 10**9 // self.options.rate, self.options.last
        while not last or self.memory.count < last:
            number = self.memory.count + 1
            price = 6_000_000 + self.memory.take(number) % 100
            ts = BEGAN_NS + number * step
            if self.options.has_gaps and number % GAP_EVERY == 0:
                yield ts, [SequenceGap(ts, EXCHANGE, SYMBOL, number, number + 1)]
            else:
                yield ts, [Trade(ts, ts, EXCHANGE, SYMBOL, number, price, 1000, Side.BUY)]
        ended = BEGAN_NS + last * step
        yield ended, [FeedEnded(ended, self.ctx.plugin, last, 0)]


def live_message(number: int, rate: int) -> Message:
    """Return the message of this number of the live exchange: every other one is of its book."""
    ts = number * 10**9 // rate
    if number % 2:
        return Trade(ts, ts, EXCHANGE, SYMBOL, number, 6_000_000 + number % 97, 1000, Side.BUY)
    bids = pack_levels([(6_000_000 - number % 89, 1 + number % 83)])
    return BookDelta(ts, ts, EXCHANGE, SYMBOL, number, bids, b"")


def news_item(number: int, rate: int) -> NewsItem:
    """Return the news of this number."""
    ts = number * 10**9 // rate
    return NewsItem(ts, ts, EXCHANGE, str(number), f"headline {number}")


async def numbers(rate: int) -> AsyncIterator[range]:
    """Yield the numbers of what has happened since the last time, as the monotonic clock goes."""
    sent = time.monotonic_ns() * rate // 10**9
    while True:
        due = time.monotonic_ns() * rate // 10**9
        yield range(sent + 1, due + 1)
        sent = due
        await asyncio.sleep(0.0005)


class LiveMarket(Component):
    """Trades and changes of a book, as a connection to an exchange brings them."""

    async def stream(self) -> AsyncIterator[Sequence[Message]]:
        rate = self.options.rate
        is_first = True
        async for due in numbers(rate):
            if is_first:
                at = due.start - 1
                yield [FeedConnected(at * 10**9 // rate, EXCHANGE, [SYMBOL])]
                yield opening(at * 10**9 // rate, at)
                is_first = False
            for number in due:
                yield [live_message(number, rate)]


class News(Component):
    """Headlines at an even pace, as a connection to an agency brings them."""

    async def stream(self) -> AsyncIterator[Sequence[Message]]:
        async for due in numbers(self.options.rate):
            for number in due:
                yield [news_item(number, self.options.rate)]


class Learner(Component):
    """Reports of short steps; what it learns is how often it was asked."""

    def fit(self, dataset: Dataset) -> Iterator[Sequence[Message]]:
        last = self.options.last
        while not last or self.memory.count < last:
            time.sleep(STEP_S if not last else 0.0)  # stands for the computing of a step
            step = self.memory.count + 1
            loss = self.memory.take(step) / 1000
            yield [m.TrainingReported(BEGAN_NS + step, self.ctx.plugin, step, {"loss": loss})]


# --- What takes the bus ---------------------------------------------------------------------------


class Answers(Component):
    """Answers every trade with a message that its kind may publish."""

    def on_trade(self, trade: Trade) -> None:
        self.ctx.publish(self.answer(trade, self.memory.take(trade.price)))

    def answer(self, trade: Trade, mixed: int) -> Message:
        """Return the answer to *trade*, *mixed* being what the state comes to."""
        raise NotImplementedError


class Features(Answers):
    def answer(self, trade: Trade, mixed: int) -> Message:
        values = array("d", [trade.seq, mixed]).tobytes()
        return FeatureVector(trade.ts_recv, trade.ts_event, EXCHANGE, SYMBOL, self.ctx.plugin, values)


class Cancels(Answers):
    def answer(self, trade: Trade, mixed: int) -> Message:
        return m.CancelOrder(trade.ts_recv, f"{trade.seq}-{mixed}", EXCHANGE, SYMBOL)


class Verdicts(Answers):
    def answer(self, trade: Trade, mixed: int) -> Message:
        return m.RiskVerdict(trade.ts_recv, f"{trade.seq}-{mixed}", self.ctx.plugin, trade.quantity)


class Markouts(Answers):
    def answer(self, trade: Trade, mixed: int) -> Message:
        order_id = f"{trade.seq}-{mixed}"
        return m.MarkoutMeasured(
            trade.ts_recv, order_id, 0, EXCHANGE, SYMBOL, m.Liquidity.MAKER, 10**9, mixed % 7 / 2
        )


class Ledger(Answers):
    def answer(self, trade: Trade, mixed: int) -> Message:
        return m.PortfolioSnapshot(
            trade.ts_recv, "paper", "USD", trade.seq, mixed, 0, 0, 0, 0, 0.0, 0.0, True, [], []
        )


class Pager(Component):
    """Writes every alert into a file, with what its state comes to: what is there twice was sent twice."""

    def __init__(self, ctx: Context, options: SwapOptions) -> None:
        super().__init__(ctx, options)
        self._path = ctx.data_dir / "sent"
        ctx.data_dir.mkdir(parents=True, exist_ok=True)

    def on_trade(self, trade: Trade) -> None:
        self.memory.take(trade.price)

    def emit(self, alert: Alert) -> None:
        with self._path.open("a") as file:
            file.write(f"{alert.ts} {self.memory.mixed}\n")


# --- A page ---------------------------------------------------------------------------------------


class Ended(Exception):
    """The kernel asks the page to stop."""


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended


def serve(ctx: Any, options: SwapOptions) -> None:
    """Answer everybody who connects, beside another process of ours; what has connected is answered first."""
    signal.signal(signal.SIGTERM, _end)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", options.port))
        listener.listen(128)
        listener.settimeout(0.1)
        ctx.alive()
        try:
            while True:
                _answer_next(listener)
                ctx.alive()
        except Ended:
            listener.settimeout(0.0)
            while _answer_next(listener):
                pass


def _answer_next(listener: socket.socket) -> bool:
    """Answer who is next; returns whether there was one."""
    try:
        peer, _ = listener.accept()
    except (BlockingIOError, TimeoutError):
        return False
    with peer:
        peer.sendall(str(os.getpid()).encode())
    return True


# --- Their offers, each under the name of its kind --------------------------------------------------


def _offer(hook: str, spec: PluginSpec) -> SimpleNamespace:
    """Return what stands for a module with the hook *hook* that offers *spec*."""
    return SimpleNamespace(**{hook: hookimpl(lambda: [spec])})


_FEED = (Instrument, BookSnapshot, BookDelta, Trade, SequenceGap, FeedConnected, FeedLost, FeedEnded)
exchange = _offer(
    "tickerml_exchanges",
    ExchangeSpec(id="swap-exchange", factory=Market, options=SwapOptions, publishes=_FEED),
)
exchange_live = _offer(
    "tickerml_exchanges",
    ExchangeSpec(
        id="swap-exchange-live", factory=LiveMarket, options=SwapOptions, publishes=_FEED, is_live=True
    ),
)
news_source = _offer(
    "tickerml_news_sources",
    NewsSourceSpec(id="swap-news", factory=News, options=SwapOptions, publishes=(NewsItem,)),
)
trainer = _offer(
    "tickerml_trainers",
    TrainerSpec(id="swap-trainer", factory=Learner, options=SwapOptions, publishes=(m.TrainingReported,)),
)
feature_set = _offer(
    "tickerml_feature_sets",
    FeatureSetSpec(
        id="swap-features",
        factory=Features,
        options=SwapOptions,
        publishes=(FeatureVector,),
        columns=("number", "mixed"),
    ),
)
strategy = _offer(
    "tickerml_strategies",
    StrategySpec(id="swap-strategy", factory=Cancels, options=SwapOptions, publishes=(m.CancelOrder,)),
)
risk_rule = _offer(
    "tickerml_risk_rules",
    RiskRuleSpec(id="swap-rule", factory=Verdicts, options=SwapOptions, publishes=(m.RiskVerdict,)),
)
simulator = _offer(
    "tickerml_simulators",
    SimulatorSpec(id="swap-simulator", factory=Markouts, options=SwapOptions, publishes=(m.MarkoutMeasured,)),
)
store = _offer(
    "tickerml_stores",
    StoreSpec(id="swap-store", factory=Ledger, options=SwapOptions, publishes=(m.PortfolioSnapshot,)),
)
sink = _offer(
    "tickerml_sinks",
    SinkSpec(id="swap-sink", factory=Pager, options=SwapOptions, min_severity=Severity.WARNING),
)
page = _offer("tickerml_pages", PageSpec(id="swap-page", factory=serve, options=SwapOptions))
