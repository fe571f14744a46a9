"""
Bars: what traded in each interval, as the exchanges' own candles say it.

A print belongs to the interval of its ts_event, by which the exchanges reckon, or of its
ts_recv where they give none. Since it is on its way for a while, a bar is published only
grace_ms after its interval has ended by our clock, and what comes later still is left out
and logged. An interval in which nothing traded has no bar.

The first and the last price are those of the earliest and the latest print, whatever order
they come in. vwap is sum(price x quantity) / sum(quantity), exact but for the rounding of
the result to the nearest millionth of a tick.

A bar is whole if every print of it can be in it: its interval began after the first print
that the feed has brought since it was last lost, and nothing was lost or skipped since. Where
the prints of one symbol alone have stopped coming, that holds for its bars, from its own first
print on; what was published before anybody noticed stays as it was.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    Bar,
    ChannelLost,
    ConfigError,
    Context,
    FeatureSetSpec,
    FeedLost,
    Options,
    SequenceGap,
    Timer,
    Trade,
    hookimpl,
)

BARS = "bars"
DAY_S = 86_400
VWAP_PER_TICK = 10**6
_NEVER = 2**63 - 1


class BarsOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an interval is, and how long its last prints are waited for."""

    seconds: Annotated[
        int, msgspec.Meta(ge=1, le=DAY_S, description="length of an interval, s; must divide a day")
    ] = 60
    grace_ms: Annotated[
        int,
        msgspec.Meta(
            ge=0, le=60_000, description="how long after its end, by our clock, an interval is closed, ms"
        ),
    ] = 2000


class _Open(msgspec.Struct, array_like=True):
    # An interval that is not closed yet; turnover in ticks times lots.
    first_ts: int
    last_ts: int
    is_whole: bool
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    turnover: int = 0
    trades: int = 0

    def add(self, ts: int, price: int, quantity: int) -> None:
        if ts < self.first_ts:
            self.first_ts, self.open = ts, price
        if ts >= self.last_ts:
            self.last_ts, self.close = ts, price
        self.high, self.low = max(self.high, price), min(self.low, price)
        self.volume += quantity
        self.turnover += price * quantity
        self.trades += 1

    @property
    def vwap(self) -> int:
        return (2 * VWAP_PER_TICK * self.turnover + self.volume) // (2 * self.volume)


Key = tuple[str, str, int]  # exchange, symbol, when the interval began in ns UTC


class _State(msgspec.Struct, array_like=True):
    intervals: list[tuple[Key, _Open]]
    since: dict[str, int]
    late: list[Key]


class Bars:
    """Publishes a Bar for each symbol and each interval in which it traded."""

    def __init__(self, ctx: Context, options: BarsOptions) -> None:
        """
        Raises: ConfigError: seconds does not divide a day.
        """
        if DAY_S % options.seconds:
            raise ConfigError(
                f"{BARS}: seconds must divide {DAY_S}, a day, was {options.seconds}; take 60, 300 or 3600"
            )
        self._ctx = ctx
        self._seconds = options.seconds
        self._interval_ns = options.seconds * NS_PER_S
        self._due_ns = self._interval_ns + options.grace_ms * NS_PER_MS
        self._intervals: dict[Key, _Open] = {}
        # From when on every print has come: of an exchange's feed, and of "exchange|symbol" where its alone
        # did not.
        self._since: dict[str, int] = {}
        self._late: list[Key] = []  # closed intervals of which something still came, newest last

    def on_trade(self, trade: Trade) -> None:
        if not trade.quantity:
            return
        ts = trade.ts_event or trade.ts_recv
        since = self._whole_since(trade, max(ts, trade.ts_recv))
        key = trade.exchange, trade.symbol, ts - ts % self._interval_ns
        interval = self._intervals.get(key)
        if interval is None:
            due = key[2] + self._due_ns
            if due < self._ctx.clock.now():
                return self._tell_late(key, trade)
            price = trade.price
            interval = _Open(ts, ts, since <= key[2], price, price, price, price)
            self._intervals[key] = interval
            self._ctx.set_timer(due, f"{trade.exchange}|{trade.symbol}|{key[2]}")
        interval.add(ts, trade.price, trade.quantity)

    def _whole_since(self, trade: Trade, now: int) -> int:
        since, alone = self._since.setdefault(trade.exchange, now), f"{trade.exchange}|{trade.symbol}"
        if self._since.get(alone) == _NEVER:
            self._since[alone] = now
        return max(since, self._since.get(alone, since))

    def on_channel_lost(self, lost: ChannelLost) -> None:
        if lost.channel == "trade":
            self._since[f"{lost.exchange}|{lost.symbol}"] = _NEVER
            self._doubt(lost.exchange, lost.symbol)

    def on_feed_lost(self, lost: FeedLost) -> None:
        self._since.pop(lost.exchange, None)
        for (exchange, _, _), interval in self._intervals.items():
            if exchange == lost.exchange:
                interval.is_whole = False

    def on_sequence_gap(self, gap: SequenceGap) -> None:
        self._doubt(gap.exchange, gap.symbol)

    def _doubt(self, exchange: str, symbol: str) -> None:
        for key, interval in self._intervals.items():
            if key[:2] == (exchange, symbol):
                interval.is_whole = False

    def on_timer(self, timer: Timer) -> None:
        exchange, symbol, start = timer.key.split("|")
        bar = self._intervals.pop((exchange, symbol, int(start)))
        self._ctx.publish(
            Bar(
                self._ctx.clock.now(),
                int(start),
                exchange,
                symbol,
                self._seconds,
                bar.open,
                bar.high,
                bar.low,
                bar.close,
                bar.volume,
                bar.vwap,
                bar.trades,
                bar.is_whole,
            )
        )

    def _tell_late(self, key: Key, trade: Trade) -> None:
        if key in self._late:
            return
        self._late = [*self._late[-99:], key]
        late_ms = (self._ctx.clock.now() - key[2] - self._interval_ns) / NS_PER_MS
        self._ctx.log.warning(
            "bar.print_late", exchange=trade.exchange, symbol=trade.symbol, late_ms=round(late_ms)
        )

    def snapshot(self) -> bytes:
        # As JSON: a turnover may be larger than msgpack's numbers.
        return msgspec.json.encode(_State(list(self._intervals.items()), self._since, self._late))

    def restore(self, state: bytes) -> None:
        saved = msgspec.json.decode(state, type=_State)
        self._intervals = dict(saved.intervals)
        self._since, self._late = saved.since, saved.late


@hookimpl
def tickerml_feature_sets() -> Iterable[FeatureSetSpec]:
    """Offer the bars."""
    return [
        FeatureSetSpec(
            id=BARS,
            factory=Bars,
            options=BarsOptions,
            publishes=(Bar,),
            summary="open, high, low, close, volume and VWAP of each interval, from trades",
        )
    ]
