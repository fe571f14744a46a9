"""
A stretch of a market and our commands in it, played without anybody looking.

The same rules as message by message (core_match, core_peers), in one call: what a backtest, an
environment or `tickerml simulate` gives to the compiled core, so that no event costs them Python.

    messages MESSAGE numbers each, and one more whose FIRST is where the rows end
    rows     price in ticks and lots of each level or print, one pair after the other
    commands COMMAND numbers each, as they arrive
    told     TOLD numbers an event: those of out, and when
    cursor   how far it has come, and how much room there is
    sampler  what features are made of, and times and values what they are: see core_features

Every function may be compiled: see core_state.
"""

from .core_book import PPM_A_BPS, best_price, clear_side, is_trusted, key_of, worst_price
from .core_features import BUY, DUE, GRID, SELL, hear, sample
from .core_match import EXPIRES, RESTS, on_delta, on_trade, own_opposite, rebuild, submit
from .core_orders import remove, tell
from .core_peers import FOK, GTC, MARKET, POST_ONLY, arrive, on_level, on_print
from .core_singles import on_orders
from .core_state import (
    ASK,
    BID,
    CANCELED,
    DEFAULT,
    E_KIND,
    E_LEFT,
    E_NUMBER,
    E_OTHER,
    E_PRICE,
    EVENTS,
    EXPIRED,
    LEVELS,
    NEXT_FREE,
    NOBODY,
    NUMBER,
    ORDER,
    OUT,
    OWN,
    PROFILE,
    REFUSED,
    RESTING,
    RESYNCING,
    STALE,
    STATE,
    VALID,
    Column,
    Core,
    part,
)

# --- A message ------------------------------------------------------------------------------------

M_KIND = 0
M_AT = 1  # the exchange's time on our axis, ns; it never falls
M_TS_EVENT = 2  # by the exchange's clock; of a print 0 says that no depth before can contain it
M_FIRST = 3  # its rows: first those of bids,
M_MIDDLE = 4  # from here those of asks, up to the next message's
MESSAGE = 5

#: A change of levels, after the sides of its two bits (1 << side) are emptied; a print that hit a side;
#: single orders, of which each takes two rows (core_singles).
DELTA, ALL_BIDS, ALL_ASKS, SNAPSHOT, HIT_BID, HIT_ASK, BECOMES_STALE, RESYNCS, SINGLES = range(9)

# --- A command ------------------------------------------------------------------------------------

C_AT = 0  # when it arrives, ns
C_NUMBER = 1  # of the order, from 0
C_SIDE = 2
C_PRICE = 3  # 0 for a market order
C_QUANTITY = 4  # 0 takes the order back
C_TERMS = 5  # core_peers' GTC, POST_ONLY, IOC, FOK or MARKET, or one of the next
C_ACCOUNT = 6
COMMAND = 7

MARKET_FOK, MARKET_POST_ONLY = MARKET + 1, MARKET + 2

#: Why an order is REFUSED, in E_LEFT; E_PRICE or E_OTHER say which price or order it would have met.
IN_DOUBT, NEVER_POST_ONLY, WOULD_TAKE, WOULD_TAKE_OUR_OWN = range(1, 5)

# --- The cursor -----------------------------------------------------------------------------------

MESSAGE_AT = 0  # the next
MESSAGE_END = 1
COMMAND_AT = 2
COMMAND_END = 3
TOLD_COUNT = 4
TOLD_END = 5  # no step begins with more than these told
LEVEL_ROOM = 6  # a side
PROTECTION_BPS = 7
CURSOR = 8

TOLD = OUT + 1

#: Why play() stopped: all has happened, or it wants room in told, for levels, orders or rows of features.
DONE, WANTS_TOLD, WANTS_LEVELS, WANTS_ORDERS, WANTS_ROWS = range(5)


def play(
    core: Core,
    cursor: Column,
    messages: Column,
    rows: Column,
    commands: Column,
    told: Column,
    sampler: Column,
    times: Column,
    values: list[float],
) -> int:
    """
    Let messages and commands happen in the order of the exchange, the market first at equal times.

    What arrives after the last message meets the book as it is then; a row of features is of the market
    alone, and comes before the first message that is later.
    """
    m, c, count, why = cursor[MESSAGE_AT], cursor[COMMAND_AT], 0, DONE
    last, sent = cursor[MESSAGE_END], cursor[COMMAND_END]
    while m < last or c < sent:
        if cursor[TOLD_COUNT] > cursor[TOLD_END]:
            why = WANTS_TOLD
            break
        if c < sent and (m == last or commands[c * COMMAND + C_AT] < messages[m * MESSAGE + M_AT]):
            if core.head[NEXT_FREE] == NOBODY:
                why = WANTS_ORDERS
                break
            at = commands[c * COMMAND + C_AT]
            count = obey(core, commands, c * COMMAND, at, cursor[PROTECTION_BPS])
            c += 1
        else:
            first, end = messages[m * MESSAGE + M_FIRST], messages[(m + 1) * MESSAGE + M_FIRST]
            if max(core.head[LEVELS], core.head[LEVELS + 1]) + end - first > cursor[LEVEL_ROOM]:
                why = WANTS_LEVELS
                break
            at = messages[m * MESSAGE + M_AT]
            if sampler[DUE] < at and not sample(core, sampler, times, values, at):
                why = WANTS_ROWS
                break
            if sampler[GRID]:
                listen(sampler, messages[m * MESSAGE + M_KIND], rows, 2 * first, at)
            count = move(core, messages, m * MESSAGE, part(rows, 2 * first, 2 * end), at)
            m += 1
        if count:
            keep(core, cursor, told, count, at)
    cursor[MESSAGE_AT], cursor[COMMAND_AT] = m, c
    return why


def listen(sampler: Column, kind: int, rows: Column, first: int, at: int) -> None:
    """Let *sampler* hear of a message of *kind*, whose rows are from *first* on."""
    if kind > HIT_ASK:
        return
    hear(sampler, at)
    if kind == HIT_BID:
        sampler[SELL] += rows[first + 1]
    elif kind == HIT_ASK:
        sampler[BUY] += rows[first + 1]


def keep(core: Core, cursor: Column, told: Column, count: int, at: int) -> None:
    """Append the *count* events of out, of *at*, to *told*."""
    to = cursor[TOLD_COUNT] * TOLD
    for e in range(0, count * OUT, OUT):
        for i in range(OUT):
            told[to + i] = core.out[e + i]
        told[to + OUT] = at
        to += TOLD
    cursor[TOLD_COUNT] += count


# --- The market moves -----------------------------------------------------------------------------


def move(core: Core, messages: Column, m: int, rows: Column, at: int) -> int:
    """Let the message at *m*, of *rows*, happen; return how many events follow."""
    head, kind, ts_event = core.head, messages[m + M_KIND], messages[m + M_TS_EVENT]
    first, middle, end = messages[m + M_FIRST], messages[m + M_MIDDLE], messages[m + MESSAGE + M_FIRST]
    if kind == SINGLES:
        return on_orders(core, rows, 2 * (end - first), min(ts_event, at) if ts_event else at)
    if head[PROFILE] != DEFAULT:
        return move_peer(core, kind, BID if middle > first else ASK, rows, end - first)
    if kind in (HIT_BID, HIT_ASK):
        printed = min(ts_event, at) if ts_event else at
        return on_trade(core, kind - HIT_BID, rows[0], rows[1], ts_event, printed, at)
    if kind in (BECOMES_STALE, RESYNCS):
        if kind == RESYNCS or head[STATE] == VALID:
            head[STATE] = RESYNCING if kind == RESYNCS else STALE
        return 0
    bid_count, ask_count = 2 * (middle - first), 2 * (end - middle)
    asks = part(rows, bid_count, bid_count + ask_count)
    if kind == DELTA:
        return on_delta(core, rows, bid_count, asks, ask_count, ts_event, at)
    return rebuild(core, kind, rows, bid_count, asks, ask_count, ts_event, at)


def move_peer(core: Core, kind: int, side: int, rows: Column, count: int) -> int:
    """Let a message of *count* rows, at most one, happen as a peer sees it; return how many events follow."""
    if kind in (HIT_BID, HIT_ASK):
        return on_print(core, kind - HIT_BID, rows[0], rows[1])
    if kind & ALL_BIDS:
        clear_side(core, BID)
    if kind & ALL_ASKS:
        clear_side(core, ASK)
    return on_level(core, side, rows[0], rows[1]) if count else 0


# --- Our commands arrive --------------------------------------------------------------------------


def obey(core: Core, commands: Column, c: int, at: int, protection_bps: int) -> int:
    """Let the command at *c* arrive; return how many events follow."""
    core.head[EVENTS] = 0
    number, side, price = commands[c + C_NUMBER], commands[c + C_SIDE], commands[c + C_PRICE]
    quantity, terms = commands[c + C_QUANTITY], commands[c + C_TERMS]
    if quantity == 0:
        return take_back(core, number)
    if core.head[PROFILE] != DEFAULT:
        slot = core.head[NEXT_FREE]
        return answer(core, slot, arrive(core, number, side, price, quantity, terms, at))
    account = commands[c + C_ACCOUNT]
    if refuse(core, number, side, price, terms, account):
        return core.head[EVENTS]
    slot, can_rest = core.head[NEXT_FREE], terms in (GTC, POST_ONLY)
    limit = price
    if terms >= MARKET:
        limit = worst_price(side, best_price(core, 1 - side), protection_bps * PPM_A_BPS)
    is_all_or_none = terms in (FOK, MARKET_FOK)
    end = submit(core, number, side, price, limit, quantity, account, can_rest, is_all_or_none, 0, at)
    return answer(core, slot, end)


def answer(core: Core, slot: int, end: int) -> int:
    """Tell of the order in *slot* that it rests or expires, if that is its *end*; return how many events."""
    if end == RESTS:
        tell(core, RESTING, slot, NOBODY)
    elif end == EXPIRES:
        tell(core, EXPIRED, slot, NOBODY)
        remove(core, slot)
    return core.head[EVENTS]


def take_back(core: Core, number: int) -> int:
    """Cancel the order *number* if it rests; return how many events follow."""
    for side in range(2):
        for i in range(core.head[OWN + side]):
            slot = core.own_slots[side][i]
            if core.orders[slot * ORDER + NUMBER] == number:
                tell(core, CANCELED, slot, NOBODY)
                remove(core, slot)
                return 1
    return 0


def refuse(core: Core, number: int, side: int, price: int, terms: int, account: int) -> bool:
    """Whether the exchange would not take the order in as its book is now, which is then told."""
    own, why, best = NOBODY, 0, best_price(core, 1 - side)
    if not is_trusted(core):
        why = IN_DOUBT
    elif terms == MARKET_POST_ONLY:
        why = NEVER_POST_ONLY
    elif terms == POST_ONLY:
        key = key_of(1 - side, price)
        if key_of(1 - side, best) >= key:
            why = WOULD_TAKE
        else:
            own = own_opposite(core, side, account, key)
            why = WOULD_TAKE_OUR_OWN if own != NOBODY else 0
    if why == 0:
        return False
    for i in range(OUT):
        core.out[i] = 0
    core.out[E_KIND], core.out[E_NUMBER], core.out[E_PRICE] = REFUSED, number, best
    core.out[E_LEFT] = why
    core.out[E_OTHER] = core.orders[own * ORDER + NUMBER] if own != NOBODY else NOBODY
    core.head[EVENTS] = 1
    return True
