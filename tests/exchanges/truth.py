"""
Books as a subscriber of the bus keeps them, beside the true ones of the local exchanges.

A book is wrong unmarked when it says VALID and is not what the exchange had after the last
frame that arrived. What can be vouched for differs: Kraken's checksum covers ten levels, the
public snapshot of KuCoin a hundred, so there the best of the book are compared, elsewhere all.
"""

from tickerml.kernel import (
    BookDelta,
    BookSnapshot,
    BookStale,
    BookState,
    ChecksumFailed,
    FeedLost,
    Instrument,
    Message,
    OrderBook,
    SequenceGap,
    pack_levels,
    to_units,
)
from tickerml.testing.exchanges import Market, Wire

#: Levels of a side that an exchange's own rule can show to be right; 0 for as many as the client has.
VOUCHED = {"kraken": 10, "kucoin": 0}


class Books:
    """The books of one exchange, kept from messages alone, by symbol."""

    def __init__(self) -> None:
        self.books: dict[str, OrderBook] = {}
        self.instruments: dict[str, Instrument] = {}

    def take(self, message: Message) -> None:
        """Do what everybody who keeps books does with *message*."""
        match message:
            case Instrument():
                self.instruments[message.symbol] = message
                self.books.setdefault(message.symbol, OrderBook(message.exchange, message.symbol))
            case BookSnapshot():
                self.books[message.symbol].apply_snapshot(message)
            case BookDelta():
                self.books[message.symbol].apply_delta(message)
            case SequenceGap() | ChecksumFailed():
                self.books[message.symbol].state = BookState.RESYNCING
            case BookStale():
                self.books[message.symbol].state = BookState.STALE
            case FeedLost():
                for book in self.books.values():
                    book.state = BookState.RESYNCING

    def is_valid(self, symbol: str) -> bool:
        """Whether the book of *symbol* says that it is right."""
        return symbol in self.books and self.books[symbol].state is BookState.VALID


class Truth:
    """The true book of one market, in the client's steps, moved on change by change."""

    def __init__(self, market: Market, instrument: Instrument, vouched: int | None) -> None:
        """
        Args:
            vouched: levels of a side to compare, 0 for as many as the client has; None for all.
        """
        self.book = OrderBook(instrument.exchange, instrument.symbol)
        self.seq = 0
        self._market = market
        self._vouched = vouched
        # Whole client's steps in one of the market's: a client may count finer than the exchange does.
        self._price = to_units(market.price_text(1)) // instrument.tick_size
        self._quantity = market.lot_size() // instrument.lot_size

    def move_to(self, seq: int) -> None:
        """Make the changes up to number *seq*."""
        if seq <= self.seq:
            return
        if seq - self.seq > 400:
            self.book.bids.clear()
            self.book.asks.clear()
            bids, asks = self._market.book_at(seq)
            self._put(list(bids.items()), list(asks.items()))
        else:
            changes = self._market.changes(self.seq + 1, seq)
            bids_changed = [(change.price, change.quantity) for change in changes if change.is_bid]
            self._put(bids_changed, [(each.price, each.quantity) for each in changes if not each.is_bid])
        self.seq = seq

    def _put(self, bids: list[tuple[int, int]], asks: list[tuple[int, int]]) -> None:
        for side, levels in ((self.book.bids, bids), (self.book.asks, asks)):
            side.apply(pack_levels([(p * self._price, q * self._quantity) for p, q in levels]))

    def differs(self, book: OrderBook) -> str:
        """Return in what *book* is not the truth; "" where it is the truth."""
        for name in ("bids", "asks"):
            ours, true = getattr(book, name), getattr(self.book, name)
            if self._vouched is None:
                is_true = ours.quantities == true.quantities
            else:
                depth = self._vouched or len(ours.keys)
                is_true = ours.top(depth) == true.top(depth) and bool(ours.keys)
            if not is_true:
                depth = self._vouched or len(ours.keys)
                wrong = set(ours.top(depth)) ^ set(true.top(depth))
                return f"{book.exchange} {book.symbol} {name} at {self.seq}: {sorted(wrong)[:6]}"
        return ""

    def differs_below(self, book: OrderBook) -> bool:
        """Whether *book* is not the truth below the levels that the exchange's rule can show to be right."""
        sides = ((book.bids, self.book.bids), (book.asks, self.book.asks))
        return bool(self._vouched) and any(ours.quantities != true.quantities for ours, true in sides)


def truth_of(wire: Wire, instrument: Instrument) -> Truth:
    """Return the truth about *instrument* on the exchange *wire*."""
    return Truth(wire.market(instrument.symbol), instrument, VOUCHED.get(wire.exchange))
