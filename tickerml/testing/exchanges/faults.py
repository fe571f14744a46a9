"""
What can go wrong between an exchange and its client, each a small class in one table.

A fault strikes one exchange, and through it every socket that is open at that moment; a new
socket is well. Some act on the next frames (they stand between the exchange and the outbox,
see wire.py), some on the socket, some on the exchange itself. None repeats by itself.
"""

import re
from typing import ClassVar

from tickerml.kernel import NS_PER_S

from .kucoin import Kucoin
from .wire import Connection, Frame, Reply, Wire

_CHECKSUM = re.compile(r'("checksum":)(\d+)')
_TRADES = ("trade", "aggTrade", "market_trades", "/market/match", "/contractMarket/execution")
_REFUSED = 3  # requests in a row
_HELD = 40  # frames
_SKEW_NS = 7 * NS_PER_S


class Fault:
    """One thing that can go wrong; its name is what it is called by, its docstring what it does."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.is_over = False

    @classmethod
    def can_strike(cls, wire: Wire) -> bool:
        """Whether the exchange has what this breaks."""
        return True

    @classmethod
    def strike(cls, wire: Wire) -> bool:
        """Break it; whether there was anything to break."""
        if not cls.can_strike(wire):
            return False
        for connection in list(wire.connections):
            cls().on_connection(connection)
        return bool(wire.connections)

    def on_connection(self, connection: Connection) -> None:
        """Strike one open socket: unless written otherwise, by way of its next frames."""
        connection.tampers.append(self)

    def on_frame(self, frame: Frame) -> list[Frame]:
        """Return what is sent instead of *frame*."""
        return [frame]


class SequenceGap(Fault):
    """One frame of a book never arrives."""

    name = "gap"

    def on_frame(self, frame: Frame) -> list[Frame]:
        self.is_over = self.is_over or frame.kind == "book"
        return [] if frame.kind == "book" else [frame]


class BadChecksum(Fault):
    """The next checksum is wrong (Kraken; no other has any)."""

    name = "checksum"

    @classmethod
    def can_strike(cls, wire: Wire) -> bool:
        return wire.exchange == "kraken"

    def on_frame(self, frame: Frame) -> list[Frame]:
        text, count = _CHECKSUM.subn(lambda found: found[1] + str(int(found[2]) ^ 1), frame.text)
        self.is_over = count > 0
        return [frame._replace(text=text)]


class CleanClose(Fault):
    """The exchange closes the socket with a closing handshake."""

    name = "close"

    def on_connection(self, connection: Connection) -> None:
        connection.hang_up("close")


class HardAbort(Fault):
    """The socket is cut off without a word."""

    name = "abort"

    def on_connection(self, connection: Connection) -> None:
        connection.hang_up("abort")


class MutedPong(Fault):
    """Pings are no longer answered, while data keep coming."""

    name = "mute"

    def on_connection(self, connection: Connection) -> None:
        connection.is_mute = True


class Silence(Fault):
    """Nothing is sent any more, while pings are answered: how a feed dies most quietly."""

    name = "silence"

    def on_connection(self, connection: Connection) -> None:
        connection.is_silent = True


class TradesDie(Fault):
    """The exchange forgets who subscribed to trades, while books and all else go on."""

    name = "trades"

    def on_connection(self, connection: Connection) -> None:
        for channel, wire in list(connection.subscribed):
            if channel in _TRADES:
                del connection.subscribed[channel, wire]


class ErrorFrame(Fault):
    """An error of the exchange's, in its own words, comes between the data."""

    name = "error"

    def on_connection(self, connection: Connection) -> None:
        connection.send(connection.wire.error_frame())


class Garbage(Fault):
    """One frame of a book arrives cut in half."""

    name = "garbage"

    def on_frame(self, frame: Frame) -> list[Frame]:
        if frame.kind != "book":
            return [frame]
        self.is_over = True
        return [Frame(frame.text[: len(frame.text) // 2])]


class Duplicate(Fault):
    """One frame of a book arrives twice."""

    name = "duplicate"

    def on_frame(self, frame: Frame) -> list[Frame]:
        self.is_over = frame.kind == "book"
        return [frame, frame] if self.is_over else [frame]


class Reordering(Fault):
    """Two frames of one book arrive in the wrong order."""

    name = "reorder"

    def __init__(self) -> None:
        super().__init__()
        self._held: Frame | None = None

    def on_frame(self, frame: Frame) -> list[Frame]:
        if frame.kind != "book" or (self._held and self._held.wire != frame.wire):
            return [frame]
        if self._held is None:
            self._held = frame
            return []
        self.is_over = True
        return [frame, self._held]


class CrossedBook(Fault):
    """Every book is crossed by one update, with correct numbers and checksums, and uncrossed by the next."""

    name = "crossed"

    @classmethod
    def strike(cls, wire: Wire) -> bool:
        for market in wire.markets.values():
            market.cross()
        return True


class ClockSkew(Fault):
    """The exchange's clock jumps 7 s back; or, where it is not right any more, to the right time."""

    name = "skew"

    @classmethod
    def strike(cls, wire: Wire) -> bool:
        wire.skew_ns = 0 if wire.skew_ns else -_SKEW_NS
        return True


class SlowReader(Fault):
    """Frames pile up as before a client that does not read, and arrive late, 40 at once."""

    name = "slow"

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Frame] = []

    def on_frame(self, frame: Frame) -> list[Frame]:
        self._held.append(frame)
        self.is_over = len(self._held) >= _HELD
        return self._held if self.is_over else []


class RestBusy(Fault):
    """The next 3 requests are refused with 429, Retry-After: 0."""

    name = "rest-429"

    @classmethod
    def strike(cls, wire: Wire) -> bool:
        wire.refusals.extend([Reply("too many requests", 429, {"Retry-After": "0"})] * _REFUSED)
        return True


class RestBroken(Fault):
    """The next 3 requests are answered with 500."""

    name = "rest-500"

    @classmethod
    def strike(cls, wire: Wire) -> bool:
        wire.refusals.extend([Reply("internal server error", 500)] * _REFUSED)
        return True


class TokenExpiry(Fault):
    """Tokens that were given out are worth nothing any more, and the sockets are closed (KuCoin)."""

    name = "token"

    @classmethod
    def can_strike(cls, wire: Wire) -> bool:
        return isinstance(wire, Kucoin)

    def on_connection(self, connection: Connection) -> None:
        if isinstance(connection.wire, Kucoin):
            connection.wire.expire_tokens()
        connection.hang_up("close")


#: By the name that each is called by.
FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        SequenceGap,
        BadChecksum,
        CleanClose,
        HardAbort,
        MutedPong,
        Silence,
        TradesDie,
        ErrorFrame,
        Garbage,
        Duplicate,
        Reordering,
        CrossedBook,
        ClockSkew,
        SlowReader,
        RestBusy,
        RestBroken,
        TokenExpiry,
    )
}


def described() -> list[tuple[str, str]]:
    """Return the name of each fault and what it does."""
    return [(name, " ".join((fault.__doc__ or "").split())) for name, fault in FAULTS.items()]
