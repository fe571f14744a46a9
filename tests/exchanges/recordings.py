"""The recorded sessions, found through TICKERML_CAPTURES, given to a Feed line by line as time went."""

import os
import re
from pathlib import Path
from typing import TypeVar

import pytest

from tickerml.exchanges.feed import Feed
from tickerml.exchanges.times import seconds_to_ns
from tickerml.kernel import Message

CAPTURES = Path(os.environ.get("TICKERML_CAPTURES", Path(__file__).parents[2].parent / "shared" / "data"))

_LINE = re.compile(r"(?:(https?://\S+) -> )?(\d{9,11}(?:\.\d+)?): (.*)")
_F = TypeVar("_F", bound=Feed)


def recorded(*names: str) -> list[Path]:
    """Return the recordings *names* of the folder raw_ws; the test is skipped where one is absent."""
    files = [CAPTURES / "raw_ws" / name for name in names]
    if missing := [str(file) for file in files if not file.exists()]:
        pytest.skip(f"needs recorded captures, absent here: {missing}; set TICKERML_CAPTURES")
    return files


def replayed(feed: _F, *files: Path) -> tuple[_F, list[Message]]:
    """Give *feed* every frame and reply of cryptofeed archives, merged by time; return what it said."""
    found = (_LINE.match(line) for file in files for line in file.read_text().splitlines())
    lines = [(seconds_to_ns(line[2]), line[1], line[3].encode()) for line in found if line]
    messages: list[Message] = []
    for ts_recv, url, text in sorted(lines, key=lambda line: line[0]):
        messages += feed.on_reply(ts_recv, url, text) if url else feed.on_frame(ts_recv, text)
    return feed, messages
