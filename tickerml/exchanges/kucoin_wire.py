"""
KuCoin's spot wire format: its frames and REST replies as kernel messages.

A frame is {"type": "message", "topic": "/market/level2:BTC-USDT", "subject": ..., "data": ...};
welcome, ack and pong are the others. Prices and sizes are decimal text. Trades carry the
taker's side and ns; the sequence of a trade is its number in the matching of its symbol. How a
book is kept in step and how deep it is believed is in kucoin_sync.py.
Source: KuCoin API, spot, public channels and market data.
"""

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    PPM,
    UNIT,
    BookSnapshot,
    Instrument,
    MalformedMessage,
    Message,
    Quote,
    Side,
    Trade,
    pack_levels,
    to_units,
)

from . import symbols
from .decimals import level, off_grid
from .feed import Feed, Market, decoded, path_of, query_of, unsupported
from .kucoin_sync import Change, KucoinSync, LevelUpdate

# Bounds keep a corrupt number from travelling on as one that no codec can carry.
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_LAST_MS = 9_000_000_000_000  # the year 2255
_Millis = Annotated[int, msgspec.Meta(ge=0, le=_LAST_MS)]
_Sides = dict[str, Side]

_UPDATE = "trade.l2update"
_MATCH, _TICKER = "trade.l3match", "trade.ticker"
_SUBJECTS = frozenset({_UPDATE, _MATCH, _TICKER})
_ANSWERS = frozenset({"welcome", "ack", "pong"})
_OK = "200000"
_SIDES: _Sides = {"buy": Side.BUY, "sell": Side.SELL}
_PUBLIC_DEPTHS = {"level2_20": 20, "level2_100": 100}

# Where no listing names a symbol: the finest steps that have been seen. Of coins that cost less than 1
# of the quote more is traded at once than 64 bits hold at the finer lot, and none was seen so fine.
_FINEST_TICK, _FINEST_LOT, _LOT_OF_CHEAP = UNIT // 10**10, UNIT // 10**11, UNIT // 10**8

# A book keeps what is left of orders in finer steps than new ones may have: eleven decimals in the
# capture of 2021 where new orders have eight, eight where they have two.
_LOTS_PER_STEP = 1000
_LARGEST_LOT = UNIT // 10**8

# The entry tier, 0.10 % either way, times a factor of the symbol's own.
_FEE_PPM = 1000
_FEES_AS_OF = "2026-11-22"

# How many orders a classic account may have open in one symbol. Source: KuCoin API, place order.
_MAX_ORDERS = 200


class Envelope(msgspec.Struct, gc=False):
    """A frame: what it is about, and its data still to be read."""

    type: str
    topic: str = ""
    subject: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")


class _Changes(msgspec.Struct, gc=False):
    asks: list[tuple[str, str, _Number]] = []
    bids: list[tuple[str, str, _Number]] = []


class _Data(msgspec.Struct, gc=False):
    # What an update, a match and a ticker say: one struct, because a frame that is read in one go costs
    # half, and its data may come before the subject that tells which of the three it is.
    first: _Number = msgspec.field(name="sequenceStart", default=1)
    last: _Number = msgspec.field(name="sequenceEnd", default=0)
    changes: _Changes | None = None
    time: _Number = 0  # ms; of a match ns
    sequence: _Number = 0
    side: str = ""
    price: str | None = None
    size: str | None = None
    bid: str | None = msgspec.field(name="bestBid", default=None)
    bid_size: str | None = msgspec.field(name="bestBidSize", default=None)
    ask: str | None = msgspec.field(name="bestAsk", default=None)
    ask_size: str | None = msgspec.field(name="bestAskSize", default=None)


class _Frame(msgspec.Struct, gc=False):
    type: str
    topic: str = ""
    subject: str = ""
    data: _Data | None = None


class _Depth(msgspec.Struct):
    sequence: _Number
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    time: _Millis = 0


class _Listing(msgspec.Struct):
    symbol: str
    base: str = msgspec.field(name="baseCurrency")
    quote: str = msgspec.field(name="quoteCurrency")
    lot: str = msgspec.field(name="baseIncrement")
    tick: str = msgspec.field(name="priceIncrement")
    min_quantity: str = msgspec.field(name="baseMinSize")
    max_quantity: str = msgspec.field(name="baseMaxSize", default="0")
    min_notional: str | None = msgspec.field(name="minFunds", default=None)
    quote_min: str | None = msgspec.field(name="quoteMinSize", default=None)
    quote_max: str | None = msgspec.field(name="quoteMaxSize", default=None)
    price_limit: str | None = msgspec.field(name="priceLimitRate", default=None)
    maker_factor: str = msgspec.field(name="makerFeeCoefficient", default="1")
    taker_factor: str = msgspec.field(name="takerFeeCoefficient", default="1")


class _Reply(msgspec.Struct):
    code: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    msg: str = ""


_envelopes = msgspec.json.Decoder(Envelope)
# Not strict: one and the same number comes as text in some frames and as a number in others.
_frames = msgspec.json.Decoder(_Frame, strict=False)
_depths = msgspec.json.Decoder(_Depth, strict=False)
_listings = msgspec.json.Decoder(list[_Listing])
_replies = msgspec.json.Decoder(_Reply)


# --- Frames and replies -----------------------------------------------------------------------------


def parse_envelope(raw: bytes) -> Envelope | None:
    """
    Return a frame's envelope; None for an answer to what we sent (welcome, ack, pong).

    Raises: MalformedMessage: no such frame, or an error of the exchange.
    """
    envelope = decoded(_envelopes, raw)
    if envelope.type == "message":
        return envelope
    if envelope.type in _ANSWERS:
        return None
    raise MalformedMessage(f"error frame: {raw[:200]!r}")


def _changes(changes: list[tuple[str, str, int]], instrument: Instrument) -> list[Change]:
    # A price of 0 is a filler: the sequence moved, no level did.
    return [(*level(instrument, price, size), number) for price, size, number in changes if price != "0"]


def _is_dear(prices: Iterable[str | None]) -> bool:
    # Whether the first price is 1 of the quote asset or more.
    first = next((price for price in prices if price and price != "0"), "")
    return first.partition(".")[0].lstrip("0") != ""


def _traded(match: _Data, instrument: Instrument, ts_recv: int) -> list[Message]:
    aggressor = _SIDES.get(match.side)
    if aggressor is None or match.price is None or match.size is None:
        raise MalformedMessage(
            f"malformed frame: expected a price, a size and a side of buy or sell, was {match.side[:16]!r}"
        )
    price, quantity = level(instrument, match.price, match.size)
    trade = Trade(
        ts_recv,
        match.time,
        instrument.exchange,
        instrument.symbol,
        match.sequence,
        price,
        quantity,
        aggressor,
    )
    return [trade]


def _quoted(ticker: _Data, instrument: Instrument, ts_recv: int) -> list[Message]:
    if not (ticker.bid and ticker.bid_size and ticker.ask and ticker.ask_size):
        return []  # a side of the book is empty
    bid, bid_quantity = level(instrument, ticker.bid, ticker.bid_size)
    ask, ask_quantity = level(instrument, ticker.ask, ticker.ask_size)
    quote = Quote(
        ts_recv,
        _ms(ticker),
        instrument.exchange,
        instrument.symbol,
        ticker.sequence,
        bid,
        bid_quantity,
        ask,
        ask_quantity,
    )
    return [quote]


def _ms(data: _Data) -> int:
    if data.time > _LAST_MS:
        raise MalformedMessage(f"malformed frame: expected a time in ms, was {data.time}")
    return data.time * NS_PER_MS


def data_of(raw: bytes) -> msgspec.Raw:
    """Return the data of a REST reply. Raises: MalformedMessage: no reply, or an error of the exchange."""
    reply = decoded(_replies, raw)
    if reply.code != _OK:
        raise MalformedMessage(f"error reply: {reply.code} {reply.msg[:200]!r}")
    return reply.data


def parse_depth(raw: bytes, instrument: Instrument, ts_recv: int) -> BookSnapshot:
    """Return the reply to a request for an order book. Raises: MalformedMessage."""
    depth = decoded(_depths, data_of(raw))
    return BookSnapshot(
        ts_recv,
        depth.time * NS_PER_MS,
        instrument.exchange,
        instrument.symbol,
        depth.sequence,
        pack_levels(level(instrument, price, size) for price, size in depth.bids),
        pack_levels(level(instrument, price, size) for price, size in depth.asks),
    )


def parse_symbols(raw: bytes, exchange: str, ts_recv: int) -> dict[str, Instrument]:
    """
    Return the instruments of a reply to /api/v2/symbols, or the older v1, by the exchange's names.

    Fees are the entry tier's, dated, times the symbol's factors. The least that an order may be worth is
    minFunds, in the older v1 quoteMinSize; the most quoteMaxSize. Raises: MalformedMessage.
    """
    listings = decoded(_listings, data_of(raw))
    try:
        return {listing.symbol: _listed(exchange, listing, ts_recv) for listing in listings}
    except (ValueError, ZeroDivisionError) as error:
        raise MalformedMessage(f"malformed listing: {error}") from None


def _listed(exchange: str, listing: _Listing, ts_recv: int) -> Instrument:
    step = to_units(listing.lot)
    lot = max(1, min(step // _LOTS_PER_STEP, _LARGEST_LOT))
    return Instrument(
        ts_recv,
        exchange,
        symbols.dashed(listing.symbol),
        listing.base,
        listing.quote,
        to_units(listing.tick),
        lot,
        max(1, -(-to_units(listing.min_quantity) // lot)),
        min(to_units(listing.max_quantity) // lot, 2**63 - 1),  # KuCoin allows more than an int64 holds
        to_units(listing.min_notional or listing.quote_min or "0"),
        _FEE_PPM * to_units(listing.maker_factor) // UNIT,
        _FEE_PPM * to_units(listing.taker_factor) // UNIT,
        _FEES_AS_OF,
        max_orders=_MAX_ORDERS,
        max_notional=min(to_units(listing.quote_max or "0"), 2**63 - 1),
        price_limit_ppm=to_units(listing.price_limit or "0") * PPM // UNIT,
    )


# --- One exchange -----------------------------------------------------------------------------------


class KucoinFeed(Feed):
    """Everything that arrives from KuCoin's spot market, as kernel messages; it does no I/O."""

    def __init__(self, exchange: str, log: Any, **how: Any) -> None:
        """As Feed."""
        super().__init__(exchange, log, **how)
        self._topics: dict[str, Market] = {}
        self._dear: dict[str, None] = {}  # wires that no listing named and that cost 1 or more

    def symbol_of(self, wire: str) -> str:
        return symbols.dashed(wire)

    def wire_of(self, symbol: str) -> str:
        return symbols.to_dashed(symbol)

    def rest_book(self, ts_recv: int, url: str, raw: bytes) -> BookSnapshot | None:
        return parse_depth(raw, self._market(query_of(url, "symbol")).instrument, ts_recv)

    def _unlisted(self, wire: str) -> Instrument:
        lot = _FINEST_LOT if wire in self._dear else _LOT_OF_CHEAP
        return msgspec.structs.replace(super()._unlisted(wire), tick_size=_FINEST_TICK, lot_size=lot)

    def _sync(self, instrument: Instrument, was_whole: bool) -> KucoinSync:
        return KucoinSync(instrument.exchange, instrument.symbol, was_whole=was_whole)

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        try:
            frame = _frames.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return self._unreadable(ts_recv, error, raw)
        data, subject = frame.data, frame.subject
        if data is None or subject not in _SUBJECTS:
            return self._other(frame, raw)
        if (market := self._topics.get(frame.topic)) is None:
            market = self._enter(frame.topic, data)
        self._counting = market.count
        if subject == _UPDATE:
            messages = self._on_update(ts_recv, market, data)
        elif subject == _MATCH:
            messages = _traded(data, market.instrument, ts_recv)
        else:
            messages = _quoted(data, market.instrument, ts_recv)
        return messages if market.is_announced else self._announced(market, ts_recv, messages)

    def _enter(self, topic: str, data: _Data) -> Market:
        # The market of a topic that is new.
        wire = topic.partition(":")[2]
        if wire not in self._markets:
            changes = data.changes or _Changes()
            if _is_dear((data.bid, data.price, *(each[0] for each in (*changes.bids, *changes.asks)))):
                self._dear[wire] = None
        market = self._topics[topic] = self._market(wire)
        return market

    def _on_update(self, ts_recv: int, market: Market, update: _Data) -> list[Message]:
        sync: KucoinSync = market.sync
        changes, instrument = update.changes, market.instrument
        try:
            if changes is None or update.last < update.first:
                raise MalformedMessage("malformed frame: expected changes and sequenceStart <= sequenceEnd")
            if sync.follows(update.first):
                return self._on_next(ts_recv, market, update, changes)
            bid_changes, ask_changes = (_changes(side, instrument) for side in (changes.bids, changes.asks))
            late = LevelUpdate(update.first, update.last, _ms(update), bid_changes, ask_changes)
            return sync.on_update(late, ts_recv)
        except (ValueError, OverflowError) as error:
            return self._unread(market, ts_recv, off_grid(instrument, error))
        except MalformedMessage as error:
            return self._unread(market, ts_recv, error)

    @staticmethod
    def _on_next(ts_recv: int, market: Market, update: _Data, changes: _Changes) -> list[Message]:
        # An update that is new as a whole, so that the numbers of its changes say no more.
        prices, sizes = market.prices, market.sizes
        bids, asks = [], []
        for price, size, _ in changes.bids:
            if price != "0":
                bids.append((prices[price], sizes[size]))
        for price, size, _ in changes.asks:
            if price != "0":
                asks.append((prices[price], sizes[size]))
        messages: list[Message] = market.sync.on_next(ts_recv, _ms(update), update.last, bids, asks)
        return messages

    def _other(self, frame: _Frame, raw: bytes) -> list[Message]:
        # An answer to what we sent, or a channel that we did not ask for.
        if frame.type in _ANSWERS:
            return []
        if frame.type == "message":
            raise unsupported(frame.subject)
        raise MalformedMessage(f"error frame: {raw[:200]!r}")

    def _unreadable(self, ts_recv: int, error: Exception, raw: bytes) -> list[Message]:
        # It may have been an update, or hold the data of a channel that is none of ours.
        envelope = parse_envelope(raw)
        malformed = MalformedMessage(f"malformed frame: {error}")
        if envelope is None or envelope.subject in (_MATCH, _TICKER):
            raise malformed
        if envelope.subject != _UPDATE:
            raise unsupported(envelope.subject)
        return self._unread(self._market(envelope.topic.partition(":")[2]), ts_recv, malformed)

    def _reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        path = path_of(url)
        if path.endswith("/symbols"):
            self._instruments |= parse_symbols(raw, self.exchange, ts_recv)
            return []
        kind = path.rpartition("/")[2]
        if "/market/orderbook/" not in path or not kind.startswith("level2"):
            raise MalformedMessage(f"unsupported request: {path[:64]}")
        wire = query_of(url, "symbol")
        if wire not in self._markets and _is_dear(row[0] for row in decoded(_depths, data_of(raw)).bids):
            self._dear[wire] = None
        market = self._market(wire)
        snapshot = parse_depth(raw, market.instrument, ts_recv)
        sync: KucoinSync = market.sync
        return self._announced(market, ts_recv, sync.on_rest(snapshot, _PUBLIC_DEPTHS.get(kind, 0)))
