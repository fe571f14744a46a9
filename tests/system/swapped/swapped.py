"""
A feature set that answers every trade with what its whole state comes to, and fails where it is told to.

As a candidate it is in trouble at the moment that its options name: so each step of a swap
can be made to fail, or to last, by a change of options.
"""

import os
import time
from array import array
from typing import Any

from tickerml.kernel import FeatureSetSpec, FeatureVector, Options, StateRefused, Trade, hookimpl

AFTER = 20  # trades that are handled before the trouble of one who has taken over


class SwappedOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the feature set."""

    trouble: str = ""
    lasts_s: float = 0.0
    factor: int = 31  # by which the state is mixed
    ballast: int = 1_000  # bytes of state that are carried


class Swapped:
    """Its state is one number, in which every trade has left its mark, and some ballast."""

    def __init__(self, ctx: Any, options: SwappedOptions) -> None:
        self._ctx, self._options = ctx, options
        self._mixed = 0
        self._ballast = bytes(options.ballast)
        self._handled = -1  # trades since the state was given; -1: there was none
        self._leak: list[bytes] = []
        self._fail_at("constructor")

    def on_trade(self, trade: Trade) -> None:
        self._mixed = (self._mixed * self._options.factor + trade.price) & 0xFFFF_FFFF
        values = array("d", [trade.seq, self._mixed]).tobytes()
        answer = FeatureVector(trade.ts_recv, trade.ts_event, "test", "BTC/USD", "swapped", values)
        self._ctx.publish(answer)
        if self._handled >= 0:
            self._handled += 1
            if self._handled == AFTER:
                self._fail_at("handler", trade)

    def _fail_at(self, moment: str, trade: Trade | None = None) -> None:
        where, _, what = self._options.trouble.partition(": ")
        if where != moment:
            return
        if what == "raise":
            raise RuntimeError(f"trouble in the {moment}")
        if what == "refuse":
            raise StateRefused("swapped", "this state is not for me")
        if what == "exit":
            os._exit(3)
        if what == "sleep":
            time.sleep(self._options.lasts_s)
        if what == "leak":
            self._leak.append(b"x" * 2**26)
        if what == "publish":
            self._ctx.publish(trade)
        while what == "loop":
            pass

    def snapshot(self) -> bytes:
        self._fail_at("snapshot")
        return self._mixed.to_bytes(8) + self._ballast

    def restore(self, state: bytes) -> None:
        self._fail_at("restore")
        self._mixed, self._handled = int.from_bytes(state[:8]), 0


@hookimpl
def tickerml_feature_sets() -> list[FeatureSetSpec]:
    return [
        FeatureSetSpec(
            id="swapped",
            factory=Swapped,
            options=SwappedOptions,
            publishes=(FeatureVector,),
            columns=("number", "mixed"),
        )
    ]
