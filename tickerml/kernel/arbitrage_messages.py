"""
The words of arbitrage: what one exchange pays more for than another asks, and what came of it.

Where they stand among the others, and what holds for all, is in messages.py, which is where to
import them from. Money is in units of 1e-12 of *quote*, the quote asset of the sale, and so is
what was spent in another: at the price of the book that is named as fx.
"""

from .market_messages import Message


class ArbitrageSeen(Message, frozen=True):
    """
    Two books that are apart by more than it costs to trade both, walked level by level.

    The prices are the worst accepted, in ticks, quantity and funded are in units of 1e-12 of *base*:
    what the books give, and what of it the money and the inventory there suffice for. gross is the
    difference of the two notionals, net what all fees leave of it; theta_bps is what net_bps of the
    last unit had to exceed. fx_exchange, fx_symbol and fx_price are "" and 0 where both quotes are one.
    It is said again when it has changed by more than a step.
    """

    opportunity: str
    first_ts: int
    base: str
    quote: str
    buy_exchange: str
    buy_symbol: str
    buy_price: int
    sell_exchange: str
    sell_symbol: str
    sell_price: int
    fx_exchange: str
    fx_symbol: str
    fx_price: int
    quantity: int
    funded: int
    gross: int
    net: int
    gross_bps: float
    net_bps: float
    theta_bps: float


class ArbitrageEnded(Message, frozen=True):
    """
    An opportunity is over, and the books at the arrival of both legs are known.

    It lasted from first_ts to last_ts, by our clock. is_capturable says whether the quantity first seen,
    bought and sold on the exchanges' books at the times that orders sent at first sight would have
    arrived, would still have been worth more than its fees; captured is what it would have been worth,
    0 where the books no longer gave all of it.
    """

    opportunity: str
    base: str
    quote: str
    buy_exchange: str
    buy_symbol: str
    sell_exchange: str
    sell_symbol: str
    first_ts: int
    last_ts: int
    best_net: int
    best_net_bps: float
    is_capturable: bool
    captured: int
    reason: str


class LegsSettled(Message, frozen=True):
    """
    Two orders that belong together are over, and what one of them lacked has been made up for.

    bought and sold are in units of 1e-12 of *base*, after fees taken from it. legs is what the quantity
    that both sides traded at once came to, net of fees; unwinding what the rest came to, which is what
    it cost that the legs are not one order. left is what remains bought (or, below 0, sold) alone, at
    left_cost. outcome is "both", "repaired", "unwound", "left" or "none".
    """

    pair: str
    strategy: str
    account: str
    base: str
    quote: str
    started_ts: int
    bought: int
    sold: int
    expected: int
    legs: int
    unwinding: int
    fees: int
    left: int
    left_cost: int
    outcome: str
