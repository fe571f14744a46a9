"""What the commands share: their common options, and how they print."""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from tickerml.kernel import StoreError, runs
from tickerml.kernel.report import show

DEFAULT_HOME = Path("~/.tickerml")

Home = Annotated[
    Path,
    typer.Option("--home", envvar="TICKERML_HOME", help="Where all state lives.", show_default="~/.tickerml"),
]
ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config", help="The configuration.", show_default="./plugins.toml, else HOME/plugins.toml"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
RunDir = Annotated[Path | None, typer.Option("--run", help="A run's directory.", show_default="the newest")]


def find_run(given: Path | None, home: Path) -> Path:
    """
    Return the run's directory that was *given*, or the newest of *home*.

    Raises: StoreError: there is none.
    """
    found = given or runs.latest(home.expanduser())
    if found is None:
        raise StoreError(f"there is no run in {home.expanduser()}; start one with `tickerml run`")
    return found


def print_report(report: dict[str, Any], as_json: bool) -> None:
    """Print *report* for a person, or as one JSON object."""
    show(report, sys.stdout, as_json=as_json)


@contextlib.contextmanager
def progress(label: str, as_json: bool) -> Iterator[Any]:
    """Give a function that shows how far something is, at most five times a second and only to a person."""
    shown_at = time.monotonic()
    is_quiet = as_json or not sys.stderr.isatty()

    def update(text: str) -> None:
        nonlocal shown_at
        if not is_quiet and time.monotonic() - shown_at > 0.2:
            shown_at = time.monotonic()
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{label}: {text}"[:width] + "\x1b[K", end="", file=sys.stderr, flush=True)

    yield update
    if not is_quiet:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
