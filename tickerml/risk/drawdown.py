"""
Drawdown: take less risk as equity falls below its peak, and stop at the limit.

Drawdown is a fraction of the highest equity seen so far, not of the starting balance: a
fall from 12,000 to 9,000 is 0.25 although the account began at 10,000. Equity is what would be
left if everything were closed now: at best bids and asks, less the taker fees. Between the soft
drawdown and the limit orders shrink in a straight line, (limit - drawdown) / (limit -
soft): the cushion rule of Grossman and Zhou (1993). Below a tenth of full size it denies
instead, for trading on at a tiny scale only pays fees.

At the limit the rule halts trading, and it halts on two marks rather than one: the second
at least confirm_ms after the first and none better in between, so that a single bad print
stops nothing. What waits for its second mark buys nothing.

The halt is that of level 3: what is open is canceled and what is held is sold. It is latched. The
rule could not lift it if it wanted to: one that undid its own halt would let a losing strategy
spend the limit twice. A quarter of Kelly meets a fall of 25 % in 13 % of all runs (see kelly.py), so
what happens then is an option, restart:

- "peak": trading stays stopped until a person resumes it; the peak then starts again from the
  equity of that time.
- "gradual": the same, and buys grow in a straight line from a quarter to their full size over
  reentry_h.
- "never": a person may resume, and this rule goes on denying: the account is done.

Resuming after somebody else's halt leaves the peak where it was. Sells shrink a spot position, and
so does what says reduce_only, so only the halt stops them.
"""

from fractions import Fraction
from typing import Annotated, Literal

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    UNIT,
    ConfigError,
    Context,
    HaltLevel,
    HaltTrading,
    PortfolioSnapshot,
    ResumeTrading,
    RiskRuleSpec,
    RiskVerdict,
    Side,
    SubmitOrder,
    hookimpl,
)

from .accounts import AccountOptions, closing_fees, pegs_of
from .rule import Denied


class DrawdownOptions(AccountOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far equity may fall from its peak; all are fractions of the peak."""

    limit: Annotated[float, msgspec.Meta(gt=0, le=1, description="the drawdown that halts trading")] = 0.25
    soft: Annotated[
        float,
        msgspec.Meta(ge=0, lt=1, description="the drawdown from which buys shrink; less than the limit"),
    ] = 0.10
    min_scale: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="the scale below which a buy is denied instead of shrunk")
    ] = 0.1
    confirm_ms: Annotated[
        int,
        msgspec.Meta(
            ge=0, le=3_600_000, description="how long the limit must be breached before it halts, ms"
        ),
    ] = 1000
    restart: Annotated[
        Literal["peak", "gradual", "never"],
        msgspec.Meta(description="what a person's resume after this rule's halt does"),
    ] = "peak"
    reentry_h: Annotated[
        float, msgspec.Meta(gt=0, le=8760, description="how long a gradual restart takes, h")
    ] = 24.0


_REENTRY = Fraction(1, 4)  # of an order, when a gradual restart begins


class _Account(msgspec.Struct, array_like=True):
    peak: int = 0
    equity: int = 0
    is_marked: bool = False
    breached_since: int | None = None


class _State(msgspec.Struct, array_like=True):
    accounts: dict[str, _Account] = {}
    is_halted: bool = False
    resumed_at: int = 0  # after a halt of this rule, ns UTC; 0 for never


class Drawdown:
    """Shrinks buys from the soft drawdown on, and halts trading at the limit."""

    def __init__(self, ctx: Context, options: DrawdownOptions) -> None:
        """Raises: ConfigError: the soft drawdown is not below the limit, or a peg is not an amount."""
        if options.soft >= options.limit:
            raise ConfigError(
                f"risk-drawdown: soft must be less than limit {options.limit}, was {options.soft}"
            )
        self._ctx = ctx
        self._pegs = pegs_of(ctx.plugin, options.pegs)
        # As the decimals a person wrote: 0.1 is a tenth here, and the limit is met exactly.
        self._limit = Fraction(str(options.limit))
        self._soft = Fraction(str(options.soft))
        self._min_scale = Fraction(str(options.min_scale))
        self._confirm_ns = options.confirm_ms * NS_PER_MS
        self._restart = options.restart
        self._reentry_ns = round(options.reentry_h * 3600 * NS_PER_S)
        self._state = _State()

    # --- Watching equity ----------------------------------------------------------------------

    def on_portfolio_snapshot(self, snapshot: PortfolioSnapshot) -> None:
        account = self._state.accounts.setdefault(snapshot.account, _Account())
        # A NaN drawdown is nobody's mark: it compares unequal to itself.
        account.is_marked = snapshot.is_marked and snapshot.drawdown == snapshot.drawdown
        if not account.is_marked:
            return
        try:
            account.equity = snapshot.equity - closing_fees(self._ctx, snapshot, self._pegs)
        except Denied:
            account.is_marked = False
            return
        account.peak = max(account.peak, account.equity)
        if _drawdown(account) < self._limit:
            account.breached_since = None
        elif account.breached_since is None:
            account.breached_since = snapshot.ts_recv
        if account.breached_since is not None and not self._state.is_halted:
            self._confirm(account, account.breached_since, snapshot.ts_recv)

    def _confirm(self, account: _Account, since: int, now: int) -> None:
        if now - since < self._confirm_ns:
            return
        self._state.is_halted = True
        drawdown, limit = float(_drawdown(account)), float(self._limit)
        level = int(HaltLevel.FLATTEN)
        self._ctx.log.warning(
            "risk.halted", rule=self._ctx.plugin, drawdown=drawdown, limit=limit, level=level
        )
        reason = f"drawdown {drawdown:.2%} >= {limit:.2%} of the peak"
        self._ctx.publish(HaltTrading(self._ctx.clock.now(), self._ctx.plugin, reason, level))

    def on_resume_trading(self, command: ResumeTrading) -> None:
        if not self._state.is_halted or self._restart == "never":
            return
        self._state.is_halted = False
        self._state.resumed_at = self._ctx.clock.now()
        for account in self._state.accounts.values():
            account.peak = account.equity
            account.breached_since = None

    # --- The verdict --------------------------------------------------------------------------

    def on_submit_order(self, order: SubmitOrder) -> None:
        account = self._state.accounts.get(order.account, _Account())
        scale, reason = self._scale(account, order)
        quantity = int(order.quantity * scale)
        if scale and not quantity:
            reason = f"{reason}, which is less than the smallest step"
        inputs = {
            "equity": account.equity / UNIT,
            "peak": account.peak / UNIT,
            "drawdown": float(_drawdown(account)),
            "scale": float(scale),
        }
        self._ctx.publish(
            RiskVerdict(self._ctx.clock.now(), order.order_id, self._ctx.plugin, quantity, reason, inputs)
        )

    def _scale(self, account: _Account, order: SubmitOrder) -> tuple[Fraction, str]:
        if self._state.is_halted:
            end = "restart is never" if self._restart == "never" else "a person must resume trading"
            return Fraction(0), f"halted at a drawdown of {float(self._limit):.2%}; {end}"
        instrument = self._ctx.instrument(order.exchange, order.symbol)
        is_short = order.side is Side.SELL and instrument is not None and bool(instrument.contract)
        if order.reduce_only or (order.side is Side.SELL and not is_short):
            return Fraction(1), ""
        if not account.is_marked:
            return Fraction(0), "the equity is not known"
        drawdown, reentry = _drawdown(account), self._reentry()
        if drawdown <= self._soft:
            return (
                reentry,
                "" if reentry == 1 else f"restarting after a halt: {float(reentry):.0%} of an order",
            )
        scale = reentry * max(Fraction(0), (self._limit - drawdown) / (self._limit - self._soft))
        reason = f"drawdown {float(drawdown):.2%} leaves {float(scale):.0%} of an order"
        return (scale if scale >= self._min_scale else Fraction(0)), reason

    def _reentry(self) -> Fraction:
        """Return what a gradual restart leaves of an order by now."""
        if self._restart != "gradual" or not self._state.resumed_at:
            return Fraction(1)
        passed = Fraction(self._ctx.clock.now() - self._state.resumed_at, self._reentry_ns)
        return min(Fraction(1), _REENTRY + (1 - _REENTRY) * passed)

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=_State)


def _drawdown(account: _Account) -> Fraction:
    if account.peak > 0:
        return 1 - Fraction(account.equity, account.peak)
    return Fraction(1 if account.equity < 0 else 0)  # an empty account has lost nothing, a debt everything


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-drawdown",
            factory=Drawdown,
            options=DrawdownOptions,
            publishes=(RiskVerdict, HaltTrading),
            summary="shrinks buys as equity falls below its peak and halts trading at the limit",
        )
    ]
