"""
A market of one symbol in a few lines: buyers and sellers take turns in weighing more.

Every 50 ms the book is sent whole, and half the time somebody takes from the heavier side, so a
strategy that follows imbalance orders, and its orders fill.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
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

FRAME_NS = 50 * NS_PER_MS
TURN = 30  # frames until the other side weighs more
EXCHANGE, SYMBOL = "tiny", "BTC/USDT"


class TinyOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of it there is, and where it breaks."""

    frames: Annotated[int, msgspec.Meta(ge=0, description="how many frames until it ends")] = 600
    fails_at: Annotated[int, msgspec.Meta(ge=-1, description="the frame at which it raises; -1 never")] = -1


class TinySource:
    """Counts frames; everything else follows from the count."""

    def __init__(self, ctx: Context, options: TinyOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._at = 0

    def events(self) -> Iterator[tuple[int, Sequence[Message]]]:
        """Yield a frame each 50 ms."""
        while self._at <= self._options.frames:
            if self._at == self._options.fails_at:
                raise RuntimeError("the wire was cut")
            self._at += 1
            ts = self._ctx.started_ns + self._at * FRAME_NS
            yield ts, [*self._beginning(ts), *self._frame(ts)]

    def _beginning(self, ts: int) -> list[Message]:
        if self._at > 1:
            return []
        tick, lot = to_units("0.01"), to_units("0.00001")
        instrument = Instrument(ts, EXCHANGE, SYMBOL, "BTC", "USDT", tick, lot, maker_fee_ppm=1000)
        return [FeedConnected(ts, EXCHANGE, [SYMBOL]), instrument]

    def _frame(self, ts: int) -> list[Message]:
        if self._at > self._options.frames:
            return [FeedEnded(ts, "tiny-source", self._at - 1, 0)]
        heavy, light = 4_000_000, 500_000
        is_up = self._at // TURN % 2 == 0
        mid = 5_000_000 + (10 if is_up else 0)
        sizes = (heavy, light) if is_up else (light, heavy)
        bids = pack_levels((mid - level, sizes[0]) for level in range(1, 8))
        asks = pack_levels((mid + level, sizes[1]) for level in range(1, 8))
        book = BookSnapshot(ts, ts, EXCHANGE, SYMBOL, self._at, bids, asks)
        side = Side.SELL if self._at % 4 < 2 else Side.BUY
        price = mid - side.opposite
        trade = Trade(ts, ts, EXCHANGE, SYMBOL, self._at, price, heavy * 2, side)
        return [book, trade] if self._at % 2 else [book]

    def summarize(self) -> list[Message]:
        """Return what was seen so far."""
        return [FeedSummarized(self._ctx.clock.now(), EXCHANGE, self._at, 0, 0, 0)]

    def snapshot(self) -> bytes:
        """Return the count."""
        return msgspec.msgpack.encode(self._at)

    def restore(self, state: bytes) -> None:
        """Take the count back."""
        self._at = msgspec.msgpack.decode(state, type=int)


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    """Offer the source."""
    return [
        ExchangeSpec(
            id="tiny-source",
            factory=TinySource,
            options=TinyOptions,
            publishes=(Instrument, BookSnapshot, Trade, FeedConnected, FeedEnded, FeedSummarized),
            summary="one symbol in which buyers and sellers take turns",
        )
    ]
