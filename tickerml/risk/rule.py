"""
What the rules of this family have in common: one verdict an order, and a state that is a struct.

A rule says what it allows in judge(); the quantity goes out held between nothing and what was
asked for, so that no rule can enlarge an order whatever it computes.
"""

from fractions import Fraction
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from tickerml.kernel import Context, HaltTrading, Options, RiskVerdict, Side, SubmitOrder

O = TypeVar("O", bound=Options)  # noqa: E741 - a rule's options
S = TypeVar("S", bound=msgspec.Struct)


class Denied(Exception):
    """Ends a judgement with its reason; it never leaves this family."""


class Rule(Generic[O, S]):
    """Answers every SubmitOrder with judge(); what it remembers is self._state, a STATE."""

    STATE: ClassVar[type[Any]]

    def __init__(self, ctx: Context, options: O) -> None:
        self._ctx = ctx
        self._options = options
        self._state: S = self.STATE()

    def on_submit_order(self, order: SubmitOrder) -> None:
        inputs: dict[str, float] = {}
        try:
            quantity, reason = self.judge(order, inputs)
        except Denied as denial:
            quantity, reason = 0, str(denial)
        quantity = max(0, min(order.quantity, quantity))
        self._ctx.publish(
            RiskVerdict(self._ctx.clock.now(), order.order_id, self._ctx.plugin, quantity, reason, inputs)
        )

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        """
        Return the quantity that the rule allows of *order*, and why where that is less than all of it.

        Args:
            inputs: takes the numbers that were used, for the verdict.
        Raises: Denied: nothing is allowed, for the reason it says.
        """
        raise NotImplementedError

    def reduces(self, order: SubmitOrder) -> bool:
        """Whether *order* can only make a position smaller: it says so, or it sells a spot inventory."""
        if order.reduce_only:
            return True
        instrument = self._ctx.instrument(order.exchange, order.symbol)
        return order.side is Side.SELL and not (instrument and instrument.contract)

    def halt(self, reason: str, level: int) -> None:
        """Halt trading at *level*, a HaltLevel; *reason* has the number and its limit."""
        self._ctx.log.warning("risk.halted", rule=self._ctx.plugin, reason=reason, level=int(level))
        self._ctx.publish(HaltTrading(self._ctx.clock.now(), self._ctx.plugin, reason, int(level)))

    # --- State --------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=self.STATE)


def scaled(order: SubmitOrder, scale: Fraction | float, reason: str) -> tuple[int, str]:
    """Return *scale*, in [0, 1], of an order's quantity, rounded down, and *reason* where that is less."""
    quantity = int(order.quantity * scale)
    return quantity, "" if quantity == order.quantity else reason


def exact(decimal: float) -> Fraction:
    """Return an option as the decimal that a person wrote: 0.1 is a tenth, and a limit is met exactly."""
    return Fraction(str(decimal))
