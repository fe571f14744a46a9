"""
How long it takes to an exchange and back: drawn for each order, or as somebody measured it.

What is drawn depends on the run's seed, the exchange, the order's id and the leg of its way, and
on nothing else: one more order never changes the latency of another. A model turns that number
in [0, 1) into a latency between the exchange's *low* and *high*:

    constant    the middle of them
    uniform     any between them, as likely as any other
    lognormal   5 % are below low and 5 % above high, some far above (p5 = low, p95 = high)
    recorded    none of this: what a file of measurements says of that time

A latency that was drawn is now and then a spike, several times as long.
"""

import csv
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Literal, NamedTuple, TypeAlias

import msgspec

from tickerml.kernel import NS_PER_MS, Options

#: One way, in ms: the seed's ranges, read as pessimistically as they can be.
LATENCY_MS = {
    "binanceus": (50, 100),
    "coinbase": (100, 200),
    "kraken": (150, 300),
    "kucoin": (80, 180),
}
OTHER_LATENCY_MS = (50, 150)

RESPONSE, FEED = "response", "feed"  # two legs; every other is a command's on its way there

Model: TypeAlias = Literal["constant", "uniform", "lognormal"]

_HEADER = ["req", "exch", "resp"]
_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.95)
_LEAST = 2.0**-54  # below every number but 0 that is drawn, and 0 has no place on a normal curve

_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2500)]
_Ranges = dict[str, tuple[_Milliseconds, _Milliseconds]]


class LatencyOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far away the exchanges are."""

    latency_ms: Annotated[
        _Ranges,
        msgspec.Meta(
            description="lowest and highest one-way latency by exchange, in ms, where it is not to be "
            "binanceus 50-100, coinbase 100-200, kraken 150-300, kucoin 80-180, others 50-150"
        ),
    ] = msgspec.field(default_factory=dict)
    response_ms: Annotated[
        _Ranges,
        msgspec.Meta(description="the same for the way back, where it is not as long as the way there"),
    ] = msgspec.field(default_factory=dict)
    feed_ms: Annotated[
        _Ranges,
        msgspec.Meta(
            description="the same for market data, where a tape does not say when it came: orders are so "
            "much later; none without this"
        ),
    ] = msgspec.field(default_factory=dict)
    latency_model: Annotated[
        dict[str, Model],
        msgspec.Meta(
            description="how latencies lie between lowest and highest, by exchange: constant (the middle), "
            "lognormal (5 % are below the lowest and 5 % above the highest), otherwise uniform"
        ),
    ] = msgspec.field(default_factory=dict)
    latency_file: Annotated[
        dict[str, str],
        msgspec.Meta(
            description="a CSV of measured latencies by exchange, instead of all these: rows req,exch,resp, "
            "in ns, when an order was sent, was there, and its answer was back; between rows interpolated"
        ),
    ] = msgspec.field(default_factory=dict)
    split_latency: Annotated[
        bool, msgspec.Meta(description="whether lowest and highest are of both ways, of which each is half")
    ] = False
    spike_probability: Annotated[
        float,
        msgspec.Meta(ge=0, le=1, description="how often a latency is spike_factor times what was drawn"),
    ] = 0.05
    spike_factor: Annotated[
        float, msgspec.Meta(ge=1, le=100, description="how much longer a spike is than what was drawn")
    ] = 2.0
    timeout_ms: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            description="an order that would be longer on its way never arrives: it is rejected, so long "
            "after it was sent",
        ),
    ] = 5000

    def __post_init__(self) -> None:
        for name in ("latency_ms", "response_ms", "feed_ms"):
            for exchange, (low, high) in getattr(self, name).items():
                if low > high:
                    raise ValueError(f"{name}.{exchange} must be [lowest, highest], was [{low}, {high}]")
                if low == 0 and self.latency_model.get(exchange) == "lognormal":
                    raise ValueError(
                        f"{name}.{exchange} must be above 0 to be lognormal, was [{low}, {high}]"
                    )
        for path in self.latency_file.values():
            read_latencies(Path(path))


# --- Measured --------------------------------------------------------------------------------------


class _Points(NamedTuple):
    # Latencies at times, both in ns; the times do not fall.
    times: Sequence[int]
    latencies: Sequence[int]

    def at(self, ts: int) -> int:
        # On the line between its neighbours; before the first and behind the last as there.
        i = bisect_right(self.times, ts)
        if i == 0 or i == len(self.times):
            return self.latencies[max(0, i - 1)]
        (before, after), (low, high) = self.times[i - 1 : i + 1], self.latencies[i - 1 : i + 1]
        return low + (high - low) * (ts - before) // (after - before)


class Recorded(NamedTuple):
    """Measured latencies: *there* by when an order was sent, *back* by when it was at the exchange."""

    there: _Points
    back: _Points


def read_latencies(path: Path) -> Recorded:
    """
    Return the measurements in the CSV file *path*: req, exch and resp of each, ns, sorted by req.

    Raises: ValueError: it cannot be read, is empty, or a row is not three times that do not fall.
    """
    try:
        with path.open(newline="") as stream:
            lines = csv.reader(stream)
            if (header := next(lines, [])) != _HEADER:
                expected, was = ",".join(_HEADER), ",".join(header)[:80]
                raise ValueError(f"cannot read {path}: expected the columns {expected}, was {was!r}")
            rows = [_row(path, number, fields) for number, fields in enumerate(lines, 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {path}: {why}; check the path and what it is") from None
    if not rows:
        raise ValueError(f"cannot read {path}: expected at least one row below {','.join(_HEADER)}")
    for number, (before, after) in enumerate(pairwise(rows), 3):
        if after[0] < before[0]:
            raise ValueError(f"cannot read {path}: req must not fall, was {after[0]} at line {number}")
    back = sorted((exch, resp - exch) for _, exch, resp in rows)
    return Recorded(
        _Points([req for req, _, _ in rows], [exch - req for req, exch, _ in rows]),
        _Points([exch for exch, _ in back], [latency for _, latency in back]),
    )


def _row(path: Path, number: int, fields: list[str]) -> tuple[int, int, int]:
    try:
        req, exch, resp = (int(field) for field in fields)
    except ValueError:
        raise ValueError(
            f"cannot read {path}: expected three integers at line {number}, was {','.join(fields)[:80]!r}"
        ) from None
    if not 0 <= req <= exch <= resp:
        raise ValueError(
            f"cannot read {path}: expected req <= exch <= resp at line {number}, was {req},{exch},{resp}"
        )
    return req, exch, resp


# --- Drawn -----------------------------------------------------------------------------------------


def quantile(model: Model, low: float, high: float, share: float) -> float:
    """
    Return the latency that *share*, in [0, 1), of all are below, in the unit of *low* and *high*.

    Of a lognormal, ln has the mean (ln low + ln high) / 2 and the deviation ln(high / low) / (2 x 1.645).
    """
    if model == "uniform":
        return low + (high - low) * share
    if model == "constant":
        return (low + high) / 2
    deviation = math.log(high / low) / (2 * _Z95)
    return math.sqrt(low * high) * math.exp(deviation * _NORMAL.inv_cdf(max(share, _LEAST)))


class Latencies:
    """The latencies of every exchange; it remembers nothing."""

    def __init__(self, options: LatencyOptions, uniform: Callable[..., float]) -> None:
        """
        Args:
            uniform: the number in [0, 1) that the run's seed and the arguments stand for.
        """
        self._options = options
        self._uniform = uniform
        self._recorded = {
            exchange: read_latencies(Path(path)) for exchange, path in options.latency_file.items()
        }

    def drawn_ns(self, exchange: str, order_id: str, leg: str, at: int) -> int:
        """
        Return how long *order_id* is on the *leg* that it sets out on at *at*, ns.

        A FEED takes no time where feed_ms does not name the exchange.
        """
        if leg != FEED and (recorded := self._recorded.get(exchange)):
            return (recorded.back if leg == RESPONSE else recorded.there).at(at)
        if (between := self._range(exchange, leg)) is None:
            return 0
        options = self._options
        share = self._uniform(exchange, order_id, leg)
        ms = quantile(options.latency_model.get(exchange, "uniform"), *between, share)
        if self._uniform(exchange, order_id, leg, "spike") < options.spike_probability:
            ms *= options.spike_factor
        return int(ms * NS_PER_MS / (2 if options.split_latency and leg != FEED else 1))

    def _range(self, exchange: str, leg: str) -> tuple[int, int] | None:
        options = self._options
        if leg == FEED:
            return options.feed_ms.get(exchange)
        there = options.latency_ms.get(exchange) or LATENCY_MS.get(exchange, OTHER_LATENCY_MS)
        return options.response_ms.get(exchange, there) if leg == RESPONSE else there
