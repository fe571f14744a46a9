"""
Every connector, as it is built for a run, against the exchanges of this machine: real sockets, real faults.

What nobody can see on a socket in a test's time, wrong books in hours of faults, is in campaign.py.
"""

import asyncio
from collections.abc import Callable, Iterable
from random import Random

import pytest

from tickerml.kernel import (
    BookResynced,
    BookSnapshot,
    ChannelLost,
    ChannelResumed,
    FeedConnected,
    FeedLost,
    FeedSummarized,
    Trade,
)

from .connectors import CONNECTORS
from .listening import MARKS, Session, play

exchanges = pytest.mark.parametrize("exchange", CONNECTORS)


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
    if fault == "silence":
        assert session.of(FeedLost)[0].reason in ("no data for 0.5 s", "no market data for 0.5 s")


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
