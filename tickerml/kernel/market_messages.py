"""
The words of the markets: what a message is, and every one that exchanges and features publish.

The rest of them, and what holds for all, is in messages.py, which is where to import them from.
"""

import sys
from array import array
from collections.abc import Iterable
from struct import Struct
from struct import error as StructError

import msgspec

from .enums import Anomaly, Severity, Side
from .units import format_units

if sys.byteorder != "little":  # pragma: no cover - every supported machine is little-endian
    raise ImportError("TickerML packs book levels in the machine's byte order and needs a little-endian one")

_level = Struct("<qq")  # most messages carry one or two: an array costs more to set up than they take
_order = Struct("<qqqq")


def pack_levels(levels: Iterable[tuple[int, int]]) -> bytes:
    """Return (price, quantity) pairs, in ticks and lots, as the packed bytes of a book message."""
    try:
        return b"".join([_level.pack(price, quantity) for price, quantity in levels])
    except StructError as error:
        raise OverflowError(
            f"a price and a quantity of a level must fit into 64 bits each: {error}"
        ) from None


def levels(packed: bytes) -> Iterable[tuple[int, int]]:
    """Iterate over the (price, quantity) pairs of *packed*, in ticks and lots."""
    if len(packed) % _level.size:
        raise ValueError(f"packed levels must be whole pairs of 16 bytes, was {len(packed)} bytes")
    return _level.iter_unpack(packed)


def pack_orders(orders: Iterable[tuple[int, int, int, int]]) -> bytes:
    """Return (side, number, price, lots) of single orders as the packed bytes of a BookOrders."""
    return pack_levels(
        [pair for side, number, price, lots in orders for pair in ((side, number), (price, lots))]
    )


def single_orders(packed: bytes) -> Iterable[tuple[int, int, int, int]]:
    """Iterate over (side, number, price, lots) of the single orders of *packed*, in ticks and lots."""
    if len(packed) % _order.size:
        raise ValueError(f"packed orders must be whole ones of 32 bytes, was {len(packed)} bytes")
    return _order.iter_unpack(packed)


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=True):
    """Base of everything that travels; ts_recv is always its first field."""

    ts_recv: int


# --- Reference data and market data: exchange to everyone -----------------------------------------


class Instrument(Message, frozen=True):
    """
    What one symbol is on one exchange: the scale of its prices, its rules and its fees.

    tick_size, lot_size and min_notional are in units of 1e-12 (of quote, base, quote);
    min_quantity and max_quantity in lots, 0 for no limit; fees in millionths, as of
    the ISO date fees_as_of.

    contract is "" for spot, "linear" for a future of a quantity of base, and "inverse" for one of an
    amount of quote, whose lot_size is in quote. is_sampled says that the book comes as a state now and
    then and not change by change, so that nothing can be known of a queue in it.

    A limit price must lie between the two of buy_band_ppm, or sell_band_ppm, in millionths of the average
    price of average_minutes minutes (of the last trade where that is 0); a bound of 0 is none. max_orders
    is how many orders one account may have open in the symbol, 0 for no limit. max_notional is in units of
    1e-12 of quote, 0 for no limit. price_limit_ppm is how far from the other side's best price an order may
    trade, in millionths of it: a limit order that would is refused, a market order stops there; 0 is no rule.

    fee_tier names the tier that the fees are of, where the simulator charges another than the one everybody
    enters by; entry_fees_ppm are the (maker, taker) fees of that one then. An exchange says neither.
    """

    exchange: str
    symbol: str
    base: str
    quote: str
    tick_size: int
    lot_size: int
    min_quantity: int = 1
    max_quantity: int = 0
    min_notional: int = 0
    maker_fee_ppm: int = 0
    taker_fee_ppm: int = 0
    fees_as_of: str = ""
    contract: str = ""
    is_sampled: bool = False
    buy_band_ppm: tuple[int, int] = (0, 0)
    sell_band_ppm: tuple[int, int] = (0, 0)
    average_minutes: int = 5
    max_orders: int = 0
    max_notional: int = 0
    price_limit_ppm: int = 0
    fee_tier: str = ""
    entry_fees_ppm: tuple[int, int] = (0, 0)

    def notional(self, price: int, quantity: int) -> int:
        """Return ticks times lots in units of the quote asset, rounded up where 1e-12 is too coarse."""
        if self.contract == "inverse":
            return quantity * self.lot_size
        exact = price * quantity * self.tick_size * self.lot_size
        return -(-exact // 10**12)

    def price_text(self, ticks: int) -> str:
        """Return *ticks* as a person writes the price, exactly: "61837.63"."""
        return format_units(ticks * self.tick_size)

    def quantity_text(self, lots: int) -> str:
        """Return *lots* as a person writes the quantity, exactly: "0.05" (of quote where it is inverse)."""
        return format_units(lots * self.lot_size)


class BookSnapshot(Message, frozen=True):
    """A whole book: replaces what was known and makes it VALID. seq is the exchange's update number."""

    ts_event: int
    exchange: str
    symbol: str
    seq: int
    bids: bytes
    asks: bytes


class BookDelta(Message, frozen=True):
    """Changed levels of one exchange message: each pair is (price, new total quantity), 0 deletes."""

    ts_event: int
    exchange: str
    symbol: str
    seq: int
    bids: bytes
    asks: bytes


class BookOrders(Message, frozen=True):
    """
    Single orders (L3) of a book, told before the change of the book that follows from them.

    Each of orders is (side, number, price, lots), bids first: so many lots came or, negative, left.
    Numbers rise with arrival: of two orders at a price the lower number is ahead. An order that loses its
    place leaves, and comes with another number; lots may leave an order that stays. A trade takes lots
    off orders like a cancellation. is_whole: these are all the orders that there are, as after a loss.
    """

    ts_event: int
    exchange: str
    symbol: str
    seq: int
    orders: bytes
    is_whole: bool = False


class Trade(Message, frozen=True):
    """A public print; seq is the exchange's trade number."""

    ts_event: int
    exchange: str
    symbol: str
    seq: int
    price: int
    quantity: int
    aggressor: Side


class Quote(Message, frozen=True):
    """Best bid and ask (L1)."""

    ts_event: int
    exchange: str
    symbol: str
    seq: int
    bid: int
    bid_quantity: int
    ask: int
    ask_quantity: int


class FundingUpdated(Message, frozen=True):
    """
    What a perpetual pays, and what it is valued at; 0 for what the exchange does not say.

    mark and index are in ticks, rounded to the nearest. rate, predicted, cap and floor are in units
    of 1e-12 of the notional for one interval; next_ts is when the next payment is due, ns UTC.
    """

    ts_event: int
    exchange: str
    symbol: str
    mark: int
    index: int
    rate: int
    predicted: int
    next_ts: int
    interval_s: int
    cap: int = 0
    floor: int = 0


# --- The health of feeds --------------------------------------------------------------------------


class FeedConnected(Message, frozen=True):
    """An exchange's feed is up and subscribed."""

    exchange: str
    symbols: list[str]


class FeedLost(Message, frozen=True):
    """The feed is down; every book of the exchange is RESYNCING until its next snapshot."""

    exchange: str
    reason: str
    retry_in_ms: int


class SequenceGap(Message, frozen=True):
    """An update is missing; the book is RESYNCING until its next snapshot."""

    exchange: str
    symbol: str
    expected: int
    was: int


class ChecksumFailed(Message, frozen=True):
    """
    Our book is not the exchange's, by the exchange's own checksum; it is RESYNCING until its next snapshot.

    expected is what the exchange sent, was what our book gives.
    """

    exchange: str
    symbol: str
    expected: int
    was: int


class BookStale(Message, frozen=True):
    """A book that has gone silent for silent_ms; it is STALE until its next snapshot or delta."""

    exchange: str
    symbol: str
    silent_ms: int


class ChannelLost(Message, frozen=True):
    """
    A channel of one symbol ("trade", "quote", "funding") says nothing any more while its book goes on.

    silent_ms is for how long, and longer than it ever was of late. Its books are as good as before; what
    counts its prints knows that some are missing. It is lost until ChannelResumed.
    """

    exchange: str
    symbol: str
    channel: str
    silent_ms: int
    reason: str


class ChannelResumed(Message, frozen=True):
    """A channel that was lost speaks again, after silent_ms."""

    exchange: str
    symbol: str
    channel: str
    silent_ms: int


class BookResynced(Message, frozen=True):
    """A book is whole again after a gap or a loss."""

    exchange: str
    symbol: str
    seq: int


class BookCrossed(Message, frozen=True):
    """The best bid met or passed the best ask after an update."""

    exchange: str
    symbol: str
    seq: int
    bid: int
    ask: int


class StreamCount(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a source has seen of one symbol: messages are parsed or skipped; checksums held or failed."""

    messages: int
    parsed: int
    skipped: int
    gaps: int
    crossed: int
    checksums_ok: int
    checksums_bad: int


class FeedSummarized(Message, frozen=True):
    """
    What a source has seen since it started: frames, those skipped and why, gaps, crossed books.

    books is how many books it keeps, and valid_books how many of them are VALID now. streams says
    the counts by symbol; frames of no symbol, as heartbeats are, stand under "". clock_offset_ns is
    the least ts_recv - ts_event of late, which is the fastest way here plus how far our clock is
    ahead of the exchange's: negative where theirs is ahead of ours, 0 where it is unknown.
    """

    exchange: str
    messages: int
    skipped: int
    gaps: int
    crossed_books: int
    reasons: dict[str, int] = {}
    books: int = 0
    valid_books: int = 0
    checksums_ok: int = 0
    checksums_bad: int = 0
    streams: dict[str, StreamCount] = {}
    clock_offset_ns: int = 0


class DataAnomaly(Message, frozen=True):
    """
    Data that came whole and in order, and is doubtful all the same; symbol is "" where it is a whole feed.

    value went beyond limit, both in the unit of the kind (see Anomaly). count is how often this has
    been seen of this symbol since the run began, this time included: it may rise by more than one
    between two messages.
    """

    exchange: str
    symbol: str
    kind: Anomaly
    severity: Severity
    value: float
    limit: float
    text: str
    count: int = 1


class FeedEnded(Message, frozen=True):
    """A source with an end has reached it: no more will come."""

    source: str
    messages: int
    skipped: int


class TimeTick(Message, frozen=True):
    """The wall clock of a live run, once a second, so that timers fire in a silent market."""


# --- Features -------------------------------------------------------------------------------------


class FeatureVector(Message, frozen=True):
    """One row of a feature set at ts_event, a point of its grid: packed float64, NaN when unknown."""

    ts_event: int
    exchange: str
    symbol: str
    feature_set: str
    values: bytes

    def unpack(self) -> list[float]:
        """Return the values in the order of the feature set's columns."""
        return array("d", self.values).tolist()


class Bar(Message, frozen=True):
    """
    What traded in the interval_s from ts_event on: prices in ticks, volume in lots, the number of prints.

    vwap is the volume-weighted average price in millionths of a tick. is_whole is false where prints of
    the interval may be missing: we began to listen in it, its feed was lost in it, or one came too late.
    """

    ts_event: int
    exchange: str
    symbol: str
    interval_s: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    vwap: int
    trades: int
    is_whole: bool = True
