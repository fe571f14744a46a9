"""
A market whose feed is not to be relied on: the synthetic one, with gaps, silences and outages.

Every so many events the feed loses an update, falls silent or goes down; a while later a
whole book makes it good again. Nothing of that changes the market itself. When and how is a
function of the run's seed and of how many events there were.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

from tickerml.kernel import (
    BookDelta,
    BookResynced,
    BookSnapshot,
    BookStale,
    Context,
    ExchangeSpec,
    FeedConnected,
    FeedEnded,
    FeedLost,
    Message,
    Options,
    SequenceGap,
    hookimpl,
    registry,
)
from tickerml.kernel.book import OrderBook

PLUGIN = "exchange-doubtful"
MARKET = "exchange-synthetic"


class DoubtfulOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which market, and how doubtful."""

    market: Annotated[dict[str, Any], msgspec.Meta(description="options of the synthetic market")] = (
        msgspec.field(default_factory=dict)
    )
    every: Annotated[int, msgspec.Meta(ge=2, description="events between two troubles")] = 20
    lasts: Annotated[int, msgspec.Meta(ge=1, description="events until the book is whole again")] = 5


class _State(msgspec.Struct, array_like=True):
    count: int = 0  # of the market's events
    told: int = 0  # at which count trouble was last told, or mended
    mends_at: int = 0  # at which count the book is whole again; 0 when it is
    is_lost: bool = False
    is_ended: bool = False
    ts: int = 0
    market: bytes = b""
    books: list[BookSnapshot] = []


class DoubtfulMarket:
    """The source: another one's events, and its own troubles between them."""

    def __init__(self, ctx: Context, options: DoubtfulOptions) -> None:
        self._ctx = ctx
        self._options = options
        spec = registry.load(MARKET)
        self._market = spec.factory(ctx, msgspec.convert(options.market, spec.options))
        self._state = _State()
        self._books: dict[tuple[str, str], OrderBook] = {}

    def events(self) -> Iterator[tuple[int, Sequence[Message]]]:
        """Yield (ts_recv, messages); between two of them the state is whole."""
        events = self._market.events()
        while True:
            if (trouble := self._trouble()) is not None:
                yield self._state.ts, trouble
                continue
            if (event := next(events, None)) is None:
                return
            self._state.ts, messages = event
            self._state.count += 1
            for message in messages:
                self._keep(message)
            yield event

    def _keep(self, message: Message) -> None:
        self._state.is_ended = self._state.is_ended or isinstance(message, FeedEnded)
        if isinstance(message, BookSnapshot | BookDelta):
            name = (message.exchange, message.symbol)
            book = self._books.setdefault(name, OrderBook(*name))
            if isinstance(message, BookSnapshot):
                book.apply_snapshot(message)
            else:
                book.apply_delta(message)

    def _trouble(self) -> list[Message] | None:
        state = self._state
        if not self._books or state.told == state.count or state.is_ended:
            return None
        if state.mends_at:
            if state.count < state.mends_at:
                return None
            state.told, state.mends_at = state.count, 0
            return self._mend()
        if state.count % self._options.every:
            return None
        state.told, state.mends_at = state.count, state.count + self._options.lasts
        return [self._begin(self._ctx.uniform("trouble", state.count))]

    def _begin(self, chance: float) -> Message:
        book, ts = next(iter(self._books.values())), self._state.ts
        self._state.is_lost = chance < 0.3
        if self._state.is_lost:
            return FeedLost(ts, book.exchange, "the world", 0)
        if chance < 0.6:
            return BookStale(ts, book.exchange, book.symbol, 1_000)
        return SequenceGap(ts, book.exchange, book.symbol, book.seq, book.seq + 1)

    def _mend(self) -> list[Message]:
        ts = self._state.ts
        mended: list[Message] = []
        if self._state.is_lost:
            exchange = next(iter(self._books))[0]
            mended.append(FeedConnected(ts, exchange, [symbol for _, symbol in self._books]))
        for book in self._books.values():
            mended.append(msgspec.structs.replace(book.snapshot(), ts_recv=ts))
            mended.append(BookResynced(ts, book.exchange, book.symbol, book.seq))
        return mended

    def summarize(self) -> Sequence[Message]:
        """Return what the market has seen of itself."""
        summaries: Sequence[Message] = self._market.summarize()
        return summaries

    def snapshot(self) -> bytes:
        self._state.market = self._market.snapshot()
        self._state.books = [book.snapshot() for book in self._books.values()]
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=_State)
        self._market.restore(self._state.market)
        self._books.clear()
        for book in self._state.books:
            self._keep(book)


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    """Offer the market."""
    return [
        ExchangeSpec(
            id=PLUGIN,
            factory=DoubtfulMarket,
            options=DoubtfulOptions,
            publishes=ExchangeSpec.MAY_PUBLISH,
            summary="the synthetic market over a feed that is not to be relied on: for simulations",
        )
    ]
