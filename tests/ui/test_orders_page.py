"""The pages Orders & Queue and Risk in a browser; the kernel is the test's."""

import time

import msgspec
import pytest

from tickerml.kernel import (
    UNIT,
    HaltLevel,
    ModelResult,
    OrderAccepted,
    OrderDenied,
    OrderSubmitted,
    OrderType,
    RiskVerdict,
    Side,
    SubmitOrder,
    TimeInForce,
    TournamentMeasured,
    control,
)
from tickerml.kernel.runs import PLAN_KEY, RUN_KEY, Run
from tickerml.kernel.testing import Market, instrument

from .fake_kernel import FakeKernel

ATTACK = '<img src="https://evil.example/x" onerror="document.title=1">'
PLACE = ("low", "BTC/USDT")


def order(ts):
    terms = (Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 100, 10)
    wish = SubmitOrder(ts, "a-1", "trend", "paper", *PLACE, *terms, reason=ATTACK)
    verdict = RiskVerdict(ts, "a-1", "risk-limits", 4, "half of it", {"equity": 9500.5})
    sent = OrderSubmitted(ts, "a-1", "trend", "paper", *PLACE, *terms, 201)
    return wish, verdict, sent, OrderAccepted(ts, ts, "a-1", *PLACE, 40, 4)


def tournament(ts):
    real = ModelResult("risk-averse", 1, 2, 10, 1000 * UNIT, UNIT, 4, -3 * UNIT, 0)
    touch = ModelResult("touch", 3, 3, 30, 3000 * UNIT, 3 * UNIT, 0, 5 * UNIT // 2, 11 * UNIT // 2)
    return TournamentMeasured(ts, *PLACE, "USDT", 201, 4, [real, touch])


@pytest.fixture(scope="module")
def kernel(tmp_path_factory, port):
    kernel = FakeKernel(tmp_path_factory.mktemp("home"), port)
    run = Run(profile="demo", number=1, fingerprint="", started_ns=0)
    kernel.put_meta(RUN_KEY, msgspec.msgpack.encode(run))
    kernel.put_meta(PLAN_KEY, msgspec.json.encode(kernel.plan))
    low, now = Market("low"), time.time_ns()
    kernel.publish(
        instrument("low", tick="1", lot="0.1"),
        low.book(now, [(100, 30)], [(101, 5)]),
        *order(now),
        OrderDenied(now, "d-1", "trend", "paper", *PLACE, "risk-limits", ATTACK),
    )
    kernel.pulse = lambda: [low.book(time.time_ns(), [(100, 30)], [(101, 5)])]
    kernel.start_console()
    yield kernel
    kernel.close()


@pytest.mark.browser
def test_an_order_shows_its_place_and_tells_why_when_it_is_clicked(open_page, url):
    page = open_page()
    page.goto(f"{url}/orders")

    page.get_by_text("1 open · 1 denied").wait_for()
    assert page.get_by_role("meter", name="Place in the queue").get_attribute("aria-valuenow") == "25"
    page.locator(".recent tbody td", has_text=ATTACK).wait_for()
    page.get_by_role("button", name="Why a-1").click()
    page.locator(".why .verdict", has_text="risk-limits allows 0.4: half of it").wait_for()
    page.locator(".why .wish", has_text=ATTACK).wait_for()
    assert page.locator(".why .outcome").inner_text() == "open"
    page.get_by_role("button", name="Close").click()
    page.get_by_label("Filter").fill("d-1")
    page.locator(".open .empty").wait_for()
    assert page.locator(".recent .order").count() == 1
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.browser
def test_a_tournament_shows_its_band_and_each_model_once_there_is_one(open_page, url, kernel):
    page = open_page()
    page.goto(f"{url}/orders")
    page.get_by_text("1 open · 1 denied").wait_for()
    assert not page.locator(".tournament").is_visible()

    kernel.publish(tournament(time.time_ns()))

    page.get_by_text("the same 4 orders: P&L from -3.00 to +2.50 USDT (-3.00 real)").wait_for()
    rows = page.locator(".tournament tbody tr")
    assert rows.count() == 2
    assert rows.nth(0).inner_text().split("\t")[0] == "risk-averse (real)"
    assert "+5.50" in rows.nth(1).inner_text()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.browser
def test_rules_show_their_numbers_and_a_level_of_the_kill_switch_is_asked_for(open_page, url, kernel):
    page = open_page()
    page.goto(f"{url}/risk")

    page.locator(".rules td", has_text="equity 9,500.5").wait_for()
    page.locator(".denied td", has_text=ATTACK).wait_for()
    page.get_by_role("button", name="No new orders").click()
    page.get_by_text("Kill switch: No new orders?").wait_for()
    page.get_by_role("dialog").get_by_role("button", name="No new orders").click()
    page.locator(".risk-reason", has_text="Halted by console").wait_for()
    halts = [each for each in kernel.requests if isinstance(each, control.HaltRequest)]
    assert [each.level for each in halts] == [HaltLevel.NO_NEW]
    page.get_by_role("button", name="Trading", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Resume trading").click()
    page.locator('.level[aria-pressed="true"]', has_text="0 · Trading").wait_for()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
