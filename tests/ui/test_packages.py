"""Packages for real: pip resolves and fetches, a version lies in its folder, nothing is half-written."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from tickerml.kernel import PackageError, catalog, lock_file
from tickerml.kernel.lock_file import LockRecord
from tickerml.ui import packages
from tickerml.ui.packages import Sources

from .strangers import Stranger

OFFLINE = Sources(is_offline=True)


@pytest.fixture(autouse=True)
def no_pip_settings(monkeypatch):
    """What this machine has told pip must not matter."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def stranger(tmp_path):
    return Stranger(tmp_path / "elsewhere")


def quiet(line):
    pass


def fetch(record, home, sources=OFFLINE):
    with packages.fetched(record, home, sources, quiet) as whole:
        packages.keep(whole, home)
    return whole


def environment():
    return {one.metadata["Name"]: one.version for one in metadata.distributions()}


# --- What may be asked for ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("./nowhere", "there is no such file or folder"),
        ("gone.whl", "there is no such file or folder"),
        ("a plugin", "expected the name of a package, a folder, a wheel or a git URL"),
        ("--upgrade", "expected the name of a package"),
        ("one.py", "put a plugin that is one file into HOME/plugins"),
        ("empty", "a folder must have a pyproject.toml"),
    ],
)
def test_what_cannot_be_installed_is_refused_before_pip_is_asked(tmp_path, monkeypatch, spec, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.py").touch()
    (tmp_path / "empty").mkdir()

    with pytest.raises(PackageError, match=said):
        packages.to_pip(spec)


@pytest.mark.parametrize(
    ("spec", "is_by_name"),
    [("demo", True), ("demo>=1", True), ("/a/demo", False), ("git+https://a/b", False), ("d-1.whl", False)],
)
def test_only_a_name_is_looked_up_in_an_index(spec, is_by_name):
    assert packages.is_by_name(spec) is is_by_name


# --- Resolving and fetching -----------------------------------------------------------------------------


def test_a_name_brings_what_is_not_here_and_leaves_what_is(tmp_path, stranger):
    stranger.requires = ["msgspec", "sidecar>=1", "tickerml>=0.1"]
    sidecar = Stranger(stranger.directory, "sidecar", "1.4")
    sidecar.ids = []
    sidecar.wheel()
    stranger.wheel()
    before = environment()
    sources = Sources(is_offline=True, find_links=(str(stranger.directory),))

    record = packages.resolve("tickerml_strategy.demo", sources, quiet)
    whole = fetch(record, tmp_path, sources)

    assert (record.distribution, record.version) == ("tickerml-strategy-demo", "0.1.0")
    assert record.requirements == ["tickerml-strategy-demo==0.1.0", "sidecar==1.4"]
    folder = lock_file.folder(tmp_path, whole)
    assert {"sidecar", "tickerml_strategy_demo"} <= set(os.listdir(folder))
    assert "msgspec" not in os.listdir(folder)
    assert packages.offers(whole, tmp_path) == ["strategy-demo"]
    assert environment() == before


@pytest.mark.parametrize("where", ["wheel", "project", "repository"])
def test_a_wheel_a_folder_and_a_git_url_come_to_the_same_and_can_be_had_again_to_the_byte(
    tmp_path, stranger, where
):
    spec = str(getattr(stranger, where)())

    record = packages.resolve(spec, OFFLINE, quiet)
    whole = fetch(record, tmp_path / "one")
    again = fetch(whole, tmp_path / "two")

    assert whole.spec == spec
    assert again == whole
    assert packages.is_whole(whole, tmp_path / "two")
    assert packages.offers(whole, tmp_path / "two") == ["strategy-demo"]
    if where == "repository":
        pinned = record.requirements[0].rpartition("@")[2]
        assert len(pinned) == 40
        assert record.requirements == [f"{spec}@{pinned}"]


def test_a_folder_is_built_anew_whenever_it_is_fetched(tmp_path, stranger, monkeypatch):
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
    folder = stranger.project().rename(tmp_path / "tickerml-strategy-demo")
    fetch(packages.resolve(str(folder), OFFLINE, quiet), tmp_path / "home")
    (folder / "built" / "tickerml_strategy_demo-0.1.0-py3-none-any.whl").unlink()
    stranger.version = "0.2.0"
    stranger.project().rename(tmp_path / "again")
    for name in ("pyproject.toml", "built/tickerml_strategy_demo-0.2.0-py3-none-any.whl"):
        (tmp_path / "again" / name).rename(folder / name)

    whole = fetch(packages.resolve(str(folder), OFFLINE, quiet), tmp_path / "home")

    assert whole.version == "0.2.0"
    assert list(lock_file.folder(tmp_path / "home", whole).glob("*-0.2.0.dist-info"))


def test_a_plugin_that_needs_another_version_of_what_is_here_is_refused_with_both(tmp_path, stranger):
    stranger.requires = ["msgspec<0.1"]

    with pytest.raises(PackageError) as refused:
        packages.resolve(str(stranger.wheel()), OFFLINE, quiet)

    here = environment()["msgspec"]
    assert "tickerml-strategy-demo 0.1.0 depends on msgspec<0.1" in str(refused.value)
    assert f"installed here, and kept as it is, is msgspec=={here}" in str(refused.value)


def test_what_nobody_offers_is_refused_in_pips_words(stranger):
    stranger.requires = ["no-such-sidecar"]

    with pytest.raises(PackageError, match="satisfies the requirement no-such-sidecar"):
        packages.resolve(str(stranger.wheel()), OFFLINE, quiet)


def test_what_is_part_of_the_environment_is_not_installed_again():
    with pytest.raises(PackageError, match="cannot install msgspec: it is part of the environment"):
        packages.resolve("msgspec", OFFLINE, quiet)


# --- What is locked -------------------------------------------------------------------------------------


def test_what_is_not_what_was_locked_is_refused_and_leaves_nothing(tmp_path, stranger):
    wheel = stranger.wheel()
    whole = fetch(packages.resolve(str(wheel), OFFLINE, quiet), tmp_path / "one")
    stranger.code = "evil = True"
    stranger.wheel()

    with pytest.raises(PackageError, match=r"is not what plugins\.lock says: expected sha256"):
        fetch(whole, tmp_path / "two")

    assert list((tmp_path / "two").rglob("*.py")) == []


def test_a_folder_that_was_changed_is_no_longer_whole_and_its_compiled_files_do_not_count(tmp_path, stranger):
    whole = fetch(packages.resolve(str(stranger.wheel()), OFFLINE, quiet), tmp_path)
    module = lock_file.folder(tmp_path, whole) / "tickerml_strategy_demo"
    (module / "__pycache__").mkdir(exist_ok=True)
    (module / "__pycache__" / "x.pyc").write_bytes(b"1")

    assert packages.is_whole(whole, tmp_path)
    (module / "__init__.py").write_text("1")
    assert not packages.is_whole(whole, tmp_path)


# --- Interrupted ----------------------------------------------------------------------------------------


def test_what_is_fetched_and_not_kept_is_gone(tmp_path, stranger):
    record = packages.resolve(str(stranger.wheel()), OFFLINE, quiet)

    with packages.fetched(record, tmp_path, OFFLINE, quiet) as whole:
        assert packages.offers(packages.unfinished(whole), tmp_path) == ["strategy-demo"]

    assert list(packages.site(tmp_path).iterdir()) == []


def test_what_is_kept_before_an_error_is_gone_unless_it_was_there_before(tmp_path, stranger):
    record = packages.resolve(str(stranger.wheel()), OFFLINE, quiet)

    def fail():
        with packages.fetched(record, tmp_path, OFFLINE, quiet) as whole:
            packages.keep(whole, tmp_path)
            raise PackageError("no")

    with pytest.raises(PackageError, match="no"):
        fail()
    assert list(packages.site(tmp_path).iterdir()) == []

    lock_file.folder(tmp_path, record).mkdir(parents=True)
    with pytest.raises(PackageError, match="no"):
        fail()
    assert packages.offers(record, tmp_path) == ["strategy-demo"]


CONFIG = """\
# mine
format = 1
[profile.demo]
plugins = []
"""


def tickerml(home: Path, config: Path, *arguments: str) -> list[str]:
    common = ["--home", str(home), "--config", str(config), "--offline", "--yes", "--json"]
    return [sys.executable, "-m", "tickerml.ui.cli", "plugin", *arguments, *common]


def has_happened(moment: str, home: Path, config: Path) -> bool:
    if moment == "locked":
        return (config.parent / "plugins.lock").exists()
    wanted = "*/*.new/*" if moment == "fetched" else "*/0.1.0"
    with contextlib.suppress(FileNotFoundError):  # a folder that was moved meanwhile
        return any(packages.site(home).glob(wanted))
    return False


@pytest.mark.parametrize("moment", ["fetched", "kept", "locked"])
def test_an_install_that_is_killed_leaves_nothing_half_written(tmp_path, stranger, moment):
    home, config = tmp_path / "home", tmp_path / "plugins.toml"
    config.write_text(CONFIG)
    command = tickerml(home, config, "install", str(stranger.wheel()))
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    while process.poll() is None and not has_happened(moment, home, config):
        time.sleep(0.002)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    is_locked, is_named = (config.parent / "plugins.lock").exists(), "strategy-demo" in config.read_text()
    there = catalog.find(home, config.parent / "plugins.lock").plugins
    done = subprocess.run(command, capture_output=True, text=True)
    answer = json.loads(done.stdout)

    assert ("strategy-demo" in there) is is_locked
    if is_locked:  # the next command has done what was left
        assert (done.returncode, "is installed already" in answer["error"]) == (1, True)
    else:
        assert not is_named
        assert (done.returncode, answer["installed"]) == (0, ["strategy-demo"])
    assert config.read_text().startswith(CONFIG)
    assert "[plugin.strategy-demo]" in config.read_text()
    assert [path.name for path in packages.site(home).glob("*/*")] == ["0.1.0"]
    assert [path.name for path in tmp_path.iterdir() if "staged" in path.name] == []


def test_leftovers_are_swept_and_what_is_used_is_not(tmp_path):
    for name in ("demo/1.new", "demo/1"):
        (packages.site(tmp_path) / name).mkdir(parents=True)

    packages.sweep(tmp_path)

    assert [path.name for path in packages.site(tmp_path).glob("*/*")] == ["1"]
    packages.remove(tmp_path, LockRecord(distribution="demo", version="1"))
    assert list(packages.site(tmp_path).iterdir()) == []
