# /// tickerml-plugin
# format = 1
# [plugin.store-tally]
# kinds = ["store"]
# api = ">=1.0,<2"
# summary = "adds up what was traded in each market"
# subscribes = ["OrderFilled"]
# tier = "edge"
# ///
"""
Tally: a store that adds up what was traded in each market, and tells it in the diagnostics.

It publishes nothing and writes no file: what it keeps is in its state.
"""

import weakref
from collections.abc import Mapping

import msgspec

from tickerml.kernel import Context, Options, OrderFilled, StoreSpec, format_units, hookimpl

_built: "weakref.WeakSet[TallyStore]" = weakref.WeakSet()  # for the diagnostics alone


class _Total(msgspec.Struct):
    fills: int = 0
    notional: int = 0  # in units of the quote asset
    fees: int = 0  # in units of whatever they were paid in


class TallyStore:
    """A total for each market."""

    def __init__(self, ctx: Context, options: Options) -> None:
        self._ctx = ctx
        self.totals: dict[str, _Total] = {}
        _built.add(self)

    def on_order_filled(self, fill: OrderFilled) -> None:
        total = self.totals.setdefault(f"{fill.exchange} {fill.symbol}", _Total())
        instrument = self._ctx.instrument(fill.exchange, fill.symbol)
        total.fills += 1
        total.notional += instrument.notional(fill.price, fill.quantity) if instrument else 0
        total.fees += fill.fee

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.totals)

    def restore(self, state: bytes) -> None:
        self.totals = msgspec.msgpack.decode(state, type=dict[str, _Total])


@hookimpl
def tickerml_stores() -> list[StoreSpec]:
    return [StoreSpec(id="store-tally", factory=TallyStore, summary="adds up what was traded in each market")]


@hookimpl
def tickerml_diagnostics() -> Mapping[str, object]:
    """Return the totals, in whole units, for whoever downloads the diagnostics."""
    return {
        market: {
            "fills": total.fills,
            "notional": format_units(total.notional),
            "fees": format_units(total.fees),
        }
        for store in _built
        for market, total in store.totals.items()
    }
