"""
Mark-out: stop making where those who trade with us know better.

For every maker fill the mark-out at horizon_s, less the maker fee, goes into a mean that forgets:
m += 2 / (fills + 1) * (markout - fee - m), whose weights are those of about the last *fills*
fills. Below limit_bps no order that would rest is accepted for that symbol on that exchange for
off_min, and the mean then starts anew. Until warmup_fills fills were measured everything passes:
a handful of fills says nothing. Orders that take, and orders that reduce a position, always pass.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    Liquidity,
    MarkoutMeasured,
    Options,
    OrderType,
    RiskRuleSpec,
    RiskVerdict,
    Side,
    SubmitOrder,
    TimeInForce,
    hookimpl,
)

from .rule import Denied, Rule

MIN_NS = 60 * NS_PER_S


class MarkoutOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When making costs more than it brings."""

    limit_bps: Annotated[
        float, msgspec.Meta(ge=-1000, le=0, description="the mean below which making stops, bps")
    ] = -2.0
    horizon_s: Annotated[
        int, msgspec.Meta(ge=1, le=3600, description="the horizon of the mark-outs that count, s")
    ] = 10
    fills: Annotated[
        int, msgspec.Meta(ge=2, le=10_000, description="about how many fills are remembered")
    ] = 50
    warmup_fills: Annotated[
        int, msgspec.Meta(ge=1, le=10_000, description="fills before the mean is believed")
    ] = 20
    off_min: Annotated[int, msgspec.Meta(ge=1, le=10_080, description="how long making stops, min")] = 30


class _Mean(msgspec.Struct, array_like=True):
    value: float = 0.0  # bps
    count: int = 0
    off_until: int = 0


class _State(msgspec.Struct, array_like=True):
    means: dict[tuple[str, str], _Mean] = {}


class MarkoutGuard(Rule[MarkoutOptions, _State]):
    """Denies orders that would rest where resting has cost too much."""

    STATE = _State

    def on_markout_measured(self, measured: MarkoutMeasured) -> None:
        is_ours = measured.liquidity is Liquidity.MAKER and measured.markout_bps == measured.markout_bps
        instrument = self._ctx.instrument(measured.exchange, measured.symbol)
        if not is_ours or instrument is None or measured.horizon_ns != self._options.horizon_s * NS_PER_S:
            return
        mean = self._state.means.setdefault((measured.exchange, measured.symbol), _Mean())
        net = measured.markout_bps - instrument.maker_fee_ppm / 100
        weight = 2 / (self._options.fills + 1) if mean.count else 1.0
        mean.value += weight * (net - mean.value)
        mean.count += 1
        if mean.count >= self._options.warmup_fills and mean.value < self._options.limit_bps:
            mean.off_until = self._ctx.clock.now() + self._options.off_min * MIN_NS
            mean.count = 0

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if self.reduces(order) or not self._rests(order):
            return order.quantity, ""
        mean = self._state.means.get((order.exchange, order.symbol), _Mean())
        left = mean.off_until - self._ctx.clock.now()
        inputs |= {"markout_bps": mean.value, "fills": float(mean.count)}
        if left > 0:
            raise Denied(
                f"makers lost {-mean.value:.2f} bps a fill here, fees included: no resting order for "
                f"{-(-left // NS_PER_S)} s"
            )
        return order.quantity, ""

    def _rests(self, order: SubmitOrder) -> bool:
        if order.order_type is OrderType.MARKET or order.time_in_force in (TimeInForce.IOC, TimeInForce.FOK):
            return False
        if order.time_in_force is TimeInForce.POST_ONLY:
            return True
        book = self._ctx.book(order.exchange, order.symbol)
        best = book.best_ask if order.side is Side.BUY else book.best_bid
        return not best or order.side * (order.price - best) < 0


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-markout",
            factory=MarkoutGuard,
            options=MarkoutOptions,
            publishes=(RiskVerdict,),
            summary="stops resting orders where their mark-outs lose more than they should",
        )
    ]
