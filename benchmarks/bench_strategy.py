"""
A strategy for benchmarks: it answers some trades with an order that carries the trade's stamp.

It sees OrderSubmitted when the simulator does, and says in its next order's reason how
many ns had passed since the trade was made. So it alone reads a real clock in a handler.
"""

import time
from typing import Annotated

import msgspec

from tickerml.kernel import (
    Options,
    OrderSubmitted,
    OrderType,
    Side,
    StrategySpec,
    SubmitOrder,
    TimeInForce,
    Trade,
    hookimpl,
)
from tickerml.kernel.hookspecs import Context


class AnswerOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the strategy."""

    every: Annotated[int, msgspec.Meta(ge=1, description="answer each of this many trades")] = 10


class Answers:
    """Orders on every so-manieth trade; the order's id carries the trade's stamp."""

    def __init__(self, ctx: Context, options: AnswerOptions) -> None:
        self._ctx = ctx
        self._every = options.every
        self._last = ""

    def on_trade(self, trade: Trade) -> None:
        if trade.seq % self._every == 0:
            self._ctx.publish(
                SubmitOrder(
                    self._ctx.clock.now(),
                    f"{trade.seq}-{trade.ts_event}",
                    "strategy-bench",
                    "paper",
                    trade.exchange,
                    trade.symbol,
                    Side.BUY,
                    OrderType.LIMIT,
                    TimeInForce.IOC,
                    trade.price - 1000,  # below the book: it is let through, travels, and expires
                    20_000,
                    reason=self._last,
                )
            )

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        if order.exchange == "bench":
            self._last = str(time.monotonic_ns() - int(order.order_id.partition("-")[2]))

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    return [
        StrategySpec(id="strategy-bench", factory=Answers, options=AnswerOptions, publishes=(SubmitOrder,))
    ]
