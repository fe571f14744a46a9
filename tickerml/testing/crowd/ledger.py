"""A ledger of one account: what fills cost, in an opening balance of 10,000."""

import msgspec

from tickerml.kernel import (
    UNIT,
    Balance,
    Context,
    Options,
    OrderFilled,
    PortfolioSnapshot,
    Position,
    StoreSpec,
    TimeTick,
    hookimpl,
)

OPENING = 10_000 * UNIT


class _State(msgspec.Struct):
    free: int = OPENING
    peak: int = OPENING
    held: dict[tuple[str, str], int] = {}  # lots
    deepest: float = 0.0


class Ledger:
    """Marks what is held at the best bid."""

    def __init__(self, ctx: Context, options: Options) -> None:
        self._ctx = ctx
        self._state = _State()

    def on_order_filled(self, fill: OrderFilled) -> None:
        """Book it."""
        state, key = self._state, (fill.exchange, fill.symbol)
        if instrument := self._ctx.instrument(*key):
            state.free -= fill.side * instrument.notional(fill.price, fill.quantity)
            state.held[key] = state.held.get(key, 0) + fill.side * fill.quantity
        self._say()

    def on_time_tick(self, tick: TimeTick) -> None:
        """Say how it stands."""
        self._say()

    def _say(self) -> None:
        state, positions, worth = self._state, [], 0
        for (exchange, symbol), lots in sorted(state.held.items()):
            instrument, mark = (
                self._ctx.instrument(exchange, symbol),
                self._ctx.book(exchange, symbol).best_bid,
            )
            worth += instrument.notional(mark, lots) if instrument else 0
            positions.append(Position(exchange, symbol, lots, 0, mark, 0, 0, 0))
        equity = state.free + worth
        state.peak = max(state.peak, equity)
        drawdown = max(0.0, 1 - equity / state.peak)
        state.deepest = max(state.deepest, drawdown)
        exchange = positions[0].exchange if positions else ""
        self._ctx.publish(
            PortfolioSnapshot(
                self._ctx.clock.now(),
                "paper",
                "USDT",
                equity,
                state.peak,
                OPENING,
                0,
                equity - OPENING,
                0,
                drawdown,
                state.deepest,
                True,
                [Balance(exchange, "USDT", state.free, 0)],
                positions,
            )
        )

    def snapshot(self) -> bytes:
        """Return everything."""
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        """Take everything back."""
        self._state = msgspec.msgpack.decode(state, type=_State)


@hookimpl
def tickerml_stores() -> list[StoreSpec]:
    """Offer the ledger."""
    return [
        StoreSpec(
            id="kit-ledger", factory=Ledger, publishes=(PortfolioSnapshot,), summary="one account, no fees"
        )
    ]
