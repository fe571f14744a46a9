"""
A connector as it is built for a run, listening to the exchanges of this machine over real sockets.

What a subscriber's books say can be compared with what the exchange has, level by level.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any

import pytest

from tickerml.kernel import (
    BookCrossed,
    BookResynced,
    ChecksumFailed,
    FeedConnected,
    FeedLost,
    Message,
    SequenceGap,
)
from tickerml.testing.exchanges import ExchangeServer

from .connectors import live_feed
from .truth import Books, Truth, truth_of

WITHIN_S = 60.0

SYMBOLS = {
    "krakenfutures": ["BTC/USD-PERP", "ETH/USD-PERP"],
    "kucoinfutures": ["BTC/USDT-PERP", "ETH/USDT-PERP"],
    "binanceusdm": ["BTC/USDT-PERP", "ETH/USDT-PERP"],
}
#: A book that every lost frame of shows in the checksum.
OPTIONS = {"kraken": {"depth": 10}}

#: What is said of a connection, and of books in doubt.
MARKS = (FeedConnected, FeedLost, SequenceGap, ChecksumFailed, BookCrossed, BookResynced)


class Session:
    """One connector and the exchange it listens to."""

    def __init__(
        self,
        server: ExchangeServer,
        exchange: str,
        *,
        symbols: Iterable[str] = (),
        state: bytes = b"",
        **options: Any,
    ) -> None:
        """
        Args:
            symbols: to follow; two that every exchange has where none is named.
            state: of a feed before this one.
        """
        self.server, self.exchange = server, exchange
        self.wire = server.wires[exchange]
        self.symbols = list(symbols) or SYMBOLS.get(exchange, ["BTC/USDT", "ETH/USDT"])
        options = {"summary_s": 0.2} | OPTIONS.get(exchange, {}) | options
        self.feed = live_feed(exchange, server.address, self.symbols, **options)
        if state:
            self.feed.restore(state)
        self.books = Books()
        self.messages: list[Message] = []
        self.markets = {market.listing.symbol: market for market in self.wire.markets.values()}
        self._stream = self.feed.stream()
        self._truths: dict[str, Truth] = {}

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Take what the connector says until *is_so*."""
        while not is_so():
            messages = await anext(self._stream)
            self.messages += messages
            for message in messages:
                self.books.take(message)

    async def until_said(self, *kinds: type[Message], count: int = 1) -> None:
        """Take what the connector says until it has said *count* more of *kinds*."""
        before = len(self.of(*kinds))
        await self.until(lambda: len(self.of(*kinds)) >= before + count)

    async def until_true(self) -> None:
        """Take what the connector says until every book says VALID and is the exchange's."""
        await self.until(lambda: not self.untrue())

    def untrue(self) -> list[str]:
        """Return what is wrong with the books now, marked or not."""
        wrong = []
        for symbol in self.symbols:
            if not self.books.is_valid(symbol):
                wrong.append(f"{symbol} is not valid")
                continue
            if symbol not in self._truths:
                self._truths[symbol] = truth_of(self.wire, self.books.instruments[symbol])
            truth = self._truths[symbol]
            truth.move_to(self.markets[symbol].seq)
            wrong += [difference for difference in [truth.differs(self.books.books[symbol])] if difference]
        return wrong

    def update(self, times: int = 1) -> None:
        """Let something happen in every market."""
        for _ in range(times):
            for symbol in self.symbols:
                self.server.update(self.exchange, symbol)

    def of(self, *kinds: type[Message]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kinds)]

    def marks(self) -> list[str]:
        """Return the kinds of what was said of the connection and of doubt, in their order."""
        return [type(message).__name__ for message in self.of(*MARKS)]

    async def aclose(self) -> None:
        await self._stream.aclose()


Scenario = Callable[[Session], Coroutine[Any, Any, None]]


def play(exchange: str, scenario: Scenario, *, listed: Iterable[str] = (), **options: Any) -> Session:
    """
    Run *scenario* with the exchange's connector; return what it listened to.

    Args:
        listed: the symbols that the exchange has, all of its own where none is named.
        options: as Session takes them.
    """

    async def run() -> Session:
        async with ExchangeServer(exchange, seed=5, symbols=listed).serving() as server:
            session = Session(server, exchange, **options)
            try:
                async with asyncio.timeout(WITHIN_S), aclosing(session):
                    await scenario(session)
            except TimeoutError:
                pytest.fail(f"after {WITHIN_S} s: {session.untrue()}; said: {session.marks()}")
            return session

    return asyncio.run(run())
