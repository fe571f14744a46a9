"""
The words of money: what an account owns, each transaction of its ledger, funding and transfers.

What holds for every message is in messages.py, which is where to import them from. Amounts are in
units of 1e-12 of an asset.
"""

import msgspec

from .market_messages import Message


class Balance(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    What an account holds of one asset on one exchange, in units of 1e-12.

    margin secures positions in derivatives; in_flight is on its way here and cannot be used yet.
    """

    exchange: str
    asset: str
    free: int
    held: int
    margin: int = 0
    in_flight: int = 0


class Position(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    An inventory of base asset, or a position in a perpetual, which is below zero where it is short.

    quantity is in lots and money in units of the quote asset; cost is what it was opened for, never
    below zero. funding is what was received less what was paid, accrued what the funding interval
    has come to so far and nobody has booked. unrealized_value is unrealized in units of the account's
    currency.
    """

    exchange: str
    symbol: str
    quantity: int
    cost: int
    mark: int  # what it could be closed at: best bid in ticks, of a short best ask; 0 when the book has none
    realized: int
    unrealized: int
    fees: int
    funding: int = 0
    accrued: int = 0
    margin: int = 0
    unrealized_value: int = 0


class PortfolioSnapshot(Message, frozen=True):
    """
    An account's money, after every change and once a second.

    equity, peak, realized, unrealized, fees, funding, withdrawal_fees and accrued are in units of
    *currency*, and opening + realized + unrealized - fees + funding - withdrawal_fees = equity;
    accrued, the funding that no settlement has booked yet, is in none of them. drawdown is
    1 - equity/peak. is_marked is false while something held has no trusted price, and then
    equity is the last that had.
    """

    account: str
    currency: str
    equity: int
    peak: int
    opening: int
    realized: int
    unrealized: int
    fees: int
    drawdown: float
    max_drawdown: float
    is_marked: bool
    balances: list[Balance]
    positions: list[Position]
    funding: int = 0
    withdrawal_fees: int = 0
    accrued: int = 0


class LedgerLeg(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one transaction adds to one account of the ledger, in units of *asset*; below zero it takes."""

    exchange: str
    asset: str
    bucket: str
    amount: int


class LedgerPosted(Message, frozen=True):
    """
    One transaction of an account's ledger: its legs sum to zero in each asset.

    cause is "submit", "fill", "replace", "end", "liquidation", "funding", "send" or "receive", and key the
    order or the transfer; of a fill, *fill* is its number and *strategy* whose order it was. realized, fees,
    funding and withdrawal_fees are what it adds to those of the PortfolioSnapshot, in units of *currency*.
    cash is what a fill or a liquidation brought, fees apart, in the same: below zero for what was paid.
    """

    account: str
    cause: str
    key: str
    exchange: str
    symbol: str
    legs: list[LedgerLeg]
    currency: str = ""
    strategy: str = ""
    fill: int = 0
    realized: int = 0
    fees: int = 0
    funding: int = 0
    withdrawal_fees: int = 0
    cash: int = 0


class PositionLiquidated(Message, frozen=True):
    """
    An exchange has closed a perpetual of *quantity* lots, below zero where it was short, at *price* ticks.

    What secured it had fallen to *required*: *collateral* is what the account had there in *asset*, with
    what all of its positions had gained and lost. fee is what the exchange took for it. Money is in
    units of *asset*.
    """

    account: str
    exchange: str
    symbol: str
    quantity: int
    price: int
    asset: str
    realized: int
    fee: int
    collateral: int
    required: int


class FundingSettled(Message, frozen=True):
    """
    A perpetual's funding at ts_event was booked: -quantity x mark x rate, in units of *asset*.

    quantity is the position in lots with every fill before ts_event, mark in ticks, rate in units of
    1e-12 of the notional; a payment is rounded up and a receipt down.
    """

    ts_event: int
    account: str
    exchange: str
    symbol: str
    quantity: int
    mark: int
    rate: int
    asset: str
    amount: int


class RequestTransfer(Message, frozen=True):
    """A strategy's wish to move *amount* units of *asset* from one exchange to another."""

    transfer_id: str
    account: str
    asset: str
    source: str
    destination: str
    amount: int
    reason: str = ""


class TransferSubmitted(Message, frozen=True):
    """The gate has nothing against the RequestTransfer of this id: its account is to carry it out."""

    transfer_id: str
    account: str
    asset: str
    source: str
    destination: str
    amount: int
    reason: str = ""


class TransferStarted(Message, frozen=True):
    """The *amount* has left *source*: all of it but *fee* is in flight until arrives_ts, ns UTC."""

    transfer_id: str
    account: str
    asset: str
    source: str
    destination: str
    amount: int
    fee: int
    arrives_ts: int


class TransferEnded(Message, frozen=True):
    """The *received* units have arrived; with a reason the transfer was refused and nothing ever left."""

    transfer_id: str
    account: str
    asset: str
    source: str
    destination: str
    received: int
    reason: str = ""
