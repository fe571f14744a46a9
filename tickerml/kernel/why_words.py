"""What happened to an order in words: each message as one sentence, in the units a person trades in."""

from collections.abc import Sequence
from typing import Any

import msgspec

from . import messages as m
from .units import NS_PER_MS, NS_PER_S, format_units
from .why_queue import Move

STAGES: dict[type[m.Message], str] = {
    m.SubmitOrder: "wish",
    m.RiskVerdict: "verdict",
    m.OrderDenied: "gate",
    m.OrderSubmitted: "gate",
    m.CancelOrder: "command",
    m.ReplaceOrder: "command",
    m.OrderFilled: "fill",
    m.MarkoutMeasured: "mark-out",
    m.LedgerPosted: "ledger",
}


class Words:
    """Speaks of one symbol."""

    def __init__(self, instrument: m.Instrument | None, columns: Sequence[str] = ()) -> None:
        """
        Args:
            instrument: the scale; without it prices are told in ticks and quantities in lots.
            columns: the names of the features.
        """
        self._instrument = instrument
        self._columns = columns

    def price(self, ticks: int, halves: int = 1) -> str:
        """Return *ticks* / *halves* as a price."""
        if not self._instrument:
            return f"{ticks / halves:g} ticks"
        return format_units(ticks * self._instrument.tick_size // halves)

    def quantity(self, lots: int) -> str:
        """Return *lots* as a quantity."""
        return format_units(lots * self._instrument.lot_size) if self._instrument else f"{lots} lots"

    # --- Steps --------------------------------------------------------------------------------

    def step(self, seq: int, origin: str, cause: int, message: m.Message, stage: str = "") -> dict[str, Any]:
        """Return one step of the story."""
        teller = _TELLERS.get(type(message))
        text = teller(self, message) if teller else f"{type(message).__name__} {_place(message)}".strip()
        return {
            "seq": seq,
            "ts": message.ts_recv,
            "stage": stage or STAGES.get(type(message), "exchange"),
            "who": origin,
            "text": text,
            "cause": cause,
            "type": type(message).__name__,
            "facts": self._facts(message),
        }

    def _facts(self, message: m.Message) -> dict[str, Any]:
        if isinstance(message, m.FeatureVector):
            return dict(zip(self._columns, message.unpack(), strict=False))
        if isinstance(message, m.BookDelta | m.BookSnapshot):
            return {"ts_event": message.ts_event, "exchange": message.exchange, "symbol": message.symbol}
        return {name: msgspec.to_builtins(getattr(message, name)) for name in message.__struct_fields__}

    def move(self, move: Move) -> dict[str, Any]:
        """Return the step that one move in the queue is."""
        what = {
            "trade": f"{self.quantity(move.quantity)} traded",
            "level": f"the level is {self.quantity(move.quantity)} now",
            "book": f"a new book has {self.quantity(move.quantity)} there",
        }[move.event]
        text = f"{what}: {self.quantity(move.before)} → {self.quantity(move.after)} ahead"
        return {
            "seq": move.seq,
            "ts": move.ts,
            "stage": "queue",
            "who": "market",
            "text": text,
            "cause": move.seq,
            "type": "Move",
            "facts": msgspec.to_builtins(move),
        }

    def outcome(self, life: list[m.Message]) -> str:
        """Return in a few words what became of the order."""
        fills = [each for each in life if isinstance(each, m.OrderFilled)]
        filled = f"filled {self.quantity(sum(fill.quantity for fill in fills))}" if fills else ""
        if fills and fills[-1].leaves == 0:
            return f"{filled}, all of it"
        ends = {
            m.OrderDenied: "denied",
            m.OrderRejected: "rejected",
            m.OrderCanceled: "canceled",
            m.OrderExpired: "expired",
        }
        end = next((word for each in life if (word := ends.get(type(each)))), "open")
        return ", ".join(part for part in (filled, end) if part)

    # --- Sentences ----------------------------------------------------------------------------

    def _features(self, row: m.FeatureVector) -> str:
        named = zip(self._columns, row.unpack(), strict=False)
        return ", ".join(f"{name} {value:.4g}" for name, value in named) or f"{len(row.values) // 8} numbers"

    def _trade(self, trade: m.Trade) -> str:
        size, price = self.quantity(trade.quantity), self.price(trade.price)
        return f"a print of {size} at {price} {_place(trade)}, the taker a {_verb(trade.aggressor)}er"

    def _book(self, book: m.BookDelta | m.BookSnapshot) -> str:
        levels = (len(book.bids) + len(book.asks)) // 16
        what = "a whole book" if isinstance(book, m.BookSnapshot) else "a change"
        return f"{what} of {levels} level{'s' * (levels != 1)}, {_place(book)}"

    def _terms(self, order: m.SubmitOrder | m.OrderSubmitted) -> str:
        price = f" at {self.price(order.price)}" if order.price else ""
        return (
            f"{_verb(order.side)} {self.quantity(order.quantity)} {order.symbol}{price} on {order.exchange}, "
            f"{order.order_type} {order.time_in_force}"
        )

    def _wish(self, wish: m.SubmitOrder) -> str:
        return f"wishes to {self._terms(wish)}" + (f": {wish.reason}" if wish.reason else "")

    def _verdict(self, verdict: m.RiskVerdict) -> str:
        answer = f"allows {self.quantity(verdict.quantity)}" if verdict.quantity else "denies"
        numbers = ", ".join(f"{name} {value:.6g}" for name, value in sorted(verdict.inputs.items()))
        reason = f": {verdict.reason}" if verdict.reason else ""
        return f"{verdict.rule} {answer}{reason}" + (f" ({numbers})" if numbers else "")

    def _denied(self, denied: m.OrderDenied) -> str:
        return f"denied by {denied.rule}: {denied.reason}; it never left"

    def _submitted(self, order: m.OrderSubmitted) -> str:
        text = f"lets through: {self._terms(order)}; mid {self.price(order.arrival_mid, 2)}"
        if (seen := order.passport) is None:
            return text
        return f"{text}; its book {seen.state}, {seen.age_ns / NS_PER_MS:.0f} ms old"

    def _accepted(self, event: m.OrderAccepted) -> str:
        ahead = f"{self.quantity(event.queue_ahead)} ahead in about {event.orders_ahead} orders"
        return f"accepted, {ahead}; we hear of it {_late(event)} later"

    def _rejected(self, event: m.OrderRejected) -> str:
        return f"rejected: {event.reason}"

    def _replaced(self, event: m.OrderReplaced) -> str:
        stands = f"stands with {self.quantity(event.leaves)} at {self.price(event.price)}"
        return f"{stands}, {self.quantity(event.queue_ahead)} ahead" + (
            f": {event.reason}" if event.reason else ""
        )

    def _filled(self, fill: m.OrderFilled) -> str:
        waited = f"waited {fill.wait_ns / NS_PER_S:.3f} s behind {self.quantity(fill.queue_ahead)}"
        what = f"{self.quantity(fill.quantity)} at {self.price(fill.price)} as {fill.liquidity}"
        parts = [
            f"fill {fill.fill}: {what}",
            f"{waited} in about {fill.orders_ahead} orders" if fill.liquidity is m.Liquidity.MAKER else "",
            f"{fill.entry_ns / NS_PER_MS:.0f} ms to the exchange, {_late(fill)} back",
            f"fee {format_units(fill.fee)} {fill.fee_asset}",
            f"slippage {self.slippage_bps(fill):+.2f} bps" if fill.arrival_mid else "",
            "predicted toxic" if fill.is_toxic_predicted else "not predicted toxic",
            "it emptied the level"
            if fill.is_swept
            else f"{self.quantity(fill.depth_left)} left at the level",
            f"{self.quantity(fill.leaves)} still open" if fill.leaves else "",
        ]
        return "; ".join(part for part in parts if part)

    def slippage_bps(self, fill: m.OrderFilled) -> float:
        """Return side x (fill - arrival mid) / arrival mid in bps: above 0 is a cost."""
        mid = fill.arrival_mid / 2
        return fill.side * (fill.price - mid) / mid * 1e4

    def _ended(self, event: m.OrderCanceled | m.OrderExpired) -> str:
        word = "canceled" if isinstance(event, m.OrderCanceled) else "expired"
        return f"{word} with {self.quantity(event.leaves)} open: {event.reason}"

    def _command(self, command: m.CancelOrder | m.ReplaceOrder) -> str:
        if isinstance(command, m.CancelOrder):
            return f"asks to cancel it: {command.reason}"
        return f"asks for {self.quantity(command.quantity)} at {self.price(command.price)}: {command.reason}"

    def _markout(self, told: m.MarkoutMeasured) -> str:
        return f"fill {told.fill} after {told.horizon_ns / NS_PER_S:g} s: {told.markout_bps:+.2f} bps"

    def _posted(self, posted: m.LedgerPosted) -> str:
        legs = ", ".join(
            f"{leg.bucket} {'+' * (leg.amount > 0)}{format_units(leg.amount)} {leg.asset}"
            for leg in posted.legs
        )
        gain = f"; realized {format_units(posted.realized)} {posted.currency}" if posted.realized else ""
        return f"{posted.account} {posted.cause}: {legs}{gain}"


def _verb(side: m.Side) -> str:
    return "buy" if side is m.Side.BUY else "sell"


def _place(message: Any) -> str:
    return " ".join(
        part for part in (getattr(message, "exchange", ""), getattr(message, "symbol", "")) if part
    )


def _late(event: m.OrderAccepted | m.OrderFilled) -> str:
    return f"{(event.ts_recv - event.ts_event) / NS_PER_MS:.0f} ms"


_TELLERS: dict[type[m.Message], Any] = {
    m.FeatureVector: Words._features,
    m.Trade: Words._trade,
    m.BookDelta: Words._book,
    m.BookSnapshot: Words._book,
    m.SubmitOrder: Words._wish,
    m.RiskVerdict: Words._verdict,
    m.OrderDenied: Words._denied,
    m.OrderSubmitted: Words._submitted,
    m.OrderAccepted: Words._accepted,
    m.OrderRejected: Words._rejected,
    m.OrderReplaced: Words._replaced,
    m.OrderFilled: Words._filled,
    m.OrderCanceled: Words._ended,
    m.OrderExpired: Words._ended,
    m.CancelOrder: Words._command,
    m.ReplaceOrder: Words._command,
    m.MarkoutMeasured: Words._markout,
    m.LedgerPosted: Words._posted,
}
