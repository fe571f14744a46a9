"""What the data commands share: times as people write them, progress, tables."""

import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from tickerml.kernel import NS_PER_MS, NS_PER_S, ConfigError, WallClock

_WAIT_NS = 2 * NS_PER_S  # what takes less has no progress bar
_STEP_NS = 200 * NS_PER_MS
_BAR = 24  # characters


class Update(Protocol):
    """Shows what is going on, and what fraction is done: 0 where nobody knows."""

    def __call__(self, text: str, fraction: float = 0.0) -> None: ...


def parse_time(text: str, option: str) -> int:
    """
    Return the ns UTC of "2024-08-08", "2024-08-08T23:54:30.5", or of a number of seconds, ms, us or ns.

    Raises: ConfigError: it is none of them.
    """
    if re.fullmatch(r"\d{9,19}", text):
        return epoch_ns(int(text))
    try:
        return int(np.datetime64(text.removesuffix("Z").strip(), "ns").astype(np.int64))
    except ValueError:
        raise ConfigError(
            f"{option} {text}: expected a time in UTC such as 2024-08-08T23:54:30, was neither that "
            "nor a number of seconds"
        ) from None


def epoch_ns(number: int) -> int:
    """Return the ns of *number*, a time since 1970 in s, ms, us or ns: its size tells which."""
    thousands = min(max((len(str(abs(number))) - 8) // 3, 0), 3)
    return number * (1, 10**3, 10**6, 10**9)[3 - thousands]


def format_time(ts: int) -> str:
    """Return *ts*, ns UTC, to the ms."""
    return str(np.datetime64(ts, "ns").astype("datetime64[ms]")).replace("T", " ")


def plural(count: int, noun: str) -> str:
    """Return so many of *noun*: 1 row, 2 rows."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@contextmanager
def progress(label: str, as_json: bool) -> Iterator[Update]:
    """
    Give a function that shows what is going on and what fraction is done, 0 where nobody knows.

    Shown from the second second on, five times a second, and only to a person at a terminal.
    """
    clock = WallClock()
    due = clock.now() + _WAIT_NS
    is_shown, is_quiet = False, as_json or not sys.stderr.isatty()

    def update(text: str, fraction: float = 0.0) -> None:
        nonlocal due, is_shown
        if is_quiet or clock.now() < due:
            return
        due, is_shown = clock.now() + _STEP_NS, True
        filled = int(min(fraction, 1.0) * _BAR)
        bar = f"[{'#' * filled}{'.' * (_BAR - filled)}] {fraction:4.0%} " if fraction else ""
        line = f"\r{label}: {bar}{text}"[: shutil.get_terminal_size().columns]
        print(line, end="\x1b[K", file=sys.stderr, flush=True)

    yield update
    if is_shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print *columns* of *rows* for a person; numbers stand on the right."""
    texts = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[place]) for line in [columns, *texts]) for place in range(len(columns))]
    is_number = [
        bool(rows) and all(isinstance(row[column], int | float) for row in rows) for column in columns
    ]
    for line in [columns, *texts]:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, is_number, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value) or "-"
