"""A rollout: an agent from outside gets the bytes that the same policy gets as a plugin."""

import itertools

import pytest

from tests.kernel.recorded import ODD_PLUGINS, LiveRun
from tests.plugins_for_tests import tiny_policy
from tickerml.kernel import ConfigError, PluginContractError, codec, config
from tickerml.kernel import messages as m
from tickerml.kernel.backtest import Backtest
from tickerml.kernel.rollout import Rollout


@pytest.fixture(autouse=True)
def _tiny_plugins_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(ODD_PLUGINS))


def plan(profile: str) -> config.Plan:
    return config.plan(config.load(ODD_PLUGINS / "plugins.toml"), profile)


def roll(rollout: Rollout) -> None:
    for now in rollout.decisions():
        row = rollout.agent.features.get(("tiny", "BTC/USDT", "features-core"))
        rollout.act(tiny_policy.decide(now, row))


def test_an_agent_from_outside_gets_every_byte_of_the_policy_as_a_plugin_in_a_backtest_and_live():
    inside: list[tuple[str, bytes]] = []
    outside: list[tuple[str, bytes]] = []
    for _ in Backtest(plan("policy"), lambda plugin, _, body: inside.append((plugin, body))).run():
        pass
    world = plan("world")
    roll(
        Rollout(
            world, "tiny-policy", tiny_policy.EVERY_NS, lambda plugin, _, body: outside.append((plugin, body))
        )
    )

    assert outside == inside
    live = [codec.unpack(frame).body for frame in LiveRun(plan("policy")).run().frames]
    fills = [body for _, body in outside if isinstance(codec.decode(body), m.OrderFilled)]
    assert fills == [body for body in live if isinstance(codec.decode(body), m.OrderFilled)]
    assert len(fills) > 3
    sides = {codec.decode(body).side for body in fills}
    assert sides == {m.Side.BUY, m.Side.SELL}


def test_decisions_lie_on_their_grid_and_see_the_world_of_their_instant():
    rollout = Rollout(plan("world"), "agent", 250_000_000)
    times = []
    for now in rollout.decisions():
        times.append(now)
        book = rollout.bus.book("tiny", "BTC/USDT")
        assert book.ts_recv <= now == rollout.bus.clock.now()
    assert len(times) > 100
    assert {second - first for first, second in itertools.pairwise(times)} == {250_000_000}
    assert times[0] % 250_000_000 == 0


def test_what_no_strategy_may_publish_is_refused_whole():
    rollout = Rollout(plan("world"), "agent", 250_000_000)
    now = next(rollout.decisions())
    wish = m.TargetPosition(now, "paper", "tiny", "BTC/USDT", 1.0, m.Liquidity.TAKER)
    with pytest.raises(PluginContractError, match="TimeTick, which its spec does not declare"):
        rollout.act([wish, m.TimeTick(now)])
    seen = []
    rollout._on_output = lambda plugin, message, body: seen.append(message)
    rollout.act([])

    assert seen == []


def test_the_agent_needs_an_id_of_its_own():
    with pytest.raises(ConfigError, match="the agent needs an id of its own, was 'sim-fifo'"):
        Rollout(plan("world"), "sim-fifo", 1)
