"""
Rows: what a tape's columns mean, and how messages become rows and rows messages again.

A row is one level of a book, one trade, one side of a quote, or two of the numbers of a funding
update or a bar. The rows of one message stand together, bids before asks before what is neither,
and the last of them says so. A message without levels is one row of side 0.

    stream      kind                rows of one message: (price, quantity) of each
    book        DELTA, SNAPSHOT     a level each; a quantity of 0 deletes
                KEYFRAME            a whole book that the recorder wrote where a block begins
                GAP, CHECKSUM       (expected, was): the book is not known from here to its next snapshot
    l3          ORDERS, ALL_ORDERS  (price, lots) of each single order, then (number, 0) of each
    trade       TRADE               one, of side BUY or SELL
    quote       QUOTE               the bid, the ask
    funding     FUNDING             (mark, index), (rate, predicted), (next_ts, interval_s), (cap, floor)
    bar-60      BAR                 (open, volume), (high, vwap), (low, count), (close, seconds)

Every stream may have a GAP where something is missing. vwap is in millionths of a tick, 0 where unknown.
"""

import enum
from array import array
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tickerml.kernel import (
    Bar,
    BookDelta,
    BookOrders,
    BookSnapshot,
    ChecksumFailed,
    FundingUpdated,
    Message,
    Quote,
    SequenceGap,
    Side,
    StoreCorrupt,
    Trade,
)

Rows = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]

ROW = np.dtype(
    [
        ("ts_recv", "<i8"),
        ("ts_event", "<i8"),
        ("seq", "<i8"),
        ("price", "<i8"),  # ticks
        ("quantity", "<i8"),  # lots
        ("side", "i1"),  # +1 bid or buyer, -1 ask or seller, 0 neither
        ("kind", "u1"),
        ("is_last", "?"),  # of its message
    ]
)

#: What a recorder keeps of each message beside its levels; see expand().
HEAD_FIELDS = ("ts_recv", "ts_event", "seq", "kind", "bids", "asks", "others")

LEVEL_BYTES = 16
MIN_TS, MAX_TS = -(2**63), 2**63 - 1


class Kind(enum.IntEnum):
    """What a row is part of."""

    DELTA = 0
    SNAPSHOT = 1
    KEYFRAME = 2  # the whole book as the recorder knew it, after the rows before it
    TRADE = 3
    QUOTE = 4
    GAP = 5  # something is missing here; price: the seq expected, quantity: the seq that came
    CHECKSUM = 6  # the book is wrong here; price: the checksum expected, quantity: what it was
    FUNDING = 7
    BAR = 8
    ORDERS = 9  # single orders that came or left; rows of side 0 have their numbers
    ALL_ORDERS = 10  # all that there are


#: The stream that a message's rows belong to.
STREAM_OF: dict[type[Message], str] = {
    BookSnapshot: "book",
    BookDelta: "book",
    SequenceGap: "book",
    ChecksumFailed: "book",
    BookOrders: "l3",
    Trade: "trade",
    Quote: "quote",
    FundingUpdated: "funding",
}


def stream_name(kind: str, exchange: str, symbol: str) -> str:
    """Return the name of the stream of *kind* ("book", "trade", "quote") of *symbol* on *exchange*."""
    return f"{kind}|{exchange}|{symbol}"


def split_stream(stream: str) -> tuple[str, str, str]:
    """
    Return (kind, exchange, symbol) of a stream's name.

    Raises: ValueError: it is none.
    """
    parts = stream.split("|")
    if len(parts) != 3 or not all(parts):
        raise ValueError(f"expected a stream such as 'book|kraken|BTC/USD', was {stream!r}")
    return parts[0], parts[1], parts[2]


# --- Messages to rows -----------------------------------------------------------------------------


def level(price: int, quantity: int) -> bytes:
    """Return one (price, quantity) as a book's levels are packed."""
    return array("q", (price, quantity)).tobytes()


class Draft:
    """The rows of one stream that are not in a block yet: heads and levels, as expand() takes them."""

    __slots__ = ("heads", "levels")

    def __init__(self, heads: bytes = b"", levels: bytes = b"") -> None:
        self.heads = array("q", heads)
        self.levels = bytearray(levels)

    def append(
        self, ts_recv: int, ts_event: int, seq: int, kind: int, bids: bytes, asks: bytes, other: bytes = b""
    ) -> None:
        """Add one message."""
        if not (bids or asks or other):
            other = bytes(LEVEL_BYTES)
        counts = (len(levels) // LEVEL_BYTES for levels in (bids, asks, other))
        self.heads.extend((ts_recv, ts_event, seq, kind, *counts))
        self.levels += bids
        self.levels += asks
        self.levels += other

    def append_gap(self, ts_recv: int, expected: int = 0, was: int = 0, kind: Kind = Kind.GAP) -> None:
        """Add that something is missing, or wrong, here."""
        self.append(ts_recv, 0, 0, kind, b"", b"", level(expected, was))

    def append_book(self, book: BookSnapshot | BookDelta, kind: Kind) -> None:
        """Add a book or a change of it."""
        self.append(book.ts_recv, book.ts_event, book.seq, kind, book.bids, book.asks)

    def append_message(self, message: Message) -> None:
        """
        Add *message*, of a type of STREAM_OF.

        Raises: TypeError: of another.
        """
        match message:
            case BookDelta():
                self.append_book(message, Kind.DELTA)
            case BookSnapshot():
                self.append_book(message, Kind.SNAPSHOT)
            case Trade(ts, event, _, _, seq, price, quantity, aggressor):
                one = level(price, quantity)
                bids, asks = (one, b"") if aggressor is Side.BUY else (b"", one)
                self.append(ts, event, seq, Kind.TRADE, bids, asks)
            case Quote(ts, event, _, _, seq, bid, bid_quantity, ask, ask_quantity):
                self.append(ts, event, seq, Kind.QUOTE, level(bid, bid_quantity), level(ask, ask_quantity))
            case FundingUpdated():
                self._append_funding(message)
            case BookOrders():
                self._append_orders(message)
            case SequenceGap():
                self.append_gap(message.ts_recv, message.expected, message.was)
            case ChecksumFailed():
                self.append_gap(message.ts_recv, message.expected, message.was, Kind.CHECKSUM)
            case _:
                raise TypeError(f"a tape has no rows for {type(message).__name__}")

    def _append_funding(self, funding: FundingUpdated) -> None:
        # Sides keep numbers of one size together, which pack better so.
        bids, asks = level(funding.mark, funding.index), level(funding.rate, funding.predicted)
        other = level(funding.next_ts, funding.interval_s) + level(funding.cap, funding.floor)
        self.append(funding.ts_recv, funding.ts_event, 0, Kind.FUNDING, bids, asks, other)

    def _append_orders(self, told: BookOrders) -> None:
        singles = np.frombuffer(told.orders, np.int64).reshape(-1, 4)
        bids, asks = (singles[singles[:, 0] == side, 2:].tobytes() for side in (1, -1))
        numbers = np.zeros((len(singles), 2), np.int64)
        numbers[:, 0] = singles[:, 1]
        kind = Kind.ALL_ORDERS if told.is_whole else Kind.ORDERS
        self.append(told.ts_recv, told.ts_event, told.seq, kind, bids, asks, numbers.tobytes())

    def rows(self) -> Rows:
        """Return them as an array of ROW."""
        return expand(self.heads.tobytes(), bytes(self.levels))

    def clear(self) -> None:
        """Forget them: they are in a block."""
        self.heads = array("q")
        self.levels.clear()


def expand(heads: bytes, levels: bytes) -> Rows:
    """
    Return the rows of messages that were kept as heads and levels.

    Args:
        heads: HEAD_FIELDS of each message as int64; bids, asks and others count its levels, in this order.
        levels: (price, quantity) of all levels as int64.
    """
    head = np.frombuffer(heads, np.int64).reshape(-1, len(HEAD_FIELDS))
    numbers = np.frombuffer(levels, np.int64).reshape(-1, 2)
    counts = head[:, 4:]  # (messages, 3)
    per_message = counts.sum(axis=1)
    rows = np.zeros(len(numbers), ROW)
    for index, field in enumerate(HEAD_FIELDS[:4]):
        rows[field] = np.repeat(head[:, index], per_message)
    rows["price"], rows["quantity"] = numbers[:, 0], numbers[:, 1]
    rows["side"] = np.repeat(np.tile([1, -1, 0], len(head)), counts.ravel())
    rows["is_last"][np.cumsum(per_message) - 1] = True
    return rows


# --- Rows to messages -----------------------------------------------------------------------------


def messages(stream: str, rows: Rows) -> Iterator[Message]:
    """
    Yield the messages that *rows* of *stream* were made of; a keyframe becomes a BookSnapshot.

    Raises: StoreCorrupt: a row of no known kind.
    """
    _, exchange, symbol = split_stream(stream)
    ends = np.flatnonzero(rows["is_last"]) + 1
    for start, end in pairwise([0, *ends.tolist()]):
        yield _message(exchange, symbol, rows[start:end])


def _message(exchange: str, symbol: str, rows: Rows) -> Message:
    ts_recv, ts_event, seq, price, quantity, side, kind, _ = rows[0].item()
    match kind:
        case Kind.TRADE:
            return Trade(ts_recv, ts_event, exchange, symbol, seq, price, quantity, Side(side))
        case Kind.QUOTE:
            ask = rows[1]
            ask_price, ask_quantity = int(ask["price"]), int(ask["quantity"])
            return Quote(ts_recv, ts_event, exchange, symbol, seq, price, quantity, ask_price, ask_quantity)
        case Kind.GAP:
            return SequenceGap(ts_recv, exchange, symbol, price, quantity)
        case Kind.CHECKSUM:
            return ChecksumFailed(ts_recv, exchange, symbol, price, quantity)
        case Kind.FUNDING:
            numbers = np.stack([rows["price"], rows["quantity"]], axis=1).ravel().tolist()
            return FundingUpdated(ts_recv, ts_event, exchange, symbol, *numbers)
        case Kind.BAR:
            first, high, low, last = rows["price"].tolist()
            volume, vwap, count, seconds = rows["quantity"].tolist()
            prices = first, high, low, last
            return Bar(ts_recv, ts_event, exchange, symbol, seconds, *prices, volume, vwap, count)
        case Kind.DELTA:
            return BookDelta(ts_recv, ts_event, exchange, symbol, seq, _levels(rows, 1), _levels(rows, -1))
        case Kind.SNAPSHOT | Kind.KEYFRAME:
            return BookSnapshot(ts_recv, ts_event, exchange, symbol, seq, _levels(rows, 1), _levels(rows, -1))
        case Kind.ORDERS | Kind.ALL_ORDERS:
            is_whole = kind == Kind.ALL_ORDERS
            return BookOrders(ts_recv, ts_event, exchange, symbol, seq, _singles(rows), is_whole)
    raise StoreCorrupt(f"expected a row of a known kind, was {kind} at {ts_recv} of {exchange} {symbol}")


def _levels(rows: Rows, side: int) -> bytes:
    chosen = rows[rows["side"] == side]
    return np.stack([chosen["price"], chosen["quantity"]], axis=1).tobytes()


def _singles(rows: Rows) -> bytes:
    changes, numbers = rows[rows["side"] != 0], rows[rows["side"] == 0]["price"]
    numbers = numbers[: len(changes)]  # a message of none has a row all the same
    return np.stack([changes["side"], numbers, changes["price"], changes["quantity"]], axis=1).tobytes()
