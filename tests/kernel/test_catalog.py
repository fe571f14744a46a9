"""The catalog finds every plugin without importing one, and says of each broken one what is wrong with it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tickerml.kernel import ConfigError, catalog, describe, lock_file, manifest, registry
from tickerml.kernel.localbus import handler_name
from tickerml.kernel.messages import message_types

from .loadable import LOADABLE

ODD_PLUGINS = Path(__file__).resolve().parents[1] / "plugins_for_tests"
TABLE = 'format = 1\n[plugin.{id}]\nkinds = ["{kind}"]\napi = "{api}"\n{more}\n'


def package(
    place: Path,
    plugin: str = "sink-bell",
    *,
    module: str = "bell",
    version: str = "0.1.0",
    api: str = ">=1.0,<2",
    requires: tuple[str, ...] = (),
    more: str = "",
    said: str | None = None,
) -> Path:
    """Install a distribution that offers *plugin* into the folder *place*, whose import would end us."""
    name = f"tickerml_{plugin.replace('-', '_')}"
    info = place / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {each}" for each in requires), ""]))
    (info / "entry_points.txt").write_text(f"[tickerml.plugins]\n{plugin} = {module}.inner\n")
    folder = place / module
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / "inner.py").write_text("raise SystemExit('imported')")
    text = TABLE.format(id=plugin, kind="sink", api=api, more=more) if said is None else said
    (folder / manifest.FILE_NAME).write_text(text)
    return folder / manifest.FILE_NAME


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder on sys.path, as the environment's own is."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def only(plugin: str = "sink-bell", home: Path | None = None, lock: Path | None = None) -> catalog.Found:
    return catalog.find(home, lock).plugins[plugin]


# --- Our own ----------------------------------------------------------------------------------------


def test_every_built_in_plugin_is_found_and_nothing_is_wrong_with_any():
    found = catalog.find()

    assert {plugin: each.problem for plugin, each in found.plugins.items() if each.is_ours} == dict.fromkeys(
        registry.installed(), ""
    )
    assert found.problems == []


def test_finding_them_imports_none_of_them_and_takes_no_time():
    program = (
        "import sys, time; from tickerml.kernel import catalog; begun = time.perf_counter(); "
        "print(len(catalog.find().plugins), time.perf_counter() - begun);"
        "print(*(name for name in sys.modules if name.startswith('tickerml.') and 'kernel' not in name))"
    )

    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    figures, imported = told.stdout.split("\n")[:2]
    assert int(figures.split()[0]) >= 12
    assert imported == ""


@pytest.fixture(scope="module")
def built_in():
    return catalog.find().plugins


@pytest.mark.parametrize("plugin", LOADABLE)
def test_the_manifest_of_a_built_in_plugin_is_what_its_spec_says(plugin, built_in):
    said = built_in[plugin].manifest
    spec = registry.load(plugin)
    told = describe.describe(spec)

    assert (said.kind, said.publishes, said.state_version, said.summary) == (
        told["kind"],
        told["publishes"],
        told["state_version"],
        told["summary"],
    )
    assert said.subscribes == [
        cls.__name__ for cls in message_types() if hasattr(spec.factory, handler_name(cls))
    ]


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].rglob(f"*/{manifest.FILE_NAME}")), ids=str)
def test_every_manifest_here_passes_its_check(path):
    if ".venv" not in path.parts:
        assert manifest.check(path)


# --- Packages in the environment --------------------------------------------------------------------


def test_a_package_is_found_with_its_distribution_and_version_and_its_manifest_above_its_module(site):
    file = package(site, more='publishes = ["AlertSent"]')

    found = only()

    assert (found.origin, found.distribution, found.version) == ("package", "tickerml-sink-bell", "0.1.0")
    assert (found.kind, found.module, found.file, found.problem) == ("sink", "bell.inner", str(file), "")


def test_a_version_in_the_manifest_goes_before_that_of_the_distribution_and_so_does_a_module(site):
    package(site, more='version = "3.0"\nmodule = "bell.other"')

    assert (only().version, only().module) == ("3.0", "bell.other")


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"said": "format = "}, "tickerml-plugin.toml: not TOML"),
        ({"said": "format = 1"}, "expected a table [plugin.ID], was none"),
        ({"said": "format = 3"}, "expected 1, was 3; upgrade tickerml"),
        (
            {"said": "format = 1\n[plugin.other]"},
            "no tickerml-plugin.toml with [plugin.sink-bell] lies beside",
        ),
        ({"api": ">=7"}, "this kernel has API 1.0, the plugin needs >=7"),
        ({"more": "reload = 3"}, "plugin.sink-bell.reload: expected `str`, got `int`, was 3"),
        (
            {"requires": ("no-such-thing>=2", "msgspec>=900")},
            "its package tickerml-sink-bell needs what is not installed: no-such-thing>=2 (missing), msgspec",
        ),
    ],
)
def test_what_is_wrong_with_a_package_is_said_and_the_others_are_as_they_were(site, how, problem):
    package(site, **how)

    assert problem in only().problem
    assert only("recorder").problem == ""


def test_a_key_that_nobody_knows_does_not_keep_a_plugin_from_running(site):
    package(site, more="colour = 1")

    assert only().problem == ""
    assert only().warnings == [f"{site}/bell/tickerml-plugin.toml: plugin.sink-bell.colour: unknown key"]


def test_a_module_that_is_not_there_is_named(site):
    package(site)
    (site / "bell" / "inner.py").unlink()

    assert only().problem == "its module bell.inner is nowhere to be found"


def test_of_two_plugins_with_one_id_neither_runs_until_plugins_toml_says_which(site):
    package(site)
    package(site, module="chime", version="0.2.0").parent.parent.joinpath("x").mkdir()
    (site / "tickerml_sink_bell-0.2.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: another-bell\nVersion: 0.2.0\n"
    )

    found = catalog.find()

    assert "2 plugins have this id: package" in found.plugins["sink-bell"].problem
    assert len(found.plugins["sink-bell"].duplicates) == 2
    assert found.choose("sink-bell", "chime.inner").distribution == "another-bell"
    assert found.choose("sink-bell", "chime.inner").problem == ""


def test_a_distribution_that_is_on_the_path_twice_is_one(site, tmp_path, monkeypatch):
    package(site)
    other = tmp_path / "behind"
    package(other, version="0.0.9")
    monkeypatch.setattr(sys, "path", [*sys.path, str(other)])

    assert (only().version, only().problem) == ("0.1.0", "")


def test_a_package_whose_metadata_is_gone_is_a_problem_of_the_catalog_and_of_nobody_else(site):
    package(site)
    (site / "tickerml_sink_bell-0.1.0.dist-info" / "METADATA").unlink()

    found = catalog.find()

    assert "sink-bell" not in found.plugins or found.plugins["sink-bell"].problem
    assert found.plugins["recorder"].problem == ""


@pytest.mark.parametrize(
    ("allowed", "is_in"), [(None, True), ("", False), ("sink-bell,x", True), ("x", False)]
)
def test_the_environment_can_leave_out_whoever_is_not_ours(site, monkeypatch, allowed, is_in):
    package(site)
    if allowed is not None:
        monkeypatch.setenv(catalog.ALLOWED_VARIABLE, allowed)

    assert (only().problem == "") is is_in
    assert only("recorder").problem == ""


# --- Packages in folders of their own ---------------------------------------------------------------


def locked(tmp_path: Path, text: str) -> Path:
    path = tmp_path / lock_file.FILE_NAME
    path.write_text(f"format = 1\n{text}")
    return path


ENTRY = '[plugin.sink-bell]\ndistribution = "tickerml-sink-bell"\nversion = "{version}"\n'


def test_of_the_versions_in_folders_of_their_own_the_locked_one_is_found(tmp_path):
    for version in ("0.1.0", "0.2.0"):
        package(tmp_path / "plugins" / "site" / "tickerml-sink-bell" / version, version=version)
    found = {
        version: only(home=tmp_path, lock=locked(tmp_path, ENTRY.format(version=version)))
        for version in ("0.1.0", "0.2.0")
    }

    for version, each in found.items():
        folder = tmp_path / "plugins" / "site" / "tickerml-sink-bell" / version
        assert (each.origin, each.version, each.problem) == ("overlay", version, "")
        assert each.paths == [str(folder)]
        assert each.file == str(folder / "bell" / manifest.FILE_NAME)


def test_a_requirement_may_lie_in_the_same_folder(tmp_path):
    folder = tmp_path / "plugins" / "site" / "tickerml-sink-bell" / "0.1.0"
    package(folder, requires=("tickerml-sink-other",))
    package(folder, "sink-other", module="other")

    assert only(home=tmp_path, lock=locked(tmp_path, ENTRY.format(version="0.1.0"))).problem == ""


def test_a_locked_version_that_is_not_there_can_be_restored(tmp_path):
    found = only(home=tmp_path, lock=locked(tmp_path, ENTRY.format(version="0.3.0")))

    assert (found.version, found.manifest) == ("0.3.0", None)
    assert "does not hold it; `tickerml plugin sync`" in found.problem


def test_a_manifest_that_is_not_the_one_that_was_shown_at_install_blocks_the_plugin(tmp_path):
    folder = tmp_path / "plugins" / "site" / "tickerml-sink-bell" / "0.1.0"
    file = package(folder)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    lock = locked(tmp_path, ENTRY.format(version="0.1.0") + f'manifest_sha256 = "{digest}"\n')
    assert only(home=tmp_path, lock=lock).problem == ""

    file.write_text(file.read_text() + 'secrets = ["api-key"]\n')

    assert "is not the manifest that was installed" in only(home=tmp_path, lock=lock).problem


def project(folder: Path, *, entry: str = 'sink-bell = "bell.inner"', requires: str = "") -> str:
    package(folder / "src")
    (folder / "pyproject.toml").write_text(
        f'[project]\ndependencies = [{requires}]\n[project.entry-points."tickerml.plugins"]\n{entry}\n'
    )
    return ENTRY.format(version="0.1.0") + f'path = "{folder}"\n'


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({}, ""),
        ({"entry": ""}, "pyproject.toml does not offer it"),
        ({"requires": '"no-such-thing"'}, "it needs what is not installed: no-such-thing (missing)"),
    ],
)
def test_a_project_is_run_where_it_lies(tmp_path, how, problem):
    found = only(home=tmp_path, lock=locked(tmp_path, project(tmp_path / "mine", **how)))

    assert problem in found.problem
    assert bool(problem) is bool(found.problem)
    assert found.paths[0] == str(tmp_path / "mine" / "src")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("format =", "not TOML"),
        ("format = 2", "format: expected 1, was 2"),
        ("format = 1\n[plugin.x]\nversion = '1'", "plugin.x: object missing required field `distribution`"),
        ("format = 1\nplugins = 3", "plugins: unknown key; did you mean 'plugin'?"),
    ],
)
def test_a_lock_that_cannot_be_read_is_a_problem_and_does_not_keep_the_rest_from_being_found(
    tmp_path, text, said
):
    path = tmp_path / lock_file.FILE_NAME
    path.write_text(text)
    with pytest.raises(ConfigError):
        lock_file.read(path)

    found = catalog.find(tmp_path, path)

    assert said in found.problems[0]
    assert said in found.choose("sink-bell").problem
    assert found.plugins["recorder"].problem == ""


def test_a_lock_that_is_not_there_locks_nothing_and_one_keeps_what_was_before(tmp_path):
    assert lock_file.read(tmp_path / "nowhere") == {}
    path = locked(
        tmp_path,
        ENTRY.format(version="2.0") + '[[plugin.sink-bell.history]]\ndistribution = "d"\nversion = "1.0"\n',
    )

    (entry,) = lock_file.read(path).values()

    assert (entry.version, [each.version for each in entry.history]) == ("2.0", ["1.0"])


# --- Single files, and modules that plugins.toml names ----------------------------------------------

BLOCK = (
    '# /// tickerml-plugin\n# format = 1\n# [plugin.sink-bell]\n# kinds = ["sink"]\n# api = ">=1"\n# ///\n'
)


def test_a_single_file_in_the_folder_is_a_plugin(tmp_path):
    (tmp_path / "plugins").mkdir()
    file = tmp_path / "plugins" / "my_bell.py"
    file.write_text(BLOCK + "raise SystemExit('imported')")
    (tmp_path / "plugins" / "broken_one.py").write_text("pass")

    found = catalog.find(tmp_path)

    bell = found.plugins["sink-bell"]
    assert (bell.origin, bell.module, bell.kind, bell.problem) == ("folder", str(file), "sink", "")
    assert "expected one block of comments" in found.plugins["broken-one"].problem


@pytest.fixture
def _odd_plugins(monkeypatch):
    monkeypatch.syspath_prepend(str(ODD_PLUGINS))


@pytest.mark.usefixtures("_odd_plugins")
@pytest.mark.parametrize("module", ["odd_raises", "odd_exits", "odd_syntax", "stranger"])
def test_a_module_that_plugins_toml_names_is_found_and_not_imported(module):
    plugin = "odd" if module.startswith("odd") else module

    found = catalog.find().choose(plugin, module)

    assert (found.origin, found.module, found.kind, found.problem) == ("module", module, "strategy", "")


@pytest.mark.usefixtures("_odd_plugins")
@pytest.mark.parametrize(
    ("plugin", "module", "problem"),
    [
        ("odd", "odd_is_nowhere", "its module odd_is_nowhere is nowhere to be found"),
        ("nobody", "stranger", "no tickerml-plugin.toml with [plugin.nobody] lies beside stranger"),
        ("odd", "sys", "its module sys is nowhere to be found"),
        ("odd", "..", "cannot be looked for"),
        ("recordr", "", "no installed package offers this plugin; did you mean 'recorder'?"),
    ],
)
def test_a_module_or_an_id_that_is_not_there_is_a_problem_of_that_plugin(plugin, module, problem):
    found = catalog.find().choose(plugin, module)

    assert found.id == plugin
    assert problem in found.problem


def test_what_was_found_can_be_shown_as_json():
    assert msgspec.json.encode(list(catalog.find().plugins.values()))
