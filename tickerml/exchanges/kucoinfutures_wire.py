"""
KuCoin Futures' wire format: its frames and REST replies as kernel messages.

The frames are those of the spot market (kucoin_wire.py) with other subjects, and a book changes
one level at a time, each change with the next sequence; the REST snapshot is joined as there:

    {"topic":"/contractMarket/level2:XBTUSDTM","subject":"level2",
     "data":{"sequence":18,"change":"5000.0,sell,83","timestamp":1551770400000}}

A quantity is a number of contracts, each of multiplier of the base asset where a contract is
linear (XBTUSDTM, "BTC/USDT-PERP"), of the quote asset where it is inverse (XBTUSDM, which is
"BTC/USD-PERP-INVERSE"). XBT is BTC.

What a perpetual pays comes in pieces: the listing has its interval, bounds, rates and next
payment; mark.index.price the values; funding.rate a prediction every minute and, with a
granularity of the whole interval, the rate itself. Each piece gives one FundingUpdated with
the rest as it was last known; a payment that has passed is followed by the next.
Source: KuCoin API, futures, public channels and market data.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    PPM,
    UNIT,
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
from .feed import Feed, Market, decoded, path_of, query_of, unsupported
from .kucoin_sync import Change, KucoinSync, LevelUpdate
from .kucoin_wire import data_of, parse_envelope
from .symbols import INVERSE, PERPETUAL

_BTC, _XBT = "BTC", "XBT"
_QUOTES = ("USDT", "USDC", "USD")  # as they stand in a wire, longest first

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Millis = Annotated[int, msgspec.Meta(ge=0, le=9_000_000_000_000)]  # the year 2255
_ZERO = msgspec.Raw(b"0")
_PREDICTED_MS = 60_000  # granularity of a funding.rate that is a prediction

_SIDES = {"buy": Side.BUY, "sell": Side.SELL}
_PARTS = {"depth20": 20, "depth100": 100}
_FEES_AS_OF = "2026-11-22"

# How many limit orders a classic account may have open in one contract. Source: KuCoin API, place order.
_MAX_ORDERS = 100


class _Change(msgspec.Struct, gc=False):
    sequence: _Number
    change: str
    timestamp: _Millis = 0


class _Match(msgspec.Struct, gc=False):
    sequence: _Number
    side: str
    size: msgspec.Raw
    price: msgspec.Raw
    ts: _Number  # ns


class _Ticker(msgspec.Struct, gc=False):
    sequence: _Number
    bid: msgspec.Raw = msgspec.field(name="bestBidPrice")
    bid_size: msgspec.Raw = msgspec.field(name="bestBidSize")
    ask: msgspec.Raw = msgspec.field(name="bestAskPrice")
    ask_size: msgspec.Raw = msgspec.field(name="bestAskSize")
    ts: _Number = 0  # ns


class _Values(msgspec.Struct, gc=False):
    mark: msgspec.Raw = msgspec.field(name="markPrice")
    index: msgspec.Raw = msgspec.field(name="indexPrice")
    timestamp: _Millis


class _Rate(msgspec.Struct, gc=False):
    granularity: int
    rate: msgspec.Raw = msgspec.field(name="fundingRate")
    timestamp: _Millis


class _Depth(msgspec.Struct):
    sequence: _Number
    bids: list[tuple[msgspec.Raw, msgspec.Raw]]
    asks: list[tuple[msgspec.Raw, msgspec.Raw]]
    ts: _Number = 0  # ns


class _Contract(msgspec.Struct):
    symbol: str
    base: str = msgspec.field(name="baseCurrency")
    quote: str = msgspec.field(name="quoteCurrency")
    tick: msgspec.Raw = msgspec.field(name="tickSize")
    multiplier: msgspec.Raw
    is_inverse: bool = msgspec.field(name="isInverse", default=False)
    lots: int | None = msgspec.field(name="lotSize", default=1)
    max_quantity: int | None = msgspec.field(name="maxOrderQty", default=0)
    maker_fee: float | None = msgspec.field(name="makerFeeRate", default=0.0)
    taker_fee: float | None = msgspec.field(name="takerFeeRate", default=0.0)
    expires_ms: _Millis | None = msgspec.field(name="expireDate", default=None)
    mark: msgspec.Raw = msgspec.field(name="markPrice", default=_ZERO)
    index: msgspec.Raw = msgspec.field(name="indexPrice", default=_ZERO)
    rate: msgspec.Raw = msgspec.field(name="fundingFeeRate", default=_ZERO)
    predicted: msgspec.Raw = msgspec.field(name="predictedFundingFeeRate", default=_ZERO)
    interval_ms: int | None = msgspec.field(name="fundingRateGranularity", default=0)
    left_ms: int | None = msgspec.field(name="nextFundingRateTime", default=0)
    next_ms: int | None = msgspec.field(name="nextFundingRateDateTime", default=0)
    cap: msgspec.Raw = msgspec.field(name="fundingRateCap", default=_ZERO)
    floor: msgspec.Raw = msgspec.field(name="fundingRateFloor", default=_ZERO)


_changes = msgspec.json.Decoder(_Change, strict=False)
_matches = msgspec.json.Decoder(_Match, strict=False)
_tickers = msgspec.json.Decoder(_Ticker, strict=False)
_values = msgspec.json.Decoder(_Values)
_rates = msgspec.json.Decoder(_Rate)
_depths = msgspec.json.Decoder(_Depth, strict=False)
_contracts = msgspec.json.Decoder(list[_Contract])


def _number(raw: msgspec.Raw) -> str:
    text = text_of(raw)
    return "" if text == "null" else text


# --- Names and instruments --------------------------------------------------------------------------


def to_symbol(wire: str) -> str:
    """
    Return a perpetual's "XBTUSDTM" as "BTC/USDT-PERP", "XBTUSDM" as "BTC/USD-PERP-INVERSE".

    Raises: MalformedMessage: it is no perpetual's name.
    """
    pair = wire.removesuffix("M")
    quote = next((each for each in _QUOTES if pair.endswith(each)), "")
    base = pair.removesuffix(quote)
    if pair == wire or not quote or not base.isalnum():
        raise MalformedMessage(f"unknown symbol: expected a perpetual as XBTUSDTM, was {wire[:32]!r}")
    return _named(base, quote, quote == "USD")


def to_wire(symbol: str) -> str:
    """Return "BTC/USDT-PERP" as "XBTUSDTM"."""
    base, _, quote = symbol.partition("/")
    return f"{_XBT if base == _BTC else base}{quote.partition('-')[0]}M"


def _named(base: str, quote: str, is_inverse: bool) -> str:
    base = _BTC if base == _XBT else base
    return f"{base}/{quote}{PERPETUAL}" + (INVERSE if is_inverse else "")


class Listed(NamedTuple):
    """One contract of the listing: what it is, and what it pays as far as the listing says."""

    instrument: Instrument
    funding: FundingUpdated


def parse_contracts(raw: bytes, exchange: str, ts_recv: int) -> dict[str, Listed]:
    """
    Return the perpetuals of a reply to /api/v1/contracts/active by the exchange's names.

    Fees are the contract's own. Contracts with an end are left out. Raises: MalformedMessage.
    """
    contracts = decoded(_contracts, data_of(raw))
    perpetuals = [contract for contract in contracts if not contract.expires_ms]
    return {contract.symbol: _listed(exchange, contract, ts_recv) for contract in perpetuals}


def _listed(exchange: str, contract: _Contract, ts_recv: int) -> Listed:
    tick, lot = units(_number(contract.tick)), abs(units(_number(contract.multiplier)))
    if tick <= 0 or lot <= 0:
        raise MalformedMessage(
            f"malformed listing: expected steps above 0, was {tick} and {lot} of {contract.symbol}"
        )
    symbol = _named(contract.base, contract.quote, contract.is_inverse)
    instrument = Instrument(
        ts_recv,
        exchange,
        symbol,
        symbol.partition("/")[0],
        contract.quote,
        tick,
        lot,
        contract.lots or 1,
        contract.max_quantity or 0,
        0,
        round((contract.maker_fee or 0) * PPM),
        round((contract.taker_fee or 0) * PPM),
        _FEES_AS_OF,
        "inverse" if contract.is_inverse else "linear",
        max_orders=_MAX_ORDERS,
    )
    return Listed(instrument, _funding(contract, instrument, ts_recv))


def _funding(contract: _Contract, instrument: Instrument, ts_recv: int) -> FundingUpdated:
    next_ns = (contract.next_ms or 0) * NS_PER_MS
    if not next_ns and contract.left_ms:
        next_ns = ts_recv + contract.left_ms * NS_PER_MS
    return FundingUpdated(
        ts_recv,
        0,
        instrument.exchange,
        instrument.symbol,
        nearest_ticks(instrument, _number(contract.mark)),
        nearest_ticks(instrument, _number(contract.index)),
        units(_number(contract.rate)),
        units(_number(contract.predicted)),
        next_ns,
        (contract.interval_ms or 0) // 1000,
        units(_number(contract.cap)),
        units(_number(contract.floor)),
    )


# --- Frames -----------------------------------------------------------------------------------------


def _level(instrument: Instrument, price: str, contracts: str) -> tuple[int, int]:
    ticks, _ = level(instrument, price, "0")
    if not (contracts.isascii() and contracts.isdigit() and len(contracts) < 19):
        raise MalformedMessage(
            f"number off the grid: {instrument.symbol}: expected whole contracts, was {contracts[:40]!r}"
        )
    return ticks, int(contracts)


def parse_change(data: msgspec.Raw, instrument: Instrument) -> LevelUpdate:
    """Return the data of a level2 frame: one level. Raises: MalformedMessage."""
    change = decoded(_changes, data)
    price, _, rest = change.change.partition(",")
    side, _, quantity = rest.partition(",")
    known: list[Change] = [(*_level(instrument, price, quantity), change.sequence)]
    is_bid = _side(side) is Side.BUY
    ts_event = change.timestamp * NS_PER_MS
    return LevelUpdate(
        change.sequence, change.sequence, ts_event, known if is_bid else [], [] if is_bid else known
    )


def _side(text: str) -> Side:
    if (side := _SIDES.get(text)) is None:
        raise MalformedMessage(f"malformed frame: expected a side of buy or sell, was {text[:16]!r}")
    return side


def parse_match(data: msgspec.Raw, instrument: Instrument, ts_recv: int) -> Trade:
    """Return the data of an execution; its side is the taker's. Raises: MalformedMessage."""
    match = decoded(_matches, data)
    price, quantity = _level(instrument, text_of(match.price), text_of(match.size))
    return Trade(
        ts_recv,
        match.ts,
        instrument.exchange,
        instrument.symbol,
        match.sequence,
        price,
        quantity,
        _side(match.side),
    )


def parse_ticker(data: msgspec.Raw, instrument: Instrument, ts_recv: int) -> Quote | None:
    """Return the data of a tickerV2; None where a side of the book is empty. Raises: MalformedMessage."""
    ticker = decoded(_tickers, data)
    bid, ask = _number(ticker.bid), _number(ticker.ask)
    if not (bid and ask):
        return None
    bid_ticks, bid_quantity = _level(instrument, bid, _number(ticker.bid_size))
    ask_ticks, ask_quantity = _level(instrument, ask, _number(ticker.ask_size))
    return Quote(
        ts_recv,
        ticker.ts,
        instrument.exchange,
        instrument.symbol,
        ticker.sequence,
        bid_ticks,
        bid_quantity,
        ask_ticks,
        ask_quantity,
    )


def parse_depth(raw: bytes, instrument: Instrument, ts_recv: int) -> BookSnapshot:
    """Return the reply to a request for an order book. Raises: MalformedMessage."""
    depth = decoded(_depths, data_of(raw))
    return BookSnapshot(
        ts_recv,
        depth.ts,
        instrument.exchange,
        instrument.symbol,
        depth.sequence,
        pack_levels(_level(instrument, text_of(price), text_of(size)) for price, size in depth.bids),
        pack_levels(_level(instrument, text_of(price), text_of(size)) for price, size in depth.asks),
    )


# --- One exchange -----------------------------------------------------------------------------------


class KucoinFuturesFeed(Feed):
    """Everything that arrives from KuCoin Futures, as kernel messages; it does no I/O."""

    def __init__(self, exchange: str, log: Any, **how: Any) -> None:
        """As Feed."""
        super().__init__(exchange, log, **how)
        self._fundings: dict[str, FundingUpdated] = {}  # the last known, by wire
        self._readers: dict[str, Callable[[int, Market, msgspec.Raw], list[Message]]] = {
            "level2": self._on_change,
            "match": self._on_match,
            "tickerV2": self._on_ticker,
            "mark.index.price": self._on_values,
            "funding.rate": self._on_rate,
        }

    def symbol_of(self, wire: str) -> str:
        return to_symbol(wire)

    def wire_of(self, symbol: str) -> str:
        return to_wire(symbol)

    def rest_book(self, ts_recv: int, url: str, raw: bytes) -> BookSnapshot | None:
        return parse_depth(raw, self._market(query_of(url, "symbol")).instrument, ts_recv)

    def _unlisted(self, wire: str) -> Instrument:
        known = super()._unlisted(wire)
        contract = "inverse" if known.symbol.endswith(INVERSE) else "linear"
        return msgspec.structs.replace(known, lot_size=UNIT, contract=contract)

    def _sync(self, instrument: Instrument, was_whole: bool) -> KucoinSync:
        return KucoinSync(instrument.exchange, instrument.symbol, was_whole=was_whole)

    def _frame(self, ts_recv: int, raw: bytes) -> list[Message]:
        envelope = parse_envelope(raw)
        if envelope is None:
            return []
        if (read := self._readers.get(envelope.subject)) is None:
            raise unsupported(envelope.subject)
        market = self._market(envelope.topic.partition(":")[2])
        return self._announced(market, ts_recv, read(ts_recv, market, envelope.data))

    def _on_change(self, ts_recv: int, market: Market, data: msgspec.Raw) -> list[Message]:
        sync: KucoinSync = market.sync
        try:
            return sync.on_update(parse_change(data, market.instrument), ts_recv)
        except MalformedMessage as error:
            return self._unread(market, ts_recv, error)

    def _on_match(self, ts_recv: int, market: Market, data: msgspec.Raw) -> list[Message]:
        return [parse_match(data, market.instrument, ts_recv)]

    def _on_ticker(self, ts_recv: int, market: Market, data: msgspec.Raw) -> list[Message]:
        quote = parse_ticker(data, market.instrument, ts_recv)
        return [quote] if quote else []

    # --- What a perpetual pays ------------------------------------------------------------------

    def _on_values(self, ts_recv: int, market: Market, data: msgspec.Raw) -> list[Message]:
        values, instrument = decoded(_values, data), market.instrument
        mark, index = (nearest_ticks(instrument, _number(each)) for each in (values.mark, values.index))
        return self._paid(market, ts_recv, values.timestamp, mark=mark, index=index)

    def _on_rate(self, ts_recv: int, market: Market, data: msgspec.Raw) -> list[Message]:
        rate = decoded(_rates, data)
        name = "predicted" if rate.granularity == _PREDICTED_MS else "rate"
        return self._paid(market, ts_recv, rate.timestamp, **{name: units(_number(rate.rate))})

    def _paid(self, market: Market, ts_recv: int, at_ms: int, **what: int) -> list[Message]:
        known = self._fundings.get(market.wire)
        if known is None:
            i = market.instrument
            known = FundingUpdated(ts_recv, 0, i.exchange, i.symbol, 0, 0, 0, 0, 0, 0)
        ts_event, interval_ns = at_ms * NS_PER_MS, known.interval_s * NS_PER_S
        if known.next_ts and interval_ns and ts_event >= known.next_ts:
            passed = (ts_event - known.next_ts) // interval_ns + 1
            what["next_ts"] = known.next_ts + passed * interval_ns
        funding = msgspec.structs.replace(known, ts_recv=ts_recv, ts_event=ts_event, **what)
        self._fundings[market.wire] = funding
        return [funding]

    # --- REST -----------------------------------------------------------------------------------

    def _reply(self, ts_recv: int, url: str, raw: bytes) -> list[Message]:
        path = path_of(url)
        if path.endswith("/contracts/active"):
            listed = parse_contracts(raw, self.exchange, ts_recv)
            self._instruments |= {wire: each.instrument for wire, each in listed.items()}
            self._fundings |= {wire: each.funding for wire, each in listed.items()}
            return []
        kind = path.rpartition("/")[2]
        if "/level2/" not in path or (kind != "snapshot" and kind not in _PARTS):
            raise MalformedMessage(f"unsupported request: {path[:64]}")
        market = self._market(query_of(url, "symbol"))
        snapshot = parse_depth(raw, market.instrument, ts_recv)
        sync: KucoinSync = market.sync
        return self._announced(market, ts_recv, sync.on_rest(snapshot, _PARTS.get(kind, 0)))
