"""The connectors that the local exchanges are tried with, built as the kernel builds them."""

from importlib import import_module
from typing import Any

import msgspec
import structlog

from tickerml.exchanges.live import LiveFeed
from tickerml.exchanges.venue import Venue
from tickerml.kernel import WallClock
from tickerml.kernel.testing import spec_of

CONNECTORS = (
    "binanceus",
    "coinbase",
    "kraken",
    "kucoin",
    "krakenfutures",
    "kucoinfutures",
    "binanceusdm",
)


class LiveContext:
    """What a live feed uses of a Context; draws are the lowest, so that retries come at once."""

    def __init__(self, plugin: str, uniform: float = 0.0) -> None:
        self.plugin = plugin
        self.clock = WallClock()
        self.log = structlog.get_logger()
        self._uniform = uniform

    def uniform(self, *key: str | int) -> float:
        return self._uniform


def live_feed(exchange: str, host: str, symbols: list[str], **options: Any) -> LiveFeed:
    """Return the exchange's plugin as it is built for a run, pointed at the server at *host* (host:port)."""
    spec = spec_of(import_module(f"tickerml.exchanges.{exchange}"))
    urls = {"ws_url": f"ws://{host}/{exchange}", "rest_url": f"http://{host}/{exchange}"}
    known = {name: url for name, url in urls.items() if name in spec.options.__struct_fields__}
    settings = msgspec.convert({"symbols": symbols, **known, **options}, spec.options)
    feed = spec.factory(LiveContext(spec.id), settings)  # type: ignore[arg-type]
    assert isinstance(feed, LiveFeed)
    return feed


def venue_of(exchange: str, symbols: list[str], **options: Any) -> Venue:
    """Return the Venue of the exchange's plugin."""
    return live_feed(exchange, "127.0.0.1", symbols, **options)._venue
