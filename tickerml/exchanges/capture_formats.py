"""
Whose frames a capture holds, told by what is in it.

Each format is a pattern that some line among the first of its captures holds: the host that
was spoken to, in the URL of a connection or of a REST reply, or the shape of a frame. They are
tried in order, so a host goes before a shape, and a shape before one that is less its own.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from .binance_wire import SpotFeed, UsdmFeed
from .coinbase_wire import CoinbaseFeed, ExchangeFeed
from .feed import Feed
from .kraken_wire import KrakenFeed, KrakenV1Feed
from .krakenfutures_wire import KrakenFuturesFeed
from .kucoin_wire import KucoinFeed
from .kucoinfutures_wire import KucoinFuturesFeed
from .l3 import IndependentReserveFeed, KrakenL3Feed

_LOOKED_AT = 600  # bytes of a line: a pattern is found before the levels of a book begin


class Format(NamedTuple):
    """One exchange's wire format: the name to publish as, who reads it, and what gives it away."""

    exchange: str
    feed: type[Feed]
    sign: re.Pattern[bytes]

    @property
    def is_numbered_by_connection(self) -> bool:
        """Whether frames carry the numbers of their connection, so that two cannot be read as one."""
        return self.feed is CoinbaseFeed


def _format(exchange: str, feed: type[Feed], sign: bytes) -> Format:
    return Format(exchange, feed, re.compile(sign))


#: Before the first that fits; spot frames alone do not say whose of the Binance family they are.
FORMATS = (
    # Whom the line says it was exchanged with.
    _format("binanceusdm", UsdmFeed, rb"^(wss|https)://f(stream|api)\.binance\.com"),
    _format("binanceus", SpotFeed, rb"^(wss|https)://[a-z]+\.binance\.us"),
    _format("binance", SpotFeed, rb"^(wss|https)://[a-z]+\.binance\.com"),
    _format(
        "coinbaseexchange", ExchangeFeed, rb"^(wss|https)://(ws-feed|api)\.(pro|exchange)\.coinbase\.com"
    ),
    _format("coinbase", CoinbaseFeed, rb"^(wss|https)://(advanced-trade-ws|api)\.coinbase\.com"),
    _format("krakenfutures", KrakenFuturesFeed, rb"^(wss|https)://futures\.kraken\.com"),
    _format("kraken", KrakenL3Feed, rb"^wss://ws-l3\.kraken\.com/v2"),
    _format("kraken", KrakenFeed, rb"^wss://ws[a-z0-9-]*\.kraken\.com/v2"),
    _format("independentreserve", IndependentReserveFeed, rb"^(wss|https)://[a-z]+\.independentreserve\.com"),
    _format("kucoinfutures", KucoinFuturesFeed, rb"^https://api-futures\.kucoin\.com|/contractMarket/"),
    _format("kucoin", KucoinFeed, rb"^https://[a-z-]+\.kucoin\.com|^wss://[a-z-]+\.kucoin\.com.*/market/"),
    # What its frames look like.
    _format("binanceusdm", UsdmFeed, rb'"stream":"[a-z0-9_]+@.*"pu":|"e":"markPriceUpdate"'),
    _format("coinbase", CoinbaseFeed, rb'^{"channel":"[a-z0-9_]+",.*"sequence_num":'),
    _format(
        "coinbaseexchange", ExchangeFeed, rb'^{"type":"(l2update|last_match|match|snapshot)".*"product_id":'
    ),
    _format(
        "krakenfutures", KrakenFuturesFeed, rb'"feed":"(book|trade|ticker)(_snapshot|_lite)?","product_id":'
    ),
    _format("independentreserve", IndependentReserveFeed, rb'"Channel":"orderbook-[a-z]+","Nonce":'),
    _format("kraken", KrakenL3Feed, rb'^{"channel":"level3"'),
    _format("kraken", KrakenFeed, rb'^{"channel":"[a-z0-9]+","(type|data)":|^{"method":"(subscribe|pong)"'),
    _format(
        "kraken",
        KrakenV1Feed,
        rb'"event":"(systemStatus|subscriptionStatus)"|^\[\d+,[{[].*"[a-z0-9-]+","[A-Z0-9./]+"\]',
    ),
    _format("kraken", KrakenV1Feed, rb"^(wss|https)://(ws|api)\.kraken\.com"),
    _format("kucoin", KucoinFeed, rb'"subject":"trade\.(l2update|l3match|ticker)"'),
)

#: What a capture of a combined stream holds that does not say whose of the family it is.
SPOT = re.compile(rb'^{"stream":"[a-z0-9]+@')


def recognise(lines: Sequence[bytes], unsaid: str) -> Format | None:
    """
    Return the format of a capture; None where it is none that we know.

    Args:
        lines: its frames as the exchange sent them; replies and marks with what the archive put before.
        unsaid: the exchange that spot frames of the Binance family are taken for.
    """
    looked_at = [line[:_LOOKED_AT] for line in lines]
    for known in FORMATS:
        if any(known.sign.search(text) for text in looked_at):
            return known
    if any(SPOT.search(text) for text in looked_at):
        return Format(unsaid, SpotFeed, SPOT)
    return None
