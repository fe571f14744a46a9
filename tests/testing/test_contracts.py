"""The fixtures and the contracts that authors get, and how far our own plugins reach."""

import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tickerml.kernel import Side, Trade, catalog
from tickerml.kernel.testing import Market
from tickerml.testing import check, tape, tiers
from tickerml.testing.contracts_rig import TapeDataset

ROOT = Path(__file__).parents[2]
pytest_plugins = ["pytester"]

CONTRACT = """
from tickerml.testing.contracts import StrategyContract

class TestImbalance(StrategyContract):
    plugin = "strategy-imbalance"
    tier = "conforms"
"""
FIXTURES = """
import tickerml.strategies.imbalance as plugin
import tickerml.plugins.features_core as features
import pytest

def test_kernel(kernel, tape):
    bus = kernel(features, plugin)
    bus.send(*tape(0, 100))
    assert bus.outputs

def test_swap(swap, tape):
    assert swap(features, features, tape(0, 60), cuts=[10, 50])

def test_golden(kernel, tape, golden):
    bus = kernel(features, with_gate=False)
    bus.send(*tape(0, 10))
    golden(bus.outputs, "rows")
"""


def run_pytest(directory: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(text)
    plugin = ["-p", "tickerml.testing.plugin"]
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", *plugin, "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [*command, *arguments], cwd=directory, capture_output=True, text=True, env=environment
    )


def test_a_contract_becomes_one_test_for_each_check(tmp_path):
    done = run_pytest(tmp_path, CONTRACT)

    assert "11 passed" in done.stdout, done.stdout


def test_a_contract_of_another_kind_is_refused(tmp_path):
    done = run_pytest(tmp_path, CONTRACT.replace("StrategyContract", "SinkContract"))

    assert "this is the contract of a sink, it is a strategy" in done.stdout


def test_a_golden_file_has_to_be_written_and_is_then_compared(tmp_path):
    missing = run_pytest(tmp_path, FIXTURES)
    updated = run_pytest(tmp_path, FIXTURES, "--golden-update")
    compared = run_pytest(tmp_path, FIXTURES)
    file = tmp_path / "golden" / "rows.jsonl"
    file.write_text(file.read_text().replace("FeatureVector", "FeatureVectors"))
    changed = run_pytest(tmp_path, FIXTURES)

    assert "write it with pytest --golden-update" in missing.stdout
    assert "3 passed" in updated.stdout, updated.stdout
    assert "3 passed" in compared.stdout, compared.stdout
    assert "not what rows.jsonl says" in changed.stdout


def test_the_pytest_plugin_imports_nothing_of_ours_before_it_is_used():
    code = (
        "import sys, tickerml.testing.plugin; print([name for name in sys.modules if 'tickerml.k' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.strip() == "[]", done.stderr


def test_the_pytest_plugin_is_an_entry_point():
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]

    assert said["pytest11"] == {"tickerml": "tickerml.testing.plugin"}


# --- Tapes ------------------------------------------------------------------------------------------


def test_a_seed_is_a_tape_and_a_file_gives_it_back(tmp_path):
    made = tape.generate(3, 50)
    tape.save(tmp_path / "some.jsonl", made)

    assert tape.generate(3, 50) == made != tape.generate(4, 50)
    assert tape.load(tmp_path / "some.jsonl") == made


def test_a_tape_has_everything_that_a_feed_does_to_a_plugin():
    said = {type(message).__name__ for message in tape.generate(0, 2_000)}

    assert {"BookSnapshot", "BookDelta", "Trade", "Quote", "SequenceGap", "FeedLost", "BookStale"} <= said


def test_the_dataset_of_the_kit_ends_where_it_is_told():
    market = Market()
    past = [market.trade(ts, 1, 1, Side.BUY) for ts in range(5)]

    assert [each.ts_recv for each in TapeDataset(past, until_ns=3).messages(Trade)] == [0, 1, 2]


# --- Our own plugins ----------------------------------------------------------------------------------

OURS = [plugin for plugin, found in catalog.find().plugins.items() if found.is_ours]
#: Each is tried in a real kernel or fifty times over by `tickerml plugin check`, and by its own tests.
SLOW = ("conforms.stays", "conforms.closes")
CHOSEN = ("swappable.cuts", "swappable.state", "deterministic.twice")
QUICK = [
    name
    for name in tiers.CHECKS
    if name.startswith("loads.") or (name.startswith("conforms.") and name not in SLOW) or name in CHOSEN
]
NEEDS_OPTIONS = ("exchange-capture", "exchange-funding-csv")  # have nothing to play without a file
NEEDS = {"exchange-ccxt": "ccxt"}  # packages that only some of ours want


TRIED = [plugin for plugin in OURS if plugin not in NEEDS_OPTIONS]


@pytest.fixture(scope="module")
def reports():
    """The report of each, to be waited for: as many at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {plugin: pool.submit(check.run, plugin, only=QUICK) for plugin in TRIED}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("plugin", TRIED)
def test_our_own_plugins_pass_what_is_asked_of_strangers(plugin, reports):
    if plugin in NEEDS:
        pytest.importorskip(NEEDS[plugin])
    report = reports[plugin].result()

    assert report["ok"], check.show(report)


@pytest.mark.parametrize("plugin", TRIED)
def test_our_own_plugins_are_fast_enough_for_a_pi(plugin):
    if plugin in NEEDS:
        pytest.importorskip(NEEDS[plugin])
    report = check.run(plugin, only=["edge.p99"])  # one at a time: the others would take its caches

    assert report["ok"], check.show(report)
