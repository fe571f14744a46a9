"""A trader who tosses coins: orders of every type and size, some of which a rule should refuse."""

from collections.abc import Iterable

import msgspec

from tickerml.kernel import (
    BookDelta,
    CancelOrder,
    Context,
    Options,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderType,
    Side,
    StrategySpec,
    SubmitOrder,
    TimeInForce,
    hookimpl,
)

MAX_OPEN = 4
_FORMS = (
    (OrderType.LIMIT, TimeInForce.GTC),
    (OrderType.LIMIT, TimeInForce.IOC),
    (OrderType.LIMIT, TimeInForce.FOK),
    (OrderType.LIMIT, TimeInForce.POST_ONLY),
    (OrderType.MARKET, TimeInForce.IOC),
)


class _State(msgspec.Struct):
    seen: int = 0
    orders: int = 0
    open: dict[str, tuple[str, str, Side]] = {}
    held: dict[str, int] = {}  # lots by symbol


class CoinTosser:
    """Sells no more than it holds; beyond that, chance decides."""

    def __init__(self, ctx: Context, options: Options) -> None:
        self._ctx = ctx
        self._state = _State()

    def on_book_delta(self, delta: BookDelta) -> None:
        """Toss the coins."""
        state = self._state
        state.seen += 1
        toss = self._ctx.uniform("what", state.seen)
        if toss < 0.15 and len(state.open) < MAX_OPEN:
            self._submit(delta.exchange, delta.symbol)
        elif toss > 0.9 and state.open:
            order_id, (exchange, symbol, _) = next(iter(state.open.items()))
            self._ctx.publish(CancelOrder(self._ctx.clock.now(), order_id, exchange, symbol, "heads"))

    def _submit(self, exchange: str, symbol: str) -> None:
        state, book = self._state, self._ctx.book(exchange, symbol)
        if not book.is_trusted:
            return
        number = state.orders
        state.orders += 1
        kind, duration = _FORMS[int(self._ctx.uniform("form", number) * len(_FORMS))]
        selling = {side for _, of, side in state.open.values() if of == symbol} | {Side.BUY}
        held = state.held.get(symbol, 0)
        can_sell = held > 0 and Side.SELL not in selling
        side = Side.SELL if can_sell and self._ctx.uniform("side", number) < 0.5 else Side.BUY
        if side is Side.SELL:
            quantity = 1 + int(self._ctx.uniform("size", number) * (held - 1))
        else:
            quantity = int(10 ** (2 + 4 * self._ctx.uniform("size", number)))
        away = int(self._ctx.uniform("price", number) * 5) - 2
        price = (book.best_bid if side is Side.BUY else book.best_ask) + side * away
        order_id = f"{self._ctx.plugin}-{number}"
        state.open[order_id] = (exchange, symbol, side)
        self._ctx.publish(
            SubmitOrder(
                self._ctx.clock.now(),
                order_id,
                self._ctx.plugin,
                "paper",
                exchange,
                symbol,
                side,
                kind,
                duration,
                0 if kind is OrderType.MARKET else price,
                quantity,
                reduce_only=side is Side.SELL,
                reason="tails",
            )
        )

    def on_order_filled(self, fill: OrderFilled) -> None:
        """Keep the inventory."""
        if fill.order_id in self._state.open:
            self._state.held[fill.symbol] = self._state.held.get(fill.symbol, 0) + fill.side * fill.quantity
            if not fill.leaves:
                del self._state.open[fill.order_id]

    def on_order_denied(self, event: OrderDenied) -> None:
        """Forget it."""
        self._state.open.pop(event.order_id, None)

    def on_order_rejected(self, event: OrderRejected) -> None:
        """Forget it."""
        self._state.open.pop(event.order_id, None)

    def on_order_canceled(self, event: OrderCanceled) -> None:
        """Forget it."""
        self._state.open.pop(event.order_id, None)

    def on_order_expired(self, event: OrderExpired) -> None:
        """Forget it."""
        self._state.open.pop(event.order_id, None)

    def snapshot(self) -> bytes:
        """Return everything."""
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        """Take everything back."""
        self._state = msgspec.msgpack.decode(state, type=_State)


@hookimpl
def tickerml_strategies() -> Iterable[StrategySpec]:
    """Offer the trader."""
    return [
        StrategySpec(
            id="kit-strategy",
            factory=CoinTosser,
            publishes=(SubmitOrder, CancelOrder),
            summary="tosses coins",
        )
    ]
