"""A strategy that hears of no halt: once a second it buys at once, and bids far below the market."""

from typing import Any

from tickerml.kernel import (
    UNIT,
    OrderType,
    Side,
    StrategySpec,
    SubmitOrder,
    TimeInForce,
    TimeTick,
    hookimpl,
    to_units,
)

NOTIONAL = to_units("40")
PLACE = ("aurora", "BTC/USDT")


class OrdersOn:
    def __init__(self, ctx: Any, options: object) -> None:
        self._ctx = ctx

    def on_time_tick(self, tick: TimeTick) -> None:
        instrument, book = self._ctx.instrument(*PLACE), self._ctx.book(*PLACE)
        if instrument is None or not book.is_trusted:
            return
        lots = NOTIONAL * UNIT // (book.best_bid * instrument.tick_size * instrument.lot_size)
        self._buy(f"take-{tick.ts_recv}", TimeInForce.IOC, book.best_ask, lots)
        self._buy(f"rest-{tick.ts_recv}", TimeInForce.POST_ONLY, book.best_bid * 99 // 100, lots)

    def _buy(self, order_id: str, terms: TimeInForce, price: int, lots: int) -> None:
        head = (self._ctx.clock.now(), order_id, self._ctx.plugin, "paper", *PLACE, Side.BUY)
        self._ctx.publish(SubmitOrder(*head, OrderType.LIMIT, terms, price, lots))

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    return [StrategySpec(id="strategy-broken", factory=OrdersOn, publishes=(SubmitOrder,))]
