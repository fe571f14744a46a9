"""
The plugins: every one there is, what it costs, and the panel of the one that was chosen.

What is shown of a running plugin is the kernel's report; what is shown of the others is
the shelf's. A page looks at both twice a second, and sends what has changed.
"""

import time
from collections.abc import Callable
from typing import Any

from nicegui import background_tasks, ui

from .. import installing, listing
from ..changes import PROBATION_S
from ..costs import Costs
from ..inventory import Row
from ..options import Field, fields
from .frame import Deed, Desk, Page, in_thread
from .panel import Panel

FRAME_S = 0.5
SLOW_FRAMES = 2  # the kernel reports once a second


class Table(ui.element, component="plugin_table.js"):
    """Processes and their plugins."""


class Plugins(Page):
    """The page of one browser tab."""

    NAME = "Plugins"

    def __init__(self, desk: Desk, is_signed_in: Callable[[], bool], is_dark: bool, chosen: str) -> None:
        """
        Args:
            is_signed_in: whether this page's session is still good.
            chosen: the plugin whose panel is open at first, "" for none.
        """
        super().__init__(desk, is_signed_in, is_dark)
        self.shelf = desk.shelf
        self.costs = Costs()
        self._chosen = chosen
        self._panel: Panel | None = None
        self._facts: tuple[object, ...] = ()  # what the panel was made of: another is due when they change
        self._busy: set[str] = set()  # plugins that this page is doing something to
        self._shown: tuple[Any, ...] = ()
        self._frame = 0
        self._is_refreshing = False
        self._tab = "Options"
        self.pace = ("0", f"{PROBATION_S:g}s")  # as a person writes it, for the next change

    # --- What there is ------------------------------------------------------------------------

    def build(self) -> None:
        """Make every element, and start to look."""
        super().build()
        with ui.element("main").classes("plugins-page") as self._main:
            with ui.element("section").classes("card listing"):
                self._problem = ui.label().classes("problem").props('role="alert"')
                self._table = Table().classes("table-pane")
            self._place = ui.element("aside").classes("card panel").props('aria-label="The chosen plugin"')
        self._table.on("choose", lambda event: self.choose(event.args))
        self._table.on("switch", lambda event: self.switch(event.args["id"], event.args["is_on"]))
        ui.timer(FRAME_S, self._look)

    def wants_last_change(self) -> bool:
        """Whether a change that had ended before this page was opened is shown: here it is."""
        return True

    # --- What changes -------------------------------------------------------------------------

    def _look(self) -> None:
        """Send what has changed since the last look."""
        follower = self.desk.follower
        is_slow = self._frame % SLOW_FRAMES == 0
        self._frame += 1
        with follower.lock:
            self.state = follower.state  # another one after it began again
            report, doubt = self.state.report, self.state.doubt(time.monotonic())
            self.show_halt(self.state.halted_by)
            self.show_header()
        self.hear(doubt if "market" not in doubt else "")
        if not report:
            return
        if is_slow:
            self.costs.look(report)
            self._show_table(report)
            if self._panel:
                self._panel.look(self.row(self._chosen))
        # Another page may have read the shelf for all of us, so it is not stale, and the panel is.
        if not self._is_refreshing and (self.shelf.is_stale(report) or self._is_outdated()):
            self._is_refreshing = True
            background_tasks.create(self._refresh(report))  # the page is to be heard of meanwhile

    async def _refresh(self, report: dict[str, Any]) -> None:
        try:
            await in_thread(lambda: self.shelf.refresh(report))
        finally:
            self._is_refreshing = False
        self._show_table(report)
        if self._is_outdated():
            await self._open(self._chosen)

    def _is_outdated(self) -> bool:
        """Whether the panel is about something that has changed, and nobody is writing in it."""
        is_edited = self._panel is not None and self._panel.is_edited
        return bool(self._chosen) and not is_edited and self._facts != self.shelf.facts(self._chosen)

    def _show_table(self, report: dict[str, Any]) -> None:
        rows = self.shelf.rows(report)
        found = self.shelf.there.plugins
        summaries = {name: each.manifest.summary for name, each in found.items() if each.manifest}
        shown = (listing.groups(rows, summaries, report, self.costs), self._chosen, sorted(self._busy))
        if shown != self._shown:
            self._shown = shown
            self._table.run_method("show", *shown)
        self._problem.set_text(self.shelf.problem)
        self._problem.set_visibility(bool(self.shelf.problem))

    def row(self, plugin: str) -> Row | None:
        """Return what there is to say of a plugin now; None when it is gone."""
        rows = self.shelf.rows(self.state.report)
        return next((row for row in rows if row["id"] == plugin), None)

    # --- What a person does -------------------------------------------------------------------

    async def choose(self, plugin: str) -> None:
        """Open the panel of *plugin*, "" for none."""
        with self.client:
            ui.navigate.history.replace(f"/plugins/{plugin}" if plugin else "/plugins")
        await self._open(plugin)

    async def _open(self, plugin: str) -> None:
        self._chosen, self._panel, self._facts = plugin, None, self.shelf.facts(plugin)
        self._place.clear()
        row = self.row(plugin)
        self._main.classes("is-open") if row else self._main.classes(remove="is-open")
        self._show_table(self.state.report)
        if row is None:
            return
        with self._place:
            panel = self._panel = Panel(self, plugin)
            panel.build(row, self._tab)
        await panel.load()

    async def reopen(self, plugin: str) -> None:
        """Show the panel of *plugin* anew, with what holds since it was opened, if it is still the one."""
        report = self.state.report
        await in_thread(lambda: self.shelf.refresh(report))
        if plugin == self._chosen:
            await self._open(plugin)

    def turn_to(self, tab: str) -> None:
        """Remember which part of a panel is in front."""
        self._tab = tab

    def is_changing(self, plugin: str) -> bool:
        """Whether a change is under way, so that none can be begun."""
        change = self.state.report.get("change")
        return plugin in self._busy or bool(change and change["step"] != "ended")

    def form_of(self, plugin: str, schemas: dict[str, Any]) -> list[Field]:
        """Return the fields of a plugin's options, with what holds now."""
        return fields(plugin, schemas, self.shelf.config, self.state.report) if self.shelf.config else []

    async def switch(self, plugin: str, is_on: bool) -> None:
        """Enable or disable a plugin, after asking where it limits or fills orders."""
        verb, deed = ("enable", installing.enable) if is_on else ("disable", installing.disable)
        await self.change(verb, plugin, lambda at, dialog: deed(at, plugin, dialog), f"{plugin}: {verb}d.")

    async def change(self, verb: str, plugin: str, deed: Deed, success: str) -> bool:
        """Do something to a plugin, after asking where it limits or fills orders; returns whether it was."""
        row = self.row(plugin)
        if row is None or not await self.confirm_danger(verb.capitalize(), plugin, row["kind"]):
            return False
        self._busy.add(plugin)
        self._show_table(self.state.report)
        try:
            return await self.do(deed, success)
        finally:
            self._busy.discard(plugin)
