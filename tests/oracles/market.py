"""
A market whose truth is known: single orders, first come first served, and ours as their shadows.

    python tests/oracles/market.py --seed 1 --events 60000 --orders 300 --out DIR [--cancels back ...]

writes what `tickerml simulate` reads, and what is true:

    events.csv         every change of a level and every print as it happens
    events_100ms.csv   the levels that changed, every 100 ms; the prints as they happen
    orders.csv         our orders, sent 50 ms before they arrive
    truth.csv          order_id,qty,liquidity,first_ts,last_ts: what each would have been filled

A shadow order stands in the real queue and moves nobody: each is filled as if it were the only one
of ours, by exactly the volume that passed those ahead of it, counting what did trade or come to rest.
Settings says how the others behave. Everything is made of integers and one seed.
"""

import argparse
import csv
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from random import Random

MS = 1_000_000
START = 1_700_000_000_000_000_000
LATENCY = 50 * MS
MID = 10_000
Level = tuple[int, str, str, int, int]  # ts, kind, side, price, quantity
PROFILES = ("proportional", "front", "back")


@dataclass(frozen=True)
class Settings:
    """
    How the others behave, and the grid on which the files are written.

    Args:
        cancels: who of a queue leaves: each order as readily (proportional), or those at its front or
            back, whose place among n is n * u**3 from there for an even u.
        sizes: of orders, in lots; each is as likely.
        rates: of limit orders, cancellations and market orders, as weights.
        taken: of market orders, in lots; each is as likely.
        partial: how many cancellations, of 1, only make an order smaller.
        tick, lot: steps of prices and quantities, as decimals.
    """

    cancels: str = "proportional"
    sizes: tuple[int, ...] = (1, 1, 2, 3, 5, 8, 13, 40)
    rates: tuple[int, int, int] = (54, 36, 10)
    taken: tuple[int, ...] = (1, 2, 5, 10, 30, 60)
    partial: float = 0.0
    tick: str = "0.01"
    lot: str = "0.001"

    def __post_init__(self) -> None:
        if self.cancels not in PROFILES:
            raise ValueError(f"cancels must be one of {', '.join(PROFILES)}, was {self.cancels!r}")
        if len(self.rates) != 3 or min(self.rates) < 0 or not sum(self.rates):
            raise ValueError(f"rates must be three weights from 0, not all 0, was {self.rates}")
        for name in ("sizes", "taken"):
            if not (lots := getattr(self, name)) or min(lots) < 1:
                raise ValueError(f"{name} must be lots from 1, was {lots}")
        if not 0 <= self.partial <= 1:
            raise ValueError(f"partial must be from 0 to 1, was {self.partial}")


@dataclass
class Shadow:
    """One of our orders where it would really stand; quantities in lots, prices in ticks."""

    order_id: str
    ts: int  # when it arrives
    side: int
    price: int
    quantity: int
    tif: str
    cancel: int | None  # when that arrives
    ahead: dict[int, int] = field(default_factory=dict)
    fills: list[tuple[int, int, int, str]] = field(default_factory=list)

    @property
    def leaves(self) -> int:
        return self.quantity - sum(fill[2] for fill in self.fills)

    def fill(self, ts: int, price: int, quantity: int, liquidity: str) -> int:
        """Take up to *quantity*; return how much."""
        taken = min(quantity, self.leaves)
        if taken > 0:
            self.fills.append((ts, price, taken, liquidity))
        return max(0, taken)


class Market:
    """
    Two sides of queues; index 0 buys and 1 sells.

    rows is what a feed tells of it. Beside each row, singles has the orders behind it: (number, lots
    left) of each that came (behind all others), got smaller or went (0 left).
    """

    def __init__(self, seed: int, settings: Settings) -> None:
        self.random = Random(seed)
        self.settings = settings
        self.queues: tuple[dict[int, dict[int, int]], dict[int, dict[int, int]]] = ({}, {})
        self.rows: list[Level] = []
        self.singles: list[tuple[tuple[int, int], ...]] = []
        self.changed: list[tuple[int, int]] = []
        self.shadows: list[Shadow] = []
        self.live: list[Shadow] = []
        self.now = START
        self.number = 0
        for side in (0, 1):
            for distance in range(1, 31):
                for _ in range(4):
                    self.add(side, MID + (distance if side else -distance))

    def best(self, side: int) -> int:
        prices = self.queues[side]
        return (min(prices) if side else max(prices)) if prices else 0

    def size(self) -> int:
        return self.random.choice(self.settings.sizes)

    def publish(self, side: int, price: int) -> None:
        total = sum(self.queues[side].get(price, {}).values())
        self.rows.append((self.now, "depth", "ask" if side else "bid", price, total))
        self.singles.append(tuple(self.changed))
        self.changed.clear()

    # --- What others do -----------------------------------------------------------------------

    def step(self) -> None:
        """Let one thing happen."""
        self.now += self.random.randint(1, 10 * MS)
        self.live = [one for one in self.live if one.cancel is None or one.cancel >= self.now]
        limits, cancels, _ = self.settings.rates
        what = self.random.random() * sum(self.settings.rates)
        side = self.random.randint(0, 1)
        if what < limits:
            self.limit(side)
        elif what < limits + cancels:
            self.cancel(side)
        else:
            self.take(1 - side, self.random.choice(self.settings.taken), None)

    def limit(self, side: int) -> None:
        away = self.random.choice([-1, 0, 0, 0, 1, 1, 2, 3, 5, 8, 13])
        other = self.best(1 - side)
        if abs(self.best(side) - other) > 3:
            away = -1  # whoever comes fills a gap
        price = self.best(side) + (away if side else -away)
        quantity = self.size()
        if (price <= other) if side else (price >= other):
            quantity = self.take(1 - side, quantity, price)
        if quantity:
            self.add(side, price, quantity)

    def add(self, side: int, price: int, quantity: int = 0) -> None:
        quantity = quantity or self.size()
        for shadow in self.live:  # who wants to sell at our price meets us before anybody
            if shadow.side != side and (price <= shadow.price if side else price >= shadow.price):
                shadow.ahead = {}
                shadow.fill(self.now, shadow.price, quantity, "maker")
        self.number += 1
        self.queues[side].setdefault(price, {})[self.number] = quantity
        self.changed.append((self.number, quantity))
        self.publish(side, price)

    def cancel(self, side: int) -> None:
        prices = sorted(self.queues[side], reverse=not side)
        if len(prices) <= 5:
            return
        price = prices[min(int(self.random.expovariate(0.25)), len(prices) - 1)]
        queue = self.queues[side][price]
        number = self.leaver(list(queue))
        lots = queue[number]
        if lots > 1 and self.settings.partial and self.random.random() < self.settings.partial:
            lots = self.random.randint(1, lots - 1)
        self.reduce(side, price, number, lots)
        self.publish(side, price)

    def leaver(self, numbers: list[int]) -> int:
        if self.settings.cancels == "proportional":
            return self.random.choice(numbers)
        place = int(len(numbers) * self.random.random() ** 3)
        return numbers[place if self.settings.cancels == "front" else -1 - place]

    def reduce(self, side: int, price: int, number: int, quantity: int) -> None:
        queue = self.queues[side][price]
        queue[number] -= quantity
        self.changed.append((number, queue[number]))
        for shadow in self.live:
            if shadow.side == side and shadow.price == price and number in shadow.ahead:
                shadow.ahead[number] -= quantity
        if not queue[number]:
            del queue[number]
        if not queue:
            del self.queues[side][price]

    def take(self, side: int, quantity: int, limit: int | None) -> int:
        """Trade *quantity* against *side* down to *limit*; return what is left."""
        quantity = min(quantity, self.takeable(side))
        passed = {shadow.order_id: quantity for shadow in self.live}  # reaches its price, if all are ahead
        while quantity:
            price = self.best(side)
            if limit is not None and (price > limit if side else price < limit):
                break
            for shadow in self.live:
                if shadow.side == side and (price > shadow.price if side else price < shadow.price):
                    self.through(shadow, passed, quantity)
            printed = 0
            for number in list(self.queues[side][price]):
                done = min(quantity, self.queues[side][price][number])
                self.meet(side, price, done)
                self.reduce(side, price, number, done)
                quantity -= done
                printed += done
                if not quantity:
                    break
            self.rows.append((self.now, "trade", "buy" if side else "sell", price, printed))
            self.singles.append(())
            self.publish(side, price)
        return quantity

    def takeable(self, side: int) -> int:
        """Return the lots of all levels but the three worst, which nobody takes."""
        prices = sorted(self.queues[side], reverse=not side)
        return sum(sum(self.queues[side][price].values()) for price in prices[:-3])

    def through(self, shadow: Shadow, passed: dict[str, int], quantity: int) -> None:
        if passed.pop(shadow.order_id, None) is not None:
            shadow.ahead = {}
            shadow.fill(self.now, shadow.price, quantity, "maker")

    def meet(self, side: int, price: int, done: int) -> None:
        for shadow in self.live:
            if shadow.side == side and shadow.price == price and not sum(shadow.ahead.values()):
                shadow.fill(self.now, price, done, "maker")

    # --- What we do ---------------------------------------------------------------------------

    def arrive(self, shadow: Shadow) -> None:
        """Let *shadow* take what it finds, and wait."""
        self.now = max(self.now, shadow.ts)
        other, ours = 1 - shadow.side, shadow.side
        for price in sorted(self.queues[other], reverse=bool(ours)):
            if (price < shadow.price) if ours else (price > shadow.price):
                break
            if shadow.tif == "GTX":
                return
            shadow.fill(shadow.ts, price, sum(self.queues[other][price].values()), "taker")
        if shadow.leaves and shadow.tif != "IOC":
            shadow.ahead = dict(self.queues[ours].get(shadow.price, {}))
            self.live.append(shadow)


def play(seed: int, events: int, orders: int, settings: Settings | None = None) -> Market:
    """Return a market after *events*, with its rows, and up to *orders* of ours as its shadows."""
    market, draw = Market(seed, settings or Settings()), Random(seed + 10**6)
    first = len(market.rows)
    every = max(1, events // (orders + 10))
    for i in range(events):
        if i % every == every // 2 and len(market.shadows) < orders:
            market.shadows.append(_order(market, draw, len(market.shadows)))
            market.arrive(market.shadows[-1])
        market.step()
        market.live = [shadow for shadow in market.live if shadow.leaves]
    market.rows[:first] = [(START, *row[1:]) for row in market.rows[:first]]
    return market


def generate(
    seed: int, events: int, orders: int, settings: Settings | None = None
) -> tuple[list[Level], list[Shadow]]:
    """Return the market's rows and our orders with what they were truly filled."""
    market = play(seed, events, orders, settings)
    return market.rows, market.shadows


def _order(market: Market, draw: Random, number: int) -> Shadow:
    side = draw.randint(0, 1)
    away = draw.choice([-2, -1, 0, 0, 0, 0, 1, 1, 2, 3])
    best = market.best(side)
    price = best + away if side else best - away
    tif = draw.choice(["GTC", "GTC", "GTC", "GTX", "IOC"])
    ts = market.now + 1
    lasts = draw.choice([None, 500 * MS, 2_000 * MS, 10_000 * MS])
    quantity = draw.choice([1, 3, 10, 30, 100])
    return Shadow(f"o{number}", ts, side, price, quantity, tif, None if lasts is None else ts + lasts)


def batched(rows: list[Level], every: int = 100 * MS) -> list[Level]:
    """Return *rows* with the levels told only every *every* ns, as they are then."""
    found: list[Level] = []
    changed: dict[tuple[str, int], int] = {}
    due = rows[0][0]
    for ts, kind, side, price, quantity in rows:
        while ts > due:
            found += [(due, "depth", *key, size) for key, size in changed.items()]
            changed.clear()
            due += every
        if kind == "depth":
            changed[side, price] = quantity
        else:
            found.append((ts, kind, side, price, quantity))
    return found + [(due, "depth", *key, size) for key, size in changed.items()]


def write(folder: Path, rows: list[Level], shadows: list[Shadow], settings: Settings | None = None) -> None:
    """Write the four files into *folder*, on the grid of *settings*."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = settings or Settings()
    header = ["ts_exchange", "ts_local", "kind", "side", "price", "qty"]
    for name, told in (("events", rows), ("events_100ms", batched(rows))):
        _write(folder / f"{name}.csv", header, [_cells(row, grid) for row in told])
    orders = [
        (
            one.order_id,
            one.ts - LATENCY,
            "sell" if one.side else "buy",
            _decimal(one.price, grid.tick),
            _decimal(one.quantity, grid.lot),
            "LIMIT",
            one.tif,
            "" if one.cancel is None else one.cancel - LATENCY,
        )
        for one in shadows
    ]
    _write(
        folder / "orders.csv", ["order_id", "ts", "side", "price", "qty", "type", "tif", "cancel_ts"], orders
    )
    truth = [
        (
            one.order_id,
            _decimal(one.quantity - one.leaves, grid.lot),
            one.fills[0][3],
            one.fills[0][0],
            one.fills[-1][0],
        )
        for one in shadows
        if one.fills
    ]
    _write(folder / "truth.csv", ["order_id", "qty", "liquidity", "first_ts", "last_ts"], truth)


def _cells(row: Level, grid: Settings) -> tuple[object, ...]:
    ts, kind, side, price, quantity = row
    return ts, ts, kind, side, _decimal(price, grid.tick), _decimal(quantity, grid.lot)


def _decimal(steps: int, step: str) -> str:
    return f"{steps * Decimal(step):f}"


def _write(path: Path, header: list[str], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


# --- Options, which the benchmark of truth has too ------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what Settings says to *parser*: --cancels back --sizes 1,2,3 ..."""
    for name, default in vars(Settings()).items():
        text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        parser.add_argument(f"--{name}", default=text, help=f"of the market (default {text})")


def settings_of(given: argparse.Namespace) -> Settings:
    """Return the Settings that *given* names. Raises: ValueError: one breaks its rule."""

    def lots(name: str) -> tuple[int, ...]:
        return tuple(int(part) for part in getattr(given, name).split(","))

    rates, partial = lots("rates"), float(given.partial)
    return Settings(given.cancels, lots("sizes"), rates, lots("taken"), partial, given.tick, given.lot)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--orders", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    add_options(parser)
    given = parser.parse_args()
    try:
        settings = settings_of(given)
    except ValueError as error:
        parser.error(str(error))
    write(given.out, *generate(given.seed, given.events, given.orders, settings), settings)


if __name__ == "__main__":
    main()
