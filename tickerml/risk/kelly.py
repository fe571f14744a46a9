"""
Kelly: stake a fraction of what the record of a strategy would justify, and nothing without one.

The record is that of its round trips in a symbol, fees included (trips.py): mean mu, variance
sigma^2 and the standard error se = sigma / sqrt(n) of the last *trades* net returns. An order may
take the position to

    f = fraction * clip((mu - se) / sigma^2, 0, 1)          of the equity (form "continuous")
    f = fraction * clip(p / l - q / g, 0, 1)                of the equity (form "discrete")

with p the share of winners, q = 1 - p, g the mean gain and l the mean loss; both never above
max_fraction. The standard error is taken off the mean because a mean of few trades is mostly
luck. Until there are warmup_trades of them the stake is base_fraction.

A quarter of Kelly keeps 2 c - c^2 = 43.75 % of its growth (growth_share) and meets a fall to
75 % of the start with a probability of 13 % (stop_probability): the 25 % stop WILL end some runs.

Sources: Kelly (1956), "A new interpretation of information rate"; Thorp (2006), "The Kelly criterion in
blackjack, sports betting, and the stock market", section 7 for the continuous form.
"""

import math
from typing import Annotated, Literal

import msgspec

from tickerml.kernel import (
    UNIT,
    OrderFilled,
    PositionLiquidated,
    RiskRuleSpec,
    RiskVerdict,
    Side,
    SubmitOrder,
    hookimpl,
)

from .accounts import AccountOptions, AccountRule, AccountsState, Case
from .trips import Ended, Key, Trips


def growth_share(c: float) -> float:
    """
    Return what part of full Kelly's growth rate the fraction *c* of it keeps: 2 c - c^2.

    0.25 keeps 0.4375, 0.5 keeps 0.75.
    """
    return 2 * c - c * c


def stop_probability(c: float, share: float = 0.75) -> float:
    """
    Return the probability that equity ever falls to *share* of its start at the fraction *c* of Kelly.

    share^(2 / c - 1), of a geometric Brownian motion with drift c (2 - c) mu^2 / (2 sigma^2) and
    variance c^2 mu^2 / sigma^2: a Brownian motion with drift a and variance b falls by d with
    probability exp(-2 a d / b).

    | c | 0.25 | 0.5 | 0.75 | 1 |
    | --- | --- | --- | --- | --- |
    | share 0.75 | 13 % | 42 % | 62 % | 75 % |

    Raises: ValueError: a fraction outside of (0, 2), or a share outside of (0, 1].
    """
    if not 0 < c < 2 or not 0 < share <= 1:
        raise ValueError(f"c must be in (0, 2) and share in (0, 1], was {c} and {share}")
    return float(share ** (2 / c - 1))


def continuous(returns: list[float]) -> float:
    """Return clip((mu - se) / sigma^2, 0, 1) of *returns*, at least two; 1 where they do not vary and win."""
    count = len(returns)
    mean = math.fsum(returns) / count
    variance = math.fsum((r - mean) ** 2 for r in returns) / (count - 1)
    edge = mean - math.sqrt(variance / count)
    if variance <= 0:
        return 1.0 if edge > 0 else 0.0
    return min(1.0, max(0.0, edge / variance))


def discrete(returns: list[float]) -> float:
    """Return clip(p / l - q / g, 0, 1) of *returns*: p winners that gain g, q losers that lose l."""
    gains, losses = [r for r in returns if r > 0], [-r for r in returns if r < 0]
    if not gains:
        return 0.0
    if not losses:
        return 1.0
    p, q = len(gains) / len(returns), len(losses) / len(returns)
    gain, loss = math.fsum(gains) / len(gains), math.fsum(losses) / len(losses)
    return min(1.0, max(0.0, p / loss - q / gain))


class KellyOptions(AccountOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of Kelly, and by which record."""

    fraction: Annotated[float, msgspec.Meta(gt=0, lt=1, description="of full Kelly")] = 0.25
    max_fraction: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="the largest stake, of equity; the seed's is 0.15")
    ] = 0.25
    base_fraction: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="the stake before there is a record, of equity")
    ] = 0.02
    form: Annotated[
        Literal["continuous", "discrete"], msgspec.Meta(description="by mean and variance, or by winners")
    ] = "continuous"
    min_edge: Annotated[
        float,
        msgspec.Meta(ge=0, le=1, description="the mean net return a trade must have; the seed's is 0.02"),
    ] = 0.0
    trades: Annotated[
        int, msgspec.Meta(ge=2, le=1000, description="round trips of a strategy and symbol that count")
    ] = 200
    warmup_trades: Annotated[
        int, msgspec.Meta(ge=2, le=1000, description="round trips that make a record")
    ] = 30


class _State(AccountsState, array_like=True):
    trips: Trips = msgspec.field(default_factory=Trips)
    returns: dict[Key, list[float]] = msgspec.field(default_factory=dict)


class Kelly(AccountRule[KellyOptions]):
    """Reduces an order to what the record of its strategy justifies."""

    STATE = _State
    _state: _State

    def on_order_filled(self, fill: OrderFilled) -> None:
        super().on_order_filled(fill)
        instrument = self._ctx.instrument(fill.exchange, fill.symbol)
        if instrument and (ended := self._state.trips.fill(fill, instrument)):
            self._record(ended)

    def on_position_liquidated(self, gone: PositionLiquidated) -> None:
        if instrument := self._ctx.instrument(gone.exchange, gone.symbol):
            for ended in self._state.trips.liquidate(gone, instrument):
                self._record(ended)

    def _record(self, ended: Ended) -> None:
        kept = [*self._state.returns.get(ended.key, ()), ended.result]
        self._state.returns[ended.key] = kept[-self._options.trades :]

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if self.reduces(order):
            return order.quantity, ""
        case = self.case(order)
        key = (order.account, order.strategy, order.exchange, order.symbol)
        stake = self._stake(self._state.returns.get(key, []), inputs)
        used = self._used(key, order.side, case, inputs)
        allowed = case.lots(max(0, case.share(stake) - used))
        quantity = min(order.quantity, allowed)
        self.reserve(case, quantity)
        if quantity == order.quantity:
            return quantity, ""
        record = f"a record of {inputs['trades']:.0f} trades justifies {stake:.2%} of equity"
        return quantity, f"{record}: {case.left(allowed)}"

    def _stake(self, returns: list[float], inputs: dict[str, float]) -> float:
        options, count = self._options, len(returns)
        inputs["trades"] = float(count)
        if count < options.warmup_trades:
            inputs["stake"] = min(options.base_fraction, options.max_fraction)
            return inputs["stake"]
        mean = math.fsum(returns) / count
        full = continuous(returns) if options.form == "continuous" else discrete(returns)
        stake = min(options.max_fraction, options.fraction * full) if mean >= options.min_edge else 0.0
        inputs |= {"mean": mean, "kelly": full, "stake": stake}
        return stake

    def _used(self, key: Key, side: Side, case: Case, inputs: dict[str, float]) -> int:
        """Return what the strategy has in the symbol already, open orders of *side* filled, in units."""
        trip = self._state.trips.open.get(key)
        lots = abs(trip.lots) if trip else 0
        for entry in self._state.open.values():
            place = (entry.account, entry.exchange, entry.symbol)
            lots += entry.leaves if (*place, entry.side) == (key[0], *key[2:], side) else 0
        used = case.value(case.price, lots)
        inputs["used"] = used / UNIT
        return used


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-kelly",
            factory=Kelly,
            options=KellyOptions,
            publishes=(RiskVerdict,),
            summary="stakes a quarter of what the record of a strategy justifies",
        )
    ]
