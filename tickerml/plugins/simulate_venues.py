"""
The exchanges that `tickerml simulate` plays: one for each profile, asked the same way.

*default* is the engine that trades live. The others are the rules of peers (core_peers).
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import msgspec

from tickerml.kernel import (
    BookDelta,
    BookOrders,
    BookSnapshot,
    Instrument,
    Liquidity,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    Trade,
    pack_levels,
    pack_orders,
)

from . import core_book, core_orders, core_peers
from . import core_state as cs
from .matching import EngineState, MatchingEngine, OrderEvent
from .queue_models import QueueChoice

PROFILES = {
    "default": cs.DEFAULT,
    "hftbacktest": cs.HFTBACKTEST,
    "touch": cs.TOUCH,
    "cross": cs.CROSS,
}

EXCHANGE, SYMBOL = "simulated", "BASE/QUOTE"


class Row(NamedTuple):
    """One market event: prices in ticks, quantities in lots. *side* of a level, or of the aggressor."""

    ts: int
    kind: str  # depth, trade, clear or order: a single one of others, of which *quantity* came or left
    sides: tuple[int, ...]  # of the book: those cleared, the one changed, the one hit
    price: int
    quantity: int
    number: int = 0  # of a single order


class Wish(NamedTuple):
    """One order of the list; price 0 is for MARKET."""

    order_id: str
    ts: int
    side: Side
    price: int
    quantity: int
    order_type: OrderType
    time_in_force: TimeInForce
    cancel_ts: int | None
    refused: str = ""  # why the exchange would not take it, before anything else


class Happened(NamedTuple):
    """A fill (status "filled" or "open") or another end of an order."""

    order_id: str
    status: str
    price: int = 0
    quantity: int = 0
    is_maker: bool = False
    reason: str = ""


class Venue(Protocol):
    """An exchange; times are its own, ns, and never fall."""

    def market(self, rows: list[Row]) -> Iterable[Happened]: ...

    def submit(self, wish: Wish, at: int) -> Iterable[Happened]: ...

    def cancel(self, order_id: str, at: int) -> Iterable[Happened]: ...


def open_venue(profile: str, queue: QueueChoice, instrument: Instrument, lot: tuple[int, int]) -> Venue:
    """Return the venue of *profile*; *lot* is the lot size as a fraction of base units."""
    if profile == "default":
        return DefaultVenue(queue, instrument)
    return PeerVenue(PROFILES[profile], queue, lot)


class DefaultVenue:
    """
    The live engine. Rows of one time that change the book are one message.

    A row stands where the exchange put it: a trade is never held to be in the depth before it.
    """

    def __init__(self, queue: QueueChoice, instrument: Instrument) -> None:
        self._queue, self._instrument = queue, instrument
        self._engine = MatchingEngine(EXCHANGE, SYMBOL, queue=queue)
        self._engine.instrument = instrument
        self._engine.on_book_snapshot(BookSnapshot(0, 0, EXCHANGE, SYMBOL, 0, b"", b""), 0)

    def twin(self) -> "DefaultVenue":
        """Return a venue that is as this one is, and goes its own way."""
        state = msgspec.msgpack.encode(self._engine.state())
        venue = DefaultVenue(self._queue, self._instrument)
        venue._engine.restore(msgspec.msgpack.decode(state, type=EngineState))
        return venue

    def market(self, rows: list[Row]) -> Iterable[Happened]:
        """Apply *rows* of one time: one trade, single orders, or what changes the book."""
        first = rows[0]
        if first.kind == "order":
            orders = [(1 - 2 * row.sides[0], row.number, row.price, row.quantity) for row in rows]
            told = BookOrders(first.ts, first.ts, EXCHANGE, SYMBOL, 0, pack_orders(orders))
            self._engine.on_book_orders(told)
            return ()
        if first.kind == "trade":
            aggressor = Side.SELL if first.sides == (cs.BID,) else Side.BUY
            trade = Trade(first.ts, 0, EXCHANGE, SYMBOL, 0, first.price, first.quantity, aggressor)
            return map(_happened, self._engine.on_trade(trade, first.ts))
        if any(row.kind == "clear" for row in rows):
            return map(_happened, self._engine.on_book_snapshot(self._rebuilt(rows), first.ts))
        sides = [
            pack_levels([(row.price, row.quantity) for row in rows if side in row.sides])
            for side in (cs.BID, cs.ASK)
        ]
        delta = BookDelta(first.ts, first.ts, EXCHANGE, SYMBOL, 0, *sides)
        return map(_happened, self._engine.on_book_delta(delta, first.ts))

    def _rebuilt(self, rows: list[Row]) -> BookSnapshot:
        book = self._engine.book
        sides = (dict(book.bids.quantities), dict(book.asks.quantities))
        for row in rows:
            for side in row.sides:
                if row.kind == "clear":
                    sides[side].clear()
                else:
                    sides[side][row.price] = row.quantity
        bids, asks = (pack_levels(levels.items()) for levels in self._sorted(sides))
        return BookSnapshot(rows[0].ts, rows[0].ts, EXCHANGE, SYMBOL, 0, bids, asks)

    def _sorted(self, sides: tuple[dict[int, int], dict[int, int]]) -> Iterable[dict[int, int]]:
        return (dict(sorted(levels.items(), reverse=side == cs.BID)) for side, levels in enumerate(sides))

    def submit(self, wish: Wish, at: int) -> Iterable[Happened]:
        """Let *wish* arrive."""
        order = OrderSubmitted(
            at,
            wish.order_id,
            "",
            "",
            EXCHANGE,
            SYMBOL,
            wish.side,
            wish.order_type,
            wish.time_in_force,
            wish.price,
            wish.quantity,
            0,
        )
        return map(_happened, self._engine.submit(order, at))

    def cancel(self, order_id: str, at: int) -> Iterable[Happened]:
        """Take *order_id* back if it is open."""
        return map(_happened, self._engine.cancel(order_id, "asked", at))


def _happened(event: OrderEvent) -> Happened:
    match event:
        case OrderFilled():
            is_maker = event.liquidity is Liquidity.MAKER
            status = "open" if event.leaves else "filled"
            return Happened(event.order_id, status, event.price, event.quantity, is_maker)
        case OrderRejected():
            return Happened(event.order_id, "rejected", reason=event.reason)
        case OrderCanceled():
            return Happened(event.order_id, "canceled", reason=event.reason)
        case OrderExpired():
            return Happened(event.order_id, "expired", reason=event.reason)
    return Happened(event.order_id, "open")


class PeerVenue:
    """Another simulator's rules, a row at a time."""

    def __init__(self, profile: int, queue: QueueChoice, lot: tuple[int, int]) -> None:
        self._core = cs.new_core(queue.model, queue.power, cs.STP_NONE, profile, lot)
        self._ids: list[str] = []
        self._slots: dict[str, int] = {}

    def market(self, rows: list[Row]) -> Iterable[Happened]:
        """Apply *rows*, each by itself."""
        for row in rows:
            if row.kind == "order":  # they know of none
                continue
            cs.make_room(self._core, 1)
            if row.kind == "clear":
                for side in row.sides:
                    core_book.clear_side(self._core, side)
                continue
            change = core_peers.on_print if row.kind == "trade" else core_peers.on_level
            if change(self._core, row.sides[0], row.price, row.quantity):
                yield from self._fills()

    def submit(self, wish: Wish, at: int) -> Iterable[Happened]:
        """Let *wish* arrive."""
        cs.make_room(self._core, 1, 1)
        slot = self._core.head[cs.NEXT_FREE]
        side = cs.BID if wish.side is Side.BUY else cs.ASK
        number = len(self._ids)
        self._ids.append(wish.order_id)
        self._slots[wish.order_id] = slot
        terms = core_peers.MARKET if wish.order_type is OrderType.MARKET else TERMS[wish.time_in_force]
        end = core_peers.arrive(self._core, number, side, wish.price, wish.quantity, terms, at)
        yield from self._fills()
        if end == core_peers.EXPIRES:
            core_orders.remove(self._core, self._slots.pop(wish.order_id))
            yield Happened(wish.order_id, "expired", reason="by its terms")
        elif end == core_peers.RESTS:
            yield Happened(wish.order_id, "open")

    def cancel(self, order_id: str, at: int) -> Iterable[Happened]:
        """Take *order_id* back if it is open."""
        slot = self._slots.pop(order_id, None)
        if slot is not None:
            core_orders.remove(self._core, slot)
            yield Happened(order_id, "canceled", reason="asked")

    def _fills(self) -> Iterable[Happened]:
        out = self._core.out
        for e in range(0, self._core.head[cs.EVENTS] * cs.OUT, cs.OUT):
            order_id, leaves = self._ids[out[e + cs.E_NUMBER]], out[e + cs.E_LEAVES]
            if not leaves:
                del self._slots[order_id]
            status = "open" if leaves else "filled"
            price, quantity = out[e + cs.E_PRICE], out[e + cs.E_QUANTITY]
            yield Happened(order_id, status, price, quantity, bool(out[e + cs.E_MAKER]))


TERMS = {
    TimeInForce.GTC: core_peers.GTC,
    TimeInForce.POST_ONLY: core_peers.POST_ONLY,
    TimeInForce.IOC: core_peers.IOC,
    TimeInForce.FOK: core_peers.FOK,
}
