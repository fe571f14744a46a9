"""A backtest: the same plan twice is the same run, and what cannot be backtested says so."""

from pathlib import Path

import pytest

from tickerml.kernel import ConfigError, Message, PluginLoadError, codec, config, topics
from tickerml.kernel import messages as m
from tickerml.kernel.backtest import Backtest

ODD_PLUGINS = Path(__file__).resolve().parents[1] / "plugins_for_tests"


@pytest.fixture(autouse=True)
def _tiny_source_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(ODD_PLUGINS))


def plan(*overrides: str, profile: str = "tiny") -> config.Plan:
    return config.plan(config.load(ODD_PLUGINS / "plugins.toml"), profile, list(overrides))


def run(*overrides: str, until_ns: int = 0) -> tuple[Backtest, list[tuple[str, Message]]]:
    """Return the backtest after its end, and all that was published in it."""
    published: list[tuple[str, Message]] = []
    backtest = Backtest(plan(*overrides), lambda plugin, message, body: published.append((plugin, message)))
    for _ in backtest.run(until_ns):
        pass
    return backtest, published


def test_the_same_plan_twice_publishes_the_same_bytes():
    (first, published), (second, again) = run(), run()

    assert [(plugin, codec.encode(one)) for plugin, one in published] == [
        (plugin, codec.encode(one)) for plugin, one in again
    ]
    assert first.summary.report() == second.summary.report()


def test_the_whole_chain_from_tick_to_fill_has_run():
    backtest, published = run()

    report = backtest.summary.report()
    assert report["orders"] > 5
    assert report["fills"] >= 4
    assert report["failed_plugins"] == {}
    assert report["messages"] == 601
    said = {topics.KIND_OF[type(message)] for _, message in published}
    assert {"book", "trade", "feature", "order", "verdict", "fill", "portfolio", "feed", "instrument"} <= said
    assert {plugin for plugin, _ in published} >= {"tiny-source", "features-core", "gate", "sim-fifo"}


def test_what_decides_comes_before_its_consequences():
    _, published = run()

    seen: dict[str, set[type]] = {}
    for _, message in published:
        if order_id := getattr(message, "order_id", ""):
            before = seen.setdefault(order_id, set())
            if isinstance(message, m.OrderSubmitted):
                assert {m.SubmitOrder, m.RiskVerdict} <= before
            if isinstance(message, m.OrderFilled):
                assert m.OrderSubmitted in before
            before.add(type(message))


@pytest.mark.parametrize("override", ['strategy-imbalance.order_notional="150"', "tiny-source.frames=300"])
def test_a_different_plan_is_a_different_run(override):
    first, _ = run()
    other, _ = run(override)

    assert first.summary.report()["decisions_sha256"] != other.summary.report()["decisions_sha256"]


def test_it_stops_after_the_market_time_it_was_given():
    _, published = run(until_ns=5 * 10**9)

    times = [one.ts_recv for _, one in published if isinstance(one, m.BookSnapshot)]
    assert times[-1] - times[0] == 5 * 10**9


def test_a_disabled_plugin_takes_no_part():
    backtest, published = run("strategy-imbalance.enabled=false")

    assert "strategy-imbalance" not in backtest.bus.plugins
    assert not [one for _, one in published if isinstance(one, m.SubmitOrder)]


def test_plugins_that_write_files_are_left_out():
    backtest, _ = run("tiny-source.frames=3")

    assert "recorder" not in backtest.bus.plugins
    assert "portfolio" in backtest.bus.plugins


@pytest.mark.parametrize(
    ("profile", "overrides", "error", "said"),
    [
        ("sourceless", (), ConfigError, "exactly one exchange plugin, profile 'sourceless' has 0"),
        ("live", (), ConfigError, "cannot backtest exchange-binanceus: it is a live feed"),
        ("tiny", ("tiny-source.frames=-1",), ConfigError, "tiny-source.options.frames: expected `int` >= 0"),
    ],
)
def test_what_cannot_be_backtested_is_refused_before_it_begins(profile, overrides, error, said):
    with pytest.raises(error, match=said):
        Backtest(plan(*overrides, profile=profile))


def test_a_plugin_that_cannot_be_loaded_is_refused_before_it_begins(tmp_path):
    text = (ODD_PLUGINS / "plugins.toml").read_text().replace("tiny_source", "odd_raises")
    (tmp_path / "plugins.toml").write_text(text)

    with pytest.raises(PluginLoadError, match="tiny-source: import raised RuntimeError: no luck today"):
        Backtest(config.plan(config.load(tmp_path / "plugins.toml"), "tiny"))
