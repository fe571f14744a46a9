"""
Coinbase's wire formats: Advanced Trade as it is sent today, and the older Exchange feed of captures.

Every Advanced frame has the same envelope, and sequence_num counts the frames of the
connection across all its channels:

    {"channel":"l2_data","timestamp":...,"sequence_num":7,"events":[{"type":"update","product_id":...}]}

So one number that is missing may have been a change of any book, and every book is given up;
the socket brings a new snapshot to whoever subscribes to level2 again. A frame that comes
twice, or late, is known by its number and left out.

The Exchange feed's level2 channel numbers nothing. Its trades do: trade_id counts the trades
of a product, and one that is missing says that the connection lost something.

On both feeds the side of a trade is the maker's, so the aggressor is the other.
Source: Coinbase developer documentation, Advanced Trade WebSocket channels; Exchange WebSocket
channels, "match"; Exchange API, "Get product trades", on what side means.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

from tickerml.kernel import (
    UNIT,
    BookSnapshot,
    BookState,
    Instrument,
    MalformedMessage,
    Message,
    Quote,
    SequenceGap,
    Side,
    Trade,
    pack_levels,
)

from .decimals import level, off_grid, units
from .feed import Feed, Market, decoded, path_of
from .keeper import Keeper
from .symbols import dashed, to_dashed
from .times import rfc3339_to_ns

# The entry tier: 0.60 % and 1.20 %.
_MAKER_PPM, _TAKER_PPM = 6000, 12000
_FEES_AS_OF = "2026-11-22"

# The price step where no listing names a product: finer than any that Coinbase has.
_FINEST_TICK = UNIT // 10**10
_FINEST_LOT = UNIT // 10**8
_CENTS = {"BTC/USD", "ETH/USD", "BTC/USDT", "ETH/USDT"}

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_AGGRESSORS = {"BUY": Side.SELL, "SELL": Side.BUY, "buy": Side.SELL, "sell": Side.BUY}
_BIDS = frozenset({"bid", "buy"})
_RESYNCING = BookState.RESYNCING
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


# --- Instruments ------------------------------------------------------------------------------------


class _Product(msgspec.Struct):
    # Advanced names its fields by product_id, price_increment ...; the Exchange by id, quote_increment ...
    product_id: str = ""
    id: str = ""
    base_increment: str = ""
    quote_increment: str = ""
    price_increment: str = ""
    base_min_size: str = ""
    base_max_size: str = ""
    quote_min_size: str = ""
    min_market_funds: str = ""
    product_type: str = "SPOT"


class _Products(msgspec.Struct):
    products: list[_Product]


_products: msgspec.json.Decoder[_Products | list[_Product]] = msgspec.json.Decoder(_Products | list[_Product])


def _instrument(exchange: str, wire: str, ts_recv: int, product: _Product) -> Instrument:
    symbol = dashed(wire)
    base, quote = symbol.split("/")
    finest = UNIT // 100 if symbol in _CENTS else _FINEST_TICK
    lot = units(product.base_increment) or _FINEST_LOT
    return Instrument(
        ts_recv,
        exchange,
        symbol,
        base,
        quote,
        units(product.price_increment) or units(product.quote_increment) or finest,
        lot,
        max(1, -(-units(product.base_min_size) // lot)),
        units(product.base_max_size, bits=127) // lot,
        units(product.quote_min_size) or units(product.min_market_funds),
        _MAKER_PPM,
        _TAKER_PPM,
        _FEES_AS_OF,
    )


def parse_products(raw: bytes, exchange: str, ts_recv: int) -> dict[str, Instrument]:
    """
    Return the spot instruments of a REST products reply, of either API, by product ("BTC-USD").

    Fees are not in it: they are the entry tier's, dated. Raises: MalformedMessage.
    """
    reply = decoded(_products, raw)
    products = reply.products if isinstance(reply, _Products) else reply
    spot = [product for product in products if product.product_type == "SPOT"]
    return {
        (wire := product.product_id or product.id): _instrument(exchange, wire, ts_recv, product)
        for product in spot
    }


# --- What both feeds share --------------------------------------------------------------------------


class _CoinbaseFeed(Feed):
    def __init__(self, exchange: str, log: Any, **settings: Any) -> None:
        """
        Args:
            exchange, log, settings: Feed's.
        """
        super().__init__(exchange, log, **settings)
        self._last_trades: dict[str, int] = {}

    def symbol_of(self, wire: str) -> str:
        return dashed(wire)

    def wire_of(self, symbol: str) -> str:
        return to_dashed(symbol)

    def _sync(self, instrument: Instrument, was_whole: bool) -> Keeper:
        return Keeper(instrument.exchange, instrument.symbol, was_whole=was_whole)

    def _unlisted(self, wire: str) -> Instrument:
        return _instrument(self.exchange, wire, 0, _Product())

    def _reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        if not path_of(url).endswith("/products"):
            raise MalformedMessage(f"unsupported request: {url[:200]}")
        self._instruments |= parse_products(raw, self.exchange, ts_recv)
        return []

    def _keep(
        self,
        market: Market,
        ts_recv: int,
        time: str,
        is_snapshot: bool,
        number: int,
        changes: Iterable["_Update | _Change"],
    ) -> list[Message]:
        # Give a book its snapshot or update.
        sync: Keeper = market.sync
        prices, sizes = market.prices, market.sizes
        bids: list[tuple[int, int]] = []
        asks: list[tuple[int, int]] = []
        try:
            for each in changes:
                pair = prices[each.price_level], sizes[each.new_quantity]
                (bids if each.side in _BIDS else asks).append(pair)
            ts_event = rfc3339_to_ns(time)
        except MalformedMessage as error:
            return self._unread(market, ts_recv, error)
        except (ValueError, OverflowError) as error:
            return self._unread(market, ts_recv, off_grid(market.instrument, error))
        if is_snapshot:
            sides = pack_levels(bids), pack_levels(asks)
            symbol = market.instrument.symbol
            whole = BookSnapshot(ts_recv, ts_event, self.exchange, symbol, number, *sides)
            messages = sync.on_snapshot(whole)
        elif sync.book.state is _RESYNCING:
            return []
        else:
            messages = sync.on_next(ts_recv, ts_event, number, bids, asks)
        return messages if market.is_announced else self._announced(market, ts_recv, messages)

    def _trade(
        self, market: Market, ts_recv: int, time: str, number: int, price: str, quantity: str, side: str
    ) -> Trade:
        if (aggressor := _AGGRESSORS.get(side)) is None:
            raise MalformedMessage(f"malformed frame: expected the side buy or sell, was {side[:32]!r}")
        ticks, lots = level(market.instrument, price, quantity)
        symbol = market.instrument.symbol
        return Trade(ts_recv, rfc3339_to_ns(time), self.exchange, symbol, number, ticks, lots, aggressor)

    def _quote(
        self, market: Market, ts_recv: int, time: str, number: int, best: tuple[str, str, str, str]
    ) -> list[Message]:
        # Without a quantity it is no quote: the Exchange feed of 2021 and ticker_batch give none.
        if not all(best):
            return []
        instrument = market.instrument
        sides = (*level(instrument, *best[:2]), *level(instrument, *best[2:]))
        quote = Quote(ts_recv, rfc3339_to_ns(time), self.exchange, instrument.symbol, number, *sides)
        return self._announced(market, ts_recv, [quote])


# --- Advanced Trade ---------------------------------------------------------------------------------


class _Update(msgspec.Struct, gc=False):
    side: Literal["bid", "offer"]
    price_level: str
    new_quantity: str
    event_time: str = ""


class _BookEvent(msgspec.Struct, gc=False):
    type: str
    product_id: str
    updates: list[_Update]


class _Print(msgspec.Struct, gc=False):
    trade_id: str
    product_id: str
    price: str
    size: str
    side: str
    time: str


class _TradeEvent(msgspec.Struct, gc=False):
    type: str
    trades: list[_Print]


class _Ticker(msgspec.Struct, gc=False):
    product_id: str
    best_bid: str = ""
    best_bid_quantity: str = ""
    best_ask: str = ""
    best_ask_quantity: str = ""


class _TickerEvent(msgspec.Struct, gc=False):
    tickers: list[_Ticker]


class _Numbered(msgspec.Struct, gc=False, tag_field="channel"):
    sequence_num: _Number
    timestamp: str


class _BookFrame(_Numbered, gc=False, tag_field="channel", tag="l2_data"):
    events: list[_BookEvent]


class _TradeFrame(_Numbered, gc=False, tag_field="channel", tag="market_trades"):
    events: list[_TradeEvent]


class _TickerFrame(_Numbered, gc=False, tag_field="channel", tag="ticker"):
    events: list[_TickerEvent]


class _TickerBatch(_Numbered, gc=False, tag_field="channel", tag="ticker_batch"):
    pass


class _Heartbeats(_Numbered, gc=False, tag_field="channel", tag="heartbeats"):
    pass


class _Subscriptions(_Numbered, gc=False, tag_field="channel", tag="subscriptions"):
    pass


class _Other(msgspec.Struct):
    # A channel that we do not ask for, or an error.
    type: str = ""
    message: str = ""
    channel: str = ""
    sequence_num: _Number | None = None


_Frame = _BookFrame | _TradeFrame | _TickerFrame | _TickerBatch | _Heartbeats | _Subscriptions
_frames: msgspec.json.Decoder[_Frame] = msgspec.json.Decoder(_Frame)
_others = msgspec.json.Decoder(_Other)
_OUR_CHANNELS = frozenset(
    {"l2_data", "market_trades", "ticker", "ticker_batch", "heartbeats", "subscriptions"}
)


def _trade_number(each: _Print) -> int:
    if not each.trade_id.isdecimal():
        raise MalformedMessage(f"malformed frame: expected a trade number, was {each.trade_id[:32]!r}")
    return int(each.trade_id)


class CoinbaseFeed(_CoinbaseFeed):
    """
    Everything that arrives from Coinbase's Advanced Trade socket.

    seq is the frame's sequence_num, except of a trade, where it is the trade's own number. The
    trades of a snapshot were before the subscription, and are not told again.
    """

    def __init__(self, exchange: str, log: Any, **settings: Any) -> None:
        super().__init__(exchange, log, **settings)
        self._next_number: int | None = None  # of this connection; None before its first frame

    def on_lost(self) -> None:
        """The connection is gone: every book waits for a snapshot, and the numbers begin anew."""
        super().on_lost()
        self._next_number = None

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        try:
            frame = _frames.decode(raw)
        except _UNREADABLE as error:
            return self._other(ts_recv, error, raw)
        number = frame.sequence_num
        if number != self._next_number:
            return self._out_of_step(ts_recv, frame)
        self._next_number = number + 1
        return self._read_events(ts_recv, frame)

    def _out_of_step(self, ts_recv: int, frame: _Frame) -> list[Message]:
        if (gaps := self._numbered(ts_recv, frame.sequence_num)) is None:
            return []
        try:
            return gaps + self._read_events(ts_recv, frame)
        except MalformedMessage as error:
            self._error = error
            return gaps

    def _read_events(self, ts_recv: int, frame: _Frame) -> list[Message]:
        if type(frame) is _BookFrame:
            return self._books(ts_recv, frame)
        if type(frame) is _TradeFrame:
            return self._trades(ts_recv, frame)
        if type(frame) is _TickerFrame:
            return self._quotes(ts_recv, frame)
        return []

    def _numbered(self, ts_recv: int, number: int) -> list[Message] | None:
        # The gaps that *number* shows; None for a frame that was there already.
        expected = number if self._next_number is None else self._next_number
        if number < expected:
            return None
        self._next_number = number + 1
        if number == expected:
            return []
        gaps: list[Message] = []
        for market in self._markets.values():
            if not market.sync.needs_snapshot:
                market.sync.on_lost()
                gaps.append(SequenceGap(ts_recv, self.exchange, market.instrument.symbol, expected, number))
        return gaps

    def _books(self, ts_recv: int, frame: _BookFrame) -> list[Message]:
        messages: list[Message] = []
        for event in frame.events:
            market, updates = self._market(event.product_id), event.updates
            is_snapshot = event.type == "snapshot"
            time = updates[-1].event_time if updates and not is_snapshot else frame.timestamp
            messages += self._keep(market, ts_recv, time, is_snapshot, frame.sequence_num, updates)
        return messages

    def _trades(self, ts_recv: int, frame: _TradeFrame) -> list[Message]:
        messages: list[Message] = []
        for event in frame.events:
            # Newest first on the wire.
            for each in sorted(event.trades, key=_trade_number):
                market, number = self._market(each.product_id), _trade_number(each)
                last = self._last_trades.get(each.product_id, -1)
                if number > last:
                    self._last_trades[each.product_id] = number
                if event.type == "snapshot" or number <= last:
                    continue
                trade = self._trade(market, ts_recv, each.time, number, each.price, each.size, each.side)
                messages += self._announced(market, ts_recv, [trade])
        return messages

    def _quotes(self, ts_recv: int, frame: _TickerFrame) -> list[Message]:
        messages: list[Message] = []
        for event in frame.events:
            for each in event.tickers:
                market = self._market(each.product_id)
                best = each.best_bid, each.best_bid_quantity, each.best_ask, each.best_ask_quantity
                messages += self._quote(market, ts_recv, frame.timestamp, frame.sequence_num, best)
        return messages

    def _other(self, ts_recv: int, error: Exception, raw: bytes) -> list[Message]:
        other = decoded(_others, raw)
        if other.type == "error":
            raise MalformedMessage(f"error frame: {other.message[:200]}")
        if other.channel in _OUR_CHANNELS or other.sequence_num is None:
            # Its number is not taken, so the next frame shows a gap: what it would have said is lost.
            raise MalformedMessage(f"malformed frame: {error}")
        self._error = MalformedMessage(f"unsupported channel: {other.channel[:64]}")
        return self._numbered(ts_recv, other.sequence_num) or []


# --- The Exchange feed ------------------------------------------------------------------------------


class _Change(msgspec.Struct, gc=False, array_like=True):
    side: Literal["buy", "sell"]
    price_level: str
    new_quantity: str


class _Snapshot(msgspec.Struct, gc=False, tag_field="type", tag="snapshot"):
    product_id: str
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    time: str = ""


class _L2Update(msgspec.Struct, gc=False, tag_field="type", tag="l2update"):
    product_id: str
    changes: list[_Change]
    time: str = ""


class _Match(msgspec.Struct, gc=False, tag_field="type", tag="match"):
    product_id: str
    trade_id: _Number
    side: str
    size: str
    price: str
    time: str


class _LastMatch(msgspec.Struct, gc=False, tag_field="type", tag="last_match"):
    product_id: str
    trade_id: _Number


class _ExchangeTicker(msgspec.Struct, gc=False, tag_field="type", tag="ticker"):
    product_id: str
    sequence: _Number
    time: str = ""
    best_bid: str = ""
    best_bid_size: str = ""
    best_ask: str = ""
    best_ask_size: str = ""


class _Subscribed(msgspec.Struct, gc=False, tag_field="type", tag="subscriptions"):
    pass


class _Heartbeat(msgspec.Struct, gc=False, tag_field="type", tag="heartbeat"):
    pass


class _Error(msgspec.Struct, tag_field="type", tag="error"):
    message: str = ""
    reason: str = ""


_ExchangeFrame = (
    _Snapshot | _L2Update | _Match | _LastMatch | _ExchangeTicker | _Subscribed | _Heartbeat | _Error
)
_exchange_frames: msgspec.json.Decoder[_ExchangeFrame] = msgspec.json.Decoder(_ExchangeFrame)


class ExchangeFeed(_CoinbaseFeed):
    """
    Everything that a recording of the Coinbase Exchange socket holds (level2, matches, ticker).

    The book's changes have no number: their seq is our own count. last_match is the trade before
    the subscription: the numbers of trades go on from it, and it is not told again.
    """

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        try:
            frame = decoded(_exchange_frames, raw)
        except MalformedMessage as error:
            return self._unread_all(ts_recv, error)
        if isinstance(frame, _Error):
            raise MalformedMessage(f"error frame: {frame.message[:100]} {frame.reason[:100]}")
        if isinstance(frame, _Subscribed | _Heartbeat):
            return []
        market = self._market(frame.product_id)
        if isinstance(frame, _L2Update | _Snapshot):
            return self._book(market, ts_recv, frame)
        if isinstance(frame, _ExchangeTicker):
            best = frame.best_bid, frame.best_bid_size, frame.best_ask, frame.best_ask_size
            return self._quote(market, ts_recv, frame.time, frame.sequence, best)
        return self._match(market, ts_recv, frame)

    def _book(self, market: Market, ts_recv: int, frame: _L2Update | _Snapshot) -> list[Message]:
        is_snapshot, number = isinstance(frame, _Snapshot), market.sync.book.seq + 1
        if isinstance(frame, _Snapshot):
            changes = [_Change("buy", *row) for row in frame.bids]
            changes += [_Change("sell", *row) for row in frame.asks]
        else:
            changes = frame.changes
        return self._keep(market, ts_recv, frame.time, is_snapshot, number, changes)

    def _match(self, market: Market, ts_recv: int, frame: _Match | _LastMatch) -> list[Message]:
        number, symbol = frame.trade_id, market.instrument.symbol
        last = self._last_trades.get(market.wire)
        if last is not None and number <= last:
            return []
        self._last_trades[market.wire] = number
        if isinstance(frame, _LastMatch):
            return []
        messages: list[Message] = []
        if last is not None and number > last + 1:
            market.sync.on_lost()
            messages.append(SequenceGap(ts_recv, self.exchange, symbol, last + 1, number))
        trade = self._trade(market, ts_recv, frame.time, number, frame.price, frame.size, frame.side)
        return self._announced(market, ts_recv, [*messages, trade])
