"""
The past that a trainer may see: the market data in the journals of this home.

It ends 30 days before the run began, and neither a longer run nor a restart moves that
end. So what a model is judged on afterwards, it cannot have seen. Of our own orders,
fills and money nothing is in it at all.
"""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from . import codec, topics
from . import messages as m
from .errors import StoreError
from .journal_reader import JournalReader
from .records import frame_seq
from .runs import RUN_KEY, Run
from .units import NS_PER_S

QUARANTINE_NS = 30 * 24 * 3600 * NS_PER_S
PAGE = 10_000  # frames read at a time

#: What a dataset may hold.
MARKET = (
    m.Instrument,
    m.BookSnapshot,
    m.BookDelta,
    m.BookOrders,
    m.Trade,
    m.Quote,
    m.FundingUpdated,
    m.FeedConnected,
    m.FeedLost,
    m.SequenceGap,
    m.ChecksumFailed,
    m.BookStale,
    m.BookResynced,
    m.DataAnomaly,
    m.Bar,
    m.FeatureVector,
    m.NewsItem,
)

logger = structlog.get_logger()


class JournalDataset(msgspec.Struct, frozen=True):
    """
    The Dataset over the earlier runs of *home*, oldest first.

    A journal keeps instruments and news for good, and the rest of a run's last kernel.hot_hours.
    The run that is going on, in *run_dir*, is not read: all of it is younger than the cut.
    """

    home: Path
    run_dir: Path
    until_ns: int

    def messages(self, *types: type[m.Message]) -> Iterator[m.Message]:
        """
        Yield the messages of *types*, all when none are named, run by run, each in its order.

        Raises:
            ValueError: a type that no dataset holds.
            StoreCorrupt: a journal is damaged; what came before is whole.
        """
        wanted = types or MARKET
        if refused := [cls.__name__ for cls in wanted if cls not in MARKET]:
            raise ValueError(f"a dataset holds market data alone, was asked for {refused[0]}")
        for journal in self._journals():
            for message in _messages(journal, wanted):
                if max(message.ts_recv, getattr(message, "ts_event", 0)) < self.until_ns:
                    yield message

    def _journals(self) -> list[Path]:
        found = []
        for path in self.home.glob("runs/*/[0-9]*/journal"):
            if path.parent == self.run_dir:
                continue
            try:
                with contextlib.closing(JournalReader(path)) as reader:
                    run = msgspec.msgpack.decode(reader.meta(RUN_KEY), type=Run)
            except (StoreError, msgspec.MsgspecError) as error:
                logger.warning("dataset.journal_skipped", journal=str(path), reason=str(error))
                continue
            found.append((run.started_ns, path))
        return [path for _, path in sorted(found)]


def dataset_of(home: Path, run_dir: Path, started_ns: int) -> JournalDataset:
    """Return what a trainer may see of *home* in the run that began at *started_ns*, ns UTC."""
    return JournalDataset(home, run_dir, started_ns - QUARANTINE_NS)


def _messages(journal: Path, wanted: tuple[type[m.Message], ...]) -> Iterator[m.Message]:
    prefixes = tuple(topics.prefixes(wanted))
    with contextlib.closing(JournalReader(journal)) as reader:
        first = reader.first()
    # What is kept of the pruned beginning, and then everything.
    for raw in itertools.chain(_frames(journal, "kept", first - 1), _frames(journal, "log", 2**63)):
        frame = codec.unpack(raw)
        if frame.topic.startswith(prefixes) and isinstance(message := codec.decode(frame.body), wanted):
            yield message


def _frames(journal: Path, table: str, until: int) -> Iterator[bytes]:
    """Yield frames up to seq *until*; the file is open only while a page is read, as a process may once."""
    after = 0
    while True:
        with contextlib.closing(JournalReader(journal)) as reader:
            page = list(itertools.islice(reader.frames(after, until, table), PAGE))
        yield from page
        if len(page) < PAGE:
            return
        after = frame_seq(page[-1])
