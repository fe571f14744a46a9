"""
An order book of single orders (L3): who stands where in every queue, and the L2 book that follows.

An order joins the back of the queue at its price. It keeps its place when it gets smaller
and loses it when it gets larger or moves to another price, which is price-time priority as
every exchange here keeps it. So the place of any order is known, not estimated:

    price 100   [a 5][b 2][c 9]      b has 1 order and 5 lots ahead of it
                                     the L2 book says 16 at 100

Each order has a number that rises with arrival, and gets the next one when it loses its place: what
happened to single orders is told by these (BookOrders), since ids are the exchange's own and long.

Prices are in ticks and quantities in lots.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple

from tickerml.kernel import Side, pack_levels, pack_orders


class QueuePosition(NamedTuple):
    """What stands before an order at its price: how many orders, of how many lots together."""

    orders: int
    quantity: int


class _Place(NamedTuple):
    side: "_Side"
    price: int
    number: int


class _Side:
    # One side: its prices ascending (asks negated, so the best is last) and the queue at each.
    __slots__ = ("changed", "keys", "queues", "sign")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.keys: list[int] = []
        self.queues: dict[int, dict[str, int]] = {}  # price -> order -> lots, the first in line first
        self.changed: dict[int, None] = {}

    def put(self, order_id: str, price: int, quantity: int) -> None:
        queue = self.queues.get(price)
        if queue is None:
            queue = self.queues[price] = {}
            insort(self.keys, self.sign * price)
        queue[order_id] = quantity
        self.changed[price] = None

    def take(self, order_id: str, price: int) -> None:
        queue = self.queues[price]
        del queue[order_id]
        self.changed[price] = None
        if not queue:
            del self.queues[price]
            del self.keys[bisect_left(self.keys, self.sign * price)]

    def best(self, depth: int) -> list[int]:
        return [self.sign * key for key in self.keys[: -depth - 1 : -1]]

    def drain(self) -> bytes:
        queues, changed = self.queues, self.changed
        packed = pack_levels([(price, sum(queues.get(price, {}).values())) for price in changed])
        changed.clear()
        return packed


class L3Book:
    """Both sides of one symbol, order by order; it does no I/O and knows no exchange."""

    __slots__ = ("_happened", "_number", "_places", "_sides")

    def __init__(self) -> None:
        self._sides = {Side.BUY: _Side(+1), Side.SELL: _Side(-1)}
        self._places: dict[str, _Place] = {}
        self._number = 0  # the last that was given
        self._happened: list[tuple[int, int, int, int]] = []  # since the last drain

    def __contains__(self, order_id: str) -> bool:
        return order_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, order_id: str, side: Side, price: int, quantity: int) -> None:
        """
        Put a new order at the back of the queue at *price*.

        Raises: ValueError: the order is in the book already, or its quantity is not positive.
        """
        if order_id in self._places:
            raise ValueError(f"an order is added once, and {order_id} was in the book already")
        if quantity <= 0:
            raise ValueError(f"a new order needs a quantity above 0, and that of {order_id} was {quantity}")
        self._put(order_id, self._sides[side], price, quantity)

    def modify(self, order_id: str, price: int, quantity: int) -> None:
        """
        Give an order another price or quantity; 0 deletes it.

        It keeps its place in the queue if the price stays and the quantity does not grow.
        Raises: ValueError: the order is not in the book.
        """
        side, was_at, number = self._place(order_id)
        had = side.queues[was_at][order_id]
        if price == was_at and 0 < quantity <= had:
            side.put(order_id, price, quantity)
            self._happened.append((side.sign, number, price, quantity - had))
            return
        self.delete(order_id)
        if quantity > 0:
            self._put(order_id, side, price, quantity)

    def match(self, order_id: str, quantity: int) -> None:
        """
        Take *quantity* lots that traded off an order; nothing left ends it.

        Raises: ValueError: the order is not in the book, or has less than that.
        """
        side, price, _ = self._place(order_id)
        left = side.queues[price][order_id] - quantity
        if left < 0:
            raise ValueError(f"no more than an order has can trade, and {order_id} was {-left} lots short")
        self.modify(order_id, price, left)

    def delete(self, order_id: str) -> None:
        """Take an order out. Raises: ValueError: it is not in the book."""
        side, price, number = self._place(order_id)
        self._happened.append((side.sign, number, price, -side.queues[price][order_id]))
        side.take(order_id, price)
        del self._places[order_id]

    def trim(self, depth: int) -> list[str]:
        """Keep the best *depth* prices of each side; return the orders that are gone with the others."""
        gone = [
            order_id
            for side in self._sides.values()
            for key in side.keys[:-depth]
            for order_id in side.queues[side.sign * key]
        ]
        for order_id in gone:
            self.delete(order_id)
        return gone

    def clear(self) -> None:
        """Forget every order, though not the last number."""
        self._sides = {Side.BUY: _Side(+1), Side.SELL: _Side(-1)}
        self._places.clear()
        self._happened.clear()

    def position(self, order_id: str) -> QueuePosition:
        """Return what stands before an order. Raises: ValueError: it is not in the book."""
        side, price, _ = self._place(order_id)
        orders = quantity = 0
        for other, lots in side.queues[price].items():
            if other == order_id:
                break
            orders, quantity = orders + 1, quantity + lots
        return QueuePosition(orders, quantity)

    def price(self, order_id: str) -> int:
        """Return the price of an order. Raises: ValueError: it is not in the book."""
        return self._place(order_id).price

    def orders_at(self, side: Side, price: int) -> dict[str, int]:
        """Return the lots of the orders at *price* by id, the first in line first."""
        return dict(self._sides[side].queues.get(price, {}))

    def queues(self, side: Side, depth: int) -> Iterator[tuple[int, dict[str, int]]]:
        """Yield (price, lots by order, the first in line first) of the best *depth* prices, best first."""
        chosen = self._sides[side]
        for price in chosen.best(depth):
            yield price, dict(chosen.queues[price])

    def drain(self) -> tuple[bytes, bytes]:
        """Return the L2 levels of bids and asks that changed since the last call, packed; 0 deletes one."""
        return self._sides[Side.BUY].drain(), self._sides[Side.SELL].drain()

    def drain_orders(self) -> bytes:
        """Return what happened to single orders since the last call, packed as BookOrders has it."""
        packed = pack_orders(sorted(self._happened, key=lambda single: -single[0]))
        self._happened.clear()
        return packed

    def _put(self, order_id: str, side: _Side, price: int, quantity: int) -> None:
        self._number += 1
        self._places[order_id] = _Place(side, price, self._number)
        side.put(order_id, price, quantity)
        self._happened.append((side.sign, self._number, price, quantity))

    def _place(self, order_id: str) -> _Place:
        try:
            return self._places[order_id]
        except KeyError:
            raise ValueError(f"expected an order of the book, was {order_id}") from None
