"""A list of orders and a list of market events, in the order in which an exchange sees them."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .simulate_venues import Happened, Row, Venue, Wish

SUBMIT, CANCEL = 0, 1


class Filled(NamedTuple):
    """One fill, at *ts* of the exchange; ticks and lots."""

    order_id: str
    seq: int
    ts: int
    price: int
    quantity: int
    is_maker: bool
    leaves: int


class End(NamedTuple):
    """What has become of an order; ts is when it last changed."""

    order_id: str
    status: str
    filled: int
    leaves: int
    ts: int
    reason: str = ""


class Tally:
    """What has happened so far, as the files want it."""

    def __init__(self, wishes: list[Wish], entry_ns: int) -> None:
        self.fills: list[Filled] = []
        self.ends = {wish.order_id: _sent(wish, wish.ts + entry_ns) for wish in wishes}
        self._counts: dict[str, int] = {}

    def take_in(self, happened: Iterable[Happened], ts: int) -> None:
        """Count what *happened* at *ts*."""
        for one in happened:
            end = self.ends[one.order_id]
            filled, leaves = end.filled + one.quantity, end.leaves - one.quantity
            self.ends[one.order_id] = End(one.order_id, one.status, filled, leaves, ts, one.reason)
            if one.quantity:
                seq = self._counts[one.order_id] = self._counts.get(one.order_id, 0) + 1
                fill = Filled(one.order_id, seq, ts, one.price, one.quantity, one.is_maker, leaves)
                self.fills.append(fill)


def run(
    venue: Venue, events: Iterable[Row], wishes: list[Wish], entry_ns: int
) -> tuple[list[Filled], list[End]]:
    """Send *wishes* to *venue* while *events* happen; return the fills by time and the ends as listed."""
    tally, commands, i = Tally(wishes, entry_ns), arrivals(wishes, entry_ns), 0
    for rows in (*messages_of(events), None):
        while i < len(commands) and (rows is None or commands[i][0] < rows[0].ts):
            ts, what, _, wish = commands[i]
            tally.take_in(venue.submit(wish, ts) if what == SUBMIT else venue.cancel(wish.order_id, ts), ts)
            i += 1
        if rows is not None:
            tally.take_in(venue.market(rows), rows[0].ts)
    return tally.fills, [tally.ends[wish.order_id] for wish in wishes]


def _sent(wish: Wish, at: int) -> End:
    return End(wish.order_id, "rejected" if wish.refused else "", 0, wish.quantity, at, wish.refused)


def arrivals(wishes: list[Wish], entry_ns: int) -> list[tuple[int, int, int, Wish]]:
    """Return when what (SUBMIT or CANCEL) arrives, a wish's number and the wish, in the exchange's order."""
    admitted = [(number, wish) for number, wish in enumerate(wishes) if not wish.refused]
    found = [(wish.ts + entry_ns, SUBMIT, number, wish) for number, wish in admitted]
    found += [
        (wish.cancel_ts + entry_ns, CANCEL, number, wish)
        for number, wish in admitted
        if wish.cancel_ts is not None
    ]
    return sorted(found, key=lambda command: command[:3])


def messages_of(events: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield *events* as they are sent: changes of the book, or single orders, of one time together."""
    rows: list[Row] = []
    for row in events:
        is_apart = row.kind == "trade" or (row.kind == "order") is not (
            bool(rows) and rows[0].kind == "order"
        )
        if rows and (is_apart or rows[0].kind == "trade" or row.ts != rows[0].ts):
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
