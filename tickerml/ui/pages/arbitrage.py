"""Arbitrage & Funding: where prices are apart, what pairs of orders came to, and what perpetuals pay."""

import time
from collections.abc import Callable
from pathlib import Path

from nicegui import ui

from ..arbitrage import FUNDING, LEGS, OPPORTUNITIES
from .frame import Desk, Page, Rows, card

FRAME_S = 0.5
_HERE = Path(__file__).parent


class Arbitrage(Page):
    """The page of one browser tab."""

    NAME = "Arbitrage"

    def __init__(self, desk: Desk, is_signed_in: Callable[[], bool], is_dark: bool) -> None:
        """
        Args:
            is_signed_in: whether this page's session is still good.
        """
        super().__init__(desk, is_signed_in, is_dark)
        self._shown = (0, -1)  # which board, and its version

    # --- What there is ------------------------------------------------------------------------

    def build(self) -> None:
        """Make every element, and start to look."""
        super().build()
        ui.add_css((_HERE / "arbitrage.css").read_text())
        with ui.element("main").classes("arbitrage-page"):
            with card("opportunities", "Opportunities"):
                self._summary = ui.label().classes("arbitrage-head num").props('role="status"')
                empty = "No book has been worth more than both fees, theta and the latencies yet."
                self._opportunities = Rows("Opportunities", list(OPPORTUNITIES), empty)
            with card("legs", "Pairs of legs"):
                self._legs_summary = ui.label().classes("arbitrage-head num")
                empty = "strategy-arbitrage and strategy-carry have traded nothing yet."
                self._legs = Rows("Pairs of legs", list(LEGS), empty)
            with card("funding", "Funding of perpetuals"):
                ui.label("Accrued is shown and not booked; longs pay where the rate is above zero.").classes(
                    "arbitrage-head quiet"
                )
                empty = "No perpetual is followed: exchange-krakenfutures and exchange-kucoinfutures tell."
                self._funding = Rows("Funding of perpetuals", list(FUNDING), empty)
        ui.timer(FRAME_S, self._look)

    # --- What changes -------------------------------------------------------------------------

    def _look(self) -> None:
        """Send what has changed since the last look; the countdown always has."""
        follower = self.desk.follower
        with follower.lock:
            self.state = state = follower.state  # another one after it began again
            doubt = state.doubt(time.monotonic())
            self.show_halt(state.halted_by)
            self.show_header()
            board, portfolio = state.arbitrage, state.portfolio()
            positions = (
                {(each.exchange, each.symbol): each for each in portfolio.positions} if portfolio else {}
            )
            instruments = {key: each.instrument for key, each in state.markets.items() if each.instrument}
            funding = board.funding_rows(state.market_ns, positions, instruments)
            is_changed = (id(board), board.version) != self._shown
            if is_changed:
                self._shown = (id(board), board.version)
                opportunities, legs = board.opportunity_rows(), board.legs_rows()
                texts = board.summary(), board.legs_summary()
        self.hear(doubt)
        self._funding.show(funding)
        if is_changed:
            self._summary.set_text(texts[0])
            self._legs_summary.set_text(texts[1])
            self._opportunities.show(opportunities)
            self._legs.show(legs)
