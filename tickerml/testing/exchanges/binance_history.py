"""
What Binance's REST interface tells of trades that were: aggregate trades, and klines made of them.

A kline without a trade has the close of the one before it, four times, and no volume.
Source: Binance.US "Market data endpoints", aggTrades and klines; Binance USD-M has the same.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from .market import Market, Print, text

#: Milliseconds of each interval that can be asked for.
INTERVALS = {"1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000, "1d": 86_400_000}

_KEPT = 10_000  # trades of a market
_LIMIT = 500  # records of a reply that asks for no number of them


class _Past(NamedTuple):
    ms: int
    trade: Print


class History:
    """The newest trades of each market of one exchange."""

    def __init__(self) -> None:
        self._past: dict[str, deque[_Past]] = {}  # by wire

    def remember(self, wire: str, ms: int, prints: Iterable[Print]) -> None:
        """Take the *prints* of a market; where the clock went back, those of before keep their time."""
        past = self._past.setdefault(wire, deque(maxlen=_KEPT))
        at = max(ms, past[-1].ms) if past else ms
        past.extend(_Past(at, trade) for trade in prints)

    def trades(self, market: Market, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return a reply to aggTrades: the newest, or those from startTime on."""
        past = self._past.get(market.listing.wire, ())
        return _asked([_aggregate(market, each) for each in past], "T", query)

    def klines(self, market: Market, query: Mapping[str, str], now_ms: int) -> list[list[Any]] | None:
        """Return a reply to klines, the last one unfinished; None where there is no such interval."""
        past = self._past.get(market.listing.wire, ())
        if (step := INTERVALS.get(query.get("interval", ""))) is None:
            return None
        groups = {at: [each.trade for each in found] for at, found in groupby(past, lambda it: it.ms // step)}
        klines: list[list[Any]] = []
        for at in range(min(groups), now_ms // step + 1) if groups else ():
            klines.append(_kline(market, at * step, step, groups.get(at, []), klines))
        return _asked(klines, 0, query)


def _asked(records: list[Any], time: Any, query: Mapping[str, str]) -> list[Any]:
    # What of *records* was asked for, whose times are under that key: from a start on, or the newest.
    limit, end = int(query.get("limit", _LIMIT)), int(query.get("endTime", 2**63))
    if "startTime" not in query:
        return [each for each in records if each[time] <= end][-limit:]
    return [each for each in records if int(query["startTime"]) <= each[time] <= end][:limit]


def _aggregate(market: Market, past: _Past) -> dict[str, Any]:
    trade = past.trade
    return {
        "a": trade.number,
        "p": market.price_text(trade.price),
        "q": market.quantity_text(trade.quantity),
        "f": trade.number,
        "l": trade.number,
        "T": past.ms,
        "m": not trade.is_buy,
        "M": True,
    }


def _kline(market: Market, ms: int, step: int, trades: list[Print], before: list[list[Any]]) -> list[Any]:
    if not trades:
        close, nothing = before[-1][4], market.quantity_text(0)
        return [ms, close, close, close, close, nothing, ms + step - 1, "0", 0, nothing, "0", "0"]
    prices = [trade.price for trade in trades]
    bought = [trade for trade in trades if trade.is_buy]
    four = (prices[0], max(prices), min(prices), prices[-1])
    (volume, turnover), (of_buyers, paid) = _sums(market, trades), _sums(market, bought)
    return [
        ms,
        *map(market.price_text, four),
        volume,
        ms + step - 1,
        turnover,
        len(trades),
        of_buyers,
        paid,
        "0",
    ]


def _sums(market: Market, trades: list[Print]) -> tuple[str, str]:
    # How much was traded, of the base asset and of the quote asset.
    listing = market.listing
    turnover = sum(trade.price * listing.tick * trade.quantity for trade in trades)
    decimals = listing.price_decimals + listing.quantity_decimals
    return market.quantity_text(sum(trade.quantity for trade in trades)), text(turnover, decimals)
