"""
Any other exchange, live, through ccxt.pro: sampled books, trades and quotes, without keys.

ccxt hands out the latest state of a book and keeps no list of what changed; a gap that it does
not look for is not seen, and updates are lost where it is slow. So its books are published as
snapshots, at most one in sample_ms, their instruments say is_sampled, and no simulator rests an
order in one. Numbers come as floats and are brought to the nearest tick and lot.

Whatever goes wrong in it (an exception in a handler stops its socket for good, measured at up
to 89 s of silence) costs the whole client: it is closed, and after a backoff there is a new one.
It takes a hundred megabytes, so it belongs into a host of its own, and it is imported only when
the plugin is built: pip install 'tickerml[ccxt]'.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    PPM,
    UNIT,
    BookResynced,
    BookSnapshot,
    ConfigError,
    Context,
    ExchangeSpec,
    FeedConnected,
    FeedDisconnected,
    FeedLost,
    FeedSummarized,
    Instrument,
    Message,
    Options,
    Quote,
    Side,
    Trade,
    hookimpl,
    pack_levels,
)

from .feed import Tally
from .session import Backoff
from .symbols import INVERSE, PERPETUAL

_TICK_SIZE = 4  # ccxt's precisionMode in which a precision is a step; otherwise it is a number of decimals
_FINEST = Decimal("0.00000001")
_INBOX = 10_000
_SIDES = {"buy": Side.BUY, "sell": Side.SELL}

# What of a client is watched, and what its list of abilities calls it.
_WATCHED = {
    "watch_order_book": "watchOrderBook",
    "watch_trades": "watchTrades",
    "watch_ticker": "watchTicker",
}


class CcxtOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which exchange and markets, how often a book is looked at, and when silence is an event."""

    exchange: Annotated[str, msgspec.Meta(description="The exchange, as ccxt names it: bitstamp.")] = ""
    symbols: Annotated[
        list[str],
        msgspec.Meta(
            min_length=1,
            max_length=50,
            description="Markets to follow, as ccxt names them: BTC/USD, BTC/USDT:USDT.",
        ),
    ] = msgspec.field(default_factory=lambda: ["BTC/USD"])
    name: Annotated[str, msgspec.Meta(description="Name to publish as; empty: ccxt's.")] = ""
    config: Annotated[
        dict[str, Any],
        msgspec.Meta(description="What ccxt's constructor takes: urls, options, enableRateLimit."),
    ] = msgspec.field(default_factory=dict)
    depth: Annotated[int, msgspec.Meta(ge=1, le=1000, description="Levels of each side to publish.")] = 50
    sample_ms: Annotated[
        int, msgspec.Meta(ge=10, description="Least time between two snapshots of a book, in ms.")
    ] = 250
    silent_after_s: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds without any data after which the client is replaced.")
    ] = 60.0
    summary_s: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds between two summaries of what was seen.")
    ] = 60.0


# --- What ccxt says, as messages --------------------------------------------------------------------


class Scale(NamedTuple):
    """A market of ccxt's as an instrument, and the steps of its floats: a contract is one step."""

    instrument: Instrument
    price_step: Decimal
    amount_step: Decimal

    def ticks(self, price: float) -> int:
        """Return *price* in ticks, the nearest."""
        return _steps(price, self.price_step)

    def lots(self, amount: float) -> int:
        """Return *amount*, of base or of contracts, in lots, the nearest."""
        return _steps(amount, self.amount_step)


def _steps(value: float, step: Decimal) -> int:
    # The shortest text that is this float is the text it was read from.
    return int((Decimal(repr(value)) / step).to_integral_value(ROUND_HALF_EVEN))


def _step(precision: float | None, mode: int) -> Decimal:
    if precision is None:
        return _FINEST
    return Decimal(repr(precision)) if mode == _TICK_SIZE else Decimal(1).scaleb(-int(precision))


def scale_of(market: dict[str, Any], exchange: str, ts_recv: int, precision_mode: int) -> Scale:
    """
    Return what ccxt's *market* is: "BTC/USDT:USDT" is "BTC/USDT-PERP", "BTC/USD:BTC" "BTC/USD-PERP-INVERSE".

    Raises: ConfigError: neither a spot market nor a perpetual.
    """
    if not (market.get("spot") or market.get("swap")):
        raise ConfigError(f"exchange-ccxt symbols: expected spot or a perpetual, was {market['symbol']}")
    price_step = _step(market["precision"].get("price"), precision_mode)
    amount_step = _step(market["precision"].get("amount"), precision_mode)
    if market.get("spot"):
        amount_step = min(amount_step, _FINEST)  # a book holds what is left of orders in finer steps
    lot = amount_step * Decimal(repr(market.get("contractSize") or 1))
    limits = market.get("limits") or {}
    contract = "" if market.get("spot") else "inverse" if market.get("inverse") else "linear"
    suffix = {"": "", "linear": PERPETUAL, "inverse": PERPETUAL + INVERSE}[contract]
    instrument = Instrument(
        ts_recv,
        exchange,
        f"{market['base']}/{market['quote']}{suffix}",
        market["base"],
        market["quote"],
        max(1, int(price_step * UNIT)),
        max(1, int(lot * UNIT)),
        max(1, _limit(limits, "amount", amount_step)),
        0,
        _limit(limits, "cost", Decimal(1) / UNIT),
        round((market.get("maker") or 0) * PPM),
        round((market.get("taker") or 0) * PPM),
        contract=contract,
        is_sampled=True,
    )
    return Scale(instrument, price_step, amount_step)


def _limit(limits: dict[str, Any], what: str, step: Decimal) -> int:
    least = (limits.get(what) or {}).get("min") or 0
    return int((Decimal(repr(least)) / step).to_integral_value(ROUND_CEILING))


def book_of(book: dict[str, Any], scale: Scale, ts_recv: int, seq: int, depth: int) -> BookSnapshot:
    """Return ccxt's *book* as it is now, copied: ccxt goes on changing the one it gave."""
    sides = (
        pack_levels([(scale.ticks(row[0]), scale.lots(row[1])) for row in book[side][:depth] if row[1]])
        for side in ("bids", "asks")
    )
    i, ts_event = scale.instrument, (book.get("timestamp") or 0) * NS_PER_MS
    return BookSnapshot(ts_recv, ts_event, i.exchange, i.symbol, seq, *sides)


def trade_of(trade: dict[str, Any], scale: Scale, ts_recv: int, seq: int) -> Trade | None:
    """Return ccxt's *trade*, its seq where the exchange numbers them; None where it says no side."""
    if (side := _SIDES.get(trade.get("side") or "")) is None:
        return None
    number, i = str(trade.get("id") or ""), scale.instrument
    return Trade(
        ts_recv,
        (trade.get("timestamp") or 0) * NS_PER_MS,
        i.exchange,
        i.symbol,
        int(number) if number.isdecimal() and len(number) < 19 else seq,
        scale.ticks(trade["price"]),
        scale.lots(trade["amount"]),
        side,
    )


def quote_of(ticker: dict[str, Any], scale: Scale, ts_recv: int) -> Quote | None:
    """Return the best bid and ask of ccxt's *ticker*; None where it lacks a price or a quantity."""
    best = [ticker.get(name) for name in ("bid", "bidVolume", "ask", "askVolume")]
    if not all(best):
        return None
    bid, bid_lots, ask, ask_lots = (float(number or 0) for number in best)
    i, ts_event = scale.instrument, (ticker.get("timestamp") or 0) * NS_PER_MS
    return Quote(
        ts_recv,
        ts_event,
        i.exchange,
        i.symbol,
        0,
        scale.ticks(bid),
        scale.lots(bid_lots),
        scale.ticks(ask),
        scale.lots(ask_lots),
    )


# --- The feed ---------------------------------------------------------------------------------------


class _State(msgspec.Struct, array_like=True):
    tally: Tally
    was_up: bool


class CcxtFeed:
    """One client of ccxt.pro after the other, each until something goes wrong in it."""

    def __init__(self, ctx: Context, options: CcxtOptions) -> None:
        """
        Raises: ConfigError: ccxt is not installed, or knows no such exchange.
        """
        try:
            library = import_module("ccxt.pro")
        except ImportError:
            raise ConfigError(
                "exchange-ccxt needs ccxt, which is not installed: pip install 'tickerml[ccxt]'"
            ) from None
        if options.exchange not in library.exchanges:
            raise ConfigError(
                f"exchange-ccxt exchange: expected one that ccxt.pro knows, was {options.exchange!r}"
            )
        self._client_of = getattr(library, options.exchange)
        self._ctx = ctx
        self._options = options
        self._exchange = options.name or options.exchange
        self._tally = Tally()
        self._was_up = False  # whether a feed before this one left books behind
        self._is_up = False
        self._is_lost = False
        self._scales: dict[str, Scale] = {}  # by ccxt's symbol, as all of these
        self._fresh: dict[str, Any] = {}  # books that changed since they were last published
        self._broken: dict[str, None] = {}  # books that were lost and are not there again
        self._numbers: dict[str, int] = {}  # of snapshots and unnumbered trades

    async def stream(self) -> AsyncGenerator[Sequence[Message], None]:
        """
        Yield messages until closed, with a new client whenever the last one failed.

        Raises: ConfigError: the exchange has none of the markets.
        """
        backoff = Backoff(self._ctx, "ccxt")
        summarized = self._ctx.clock.now()
        self._is_lost = False
        if self._was_up:
            yield self._lost("the feed was started again", 0)
        while True:
            try:
                async with aclosing(self._session()) as session:
                    async for messages in session:
                        yield messages
                        backoff.reset()
                        if (now := self._ctx.clock.now()) - summarized >= self._options.summary_s * NS_PER_S:
                            summarized = now
                            yield self.summarize()
            except ConfigError:
                raise
            except Exception as error:  # ccxt raises what it likes, from any of its handlers
                wait_s = backoff.next_s()
                if lost := self._lost(f"{type(error).__name__}: {error}"[:200], round(wait_s * 1000)):
                    yield lost
                await asyncio.sleep(wait_s)
            finally:
                self._was_up = self._was_up or self._is_up
                self._is_up = False

    def _up(self) -> list[Message]:
        # With the first data of a client.
        self._is_up, self._is_lost = True, False
        instruments = [scale.instrument for scale in self._scales.values()]
        symbols = [instrument.symbol for instrument in instruments]
        self._ctx.log.info("feed.connected", exchange=self._exchange, symbols=symbols)
        return [FeedConnected(self._ctx.clock.now(), self._exchange, symbols), *instruments]

    def _lost(self, reason: str, retry_in_ms: int) -> list[Message]:
        # Said once, until there is data again.
        if self._is_lost:
            return []
        self._is_lost = True
        self._broken = dict.fromkeys(self._options.symbols)
        self._ctx.log.warning("feed.lost", exchange=self._exchange, reason=reason, retry_in_ms=retry_in_ms)
        return [FeedLost(self._ctx.clock.now(), self._exchange, reason, retry_in_ms)]

    async def _session(self) -> AsyncGenerator[Sequence[Message], None]:
        # One client: what it says, until it raises or says nothing for too long.
        client = self._client_of(self._options.config)
        inbox: asyncio.Queue[Sequence[Message] | Exception] = asyncio.Queue(_INBOX)
        tasks: list[asyncio.Task[None]] = []
        try:
            await client.load_markets()
            self._scales, self._fresh = self._chosen(client), {}
            works = [self._sample(inbox)]
            for symbol in self._scales:
                works += [self._watch(inbox, client, what, symbol) for what in _WATCHED]
            tasks += [asyncio.create_task(_guarded(work, inbox)) for work in works]
            while True:
                async with asyncio.timeout(self._options.silent_after_s):
                    said = await inbox.get()
                if isinstance(said, Exception):
                    raise said
                yield said if self._is_up else [*self._up(), *said]
        except TimeoutError:
            raise FeedDisconnected(f"no data for {self._options.silent_after_s:g} s") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await client.close()

    def _chosen(self, client: Any) -> dict[str, Scale]:
        now, known = self._ctx.clock.now(), client.markets
        unlisted = [symbol for symbol in self._options.symbols if symbol not in known]
        if len(unlisted) == len(self._options.symbols):
            raise ConfigError(
                f"exchange-ccxt symbols: expected markets that {self._options.exchange} lists, was {unlisted}"
            )
        if unlisted:
            self._ctx.log.error("feed.symbols_unlisted", exchange=self._exchange, symbols=unlisted)
        return {
            symbol: scale_of(known[symbol], self._exchange, now, client.precisionMode)
            for symbol in self._options.symbols
            if symbol in known
        }

    async def _watch(self, inbox: asyncio.Queue[Any], client: Any, what: str, symbol: str) -> None:
        if not client.has.get(_WATCHED[what]):
            return
        watch, scale = getattr(client, what), self._scales[symbol]
        while True:
            said = await watch(symbol)
            count = self._tally.count(scale.instrument.symbol)
            count.messages += 1
            if what == "watch_order_book":
                self._fresh[symbol] = said
            elif messages := self._told(said, scale):
                await inbox.put(messages)

    def _told(self, said: Any, scale: Scale) -> list[Message]:
        now = self._ctx.clock.now()
        if isinstance(said, dict):
            quote = quote_of(said, scale, now)
            return [quote] if quote else []
        trades = [trade_of(each, scale, now, self._number(scale)) for each in said]
        return [trade for trade in trades if trade]

    async def _sample(self, inbox: asyncio.Queue[Any]) -> None:
        while True:
            await asyncio.sleep(self._options.sample_ms / 1000)
            fresh, self._fresh = self._fresh, {}
            for symbol, book in fresh.items():
                now, scale = self._ctx.clock.now(), self._scales[symbol]
                snapshot = book_of(book, scale, now, self._number(scale), self._options.depth)
                messages: list[Message] = [snapshot]
                if symbol in self._broken:
                    del self._broken[symbol]
                    messages.append(BookResynced(now, self._exchange, snapshot.symbol, snapshot.seq))
                await inbox.put(messages)

    def _number(self, scale: Scale) -> int:
        symbol = scale.instrument.symbol
        number = self._numbers[symbol] = self._numbers.get(symbol, 0) + 1
        return number

    def summarize(self) -> list[FeedSummarized]:
        """Return what has been seen so far."""
        return [self._tally.summary(self._ctx.clock.now(), self._exchange)]

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(_State(self._tally, self._is_up or self._was_up))

    def restore(self, state: bytes) -> None:
        restored = msgspec.msgpack.decode(state, type=_State)
        self._tally, self._was_up = restored.tally, restored.was_up


async def _guarded(work: Any, inbox: asyncio.Queue[Any]) -> None:
    # A task that dies must not die alone: the session raises what it raised.
    try:
        await work
    except Exception as error:
        await inbox.put(error)


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-ccxt",
            factory=CcxtFeed,
            options=CcxtOptions,
            publishes=(
                Instrument,
                BookSnapshot,
                Trade,
                Quote,
                FeedConnected,
                FeedLost,
                BookResynced,
                FeedSummarized,
            ),
            is_live=True,
            summary="sampled books, trades and quotes of any exchange, through ccxt.pro",
        )
    ]
