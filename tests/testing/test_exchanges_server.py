"""The local exchanges behind real sockets: what each fault does, recordings, and the command for them."""

import asyncio
import gzip
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from tickerml.kernel import ConfigError
from tickerml.testing.exchanges import EXCHANGES, FAULTS, Connection, ExchangeServer, Playback, Wire, read
from tickerml.testing.exchanges.faults import described
from tickerml.ui import exchange_server
from tickerml.ui.cli_exchange import app

WITHIN_S = 10.0


# --- Faults, one connection -------------------------------------------------------------------------


@pytest.fixture
def kraken() -> Wire:
    return EXCHANGES["kraken"](1, lambda: 10**18)


@pytest.fixture
def connection(kraken: Wire) -> Connection:
    connection = kraken.connect({})
    params = {"channel": "book", "symbol": ["BTC/USD"], "depth": 1000}
    connection.received(json.dumps({"method": "subscribe", "params": params}))
    connection.outbox.clear()
    return connection


def seqs(connection: Connection) -> list[int]:
    return [frame.seq for frame in connection.outbox]


def play(kraken: Wire, times: int) -> list[int]:
    return [kraken.update("BTC/USD").last for _ in range(times)]


@pytest.mark.parametrize(
    ("fault", "order"),
    [("gap", [1, 2, 3]), ("duplicate", [0, 0, 1, 2, 3]), ("reorder", [1, 0, 2, 3])],
)
def test_frames_are_lost_repeated_and_swapped(kraken, connection, fault, order):
    assert FAULTS[fault].strike(kraken)

    last = play(kraken, 4)

    assert seqs(connection) == [last[index] for index in order]
    assert connection.tampers == []


def test_a_checksum_is_wrong_once(kraken, connection):
    kraken.update("BTC/USD")
    FAULTS["checksum"].strike(kraken)
    said = json.loads(connection.outbox.pop().text)["data"][0]["checksum"]
    play(kraken, 1)

    assert connection.tampers == []
    assert json.loads(connection.outbox.pop().text)["data"][0]["checksum"] != said


def test_garbage_is_half_a_frame_that_names_no_market(kraken, connection):
    FAULTS["garbage"].strike(kraken)
    play(kraken, 1)
    frame = connection.outbox.pop()

    assert frame.wire == ""
    with pytest.raises(json.JSONDecodeError):
        json.loads(frame.text)


def test_frames_pile_up_before_a_slow_reader_and_arrive_at_once(kraken, connection):
    FAULTS["slow"].strike(kraken)
    last = play(kraken, 39)
    held = list(connection.outbox)
    last += play(kraken, 5)

    assert held == []
    assert len(connection.outbox) >= 40
    assert seqs(connection) == [seq for seq in last if seq in seqs(connection)]  # none is out of order


def test_a_silent_connection_says_nothing_but_answers_to_pings(kraken, connection):
    FAULTS["silence"].strike(kraken)
    play(kraken, 3)
    connection.received('{"method":"ping","req_id":9}')

    assert [json.loads(frame.text)["method"] for frame in connection.outbox] == ["pong"]


def test_a_muted_connection_says_everything_but_answers_to_pings(kraken, connection):
    FAULTS["mute"].strike(kraken)
    last = play(kraken, 3)
    connection.received('{"method":"ping","req_id":9}')

    assert seqs(connection) == last


def test_a_fault_that_has_nothing_to_break_says_so(kraken):
    coinbase = EXCHANGES["coinbase"](1, lambda: 0)

    assert not FAULTS["checksum"].strike(coinbase)
    assert not FAULTS["token"].strike(kraken)
    assert not FAULTS["gap"].strike(kraken)  # nobody is connected


def test_every_fault_says_what_it_does():
    assert [name for name, text in described() if not text.endswith(".")] == []
    assert len(FAULTS) == 17


# --- Sockets ----------------------------------------------------------------------------------------


def serve(
    scenario: Callable[[ExchangeServer, aiohttp.ClientSession], Awaitable[None]],
    *exchanges: str,
    **options: Any,
) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(WITHIN_S),
            ExchangeServer(*exchanges, **options).serving() as server,
            aiohttp.ClientSession(f"http://{server.address}") as http,
        ):
            await scenario(server, http)

    asyncio.run(run())


SUBSCRIBE = '{"method":"SUBSCRIBE","params":["btcusd@depth@100ms"],"id":1}'


async def subscribed(http: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
    socket = await http.ws_connect("/binanceus/stream", autoping=False)
    await socket.send_str(SUBSCRIBE)
    assert await socket.receive_json() == {"result": None, "id": 1}
    return socket


def test_a_socket_brings_what_happens_and_rest_the_book() -> None:
    async def scenario(server: ExchangeServer, http: aiohttp.ClientSession) -> None:
        async with await subscribed(http) as socket:
            update = server.update("binanceus", "BTC/USD")
            frame = await socket.receive_json()
            async with http.get("/binanceus/api/v3/depth?symbol=BTCUSD&limit=5") as reply:
                depth = await reply.json()

        assert (frame["data"]["U"], frame["data"]["u"]) == (update.first, update.last)
        assert depth["lastUpdateId"] == update.last
        assert len(depth["bids"]) == 5
        assert server.requests == ["binanceus /api/v3/depth"]

    serve(scenario, "binanceus")


@pytest.mark.parametrize(
    ("fault", "ended"), [("close", aiohttp.WSMsgType.CLOSE), ("abort", aiohttp.WSMsgType.CLOSED)]
)
def test_a_socket_is_closed_or_cut_off(fault: str, ended: aiohttp.WSMsgType) -> None:
    async def scenario(server: ExchangeServer, http: aiohttp.ClientSession) -> None:
        socket = await subscribed(http)
        async with http.post(f"/_faults/{fault}?exchange=binanceus") as reply:
            assert await reply.text() == f"{fault}: binanceus\n"

        assert (await socket.receive()).type in (ended, aiohttp.WSMsgType.ERROR)

    serve(scenario, "binanceus")


def test_a_muted_socket_answers_no_ping() -> None:
    async def scenario(server: ExchangeServer, http: aiohttp.ClientSession) -> None:
        async with await subscribed(http) as socket:
            await socket.ping(b"1")
            answered = (await socket.receive()).type
            server.strike("mute", "binanceus")
            await socket.ping(b"2")
            server.update("binanceus", "BTC/USD")

            assert answered is aiohttp.WSMsgType.PONG
            assert (await socket.receive()).type is aiohttp.WSMsgType.TEXT

    serve(scenario, "binanceus")


def test_requests_are_refused_three_times() -> None:
    async def scenario(server: ExchangeServer, http: aiohttp.ClientSession) -> None:
        server.strike("rest-429", "kraken")
        statuses = []
        for _ in range(4):
            async with http.get("/kraken/0/public/AssetPairs") as reply:
                statuses.append(reply.status)

        assert statuses == [429, 429, 429, 200]

    serve(scenario, "kraken")


def test_what_is_no_frame_of_the_exchange_is_answered_in_its_own_words() -> None:
    async def scenario(server: ExchangeServer, http: aiohttp.ClientSession) -> None:
        async with http.ws_connect("/coinbase") as socket:
            await socket.send_str("hello")

            assert (await socket.receive_json())["type"] == "error"

    serve(scenario, "coinbase")


def test_a_person_is_told_what_there_is() -> None:
    async def scenario(server: ExchangeServer, http: aiohttp.ClientSession) -> None:
        for method, path, status, text in (
            ("GET", "/_faults", 200, "gap        One frame of a book never arrives."),
            ("POST", "/_faults/gap?exchange=kraken", 409, "gap: nothing there that it breaks"),
            ("POST", "/_faults/gaps", 404, "expected one of these faults: gap, checksum"),
            ("GET", "/_books/kraken/BTC-USD", 200, '{"seq":'),
            ("GET", "/_books/kraken/BTC-USD?seq=99999", 404, "expected a change of 0 to"),
            ("GET", "/_books/kraken/DOGE-USD", 404, "kraken: expected one of"),
            ("GET", "/nasdaq", 404, "expected one of kraken"),
        ):
            async with http.request(method, path) as reply:
                assert (reply.status, text in await reply.text()) == (status, True)

    serve(scenario, "kraken")


def test_an_exchange_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected exchanges of binanceus, .* was nasdaq"):
        ExchangeServer("nasdaq")


def test_markets_go_on_by_themselves_where_they_are_let() -> None:
    async def scenario(server: ExchangeServer, http: aiohttp.ClientSession) -> None:
        async with await subscribed(http) as socket:
            task = asyncio.create_task(server.run(rate=200.0))
            seen = [await socket.receive_json() for _ in range(20)]
            task.cancel()

        firsts, lasts = ([frame["data"][key] for frame in seen] for key in ("U", "u"))
        assert firsts[1:] == [last + 1 for last in lasts[:-1]]

    serve(scenario, "binanceus", symbols=["BTC/USD"])


def test_what_happens_happens_at_its_moment_and_not_in_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Time:
        now = 0.0

        def time(self) -> float:
            return self.now

        async def sleep(self, seconds: float) -> None:
            self.now += max(seconds, 1e-6)
            if self.now > 1:
                raise asyncio.CancelledError

    clock, server = Time(), ExchangeServer("kraken", symbols=["BTC/USD"])
    seams = SimpleNamespace(get_running_loop=lambda: clock, sleep=clock.sleep)
    monkeypatch.setattr("tickerml.testing.exchanges.server.asyncio", seams)
    moments: list[float] = []
    monkeypatch.setattr(server.wires["kraken"], "update", lambda name: moments.append(clock.now))

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(server.run(rate=500.0))

    assert 400 < len(moments) < 600
    assert max(Counter(moments).values()) <= 2  # two may come within a microsecond


# --- Recordings -------------------------------------------------------------------------------------

FRAME = '{"stream":"btcusd@trade","data":{"t":%d}}'


def test_a_recording_is_played_at_its_own_pace_to_whoever_connects(tmp_path: Path) -> None:
    lines = [f"{1_700_000_000_000_000_000 + n * 10_000_000} {FRAME % n}\n" for n in range(5)]
    lines.insert(1, '1700000000000000001 {"lastUpdateId":7,"bids":[],"asks":[]}\n')
    with gzip.open(tmp_path / "a.gz", "wt") as file:
        file.writelines(lines)
    playback = Playback("binanceus", read(tmp_path / "a.gz"), time.time_ns)

    async def scenario(server: ExchangeServer, http: aiohttp.ClientSession) -> None:
        async with await subscribed(http) as socket:
            task = asyncio.create_task(server.run(rate=1.0))
            seen = [(await socket.receive_json())["data"]["t"] for _ in range(5)]
            task.cancel()
        async with http.get("/binanceus/api/v3/depth?symbol=BTCUSD") as reply:
            assert (await reply.json())["lastUpdateId"] == 7

        assert seen == [0, 1, 2, 3, 4]
        assert playback.is_over

    serve(scenario, captures={"binanceus": playback})


def test_a_cryptofeed_recording_answers_with_the_replies_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    path.write_text(
        "configuration: {'trades': []}\n"
        'https://api.x.com/api/v3/depth?symbol=A&limit=5 -> 1617643092.5: {"lastUpdateId":1}\n'
        'https://api.x.com/api/v3/depth?symbol=B&limit=5 -> 1617643092.6: {"lastUpdateId":2}\n'
        'wss://x.com/stream <-> 1617643092.7\n1617643093.25: {"stream":"a@trade","data":{}}\n'
        '1617643093.5: [1,{"c":1}]\n1617643094.0 <- {"method":"SUBSCRIBE"}\n'
    )
    playback = Playback("binanceus", read(path), time.time_ns)

    assert [line.ts_recv for line in playback.frames] == [
        1_617_643_093_250_000_000,
        1_617_643_093_500_000_000,
    ]
    assert playback.request("GET", "/api/v3/depth", {"symbol": "B"}).body == '{"lastUpdateId":2}'
    assert playback.request("GET", "/api/v3/exchangeInfo", {}).status == 404


# --- The command ------------------------------------------------------------------------------------


def test_the_help_of_serve_tells_of_every_fault() -> None:
    told = CliRunner().invoke(app, ["serve", "--help"]).stdout

    assert [name for name in FAULTS if f"{name}: " not in told] == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nasdaq"], "exchange serve: expected exchanges of binanceus"),
        (["--capture", "kraken"], "expected a capture as EXCHANGE=FILE"),
        (["--capture", "kraken=/none.txt"], "No such file"),
        (["--symbol", "DOGE/USD"], "expected symbols that an exchange lists"),
    ],
)
def test_what_cannot_be_served_is_said(arguments: list[str], text: str) -> None:
    found = CliRunner().invoke(app, ["serve", "--port", "0", *arguments])

    assert isinstance(found.exception, ConfigError)
    assert text in str(found.exception)


def test_serve_prints_where_each_exchange_is(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        server = exchange_server.build(["kraken"], [], 120, 0, [])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await exchange_server.serve(server, "127.0.0.1", 0, 10.0, 1.0)

    asyncio.run(run())

    assert "kraken         rest_url=http://127.0.0.1:" in capsys.readouterr().out
