"""
`tickerml tournament`: what the orders of a run would have come to under other fill models.

It reads what is on the disk, so it works while the run goes on and after it has ended. The run must
have been one with `sim-fifo.tournament`, which names the models.

Exit codes: 0 done; 1 the journal is damaged; 2 wrong usage, or no such run or no tournament in it.
"""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import typer

from tickerml.kernel import (
    ConfigError,
    TournamentMeasured,
    codec,
    format_units,
    hookimpl,
    topics,
)
from tickerml.kernel.journal_reader import JournalReader

from .data_show import format_time, plural, print_table
from .run_named import HOME, AsJson, Home, RunDir, find_run, reading

MONEY = ("notional", "fees", "pnl", "optimism")
_TITLES = {"notional": "notional", "fees": "fees", "pnl": "P&L", "optimism": "optimism"}
_COUNTED = ("orders", "fills", *MONEY)
_PREFIX = topics.topic("tournament")


def tournament(
    run: RunDir = None,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Show what the orders of a run would have gained under each fill model, and how much too good it is."""
    found = find_run(run, home)
    with reading():
        told = last_told(found)
    if not told:
        raise ConfigError(
            f"the run in {found} has measured no tournament: name its models in the option tournament of "
            "sim-fifo; the first result comes at the end of the minute of the first fill"
        )
    bands = bands_of(told)
    if as_json:
        return print(json.dumps({"run": str(found), "bands": bands}))
    print(f"run {found}")
    for band in bands:
        _print(band)


def last_told(run_dir: Path) -> list[TournamentMeasured]:
    """
    Return what was last measured in each market of a run.

    Raises: StoreError: there is no journal. StoreCorrupt: it is damaged.
    """
    told: dict[tuple[str, str], TournamentMeasured] = {}
    with closing(JournalReader(run_dir / "journal")) as journal:
        for raw in journal.frames(table="kept"):
            frame = codec.unpack(raw)
            if frame.topic.startswith(_PREFIX):
                message = codec.decode(frame.body)
                assert isinstance(message, TournamentMeasured)  # the topic has no other
                told[message.exchange, message.symbol] = message
    return [told[key] for key in sorted(told)]


def bands_of(told: list[TournamentMeasured]) -> list[dict[str, Any]]:
    """Return a band for each quote asset, ready for JSON: money of two assets cannot be added."""
    return [
        _band(asset, [one for one in told if one.asset == asset])
        for asset in sorted({one.asset for one in told})
    ]


def _band(asset: str, told: list[TournamentMeasured]) -> dict[str, Any]:
    # What is real is one row, though exchanges may have models of their own.
    real = ", ".join(sorted({one.results[0].model for one in told}))
    sums: dict[str, dict[str, int]] = {}
    for one in told:
        for index, result in enumerate(one.results):
            row = sums.setdefault(result.model if index else "", dict.fromkeys(_COUNTED, 0))
            for name in _COUNTED:
                row[name] += getattr(result, name)
    gained = [row["pnl"] for row in sums.values()]
    return {
        "asset": asset,
        "markets": [f"{one.exchange} {one.symbol}" for one in told],
        "until": max(one.ts_recv for one in told),
        "accepted": sum(one.accepted for one in told),
        "pnl_low": format_units(min(gained)),
        "pnl_high": format_units(max(gained)),
        "models": [
            {
                "model": model or real,
                "is_real": not model,
                "orders": row["orders"],
                "fills": row["fills"],
                **{name: format_units(row[name]) for name in MONEY},
            }
            for model, row in sums.items()
        ],
    }


def _print(band: dict[str, Any]) -> None:
    print(
        f"{band['asset']}: {plural(band['accepted'], 'order')} in {plural(len(band['markets']), 'market')}, "
        f"until {format_time(band['until'])}"
    )
    rows = [
        {
            "model": row["model"] + (" (real)" if row["is_real"] else ""),
            "orders filled": row["orders"],
            "fills": row["fills"],
            **{_TITLES[name]: float(row[name]) for name in MONEY},
        }
        for row in band["models"]
    ]
    print_table(rows, list(rows[0]))
    low, high = float(band["pnl_low"]), float(band["pnl_high"])
    print(f"the same orders: P&L from {low:,.2f} to {high:,.2f} {band['asset']}, by who fills them")


@hookimpl
def tickerml_commands(app: typer.Typer) -> None:
    """Add `tickerml tournament`."""
    app.command("tournament")(tournament)
