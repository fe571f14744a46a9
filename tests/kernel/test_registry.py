"""Loading plugins: whatever is wrong with one is a typed error that names it, and hurts nobody else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from tickerml.kernel import (
    CancelOrder,
    ConfigError,
    PluginContractError,
    PluginError,
    PluginLoadError,
    PluginNotFound,
    SubmitOrder,
    registry,
)
from tickerml.kernel.config import PluginPlan
from tickerml.kernel.describe import describe

from .loadable import LOADABLE

ODD_PLUGINS = Path(__file__).resolve().parents[1] / "plugins_for_tests"


@pytest.fixture(autouse=True)
def _odd_plugins_can_be_imported(monkeypatch):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ODD_PLUGINS))
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("odd_", "stranger")):
            del sys.modules[name]


def planned(plugin: str = "stranger", **changes: object) -> PluginPlan:
    entry = {
        "id": plugin,
        "kind": "strategy",
        "host": "trade",
        "enabled": True,
        "module": "stranger",
        "publishes": None,
        "options": {},
    }
    return PluginPlan(**(entry | changes))


def test_a_good_plugin_offers_its_spec():
    spec = registry.load("stranger", "stranger")

    assert (spec.id, spec.KIND, spec.publishes) == ("stranger", "strategy", (SubmitOrder, CancelOrder))


@pytest.mark.parametrize("plugin", LOADABLE)
def test_every_installed_plugin_loads_under_its_own_id(plugin):
    assert registry.load(plugin).id == plugin


def test_finding_the_plugins_imports_none_of_them():
    program = (
        "import sys; from tickerml.kernel import registry; print(len(registry.installed()));"
        "print(*(name for name in sys.modules if name.startswith('tickerml.') and 'kernel' not in name))"
    )

    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    count, imported = told.stdout.split("\n")[:2]
    assert int(count) >= 10
    assert imported == ""


def test_a_plugin_that_nobody_offers_is_not_found():
    with pytest.raises(
        PluginNotFound, match="strategy-oracle: no installed package offers this plugin"
    ) as caught:
        registry.load("strategy-oracle")

    assert caught.value.plugin == "strategy-oracle"


@pytest.mark.parametrize(
    ("module", "error", "said"),
    [
        ("odd_raises", PluginLoadError, "import raised RuntimeError: no luck today"),
        ("odd_exits", PluginLoadError, "import raised SystemExit: 7"),
        ("odd_syntax", PluginLoadError, "import raised SyntaxError"),
        (
            "odd_imports_nothing",
            PluginLoadError,
            "import raised ModuleNotFoundError: No module named 'a_package",
        ),
        (
            "odd_is_nowhere",
            PluginLoadError,
            "import raised ModuleNotFoundError: No module named 'odd_is_nowhere'",
        ),
        ("odd_hook_raises", PluginLoadError, "tickerml_strategies raised LookupError: where is my model?"),
        ("odd_not_a_list", PluginLoadError, "tickerml_strategies raised TypeError"),
        ("odd_no_hook", PluginContractError, "expected exactly one spec with the plugin's own id, was none"),
        ("odd_two_specs", PluginContractError, "with the plugin's own id, was odd, odd-too"),
        ("odd_other_id", PluginContractError, "with the plugin's own id, was somebody-else"),
        (
            "odd_other_kind",
            PluginContractError,
            "tickerml_strategies must return StrategySpec, was RiskRuleSpec",
        ),
        ("odd_not_a_spec", PluginContractError, "tickerml_strategies must return StrategySpec, was str"),
        ("odd_unknown_hook", PluginContractError, "tickerml_strategy"),
        ("odd_hook_arguments", PluginContractError, "market"),
    ],
)
def test_each_way_to_be_broken_has_its_own_error_that_names_the_plugin(module, error, said):
    with pytest.raises(PluginError) as caught:
        registry.load("odd", module)

    assert type(caught.value) is error
    assert caught.value.plugin == "odd"
    assert str(caught.value).startswith("odd: ")
    assert said in str(caught.value)


def test_one_broken_plugin_does_not_keep_the_next_from_loading():
    for module in ("odd_raises", "odd_unknown_hook", "odd_two_specs"):
        with pytest.raises(PluginError):
            registry.load("odd", module)

    assert registry.load("stranger", "stranger").id == "stranger"


# --- As planned -----------------------------------------------------------------------------------


def test_a_planned_plugin_comes_with_its_checked_options():
    spec, options = registry.load_planned(planned(options={"patience": 9}), "plugins.toml")

    assert spec.id == "stranger"
    assert options == spec.options(patience=9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patience": 0}, "c.toml: plugin.stranger.options.patience: expected `int` >= 1, was 0"),
        (
            {"patience": "long"},
            "c.toml: plugin.stranger.options.patience: expected `int`, got `str`, was 'long'",
        ),
        ({"patince": 1}, "c.toml: plugin.stranger.options.patince: unknown key; did you mean 'patience'?"),
    ],
)
def test_an_option_that_is_wrong_is_an_error_of_configuration(options, said):
    with pytest.raises(ConfigError) as caught:
        registry.load_planned(planned(options=options), "c.toml")

    assert str(caught.value) == said


def test_a_plugin_of_another_kind_than_planned_is_refused():
    with pytest.raises(PluginContractError, match="kind is 'store', its spec says 'strategy'"):
        registry.load_planned(planned(kind="store"), "plugins.toml")


def test_a_plugin_that_writes_another_state_than_its_manifest_says_is_refused():
    with pytest.raises(PluginContractError, match="state_version is 2, its spec says 1"):
        registry.load_planned(planned(state_version=2), "plugins.toml")


def test_a_plugin_that_publishes_more_than_its_manifest_names_is_refused():
    with pytest.raises(PluginContractError, match="publishes CancelOrder, which its manifest does not name"):
        registry.load_planned(planned(declares=["SubmitOrder"]), "plugins.toml")


def test_a_blocked_plugin_is_not_even_imported():
    with pytest.raises(PluginLoadError, match="odd: two plugins have this id"):
        registry.load_planned(planned("odd", module="odd_raises", blocked="two plugins have this id"), "")


def test_what_is_odd_about_a_manifest_is_logged_when_the_plugin_is_loaded():
    with structlog.testing.capture_logs() as logs:
        registry.load_planned(planned(warnings=["colour: unknown key"]), "plugins.toml")

    assert [(log["event"], log["warning"]) for log in logs] == [("plugin.warned", "colour: unknown key")]


@pytest.mark.parametrize(
    ("allowed", "publishes"),
    [(None, (SubmitOrder, CancelOrder)), (["CancelOrder"], (CancelOrder,)), ([], ())],
)
def test_plugins_toml_can_only_take_rights_away(allowed, publishes):
    spec, _ = registry.load_planned(planned(publishes=allowed), "plugins.toml")

    assert spec.publishes == publishes


def test_plugins_toml_can_take_away_what_a_plugin_is_given():
    spec, _ = registry.load_planned(planned(subscribes=["Trade"]), "plugins.toml")

    assert spec.subscribes == ("Trade",)


# --- Single files and folders of their own --------------------------------------------------------


def test_a_single_file_is_loaded_under_a_name_of_its_own_that_hides_no_other_module(tmp_path):
    file = tmp_path / "json.py"
    file.write_text((ODD_PLUGINS / "stranger.py").read_text())

    spec = registry.load("stranger", str(file))

    assert spec.id == "stranger"
    assert json.loads("1") == 1
    assert registry.load("stranger", str(file)).factory is spec.factory
    del sys.modules["tickerml_plugin_json"]


def test_a_single_file_that_raises_leaves_nothing_behind(tmp_path):
    file = tmp_path / "half.py"
    file.write_text("raise RuntimeError('half way')")

    with pytest.raises(PluginLoadError, match="import raised RuntimeError: half way"):
        registry.load("half", str(file))

    assert "tickerml_plugin_half" not in sys.modules


def test_a_plugin_with_folders_of_its_own_is_found_there_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "stranger_of_folder.py").write_text((ODD_PLUGINS / "stranger.py").read_text())

    spec = registry.load("stranger", "stranger_of_folder", [str(tmp_path)])

    assert sys.path[0] == str(tmp_path)
    assert sys.modules.pop("stranger_of_folder").Stranger is spec.factory


def test_a_hook_that_this_api_does_not_have_is_put_down_to_a_newer_one():
    with pytest.raises(
        PluginContractError, match=r"API 1\.0 does not have it; it is misspelt, or of a newer"
    ):
        registry.load("odd", "odd_unknown_hook")


# --- Describing -----------------------------------------------------------------------------------


def test_a_description_shows_what_the_plugin_may_say_and_take():
    described = describe(registry.load("stranger", "stranger"))

    assert described["kind"] == "strategy"
    assert described["publishes"] == ["SubmitOrder", "CancelOrder"]
    assert described["options"]["patience"]["default"] == 3
    assert described["options"]["patience"]["description"] == "how long it waits"


@pytest.mark.parametrize("plugin", LOADABLE)
def test_every_option_of_every_installed_plugin_is_described(plugin):
    for name, option in describe(registry.load(plugin))["options"].items():
        assert option.get("description"), f"{plugin}.{name} has no description"
