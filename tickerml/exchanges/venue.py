"""What the shared live driver (live.py) asks of an exchange: where, what to send, and how often."""

from typing import Any, NamedTuple, Protocol

from .feed import Feed, Tally
from .limits import Limits


class Request(NamedTuple):
    """A REST request: the whole URL, its query included."""

    url: str
    method: str = "GET"


class Socket(NamedTuple):
    """
    A WebSocket to open, and what to say on it.

    greeting are the text frames that subscribe, in order, sent no faster than the exchange allows;
    where it speaks_first, not before its first frame. Every ping_s seconds ping_text is sent, or a
    ping of the protocol where it is "". also are opened beside it: they live and are lost together.
    """

    url: str
    greeting: list[str]
    ping_s: float
    ping_text: str = ""
    speaks_first: bool = False
    also: tuple["Socket", ...] = ()


class Venue(Protocol):
    """One exchange as the live driver sees it; it does no I/O."""

    @property
    def exchange(self) -> str:
        """The exchange's name in messages."""

    @property
    def limits(self) -> Limits:
        """How often it may be asked."""

    def feed(self, log: Any, tally: Tally | None, was_whole: bool) -> Feed:
        """Return a new feed; the arguments are Feed's."""

    def listing(self) -> list[Request]:
        """Return the requests whose replies name the instruments; made before the socket is opened."""

    def ticket(self) -> Request | None:
        """Return what must be asked anew before each connection (a token); None for nothing."""

    def socket(self, wires: list[str], ticket: bytes) -> Socket:
        """
        Return the socket that brings *wires*; *ticket* is the reply to ticket(), or b"".

        Raises: MalformedMessage: the ticket cannot be read.
        """

    def snapshot(self, wire: str) -> Request | None:
        """Return the request for one whole book; None where the socket brings it."""

    def renew(self, wire: str) -> list[str]:
        """Return the frames that make the exchange send one book anew; [] has the driver connect anew."""
