"""
The funding history of perpetuals by REST, and then each payment as it is settled.

It begins at a date, asks page by page up to now, and from then on every few minutes; what it has
told it remembers, so an interrupted history goes on where it was. A row is a FundingUpdated of
the settlement: ts_event is when it was due, rate what was paid, the rest is 0. A year of past
rows comes with today's ts_recv, so this belongs into a run that fills a tape and not beside a
strategy; its own health goes by another name than the exchange's ("krakenfutures-funding").

    krakenfutures   everything in one reply, relative rates, hourly today
    kucoinfutures   up to 100 rows of a span, so spans of 96 hours are asked for
    binanceusdm     up to 1,000 rows from a time on

Source: Kraken Futures API, "Historical funding rates"; KuCoin API, "Get public funding history";
Binance USD-M API, "Get funding rate history".
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlencode

import aiohttp
import msgspec

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    ConfigError,
    Context,
    ExchangeSpec,
    FeedConnected,
    FeedError,
    FeedLost,
    FeedSummarized,
    FundingUpdated,
    MalformedMessage,
    Message,
    Options,
    hookimpl,
)

from . import krakenfutures_wire, kucoinfutures_wire
from .decimals import text_of, units
from .feed import Tally, decoded
from .kucoin_wire import data_of
from .limits import Pace, Rate
from .session import Backoff, fetch
from .symbols import PERPETUAL, to_concatenated
from .times import rfc3339_to_ns
from .venue import Request

_HOUR_NS = 3600 * NS_PER_S
_SETTLED_NS = 24 * _HOUR_NS  # a span that ended so long ago will get no more rows
_PACE = Rate(5, 0.5)

_Millis = Annotated[int, msgspec.Meta(ge=0, le=9_000_000_000_000)]  # the year 2255


# --- Three exchanges --------------------------------------------------------------------------------


class Row(NamedTuple):
    """One settlement: when it was due, ns UTC, and the rate in units of 1e-12 of the notional."""

    ts_event: int
    rate: int


class _KrakenRate(msgspec.Struct):
    timestamp: str
    rate: msgspec.Raw = msgspec.field(name="relativeFundingRate")


class _KrakenRates(msgspec.Struct):
    rates: list[_KrakenRate]


class _KucoinRate(msgspec.Struct):
    timepoint: _Millis
    rate: msgspec.Raw = msgspec.field(name="fundingRate")


class _BinanceRate(msgspec.Struct):
    at: _Millis = msgspec.field(name="fundingTime")
    rate: msgspec.Raw = msgspec.field(name="fundingRate")


_kraken_rates = msgspec.json.Decoder(_KrakenRates)
_kucoin_rates = msgspec.json.Decoder(list[_KucoinRate])
_binance_rates = msgspec.json.Decoder(list[_BinanceRate])


def parse_kraken(raw: bytes) -> list[Row]:
    """Return the rows of a reply to /historical-funding-rates. Raises: MalformedMessage."""
    rates = decoded(_kraken_rates, raw).rates
    return [Row(rfc3339_to_ns(each.timestamp), units(text_of(each.rate))) for each in rates]


def parse_kucoin(raw: bytes) -> list[Row]:
    """Return the rows of a reply to /contract/funding-rates. Raises: MalformedMessage."""
    rates = decoded(_kucoin_rates, data_of(raw))
    return [Row(each.timepoint * NS_PER_MS, units(text_of(each.rate))) for each in rates]


def parse_binance(raw: bytes) -> list[Row]:
    """Return the rows of a reply to /fapi/v1/fundingRate. Raises: MalformedMessage."""
    rates = decoded(_binance_rates, raw)
    return [Row(each.at * NS_PER_MS, units(text_of(each.rate))) for each in rates]


class History(NamedTuple):
    """
    How one exchange gives its history.

    page takes the exchange's name of a market and a span in ms and returns path and query; span_ns
    is the longest that one page covers, 0 for any; rows is how many fill a page, 0 for no limit.
    """

    rest_url: str
    wire_of: Callable[[str], str]
    page: Callable[[str, int, int], tuple[str, dict[str, str | int]]]
    parse: Callable[[bytes], list[Row]]
    span_ns: int = 0
    rows: int = 0


HISTORIES: dict[str, History] = {
    "krakenfutures": History(
        "https://futures.kraken.com",
        krakenfutures_wire.to_wire,
        lambda wire, start, end: ("/derivatives/api/v3/historical-funding-rates", {"symbol": wire}),
        parse_kraken,
    ),
    "kucoinfutures": History(
        "https://api-futures.kucoin.com",
        kucoinfutures_wire.to_wire,
        lambda wire, start, end: (
            "/api/v1/contract/funding-rates",
            {"symbol": wire, "from": start, "to": end},
        ),
        parse_kucoin,
        span_ns=96 * _HOUR_NS,
    ),
    "binanceusdm": History(
        "https://fapi.binance.com",
        lambda symbol: to_concatenated(symbol.removesuffix(PERPETUAL)),
        lambda wire, start, end: (
            "/fapi/v1/fundingRate",
            {"symbol": wire, "startTime": start, "endTime": end, "limit": 1000},
        ),
        parse_binance,
        rows=1000,
    ),
}


# --- The plugin -------------------------------------------------------------------------------------


class FundingOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose history, of what, since when."""

    exchange: Annotated[
        Literal["krakenfutures", "kucoinfutures", "binanceusdm"],
        msgspec.Meta(description="Whose history to fetch."),
    ] = "krakenfutures"
    symbols: Annotated[
        list[str],
        msgspec.Meta(min_length=1, max_length=300, description="Perpetuals, as BASE/QUOTE-PERP."),
    ] = msgspec.field(default_factory=lambda: ["BTC/USD-PERP", "ETH/USD-PERP"])
    start: Annotated[
        str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\d$", description="The first day, UTC, as 2024-01-01.")
    ] = "2024-01-01"
    rest_url: Annotated[
        str,
        msgspec.Meta(
            pattern="^(https?://.*)?$", description="Base URL of the REST interface; empty: the exchange's."
        ),
    ] = ""
    poll_s: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds between two looks for new settlements.")
    ] = 300.0


class _State(msgspec.Struct, array_like=True):
    tally: Tally
    since: dict[str, int]


class FundingHistory:
    """Asks one exchange for the settlements of some perpetuals, from a day on and for as long as it runs."""

    def __init__(self, ctx: Context, options: FundingOptions) -> None:
        """
        Raises: ConfigError: the start is no day.
        """
        try:
            start = datetime.fromisoformat(options.start).replace(tzinfo=UTC)
        except ValueError:
            raise ConfigError(
                f"exchange-funding start: expected a day as 2024-01-01, was {options.start}"
            ) from None
        self._ctx = ctx
        self._options = options
        self._history = HISTORIES[options.exchange]
        self._rest_url = options.rest_url or self._history.rest_url
        self._name = f"{options.exchange}-funding"
        self._start_ns = int(start.timestamp()) * NS_PER_S
        self._tally = Tally()
        self._since: dict[str, int] = {}  # from when on to ask, by symbol
        self._is_lost = False

    async def stream(self) -> AsyncGenerator[Sequence[Message], None]:
        """Yield the settlements page by page, then each as it comes; it ends when it is closed."""
        self._backoff, self._pace = Backoff(self._ctx, "funding"), Pace(_PACE)
        async with aiohttp.ClientSession() as http:
            yield [FeedConnected(self._ctx.clock.now(), self._name, list(self._options.symbols))]
            while True:
                for symbol in self._options.symbols:
                    is_more = True
                    while is_more:
                        messages, is_more = await self._page(http, symbol)
                        if messages:
                            yield messages
                yield self.summarize()
                await asyncio.sleep(self._options.poll_s)

    async def _page(self, http: aiohttp.ClientSession, symbol: str) -> tuple[list[Message], bool]:
        # The next settlements of *symbol*, and whether to ask for more at once.
        now = self._ctx.clock.now()
        since = self._since.get(symbol, self._start_ns)
        end = min(since + self._history.span_ns, now) if self._history.span_ns else now
        try:
            page = await self._ask(http, symbol, since, end)
        except (FeedError, MalformedMessage) as error:
            return self._failed(symbol, error), False
        rows = sorted(row for row in page if since <= row.ts_event <= end)
        is_full = 0 < self._history.rows <= len(page)
        is_settled = not is_full and end < now - _SETTLED_NS
        self._since[symbol] = end + 1 if is_settled else rows[-1].ts_event + 1 if rows else since
        messages: list[Message] = self._found()
        for ts_event, rate in rows:
            messages.append(
                FundingUpdated(now, ts_event, self._options.exchange, symbol, 0, 0, rate, 0, 0, 0)
            )
        return messages, is_full or is_settled

    async def _ask(self, http: aiohttp.ClientSession, symbol: str, since: int, end: int) -> list[Row]:
        history = self._history
        path, query = history.page(history.wire_of(symbol), -(-since // NS_PER_MS), end // NS_PER_MS)
        request = Request(f"{self._rest_url}{path}?{urlencode(query)}")
        body = await fetch(http, request, self._pace, self._backoff, self._log_trouble)
        self._tally.count(symbol).messages += 1
        return history.parse(body)

    def _failed(self, symbol: str, error: Exception) -> list[Message]:
        count = self._tally.count(symbol)
        count.skipped += 1
        reason = str(error).partition(":")[0][:80]
        self._tally.reasons[reason] = self._tally.reasons.get(reason, 0) + 1
        if self._is_lost:
            return []
        self._is_lost = True
        wait_ms = round(self._options.poll_s * 1000)
        self._ctx.log.warning("feed.lost", exchange=self._name, reason=str(error)[:200], retry_in_ms=wait_ms)
        return [FeedLost(self._ctx.clock.now(), self._name, str(error)[:200], wait_ms)]

    def _found(self) -> list[Message]:
        if not self._is_lost:
            return []
        self._is_lost = False
        self._ctx.log.info("feed.connected", exchange=self._name, symbols=self._options.symbols)
        return [FeedConnected(self._ctx.clock.now(), self._name, list(self._options.symbols))]

    def _log_trouble(self, reason: str, wait_s: float) -> None:
        self._ctx.log.warning("feed.request_failed", reason=reason, retry_in_ms=round(wait_s * 1000))

    def summarize(self) -> list[FeedSummarized]:
        """Return what has been seen so far."""
        return [self._tally.summary(self._ctx.clock.now(), self._name)]

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(_State(self._tally, self._since))

    def restore(self, state: bytes) -> None:
        restored = msgspec.msgpack.decode(state, type=_State)
        self._tally, self._since = restored.tally, restored.since


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    return [
        ExchangeSpec(
            id="exchange-funding",
            factory=FundingHistory,
            options=FundingOptions,
            publishes=(FundingUpdated, FeedConnected, FeedLost, FeedSummarized),
            is_live=True,
            summary="the funding history of perpetuals by REST: Kraken, KuCoin and Binance USD-M futures",
        )
    ]
