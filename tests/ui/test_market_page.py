"""The market page in a browser: real console, real bus; the kernel is the test's."""

import time

import pytest

from tickerml.kernel import (
    Anomaly,
    ChannelLost,
    DataAnomaly,
    FeedConnected,
    FeedLost,
    FeedSummarized,
    Severity,
)
from tickerml.kernel.testing import Market, instrument

from .fake_kernel import FakeKernel

pytestmark = pytest.mark.browser

ATTACK = '<img src="https://evil.example/x" onerror="document.title=1">'
EXCHANGES = ("binanceus", "coinbase", "kraken", "kucoin")
SYMBOLS = {"BTC/USD": 6_000_000, "BTC/USDT": 6_001_000, "ETH/USD": 300_000, "ETH/USDT": 300_100}
MARKETS = {(exchange, symbol): Market(exchange, symbol) for exchange in EXCHANGES for symbol in SYMBOLS}


def book(exchange, symbol):
    mid = SYMBOLS[symbol] + 100 * EXCHANGES.index(exchange)
    bids = [(mid - 50 - 100 * level, 1_000 + level) for level in range(12)]
    asks = [(mid + 50 + 100 * level, 1_000 + level) for level in range(12)]
    return MARKETS[exchange, symbol].book(time.time_ns(), bids, asks)


def history():
    now = time.time_ns()
    anomaly = (Anomaly.OUTLIER, Severity.WARNING, 120.0, 50.0, "a print is off", 7)
    return [
        *(instrument(exchange, symbol) for exchange, symbol in MARKETS),
        *(FeedConnected(now, exchange, list(SYMBOLS)) for exchange in EXCHANGES),
        *(book(exchange, symbol) for exchange, symbol in MARKETS),
        FeedSummarized(now, "kraken", 20_000, 3, 2, 0, {"malformed frame": 3}, 4, 4, checksums_ok=14_496),
        DataAnomaly(now, "coinbase", "BTC/USD", *anomaly),
        FeedLost(now, "kucoin", ATTACK, 100),
        ChannelLost(now, "binanceus", "ETH/USD", "trade", 120_000, "no trade of ETH/USD for 120.0 s"),
    ]


def pulse():
    return [book(exchange, symbol) for exchange, symbol in MARKETS if exchange != "kucoin"]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory, port):
    kernel = FakeKernel(tmp_path_factory.mktemp("home"), port)
    kernel.publish(*history())
    kernel.pulse = pulse
    kernel.start_console()
    yield kernel
    kernel.close()


@pytest.fixture
def market_page(open_page, url):
    def go(path="market", **size):
        page = open_page(**size)
        page.goto(f"{url}/{path}")
        page.locator(".feed").nth(3).wait_for()
        page.locator(".spread").nth(3).wait_for()
        return page

    return go


def feed(page, exchange):
    return page.locator(".feed").filter(has_text=exchange)


def test_each_feed_says_how_it_is_and_why(market_page):
    page = market_page()

    kraken = feed(page, "kraken")
    kraken.get_by_text("14,496").wait_for()
    kraken.get_by_text("Skipped: 3 malformed frame").wait_for()
    kraken.get_by_text("4 of 4").wait_for()
    feed(page, "coinbase").get_by_text("Doubted: 7 outlier BTC/USD").wait_for()
    feed(page, "kucoin").get_by_text("lost", exact=True).wait_for()
    feed(page, "kucoin").get_by_text("0 of 4").wait_for()
    feed(page, "kucoin").get_by_text(f"UTC: {ATTACK}").wait_for()
    feed(page, "binanceus").get_by_text("incomplete", exact=True).wait_for()
    feed(page, "binanceus").get_by_text("Lost alone: trade of ETH/USD since").wait_for()
    assert page.locator(".feed img").count() == 0


def test_the_matrix_marks_what_may_not_be_believed(market_page):
    page = market_page()

    table = page.locator(".spread").filter(has_text="BTC/USDT")
    table.locator("tr.bad", has_text="feed lost").wait_for()
    assert table.locator("tbody tr").count() == 4
    assert table.locator("tbody tr").first.locator("td").nth(4).get_attribute("class") == "up"
    assert table.locator("tbody tr").first.locator("td").nth(5).get_attribute("class") == "bad"


def test_choosing_a_feed_shows_its_books_and_the_address_keeps_it(market_page, url):
    page = market_page()
    page.get_by_text("Books · binanceus").wait_for()

    feed(page, "kraken").click()
    page.get_by_text("Books · kraken").wait_for()
    page.get_by_role("img", name="Order book, mid 60,012.00, spread 1.00").wait_for()
    assert page.url == f"{url}/market/kraken"
    page.reload()
    page.get_by_text("Books · kraken").wait_for()
    assert feed(page, "kraken").get_attribute("aria-pressed") == "true"


def test_the_books_of_a_lost_feed_say_so(market_page):
    page = market_page("market/kucoin")

    page.locator(".one-book-head", has_text="feed lost").nth(3).wait_for()


def test_a_phone_shows_it_all_without_scrolling_sideways(market_page):
    page = market_page(width=390, height=844)

    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.get_by_role("link", name="Data").bounding_box()["x"] < 390
