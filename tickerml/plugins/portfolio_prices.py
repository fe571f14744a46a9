"""
What things are worth to the portfolio: the last believable prices, and rates into one currency.

They are the same for every account, so a league of accounts looks at each book once.
"""

import msgspec

from tickerml.kernel import UNIT, Context

Rate = tuple[int, int]  # numerator and denominator


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """The top of a book that could be believed at *ts*, ns UTC; prices in ticks, mid2 = bid + ask."""

    bid: int
    mid2: int
    ts: int

    @property
    def ask(self) -> int:
        """The best ask in ticks."""
        return self.mid2 - self.bid

    def closing(self, quantity: int) -> int:
        """Return what *quantity*, below zero where it is short, could be closed at, in ticks."""
        return self.ask if quantity < 0 else self.bid


class PricesState(msgspec.Struct, array_like=True):
    """Everything that prices remember."""

    symbols: dict[tuple[str, str], None] = {}
    marks: dict[tuple[str, str], Mark] = {}


class Prices:
    """The last trusted top of each book, kept for stale_ns, and what follows from them."""

    def __init__(self, ctx: Context, currency: str, pegs: dict[str, int], stale_ns: int) -> None:
        """
        Args:
            pegs: assets that are cash, and units of the currency for one of it while no book says so.
        """
        self._ctx = ctx
        self._pegs = pegs
        self._stale_ns = stale_ns
        self.currency = currency
        self.state = PricesState()

    def learn(self, exchange: str, symbol: str) -> None:
        """Look at the book of *symbol* from now on."""
        if (exchange, symbol) not in self.state.symbols:
            self.state.symbols = dict.fromkeys(sorted([*self.state.symbols, (exchange, symbol)]))

    def refresh(self) -> None:
        """Take what each book that may be believed says now."""
        now, marks = self._ctx.clock.now(), self.state.marks
        for key in self.state.symbols:
            book = self._ctx.book(*key)
            if book.is_trusted:
                marks[key] = Mark(book.best_bid, book.mid2, now)

    def is_cash(self, asset: str) -> bool:
        """Whether *asset* counts at a rate and not at a bid."""
        return asset == self.currency or asset in self._pegs

    def mark(self, exchange: str, symbol: str, *, is_fresh: bool = False) -> Mark | None:
        """Return the last believable top of a book, with is_fresh only while it is not too old."""
        mark = self.state.marks.get((exchange, symbol))
        if mark and is_fresh and self._ctx.clock.now() - mark.ts > self._stale_ns:
            return None
        return mark

    def rate(self, asset: str, *, is_fresh: bool = False) -> Rate | None:
        """Return what one unit of *asset* is worth in units of the currency; None when nothing says so."""
        if asset == self.currency:
            return 1, 1
        symbol = f"{asset}/{self.currency}"
        exchanges = [exchange for exchange, known in self.state.marks if known == symbol]
        for exchange in sorted(exchanges):
            mark, instrument = (
                self.mark(exchange, symbol, is_fresh=is_fresh),
                self._ctx.instrument(exchange, symbol),
            )
            if mark and instrument:
                return mark.mid2 * instrument.tick_size, 2 * UNIT
        if exchanges or asset not in self._pegs:
            return None
        return self._pegs[asset], UNIT

    def convert(self, amount: int, asset: str) -> int:
        """Return *amount* units of *asset* in units of the currency; 0 where nothing says its worth."""
        numerator, denominator = self.rate(asset) or (0, 1)
        return amount * numerator // denominator

    def fresh_value(self, amount: int, asset: str) -> int | None:
        """Return *amount* units of *asset* in units of the currency; None without a rate that is fresh."""
        rate = self.rate(asset, is_fresh=True)
        return None if rate is None else amount * rate[0] // rate[1]

    def exchanged(self, amount: int, asset: str, into: str) -> int | None:
        """Return *amount* units of *asset* in units of *into*; None where a rate is missing."""
        if asset == into:
            return amount
        given, wanted = self.rate(asset), self.rate(into)
        if not given or not wanted:
            return None
        return amount * given[0] * wanted[1] // (given[1] * wanted[0])

    def bid_value(self, exchange: str, symbol: str, quantity: int, *, is_fresh: bool = False) -> int | None:
        """Return *quantity* units of base at the best bid, in units of quote; None without a bid."""
        mark = self.mark(exchange, symbol, is_fresh=is_fresh)
        instrument = self._ctx.instrument(exchange, symbol)
        if mark is None or instrument is None:
            return None
        return mark.bid * instrument.tick_size * quantity // UNIT

    def first_symbol(self, exchange: str, base: str) -> str:
        """Return the first symbol of *exchange* that sells *base* for cash, "" without one."""
        for known, symbol in self.state.symbols:
            named, _, quote = symbol.partition("/")
            if known == exchange and named == base and self.is_cash(quote):
                return symbol
        return ""
