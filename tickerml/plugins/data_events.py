"""Messages of a tape as a person reads them, and as JSON has them."""

from typing import Any

from tickerml.kernel import (
    UNIT,
    Bar,
    BookDelta,
    BookOrders,
    BookSnapshot,
    ChecksumFailed,
    FundingUpdated,
    Grid,
    Instrument,
    Message,
    Quote,
    SequenceGap,
    Side,
    Trade,
    levels,
    single_orders,
)

from .data_show import format_time
from .tape_replay import Event

_LEVELS = 3  # of a side of a change that are told


def line_of(event: Event, scale: Instrument | None) -> str:
    """Return one line that says what came when; in ticks and lots where the *scale* is not known."""
    prices, sizes = (Grid(step) for step in ((scale.tick_size, scale.lot_size) if scale else (UNIT, UNIT)))
    late = "  LATE" if event.is_late else ""
    return f"{format_time(event.ts_recv)}  {event.stream}  {_text(event.message, prices, sizes)}{late}"


def _text(message: Message, prices: Grid, sizes: Grid) -> str:
    match message:
        case Trade():
            side = "buy" if message.aggressor is Side.BUY else "sell"
            return f"{side} {sizes.text(message.quantity)} at {prices.text(message.price)}, {message.seq}"
        case Quote():
            bid = f"{sizes.text(message.bid_quantity)} at {prices.text(message.bid)}"
            return f"{bid} | {sizes.text(message.ask_quantity)} at {prices.text(message.ask)}"
        case BookSnapshot() | BookDelta():
            what = "whole book" if isinstance(message, BookSnapshot) else "change"
            sides = (_side(packed, prices, sizes) for packed in (message.bids, message.asks))
            return f"{what} {message.seq}: {' | '.join(sides)}"
        case BookOrders():
            what = "all orders" if message.is_whole else "orders"
            return f"{what} {message.seq}: {_singles(message.orders, prices, sizes)}"
        case FundingUpdated():
            marks = f"mark {prices.text(message.mark)}, index {prices.text(message.index)}"
            return f"rate {message.rate / UNIT:.6%}, predicted {message.predicted / UNIT:.6%}, {marks}"
        case Bar():
            four = " ".join(map(prices.text, (message.open, message.high, message.low, message.close)))
            return f"from {format_time(message.ts_event)}: {four}, volume {sizes.text(message.volume)}"
        case SequenceGap() if message.expected or message.was:
            return f"GAP: expected {message.expected}, was {message.was}"
        case ChecksumFailed():
            return f"CHECKSUM: expected {message.expected}, was {message.was}"
    return "GAP"


def _side(packed: bytes, prices: Grid, sizes: Grid) -> str:
    return _first([f"{sizes.text(quantity)} at {prices.text(price)}" for price, quantity in levels(packed)])


def _singles(packed: bytes, prices: Grid, sizes: Grid) -> str:
    return _first(
        [
            f"{'bid' if side > 0 else 'ask'} {number} {'+' if lots > 0 else '-'}{sizes.text(abs(lots))}"
            f" at {prices.text(price)}"
            for side, number, price, lots in single_orders(packed)
        ]
    )


def _first(told: list[str]) -> str:
    more = [f"{len(told) - _LEVELS:,} more"] if len(told) > _LEVELS else []
    return ", ".join(told[:_LEVELS] + more) or "-"


def plain(event: Event) -> dict[str, Any]:
    """Return *event* ready for JSON: numbers in ticks and lots, levels and single orders as lists."""
    message = event.message
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    for name in ("bids", "asks"):
        if name in fields:
            fields[name] = list(levels(fields[name]))
    if "orders" in fields:
        fields["orders"] = list(single_orders(fields["orders"]))
    return {"stream": event.stream, "type": type(message).__name__, "is_late": event.is_late, **fields}
