"""
What the data page shows: of each stream of a tape, which days are there, and what is wrong in them.

The tape belongs to a plugin, which nothing here may import, so `tickerml data coverage` is
asked, in a process of its own.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from tickerml.kernel import NS_PER_S, StoreError

DAYS = 92  # shown at most, the newest
HINTS = 6  # gaps that a hint names at most
LIMIT_S = 600.0  # a day's journal is long to read
DAY_S = 86_400
NOT_RECORDED, NOTHING_CAME = "not recorded", "silence: nothing came"
_LEVELS = (0.25, 0.5, 0.9)  # fractions of a day

Stream = dict[str, Any]
Gap = dict[str, Any]


def run_dirs(home: Path, limit: int = 50) -> list[Path]:
    """Return the directories of the runs of *home* that have a tape, the newest first."""
    tapes = {tape: tape.stat().st_mtime for tape in home.glob("runs/*/*/**/tape.mdb")}
    newest = sorted(tapes, key=lambda tape: -tapes[tape])
    places = [home / Path(*tape.relative_to(home).parts[:3]) for tape in newest]
    return list(dict.fromkeys(places))[:limit]


def ask(tape: Path) -> list[Stream]:
    """
    Return the streams of *tape*, a file or the directory of a run, as `tickerml data coverage` says them.

    Raises: StoreError: there is no tape, it cannot be read, or nobody answers.
    """
    command = [sys.executable, "-m", "tickerml.ui.cli", "data", "coverage", "--tape", str(tape), "--json"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise StoreError(f"the tape was not read within {LIMIT_S:g} s") from None
    try:
        said = json.loads(answer.stdout)
    except ValueError:
        told = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise StoreError(f"`tickerml data coverage` failed: {told[-1]}") from None
    if "error" in said:
        raise StoreError(said["error"])
    streams: list[Stream] = said["streams"]
    return streams


def calendar(streams: Sequence[Stream]) -> dict[str, Any]:
    """
    Return the days of *streams* as texts.

    Returns: days; rows with name, detail and cells of level (0 for nothing to 4 for a whole day),
        is_doubtful and hint; summary, and note, which says what is not shown.
    """
    days = _days(streams)
    there = [stream for stream in streams if stream["rows"]]
    rows, stored, unsealed = (sum(stream[what] for stream in there) for what in ("rows", "bytes", "unsealed"))
    waiting = f"{unsealed:,} of them in no block yet" if unsealed < rows else "in no block yet"
    figures = [f"{len(there):,} streams", f"{rows:,} rows" + (f", {waiting}" if unsealed else "")]
    shown = f"the newest {DAYS} of {len(days)} days" if len(days) > DAYS else ""
    days = days[-DAYS:]
    return {
        "days": [f"{day:%Y-%m-%d}" for day in days],
        "rows": [_row(stream, days) for stream in there],
        "summary": " · ".join([*figures, size(stored)] if stored else figures),
        "note": shown,
    }


def _days(streams: Iterable[Stream]) -> list[date]:
    named = sorted(date.fromisoformat(day) for stream in streams for day in stream["days"])
    if not named:
        return []
    return [named[0] + timedelta(days=number) for number in range((named[-1] - named[0]).days + 1)]


def _row(stream: Stream, days: Iterable[date]) -> dict[str, Any]:
    kind, exchange, symbol = stream["stream"].split("|")
    stored = size(stream["bytes"]) if stream["bytes"] else "in no block yet"
    return {
        "name": f"{exchange} {symbol}",
        "kind": kind,
        "detail": f"{stream['rows']:,} rows, {stored}",
        "cells": [_cell(stream, day) for day in days],
    }


def _cell(stream: Stream, day: date) -> dict[str, Any]:
    there = stream["days"].get(f"{day:%Y-%m-%d}")
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * NS_PER_S
    end = start + DAY_S * NS_PER_S
    gaps = [gap for gap in stream["gaps"] if gap["start"] < end and gap["end"] >= start]
    head = f"{stream['stream'].replace('|', ' ')} on {day:%Y-%m-%d}"
    if there is None:
        return {"level": 0, "is_doubtful": False, "hint": [head, "nothing was recorded"]}
    covered_s = there["covered"] * DAY_S
    doubtful_s = _union_s((max(start, gap["start"]), min(end, gap["end"])) for gap in gaps if _is_doubt(gap))
    silent_s = _union_s(
        (max(start, gap["start"]), min(end, gap["end"])) for gap in gaps if gap["reason"] == NOTHING_CAME
    )
    doubt = f", {_duration(doubtful_s)} of it in doubt" if doubtful_s else ""
    rows = f"{there['rows']:,} rows, {size(there['bytes'])} in blocks begun in it"
    lines = [_gap_line(gap) for gap in gaps[:HINTS]]
    lines += [f"and {len(gaps) - HINTS:,} more"] if len(gaps) > HINTS else []
    return {
        "level": 1 + sum(covered_s - doubtful_s - silent_s > level * DAY_S for level in _LEVELS),
        "is_doubtful": any(map(_is_doubt, gaps)),
        "hint": [head, f"{_duration(covered_s)} recorded{doubt}; {rows}", *(lines or ["no gap"])],
    }


def _is_doubt(gap: Gap) -> bool:
    return gap["reason"] not in (NOT_RECORDED, NOTHING_CAME)


def _union_s(spans: Iterable[tuple[int, int]]) -> float:
    """Return how many seconds lie in one of *spans* at least, ns."""
    total = last = 0
    for start, end in sorted(spans):
        total += max(0, end - max(start, last))
        last = max(last, end)
    return total / NS_PER_S


def _gap_line(gap: Gap) -> str:
    begun = datetime.fromtimestamp(gap["start"] / NS_PER_S, UTC)
    return f"{begun:%H:%M:%S} for {_duration((gap['end'] - gap['start']) / NS_PER_S)}: {gap['reason']}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Return a number of bytes as people say it."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" or count >= 100 else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
