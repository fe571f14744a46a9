"""
The gate: no order passes without a yes from every rule.

It waits for one RiskVerdict from each enabled rule, wherever that rule runs, and
lets through the smallest quantity any of them allows. One zero is a denial; so is
silence past the deadline, and so is a rule that has failed. It holds the trading
state: a halt cancels what is open, denies what comes, and stays until a person
resumes. When the simulator or a ledger beside it fails, it halts.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from . import messages as m
from .hookspecs import Options, PluginSpec, Timer
from .units import NS_PER_S

GATE = "gate"
DEADLINE_NS = NS_PER_S  # a rule in another process answers within a few ms
FAILED_RULE_REASON = "the rule has failed, and a rule that cannot answer is a no"


class _Pending(msgspec.Struct):
    order: m.SubmitOrder
    waiting: list[str]
    quantity: int


class _State(msgspec.Struct):
    is_halted: bool = False
    halted_by: str = ""
    halt_reason: str = ""
    failed_rules: list[str] = []
    pending: dict[str, _Pending] = {}
    open: dict[str, m.OrderSubmitted] = {}


class Gate:
    """Collects verdicts and keeps the trading state; a part of the kernel, built in the simulator's host."""

    def __init__(self, ctx: Any, rules: Sequence[str], vital: Sequence[str] = ()) -> None:
        self._ctx = ctx
        self._rules = sorted(rules)
        self._vital = frozenset(vital)
        self._state = _State()

    @property
    def trading_state(self) -> m.TradingState:
        """ACTIVE or HALTED."""
        return m.TradingState.HALTED if self._state.is_halted else m.TradingState.ACTIVE

    @property
    def open_orders(self) -> dict[str, m.OrderSubmitted]:
        """Orders that left and have not ended, by id."""
        return self._state.open

    def on_submit_order(self, order: m.SubmitOrder) -> None:
        state = self._state
        if state.is_halted:
            return self._deny(order, GATE, f"trading is halted by {state.halted_by}: {state.halt_reason}")
        if order.quantity <= 0:
            return self._deny(order, GATE, f"quantity must be positive, was {order.quantity} lots")
        if order.order_id in state.open or order.order_id in state.pending:
            return self._deny(order, GATE, "an order with this id is already open")
        if failed := [rule for rule in self._rules if rule in state.failed_rules]:
            return self._deny(order, failed[0], FAILED_RULE_REASON)
        state.pending[order.order_id] = _Pending(order, list(self._rules), order.quantity)
        if self._rules:
            self._ctx.set_timer(self._ctx.clock.now() + DEADLINE_NS, order.order_id)
        else:
            self._submit(state.pending[order.order_id])

    def on_risk_verdict(self, verdict: m.RiskVerdict) -> None:
        pending = self._state.pending.get(verdict.order_id)
        if pending is None or verdict.rule not in pending.waiting:
            return
        pending.waiting.remove(verdict.rule)
        pending.quantity = min(pending.quantity, verdict.quantity)
        if pending.quantity <= 0:
            self._deny_pending(pending, verdict.rule, verdict.reason)
        elif not pending.waiting:
            self._submit(pending)

    def on_timer(self, timer: Timer) -> None:
        if pending := self._state.pending.get(timer.key):
            self._deny_pending(pending, pending.waiting[0], "no verdict before the deadline")

    def _submit(self, pending: _Pending) -> None:
        order, now = pending.order, self._ctx.clock.now()
        del self._state.pending[order.order_id]
        book = self._ctx.book(order.exchange, order.symbol)
        submitted = m.OrderSubmitted(
            now,
            order.order_id,
            order.strategy,
            order.account,
            order.exchange,
            order.symbol,
            order.side,
            order.order_type,
            order.time_in_force,
            order.price,
            pending.quantity,
            book.mid2,
            book.passport(now),
        )
        self._state.open[order.order_id] = submitted
        self._ctx.publish(submitted)

    def _deny_pending(self, pending: _Pending, rule: str, reason: str) -> None:
        del self._state.pending[pending.order.order_id]
        self._deny(pending.order, rule, reason)

    def _deny(self, order: m.SubmitOrder, rule: str, reason: str) -> None:
        self._ctx.log.info("order.denied", order_id=order.order_id, rule=rule, reason=reason)
        self._ctx.publish(
            m.OrderDenied(
                self._ctx.clock.now(),
                order.order_id,
                order.strategy,
                order.account,
                order.exchange,
                order.symbol,
                rule,
                reason,
            )
        )

    # --- Halts --------------------------------------------------------------------------------

    def on_halt_trading(self, command: m.HaltTrading) -> None:
        self._halt(command.source, command.reason)

    def on_resume_trading(self, command: m.ResumeTrading) -> None:
        if not self._state.is_halted:
            return
        self._state.is_halted = False
        self._state.halted_by = self._state.halt_reason = ""
        self._ctx.log.warning("risk.resumed", source=command.source, reason=command.reason)
        self._ctx.publish(m.TradingResumed(self._ctx.clock.now(), command.source, command.reason))

    def on_plugin_failed(self, failure: m.PluginFailed) -> None:
        if failure.kind == "risk_rule" and failure.plugin not in self._state.failed_rules:
            self._state.failed_rules.append(failure.plugin)
            for pending in list(self._state.pending.values()):
                self._deny_pending(pending, failure.plugin, FAILED_RULE_REASON)
        elif failure.plugin in self._vital:
            self._halt(failure.plugin, f"the {failure.kind} failed: {failure.error}")

    def on_host_started(self, started: m.HostStarted) -> None:
        """A rule that was set aside is there again; one that is not answers nothing, which is a no too."""
        state = self._state
        state.failed_rules = [rule for rule in state.failed_rules if rule not in started.components]

    def _halt(self, source: str, reason: str) -> None:
        state = self._state
        if state.is_halted:
            return
        state.is_halted = True
        state.halted_by, state.halt_reason = source, reason
        now = self._ctx.clock.now()
        self._ctx.log.warning("risk.halted", rule=source, reason=reason)
        self._ctx.publish(m.TradingHalted(now, source, reason))
        for pending in list(state.pending.values()):
            self._deny_pending(pending, GATE, f"trading was halted by {source}: {reason}")
        for order in state.open.values():
            self._ctx.publish(m.CancelOrder(now, order.order_id, order.exchange, order.symbol, "halt"))

    # --- The end of an order ------------------------------------------------------------------

    def on_order_filled(self, fill: m.OrderFilled) -> None:
        if fill.leaves == 0:
            self._state.open.pop(fill.order_id, None)

    def on_order_rejected(self, event: m.OrderRejected) -> None:
        self._state.open.pop(event.order_id, None)

    def on_order_canceled(self, event: m.OrderCanceled) -> None:
        self._state.open.pop(event.order_id, None)

    def on_order_expired(self, event: m.OrderExpired) -> None:
        self._state.open.pop(event.order_id, None)

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=_State)


class GateSpec(PluginSpec, frozen=True, kw_only=True):
    """The gate's own spec: it comes with the kernel and cannot be disabled."""

    KIND: ClassVar[str] = "gate"
    STAGE: ClassVar[int] = 4
    MAY_PUBLISH: ClassVar[tuple[type[m.Message], ...]] = (
        m.OrderDenied,
        m.OrderSubmitted,
        m.CancelOrder,
        m.TradingHalted,
        m.TradingResumed,
    )


def gate_spec(rules: Sequence[str], vital: Sequence[str] = ()) -> GateSpec:
    """Return the spec of a gate that waits for *rules*, the ids of the enabled risk rules."""
    return GateSpec(
        id=GATE,
        factory=lambda ctx, options: Gate(ctx, rules, vital),
        options=Options,
        publishes=GateSpec.MAY_PUBLISH,
        summary="waits for every rule's verdict and keeps the trading state",
    )
