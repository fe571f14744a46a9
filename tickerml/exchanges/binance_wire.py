"""
The Binance family's wire format, spot and USD-M futures: bytes in, kernel messages out.

The `parse_*` functions are pure. SpotFeed and UsdmFeed give what they return to one
DepthSync a symbol (binance_sync.py). The two differ in how updates are numbered, in what
a symbol is called, and in that a perpetual future has funding.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    PPM,
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
    to_units,
)

from .binance_sync import DepthSync, DepthUpdate
from .decimals import level, nearest_ticks, pack_json, units
from .feed import Feed, Market, decoded, path_of, query_of, unsupported
from .symbols import PERPETUAL, concatenated, to_concatenated

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

# The entry tier's (maker, taker), without discounts: 0.10 % either way on spot, 0.02 % and 0.05 % on futures.
_SPOT_FEES_PPM = 1000, 1000
_USDM_FEES_PPM = 200, 500
_FEES_AS_OF = "2026-11-22"


def default_instrument(exchange: str, wire: str) -> Instrument:
    """
    Return what is known of spot *wire* ("BTCUSDT") without asking: DEFAULT_RULES, else a scale of 1e-8.

    Raises: MalformedMessage: the symbol cannot be split.
    """
    symbol = concatenated(wire)
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
        0,
        to_units(rules.min_notional),
        *_SPOT_FEES_PPM,
        _FEES_AS_OF,
    )


def usdm_symbol(wire: str) -> str:
    """
    Return "BTCUSDT" of the futures as "BTC/USDT-PERP", and "BTCUSDT_240927" as "BTC/USDT-20240927".

    Raises: MalformedMessage: the symbol cannot be split.
    """
    pair, _, date = wire.partition("_")
    return concatenated(pair) + (f"-20{date}" if date else PERPETUAL)


def usdm_wire(symbol: str) -> str:
    """Return "BTC/USDT-PERP" as "BTCUSDT", and "BTC/USDT-20240927" as "BTCUSDT_240927"."""
    pair, _, date = symbol.removesuffix(PERPETUAL).partition("-")
    return to_concatenated(pair) + (f"_{date[2:]}" if date else "")


class _Filter(msgspec.Struct, gc=False):
    type: str = msgspec.field(name="filterType", default="")
    tick: str = msgspec.field(name="tickSize", default="0")
    step: str = msgspec.field(name="stepSize", default="0")
    min_quantity: str = msgspec.field(name="minQty", default="0")
    max_quantity: str = msgspec.field(name="maxQty", default="0")
    min_notional: str = msgspec.field(name="minNotional", default="0")
    notional: str = "0"  # what futures call it
    up: str = msgspec.field(name="multiplierUp", default="0")
    down: str = msgspec.field(name="multiplierDown", default="0")
    bid_up: str = msgspec.field(name="bidMultiplierUp", default="0")
    bid_down: str = msgspec.field(name="bidMultiplierDown", default="0")
    ask_up: str = msgspec.field(name="askMultiplierUp", default="0")
    ask_down: str = msgspec.field(name="askMultiplierDown", default="0")
    average_minutes: int = msgspec.field(name="avgPriceMins", default=0)
    max_orders: int = msgspec.field(name="maxNumOrders", default=0)
    limit: int = 0  # what futures call that


class _Listing(msgspec.Struct):
    symbol: str
    base: str = msgspec.field(name="baseAsset")
    quote: str = msgspec.field(name="quoteAsset")
    precision: int = msgspec.field(name="baseAssetPrecision", default=8)
    filters: list[_Filter] = []


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Listing]


_NO_FILTER = _Filter()


def _listed(listing: _Listing, exchange: str, symbol: str, ts_recv: int, fees: tuple[int, int]) -> Instrument:
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
        symbol,
        listing.base,
        listing.quote,
        tick,
        lot,
        max(1, to_units(size.min_quantity) // lot),
        to_units(size.max_quantity) // lot,
        max(to_units(notional.min_notional), to_units(notional.notional)),
        *fees,
        _FEES_AS_OF,
        **_order_rules(filters),
    )


def _order_rules(filters: dict[str, _Filter]) -> dict[str, Any]:
    """Return how far from the average price an order may be, and how many there may be."""
    by_side, either = filters.get("PERCENT_PRICE_BY_SIDE"), filters.get("PERCENT_PRICE", _NO_FILTER)
    buy, sell = (either.down, either.up), (either.down, either.up)
    if by_side:
        buy, sell = (by_side.bid_down, by_side.bid_up), (by_side.ask_down, by_side.ask_up)
    crowd = filters.get("MAX_NUM_ORDERS", _NO_FILTER)
    return {
        "buy_band_ppm": tuple(to_units(each) * PPM // UNIT for each in buy),
        "sell_band_ppm": tuple(to_units(each) * PPM // UNIT for each in sell),
        "average_minutes": (by_side or either).average_minutes,
        "max_orders": crowd.max_orders or crowd.limit,
    }


def _usdm_symbol_of(listing: _Listing) -> str:
    _, _, date = listing.symbol.partition("_")
    return f"{listing.base}/{listing.quote}" + (f"-20{date}" if date else PERPETUAL)


def parse_exchange_info(
    raw: bytes, exchange: str, ts_recv: int, *, is_usdm: bool = False
) -> dict[str, Instrument]:
    """
    Return the instruments of a REST exchangeInfo reply by the exchange's name for them.

    Fees are not in it: they are the entry tier's, dated. Raises: MalformedMessage.
    """
    fees = _USDM_FEES_PPM if is_usdm else _SPOT_FEES_PPM
    found: dict[str, Instrument] = {}
    try:
        for listing in msgspec.json.decode(raw, type=_ExchangeInfo).symbols:
            symbol = _usdm_symbol_of(listing) if is_usdm else f"{listing.base}/{listing.quote}"
            found[listing.symbol] = _listed(listing, exchange, symbol, ts_recv, fees)
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedMessage(f"malformed exchangeInfo: {error}") from None
    return found


class FundingTerms(msgspec.Struct, frozen=True):
    """How a perpetual's funding deviates from the rule: every interval_hours; cap and floor as text."""

    symbol: str
    interval_hours: Annotated[int, msgspec.Meta(ge=1, le=24 * 7)] = msgspec.field(name="fundingIntervalHours")
    cap: str = msgspec.field(name="adjustedFundingRateCap", default="0")
    floor: str = msgspec.field(name="adjustedFundingRateFloor", default="0")


_funding_terms = msgspec.json.Decoder(list[FundingTerms])


def parse_funding_info(raw: bytes) -> dict[str, FundingTerms]:
    """Return the terms in a REST fundingInfo reply, by the exchange's name. Raises: MalformedMessage."""
    return {terms.symbol: terms for terms in decoded(_funding_terms, raw)}


# --- Frames ---------------------------------------------------------------------------------------

# Bounds keep a corrupt number from travelling on as one that no codec can carry.
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Millis = Annotated[int, msgspec.Meta(ge=0, le=9_000_000_000_000)]  # the year 2255
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
    b: msgspec.Raw
    a: msgspec.Raw
    pu: _Number | None = None  # of futures alone


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


class _MarkPrice(msgspec.Struct, gc=False):
    E: _Millis
    p: str
    i: str = "0"
    r: str = "0"
    T: _Millis = 0


class _RestDepth(msgspec.Struct):
    last_update_id: _Number = msgspec.field(name="lastUpdateId")
    bids: msgspec.Raw
    asks: msgspec.Raw
    E: _Millis = 0


_envelopes = msgspec.json.Decoder(_Envelope)
_depths = msgspec.json.Decoder(_Depth)
_trades = msgspec.json.Decoder(_Trade)
_agg_trades = msgspec.json.Decoder(_AggTrade)
_book_tickers = msgspec.json.Decoder(_BookTicker)
_mark_prices = msgspec.json.Decoder(_MarkPrice)
_rest_depths = msgspec.json.Decoder(_RestDepth)


def split_frame(raw: bytes) -> tuple[str, bytes]:
    """
    Return the stream's name and the data of a combined-stream frame; ("", b"") for a reply to a request.

    Raises: MalformedMessage: no such frame, or an error of the exchange.
    """
    envelope = decoded(_envelopes, raw)
    if envelope.stream:
        return envelope.stream, bytes(envelope.data)
    if envelope.error != _NOTHING:
        raise MalformedMessage(f"error frame: {bytes(envelope.error)[:200]!r}")
    if envelope.result != _NOTHING:
        return "", b""
    raise MalformedMessage(f'malformed frame: expected {{"stream", "data"}}, was {raw[:80]!r}')


def parse_depth(data: bytes, instrument: Instrument, ts_recv: int) -> DepthUpdate:
    """Return a depthUpdate's levels: of futures where it has pu, else of spot. Raises: MalformedMessage."""
    depth = decoded(_depths, data)
    prior = depth.U - 1 if depth.pu is None else depth.pu
    if not prior < depth.u:
        raise MalformedMessage(f"malformed frame: expected {prior} < u, was {depth.u}")
    bids, asks = pack_json(bytes(depth.b), instrument), pack_json(bytes(depth.a), instrument)
    delta = BookDelta(
        ts_recv, depth.E * NS_PER_MS, instrument.exchange, instrument.symbol, depth.u, bids, asks
    )
    return DepthUpdate(prior, delta)


def _trade(trade: _Trade, instrument: Instrument, ts_recv: int) -> Trade:
    price, quantity = level(instrument, trade.p, trade.q)
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
    return _trade(decoded(_trades, data), instrument, ts_recv)


def parse_agg_trade(data: bytes, instrument: Instrument, ts_recv: int) -> Trade:
    """Return an aggTrade (one taker's fills at one price) as a Trade, its seq a. Raises: MalformedMessage."""
    return _trade(decoded(_agg_trades, data), instrument, ts_recv)


def parse_book_ticker(data: bytes, instrument: Instrument, ts_recv: int) -> Quote:
    """Return a bookTicker; spot gives it no time, so ts_event is 0. Raises: MalformedMessage."""
    ticker = decoded(_book_tickers, data)
    bid, bid_quantity = level(instrument, ticker.b, ticker.B)
    ask, ask_quantity = level(instrument, ticker.a, ticker.A)
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


def parse_mark_price(
    data: bytes, instrument: Instrument, ts_recv: int, terms: FundingTerms | None = None
) -> FundingUpdated:
    """
    Return a markPriceUpdate; without *terms* the interval is the usual 8 h. Raises: MalformedMessage.

    Its rate is the estimate of what will be paid at next_ts.
    """
    mark = decoded(_mark_prices, data)
    return FundingUpdated(
        ts_recv,
        mark.E * NS_PER_MS,
        instrument.exchange,
        instrument.symbol,
        nearest_ticks(instrument, mark.p),
        nearest_ticks(instrument, mark.i),
        units(mark.r),
        0,
        mark.T * NS_PER_MS,
        (terms.interval_hours if terms else 8) * 3600,
        units(terms.cap) if terms else 0,
        units(terms.floor) if terms else 0,
    )


def parse_snapshot(raw: bytes, instrument: Instrument, ts_recv: int) -> BookSnapshot:
    """Return a REST depth reply; that of spot has no time, so its ts_event is 0. Raises: MalformedMessage."""
    depth = decoded(_rest_depths, raw)
    return BookSnapshot(
        ts_recv,
        depth.E * NS_PER_MS,
        instrument.exchange,
        instrument.symbol,
        depth.last_update_id,
        pack_json(bytes(depth.bids), instrument),
        pack_json(bytes(depth.asks), instrument),
    )


# --- The feeds ------------------------------------------------------------------------------------

_Parser = Callable[[bytes, Instrument, int], Message]

_PARSERS: dict[str, _Parser] = {
    "trade": parse_trade,
    "aggTrade": parse_agg_trade,
    "bookTicker": parse_book_ticker,
}


class SpotFeed(Feed):
    """Everything that arrives from one spot exchange of the family."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._routes: dict[str, tuple[Market, _Parser | None]] = {}

    def symbol_of(self, wire: str) -> str:
        return concatenated(wire)

    def wire_of(self, symbol: str) -> str:
        return to_concatenated(symbol)

    def _unlisted(self, wire: str) -> Instrument:
        return default_instrument(self.exchange, wire)

    def _sync(self, instrument: Instrument, was_whole: bool) -> DepthSync:
        return DepthSync(instrument.exchange, instrument.symbol, was_whole=was_whole)

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        stream, data = split_frame(raw)
        if not stream:
            return []
        market, parse = self._routes.get(stream) or self._route(stream)
        self._counting = market.count
        if parse is None:
            messages = self._depth(market, data, ts_recv)
        else:
            messages = [parse(data, market.instrument, ts_recv)]
        return messages if market.is_announced else self._announced(market, ts_recv, messages)

    def _depth(self, market: Market, data: bytes, ts_recv: int) -> list[Message]:
        try:
            update = parse_depth(data, market.instrument, ts_recv)
        except MalformedMessage as error:
            return self._unread(market, ts_recv, error)
        messages: list[Message] = market.sync.on_depth(update)
        return messages

    def _reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        path, wire = path_of(url), query_of(url, "symbol")
        if path.endswith("/depth") and wire:
            market = self._market(wire)
            snapshot = parse_snapshot(raw, market.instrument, ts_recv)
            return self._announced(market, ts_recv, market.sync.on_snapshot(snapshot))
        if path.endswith("/exchangeInfo"):
            self._instruments |= self._listing(raw, ts_recv)
            return []
        raise MalformedMessage(f"unsupported request: {path[:64]}")

    def _listing(self, raw: bytes, ts_recv: int) -> dict[str, Instrument]:
        return parse_exchange_info(raw, self.exchange, ts_recv)

    def rest_book(self, ts_recv: int, url: str, raw: bytes) -> BookSnapshot | None:
        return parse_snapshot(raw, self._market(query_of(url, "symbol")).instrument, ts_recv)

    def _route(self, stream: str) -> tuple[Market, _Parser | None]:
        wire, _, kind = stream.partition("@")
        kind = kind.split("@")[0]
        if kind != "depth" and kind not in _PARSERS:
            raise unsupported(stream)
        route = self._routes[stream] = self._market(wire.upper()), _PARSERS.get(kind)
        return route


class UsdmFeed(SpotFeed):
    """Everything that arrives from the family's USD-M futures: as spot, and mark prices with funding."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._terms: dict[str, FundingTerms] = {}

    def symbol_of(self, wire: str) -> str:
        return usdm_symbol(wire)

    def wire_of(self, symbol: str) -> str:
        return usdm_wire(symbol)

    def _unlisted(self, wire: str) -> Instrument:
        return Feed._unlisted(self, wire)

    def _listing(self, raw: bytes, ts_recv: int) -> dict[str, Instrument]:
        return parse_exchange_info(raw, self.exchange, ts_recv, is_usdm=True)

    def _reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        if path_of(url).endswith("/fundingInfo"):
            self._terms |= parse_funding_info(raw)
            return []
        return super()._reply(ts_recv, url, raw)

    def _route(self, stream: str) -> tuple[Market, _Parser | None]:
        wire, _, kind = stream.partition("@")
        if kind.split("@")[0] != "markPrice":
            return super()._route(stream)
        wire = wire.upper()

        def parse(data: bytes, instrument: Instrument, ts_recv: int) -> Message:
            return parse_mark_price(data, instrument, ts_recv, self._terms.get(wire))

        route = self._routes[stream] = self._market(wire), parse
        return route
