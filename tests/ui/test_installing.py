"""Plugins come, change and go: each deed happens in full, or leaves everything as it was."""

import os
import tomllib

import pytest

from tickerml.kernel import ChangeRolledBack, ConfigError, KernelUnreachable, PackageError, lock_file
from tickerml.ui import changes, installing, packages
from tickerml.ui.installing import Dialog

from .changing_kernel import ChangingKernel
from .strangers import Stranger, pretend_pip

TOML = """\
# mine
format = 1
[profile.demo]
plugins = ["features-core"]
[plugin.features-core]
host = "trade"
"""
ID = "strategy-demo"


class Desk:
    """A home, its plugins.toml, a shelf of wheels, and somebody who says yes or no."""

    def __init__(self, directory):
        self.home, self.config = directory / "home", directory / "plugins.toml"
        self.config.write_text(TOML)
        self.shelf = directory / "shelf"
        self.asked, self.answer = [], True
        self.stranger = Stranger(self.shelf)

    def ask(self, question, lines):
        self.asked += [question, *lines]
        if not self.answer:
            raise PackageError("nothing was changed")

    def do(self, deed, *arguments, **how):
        with changes.turn(self.home, self.config) as at:
            return deed(at, *arguments, Dialog(self.ask), **how)

    def install(self, version="0.1.0", **how):
        self.stranger.version = version
        return self.do(installing.install, str(self.stranger.wheel()), **how)

    def upgrade(self, version, **how):
        self.stranger.version = version
        return self.do(installing.upgrade, ID, origin=str(self.stranger.wheel()), **how)

    def locked(self):
        return lock_file.read(self.config.with_name("plugins.lock"))

    def toml(self):
        return tomllib.loads(self.config.read_text())

    def folders(self):
        return sorted(path.name for path in packages.site(self.home).glob("*/*"))

    def found(self):
        return changes.catalog_of(self.home, self.config).plugins[ID]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    desk = Desk(tmp_path)
    monkeypatch.setattr(packages, "_pip", pretend_pip(desk.shelf))
    return desk


@pytest.fixture
def kernel(desk):
    kernel = ChangingKernel(desk.home, desk.config, running=(ID,))
    yield kernel
    kernel.close()


# --- Installing -----------------------------------------------------------------------------------------


def test_what_is_installed_is_disabled_locked_and_in_no_profile(desk):
    answer = desk.install()

    assert answer == {"installed": [ID], "distribution": "tickerml-strategy-demo", "version": "0.1.0"}
    assert desk.toml()["plugin"][ID] == {"enabled": False, "host": "own"}
    assert desk.toml()["profile"]["demo"]["plugins"] == ["features-core"]
    assert desk.config.read_text().startswith(TOML)
    assert "# publishes = []" in desk.config.read_text()
    entry = desk.locked()[ID]
    assert (entry.version, len(entry.sha256), len(entry.manifest_sha256)) == ("0.1.0", 64, 64)
    assert (desk.found().problem, desk.found().origin) == ("", "overlay")


def test_what_it_asks_for_is_shown_first_and_its_secrets_are_granted_by_a_yes(desk):
    desk.stranger.manifest += (
        "publishes = ['SubmitOrder']\nsecrets = ['api-key']\nnetwork = ['example.org']\nnative = true\n"
    )

    desk.install()

    assert desk.asked[0] == "Install strategy-demo 0.1.0?"
    assert "strategy-demo 0.1.0, strategy: does nothing" in desk.asked
    for line in (
        "publishes: SubmitOrder",
        "secrets: api-key",
        "network: example.org",
        "brings compiled code",
    ):
        assert any(line in said for said in desk.asked)
    assert desk.toml()["plugin"][ID]["secrets"] == ["api-key"]
    assert '# publishes = ["SubmitOrder"]' in desk.config.read_text()


def test_a_no_leaves_nothing(desk):
    desk.answer = False

    with pytest.raises(PackageError, match="nothing was changed"):
        desk.install()

    assert (desk.folders(), desk.config.read_text(), desk.locked()) == ([], TOML, {})


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("", "no tickerml-plugin.toml with"),
        ("kinds = ['strateggy']\napi = '>=1.0,<2'\n", "'strateggy' is no kind; did you mean 'strategy'"),
        ("kinds = ['strategy']\napi = '>=7'\n", "the plugin needs >=7"),
    ],
)
def test_a_package_without_a_manifest_that_holds_is_refused_and_removed(desk, manifest, said):
    desk.stranger.manifest = manifest

    with pytest.raises(PackageError, match=said) as refused:
        desk.install()

    assert "0.1.0.new" not in str(refused.value)
    assert (desk.folders(), desk.config.read_text()) == ([], TOML)


def test_a_package_that_offers_nothing_is_no_plugin(desk):
    desk.stranger.ids = []

    with pytest.raises(
        PackageError, match=r"tickerml-strategy-demo 0\.1\.0 is no plugin: it has no entry point"
    ):
        desk.install()


@pytest.mark.parametrize("taken", ["features-core", ID])
def test_an_id_is_taken_once(desk, taken):
    if taken == ID:
        desk.install()
    desk.stranger = Stranger(desk.shelf, "tickerml-strategy-other")
    desk.stranger.ids = [taken]

    with pytest.raises(PackageError, match=f"2 plugins have this id|has a plugin {taken} already"):
        desk.install()


def test_what_is_installed_is_upgraded_and_not_installed_again(desk):
    desk.install()

    with pytest.raises(
        PackageError, match="is installed already; see `tickerml plugin upgrade strategy-demo`"
    ):
        desk.install("0.2.0")


def test_a_project_is_used_where_it_lies(desk):
    project = desk.stranger.project()

    desk.do(installing.install, str(project), in_place=True)

    assert desk.locked()[ID].path == str(project)
    assert (desk.found().problem, desk.found().paths) == ("", [str(project)])
    with pytest.raises(PackageError, match=r"is used where it lies.*`tickerml plugin reload` takes"):
        desk.do(installing.upgrade, ID)
    desk.do(installing.uninstall, ID)
    assert (project / "pyproject.toml").exists()


def test_a_folder_without_a_project_cannot_be_used_in_place(desk, tmp_path):
    with pytest.raises(PackageError, match=r"expected a folder whose pyproject\.toml has a \[project\]"):
        desk.do(installing.install, str(tmp_path), in_place=True)


# --- Switching on and off -------------------------------------------------------------------------------


def test_a_plugin_is_enabled_in_the_only_profile_or_in_the_one_that_is_named(desk):
    desk.install()

    assert desk.do(installing.enable, ID) == {"plugin": ID, "enabled": True, "live": False}
    assert desk.toml()["profile"]["demo"]["plugins"] == ["features-core", ID]
    assert desk.toml()["plugin"][ID]["enabled"] is True

    desk.do(installing.disable, ID)
    assert desk.toml()["plugin"][ID]["enabled"] is False
    desk.do(installing.disable, ID, profile="demo")
    assert desk.toml()["profile"]["demo"]["plugins"] == ["features-core"]


def test_where_there_are_several_profiles_one_must_be_named(desk):
    desk.install()
    desk.config.write_text(desk.config.read_text() + "[profile.late]\nplugins = []\n")

    with pytest.raises(
        ConfigError, match="strategy-demo is in no profile; name one with --profile: demo, late"
    ):
        desk.do(installing.enable, ID)


def test_a_broken_plugin_is_not_enabled(desk):
    desk.install()
    (manifest,) = packages.site(desk.home).rglob("tickerml-plugin.toml")
    manifest.write_text("format = 1")

    with pytest.raises(
        PackageError, match="is not the manifest that was installed; `tickerml plugin sync` restores it"
    ):
        desk.do(installing.enable, ID)


def test_what_there_is_not_is_named(desk):
    for deed in (installing.enable, installing.disable, installing.uninstall):
        with pytest.raises(ConfigError, match="there is no plugin 'nosuch'; see `tickerml plugin list`"):
            desk.do(deed, "nosuch")


def test_a_running_kernel_takes_the_plugin_in_at_once(desk, kernel):
    desk.install()
    assert kernel.requests == []

    answer = desk.do(installing.enable, ID)

    assert answer == {"plugin": ID, "enabled": True, "live": True, "change": 1, "gap_ms": 1.5}
    assert sorted(kernel.plan.hosts()) == [ID, "trade"]
    (planned,) = kernel.plan.hosts()[ID]
    assert planned.paths == [str(lock_file.folder(desk.home, desk.locked()[ID]))]


@pytest.mark.parametrize("state", ["failed", "quarantined", "stopped", None])
def test_a_plugin_that_is_down_is_started_again_by_enabling_it(desk, kernel, state):
    desk.install()
    desk.do(installing.enable, ID)
    kernel.states[ID] = "active"
    desk.do(installing.enable, ID)
    assert len(kernel.requests) == 1
    kernel.states[ID] = state

    desk.do(installing.enable, ID)

    assert kernel.requests[1].reload == [ID]


def test_a_plugin_is_reloaded_by_its_host(desk, kernel):
    desk.install()
    with pytest.raises(PackageError, match="does not run, so it cannot be reloaded: profile demo has none"):
        desk.do(installing.reload, ID)
    desk.do(installing.enable, ID)
    desk.do(installing.reload, "features-core")

    assert (kernel.requests[-1].reload, kernel.requests[-1].files) == (["trade"], {})


def test_without_a_kernel_nothing_can_be_reloaded(desk):
    with pytest.raises(KernelUnreachable, match="no kernel runs on"):
        desk.do(installing.reload, "features-core")


# --- Upgrading and going back ---------------------------------------------------------------------------


def test_an_upgrade_keeps_the_version_before_beside_the_new_one(desk):
    desk.install()

    answer = desk.upgrade("0.2.0")

    assert answer == {"plugin": ID, "upgraded": True, "from": "0.1.0", "version": "0.2.0", "live": False}
    assert desk.folders() == ["0.1.0", "0.2.0"]
    assert desk.locked()[ID].history[0].version == "0.1.0"
    assert desk.found().version == "0.2.0"


def test_to_go_back_is_to_have_the_version_before_and_to_forget_the_other(desk):
    desk.install()
    desk.upgrade("0.2.0")

    answer = desk.do(installing.rollback, ID)

    assert answer == {"plugin": ID, "from": "0.2.0", "version": "0.1.0", "live": False}
    assert (desk.folders(), desk.found().version, desk.locked()[ID].history) == (["0.1.0"], "0.1.0", [])
    with pytest.raises(PackageError, match=r"strategy-demo 0\.1\.0 is the only version there was"):
        desk.do(installing.rollback, ID)


def test_a_version_to_go_back_to_is_fetched_again_where_its_folder_is_gone(desk):
    desk.install()
    desk.upgrade("0.2.0")
    packages.remove(desk.home, desk.locked()[ID].history[0])

    desk.do(installing.rollback, ID)

    assert (desk.folders(), desk.found().problem) == (["0.1.0"], "")


def test_a_name_is_upgraded_to_the_newest_that_plugins_toml_wants(desk):
    for version in ("0.1.0", "0.2.0"):
        desk.stranger.version = version
        desk.stranger.wheel()
    desk.do(installing.install, "tickerml-strategy-demo==0.1.0")

    assert desk.do(installing.upgrade, ID)["version"] == "0.2.0"
    assert desk.do(installing.upgrade, ID)["upgraded"] is False
    assert desk.do(installing.upgrade, ID, to="0.1.0")["version"] == "0.1.0"

    desk.config.write_text(desk.config.read_text().replace('host = "own"', 'host = "own"\nversion = "<0.2"'))
    with pytest.raises(PackageError, match=r"plugins.toml wants version <0\.2, asked for is 0\.2\.0"):
        desk.do(installing.upgrade, ID, to="0.2.0")
    with pytest.raises(
        PackageError, match=r"plugins.toml wants version <0\.2 of strategy-demo, this is 0\.3"
    ):
        desk.upgrade("0.3.0")


def test_the_same_version_is_no_upgrade(desk):
    desk.install()

    with pytest.raises(
        PackageError, match=r"is version 0\.1\.0, which is installed already; give it another"
    ):
        desk.upgrade("0.1.0")


def test_a_plugin_that_wants_more_than_before_has_to_ask(desk):
    desk.install()
    desk.stranger.manifest += "publishes = ['SubmitOrder']\n"
    desk.asked.clear()
    desk.answer = False

    with pytest.raises(PackageError, match="nothing was changed"):
        desk.upgrade("0.2.0")

    assert desk.asked == ["strategy-demo 0.2.0 asks for more than before. Go on?", "  publishes: SubmitOrder"]
    assert (desk.folders(), desk.found().version) == (["0.1.0"], "0.1.0")


def test_what_is_not_ours_to_change_is_left(desk):
    for deed in (installing.upgrade, installing.rollback):
        with pytest.raises(
            PackageError, match="features-core was not installed by `tickerml plugin install`"
        ):
            desk.do(deed, "features-core")
    with pytest.raises(PackageError, match="is part of TickerML; `tickerml plugin disable features-core`"):
        desk.do(installing.uninstall, "features-core")


def test_a_new_version_that_no_longer_brings_a_plugin_is_refused(desk):
    desk.stranger.ids = [ID, "strategy-more"]
    desk.stranger.code = "x = 1"
    desk.install()
    desk.stranger.ids = [ID]

    with pytest.raises(PackageError, match="the new version no longer brings strategy-more"):
        desk.upgrade("0.2.0")


def test_plugins_that_come_together_change_and_go_together(desk):
    desk.stranger.ids = [ID, "strategy-more"]
    desk.install()
    desk.upgrade("0.2.0")
    assert {entry.version for entry in desk.locked().values()} == {"0.2.0"}

    desk.stranger.ids = [ID, "strategy-more", "strategy-third"]
    desk.upgrade("0.3.0")
    desk.do(installing.rollback, "strategy-more")

    assert {plugin: entry.version for plugin, entry in desk.locked().items()} == {
        ID: "0.2.0",
        "strategy-more": "0.2.0",
    }
    assert "strategy-third" not in desk.toml()["plugin"]
    assert desk.do(installing.uninstall, ID)["uninstalled"] == [ID, "strategy-more"]
    assert desk.folders() == []


def test_an_upgrade_of_what_runs_is_a_swap(desk, kernel):
    desk.install()
    desk.do(installing.enable, ID)
    kernel.shadow = {"seconds": 60, "equal": 5, "different": 0, "only_old": 0, "only_new": 0, "examples": []}

    answer = desk.upgrade("0.2.0", pace=changes.Pace(60, 10))

    request = kernel.requests[-1]
    assert (request.shadow_s, request.probation_s) == (60, 10)
    assert [plan.version for plan in request.plan.plugins if plan.id == ID] == ["0.2.0"]
    assert [os.path.basename(target) for target in request.files.values()] == ["plugins.lock"]
    assert (answer["live"], answer["shadow"]) == (True, kernel.shadow)
    assert desk.found().version == "0.2.0"


def test_an_upgrade_that_is_rolled_back_leaves_everything_as_it_was(desk, kernel):
    desk.install()
    desk.do(installing.enable, ID)
    before = (desk.config.read_text(), desk.locked(), desk.folders())
    kernel.error = "strategy-demo failed at import: ValueError: no"

    with pytest.raises(
        ChangeRolledBack, match="failed at import: ValueError: no; everything is as it was before"
    ):
        desk.upgrade("0.2.0")

    assert (desk.config.read_text(), desk.locked(), desk.folders()) == before


# --- Going ----------------------------------------------------------------------------------------------


def test_an_uninstalled_plugin_leaves_its_options_as_comments_and_nothing_else(desk, kernel):
    desk.install()
    desk.do(installing.enable, ID)
    desk.config.write_text(desk.config.read_text() + "[plugin.strategy-demo.options]\nsize = 3\n")
    desk.upgrade("0.2.0")

    answer = desk.do(installing.uninstall, ID)

    assert (answer["uninstalled"], answer["live"]) == ([ID], True)
    assert "strategy-demo runs now, and will be stopped." in desk.asked
    assert sorted(kernel.plan.hosts()) == ["trade"]
    assert (desk.folders(), desk.locked()) == ([], {})
    assert "# [plugin.strategy-demo.options]\n# size = 3\n" in desk.config.read_text()
    assert desk.toml()["profile"]["demo"]["plugins"] == ["features-core"]


def test_what_another_plugin_needs_is_not_uninstalled(desk):
    desk.install()
    other = Stranger(desk.shelf, "tickerml-strategy-other")
    other.manifest += f"requires = ['{ID}']\n"
    desk.do(installing.install, str(other.wheel()))
    desk.do(installing.enable, ID)
    desk.do(installing.enable, "strategy-other")

    with pytest.raises(
        PackageError, match="strategy-other needs strategy-demo; uninstall or disable that first"
    ):
        desk.do(installing.uninstall, ID)

    desk.do(installing.disable, "strategy-other")
    desk.do(installing.uninstall, ID)
    assert desk.folders() == ["0.1.0"]


def test_a_file_in_the_folder_is_deleted_by_its_owner(desk):
    folder = desk.home / "plugins"
    folder.mkdir(parents=True)
    told = [
        "/// tickerml-plugin",
        "format = 1",
        "[plugin.strategy-mine]",
        "kinds = ['strategy']",
        "api = '>=1'",
        "///",
    ]
    (folder / "mine.py").write_text("".join(f"# {line}\n" for line in told))

    with pytest.raises(PackageError, match=r"strategy-mine is a file of yours: delete .*mine\.py"):
        desk.do(installing.uninstall, "strategy-mine")


# --- A fresh machine ------------------------------------------------------------------------------------


def test_a_fresh_home_is_made_equal_to_the_lock(desk, tmp_path):
    desk.install()
    desk.upgrade("0.2.0")
    was = desk.found()
    desk.home = tmp_path / "fresh"
    assert "`tickerml plugin sync` installs" in desk.found().problem

    assert desk.do(installing.sync, is_frozen=True) == {
        "restored": ["tickerml-strategy-demo 0.2.0"],
        "kept": 0,
        "differences": [],
    }
    assert (desk.found().version, desk.found().problem) == (was.version, "")
    assert desk.do(installing.sync)["kept"] == 1


def test_a_damaged_folder_is_restored(desk):
    desk.install()
    (module,) = packages.site(desk.home).rglob("__init__.py")
    text = module.read_text()
    module.write_text("damaged")

    assert desk.do(installing.sync)["restored"] == ["tickerml-strategy-demo 0.1.0"]
    assert module.read_text() == text


def test_what_is_not_what_was_locked_is_not_installed(desk, tmp_path):
    desk.install()
    desk.home = tmp_path / "fresh"
    desk.stranger.code = "evil = True"
    desk.stranger.wheel()

    with pytest.raises(PackageError, match=r"is not what plugins\.lock says"):
        desk.do(installing.sync)
    assert desk.folders() == []


def test_frozen_refuses_where_the_two_files_disagree(desk):
    desk.install()
    text = desk.config.read_text().replace('host = "own"', 'host = "own"\nversion = ">=3"')
    desk.config.write_text(text + "[plugin.strategy-lost]\n")

    assert len(desk.do(installing.sync)["differences"]) == 2
    with pytest.raises(PackageError) as refused:
        desk.do(installing.sync, is_frozen=True)
    assert "[plugin.strategy-lost] is neither installed nor in plugins.lock" in str(refused.value)
    assert "[plugin.strategy-demo] wants version >=3, locked is 0.1.0" in str(refused.value)
