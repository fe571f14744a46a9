"""
What one exchange sends, frame by frame, as kernel messages: the part that every exchange shares.

A Feed does no I/O. on_frame takes what came over the socket, on_reply what REST answered;
both count it, skip what cannot be read with a reason, and never raise for bad data. What the
bytes mean is written by the exchange in _frame and _reply, which may raise MalformedMessage.
Neither knows of sockets or files, so what is tested on a recording is what runs live.

    bytes ──▶ on_frame ──▶ _frame ──▶ parse ──▶ BookSync ──▶ messages
              on_reply ──▶ _reply                   (one a symbol)

A symbol is one Market: its Instrument, which is said before its first message, and its
BookSync, which keeps the book in step by the exchange's own rule.
"""

from abc import ABC, abstractmethod
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    BookCrossed,
    BookDelta,
    BookResynced,
    BookSnapshot,
    BookState,
    ChecksumFailed,
    FeedSummarized,
    FundingUpdated,
    Instrument,
    MalformedMessage,
    Message,
    OrderBook,
    Quote,
    SequenceGap,
    StreamCount,
    Trade,
)

from .decimals import steps_of

_T = TypeVar("_T")

_NEVER = 2**63  # ns, and more than any latency
_OFFSET_NS = 60 * NS_PER_S  # a clock is measured over the last one to two of these
_TIMED = frozenset({BookDelta, Trade, Quote, FundingUpdated})
_NOTED = frozenset({SequenceGap, ChecksumFailed, BookCrossed, BookSnapshot, BookResynced})


# --- Frames and URLs ---------------------------------------------------------------------------------


def decoded(decoder: msgspec.json.Decoder[_T], raw: bytes | msgspec.Raw) -> _T:
    """Return *raw* as the decoder's type. Raises: MalformedMessage: it is not."""
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"malformed frame: {error}") from None


def path_of(url: str) -> str:
    """Return the path of *url*, without its query."""
    return urlsplit(url).path


def query_of(url: str, name: str) -> str:
    """Return the argument *name* of *url*'s query; "" where it has none."""
    return (parse_qs(urlsplit(url).query).get(name) or [""])[0]


def unsupported(stream: str) -> MalformedMessage:
    """Return what to raise for a frame of *stream*, which is not followed; captures hold candles too."""
    is_candle = "kline" in stream or "candle" in stream
    reason = "candles are made from trades" if is_candle else "unsupported stream"
    return MalformedMessage(f"{reason}: {stream[:64]}")


# --- What was seen ----------------------------------------------------------------------------------


class Count(msgspec.Struct, array_like=True):
    """The frames of one symbol, and what they showed."""

    messages: int = 0
    skipped: int = 0
    gaps: int = 0
    crossed: int = 0
    checksums_ok: int = 0
    checksums_bad: int = 0

    def told(self) -> StreamCount:
        """Return the counts as they travel."""
        return StreamCount(
            self.messages,
            self.messages - self.skipped,
            self.skipped,
            self.gaps,
            self.crossed,
            self.checksums_ok,
            self.checksums_bad,
        )


class Tally(msgspec.Struct, array_like=True):
    """
    What a feed has seen, by symbol, "" for frames of none; and why frames were skipped.

    And what it has: books is how many it keeps, valid_books how many of them are VALID now.
    """

    streams: dict[str, Count] = {}
    reasons: dict[str, int] = {}
    books: int = 0
    valid_books: int = 0
    clock_offset_ns: int = 0

    @property
    def messages(self) -> int:
        """Frames and REST replies so far."""
        return sum(count.messages for count in self.streams.values())

    @property
    def skipped(self) -> int:
        """Those that could not be used."""
        return sum(count.skipped for count in self.streams.values())

    @property
    def gaps(self) -> int:
        """Sequence gaps so far."""
        return sum(count.gaps for count in self.streams.values())

    @property
    def crossed_books(self) -> int:
        """How often a book became crossed."""
        return sum(count.crossed for count in self.streams.values())

    def count(self, symbol: str) -> Count:
        """Return the count of *symbol*, to be counted on."""
        if (count := self.streams.get(symbol)) is None:
            count = self.streams[symbol] = Count()
        return count

    def summary(self, ts_recv: int, exchange: str) -> FeedSummarized:
        """Return the counts so far."""
        counts = self.streams.values()
        return FeedSummarized(
            ts_recv,
            exchange,
            self.messages,
            self.skipped,
            self.gaps,
            self.crossed_books,
            dict(self.reasons),
            self.books,
            self.valid_books,
            sum(count.checksums_ok for count in counts),
            sum(count.checksums_bad for count in counts),
            {symbol: self.streams[symbol].told() for symbol in sorted(self.streams)},
            self.clock_offset_ns,
        )


class Offset:
    """
    How far our clock is ahead of the exchange's, plus the fastest way here: the least latency of late.

    A latency is the way plus the offset of the clocks, and the way is never negative, so the least
    of many is the offset to within the fastest way; a negative one is a clock ahead of ours and no
    error. Two spans are kept so that a clock which drifts is followed.
    Source: the minimum filter of NTP, RFC 5905, section 10.
    """

    __slots__ = ("_before", "least", "until")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: another connection, another way."""
        self._before = self.least = _NEVER
        self.until = 0

    def see(self, ts_recv: int, ts_event: int) -> None:
        """
        Take what came at *ts_recv* by our clock and was said at *ts_event* by the exchange's, ns.

        It changes nothing before *until* unless it took less than *least*; both are there to be
        asked first, for this would be called with every message.
        """
        if ts_recv >= self.until:
            self._before, self.least, self.until = self.least, _NEVER, ts_recv + _OFFSET_NS
        self.least = min(self.least, ts_recv - ts_event)

    @property
    def ns(self) -> int:
        """The estimate; 0 while nothing is known."""
        least = min(self._before, self.least)
        return 0 if least == _NEVER else least


# --- One symbol -------------------------------------------------------------------------------------


class BookSync(Protocol):
    """One book kept in step with the exchange by its own rule; it does no I/O."""

    book: OrderBook

    @property
    def needs_snapshot(self) -> bool:
        """Whether the book waits for a snapshot."""

    def on_lost(self) -> None:
        """The connection is gone: wait for a snapshot."""

    def on_missing(self, ts_recv: int, was: int) -> list[Message]:
        """Say that an update did not come, or is unreadable; *was* is the number that came, 0 if unknown."""


class Market:
    """One symbol: what it is, its book, and what was seen of it."""

    __slots__ = ("count", "instrument", "is_announced", "prices", "sizes", "sync", "wire")

    def __init__(self, wire: str, instrument: Instrument, sync: Any, count: Count) -> None:
        self.wire = wire
        self.instrument = instrument
        self.is_announced = False
        self.prices, self.sizes = steps_of(instrument.tick_size), steps_of(instrument.lot_size)
        self.sync = sync  # a BookSync of the exchange's own, which knows what its own update is
        self.count = count


# --- One exchange -----------------------------------------------------------------------------------


class Feed(ABC):
    """
    Everything that arrives from one exchange, frame by frame, as kernel messages; it does no I/O.

    A symbol's Instrument comes before its first message. A frame of several symbols is counted
    once, for the last that it names.
    """

    def __init__(
        self, exchange: str, log: Any, *, tally: Tally | None = None, was_whole: bool = False
    ) -> None:
        """
        Args:
            log: a structlog logger; told of the first frame skipped for each reason.
            tally: counts to go on from.
            was_whole: an earlier feed had these books, so their first snapshots are resyncs.
        """
        self.exchange = exchange
        self.tally = tally or Tally()
        self.spoke_at = 0  # ts_recv of the last frame that named a symbol, ns
        self._log = log
        self._was_whole = was_whole
        self._instruments: dict[str, Instrument] = {}
        self._markets: dict[str, Market] = {}
        self._unnamed = self.tally.count("")
        self._counting = self._unnamed  # of the symbol that the frame being read names
        self._error: MalformedMessage | None = None  # what of it could not be read
        self._offset = Offset()
        self._count_books()

    # --- What an exchange writes ----------------------------------------------------------------

    @abstractmethod
    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        """Return what one frame says. Raises: MalformedMessage("reason: details")."""

    @abstractmethod
    def _reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        """Return what the REST reply to a GET of *url* says. Raises: MalformedMessage("reason: details")."""

    @abstractmethod
    def _sync(self, instrument: Instrument, was_whole: bool) -> BookSync:
        """Return the keeper of a new book."""

    @abstractmethod
    def symbol_of(self, wire: str) -> str:
        """Return the exchange's name of a market as ours. Raises: MalformedMessage: no such name."""

    @abstractmethod
    def wire_of(self, symbol: str) -> str:
        """Return our symbol as the exchange names it."""

    def _unlisted(self, wire: str) -> Instrument:
        """Return what is known of *wire* where no listing names it: a scale that holds any text."""
        symbol = self.symbol_of(wire)
        base, _, quote = symbol.partition("/")
        finest = UNIT // 10**8
        return Instrument(0, self.exchange, symbol, base, quote.partition("-")[0], finest, finest)

    def rest_book(self, ts_recv: int, url: str, raw: bytes) -> BookSnapshot | None:
        """
        Return the book in a REST reply, to compare with ours; None where the two cannot be compared.

        They can where both carry numbers of one sequence. Raises: MalformedMessage.
        """
        return None

    # --- What arrives ---------------------------------------------------------------------------

    def on_frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        """Take one frame; return what to publish."""
        self._counting = unnamed = self._unnamed
        self._error = None
        try:
            messages = self._frame(ts_recv, raw)
        except MalformedMessage as error:
            self._error, messages = error, []
        counting = self._counting
        counting.messages += 1
        if self._error:
            self._skip(self._error, raw)
        if counting is not unnamed:
            self.spoke_at = ts_recv
        for message in messages:
            kind = type(message)
            if kind in _TIMED:
                offset, ts_event = self._offset, message.ts_event  # type: ignore[attr-defined]
                if ts_event and (ts_recv - ts_event < offset.least or ts_recv >= offset.until):
                    offset.see(ts_recv, ts_event)
            elif kind in _NOTED:
                self._note(message)
        return messages

    def on_reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        """Take the REST reply to a GET of *url*, whatever its base; return what to publish."""
        # One input is one message of the tally, and skipped once however much of it cannot be read.
        self._counting, self._error = self._unnamed, None
        try:
            messages = self._reply(ts_recv, url, raw)
        except MalformedMessage as error:
            self._error, messages = error, []
        self._counting.messages += 1
        if self._error:
            self._skip(self._error, raw)
        for message in messages:
            self._note(message)
        return messages

    def on_unknown(self, reason: str, raw: bytes) -> None:
        """Count what is no frame and no reply that we know."""
        self._counting = self._unnamed
        self._counting.messages += 1
        self._skip(MalformedMessage(reason), raw)

    def on_lost(self) -> None:
        """The connection is gone: every book waits for a snapshot."""
        for market in self._markets.values():
            market.sync.on_lost()
        self._offset.reset()
        self._count_books()

    def distrust(self, ts_recv: int, wire: str) -> list[Message]:
        """Give up the book of *wire*, which was found to be wrong; return the SequenceGap that says so."""
        market = self._market(wire)
        messages: list[Message] = market.sync.on_missing(ts_recv, 0)
        for message in messages:
            self._note(message)
        return messages

    # --- What is known --------------------------------------------------------------------------

    def lists(self, wire: str) -> bool:
        """Whether the listing has named *wire*."""
        return wire in self._instruments

    @property
    def wires(self) -> list[str]:
        """The markets seen so far, as the exchange names them."""
        return list(self._markets)

    def needs_snapshot(self, wire: str) -> bool:
        """Whether the book of *wire* waits for a snapshot."""
        return bool(self._market(wire).sync.needs_snapshot)

    def book(self, wire: str) -> OrderBook:
        """Return the book of *wire* as it is now: look, do not touch."""
        book: OrderBook = self._market(wire).sync.book
        return book

    def summary(self, ts_recv: int) -> FeedSummarized:
        """Return the counts so far."""
        self.tally.clock_offset_ns = self._offset.ns
        return self.tally.summary(ts_recv, self.exchange)

    # --- Tools for an exchange ------------------------------------------------------------------

    def _market(self, wire: str) -> Market:
        # The market of *wire*, for whom the frame being read is counted from now on.
        if (market := self._markets.get(wire)) is None:
            instrument = self._instruments.get(wire) or self._unlisted(wire)
            sync = self._sync(instrument, self._was_whole)
            count = self.tally.count(instrument.symbol)
            market = self._markets[wire] = Market(wire, instrument, sync, count)
            self._count_books()
        self._counting = market.count
        return market

    @staticmethod
    def _announced(market: Market, ts_recv: int, messages: list[Message]) -> list[Message]:
        # *messages* with the market's Instrument before the first that it ever has.
        if market.is_announced or not messages:
            return messages
        market.is_announced = True
        return [msgspec.structs.replace(market.instrument, ts_recv=ts_recv), *messages]

    def _unread(self, market: Market, ts_recv: int, error: MalformedMessage) -> list[Message]:
        # A change of the book that cannot be read is one that did not come; the frame counts as skipped.
        self._error = error
        messages: list[Message] = market.sync.on_missing(ts_recv, 0)
        return messages

    def _unread_all(self, ts_recv: int, error: MalformedMessage) -> list[Message]:
        # The same where there is no telling which book the frame would have changed.
        self._error = error
        return [gap for market in self._markets.values() for gap in market.sync.on_missing(ts_recv, 0)]

    def _skip(self, error: MalformedMessage, raw: bytes) -> None:
        reason = str(error).partition(":")[0]
        self._counting.skipped += 1
        count = self.tally.reasons[reason] = self.tally.reasons.get(reason, 0) + 1
        if count == 1:
            self._log.warning("feed.frame_skipped", exchange=self.exchange, error=str(error), frame=raw[:200])

    def _note(self, message: Message) -> None:
        match message:
            case SequenceGap():
                self.tally.count(message.symbol).gaps += 1
            case ChecksumFailed():
                self.tally.count(message.symbol).checksums_bad += 1
            case BookCrossed():
                self.tally.count(message.symbol).crossed += 1
            case BookSnapshot() | BookResynced():
                pass
            case _:
                return
        self._count_books()

    def _count_books(self) -> None:
        # Kept in the tally, which outlives this feed; here whenever a book's state can have changed.
        books = [market.sync.book for market in self._markets.values()]
        self.tally.books = len(books)
        self.tally.valid_books = sum(book.state is BookState.VALID for book in books)
