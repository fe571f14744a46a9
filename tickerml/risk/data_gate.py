"""
Data gate: nothing is opened or closed on data that is doubtful.

An order is denied when the book of its symbol is not valid, is crossed, or has been until within
crossed_ms; when it is older than max_age_s while another book of the same symbol or the same
exchange is not; when its last message took longer than max_latency_s; and when the clock of its
exchange is further from ours than max_offset_ms, by what FeedSummarized says of it. It holds for
orders that reduce a position, too: a stop on a price that is not one would be a gift.

Whatever rests in a book that has been doubtful for cancel_s is canceled, once. The books are
looked at once a second.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookCrossed,
    CancelOrder,
    FeedSummarized,
    Options,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    RiskRuleSpec,
    RiskVerdict,
    SubmitOrder,
    hookimpl,
)

from .rule import Denied
from .sampling import Watch, WatchState

Key = tuple[str, str]


class DataGateOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes data doubtful."""

    max_age_s: Annotated[
        float, msgspec.Meta(gt=0, le=3600, description="how old a book may be while others go on, s")
    ] = 2.0
    crossed_ms: Annotated[
        int, msgspec.Meta(ge=0, le=60_000, description="how long a book that was crossed is left alone, ms")
    ] = 1000
    max_offset_ms: Annotated[
        int, msgspec.Meta(ge=1, le=600_000, description="how far an exchange's clock may be from ours, ms")
    ] = 500
    max_latency_s: Annotated[
        float, msgspec.Meta(gt=0, le=600, description="how long a message may have been on its way, s")
    ] = 5.0
    cancel_s: Annotated[
        float,
        msgspec.Meta(gt=0, le=3600, description="how long a resting order stays in a doubtful book, s"),
    ] = 5.0


class _State(WatchState, array_like=True):
    crossed: dict[Key, int] = msgspec.field(default_factory=dict)  # when last, ns UTC
    offsets: dict[str, int] = msgspec.field(default_factory=dict)  # by exchange, ns
    doubted: dict[Key, int] = msgspec.field(default_factory=dict)  # since when, ns UTC
    open: dict[str, Key] = msgspec.field(default_factory=dict)
    canceled: list[str] = msgspec.field(default_factory=list)


class DataGate(Watch[DataGateOptions, _State]):
    """Denies orders on doubtful data, and takes back what rests on it."""

    STATE = _State

    # --- What is known ------------------------------------------------------------------------

    def on_book_crossed(self, event: BookCrossed) -> None:
        self._state.crossed[event.exchange, event.symbol] = self._ctx.clock.now()

    def on_feed_summarized(self, summary: FeedSummarized) -> None:
        self._state.offsets[summary.exchange] = summary.clock_offset_ns

    def _doubt(self, key: Key, inputs: dict[str, float]) -> str:
        """Return why the data of *key* is doubtful; "" where it is not."""
        options, now = self._options, self._ctx.clock.now()
        passport = self._ctx.book(*key).passport(now)
        offset = self._state.offsets.get(key[0], 0)
        inputs |= {"age_ms": passport.age_ns / NS_PER_MS, "latency_ms": passport.latency_ns / NS_PER_MS}
        inputs["offset_ms"] = offset / NS_PER_MS
        if not self._ctx.book(*key).is_trusted:
            return f"the book of {key[1]} on {key[0]} is {passport.state} or crossed"
        if now - self._state.crossed.get(key, now - NS_PER_S * 3600) < options.crossed_ms * NS_PER_MS:
            return f"the book of {key[1]} on {key[0]} was crossed within {options.crossed_ms} ms"
        if passport.latency_ns > options.max_latency_s * NS_PER_S:
            return f"its last message was {passport.latency_ns / NS_PER_S:.1f} s on its way"
        if abs(offset) > options.max_offset_ms * NS_PER_MS:
            return f"the clock of {key[0]} is {offset / NS_PER_MS:.0f} ms from ours"
        if passport.age_ns > options.max_age_s * NS_PER_S and self._others_tick(key, now):
            return f"the book is {passport.age_ns / NS_PER_S:.1f} s old while others go on"
        return ""

    def _others_tick(self, key: Key, now: int) -> bool:
        limit = self._options.max_age_s * NS_PER_S
        for other in self._state.watch.books:
            is_peer = other != key and (other[0] == key[0] or other[1] == key[1])
            if is_peer and now - self._ctx.book(*other).ts_recv <= limit:
                return True
        return False

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if reason := self._doubt((order.exchange, order.symbol), inputs):
            raise Denied(reason)
        return order.quantity, ""

    # --- What rests ---------------------------------------------------------------------------

    def sample(self, ts: int) -> None:
        state = self._state
        for key in state.watch.books:
            if self._doubt(key, {}):
                state.doubted.setdefault(key, ts)
            else:
                state.doubted.pop(key, None)
        for order_id, key in state.open.items():
            since = state.doubted.get(key, ts)
            if ts - since >= self._options.cancel_s * NS_PER_S and order_id not in state.canceled:
                state.canceled.append(order_id)
                self._ctx.publish(CancelOrder(ts, order_id, *key, "the data is doubtful"))

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        self._state.open[order.order_id] = (order.exchange, order.symbol)

    def on_order_filled(self, fill: OrderFilled) -> None:
        if fill.leaves == 0:
            self._end(fill.order_id)

    def on_order_rejected(self, event: OrderRejected) -> None:
        self._end(event.order_id)

    def on_order_canceled(self, event: OrderCanceled) -> None:
        self._end(event.order_id)

    def on_order_expired(self, event: OrderExpired) -> None:
        self._end(event.order_id)

    def _end(self, order_id: str) -> None:
        self._state.open.pop(order_id, None)
        if order_id in self._state.canceled:
            self._state.canceled.remove(order_id)


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-data-gate",
            factory=DataGate,
            options=DataGateOptions,
            publishes=(RiskVerdict, CancelOrder),
            summary="denies orders on doubtful data and cancels what rests on it",
        )
    ]
