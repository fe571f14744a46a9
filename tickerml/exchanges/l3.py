"""
Feeds of single orders, as L3 and L2 messages and as books that know every order's place.

Independent Reserve sends what happens to each order of an asset, numbered by a nonce, with its
price in every currency; one book a currency starts from REST. The reply says when it was made,
and the frames when they happened:

    frames      new  new  gone | new  gone        every frame up to that time is taken again; one
    reply       made at ───────┘                  that the reply knows already changes nothing

So a book is whole when a frame from after the reply has come: all before it have come too.
Source: Independent Reserve, "WebSockets", order book channel, and "GetAllOrders".

Kraken v2 sends level3 to whoever has a token: orders added, modified and deleted, and the CRC32
of the orders of the ten best prices of each side, first in line first, the digits as in
kraken_sync.py. It tells nothing of an order whose price falls out of the subscribed depth.
Source: Kraken API center, "L3 checksum (WebSocket v2)".
"""

from collections import deque
from typing import Annotated, Any, NamedTuple
from zlib import crc32

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    BookDelta,
    BookOrders,
    BookSnapshot,
    BookState,
    ChecksumFailed,
    Instrument,
    MalformedMessage,
    Message,
    Side,
)

from .decimals import level, text_of
from .feed import Feed, Market, decoded, path_of, query_of
from .keeper import Keeper
from .kraken_wire import DEPTH, KrakenFeed
from .l3_book import L3Book
from .symbols import dashed, kraken, to_kraken_v1
from .times import rfc3339_to_ns

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Millis = Annotated[int, msgspec.Meta(ge=0, le=9_000_000_000_000)]  # the year 2255


class OrderKeeper(Keeper):
    """A book kept order by order; its L2 book is what follows from them, and is told after them."""

    __slots__ = ("orders",)

    def __init__(self, exchange: str, symbol: str, *, was_whole: bool = False) -> None:
        """
        Args:
            was_whole: an earlier feed had this book, so its first snapshot is a resync.
        """
        super().__init__(exchange, symbol, was_whole=was_whole)
        self.orders = L3Book()

    def _told_whole(self, ts_recv: int, ts_event: int, seq: int) -> list[Message]:
        book, (bids, asks) = self.book, self.orders.drain()
        snapshot = BookSnapshot(ts_recv, ts_event, book.exchange, book.symbol, seq, bids, asks)
        return [self._singles(ts_recv, ts_event, seq, True), *self.on_snapshot(snapshot)]

    def _told(self, ts_recv: int, ts_event: int, seq: int) -> list[Message]:
        book, (bids, asks) = self.book, self.orders.drain()
        delta = BookDelta(ts_recv, ts_event, book.exchange, book.symbol, seq, bids, asks)
        return [self._singles(ts_recv, ts_event, seq, False), *self._changed(delta)]

    def _singles(self, ts_recv: int, ts_event: int, seq: int, is_whole: bool) -> BookOrders:
        book, orders = self.book, self.orders.drain_orders()
        return BookOrders(ts_recv, ts_event, book.exchange, book.symbol, seq, orders, is_whole)


# --- Independent Reserve ----------------------------------------------------------------------------


class _Order(msgspec.Struct):
    id: str = msgspec.field(name="OrderGuid", default="")
    type: str = msgspec.field(name="OrderType", default="")
    prices: dict[str, msgspec.Raw] = msgspec.field(name="Price", default_factory=dict)
    volume: msgspec.Raw = msgspec.field(name="Volume", default=msgspec.Raw(b""))


class _Frame(msgspec.Struct):
    event: str = msgspec.field(name="Event")
    time: _Millis = msgspec.field(name="Time", default=0)
    channel: str = msgspec.field(name="Channel", default="")
    nonce: _Number = msgspec.field(name="Nonce", default=0)
    data: msgspec.Raw = msgspec.field(name="Data", default=msgspec.Raw(b""))


class _Listed(msgspec.Struct):
    id: str = msgspec.field(name="Guid")
    price: msgspec.Raw = msgspec.field(name="Price")
    volume: msgspec.Raw = msgspec.field(name="Volume")


class _AllOrders(msgspec.Struct):
    bids: list[_Listed] = msgspec.field(name="BuyOrders")
    asks: list[_Listed] = msgspec.field(name="SellOrders")
    made: str = msgspec.field(name="CreatedTimestampUtc")


_frames = msgspec.json.Decoder(_Frame)
_orders = msgspec.json.Decoder(_Order)
_all_orders = msgspec.json.Decoder(_AllOrders)

_QUIET = frozenset({"Heartbeat", "Subscriptions"})
_ORDER_EVENTS = frozenset({"NewOrder", "OrderChanged", "OrderCanceled"})
_ORDER_SIDES = {"LimitBid": Side.BUY, "LimitOffer": Side.SELL}
_BUFFERED = 10_000  # frames; what is older would need a reply older still


class OrderEvent(NamedTuple):
    """What happened to one order: its nonce, the exchange's time in ns, and the frame's data."""

    nonce: int
    ts_event: int
    kind: str
    order: _Order


class _Whole(NamedTuple):
    # Every order as REST told it: when, and (id, side, ticks, lots), the first in line first.
    made: int
    orders: list[tuple[str, Side, int, int]]


class ReserveSync(OrderKeeper):
    """One book of Independent Reserve, in one currency, by the rule at the top; it does no I/O."""

    __slots__ = ("_currency", "_instrument", "_waiting", "_whole")

    def __init__(self, instrument: Instrument, *, was_whole: bool = False) -> None:
        """
        Args:
            was_whole: an earlier feed had this book, so its first snapshot is a resync.
        """
        super().__init__(instrument.exchange, instrument.symbol, was_whole=was_whole)
        self._instrument = instrument
        self._currency = instrument.quote.lower()
        self._waiting: deque[OrderEvent] = deque(maxlen=_BUFFERED)
        self._whole: _Whole | None = None

    @property
    def needs_snapshot(self) -> bool:
        """Whether the book waits for a reply; one that has come waits for a frame from after it."""
        return self._whole is None and self.book.state is BookState.RESYNCING

    def on_event(self, event: OrderEvent, ts_recv: int) -> list[Message]:
        """Take what happened to one order. Raises: MalformedMessage: say on_missing() then."""
        if self.book.state is BookState.RESYNCING:
            self._waiting.append(event)
            return self.on_time(ts_recv, event.ts_event)
        self._apply(event)
        return self._told(ts_recv, event.ts_event, event.nonce)

    def on_orders(self, whole: _Whole) -> None:
        """Take the reply with every order: the book is whole at the first frame from after it."""
        if self.book.state is BookState.RESYNCING:
            self._whole = whole

    def on_time(self, ts_recv: int, ts_event: int) -> list[Message]:
        """Know that every frame from before *ts_event* has come; return the book if that makes it whole."""
        whole = self._whole
        if whole is None or ts_event < whole.made:
            return []
        waiting, self._whole = list(self._waiting), None
        self._waiting.clear()
        self.orders.clear()
        try:
            for order in whole.orders:
                self.orders.add(*order)
        except ValueError as error:
            raise MalformedMessage(f"malformed reply: {error}") from None
        for event in waiting:
            self._apply(event)
        return self._told_whole(ts_recv, ts_event, waiting[-1].nonce if waiting else 0)

    def on_lost(self) -> None:
        """Forget what waits: the connection is gone, and frames with it."""
        super().on_lost()
        self._waiting.clear()
        self._whole = None

    def _apply(self, event: OrderEvent) -> None:
        orders, order, is_known = self.orders, event.order, event.order.id in self.orders
        if event.kind == "OrderCanceled":
            if is_known:
                orders.delete(order.id)
            return
        if (event.kind == "NewOrder") is is_known:
            return  # the reply had it already, or an order that it had not was changed
        text = order.prices.get(self._currency, msgspec.Raw(b"0"))
        price, volume = level(self._instrument, text_of(text), text_of(order.volume))
        if is_known:
            orders.modify(order.id, orders.price(order.id), volume)
        elif price and volume and (side := _ORDER_SIDES.get(order.type)):
            orders.add(order.id, side, price, volume)
        else:
            raise MalformedMessage(
                f"malformed order: expected a side, a price and a volume, was {order}"[:300]
            )


class IndependentReserveFeed(Feed):
    """Everything that arrives from Independent Reserve, as kernel messages; it does no I/O."""

    def __init__(self, exchange: str, log: Any, **how: Any) -> None:
        """As Feed."""
        super().__init__(exchange, log, **how)
        self._nonces: dict[str, int] = {}  # the last, by channel
        self._early: dict[str, deque[OrderEvent]] = {}  # by asset, before any book of it is known

    def orders(self, wire: str) -> L3Book:
        """Return the orders of *wire* ("eth-aud") as they are now: look, do not touch."""
        sync: ReserveSync = self._market(wire).sync
        return sync.orders

    def symbol_of(self, wire: str) -> str:
        return kraken(dashed(wire.upper()))

    def wire_of(self, symbol: str) -> str:
        return to_kraken_v1(symbol).replace("/", "-").lower()

    def _sync(self, instrument: Instrument, was_whole: bool) -> ReserveSync:
        return ReserveSync(instrument, was_whole=was_whole)

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        frame = decoded(_frames, raw)
        ts_event = frame.time * NS_PER_MS
        if frame.event in _QUIET:
            passed = [self._passed(market, ts_recv, ts_event) for market in self._markets.values()]
            return [message for messages in passed for message in messages]
        if frame.event == "Error":
            raise MalformedMessage(f"error frame: {raw[:200]!r}")
        if frame.event not in _ORDER_EVENTS:
            raise MalformedMessage(f"unsupported stream: {frame.event[:64]}")
        event = OrderEvent(frame.nonce, ts_event, frame.event, decoded(_orders, frame.data))
        asset = frame.channel.split("-")[1] if "-" in frame.channel else ""
        markets = [market for wire, market in self._markets.items() if wire.partition("-")[0] == asset]
        messages = self._missing(frame, asset, ts_recv, markets)
        if not markets:
            self._early.setdefault(asset, deque(maxlen=_BUFFERED)).append(event)
        for market in markets:
            messages += self._happened(market, ts_recv, event)
        return messages

    def _missing(self, frame: _Frame, asset: str, ts_recv: int, markets: list[Market]) -> list[Message]:
        expected = self._nonces.get(frame.channel, frame.nonce - 1) + 1
        self._nonces[frame.channel] = frame.nonce
        if frame.nonce == expected:
            return []
        self._early.pop(asset, None)
        return [each for market in markets for each in market.sync.on_missing(ts_recv, frame.nonce)]

    def _happened(self, market: Market, ts_recv: int, event: OrderEvent) -> list[Message]:
        self._counting = market.count
        sync: ReserveSync = market.sync
        try:
            messages = sync.on_event(event, ts_recv)
        except MalformedMessage as error:
            return self._unread(market, ts_recv, error)
        return self._announced(market, ts_recv, messages)

    def _passed(self, market: Market, ts_recv: int, ts_event: int) -> list[Message]:
        sync: ReserveSync = market.sync
        return self._announced(market, ts_recv, sync.on_time(ts_recv, ts_event))

    def _reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        if not path_of(url).endswith("/GetAllOrders"):
            raise MalformedMessage(f"unsupported request: {path_of(url)[:64]}")
        asset, currency = query_of(url, "primaryCurrencyCode"), query_of(url, "secondaryCurrencyCode")
        market = self._market(f"{asset}-{currency}".lower())
        reply, instrument = decoded(_all_orders, raw), market.instrument
        orders = [
            (each.id, side, *level(instrument, text_of(each.price), text_of(each.volume)))
            for side, listed in ((Side.BUY, reply.bids), (Side.SELL, reply.asks))
            for each in listed
        ]
        sync: ReserveSync = market.sync
        sync.on_orders(_Whole(rfc3339_to_ns(reply.made), orders))
        early = self._early.pop(asset.lower(), ())
        return [message for event in early for message in self._happened(market, ts_recv, event)]


# --- Kraken -----------------------------------------------------------------------------------------


class _L3Order(msgspec.Struct, gc=False):
    id: str = msgspec.field(name="order_id")
    price: msgspec.Raw = msgspec.field(name="limit_price")
    quantity: msgspec.Raw = msgspec.field(name="order_qty")
    event: str = "add"


class _L3Book(msgspec.Struct):
    symbol: str
    checksum: int
    bids: list[_L3Order] = []
    asks: list[_L3Order] = []
    timestamp: str = ""


class _Channel(msgspec.Struct, gc=False):
    channel: str = ""


class _L3Frame(msgspec.Struct):
    type: str
    data: list[_L3Book]


_channels = msgspec.json.Decoder(_Channel)
_l3_frames = msgspec.json.Decoder(_L3Frame)
_TOP = 10  # prices of each side that the checksum covers


def _digits(number: str) -> str:
    return number.replace(".", "", 1).lstrip("0")


class KrakenL3Sync(OrderKeeper):
    """One level3 book of Kraken, by the rule at the top; it does no I/O."""

    __slots__ = ("_depth", "_digits", "_instrument")

    def __init__(self, instrument: Instrument, depth: int, *, was_whole: bool = False) -> None:
        """
        Args:
            depth: prices of each side that are subscribed to, at least ten.
            was_whole: an earlier feed had this book, so its first snapshot is a resync.
        """
        super().__init__(instrument.exchange, instrument.symbol, was_whole=was_whole)
        self._instrument = instrument
        self._depth = depth
        self._digits: dict[str, str] = {}  # of price and quantity, by order

    def on_book(self, ts_recv: int, told: _L3Book, is_snapshot: bool) -> list[Message]:
        """
        Take the orders of one message; return the L2 book or what changed of it, or ChecksumFailed.

        Raises: MalformedMessage: say on_missing() then.
        """
        if is_snapshot:
            self.orders.clear()
            self._digits.clear()
        elif self.book.state is BookState.RESYNCING:
            return []
        try:
            for side, orders in ((Side.BUY, told.bids), (Side.SELL, told.asks)):
                for order in orders:
                    self._take(side, order)
        except ValueError as error:
            raise MalformedMessage(f"broken book: {self.book.symbol}: {error}") from None
        for order_id in self.orders.trim(self._depth):
            del self._digits[order_id]
        if (checksum := self.checksum()) != told.checksum:
            self.on_lost()
            failed = (self.book.exchange, self.book.symbol, told.checksum, checksum)
            return [ChecksumFailed(ts_recv, *failed)]
        ts_event, seq = rfc3339_to_ns(told.timestamp), self.book.seq + 1
        if is_snapshot:
            return self._told_whole(ts_recv, ts_event, seq)
        return self._told(ts_recv, ts_event, seq)

    def checksum(self) -> int:
        """Return the CRC32 of the book as it is now."""
        digits = self._digits
        return crc32(
            "".join(
                digits[order_id]
                for side in (Side.SELL, Side.BUY)
                for _, queue in self.orders.queues(side, _TOP)
                for order_id in queue
            ).encode()
        )

    def _take(self, side: Side, order: _L3Order) -> None:
        price_text, quantity_text = text_of(order.price), text_of(order.quantity)
        price, quantity = level(self._instrument, price_text, quantity_text)
        match order.event:
            case "add":
                self.orders.add(order.id, side, price, quantity)
            case "modify":
                self.orders.modify(order.id, price, quantity)
            case "delete":
                self.orders.delete(order.id)
            case _:
                raise ValueError(f"expected add, modify or delete, was {order.event[:16]!r}")
        if order.id in self.orders:
            self._digits[order.id] = _digits(price_text) + _digits(quantity_text)
        else:
            del self._digits[order.id]


class KrakenL3Feed(KrakenFeed):
    """Kraken's v2 socket with level3 in place of the book channel; the rest is KrakenFeed's."""

    def __init__(self, exchange: str, log: Any, *, depth: int = DEPTH, **how: Any) -> None:
        """
        Args:
            depth: prices of each side that are subscribed to: 10, 100 or 1000.
            exchange, log, how: Feed's.
        """
        super().__init__(exchange, log, depth=depth, **how)
        self._l3_depth = depth

    def orders(self, wire: str) -> L3Book:
        """Return the orders of *wire* ("BTC/USD") as they are now: look, do not touch."""
        sync: KrakenL3Sync = self._market(wire).sync
        return sync.orders

    def _sync(self, instrument: Instrument, was_whole: bool) -> Any:
        return KrakenL3Sync(instrument, self._l3_depth, was_whole=was_whole)

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        if b'"level3"' not in raw[:40]:
            return super()._frame(ts_recv, raw)
        frame = decoded(_l3_frames, raw)
        return [
            message
            for told in frame.data
            for message in self._on_book(ts_recv, told, frame.type == "snapshot")
        ]

    def _on_book(self, ts_recv: int, told: _L3Book, is_snapshot: bool) -> list[Message]:
        market = self._market(told.symbol)
        sync: KrakenL3Sync = market.sync
        try:
            messages = sync.on_book(ts_recv, told, is_snapshot)
        except MalformedMessage as error:
            return self._unread(market, ts_recv, error)
        if messages and not isinstance(messages[0], ChecksumFailed):
            market.count.checksums_ok += 1
        return self._announced(market, ts_recv, messages)
