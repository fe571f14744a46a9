"""
The matching core: what an exchange would have done with our orders in one symbol.

The market in the feed never saw our orders, so nothing here is known, only bounded.
Every rule takes evidence and gives no more than the evidence bears:

    a print at our price      first eats the queue ahead of us, the rest is ours
    a print through our price there was nobody left ahead: up to its quantity is ours
    a quote at or through it  the seller would have met us: up to the size that appeared
    a smaller level           somebody left; a queue model says who (queue_models.py)
    a deleted level           nobody is ahead any more
    a book in doubt           is evidence of nothing: no fills until it is whole again

One print's volume, or one new size, is shared by all our orders in their order of
priority; it is never given twice. A taker gets what is displayed, less what has
printed there since, less what we took ourselves: our consumption of a level halves
every five seconds and is forgotten when the level is deleted. What is not displayed
does not exist: a market order stops 1 % from the best price, and its rest expires.

A print that arrives after the depth which already contains it is counted from where
the queue stood before that depth, so that one reduction does not move us twice.

No clock, no bus, no randomness: commands and market messages in with the exchange's
time, order events out with ts_recv = ts_event. Whoever owns the engine says when they
become known.
"""

from bisect import insort
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    PPM,
    BookDelta,
    BookSide,
    BookSnapshot,
    BookState,
    Instrument,
    Liquidity,
    OrderAccepted,
    OrderBook,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    Trade,
    levels,
)

from .queue_models import OrderSize, QueueModel, RiskAverse

OrderEvent: TypeAlias = OrderAccepted | OrderRejected | OrderFilled | OrderCanceled | OrderExpired
SelfTrade: TypeAlias = Literal["cancel_newest", "cancel_oldest", "cancel_both"]

CONSUMPTION_HALF_LIFE_NS = 5 * NS_PER_S
SIZE_DEPTH = 5  # levels a side whose growth shows what size an order has
_BPS = 10_000


def exchange_time(message: BookSnapshot | BookDelta | Trade) -> int:
    """
    Return when *message* happened by the exchange's clock on our axis, ns UTC.

    No message can be older than now: a clock that runs ahead of ours counts as no latency.
    """
    return min(message.ts_event or message.ts_recv, message.ts_recv)


def _can_rest(order: OrderSubmitted) -> bool:
    terms = (TimeInForce.GTC, TimeInForce.POST_ONLY)
    return order.order_type is OrderType.LIMIT and order.time_in_force in terms


# --- Orders and sides -----------------------------------------------------------------------------


class WorkingOrder(msgspec.Struct):
    """An order the exchange has accepted. Quantities in lots."""

    submitted: OrderSubmitted
    leaves: int
    queue_ahead: int
    queue_before: int  # as it would be without the last change of the level, for prints that come late
    queue_start: int
    orders_start: int
    accepted_ns: int
    fills: int = 0

    @property
    def price(self) -> int:
        """The limit in ticks."""
        return self.submitted.price

    def print_at_price(self, quantity: int, is_late: bool) -> int:
        """Move up by a print of *quantity* at our price; return how much of it was past those ahead."""
        start = self.queue_before if is_late else self.queue_ahead
        self.queue_before = max(0, self.queue_before - quantity)
        self.queue_ahead = min(self.queue_ahead, max(0, start - quantity))
        return max(0, quantity - start)


class _Consumed(msgspec.Struct, array_like=True):
    lots: int
    since: int

    def at(self, at: int) -> int:
        return self.lots >> ((at - self.since) // CONSUMPTION_HALF_LIFE_NS)


class _SideState(msgspec.Struct, array_like=True):
    traded: dict[int, int] = {}
    consumed: dict[int, _Consumed] = {}


class _Side:
    """One side of the exchange's book, and our orders in it by priority."""

    __slots__ = ("book", "consumed", "orders", "sign", "traded")

    def __init__(self, sign: int, book: BookSide) -> None:
        self.sign = sign
        self.book = book
        self.orders: list[WorkingOrder] = []  # best price first, then by arrival
        self.traded: dict[int, int] = {}  # price -> lots printed since the level was published
        self.consumed: dict[int, _Consumed] = {}  # price -> what we took

    def displayed(self, price: int) -> int:
        return max(0, self.book.quantities.get(price, 0) - self.traded.get(price, 0))

    def available(self, price: int, at: int) -> int:
        taken = self.consumed.get(price)
        return max(0, self.displayed(price) - (taken.at(at) if taken else 0))

    def consume(self, price: int, quantity: int, at: int) -> None:
        taken = self.consumed.get(price)
        self.consumed[price] = _Consumed(quantity + (taken.at(at) if taken else 0), at)

    def add(self, order: WorkingOrder) -> None:
        insort(self.orders, order, key=lambda resting: -self.sign * resting.price)

    def reaches(self, price: int, limit: int) -> bool:
        # Whether somebody who trades down to *limit* on this side gets as far as *price*.
        return self.sign * (price - limit) >= 0

    def down_to(self, limit: int) -> Iterator[int]:
        # The prices of this side from its best to *limit*.
        for key in reversed(self.book.keys):
            price = self.sign * key
            if not self.reaches(price, limit):
                return
            yield price

    def watch(self, packed: bytes, sizes: OrderSize, at: int) -> None:
        # Before the levels of *packed* are applied: learn from their growth, forget older prints.
        sign, keys, quantities = self.sign, self.book.keys, self.book.quantities
        deepest = keys[-min(SIZE_DEPTH, len(keys))] if keys else 0
        named = list(levels(packed)) if self.traded else levels(packed)
        for price, quantity in named:
            if sign * price >= deepest and (growth := quantity - quantities.get(price, 0)) > 0:
                sizes.add(growth, at)
        if self.traded:
            for price, _ in named:
                self.traded.pop(price, None)

    def forget_deleted(self) -> None:
        for price in [price for price in self.consumed if price not in self.book.quantities]:
            del self.consumed[price]


class EngineState(msgspec.Struct, frozen=True, array_like=True):
    """Everything a MatchingEngine remembers."""

    instrument: Instrument | None
    book: BookSnapshot
    book_state: BookState
    orders: list[WorkingOrder]  # by arrival
    sizes: OrderSize
    bids: _SideState
    asks: _SideState
    standing: dict[int, int]


#: For each order at a level: the level's size and prints before a message, for the queue model after it.
_Before: TypeAlias = list[tuple[WorkingOrder, int, int]]


class MatchingEngine:
    """
    One symbol on one exchange, with our orders in it.

    Every method takes *at*, the exchange's time in ns UTC on our axis, which never
    falls from one call to the next, and returns the order events that follow.
    """

    def __init__(
        self,
        exchange: str,
        symbol: str,
        *,
        queue: QueueModel | None = None,
        self_trade: SelfTrade = "cancel_newest",
        toxic_position: int = 10,
        protection_bps: int = 100,
    ) -> None:
        """
        Args:
            queue: who leaves when a level shrinks; RiskAverse by default.
            self_trade: which order goes when a taker would meet one of its own account.
            toxic_position: a maker that started behind more orders than this is predicted toxic.
            protection_bps: how far from the best price a market order may go.
        """
        self.instrument: Instrument | None = None
        self.book = OrderBook(exchange, symbol)
        self.orders: dict[str, WorkingOrder] = {}  # those that rest, by arrival
        self._queue = queue or RiskAverse()
        self._self_trade = self_trade
        self._toxic_position = toxic_position
        self._protection_bps = protection_bps
        self._sizes = OrderSize()
        self._bids = _Side(+1, self.book.bids)
        self._asks = _Side(-1, self.book.asks)
        self._pairs = ((self._bids, self._asks), (self._asks, self._bids))
        # Sizes that stood opposite our orders, at or through their prices, when the book was last in no
        # doubt; by price, negated for asks. What is more than these is new.
        self._standing: dict[int, int] = {}

    # --- The market moves -------------------------------------------------------------------------

    def on_book_snapshot(self, snapshot: BookSnapshot, at: int) -> Sequence[OrderEvent]:
        """Replace the book; a queue ahead of us is at most what is there now."""
        before = self._look(self._bids) + self._look(self._asks)
        self.book.apply_snapshot(snapshot)
        for side in (self._bids, self._asks):
            side.traded.clear()
            side.forget_deleted()
        self._requeue(before, RiskAverse())
        return self._meet_quotes(at)

    def on_book_delta(self, delta: BookDelta, at: int) -> Sequence[OrderEvent]:
        """Change the levels named; a book that waits for a snapshot ignores it."""
        if self.book.state is BookState.RESYNCING:
            return ()
        bids, asks, has_orders = self._bids, self._asks, bool(self.orders)
        if has_orders:
            before = self._look(bids) + self._look(asks)
        if delta.bids:
            bids.watch(delta.bids, self._sizes, at)
        if delta.asks:
            asks.watch(delta.asks, self._sizes, at)
        self.book.apply_delta(delta)
        if bids.consumed or asks.consumed:
            bids.forget_deleted()
            asks.forget_deleted()
        if not has_orders:
            return ()
        self._requeue(before, self._queue)
        return self._meet_quotes(at)

    def on_trade(self, trade: Trade, at: int) -> Sequence[OrderEvent]:
        """Let a print eat the side it hit, and our orders in it."""
        if self.book.state is BookState.RESYNCING:
            return ()
        side = self._bids if trade.aggressor is Side.SELL else self._asks
        is_late = 0 < trade.ts_event <= self.book.ts_event
        if not is_late and trade.price in side.book.quantities:
            side.traded[trade.price] = side.traded.get(trade.price, 0) + trade.quantity
        if not side.orders or not self.book.is_trusted:
            return ()
        return self._share_print(side, trade, is_late, at)

    def distrust(self, state: BookState) -> None:
        """Mark the book STALE or RESYNCING: nothing fills until the feed makes it whole."""
        if state is BookState.RESYNCING or self.book.state is BookState.VALID:
            self.book.state = state

    def _look(self, side: _Side) -> _Before:
        sizes, traded = side.book.quantities, side.traded
        return [(order, sizes.get(order.price, 0), traded.get(order.price, 0)) for order in side.orders]

    def _requeue(self, before: _Before, model: QueueModel) -> None:
        for order, previous, traded in before:
            side = self._bids if order.submitted.side is Side.BUY else self._asks
            new = side.book.quantities.get(order.price, 0)
            if new == previous:
                continue
            ahead = order.queue_before = order.queue_ahead
            behind = max(0, previous - ahead)
            order.queue_ahead = model.on_depth(ahead, behind, previous, new, traded, self._sizes.average)

    def _share_print(self, side: _Side, trade: Trade, is_late: bool, at: int) -> list[OrderEvent]:
        events: list[OrderEvent] = []
        given, printed = 0, exchange_time(trade)
        for order in list(side.orders):
            if not side.reaches(order.price, trade.price):
                break
            if printed <= order.accepted_ns:  # told late: it was before our time
                continue
            if order.price == trade.price:
                reached = order.print_at_price(trade.quantity, is_late)
            else:
                order.queue_ahead = order.queue_before = 0
                reached = trade.quantity
            if (quantity := min(reached - given, order.leaves)) > 0:
                given += quantity
                events.append(self._fill(order, order.price, quantity, Liquidity.MAKER, at))
        return events

    def _meet_quotes(self, at: int) -> Sequence[OrderEvent]:
        events: list[OrderEvent] = []
        standing: dict[int, int] = {}
        for side, opposite in self._pairs:
            if not side.orders or not opposite.reaches(opposite.book.best, side.orders[0].price):
                continue
            if not self.book.is_trusted:
                return ()
            for price in opposite.down_to(side.orders[0].price):
                key, size = opposite.sign * price, opposite.book.quantities[price]
                standing[key] = size
                events += self._meet_quote(side, opposite, price, size - self._standing.get(key, 0), at)
        self._standing = standing
        return events

    def _meet_quote(
        self, side: _Side, opposite: _Side, price: int, growth: int, at: int
    ) -> Iterator[OrderEvent]:
        budget = min(growth, opposite.available(price, at))
        for order in list(side.orders):
            if budget <= 0 or not side.reaches(order.price, price):
                return
            quantity = min(budget, order.leaves)
            budget -= quantity
            opposite.consume(price, quantity, at)
            order.queue_ahead = order.queue_before = 0
            yield self._fill(order, order.price, quantity, Liquidity.MAKER, at)

    # --- Our commands arrive ----------------------------------------------------------------------

    def submit(self, order: OrderSubmitted, at: int) -> list[OrderEvent]:
        """Admit or refuse *order*, match what crosses, and let the rest wait or expire as its terms say."""
        if reason := self._refusal(order):
            return [OrderRejected(at, at, order.order_id, order.exchange, order.symbol, reason)]
        can_rest = _can_rest(order)
        ahead = self._side_of(order).displayed(order.price) if can_rest else 0
        orders_ahead = self._sizes.orders_in(ahead)
        working = WorkingOrder(order, order.quantity, ahead, ahead, ahead, orders_ahead, at)
        events: list[OrderEvent] = [
            OrderAccepted(
                at, at, order.order_id, order.exchange, order.symbol, ahead, orders_ahead, order.passport
            )
        ]
        is_ended = self._take(working, events, at)
        if is_ended or not working.leaves:
            return events
        if can_rest:
            self._rest(working)
        else:
            events.append(self._expired(working, at))
        return events

    def cancel(self, order_id: str, reason: str, at: int) -> list[OrderEvent]:
        """Take *order_id* back; an order that has ended, or was never known, stays as it is."""
        order = self.orders.get(order_id)
        return [self._canceled(order, reason, at)] if order else []

    def _side_of(self, order: OrderSubmitted) -> _Side:
        return self._bids if order.side is Side.BUY else self._asks

    def _opposite_of(self, order: OrderSubmitted) -> _Side:
        return self._asks if order.side is Side.BUY else self._bids

    def _refusal(self, order: OrderSubmitted) -> str:
        rules = self.instrument
        if rules is None:
            return f"{order.exchange} has not listed {order.symbol}"
        if rules.contract:
            return f"only spot is simulated, and {order.symbol} is a future ({rules.contract})"
        if rules.is_sampled and _can_rest(order):
            return "a sampled book shows no queue to rest in: only IOC, FOK and MARKET orders are simulated"
        if not self.book.is_trusted:
            doubt = self.book.state if self.book.state is not BookState.VALID else "crossed or one-sided"
            return f"nothing is matched on a book in doubt, and this one was {doubt}"
        if order.quantity < rules.min_quantity:
            return f"quantity must be at least {rules.min_quantity} lots, was {order.quantity}"
        if 0 < rules.max_quantity < order.quantity:
            return f"quantity must be at most {rules.max_quantity} lots, was {order.quantity}"
        best = self._opposite_of(order).book.best
        price = best if order.order_type is OrderType.MARKET else order.price
        if price <= 0:
            return f"a limit order needs a price above 0, was {price}"
        if (notional := rules.notional(price, order.quantity)) < rules.min_notional:
            return f"notional must be at least {rules.min_notional} units, was {notional}"
        if order.time_in_force is TimeInForce.POST_ONLY:
            return self._post_only_refusal(order)
        return ""

    def _post_only_refusal(self, order: OrderSubmitted) -> str:
        if order.order_type is OrderType.MARKET:
            return "a market order takes, so it cannot be post-only"
        opposite = self._opposite_of(order)
        if opposite.reaches(opposite.book.best, order.price):
            return f"post-only at {order.price} would take: the other side's best was {opposite.book.best}"
        if own := self._own_opposite(order, order.price):
            return f"post-only at {order.price} would take our own order {own.submitted.order_id}"
        return ""

    def _limit_of(self, order: OrderSubmitted) -> int:
        if order.order_type is OrderType.LIMIT:
            return order.price
        best = self._opposite_of(order).book.best
        if order.side is Side.BUY:
            return best * (_BPS + self._protection_bps) // _BPS
        return -(-best * (_BPS - self._protection_bps) // _BPS)

    def _own_opposite(self, order: OrderSubmitted, limit: int) -> WorkingOrder | None:
        # The first order of the same account that a walk to *limit* would meet.
        opposite = self._opposite_of(order)
        for resting in opposite.orders:
            if not opposite.reaches(resting.price, limit):
                return None
            if resting.submitted.account == order.account:
                return resting
        return None

    def _reachable(
        self, opposite: _Side, limit: int, own: WorkingOrder | None, at: int
    ) -> Iterator[tuple[int, int]]:
        # (price, quantity) that a taker finds on its way to *limit*, or to its own order on that way.
        for price in opposite.down_to(own.price if own else limit):
            quantity = opposite.available(price, at)
            if own and price == own.price:
                quantity = min(quantity, own.queue_ahead)
            yield price, quantity

    def _take(self, taker: WorkingOrder, events: list[OrderEvent], at: int) -> bool:
        # Match what crosses; whether that ended the order by another way than being filled.
        order = taker.submitted
        opposite, limit = self._opposite_of(order), self._limit_of(order)
        if order.time_in_force is TimeInForce.FOK:
            own = None if self._self_trade == "cancel_oldest" else self._own_opposite(order, limit)
            if sum(quantity for _, quantity in self._reachable(opposite, limit, own, at)) < taker.leaves:
                return False
        while taker.leaves:
            own = self._own_opposite(order, limit)
            for price, found in self._reachable(opposite, limit, own, at):
                if quantity := min(found, taker.leaves):
                    opposite.consume(price, quantity, at)
                    events.append(self._fill(taker, price, quantity, Liquidity.TAKER, at))
            if own is None or not taker.leaves:
                return False
            if self._prevent_self_trade(taker, own, events, at):
                return True
        return False

    def _prevent_self_trade(
        self, taker: WorkingOrder, own: WorkingOrder, events: list[OrderEvent], at: int
    ) -> bool:
        if self._self_trade != "cancel_newest":
            reason = f"self-trade prevention: {taker.submitted.order_id} would have met it"
            events.append(self._canceled(own, reason, at))
        if self._self_trade == "cancel_oldest":
            return False
        reason = f"self-trade prevention: would have met {own.submitted.order_id}"
        events.append(self._canceled(taker, reason, at))
        return True

    # --- The ends of an order ---------------------------------------------------------------------

    def _rest(self, order: WorkingOrder) -> None:
        # What it left of a level it crossed has been met already.
        self.orders[order.submitted.order_id] = order
        self._side_of(order.submitted).add(order)
        opposite = self._opposite_of(order.submitted)
        for price in opposite.down_to(order.price):
            self._standing[opposite.sign * price] = opposite.book.quantities[price]

    def _remove(self, order: WorkingOrder) -> None:
        if self.orders.pop(order.submitted.order_id, None):
            self._side_of(order.submitted).orders.remove(order)

    def _fill(
        self, order: WorkingOrder, price: int, quantity: int, liquidity: Liquidity, at: int
    ) -> OrderFilled:
        submitted, rules = order.submitted, self.instrument
        assert rules is not None  # no order is admitted without
        order.leaves -= quantity
        order.fills += 1
        if not order.leaves:
            self._remove(order)
        is_maker = liquidity is Liquidity.MAKER
        ppm = rules.maker_fee_ppm if is_maker else rules.taker_fee_ppm
        return OrderFilled(
            at,
            at,
            submitted.order_id,
            order.fills,
            submitted.strategy,
            submitted.account,
            submitted.exchange,
            submitted.symbol,
            submitted.side,
            price,
            quantity,
            order.leaves,
            liquidity,
            -(-rules.notional(price, quantity) * ppm // PPM),
            # Every exchange is made to charge in quote, though Binance takes it in the asset received.
            rules.quote,
            order.queue_start if is_maker else 0,
            order.orders_start if is_maker else 0,
            at - order.accepted_ns,
            is_maker and order.orders_start > self._toxic_position,
            submitted.arrival_mid,
            submitted.passport,
        )

    def _canceled(self, order: WorkingOrder, reason: str, at: int) -> OrderCanceled:
        self._remove(order)
        s = order.submitted
        return OrderCanceled(at, at, s.order_id, s.exchange, s.symbol, order.leaves, reason)

    def _expired(self, order: WorkingOrder, at: int) -> OrderExpired:
        s = order.submitted
        terms = s.order_type if s.order_type is OrderType.MARKET else s.time_in_force
        reason = f"{terms}: no more was displayed within {self._limit_of(s)}"
        return OrderExpired(at, at, s.order_id, s.exchange, s.symbol, order.leaves, reason)

    # --- State ------------------------------------------------------------------------------------

    def state(self) -> EngineState:
        """Return everything this engine remembers."""
        return EngineState(
            self.instrument,
            self.book.snapshot(),
            self.book.state,
            list(self.orders.values()),
            self._sizes,
            _SideState(self._bids.traded, self._bids.consumed),
            _SideState(self._asks.traded, self._asks.consumed),
            self._standing,
        )

    def restore(self, state: EngineState) -> None:
        """Become what *state*, decoded from bytes and not shared with another engine, says."""
        self.instrument = state.instrument
        self.book.apply_snapshot(state.book)
        self.book.state = state.book_state
        self._sizes = state.sizes
        for side, saved in ((self._bids, state.bids), (self._asks, state.asks)):
            side.traded, side.consumed = saved.traded, saved.consumed
        for order in state.orders:
            self._rest(order)
        self._standing = state.standing
