"""
Arbitrage: takes what arbitrage-monitor sees, where money and inventory are there for both legs.

Nothing moves between exchanges while a price lasts, so both legs are pre-funded: the quote is spent
where it is cheap and the base sold where it is dear, at once (arbitrage_legs.py). Both go as IOC limits
at the worst price that was still worth it; what one of them then lacks is made up for or unwound.

Each trade leaves one exchange with more base and the other with more money. Once an exchange has less
than max_skew below its equal share of an asset, a transfer from the richest one is asked for, one at a
time for each asset; it takes its time and its fee, which rebalancing_bps of the monitor is to stand for.

Only pairs with one quote are traded: between two the third leg would be a trade of its own.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    ArbitrageSeen,
    Balance,
    Context,
    LegsSettled,
    PortfolioSnapshot,
    RequestTransfer,
    StrategySpec,
    SubmitOrder,
    TransferEnded,
    hookimpl,
)

from .arbitrage_legs import Leg, LegHandlers, LegOptions, LegsState, LegTrader

ARBITRAGE = "strategy-arbitrage"


class ArbitrageOptions(LegOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is taken, and when inventory is moved."""

    bases: Annotated[
        tuple[str, ...], msgspec.Meta(description="base assets that are traded; empty for all")
    ] = ()
    min_net_bps: Annotated[
        float, msgspec.Meta(ge=0, le=1000, description="least net of an opportunity that is taken, bps")
    ] = 0.0
    max_skew: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=1,
            description="how far below its equal share of an asset an exchange may fall before some is "
            "sent there, a fraction; 0 for never",
        ),
    ] = 0.30
    rebalance_every_s: Annotated[
        int, msgspec.Meta(ge=1, le=86_400, description="least time between two transfers of one asset, s")
    ] = 600


class _Stock(msgspec.Struct, array_like=True):
    # An asset, where it is traded, and the transfer that was asked for last.
    exchanges: list[str] = []
    transfer: str = ""
    last_ts: int = 0


class _State(msgspec.Struct, array_like=True):
    legs: LegsState
    stocks: dict[str, _Stock]
    transfers: int


class ArbitrageStrategy(LegHandlers):
    """Buys where it is cheap and sells where it is dear, both at once."""

    def __init__(self, ctx: Context, options: ArbitrageOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._legs = LegTrader(ctx, options)
        self._stocks: dict[str, _Stock] = {}
        self._transfers = 0

    def on_arbitrage_seen(self, seen: ArbitrageSeen) -> None:
        options, markets = self._options, _markets(seen)
        if seen.fx_symbol or (options.bases and seen.base not in options.bases):
            return
        self._remember(seen)
        is_wanted = seen.funded and seen.net_bps >= options.min_net_bps
        if not is_wanted or self._legs.is_halted or self._legs.is_busy(*markets):
            return
        bought, sold = (self._ctx.instrument(*market) for market in markets)
        if bought is None or sold is None:
            return
        buy = Leg(*markets[0], seen.buy_price, seen.funded // bought.lot_size)
        sell = Leg(*markets[1], seen.sell_price, seen.funded // sold.lot_size)
        expected = seen.net * seen.funded // seen.quantity
        reason = f"{seen.net_bps:.1f} bps net of fees, theta {seen.theta_bps:.1f}"
        self._legs.trade(f"{seen.opportunity}@{seen.ts_recv}", buy, sell, expected, reason)

    # --- Inventory ------------------------------------------------------------------------------

    def _remember(self, seen: ArbitrageSeen) -> None:
        for asset in (seen.base, seen.quote):
            stock = self._stocks.setdefault(asset, _Stock())
            for exchange in (seen.buy_exchange, seen.sell_exchange):
                if exchange not in stock.exchanges:
                    stock.exchanges.append(exchange)

    def on_portfolio_snapshot(self, portfolio: PortfolioSnapshot) -> None:
        if portfolio.account != self._options.account or not self._options.max_skew or self._legs.is_halted:
            return
        for asset, stock in self._stocks.items():
            is_rested = portfolio.ts_recv - stock.last_ts >= self._options.rebalance_every_s * NS_PER_S
            if not stock.transfer and (is_rested or not stock.last_ts):
                self._rebalance(asset, stock, portfolio.balances)

    def _rebalance(self, asset: str, stock: _Stock, balances: Iterable[Balance]) -> None:
        here = {each.exchange: each for each in balances if each.asset == asset}
        amounts = {
            name: here[name].free + here[name].held + here[name].in_flight if name in here else 0
            for name in stock.exchanges
        }
        target = sum(amounts.values()) // len(amounts)
        poorest = min(amounts, key=amounts.__getitem__)
        richest = max(amounts, key=amounts.__getitem__)
        if target - amounts[poorest] <= self._options.max_skew * target:
            return
        amount = min(target - amounts[poorest], amounts[richest] - target, here[richest].free)
        if amount <= 0:
            return
        now = self._ctx.clock.now()
        stock.transfer = f"{self._options.order_prefix or self._ctx.plugin}-transfer-{self._transfers}"
        stock.last_ts = now
        self._transfers += 1
        share = amounts[poorest] / target
        reason = f"{poorest} has {share:.0%} of its equal share of {asset}"
        account = self._options.account
        self._ctx.publish(
            RequestTransfer(now, stock.transfer, account, asset, richest, poorest, amount, reason)
        )

    def on_transfer_ended(self, ended: TransferEnded) -> None:
        for stock in self._stocks.values():
            if stock.transfer == ended.transfer_id:
                stock.transfer = ""

    # --- State ----------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(_State(self._legs.state(), self._stocks, self._transfers))

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=_State)
        self._legs.restore(saved.legs)
        self._stocks, self._transfers = saved.stocks, saved.transfers


def _markets(seen: ArbitrageSeen) -> tuple[tuple[str, str], tuple[str, str]]:
    return (seen.buy_exchange, seen.buy_symbol), (seen.sell_exchange, seen.sell_symbol)


@hookimpl
def tickerml_strategies() -> Iterable[StrategySpec]:
    """Offer the strategy."""
    return [
        StrategySpec(
            id=ARBITRAGE,
            factory=ArbitrageStrategy,
            options=ArbitrageOptions,
            publishes=(SubmitOrder, RequestTransfer, LegsSettled),
            summary="buys where arbitrage-monitor says cheap and sells where dear, and deals with leg risk",
        )
    ]
