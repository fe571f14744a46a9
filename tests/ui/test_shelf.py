import os

import pytest

from tickerml.ui import inventory
from tickerml.ui.diagnostics import without_secrets
from tickerml.ui.shelf import Shelf

TOML = 'format = 1\n[profile.demo]\nplugins = ["sim-fifo"]\n[plugin.sim-fifo]\n'


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "plugins.toml"
    path.write_text(TOML)
    return path


@pytest.fixture
def report(config):
    return {"config": str(config), "plugins": [], "hosts": [], "profile": "demo"}


def write(path, text, at):
    path.write_text(text)
    os.utime(path, ns=(at, at))


def test_it_is_read_again_when_something_has_changed(tmp_path, config, report):
    shelf = Shelf(tmp_path)
    assert shelf.is_stale(report)
    shelf.refresh(report)
    assert not shelf.is_stale(report)

    write(config, TOML + "enabled = false\n", 1)
    assert shelf.is_stale(report)
    shelf.refresh(report)
    assert shelf.entry("sim-fifo").enabled is False
    assert shelf.is_stale(report | {"change": {"number": 1, "step": "ended"}})


def test_what_cannot_be_read_says_why_and_what_was_known_stays(tmp_path, config, report):
    shelf = Shelf(tmp_path)
    shelf.refresh(report)
    write(config, "format = 2\n", 1)
    shelf.refresh(report)

    assert "format: expected 1, was 2" in shelf.problem
    assert "sim-fifo" in [row["id"] for row in shelf.rows(report)]


def test_one_that_is_nowhere_has_a_problem_and_no_history(tmp_path, report):
    shelf = Shelf(tmp_path)
    shelf.refresh(report)

    assert "no installed package offers this plugin" in shelf.found("strategy-nobody").problem
    assert shelf.history("strategy-nobody") == []


def test_what_looks_like_a_secret_is_left_out():
    options = {"api_key": "k", "nested": [{"Password": "p", "token": 3}], "secrets": ["kraken"], "size": 1}

    assert without_secrets(options) == {
        "api_key": "(left out)",
        "nested": [{"Password": "(left out)", "token": 3}],
        "secrets": ["kraken"],
        "size": 1,
    }


def line(text, plugin="a"):
    return f'{{"plugin": "{plugin}", "event": "{text}"}}\n'


@pytest.fixture
def log(tmp_path):
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "trade.log"
    path.write_text(line("one") + line("two") + line("other", "b"))
    return path


def events(lines):
    return [inventory.log_cells(each)[2] for each in lines]


def test_a_tail_begins_with_whole_lines_and_goes_on(tmp_path, log):
    tail = inventory.Tail(tmp_path, "a", "trade", is_alone=False, back=len(line("two") + line("other")) + 5)
    assert events(tail.read()) == ["two"]

    with log.open("a") as file:
        file.write(line("three") + '{"plugin": "a", "ev')
        file.flush()
        assert events(tail.read()) == ["three"]
        file.write('ent": "four"}\n')
    assert events(tail.read()) == ["four"]
    assert tail.read() == []


def test_a_tail_goes_on_with_a_log_begun_anew(tmp_path, log):
    tail = inventory.Tail(tmp_path, "a", "trade", is_alone=False)
    log.rename(tmp_path / "logs" / "trade.log.1")
    assert tail.read() == []
    log.write_text(line("new"))

    assert events(tail.read()) == ["new"]
