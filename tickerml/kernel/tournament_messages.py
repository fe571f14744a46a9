"""
The words of a fill-model tournament: what the same orders would have come to under several models.

What holds for every message is in messages.py, which is where to import them from. Amounts are in
units of 1e-12 of an asset.
"""

import msgspec

from .market_messages import Message


class ModelResult(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    What one fill model has made of the orders of a symbol; money in units of the quote asset.

    orders have been filled at least in part; quantity, all that was filled, and position are in lots,
    and notional is what was filled at its prices. pnl is after fees, with the position at the mid, and
    optimism is pnl less that of the model whose fills are real.
    """

    model: str
    orders: int
    fills: int
    quantity: int
    notional: int
    fees: int
    position: int
    pnl: int
    optimism: int


class TournamentMeasured(Message, frozen=True):
    """
    What each fill model has made so far of the same *accepted* orders; that of results[0] is real.

    *asset* is the quote asset, and mid2 twice the mid in ticks that positions are valued at.
    """

    exchange: str
    symbol: str
    asset: str
    mid2: int
    accepted: int
    results: list[ModelResult]
