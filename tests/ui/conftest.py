"""A browser on the console of a kernel; which kernel, a test module says by its own fixture `kernel`."""

import socket
from urllib.parse import urlsplit

import pytest

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def url(kernel, port):
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev group")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, chromium_sandbox=False)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def password(kernel):
    return (kernel.home / "console" / "password.txt").read_text().strip()


@pytest.fixture
def open_page(browser, url, password):
    """Open the console, signed in, in a browser of its own; every request must stay on this machine."""
    contexts, requests = [], []

    def open_page(width=1600, height=960):
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(40_000)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        page.get_by_label("Operator password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.locator(".plugin").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert len(requests) > 10
    asked = {urlsplit(each).netloc for each in requests if not each.startswith("data:")}
    assert asked == {urlsplit(url).netloc}
