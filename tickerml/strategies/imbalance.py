"""
Imbalance: the baseline that anything cleverer has to beat.

When buyers outweigh sellers at the top of the book the next price move is more often up,
so this strategy waits for that, queues at the best bid as a maker, or pays the spread
when the pressure is extreme and trades confirm it, and leaves again the same way once
the pressure has turned or it has held too long. It holds spot inventory only: it sells
nothing it has not bought.

It is a baseline and not a money maker. The edge of imbalance is a fraction of the spread
and fees are many spreads, so with real fees it loses on nearly every round trip; it looks
at no fee and makes no attempt to hide that. What it is for: to give the rest of the system
real orders to work on, and a result to be better than.

It reads the rows of features-core, decides once a row (ten times a second), and keeps at
most one order open for each exchange and symbol. It follows its own orders through their
events and believes nothing else about its position.

With a purchase it says how sure it is: the share of its past signals of that strength that
were right. A signal is right when the mid is higher *horizon_s* after it, wrong when it is
lower, and says nothing when it has not moved. Strengths are the tenths of the imbalance, each
exchange and symbol has a record of its own, and a record begins as if ten signals had been
seen and five been right (the mean of a Beta(5, 5) that learns): (right + 5) / (seen + 10).
Every signal counts, whether an order came of it or not, but none that comes while another is
still being watched, for two that overlap would be one seen twice. The imbalance itself would be no
such number: how often 0.8 comes true differs from market to market.
"""

import math
from collections.abc import Iterable
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    UNIT,
    CancelOrder,
    Context,
    FeatureVector,
    Instrument,
    Options,
    OrderBook,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderType,
    Side,
    StrategySpec,
    SubmitOrder,
    TimeInForce,
    TradingHalted,
    TradingResumed,
    hookimpl,
    to_units,
)

FEATURE_SET = "features-core"

#: The first columns of the feature set, in its order: the part of its contract used here.
COLUMNS = (
    "book_imbalance_1",
    "book_imbalance_5",
    "book_imbalance_10",
    "microprice_offset_bps",
    "spread_bps",
    "mid",
    "trade_imbalance_1s",
)
_MID = COLUMNS.index("mid")
_IMBALANCE = COLUMNS.index("book_imbalance_5")
_MICROPRICE = COLUMNS.index("microprice_offset_bps")
_FLOW = COLUMNS.index("trade_imbalance_1s")

_TENTHS = 10
_PRIOR = 10  # signals, half of them right, that a record begins with


class ImbalanceOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to get in, when to get out, and how much."""

    account: Annotated[str, msgspec.Meta(min_length=1, description="the account that orders are for")] = (
        "paper"
    )
    symbols: Annotated[tuple[str, ...], msgspec.Meta(description="symbols to trade; empty for all")] = ()
    order_notional: Annotated[str, msgspec.Meta(description="size of an entry, in the quote asset")] = "200"
    enter: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="bid as a maker above this imbalance of five levels")
    ] = 0.35
    take: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="cross the spread beyond this imbalance of five levels")
    ] = 0.8
    take_flow: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="and above this trade imbalance of one second")
    ] = 0.5
    exit: Annotated[
        float, msgspec.Meta(ge=-1, le=1, description="offer as a maker below this imbalance of five levels")
    ] = -0.1
    max_hold_s: Annotated[
        float,
        msgspec.Meta(gt=0, description="get out after this long, and at any price after twice as long, s"),
    ] = 120.0
    order_ttl_ms: Annotated[
        int, msgspec.Meta(ge=1, description="a resting order is canceled after this long, ms")
    ] = 5000
    horizon_s: Annotated[
        float, msgspec.Meta(gt=0, description="how long after a signal the mid tells whether it was right, s")
    ] = 10.0
    cooldown_ms: Annotated[
        int, msgspec.Meta(ge=0, description="shortest time between two orders of one symbol, ms")
    ] = 5000


class _OpenOrder(msgspec.Struct, array_like=True):
    order_id: str
    side: Side
    price: int
    is_resting: bool  # it may wait in the book
    ts: int
    is_canceling: bool = False


def _nothing_seen() -> list[int]:
    return [0] * _TENTHS


class _Record(msgspec.Struct, array_like=True):
    # How often a heavy bid side was followed by a higher mid, by the tenth of its imbalance.
    right: list[int] = msgspec.field(default_factory=_nothing_seen)
    seen: list[int] = msgspec.field(default_factory=_nothing_seen)
    watched: int = -1  # the tenth of the signal that is to come true yet; -1 for none
    since: int = 0
    mid: float = 0.0

    def confidence(self, imbalance: float) -> float:
        tenth = _tenth(imbalance)
        return (self.right[tenth] + _PRIOR / 2) / (self.seen[tenth] + _PRIOR)

    def judge(self, now: int, mid: float, horizon_ns: int) -> None:
        if self.watched < 0 or now - self.since < horizon_ns:
            return
        if mid < self.mid or mid > self.mid:  # neither of a mid that is not known
            self.seen[self.watched] += 1
            self.right[self.watched] += mid > self.mid
        self.watched = -1

    def watch(self, now: int, mid: float, imbalance: float) -> None:
        if self.watched < 0 and not math.isnan(mid):
            self.watched, self.since, self.mid = _tenth(imbalance), now, mid


class _Desk(msgspec.Struct, array_like=True):
    # What we hold and have open of one symbol on one exchange.
    exchange: str
    symbol: str
    quantity: int = 0  # lots
    entered_ts: int = 0  # when the last of it was bought
    order: _OpenOrder | None = None
    last_order_ts: int = 0
    record: _Record = msgspec.field(default_factory=_Record)


class _State(msgspec.Struct, array_like=True):
    desks: list[_Desk]
    orders: int  # sent so far, by all desks
    is_halted: bool


class _Signal(msgspec.Struct):
    imbalance: float
    microprice: float  # offset from the mid, bps
    flow: float
    mid: float


class ImbalanceStrategy:
    """Buys when the bid side is heavy and sells what it bought when it no longer is."""

    def __init__(self, ctx: Context, options: ImbalanceOptions) -> None:
        """
        Raises: ValueError: order_notional is not a decimal number.
        """
        self._ctx = ctx
        self._options = options
        self._notional = to_units(options.order_notional)
        self._ttl_ns = options.order_ttl_ms * NS_PER_MS
        self._cooldown_ns = options.cooldown_ms * NS_PER_MS
        self._max_hold_ns = round(options.max_hold_s * NS_PER_S)
        self._horizon_ns = round(options.horizon_s * NS_PER_S)
        self._desks: dict[tuple[str, str], _Desk] = {}
        self._orders = 0
        self._is_halted = False

    # --- Deciding -----------------------------------------------------------------------------

    def on_feature_vector(self, row: FeatureVector) -> None:
        if row.feature_set != FEATURE_SET:
            return
        if self._options.symbols and row.symbol not in self._options.symbols:
            return
        desk = self._desk(row.exchange, row.symbol)
        book = self._ctx.book(row.exchange, row.symbol)
        values = row.unpack()
        signal = _Signal(values[_IMBALANCE], values[_MICROPRICE], values[_FLOW], values[_MID])
        desk.record.judge(row.ts_recv, signal.mid, self._horizon_ns)
        if desk.order is not None:
            self._review(desk, desk.order, book)
        elif self._may_order(desk, book):
            self._decide(desk, book, signal)
        if self._is_taker(signal) or self._is_maker(signal):
            desk.record.watch(row.ts_recv, signal.mid, signal.imbalance)

    def _desk(self, exchange: str, symbol: str) -> _Desk:
        desk = self._desks.get((exchange, symbol))
        if desk is None:
            desk = self._desks[exchange, symbol] = _Desk(exchange, symbol)
        return desk

    def _may_order(self, desk: _Desk, book: OrderBook) -> bool:
        is_rested = self._ctx.clock.now() - desk.last_order_ts >= self._cooldown_ns
        return is_rested and book.is_trusted and not self._is_halted

    def _review(self, desk: _Desk, order: _OpenOrder, book: OrderBook) -> None:
        if not order.is_resting or order.is_canceling:
            return
        now = self._ctx.clock.now()
        best = book.best_bid if order.side is Side.BUY else book.best_ask
        if not book.is_trusted:
            reason = "the book cannot be trusted"
        elif order.price != best:
            reason = f"the best price is {self._price(desk, best)}, ours {self._price(desk, order.price)}"
        elif now - order.ts > self._ttl_ns:
            reason = f"older than {self._options.order_ttl_ms} ms"
        else:
            return
        order.is_canceling = True
        self._ctx.publish(CancelOrder(now, order.order_id, desk.exchange, desk.symbol, reason))

    def _price(self, desk: _Desk, ticks: int) -> str:
        instrument = self._ctx.instrument(desk.exchange, desk.symbol)
        return instrument.price_text(ticks) if instrument else f"{ticks} ticks"

    def _decide(self, desk: _Desk, book: OrderBook, signal: _Signal) -> None:
        instrument = self._ctx.instrument(desk.exchange, desk.symbol)
        if instrument is None:
            return
        # What is too little to be sold waits for the next purchase to join it.
        if _is_tradable(instrument, book.best_bid, desk.quantity):
            self._consider_exit(desk, book, signal)
        else:
            self._consider_entry(desk, book, signal, instrument)

    def _consider_entry(self, desk: _Desk, book: OrderBook, signal: _Signal, instrument: Instrument) -> None:
        options = self._options
        if self._is_taker(signal):
            price, is_resting = book.best_ask, False
            reason = (
                f"imbalance_5 {signal.imbalance:.2f} > {options.take:.2f}, "
                f"trade_imbalance_1s {signal.flow:.2f} > {options.take_flow:.2f}"
            )
        elif self._is_maker(signal):
            price, is_resting = book.best_bid, True
            reason = (
                f"imbalance_5 {signal.imbalance:.2f} > {options.enter:.2f}, "
                f"microprice_offset_bps {signal.microprice:.3f} > 0"
            )
        else:
            return
        quantity = _lots(instrument, price, self._notional)
        if _is_tradable(instrument, price, quantity):
            confidence = desk.record.confidence(signal.imbalance)
            self._submit(desk, Side.BUY, price, quantity, is_resting, reason, confidence)

    def _is_taker(self, signal: _Signal) -> bool:
        return signal.imbalance > self._options.take and signal.flow > self._options.take_flow

    def _is_maker(self, signal: _Signal) -> bool:
        return signal.imbalance > self._options.enter and signal.microprice > 0

    def _consider_exit(self, desk: _Desk, book: OrderBook, signal: _Signal) -> None:
        options = self._options
        held = self._ctx.clock.now() - desk.entered_ts
        if signal.imbalance < -options.take:
            price, reason = book.best_bid, f"imbalance_5 {signal.imbalance:.2f} < {-options.take:.2f}"
        elif held > 2 * self._max_hold_ns:
            price, reason = book.best_bid, f"held {held / NS_PER_S:.1f} s > {2 * options.max_hold_s:g} s"
        elif signal.imbalance < options.exit:
            price, reason = book.best_ask, f"imbalance_5 {signal.imbalance:.2f} < {options.exit:.2f}"
        elif held > self._max_hold_ns:
            price, reason = book.best_ask, f"held {held / NS_PER_S:.1f} s > {options.max_hold_s:g} s"
        else:
            return
        self._submit(desk, Side.SELL, price, desk.quantity, price == book.best_ask, reason)

    def _submit(
        self,
        desk: _Desk,
        side: Side,
        price: int,
        quantity: int,
        is_resting: bool,
        reason: str,
        confidence: float | None = None,
    ) -> None:
        now = self._ctx.clock.now()
        order_id = f"{self._ctx.plugin}-{self._orders}"
        self._orders += 1
        desk.order = _OpenOrder(order_id, side, price, is_resting, now)
        desk.last_order_ts = now
        self._ctx.publish(
            SubmitOrder(
                now,
                order_id,
                self._ctx.plugin,
                self._options.account,
                desk.exchange,
                desk.symbol,
                side,
                OrderType.LIMIT,
                TimeInForce.POST_ONLY if is_resting else TimeInForce.IOC,
                price,
                quantity,
                reduce_only=side is Side.SELL,
                reason=reason,
                confidence=confidence,
            )
        )

    # --- What became of our orders ------------------------------------------------------------

    def on_order_filled(self, fill: OrderFilled) -> None:
        desk = self._desk_of(fill)
        if desk is None:
            return self._forget_what_was_sold(fill)
        if fill.side is Side.BUY:
            desk.entered_ts = fill.ts_recv
        desk.quantity += fill.side * fill.quantity - self._lots_of_fee(fill)
        if fill.leaves == 0:
            desk.order = None

    def _forget_what_was_sold(self, fill: OrderFilled) -> None:
        """A stop, or the gate that flattens, has sold of ours."""
        desk = self._desks.get((fill.exchange, fill.symbol))
        if desk is not None and fill.account == self._options.account and fill.side is Side.SELL:
            desk.quantity = max(0, desk.quantity - fill.quantity)

    def on_order_denied(self, denied: OrderDenied) -> None:
        self._close(denied)

    def on_order_rejected(self, rejected: OrderRejected) -> None:
        self._close(rejected)

    def on_order_canceled(self, canceled: OrderCanceled) -> None:
        self._close(canceled)

    def on_order_expired(self, expired: OrderExpired) -> None:
        self._close(expired)

    def on_trading_halted(self, halted: TradingHalted) -> None:
        self._is_halted = True

    def on_trading_resumed(self, resumed: TradingResumed) -> None:
        self._is_halted = False

    def _desk_of(
        self, event: OrderFilled | OrderDenied | OrderRejected | OrderCanceled | OrderExpired
    ) -> _Desk | None:
        desk = self._desks.get((event.exchange, event.symbol))
        is_ours = desk is not None and desk.order is not None and desk.order.order_id == event.order_id
        return desk if is_ours else None

    def _close(self, event: OrderDenied | OrderRejected | OrderCanceled | OrderExpired) -> None:
        if (desk := self._desk_of(event)) is not None:
            desk.order = None

    def _lots_of_fee(self, fill: OrderFilled) -> int:
        # Some exchanges take the fee of a purchase out of what was bought.
        instrument = self._ctx.instrument(fill.exchange, fill.symbol)
        if instrument is None or fill.fee_asset != instrument.base:
            return 0
        return -(-fill.fee // instrument.lot_size)

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        state = _State(list(self._desks.values()), self._orders, self._is_halted)
        return msgspec.msgpack.encode(state)

    def migrate(self, state: bytes, version: int) -> bytes:
        """Take the state of version 1: it is this one without the records, which begin anew."""
        return state

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=_State)
        self._desks = {(desk.exchange, desk.symbol): desk for desk in saved.desks}
        self._orders = saved.orders
        self._is_halted = saved.is_halted


def _tenth(imbalance: float) -> int:
    return max(0, min(int(imbalance * _TENTHS), _TENTHS - 1))


def _lots(instrument: Instrument, price: int, notional: int) -> int:
    # The most lots at *price* ticks that cost no more than *notional* units of the quote asset.
    lots = notional * UNIT // (price * instrument.tick_size * instrument.lot_size)
    return min(lots, instrument.max_quantity) if instrument.max_quantity else lots


def _is_tradable(instrument: Instrument, price: int, quantity: int) -> bool:
    return (
        quantity >= max(instrument.min_quantity, 1)
        and instrument.notional(price, quantity) >= instrument.min_notional
    )


@hookimpl
def tickerml_strategies() -> Iterable[StrategySpec]:
    return [
        StrategySpec(
            id="strategy-imbalance",
            factory=ImbalanceStrategy,
            options=ImbalanceOptions,
            state_version=2,
            publishes=(SubmitOrder, CancelOrder),
            summary="a maker and taker baseline on book imbalance; not a money maker",
        )
    ]
