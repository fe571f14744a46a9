"""
What a journal says of the money: each account's trades, gains and losses by day, symbol and strategy.

Gains, fees and funding are those of LedgerPosted, converted when they happened. What is unrealized
of a symbol is in the last PortfolioSnapshot; of a day it is the change of equity that nothing else
explains. A strategy has no inventory of its own in a ledger: its unrealized gain is what its fills
brought in cash, and what their balance is worth at the last mark, less what they realized. With one
currency those of all strategies add up to the account's.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tickerml.kernel import (
    UNIT,
    FundingSettled,
    Instrument,
    LedgerPosted,
    Message,
    OrderFilled,
    PortfolioSnapshot,
    Side,
    codec,
    format_units,
    topics,
)
from tickerml.kernel.journal_reader import JournalReader

WANTED = (Instrument, OrderFilled, LedgerPosted, FundingSettled, PortfolioSnapshot)
_PREFIXES = tuple(topics.prefixes(WANTED))
_PAGE = 10_000  # frames read at a time

Row = dict[str, Any]


def money_messages(journal: Path, after: int = 0) -> Iterator[tuple[int, Message]]:
    """
    Yield (seq, message) of what *journal* says of money beyond seq *after*, also while a run writes it.

    Raises: StoreError: there is no journal. StoreCorrupt: it is damaged; what came before is whole.
    """
    with contextlib.closing(JournalReader(journal)) as reader:
        first = reader.first()
    # What is kept of the pruned beginning, and then everything.
    for raw in itertools.chain(_frames(journal, "kept", after, first - 1), _frames(journal, "log", after)):
        frame = codec.unpack(raw)
        if frame.topic.startswith(_PREFIXES):
            yield frame.seq, codec.decode(frame.body)


def _frames(journal: Path, table: str, after: int, until: int = 2**63) -> Iterator[bytes]:
    # The file is open only while a page is read: a process may open it once.
    while True:
        with contextlib.closing(JournalReader(journal)) as reader:
            page = list(itertools.islice(reader.frames(after, until, table), _PAGE))
        yield from page
        if len(page) < _PAGE:
            return
        after = codec.unpack(page[-1]).seq


class Line(msgspec.Struct):
    """What was gained and paid under one heading, in units of the account's currency."""

    trades: int = 0
    realized: int = 0
    fees: int = 0
    funding: int = 0
    withdrawal_fees: int = 0

    def add(self, posted: LedgerPosted) -> None:
        """Count *posted*."""
        self.trades += posted.cause == "fill"
        self.realized += posted.realized
        self.fees += posted.fees
        self.funding += posted.funding
        self.withdrawal_fees += posted.withdrawal_fees


class _Held(msgspec.Struct):
    """What one strategy's fills of one symbol came to: cash in units of the currency, and lots."""

    cash: int = 0
    realized: int = 0
    lots: int = 0


class Trade(msgspec.Struct, frozen=True):
    """One fill with what it gained, in units of the account's currency."""

    fill: OrderFilled
    posted: LedgerPosted


class Report:
    """Adds up one run's messages; ask for rows() at its end."""

    def __init__(self, account: str = "") -> None:
        """
        Args:
            account: the only one to look at; "" for all.
        """
        self._account = account
        self._fills: dict[tuple[str, str, int], OrderFilled] = {}
        self._day_lines: dict[tuple[str, str], Line] = {}
        self._symbol_lines: dict[tuple[str, str, str], Line] = {}
        self._strategy_lines: dict[tuple[str, str], Line] = {}
        self._totals: dict[str, Line] = {}
        self._held: dict[tuple[str, str, str, str], _Held] = {}
        self._rates: dict[tuple[str, str, str], tuple[int, int]] = {}  # currency for quote, at the last fill
        self._last: dict[str, PortfolioSnapshot] = {}
        self._days: dict[tuple[str, str], PortfolioSnapshot] = {}
        self.instruments: dict[tuple[str, str], Instrument] = {}
        self.accounts: dict[str, None] = {}  # all that there are, whichever is looked at

    def add(self, message: Message) -> Trade | None:
        """Count *message*; returns the trade that it completes."""
        if isinstance(message, PortfolioSnapshot):
            self.accounts[message.account] = None
        match message:
            case Instrument():
                self.instruments[message.exchange, message.symbol] = message
            case OrderFilled() if self._account in ("", message.account):
                self._fills[message.account, message.order_id, message.fill] = message
            case PortfolioSnapshot() if self._account in ("", message.account):
                self._last[message.account] = message
                self._days[message.account, day_of(message.ts_recv)] = message
            case LedgerPosted() if self._account in ("", message.account):
                return self._post(message)
            case _:
                pass
        return None

    def _post(self, posted: LedgerPosted) -> Trade | None:
        account = posted.account
        self._totals.setdefault(account, Line()).add(posted)
        if any((posted.cause == "fill", posted.funding, posted.withdrawal_fees)):
            self._day_lines.setdefault((account, day_of(posted.ts_recv)), Line()).add(posted)
            place = (account, posted.exchange, posted.symbol)
            self._symbol_lines.setdefault(place, Line()).add(posted)
            self._strategy_lines.setdefault((account, posted.strategy), Line()).add(posted)
        fill = self._fills.pop((account, posted.key, posted.fill), None) if posted.cause == "fill" else None
        if fill is None:
            return None
        self._hold(fill, posted)
        return Trade(fill, posted)

    def _hold(self, fill: OrderFilled, posted: LedgerPosted) -> None:
        held = self._held.setdefault((fill.account, fill.strategy, fill.exchange, fill.symbol), _Held())
        held.cash += posted.cash
        held.realized += posted.realized
        held.lots += fill.side * fill.quantity
        if instrument := self.instruments.get((fill.exchange, fill.symbol)):
            notional = instrument.notional(fill.price, fill.quantity)
            self._rates[fill.account, fill.exchange, fill.symbol] = (abs(posted.cash), notional)

    # --- Rows ---------------------------------------------------------------------------------

    def rows(self, by: str = "") -> list[Row]:
        """Return one row for each account, or for each of its days, symbols or strategies; money in units."""
        kinds = {"": self._account_rows, "day": self._day_rows, "symbol": self._symbol_rows}
        return kinds.get(by, self._strategy_rows)()

    def _account_rows(self) -> list[Row]:
        return [
            {
                "account": name,
                "currency": last.currency,
                "equity": last.equity,
                "opening": last.opening,
                "realized": last.realized,
                "unrealized": last.unrealized,
                "fees": last.fees,
                "funding": last.funding,
                "withdrawal_fees": last.withdrawal_fees,
                "accrued": last.accrued,
                "trades": self._totals.get(name, Line()).trades,
                "drawdown": last.drawdown,
                "max_drawdown": last.max_drawdown,
            }
            for name, last in sorted(self._last.items())
        ]

    def _day_rows(self) -> list[Row]:
        rows, before = [], dict[str, int]()
        for (account, day), last in sorted(self._days.items()):
            line = self._day_lines.get((account, day), Line())
            gained = line.realized - line.fees + line.funding - line.withdrawal_fees
            change = last.equity - before.get(account, last.opening)
            before[account] = last.equity
            rows.append(
                {"account": account, "day": day, **_parts(line, change - gained), "equity": last.equity}
            )
        return rows

    def _symbol_rows(self) -> list[Row]:
        positions = {
            (account, position.exchange, position.symbol): position
            for account, last in self._last.items()
            for position in last.positions
        }
        rows = []
        lines = self._symbol_lines
        for account, exchange, symbol in sorted({*positions, *lines}):
            heading = (account, exchange, symbol)
            line, position = lines.get(heading, Line()), positions.get(heading)
            unrealized = position.unrealized_value if position else 0
            rows.append(
                {
                    "account": account,
                    "exchange": exchange,
                    "symbol": symbol,
                    **_parts(line, unrealized),
                    "lots": position.quantity if position else 0,
                }
            )
        return rows

    def _strategy_rows(self) -> list[Row]:
        return [
            {"account": account, "strategy": strategy, **_parts(line, self._unrealized(account, strategy))}
            for (account, strategy), line in sorted(self._strategy_lines.items())
        ]

    def _unrealized(self, account: str, strategy: str) -> int:
        last = self._last.get(account)
        marks = {(p.exchange, p.symbol): p.mark for p in last.positions} if last else {}
        total = 0
        for (owner, who, *place), held in self._held.items():
            key = (place[0], place[1])
            if (owner, who) != (account, strategy) or key not in self.instruments:
                continue
            numerator, denominator = self._rates.get((account, *key), (0, 1))
            worth = _worth(self.instruments[key], held.lots, marks.get(key, 0))
            total += held.cash + worth * numerator // max(denominator, 1) - held.realized
        return total


def _worth(instrument: Instrument, lots: int, mark: int) -> int:
    return mark * instrument.tick_size * lots * instrument.lot_size // UNIT


def _parts(line: Line, unrealized: int) -> Row:
    return {
        "trades": line.trades,
        "realized": line.realized,
        "unrealized": unrealized,
        "fees": line.fees,
        "funding": line.funding,
        "withdrawal_fees": line.withdrawal_fees,
        "net": line.realized + unrealized - line.fees + line.funding - line.withdrawal_fees,
    }


def day_of(ts: int) -> str:
    """Return the UTC day of *ts*, ns."""
    return str(np.datetime64(ts, "ns").astype("datetime64[D]"))


def trade_row(trade: Trade, instruments: Mapping[tuple[str, str], Instrument]) -> Row:
    """Return *trade* as decimals: its price, quantity and fee, and what it realized in the currency."""
    fill = trade.fill
    instrument = instruments[fill.exchange, fill.symbol]
    return {
        "ts": fill.ts_event or fill.ts_recv,
        "account": fill.account,
        "strategy": fill.strategy,
        "exchange": fill.exchange,
        "symbol": fill.symbol,
        "order_id": fill.order_id,
        "fill": fill.fill,
        "side": "buy" if fill.side is Side.BUY else "sell",
        "liquidity": fill.liquidity.value,
        "price": format_units(fill.price * instrument.tick_size),
        "quantity": format_units(fill.quantity * instrument.lot_size),
        "fee": format_units(fill.fee),
        "fee_asset": fill.fee_asset,
        "realized": format_units(trade.posted.realized),
        "currency": trade.posted.currency,
    }
