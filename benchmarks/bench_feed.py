"""A feed for benchmarks: it stamps each tick with the monotonic clock, which all processes share."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import msgspec

from tickerml.kernel import (
    UNIT,
    BookSnapshot,
    ExchangeSpec,
    Instrument,
    Message,
    Options,
    Side,
    Trade,
    hookimpl,
    pack_levels,
)
from tickerml.kernel.hookspecs import Context


class FeedOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the feed."""

    rate: Annotated[int, msgspec.Meta(ge=1, description="trades per second")] = 1000


class StampedFeed:
    """Trades whose ts_event is the monotonic clock at their making."""

    def __init__(self, ctx: Context, options: FeedOptions) -> None:
        self._ctx = ctx
        self._options = options

    async def stream(self) -> AsyncIterator[Sequence[Message]]:
        now = self._ctx.clock.now()
        bids, asks = pack_levels([(6_000_000, 10**8)]), pack_levels([(6_000_100, 10**8)])
        yield [
            Instrument(now, "bench", "BTC/USD", "BTC", "USD", UNIT // 100, UNIT // 10**8),
            BookSnapshot(now, now, "bench", "BTC/USD", 0, bids, asks),
        ]
        began, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * self._options.rate)
            for number in range(sent + 1, due + 1):
                now, stamp = self._ctx.clock.now(), time.monotonic_ns()
                yield [Trade(now, stamp, "bench", "BTC/USD", number, 6_000_000, 1000, Side.BUY)]
            sent = due
            await asyncio.sleep(0.0005)

    def summarize(self) -> Sequence[Message]:
        return ()

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-bench",
            factory=StampedFeed,
            options=FeedOptions,
            publishes=(Instrument, BookSnapshot, Trade),
            is_live=True,
        )
    ]
