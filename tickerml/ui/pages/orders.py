"""Orders & Queue: what is open and where it stands, what became of the others, and why each was."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from nicegui import ui

from tickerml.kernel import StoreError, control

from ..orders import FILLS, OPEN, RECENT, matching
from ..state import Row
from ..tournament import MODELS
from .frame import Desk, Page, Rows, card, icon_button, in_thread

FRAME_S = 0.5
WHY_S = 120.0  # a story that takes longer is given up
_HERE = Path(__file__).parent


class OrderRows(ui.element, component="orders.js"):
    """A table of orders, each of which can be clicked; the second column is its id."""

    def __init__(self, label: str, columns: tuple[tuple[str, str], ...], empty: str) -> None:
        super().__init__()
        self._props["columns"] = [{"label": name, "align": align} for name, align in columns]
        self._props["label"], self._props["empty"] = label, empty
        self._shown: Any = None

    def show(self, rows: list[Row], chosen: str) -> None:
        """Replace everything, if anything has changed."""
        if (rows, chosen) != self._shown:
            self._shown = (rows, chosen)
            self.run_method("show", msgspec.to_builtins(rows), chosen)


class Story(ui.element, component="why.js"):
    """Why one order came to be."""


class Orders(Page):
    """The page of one browser tab."""

    NAME = "Orders"

    def __init__(self, desk: Desk, is_signed_in: Callable[[], bool], is_dark: bool) -> None:
        """
        Args:
            is_signed_in: whether this page's session is still good.
        """
        super().__init__(desk, is_signed_in, is_dark)
        self._chosen = ""

    # --- What there is ------------------------------------------------------------------------

    def build(self) -> None:
        """Make every element, and start to look."""
        super().build()
        ui.add_css((_HERE / "orders.css").read_text())
        with ui.element("main").classes("orders-page") as self._page:
            with ui.element("div").classes("tables"):
                self._build_tables()
            self._build_why()
        ui.timer(FRAME_S, self._look)

    def _build_tables(self) -> None:
        with card("open", "Open orders and their place in the queue"):
            with ui.element("div").classes("orders-head"):
                self._filter = ui.input(placeholder="Filter: order, symbol, exchange, reason").props(
                    'dense outlined clearable aria-label="Filter"'
                )
                self._summary = ui.label().classes("num").props('role="status"')
            self._open = OrderRows("Open orders", OPEN, "No order is open.")
        with card("recent", "Recent orders"):
            self._recent = OrderRows("Recent orders", RECENT, "No order has ended yet.")
        with card("fills", "Fills"):
            self._fills = OrderRows("Fills", FILLS, "Nothing has been filled yet.")
        with ui.element("div") as self._tournament, card("tournament", "Fill models on the same orders"):
            self._band = ui.label().classes("band num").props('role="status"')
            self._models = Rows("Fill models on the same orders", list(MODELS), "No tournament is held.")
        self._shown_models: list[Row] = []
        for table in (self._open, self._recent, self._fills):
            table.on("choose", lambda event: self._choose(str(event.args)))

    def _build_why(self) -> None:
        with ui.element("section").classes("card why-card"):
            with ui.element("div").classes("why-head"):
                ui.label("Why").classes("quiet")
                self._name = ui.label().classes("why-name")
                icon_button("close", "Close", self._close)
            self._story = Story()

    # --- What changes -------------------------------------------------------------------------

    def _look(self) -> None:
        """Send what has changed since the last look."""
        follower, text = self.desk.follower, self._filter.value or ""
        with follower.lock:
            self.state = state = follower.state  # another one after it began again
            doubt = state.doubt(time.monotonic())
            self.show_halt(state.halted_by)
            self.show_header()
            board, markets = state.orders, state.markets
            found = (
                board.open_rows(markets, state.market_ns),
                board.recent_rows(markets),
                board.fill_rows(markets),
            )
            summary = board.summary()
            band, models = board.tournament.summary(), board.tournament.rows()
        self.hear(doubt)
        self._summary.set_text(summary)
        self._show_tournament(band, models)
        for table, rows in zip((self._open, self._recent, self._fills), found, strict=True):
            table.show(matching(rows, text), self._chosen)

    def _show_tournament(self, band: str, models: list[Row]) -> None:
        # There is no card of it where none is held.
        self._tournament.set_visibility(bool(models))
        if models != self._shown_models:
            self._shown_models = models
            self._band.set_text(band)
            self._models.show(models)

    # --- Why ----------------------------------------------------------------------------------

    def _close(self) -> None:
        self._chosen = ""
        self._page.classes(remove="is-open")

    async def _choose(self, order_id: str) -> None:
        if not self._is_signed_in():
            ui.navigate.to("/login")
            return
        self._chosen = order_id
        self._page.classes("is-open")
        self._name.set_text(order_id)
        self._story.run_method("wait", "Reading the journal, and running the simulator again …")
        home = self.desk.shelf.home
        try:
            story = await in_thread(lambda: ask_why(home, order_id))
        except StoreError as error:
            story, message = None, str(error)
        if order_id != self._chosen or self.client.is_deleted:
            return
        if story is None:
            self._story.run_method("wait", message)
        else:
            self._story.run_method("show", story)


def ask_why(home: Path, order_id: str) -> dict[str, Any]:
    """
    Return what `tickerml why` says of *order_id* in the run that goes on in *home*, with times as texts.

    It is another process: a journal may be open once in each, and this one's is.

    Raises: StoreError: it could not say.
    """
    beacon = msgspec.json.decode(control.beacon_path(home).read_bytes(), type=control.Beacon)
    command = [sys.executable, "-m", "tickerml.ui.cli", "why", "--json", "--run", beacon.run_dir]
    try:
        done = subprocess.run([*command, "--", order_id], capture_output=True, text=True, timeout=WHY_S)
    except subprocess.TimeoutExpired:
        raise StoreError(f"the story of {order_id} was not told within {WHY_S:.0f} s") from None
    if done.returncode:
        raise StoreError((done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1])
    story: dict[str, Any] = json.loads(done.stdout)
    for step in story["steps"]:
        step.pop("facts")
        step["clock"] = (
            time.strftime("%H:%M:%S", time.gmtime(step["ts"] // 10**9)) + f".{step['ts'] // 10**6 % 1000:03}"
        )
        step["ts"] = str(step["ts"])  # an int64 is more than a browser's number holds
    return {name: story[name] for name in ("outcome", "steps", "notes", "replay")}
