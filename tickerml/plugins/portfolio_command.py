"""
`tickerml portfolio`: what paper accounts have gained and lost, from the journal of a run.

It reads what is on the disk, so it works while the run goes on and after it has ended.

Exit codes: 0 done; 1 the journal is damaged; 2 wrong usage, or no such run or account.
"""

import json
import os
from collections import deque
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tickerml.kernel import (
    ConfigError,
    PortfolioSnapshot,
    format_units,
    hookimpl,
    runs,
)

from .data_show import format_time, print_table
from .portfolio_export import export
from .portfolio_report import Report, Row, money_messages, trade_row
from .run_named import HOME, AsJson, RunDir, find_run, reading

commands = typer.Typer(help="What paper accounts have gained and lost, from the journal of a run.")

Account = Annotated[str, typer.Option("--account", help="The only account to look at.", show_default="all")]

MONEY = {
    *("equity", "opening", "realized", "unrealized", "fees", "funding", "withdrawal_fees", "accrued", "net"),
}


def _journal(given: Path | None) -> Path:
    return find_run(given, Path(os.environ.get("TICKERML_HOME", HOME))) / "journal"


def _check_account(report: Report, account: str, journal: Path) -> None:
    if not report.accounts:
        raise ConfigError(
            f"run {journal.parent} has no account yet: it needs a portfolio plugin and a market"
        )
    if account and account not in report.accounts:
        raise ConfigError(
            f"--account {account}: run {journal.parent} has {', '.join(sorted(report.accounts))}"
        )


@commands.callback(invoke_without_command=True)
def portfolio_command(
    context: typer.Context,
    run: RunDir = None,
    account: Account = "",
    by: Annotated[
        Literal["account", "day", "symbol", "strategy"], typer.Option("--by", help="What a row is.")
    ] = "account",
    as_json: AsJson = False,
) -> None:
    """Show what each account is worth and what it has gained: in all, by day, by symbol or by strategy."""
    if context.invoked_subcommand is not None:
        return
    with reading():
        journal, report = _journal(run), Report(account)
        for _, message in money_messages(journal):
            report.add(message)
        _check_account(report, account, journal)
    rows = report.rows("" if by == "account" else by)
    if as_json:
        return print(json.dumps({"run": str(journal.parent), "by": by, "rows": [_exact(r) for r in rows]}))
    if by == "account":
        return _print_accounts(rows)
    shown = [{name: _cell(name, value) for name, value in row.items()} for row in rows]
    print_table(shown, list(shown[0]) if shown else ["nothing"])


@commands.command("trades")
def trades_command(
    run: RunDir = None,
    account: Account = "",
    count: Annotated[int, typer.Option("-n", min=1, help="How many of the last.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the last trades: what was filled at which price, for what fee, and what that realized."""
    with reading():
        journal, report, last = _journal(run), Report(account), deque[Row](maxlen=count)
        for _, message in money_messages(journal):
            if trade := report.add(message):
                last.append(trade_row(trade, report.instruments))
        _check_account(report, account, journal)
    if as_json:
        return print(json.dumps({"run": str(journal.parent), "trades": list(last)}))
    rows = [{"time": format_time(row.pop("ts")), **row} for row in last]
    print_table(rows, list(rows[0]) if rows else ["no trades"])


@commands.command("equity")
def equity_command(
    run: RunDir = None,
    account: Account = "",
    every: Annotated[int, typer.Option("--every", min=1, help="One row for so many seconds.")] = 3600,
    as_json: AsJson = False,
) -> None:
    """Show the equity curve: what each account was worth at the end of each stretch of time."""
    with reading():
        journal, step = _journal(run), every * 10**9
        report, last = Report(account), dict[tuple[str, int], PortfolioSnapshot]()
        for _, message in money_messages(journal):
            report.add(message)
            if isinstance(message, PortfolioSnapshot) and message.is_marked:
                last[message.account, message.ts_recv // step] = message
        _check_account(report, account, journal)
    rows: list[Row] = [
        {"ts": told.ts_recv, "account": name, "equity": told.equity, "drawdown": told.drawdown}
        for (name, _), told in sorted(last.items())
        if account in ("", name)
    ]
    if as_json:
        return print(json.dumps({"run": str(journal.parent), "equity": [_exact(row) for row in rows]}))
    shown = [
        {"time": format_time(row.pop("ts")), **{name: _cell(name, value) for name, value in row.items()}}
        for row in rows
    ]
    print_table(shown, ["time", "account", "equity", "drawdown"])


@commands.command("export")
def export_command(
    out: Annotated[Path, typer.Option("--out", help="The SQLite file; it is made, or added to.")],
    run: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """Write trades and equity into an SQLite file; goes on where the last export of the run ended."""
    with reading():
        journal = _journal(run)
        told = runs.read(journal.parent)
        if told is None:
            raise ConfigError(f"{journal.parent} is no run: name one with --run")
        result = export(journal, f"{told.profile}/{told.number:04}/{told.started_ns}", out)
    if as_json:
        return print(json.dumps({"out": str(out), **result}))
    print(
        f"{result['trades']:,} trades of run {result['run']} in {out}, {result['new_trades']:,} of them new"
    )


def _print_accounts(rows: list[Row]) -> None:
    for row in rows:
        for name, value in row.items():
            print(f"{name:<16} {_cell(name, value)}")


def _exact(row: Row) -> Row:
    return {name: format_units(value) if name in MONEY else value for name, value in row.items()}


def _cell(name: str, value: Any) -> Any:
    if name in MONEY:
        return format_units(value, 2)
    return f"{value:.2%}" if name.endswith("drawdown") else value


@hookimpl
def tickerml_commands(app: typer.Typer) -> None:
    app.add_typer(commands, name="portfolio")
