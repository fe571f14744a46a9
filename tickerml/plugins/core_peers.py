"""
The rules of other simulators over the core's columns, for parity with them and comparison.

hftbacktest 2.4.4 (nkaz001/hftbacktest, proc/partialfillexchange.rs, depth/hashmapmarketdepth.rs,
models/queue.rs) fills a whole order when a print goes through its price or the other side's best
reaches it, fills what a crossing order finds no size for at its limit, and counts queues in floats
of base units: the same operations in the same order give the same bits here. Its best prices are
kept and not looked for, so that a book whose sides overlap has the best that it has there.

The naive ones know no queue: *touch* fills a whole order as soon as the other side's best is at its
price (freqtrade's dry run), *cross* when that is beyond it or a trade prints strictly through it
(hummingbot's paper trade).

Every function may be compiled: see core_state.
"""

import math
from bisect import bisect_left

from .core_book import key_of, set_size, size_of
from .core_orders import admit, fill, rest
from .core_queue import LOG, RISK_AVERSE
from .core_state import (
    BEST,
    EVENTS,
    FRONT,
    HFTBACKTEST,
    LEAVES,
    LEVELS,
    LOT_DENOMINATOR,
    LOT_NUMERATOR,
    MODEL,
    NO_KEY,
    ORDER,
    OWN,
    POWER,
    PRICE,
    PRINTED,
    PROFILE,
    QUEUE,
    SIDE,
    TOUCH,
    Core,
)

MARKET_TICKS = 100  # as far as hftbacktest lets a market order go
GTC, POST_ONLY, IOC, FOK, MARKET = range(5)
RESTS, ENDED, EXPIRES = range(3)


def in_base(core: Core, lots: int) -> float:
    """Return *lots* in base units."""
    return float(lots * core.head[LOT_NUMERATOR]) / float(core.head[LOT_DENOMINATOR])


def in_lots(core: Core, quantity: float) -> int:
    """Return base units as the nearest number of lots, a half away from 0."""
    lots = quantity / in_base(core, 1)
    return math.floor(lots + 0.5) if lots >= 0 else -math.floor(0.5 - lots)


# --- The market moves -----------------------------------------------------------------------------


def on_level(core: Core, side: int, price: int, size: int) -> int:
    """Make *price* a level of *size* lots, or none of 0; return how many events follow."""
    head, key = core.head, key_of(side, price)
    head[EVENTS] = 0
    before = head[BEST + side]
    previous = set_size(core, side, key, size)
    if size == 0:
        if key == before:
            head[BEST + side] = next_key(core, side, key)
    elif key > before:
        head[BEST + side] = key
        if head[BEST + 1 - side] != NO_KEY and key >= -head[BEST + 1 - side]:
            head[BEST + 1 - side] = next_key(core, 1 - side, -key)
    if head[PROFILE] == HFTBACKTEST:
        requeue_at(core, side, key, previous, size)
        if head[BEST + side] > before:
            fill_reached(core, 1 - side, head[BEST + side])
    elif head[BEST + side] != NO_KEY:
        margin = 0 if head[PROFILE] == TOUCH else 1
        fill_reached(core, 1 - side, head[BEST + side] - margin)
    return head[EVENTS]


def next_key(core: Core, side: int, key: int) -> int:
    """Return the best key of *side* that is worse than *key*, NO_KEY where there is none."""
    i = bisect_left(core.keys[side], key, 0, core.head[LEVELS + side])
    return core.keys[side][i - 1] if i else NO_KEY


def fill_reached(core: Core, side: int, key: int) -> None:
    """Fill every order of *side*, whole, whose own key is at most *key*."""
    while core.head[OWN + side] and core.own_keys[side][0] <= key:
        fill_whole(core, core.own_slots[side][0])


def fill_whole(core: Core, slot: int) -> None:
    """Fill all of *slot*, which rests."""
    fill(core, slot, core.orders[slot * ORDER + PRICE], core.orders[slot * ORDER + LEAVES], True, 0)


def requeue_at(core: Core, side: int, key: int, previous: int, size: int) -> None:
    """Move our orders at *key* as its size changes."""
    n, own = core.head[OWN + side], core.own_keys[side]
    i = bisect_left(own, -key, 0, n)
    while i < n and own[i] == -key:
        at = core.own_slots[side][i] * QUEUE
        core.queue[at + FRONT] = front_after(core, at, in_base(core, previous), in_base(core, size))
        i += 1


def front_after(core: Core, at: int, previous: float, new: float) -> float:
    """Return what is ahead, in base units, after a level went from *previous* to *new*."""
    queue, model = core.queue, core.head[MODEL]
    front = queue[at + FRONT]
    if model == RISK_AVERSE:
        return min(front, new)
    left = previous - new - queue[at + PRINTED]
    queue[at + PRINTED] = 0.0
    if left < 0.0:
        return min(front, new)
    back = previous - front
    if model == LOG and (1.0 + front <= 0.0 or 1.0 + back <= 0.0):
        return new  # no number to them, and of no number and another theirs takes the other
    behind, ahead = weight(core, back), weight(core, front)
    if behind + ahead == 0.0:
        if behind == 0.0:
            return new
        p = 1.0
    else:
        p = behind / (behind + ahead)
    return min(front - (1.0 - p) * left + min(back - p * left, 0.0), new)


def weight(core: Core, x: float) -> float:
    """Return f(x) of log or power:n."""
    return math.log(1.0 + x) if core.head[MODEL] == LOG else x ** float(core.head[POWER])


def on_print(core: Core, side: int, price: int, quantity: int) -> int:
    """Let a print hit *side*; return how many events follow."""
    head = core.head
    head[EVENTS] = 0
    if head[PROFILE] == TOUCH:
        return 0
    key = -key_of(side, price)
    fill_reached(core, side, key - 1)
    if head[PROFILE] != HFTBACKTEST:
        return head[EVENTS]
    i, own = 0, core.own_keys[side]
    while i < head[OWN + side] and own[i] == key:
        slot = core.own_slots[side][i]
        at = slot * QUEUE
        core.queue[at + FRONT] -= in_base(core, quantity)
        core.queue[at + PRINTED] += in_base(core, quantity)
        ours = min(in_lots(core, -core.queue[at + FRONT]), core.orders[slot * ORDER + LEAVES])
        if ours <= 0:
            i += 1
            continue
        core.queue[at + FRONT] = 0.0
        if fill(core, slot, price, ours, True, 0):
            i += 1
    return head[EVENTS]


# --- An order arrives -----------------------------------------------------------------------------


def arrive(core: Core, number: int, side: int, price: int, quantity: int, terms: int, at: int) -> int:
    """Match an order by the peer's rules: RESTS, ENDED, or EXPIRES with the order in the table."""
    head = core.head
    head[EVENTS] = 0
    slot = admit(core, number, side, price, quantity, 0, 0, at)
    best = head[BEST + 1 - side]
    is_crossing = best != NO_KEY and (terms == MARKET or best >= -key_of(side, price))
    if not is_crossing:
        if terms != GTC and terms != POST_ONLY:
            return EXPIRES
        core.queue[slot * QUEUE + FRONT] = in_base(core, size_of(core, side, key_of(side, price)))
        rest(core, slot)
        return RESTS
    if terms == POST_ONLY:
        return EXPIRES
    if head[PROFILE] == HFTBACKTEST:
        return take_levels(core, slot, terms)
    at_price = key_of(1 - side, best) if terms == MARKET else price
    fill(core, slot, at_price, quantity, False, 0)
    return ENDED


def take_levels(core: Core, slot: int, terms: int) -> int:
    """Take what a crossing order finds, level by level, and what it does not at its limit if it may wait."""
    orders, row = core.orders, slot * ORDER
    side = orders[row + SIDE]
    best, limit = core.head[BEST + 1 - side], -key_of(side, orders[row + PRICE])
    if terms == MARKET:
        limit = best - (MARKET_TICKS - 1 if side == 0 else MARKET_TICKS)
    if terms == FOK and found_to(core, 1 - side, best, limit) < orders[row + LEAVES]:
        return EXPIRES
    # What is open after the levels before the limit is filled at the limit, displayed or not.
    end = limit + 1 if terms == GTC else limit
    key = best
    while key != NO_KEY and key >= end:
        quantity = min(size_of(core, 1 - side, key), orders[row + LEAVES])
        if quantity and fill(core, slot, key_of(1 - side, key), quantity, False, 0) == 0:
            return ENDED
        key = next_key(core, 1 - side, key)
    if terms != GTC:
        return EXPIRES
    fill(core, slot, orders[row + PRICE], orders[row + LEAVES], False, 0)
    return ENDED


def found_to(core: Core, side: int, key: int, limit: int) -> int:
    """Return the lots of *side* from *key* to *limit*."""
    found = 0
    while key != NO_KEY and key >= limit:
        found += size_of(core, side, key)
        key = next_key(core, side, key)
    return found
