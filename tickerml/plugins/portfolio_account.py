"""
One paper account: its ledger, what it is worth, and the messages that say so.

Realized gains, fees, funding and withdrawal fees are converted when they happen and stand.
Unrealized is what remains, so that

    opening + realized + unrealized - fees + funding - withdrawal_fees = equity

holds to the unit: with one currency it is the inventories' value less their cost, with more it
also carries the revaluation of the quote assets themselves.
"""

from collections.abc import Iterable

import msgspec

from tickerml.kernel import (
    Balance,
    Context,
    FundingSettled,
    Instrument,
    LedgerLeg,
    LedgerPosted,
    OrderFilled,
    OrderSubmitted,
    PortfolioSnapshot,
    Position,
    PositionLiquidated,
    Side,
    TransferSubmitted,
)

from . import ledger_linear as linear
from .ledger import LINEAR, Inventory, Ledger, LedgerError, LedgerState, Legs, Transfer, reduce
from .portfolio_funding import FundingSchedule
from .portfolio_liquidation import Danger, Terms, find
from .portfolio_prices import Prices


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A fill on a perpetual that a settlement may come before: when, ns UTC, and the signed units of base."""

    exchange: str
    symbol: str
    ts_event: int
    quantity: int


class AccountState(msgspec.Struct, array_like=True):
    """Everything an account remembers; money in units of the currency."""

    ledger: LedgerState
    opening: int | None = None
    equity: int = 0
    peak: int = 0
    max_drawdown: float = 0.0
    realized: int = 0
    fees: int = 0
    funding: int = 0
    withdrawal_fees: int = 0
    changes: list[Change] = []


class PaperAccount:
    """Books what happens to one account, and publishes each transaction and what the account is worth."""

    def __init__(
        self,
        name: str,
        ctx: Context,
        prices: Prices,
        schedule: FundingSchedule,
        ledger: Ledger,
        terms: Terms,
        state: AccountState | None = None,
    ) -> None:
        self.name = name
        self._ctx = ctx
        self._prices = prices
        self._schedule = schedule
        self.ledger = ledger
        self._terms = terms
        self.state = state or AccountState(ledger.state)
        self.latest: PortfolioSnapshot | None = None

    # --- An order's life ----------------------------------------------------------------------

    def submit(self, order: OrderSubmitted, instrument: Instrument) -> None:
        """Raises: InsufficientFunds: it cannot be reserved."""
        legs = self.ledger.submit(order, instrument)
        self._say("submit", order.order_id, order.exchange, order.symbol, legs, strategy=order.strategy)
        self.publish()

    def fill(self, fill: OrderFilled, instrument: Instrument) -> None:
        """Book *fill*; nothing when it was booked before."""
        if self.ledger.has_booked(fill):
            return
        self._prices.refresh()
        if fill.side is Side.SELL and instrument.contract != LINEAR:
            self._gather(fill, instrument)
        booking = self.ledger.fill(fill, instrument)
        if booking is None:
            return
        realized = self._prices.convert(booking.realized, booking.quote)
        fees = self._prices.convert(booking.fee, booking.fee_asset)
        self.state.realized += realized
        self.state.fees += fees
        key = (fill.exchange, fill.symbol)
        if instrument.contract == LINEAR and self._schedule.is_planned(key):
            quantity = fill.side * fill.quantity * instrument.lot_size
            self.state.changes.append(Change(*key, fill.ts_event, quantity))
        cash = -fill.side * instrument.notional(fill.price, fill.quantity)
        self._say(
            "fill",
            fill.order_id,
            *key,
            booking.legs,
            strategy=fill.strategy,
            fill=fill.fill,
            realized=realized,
            fees=fees,
            cash=self._prices.convert(cash, instrument.quote),
        )
        self.publish()

    def replace(self, order_id: str, price: int, leaves: int, instrument: Instrument) -> None:
        """Reserve anew for an order that the exchange has changed."""
        legs, shortfall = self.ledger.replace(order_id, price, leaves, instrument)
        if shortfall:
            self._ctx.log.error(
                "portfolio.reservation_failed",
                order_id=order_id,
                reason=f"{shortfall} units too few are free",
            )
        if legs:
            self._say("replace", order_id, instrument.exchange, instrument.symbol, legs)
            self.publish()

    def end(self, order_id: str, exchange: str, symbol: str) -> None:
        """Release what an order that has ended still holds."""
        if self.ledger.reservation(order_id) is not None:
            self._say("end", order_id, exchange, symbol, self.ledger.end(order_id))
            self.publish()

    # --- Liquidation --------------------------------------------------------------------------

    def _liquidate(self, danger: Danger) -> None:
        instrument, now = danger.instrument, self._ctx.clock.now()
        key = (instrument.exchange, instrument.symbol)
        booking = self.ledger.liquidate(instrument, danger.price, self._terms.fee_ppm)
        realized, fee = (
            self._prices.convert(amount, booking.quote) for amount in (booking.realized, booking.fee)
        )
        self.state.realized += realized
        self.state.fees += fee
        if self._schedule.is_planned(key):
            self.state.changes.append(Change(*key, now, -danger.quantity))
        lots = danger.quantity // instrument.lot_size
        side = 1 if lots > 0 else -1
        cash = self._prices.convert(side * instrument.notional(danger.price, abs(lots)), booking.quote)
        legs = booking.legs
        self._say("liquidation", str(now), *key, legs, realized=realized, fees=fee, cash=cash)
        self._ctx.log.error(
            "portfolio.liquidated", exchange=key[0], symbol=key[1], lots=lots, price=danger.price
        )
        self._ctx.publish(
            PositionLiquidated(
                now,
                self.name,
                *key,
                lots,
                danger.price,
                booking.quote,
                booking.realized,
                booking.fee,
                danger.collateral,
                danger.required,
            )
        )

    # --- Funding ------------------------------------------------------------------------------

    def quantity_before(self, exchange: str, symbol: str, ts: int) -> int:
        """Return the position in units of base with all fills before *ts*, by the exchange's clock."""
        inventory = self.ledger.state.inventories.get((exchange, symbol))
        if inventory is None or inventory.contract != LINEAR:
            return 0
        return inventory.quantity - sum(
            change.quantity
            for change in self.state.changes
            if (change.exchange, change.symbol) == (exchange, symbol) and change.ts_event >= ts
        )

    def settle(self, instrument: Instrument, ts: int, quantity: int, mark: int, rate: int) -> None:
        """Book the funding of *quantity* units at the settlement *ts*, once."""
        self._prices.refresh()
        amount, legs = self.ledger.settle(instrument, ts, quantity, mark, rate)
        if not legs:
            return
        funding = self._prices.convert(amount, instrument.quote)
        self.state.funding += funding
        now, place = self._ctx.clock.now(), (instrument.exchange, instrument.symbol)
        lots = quantity // instrument.lot_size
        self._ctx.publish(
            FundingSettled(now, ts, self.name, *place, lots, mark, rate, instrument.quote, amount)
        )
        self._say("funding", str(ts), *place, legs, funding=funding)
        self.publish()

    def forget(self, exchange: str, symbol: str, before: int) -> None:
        """Forget the fills on a perpetual that no settlement can ask for: those before *before*."""
        self.state.changes = [
            change
            for change in self.state.changes
            if (change.exchange, change.symbol) != (exchange, symbol) or change.ts_event >= before
        ]

    # --- Transfers ----------------------------------------------------------------------------

    def send(self, request: TransferSubmitted, fee: int, arrives_ts: int) -> None:
        """
        Put the amount of *request* in flight.

        Raises: LedgerError: it is not free, does not cover its fee, or nothing there could price it.
        """
        asset, source, destination = request.asset, request.source, request.destination
        transfer = Transfer(asset, source, destination, request.amount - fee, arrives_ts)
        if not self._prices.is_cash(asset) and not self._prices.first_symbol(destination, asset):
            raise LedgerError(f"{destination} sells no {asset} for cash, so it would have no price there")
        self._prices.refresh()
        legs = self.ledger.send(request.transfer_id, request.amount, fee, transfer)
        if not legs:
            return
        if self._prices.is_cash(asset):
            value = self._prices.convert(fee, asset)
        else:
            value = self._carry(source, asset, fee, "")
            self._carry(source, asset, transfer.received, destination)
        self.state.withdrawal_fees += value
        self._say("send", request.transfer_id, source, "", legs, withdrawal_fees=value)
        self.publish()

    def arrived(self, now: int) -> list[tuple[str, Transfer]]:
        """Free what has arrived by *now*; returns what that was, in the order of its arrival."""
        due = sorted(
            (transfer.arrives_ts, key)
            for key, transfer in self.ledger.state.transfers.items()
            if transfer.arrives_ts <= now
        )
        found = [(key, self.ledger.state.transfers[key]) for _, key in due]
        for key, transfer in found:
            self._say("receive", key, transfer.destination, "", self.ledger.receive(key))
            self.publish()
        return found

    def _carry(self, source: str, base: str, quantity: int, destination: str) -> int:
        """
        Take *quantity* units of *base* off the inventories of *source*, and to *destination* if it is named.

        Returns what they had cost, in units of the currency.
        """
        total = 0
        for inventory in self._spot(source, base):
            taken = min(quantity, inventory.quantity)
            if taken <= 0:
                continue
            quantity -= taken
            quote = inventory.quote
            cost = reduce(inventory, taken)
            total += self._prices.convert(cost, quote)
            if destination:
                symbol = inventory.symbol
                if self._ctx.instrument(destination, symbol) is None:
                    symbol = self._prices.first_symbol(destination, base)
                arrived = self._instrument(destination, symbol)
                exchanged = self._prices.exchanged(cost, quote, arrived.quote)
                self.ledger.adopt(destination, arrived, taken, cost if exchanged is None else exchanged)
        return total

    # --- Inventories --------------------------------------------------------------------------

    def _spot(self, exchange: str, base: str) -> list[Inventory]:
        return [
            inventory
            for inventory in self.ledger.inventories()
            if (inventory.exchange, inventory.base, inventory.contract) == (exchange, base, "")
        ]

    def _gather(self, fill: OrderFilled, instrument: Instrument) -> None:
        # Base bought with one quote and sold for another brings its cost along, at the rate of the moment.
        own = self._spot(fill.exchange, instrument.base)
        missing = fill.quantity * instrument.lot_size
        missing -= sum(i.quantity for i in own if i.symbol == fill.symbol)
        for other in own:
            taken = min(missing, other.quantity)
            if taken <= 0 or other.symbol == fill.symbol:
                continue
            share = other.cost * taken // other.quantity
            cost = self._prices.exchanged(share, other.quote, instrument.quote)
            if cost is not None:
                self.ledger.move(other, instrument, taken, cost)
                missing -= taken

    def _instrument(self, exchange: str, symbol: str) -> Instrument:
        instrument = self._ctx.instrument(exchange, symbol)
        if instrument is None:
            raise LedgerError(f"{exchange} {symbol} has a price and no Instrument")
        return instrument

    # --- Worth --------------------------------------------------------------------------------

    def _valuation(self) -> int | None:
        """Return the worth of everything in units of the currency; None while something has no price."""
        worth = 0
        for balance in self.ledger.balances():
            value = self._balance_value(balance)
            if value is None:
                return None
            worth += value
        for inventory in self.ledger.inventories():
            if inventory.contract and inventory.quantity:
                gain = self._gain(inventory, is_fresh=True)
                value = None if gain is None else self._prices.fresh_value(gain, inventory.quote)
                if value is None:
                    return None
                worth += value
        return worth

    def _balance_value(self, balance: Balance) -> int | None:
        total = balance.free + balance.held + balance.margin + balance.in_flight
        if not total:
            return 0
        if self._prices.is_cash(balance.asset):
            return self._prices.fresh_value(total, balance.asset)
        value = 0
        for symbol, quantity in self._shares(balance.exchange, balance.asset, total):
            at_bid = self._prices.bid_value(balance.exchange, symbol, quantity, is_fresh=True)
            part = None if at_bid is None else self._prices.fresh_value(at_bid, symbol.partition("/")[2])
            if part is None:
                return None
            value += part
        return value

    def _shares(self, exchange: str, base: str, total: int) -> Iterable[tuple[str, int]]:
        """Yield which symbol's bid prices how much of *base*: the one it was bought on, else the first."""
        for inventory in self._spot(exchange, base):
            if inventory.quantity and total > 0:
                taken = min(total, inventory.quantity)
                total -= taken
                yield inventory.symbol, taken
        if total:
            yield self._prices.first_symbol(exchange, base), total

    def _gain(self, inventory: Inventory, *, is_fresh: bool = False) -> int | None:
        """Return what selling or closing *inventory* would gain, in units of quote; None without a price."""
        mark = self._prices.mark(inventory.exchange, inventory.symbol, is_fresh=is_fresh)
        instrument = self._ctx.instrument(inventory.exchange, inventory.symbol)
        if mark is None or instrument is None:
            return None
        return linear.gain(instrument, inventory.quantity, inventory.cost, mark.closing(inventory.quantity))

    def _open(self) -> None:
        # What fills have already gained or lost by now is not part of the opening.
        state = self.state
        for balance in self.ledger.balances():
            if not self._prices.is_cash(balance.asset):
                self._adopt(balance.exchange, balance.asset, balance.free + balance.held + balance.in_flight)
        gained = state.realized - state.fees + state.funding - state.withdrawal_fees
        for inventory in self.ledger.inventories():
            gained += self._prices.convert(self._gain(inventory) or 0, inventory.quote)
        state.opening = state.peak = (self._valuation() or 0) - gained

    def _adopt(self, exchange: str, base: str, total: int) -> None:
        """Count what was not bought here as bought at the bid of the symbol that prices it."""
        owned = self._spot(exchange, base)
        missing = total - sum(inventory.quantity for inventory in owned)
        symbol = self._prices.first_symbol(exchange, base)
        known = sum(inventory.quantity for inventory in owned if inventory.symbol == symbol)
        value = self._prices.bid_value(exchange, symbol, known + missing)
        if missing > 0 and value is not None:
            cost = value - (self._prices.bid_value(exchange, symbol, known) or 0)
            self.ledger.adopt(exchange, self._instrument(exchange, symbol), missing, cost)

    # --- Publishing ---------------------------------------------------------------------------

    def publish(self) -> None:
        """Say what the account is worth now."""
        self._prices.refresh()
        self.mark()

    def mark(self) -> None:
        """Lose what is not secured, and say what the account is worth, by prices as last refreshed."""
        while danger := find(self.ledger, self._prices, self._ctx.instrument, self._terms.maintenance_ppm):
            self._liquidate(danger)
        worth = self._valuation()
        if worth is not None:
            self._count(worth)
        self.latest = self._snapshot_message(is_marked=worth is not None)
        self._ctx.publish(self.latest)

    def _count(self, worth: int) -> None:
        state = self.state
        if state.opening is None:
            self._open()
            worth = self._valuation() or 0
        state.equity = worth
        state.peak = max(state.peak, worth)
        state.max_drawdown = max(state.max_drawdown, self._drawdown())

    def _drawdown(self) -> float:
        return 1 - self.state.equity / self.state.peak if self.state.peak > 0 else 0.0

    def _say(
        self,
        cause: str,
        key: str,
        exchange: str,
        symbol: str,
        legs: Legs,
        *,
        strategy: str = "",
        fill: int = 0,
        realized: int = 0,
        fees: int = 0,
        funding: int = 0,
        withdrawal_fees: int = 0,
        cash: int = 0,
    ) -> None:
        told = [LedgerLeg(*account, amount) for account, amount in legs]
        if told:
            self._ctx.publish(
                LedgerPosted(
                    self._ctx.clock.now(),
                    self.name,
                    cause,
                    key,
                    exchange,
                    symbol,
                    told,
                    self._prices.currency,
                    strategy,
                    fill,
                    realized,
                    fees,
                    funding,
                    withdrawal_fees,
                    cash,
                )
            )

    def _snapshot_message(self, is_marked: bool) -> PortfolioSnapshot:
        state = self.state
        opening = state.opening or 0
        rest = opening + state.realized - state.fees + state.funding - state.withdrawal_fees
        positions = [self._position(inventory) for inventory in self.ledger.inventories()]
        accrued = sum(
            self._prices.convert(position.accrued, inventory.quote)
            for position, inventory in zip(positions, self.ledger.inventories(), strict=True)
        )
        return PortfolioSnapshot(
            self._ctx.clock.now(),
            self.name,
            self._prices.currency,
            state.equity,
            state.peak,
            opening,
            state.realized,
            state.equity - rest,
            state.fees,
            self._drawdown(),
            state.max_drawdown,
            is_marked,
            self.ledger.balances(),
            positions,
            state.funding,
            state.withdrawal_fees,
            accrued,
        )

    def _position(self, inventory: Inventory) -> Position:
        mark = self._prices.mark(inventory.exchange, inventory.symbol)
        instrument = self._instrument(inventory.exchange, inventory.symbol)
        unrealized = self._gain(inventory) or 0
        return Position(
            inventory.exchange,
            inventory.symbol,
            inventory.quantity // instrument.lot_size,
            inventory.cost,
            mark.closing(inventory.quantity) if mark else 0,
            inventory.realized,
            unrealized,
            inventory.fees,
            inventory.funding,
            self._accrued(inventory, instrument),
            inventory.margin,
            self._prices.convert(unrealized, inventory.quote),
        )

    def _accrued(self, inventory: Inventory, instrument: Instrument) -> int:
        if inventory.contract != LINEAR or not inventory.quantity:
            return 0
        now = self._ctx.clock.now()
        accrual = self._schedule.accrual((inventory.exchange, inventory.symbol), now)
        if accrual is None:
            return 0
        whole = linear.funding(instrument, inventory.quantity, accrual.mark, accrual.rate)
        return whole * accrual.elapsed_ns // accrual.interval_ns
