import re
import socket
import subprocess
import sys
import time

import pytest

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    FeedLost,
    KernelStarted,
    OrderAccepted,
    OrderSubmitted,
    OrderType,
    PluginError,
    PortfolioSnapshot,
    Position,
    Side,
    TimeInForce,
    control,
)
from tickerml.kernel.testing import Market, instrument
from tickerml.ui.console import ConsoleOptions, take_address

from .fake_kernel import FakeKernel

pytestmark = pytest.mark.browser

ATTACK = '<img src="https://evil.example/x" onerror="document.title=1">'
MARKET = Market("fake")


def now():
    return time.time_ns()


def portfolio():
    money = dict(realized=0, unrealized=UNIT, fees=0, drawdown=0.05, max_drawdown=0.06, is_marked=True)
    held = [Position("fake", "BTC/USDT", 1_000, 600 * UNIT, 6_010_000, 0, UNIT, 0)]
    return PortfolioSnapshot(
        now(), "main", "USD", 9_500 * UNIT, 10_000 * UNIT, 10_000 * UNIT, **money, balances=[], positions=held
    )


def history():
    """What happened before the console started, which it can only know from the journal."""
    order = ("order-1", "s", "main", "fake", "BTC/USDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC)
    bids = [(6_000_000 - 100 * level, 50_000 + 1_000 * level) for level in range(12)]
    asks = [(6_000_100 + 100 * level, 40_000 + 1_000 * level) for level in range(12)]
    return [
        KernelStarted(now(), 1, "0", "demo", []),
        instrument("fake"),
        MARKET.book(now(), bids, asks),
        OrderSubmitted(now(), *order, 6_000_000, 5_000, 12_000_100),
        OrderAccepted(now(), now(), "order-1", "fake", "BTC/USDT", 50_000, 5),
        *[MARKET.trade(now() - s * NS_PER_S, 6_000_000 - 37 * s, 900, Side.BUY) for s in range(300, 0, -1)],
        portfolio(),
        FeedLost(now(), "other", ATTACK, 100),
    ]


def pulse():
    return [MARKET.trade(now(), 6_000_000, 1_000, Side.SELL), portfolio()]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory, port):
    kernel = FakeKernel(tmp_path_factory.mktemp("home"), port)
    kernel.publish(*history())
    kernel.pulse = pulse
    kernel.start_console()
    yield kernel
    kernel.close()


def changed(kernel):
    """Return which plugins the one change that was asked for enables or disables."""
    (request,) = kernel.requests
    was = {each.id: each.enabled for each in kernel.before.plugins}
    return {each.id: each.enabled for each in request.plan.plugins if each.enabled != was[each.id]}


def wait_for_paint(page, selector):
    """Wait until a canvas shows more than lines and background."""
    page.wait_for_function(
        """(selector) => { const c = document.querySelector(selector);
        return c && c.width && new Set(new Uint32Array(
          c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer)).size > 20 }""",
        arg=selector,
    )


# --- Signing in -------------------------------------------------------------------------------------


def test_a_wrong_password_is_refused(browser, url):
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.get_by_label("Operator password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()

    page.get_by_role("alert").get_by_text("Wrong password.").wait_for()
    assert page.goto(url).url.endswith("/login")
    assert context.request.get(f"{url}/api/v1/status").status == 401
    assert context.request.get(f"{url}/api/v1/health").json() == {"ok": True}
    context.close()


def test_a_session_is_a_cookie_that_scripts_and_other_sites_do_not_get(open_page, url):
    page = open_page()

    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.context.request.get(f"{url}/api/v1/status").json()["messages_per_s"] == 250.0


def test_signing_out_ends_the_session(open_page, url):
    page = open_page()
    page.get_by_role("button", name="Sign out everywhere").click()

    page.get_by_label("Operator password").wait_for()
    assert page.goto(url).url.endswith("/login")


# --- What it shows ----------------------------------------------------------------------------------


def test_money_book_and_prices_are_on_the_page(open_page):
    page = open_page()

    page.get_by_text("PAPER", exact=True).wait_for()
    page.get_by_text("Equity $9,500.00").wait_for()
    page.get_by_text("DD 5.0% / 25%").wait_for()
    page.get_by_role("img", name="Order book, mid 60,000.50, spread 1.00").wait_for()
    page.get_by_role("cell", name="60,100.00").wait_for()
    for selector in (".ladder", ".prices canvas", ".equity-card canvas"):
        wait_for_paint(page, selector)


def test_our_own_order_is_marked_in_the_ladder(open_page):
    page = open_page()
    wait_for_paint(page, ".ladder")
    amber = """(canvas) => { const d = canvas.getContext("2d").getImageData(0, 0, 3, canvas.height).data;
        let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] === 245 && d[i + 1] === 158; return n; }"""

    assert page.locator(".ladder").evaluate(amber) > 20


def test_candles_go_back_before_the_console_started(open_page):
    page = open_page()
    page.wait_for_function("Object.values(tickerml.points).some((kept) => kept.length >= 60)")


def test_text_from_outside_is_text(open_page):
    page = open_page()

    page.locator(".log").get_by_text("feed.lost exchange=other").first.wait_for()
    assert page.locator(".log img").count() == 0


def test_the_theme_changes_and_is_kept(open_page, url):
    page = open_page()
    page.get_by_role("button", name="Change between dark and light").click()
    page.locator("body.body--light").wait_for()
    wait_for_paint(page, ".prices canvas")
    page.wait_for_function("document.cookie.includes('tickerml_theme=light')")

    page.goto(url)
    page.locator("body.body--light .plugin").first.wait_for()


def test_a_phone_shows_one_column_without_scrolling_sideways(open_page):
    page = open_page(390, 844)
    page.get_by_role("cell", name="60,100.00").wait_for()

    assert page.evaluate("document.documentElement.scrollWidth") == 390
    boxes = [card.bounding_box() for card in page.locator(".card").all()]
    assert len({box["x"] for box in boxes}) == 1
    assert page.get_by_role("button", name="Kill switch").bounding_box()["x"] < 390


# --- What it does -----------------------------------------------------------------------------------


def test_the_kill_switch_asks_first_and_then_halts_until_a_person_resumes(open_page, kernel):
    page = open_page()
    page.get_by_role("button", name="Kill switch").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Halt trading").wait_for(state="detached")
    assert kernel.requests == []

    page.get_by_role("button", name="Kill switch").click()
    page.get_by_role("button", name="Halt trading").click()
    page.get_by_text("HALTED at level 2 by console: the kill switch was pressed").wait_for()
    page.locator(".top.is-halted").wait_for()
    page.get_by_role("button", name="Kill switch").click()
    page.get_by_text("3 · Flatten").click()
    page.get_by_role("button", name="Halt trading").click()
    page.get_by_text("HALTED at level 3 by console").wait_for()
    page.get_by_role("button", name="Kill switch").wait_for(state="hidden")
    assert [each.level for each in kernel.requests] == [2, 3]

    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Resume trading").click()
    page.locator(".top:not(.is-halted)").wait_for()
    page.get_by_role("button", name="Kill switch").wait_for()
    assert [type(each) for each in kernel.requests[2:]] == [control.ResumeRequest]
    kernel.requests.clear()


def test_what_is_degraded_is_shown_with_its_reason_until_it_is_well_again(open_page, kernel):
    page = open_page()
    page.locator(".degraded").wait_for(state="hidden")

    kernel.degraded = [
        {"part": "trade", "reason": f"no canary for 3.2 s {ATTACK}", "since_ns": 43_200 * NS_PER_S}
    ]
    page.get_by_text("DEGRADED: trade since 12:00:00 UTC: no canary for 3.2 s <img").wait_for()

    kernel.degraded = []
    page.locator(".degraded").wait_for(state="hidden")


def test_switching_a_risk_rule_off_asks_first(open_page, kernel):
    page = open_page()
    switch = page.get_by_role("switch", name="risk-limits enabled")
    switch.click()
    page.get_by_text("Disable risk-limits?").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.locator('[aria-label="risk-limits enabled"][aria-checked="true"]').wait_for()
    assert kernel.requests == []

    switch.click()
    page.get_by_role("button", name="Disable").click()
    page.get_by_text("risk-limits: disabled.").wait_for()
    assert changed(kernel) == {"risk-limits": False}
    kernel.requests.clear()


def test_switching_another_plugin_does_not_ask(open_page, kernel):
    page = open_page()
    page.get_by_role("switch", name="exchange-synthetic enabled").click()

    page.get_by_text("exchange-synthetic: disabled.").wait_for()
    assert changed(kernel) == {"exchange-synthetic": False}
    kernel.requests.clear()


def test_a_page_whose_session_has_ended_can_no_longer_halt(open_page, kernel):
    page, other = open_page(), open_page()
    other.get_by_role("button", name="Sign out everywhere").click()
    other.get_by_label("Operator password").wait_for()

    page.get_by_role("button", name="Kill switch").click()
    page.get_by_role("button", name="Halt trading").click()
    page.get_by_label("Operator password").wait_for()
    assert kernel.requests == []


def test_a_silent_market_greys_the_page_and_says_so(open_page, kernel):
    page = open_page()
    kernel.pulse = list
    try:
        page.get_by_text(re.compile(r"No market data for \d+ s")).wait_for()
        page.locator("body.doubtful").wait_for()
    finally:
        kernel.pulse = pulse
    page.locator("body:not(.doubtful)").wait_for()


# --- The process ------------------------------------------------------------------------------------


def test_a_port_in_use_is_reported_and_takes_nothing_else_down(kernel, tmp_path, port):
    second = FakeKernel(tmp_path, port)
    process = second.start_console()

    assert process.wait(20) == 1
    second.close()
    assert second.unfit == [
        f"console: cannot use 127.0.0.1:{port}: address already in use; set another with --set console.port=N"
    ]


def test_a_console_shares_its_address_with_the_next_one_of_its_kernel_and_with_no_other(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        options = ConsoleOptions(port=free.getsockname()[1])
    with take_address(tmp_path / "mine", options) as first:
        first.listen()
        take_address(tmp_path / "mine", options).close()
        with pytest.raises(PluginError, match="address already in use"):
            take_address(tmp_path / "another", options)


def test_an_address_of_something_else_is_not_shared(tmp_path):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PluginError, match="address already in use"):
            take_address(tmp_path, ConsoleOptions(port=other.getsockname()[1]))


@pytest.mark.parametrize("package", ["nicegui", "argon2", "uvicorn"])
def test_without_its_extra_it_says_what_to_install(package, tmp_path, port):
    code = f"""
import sys
from types import SimpleNamespace
from pathlib import Path
sys.modules[{package!r}] = None
from tickerml.ui.console import ConsoleOptions, run_console
run_console(SimpleNamespace(data_dir=Path(sys.argv[1])), ConsoleOptions(port={port}))
"""
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)

    assert "ConfigError: the console needs the extra: pip install 'tickerml[console]'" in told.stderr


def test_it_leaves_cleanly_when_asked(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kernel = FakeKernel(tmp_path, port)
    process = kernel.start_console()
    kernel.close()

    assert process.returncode == 0
