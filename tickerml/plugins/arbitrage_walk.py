"""
What two books are worth against one another: how much, at which prices, for how much money.

A purchase walks the asks of one exchange, a sale the bids of another, both level by level from the
best. Where they are paid in different assets, what was spent is bought back with what was earned, and
that walks a third book. All of it is exact: prices and quantities are integers, a price of money in
money is a fraction of two, and money is rounded against us, once for each leg.

    asks of i:  12 @ 100.0   30 @ 100.1   ...     paid      = notional + fee, in the quote of i
    bids of j:   8 @ 100.9   20 @ 100.6   ...     received  = notional - fee, in the quote of j
    fx:         what a unit of i's quote costs    net       = received - paid at fx
                in units of j's quote

A unit is traded as long as bid (1 - fee_j) - ask (1 + fee_i) fx > theta mid, where mid is that of j.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tickerml.kernel import PPM, UNIT, Instrument

PPB = 10**9
Levels = Sequence[tuple[int, int]]  # (price ticks, quantity lots), best first


class Leg(NamedTuple):
    """
    One side of one book: steps in units of 1e-12, the fee of taking in ppm, levels best first.

    sign is +1 for asks, which we buy from, and -1 for bids.
    """

    tick: int
    lot: int
    fee: int
    sign: int
    levels: Levels

    def rate(self, price: int) -> int:
        """Return what a whole base asset costs or brings at *price* ticks, with its fee, in units / PPM."""
        return price * self.tick * (PPM + self.sign * self.fee)


class Rate(NamedTuple):
    """A price of the purchase's quote in units of the sale's, with and without its fee, for so many units."""

    num: int
    den: int
    plain_num: int
    plain_den: int
    capacity: int
    price: int  # ticks of the book it is from


class Match(NamedTuple):
    """
    What a quantity came to: prices are the worst, in ticks; money in units of the sale's quote.

    paid is in the purchase's quote, with the fee.
    """

    quantity: int
    buy_price: int
    sell_price: int
    fx_price: int
    notional: int
    gross: int
    net: int
    paid: int


PARITY: tuple[Rate, ...] = (Rate(1, 1, 1, 1, 2**200, 0),)  # both quotes are one asset


def leg(instrument: Instrument, sign: int, levels: Levels) -> Leg:
    """Return one side of the book of *instrument*."""
    return Leg(instrument.tick_size, instrument.lot_size, instrument.taker_fee_ppm, sign, levels)


def rates(fx: Leg) -> tuple[Rate, ...]:
    """
    Return the prices of the purchase's quote in the sale's, from one side of a book between the two.

    Its asks are of the purchase's quote in the sale's; its bids of the sale's in the purchase's, so that
    we sell what we earned for what we spent.
    """
    found = []
    for price, lots in fx.levels:
        whole, plain = fx.rate(price), price * fx.tick
        if fx.sign > 0:
            found.append(Rate(whole, UNIT * PPM, plain, UNIT, lots * fx.lot, price))
        else:
            capacity = lots * fx.lot * whole // (UNIT * PPM)
            found.append(Rate(UNIT * PPM, whole, UNIT, plain, capacity, price))
    return tuple(found)


def step(*instruments: Instrument) -> int:
    """Return the least quantity that is whole lots of each, in units of 1e-12 of the base."""
    return math.lcm(*(instrument.lot_size for instrument in instruments))


def most(buy: Leg, sell: Leg, fx: Sequence[Rate], theta: int, mid2: int, cap: int) -> int:
    """
    Return the quantity whose every unit is worth more than *theta*, in units of 1e-12 of the base.

    Args:
        theta: what must be left of a unit, in 1e-9 of the sale's mid.
        mid2: twice that mid, in ticks.
        cap: no more than this.
    """
    floor = theta * mid2 * sell.tick * PPM
    asks, bids, moneys = iter(buy.levels), iter(sell.levels), iter(fx)
    total = ask_left = bid_left = money_left = 0
    cost = value = 0
    rate = PARITY[0]
    try:
        while total < cap:
            while not ask_left:
                price, lots = next(asks)
                cost, ask_left = buy.rate(price), lots * buy.lot
            while not bid_left:
                price, lots = next(bids)
                value, bid_left = sell.rate(price), lots * sell.lot
            while not (payable := money_left * UNIT * PPM // cost):
                rate = next(moneys)
                money_left = rate.capacity
            if 2 * PPB * (value * rate.den - cost * rate.num) <= floor * rate.den:
                break
            chunk = min(ask_left, bid_left, payable, cap - total)
            total += chunk
            ask_left -= chunk
            bid_left -= chunk
            money_left = max(0, money_left - -(-chunk * cost // (UNIT * PPM)))
    except StopIteration:
        pass
    return total


def settle(buy: Leg, sell: Leg, fx: Sequence[Rate], quantity: int) -> Match | None:
    """Return what *quantity* units of 1e-12 of the base come to; None where a book has not as much."""
    bought, sold = _take(buy, quantity), _take(sell, quantity)
    if not quantity or bought is None or sold is None:
        return None
    (spent, buy_price), (earned, sell_price) = bought, sold
    paid = spent + -(-spent * buy.fee // PPM)
    exchanged = _exchange(fx, paid)
    plain = _exchange(fx, spent)
    if exchanged is None or plain is None:
        return None
    net = earned - -(-earned * sell.fee // PPM) - exchanged[0]
    return Match(quantity, buy_price, sell_price, exchanged[1].price, earned, earned - plain[2], net, paid)


def _take(side: Leg, quantity: int) -> tuple[int, int] | None:
    # The notional of *quantity*, rounded against us, and its worst price.
    exact, left = 0, quantity
    for price, lots in side.levels:
        amount = min(left, lots * side.lot)
        exact += amount * price * side.tick
        left -= amount
        if not left:
            return side.sign * -(-side.sign * exact // UNIT), price
    return None


def _exchange(fx: Iterable[Rate], amount: int) -> tuple[int, Rate, int] | None:
    # What *amount* of the purchase's quote costs in the sale's: with fees, the worst rate, and without.
    whole = plain = 0
    for rate in fx:
        part = min(amount, rate.capacity)
        whole += -(-part * rate.num // rate.den)
        plain += -(-part * rate.plain_num // rate.plain_den)
        amount -= part
        if not amount:
            return whole, rate, plain
    return None
