# /// tickerml-plugin
# format = 1
# [plugin.exchange-wave]
# kinds = ["exchange"]
# api = ">=1.0,<2"
# summary = "makes up one symbol whose price goes up and down like a saw"
# publishes = ["Instrument", "BookSnapshot", "Trade", "FeedConnected", "FeedEnded", "FeedSummarized"]
# tier = "edge"
# ///
"""
Wave: an exchange that makes up one symbol, whose price goes up and down like a saw.

Everything follows from the number of the frame, so that is its whole state.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookSnapshot,
    Context,
    ExchangeSpec,
    FeedConnected,
    FeedEnded,
    FeedSummarized,
    Instrument,
    Message,
    Options,
    Side,
    Trade,
    hookimpl,
    pack_levels,
    to_units,
)

EXCHANGE, SYMBOL = "wave", "BTC/USDT"
TICK, LOT = to_units("0.01"), to_units("0.00001")
FRAME_NS = 100 * NS_PER_MS
MIDDLE, HEIGHT = 5_000_000, 2_000  # ticks
DEPTH = 5  # levels a side


class WaveOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long it plays, and how fast the price moves."""

    duration_s: Annotated[int, msgspec.Meta(ge=1, description="how much market time there is, s")] = 600
    step: Annotated[
        int, msgspec.Meta(ge=1, le=100, description="how far the price moves in 100 ms, ticks")
    ] = 5


class WaveExchange:
    """Counts frames of 100 ms."""

    def __init__(self, ctx: Context, options: WaveOptions) -> None:
        self._ctx = ctx
        self._step = options.step
        self._frames = options.duration_s * NS_PER_S // FRAME_NS
        self._at = 0  # frames played

    def events(self) -> Iterator[tuple[int, Sequence[Message]]]:
        """Yield (ts_recv, messages) for each frame, from where the restored state left off."""
        while self._at <= self._frames:
            number, ts = self._at, self._ctx.started_ns + self._at * FRAME_NS
            self._at += 1  # first: what is written down while it waits stands behind this frame
            if number == 0:
                yield ts, self._beginning(ts)
            elif number < self._frames:
                yield ts, self._frame(number, ts)
            else:
                yield ts, [FeedEnded(ts, self._ctx.plugin, number, 0)]

    def _beginning(self, ts: int) -> list[Message]:
        base, quote = SYMBOL.split("/")
        instrument = Instrument(ts, EXCHANGE, SYMBOL, base, quote, TICK, LOT, taker_fee_ppm=1000)
        return [FeedConnected(ts, EXCHANGE, [SYMBOL]), instrument]

    def _frame(self, number: int, ts: int) -> list[Message]:
        way = number * self._step % (2 * HEIGHT)
        mid = MIDDLE + min(way, 2 * HEIGHT - way)
        bids = pack_levels((mid - level, 100_000) for level in range(1, DEPTH + 1))
        asks = pack_levels((mid + level, 100_000) for level in range(1, DEPTH + 1))
        found: list[Message] = [BookSnapshot(ts, ts, EXCHANGE, SYMBOL, number, bids, asks)]
        if self._ctx.uniform("print", number) < 0.3:
            side = Side.BUY if way < HEIGHT else Side.SELL
            found.append(Trade(ts, ts, EXCHANGE, SYMBOL, number, mid + side, 1_000, side))
        return found

    def summarize(self) -> list[Message]:
        """Return how much was played."""
        return [FeedSummarized(self._ctx.clock.now(), EXCHANGE, self._at, 0, 0, 0)]

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._at)

    def restore(self, state: bytes) -> None:
        self._at = msgspec.msgpack.decode(state, type=int)


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-wave",
            factory=WaveExchange,
            options=WaveOptions,
            publishes=(Instrument, BookSnapshot, Trade, FeedConnected, FeedEnded, FeedSummarized),
            summary="makes up one symbol whose price goes up and down like a saw",
        )
    ]
