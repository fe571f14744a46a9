"""
Prices of one symbol side by side: what a purchase here and a sale there would bring.

An edge is gross: (bid there - ask here) / mid of the two, in bps, before fees and before the
time that both orders take. Where one of the two books may not be believed it is marked, and
shown all the same, so that one sees what is doubted. On the diagonal stands an exchange's
own spread.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from tickerml.kernel import BookState

from .state import BOOK_NOTES, ConsoleState, Market


class Side(msgspec.Struct, frozen=True):
    """One exchange's best prices in money, and why they are not to be believed."""

    exchange: str
    bid: float
    ask: float
    bid_text: str
    ask_text: str
    note: str


def tables(state: ConsoleState, at: float) -> list[dict[str, Any]]:
    """
    Return a matrix for each symbol there is, those on most exchanges first.

    Returns: symbol; rows with exchange, bid, ask, note and cells of [text, tone, meaning]: the tone
        is "bad" where it may not be believed, "up" where it is an edge, "own" on the diagonal.
    """
    symbols: dict[str, list[Side]] = {}
    for _, market in sorted(state.markets.items()):
        if market.instrument is not None:
            symbols.setdefault(market.symbol, []).append(_side(state, market, at))
    ordered = sorted(symbols.items(), key=lambda item: (-len(item[1]), item[0]))
    return [{"symbol": symbol, "rows": _rows(sides)} for symbol, sides in ordered]


def book_note(state: ConsoleState, market: Market, at: float) -> str:
    """Return why the book of *market* may not be believed at *at*, "" when it may."""
    feed, book = state.feeds.get(market.exchange), market.book
    if feed and (doubt := feed.doubt(at)):
        return f"feed {doubt}"
    if book.is_crossed:
        return "crossed"
    if book.state is BookState.VALID and not (book.best_bid and book.best_ask):
        return "one side is empty"
    return BOOK_NOTES[book.state]


def _side(state: ConsoleState, market: Market, at: float) -> Side:
    bid, ask = market.book.best_bid, market.book.best_ask
    return Side(
        market.exchange,
        bid * market.tick,
        ask * market.tick,
        market.price(bid) if bid else "",
        market.price(ask) if ask else "",
        book_note(state, market, at),
    )


def _rows(sides: list[Side]) -> list[dict[str, Any]]:
    return [
        {
            "exchange": here.exchange,
            "bid": here.bid_text,
            "ask": here.ask_text,
            "note": here.note,
            "cells": list(_cells(here, sides)),
        }
        for here in sides
    ]


def _cells(here: Side, sides: Iterable[Side]) -> Iterable[list[str]]:
    for there in sides:
        if not (here.ask and there.bid):
            yield ["–", "bad", "no price"]
            continue
        edge_bps = (there.bid - here.ask) / (there.bid + here.ask) * 2e4
        notes = {side.exchange: side.note for side in (here, there) if side.note}
        if here is there:
            text, tone, meaning = f"{-edge_bps:.2f}", "own", f"the spread of {here.exchange}"
        else:
            text, tone = f"{edge_bps:+.2f}", "up" if edge_bps > 0 else ""
            meaning = f"buy on {here.exchange}, sell on {there.exchange}, before fees"
        if notes:
            tone, meaning = "bad", "; ".join(f"{exchange}: {note}" for exchange, note in notes.items())
        yield [text, tone, meaning]
