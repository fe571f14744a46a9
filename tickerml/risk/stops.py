"""
Stops: get out of a position that has lost enough, gained enough, or lasted long enough.

A position is what an account holds of a symbol; its entry is its cost over its quantity. Prices
are those it could be sold at, the best bid (for a short the best ask), and gains are fractions of
the entry. It is left

- fixed: when it has lost the stop distance, the larger of `fixed` and volatility_multiple times
  the volatility of an hour, but never more than max_fixed;
- trailing: when it has given back `trailing` of its best price, once it has gained that much;
- take: a part of it, take_part, when it has gained take_profit, and the rest at twice that;
- time: when it is max_hold_h old.

What rests in the symbol is canceled first, for it may hold what is to be sold. The exit is an IOC
order that says reduce_only, at most 1 % behind the best price, in this rule's own name; what it
leaves is tried again after a second, later where it was denied (5 s) or rejected (a minute). A
book that cannot be trusted stops nothing: a price that is not one would be a gift; nor is
anything tried while trading is halted at level 2 or 3, where the gate cancels or sells by itself.
It has nothing to say about the orders of others, and allows them.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    PPM,
    BookDelta,
    BookSnapshot,
    CancelOrder,
    ConfigError,
    Context,
    HaltLevel,
    Options,
    OrderBook,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    PortfolioSnapshot,
    Position,
    RiskRuleSpec,
    RiskVerdict,
    Side,
    SubmitOrder,
    TimeInForce,
    Timer,
    TradingHalted,
    TradingResumed,
    hookimpl,
)

from .rule import Rule, exact
from .sampling import MINUTE_NS, Mids, Watching
from .variance import Variance

PROTECTION_PPM = 10_000
RETRY_NS = NS_PER_S
DENIED_RETRY_NS = 5 * NS_PER_S
MINUTES_AN_HOUR = 60
Place = tuple[str, str]  # exchange, symbol
Key = tuple[str, str, str]  # account, exchange, symbol


class StopsOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to get out; fractions of the entry, 0 for never."""

    fixed: Annotated[float, msgspec.Meta(ge=0, le=0.5, description="the loss that ends a position")] = 0.02
    max_fixed: Annotated[
        float, msgspec.Meta(gt=0, le=0.5, description="the largest stop distance, however volatile")
    ] = 0.05
    volatility_multiple: Annotated[
        float, msgspec.Meta(ge=0, le=20, description="widens the fixed stop: times the volatility of an hour")
    ] = 1.5
    trailing: Annotated[
        float, msgspec.Meta(ge=0, le=0.5, description="what may be given back of the best price")
    ] = 0.015
    take_profit: Annotated[float, msgspec.Meta(ge=0, le=10, description="the gain that is taken")] = 0.03
    take_part: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="how much of the position is taken first")
    ] = 0.5
    max_hold_h: Annotated[
        float, msgspec.Meta(ge=0, le=8760, description="how old a position may become, h")
    ] = 24.0


class _Held(msgspec.Struct, array_like=True):
    lots: int  # negative where short
    entry: int  # ticks
    since: int  # ns UTC
    best: int  # the best price it could have been left at, ticks
    has_taken: bool = False
    exit_id: str = ""  # the order that is to leave it
    retry_at: int = 0


class _State(msgspec.Struct, array_like=True):
    held: dict[Key, _Held] = {}
    open: dict[str, Key] = {}  # orders of others
    exits: int = 0
    level: int = HaltLevel.RUN
    watch: Watching = msgspec.field(default_factory=Watching)
    mids: Mids = msgspec.field(default_factory=Mids)
    variances: dict[str, Variance] = {}


class Stops(Rule[StopsOptions, _State]):
    """Publishes an exit for each position that has reached its stop."""

    STATE = _State

    def __init__(self, ctx: Context, options: StopsOptions) -> None:
        """Raises: ConfigError: the fixed stop is further away than the largest there may be."""
        super().__init__(ctx, options)
        if options.fixed > options.max_fixed:
            raise ConfigError(
                f"risk-stops: fixed must be at most max_fixed {options.max_fixed}, was {options.fixed}"
            )
        self._places: dict[Place, list[Key]] = {}  # of what is held: not of the state, made from it

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        return order.quantity, ""

    # --- Positions ----------------------------------------------------------------------------

    def on_portfolio_snapshot(self, snapshot: PortfolioSnapshot) -> None:
        account, held = snapshot.account, self._state.held
        there = {(account, p.exchange, p.symbol): p for p in snapshot.positions if p.quantity}
        for key in [key for key in held if key[0] == account and key not in there]:
            del held[key]
        for key, position in there.items():
            self._hold(key, position, snapshot.ts_recv)
        self._index()

    def _hold(self, key: Key, position: Position, now: int) -> None:
        instrument = self._ctx.instrument(position.exchange, position.symbol)
        if instrument is None:
            return
        per_tick = instrument.notional(1, abs(position.quantity))
        entry = abs(position.cost) // per_tick if per_tick else 0
        known = self._state.held.get(key)
        if known is None or (known.lots > 0) != (position.quantity > 0):
            self._state.held[key] = _Held(position.quantity, entry, now, entry)
        else:
            known.lots, known.entry = position.quantity, entry

    def _index(self) -> None:
        self._places = {}
        for key in self._state.held:
            self._places.setdefault((key[1], key[2]), []).append(key)

    # --- Looking ------------------------------------------------------------------------------

    def on_book_delta(self, delta: BookDelta) -> None:
        self._look((delta.exchange, delta.symbol))

    def on_book_snapshot(self, book: BookSnapshot) -> None:
        self._state.watch.learn(self._ctx, book, NS_PER_S)
        self._look((book.exchange, book.symbol))

    def on_timer(self, timer: Timer) -> None:
        state = self._state
        state.watch.arm(self._ctx, timer.ts, NS_PER_S)
        if timer.ts % MINUTE_NS == 0:
            for base, change in state.mids.returns(self._ctx, state.watch.books, timer.ts).items():
                state.variances.setdefault(base, Variance()).add(change)
        for place in self._places:
            self._look(place)

    def _look(self, place: Place) -> None:
        for key in self._places.get(place, ()):
            held, book = self._state.held[key], self._ctx.book(*place)
            is_stuck = self._state.level >= HaltLevel.CANCEL or not book.is_trusted
            if is_stuck or held.exit_id or not held.entry:
                continue
            price, sign = (book.best_bid, 1) if held.lots > 0 else (book.best_ask, -1)
            if sign * (price - held.best) > 0:
                held.best = price
            now = self._ctx.clock.now()
            if now >= held.retry_at and (found := self._reason(key, held, price, sign, now)):
                part, reason = found
                self._leave(key, held, book, part, reason)

    def _reason(self, key: Key, held: _Held, price: int, sign: int, now: int) -> tuple[int, str] | None:
        """Return how many lots to leave and why; None to stay."""
        options, everything = self._options, abs(held.lots)
        gain = sign * (price - held.entry)  # in ticks, as are the limits it is compared with
        distance = self._distance(key[2])
        if options.fixed and gain <= -distance * held.entry:
            return everything, f"fixed: lost {-gain / held.entry:.2%}, the stop is {distance:.2%}"
        best = sign * (held.best - held.entry)
        back = sign * (held.best - price)
        trailing = exact(options.trailing)
        if trailing and best >= trailing * held.entry and back >= trailing * held.best:
            return everything, f"trailing: gave back {back / held.best:.2%} of the best price"
        if options.max_hold_h and now - held.since >= options.max_hold_h * 3600 * NS_PER_S:
            return everything, f"time: held for {options.max_hold_h:g} h"
        take = exact(options.take_profit)
        if take and gain >= 2 * take * held.entry:
            return everything, f"take: gained {gain / held.entry:.2%}"
        if take and not held.has_taken and gain >= take * held.entry:
            return max(1, int(everything * exact(options.take_part))), f"take: gained {gain / held.entry:.2%}"
        return None

    def _distance(self, symbol: str) -> float:
        options = self._options
        variance = self._state.variances.get(symbol.partition("/")[0], Variance())
        wide = options.volatility_multiple * variance.sigma(MINUTES_AN_HOUR)
        return min(options.max_fixed, max(options.fixed, wide))

    # --- Leaving ------------------------------------------------------------------------------

    def _leave(self, key: Key, held: _Held, book: OrderBook, lots: int, reason: str) -> None:
        now, state, ctx = self._ctx.clock.now(), self._state, self._ctx
        held.retry_at = now + RETRY_NS
        resting = [order_id for order_id, place in state.open.items() if place == key]
        for order_id in resting:
            ctx.publish(CancelOrder(now, order_id, key[1], key[2], f"stop: {reason}"))
        if resting:
            return  # their end lets go of what they hold
        side = Side.SELL if held.lots > 0 else Side.BUY
        held.exit_id = f"{ctx.plugin}-{state.exits}"
        state.exits += 1
        head = (now, held.exit_id, ctx.plugin, *key, side, OrderType.LIMIT, TimeInForce.IOC)
        ctx.publish(SubmitOrder(*head, _protected(book, side), lots, True, reason))

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        if order.strategy != self._ctx.plugin:
            self._state.open[order.order_id] = (order.account, order.exchange, order.symbol)

    def on_order_filled(self, fill: OrderFilled) -> None:
        held = self._state.held.get((fill.account, fill.exchange, fill.symbol))
        if held is not None and held.exit_id == fill.order_id:
            held.has_taken = True
        if fill.leaves == 0:
            self._end(fill.order_id)

    def on_order_denied(self, event: OrderDenied) -> None:
        self._end(event.order_id, DENIED_RETRY_NS)

    def on_order_rejected(self, event: OrderRejected) -> None:
        self._end(event.order_id, MINUTE_NS)

    def on_order_canceled(self, event: OrderCanceled) -> None:
        self._end(event.order_id)

    def on_order_expired(self, event: OrderExpired) -> None:
        self._end(event.order_id)

    def on_trading_halted(self, halted: TradingHalted) -> None:
        self._state.level = halted.level

    def on_trading_resumed(self, resumed: TradingResumed) -> None:
        self._state.level = HaltLevel.RUN

    def _end(self, order_id: str, wait_ns: int = RETRY_NS) -> None:
        self._state.open.pop(order_id, None)
        for held in self._state.held.values():
            if held.exit_id == order_id:
                held.exit_id, held.retry_at = "", self._ctx.clock.now() + wait_ns

    def restore(self, state: bytes) -> None:
        super().restore(state)
        self._index()


def _protected(book: OrderBook, side: Side) -> int:
    if side is Side.SELL:
        return -(-book.best_bid * (PPM - PROTECTION_PPM) // PPM)
    return book.best_ask * (PPM + PROTECTION_PPM) // PPM


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-stops",
            factory=Stops,
            options=StopsOptions,
            publishes=(RiskVerdict, SubmitOrder, CancelOrder),
            summary="leaves positions that lost, gained or lasted enough: fixed, trailing, take, time",
        )
    ]
