"""
The markets: how well each feed is, its books, and the prices of all exchanges side by side.

A page looks at the shared state twice a second and sends what has changed; its texts are
made in feeds.py and spreads.py.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec
from nicegui import ui

from tickerml.kernel import BookState

from ..feeds import Feed
from ..spreads import book_note, tables
from ..state import Key
from .frame import Desk, Page, card
from .overview import Ladder

FRAME_S = 0.5
DEPTH = 9  # levels a side that are drawn
BOOKS = 12  # drawn at most


class Feeds(ui.element, component="feeds.js"):
    """The feeds, one of which is chosen."""


class Spreads(ui.element, component="spreads.js"):
    """A matrix of exchanges for each symbol."""


class Markets(Page):
    """The page of one browser tab."""

    NAME = "Market"

    def __init__(self, desk: Desk, is_signed_in: Callable[[], bool], is_dark: bool, chosen: str) -> None:
        """
        Args:
            is_signed_in: whether this page's session is still good.
            chosen: the exchange whose books are shown, "" for the first there is.
        """
        super().__init__(desk, is_signed_in, is_dark)
        self._chosen = chosen
        self._keys: list[Key] = []
        self._books: dict[Key, tuple[Ladder, ui.label]] = {}
        self._shown: dict[Any, Any] = {}

    # --- What there is ------------------------------------------------------------------------

    def build(self) -> None:
        """Make every element, and start to look."""
        super().build()
        with ui.element("main").classes("market-page"):
            self._feeds = Feeds()
            with card("spread-card", "Spreads in bps: buy in the row, sell in the column, before fees"):
                self._spreads = Spreads()
            with card("books-card") as self._books_title:
                self._place = ui.element("div").classes("books")
        self._feeds.on("choose", lambda event: self._choose(event.args))
        ui.timer(FRAME_S, self._look)

    def _build_books(self) -> None:
        self._place.clear()
        for key in self._books:
            self._shown.pop(key, None)
        self._books = {}
        with self._place:
            for key in self._keys[:BOOKS]:
                with ui.element("section").classes("one-book"):
                    with ui.element("div").classes("one-book-head"):
                        ui.label(key[1])
                        note = ui.label().classes("reason bad")
                    self._books[key] = Ladder(), note

    # --- What changes -------------------------------------------------------------------------

    def _look(self) -> None:
        """Send what has changed since the last look."""
        follower, at = self.desk.follower, time.monotonic()
        with follower.lock:
            state = self.state = follower.state  # another one after it began again
            doubt = state.doubt(at)
            self.show_halt(state.halted_by)
            self.show_header()
            feeds = [self._feed_row(feed, at) for _, feed in sorted(state.feeds.items())]
            if feeds and self._chosen not in state.feeds:
                self._chosen = min(state.feeds)
            spreads = tables(state, at)
            self._show_books(at)
        self.hear(doubt)
        self._show("feeds", self._feeds, feeds, self._chosen)
        self._show("spreads", self._spreads, spreads)

    def _show(self, name: Any, element: ui.element, *content: Any) -> None:
        if self._shown.get(name) != content:
            self._shown[name] = content
            element.run_method("show", *msgspec.to_builtins(content))

    def _feed_row(self, feed: Feed, at: float) -> dict[str, Any]:
        books = [market.book for market in self.state.markets.values() if market.exchange == feed.exchange]
        valid = sum(book.state is BookState.VALID and not book.is_crossed for book in books)
        doubt, is_whole = feed.doubt(at), not feed.lost_channels()
        tone = "bad" if doubt else "good" if valid == len(books) and is_whole else ""
        return {
            "exchange": feed.exchange,
            "state": doubt or ("up" if is_whole else "incomplete"),
            "tone": tone,
            "figures": feed.figures(at, len(books), valid),
            "notes": feed.notes(),
        }

    def _show_books(self, at: float) -> None:
        state = self.state
        keys = [key for key in state.market_keys() if key[0] == self._chosen]
        if keys != self._keys:
            self._keys = keys
            self._build_books()
            more = f" · {len(keys) - BOOKS} more are not drawn" if len(keys) > BOOKS else ""
            self._books_title.set_text(f"Books · {self._chosen}{more}")
            return  # what is sent to an element that the browser does not have yet is lost
        for key, (ladder, note) in self._books.items():
            self._show(key, ladder, state.ladder(key, DEPTH))
            note.set_text(book_note(state, state.markets[key], at))

    # --- What a person does -------------------------------------------------------------------

    def _choose(self, exchange: str) -> None:
        self._chosen = exchange
        ui.navigate.history.replace(f"/market/{exchange}")
        with self.desk.follower.lock:
            self._show_books(time.monotonic())
