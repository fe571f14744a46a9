"""The data: which days of each stream a run's tape holds, and what is wrong in them."""

import time
from collections.abc import Callable
from pathlib import Path

from nicegui import background_tasks, ui

from tickerml.kernel import TickerMLError

from ..coverage import ask, calendar, run_dirs
from .frame import Desk, Page, card, in_thread

FRAME_S = 0.5
AGAIN_S = 60.0  # a tape is asked again so often while somebody looks
AGAIN_TIMES = 10  # and no sooner than after so many times what it took: a day's journal is long to read
EMPTY = "Nothing has been recorded yet."


class Coverage(ui.element, component="coverage.js"):
    """A calendar of streams and days."""


class Data(Page):
    """The page of one browser tab."""

    NAME = "Data"

    def __init__(self, desk: Desk, is_signed_in: Callable[[], bool], is_dark: bool) -> None:
        """
        Args:
            is_signed_in: whether this page's session is still good.
        """
        super().__init__(desk, is_signed_in, is_dark)
        self._home = desk.shelf.home
        self._run: Path | None = None
        self._is_asking = False
        self._due_at = 0.0

    # --- What there is ------------------------------------------------------------------------

    def build(self) -> None:
        """Make every element, and start to look."""
        super().build()
        with ui.element("main").classes("data-page"):  # noqa: SIM117 - a page and what is in it
            with card("coverage-card", "Coverage by day, UTC"):
                with ui.element("div").classes("coverage-head"):
                    self._choice = ui.select([], on_change=lambda event: self._choose(event.value))
                    self._choice.props('dense outlined options-dense aria-label="Run"').classes("market")
                    self._summary = ui.label("Reading the tape …").classes("num").props('role="status"')
                self._coverage = Coverage()
                ui.label(
                    "What is in blocks on the tape, and what is in the journal alone until its block is "
                    "full. `tickerml data coverage --tape RUN` says the same, `tickerml data verify` reads "
                    "every block."
                ).classes("quiet coverage-note")
        ui.timer(FRAME_S, self._look)

    # --- What changes -------------------------------------------------------------------------

    def _look(self) -> None:
        """Send what has changed since the last look, and ask the tape again now and then."""
        follower = self.desk.follower
        with follower.lock:
            self.state = follower.state  # another one after it began again
            doubt = self.state.doubt(time.monotonic())
            self.show_halt(self.state.halted_by)
            self.show_header()
        self.hear(doubt if "market" not in doubt else "")
        if not self._is_asking and time.monotonic() >= self._due_at:
            self._is_asking = True
            background_tasks.create(self._ask())  # the page is to be heard of meanwhile

    async def _ask(self) -> None:
        began = time.monotonic()
        runs = await in_thread(lambda: run_dirs(self._home))
        run = self._run if self._run in runs else runs[0] if runs else None
        text, shown = "No run of this home has a tape yet: the recorder writes one.", calendar([])
        if run is not None:
            try:
                streams = await in_thread(lambda: ask(run))
                shown = calendar(streams)
                text = " · ".join(filter(None, (shown["summary"], shown["note"]))) if streams else EMPTY
            except TickerMLError as error:
                text = str(error)
        now, self._is_asking = time.monotonic(), False
        self._due_at = now + max(AGAIN_S, AGAIN_TIMES * (now - began))
        if self.client.is_deleted or run != (self._run or run):  # gone, or another was chosen meanwhile
            return
        self._run = run
        with self.client:
            self._choice.set_options([self._name(each) for each in runs], value=self._name(run))
            self._summary.set_text(text)
            self._coverage.run_method("show", shown["days"], shown["rows"])

    def _name(self, run: Path | None) -> str | None:
        return run.relative_to(self._home / "runs").as_posix() if run else None

    # --- What a person does -------------------------------------------------------------------

    def _choose(self, name: str | None) -> None:
        if name and name != self._name(self._run):
            self._run = self._home / "runs" / name
            self._due_at = 0.0
            self._summary.set_text("Reading the tape …")
