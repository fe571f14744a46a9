"""`tickerml parity`: the certificate as it is printed, kept and answered with an exit code."""

import json
import re
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.kernel.recorded import ODD_PLUGINS, LiveRun, plan, write
from tickerml.kernel import NS_PER_S, ConfigError, codec
from tickerml.plugins import parity


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    sys.path.insert(0, str(ODD_PLUGINS))
    home = tmp_path_factory.mktemp("home")
    write(home / "runs" / "tiny" / "0001", LiveRun(plan()).run())
    yield home
    sys.path.remove(str(ODD_PLUGINS))


def run(*words: str | Path) -> Result:
    app = typer.Typer()
    parity.tickerml_commands(app)
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_a_day_that_is_the_same_is_certified_and_the_certificate_is_kept(home):
    result = run("--home", home, "--day", "2026-01-01")

    assert result.exit_code == 0
    assert result.output.startswith("the same  2026-01-01")
    assert "the journal ends before the day does" in result.output
    assert re.search(r"environment +[1-9]\d* fills, sha256 [0-9a-f]{64}\n", result.output)
    kept = json.loads((home / "runs" / "tiny" / "0001" / "parity" / "2026-01-01.json").read_text())
    assert kept == json.loads(run("--home", home, "--day", "2026-01-01", "--json").output)


def test_a_day_that_is_not_the_same_ends_with_1_and_shows_both_sides(tmp_path, home):
    recorded = LiveRun(plan()).run()
    fill = next(raw for raw in recorded.frames if raw.startswith(b"fill."))
    body = codec.unpack(fill).body
    worse = fill.removesuffix(body) + body.replace(b"maker", b"taker")
    frames = [worse if raw == fill else raw for raw in recorded.frames]
    result = run("--run", write(tmp_path, recorded, frames), "--day", "all")

    assert result.exit_code == 1
    assert result.output.startswith("NOT THE SAME")
    assert "published OrderFilled(" in result.output
    assert "again     OrderFilled(" in result.output


def test_says_what_is_wrong_with_what_was_named(home, tmp_path):
    with pytest.raises(ConfigError, match="--day x: expected a day in UTC such as"):
        run("--home", home, "--day", "x")
    with pytest.raises(ConfigError, match="has nothing of 2025-12-31"):
        run("--home", home, "--day", "2025-12-31")
    with pytest.raises(ConfigError, match="there is no run in"):
        run("--home", tmp_path)
    with pytest.raises(ConfigError, match="there is no journal at"):
        run("--run", tmp_path)


def test_without_a_day_it_is_yesterday():
    noon = 1_795_348_800 * NS_PER_S  # 2026-11-22T12:00:00Z

    assert parity._bounds("", noon) == parity._bounds("2026-11-21", 0)
