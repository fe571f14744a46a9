"""Ghost orders against the truth of single orders, and `tickerml calibrate`, which chooses by them."""

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from typer.testing import CliRunner, Result

from tickerml.exchanges.l3_book import L3Book
from tickerml.kernel import (
    NS_PER_S,
    BookDelta,
    BookSnapshot,
    ConfigError,
    FeedLost,
    Message,
    SequenceGap,
    Side,
    Trade,
    config,
)
from tickerml.kernel.testing import Market
from tickerml.plugins import calibrate
from tickerml.plugins.calibrate_ghosts import MODELS, Ghost, GhostMarket, Score

BUY, SELL = Side.BUY, Side.SELL
START = 1_700_000_000 * NS_PER_S
CAPTURES = Path(os.environ.get("TICKERML_CAPTURES", Path(__file__).parents[3] / "shared" / "data")) / "raw_ws"
SMALL = ('venues=["aurora", "borealis"]', 'symbols=["BTC/USDT"]', "first_venue_symbols=[]")
L3 = CAPTURES / "l3_independentreserve"
KUCOIN = CAPTURES / "kucoin"


def run(*words: str | Path) -> Result:
    app = typer.Typer()
    calibrate.tickerml_commands(app)
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def synthetic(seed: int = 7) -> Any:
    return calibrate.open_source([], [f"exchange-synthetic.{said}" for said in (*SMALL, f"seed={seed}")])


def measure(*words: str | Path) -> Result:
    small = [word for said in SMALL for word in ("--set", f"exchange-synthetic.{said}")]
    return run("--minutes", "0.5", "--every", "0.5", "--hold", "5", *small, *words)


# --- A ghost --------------------------------------------------------------------------------------


def ghost(**ahead: int) -> Ghost:
    return Ghost("g", BUY, 100, ahead, START)


def printed(at: int, price: int, quantity: int, aggressor: Side = SELL) -> Trade:
    return Trade(at, at, "test", "BTC/USDT", 0, price, quantity, aggressor)


def test_prints_at_its_price_first_eat_the_orders_before_it():
    one = ghost(a=3, b=2)

    one.on_trade(printed(START + 1, 100, 5), START + 1)
    assert (one.left, one.reached) == (0, 0)
    one.on_trade(printed(START + 2, 100, 1), START + 2)
    assert one.reached == START + 2


def test_a_print_through_its_price_reaches_it_and_one_of_the_other_side_never_does():
    one = ghost(a=3)

    one.on_trade(printed(START + 1, 99, 1, BUY), START + 1)
    one.on_trade(printed(START + 1, 101, 9), START + 1)
    assert one.reached == 0
    one.on_trade(printed(START + 2, 99, 1), START + 2)
    assert one.reached == START + 2


def test_orders_that_go_or_shrink_are_less_before_it_and_one_that_grows_comes_behind():
    one = ghost(a=3, b=2, c=4)

    one.on_level({"b": 2, "c": 1, "later": 50}, START + 1)
    assert one.left == 3
    one.on_level({"c": 1, "later": 50, "b": 5}, START + 2)
    assert one.left == 1


def test_a_print_that_comes_after_its_depth_is_not_counted_twice():
    early, late = ghost(a=3, b=2), ghost(a=3, b=2)

    early.on_trade(printed(START + 5, 100, 3), START + 5)
    early.on_level({"b": 2}, START + 5)
    late.on_level({"b": 2}, START + 5)
    late.on_trade(printed(START + 5, 100, 3), START + 6)

    assert (early.left, early.reached) == (late.left, late.reached) == (2, 0)


def test_the_other_sides_best_at_its_price_reaches_it():
    one, none = ghost(), ghost()

    one.on_best(101, START + 1)
    none.on_best(0, START + 1)
    assert (one.reached, none.reached) == (0, 0)
    one.on_best(100, START + 2)
    assert one.reached == START + 2


# --- Against the truth ----------------------------------------------------------------------------


def watched(seed: int, frames: int) -> list[tuple[Ghost, Any]]:
    """Return ghosts as the calibration has them, each with the synthetic market's own at its place."""
    source = synthetic(seed)
    names = "aurora", "BTC/USDT"
    market = GhostMarket(*names, [Score() for _ in MODELS], NS_PER_S // 5, 20 * NS_PER_S)
    pairs: dict[str, tuple[Ghost, Any]] = {}
    for number, (_, messages) in enumerate(source.events()):
        ours = [each for each in messages if getattr(each, "symbol", "") == names[1]]
        told = [each for each in ours if each.exchange == names[0]]
        for message in told:
            if isinstance(message, Trade):
                market.on_trade(message)
            elif isinstance(message, BookSnapshot | BookDelta):
                market.on_book(message)
        if told:
            market.settle(source.orders_at)
        for name in [name for name in market.ghosts if name not in pairs]:
            made = market.ghosts[name]
            pairs[name] = made, source.insert_ghost(*names, made.side, made.price, 1)
        if number == frames:
            return list(pairs.values())
    raise AssertionError("the market ended too early")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Ghost, Any]]:
    return watched(7, 2_000)


def test_a_ghost_is_reached_when_the_markets_own_ghost_is(pairs):
    reached = [(ours, theirs) for ours, theirs in pairs if ours.reached]

    assert len(reached) > 25
    assert [ours.reached for ours, _ in reached] == [theirs.fills[0][0] for _, theirs in reached]


def test_the_strictest_model_never_fills_before_the_truth(pairs):
    met = [(ours.met[0], ours.reached) for ours, _ in pairs if ours.met[0]]

    assert len(met) > 25
    assert all(truth and model >= truth for model, truth in met)


def test_the_calibration_of_a_market_is_the_same_every_time_and_never_too_good_when_strict():
    def measured(seed: int) -> tuple[dict[str, Any], list[Score]]:
        work = calibrate.Calibration(synthetic(seed), NS_PER_S // 2, 20 * NS_PER_S)
        for _ in work.run(18 * NS_PER_S):
            pass
        return work.choices("here"), work.scores["aurora"]

    choices, scores = measured(3)

    assert (choices, scores) == measured(3)
    assert scores[0].late >= 0
    assert scores[0].farther >= 0
    assert all(score.ghosts == scores[0].ghosts and score.filled == scores[0].filled for score in scores)
    assert choices["aurora"].version == f"2026-01-01-{choices['aurora'].data_sha256[:8]}"


class Tape:
    """A source that tells what it is given."""

    def __init__(self, *frames: list[Message]) -> None:
        self.frames = frames

    def events(self) -> Iterator[tuple[int, list[Message]]]:
        return ((messages[0].ts_recv, messages) for messages in self.frames)

    def orders_at(self, exchange: str, symbol: str, side: Side, price: int) -> dict[str, int]:
        return {"a": 4}


@pytest.mark.parametrize(
    ("doubt", "ghosts"),
    [
        (FeedLost(START + 2, "test", "gone", 0), 1),
        (SequenceGap(START + 2, "test", "BTC/USDT", 1, 3), 1),
        (SequenceGap(START + 2, "test", "ETH/USDT", 1, 3), 2),
        (FeedLost(START + 2, "other", "gone", 0), 2),
    ],
)
def test_a_gap_gives_up_every_ghost_until_the_book_is_whole(doubt, ghosts):
    market = Market()
    book = market.book(START, [(99, 4)], [(101, 4)])
    change = market.delta(START + 1, [(99, 4)])
    later, again = market.delta(START + 3, [(98, 4)]), market.book(START + 4, [(99, 4)], [(101, 4)])
    work = calibrate.Calibration(Tape([book], [change], [doubt], [later], [again]), 1, NS_PER_S)
    for _ in work.run(NS_PER_S):
        pass

    assert work.scores["test"][0].ghosts == ghosts


def test_the_errors_are_the_models_less_the_truth():
    scores = [Score() for _ in MODELS]
    market = Market()
    feed = GhostMarket("test", "BTC/USDT", scores, NS_PER_S, 10 * NS_PER_S)
    orders: dict[tuple[Side, int], dict[Any, int]] = {(BUY, 99): {"a": 10}, (SELL, 101): {"s": 10}}

    def happen(seconds: float, lots: int, price: int = 99, **now: int) -> None:
        orders[BUY, price] = now
        feed.on_book(market.delta(START + int(seconds * NS_PER_S), [(price, lots)]))
        feed.settle(lambda exchange, symbol, side, price: orders[side, price])

    feed.on_book(market.book(START, [(99, 10)], [(101, 10)]))
    feed.settle(lambda exchange, symbol, side, price: orders[side, price])  # a ghost sells at 101
    happen(1, 1, price=98, c=1)  # another buys at 99, behind a
    happen(1.1, 20, a=10, b=10)
    happen(1.2, 10, b=10)  # there is nobody before it now, or 10 lots as the strictest model has it
    happen(2, 2, price=98, c=2)
    feed.on_trade(market.trade(START + 3 * NS_PER_S, 99, 1, SELL))
    happen(3, 9, b=9)  # and a third buys at 98
    happen(20, 8, b=8)

    strictest, uniform = (calibrate.figures(scores[MODELS.index(name)]) for name in (MODELS[0], "uniform"))
    assert strictest == {
        "ghosts": 3,
        "filled": 1,
        "filled_by_model": 0,
        "fill_time_error_s": 2.667,  # 8 s late, and twice nothing
        "fill_time_bias_s": 2.667,
        "position_error": 0.1667,  # 10 of 10 lots at one look, and nothing at five
        "position_bias": 0.1667,
    }
    assert (uniform["position_bias"], uniform["fill_time_bias_s"]) == (0.0833, 2.667)


# --- The choice -----------------------------------------------------------------------------------


def scored(filled: int, *errors: tuple[int, float]) -> list[Score]:
    return [Score(ghosts=50, filled=filled, off=off, places=9, astray=astray) for off, astray in errors]


@pytest.mark.parametrize(
    ("filled", "errors", "best", "reason"),
    [
        (20, [(5, 0.1), (3, 9.0), (4, 0.0)], 1, "fill time"),
        (19, [(5, 0.1), (3, 9.0), (4, 0.0)], 2, "position"),
        (20, [(5, 0.0), (3, 0.0), (3, 0.0)], 1, "fill time"),
        (20, [(3, 0.5), (3, 0.1), (3, 0.0)], 0, "nothing"),
    ],
)
def test_the_least_error_is_chosen_and_the_stricter_of_two_as_good(filled, errors, best, reason):
    index, said = calibrate.choose(scored(filled, *errors))

    assert index == best
    assert said.startswith(reason)


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, Result]:
    out, before = tmp_path_factory.mktemp("calibrated") / "calibration.toml", structlog.get_config()
    result = measure("--out", out)
    structlog.configure(**before)  # which is only seen to for single tests
    return out, result


def test_what_is_written_can_be_put_at_the_end_of_a_plugins_toml(written, tmp_path):
    out, result = written
    ours = Path(__file__).parents[2] / "plugins.toml"
    whole = tmp_path / "plugins.toml"
    whole.write_text(ours.read_text() + "\n" + out.read_text())

    plan = config.plan(config.load(whole), "demo")

    assert result.exit_code == 0
    (simulator,) = [plugin for plugin in plan.plugins if plugin.id == "sim-fifo"]
    said = simulator.options["queue_models"]
    assert sorted(said) == ["aurora", "borealis"]
    assert all(one["model"] in MODELS and one["ghosts"] >= 20 for one in said.values())
    options = calibrate.convert.convert(
        {"queue_models": dict(said)}, calibrate.registry.load("sim-fifo").options, ""
    )
    assert options.queue_models["aurora"].data_sha256 == said["aurora"]["data_sha256"]


def test_the_table_has_every_model_of_every_exchange_and_says_which_is_chosen(written):
    out, result = written
    chosen = tomllib.loads(out.read_text())["plugin"]["sim-fifo"]["options"]["queue_models"]

    lines = result.output.splitlines()
    assert sum(line.startswith("aurora ") for line in lines) == len(MODELS)
    assert f"aurora: {chosen['aurora']['model']}, by {chosen['aurora']['chosen_by']}" in lines
    assert lines[-1] == f"{out} written: put it at the end of your plugins.toml"


def test_json_has_the_figures_of_every_model():
    said = json.loads(measure("--json").output)

    assert said["out"] is None
    aurora = said["exchanges"]["aurora"]
    assert list(aurora["models"]) == list(MODELS)
    figures = aurora["models"][aurora["chosen"]["model"]]
    assert figures.items() <= aurora["chosen"].items()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "no/such/a.toml"], "there is no directory no/such; make it first"),
        (["--minutes", "0.2", "--every", "0.1", "--out", "/"], "--out /: cannot be written: Is a directory"),
        (["no-such-file"], "cannot read no-such-file: No such file"),
        (["--set", "other.seed=3"], "the source is exchange-synthetic"),
        (["--set", "exchange-synthetic.latency_ms=3"], "calibrate sets latency_ms itself"),
        (["--set", "exchange-synthetic.nope=3"], "nope: unknown key"),
        (["--minutes", "0.02", "--every", "1"], "at least 20 ghost orders are needed, there were"),
    ],
)
def test_each_wrong_input_is_one_clear_error(words, said):
    with pytest.raises(ConfigError, match=said):
        run(*words)


# --- Recorded orders ------------------------------------------------------------------------------


def test_the_orders_at_a_price_are_the_first_in_line_first():
    book = L3Book()
    for name, price in (("a", 100), ("b", 100), ("c", 99)):
        book.add(name, BUY, price, 5)
    book.modify("a", 100, 6)

    assert list(book.orders_at(BUY, 100).items()) == [("b", 5), ("a", 6)]
    assert book.orders_at(SELL, 100) == {}


@pytest.mark.skipif(not L3.exists(), reason="needs the captures: set TICKERML_CAPTURES")
def test_a_capture_with_order_ids_is_measured():
    said = json.loads(run(*sorted(L3.glob("*.txt")), "--every", "0.1", "--hold", "20", "--json").output)

    (exchange,) = said["exchanges"]
    assert exchange == "independentreserve"
    chosen = said["exchanges"][exchange]["chosen"]
    assert chosen["ghosts"] > 50
    assert chosen["version"].startswith("2022-04-03-")
    assert chosen["model"] == "risk-averse"  # nobody traded, and every queue was one order


@pytest.mark.skipif(not KUCOIN.exists(), reason="needs the captures: set TICKERML_CAPTURES")
def test_a_capture_without_order_ids_is_refused():
    with pytest.raises(ConfigError, match="cannot calibrate: the files tell no single orders of kucoin"):
        run(*sorted(KUCOIN.glob("*.txt")))
