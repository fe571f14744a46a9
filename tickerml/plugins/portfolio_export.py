"""
A run's trades and equity as an SQLite file, for whatever reads SQL.

    trades(run, account, order_id, fill, ts, ..., price, quantity, fee, realized)    one row a fill
    equity(run, account, minute, equity, realized, ...)                              one row a minute

Amounts are exact decimal text, times ns UTC; SUM() and comparisons with CAST take them as numbers.
An export goes on where the last one of the same run ended: rows and how far they reach are committed
together, and a row that is there already is written over with the same, so nothing is there twice.
"""

import contextlib
import sqlite3
from pathlib import Path

from tickerml.kernel import ConfigError, Message, PortfolioSnapshot, format_units

from .portfolio_report import Report, Row, money_messages, trade_row

_MINUTE_NS = 60 * 10**9
_BATCH = 5_000  # messages committed together

TRADES = (
    "account",
    "order_id",
    "fill",
    "ts",
    "strategy",
    "exchange",
    "symbol",
    "side",
    "liquidity",
    "price",
    "quantity",
    "fee",
    "fee_asset",
    "realized",
    "currency",
)
AMOUNTS = ("equity", "realized", "unrealized", "fees", "funding", "withdrawal_fees")
_INTEGERS = {"fill", "ts"}
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS exports (run TEXT PRIMARY KEY, seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS trades (
    run TEXT NOT NULL,
    {", ".join(f"{name} {'INTEGER' if name in _INTEGERS else 'TEXT'} NOT NULL" for name in TRADES)},
    PRIMARY KEY (run, account, order_id, fill)
);
CREATE TABLE IF NOT EXISTS equity (
    run TEXT NOT NULL,
    account TEXT NOT NULL,
    minute INTEGER NOT NULL,
    currency TEXT NOT NULL,
    {", ".join(f"{name} TEXT NOT NULL" for name in AMOUNTS)},
    PRIMARY KEY (run, account, minute)
);
"""


def export(journal: Path, run: str, out: Path) -> Row:
    """
    Write what *journal* holds beyond the last export of *run* into the file *out*; returns the counts.

    Raises: ConfigError: *out* cannot be written, or is no such file. StoreError, StoreCorrupt.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(out, isolation_level=None)) as database:
            database.executescript(_SCHEMA)
            return _fill(database, journal, run)
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(f"--out {out}: expected a file that SQLite can write, was not: {error}") from None


def _fill(database: sqlite3.Connection, journal: Path, run: str) -> Row:
    found = database.execute("SELECT seq FROM exports WHERE run = ?", (run,)).fetchone()
    after, report, trades, reached = found[0] if found else 0, Report(), 0, 0
    database.execute("BEGIN IMMEDIATE")
    # From the beginning on: scales and fills of before are needed, and what is told already is passed over.
    for number, (seq, message) in enumerate(money_messages(journal), start=1):
        trade = report.add(message)
        reached = seq
        if seq > after:
            if trade is not None:
                _put(database, "trades", {"run": run, **trade_row(trade, report.instruments)})
                trades += 1
            _put_equity(database, run, message)
        if number % _BATCH == 0:
            _commit(database, run, max(reached, after))
            database.execute("BEGIN IMMEDIATE")
    _commit(database, run, max(reached, after))
    total = database.execute("SELECT COUNT(*) FROM trades WHERE run = ?", (run,)).fetchone()[0]
    return {"run": run, "new_trades": trades, "trades": total, "seq": max(reached, after)}


def _commit(database: sqlite3.Connection, run: str, seq: int) -> None:
    _put(database, "exports", {"run": run, "seq": seq})
    database.execute("COMMIT")


def _put_equity(database: sqlite3.Connection, run: str, message: Message) -> None:
    if not isinstance(message, PortfolioSnapshot) or not message.is_marked:
        return
    amounts = {name: format_units(getattr(message, name)) for name in AMOUNTS}
    minute = message.ts_recv // _MINUTE_NS * _MINUTE_NS
    head = {"run": run, "account": message.account, "minute": minute, "currency": message.currency}
    _put(database, "equity", {**head, **amounts})


def _put(database: sqlite3.Connection, table: str, row: Row) -> None:
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    database.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))
