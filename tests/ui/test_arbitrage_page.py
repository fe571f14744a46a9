"""The page Arbitrage & Funding: what it knows, and a browser on it; the kernel is the test's."""

import time

import msgspec
import pytest

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    ArbitrageEnded,
    ArbitrageSeen,
    FundingUpdated,
    LegsSettled,
    Position,
    to_units,
)
from tickerml.kernel.testing import Market, instrument
from tickerml.ui import arbitrage
from tickerml.ui.arbitrage import ArbitrageBoard

from .fake_kernel import FakeKernel

MS = NS_PER_S // 1000
NOW = 1_700_000_000 * NS_PER_S
ATTACK = '<img src="https://evil.example/x" onerror="document.title=1">'


def seen(number=1, ts=NOW, first=NOW, buy="low", net="0.94825"):
    money = to_units("1.25"), to_units(net)
    pair = (buy, "BTC/USDT", 10_050, "high", "BTC/USDT", 10_100, "", "", 0)
    amounts = (to_units("1.5"), to_units("0.7"))
    return ArbitrageSeen(ts, f"BTC:{number}", first, "BTC", "USDT", *pair, *amounts, *money, 82.8, 62.8, 2.1)


def ended(number=1, ts=NOW, is_capturable=True):
    pair = ("low", "BTC/USDT", "high", "BTC/USDT", NOW, NOW + 321 * MS)
    best = (to_units("1.1"), 70.0, is_capturable, to_units("0.9") if is_capturable else 0)
    return ArbitrageEnded(ts, f"BTC:{number}", "BTC", "USDT", *pair, *best, "no longer worth it")


def settled(outcome="both", legs="0.8", unwinding="0", left="0"):
    amounts = [to_units(each) for each in ("1", "1", "0.8", legs, unwinding, "0.2", left, "0")]
    return LegsSettled(
        NOW, "BTC:1@2", "strategy-arbitrage", "paper", "BTC", "USDT", NOW - 250 * MS, *amounts, outcome
    )


def funding(rate=0.0011):
    rates = (round(rate * UNIT), round(0.0002 * UNIT))
    return FundingUpdated(NOW, 0, "futures", "BTC/USD-PERP", 0, 0, *rates, NOW + 3723 * NS_PER_S, 4 * 3600)


def board(*messages):
    board = ArbitrageBoard()
    for message in messages:
        board.take(message)
    return board


def cells(rows, columns):
    return [dict(zip([name for name, _ in columns], row.cells, strict=True)) for row in rows]


def test_an_open_opportunity_is_shown_as_it_was_last_seen():
    [row] = cells(
        board(seen(), seen(ts=NOW + 40 * MS, net="0.5")).opportunity_rows(), arbitrage.OPPORTUNITIES
    )

    assert row["Profit"] == "+0.50 USDT"
    assert (row["Quantity"], row["Funded"]) == ("1.5", "0.7")
    assert (row["Gross"], row["Net"], row["Theta"]) == ("82.8 bps", "62.8 bps", "2.1 bps")
    assert (row["Lifetime"], row["Could be had"]) == ("40 ms", "open")


def test_one_that_is_over_says_its_best_how_long_it_was_and_whether_it_could_be_had():
    known = board(seen(1), ended(1), seen(2), ended(2, is_capturable=False))
    rows = cells(known.opportunity_rows(), arbitrage.OPPORTUNITIES)

    assert [row["Could be had"] for row in rows] == ["no", "yes, +0.90"]
    assert {row["Lifetime"] for row in rows} == {"321 ms"}
    assert {row["Profit"] for row in rows} == {"+1.10 USDT"}
    assert known.summary() == "2 found · 2 over · 1 could be had"


def test_legs_and_leg_risk_are_apart():
    known = board(settled(), settled("unwound", "0", "-2"), settled("left", "0", "-0.5", "0.3"))
    rows = cells(known.legs_rows(), arbitrage.LEGS)

    assert known.legs_summary() == "3 pairs · legs +0.80 USDT, leg risk -2.50 USDT"
    assert [(row["Legs"], row["Leg risk"], row["Together"]) for row in rows] == [
        ("+0.00", "-0.50", "-0.50 USDT"),
        ("+0.00", "-2.00", "-2.00 USDT"),
        ("+0.80", "+0.00", "+0.80 USDT"),
    ]
    assert (rows[0]["Left"], rows[0]["Outcome"], rows[0]["Took"]) == ("0.3", "left", "250 ms")


def test_funding_is_counted_down_to_and_its_accrual_shown():
    perpetual = instrument("futures", "BTC/USD", lot="0.001")
    position = Position("futures", "BTC/USD-PERP", -500, 1, 1, 0, 0, 0, to_units("1.5"), to_units("0.25"))
    key = ("futures", "BTC/USD-PERP")

    [row] = cells(board(funding()).funding_rows(NOW, {key: position}, {key: perpetual}), arbitrage.FUNDING)

    assert (row["Rate"], row["Predicted"], row["A day"]) == ("+0.1100%", "+0.0200%", "+0.6600%")
    assert (row["Every"], row["Next payment"]) == ("4 h", "in 1:02:03")
    assert (row["Position"], row["Accrued"], row["Booked"]) == ("-0.5 BTC", "+0.25", "+1.50")
    [due] = board(funding()).funding_rows(NOW + 4000 * NS_PER_S, {}, {})
    assert due.cells[6:] == ["due", "–", "–", "–"]


@pytest.mark.parametrize(("rate", "tone"), [(0.0009, ""), (0.001, "warn"), (-0.005, "down")])
def test_a_rate_out_of_the_ordinary_is_marked(rate, tone):
    [row] = board(funding(rate)).funding_rows(NOW, {}, {})

    assert row.tones[2] == tone


def test_what_is_kept_is_bounded():
    known = board(*(seen(number) for number in range(500)), *(settled() for _ in range(500)))

    assert len(known.opportunity_rows()) == arbitrage.OPPORTUNITIES_KEPT
    assert len(known.legs_rows()) == arbitrage.SETTLED_KEPT
    assert known.summary().startswith("500 found")
    assert known.opportunity_rows()[0].id == "BTC:499"


# --- In a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel(tmp_path_factory, port):
    kernel = FakeKernel(tmp_path_factory.mktemp("home"), port)
    low = Market("low")
    kernel.publish(
        instrument("low"),
        low.book(time.time_ns(), [(1, 1)], [(2, 1)]),
        seen(1, buy=ATTACK),
        ended(1),
        settled("unwound", "0", "-2"),
        msgspec.structs.replace(funding(), next_ts=time.time_ns() + 3600 * NS_PER_S),
    )
    kernel.pulse = lambda: [low.book(time.time_ns(), [(1, 1)], [(2, 1)])]
    kernel.start_console()
    yield kernel
    kernel.close()


@pytest.mark.browser
def test_the_page_shows_all_three_tables_and_runs_nothing_that_it_shows(open_page, url):
    page = open_page()
    page.goto(f"{url}/arbitrage")

    page.get_by_text("1 found · 1 over · 1 could be had").wait_for()
    page.get_by_text("1 pair · legs +0.00 USDT, leg risk -2.00 USDT").wait_for()
    page.locator(".opportunities tbody td", has_text=ATTACK).wait_for()
    page.locator(".legs tbody td", has_text="unwound").wait_for()
    page.locator(".funding tbody td", has_text="in 0:59:").wait_for()
    assert page.locator(".funding td.warn").inner_text() == "+0.1100%"
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
