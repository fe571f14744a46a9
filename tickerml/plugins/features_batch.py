"""
The batch twin of features_core: the same rows from whole columns, for training.

Window sums are differences of one cumulative sum of integers, which is the streaming
ring's S += newest - oldest written another way, so the two agree bit for bit as long as
the numbers stay below 2**53. It serves one stretch of unbroken data: after a FeedLost a
new stretch begins.

Legend: T grid points, N trades, L book levels, best first and padded with zeros.
"""

import numpy as np
import numpy.typing as npt

from .features_core import DEPTHS, WINDOWS_S

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def grid_points(first_ts: int, last_ts: int, grid_ns: int) -> Ints:
    """Return the points of the grid from the first at or after *first_ts* up to *last_ts*, ns."""
    return np.arange(-(-first_ts // grid_ns) * grid_ns, last_ts + 1, grid_ns, dtype=np.int64)


def batch_trade_imbalance(ts_recv: Ints, quantity: Ints, aggressor: Ints, grid: Ints, window: int) -> Floats:
    """
    Return (buy - sell) / (buy + sell) quantity of the last *window* buckets at each grid point.

    Args:
        ts_recv: when each trade was received, ns, ascending  # (N,)
        quantity: lots  # (N,)
        aggressor: +1 or -1  # (N,)
        grid: consecutive grid points, the first one the first at or after the stretch's first message  # (T,)
        window: buckets.
    Returns: in [-1, 1]; NaN for the first *window* points, 0 where nothing traded  # (T,)
    """
    bucket = np.searchsorted(grid, ts_recv, side="left")  # (N,): the grid point that closes it
    sums = []
    for side in (1, -1):
        chosen = (aggressor == side) & (bucket < len(grid))
        per_bucket = np.zeros(len(grid), np.int64)
        np.add.at(per_bucket, bucket[chosen], quantity[chosen])
        total = np.concatenate([np.zeros(window, np.int64), np.cumsum(per_bucket)])
        sums.append(total[window:] - total[: len(grid)])  # (T,)
    imbalance = _ratio(sums[0] - sums[1], sums[0] + sums[1])
    imbalance[:window] = np.nan
    return imbalance


def batch_features(
    grid: Ints,
    bid: Ints,
    ask: Ints,
    bid_quantities: Ints,
    ask_quantities: Ints,
    trades: tuple[Ints, Ints, Ints],
    tick: float,
) -> Floats:
    """
    Return the columns of features_core at each grid point, for a book that was trusted throughout.

    Args:
        grid: consecutive grid points, ns  # (T,)
        bid, ask: best prices, ticks  # (T,)
        bid_quantities, ask_quantities: lots of at least the best ten levels  # (T, L)
        trades: their ts_recv, quantity and aggressor, as in batch_trade_imbalance  # (N,) each
        tick: the tick size in the quote asset.
    Returns: # (T, len(COLUMNS))
    """
    imbalances = [
        _ratio(bids - asks, bids + asks)
        for bids, asks in (
            (bid_quantities[:, :depth].sum(axis=1), ask_quantities[:, :depth].sum(axis=1)) for depth in DEPTHS
        )
    ]
    mid2 = (bid + ask).astype(np.float64)
    spread_bps = (20_000 * (ask - bid)).astype(np.float64) / mid2
    per_second = int(1_000_000_000 // (grid[1] - grid[0])) if len(grid) > 1 else 1
    flows = [batch_trade_imbalance(*trades, grid, seconds * per_second) for seconds in WINDOWS_S]
    columns = [*imbalances, 0.5 * imbalances[0] * spread_bps, spread_bps, 0.5 * mid2 * tick, *flows]
    return np.stack(columns, axis=1)


def _ratio(difference: Ints, total: Ints) -> Floats:
    quotient = np.zeros(len(total), np.float64)
    np.divide(difference.astype(np.float64), total.astype(np.float64), out=quotient, where=total != 0)
    return quotient
