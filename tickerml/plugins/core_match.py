"""
The rules of matching, over the core's columns: see matching.py for what they are and why.

Every function may be compiled: see core_state.
"""

from bisect import bisect_left

from .core_book import (
    SIZE_DEPTH,
    add_print,
    available,
    best_key,
    clear_side,
    consume,
    displayed,
    drop_mark,
    is_trusted,
    key_of,
    learn_size,
    order_size,
    republish,
    set_level,
    set_size,
    size_of,
    traded_at,
)
from .core_orders import admit, cancel_by, fill, fill_resting, rest, tell
from .core_queue import BY_SIZE, L3_EXACT, RISK_AVERSE, ahead_after
from .core_singles import is_news, print_ahead
from .core_sizes import ahead_by_size, pass_by
from .core_state import (
    ACCEPTED,
    ACCOUNT,
    AHEAD,
    ASK,
    BEFORE,
    BEHIND_COUNT,
    BID,
    CANCEL_BOTH,
    CANCEL_NEWEST,
    CANCEL_OLDEST,
    DECREMENT,
    DECREMENTED,
    EVENTS,
    FILLS,
    LAST_NUMBER,
    LEAVES,
    LEVELS,
    MARKS,
    MODEL,
    NO_KEY,
    NOBODY,
    NOW,
    NUMBER,
    ORDER,
    OWN,
    POWER,
    PREVIOUS,
    PRICE,
    PRINTED_AHEAD,
    RESYNCING,
    SELF_TRADE,
    SIDE,
    STANDING,
    STATE,
    STP_NONE,
    TRADED,
    TS_EVENT,
    VALID,
    Column,
    Core,
)

# --- The market moves -----------------------------------------------------------------------------


def on_snapshot(
    core: Core, bids: Column, bid_count: int, asks: Column, ask_count: int, ts_event: int, at: int
) -> int:
    """Replace the book by pairs of (price, lots), so many numbers a side; return how many events follow."""
    return rebuild(core, 3, bids, bid_count, asks, ask_count, ts_event, at)


def rebuild(
    core: Core,
    emptied: int,
    bids: Column,
    bid_count: int,
    asks: Column,
    ask_count: int,
    ts_event: int,
    at: int,
) -> int:
    """
    Empty the sides that *emptied* has bits of (1 << side), and set levels; return how many events follow.

    A queue ahead of us is at most what is there now: a book that comes anew tells nothing of who left.
    """
    head, orders = core.head, core.orders
    head[EVENTS] = 0
    for side in range(2):
        for i in range(head[OWN + side]):
            row = core.own_slots[side][i] * ORDER
            orders[row + PREVIOUS] = size_of(core, side, -core.own_keys[side][i])
            orders[row + BEHIND_COUNT] = orders[row + PRINTED_AHEAD] = 0
        if emptied >> side & 1:
            clear_side(core, side)
    load(core, BID, bids, bid_count)
    load(core, ASK, asks, ask_count)
    head[STATE], head[TS_EVENT] = VALID, ts_event
    requeue(core, RISK_AVERSE)
    return meet_quotes(core, at)


def load(core: Core, side: int, rows: Column, count: int) -> None:
    """Set the levels of *rows*, the last first; all of *side* are published anew by that."""
    for i in range(count - 2, -2, -2):
        set_size(core, side, key_of(side, rows[i]), rows[i + 1])
    for i in range(core.head[MARKS + side] - 1, -1, -1):
        core.traded[side][i] = 0
        if core.taken[side][i] == 0 or size_of(core, side, core.mark_keys[side][i]) == 0:
            drop_mark(core, side, i)
    for i in range(core.head[OWN + side]):
        row = core.own_slots[side][i] * ORDER
        core.orders[row + NOW] = size_of(core, side, -core.own_keys[side][i])
        core.orders[row + TRADED] = 0


def on_delta(
    core: Core, bids: Column, bid_count: int, asks: Column, ask_count: int, ts_event: int, at: int
) -> int:
    """Change the levels named, as pairs of (price, lots); return how many events follow."""
    head = core.head
    head[EVENTS] = 0
    if head[STATE] == RESYNCING:
        return 0
    ours = 0
    for side in range(0 if bid_count else 1, 2 if ask_count else 1):
        ours += change(core, side, asks if side else bids, ask_count if side else bid_count, at)
    head[STATE], head[TS_EVENT] = VALID, ts_event
    if head[OWN] == 0 and head[OWN + 1] == 0:
        return 0
    if ours:
        requeue(core, head[MODEL])
    return meet_quotes(core, at)


def change(core: Core, side: int, rows: Column, count: int, at: int) -> int:
    """Apply *rows* to *side*: learn sizes, forget older prints; return at how many orders of ours."""
    head, keys, sizes, count_at = core.head, core.keys[side], core.sizes[side], LEVELS + side
    n, own, ours = head[count_at], core.own_keys[side], 0
    deepest = (keys[n - SIZE_DEPTH] if n > SIZE_DEPTH else keys[0]) if n else 0
    # The keys between our worst order and our best: none where there is none.
    worst, best = (-own[head[OWN + side] - 1], -own[0]) if head[OWN + side] else (0, NO_KEY)
    marked = core.mark_keys[side][0] if head[MARKS + side] else -NO_KEY  # the worst of them
    sign = 1 - 2 * side
    for j in range(0, count, 2):
        key, size = sign * rows[j], rows[j + 1]
        previous = set_level(head, count_at, keys, sizes, key, size)
        if key >= deepest and size > previous:
            learn_size(core, size - previous, at)
        if worst <= key <= best:
            ours += note(core, side, key, previous, size)
        if key >= marked:
            republish(core, side, key, size)
    return ours


def note(core: Core, side: int, key: int, previous: int, size: int) -> int:
    """Note for our orders at *key* what a message does to their level; return how many they are."""
    own, n = core.own_keys[side], core.head[OWN + side]
    first = i = bisect_left(own, -key, 0, n)
    while i < n and own[i] == -key:
        row = core.own_slots[side][i] * ORDER
        if core.orders[row + PREVIOUS] < 0:
            core.orders[row + PREVIOUS] = previous
            core.orders[row + TRADED] = traded_at(core, side, key)
        core.orders[row + NOW] = size
        i += 1
    return i - first


def requeue(core: Core, model: int) -> None:
    """Let *model* say what the changes of their levels did to our orders."""
    orders, unit = core.orders, order_size(core)
    is_known = model == L3_EXACT and core.head[LAST_NUMBER] > 0  # by the single orders, see core_singles
    for side in range(2):
        for i in range(core.head[OWN + side]):
            row = core.own_slots[side][i] * ORDER
            previous, new = orders[row + PREVIOUS], orders[row + NOW]
            orders[row + PREVIOUS] = -1
            if previous < 0 or new == previous or is_known:
                continue
            ahead = orders[row + BEFORE] = orders[row + AHEAD]
            behind, traded = max(0, previous - ahead), orders[row + TRADED]
            if model == BY_SIZE:
                orders[row + AHEAD] = ahead_by_size(core, row, ahead, previous, new, traded)
                continue
            orders[row + AHEAD] = ahead_after(
                model, core.head[POWER], ahead, behind, previous, new, traded, unit
            )


def on_trade(core: Core, side: int, price: int, quantity: int, ts_event: int, printed: int, at: int) -> int:
    """
    Let a print eat *side*, which it hit, and our orders in it; return how many events follow.

    Args:
        ts_event: of the print by the exchange's clock, 0 where unknown; *printed*: on our axis.
    """
    head = core.head
    head[EVENTS] = 0
    if head[STATE] == RESYNCING:
        return 0
    is_late = 0 < ts_event <= head[TS_EVENT]
    if not is_late:
        add_print(core, side, key_of(side, price), quantity)
    if head[OWN + side] and is_trusted(core):
        share_print(core, side, -key_of(side, price), quantity, is_late, printed)
    return head[EVENTS]


def share_print(core: Core, side: int, key: int, quantity: int, is_late: bool, printed: int) -> None:
    """Give what a print at the own key *key* left of those ahead to our orders, by priority."""
    orders, own, slots = core.orders, core.own_keys[side], core.own_slots[side]
    i, given = 0, 0
    while i < core.head[OWN + side] and own[i] <= key:
        slot = slots[i]
        row = slot * ORDER
        if printed <= orders[row + ACCEPTED]:  # told late: it was before our time
            i += 1
            continue
        if own[i] == key:
            ahead = orders[row + AHEAD]
            start = orders[row + BEFORE] if is_late and not is_news(core, row, printed) else ahead
            orders[row + BEFORE] = max(0, orders[row + BEFORE] - quantity)
            orders[row + AHEAD] = min(ahead, max(0, start - quantity))
            reached = max(0, quantity - start)
            if core.head[MODEL] == BY_SIZE:
                pass_by(core, row, reached)
            elif core.head[MODEL] == L3_EXACT:
                print_ahead(core, row, ahead - orders[row + AHEAD], printed)
        else:
            orders[row + AHEAD] = orders[row + BEFORE] = 0
            reached = quantity
        ours = min(reached - given, orders[row + LEAVES])
        if ours <= 0:
            i += 1
            continue
        given += ours
        if fill_resting(core, slot, ours):
            i += 1


def meet_quotes(core: Core, at: int) -> int:
    """Let what is new of the other side, at or through our prices, meet us; return how many events follow."""
    head = core.head
    is_bid_met, is_ask_met = meets(core, BID), meets(core, ASK)
    if (is_bid_met or is_ask_met) and not is_trusted(core):
        return head[EVENTS]
    if is_bid_met:
        meet_side(core, BID, at)
    else:
        head[STANDING + ASK] = 0
    if is_ask_met:
        meet_side(core, ASK, at)
    else:
        head[STANDING + BID] = 0
    return head[EVENTS]


def meets(core: Core, side: int) -> bool:
    """Whether the other side's best has reached our best order of *side*."""
    head = core.head
    if head[OWN + side] == 0 or head[LEVELS + 1 - side] == 0:
        return False
    return best_key(core, 1 - side) >= core.own_keys[side][0]


def meet_side(core: Core, side: int, at: int) -> None:
    """Meet the levels opposite our orders of *side*, the best first, by what they grew since they stood."""
    other, count = 1 - side, 0
    limit, i = core.own_keys[side][0], core.head[LEVELS + other] - 1
    while i >= 0 and core.keys[other][i] >= limit:
        key = core.keys[other][i]
        size = size_of(core, other, key)
        core.fresh[0][count], core.fresh[1][count] = key, size
        count += 1
        growth = size - standing(core, other, key)
        if growth > 0:
            meet_level(core, side, key, min(growth, available(core, other, key, at)), at)
        i -= 1
    for i in range(count):
        core.standing_keys[other][i] = core.fresh[0][i]
        core.standing_sizes[other][i] = core.fresh[1][i]
    core.head[STANDING + other] = count


def standing(core: Core, side: int, key: int) -> int:
    """Return what stood at *key* of *side* when the book was last in no doubt."""
    for i in range(core.head[STANDING + side]):
        if core.standing_keys[side][i] == key:
            return core.standing_sizes[side][i]
    return 0


def meet_level(core: Core, side: int, key: int, budget: int, at: int) -> None:
    """Share *budget* lots at *key* of the other side among our orders of *side* that it reaches."""
    own, slots = core.own_keys[side], core.own_slots[side]
    while budget > 0 and core.head[OWN + side] and own[0] <= key:
        slot = slots[0]
        quantity = min(budget, core.orders[slot * ORDER + LEAVES])
        budget -= quantity
        consume(core, 1 - side, key, quantity, at)
        core.orders[slot * ORDER + AHEAD] = core.orders[slot * ORDER + BEFORE] = 0
        fill_resting(core, slot, quantity)


# --- Our commands arrive --------------------------------------------------------------------------

#: How an order that was admitted stands after submit().
RESTS, ENDED, EXPIRES = range(3)


def submit(
    core: Core,
    number: int,
    side: int,
    price: int,
    limit: int,
    quantity: int,
    account: int,
    can_rest: bool,
    is_all_or_none: bool,
    fills: int,
    at: int,
) -> int:
    """
    Match the order *number* down to *limit* and let the rest wait where it *can_rest*.

    Whoever calls has admitted it: the book is trusted. The events are in out; *fills* it had before.
    Returns: RESTS, ENDED
    (filled or canceled), or EXPIRES with the order still in the table.
    """
    core.head[EVENTS] = 0
    ahead = displayed(core, side, key_of(side, price)) if can_rest else 0
    slot = admit(core, number, side, price, quantity, account, ahead, at)
    core.orders[slot * ORDER + FILLS] = fills
    key = -key_of(side, limit)
    if is_all_or_none and not can_fill(core, slot, key, at):
        return EXPIRES
    if take(core, slot, key, at):
        return ENDED
    if not can_rest:
        return EXPIRES
    rest(core, slot)
    stand(core, 1 - side, key)
    return RESTS


def own_opposite(core: Core, side: int, account: int, key: int) -> int:
    """Return our first order that a taker of *side* meets down to *key* of the other side, or NOBODY."""
    other = 1 - side
    for i in range(core.head[OWN + other]):
        if -core.own_keys[other][i] < key:
            return NOBODY
        slot = core.own_slots[other][i]
        if core.orders[slot * ORDER + ACCOUNT] == account:
            return slot
    return NOBODY


def can_fill(core: Core, slot: int, key: int, at: int) -> bool:
    """Whether *slot* finds all it wants down to *key* without one of its own in the way."""
    orders, row = core.orders, slot * ORDER
    other = 1 - orders[row + SIDE]
    own = own_opposite(core, orders[row + SIDE], orders[row + ACCOUNT], key)
    stops = own != NOBODY and core.head[SELF_TRADE] not in (CANCEL_OLDEST, STP_NONE)
    end = key_of(other, orders[own * ORDER + PRICE]) if stops else key
    found, i = 0, core.head[LEVELS + other] - 1
    while i >= 0 and core.keys[other][i] >= end:
        found += reachable(core, other, core.keys[other][i], own if stops else NOBODY, at)
        i -= 1
    return found >= orders[row + LEAVES]


def reachable(core: Core, other: int, key: int, own: int, at: int) -> int:
    """Return what a taker finds at *key* before its own order *own*, which may be NOBODY."""
    found = available(core, other, key, at)
    if own != NOBODY and key == key_of(other, core.orders[own * ORDER + PRICE]):
        found = min(found, core.orders[own * ORDER + AHEAD])
    return found


def take(core: Core, slot: int, key: int, at: int) -> bool:
    """Match *slot* down to *key* of the other side; return whether that ended it."""
    orders, row = core.orders, slot * ORDER
    side, account = orders[row + SIDE], orders[row + ACCOUNT]
    while True:
        own = own_opposite(core, side, account, key)
        end = key if own == NOBODY else key_of(1 - side, orders[own * ORDER + PRICE])
        if walk(core, slot, end, own, at):
            return True
        if own == NOBODY:
            return False
        if meet_own(core, slot, own):
            return True


def walk(core: Core, slot: int, end: int, own: int, at: int) -> bool:
    """Take what is to be had from the best to *end*; return whether that filled *slot*."""
    other = 1 - core.orders[slot * ORDER + SIDE]
    i = core.head[LEVELS + other] - 1
    while i >= 0 and core.keys[other][i] >= end:
        key = core.keys[other][i]
        quantity = min(reachable(core, other, key, own, at), core.orders[slot * ORDER + LEAVES])
        if quantity:
            consume(core, other, key, quantity, at)
            left = available(core, other, key, at)
            if fill(core, slot, key_of(other, key), quantity, False, left) == 0:
                return True
        i -= 1
    return False


def meet_own(core: Core, slot: int, own: int) -> bool:
    """Do what self-trade prevention says of *slot*, which would meet *own*; return whether it ended it."""
    orders, mode = core.orders, core.head[SELF_TRADE]
    number, other = orders[slot * ORDER + NUMBER], orders[own * ORDER + NUMBER]
    mine, theirs = orders[slot * ORDER + LEAVES], orders[own * ORDER + LEAVES]
    common = min(mine, theirs)
    if mode == STP_NONE:
        fill_resting(core, own, common)
        return fill(core, slot, orders[own * ORDER + PRICE], common, False, 0) == 0
    if mode == DECREMENT:
        decrement(core, own, common, number)
        return decrement(core, slot, common, other) == 0
    if mode in (CANCEL_OLDEST, CANCEL_BOTH):
        cancel_by(core, own, number)
    if mode in (CANCEL_NEWEST, CANCEL_BOTH):
        cancel_by(core, slot, other)
        return True
    return False


def decrement(core: Core, slot: int, quantity: int, other: int) -> int:
    """Take *quantity* off *slot* without a trade; return what is still open."""
    row = slot * ORDER
    leaves = core.orders[row + LEAVES] - quantity
    if leaves == 0:
        cancel_by(core, slot, other)
    else:
        core.orders[row + LEAVES] = leaves
        tell(core, DECREMENTED, slot, other)
    return leaves


def stand(core: Core, side: int, key: int) -> None:
    """Remember the levels of *side* down to *key*: what a taker left of them has been met already."""
    i = core.head[LEVELS + side] - 1
    while i >= 0 and core.keys[side][i] >= key:
        remember(core, side, core.keys[side][i], size_of(core, side, core.keys[side][i]))
        i -= 1


def remember(core: Core, side: int, key: int, size: int) -> None:
    """Make *size* what stood at *key*."""
    n = core.head[STANDING + side]
    for i in range(n):
        if core.standing_keys[side][i] == key:
            core.standing_sizes[side][i] = size
            return
    core.standing_keys[side][n], core.standing_sizes[side][n] = key, size
    core.head[STANDING + side] = n + 1
