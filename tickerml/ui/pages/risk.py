"""Risk: the kill switch, drawdown against its limit, what each rule answers, and what was denied."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nicegui import ui

from tickerml.kernel import HaltLevel, control

from ..risk import DENIED, LEVELS, RULES
from .frame import Desk, Page, Rows, card
from .overview import Bar

FRAME_S = 0.5
_HERE = Path(__file__).parent


class Risk(Page):
    """The page of one browser tab."""

    NAME = "Risk"

    def __init__(self, desk: Desk, is_signed_in: Callable[[], bool], is_dark: bool) -> None:
        """
        Args:
            is_signed_in: whether this page's session is still good.
        """
        super().__init__(desk, is_signed_in, is_dark)
        self._shown: object = None
        self._bars: dict[str, Bar] = {}

    # --- What there is ------------------------------------------------------------------------

    def build(self) -> None:
        """Make every element, and start to look."""
        super().build()
        ui.add_css((_HERE / "orders.css").read_text())
        with ui.element("main").classes("risk-page"):
            with ui.element("div").classes("risk-top"):
                with card("kill-switch", "Kill switch"):
                    self._build_levels()
                    self._reason = ui.label().classes("risk-reason").props('role="status"')
                with card("drawdowns", "Drawdown from the peak"):
                    self._drawdowns = ui.element("div").classes("risk-body")
            with card("rules", "Rules"):
                self._summary = ui.label().classes("orders-head num")
                self._rules = Rows("Rules", list(RULES), "This run has no risk rule.")
            with card("denied", "Denied orders"):
                self._denied = Rows("Denied orders", list(DENIED), "No order has been denied yet.")
        ui.timer(FRAME_S, self._look)

    def _build_levels(self) -> None:
        self._levels: dict[HaltLevel, ui.element] = {}
        with ui.element("div").classes("levels"):
            for level, name, meaning in LEVELS:
                button = ui.element("button").classes("level").props(f'type="button" aria-label="{name}"')
                with button.on("click", partial(self._ask_level, level, name, meaning)):
                    ui.label(f"{int(level)} · {name}").classes("level-name")
                    ui.label(meaning).classes("quiet")
                self._levels[level] = button

    # --- What changes -------------------------------------------------------------------------

    def _look(self) -> None:
        """Send what has changed since the last look."""
        follower = self.desk.follower
        with follower.lock:
            self.state = state = follower.state  # another one after it began again
            doubt = state.doubt(time.monotonic())
            self.show_halt(state.halted_by)
            self.show_header()
            board = state.risk
            rules = board.rule_rows(state.report.get("plugins", []))
            denied, summary = board.denied_rows(), board.summary()
            reason, level = state.halted_by, state.halt_level
            portfolios = sorted(state.portfolios.items())
        self.hear(doubt)
        for account, told in portfolios:
            self._show_drawdown(account, told.drawdown, told.max_drawdown)
        if (rules, denied, level, reason) != self._shown:
            self._shown = (rules, denied, level, reason)
            self._summary.set_text(summary)
            self._rules.show(rules)
            self._denied.show(denied)
            self._show_level(level, reason)

    def _show_drawdown(self, account: str, drawdown: float, worst: float) -> None:
        if account not in self._bars:
            with self._drawdowns:
                self._bars[account] = Bar(account)
        limit = self.desk.drawdown_limit
        self._bars[account].show(drawdown / limit, f"{drawdown:.2%} of {limit:.0%}, at worst {worst:.2%}")

    def _show_level(self, now: int, reason: str) -> None:
        for level, button in self._levels.items():
            button.classes(replace="level" + " now" * (level == now) + " halt" * bool(level))
            button.props(f'aria-pressed="{str(level == now).lower()}"')
        self._reason.set_text(f"Halted by {reason}. Only a person resumes." if reason else "")

    # --- What a person does -------------------------------------------------------------------

    async def _ask_level(self, level: HaltLevel, name: str, meaning: str) -> None:
        if level is HaltLevel.RUN:
            if self.state.halted_by:
                await self._ask_resume()
            return
        if await self.confirm(
            f"Kill switch: {name}?", [meaning, "A lower level than holds changes nothing."], name
        ):
            reason = f"the kill switch was set to {name.lower()}"
            await self.request(
                control.HaltRequest("console", reason, int(level)), f"Trading is halted: {name}."
            )
