"""
Walk: an exchange that makes its market up, a random walk in whole ticks.

Every number comes from ctx.uniform, which is a function of the run's seed and a key: so a seed is a
market, a restored one goes on as if nothing had been, and its whole state is three numbers a symbol.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from tickerml.kernel import (
    NS_PER_S,
    BookDelta,
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

EXCHANGE = "walk"
DEPTH = 5  # levels a side
TICK, LOT = to_units("0.01"), to_units("0.00001")
FIRST_MID = 5_000_000  # ticks


class WalkOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How large the market is, and how restless."""

    symbols: Annotated[
        tuple[str, ...], msgspec.Meta(min_length=1, max_length=100, description="what is traded")
    ] = ("BTC/USDT", "ETH/USDT")
    frames_per_s: Annotated[
        float, msgspec.Meta(gt=0, le=10_000, description="frames a second of market time, of all symbols")
    ] = 20.0
    frames: Annotated[int, msgspec.Meta(ge=0, description="how many until it ends; 0 for no end")] = 0
    step_ticks: Annotated[
        int, msgspec.Meta(ge=1, le=1000, description="the most that a mid moves at once")
    ] = 3
    trade_share: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="share of the frames that have a print")
    ] = 0.4


class _Walk(msgspec.Struct):
    symbol: str
    mid: int = FIRST_MID  # ticks; bids lie below and asks above it
    seq: int = 0
    moved_at: int = 0  # the frame of its last move


class _State(msgspec.Struct):
    walks: list[_Walk]
    frame: int = 0
    after: int = 0  # ns that were left out by skip_to
    is_over: bool = False


class Walk:
    """The symbols take turns, one a frame."""

    def __init__(self, ctx: Context, options: WalkOptions) -> None:
        """
        Raises: ValueError: a symbol is not BASE/QUOTE.
        """
        for symbol in options.symbols:
            if symbol.count("/") != 1:
                raise ValueError(f"symbols: expected BASE/QUOTE, was {symbol!r}")
        self._ctx = ctx
        self._options = options
        self._frame_ns = round(NS_PER_S / options.frames_per_s)
        self._state = _State([_Walk(symbol) for symbol in options.symbols])

    def events(self) -> Iterator[tuple[int, Sequence[Message]]]:
        """Yield (ts_recv, messages) for each frame, from where the restored state left off."""
        state, frames = self._state, self._options.frames
        while not frames or state.frame < frames:
            walk = state.walks[state.frame % len(state.walks)]
            state.frame += 1
            yield self._now(), self._play(walk)
        if not state.is_over:
            state.is_over = True
            yield self._now(), [FeedEnded(self._now(), self._ctx.plugin, state.frame, 0)]

    def skip_to(self, ts: int) -> None:
        """Go on at *ts*, ns UTC: nobody was there for what would have been before."""
        self._state.after += max(0, ts - self._now())

    def _now(self) -> int:
        return self._ctx.started_ns + self._state.after + self._state.frame * self._frame_ns

    def _play(self, walk: _Walk) -> list[Message]:
        ts, is_first = self._now(), not walk.seq
        if is_first:
            return [*self._introduce(walk, ts), BookSnapshot(*self._head(walk, ts), *self._sides(walk))]
        found: list[Message] = []
        if self._draw(walk, "print") < self._options.trade_share:
            side = Side.BUY if self._draw(walk, "side") < 0.5 else Side.SELL
            quantity = 1 + int(self._draw(walk, "size") * 50_000)
            found.append(Trade(*self._head(walk, ts), walk.mid + side, quantity, side))
        before = [dict(self._levels(walk, side)) for side in (-1, 1)]
        self._move(walk)
        after = [dict(self._levels(walk, side)) for side in (-1, 1)]
        changes = [pack_levels(_changes(*pair)) for pair in zip(before, after, strict=True)]
        found.append(BookDelta(*self._head(walk, ts), changes[0], changes[1]))
        return found

    def _introduce(self, walk: _Walk, ts: int) -> list[Message]:
        base, quote = walk.symbol.split("/")
        known = [each.symbol for each in self._state.walks if each.seq or each is walk]
        return [
            FeedConnected(ts, EXCHANGE, known),
            Instrument(
                ts, EXCHANGE, walk.symbol, base, quote, TICK, LOT, taker_fee_ppm=1000, maker_fee_ppm=1000
            ),
        ]

    def _move(self, walk: _Walk) -> None:
        most = self._options.step_ticks
        walk.moved_at = self._state.frame
        walk.mid = max(DEPTH + 1, walk.mid + round((2 * self._draw(walk, "step") - 1) * most))

    def _levels(self, walk: _Walk, side: int) -> Iterator[tuple[int, int]]:
        for level in range(1, DEPTH + 1):
            draw = self._ctx.uniform(walk.symbol, walk.moved_at, side, level)
            yield walk.mid + side * level, 1_000 + int(draw * 200_000)

    def _sides(self, walk: _Walk) -> tuple[bytes, bytes]:
        return pack_levels(self._levels(walk, -1)), pack_levels(self._levels(walk, 1))

    def _draw(self, walk: _Walk, what: str) -> float:
        return self._ctx.uniform(walk.symbol, self._state.frame, what)

    def _head(self, walk: _Walk, ts: int) -> tuple[int, int, str, str, int]:
        walk.seq += 1
        return ts, ts, EXCHANGE, walk.symbol, walk.seq

    def summarize(self) -> list[Message]:
        """Return what was played so far."""
        books = sum(1 for walk in self._state.walks if walk.seq)
        return [FeedSummarized(self._now(), EXCHANGE, self._state.frame, 0, 0, 0, {}, books, books)]

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        """Take what snapshot() wrote; its symbols go on, whatever the options say now."""
        self._state = msgspec.msgpack.decode(state, type=_State)


def _changes(before: dict[int, int], after: dict[int, int]) -> Iterator[tuple[int, int]]:
    yield from ((price, 0) for price in before if price not in after)
    yield from ((price, quantity) for price, quantity in after.items() if before.get(price) != quantity)


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-walk",
            factory=Walk,
            options=WalkOptions,
            publishes=(
                Instrument,
                BookSnapshot,
                BookDelta,
                Trade,
                FeedConnected,
                FeedEnded,
                FeedSummarized,
            ),
            summary="a made-up market that walks at random",
        )
    ]
