import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import (
    UNIT,
    BookStale,
    BookState,
    FeedLost,
    Liquidity,
    OrderAccepted,
    OrderCanceled,
    OrderDenied,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    PortfolioSnapshot,
    Position,
    Side,
    TimeInForce,
    TradingHalted,
    TradingResumed,
)
from tickerml.kernel.testing import Market, instrument
from tickerml.ui.state import CANDLES_KEPT, LOG_LINES_KEPT, PRINTS_KEPT, ConsoleState, Curve

S = 1_000_000_000
KEY = ("test", "BTC/USDT")


@pytest.fixture
def market():
    return Market()


@pytest.fixture
def state(market):
    state = ConsoleState()
    state.apply(instrument())
    state.apply(market.book(0, [(6_000_000, 200_000), (5_999_900, 100_000)], [(6_000_100, 100_000)]))
    return state


def submitted(order_id="o", side=Side.BUY, price=6_000_000, quantity=5_000):
    return OrderSubmitted(
        0,
        order_id,
        "s",
        "a",
        *KEY,
        side,
        OrderType.LIMIT,
        TimeInForce.GTC,
        price,
        quantity,
        12_000_100,
    )


def filled(quantity=5_000, leaves=0, order_id="o"):
    money = dict(liquidity=Liquidity.MAKER, fee=0, fee_asset="USDT", queue_ahead=0, orders_ahead=0, wait_ns=0)
    return OrderFilled(
        2 * S,
        2 * S,
        order_id,
        0,
        "s",
        "a",
        *KEY,
        Side.BUY,
        6_000_000,
        quantity,
        leaves,
        **money,
        is_toxic_predicted=False,
        arrival_mid=12_000_100,
    )


def portfolio(equity=10_000, ts=S, positions=()):
    money = dict(peak=10_000 * UNIT, opening=10_000 * UNIT, realized=0, unrealized=0, fees=0)
    return PortfolioSnapshot(
        ts,
        "a",
        "USD",
        equity * UNIT,
        **money,
        drawdown=0.0,
        max_drawdown=0.0,
        is_marked=True,
        balances=[],
        positions=list(positions),
    )


def texts(rows):
    return [" ".join(row.cells) for row in rows]


# --- The book ---------------------------------------------------------------------------------------


def test_a_ladder_is_in_whole_units_with_its_depth_summed_from_the_best(state):
    ladder = state.ladder(KEY, 10)

    assert ladder["bids"] == [
        ["60,000.00", "2.00000", "2.00000", 0.667, ""],
        ["59,999.00", "1.00000", "3.00000", 1.0, ""],
    ]
    assert ladder["asks"] == [["60,001.00", "1.00000", "1.00000", 0.333, ""]]
    assert (ladder["mid"], ladder["spread"], ladder["imbalance"]) == ("60,000.50", "1.00", "+0.50")
    assert ladder["note"] == ""


def test_our_open_orders_stand_at_their_price_until_they_are_gone(state):
    def own():
        return [row[4] for row in state.ladder(KEY, 10)["bids"]]

    state.apply(submitted())
    state.apply(OrderAccepted(0, 0, "o", *KEY, 200_000, 20))
    assert own() == ["0.05000", ""]
    state.apply(filled(quantity=2_000, leaves=3_000))
    assert own() == ["0.03000", ""]
    state.apply(OrderCanceled(0, 0, "o", *KEY, 3_000, "too old"))
    assert own() == ["", ""]


def test_an_order_on_the_other_side_is_not_marked_at_the_same_price(state):
    state.apply(submitted(side=Side.SELL))

    assert [row[4] for row in state.ladder(KEY, 10)["bids"]] == ["", ""]


def test_a_book_that_cannot_be_believed_says_why(state, market):
    state.apply(BookStale(S, *KEY, 6_000))
    assert state.ladder(KEY, 5)["note"] == "silent"

    state.apply(FeedLost(S, "test", "closed", 100))
    assert state.ladder(KEY, 5)["note"] == "waiting for a snapshot"

    state.apply(market.book(2 * S, [(1, 1)], [(2, 1)]))
    assert state.ladder(KEY, 5)["note"] == ""


def test_a_feed_that_is_lost_leaves_other_exchanges_alone(state):
    state.apply(FeedLost(S, "other", "closed", 100))

    assert state.ladder(KEY, 5)["note"] == ""


def test_a_market_nobody_described_has_an_empty_ladder():
    assert ConsoleState().ladder(KEY, 5) == {"bids": [], "asks": [], "note": "no such market yet"}


def test_a_book_from_a_checkpoint_keeps_its_state(state, market):
    state.restore_book(market.book(0, [(1, 1)], [(2, 1)]), BookState.RESYNCING)

    assert state.ladder(KEY, 5)["note"] == "waiting for a snapshot"


# --- Trades and candles -----------------------------------------------------------------------------


def test_candles_hold_five_seconds_of_trades(state, market):
    for ts, price in [(10, 6_000_000), (11, 6_000_300), (14, 5_999_000), (15, 6_000_100)]:
        state.apply(market.trade(ts * S, price, 1_000, Side.BUY))

    assert state.candle_rows(KEY) == [
        [10, 60_000.0, 59_990.0, 59_990.0, 60_003.0, pytest.approx(0.03), None, None],
        [15, 60_001.0, 60_001.0, 60_001.0, 60_001.0, pytest.approx(0.01), None, None],
    ]
    assert state.candle_rows(KEY, since=15)[0][0] == 15


def test_a_fill_of_ours_is_marked_in_its_candle_on_the_tape_and_in_the_log(state, market):
    state.apply(market.trade(2 * S, 6_000_000, 1_000, Side.SELL))
    state.apply(submitted())
    state.apply(filled())

    assert state.candle_rows(KEY)[0][6:] == [60_000.0, None]
    assert texts(state.print_rows(KEY))[-1] == "00:00:02 60,000.00 0.05000 our buy · maker"
    assert texts(state.log_rows())[-1].endswith("order.filled BUY 0.05000 BTC/USDT @ 60,000.00 test maker")


def test_only_prints_after_the_last_seen_are_given(state, market):
    state.apply(market.trade(1 * S, 6_000_000, 1_000, Side.SELL))
    (seen,) = state.print_rows(KEY)
    state.apply(market.trade(2 * S, 6_000_100, 1_000, Side.BUY))

    assert [(row.cells[1], row.tone) for row in state.print_rows(KEY, seen.id)] == [("60,001.00", "buy")]


def test_nothing_grows_without_bound(state, market):
    for number in range(CANDLES_KEPT + 500):
        state.apply(market.trade(5 * number * S, 6_000_000, 1, Side.BUY))
        state.apply(OrderDenied(0, f"o{number}", "s", "a", *KEY, "rule", "why"))
        state.apply(submitted(f"o{number}"))

    assert len(state.candle_rows(KEY)) == CANDLES_KEPT
    assert len(state.print_rows(KEY)) == PRINTS_KEPT
    assert len(state.log_rows()) == LOG_LINES_KEPT


@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=400), st.integers(min_value=4, max_value=40))
def test_a_curve_stays_small_in_order_and_ends_with_the_last_value(steps, capacity):
    curve, ts = Curve(capacity), 0.0
    for number, step in enumerate(steps):
        ts += step
        curve.add(ts, number)

    assert len(curve.points) <= capacity
    assert [point[0] for point in curve.points] == sorted({point[0] for point in curve.points})
    assert curve.points[-1] == (ts, len(steps) - 1)
    assert curve.points[0][1] == 0


# --- Money ------------------------------------------------------------------------------------------


def test_positions_are_shown_in_whole_units_with_their_entry(state):
    cost = 600 * UNIT
    state.apply(portfolio(positions=[Position(*KEY, 1_000, cost, 6_010_000, 0, UNIT, 0)]))

    (row,) = state.position_rows()
    assert row.cells == ["BTC/USDT", "test", "0.01000", "60,000.00", "60,100.00", "601.00", "+1.00", "+0.00"]
    assert row.tones[-2:] == ["up", ""]
    assert state.exposures() == [("BTC/USDT", pytest.approx(0.0601))]


def test_a_position_that_was_closed_is_not_shown(state):
    state.apply(portfolio(positions=[Position(*KEY, 0, 0, 6_010_000, UNIT, 0, 0)]))

    assert state.position_rows() == []


def test_the_first_market_to_look_at_is_where_most_is_held(state):
    state.apply(instrument("aaa"))
    assert state.main_market() == ("aaa", "BTC/USDT")

    state.apply(portfolio(positions=[Position(*KEY, 1_000, 600 * UNIT, 0, 0, 0, 0)]))
    assert state.main_market() == KEY


# --- Health -----------------------------------------------------------------------------------------


def test_silence_of_the_market_or_of_the_kernel_raises_doubt(state, market):
    assert state.doubt(100.0) == "Waiting for the kernel's first report."
    state.apply_status({}, 100.0)
    assert state.doubt(100.0) == "Waiting for market data."
    state.apply(market.trade(S, 6_000_000, 1, Side.BUY), 100.0)
    assert state.doubt(105.0) == ""

    state.apply_status({}, 106.0)
    assert state.doubt(106.0) == "No market data for 6 s: prices below are old."
    assert state.doubt(112.0) == "The kernel has not reported for 6 s: everything below is old."


def test_what_is_read_from_the_journal_is_no_sign_of_life(state, market):
    state.apply_status({}, 100.0)
    state.apply(market.trade(S, 6_000_000, 1, Side.BUY), None)

    assert state.doubt(100.0) == "Waiting for market data."


def test_a_halt_is_known_from_the_message_and_from_the_report(state):
    state.apply(TradingHalted(S, "risk-drawdown", "too deep", 3))
    assert (state.halted_by, state.halt_level) == ("risk-drawdown: too deep", 3)
    state.apply(TradingResumed(S, "console", "ok"))
    assert (state.halted_by, state.halt_level) == ("", 0)
    state.apply_status({"halted_by": "console: stop", "halt_level": 1}, 1.0)
    assert (state.halted_by, state.halt_level) == ("console: stop", 1)


def test_what_is_degraded_is_told_with_the_reason_and_since_when(state):
    assert state.sickness() == ""
    rows = [
        {"part": "trade", "reason": "1.2 s behind", "since_ns": 43_200 * S},
        {"part": "market", "reason": "no canary for 3.1 s", "since_ns": 43_201 * S},
    ]
    state.apply_status({"degraded": rows}, 1.0)

    assert state.sickness() == (
        "trade since 12:00:00 UTC: 1.2 s behind · market since 12:00:01 UTC: no canary for 3.1 s"
    )


def test_plugins_show_the_cost_of_their_host_or_what_is_wrong(state):
    host = {"host": "trade", "state": "ready", "restarts": 2, "lag": 1_200, "rss_mb": 41.4, "reason": ""}
    plugins = [
        {"id": "a", "kind": "risk_rule", "host": "trade", "state": "active", "reason": ""},
        {"id": "b", "kind": "strategy", "host": "trade", "state": "failed", "reason": "build: ValueError"},
        {
            "id": "c",
            "kind": "store",
            "host": "trade",
            "state": "blocked",
            "reason": "disabled",
            "enabled": False,
        },
    ]
    state.apply_status({"hosts": [host], "plugins": plugins}, 0.0)

    assert [(row["detail"], row["is_on"]) for row in state.plugin_rows()] == [
        ("risk rule · lag 1,200 · 41 MB · restarts 2", True),
        ("build: ValueError", True),
        ("store", False),
    ]


# --- Log --------------------------------------------------------------------------------------------


def log_line(**facts):
    return msgspec.json.encode({"timestamp": "2026-11-22T08:49:09.1Z", "host": "trade", **facts})


def test_a_log_line_is_its_event_and_its_facts(state):
    state.apply_log(log_line(event="feed.lost", level="warning", plugin="x", reason="closed"))
    state.apply_log(log_line(event="host.started", level="info"))

    rows = state.log_rows()[-1:]
    assert texts(rows) == ["08:49:09 INFO host.started host=trade"]


def test_a_traceback_is_cut_to_its_last_line(state):
    state.apply_log(log_line(event="x.failed", level="error", exception="Traceback\n  File\nValueError: no"))

    (row,) = state.log_rows()
    assert (row.cells[1], row.tone) == ("ERROR", "error")
    assert row.cells[2] == "x.failed host=trade error=ValueError: no"


@given(st.binary(max_size=2_000))
def test_any_bytes_a_library_prints_are_one_bounded_line(line):
    state = ConsoleState()

    state.apply_log(line)

    assert all(len(row.cells[2]) <= 400 for row in state.log_rows())


def test_a_denial_is_a_warning_with_the_rule_that_made_it(state):
    state.apply(OrderDenied(S, "o", "s", "a", *KEY, "risk-limits", "too large"))

    (row,) = state.log_rows()
    assert (row.cells[1], row.tone) == ("WARN", "warning")
    assert "rule=risk-limits reason=too large" in row.cells[2]
