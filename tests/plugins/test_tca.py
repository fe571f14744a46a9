"""`tickerml tca`: what a run's orders became and cost, and whether its fills can be believed."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.kernel.recorded import ODD_PLUGINS, LiveRun, plan, write
from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    ConfigError,
    Liquidity,
    MarkoutMeasured,
    Message,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderReplaced,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
)
from tickerml.plugins import tca
from tickerml.plugins.tca_report import Analysis

AT = ("test", "BTC/USDT")
S = NS_PER_S


def order(
    name: str,
    ahead: int = 0,
    quantity: int = 10,
    entry_ms: int = 50,
    back_ms: int = 70,
    tif: TimeInForce = TimeInForce.GTC,
) -> list[Message]:
    kinds = (Side.BUY, OrderType.LIMIT, tif, 1_000, quantity, 2_002)
    arrived = S + entry_ms * NS_PER_MS
    return [
        OrderSubmitted(S, name, "s", "paper", *AT, *kinds),
        OrderAccepted(arrived + back_ms * NS_PER_MS, arrived, name, *AT, 7 * ahead, ahead),
    ]


def fill(name: str, quantity: int = 10, leaves: int = 0, **changed: Any) -> OrderFilled:
    """A buy at 1,000 in a book of 1,000 and 1,001, whose half spread is 5 bps of the price."""
    number, side = changed.pop("fill", 1), changed.pop("side", Side.BUY)
    price = changed.pop("price", 1_000)
    liquidity = changed.pop("liquidity", Liquidity.MAKER)
    is_toxic = changed.pop("toxic", False)
    head = (2 * S, 2 * S, name, number, "s", "paper", *AT, side, price, quantity, leaves, liquidity)
    book = {"fill_mid": 2_001, "fill_spread": 1} | changed
    return OrderFilled(*head, 0, "USDT", 0, 0, 0, is_toxic, 2_002, **book)


def markout(name: str, bps: float, horizon_s: int = 10, number: int = 1) -> MarkoutMeasured:
    return MarkoutMeasured(9 * S, name, number, *AT, Liquidity.MAKER, horizon_s * S, bps)


def canceled(name: str, leaves: int = 10) -> OrderCanceled:
    return OrderCanceled(3 * S, 3 * S, name, *AT, leaves, "asked")


def report(*messages: Message, toxic_bps: float | None = None) -> dict[str, Any]:
    analysis = Analysis(toxic_bps)
    for message in messages:
        analysis.add(message)
    return analysis.report()


# --- Orders ---------------------------------------------------------------------------------------


def test_fill_rates_fall_apart_by_where_an_order_started():
    told: list[Message] = []
    for number in range(20):  # the first half of them fills, and one of the others by half
        told += order(f"o{number}", ahead=number)
        told.append(fill(f"o{number}") if number < 10 else canceled(f"o{number}"))
    told.insert(-1, fill("o19", 5, 5))

    rows = report(*told)["fill_rate"]

    assert [row["decile"] for row in rows] == list(range(1, 11))
    assert [row["orders_ahead"] for row in rows[:2]] == [[0, 1], [2, 3]]
    assert [row["filled"] for row in rows] == [1.0] * 5 + [0.0] * 5
    assert [row["quantity_filled"] for row in rows[4:]] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.25]


def test_orders_that_started_alike_stand_in_one_row():
    told = [each for n in range(30) for each in (*order(f"o{n}", ahead=n // 24), canceled(f"o{n}"))]

    assert [(row["decile"], row["orders"]) for row in report(*told)["fill_rate"]] == [(1, 24), (9, 6)]


def test_only_orders_that_rested_and_are_over_have_a_fill_rate():
    taker = [*order("taker"), fill("taker", liquidity=Liquidity.TAKER)]
    ioc = [*order("ioc", tif=TimeInForce.IOC), canceled("ioc")]
    refused = [order("refused")[0], OrderRejected(2 * S, 2 * S, "refused", *AT, "no")]
    told = report(*order("open"), *taker, *ioc, *refused, *order("over"), canceled("over"))

    assert (told["orders"], told["rejected"], told["fills"]) == (5, 1, 1)
    assert [row["orders"] for row in told["fill_rate"]] == [1]


def test_an_order_made_smaller_is_whole_when_that_is_filled():
    smaller = OrderReplaced(2 * S, 2 * S, "a", *AT, 1_000, 4)
    (row,) = report(*order("a"), smaller, fill("a", 4))["fill_rate"]

    assert (row["filled"], row["quantity_filled"]) == (1.0, 1.0)


def test_latencies_are_told_by_exchange_and_way():
    told = [each for n in range(1, 21) for each in order(f"o{n}", entry_ms=10 * n, back_ms=7)]
    entry, response = report(*told)["latency"]

    assert (entry["exchange"], entry["way"], entry["orders"]) == ("test", "entry", 20)
    assert (entry["p50_ms"], entry["p95_ms"], entry["max_ms"]) == (100, 190, 200)
    assert [(bucket["from_ms"], bucket["orders"]) for bucket in entry["histogram"]] == [
        (10, 1),
        (20, 3),
        (50, 5),
        (100, 10),
        (200, 1),
    ]
    assert (response["way"], response["max_ms"]) == ("response", 7)
    assert response["histogram"] == [{"from_ms": 5, "orders": 20}]


# --- Fills ----------------------------------------------------------------------------------------


def scored(toxic_bps: float | None = None) -> dict[str, Any]:
    """Two hits, one false alarm and three misses at half a spread of 5 bps, and one good fill."""
    outcomes = [(True, -6), (True, -9), (True, -4), (False, -6), (False, -7), (False, -50), (False, 3)]
    told: list[Message] = []
    for number, (is_toxic, bps) in enumerate(outcomes):
        told += [fill(f"o{number}", toxic=is_toxic), markout(f"o{number}", bps)]
    taken = [fill("t", liquidity=Liquidity.TAKER), markout("t", -99), markout("nobody's", -99)]
    return report(*told, *taken, toxic_bps=toxic_bps)


def test_the_prediction_of_toxic_fills_is_scored_by_symbol_and_horizon():
    (row,) = scored()["toxic"]

    assert (row["exchange"], row["symbol"], row["horizon_s"]) == ("test", "BTC/USDT", 10)
    assert (row["fills"], row["predicted"], row["toxic"], row["both"]) == (7, 3, 5, 2)
    assert (row["precision"], row["recall"]) == (2 / 3, 2 / 5)


@pytest.mark.parametrize(("limit", "toxic", "precision"), [(3.9, 6, 1.0), (10, 1, 0.0), (60, 0, 0.0)])
def test_what_counts_as_toxic_can_be_said(limit, toxic, precision):
    (row,) = scored(limit)["toxic"]

    assert (row["toxic"], row["precision"]) == (toxic, precision)
    assert row["recall"] == (None if not toxic else row["both"] / toxic)


def test_markouts_are_told_by_liquidity_prediction_and_horizon():
    told = [fill("a"), fill("b", toxic=True), fill("c", liquidity=Liquidity.TAKER)]
    told += [markout(name, bps, horizon) for name, bps, horizon in [("a", 1, 1), ("a", 2, 60), ("b", -3, 1)]]
    rows = report(*told, markout("c", 4, 1))["markouts"]

    assert [tuple(row.values()) for row in rows] == [
        ("maker", False, 1, 1, 1, 1),
        ("maker", False, 60, 1, 2, 2),
        ("maker", True, 1, 1, -3, -3),
        ("taker", False, 1, 1, 4, 4),
    ]


@pytest.mark.parametrize("side", [Side.BUY, Side.SELL])
def test_slippage_and_spreads_are_costs_to_us(side):
    price = 1_000.5 + side * 0.5  # what it takes: the ask of a buyer
    taken = fill("a", side=side, price=int(price), liquidity=Liquidity.TAKER)
    told = report(taken, markout("a", -20.0, 1))

    (slippage,), (spread,) = told["slippage"], told["spreads"]
    assert slippage["mean_bps"] == pytest.approx(side * (price - 1_001) / 1_001 * 1e4)
    assert spread["effective_bps"] == pytest.approx(2 * 0.5 / 1_000.5 * 1e4)
    later = price * (1 - side * 20e-4)  # the mid a second later
    assert spread["realized_1s_bps"] == pytest.approx(2 * side * (price - later) / 1_000.5 * 1e4)


def test_fills_deep_in_the_book_are_told_from_those_at_its_edge():
    at, behind, deep = fill("a"), fill("b", price=999), fill("c", price=998)
    above = fill("d", side=Side.SELL, price=1_003)
    passive = report(at, behind, deep, above, fill("e", liquidity=Liquidity.TAKER))["passive_within_a_tick"]

    assert passive == {"fills": 4, "within": 2, "share": 0.5}


# --- Too good to be true --------------------------------------------------------------------------


def test_a_run_whose_passive_fills_gain_is_too_optimistic():
    good = report(fill("a"), fill("b"), markout("a", 3), markout("b", -1))["too_optimistic"]
    bad = report(fill("a"), fill("b"), markout("a", -3), markout("b", 1))["too_optimistic"]

    assert (good["flag"], good["mean_markout_bps"], good["passive_fills"]) == (True, 1, 2)
    assert good["standard_error_bps"] == pytest.approx(2)
    assert bad["flag"] is False


def test_without_markouts_nothing_is_claimed():
    told = report(fill("a"), markout("a", 3, horizon_s=1))["too_optimistic"]

    assert (told["flag"], told["passive_fills"], told["standard_error_bps"]) == (None, 0, None)


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run: five buys and sells, each behind 4,000,000 lots, with a spread of 2 ticks at 5,000,000."""
    sys.path.insert(0, str(ODD_PLUGINS))
    try:
        home = tmp_path_factory.mktemp("home")
        write(home / "runs" / "tiny" / "0001", LiveRun(plan()).run())
    finally:
        sys.path.remove(str(ODD_PLUGINS))
    return home


def run(*words: str | Path) -> Result:
    app = typer.Typer()
    tca.tickerml_commands(app)
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_analyses_the_run_in_the_journal(home):
    told = json.loads(run("--home", home, "--json").output)

    assert told["run"] == str(home / "runs" / "tiny" / "0001")
    assert (told["orders"], told["rejected"], told["fills"]) == (5, 0, 5)
    (rate,) = told["fill_rate"]
    assert (rate["orders_ahead"], rate["orders"], rate["filled"]) == ([4_000_000] * 2, 5, 1.0)
    second, ten = told["toxic"]  # a tick below the mid and after a move of 9: three lose, two do not
    assert (second["fills"], second["toxic"], second["precision"], second["recall"]) == (5, 3, 0.6, 1.0)
    assert (ten["fills"], ten["toxic"], ten["precision"]) == (3, 2, 2 / 3)
    (spread,) = told["spreads"]
    assert spread["effective_bps"] == pytest.approx(-2 * 1 / 5_000_005 * 1e4, rel=1e-5)
    assert told["passive_within_a_tick"] == {"fills": 5, "within": 5, "share": 1.0}
    verdict = told["too_optimistic"]
    assert verdict["mean_markout_bps"] == pytest.approx((1 - 9 - 9) / 3 / 5_000_005 * 1e4, rel=1e-5)
    assert verdict["flag"] is False


def test_people_get_tables_a_histogram_and_a_verdict(home):
    text = run("--home", home).output

    assert "5 orders, 0 rejected, 5 fills" in text
    assert "4,000,000 to 4,000,000" in text
    assert "60.0%" in text
    assert "tiny entry\n" in text
    assert "####" in text
    assert "100.0% of 5 passive fills lay within a tick of the best" in text
    assert "believable: 3 passive fills, 10 s later: -0.01 bps" in text


def test_a_limit_given_counts_instead_of_half_the_spread(home):
    told = json.loads(run("--home", home, "--toxic-bps", "1", "--json").output)

    assert [row["toxic"] for row in told["toxic"]] == [0, 0]


def test_a_run_that_is_too_good_says_so_and_one_without_fills_has_little_to_say(capsys):
    tca._print({"run": "here", **report(fill("a"), markout("a", 3))})
    tca._print({"run": "there", **report()})

    shown = capsys.readouterr().out
    assert "TOO OPTIMISTIC: 1 passive fill, 10 s later: +3.00 bps on average" in shown
    assert shown.endswith("no mark-out of a passive fill at 10 s: too early to say how good they are\n")


def test_says_what_is_wrong_with_what_was_named(home, tmp_path):
    with pytest.raises(ConfigError, match="there is no run in"):
        run("--home", tmp_path)
    with pytest.raises(ConfigError, match="there is no journal at"):
        run("--run", tmp_path)
    assert run("--home", home, "--toxic-bps", "-1").exit_code == 2
