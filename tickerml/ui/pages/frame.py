"""
What every page has: the header, the warnings, the change under way, and how a person's word is done.

Nothing is sent for a message of the bus. A page looks at the shared state a few times a
second and sends what has changed since it last looked. Whoever does something that moves
risk is asked first, and is checked again when the answer comes, by the handler and not by
what the page lets one click.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NoAnswer
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from nicegui import ui

from tickerml.kernel import UNIT, HaltLevel, PackageError, TickerMLError, control

from .. import changes
from ..changes import Turn
from ..follow import Follower
from ..installing import Answer, Dialog
from ..risk import LEVELS
from ..shelf import Shelf
from ..state import Row

ANSWER_S = 120.0  # a question that nobody answers for so long is a no
PAGES = (
    ("Overview", "/"),
    ("Market", "/market"),
    ("Orders", "/orders"),
    ("Risk", "/risk"),
    ("Arbitrage", "/arbitrage"),
    ("Data", "/data"),
    ("Plugins", "/plugins"),
)
DANGEROUS_KINDS = frozenset({"risk_rule", "simulator"})
_HERE = Path(__file__).parent

T = TypeVar("T")
Deed = Callable[[Turn, Dialog], Answer]


class Desk(NamedTuple):
    """What all pages of a console share."""

    follower: Follower
    shelf: Shelf
    profile: str
    drawdown_limit: float  # the end of the drawdown bar, a fraction


class Strip(ui.element, component="change.js"):
    """The change of plugins that is under way, or the last one."""


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


class Page:
    """The page of one browser tab."""

    NAME = ""

    def __init__(self, desk: Desk, is_signed_in: Callable[[], bool], is_dark: bool) -> None:
        """
        Args:
            is_signed_in: whether this page's session is still good.
        """
        self.desk = desk
        self.state = desk.follower.state
        self._is_signed_in = is_signed_in
        self._is_dark = is_dark
        self._change_shown: Any = None
        self._watched = self._dismissed = 0  # numbers of changes

    # --- What there is ------------------------------------------------------------------------

    def build(self) -> None:
        """Make what every page has around the rest."""
        self.client = ui.context.client
        ui.add_css((_HERE / "console.css").read_text())
        ui.add_head_html(f"<script>{(_HERE / 'page.js').read_text()}</script>")
        ui.colors(primary="#4c8dff", positive="#0ecb81", negative="#f6465d", dark="#131822")
        self._theme = ui.dark_mode(self._is_dark)
        with ui.element("div").classes("head"):
            self._build_header()
            ui.element("div").classes("banner").props('role="alert"')
            self._degraded = ui.label().classes("degraded").props('role="status"')
            self._strip = Strip()
        self._strip.on("settle", self._settle).on("cancel", self._cancel).on("dismiss", self._dismiss)

    def _build_header(self) -> None:
        with ui.element("header").classes("top") as self._header:
            ui.icon("candlestick_chart").classes("logo")
            ui.label("TickerML").classes("brand")
            ui.label("PAPER").classes("paper").tooltip("Paper trading: no order leaves this machine")
            with ui.element("nav"):
                for name, path in PAGES:
                    here = 'aria-current="page"' if name == self.NAME else ""
                    ui.link(name, path).classes("nav").props(here)
            self._equity = ui.label("Equity –").classes("equity num")
            self._drawdown = ui.label().classes("num wide quiet")
            self._bus = ui.label().classes("num wider quiet")
            self._clock = ui.label().classes("num wider quiet")
            ui.element("span").classes("space")
            self._build_choice()
            self._halted = ui.label().classes("halted").props('role="alert"')
            self._resume = ui.button("Resume", icon="play_arrow", color="white", on_click=self._ask_resume)
            self._resume.props("dense unelevated no-caps text-color=red-10").classes("resume")
            self._kill = ui.button("Kill switch", icon="dangerous", color="negative", on_click=self._ask_halt)
            self._kill.props("dense unelevated size=sm").classes("kill")
            icon_button("contrast", "Change between dark and light", self._toggle_theme)
            with ui.element("form").props('method="post" action="/logout"'):
                icon_button("logout", "Sign out everywhere").props('type="submit"')

    def _build_choice(self) -> None:
        """Put what a page of its own kind has to choose into the header."""

    # --- What changes -------------------------------------------------------------------------

    def show_header(self) -> None:
        """Send what has changed of everything around the page; the follower's lock is held."""
        state, report = self.state, self.state.report
        if (portfolio := state.portfolio()) is not None:
            sign = "$" if portfolio.currency.startswith("USD") else f"{portfolio.currency} "
            self._equity.set_text(f"Equity {sign}{portfolio.equity / UNIT:,.2f}")
            self._drawdown.set_text(f"DD {portfolio.drawdown:.1%} / {self.desk.drawdown_limit:.0%}")
        lag = max((host["lag_s"] for host in report.get("hosts", [])), default=0.0)
        self._bus.set_text(f"{report.get('messages_per_s', 0):,.0f} msg/s · lag {lag:.1f} s")
        self._clock.set_text(f"{self.desk.profile} · {datetime.now(UTC):%H:%M:%S} UTC")
        sickness = state.sickness()
        self._degraded.set_text(f"DEGRADED: {sickness}" if sickness else "")
        self._show_change(report.get("change"))

    def _show_change(self, change: dict[str, Any] | None) -> None:
        if change and change["step"] != "ended":
            self._watched = change["number"]
        number = change["number"] if change else 0
        is_wanted = number == self._watched or self.wants_last_change()
        shown = change if is_wanted and number != self._dismissed else None
        if shown != self._change_shown:
            self._change_shown = shown
            self._strip.run_method("show", shown)

    def wants_last_change(self) -> bool:
        """Whether a change that had ended before this page was opened is shown."""
        return False

    def show_halt(self, reason: str) -> None:
        """Show who has halted trading; "" for nobody."""
        self._header.classes("is-halted") if reason else self._header.classes(remove="is-halted")
        level = self.state.halt_level
        self._halted.set_text(f"HALTED{f' at level {level}' if level else ''} by {reason}" if reason else "")
        self._halted.set_visibility(bool(reason))
        self._resume.set_visibility(bool(reason))
        self._kill.set_visibility(level < HaltLevel.FLATTEN)

    def hear(self, doubt: str) -> None:
        """Tell the browser that the console is there, and why it distrusts what it shows."""
        ui.run_javascript(f"tickerml.hear({msgspec.json.encode(doubt).decode()})")

    # --- What a person does -------------------------------------------------------------------

    def _toggle_theme(self) -> None:
        self._is_dark = not self._is_dark
        self._theme.set_value(self._is_dark)
        self.theme_changed()
        name = "dark" if self._is_dark else "light"
        ui.run_javascript(
            f"document.cookie = 'tickerml_theme={name}; path=/; max-age=31536000; SameSite=Strict'"
        )

    def theme_changed(self) -> None:
        """Draw again what does not follow the theme by itself."""

    async def _ask_halt(self) -> None:
        levels = {
            int(level): f"{level} · {name}: {meaning}"
            for level, name, meaning in LEVELS
            if level > self.state.halt_level
        }
        chosen: list[ui.radio] = []

        def choose() -> None:
            chosen.append(ui.radio(levels, value=max(min(levels), HaltLevel.CANCEL)))
            ui.label("It stays so until a person resumes trading.")

        if levels and await self._put("Halt all trading?", choose, "Halt trading"):
            halt = control.HaltRequest("console", "the kill switch was pressed", chosen[0].value)
            await self.request(halt, "Trading is halted.")

    async def _ask_resume(self) -> None:
        text = f"It was halted by {self.state.halted_by}. Strategies may order again at once."
        if await self.confirm("Resume trading?", [text], "Resume trading"):
            await self.request(
                control.ResumeRequest("console", "resumed by the operator"), "Trading is resumed."
            )

    async def _settle(self) -> None:
        await self.request(control.SettleRequest(), "")

    async def _cancel(self) -> None:
        await self.request(control.CancelRequest("canceled by the operator"), "")

    def _dismiss(self, event: Any) -> None:
        self._dismissed = event.args
        self._show_change(self.state.report.get("change"))

    async def request(self, message: Any, success: str) -> bool:
        """Ask the kernel, and say what came of it; returns whether it did."""
        return await self._try(lambda: self.desk.follower.request(message), success)

    async def do(self, deed: Deed, success: str) -> bool:
        """Do something to plugins, however long it takes, and say how it went; returns whether it did."""
        dialog = Dialog(self._asker(asyncio.get_running_loop()))

        def work() -> Answer:
            with changes.turn(self.desk.shelf.home) as at:
                return deed(at, dialog)

        return await self._try(work, success)

    async def _try(self, work: Callable[[], Any], success: str) -> bool:
        if not self._is_signed_in():
            with self.client:
                ui.navigate.to("/login")
            return False
        try:
            await in_thread(work)
        except TickerMLError as error:
            self.say(str(error), is_bad=True)
            return False
        self.say(success)
        return True

    def say(self, text: str, *, is_bad: bool = False) -> None:
        """Tell the person, if the page is still there."""
        if not text or self.client.is_deleted:
            return
        with self.client:
            if is_bad:
                close = {"label": "Close", "color": "white"}
                ui.notify(text, type="negative", multi_line=True, timeout=15_000, actions=[close])
            else:
                ui.notify(text)

    def _asker(self, loop: asyncio.AbstractEventLoop) -> Callable[[str, list[str]], None]:
        """Return how a thread asks the person at this page."""

        def ask(question: str, lines: list[str]) -> None:
            answer = asyncio.run_coroutine_threadsafe(self.confirm(question, lines, "Go on"), loop)
            with contextlib.suppress(NoAnswer, CancelledError):
                if answer.result(ANSWER_S):
                    return
            answer.cancel()
            raise PackageError("nothing was changed")

        return ask

    async def confirm(self, question: str, lines: list[str], action: str) -> bool:
        """Ask the person; returns whether the answer is yes."""

        def say() -> None:
            for line in lines:
                ui.label(line)

        return await self._put(question, say, action)

    async def _put(self, question: str, build: Callable[[], None], action: str) -> bool:
        with self.client, ui.dialog() as dialog, ui.card().classes("dialog"):
            ui.label(question).classes("question")
            build()
            with ui.element("div").classes("answers"):
                ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat no-caps autofocus")
                ui.button(action, color="negative", on_click=lambda: dialog.submit(True)).props(
                    "unelevated no-caps"
                )
        answer = await dialog
        if not dialog.is_deleted:  # as it is when its page is gone
            dialog.delete()
        return bool(answer)

    async def confirm_danger(self, verb: str, plugin: str, kind: str) -> bool:
        """Ask before something is done to a plugin that limits or fills orders; others need no word."""
        if kind.replace(" ", "_") not in DANGEROUS_KINDS:
            return True
        what = kind.replace("_", " ")
        text = f"{plugin} is a {what}: what limits and fills orders changes while trading goes on."
        return await self.confirm(f"{verb} {plugin}?", [text], verb)


async def in_thread(work: Callable[[], T]) -> T:
    """
    Return what *work* returns, from a thread that a console that is asked to end does not wait for.

    Raises: whatever it raises.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(error: BaseException | None, result: Any = None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result)

    def run() -> None:
        try:
            outcome: tuple[Any, ...] = (None, work())
        except Exception as error:
            outcome = (error,)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, daemon=True).start()
    return await future


class card:
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


def icon_button(icon: str, label: str, on_click: Callable[[], Any] | None = None) -> ui.button:
    """Return a button that is an icon, and says what it does when it is pointed at or read out."""
    button = ui.button(icon=icon, on_click=on_click).props(f'flat dense round size=sm aria-label="{label}"')
    return button.tooltip(label)
