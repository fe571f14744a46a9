"""
Accounts: what there is of money, inventories and open orders, for every rule that asks how much is at stake.

It looks at the worst that open orders can still do, never at what they will probably do: every
open buy is counted as bought at its limit price and paid for, no open sell is counted as sold.
So orders that are each within a limit cannot break it together.

It is current to the order. A PortfolioSnapshot says what the account owns; fills that no
snapshot has shown yet are added, and orders are followed from this rule's own yes until
their end, so that neither depends on whether a snapshot was overtaken on its way.
"""

from typing import Annotated, Generic, NamedTuple, TypeVar

import msgspec

from tickerml.kernel import (
    PPM,
    UNIT,
    ConfigError,
    Context,
    Instrument,
    Options,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    PortfolioSnapshot,
    Positions,
    Side,
    SubmitOrder,
    to_units,
)

from .rule import Denied, Rule

ROUNDING_ALLOWANCE = (
    10_000  # units: what a reservation holds beyond its cost, for fees rounded up fill by fill
)
MARKET_BUY_PPM = 1_010_000  # a MARKET buy is counted 1 % above the best ask

Rate = tuple[int, int]  # numerator and denominator


def default_pegs() -> dict[str, str]:
    """Return the stablecoins that count as cash, and what one is worth while no book says so."""
    return {"USDC": "1", "USDT": "1"}


Pegs = Annotated[
    dict[str, str],
    msgspec.Meta(
        description="assets that are cash, and what one is worth in the currency while no book says so"
    ),
]


class AccountOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every rule that follows accounts has to know."""

    pegs: Pegs = msgspec.field(default_factory=default_pegs)


class Open(msgspec.Struct, array_like=True):
    """What is still to come of an order, and its worst price."""

    account: str
    exchange: str
    symbol: str
    side: Side
    price: int
    leaves: int
    is_submitted: bool = False


class AccountsState(msgspec.Struct, array_like=True):
    """Everything that is known of the accounts."""

    snapshots: dict[str, PortfolioSnapshot] = {}
    unposted: dict[tuple[str, str, str], int] = {}  # (account, exchange, asset) -> units
    open: dict[str, Open] = {}
    positions: Positions = msgspec.field(default_factory=Positions)


class Stake(NamedTuple):
    """A position or an open order: what is at stake, signed as its side is, in units of the currency."""

    exchange: str
    base: str
    is_contract: bool
    is_open_order: bool
    value: int


class Case(msgspec.Struct, frozen=True):
    """One order with all that judging it needs: prices in ticks, money in units."""

    order: SubmitOrder
    instrument: Instrument
    snapshot: PortfolioSnapshot
    rate: Rate  # of the quote asset in the reporting currency
    bid: int
    price: int  # the most that a lot may come to

    def lots(self, budget: int, fee_ppm: int = 0) -> int:
        """Return how many lots *budget*, in units of the reporting currency, pays for."""
        return self.lots_of_quote(budget * self.rate[1] // self.rate[0], fee_ppm)

    def lots_of_quote(self, budget: int, fee_ppm: int = 0) -> int:
        """Return how many lots *budget*, in units of the quote asset, pays for."""
        lot = self.price * self.instrument.tick_size * self.instrument.lot_size * (PPM + fee_ppm)
        return max(0, budget * UNIT * PPM // lot)

    def value(self, price: int, quantity: int) -> int:
        """Return ticks times lots in units of the reporting currency."""
        return self.instrument.notional(price, quantity) * self.rate[0] // self.rate[1]

    def left(self, allowed: int) -> str:
        """Return *allowed* lots beside what was ordered, as a person reads it: "0.1 of 0.5 BTC"."""
        some, all_of_it = (self.instrument.quantity_text(lots) for lots in (allowed, self.order.quantity))
        return f"{some} of {all_of_it} {self.instrument.base}"

    def share(self, fraction: float) -> int:
        """Return *fraction* of the equity, in units."""
        return self.snapshot.equity * round(fraction * PPM) // PPM


O = TypeVar("O", bound=AccountOptions)  # noqa: E741 - a rule's options


class AccountRule(Rule[O, AccountsState], Generic[O]):
    """A rule that follows accounts; it is to tell reserve() of each yes."""

    STATE = AccountsState

    def __init__(self, ctx: Context, options: O) -> None:
        """Raises: ConfigError: a peg is not an amount."""
        super().__init__(ctx, options)
        self._pegs = pegs_of(ctx.plugin, options.pegs)

    def case(self, order: SubmitOrder) -> Case:
        """
        Return what is known of *order*.

        Raises: Denied: something that judging it needs is not known, or is not to be trusted.
        """
        snapshot = self._state.snapshots.get(order.account)
        instrument = self._ctx.instrument(order.exchange, order.symbol)
        book = self._ctx.book(order.exchange, order.symbol)
        if order.order_id in self._state.open:
            raise Denied(f"order {order.order_id} is already open")
        if snapshot is None:
            raise Denied(f"nothing is known of account {order.account} yet")
        if not snapshot.is_marked:
            raise Denied("something the account holds has no trusted price")
        if instrument is None:
            raise Denied(f"{order.symbol} is not known on {order.exchange}")
        if not book.is_trusted:
            raise Denied(f"the book of {order.symbol} on {order.exchange} is {book.state} or crossed")
        rate = self.rate(instrument.quote, snapshot)
        if order.order_type is OrderType.LIMIT and order.price <= 0:
            raise Denied(f"a limit price must be positive, was {instrument.price_text(order.price)}")
        price = _worst_price(order, book.best_bid, book.best_ask)
        return Case(order, instrument, snapshot, rate, book.best_bid, price)

    def reserve(self, case: Case, quantity: int) -> None:
        """Count *quantity* lots of the order as open from now on."""
        if quantity > 0:
            self._state.open[case.order.order_id] = self.entry(case.order, case.price, quantity)

    # --- What is at stake ---------------------------------------------------------------------

    def stakes(self, case: Case) -> list[Stake]:
        """
        Return every position of the account, and every open order that can add to one.

        A position counts at its best bid, or at its last mark while that cannot be trusted.

        Raises: Denied: there is neither.
        """
        account, found = case.order.account, []
        for (owner, exchange, symbol), lots in self._state.positions.lots.items():
            instrument = self._ctx.instrument(exchange, symbol)
            if owner == account and instrument is not None:
                value = self.value(instrument, self._mark(case, exchange, symbol), abs(lots), case.snapshot)
                found.append(_stake(instrument, False, value if lots > 0 else -value))
        for entry in self._state.open.values():
            instrument = self._ctx.instrument(entry.exchange, entry.symbol)
            if entry.account != account or instrument is None:
                continue
            if entry.side is Side.BUY or instrument.contract:
                value = self.value(instrument, entry.price, entry.leaves, case.snapshot)
                found.append(_stake(instrument, True, entry.side * value))
        return found

    def value(self, instrument: Instrument, price: int, quantity: int, snapshot: PortfolioSnapshot) -> int:
        """Return what *quantity* lots at *price* ticks come to, in units of the currency."""
        numerator, denominator = self.rate(instrument.quote, snapshot)
        return instrument.notional(price, quantity) * numerator // denominator

    def _mark(self, case: Case, exchange: str, symbol: str) -> int:
        book = self._ctx.book(exchange, symbol)
        if book.is_trusted:
            return book.best_bid
        marks = (p.mark for p in case.snapshot.positions if (p.exchange, p.symbol) == (exchange, symbol))
        if mark := next(marks, 0):
            return mark
        raise Denied(f"the position in {symbol} on {exchange} has no trusted price yet")

    # --- What the account owns ----------------------------------------------------------------

    def owned(self, snapshot: PortfolioSnapshot, exchange: str, asset: str) -> tuple[int, int]:
        """Return what the account owns now, fills not yet in a snapshot included, and what was held of it."""
        total = self._state.unposted.get((snapshot.account, exchange, asset), 0)
        for balance in snapshot.balances:
            if (balance.exchange, balance.asset) == (exchange, asset):
                return total + balance.free + balance.held, balance.held
        return total, 0

    def holdings(self, snapshot: PortfolioSnapshot) -> list[tuple[str, int]]:
        """Return (asset, units) of every balance, fills not yet in a snapshot included."""
        holdings = [(balance.asset, balance.free + balance.held) for balance in snapshot.balances]
        holdings += [
            (asset, amount)
            for (account, _, asset), amount in self._state.unposted.items()
            if account == snapshot.account
        ]
        return holdings

    def cash(self, snapshot: PortfolioSnapshot) -> int:
        """Return what the account holds of its currency and of what is pegged to it, in units."""
        cash = 0
        for asset, amount in self.holdings(snapshot):
            if asset == snapshot.currency or asset in self._pegs:
                numerator, denominator = self.rate(asset, snapshot)
                cash += amount * numerator // denominator
        return cash

    def base_value(self, case: Case) -> int:
        """Return what is held of the base asset anywhere, at the bid of the order's book, in units."""
        instrument = case.instrument
        units = sum(amount for asset, amount in self.holdings(case.snapshot) if asset == instrument.base)
        return case.bid * instrument.tick_size * max(0, units) * case.rate[0] // (case.rate[1] * UNIT)

    def open_buys(self, case: Case) -> tuple[int, int, int]:
        """
        Return what open buys may still cost at worst, fees included.

        First those of the order's base asset and then all, in units of the reporting currency;
        last those paid with its quote asset on its exchange, in units of that.
        """
        same = total = reserved = 0
        for entry, instrument in self.open_orders(case.order.account, Side.BUY):
            cost = _cost(instrument, entry.price, entry.leaves) + ROUNDING_ALLOWANCE
            numerator, denominator = self.rate(instrument.quote, case.snapshot)
            value = -(-cost * numerator // denominator)
            total += value
            same += value if instrument.base == case.instrument.base else 0
            is_here = (entry.exchange, instrument.quote) == (case.order.exchange, case.instrument.quote)
            reserved += cost if is_here else 0
        return same, total, reserved

    def open_orders(self, account: str, side: Side) -> list[tuple[Open, Instrument]]:
        """Return the open orders of one side, with what they are in."""
        orders = []
        for entry in self._state.open.values():
            instrument = self._ctx.instrument(entry.exchange, entry.symbol)
            if entry.account == account and entry.side is side and instrument is not None:
                orders.append((entry, instrument))
        return orders

    def rate(self, asset: str, snapshot: PortfolioSnapshot) -> Rate:
        """Return what a unit of *asset* is worth in the currency, by the first trusted book or its peg."""
        return rate_of(self._ctx, asset, snapshot, self._pegs)

    # --- What happens to orders and money -----------------------------------------------------

    def on_portfolio_snapshot(self, snapshot: PortfolioSnapshot) -> None:
        state = self._state
        state.snapshots[snapshot.account] = snapshot
        state.positions.take(snapshot)
        if state.unposted:
            state.unposted = {key: x for key, x in state.unposted.items() if key[0] != snapshot.account}

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        known = self._state.open.get(order.order_id)
        book = self._ctx.book(order.exchange, order.symbol)
        price = known.price if known else _worst_price(order, book.best_bid, book.best_ask)
        entry = self.entry(order, price, order.quantity)
        entry.is_submitted = True
        self._state.open[order.order_id] = entry

    def on_order_denied(self, event: OrderDenied) -> None:
        # A second order under an open one's id is denied too, and the first one stays open.
        entry = self._state.open.get(event.order_id)
        if entry is not None and not entry.is_submitted:
            del self._state.open[event.order_id]

    def on_order_filled(self, fill: OrderFilled) -> None:
        instrument = self._ctx.instrument(fill.exchange, fill.symbol)
        self._state.positions.fill(fill, instrument)
        if instrument is not None and not instrument.contract:  # a contract moves no money but its fee
            self._owe(fill, instrument.base, fill.side * fill.quantity * instrument.lot_size)
            self._owe(fill, instrument.quote, -fill.side * instrument.notional(fill.price, fill.quantity))
        if instrument is not None:
            self._owe(fill, fill.fee_asset, -fill.fee)
        if entry := self._state.open.get(fill.order_id):
            entry.leaves = fill.leaves
        if fill.leaves == 0:
            self._state.open.pop(fill.order_id, None)

    def on_order_rejected(self, event: OrderRejected) -> None:
        self._state.open.pop(event.order_id, None)

    def on_order_canceled(self, event: OrderCanceled) -> None:
        self._state.open.pop(event.order_id, None)

    def on_order_expired(self, event: OrderExpired) -> None:
        self._state.open.pop(event.order_id, None)

    def _owe(self, fill: OrderFilled, asset: str, amount: int) -> None:
        key = (fill.account, fill.exchange, asset)
        self._state.unposted[key] = self._state.unposted.get(key, 0) + amount

    @staticmethod
    def entry(order: SubmitOrder | OrderSubmitted, price: int, quantity: int) -> Open:
        """Return *order* as one that is open."""
        return Open(order.account, order.exchange, order.symbol, order.side, price, quantity)


def pegs_of(plugin: str, pegs: dict[str, str]) -> dict[str, int]:
    """
    Return what the option *pegs* says one of each asset is worth, in units.

    Raises: ConfigError: it is no amount.
    """
    return {asset: amount_of(plugin, f"pegs.{asset}", text) for asset, text in sorted(pegs.items())}


def rate_of(ctx: Context, asset: str, snapshot: PortfolioSnapshot, pegs: dict[str, int]) -> Rate:
    """
    Return what a unit of *asset* is worth in the currency, by the first trusted book or its peg.

    Raises: Denied: nothing says so.
    """
    if asset == snapshot.currency:
        return 1, 1
    symbol = f"{asset}/{snapshot.currency}"
    for exchange in sorted({balance.exchange for balance in snapshot.balances}):
        instrument, book = ctx.instrument(exchange, symbol), ctx.book(exchange, symbol)
        if instrument is not None and book.is_trusted:
            return book.mid2 * instrument.tick_size, 2 * UNIT
    if not pegs.get(asset):
        raise Denied(f"nothing says what {asset} is worth in {snapshot.currency}: name it in pegs")
    return pegs[asset], UNIT


def closing_fees(ctx: Context, snapshot: PortfolioSnapshot, pegs: dict[str, int]) -> int:
    """
    Return the taker fees of closing everything at its mark, in units of the currency, rounded up.

    Raises: Denied: nothing says what a quote asset is worth.
    """
    fees = 0
    for position in snapshot.positions:
        instrument = ctx.instrument(position.exchange, position.symbol)
        if position.quantity and instrument is not None:
            numerator, denominator = rate_of(ctx, instrument.quote, snapshot, pegs)
            notional = instrument.notional(position.mark, abs(position.quantity))
            fees += -(-notional * max(0, instrument.taker_fee_ppm) * numerator // (PPM * denominator))
    return fees


def _stake(instrument: Instrument, is_open_order: bool, value: int) -> Stake:
    return Stake(instrument.exchange, instrument.base, bool(instrument.contract), is_open_order, value)


def _worst_price(order: SubmitOrder | OrderSubmitted, bid: int, ask: int) -> int:
    # The most that a lot may come to: what a buy can cost, what a sell can be worth.
    if order.side is Side.SELL:
        return max(order.price, bid)
    return order.price if order.order_type is OrderType.LIMIT else -(-ask * MARKET_BUY_PPM // PPM)


def fee_ppm_of(instrument: Instrument) -> int:
    """Return the most that a trade may cost, millionths of its notional."""
    return max(instrument.maker_fee_ppm, instrument.taker_fee_ppm, 0)


def _cost(instrument: Instrument, price: int, quantity: int) -> int:
    exact = price * quantity * instrument.tick_size * instrument.lot_size * (PPM + fee_ppm_of(instrument))
    return -(-exact // (UNIT * PPM))


def amount_of(plugin: str, option: str, text: str) -> int:
    """
    Return the decimal *text* of an option in units.

    Raises: ConfigError: it is no decimal, or less than nothing.
    """
    try:
        amount = to_units(text)
    except ValueError as error:
        raise ConfigError(f"{plugin}: {option}: {error}") from None
    if amount < 0:
        raise ConfigError(f"{plugin}: {option} must be at least 0, was {text!r}")
    return amount
