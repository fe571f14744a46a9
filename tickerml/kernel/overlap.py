"""
Two connections to one exchange, and the point where the second takes over. Sans-IO.

A live feed's state is its connection, which cannot be handed over. So the process that
is to take over connects while the other still publishes, and holds what it hears. The
one that stops says how far it was in each stream, in the exchange's own numbers; the
other lets go what lies behind them. A book whose connection was not there yet at that
point begins anew with its snapshot: nothing is guessed.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from . import messages as m
from .book import OrderBook

HELD = 32_768  # messages; what is older than these is in the books alone
IDS = 1_000  # of news items, remembered so that none comes twice

_STREAMS: dict[type[m.Message], str] = {
    m.BookSnapshot: "book",
    m.BookDelta: "book",
    m.Trade: "trade",
    m.Quote: "quote",
}
_BOOK = (m.BookSnapshot, m.BookDelta)


def _stream(message: Any) -> str:
    return f"{_STREAMS[type(message)]} {message.exchange} {message.symbol}"


class Marks:
    """How far what was published has come, stream by stream."""

    def __init__(self, seqs: dict[str, int] | None = None, ids: Iterable[str] = ()) -> None:
        self.seqs = dict(seqs or {})
        self.ids = deque(ids, IDS)

    def note(self, messages: Iterable[m.Message]) -> None:
        """*messages* were published."""
        for message in messages:
            if type(message) in _STREAMS:
                self.seqs[_stream(message)] = message.seq  # type: ignore[attr-defined]
            elif isinstance(message, m.NewsItem):
                self.ids.append(message.id)

    def have_reached(self, seqs: dict[str, int]) -> bool:
        """Whether every stream of these that was published at all has come as far as *seqs* says."""
        return all(self.seqs.get(stream, seq) >= seq for stream, seq in seqs.items())

    def knows(self, exchange: str, symbols: Sequence[str]) -> bool:
        """Whether the books of all *symbols* have been published."""
        return all(f"book {exchange} {symbol}" in self.seqs for symbol in symbols)


class Overlap:
    """What a second connection has heard and nobody has published."""

    def __init__(self) -> None:
        self._held: deque[tuple[str, str, Any]] = deque()  # the component, the stream or "", the message
        # stream -> the component, and its book as it was before what is held
        self._books: dict[str, tuple[str, OrderBook]] = {}
        # stream -> the seq from which this connection knows the book, or after which it knows the rest
        self.begins: dict[str, int] = {}
        self._awaited: dict[str, set[str]] = {}  # exchange -> symbols whose books are yet to come
        self._lost: dict[str, str] = {}

    def hear(self, component: str, messages: Iterable[m.Message]) -> None:
        """Hold what *component* yielded."""
        for message in messages:
            stream = _stream(message) if type(message) in _STREAMS else ""
            self._held.append((component, stream, message))
            match message:
                case m.FeedConnected():
                    self._awaited[message.exchange] = set(message.symbols)
                    self._lost.pop(message.exchange, None)
                case m.FeedLost():
                    self._lost[message.exchange] = message.reason
                case m.BookSnapshot():
                    self._awaited.get(message.exchange, set()).discard(message.symbol)
                    self.begins.setdefault(stream, message.seq)
                case m.Trade() | m.Quote():
                    self.begins.setdefault(stream, message.seq - 1)
        while len(self._held) > HELD:
            self._apply(*self._held.popleft())

    def _apply(self, component: str, stream: str, message: m.Message) -> None:
        if isinstance(message, _BOOK):
            new = component, OrderBook(message.exchange, message.symbol)
            book = self._books.setdefault(stream, new)[1]
            if isinstance(message, m.BookSnapshot):
                book.apply_snapshot(message)
            else:
                book.apply_delta(message)

    @property
    def wants(self) -> str:
        """What is missing before this connection could take over; "" when nothing is."""
        for exchange, reason in self._lost.items():
            return f"{exchange} is not connected: {reason}"
        missing = sorted(f"{exchange} {symbol}" for exchange, of in self._awaited.items() for symbol in of)
        return f"no book yet of {', '.join(missing)}" if missing else ""

    def has_heard(self, component: str) -> bool:
        """Whether *component* has said anything."""
        return any(name == component for name, _, _ in self._held)

    def release(self, marks: Marks) -> Iterator[tuple[str, m.Message]]:
        """Yield what follows *marks*, in order, with the component that says it; hold nothing any longer."""
        for stream, (component, book) in self._books.items():
            if self.begins.get(stream, 0) > marks.seqs.get(stream, -1):
                yield component, book.snapshot()
        # Almost all of it has been published, and somebody waits for the rest.
        known = marks.seqs
        for component, stream, message in self._held:
            if message.seq > known.get(stream, -1) if stream else self._follows(message, marks):
                yield component, message
        self._held.clear()
        self._books.clear()

    def _follows(self, message: m.Message, marks: Marks) -> bool:
        match message:
            case m.NewsItem():
                return message.id not in marks.ids
            case m.Instrument():
                return not marks.knows(message.exchange, [message.symbol])
            case m.FeedConnected():
                return not marks.knows(message.exchange, message.symbols)
        return False  # how the second connection came about concerns nobody
