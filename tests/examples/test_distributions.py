"""The example distributions, as a stranger meets them: built, installed beside us, found, checked, run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tickerml.kernel import catalog, registry
from tickerml.kernel.plans import PluginPlan
from tickerml.testing import check
from tickerml.testing.contracts_host import RealKernel, plan_of

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("tickerml-exchange-walk", "tickerml-strategy-crossing")
PLUGINS = {"exchange-walk": "tickerml-exchange-walk", "strategy-crossing": "tickerml-strategy-crossing"}
LOCK = """
[plugin.{plugin}]
distribution = "{name}"
version = "0.1.0"
"""


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each example, built with what is installed and no network."""
    directory = tmp_path_factory.mktemp("wheels")
    built = {}
    for name in NAMES:
        source = shutil.copytree(
            EXAMPLES / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
        pip("wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(directory))
        (built[name],) = directory.glob(f"{name.replace('-', '_')}-*.whl")
    return built


@pytest.fixture(scope="session")
def home(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which both are installed, each version in a folder of its own."""
    directory = tmp_path_factory.mktemp("home")
    text = "format = 1\n"
    for plugin, name in PLUGINS.items():
        folder = directory / "plugins" / "site" / name / "0.1.0"
        pip("install", "--target", str(folder), "--no-deps", "--no-index", str(wheels[name]))
        text += LOCK.format(plugin=plugin, name=name)
    (directory / "plugins.lock").write_text(text)
    return directory


def found_in(home: Path) -> dict[str, catalog.Found]:
    return catalog.find(home, home / "plugins.lock").plugins


def test_the_catalog_finds_what_was_installed_without_importing_it(home):
    found = found_in(home)

    for plugin, name in PLUGINS.items():
        assert (found[plugin].origin, found[plugin].distribution) == ("overlay", name)
        assert (found[plugin].problem, found[plugin].version) == ("", "0.1.0")
        assert found[plugin].module not in sys.modules


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_wheel_reaches_the_tier_that_its_manifest_claims(plugin, wheels):
    report = check.run(str(wheels[PLUGINS[plugin]]))

    assert report["ok"], check.show(report)
    assert report["plugins"][0]["claimed"] == report["plugins"][0]["reached"] == "edge"


@pytest.mark.parametrize("name", NAMES)
def test_its_own_tests_pass(name):
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    plugin = ["-p", "tickerml.testing.plugin", "-k", "not test_contract"]
    done = subprocess.run(
        [*command, *plugin],
        cwd=EXAMPLES / name,
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.processes
def test_they_trade_with_each_other_in_a_real_kernel(home, tmp_path):
    found = found_in(home)
    strategy = check.subject_of(found["strategy-crossing"], found)
    plan = plan_of(strategy, speed="max")
    walk = check.subject_of(found["exchange-walk"], found, {"frames": 600})
    plan.plugins[:] = [walk.planned("market"), *[each for each in plan.plugins if each.id != "kit-source"]]

    with RealKernel(tmp_path / "home", plan) as kernel:
        report = kernel.finish()
        orders = kernel.outputs("strategy-crossing")

    assert report["failed_plugins"] == {}, report
    assert len(orders) > 1
    assert {plugin.id for plugin in plan.plugins} >= {*PLUGINS, "kit-simulator"}


def test_an_installed_spec_says_what_its_manifest_says(home):
    for plugin, found in found_in(home).items():
        if plugin in PLUGINS:
            planned: PluginPlan = check.subject_of(found, {}).planned("own")
            spec, _ = registry.load_planned(planned, "a test")
            assert [cls.__name__ for cls in spec.publishes] == found.manifest.publishes
