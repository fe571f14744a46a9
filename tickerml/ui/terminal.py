"""What the commands share: their common options, and how they print."""

import contextlib
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from tickerml.kernel import ConfigError, PackageError, StoreError, runs
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


def print_table(rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Print *columns* of *rows* for a person."""
    texts = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *texts]) for i in range(len(columns))]
    for line in [columns, *texts]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)


def parse_seconds(text: str, option: str = "--for") -> float:
    """
    Return seconds of "90", "20s", "10m", "1h30m".

    Raises: ConfigError: it is no duration.
    """
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
    if not text or not parts:
        raise ConfigError(f"{option} {text}: expected a duration like 20s, 10m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + seconds


def ask(question: str, lines: list[str], *, is_yes: bool) -> None:
    """
    Show *lines* on stderr, and go on only when the person at the terminal agrees, or has before.

    Raises: PackageError: a no, or nobody is there to ask.
    """
    for line in lines:
        print(line, file=sys.stderr)
    if is_yes:
        return
    if not sys.stdin.isatty():
        raise PackageError(f"{question} There is no terminal to ask on; say it with --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise PackageError("nothing was changed")


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
