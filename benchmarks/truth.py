"""
How often each model of fills says what really happened, on a market whose truth is known.

    python benchmarks/truth.py [--seed S ...] [--events N] [--orders N] [--depth event|100ms|both] [--apart]
        [--cancels back --sizes 1,2,3 ...] [--peer PYTHON] [--nautilus PYTHON] [--json]

The market is that of tests/oracles/market.py, which says what its options are; each of our orders waits in
its queues as if it were the only one of ours. PYTHON is that of an environment with hftbacktest 2.4.4 or
NautilusTrader 1.231, which fills a taker at the time of the event after its arrival.

agree     orders of which quantity, maker or taker, first and last fill time are what is true
priced    of those, the price of the last fill too
filled    lots filled over lots truly filled: above 1 is too good to be true
missed    orders that were truly filled and got nothing; *false*: the other way round
late_ms   median of first fill less true first fill, of orders filled in both

Ours are sent all at once, as `tickerml simulate` does: they share what trades, and meet what others of them
left. With --apart each is alone, as the truth is.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "oracles"))

import hftbacktest_parity as hftbacktest
import market
import nautilus

from tickerml.kernel import OrderType, Side, TimeInForce
from tickerml.plugins.queue_models import queue_model
from tickerml.plugins.simulate_files import Grid
from tickerml.plugins.simulate_run import run
from tickerml.plugins.simulate_venues import DefaultVenue, Happened, Row, Venue, Wish, open_venue

DEPTHS = ("event", "100ms")
OURS = ("risk-averse", "by-size", "log", "power:2", "power:3", "uniform")
L3 = "l3-exact"  # which is told of single orders, event by event
THEIRS = ("risk-averse", "log", "log2", "power:2", "power:3", "power2:3", "power3:3")
NAIVE = ("touch", "cross")
NAUTILUS = {"queue": (), "queue, consuming": ("--consume",), "no queue": ("--no-queue",)}
_TERMS = {"GTC": TimeInForce.GTC, "GTX": TimeInForce.POST_ONLY, "IOC": TimeInForce.IOC}
_SIDES = {"bid": (0,), "ask": (1,), "sell": (0,), "buy": (1,)}


class Fills(NamedTuple):
    """What became of an order: lots, maker or taker at first, times in ns, the last price in ticks."""

    lots: int
    liquidity: str
    first: int
    last: int
    price: int


class Score(NamedTuple):
    """How a model did on one market: see the top of this file."""

    seed: int
    depth: str
    model: str
    orders: int
    agree: int
    priced: int
    filled: float
    missed: int
    false: int
    late_ms: float


def truth_of(shadows: Iterable[market.Shadow]) -> dict[str, Fills]:
    """Return what was truly filled of each of *shadows* that was."""
    return {
        one.order_id: Fills(
            one.quantity - one.leaves, one.fills[0][3], one.fills[0][0], one.fills[-1][0], one.fills[-1][1]
        )
        for one in shadows
        if one.fills
    }


def wishes_of(shadows: Iterable[market.Shadow]) -> list[Wish]:
    """Return *shadows* as orders that we send."""
    return [
        Wish(
            one.order_id,
            one.ts - market.LATENCY,
            Side.SELL if one.side else Side.BUY,
            one.price,
            one.quantity,
            OrderType.LIMIT,
            _TERMS[one.tif],
            None if one.cancel is None else one.cancel - market.LATENCY,
        )
        for one in shadows
    ]


def rows_of(levels: Iterable[market.Level]) -> list[Row]:
    """Return *levels* as events of a market."""
    return [Row(ts, kind, _SIDES[side], price, lots) for ts, kind, side, price, lots in levels]


def singles_of(played: market.Market) -> list[Row]:
    """Return the market as events in which single orders are told before the level that they make."""
    found, lots = list[Row](), dict[int, int]()
    for row, singles in zip(rows_of(played.rows), played.singles, strict=True):
        for number, left in singles:
            change = left - lots.get(number, 0)
            found.append(Row(row.ts, "order", row.sides, row.price, change, number))
            lots[number] = left
        found.append(row)
    return found


def venue_of(profile: str, queue: str, settings: market.Settings, is_apart: bool) -> Venue:
    """Return the venue of *profile* on the grid of *settings*."""
    zero, lot = Decimal(0), Decimal(settings.lot)
    instrument = Grid(Decimal(settings.tick), lot, zero, zero).instrument()
    venue = open_venue(profile, queue_model(queue), instrument, lot.as_integer_ratio())
    return Apart(venue) if is_apart and isinstance(venue, DefaultVenue) else venue


def simulate(venue: Venue, rows: list[Row], wishes: list[Wish]) -> dict[str, Fills]:
    """Send *wishes* to *venue* while *rows* happen; return what became of those that were filled."""
    found: dict[str, Fills] = {}
    for one in run(venue, rows, wishes, market.LATENCY)[0]:
        liquidity = "maker" if one.is_maker else "taker"
        was = found.get(one.order_id, Fills(0, liquidity, one.ts, 0, 0))
        found[one.order_id] = Fills(was.lots + one.quantity, was.liquidity, was.first, one.ts, one.price)
    return found


def score(name: tuple[int, str, str], orders: int, true: dict[str, Fills], said: dict[str, Fills]) -> Score:
    """Return how what was *said* of so many *orders* compares with what is *true*."""
    both = true.keys() & said.keys()
    wrong = len(true.keys() ^ said.keys())
    equal = [one for one in both if true[one][:4] == said[one][:4]]
    late = [(said[one].first - true[one].first) / 1e6 for one in both]
    return Score(
        *name,
        orders,
        orders - wrong - (len(both) - len(equal)),
        orders - wrong - sum(true[one] != said[one] for one in both),
        round(sum(one.lots for one in said.values()) / max(1, sum(one.lots for one in true.values())), 4),
        len(true.keys() - said.keys()),
        len(said.keys() - true.keys()),
        round(statistics.median(late), 1) if late else 0.0,
    )


# --- What is compared -----------------------------------------------------------------------------


class Apart:
    """A venue where each order is the only one of ours."""

    def __init__(self, venue: DefaultVenue) -> None:
        self._others = venue
        self._ours: dict[str, DefaultVenue] = {}

    def market(self, rows: list[Row]) -> Iterable[Happened]:
        """Apply *rows* everywhere."""
        for order_id, venue in list(self._ours.items()):
            yield from self._told(order_id, venue.market(rows))
        self._others.market(rows)

    def submit(self, wish: Wish, at: int) -> Iterable[Happened]:
        """Let *wish* arrive where no other has been."""
        venue = self._ours[wish.order_id] = self._others.twin()
        return self._told(wish.order_id, venue.submit(wish, at))

    def cancel(self, order_id: str, at: int) -> Iterable[Happened]:
        """Take *order_id* back if it is open."""
        venue = self._ours.get(order_id)
        return self._told(order_id, venue.cancel(order_id, at)) if venue else ()

    def _told(self, order_id: str, events: Iterable[Happened]) -> Iterator[Happened]:
        for event in events:
            if event.status != "open":
                self._ours.pop(order_id, None)
            yield event


def compare(seed: int, given: argparse.Namespace, settings: market.Settings) -> Iterator[Score]:
    """Yield the score of each model on the market of *seed*."""
    played = market.play(seed, given.events, given.orders, settings)
    levels, shadows = played.rows, played.shadows
    true, wishes = truth_of(shadows), wishes_of(shadows)
    feeds = {"event": levels, "100ms": market.batched(levels)}
    chosen = DEPTHS if given.depth == "both" else (given.depth,)
    for depth in chosen:
        rows = rows_of(feeds[depth])
        if depth == "event":
            said = simulate(venue_of("default", L3, settings, given.apart), singles_of(played), wishes)
            yield score((seed, depth, L3), len(wishes), true, said)
        for profile, queue in (*(("default", name) for name in OURS), *((name, OURS[0]) for name in NAIVE)):
            venue = venue_of(profile, queue, settings, given.apart)
            said = simulate(venue, rows, wishes)
            yield score((seed, depth, queue if profile == "default" else profile), len(wishes), true, said)
    with tempfile.TemporaryDirectory() as folder:
        market.write(Path(folder), levels, shadows, settings)
        for depth, model, told in peers(Path(folder), given, settings):
            said = {order_id: Fills(*fills) for order_id, fills in told.items()}
            if depth in chosen:
                yield score((seed, depth, model), len(wishes), true, said)


def peers(
    folder: Path, given: argparse.Namespace, settings: market.Settings
) -> Iterator[tuple[str, str, hftbacktest.Fills]]:
    """Yield depth, name and answer of each peer that was asked for, on the files in *folder*."""
    files, orders = [folder / "events.csv", folder / "events_100ms.csv"], folder / "orders.csv"
    if given.peer:
        grid = float(settings.tick), float(settings.lot)
        answers = hftbacktest.ask(given.peer, files, orders, list(THEIRS), *grid)
        for depth, answer in zip(DEPTHS, answers, strict=True):
            for model, told in answer.items():
                yield depth, f"hftbacktest {model}", told
    if given.nautilus:
        for depth, events in zip(DEPTHS, files, strict=True):
            for name, options in NAUTILUS.items():
                yield depth, f"Nautilus {name}", nautilus.ask(given.nautilus, events, orders, *options)


# --- Out ------------------------------------------------------------------------------------------


def table(scores: list[Score]) -> Iterator[str]:
    """Yield the lines of a table: one a model and depth, over all seeds."""
    yield "depth  model                       agree   priced  filled    most  missed  false"
    groups: dict[tuple[str, str], list[Score]] = {}
    for one in scores:
        groups.setdefault((one.depth, one.model), []).append(one)
    for (depth, model), ones in groups.items():
        orders = sum(one.orders for one in ones)
        shares = (sum(one.agree for one in ones) / orders, sum(one.priced for one in ones) / orders)
        filled = [one.filled for one in ones]
        counts = sum(one.missed for one in ones), sum(one.false for one in ones)
        yield (
            f"{depth:6} {model:24} {shares[0]:8.1%} {shares[1]:8.1%} {statistics.mean(filled):7.3f} "
            f"{max(filled):7.3f} {counts[0]:7} {counts[1]:6}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[2, 3, 11])
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--orders", type=int, default=300)
    parser.add_argument("--depth", choices=[*DEPTHS, "both"], default="both")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--peer", default="")
    parser.add_argument("--nautilus", default="")
    parser.add_argument("--json", action="store_true")
    market.add_options(parser)
    given = parser.parse_args()
    try:
        settings = market.settings_of(given)
    except ValueError as error:
        parser.error(str(error))
    for option, peer in (("peer", hftbacktest), ("nautilus", nautilus)):
        if (python := getattr(given, option)) and (reason := peer.why_not(python)):
            parser.error(f"--{option}: {reason}")
    scores = [one for seed in given.seed for one in compare(seed, given, settings)]
    if given.json:
        print(json.dumps([one._asdict() for one in scores]))
        return
    print("\n".join(table(scores)))
    for option, name in (("peer", "hftbacktest"), ("nautilus", "NautilusTrader")):
        if not getattr(given, option):
            print(f"left out: {name}, which --{option} brings in")


if __name__ == "__main__":
    main()
