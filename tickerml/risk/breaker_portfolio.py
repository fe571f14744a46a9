"""
Portfolio breaker: pauses at steps of a drawdown, and a halt when an hour takes too much.

Each time the fall from the peak reaches one of the steps, nothing new is opened for pause_min; a
step trips again only after the equity has been above it. A loss of `hour` within any hour halts trading at
level 2, CANCEL, which a person lifts; peak and hour then start from the equity of that time. The stop at the
bottom, and the shrinking on the way, are the business of risk-drawdown.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    Context,
    HaltLevel,
    HaltTrading,
    Options,
    PortfolioSnapshot,
    ResumeTrading,
    RiskRuleSpec,
    RiskVerdict,
    SubmitOrder,
    hookimpl,
)

from .equity import MINUTE_NS, Track, fall, fallen
from .rule import Denied, Rule, exact

Step = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class PortfolioBreakerOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to pause, and where to stop."""

    steps: Annotated[
        tuple[Step, ...], msgspec.Meta(description="drawdowns that pause, fractions of the peak")
    ] = (0.15, 0.20)
    pause_min: Annotated[int, msgspec.Meta(ge=1, le=10_080, description="how long a pause is, min")] = 60
    hour: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="the loss of an hour that halts, a fraction")
    ] = 0.20


class _Account(msgspec.Struct, array_like=True):
    track: Track = msgspec.field(default_factory=Track)
    tripped: int = 0  # how many steps the drawdown is beyond
    paused_until: int = 0


class _State(msgspec.Struct, array_like=True):
    accounts: dict[str, _Account] = {}
    is_halted: bool = False


class PortfolioBreaker(Rule[PortfolioBreakerOptions, _State]):
    """Pauses or halts after a large loss."""

    STATE = _State

    def __init__(self, ctx: Context, options: PortfolioBreakerOptions) -> None:
        super().__init__(ctx, options)
        self._steps = sorted(exact(step) for step in options.steps)
        self._hour = exact(options.hour)

    def on_portfolio_snapshot(self, snapshot: PortfolioSnapshot) -> None:
        account = self._state.accounts.setdefault(snapshot.account, _Account())
        track = account.track
        track.take(snapshot)
        if not track.is_marked:
            return
        beyond = sum(
            fallen(track.peak, track.equity, step.numerator, step.denominator) for step in self._steps
        )
        if beyond > account.tripped:
            account.paused_until = snapshot.ts_recv + self._options.pause_min * MINUTE_NS
        account.tripped = beyond
        is_lost = fallen(track.hour_start, track.equity, self._hour.numerator, self._hour.denominator)
        if is_lost and not self._state.is_halted:
            self._state.is_halted = True
            lost = fall(track.hour_start, track.equity)
            self.halt(
                f"lost {lost:.2%} within an hour, the limit is {float(self._hour):.2%}", HaltLevel.CANCEL
            )

    def on_resume_trading(self, command: ResumeTrading) -> None:
        if self._state.is_halted:
            self._state.is_halted = False
            for name in sorted(self._state.accounts):
                account = self._state.accounts[name]
                account.track.begin_anew()
                account.tripped = account.paused_until = 0

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if self.reduces(order):
            return order.quantity, ""
        account = self._state.accounts.get(order.account)
        if account is None or not account.track.is_marked:
            raise Denied("the equity is not known")
        track = account.track
        inputs |= {"equity": track.equity / UNIT, "drawdown": fall(track.peak, track.equity)}
        if self._state.is_halted:
            raise Denied("halted after the loss of an hour; a person must resume trading")
        left = account.paused_until - self._ctx.clock.now()
        if left > 0:
            raise Denied(f"paused after a drawdown for {-(-left // NS_PER_S)} s")
        return order.quantity, ""


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-breaker-portfolio",
            factory=PortfolioBreaker,
            options=PortfolioBreakerOptions,
            publishes=(RiskVerdict, HaltTrading),
            summary="pauses at steps of a drawdown and halts after the loss of an hour",
        )
    ]
