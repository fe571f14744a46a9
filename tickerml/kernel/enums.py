"""The words that a message chooses from: sides, order types, states, severities."""

import enum


class Side(enum.IntEnum):
    """A direction; its value is the sign it gives a quantity."""

    BUY = 1
    SELL = -1

    @property
    def opposite(self) -> "Side":
        """The other side."""
        return Side(-self)


class OrderType(enum.StrEnum):
    """How an order asks for its price."""

    LIMIT = "limit"
    MARKET = "market"


class TimeInForce(enum.StrEnum):
    """How long an order may wait: until canceled, not at all, or only as a maker."""

    GTC = "gtc"
    IOC = "ioc"
    FOK = "fok"
    POST_ONLY = "post_only"


class Liquidity(enum.StrEnum):
    """Whether a fill waited in the book or took from it."""

    MAKER = "maker"
    TAKER = "taker"


class BookState(enum.StrEnum):
    """Whether a book may be believed; nothing fills on one that is not VALID."""

    VALID = "valid"
    STALE = "stale"
    RESYNCING = "resyncing"


class Anomaly(enum.StrEnum):
    """
    What is odd about data, and the unit of the value that says how odd.

    CROSSED and LOCKED books (ticks by which the bid is over the ask); STALE feeds, and a CHANNEL that
    has stopped alone (s of silence); OUTLIER prints and a mid in DEVIATION from the other exchanges
    (bps); a DUPLICATE print (its number); times that go BACKWARDS (ms); a perpetual's FUNDING (bps of
    the notional for an interval).
    """

    CROSSED = "crossed"
    LOCKED = "locked"
    STALE = "stale"
    OUTLIER = "outlier"
    DEVIATION = "deviation"
    DUPLICATE = "duplicate"
    BACKWARDS = "backwards"
    FUNDING = "funding"
    CHANNEL = "channel"


class TradingState(enum.StrEnum):
    """ACTIVE, only orders that shrink (REDUCING), or no new orders (HALTED)."""

    ACTIVE = "active"
    REDUCING = "reducing"
    HALTED = "halted"


class HaltLevel(enum.IntEnum):
    """The kill switch: each level does what those below it do, and only a person goes back to RUN."""

    RUN = 0  # orders pass
    NO_NEW = 1  # none does, but for what a risk rule orders to reduce a position
    CANCEL = 2  # none at all, and the open ones are canceled
    FLATTEN = 3  # and what is held is sold, at most 1 % behind the best price


class Severity(enum.StrEnum):
    """How much an alert matters: for the record, look when convenient, look today, look now."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for INFO to 3 for CRITICAL, for comparing."""
        return list(Severity).index(self)
