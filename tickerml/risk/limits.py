"""
Limits: how much of the account one order, one asset and all of them may take.

What is known of the account, and how open orders count, is in accounts.py.

A sell can only shrink a spot inventory. It is bounded by the size of an order and by
what is there to sell, and by nothing else. A stablecoin is cash when it pays, and an
asset like any other when it is what an order buys.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    UNIT,
    ConfigError,
    Context,
    RiskRuleSpec,
    RiskVerdict,
    Side,
    SubmitOrder,
    hookimpl,
)

from .accounts import ROUNDING_ALLOWANCE, AccountOptions, AccountRule, Case, amount_of, fee_ppm_of
from .rule import Denied


class LimitsOptions(AccountOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits; fractions are of the account's equity, amounts in its reporting currency."""

    max_position: Annotated[
        float,
        msgspec.Meta(
            gt=0, le=1, description="one base asset over all exchanges, open buys included, of equity"
        ),
    ] = 0.25
    max_order: Annotated[float, msgspec.Meta(gt=0, le=1, description="one order, of equity")] = 0.10
    min_cash: Annotated[
        float, msgspec.Meta(ge=0, lt=1, description="what stays in cash if every open buy fills, of equity")
    ] = 0.10
    max_gross: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="all inventories and open buys together, of equity")
    ] = 0.95
    min_notional: Annotated[
        str,
        msgspec.Meta(description="the smallest order, in the reporting currency; a smaller one is denied"),
    ] = "10"
    max_notional: Annotated[
        str, msgspec.Meta(description="the largest order, in the reporting currency; a larger one is reduced")
    ] = "2500"


class Limits(AccountRule[LimitsOptions]):
    """Answers every SubmitOrder with the quantity that the limits leave of it."""

    def __init__(self, ctx: Context, options: LimitsOptions) -> None:
        """Raises: ConfigError: an option is not an amount, or the smallest order exceeds the largest."""
        super().__init__(ctx, options)
        self._min_notional = amount_of(ctx.plugin, "min_notional", options.min_notional)
        self._max_notional = amount_of(ctx.plugin, "max_notional", options.max_notional)
        if self._min_notional > self._max_notional:
            raise ConfigError(
                f"risk-limits: min_notional must be at most max_notional {options.max_notional}, "
                f"was {options.min_notional}"
            )

    # --- The verdict --------------------------------------------------------------------------

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        case = self.case(order)
        quantity, reason = self._judge(case, inputs)
        self.reserve(case, quantity)
        return quantity, reason

    def _judge(self, case: Case, inputs: dict[str, float]) -> tuple[int, str]:
        order = case.order
        allowed = {
            "max_order": case.lots(case.share(self._options.max_order)),
            "max_notional": case.lots(self._max_notional),
        }
        is_spot = not case.instrument.contract
        if order.side is Side.SELL and is_spot:
            allowed["inventory"] = self._sellable(case, inputs)
        elif not order.reduce_only:
            allowed |= self._exposure(case, inputs)
        elif is_spot:
            raise Denied("a reduce-only buy has no short position to reduce")
        inputs |= {
            "equity": case.snapshot.equity / UNIT,
            "price": case.price * case.instrument.tick_size / UNIT,
        }
        inputs |= {f"{name}_lots": float(lots) for name, lots in allowed.items()}
        limit = min(allowed, key=lambda name: allowed[name])
        quantity = min(order.quantity, allowed[limit])
        reason = f"{limit} allows {case.left(allowed[limit])}"
        if shortfall := self._too_small(case, quantity):
            return 0, shortfall if quantity == order.quantity else f"{reason}, and {shortfall}"
        return quantity, "" if quantity == order.quantity else reason

    def _sellable(self, case: Case, inputs: dict[str, float]) -> int:
        exchange, base = case.order.exchange, case.instrument.base
        owned, held = self.owned(case.snapshot, exchange, base)
        reserved = sum(
            entry.leaves * instrument.lot_size
            for entry, instrument in self.open_orders(case.order.account, Side.SELL)
            if (entry.exchange, instrument.base) == (exchange, base)
        )
        free = owned - max(held, reserved)
        inputs |= {"owned": owned / UNIT, "free": free / UNIT}
        return max(0, free // case.instrument.lot_size)

    def _exposure(self, case: Case, inputs: dict[str, float]) -> dict[str, int]:
        order, instrument, options = case.order, case.instrument, self._options
        cash = self.cash(case.snapshot)
        inventory = self.base_value(case)
        same, total, reserved = self.open_buys(case)
        owned, held = self.owned(case.snapshot, order.exchange, instrument.quote)
        free = owned - max(held, reserved) - ROUNDING_ALLOWANCE
        gross = max(0, case.snapshot.equity - cash) + total
        inputs |= {"cash": cash / UNIT, "inventory": inventory / UNIT, "free": free / UNIT}
        inputs |= {"open_buys": total / UNIT, "gross": gross / UNIT}
        fee_ppm = fee_ppm_of(instrument)
        return {
            "max_position": case.lots(case.share(options.max_position) - inventory - same),
            "max_gross": case.lots(case.share(options.max_gross) - gross),
            "min_cash": case.lots(cash - total - case.share(options.min_cash), fee_ppm),
            "funds": case.lots_of_quote(free, fee_ppm),
        }

    def _too_small(self, case: Case, quantity: int) -> str:
        if quantity <= 0:
            return "nothing is left"
        if case.value(case.price, quantity) < self._min_notional:
            return f"less than min_notional {self._options.min_notional} {case.snapshot.currency} is left"
        instrument = case.instrument
        if quantity < instrument.min_quantity:
            least = instrument.quantity_text(instrument.min_quantity)
            return f"{case.order.exchange} takes no less than {least}"
        if instrument.notional(case.price, quantity) < instrument.min_notional:
            return f"the notional is below the minimum of {case.order.exchange}"
        return ""


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-limits",
            factory=Limits,
            options=LimitsOptions,
            publishes=(RiskVerdict,),
            summary="caps orders, positions and exposure, keeps cash back, sells only what is there",
        )
    ]
