"""
Whether a tape can be believed, stream by stream.

What is wrong is what the tape does not say itself: a block that is not what was sealed or is
missing, a sequence that goes back without a gap, a book that crosses more often than its feed said,
frames that were neither parsed nor skipped. A gap, a crossing or a bad checksum that the feed
noticed is no fault of the tape: it is counted, and the book is in doubt from there.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from tickerml.kernel import FeedSummarized, StoreCorrupt, StreamCount

from .data_show import Update, format_time
from .tape import TapeReader
from .tape_replay import crossings, regressions
from .tape_rows import Kind, Rows, split_stream

COLUMNS = (
    "exchange",
    "symbol",
    "messages",
    "parsed",
    "skipped",
    "gaps",
    "crossed",
    "checksums_ok",
    "checksums_bad",
    "rows",
    "bytes_per_row",
)
_NOTHING = StreamCount(0, 0, 0, 0, 0, 0, 0)

Place = tuple[str, str]  # exchange, symbol; "" for what is of no symbol


def verify(tape: TapeReader, update: Update) -> dict[str, Any]:
    """Return what verifying *tape* has found: is it ok, its problems, and the figures of its streams."""
    problems = tape.verify()
    summaries = tape.counts()
    counts = counts_of(summaries)
    found: dict[Place, dict[str, Any]] = {}
    names = tape.streams()
    for number, stream in enumerate(names):
        update(stream, number / len(names))
        kind, exchange, symbol = split_stream(stream)
        figures = found.setdefault((exchange, symbol), {})
        try:
            figures[kind] = _figures(tape, stream, problems)
        except StoreCorrupt:
            figures[kind] = {"rows": 0, "bytes": 0, "crossed": 0}  # verify() has said why
    streams = []
    for place in sorted({*(place for place in counts if counts[place].messages), *found}):
        row = _row(place, counts.get(place, _NOTHING), found.get(place, {}))
        problems += _doubtful(row, has_counts=place in counts)
        streams.append(row)
    reasons: dict[str, int] = {}
    for summary in summaries:
        for reason, count in summary.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return {
        "tape": str(tape.path),
        "ok": not problems,
        "problems": problems,
        "skipped": reasons,
        "streams": streams,
    }


def counts_of(summaries: Iterable[FeedSummarized]) -> dict[Place, StreamCount]:
    """Return what the feeds counted by (exchange, symbol), over all the times they began to count."""
    found: dict[Place, StreamCount] = {}
    for summary in summaries:
        streams: Mapping[str, StreamCount] = summary.streams or {"": _total(summary)}
        for symbol, count in streams.items():
            place = summary.exchange, symbol
            sums = zip(_numbers(found.get(place, _NOTHING)), _numbers(count), strict=True)
            found[place] = StreamCount(*(before + now for before, now in sums))
    return found


def _numbers(count: StreamCount) -> tuple[int, ...]:
    return msgspec.structs.astuple(count)


def _total(summary: FeedSummarized) -> StreamCount:
    # Of a feed that does not count by symbol.
    parsed = summary.messages - summary.skipped
    return StreamCount(summary.messages, parsed, summary.skipped, summary.gaps, summary.crossed_books, 0, 0)


def _figures(tape: TapeReader, stream: str, problems: list[str]) -> dict[str, Any]:
    kind, exchange, symbol = split_stream(stream)
    rows = keyframes = stored = crossed = 0
    before: Rows | None = None
    for block, part in tape.parts(stream):
        stored += block.stored_bytes
        is_keyframe = part["kind"] == Kind.KEYFRAME
        keyframes += int(is_keyframe.sum())
        rows += len(part)
        if kind == "book":
            crossed += crossings(exchange, symbol, part)
            seen = part[~is_keyframe]
            joined = seen if before is None else np.concatenate([before, seen])
            for at in regressions(joined)[:3]:
                problems.append(
                    f"{tape.path}: {block.name}: seq {joined['seq'][at]} at "
                    f"{format_time(int(joined['ts_recv'][at]))} follows a higher one without a gap"
                )
            before = seen[-1:] if len(seen) else before
    return {"rows": rows - keyframes, "keyframes": keyframes, "bytes": stored, "crossed": crossed}


def _row(place: Place, count: StreamCount, kinds: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    rows = sum(figures["rows"] for figures in kinds.values())
    stored = sum(figures["bytes"] for figures in kinds.values())
    return {
        "exchange": place[0],
        "symbol": place[1],
        **msgspec.structs.asdict(count),
        "rows": rows,
        "bytes_per_row": round(stored / rows, 2) if rows else 0.0,
        "crossed_in_rows": kinds.get("book", {}).get("crossed", 0),
        "kinds": {
            kind: {**figures, "bytes_per_row": round(figures["bytes"] / max(figures["rows"], 1), 2)}
            for kind, figures in kinds.items()
        },
    }


def _doubtful(row: Mapping[str, Any], *, has_counts: bool) -> list[str]:
    # What the figures of one symbol say against each other.
    where = f"{row['exchange']} {row['symbol'] or 'of no symbol'}"
    found = []
    if row["messages"] != row["parsed"] + row["skipped"]:
        found.append(
            f"{where}: {row['messages']} messages, of which {row['parsed']} were parsed and "
            f"{row['skipped']} skipped: the others are unexplained"
        )
    if has_counts and row["crossed_in_rows"] > row["crossed"]:
        found.append(
            f"{where}: the book crosses {row['crossed_in_rows']} times, and its feed said {row['crossed']}"
        )
    return found
