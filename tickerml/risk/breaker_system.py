"""
System breaker: no new risk while the machinery fails.

Three things are counted. Feeds: of the frames of an exchange between two FeedSummarized, those
that could not be used. Orders: of the last orders an exchange answered, those it rejected. Either
share above max_errors stops new orders on that exchange for pause_min; fewer than min_count say
nothing. And failures: plugins that were set aside and hosts that died, wherever it was; the
max_failures-th within window_min halts trading at level 1, NO_NEW, for a person to look.
"""

from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    FeedSummarized,
    HaltLevel,
    HaltTrading,
    HostStopped,
    Options,
    OrderAccepted,
    OrderRejected,
    PluginFailed,
    ResumeTrading,
    RiskRuleSpec,
    RiskVerdict,
    SubmitOrder,
    hookimpl,
)

from .rule import Denied, Rule

MINUTE_NS = 60 * NS_PER_S
ASKED = ("stopped", "removed")  # the reasons of a host's end that somebody asked for


class SystemOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may fail."""

    max_errors: Annotated[
        float, msgspec.Meta(gt=0, lt=1, description="share of frames or of orders that may fail")
    ] = 0.10
    min_count: Annotated[
        int, msgspec.Meta(ge=1, le=100_000, description="frames or orders below which a share says nothing")
    ] = 10
    orders: Annotated[
        int, msgspec.Meta(ge=1, le=1000, description="answered orders of an exchange that are looked at")
    ] = 50
    pause_min: Annotated[
        int, msgspec.Meta(ge=1, le=1440, description="how long an exchange is left alone, min")
    ] = 1
    max_failures: Annotated[
        int, msgspec.Meta(ge=1, le=100, description="failures of plugins and hosts that halt")
    ] = 3
    window_min: Annotated[
        int, msgspec.Meta(ge=1, le=1440, description="within how long they have to come, min")
    ] = 5


class _Exchange(msgspec.Struct, array_like=True):
    messages: int = 0  # of the last summary
    skipped: int = 0
    answers: list[bool] = []  # whether each was a rejection, the oldest first
    paused_until: int = 0
    why: str = ""


class _State(msgspec.Struct, array_like=True):
    exchanges: dict[str, _Exchange] = {}
    failures: list[int] = []  # ns UTC
    is_halted: bool = False


class SystemBreaker(Rule[SystemOptions, _State]):
    """Leaves an exchange alone that fails, and halts when too much of ours does."""

    STATE = _State

    # --- Exchanges ----------------------------------------------------------------------------

    def on_feed_summarized(self, summary: FeedSummarized) -> None:
        exchange = self._exchange(summary.exchange)
        if summary.messages < exchange.messages:  # a feed that was restarted counts from zero
            exchange.messages = exchange.skipped = 0
        frames, bad = summary.messages - exchange.messages, summary.skipped - exchange.skipped
        exchange.messages, exchange.skipped = summary.messages, summary.skipped
        self._doubt(exchange, bad, frames, "frames could not be used")

    def on_order_accepted(self, event: OrderAccepted) -> None:
        self._answered(event.exchange, is_rejected=False)

    def on_order_rejected(self, event: OrderRejected) -> None:
        self._answered(event.exchange, is_rejected=True)

    def _answered(self, name: str, *, is_rejected: bool) -> None:
        exchange = self._exchange(name)
        exchange.answers = [*exchange.answers, is_rejected][-self._options.orders :]
        if is_rejected:
            self._doubt(exchange, sum(exchange.answers), len(exchange.answers), "orders were rejected")

    def _exchange(self, name: str) -> _Exchange:
        return self._state.exchanges.setdefault(name, _Exchange())

    def _doubt(self, exchange: _Exchange, bad: int, of: int, what: str) -> None:
        if of >= self._options.min_count and bad > self._options.max_errors * of:
            exchange.paused_until = self._ctx.clock.now() + self._options.pause_min * MINUTE_NS
            exchange.why = f"{bad} of {of} {what}"

    # --- Ours ---------------------------------------------------------------------------------

    def on_plugin_failed(self, failure: PluginFailed) -> None:
        self._failed()

    def on_host_stopped(self, stopped: HostStopped) -> None:
        if stopped.reason not in ASKED:
            self._failed()

    def _failed(self) -> None:
        state, now = self._state, self._ctx.clock.now()
        begin = now - self._options.window_min * MINUTE_NS
        state.failures = [*(ts for ts in state.failures if ts > begin), now]
        if len(state.failures) >= self._options.max_failures and not state.is_halted:
            state.is_halted = True
            text = f"{len(state.failures)} plugins or hosts failed within {self._options.window_min} min"
            self.halt(text, HaltLevel.NO_NEW)

    def on_resume_trading(self, command: ResumeTrading) -> None:
        self._state.is_halted = False
        self._state.failures = []

    # --- The verdict --------------------------------------------------------------------------

    def judge(self, order: SubmitOrder, inputs: dict[str, float]) -> tuple[int, str]:
        if self.reduces(order):
            return order.quantity, ""
        exchange = self._state.exchanges.get(order.exchange, _Exchange())
        left = exchange.paused_until - self._ctx.clock.now()
        inputs |= {"rejected": float(sum(exchange.answers)), "answered": float(len(exchange.answers))}
        inputs["failures"] = float(len(self._state.failures))
        if self._state.is_halted:
            raise Denied("halted after failures of plugins or hosts; a person must resume trading")
        if left > 0:
            raise Denied(f"{order.exchange} is left alone for {-(-left // NS_PER_S)} s: {exchange.why}")
        return order.quantity, ""


@hookimpl
def tickerml_risk_rules() -> list[RiskRuleSpec]:
    return [
        RiskRuleSpec(
            id="risk-breaker-system",
            factory=SystemBreaker,
            options=SystemOptions,
            publishes=(RiskVerdict, HaltTrading),
            summary="leaves an exchange alone that fails, and halts when plugins or hosts do",
        )
    ]
