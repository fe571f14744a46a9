"""A news source in a few lines: a wire that counts, and breaks off once if told to."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import msgspec

from tickerml.kernel import (
    Context,
    FeedConnected,
    FeedLost,
    FeedSummarized,
    Message,
    NewsItem,
    NewsSourceSpec,
    Options,
    hookimpl,
)

WIRE = "tiny-wire"


class TinyNewsOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much it says, and how fast."""

    items: Annotated[int, msgspec.Meta(ge=0, description="how many items there are")] = 100
    every_ms: Annotated[float, msgspec.Meta(ge=0, description="time between two items, ms")] = 10.0
    breaks_at: Annotated[int, msgspec.Meta(ge=-1, description="item before which it is lost; -1 never")] = -1


class TinyNews:
    """Remembers the last item it gave, so that one that is said again is not given again."""

    def __init__(self, ctx: Context, options: TinyNewsOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._given = 0

    async def stream(self) -> AsyncIterator[Sequence[Message]]:
        """Yield each item once, whatever the wire repeats."""
        now = self._ctx.clock.now
        yield [FeedConnected(now(), WIRE, [])]
        for number in range(1, self._options.items + 1):
            if number == self._options.breaks_at:
                yield [FeedLost(now(), WIRE, "the wire was cut", 0)]
                yield [FeedConnected(now(), WIRE, [])]
            if number > self._given:
                self._given = number
                yield [NewsItem(now(), now(), WIRE, str(number), f"item {number}")]
                await asyncio.sleep(self._options.every_ms / 1000)
        await asyncio.Event().wait()

    def summarize(self) -> list[Message]:
        """Return what was given so far."""
        return [FeedSummarized(self._ctx.clock.now(), WIRE, self._given, 0, 0, 0)]

    def snapshot(self) -> bytes:
        """Return the number of the last item."""
        return msgspec.msgpack.encode(self._given)

    def restore(self, state: bytes) -> None:
        """Go on behind it."""
        self._given = msgspec.msgpack.decode(state, type=int)


@hookimpl
def tickerml_news_sources() -> list[NewsSourceSpec]:
    """Offer the source."""
    return [
        NewsSourceSpec(
            id="tiny-news",
            factory=TinyNews,
            options=TinyNewsOptions,
            publishes=(NewsItem, FeedConnected, FeedLost, FeedSummarized),
            summary="counts on a wire",
        )
    ]
