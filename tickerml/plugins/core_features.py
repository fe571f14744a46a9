"""
The features of features_core, by the core in the pass in which it plays a stretch.

The same rows on the same grid, from the columns that hold the book anyway: the row of the grid point t
is the state after every message up to and at t, and comes with the first message after t. Time is that of
the messages: a strategy sees such rows if they are told by the time of receipt.

    sampler  its scalars, by the names below, then a ring of what was bought in each closed bucket of the
             longest window, and one of what was sold, in lots
    times    the grid point of each row, ns
    values   COLUMNS floats a row

A stretch is of unbroken data, as for features_batch: after a FeedLost a new sampler begins.

Every function may be compiled: see core_state.
"""

import math

from tickerml.kernel import NS_PER_MS, NS_PER_S, UNIT

from .core_book import best_price, is_trusted
from .core_state import ASK, BID, LEVELS, Column, Core
from .features_core import COLUMNS, DEPTHS, WINDOWS_S

GRID = 0  # ns from row to row; 0 to make none
SILENCE = 1  # ns without a message after which rows stop
TICK = 2  # in units of the quote asset, 0 while it is not known
DUE = 3  # the next grid point, ns
LAST = 4  # when the last message was, ns
WAS_TRUSTED = 5  # the book, at the last row
BUY = 6  # lots in the open bucket
SELL = 7
CLOSED = 8  # buckets
ROWS = 9  # in times and values
ROW_ROOM = 10
WINDOWS = 11  # + i: how many buckets, ascending
BOUGHT = 14  # + i: lots in the window
SOLD = 17
RING = 20

#: There is no next grid point: it is later than every message.
NEVER = 1 << 62


def new_sampler(grid_ms: int = 100, silence_s: int = 60, tick_size: int = 0) -> Column:
    """
    Return a sampler that has heard nothing yet; *grid_ms* divides 1000, or is 0 for no rows.

    Args:
        tick_size: in units of the quote asset, 0 where the mid is to be NaN.
    """
    windows = [seconds * 1000 // grid_ms if grid_ms else 0 for seconds in WINDOWS_S]
    sampler = [0] * (RING + 2 * windows[-1])
    sampler[GRID], sampler[SILENCE] = grid_ms * NS_PER_MS, silence_s * NS_PER_S
    sampler[TICK], sampler[DUE] = tick_size, NEVER
    sampler[WINDOWS:BOUGHT] = windows
    return sampler


def hear(sampler: Column, at: int) -> None:
    """Take in that there was a message of the book or a print at *at*, ns."""
    sampler[LAST] = at
    if sampler[DUE] == NEVER:
        # Silence has emptied every window by now, as if its buckets had been closed.
        sampler[DUE] = -(-at // sampler[GRID]) * sampler[GRID]


def sample(core: Core, sampler: Column, times: Column, values: list[float], at: int) -> bool:
    """Write the row of each grid point before *at*; return whether there was room for all."""
    while sampler[DUE] < at:
        if sampler[ROWS] == sampler[ROW_ROOM]:
            return False
        close_bucket(sampler)
        is_known = is_trusted(core)
        if is_known or sampler[WAS_TRUSTED]:
            row = sampler[ROWS]
            times[row] = sampler[DUE]
            write_row(core, sampler, values, row * len(COLUMNS), is_known)
            sampler[ROWS] = row + 1
        sampler[WAS_TRUSTED] = int(is_known)
        is_silent = sampler[DUE] - sampler[LAST] >= sampler[SILENCE]
        sampler[DUE] = NEVER if is_silent else sampler[DUE] + sampler[GRID]
    return True


def close_bucket(sampler: Column) -> None:
    """Let the windows end at the next grid point: S += newest - the one that falls out."""
    buckets, closed = sampler[WINDOWS + 2], sampler[CLOSED]
    for i in range(3):
        oldest = RING + (closed - sampler[WINDOWS + i]) % buckets
        sampler[BOUGHT + i] += sampler[BUY] - sampler[oldest]
        sampler[SOLD + i] += sampler[SELL] - sampler[oldest + buckets]
    newest = RING + closed % buckets
    sampler[newest], sampler[newest + buckets] = sampler[BUY], sampler[SELL]
    sampler[BUY] = sampler[SELL] = 0
    sampler[CLOSED] = closed + 1


def write_row(core: Core, sampler: Column, values: list[float], to: int, is_known: bool) -> None:
    """Write the COLUMNS of features_core from *to* on, or NaN in all where the book is not to be trusted."""
    if not is_known:
        for i in range(len(COLUMNS)):
            values[to + i] = math.nan
        return
    bid, ask = best_price(core, BID), best_price(core, ASK)
    spread_bps = float(20_000 * (ask - bid)) / float(bid + ask)
    bids, asks, first = 0, 0, 0
    for i in range(3):
        bids += lots_of(core, BID, first, DEPTHS[i])
        asks += lots_of(core, ASK, first, DEPTHS[i])
        values[to + i] = ratio(bids - asks, bids + asks)
        first = DEPTHS[i]
    values[to + 3] = 0.5 * values[to] * spread_bps
    values[to + 4] = spread_bps
    values[to + 5] = 0.5 * (bid + ask) * (sampler[TICK] / UNIT) if sampler[TICK] else math.nan
    for i in range(3):
        bought, sold = sampler[BOUGHT + i], sampler[SOLD + i]
        is_whole = sampler[CLOSED] > sampler[WINDOWS + i]
        values[to + 6 + i] = ratio(bought - sold, bought + sold) if is_whole else math.nan


def ratio(difference: int, total: int) -> float:
    """Return their quotient, 0 over nothing."""
    return float(difference) / float(total) if total else 0.0


def lots_of(core: Core, side: int, first: int, end: int) -> int:
    """Return the lots of the levels of *side* from the *first* best to the *end*-th."""
    lots, n = 0, core.head[LEVELS + side]
    for i in range(n - 1 - first, max(-1, n - 1 - end), -1):
        lots += size_at(core, side, i)
    return lots


def size_at(core: Core, side: int, i: int) -> int:
    """Return the lots at the key *i* of *side*. Compiled, they are in a column: core_compile has its own."""
    return core.sizes[side][core.keys[side][i]]
