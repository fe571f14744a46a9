"""`tickerml portfolio`: a run's money by account, day, symbol and strategy, and its trades in SQLite."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from tickerml.kernel import (
    NS_PER_S,
    ConfigError,
    FundingUpdated,
    Instrument,
    LedgerPosted,
    Liquidity,
    Message,
    OrderFilled,
    PortfolioSnapshot,
    Side,
    TimeTick,
    codec,
    to_units,
    topics,
)
from tickerml.kernel.journal import JournalWriter
from tickerml.kernel.runs import RUN_KEY, Run
from tickerml.kernel.testing import Harness, Market, instrument
from tickerml.plugins import portfolio
from tickerml.plugins.portfolio_command import commands
from tickerml.plugins.portfolio_report import Report

S = NS_PER_S
DAY = 86_400 * S
BTC = instrument("test", "BTC/USDT", tick="1", lot="0.01")
PERP = Instrument(
    0, "perp", "BTC/USDT-PERP", "BTC", "USDT", to_units("1"), to_units("0.01"), contract="linear"
)
OPTIONS = {
    "opening": {"test.USDT": "10000", "perp.USDT": "1000"},
    "accounts": {"twin": {}},
    "currency": "USDT",
    "mark_interval_ms": 3_600_000,
    "stale_mark_s": 86_400,
}


def filled(
    ts: int, order_id: str, side: Side, quantity: int, price: int, strategy: str, **other: Any
) -> OrderFilled:
    traded, account = other.get("traded", BTC), other.get("account", "paper")
    head = (ts, ts, order_id, 1, strategy, account, traded.exchange, traded.symbol, side, price, quantity, 0)
    return OrderFilled(*head, Liquidity.MAKER, to_units("0.5"), "USDT", 0, 0, 0, False, 0)


def market(ts: int, bid: int) -> list[Message]:
    return [
        Market(traded.exchange, traded.symbol).book(ts, [(bid, 10**6)], [(bid + 1, 10**6)])
        for traded in (BTC, PERP)
    ]


def two_days() -> list[Message]:
    """Two strategies and two accounts: gains, a short perpetual that is paid funding, and a position left."""
    funding = FundingUpdated(DAY - 5 * S, DAY - 5 * S, "perp", PERP.symbol, 100, 100, 10**8, 0, DAY, 28_800)
    told: list[Message] = [
        BTC,
        PERP,
        *market(S, 100),
        filled(2 * S, "a", Side.BUY, 300, 100, "trend"),
        filled(3 * S, "b", Side.SELL, 200, 100, "carry", traded=PERP),
        filled(4 * S, "c", Side.BUY, 100, 100, "trend", account="twin"),
        funding,
        TimeTick(DAY + 60 * S),
        *market(DAY + 61 * S, 120),
        filled(DAY + 62 * S, "d", Side.SELL, 100, 120, "reversion"),
        TimeTick(DAY + 2 * 3600 * S),
    ]
    kept = Harness(portfolio, options={"portfolio": OPTIONS})
    return [said for message in told for said in (message, *kept.send(message))]


def write_run(path: Path, said: list[Message]) -> Path:
    """Write *said* as the journal of a run, or behind what is there."""
    journal = path / "runs" / "demo" / "0001" / "journal"
    with closing(JournalWriter(journal, map_mb=64, commit_ms=1)) as writer:
        run = Run(profile="demo", number=1, fingerprint="", started_ns=7)
        writer.put_meta(RUN_KEY, msgspec.msgpack.encode(run))
        writer.start()
        frames = []
        for seq, message in enumerate(said, start=1):
            topic = topics.topic_of(message)
            output = codec.pack_output(topic, 1, 1, 0, seq, codec.encode(message))
            frames.append(codec.stamp(output, len(topic) + 1, seq, seq))
        writer.append(frames, [], [])
    return journal.parent


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TICKERML_HOME", str(tmp_path))
    return write_run(tmp_path, two_days())


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(commands, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def rows(*words: str | Path) -> list[dict[str, Any]]:
    return json.loads(run(*words, "--json"))["rows"]


def test_says_what_each_account_is_worth(run_dir):
    paper, twin = rows()

    assert (paper["account"], paper["trades"], paper["realized"], paper["fees"]) == ("paper", 3, "20", "1.5")
    assert (paper["funding"], paper["unrealized"]) == ("0.02", "-2")
    assert paper["equity"] == "11016.52"
    assert (twin["account"], twin["trades"], twin["equity"]) == ("twin", 1, "11019.5")


def test_one_account_alone_may_be_asked_for(run_dir):
    assert [row["account"] for row in rows("--account", "twin", "--by", "symbol")] == ["twin"]
    with pytest.raises(ConfigError, match=r"--account nobody: run .*0001 has paper, twin"):
        run("--account", "nobody")


def test_splits_the_gain_by_day_symbol_and_strategy_without_losing_a_unit(run_dir):
    for by in ("day", "symbol", "strategy"):
        parts = [row for row in rows("--by", by) if row["account"] == "paper"]
        assert sum(to_units(row["net"]) for row in parts) == to_units("16.52")
        assert sum(row["trades"] for row in parts) == 3


def test_a_day_has_what_was_gained_in_it(run_dir):
    first, second = (row for row in rows("--by", "day") if row["account"] == "paper")

    assert (first["day"], first["unrealized"], first["fees"], first["net"]) == ("1970-01-01", "-2", "1", "-3")
    assert (second["realized"], second["funding"], second["net"]) == ("20", "0.02", "19.52")


def test_a_strategy_is_credited_with_what_its_own_fills_came_to(run_dir):
    found = {row["strategy"]: row for row in rows("--account", "paper", "--by", "strategy")}

    assert found["trend"]["unrealized"] == "60"  # three bought at 100 are worth 120 each
    assert (found["reversion"]["realized"], found["reversion"]["unrealized"]) == ("20", "-20")
    assert found["carry"]["unrealized"] == "-42"
    assert found[""]["funding"] == "0.02"  # of the account's position: no strategy's own


def test_lists_the_last_trades(run_dir):
    (trade,) = json.loads(run("trades", "-n", "1", "--account", "paper", "--json"))["trades"]

    assert (trade["order_id"], trade["side"], trade["price"], trade["quantity"]) == ("d", "sell", "120", "1")
    assert (trade["fee"], trade["realized"], trade["liquidity"]) == ("0.5", "20", "maker")
    assert "reversion" in run("trades")


def test_shows_the_equity_curve(run_dir):
    curve = json.loads(run("equity", "--every", "86400", "--account", "paper", "--json"))["equity"]

    assert [row["equity"] for row in curve] == ["10997", "11016.52"]
    assert "11016.52" in run("equity")


def test_people_get_tables(run_dir):
    assert "11016.52" in run()
    assert "reversion" in run("--by", "strategy")


def test_an_export_goes_on_where_the_last_one_ended_and_writes_nothing_twice(tmp_path, monkeypatch):
    said, out = two_days(), tmp_path / "made" / "trades.db"
    half = (
        next(n for n, each in enumerate(said) if isinstance(each, OrderFilled) and each.order_id == "d") + 1
    )
    run_dir = write_run(tmp_path / "half", said[:half])  # between a fill and its entry in the ledger
    first = json.loads(run("export", "--run", run_dir, "--out", out, "--json"))
    run_dir = write_run(tmp_path / "whole", said)

    second = json.loads(run("export", "--run", run_dir, "--out", out, "--json"))
    third = json.loads(run("export", "--run", run_dir, "--out", out, "--json"))

    assert [told["new_trades"] for told in (first, second, third)] == [3, 1, 0]
    with closing(sqlite3.connect(out)) as database:
        trades = database.execute("SELECT order_id, quantity, realized FROM trades ORDER BY ts").fetchall()
        equity = database.execute(
            "SELECT equity FROM equity WHERE account = 'paper' ORDER BY minute"
        ).fetchall()
    assert trades == [("a", "3", "0"), ("b", "2", "0"), ("c", "1", "0"), ("d", "1", "20")]
    assert equity[-1] == ("11016.52",)


def test_refuses_what_it_cannot_read_or_write(tmp_path, monkeypatch):
    monkeypatch.setenv("TICKERML_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no run in"):
        run()
    with pytest.raises(ConfigError, match="there is no journal at"):
        run("--run", tmp_path)
    run_dir = write_run(tmp_path, [TimeTick(1)])
    with pytest.raises(ConfigError, match="has no account yet"):
        run("--run", run_dir)
    (tmp_path / "text.db").write_text("this is no database, and long enough to be seen as none" * 20)
    with pytest.raises(ConfigError, match=r"--out .*text.db: expected a file that SQLite can write"):
        run("export", "--run", run_dir, "--out", tmp_path / "text.db")


def test_a_journal_without_ledger_entries_has_no_trades_and_still_its_equity():
    report = Report()
    for message in two_days():
        if not isinstance(message, LedgerPosted):
            report.add(message)

    assert [row["trades"] for row in report.rows()] == [0, 0]
    assert [row["equity"] for row in report.rows()] == [to_units("11016.52"), to_units("11019.5")]
    assert sum(isinstance(message, PortfolioSnapshot) for message in two_days()) > 0
