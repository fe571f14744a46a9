"""`plugin new` writes a package of any kind whose own tests pass at once, and refuses what is no name."""

import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tickerml.kernel import ConfigError, manifest
from tickerml.kernel.hookspecs import SHAPES
from tickerml.testing import scaffold

#: Left to the tests of the examples: they start processes, or run the plugin many times over.
SLOW = "kill or process or stays or reloads or closes or hashseed or clock or memory or p99 or shows"


@pytest.fixture(params=SHAPES)
def project(request, tmp_path):
    scaffold.create(request.param, "first-try", tmp_path)
    (folder,) = tmp_path.iterdir()
    return folder


@pytest.fixture(scope="module")
def own_tests(tmp_path_factory):
    """What came of the tests of a new package of each kind: as many at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {kind: pool.submit(run_own_tests, kind, tmp_path_factory.mktemp(kind)) for kind in SHAPES}
        pool.shutdown(cancel_futures=True)


def run_own_tests(kind, directory):
    scaffold.create(kind, "first-try", directory)
    (project,) = directory.iterdir()
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    plugin = [] if "tickerml" in plugins_of_pytest() else ["-p", "tickerml.testing.plugin"]
    return subprocess.run(
        [*command, *plugin, "-k", f"not ({SLOW})"], cwd=project, capture_output=True, text=True
    )


@pytest.mark.parametrize("kind", SHAPES)
def test_what_is_new_passes_its_own_tests_and_with_them_the_checks_of_the_kit(kind, own_tests):
    done = own_tests[kind].result()

    assert done.returncode == 0, done.stdout


def plugins_of_pytest():
    from importlib.metadata import entry_points

    return {entry.name for entry in entry_points(group="pytest11")}


def test_the_files_of_a_new_package_have_no_word_left_open(project):
    texts = [
        path.read_text() for path in project.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]

    assert [text for text in texts if "{{" in text.replace("${{", "")] == []
    assert {"pyproject.toml", "README.md", ".github", "src", "tests"} <= {
        path.name for path in project.iterdir()
    }


def test_the_project_file_and_the_manifest_name_the_same_plugin(project):
    said = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    ((plugin, module),) = said["entry-points"]["tickerml.plugins"].items()

    assert said["name"] == f"tickerml-{plugin}" == project.name
    assert list(manifest.check(project / "src" / module / manifest.FILE_NAME)) == [plugin]


def test_what_is_new_is_clean_to_the_linter(project):
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "F,I,B,UP,SIM,RUF,PT,PIE", "."]
    done = subprocess.run(ruff, cwd=project, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "name", ["", "Demo", "my_plugin", "-x", "x-", "9lives", "a--b", "../etc", "x" * 41, "class"]
)
def test_refuses_what_is_no_name(name, tmp_path):
    with pytest.raises(ConfigError, match=r"^name: .* was '|is a word of Python"):
        scaffold.create("strategy", name, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_refuses_a_kind_that_there_is_not_and_says_which_is_close(tmp_path):
    with pytest.raises(ConfigError, match="no kind 'stratgy'; did you mean 'strategy'"):
        scaffold.create("stratgy", "demo", tmp_path)


def test_never_writes_over_what_is_there(tmp_path):
    (tmp_path / "tickerml-sink-demo").mkdir()

    with pytest.raises(ConfigError, match="is there already"):
        scaffold.create("sink", "demo", tmp_path)

    assert list((tmp_path / "tickerml-sink-demo").iterdir()) == []


def test_returns_the_files_it_wrote_and_takes_a_kind_with_a_dash(tmp_path):
    files = scaffold.create("risk-rule", "demo", tmp_path)

    assert tmp_path / "tickerml-risk-rule-demo" / "src" / "tickerml_risk_rule_demo" / "__init__.py" in files
    assert all(path.is_file() for path in files)
