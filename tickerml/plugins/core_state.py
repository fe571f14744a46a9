"""
Where the matching core keeps everything it knows of one symbol: columns of int64.

The core is functions over these columns and nothing else (core_book, core_queue, core_match,
core_peers, core_play). The interpreter runs them on lists, which it reads faster than arrays; numba
compiles the very same functions over one array that holds all columns (core_compile). A sorted
column is a list of as many as there are, or has room to spare; no function makes another one
longer: whoever calls sees to it that there is room (make_room).

    head     the scalars, by the names below
    keys     of each side, ascending: price for bids, -price for asks, so that the best is last;
    sizes    of each key, in lots: by key, or in a column beside it
    marks    of each side, ascending keys of the levels where something printed since they were
             published (traded) or we took something (taken, at since)
    own      of each side, our orders by priority: -key ascending, and the slot of the order
    orders   ORDER numbers a slot; queue: what peers' models count in floats, QUEUE a slot
    standing of each side, sizes that stood at or through our prices of the other side
    out      OUT numbers an event, head[EVENTS] of them

BID and ASK are 0 and 1, and index every pair.
"""

from typing import NamedTuple, TypeAlias

Column: TypeAlias = list[int]  # or, compiled, where int64s are, which does the same
Sizes: TypeAlias = dict[int, int]  # or, compiled, a column beside that of the keys
Pair: TypeAlias = tuple[Column, Column]

BID, ASK = 0, 1
NOBODY = -1  # no slot

# --- head -----------------------------------------------------------------------------------------

STATE = 0  # of the book: VALID, STALE or RESYNCING
TS_EVENT = 1  # of the book's last message, by the exchange's clock
LEVELS = 2  # + side: how many
MARKS = 4  # + side
OWN = 6  # + side
STANDING = 8  # + side
EVENTS = 10  # in out
NEXT_FREE = 11  # a slot, NOBODY when the table is full
ORDERS = 12  # in the table, those that take included
SIZE_TOTAL = 13  # lots of displayed orders, times 2**16
SIZE_COUNT = 14  # how many they were, times 2**16
SIZE_STEP = 15
BEST = 16  # + side: the best keys as hftbacktest keeps them
MODEL = 18  # who leaves a queue, see core_queue
POWER = 19
SELF_TRADE = 20
PROFILE = 21
LOT_NUMERATOR = 22  # of the lot as a fraction, for models that count in base units
LOT_DENOMINATOR = 23
LAST_NUMBER = 24  # of a single order of the market that came, 0 while the feed tells of none
HEAD = 25

VALID, STALE, RESYNCING = range(3)
DEFAULT, HFTBACKTEST, TOUCH, CROSS = range(4)
STP_NONE, CANCEL_NEWEST, CANCEL_OLDEST, CANCEL_BOTH, DECREMENT = range(5)

# --- an order -------------------------------------------------------------------------------------

NUMBER = 0  # what the caller calls it; the next free slot while there is no order
SIDE = 1
PRICE = 2
LEAVES = 3
AHEAD = 4  # lots before us
BEFORE = 5  # as it would be without the last change of the level, for prints that come late
START = 6  # AHEAD at acceptance
START_ORDERS = 7
ACCEPTED = 8  # when, ns
FILLS = 9
ACCOUNT = 10
PREVIOUS = 11  # its level before a message, -1 for untouched; NOW after it
NOW = 12
TRADED = 13  # printed there since it was published
TICKET = 14  # the last single order of the market that came before it, see core_singles
PRINTED_AHEAD = 15  # lots taken off AHEAD by prints, which the single orders have not shown yet
PRINTED_AT = 16  # when, ns
CHANGED_AT = 17  # when AHEAD changed by single orders, ns
BEHIND_COUNT = 18  # of the orders known behind it, see core_sizes
BEHIND = 19  # their lots, the first in line first
BEHIND_MOST = 32
ORDER = BEHIND + BEHIND_MOST

#: Floats by slot: hftbacktest's quantity ahead and printed since, in base units.
FRONT, PRINTED = 0, 1
QUEUE = 2

# --- an event -------------------------------------------------------------------------------------

FILLED, CANCELED_BY, DECREMENTED = range(3)  # these three the rules tell, the others core_play
RESTING, REFUSED, EXPIRED, CANCELED = range(3, 7)
E_KIND = 0
E_NUMBER = 1
E_PRICE = 2
E_QUANTITY = 3
E_LEAVES = 4
E_MAKER = 5
E_FILL = 6
E_OTHER = 7  # whom a self-trade would have been with
E_LEFT = 8  # what the level still displays
E_START = 9
E_START_ORDERS = 10
E_ACCEPTED = 11
OUT = 12


class Core(NamedTuple):
    """The columns of one symbol on one exchange."""

    head: Column
    keys: Pair
    sizes: tuple[Sizes, Sizes]
    mark_keys: Pair
    traded: Pair
    taken: Pair
    since: Pair
    own_keys: Pair
    own_slots: Pair
    orders: Column
    queue: list[float]
    standing_keys: Pair
    standing_sizes: Pair
    fresh: Pair  # keys and sizes, while standing is found anew
    out: Column


def part(column: Column, first: int, end: int) -> Column:
    """Return what is in *column* from *first* to *end*: to read, and not to change."""
    return column[first:end]


def new_core(model: int, power: int, self_trade: int, profile: int, lot: tuple[int, int] = (1, 1)) -> Core:
    """Return the columns of a book that waits for its first snapshot; *lot* is a fraction of base."""
    pairs: list[Pair] = [([], []) for _ in range(10)]
    core = Core._make([[0] * HEAD, pairs[0], ({}, {}), *pairs[1:7], [], [], *pairs[7:], []])
    core.head[STATE] = RESYNCING
    core.head[NEXT_FREE] = NOBODY
    core.head[BEST] = core.head[BEST + 1] = NO_KEY
    core.head[MODEL : PROFILE + 1] = [model, power, self_trade, profile]
    core.head[LOT_NUMERATOR : LOT_DENOMINATOR + 1] = lot
    return core


def make_room(core: Core, rows: int, orders: int = 0) -> None:
    """Make the lists of *core* long enough for a message of *rows* levels a side, or *orders* more orders."""
    head = core.head
    for side in (BID, ASK):
        stood = head[STANDING + side] + head[LEVELS + side] + rows
        for column in (core.standing_keys[side], core.standing_sizes[side], *core.fresh):
            _lengthen(column, stood)
    slots = len(core.orders) // ORDER
    if (missing := head[ORDERS] + orders - slots) > 0:
        _add_slots(core, slots, missing + slots)
    _lengthen(core.out, events_of(core, rows, orders) * OUT)


def events_of(core: Core, rows: int, orders: int) -> int:
    """Return how many events can follow: an order and a level each end at most one fill of the other."""
    head = core.head
    return 2 * (head[ORDERS] + orders) + head[LEVELS] + head[LEVELS + 1] + 2 * rows + 2


def _lengthen(column: Column, wanted: int) -> None:
    if wanted > len(column):
        column.extend([0] * (wanted + wanted // 4 - len(column)))


def _add_slots(core: Core, first: int, count: int) -> None:
    core.orders.extend([0] * (count * ORDER))
    core.queue.extend([0.0] * (count * QUEUE))
    for slot in range(first + count - 1, first - 1, -1):
        core.orders[slot * ORDER + NUMBER] = core.head[NEXT_FREE]
        core.head[NEXT_FREE] = slot


#: Worse than every key: a best that is not there.
NO_KEY = -(2**62)
