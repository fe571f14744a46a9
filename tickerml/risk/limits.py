"""
Limits: how much of the account one order, one asset and all of them may take.

The rule looks at the worst that open orders can still do, never at what they will
probably do: every open buy is counted as bought at its limit price and paid for, no open
sell is counted as sold. So orders that are each within a limit cannot break it together.

It is current to the order. A PortfolioSnapshot says what the account owns; fills that no
snapshot has shown yet are added, and orders are followed from this rule's own yes until
their end, so that neither depends on whether a snapshot was overtaken on its way.

A sell can only shrink a spot inventory. It is bounded by the size of an order and by
what is there to sell, and by nothing else. A stablecoin is cash when it pays, and an
asset like any other when it is what an order buys.
"""

from typing import Annotated

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
    RiskRuleSpec,
    RiskVerdict,
    Side,
    SubmitOrder,
    hookimpl,
    to_units,
)

ROUNDING_ALLOWANCE = (
    10_000  # units: what a reservation holds beyond its cost, for fees rounded up fill by fill
)
MARKET_BUY_PPM = 1_010_000  # a MARKET buy is counted 1 % above the best ask

Rate = tuple[int, int]  # numerator and denominator


def _default_pegs() -> dict[str, str]:
    return {"USDC": "1", "USDT": "1"}


class LimitsOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits; fractions are of the account's equity, amounts in its reporting currency."""

    max_position: Annotated[
        float,
        msgspec.Meta(
            gt=0, le=1, description="one base asset over all exchanges, open buys included, of equity"
        ),
    ] = 0.25
    max_order: Annotated[float, msgspec.Meta(gt=0, le=1, description="one order, of equity")] = 0.10
    min_cash: Annotated[
        float, msgspec.Meta(ge=0, lt=1, description="what stays in cash if every open buy fills, of equity")
    ] = 0.10
    max_gross: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="all inventories and open buys together, of equity")
    ] = 0.95
    min_notional: Annotated[
        str,
        msgspec.Meta(description="the smallest order, in the reporting currency; a smaller one is denied"),
    ] = "10"
    max_notional: Annotated[
        str, msgspec.Meta(description="the largest order, in the reporting currency; a larger one is reduced")
    ] = "2500"
    pegs: Annotated[
        dict[str, str],
        msgspec.Meta(
            description="assets that are cash, and what one is worth in the currency while no book says so"
        ),
    ] = msgspec.field(default_factory=_default_pegs)


class _Open(msgspec.Struct, array_like=True):
    account: str
    exchange: str
    symbol: str
    side: Side
    price: int
    leaves: int
    is_submitted: bool = False


class _State(msgspec.Struct, array_like=True):
    snapshots: dict[str, PortfolioSnapshot] = {}
    unposted: dict[tuple[str, str, str], int] = {}  # (account, exchange, asset) -> units
    open: dict[str, _Open] = {}


class _Case(msgspec.Struct, frozen=True):
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

    def share(self, fraction: float) -> int:
        """Return *fraction* of the equity, in units."""
        return self.snapshot.equity * round(fraction * PPM) // PPM


class _Denied(Exception):
    """Ends a judgement with its reason; it never leaves this module."""


class Limits:
    """Answers every SubmitOrder with the quantity that the limits leave of it."""

    def __init__(self, ctx: Context, options: LimitsOptions) -> None:
        """Raises: ConfigError: an option is not an amount, or the smallest order exceeds the largest."""
        self._ctx = ctx
        self._options = options
        self._min_notional = _amount("min_notional", options.min_notional)
        self._max_notional = _amount("max_notional", options.max_notional)
        if self._min_notional > self._max_notional:
            raise ConfigError(
                f"risk-limits: min_notional must be at most max_notional {options.max_notional}, "
                f"was {options.min_notional}"
            )
        self._pegs = {asset: _amount(f"pegs.{asset}", text) for asset, text in sorted(options.pegs.items())}
        self._state = _State()

    # --- The verdict --------------------------------------------------------------------------

    def on_submit_order(self, order: SubmitOrder) -> None:
        inputs: dict[str, float] = {}
        try:
            case = self._case(order)
            quantity, reason = self._judge(case, inputs)
        except _Denied as denial:
            quantity, reason = 0, str(denial)
        else:
            if quantity:
                self._state.open[order.order_id] = self._entry(order, case.price, quantity)
        self._ctx.publish(
            RiskVerdict(self._ctx.clock.now(), order.order_id, self._ctx.plugin, quantity, reason, inputs)
        )

    def _case(self, order: SubmitOrder) -> _Case:
        snapshot = self._state.snapshots.get(order.account)
        instrument = self._ctx.instrument(order.exchange, order.symbol)
        book = self._ctx.book(order.exchange, order.symbol)
        if order.order_id in self._state.open:
            raise _Denied(f"order {order.order_id} is already open")
        if snapshot is None:
            raise _Denied(f"nothing is known of account {order.account} yet")
        if not snapshot.is_marked:
            raise _Denied("something the account holds has no trusted price")
        if instrument is None:
            raise _Denied(f"{order.symbol} is not known on {order.exchange}")
        if not book.is_trusted:
            raise _Denied(f"the book of {order.symbol} on {order.exchange} is {book.state} or crossed")
        rate = self._rate(instrument.quote, snapshot)
        if order.order_type is OrderType.LIMIT and order.price <= 0:
            raise _Denied(f"a limit price must be positive, was {order.price} ticks")
        price = _worst_price(order, book.best_bid, book.best_ask)
        return _Case(order, instrument, snapshot, rate, book.best_bid, price)

    def _judge(self, case: _Case, inputs: dict[str, float]) -> tuple[int, str]:
        order = case.order
        allowed = {
            "max_order": case.lots(case.share(self._options.max_order)),
            "max_notional": case.lots(self._max_notional),
        }
        if order.side is Side.SELL:
            allowed["inventory"] = self._sellable(case, inputs)
        elif order.reduce_only:
            raise _Denied("a reduce-only buy has no short position to reduce")
        else:
            allowed |= self._exposure(case, inputs)
        inputs |= {
            "equity": case.snapshot.equity / UNIT,
            "price": case.price * case.instrument.tick_size / UNIT,
        }
        inputs |= {f"{name}_lots": float(lots) for name, lots in allowed.items()}
        limit = min(allowed, key=lambda name: allowed[name])
        quantity = min(order.quantity, allowed[limit])
        reason = f"{limit} allows {allowed[limit]} of {order.quantity} lots"
        if shortfall := self._too_small(case, quantity):
            return 0, shortfall if quantity == order.quantity else f"{reason}, and {shortfall}"
        return quantity, "" if quantity == order.quantity else reason

    def _sellable(self, case: _Case, inputs: dict[str, float]) -> int:
        exchange, base = case.order.exchange, case.instrument.base
        owned, held = self._owned(case.snapshot, exchange, base)
        reserved = sum(
            entry.leaves * instrument.lot_size
            for entry, instrument in self._open_orders(case.order.account, Side.SELL)
            if (entry.exchange, instrument.base) == (exchange, base)
        )
        free = owned - max(held, reserved)
        inputs |= {"owned": owned / UNIT, "free": free / UNIT}
        return max(0, free // case.instrument.lot_size)

    def _exposure(self, case: _Case, inputs: dict[str, float]) -> dict[str, int]:
        order, instrument, options = case.order, case.instrument, self._options
        cash = self._cash(case.snapshot)
        inventory = self._base_value(case)
        same, total, reserved = self._open_buys(case)
        owned, held = self._owned(case.snapshot, order.exchange, instrument.quote)
        free = owned - max(held, reserved) - ROUNDING_ALLOWANCE
        gross = max(0, case.snapshot.equity - cash) + total
        inputs |= {"cash": cash / UNIT, "inventory": inventory / UNIT, "free": free / UNIT}
        inputs |= {"open_buys": total / UNIT, "gross": gross / UNIT}
        fee_ppm = _fee_ppm(instrument)
        return {
            "max_position": case.lots(case.share(options.max_position) - inventory - same),
            "max_gross": case.lots(case.share(options.max_gross) - gross),
            "min_cash": case.lots(cash - total - case.share(options.min_cash), fee_ppm),
            "funds": case.lots_of_quote(free, fee_ppm),
        }

    def _too_small(self, case: _Case, quantity: int) -> str:
        if quantity <= 0:
            return "nothing is left"
        if case.value(case.price, quantity) < self._min_notional:
            return f"less than min_notional {self._options.min_notional} {case.snapshot.currency} is left"
        instrument = case.instrument
        if quantity < instrument.min_quantity:
            return f"{case.order.exchange} takes no less than {instrument.min_quantity} lots"
        if instrument.notional(case.price, quantity) < instrument.min_notional:
            return f"the notional is below the minimum of {case.order.exchange}"
        return ""

    # --- What the account owns ----------------------------------------------------------------

    def _owned(self, snapshot: PortfolioSnapshot, exchange: str, asset: str) -> tuple[int, int]:
        """Return what the account owns now, fills not yet in a snapshot included, and what was held of it."""
        total = self._state.unposted.get((snapshot.account, exchange, asset), 0)
        for balance in snapshot.balances:
            if (balance.exchange, balance.asset) == (exchange, asset):
                return total + balance.free + balance.held, balance.held
        return total, 0

    def _holdings(self, snapshot: PortfolioSnapshot) -> list[tuple[str, int]]:
        """Return (asset, units) of every balance, fills not yet in a snapshot included."""
        holdings = [(balance.asset, balance.free + balance.held) for balance in snapshot.balances]
        holdings += [
            (asset, amount)
            for (account, _, asset), amount in self._state.unposted.items()
            if account == snapshot.account
        ]
        return holdings

    def _cash(self, snapshot: PortfolioSnapshot) -> int:
        cash = 0
        for asset, amount in self._holdings(snapshot):
            if asset == snapshot.currency or asset in self._pegs:
                numerator, denominator = self._rate(asset, snapshot)
                cash += amount * numerator // denominator
        return cash

    def _base_value(self, case: _Case) -> int:
        instrument = case.instrument
        units = sum(amount for asset, amount in self._holdings(case.snapshot) if asset == instrument.base)
        return case.bid * instrument.tick_size * max(0, units) * case.rate[0] // (case.rate[1] * UNIT)

    def _open_buys(self, case: _Case) -> tuple[int, int, int]:
        """
        Return what open buys may still cost at worst, fees included.

        First those of the order's base asset and then all, in units of the reporting currency;
        last those paid with its quote asset on its exchange, in units of that.
        """
        same = total = reserved = 0
        for entry, instrument in self._open_orders(case.order.account, Side.BUY):
            cost = _cost(instrument, entry.price, entry.leaves) + ROUNDING_ALLOWANCE
            numerator, denominator = self._rate(instrument.quote, case.snapshot)
            value = -(-cost * numerator // denominator)
            total += value
            same += value if instrument.base == case.instrument.base else 0
            is_here = (entry.exchange, instrument.quote) == (case.order.exchange, case.instrument.quote)
            reserved += cost if is_here else 0
        return same, total, reserved

    def _open_orders(self, account: str, side: Side) -> list[tuple[_Open, Instrument]]:
        orders = []
        for entry in self._state.open.values():
            instrument = self._ctx.instrument(entry.exchange, entry.symbol)
            if entry.account == account and entry.side is side and instrument is not None:
                orders.append((entry, instrument))
        return orders

    def _rate(self, asset: str, snapshot: PortfolioSnapshot) -> Rate:
        """Return what a unit of *asset* is worth in the currency, by the first trusted book or its peg."""
        if asset == snapshot.currency:
            return 1, 1
        symbol = f"{asset}/{snapshot.currency}"
        for exchange in sorted({balance.exchange for balance in snapshot.balances}):
            instrument = self._ctx.instrument(exchange, symbol)
            book = self._ctx.book(exchange, symbol)
            if instrument is not None and book.is_trusted:
                return book.mid2 * instrument.tick_size, 2 * UNIT
        if not self._pegs.get(asset):
            raise _Denied(f"nothing says what {asset} is worth in {snapshot.currency}: name it in pegs")
        return self._pegs[asset], UNIT

    # --- What happens to orders and money -----------------------------------------------------

    def on_portfolio_snapshot(self, snapshot: PortfolioSnapshot) -> None:
        state = self._state
        state.snapshots[snapshot.account] = snapshot
        if state.unposted:
            state.unposted = {key: x for key, x in state.unposted.items() if key[0] != snapshot.account}

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        known = self._state.open.get(order.order_id)
        book = self._ctx.book(order.exchange, order.symbol)
        price = known.price if known else _worst_price(order, book.best_bid, book.best_ask)
        entry = self._entry(order, price, order.quantity)
        entry.is_submitted = True
        self._state.open[order.order_id] = entry

    def on_order_denied(self, event: OrderDenied) -> None:
        # A second order under an open one's id is denied too, and the first one stays open.
        entry = self._state.open.get(event.order_id)
        if entry is not None and not entry.is_submitted:
            del self._state.open[event.order_id]

    def on_order_filled(self, fill: OrderFilled) -> None:
        instrument = self._ctx.instrument(fill.exchange, fill.symbol)
        if instrument is not None:
            self._owe(fill, instrument.base, fill.side * fill.quantity * instrument.lot_size)
            self._owe(fill, instrument.quote, -fill.side * instrument.notional(fill.price, fill.quantity))
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
    def _entry(order: SubmitOrder | OrderSubmitted, price: int, quantity: int) -> _Open:
        return _Open(order.account, order.exchange, order.symbol, order.side, price, quantity)

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=_State)


def _worst_price(order: SubmitOrder | OrderSubmitted, bid: int, ask: int) -> int:
    # The most that a lot may come to: what a buy can cost, what a sell can be worth.
    if order.side is Side.SELL:
        return max(order.price, bid)
    return order.price if order.order_type is OrderType.LIMIT else -(-ask * MARKET_BUY_PPM // PPM)


def _fee_ppm(instrument: Instrument) -> int:
    return max(instrument.maker_fee_ppm, instrument.taker_fee_ppm, 0)


def _cost(instrument: Instrument, price: int, quantity: int) -> int:
    exact = price * quantity * instrument.tick_size * instrument.lot_size * (PPM + _fee_ppm(instrument))
    return -(-exact // (UNIT * PPM))


def _amount(option: str, text: str) -> int:
    try:
        amount = to_units(text)
    except ValueError as error:
        raise ConfigError(f"risk-limits: {option}: {error}") from None
    if amount < 0:
        raise ConfigError(f"risk-limits: {option} must be at least 0, was {text!r}")
    return amount


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-limits",
            factory=Limits,
            options=LimitsOptions,
            publishes=(RiskVerdict,),
            summary="caps orders, positions and exposure, keeps cash back, sells only what is there",
        )
    ]
