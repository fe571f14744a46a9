"""
What many paper engines do, as one model of a tournament: no queue, and no size.

The rules are those that core_peers has over columns, for replays. Here they need no more than the
best prices and our orders.
"""

from collections.abc import Callable, Sequence

import msgspec

from tickerml.kernel import (
    PPM,
    BookDelta,
    BookOrders,
    BookSnapshot,
    BookState,
    Instrument,
    Liquidity,
    OrderBook,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    Trade,
)

from .matching import EngineState, MatchingEngine, OrderEvent, WorkingOrder

#: By how many ticks the other side's best must be beyond an order before it is filled.
MARGINS = {"touch": 0, "cross": 1}


class NaiveEngine:
    """
    Fills an order whole as soon as the other side's best reaches it, whatever is before it or displayed.

    With a *margin* above 0 the best must be so many ticks beyond the order, and a trade that prints
    strictly through it will do as well. An order that crosses on arrival gets all it wants at its limit.
    """

    def __init__(self, exchange: str, symbol: str, margin: int) -> None:
        self.instrument: Instrument | None = None
        self._book = OrderBook(exchange, symbol)
        self._margin = margin
        self._orders: dict[str, OrderSubmitted] = {}  # by arrival

    def on_book_snapshot(self, snapshot: BookSnapshot, at: int) -> Sequence[OrderEvent]:
        """Replace the book."""
        self._book.apply_snapshot(snapshot)
        return self._meet_quotes(at)

    def on_book_delta(self, delta: BookDelta, at: int) -> Sequence[OrderEvent]:
        """Change the levels named; a book that waits for a snapshot ignores it."""
        self._book.apply_delta(delta)
        return self._meet_quotes(at)

    def on_book_orders(self, told: BookOrders) -> None:
        """It knows of no queue."""

    def on_trade(self, trade: Trade, at: int) -> Sequence[OrderEvent]:
        """Let a print through our orders fill them, where prints count."""
        hit = trade.aggressor.opposite
        return self._fill_those(
            lambda order: self._margin > 0 and order.side is hit and hit * (order.price - trade.price) > 0, at
        )

    def distrust(self, state: BookState) -> None:
        """Wait for a snapshot; a book that is only late is believed all the same."""
        if state is BookState.RESYNCING:
            self._book.distrust(0)

    def submit(self, order: OrderSubmitted, at: int, entry_ns: int = 0) -> Sequence[OrderEvent]:
        """Fill *order* if it crosses, and let it rest otherwise, as far as its terms let it."""
        best = self._book.best_ask if order.side is Side.BUY else self._book.best_bid
        is_market = order.order_type is OrderType.MARKET
        if best and (is_market or order.side * (order.price - best) >= 0):
            if order.time_in_force is TimeInForce.POST_ONLY:
                return ()
            price = best if is_market else order.price
            return [self._filled(order, price, Liquidity.TAKER, at)]
        if not is_market and order.time_in_force in (TimeInForce.GTC, TimeInForce.POST_ONLY):
            self._orders[order.order_id] = order
        return ()

    def replace(self, order_id: str, price: int, quantity: int, at: int) -> Sequence[OrderEvent]:
        """Let the order come anew with *price* and *quantity*, if it rests."""
        order = self._orders.pop(order_id, None)
        if order is None:
            return ()
        return self.submit(msgspec.structs.replace(order, price=price, quantity=quantity), at)

    def cancel(self, order_id: str, reason: str, at: int) -> Sequence[OrderEvent]:
        """Take *order_id* back, if it rests."""
        self._orders.pop(order_id, None)
        return ()

    def holds(self, order_id: str) -> bool:
        """Whether *order_id* rests here."""
        return order_id in self._orders

    def state(self) -> EngineState:
        """Return the orders that rest, as an engine without a book would."""
        orders = [WorkingOrder(order, order.quantity, 0, 0, 0, 0, 0) for order in self._orders.values()]
        empty = MatchingEngine(self._book.exchange, self._book.symbol).state()
        return msgspec.structs.replace(
            empty, instrument=self.instrument, book_state=self._book.state, orders=orders
        )

    def restore(self, state: EngineState) -> None:
        """Take the book and the orders of *state*, which may be that of any engine."""
        self._book.apply_snapshot(state.book)
        self._book.state = state.book_state
        self._orders = {
            order.submitted.order_id: msgspec.structs.replace(order.submitted, quantity=order.leaves)
            for order in state.orders
        }

    def _meet_quotes(self, at: int) -> Sequence[OrderEvent]:
        if not self._orders:
            return ()
        bid, ask = self._book.best_bid, self._book.best_ask
        return self._fill_those(lambda order: self._is_met(order, bid, ask), at)

    def _is_met(self, order: OrderSubmitted, bid: int, ask: int) -> bool:
        best = ask if order.side is Side.BUY else bid
        return best > 0 and order.side * (order.price - best) >= self._margin

    def _fill_those(self, is_met: Callable[[OrderSubmitted], bool], at: int) -> Sequence[OrderEvent]:
        met = [order for order in self._orders.values() if is_met(order)]
        for order in met:
            del self._orders[order.order_id]
        return [self._filled(order, order.price, Liquidity.MAKER, at) for order in met]

    def _filled(self, order: OrderSubmitted, price: int, liquidity: Liquidity, at: int) -> OrderFilled:
        rules = self.instrument
        assert rules is not None  # no order is accepted without
        ppm = rules.maker_fee_ppm if liquidity is Liquidity.MAKER else rules.taker_fee_ppm
        return OrderFilled(
            at,
            at,
            order.order_id,
            1,
            order.strategy,
            order.account,
            order.exchange,
            order.symbol,
            order.side,
            price,
            order.quantity,
            0,
            liquidity,
            -(-rules.notional(price, order.quantity) * ppm // PPM),
            rules.quote,
            0,
            0,
            0,
            False,
            order.arrival_mid,
        )
