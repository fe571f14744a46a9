"""
What a book update costs a connector, against ccxt.pro on the same messages in the same run.

    python benchmarks/connectors.py [--exchange NAME ...] [--rounds R] [--json]

It needs ccxt in the same interpreter, and the recorded captures (TICKERML_CAPTURES). The updates
are those of the captures, with the times at which they came; where an exchange has changed its
format since, they are put into today's envelope, text for text. Snapshots are given before the
clock starts. What each side does with a message:

ours      decodes it; reads every number exactly, as ticks and lots; keeps the book; checks that nothing
          is missing (Binance, Coinbase and KuCoin by the numbers, Kraken by the CRC32 of every
          update), crossed or off the grid; counts it, estimates the clock's offset, and returns the
          message that is published
ccxt.pro  decodes it with orjson, as it does live; reads the numbers as floats; keeps the book and its
          times; resolves who waits for it. It checks the numbers of Binance and drops old ones of
          KuCoin; not Coinbase's, nor Kraken's checksum, which its Python cannot compute

ours_us   CPU per message: the median of the rounds, which both take in turn, and in turn first
ccxt_us   the same of ccxt.pro
ratio     the median of the rounds' ratios; spread is the least and the greatest of them
best_us   ours and theirs when each CHUNK takes what it took in its best round: noise only adds
equal     whether both have the same five best levels of every book at the end
"""

import argparse
import asyncio
import gzip
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from zlib import crc32

import ccxt.pro
import orjson
import structlog

from tickerml.exchanges.binance_wire import SpotFeed
from tickerml.exchanges.coinbase_wire import CoinbaseFeed
from tickerml.exchanges.feed import Feed
from tickerml.exchanges.kraken_wire import KrakenFeed
from tickerml.exchanges.kucoin_wire import KucoinFeed
from tickerml.exchanges.symbols import kraken
from tickerml.kernel import UNIT

CAPTURES = Path(os.environ.get("TICKERML_CAPTURES", Path(__file__).parents[2] / "shared" / "data"))
RAW = CAPTURES / "raw_ws"
CHUNK = 200  # updates timed at once
AIMS = {"coinbase": 5.0, "kraken": 5.0, "kucoin": 5.0, "binance": 2.0}


class Case(NamedTuple):
    """Messages of one exchange: our feed and theirs, each with its books, and the updates to time."""

    feed: Callable[[], Feed]
    theirs: Callable[[], Any]  # an exchange of ccxt.pro
    url: str
    updates: list[bytes]
    times: list[int]  # at which they came, ns UTC
    their_updates: list[bytes]
    books: dict[str, str]  # the exchange's name of a market -> ccxt's


def frames(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the frames of a cryptofeed capture, decoded, each after the ns at which it came."""
    for line in path.read_text().splitlines():
        stamp, _, text = line.partition(": ")
        if stamp.replace(".", "", 1).isdigit():
            yield round(float(stamp) * 1e9), json.loads(text)


def replies(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the REST replies of a cryptofeed capture: URL and body."""
    for line in path.read_text().splitlines():
        head, _, text = line.partition(": {")
        url, arrow, _ = head.partition(" -> ")
        if arrow:
            yield url, b"{" + text.encode()


def exchange(name: str, books: dict[str, str]) -> Any:
    """Return ccxt.pro's *name*, knowing the markets of *books* without the network."""
    theirs = getattr(ccxt.pro, name)()
    theirs.open()
    kinds = dict.fromkeys(("swap", "future", "option", "contract", "margin"), False)
    markets = []
    for wire, symbol in books.items():
        base, quote = symbol.split("/")
        names = {"id": wire, "lowercaseId": wire.lower(), "symbol": symbol, "base": base, "quote": quote}
        rules = {"type": "spot", "spot": True, "precision": {"price": 1e-8, "amount": 1e-8}}
        markets.append(
            theirs.safe_market_structure(names | rules | kinds | {"baseId": base, "quoteId": quote})
        )
    theirs.set_markets(markets)
    return theirs


# --- The messages of each exchange ------------------------------------------------------------------


def digits(levels: list[list[str]]) -> bytes:
    """Return the digits that a Kraken checksum covers of one side, best first."""
    return "".join(text.replace(".", "").lstrip("0") for level in levels[:10] for text in level[:2]).encode()


def kraken_v2(pair: str, kind: str, bids: list[Any], asks: list[Any], checksum: int) -> bytes:
    """Return a v2 book frame whose numbers are written as in v1."""

    def side(levels: list[Any]) -> str:
        return ",".join(f'{{"price":{price},"qty":{quantity}}}' for price, quantity, *_ in levels)

    data = f'"symbol":"{kraken(pair)}","bids":[{side(bids)}],"asks":[{side(asks)}],"checksum":{checksum}'
    data += ',"timestamp":"2021-04-05T23:47:04.690142Z"'
    return f'{{"channel":"book","type":"{kind}","data":[{{{data}}}]}}'.encode()


def of_kraken() -> Case:
    snapshots, updates, times, books = [], [], [], {}
    for came_at, frame in frames(RAW / "kraken" / "20210405_book1000_xbtusd_10syms.txt"):
        if not isinstance(frame, list):
            continue
        sides = {name: value for part in frame[1:-2] for name, value in part.items()}
        pair = frame[-1]
        books[kraken(pair)] = kraken(pair)
        if "as" in sides:
            checksum = crc32(digits(sides["as"]) + digits(sides["bs"]))
            snapshots.append(kraken_v2(pair, "snapshot", sides["bs"], sides["as"], checksum))
        else:
            bids, asks = sides.get("b", []), sides.get("a", [])
            updates.append(kraken_v2(pair, "update", bids, asks, int(sides["c"])))
            times.append(came_at)

    def feed() -> Feed:
        ours = KrakenFeed("kraken", structlog.get_logger())
        for raw in snapshots:
            ours.on_frame(1, raw)
        return ours

    url = "wss://ws.kraken.com/v2"

    def theirs() -> Any:
        ex = exchange("kraken", books)
        client = ex.client(url)
        for symbol in books:
            client.subscriptions[ex.get_message_hash("orderbook", None, symbol)] = {"limit": 1000}
        for raw in snapshots:
            ex.handle_message(client, orjson.loads(raw))
        return ex

    return Case(feed, theirs, url, updates, times, updates, books)


def of_coinbase() -> Case:
    snapshots: list[dict[str, Any]] = []
    updates: list[dict[str, Any]] = []
    times, books = [], {}
    for came_at, frame in frames(RAW / "coinbaseexchange" / "20210417_5syms.txt"):
        if frame["type"] == "snapshot":
            rows = [("bid", *row) for row in frame["bids"]] + [("offer", *row) for row in frame["asks"]]
            kind, at = "snapshot", "1970-01-01T00:00:00Z"
        elif frame["type"] == "l2update":
            rows = [({"buy": "bid", "sell": "offer"}[side], *row) for side, *row in frame["changes"]]
            kind, at = "update", frame["time"]
            times.append(came_at)
        else:
            continue
        books[frame["product_id"]] = frame["product_id"].replace("-", "/")
        keys = ("side", "price_level", "new_quantity", "event_time")
        changes = [dict(zip(keys, (*row, at), strict=True)) for row in rows]
        event = {"type": kind, "product_id": frame["product_id"], "updates": changes}
        whole = {
            "channel": "l2_data",
            "client_id": "",
            "timestamp": frame.get("time", "2021-04-17T16:43:37Z"),
        }
        (snapshots if kind == "snapshot" else updates).append(whole | {"sequence_num": 0, "events": [event]})
    raws = []
    for number, each in enumerate(snapshots + updates):
        raws.append(json.dumps(each | {"sequence_num": number}, separators=(",", ":")).encode())
    first, rest = raws[: len(snapshots)], raws[len(snapshots) :]

    def feed() -> Feed:
        ours = CoinbaseFeed("coinbase", structlog.get_logger())
        for raw in first:
            ours.on_frame(1, raw)
        return ours

    url = "wss://advanced-trade-ws.coinbase.com"

    def theirs() -> Any:
        ex = exchange("coinbase", books)
        for raw in first:
            ex.handle_message(ex.client(url), orjson.loads(raw))
        return ex

    return Case(feed, theirs, url, rest, times, rest, books)


def of_kucoin() -> Case:
    folder = RAW / "kucoin"
    snapshots = list(replies(folder / "20210425_5syms.snapshots.txt"))
    wires = [url.partition("symbol=")[2].partition("&")[0] for url, _ in snapshots]
    books = {wire: wire.replace("-", "/") for wire in wires}
    updates, times = [], []
    for came_at, frame in frames(folder / "20210425_5syms.ws.txt"):
        if frame.get("subject") == "trade.l2update":
            updates.append(json.dumps(frame, separators=(",", ":")).encode())
            times.append(came_at)

    def feed() -> Feed:
        ours = KucoinFeed("kucoin", structlog.get_logger())
        for url, raw in snapshots:
            ours.on_reply(1, url, raw)
        return ours

    url = "wss://ws-api-spot.kucoin.com"

    def theirs() -> Any:
        ex = exchange("kucoin", books)
        ex.client(url)
        for (_, raw), wire in zip(snapshots, wires, strict=True):
            data = orjson.loads(raw)["data"]
            book = ex.orderbooks[books[wire]] = ex.order_book()
            book.reset(ex.parse_order_book(data, books[wire]) | {"nonce": int(data["sequence"])})
        return ex

    return Case(feed, theirs, url, updates, times, updates, books)


def of_binance() -> Case:
    books, depth = {"BTCUSDT": "BTC/USDT"}, b""
    updates, times, theirs_updates = [], [], []
    with gzip.open(RAW / "binance" / "spot_btcusdt_20240808.gz") as lines:
        for line in lines:
            stamp, _, raw = line.strip().partition(b" ")
            if raw.startswith(b'{"lastUpdateId"'):
                depth = raw
            elif b"@depth" in raw[:40]:
                updates.append(raw)
                times.append(int(stamp))
                theirs_updates.append(orjson.dumps(orjson.loads(raw)["data"]))

    def feed() -> Feed:
        ours = SpotFeed("binance", structlog.get_logger())
        ours.on_reply(1, "https://api.binance.com/api/v3/depth?symbol=BTCUSDT", depth)
        return ours

    url = "wss://stream.binance.com:9443/ws/0"

    def theirs() -> Any:
        ex = exchange("binance", books)
        ex.client(url)
        data = orjson.loads(depth)
        book = ex.orderbooks["BTC/USDT"] = ex.order_book({}, 1000)
        book.reset(ex.parse_order_book(data, "BTC/USDT") | {"nonce": data["lastUpdateId"]})
        return ex

    return Case(feed, theirs, url, updates, times, theirs_updates, books)


CASES = {"coinbase": of_coinbase, "kraken": of_kraken, "kucoin": of_kucoin, "binance": of_binance}


# --- Measuring --------------------------------------------------------------------------------------


def time_chunks(take: Callable[[int, bytes], Any], times: list[int], updates: list[bytes]) -> list[int]:
    """Return CPU ns of *take* for each CHUNK of the updates, in order."""
    taken = []
    for start in range(0, len(updates), CHUNK):
        chunk = list(zip(times[start : start + CHUNK], updates[start : start + CHUNK], strict=True))
        began = time.process_time_ns()
        for came_at, raw in chunk:
            take(came_at, raw)
        taken.append(time.process_time_ns() - began)
    return taken


def time_ours(case: Case) -> tuple[list[int], Feed]:
    """Return the CPU ns of our feed by chunk, and the feed with its books."""
    feed = case.feed()
    return time_chunks(feed.on_frame, case.times, case.updates), feed


def time_theirs(case: Case) -> tuple[list[int], Any]:
    """Return the CPU ns of ccxt.pro by chunk, and its exchange with its books."""
    ex = case.theirs()
    client, handle, loads = ex.client(case.url), ex.handle_message, orjson.loads
    return time_chunks(lambda _, raw: handle(client, loads(raw)), case.times, case.their_updates), ex


def best_us(rounds: list[list[int]], count: int) -> float:
    """Return us per message when each chunk takes what it took in its best round."""
    best: int = sum(map(min, zip(*rounds, strict=True)))
    return round(best / count / 1000, 2)


def are_equal(case: Case, feed: Feed, ex: Any) -> bool:
    """Return whether both have the same best levels of every book: five, or as many as ours vouches for."""
    for wire, symbol in case.books.items():
        instrument, book, other = feed._market(wire).instrument, feed.book(wire), ex.orderbooks[symbol]
        for side, levels in ((book.bids, other["bids"]), (book.asks, other["asks"])):
            for (price, quantity), level in zip(side.top(5), levels, strict=False):
                steps = level[0] * UNIT / instrument.tick_size, level[1] * UNIT / instrument.lot_size
                if (price, quantity) != (round(steps[0]), round(steps[1])):
                    return False
    return True


async def measure(name: str, rounds: int) -> dict[str, Any]:
    """Return the figures of one exchange; ccxt.pro wants a running loop."""
    case = CASES[name]()
    ours: list[list[int]] = []
    theirs: list[list[int]] = []
    equal = True
    for number in range(rounds):
        if number % 2:
            (their, ex), (our, feed) = time_theirs(case), time_ours(case)
        else:
            (our, feed), (their, ex) = time_ours(case), time_theirs(case)
        ours.append(our)
        theirs.append(their)
        equal = equal and are_equal(case, feed, ex)
        await ex.close()
    count = len(case.updates)
    ratios = [sum(their) / sum(our) for our, their in zip(ours, theirs, strict=True)]
    return {
        "exchange": name,
        "messages": count,
        "rounds": rounds,
        "ours_us": round(median(map(sum, ours)) / count / 1000, 2),
        "ccxt_us": round(median(map(sum, theirs)) / count / 1000, 2),
        "ratio": round(median(ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "aim": AIMS[name],
        "best_us": [best_us(ours, count), best_us(theirs, count)],
        "skipped": feed.tally.skipped,
        "gaps": feed.tally.gaps,
        "checksums_ok": sum(stream.checksums_ok for stream in feed.tally.streams.values()),
        "equal": equal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU per message of our connectors and of ccxt.pro's")
    parser.add_argument("--exchange", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for name in arguments.exchange:
        found = asyncio.run(measure(name, arguments.rounds))
        if arguments.json:
            print(json.dumps(found))
        else:
            print("  ".join(f"{key} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
