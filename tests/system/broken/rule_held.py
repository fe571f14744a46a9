"""A risk rule that agrees to everything, and cannot be built while a file is there."""

import time
from pathlib import Path
from typing import Any

from tickerml.kernel import Options, RiskRuleSpec, RiskVerdict, SubmitOrder, hookimpl


class HeldOptions(Options, frozen=True, kw_only=True):
    held_by: str


class Held:
    def __init__(self, ctx: Any, options: HeldOptions) -> None:
        self._ctx = ctx
        while Path(options.held_by).exists():
            time.sleep(0.05)

    def on_submit_order(self, order: SubmitOrder) -> None:
        now = self._ctx.clock.now()
        self._ctx.publish(RiskVerdict(now, order.order_id, self._ctx.plugin, order.quantity))

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [RiskRuleSpec(id="risk-broken", factory=Held, options=HeldOptions, publishes=(RiskVerdict,))]
