"""
The gate: no order passes without a yes from every rule.

It waits for one RiskVerdict from each enabled rule, wherever that rule runs, and
lets through the smallest quantity any of them allows. One zero is a denial; so is
silence past the deadline, and so is a rule that has failed. What the rules leave of an
order and the exchange would not take, because it is too little, is denied here.

It holds the kill switch, which has the levels of HaltLevel. A higher level goes over a
lower one, and all stay until a person resumes. At FLATTEN the gate sells what there is in
its own name, at most FLATTEN_PPM behind the best price, each holding when none of its orders
is open any more, and again every second until nothing that can be sold is left. When the
simulator or a ledger beside it fails, or a host with a rule stays dead for
HEARTBEAT_NS, it halts at CANCEL.

It holds reduce_only orders to their word: never more of them than the position that they
shrink, what is open on the same side counted as filled. A rule may order too, reduce_only,
in its own name: that is a stop, and the only thing that passes at NO_NEW.

A transfer is no order and no rule judges it, but it takes money off an exchange: it passes
here too, of an account that is known, within what is free there, and never while trading is
halted.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from . import messages as m
from .book import OrderBook
from .enums import HaltLevel, OrderType, Side, TimeInForce
from .hookspecs import Options, PluginSpec, Timer
from .positions import Key, Positions
from .units import NS_PER_S, PPM, format_units

GATE = "gate"
DEADLINE_NS = NS_PER_S  # a rule in another process answers within a few ms
HEARTBEAT_NS = 5 * NS_PER_S  # how long the host of a rule may be dead before trading halts
FLATTEN_PPM = 10_000  # how far behind the best price a position may be sold
FLATTEN_TIMER = "gate/flatten"
HOST_TIMER = "gate/host/"
FAILED_RULE_REASON = "the rule has failed, and a rule that cannot answer is a no"


class _Pending(msgspec.Struct):
    order: m.SubmitOrder
    waiting: list[str]
    quantity: int
    reduced_by: str = ""  # the rule that leaves the least


class _State(msgspec.Struct):
    level: int = HaltLevel.RUN
    halted_by: str = ""
    halt_reason: str = ""
    failed_rules: list[str] = []
    pending: dict[str, _Pending] = {}
    open: dict[str, m.OrderSubmitted] = {}
    leaves: dict[str, int] = {}  # of what is open, lots
    positions: Positions = msgspec.field(default_factory=Positions)
    rule_hosts: list[str] = []  # hosts that a rule was seen to run in
    dead: dict[str, int] = {}  # of those, the dead ones, and since when
    flattened: int = 0  # orders sent to flatten so far
    refused: list[Key] = []  # positions whose flattening the exchange refused
    balances: dict[str, list[m.Balance]] = {}  # of each account, as it said last


class Gate:
    """Collects verdicts and keeps the trading state; a part of the kernel, built in the simulator's host."""

    def __init__(self, ctx: Any, rules: Sequence[str], vital: Sequence[str] = ()) -> None:
        self._ctx = ctx
        self._rules = sorted(rules)
        self._rule_set = frozenset(rules)
        self._vital = frozenset(vital)
        self._state = _State()

    @property
    def trading_state(self) -> m.TradingState:
        """ACTIVE or HALTED."""
        return m.TradingState.HALTED if self._state.level else m.TradingState.ACTIVE

    @property
    def level(self) -> HaltLevel:
        """The level of the kill switch."""
        return HaltLevel(self._state.level)

    @property
    def open_orders(self) -> dict[str, m.OrderSubmitted]:
        """Orders that left and have not ended, by id."""
        return self._state.open

    def on_submit_order(self, order: m.SubmitOrder) -> None:
        state = self._state
        if not self._passes(order):
            return self._deny(order, GATE, f"trading is halted by {state.halted_by}: {state.halt_reason}")
        if order.strategy in self._rule_set and not order.reduce_only:
            return self._deny(order, GATE, "a risk rule may only order what is reduce_only")
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

    def _passes(self, order: m.SubmitOrder) -> bool:
        level = self._state.level
        return not level or (level == HaltLevel.NO_NEW and order.strategy in self._rule_set)

    def on_risk_verdict(self, verdict: m.RiskVerdict) -> None:
        pending = self._state.pending.get(verdict.order_id)
        if pending is None or verdict.rule not in pending.waiting:
            return
        pending.waiting.remove(verdict.rule)
        # The least, and of two that say the same the first by name: their order makes no difference.
        if (verdict.quantity, verdict.rule) < (pending.quantity, pending.reduced_by):
            pending.quantity, pending.reduced_by = verdict.quantity, verdict.rule
        if pending.quantity <= 0:
            self._deny_pending(pending, verdict.rule, verdict.reason)
        elif not pending.waiting:
            self._submit(pending)

    def on_timer(self, timer: Timer) -> None:
        if timer.key == FLATTEN_TIMER:
            self._flatten()
        elif timer.key.startswith(HOST_TIMER):
            self._mourn(timer.key.removeprefix(HOST_TIMER), timer.ts)
        elif pending := self._state.pending.get(timer.key):
            self._deny_pending(pending, pending.waiting[0], "no verdict before the deadline")

    def _submit(self, pending: _Pending) -> None:
        order, quantity, by = pending.order, pending.quantity, pending.reduced_by
        del self._state.pending[order.order_id]
        if order.reduce_only and (reducible := self._reducible(order)) < quantity:
            quantity, by = reducible, GATE
        if quantity <= 0:
            return self._deny(order, GATE, f"reduce_only: no position is left for it to {order.side.name}")
        if by and (rule := self._too_little(order, quantity)):
            return self._deny(order, by, rule)
        now, book = self._ctx.clock.now(), self._ctx.book(order.exchange, order.symbol)
        self._send(
            m.OrderSubmitted(
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
                quantity,
                book.mid2,
                book.passport(now),
            )
        )

    def _send(self, submitted: m.OrderSubmitted) -> None:
        self._state.open[submitted.order_id] = submitted
        self._state.leaves[submitted.order_id] = submitted.quantity
        self._ctx.publish(submitted)

    def _too_little(self, order: m.SubmitOrder, quantity: int) -> str:
        """Return what is left of the order and the exchange's rule that it would break; "" for none."""
        rules = self._ctx.instrument(order.exchange, order.symbol)
        if rules is None:
            return ""
        some, all_of_it = rules.quantity_text(quantity), rules.quantity_text(order.quantity)
        left = f"{some} of {all_of_it} {rules.base} is left, and {order.exchange} takes no less than"
        if quantity < rules.min_quantity:
            return f"{left} {rules.quantity_text(rules.min_quantity)}"
        book, price = self._ctx.book(order.exchange, order.symbol), order.price
        if order.order_type is OrderType.MARKET:
            price = book.best_ask if order.side is Side.BUY else book.best_bid
        if (notional := rules.notional(price, quantity)) < rules.min_notional:
            least, was = (f"{format_units(units)} {rules.quote}" for units in (rules.min_notional, notional))
            return f"{left} {least}, was {was}"
        return ""

    def _reducible(self, order: m.SubmitOrder) -> int:
        """Return what of the position no open order of the same side may take already, lots."""
        state, key = self._state, (order.account, order.exchange, order.symbol)
        instrument = self._ctx.instrument(order.exchange, order.symbol)
        taken = 0
        for other in state.open.values():
            if (other.account, other.exchange, other.side) != (order.account, order.exchange, order.side):
                continue
            theirs = self._ctx.instrument(other.exchange, other.symbol)
            if other.symbol == order.symbol:
                taken += state.leaves[other.order_id]
            elif _is_same_spot(instrument, theirs):
                taken += -(-state.leaves[other.order_id] * theirs.lot_size // instrument.lot_size)
        return state.positions.reducible(key, order.side, self._ctx.instrument) - taken

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

    # --- Transfers ----------------------------------------------------------------------------

    def on_request_transfer(self, request: m.RequestTransfer) -> None:
        now, wish = self._ctx.clock.now(), request
        head = (wish.transfer_id, wish.account, wish.asset, wish.source, wish.destination)
        if reason := self._objection(request):
            self._ctx.log.info("transfer.denied", transfer_id=wish.transfer_id, reason=reason)
            self._ctx.publish(m.TransferEnded(now, *head, 0, reason))
        else:
            self._ctx.publish(m.TransferSubmitted(now, *head, wish.amount, wish.reason))

    def _objection(self, wish: m.RequestTransfer) -> str:
        """Return why the transfer may not be; "" where it may."""
        state = self._state
        if state.level:
            return f"trading is halted by {state.halted_by}: {state.halt_reason}"
        if wish.account not in state.balances:
            return f"nothing is known of account {wish.account}"
        if wish.source == wish.destination:
            return f"a transfer must go to another exchange, was from {wish.source} to {wish.destination}"
        place = (wish.source, wish.asset)
        free = sum(b.free for b in state.balances[wish.account] if (b.exchange, b.asset) == place)
        if not 0 < wish.amount <= free:
            there, was = (f"{format_units(units)} {wish.asset}" for units in (free, wish.amount))
            limit = f"more than 0 and at most what is free, {there} on {wish.source}"
            return f"a transfer must be {limit}, was {was}"
        return ""

    # --- Halts --------------------------------------------------------------------------------

    def on_halt_trading(self, command: m.HaltTrading) -> None:
        self._halt(command.source, command.reason, command.level)

    def on_resume_trading(self, command: m.ResumeTrading) -> None:
        state = self._state
        if not state.level:
            return
        state.level = HaltLevel.RUN
        state.halted_by = state.halt_reason = ""
        state.refused = []
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
        state.dead.pop(started.host, None)
        if started.host in state.rule_hosts:
            state.rule_hosts.remove(started.host)
        if not self._rule_set.isdisjoint(started.components):
            state.rule_hosts.append(started.host)

    def on_host_stopped(self, stopped: m.HostStopped) -> None:
        """
        A host that will not come back is halted for by the kernel, where that is a failure.

        Where time is the data's, and the kernel's messages have none, it says nothing of how long that was.
        """
        if stopped.ts_recv and stopped.host in self._state.rule_hosts and stopped.restart_in_ms >= 0:
            now = self._ctx.clock.now()
            self._state.dead[stopped.host] = now
            self._ctx.set_timer(now + HEARTBEAT_NS, HOST_TIMER + stopped.host)

    def _mourn(self, host: str, now: int) -> None:
        # A timer of an earlier death says nothing of a later one.
        if self._state.dead.get(host) == now - HEARTBEAT_NS:
            self._halt(
                "heartbeat", f"host {host} with risk rules has been dead for {HEARTBEAT_NS // NS_PER_S} s"
            )

    def _halt(self, source: str, reason: str, level: int = HaltLevel.CANCEL) -> None:
        state, before = self._state, self._state.level
        level = HaltLevel(min(max(level, HaltLevel.NO_NEW), HaltLevel.FLATTEN))
        if level <= before:
            return
        state.level, state.halted_by, state.halt_reason = level, source, reason
        now = self._ctx.clock.now()
        self._ctx.log.warning("risk.halted", rule=source, reason=reason, level=int(level))
        self._ctx.publish(m.TradingHalted(now, source, reason, int(level)))
        for pending in list(state.pending.values()):
            if not self._passes(pending.order):
                self._deny_pending(pending, GATE, f"trading was halted by {source}: {reason}")
        if before < HaltLevel.CANCEL <= level:
            for order in state.open.values():
                self._ctx.publish(m.CancelOrder(now, order.order_id, order.exchange, order.symbol, "halt"))
        if level == HaltLevel.FLATTEN:
            self._flatten()

    # --- Selling what there is ----------------------------------------------------------------

    def on_portfolio_snapshot(self, snapshot: m.PortfolioSnapshot) -> None:
        self._state.positions.take(snapshot)
        self._state.balances[snapshot.account] = snapshot.balances

    def on_position_liquidated(self, gone: m.PositionLiquidated) -> None:
        """What was to close it would open another now."""
        now, place = self._ctx.clock.now(), (gone.account, gone.exchange, gone.symbol)
        for order in self._state.open.values():
            if (order.account, order.exchange, order.symbol) == place:
                self._ctx.publish(
                    m.CancelOrder(now, order.order_id, order.exchange, order.symbol, "liquidation")
                )

    def _flatten(self) -> None:
        state = self._state
        if state.level != HaltLevel.FLATTEN:
            return
        busy = {self._holding((o.account, o.exchange, o.symbol)) for o in state.open.values()}
        for key, lots in sorted(state.positions.lots.items()):
            if self._holding(key) not in busy and key not in state.refused:
                self._close(key, lots)
        self._ctx.set_timer(self._ctx.clock.now() + NS_PER_S, FLATTEN_TIMER)

    def _holding(self, key: Key) -> Key:
        """Return what *key* takes from: all spot of one base on its exchange, or a contract alone."""
        account, exchange, symbol = key
        instrument = self._ctx.instrument(exchange, symbol)
        is_spot = instrument is not None and not instrument.contract
        return account, exchange, instrument.base if is_spot else symbol

    def _close(self, key: Key, lots: int) -> None:
        account, exchange, symbol = key
        instrument, book = self._ctx.instrument(exchange, symbol), self._ctx.book(exchange, symbol)
        if instrument is None or not book.is_trusted:
            return
        side = Side.SELL if lots > 0 else Side.BUY
        price, quantity = _protected(book, side), abs(lots)
        if instrument.max_quantity:
            quantity = min(quantity, instrument.max_quantity)
        if (
            quantity < instrument.min_quantity
            or instrument.notional(price, quantity) < instrument.min_notional
        ):
            return
        now, order_id = self._ctx.clock.now(), f"{GATE}-{self._state.flattened}"
        self._state.flattened += 1
        self._send(
            m.OrderSubmitted(
                now,
                order_id,
                GATE,
                account,
                exchange,
                symbol,
                side,
                OrderType.LIMIT,
                TimeInForce.IOC,
                price,
                quantity,
                book.mid2,
                book.passport(now),
            )
        )

    # --- The end of an order ------------------------------------------------------------------

    def on_order_filled(self, fill: m.OrderFilled) -> None:
        self._state.positions.fill(fill, self._ctx.instrument(fill.exchange, fill.symbol))
        if fill.order_id in self._state.leaves:
            self._state.leaves[fill.order_id] = fill.leaves
        if fill.leaves == 0:
            self._end(fill.order_id)

    def on_order_rejected(self, event: m.OrderRejected) -> None:
        order = self._state.open.get(event.order_id)
        if order is not None and order.strategy == GATE:
            self._state.refused.append((order.account, order.exchange, order.symbol))
        self._end(event.order_id)

    def on_order_canceled(self, event: m.OrderCanceled) -> None:
        self._end(event.order_id)

    def on_order_expired(self, event: m.OrderExpired) -> None:
        self._end(event.order_id)

    def _end(self, order_id: str) -> None:
        self._state.open.pop(order_id, None)
        self._state.leaves.pop(order_id, None)

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=_State)

    def migrate(self, state: bytes, version: int) -> bytes:
        """Take what version 2 wrote: it lacks only what begins empty."""
        return state


def _is_same_spot(one: m.Instrument | None, other: m.Instrument | None) -> bool:
    """Return whether both are spot of one base asset, and so take from one holding."""
    return (
        one is not None
        and other is not None
        and (one.base, one.contract) == (other.base, other.contract) == (one.base, "")
    )


def _protected(book: OrderBook, side: Side) -> int:
    """Return the worst price that may be paid to get out, ticks."""
    if side is Side.SELL:
        return -(-book.best_bid * (PPM - FLATTEN_PPM) // PPM)
    return book.best_ask * (PPM + FLATTEN_PPM) // PPM


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
        m.TransferSubmitted,
        m.TransferEnded,
    )


def gate_spec(rules: Sequence[str], vital: Sequence[str] = ()) -> GateSpec:
    """Return the spec of a gate that waits for *rules*, the ids of the enabled risk rules."""
    return GateSpec(
        id=GATE,
        factory=lambda ctx, options: Gate(ctx, rules, vital),
        options=Options,
        publishes=GateSpec.MAY_PUBLISH,
        state_version=3,
        summary="waits for every rule's verdict and keeps the trading state",
    )
