"""
What the console knows of the feeds: how well each is, from what it says of itself.

Counts come with a summary now and then, since its source started; what has happened since
the last one is added. As in state.py, *at* is the caller's monotonic clock in seconds, and
texts are made here.
"""

from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    Anomaly,
    BookCrossed,
    BookStale,
    ChannelLost,
    ChannelResumed,
    ChecksumFailed,
    DataAnomaly,
    FeedConnected,
    FeedLost,
    FeedSummarized,
    SequenceGap,
)

SILENCE_S = 5.0  # without market data, or without a report, after which nothing shown may be believed
RATE_S = 5  # over which messages are counted
NONE = "–"

FeedMessage = (
    FeedConnected
    | FeedLost
    | FeedSummarized
    | SequenceGap
    | ChecksumFailed
    | BookStale
    | BookCrossed
    | ChannelLost
    | ChannelResumed
    | DataAnomaly
)
Figure = tuple[str, str, str]  # name, text, tone


class Feed:
    """The feed of one exchange."""

    def __init__(self, exchange: str) -> None:
        self.exchange = exchange
        self.loss = ""  # when it was last lost, and why
        self._is_lost = False
        self._heard_at: float | None = None
        self._seconds: deque[tuple[int, int]] = deque(maxlen=RATE_S + 1)  # and messages in them
        self._summary: FeedSummarized | None = None
        self._since: Counter[type] = Counter()  # what happened after the summary
        self._channels: dict[tuple[str, str], str] = {}  # lost alone, by symbol and name: since when
        self._anomalies: dict[tuple[str, Anomaly], int] = {}  # by symbol and kind

    # --- In -----------------------------------------------------------------------------------

    def hear(self, at: float) -> None:
        """Count a message of the market that came at *at*."""
        self._heard_at, second = at, int(at)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = second, self._seconds[-1][1] + 1
        else:
            self._seconds.append((second, 1))

    def take(self, message: FeedMessage) -> None:
        """Take what the feed says of itself, or the validator of it."""
        match message:
            case FeedConnected():
                self._is_lost = False
            case FeedLost():
                self._is_lost = True
                self.loss = f"{_clock(message.ts_recv)}: {message.reason}"
            case ChannelLost():
                since = message.ts_recv - message.silent_ms * NS_PER_MS
                self._channels[message.symbol, message.channel] = _clock(since)
            case ChannelResumed():
                self._channels.pop((message.symbol, message.channel), None)
            case FeedSummarized():
                self._summary = message
                self._since.clear()
            case DataAnomaly():
                self._anomalies[message.symbol, message.kind] = message.count
            case _:
                self._since[type(message)] += 1

    # --- Out ----------------------------------------------------------------------------------

    def age_s(self, at: float) -> float | None:
        """Return how long ago the last message came, None where none has since the console began."""
        return None if self._heard_at is None else max(0.0, at - self._heard_at)

    def doubt(self, at: float) -> str:
        """Return why nothing this feed has said may be believed at *at*, "" when it may."""
        age_s = self.age_s(at)
        if self._is_lost:
            return "lost"
        if age_s is None:
            return "nothing yet"
        return f"silent for {age_s:,.0f} s" if age_s > SILENCE_S else ""

    def lost_channels(self) -> list[str]:
        """Return what has stopped alone, and when: of its books nothing is missing."""
        return [
            f"{channel} of {symbol} since {since}"
            for (symbol, channel), since in sorted(self._channels.items())
        ]

    def rate(self, at: float) -> float:
        """Return the messages per second that came in the last full RATE_S seconds before *at*."""
        now = int(at)
        return sum(count for second, count in self._seconds if now - RATE_S <= second < now) / RATE_S

    def figures(self, at: float, books: int, valid_books: int) -> list[Figure]:
        """Return what there is to say of the feed at *at*, of whose *books* some are valid."""
        said, since = self._summary or FeedSummarized(0, self.exchange, 0, 0, 0, 0), self._since
        age_s, offset_ms = self.age_s(at), said.clock_offset_ns / NS_PER_MS
        gaps, crossed = said.gaps + since[SequenceGap], said.crossed_books + since[BookCrossed]
        bad = said.checksums_bad + since[ChecksumFailed]
        has_checksums, doubted = said.checksums_ok or bad, sum(self._anomalies.values())
        return [
            ("Messages", f"{self.rate(at):,.1f} /s", ""),
            ("Silent for", NONE if age_s is None else f"{age_s:,.1f} s", _bad(self.doubt(at))),
            ("Books valid", f"{valid_books} of {books}", _bad(valid_books < books)),
            ("Channels lost", f"{len(self._channels)}", _bad(self._channels)),
            ("Gaps", self._count(gaps), _odd(gaps)),
            ("Crossed", self._count(crossed), _odd(crossed)),
            ("Checksums ok", f"{said.checksums_ok:,}" if has_checksums else NONE, ""),
            ("Checksums bad", f"{bad:,}" if has_checksums else NONE, _bad(bad)),
            ("Skipped", self._count(said.skipped), _odd(said.skipped)),
            ("Doubted", f"{doubted:,}", _odd(doubted)),
            ("Clock offset", f"{offset_ms:+,.1f} ms" if said.clock_offset_ns else NONE, ""),
        ]

    def notes(self) -> list[str]:
        """Return the reasons behind the figures: of the last loss, and of what is skipped or doubted."""
        reasons = self._summary.reasons if self._summary else {}
        doubted: Counter[str] = Counter()
        for (symbol, kind), count in self._anomalies.items():
            doubted[f"{kind} {symbol}".strip()] += count
        return [
            f"Last lost at {self.loss}" if self.loss else "Not lost in what the console has seen",
            *(f"Lost alone: {each}" for each in self.lost_channels()),
            *(f"Skipped: {_told(each)}" for each in (reasons,) if each),
            *(f"Doubted: {_told(each)}" for each in (doubted,) if each),
        ]

    def _count(self, number: int) -> str:
        return f"{number:,}" if number or self._summary else NONE


def _clock(ts: int) -> str:
    return f"{datetime.fromtimestamp(ts / NS_PER_S, UTC):%H:%M:%S} UTC"


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))


def _bad(is_so: object) -> str:
    return "bad" if is_so else ""


def _odd(is_so: object) -> str:
    return "odd" if is_so else ""
