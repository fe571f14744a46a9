"""
Exposure: how much may be at stake in all, on one exchange, in one asset or stablecoin, and with contracts.

Spot and contracts are counted apart: spot may not be more than max_gross of the equity, contracts
not more than their leverage. One exchange is one counterparty, so everything at stake there is
added up, and its cash as well where counts_cash says so. All that is at stake in one asset is added up
too, spot and contracts, long and short: what is hedged is at stake twice. (risk-position looks at what
is left where they are netted.) A stablecoin is a counterparty too: an
order that buys it is reduced to what max_stablecoin has room for. Open orders count at their
worst price, and an order that reduces a position is none of this rule's business.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import UNIT, RiskRuleSpec, RiskVerdict, SubmitOrder, hookimpl

from .accounts import AccountOptions, AccountRule, Case


class ExposureOptions(AccountOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits, as fractions of the account's equity."""

    max_gross: Annotated[float, msgspec.Meta(gt=0, le=1, description="all spot together, of equity")] = 1.0
    max_exchange: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="what is at stake on one exchange, of equity")
    ] = 0.40
    max_asset: Annotated[
        float,
        msgspec.Meta(
            gt=0, le=10, description="what is at stake in one base asset, long and short added up, of equity"
        ),
    ] = 0.40
    max_stablecoin: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="what is held of one stablecoin, of equity")
    ] = 0.60
    max_contracts: Annotated[
        float, msgspec.Meta(gt=0, le=10, description="all contracts together, long and short, of equity")
    ] = 2.0
    counts_cash: Annotated[
        bool, msgspec.Meta(description="whether the cash on an exchange is at stake there, too")
    ] = False


class Exposure(AccountRule[ExposureOptions]):
    """Reduces an order to what the account, its exchange and its asset have room for."""

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if self.reduces(order):
            return order.quantity, ""
        case = self.case(order)
        inputs["equity"] = case.snapshot.equity / UNIT
        allowed = {}
        for name, (used, fraction) in self._uses(case).items():
            inputs[name] = used / UNIT
            allowed[name] = case.lots(max(0, case.share(fraction) - used))
        limit = min(allowed, key=lambda name: allowed[name])
        quantity = min(order.quantity, allowed[limit])
        self.reserve(case, quantity)
        reason = f"{limit} allows {case.left(allowed[limit])}"
        return quantity, "" if quantity == order.quantity else reason

    def _uses(self, case: Case) -> dict[str, tuple[int, float]]:
        """Return by limit what is used of it already, in units, and the fraction that may be."""
        options, stakes = self._options, self.stakes(case)
        is_contract = bool(case.instrument.contract)
        same_kind = sum(abs(stake.value) for stake in stakes if stake.is_contract == is_contract)
        here = sum(abs(stake.value) for stake in stakes if stake.exchange == case.order.exchange)
        if options.counts_cash:
            here += self._cash_on(case, case.order.exchange)
        uses = {"max_exchange": (here, options.max_exchange)}
        if is_contract:
            uses["max_contracts"] = (same_kind, options.max_contracts)
        else:
            uses["max_gross"] = (same_kind, options.max_gross)
        if case.instrument.base in self._pegs:
            uses["max_stablecoin"] = (self._held(case, case.instrument.base), options.max_stablecoin)
        else:
            asset = sum(abs(stake.value) for stake in stakes if stake.base == case.instrument.base)
            uses["max_asset"] = (asset, options.max_asset)
        return uses

    def _cash_on(self, case: Case, exchange: str) -> int:
        cash = 0
        for balance in case.snapshot.balances:
            is_cash = balance.asset == case.snapshot.currency or balance.asset in self._pegs
            if balance.exchange == exchange and is_cash:
                numerator, denominator = self.rate(balance.asset, case.snapshot)
                cash += (balance.free + balance.held) * numerator // denominator
        return cash

    def _held(self, case: Case, asset: str) -> int:
        """Return what is held of a stablecoin and what open buys of it can still bring, in units."""
        numerator, denominator = self.rate(asset, case.snapshot)
        held = sum(units for name, units in self.holdings(case.snapshot) if name == asset)
        coming = sum(s.value for s in self.stakes(case) if s.is_open_order and s.base == asset)
        return max(0, held) * numerator // denominator + coming


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-exposure",
            factory=Exposure,
            options=ExposureOptions,
            publishes=(RiskVerdict,),
            summary="caps what is at stake in all, on one exchange, in one asset or stablecoin, in contracts",
        )
    ]
