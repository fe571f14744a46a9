"""
A synthetic market: several made-up exchanges, each a true FIFO book of single orders.

For trying things out with no network, and as an oracle: everything a real feed hides
is known here, the queue above all. What moves it, from the inside out:

    synthetic_value   what the assets are worth, a random walk with bursts
    synthetic_flow    the traders of each book, who see that late and with noise; some
                      exchanges are quicker
    synthetic_book    the orders that rest, in their queues
    synthetic_deviations   when and where traders are wrong, if they are to be

This room is the market around them: its time, and the way of its frames to us.

What one step published is one frame: a Trade for each resting order hit, as real
exchanges print them, then one BookDelta with the new totals. Its ts_recv is the
exchange's time plus a latency drawn for that exchange, never overtaking; frames of
different exchanges leave in the order in which they are received.

Every random number comes from a counted stream (synthetic_draws), so a seed is a market,
and a restored market goes on as if nothing had been. Latencies have a stream of their
own, and ghosts, listeners and quotes draw nothing: none of them changes what happens.
"""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    UNIT,
    BookDelta,
    BookOrders,
    BookSnapshot,
    Context,
    ExchangeSpec,
    FeedConnected,
    FeedEnded,
    FeedLost,
    FeedSummarized,
    Instrument,
    Message,
    Quote,
    Side,
    StateRefused,
    Trade,
    hookimpl,
    pack_levels,
    to_units,
)

from .synthetic_book import FifoBook, Ghost, QueuePlace
from .synthetic_deviations import Deviation, Deviations, DeviationsState
from .synthetic_draws import Draws, DrawsState
from .synthetic_flow import Terrain, Traders, TradersState
from .synthetic_options import ASSETS, SyntheticOptions
from .synthetic_value import Fundamentals, FundamentalState

PLUGIN = "exchange-synthetic"
FEE_PPM = 1_000  # 0.10 %, maker and taker
MIN_NOTIONAL = to_units(5)
SUMMARY_NS = 60 * NS_PER_S
FOREVER = 2**63 - 1
FEES_AS_OF = "2026-01-01"
ORDER_VALUE = 1_500.0  # of the median order, in quote units
SPACING = 0.3e-4  # of round prices, a fraction of the price

_FrameMessage = Instrument | FeedConnected | FeedLost | BookSnapshot | BookDelta | BookOrders | Trade | Quote


class _Market:
    """One symbol on one exchange: its traders, and what its feed has said."""

    def __init__(self, venue: int, instrument: Instrument, traders: Traders, tells_orders: bool) -> None:
        self.venue = venue
        self.exchange = instrument.exchange
        self.symbol = instrument.symbol
        self.instrument = instrument
        self.traders = traders
        self.tells_orders = tells_orders
        self.seq = 0
        self.trade_seq = 0
        self.quoted = (0, 0, 0, 0)

    def best(self) -> tuple[int, int, int, int]:
        bids, asks = self.traders.book.bids, self.traders.book.asks
        return bids.best, bids.totals[bids.best], asks.best, asks.totals[asks.best]

    def publish_whole(self, ts_recv: int, ts_event: int) -> list[_FrameMessage]:
        book, place = self.traders.book, (ts_recv, ts_event, self.exchange, self.symbol, self.seq)
        bids, asks = pack_levels(book.bids.levels()), pack_levels(book.asks.levels())
        singles = [BookOrders(*place, book.all_singles(), True)] if self.tells_orders else []
        return [*singles, BookSnapshot(*place, bids, asks)]

    def publish_step(
        self, ts_recv: int, ts_event: int, aggressor: Side, executions: list[tuple[int, int]]
    ) -> list[_FrameMessage]:
        exchange, symbol, book = self.exchange, self.symbol, self.traders.book
        messages: list[_FrameMessage] = []
        for price, lots in executions:
            self.trade_seq += 1
            messages.append(
                Trade(ts_recv, ts_event, exchange, symbol, self.trade_seq, price, lots, aggressor)
            )
        self.seq += 1
        if self.tells_orders:
            messages.append(BookOrders(ts_recv, ts_event, exchange, symbol, self.seq, book.take_singles()))
        bids, asks = book.bids.take_changes(), book.asks.take_changes()
        messages.append(BookDelta(ts_recv, ts_event, exchange, symbol, self.seq, bids, asks))
        return messages

    def publish_quote(self, ts_recv: int, ts_event: int) -> list[_FrameMessage]:
        best = self.best()
        if best == self.quoted:
            return []
        self.quoted = best
        return [Quote(ts_recv, ts_event, self.exchange, self.symbol, self.seq, *best)]


class Frame(msgspec.Struct, frozen=True, array_like=True, order=True):
    """What one exchange sent at once: when it reaches us, its place among equals, whose, and what."""

    ts_recv: int
    number: int
    venue: int
    messages: list[_FrameMessage]


class MarketState(msgspec.Struct, frozen=True, array_like=True):
    """Everything a SyntheticMarket remembers."""

    names: list[tuple[str, str]]
    is_open: bool
    is_ended: bool
    draws: DrawsState
    delays: DrawsState
    fundamentals: FundamentalState
    traders: list[TradersState]
    sequences: list[tuple[int, int]]
    last_recv: list[int]
    counts: list[int]
    frames: list[Frame]
    frame_count: int
    now: int
    yielded: int
    next_step: int
    next_summary: int
    end: int
    deviations: DeviationsState | None = None


class SyntheticMarket:
    """The source: market time, the agenda of all books, and the frames on their way to us."""

    def __init__(self, ctx: Context, options: SyntheticOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._draws = Draws(options.seed, 0)
        self._delays = Draws(options.seed, 1)
        self._fundamentals = Fundamentals(options)
        self._markets = [
            self._market(venue, symbol)
            for venue in range(len(options.venues))
            for symbol in options.symbols + options.first_venue_symbols * (venue == 0)
        ]
        self._by_name = {(market.exchange, market.symbol): market for market in self._markets}
        shared = [n for n, market in enumerate(self._markets) if market.symbol in options.symbols]
        self._deviations = Deviations(options, shared)
        self._frames: list[Frame] = []  # a heap
        self._frame_count = 0
        self._last_recv = [0] * len(options.venues)
        self._counts = [0] * len(options.venues)
        self._is_open = self._is_ended = False
        self._now = ctx.started_ns if options.start == "run" else _parse_time(options.start)
        self._yielded = self._now
        self._next_step = self._next_summary = 0
        self._end = FOREVER
        self._agenda: list[tuple[int, int]] = []  # a heap of (due, market), -1 for the fundamentals

    def _market(self, venue: int, symbol: str) -> _Market:
        options = self._options
        base, quote = symbol.split("/")
        asset = ASSETS[base]
        tick, lot = float(asset.tick), float(asset.lot)
        terrain = Terrain(
            ticks_a_unit=1.0 / tick,
            spacing=max(1, round(SPACING * asset.price / tick)),
            median_lots=ORDER_VALUE / asset.price / lot,
            fewest_lots=math.ceil(2 * MIN_NOTIONAL / UNIT / asset.price / lot),
            rate=options.rate,
            depth=options.depth,
            imbalance_tilt=options.imbalance_tilt,
            delay=2.0 + 2.0 * venue,
            noise=0.15e-4,
        )
        instrument = Instrument(
            0,
            options.venues[venue],
            symbol,
            base,
            quote,
            to_units(asset.tick),
            to_units(asset.lot),
            min_notional=MIN_NOTIONAL,
            maker_fee_ppm=FEE_PPM,
            taker_fee_ppm=FEE_PPM,
            fees_as_of=FEES_AS_OF,
        )
        traders = Traders(terrain, self._draws, self._fundamentals.log_price(symbol))
        return _Market(venue, instrument, traders, options.orders)

    # --- The source ---------------------------------------------------------------------------

    def events(self) -> Iterator[tuple[int, Sequence[Message]]]:
        """
        Yield (ts_recv, messages) frame by frame, in the order of ts_recv.

        Between two frames the state is whole: snapshot() there and restore() into a new
        market continue with the very next frame.
        """
        while not self._is_ended:
            self._yielded, messages = self._next()
            yield self._yielded, messages

    def summarize(self) -> Sequence[Message]:
        """Return a FeedSummarized for each exchange, with what has been received of it so far."""
        return self._summaries(self._yielded)

    def skip_to(self, ts: int) -> None:
        """
        Move market time forward to *ts*, ns UTC, as after an outage of ours.

        The market stood still meanwhile. What was on its way to us is lost; every feed that was
        up says FeedLost, FeedConnected and snapshots at *ts* before it goes on. A *ts* that
        is not in the future changes nothing.
        """
        if ts <= max(self._now, self._yielded) or self._is_ended:
            return
        if self._is_open:
            self._shift(ts - self._now)
        self._now = ts
        if self._is_open:
            self._frames.clear()
            for venue in range(len(self._options.venues)):
                self._reconnect(venue)

    def _shift(self, by: int) -> None:
        for market in self._markets:
            market.traders.next_ts += by
        self._next_step += by
        self._deviations.postpone(by)
        if self._end != FOREVER:
            self._end += by
        missed = max(0, self._now + by - self._next_summary + SUMMARY_NS) // SUMMARY_NS
        self._next_summary += missed * SUMMARY_NS
        self._plan()

    def _reconnect(self, venue: int) -> None:
        ts = self._last_recv[venue] = self._now
        exchange, markets = self._of(venue)
        self._ctx.log.warning("feed.lost", exchange=exchange, reason="outage", retry_in_ms=0)
        lost = FeedLost(ts, exchange, "market time moved on while nobody listened", 0)
        connected = FeedConnected(ts, exchange, [market.symbol for market in markets])
        whole = [message for market in markets for message in market.publish_whole(ts, ts)]
        self._send(venue, ts, [lost, connected, *whole])

    # --- Market time --------------------------------------------------------------------------

    def _next(self) -> tuple[int, Sequence[Message]]:
        if not self._is_open:
            self._open()
        frames = self._frames
        while True:
            due = min(self._agenda[0][0], self._end)
            if frames and (frames[0].ts_recv <= due or due == self._end):
                if frames[0].ts_recv >= self._next_summary:
                    return self._summarize_when_due()
                frame = heapq.heappop(frames)
                self._counts[frame.venue] += len(frame.messages)
                return frame.ts_recv, frame.messages
            if due == self._end:
                self._is_ended = True
                ts = max(self._end, self._yielded)
                return ts, [FeedEnded(ts, self._ctx.plugin, sum(self._counts), 0)]
            self._step()

    def _step(self) -> None:
        self._now, index = self._agenda[0]
        if index < 0:
            self._fundamentals.step(self._draws)
            for number, shift in self._deviations.step(self._now):
                self._markets[number].traders.requote(self._now, shift)
                self._publish(self._markets[number], Side.BUY, [])
            for number, market in enumerate(self._markets):
                shift = self._deviations.shift_of(number)
                market.traders.learn(self._fundamentals.log_price(market.symbol) + shift)
            self._next_step += Fundamentals.STEP_NS
            heapq.heapreplace(self._agenda, (self._next_step, -1))
            return
        market = self._markets[index]
        aggressor, executions = market.traders.act(self._fundamentals.activity)
        heapq.heapreplace(self._agenda, (market.traders.next_ts, index))
        self._publish(market, aggressor, executions)

    def _publish(self, market: _Market, aggressor: Side, executions: list[tuple[int, int]]) -> None:
        ts_recv = self._receive_time(market.venue)
        messages = market.publish_step(ts_recv, self._now, aggressor, executions)
        if self._options.quotes:
            messages += market.publish_quote(ts_recv, self._now)
        self._send(market.venue, ts_recv, messages)

    def _receive_time(self, venue: int) -> int:
        # Lognormal around the exchange's median; a frame never overtakes the one before it.
        ts_recv = self._now
        if self._options.latency_ms:
            median = self._options.latency_ms * (1.0 + 0.5 * venue)
            ts_recv += int(median * NS_PER_MS * math.exp(0.35 * self._delays.normal()))
        ts_recv = self._last_recv[venue] = max(ts_recv, self._last_recv[venue])
        return ts_recv

    def _send(self, venue: int, ts_recv: int, messages: list[_FrameMessage]) -> None:
        self._frame_count += 1
        heapq.heappush(self._frames, Frame(ts_recv, self._frame_count, venue, messages))

    def _open(self) -> None:
        self._is_open = True
        for market in self._markets:
            market.traders.open(self._now)
        self._next_step = self._now + Fundamentals.STEP_NS
        self._next_summary = self._now + SUMMARY_NS
        if self._options.duration_s:
            self._end = self._now + int(self._options.duration_s * NS_PER_S)
        self._plan()
        for venue in range(len(self._options.venues)):
            self._connect(venue)

    def _connect(self, venue: int) -> None:
        ts = self._receive_time(venue)
        exchange, markets = self._of(venue)
        symbols = [market.symbol for market in markets]
        messages: list[_FrameMessage] = [
            msgspec.structs.replace(market.instrument, ts_recv=ts) for market in markets
        ]
        messages.append(FeedConnected(ts, exchange, symbols))
        for market in markets:
            messages += market.publish_whole(ts, self._now)
            if self._options.quotes:
                messages += market.publish_quote(ts, self._now)
        self._ctx.log.info("feed.connected", exchange=exchange, symbols=symbols)
        self._send(venue, ts, messages)

    def _of(self, venue: int) -> tuple[str, list[_Market]]:
        return self._options.venues[venue], [market for market in self._markets if market.venue == venue]

    def _plan(self) -> None:
        self._agenda = [(market.traders.next_ts, index) for index, market in enumerate(self._markets)]
        self._agenda.append((self._next_step, -1))
        heapq.heapify(self._agenda)

    def _summarize_when_due(self) -> tuple[int, Sequence[Message]]:
        ts = self._next_summary
        self._next_summary += SUMMARY_NS
        return ts, self._summaries(ts)

    def _summaries(self, ts: int) -> Sequence[Message]:
        summaries = []
        for venue, count in enumerate(self._counts):
            exchange, markets = self._of(venue)
            books = len(markets)  # each is valid: nothing is ever missing here
            summaries.append(FeedSummarized(ts, exchange, count, 0, 0, 0, books=books, valid_books=books))
        return summaries

    # --- The truth ----------------------------------------------------------------------------

    def fifo_book(self, exchange: str, symbol: str) -> FifoBook:
        """
        Return the true book of single orders: look and listen (its tap), do not touch.

        It is ahead of the frames by those on their way. restore() replaces it.

        Raises: ValueError: no such exchange, or it does not list the symbol.
        """
        if (market := self._by_name.get((exchange, symbol))) is None:
            names = ", ".join(f"{known} {listed}" for known, listed in self._by_name)
            raise ValueError(f"expected one of {names}; was {exchange} {symbol}")
        return market.traders.book

    def orders_at(self, exchange: str, symbol: str, side: Side, price: int) -> Mapping[int, int]:
        """
        Return the lots of the orders that rest at *price* ticks by id, the first in line first.

        Raises: ValueError: no such market.
        """
        return self.fifo_book(exchange, symbol).side(side).queues.get(price, {})

    def true_queue(self, exchange: str, symbol: str, price: int, order_id: int) -> QueuePlace:
        """
        Return how many orders and lots truly are before *order_id*, which rests at *price* ticks.

        Raises: ValueError: no such market, or no such order there.
        """
        return self.fifo_book(exchange, symbol).place(price, order_id)

    def insert_ghost(self, exchange: str, symbol: str, side: Side, price: int, quantity: int) -> Ghost:
        """
        Let an order that the market never sees join the queue at *price* ticks, now.

        Its fills appear in the returned Ghost as they would truly have happened; after a
        restore, in fifo_book(...).ghosts[ghost.ghost_id].

        Raises: ValueError: no such market, or it would trade at once.
        """
        return self.fifo_book(exchange, symbol).insert_ghost(self._now, side, price, quantity)

    def deviation(self) -> tuple[str, str, Deviation] | None:
        """Return the exchange, the symbol and the deviation that is under way or to come, if any is."""
        if (current := self._deviations.current) is None:
            return None
        market = self._markets[current.market]
        return market.exchange, market.symbol, current

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Return the whole market: every order, value, random number to come, and frame on its way."""
        return msgspec.msgpack.encode(
            MarketState(
                list(self._by_name),
                self._is_open,
                self._is_ended,
                self._draws.state(),
                self._delays.state(),
                self._fundamentals.state(),
                [market.traders.state() for market in self._markets],
                [(market.seq, market.trade_seq) for market in self._markets],
                self._last_recv,
                self._counts,
                sorted(self._frames),
                self._frame_count,
                self._now,
                self._yielded,
                self._next_step,
                self._next_summary,
                self._end,
                self._deviations.state(),
            )
        )

    def migrate(self, state: bytes, version: int) -> bytes:
        """Return *state* of the version before, which knew of no deviations."""
        return state

    def restore(self, state: bytes) -> None:
        """
        Take what snapshot() wrote; its seed goes on, whatever the options say now.

        Raises: StateRefused: it is of other exchanges or symbols.
        """
        saved = msgspec.msgpack.decode(state, type=MarketState)
        if saved.names != list(self._by_name):
            raise StateRefused(
                self._ctx.plugin,
                f"expected the state of {list(self._by_name)}, was of {saved.names}; "
                "set venues and symbols back, or begin a new run",
            )
        if saved.deviations is not None:
            self._deviations.restore(saved.deviations)
        self._draws.restore(saved.draws)
        self._delays.restore(saved.delays)
        self._fundamentals.restore(saved.fundamentals)
        for market, traders, sequences in zip(self._markets, saved.traders, saved.sequences, strict=True):
            market.traders.restore(traders)
            if market.tells_orders:
                market.traders.book.take_singles()  # none since the last frame
            market.seq, market.trade_seq = sequences
            market.quoted = market.best() if saved.is_open else market.quoted
        self._is_open, self._is_ended = saved.is_open, saved.is_ended
        self._last_recv, self._counts = saved.last_recv, saved.counts
        self._frames, self._frame_count = saved.frames, saved.frame_count
        self._now, self._yielded = saved.now, saved.yielded
        self._next_step, self._next_summary, self._end = saved.next_step, saved.next_summary, saved.end
        self._plan()


def _parse_time(text: str) -> int:
    elapsed = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    return ((elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds) * 1_000


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    """Offer the synthetic market."""
    return [
        ExchangeSpec(
            id=PLUGIN,
            factory=SyntheticMarket,
            options=SyntheticOptions,
            publishes=(
                Instrument,
                BookSnapshot,
                BookDelta,
                BookOrders,
                Trade,
                Quote,
                FeedConnected,
                FeedLost,
                FeedSummarized,
                FeedEnded,
            ),
            state_version=2,
            summary="Made-up exchanges on true FIFO books: no network, and every hidden queue is known.",
        )
    ]
