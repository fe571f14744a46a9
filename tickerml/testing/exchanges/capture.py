"""
A recording played to whoever asks: the frames of a file, at their own pace, as an exchange.

Two kinds of files are read, both one event a line: `<receive ns> <json>` (hftbacktest, where a
line without a stream is a REST snapshot) and `<receive s>: <json>` (cryptofeed, where lines of
`http...` are REST replies, ` <- ` and ` <-> ` what was sent and connected). A request is
answered with the recorded reply to the same path and query. What a client sends is accepted
and not answered but for the subscriptions of Binance: the answers of that day are in the file.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from tickerml.kernel import NS_PER_S

from .market import Market, Update
from .wire import Clock, Connection, Reply, Wire, dumps

_REPLY = re.compile(r"(https?://\S+) -> ([0-9.]+): (.*)", re.DOTALL)
_LINE = re.compile(r"([0-9.]+):? (.*)", re.DOTALL)


class Recorded(NamedTuple):
    """One line of a recording: a frame, or with a url a reply to a request."""

    ts_recv: int  # ns UTC
    text: str
    url: str = ""


def read(path: Path) -> Iterator[Recorded]:
    """
    Yield the frames and replies of a recording; lines that are neither are left out.

    Raises: OSError: it cannot be read.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            if reply := _REPLY.fullmatch(line.strip()):
                yield Recorded(_ns(reply[2]), reply[3], reply[1])
            elif (frame := _LINE.fullmatch(line.strip())) and frame[2][:1] in ("{", "["):
                yield _recorded(_ns(frame[1]), frame[2])


def _ns(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole) if len(whole) > 15 else int(whole) * NS_PER_S + int(f"{fraction:0<9}"[:9])


def _recorded(ts_recv: int, text: str) -> Recorded:
    if text.startswith('{"lastUpdateId"'):
        return Recorded(ts_recv, text, "/api/v3/depth")  # of the one symbol of such a file
    return Recorded(ts_recv, text)


class Playback(Wire):
    """An exchange that says what was recorded; it has no markets of its own."""

    listings = ()

    def __init__(self, exchange: str, recorded: Iterable[Recorded], clock: Clock) -> None:
        super().__init__(0, clock)
        self.exchange = exchange
        lines = sorted(recorded, key=lambda line: line.ts_recv)
        self.frames = [line for line in lines if not line.url]
        self._replies = [line for line in lines if line.url]
        self._next = 0
        self._began_ns: int | None = None
        self.is_asked = False  # whether a client has sent something, which is how all of them subscribe

    def is_due(self, at_ns: int) -> bool:
        """Whether the next frame is due, by any clock; the first is once a client has asked for data."""
        if not self.is_asked or self.is_over:
            return False
        self._began_ns = at_ns if self._began_ns is None else self._began_ns
        return self.frames[self._next].ts_recv - self.frames[0].ts_recv <= at_ns - self._began_ns

    @property
    def is_over(self) -> bool:
        """Whether every frame was sent."""
        return self._next == len(self.frames)

    def play(self) -> None:
        """Send the next frame to everybody."""
        text = self.frames[self._next].text
        self._next += 1
        for connection in self.connections:
            connection.send(text, "book")

    def connection(self) -> Connection:
        return PlaybackConnection(self)

    def rest(self, method: str, path: str, query: Mapping[str, str]) -> Reply | None:
        for line in self._replies:
            parts = urlsplit(line.url)
            asked = dict(parse_qsl(parts.query))
            if path.endswith(parts.path) and all(query.get(key, text) == text for key, text in asked.items()):
                return Reply(line.text)
        return None

    def error_frame(self) -> str:
        return '{"error":{"code":2,"msg":"Invalid request"},"id":1}'


class PlaybackConnection(Connection):
    """One socket that a recording is played to."""

    wire: Playback

    def received(self, text: str) -> None:
        self.wire.is_asked = True
        command = json.loads(text)
        if isinstance(command, dict) and command.get("method") == "SUBSCRIBE" and "id" in command:
            self.send(dumps({"result": None, "id": command["id"]}))

    def updated(self, market: Market, update: Update) -> None:
        """A recording has no markets, so nothing is ever told this way."""
