"""
Our orders in the core's columns: a table of slots, by priority on each side, and what happens to them.

Every function may be compiled: see core_state.
"""

from bisect import bisect_left

from .core_book import displayed, key_of, orders_in, put_in, take_out
from .core_state import (
    ACCEPTED,
    ACCOUNT,
    AHEAD,
    BEFORE,
    BEHIND_COUNT,
    CANCELED_BY,
    E_ACCEPTED,
    E_FILL,
    E_KIND,
    E_LEAVES,
    E_LEFT,
    E_MAKER,
    E_NUMBER,
    E_OTHER,
    E_PRICE,
    E_QUANTITY,
    E_START,
    E_START_ORDERS,
    EVENTS,
    FILLED,
    FILLS,
    FRONT,
    LAST_NUMBER,
    LEAVES,
    NEXT_FREE,
    NOBODY,
    NUMBER,
    ORDER,
    ORDERS,
    OUT,
    OWN,
    PREVIOUS,
    PRICE,
    PRINTED,
    PRINTED_AHEAD,
    QUEUE,
    SIDE,
    START,
    START_ORDERS,
    TICKET,
    Core,
)


def admit(
    core: Core, number: int, side: int, price: int, quantity: int, account: int, ahead: int, at: int
) -> int:
    """Return the slot of a new order, with *ahead* lots before it, that arrived at *at*, ns."""
    head, orders = core.head, core.orders
    slot = head[NEXT_FREE]
    row = slot * ORDER
    head[NEXT_FREE] = orders[row + NUMBER]
    head[ORDERS] += 1
    orders[row + NUMBER], orders[row + SIDE], orders[row + PRICE] = number, side, price
    orders[row + LEAVES] = quantity
    orders[row + AHEAD] = orders[row + BEFORE] = orders[row + START] = ahead
    orders[row + START_ORDERS] = orders_in(core, ahead)
    orders[row + ACCEPTED], orders[row + FILLS], orders[row + ACCOUNT] = at, 0, account
    orders[row + PREVIOUS], orders[row + BEHIND_COUNT] = -1, 0
    orders[row + TICKET], orders[row + PRINTED_AHEAD] = head[LAST_NUMBER], 0
    core.queue[slot * QUEUE + FRONT] = core.queue[slot * QUEUE + PRINTED] = 0.0
    return slot


def rest(core: Core, slot: int) -> None:
    """Put *slot* behind those of its price."""
    side = core.orders[slot * ORDER + SIDE]
    n, own, slots = core.head[OWN + side], core.own_keys[side], core.own_slots[side]
    key = -key_of(side, core.orders[slot * ORDER + PRICE])
    i = bisect_left(own, key + 1, 0, n)
    put_in(own, i, key, n)
    put_in(slots, i, slot, n)
    core.head[OWN + side] = n + 1


def remove(core: Core, slot: int) -> None:
    """Take *slot* out of its side's priority, if it rests, and out of the table."""
    head, orders = core.head, core.orders
    side = orders[slot * ORDER + SIDE]
    n, own, slots = head[OWN + side], core.own_keys[side], core.own_slots[side]
    i = bisect_left(own, -key_of(side, orders[slot * ORDER + PRICE]), 0, n)
    while i < n and slots[i] != slot:
        i += 1
    if i < n:
        take_out(own, i, n)
        take_out(slots, i, n)
        head[OWN + side] = n - 1
    orders[slot * ORDER + NUMBER] = head[NEXT_FREE]
    head[NEXT_FREE] = slot
    head[ORDERS] -= 1


def fill(core: Core, slot: int, price: int, quantity: int, is_maker: bool, left: int) -> int:
    """
    Fill *slot* with *quantity* at *price*, and tell it; return what is still open.

    Args:
        left: what the level still displays.
    """
    orders, row = core.orders, slot * ORDER
    orders[row + LEAVES] -= quantity
    orders[row + FILLS] += 1
    leaves = orders[row + LEAVES]
    e = tell(core, FILLED, slot, NOBODY)
    core.out[e + E_PRICE], core.out[e + E_QUANTITY] = price, quantity
    core.out[e + E_MAKER], core.out[e + E_LEFT] = int(is_maker), left
    if leaves == 0:
        remove(core, slot)
    return leaves


def fill_resting(core: Core, slot: int, quantity: int) -> int:
    """Fill *slot*, which rests, with *quantity* at its limit; return what is still open."""
    side, price = core.orders[slot * ORDER + SIDE], core.orders[slot * ORDER + PRICE]
    return fill(core, slot, price, quantity, True, displayed(core, side, key_of(side, price)))


def tell(core: Core, kind: int, slot: int, other: int) -> int:
    """Append an event of *kind* about *slot* as it is, because of the order *other*; return its row."""
    orders, out, row = core.orders, core.out, slot * ORDER
    e = core.head[EVENTS] * OUT
    core.head[EVENTS] += 1
    out[e + E_KIND], out[e + E_NUMBER], out[e + E_LEAVES] = kind, orders[row + NUMBER], orders[row + LEAVES]
    out[e + E_PRICE], out[e + E_QUANTITY] = orders[row + PRICE], 0
    out[e + E_FILL], out[e + E_OTHER] = orders[row + FILLS], other
    out[e + E_START], out[e + E_START_ORDERS] = orders[row + START], orders[row + START_ORDERS]
    out[e + E_ACCEPTED], out[e + E_MAKER], out[e + E_LEFT] = orders[row + ACCEPTED], 0, 0
    return e


def cancel_by(core: Core, slot: int, other: int) -> None:
    """End *slot* because it would have traded with the order *other* of its own account."""
    tell(core, CANCELED_BY, slot, other)
    remove(core, slot)
