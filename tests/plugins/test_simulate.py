"""`tickerml simulate`: the files as they are documented, by every profile's rules."""

from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tickerml.kernel import ConfigError, OrderType, Side, TimeInForce
from tickerml.plugins import simulate as plugin
from tickerml.plugins.queue_models import queue_model
from tickerml.plugins.simulate_files import EVENTS, NUMBERED, ORDERS, Grid, decimal_of
from tickerml.plugins.simulate_run import run as play
from tickerml.plugins.simulate_venues import PROFILES, Row, Wish, open_venue

BOOK = ["1,1,depth,bid,99,10", "1,1,depth,bid,98,20", "1,1,depth,ask,101,10", "1,1,depth,ask,102,20"]
MS = 10**6


class Desk:
    """Files in a folder, and what the command makes of them; latencies are 5 and 7 ns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, events: list[str], orders: list[str], header: tuple[str, ...]) -> None:
        (self.folder / "e.csv").write_text("\n".join([",".join(header), *events, ""]))
        (self.folder / "o.csv").write_text("\n".join([",".join(ORDERS), *orders, ""]))

    def run(
        self, events: list[str], orders: list[str], *options: str, header: tuple[str, ...] = EVENTS
    ) -> tuple[list[str], list[str]]:
        """Return the lines of fills and of status without their headers."""
        self.write(events, orders, header)
        app = typer.Typer()
        plugin.tickerml_commands(app)
        words = ["--events", "e.csv", "--orders", "o.csv", "--out", "f.csv", "--status", "s.csv"]
        words = [str(self.folder / word) if word.endswith(".csv") else word for word in words]
        words += ["--entry-ms", "0.000005", "--response-ms", "0.000007", *options]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return tuple((self.folder / name).read_text().splitlines()[1:] for name in ("f.csv", "s.csv"))  # type: ignore[return-value]

    def refusal(
        self, events: list[str], orders: list[str], *options: str, header: tuple[str, ...] = EVENTS
    ) -> str:
        """Return why the command refuses its input."""
        with pytest.raises(ConfigError) as error:
            self.run(events, orders, *options, header=header)
        assert not (self.folder / "f.csv").exists()
        return str(error.value)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def buy(order_id: str, ts: int, price: str, qty: str, tif: str = "GTC", cancel: str = "") -> str:
    return f"{order_id},{ts},buy,{price},{qty},LIMIT,{tif},{cancel}"


def test_a_taker_walks_the_book_when_it_arrives_and_we_learn_of_it_later(desk: Desk) -> None:
    fills, status = desk.run(BOOK, [buy("a", 10, "102", "15")], "--taker", "0.0005")

    assert fills == ["a,1,15,22,101,10,taker,0.505,5", "a,2,15,22,102,5,taker,0.255,0"]
    assert status == ["a,filled,15,0,15"]


def test_a_maker_waits_for_its_queue_and_is_filled_when_the_trade_prints(desk: Desk) -> None:
    events = [*BOOK, "20,21,trade,sell,99,8", "30,31,trade,sell,99,5", "40,41,trade,sell,99,9"]

    fills, status = desk.run(events, [buy("a", 10, "99", "4")], "--maker", "0.0001")

    assert fills == ["a,1,30,37,99,3,maker,0.0297,1", "a,2,40,47,99,1,maker,0.0099,0"]
    assert status == ["a,filled,4,0,40"]


def test_the_market_comes_first_at_equal_times_and_orders_before_cancels(desk: Desk) -> None:
    events = [*BOOK, "15,15,depth,ask,101,0", "25,25,trade,sell,99,14"]
    orders = [
        buy("late", 10, "101", "1", "IOC"),
        buy("a", 10, "99", "9", cancel="20"),
        buy("b", 20, "99", "1"),
    ]

    fills, status = desk.run(events, orders)

    assert fills[0].startswith("a,1,25,32,99,4,maker")
    assert status == ["late,expired,0,1,15", "a,canceled,4,5,25", "b,open,0,1,25"]


def test_single_orders_say_who_left_the_queue(desk: Desk) -> None:
    behind = [*BOOK, "1,1,order,bid,99,10,1", "20,20,order,bid,99,4,2", "20,20,depth,bid,99,14,"]
    leaves = ["30,30,order,bid,99,-6,1", "30,30,depth,bid,99,8,", "40,40,trade,sell,99,5,"]
    lines = [line if line.count(",") == 6 else f"{line}," for line in behind + leaves]

    exact, _ = desk.run(lines, [buy("a", 2, "99", "3")], "--queue", "l3-exact", header=NUMBERED)
    guessed, _ = desk.run(lines, [buy("a", 2, "99", "3")], header=NUMBERED)

    assert [line.split(",")[5] for line in exact] == ["1"]
    assert guessed == []


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("1,1,order,bid,99,1,", "row 1, order: must be a number from 0 within 64 bits, was ''"),
        ("1,1,order,buy,99,1,1", "row 1, side: must be one of bid, ask, was 'buy'"),
        ("1,1,single,bid,99,1,1", "row 1, kind: must be one of depth, trade, clear, order, was 'single'"),
    ],
)
def test_refuses_single_orders_that_break_a_rule(desk: Desk, row: str, why: str) -> None:
    assert why in desk.refusal([row], [], header=NUMBERED)


def test_rows_of_one_time_are_one_book_and_a_clear_starts_it_anew(desk: Desk) -> None:
    events = [
        *BOOK,
        "20,20,clear,both,,",
        "20,20,depth,bid,99,4",
        "20,20,depth,ask,101,1",
        "30,30,trade,sell,99,5",
    ]

    fills, _ = desk.run(events, [buy("a", 10, "99", "9")])

    assert [fill.split(",")[:6] for fill in fills] == [["a", "1", "30", "37", "99", "1"]]


def test_orders_that_an_exchange_refuses_are_rejected_and_say_why(desk: Desk) -> None:
    orders = [buy("off", 10, "99.5", "1"), buy("takes", 10, "101", "1", "GTX"), "m,10,buy,,1,MARKET,IOC,"]

    _, status = desk.run(BOOK, orders, "--tick", "1", "--lot", "1")

    assert [line.split(",")[:2] for line in status] == [
        ["off", "rejected"],
        ["takes", "rejected"],
        ["m", "filled"],
    ]


def test_steps_are_the_decimals_of_the_files_where_none_are_given(desk: Desk) -> None:
    events = ["1,1,depth,bid,0.0000123,1.5", "1,1,depth,ask,0.0000124,2"]

    fills, _ = desk.run(events, [buy("a", 10, "0.0000124", "0.25")], "--taker", "0")

    assert fills == ["a,1,15,22,0.0000124,0.25,taker,0,0"]


def test_a_rebate_is_rounded_down_and_a_fee_up(desk: Desk) -> None:
    events = ["1,1,depth,bid,0.000001,5", "1,1,depth,ask,0.000002,5", "20,20,trade,sell,0.000001,9"]
    orders = [buy("a", 10, "0.000001", "0.3"), "b,10,buy,,0.3,MARKET,IOC,"]

    fills, _ = desk.run(events, orders, "--maker", "-0.000007", "--taker", "0.000007")

    assert [fill.split(",")[7] for fill in fills] == ["0.000000000005", "-0.000000000002"]


@pytest.mark.parametrize(
    ("profile", "filled"),
    [
        ("default", ["a,1,30,37,99,2,maker"]),
        ("hftbacktest", ["a,1,30,37,99,5,maker"]),
        ("touch", ["a,1,40,47,99,5,maker"]),
        ("cross", ["a,1,30,37,99,5,maker"]),
    ],
)
def test_profiles_differ_in_what_a_print_through_our_price_gives(
    desk: Desk, profile: str, filled: list[str]
) -> None:
    events = [*BOOK, "30,30,trade,sell,98,2", "39,39,depth,bid,99,0", "40,40,depth,ask,99,1"]

    fills, _ = desk.run(events, [buy("a", 10, "99", "5")], "--profile", profile)

    assert [fill.rsplit(",", 2)[0] for fill in fills][:1] == filled


def test_hftbacktest_fills_what_is_not_there_at_the_limit(desk: Desk) -> None:
    fills, _ = desk.run(BOOK, [buy("a", 10, "101", "25")], "--profile", "hftbacktest", "--taker", "0")

    assert fills == ["a,1,15,22,101,25,taker,0,0"]


def test_a_touch_is_no_cross(desk: Desk) -> None:
    events = [*BOOK, "20,20,depth,bid,99,0", "20,20,depth,ask,99,1", "30,30,depth,ask,98,1"]

    touched, _ = desk.run(events, [buy("a", 10, "99", "5")], "--profile", "touch")
    crossed, _ = desk.run(events, [buy("a", 10, "99", "5")], "--profile", "cross")

    assert [fills[0].split(",")[2] for fills in (touched, crossed)] == ["20", "30"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("x,1,depth,bid,99,1", "row 1, ts_exchange: must be whole ns from 0 within 64 bits, was 'x'"),
        ("1,-1,depth,bid,99,1", "row 1, ts_local: must be whole ns"),
        ("1,1,quote,bid,99,1", "row 1, kind: must be one of depth, trade, clear, was 'quote'"),
        ("1,1,depth,buy,99,1", "row 1, side: must be one of bid, ask, was 'buy'"),
        ("1,1,trade,bid,99,1", "row 1, side: must be one of sell, buy, was 'bid'"),
        ("1,1,clear,all,,", "row 1, side: must be one of bid, ask, both, was 'all'"),
        ("1,1,depth,bid,99.005,1", "row 1, price: must be a multiple of 0.01, was '99.005'"),
        ("1,1,depth,bid,nan,1", "row 1, price: must be a decimal number"),
        ("1,1,depth,bid,-1,1", "row 1, price: must be from 1 to below"),
        ("1,1,depth,bid,1,-1", "row 1, qty: must be from 0 to below"),
        ("1,1,trade,sell,1,0", "row 1, qty: must be from 1 to below"),
        ("1,1,depth,bid,1", "row 1: must have 6 columns, had 5"),
    ],
)
def test_refuses_events_that_break_a_rule_and_says_which(desk: Desk, row: str, why: str) -> None:
    assert why in desk.refusal([row], [], "--tick", "0.01", "--lot", "0.001")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (",1,buy,99,1,LIMIT,GTC,", "row 1, order_id: must be there"),
        ("a,1,bid,99,1,LIMIT,GTC,", "row 1, side: must be one of buy, sell, was 'bid'"),
        ("a,1,buy,,1,LIMIT,GTC,", "row 1, price: must be a decimal number, was ''"),
        ("a,1,buy,0,1,LIMIT,GTC,", "row 1, price: must be above 0"),
        ("a,1,buy,99,0,LIMIT,GTC,", "row 1, qty: must be above 0"),
        ("a,1,buy,99,1,STOP,GTC,", "row 1, type: must be one of LIMIT, MARKET, was 'STOP'"),
        ("a,1,buy,99,1,LIMIT,DAY,", "row 1, tif: must be one of GTC, GTX, IOC, FOK, was 'DAY'"),
        ("a,5,buy,99,1,LIMIT,GTC,4", "row 1, cancel_ts: must be blank or at least ts, 5, was '4'"),
    ],
)
def test_refuses_orders_that_break_a_rule_and_says_which(desk: Desk, row: str, why: str) -> None:
    assert why in desk.refusal(BOOK, [row], "--tick", "0.01", "--lot", "0.001")


def test_refuses_times_that_fall_ids_used_twice_and_other_headers(desk: Desk) -> None:
    falls = desk.refusal([BOOK[0], "0,0,depth,bid,99,1"], [])
    twice = desk.refusal(BOOK, [buy("a", 1, "99", "1"), buy("a", 2, "99", "1")])

    assert "row 2, ts_exchange: must be at least 1, that of the row before, was '0'" in falls
    assert "row 2, order_id: must be there and not yet used, was 'a'" in twice
    (desk.folder / "e.csv").write_text("ts,price\n")
    with pytest.raises(ValueError, match="the first line must be ts_exchange,ts_local"):
        plugin.read_events(desk.folder / "e.csv", Grid(*[decimal_of("1", "--tick")] * 4))


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (("--profile", "x"), "--profile must be one of default, hftbacktest, touch, cross, was 'x'"),
        (("--queue", "fifo"), "queue model must be"),
        (("--entry-ms", "-1"), "--entry-ms must be at least 0"),
        (("--response-ms", "0.0000001"), "--response-ms must be whole nanoseconds"),
        (("--tick", "0"), "--tick must be above 0"),
        (("--lot", "inf"), "--lot must be a decimal number"),
        (("--maker", "0.0000001"), "--maker must be a multiple of 0.000001"),
    ],
)
def test_refuses_options_that_break_a_rule(desk: Desk, option: tuple[str, str], why: str) -> None:
    assert why in desk.refusal(BOOK, [], *option)


# --- Whatever the market does ---------------------------------------------------------------------

rows = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["depth", "depth", "depth", "trade", "clear"]),
        st.integers(0, 1),
        st.integers(95, 105),
        st.integers(0, 9),
    ),
    max_size=40,
)
wishes = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.sampled_from(Side),
        st.integers(95, 105),
        st.integers(1, 20),
        st.sampled_from(OrderType),
        st.sampled_from(TimeInForce),
        st.none() | st.integers(0, 30),
    ),
    max_size=8,
)


@given(
    rows,
    wishes,
    st.sampled_from(list(PROFILES)),
    st.sampled_from(["risk-averse", "log", "power:3", "uniform"]),
)
def test_every_profile_gives_each_order_one_legal_life(
    market: list[Any], orders: list[Any], profile: str, queue: str
) -> None:
    ts, events = 0, []
    for gap, kind, side, price, quantity in market:
        ts += gap
        events.append(Row(ts, kind, (side,), price, quantity + (kind == "trade")))
    sent = [
        Wish(
            str(i),
            at,
            side,
            price * (kind is OrderType.LIMIT),
            quantity,
            kind,
            tif,
            None if lasts is None else at + lasts,
        )
        for i, (at, side, price, quantity, kind, tif, lasts) in enumerate(orders)
    ]
    grid = Grid(*(decimal_of(step, "") for step in ("1", "1", "0", "0")))

    fills, ends = play(open_venue(profile, queue_model(queue), grid.instrument(), (1, 1)), events, sent, 5)

    assert [fill.ts for fill in fills] == sorted(fill.ts for fill in fills)
    for wish, end in zip(sent, ends, strict=True):
        own = [fill for fill in fills if fill.order_id == wish.order_id]
        assert end.filled == sum(fill.quantity for fill in own)
        assert end.filled + end.leaves == wish.quantity
        assert (end.status == "filled") is (end.leaves == 0)
        assert [fill.seq for fill in own] == list(range(1, len(own) + 1))
        assert all(fill.quantity > 0 and fill.ts >= wish.ts + 5 for fill in own)
        if wish.price:
            assert all(wish.side * (wish.price - fill.price) >= 0 for fill in own)
