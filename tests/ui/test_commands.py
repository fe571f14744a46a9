"""Commands that plugins bring: found by their manifest, and only their own plugin is imported."""

import itertools

import pytest
from typer.testing import CliRunner

from tickerml.kernel import PluginError
from tickerml.ui.cli import app
from tickerml.ui.commands import run_plugin_command

OWN = {"run", "status"}
_NUMBERS = itertools.count()  # a module is imported once a process, and each test has its own

GREETER = """
# /// tickerml-plugin
# format = 1
# [plugin.{id}]
# kinds = ["command"]
# version = "0.1.0"
# api = "{api}"
# summary = "greets"
# commands = ["greet", "wave"]
# ///
import pluggy
import typer
from pathlib import Path

hookimpl = pluggy.HookimplMarker("tickerml")
Path(__file__).with_suffix(".imported").touch()


@hookimpl
def tickerml_commands(app: typer.Typer) -> None:
    {body}
"""
WORKS = """
    @app.command()
    def greet(name: str, loud: bool = False) -> None:
        print(f"hello {name}" + "!" * loud)
        if name == "nobody":
            raise typer.Exit(7)
        if name == "trouble":
            raise RuntimeError("no voice")
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with plugins in it, and an empty folder to be in."""
    monkeypatch.setenv("TICKERML_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "plugins").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def put(home, plugin="command-greeter", body=WORKS, api=">=1.0,<2"):
    path = home / "plugins" / f"{plugin.replace('-', '_')}_{next(_NUMBERS)}.py"
    path.write_text(GREETER.format(id=plugin, body=body.strip(), api=api))
    return path


def was_imported(path):
    return path.with_suffix(".imported").exists()


def run(*words):
    """Run a command line; returns what it exits with, and whether it was one of a plugin's."""
    try:
        return run_plugin_command(words, OWN), 0
    except SystemExit as ended:
        return True, ended.code or 0


def test_a_word_that_a_manifest_lists_runs_the_command_of_that_plugin(home, capsys):
    put(home)

    assert run("greet", "ann", "--loud") == (True, 0)
    assert capsys.readouterr().out == "hello ann!\n"


def test_the_exit_code_is_the_commands_own(home):
    put(home)

    assert run("greet", "nobody") == (True, 7)
    assert run("greet") == (True, 2)


@pytest.mark.parametrize("words", [(), ("--help",), ("status",), ("greet2", "ann")])
def test_other_words_are_none_of_its_business_and_import_nothing(home, words):
    path = put(home)

    assert run(*words) == (False, 0)
    assert not was_imported(path)


def test_only_the_plugin_that_brings_the_word_is_imported(home):
    mine, other = put(home), home / "plugins" / "other.py"
    other.write_text(mine.read_text().replace("command-greeter", "command-other").replace("greet", "part"))

    run("greet", "ann")

    assert was_imported(mine)
    assert not was_imported(other)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise SystemExit(3)", "tickerml_commands raised SystemExit: 3"),
        ("1 / 0", "tickerml_commands raised ZeroDivisionError"),
        ("pass", "lists the command 'greet', and its tickerml_commands added none"),
    ],
)
def test_a_plugin_that_breaks_the_hook_is_named_in_one_clear_error(home, body, said):
    put(home, body=body)

    with pytest.raises(PluginError, match=f"command-greeter: .*{said}"):
        run("greet", "ann")


def test_a_command_that_raises_is_named_too(home):
    put(home)

    with pytest.raises(PluginError, match="the command 'greet' raised RuntimeError: no voice"):
        run("greet", "trouble")


def test_a_word_that_two_plugins_bring_is_nobodys(home):
    first = put(home)
    (home / "plugins" / "second.py").write_text(first.read_text().replace("command-greeter", "command-twin"))

    with pytest.raises(PluginError, match="command-greeter and command-twin both bring the command 'greet'"):
        run("greet", "ann")
    assert not was_imported(first)


def test_a_plugin_that_cannot_run_is_refused_with_the_reason_and_not_imported(home):
    paths = put(home), put(home)

    with pytest.raises(PluginError, match="cannot run its command 'greet': 2 plugins have this id"):
        run("greet", "ann")
    assert not any(map(was_imported, paths))


def test_a_manifest_for_another_api_brings_no_words(home):
    path = put(home, api=">=2.0")

    assert run("greet", "ann") == (False, 0)
    assert not was_imported(path)


def test_a_command_has_help_of_its_own(home, capsys):
    put(home)

    assert run("greet", "--help") == (True, 0)
    assert "Usage: tickerml greet" in capsys.readouterr().out


def help_of_all():
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    return result.output


def test_the_help_lists_the_words_of_plugins_and_imports_none(home):
    path = put(home)

    shown = help_of_all()

    lines = [line.strip("│ ").split() for line in shown.splitlines()]
    assert [line[0] for line in lines if "(command-greeter)" in line] == ["greet", "wave"]
    assert "Commands of plugins" in shown
    assert not was_imported(path)


def test_the_help_lists_what_cannot_run_and_says_why(home):
    paths = put(home), put(home)
    (home / "plugins" / "broken.py").write_text("# /// tickerml-plugin\n# format = [\n# ///\n")

    shown = help_of_all()

    assert "(command-greeter, which cannot run: 2 plugins have this id" in shown
    assert "(command-data)" in shown
    assert not any(map(was_imported, paths))
