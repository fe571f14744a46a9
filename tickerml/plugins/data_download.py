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

import msgspec
import numpy as np

from tickerml.kernel import NS_PER_MS, NS_PER_S, UNIT, ConfigError, FundingUpdated, Instrument, Side, Trade

from .data_show import Update, format_time
from .tape import FILE, TapeReader, TapeWriter
from .tape_blocks import pack_scale
from .tape_rows import MIN_TS, Draft, Rows, stream_name
from .tape_tables import BAR, rows_of_bars

_STEPS = 4  # ccxt's precisionMode in which a precision is a step; otherwise it is a number of decimals
_EMPTY = 200  # pages in a row with nothing in them are the end
_TRIES = 5  # of a request that the network failed

Page = list[Any]


class Wanted(NamedTuple):
    """What to fetch; start and end are ns UTC, start 0 for as far back as the exchange goes."""

    what: str
    symbol: str
    timeframe: str
    start: int
    end: int


def connect(exchange: str, config: str = "{}") -> Any:
    """
    Return ccxt's client of *exchange*.

    Args:
        config: what its constructor takes besides, as a JSON object: urls, proxies, timeout.
    Raises: ConfigError: ccxt is not installed, or knows no such exchange; the config is no object.
    """
    try:
        settings = msgspec.json.decode(config, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"--config {config}: expected a JSON object, was not: {error}") from None
    try:
        import ccxt
    except ImportError:
        raise ConfigError(
            "a download needs ccxt, which is not installed: pip install 'ccxt>=4.5,<5'"
        ) from None
    if exchange not in ccxt.exchanges:
        raise ConfigError(f"--exchange {exchange}: ccxt knows no such exchange")
    return getattr(ccxt, exchange)({"enableRateLimit": True, **settings})


class Downloaded(NamedTuple):
    """What a download has brought: how many records, asked from *since* on, and their first and last time."""

    records: int
    since: int
    first: int = 0
    last: int = 0


def download(client: Any, exchange: str, wanted: Wanted, directory: Path, update: Update) -> Downloaded:
    """
    Fetch what is *wanted* into the tape in *directory*.

    Args:
        client: of ccxt, or what answers as that does.
    Raises: ConfigError: the exchange does not have it, or does not answer; the tape has the stream
        in other ticks or lots.
    """
    fetchers: dict[str, type[_Fetcher]] = {"ohlcv": _Bars, "trades": _Trades, "funding": _Funding}
    if wanted.what not in fetchers:
        raise ConfigError(f"--what {wanted.what}: expected one of {', '.join(fetchers)}")
    instrument, size = _asked(client, partial(_market, client, exchange, wanted))
    fetcher = fetchers[wanted.what](client, instrument, size, wanted)
    writer = TapeWriter(directory / FILE)
    reader = TapeReader(directory)
    _check_scale(reader, fetcher)
    writer.seal_all([], [pack_scale(fetcher.stream, fetcher.instrument)])
    last, number = _newest(reader, fetcher)
    done = Downloaded(0, max(wanted.start, last + 1))
    at, empty = done.since, 0
    # Some exchanges give what is in a window behind what was asked for, so nothing may lie before something.
    while at < wanted.end and empty < _EMPTY:
        new = fetcher.new(at, last)
        if new:
            writer.seal(fetcher.stream, number, fetcher.rows(new))
            last = max(map(fetcher.ts, new))
            number, at, empty = number + 1, last + 1, 0
            done = Downloaded(done.records + len(new), done.since, done.first or fetcher.ts(new[0]), last)
        else:
            at, empty = at + fetcher.SPAN_NS, empty + 1
        update(f"{done.records:,} to {format_time(at)}", (at - done.since) / max(wanted.end - done.since, 1))
    return done


def _check_scale(reader: TapeReader, fetcher: "_Fetcher") -> None:
    there, its = reader.scale(fetcher.stream), fetcher.instrument
    is_same = there is None or (there.tick_size, there.lot_size) == (its.tick_size, its.lot_size)
    if not is_same and fetcher.stream in reader.streams():
        raise ConfigError(
            f"{reader.path}: {fetcher.stream} is there in other ticks or lots; download it into another tape"
        )


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


def _market(client: Any, exchange: str, wanted: Wanted) -> tuple[Instrument, Decimal]:
    # The instrument, and how much of the base asset an amount of 1 is.
    client.load_markets()
    if wanted.symbol not in client.markets:
        raise ConfigError(f"--symbol {wanted.symbol}: {exchange} lists no such market")
    market = client.markets[wanted.symbol]
    if not market.get("swap") and market.get("contract"):
        raise ConfigError(f"--symbol {wanted.symbol}: expected spot or a perpetual, was {market['type']}")
    suffix = ("-PERP-INVERSE" if market.get("inverse") else "-PERP") if market.get("swap") else ""
    name = f"{market['base']}/{market['quote']}{suffix}"
    size = Decimal(repr(market.get("contractSize") or 1))
    precision, mode = market["precision"], getattr(client, "precisionMode", _STEPS)
    tick, lot = (_step(precision.get(key), mode) for key in ("price", "amount"))
    lot = max(int(lot * size), 1)
    return Instrument(0, exchange, name, market["base"], market["quote"], tick, lot), size


def _step(precision: float | None, mode: int) -> int:
    if precision is None:
        return UNIT // 10**8
    step = Decimal(repr(precision)) if mode == _STEPS else Decimal(1).scaleb(-int(precision))
    return max(int(step * UNIT), 1)


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
    SPAN_NS = 3600 * NS_PER_S  # that a page covers at least where it is a window

    def __init__(self, client: Any, instrument: Instrument, size: Decimal, wanted: Wanted) -> None:
        self.client = client
        self.instrument = instrument
        self.size = size
        self.wanted = wanted

    @property
    def stream(self) -> str:
        return stream_name(self.KIND, self.instrument.exchange, self.instrument.symbol)

    def page(self, since_ms: int) -> Page:
        raise NotImplementedError

    def new(self, at: int, last: int) -> Page:
        """Return what there is from *at* on and came after *last*, oldest first; nothing for nothing."""
        page = _asked(self.client, partial(self.page, at // NS_PER_MS))
        return sorted((row for row in page if last < self.ts(row) < self.wanted.end), key=self.place)

    def ts(self, row: Any) -> int:
        return int(row["timestamp"]) * NS_PER_MS

    def place(self, row: Any) -> tuple[int, ...]:
        """Return where *row* belongs among the others; equal ones stay as they came."""
        return (self.ts(row),)

    def rows(self, page: Page) -> Rows:
        raise NotImplementedError

    def price(self, value: float | None) -> int:
        return round((value or 0) * UNIT / self.instrument.tick_size)

    def quantity(self, value: float | None) -> int:
        return round((value or 0) * float(self.size) * UNIT / self.instrument.lot_size)


class _Bars(_Fetcher):
    def __init__(self, client: Any, instrument: Instrument, size: Decimal, wanted: Wanted) -> None:
        super().__init__(client, instrument, size, wanted)
        try:
            self.seconds = int(client.parse_timeframe(wanted.timeframe))
        except Exception as error:  # of whatever kind this version of ccxt says it with
            raise ConfigError(f"--timeframe {wanted.timeframe}: expected one such as 1m, 1h, 1d") from error
        self.SPAN_NS = 200 * self.seconds * NS_PER_S

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

    def new(self, at: int, last: int) -> Page:
        found = super().new(at, last)
        # A page may end among trades of one ms: those come again with the next.
        whole = [row for row in found if self.ts(row) < self.ts(found[-1])]
        return whole or found

    def page(self, since_ms: int) -> Page:
        found: Page = self.client.fetch_trades(self.wanted.symbol, since_ms)
        return found

    def place(self, row: Any) -> tuple[int, ...]:
        # Within a ms ccxt sorts by the text of the numbers, where 10 goes before 9.
        return self.ts(row), self.number(row)

    @staticmethod
    def number(row: Any) -> int:
        """Return the exchange's number of a trade; 0 where it has none."""
        identity = str(row.get("id") or "")
        return int(identity) if identity.isdecimal() and len(identity) < 19 else 0

    def rows(self, page: Page) -> Rows:
        draft, known = Draft(), self.instrument
        for row in page:
            ts, number = self.ts(row), self.number(row)
            side = Side.BUY if row.get("side") == "buy" else Side.SELL
            price, quantity = self.price(row["price"]), self.quantity(row["amount"])
            draft.append_message(Trade(ts, ts, known.exchange, known.symbol, number, price, quantity, side))
        return draft.rows()


class _Funding(_Fetcher):
    KIND = "funding"
    SPAN_NS = 30 * 86_400 * NS_PER_S

    def page(self, since_ms: int) -> Page:
        found: Page = self.client.fetch_funding_rate_history(self.wanted.symbol, since_ms)
        return found

    def rows(self, page: Page) -> Rows:
        draft, known = Draft(), self.instrument
        for row in page:
            ts, rate = self.ts(row), round(Decimal(repr(row["fundingRate"])) * UNIT)
            draft.append_message(FundingUpdated(ts, ts, known.exchange, known.symbol, 0, 0, rate, 0, 0, 0))
        return draft.rows()
