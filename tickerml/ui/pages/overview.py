"""
The overview: prices, book, money, plugins, log.

A page looks at the shared state five times a second; what every page has is in frame.py.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from nicegui import ui

from tickerml.kernel import format_units

from .. import installing
from ..listing import tone
from ..state import CANDLES_KEPT, LOG_LINES_KEPT, POINTS_KEPT, PRINTS_KEPT, Key, Row, signed
from .charts import candle_options, equity_options
from .frame import Desk, Page, Rows, card

FRAME_S = 0.2
SLOW_FRAMES = 5  # money, plugins and the curve change once a second
LADDER_DEPTH = 12
Switcher = Callable[[dict[str, Any], bool], Awaitable[bool]]


class Ladder(ui.element, component="ladder.js"):
    """The order book."""


class PluginLine:
    """One plugin in the list."""

    def __init__(self, entry: dict[str, Any], on_switch: Switcher) -> None:
        self._entry = entry
        self._is_pending = False
        with ui.element("div").classes("plugin"):
            self._dot = ui.element("span").classes("dot").props('role="img"')
            with ui.element("div").classes("plugin-text"):
                ui.link(entry["id"], f"/plugins/{entry['id']}").classes("plugin-name")
                self._detail = ui.label().classes("plugin-detail")
            self._switch = ui.switch(value=entry["is_on"], on_change=lambda event: self._changed(event.value))
            self._switch.props(f'dense size=sm aria-label="{entry["id"]} enabled"')
        self._on_switch = on_switch

    async def _changed(self, is_on: bool) -> None:
        if is_on == self._entry["is_on"]:
            return
        self._is_pending = True  # the report says it only once the change has got through
        self._switch.disable()
        try:
            if await self._on_switch(self._entry, is_on):
                self._entry = {**self._entry, "is_on": is_on}
        finally:
            self._is_pending = False
            self._switch.enable()
            self._switch.set_value(self._entry["is_on"])

    def show(self, entry: dict[str, Any]) -> None:
        """Show what the report says, unless a switch just thrown is still on its way."""
        self._entry = entry
        self._dot.classes(replace=f"dot {tone(entry['state'], entry['reason'])}").props(
            f'aria-label="{entry["state"]}"'
        )
        self._detail.set_text(entry["detail"])
        if not self._is_pending:
            self._switch.set_value(entry["is_on"])


class Overview(Page):
    """The page of one browser tab."""

    NAME = "Overview"

    def __init__(self, desk: Desk, is_signed_in: Callable[[], bool], is_dark: bool) -> None:
        """
        Args:
            is_signed_in: whether this page's session is still good.
        """
        super().__init__(desk, is_signed_in, is_dark)
        self._follower = desk.follower
        self._limit = desk.drawdown_limit
        self._market: Key = ("", "")
        self._plugins: dict[str, PluginLine] = {}
        self._frame = 0
        self._last_print = self._last_line = 0
        self._candle_since = self._curve_since = self._curve_step = 0.0
        self._ladder_shown: dict[str, Any] = {}
        self._positions_shown: list[Row] = []

    # --- What there is ------------------------------------------------------------------------

    def build(self) -> None:
        """Make every element, and start to look."""
        super().build()
        with ui.element("main").classes("grid"):
            self._build_cards()
        ui.timer(FRAME_S, self._look)

    def _build_choice(self) -> None:
        self._choice = ui.select([], on_change=lambda event: self._choose(event.value))
        self._choice.props('dense outlined options-dense aria-label="Market"').classes("market")

    def _build_cards(self) -> None:
        with card("prices") as self._prices_title:
            self._candles = ui.echart(candle_options(self._is_dark)).classes("chart")
        with card("book", "Order book"):
            self._ladder = Ladder().classes("fill")
        with card("plugins", "Plugins"):
            self._plugin_list = ui.element("div").classes("plugin-list")
        with card("equity-card", "Equity"):
            self._curve = ui.echart(equity_options(self._is_dark)).classes("chart")
        with card("tape", "Trades"):
            columns = [("Time", ""), ("Price", "r tinted"), ("Quantity", "r"), ("", "r mark")]
            self._tape = Rows("Trades", columns, "No trade yet.", PRINTS_KEPT)
        with card("risk", "Risk"):
            self._build_risk()
        with card("positions", "Positions"):
            names = ["Symbol", "Exchange", "Quantity", "Entry", "Mark", "Value", "Unrealized", "Realized"]
            columns = [(name, "" if index < 2 else "r") for index, name in enumerate(names)]
            self._positions = Rows("Positions", columns, "Nothing is held.")
        with card("log", "Log"):
            self._log = Rows("Log", [("", "time"), ("", "level"), ("", "")], "", LOG_LINES_KEPT, follows=True)

    def _build_risk(self) -> None:
        with ui.element("div").classes("risk-body"):
            self._drawdown_bar = Bar("Drawdown")
            self._exposure_bar = Bar("Exposure")
            self._exposures = ui.label().classes("plugin-detail num")
            with ui.element("dl"):
                self._figures = {name: _figure(name) for name in _FIGURES}

    # --- What changes -------------------------------------------------------------------------

    def _look(self) -> None:
        """Send what has changed since the last look."""
        state = self._follower.state
        is_slow = self._frame % SLOW_FRAMES == 0
        self._frame += 1
        with self._follower.lock:
            doubt = state.doubt(time.monotonic())
            self._show_market()
            self._log.push(state.log_rows(self._last_line))
            self._last_line = state.log[-1].id if state.log else 0  # type: ignore[assignment]
            self.show_halt(state.halted_by)
            if is_slow:
                self._show_choice()
                self._show_money()
                self._show_plugins()
                self.show_header()
        self.hear(doubt)

    def _show_choice(self) -> None:
        options = {
            f"{exchange} {symbol}": f"{symbol} · {exchange}"
            for exchange, symbol in self._follower.state.market_keys()
        }
        if options and options != self._choice.options:
            first = self._choice.value or " ".join(self._follower.state.main_market())
            self._choice.set_options(options, value=first)

    def _choose(self, value: str | None) -> None:
        if value:
            exchange, symbol = value.split(" ")
            self._market = (exchange, symbol)
            self._candle_since, self._last_print, self._ladder_shown = 0.0, 0, {}
            self._tape.show([])

    def _show_market(self) -> None:
        state, key = self._follower.state, self._market
        if not key[0]:
            return
        self._prices_title.set_text(f"{key[1]} · {key[0]} · 5 s candles · UTC")
        ladder = state.ladder(key, LADDER_DEPTH)
        if ladder != self._ladder_shown:
            self._ladder_shown = ladder
            self._ladder.run_method("show", ladder)
        if prints := state.print_rows(key, self._last_print):
            self._tape.push(prints)
            self._last_print = int(prints[-1].id)
            rows = state.candle_rows(key, self._candle_since)
            is_new, digits = not self._candle_since, state.price_digits(key)
            self._merge(self._candles, "candles", rows, CANDLES_KEPT, is_new, digits)
            self._candle_since = float(rows[-1][0] or 0)

    def _merge(
        self, chart: ui.echart, kind: str, points: list[Any], limit: int, is_reset: bool, digits: int = 2
    ) -> None:
        arguments = msgspec.json.encode([chart.id, kind, points, limit, is_reset, digits]).decode()
        ui.run_javascript(f"tickerml.merge(...{arguments})")

    def _show_money(self) -> None:
        state = self._follower.state
        if (portfolio := state.portfolio()) is None:
            return
        self._drawdown_bar.show(
            portfolio.drawdown / self._limit, f"{portfolio.drawdown:.2%} of {self._limit:.0%}"
        )
        exposures = state.exposures()
        total = sum(abs(share) for _, share in exposures)
        self._exposure_bar.show(total, f"{total:.1%} of equity")
        self._exposures.set_text(" · ".join(f"{symbol} {share:.1%}" for symbol, share in exposures[:4]))
        summary = state.report.get("summary", {})
        for name, text in {
            "Result": signed(portfolio.equity - portfolio.opening),
            "Realized": signed(portfolio.realized),
            "Unrealized": signed(portfolio.unrealized),
            "Fees": format_units(portfolio.fees, 2),
            "Max drawdown": f"{portfolio.max_drawdown:.2%}",
            "Orders": f"{summary.get('orders', 0):,}",
            "Fills": f"{summary.get('fills', 0):,}",
            "Denied": f"{summary.get('orders_denied', 0):,}",
        }.items():
            self._figures[name].set_text(text)
        if (positions := state.position_rows()) != self._positions_shown:
            self._positions_shown = positions
            self._positions.show(positions)
        self._show_curve()

    def _show_curve(self) -> None:
        state = self._follower.state
        if state.equity.step != self._curve_step:
            self._curve_step, self._curve_since = state.equity.step, 0.0
            ui.run_javascript(f"tickerml.sessions = {list(state.sessions)[1:]}")
        if points := [point for point in state.equity.points if point[0] > self._curve_since]:
            # Between two thinnings the browser is sent more points than the curve keeps.
            self._merge(self._curve, "curve", points, 2 * POINTS_KEPT, not self._curve_since)
            self._curve_since = points[-1][0]

    def _show_plugins(self) -> None:
        entries = {entry["id"]: entry for entry in self._follower.state.plugin_rows()}
        if entries.keys() != self._plugins.keys():
            self._plugin_list.clear()
            with self._plugin_list:
                self._plugins = {name: PluginLine(entry, self._switch) for name, entry in entries.items()}
        for name, entry in entries.items():
            self._plugins[name].show(entry)

    # --- What a person does -------------------------------------------------------------------

    def theme_changed(self) -> None:
        """Draw the charts again."""
        for chart, options in ((self._candles, candle_options), (self._curve, equity_options)):
            merged = options(self._is_dark)
            merged.pop("dataZoom", None)  # where the reader has zoomed to is his
            chart.run_chart_method("setOption", merged)

    async def _switch(self, entry: dict[str, Any], is_on: bool) -> bool:
        plugin, verb = entry["id"], "enable" if is_on else "disable"
        deed = installing.enable if is_on else installing.disable
        if not await self.confirm_danger(verb.capitalize(), plugin, entry["kind"]):
            return False
        return await self.do(lambda at, dialog: deed(at, plugin, dialog), f"{plugin}: {verb}d.")


class Bar:
    """A number beside what limits it."""

    def __init__(self, name: str) -> None:
        with ui.element("div").classes("bar-head"):
            ui.label(name)
            self._text = ui.label("–").classes("num")
        with (
            ui.element("div")
            .classes("bar")
            .props(f'role="meter" aria-label="{name}" aria-valuemax=100') as self._bar
        ):
            self._fill = ui.element("div")

    def show(self, fraction: float, text: str) -> None:
        """Fill the bar to *fraction* of the limit."""
        self._text.set_text(text)
        percent = round(max(0.0, min(1.0, fraction)) * 100)
        self._bar.props(f"aria-valuenow={percent}")
        self._fill.style(f"width:{percent}%")
        level = "high" if percent >= 80 else "raised" if percent >= 40 else ""
        self._fill.classes(replace=level)


_FIGURES = ("Result", "Realized", "Unrealized", "Fees", "Max drawdown", "Orders", "Fills", "Denied")


def _figure(name: str) -> ui.label:
    with ui.element("div"):
        with ui.element("dt"):
            ui.label(name)
        with ui.element("dd"):
            return ui.label("–").classes("num")
