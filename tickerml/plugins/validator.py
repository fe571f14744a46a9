"""
Validator: looks for data that came whole and in order, and is doubtful all the same.

A feed's own rules (sequences, checksums) catch what the exchange lets us check. What is left
is looked at here, and each find is a DataAnomaly with a severity:

- crossed, locked: after a change a book's best bid is over, or at, its best ask.
- stale: an exchange has said nothing at all for stale_s, though its feed is not lost.
- channel: its feed says that a symbol's trades, quotes or funding have stopped alone.
- outlier: a print whose log return from the last believed print is over outlier_bps, and over
  outlier_mads times the scaled median absolute deviation of the last RETURNS returns. That is
  taken about 0: prints go to and fro between bid and ask, and of two such humps the median is
  one, about which there is no deviation. A print that is no outlier moves what is believed; so
  do LEVEL outliers in a row that agree with one another, since then the market has moved.
- deviation: a mid is over deviation_bps away from the median mid of the other exchanges with
  the same symbol. Looked at once a second, between books that are trusted.
- duplicate: a trade number that was among the last NUMBERS of its symbol.
- backwards: a ts_event over backwards_ms earlier than the one before it, of the same symbol
  and the same sort (book or trade).

What lasts (crossed, locked, stale, deviation) is one find from its begin to its end. What
comes one by one is counted each time; it is told of at most once in quiet_s, by kind and
symbol, and the count in the message says how many there have been.
"""

import math
import statistics
from collections.abc import Iterable
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    Anomaly,
    BookDelta,
    BookSnapshot,
    BookState,
    ChannelLost,
    Context,
    DataAnomaly,
    FeatureSetSpec,
    FeedConnected,
    FeedLost,
    Options,
    Severity,
    Timer,
    Trade,
    hookimpl,
)

VALIDATOR = "validator"
RETURNS = 200  # by which an outlier is judged
FEWEST_RETURNS = 30
LEVEL = 5  # prints beyond which a new price is no error
NUMBERS = 100  # trade numbers remembered of a symbol
GRID_NS = NS_PER_S
_SCALE = 1.4826  # makes the MAD of a normal distribution its standard deviation
_BPS = 10_000

SEVERITIES = {
    Anomaly.CROSSED: Severity.ERROR,
    Anomaly.LOCKED: Severity.WARNING,
    Anomaly.STALE: Severity.WARNING,
    Anomaly.CHANNEL: Severity.WARNING,
    Anomaly.OUTLIER: Severity.WARNING,
    Anomaly.DEVIATION: Severity.WARNING,
    Anomaly.DUPLICATE: Severity.INFO,
    Anomaly.BACKWARDS: Severity.INFO,
}


class ValidatorOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is odd, and how often it is told of."""

    stale_s: Annotated[
        int, msgspec.Meta(ge=1, le=3600, description="silence of a whole exchange that is stale, s")
    ] = 30
    outlier_bps: Annotated[
        float, msgspec.Meta(gt=0, le=10_000, description="least move of a print that is an outlier, bps")
    ] = 50.0
    outlier_mads: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=1000,
            description="least move of an outlier, in median absolute deviations of the returns",
        ),
    ] = 20.0
    deviation_bps: Annotated[
        float,
        msgspec.Meta(gt=0, le=10_000, description="distance of a mid from the other exchanges' that is odd"),
    ] = 100.0
    backwards_ms: Annotated[
        int,
        msgspec.Meta(ge=0, le=3_600_000, description="how far an exchange's time may go back without a word"),
    ] = 1000
    quiet_s: Annotated[
        int, msgspec.Meta(ge=0, le=3600, description="least time between two messages on the same thing, s")
    ] = 10


class _Prints(msgspec.Struct, array_like=True):
    # What is remembered of a symbol's trades; the believed price is in ticks, 0 before the first.
    price: int = 0
    returns: list[float] = []
    outliers: list[int] = []  # prices in ticks, in a row
    numbers: list[int] = []


class _Stream(msgspec.Struct, array_like=True):
    exchange: str
    symbol: str
    prints: _Prints
    times: dict[str, int] = {}  # the last ts_event of each sort, ns
    lasting: list[Anomaly] = []  # found and not over
    counts: dict[Anomaly, int] = {}
    told: dict[Anomaly, int] = {}  # when last, ns


class _Feed(msgspec.Struct, array_like=True):
    last_ts: int
    is_lost: bool = False


class _State(msgspec.Struct, array_like=True):
    streams: list[_Stream]
    feeds: dict[str, _Feed]
    due: int


class Validator:
    """Publishes a DataAnomaly for what it doubts."""

    def __init__(self, ctx: Context, options: ValidatorOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._stale_ns = options.stale_s * NS_PER_S
        self._backwards_ns = options.backwards_ms * NS_PER_MS
        self._quiet_ns = options.quiet_s * NS_PER_S
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._feeds: dict[str, _Feed] = {}
        self._due = 0  # the next look at what is silent or apart, ns; 0 while nobody says anything

    # --- What comes ---------------------------------------------------------------------------

    def on_feed_connected(self, feed: FeedConnected) -> None:
        self._hear(feed.exchange)

    def on_feed_lost(self, lost: FeedLost) -> None:
        self._hear(lost.exchange)
        self._feeds[lost.exchange].is_lost = True

    def on_channel_lost(self, lost: ChannelLost) -> None:
        # Two channels of one symbol are two finds; how long is too long is the feed's to know.
        stream = self._stream(lost.exchange, lost.symbol)
        self._find(stream, Anomaly.CHANNEL, lost.silent_ms / 1000, 0.0, lost.reason)

    def on_book_snapshot(self, snapshot: BookSnapshot) -> None:
        self._check_book(snapshot)

    def on_book_delta(self, delta: BookDelta) -> None:
        self._check_book(delta)

    def on_trade(self, trade: Trade) -> None:
        self._hear(trade.exchange)
        stream = self._stream(trade.exchange, trade.symbol)
        self._check_time(stream, "trade", trade.ts_event)
        self._check_number(stream, trade.seq)
        self._check_price(stream, trade.price)

    def _hear(self, exchange: str) -> None:
        now = self._ctx.clock.now()
        if (feed := self._feeds.get(exchange)) is None:
            feed = self._feeds[exchange] = _Feed(now)
        feed.last_ts, feed.is_lost = now, False
        if not self._due:
            self._set_due(-(-now // GRID_NS) * GRID_NS)

    def _stream(self, exchange: str, symbol: str) -> _Stream:
        if (stream := self._streams.get((exchange, symbol))) is None:
            stream = self._streams[exchange, symbol] = _Stream(exchange, symbol, _Prints())
        return stream

    # --- Message by message -------------------------------------------------------------------

    def _check_book(self, change: BookSnapshot | BookDelta) -> None:
        self._hear(change.exchange)
        stream = self._stream(change.exchange, change.symbol)
        self._check_time(stream, "book", change.ts_event)
        book = self._ctx.book(change.exchange, change.symbol)  # it holds the change already
        if book.state is BookState.RESYNCING:
            return
        bid, ask = book.best_bid, book.best_ask
        over = bid - ask if bid and ask else -1
        if over < 0 and not stream.lasting:
            return
        best_bid, best_ask = self._price(stream, bid), self._price(stream, ask)
        text = f"the best bid {best_bid} is over the best ask {best_ask}"
        self._keep(stream, Anomaly.CROSSED, over > 0, float(over), 0.0, text)
        text = f"the best bid is at the best ask, {best_ask}"
        self._keep(stream, Anomaly.LOCKED, over == 0, 0.0, 0.0, text)

    def _price(self, stream: _Stream, ticks: int) -> str:
        instrument = self._ctx.instrument(stream.exchange, stream.symbol)
        return instrument.price_text(ticks) if instrument else f"{ticks} ticks"

    def _check_time(self, stream: _Stream, sort: str, ts_event: int) -> None:
        if not ts_event:
            return
        back_ns = stream.times.get(sort, 0) - ts_event
        stream.times[sort] = ts_event
        if back_ns > self._backwards_ns:
            text = f"the exchange's time of a {sort} went back by {back_ns / NS_PER_MS:,.1f} ms"
            limit = float(self._options.backwards_ms)
            self._find(stream, Anomaly.BACKWARDS, back_ns / NS_PER_MS, limit, text)

    def _check_number(self, stream: _Stream, number: int) -> None:
        numbers = stream.prints.numbers
        if not number:
            return
        if number in numbers:
            self._find(stream, Anomaly.DUPLICATE, float(number), 0.0, f"trade {number} came again")
            return
        numbers.append(number)
        del numbers[:-NUMBERS]

    def _check_price(self, stream: _Stream, price: int) -> None:
        prints = stream.prints
        if price <= 0:
            text = f"a print at a price of {self._price(stream, price)}"
            return self._find(stream, Anomaly.OUTLIER, _BPS, 0.0, text)
        if not prints.price:
            prints.price = price
            return
        move = math.log(price / prints.price)
        limit = self._limit_bps(prints.returns) if abs(move) * _BPS > self._options.outlier_bps else math.inf
        if abs(move) * _BPS > limit and not self._is_level(prints, price):
            text = f"a print at {self._price(stream, price)}, {move * _BPS:+,.1f} bps from the one before"
            return self._find(stream, Anomaly.OUTLIER, abs(move) * _BPS, limit, text)
        prints.price = price
        prints.outliers.clear()
        prints.returns.append(move)
        del prints.returns[:-RETURNS]

    def _limit_bps(self, returns: list[float]) -> float:
        if len(returns) < FEWEST_RETURNS:
            return math.inf
        mad = statistics.median(map(abs, returns))
        return max(self._options.outlier_bps, self._options.outlier_mads * _SCALE * mad * _BPS)

    def _is_level(self, prints: _Prints, price: int) -> bool:
        # Whether the market has moved: LEVEL outliers in a row, none of them one beside the others.
        prints.outliers.append(price)
        del prints.outliers[:-LEVEL]
        width_bps = math.log(max(prints.outliers) / min(prints.outliers)) * _BPS
        return len(prints.outliers) == LEVEL and width_bps <= self._options.outlier_bps

    # --- Once a second ------------------------------------------------------------------------

    def _set_due(self, ts: int) -> None:
        self._due = ts
        self._ctx.set_timer(ts, "look")

    def on_timer(self, timer: Timer) -> None:
        heard = {name for name, feed in self._feeds.items() if not self._look_at_feed(name, feed, timer.ts)}
        self._compare(heard)
        self._due = 0
        if heard:  # or a jump of hours in the input would become thousands of looks
            self._set_due(timer.ts + GRID_NS)

    def _look_at_feed(self, exchange: str, feed: _Feed, now: int) -> bool:
        # Whether nothing can be said of it: it is lost or silent.
        silent_ns = now - feed.last_ts
        is_stale = not feed.is_lost and silent_ns >= self._stale_ns
        silent_s, limit = silent_ns / NS_PER_S, float(self._options.stale_s)
        text = f"nothing has come from it for {silent_s:,.0f} s"
        self._keep(self._stream(exchange, ""), Anomaly.STALE, is_stale, silent_s, limit, text)
        return feed.is_lost or is_stale

    def _compare(self, heard: set[str]) -> None:
        mids: dict[str, dict[str, int]] = {}
        for stream in self._streams.values():
            if stream.exchange in heard and (mid := self._mid(stream)):
                mids.setdefault(stream.symbol, {})[stream.exchange] = mid
        for stream in self._streams.values():
            group = mids.get(stream.symbol, {})
            mid = group.get(stream.exchange, 0)
            others = [other for exchange, other in group.items() if exchange != stream.exchange]
            self._compare_mid(stream, mid / statistics.median(others) if mid and others else 1.0)

    def _mid(self, stream: _Stream) -> int:
        # Twice the mid in units of 1e-12 of the quote, 0 where there is none to trust.
        instrument = self._ctx.instrument(stream.exchange, stream.symbol)
        book = self._ctx.book(stream.exchange, stream.symbol)
        return book.mid2 * instrument.tick_size if instrument and book.is_trusted else 0

    def _compare_mid(self, stream: _Stream, ratio: float) -> None:
        apart, limit = (ratio - 1) * _BPS, self._options.deviation_bps
        text = f"its mid is {apart:+,.1f} bps from that of the other exchanges"
        self._keep(stream, Anomaly.DEVIATION, abs(apart) > limit, abs(apart), limit, text)

    # --- What is said -------------------------------------------------------------------------

    def _keep(
        self, stream: _Stream, anomaly: Anomaly, is_so: bool, value: float, limit: float, text: str
    ) -> None:
        # Find what lasts when it begins.
        if is_so and anomaly not in stream.lasting:
            stream.lasting.append(anomaly)
            self._find(stream, anomaly, value, limit, text)
        elif not is_so and anomaly in stream.lasting:
            stream.lasting.remove(anomaly)

    def _find(self, stream: _Stream, anomaly: Anomaly, value: float, limit: float, text: str) -> None:
        now = self._ctx.clock.now()
        count = stream.counts[anomaly] = stream.counts.get(anomaly, 0) + 1
        if anomaly in stream.told and now - stream.told[anomaly] < self._quiet_ns:
            return
        stream.told[anomaly] = now
        severity = SEVERITIES[anomaly]
        self._ctx.publish(
            DataAnomaly(now, stream.exchange, stream.symbol, anomaly, severity, value, limit, text, count)
        )

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(_State(list(self._streams.values()), self._feeds, self._due))

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=_State)
        self._streams = {(stream.exchange, stream.symbol): stream for stream in saved.streams}
        self._feeds, self._due = saved.feeds, saved.due


@hookimpl
def tickerml_feature_sets() -> Iterable[FeatureSetSpec]:
    """Offer the validator."""
    return [
        FeatureSetSpec(
            id=VALIDATOR,
            factory=Validator,
            options=ValidatorOptions,
            publishes=(DataAnomaly,),
            summary="doubts crossed books, silent feeds, odd prints, mids apart, what repeats or goes back",
        )
    ]
