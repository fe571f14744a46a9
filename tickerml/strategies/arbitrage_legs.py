"""
Two orders that belong together: a purchase and a sale of one asset, on two markets, at once.

Both go out as IOC limits in the same instant: the purchase first, and the sale as soon as the rules
have said how much of that they leave, so that a rule which reduces one leg reduces both. Either may
then take less than all. What one side lacks is leg risk, and is dealt with in this order:

    sent       the legs are on their way
    waiting    both are answered, and unequal by a lot or more: for ack_wait_ms after the last answer
    repairing  a second IOC on the side that lacks, at the price where the whole comes to nothing; left
               out where the book as we know it is worse than that
    unwinding  the rest goes back where it came from, within protection_bps of the best, again and
               again until it is gone or unwind_s are over

While trading is halted nothing can be sent: what was on its way is counted, and the rest waits for a
person to resume, and is then unwound. What all of it came to is a LegsSettled, in which the money of
what both sides took at once is apart from that of making up for the rest.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    PPM,
    UNIT,
    Context,
    Instrument,
    LegsSettled,
    Options,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    Side,
    SubmitOrder,
    TimeInForce,
    Timer,
    TradingHalted,
    TradingResumed,
)

RETRY_NS = 250 * NS_PER_MS  # between two tries to unwind

Ended = OrderDenied | OrderRejected | OrderCanceled | OrderExpired


class LegOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For whom two legs are traded, and what is done when one of them lacks."""

    account: Annotated[str, msgspec.Meta(min_length=1, description="the account that orders are for")] = (
        "paper"
    )
    order_prefix: Annotated[
        str,
        msgspec.Meta(
            max_length=64, description="what the ids of orders begin with; empty for the plugin's own id"
        ),
    ] = ""
    ack_wait_ms: Annotated[
        int,
        msgspec.Meta(ge=0, le=10_000, description="how long after both answers unequal legs may wait, ms"),
    ] = 50
    unwind_s: Annotated[
        float, msgspec.Meta(gt=0, le=600, description="how long the rest is tried to be unwound, s")
    ] = 2.0
    protection_bps: Annotated[
        int, msgspec.Meta(ge=0, le=5_000, description="how far from the best price an unwinding may go, bps")
    ] = 100


class Leg(msgspec.Struct, frozen=True, array_like=True):
    """One side of a pair: where, the worst price in ticks, and how many lots."""

    exchange: str
    symbol: str
    price: int
    quantity: int


class _Sum(msgspec.Struct, array_like=True):
    # What was bought or sold, in units of 1e-12 of the base, and for how much of the quote, fees included.
    quantity: int = 0
    money: int = 0


class _Pair(msgspec.Struct, array_like=True):
    name: str
    base: str
    quote: str
    legs: tuple[Leg, Leg]  # the purchase and the sale
    expected: int
    started_ts: int
    first: tuple[_Sum, _Sum]  # of the two legs themselves
    total: tuple[_Sum, _Sum]
    phase: str = "sent"
    orders: dict[str, str] = {}  # those under way: id -> the phase they were sent in
    reason: str = ""
    is_closing: bool = False
    is_sale_due: bool = True  # it waits for what the rules say of the purchase
    done: list[str] = []  # phases in which something was filled
    fees: int = 0
    deadline: int = 0

    @property
    def excess(self) -> int:
        return self.total[0].quantity - self.total[1].quantity

    @property
    def cash(self) -> int:
        return self.total[1].money - self.total[0].money


class LegsState(msgspec.Struct, array_like=True):
    """Everything a LegTrader remembers."""

    pairs: list[_Pair]
    orders: int
    is_halted: bool


class LegTrader:
    """Trades pairs of legs for a strategy, which passes on what becomes of orders."""

    def __init__(self, ctx: Context, options: LegOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._prefix = options.order_prefix or ctx.plugin
        self._pairs: dict[str, _Pair] = {}
        self._orders = 0
        self.is_halted = False

    def is_busy(self, *markets: tuple[str, str]) -> bool:
        """Whether a pair that is not settled trades on one of these (exchange, symbol)."""
        return any(
            (leg.exchange, leg.symbol) in markets for pair in self._pairs.values() for leg in pair.legs
        )

    def trade(
        self, name: str, buy: Leg, sell: Leg, expected: int, reason: str, *, is_closing: bool = False
    ) -> None:
        """
        Send the purchase, and the sale behind it.

        Args:
            name: of the pair, in LegsSettled; once only.
            expected: what it should come to, in units of the quote.
            is_closing: both legs only take back what is held.
        """
        now = self._ctx.clock.now()
        there = self._instrument(buy)
        pair = _Pair(
            name, there.base, there.quote, (buy, sell), expected, now, (_Sum(), _Sum()), (_Sum(), _Sum())
        )
        pair.reason, pair.is_closing = reason, is_closing
        self._pairs[name] = pair
        self._send(pair, buy, Side.BUY, reason)

    # --- What became of our orders --------------------------------------------------------------

    def take_submitted(self, order: OrderSubmitted) -> None:
        """Send the sale behind its purchase, of as much as the rules left of that."""
        pair = self._pair_of(order.order_id)
        if pair is None or not pair.is_sale_due:
            return
        pair.is_sale_due = False
        buy, sell = pair.legs
        lots = order.quantity * self._instrument(buy).lot_size // self._instrument(sell).lot_size
        if lots := min(lots, sell.quantity):
            leg = Leg(sell.exchange, sell.symbol, sell.price, lots)
            self._send(pair, leg, Side.SELL, pair.reason)

    def take_filled(self, fill: OrderFilled) -> None:
        """Count *fill* where it is of one of our orders."""
        if (pair := self._pair_of(fill.order_id)) is None:
            return
        phase, side = pair.orders[fill.order_id], 0 if fill.side is Side.BUY else 1
        quantity, money, fee = self._counted(fill)
        for each in (pair.total[side], *([pair.first[side]] if phase == "sent" else [])):
            each.quantity += quantity
            each.money += money
        pair.fees += fee
        if phase not in pair.done:
            pair.done.append(phase)
        if not fill.leaves:
            self._close(pair, fill.order_id)

    def take_ended(self, event: Ended) -> None:
        """Take in that an order of ours is over, unfilled or in part."""
        if (pair := self._pair_of(event.order_id)) is not None:
            self._close(pair, event.order_id)

    def halt(self) -> None:
        """Send nothing more."""
        self.is_halted = True

    def resume(self) -> None:
        """Go on: what could not be made up for is unwound."""
        self.is_halted = False
        for pair in list(self._pairs.values()):
            if pair.phase == "halted":
                self._set_deadline(pair)
                self._unwind(pair)

    def wake(self, key: str) -> None:
        """Go on with the pair that a timer of ours was set for."""
        pair = self._pairs.get(key)
        if pair is None or pair.orders:
            return
        if pair.phase == "waiting":
            self._repair(pair)
        elif pair.phase == "unwinding":
            self._unwind(pair)

    def name_of(self, order_id: str) -> str:
        """Return the pair that an order under way is of; "" where it is none of ours."""
        pair = self._pair_of(order_id)
        return pair.name if pair else ""

    def quantity_of(self, fill: OrderFilled) -> int:
        """Return what changed hands, in units of 1e-12 of the base, after a fee taken from it."""
        return self._counted(fill)[0]

    def _pair_of(self, order_id: str) -> _Pair | None:
        return next((pair for pair in self._pairs.values() if order_id in pair.orders), None)

    def _counted(self, fill: OrderFilled) -> tuple[int, int, int]:
        # Units of base and of quote that changed hands, and the fee in units of the quote.
        instrument = self._instrument(fill)
        quantity, sign = fill.quantity * instrument.lot_size, int(fill.side)
        exact = fill.price * instrument.tick_size * quantity
        money = sign * -(-sign * exact // UNIT)  # rounded against us
        if fill.fee_asset == instrument.quote:
            return quantity, money + sign * fill.fee, fill.fee
        if fill.fee_asset == instrument.base:
            worth = fill.fee * fill.price * instrument.tick_size // UNIT
            return quantity - sign * fill.fee, money, worth
        return quantity, money, 0

    def _close(self, pair: _Pair, order_id: str) -> None:
        phase = pair.orders.pop(order_id)
        if pair.orders:
            return
        if not self._lacking(pair):
            self._settle(pair, is_whole=True)
        elif self.is_halted:
            pair.phase = "halted"
        elif phase == "sent":
            pair.phase = "waiting"
            self._set_deadline(pair)
            self._set_timer(pair, self._options.ack_wait_ms * NS_PER_MS)
        elif phase == "repairing":
            self._unwind(pair)
        else:
            self._set_timer(pair, RETRY_NS)

    # --- Making up for a leg that lacks ---------------------------------------------------------

    def _repair(self, pair: _Pair) -> None:
        if self.is_halted:
            pair.phase = "halted"
            return
        lacking = pair.legs[1 if pair.excess > 0 else 0]
        side = Side.SELL if pair.excess > 0 else Side.BUY
        price = self._break_even(pair, lacking, side)
        book = self._ctx.book(lacking.exchange, lacking.symbol)
        best = book.best_bid if side is Side.SELL else book.best_ask
        lots = abs(pair.excess) // self._instrument(lacking).lot_size
        if not book.is_trusted or price <= 0 or side * (price - best) < 0 or not lots:
            self._unwind(pair)
            return
        pair.phase = "repairing"
        self._send(pair, Leg(lacking.exchange, lacking.symbol, price, lots), side, "the other leg took more")

    def _break_even(self, pair: _Pair, leg: Leg, side: Side) -> int:
        # The price in ticks at which the excess leaves the whole pair with nothing.
        instrument = self._instrument(leg)
        a_tick = abs(pair.excess) * instrument.tick_size * (PPM + side * instrument.taker_fee_ppm)
        money = side * pair.cash * UNIT * PPM
        worst = self._protected(leg, side)
        return max(worst, -(-money // a_tick)) if side is Side.SELL else min(worst, money // a_tick)

    def _unwind(self, pair: _Pair) -> None:
        now = self._ctx.clock.now()
        if self.is_halted:
            pair.phase = "halted"
            return
        if now >= pair.deadline:
            self._settle(pair, is_whole=False)
            return
        pair.phase = "unwinding"
        there = pair.legs[0 if pair.excess > 0 else 1]
        side = Side.SELL if pair.excess > 0 else Side.BUY
        lots = abs(pair.excess) // self._instrument(there).lot_size
        if not self._ctx.book(there.exchange, there.symbol).is_trusted or not lots:
            self._set_timer(pair, RETRY_NS)
            return
        leg = Leg(there.exchange, there.symbol, self._protected(there, side), lots)
        self._send(pair, leg, side, "the other leg lacked")

    def _protected(self, leg: Leg, side: Side) -> int:
        book = self._ctx.book(leg.exchange, leg.symbol)
        best = book.best_bid if side is Side.SELL else book.best_ask
        return best + side * (best * self._options.protection_bps // 10_000)

    def _lacking(self, pair: _Pair) -> bool:
        # Whether either exchange would take what one side has more than the other.
        return any(self._is_tradable(leg, abs(pair.excess)) for leg in pair.legs)

    def _is_tradable(self, leg: Leg, quantity: int) -> bool:
        instrument = self._instrument(leg)
        lots = quantity // instrument.lot_size
        price = leg.price or 1
        return (
            lots >= max(1, instrument.min_quantity)
            and instrument.notional(price, lots) >= instrument.min_notional
        )

    # --- Orders, timers and the end -------------------------------------------------------------

    def _instrument(self, where: Leg | OrderFilled) -> Instrument:
        instrument = self._ctx.instrument(where.exchange, where.symbol)
        if instrument is None:
            raise ValueError(f"no instrument is known of {where.symbol} on {where.exchange}")
        return instrument

    def _send(self, pair: _Pair, leg: Leg, side: Side, reason: str) -> None:
        now = self._ctx.clock.now()
        order_id = f"{self._prefix}-{self._orders}"
        self._orders += 1
        pair.orders[order_id] = pair.phase
        self._ctx.publish(
            SubmitOrder(
                now,
                order_id,
                self._ctx.plugin,
                self._options.account,
                leg.exchange,
                leg.symbol,
                side,
                OrderType.LIMIT,
                TimeInForce.IOC,
                leg.price,
                leg.quantity,
                reduce_only=self._is_reducing(pair, leg, side),
                reason=f"{pair.name} {pair.phase}: {reason}",
            )
        )

    def _is_reducing(self, pair: _Pair, leg: Leg, side: Side) -> bool:
        # A leg that opens something is judged as any order; what takes back what is held only reduces.
        if pair.is_closing or pair.phase != "unwinding":
            return pair.is_closing and pair.phase != "unwinding"
        return side is Side.SELL or bool(self._instrument(leg).contract)

    def _set_timer(self, pair: _Pair, delay_ns: int) -> None:
        self._ctx.set_timer(self._ctx.clock.now() + delay_ns, pair.name)

    def _set_deadline(self, pair: _Pair) -> None:
        pair.deadline = self._ctx.clock.now() + round(self._options.unwind_s * NS_PER_S)

    def _settle(self, pair: _Pair, is_whole: bool) -> None:
        del self._pairs[pair.name]
        left_cost = _cost_of(pair)
        legs = _matched(*pair.first)
        self._ctx.publish(
            LegsSettled(
                self._ctx.clock.now(),
                pair.name,
                self._ctx.plugin,
                self._options.account,
                pair.base,
                pair.quote,
                pair.started_ts,
                pair.total[0].quantity,
                pair.total[1].quantity,
                pair.expected,
                legs,
                pair.cash + left_cost - legs,
                pair.fees,
                pair.excess,
                left_cost,
                _outcome(pair) if is_whole else "left",
            )
        )

    # --- State ----------------------------------------------------------------------------------

    def state(self) -> LegsState:
        """Return the pairs that are not settled, and the number of orders so far."""
        return LegsState(list(self._pairs.values()), self._orders, self.is_halted)

    def restore(self, state: LegsState) -> None:
        """Take what state() returned."""
        self._pairs = {pair.name: pair for pair in state.pairs}
        self._orders, self.is_halted = state.orders, state.is_halted


def _matched(bought: _Sum, sold: _Sum) -> int:
    # What the quantity that both legs traded came to, at their mean prices, rounded against us.
    both = min(bought.quantity, sold.quantity)
    if not both:
        return 0
    return sold.money * both // sold.quantity - -(-bought.money * both // bought.quantity)


def _cost_of(pair: _Pair) -> int:
    # What the excess cost or brought, at the mean of its side.
    bought, sold = pair.total
    if pair.excess > 0:
        return bought.money * pair.excess // bought.quantity
    return -(-sold.money * pair.excess // sold.quantity) if pair.excess < 0 else 0


def _outcome(pair: _Pair) -> str:
    if "unwinding" in pair.done:
        return "unwound"
    if "repairing" in pair.done:
        return "repaired"
    return "both" if pair.done else "none"


class LegHandlers:
    """Tells the LegTrader of a strategy, `_legs`, what becomes of its orders."""

    _legs: LegTrader

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        self._legs.take_submitted(order)

    def on_order_filled(self, fill: OrderFilled) -> None:
        self._legs.take_filled(fill)

    def on_order_denied(self, denied: OrderDenied) -> None:
        self._legs.take_ended(denied)

    def on_order_rejected(self, rejected: OrderRejected) -> None:
        self._legs.take_ended(rejected)

    def on_order_canceled(self, canceled: OrderCanceled) -> None:
        self._legs.take_ended(canceled)

    def on_order_expired(self, expired: OrderExpired) -> None:
        self._legs.take_ended(expired)

    def on_trading_halted(self, halted: TradingHalted) -> None:
        self._legs.halt()

    def on_trading_resumed(self, resumed: TradingResumed) -> None:
        self._legs.resume()

    def on_timer(self, timer: Timer) -> None:
        self._legs.wake(timer.key)
