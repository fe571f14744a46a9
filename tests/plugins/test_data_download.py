"""`tickerml data download`: history page by page onto a tape, wherever an exchange has it, and all of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickerml.kernel import ConfigError
from tickerml.plugins import data_download
from tickerml.plugins.tape import TapeReader

S = 1_700_000_000  # seconds
NS = S * 10**9


class BaseError(Exception):
    """As ccxt names the root of its errors."""


class NetworkError(BaseError):
    """One that another try may cure."""


class Exchange:
    """Answers as ccxt's clients do: bars of a minute, pages of 100, and now and then no answer."""

    id = "test"
    PAGE = 100

    def __init__(self, count: int = 1000, fails: int = 0) -> None:
        self.count = count
        self.fails = fails
        self.requests = 0
        precision = {"price": 0.01, "amount": 0.001}
        self.markets = {"BTC/USD": {"base": "BTC", "quote": "USD", "precision": precision, "swap": False}}

    def load_markets(self) -> None: ...

    def parse_timeframe(self, text: str) -> int:
        return {"1m": 60, "1h": 3600}[text]

    def fetch_ohlcv(self, symbol: str, timeframe: str, since: int) -> list[list[float]]:
        self.requests += 1
        if self.fails:
            self.fails -= 1
            raise NetworkError("no answer")
        bars = [
            [(S // 60 * 60 + 60 * n) * 1000, 100.1 + n, 101.0 + n, 99.0, 100.0, 0.123]
            for n in range(self.count)
        ]
        return [bar for bar in bars if bar[0] >= since][: self.PAGE]

    def fetch_trades(self, symbol: str, since: int) -> list[dict[str, Any]]:
        trades = [
            {"id": str(n), "timestamp": (S + n) * 1000, "price": 100.25, "amount": 0.005, "side": "sell"}
            for n in range(self.count)
        ]
        return [trade for trade in trades if trade["timestamp"] >= since][: self.PAGE]

    def fetch_funding_rate_history(self, symbol: str, since: int) -> list[dict[str, Any]]:
        rates = [{"timestamp": (S + 28_800 * n) * 1000, "fundingRate": -0.0001 * n} for n in range(5)]
        return [rate for rate in rates if rate["timestamp"] >= since]


def fetch(client: Any, path: Path, what: str = "ohlcv", end: int = NS + 10**14, start: int = 0) -> Any:
    wanted = data_download.Wanted(what, "BTC/USD", "1m", start, end)
    return data_download.download(client, "test", wanted, path, lambda text, fraction=0.0: None)


def test_a_history_is_fetched_page_by_page(tmp_path):
    done = fetch(Exchange(), tmp_path)

    bars = TapeReader(tmp_path).bars("bar-60|test|BTC/USD", 60)
    assert done.records == len(bars) == 1000
    assert (done.first, done.last) == (int(bars["ts"][0]), int(bars["ts"][-1]))
    assert bars["open"].tolist()[:2] == [10_010, 10_110]
    assert set(bars["volume"].tolist()) == {123}
    assert np.diff(bars["ts"]).tolist() == [60 * 10**9] * 999


def test_a_download_that_was_interrupted_goes_on_where_it_was(tmp_path):
    fetch(Exchange(count=250), tmp_path)

    client = Exchange()
    assert fetch(client, tmp_path).records == 750
    assert client.requests == 8 + 4  # pages, and the looks behind the last
    assert len(TapeReader(tmp_path).bars("bar-60|test|BTC/USD", 60)) == 1000
    assert fetch(Exchange(), tmp_path).records == 0
    assert TapeReader(tmp_path).verify() == []


class Windowed(Exchange):
    """One that gives what is in the window behind *since*, as some do, with a hole of a week in it."""

    def fetch_ohlcv(self, symbol: str, timeframe: str, since: int) -> list[list[float]]:
        bars = super().fetch_ohlcv(symbol, timeframe, 0)
        week = 7 * 86_400_000
        moved = [[bar[0] + week * (n >= 50), *bar[1:]] for n, bar in enumerate(bars)]
        return [bar for bar in moved if since <= bar[0] < since + 200 * 60_000]


def test_a_time_without_bars_is_passed_over_and_none_behind_it_is_lost(tmp_path):
    day = 86_400 * 10**9

    done = fetch(Windowed(count=100), tmp_path, end=NS + 20 * day, start=NS - 2 * day)

    assert done.records == 100
    assert len(TapeReader(tmp_path).bars("bar-60|test|BTC/USD", 60)) == 100


class Crowded(Exchange):
    """Three trades each ms, and a page that ends among them."""

    def fetch_trades(self, symbol: str, since: int) -> list[dict[str, Any]]:
        trades = [
            {"id": str(n), "timestamp": S * 1000 + n // 3, "price": 100.25, "amount": 0.005, "side": "buy"}
            for n in range(30)
        ]
        return [trade for trade in trades if trade["timestamp"] >= since][:10]


def test_no_trade_is_lost_where_a_page_ends_among_those_of_one_ms(tmp_path):
    assert fetch(Crowded(), tmp_path, "trades").records == 30

    assert sorted(TapeReader(tmp_path).read("trade|test|BTC/USD")["seq"].tolist())[-30:] == list(range(30))


class Lexical(Crowded):
    """One whose trades of a ms come sorted by the text of their numbers, as ccxt sorts them."""

    def fetch_trades(self, symbol: str, since: int) -> list[dict[str, Any]]:
        return sorted(super().fetch_trades(symbol, since), key=lambda it: (it["timestamp"], it["id"]))


def test_trades_of_one_ms_are_in_the_order_of_their_numbers(tmp_path):
    fetch(Lexical(), tmp_path, "trades")

    assert TapeReader(tmp_path).read("trade|test|BTC/USD")["seq"].tolist() == list(range(30))


def test_a_tape_in_other_ticks_is_refused(tmp_path):
    fetch(Exchange(), tmp_path)
    client = Exchange()
    client.markets["BTC/USD"]["precision"]["price"] = 0.1

    with pytest.raises(ConfigError, match="is there in other ticks or lots; download it into another tape"):
        fetch(client, tmp_path)


def test_amounts_of_contracts_become_quantities(tmp_path):
    client = Exchange(count=2)
    client.markets["BTC/USD"] |= {"swap": True, "contractSize": 0.001}

    fetch(client, tmp_path, "trades")

    tape = TapeReader(tmp_path)
    [stream] = tape.streams()
    assert stream == "trade|test|BTC/USD-PERP"
    assert tape.scale(stream).lot_size == 10**6
    assert set(tape.read(stream)["quantity"].tolist()) == {5}


def test_futures_are_never_taken_for_the_spot_market_of_their_pair(tmp_path):
    client = Exchange(count=2)
    client.markets["BTC/USD"] |= {"contract": True, "swap": True, "inverse": True}
    fetch(client, tmp_path, "trades")
    assert TapeReader(tmp_path).streams() == ["trade|test|BTC/USD-PERP-INVERSE"]

    client.markets["BTC/USD"] |= {"swap": False, "type": "future"}
    with pytest.raises(ConfigError, match="expected spot or a perpetual, was future"):
        fetch(client, tmp_path, "trades")


def test_the_bar_that_has_not_ended_is_left_out(tmp_path):
    fetch(Exchange(), tmp_path, end=(S // 60 * 60 + 90) * 10**9)

    assert len(TapeReader(tmp_path).bars("bar-60|test|BTC/USD", 60)) == 1


def test_no_answer_is_asked_for_again_and_then_said(tmp_path):
    fetch(Exchange(count=5, fails=4), tmp_path / "a")
    assert len(TapeReader(tmp_path / "a").bars("bar-60|test|BTC/USD", 60)) == 5

    with pytest.raises(ConfigError, match="test: NetworkError: no answer"):
        fetch(Exchange(fails=5), tmp_path / "b")


def test_trades_and_funding_are_fetched_too(tmp_path):
    fetch(Exchange(), tmp_path, "trades")
    fetch(Exchange(), tmp_path, "funding")
    reader = TapeReader(tmp_path)

    assert reader.read("trade|test|BTC/USD")[["price", "quantity", "side", "seq"]].tolist()[7] == (
        10_025,
        5,
        -1,
        7,
    )
    assert len(reader.read("trade|test|BTC/USD")) == 1000
    [first, *_] = [event.message for event in reader.merged(["funding|test|BTC/USD"], NS + 1)]
    assert first.rate == -(10**8)


def test_what_cannot_be_fetched_is_wrong_usage(tmp_path):
    with pytest.raises(ConfigError, match="--what news: expected one of ohlcv, trades, funding"):
        fetch(Exchange(), tmp_path, "news")
    wanted = data_download.Wanted("ohlcv", "X/Y", "1m", 0, NS)
    with pytest.raises(ConfigError, match="test lists no such market"):
        data_download.download(Exchange(), "test", wanted, tmp_path, lambda text, fraction=0.0: None)
