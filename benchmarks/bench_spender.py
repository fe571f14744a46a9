"""A strategy that cannot but lose: it buys at the market and sells what it got, and pays for both."""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    Context,
    Instrument,
    Options,
    OrderFilled,
    OrderType,
    Side,
    StrategySpec,
    SubmitOrder,
    TimeInForce,
    Timer,
    hookimpl,
    to_units,
)


class SpenderOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast it spends."""

    notional: Annotated[str, msgspec.Meta(description="size of a purchase, in the quote asset")] = "2000"
    every_s: Annotated[int, msgspec.Meta(ge=1, le=3600, description="between two orders in a symbol, s")] = 3


class Spender:
    """Buys and sells in turn, in every symbol there is."""

    def __init__(self, ctx: Context, options: SpenderOptions) -> None:
        self._ctx = ctx
        self._notional = to_units(options.notional)
        self._every_ns = options.every_s * NS_PER_S
        self._held: dict[str, int] = {}  # lots, by "exchange symbol"
        self._orders = 0

    def on_instrument(self, instrument: Instrument) -> None:
        key = f"{instrument.exchange} {instrument.symbol}"
        if key not in self._held and not instrument.contract:
            self._held[key] = 0
            self._ctx.set_timer(self._ctx.clock.now() + self._every_ns, key)

    def on_timer(self, timer: Timer) -> None:
        self._ctx.set_timer(timer.ts + self._every_ns, timer.key)
        exchange, symbol = timer.key.split(" ")
        instrument, book = self._ctx.instrument(exchange, symbol), self._ctx.book(exchange, symbol)
        if instrument is None or not book.is_trusted:
            return
        held = self._held[timer.key]
        lots = held or self._notional // instrument.notional(book.best_ask, 1)
        side = Side.SELL if held else Side.BUY
        self._orders += 1
        name, now = self._ctx.plugin, self._ctx.clock.now()
        head = (now, f"{name}-{self._orders}", name, "paper", exchange, symbol)
        self._ctx.publish(SubmitOrder(*head, side, OrderType.MARKET, TimeInForce.IOC, 0, lots))

    def on_order_filled(self, fill: OrderFilled) -> None:
        if fill.strategy == self._ctx.plugin:
            self._held[f"{fill.exchange} {fill.symbol}"] += fill.side * fill.quantity

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode((self._held, self._orders))

    def restore(self, state: bytes) -> None:
        self._held, self._orders = msgspec.msgpack.decode(state)


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    return [
        StrategySpec(id="strategy-spender", factory=Spender, options=SpenderOptions, publishes=(SubmitOrder,))
    ]
