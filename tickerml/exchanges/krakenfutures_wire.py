"""
Kraken Futures' wire format (WebSocket v1, REST v3): its frames and replies as kernel messages.

A frame names its feed and its product. A book comes whole over the socket and then one level at
a time, each with the next seq of its product:

    {"feed":"book_snapshot","product_id":"PF_XBTUSD","seq":7,"bids":[{"price":..,"qty":..}],...}
    {"feed":"book","product_id":"PF_XBTUSD","side":"sell","seq":8,"price":34981,"qty":0,"timestamp":..}

Prices and quantities are JSON numbers and are taken as the text that was sent. The side of a
trade is the taker's. The trades in a trade_snapshot happened before we were there: they are
published only where an earlier frame of this feed was missed between them and us, and block
trades, assignments and terminations, which meet no book, never.

A product is inverse (PI_, FI_: a contract is worth 1 of the quote asset) or linear (PF_, FF_:
a quantity of the base asset). Both are listed of the same pair, so an inverse one is named
so: PF_XBTUSD is "BTC/USD-PERP", PI_XBTUSD is "BTC/USD-PERP-INVERSE", and FI_XBTUSD_210924 is
"BTC/USD-20210924-INVERSE".

Funding is paid continuously at a rate that holds for an hour; relative rates are fractions of
the notional, and the listing bounds them. next_funding_rate_time is documented as what is left
until then and sent as an instant: both are understood.
Source: Kraken Futures API, "WebSocket: book, trade, ticker" and "REST: instruments, tickers".
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    UNIT,
    BookDelta,
    BookSnapshot,
    FundingUpdated,
    Instrument,
    MalformedMessage,
    Message,
    Quote,
    Side,
    Trade,
    pack_levels,
)

from .decimals import level, nearest_ticks, text_of, units
from .feed import Feed, Market, decoded, path_of
from .keeper import Keeper
from .symbols import INVERSE, PERPETUAL, kraken, to_kraken_v1

INTERVAL_S = 3600

_NAME = re.compile(r"([PF])([IF])_([A-Z0-9]+)([A-Z]{3})(?:_(\d{6}))?")
_INSTANT_MS = 10**11  # less than that is a span: 1973 as an instant, three years as a span

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Millis = Annotated[int, msgspec.Meta(ge=0, le=9_000_000_000_000)]  # the year 2255
_ZERO = msgspec.Raw(b"0")

_SIDES = {"buy": Side.BUY, "sell": Side.SELL}
_OF_THE_BOOK = frozenset({"fill", "liquidation"})
_EVENTS = frozenset({"info", "subscribed", "unsubscribed", "pong"})
_QUIET = frozenset({"heartbeat", "ticker_lite"})  # ticker_lite has prices without quantities

# The entry tier of the perpetuals: 0.02 % maker, 0.05 % taker.
_MAKER_PPM, _TAKER_PPM = 200, 500
_FEES_AS_OF = "2026-11-22"


class _Head(msgspec.Struct, gc=False):
    feed: str = ""
    event: str = ""
    product: str = msgspec.field(name="product_id", default="")


class _Level(msgspec.Struct, gc=False):
    price: msgspec.Raw
    quantity: msgspec.Raw = msgspec.field(name="qty")


class _Book(msgspec.Struct):
    seq: _Number
    timestamp: _Millis
    bids: list[_Level]
    asks: list[_Level]


class _Change(_Level, gc=False):
    side: str
    seq: _Number
    timestamp: _Millis = 0


class _Trade(_Level, gc=False):
    side: str
    seq: _Number
    time: _Millis
    type: str = "fill"


class _Trades(msgspec.Struct):
    trades: list[_Trade] = []


class _Ticker(msgspec.Struct, gc=False):
    time: _Millis
    bid: msgspec.Raw = _ZERO
    bid_size: msgspec.Raw = _ZERO
    ask: msgspec.Raw = _ZERO
    ask_size: msgspec.Raw = _ZERO
    tag: str = ""
    mark: msgspec.Raw = msgspec.field(name="markPrice", default=_ZERO)
    index: msgspec.Raw = _ZERO
    rate: msgspec.Raw = msgspec.field(name="relative_funding_rate", default=_ZERO)
    predicted: msgspec.Raw = msgspec.field(name="relative_funding_rate_prediction", default=_ZERO)
    next_ms: float = msgspec.field(name="next_funding_rate_time", default=0)


class _Listing(msgspec.Struct):
    symbol: str
    tick: msgspec.Raw = msgspec.field(name="tickSize", default=_ZERO)
    contract: msgspec.Raw = msgspec.field(name="contractSize", default=msgspec.Raw(b"1"))
    decimals: int = msgspec.field(name="contractValueTradePrecision", default=0)
    cap: msgspec.Raw = msgspec.field(name="maxRelativeFundingRate", default=_ZERO)


class _Instruments(msgspec.Struct):
    instruments: list[_Listing]


class _RestTicker(msgspec.Struct, gc=False):
    symbol: str
    tag: str = ""
    mark: msgspec.Raw = msgspec.field(name="markPrice", default=_ZERO)
    index: msgspec.Raw = msgspec.field(name="indexPrice", default=_ZERO)
    rate: float = msgspec.field(name="fundingRate", default=0.0)
    predicted: float = msgspec.field(name="fundingRatePrediction", default=0.0)


class _Tickers(msgspec.Struct):
    tickers: list[_RestTicker]


_heads = msgspec.json.Decoder(_Head)
_books = msgspec.json.Decoder(_Book)
_changes = msgspec.json.Decoder(_Change)
_trades = msgspec.json.Decoder(_Trade)
_snapshots = msgspec.json.Decoder(_Trades)
_tickers = msgspec.json.Decoder(_Ticker)
_instruments = msgspec.json.Decoder(_Instruments)
_rest_tickers = msgspec.json.Decoder(_Tickers)


# --- Names and instruments --------------------------------------------------------------------------


def to_symbol(wire: str) -> str:
    """Return "PF_XBTUSD" as "BTC/USD-PERP"; see the top. Raises: MalformedMessage: no such product."""
    if (found := _NAME.fullmatch(wire)) is None or (found[1] == "P") == bool(found[5]):
        raise MalformedMessage(f"unknown symbol: expected a product as PF_XBTUSD, was {wire[:32]!r}")
    until = f"-20{found[5]}" if found[5] else PERPETUAL
    return kraken(f"{found[3]}/{found[4]}") + until + (INVERSE if found[2] == "I" else "")


def to_wire(symbol: str) -> str:
    """Return "BTC/USD-PERP" as "PF_XBTUSD"."""
    pair, _, until = symbol.removesuffix(INVERSE).partition("-")
    is_dated = f"-{until}" != PERPETUAL
    kind = ("F" if is_dated else "P") + ("I" if symbol.endswith(INVERSE) else "F")
    return f"{kind}_{to_kraken_v1(pair).replace('/', '')}" + (f"_{until[2:]}" if is_dated else "")


def _instrument(exchange: str, wire: str, ts_recv: int, tick: int, lot: int) -> Instrument:
    symbol = to_symbol(wire)
    base, _, quote = symbol.partition("/")
    return Instrument(
        ts_recv,
        exchange,
        symbol,
        base,
        quote.partition("-")[0],
        tick,
        lot,
        maker_fee_ppm=_MAKER_PPM,
        taker_fee_ppm=_TAKER_PPM,
        fees_as_of=_FEES_AS_OF,
        contract="inverse" if symbol.endswith(INVERSE) else "linear",
    )


class Listed(NamedTuple):
    """One product of the listing: what it is, and the bound of its funding in units of 1e-12 an hour."""

    instrument: Instrument
    cap: int


def parse_instruments(raw: bytes, exchange: str, ts_recv: int) -> dict[str, Listed]:
    """
    Return the products of a reply to /instruments by the exchange's names; others than futures are left out.

    Fees are the entry tier's, dated. Raises: MalformedMessage.
    """
    listed: dict[str, Listed] = {}
    for listing in decoded(_instruments, raw).instruments:
        wire = listing.symbol.upper()
        if not _NAME.fullmatch(wire):
            continue
        tick, contract = units(text_of(listing.tick)), units(text_of(listing.contract))
        shift = 10 ** abs(listing.decimals)
        lot = contract // shift if listing.decimals >= 0 else contract * shift
        if tick <= 0 or lot <= 0:
            raise MalformedMessage(
                f"malformed listing: expected steps above 0, was {tick} and {lot} of {wire}"
            )
        listed[wire] = Listed(_instrument(exchange, wire, ts_recv, tick, lot), units(text_of(listing.cap)))
    return listed


# --- Frames -----------------------------------------------------------------------------------------


def _side(text: str) -> Side:
    if (side := _SIDES.get(text)) is None:
        raise MalformedMessage(f"malformed frame: expected a side of buy or sell, was {text[:16]!r}")
    return side


def _packed(book_levels: list[_Level], instrument: Instrument) -> bytes:
    return pack_levels(level(instrument, text_of(each.price), text_of(each.quantity)) for each in book_levels)


def parse_snapshot(raw: bytes, instrument: Instrument, ts_recv: int) -> BookSnapshot:
    """Return a book_snapshot. Raises: MalformedMessage."""
    book = decoded(_books, raw)
    return BookSnapshot(
        ts_recv,
        book.timestamp * NS_PER_MS,
        instrument.exchange,
        instrument.symbol,
        book.seq,
        _packed(book.bids, instrument),
        _packed(book.asks, instrument),
    )


def parse_change(raw: bytes, instrument: Instrument, ts_recv: int) -> BookDelta:
    """Return a book frame: one level. Raises: MalformedMessage."""
    change = decoded(_changes, raw)
    packed = pack_levels([level(instrument, text_of(change.price), text_of(change.quantity))])
    is_bid = _side(change.side) is Side.BUY
    return BookDelta(
        ts_recv,
        change.timestamp * NS_PER_MS,
        instrument.exchange,
        instrument.symbol,
        change.seq,
        packed if is_bid else b"",
        b"" if is_bid else packed,
    )


def _traded(trade: _Trade, instrument: Instrument, ts_recv: int) -> Trade:
    price, quantity = level(instrument, text_of(trade.price), text_of(trade.quantity))
    return Trade(
        ts_recv,
        trade.time * NS_PER_MS,
        instrument.exchange,
        instrument.symbol,
        trade.seq,
        price,
        quantity,
        _side(trade.side),
    )


def _quote(ticker: _Ticker, instrument: Instrument, ts_recv: int) -> list[Message]:
    bid, bid_quantity = level(instrument, text_of(ticker.bid), text_of(ticker.bid_size))
    ask, ask_quantity = level(instrument, text_of(ticker.ask), text_of(ticker.ask_size))
    if not (bid and ask):
        return []
    ts_event = ticker.time * NS_PER_MS
    return [
        Quote(
            ts_recv,
            ts_event,
            instrument.exchange,
            instrument.symbol,
            0,
            bid,
            bid_quantity,
            ask,
            ask_quantity,
        )
    ]


def _funding(ticker: _Ticker, instrument: Instrument, ts_recv: int, cap: int) -> FundingUpdated:
    ts_event, next_ns = ticker.time * NS_PER_MS, round(ticker.next_ms) * NS_PER_MS
    if 0 < ticker.next_ms < _INSTANT_MS:
        next_ns += ts_event
    return FundingUpdated(
        ts_recv,
        ts_event,
        instrument.exchange,
        instrument.symbol,
        nearest_ticks(instrument, text_of(ticker.mark)),
        nearest_ticks(instrument, text_of(ticker.index)),
        units(text_of(ticker.rate)),
        units(text_of(ticker.predicted)),
        next_ns,
        INTERVAL_S,
        cap,
        -cap,
    )


# --- One exchange -----------------------------------------------------------------------------------


class KrakenFuturesFeed(Feed):
    """Everything that arrives from Kraken Futures, as kernel messages; it does no I/O."""

    def __init__(self, exchange: str, log: Any, **how: Any) -> None:
        """As Feed."""
        super().__init__(exchange, log, **how)
        self._caps: dict[str, int] = {}  # by wire
        self._traded: dict[str, int] = {}  # the last trade's seq by wire
        self._readers: dict[str, Callable[[int, Market, bytes], list[Message]]] = {
            "book": self._on_change,
            "book_snapshot": self._on_snapshot,
            "trade": self._on_trade,
            "trade_snapshot": self._on_trades,
            "ticker": self._on_ticker,
        }

    def symbol_of(self, wire: str) -> str:
        return to_symbol(wire)

    def wire_of(self, symbol: str) -> str:
        return to_wire(symbol)

    def _unlisted(self, wire: str) -> Instrument:
        lot = UNIT if wire[1:2] == "I" else UNIT // 10**8
        return _instrument(self.exchange, wire, 0, UNIT // 10**8, lot)

    def _sync(self, instrument: Instrument, was_whole: bool) -> Keeper:
        return Keeper(instrument.exchange, instrument.symbol, was_whole=was_whole)

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        head = decoded(_heads, raw)
        if head.event:
            if head.event in _EVENTS:
                return []
            raise MalformedMessage(f"error frame: {raw[:200]!r}")
        if (read := self._readers.get(head.feed)) is None:
            if head.feed in _QUIET:
                return []
            raise MalformedMessage(f"unsupported stream: {head.feed[:64]}")
        market = self._market(head.product)
        return self._announced(market, ts_recv, read(ts_recv, market, raw))

    def _on_change(self, ts_recv: int, market: Market, raw: bytes) -> list[Message]:
        keeper: Keeper = market.sync
        try:
            return keeper.on_delta(parse_change(raw, market.instrument, ts_recv))
        except MalformedMessage as error:
            return self._unread(market, ts_recv, error)

    def _on_snapshot(self, ts_recv: int, market: Market, raw: bytes) -> list[Message]:
        keeper: Keeper = market.sync
        try:
            snapshot = parse_snapshot(raw, market.instrument, ts_recv)
        except MalformedMessage as error:
            return self._unread(market, ts_recv, error)
        is_old = not keeper.needs_snapshot and snapshot.seq <= keeper.book.seq
        return [] if is_old else keeper.on_snapshot(snapshot)

    def _on_trade(self, ts_recv: int, market: Market, raw: bytes) -> list[Message]:
        return self._trades(ts_recv, market, [decoded(_trades, raw)])

    def _on_trades(self, ts_recv: int, market: Market, raw: bytes) -> list[Message]:
        trades = sorted(decoded(_snapshots, raw).trades, key=lambda trade: trade.seq)
        if market.wire not in self._traded:
            self._traded[market.wire] = trades[-1].seq if trades else 0
        return self._trades(ts_recv, market, trades)

    def _trades(self, ts_recv: int, market: Market, trades: list[_Trade]) -> list[Message]:
        # Those after the last one known: a frame may be repeated, and a snapshot overlaps it.
        last = self._traded.get(market.wire, 0)
        new = [trade for trade in trades if trade.seq > last]
        if new:
            self._traded[market.wire] = new[-1].seq
        return [_traded(trade, market.instrument, ts_recv) for trade in new if trade.type in _OF_THE_BOOK]

    def _on_ticker(self, ts_recv: int, market: Market, raw: bytes) -> list[Message]:
        ticker = decoded(_tickers, raw)
        messages = _quote(ticker, market.instrument, ts_recv)
        if ticker.tag == "perpetual":
            cap = self._caps.get(market.wire, 0)
            messages.append(_funding(ticker, market.instrument, ts_recv, cap))
        return messages

    # --- REST -----------------------------------------------------------------------------------

    def _reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        path = path_of(url)
        if path.endswith("/instruments"):
            listed = parse_instruments(raw, self.exchange, ts_recv)
            self._instruments |= {wire: each.instrument for wire, each in listed.items()}
            self._caps |= {wire: each.cap for wire, each in listed.items()}
            return []
        if path.endswith("/tickers"):
            return self._on_tickers(ts_recv, raw)
        raise MalformedMessage(f"unsupported request: {path[:64]}")

    def _on_tickers(self, ts_recv: int, raw: bytes) -> list[Message]:
        messages: list[Message] = []
        for ticker in decoded(_rest_tickers, raw).tickers:
            if ticker.tag == "perpetual" and ticker.symbol in self._markets:
                market = self._markets[ticker.symbol]
                funding = self._rest_funding(market, ticker, ts_recv)
                messages += self._announced(market, ts_recv, [funding])
        return messages

    def _rest_funding(self, market: Market, ticker: _RestTicker, ts_recv: int) -> FundingUpdated:
        # REST has absolute rates: of the base asset for 1 of the quote where a contract is inverse,
        # of the quote asset for 1 of the base where it is linear. The index makes them relative.
        instrument, cap = market.instrument, self._caps.get(market.wire, 0)
        index = nearest_ticks(instrument, text_of(ticker.index))
        whole = index * instrument.tick_size / UNIT
        scale = whole if instrument.contract == "inverse" else (1 / whole if whole else 0.0)
        return FundingUpdated(
            ts_recv,
            0,
            instrument.exchange,
            instrument.symbol,
            nearest_ticks(instrument, text_of(ticker.mark)),
            index,
            round(ticker.rate * scale * UNIT),
            round(ticker.predicted * scale * UNIT),
            0,
            INTERVAL_S,
            cap,
            -cap,
        )
