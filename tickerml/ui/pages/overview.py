"""
The one page of the console: prices, book, money, plugins, log, and the way to stop it all.

Nothing is sent for a message of the bus. A page looks at the shared state five times a
second and sends what has changed since it last looked. Whoever does something that moves
risk is asked first, and is checked again when the answer comes, by the handler and not by
what the page lets one click.
"""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from nicegui import run, ui

from tickerml.kernel import UNIT, BusError, control, format_units

from ..follow import Follower
from ..state import CANDLES_KEPT, LOG_LINES_KEPT, POINTS_KEPT, PRINTS_KEPT, Key, Row, signed
from .charts import candle_options, equity_options

FRAME_S = 0.2
SLOW_FRAMES = 5  # money, plugins and the curve change once a second
LADDER_DEPTH = 12
PENDING_S = 3.0  # a switch waits this long for the report to agree with it
DANGEROUS_KINDS = frozenset({"risk_rule", "simulator"})
DOTS = {"active": "good", "disabled": "off", "stopped": "off", "failed": "bad", "quarantined": "bad"}
SOURCE = "console"
Switcher = Callable[[dict[str, Any], bool], Awaitable[None]]
_HERE = Path(__file__).parent


class Ladder(ui.element, component="ladder.js"):
    """The order book."""


class Rows(ui.element, component="rows.js"):
    """A table of texts; a column is (label, alignment class)."""

    def __init__(
        self, label: str, columns: list[tuple[str, str]], empty: str, limit: int = 0, follows: bool = False
    ) -> None:
        super().__init__()
        self._props["columns"] = [{"label": name, "align": align} for name, align in columns]
        self._props["label"], self._props["empty"] = label, empty
        self._props["limit"], self._props["follows"] = limit, follows

    def show(self, rows: list[Row]) -> None:
        """Replace everything."""
        self.run_method("show", msgspec.to_builtins(rows))

    def push(self, rows: list[Row]) -> None:
        """Add to what is there."""
        if rows:
            self.run_method("push", msgspec.to_builtins(rows))


class PluginLine:
    """One plugin in the list."""

    def __init__(
        self, entry: dict[str, Any], on_switch: Callable[[dict[str, Any], bool], Awaitable[None]]
    ) -> None:
        self._entry = entry
        self._pending_until = 0.0
        with ui.element("div").classes("plugin"):
            self._dot = ui.element("span").classes("dot").props('role="img"')
            with ui.element("div").classes("plugin-text"):
                ui.label(entry["id"]).classes("plugin-name")
                self._detail = ui.label().classes("plugin-detail")
            self._switch = ui.switch(value=entry["is_on"], on_change=lambda event: self._changed(event.value))
            self._switch.props(f'dense size=sm aria-label="{entry["id"]} enabled"')
        self._on_switch = on_switch

    async def _changed(self, is_on: bool) -> None:
        if is_on != self._entry["is_on"]:
            self._pending_until = time.monotonic() + PENDING_S
            await self._on_switch(self._entry, is_on)

    def show(self, entry: dict[str, Any]) -> None:
        """Show what the report says, unless a switch just thrown is still on its way."""
        self._entry = entry
        self._dot.classes(replace=f"dot {DOTS.get(entry['state'], 'busy')}").props(
            f'aria-label="{entry["state"]}"'
        )
        self._detail.set_text(entry["detail"])
        if entry["is_on"] == self._switch.value or time.monotonic() > self._pending_until:
            self._switch.set_value(entry["is_on"])

    def reset(self) -> None:
        """Put the switch back to what the report says."""
        self._switch.set_value(self._entry["is_on"])


class Overview:
    """The page of one browser tab."""

    def __init__(
        self,
        follower: Follower,
        is_signed_in: Callable[[], bool],
        profile: str,
        drawdown_limit: float,
        is_dark: bool,
    ) -> None:
        """
        Args:
            is_signed_in: whether this page's session is still good.
            drawdown_limit: the end of the drawdown bar, a fraction.
        """
        self._follower = follower
        self._is_signed_in = is_signed_in
        self._profile = profile
        self._limit = drawdown_limit
        self._is_dark = is_dark
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
        ui.add_css((_HERE / "console.css").read_text())
        ui.add_head_html(f"<script>{(_HERE / 'page.js').read_text()}</script>")
        ui.colors(primary="#4c8dff", positive="#0ecb81", negative="#f6465d", dark="#131822")
        self._theme = ui.dark_mode(self._is_dark)
        self._build_header()
        ui.element("div").classes("banner").props('role="alert"')
        self._degraded = ui.label().classes("degraded").props('role="status"')
        with ui.element("main").classes("grid"):
            self._build_cards()
        ui.timer(FRAME_S, self._look)

    def _build_header(self) -> None:
        with ui.element("header").classes("top") as self._header:
            ui.icon("candlestick_chart").classes("logo")
            ui.label("TickerML").classes("brand")
            ui.label("PAPER").classes("paper").tooltip("Paper trading: no order leaves this machine")
            self._equity = ui.label("Equity –").classes("equity num")
            self._drawdown = ui.label().classes("num wide quiet")
            self._bus = ui.label().classes("num wide quiet")
            self._clock = ui.label().classes("num wide quiet")
            ui.element("span").classes("space")
            self._choice = ui.select([], on_change=lambda event: self._choose(event.value))
            self._choice.props('dense outlined options-dense aria-label="Market"').classes("market")
            self._halted = ui.label().classes("halted").props('role="alert"')
            self._resume = ui.button("Resume", icon="play_arrow", color="white", on_click=self._ask_resume)
            self._resume.props("dense unelevated no-caps text-color=red-10").classes("resume")
            self._kill = ui.button("Kill switch", icon="dangerous", color="negative", on_click=self._ask_halt)
            self._kill.props("dense unelevated size=sm").classes("kill")
            _icon_button("contrast", "Change between dark and light", self._toggle_theme)
            with ui.element("form").props('method="post" action="/logout"'):
                _icon_button("logout", "Sign out everywhere").props('type="submit"')

    def _build_cards(self) -> None:
        with _card("prices") as self._prices_title:
            self._candles = ui.echart(candle_options(self._is_dark)).classes("chart")
        with _card("book", "Order book"):
            self._ladder = Ladder().classes("fill")
        with _card("plugins", "Plugins"):
            self._plugin_list = ui.element("div").classes("plugin-list")
        with _card("equity-card", "Equity"):
            self._curve = ui.echart(equity_options(self._is_dark)).classes("chart")
        with _card("tape", "Trades"):
            columns = [("Time", ""), ("Price", "r tinted"), ("Quantity", "r"), ("", "r mark")]
            self._tape = Rows("Trades", columns, "No trade yet.", PRINTS_KEPT)
        with _card("risk", "Risk"):
            self._build_risk()
        with _card("positions", "Positions"):
            names = ["Symbol", "Exchange", "Quantity", "Entry", "Mark", "Value", "Unrealized", "Realized"]
            columns = [(name, "" if index < 2 else "r") for index, name in enumerate(names)]
            self._positions = Rows("Positions", columns, "Nothing is held.")
        with _card("log", "Log"):
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
            self._show_halt(state.halted_by)
            if is_slow:
                self._show_choice()
                self._show_money()
                self._show_plugins()
                self._show_bus()
                self._show_degraded(state.sickness())
        ui.run_javascript(f"tickerml.hear({msgspec.json.encode(doubt).decode()})")

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
        sign = "$" if portfolio.currency.startswith("USD") else f"{portfolio.currency} "
        self._equity.set_text(f"Equity {sign}{portfolio.equity / UNIT:,.2f}")
        self._drawdown.set_text(f"DD {portfolio.drawdown:.1%} / {self._limit:.0%}")
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

    def _show_bus(self) -> None:
        report = self._follower.state.report
        lag = max((host["lag_s"] for host in report.get("hosts", [])), default=0.0)
        self._bus.set_text(f"{report.get('messages_per_s', 0):,.0f} msg/s · lag {lag:.1f} s")
        self._clock.set_text(f"{self._profile} · {datetime.now(UTC):%H:%M:%S} UTC")

    def _show_degraded(self, sickness: str) -> None:
        self._degraded.set_text(f"DEGRADED: {sickness}" if sickness else "")

    def _show_halt(self, reason: str) -> None:
        self._header.classes("is-halted") if reason else self._header.classes(remove="is-halted")
        self._halted.set_text(f"HALTED by {reason}" if reason else "")
        self._halted.set_visibility(bool(reason))
        self._resume.set_visibility(bool(reason))
        self._kill.set_visibility(not reason)

    # --- What a person does -------------------------------------------------------------------

    def _toggle_theme(self) -> None:
        self._is_dark = not self._is_dark
        self._theme.set_value(self._is_dark)
        for chart, options in ((self._candles, candle_options), (self._curve, equity_options)):
            merged = options(self._is_dark)
            merged.pop("dataZoom", None)  # where the reader has zoomed to is his
            chart.run_chart_method("setOption", merged)
        name = "dark" if self._is_dark else "light"
        ui.run_javascript(
            f"document.cookie = 'tickerml_theme={name}; path=/; max-age=31536000; SameSite=Strict'"
        )

    async def _ask_halt(self) -> None:
        text = "No new orders are accepted and open ones are canceled, until a person resumes trading."
        if await _confirm("Halt all trading?", text, "Halt trading"):
            await self._request(
                control.HaltRequest("console", "the kill switch was pressed"), "Trading is halted."
            )

    async def _ask_resume(self) -> None:
        text = f"It was halted by {self._follower.state.halted_by}. Strategies may order again at once."
        if await _confirm("Resume trading?", text, "Resume trading"):
            await self._request(
                control.ResumeRequest("console", "resumed by the operator"), "Trading is resumed."
            )

    async def _switch(self, entry: dict[str, Any], is_on: bool) -> None:
        plugin, verb = entry["id"], "enable" if is_on else "disable"
        if entry["kind"] in DANGEROUS_KINDS:
            kind = entry["kind"].replace("_", " ")
            text = f"{plugin} is a {kind}: what limits and fills orders changes while trading goes on."
            if not await _confirm(f"{verb.capitalize()} {plugin}?", text, verb.capitalize()):
                self._plugins[plugin].reset()
                return
        if not await self._request(control.PluginRequest(plugin, is_on), f"{plugin}: {verb}d."):
            self._plugins[plugin].reset()

    async def _request(self, message: Any, success: str) -> bool:
        """Ask the kernel, and say what came of it; returns whether it did."""
        if not self._is_signed_in():
            ui.navigate.to("/login")
            return False
        try:
            await run.io_bound(self._follower.request, message)
        except BusError as error:
            ui.notify(str(error), type="negative", multi_line=True)
            return False
        ui.notify(success)
        return True


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


class _card:
    """A titled box; entering it gives the title."""

    def __init__(self, name: str, title: str = "") -> None:
        self._box = ui.element("section").classes(f"card {name}")
        with self._box:
            self._title = ui.label(title).classes("title")

    def __enter__(self) -> ui.label:
        self._box.__enter__()
        return self._title

    def __exit__(self, *details: object) -> None:
        self._box.__exit__(*details)


def _icon_button(icon: str, label: str, on_click: Callable[[], None] | None = None) -> ui.button:
    button = ui.button(icon=icon, on_click=on_click).props(f'flat dense round size=sm aria-label="{label}"')
    return button.tooltip(label)


async def _confirm(question: str, text: str, action: str) -> bool:
    with ui.dialog() as dialog, ui.card().classes("dialog"):
        ui.label(question).classes("question")
        ui.label(text)
        with ui.element("div").classes("answers"):
            ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat no-caps autofocus")
            ui.button(action, color="negative", on_click=lambda: dialog.submit(True)).props(
                "unelevated no-caps"
            )
    answer = await dialog
    dialog.delete()
    return bool(answer)
