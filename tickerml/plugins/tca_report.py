"""
Transaction cost analysis: what became of a run's orders, and whether its fills can be believed.

A fill that waited long behind others tends to come when the price goes through it; the simulator
predicts that from the position an order started from (is_toxic_predicted), and a fill turned out
*toxic* when its mark-out lost more than half the spread at the fill, or more than a limit that is
given. Precision is how many of those predicted were, recall how many of those that were had been
predicted.

Passive fills lose a little on average to whoever met them. Where a simulator's passive fills gain,
it has filled what nobody would have: the report says so. All mark-outs, spreads and slippages are
in bps; a percentile is the least value that so many per cent of them do not exceed.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    Liquidity,
    MarkoutMeasured,
    Message,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderReplaced,
    OrderSubmitted,
    OrderType,
    TimeInForce,
)

WANTED = (OrderSubmitted, OrderFilled, MarkoutMeasured)

HORIZON_S = 10  # of the mark-outs that say whether a run is too good
EDGES_MS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)

Row = dict[str, Any]


class _Order(msgspec.Struct):
    # What became of one order; quantities in lots.
    submitted: OrderSubmitted
    quantity: int
    accepted: OrderAccepted | None = None
    filled: int = 0
    has_taken: bool = False
    is_over: bool = False

    @property
    def has_waited(self) -> bool:
        """Whether it has rested and never taken."""
        terms = (TimeInForce.GTC, TimeInForce.POST_ONLY)
        can_rest = self.submitted.order_type is OrderType.LIMIT and self.submitted.time_in_force in terms
        return can_rest and self.accepted is not None and not self.has_taken


class Analysis:
    """Collects one run's messages; ask for report() at its end."""

    def __init__(self, toxic_bps: float | None = None) -> None:
        """
        Args:
            toxic_bps: a fill whose mark-out loses more was toxic; None for half the spread at the fill.
        """
        self._toxic_bps = toxic_bps
        self._orders: dict[str, _Order] = {}
        self._fills: dict[tuple[str, int], OrderFilled] = {}
        self._markouts: dict[int, dict[tuple[str, int], float]] = defaultdict(dict)  # by horizon, s
        self._rejected = 0

    def add(self, message: Message) -> None:
        """Count *message*."""
        match message:
            case OrderSubmitted():
                self._orders[message.order_id] = _Order(message, message.quantity)
            case OrderFilled():
                self._add_fill(message)
            case MarkoutMeasured():
                horizon = self._markouts[message.horizon_ns // NS_PER_S]
                horizon[message.order_id, message.fill] = message.markout_bps
            case OrderAccepted() | OrderReplaced() | OrderRejected() | OrderCanceled() | OrderExpired():
                if order := self._orders.get(message.order_id):
                    self._follow(order, message)
            case _:
                pass

    def _add_fill(self, fill: OrderFilled) -> None:
        self._fills[fill.order_id, fill.fill] = fill
        if order := self._orders.get(fill.order_id):
            order.filled += fill.quantity
            order.has_taken |= fill.liquidity is Liquidity.TAKER
            order.is_over |= fill.leaves == 0

    def _follow(self, order: _Order, message: Message) -> None:
        match message:
            case OrderAccepted():
                order.accepted = message
            case OrderReplaced():
                order.quantity = order.filled + message.leaves
            case _:
                order.is_over = True
                self._rejected += isinstance(message, OrderRejected)

    def report(self) -> Row:
        """Return every figure, ready for JSON."""
        return {
            "orders": len(self._orders),
            "rejected": self._rejected,
            "fills": len(self._fills),
            "fill_rate": list(self._fill_rates()),
            "markouts": list(self._markout_rows()),
            "toxic": list(self._toxic_rows()),
            "spreads": list(self._spread_rows()),
            "slippage": list(self._slippage_rows()),
            "latency": list(self._latency_rows()),
            "passive_within_a_tick": self._within_a_tick(),
            "too_optimistic": self._verdict(),
        }

    # --- Orders -------------------------------------------------------------------------------

    def _fill_rates(self) -> Iterator[Row]:
        # Orders that started alike stand in one row, so there may be fewer than ten.
        waited = [order for order in self._orders.values() if order.is_over and order.has_waited]
        starts = sorted(order.accepted.orders_ahead for order in waited if order.accepted)
        first = {start: rank for rank, start in reversed(list(enumerate(starts)))}
        rows: dict[int, list[_Order]] = defaultdict(list)
        for order in waited:
            assert order.accepted is not None  # else it has not waited
            rows[10 * first[order.accepted.orders_ahead] // len(starts)].append(order)
        for decile, orders in sorted(rows.items()):
            ahead = [order.accepted.orders_ahead for order in orders if order.accepted]
            yield {
                "decile": decile + 1,
                "orders_ahead": [min(ahead), max(ahead)],
                "orders": len(orders),
                "filled": _mean(order.filled >= order.quantity for order in orders),
                "quantity_filled": _mean(order.filled / order.quantity for order in orders if order.quantity),
            }

    def _latency_rows(self) -> Iterator[Row]:
        ways: dict[tuple[str, str], list[float]] = defaultdict(list)
        for order in self._orders.values():
            if accepted := order.accepted:
                there = accepted.ts_event - order.submitted.ts_recv
                ways[accepted.exchange, "entry"].append(there / NS_PER_MS)
                ways[accepted.exchange, "response"].append((accepted.ts_recv - accepted.ts_event) / NS_PER_MS)
        for (exchange, way), taken in sorted(ways.items()):
            yield {"exchange": exchange, "way": way, "orders": len(taken), **_spread_out(taken, "ms")} | {
                "histogram": _histogram(taken)
            }

    # --- Fills --------------------------------------------------------------------------------

    def _markout_rows(self) -> Iterator[Row]:
        groups: dict[tuple[str, bool, int], list[float]] = defaultdict(list)
        for horizon, measured in sorted(self._markouts.items()):
            for fill, bps in self._measured(measured):
                groups[fill.liquidity.value, fill.is_toxic_predicted, horizon].append(bps)
        for (liquidity, is_predicted, horizon), taken in sorted(groups.items()):
            yield {
                "liquidity": liquidity,
                "predicted_toxic": is_predicted,
                "horizon_s": horizon,
                "fills": len(taken),
                "mean_bps": _mean(taken),
                "p50_bps": _percentile(taken, 50),
            }

    def _measured(self, markouts: dict[tuple[str, int], float]) -> Iterator[tuple[OrderFilled, float]]:
        return ((self._fills[key], bps) for key, bps in markouts.items() if key in self._fills)

    def _toxic_rows(self) -> Iterator[Row]:
        for horizon, measured in sorted(self._markouts.items()):
            counts: dict[tuple[str, str], Counter[tuple[bool, bool]]] = defaultdict(Counter)
            for fill, bps in self._measured(measured):
                if fill.liquidity is Liquidity.MAKER:
                    outcome = (fill.is_toxic_predicted, bps < -self._limit_of(fill))
                    counts[fill.exchange, fill.symbol][outcome] += 1
            for (exchange, symbol), outcomes in sorted(counts.items()):
                yield {"exchange": exchange, "symbol": symbol, "horizon_s": horizon, **_score(outcomes)}

    def _limit_of(self, fill: OrderFilled) -> float:
        return fill.fill_spread / 2 / fill.price * 1e4 if self._toxic_bps is None else self._toxic_bps

    def _spread_rows(self) -> Iterator[Row]:
        # Effective is 2 side (fill - mid) / mid, realized that against the mid of the horizon: costs to us.
        effective: dict[str, list[float]] = defaultdict(list)
        realized: dict[tuple[str, int], list[float]] = defaultdict(list)
        for fill in self._fills.values():
            if fill.fill_mid:
                effective[fill.liquidity.value].append(2 * fill.side * _off(fill.price, fill.fill_mid / 2))
        for horizon, measured in sorted(self._markouts.items()):
            for fill, bps in self._measured(measured):
                if fill.fill_mid:
                    realized[fill.liquidity.value, horizon].append(-4 * bps * fill.price / fill.fill_mid)
        for liquidity, paid in sorted(effective.items()):
            yield {"liquidity": liquidity, "fills": len(paid), "effective_bps": _mean(paid)} | {
                f"realized_{horizon}s_bps": _mean(realized[liquidity, horizon])
                for horizon in sorted(self._markouts)
            }

    def _slippage_rows(self) -> Iterator[Row]:
        groups: dict[str, list[float]] = defaultdict(list)
        for fill in self._fills.values():
            if fill.arrival_mid:
                groups[fill.liquidity.value].append(fill.side * _off(fill.price, fill.arrival_mid / 2))
        for liquidity, bps in sorted(groups.items()):
            row = {"liquidity": liquidity, "fills": len(bps), "mean_bps": _mean(bps)}
            yield row | _spread_out(bps, "bps")

    def _within_a_tick(self) -> Row:
        # Of the best price of its own side, as the exchange's book stood when it traded.
        passive = [f for f in self._fills.values() if f.liquidity is Liquidity.MAKER and f.fill_mid]
        behind = [(f.side * (f.fill_mid - 2 * f.price) - f.fill_spread) / 2 for f in passive]
        near = [ticks <= 1 for ticks in behind]
        return {"fills": len(near), "within": sum(near), "share": _mean(near)}

    def _verdict(self) -> Row:
        measured = self._measured(self._markouts.get(HORIZON_S, {}))
        bps = [bps for fill, bps in measured if fill.liquidity is Liquidity.MAKER]
        mean = _mean(bps)
        return {
            "flag": None if mean is None else mean > 0,
            "horizon_s": HORIZON_S,
            "passive_fills": len(bps),
            "mean_markout_bps": mean,
            "standard_error_bps": _standard_error(bps),
        }


def _score(outcomes: Counter[tuple[bool, bool]]) -> Row:
    hits, alarms, misses = outcomes[True, True], outcomes[True, False], outcomes[False, True]
    return {
        "fills": outcomes.total(),
        "predicted": hits + alarms,
        "toxic": hits + misses,
        "both": hits,
        "precision": hits / (hits + alarms) if hits + alarms else None,
        "recall": hits / (hits + misses) if hits + misses else None,
    }


def _off(price: float, mid: float) -> float:
    return (price - mid) / mid * 1e4


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None


def _standard_error(values: Sequence[float]) -> float | None:
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def _percentile(values: Sequence[float], percent: int) -> float:
    ranked = sorted(values)
    return ranked[-(-percent * len(ranked) // 100) - 1]


def _spread_out(values: Sequence[float], unit: str) -> Row:
    p50, p95 = _percentile(values, 50), _percentile(values, 95)
    return {f"p50_{unit}": p50, f"p95_{unit}": p95, f"max_{unit}": max(values)}


def _histogram(taken: Sequence[float]) -> list[Row]:
    # How many of *taken*, in ms, are from each edge on and below the next.
    counts = Counter(max(edge for edge in EDGES_MS if edge <= ms) for ms in taken)
    return [{"from_ms": edge, "orders": counts[edge]} for edge in EDGES_MS if counts[edge]]
