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

The rules themselves are functions over columns of int64 (core_match.py), which replays
compile; here is what speaks the bus's messages: admission by the exchange's rules, ids,
fees, state.

No clock, no bus, no randomness: commands and market messages in with the exchange's
time, order events out with ts_recv = ts_event. Whoever owns the engine says when they
become known.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from tickerml.kernel import (
    PPM,
    BookDelta,
    BookOrders,
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
    OrderReplaced,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    Trade,
    pack_levels,
)

from . import core_book, core_match, core_orders, core_singles, core_sizes
from . import core_state as cs
from . import exchange_filters as filters
from .exchange_filters import AveragePrice
from .queue_models import OrderSize, QueueChoice

OrderEvent: TypeAlias = (
    OrderAccepted | OrderRejected | OrderReplaced | OrderFilled | OrderCanceled | OrderExpired
)
SelfTrade: TypeAlias = Literal["none", "cancel_newest", "cancel_oldest", "cancel_both", "decrement"]

_STATES = (BookState.VALID, BookState.STALE, BookState.RESYNCING)
_SELF_TRADE: dict[str, int] = {
    "none": cs.STP_NONE,
    "cancel_newest": cs.CANCEL_NEWEST,
    "cancel_oldest": cs.CANCEL_OLDEST,
    "cancel_both": cs.CANCEL_BOTH,
    "decrement": cs.DECREMENT,
}


def exchange_time(message: BookSnapshot | BookDelta | BookOrders | Trade) -> int:
    """
    Return when *message* happened by the exchange's clock on our axis, ns UTC.

    No message can be older than now: a clock that runs ahead of ours counts as no latency.
    """
    return min(message.ts_event or message.ts_recv, message.ts_recv)


def _rows(packed: bytes) -> list[int]:
    return memoryview(packed).cast("q").tolist() if packed else []


class WorkingOrder(msgspec.Struct, frozen=True):
    """An order that rests, as it stands. Quantities in lots."""

    submitted: OrderSubmitted
    leaves: int
    queue_ahead: int
    queue_before: int  # as it would be without the last change of the level, for prints that come late
    queue_start: int
    orders_start: int
    accepted_ns: int
    fills: int = 0
    entry_ns: int = 0
    behind: list[int] = []  # orders known behind it, the first in line first; see core_sizes
    ticket: int = 0  # this and the next three: see core_singles
    printed_ahead: int = 0
    printed_ns: int = 0
    changed_ns: int = 0


class _Consumed(msgspec.Struct, array_like=True):
    lots: int
    since: int


class _SideState(msgspec.Struct, array_like=True):
    traded: dict[int, int] = {}
    consumed: dict[int, _Consumed] = {}


class EngineState(msgspec.Struct, frozen=True, array_like=True):
    """Everything a MatchingEngine remembers."""

    instrument: Instrument | None
    book: BookSnapshot
    book_state: BookState
    orders: list[WorkingOrder]  # by arrival
    sizes: OrderSize
    bids: _SideState
    asks: _SideState
    standing: dict[int, int]  # by price, negated for asks
    average: AveragePrice = msgspec.field(default_factory=AveragePrice)
    last_number: int = 0  # of the market's single orders


class _Known(msgspec.Struct, gc=False):
    # What the columns do not hold of an order that is in them.
    submitted: OrderSubmitted
    entry_ns: int
    slot: int


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
        queue: QueueChoice | None = None,
        self_trade: SelfTrade = "cancel_newest",
        toxic_position: int = 10,
        protection_bps: int = 100,
        reprice: bool = False,
    ) -> None:
        """
        Args:
            queue: who leaves when a level shrinks; risk-averse by default.
            self_trade: what happens when a taker would meet one of its own account.
            toxic_position: a maker that started behind more orders than this is predicted toxic.
            protection_bps: how far from the best price a market order may go.
            reprice: a post-only order that would take is put one tick behind instead of refused.
        """
        self.instrument: Instrument | None = None
        # The (maker, taker) fees of an account's order by when it was accepted, where accounts differ.
        self.fees: Callable[[str, int], tuple[int, int]] | None = None
        self.exchange = exchange
        self.symbol = symbol
        chosen = queue or QueueChoice()
        self.core = cs.new_core(chosen.model, chosen.power, _SELF_TRADE[self_trade], cs.DEFAULT)
        self._head = self.core.head
        self._orders: dict[int, _Known] = {}  # by number, so by arrival
        self._numbers: dict[str, int] = {}
        self._accounts: dict[str, int] = {}
        self._next = 0
        self._seq = 0
        self._ts_recv = 0
        self._toxic_position = toxic_position
        self._protection_bps = protection_bps
        self._reprice = reprice
        self._room = 0  # for events
        self._average = AveragePrice()

    # --- The market moves -------------------------------------------------------------------------

    def on_book_snapshot(self, snapshot: BookSnapshot, at: int) -> Sequence[OrderEvent]:
        """Replace the book; a queue ahead of us is at most what is there now."""
        bids, asks = _rows(snapshot.bids), _rows(snapshot.asks)
        self._make_room(len(bids) + len(asks))
        self._seq, self._ts_recv = snapshot.seq, snapshot.ts_recv
        count = core_match.on_snapshot(self.core, bids, len(bids), asks, len(asks), snapshot.ts_event, at)
        return self._events(at) if count else ()

    def on_book_delta(self, delta: BookDelta, at: int) -> Sequence[OrderEvent]:
        """Change the levels named; a book that waits for a snapshot ignores it."""
        bids, asks = _rows(delta.bids), _rows(delta.asks)
        if self._orders:
            self._make_room(len(bids) + len(asks))
        if self._head[cs.STATE] != cs.RESYNCING:
            self._seq, self._ts_recv = delta.seq, delta.ts_recv
        count = core_match.on_delta(self.core, bids, len(bids), asks, len(asks), delta.ts_event, at)
        return self._events(at) if count else ()

    def on_book_orders(self, told: BookOrders) -> None:
        """Take in which single orders came and left: the queue model l3-exact moves ours by them."""
        singles = _rows(told.orders)
        core_singles.on_orders(self.core, singles, len(singles), exchange_time(told))

    def on_trade(self, trade: Trade, at: int) -> Sequence[OrderEvent]:
        """Let a print eat the side it hit, and our orders in it."""
        self._make_room(1)
        self._average.take(self.instrument, trade, at)
        side = cs.BID if trade.aggressor is Side.SELL else cs.ASK
        printed = exchange_time(trade)
        count = core_match.on_trade(self.core, side, trade.price, trade.quantity, trade.ts_event, printed, at)
        return self._events(at) if count else ()

    def distrust(self, state: BookState) -> None:
        """Mark the book STALE or RESYNCING: nothing fills until the feed makes it whole."""
        if state is BookState.RESYNCING or self._head[cs.STATE] == cs.VALID:
            self._head[cs.STATE] = _STATES.index(state)

    def _make_room(self, rows: int) -> None:
        if cs.events_of(self.core, rows, 0) > self._room:
            cs.make_room(self.core, rows + 16)
            self._room = len(self.core.out) // cs.OUT

    # --- Our commands arrive ----------------------------------------------------------------------

    def submit(self, order: OrderSubmitted, at: int, entry_ns: int = 0) -> list[OrderEvent]:
        """
        Admit or refuse *order*, match what crosses, and let the rest wait or expire as its terms say.

        Args:
            entry_ns: how long it was on its way, which its fills tell.
        """
        order = self._repriced(order)
        if reason := self._refusal(order, at) or self._crowd_refusal(order):
            return [OrderRejected(at, at, order.order_id, order.exchange, order.symbol, reason)]
        known, end = self._enter(order, entry_ns, at)
        row = known.slot * cs.ORDER
        start, orders_start = self.core.orders[row + cs.START], self.core.orders[row + cs.START_ORDERS]
        accepted = OrderAccepted(
            at, at, order.order_id, order.exchange, order.symbol, start, orders_start, order.passport
        )
        return [accepted, *self._events(at), *self._end(known, end, at)]

    def replace(self, order_id: str, price: int, quantity: int, at: int) -> list[OrderEvent]:
        """
        Change a resting order to *price* and *quantity*, which is all of it and not what is left.

        It keeps its place only at the same price for a smaller quantity; otherwise it comes anew,
        behind everybody. What the exchange would refuse leaves it as it is, and says why.
        """
        number = self._numbers.get(order_id)
        if number is None:
            return []
        known, row = self._orders[number], self._orders[number].slot * cs.ORDER
        old, orders = known.submitted, self.core.orders
        filled = old.quantity - orders[row + cs.LEAVES]
        new = msgspec.structs.replace(old, price=price, quantity=quantity)
        if quantity <= filled:
            asked, done = (self.listed.quantity_text(lots) for lots in (quantity, filled))
            return [self._canceled(number, f"replaced by {asked}, of which {done} is filled", at)]
        if price == old.price and quantity < old.quantity:
            if reason := filters.size_refusal(self.listed, new, price):
                return [self._replaced(number, at, reason)]
            known.submitted, orders[row + cs.LEAVES] = new, quantity - filled
            return [self._replaced(number, at)]
        return self._come_anew(number, new, filled, at)

    def _come_anew(self, number: int, new: OrderSubmitted, filled: int, at: int) -> list[OrderEvent]:
        known, orders = self._orders[number], self.core.orders
        row = known.slot * cs.ORDER
        if reason := self._refusal(new, at):
            return [self._replaced(number, at, reason)]
        fills, entry_ns = orders[row + cs.FILLS], known.entry_ns
        core_orders.remove(self.core, known.slot)
        self._forget(number)
        known, end = self._enter(new, entry_ns, at, filled, fills)
        leaves = new.quantity - filled
        row = known.slot * cs.ORDER
        replaced = OrderReplaced(
            at, at, new.order_id, new.exchange, new.symbol, new.price, leaves, orders[row + cs.START]
        )
        return [replaced, *self._events(at), *self._end(known, end, at)]

    def cancel(self, order_id: str, reason: str, at: int) -> list[OrderEvent]:
        """Take *order_id* back; an order that has ended, or was never known, stays as it is."""
        number = self._numbers.get(order_id)
        return [] if number is None else [self._canceled(number, reason, at)]

    def _enter(
        self, order: OrderSubmitted, entry_ns: int, at: int, filled: int = 0, fills: int = 0
    ) -> tuple[_Known, int]:
        cs.make_room(self.core, 0, 1)
        self._room = 0
        number, self._next = self._next, self._next + 1
        known = self._orders[number] = _Known(order, entry_ns, self._head[cs.NEXT_FREE])
        self._numbers[order.order_id] = number
        end = core_match.submit(
            self.core,
            number,
            cs.BID if order.side is Side.BUY else cs.ASK,
            order.price,
            self._limit_of(order),
            order.quantity - filled,
            self._accounts.setdefault(order.account, len(self._accounts)),
            filters.can_rest(order),
            order.time_in_force is TimeInForce.FOK,
            fills,
            at,
        )
        return known, end

    def _end(self, known: _Known, end: int, at: int) -> list[OrderEvent]:
        if end != core_match.EXPIRES:
            return []
        order = known.submitted
        leaves = self.core.orders[known.slot * cs.ORDER + cs.LEAVES]
        core_orders.remove(self.core, known.slot)
        self._forget(self._numbers[order.order_id])
        terms = order.order_type if order.order_type is OrderType.MARKET else order.time_in_force
        limit = self.listed.price_text(self._limit_of(order))
        reason = f"{terms}: no more was displayed within {limit}"
        return [OrderExpired(at, at, order.order_id, order.exchange, order.symbol, leaves, reason)]

    def _repriced(self, order: OrderSubmitted) -> OrderSubmitted:
        # A post-only order that would take, one tick behind the other side's best.
        if not self._reprice or order.time_in_force is not TimeInForce.POST_ONLY:
            return order
        best = core_book.best_price(self.core, cs.ASK if order.side is Side.BUY else cs.BID)
        if best == 0 or order.side * (order.price - best) < 0:
            return order
        return msgspec.structs.replace(order, price=best - order.side)

    def _refusal(self, order: OrderSubmitted, at: int) -> str:
        if reason := filters.listing_refusal(self.instrument, order):
            return reason
        if not core_book.is_trusted(self.core):
            return filters.doubt_refusal(_STATES[self._head[cs.STATE]])
        rules, best = self.listed, self._best_opposite(order)
        price = best if order.order_type is OrderType.MARKET else order.price
        if reason := filters.size_refusal(rules, order, price):
            return reason
        mid2 = sum(core_book.best_price(self.core, side) for side in (cs.BID, cs.ASK))
        average = self._average.refusal(rules, order, at, mid2)
        if reason := average or filters.depth_refusal(self.core, rules, order):
            return reason
        if order.time_in_force is TimeInForce.POST_ONLY:
            return self._post_only_refusal(order, best)
        return ""

    def _crowd_refusal(self, order: OrderSubmitted) -> str:
        open_ones = sum(each.submitted.account == order.account for each in self._orders.values())
        return filters.crowd_refusal(self.listed, open_ones)

    def _post_only_refusal(self, order: OrderSubmitted, best: int) -> str:
        if order.order_type is OrderType.MARKET:
            return "a market order takes, so it cannot be post-only"
        if order.side * (order.price - best) >= 0:
            return filters.post_only_refusal(self.listed, order.price, best)
        side = cs.BID if order.side is Side.BUY else cs.ASK
        account = self._accounts.get(order.account, -1)
        key = core_book.key_of(1 - side, order.price)
        own = core_match.own_opposite(self.core, side, account, key)
        if own != cs.NOBODY:
            number = self.core.orders[own * cs.ORDER + cs.NUMBER]
            other = self._orders[number].submitted.order_id
            return filters.own_refusal(self.listed, order.price, other)
        return ""

    @property
    def listed(self) -> Instrument:
        """The instrument, which is there wherever an order was admitted."""
        assert self.instrument is not None  # no order is admitted without
        return self.instrument

    def _best_opposite(self, order: OrderSubmitted) -> int:
        return core_book.best_price(self.core, cs.ASK if order.side is Side.BUY else cs.BID)

    def _limit_of(self, order: OrderSubmitted) -> int:
        if order.order_type is OrderType.LIMIT:
            return order.price
        return filters.market_limit(self.listed, order.side, self._best_opposite(order), self._protection_bps)

    # --- What follows -----------------------------------------------------------------------------

    def _events(self, at: int) -> list[OrderEvent]:
        out, events = self.core.out, list[OrderEvent]()
        ended = []
        for e in range(0, self._head[cs.EVENTS] * cs.OUT, cs.OUT):
            row = out[e : e + cs.OUT]
            if row[cs.E_KIND] == cs.DECREMENTED:
                events.append(self._replaced(row[cs.E_NUMBER], at, leaves=row[cs.E_LEAVES]))
                continue
            is_fill = row[cs.E_KIND] == cs.FILLED
            events.append(self._filled(row, at) if is_fill else self._prevented(row, at))
            if not is_fill or not row[cs.E_LEAVES]:
                ended.append(row[cs.E_NUMBER])
        for number in ended:  # not before all is told: others may name them
            self._forget(number)
        return events

    def _filled(self, row: list[int], at: int) -> OrderFilled:
        price, quantity = row[cs.E_PRICE], row[cs.E_QUANTITY]
        known, rules = self._orders[row[cs.E_NUMBER]], self.listed
        submitted = known.submitted
        is_maker = bool(row[cs.E_MAKER])
        maker, taker = rules.maker_fee_ppm, rules.taker_fee_ppm
        if self.fees:
            maker, taker = self.fees(submitted.account, row[cs.E_ACCEPTED])
        return OrderFilled(
            at,
            at,
            submitted.order_id,
            row[cs.E_FILL],
            submitted.strategy,
            submitted.account,
            submitted.exchange,
            submitted.symbol,
            submitted.side,
            price,
            quantity,
            row[cs.E_LEAVES],
            Liquidity.MAKER if is_maker else Liquidity.TAKER,
            -(-rules.notional(price, quantity) * (maker if is_maker else taker) // PPM),
            # Every exchange is made to charge in quote, though Binance takes it in the asset received.
            rules.quote,
            row[cs.E_START] if is_maker else 0,
            row[cs.E_START_ORDERS] if is_maker else 0,
            at - row[cs.E_ACCEPTED],
            is_maker and row[cs.E_START_ORDERS] > self._toxic_position,
            submitted.arrival_mid,
            submitted.passport,
            known.entry_ns,
            is_maker and row[cs.E_LEFT] == 0,
            row[cs.E_LEFT],
        )

    def _prevented(self, row: list[int], at: int) -> OrderCanceled:
        number, other = row[cs.E_NUMBER], row[cs.E_OTHER]
        s, name = self._orders[number].submitted, self._orders[other].submitted.order_id
        met = f"{name} would have met it" if number < other else f"would have met {name}"
        reason = f"self-trade prevention: {met}"
        return OrderCanceled(at, at, s.order_id, s.exchange, s.symbol, row[cs.E_LEAVES], reason)

    def _replaced(self, number: int, at: int, reason: str = "", leaves: int | None = None) -> OrderReplaced:
        known = self._orders[number]
        s, row = known.submitted, known.slot * cs.ORDER
        left = self.core.orders[row + cs.LEAVES] if leaves is None else leaves
        ahead = self.core.orders[row + cs.AHEAD]
        return OrderReplaced(at, at, s.order_id, s.exchange, s.symbol, s.price, left, ahead, reason)

    def _canceled(self, number: int, reason: str, at: int) -> OrderCanceled:
        known = self._orders[number]
        s, leaves = known.submitted, self.core.orders[known.slot * cs.ORDER + cs.LEAVES]
        core_orders.remove(self.core, known.slot)
        self._forget(number)
        return OrderCanceled(at, at, s.order_id, s.exchange, s.symbol, leaves, reason)

    def _forget(self, number: int) -> None:
        del self._numbers[self._orders.pop(number).submitted.order_id]

    # --- State ------------------------------------------------------------------------------------

    @property
    def book(self) -> OrderBook:
        """A copy of the book as the exchange has it."""
        book = OrderBook(self.exchange, self.symbol)
        book.apply_snapshot(self._snapshot())
        book.state = _STATES[self._head[cs.STATE]]
        return book

    @property
    def orders(self) -> dict[str, WorkingOrder]:
        """The orders that rest, by id, as they arrived."""
        return {known.submitted.order_id: self._working(known) for known in self._orders.values()}

    def holds(self, order_id: str) -> bool:
        """Whether *order_id* rests here."""
        return order_id in self._numbers

    def submitted(self, order_id: str) -> OrderSubmitted | None:
        """Return *order_id* as it was submitted or last replaced, None where it does not rest here."""
        number = self._numbers.get(order_id)
        return None if number is None else self._orders[number].submitted

    def refuse(self, order_id: str, reason: str, at: int) -> OrderReplaced:
        """Return that *order_id*, which rests, stays as it is because of *reason*."""
        return self._replaced(self._numbers[order_id], at, reason)

    def state(self) -> EngineState:
        """Return everything this engine remembers."""
        head = self._head
        return EngineState(
            self.instrument,
            self._snapshot(),
            _STATES[head[cs.STATE]],
            list(self.orders.values()),
            OrderSize(head[cs.SIZE_TOTAL], head[cs.SIZE_COUNT], head[cs.SIZE_STEP]),
            self._side_state(cs.BID),
            self._side_state(cs.ASK),
            self._standing(),
            self._average,
            head[cs.LAST_NUMBER],
        )

    def restore(self, state: EngineState) -> None:
        """Become what *state*, decoded from bytes and not shared with another engine, says."""
        self.instrument, self._average = state.instrument, state.average
        self.on_book_snapshot(state.book, 0)
        self._head[cs.STATE] = _STATES.index(state.book_state)
        sizes = (state.sizes.total, state.sizes.count, state.sizes.step)
        self._head[cs.SIZE_TOTAL : cs.SIZE_STEP + 1] = sizes
        self._head[cs.LAST_NUMBER] = state.last_number
        cs.make_room(self.core, len(state.standing), len(state.orders))
        for side, saved in ((cs.BID, state.bids), (cs.ASK, state.asks)):
            for price, lots in saved.traded.items():
                at = core_book.add_mark(self.core, side, core_book.key_of(side, price))
                self.core.traded[side][at] = lots
            for price, taken in saved.consumed.items():
                at = core_book.add_mark(self.core, side, core_book.key_of(side, price))
                self.core.taken[side][at], self.core.since[side][at] = taken.lots, taken.since
        for order in state.orders:
            self._restore_order(order)
        for key, size in state.standing.items():
            core_match.remember(self.core, cs.BID if key > 0 else cs.ASK, key, size)

    def _snapshot(self) -> BookSnapshot:
        packed = []
        for side in (cs.BID, cs.ASK):
            n, sign = self._head[cs.LEVELS + side], 1 - 2 * side
            keys, sizes = self.core.keys[side], self.core.sizes[side]
            packed.append(pack_levels([(sign * keys[i], sizes[keys[i]]) for i in range(n - 1, -1, -1)]))
        ts_event = self._head[cs.TS_EVENT]
        return BookSnapshot(self._ts_recv, ts_event, self.exchange, self.symbol, self._seq, *packed)

    def _side_state(self, side: int) -> _SideState:
        core, found = self.core, _SideState({}, {})
        for i in range(self._head[cs.MARKS + side]):
            price = core_book.key_of(side, core.mark_keys[side][i])
            if core.traded[side][i]:
                found.traded[price] = core.traded[side][i]
            if core.taken[side][i]:
                found.consumed[price] = _Consumed(core.taken[side][i], core.since[side][i])
        return found

    def _standing(self) -> dict[int, int]:
        core, found = self.core, dict[int, int]()
        for side in (cs.BID, cs.ASK):
            n = self._head[cs.STANDING + side]
            found.update(zip(core.standing_keys[side][:n], core.standing_sizes[side][:n], strict=True))
        return found

    def _working(self, known: _Known) -> WorkingOrder:
        row = self.core.orders[known.slot * cs.ORDER : (known.slot + 1) * cs.ORDER]
        return WorkingOrder(
            known.submitted,
            row[cs.LEAVES],
            row[cs.AHEAD],
            row[cs.BEFORE],
            row[cs.START],
            row[cs.START_ORDERS],
            row[cs.ACCEPTED],
            row[cs.FILLS],
            known.entry_ns,
            row[cs.BEHIND : cs.BEHIND + row[cs.BEHIND_COUNT]],
            *row[cs.TICKET : cs.CHANGED_AT + 1],
        )

    def _restore_order(self, order: WorkingOrder) -> None:
        s, side = order.submitted, cs.BID if order.submitted.side is Side.BUY else cs.ASK
        number, self._next = self._next, self._next + 1
        account = self._accounts.setdefault(s.account, len(self._accounts))
        slot = core_orders.admit(
            self.core, number, side, s.price, order.leaves, account, order.queue_start, order.accepted_ns
        )
        row, orders = slot * cs.ORDER, self.core.orders
        orders[row + cs.AHEAD], orders[row + cs.BEFORE] = order.queue_ahead, order.queue_before
        orders[row + cs.START_ORDERS], orders[row + cs.FILLS] = order.orders_start, order.fills
        singles = order.ticket, order.printed_ahead, order.printed_ns, order.changed_ns
        orders[row + cs.TICKET : row + cs.CHANGED_AT + 1] = singles
        for lots in order.behind:
            core_sizes.join(self.core, row, lots)
        core_orders.rest(self.core, slot)
        self._orders[number] = _Known(s, order.entry_ns, slot)
        self._numbers[s.order_id] = number
