"""
Losses: stop for the day when the day, the week or the last hour has lost too much.

A fall is measured from the equity at the start of the UTC day, of the week (Monday, UTC) and from
that of an hour ago; where the account is younger, from its first. At a limit the rule halts trading
at level 1, NO_NEW, which a person lifts; everything then starts anew from the equity of that time. With
halts = false it denies instead, until the fall is no longer there: the day is over, the hour has
moved on. Orders that reduce a position pass the rule, and are stopped by the halt.
"""

from fractions import Fraction
from typing import Annotated

import msgspec

from tickerml.kernel import (
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

from .equity import Track, fall, fallen
from .rule import Denied, Rule, exact


class LossesOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may be lost; fractions of the equity that a period began with."""

    hourly: Annotated[float, msgspec.Meta(gt=0, le=1, description="within any hour")] = 0.02
    daily: Annotated[float, msgspec.Meta(gt=0, le=1, description="since midnight UTC")] = 0.05
    weekly: Annotated[float, msgspec.Meta(gt=0, le=1, description="since Monday, UTC")] = 0.15
    halts: Annotated[
        bool, msgspec.Meta(description="whether a person must resume; else it denies until the loss is past")
    ] = True


class _State(msgspec.Struct, array_like=True):
    tracks: dict[str, Track] = {}
    is_halted: bool = False


class Losses(Rule[LossesOptions, _State]):
    """Halts or denies after a loss."""

    STATE = _State

    def __init__(self, ctx: Context, options: LossesOptions) -> None:
        super().__init__(ctx, options)
        self._limits: dict[str, Fraction] = {
            "hour": exact(options.hourly),
            "day": exact(options.daily),
            "week": exact(options.weekly),
        }

    def on_portfolio_snapshot(self, snapshot: PortfolioSnapshot) -> None:
        track = self._state.tracks.setdefault(snapshot.account, Track())
        track.take(snapshot)
        if not self._options.halts or self._state.is_halted or not (reason := self._breach(track)):
            return
        self._state.is_halted = True
        self.halt(reason, HaltLevel.NO_NEW)

    def on_resume_trading(self, command: ResumeTrading) -> None:
        if self._state.is_halted:
            self._state.is_halted = False
            for account in sorted(self._state.tracks):
                self._state.tracks[account].begin_anew()

    def _breach(self, track: Track) -> str:
        for period, start in _starts(track).items():
            limit = self._limits[period]
            if fallen(start, track.equity, limit.numerator, limit.denominator):
                lost = fall(start, track.equity)
                return f"lost {lost:.2%} within the {period}, the limit is {float(limit):.2%}"
        return ""

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if self.reduces(order):
            return order.quantity, ""
        track = self._state.tracks.get(order.account)
        if track is None or not track.is_marked:
            raise Denied("the equity is not known")
        inputs["equity"] = track.equity / UNIT
        inputs |= {period: fall(start, track.equity) for period, start in _starts(track).items()}
        if self._state.is_halted:
            raise Denied("halted after a loss; a person must resume trading")
        if reason := self._breach(track):
            raise Denied(reason)
        return order.quantity, ""


def _starts(track: Track) -> dict[str, int]:
    return {"hour": track.hour_start, "day": track.day_start, "week": track.week_start}


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-losses",
            factory=Losses,
            options=LossesOptions,
            publishes=(RiskVerdict, HaltTrading),
            summary="halts new orders after the loss of an hour, a day or a week",
        )
    ]
