# /// tickerml-plugin
# format = 1
# [plugin.news-rss]
# kinds = ["news_source"]
# api = ">=1.0,<2"
# summary = "follows an RSS feed"
# publishes = ["NewsItem", "FeedConnected", "FeedLost", "FeedSummarized"]
# network = ["example.org"]
# tier = "swappable"
# ///
"""
RSS: a news source that asks for a feed again and again, and gives each item once.

A live feed never raises because of its network: what cannot be reached is FeedLost, and asked again.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Annotated
from xml.etree import ElementTree

import aiohttp
import msgspec

from tickerml.kernel import (
    NS_PER_S,
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

REMEMBERED = 1_000  # ids: more than a feed shows at once


def items(feed: str, ts_recv: int, source: str) -> list[NewsItem]:
    """
    Return the items of an RSS *feed* that was received at *ts_recv*, ns UTC, the oldest first.

    Raises: ValueError: it is none.
    """
    try:
        found = list(ElementTree.fromstring(feed).iter("item"))
    except ElementTree.ParseError as error:
        raise ValueError(f"expected an RSS feed, was {feed[:40]!r}: {error}") from error
    return [_item(each, ts_recv, source) for each in reversed(found)]


def _item(item: ElementTree.Element, ts_recv: int, source: str) -> NewsItem:
    def text(name: str) -> str:
        return (item.findtext(name) or "").strip()

    date, link = text("pubDate"), text("link")
    published = int(parsedate_to_datetime(date).timestamp()) * NS_PER_S if date else 0
    return NewsItem(
        ts_recv, published, source, text("guid") or link, text("title"), link, text("description")
    )


class RssOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which feed, and how often."""

    url: Annotated[str, msgspec.Meta(description="address of the feed")] = "https://example.org/feed.xml"
    every_s: Annotated[float, msgspec.Meta(ge=1, le=86_400, description="time between two questions, s")] = (
        60.0
    )


class RssNews:
    """Remembers which items it has given."""

    def __init__(self, ctx: Context, options: RssOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._given: dict[str, None] = {}  # ids in their order
        self._is_lost = True

    async def stream(self) -> AsyncIterator[Sequence[Message]]:
        """Yield new items for as long as it is iterated over."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            while True:
                if messages := await self._ask(session):
                    yield messages
                await asyncio.sleep(self._options.every_s)

    async def _ask(self, session: aiohttp.ClientSession) -> list[Message]:
        now, source = self._ctx.clock.now, self._ctx.plugin
        try:
            async with session.get(self._options.url, raise_for_status=True) as answer:
                fresh = [
                    each for each in items(await answer.text(), now(), source) if each.id not in self._given
                ]
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a timeout is an OSError
            self._is_lost = True
            return [FeedLost(now(), source, str(error), round(self._options.every_s * 1000))]
        self._given |= {item.id: None for item in fresh}
        self._given = dict.fromkeys(list(self._given)[-REMEMBERED:])
        was_lost, self._is_lost = self._is_lost, False
        return [*([FeedConnected(now(), source, [])] if was_lost else []), *fresh]

    def summarize(self) -> list[Message]:
        """Return how many items it has given."""
        return [FeedSummarized(self._ctx.clock.now(), self._ctx.plugin, len(self._given), 0, 0, 0)]

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(list(self._given))

    def restore(self, state: bytes) -> None:
        self._given = dict.fromkeys(msgspec.msgpack.decode(state, type=list[str]))


@hookimpl
def tickerml_news_sources() -> list[NewsSourceSpec]:
    return [
        NewsSourceSpec(
            id="news-rss",
            factory=RssNews,
            options=RssOptions,
            publishes=(NewsItem, FeedConnected, FeedLost, FeedSummarized),
            summary="follows an RSS feed",
        )
    ]
