"""
The order flow of one synthetic book: who comes next, when, and what they do.

- Orders come as a Hawkes process: limit, market and cancel events excite themselves and
  one another with an exponential kernel, drawn exactly by thinning (Ogata 1981). Cancels
  also come in proportion to how full the book is, which keeps it from growing.
- Limit orders go to round prices a few spacings behind the value, so queues form; some
  join the best, a few improve it by a tick. Cancels take mostly from the back of a queue.
- Market orders lean towards the value, towards their own recent direction (so signs are
  persistent), and a little towards the heavier side of the book (imbalance_tilt).

The traders see the value (synthetic_value) late and with noise, and act on a FifoBook
(synthetic_book), which knows nothing of them.
"""

import math
from typing import NamedTuple

import msgspec

from tickerml.kernel import NS_PER_S, Side

from .synthetic_book import FifoBook, FifoState
from .synthetic_draws import Draws

MARKET, LIMIT, CANCEL = range(3)

#: The mix of events: market, limit, cancel.
SHARES = (0.09, 0.53, 0.38)

#: OFFSPRING[k][j]: how many events of kind j one of kind k brings about directly. Each row sums to
#: less than 1, so the process does not explode.
OFFSPRING = ((0.35, 0.25, 0.15), (0.02, 0.30, 0.15), (0.02, 0.15, 0.30))

#: Messages of one event, on average: a market order prints several trades. Measured.
MESSAGES_AN_EVENT = 1.2

FORGETTING = 4.0  # of the kernel, a second: an event's offspring come within about 250 ms
PRESSURE_FORGETTING = 0.2  # of the signs of market orders, a second
ORDERS_A_LEVEL = 5
FEWEST_LEVELS = 5  # that a market order leaves and cancels do not thin


class Terrain(NamedTuple):
    """
    What the traders of one book go by.

    spacing is the step of round prices in ticks; median_lots and fewest_lots are order
    sizes; rate is in messages a second; delay is the e-fold with which the traders
    learn of the value, in steps of it, and noise the error they add each step.
    """

    ticks_a_unit: float
    spacing: int
    median_lots: float
    fewest_lots: int
    rate: float
    depth: int
    imbalance_tilt: float
    delay: float
    noise: float


class TradersState(msgspec.Struct, frozen=True, array_like=True):
    """Everything the traders of one book remember, and the book."""

    book: FifoState
    view: float
    excited: tuple[float, float, float]
    pressure: float
    next_ts: int
    next_kind: int


class Traders:
    """Everybody who trades in one book: who comes next, when, and what they do."""

    def __init__(self, terrain: Terrain, draws: Draws, log_price: float) -> None:
        """
        Args:
            terrain: the scales of this book.
            draws: the market's random numbers.
            log_price: logarithm of what a whole base asset is worth in quote assets.
        """
        self.terrain = terrain
        self.book = FifoBook()
        self._draws = draws
        self._full = terrain.depth * ORDERS_A_LEVEL  # orders a side
        # The rates that, with all their offspring, add up to the shares of terrain.rate.
        events = terrain.rate / MESSAGES_AN_EVENT
        self._base = [
            events * (SHARES[j] - sum(OFFSPRING[k][j] * SHARES[k] for k in range(3))) for j in range(3)
        ]
        self._excited = [0.0, 0.0, 0.0]  # extra events a second of each kind, as of next_ts
        self._pressure = 0.0  # signs of market orders, forgotten exponentially, in [-1, 1]
        self._fair = 0.0  # what the traders think it is worth, in ticks
        self._view = 0.0  # its logarithm
        self.next_ts = 0
        self._next_kind = LIMIT
        self._believe(log_price)

    def open(self, ts: int) -> None:
        """Fill the book and let trading begin at *ts*."""
        self._fill(ts)
        self.book.bids.touched.clear()
        self.book.asks.touched.clear()
        self._schedule(ts, 1.0)

    def learn(self, log_price: float) -> None:
        """Move the view towards the value, with an error."""
        terrain = self.terrain
        view = self._view + (log_price - self._view) / terrain.delay
        self._believe(view + terrain.noise * self._draws.normal())

    def requote(self, ts: int, change: float) -> None:
        """Change the view by *change*, a logarithm, and quote the whole book anew around it at *ts*."""
        self._believe(self._view + change)
        for side in (Side.BUY, Side.SELL):
            for price, ids in list(self.book.side(side).queues.items()):
                for order_id in list(ids):
                    self.book.cancel(ts, side, price, order_id)
        self._fill(ts)

    def _fill(self, ts: int) -> None:
        for side in (Side.BUY, Side.SELL):
            for _ in range(self._full):
                self._add(ts, side)

    def _believe(self, view: float) -> None:
        self._view = view
        self._fair = math.exp(view) * self.terrain.ticks_a_unit

    def act(self, activity: float) -> tuple[Side, list[tuple[int, int]]]:
        """
        Do what is due at next_ts and choose what comes next.

        Args:
            activity: how much livelier than usual the market is.
        Returns: the aggressor, and (price, lots) of each order it traded with; none for other events.
        """
        ts, kind = self.next_ts, self._next_kind
        aggressor = Side.BUY
        executions: list[tuple[int, int]] = []
        if kind == MARKET:
            aggressor, executions = self._take(ts)
        elif kind == CANCEL:
            self._withdraw(ts)
        else:
            self._add(ts, self._side_to_fill())
        for j in range(3):
            self._excited[j] += FORGETTING * OFFSPRING[kind][j]
        self._schedule(ts, activity)
        return aggressor, executions

    def _schedule(self, ts: int, activity: float) -> None:
        # Thinning: between events the intensity only falls, so its value now bounds it until the next.
        uniform, excited = self._draws.uniform, self._excited
        book = self.book
        market, limit, cancel = (activity * base for base in self._base)
        cancel *= min(2.0, (book.bids.count + book.asks.count) / (2 * self._full))
        base, extra = market + limit + cancel, sum(excited)
        wait = 0.0
        while True:
            bound = base + extra
            candidate = -math.log(1.0 - uniform()) / bound
            wait += candidate
            kept = math.exp(-FORGETTING * candidate)
            excited[0] *= kept
            excited[1] *= kept
            excited[2] *= kept
            extra *= kept
            mark = uniform() * bound
            if mark <= base + extra:
                break
        self._pressure *= math.exp(-PRESSURE_FORGETTING * wait)
        self.next_ts = ts + 1 + int(wait * NS_PER_S)
        market += excited[0]
        self._next_kind = MARKET if mark < market else LIMIT if mark < market + limit + excited[1] else CANCEL

    def _lots(self, median: float, sigma: float) -> int:
        return max(self.terrain.fewest_lots, int(median * math.exp(sigma * self._draws.normal())))

    # --- Limit orders -------------------------------------------------------------------------

    def _side_to_fill(self) -> Side:
        bids, asks = self.book.bids.count, self.book.asks.count
        return Side.BUY if self._draws.uniform() * (bids + asks) < asks else Side.SELL

    def _add(self, ts: int, side: Side) -> None:
        own, other = self.book.side(side), self.book.side(side.opposite)
        price = self._limit_price(side, own.best)
        if other.keys and side * (other.best - price) <= 0:
            price = other.best - side
        self.book.add(ts, side, max(1, price), self._lots(self.terrain.median_lots, 0.9))

    def _limit_price(self, side: Side, best: int) -> int:
        spacing, draws = self.terrain.spacing, self._draws
        choice = draws.uniform()
        if choice < 0.30 and best and side * (self._fair - best) > 0:
            # One in ten of those who join the best go one tick before it.
            return best + side if choice < 0.03 else best
        # One in five asks for the least that is worth it, whatever the book: this closes wide spreads.
        away = 0.5 if choice < 0.50 else 0.5 + 0.35 * self.terrain.depth * draws.exponential()
        price = self._fair - side * spacing * away
        if choice > 0.94:
            return round(price)
        steps = price / spacing
        return spacing * (math.floor(steps) if side is Side.BUY else math.ceil(steps))

    # --- Cancels ------------------------------------------------------------------------------

    def _withdraw(self, ts: int) -> None:
        uniform, book = self._draws.uniform, self.book
        bids, asks = book.bids, book.asks
        side = Side.BUY if uniform() * (bids.count + asks.count) < bids.count else Side.SELL
        if (stale := self._stale_side()) is not None and uniform() < 0.9:
            side = stale
        own = book.side(side)
        if side is stale and len(own.keys) > 2 * FEWEST_LEVELS:
            self._pull(ts, side, own.best)
        elif own.count <= self._full // 2 or len(own.keys) <= FEWEST_LEVELS:
            self._add(ts, side)
        elif 2 * len(own.keys) > 3 * self.terrain.depth:
            self._pull(ts, side, own.price_at(len(own.keys) - 1))
        else:
            price = own.price_of(int(own.count * uniform()))
            ids = list(own.queues[price])
            book.cancel(ts, side, price, ids[-1 - int(len(ids) * uniform() ** 2)])

    def _stale_side(self) -> Side | None:
        # The side whose best price is worse for its owners than what they think it is worth.
        if self.book.bids.best > self._fair:
            return Side.BUY
        return Side.SELL if self.book.asks.best < self._fair else None

    def _pull(self, ts: int, side: Side, price: int) -> None:
        ids = list(self.book.side(side).queues[price])
        for order_id in ids[: -1 - len(ids) // 2 : -1] or ids:
            self.book.cancel(ts, side, price, order_id)

    # --- Market orders ------------------------------------------------------------------------

    def _take(self, ts: int) -> tuple[Side, list[tuple[int, int]]]:
        bids, asks = self.book.bids, self.book.asks
        gap = (self._fair - (bids.best + asks.best) / 2) / self.terrain.spacing
        bid_lots, ask_lots = bids.quantity_within(3), asks.quantity_within(3)
        odds = 1.5 * gap + 1.5 * self._pressure
        odds += self.terrain.imbalance_tilt * (bid_lots - ask_lots) / (bid_lots + ask_lots)
        side = (
            Side.BUY
            if self._draws.uniform() < 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, odds))))
            else Side.SELL
        )
        self._pressure += 0.2 * (side - self._pressure)
        resting = self.book.side(side.opposite)
        deepest = min(5, len(resting.keys) - 1 - FEWEST_LEVELS)
        if deepest < 0:
            self._add(ts, side.opposite)
            return side, []
        urgency = 0.6 + max(0.0, min(1.5, 0.5 * side * gap))
        quantity = self._lots(self.terrain.median_lots * urgency, 1.2)
        return side, self.book.execute(ts, side, quantity, resting.price_at(deepest))

    # --- State --------------------------------------------------------------------------------

    def state(self) -> TradersState:
        """Return everything they remember."""
        market, limit, cancel = self._excited
        excited = (market, limit, cancel)
        return TradersState(
            self.book.state(), self._view, excited, self._pressure, self.next_ts, self._next_kind
        )

    def restore(self, state: TradersState) -> None:
        """Take what state() returned; whoever listens to the book goes on listening."""
        tap = self.book.tap
        self.book = FifoBook.from_state(state.book)
        self.book.tap = tap
        self._excited = list(state.excited)
        self._pressure = state.pressure
        self.next_ts, self._next_kind = state.next_ts, state.next_kind
        self._believe(state.view)
