"""
A limit order book of single orders (L3), matched by price and then by time.

Each price holds its orders in a dict from order id to what is left of it. A dict keeps
the order of arrival, finds an order by its id at once, and a partial execution changes
a value without moving its key, so it is a FIFO queue as it stands. Ids rise with
arrival, so "ahead of us" is "at our price with a smaller id".

A ghost is an order that is not there: a price, a quantity and the number of the next
order id when it came. The market never sees it, so any number of them can be asked
about in one run, each as if it were the only one. What it would have traded follows
from the record alone: an incoming order of quantity Q first takes what rests at better
prices, then what rests at the ghost's price with a smaller id, and what is left of Q
then reaches the ghost, whether in truth it went on to later orders, to worse prices, or
came to rest because nobody real was there. Q counts only what did trade or come to rest.
That is the truth which an estimate of a queue from L2 data can be scored against.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import msgspec

from tickerml.kernel import Side, pack_levels, pack_orders

#: One price and its orders, first in the queue first: (price ticks, [(order id, lots left)]).
Queue = tuple[int, list[tuple[int, int]]]


class OrderEvent(NamedTuple):
    """
    One line of the order-by-order record, of the resting order it happened to.

    quantity is in lots: what was added, what was canceled, or what was executed.
    """

    ts_event: int
    kind: Literal["added", "canceled", "executed"]
    side: Side
    price: int
    quantity: int
    order_id: int


class QueuePlace(NamedTuple):
    """Where an order stands at its price: orders and lots before it, and its own lots left."""

    orders_ahead: int
    queue_ahead: int
    quantity: int


class Ghost(msgspec.Struct, array_like=True):
    """
    An order that would have been: what is left of it and its fills as (ts_event, lots).

    Orders at its price with an id below *ticket* came before it.
    """

    ghost_id: int
    side: Side
    price: int
    leaves: int
    ticket: int
    ts_event: int
    fills: list[tuple[int, int]]


class FifoState(msgspec.Struct, frozen=True, array_like=True):
    """Everything a FifoBook remembers."""

    next_id: int
    next_ghost: int
    bids: list[Queue]
    asks: list[Queue]
    ghosts: list[Ghost]


class FifoSide:
    """One side; keys are prices, negated for asks, ascending, so that the best is the last."""

    __slots__ = ("count", "keys", "queues", "sign", "totals", "touched")

    def __init__(self, sign: int) -> None:
        """
        Args:
            sign: +1 for bids, -1 for asks.
        """
        self.sign = sign
        self.keys: list[int] = []
        self.queues: dict[int, dict[int, int]] = {}  # price -> order id -> lots left
        self.totals: dict[int, int] = {}  # price -> lots
        self.count = 0  # orders
        self.touched: dict[int, None] = {}  # prices changed since the last delta, in order

    @property
    def best(self) -> int:
        """The best price in ticks; 0 when the side is empty."""
        return self.sign * self.keys[-1] if self.keys else 0

    def price_at(self, index: int) -> int:
        """Return the price of the level *index* steps behind the best, in ticks."""
        return self.sign * self.keys[-1 - index]

    def price_of(self, rank: int) -> int:
        """Return the price of the order with *rank* others before it on this side, in ticks."""
        sign, queues = self.sign, self.queues
        for key in reversed(self.keys):
            rank -= len(queues[sign * key])
            if rank < 0:
                return sign * key
        raise ValueError(f"expected a rank below the {self.count} orders of this side, was {rank} beyond")

    def quantity_within(self, depth: int) -> int:
        """Return the lots at the best *depth* levels."""
        sign, totals = self.sign, self.totals
        return sum([totals[sign * key] for key in self.keys[: -depth - 1 : -1]])

    def append(self, price: int, order_id: int, quantity: int) -> None:
        """Put an order at the back of the queue at *price*."""
        queue = self.queues.get(price)
        if queue is None:
            self.queues[price] = {order_id: quantity}
            self.totals[price] = quantity
            insort(self.keys, self.sign * price)
        else:
            queue[order_id] = quantity
            self.totals[price] += quantity
        self.count += 1
        self.touched[price] = None

    def reduce(self, price: int, order_id: int, quantity: int) -> None:
        """Take *quantity* lots off an order; what has none left is gone, and so is an empty level."""
        queue = self.queues[price]
        self.touched[price] = None
        self.totals[price] -= quantity
        if quantity < queue[order_id]:
            queue[order_id] -= quantity
            return
        del queue[order_id]
        self.count -= 1
        if not queue:
            del self.queues[price], self.totals[price]
            key = self.sign * price
            del self.keys[bisect_left(self.keys, key)]

    def take_changes(self) -> bytes:
        """Return the new totals of prices changed since the last call, packed; 0 where a level is gone."""
        totals = self.totals
        packed = pack_levels([(price, totals.get(price, 0)) for price in self.touched])
        self.touched.clear()
        return packed

    def levels(self) -> list[tuple[int, int]]:
        """Return (price ticks, lots), best first."""
        return [(self.sign * key, self.totals[self.sign * key]) for key in reversed(self.keys)]

    def orders(self) -> list[Queue]:
        """Return every queue, best price first."""
        return [(self.sign * key, list(self.queues[self.sign * key].items())) for key in reversed(self.keys)]

    def restore(self, queues: Iterable[Queue]) -> None:
        """Take the queues that orders() returned."""
        for price, queue in queues:
            for order_id, quantity in queue:
                self.append(price, order_id, quantity)
        self.touched.clear()


class FifoBook:
    """Both sides of one symbol, the ghosts in it, and whoever listens to its record."""

    __slots__ = ("asks", "bids", "ghosts", "next_ghost", "next_id", "singles", "tap")

    def __init__(self) -> None:
        self.bids = FifoSide(+1)
        self.asks = FifoSide(-1)
        self.next_id = 1
        self.next_ghost = 1
        self.ghosts: dict[int, Ghost] = {}
        self.tap: Callable[[OrderEvent], None] | None = None
        self.singles: list[tuple[int, int, int, int]] | None = None  # a list, where a feed is to tell them

    def side(self, side: Side) -> FifoSide:
        """Return the side on which orders of direction *side* rest."""
        return self.bids if side is Side.BUY else self.asks

    def add(self, ts: int, side: Side, price: int, quantity: int) -> int:
        """
        Put a new order of *quantity* lots at the back of the queue at *price*; return its id.

        Raises: ValueError: it would trade at once, or has nothing in it.
        """
        other = self.side(side.opposite)
        if quantity <= 0 or price <= 0 or (other.keys and side * price >= side * other.best):
            raise ValueError(
                f"an order that rests needs lots and a price short of {other.best}, "
                f"was {quantity} lots at {price}"
            )
        if self.ghosts:
            self._reach_ghosts(ts, side, quantity, price)
        order_id = self.next_id
        self.next_id = order_id + 1
        (self.bids if side is Side.BUY else self.asks).append(price, order_id, quantity)
        if self.singles is not None:
            self.singles.append((side, order_id, price, quantity))
        if self.tap is not None:
            self.tap(OrderEvent(ts, "added", side, price, quantity, order_id))
        return order_id

    def cancel(self, ts: int, side: Side, price: int, order_id: int) -> None:
        """
        Take an order out.

        Raises: KeyError: it does not rest at that price.
        """
        book_side = self.bids if side is Side.BUY else self.asks
        quantity = book_side.queues[price][order_id]
        book_side.reduce(price, order_id, quantity)
        if self.singles is not None:
            self.singles.append((side, order_id, price, -quantity))
        if self.tap is not None:
            self.tap(OrderEvent(ts, "canceled", side, price, quantity, order_id))

    def execute(self, ts: int, aggressor: Side, quantity: int, limit: int) -> list[tuple[int, int]]:
        """
        Match an incoming order against what rests, down to *limit*; what it cannot take is gone.

        Returns: (price, lots) of each resting order it traded with, in order.
        """
        resting = self.side(aggressor.opposite)
        if self.ghosts:
            within = [lots for price, lots in resting.totals.items() if aggressor * (limit - price) >= 0]
            self._reach_ghosts(ts, aggressor, min(quantity, sum(within)), limit)
        keys, last_key = resting.keys, resting.sign * limit
        executions: list[tuple[int, int]] = []
        while quantity and keys and keys[-1] >= last_key:
            price = resting.best
            order_id, left = next(iter(resting.queues[price].items()))
            taken = min(left, quantity)
            quantity -= taken
            resting.reduce(price, order_id, taken)
            executions.append((price, taken))
            if self.singles is not None:
                self.singles.append((resting.sign, order_id, price, -taken))
            if self.tap is not None:
                self.tap(OrderEvent(ts, "executed", aggressor.opposite, price, taken, order_id))
        return executions

    def take_singles(self) -> bytes:
        """Return the orders that came and left since the last call, packed as BookOrders has them."""
        packed = pack_orders(sorted(self.singles or (), key=lambda single: -single[0]))
        self.singles = []
        return packed

    def all_singles(self) -> bytes:
        """Return every order that rests, packed as BookOrders has them, and forget what came and left."""
        self.singles = []
        return pack_orders(
            (side.sign, order_id, price, lots)
            for side in (self.bids, self.asks)
            for price, queue in side.orders()
            for order_id, lots in queue
        )

    def place(self, price: int, order_id: int) -> QueuePlace:
        """
        Return where *order_id* stands in the queue at *price*.

        Raises: ValueError: no such order rests there.
        """
        queue = self.bids.queues.get(price) or self.asks.queues.get(price) or {}
        if order_id not in queue:
            raise ValueError(f"expected an order that rests at {price}, was {order_id}, of {sorted(queue)}")
        ahead = [left for other_id, left in queue.items() if other_id < order_id]
        return QueuePlace(len(ahead), sum(ahead), queue[order_id])

    # --- Ghosts -------------------------------------------------------------------------------

    def insert_ghost(self, ts: int, side: Side, price: int, quantity: int) -> Ghost:
        """
        Let a ghost join the back of the queue at *price*.

        Raises: ValueError: it would trade at once, or has nothing in it.
        """
        best = self.side(side.opposite).best
        if quantity <= 0 or price <= 0 or side * price >= side * best:
            raise ValueError(
                f"a ghost must have lots and rest short of {best}, was {quantity} lots at {price}"
            )
        ghost = Ghost(self.next_ghost, side, price, quantity, self.next_id, ts, [])
        self.ghosts[ghost.ghost_id] = ghost
        self.next_ghost += 1
        return ghost

    def ghost_place(self, ghost: Ghost) -> QueuePlace:
        """Return how many orders and lots are before *ghost* now, and what is left of it."""
        queue = self.side(ghost.side).queues.get(ghost.price, {})
        ahead = [left for order_id, left in queue.items() if order_id < ghost.ticket]
        return QueuePlace(len(ahead), sum(ahead), ghost.leaves)

    def _reach_ghosts(self, ts: int, aggressor: Side, quantity: int, limit: int) -> None:
        resting = self.side(aggressor.opposite)
        for ghost in self.ghosts.values():
            if not ghost.leaves or ghost.side is aggressor or aggressor * ghost.price > aggressor * limit:
                continue
            better = sum(
                resting.totals[price]
                for price in resting.totals
                if resting.sign * price > resting.sign * ghost.price
            )
            reached = min(ghost.leaves, quantity - better - self.ghost_place(ghost).queue_ahead)
            if reached > 0:
                ghost.leaves -= reached
                ghost.fills.append((ts, reached))

    # --- State --------------------------------------------------------------------------------

    def state(self) -> FifoState:
        """Return everything but the listener."""
        return FifoState(
            self.next_id,
            self.next_ghost,
            self.bids.orders(),
            self.asks.orders(),
            list(self.ghosts.values()),
        )

    @classmethod
    def from_state(cls, state: FifoState) -> "FifoBook":
        """Return the book that *state* is of."""
        book = cls()
        book.next_id, book.next_ghost = state.next_id, state.next_ghost
        book.bids.restore(state.bids)
        book.asks.restore(state.asks)
        book.ghosts = {ghost.ghost_id: ghost for ghost in state.ghosts}
        return book
