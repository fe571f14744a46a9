"""
Kraken's spot wire formats: v2 as it is sent today, and v1 as captures hold it.

v2 names its channel in every frame and writes prices and quantities as JSON numbers whose
every digit counts: they stay text until the checksum has been computed (kraken_sync.py). v1
is arrays, with the channel and the pair at their end:

    v2   {"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[...],"checksum":974942666}]}
    v1   [320,{"a":[["58724.80000","0.36000000","1617666423.690142"]],"c":"974942666"},"book-1000","XBT/USD"]

A v1 update that changes both sides has two objects, the asks first and the checksum in the last.

A frame that cannot be read may have been the change of a book. Where it does not say of which,
every book is given up, for the checksum covers ten levels and would not miss a deeper one.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    ChecksumFailed,
    Instrument,
    MalformedMessage,
    Message,
    Quote,
    Side,
    Trade,
)

from .decimals import level, units
from .feed import Feed, Market, decoded, path_of
from .kraken_sync import ChecksumSync, Update
from .symbols import kraken, to_kraken_v1
from .times import rfc3339_to_ns, seconds_to_ns

DEPTH = 1000  # levels of each side; Kraken offers 10, 25, 100, 500 and 1000

# The entry tier, where AssetPairs does not say: 0.25 % and 0.40 %.
_MAKER_PPM, _TAKER_PPM = 2500, 4000
_FEES_AS_OF = "2026-11-22"

# Decimals of a price where AssetPairs does not say; other pairs get as many as Kraken sends of any.
_PRICE_DECIMALS = {"BTC/USD": 1, "BTC/USDT": 1, "ETH/USD": 2, "ETH/USDT": 2}
_MOST_PRICE_DECIMALS = 10
_QUANTITY_DECIMALS = 8

_Crc = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Decimals = Annotated[int, msgspec.Meta(ge=0, le=12)]
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


# --- Instruments ------------------------------------------------------------------------------------


class _Pair(msgspec.Struct):
    wsname: str = ""
    pair_decimals: _Decimals = _MOST_PRICE_DECIMALS
    lot_decimals: _Decimals = _QUANTITY_DECIMALS
    ordermin: str = "0"
    costmin: str = "0"
    tick_size: str = ""
    fees: list[tuple[float, float]] = []  # (30-day volume, percent)
    fees_maker: list[tuple[float, float]] = []


class _AssetPairs(msgspec.Struct):
    error: list[str] = []
    result: dict[str, _Pair] = {}


_asset_pairs = msgspec.json.Decoder(_AssetPairs)


def _ppm(tiers: list[tuple[float, float]], otherwise: int) -> int:
    return round(tiers[0][1] * 10_000) if tiers else otherwise


def _listed(pair: _Pair, exchange: str, ts_recv: int) -> Instrument:
    symbol = kraken(pair.wsname)
    base, quote = symbol.split("/")
    lot = UNIT // 10**pair.lot_decimals
    tick = units(pair.tick_size) or UNIT // 10**pair.pair_decimals
    return Instrument(
        ts_recv,
        exchange,
        symbol,
        base,
        quote,
        tick,
        lot,
        max(1, -(-units(pair.ordermin) // lot)),
        min_notional=units(pair.costmin),
        maker_fee_ppm=_ppm(pair.fees_maker, _MAKER_PPM),
        taker_fee_ppm=_ppm(pair.fees, _TAKER_PPM),
        fees_as_of=datetime.fromtimestamp(ts_recv // NS_PER_S, UTC).date().isoformat(),
    )


def parse_asset_pairs(raw: bytes, exchange: str, ts_recv: int) -> dict[str, Instrument]:
    """
    Return the instruments of a REST AssetPairs reply by their v1 names ("XBT/USD").

    The fees are the entry tier's. Raises: MalformedMessage: not such a reply, or an error in its place.
    """
    reply = decoded(_asset_pairs, raw)
    if reply.error:
        raise MalformedMessage(f"error reply: {', '.join(reply.error)[:200]}")
    found = {}
    for pair in reply.result.values():
        with suppress(MalformedMessage):  # staked and dark-pool pairs, "ETH2.S/ETH", are no BASE/QUOTE
            found[pair.wsname] = _listed(pair, exchange, ts_recv)
    return found


# --- What both versions share -----------------------------------------------------------------------


class _KrakenFeed(Feed):
    def __init__(self, exchange: str, log: Any, *, depth: int = DEPTH, **settings: Any) -> None:
        """
        Args:
            depth: levels of each side subscribed to, until an acknowledgement says another.
            exchange, log, settings: Feed's.
        """
        super().__init__(exchange, log, **settings)
        self._depth = depth

    def symbol_of(self, wire: str) -> str:
        return kraken(wire)

    def _sync(self, instrument: Instrument, was_whole: bool) -> ChecksumSync:
        return ChecksumSync(instrument, self._depth, was_whole=was_whole)

    def _unlisted(self, wire: str) -> Instrument:
        symbol = self.symbol_of(wire)
        base, quote = symbol.split("/")
        return Instrument(
            0,
            self.exchange,
            symbol,
            base,
            quote,
            UNIT // 10 ** _PRICE_DECIMALS.get(symbol, _MOST_PRICE_DECIMALS),
            UNIT // 10**_QUANTITY_DECIMALS,
            maker_fee_ppm=_MAKER_PPM,
            taker_fee_ppm=_TAKER_PPM,
            fees_as_of=_FEES_AS_OF,
        )

    def _reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        if not path_of(url).endswith("/AssetPairs"):
            raise MalformedMessage(f"unsupported request: {url[:200]}")
        pairs = parse_asset_pairs(raw, self.exchange, ts_recv)
        self._instruments |= {self.wire_of(each.symbol): each for each in pairs.values()}
        return []

    def _keep(
        self, market: Market, ts_recv: int, ts_event: int, is_snapshot: bool, update: Update
    ) -> list[Message]:
        # Give a book its snapshot or update.
        sync: ChecksumSync = market.sync
        try:
            if is_snapshot:
                messages = sync.on_whole(ts_recv, ts_event, update)
            else:
                messages = sync.on_update(ts_recv, ts_event, update)
        except MalformedMessage as error:
            return self._unread(market, ts_recv, error)
        if messages and update.checksum is not None and type(messages[0]) is not ChecksumFailed:
            market.count.checksums_ok += 1
        return messages if market.is_announced else self._announced(market, ts_recv, messages)

    def _set_depth(self, wire: str, depth: int) -> None:
        self._market(wire).sync.depth = depth
        self._counting = self._unnamed  # an acknowledgement is no market data

    def _trade(
        self,
        market: Market,
        ts_recv: int,
        ts_event: int,
        number: int,
        price: str,
        quantity: str,
        side: Side,
    ) -> Trade:
        instrument = market.instrument
        ticks, lots = level(instrument, price, quantity)
        return Trade(ts_recv, ts_event, self.exchange, instrument.symbol, number, ticks, lots, side)

    def _quote(
        self,
        market: Market,
        ts_recv: int,
        ts_event: int,
        bid: tuple[str, str],
        ask: tuple[str, str],
    ) -> Quote:
        instrument = market.instrument
        best = (*level(instrument, *bid), *level(instrument, *ask))
        return Quote(ts_recv, ts_event, self.exchange, instrument.symbol, 0, *best)


# --- v2 ---------------------------------------------------------------------------------------------


class _Level(msgspec.Struct, gc=False):
    price: msgspec.Raw
    qty: msgspec.Raw


class _Book(msgspec.Struct, gc=False):
    symbol: str
    checksum: _Crc | None = None
    bids: list[_Level] = []
    asks: list[_Level] = []
    timestamp: str = ""


class _Print(msgspec.Struct, gc=False):
    symbol: str
    side: str
    price: msgspec.Raw
    qty: msgspec.Raw
    trade_id: _Number
    timestamp: str


class _Ticker(msgspec.Struct, gc=False):
    symbol: str
    bid: msgspec.Raw
    bid_qty: msgspec.Raw
    ask: msgspec.Raw
    ask_qty: msgspec.Raw
    timestamp: str = ""


class _BookFrame(msgspec.Struct, gc=False, tag_field="channel", tag="book"):
    type: str
    data: list[_Book]


class _TradeFrame(msgspec.Struct, gc=False, tag_field="channel", tag="trade"):
    type: str
    data: list[_Print]


class _TickerFrame(msgspec.Struct, gc=False, tag_field="channel", tag="ticker"):
    data: list[_Ticker]


class _Heartbeat(msgspec.Struct, gc=False, tag_field="channel", tag="heartbeat"):
    pass


class _Status(msgspec.Struct, gc=False, tag_field="channel", tag="status"):
    pass


class _Subscribed(msgspec.Struct):
    channel: str = ""
    symbol: str = ""
    depth: int = 0


class _Other(msgspec.Struct):
    # An answer to a request, or a channel that we do not ask for.
    method: str = ""
    channel: str = ""
    error: str = ""
    result: _Subscribed | None = None


_Frame = _BookFrame | _TradeFrame | _TickerFrame | _Heartbeat | _Status
_frames: msgspec.json.Decoder[_Frame] = msgspec.json.Decoder(_Frame)
_others = msgspec.json.Decoder(_Other)

_SIDES = {"buy": Side.BUY, "sell": Side.SELL}  # of the taker
_OUR_CHANNELS = frozenset({"book", "trade", "ticker", "heartbeat", "status"})


_trade_id = attrgetter("trade_id")


def _text(number: msgspec.Raw) -> str:
    return bytes(number).decode().strip('"')


class KrakenFeed(_KrakenFeed):
    """
    Everything that arrives from Kraken's v2 socket; a market's name there is ours.

    A trade's aggressor is its side, which Kraken gives as the taker's. The trades of a trade
    snapshot were before the subscription, and are not told again.
    """

    def __init__(self, exchange: str, log: Any, **settings: Any) -> None:
        super().__init__(exchange, log, **settings)
        self._last_trades: dict[str, int] = {}

    def wire_of(self, symbol: str) -> str:
        return symbol

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        try:
            frame = _frames.decode(raw)
        except _UNREADABLE as error:
            return self._other(ts_recv, error, raw)
        if type(frame) is _BookFrame:
            return self._books(ts_recv, frame)
        if type(frame) is _TradeFrame:
            return self._trades(ts_recv, frame)
        if type(frame) is _TickerFrame:
            return self._quotes(ts_recv, frame)
        return []

    def _books(self, ts_recv: int, frame: _BookFrame) -> list[Message]:
        messages: list[Message] = []
        is_snapshot = frame.type == "snapshot"
        for book in frame.data:
            market = self._market(book.symbol)
            ts_event = rfc3339_to_ns(book.timestamp)
            if not is_snapshot and ts_event < market.sync.book.ts_event:
                # Two updates of one level in the wrong order are right by either checksum.
                messages += market.sync.on_missing(ts_recv, 0)
                continue
            messages += self._keep(market, ts_recv, ts_event, is_snapshot, book)
        return messages

    def _trades(self, ts_recv: int, frame: _TradeFrame) -> list[Message]:
        messages: list[Message] = []
        for each in sorted(frame.data, key=_trade_id):
            market = self._market(each.symbol)
            last = self._last_trades.get(each.symbol, -1)
            self._last_trades[each.symbol] = max(last, each.trade_id)
            if frame.type == "snapshot" or each.trade_id <= last:
                continue
            if (side := _SIDES.get(each.side)) is None:
                raise MalformedMessage(f"malformed frame: expected buy or sell, was {each.side[:32]!r}")
            ts_event = rfc3339_to_ns(each.timestamp)
            trade = self._trade(
                market, ts_recv, ts_event, each.trade_id, _text(each.price), _text(each.qty), side
            )
            messages += self._announced(market, ts_recv, [trade])
        return messages

    def _quotes(self, ts_recv: int, frame: _TickerFrame) -> list[Message]:
        messages: list[Message] = []
        for each in frame.data:
            market = self._market(each.symbol)
            bid = _text(each.bid), _text(each.bid_qty)
            ask = _text(each.ask), _text(each.ask_qty)
            quote = self._quote(market, ts_recv, rfc3339_to_ns(each.timestamp), bid, ask)
            messages += self._announced(market, ts_recv, [quote])
        return messages

    def _other(self, ts_recv: int, error: Exception, raw: bytes) -> list[Message]:
        try:
            other = _others.decode(raw)
        except _UNREADABLE:
            return self._unread_all(ts_recv, MalformedMessage(f"malformed frame: {error}"))
        if other.error:
            raise MalformedMessage(f"error frame: {other.error[:200]}")
        if other.method:
            if other.result and other.result.channel == "book" and other.result.depth:
                self._set_depth(other.result.symbol, other.result.depth)
            return []
        if other.channel in _OUR_CHANNELS or not other.channel:
            return self._unread_all(ts_recv, MalformedMessage(f"malformed frame: {error}"))
        raise MalformedMessage(f"unsupported channel: {other.channel[:64]}")


# --- v1 ---------------------------------------------------------------------------------------------


class _V1Level(msgspec.Struct, array_like=True, gc=False):
    price: msgspec.Raw
    qty: msgspec.Raw
    time: str


class _V1Sides(msgspec.Struct, gc=False):
    a: list[_V1Level] = []
    b: list[_V1Level] = []
    asks: list[_V1Level] | None = msgspec.field(name="as", default=None)
    bids: list[_V1Level] | None = msgspec.field(name="bs", default=None)
    c: str = ""


class _V1Book(msgspec.Struct, array_like=True, gc=False):
    channel: int
    one: _V1Sides
    two: _V1Sides | str


class _V1Update(NamedTuple):
    bids: Sequence[_V1Level]
    asks: Sequence[_V1Level]
    checksum: int | None


class _V1Print(msgspec.Struct, array_like=True, gc=False):
    price: str
    quantity: str
    time: str
    side: str


class _V1Trades(msgspec.Struct, array_like=True, gc=False):
    channel: int
    prints: list[_V1Print]


class _V1Best(msgspec.Struct, array_like=True, gc=False):
    price: str
    whole: int | str
    quantity: str


class _V1Ticker(msgspec.Struct, gc=False):
    a: _V1Best
    b: _V1Best


class _V1Tickers(msgspec.Struct, array_like=True, gc=False):
    channel: int
    ticker: _V1Ticker


class _V1Event(msgspec.Struct):
    event: str
    error: str = msgspec.field(name="errorMessage", default="")


_v1_books = msgspec.json.Decoder(_V1Book)
_v1_trades = msgspec.json.Decoder(_V1Trades)
_v1_tickers = msgspec.json.Decoder(_V1Tickers)
_v1_events = msgspec.json.Decoder(_V1Event)

_V1_SIDES = {"b": Side.BUY, "s": Side.SELL}
_V1_EVENTS = frozenset({"heartbeat", "systemStatus", "subscriptionStatus", "pong"})


def _newest(*sides: list[_V1Level]) -> int:
    return seconds_to_ns(max((each.time for side in sides for each in side), default="0"))


class KrakenV1Feed(_KrakenFeed):
    """
    Everything that a recording of Kraken's v1 socket holds.

    A market's name there is as in "XBT/USD". Trades and tickers have no number (seq is 0) and
    a ticker no time; a trade's aggressor is its side, the taker's. Snapshots have no checksum.
    """

    def wire_of(self, symbol: str) -> str:
        return to_kraken_v1(symbol)

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        if raw.startswith(b"{"):
            return self._event(raw)
        # ..., "book-1000", "XBT/USD"] split at its last four quotes
        parts = raw.rsplit(b'"', 4)
        if len(parts) != 5 or parts[2].strip() != b"," or parts[4].strip() != b"]":
            expected = "malformed frame: expected [..., channel, pair]"
            return self._unread_all(ts_recv, MalformedMessage(f"{expected}, was {raw[:80]!r}"))
        channel, pair = parts[1].decode(errors="replace"), parts[3].decode(errors="replace")
        name, _, depth = channel.partition("-")
        if (read := _V1_CHANNELS.get(name)) is None:
            raise MalformedMessage(f"unsupported channel: {channel[:64]}")
        market = self._market(pair)
        if depth.isdecimal():
            market.sync.depth = int(depth)
        return read(self, market, ts_recv, raw)

    def _event(self, raw: bytes) -> list[Message]:
        event = decoded(_v1_events, raw)
        if event.error or event.event not in _V1_EVENTS:
            raise MalformedMessage(f"error frame: {event.error[:200] or event.event[:200]}")
        return []

    def _book(self, market: Market, ts_recv: int, raw: bytes) -> list[Message]:
        try:
            frame = decoded(_v1_books, raw)
            one, two = frame.one, frame.two
            last = one if isinstance(two, str) else two
            is_snapshot = one.asks is not None or one.bids is not None
            asks, bids = (one.asks or [], one.bids or []) if is_snapshot else (one.a, last.b)
            ts_event = _newest(asks, bids)
            checksum = int(last.c) if last.c.isdecimal() else None
        except MalformedMessage as error:
            return self._unread(market, ts_recv, error)
        return self._keep(market, ts_recv, ts_event, is_snapshot, _V1Update(bids, asks, checksum))

    def _prints(self, market: Market, ts_recv: int, raw: bytes) -> list[Message]:
        trades: list[Message] = []
        for each in decoded(_v1_trades, raw).prints:
            if (side := _V1_SIDES.get(each.side)) is None:
                raise MalformedMessage(f"malformed frame: expected b or s, was {each.side[:32]!r}")
            ts_event = seconds_to_ns(each.time)
            trades.append(self._trade(market, ts_recv, ts_event, 0, each.price, each.quantity, side))
        return self._announced(market, ts_recv, trades)

    def _ticker(self, market: Market, ts_recv: int, raw: bytes) -> list[Message]:
        ticker = decoded(_v1_tickers, raw).ticker
        bid, ask = (ticker.b.price, ticker.b.quantity), (ticker.a.price, ticker.a.quantity)
        return self._announced(market, ts_recv, [self._quote(market, ts_recv, 0, bid, ask)])


_V1_CHANNELS: dict[str, Callable[[KrakenV1Feed, Market, int, bytes], list[Message]]] = {
    "book": KrakenV1Feed._book,
    "trade": KrakenV1Feed._prints,
    "ticker": KrakenV1Feed._ticker,
}
