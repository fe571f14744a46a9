"""
`tickerml parity`: the certificate that a day of paper trading is what a backtest makes of the same data.

Exit codes: 0 the same, fill by fill; 1 not the same, or it cannot be told; 2 wrong usage, or no such run.
"""

import json
import time
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from tickerml.kernel import NS_PER_S, ConfigError, hookimpl
from tickerml.kernel.parity import DAY_NS, Parity

from .data_show import progress
from .run_named import HOME, AsJson, Home, RunDir, find_run, reading

ALL = "all"


def parity(
    day: Annotated[str, typer.Option("--day", help="A day in UTC, or all.", show_default="yesterday")] = "",
    run: RunDir = None,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Run a day of paper trading again through the backtest, compare fill by fill, print a certificate."""
    first, end = _bounds(day, time.time_ns())
    found = find_run(run, home)
    with reading():
        certificate = _certify(found, first, end, as_json)
    if not certificate["inputs"]:
        raise ConfigError(f"the run in {found} has nothing of {certificate['day']}; see --day and --run")
    if as_json:
        print(json.dumps(certificate))
    else:
        _print(certificate)
    if not certificate["certified"]:
        raise typer.Exit(1)


def _bounds(day: str, now_ns: int) -> tuple[int, int]:
    """
    Return the first and the last + 1 ns of *day*.

    Raises: ConfigError: it is no day.
    """
    if day == ALL:
        return 0, 2**63
    try:
        start = date.fromisoformat(day) if day else _today(now_ns) - timedelta(days=1)
    except ValueError:
        raise ConfigError(
            f"--day {day}: expected a day in UTC such as 2026-11-21, or {ALL}, was neither"
        ) from None
    first = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) * NS_PER_S
    return first, first + DAY_NS


def _today(now_ns: int) -> date:
    return datetime.fromtimestamp(now_ns // NS_PER_S, UTC).date()


def _certify(run_dir: Path, first: int, end: int, as_json: bool) -> dict[str, Any]:
    with closing(Parity(run_dir, first, end)) as again, progress("parity", as_json) as update:
        for seq in again.run():
            if seq % 1000 == 0:
                update(f"{seq:,} of {again.head:,} messages", seq / again.head)
        certificate = again.certificate()
    kept = run_dir / "parity" / f"{certificate['day']}.json"
    try:
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(certificate, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write the certificate {kept}: {error.strerror}") from None
    return certificate


def _print(certificate: dict[str, Any]) -> None:
    is_same = certificate["certified"]
    print(f"{'the same' if is_same else 'NOT THE SAME'}  {certificate['day']}  {certificate['run']}")
    if not certificate["is_day_over"]:
        print("the journal ends before the day does: this holds for what is in it")
    print(f"{certificate['inputs']:,} inputs through the backtest")
    names = sorted({*certificate["live"], *certificate["backtest"]})
    for name in names:
        print(
            f"{name:<18} {certificate['live'].get(name, 0):>8,} published "
            f"{certificate['backtest'].get(name, 0):>8,} again"
        )
    print(f"sha256 published   {certificate['live_sha256']}")
    print(f"sha256 again       {certificate['backtest_sha256']}")
    print(
        "versions           " + ", ".join(f"{name} {each}" for name, each in certificate["versions"].items())
    )
    environment = certificate["environment"]
    print(f"environment        {environment['fills']:,} fills, sha256 {environment['fills_sha256']}")
    if certificate["stopped_at"]:
        print(
            f"plugins were changed at seq {certificate['stopped_at']}: what is behind it cannot be compared"
        )
    if found := certificate["difference"]:
        print(f"first difference   seq {found['seq']}, {found['component']}")
        print(f"  published {found['live']}\n  again     {found['replayed']}")
    if found := environment["difference"]:
        print("first fill that differs in the environment")
        print(f"  published {found['live']}\n  there     {found['environment']}")


@hookimpl
def tickerml_commands(app: typer.Typer) -> None:
    """Add `tickerml parity`."""
    app.command("parity")(parity)
