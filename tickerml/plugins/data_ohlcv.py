"""
Histories of bars (OHLCV) in files, as exchanges and vendors give them.

CSV      a header that names open, high, low, close and a time, behind a banner line or none; times
         as 2019-10-17, 2019-10-17 09-AM, ISO 8601, or a number since 1970; UTC; in any order
Parquet  columns of those names; in ticks and lots where the file says what they are, as ours do

Prices and volumes become ticks and lots by the finest decimals that the file has. Where there are
volumes of both assets, that of the base is taken.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tickerml.kernel import NS_PER_S, UNIT, ConfigError, Instrument, to_units

from .data_show import epoch_ns, format_time
from .tape_tables import BAR, Bars, optional

PARQUET_MAGIC = b"PAR1"
_PRICES = ("open", "high", "low", "close")
_TIMES = ("ts", "timestamp", "date", "datetime", "time", "open_time", "unix")
_BANNER_LINES = 3  # of which the header may be the last
_FINEST = UNIT // 10**8  # what a volume is rounded to that was computed in floating point
_TWELVE_HOURS = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d)-([AP])M")

Table = dict[str, Sequence[Any]]


class History(NamedTuple):
    """The bars of one symbol, and the scale they are in."""

    bars: Bars
    seconds: int
    instrument: Instrument
    lines: int


def header_line(lines: Sequence[str]) -> int | None:
    """Return which of the first *lines* names the columns of bars; None where none does."""
    for number, line in enumerate(lines[:_BANNER_LINES]):
        if set(_PRICES) <= {_plain(name) for name in line.split(",")}:
            return number
    return None


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def read_history(path: Path, exchange: str, symbol: str = "") -> History:
    """
    Return the bars in a CSV or Parquet file, oldest first.

    Args:
        symbol: "BTC/USD"; empty where the file's columns say it.
    Raises: ConfigError: it cannot be read, or what is in it is no history of bars.
    """
    table = _read(path)
    time_name = next((name for name in _TIMES if name in table), None)
    if time_name is None or not set(_PRICES) <= set(table):
        raise ConfigError(
            f"{path}: expected columns {', '.join(_PRICES)} and one of {', '.join(_TIMES)}, "
            f"was {', '.join(table)}"
        )
    volume = _volume_name(table)
    symbol = symbol or _symbol_of(table, volume)
    if "/" not in symbol:
        raise ConfigError(f"{path}: nothing in it says what it is of; say it with --symbol BTC/USD")
    try:
        times = np.array([_time_of(text) for text in table[time_name]], np.int64)
        prices = {name: [to_units(str(text)) for text in table[name]] for name in _PRICES}
        volumes = [_volume(text) for text in table[volume]] if volume else [0] * len(times)
        return _history(exchange, symbol, times, prices, volumes)
    except (ValueError, InvalidOperation, OverflowError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _history(
    exchange: str, symbol: str, times: Any, prices: dict[str, list[int]], volumes: list[int]
) -> History:
    tick = _step(units for column in prices.values() for units in column)
    lot = _step(volumes)
    bars = np.zeros(len(times), BAR)
    bars["ts"] = times
    for name, units in prices.items():
        bars[name] = [each // tick for each in units]
    bars["volume"] = [each // lot for each in volumes]
    bars = np.unique(bars)
    bars["vwap"] = np.nan
    steps = np.diff(bars["ts"])
    if len(bars) < 2:
        raise ValueError(f"expected at least two bars, was {len(bars)}")
    if not steps.all():
        twice = format_time(int(bars["ts"][np.argmin(steps)]))
        raise ValueError(f"expected one bar for each time, was two different ones at {twice}")
    base, quote = symbol.split("/", 1)
    instrument = Instrument(int(bars["ts"][0]), exchange, symbol, base, quote, tick, lot)
    return History(bars, int(steps.min()) // NS_PER_S, instrument, len(times))


def _step(values: Iterable[int]) -> int:
    # The largest power of ten, in units, that divides them all.
    common = gcd(*values) or UNIT
    step = 1
    while step < UNIT and common % (10 * step) == 0:
        step *= 10
    return step


def _volume(text: Any) -> int:
    return round(Decimal(str(text)) * UNIT / _FINEST) * _FINEST


def _time_of(text: Any) -> int:
    if isinstance(text, int | float | np.integer):
        return epoch_ns(int(text))
    if isinstance(text, str) and (hours := _TWELVE_HOURS.fullmatch(text.strip())):
        hour = int(hours[2]) % 12 + (12 if hours[3] == "P" else 0)
        text = f"{hours[1]}T{hour:02}"
    elif isinstance(text, str) and re.fullmatch(r"\d+(\.0*)?", text.strip()):
        return epoch_ns(int(float(text)))
    text = re.sub(r"(Z|[+-]00:?00)$", "", text.strip()) if isinstance(text, str) else text
    return int(np.datetime64(text, "ns").astype(np.int64))


def _volume_name(table: Table) -> str | None:
    # "volume_btc" is the base's where a plain "volume" is the quote's; of two such the first is the base's.
    named = [name for name in table if name.startswith("volume")]
    return next((name for name in named if name != "volume"), named[0] if named else None)


def _symbol_of(table: Table, volume: str | None) -> str:
    found = {str(text) for text in table.get("symbol", ())}
    text = found.pop() if len(found) == 1 else ""
    base = volume.removeprefix("volume_").upper() if volume and volume != "volume" else ""
    if "/" in text or "-" in text:
        return text.replace("-", "/")
    return f"{base}/{text.removeprefix(base)}" if base and text.startswith(base) and text != base else ""


# --- Files ----------------------------------------------------------------------------------------


def _read(path: Path) -> Table:
    try:
        with path.open("rb") as file:
            is_parquet = file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
        return _read_parquet(path) if is_parquet else _read_csv(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', '') or error}") from None


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.reader(file))
    at = header_line([",".join(line) for line in lines[:_BANNER_LINES]])
    if at is None:
        raise ConfigError(f"{path}: expected a header with {', '.join(_PRICES)}, was none")
    names, rows = [_plain(name) for name in lines[at]], [line for line in lines[at + 1 :] if line]
    if uneven := next((row for row in rows if len(row) != len(names)), None):
        raise ConfigError(
            f"{path}: expected {len(names)} columns in every line, was {','.join(uneven)[:80]!r}"
        )
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())


def _read_parquet(path: Path) -> Table:
    parquet = optional("pyarrow.parquet", "a Parquet file")
    try:
        table = parquet.read_table(str(path))
    except optional("pyarrow", "a Parquet file").ArrowInvalid as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    columns = {_plain(name): table[name] for name in table.column_names}
    found: Table = {
        name: column.to_numpy().tolist() if "timestamp" not in str(column.type) else _datetimes(column)
        for name, column in columns.items()
    }
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if "tick_size" in about and "symbol" in about:  # it is one that we have written
        found["symbol"] = [about["symbol"]]
        for name, step in [*((name, "tick_size") for name in _PRICES), ("volume", "lot_size")]:
            found[name] = [value * Decimal(about[step]) for value in found.get(name, ())]
    return found


def _datetimes(column: Any) -> list[int]:
    times: list[int] = column.to_numpy().astype("datetime64[ns]").astype(np.int64).tolist()
    return times
