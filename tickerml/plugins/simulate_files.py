"""The files of `tickerml simulate`: read strictly, in exact decimals, and written the same way."""

import csv
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

from tickerml.kernel import PPM, Instrument, OrderType, Side, TimeInForce, to_units

from . import core_state as cs
from .simulate_run import End, Filled
from .simulate_venues import EXCHANGE, SYMBOL, Row, Wish

EVENTS = ("ts_exchange", "ts_local", "kind", "side", "price", "qty")
NUMBERED = (*EVENTS, "order")  # where single orders are told
ORDERS = ("order_id", "ts", "side", "price", "qty", "type", "tif", "cancel_ts")
FILLS = ("order_id", "seq", "ts_exchange", "ts_local", "price", "qty", "liquidity", "fee", "leaves")
STATUS = ("order_id", "status", "filled_qty", "leaves", "ts_exchange")
_LIMIT = 2**53  # of ticks and lots, so that float queues count them exactly
_TIF = {
    "GTC": TimeInForce.GTC,
    "GTX": TimeInForce.POST_ONLY,
    "IOC": TimeInForce.IOC,
    "FOK": TimeInForce.FOK,
}
_KINDS = ("depth", "trade", "clear")
_BOOK_SIDES = {"bid": (cs.BID,), "ask": (cs.ASK,)}
_HIT_SIDES = {"sell": (cs.BID,), "buy": (cs.ASK,)}


class Grid(NamedTuple):
    """The steps of prices and quantities, and the fees as fractions."""

    tick: Decimal
    lot: Decimal
    maker: Decimal
    taker: Decimal

    def instrument(self) -> Instrument:
        """
        Return what a market of these steps and fees is.

        Raises: ValueError: a step is finer than 1e-12, or a fee than 1e-6.
        """
        fees = []
        for name, fee in (("--maker", self.maker), ("--taker", self.taker)):
            if fee * PPM != int(fee * PPM) or not -1 < fee < 1:
                raise ValueError(f"{name} must be a multiple of 0.000001 between -1 and 1, was {fee}")
            fees.append(int(fee * PPM))
        tick, lot = to_units(str(self.tick)), to_units(str(self.lot))
        if tick <= 0 or lot <= 0:
            raise ValueError(f"--tick and --lot must be at least 1e-12, were {self.tick} and {self.lot}")
        return Instrument(
            0, EXCHANGE, SYMBOL, "BASE", "QUOTE", tick, lot, maker_fee_ppm=fees[0], taker_fee_ppm=fees[1]
        )


class _Line:
    # One row of a file, whose errors say where they are.
    def __init__(self, path: Path, number: int, cells: dict[str, str]) -> None:
        self._place = f"{path} row {number}"
        self._cells = cells

    def text(self, column: str) -> str:
        return self._cells[column]

    def has(self, column: str) -> bool:
        return column in self._cells

    def wrong(self, column: str, rule: str) -> ValueError:
        return ValueError(f"{self._place}, {column}: must be {rule}, was {self._cells[column]!r}")

    def choice(self, column: str, choices: Iterable[str]) -> str:
        if (found := self._cells[column]) not in choices:
            raise self.wrong(column, f"one of {', '.join(choices)}")
        return found

    def ns(self, column: str) -> int:
        return self.whole(column, "whole ns")

    def whole(self, column: str, what: str) -> int:
        """Return the whole number, *what* it is, in *column*."""
        text = self._cells[column]
        if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
            raise self.wrong(column, f"{what} from 0 within 64 bits")
        return int(text)

    def steps(self, column: str, step: Decimal, least: int) -> int:
        """Return the number of *step* that *column* is, at least *least*."""
        number = self.number(column)
        if (count := number / step) != int(count):
            raise self.wrong(column, f"a multiple of {step}")
        if not least <= count < _LIMIT:
            raise self.wrong(column, f"from {least} to below 2**53 steps of {step}")
        return int(count)

    def number(self, column: str) -> Decimal:
        try:
            number = Decimal(self._cells[column])
        except InvalidOperation:
            raise self.wrong(column, "a decimal number") from None
        if not number.is_finite() or len(number.as_tuple().digits) > 28:  # more would be rounded
            raise self.wrong(column, "a decimal number of at most 28 digits")
        return number


def decimal_of(text: str, name: str, above: int | None = None, at_least: int | None = None) -> Decimal:
    """
    Return the number that *text*, given as *name*, is.

    Raises: ValueError: it is none, or too small.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{name} must be a decimal number, was {text!r}") from None
    if not number.is_finite():
        raise ValueError(f"{name} must be a decimal number, was {text!r}")
    if above is not None and number <= above:
        raise ValueError(f"{name} must be above {above}, was {text}")
    if at_least is not None and number < at_least:
        raise ValueError(f"{name} must be at least {at_least}, was {text}")
    return number


def scale_of(column: str, events: Path, orders: Path) -> Decimal:
    """Return the power of ten that every number in *column* of both files is a multiple of, at most 1."""
    places = 0
    for path, columns in ((events, (EVENTS, NUMBERED)), (orders, (ORDERS,))):
        for line in _lines(path, *columns):
            if line.text(column):
                exponent = line.number(column).normalize().as_tuple().exponent
                assert isinstance(exponent, int)  # it is finite
                places = max(places, -exponent)
    return Decimal(1).scaleb(-places)


def read_events(path: Path, grid: Grid) -> list[Row]:
    """
    Return the market events of *path*.

    Raises: ValueError: a row breaks a rule; the message says which row, column, rule and value.
    """
    rows: list[Row] = []
    for line in _lines(path, EVENTS, NUMBERED):
        ts = line.ns("ts_exchange")
        line.ns("ts_local")
        if rows and ts < rows[-1].ts:
            raise line.wrong("ts_exchange", f"at least {rows[-1].ts}, that of the row before")
        rows.append(_event(line, ts, grid))
    return rows


def _event(line: _Line, ts: int, grid: Grid) -> Row:
    kind = line.choice("kind", (*_KINDS, "order") if line.has("order") else _KINDS)
    if kind == "clear":
        side = line.choice("side", ("bid", "ask", "both"))
        return Row(ts, kind, _BOOK_SIDES.get(side, (cs.BID, cs.ASK)), 0, 0)
    sides = _HIT_SIDES if kind == "trade" else _BOOK_SIDES
    side = line.choice("side", sides)
    price = line.steps("price", grid.tick, 1)
    if kind == "order":
        lots = line.steps("qty", grid.lot, 1 - _LIMIT)
        return Row(ts, kind, sides[side], price, lots, line.whole("order", "a number"))
    return Row(ts, kind, sides[side], price, line.steps("qty", grid.lot, 0 if kind == "depth" else 1))


def read_orders(path: Path, grid: Grid) -> list[Wish]:
    """
    Return the orders of *path*; one that is off the grid is the exchange's to refuse, and says why.

    Raises: ValueError: a row breaks a rule; the message says which row, column, rule and value.
    """
    wishes: dict[str, Wish] = {}
    for line in _lines(path, ORDERS):
        order_id = line.text("order_id")
        if not order_id or order_id in wishes:
            raise line.wrong("order_id", "there and not yet used")
        wishes[order_id] = _wish(line, order_id, grid)
    return list(wishes.values())


def _wish(line: _Line, order_id: str, grid: Grid) -> Wish:
    ts = line.ns("ts")
    cancel_ts = line.ns("cancel_ts") if line.text("cancel_ts") else None
    if cancel_ts is not None and cancel_ts < ts:
        raise line.wrong("cancel_ts", f"blank or at least ts, {ts}")
    side = Side.BUY if line.choice("side", ("buy", "sell")) == "buy" else Side.SELL
    order_type = OrderType(line.choice("type", ("LIMIT", "MARKET")).lower())
    tif = _TIF[line.choice("tif", _TIF)]
    is_priced = order_type is OrderType.LIMIT
    price = line.number("price") if is_priced else Decimal(0)
    quantity = line.number("qty")
    if is_priced and not 0 < price < _LIMIT * grid.tick:
        raise line.wrong("price", f"above 0 and below 2**53 steps of {grid.tick}")
    if not 0 < quantity < _LIMIT * grid.lot:
        raise line.wrong("qty", f"above 0 and below 2**53 steps of {grid.lot}")
    ticks, lots = price / grid.tick, quantity / grid.lot
    refused = f"price must be a multiple of {grid.tick}, was {price}" if ticks != int(ticks) else ""
    refused = f"qty must be a multiple of {grid.lot}, was {quantity}" if lots != int(lots) else refused
    return Wish(order_id, ts, side, int(ticks), int(lots), order_type, tif, cancel_ts, refused)


def _lines(path: Path, *headers: tuple[str, ...]) -> Iterator[_Line]:
    """Yield the rows of *path* after its header, one of *headers*; they count from 1, and it is none."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, None)
        columns = tuple(header or ())
        if columns not in headers:
            was, known = ",".join(columns) or "nothing", ", or ".join(map(",".join, headers))
            raise ValueError(f"{path}: the first line must be {known}, was {was}")
        for number, cells in enumerate(reader, 1):
            if len(cells) != len(columns):
                raise ValueError(f"{path} row {number}: must have {len(columns)} columns, had {len(cells)}")
            yield _Line(path, number, dict(zip(columns, cells, strict=True)))


# --- Out ------------------------------------------------------------------------------------------


def write_fills(path: Path, fills: list[Filled], grid: Grid, response_ns: int) -> None:
    """Write *fills* to *path*."""
    rules = grid.instrument()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FILLS)
        for fill in fills:
            ppm = rules.maker_fee_ppm if fill.is_maker else rules.taker_fee_ppm
            fee = Decimal(-(-rules.notional(fill.price, fill.quantity) * ppm // PPM)).scaleb(-12)
            liquidity = "maker" if fill.is_maker else "taker"
            price, quantity = fill.price * grid.tick, fill.quantity * grid.lot
            writer.writerow(
                (
                    fill.order_id,
                    fill.seq,
                    fill.ts,
                    fill.ts + response_ns,
                    plain(price),
                    plain(quantity),
                    liquidity,
                    plain(fee),
                    plain(fill.leaves * grid.lot),
                )
            )


def write_status(path: Path, ends: list[End], grid: Grid) -> None:
    """Write what became of the orders to *path*."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(STATUS)
        for end in ends:
            filled, leaves = plain(end.filled * grid.lot), plain(end.leaves * grid.lot)
            writer.writerow((end.order_id, end.status, filled, leaves, end.ts))


def plain(number: Decimal) -> str:
    """Return *number* without an exponent and without zeros at its end."""
    return f"{number.normalize():f}"
