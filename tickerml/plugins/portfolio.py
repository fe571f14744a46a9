"""
Portfolio: keeps one paper account's ledger, and says what it is worth.

Balances live on exchanges, an account's worth is one number in one currency. What is
held of a currency or a stablecoin counts at the mid of its book against the reporting
currency (USDT/USD), the first exchange in alphabetical order whose book may be believed,
or at its peg where no such book has ever been seen. Everything else counts at the best
bid on the exchange where it lies: what one could sell it for there. A book that may not
be believed leaves the last price that could, for stale_mark_s; after that the account is
not marked, and its equity stays the last that was.

Realized gains and fees are converted when they happen and stand. Unrealized is what
remains, so that opening + realized + unrealized - fees = equity holds to the unit: with
one currency it is the inventories' value less their cost, with more it also carries the
revaluation of the quote assets themselves.

A snapshot goes out after every change and once a second. One that was overtaken on its
way (an order answered a fill before the fill's own snapshot was delivered) is followed
at once by the current one.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    UNIT,
    Balance,
    BookSnapshot,
    ConfigError,
    Context,
    Instrument,
    Options,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    PortfolioSnapshot,
    Position,
    Side,
    StoreSpec,
    Timer,
    TimeTick,
    hookimpl,
    to_units,
)

from .ledger import InsufficientFunds, Inventory, Ledger, LedgerError, LedgerState

Rate = tuple[int, int]  # numerator and denominator


def _default_opening() -> dict[str, str]:
    return {"aurora.USD": "1000", "aurora.USDT": "3000", "borealis.USDT": "3000", "cascade.USDT": "3000"}


def _default_pegs() -> dict[str, str]:
    return {"USDC": "1", "USDT": "1"}


class PortfolioOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the account starts with and how it is valued."""

    account: Annotated[str, msgspec.Meta(min_length=1, description="the account whose orders are booked")] = (
        "paper"
    )
    opening: Annotated[
        dict[str, str],
        msgspec.Meta(description='what the account starts with, by exchange.ASSET: {"kraken.USD" = "2500"}'),
    ] = msgspec.field(default_factory=_default_opening)
    currency: Annotated[
        str, msgspec.Meta(min_length=1, description="the currency that equity is reported in")
    ] = "USD"
    pegs: Annotated[
        dict[str, str],
        msgspec.Meta(
            description="assets that are cash, and what one is worth in the currency while no book says so"
        ),
    ] = msgspec.field(default_factory=_default_pegs)
    mark_interval_ms: Annotated[
        int,
        msgspec.Meta(ge=10, le=3_600_000, description="how often the account is valued, ms of event time"),
    ] = 1000
    stale_mark_s: Annotated[
        float,
        msgspec.Meta(gt=0, le=86_400, description="how old the last believable price of a holding may be, s"),
    ] = 60.0


class _Mark(msgspec.Struct, frozen=True, array_like=True):
    bid: int
    mid2: int
    ts: int


class _State(msgspec.Struct, array_like=True):
    ledger: LedgerState
    symbols: dict[tuple[str, str], None] = {}
    marks: dict[tuple[str, str], _Mark] = {}
    is_timing: bool = False
    opening: int | None = None
    equity: int = 0
    peak: int = 0
    max_drawdown: float = 0.0
    realized: int = 0
    fees: int = 0


class Portfolio:
    """Books orders and fills of one account and publishes PortfolioSnapshot."""

    def __init__(self, ctx: Context, options: PortfolioOptions) -> None:
        """Raises: ConfigError: an opening balance or a peg that is not an amount of something."""
        self._ctx = ctx
        self._options = options
        self._interval_ns = options.mark_interval_ms * NS_PER_MS
        self._stale_ns = int(options.stale_mark_s * NS_PER_S)
        self._pegs = {asset: _amount("pegs", asset, text) for asset, text in sorted(options.pegs.items())}
        self._ledger = Ledger(_opening_balances(options.opening))
        self._state = _State(self._ledger.state)
        self._latest: PortfolioSnapshot | None = None

    # --- Reading ------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """The account's books: look, do not touch."""
        return self._ledger

    @property
    def equity(self) -> int:
        """The last equity with every holding priced, in units of the currency."""
        return self._state.equity

    def balances(self) -> list[Balance]:
        """Return what the account holds, sorted by exchange and asset."""
        return self._ledger.balances()

    # --- What moves the clock -----------------------------------------------------------------

    def on_instrument(self, instrument: Instrument) -> None:
        self._learn(instrument.exchange, instrument.symbol)

    def on_book_snapshot(self, book: BookSnapshot) -> None:
        # Not at the Instrument: a recorded one may be far older than the market that follows it.
        self._learn(book.exchange, book.symbol)
        self._start_timer()

    def on_time_tick(self, tick: TimeTick) -> None:
        self._start_timer()

    def on_timer(self, timer: Timer) -> None:
        self._set_timer(timer.ts)
        self._publish()

    def on_portfolio_snapshot(self, snapshot: PortfolioSnapshot) -> None:
        if self._latest is not None and self._is_ours(snapshot.account) and snapshot != self._latest:
            self._ctx.publish(self._latest)

    def _learn(self, exchange: str, symbol: str) -> None:
        if (exchange, symbol) not in self._state.symbols:
            self._state.symbols = dict.fromkeys(sorted([*self._state.symbols, (exchange, symbol)]))

    def _start_timer(self) -> None:
        if not self._state.is_timing:
            self._state.is_timing = True
            self._set_timer(self._ctx.clock.now())

    def _set_timer(self, after: int) -> None:
        self._ctx.set_timer((after // self._interval_ns + 1) * self._interval_ns, "mark")

    # --- An order's life ----------------------------------------------------------------------

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        if not self._is_ours(order.account):
            return
        self._start_timer()
        instrument = self._instrument(order.exchange, order.symbol)
        try:
            self._ledger.submit(order, instrument)
        except InsufficientFunds as error:
            self._ctx.log.error("portfolio.reservation_failed", order_id=order.order_id, reason=str(error))
        else:
            self._publish()

    def on_order_filled(self, fill: OrderFilled) -> None:
        if not self._is_ours(fill.account) or self._ledger.has_booked(fill):
            return
        instrument = self._instrument(fill.exchange, fill.symbol)
        self._refresh_marks()
        if fill.side is Side.SELL:
            self._gather(fill, instrument)
        booking = self._ledger.fill(fill, instrument)
        if booking is not None:
            self._state.realized += self._convert(booking.realized, booking.quote)
            self._state.fees += self._convert(booking.fee, booking.fee_asset)
            self._publish()

    def on_order_rejected(self, event: OrderRejected) -> None:
        self._end(event.order_id)

    def on_order_canceled(self, event: OrderCanceled) -> None:
        self._end(event.order_id)

    def on_order_expired(self, event: OrderExpired) -> None:
        self._end(event.order_id)

    def _end(self, order_id: str) -> None:
        if self._ledger.end(order_id):
            self._publish()

    def _is_ours(self, account: str) -> bool:
        return account == self._options.account

    def _instrument(self, exchange: str, symbol: str) -> Instrument:
        instrument = self._ctx.instrument(exchange, symbol)
        if instrument is None:
            raise LedgerError(
                f"an order on {exchange} {symbol} cannot be booked before its Instrument is known: "
                "the exchange must publish that first"
            )
        return instrument

    def _gather(self, fill: OrderFilled, instrument: Instrument) -> None:
        # Base bought with one quote and sold for another brings its cost along, at the rate of the moment.
        own = [
            i for i in self._ledger.inventories() if (i.exchange, i.base) == (fill.exchange, instrument.base)
        ]
        missing = fill.quantity * instrument.lot_size
        missing -= sum(i.quantity for i in own if i.symbol == fill.symbol)
        for other in own:
            taken = min(missing, other.quantity)
            cost = self._exchanged(other, taken, instrument.quote) if other.symbol != fill.symbol else None
            if cost is not None and taken > 0:
                self._ledger.move(other, instrument, taken, cost)
                missing -= taken

    def _exchanged(self, inventory: Inventory, quantity: int, quote: str) -> int | None:
        from_rate, to_rate = self._rate(inventory.quote), self._rate(quote)
        if not from_rate or not to_rate or not inventory.quantity:
            return None
        cost = inventory.cost * quantity // inventory.quantity
        return cost * from_rate[0] * to_rate[1] // (from_rate[1] * to_rate[0])

    # --- Prices -------------------------------------------------------------------------------

    def _refresh_marks(self) -> None:
        now, marks = self._ctx.clock.now(), self._state.marks
        for key in self._state.symbols:
            book = self._ctx.book(*key)
            if book.is_trusted:
                marks[key] = _Mark(book.best_bid, book.mid2, now)

    def _mark(self, exchange: str, symbol: str, max_age_ns: int | None = None) -> _Mark | None:
        mark = self._state.marks.get((exchange, symbol))
        if mark and max_age_ns is not None and self._ctx.clock.now() - mark.ts > max_age_ns:
            return None
        return mark

    def _rate(self, asset: str, max_age_ns: int | None = None) -> Rate | None:
        """Return what one unit of *asset* is worth in units of the currency; None when nothing says so."""
        if asset == self._options.currency:
            return 1, 1
        symbol = f"{asset}/{self._options.currency}"
        exchanges = [exchange for exchange, known in self._state.marks if known == symbol]
        for exchange in sorted(exchanges):
            mark, instrument = (
                self._mark(exchange, symbol, max_age_ns),
                self._ctx.instrument(exchange, symbol),
            )
            if mark and instrument:
                return mark.mid2 * instrument.tick_size, 2 * UNIT
        if exchanges or asset not in self._pegs:
            return None
        return self._pegs[asset], UNIT

    def _convert(self, amount: int, asset: str) -> int:
        # 0 where nothing says what it is worth: it then shows in unrealized.
        numerator, denominator = self._rate(asset) or (0, 1)
        return amount * numerator // denominator

    def _bid_value(self, exchange: str, symbol: str, quantity: int, max_age_ns: int | None) -> int | None:
        """Return *quantity* units of base at the best bid, in units of quote."""
        mark, instrument = self._mark(exchange, symbol, max_age_ns), self._ctx.instrument(exchange, symbol)
        if mark is None or instrument is None:
            return None
        return mark.bid * instrument.tick_size * quantity // UNIT

    # --- Worth --------------------------------------------------------------------------------

    def _valuation(self) -> int | None:
        """Return the worth of all balances in units of the currency; None while something has no price."""
        worth = 0
        for balance in self._ledger.balances():
            value = self._balance_value(balance)
            if value is None:
                return None
            worth += value
        return worth

    def _balance_value(self, balance: Balance) -> int | None:
        total = balance.free + balance.held
        if not total:
            return 0
        if balance.asset == self._options.currency or balance.asset in self._pegs:
            return self._at_rate(total, balance.asset)
        value = 0
        for symbol, quantity in self._shares(balance.exchange, balance.asset, total):
            at_bid = self._bid_value(balance.exchange, symbol, quantity, self._stale_ns)
            part = None if at_bid is None else self._at_rate(at_bid, symbol.partition("/")[2])
            if part is None:
                return None
            value += part
        return value

    def _at_rate(self, amount: int, asset: str) -> int | None:
        rate = self._rate(asset, self._stale_ns)
        return None if rate is None else amount * rate[0] // rate[1]

    def _shares(self, exchange: str, base: str, total: int) -> Iterable[tuple[str, int]]:
        """Yield which symbol's bid prices how much of *base*: the one it was bought on, else the first."""
        for inventory in self._ledger.inventories():
            if (inventory.exchange, inventory.base) == (exchange, base) and inventory.quantity and total > 0:
                taken = min(total, inventory.quantity)
                total -= taken
                yield inventory.symbol, taken
        if total:
            yield self._first_symbol(exchange, base), total

    def _first_symbol(self, exchange: str, base: str) -> str:
        quotes = (self._options.currency, *self._pegs)
        for known, symbol in self._state.symbols:
            if known == exchange and symbol.partition("/")[0] == base and symbol.partition("/")[2] in quotes:
                return symbol
        return ""

    def _open(self) -> None:
        # What fills have already gained or lost by now is not part of the opening.
        state = self._state
        for balance in self._ledger.balances():
            if balance.asset != self._options.currency and balance.asset not in self._pegs:
                self._adopt(balance.exchange, balance.asset, balance.free + balance.held)
        gained = state.realized - state.fees
        for inventory in self._ledger.inventories():
            gained += self._convert(self._unrealized(inventory), inventory.quote)
        state.opening = state.peak = (self._valuation() or 0) - gained

    def _adopt(self, exchange: str, base: str, total: int) -> None:
        """Count what was not bought here as bought at the bid of the symbol that prices it."""
        owned = [i for i in self._ledger.inventories() if (i.exchange, i.base) == (exchange, base)]
        missing = total - sum(inventory.quantity for inventory in owned)
        symbol = self._first_symbol(exchange, base)
        known = sum(inventory.quantity for inventory in owned if inventory.symbol == symbol)
        value = self._bid_value(exchange, symbol, known + missing, None)
        if missing > 0 and value is not None:
            cost = value - (self._bid_value(exchange, symbol, known, None) or 0)
            self._ledger.adopt(exchange, self._instrument(exchange, symbol), missing, cost)

    def _unrealized(self, inventory: Inventory) -> int:
        value = self._bid_value(inventory.exchange, inventory.symbol, inventory.quantity, None)
        return 0 if value is None else value - inventory.cost

    # --- Publishing ---------------------------------------------------------------------------

    def _publish(self) -> None:
        self._refresh_marks()
        worth = self._valuation()
        if worth is not None:
            self._count(worth)
        self._latest = self._snapshot_message(is_marked=worth is not None)
        self._ctx.publish(self._latest)

    def _count(self, worth: int) -> None:
        state = self._state
        if state.opening is None:
            self._open()
            worth = self._valuation() or 0
        state.equity = worth
        state.peak = max(state.peak, worth)
        state.max_drawdown = max(state.max_drawdown, self._drawdown())

    def _drawdown(self) -> float:
        return 1 - self._state.equity / self._state.peak if self._state.peak > 0 else 0.0

    def _snapshot_message(self, is_marked: bool) -> PortfolioSnapshot:
        state = self._state
        opening = state.opening or 0
        return PortfolioSnapshot(
            self._ctx.clock.now(),
            self._options.account,
            self._options.currency,
            state.equity,
            state.peak,
            opening,
            state.realized,
            state.equity - opening - state.realized + state.fees,
            state.fees,
            self._drawdown(),
            state.max_drawdown,
            is_marked,
            self._ledger.balances(),
            [self._position(inventory) for inventory in self._ledger.inventories()],
        )

    def _position(self, inventory: Inventory) -> Position:
        mark = self._mark(inventory.exchange, inventory.symbol)
        return Position(
            inventory.exchange,
            inventory.symbol,
            inventory.quantity // self._instrument(inventory.exchange, inventory.symbol).lot_size,
            inventory.cost,
            mark.bid if mark else 0,
            inventory.realized,
            self._unrealized(inventory),
            inventory.fees,
        )

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=_State)
        self._ledger = Ledger(state=self._state.ledger)
        self._latest = None


def _amount(option: str, key: str, text: str) -> int:
    try:
        amount = to_units(text)
    except ValueError as error:
        raise ConfigError(f"portfolio: {option}.{key}: {error}") from None
    if amount < 0:
        raise ConfigError(f"portfolio: {option}.{key} must be at least 0, was {text!r}")
    return amount


def _opening_balances(opening: dict[str, str]) -> dict[tuple[str, str], int]:
    balances: dict[tuple[str, str], int] = {}
    for key, text in sorted(opening.items()):
        exchange, _, asset = key.partition(".")
        if not exchange or not asset or "." in asset:
            raise ConfigError(f'portfolio: opening must name exchange.ASSET, like "kraken.USD", was {key!r}')
        balances[exchange, asset] = _amount("opening", key, text)
    return balances


@hookimpl
def tickerml_stores() -> list[StoreSpec]:
    return [
        StoreSpec(
            id="portfolio",
            factory=Portfolio,
            options=PortfolioOptions,
            publishes=(PortfolioSnapshot,),
            summary="an integer double-entry ledger of one paper account, valued once a second",
        )
    ]
