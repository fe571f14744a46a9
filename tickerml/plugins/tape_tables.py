"""
Rows for other tools: Arrow, Polars, Parquet and CSV, and bars made of trades.

Numbers stay what they are on the tape, int64 ticks and lots; what one is worth stands in the
metadata of a table ("tick_size", "lot_size", in the quote and the base asset). A CSV, which has
no metadata, has decimals in their place. pyarrow and polars are imported when they are asked
for, and are no dependencies of ours.
"""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tickerml.kernel import NS_PER_S, PPM, UNIT, Instrument, StoreError, format_units

from .tape_rows import ROW, Draft, Kind, Rows, split_stream

FORMATS = ("parquet", "csv", "arrow")
Bars = npt.NDArray[np.void]
Table = Rows | Mapping[str, npt.NDArray[Any]]  # or the columns that they have

BAR = np.dtype(
    [
        ("ts", "<i8"),  # where it begins, ns UTC
        ("open", "<i8"),  # ticks
        ("high", "<i8"),
        ("low", "<i8"),
        ("close", "<i8"),
        ("volume", "<i8"),  # lots
        ("count", "<i8"),  # trades, 0 where whoever made the bar does not say
        ("vwap", "<f8"),  # ticks, NaN where it is not known
    ]
)

FUNDING = np.dtype(
    [
        ("ts_recv", "<i8"),
        ("ts_event", "<i8"),
        ("mark", "<i8"),  # ticks
        ("index", "<i8"),  # ticks
        ("rate", "<i8"),  # 1e-12 of the notional for one interval, as predicted, cap and floor
        ("predicted", "<i8"),
        ("next_ts", "<i8"),
        ("interval_s", "<i8"),
        ("cap", "<i8"),
        ("floor", "<i8"),
    ]
)

_KIND_NAMES = [kind.name.lower() for kind in Kind]
_DOUBT = (Kind.GAP, Kind.CHECKSUM)
_IN_TICKS = {"price", "open", "high", "low", "close", "vwap", "mark", "index"}
_IN_UNITS = {"rate", "predicted", "cap", "floor"}


# --- Bars -----------------------------------------------------------------------------------------


def bars_of(rows: Rows, seconds: int) -> Bars:
    """
    Return the bars of *seconds* that the trades, or the bars, among *rows* make, oldest first.

    A trade belongs to the bar of its ts_event, or of its ts_recv where the exchange gives none; at
    equal times the one that came first is first. A silence has no bar. vwap is the sum of price times
    quantity over the volume, in floating point.

    Raises: ValueError: *seconds* is not positive.
    """
    if seconds < 1:
        raise ValueError(f"expected bars of at least 1 second, was {seconds}")
    made = rows[rows["kind"] == Kind.BAR]
    if len(made):
        return _imported(made, seconds)
    trades = rows[rows["kind"] == Kind.TRADE]
    ts = np.where(trades["ts_event"] != 0, trades["ts_event"], trades["ts_recv"])
    order = np.argsort(ts, kind="stable")
    trades, ts = trades[order], ts[order]
    starts = ts - ts % (seconds * NS_PER_S)
    begins = np.flatnonzero(np.diff(starts, prepend=starts[:1] - 1))
    bars = np.zeros(len(begins), BAR)
    if not len(begins):
        return bars
    price, quantity = trades["price"], trades["quantity"]
    ends = np.concatenate([begins[1:], [len(ts)]])
    bars["ts"], bars["count"] = starts[begins], ends - begins
    bars["open"], bars["close"] = price[begins], price[ends - 1]
    bars["high"], bars["low"] = np.maximum.reduceat(price, begins), np.minimum.reduceat(price, begins)
    bars["volume"] = np.add.reduceat(quantity, begins)
    paid = np.add.reduceat(price.astype(float) * quantity, begins)
    bars["vwap"] = np.divide(paid, bars["volume"], out=np.full(len(bars), np.nan), where=bars["volume"] > 0)
    return bars


def _imported(rows: Rows, seconds: int) -> Bars:
    # Four rows a bar: see tape_rows.
    four = rows.reshape(-1, 4)
    four = four[four["quantity"][:, 3] == seconds]
    bars = np.zeros(len(four), BAR)
    price, quantity = four["price"], four["quantity"]
    bars["ts"] = four["ts_event"][:, 0]
    for column, name in enumerate(("open", "high", "low", "close")):
        bars[name] = price[:, column]
    bars["volume"], bars["count"] = quantity[:, 0], quantity[:, 2]
    bars["vwap"] = np.where(quantity[:, 1] > 0, quantity[:, 1] / PPM, np.nan)
    return bars[np.argsort(bars["ts"], kind="stable")]


def rows_of_bars(bars: Bars, seconds: int) -> Rows:
    """Return *bars* of *seconds* as rows of a stream "bar-SECONDS": received when they end."""
    draft = Draft()
    for ts, first, high, low, last, volume, count, vwap in bars.tolist():
        average = 0 if vwap != vwap else round(vwap * PPM)
        numbers = np.array([first, volume, high, average, low, count, last, seconds], np.int64)
        draft.append(ts + seconds * NS_PER_S, ts, 0, Kind.BAR, b"", b"", numbers.tobytes())
    return draft.rows()


# --- Tables ---------------------------------------------------------------------------------------


def table_of(stream: str, rows: Rows) -> Rows:
    """Return what a table of *stream* shows of *rows*: BAR, FUNDING, or the rows themselves."""
    kind, _, _ = split_stream(stream)
    if rows.dtype == BAR:  # made of trades a moment ago
        return rows
    if kind.startswith("bar-"):
        return bars_of(rows, int(kind.removeprefix("bar-")))
    if kind != "funding":
        return rows
    four = rows[rows["kind"] == Kind.FUNDING].reshape(-1, 4)
    made = np.zeros(len(four), FUNDING)
    made["ts_recv"], made["ts_event"] = four["ts_recv"][:, 0], four["ts_event"][:, 0]
    for place, name in enumerate(FUNDING.names[2:] if FUNDING.names else ()):
        made[name] = four["quantity" if place % 2 else "price"][:, place // 2]
    return made


def is_derived(stream: str) -> bool:
    """Return whether a table of *stream* shows something else than its rows."""
    kind, _, _ = split_stream(stream)
    return kind == "funding" or kind.startswith("bar-")


def optional(name: str, purpose: str) -> Any:
    """
    Return the module *name* of a package that is no dependency of ours.

    Raises: StoreError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.split(".")[0]
        raise StoreError(
            f"{purpose} needs {package}, which is not installed: pip install {package}"
        ) from None


def columns_of(rows: Table) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of *rows* by name, each contiguous."""
    if isinstance(rows, Mapping):
        return dict(rows)
    return {name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names or ()}


def metadata_of(stream: str, instrument: Instrument | None) -> dict[str, str]:
    """Return what a table of *stream* says of itself."""
    kind, exchange, symbol = split_stream(stream)
    found = {"stream": kind, "exchange": exchange, "symbol": symbol, "unit": "ns UTC, ticks, lots"}
    if instrument:
        found["tick_size"] = format_units(instrument.tick_size)
        found["lot_size"] = format_units(instrument.lot_size)
    return found


def _columns(stream: str, rows: Table) -> dict[str, npt.NDArray[Any]]:
    return columns_of(rows if isinstance(rows, Mapping) else table_of(stream, rows))


def to_arrow(stream: str, rows: Table, instrument: Instrument | None) -> Any:
    """
    Return the table of *rows* as a pyarrow.Table; kind is a dictionary of names.

    Raises: StoreError: pyarrow is not installed.
    """
    arrow = optional("pyarrow", "an Arrow table")
    columns: dict[str, Any] = dict(_columns(stream, rows))
    if "kind" in columns:
        codes = arrow.array(columns["kind"].view(np.int8))
        columns["kind"] = arrow.DictionaryArray.from_arrays(codes, arrow.array(_KIND_NAMES))
    return arrow.table(columns).replace_schema_metadata(metadata_of(stream, instrument))


def to_polars(stream: str, rows: Table) -> Any:
    """
    Return the table of *rows* as a polars.DataFrame; kind is an enum of names.

    Raises: StoreError: polars is not installed.
    """
    polars = optional("polars", "a Polars frame")
    columns: dict[str, Any] = dict(_columns(stream, rows))
    if "kind" in columns:
        names = np.array(_KIND_NAMES, object)[columns["kind"]]
        columns["kind"] = polars.Series("kind", names, dtype=polars.Enum(_KIND_NAMES))
    return polars.DataFrame(columns)


def write(form: str, path: Path, stream: str, pages: Iterable[Rows], instrument: Instrument | None) -> int:
    """
    Write the table of *pages* of rows into the file *path*, and return how many rows it has.

    The file has its name only once it is whole.

    Args:
        form: of FORMATS.
    Raises: StoreError: it cannot be written, or needs a package that is not installed. ValueError: no such
        form.
    """
    writers = {"parquet": _write_parquet, "arrow": _write_arrow, "csv": _write_csv}
    if form not in writers:
        raise ValueError(f"expected one of {', '.join(FORMATS)}, was {form!r}")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        count = writers[form](part, stream, pages, instrument)
        part.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    return count


def _write_parquet(path: Path, stream: str, pages: Iterable[Rows], instrument: Instrument | None) -> int:
    parquet = optional("pyarrow.parquet", "a Parquet file")
    with parquet.ParquetWriter(str(path), _schema(stream, instrument), compression="zstd") as writer:
        return _write_pages(writer.write_table, stream, pages, instrument)


def _write_arrow(path: Path, stream: str, pages: Iterable[Rows], instrument: Instrument | None) -> int:
    ipc = optional("pyarrow.ipc", "an Arrow file")
    with ipc.new_file(str(path), _schema(stream, instrument)) as writer:
        return _write_pages(writer.write_table, stream, pages, instrument)


def _schema(stream: str, instrument: Instrument | None) -> Any:
    return to_arrow(stream, np.empty(0, ROW), instrument).schema


def _write_pages(put: Any, stream: str, pages: Iterable[Rows], instrument: Instrument | None) -> int:
    count = 0
    for rows in pages:
        table = to_arrow(stream, rows, instrument)
        if table.num_rows:
            put(table)
            count += table.num_rows
    return count


def _write_csv(path: Path, stream: str, pages: Iterable[Rows], instrument: Instrument | None) -> int:
    count = 0
    tick, lot = (instrument.tick_size, instrument.lot_size) if instrument else (UNIT, UNIT)
    with path.open("w", newline="") as file:
        file.write(",".join(table_of(stream, np.empty(0, ROW)).dtype.names or ()) + "\n")
        for rows in pages:
            table = table_of(stream, rows)
            count += len(table)
            cells = [_texts(table, name, tick, lot) for name in table.dtype.names or ()]
            file.writelines(",".join(line) + "\n" for line in zip(*cells, strict=True))
    return count


def _texts(table: Rows, name: str, tick: int, lot: int) -> Iterable[str]:
    # Decimals for what is counted in ticks, lots or millionths of millionths; of a doubt, its numbers.
    values: list[Any] = table[name].tolist()
    if name == "kind":
        return [_KIND_NAMES[value] for value in values]
    if name == "is_last":
        return [str(int(value)) for value in values]
    unit = {"quantity": lot, "volume": lot}.get(name, tick if name in _IN_TICKS else 1)
    if unit == 1 and name not in _IN_UNITS:
        return map(str, values)
    if name == "vwap":
        return [repr(value * tick / UNIT) for value in values]
    has_kinds = "kind" in (table.dtype.names or ())
    is_doubt = np.isin(table["kind"], _DOUBT) if has_kinds else np.zeros(len(table), bool)
    return [
        str(value) if doubt else format_units(value * unit)
        for value, doubt in zip(values, is_doubt.tolist(), strict=True)
    ]
