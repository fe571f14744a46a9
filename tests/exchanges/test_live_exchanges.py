"""
Every connector, as it is built for a run, against the exchanges of this machine: real sockets, real faults.

What a subscriber's books say is compared with what the exchange has, level by level. What
nobody can see on a socket in a test's time, wrong books in hours of faults, is in campaign.py.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import aclosing
from random import Random
from typing import Any

import pytest

from tests.exchanges.connectors import CONNECTORS, live_feed
from tests.exchanges.truth import Books, Truth, truth_of
from tickerml.kernel import (
    BookCrossed,
    BookResynced,
    BookSnapshot,
    ChannelLost,
    ChannelResumed,
    ChecksumFailed,
    FeedConnected,
    FeedLost,
    FeedSummarized,
    Message,
    SequenceGap,
    Trade,
)
from tickerml.testing.exchanges import ExchangeServer

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

exchanges = pytest.mark.parametrize("exchange", CONNECTORS)


class Session:
    """One connector and the exchange it listens to."""

    def __init__(self, server: ExchangeServer, exchange: str, **options: Any) -> None:
        self.server, self.exchange = server, exchange
        self.symbols = SYMBOLS.get(exchange, ["BTC/USDT", "ETH/USDT"])
        options = {"summary_s": 0.2} | OPTIONS.get(exchange, {}) | options
        self.feed = live_feed(exchange, server.address, self.symbols, **options)
        self.books = Books()
        self.messages: list[Message] = []
        self.markets = [server.wires[exchange].market(symbol) for symbol in self.symbols]
        self._stream = self.feed.stream()
        self._truths: dict[str, Truth] = {}

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Take what the connector says until *is_so*."""
        while not is_so():
            messages = await anext(self._stream)
            self.messages += messages
            for message in messages:
                self.books.take(message)

    async def until_said(self, *kinds: type[Message]) -> None:
        """Take what the connector says until it says one of *kinds* that it has not said yet."""
        before = len(self.of(*kinds))
        await self.until(lambda: len(self.of(*kinds)) > before)

    async def until_true(self) -> None:
        """Take what the connector says until every book says VALID and is the exchange's."""
        await self.until(lambda: not self.untrue())

    def untrue(self) -> list[str]:
        """Return what is wrong with the books now, marked or not."""
        wrong = []
        for symbol, market in zip(self.symbols, self.markets, strict=True):
            if not self.books.is_valid(symbol):
                wrong.append(f"{symbol} is not valid")
                continue
            if symbol not in self._truths:
                wire = self.server.wires[self.exchange]
                self._truths[symbol] = truth_of(wire, self.books.instruments[symbol])
            truth = self._truths[symbol]
            truth.move_to(market.seq)
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


def play(exchange: str, scenario: Callable[[Session], Coroutine[Any, Any, None]], **options: Any) -> Session:
    """Run *scenario* with the exchange's connector; return what it listened to."""

    async def run() -> Session:
        async with ExchangeServer(exchange, seed=5).serving() as server:
            session = Session(server, exchange, **options)
            try:
                async with asyncio.timeout(WITHIN_S), aclosing(session):
                    await scenario(session)
            except TimeoutError:
                pytest.fail(f"after {WITHIN_S} s: {session.untrue()}; said: {session.marks()}")
            return session

    return asyncio.run(run())


@exchanges
def test_a_cold_start_ends_with_true_books_and_trades_come_with_their_aggressor(exchange: str) -> None:
    prints: list[tuple[int, bool]] = []

    async def scenario(session: Session) -> None:
        await session.until_true()
        while not prints:
            update = session.server.update(exchange, session.symbols[0])
            prints.extend((trade.number, trade.is_buy) for trade in update.prints)
        await session.until(lambda: len(session.of(Trade)) >= len(prints))
        await session.until_true()

    session = play(exchange, scenario)

    assert session.marks() == ["FeedConnected"]
    assert [trade.aggressor > 0 for trade in session.of(Trade)] == [is_buy for _, is_buy in prints]
    assert {trade.symbol for trade in session.of(Trade)} == {session.symbols[0]}


@exchanges
def test_ten_thousand_messages_later_the_book_is_the_exchange_s_at_each_of_a_hundred_instants(
    exchange: str,
) -> None:
    rng = Random(11)

    async def scenario(session: Session) -> None:
        await session.until_true()
        for _ in range(100):
            frames, more = session.server.frames, rng.randint(80, 150)
            while session.server.frames < frames + more:
                session.update()
                await asyncio.sleep(0)
            await session.until_true()
        assert session.server.frames >= 10_000

    session = play(exchange, scenario)

    assert session.marks() == ["FeedConnected"]
    assert session.feed._tally.skipped == 0


# --- Faults -----------------------------------------------------------------------------------------

DOUBT = ("SequenceGap", "ChecksumFailed")

#: What a fault is expected to be called by the connector: one of these is said.
SAID: dict[str, Iterable[str]] = {
    "gap": DOUBT,
    "checksum": ("ChecksumFailed",),
    "close": ("FeedLost",),
    "abort": ("FeedLost",),
    "garbage": DOUBT,
    "reorder": DOUBT,
    "crossed": ("BookCrossed",),
    "token": ("FeedLost",),
    "mute": ("FeedLost",),
    "silence": ("FeedLost",),
}
#: Of these a checksum shows nothing where the next frame says the same levels anew; numbers always do.
OVERWRITTEN = ("gap", "reorder")
BY_CHECKSUM = "kraken"
#: These cost nobody a book.
HARMLESS = ("duplicate", "error", "slow", "skew", "rest-429", "rest-500")


async def strike_and_recover(session: Session, fault: str) -> None:
    await session.until_true()
    if not session.server.strike(fault, session.exchange):
        pytest.skip(f"{session.exchange} has nothing that {fault} breaks")
    said = SAID.get(fault, ())
    for _ in range(200):
        if not said or set(said) & set(session.marks()):
            break
        if fault != "mute":  # a connection that brings data is alive, whatever became of its pings
            session.update(3)  # what strikes one frame shows in the next of that book
        await session.server.sent()
        await session.until_said(FeedSummarized, *MARKS)
        is_seen = set(said) & set(session.marks())
        if session.exchange == BY_CHECKSUM and fault in OVERWRITTEN and not is_seen:
            session.server.strike(fault, session.exchange)
    session.update(30)
    await session.until_true()


@exchanges
@pytest.mark.parametrize("fault", [fault for fault in SAID if fault not in ("mute", "silence")])
def test_a_fault_is_said_the_book_is_marked_and_comes_back(exchange: str, fault: str) -> None:
    session = play(exchange, lambda session: strike_and_recover(session, fault))

    marks = session.marks()
    assert set(SAID[fault]) & set(marks)
    if fault != "crossed":
        assert marks[-1] in ("BookResynced", "FeedConnected")
        assert session.of(BookResynced)


@exchanges
@pytest.mark.parametrize("fault", ["mute", "silence"])
def test_a_connection_that_only_looks_alive_is_given_up(exchange: str, fault: str) -> None:
    quick = {"mute": {"ping_s": 0.3}, "silence": {"silent_after_s": 0.5}}[fault]

    session = play(exchange, lambda session: strike_and_recover(session, fault), **quick)

    assert session.marks()[:3] == ["FeedConnected", "FeedLost", "FeedConnected"]


@pytest.mark.parametrize("exchange", ["coinbase", "kraken", "kucoin"])
def test_trades_that_die_alone_are_said_and_come_back_with_a_new_connection(exchange: str) -> None:
    async def trade_until(session: Session, is_so: Callable[[], bool]) -> None:
        while not is_so():
            session.update(3)
            await session.server.sent()
            await session.until_said(FeedSummarized)

    async def scenario(session: Session) -> None:
        await session.until_true()
        moments: set[int] = set()

        def is_known() -> bool:
            moments.add(len(session.of(Trade)))
            return len(moments) > 30

        await trade_until(session, is_known)
        session.server.strike("trades", exchange)
        await trade_until(session, lambda: bool(session.of(ChannelLost)))
        await trade_until(session, lambda: bool(session.of(ChannelResumed)))
        await session.until_true()

    session = play(exchange, scenario, channel_after_s=0.3, summary_s=0.02)

    lost, resumed = session.of(ChannelLost)[0], session.of(ChannelResumed)[0]
    assert (lost.channel, lost.symbol in session.symbols) == ("trade", True)
    assert lost.silent_ms >= 300
    assert lost.reason.startswith(f"no trade of {lost.symbol} for ")
    assert session.of(FeedLost)[0].reason == lost.reason
    assert resumed.silent_ms > lost.silent_ms


@exchanges
@pytest.mark.parametrize("fault", HARMLESS)
def test_a_harmless_fault_costs_no_book(exchange: str, fault: str) -> None:
    if (exchange, fault) == ("kraken", "skew"):
        pytest.skip("an update that is older by the exchange's clock counts as one out of order")

    session = play(exchange, lambda session: strike_and_recover(session, fault))

    assert "FeedLost" not in session.marks()
    assert len(session.of(BookSnapshot)) == len(session.symbols)


@exchanges
@pytest.mark.parametrize("fault", ["rest-429", "rest-500"])
def test_an_exchange_that_refuses_requests_at_first_is_asked_again(exchange: str, fault: str) -> None:
    async def scenario(session: Session) -> None:
        session.server.strike(fault, exchange)
        await session.until_true()

    session = play(exchange, scenario)

    assert len(session.of(FeedConnected)) == 1


@exchanges
def test_a_clock_that_is_wrong_is_measured(exchange: str) -> None:
    async def scenario(session: Session) -> None:
        session.server.strike("skew", exchange)
        await session.until_true()
        session.update(20)
        await session.until_true()
        await session.until_said(FeedSummarized)

    session = play(exchange, scenario)

    assert 6.9e9 < session.of(FeedSummarized)[-1].clock_offset_ns < 9e9
