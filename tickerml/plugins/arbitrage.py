"""
Arbitrage monitor: where one exchange pays more for something than another asks, after everything.

Books of the same base asset are held against one another whenever a best price changes. A pair whose
best prices leave nothing after both fees is refused at once, which is nearly always; the others are
walked level by level (arbitrage_walk.py). What must be left of each unit, theta, is theta_bps, what
moving the inventory back costs (rebalancing_bps), and a haircut for the time that orders take,
sigma x sqrt(L95 of the one + L95 of the other), sigma being the livelier book's EWMA of squared
returns of a second. Both books, and the one between two quotes, must be trusted and young.

An opportunity lasts as long as that is so, and ArbitrageSeen and ArbitrageEnded tell of it. Whether
one could have had it is another question. Orders sent at first sight arrive after L95; what each
exchange's book was then is known once its first message from after that is here, and the last
book from before is what they would have met. is_capturable is decided by that: the quantity first
seen at the prices first accepted, and still above nothing.

Nothing is ordered here: that is strategy-arbitrage's.
"""

from collections.abc import Iterable, Iterator
from itertools import permutations
from math import isqrt
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    PPM,
    UNIT,
    ArbitrageEnded,
    ArbitrageSeen,
    BookDelta,
    BookSnapshot,
    BookStale,
    ChecksumFailed,
    Context,
    FeatureSetSpec,
    FeedLost,
    Instrument,
    Options,
    PortfolioSnapshot,
    SequenceGap,
    StateRefused,
    Timer,
    hookimpl,
    to_units,
)

from . import arbitrage_walk as walk
from .arbitrage_pairs import DEPTH, Arrival, Copy, Market, Name, Pair, copy_of, make_pair
from .arbitrage_walk import PPB, Match, Rate

MONITOR = "arbitrage-monitor"
LATENCY_P95_MS = {"binanceus": 100, "coinbase": 200, "kraken": 300, "kucoin": 180}
OTHER_P95_MS = 150
QUIET_NS = NS_PER_S  # of a market that says nothing more its last book is taken

_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Bps = Annotated[float, msgspec.Meta(ge=0, le=1000)]


class ArbitrageOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an opportunity has to leave, how young its books must be, and how large it may be."""

    bases: Annotated[
        tuple[str, ...], msgspec.Meta(description="base assets that are watched; empty for all")
    ] = ()
    theta_bps: Annotated[_Bps, msgspec.Meta(description="what each unit must leave after fees, bps")] = 2.0
    rebalancing_bps: Annotated[
        _Bps, msgspec.Meta(description="and what moving the inventory back will cost, bps")
    ] = 0.0
    latency_p95_ms: Annotated[
        dict[_Name, Annotated[int, msgspec.Meta(ge=0, le=5000)]],
        msgspec.Meta(
            description="one-way latency of an order that 95 % stay below, by exchange, where it is not to "
            "be binanceus 100, coinbase 200, kraken 300, kucoin 180, others 150"
        ),
    ] = msgspec.field(default_factory=dict)
    max_age_ms: Annotated[
        int, msgspec.Meta(ge=1, le=60_000, description="oldest a book may be, by its last message, ms")
    ] = 250
    account: Annotated[_Name, msgspec.Meta(description="the account whose money and inventory count")] = (
        "paper"
    )
    max_notional: Annotated[
        str, msgspec.Meta(description="largest purchase, in the quote asset, if the books had more")
    ] = "1000"
    max_equity_fraction: Annotated[
        float,
        msgspec.Meta(gt=0, le=1, description="and no more than this of the account's equity, if it has any"),
    ] = 0.10
    step_bps: Annotated[
        _Bps, msgspec.Meta(description="an opportunity is told of again when its net moved by this, bps")
    ] = 1.0


class _Opportunity(msgspec.Struct, array_like=True):
    first: ArbitrageSeen
    told: ArbitrageSeen
    best_net: int
    best_bps: float
    last_ts: int
    missing: int  # legs whose book at their arrival is not known yet
    copies: list[Copy]
    ended: str = ""


class _MarketState(msgspec.Struct, array_like=True):
    exchange: str
    symbol: str
    bid: int
    ask: int
    mid2: int
    sample_ts: int
    variance: int
    clock: int
    copy: Copy
    arrivals: list[Arrival]


class _State(msgspec.Struct, array_like=True):
    markets: list[_MarketState]
    near: list[Name]
    opportunities: list[_Opportunity]
    count: int
    is_timing: bool
    free: list[tuple[str, str, int]]
    equity: int


class ArbitrageMonitor:
    """Publishes what pairs of books are worth, and what became of it."""

    def __init__(self, ctx: Context, options: ArbitrageOptions) -> None:
        """
        Raises: ValueError: max_notional is not a decimal number.
        """
        self._ctx = ctx
        self._options = options
        self._max_age_ns = options.max_age_ms * NS_PER_MS
        self._cap = to_units(options.max_notional)
        self._share = round(options.max_equity_fraction * PPM)
        self._floor = round((options.theta_bps + options.rebalancing_bps) * (PPB // 10_000))
        self._markets: dict[tuple[str, str], Market] = {}
        self._open: dict[Name, _Opportunity] = {}
        self._opportunities: dict[str, _Opportunity] = {}  # these, and those over with a leg on its way
        self._count = 0
        self._is_timing = False
        self._free: dict[tuple[str, str], int] = {}
        self._equity = 0

    # --- Which books belong together ------------------------------------------------------------

    def on_instrument(self, instrument: Instrument) -> None:
        market = self._markets.get((instrument.exchange, instrument.symbol))
        if market is None:
            self._learn(instrument)
        elif market.instrument != instrument:
            market.instrument = instrument
            self._pair_up()

    def _market(self, exchange: str, symbol: str) -> Market | None:
        market = self._markets.get((exchange, symbol))
        if market is None and (instrument := self._ctx.instrument(exchange, symbol)) is not None:
            market = self._learn(instrument)  # we joined a host that had heard of it before
        return market

    def _learn(self, instrument: Instrument) -> Market:
        name = (instrument.exchange, instrument.symbol)
        market = self._markets[name] = Market(instrument, self._ctx.book(*name))
        self._pair_up()
        return market

    def _pair_up(self) -> None:
        kept = {pair.name: pair for pair in self._all_pairs()}
        markets = [self._markets[name] for name in sorted(self._markets)]
        for market in markets:
            market.pairs, market.near = [], 0
        spots = [market for market in markets if not market.instrument.contract]
        for pair in self._pairs_of(spots):
            if (before := kept.get(pair.name)) is not None:
                pair.is_near = before.is_near
            for market in pair.markets:
                market.pairs.append(pair)
                market.near += pair.is_near

    def _pairs_of(self, spots: list[Market]) -> Iterator[Pair]:
        bases = self._options.bases
        for buy, sell in permutations(spots, 2):
            here, there = buy.instrument.exchange, sell.instrument.exchange
            latency_ms = self._latency_ms(here) + self._latency_ms(there)
            pair = make_pair(buy, sell, spots, self._floor, latency_ms)
            if pair is not None and (not bases or buy.instrument.base in bases):
                yield pair

    def _latency_ms(self, exchange: str) -> int:
        return self._options.latency_p95_ms.get(exchange, LATENCY_P95_MS.get(exchange, OTHER_P95_MS))

    def _all_pairs(self) -> Iterator[Pair]:
        for _, market in sorted(self._markets.items()):
            yield from (pair for pair in market.pairs if pair.buy is market)

    # --- The market -----------------------------------------------------------------------------

    def on_book_snapshot(self, snapshot: BookSnapshot) -> None:
        self._update(snapshot)

    def on_book_delta(self, delta: BookDelta) -> None:
        self._update(delta)

    def _update(self, message: BookSnapshot | BookDelta) -> None:
        market = self._markets.get((message.exchange, message.symbol))
        if market is None and (market := self._market(message.exchange, message.symbol)) is None:
            return
        now = message.ts_recv
        if market.arrivals:
            self._pass(market, min(message.ts_event or now, now))
        if now >= market.sample_ts:
            market.sample(now)
        bid, ask = market.book.best_bid, market.book.best_ask
        if bid != market.bid or ask != market.ask:
            market.bid, market.ask = bid, ask
            self._test(market)
        if market.near:
            for pair in market.pairs:
                if pair.is_near:
                    self._look(pair)

    def _test(self, market: Market) -> None:
        for pair in market.pairs:
            is_near = pair.is_promising()
            if is_near is pair.is_near:
                continue
            pair.is_near = is_near
            for each in pair.markets:
                each.near += 1 if is_near else -1
            if not is_near:
                self._end(pair, "no longer worth what it costs")

    def on_feed_lost(self, lost: FeedLost) -> None:
        for (exchange, _), market in self._markets.items():
            if exchange == lost.exchange:
                self._doubt(market)

    def on_sequence_gap(self, gap: SequenceGap) -> None:
        self._doubt(self._market(gap.exchange, gap.symbol))

    def on_checksum_failed(self, failed: ChecksumFailed) -> None:
        self._doubt(self._market(failed.exchange, failed.symbol))

    def on_book_stale(self, stale: BookStale) -> None:
        self._doubt(self._market(stale.exchange, stale.symbol))

    def _doubt(self, market: Market | None) -> None:
        if market is not None:
            market.copy = Copy()
            for pair in market.pairs:
                if pair.is_near:
                    self._look(pair)

    def on_portfolio_snapshot(self, portfolio: PortfolioSnapshot) -> None:
        if portfolio.account == self._options.account:
            self._free = {(each.exchange, each.asset): each.free for each in portfolio.balances}
            self._equity = portfolio.equity

    # --- Opportunities --------------------------------------------------------------------------

    def _look(self, pair: Pair) -> None:
        now = self._ctx.clock.now()
        open_ = self._open.get(pair.name)
        doubt = self._doubt_of(pair, now)
        seen = None if doubt else self._walk(pair, now)
        if seen is None:
            self._end(pair, doubt or "no longer worth what it costs")
        elif open_ is None:
            self._begin(pair, seen, now)
        else:
            self._change(open_, seen, now)

    def _doubt_of(self, pair: Pair, now: int) -> str:
        for market in pair.markets:
            if not market.book.is_trusted:
                return f"the book of {market.title} cannot be trusted"
            if now - market.book.ts_recv > self._max_age_ns:
                return f"the book of {market.title} is older than {self._options.max_age_ms} ms"
        return ""

    def _walk(self, pair: Pair, now: int) -> ArbitrageSeen | None:
        buy, sell = pair.buy, pair.sell
        asks = walk.leg(buy.instrument, +1, buy.book.asks.top(DEPTH))
        bids = walk.leg(sell.instrument, -1, sell.book.bids.top(DEPTH))
        money = walk.PARITY if pair.fx is None else _rates(pair, pair.fx, copy_of(pair.fx.book))
        theta = self._floor + isqrt(max(buy.variance, sell.variance) * pair.haircut_ms // 1000)
        cap = min(self._cap, self._equity * self._share // PPM) if self._equity > 0 else self._cap
        cap = cap * UNIT // (asks.levels[0][0] * asks.tick)
        step = walk.step(buy.instrument, sell.instrument)
        most = walk.most(asks, bids, money, theta, sell.book.mid2, cap) // step * step
        match = walk.settle(asks, bids, money, most)
        if match is None or not pair.allows(match, most):
            return None
        return self._seen(pair, match, theta, self._funded(pair, match, step), now)

    def _funded(self, pair: Pair, match: Match, step: int) -> int:
        bought, sold = pair.buy.instrument, pair.sell.instrument
        money = self._free.get((bought.exchange, bought.quote), 0)
        stock = self._free.get((sold.exchange, sold.base), 0)
        quantity = min(match.quantity, stock, match.quantity * money // match.paid) // step * step
        return quantity if pair.allows(match, quantity) else 0

    def _seen(self, pair: Pair, match: Match, theta: int, funded: int, now: int) -> ArbitrageSeen:
        bought, sold, fx = pair.buy.instrument, pair.sell.instrument, pair.fx
        open_ = self._open.get(pair.name)
        name = f"{bought.base}:{bought.exchange}>{sold.exchange}:{self._count + 1}"
        return ArbitrageSeen(
            now,
            open_.first.opportunity if open_ else name,
            open_.first.first_ts if open_ else now,
            bought.base,
            sold.quote,
            bought.exchange,
            bought.symbol,
            match.buy_price,
            sold.exchange,
            sold.symbol,
            match.sell_price,
            fx.instrument.exchange if fx else "",
            fx.instrument.symbol if fx else "",
            match.fx_price,
            match.quantity,
            funded,
            match.gross,
            match.net,
            match.gross / match.notional * 1e4,
            match.net / match.notional * 1e4,
            theta / PPB * 1e4,
        )

    def _begin(self, pair: Pair, seen: ArbitrageSeen, now: int) -> None:
        self._count += 1
        legs = pair.markets
        copies = [Copy() for _ in legs]
        self._open[pair.name] = _Opportunity(seen, seen, seen.net, seen.net_bps, now, len(legs), copies)
        self._opportunities[seen.opportunity] = self._open[pair.name]
        for number, market in enumerate(legs):
            if not market.arrivals:
                market.copy = copy_of(market.book)
            exchange, symbol = market.instrument.exchange, market.instrument.symbol
            at = now + self._latency_ms(exchange) * NS_PER_MS
            market.arrivals.append(Arrival(at, seen.opportunity, number))
            self._ctx.set_timer(at + QUIET_NS, f"arrival {exchange} {symbol}")
        self._ctx.publish(seen)
        if not self._is_timing:
            self._is_timing = True
            self._ctx.set_timer(now + self._max_age_ns, "look")

    def _change(self, open_: _Opportunity, seen: ArbitrageSeen, now: int) -> None:
        open_.last_ts = now
        if seen.net > open_.best_net:
            open_.best_net, open_.best_bps = seen.net, seen.net_bps
        has_moved = abs(seen.net_bps - open_.told.net_bps) > self._options.step_bps
        if has_moved or bool(seen.funded) != bool(open_.told.funded):
            open_.told = seen
            self._ctx.publish(seen)

    def _end(self, pair: Pair, reason: str) -> None:
        if (over := self._open.pop(pair.name, None)) is None:
            return
        over.ended, over.last_ts = reason, self._ctx.clock.now()
        if not over.missing:
            self._publish_end(over)

    # --- What orders would have met -------------------------------------------------------------

    def _pass(self, market: Market, ts_event: int) -> None:
        # The exchange is at *ts_event*: what arrived before that met the book that was kept.
        market.clock = max(market.clock, ts_event)
        self._arrive(market, market.clock - 1)
        if market.arrivals:
            market.copy = copy_of(market.book)

    def _arrive(self, market: Market, until: int) -> None:
        while market.arrivals and market.arrivals[0].at <= until:
            arrival = market.arrivals.pop(0)
            opportunity = self._opportunities[arrival.opportunity]
            opportunity.copies[arrival.leg] = market.copy
            opportunity.missing -= 1
            if opportunity.ended and not opportunity.missing:
                self._publish_end(opportunity)

    def on_timer(self, timer: Timer) -> None:
        kind, _, rest = timer.key.partition(" ")
        if kind == "arrival":
            exchange, _, symbol = rest.partition(" ")
            self._arrive(self._markets[exchange, symbol], timer.ts - QUIET_NS)
            return
        for pair in self._all_pairs():
            if pair.name in self._open:
                self._look(pair)
        self._is_timing = bool(self._open)
        if self._is_timing:
            self._ctx.set_timer(timer.ts + self._max_age_ns, "look")

    def _publish_end(self, opportunity: _Opportunity) -> None:
        first = opportunity.first
        del self._opportunities[first.opportunity]
        match = self._captured(opportunity)
        self._ctx.publish(
            ArbitrageEnded(
                self._ctx.clock.now(),
                first.opportunity,
                first.base,
                first.quote,
                first.buy_exchange,
                first.buy_symbol,
                first.sell_exchange,
                first.sell_symbol,
                first.first_ts,
                opportunity.last_ts,
                opportunity.best_net,
                opportunity.best_bps,
                match is not None and match.net > 0,
                match.net if match else 0,
                opportunity.ended,
            )
        )

    def _captured(self, opportunity: _Opportunity) -> Match | None:
        first, copies = opportunity.first, opportunity.copies
        [pair] = [each for each in self._all_pairs() if each.name == _name(first)]
        asks = [level for level in copies[0].asks if level[0] <= first.buy_price]
        bids = [level for level in copies[1].bids if level[0] >= first.sell_price]
        money = walk.PARITY if pair.fx is None else _rates(pair, pair.fx, copies[2])
        buy, sell = walk.leg(pair.buy.instrument, +1, asks), walk.leg(pair.sell.instrument, -1, bids)
        return walk.settle(buy, sell, money, first.quantity)

    # --- State ----------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        markets = [
            _MarketState(
                *name,
                market.bid,
                market.ask,
                market.mid2,
                market.sample_ts,
                market.variance,
                market.clock,
                market.copy,
                market.arrivals,
            )
            for name, market in sorted(self._markets.items())
        ]
        near = [pair.name for pair in self._all_pairs() if pair.is_near]
        free = [(exchange, asset, amount) for (exchange, asset), amount in self._free.items()]
        opportunities = list(self._opportunities.values())
        return msgspec.msgpack.encode(
            _State(markets, near, opportunities, self._count, self._is_timing, free, self._equity)
        )

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=_State)
        for kept in saved.markets:
            market = self._market(kept.exchange, kept.symbol)
            if market is None:
                raise StateRefused(MONITOR, f"no instrument is known of {kept.symbol} on {kept.exchange}")
            market.bid, market.ask, market.mid2 = kept.bid, kept.ask, kept.mid2
            market.sample_ts, market.variance, market.clock = kept.sample_ts, kept.variance, kept.clock
            market.copy, market.arrivals = kept.copy, kept.arrivals
        for pair in self._all_pairs():
            pair.is_near = pair.name in saved.near
            for market in pair.markets:
                market.near += pair.is_near
        self._opportunities = {each.first.opportunity: each for each in saved.opportunities}
        self._open = {_name(each.first): each for each in saved.opportunities if not each.ended}
        self._count, self._is_timing = saved.count, saved.is_timing
        self._free = {(exchange, asset): amount for exchange, asset, amount in saved.free}
        self._equity = saved.equity


def _name(seen: ArbitrageSeen) -> Name:
    return seen.buy_exchange, seen.buy_symbol, seen.sell_exchange, seen.sell_symbol


def _rates(pair: Pair, fx: Market, copy: Copy) -> tuple[Rate, ...]:
    if pair.is_fx_bought:
        return walk.rates(walk.leg(fx.instrument, +1, copy.asks))
    return walk.rates(walk.leg(fx.instrument, -1, copy.bids))


@hookimpl
def tickerml_feature_sets() -> Iterable[FeatureSetSpec]:
    """Offer the monitor."""
    return [
        FeatureSetSpec(
            id=MONITOR,
            factory=ArbitrageMonitor,
            options=ArbitrageOptions,
            publishes=(ArbitrageSeen, ArbitrageEnded),
            summary="what pairs of books are worth after fees, depth, latency and age, and what could be had",
        )
    ]
