"""The environment to learn in: Gymnasium's rules, and the fills of the paper engine."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.kernel.recorded import ODD_PLUGINS
from tests.plugins_for_tests import tiny_policy
from tickerml.kernel import ConfigError, PluginError, config
from tickerml.kernel import messages as m
from tickerml.kernel.backtest import Backtest
from tickerml.trainers.environment import OWN_COLUMNS, TradingEnv

EVERY_MS = tiny_policy.EVERY_NS // 1_000_000


@pytest.fixture(autouse=True)
def _tiny_plugins_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(ODD_PLUGINS))


def plan(*overrides: str, profile: str = "world") -> config.Plan:
    return config.plan(config.load(Path(ODD_PLUGINS) / "plugins.toml"), profile, list(overrides))


def environment(*overrides: str, **settings: float) -> TradingEnv:
    return TradingEnv(plan(*overrides), "tiny", "BTC/USDT", every_ms=EVERY_MS, episode_s=0, **settings)


def decided(env: TradingEnv, observation: np.ndarray) -> np.ndarray:
    """Return the action of tiny_policy.decide()."""
    imbalance = observation[env.columns.index("book_imbalance_5")]
    if not abs(imbalance) > 0.2:
        return np.array([0, 0])
    return np.array([4, 1] if imbalance > 0 else [0, 2])


def play(env: TradingEnv) -> tuple[list[np.ndarray], list[float], bool, bool]:
    observation, _ = env.reset()
    seen, rewards, terminated, truncated = [observation], [], False, False
    while not (terminated or truncated):
        observation, reward, terminated, truncated, _ = env.step(decided(env, observation))
        seen.append(observation)
        rewards.append(reward)
    return seen, rewards, terminated, truncated


def test_gymnasium_finds_nothing_to_complain_of():
    check_env(environment(), skip_render_check=True)


def test_its_fills_are_those_of_the_same_policy_as_a_plugin_byte_for_byte(monkeypatch):
    def fills_of(run) -> list[bytes]:
        found: list[bytes] = []
        run(lambda plugin, message, body: isinstance(message, m.OrderFilled) and found.append(body))
        return found

    def backtest(on_output) -> None:
        for _ in Backtest(plan(profile="policy"), on_output).run():
            pass

    def learn(on_output) -> None:
        env = environment()
        observation, _ = env.reset()
        env.rollout._on_output = on_output
        for _ in range(10_000):
            observation, _, _, is_over, _ = env.step(decided(env, observation))
            if is_over:
                return

    fills = fills_of(learn)

    assert len(fills) > 3
    assert fills == fills_of(backtest)


def test_rewards_add_up_to_what_became_of_the_money():
    env = environment()
    _, rewards, terminated, truncated = play(env)
    portfolio = env.rollout.agent.portfolios["paper"]

    assert (terminated, truncated) == (False, True)
    growth = np.prod([1 + each / 1e4 for each in rewards])
    assert growth == pytest.approx(portfolio.equity / portfolio.opening, rel=1e-12)
    assert growth < 1  # the tiny market moves by less than its fees


def test_an_aversion_to_risk_takes_the_growth_of_the_drawdown_off():
    env = environment(risk_aversion=2.0)
    _, averse, *_ = play(env)
    _, plain, *_ = play(environment())
    deepest = env.rollout.agent.portfolios["paper"].max_drawdown

    assert deepest > 0
    assert sum(plain) - sum(averse) == pytest.approx(2 * 1e4 * deepest)


def test_the_same_seed_and_actions_see_the_same():
    first, again = play(environment()), play(environment())

    assert [each.tobytes() for each in first[0]] == [each.tobytes() for each in again[0]]
    assert first[1] == again[1]


def test_an_observation_is_what_the_last_row_and_the_money_say():
    env = environment()
    env.reset()
    observation, *_ = env.step(np.array([4, 2]))
    row = env.rollout.agent.features["tiny", "BTC/USDT", "features-core"]
    at = {name: observation[env.columns.index(name)] for name in env.columns}
    observation, *_ = env.step(np.array([4, 0]))
    position = observation[env.columns.index("position")]

    assert env.columns[-4:] == OWN_COLUMNS
    assert at["book_imbalance_5"] == pytest.approx(row.unpack()[1])
    held = env.rollout.agent.portfolios["paper"].positions[0]
    worth = held.quantity * held.mark * 1e-2 * 1e-5  # of its tick and lot
    assert position == pytest.approx(worth / 1_000_000, rel=1e-4)
    assert worth > 1000
    assert observation[env.columns.index("unrealized")] < 0  # bought at the ask, marked at the bid
    assert np.isfinite(observation).all()


def test_an_episode_ends_when_its_time_is_over():
    env = TradingEnv(plan(), "tiny", "BTC/USDT", every_ms=EVERY_MS, episode_s=10)
    seen, _, terminated, truncated = play(env)

    assert (terminated, truncated) == (False, True)
    assert 15 < len(seen) <= 21


def test_says_what_it_lacks():
    with pytest.raises(ConfigError, match="needs strategy-target, which trades what the agent wants"):
        TradingEnv(plan(profile="tiny"), "tiny", "BTC/USDT")
    with pytest.raises(ConfigError, match="no feature set 'mine' that publishes rows"):
        TradingEnv(plan(), "tiny", "BTC/USDT", feature_set="mine")
    with pytest.raises(ConfigError, match="ended before account 'other' had money and a market"):
        TradingEnv(plan(), "tiny", "BTC/USDT", account="other").reset()
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"call reset\(\) before"):
        environment().step(np.array([0, 0]))


def test_a_plugin_that_fails_ends_the_episode_with_its_error():
    env = environment("tiny-source.fails_at=200")
    with pytest.raises(PluginError, match="tiny-source: events: RuntimeError: the wire was cut"):
        play(env)
