"""The data page in a browser: a real tape, asked of the real command; the kernel is the test's."""

import pytest

from .fake_kernel import FakeKernel
from .tapes import record

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def kernel(tmp_path_factory, port):
    home = tmp_path_factory.mktemp("home")
    record(home / "runs" / "demo" / "0001")
    record(home / "runs" / "demo" / "0002", days=2)
    kernel = FakeKernel(home, port)
    kernel.start_console()
    yield kernel
    kernel.close()


@pytest.fixture
def data_page(open_page, url):
    def go(**size):
        page = open_page(**size)
        page.goto(f"{url}/data")
        page.locator(".coverage button").first.wait_for()
        return page

    return go


def choose(page, run):
    page.locator(".coverage-head .q-select").click()
    page.get_by_role("option", name=run).click()


def test_the_newest_tape_is_shown_and_another_can_be_chosen(data_page):
    page = data_page()
    assert page.locator(".coverage tbody tr").first.locator("button").count() == 2

    choose(page, "demo/0001")
    page.locator(".coverage tbody tr").first.locator("button").nth(19).wait_for()
    page.get_by_text("3 streams").wait_for()


def test_a_day_tells_what_is_in_it_and_why_it_is_doubtful(data_page):
    page = data_page()
    choose(page, "demo/0001")
    row = page.locator(".coverage tbody tr").filter(has_text="two BTC/USDT")
    row.locator("button").nth(19).wait_for()

    assert row.locator("button.doubtful").count() == 1
    row.locator("button.doubtful").click()
    hint = page.locator(".hint")
    hint.get_by_text("book two BTC/USDT on 2024-06-06").wait_for()
    hint.get_by_text("feed lost: closed by the server").wait_for()


def test_a_phone_scrolls_the_calendar_and_not_the_page(data_page):
    page = data_page(width=390, height=844)
    choose(page, "demo/0001")
    page.locator(".coverage tbody tr").first.locator("button").nth(19).wait_for()

    assert page.evaluate("document.documentElement.scrollWidth") == 390
