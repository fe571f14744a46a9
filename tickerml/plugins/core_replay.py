"""
A run of market events through the core without anybody looking: the loop of a backtest.

Every function may be compiled: see core_state.
"""

from .core_match import on_delta, on_trade
from .core_state import BID, Column, Core

LEVEL, PRINT = 0, 1


def replay(core: Core, kinds: Column, sides: Column, rows: Column, times: Column, first: int) -> int:
    """
    Let the events from *first* on happen until our orders are touched; return which comes next.

    Args:
        kinds: LEVEL or PRINT; *sides*: of the book, the one changed or hit.
        rows: price in ticks and lots of each event, one pair after the other.
        times: ns, of the exchange. A print is never held to be in the depth before it.
    """
    for i in range(first, len(kinds)):
        if kinds[i] == PRINT:
            price, quantity = rows[2 * i], rows[2 * i + 1]
            count = on_trade(core, sides[i], price, quantity, 0, times[i], times[i])
        else:
            row, none = rows[2 * i : 2 * i + 2], rows[:0]
            bids, asks = (row, none) if sides[i] == BID else (none, row)
            count = on_delta(core, bids, asks, times[i], times[i])
        if count:
            return i + 1
    return len(kinds)
