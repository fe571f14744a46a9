"""
Target: turns what a policy wants to hold into orders.

A policy says a fraction and whether to wait for it or to take it (TargetPosition); this works towards it
until the policy says something else. It looks once each time that the policy speaks, and once more when
an order that it took back is gone, so how fast it follows a moving price is the policy's rate. A model,
a person and an environment for reinforcement learning all trade through it, and what they trade is the
position of the account: there is one target a market and account.

At fraction 1 it holds limit of the account's equity. Waiting is POST_ONLY at the best price of our
side, taking is IOC at the best of the other; what would change the position by less than band of the
limit, or by less than the exchange takes, is left alone. Spot is not sold short.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from tickerml.kernel import (
    UNIT,
    CancelOrder,
    Context,
    Instrument,
    Liquidity,
    Options,
    OrderBook,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderType,
    PortfolioSnapshot,
    Side,
    StrategySpec,
    SubmitOrder,
    TargetPosition,
    TimeInForce,
    TradingHalted,
    TradingResumed,
    hookimpl,
)

Key = tuple[str, str, str]  # account, exchange, symbol
Ended = OrderFilled | OrderDenied | OrderRejected | OrderCanceled | OrderExpired


class TargetOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a whole target is, and which differences are worth an order."""

    limit: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="share of the equity that is held at fraction 1")
    ] = 0.25
    band: Annotated[
        float,
        msgspec.Meta(ge=0, lt=1, description="differences below this share of the limit are left alone"),
    ] = 0.05


class _Order(msgspec.Struct, array_like=True):
    order_id: str
    side: Side
    price: int
    leaves: int
    is_canceling: bool = False


class _Desk(msgspec.Struct, array_like=True):
    wish: TargetPosition
    order: _Order | None = None


class _State(msgspec.Struct, array_like=True):
    desks: dict[Key, _Desk] = {}
    portfolios: dict[str, PortfolioSnapshot] = {}
    orders: int = 0  # sent so far
    is_halted: bool = False


class TargetStrategy:
    """Trades each market towards the last TargetPosition."""

    def __init__(self, ctx: Context, options: TargetOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._state = _State()

    # --- What is wanted -----------------------------------------------------------------------

    def on_target_position(self, wish: TargetPosition) -> None:
        key = (wish.account, wish.exchange, wish.symbol)
        if (desk := self._state.desks.get(key)) is None:
            desk = self._state.desks[key] = _Desk(wish)
        desk.wish = wish
        self._work(desk)

    def on_portfolio_snapshot(self, portfolio: PortfolioSnapshot) -> None:
        self._state.portfolios[portfolio.account] = portfolio

    def on_trading_halted(self, halted: TradingHalted) -> None:
        self._state.is_halted = True

    def on_trading_resumed(self, resumed: TradingResumed) -> None:
        self._state.is_halted = False

    # --- Working towards it -------------------------------------------------------------------

    def _work(self, desk: _Desk) -> None:
        wish = desk.wish
        book = self._ctx.book(wish.exchange, wish.symbol)
        instrument = self._ctx.instrument(wish.exchange, wish.symbol)
        portfolio = self._state.portfolios.get(wish.account)
        if instrument is None or portfolio is None or not book.is_trusted or self._state.is_halted:
            self._take_back(desk, "nothing can be said of the market or of our money, or trading is halted")
            return
        whole = self._whole(instrument, portfolio, book)
        held = _held(portfolio, wish)
        wanted = round(whole * min(1.0, max(-1.0 if instrument.contract else 0.0, wish.fraction)))
        lacking, slack = wanted - held, round(self._options.band * whole)
        side = Side.BUY if lacking > 0 else Side.SELL
        own, other = (book.best_bid, book.best_ask) if side is Side.BUY else (book.best_ask, book.best_bid)
        is_waiting = wish.liquidity is Liquidity.MAKER
        price = own if is_waiting else other
        if (order := desk.order) is not None:
            is_good = is_waiting and (order.side, order.price) == (side, price)
            if not is_good or order.leaves > abs(lacking) + slack:
                self._take_back(desk, f"{wish.fraction:g} is wanted as {wish.liquidity}, at {price}")
        elif abs(lacking) >= slack or not wanted:
            reduces = held * side < 0 and abs(lacking) <= abs(held)
            self._submit(desk, instrument, side, price, abs(lacking), reduces)

    def _whole(self, instrument: Instrument, portfolio: PortfolioSnapshot, book: OrderBook) -> int:
        """Return the lots of fraction 1, at the mid."""
        most = round(portfolio.equity * self._options.limit)
        whole = 2 * most * UNIT // (book.mid2 * instrument.tick_size * instrument.lot_size)
        return min(whole, instrument.max_quantity) if instrument.max_quantity else whole

    def _take_back(self, desk: _Desk, reason: str) -> None:
        if desk.order is not None and not desk.order.is_canceling:
            desk.order.is_canceling = True
            now, wish = self._ctx.clock.now(), desk.wish
            self._ctx.publish(CancelOrder(now, desk.order.order_id, wish.exchange, wish.symbol, reason))

    def _submit(
        self, desk: _Desk, instrument: Instrument, side: Side, price: int, quantity: int, reduces: bool
    ) -> None:
        if quantity < max(instrument.min_quantity, 1):
            return
        if instrument.notional(price, quantity) < instrument.min_notional:
            return
        wish, now = desk.wish, self._ctx.clock.now()
        order_id = f"{self._ctx.plugin}-{self._state.orders}"
        self._state.orders += 1
        desk.order = _Order(order_id, side, price, quantity)
        self._ctx.publish(
            SubmitOrder(
                now,
                order_id,
                self._ctx.plugin,
                wish.account,
                wish.exchange,
                wish.symbol,
                side,
                OrderType.LIMIT,
                TimeInForce.POST_ONLY if wish.liquidity is Liquidity.MAKER else TimeInForce.IOC,
                price,
                quantity,
                reduce_only=reduces,
                reason=wish.reason or f"a target of {wish.fraction:g}",
            )
        )

    # --- What became of our orders ------------------------------------------------------------

    def on_order_filled(self, fill: OrderFilled) -> None:
        if fill.leaves == 0:
            self._close(fill)
        elif desk := self._desk_of(fill):
            assert desk.order is not None
            desk.order.leaves = fill.leaves

    def on_order_denied(self, denied: OrderDenied) -> None:
        self._close(denied)

    def on_order_rejected(self, rejected: OrderRejected) -> None:
        self._close(rejected)

    def on_order_canceled(self, canceled: OrderCanceled) -> None:
        if desk := self._close(canceled):  # it has made way for what is wanted now
            self._work(desk)

    def on_order_expired(self, expired: OrderExpired) -> None:
        self._close(expired)

    def _close(self, event: Ended) -> _Desk | None:
        """Forget the order; returns its desk if we had taken it back."""
        if (desk := self._desk_of(event)) is None or desk.order is None:
            return None
        was_canceling, desk.order = desk.order.is_canceling, None
        return desk if was_canceling else None

    def _desk_of(self, event: Ended) -> _Desk | None:
        return next(
            (
                desk
                for desk in self._state.desks.values()
                if desk.order is not None and desk.order.order_id == event.order_id
            ),
            None,
        )

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=_State)


def _held(portfolio: PortfolioSnapshot, wish: TargetPosition) -> int:
    return sum(
        each.quantity
        for each in portfolio.positions
        if (each.exchange, each.symbol) == (wish.exchange, wish.symbol)
    )


@hookimpl
def tickerml_strategies() -> Iterable[StrategySpec]:
    return [
        StrategySpec(
            id="strategy-target",
            factory=TargetStrategy,
            options=TargetOptions,
            publishes=(SubmitOrder, CancelOrder),
            summary="turns what a policy wants to hold into orders",
        )
    ]
