"""Editing plugins.toml and plugins.lock: comments stay, and both files change or neither does."""

import json
import os
import shutil
import tomllib

import pytest

from tickerml.kernel import ConfigError, config, lock_file
from tickerml.kernel.lock_file import LockRecord
from tickerml.ui import documents
from tickerml.ui.documents import Documents

TOML = """\
# mine
format = 1

[profile.demo]
plugins = [
    "exchange-synthetic", # the market
    "strategy-demo",
]
[profile.demo.options.strategy-demo]
size = 2 # of an order
[profile.other]
plugins = []

[plugin.exchange-synthetic]
host = "market"

[plugin.strategy-demo] # by a stranger
host = "own"
[plugin.strategy-demo.options]
size = 3
names = [
    "a",
    "b",
]

# --- Hosts
[host.strategy-demo]
max_rss_mb = 100
[host.market]
max_rss_mb = 200
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "plugins.toml"
    path.write_text(TOML)
    return path


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def edit(path, home, change):
    edited = Documents(path)
    change(edited)
    documents.put(edited.stage(), home)
    return path.read_text()


def record(version, **changes):
    facts = {"spec": "tickerml-demo", "requirements": [f"tickerml-demo=={version}"], "sha256": "ab"}
    return LockRecord(distribution="tickerml-demo", version=version, **facts | changes)


# --- plugins.toml -------------------------------------------------------------------------------------


def test_every_comment_and_every_other_line_stays(path, home):
    def change(edited):
        edited.set_enabled("strategy-demo", False)
        edited.join("other", "strategy-demo")
        edited.set_options("exchange-synthetic", {"seed": 4})

    text = edit(path, home, change)

    assert [line for line in TOML.splitlines() if line not in text.splitlines()] == ["plugins = []"]
    told = tomllib.loads(text)
    assert told["plugin"]["strategy-demo"]["enabled"] is False
    assert told["plugin"]["exchange-synthetic"]["options"] == {"seed": 4}
    assert told["profile"]["other"]["plugins"] == ["strategy-demo"]


def test_an_option_is_taken_out_again_so_that_its_default_holds(path, home):
    text = edit(path, home, lambda edited: edited.set_options("strategy-demo", {"size": None}))

    assert tomllib.loads(text)["plugin"]["strategy-demo"]["options"] == {"names": ["a", "b"]}


def test_a_plugin_joins_a_profile_once_and_leaves_it(path, home):
    def change(edited):
        edited.join("demo", "strategy-demo")
        edited.leave("demo", "exchange-synthetic")
        edited.leave("other", "exchange-synthetic")

    text = edit(path, home, change)

    assert tomllib.loads(text)["profile"]["demo"]["plugins"] == ["strategy-demo"]


def test_a_plugin_that_is_taken_out_leaves_its_options_as_comments_and_a_file_that_loads(path, home):
    text = edit(path, home, lambda edited: edited.comment_out("strategy-demo"))

    assert list(config.load(path).plugins) == ["exchange-synthetic"]
    assert "# [plugin.strategy-demo] # by a stranger\n# host" in text
    assert '# names = [\n#     "a",\n#     "b",\n# ]\n\n# --- Hosts\n# [host.strategy-demo]' in text
    assert "# [profile.demo.options.strategy-demo]\n# size = 2 # of an order\n[profile.other]" in text
    assert "[host.market]\nmax_rss_mb = 200" in text


def test_what_cannot_be_found_in_the_text_is_left_to_a_person(path):
    path.write_text('format = 1\nplugin = { strategy-demo = { host = "own" } }\n')

    with pytest.raises(ConfigError, match="cannot find where all of plugin 'strategy-demo' is written"):
        Documents(path).comment_out("strategy-demo")


def test_a_profile_that_is_not_there_is_named_with_those_that_are(path):
    with pytest.raises(ConfigError, match="there is no profile 'demmo'; it has demo, other"):
        Documents(path).join("demmo", "strategy-demo")


# --- plugins.lock -------------------------------------------------------------------------------------


def test_the_version_before_is_the_first_to_go_back_to_and_only_some_are_kept(path, home):
    for number in range(8):
        edit(path, home, lambda edited, n=number: edited.set_current("strategy-demo", record(f"0.{n}")))

    entry = lock_file.read(documents.lock_beside(path))["strategy-demo"]
    assert entry.version == "0.7"
    assert [each.version for each in entry.history] == ["0.6", "0.5", "0.4", "0.3", "0.2"]

    edit(path, home, lambda edited: edited.step_back("strategy-demo"))

    entry = lock_file.read(documents.lock_beside(path))["strategy-demo"]
    assert (entry.version, entry.history[0].version, len(entry.history)) == ("0.6", "0.5", 4)


def test_a_version_that_is_installed_again_stands_in_the_history_once(path, home):
    for version in ("1", "2", "1"):
        edit(path, home, lambda edited, v=version: edited.set_current("strategy-demo", record(v)))

    entry = lock_file.read(documents.lock_beside(path))["strategy-demo"]
    assert (entry.version, [each.version for each in entry.history]) == ("1", ["2"])


def test_a_damaged_lock_is_refused_with_its_name(path):
    documents.lock_beside(path).write_text("format = 1\n[plugin.a]\nversion = 3\n")

    with pytest.raises(ConfigError, match=r"plugins\.lock: plugin"):
        Documents(path)


# --- All or nothing -----------------------------------------------------------------------------------


def both(edited):
    edited.set_enabled("strategy-demo", False)
    edited.set_current("strategy-demo", record("1"))


def test_nothing_is_staged_where_nothing_changes(path):
    assert Documents(path).stage() == {}


def test_staged_files_count_for_nothing_until_they_are_put(path, home):
    edited = Documents(path)
    both(edited)
    files = edited.stage()

    assert path.read_text() == TOML
    assert not documents.lock_beside(path).exists()
    documents.discard(files)
    assert sorted(os.listdir(path.parent)) == ["plugins.toml"]


class Died(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(4))
def test_a_command_that_dies_while_it_puts_has_changed_both_files_or_neither(path, home, monkeypatch, step):
    edited = Documents(path)
    both(edited)
    files = edited.stage()
    calls = []
    replace = os.replace

    def dying(source, target):
        calls.append(target)
        if len(calls) > step:
            raise Died
        replace(source, target)

    monkeypatch.setattr(documents.os, "replace", dying)
    if step < 3:
        with pytest.raises(Died):
            documents.put(files, home)
    else:
        documents.put(files, home)
    monkeypatch.undo()
    documents.recover(home, path)

    is_off = tomllib.loads(path.read_text())["plugin"]["strategy-demo"].get("enabled") is False
    assert (is_off, documents.lock_beside(path).exists()) == ((False, False) if step == 0 else (True, True))
    assert [name for name in os.listdir(path.parent) if "staged" in name] == []


def test_the_mode_of_a_file_stays(path, home):
    path.chmod(0o600)

    edit(path, home, both)

    assert path.stat().st_mode & 0o777 == 0o600
    assert json.dumps(tomllib.loads(documents.lock_beside(path).read_text()))


def test_files_that_cannot_be_written_are_an_error_of_configuration(path):
    edited = Documents(path)
    edited.set_enabled("strategy-demo", False)
    shutil.rmtree(path.parent)

    with pytest.raises(ConfigError, match="cannot write"):
        edited.stage()
