"""
Cool-down: a pause after losing, so that a strategy that is wrong is wrong slowly.

A trade is a round trip from flat to flat, fees included (trips.py). After one that lost, its
strategy opens nothing in that symbol for after_loss_min; after a streak of losing ones in a row,
wherever they were, it opens nothing at all for after_streak_min, and counting starts anew. A
winner ends a streak. Orders that reduce a position pass.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    Options,
    OrderFilled,
    PositionLiquidated,
    RiskRuleSpec,
    RiskVerdict,
    SubmitOrder,
    hookimpl,
)

from .rule import Denied, Rule
from .trips import Ended, Key, Trips

MINUTE_NS = 60 * NS_PER_S


class CooldownOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to wait, and after what."""

    after_loss_min: Annotated[
        float, msgspec.Meta(ge=0, le=10_080, description="pause of a symbol after a losing trade, min")
    ] = 5.0
    streak: Annotated[
        int, msgspec.Meta(ge=1, le=1000, description="losing trades in a row that pause a strategy")
    ] = 5
    after_streak_min: Annotated[
        float, msgspec.Meta(ge=0, le=10_080, description="pause of a strategy after a streak, min")
    ] = 60.0


class _State(msgspec.Struct, array_like=True):
    trips: Trips = msgspec.field(default_factory=Trips)
    symbols: dict[Key, int] = {}  # until when each is paused, ns UTC
    streaks: dict[tuple[str, str], int] = {}  # (account, strategy)
    strategies: dict[tuple[str, str], int] = {}  # until when each is paused, ns UTC


class Cooldown(Rule[CooldownOptions, _State]):
    """Denies new orders for a while after losses."""

    STATE = _State

    def on_order_filled(self, fill: OrderFilled) -> None:
        instrument = self._ctx.instrument(fill.exchange, fill.symbol)
        if instrument and (ended := self._state.trips.fill(fill, instrument)):
            self._count(ended)

    def on_position_liquidated(self, gone: PositionLiquidated) -> None:
        if instrument := self._ctx.instrument(gone.exchange, gone.symbol):
            for ended in self._state.trips.liquidate(gone, instrument):
                self._count(ended)

    def _count(self, ended: Ended) -> None:
        state, now, owner = self._state, self._ctx.clock.now(), ended.key[:2]
        state.streaks[owner] = state.streaks.get(owner, 0) + 1 if ended.net < 0 else 0
        if ended.net < 0:
            state.symbols[ended.key] = now + round(self._options.after_loss_min * MINUTE_NS)
        if state.streaks[owner] >= self._options.streak:
            state.streaks[owner] = 0
            state.strategies[owner] = now + round(self._options.after_streak_min * MINUTE_NS)

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if self.reduces(order):
            return order.quantity, ""
        state, now, owner = self._state, self._ctx.clock.now(), (order.account, order.strategy)
        inputs["streak"] = float(state.streaks.get(owner, 0))
        if (left := state.strategies.get(owner, 0) - now) > 0:
            text = f"{order.strategy} lost {self._options.streak} times in a row"
            raise Denied(f"{text}: nothing new for {-(-left // NS_PER_S)} s")
        key = (*owner, order.exchange, order.symbol)
        if (left := state.symbols.get(key, 0) - now) > 0:
            raise Denied(f"the last trade in {order.symbol} lost: none for {-(-left // NS_PER_S)} s")
        return order.quantity, ""


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-cooldown",
            factory=Cooldown,
            options=CooldownOptions,
            publishes=(RiskVerdict,),
            summary="pauses a strategy after losing trades",
        )
    ]
