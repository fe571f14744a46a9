"""`tickerml plugin` from outside: what it prints, its exit codes, one object with --json, broken plugins."""

import io
import json
import sys
import zipfile

import pytest

from tickerml.ui import cli, inventory, packages, terminal

from .changing_kernel import ChangingKernel
from .strangers import Stranger, pretend_pip

TOML = """\
format = 1
index = ["index.json"]
[profile.demo]
plugins = ["features-core", "recorder"]
[profile.other]
plugins = []
[plugin.features-core]
host = "trade"
[plugin.recorder]
host = "record"
"""
ID = "strategy-demo"


class Terminal:
    """Runs `tickerml plugin` in this process, on a home and a plugins.toml of its own."""

    def __init__(self, directory, monkeypatch, capsys):
        self.home, self.config, self.shelf = (
            directory / "home",
            directory / "plugins.toml",
            directory / "shelf",
        )
        self.config.write_text(TOML)
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.stranger = Stranger(self.shelf)

    def run(self, *words):
        """Return the exit code, stdout and stderr."""
        places = ["--home", str(self.home)] if words[0] != "new" else []
        self._monkeypatch.setattr(sys, "argv", ["tickerml", "plugin", *words, *places])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = self._capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    def json(self, *words, code=0):
        """Return the one object that is printed."""
        ended, out, err = self.run(*words, "--json")
        assert ended == code, err
        (line,) = out.splitlines()
        return json.loads(line)

    def wheel(self, version="0.1.0"):
        self.stranger.version = version
        return str(self.stranger.wheel())

    def drop_in(self, name, manifest, code=""):
        folder = self.home / "plugins"
        folder.mkdir(parents=True, exist_ok=True)
        block = "".join(f"# {line}\n" for line in ("/// tickerml-plugin", *manifest.splitlines(), "///"))
        (folder / f"{name}.py").write_text(block + code)


@pytest.fixture
def terminal_(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shell = Terminal(tmp_path, monkeypatch, capsys)
    monkeypatch.setattr(packages, "_pip", pretend_pip(shell.shelf))
    return shell


@pytest.fixture
def kernel(terminal_):
    kernel = ChangingKernel(terminal_.home, terminal_.config, running=("trade",))
    yield kernel
    kernel.close()


# --- The whole path -------------------------------------------------------------------------------------


def test_a_plugin_comes_is_enabled_upgraded_rolled_back_and_goes(terminal_):
    run = terminal_.json

    assert run("install", terminal_.wheel(), "--yes")["installed"] == [ID]
    assert run("enable", ID, "--profile", "demo") == {"plugin": ID, "enabled": True, "live": False}
    assert run("upgrade", ID, "--from", terminal_.wheel("0.2.0"))["version"] == "0.2.0"
    (row,) = [row for row in run("list")["plugins"] if row["id"] == ID]
    assert (row["version"], row["locked"], row["state"], row["profiles"]) == (
        "0.2.0",
        "0.2.0",
        "stopped",
        ["demo"],
    )
    info = run("info", ID)
    assert (info["history"], info["options"]["size"]["default"], info["error"]) == (["0.1.0"], 1, "")
    assert run("rollback", ID)["version"] == "0.1.0"
    assert run("sync", "--frozen")["kept"] == 1
    assert run("uninstall", ID, "--yes")["uninstalled"] == [ID]
    assert ID not in [row["id"] for row in run("list")["plugins"]]


def test_a_plugin_can_be_enabled_as_it_is_installed(terminal_, kernel):
    answer = terminal_.json("install", terminal_.wheel(), "--yes", "--enable")

    assert answer["enabled"]["live"] is True
    assert kernel.plan.hosts()[ID]


def test_a_change_that_is_rolled_back_is_exit_code_four_with_the_reason(terminal_, kernel):
    terminal_.run("install", terminal_.wheel(), "--yes", "--enable")
    kernel.error = "strategy-demo failed at import: ValueError: no"

    answer = terminal_.json("upgrade", ID, "--from", terminal_.wheel("0.2.0"), "--no-probation", code=4)

    assert answer["type"] == "ChangeRolledBack"
    assert "failed at import: ValueError: no; everything is as it was before" in answer["error"]
    assert kernel.requests[-1].probation_s == 0
    assert terminal_.json("info", ID)["version"] == "0.1.0"


def test_the_shadow_is_told_in_words_with_examples(terminal_, kernel):
    terminal_.run("install", terminal_.wheel(), "--yes", "--enable")
    counts = {"seconds": 60, "equal": 9, "different": 1, "only_old": 0, "only_new": 0}
    kernel.shadow = counts | {"examples": ["5: SubmitOrder(1) was, SubmitOrder(2) would be"]}

    code, out, _ = terminal_.run("reload", ID, "--shadow", "1m")

    assert code == 0
    assert (
        "9 outputs equal, 1 different, 0 only of the old, 0 only of the new\n  5: SubmitOrder(1) was" in out
    )
    assert (kernel.requests[-1].shadow_s, kernel.requests[-1].probation_s) == (60, 30)
    assert terminal_.json("reload", ID)["shadow"] == kernel.shadow


# --- Refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["install"], 2, "what is to be installed?"),
        (["install", "./nowhere"], 1, "there is no such file or folder"),
        (["install", "x", "--profile", "nope"], 2, "there is no profile 'nope'"),
        (["uninstall", "recorder"], 1, "is part of TickerML"),
        (["uninstall", "nosuch"], 2, "there is no plugin 'nosuch'"),
        (["enable", "nosuch"], 2, "there is no plugin 'nosuch'"),
        (["enable", "recorder", "--profile", "nope"], 2, "there is no profile 'nope'; it has demo, other"),
        (["disable", "recorder", "--profile", "nope"], 2, "there is no profile 'nope'"),
        (["reload", "recorder"], 3, "no kernel runs on"),
        (["reload", "recorder", "--shadow", "long"], 2, "--shadow long: expected a duration"),
        (["upgrade", "recorder"], 1, "was not installed by `tickerml plugin install`"),
        (["upgrade", "recorder", "--probation", "x"], 2, "--probation x: expected a duration"),
        (["rollback", "recorder"], 1, "was not installed by `tickerml plugin install`"),
        (["info", "nosuch"], 2, "there is no plugin 'nosuch'"),
        (["doctor", "nosuch"], 2, "there is no plugin 'nosuch'"),
        (["logs", "nosuch"], 2, "there is no plugin 'nosuch'"),
        (["list", "--profile", "nope"], 2, "there is no profile 'nope'"),
        (["list", "--config", "gone.toml"], 2, "cannot read the configuration gone.toml"),
        (["sync", "--config", "gone.toml"], 2, "cannot read"),
        (["top"], 3, "no kernel runs on"),
        (["nosuch"], 2, "No such command 'nosuch'"),
        (["enable"], 2, "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_one_error_also_as_an_object(terminal_, words, code, said):
    before = terminal_.config.read_text()

    ended, _, err = terminal_.run(*words)
    answer = terminal_.json(*words, code=code)

    assert (ended, said in err, said in answer["error"]) == (code, True, True), err
    assert terminal_.config.read_text() == before


def test_without_a_terminal_and_without_yes_nothing_is_installed(terminal_, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    code, _, err = terminal_.run("install", terminal_.wheel())

    assert code == 1
    assert "strategy-demo 0.1.0, strategy: does nothing" in err
    assert "There is no terminal to ask on; say it with --yes" in err
    assert not packages.site(terminal_.home).exists() or not list(packages.site(terminal_.home).iterdir())


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("\n", 1), ("no\n", 1)])
def test_a_person_at_the_terminal_is_asked(terminal_, monkeypatch, typed, code):
    class Keyboard:
        def isatty(self):
            return True

        def readline(self):
            return typed

    monkeypatch.setattr(terminal.sys, "stdin", Keyboard())

    assert terminal_.run("install", terminal_.wheel())[0] == code


# --- Broken plugins -------------------------------------------------------------------------------------


@pytest.fixture
def broken(terminal_, tmp_path, monkeypatch):
    """Every way in which a stranger's plugin can be broken, at once."""
    manifest = "format = 1\n[plugin.{}]\nkinds = ['strategy']\napi = '{}'"
    terminal_.drop_in("exits", manifest.format("strategy-exits", ">=1.0,<2"), "raise SystemExit(7)\n")
    terminal_.drop_in("spoiled", "format = 1\n[plugin.strategy-spoiled")
    terminal_.drop_in("newer", manifest.format("strategy-newer", ">=7"))
    lacking = Stranger(tmp_path / "w", "tickerml-strategy-lacking")
    lacking.requires = ["no-such-sidecar>=2"]
    twins = [Stranger(tmp_path / "w", f"tickerml-strategy-{name}") for name in ("castor", "pollux")]
    for twin in twins:
        twin.ids = ["strategy-twin"]
    for stranger in (lacking, *twins):
        with zipfile.ZipFile(stranger.wheel()) as archive:
            archive.extractall(tmp_path / "environment")
    monkeypatch.syspath_prepend(tmp_path / "environment")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "environment"))
    return terminal_


REASONS = {
    "spoiled": "its manifest is not TOML",
    "strategy-newer": "the plugin needs >=7; upgrade whichever is older",
    "strategy-lacking": "needs what is not installed: no-such-sidecar>=2 (missing)",
    "strategy-twin": "2 plugins have this id",
}


def test_broken_plugins_are_listed_with_their_reasons_and_nothing_else_is_affected(broken):
    rows = {row["id"]: row for row in broken.json("list")["plugins"]}

    assert {name: rows[name]["state"] for name in REASONS} == dict.fromkeys(REASONS, "blocked")
    assert [name for name, reason in REASONS.items() if reason not in rows[name]["reason"]] == []
    assert rows["strategy-exits"]["state"] == "discovered"
    assert rows["recorder"]["state"] == "stopped"
    assert broken.json("disable", "recorder")["enabled"] is False
    assert broken.json("install", broken.wheel(), "--yes")["installed"] == [ID]


def test_the_doctor_names_each_culprit(broken):
    answer = broken.json("doctor", code=1)

    checks = {row["plugin"]: row for row in answer["plugins"]}
    assert sorted(name for name, row in checks.items() if not row["ok"]) == sorted(
        [*REASONS, "strategy-exits"]
    )
    assert "import raised SystemExit: 7" in checks["strategy-exits"]["detail"]
    assert broken.run("doctor", "recorder")[:2] == (0, "ok     recorder                 loads\n")


def test_a_broken_plugin_is_shown_with_what_is_known_and_not_enabled(broken):
    answer = broken.json("info", "strategy-exits", code=1)

    assert answer["manifest"]["kinds"] == ["strategy"]
    assert "SystemExit" in answer["error"]
    assert (
        "cannot be enabled: " in broken.json("enable", "strategy-newer", "--profile", "demo", code=1)["error"]
    )


def test_a_damaged_lock_is_told_and_the_rest_is_listed(terminal_):
    terminal_.config.with_name("plugins.lock").write_text("format = ")

    assert terminal_.json("list", code=2)["type"] == "ConfigError"


# --- Search, logs, live cost ----------------------------------------------------------------------------


def test_a_search_looks_in_what_is_here_and_in_the_indexes_that_are_named(terminal_):
    listed = [{"id": "strategy-far", "kinds": ["strategy"], "summary": "from Afar", "spec": "tickerml-far"}]
    (terminal_.config.parent / "index.json").write_text(json.dumps(listed))

    (far,) = terminal_.json("search", "afar")["plugins"]
    assert (far["spec"], far["source"]) == ("tickerml-far", "index.json")
    assert [row["id"] for row in terminal_.json("search", "recorder store")["plugins"]] == ["recorder"]
    code, out, _ = terminal_.run("search", "afar")
    assert (code, out.splitlines()[1].split()[0]) == (0, "strategy-far")


@pytest.mark.parametrize("text", ["no list", '[{"id": 3}]', None])
def test_an_index_that_cannot_be_read_is_told_and_the_others_count(terminal_, text):
    if text is not None:
        (terminal_.config.parent / "index.json").write_text(text)

    answer = terminal_.json("search", "recorder")

    assert [row["id"] for row in answer["plugins"]] == ["recorder"]
    assert answer["problems"][0].startswith("index.json: ")


def write_log(home, host, *lines):
    (home / "logs").mkdir(parents=True, exist_ok=True)
    (home / "logs" / f"{host}.log").write_text("".join(f"{line}\n" for line in lines))


def test_a_plugins_lines_are_those_that_name_it_or_all_where_it_is_alone(terminal_):
    mine = '{"event": "tape.sealed", "rows": 5, "plugin": "recorder", "level": "info", "timestamp": "noon"}'
    other = '{"event": "x", "plugin": "sink-file"}'
    write_log(terminal_.home, "record", mine, other, "Traceback: no JSON", '{"event": "host.started"}')

    assert len(terminal_.json("logs", "recorder")["lines"]) == 3
    assert (
        terminal_.run("logs", "recorder", "-n", "3")[1].splitlines()[0] == "noon  info  tape.sealed  rows=5"
    )
    assert terminal_.run("logs", "recorder", "-n", "0")[1] == ""

    terminal_.config.write_text(TOML + '[plugin.sink-file]\nhost = "record"\n')
    assert terminal_.json("logs", "recorder")["lines"] == [mine]


def test_a_log_is_followed_over_its_being_set_aside(terminal_):
    write_log(terminal_.home, "record", "old")
    lines = inventory.follow_log(terminal_.home, "recorder", "record", is_alone=True, look_s=0.001)
    path = terminal_.home / "logs" / "record.log"

    tail = inventory.Tail(terminal_.home, "recorder", "record", is_alone=True)
    with path.open("a") as file:
        file.write("one\ntw")
    assert tail.read() == ["one"]
    path.rename(f"{path}.1")
    write_log(terminal_.home, "record", "three")
    assert tail.read() == ["three"]
    assert terminal_.json("logs", "recorder")["lines"] == ["old", "one", "tw", "three"]
    lines.close()


def test_live_cost_is_shown_once_as_an_object(terminal_, kernel):
    (row,) = terminal_.json("top", "--interval", "0.1")["hosts"]

    assert (row["host"], row["plugins"], row["rss_mb"]) == ("trade", ["trade active"], 9.5)
    assert terminal_.run("top", "--once", "--interval", "0.1")[1].startswith("host   state  pid")


# --- For authors ----------------------------------------------------------------------------------------


def test_a_check_is_the_kits_with_its_exit_code(terminal_, monkeypatch):
    from tickerml.testing import check

    asked = []

    def run(target, tier, **places):
        asked.append((target, tier, places))
        return {"target": target, "tier": tier, "ok": target == "good", "plugins": []}

    monkeypatch.setattr(check, "run", run)

    assert terminal_.json("check", "good", "--tier", "loads")["ok"] is True
    assert terminal_.json("check", "bad", code=1)["ok"] is False
    assert asked[0][:2] == ("good", "loads")
    assert asked[0][2]["home"] == terminal_.home
    assert asked[0][2]["lock"].resolve() == terminal_.config.with_name("plugins.lock")


def test_a_new_plugin_is_the_kits_and_a_kind_that_is_not_there_is_refused(terminal_):
    created = terminal_.json("new", "strategy", "mine")["created"]

    assert "tickerml-strategy-mine/pyproject.toml" in created
    assert "did you mean 'strategy'" in terminal_.json("new", "strateggy", "mine", code=2)["error"]


def test_every_deed_is_a_command():
    words = {command.name for command in cli.cli_plugin.app.registered_commands}

    assert words == {
        *("search", "list", "info", "install", "uninstall", "enable", "disable", "reload", "upgrade"),
        *("rollback", "check", "new", "sync", "doctor", "logs", "top"),
    }
