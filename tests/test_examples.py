"""The examples of the author's guide: one of each kind, tried by the kit, and each does what it says."""

import http.server
import threading
from pathlib import Path

import pytest

from tickerml.kernel import (
    NS_PER_S,
    Alert,
    FeedEnded,
    Liquidity,
    NewsItem,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    PluginContractError,
    Severity,
    Side,
    SubmitOrder,
    TimeInForce,
    catalog,
    hookspecs,
    registry,
)
from tickerml.kernel.testing import Harness, Market, instrument
from tickerml.testing import check, tiers
from tickerml.testing.contracts_subject import LADDER

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "examples"
FILES = sorted(path for path in EXAMPLES.glob("*.py") if not path.name.startswith("test_"))
EVERYTHING = catalog.find().plugins
SUBJECTS = {
    found.id: check.subject_of(found, EVERYTHING)
    for path in FILES
    for found in catalog.in_file(path)
    if found.manifest
}

#: What can be asked in this process; `tickerml plugin check` asks the rest.
ASKED = (
    "loads.manifest",
    "loads.spec",
    "loads.options",
    *(name for name in tiers.CHECKS if name.startswith("conforms.")),
    "swappable.state",
    "swappable.cuts",
    "swappable.repeats",
    "swappable.damaged",
    "deterministic.twice",
)
PAIRS = [
    (plugin, name)
    for plugin, subject in SUBJECTS.items()
    for name in tiers.possible(subject, "deterministic")
    if name in ASKED
]


def module(name: str):
    """Return the module of an example."""
    return registry.import_plugin(name, str(EXAMPLES / f"{name}.py"))


def test_there_is_one_of_each_kind_and_the_guide_shows_it():
    guide = (ROOT / "docs" / "plugin-authors.md").read_text()

    assert sorted(subject.kind for subject in SUBJECTS.values()) == sorted(hookspecs.SHAPES)
    for path in FILES:
        assert f"```python\n{path.read_text()}```" in guide


@pytest.mark.parametrize("plugin", SUBJECTS)
def test_an_example_claims_a_tier(plugin):
    assert SUBJECTS[plugin].manifest.tier in LADDER


@pytest.mark.parametrize(("plugin", "name"), PAIRS)
def test_an_example_passes_the_kit(plugin, name):
    outcome = tiers.ask(SUBJECTS[plugin], tiers.CHECKS[name])

    assert outcome.ok, outcome.detail


# --- What each of them does --------------------------------------------------------------------------


market = Market()
BOOK = [instrument(), market.book(NS_PER_S, bids=[(9_900, 300)], asks=[(10_100, 100)])]


def order(number: int, side: Side = Side.BUY, price: int = 10_100) -> SubmitOrder:
    return SubmitOrder(
        NS_PER_S + number,
        f"order-{number}",
        "strategy-x",
        "paper",
        "test",
        "BTC/USDT",
        side,
        OrderType.LIMIT,
        TimeInForce.IOC,
        price,
        5,
    )


def submitted(each: SubmitOrder) -> OrderSubmitted:
    return OrderSubmitted(
        each.ts_recv,
        each.order_id,
        each.strategy,
        each.account,
        each.exchange,
        each.symbol,
        each.side,
        each.order_type,
        each.time_in_force,
        each.price,
        each.quantity,
        20_000,
    )


def test_features_of_the_depth():
    (row,) = Harness(module("features_depth")).send(*BOOK)

    assert row.unpack() == [200.0, 0.5]


def test_too_many_orders_are_denied_and_later_ones_allowed_again():
    rule = Harness(module("risk_pace"), options={"risk-pace": {"orders": 2, "window_s": 10}})

    verdicts = rule.send(order(0), order(1), order(2), order(11 * NS_PER_S))

    assert [verdict.quantity for verdict in verdicts] == [5, 5, 0, 5]
    assert verdicts[2].reason == "2 orders within 10 s"


@pytest.mark.parametrize(
    ("side", "price", "answer"),
    [
        (Side.BUY, 10_100, "OrderFilled"),
        (Side.BUY, 10_000, "OrderExpired"),
        (Side.SELL, 9_000, "OrderFilled"),
    ],
)
def test_what_can_trade_is_filled_at_the_touch(side, price, answer):
    simulator = Harness(module("sim_touch"))
    simulator.send(*BOOK)

    accepted, answered = simulator.send(submitted(order(0, side, price)))

    assert type(accepted).__name__ == "OrderAccepted"
    assert type(answered).__name__ == answer
    if isinstance(answered, OrderFilled):
        assert answered.price == (10_100 if side is Side.BUY else 9_900)


def test_the_wave_plays_its_time_and_ends():
    exchange = Harness(module("exchange_wave"), options={"exchange-wave": {"duration_s": 1}})

    *_, (_, last) = exchange.bus.component("exchange-wave").events()

    assert isinstance(last[0], FeedEnded)
    assert last[0].messages == 10


FEED = """<?xml version="1.0"?><rss><channel>
<item><title>Later</title><guid>2</guid><link>https://example.org/2</link></item>
<item><title> Sooner </title><guid>1</guid><pubDate>Thu, 01 Jan 2026 00:00:01 GMT</pubDate></item>
</channel></rss>"""


def test_items_of_a_feed_come_the_oldest_first():
    first, second = module("news_rss").items(FEED, 5, "wire")

    assert first == NewsItem(5, 1_767_225_601 * NS_PER_S, "wire", "1", "Sooner")
    assert (second.id, second.ts_event, second.url) == ("2", 0, "https://example.org/2")


def test_what_is_no_feed_is_refused():
    with pytest.raises(ValueError, match="expected an RSS feed"):
        module("news_rss").items("<html>", 5, "wire")


def fill(number: int) -> OrderFilled:
    return OrderFilled(
        NS_PER_S + number,
        NS_PER_S,
        f"order-{number}",
        0,
        "strategy-x",
        "paper",
        "test",
        "BTC/USDT",
        Side.BUY,
        10_000,
        5,
        0,
        Liquidity.TAKER,
        10**9,
        "USDT",
        0,
        0,
        0,
        False,
        0,
    )


def test_the_tally_is_told_in_the_diagnostics():
    tally = Harness(module("store_tally"))
    tally.send(*BOOK, fill(0), fill(1))

    assert module("store_tally").tickerml_diagnostics()["test BTC/USDT"] == {
        "fills": 2,
        "notional": "0.01",
        "fees": "0.002",
    }


def test_the_page_shows_the_newest_fill_first():
    text = module("page_fills").text_of([fill(0), fill(1)])

    assert [line.split()[-1] for line in text.splitlines()] == ["order-1", "order-0"]


def test_a_home_without_a_run_has_paid_no_fees(tmp_path):
    assert module("command_fees").fees(tmp_path) == {}


class Receiver(http.server.BaseHTTPRequestHandler):
    taken: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).taken.append((self.headers["Authorization"], body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        return


def test_an_alert_is_posted_with_the_token():
    handler = type("Handler", (Receiver,), {"taken": []})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    options = {"sink-webhook": {"url": f"http://127.0.0.1:{server.server_port}"}}
    sink = Harness(module("sink_webhook"), options=options, secrets={"webhook-token": "x"})

    sink.bus.component("sink-webhook").emit(Alert(1, Severity.ERROR, "feed/x", "lost"))
    thread.join()
    server.server_close()

    ((token, body),) = handler.taken
    assert token == "Bearer x"
    assert b'"title":"lost"' in body


def test_a_webhook_without_its_secret_is_not_built():
    options = {"sink-webhook": {"url": "http://127.0.0.1:1"}}

    with pytest.raises(PluginContractError, match="asked for the secret 'webhook-token'"):
        Harness(module("sink_webhook"), options=options)
