"""
The exchanges on this machine, for whoever writes or tests a connector: their public REST and WebSocket
interfaces in today's formats, a true book behind each, and faults on demand.

    async with ExchangeServer("kraken", seed=7).serving() as server:
        server.rest_url("kraken"), server.ws_url("kraken")     # for the connector's options
        server.update("kraken", "BTC/USD")                     # something happens in the market
        server.strike("gap", "kraken")                         # and something goes wrong
        server.wires["kraken"].market("BTC/USD").book_at(seq)  # what was true

`tickerml exchange serve` is its door from a shell; docs/exchange-server.md says how to use it.
"""

from .capture import Playback, read
from .faults import FAULTS, Fault
from .market import Change, Listing, Market, Print, Update
from .server import EXCHANGES, ExchangeServer
from .wire import Connection, Frame, Reply, Wire

__all__ = [
    "EXCHANGES",
    "FAULTS",
    "Change",
    "Connection",
    "ExchangeServer",
    "Fault",
    "Frame",
    "Listing",
    "Market",
    "Playback",
    "Print",
    "Reply",
    "Update",
    "Wire",
    "read",
]
