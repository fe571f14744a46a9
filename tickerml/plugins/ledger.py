"""
The ledger: who holds how much of what, to the unit.

Double entry, in Python integers of 1e-12 of an asset. An account is (exchange, asset,
bucket): what we own lies in `free` or is `held` for an open order; its counterpart lies
in `market`, `fees` or `opening`, which run negative or positive without limit. Every
transaction is a list of legs that sums to zero in each asset, so at any time the whole
ledger does, and money can neither appear nor vanish by a mistake of arithmetic.

A buy of 2 BTC at 100 USDT for a fee of 1 USDT, whose reservation held 202 USDT:

    free    BTC  +2      market  BTC  -2
    held   USDT  -201    market USDT +200    fees USDT +1
    held   USDT  -1      free   USDT +1      (what the reservation no longer needs)

A reservation covers an order's worst case: ceil(limit x leaves x (1 + fee)) of the quote
asset for a buy, the leaves of the base asset for a sell. Each fill is charged a fee
rounded up by itself, so many small fills cost some units more than one large one; a buy
therefore also holds ROUNDING_ALLOWANCE until it ends, and `free` never goes below zero
by rounding.

The cost of an inventory is one integer, never an average price: a reduction takes
floor(cost x quantity / inventory) of it and the remainder stays, so nothing drifts.
"""

import hashlib
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from tickerml.kernel import (
    PPM,
    UNIT,
    Balance,
    Instrument,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    Side,
    TickerMLError,
)

ROUNDING_ALLOWANCE = 10_000  # units (1e-8 of the quote asset): the fees of some 3,000 fills, rounded up
REMEMBERED_FILLS = 4096  # a repeated fill comes soon after a restart, or never

Account = tuple[str, str, "Bucket"]
Legs = list[tuple[Account, int]]


class Bucket(StrEnum):
    """Where an amount lies: ours in FREE and HELD, its counterpart in the others."""

    FREE = "free"
    HELD = "held"
    MARKET = "market"
    FEES = "fees"
    OPENING = "opening"


class LedgerError(TickerMLError):
    """What was asked cannot be booked; the ledger is as it was before."""


class InsufficientFunds(LedgerError):
    """An order would reserve more than is free."""


class Reservation(msgspec.Struct, array_like=True):
    """What an open order may still need: leaves in lots, amount in units of asset, price in ticks."""

    exchange: str
    symbol: str
    side: Side
    asset: str
    price: int
    fee_ppm: int
    leaves: int
    amount: int = 0


class Inventory(msgspec.Struct, array_like=True):
    """What was bought on one symbol of one exchange: quantity in units of base, money in units of quote."""

    exchange: str
    symbol: str
    base: str
    quote: str
    quantity: int = 0
    cost: int = 0
    realized: int = 0
    fees: int = 0


class Booking(msgspec.Struct, frozen=True, array_like=True):
    """What one fill settled: the gain before fees in units of quote, and the fee in units of fee_asset."""

    realized: int
    quote: str
    fee: int
    fee_asset: str


class LedgerState(msgspec.Struct, array_like=True):
    """Everything a ledger remembers."""

    accounts: dict[tuple[str, str, Bucket], int] = {}
    reservations: dict[str, Reservation] = {}
    inventories: dict[tuple[str, str], Inventory] = {}
    recent_fills: dict[tuple[str, int], None] = {}


def protected_price(arrival_mid: int) -> int:
    """Return what a MARKET buy reserves at: 1 % above half of *arrival_mid*, rounded up to a tick."""
    return -(-arrival_mid * 101 // 200)


def buy_reserve(instrument: Instrument, price: int, leaves: int, fee_ppm: int) -> int:
    """Return ceil(price x leaves x (1 + fee)) in units of quote, for ticks and lots of *instrument*."""
    exact = price * leaves * instrument.tick_size * instrument.lot_size * (PPM + fee_ppm)
    return -(-exact // (UNIT * PPM))


class Ledger:
    """Balances, reservations and inventories of one account; it knows neither time nor prices."""

    def __init__(
        self, opening: Mapping[tuple[str, str], int] | None = None, state: LedgerState | None = None
    ) -> None:
        """
        Args:
            opening: (exchange, asset) -> units to start with; none below zero.
            state: continue from this instead.
        Raises: ValueError: an opening balance is negative.
        """
        self.state = LedgerState() if state is None else state
        for (exchange, asset), amount in (opening or {}).items():
            if amount < 0:
                raise ValueError(f"an opening balance must be at least 0, was {amount} {exchange}.{asset}")
            self._post(
                [((exchange, asset, Bucket.FREE), amount), ((exchange, asset, Bucket.OPENING), -amount)]
            )

    # --- Reading ------------------------------------------------------------------------------

    def amount(self, exchange: str, asset: str, bucket: Bucket = Bucket.FREE) -> int:
        """Return what the account holds, in units; 0 for one never used."""
        return self.state.accounts.get((exchange, asset, bucket), 0)

    def total(self, exchange: str, asset: str) -> int:
        """Return what we own of *asset* on *exchange*, free and held, in units."""
        return self.amount(exchange, asset) + self.amount(exchange, asset, Bucket.HELD)

    def balances(self) -> list[Balance]:
        """Return every balance, sorted by exchange and asset."""
        owned = {account[:2] for account in self.state.accounts if account[2] in (Bucket.FREE, Bucket.HELD)}
        return [
            Balance(exchange, asset, self.amount(exchange, asset), self.amount(exchange, asset, Bucket.HELD))
            for exchange, asset in sorted(owned)
        ]

    def inventories(self) -> list[Inventory]:
        """Return the inventory of every symbol ever traded, sorted by exchange and symbol."""
        return [inventory for _, inventory in sorted(self.state.inventories.items())]

    def reservation(self, order_id: str) -> Reservation | None:
        """Return what *order_id* holds; None once it has ended."""
        return self.state.reservations.get(order_id)

    def has_booked(self, fill: OrderFilled) -> bool:
        """Return whether this fill, known by its order and number, is in the books."""
        return (fill.order_id, fill.fill) in self.state.recent_fills

    def sums(self) -> dict[str, int]:
        """Return the sum over all accounts of each asset: zeros, or the ledger is wrong."""
        sums: dict[str, int] = {}
        for (_, asset, _), amount in self.state.accounts.items():
            sums[asset] = sums.get(asset, 0) + amount
        return sums

    def digest(self) -> str:
        """Return the SHA-256 of all amounts, reservations and inventories, whatever order they came in."""
        lines = [f"{'.'.join(account)}={amount}" for account, amount in self.state.accounts.items() if amount]
        lines += [f"order {key}={_text(entry)}" for key, entry in self.state.reservations.items()]
        lines += [f"inventory {_text(entry)}" for entry in self.state.inventories.values()]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    # --- An order's life ----------------------------------------------------------------------

    def submit(self, order: OrderSubmitted, instrument: Instrument) -> None:
        """
        Reserve what *order* may cost at worst.

        A MARKET buy reserves at protected_price(). One id reserves once: a repetition changes nothing.

        Raises: InsufficientFunds: less than that is free.
        """
        if order.order_id in self.state.reservations:
            return
        entry = _reservation(order, instrument)
        need = entry.amount
        free = self.amount(entry.exchange, entry.asset)
        if need > free:
            raise InsufficientFunds(
                f"order {order.order_id} needs {need} units of {entry.exchange}.{entry.asset} free, "
                f"was {free}: order less, or wait for an open order to end"
            )
        self._post(self._moved(entry, need))
        self.state.reservations[order.order_id] = entry

    def fill(self, fill: OrderFilled, instrument: Instrument) -> Booking | None:
        """
        Book one fill; None when (order_id, fill) was booked before.

        The order's reservation pays first, and keeps only what the leaves still need. A fill
        without a reservation is paid from what is free, below zero if need be: an exchange has
        traded it, and a ledger does not deny what happened.

        Raises: LedgerError: more than the order's leaves.
        """
        if self.has_booked(fill):
            return None
        entry = self.state.reservations.get(fill.order_id)
        if entry is not None and fill.quantity > entry.leaves:
            raise LedgerError(
                f"fill {fill.fill} of order {fill.order_id} must be at most its leaves of "
                f"{entry.leaves} lots, was {fill.quantity}"
            )
        legs, cost = _trade_legs(fill, instrument)
        if entry is not None:
            self._consume(fill, instrument, entry, legs, cost)
        self._post(legs)
        self._remember((fill.order_id, fill.fill))
        return self._carry(fill, instrument)

    def end(self, order_id: str) -> bool:
        """Release what *order_id* still holds; whether it held a reservation."""
        entry = self.state.reservations.pop(order_id, None)
        if entry is not None:
            self._post(self._moved(entry, -entry.amount))
        return entry is not None

    # --- Inventory ----------------------------------------------------------------------------

    def adopt(self, exchange: str, instrument: Instrument, quantity: int, cost: int) -> None:
        """Count *quantity* units of base, held since the opening, as bought for *cost* units of quote."""
        inventory = self._inventory(exchange, instrument)
        inventory.quantity += quantity
        inventory.cost += cost

    def move(self, source: Inventory, instrument: Instrument, quantity: int, cost: int) -> None:
        """
        Move *quantity* units of base from *source* to another symbol of its exchange.

        It leaves at its cost there and arrives as bought for *cost* units of the quote of *instrument*.
        """
        _reduce(source, quantity)
        self.adopt(source.exchange, instrument, quantity, cost)

    def _inventory(self, exchange: str, instrument: Instrument) -> Inventory:
        key = (exchange, instrument.symbol)
        if key not in self.state.inventories:
            self.state.inventories[key] = Inventory(*key, instrument.base, instrument.quote)
        return self.state.inventories[key]

    def _carry(self, fill: OrderFilled, instrument: Instrument) -> Booking:
        # What is sold beyond the symbol's own inventory has no known cost and realizes nothing.
        inventory = self._inventory(fill.exchange, instrument)
        notional = instrument.notional(fill.price, fill.quantity)
        quantity = fill.quantity * instrument.lot_size
        realized, fee, fee_asset = 0, fill.fee, fill.fee_asset
        if fill.side is Side.BUY:
            inventory.quantity += quantity
            inventory.cost += notional
        elif sold := min(quantity, inventory.quantity):
            realized = notional * sold // quantity - _reduce(inventory, sold)
            inventory.realized += realized
        if fee_asset == instrument.base and 0 < fee <= inventory.quantity:
            fee, fee_asset = _reduce(inventory, fee), instrument.quote
        if fee_asset == instrument.quote:
            inventory.fees += fee
        return Booking(realized, instrument.quote, fee, fee_asset)

    # --- Posting ------------------------------------------------------------------------------

    def _post(self, legs: Legs) -> None:
        sums: dict[str, int] = {}
        for (_, asset, _), amount in legs:
            sums[asset] = sums.get(asset, 0) + amount
        if any(sums.values()):
            raise LedgerError(f"a transaction must sum to 0 in every asset, was {sums}")
        accounts = self.state.accounts
        for account, amount in legs:
            accounts[account] = accounts.get(account, 0) + amount

    def _consume(
        self, fill: OrderFilled, instrument: Instrument, entry: Reservation, legs: Legs, cost: int
    ) -> None:
        # The legs pay from free; what the reservation no longer needs, their cost included, goes there.
        entry.leaves -= fill.quantity
        keep = max(0, min(entry.amount - cost, _required(entry, instrument)))
        legs += self._moved(entry, keep - entry.amount)
        entry.amount = keep
        if not entry.leaves:
            del self.state.reservations[fill.order_id]

    @staticmethod
    def _moved(entry: Reservation, amount: int) -> Legs:
        return [
            ((entry.exchange, entry.asset, Bucket.HELD), amount),
            ((entry.exchange, entry.asset, Bucket.FREE), -amount),
        ]

    def _remember(self, key: tuple[str, int]) -> None:
        recent = self.state.recent_fills
        recent[key] = None
        if len(recent) > REMEMBERED_FILLS:
            del recent[next(iter(recent))]


def _text(entry: Reservation | Inventory) -> str:
    return msgspec.json.encode(entry).decode()


def _reservation(order: OrderSubmitted, instrument: Instrument) -> Reservation:
    asset = instrument.quote if order.side is Side.BUY else instrument.base
    is_market = order.order_type is OrderType.MARKET
    price = protected_price(order.arrival_mid) if is_market else order.price
    fee_ppm = max(instrument.maker_fee_ppm, instrument.taker_fee_ppm, 0)
    entry = Reservation(order.exchange, order.symbol, order.side, asset, price, fee_ppm, order.quantity)
    entry.amount = _required(entry, instrument)
    return entry


def _required(entry: Reservation, instrument: Instrument) -> int:
    if entry.side is Side.SELL or not entry.leaves:
        return entry.leaves * instrument.lot_size
    return buy_reserve(instrument, entry.price, entry.leaves, entry.fee_ppm) + ROUNDING_ALLOWANCE


def _trade_legs(fill: OrderFilled, instrument: Instrument) -> tuple[Legs, int]:
    # Also returns what the trade takes of the asset its order has reserved.
    notional = instrument.notional(fill.price, fill.quantity)
    base = fill.side * fill.quantity * instrument.lot_size
    quote = -fill.side * notional
    legs: Legs = []
    for asset, amount, counterpart in (
        (instrument.base, base, Bucket.MARKET),
        (instrument.quote, quote, Bucket.MARKET),
        (fill.fee_asset, -fill.fee, Bucket.FEES),
    ):
        if amount:
            legs.append(((fill.exchange, asset, Bucket.FREE), amount))
            legs.append(((fill.exchange, asset, counterpart), -amount))
    if fill.side is Side.SELL:
        return legs, -base
    return legs, notional + (fill.fee if fill.fee_asset == instrument.quote else 0)


def _reduce(inventory: Inventory, quantity: int) -> int:
    removed = inventory.cost * quantity // inventory.quantity
    inventory.quantity -= quantity
    inventory.cost -= removed
    return removed
