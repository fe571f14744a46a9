"""
`tickerml tca`: what became of a run's orders, what they cost, and whether its fills can be believed.

It reads what is on the disk, so it works while the run goes on and after it has ended.

Exit codes: 0 done; 1 the journal is damaged; 2 wrong usage, or no such run.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from tickerml.kernel import (
    Message,
    codec,
    hookimpl,
    topics,
)
from tickerml.kernel.journal_reader import JournalReader

from .data_show import plural, print_table
from .run_named import HOME, AsJson, Home, RunDir, find_run, reading
from .tca_report import WANTED, Analysis, Row

_BAR = 40  # characters of the longest bar of a histogram
_SHARES = ("filled", "quantity_filled", "precision", "recall")

_PREFIXES = tuple(topics.prefixes(WANTED))
_SECTIONS = (
    ("fill_rate", "orders that rested, by how many orders they started behind"),
    ("markouts", "mark-outs"),
    ("toxic", "how good the prediction of toxic fills was"),
    ("spreads", "effective and realized spreads"),
    ("slippage", "slippage to the mid at submission"),
)


def tca(
    run: RunDir = None,
    toxic_bps: Annotated[
        float | None,
        typer.Option(
            min=0, help="A fill whose mark-out loses more was toxic.", show_default="half its spread"
        ),
    ] = None,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Tell what became of a run's orders and what they cost, and whether its fills can be believed."""
    found = find_run(run, home)
    analysis = Analysis(toxic_bps)
    with reading():
        for message in _messages(found / "journal"):
            analysis.add(message)
    report = {"run": str(found), **analysis.report()}
    if as_json:
        return print(json.dumps(report))
    _print(report)


def _messages(journal: Path) -> Iterator[Message]:
    with closing(JournalReader(journal)) as reader:
        for raw in reader.frames(table="kept"):  # of these kinds all is kept for good
            frame = codec.unpack(raw)
            if frame.topic.startswith(_PREFIXES):
                yield codec.decode(frame.body)


def _print(report: Row) -> None:
    print(f"{report['run']}: {report['orders']:,} orders, {report['rejected']:,} rejected", end="")
    print(f", {report['fills']:,} fills")
    for name, title in _SECTIONS:
        if rows := report[name]:
            print(f"\n{title}")
            print_table([_readable(row) for row in rows], list(rows[0]))
    if rows := report["latency"]:
        _print_latencies(rows)
    passive = report["passive_within_a_tick"]
    if passive["fills"]:
        print(f"\n{passive['share']:.1%} of {passive['fills']:,} passive fills lay within a tick of the best")
    print(f"\n{_verdict(report['too_optimistic'])}")


def _readable(row: Row) -> Row:
    return {name: _cell(name, value) for name, value in row.items()}


def _cell(name: str, value: Any) -> Any:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"{value[0]:,} to {value[1]:,}"
    return f"{value:.1%}" if name in _SHARES else value


def _print_latencies(rows: list[Row]) -> None:
    print("\nlatencies")
    columns = [name for name in rows[0] if name != "histogram"]
    print_table(rows, columns)
    for row in rows:
        print(f"\n{row['exchange']} {row['way']}")
        most = max(bucket["orders"] for bucket in row["histogram"])
        for bucket in row["histogram"]:
            bar = "#" * max(1, _BAR * bucket["orders"] // most)
            print(f"{bucket['from_ms']:>6,} ms and more {bucket['orders']:>8,}  {bar}")


def _verdict(told: Row) -> str:
    if told["flag"] is None:
        return f"no mark-out of a passive fill at {told['horizon_s']} s: too early to say how good they are"
    error = told["standard_error_bps"]
    figures = f"{told['mean_markout_bps']:+.2f} bps" + ("" if error is None else f" (error {error:.2f})")
    fills = plural(told["passive_fills"], "passive fill")
    what = f"{fills}, {told['horizon_s']} s later: {figures} on average"
    if told["flag"]:
        return f"TOO OPTIMISTIC: {what}; real ones lose to whoever met them"
    return f"believable: {what}"


@hookimpl
def tickerml_commands(app: typer.Typer) -> None:
    """Add `tickerml tca`."""
    app.command("tca")(tca)
