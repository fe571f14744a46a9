"""What every test shares: which tests may be left out, how hypothesis searches, and quiet logs."""

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

CHROMIUM = Path("/usr/bin/chromium")
REQUIRE_BROWSER = "TICKERML_REQUIRE_BROWSER"  # set to 1 where no browser test may be left out, as in CI

# A busy machine must not fail a property for being slow; CI draws the same examples every time.
hypothesis.settings.register_profile(
    "desk", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "ci", parent=hypothesis.settings.get_profile("desk"), derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "desk")

# The default renderer draws each traceback with its locals, which takes longer than most tests.
structlog.configure(processors=[structlog.processors.KeyValueRenderer(key_order=["event"])])


# A run begun with nohup ignores hangups. The processes under test must not: a handler is not inherited.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)

# What make runs in the background has Ctrl-C ignored, and so would the processes under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_path() -> Iterator[None]:
    """Let no test see the packages that another had loaded from a folder of their own."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Let no test write its log as another had it set up."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs the browser where there is none."""
    if item.get_closest_marker("browser") and not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a browser test, for whatever reason, into a failure where none may be left out."""
    report = yield
    if report.skipped and item.get_closest_marker("browser") and os.environ.get(REQUIRE_BROWSER) == "1":
        report.outcome = "failed"
        report.longrepr = f"{REQUIRE_BROWSER}=1 and this browser test was left out: {report.longrepr}"
    return report
