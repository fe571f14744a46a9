"""
The Binance family's spot wire format, and the one way into it for live feeds and captures.

Two rooms, from the wire inwards. The `parse_*` functions are pure: bytes in, kernel
messages out. SpotFeed gives what they return to one DepthSync a symbol
(binance_sync.py); it counts every frame, skips what it cannot read with a reason, and
never raises for bad data. Neither knows of sockets or files, so what is tested on a
recording is what runs live.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    UNIT,
    BookCrossed,
    BookDelta,
    BookSnapshot,
    BookState,
    FeedSummarized,
    Grid,
    Instrument,
    MalformedMessage,
    Message,
    Quote,
    SequenceGap,
    Side,
    Trade,
    pack_levels,
    to_units,
)

from .binance_sync import DepthSync, DepthUpdate

# --- Symbols --------------------------------------------------------------------------------------

#: Longest first.
QUOTE_ASSETS = ("FDUSD", "USDT", "USDC", "BUSD", "USD", "BTC", "ETH", "BNB", "EUR", "GBP", "TRY", "BRL")

# BNBUSD is BNB/USD, yet its longest quote asset is BUSD. (TUSD is left out of QUOTE_ASSETS for
# the same reason: too many assets end in T.)
_BASES_ENDING_IN_B = frozenset({"ARB", "BNB", "SHIB", "TRB"})


def to_symbol(wire: str) -> str:
    """
    Return the exchange's "BTCUSDT" as "BTC/USDT", split at the longest quote asset that fits.

    Raises: MalformedMessage: it ends in no quote asset we know.
    """
    for quote in QUOTE_ASSETS:
        base = wire.removesuffix(quote)
        if base and base != wire and not (quote == "BUSD" and base + "B" in _BASES_ENDING_IN_B):
            return f"{base}/{quote}"
    raise MalformedMessage(f"unknown symbol: expected a known quote asset at its end, was {wire[:32]!r}")


def to_wire(symbol: str) -> str:
    """Return "BTC/USDT" as the exchange's "BTCUSDT"."""
    return symbol.replace("/", "")


# --- Instruments ----------------------------------------------------------------------------------

# Where nothing is known of a symbol, this scale holds any text the exchange sends.
_FINEST = UNIT // 10**8

# A book keeps orders placed under older, finer steps: nine quantities of the 2024 captures have one
# decimal more than the step of their day. So lots are counted this much finer than a step, where the
# asset's precision allows, and min_quantity carries the rule for new orders.
_LOTS_PER_STEP = 1000


class Rules(NamedTuple):
    """One symbol's steps and limits as decimal text; lots of the smallest order."""

    tick: str
    lot: str
    min_quantity: int
    min_notional: str


#: (exchange, symbol) -> its rules, where no exchangeInfo says better. Lots are one decimal finer
#: than today's order step on Binance, for the reason at _LOTS_PER_STEP.
DEFAULT_RULES: dict[tuple[str, str], Rules] = {
    ("binance", "BTC/USDT"): Rules("0.01", "0.000001", 10, "5"),
    ("binance", "ETH/USDT"): Rules("0.01", "0.00001", 10, "5"),
    ("binance", "BTC/USD"): Rules("0.01", "0.000001", 10, "5"),
    ("binance", "ETH/USD"): Rules("0.01", "0.00001", 10, "5"),
    ("binanceus", "BTC/USDT"): Rules("0.01", "0.000001", 1, "10"),
    ("binanceus", "ETH/USDT"): Rules("0.01", "0.00001", 1, "10"),
    ("binanceus", "BTC/USD"): Rules("0.01", "0.000001", 1, "10"),
    ("binanceus", "ETH/USD"): Rules("0.01", "0.00001", 1, "10"),
}

# Both exchanges' entry tier, without discounts: 0.10 % either way.
_FEE_PPM = 1000
_FEES_AS_OF = "2026-11-22"


def default_instrument(exchange: str, wire: str) -> Instrument:
    """
    Return what is known of *wire* ("BTCUSDT") without asking: DEFAULT_RULES, else a scale of 1e-8.

    Raises: MalformedMessage: the symbol cannot be split.
    """
    symbol = to_symbol(wire)
    base, quote = symbol.split("/")
    rules = DEFAULT_RULES.get((exchange, symbol), Rules("0.00000001", "0.00000001", 1, "0"))
    return Instrument(
        0,
        exchange,
        symbol,
        base,
        quote,
        to_units(rules.tick),
        to_units(rules.lot),
        rules.min_quantity,
        min_notional=to_units(rules.min_notional),
        maker_fee_ppm=_FEE_PPM,
        taker_fee_ppm=_FEE_PPM,
        fees_as_of=_FEES_AS_OF,
    )


class _Filter(msgspec.Struct, gc=False):
    type: str = msgspec.field(name="filterType", default="")
    tick: str = msgspec.field(name="tickSize", default="0")
    step: str = msgspec.field(name="stepSize", default="0")
    min_quantity: str = msgspec.field(name="minQty", default="0")
    max_quantity: str = msgspec.field(name="maxQty", default="0")
    min_notional: str = msgspec.field(name="minNotional", default="0")


class _Listing(msgspec.Struct):
    symbol: str
    base: str = msgspec.field(name="baseAsset")
    quote: str = msgspec.field(name="quoteAsset")
    precision: int = msgspec.field(name="baseAssetPrecision", default=8)
    filters: list[_Filter] = []


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Listing]


_NO_FILTER = _Filter()


def _listed(exchange: str, listing: _Listing, ts_recv: int) -> Instrument:
    filters = {found.type: found for found in listing.filters}
    size = filters.get("LOT_SIZE", _NO_FILTER)
    notional = filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL") or _NO_FILTER
    tick = to_units(filters.get("PRICE_FILTER", _NO_FILTER).tick) or _FINEST
    step = to_units(size.step) or _FINEST
    lot = max(step // _LOTS_PER_STEP, UNIT // 10**listing.precision)
    lot = lot if step % lot == 0 else step
    return Instrument(
        ts_recv,
        exchange,
        f"{listing.base}/{listing.quote}",
        listing.base,
        listing.quote,
        tick,
        lot,
        max(1, to_units(size.min_quantity) // lot),
        to_units(size.max_quantity) // lot,
        to_units(notional.min_notional),
        _FEE_PPM,
        _FEE_PPM,
        _FEES_AS_OF,
    )


def parse_exchange_info(raw: bytes, exchange: str, ts_recv: int) -> dict[str, Instrument]:
    """
    Return the instruments of a REST exchangeInfo reply by the exchange's name for them.

    Fees are not in it: they are the entry tier's, dated. Raises: MalformedMessage.
    """
    try:
        info = msgspec.json.decode(raw, type=_ExchangeInfo)
        return {listing.symbol: _listed(exchange, listing, ts_recv) for listing in info.symbols}
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedMessage(f"malformed exchangeInfo: {error}") from None


# --- Frames ---------------------------------------------------------------------------------------

# Bounds keep a corrupt number from travelling on as one that no codec can carry.
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Millis = Annotated[int, msgspec.Meta(ge=0, le=9_000_000_000_000)]  # the year 2255
_INT64 = 2**63
_Levels = list[tuple[str, str]]
_NOTHING = msgspec.Raw(b"")


class _Envelope(msgspec.Struct, gc=False):
    stream: str = ""
    data: msgspec.Raw = _NOTHING
    error: msgspec.Raw = _NOTHING
    result: msgspec.Raw = _NOTHING


class _Depth(msgspec.Struct):
    E: _Millis
    U: _Number
    u: _Number
    b: _Levels
    a: _Levels
    pu: int | None = None


class _Trade(msgspec.Struct, gc=False):
    t: _Number
    p: str
    q: str
    T: _Millis
    m: bool


class _AggTrade(_Trade, gc=False):
    t: _Number = msgspec.field(name="a")


class _BookTicker(msgspec.Struct, gc=False):
    u: _Number
    b: str
    B: str
    a: str
    A: str
    E: _Millis = 0


class _RestDepth(msgspec.Struct):
    last_update_id: _Number = msgspec.field(name="lastUpdateId")
    bids: _Levels
    asks: _Levels


_envelopes = msgspec.json.Decoder(_Envelope)
_depths = msgspec.json.Decoder(_Depth)
_trades = msgspec.json.Decoder(_Trade)
_agg_trades = msgspec.json.Decoder(_AggTrade)
_book_tickers = msgspec.json.Decoder(_BookTicker)
_rest_depths = msgspec.json.Decoder(_RestDepth)

_T = TypeVar("_T")


def _decode(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    try:
        decoded = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"malformed frame: {error}") from None
    if b'"-' in data:  # the one way to write a negative number as text
        raise MalformedMessage("malformed frame: expected no negative price or quantity")
    return decoded


@lru_cache(maxsize=256)
def _parser(step: int) -> Callable[[str], int]:
    return Grid(step).parse


def _level(instrument: Instrument, price: str, quantity: str) -> tuple[int, int]:
    try:
        level = _parser(instrument.tick_size)(price), _parser(instrument.lot_size)(quantity)
    except (ValueError, OverflowError) as error:
        raise MalformedMessage(f"number off the grid: {instrument.symbol}: {error}") from None
    if level[0] >= _INT64 or level[1] >= _INT64:
        raise MalformedMessage(f"number off the grid: {instrument.symbol}: too large for 64 bits")
    return level


def _pack(levels: _Levels, instrument: Instrument) -> bytes:
    price, quantity = _parser(instrument.tick_size), _parser(instrument.lot_size)
    try:
        return pack_levels([(price(p), quantity(q)) for p, q in levels])
    except (ValueError, OverflowError) as error:
        raise MalformedMessage(f"number off the grid: {instrument.symbol}: {error}") from None


def split_frame(raw: bytes) -> tuple[str, bytes]:
    """
    Return the stream's name and the data of a combined-stream frame; ("", b"") for a reply to a request.

    Raises: MalformedMessage: no such frame, or an error of the exchange.
    """
    try:
        envelope = _envelopes.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"malformed frame: {error}") from None
    if envelope.stream:
        return envelope.stream, bytes(envelope.data)
    if envelope.error != _NOTHING:
        raise MalformedMessage(f"error frame: {bytes(envelope.error)[:200]!r}")
    if envelope.result != _NOTHING:
        return "", b""
    raise MalformedMessage(f'malformed frame: expected {{"stream", "data"}}, was {raw[:80]!r}')


def parse_depth(data: bytes, instrument: Instrument, ts_recv: int) -> DepthUpdate:
    """Return a depthUpdate's changed levels. Raises: MalformedMessage."""
    depth = _decode(_depths, data)
    if depth.pu is not None:
        raise MalformedMessage("unsupported stream: a futures depth update (it has pu), only spot is known")
    if depth.u < depth.U:
        raise MalformedMessage(f"malformed frame: expected U <= u, was {depth.U} and {depth.u}")
    bids, asks = _pack(depth.b, instrument), _pack(depth.a, instrument)
    delta = BookDelta(
        ts_recv, depth.E * NS_PER_MS, instrument.exchange, instrument.symbol, depth.u, bids, asks
    )
    return DepthUpdate(depth.U, delta)


def _trade(trade: _Trade, instrument: Instrument, ts_recv: int) -> Trade:
    price, quantity = _level(instrument, trade.p, trade.q)
    # m: the buyer was the maker, so the seller came and took.
    aggressor = Side.SELL if trade.m else Side.BUY
    return Trade(
        ts_recv,
        trade.T * NS_PER_MS,
        instrument.exchange,
        instrument.symbol,
        trade.t,
        price,
        quantity,
        aggressor,
    )


def parse_trade(data: bytes, instrument: Instrument, ts_recv: int) -> Trade:
    """Return a trade, ts_event the trade time T, seq the trade number t. Raises: MalformedMessage."""
    return _trade(_decode(_trades, data), instrument, ts_recv)


def parse_agg_trade(data: bytes, instrument: Instrument, ts_recv: int) -> Trade:
    """Return an aggTrade (one taker's fills at one price) as a Trade, its seq a. Raises: MalformedMessage."""
    return _trade(_decode(_agg_trades, data), instrument, ts_recv)


def parse_book_ticker(data: bytes, instrument: Instrument, ts_recv: int) -> Quote:
    """Return a bookTicker; spot gives it no time, so ts_event is 0. Raises: MalformedMessage."""
    ticker = _decode(_book_tickers, data)
    bid, bid_quantity = _level(instrument, ticker.b, ticker.B)
    ask, ask_quantity = _level(instrument, ticker.a, ticker.A)
    return Quote(
        ts_recv,
        ticker.E * NS_PER_MS,
        instrument.exchange,
        instrument.symbol,
        ticker.u,
        bid,
        bid_quantity,
        ask,
        ask_quantity,
    )


def parse_snapshot(raw: bytes, instrument: Instrument, ts_recv: int) -> BookSnapshot:
    """Return a REST depth reply; it has no time, so ts_event is 0. Raises: MalformedMessage."""
    depth = _decode(_rest_depths, raw)
    return BookSnapshot(
        ts_recv,
        0,
        instrument.exchange,
        instrument.symbol,
        depth.last_update_id,
        _pack(depth.bids, instrument),
        _pack(depth.asks, instrument),
    )


# --- One exchange ---------------------------------------------------------------------------------

_Parser = Callable[[bytes, Instrument, int], Message]

_PARSERS: dict[str, _Parser] = {
    "trade": parse_trade,
    "aggTrade": parse_agg_trade,
    "bookTicker": parse_book_ticker,
}


class _Market:
    # One symbol: what it is, and its book.
    __slots__ = ("instrument", "is_announced", "sync")

    def __init__(self, instrument: Instrument, was_whole: bool) -> None:
        self.instrument = instrument
        self.is_announced = False
        self.sync = DepthSync(instrument.exchange, instrument.symbol, was_whole=was_whole)


class Tally(msgspec.Struct, array_like=True):
    """
    What a feed has seen: frames and REST replies, those skipped and why, gaps, crossed books.

    And what it has: books is how many it keeps, valid_books how many of them are VALID now.
    """

    messages: int = 0
    skipped: int = 0
    gaps: int = 0
    crossed_books: int = 0
    reasons: dict[str, int] = {}
    books: int = 0
    valid_books: int = 0

    def summary(self, ts_recv: int, exchange: str) -> FeedSummarized:
        """Return the counts so far."""
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
        )


class SpotFeed:
    """
    Everything that arrives from one exchange, frame by frame, as kernel messages; it does no I/O.

    A symbol's Instrument comes before its first message.
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
        self._log = log
        self._was_whole = was_whole
        self._instruments: dict[str, Instrument] = {}
        self._markets: dict[str, _Market] = {}
        self._routes: dict[str, tuple[_Market, _Parser | None]] = {}
        self._count_books()

    def lists(self, wire: str) -> bool:
        """Whether exchangeInfo has named *wire* ("BTCUSDT")."""
        return wire in self._instruments

    def needs_snapshot(self, wire: str) -> bool:
        """Whether the book of *wire* waits for a REST snapshot."""
        return self._market(wire).sync.needs_snapshot

    def on_frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        """Take one frame of the combined stream; return what to publish."""
        self.tally.messages += 1
        try:
            stream, data = split_frame(raw)
            if not stream:
                return []
            market, parse = self._routes.get(stream) or self._route(stream)
            if parse is None:
                messages = self._depth(market, data, ts_recv)
            else:
                messages = [parse(data, market.instrument, ts_recv)]
        except MalformedMessage as error:
            return self._skip(error, raw)
        return messages if market.is_announced else self._announce(market, ts_recv, messages)

    def _depth(self, market: _Market, data: bytes, ts_recv: int) -> list[Message]:
        try:
            update = parse_depth(data, market.instrument, ts_recv)
        except MalformedMessage as error:
            self._skip(error, data)
            return self._counted(market.sync.on_missing(ts_recv, 0))
        return self._counted(market.sync.on_depth(update))

    def _counted(self, messages: list[Message]) -> list[Message]:
        for message in messages:
            if isinstance(message, SequenceGap):
                self.tally.gaps += 1
            elif isinstance(message, BookCrossed):
                self.tally.crossed_books += 1
            if isinstance(message, SequenceGap | BookSnapshot):
                self._count_books()
        return messages

    def _count_books(self) -> None:
        # Kept in the tally, which outlives this feed; here whenever a book's state can have changed.
        books = [market.sync.book for market in self._markets.values()]
        self.tally.books = len(books)
        self.tally.valid_books = sum(book.state is BookState.VALID for book in books)

    def on_snapshot(self, ts_recv: int, wire: str, raw: bytes) -> list[Message]:
        """Take the REST depth reply for *wire*; return what to publish."""
        self.tally.messages += 1
        try:
            market = self._market(wire)
            snapshot = parse_snapshot(raw, market.instrument, ts_recv)
        except MalformedMessage as error:
            return self._skip(error, raw)
        messages = self._counted(market.sync.on_snapshot(snapshot))
        return messages if market.is_announced else self._announce(market, ts_recv, messages)

    def on_exchange_info(self, ts_recv: int, raw: bytes) -> None:
        """Take a REST exchangeInfo reply; a symbol in use keeps the scale it has."""
        self.tally.messages += 1
        try:
            self._instruments |= parse_exchange_info(raw, self.exchange, ts_recv)
        except MalformedMessage as error:
            self._skip(error, raw)

    def on_unknown(self, reason: str, raw: bytes) -> None:
        """Count what is no frame and no reply that we know."""
        self.tally.messages += 1
        self._skip(MalformedMessage(reason), raw)

    def on_lost(self) -> None:
        """The connection is gone: every book waits for a snapshot."""
        for market in self._markets.values():
            market.sync.on_lost()
        self._count_books()

    def summary(self, ts_recv: int) -> FeedSummarized:
        """Return the counts so far."""
        return self.tally.summary(ts_recv, self.exchange)

    def _skip(self, error: MalformedMessage, raw: bytes) -> list[Message]:
        reason = str(error).partition(":")[0]
        self.tally.skipped += 1
        count = self.tally.reasons[reason] = self.tally.reasons.get(reason, 0) + 1
        if count == 1:
            self._log.warning("feed.frame_skipped", exchange=self.exchange, error=str(error), frame=raw[:200])
        return []

    def _market(self, wire: str) -> _Market:
        if (market := self._markets.get(wire)) is None:
            instrument = self._instruments.get(wire) or default_instrument(self.exchange, wire)
            market = self._markets[wire] = _Market(instrument, self._was_whole)
            self._count_books()
        return market

    def _route(self, stream: str) -> tuple[_Market, _Parser | None]:
        wire, _, kind = stream.partition("@")
        is_depth = kind.split("@")[0] == "depth"
        if not is_depth and kind not in _PARSERS:
            raise MalformedMessage(f"unsupported stream: {stream[:64]}")
        route = self._market(wire.upper()), None if is_depth else _PARSERS[kind]
        self._routes[stream] = route
        return route

    @staticmethod
    def _announce(market: _Market, ts_recv: int, messages: list[Message]) -> list[Message]:
        if not messages:
            return messages
        market.is_announced = True
        return [msgspec.structs.replace(market.instrument, ts_recv=ts_recv), *messages]
