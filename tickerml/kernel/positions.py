"""
Positions: what every account holds, from its snapshots and the fills since.

A PortfolioSnapshot says what there is, and each OrderFilled what has come or gone; whoever
follows both knows a position at once, whichever of the two comes first. Quantities are in
lots, negative where a contract is short.
"""

from collections.abc import Callable

import msgspec

from .messages import Instrument, OrderFilled, PortfolioSnapshot, Side

Key = tuple[str, str, str]  # account, exchange, symbol
Instruments = Callable[[str, str], Instrument | None]


class Positions(msgspec.Struct, array_like=True):
    """Lots by (account, exchange, symbol); a part of its owner's state."""

    lots: dict[Key, int] = {}

    def take(self, snapshot: PortfolioSnapshot) -> None:
        """Believe *snapshot*: what its account holds is what it says, and nothing else."""
        account = snapshot.account
        others = {key: lots for key, lots in self.lots.items() if key[0] != account}
        own = {(account, each.exchange, each.symbol): each.quantity for each in snapshot.positions}
        self.lots = others | {key: lots for key, lots in own.items() if lots}

    def fill(self, fill: OrderFilled, instrument: Instrument | None) -> None:
        """Add *fill*; a fee that was taken out of what was bought is gone too, rounded up to lots."""
        key = (fill.account, fill.exchange, fill.symbol)
        lots = self.lots.get(key, 0) + fill.side * fill.quantity
        if instrument is not None and not instrument.contract and fill.fee_asset == instrument.base:
            lots -= -(-fill.fee // instrument.lot_size)
        self.lots[key] = lots
        if not lots:
            del self.lots[key]

    def reducible(self, key: Key, side: Side, instruments: Instruments) -> int:
        """
        Return how many lots an order of *side* may have and still only shrink what is held, never flip it.

        Spot of one base asset is one position on its exchange, whatever it was bought with.
        """
        account, exchange, symbol = key
        instrument = instruments(exchange, symbol)
        if instrument is None or instrument.contract:
            return max(0, -side * self.lots.get(key, 0))
        if side is Side.BUY:
            return 0
        units = sum(
            lots * other.lot_size
            for (owner, place, name), lots in self.lots.items()
            if (owner, place) == (account, exchange)
            and (other := instruments(place, name)) is not None
            and (other.base, other.contract) == (instrument.base, "")
        )
        return max(0, units // instrument.lot_size)
