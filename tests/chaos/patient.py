"""A strategy that takes nothing back: every second it bids a little in each book, near the best or below."""

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    Instrument,
    OrderType,
    Side,
    StrategySpec,
    SubmitOrder,
    TimeInForce,
    Trade,
    hookimpl,
    to_units,
)
from tickerml.kernel.hookspecs import Context, Options

NOTIONAL = to_units("12")
DEPTHS = (0, 1, 30, 100, 300)  # hundred-thousandths below the best bid, in turn: some are filled, most rest


class Patient:
    """Remembers the second in which it last bid, by exchange and symbol."""

    def __init__(self, ctx: Context, options: Options) -> None:
        self._ctx = ctx
        self._last: dict[str, int] = {}

    def on_trade(self, trade: Trade) -> None:
        place, second = f"{trade.exchange}-{trade.symbol}", trade.ts_recv // NS_PER_S
        instrument = self._ctx.instrument(trade.exchange, trade.symbol)
        book = self._ctx.book(trade.exchange, trade.symbol)
        if self._last.get(place) == second or instrument is None or not book.is_trusted:
            return
        self._last[place] = second
        price = book.best_bid * (100_000 - DEPTHS[second % len(DEPTHS)]) // 100_000
        self._bid(f"{place}-{second}", instrument, price)

    def _bid(self, order_id: str, instrument: Instrument, price: int) -> None:
        lots = NOTIONAL * UNIT // (price * instrument.tick_size * instrument.lot_size)
        head = (self._ctx.clock.now(), order_id, self._ctx.plugin, "paper", instrument.exchange)
        kind = (Side.BUY, OrderType.LIMIT, TimeInForce.POST_ONLY)
        self._ctx.publish(SubmitOrder(*head, instrument.symbol, *kind, price, lots))

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._last)

    def restore(self, state: bytes) -> None:
        self._last = msgspec.msgpack.decode(state, type=dict[str, int])


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    return [StrategySpec(id="strategy-patient", factory=Patient, publishes=(SubmitOrder,))]
