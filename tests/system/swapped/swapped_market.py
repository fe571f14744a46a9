"""A market of numbered trades at an even pace, which fails where it is told to."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from tickerml.kernel import (
    UNIT,
    ExchangeSpec,
    FeedSummarized,
    Instrument,
    Message,
    Options,
    Side,
    Trade,
    hookimpl,
)

AFTER = 20  # trades that are played before the trouble of one who has taken over
BEGAN_NS = 1_700_000_000 * 10**9


class MarketOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the market."""

    rate: int = 400  # trades a second
    trouble: str = ""


class Market:
    """Its state is the number of the last trade."""

    def __init__(self, ctx: Any, options: MarketOptions) -> None:
        self._step = 10**9 // options.rate
        self._trouble = options.trouble
        self._number = 0
        self._fails_after = 2**63
        self._fail_at("constructor")

    def events(self) -> Iterator[tuple[int, Sequence[Message]]]:
        if not self._number:
            instrument = Instrument(BEGAN_NS, "test", "BTC/USD", "BTC", "USD", UNIT // 100, UNIT // 10**8)
            yield BEGAN_NS, [instrument]
        while True:
            self._number += 1
            if self._number > self._fails_after:
                self._fail_at("events")
            ts = BEGAN_NS + self._number * self._step
            yield ts, [Trade(ts, ts, "test", "BTC/USD", self._number, self._number, 1, Side.BUY)]

    def summarize(self) -> Sequence[FeedSummarized]:
        return ()

    def snapshot(self) -> bytes:
        return self._number.to_bytes(8)

    def restore(self, state: bytes) -> None:
        self._fail_at("restore")
        self._number = int.from_bytes(state)
        self._fails_after = self._number + AFTER

    def _fail_at(self, moment: str) -> None:
        where, _, what = self._trouble.partition(": ")
        if where != moment:
            return
        if what == "raise":
            raise RuntimeError(f"trouble in the {moment}")
        if what == "exit":
            os._exit(3)
        while what == "loop":
            pass


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="swapped-market", factory=Market, options=MarketOptions, publishes=(Instrument, Trade)
        )
    ]
