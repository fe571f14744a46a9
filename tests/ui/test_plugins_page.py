"""The plugins page in a browser: real console, real catalog, real plugins.toml; the kernel is the test's."""

import json
import time
import tomllib

import pytest

from tickerml.kernel import control
from tickerml.kernel.lock_file import read as read_lock
from tickerml.ui import changes, installing, packages
from tickerml.ui.installing import Dialog

from .fake_kernel import FakeKernel
from .strangers import Stranger, pretend_pip

pytestmark = pytest.mark.browser

BROKEN = """\
# /// tickerml-plugin
# format = 1
# [plugin.strategy-broken]
# kinds = ["strateggy"]
# api = ">=1.0,<2"
# ///
raise SystemExit("imported")
"""
DIFFERENT = "different: strategy-imbalance because of seq 7: <img src=x onerror=alert(1)>, now Buy"


def install(directory, home):
    """Install a stranger's plugin in two versions, the newer one current."""
    stranger = Stranger(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "_pip", pretend_pip(directory))
        at = changes.Turn(home, home / "plugins.toml", None)
        for version, deed in (("0.1.0", installing.install), ("0.2.0", None)):
            stranger.version = version
            spec = str(stranger.wheel())
            dialog = Dialog(lambda question, lines: None)
            if deed:
                deed(at, spec, dialog)
            else:
                installing.upgrade(at, "strategy-demo", dialog, origin=spec)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory, port):
    home = tmp_path_factory.mktemp("home")
    kernel = FakeKernel(home, port)
    (home / "plugins").mkdir(exist_ok=True)
    (home / "plugins" / "broken.py").write_text(BROKEN)
    install(tmp_path_factory.mktemp("wheels"), home)
    (home / "logs").mkdir()
    (home / "logs" / "trade.log").write_text(
        '{"plugin": "strategy-imbalance", "event": "order.sent", "level": "info", "size": 2}\n'
        '{"plugin": "risk-limits", "event": "order.denied", "level": "warning"}\n'
    )
    kernel.start_console()
    yield kernel
    kernel.close()


@pytest.fixture
def page(kernel, open_page, url):
    kernel.requests.clear()
    kernel.is_quick, kernel.change = True, None
    page = open_page()
    page.goto(f"{url}/plugins")
    page.locator(".entry").first.wait_for()
    return page


def entry(page, plugin):
    return page.locator(".entry").filter(has=page.get_by_role("button", name=plugin, exact=True))


def open_panel(page, plugin):
    page.get_by_role("button", name=plugin, exact=True).click()
    page.get_by_role("heading", name=plugin).wait_for()


def wait_for_request(kernel, kind=control.ChangeRequest):
    """Return the request of *kind* that comes; the console asks in a thread of its own."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := [each for each in kernel.requests if isinstance(each, kind)]:
            return found[-1]
        time.sleep(0.05)
    raise AssertionError(f"no {kind.__name__}")


# --- What it shows ----------------------------------------------------------------------------------


def test_every_plugin_is_listed_with_its_cost_and_a_broken_one_with_the_reason(page):
    text = entry(page, "strategy-broken").inner_text()
    assert "blocked" in text
    assert "'strateggy' is no kind; did you mean 'strategy'?" in text

    page.locator(".host", has_text="trade").get_by_text("42 MB").wait_for()  # 41.5
    page.locator(".host", has_text="trade").get_by_text("10.0 %").wait_for()
    entry(page, "strategy-imbalance").get_by_text("50 out").wait_for()
    entry(page, "sim-fifo").wait_for()


def test_a_panel_shows_permissions_log_and_manifest(page):
    open_panel(page, "strategy-imbalance")
    page.get_by_text("risk-limits", exact=True).last.wait_for()

    page.get_by_role("tab", name="Permissions").click()
    page.locator(".granted", has_text="SubmitOrder").wait_for()
    page.get_by_role("tab", name="Log").click()
    page.get_by_text("order.sent size=2").wait_for()
    assert page.get_by_text("order.denied").count() == 0
    page.get_by_role("tab", name="Manifest").click()
    page.get_by_text('kinds = ["strategy"]').wait_for()


def test_what_is_written_to_the_log_appears(page, kernel):
    open_panel(page, "strategy-imbalance")
    page.get_by_role("tab", name="Log").click()
    page.get_by_text("order.sent size=2").wait_for()
    with (kernel.home / "logs" / "trade.log").open("a") as log:
        log.write('{"plugin": "strategy-imbalance", "event": "a.new_line", "level": "info"}\n')

    page.get_by_text("a.new_line").wait_for()


def test_on_a_phone_a_panel_takes_the_place_of_the_list(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    open_panel(page, "risk-limits")

    page.locator(".listing").wait_for(state="hidden")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="Close").click()
    page.locator(".listing").wait_for()


def test_diagnostics_are_one_file_without_secrets(page):
    open_panel(page, "strategy-imbalance")
    with page.expect_download() as download:
        page.locator("a[download]").click()

    assert download.value.suggested_filename == "tickerml-strategy-imbalance-diagnostics.json"
    told = json.loads(download.value.path().read_text())
    assert told["told"] == {"orders": 3, "api_key": "(left out)"}
    assert told["status"]["state"] == "active"
    assert told["found"]["manifest"]["kinds"] == ["strategy"]
    assert len(told["log"]) >= 1


def test_without_a_session_there_is_only_the_way_to_sign_in(browser, url):
    context = browser.new_context()
    assert context.new_page().goto(f"{url}/plugins/sim-fifo").url.endswith("/login")
    assert context.request.get(f"{url}/api/v1/plugins/sim-fifo/diagnostics").status == 401
    context.close()


# --- Its options ------------------------------------------------------------------------------------


def test_the_form_is_made_from_the_options_and_changes_them_by_a_swap(page, kernel):
    open_panel(page, "strategy-imbalance")
    enter = page.get_by_label("enter", exact=True)
    enter.wait_for()
    assert (enter.input_value(), enter.is_disabled()) == ("0.4", False)
    for name, by in (("exit", "set by profile demo"), ("take", "set by --set")):
        assert page.get_by_label(name, exact=True).is_disabled()
        page.get_by_text(by).wait_for()

    enter.fill("2")
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("enter: expected at least 0, at most 1, was 2").wait_for()
    assert kernel.requests == []

    enter.fill("0.5")
    page.get_by_label("Shadow").fill("90")
    page.get_by_label("Probation").fill("5s")
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("strategy-imbalance: configured.").wait_for()
    (request,) = kernel.requests
    assert (request.reason, request.shadow_s, request.probation_s) == (
        "set enter of strategy-imbalance",
        90.0,
        5.0,
    )
    assert tomllib.loads(kernel.config.read_text())["plugin"]["strategy-imbalance"]["options"] == {
        "enter": 0.5
    }


def test_a_plugin_that_cannot_be_loaded_says_so_where_its_options_were(page):
    open_panel(page, "strategy-broken")
    page.get_by_text("It cannot be loaded:").wait_for()


# --- What it does -----------------------------------------------------------------------------------


def test_a_change_is_followed_from_shadow_to_its_end(page, kernel):
    kernel.is_quick = False
    open_panel(page, "strategy-imbalance")
    page.get_by_role("button", name="Reload").click()
    assert wait_for_request(kernel).reload == ["trade"]
    counts = {"equal": 1200, "different": 1, "only_old": 0, "only_new": 0, "examples": [DIFFERENT]}
    kernel.go("shadow", left_s=50.0, shadow=counts)

    strip = page.get_by_role("status", name="Change of plugins")
    strip.get_by_text("1,200 equal").wait_for()
    strip.get_by_text("50 s left").wait_for()
    strip.get_by_text("Examples of what differs").click()
    strip.get_by_text(DIFFERENT).wait_for()
    page.get_by_role("button", name="Take over now").click()
    wait_for_request(kernel, control.SettleRequest)
    strip.locator("[aria-current]", has_text="probation").wait_for()
    kernel.go("ended", outcome="permanent", gap_ms=0.4)

    strip.get_by_text("It is permanent; its outputs paused for 0.4 ms.").wait_for()
    page.get_by_text("strategy-imbalance: reloaded.").wait_for()
    page.get_by_role("button", name="Hide").click()
    strip.wait_for(state="detached")


def test_a_change_can_be_canceled_and_the_reason_stays(page, kernel):
    kernel.is_quick = False
    page.get_by_role("switch", name="exchange-synthetic enabled").click()
    wait_for_request(kernel)
    page.get_by_role("button", name="Cancel", exact=True).click()

    page.get_by_text(
        "disable exchange-synthetic: rolled back at starting: canceled by the operator"
    ).wait_for()
    page.locator(".steps .failed", has_text="rolled back").wait_for()
    page.locator('[aria-label="exchange-synthetic enabled"][aria-checked="true"]').wait_for()


def test_a_risk_rule_is_not_touched_before_a_person_has_said_so(page, kernel):
    open_panel(page, "risk-limits")
    page.get_by_role("button", name="Reload").click()
    page.get_by_text("Reload risk-limits?").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Reload risk-limits?").wait_for(state="detached")
    assert kernel.requests == []


def test_what_is_refused_is_shown_as_it_is(page, kernel):
    page.get_by_role("switch", name="strategy-broken enabled").click()

    page.get_by_text("strategy-broken cannot be enabled:").wait_for()
    assert kernel.requests == []


def test_a_plugin_goes_back_to_the_version_before_and_every_page_shows_it(page, open_page, url, kernel):
    other = open_page()
    other.goto(f"{url}/plugins/strategy-demo")
    other.get_by_role("button", name="Roll back to 0.1.0").wait_for()
    open_panel(page, "strategy-demo")
    page.get_by_role("tab", name="Versions").click()
    page.get_by_text("0.2.0").first.wait_for()
    page.get_by_role("button", name="Roll back to 0.1.0").click()

    page.get_by_text("strategy-demo: rolled back.").wait_for()
    assert read_lock(kernel.home / "plugins.lock")["strategy-demo"].version == "0.1.0"
    entry(page, "strategy-demo").get_by_text("0.1.0").wait_for()
    for each in (page, other):
        each.get_by_role("button", name="Roll back to 0.1.0").wait_for(state="detached")


def test_a_page_whose_session_has_ended_changes_nothing(page, open_page, kernel):
    other = open_page()
    other.get_by_role("button", name="Sign out everywhere").click()
    other.get_by_label("Operator password").wait_for()

    page.get_by_role("switch", name="exchange-synthetic enabled").click()
    page.get_by_label("Operator password").wait_for()
    assert kernel.requests == []


def test_when_the_console_is_replaced_the_page_comes_back_by_itself(page, kernel):
    open_panel(page, "risk-limits")
    page.get_by_role("tab", name="Permissions").click()
    before = kernel.process
    kernel.start_console()
    with page.expect_navigation():
        before.terminate()
        before.communicate(timeout=20)

    page.get_by_role("heading", name="risk-limits").wait_for()
    assert before.returncode == 0
