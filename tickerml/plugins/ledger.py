"""
The ledger: who holds how much of what, to the unit.

Double entry, in Python integers of 1e-12 of an asset. An account is (exchange, asset,
bucket): what we own is `free`, `held` for an open order, `margin` of a derivative or
`in_flight` to this exchange; its counterpart lies in `market`, `fees`, `funding`,
`withdrawal_fee` or `opening`, which run negative or positive without limit. Every
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

A linear perpetual moves no base: its quote asset carries margin, what closing realizes, fees
and funding (ledger_linear.py). An order on it holds margin for what it can open beyond what it
closes. The loss on a derivative may take `free` below zero; nothing on spot ever does. What the exchange
takes for closing one by force lies in `liquidation`, apart from the fees of trades.
"""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

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

from . import ledger_linear as linear

ROUNDING_ALLOWANCE = 10_000  # units (1e-8 of the quote asset): the fees of some 3,000 fills, rounded up
REMEMBERED = 4096  # fills, settlements and transfers: one that repeats comes soon after a restart, or never
LINEAR = "linear"  # Instrument.contract

Account = tuple[str, str, "Bucket"]
Legs = list[tuple[Account, int]]
_Key = TypeVar("_Key")


class Bucket(StrEnum):
    """Where an amount lies: ours in the first four, its counterpart in the others."""

    FREE = "free"
    HELD = "held"
    MARGIN = "margin"
    IN_FLIGHT = "in_flight"
    MARKET = "market"
    FEES = "fees"
    FUNDING = "funding"
    OPENING = "opening"
    WITHDRAWAL_FEE = "withdrawal_fee"
    LIQUIDATION = "liquidation"


OWN = (Bucket.FREE, Bucket.HELD, Bucket.MARGIN, Bucket.IN_FLIGHT)


class LedgerError(TickerMLError):
    """What was asked cannot be booked; the ledger is as it was before."""


class InsufficientFunds(LedgerError):
    """An order or a transfer would take more than is free."""


class Reservation(msgspec.Struct, array_like=True):
    """
    What an open order may still need: leaves in lots, amount in units of asset, price in ticks.

    opens is how many of the leaves may open a position of a derivative, and -1 on spot.
    """

    exchange: str
    symbol: str
    side: Side
    asset: str
    price: int
    fee_ppm: int
    leaves: int
    amount: int = 0
    opens: int = -1


class Inventory(msgspec.Struct, array_like=True):
    """
    What was bought on one symbol of one exchange: quantity in units of base, money in units of quote.

    Where contract is "linear" it is a position: quantity is below zero where it is short.
    """

    exchange: str
    symbol: str
    base: str
    quote: str
    quantity: int = 0
    cost: int = 0
    realized: int = 0
    fees: int = 0
    contract: str = ""
    margin: int = 0
    funding: int = 0


class Transfer(msgspec.Struct, frozen=True, array_like=True):
    """What is in flight: *received* units of asset will arrive at arrives_ts, ns UTC."""

    asset: str
    source: str
    destination: str
    received: int
    arrives_ts: int


class Booking(msgspec.Struct, frozen=True, array_like=True):
    """What one fill settled: the gain before fees in units of quote, and the fee in units of fee_asset."""

    realized: int
    quote: str
    fee: int
    fee_asset: str
    legs: Legs = []


class LedgerState(msgspec.Struct, array_like=True):
    """Everything a ledger remembers."""

    accounts: dict[tuple[str, str, Bucket], int] = {}
    reservations: dict[str, Reservation] = {}
    inventories: dict[tuple[str, str], Inventory] = {}
    recent_fills: dict[tuple[str, int], None] = {}
    transfers: dict[str, Transfer] = {}
    recent_transfers: dict[str, None] = {}
    recent_settlements: dict[tuple[str, str, int], None] = {}


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
        self,
        opening: Mapping[tuple[str, str], int] | None = None,
        state: LedgerState | None = None,
        leverage: int = 1,
    ) -> None:
        """
        Args:
            opening: (exchange, asset) -> units to start with; none below zero.
            state: continue from this instead.
            leverage: a position in a derivative is secured by 1/leverage of what it was opened for.
        Raises: ValueError: an opening balance is negative.
        """
        self.state = LedgerState() if state is None else state
        self.leverage = leverage
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
        """Return what we own of *asset* on *exchange*, or have on its way there, in units."""
        return sum(self.amount(exchange, asset, bucket) for bucket in OWN)

    def balances(self) -> list[Balance]:
        """Return every balance, sorted by exchange and asset."""
        owned = {account[:2] for account in self.state.accounts if account[2] in OWN}
        return [Balance(*key, *(self.amount(*key, bucket) for bucket in OWN)) for key in sorted(owned)]

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
        state = self.state
        lines = [f"{'.'.join(account)}={amount}" for account, amount in state.accounts.items() if amount]
        lines += [f"order {key}={_text(entry)}" for key, entry in state.reservations.items()]
        lines += [f"inventory {_text(entry)}" for entry in state.inventories.values()]
        lines += [f"transfer {key}={_text(entry)}" for key, entry in state.transfers.items()]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    # --- An order's life ----------------------------------------------------------------------

    def submit(self, order: OrderSubmitted, instrument: Instrument) -> Legs:
        """
        Reserve what *order* may cost at worst, and return what that moved.

        A MARKET buy reserves at protected_price(). One id reserves once: a repetition changes nothing.

        Raises: InsufficientFunds: less than that is free. LedgerError: an inverse contract.
        """
        if order.order_id in self.state.reservations:
            return []
        entry = self._reservation(order, instrument)
        need = entry.amount
        free = self.amount(entry.exchange, entry.asset)
        if need > free:
            raise InsufficientFunds(
                f"order {order.order_id} needs {need} units of {entry.exchange}.{entry.asset} free, "
                f"was {free}: order less, or wait for an open order to end"
            )
        self.state.reservations[order.order_id] = entry
        return self._post(self._moved(entry, need))

    def fill(self, fill: OrderFilled, instrument: Instrument) -> Booking | None:
        """
        Book one fill; None when (order_id, fill) was booked before.

        The order's reservation pays first, and keeps only what the leaves still need. A fill
        without a reservation is paid from what is free, below zero if need be: an exchange has
        traded it, and a ledger does not deny what happened.

        Raises: LedgerError: more than the order's leaves, or an inverse contract.
        """
        if self.has_booked(fill):
            return None
        _refuse_inverse(instrument)
        entry = self.state.reservations.get(fill.order_id)
        if entry is not None and fill.quantity > entry.leaves:
            raise LedgerError(
                f"fill {fill.fill} of order {fill.order_id} must be at most its leaves of "
                f"{entry.leaves} lots, was {fill.quantity}"
            )
        book = self._trade_linear if instrument.contract == LINEAR else self._trade_spot
        booking, cost = book(fill, instrument)
        legs = booking.legs
        if entry is not None:
            legs = legs + self._consume(fill, instrument, entry, cost)
        _remember(self.state.recent_fills, (fill.order_id, fill.fill))
        return msgspec.structs.replace(booking, legs=self._post(legs))

    def replace(self, order_id: str, price: int, leaves: int, instrument: Instrument) -> tuple[Legs, int]:
        """
        Reserve anew for an order that is now at *price* ticks for *leaves* lots.

        Returns what that moved, and by how many units less than it needs was free: the exchange has
        taken the order, so it then holds what there is. An order that has ended needs nothing.
        """
        entry = self.state.reservations.get(order_id)
        if entry is None:
            return [], 0
        entry.price, entry.leaves = price, leaves
        if entry.opens >= 0:
            entry.opens = self._opening_lots(order_id, entry, instrument)
        wanted = self._required(entry, instrument) - entry.amount
        taken = min(wanted, max(0, self.amount(entry.exchange, entry.asset)))
        entry.amount += taken
        return self._post(self._moved(entry, taken)), wanted - taken

    def end(self, order_id: str) -> Legs:
        """Release what *order_id* still holds and return what that moved; nothing without a reservation."""
        entry = self.state.reservations.pop(order_id, None)
        return [] if entry is None else self._post(self._moved(entry, -entry.amount))

    # --- Liquidation, funding and transfers ---------------------------------------------------

    def liquidate(self, instrument: Instrument, price: int, fee_ppm: int) -> Booking:
        """
        Close all of a linear position at *price* ticks, for a fee of *fee_ppm* of its worth, rounded up.

        Raises: LedgerError: there is no such position.
        """
        position = self.state.inventories.get((instrument.exchange, instrument.symbol))
        if position is None or position.contract != LINEAR or not position.quantity:
            raise LedgerError(f"there is no position in {instrument.symbol} on {instrument.exchange}")
        realized = linear.gain(instrument, position.quantity, position.cost, price)
        fee = linear.maintenance(instrument, position.quantity, price, fee_ppm)
        place = (instrument.exchange, instrument.quote)
        legs = _against(*place, realized, Bucket.MARKET)
        legs += _against(*place, position.margin, Bucket.MARGIN)
        legs += _against(*place, -fee, Bucket.LIQUIDATION)
        position.quantity = position.cost = position.margin = 0
        position.realized += realized
        position.fees += fee
        return Booking(realized, instrument.quote, fee, instrument.quote, self._post(legs))

    def settle(
        self, instrument: Instrument, ts: int, quantity: int, mark: int, rate: int
    ) -> tuple[int, Legs]:
        """
        Book the funding of *quantity* units at the settlement *ts*, once for each symbol and time.

        Args:
            mark: in ticks.
            rate: in units of 1e-12 of the notional.
        Returns: what was received, below zero for what was paid, and what that moved: nothing again.
        """
        key = (instrument.exchange, instrument.symbol, ts)
        if key in self.state.recent_settlements:
            return 0, []
        _remember(self.state.recent_settlements, key)
        amount = linear.funding(instrument, quantity, mark, rate)
        self._inventory(instrument.exchange, instrument).funding += amount
        return amount, self._post(
            [
                ((instrument.exchange, instrument.quote, Bucket.FREE), amount),
                ((instrument.exchange, instrument.quote, Bucket.FUNDING), -amount),
            ]
        )

    def send(self, transfer_id: str, amount: int, fee: int, transfer: Transfer) -> Legs:
        """
        Take *amount* units off its source: *fee* of them is gone, the rest is in flight.

        One id leaves once: a repetition changes nothing.

        Raises: InsufficientFunds: less than that is free. LedgerError: it does not add up, or goes nowhere.
        """
        if transfer_id in self.state.recent_transfers:
            return []
        source, destination, asset = transfer.source, transfer.destination, transfer.asset
        if source == destination or fee < 0 or transfer.received <= 0 or amount != transfer.received + fee:
            raise LedgerError(
                f"transfer {transfer_id} must take its fee and something more to another exchange, was "
                f"{amount} units of {asset} with a fee of {fee} from {source} to {destination}"
            )
        free = self.amount(source, asset)
        if amount > free:
            raise InsufficientFunds(
                f"transfer {transfer_id} needs {amount} units of {source}.{asset} free, was {free}"
            )
        _remember(self.state.recent_transfers, transfer_id)
        self.state.transfers[transfer_id] = transfer
        return self._post(
            [
                ((source, asset, Bucket.FREE), -amount),
                ((source, asset, Bucket.WITHDRAWAL_FEE), fee),
                ((destination, asset, Bucket.IN_FLIGHT), transfer.received),
            ]
        )

    def receive(self, transfer_id: str) -> Legs:
        """Free what has arrived; nothing for a transfer that is not in flight."""
        transfer = self.state.transfers.pop(transfer_id, None)
        if transfer is None:
            return []
        place = (transfer.destination, transfer.asset)
        return self._post(
            [
                ((*place, Bucket.IN_FLIGHT), -transfer.received),
                ((*place, Bucket.FREE), transfer.received),
            ]
        )

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
        reduce(source, quantity)
        self.adopt(source.exchange, instrument, quantity, cost)

    def _inventory(self, exchange: str, instrument: Instrument) -> Inventory:
        key = (exchange, instrument.symbol)
        if key not in self.state.inventories:
            self.state.inventories[key] = Inventory(
                *key, instrument.base, instrument.quote, contract=instrument.contract
            )
        return self.state.inventories[key]

    def _trade_spot(self, fill: OrderFilled, instrument: Instrument) -> tuple[Booking, int]:
        # Also returns what the trade takes of the asset its order has reserved.
        notional = instrument.notional(fill.price, fill.quantity)
        base = fill.side * fill.quantity * instrument.lot_size
        legs: Legs = []
        for asset, amount in ((instrument.base, base), (instrument.quote, -fill.side * notional)):
            legs += _against(fill.exchange, asset, amount, Bucket.MARKET)
        legs += _against(fill.exchange, fill.fee_asset, -fill.fee, Bucket.FEES)
        in_quote = fill.fee if fill.fee_asset == instrument.quote else 0
        cost = -base if fill.side is Side.SELL else notional + in_quote
        return self._carry(fill, instrument, notional, legs), cost

    def _carry(self, fill: OrderFilled, instrument: Instrument, notional: int, legs: Legs) -> Booking:
        # What is sold beyond the symbol's own inventory has no known cost and realizes nothing.
        inventory = self._inventory(fill.exchange, instrument)
        quantity = fill.quantity * instrument.lot_size
        realized, fee, fee_asset = 0, fill.fee, fill.fee_asset
        if fill.side is Side.BUY:
            inventory.quantity += quantity
            inventory.cost += notional
        elif sold := min(quantity, inventory.quantity):
            realized = notional * sold // quantity - reduce(inventory, sold)
            inventory.realized += realized
        if fee_asset == instrument.base and 0 < fee <= inventory.quantity:
            fee, fee_asset = reduce(inventory, fee), instrument.quote
        if fee_asset == instrument.quote:
            inventory.fees += fee
        return Booking(realized, instrument.quote, fee, fee_asset, legs)

    def _trade_linear(self, fill: OrderFilled, instrument: Instrument) -> tuple[Booking, int]:
        # Also returns what the trade takes of the quote asset.
        position = self._inventory(fill.exchange, instrument)
        notional = instrument.notional(fill.price, fill.quantity)
        change = fill.side * fill.quantity * instrument.lot_size
        traded = linear.trade(position.quantity, position.cost, change, notional)
        secured = linear.margin(traded.cost, self.leverage) - position.margin
        legs = _against(fill.exchange, instrument.quote, traded.realized, Bucket.MARKET)
        legs += _against(fill.exchange, instrument.quote, -secured, Bucket.MARGIN)
        legs += _against(fill.exchange, fill.fee_asset, -fill.fee, Bucket.FEES)
        position.quantity, position.cost = traded.quantity, traded.cost
        position.margin += secured
        position.realized += traded.realized
        in_quote = fill.fee if fill.fee_asset == instrument.quote else 0
        position.fees += in_quote
        booking = Booking(traded.realized, instrument.quote, fill.fee, fill.fee_asset, legs)
        return booking, secured + in_quote - traded.realized

    # --- Reservations -------------------------------------------------------------------------

    def _reservation(self, order: OrderSubmitted, instrument: Instrument) -> Reservation:
        _refuse_inverse(instrument)
        is_linear = instrument.contract == LINEAR
        asset = instrument.quote if order.side is Side.BUY or is_linear else instrument.base
        is_market = order.order_type is OrderType.MARKET
        price = protected_price(order.arrival_mid) if is_market else order.price
        if is_linear:  # a sell may trade at any price above its own
            price = max(price, -(-order.arrival_mid // 2))
        fee_ppm = max(instrument.maker_fee_ppm, instrument.taker_fee_ppm, 0)
        entry = Reservation(order.exchange, order.symbol, order.side, asset, price, fee_ppm, order.quantity)
        if is_linear:
            entry.opens = self._opening_lots(order.order_id, entry, instrument)
        entry.amount = self._required(entry, instrument)
        return entry

    def _opening_lots(self, order_id: str, entry: Reservation, instrument: Instrument) -> int:
        """Return how many of its leaves may open a position, other orders closing before it does."""
        key = (entry.exchange, entry.symbol)
        position = self.state.inventories.get(key)
        closable = 0 if position is None else -entry.side * position.quantity // instrument.lot_size
        for other_id, other in self.state.reservations.items():
            if other_id != order_id and (other.exchange, other.symbol, other.side) == (*key, entry.side):
                closable -= other.leaves - other.opens
        return entry.leaves - min(entry.leaves, max(0, closable))

    def _required(self, entry: Reservation, instrument: Instrument) -> int:
        if not entry.leaves:
            return 0
        if entry.opens >= 0:
            opened = linear.margin(instrument.notional(entry.price, entry.opens), self.leverage)
            fees = -(-instrument.notional(entry.price, entry.leaves) * entry.fee_ppm // PPM)
            return opened + fees + ROUNDING_ALLOWANCE
        if entry.side is Side.SELL:
            return entry.leaves * instrument.lot_size
        return buy_reserve(instrument, entry.price, entry.leaves, entry.fee_ppm) + ROUNDING_ALLOWANCE

    def _consume(self, fill: OrderFilled, instrument: Instrument, entry: Reservation, cost: int) -> Legs:
        # The trade pays from free; what the reservation no longer needs, its cost included, goes there.
        entry.leaves -= fill.quantity
        entry.opens = min(entry.opens, entry.leaves)
        keep = max(0, min(entry.amount - cost, self._required(entry, instrument)))
        legs = self._moved(entry, keep - entry.amount)
        entry.amount = keep
        if not entry.leaves:
            del self.state.reservations[fill.order_id]
        return legs

    @staticmethod
    def _moved(entry: Reservation, amount: int) -> Legs:
        return _against(entry.exchange, entry.asset, -amount, Bucket.HELD)

    # --- Posting ------------------------------------------------------------------------------

    def _post(self, legs: Legs) -> Legs:
        """Book *legs*, one for each account of what they come to, and return those."""
        merged: dict[Account, int] = {}
        sums: dict[str, int] = {}
        for account, amount in legs:
            merged[account] = merged.get(account, 0) + amount
            sums[account[1]] = sums.get(account[1], 0) + amount
        if any(sums.values()):
            raise LedgerError(f"a transaction must sum to 0 in every asset, was {sums}")
        accounts = self.state.accounts
        for account, amount in merged.items():
            accounts[account] = accounts.get(account, 0) + amount
        return [(account, amount) for account, amount in merged.items() if amount]


def reduce(inventory: Inventory, quantity: int) -> int:
    """Take *quantity* units off *inventory* and return the share of its cost that goes with them."""
    removed = inventory.cost * quantity // inventory.quantity
    inventory.quantity -= quantity
    inventory.cost -= removed
    return removed


def _against(exchange: str, asset: str, amount: int, bucket: Bucket) -> Legs:
    """Return the legs that bring *amount* to what is free and take it off *bucket*."""
    if not amount:
        return []
    return [((exchange, asset, Bucket.FREE), amount), ((exchange, asset, bucket), -amount)]


def _refuse_inverse(instrument: Instrument) -> None:
    if instrument.contract not in ("", LINEAR):
        raise LedgerError(
            f"only spot and linear contracts are booked, and {instrument.symbol} on "
            f"{instrument.exchange} is {instrument.contract}"
        )


def _text(entry: msgspec.Struct) -> str:
    return msgspec.json.encode(entry).decode()


def _remember(recent: dict[_Key, None], key: _Key) -> None:
    recent[key] = None
    if len(recent) > REMEMBERED:
        del recent[next(iter(recent))]
