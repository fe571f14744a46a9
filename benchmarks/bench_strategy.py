"""A strategy for benchmarks: it answers some trades with an order that carries the trade's stamp."""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    Options,
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
                )
            )

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    return [
        StrategySpec(id="strategy-bench", factory=Answers, options=AnswerOptions, publishes=(SubmitOrder,))
    ]
