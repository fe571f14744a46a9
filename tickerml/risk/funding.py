"""
Funding: no contract is opened that pays away more than it should.

A long pays when the rate is above zero, a short when it is below. What a day costs is the rate of
one interval times the intervals of a day, by the contract's own interval; the worse of the last
rate and of the one predicted counts. From warn on the verdict says so, from limit on it denies.
Just before a payment nothing is opened at all. A contract of which no rate is known cannot be
judged and is denied. Orders in spot, and orders that reduce a position, pass.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    ConfigError,
    Context,
    FundingUpdated,
    Options,
    RiskRuleSpec,
    RiskVerdict,
    SubmitOrder,
    hookimpl,
)

from .rule import Denied, Rule, exact

DAY_S = 86_400


class FundingOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What funding may cost; fractions of the notional a day."""

    warn: Annotated[float, msgspec.Meta(gt=0, le=1, description="the cost of a day to be told of")] = 0.003
    limit: Annotated[float, msgspec.Meta(gt=0, le=1, description="the cost of a day that is denied")] = 0.01
    quiet_s: Annotated[
        int, msgspec.Meta(ge=0, le=3600, description="how long before a payment nothing is opened, s")
    ] = 600


class _State(msgspec.Struct, array_like=True):
    latest: dict[tuple[str, str], FundingUpdated] = {}


class FundingGuard(Rule[FundingOptions, _State]):
    """Denies the opening of contracts on the side that pays too much."""

    STATE = _State

    def __init__(self, ctx: Context, options: FundingOptions) -> None:
        """Raises: ConfigError: the warning is not below the limit."""
        super().__init__(ctx, options)
        if options.warn >= options.limit:
            raise ConfigError(
                f"risk-funding: warn must be less than limit {options.limit}, was {options.warn}"
            )

    def on_funding_updated(self, update: FundingUpdated) -> None:
        self._state.latest[update.exchange, update.symbol] = update

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        instrument = self._ctx.instrument(order.exchange, order.symbol)
        if instrument is None:
            raise Denied(f"{order.symbol} is not known on {order.exchange}")
        if not instrument.contract or self.reduces(order):
            return order.quantity, ""
        latest = self._state.latest.get((order.exchange, order.symbol))
        if latest is None or latest.interval_s <= 0:
            raise Denied(f"nothing is known of the funding of {order.symbol} on {order.exchange}")
        self._check_time(latest)
        rate = max(order.side * latest.rate, order.side * latest.predicted)
        cost = rate * DAY_S  # a day's, times the interval in s and UNIT: exact
        scale = latest.interval_s * UNIT
        inputs |= {"cost_per_day": cost / scale, "rate": latest.rate / UNIT}
        if cost >= exact(self._options.limit) * scale:
            raise Denied(
                f"funding would cost {cost / scale:.2%} a day, the limit is {self._options.limit:.2%}"
            )
        is_dear = cost > exact(self._options.warn) * scale
        return order.quantity, f"funding costs {cost / scale:.2%} a day" if is_dear else ""

    def _check_time(self, latest: FundingUpdated) -> None:
        left = latest.next_ts - self._ctx.clock.now()
        if latest.next_ts and 0 <= left < self._options.quiet_s * NS_PER_S:
            raise Denied(f"funding is due in {left // NS_PER_S} s, within {self._options.quiet_s} s")


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-funding",
            factory=FundingGuard,
            options=FundingOptions,
            publishes=(RiskVerdict,),
            summary="denies the opening of contracts on the side whose funding costs too much",
        )
    ]
