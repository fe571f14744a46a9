"""
The panel of one plugin: its figures, its options, its versions, what it may do, its log, its manifest.

Its options are asked for in a process of their own, as whoever wrote the plugin has
described them; the plugin is never imported here.
"""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import tomlkit
from nicegui import Client, ui

from tickerml.kernel import ConfigError
from tickerml.kernel.manifest import Manifest

from .. import installing, inventory, listing
from ..changes import Pace
from ..costs import Costs
from ..options import Field
from ..shelf import Shelf
from ..state import ConsoleState, Row
from ..terminal import parse_seconds
from .form import Form
from .frame import Deed, Rows, icon_button, in_thread

LOG_BACK = 2**18  # bytes of the log that are looked through for its last lines
LOG_LINES = 300
TABS = ("Options", "Versions", "Permissions", "Log", "Manifest")
FIGURES = ("Process", "CPU", "Memory", "Publishes", "Takes", "Lag", "Restarts", "Shared with")
LONG = ("Shared with", "File", "Path", "Module", "Asked for")


class Opener(Protocol):
    """What a panel needs of the page that opens it."""

    shelf: Shelf
    state: ConsoleState
    costs: Costs
    client: Client
    pace: tuple[str, str]  # shadow and probation as a person writes them

    def is_changing(self, plugin: str) -> bool:
        """Whether a change is under way, so that none can be begun."""

    def form_of(self, plugin: str, schemas: dict[str, Any]) -> list[Field]:
        """Return the fields of a plugin's options, with what holds now."""

    def turn_to(self, tab: str) -> None:
        """Remember which part of a panel is in front."""

    def say(self, text: str, *, is_bad: bool = False) -> None:
        """Tell the person, if the page is still there."""

    async def choose(self, plugin: str) -> None:
        """Open the panel of *plugin*, "" for none."""

    async def reopen(self, plugin: str) -> None:
        """Show the panel of *plugin* anew, with what holds since it was opened, if it is still the one."""

    async def switch(self, plugin: str, is_on: bool) -> None:
        """Enable or disable a plugin."""

    async def change(self, verb: str, plugin: str, deed: Deed, success: str) -> bool:
        """Do something to a plugin; returns whether it was."""


class Panel:
    """What there is to see of one plugin, and to do with it."""

    def __init__(self, page: Opener, plugin: str) -> None:
        self.plugin = plugin
        self._page, self._shelf = page, page.shelf
        self._found = self._shelf.found(plugin)
        self._form: Form | None = None
        self._row: inventory.Row = {}
        self._tail: inventory.Tail | None = None
        self._tailed = ("", False)  # the host whose log it is, and whether the plugin is alone there
        self._lines = 0

    @property
    def is_edited(self) -> bool:
        """Whether something is written in the form that was not applied."""
        return self._form is not None and self._form.is_edited

    # --- What there is ------------------------------------------------------------------------

    def build(self, row: inventory.Row, tab: str) -> None:
        """Make every element, with *tab* in front; the options come with load()."""
        self._row = row
        with ui.element("div").classes("panel-head"):
            ui.label(self.plugin).classes("panel-name").props('role="heading" aria-level=2')
            self._state = ui.label().classes("chip")
            ui.element("span").classes("space")
            with ui.element("a").props(f'href="/api/v1/plugins/{self.plugin}/diagnostics" download'):
                icon_button("download", "Download diagnostics").props("tabindex=-1")
            icon_button("close", "Close", lambda: self._page.choose(""))
        with ui.element("div").classes("panel-body"):
            summary = self._found.manifest.summary if self._found.manifest else ""
            ui.label(summary or row["kind"]).classes("plugin-detail")
            self._reason = ui.label().classes("reason").props('role="status"')
            with ui.element("dl").classes("figures"):
                self._figures = {name: _figure(name) for name in FIGURES}
            self._build_actions()
        self._build_tabs(tab)
        self.look(row)

    def _build_actions(self) -> None:
        history = self._shelf.history(self.plugin)
        with ui.element("div").classes("actions"):
            self._reload = _button("Reload", self._do_reload)
            self._reload.tooltip("Replace its process by a fresh one, while everything runs on")
            self._switch = _button("Disable", self._do_switch)
            if history:
                self._back = _button(f"Roll back to {history[0]}", self._do_rollback)
        with ui.element("div").classes("actions pace"):
            shadow, probation = self._page.pace
            self._shadow = ui.input("Shadow", value=shadow).props("dense outlined").classes("duration")
            self._probation = ui.input("Probation", value=probation).props("dense outlined")
            self._probation.classes("duration")
            text = "A shadow runs beside the present one and is compared; in probation it can be taken back."
            ui.label(text).classes("plugin-detail meaning")

    def _build_tabs(self, front: str) -> None:
        with ui.tabs(on_change=lambda event: self._turn_to(event.value)) as tabs:
            for name in TABS:
                ui.tab(name)
        tabs.props("dense no-caps align=left outside-arrows mobile-arrows")
        # All of it is in the browser from the start: what is sent to an element that is not there is lost.
        with ui.element("div").classes("parts"):
            self._parts = {name: ui.element("div").props('role="tabpanel"') for name in TABS}
        with self._parts["Options"]:
            ui.label("Asking the plugin for its options …").classes("quiet")
        with self._parts["Versions"]:
            self._build_versions()
        with self._parts["Permissions"]:
            self._build_permissions()
        with self._parts["Log"]:
            columns = [("", "time"), ("", "level"), ("", "")]
            self._log = Rows("Log of the plugin", columns, "Nothing yet.", LOG_LINES, follows=True)
            self._log.classes("log")
        with self._parts["Manifest"]:
            self._build_manifest()
        tabs.set_value(front)

    def _turn_to(self, name: str) -> None:
        self._page.turn_to(name)
        for each, part in self._parts.items():
            part.set_visibility(each == name)
        if name == "Log":
            self._log.run_method("toEnd")

    def _build_versions(self) -> None:
        found, locked = self._found, self._shelf.locked.get(self.plugin)
        _facts({"Version": found.version, "Package": found.distribution, "From": found.origin})
        if locked is None:
            text = "It comes with TickerML, and is upgraded with it." if found.is_ours else ""
            ui.label(text or "It was not installed by `tickerml plugin install`.").classes("quiet")
            return
        _facts({"Asked for": locked.spec, "Before": ", ".join(self._shelf.history(self.plugin))})
        if locked.path:
            ui.label("It is run where it lies: Reload takes what is written there.").classes("quiet")
            return
        with ui.element("div").classes("actions"):
            self._version = ui.input("Version", placeholder="the newest").props("dense outlined")
            self._upgrade = _button("Upgrade", self._do_upgrade)

    def _build_permissions(self) -> None:
        said = self._found.manifest or Manifest(kinds=["command"], api="")
        planned = self._shelf.planned(self.plugin)
        given = {"publishes": planned.publishes or [], "secrets": planned.secrets}
        taken = said.subscribes if planned.subscribes is None else planned.subscribes
        for what, asked, granted in (
            ("Publishes", said.publishes, given["publishes"]),
            ("Takes", said.subscribes, taken),
            ("Secrets", said.secrets, given["secrets"]),
            ("Talks to (not enforced)", said.network, said.network),
            ("Needs plugins", said.requires, said.requires),
            ("Adds commands", said.commands, said.commands),
        ):
            _permissions(what, asked, granted)
        needs = said.resources
        _facts(
            {
                "Memory": f"{needs.ram_mb:g} MB" if needs.ram_mb else "",
                "Threads": str(needs.threads),
                "GPU": "needed" if needs.gpu else "",
                "Compiled code": "brings its own" if said.native else "",
            }
        )
        ui.label("Permissions stop mistakes, not malice: a plugin runs as you.").classes("quiet")

    def _build_manifest(self) -> None:
        found = self._found
        _facts({"File": found.file, "Module": found.module, "Path": ", ".join(found.paths)})
        for warning in found.warnings:
            ui.label(warning).classes("reason busy")
        if found.manifest:
            said = msgspec.to_builtins(found.manifest)
            filled = {key: value for key, value in said.items() if value not in ("", [], {})}
            with ui.element("pre").classes("manifest"):
                ui.label(tomlkit.dumps(filled).strip())

    async def load(self) -> None:
        """Ask the plugin for its options, and make the form."""
        is_loading, said = await in_thread(lambda: inventory.load_apart(self._found))
        place = self._parts["Options"]
        if place.is_deleted or self._page.client.is_deleted:
            return
        place.clear()
        with place:
            if not is_loading:
                ui.label(f"It cannot be loaded: {said['error']}").classes("reason bad")
            elif not said.get("options"):
                ui.label("It has no options.").classes("quiet")
            else:
                self._build_form(said["options"])

    def _build_form(self, schemas: dict[str, Any]) -> None:
        with ui.element("div").classes("form"):
            self._form = Form(self._page.form_of(self.plugin, schemas), self._edited)
        with ui.element("div").classes("actions form-end"):
            self._apply = _button("Apply", self._do_configure).props("color=primary")
            self._reset = _button("Reset", self._form.reset)
        self._edited()

    # --- What changes -------------------------------------------------------------------------

    def look(self, row: inventory.Row | None) -> None:
        """Show what there is to say of the plugin now."""
        self._row = row = row or self._row
        report = self._page.state.report
        live: inventory.Row = next((each for each in report["plugins"] if each["id"] == self.plugin), {})
        is_off = row["state"] == "blocked" and row["reason"] == "disabled"
        self._state.set_text("disabled" if is_off else row["state"])
        self._state.classes(replace=f"chip {listing.tone(row['state'], row['reason'])}")
        self._reason.set_text("" if is_off else row["reason"])
        self._switch.set_text("Disable" if live.get("enabled") else "Enable")
        self._show_figures(live, report)
        self._allow(bool(live.get("enabled")))
        self._read_log(live, report)

    def _show_figures(self, live: inventory.Row, report: dict[str, Any]) -> None:
        texts = dict.fromkeys(FIGURES, "")
        name = live.get("host", "")
        host = next((each for each in report["hosts"] if each["host"] == name), None)
        if host:
            others = [row["id"] for row in report["plugins"] if row["host"] == name and row is not live]
            cost, published = listing.cells(host, self._page.costs), self._page.costs.published
            texts |= {
                "Process": f"{name} (pid {host['pid']})",
                "Shared with": ", ".join(others),
                "CPU": cost["cpu"],
                "Memory": cost["memory"],
                "Publishes": f"{published.get(self.plugin, 0.0):,.1f} /s",
                "Takes": cost["messages"].replace(" in", " /s"),
                "Lag": cost["lag"],
                "Restarts": str(host["restarts"] or ""),
            }
        for each, (box, label) in self._figures.items():
            label.set_text(texts[each])
            box.set_visibility(bool(texts[each]))

    def _allow(self, is_running: bool) -> None:
        """Let be done what can be done now: one change at a time."""
        is_free = not self._page.is_changing(self.plugin)
        for name, can in (("_reload", is_running), ("_switch", True), ("_back", True), ("_upgrade", True)):
            if button := getattr(self, name, None):
                button.set_enabled(can and is_free)
        if self._form:
            self._apply.set_enabled(is_free and self.is_edited)

    def _edited(self) -> None:
        if self._form and hasattr(self, "_apply"):
            self._apply.set_enabled(self.is_edited and not self._page.is_changing(self.plugin))
            self._reset.set_enabled(self.is_edited)

    def _read_log(self, live: inventory.Row, report: dict[str, Any]) -> None:
        host: str = (live or self._row)["host"]
        place = (host, sum(row["host"] == host for row in report["plugins"]) == 1)
        if not host:
            return
        if self._tail is None or place != self._tailed:
            self._tailed = place
            home, is_alone = self._shelf.home, place[1]
            self._tail = inventory.Tail(home, self.plugin, host, is_alone=is_alone, back=LOG_BACK)
        lines = [inventory.log_cells(line) for line in self._tail.read()[-LOG_LINES:]]
        self._log.push([Row(self._lines + n, cells, cells[1].lower()) for n, cells in enumerate(lines)])
        self._lines += len(lines)

    # --- What a person does -------------------------------------------------------------------

    async def _change(self, verb: str, deed: Callable[..., Any], success: str) -> bool:
        written = self._page.pace = (self._shadow.value, self._probation.value)
        try:
            shadow_s, probation_s = (
                parse_seconds(text.strip() or "0", name)
                for text, name in zip(written, ("Shadow", "Probation"), strict=True)
            )
        except ConfigError as error:
            self._page.say(str(error), is_bad=True)
            return False
        pace = Pace(shadow_s, probation_s)
        return await self._page.change(
            verb, self.plugin, lambda at, dialog: deed(at, self.plugin, dialog, pace=pace), success
        )

    async def _do_reload(self) -> None:
        await self._change("reload", installing.reload, f"{self.plugin}: reloaded.")

    async def _do_switch(self) -> None:
        await self._page.switch(self.plugin, self._switch.text == "Enable")

    async def _do_rollback(self) -> None:
        await self._change("roll back", installing.rollback, f"{self.plugin}: rolled back.")

    async def _do_upgrade(self) -> None:
        to = self._version.value.strip()

        def deed(at: Any, plugin: str, dialog: Any, pace: Pace) -> Any:
            return installing.upgrade(at, plugin, dialog, to=to, pace=pace)

        await self._change("upgrade", deed, f"{self.plugin}: upgraded.")

    async def _do_configure(self) -> None:
        assert self._form is not None
        try:
            options = self._form.changed()
        except ValueError as error:
            self._page.say(str(error), is_bad=True)
            return

        def deed(at: Any, plugin: str, dialog: Any, pace: Pace) -> Any:
            return installing.configure(at, plugin, options, dialog, pace=pace)

        if await self._change("configure", deed, f"{self.plugin}: configured."):
            await self._page.reopen(self.plugin)


def _figure(name: str) -> tuple[ui.element, ui.label]:
    with ui.element("div").classes("long" if name in LONG else "") as box:
        with ui.element("dt"):
            ui.label(name)
        with ui.element("dd"):
            return box, ui.label().classes("num")


def _facts(texts: dict[str, str]) -> None:
    with ui.element("dl").classes("facts"):
        for name, text in texts.items():
            if text:
                _, label = _figure(name)
                label.set_text(text)


def _permissions(what: str, asked: list[str], granted: list[str]) -> None:
    if not asked:
        return
    with ui.element("div").classes("permission"):
        ui.label(what).classes("quiet")
        with ui.element("ul"):
            for name in asked:
                is_granted = name in granted
                with ui.element("li").classes("granted" if is_granted else "refused"):
                    ui.label(name if is_granted else f"{name}: not granted")


def _button(text: str, on_click: Callable[[], Any]) -> ui.button:
    return ui.button(text, on_click=on_click, color=None).props("dense outline no-caps").classes("act")
