"""
Portfolio: keeps the ledgers of paper accounts, and says what each is worth.

Balances live on exchanges, an account's worth is one number in one currency. What is
held of a currency or a stablecoin counts at the mid of its book against the reporting
currency (USDT/USD), the first exchange in alphabetical order whose book may be believed,
or at its peg where no such book has ever been seen. Everything else counts at the best
bid on the exchange where it lies: what one could sell it for there; a short position in a
perpetual at the best ask. A book that may not be believed leaves the last price that could,
for stale_mark_s; after that the account is not marked, and its equity stays the last that was.

Several accounts may trade one feed: each has its own opening, ledger and snapshots, an order
names the one it is for, and prices are looked up once for all of them.

A snapshot goes out after every change and once a second. One that was overtaken on its
way (an order answered a fill before the fill's own snapshot was delivered) is followed
at once by the current one.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    PPM,
    Balance,
    BookSnapshot,
    ConfigError,
    Context,
    FundingSettled,
    FundingUpdated,
    Instrument,
    LedgerPosted,
    Options,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderReplaced,
    OrderSubmitted,
    PortfolioSnapshot,
    PositionLiquidated,
    StoreSpec,
    Timer,
    TimeTick,
    TransferEnded,
    TransferStarted,
    TransferSubmitted,
    hookimpl,
    to_units,
)

from .fees import charged
from .ledger import LINEAR, InsufficientFunds, Ledger, LedgerError, LedgerState
from .portfolio_account import AccountState, PaperAccount
from .portfolio_funding import FundingSchedule, Schedule
from .portfolio_liquidation import Terms
from .portfolio_prices import Mark, Prices, PricesState

_EXACT = 2**53  # a drawn number has so many bits


def _default_opening() -> dict[str, str]:
    return {"aurora.USD": "1000", "aurora.USDT": "3000", "borealis.USDT": "3000", "cascade.USDT": "3000"}


def _default_pegs() -> dict[str, str]:
    return {"USDC": "1", "USDT": "1"}


class TransferTerms(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What moving an asset costs and how long it takes; each transfer draws both from these ranges."""

    min_fee: Annotated[str, msgspec.Meta(description="the least fee, in the asset")] = "0"
    max_fee: Annotated[str, msgspec.Meta(description="the highest fee, in the asset")] = "0"
    min_s: Annotated[int, msgspec.Meta(ge=0, le=864_000, description="the shortest time, s")] = 600
    max_s: Annotated[int, msgspec.Meta(ge=0, le=864_000, description="the longest time, s")] = 3600


def _default_transfers() -> dict[str, TransferTerms]:
    # Orders of magnitude, not anybody's price list: name your exchanges' own in plugins.toml.
    return {
        "BTC": TransferTerms(min_fee="0.0001", max_fee="0.0005", min_s=1200, max_s=5400),
        "ETH": TransferTerms(min_fee="0.001", max_fee="0.004", min_s=300, max_s=1200),
        "USD": TransferTerms(min_fee="0", max_fee="25", min_s=86_400, max_s=259_200),
        "USDC": TransferTerms(min_fee="1", max_fee="5", min_s=120, max_s=1200),
        "USDT": TransferTerms(min_fee="1", max_fee="5", min_s=120, max_s=1200),
    }


class PortfolioOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the accounts start with and how they are valued."""

    account: Annotated[str, msgspec.Meta(min_length=1, description="the account whose orders are booked")] = (
        "paper"
    )
    opening: Annotated[
        dict[str, str],
        msgspec.Meta(description='what an account starts with, by exchange.ASSET: {"kraken.USD" = "2500"}'),
    ] = msgspec.field(default_factory=_default_opening)
    accounts: Annotated[
        dict[str, dict[str, str]],
        msgspec.Meta(
            description="accounts beside the first, by name, and what each starts with: {} for the same"
        ),
    ] = msgspec.field(default_factory=dict)
    currency: Annotated[
        str, msgspec.Meta(min_length=1, description="the currency that equity is reported in")
    ] = "USD"
    pegs: Annotated[
        dict[str, str],
        msgspec.Meta(
            description="assets that are cash, and what one is worth in the currency while no book says so"
        ),
    ] = msgspec.field(default_factory=_default_pegs)
    leverage: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=125, description="a position in a perpetual is secured by 1/leverage of its cost"
        ),
    ] = 2
    maintenance_margin: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            lt=1,
            description="what must secure perpetuals, of what they are worth; no more than that liquidates",
        ),
    ] = 0.01
    liquidation_fee: Annotated[
        float,
        msgspec.Meta(ge=0, lt=1, description="what an exchange takes for that, of what it has closed"),
    ] = 0.005
    transfers: Annotated[
        dict[str, TransferTerms],
        msgspec.Meta(
            description="fee and time of a transfer, by ASSET or source.destination.ASSET; others are refused"
        ),
    ] = msgspec.field(default_factory=_default_transfers)
    funding_grace_s: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=600,
            description="how long after a funding time it is settled, for fills still on the way",
        ),
    ] = 15.0
    funding_mark_s: Annotated[
        float,
        msgspec.Meta(gt=0, le=3600, description="how far from a funding time its mark price may be, s"),
    ] = 60.0
    mark_interval_ms: Annotated[
        int,
        msgspec.Meta(ge=10, le=3_600_000, description="how often the accounts are valued, ms of event time"),
    ] = 1000
    stale_mark_s: Annotated[
        float,
        msgspec.Meta(gt=0, le=86_400, description="how old the last believable price of a holding may be, s"),
    ] = 60.0


class _State(msgspec.Struct, array_like=True):
    accounts: dict[str, AccountState]
    prices: PricesState
    funding: dict[tuple[str, str], Schedule] = {}
    is_timing: bool = False


class _StateOf1(msgspec.Struct, array_like=True):
    """What version 1 wrote: one account, its state and the prices in one."""

    ledger: LedgerState
    symbols: dict[tuple[str, str], None]
    marks: dict[tuple[str, str], Mark]
    is_timing: bool
    opening: int | None
    equity: int
    peak: int
    max_drawdown: float
    realized: int
    fees: int


class Portfolio:
    """Books orders, fills, funding and transfers of its accounts and publishes what they are worth."""

    def __init__(self, ctx: Context, options: PortfolioOptions) -> None:
        """Raises: ConfigError: an opening balance, a peg or a fee that is not an amount of something."""
        self._ctx = ctx
        self._options = options
        self._interval_ns = options.mark_interval_ms * NS_PER_MS
        self._grace_ns = int(options.funding_grace_s * NS_PER_S)
        pegs = {asset: _amount(f"pegs.{asset}", text) for asset, text in sorted(options.pegs.items())}
        self._terms = {name: _drawn_from(name, terms) for name, terms in options.transfers.items()}
        self._prices = Prices(ctx, options.currency, pegs, int(options.stale_mark_s * NS_PER_S))
        self._schedule = FundingSchedule(int(options.funding_mark_s * NS_PER_S))
        self._is_timing = False
        self._liquidation = Terms(
            round(options.maintenance_margin * PPM), round(options.liquidation_fee * PPM)
        )
        openings = {options.account: options.opening}
        openings |= {name: own or options.opening for name, own in options.accounts.items()}
        self._accounts = {
            name: self._account(name, Ledger(_opening_balances(own), leverage=options.leverage))
            for name, own in sorted(openings.items())
        }

    def _account(self, name: str, ledger: Ledger, state: AccountState | None = None) -> PaperAccount:
        return PaperAccount(name, self._ctx, self._prices, self._schedule, ledger, self._liquidation, state)

    # --- Reading ------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """The first account's books: look, do not touch."""
        return self._accounts[self._options.account].ledger

    @property
    def equity(self) -> int:
        """The first account's last equity with every holding priced, in units of the currency."""
        return self._accounts[self._options.account].state.equity

    def balances(self, account: str = "") -> list[Balance]:
        """Return what an account holds, the first without a name, sorted by exchange and asset."""
        return self._accounts[account or self._options.account].ledger.balances()

    # --- What moves the clock -----------------------------------------------------------------

    def on_instrument(self, instrument: Instrument) -> None:
        self._prices.learn(instrument.exchange, instrument.symbol)

    def on_book_snapshot(self, book: BookSnapshot) -> None:
        # Not at the Instrument: a recorded one may be far older than the market that follows it.
        self._prices.learn(book.exchange, book.symbol)
        self._start_timer()

    def on_time_tick(self, tick: TimeTick) -> None:
        self._start_timer()

    def on_timer(self, timer: Timer) -> None:
        if timer.key == "funding":
            self._settle()
        elif timer.key == "transfers":
            self._arrive(timer.ts)
        else:
            self._set_timer(timer.ts)
            self._prices.refresh()
            for account in self._accounts.values():
                account.mark()

    def on_portfolio_snapshot(self, snapshot: PortfolioSnapshot) -> None:
        account = self._accounts.get(snapshot.account)
        if account and account.latest is not None and snapshot != account.latest:
            self._ctx.publish(account.latest)

    def _start_timer(self) -> None:
        if not self._is_timing:
            self._is_timing = True
            self._set_timer(self._ctx.clock.now())

    def _set_timer(self, after: int) -> None:
        self._ctx.set_timer((after // self._interval_ns + 1) * self._interval_ns, "mark")

    # --- An order's life ----------------------------------------------------------------------

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        account = self._accounts.get(order.account)
        if account is None:
            return
        self._start_timer()
        instrument = self._instrument(order.exchange, order.symbol)
        try:
            account.submit(order, instrument)
        except InsufficientFunds as error:
            self._ctx.log.error("portfolio.reservation_failed", order_id=order.order_id, reason=str(error))

    def on_order_filled(self, fill: OrderFilled) -> None:
        account = self._accounts.get(fill.account)
        if account is not None:
            account.fill(fill, self._instrument(fill.exchange, fill.symbol))

    def on_order_replaced(self, event: OrderReplaced) -> None:
        if account := self._holder(event.order_id):
            instrument = self._instrument(event.exchange, event.symbol)
            account.replace(event.order_id, event.price, event.leaves, instrument)

    def on_order_rejected(self, event: OrderRejected) -> None:
        self._end(event)

    def on_order_canceled(self, event: OrderCanceled) -> None:
        self._end(event)

    def on_order_expired(self, event: OrderExpired) -> None:
        self._end(event)

    def _end(self, event: OrderRejected | OrderCanceled | OrderExpired) -> None:
        if account := self._holder(event.order_id):
            account.end(event.order_id, event.exchange, event.symbol)

    def _holder(self, order_id: str) -> PaperAccount | None:
        accounts = self._accounts.values()
        return next((each for each in accounts if each.ledger.reservation(order_id)), None)

    def _instrument(self, exchange: str, symbol: str) -> Instrument:
        instrument = self._ctx.instrument(exchange, symbol)
        if instrument is None:
            raise LedgerError(
                f"an order on {exchange} {symbol} cannot be booked before its Instrument is known: "
                "the exchange must publish that first"
            )
        return charged(instrument)  # what the simulator has said it charges, else what the table says

    # --- Funding ------------------------------------------------------------------------------

    def on_funding_updated(self, update: FundingUpdated) -> None:
        instrument = self._ctx.instrument(update.exchange, update.symbol)
        if instrument is None or instrument.contract != LINEAR:
            return
        added = self._schedule.update(update)
        if added is not None:
            self._ctx.set_timer(added + self._grace_ns, "funding")
        if not update.next_ts:  # a row of a history may be what a pending settlement waits for
            self._settle()

    def _settle(self) -> None:
        for key, at, due in list(self._schedule.reached(self._ctx.clock.now() - self._grace_ns)):
            holders = [
                (account, quantity)
                for account in self._accounts.values()
                if (quantity := account.quantity_before(*key, at))
            ]
            if holders and not self._schedule.is_whole(at, due):
                if not due.is_told:
                    due.is_told = True
                    missing = "rate" if due.rate is None else "mark"
                    self._ctx.log.error(
                        "portfolio.funding_pending", exchange=key[0], symbol=key[1], ts=at, missing=missing
                    )
                continue
            for account, quantity in holders:
                account.settle(self._instrument(*key), at, quantity, due.mark, due.rate or 0)
            oldest = self._schedule.done(key, at)
            for account in self._accounts.values():
                account.forget(*key, oldest)

    # --- Transfers ----------------------------------------------------------------------------

    def on_transfer_submitted(self, request: TransferSubmitted) -> None:
        account = self._accounts.get(request.account)
        if account is None or request.transfer_id in account.ledger.state.recent_transfers:
            return
        now = self._ctx.clock.now()
        head = (request.transfer_id, request.account, request.asset, request.source, request.destination)
        try:
            fee, after_ns = self._draw(request)
            account.send(request, fee, now + after_ns)
        except LedgerError as error:
            self._ctx.publish(TransferEnded(now, *head, 0, str(error)))
        else:
            self._ctx.publish(TransferStarted(now, *head, request.amount, fee, now + after_ns))
            self._ctx.set_timer(now + after_ns, "transfers")

    def _draw(self, request: TransferSubmitted) -> tuple[int, int]:
        """
        Return the fee of a transfer in units, and how long it takes in ns.

        Raises: LedgerError: no terms for it.
        """
        pair = f"{request.source}.{request.destination}.{request.asset}"
        terms = self._terms.get(pair) or self._terms.get(request.asset)
        if terms is None:
            raise LedgerError(
                f"there are no terms for {pair}: name it or {request.asset} in portfolio.transfers"
            )
        fees, times = terms
        return self._between(request, "fee", fees), self._between(request, "time", times)

    def _between(self, request: TransferSubmitted, what: str, ends: tuple[int, int]) -> int:
        low, high = ends
        drawn = self._ctx.uniform("transfer", request.account, request.transfer_id, what)
        return low + (high - low) * int(drawn * _EXACT) // _EXACT

    def _arrive(self, now: int) -> None:
        for account in self._accounts.values():
            for key, transfer in account.arrived(now):
                places = (transfer.asset, transfer.source, transfer.destination)
                self._ctx.publish(TransferEnded(now, key, account.name, *places, transfer.received))

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        accounts = {name: account.state for name, account in self._accounts.items()}
        return msgspec.msgpack.encode(
            _State(accounts, self._prices.state, self._schedule.state, self._is_timing)
        )

    def restore(self, state: bytes) -> None:
        """An account that is new since then starts with its opening; one that is no more is forgotten."""
        taken = msgspec.msgpack.decode(state, type=_State)
        self._prices.state = taken.prices
        self._schedule.state = taken.funding
        self._is_timing = taken.is_timing
        for name, own in taken.accounts.items():
            if name in self._accounts:
                ledger = Ledger(state=own.ledger, leverage=self._options.leverage)
                self._accounts[name] = self._account(name, ledger, own)

    def migrate(self, state: bytes, version: int) -> bytes:
        """Take over what version 1 wrote of its one account."""
        old = msgspec.msgpack.decode(state, type=_StateOf1)
        account = AccountState(
            old.ledger, old.opening, old.equity, old.peak, old.max_drawdown, old.realized, old.fees
        )
        prices = PricesState(old.symbols, old.marks)
        return msgspec.msgpack.encode(
            _State({self._options.account: account}, prices, is_timing=old.is_timing)
        )


def _amount(option: str, text: str) -> int:
    try:
        amount = to_units(text)
    except ValueError as error:
        raise ConfigError(f"portfolio: {option}: {error}") from None
    if amount < 0:
        raise ConfigError(f"portfolio: {option} must be at least 0, was {text!r}")
    return amount


def _drawn_from(name: str, terms: TransferTerms) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the least and the most of the fee in units, and of the time in ns."""
    place = f"transfers.{name}"
    fees = (_amount(f"{place}.min_fee", terms.min_fee), _amount(f"{place}.max_fee", terms.max_fee))
    for what, low, high in (("fee", *fees), ("s", terms.min_s, terms.max_s)):
        if low > high:
            raise ConfigError(f"portfolio: {place}.min_{what} must be at most max_{what}, was more")
    return fees, (terms.min_s * NS_PER_S, terms.max_s * NS_PER_S)


def _opening_balances(opening: dict[str, str]) -> dict[tuple[str, str], int]:
    balances: dict[tuple[str, str], int] = {}
    for key, text in sorted(opening.items()):
        exchange, _, asset = key.partition(".")
        if not exchange or not asset or "." in asset:
            raise ConfigError(f'portfolio: opening must name exchange.ASSET, like "kraken.USD", was {key!r}')
        balances[exchange, asset] = _amount(f"opening.{key}", text)
    return balances


@hookimpl
def tickerml_stores() -> list[StoreSpec]:
    return [
        StoreSpec(
            id="portfolio",
            factory=Portfolio,
            options=PortfolioOptions,
            state_version=2,
            publishes=(
                PortfolioSnapshot,
                LedgerPosted,
                PositionLiquidated,
                FundingSettled,
                TransferStarted,
                TransferEnded,
            ),
            summary="an integer double-entry ledger of each paper account, valued once a second",
        )
    ]
