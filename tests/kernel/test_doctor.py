"""The doctor tries each plugin in a throwaway process and names the one that is broken."""

from pathlib import Path

import msgspec
import pytest

from tickerml.kernel import catalog, doctor
from tickerml.kernel.catalog import Found

ODD_PLUGINS = Path(__file__).resolve().parents[1] / "plugins_for_tests"


@pytest.fixture(autouse=True)
def _odd_plugins_are_on_the_path_of_this_and_of_every_process(monkeypatch):
    monkeypatch.syspath_prepend(str(ODD_PLUGINS))
    monkeypatch.setenv("PYTHONPATH", str(ODD_PLUGINS))


def found(plugin: str, module: str = "") -> Found:
    return catalog.find().choose(plugin, module)


def test_a_plugin_that_loads_and_is_what_its_manifest_says_is_well():
    assert doctor.try_out(found("stranger", "stranger")) == (True, "loads")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("odd_raises", "odd: import raised RuntimeError: no luck today"),
        ("odd_exits", "odd: import raised SystemExit: 7"),
        ("odd_exits_in_silence", "ends its process with code 9"),
        ("odd_imports_nothing", "import raised ModuleNotFoundError"),
        ("odd_is_nowhere", "its module odd_is_nowhere is nowhere to be found"),
    ],
)
def test_each_way_to_be_broken_is_told(module, said):
    is_well, detail = doctor.try_out(found("odd", module))

    assert not is_well
    assert said in detail


def test_a_plugin_that_never_comes_back_is_given_up(tmp_path):
    file = tmp_path / "endless.py"
    file.write_text(
        '# /// tickerml-plugin\n# format = 1\n# [plugin.endless]\n# kinds = ["sink"]\n# api = ">=1"\n# ///\n'
        "while True:\n    pass\n"
    )

    is_well, detail = doctor.try_out(found("endless", str(file)), limit_s=1.0)

    assert (is_well, detail) == (False, "has not loaded within 1 s")


def test_a_manifest_that_is_not_true_is_told_with_its_keys():
    stranger = found("stranger", "stranger")
    boast = msgspec.structs.replace(stranger.manifest, publishes=["SubmitOrder"], state_version=2)

    assert doctor.try_out(msgspec.structs.replace(stranger, manifest=boast)) == (
        False,
        "its manifest and its spec differ in publishes, state_version",
    )


def test_a_command_needs_no_spec(tmp_path):
    file = tmp_path / "greeting.py"
    file.write_text(
        "# /// tickerml-plugin\n# format = 1\n# [plugin.greeting]\n"
        '# kinds = ["command"]\n# api = ">=1"\n# commands = ["greet"]\n# ///\n'
        "from tickerml.kernel import hookimpl\n\n@hookimpl\ndef tickerml_commands(app):\n    pass\n"
    )

    assert doctor.try_out(found("greeting", str(file))) == (True, "loads")
