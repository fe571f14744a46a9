"""
Who leaves a queue, where the feed tells of single orders: the model *l3-exact*.

Whoever came before us has a lower number than whoever came after, so it is enough to remember the last
number before our order arrived, its ticket:

    ticket 7, ahead [3: 5][6: 2]     4 lots leave order 3: ahead 3     order 9 leaves: as before

A print takes what is ahead of us at once, for the single orders may be told of it later. What they show of
it is then not counted again; and once they are later than the print and have shown less, the rest of it was
not taken from anybody known (a hidden order), and is ahead of us again. So ahead is always what the single
orders say less what has printed since, and nobody is guessed.

After a snapshot all orders have new numbers: then only prints, and what is left at the price, move us.

Every function may be compiled: see core_state.
"""

from .core_queue import L3_EXACT
from .core_state import (
    AHEAD,
    BEFORE,
    CHANGED_AT,
    EVENTS,
    LAST_NUMBER,
    MODEL,
    ORDER,
    OWN,
    PRICE,
    PRINTED_AHEAD,
    PRINTED_AT,
    SIDE,
    TICKET,
    Column,
    Core,
)

SINGLE = 4  # numbers each: +1 for bids or -1 for asks, number, price, lots that came (or left: negative)


def on_orders(core: Core, singles: Column, count: int, at: int) -> int:
    """
    Take in *count* numbers of single orders that came or left; return how many events follow, which is none.

    Args:
        at: when, ns on our axis, which may be before the last message.
    """
    head = core.head
    head[EVENTS] = 0
    for side in range(2):
        for i in range(head[OWN + side] if head[MODEL] == L3_EXACT else 0):
            follow(core, core.own_slots[side][i] * ORDER, singles, count, at)
    for j in range(0, count, SINGLE):
        head[LAST_NUMBER] = max(head[LAST_NUMBER], singles[j + 1])
    return 0


def follow(core: Core, row: int, singles: Column, count: int, at: int) -> None:
    """Move the order at *row* by what left before it."""
    orders, left = core.orders, left_ahead(core, row, singles, count)
    if left:
        if orders[row + CHANGED_AT] != at:  # a match may be told order by order, and its print after it
            orders[row + BEFORE], orders[row + CHANGED_AT] = orders[row + AHEAD], at
        known = min(left, orders[row + PRINTED_AHEAD])
        orders[row + PRINTED_AHEAD] -= known
        orders[row + AHEAD] = max(0, orders[row + AHEAD] - (left - known))
    if at > orders[row + PRINTED_AT]:
        orders[row + AHEAD] += orders[row + PRINTED_AHEAD]
        orders[row + PRINTED_AHEAD] = 0


def left_ahead(core: Core, row: int, singles: Column, count: int) -> int:
    """Return how many lots left before the order at *row*."""
    orders, left = core.orders, 0
    side = 1 - 2 * orders[row + SIDE]
    for j in range(0, count, SINGLE):
        is_there = singles[j] == side and singles[j + 2] == orders[row + PRICE]
        if is_there and singles[j + 3] < 0 and singles[j + 1] <= orders[row + TICKET]:
            left -= singles[j + 3]
    return left


def is_news(core: Core, row: int, printed: int) -> bool:
    """Whether single orders are told, and none that left before the order at *row* since *printed*, ns."""
    head = core.head
    is_told = head[MODEL] == L3_EXACT and head[LAST_NUMBER] > 0
    return is_told and core.orders[row + CHANGED_AT] < printed


def print_ahead(core: Core, row: int, taken: int, printed: int) -> None:
    """Remember that a print at *printed*, ns, took *taken* lots off what is ahead of the order at *row*."""
    if taken:
        core.orders[row + PRINTED_AHEAD] += taken
        core.orders[row + PRINTED_AT] = printed
