"""Plugins that are each wrong in one way: a good strategy with one thing changed, as a single file."""

from pathlib import Path

MANIFEST = """\
# /// tickerml-plugin
# format = 1
# [plugin.strategy-odd]
# kinds = ["strategy"]
# api = ">=1.0,<2"
# summary = "buys now and then"
# publishes = ["SubmitOrder"]
# subscribes = ["BookDelta"]
# {more}
# ///
"""
GOOD = """
import itertools, math, os, random, socket, sys, threading, time
import msgspec
from tickerml.kernel import (
    CancelOrder, Options, OrderType, RiskVerdict, Side, StrategySpec, SubmitOrder, TimeInForce, hookimpl,
)

{at_import}

class Odd:
    def __init__(self, ctx, options):
        self.ctx, self.seen = ctx, 0
        {at_build}

    def on_book_delta(self, delta):
        self.seen += 1
        {in_handler}
        if self.seen % 10 == 0:
            self.ctx.publish(self.order(delta))

    def order(self, delta):
        price = self.ctx.book(delta.exchange, delta.symbol).best_ask
        return SubmitOrder(
            self.ctx.clock.now(), {order_id}, self.ctx.plugin, "paper", delta.exchange, delta.symbol,
            Side.BUY, OrderType.LIMIT, TimeInForce.IOC, price, {quantity},
        )

    def snapshot(self):
        return {snapshot}

    def restore(self, state):
        {restore}

    {more_methods}


@hookimpl
def tickerml_strategies():
    return [
        StrategySpec(
            id="strategy-odd", factory=Odd, publishes=(SubmitOrder,{more_types}),
            state_version={state_version}, summary="buys now and then",
        )
    ]
"""
PARTS = {
    "at_import": "",
    "at_build": "",
    "in_handler": "",
    "order_id": 'f"odd-{self.seen}"',
    "quantity": "100",
    "snapshot": "msgspec.msgpack.encode(self.seen)",
    "restore": "self.seen = msgspec.msgpack.decode(state, type=int)",
    "more_methods": "",
    "more_types": "",
    "state_version": "1",
}


def write(directory: Path, *, manifest: str = "", **changed: str) -> str:
    """Write the good plugin with some of its parts *changed*; returns the file's path."""
    text = GOOD
    for name, part in (PARTS | changed).items():
        text = text.replace("{" + name + "}", part)
    path = directory / "odd.py"
    path.write_text(MANIFEST.format(more=manifest or "tier = 'edge'") + text)
    return str(path)
