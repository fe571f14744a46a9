"""
Market breaker: no new risk in a market that has come loose.

After the limit-up limit-down plan of the US exchanges (NMS Plan to Address Extraordinary Market
Volatility). The reference of a symbol on an exchange is the mean price of its prints of the last
five minutes; it moves only when that mean is 1 % or more away from it. The band around it is
max(min_band, 6 sigma of five minutes), doubled in the first five minutes after the first print. A
mid outside of the band is the limit state: only orders that reduce. After limit_s in it trading in
the symbol pauses for pause_min, and goes on when the mid has been inside for restart_s. sigma is that of
ten-second returns between print means, with a half-life of two minutes, times the root of thirty.

A fall of crash from the reference halts everything at level 2. An exchange whose mid is more than
quarantine away from the median of the same symbol on at least two others is not traded on, nor is a
book that is too wide or too thin. Until there is a reference the band says nothing.
"""

import math
from fractions import Fraction
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    Context,
    HaltLevel,
    HaltTrading,
    Options,
    OrderBook,
    ResumeTrading,
    RiskRuleSpec,
    RiskVerdict,
    SubmitOrder,
    Trade,
    hookimpl,
)

from .accounts import amount_of
from .rule import Denied, exact
from .sampling import MINUTE_NS, Watch, WatchState

BUCKET_NS = 10 * NS_PER_S
BUCKETS = 30  # five minutes
DECAY = 2 ** (-1 / 12)
MOVE = 100  # the reference moves when the mean is a hundredth away
LEVELS = 10  # of a side, for its depth
Key = tuple[str, str]


class MarketOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is out of the ordinary; fractions of the reference unless they say otherwise."""

    min_band: Annotated[float, msgspec.Meta(gt=0, lt=1, description="the narrowest band")] = 0.02
    limit_s: Annotated[
        int, msgspec.Meta(ge=0, le=3600, description="how long outside of the band before a pause, s")
    ] = 15
    pause_min: Annotated[int, msgspec.Meta(ge=0, le=1440, description="the shortest pause, min")] = 5
    restart_s: Annotated[
        int, msgspec.Meta(ge=0, le=3600, description="how long inside of it before a pause ends, s")
    ] = 30
    crash: Annotated[float, msgspec.Meta(gt=0, lt=1, description="the fall that halts everything")] = 0.15
    quarantine: Annotated[
        float, msgspec.Meta(gt=0, lt=1, description="distance of a mid from the median of the others")
    ] = 0.01
    max_spread: Annotated[float, msgspec.Meta(gt=0, lt=1, description="spread, of the mid")] = 0.01
    min_depth: Annotated[
        str, msgspec.Meta(description="notional of the best ten levels of either side, in the quote asset")
    ] = "1000"


class _Symbol(msgspec.Struct, array_like=True):
    first: int = 0  # ns UTC of the first print
    prints: list[tuple[int, int, int]] = []  # (bucket, sum of prices, count), the last five minutes
    mean: float = 0.0  # of the last whole bucket with prints
    variance: float = 0.0  # of ten seconds
    reference: int = 0  # ticks, times UNIT
    outside_since: int = 0
    inside_since: int = 0
    paused_until: int = 0


class _State(WatchState, array_like=True):
    symbols: dict[Key, _Symbol] = msgspec.field(default_factory=dict)
    is_halted: bool = False


class MarketBreaker(Watch[MarketOptions, _State]):
    """Denies orders in markets that are outside of their band, off the others, too wide or too thin."""

    STATE = _State

    def __init__(self, ctx: Context, options: MarketOptions) -> None:
        """Raises: ConfigError: min_depth is not an amount."""
        super().__init__(ctx, options)
        self._min_depth = amount_of(ctx.plugin, "min_depth", options.min_depth)
        self._crash = exact(options.crash)

    # --- The band -----------------------------------------------------------------------------

    def on_trade(self, trade: Trade) -> None:
        symbol = self._state.symbols.setdefault((trade.exchange, trade.symbol), _Symbol(trade.ts_recv))
        bucket = trade.ts_recv // BUCKET_NS
        if symbol.prints and symbol.prints[-1][0] == bucket:
            _, total, count = symbol.prints[-1]
            symbol.prints[-1] = (bucket, total + trade.price, count + 1)
        else:
            self._close_bucket(symbol)
            symbol.prints = [*symbol.prints, (bucket, trade.price, 1)]

    @staticmethod
    def _close_bucket(symbol: _Symbol) -> None:
        if not symbol.prints:
            return
        _, total, count = symbol.prints[-1]
        mean = total / count
        if symbol.mean > 0 and mean > 0:
            change = math.log(mean / symbol.mean)
            symbol.variance = DECAY * symbol.variance + (1 - DECAY) * change * change
        symbol.mean = mean

    def sample(self, ts: int) -> None:
        for key, symbol in sorted(self._state.symbols.items()):
            oldest = ts // BUCKET_NS - BUCKETS
            symbol.prints = [entry for entry in symbol.prints if entry[0] > oldest]
            _refer(symbol)
            book = self._ctx.book(*key)
            if book.is_trusted and symbol.reference:
                self._watch_band(symbol, book, ts)
                self._watch_crash(key, symbol, book)

    def _watch_band(self, symbol: _Symbol, book: OrderBook, ts: int) -> None:
        options = self._options
        if self._is_inside(symbol, book, ts):
            symbol.outside_since = 0
            symbol.inside_since = symbol.inside_since or ts
        else:
            symbol.inside_since = 0
            symbol.outside_since = symbol.outside_since or ts
            is_long = ts - symbol.outside_since >= options.limit_s * NS_PER_S
            if is_long and not symbol.paused_until:
                symbol.paused_until = ts + options.pause_min * MINUTE_NS
        has_calmed = symbol.inside_since and ts - symbol.inside_since >= options.restart_s * NS_PER_S
        if has_calmed and ts >= symbol.paused_until:
            symbol.paused_until = 0

    def _watch_crash(self, key: Key, symbol: _Symbol, book: OrderBook) -> None:
        mid = book.mid2 * UNIT // 2
        if self._state.is_halted or (symbol.reference - mid) < self._crash * symbol.reference:
            return
        self._state.is_halted = True
        fall = 1 - mid / symbol.reference
        self.halt(f"{key[1]} on {key[0]} fell {fall:.2%} within five minutes", HaltLevel.CANCEL)

    def on_resume_trading(self, command: ResumeTrading) -> None:
        self._state.is_halted = False

    def _band(self, symbol: _Symbol, ts: int) -> Fraction:
        band = max(exact(self._options.min_band), Fraction(6 * math.sqrt(symbol.variance * BUCKETS)))
        return 2 * band if ts - symbol.first < BUCKETS * BUCKET_NS else band

    def _is_inside(self, symbol: _Symbol, book: OrderBook, ts: int) -> bool:
        off = abs(book.mid2 * UNIT - 2 * symbol.reference)
        return off <= self._band(symbol, ts) * 2 * symbol.reference

    # --- The verdict --------------------------------------------------------------------------

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if self.reduces(order):
            return order.quantity, ""
        key, now = (order.exchange, order.symbol), self._ctx.clock.now()
        book = self._ctx.book(*key)
        if not book.is_trusted:
            raise Denied(f"the book of {order.symbol} on {order.exchange} is {book.state} or crossed")
        self._check_liquidity(order, book, inputs)
        self._check_others(order, book, inputs)
        symbol = self._state.symbols.get(key)
        if symbol is None or not symbol.reference:
            return order.quantity, ""
        inputs |= {"reference": symbol.reference / UNIT, "band": float(self._band(symbol, now))}
        if symbol.paused_until:
            raise Denied(f"{order.symbol} on {order.exchange} is paused: it was outside of its band")
        if not self._is_inside(symbol, book, now):
            raise Denied(f"the mid is outside of {inputs['band']:.2%} around its reference")
        return order.quantity, ""

    def _check_liquidity(self, order: SubmitOrder, book: OrderBook, inputs: dict[str, float]) -> None:
        spread = 2 * (book.best_ask - book.best_bid) / book.mid2
        instrument = self._ctx.instrument(order.exchange, order.symbol)
        if instrument is None:
            raise Denied(f"{order.symbol} is not known on {order.exchange}")
        depth = min(
            sum(instrument.notional(price, quantity) for price, quantity in side.top(LEVELS))
            for side in (book.bids, book.asks)
        )
        inputs |= {"mid": book.mid2 / 2, "spread": spread, "depth": depth / UNIT}
        if 2 * (book.best_ask - book.best_bid) > exact(self._options.max_spread) * book.mid2:
            raise Denied(f"the spread is {spread:.2%}, more than {self._options.max_spread:.2%}")
        if depth < self._min_depth:
            raise Denied(f"a side of the book has {depth / UNIT:.0f} {instrument.quote} in ten levels")

    def _check_others(self, order: SubmitOrder, book: OrderBook, inputs: dict[str, float]) -> None:
        own, others = self._price(order.exchange, order.symbol, book), []
        for exchange, symbol in self._state.watch.books:
            other = self._ctx.book(exchange, symbol)
            if symbol == order.symbol and exchange != order.exchange and other.is_trusted:
                others.append(self._price(exchange, symbol, other))
        if len(others) < 2:
            return
        others.sort()
        median = (others[(len(others) - 1) // 2] + others[len(others) // 2]) / 2
        off = own / median - 1
        inputs["off_median"] = off
        if abs(off) > self._options.quarantine:
            raise Denied(f"{order.exchange} is {off:+.2%} off the median of {len(others)} others")

    def _price(self, exchange: str, symbol: str, book: OrderBook) -> float:
        instrument = self._ctx.instrument(exchange, symbol)
        return book.mid2 * (instrument.tick_size if instrument else 0) / 2


def _refer(symbol: _Symbol) -> None:
    count = sum(entry[2] for entry in symbol.prints)
    if not count:
        return
    mean = sum(entry[1] for entry in symbol.prints) * UNIT // count
    if not symbol.reference or abs(mean - symbol.reference) * MOVE >= symbol.reference:
        symbol.reference = mean


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-breaker-market",
            factory=MarketBreaker,
            options=MarketOptions,
            publishes=(RiskVerdict, HaltTrading),
            summary="stops new orders in a market outside of its band, off the others, or too thin",
        )
    ]
