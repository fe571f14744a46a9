"""
The arithmetic of linear perpetuals: a signed quantity of base, settled in the quote asset.

A position is (quantity, cost): quantity in units of base, below zero where it is short, and cost what
it was opened for in units of quote, never below zero. A trade against it first closes what there
is and opens what is left. Closing takes floor(cost x closed / |quantity|) of the cost and the
remainder stays, as with a spot inventory, so nothing drifts. A loss that exceeds what is free takes it
below zero; when a position is liquidated is said in portfolio_liquidation.py.
"""

from typing import NamedTuple

from tickerml.kernel import PPM, UNIT, Instrument


class Traded(NamedTuple):
    """A position after a trade, and what closing a part of it gained, in units of quote."""

    quantity: int
    cost: int
    realized: int


def trade(quantity: int, cost: int, change: int, notional: int) -> Traded:
    """Return the position (*quantity*, *cost*) after *change* units, never 0, traded for *notional*."""
    closed = min(abs(change), abs(quantity)) if (quantity < 0) != (change < 0) else 0
    returned = notional * closed // abs(change)
    removed = cost * closed // abs(quantity) if closed else 0
    realized = returned - removed if quantity > 0 else removed - returned
    return Traded(quantity + change, cost - removed + notional - returned, realized)


def margin(cost: int, leverage: int) -> int:
    """Return what secures a position of *cost*: ceil(cost / leverage), in units of quote."""
    return -(-cost // leverage)


def gain(instrument: Instrument, quantity: int, cost: int, price: int) -> int:
    """Return what closing *quantity* units at *price* ticks would gain, in units of quote, rounded down."""
    return price * instrument.tick_size * quantity // UNIT - (cost if quantity > 0 else -cost)


def maintenance(instrument: Instrument, quantity: int, price: int, ppm: int) -> int:
    """Return what must be left to secure *quantity* units at *price* ticks, *ppm* of them, rounded up."""
    return -(-abs(quantity) * price * instrument.tick_size * ppm // (UNIT * PPM))


def funding(instrument: Instrument, quantity: int, mark: int, rate: int) -> int:
    """
    Return what *quantity* units receive, below zero for what they pay: -quantity x mark x rate.

    mark is in ticks, rate in units of 1e-12 of the notional. A payment is rounded up and a receipt down.
    """
    return -quantity * mark * instrument.tick_size * rate // (UNIT * UNIT)
