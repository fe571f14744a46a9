"""
Core features: what the top of a book and the last minute of trades say, ten times a second.

Rows lie on a grid of ts_recv (100 ms) that is the same for every symbol, so rows of two
exchanges line up. The row of grid point t is the state after every message received up
to and at t: it comes from a timer, which the bus fires once a later message has arrived.

Flows are integers. Trades are summed into the open bucket, a bucket closes at each grid
point, and a window over w buckets is kept as S += newest - the one that falls out: O(1),
exact, with no drift. features_batch.py computes the same numbers from whole columns and
agrees bit for bit; numpy stays out of this room, since the smallest host loads it.

When a row is missing or NaN:

- trade_imbalance_w is NaN until w has passed in full since the first message or the last
  FeedLost, since what traded before is not known; with no trade in the window it is 0.
- A book that stops being trusted (stale, resyncing, crossed, empty) gets one row that is all
  NaN, at the next grid point, and then none until it can be trusted again.
- A symbol silent for silence_s gets no more rows until its next message, so that a jump of
  hours in the input does not become a million rows.

The columns:

- book_imbalance_k: (bid - ask) / (bid + ask) quantity of the best k levels, in [-1, 1].
- microprice_offset_bps: the quantity-weighted mid (ask·bid_quantity + bid·ask_quantity) /
  (bid_quantity + ask_quantity) minus the mid, in bps of the mid. In half spreads it would be
  book_imbalance_1 again; in bps it also says how far the price has to go. (Stoikov's
  micro-price, SSRN 2970694, is another estimator.)
- spread_bps: (ask - bid) / mid, in bps. mid: in the quote asset, NaN while the Instrument
  is not known.
- trade_imbalance_w: (buy - sell) / (buy + sell) aggressor quantity of the last w, in [-1, 1].
"""

import math
import struct
from collections.abc import Iterable
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    UNIT,
    BookDelta,
    BookSide,
    BookSnapshot,
    ConfigError,
    Context,
    FeatureSetSpec,
    FeatureVector,
    FeedLost,
    Options,
    OrderBook,
    Side,
    Timer,
    Trade,
    hookimpl,
)

FEATURE_SET = "features-core"

COLUMNS = (
    "book_imbalance_1",
    "book_imbalance_5",
    "book_imbalance_10",
    "microprice_offset_bps",
    "spread_bps",
    "mid",
    "trade_imbalance_1s",
    "trade_imbalance_10s",
    "trade_imbalance_60s",
)
DEPTHS = (1, 5, 10)  # levels
WINDOWS_S = (1, 10, 60)

_ROW = struct.Struct(f"<{len(COLUMNS)}d")
_UNKNOWN = _ROW.pack(*[math.nan] * len(COLUMNS))


class FeaturesCoreOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often rows come, and when they stop."""

    grid_ms: Annotated[
        int, msgspec.Meta(ge=10, le=1000, description="distance of two rows, ms; must divide 1000")
    ] = 100
    silence_s: Annotated[
        int,
        msgspec.Meta(ge=60, le=3600, description="rows of a symbol stop after this long without a message"),
    ] = 60


def _ratio(difference: int, total: int) -> float:
    # Both are rounded to floats before they are divided, as numpy does it.
    return float(difference) / float(total) if total else 0.0


class _Flow(msgspec.Struct, array_like=True):
    # Aggressor quantity, lots: the open bucket, a ring of the closed ones, and a sum for each window.
    windows: list[int]  # buckets, ascending
    buys: list[int]
    sells: list[int]
    bought: list[int]
    sold: list[int]
    buy: int = 0
    sell: int = 0
    closed: int = 0

    @classmethod
    def over(cls, windows: list[int]) -> "_Flow":
        size, count = windows[-1], len(windows)
        return cls(windows, [0] * size, [0] * size, [0] * count, [0] * count)

    def close(self) -> None:
        size = len(self.buys)
        for index, window in enumerate(self.windows):
            oldest = (self.closed - window) % size
            self.bought[index] += self.buy - self.buys[oldest]
            self.sold[index] += self.sell - self.sells[oldest]
        at = self.closed % size
        self.buys[at], self.sells[at] = self.buy, self.sell
        self.buy = self.sell = 0
        self.closed += 1

    def imbalances(self) -> list[float]:
        # The first bucket began before we listened, so a window is whole only once it has left it behind.
        return [
            _ratio(bought - sold, bought + sold) if self.closed > window else math.nan
            for window, bought, sold in zip(self.windows, self.bought, self.sold, strict=True)
        ]


class _Symbol(msgspec.Struct, array_like=True):
    exchange: str
    symbol: str
    flow: _Flow
    last_ts: int = 0  # of the last message, ns
    due: int = 0  # the next grid point, ns; 0 while rows have stopped
    is_lost: bool = False  # the feed is down: trades pass unseen
    is_trusted: bool = False  # as the last row had it


class CoreFeatures:
    """Publishes a FeatureVector for each symbol at each point of the grid."""

    def __init__(self, ctx: Context, options: FeaturesCoreOptions) -> None:
        """
        Raises: ConfigError: grid_ms does not divide 1000.
        """
        if 1000 % options.grid_ms:
            raise ConfigError(
                f"{FEATURE_SET}: grid_ms must divide 1000, was {options.grid_ms}; take 100, 200 or 250"
            )
        self._ctx = ctx
        self._grid_ns = options.grid_ms * NS_PER_MS
        self._silence_ns = options.silence_s * NS_PER_S
        self._windows = [seconds * 1000 // options.grid_ms for seconds in WINDOWS_S]
        self._symbols: dict[tuple[str, str], _Symbol] = {}

    def on_book_snapshot(self, snapshot: BookSnapshot) -> None:
        self._hear(snapshot.exchange, snapshot.symbol)

    def on_book_delta(self, delta: BookDelta) -> None:
        self._hear(delta.exchange, delta.symbol)

    def on_trade(self, trade: Trade) -> None:
        flow = self._hear(trade.exchange, trade.symbol).flow
        if trade.aggressor is Side.BUY:
            flow.buy += trade.quantity
        else:
            flow.sell += trade.quantity

    def on_feed_lost(self, lost: FeedLost) -> None:
        for symbol in self._symbols.values():
            if symbol.exchange == lost.exchange:
                symbol.is_lost = True
                symbol.flow = _Flow.over(self._windows)

    def on_timer(self, timer: Timer) -> None:
        exchange, name = timer.key.split("|")
        symbol = self._symbols.get((exchange, name))
        if symbol is None or symbol.due != timer.ts:
            return
        if not symbol.is_lost:
            symbol.flow.close()
        self._publish_row(symbol)
        symbol.due = 0
        if timer.ts - symbol.last_ts < self._silence_ns:
            self._set_due(symbol, timer.ts + self._grid_ns)

    def _hear(self, exchange: str, name: str) -> _Symbol:
        symbol = self._symbols.get((exchange, name))
        if symbol is None:
            symbol = self._symbols[exchange, name] = _Symbol(exchange, name, _Flow.over(self._windows))
        now = self._ctx.clock.now()
        symbol.last_ts = now
        symbol.is_lost = False
        if not symbol.due:
            # Silence has emptied every window by now, so the flow goes on as if its buckets had been closed.
            self._set_due(symbol, -(-now // self._grid_ns) * self._grid_ns)
        return symbol

    def _set_due(self, symbol: _Symbol, ts: int) -> None:
        symbol.due = ts
        self._ctx.set_timer(ts, f"{symbol.exchange}|{symbol.symbol}")

    def _publish_row(self, symbol: _Symbol) -> None:
        book = self._ctx.book(symbol.exchange, symbol.symbol)
        was_trusted, symbol.is_trusted = symbol.is_trusted, book.is_trusted
        if symbol.is_trusted:
            values = _ROW.pack(*self._book_values(book), *symbol.flow.imbalances())
        elif was_trusted:
            values = _UNKNOWN
        else:
            return
        self._ctx.publish(
            FeatureVector(
                self._ctx.clock.now(), symbol.due, symbol.exchange, symbol.symbol, FEATURE_SET, values
            )
        )

    def _book_values(self, book: OrderBook) -> Iterable[float]:
        bids, asks = _quantities(book.bids), _quantities(book.asks)
        imbalances = [_ratio(bid - ask, bid + ask) for bid, ask in zip(bids, asks, strict=True)]
        mid2 = book.mid2
        spread_bps = float(20_000 * (book.best_ask - book.best_bid)) / float(mid2)
        instrument = self._ctx.instrument(book.exchange, book.symbol)
        tick = instrument.tick_size / UNIT if instrument else math.nan
        return *imbalances, 0.5 * imbalances[0] * spread_bps, spread_bps, 0.5 * mid2 * tick

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(list(self._symbols.values()))

    def restore(self, state: bytes) -> None:
        symbols = msgspec.msgpack.decode(state, type=list[_Symbol])
        self._symbols = {(symbol.exchange, symbol.symbol): symbol for symbol in symbols}


def _quantities(side: BookSide) -> list[int]:
    # Lots within each of DEPTHS levels.
    return [side.quantity_within(depth) for depth in DEPTHS]


@hookimpl
def tickerml_feature_sets() -> Iterable[FeatureSetSpec]:
    return [
        FeatureSetSpec(
            id=FEATURE_SET,
            factory=CoreFeatures,
            options=FeaturesCoreOptions,
            publishes=(FeatureVector,),
            columns=COLUMNS,
            summary="book imbalance, spread and trade imbalance on a 100 ms grid",
        )
    ]
