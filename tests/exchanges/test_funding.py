"""What perpetuals have paid: by REST, page by page and on from where it was, and from files."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tickerml.exchanges import funding_csv
from tickerml.exchanges.funding import HISTORIES, FundingHistory, FundingOptions, Row, parse_kraken
from tickerml.exchanges.funding_csv import FundingCsv, read_rows
from tickerml.exchanges.limits import Rate
from tickerml.kernel import (
    CaptureError,
    ConfigError,
    FeedConnected,
    FeedEnded,
    FeedLost,
    FeedSummarized,
    FundingUpdated,
    Message,
)
from tickerml.kernel.testing import Harness

from .connectors import LiveContext
from .recordings import CAPTURES

HOUR_MS = 3_600_000
START_MS = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)


class Exchange:
    """A settlement every eight hours since 2024, served as the three exchanges do."""

    def __init__(self, count: int) -> None:
        self.times = [START_MS + 8 * HOUR_MS * number for number in range(count)]
        self.queries: list[dict[str, str]] = []
        self.refused = 0
        self.url = ""

    def rows(self, start: int, end: int) -> list[int]:
        return [at for at in self.times if start <= at <= end]

    async def answer(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        self.queries.append(query)
        if self.refused:
            self.refused -= 1
            return web.Response(status=400, text="no")
        if "historical" in request.path:
            stamps = [
                datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds") for at in self.times
            ]
            rates = [{"timestamp": at.replace("+00:00", "Z"), "relativeFundingRate": 1e-05} for at in stamps]
            return web.json_response({"result": "success", "rates": rates})
        if "contract" in request.path:
            found = self.rows(int(query["from"]), int(query["to"]))[::-1][:100]  # newest first
            data = [{"symbol": "XBTUSDTM", "fundingRate": 0.00001, "timepoint": at} for at in found]
            return web.json_response({"code": "200000", "data": data})
        found = self.rows(int(query["startTime"]), int(query["endTime"]))[: int(query["limit"])]
        return web.json_response(
            [{"symbol": "BTCUSDT", "fundingTime": at, "fundingRate": "0.00001000"} for at in found]
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Exchange"]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


SYMBOLS = {
    "krakenfutures": "BTC/USD-PERP",
    "kucoinfutures": "BTC/USDT-PERP",
    "binanceusdm": "BTC/USDT-PERP",
}


def history(exchange: str, url: str, **options: Any) -> FundingHistory:
    settings = {"exchange": exchange, "symbols": [SYMBOLS[exchange]], "rest_url": url, **options}
    known = msgspec.convert(settings, FundingOptions)
    return FundingHistory(LiveContext("exchange-funding"), known)  # type: ignore[arg-type]


async def until(component: FundingHistory, is_enough: Callable[[Message], bool]) -> list[Message]:
    """Return what *component* says up to and with the first message that *is_enough*."""
    seen: list[Message] = []
    async with asyncio.timeout(20), aclosing(component.stream()) as stream:
        async for messages in stream:
            seen += messages
            if any(is_enough(message) for message in messages):
                return seen
    raise AssertionError("it ended")


def is_summary(message: Message) -> bool:
    return isinstance(message, FeedSummarized)


def paid(messages: list[Message]) -> list[FundingUpdated]:
    return [message for message in messages if isinstance(message, FundingUpdated)]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask as fast as the answers come."""
    monkeypatch.setattr("tickerml.exchanges.funding._PACE", Rate(10_000, 0.0001))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("exchange", list(SYMBOLS))
def test_the_whole_history_comes_once_and_in_order_whatever_the_pages(exchange: str) -> None:
    async def session() -> tuple[Exchange, list[Message]]:
        async with Exchange(2500).serving() as served:
            return served, await until(history(exchange, served.url), is_summary)

    served, messages = asyncio.run(session())

    fundings = paid(messages)
    assert [each.ts_event // 10**6 for each in fundings] == served.times
    assert {(each.exchange, each.symbol, each.rate) for each in fundings} == {
        (exchange, SYMBOLS[exchange], 10_000_000)
    }
    assert isinstance(messages[0], FeedConnected)
    assert messages[0].exchange == f"{exchange}-funding"


@pytest.mark.usefixtures("at_once")
def test_an_interrupted_history_goes_on_where_it_was() -> None:
    async def session() -> tuple[list[FundingUpdated], list[FundingUpdated]]:
        async with Exchange(2500).serving() as served:
            first = history("binanceusdm", served.url)
            before = paid(await until(first, lambda message: isinstance(message, FundingUpdated)))
            second = history("binanceusdm", served.url)
            second.restore(first.snapshot())
            return before, paid(await until(second, is_summary))

    before, after = asyncio.run(session())

    assert (len(before), len(after)) == (1000, 1500)
    assert before[-1].ts_event < after[0].ts_event


@pytest.mark.usefixtures("at_once")
def test_a_refusal_is_said_once_and_asked_again() -> None:
    async def session() -> list[Message]:
        async with Exchange(3).serving() as served:
            served.refused = 2
            component = history("krakenfutures", served.url, poll_s=0.01)
            return await until(component, lambda message: isinstance(message, FundingUpdated))

    messages = asyncio.run(session())

    assert sum(isinstance(message, FeedLost) for message in messages) == 1
    assert sum(isinstance(message, FeedConnected) for message in messages) == 2
    assert len(paid(messages)) == 3


def test_a_rate_of_many_digits_is_rounded_to_a_unit() -> None:
    reply = (
        b'{"rates":[{"timestamp":"2022-06-28T00:00:00.000Z","relativeFundingRate":-0.000016898883333333}]}'
    )

    assert parse_kraken(reply) == [Row(1656374400 * 10**9, -16_898_883)]


def test_each_exchange_knows_its_own_name_of_a_perpetual() -> None:
    assert HISTORIES["krakenfutures"].wire_of("BTC/USD-PERP") == "PF_XBTUSD"
    assert HISTORIES["kucoinfutures"].wire_of("BTC/USDT-PERP") == "XBTUSDTM"
    assert HISTORIES["binanceusdm"].wire_of("BTC/USDT-PERP") == "BTCUSDT"


def test_a_start_that_is_no_day_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a day as 2024-01-01, was 2024-13-01"):
        history("krakenfutures", "http://x", start="2024-13-01")


# --- From files -------------------------------------------------------------------------------------


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(("Symbol,Date,Funding Rate", *rows)) + "\n")
    return path


def played(*files: dict[str, Any]) -> tuple[FundingCsv, list[Message]]:
    options = {"exchange-funding-csv": {"files": list(files)}}
    component = Harness(funding_csv, options=options).bus.component("exchange-funding-csv")
    assert isinstance(component, FundingCsv)
    return component, [message for _, messages in component.events() for message in messages]


def entry(path: Path, exchange: str, utc_offset_h: float) -> dict[str, Any]:
    return {"path": str(path), "exchange": exchange, "symbol": "BTC/USDT-PERP", "utc_offset_h": utc_offset_h}


def test_two_clocks_meet_in_utc_and_the_files_are_merged(tmp_path: Path) -> None:
    ahead = write(
        tmp_path / "a.csv", "BTC-USDT,2020-01-01 03:00:00.000,-0.00012359", "BTC-USDT,2020-01-01 19:00:00,0.1"
    )
    utc = write(tmp_path / "b.csv", "BTC-USDT,2020-01-01 08:00:00,0.0001")

    _, messages = played(entry(ahead, "binanceusdm", 3), entry(utc, "gate", 0))

    rows = [(datetime.fromtimestamp(each.ts_event / 1e9, UTC).hour, each.exchange) for each in paid(messages)]
    assert rows == [(0, "binanceusdm"), (8, "gate"), (16, "binanceusdm")]
    assert paid(messages)[0].rate == -123_590_000
    assert isinstance(messages[-1], FeedEnded)
    assert messages[-1].messages == 3


def test_a_row_that_goes_back_in_time_is_counted_and_left_out(tmp_path: Path) -> None:
    rows = [f"BTC-USDT,2020-01-01 {hour}:00:00,0.0001" for hour in ("08", "08", "00", "16")]

    _, messages = played(entry(write(tmp_path / "a.csv", *rows), "gate", 0))

    assert len(paid(messages)) == 2
    assert isinstance(messages[-1], FeedEnded)
    assert (messages[-1].messages, messages[-1].skipped) == (4, 2)
    [summary] = [message for message in messages if isinstance(message, FeedSummarized)]
    assert (summary.reasons, summary.streams["BTC/USDT-PERP"].parsed) == ({"time went back": 2}, 2)


def test_it_goes_on_from_where_a_state_was_taken(tmp_path: Path) -> None:
    rows = [f"BTC-USDT,2020-01-0{day} 00:00:00,0.0001" for day in range(1, 6)]
    file = entry(write(tmp_path / "a.csv", *rows), "gate", 0)
    component, whole = played(file)
    events = component.events()
    component._position = 0
    next(events), next(events)
    state = component.snapshot()

    again, _ = played(file)
    again.restore(state)

    assert [message for _, messages in again.events() for message in messages] == whole[2:]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("date,rate\n", "expected the columns Symbol,Date,Funding Rate, was date,rate"),
        ("", "expected the columns"),
        ("Symbol,Date,Funding Rate\nBTC,yesterday,0.1\n", "expected a date and a rate at line 2"),
        ("Symbol,Date,Funding Rate\nBTC,2020-01-01 00:00:00\n", "expected a date and a rate at line 2"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)

    with pytest.raises(CaptureError, match=reason):
        list(read_rows(path, 0))


def test_a_file_without_its_clock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(msgspec.ValidationError, match="utc_offset_h"):
        played({"path": str(tmp_path / "a.csv"), "exchange": "gate", "symbol": "BTC/USDT-PERP"})


@pytest.mark.captures
@pytest.mark.parametrize(
    ("name", "exchange", "offset", "hours"),
    [
        ("BTC-USDT_binance.csv", "binanceusdm", 3, {0, 8, 16}),
        ("ETH-USDT_binance.csv", "binanceusdm", 3, {0, 8, 16}),
        ("BTC-USDT_bybit.csv", "bybit", 3, {0, 8, 16}),
        ("BTC-USDT_kucoin.csv", "kucoinfutures", 3, {4, 12, 20}),
    ],
)
def test_the_recorded_histories_are_whole_on_the_clock_they_are_said_to_have(
    name: str, exchange: str, offset: float, hours: set[int]
) -> None:
    path = CAPTURES / "funding" / name
    if not path.exists():
        pytest.skip(f"needs recorded captures, absent here: {path}; set TICKERML_CAPTURES")

    _, messages = played(entry(path, exchange, offset))

    lines = path.read_text().count("\n")
    assert isinstance(messages[-1], FeedEnded)
    assert messages[-1].messages + messages[-1].skipped in (lines - 1, lines)
    assert {datetime.fromtimestamp(each.ts_event / 1e9, UTC).hour for each in paid(messages)} <= hours
