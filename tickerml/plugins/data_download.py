"""
An exchange's history over REST, through ccxt, onto a tape: bars, trades, funding.

A download goes on behind the last row that the tape has of its stream, and each page that has come
is on the tape before the next is asked for. So one that was interrupted is simply begun again. The
bar that has not ended yet is left out. Everything here is floats: ccxt has parsed the text; they are
brought back to the exchange's own ticks and lots.
"""

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tickerml.kernel import NS_PER_MS, NS_PER_S, UNIT, ConfigError, FundingUpdated, Instrument, Side, Trade

from .data_show import Update, format_time
from .tape import FILE, TapeReader, TapeWriter
from .tape_blocks import INSTRUMENTS, pack_note
from .tape_rows import MIN_TS, Draft, Rows, stream_name
from .tape_tables import BAR, rows_of_bars

_TRIES = 5  # of a request that the network failed

Page = list[Any]


class Wanted(NamedTuple):
    """What to fetch; start and end are ns UTC, start 0 for as far back as the exchange goes."""

    what: str
    symbol: str
    timeframe: str
    start: int
    end: int


def connect(exchange: str) -> Any:
    """
    Return ccxt's client of *exchange*.

    Raises: ConfigError: ccxt is not installed, or knows no such exchange.
    """
    try:
        import ccxt
    except ImportError:
        raise ConfigError(
            "a download needs ccxt, which is not installed: pip install 'ccxt>=4.5,<5'"
        ) from None
    if exchange not in ccxt.exchanges:
        raise ConfigError(f"--exchange {exchange}: ccxt knows no such exchange")
    return getattr(ccxt, exchange)({"enableRateLimit": True})


def download(client: Any, exchange: str, wanted: Wanted, directory: Path, update: Update) -> tuple[int, int]:
    """
    Fetch what is *wanted* into the tape in *directory*, and return (new rows, from when on).

    Args:
        client: of ccxt, or what answers as that does.
    Raises: ConfigError: the exchange does not have it, or does not answer.
    """
    fetchers = {"ohlcv": _Bars, "trades": _Trades, "funding": _Funding}
    if wanted.what not in fetchers:
        raise ConfigError(f"--what {wanted.what}: expected one of {', '.join(fetchers)}")
    instrument = _asked(client, lambda: _instrument(client, exchange, wanted.symbol))
    fetcher = fetchers[wanted.what](client, instrument, wanted)
    writer = TapeWriter(directory / FILE)
    writer.seal_all([], [pack_note(INSTRUMENTS, instrument, 0)])
    reader = TapeReader(directory)
    last, number = _newest(reader, fetcher)
    since = max(wanted.start, last + 1)
    at, count = since, 0
    while at < wanted.end:
        page = _asked(client, partial(fetcher.page, at // NS_PER_MS))
        rows = fetcher.rows([row for row in page if last < fetcher.ts(row) < wanted.end])
        if not len(rows):
            break
        writer.seal(fetcher.stream, number, rows)
        number, count = number + 1, count + len(rows)
        last = max(fetcher.ts(row) for row in page)
        at = last + 1
        update(f"{count:,} rows to {format_time(last)}", (last - since) / max(wanted.end - since, 1))
    return count, since


def _asked(client: Any, request: Callable[[], Any]) -> Any:
    # ccxt names its errors alike in every version; NetworkError is the one that another try may cure.
    for left in reversed(range(_TRIES)):
        try:
            return request()
        except Exception as error:
            names = {each.__name__ for each in type(error).__mro__}
            if "BaseError" not in names:
                raise
            if "NetworkError" not in names or not left:
                raise ConfigError(f"{client.id}: {type(error).__name__}: {error}") from None
    raise AssertionError


def _instrument(client: Any, exchange: str, symbol: str) -> Instrument:
    client.load_markets()
    if symbol not in client.markets:
        raise ConfigError(f"--symbol {symbol}: {exchange} lists no such market")
    market = client.markets[symbol]
    name = f"{market['base']}/{market['quote']}" + ("-PERP" if market.get("swap") else "")
    precision = market["precision"]
    tick, lot = (_step(precision.get(key)) for key in ("price", "amount"))
    return Instrument(0, exchange, name, market["base"], market["quote"], tick, lot)


def _step(precision: float | None) -> int:
    return int(Decimal(repr(precision)) * UNIT) if precision else UNIT // 10**8


def _newest(reader: TapeReader, fetcher: "_Fetcher") -> tuple[int, int]:
    # The time of the last that the tape has, and how many blocks there are.
    blocks = reader.blocks(fetcher.stream)
    if not blocks:
        return MIN_TS, 0
    rows = reader.read(fetcher.stream, blocks[-1].first_ts)
    return int(rows["ts_event"].max()), blocks[-1].number + 1


class _Fetcher:
    # One kind of history: how a page is asked for, and what its rows are.

    KIND = ""

    def __init__(self, client: Any, instrument: Instrument, wanted: Wanted) -> None:
        self.client = client
        self.instrument = instrument
        self.wanted = wanted

    @property
    def stream(self) -> str:
        return stream_name(self.KIND, self.instrument.exchange, self.instrument.symbol)

    def page(self, since_ms: int) -> Page:
        raise NotImplementedError

    def ts(self, row: Any) -> int:
        return int(row["timestamp"]) * NS_PER_MS

    def rows(self, page: Page) -> Rows:
        raise NotImplementedError

    def price(self, value: float | None) -> int:
        return round((value or 0) * UNIT / self.instrument.tick_size)

    def quantity(self, value: float | None) -> int:
        return round((value or 0) * UNIT / self.instrument.lot_size)


class _Bars(_Fetcher):
    def __init__(self, client: Any, instrument: Instrument, wanted: Wanted) -> None:
        super().__init__(client, instrument, wanted)
        self.seconds = int(client.parse_timeframe(wanted.timeframe))

    @property
    def stream(self) -> str:
        return stream_name(f"bar-{self.seconds}", self.instrument.exchange, self.instrument.symbol)

    def page(self, since_ms: int) -> Page:
        found: Page = self.client.fetch_ohlcv(self.wanted.symbol, self.wanted.timeframe, since_ms)
        return [bar for bar in found if self.ts(bar) + self.seconds * NS_PER_S <= self.wanted.end]

    def ts(self, row: Any) -> int:
        return int(row[0]) * NS_PER_MS

    def rows(self, page: Page) -> Rows:
        bars = np.zeros(len(page), BAR)
        for place, row in enumerate(page):
            prices = (self.price(value) for value in row[1:5])
            bars[place] = (self.ts(row), *prices, self.quantity(row[5]), 0, np.nan)
        return rows_of_bars(bars, self.seconds)


class _Trades(_Fetcher):
    KIND = "trade"

    def page(self, since_ms: int) -> Page:
        found: Page = self.client.fetch_trades(self.wanted.symbol, since_ms)
        return found

    def rows(self, page: Page) -> Rows:
        draft, known = Draft(), self.instrument
        for row in page:
            ts, identity = self.ts(row), str(row.get("id") or "")
            side = Side.BUY if row.get("side") == "buy" else Side.SELL
            seq = int(identity) if identity.isdecimal() and len(identity) < 19 else 0
            price, quantity = self.price(row["price"]), self.quantity(row["amount"])
            draft.append_message(Trade(ts, ts, known.exchange, known.symbol, seq, price, quantity, side))
        return draft.rows()


class _Funding(_Fetcher):
    KIND = "funding"

    def page(self, since_ms: int) -> Page:
        found: Page = self.client.fetch_funding_rate_history(self.wanted.symbol, since_ms)
        return found

    def rows(self, page: Page) -> Rows:
        draft, known = Draft(), self.instrument
        for row in page:
            ts, rate = self.ts(row), round(Decimal(repr(row["fundingRate"])) * UNIT)
            draft.append_message(FundingUpdated(ts, ts, known.exchange, known.symbol, 0, 0, rate, 0, 0, 0))
        return draft.rows()
