"""
When an exchange closes perpetuals by force: what secures them has fallen to the maintenance margin.

Margin is crossed: all that an account has of the quote asset on an exchange, free, held and margin, with
what every position in it there has gained and lost, secures all of those positions. Once that is no more
than their maintenance, a share of what each is worth, the largest of them is closed at its mark, which
is what one could close it at: the best bid of a long, the best ask of a short. Then the same is asked of
what is left. The fee is taken off what is free, below zero if need be: there is no fund that would bear it.

Nothing is closed on a price that cannot be believed: where one of the positions has no fresh mark, all wait.
"""

from collections.abc import Callable
from typing import NamedTuple

from tickerml.kernel import Instrument

from . import ledger_linear as linear
from .ledger import LINEAR, Bucket, Inventory, Ledger
from .portfolio_prices import Prices

_SECURING = (Bucket.FREE, Bucket.HELD, Bucket.MARGIN)


class Terms(NamedTuple):
    """What must be left, and what the exchange takes, in millionths of what a position is worth."""

    maintenance_ppm: int
    fee_ppm: int


class Danger(NamedTuple):
    """A position to be closed at *price* ticks: its *collateral*, in units of quote, is not *required*."""

    instrument: Instrument
    quantity: int  # units of base
    price: int
    collateral: int
    required: int


class _Open(NamedTuple):
    inventory: Inventory
    instrument: Instrument
    price: int

    @property
    def gain(self) -> int:
        return linear.gain(self.instrument, self.inventory.quantity, self.inventory.cost, self.price)


def find(
    ledger: Ledger,
    prices: Prices,
    instrument_of: Callable[[str, str], Instrument | None],
    maintenance_ppm: int,
) -> Danger | None:
    """Return the position that is to be closed next; None where all are secured."""
    places: dict[tuple[str, str], list[_Open | None]] = {}
    for each in ledger.inventories():
        if each.contract == LINEAR and each.quantity:
            mark = prices.mark(each.exchange, each.symbol, is_fresh=True)
            instrument = instrument_of(each.exchange, each.symbol)
            found = _Open(each, instrument, mark.closing(each.quantity)) if mark and instrument else None
            places.setdefault((each.exchange, each.quote), []).append(found)
    for (exchange, quote), positions in places.items():
        known = [each for each in positions if each]
        held = sum(ledger.amount(exchange, quote, bucket) for bucket in _SECURING)
        if len(known) == len(positions) and (danger := _judge(held, known, maintenance_ppm)):
            return danger
    return None


def _judge(held: int, positions: list[_Open], ppm: int) -> Danger | None:
    needs = [
        linear.maintenance(each.instrument, each.inventory.quantity, each.price, ppm) for each in positions
    ]
    collateral, required = held + sum(each.gain for each in positions), sum(needs)
    if collateral > required:
        return None
    largest = positions[needs.index(max(needs))]
    return Danger(largest.instrument, largest.inventory.quantity, largest.price, collateral, required)
